//! The door between the daemon and whatever moves the bytes.
//!
//! Owns the trait and the words of a report. Refuses every type of the engine itself, so that tests drive the daemon with
//! an engine of their own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::catalog::{Counts, DrillFindings, RunId};
use crate::policy::{Policy, RepositoryConfig};

/// How many problems of a run are kept; the counts tell the rest.
pub const PROBLEMS_MAX: usize = 100;

/// Does the work. Calls block, come on threads of their own, and may come at the same time for different policies. One that
/// panics has failed; the daemon goes on.
pub trait Engine: Send + Sync + 'static {
    /// Backs up the policy's source.
    fn backup(&self, task: &Task, run: &RunContext) -> RunReport;

    /// Restores `files` files of the newest snapshot into an empty place, compares them, and leaves nothing behind.
    fn sample_drill(&self, task: &Task, files: u32, run: &RunContext) -> RunReport;
}

/// What to work on: the configuration as it stood when the run began.
#[derive(Clone, Debug)]
pub struct Task {
    pub policy: Policy,
    pub repository: RepositoryConfig,
    /// The daemon's cache directory; it exists.
    pub cache: PathBuf,
}

/// What a run is told, and where it tells how far it is.
#[derive(Clone, Debug)]
pub struct RunContext {
    pub id: RunId,
    pub cancel: Arc<AtomicBool>,
    pub progress: Arc<ProgressCell>,
}

impl RunContext {
    pub fn new(id: RunId) -> Self {
        Self { id, cancel: Arc::default(), progress: Arc::default() }
    }

    /// Whether the run is asked to stop. It then returns soon, with `Outcome::Cancelled`.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// `scanning`, `storing`, `comparing`: a word for people.
    pub phase: &'static str,
    pub files: u64,
    pub bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files_total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
}

/// Holds the last word on progress. Cheap to set, from any thread.
#[derive(Debug, Default)]
pub struct ProgressCell(Mutex<Option<Progress>>);

impl ProgressCell {
    pub fn set(&self, progress: Progress) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    pub fn get(&self) -> Option<Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a run ended, as the engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A whole snapshot is committed; a drill compared everything that it was to compare, and all of it was equal.
    Succeeded,
    /// A snapshot is committed and lacks something; a drill could not make all its checks.
    Partial,
    Failed,
    Cancelled,
    TimedOut,
}

/// What the engine has to say of a run that ended.
#[derive(Clone, Debug)]
pub struct RunReport {
    pub outcome: Outcome,
    /// The id of the committed snapshot, or of the one that was drilled.
    pub snapshot: Option<String>,
    /// One sentence and a hint; no secret in it.
    pub error: Option<String>,
    /// A stable word: `source`, `store`, `key`, `space`.
    pub error_class: Option<String>,
    pub counts: Counts,
    /// Sentences for people; the first `PROBLEMS_MAX` are kept.
    pub problems: Vec<String>,
    /// Of a drill only.
    pub drill: Option<DrillFindings>,
    /// Ids of this writer's snapshots that are forgotten, all of them; none: nobody looked.
    pub forgotten: Option<Vec<String>>,
}

impl RunReport {
    /// A report of `outcome` with nothing else to say yet.
    pub fn new(outcome: Outcome) -> Self {
        Self {
            outcome,
            snapshot: None,
            error: None,
            error_class: None,
            counts: Counts::default(),
            problems: Vec::new(),
            drill: None,
            forgotten: None,
        }
    }

    pub fn failed(class: &str, error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), error_class: Some(class.to_owned()), ..Self::new(Outcome::Failed) }
    }
}
