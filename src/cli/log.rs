//! Log events on standard error.
//!
//! Owns their form and which of them are shown. `LIFEBOAT_LOG` takes the filters of `tracing` (`lifeboat::backup=debug`) and wins
//! over `-q` and `-v`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;

use super::screen::Screen;

const VARIABLE: &str = "LIFEBOAT_LOG";

fn filter(screen: &Screen, usual: &str) -> EnvFilter {
    let level = match (screen.quiet, screen.verbose) {
        (true, _) => "error",
        (false, 0) => usual,
        (false, 1) => "lifeboat=info,warn",
        (false, _) => "lifeboat=debug,info",
    };
    let wanted = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let parsed = wanted.and_then(|text| match EnvFilter::try_new(&text) {
        Ok(filter) => Some(filter),
        Err(error) => {
            screen.warn(format!("{VARIABLE} is not used: {error}"));
            None
        }
    });
    parsed.unwrap_or_else(|| EnvFilter::new(level))
}

fn builder() -> SubscriberBuilder {
    tracing_subscriber::fmt()
}

/// For a command: what happens is told by the command itself, so only warnings are events worth a line. With `--json`, an object in it.
pub fn of_a_command(screen: &Screen) {
    let events = builder().with_writer(std::io::stderr).with_ansi(screen.color).without_time().with_target(false);
    // Somebody else's subscriber, in a test, is as good.
    let events = events.with_env_filter(filter(screen, "lifeboat=warn,error"));
    let _ = if screen.json { events.json().try_init() } else { events.try_init() };
}

/// For the daemon: a run's life and everything above it, with `--json` one object in a line.
pub fn of_the_daemon(screen: &Screen) {
    let events = builder()
        .with_writer(std::io::stderr)
        .with_ansi(screen.color)
        .with_target(false)
        .with_env_filter(filter(screen, "lifeboat=info,warn"));
    let _ = if screen.json { events.json().try_init() } else { events.try_init() };
}
