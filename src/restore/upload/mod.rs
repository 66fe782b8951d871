//! A restore into a bucket: objects become objects again, and files objects.
//!
//! Owns the comparison of what is to come with what stands there (`run`), the mark of an unfinished restore (`plan`), and the writing of objects (`write`). Refuses
//! what an object cannot be: links, devices and the like are losses; a file's owner, mode, times and attributes, and directories, are left out and counted.
//!
//! A write of an object is whole or nothing. So an unfinished restore needs no more than a mark, an object of its own that is made first and removed last: under a
//! prefix that was empty when the mark was made, whatever is as large as it should be and no older than the mark was written by that restore.
//!
//! Memory: `write::BYTES` of bodies under way, and for each worker one cache of frames.

mod plan;
mod properties;
mod run;
mod write;

use crate::bucket::Bucket;
use crate::repository::Snapshot;
use crate::source::bucket::Listed;

use super::{Overwrite, Patterns};

pub use plan::{Plan, plan};
pub use run::run;

/// What to bring back, and where to.
#[derive(Clone)]
pub struct Request {
    pub snapshot: Snapshot,
    /// As in a restore to a directory. None: if the snapshot is of one bucket and nothing else, what lay in it; else each source at its own path.
    pub path: Option<Vec<u8>>,
    pub to: Bucket,
    pub overwrite: Overwrite,
    /// Remove what the snapshot lacks.
    pub delete: bool,
    /// As in a restore to a directory.
    pub include: Patterns,
    pub exclude: Patterns,
    /// Threads that fetch and open; 0: one for each core.
    pub workers: usize,
}

impl Request {
    /// Everything of `snapshot` into `to`, which is empty.
    pub fn new(snapshot: Snapshot, to: Bucket) -> Self {
        let (include, exclude) = (Patterns::default(), Patterns::default());
        Self { snapshot, path: None, to, overwrite: Overwrite::Never, delete: false, include, exclude, workers: 0 }
    }
}

/// What stands under the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    Empty,
    /// This very restore, unfinished: its mark.
    Continued(Listed),
    /// Something else, which may be overwritten.
    Over,
}
