//! Fetches the chunks of a window, in the order of their packs, and writes them to every place that waits for them.
//!
//! Owns the workers. Each takes the next stretch of a pack (frames that are wanted and what lies between them, up to a gap), reads it in one call, and
//! opens and decompresses every frame once. A frame of which a window wants little (files that were renamed since they were stored) waits for a window that
//! wants more of it, or for the last: else each window would read nearly all frames again. Every chunk is compared with its id before it is written
//! anywhere. What fails is tried once more at the end, wherever else it may lie. Refuses to stop for damage: a file that cannot come back is named.
//!
//! Memory: `READS_BYTES` of stored bytes for all workers together, and one frame for each. Where each read takes a round trip there are `REMOTE_WORKERS` at least,
//! with `REMOTE_READS_BYTES`: 48 MiB, and 12 frames of 4 MiB with what decodes them, under way at once; at 200 Mbit/s and 50 ms a link holds 1.2 MiB, so
//! two of them would do, and a link ten times as fast is filled as well. A window is read in about `REMOTE_READS` calls, or in calls of `READ_BYTES_MAX` by fewer workers.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::content::{Stored, is_local, is_refusal};
use super::report::Notes;
use super::window::{
    FOLDER_BYTES, Failure, USE_BYTES, Use, Window, add_directories, deliver, give_up, settle, write_whole,
};
use super::{Control, Error, Result, told};
use crate::names::PackId;
use crate::pack::keys;
use crate::pack::run::Location;
use crate::repository::{self, PackKeys, decode_frame};
use crate::seal::compress::{Codec, FRAME_BYTES_MAX};
use crate::target::Target;

const READS_BYTES: u64 = 16 << 20;
const REMOTE_READS_BYTES: u64 = 48 << 20;
const REMOTE_WORKERS: usize = 12;
/// Twice as many as workers, so that some are on their way while others are written.
const REMOTE_READS: u64 = 24;
const REMOTE_READ_BYTES_MIN: u64 = 1 << 20;
const READ_BYTES_MIN: u64 = 512 << 10;
const READ_BYTES_MAX: u64 = 8 << 20;
/// Bytes that are read and thrown away rather than asking twice.
const GAP_BYTES: u64 = 256 << 10;
/// A frame waits if so many times what is wanted of it is less than it holds.
const SPARSE_TIMES: u64 = 8;
/// Files without content that a worker takes at once.
const IDLE_BATCH: usize = 64;
/// A stored frame: its codec, its tag, and no more than its plaintext.
const STORED_BYTES_MAX: u32 = FRAME_BYTES_MAX as u32 + 64;

const NONE: u32 = u32::MAX;
const SEVERAL: u32 = u32::MAX - 1;

/// Whether more windows follow, so that something may wait for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum More {
    Comes,
    No,
}

/// A chunk that is wanted, where it lies, and the uses that want it (a stretch of `Work::order`).
struct Wanted {
    frame: u32,
    offset: u32,
    len: u32,
    uses: (u32, u32),
}

/// A frame that holds wanted chunks (a stretch of `Work::wanted`, empty if it waits).
struct Frame {
    location: Location,
    wanted: (u32, u32),
}

impl Frame {
    fn waits(&self) -> bool {
        self.wanted.0 == self.wanted.1
    }
}

/// Frames that are read in one call (a stretch of `Work::frames`), and the bytes of the pack.
struct Stretch {
    frames: (u32, u32),
    range: (u64, u64),
}

/// All that workers share.
struct Work<'w, 'a, 's> {
    fetcher: &'w Fetcher<'a, 's>,
    window: &'w Window,
    /// Positions of uses, those of one chunk together.
    order: Vec<u32>,
    wanted: Vec<Wanted>,
    frames: Vec<Frame>,
    stretches: Vec<Stretch>,
    /// So many may read at once.
    readers: usize,
    /// For each file: the frame that holds all its chunks, if one does.
    home: Vec<u32>,
    /// Files that wait for no chunk.
    idle: Vec<u32>,
    /// Files whose frame waits, ascending.
    waiting: Vec<u32>,
    next_idle: AtomicUsize,
    next_stretch: AtomicUsize,
    stop: AtomicBool,
    error: Mutex<Option<Error>>,
    /// Uses whose chunk was not good where it was looked for first.
    failed: Mutex<Vec<u32>>,
}

pub(super) struct Fetcher<'a, 's> {
    pub stored: &'a Stored<'s>,
    pub target: &'a Target,
    pub notes: &'a Notes,
    pub control: &'a Control,
    workers: usize,
    remote: bool,
    packs: PackKeys,
}

fn range(pair: (u32, u32)) -> std::ops::Range<usize> {
    pair.0 as usize..pair.1 as usize
}

impl<'a, 's> Fetcher<'a, 's> {
    pub fn new(
        stored: &'a Stored<'s>,
        target: &'a Target,
        notes: &'a Notes,
        control: &'a Control,
        workers: usize,
    ) -> Self {
        let remote = stored.repository.store.is_remote();
        let workers = if remote { workers.max(REMOTE_WORKERS) } else { workers };
        Self { stored, target, notes, control, workers, remote, packs: PackKeys::default() }
    }

    /// Brings every chunk of `window` to its places. Files come back (their positions, ascending) that wait for another window.
    pub fn bring(&self, window: &Window, more: More) -> Result<Vec<u32>> {
        let work = self.prepare(window, more)?;
        let workers = work.readers.min((work.stretches.len() + work.idle.len().div_ceil(IDLE_BATCH)).max(1));
        let whole = thread::scope(|scope| {
            let spawned: Vec<_> = (1..workers).map(|_| scope.spawn(|| work.work())).collect();
            work.work();
            spawned.into_iter().all(|worker| worker.join().is_ok())
        });
        if let Some(error) = work.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        if !whole {
            return Err(Error::Worker);
        }
        let failed = work.failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.rescue(window, failed)?;
        Ok(work.waiting)
    }

    fn prepare<'w>(&'w self, window: &'w Window, more: More) -> Result<Work<'w, 'a, 's>> {
        let uses = &window.uses;
        let mut waits = vec![false; window.files.len()];
        uses.iter().for_each(|one| waits[one.file as usize] = true);
        let mut idle = Vec::new();
        for file in &window.ended {
            match waits[*file as usize] {
                true => window.files[*file as usize].end_while_waiting(),
                false => idle.push(*file),
            }
        }
        let mut order: Vec<u32> = (0..uses.len() as u32).collect();
        order.sort_unstable_by(|a, b| uses[*a as usize].id.cmp(&uses[*b as usize].id).then(a.cmp(b)));
        let (mut wanted, mut frames, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let mut frame_of: HashMap<(PackId, u32), u32> = HashMap::new();
        let mut start = 0;
        while start < order.len() {
            if start % 4096 == 0 {
                self.control.go_on()?;
            }
            let id = uses[order[start] as usize].id;
            let end = start + order[start..].iter().take_while(|at| uses[**at as usize].id == id).count();
            let location = match self.stored.index().locate(&id) {
                Ok(found) => found.filter(|found| found.frame_stored_len <= STORED_BYTES_MAX),
                Err(error) if is_local(&error) => None,
                Err(error) => return Err(error.into()),
            };
            match location {
                None => failed.extend_from_slice(&order[start..end]),
                Some(location) => {
                    let frame = *frame_of.entry((location.pack.id, location.frame_offset)).or_insert_with(|| {
                        frames.push(Frame { location, wanted: (0, 0) });
                        (frames.len() - 1) as u32
                    });
                    let (offset, len) = (location.offset, location.len);
                    wanted.push(Wanted { frame, offset, len, uses: (start as u32, end as u32) });
                }
            }
            start = end;
        }
        drop(frame_of);
        let (wanted, mut frames) = in_pack_order(wanted, frames, &order);
        let mut home = vec![NONE; window.files.len()];
        let mut seen = vec![0u64; window.files.len()];
        for chunk in &wanted {
            for at in &order[range(chunk.uses)] {
                let file = uses[*at as usize].file as usize;
                seen[file] += 1;
                home[file] = if home[file] == NONE || home[file] == chunk.frame { chunk.frame } else { SEVERAL };
            }
        }
        // Whole is only what begins and ends in this window, with every chunk known.
        let mut ends = vec![false; window.files.len()];
        window.ended.iter().for_each(|file| ends[*file as usize] = true);
        for (file, home) in home.iter_mut().enumerate() {
            if !ends[file] || window.files[file].waits_for() != seen[file] || window.files[file].is_begun() {
                *home = SEVERAL;
            }
        }
        let waiting = match more {
            More::Comes => let_sparse_wait(window, &order, &wanted, &mut frames, &home),
            More::No => Vec::new(),
        };
        let (readers, read_bytes) = self.readers(&frames);
        let stretches = stretches(&frames, read_bytes);
        Ok(Work {
            fetcher: self,
            window,
            order,
            wanted,
            frames,
            stretches,
            readers,
            home,
            idle,
            waiting,
            next_idle: AtomicUsize::new(0),
            next_stretch: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            error: Mutex::default(),
            failed: Mutex::new(failed),
        })
    }

    /// How many workers read, and the most that one call reads: as much as memory allows, and little enough that all have something to do.
    /// Far away each call costs, so a few large ones are better than all workers.
    fn readers(&self, frames: &[Frame]) -> (usize, u64) {
        let awake = frames.iter().filter(|frame| !frame.waits());
        let stored: u64 = awake.map(|frame| u64::from(frame.location.frame_stored_len)).sum();
        let workers = self.workers as u64;
        if self.remote {
            let share = (stored / REMOTE_READS).clamp(REMOTE_READ_BYTES_MIN, READ_BYTES_MAX);
            let readers = workers.min(REMOTE_READS_BYTES / share).max(1);
            return (readers as usize, share);
        }
        let share = (READS_BYTES / workers).min(stored / (workers * 4));
        (self.workers, share.clamp(READ_BYTES_MIN, READ_BYTES_MAX))
    }

    /// Tries chunks once more, one by one, wherever they lie.
    fn rescue(&self, window: &Window, mut failed: Vec<u32>) -> Result<()> {
        failed.sort_unstable_by(|a, b| window.uses[*a as usize].id.cmp(&window.uses[*b as usize].id).then(a.cmp(b)));
        let mut newest: Option<(crate::names::ChunkId, repository::Result<Vec<u8>>)> = None;
        for at in failed {
            self.control.go_on()?;
            let Use { id, len, file, offset } = window.uses[at as usize];
            let chunk = match newest.take() {
                Some((newest, chunk)) if newest == id => chunk,
                _ => self.stored.data(&id),
            };
            let file = &window.files[file as usize];
            match &chunk {
                Ok(bytes) if bytes.len() == len as usize => deliver(self.target, self.notes, file, offset, bytes)?,
                Ok(_) => {
                    let failure = Failure::Damaged(format!("its list says that chunk {id} has {len} bytes"));
                    give_up(self.target, self.notes, file, failure)?;
                }
                Err(error) if is_local(error) => {
                    if is_refusal(error) {
                        self.notes.rest().store_failed = true;
                    }
                    give_up(self.target, self.notes, file, Failure::Damaged(told(error)))?;
                }
                Err(_) => {}
            }
            match chunk {
                Err(error) if !is_local(&error) => return Err(error.into()),
                chunk => newest = Some((id, chunk)),
            }
        }
        Ok(())
    }
}

/// Sorts chunks and frames as they lie in packs; packs by the file that needs them first, so that files are written about in the order of their folders.
fn in_pack_order(mut wanted: Vec<Wanted>, mut frames: Vec<Frame>, order: &[u32]) -> (Vec<Wanted>, Vec<Frame>) {
    let mut first_use: HashMap<PackId, u32> = HashMap::new();
    for chunk in &wanted {
        let pack = frames[chunk.frame as usize].location.pack.id;
        let first = order[chunk.uses.0 as usize];
        first_use.entry(pack).and_modify(|known| *known = first.min(*known)).or_insert(first);
    }
    let mut by_place: Vec<u32> = (0..frames.len() as u32).collect();
    by_place.sort_unstable_by_key(|at| {
        let location = &frames[*at as usize].location;
        (first_use.get(&location.pack.id).copied(), location.pack.id, location.frame_offset)
    });
    let mut new_place = vec![0u32; frames.len()];
    for (new, old) in by_place.iter().enumerate() {
        new_place[*old as usize] = new as u32;
    }
    let mut sorted: Vec<Frame> =
        by_place.iter().map(|old| Frame { location: frames[*old as usize].location, wanted: (0, 0) }).collect();
    frames.clear();
    for chunk in &mut wanted {
        chunk.frame = new_place[chunk.frame as usize];
    }
    wanted.sort_unstable_by_key(|chunk| (chunk.frame, chunk.offset));
    for (at, chunk) in wanted.iter().enumerate() {
        let frame = &mut sorted[chunk.frame as usize];
        if frame.wanted.1 == 0 {
            frame.wanted.0 = at as u32;
        }
        frame.wanted.1 = at as u32 + 1;
    }
    (wanted, sorted)
}

/// Empties frames of which little is wanted, by whole files of this window only that have one name. Those files come back, ascending.
fn let_sparse_wait(window: &Window, order: &[u32], wanted: &[Wanted], frames: &mut [Frame], home: &[u32]) -> Vec<u32> {
    let (mut waiting, mut room, mut directories) = (Vec::new(), window.waiting_max(), HashSet::new());
    for (at, frame) in frames.iter_mut().enumerate() {
        let chunks = &wanted[range(frame.wanted)];
        let bytes: u64 = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        if bytes * SPARSE_TIMES >= u64::from(frame.location.frame_plain_len) {
            continue;
        }
        let uses = || chunks.iter().flat_map(|chunk| &order[range(chunk.uses)]).map(|at| &window.uses[*at as usize]);
        // Other names of a file become links to it, at the end of this window.
        let may_wait = |one: &Use| {
            home[one.file as usize] == at as u32 && window.files[one.file as usize].entry.link_group.is_none()
        };
        if !uses().all(may_wait) {
            continue;
        }
        let weight = uses().map(|one| {
            let file = &window.files[one.file as usize];
            USE_BYTES + file.weight() + FOLDER_BYTES * add_directories(&mut directories, &file.entry.path)
        });
        let Some(left) = room.checked_sub(weight.sum()) else { break };
        room = left;
        waiting.extend(uses().map(|one| one.file));
        frame.wanted = (0, 0);
    }
    waiting.sort_unstable();
    waiting.dedup();
    waiting
}

fn stretches(frames: &[Frame], read_bytes: u64) -> Vec<Stretch> {
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut pack = None;
    for (at, frame) in frames.iter().enumerate().filter(|(_, frame)| !frame.waits()) {
        let location = &frame.location;
        let start = u64::from(location.frame_offset);
        let end = start + u64::from(location.frame_stored_len);
        let at = at as u32;
        match stretches.last_mut() {
            Some(last)
                if pack == Some(location.pack.id)
                    && start >= last.range.1
                    && start - last.range.1 <= GAP_BYTES
                    && end - last.range.0 <= read_bytes =>
            {
                last.frames.1 = at + 1;
                last.range.1 = end;
            }
            // The head of a pack is read along with frames that lie close to it.
            _ => stretches
                .push(Stretch { frames: (at, at + 1), range: (if start <= GAP_BYTES { 0 } else { start }, end) }),
        }
        pack = Some(location.pack.id);
    }
    stretches
}

/// What a worker uses again and again.
#[derive(Default)]
struct Bench {
    codec: Codec,
    plain: Vec<u8>,
    /// Uses of chunks of files that this frame holds whole: position of the use, its bytes in the frame, and whether they are good.
    whole: Vec<(u32, u32, u32, bool)>,
}

impl Work<'_, '_, '_> {
    /// One worker's day.
    fn work(&self) {
        let mut bench = Bench::default();
        let done = self.write_idle().and_then(|()| {
            while let Some(stretch) = self.stretches.get(self.next_stretch.fetch_add(1, Ordering::Relaxed)) {
                self.stretch(stretch, &mut bench)?;
            }
            Ok(())
        });
        if let Err(error) = done {
            // The error first: who sees the stop brings an error of his own.
            self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            self.stop.store(true, Ordering::Release);
        }
    }

    /// Another worker's error ends this one's day, too; it is told once.
    fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Acquire) { Err(Error::Cancelled) } else { self.fetcher.control.go_on() }
    }

    fn write_idle(&self) -> Result<()> {
        loop {
            self.go_on()?;
            let start = self.next_idle.fetch_add(IDLE_BATCH, Ordering::Relaxed);
            if start >= self.idle.len() {
                return Ok(());
            }
            for file in &self.idle[start..self.idle.len().min(start + IDLE_BATCH)] {
                settle(self.fetcher.target, self.fetcher.notes, &self.window.files[*file as usize])?;
            }
        }
    }

    fn stretch(&self, stretch: &Stretch, bench: &mut Bench) -> Result<()> {
        let frames = &self.frames[range(stretch.frames)];
        let Some(first) = frames.first() else { return Ok(()) };
        self.go_on()?;
        let fetcher = self.fetcher;
        let pack = &first.location.pack;
        let read = |range: (u64, u64)| -> repository::Result<Vec<u8>> {
            let bytes = fetcher.stored.repository.store.get_range(&keys::pack(pack.kind, pack.id), range.0..range.1)?;
            fetcher.notes.fetched(bytes.len() as u64);
            Ok(bytes)
        };
        let whole = || match read(stretch.range) {
            Ok(bytes) if bytes.len() as u64 == stretch.range.1 - stretch.range.0 => Ok(Some(bytes)),
            Ok(_) => Ok(None),
            // Perhaps the pack ends too early, or one sector is bad: each frame is tried by itself.
            Err(error) if is_local(&error) => Ok(None),
            Err(error) => Err(error),
        };
        // The pack's key lies before its first frame: whoever reads there reads it along. Others read their own bytes first, and find it open then.
        let (early, head) = if stretch.range.0 == 0 { (None, true) } else { (whole()?, false) };
        let opened = match head {
            true => fetcher.packs.opener_or(fetcher.stored.repository, pack, || {
                let head = match whole()? {
                    Some(bytes) => (bytes, true),
                    None => (read((0, pack.kind.head_bytes() as u64))?, false),
                };
                Ok(head)
            }),
            false => fetcher.packs.opener(fetcher.stored.repository, pack).map(|opener| (opener, None)),
        };
        let (opener, mut together) = match opened {
            Ok((opener, Some((bytes, true)))) => (opener, Some(bytes)),
            Ok((opener, Some((_, false)))) => (opener, None),
            // It was open already.
            Ok((opener, None)) => (opener, if head { whole()? } else { early }),
            Err(error) => {
                return frames
                    .iter()
                    .try_for_each(|frame| self.frame_failed(frame, &error))
                    .and_then(|()| passed(error));
            }
        };
        for frame in frames.iter().filter(|frame| !frame.waits()) {
            self.go_on()?;
            let start = u64::from(frame.location.frame_offset);
            let len = u64::from(frame.location.frame_stored_len);
            let mut alone = Vec::new();
            let stored: &mut [u8] = match &mut together {
                Some(bytes) => {
                    let at = (start - stretch.range.0) as usize;
                    &mut bytes[at..at + len as usize]
                }
                None => match read((start, start + len)) {
                    Ok(bytes) => {
                        alone = bytes;
                        &mut alone
                    }
                    Err(error) => {
                        self.frame_failed(frame, &error)?;
                        passed(error)?;
                        continue;
                    }
                },
            };
            let decoded = decode_frame(&opener, &mut bench.codec, &frame.location, stored, &mut bench.plain);
            drop(alone);
            match decoded {
                Ok(()) => self.write_frame(frame, bench)?,
                Err(error) => {
                    self.frame_failed(frame, &error)?;
                    passed(error)?;
                }
            }
        }
        Ok(())
    }

    fn frame_failed(&self, frame: &Frame, error: &repository::Error) -> Result<()> {
        if is_local(error) {
            let chunks = &self.wanted[range(frame.wanted)];
            let uses = chunks.iter().flat_map(|chunk| &self.order[range(chunk.uses)]);
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).extend(uses);
        }
        Ok(())
    }

    /// Checks every chunk of a frame that is wanted, and writes it.
    fn write_frame(&self, frame: &Frame, bench: &mut Bench) -> Result<()> {
        let fetcher = self.fetcher;
        let (plain, whole) = (&bench.plain, &mut bench.whole);
        whole.clear();
        let mut failed = Vec::new();
        for chunk in &self.wanted[range(frame.wanted)] {
            let end = u64::from(chunk.offset) + u64::from(chunk.len);
            let bytes = plain.get(chunk.offset as usize..end as usize);
            let uses = &self.order[range(chunk.uses)];
            let id = uses.first().map(|at| self.window.uses[*at as usize].id);
            let good = bytes.filter(|bytes| Some(fetcher.stored.ids().data(bytes)) == id);
            for at in uses {
                let one = &self.window.uses[*at as usize];
                let good = good.filter(|bytes| bytes.len() == one.len as usize);
                if self.home[one.file as usize] == chunk.frame {
                    whole.push((*at, chunk.offset, end as u32, good.is_some()));
                } else if let Some(bytes) = good {
                    deliver(fetcher.target, fetcher.notes, &self.window.files[one.file as usize], one.offset, bytes)?;
                } else {
                    failed.push(*at);
                }
            }
        }
        // Uses are numbered by file and offset.
        whole.sort_unstable();
        for uses in whole.chunk_by(|a, b| self.window.uses[a.0 as usize].file == self.window.uses[b.0 as usize].file) {
            let file = &self.window.files[self.window.uses[uses[0].0 as usize].file as usize];
            let chunks: Vec<(u64, &[u8])> = uses
                .iter()
                .filter(|one| one.3)
                .map(|one| (self.window.uses[one.0 as usize].offset, &plain[one.1 as usize..one.2 as usize]))
                .collect();
            if chunks.len() == uses.len() {
                write_whole(fetcher.target, fetcher.notes, file, &chunks)?;
                continue;
            }
            for (offset, bytes) in chunks {
                deliver(fetcher.target, fetcher.notes, file, offset, bytes)?;
            }
            failed.extend(uses.iter().filter(|one| !one.3).map(|one| one.0));
        }
        if !failed.is_empty() {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).extend(failed);
        }
        Ok(())
    }
}

/// Lets damage pass: what it hit was noted.
fn passed(error: repository::Error) -> Result<()> {
    if is_local(&error) { Ok(()) } else { Err(error.into()) }
}
