//! The daemon: what is due begins, what began ends, and whoever asks is told.
//!
//! Owns the loop, the runs' threads, and the life of the service from start to drain. Refuses to move bytes (`engine` is the
//! door to whoever does), to read TOML, and to serve HTTP (`api` does).
//!
//! Threads: one for the schedule; one for each run under way; two for the runtime that serves HTTP and hears signals. No
//! lock is held across a call of the engine. *Asked to stop* and *finished* are two facts, with a drain of 30 s between.

mod core;
pub mod engine;
mod jobs;
pub mod journeys;
mod place;
mod places;
mod scheduler;
mod secret;
mod service;
mod status;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use self::core::{Core, Health, Loaded, Parts, Rejected, instant, this_process};
pub use jobs::{Active, OPEN_MAX, RUNNING_MAX, chain};
pub use places::{PlaceError, Places};
pub use scheduler::SLEEP_MAX;
pub use service::{Bound, DaemonError, DaemonOptions, OnReady, run};
pub use status::{Level, PolicyStatus, Standing, Status};
