//! `lifeboat status`: could we recover now? One screen, as the daemon judges it.

use serde_json::Value;

use super::Context;
use super::client::{Client, Daemon};
use super::exit::Exit;
use super::failure::Result;
use super::screen;
use super::text::{Table, local_of_text};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    daemon: Daemon,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let screen = &context.screen;
    let status = Client::new(context, &arguments.daemon)?.get("/v1/status")?.body;
    if screen.json {
        screen.document(&status)?;
        return Ok(Exit::Done);
    }
    screen.line(text(&status["recoverable"]["sentence"]))?;
    let mut table = Table::new(&["Policy", "State", "Last good point", "Last restored", "Next run", "Why"]);
    for policy in list(&status["policies"]) {
        table.row(vec![
            text(&policy["id"]),
            text(&policy["state"]),
            or(local_of_text(&policy["last_good_point"]["at"]), "none"),
            or(local_of_text(&policy["last_restored_at"]), "never"),
            local_of_text(&policy["next_run_at"]),
            text(&policy["reason"]),
        ]);
    }
    if !list(&status["policies"]).is_empty() {
        screen.line("")?;
        for line in table.lines(screen::output_width()) {
            screen.line(line)?;
        }
    }
    for run in list(&status["runs"]) {
        screen.line(format!(
            "under way: {} of {} ({}), {}",
            text(&run["kind"]),
            text(&run["policy"]),
            text(&run["state"]),
            text(&run["id"])
        ))?;
    }
    let daemon = &status["daemon"];
    for (flag, sentence) in
        [("alive", "the daemon's schedule stands still"), ("recording", "the daemon cannot write to its catalog")]
    {
        if daemon[flag] == Value::Bool(false) {
            screen.warn(sentence);
        }
    }
    if !status["config"]["rejected"].is_null() {
        screen.warn("the daemon runs on an older configuration: the new one has errors (`lifeboat config check`)");
    }
    Ok(Exit::Done)
}

/// The text of a word in an answer, without what a terminal would obey.
pub fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => crate::names::escape(text.as_bytes()),
        other => other.to_string(),
    }
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn or(text: String, other: &str) -> String {
    if text.is_empty() { other.to_owned() } else { text }
}
