//! A backup: a source's files become a snapshot.
//!
//! Owns the pipeline (below), the incremental comparison, checkpoints and the outcome. Refuses policies and schedules: whoever calls says what to save.

mod assemble;
mod content;
mod effort;
mod intake;
mod large;
mod objects;
mod pipeline;
mod run;
mod sink;
mod stream;
mod tally;
mod unchanged;

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::bucket::Bucket;
use crate::compression::{Compression, Level};
use crate::names::{SnapshotId, TreePath};
use crate::pack::record::{Counts, Outcome, SourceKind};
use crate::repository;
use crate::source::bucket::source_name;
use crate::source::stream::{Feed, Listener};
use crate::source::{SourceError, StreamError};

pub use run::run;

/// What to save, and how.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Absolute, none twice, none within another: each is a source of its own.
    pub paths: Vec<PathBuf>,
    /// Saved beside the paths, none twice, none within another.
    pub buckets: Vec<Bucket>,
    /// Whether each new or changed object of `buckets` is asked for its tags.
    pub object_tags: bool,
    /// Instead of `paths`: absolute paths, as many as there may be, as one source.
    pub listed: Option<Vec<PathBuf>>,
    /// Instead of `paths`: one file that comes as a stream.
    pub stream: Option<StreamRequest>,
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
    /// Of content.
    pub compression: Compression,
    /// Threads that chunk, hash, compress and seal; 0: one for each core.
    pub workers: usize,
}

/// Standard input, or what a command writes, as the one file of a snapshot.
#[derive(Clone, Debug)]
pub struct StreamRequest {
    /// Where the file stands in the snapshot, relative to `/`.
    pub name: TreePath,
    pub feed: Feed,
    /// Hears what the command says.
    pub listener: Listener,
    /// A stream of no bytes is saved, and is no failure.
    pub allow_empty: bool,
}

impl Request {
    /// What the snapshot's sources are called, and what they are: what the next run of the same finds its predecessor by.
    pub fn sources(&self) -> Vec<(Vec<u8>, SourceKind)> {
        if let Some(stream) = &self.stream {
            return vec![([b"/", stream.name.as_bytes()].concat(), SourceKind::Stream)];
        }
        if self.listed.is_some() {
            return vec![(b"/".to_vec(), SourceKind::Selection)];
        }
        let paths = self.paths.iter().map(|path| (path.as_os_str().as_bytes().to_vec(), SourceKind::Filesystem));
        let buckets = self.buckets.iter().map(|bucket| (source_name(bucket), SourceKind::Bucket));
        paths.chain(buckets).collect()
    }
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
    /// This writer's snapshots that were forgotten when it began.
    pub forgotten: Vec<SnapshotId>,
    pub outcome: Outcome,
    pub counts: Counts,
    /// Files that the snapshot before did not have under their names, and those that were other files there; the rest is as it was.
    pub files_new: u64,
    pub files_changed: u64,
    pub compressed: Compressed,
    /// What was done otherwise than somebody might think, one sentence each.
    pub notes: Vec<String>,
    /// One sentence each, at most `PROBLEMS_MAX`; `counts` has all.
    pub problems: Vec<String>,
    pub seconds: f64,
    /// Whether the store keeps two writers apart.
    pub multi_writer: bool,
}

/// What became of new content. A frame does not say its level, so a snapshot cannot tell it later.
#[derive(Clone, Debug)]
pub struct Compressed {
    pub asked: Compression,
    /// Bytes of content that were compressed at each level of zstd that was used, lowest first.
    pub levels: Vec<(u8, u64)>,
    /// Bytes stored as they are.
    pub raw_bytes: u64,
}

impl Compressed {
    fn new(asked: Compression, by_level: [u64; Level::MAX + 1]) -> Self {
        let levels = (0..).zip(by_level).skip(1).filter(|(_, bytes)| *bytes > 0).collect();
        Self { asked, levels, raw_bytes: by_level[0] }
    }
}

/// Problems kept by name.
pub const PROBLEMS_MAX: usize = 1000;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("there is nothing to save: no path or bucket was given")]
    NoPath,
    #[error("{inner} lies within {outer}, which is saved as well")]
    Nested { inner: String, outer: String },
    #[error("{path} is part of the repository itself")]
    InRepository { path: String },
    #[error(transparent)]
    Repository(#[from] repository::Error),
    #[error("the backup was cancelled before it was committed; what was uploaded is found again")]
    Cancelled,
    #[error("a worker thread ended by a defect of this program; nothing was committed")]
    Worker,
}

pub type Result<T> = std::result::Result<T, Error>;
