//! A restore: a snapshot, a part of it, or one file becomes files again.
//!
//! Owns the choice of entries (`select`), the plan, windows of work (`window`), the fetching of chunks in the order of their packs (`fetch`), and
//! the comparison afterwards (`check`). Refuses confinement and attributes, which are `target`'s, and any guess: a chunk
//! that is not what its id says is written nowhere, its file is named, and everything else comes back.
//!
//! Memory: a window of `WINDOW_BYTES` (far away `REMOTE_WINDOW_BYTES`), for each worker one read of at most `READS_BYTES` shared among all and one frame, the caches of the index and of the
//! tree, and about 200 bytes for each hard-linked file.

mod check;
mod content;
mod fetch;
mod filter;
mod landing;
mod links;
mod local;
mod plan;
mod report;
mod run;
mod select;
pub mod upload;
mod window;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::names::{TreePath, escape};
use crate::repository::{self, Hint, Snapshot};
use crate::source::SourceError;
use crate::target::{OwnerBy, OwnerMap, TargetError};

pub use landing::landed;
pub use plan::{Plan, Start, Totals, plan};
pub use report::{Damaged, NAMED_MAX, Report};
pub use run::run;

/// What to bring back, and where to.
#[derive(Clone)]
pub struct Request {
    pub snapshot: Snapshot,
    /// Absolute, raw bytes. What lies under it goes into `to`, and its own attributes onto `to`; what is no directory lands
    /// as `to`/name. None: everything, each source at its own path beneath `to`.
    pub path: Option<Vec<u8>>,
    pub to: PathBuf,
    pub overwrite: Overwrite,
    /// Remove what the snapshot lacks, in directories that it holds. Needs an `overwrite` that allows it.
    pub delete: bool,
    /// Compare everything with the snapshot once it is written.
    pub verify: bool,
    /// Set owners, setuid, capabilities and devices.
    pub privileged: bool,
    pub owner: OwnerBy,
    /// Owners that become others.
    pub owners: OwnerMap,
    /// Patterns as in a backup's excludes, and files of such. Where there are any to include, only what matches one is brought back, with the
    /// directories that lead to it; what matches one to exclude is not, whatever includes it.
    pub include: Patterns,
    pub exclude: Patterns,
    /// Threads that fetch, open and write; 0: one for each core.
    pub workers: usize,
    /// Only these, relative to `/`, with the directories that lead to them.
    pub files: Option<Arc<BTreeSet<TreePath>>>,
}

impl Request {
    /// Everything of `snapshot` into `to`, which is empty or absent, as an ordinary user.
    pub fn new(snapshot: Snapshot, to: PathBuf) -> Self {
        Self {
            snapshot,
            path: None,
            to,
            overwrite: Overwrite::Never,
            delete: false,
            verify: false,
            privileged: false,
            owner: OwnerBy::Number,
            owners: OwnerMap::default(),
            include: Patterns::default(),
            exclude: Patterns::default(),
            workers: 0,
            files: None,
        }
    }
}

/// Patterns of paths, first those given one by one, then the lines of files.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    pub given: Vec<String>,
    pub files: Vec<PathBuf>,
}

impl Patterns {
    pub fn is_empty(&self) -> bool {
        self.given.is_empty() && self.files.is_empty()
    }
}

/// What becomes of files that stand in the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// The target is empty or absent.
    #[default]
    Never,
    /// What agrees in kind, size, modification time and attributes stays; the rest is replaced.
    IfChanged,
    /// All of it is replaced.
    Always,
}

impl Overwrite {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::IfChanged => "if-changed",
            Self::Always => "always",
        }
    }
}

/// What watches a restore and can end it. Counters only grow.
#[derive(Clone, Debug, Default)]
pub struct Control {
    pub cancel: Arc<AtomicBool>,
    pub progress: Arc<Progress>,
}

/// How far it is; the plan has the sums.
#[derive(Debug, Default)]
pub struct Progress {
    /// Entries that are done or under way.
    pub entries: AtomicU64,
    pub files: AtomicU64,
    /// Sum of the sizes of files that are done, written or found unchanged.
    pub bytes: AtomicU64,
    /// Bytes read from packs.
    pub bytes_fetched: AtomicU64,
    pub problems: AtomicU64,
    /// The entry that was begun last, escaped.
    pub current: std::sync::Mutex<String>,
}

impl Control {
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    fn go_on(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} is no path in a snapshot: it must be absolute, without `.` and `..`", escape(path))]
    Path { path: Vec<u8> },
    #[error("the snapshot holds no {}", escape(path))]
    NotFound { path: Vec<u8> },
    #[error("the snapshot holds none of the files that were asked for")]
    NoFiles,
    #[error("nothing in the snapshot{} is included and not excluded as well", beneath(path))]
    NoMatch { path: Option<Vec<u8>> },
    #[error(transparent)]
    Pattern(SourceError),
    #[error("the snapshot's sources make no sense: {problem}")]
    Sources { problem: String },
    #[error("{} is not empty: it holds {}", to.display(), escape(example))]
    NotEmpty { to: PathBuf, example: Vec<u8> },
    #[error("{} is part of the repository itself", to.display())]
    InRepository { to: PathBuf },
    #[error("files can only be deleted where they may be overwritten, too")]
    DeleteWithoutOverwrite,
    #[error("files can only be deleted where a whole directory is restored")]
    DeletePartial,
    #[error("the snapshot holds paths that were chosen one by one, so what it lacks may never have been asked for")]
    DeleteSelection,
    #[error("nothing is deleted: the snapshot's own list of files is damaged, so what it lacks is not known")]
    DeleteBlind,
    #[error("{} has room for {available} bytes, and {needed} are to be written", to.display())]
    Space { to: PathBuf, needed: u64, available: u64 },
    #[error("{} has room for {available} more files, and {needed} are to be made", to.display())]
    Inodes { to: PathBuf, needed: u64, available: u64 },
    #[error("{url} is not empty: it holds {example}")]
    BucketNotEmpty { url: String, example: String },
    #[error("{url} holds another restore that did not end, or its mark {mark}")]
    OtherUpload { url: String, mark: String },
    #[error("{url} cannot be {verb}")]
    Bucket {
        url: String,
        verb: &'static str,
        #[source]
        cause: object_store::Error,
    },
    #[error("cannot look at {}", path.display())]
    Look {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error(transparent)]
    Listing(#[from] SourceError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Repository(#[from] repository::Error),
    #[error("the restore was cancelled; the same command continues it")]
    Cancelled,
    #[error("a worker thread ended by a defect of this program; the same command continues the restore")]
    Worker,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Error::Path { .. } | Error::NotFound { .. } | Error::NoFiles => {
                "`lifeboat ls SNAPSHOT` lists what it holds"
            }
            Error::NotEmpty { .. } => {
                "choose an empty or new directory, or add `--overwrite if-changed` or `--overwrite always`"
            }
            Error::BucketNotEmpty { .. } => {
                "choose an empty prefix, or add `--overwrite if-changed` or `--overwrite always`"
            }
            Error::OtherUpload { .. } => "finish that restore with its own command, or remove its mark",
            Error::Bucket { .. } => "once that is mended, the same command continues the restore",
            Error::InRepository { .. } => "choose a directory outside the repository",
            Error::DeleteWithoutOverwrite => "add `--overwrite if-changed` or `--overwrite always`",
            Error::DeletePartial => "leave out `--delete`, or what chooses files: `--include` and `--exclude`",
            Error::DeleteSelection => "leave out `--delete`",
            Error::NoMatch { .. } => {
                "patterns match as in .gitignore: `*.conf` anywhere, `/etc/ssh` as an absolute path; `lifeboat ls` shows the paths"
            }
            Error::Pattern(_) => "patterns are those of .gitignore; a backslash before a sign takes its meaning away",
            Error::DeleteBlind => "leave out `--delete`; `lifeboat verify --level data` lists all damage",
            Error::Space { .. } | Error::Inodes { .. } => "choose another file system, or restore a part",
            Error::Target(TargetError::OtherRestore { .. }) => {
                "finish that restore with its own command, or choose another directory"
            }
            Error::Target(error) if error.is_fatal() => "once that is mended, the same command continues the restore",
            Error::Repository(error) => return error.hint(),
            Error::Sources { .. } => "restore from another snapshot",
            Error::Look { .. } | Error::Listing(_) | Error::Target(_) | Error::Cancelled | Error::Worker => {
                return None;
            }
        };
        Some(text.to_owned())
    }
}

fn beneath(path: &Option<Vec<u8>>) -> String {
    path.as_ref().map_or_else(String::new, |path| format!(" beneath {}", escape(path)))
}

/// An error and its causes, as one sentence.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // A transparent error is its own cause.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
