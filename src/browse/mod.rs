//! Looking into what is stored: finding, comparing, giving out, counting.
//!
//! Owns walks over the trees of any number of snapshots at once, in which a subtree that several of them share is read once, and the questions that need
//! such a walk. Refuses to write into the store or into a file system: what comes out goes to whoever asked.

pub mod compare;
pub mod content;
pub mod dump;
pub mod find;
mod held;
pub mod near;
mod set;
mod share;
mod spill;
pub mod tally;
pub mod tar;
pub mod text;
mod weave;

use std::sync::atomic::{AtomicBool, Ordering};

use crate::names::TreePath;
use crate::pack::record::ManifestBody;
use crate::repository;

pub use held::Held;
pub use set::Set;
pub use weave::{Found, Step, Tree, Visit, Weave};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} is not in snapshot {snapshot}", crate::names::escape(path))]
    NotFound { path: Vec<u8>, snapshot: String },
    #[error("a source of snapshot {snapshot} is {}, which is no absolute path", crate::names::escape(name))]
    SourceName { snapshot: String, name: Vec<u8> },
    #[error("cannot write {what}")]
    Output {
        what: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("cannot keep notes in {}", directory.display())]
    Scratch {
        directory: std::path::PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("a worker stopped before its work was done")]
    Worker,
    #[error("interrupted")]
    Cancelled,
    #[error(transparent)]
    Repository(#[from] repository::Error),
}

/// Part of a tree that cannot be read: what lies behind `after` may be missing from the answer.
#[derive(Debug)]
pub struct Damage {
    /// Absolute, raw bytes.
    pub after: Vec<u8>,
    pub error: repository::Error,
}

pub(crate) fn go_on(cancel: &AtomicBool) -> Result<()> {
    if cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
}

/// An absolute path, raw bytes, as one relative to `/`.
pub(crate) fn under_root(path: &[u8]) -> Option<TreePath> {
    let mut rest = path.strip_prefix(b"/")?;
    while let Some(shorter) = rest.strip_suffix(b"/") {
        rest = shorter;
    }
    TreePath::from_bytes(rest.to_vec()).ok()
}

/// The sources of a snapshot with their places under `/`.
pub(crate) fn sources<'b>(
    body: &'b ManifestBody,
    snapshot: &str,
) -> Result<Vec<(TreePath, &'b crate::pack::record::Source)>> {
    let place = |source: &'b crate::pack::record::Source| {
        let wrong = || Error::SourceName { snapshot: snapshot.to_owned(), name: source.name.to_vec() };
        Ok((under_root(&source.name).ok_or_else(wrong)?, source))
    };
    body.sources.iter().map(place).collect()
}

/// The absolute path of what lies at `path` under `/`.
pub fn absolute(path: &TreePath) -> Vec<u8> {
    [b"/", path.as_bytes()].concat()
}

pub(crate) fn joined(base: &TreePath, rest: &TreePath) -> TreePath {
    match (base.is_root(), rest.is_root()) {
        (true, _) => rest.clone(),
        (_, true) => base.clone(),
        // Two good paths joined are a good path.
        _ => TreePath::from_bytes([base.as_bytes(), b"/", rest.as_bytes()].concat()).unwrap_or_default(),
    }
}
