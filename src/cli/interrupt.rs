//! Ctrl-C, once and twice.
//!
//! Owns the signals of a command that takes long. The first asks it to stop, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::screen;

/// From now on SIGINT and SIGTERM set `cancel`; another one ends the process with 130.
pub fn watch(cancel: Arc<AtomicBool>) -> Result<()> {
    let failed = |cause: std::io::Error| Failure::new(Exit::Failed, NoSignals(cause));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?)
    };
    let wait = move || {
        runtime.block_on(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if cancel.swap(true, Ordering::SeqCst) {
                    screen::tell_of_signal("ended at once");
                    std::process::exit(Exit::Interrupted as i32);
                }
                screen::tell_of_signal("stopping; press Ctrl-C again to end at once");
            }
        });
    };
    std::thread::Builder::new().name("lifeboat-signals".to_owned()).spawn(wait).map_err(failed)?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("signals cannot be received")]
struct NoSignals(#[source] std::io::Error);
