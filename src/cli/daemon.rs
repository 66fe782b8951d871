//! `lifeboat daemon`: the service, until it is told to stop.

use std::sync::Arc;

use super::Context;
use super::config::{self, Directory};
use super::exit::{Exit, ExitOf};
use super::failure::{Failure, Result};
use crate::clock::SystemClock;
use crate::daemon::journeys::Journeys;
use crate::daemon::{self, DaemonError, DaemonOptions};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: Directory,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let options = DaemonOptions { config_dir: arguments.config.directory.clone(), on_ready: None };
    daemon::run(options, Arc::new(Journeys), Arc::new(SystemClock)).map_err(|error| match error {
        DaemonError::Config(problems) => config::invalid(context, &problems),
        DaemonError::Place(_) | DaemonError::NotLoopback(_) => Failure::new(Exit::Config, error),
        DaemonError::Directory { ref cause, .. } => Failure::new(cause.exit(), error),
        DaemonError::Listen { ref cause, .. } => {
            let taken = cause.kind() == std::io::ErrorKind::AddrInUse;
            let failure = Failure::new(if taken { Exit::Conflict } else { cause.exit() }, error);
            if taken {
                failure.hint("is another daemon running? [daemon] listen and socket name other places")
            } else {
                failure
            }
        }
        DaemonError::Catalog(error) => error.into(),
        DaemonError::Runtime(_) => Failure::new(Exit::Failed, error),
    })?;
    Ok(Exit::Done)
}
