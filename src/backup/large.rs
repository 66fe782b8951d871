//! One large file cut by several workers, at the very places where one worker would cut it.
//!
//! Owns a cursor: under its lock the next region is read and cut (2 GB/s or more, so it feeds many cores), outside it the chunks are named, compressed and sealed.
//! Regions come back in any order and become extents in the file's order. Memory: each worker's buffer, and the extents of regions that wait for an earlier one.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Error;
use super::sink::Sink;
use crate::chunk::FIXED_BYTES;
use crate::chunk::gear::Gear;
use crate::pack::entry::{Content, Cut, Extent};
use crate::pack::list::ListBuilder;
use crate::source::bucket::{Fetcher, Listed, ObjectReader};
use crate::source::image::is_disk_image;
use crate::source::open::{self, OpenFile, Segment};
use crate::source::problem::{Problem, ProblemKind};
use crate::source::walk::Found;

/// Data bytes of a region: about a frame.
const REGION_BYTES: usize = 2 << 20;
const PIECES_MAX: usize = 4096;

pub enum Piece {
    Hole {
        len: u64,
    },
    /// In the worker's buffer.
    Data {
        range: Range<usize>,
    },
}

/// What is read.
#[derive(Clone)]
pub enum Subject {
    File(Found),
    Object(Listed, Arc<Fetcher>),
}

/// One reading of it.
pub enum Opened {
    File(OpenFile),
    Object(Box<ObjectReader>),
}

impl Opened {
    fn size(&self) -> u64 {
        match self {
            Self::File(file) => file.stat().size,
            Self::Object(object) => object.listed().size,
        }
    }

    fn extent_at(&self, offset: u64, size: u64) -> Segment {
        match self {
            Self::File(file) => file.extent_at(offset, size),
            Self::Object(_) => Segment { offset, len: size - offset, hole: false },
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Problem> {
        match self {
            Self::File(file) => file.read_at(offset, buffer),
            Self::Object(object) => object.read_at(offset, buffer),
        }
    }

    /// Whether what was read is one state of it. An object that changed has failed to be read.
    fn is_unchanged(&self) -> bool {
        match self {
            Self::File(file) => file.unchanged_since(file.stat()),
            Self::Object(_) => true,
        }
    }
}

pub struct LargeFile {
    pub subject: Subject,
    pub number: u64,
    pub open: Opened,
    pub cut: Cut,
    cursor: Mutex<Cursor>,
    assembly: Mutex<Assembly>,
}

struct Cursor {
    /// The next byte to read.
    offset: u64,
    /// End of the data that `offset` lies in.
    segment_end: u64,
    /// Read and not yet cut.
    carry: Vec<u8>,
    sequence: u64,
    ended: bool,
}

struct Assembly {
    next: u64,
    waiting: BTreeMap<u64, Vec<Extent>>,
    builder: Option<ListBuilder>,
    size: u64,
    problem: Option<Problem>,
    workers: usize,
}

/// A file that was read to its end.
pub struct Whole {
    pub file: Arc<LargeFile>,
    pub content: Content,
    pub size: u64,
    pub unchanged: bool,
}

/// What became of a large file.
pub enum Ending {
    Whole(Whole),
    Problem(Problem),
    /// The run is being stopped.
    Stopped,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LargeFile {
    /// Opens the file for `workers` of them.
    pub fn open(subject: Subject, number: u64, workers: usize) -> Result<Self, Problem> {
        let (open, cut) = match &subject {
            Subject::File(found) => {
                let open = open::open(found)?;
                let cut = if is_disk_image(found.name(), open.stat()) { Cut::Fixed } else { Cut::Content };
                (Opened::File(open), cut)
            }
            Subject::Object(listed, fetcher) => {
                (Opened::Object(Box::new(ObjectReader::new(fetcher, listed))), listed.cut())
            }
        };
        Ok(Self {
            subject,
            number,
            open,
            cut,
            cursor: Mutex::new(Cursor { offset: 0, segment_end: 0, carry: Vec::new(), sequence: 0, ended: false }),
            assembly: Mutex::new(Assembly {
                next: 0,
                waiting: BTreeMap::new(),
                builder: Some(ListBuilder::default()),
                size: 0,
                problem: None,
                workers,
            }),
        })
    }

    /// Opens the file, or what has taken its name since it was found, as a rotated log's successor does.
    pub fn open_again(subject: Subject, number: u64, workers: usize) -> Result<Self, Problem> {
        match (Self::open(subject.clone(), number, workers), subject) {
            (Err(Problem { kind: ProblemKind::Changed, .. }), Subject::File(found)) => {
                Self::open(Subject::File(found.again()?), number, workers)
            }
            (result, _) => result,
        }
    }

    /// Reads and cuts the next region into `buffer` and `pieces`, and says which it is. None at the end of the file, or after an error.
    pub fn take(&self, gear: &Gear, buffer: &mut Vec<u8>, pieces: &mut Vec<Piece>) -> Option<u64> {
        let mut cursor = lock(&self.cursor);
        pieces.clear();
        if cursor.ended {
            return None;
        }
        let max = gear.sizes().max;
        let want = REGION_BYTES + max;
        let size = self.open.size();
        let (mut start, mut filled) = (0, cursor.carry.len());
        buffer.resize(buffer.len().max(want + max), 0);
        buffer[..filled].copy_from_slice(&cursor.carry);
        cursor.carry.clear();
        while start < REGION_BYTES && pieces.len() < PIECES_MAX {
            if cursor.offset == cursor.segment_end && start == filled {
                if cursor.offset >= size {
                    cursor.ended = true;
                    break;
                }
                let segment = self.open.extent_at(cursor.offset, size);
                cursor.segment_end = segment.offset + segment.len;
                if segment.hole {
                    pieces.push(Piece::Hole { len: segment.len });
                    cursor.offset = cursor.segment_end;
                    continue;
                }
            }
            let unread = cursor.segment_end - cursor.offset;
            if filled - start < max && unread > 0 {
                let room = ((want + max - filled) as u64).min(unread) as usize;
                match self.open.read_at(cursor.offset, &mut buffer[filled..filled + room]) {
                    Ok(read) => {
                        filled += read;
                        cursor.offset += read as u64;
                        if read < room {
                            // It ends earlier than it did.
                            cursor.segment_end = cursor.offset;
                            cursor.ended = true;
                        }
                    }
                    Err(problem) => {
                        cursor.ended = true;
                        lock(&self.assembly).problem = Some(problem);
                        return None;
                    }
                }
            }
            if start == filled {
                if cursor.ended {
                    break;
                }
                continue;
            }
            let len = match self.cut {
                Cut::Content => gear.cut(&buffer[start..filled]),
                Cut::Fixed => (filled - start).min(FIXED_BYTES),
            };
            pieces.push(Piece::Data { range: start..start + len });
            start += len;
        }
        if start < filled {
            cursor.carry.extend_from_slice(&buffer[start..filled]);
            // A file that ended early may still have bytes to cut.
            cursor.ended = false;
        }
        if pieces.is_empty() {
            cursor.ended = true;
            return None;
        }
        cursor.sequence += 1;
        Some(cursor.sequence - 1)
    }

    /// Hands in the extents of a region.
    pub fn give(&self, sequence: u64, extents: Vec<Extent>, sink: &mut Sink<'_, '_>) -> Result<(), Error> {
        let mut assembly = lock(&self.assembly);
        assembly.waiting.insert(sequence, extents);
        while let Some(extents) = {
            let next = assembly.next;
            assembly.waiting.remove(&next)
        } {
            assembly.next += 1;
            assembly.size += extents.iter().map(|extent| extent.len()).sum::<u64>();
            if let Some(builder) = &mut assembly.builder {
                for extent in extents {
                    builder.push(extent, sink)?;
                }
            }
        }
        Ok(())
    }

    /// One worker is through. The last one receives what became of the file.
    pub fn leave(self: &Arc<Self>, sink: &mut Sink<'_, '_>) -> Result<Option<Ending>, Error> {
        let mut assembly = lock(&self.assembly);
        assembly.workers -= 1;
        if assembly.workers > 0 {
            return Ok(None);
        }
        if let Some(problem) = assembly.problem.take() {
            return Ok(Some(Ending::Problem(problem)));
        }
        let complete = lock(&self.cursor).ended && assembly.waiting.is_empty();
        let Some(builder) = assembly.builder.take().filter(|_| complete) else { return Ok(Some(Ending::Stopped)) };
        let content = builder.finish(sink)?;
        let unchanged = assembly.size == self.open.size() && self.open.is_unchanged();
        Ok(Some(Ending::Whole(Whole { file: self.clone(), content, size: assembly.size, unchanged })))
    }
}
