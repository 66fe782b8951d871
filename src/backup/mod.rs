//! A backup: a source's files become a snapshot.
//!
//! Owns the pipeline (below), the incremental comparison, checkpoints and the outcome. Refuses policies and schedules: whoever calls says what to save.

mod assemble;
mod content;
mod large;
mod objects;
mod pipeline;
mod run;
mod sink;
mod tally;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::bucket::Bucket;
use crate::names::SnapshotId;
use crate::pack::record::{Counts, Outcome};
use crate::repository;
use crate::source::SourceError;

pub use run::{names, run};

/// What to save, and how.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Absolute, none twice, none within another.
    pub paths: Vec<PathBuf>,
    /// Saved beside the paths, none twice, none within another.
    pub buckets: Vec<Bucket>,
    pub excludes: Vec<String>,
    pub exclude_files: Vec<PathBuf>,
    pub exclude_caches: bool,
    pub one_file_system: bool,
    /// A changed inode number alone is no reason to read a file again.
    pub ignore_inode: bool,
    pub tags: Vec<String>,
    pub policy: Option<String>,
    /// The policy's `keep`, where this host has no admin key.
    pub keep_wish: Option<String>,
    /// Patterns of paths that may be unreadable without making the run partial.
    pub allow_unreadable: Vec<String>,
    /// Threads that chunk, hash, compress and seal; 0: one for each core.
    pub workers: usize,
}

/// What watches a run and can end it. Counters only grow.
#[derive(Clone, Debug, Default)]
pub struct Control {
    pub cancel: Arc<AtomicBool>,
    pub progress: Arc<Progress>,
}

#[derive(Debug, Default)]
pub struct Progress {
    /// Entries seen by the walk.
    pub entries: AtomicU64,
    pub files: AtomicU64,
    /// Sum of the sizes of files that are done, read or not.
    pub bytes: AtomicU64,
    pub bytes_read: AtomicU64,
    pub bytes_new: AtomicU64,
    pub bytes_stored: AtomicU64,
    pub problems: AtomicU64,
    /// The file that was begun last, escaped.
    pub current: std::sync::Mutex<String>,
}

impl Control {
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Report {
    pub snapshot: SnapshotId,
    /// The snapshot that it was compared with.
    pub parent: Option<SnapshotId>,
    pub outcome: Outcome,
    pub counts: Counts,
    /// One sentence each, at most `PROBLEMS_MAX`; `counts` has all.
    pub problems: Vec<String>,
    pub seconds: f64,
    /// Whether the store keeps two writers apart.
    pub multi_writer: bool,
}

/// Problems kept by name.
pub const PROBLEMS_MAX: usize = 1000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("there is nothing to save: no path or bucket was given")]
    NoPath,
    #[error("{inner} lies within {outer}, which is saved as well")]
    Nested { inner: String, outer: String },
    #[error(transparent)]
    Repository(#[from] repository::Error),
    #[error("the backup was cancelled before it was committed; what was uploaded is found again")]
    Cancelled,
    #[error("a worker thread ended by a defect of this program; nothing was committed")]
    Worker,
}

pub type Result<T> = std::result::Result<T, Error>;
