//! Index runs: which chunk lies where, sorted, one block away (`FORMAT.md`, section 7).
//!
//! Owns the plaintext of deltas and segments: writing in order, merging, looking up. Refuses stores and seals: blocks come and go through closures.
//! Memory of an open run: 9.2 bits a chunk for the filters, 0.7 for the fences, both as they are stored and once, and 48 bytes a pack; entries and frames stay
//! where they are. A merge takes no more than that for its fences: the filters are made while the ids come by a second time.

use std::ops::Range;
use std::sync::Arc;

use xorf::{BinaryFuse8, BinaryFuse8Ref, DmaSerializable, Filter, FilterRef};

use crate::names::{ChunkId, PackId, SessionId};
use crate::pack::container::PackKind;
use crate::pack::wire::{Malformed, Reader};
use crate::seal::cipher::{SEGMENT_BYTES, TAG_BYTES};
use crate::seal::compress::FRAME_BYTES_MAX;

pub const BLOCK_BYTES: usize = SEGMENT_BYTES;
const ENTRY_BYTES: usize = 44;
const FRAME_BYTES: usize = 16;
const PACK_BYTES: usize = 41;
const FENCE_BYTES: usize = 8;
const NAME_BYTES: usize = 24;
const ENTRIES_PER_BLOCK: usize = BLOCK_BYTES / ENTRY_BYTES;
const FRAMES_PER_BLOCK: usize = BLOCK_BYTES / FRAME_BYTES;
const FILTER_ENTRIES: usize = 1 << 18;
const FOOTER_MAGIC: [u8; 8] = *b"LIFERUN1";
const FOOTER_BYTES: usize = 8 + 8 + 8 + 4 + 4 + 8;
/// A delta is no segment: this in the place of an epoch.
const NO_EPOCH: u32 = u32::MAX;

const _: () = assert!(ENTRIES_PER_BLOCK == 93 && FRAMES_PER_BLOCK == 256, "FORMAT.md, section 7");

/// A pack as runs list it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackRow {
    pub id: PackId,
    pub kind: PackKind,
    /// Bytes as stored.
    pub size: u64,
}

/// A frame as runs list it. `pack` is a position in the run's packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRow {
    pub pack: u32,
    pub offset: u32,
    pub stored_len: u32,
    pub plain_len: u32,
}

/// A chunk as runs list it. `frame` is a position in the run's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRow {
    pub id: ChunkId,
    pub frame: u32,
    /// In the frame's plaintext.
    pub offset: u32,
    pub len: u32,
}

/// Where a chunk lies, whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    pub pack: PackRow,
    pub frame_offset: u32,
    pub frame_stored_len: u32,
    pub frame_plain_len: u32,
    pub offset: u32,
    pub len: u32,
}

/// The name of an index object without its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunName {
    pub session: SessionId,
    pub sequence: u32,
    /// Set for a delta, none for a segment.
    pub epoch: Option<u32>,
}

fn filter_key(id: &ChunkId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&id.0[..8]);
    u64::from_le_bytes(first)
}

/// Filters in the making, as they are stored.
#[derive(Default)]
struct Filters {
    keys: Vec<u64>,
    bytes: Vec<u8>,
}

impl Filters {
    fn add(&mut self, id: &ChunkId) {
        self.keys.push(filter_key(id));
        if self.keys.len() == FILTER_ENTRIES {
            self.close();
        }
    }

    fn close(&mut self) {
        self.keys.sort_unstable();
        self.keys.dedup();
        if self.keys.is_empty() {
            return;
        }
        let filter = BinaryFuse8::try_from(self.keys.as_slice()).expect("distinct keys make a filter");
        self.keys.clear();
        let mut descriptor = [0; BinaryFuse8::DESCRIPTOR_LEN];
        filter.dma_copy_descriptor_to(&mut descriptor);
        self.bytes.push(descriptor.len() as u8);
        self.bytes.extend_from_slice(&descriptor);
        let fingerprints = filter.dma_fingerprints();
        self.bytes.extend_from_slice(&(fingerprints.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(fingerprints);
    }
}

/// Writes a run: entries in order, then frames, then the rest. Blocks are handed on as they fill.
pub struct RunWriter<F> {
    emit: F,
    block: Vec<u8>,
    entries: u64,
    frames: u64,
    last: Option<ChunkId>,
    fences: Vec<u8>,
    /// None: whoever writes goes through the ids again for them.
    filters: Option<Filters>,
    tail: u64,
}

impl<E, F: FnMut(&[u8]) -> Result<(), E>> RunWriter<F> {
    pub fn new(emit: F) -> Self {
        Self { filters: Some(Filters::default()), ..Self::without_filters(emit) }
    }

    fn without_filters(emit: F) -> Self {
        let block = Vec::with_capacity(BLOCK_BYTES);
        Self { emit, block, entries: 0, frames: 0, last: None, fences: Vec::new(), filters: None, tail: 0 }
    }

    fn flush(&mut self) -> Result<(), E> {
        if !self.block.is_empty() {
            self.block.resize(BLOCK_BYTES, 0);
            (self.emit)(&self.block)?;
            self.block.clear();
        }
        Ok(())
    }

    /// Adds an entry; ids must grow. An id that was just added is dropped.
    pub fn entry(&mut self, entry: &EntryRow) -> Result<(), E> {
        assert!(self.frames == 0, "entries come before frames");
        match self.last {
            Some(last) if last == entry.id => return Ok(()),
            last => assert!(last.is_none_or(|last| last < entry.id), "entries come in order"),
        }
        self.last = Some(entry.id);
        if self.block.is_empty() {
            self.fences.extend_from_slice(&entry.id.0[..8]);
        }
        self.block.extend_from_slice(&entry.id.0);
        for number in [entry.frame, entry.offset, entry.len] {
            self.block.extend_from_slice(&number.to_le_bytes());
        }
        self.entries += 1;
        if let Some(filters) = &mut self.filters {
            filters.add(&entry.id);
        }
        if self.block.len() == ENTRIES_PER_BLOCK * ENTRY_BYTES { self.flush() } else { Ok(()) }
    }

    pub fn frame(&mut self, frame: &FrameRow) -> Result<(), E> {
        if self.frames == 0 {
            self.flush()?;
        }
        for number in [frame.pack, frame.offset, frame.stored_len, frame.plain_len] {
            self.block.extend_from_slice(&number.to_le_bytes());
        }
        self.frames += 1;
        if self.block.len() == BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    /// Ends the run and returns its last block, the footer.
    pub fn finish(mut self, packs: &[PackRow], replaced: &[RunName]) -> Result<Vec<u8>, E> {
        self.begin_tail(packs)?;
        if let Some(mut filters) = self.filters.take() {
            filters.close();
            self.tail(&filters.bytes)?;
        }
        self.end(packs, replaced)
    }

    /// Packs and fences; the filters are next.
    fn begin_tail(&mut self, packs: &[PackRow]) -> Result<(), E> {
        self.flush()?;
        for pack in packs {
            self.tail(&pack.id.0)?;
            self.tail(&[pack.kind as u8])?;
            self.tail(&pack.size.to_le_bytes())?;
        }
        let fences = std::mem::take(&mut self.fences);
        self.tail(&fences)
    }

    fn tail(&mut self, mut bytes: &[u8]) -> Result<(), E> {
        self.tail += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            if self.block.len() == BLOCK_BYTES {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn end(mut self, packs: &[PackRow], replaced: &[RunName]) -> Result<Vec<u8>, E> {
        for name in replaced {
            self.tail(&name.session.0)?;
            self.tail(&name.sequence.to_le_bytes())?;
            self.tail(&name.epoch.unwrap_or(NO_EPOCH).to_le_bytes())?;
        }
        self.flush()?;
        let mut footer = FOOTER_MAGIC.to_vec();
        footer.extend_from_slice(&self.entries.to_le_bytes());
        footer.extend_from_slice(&self.frames.to_le_bytes());
        footer.extend_from_slice(&(packs.len() as u32).to_le_bytes());
        footer.extend_from_slice(&(replaced.len() as u32).to_le_bytes());
        footer.extend_from_slice(&self.tail.to_le_bytes());
        Ok(footer)
    }
}

/// Why a run could not be read. `E` is the error of whoever brings blocks.
#[derive(Debug, thiserror::Error)]
pub enum RunError<E: std::error::Error + 'static> {
    #[error(transparent)]
    Read(E),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Brings the blocks of a run.
pub trait Blocks {
    type Error: std::error::Error + 'static;
    fn blocks(&self) -> u64;
    /// One block, for a lookup: the next may want it again.
    fn block(&self, number: u64) -> Result<Arc<Vec<u8>>, Self::Error>;
    /// The blocks of `numbers` one after the other, for whoever goes through a run: nobody will want them again.
    fn stretch(&self, numbers: Range<u64>) -> Result<Vec<u8>, Self::Error>;
}

/// Blocks of a stretch while a run is opened: 4 MiB, for as long as that takes.
const TAIL_STRETCH: u64 = 1024;
/// Blocks of a stretch while entries or frames are gone through: 256 KiB for each run of a merge.
const STRETCH: u64 = 64;

/// An open run.
pub struct Run<B: Blocks> {
    blocks: B,
    entries: u64,
    frames: u64,
    packs: Vec<PackRow>,
    /// Fences, then filters, as they are stored.
    map: Vec<u8>,
    /// Where each filter stands in `map`: its descriptor, its fingerprints.
    filters: Vec<(Range<usize>, Range<usize>)>,
    replaced: Vec<RunName>,
}

/// The tail of a run, read from its beginning to its end.
struct Tail<'a, B> {
    blocks: &'a B,
    next: u64,
    end: u64,
    piece: Vec<u8>,
    at: usize,
}

impl<B: Blocks> Tail<'_, B> {
    /// The next `len` bytes.
    fn take(&mut self, len: u64) -> Result<Vec<u8>, RunError<B::Error>> {
        let len = usize::try_from(len).map_err(|_| Malformed("it is too large"))?;
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            if self.at == self.piece.len() {
                let stretch = self.next..self.end.min(self.next + TAIL_STRETCH);
                if stretch.is_empty() {
                    return Err(Malformed("it ends too early").into());
                }
                self.next = stretch.end;
                self.at = 0;
                self.piece = Vec::new(); // before the next is there
                self.piece = self.blocks.stretch(stretch).map_err(RunError::Read)?;
            }
            let rest = &self.piece[self.at..];
            let now = rest.len().min(len - bytes.len());
            bytes.extend_from_slice(&rest[..now]);
            self.at += now;
        }
        Ok(bytes)
    }
}

/// Whether every key would be looked for within the fingerprints: the filter itself trusts its descriptor (seed u64, length of a segment, its mask,
/// length of all segments but the last two).
fn check_filter(descriptor: &[u8], fingerprints: usize) -> Result<(), Malformed> {
    let mut reader = Reader::new(descriptor);
    let (_, segment, mask, starts) = (reader.u64()?, reader.u32()?, reader.u32()?, reader.u32()?);
    let needed = u64::from(starts) + 2 * u64::from(segment);
    if !segment.is_power_of_two()
        || mask != segment - 1
        || starts == 0
        || !starts.is_multiple_of(segment)
        || needed > fingerprints as u64
    {
        return Err(Malformed("a filter points outside itself"));
    }
    Ok(())
}

fn entry_id(block: &[u8], at: usize) -> Option<&[u8]> {
    block.get(at * ENTRY_BYTES..at * ENTRY_BYTES + 32)
}

fn get_entry(block: &[u8], at: usize) -> Option<EntryRow> {
    let bytes = block.get(at * ENTRY_BYTES..(at + 1) * ENTRY_BYTES)?;
    let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let mut id = [0; 32];
    id.copy_from_slice(&bytes[..32]);
    Some(EntryRow { id: ChunkId(id), frame: number(32), offset: number(36), len: number(40) })
}

fn read_packs(bytes: &[u8]) -> Result<Vec<PackRow>, Malformed> {
    let row = |bytes| {
        let mut reader = Reader::new(bytes);
        let id = PackId(reader.array()?);
        let kind = PackKind::from_number(reader.u8()?).ok_or(Malformed("a pack has an unknown kind"))?;
        Ok(PackRow { id, kind, size: reader.u64()? })
    };
    bytes.chunks(PACK_BYTES).map(row).collect()
}

fn read_names(bytes: &[u8]) -> Result<Vec<RunName>, Malformed> {
    let name = |bytes| {
        let mut reader = Reader::new(bytes);
        let (session, sequence, epoch) = (SessionId(reader.array()?), reader.u32()?, reader.u32()?);
        Ok(RunName { session, sequence, epoch: (epoch != NO_EPOCH).then_some(epoch) })
    };
    bytes.chunks(NAME_BYTES).map(name).collect()
}

/// Where the filters of so many entries stand, from `start` to the end of `map`.
#[allow(clippy::type_complexity)] // as `Run::filters`
fn place_filters(map: &[u8], start: usize, entries: u64) -> Result<Vec<(Range<usize>, Range<usize>)>, Malformed> {
    let mut reader = Reader::new(&map[start..]);
    let mut places = Vec::new();
    for _ in 0..entries.div_ceil(FILTER_ENTRIES as u64) {
        if usize::from(reader.u8()?) != BinaryFuse8::DESCRIPTOR_LEN {
            return Err(Malformed("a filter is of another kind"));
        }
        let at = map.len() - reader.remaining();
        let descriptor = at..at + BinaryFuse8::DESCRIPTOR_LEN;
        reader.bytes(descriptor.len())?;
        let len = reader.u32()? as usize;
        let at = map.len() - reader.remaining();
        reader.bytes(len)?;
        check_filter(&map[descriptor.clone()], len)?;
        places.push((descriptor, at..at + len));
    }
    if reader.is_empty() { Ok(places) } else { Err(Malformed("its parts do not add up")) }
}

impl<B: Blocks> Run<B> {
    pub fn open(blocks: B) -> Result<Self, RunError<B::Error>> {
        let count = blocks.blocks();
        let last = count.checked_sub(1).ok_or(Malformed("it has no footer"))?;
        let footer = blocks.block(last).map_err(RunError::Read)?;
        let mut reader = Reader::new(&footer);
        if reader.array::<8>()? != FOOTER_MAGIC || footer.len() != FOOTER_BYTES {
            return Err(Malformed("it has no footer").into());
        }
        let (entries, frames) = (reader.u64()?, reader.u64()?);
        let (packs, replaced, tail_len) = (reader.u32()?, reader.u32()?, reader.u64()?);
        let entry_blocks = entries.div_ceil(ENTRIES_PER_BLOCK as u64);
        let frame_blocks = frames.div_ceil(FRAMES_PER_BLOCK as u64);
        let tail_blocks = tail_len.div_ceil(BLOCK_BYTES as u64);
        let whole = entry_blocks.checked_add(frame_blocks).and_then(|sum| sum.checked_add(tail_blocks));
        if whole != Some(last) || frames > u64::from(u32::MAX) {
            return Err(Malformed("its parts do not add up").into());
        }
        let packs_len = u64::from(packs) * PACK_BYTES as u64;
        let fences_len = entry_blocks * FENCE_BYTES as u64;
        let names_len = u64::from(replaced) * NAME_BYTES as u64;
        let filters_len = [packs_len, fences_len, names_len]
            .into_iter()
            .try_fold(tail_len, u64::checked_sub)
            .ok_or(Malformed("its parts do not add up"))?;
        let mut tail = Tail { blocks: &blocks, next: entry_blocks + frame_blocks, end: last, piece: vec![], at: 0 };
        let packs = read_packs(&tail.take(packs_len)?)?;
        let map = tail.take(fences_len + filters_len)?;
        let filters = place_filters(&map, fences_len as usize, entries)?;
        let replaced = read_names(&tail.take(names_len)?)?;
        Ok(Self { blocks, entries, frames, packs, map, filters, replaced })
    }

    pub fn entries(&self) -> u64 {
        self.entries
    }

    pub fn packs(&self) -> &[PackRow] {
        &self.packs
    }

    pub fn replaced(&self) -> &[RunName] {
        &self.replaced
    }

    pub fn source(&self) -> &B {
        &self.blocks
    }

    /// The entry block that would hold `id`.
    fn block_of(&self, id: &ChunkId) -> Option<u64> {
        // Two blocks may share a fence only if eight bytes of their ids agree; then the earlier is tried and the later follows.
        let blocks = self.entries.div_ceil(ENTRIES_PER_BLOCK as u64) as usize;
        let after = partition(blocks, |at| self.fence(at as u64) <= &id.0[..FENCE_BYTES]);
        after.checked_sub(1).map(|at| at as u64)
    }

    fn fence(&self, block: u64) -> &[u8] {
        let at = block as usize * FENCE_BYTES;
        &self.map[at..at + FENCE_BYTES]
    }

    fn may_contain(&self, id: &ChunkId) -> Option<u64> {
        let block = self.block_of(id)?;
        // A block may straddle two filters: 262,144 is no multiple of 93.
        let first = block * ENTRIES_PER_BLOCK as u64 / FILTER_ENTRIES as u64;
        let last = ((block + 1) * ENTRIES_PER_BLOCK as u64 - 1) / FILTER_ENTRIES as u64;
        let key = filter_key(id);
        (first..=last)
            .filter_map(|at| self.filters.get(at as usize))
            .any(|(descriptor, fingerprints)| {
                let (descriptor, fingerprints) = (&self.map[descriptor.clone()], &self.map[fingerprints.clone()]);
                BinaryFuse8Ref::from_dma(descriptor, fingerprints).contains(&key)
            })
            .then_some(block)
    }

    /// A chunk's entry.
    pub fn find(&self, id: &ChunkId) -> Result<Option<EntryRow>, RunError<B::Error>> {
        let Some(mut number) = self.may_contain(id) else { return Ok(None) };
        loop {
            let block = self.blocks.block(number).map_err(RunError::Read)?;
            let count = self.entries_in(number);
            let at = partition(count, |at| entry_id(&block, at).is_some_and(|there| there < id.0.as_slice()));
            match get_entry(&block, at).filter(|_| at < count) {
                Some(entry) if entry.id == *id => return Ok(Some(entry)),
                // Equal fences: the id may stand one block before.
                _ if at == 0 && number > 0 && self.fence(number) == &id.0[..FENCE_BYTES] => number -= 1,
                _ => return Ok(None),
            }
        }
    }

    fn entries_in(&self, block: u64) -> usize {
        (self.entries - block * ENTRIES_PER_BLOCK as u64).min(ENTRIES_PER_BLOCK as u64) as usize
    }

    pub fn contains(&self, id: &ChunkId) -> Result<bool, RunError<B::Error>> {
        Ok(self.find(id)?.is_some())
    }

    pub fn locate(&self, id: &ChunkId) -> Result<Option<Location>, RunError<B::Error>> {
        self.locate_outside(id, &Frames::default())
    }

    /// The same, unless it lies in one of these frames.
    pub fn locate_outside(&self, id: &ChunkId, hidden: &Frames) -> Result<Option<Location>, RunError<B::Error>> {
        match self.find(id)?.filter(|entry| !hidden.contains(entry.frame)) {
            None => Ok(None),
            Some(entry) => self.resolve(&entry).map(Some),
        }
    }

    fn resolve(&self, entry: &EntryRow) -> Result<Location, RunError<B::Error>> {
        let frame = self.frame(entry.frame)?;
        let pack = *self.packs.get(frame.pack as usize).ok_or(Malformed("a frame names no pack"))?;
        if entry.offset.checked_add(entry.len).is_none_or(|end| end > frame.plain_len) {
            return Err(Malformed("a chunk lies outside its frame").into());
        }
        // Incompressible plaintext, codec byte and tag: no frame is stored in more.
        let stored_max = FRAME_BYTES_MAX + 1 + TAG_BYTES;
        if frame.plain_len as usize > FRAME_BYTES_MAX || frame.stored_len as usize > stored_max {
            return Err(Malformed("a frame is longer than any").into());
        }
        if u64::from(frame.offset) + u64::from(frame.stored_len) > pack.size {
            return Err(Malformed("a frame lies outside its pack").into());
        }
        Ok(Location {
            pack,
            frame_offset: frame.offset,
            frame_stored_len: frame.stored_len,
            frame_plain_len: frame.plain_len,
            offset: entry.offset,
            len: entry.len,
        })
    }

    fn frame(&self, number: u32) -> Result<FrameRow, RunError<B::Error>> {
        if u64::from(number) >= self.frames {
            return Err(Malformed("a chunk names no frame").into());
        }
        let start = self.entries.div_ceil(ENTRIES_PER_BLOCK as u64);
        let block = self.blocks.block(start + u64::from(number) / FRAMES_PER_BLOCK as u64).map_err(RunError::Read)?;
        let at = number as usize % FRAMES_PER_BLOCK * FRAME_BYTES;
        Ok(get_frame(block.get(at..).unwrap_or_default())?)
    }

    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Calls `each` for every frame, in order.
    pub fn each_frame(&self, mut each: impl FnMut(FrameRow)) -> Result<(), RunError<B::Error>> {
        let mut block = self.entries.div_ceil(ENTRIES_PER_BLOCK as u64);
        let end = block + self.frames.div_ceil(FRAMES_PER_BLOCK as u64);
        let mut left = self.frames;
        while block < end {
            let stretch = block..end.min(block + STRETCH);
            block = stretch.end;
            let bytes = self.blocks.stretch(stretch).map_err(RunError::Read)?;
            for row in bytes.chunks(FRAME_BYTES).take(usize::try_from(left).unwrap_or(usize::MAX)) {
                each(get_frame(row)?);
                left -= 1;
            }
        }
        if left == 0 { Ok(()) } else { Err(Malformed("a frame block is short").into()) }
    }

    /// Entries in order, read many blocks at a time.
    pub fn iter(&self) -> Entries<'_, B> {
        Entries { run: self, stretch: Vec::new(), blocks: 0..0, at: 0 }
    }
}

fn get_frame(row: &[u8]) -> Result<FrameRow, Malformed> {
    let mut reader = Reader::new(row);
    Ok(FrameRow { pack: reader.u32()?, offset: reader.u32()?, stored_len: reader.u32()?, plain_len: reader.u32()? })
}

fn partition(count: usize, mut before: impl FnMut(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// See `Run::iter`.
pub struct Entries<'a, B: Blocks> {
    run: &'a Run<B>,
    /// The first block is the one at hand.
    stretch: Vec<u8>,
    /// What of `stretch` is left.
    blocks: Range<u64>,
    at: usize,
}

impl<B: Blocks> Entries<'_, B> {
    fn advance(&mut self) -> Result<Option<EntryRow>, RunError<B::Error>> {
        let all = self.run.entries.div_ceil(ENTRIES_PER_BLOCK as u64);
        while self.blocks.is_empty() || self.at == self.run.entries_in(self.blocks.start) {
            if !self.blocks.is_empty() {
                self.blocks.start += 1;
                self.at = 0;
            }
            if self.blocks.start == all {
                return Ok(None);
            }
            if self.blocks.is_empty() {
                let stretch = self.blocks.start..all.min(self.blocks.start + STRETCH);
                self.stretch = self.run.blocks.stretch(stretch.clone()).map_err(RunError::Read)?;
                self.blocks = stretch;
            }
        }
        // Counted from its end: the stretch ends where `blocks` does.
        let left = (self.blocks.end - self.blocks.start) as usize * BLOCK_BYTES;
        let block = self.stretch.len().checked_sub(left).map(|start| &self.stretch[start..]);
        let entry = block.and_then(|block| get_entry(block, self.at));
        self.at += 1;
        entry.map(Some).ok_or(Malformed("an entry block is short").into())
    }
}

impl<B: Blocks> Iterator for Entries<'_, B> {
    type Item = Result<EntryRow, RunError<B::Error>>;
    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// Some of a run's frames, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames(Vec<Range<u32>>);

impl Frames {
    fn add(&mut self, frame: u32) {
        match self.0.last_mut() {
            Some(last) if last.end == frame => last.end += 1,
            _ => self.0.push(frame..frame + 1),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, frame: u32) -> bool {
        let after = self.0.partition_point(|range| range.start <= frame);
        after > 0 && frame < self.0[after - 1].end
    }

    /// How many of them come before `frame`.
    fn before(&self, frame: u32) -> u32 {
        let count = |range: &Range<u32>| range.end.min(frame) - range.start;
        self.0.iter().take_while(|range| range.start < frame).map(count).sum()
    }

    pub fn len(&self) -> u64 {
        self.0.iter().map(|range| u64::from(range.end - range.start)).sum()
    }
}

impl<B: Blocks> Run<B> {
    /// The frames of packs that are meant.
    pub fn frames_of(&self, is_meant: impl Fn(&PackRow) -> bool) -> Result<Frames, RunError<B::Error>> {
        let meant: Vec<bool> = self.packs.iter().map(is_meant).collect();
        let (mut frames, mut number) = (Frames::default(), 0);
        if meant.contains(&true) {
            self.each_frame(|frame| {
                if meant.get(frame.pack as usize) == Some(&true) {
                    frames.add(number);
                }
                number += 1;
            })?;
        }
        Ok(frames)
    }
}

/// Merges `runs` into one that replaces `replaced`, each without some of its frames and what they hold. An id that several hold is taken from the first.
pub fn merge<B: Blocks, E, F>(
    runs: &[(&Run<B>, Frames)],
    replaced: &[RunName],
    emit: F,
) -> Result<Vec<u8>, MergeError<E, B::Error>>
where
    F: FnMut(&[u8]) -> Result<(), E>,
{
    let mut writer = RunWriter::without_filters(emit);
    let mut frame_bases = Vec::with_capacity(runs.len());
    let mut frames = 0u64;
    for (run, left_out) in runs {
        frame_bases.push(frames as u32);
        frames += run.frames.saturating_sub(left_out.len());
    }
    if frames > u64::from(u32::MAX) {
        return Err(MergeError::Read(Malformed("too many frames for one segment").into()));
    }
    let mut union = Union::of(runs).map_err(MergeError::Read)?;
    while let Some((at, mut entry)) = union.next().map_err(MergeError::Read)? {
        let (run, left_out) = &runs[at];
        if u64::from(entry.frame) >= run.frames {
            return Err(MergeError::Read(Malformed("a chunk names no frame").into()));
        }
        entry.frame = entry.frame - left_out.before(entry.frame) + frame_bases[at];
        writer.entry(&entry).map_err(MergeError::Write)?;
    }
    let mut packs = Vec::new();
    for (run, left_out) in runs {
        // Where each pack stands in the merged run, once a frame of it does.
        let mut places: Vec<Option<u32>> = vec![None; run.packs.len()];
        let (mut failed, mut stray, mut number) = (None, false, 0);
        run.each_frame(|mut frame| {
            number += 1;
            if left_out.contains(number - 1) {
                return;
            }
            let Some(place) = places.get_mut(frame.pack as usize) else {
                stray = true;
                return;
            };
            frame.pack = *place.get_or_insert_with(|| {
                packs.push(run.packs[frame.pack as usize]);
                packs.len() as u32 - 1
            });
            if failed.is_none() {
                failed = writer.frame(&frame).err();
            }
        })
        .map_err(MergeError::Read)?;
        if stray {
            return Err(MergeError::Read(Malformed("a frame names no pack").into()));
        }
        if let Some(error) = failed {
            return Err(MergeError::Write(error));
        }
    }
    writer.begin_tail(&packs).map_err(MergeError::Write)?;
    let mut filters = Filters::default();
    let mut union = Union::of(runs).map_err(MergeError::Read)?;
    while let Some((_, entry)) = union.next().map_err(MergeError::Read)? {
        filters.add(&entry.id);
        writer.tail(&filters.bytes).map_err(MergeError::Write)?;
        filters.bytes.clear();
    }
    filters.close();
    writer.tail(&filters.bytes).map_err(MergeError::Write)?;
    writer.end(&packs, replaced).map_err(MergeError::Write)
}

/// The entries of several runs in order, each id once, from the first run that has it.
struct Union<'a, B: Blocks> {
    cursors: Vec<(Option<EntryRow>, Entries<'a, B>)>,
    left_out: Vec<&'a Frames>,
    last: Option<ChunkId>,
}

impl<'a, B: Blocks> Union<'a, B> {
    fn of(runs: &'a [(&'a Run<B>, Frames)]) -> Result<Self, RunError<B::Error>> {
        let cursor = |(run, _): &'a (&'a Run<B>, Frames)| -> Result<_, RunError<B::Error>> {
            let mut entries = run.iter();
            Ok((entries.advance()?, entries))
        };
        let left_out = runs.iter().map(|(_, left_out)| left_out).collect();
        Ok(Self { cursors: runs.iter().map(cursor).collect::<Result<_, _>>()?, left_out, last: None })
    }

    /// The next entry, and the place of its run.
    fn next(&mut self) -> Result<Option<(usize, EntryRow)>, RunError<B::Error>> {
        loop {
            let heads = self.cursors.iter().enumerate().filter_map(|(at, (head, _))| head.map(|entry| (entry.id, at)));
            let Some((id, at)) = heads.min() else { return Ok(None) };
            let (head, entries) = &mut self.cursors[at];
            let entry = std::mem::replace(head, entries.advance()?);
            if entry.is_some_and(|entry| self.left_out[at].contains(entry.frame)) {
                continue;
            }
            match (self.last.replace(id), entry) {
                (Some(last), _) if id < last => return Err(Malformed("entries are out of order").into()),
                (Some(last), _) if id == last => {}
                (_, entry) => return Ok(entry.map(|entry| (at, entry))),
            }
        }
    }
}

#[derive(Debug)]
pub enum MergeError<W, R: std::error::Error + 'static> {
    Write(W),
    Read(RunError<R>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    struct Memory(Vec<Arc<Vec<u8>>>);

    impl Blocks for Memory {
        type Error = Infallible;
        fn blocks(&self) -> u64 {
            self.0.len() as u64
        }
        fn block(&self, number: u64) -> Result<Arc<Vec<u8>>, Infallible> {
            Ok(self.0[number as usize].clone())
        }
        fn stretch(&self, numbers: Range<u64>) -> Result<Vec<u8>, Infallible> {
            Ok(numbers.flat_map(|number| self.0[number as usize].to_vec()).collect())
        }
    }

    fn pack(number: u8) -> PackRow {
        PackRow { id: PackId([number; 32]), kind: PackKind::Data, size: 1 << 24 }
    }

    fn id(number: u64) -> ChunkId {
        ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn run(numbers: impl Iterator<Item = u64>, packs: &[PackRow], replaced: &[RunName]) -> Run<Memory> {
        let mut entries: Vec<EntryRow> =
            numbers.map(|n| EntryRow { id: id(n), frame: (n % 300) as u32, offset: 5, len: n as u32 % 50 }).collect();
        entries.sort_by_key(|entry| entry.id);
        let mut blocks = Vec::new();
        let mut writer = RunWriter::new(|block: &[u8]| -> Result<(), Infallible> {
            assert_eq!(block.len(), BLOCK_BYTES);
            blocks.push(Arc::new(block.to_vec()));
            Ok(())
        });
        for entry in &entries {
            writer.entry(entry).unwrap();
        }
        for n in 0..300 {
            let pack = n % packs.len() as u32;
            writer.frame(&FrameRow { pack, offset: n * 100, stored_len: 100, plain_len: 100 }).unwrap();
        }
        let footer = writer.finish(packs, replaced).unwrap();
        blocks.push(Arc::new(footer));
        Run::open(Memory(blocks)).unwrap()
    }

    #[test]
    fn what_was_written_is_found_and_nothing_else() {
        let name = RunName { session: SessionId([3; 16]), sequence: 4, epoch: Some(0) };
        let run = run(0..1000, &[pack(1), pack(2)], &[name]);
        for n in 0..1000 {
            let found = run.locate(&id(n)).unwrap().unwrap();
            assert_eq!((found.len, found.frame_offset), (n as u32 % 50, (n % 300) as u32 * 100));
            assert_eq!(found.pack, pack(1 + (n % 300 % 2) as u8));
        }
        assert!((1000..3000).all(|n| run.locate(&id(n)).unwrap().is_none()));
        assert_eq!(run.iter().count(), 1000);
        assert!(run.iter().map(|entry| entry.unwrap().id).is_sorted());
        assert_eq!(run.replaced(), [name]);
    }

    #[test]
    fn a_filter_that_points_outside_itself_is_refused() {
        let filter = BinaryFuse8::try_from([1u64, 2, 3].as_slice()).unwrap();
        let mut good = vec![0; BinaryFuse8::DESCRIPTOR_LEN];
        filter.dma_copy_descriptor_to(&mut good);
        let len = filter.dma_fingerprints().len();
        assert_eq!(check_filter(&good, len), Ok(()));
        for count in 1..2000u64 {
            let keys: Vec<u64> = (0..count).map(|n| filter_key(&id(n))).collect();
            let filter = BinaryFuse8::try_from(keys.as_slice()).unwrap();
            let mut descriptor = vec![0; BinaryFuse8::DESCRIPTOR_LEN];
            filter.dma_copy_descriptor_to(&mut descriptor);
            assert_eq!(check_filter(&descriptor, filter.dma_fingerprints().len()), Ok(()), "{count} keys");
        }
        assert!(check_filter(&good, len - 1).is_err());
        for at in [8, 12, 16] {
            let mut bent = good.clone();
            bent[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(check_filter(&bent, len).is_err(), "field at {at}");
        }
    }

    #[test]
    fn an_empty_run_is_a_run() {
        let run = run(0..0, &[pack(1)], &[]);
        assert_eq!(run.iter().count(), 0);
        assert!(!run.contains(&id(1)).unwrap());
    }

    #[test]
    fn filters_of_many_entries_let_every_one_through() {
        let run = run(0..300_000, &[pack(1)], &[]);
        assert_eq!(run.filters.len(), 2);
        assert!((0..300_000).all(|n| run.may_contain(&id(n)).is_some()));
        let passed = (300_000..310_000).filter(|n| run.may_contain(&id(*n)).is_some()).count();
        assert!(passed < 200, "{passed} of 10000 strangers passed");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_merge_is_the_union(split in 1u64..400, overlap in 0u64..100) {
            let (a, b) = (run(0..split, &[pack(1)], &[]), run(split.saturating_sub(overlap)..500, &[pack(2)], &[]));
            let mut blocks = Vec::new();
            let footer = merge(&[(&a, Frames::default()), (&b, Frames::default())], &[], |block: &[u8]| -> Result<(), Infallible> {
                blocks.push(Arc::new(block.to_vec()));
                Ok(())
            }).unwrap_or_else(|_| unreachable!());
            blocks.push(Arc::new(footer));
            let merged = Run::open(Memory(blocks)).unwrap();
            prop_assert_eq!(merged.entries(), 500);
            for n in 0..500 {
                let expected = a.locate(&id(n)).unwrap().or(b.locate(&id(n)).unwrap());
                prop_assert_eq!(merged.locate(&id(n)).unwrap(), expected);
            }
        }

        #[test]
        fn a_merge_leaves_out_what_it_is_told_to(split in 1u64..400, overlap in 0u64..100) {
            let (a, b) = (run(0..split, &[pack(1)], &[]), run(split.saturating_sub(overlap)..500, &[pack(2)], &[]));
            let without = a.frames_of(|row| row.id == pack(1).id).unwrap();
            let mut blocks = Vec::new();
            let footer = merge(&[(&a, without), (&b, Frames::default())], &[], |block: &[u8]| -> Result<(), Infallible> {
                blocks.push(Arc::new(block.to_vec()));
                Ok(())
            }).unwrap_or_else(|_| unreachable!());
            blocks.push(Arc::new(footer));
            let merged = Run::open(Memory(blocks)).unwrap();
            prop_assert_eq!(merged.packs(), b.packs());
            for n in 0..500 {
                prop_assert_eq!(merged.locate(&id(n)).unwrap(), b.locate(&id(n)).unwrap());
            }
        }

        #[test]
        fn no_bytes_panic_the_reader(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..4), entries in any::<u64>()) {
            let mut blocks: Vec<_> = blocks.into_iter().map(Arc::new).collect();
            let mut footer = FOOTER_MAGIC.to_vec();
            footer.extend_from_slice(&entries.to_le_bytes());
            footer.extend_from_slice(&[0; 24]);
            let _ = Run::open(Memory(blocks.clone()));
            blocks.push(Arc::new(footer));
            if let Ok(run) = Run::open(Memory(blocks)) {
                let _ = run.locate(&id(1));
            }
        }
    }
}
