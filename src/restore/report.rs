//! What a restore did, and what it could not do.
//!
//! Owns the report and its bounded lists. Refuses exit codes: surfaces read them off the counts.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Progress, told};
use crate::names::{TreePath, escape};
use crate::pack::entry::Entry;
use crate::target::{Attribute, Outcome};

/// Problems kept by name, of each sort.
pub const NAMED_MAX: usize = 1000;

/// A file that could not be restored because of what is stored, or a stretch of the list of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// In the target. Where the list of files is damaged: the last path before the gap.
    pub path: TreePath,
    pub error: String,
}

/// What a restore did. Each list holds at most `NAMED_MAX`; the counts have all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Files that were written, links to other names of theirs included.
    pub files: u64,
    pub directories: u64,
    pub others: u64,
    /// Sum of the sizes of files that were written.
    pub bytes: u64,
    /// Bytes read from data packs.
    pub bytes_fetched: u64,
    /// Reads of data packs.
    pub requests: u64,
    /// Files, links and the like that stood as they should.
    pub skipped_unchanged: u64,
    /// Names removed from directories because the snapshot lacks them.
    pub deleted: u64,
    /// What was asked for and could not be set or made, one sentence each.
    pub losses: Vec<String>,
    pub losses_count: u64,
    /// Objects whose key is no file's name here, one sentence each.
    pub renamed: Vec<String>,
    pub renamed_count: u64,
    /// What an unprivileged restore leaves out: how often, by what it is.
    pub omitted: BTreeMap<&'static str, u64>,
    /// Files that were compared with the snapshot after the restore.
    pub verified_files: u64,
    /// What that comparison found, one sentence each.
    pub differences: Vec<String>,
    pub differences_count: u64,
    pub damaged: Vec<Damaged>,
    pub damaged_count: u64,
    /// Some damage was a refusal of the store (a device that fails, say) rather than bytes that are wrong or gone. Then the restore is not
    /// over: its marker stays, and the same restore goes on once the store answers.
    pub store_failed: bool,
    pub seconds: f64,
}

impl Report {
    /// Everything that was asked for stands in the target.
    pub fn is_whole(&self) -> bool {
        self.losses_count == 0 && self.damaged_count == 0 && self.differences_count == 0
    }
}

/// The report in the making, shared by workers.
pub(super) struct Notes {
    progress: Arc<Progress>,
    pub files: AtomicU64,
    pub bytes: AtomicU64,
    pub bytes_fetched: AtomicU64,
    pub requests: AtomicU64,
    rest: Mutex<Report>,
    /// What is known to be lost, by `mark`: kept for a comparison that follows, 8 bytes each.
    lost: Option<Mutex<HashSet<u64>>>,
}

/// Which attribute of which entry. One number for all kinds of entries that could not be made.
fn mark(path: &TreePath, what: &Attribute) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.as_bytes().hash(&mut hasher);
    match what {
        Attribute::Device | Attribute::Fifo | Attribute::Socket | Attribute::Symlink => {}
        what => what.to_string().hash(&mut hasher),
    }
    hasher.finish()
}

impl Notes {
    pub fn new(progress: Arc<Progress>, compares: bool) -> Self {
        Self {
            progress,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bytes_fetched: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            rest: Mutex::default(),
            lost: compares.then(Mutex::default),
        }
    }

    pub fn rest(&self) -> MutexGuard<'_, Report> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn fetched(&self, bytes: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes_fetched.fetch_add(bytes, Ordering::Relaxed);
        self.progress.bytes_fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A file is done: written.
    pub fn wrote(&self, bytes: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.files.fetch_add(1, Ordering::Relaxed);
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn unchanged(&self, bytes: u64) {
        self.rest().skipped_unchanged += 1;
        self.progress.files.fetch_add(1, Ordering::Relaxed);
        self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn damaged(&self, path: &TreePath, error: String) {
        self.progress.problems.fetch_add(1, Ordering::Relaxed);
        let mut rest = self.rest();
        rest.damaged_count += 1;
        if rest.damaged.len() < NAMED_MAX {
            rest.damaged.push(Damaged { path: path.clone(), error });
        }
    }

    pub fn loss(&self, sentence: String) {
        self.progress.problems.fetch_add(1, Ordering::Relaxed);
        let mut rest = self.rest();
        rest.losses_count += 1;
        if rest.losses.len() < NAMED_MAX {
            rest.losses.push(sentence);
        }
    }

    /// An object lands under another name than its key.
    pub fn renamed(&self, key: &str, path: &TreePath) {
        let mut rest = self.rest();
        rest.renamed_count += 1;
        if rest.renamed.len() < NAMED_MAX {
            rest.renamed.push(format!("the object {} is {path} here", escape(key.as_bytes())));
        }
    }

    pub fn difference(&self, sentence: String) {
        self.progress.problems.fetch_add(1, Ordering::Relaxed);
        let mut rest = self.rest();
        rest.differences_count += 1;
        if rest.differences.len() < NAMED_MAX {
            rest.differences.push(sentence);
        }
    }

    pub fn outcome(&self, outcome: Outcome) {
        if outcome.is_whole() {
            return;
        }
        for loss in &outcome.losses {
            if let Some(lost) = &self.lost {
                lost.lock().unwrap_or_else(PoisonError::into_inner).insert(mark(&loss.path, &loss.what));
            }
            self.loss(told(loss));
        }
        let mut rest = self.rest();
        for omitted in &outcome.omitted {
            *rest.omitted.entry(sort(&omitted.what)).or_default() += 1;
        }
    }

    /// A whole entry does not come back, or not in place of what stands there.
    pub fn lost_entry(&self, path: &TreePath, sentence: String) {
        if let Some(lost) = &self.lost {
            lost.lock().unwrap_or_else(PoisonError::into_inner).insert(mark(path, &Attribute::Device));
        }
        self.loss(sentence);
    }

    /// `entry` became another name of what stands at `first`: what that lacks, it lacks.
    pub fn shares_losses(&self, first: &TreePath, entry: &Entry) {
        let Some(lost) = &self.lost else { return };
        let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
        let xattrs = entry.xattrs.iter().map(|(name, _)| Attribute::Xattr(name.clone()));
        for what in [Attribute::Owner, Attribute::Mode, Attribute::Times].into_iter().chain(xattrs) {
            if lost.contains(&mark(first, &what)) {
                lost.insert(mark(&entry.path, &what));
            }
        }
    }

    pub fn is_lost_entry(&self, path: &TreePath) -> bool {
        self.is_lost(path, &Attribute::Device)
    }

    /// Whether `what` of `path` was named as a loss, so that a comparison need not name it again.
    pub fn is_lost(&self, path: &TreePath, what: &Attribute) -> bool {
        let lost = self.lost.as_ref().map(|lost| lost.lock().unwrap_or_else(PoisonError::into_inner));
        lost.is_some_and(|lost| lost.contains(&mark(path, what)))
    }

    pub fn into_report(self, seconds: f64) -> Report {
        let report = self.rest.into_inner().unwrap_or_else(PoisonError::into_inner);
        Report {
            files: self.files.into_inner(),
            bytes: self.bytes.into_inner(),
            bytes_fetched: self.bytes_fetched.into_inner(),
            requests: self.requests.into_inner(),
            seconds,
            ..report
        }
    }
}

fn sort(what: &Attribute) -> &'static str {
    match what {
        Attribute::Owner => "owner",
        Attribute::Mode => "setuid or setgid bits",
        Attribute::Xattr(_) => "extended attribute",
        Attribute::Times => "modification time",
        Attribute::Device => "device",
        Attribute::Fifo => "fifo",
        Attribute::Socket => "socket",
        Attribute::Symlink => "symlink",
        Attribute::HardLink => "hard link",
    }
}
