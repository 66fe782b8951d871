//! A stretch of a restore: files, and which chunks go where in them.
//!
//! Owns the state of a file from its first byte to its name. A file lies in one window, or in several if its list of chunks is long; whoever delivers its
//! last chunk finishes it. Refuses to fetch: `fetch` does.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::report::Notes;
use super::told;
use crate::names::{ChunkId, TreePath};
use crate::pack::entry::Entry;
use crate::target::{Existing, FileInProgress, Target, TargetError};

/// A window is closed once its plan takes about so much memory.
pub(super) const WINDOW_BYTES: usize = 24 << 20;
/// The same where each read takes a round trip: at a window's end all readers wait for the last one, and frames on its border are read twice.
const REMOTE_WINDOW_BYTES: usize = 64 << 20;
/// A file beside its path and attributes: itself, its owner's names, and its places in the tables of a window and of what fetches it.
const FILE_BYTES: usize = 400;
/// A chunk in the same tables, as they grow.
pub(super) const USE_BYTES: usize = 112;
/// A directory that waits for its attributes.
pub(super) const FOLDER_BYTES: usize = 512;

/// Why a file does not come back.
#[derive(Clone)]
pub(super) enum Failure {
    /// Because of what is stored.
    Damaged(String),
    /// Because of the target.
    Loss(String),
}

/// A file that is being restored.
pub(super) struct FileWork {
    /// Without its extents.
    pub entry: Entry,
    pub existing: Existing,
    /// Chunks that were not delivered yet, and one while more may be planned.
    left: AtomicU64,
    state: Mutex<FileState>,
    done: AtomicBool,
}

#[derive(Default)]
struct FileState {
    part: Option<Arc<FileInProgress>>,
    failure: Option<Failure>,
}

/// One place of one chunk.
pub(super) struct Use {
    pub id: ChunkId,
    pub len: u32,
    /// Position in the window's files.
    pub file: u32,
    pub offset: u64,
}

pub(super) struct Window {
    pub files: Vec<Arc<FileWork>>,
    /// Positions of files that end in this window.
    pub ended: Vec<u32>,
    /// In the order of files and offsets.
    pub uses: Vec<Use>,
    pub weight: usize,
    bytes_max: usize,
}

impl Window {
    pub fn new(remote: bool) -> Self {
        Self::of(if remote { REMOTE_WINDOW_BYTES } else { WINDOW_BYTES })
    }

    fn of(bytes_max: usize) -> Self {
        Self { files: Vec::new(), ended: Vec::new(), uses: Vec::new(), weight: 0, bytes_max }
    }

    /// What was planned; an empty window takes its place.
    pub fn take(&mut self) -> Self {
        let empty = Self::of(self.bytes_max);
        std::mem::replace(self, empty)
    }

    pub fn is_full(&self) -> bool {
        self.weight >= self.bytes_max
    }

    /// Adds a file, or the next part of one; its position.
    pub fn add(&mut self, file: &Arc<FileWork>) -> u32 {
        self.weight += file.weight();
        self.files.push(Arc::clone(file));
        (self.files.len() - 1) as u32
    }

    pub fn want(&mut self, id: ChunkId, len: u32, file: u32, offset: u64) {
        if let Some(work) = self.files.get(file as usize) {
            work.wait_for_one();
            self.weight += USE_BYTES;
            self.uses.push(Use { id, len, file, offset });
        }
    }

    /// What files that wait for another window, and the directories above them, may weigh.
    pub fn waiting_max(&self) -> usize {
        self.bytes_max / 4
    }

    /// Takes over files that end in `before` and wait (their positions there, ascending), with all that they want.
    pub fn carry(&mut self, before: Self, waiting: &[u32]) {
        let mut uses = before.uses.into_iter().peekable();
        for at in waiting {
            let Some(work) = before.files.get(*at as usize) else { continue };
            // Its plan ends once more, with this window.
            work.wait_for_one();
            let file = self.add(work);
            self.ended.push(file);
            while uses.next_if(|one| one.file < *at).is_some() {}
            while let Some(one) = uses.next_if(|one| one.file == *at) {
                self.weight += USE_BYTES;
                self.uses.push(Use { file, ..one });
            }
        }
    }

    /// The directories that its files lie in, up to the root.
    pub fn directories(&self) -> HashSet<TreePath> {
        let mut found = HashSet::new();
        for file in &self.files {
            add_directories(&mut found, &file.entry.path);
        }
        found
    }
}

impl FileWork {
    pub fn new(entry: Entry, existing: Existing) -> Arc<Self> {
        let (left, state) = (AtomicU64::new(1), Mutex::default());
        Arc::new(Self { entry, existing, left, state, done: AtomicBool::new(false) })
    }

    /// What it takes in memory.
    pub fn weight(&self) -> usize {
        let xattrs = self.entry.xattrs.iter().map(|(name, value)| 48 + name.len() + value.len());
        FILE_BYTES + self.entry.path.as_bytes().len() + xattrs.sum::<usize>()
    }

    fn state(&self) -> MutexGuard<'_, FileState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn failure(&self) -> Option<Failure> {
        self.state().failure.clone()
    }

    /// A chunk that is not in the window's list will be delivered, too.
    pub fn wait_for_one(&self) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it stands in the target, whole.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    pub fn fail(&self, failure: Failure) {
        self.state().failure.get_or_insert(failure);
    }

    /// One chunk, or the plan, is no longer waited for. True: nothing is.
    fn settle(&self) -> bool {
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Chunks that are waited for, now that the plan is made.
    pub fn waits_for(&self) -> u64 {
        self.left.load(Ordering::Acquire)
    }

    /// Whether some of it is written, under its temporary name, or was given up.
    pub fn is_begun(&self) -> bool {
        let state = self.state();
        state.part.is_some() || state.failure.is_some()
    }

    /// No more chunks will be planned, and some are still waited for.
    pub fn end_while_waiting(&self) {
        self.left.fetch_sub(1, Ordering::AcqRel);
    }

    /// Gives up what is half written.
    pub fn abandon(&self, target: &Target) {
        let part = self.state().part.take();
        if let Some(part) = part.and_then(Arc::into_inner) {
            target.abandon_file(part);
        }
    }
}

/// Adds the directories that `path` lies in, up to the root; how many are new.
pub(super) fn add_directories(found: &mut HashSet<TreePath>, path: &TreePath) -> usize {
    let (mut above, before) = (path.parent(), found.len());
    while let Some(directory) = above {
        above = directory.parent();
        if !found.insert(directory) {
            break;
        }
    }
    found.len() - before
}

/// Sorts the target's errors: those that end the restore come back.
fn refused(file: &FileWork, error: TargetError) -> Result<(), TargetError> {
    if error.is_fatal() {
        return Err(error);
    }
    file.fail(Failure::Loss(told(&error)));
    Ok(())
}

/// Writes one chunk of a file that takes several calls. Errors end the restore.
pub(super) fn deliver(
    target: &Target,
    notes: &Notes,
    file: &FileWork,
    offset: u64,
    bytes: &[u8],
) -> Result<(), TargetError> {
    let part = {
        let mut state = file.state();
        match (&state.failure, &state.part) {
            (Some(_), _) => None,
            (None, Some(part)) => Some(Arc::clone(part)),
            (None, None) => match target.begin_file(&file.entry.path, file.entry.kind.size()) {
                Ok(part) => {
                    let part = Arc::new(part);
                    state.part = Some(Arc::clone(&part));
                    Some(part)
                }
                Err(error) => {
                    drop(state);
                    refused(file, error)?;
                    None
                }
            },
        }
    };
    if let Some(part) = part {
        let written = target.write_at(&part, offset, bytes);
        // Given back before the count goes down: whoever counts to zero holds the only one.
        drop(part);
        if let Err(error) = written {
            refused(file, error)?;
        }
    }
    settle(target, notes, file)
}

/// A chunk of `file` cannot be had.
pub(super) fn give_up(target: &Target, notes: &Notes, file: &FileWork, failure: Failure) -> Result<(), TargetError> {
    file.fail(failure);
    settle(target, notes, file)
}

/// Counts one chunk (or the plan) of `file` as dealt with, and finishes the file with the last.
pub(super) fn settle(target: &Target, notes: &Notes, file: &FileWork) -> Result<(), TargetError> {
    if !file.settle() {
        return Ok(());
    }
    let (part, failure) = {
        let mut state = file.state();
        (state.part.take().and_then(Arc::into_inner), state.failure.clone())
    };
    if let Some(failure) = failure {
        if let Some(part) = part {
            target.abandon_file(part);
        }
        told_failure(notes, file, failure);
        return Ok(());
    }
    let written = match part {
        Some(part) => target.finish_file(part, &file.entry, file.existing),
        None => target.write_small(&file.entry.path, &file.entry, &[], file.existing),
    };
    finished(notes, file, written)
}

/// Writes a file all of whose chunks are at hand: (offset, bytes), ascending.
pub(super) fn write_whole(
    target: &Target,
    notes: &Notes,
    file: &FileWork,
    chunks: &[(u64, &[u8])],
) -> Result<(), TargetError> {
    finished(notes, file, target.write_small(&file.entry.path, &file.entry, chunks, file.existing))
}

fn finished(
    notes: &Notes,
    file: &FileWork,
    written: Result<crate::target::Outcome, TargetError>,
) -> Result<(), TargetError> {
    match written {
        Ok(outcome) => {
            notes.outcome(outcome);
            notes.wrote(file.entry.kind.size());
            file.done.store(true, Ordering::Release);
        }
        Err(error) => {
            refused(file, error)?;
            if let Some(failure) = file.failure() {
                told_failure(notes, file, failure);
            }
        }
    }
    Ok(())
}

fn told_failure(notes: &Notes, file: &FileWork, failure: Failure) {
    match failure {
        Failure::Damaged(error) => notes.damaged(&file.entry.path, error),
        Failure::Loss(sentence) => notes.lost_entry(&file.entry.path, sentence),
    }
}
