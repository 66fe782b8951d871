//! One worker: file contents into chunks, chunks into frames.
//!
//! Owns reading, cutting, naming and the retries of a file that changes under our hands. Nothing is compressed that is known already.

use crossbeam_channel::Sender;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::large::{Ending, LargeFile, Opened, Piece, Subject, Whole};
use super::pipeline::{Done, Job, ObjectTicket, Shared, Ticket};
use super::sink::Sink;
use super::stream::Region;
use super::{Error, Result};
use crate::chunk::FIXED_BYTES;
use crate::names::{ChunkId, escape};
use crate::pack::entry::{Content, Cut, Entry, Extent, Kind};
use crate::pack::list::ListBuilder;
use crate::repository::Class;
use crate::seal::compress::{Codec, FRAME_BYTES};
use crate::source::bucket::{self, Body, Fetched};
use crate::source::image::is_disk_image;
use crate::source::meta::{self, Owners};
use crate::source::open::{self, OpenFile};
use crate::source::problem::{Problem, ProblemKind};
use crate::source::walk::Found;

/// Files below this are read whole and share frames.
pub const SMALL_BYTES: u64 = 1 << 20;
/// Files from here on are shared by all workers.
pub const LARGE_BYTES: u64 = 16 << 20;
/// A file that changed while it was read is read again so often.
const RETRIES: usize = 2;
const BUFFER_BYTES: usize = 4 << 20;
/// Chunks of a frame, so that a million files of a few bytes take no more memory than one of a few megabytes: 36 bytes each.
const FRAME_CHUNKS: usize = 16 << 10;

/// Large files have frames of their own: a file that is restored alone then decodes little beside it. So have disk images, which are compressed with less effort.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lot {
    Small,
    Large(Cut),
}

#[derive(Default)]
struct FrameBuffer {
    plain: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
    /// How its files are cut.
    cut: Cut,
}

pub struct Worker<'w, 'a> {
    shared: &'w Shared<'a>,
    results: &'w Sender<Done>,
    owners: Owners,
    codec: Codec,
    scratch: (Vec<u8>, Vec<u8>),
    small: FrameBuffer,
    large: FrameBuffer,
    buffer: Vec<u8>,
}

enum Failure {
    /// Of this file; the others go on.
    File(Problem),
    /// Of the run.
    Run(Error),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Failure::File(problem)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Run(error)
    }
}

impl<'w, 'a> Worker<'w, 'a> {
    pub fn new(shared: &'w Shared<'a>, results: &'w Sender<Done>) -> Self {
        Self {
            shared,
            results,
            owners: Owners::default(),
            codec: Codec::new(),
            scratch: Default::default(),
            small: FrameBuffer::default(),
            large: FrameBuffer::default(),
            buffer: Vec::new(),
        }
    }

    pub fn take(&mut self, job: Job) -> Result<()> {
        match job {
            Job::Batch(mut tickets) => {
                // Files of one kind beside each other compress a little better.
                tickets.sort_by(|a, b| extension(&a.found).cmp(extension(&b.found)).then(a.number.cmp(&b.number)));
                for ticket in tickets {
                    if self.shared.should_stop() {
                        return Ok(());
                    }
                    self.single(ticket)?;
                }
                Ok(())
            }
            Job::Single(ticket) => self.single(ticket),
            Job::Large(file) => self.large(&file),
            Job::Objects(tickets) => {
                for ticket in tickets {
                    if self.shared.should_stop() {
                        return Ok(());
                    }
                    self.object(ticket)?;
                }
                Ok(())
            }
            Job::Region(region) => self.region(region),
        }
    }

    fn region(&mut self, region: Region) -> Result<()> {
        let mut extents = Vec::with_capacity(region.pieces.len());
        for piece in &region.pieces {
            let bytes = &region.bytes[piece.clone()];
            extents.push(Extent::Data { id: self.chunk(bytes, Lot::Large(Cut::Content))?, len: bytes.len() as u32 });
        }
        region.answer(extents);
        Ok(())
    }

    /// Stores the frames that are not full.
    pub fn flush(&mut self) -> Result<()> {
        for large in [false, true] {
            self.close(large)?;
        }
        Ok(())
    }

    fn done(&self, number: u64, entry: Option<Entry>, problem: Option<Problem>) {
        if let Some(Entry { kind: Kind::File { size, .. }, .. }) = &entry {
            let progress = &self.shared.control.progress;
            progress.files.fetch_add(1, Ordering::Relaxed);
            progress.bytes.fetch_add(*size, Ordering::Relaxed);
        }
        // The walk is gone only when the run has failed.
        let _ = self.results.send(Done { number, entry, problem });
    }

    fn single(&mut self, ticket: Ticket) -> Result<()> {
        match self.read_file(&ticket.found) {
            Ok((entry, problem)) => self.done(ticket.number, Some(entry), problem),
            Err(Failure::File(problem)) => self.done(ticket.number, None, Some(problem)),
            Err(Failure::Run(error)) => return Err(error),
        }
        Ok(())
    }

    /// Opens and reads a file, again if it changed meanwhile or another took its name.
    fn read_file(&mut self, found: &Found) -> std::result::Result<(Entry, Option<Problem>), Failure> {
        let mut found = found.clone();
        let mut attempt = 0;
        loop {
            let last = attempt == RETRIES;
            attempt += 1;
            let file = match open::open(&found) {
                Ok(file) => file,
                Err(problem) if problem.kind == ProblemKind::Changed && !last => {
                    found = found.again()?;
                    continue;
                }
                Err(problem) => return Err(problem.into()),
            };
            let ((entry, loss), whole) = self.read_open(&found, &file)?;
            if whole && file.unchanged_since(file.stat()) {
                return Ok((entry, loss));
            }
            if last {
                return Ok((entry, Some(file.problem(ProblemKind::Changed))));
            }
        }
    }

    /// The entry of an open file, and whether as many bytes came as it had when it was opened.
    fn read_open(
        &mut self,
        found: &Found,
        file: &OpenFile,
    ) -> std::result::Result<((Entry, Option<Problem>), bool), Failure> {
        let stat = file.stat();
        let cut = if is_disk_image(found.name(), stat) { Cut::Fixed } else { Cut::Content };
        let expected = stat.size;
        let (content, size) = if expected <= self.shared.gear.sizes().min as u64 && !stat.is_sparse() {
            self.read_chunk(file, expected as usize)?
        } else {
            self.read_stream(found, file, cut)?
        };
        self.shared.files_read.fetch_add(1, Ordering::Relaxed);
        let meta = meta::of_file(file, &mut self.owners);
        let loss = meta.loss.clone();
        let mut entry = meta::entry(found, meta);
        entry.kind = Kind::File { size, content, cut };
        Ok(((entry, loss), size == expected))
    }

    /// A file that is one chunk.
    fn read_chunk(&mut self, file: &OpenFile, size: usize) -> std::result::Result<(Content, u64), Failure> {
        if size == 0 {
            return Ok((Content::Extents(vec![]), 0));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(buffer.len().max(size), 0);
        let result = file.read_at(0, &mut buffer[..size]).map_err(Failure::from).and_then(|len| {
            let mut extents = Vec::with_capacity(1);
            if len > 0 {
                let id = self.chunk(&buffer[..len], Lot::Small)?;
                extents.push(Extent::Data { id, len: len as u32 });
            }
            Ok((Content::Extents(extents), len as u64))
        });
        self.buffer = buffer;
        result
    }

    /// A file of any size, cut from its start to its end by this worker.
    fn read_stream(
        &mut self,
        found: &Found,
        file: &OpenFile,
        cut: Cut,
    ) -> std::result::Result<(Content, u64), Failure> {
        let large = file.stat().size >= SMALL_BYTES;
        if large {
            self.show(found);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut builder = ListBuilder::default();
        let result = self.stream(file, cut, large, &mut buffer, &mut builder);
        self.buffer = buffer;
        let size = result?;
        let content = builder.finish(&mut Sink(self.shared))?;
        Ok((content, size))
    }

    fn stream(
        &mut self,
        file: &OpenFile,
        cut: Cut,
        large: bool,
        buffer: &mut Vec<u8>,
        builder: &mut ListBuilder,
    ) -> std::result::Result<u64, Failure> {
        let whole = file.stat().size;
        // Twice the largest chunk: a boundary is looked for in all the bytes that it may depend on.
        let room_for = BUFFER_BYTES.max(2 * self.shared.gear.sizes().max);
        let mut offset = 0;
        while offset < whole {
            let segment = file.extent_at(offset, whole);
            let end = segment.offset + segment.len;
            if segment.hole {
                builder.push(Extent::Hole { len: segment.len }, &mut Sink(self.shared))?;
                offset = end;
                continue;
            }
            buffer.resize(buffer.len().max(segment.len.min(room_for as u64) as usize), 0);
            let (mut start, mut filled) = (0, 0);
            loop {
                let unread = end - offset;
                if filled - start < self.shared.gear.sizes().max && unread > 0 {
                    buffer.copy_within(start..filled, 0);
                    filled -= start;
                    start = 0;
                    let room = ((buffer.len() - filled) as u64).min(unread) as usize;
                    let read = file.read_at(offset, &mut buffer[filled..filled + room])?;
                    filled += read;
                    offset += read as u64;
                    if read < room {
                        // It ends earlier than it did: what is there is cut, and the caller sees the size.
                        while start < filled {
                            start += self.cut_one(&buffer[start..filled], cut, large, builder)?;
                        }
                        return Ok(offset);
                    }
                }
                if start == filled {
                    break;
                }
                if self.shared.should_stop() {
                    return Err(Error::Cancelled.into());
                }
                start += self.cut_one(&buffer[start..filled], cut, large, builder)?;
            }
        }
        Ok(whole)
    }

    fn cut_one(&mut self, bytes: &[u8], cut: Cut, large: bool, builder: &mut ListBuilder) -> Result<usize> {
        let len = match cut {
            Cut::Content => self.shared.gear.cut(bytes),
            Cut::Fixed => bytes.len().min(FIXED_BYTES),
        };
        let id = self.chunk(&bytes[..len], if large { Lot::Large(cut) } else { Lot::Small })?;
        builder.push(Extent::Data { id, len: len as u32 }, &mut Sink(self.shared))?;
        Ok(len)
    }

    /// This worker's share of a large file. Whoever ends last hands in the result.
    fn large(&mut self, file: &Arc<LargeFile>) -> Result<()> {
        match &file.subject {
            Subject::File(found) => self.show(found),
            Subject::Object(listed, fetcher) => self.show_bytes(&bucket::address(fetcher.bucket(), &listed.path)),
        }
        self.large_regions(file)?;
        let Some(mut ending) = file.leave(&mut Sink(self.shared))? else { return Ok(()) };
        self.shared.files_read.fetch_add(1, Ordering::Relaxed);
        let mut attempt = 0;
        loop {
            match ending {
                Ending::Stopped => return Ok(()),
                Ending::Problem(problem) => {
                    let again = problem.kind == ProblemKind::Changed && attempt < RETRIES;
                    if !(again && matches!(file.subject, Subject::Object(..))) {
                        self.done(file.number, None, Some(problem));
                        return Ok(());
                    }
                }
                Ending::Whole(whole) if whole.unchanged || attempt == RETRIES => {
                    let (entry, problem) = self.whole(whole);
                    self.done(file.number, entry, problem);
                    return Ok(());
                }
                Ending::Whole(_) => {}
            }
            // It changed while it was read: once more, by this worker alone.
            attempt += 1;
            let subject = match &file.subject {
                Subject::Object(listed, fetcher) => match fetcher.again(&listed.path) {
                    Ok(now) => Subject::Object(now, fetcher.clone()),
                    Err(problem) => {
                        self.done(file.number, None, Some(problem));
                        return Ok(());
                    }
                },
                subject => subject.clone(),
            };
            ending = match LargeFile::open_again(subject, file.number, 1) {
                Err(problem) => Ending::Problem(problem),
                Ok(again) => {
                    let again = Arc::new(again);
                    self.large_regions(&again)?;
                    again.leave(&mut Sink(self.shared))?.unwrap_or(Ending::Stopped)
                }
            };
        }
    }

    /// The entry of a large file that was read to its end, and what was lost of it.
    fn whole(&mut self, whole: Whole) -> (Option<Entry>, Option<Problem>) {
        let Whole { file, content, size, unchanged } = whole;
        match (&file.subject, &file.open) {
            (Subject::File(found), Opened::File(open)) => {
                let meta = meta::of_file(open, &mut self.owners);
                let changed = (!unchanged).then(|| open.problem(ProblemKind::Changed));
                let problem = changed.or_else(|| meta.loss.clone());
                let mut entry = meta::entry(found, meta);
                entry.kind = Kind::File { size, content, cut: file.cut };
                (Some(entry), problem)
            }
            (Subject::Object(listed, _), Opened::Object(object)) => match object.seen() {
                Some(mut seen) if unchanged => {
                    let loss = seen.loss.take();
                    (Some(seen.entry(listed, content, size, file.cut)), loss)
                }
                _ => (None, Some(object.problem(ProblemKind::Changed))),
            },
            // A subject is opened as what it is.
            (_, Opened::File(open)) => (None, Some(open.problem(ProblemKind::Changed))),
            (_, Opened::Object(object)) => (None, Some(object.problem(ProblemKind::Changed))),
        }
    }

    /// Waits for an object and cuts it.
    fn object(&mut self, ticket: ObjectTicket) -> Result<()> {
        let ObjectTicket { number, listed, fetch, fetcher } = ticket;
        match fetch.wait() {
            Body::Whole(fetched) => {
                let content = self.object_content(&fetched, listed.cut())?;
                let Fetched { mut seen, bytes, .. } = fetched;
                let loss = seen.loss.take();
                self.shared.files_read.fetch_add(1, Ordering::Relaxed);
                self.done(number, Some(seen.entry(&listed, content, bytes.len() as u64, listed.cut())), loss);
                Ok(())
            }
            Body::Grown(listed) => match LargeFile::open(Subject::Object(listed, fetcher), number, 1) {
                Ok(file) => self.large(&Arc::new(file)),
                Err(problem) => {
                    self.done(number, None, Some(problem));
                    Ok(())
                }
            },
            Body::Problem(problem) => {
                self.done(number, None, Some(problem));
                Ok(())
            }
            Body::Lost => Err(Error::Worker),
        }
    }

    fn object_content(&mut self, fetched: &Fetched, cut: Cut) -> Result<Content> {
        let bytes = &fetched.bytes[..];
        let large = bytes.len() as u64 >= SMALL_BYTES;
        let mut builder = ListBuilder::default();
        let mut start = 0;
        while start < bytes.len() {
            start += self.cut_one(&bytes[start..], cut, large, &mut builder)?;
        }
        builder.finish(&mut Sink(self.shared))
    }

    fn large_regions(&mut self, file: &Arc<LargeFile>) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut pieces = Vec::new();
        while !self.shared.should_stop() {
            let Some(sequence) = file.take(&self.shared.gear, &mut buffer, &mut pieces) else { break };
            let mut extents = Vec::with_capacity(pieces.len());
            for piece in &pieces {
                extents.push(match piece {
                    Piece::Hole { len } => Extent::Hole { len: *len },
                    Piece::Data { range } => {
                        let bytes = &buffer[range.clone()];
                        Extent::Data { id: self.chunk(bytes, Lot::Large(file.cut))?, len: bytes.len() as u32 }
                    }
                });
            }
            file.give(sequence, extents, &mut Sink(self.shared))?;
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Names a chunk, and stores it if nobody has.
    fn chunk(&mut self, bytes: &[u8], lot: Lot) -> Result<ChunkId> {
        let id = self.shared.ids.data(bytes);
        let len = bytes.len() as u64;
        self.shared.bytes_read.fetch_add(len, Ordering::Relaxed);
        self.shared.control.progress.bytes_read.fetch_add(len, Ordering::Relaxed);
        if self.shared.must_store(&id)? {
            self.shared.bytes_new.fetch_add(len, Ordering::Relaxed);
            self.shared.control.progress.bytes_new.fetch_add(len, Ordering::Relaxed);
            let large = lot != Lot::Small;
            if let Lot::Large(cut) = lot
                && cut != self.large.cut
            {
                self.close(large)?;
                self.large.cut = cut;
            }
            let frame = if large { &mut self.large } else { &mut self.small };
            frame.plain.extend_from_slice(bytes);
            frame.chunks.push((id, bytes.len() as u32));
            if frame.plain.len() >= FRAME_BYTES || frame.chunks.len() >= FRAME_CHUNKS {
                self.close(large)?;
            }
        }
        Ok(id)
    }

    fn close(&mut self, large: bool) -> Result<()> {
        let frame = if large { &mut self.large } else { &mut self.small };
        if !frame.chunks.is_empty() {
            let FrameBuffer { plain, chunks, cut } = frame;
            let packer = &self.shared.packer;
            let level = self.shared.dial.level(*cut, Instant::now(), || packer.spent());
            packer.store_frame(Class::Data, level, plain, chunks, &mut self.codec, &mut self.scratch)?;
            plain.clear();
            chunks.clear();
        }
        Ok(())
    }

    fn show(&self, found: &Found) {
        self.show_bytes(&found.absolute());
    }

    fn show_bytes(&self, path: &[u8]) {
        if let Ok(mut current) = self.shared.control.progress.current.lock() {
            *current = escape(path);
        }
    }
}

fn extension(found: &Found) -> &[u8] {
    let name = found.name();
    name.iter().rposition(|b| *b == b'.').map_or(b"", |at| &name[at + 1..])
}
