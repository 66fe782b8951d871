//! The index of a repository: every run that counts, opened where it lies.
//!
//! Owns which runs are read, and a bounded cache of blocks (`fetch` owns the runs' signatures, `merge` their merging). Memory: the filters and fences
//! of the runs, and at most `CACHE_BLOCKS` blocks; entries stay in the store, or in the copies that this host keeps of it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::fetch::{self, Held, Room};
use super::{Error, Repository, Result, each};
use crate::names::{ChunkId, GroupId, ObjectKey, PackId, WriterId};
use crate::pack::keys::{self, Meaning};
use crate::pack::run::{BLOCK_BYTES, Blocks, Frames, Location, PackRow, Run, RunError, RunName};
use crate::seal::cipher::TAG_BYTES;
use crate::seal::object::{ObjectError, SegmentOpener, SignedBy, segment_range};
use crate::store::Store;

/// Blocks kept decrypted, shared by all runs: 8 MiB.
const CACHE_BLOCKS: usize = 2048;
/// A prune that ran beside removed a run that was listed: so often the listing is made anew.
const RELOADS: usize = 4;
const STORED_BLOCK_BYTES: usize = BLOCK_BYTES + TAG_BYTES;

/// Whose runs are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that the key can open: restoring and verifying.
    Read,
    /// One group's, for a writer: its own runs, and others' segments. Others' loose deltas cost more than they save.
    Write { group: GroupId, writer: WriterId },
}

/// The newest blocks, decrypted. Two generations: what was used since the last turn survives the next.
#[derive(Default)]
struct BlockCache {
    young: HashMap<(u32, u64), Arc<Vec<u8>>>,
    old: HashMap<(u32, u64), Arc<Vec<u8>>>,
}

impl BlockCache {
    fn get(&mut self, key: (u32, u64)) -> Option<Arc<Vec<u8>>> {
        if let Some(block) = self.young.get(&key) {
            return Some(block.clone());
        }
        let block = self.old.remove(&key)?;
        self.put(key, block.clone());
        Some(block)
    }

    fn put(&mut self, key: (u32, u64), block: Arc<Vec<u8>>) {
        if self.young.len() >= CACHE_BLOCKS / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, block);
    }
}

/// The blocks of one sealed run.
pub struct SealedRun {
    store: Arc<dyn Store>,
    pub name: RunName,
    key: ObjectKey,
    pub size: u64,
    pub group: GroupId,
    pub by: SignedBy,
    opener: SegmentOpener,
    /// What this process has of the object.
    held: Held,
    /// The copy on this host is bad: the store has the bytes.
    doubted: AtomicBool,
    cache: Arc<Mutex<BlockCache>>,
    number: u32,
}

impl Blocks for SealedRun {
    type Error = Error;

    fn blocks(&self) -> u64 {
        segment_range(self.size, 0).map_or(0, |(_, segments)| segments)
    }

    fn block(&self, number: u64) -> Result<Arc<Vec<u8>>> {
        let place = (self.number, number);
        if let Some(block) = self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(place) {
            return Ok(block);
        }
        let block = Arc::new(self.stretch(number..number + 1)?);
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).put(place, block.clone());
        Ok(block)
    }

    fn stretch(&self, numbers: Range<u64>) -> Result<Vec<u8>> {
        let damaged = |cause| Error::Damaged { key: self.key.clone(), cause };
        let place = |number| segment_range(self.size, number).ok_or_else(|| damaged(ObjectError::Short));
        let Some(last) = numbers.end.checked_sub(1).filter(|last| *last >= numbers.start) else { return Ok(vec![]) };
        let ((first, segments), (last, _)) = (place(numbers.start)?, place(last)?);
        self.read(first.start..last.end, |mut stored| {
            let mut kept = 0;
            for number in numbers.clone() {
                let at = (number - numbers.start) as usize * STORED_BLOCK_BYTES;
                let end = stored.len().min(at + STORED_BLOCK_BYTES);
                let len = self.opener.open(number, segments, &mut stored[at..end]).map_err(damaged)?.len();
                stored.copy_within(at..at + len, kept);
                kept += len;
            }
            stored.truncate(kept);
            Ok(stored)
        })
    }
}

impl SealedRun {
    /// Whether this run's word that it replaces another counts: a writer speaks for its own runs only, the admin for all.
    pub fn may_replace(&self, old: &RunName) -> bool {
        match self.by {
            SignedBy::Writer(writer) => old.session.writer() == writer,
            SignedBy::Admin | SignedBy::AdminFor(_) => true,
        }
    }

    /// Opens what is stored in `range`, from the nearest place that has it.
    fn read(&self, range: Range<u64>, open: impl Fn(Vec<u8>) -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        match &self.held {
            Held::Bytes(bytes) => return open(bytes[range.start as usize..range.end as usize].to_vec()),
            Held::Copy(copy) if !self.doubted.load(Ordering::Relaxed) => {
                if let Some(opened) = copy.read(range.clone()).ok().and_then(|stored| open(stored).ok()) {
                    return Ok(opened);
                }
                self.doubted.store(true, Ordering::Relaxed);
                self.store.copies().map(|copies| copies.forget(&self.key));
            }
            Held::Copy(_) | Held::Nothing => {}
        }
        open(self.store.get_range(&self.key, range)?)
    }
}

/// What a writer makes of one run.
#[derive(Default)]
struct Guard {
    /// Frames of packs that nobody may use any more.
    excluded: Frames,
    /// Frames of packs that are not there any more.
    hidden: Frames,
    /// A bit for each frame that something was found in; none: nobody asks.
    used: Vec<AtomicU64>,
}

impl Guard {
    fn of(run: &Run<SealedRun>, is_excluded: impl Fn(&PackId) -> bool) -> Result<Self> {
        let excluded = run.frames_of(|pack| is_excluded(&pack.id)).map_err(|error| run_error(run.source(), error))?;
        let words = usize::try_from(run.frames().div_ceil(64)).unwrap_or(0);
        Ok(Self { excluded, hidden: Frames::default(), used: (0..words).map(|_| AtomicU64::new(0)).collect() })
    }

    /// Notes that something in this frame will be used. False: it may not be.
    fn lets_use(&self, frame: u32) -> bool {
        if self.excluded.contains(frame) {
            return false;
        }
        if let Some(word) = self.used.get(frame as usize / 64) {
            // Read first: most frames are used many times.
            let bit = 1 << (frame % 64);
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        true
    }
}

/// All runs of a scope.
pub struct Index {
    runs: Vec<Arc<Run<SealedRun>>>,
    /// For each run, if a writer asks; else none.
    guards: Vec<Arc<Guard>>,
    nothing: Frames,
    cache: Arc<Mutex<BlockCache>>,
    opened: u32,
    /// For whole runs in memory.
    room: Arc<Room>,
}

fn run_error(run: &SealedRun, error: RunError<Error>) -> Error {
    match error {
        RunError::Read(error) => error,
        RunError::Malformed(cause) => Error::Index { key: run.key.clone(), cause },
    }
}

impl Index {
    /// An index of nothing.
    pub fn empty() -> Self {
        let (runs, guards, nothing) = (Vec::new(), Vec::new(), Frames::default());
        Self { runs, guards, nothing, cache: Arc::default(), opened: 0, room: Arc::default() }
    }

    /// The same runs once more, filters and blocks in the same memory; what is added to one is not in the other.
    pub fn share(&self) -> Self {
        let (runs, guards) = (self.runs.clone(), self.guards.clone());
        let (nothing, cache, room) = (Frames::default(), self.cache.clone(), self.room.clone());
        Self { runs, guards, nothing, cache, opened: self.opened, room }
    }

    /// Opens every run of `scope` that no segment replaces. `refused` receives what does not verify, and the rest is used.
    pub fn load(repository: &Repository, scope: Scope, refused: &mut dyn FnMut(Error)) -> Result<Self> {
        Self::load_counting(repository, scope, &|_| true, refused)
    }

    /// The same of the runs that count. A run that goes between listing and reading was replaced by another, which the next listing shows.
    pub(crate) fn load_counting(
        repository: &Repository,
        scope: Scope,
        counts: &dyn Fn(&RunName) -> bool,
        refused: &mut dyn FnMut(Error),
    ) -> Result<Self> {
        for _ in 0..RELOADS {
            let (mut errors, mut is_gone) = (Vec::new(), false);
            let index = Self::load_once(repository, scope, counts, &mut |error| {
                is_gone |= matches!(&error, Error::Store(error) if error.is_not_found());
                errors.push(error);
            })?;
            if !is_gone {
                errors.into_iter().for_each(refused);
                return Ok(index);
            }
        }
        Self::load_once(repository, scope, counts, refused)
    }

    fn load_once(
        repository: &Repository,
        scope: Scope,
        counts: &dyn Fn(&RunName) -> bool,
        refused: &mut dyn FnMut(Error),
    ) -> Result<Self> {
        let mut index = Self::empty();
        let wanted = |name: &RunName| match scope {
            Scope::Read => counts(name),
            Scope::Write { writer, .. } => (name.session.writer() == writer || name.epoch.is_none()) && counts(name),
        };
        let mut named: Vec<(RunName, u64)> = repository
            .list_index()?
            .iter()
            .filter_map(|listed| match keys::parse(&listed.key) {
                Some(Meaning::Run(name)) => Some((name, listed.size)),
                _ => None,
            })
            .filter(|(name, _)| wanted(name))
            .collect();
        named.sort();
        // Segments first: they say which others need no reading.
        let (segments, mut rest): (Vec<_>, Vec<_>) = named.into_iter().partition(|(name, _)| name.epoch.is_none());
        let mut replaced: HashSet<RunName> = HashSet::new();
        for round in 0..2 {
            let names = if round == 0 { &segments } else { &rest };
            let mut next = names.iter();
            loop {
                let wanted = next.by_ref().filter(|(name, _)| !replaced.contains(name)).take(repository.calls());
                let some: Vec<(u32, RunName, u64)> =
                    (1u32..).zip(wanted).map(|(at, (name, size))| (index.opened + at, *name, *size)).collect();
                if some.is_empty() {
                    break;
                }
                let opened = each(repository.calls(), &some, |(number, name, size)| {
                    index.open(repository, *number, *name, Some(*size))
                });
                index.opened += some.len() as u32;
                for ((_, name, _), run) in some.iter().zip(opened) {
                    if replaced.contains(name) {
                        continue;
                    }
                    match run {
                        Ok(None) => {}
                        Ok(Some(run)) => {
                            let writer = name.session.writer();
                            if let Scope::Write { group, writer: own } = scope {
                                let of_other_group = group != run.source().group;
                                // What a thief with a revoked key claims to have stored is no reason not to store it.
                                if of_other_group || (writer != own && repository.revocation(writer)?.is_some()) {
                                    continue;
                                }
                            }
                            replaced.extend(run.replaced().iter().filter(|old| run.source().may_replace(old)));
                            index.runs.push(Arc::new(run));
                        }
                        Err(error @ Error::Store(_)) if !error.is_damage() => return Err(error),
                        Err(error) => refused(error),
                    }
                }
            }
            rest.retain(|(name, _)| !replaced.contains(name));
        }
        index.runs.retain(|run| !replaced.contains(&run.source().name));
        Ok(index)
    }

    /// Opens one run, whose size the listing tells; none if this key has no key for its group.
    fn open(
        &self,
        repository: &Repository,
        number: u32,
        name: RunName,
        size: Option<u64>,
    ) -> Result<Option<Run<SealedRun>>> {
        let Some(fetched) = fetch::run(repository, name, size, &self.room)? else { return Ok(None) };
        let source = SealedRun {
            store: repository.store.clone(),
            name,
            key: keys::run(name),
            size: fetched.size,
            group: fetched.group,
            by: fetched.by,
            opener: fetched.opener,
            held: fetched.held,
            doubted: AtomicBool::new(false),
            cache: self.cache.clone(),
            number,
        };
        let key = source.key.clone();
        Run::open(source).map(Some).map_err(|error| match error {
            RunError::Read(error) => error,
            RunError::Malformed(cause) => Error::Index { key, cause },
        })
    }

    /// Adds a run that this process just wrote.
    pub fn add(&mut self, repository: &Repository, name: RunName) -> Result<()> {
        self.opened += 1;
        if let Some(run) = self.open(repository, self.opened, name, None)? {
            if !self.guards.is_empty() || self.runs.is_empty() {
                self.guards.push(Arc::new(Guard::of(&run, |_| false)?));
            }
            self.runs.push(Arc::new(run));
        }
        Ok(())
    }

    /// From now on nothing that lies in these packs is found by `contains`, and `used_packs` tells what was.
    pub(super) fn guard(&mut self, is_excluded: impl Fn(&PackId) -> bool) -> Result<()> {
        let guard = |run: &Arc<Run<SealedRun>>| Guard::of(run, &is_excluded).map(Arc::new);
        self.guards = self.runs.iter().map(guard).collect::<Result<_>>()?;
        Ok(())
    }

    /// From now on nothing is found in these packs: they were deleted.
    pub fn hide(&mut self, is_deleted: impl Fn(&PackRow) -> bool) -> Result<()> {
        let guard = |run: &Arc<Run<SealedRun>>| {
            let hidden = run.frames_of(&is_deleted).map_err(|error| run_error(run.source(), error))?;
            Ok(Arc::new(Guard { excluded: hidden.clone(), hidden, used: Vec::new() }))
        };
        self.guards = self.runs.iter().map(guard).collect::<Result<_>>()?;
        Ok(())
    }

    fn hidden(&self, at: usize) -> &Frames {
        self.guards.get(at).map_or(&self.nothing, |guard| &guard.hidden)
    }

    /// Packs that hold what `contains` found since the index is guarded; some of them more than was looked for.
    pub(super) fn used_packs(&self) -> Result<HashSet<PackId>> {
        let mut used = HashSet::new();
        for (run, guard) in self.runs.iter().zip(&self.guards) {
            if guard.used.iter().all(|word| word.load(Ordering::Relaxed) == 0) {
                continue;
            }
            let mut number = 0;
            run.each_frame(|frame| {
                let is_used = guard
                    .used
                    .get(number / 64)
                    .is_some_and(|word| word.load(Ordering::Relaxed) >> (number % 64) & 1 == 1);
                if is_used {
                    used.extend(run.packs().get(frame.pack as usize).map(|pack| pack.id));
                }
                number += 1;
            })
            .map_err(|error| run_error(run.source(), error))?;
        }
        Ok(used)
    }

    /// Whether a chunk is stored where it may be used again.
    pub fn contains(&self, id: &ChunkId) -> Result<bool> {
        for (at, run) in self.runs.iter().enumerate() {
            match run.find(id).map_err(|error| run_error(run.source(), error)) {
                Ok(Some(entry)) if self.guards.get(at).is_none_or(|guard| guard.lets_use(entry.frame)) => {
                    return Ok(true);
                }
                // What cannot be read is not there: the chunk is stored again.
                Ok(_) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Where a chunk lies; the first place, if there are several. A damaged run is an error only where no other run knows the chunk.
    pub fn locate(&self, id: &ChunkId) -> Result<Option<Location>> {
        let mut damage = None;
        for (at, run) in self.runs.iter().enumerate() {
            match run.locate_outside(id, self.hidden(at)).map_err(|error| run_error(run.source(), error)) {
                Ok(None) => {}
                Err(error) if error.is_damage() => damage = damage.or(Some(error)),
                found => return found,
            }
        }
        damage.map_or(Ok(None), Err)
    }

    /// Every place of a chunk: a damaged copy is no loss while another is whole, nor is a damaged run.
    pub fn locate_all(&self, id: &ChunkId) -> Result<Vec<Location>> {
        let (mut places, mut damage) = (Vec::new(), None);
        for (at, run) in self.runs.iter().enumerate() {
            match run.locate_outside(id, self.hidden(at)).map_err(|error| run_error(run.source(), error)) {
                Ok(place) => places.extend(place),
                Err(error) if error.is_damage() => damage = damage.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match damage {
            Some(error) if places.is_empty() => Err(error),
            _ => Ok(places),
        }
    }

    pub fn runs(&self) -> &[Arc<Run<SealedRun>>] {
        &self.runs
    }

    pub fn chunks(&self) -> u64 {
        self.runs.iter().map(|run| run.entries()).sum()
    }
}
