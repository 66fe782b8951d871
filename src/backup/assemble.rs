//! One source: its sorted walk joined with the tree of the snapshot before, results put back into the walk's order, leaves built.
//!
//! Owns what counts as unchanged: same kind, size, mtime, ctime and inode as in the tree before, and not touched so shortly before that
//! backup's start that a clock's grain could hide a later change. What is unchanged is not opened. Memory: at most `PENDING_ENTRIES` entries wait for
//! their content.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};
use rustix::io::Errno;

use super::content::{LARGE_BYTES, SMALL_BYTES};
use super::large::{LargeFile, Subject};
use super::pipeline::{Done, Job, ObjectTicket, Shared, Ticket};
use super::sink::TreeSink;
use super::tally::Tally;
use super::{Error, Request, Result};
use crate::bucket::Bucket;
use crate::names::TreePath;
use crate::pack::entry::{Content, Entry, Extent, Kind};
use crate::pack::list::ListReader;
use crate::pack::node::PATH_BYTES_MAX;
use crate::pack::record::Time;
use crate::pack::tree::{LeafRef, Origin, Root, TreeBuilder, TreeReader};
use crate::repository::ChunkReader;
use crate::source::exclude::Excludes;
use crate::source::meta::{self, Owners};
use crate::source::problem::ProblemKind;
use crate::source::stat::{FileType, Stat};
use crate::source::walk::{Found, Walk};

const PENDING_ENTRIES: usize = 16 << 10;
const BATCH_FILES: usize = 256;
/// The entry at hand is shown so rarely that nobody waits for it.
const SHOWN_EVERY: u64 = 256;
/// How long a blocked walk waits before it looks after checkpoints and cancels.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);
/// A change so shortly before the last backup's start may have been followed by another in the same tick. Linux stamps files by the timer tick, 10 ms
/// at most; a file system that keeps whole seconds (or, as FAT, even ones) shows no nanoseconds.
const GRAIN_NANOS: i128 = 50_000_000;
const COARSE_GRAIN_NANOS: i128 = 2_000_000_000;

/// The tree of the snapshot before, for one source.
pub struct Previous<'p> {
    pub reader: &'p ChunkReader<'p>,
    pub root: Root,
    /// Start of that backup.
    pub started: Time,
    /// Something of it may be lost: every chunk is looked up before it is used again.
    pub doubted: bool,
}

/// The queue's ends on the walk's side.
pub struct Lanes {
    pub jobs: Sender<Job>,
    pub results: Receiver<Done>,
    pub workers: usize,
}

pub(super) enum Slot {
    Waiting,
    Ready(Box<Entry>),
    /// As it was `before`.
    Same,
    /// All entries of an older tree's leaf.
    Leaf(Arc<LeafRef>),
    Dropped,
}

pub(super) struct Pending {
    pub slot: Slot,
    pub before: Option<(Entry, Origin)>,
}

pub struct Assembly<'s, 'a, 'r> {
    pub(super) shared: &'s Shared<'a>,
    pub(super) request: &'r Request,
    pub(super) lanes: &'r Lanes,
    pub(super) tally: &'r mut Tally<'a>,
    builder: TreeBuilder<'s>,
    pub(super) pending: VecDeque<Pending>,
    /// Number of the first pending entry.
    pub(super) first: u64,
    batch: Vec<Ticket>,
    batch_bytes: u64,
    pub(super) objects: Vec<ObjectTicket>,
    owners: Owners,
    /// What reads the tree before, where there is one.
    old: Option<&'r ChunkReader<'r>>,
}

/// Where entries come from.
pub enum Input {
    Files(Box<Walk>),
    Bucket(Bucket, Box<Excludes>),
}

impl<'s, 'a, 'r> Assembly<'s, 'a, 'r> {
    /// Saves what lies at `input`; none if not even its root could be saved.
    pub fn run(
        shared: &'s Shared<'a>,
        request: &'r Request,
        lanes: &'r Lanes,
        tally: &'r mut Tally<'a>,
        input: Input,
        previous: Option<&'r Previous<'r>>,
    ) -> Result<Option<Root>> {
        let mut assembly = Self {
            shared,
            request,
            lanes,
            builder: TreeBuilder::new(&shared.ids),
            pending: VecDeque::new(),
            first: tally.next_ticket,
            tally,
            batch: Vec::new(),
            batch_bytes: 0,
            objects: Vec::new(),
            owners: Owners::default(),
            old: previous.map(|previous| previous.reader),
        };
        match input {
            Input::Files(walk) => assembly.walk(*walk, previous)?,
            Input::Bucket(bucket, excludes) => assembly.bucket(&bucket, &excludes, previous)?,
        }
        let mut sink = assembly.sink();
        let Self { builder, tally, first, .. } = assembly;
        tally.next_ticket = first;
        builder.finish(&mut sink)
    }

    fn sink(&self) -> TreeSink<'s, 'a, 'r> {
        TreeSink { shared: self.shared, old: self.old }
    }

    fn walk(&mut self, walk: Walk, previous: Option<&Previous<'_>>) -> Result<()> {
        let mut old = match previous {
            None => None,
            Some(previous) => Some(TreeReader::new(previous.reader, &previous.root)),
        };
        let mut ahead = advance(&mut old)?;
        let progress = self.shared.control.progress.clone();
        for found in walk {
            if self.shared.should_stop() {
                return Err(Error::Cancelled);
            }
            let found = match found {
                Ok(found) => found,
                Err(problem) => {
                    self.tally.problem(&problem, &self.shared.control.progress);
                    continue;
                }
            };
            let count = progress.entries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if count.is_multiple_of(SHOWN_EVERY)
                && let Ok(mut current) = progress.current.lock()
            {
                *current = crate::names::escape(&found.absolute());
            }
            while ahead.as_ref().is_some_and(|(entry, _)| entry.path < found.path) {
                ahead = advance(&mut old)?;
            }
            let before = match &ahead {
                Some((entry, _)) if entry.path == found.path => ahead.take(),
                _ => None,
            };
            if before.is_some() {
                ahead = advance(&mut old)?;
            }
            self.one(found, before, previous)?;
            self.settle(false)?;
        }
        self.send_batch()?;
        while !self.pending.is_empty() {
            self.settle(true)?;
        }
        Ok(())
    }

    fn one(&mut self, found: Found, before: Option<(Entry, Origin)>, previous: Option<&Previous<'_>>) -> Result<()> {
        if found.path.as_bytes().len() > PATH_BYTES_MAX {
            let problem = found.problem(ProblemKind::Unreadable { verb: "stored", errno: Errno::NAMETOOLONG });
            self.tally.problem(&problem, &self.shared.control.progress);
            return Ok(());
        }
        if let (Some((entry, _)), Some(previous)) = (&before, previous)
            && self.is_unchanged(entry, &found.stat, previous)?
        {
            if let Kind::File { size, .. } = entry.kind {
                let progress = &self.shared.control.progress;
                progress.files.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                progress.bytes.fetch_add(size, std::sync::atomic::Ordering::Relaxed);
            }
            // Which names are one file is asked anew: device numbers change between boots, and a new name beside an old one must join it.
            let link_group = meta::link_group(&found.stat);
            let slot = match link_group == entry.link_group {
                true => Slot::Same,
                false => Slot::Ready(Box::new(Entry { link_group, ..entry.clone() })),
            };
            self.pending.push_back(Pending { slot, before });
            return Ok(());
        }
        if found.stat.file_type != FileType::RegularFile {
            match meta::read(&found, &mut self.owners) {
                Ok(meta) => {
                    if let Some(problem) = &meta.loss {
                        self.tally.problem(problem, &self.shared.control.progress);
                    }
                    let slot = Slot::Ready(Box::new(meta::entry(&found, meta)));
                    self.pending.push_back(Pending { slot, before });
                }
                Err(problem) => self.tally.problem(&problem, &self.shared.control.progress),
            }
            return Ok(());
        }
        let number = self.first + self.pending.len() as u64;
        self.pending.push_back(Pending { slot: Slot::Waiting, before });
        match found.stat.size {
            size if size >= LARGE_BYTES => {
                // The small files before it first: they may be waited for.
                self.send_batch()?;
                match LargeFile::open_again(Subject::File(found), number, self.lanes.workers) {
                    Ok(file) => {
                        let file = std::sync::Arc::new(file);
                        for _ in 0..self.lanes.workers {
                            self.send(Job::Large(file.clone()))?;
                        }
                    }
                    Err(problem) => self.receive(Done { number, entry: None, problem: Some(problem) }),
                }
            }
            size if size >= SMALL_BYTES => self.send(Job::Single(Ticket { number, found }))?,
            size => {
                self.batch_bytes += size;
                self.batch.push(Ticket { number, found });
                if self.batch.len() >= BATCH_FILES || self.batch_bytes >= SMALL_BYTES {
                    self.send_batch()?;
                }
            }
        }
        Ok(())
    }

    fn is_unchanged(&self, entry: &Entry, stat: &Stat, previous: &Previous<'_>) -> Result<bool> {
        let size_agrees = match (&entry.kind, stat.file_type) {
            (Kind::File { size, .. }, FileType::RegularFile) => *size == stat.size,
            (Kind::Directory, FileType::Directory)
            | (Kind::Symlink { .. }, FileType::Symlink)
            | (Kind::Fifo, FileType::Fifo)
            | (Kind::Socket, FileType::Socket)
            | (Kind::CharDevice { .. }, FileType::CharacterDevice)
            | (Kind::BlockDevice { .. }, FileType::BlockDevice) => true,
            _ => false,
        };
        let same = size_agrees
            && entry.mtime == stat.mtime
            && entry.ctime == stat.ctime
            && entry.mode == stat.mode
            && (entry.uid, entry.gid) == (stat.uid, stat.gid)
            && (self.request.ignore_inode || entry.inode == stat.inode)
            && entry.link_group.is_some() == (stat.nlink > 1 && stat.file_type != FileType::Directory)
            && is_settled(stat, previous.started);
        if same && previous.doubted { self.is_stored(entry, previous) } else { Ok(same) }
    }

    /// Whether every chunk of a file is known. What is not is read again, and so stored again.
    pub(super) fn is_stored(&self, entry: &Entry, previous: &Previous<'_>) -> Result<bool> {
        let Kind::File { content, .. } = &entry.kind else { return Ok(true) };
        if let Content::Extents(extents) = content {
            return all_known(self.shared, extents);
        }
        let mut extents = ListReader::new(previous.reader, content);
        loop {
            match extents.next_extent() {
                Ok(None) => return Ok(true),
                Ok(Some(extent)) if all_known(self.shared, &[extent])? => {}
                Ok(Some(_)) => return Ok(false),
                Err(error) if error.is_damage() => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn send_batch(&mut self) -> Result<()> {
        if !self.objects.is_empty() {
            let objects = std::mem::take(&mut self.objects);
            self.send(Job::Objects(objects))?;
        }
        self.batch_bytes = 0;
        match std::mem::take(&mut self.batch) {
            batch if batch.is_empty() => Ok(()),
            batch => self.send(Job::Batch(batch)),
        }
    }

    /// Hands a job over; meanwhile looks after results and checkpoints.
    pub(super) fn send(&mut self, mut job: Job) -> Result<()> {
        loop {
            match self.lanes.jobs.send_timeout(job, PATIENCE) {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Timeout(back)) => job = back,
                Err(SendTimeoutError::Disconnected(_)) => return Err(Error::Worker),
            }
            if self.shared.should_stop() {
                return Err(Error::Cancelled);
            }
            self.drain();
            self.tally.look_after(self.shared)?;
        }
    }

    pub(super) fn receive(&mut self, done: Done) {
        if let Some(problem) = &done.problem {
            self.tally.problem(problem, &self.shared.control.progress);
        }
        let place = done.number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        if let Some(pending) = place.and_then(|at| self.pending.get_mut(at)) {
            pending.slot = done.entry.map_or(Slot::Dropped, |entry| Slot::Ready(Box::new(entry)));
        }
    }

    fn drain(&mut self) {
        while let Ok(done) = self.lanes.results.try_recv() {
            self.receive(done);
        }
    }

    /// Moves what is ready from the front into the tree. Waits while too much is pending, or, `to_end`, while anything is.
    pub(super) fn settle(&mut self, to_end: bool) -> Result<()> {
        self.drain();
        loop {
            while let Some(pending) = self.pending.pop_front_if(|front| !matches!(front.slot, Slot::Waiting)) {
                self.first += 1;
                match (pending.slot, pending.before) {
                    (Slot::Ready(entry), before) => self.push(*entry, before)?,
                    (Slot::Same, Some((entry, origin))) => self.push_same(entry, origin)?,
                    (Slot::Leaf(leaf), _) => self.push_leaf(&leaf)?,
                    (Slot::Same | Slot::Waiting | Slot::Dropped, _) => {}
                }
            }
            let full = self.pending.len() >= PENDING_ENTRIES || (to_end && !self.pending.is_empty());
            self.tally.look_after(self.shared)?;
            if !full {
                return Ok(());
            }
            self.send_batch()?;
            match self.lanes.results.recv_timeout(PATIENCE) {
                Ok(done) => self.receive(done),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Worker),
            }
            if self.shared.should_stop() {
                return Err(Error::Cancelled);
            }
        }
    }

    /// What is not even looked at: an older tree's leaf, whole.
    fn push_leaf(&mut self, leaf: &LeafRef) -> Result<()> {
        let mut sink = self.sink();
        if self.builder.push_leaf(leaf, &mut sink)? {
            // A bucket's tree has one directory, its root, and files.
            let directories = u64::from(leaf.first().is_root());
            self.tally.counts.directories += directories;
            self.tally.counts.files += leaf.entries() - directories;
            self.tally.counts.bytes += leaf.bytes();
            return Ok(());
        }
        let Some(reader) = self.old else { return Err(Error::Worker) };
        let mut entries = TreeReader::of_leaf(reader, leaf);
        while let Some((entry, origin)) = entries.next_entry()? {
            self.push_same(entry, origin)?;
        }
        Ok(())
    }

    fn push_same(&mut self, entry: Entry, origin: Origin) -> Result<()> {
        match &entry.kind {
            Kind::File { size, .. } => {
                self.tally.counts.files += 1;
                self.tally.counts.bytes += size;
            }
            Kind::Directory => self.tally.counts.directories += 1,
            _ => self.tally.counts.others += 1,
        }
        let mut sink = self.sink();
        self.builder.push(entry, Some(origin), &mut sink)
    }

    fn push(&mut self, entry: Entry, before: Option<(Entry, Origin)>) -> Result<()> {
        let counts = &mut self.tally.counts;
        match &entry.kind {
            Kind::File { size, .. } => {
                counts.files += 1;
                counts.bytes += size;
                match &before {
                    None => self.tally.files_new += 1,
                    // Which names are one file is asked anew each time, and says nothing of the file.
                    Some((old, _)) if Entry { link_group: entry.link_group, ..old.clone() } == entry => {}
                    Some(_) => self.tally.files_changed += 1,
                }
            }
            Kind::Directory => counts.directories += 1,
            _ => counts.others += 1,
        }
        let origin = before.map(|(old, origin)| Origin { is_same: old == entry, ..origin });
        let mut sink = self.sink();
        self.builder.push(entry, origin, &mut sink)
    }
}

/// Whether the file's last change was visible when the backup of that time began.
fn is_settled(stat: &Stat, started: Time) -> bool {
    let nanos = |secs: i64, nanos: u32| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
    let fine = stat.mtime.nanos != 0 || stat.ctime.nanos != 0;
    let grain = if fine { GRAIN_NANOS } else { COARSE_GRAIN_NANOS };
    let touched = nanos(stat.mtime.secs, stat.mtime.nanos).max(nanos(stat.ctime.secs, stat.ctime.nanos));
    touched < nanos(started.secs, started.nanos) - grain
}

fn all_known(shared: &Shared<'_>, extents: &[Extent]) -> Result<bool> {
    for extent in extents {
        if let Extent::Data { id, .. } = extent
            && !shared.has(id)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn advance(old: &mut Option<TreeReader<'_, ChunkReader<'_>>>) -> Result<Option<(Entry, Origin)>> {
    let Some(reader) = old else { return Ok(None) };
    match reader.next_entry() {
        Ok(next) => Ok(next),
        // The rest of a damaged tree is as good as absent: what it held is read again.
        Err(error) if error.is_damage() => {
            tracing::warn!(%error, "the tree of the snapshot before is damaged; files are read again");
            *old = None;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The directories above `path`, as entries relative to `/`.
pub fn ancestors(path: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut owners = Owners::default();
    let above: Vec<&Path> = path.ancestors().skip(1).filter(|above| above.parent().is_some()).collect();
    for directory in above.into_iter().rev() {
        use std::os::unix::ffi::OsStrExt;
        let found = Walk::new(directory, Default::default()).ok().and_then(|mut walk| walk.next()?.ok());
        let entry = found.and_then(|found| {
            let meta = meta::read(&found, &mut owners).ok()?;
            Some(meta::entry(&found, meta))
        });
        let relative = directory.as_os_str().as_bytes().strip_prefix(b"/").unwrap_or_default();
        if let (Some(mut entry), Ok(path)) = (entry, TreePath::from_bytes(relative.to_vec()))
            && entry.kind == Kind::Directory
        {
            entry.path = path;
            entries.push(entry);
        }
    }
    entries
}
