//! Packs: their footers, their names, and what is in them.
//!
//! Owns the workers. Each reads one pack after the other, from its first byte to its last, in ranges of at most 4 MiB. Memory of a worker: one range, one stored frame and its
//! plaintext (about 2 MiB each, at most 18), and the pack's table (36 bytes a chunk): about 9 MiB. Eight workers are 72 MiB, beside 8 MiB of index blocks. Far away two
//! more ranges are on their way for each (`pieces`), and the pack's end comes with its begin: 140 MiB.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::check::{Check, Listing};
use super::runs::suspect;
use super::{Error, Result, pieces};
use crate::names::{ChunkId, ObjectKey};
use crate::pack::container::{
    FOOTER_BYTES, Frame, FrameOpener, Owner, PACK_BYTES_MAX, PackError, PackHead, PackKind, Table, parse_footer,
};
use crate::pack::keys;
use crate::pack::run::PackRow;
use crate::repository::{Index, both};
use crate::seal::compress::{Codec, FRAME_BYTES_MAX};
use crate::seal::key::IdKeys;
use crate::seal::stanza::To;

const PIECE_BYTES: u64 = 4 << 20;
/// Far away so much of a pack's end is read with its begin: footer and table, of 14 000 chunks at most, and the last frames.
const TAIL_BYTES: u64 = 512 << 10;
/// A frame that does not shrink is kept raw: codec byte and tag are all that it grows by.
const STORED_FRAME_BYTES_MAX: usize = FRAME_BYTES_MAX + 64;
/// More faults of one pack are not told apart.
const FAULTS_MAX: usize = 3;
pub const WORKERS_MAX: usize = 8;
/// Footers read at once where each takes a round trip.
const FOOTERS_AT_ONCE: usize = 32;

/// How deep a pack is looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Magic and lengths at its end.
    Footer,
    /// Every byte, against the pack's name; the table, against the index.
    Table,
    /// And every chunk, against its id.
    Content,
}

/// A pack of the listing, and how deep to look.
pub struct Job {
    pub at: usize,
    pub depth: Depth,
}

/// What all workers saw.
#[derive(Default)]
pub struct Seen {
    pub packs_read: AtomicU64,
    pub chunks_checked: AtomicU64,
    /// Packs that were read by name only, for want of a key.
    pub closed: AtomicU64,
    pub content_damaged: AtomicU64,
}

/// The index's side of the comparison.
pub struct Expected<'a> {
    pub index: &'a Index,
    /// By place in the listing: whether a run names the pack.
    pub named: &'a [bool],
    /// By place in the listing: how many entries of all runs lie there. None: not counted, or the index is damaged.
    pub entries: Option<&'a [u32]>,
}

/// Looks into every pack of `jobs`.
pub fn check(
    check: &Check<'_>,
    listing: &Listing,
    jobs: &[Job],
    expected: &Expected<'_>,
    workers: usize,
) -> Result<Seen> {
    let seen = Seen::default();
    let (footers, mut whole): (Vec<&Job>, Vec<&Job>) = jobs.iter().partition(|job| job.depth == Depth::Footer);
    let remote = check.repository.store.is_remote();
    let at_once = if remote { FOOTERS_AT_ONCE } else { workers };
    if remote {
        // The largest first: a lone one at the end would have the link for itself, and not fill it.
        whole.sort_by_key(|job| std::cmp::Reverse(listing.packs[job.at].size));
    }
    crew(check, listing, &footers, expected, at_once, &seen)?;
    crew(check, listing, &whole, expected, workers, &seen)?;
    Ok(seen)
}

/// Does `jobs` with so many workers.
fn crew(
    check: &Check<'_>,
    listing: &Listing,
    jobs: &[&Job],
    expected: &Expected<'_>,
    workers: usize,
    seen: &Seen,
) -> Result<()> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed: Mutex<Option<Error>> = Mutex::default();
    let bytes: u64 = jobs.iter().filter(|job| job.depth > Depth::Footer).map(|job| listing.packs[job.at].size).sum();
    check.control.progress.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    let work = || {
        let mut bench = Bench::default();
        while !stop.load(Ordering::Relaxed) {
            let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let pack = &listing.packs[job.at];
            let outcome = match job.depth {
                Depth::Footer => footer(check, pack),
                _ => Reading { check, expected, seen, pack, at: job.at, depth: job.depth }.whole(&mut bench),
            };
            check.control.progress.packs.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = outcome {
                stop.store(true, Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    let sound = std::thread::scope(|scope| {
        let crew: Vec<_> = (0..workers.min(jobs.len())).map(|_| scope.spawn(work)).collect();
        // Every one is joined, also after one that panicked.
        crew.into_iter().map(|worker| worker.join()).filter(std::result::Result::is_err).count() == 0
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None if sound => Ok(()),
        None => Err(Error::Worker),
    }
}

/// What a worker uses again for each pack.
#[derive(Default)]
struct Bench {
    codec: Codec,
    stored: Vec<u8>,
    plain: Vec<u8>,
}

/// The end of a pack: 16 bytes.
fn footer(check: &Check<'_>, pack: &PackRow) -> Result<()> {
    let key = keys::pack(pack.kind, pack.id);
    let what = if pack.size < (pack.kind.head_bytes() + FOOTER_BYTES) as u64 {
        "is cut short".to_owned()
    } else {
        let Some(bytes) = check.get_range(&key, pack.size - FOOTER_BYTES as u64..pack.size)? else {
            suspect(check, pack.kind, pack.id);
            return Ok(());
        };
        match place_of_table(&bytes, pack) {
            Ok(_) => return Ok(()),
            Err(_) => "is damaged: it does not end as a pack does".to_owned(),
        }
    };
    check.findings.damage(&key, what);
    suspect(check, pack.kind, pack.id);
    Ok(())
}

fn place_of_table(footer: &[u8], pack: &PackRow) -> Result<Range<u64>, PackError> {
    let (offset, len) = parse_footer(footer, pack.size)?;
    if offset < pack.kind.head_bytes() as u64 {
        return Err(PackError::Table);
    }
    Ok(offset..offset + u64::from(len))
}

struct Reading<'a> {
    check: &'a Check<'a>,
    expected: &'a Expected<'a>,
    seen: &'a Seen,
    pack: &'a PackRow,
    at: usize,
    depth: Depth,
}

/// What is read of a pack before the rest: its begin, and far away its end, from byte `tail_at`; it is empty where the begin is all.
struct Ends {
    first: Vec<u8>,
    tail: Vec<u8>,
    tail_at: u64,
}

/// A pack that this key opens.
struct Open {
    opener: FrameOpener,
    table: Table,
    ids: Option<IdKeys>,
}

/// Faults of one pack, in the order in which they are met.
#[derive(Default)]
struct Faults {
    told: Vec<String>,
    count: u64,
}

impl Faults {
    fn add(&mut self, fault: impl Into<String>) {
        self.count += 1;
        if self.told.len() < FAULTS_MAX {
            self.told.push(fault.into());
        }
    }
}

/// Whether reading came to its end, or the store refused and that was noted.
enum Read<T> {
    Bytes(T),
    Noted,
}

macro_rules! or_noted {
    ($read:expr) => {
        match $read {
            Some(value) => value,
            None => return Ok(Read::Noted),
        }
    };
}

impl Reading<'_> {
    fn whole(&self, bench: &mut Bench) -> Result<()> {
        let key = keys::pack(self.pack.kind, self.pack.id);
        let mut faults = Faults::default();
        let mut read = self.faults(&key, bench, &mut faults)?;
        if faults.count > 0 && self.check.repository.store.copies().is_some_and(|copies| copies.forget(&key)) {
            // The disk of this host may be what is bad.
            faults = Faults::default();
            read = self.faults(&key, bench, &mut faults)?;
        }
        let noted = match read {
            Read::Noted => true,
            Read::Bytes(()) if faults.count == 0 => return Ok(()),
            Read::Bytes(()) => false,
        };
        if self.depth == Depth::Content {
            self.seen.content_damaged.fetch_add(1, Ordering::Relaxed);
        }
        suspect(self.check, self.pack.kind, self.pack.id);
        if !noted {
            let told = faults.told.join("; ");
            let more = faults.count - faults.told.len() as u64;
            let more = if more > 0 { format!("; and {more} more faults") } else { String::new() };
            self.check.findings.damage(&key, format!("is damaged: {told}{more}"));
        }
        Ok(())
    }

    fn faults(&self, key: &ObjectKey, bench: &mut Bench, faults: &mut Faults) -> Result<Read<()>> {
        let (size, head_bytes) = (self.pack.size, self.pack.kind.head_bytes() as u64);
        if size < head_bytes + FOOTER_BYTES as u64 || size > PACK_BYTES_MAX {
            faults.add(format!("no pack can be {size} bytes long"));
            return Ok(Read::Bytes(()));
        }
        let apart = self.check.repository.store.is_remote();
        let first_end = size.min(PIECE_BYTES);
        let tail_at = if apart { first_end.max(size.saturating_sub(TAIL_BYTES)) } else { size };
        let read = |range: Range<u64>| {
            if range.is_empty() { Ok(Some(Vec::new())) } else { self.check.get_range(key, range) }
        };
        let (tail, first) = both(apart && tail_at < size, || read(tail_at..size), || read(0..first_end));
        let ends = Ends { first: or_noted!(first?), tail: or_noted!(tail?), tail_at };
        let footer = or_noted!(self.slice(key, &ends, size - FOOTER_BYTES as u64..size)?);
        let open = match place_of_table(&footer, self.pack) {
            Err(_) => {
                faults.add("it does not end as a pack does");
                None
            }
            Ok(range) => {
                let mut table = or_noted!(self.slice(key, &ends, range.clone())?);
                self.open(&ends.first, range.start, &mut table, faults)
            }
        };
        if let Some(open) = &open {
            self.compare(key, &open.table, faults)?;
        }
        let content = open.as_ref().filter(|_| self.depth == Depth::Content);
        let mut frames = Frames { number: 0, chunk: 0 };
        let mut name = blake3::Hasher::new();
        let mut look = |start: u64, piece: &[u8]| {
            name.update(piece);
            if let Some(open) = content {
                frames.feed(open, start, piece, self, bench, faults);
            }
        };
        let Ends { first, tail, tail_at } = ends;
        look(0, &first);
        drop(first);
        let starts = (first_end..tail_at).step_by(PIECE_BYTES as usize);
        let middle: Vec<Range<u64>> = starts.map(|start| start..(start + PIECE_BYTES).min(tail_at)).collect();
        if !pieces::in_turn(apart, &middle, read, |start, piece| look(start, &piece))? {
            return Ok(Read::Noted);
        }
        look(tail_at, &tail);
        if *name.finalize().as_bytes() != self.pack.id.0 {
            faults.add("its bytes are not those of its name");
        }
        self.seen.packs_read.fetch_add(1, Ordering::Relaxed);
        Ok(Read::Bytes(()))
    }

    /// A range, from what was read already where it lies there.
    fn slice(&self, key: &ObjectKey, ends: &Ends, range: Range<u64>) -> Result<Option<Vec<u8>>> {
        let in_tail = |at: u64| at.checked_sub(ends.tail_at).map(|at| at as usize);
        let from_tail = || ends.tail.get(in_tail(range.start)?..in_tail(range.end)?);
        match ends.first.get(range.start as usize..range.end as usize).or_else(from_tail) {
            Some(bytes) => Ok(Some(bytes.to_vec())),
            None => self.check.get_range(key, range),
        }
    }

    /// Opens head and table; none if this key may not, or if they are damaged, which is noted.
    fn open(&self, first: &[u8], offset: u64, table: &mut [u8], faults: &mut Faults) -> Option<Open> {
        let repository = self.check.repository;
        let head = match PackHead::parse(first, repository.id, self.pack.kind) {
            Ok(head) => head,
            Err(error) => {
                faults.add(error.to_string());
                return None;
            }
        };
        let opened = match (&repository.access.reader, &repository.access.writer, head.owner) {
            (Some(reader), ..) => head.open(&reader.secret, To::Recipient),
            (None, Some(writer), Owner::Writer(owner)) if owner == writer.id => head.open(&writer.metadata, To::Writer),
            _ => {
                self.seen.closed.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        };
        let table = opened.and_then(|opener| Ok((opener.open_table(self.pack.kind, offset, table)?, opener)));
        match table {
            Ok((table, opener)) => Some(Open { opener, table, ids: self.ids(head.owner, faults) }),
            Err(error) => {
                faults.add(error.to_string());
                None
            }
        }
    }

    fn ids(&self, owner: Owner, faults: &mut Faults) -> Option<IdKeys> {
        let access = &self.check.repository.access;
        let ids = match owner {
            // Data ids are the group's, whoever the writer is.
            Owner::Group(group) => access.group(group).map(|keys| keys.ids(crate::names::WriterId([0; 8]))),
            Owner::Writer(writer) => match self.check.writers.get(&writer) {
                Some(certified) => access.group(certified.group).map(|keys| keys.ids(writer)),
                None => {
                    faults.add(format!("its writer {writer} has no certificate, so its content cannot be checked"));
                    None
                }
            },
        };
        ids.filter(|_| self.depth == Depth::Content)
    }

    /// The table against the index: every chunk where the index says, and nothing that only one of the two knows.
    fn compare(&self, key: &ObjectKey, table: &Table, faults: &mut Faults) -> Result<()> {
        if !self.expected.named[self.at] {
            return Ok(());
        }
        let (mut chunks, mut agreed, mut sound) = (table.chunks.iter(), 0u32, true);
        for frame in &table.frames {
            let mut offset = 0u32;
            for (id, len) in chunks.by_ref().take(frame.chunks as usize) {
                let places = match self.expected.index.locate_all(id) {
                    Ok(places) => places,
                    Err(error) => {
                        sound = false;
                        self.check.absorb(error, self.pack.kind, key)?;
                        continue;
                    }
                };
                if places.is_empty() {
                    faults.add(format!("it holds chunk {id}, which the index does not know"));
                }
                let here = places.iter().filter(|place| {
                    (place.pack.id, place.pack.kind) == (self.pack.id, self.pack.kind)
                        && (place.frame_offset, place.offset, place.len) == (frame.offset, offset, *len)
                        && (place.frame_stored_len, place.frame_plain_len) == (frame.stored_len, frame.plain_len)
                });
                agreed += here.count() as u32;
                offset = offset.saturating_add(*len);
            }
        }
        if sound
            && let Some(entries) = self.expected.entries
            && entries[self.at] != agreed
        {
            let entries = entries[self.at];
            faults.add(format!("its table agrees with {agreed} of the {entries} entries that the index has for it"));
        }
        Ok(())
    }

    fn is(&self, ids: &IdKeys, id: &ChunkId, bytes: &[u8]) -> bool {
        match self.pack.kind {
            PackKind::Data => ids.data(bytes) == *id,
            PackKind::Metadata => ids.tree(bytes) == *id || ids.list(bytes) == *id,
        }
    }
}

/// Cuts the frames of a pack out of its pieces.
struct Frames {
    number: usize,
    /// Position of the frame's first chunk in the table.
    chunk: usize,
}

impl Frames {
    fn feed(
        &mut self,
        open: &Open,
        start: u64,
        piece: &[u8],
        reading: &Reading<'_>,
        bench: &mut Bench,
        faults: &mut Faults,
    ) {
        let end = start + piece.len() as u64;
        while let Some(frame) = open.table.frames.get(self.number) {
            let (from, to) = (u64::from(frame.offset), u64::from(frame.offset) + u64::from(frame.stored_len));
            if end <= from {
                break;
            }
            if start <= from {
                bench.stored.clear();
            }
            if frame.stored_len as usize <= STORED_FRAME_BYTES_MAX {
                let part = from.max(start) - start..to.min(end) - start;
                bench.stored.extend_from_slice(&piece[part.start as usize..part.end as usize]);
            }
            if end < to {
                break;
            }
            let chunks = &open.table.chunks[self.chunk..self.chunk + frame.chunks as usize];
            frame_faults(open, frame, chunks, reading, bench, faults);
            self.chunk += frame.chunks as usize;
            self.number += 1;
        }
    }
}

fn frame_faults(
    open: &Open,
    frame: &Frame,
    chunks: &[(ChunkId, u32)],
    reading: &Reading<'_>,
    bench: &mut Bench,
    faults: &mut Faults,
) {
    let Some(ids) = &open.ids else { return };
    let Bench { codec, stored, plain } = bench;
    if stored.len() != frame.stored_len as usize || frame.plain_len as usize > FRAME_BYTES_MAX {
        return faults.add(format!("the frame at byte {} is larger than a frame can be", frame.offset));
    }
    let opened = match open.opener.open(frame.offset, stored) {
        Ok(opened) => opened,
        Err(error) => return faults.add(error.to_string()),
    };
    if let Err(error) = codec.decompress(opened, frame.plain_len as usize, plain) {
        return faults.add(format!("at byte {} {error}", frame.offset));
    }
    let mut rest = plain.as_slice();
    for (id, len) in chunks {
        let Some((bytes, after)) = rest.split_at_checked(*len as usize) else {
            return faults.add(format!("the frame at byte {} is shorter than its chunks", frame.offset));
        };
        if !reading.is(ids, id, bytes) {
            faults.add(format!("chunk {id} is not what its id says"));
        }
        reading.seen.chunks_checked.fetch_add(1, Ordering::Relaxed);
        rest = after;
    }
    if !rest.is_empty() {
        faults.add(format!("the frame at byte {} is longer than its chunks", frame.offset));
    }
}
