//! Content out of a snapshot, in order, as one stream.
//!
//! Owns reading ahead: whatever lies in one frame is fetched, opened and checked against its ids by one worker, and written when its turn comes. Memory: at
//! most `AHEAD_BYTES` of what is under way, a frame for each worker and `FRAMES_KEPT` frames that were used last. Refuses to write a byte that was not checked,
//! and to end well with less than all of them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::{Error, Result, go_on};
use crate::names::{ChunkId, PackId, WriterId};
use crate::pack::entry::{Content, Extent};
use crate::pack::list::ListReader;
use crate::pack::run::Location;
use crate::pack::tree::NodeError;
use crate::pack::wire::Malformed;
use crate::repository::{self, ChunkReader, Index, PackKeys, Repository, Scope, fetch_frame};
use crate::seal::compress::Codec;

const WORKERS: usize = 4;
const AHEAD_BYTES: u64 = 16 << 20;
/// A batch is closed at this size, so that small files do not wait for one worker.
const BATCH_BYTES: usize = 2 << 20;
const FRAMES_KEPT: usize = 4;

/// Where a stream goes.
pub trait Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn zeros(&mut self, len: u64) -> io::Result<()>;
    /// All was written.
    fn finish(&mut self) -> io::Result<()>;
}

/// A pipe, a terminal: holes are zeros there.
pub struct Stream<W>(pub W);

impl<W: Write> Sink for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn zeros(&mut self, mut len: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while len > 0 {
            let some = len.min(ZEROS.len() as u64);
            self.0.write_all(&ZEROS[..some as usize])?;
            len -= some;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A new file: holes stay holes.
pub struct NewFile {
    pub file: File,
    at: u64,
}

impl NewFile {
    pub fn new(file: File) -> Self {
        Self { file, at: 0 }
    }
}

impl Sink for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, len: u64) -> io::Result<()> {
        self.at += len;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.set_len(self.at)?;
        self.file.sync_all()
    }
}

enum Piece {
    Bytes(Vec<u8>),
    /// None: the index does not know it; it may by now.
    Chunk(ChunkId, u32, Option<Location>),
}

struct Job {
    pieces: Vec<Piece>,
    answer: Sender<repository::Result<Vec<u8>>>,
}

enum Queued {
    Zeros(u64),
    Batch(Receiver<repository::Result<Vec<u8>>>, u64),
}

/// A stream in the making: what is put in comes out in the same order.
pub struct Pump<'p> {
    index: &'p Index,
    jobs: Sender<Job>,
    sink: &'p mut dyn Sink,
    cancel: &'p AtomicBool,
    batch: Vec<Piece>,
    batch_bytes: usize,
    frame: Option<(PackId, u32)>,
    queue: VecDeque<Queued>,
    ahead: u64,
    /// Bytes that came out.
    pub written: u64,
}

/// Runs `work` with a pump into `sink` and waits until all came out. Returns what `work` said, and the bytes written.
pub fn pump<T>(
    repository: &Repository,
    index: &Index,
    reader: &ChunkReader<'_>,
    writer: WriterId,
    sink: &mut dyn Sink,
    cancel: &AtomicBool,
    work: impl FnOnce(&mut Pump<'_>) -> Result<T>,
) -> Result<(T, u64)> {
    let fetch = Fetch {
        repository,
        reader,
        writer,
        packs: PackKeys::default(),
        recent: Mutex::default(),
        again: OnceLock::new(),
    };
    thread::scope(|scope| {
        let (jobs, todo) = unbounded::<Job>();
        for _ in 0..WORKERS {
            let (fetch, todo) = (&fetch, todo.clone());
            scope.spawn(move || fetch.work(&todo));
        }
        let mut pump = Pump {
            index,
            jobs,
            sink,
            cancel,
            batch: Vec::new(),
            batch_bytes: 0,
            frame: None,
            queue: VecDeque::new(),
            ahead: 0,
            written: 0,
        };
        let said = work(&mut pump)?;
        pump.close();
        pump.drain(0)?;
        pump.sink.finish().map_err(output)?;
        Ok((said, pump.written))
    })
}

fn output(cause: io::Error) -> Error {
    Error::Output { what: "the output".into(), cause }
}

impl Pump<'_> {
    pub fn bytes(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.batch_bytes += bytes.len();
        self.batch.push(Piece::Bytes(bytes));
        if self.batch_bytes >= BATCH_BYTES {
            self.close();
            self.drain(AHEAD_BYTES)?;
        }
        Ok(())
    }

    pub fn zeros(&mut self, len: u64) -> Result<()> {
        self.close();
        self.queue.push_back(Queued::Zeros(len));
        self.drain(AHEAD_BYTES)
    }

    /// The bytes of a file, exactly `size` of them.
    pub fn file(&mut self, reader: &ChunkReader<'_>, content: &Content, size: u64) -> Result<()> {
        let mut list = ListReader::new(reader, content);
        let mut rest = Some(size);
        while let Some(extent) = list.next_extent()? {
            rest = rest.and_then(|rest| rest.checked_sub(extent.len()));
            match extent {
                _ if rest.is_none() => break,
                Extent::Data { id, len } => self.chunk(id, len)?,
                Extent::Hole { len } => self.zeros(len)?,
            }
        }
        match (rest, content) {
            (Some(0), _) | (_, Content::Extents(_)) => Ok(()),
            (_, Content::Nodes { root, .. }) => {
                let cause = Malformed("a file's extents are not its size");
                Err(repository::Error::from(NodeError { id: *root, cause }).into())
            }
        }
    }

    fn chunk(&mut self, id: ChunkId, len: u32) -> Result<()> {
        let place = self.index.locate(&id)?;
        let frame = place.map(|place| (place.pack.id, place.frame_offset));
        if self.frame.is_some_and(|open| Some(open) != frame) || self.batch_bytes >= BATCH_BYTES {
            self.close();
            self.drain(AHEAD_BYTES)?;
        }
        self.frame = self.frame.or(frame);
        self.batch_bytes += len as usize;
        self.batch.push(Piece::Chunk(id, len, place));
        Ok(())
    }

    /// Hands the batch to a worker.
    fn close(&mut self) {
        self.frame = None;
        if self.batch.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.batch_bytes) as u64;
        let (answer, wait) = bounded(1);
        // A worker that is gone leaves its answer open, which is noticed there.
        let _ = self.jobs.send(Job { pieces: std::mem::take(&mut self.batch), answer });
        self.ahead += bytes;
        self.queue.push_back(Queued::Batch(wait, bytes));
    }

    /// Writes what comes first until no more than `ahead` bytes are under way.
    fn drain(&mut self, ahead: u64) -> Result<()> {
        while self.ahead > ahead || (ahead == 0 && !self.queue.is_empty()) {
            go_on(self.cancel)?;
            match self.queue.pop_front() {
                None => break,
                Some(Queued::Zeros(len)) => {
                    self.sink.zeros(len).map_err(output)?;
                    self.written += len;
                }
                Some(Queued::Batch(wait, planned)) => {
                    self.ahead -= planned;
                    let bytes = wait.recv().map_err(|_| Error::Worker)??;
                    self.sink.write(&bytes).map_err(output)?;
                    self.written += bytes.len() as u64;
                }
            }
        }
        Ok(())
    }
}

type Frame = ((PackId, u32), Arc<Vec<u8>>);

/// What workers share.
struct Fetch<'a> {
    repository: &'a Repository,
    reader: &'a ChunkReader<'a>,
    writer: WriterId,
    packs: PackKeys,
    recent: Mutex<VecDeque<Frame>>,
    again: OnceLock<Option<Index>>,
}

impl Fetch<'_> {
    fn work(&self, jobs: &Receiver<Job>) {
        let mut codec = Codec::new();
        for job in jobs {
            // Nobody listens any more once the stream failed.
            let _ = job.answer.send(self.batch(&mut codec, job.pieces));
        }
    }

    fn batch(&self, codec: &mut Codec, pieces: Vec<Piece>) -> repository::Result<Vec<u8>> {
        let len = |piece: &Piece| match piece {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Chunk(_, len, _) => *len as usize,
        };
        let mut out = Vec::with_capacity(pieces.iter().map(len).sum());
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => out.extend_from_slice(&bytes),
                Piece::Chunk(id, len, place) => {
                    let start = out.len();
                    let found = place.is_some_and(|place| match self.frame(codec, &place) {
                        Ok(frame) => match frame.get(place.offset as usize..(place.offset + place.len) as usize) {
                            Some(bytes) if self.reader.ids().data(bytes) == id => {
                                out.extend_from_slice(bytes);
                                true
                            }
                            _ => false,
                        },
                        Err(_) => false,
                    });
                    if !found {
                        out.extend_from_slice(&self.elsewhere(&id)?);
                    }
                    if out.len() - start != len as usize {
                        return Err(repository::Error::ChunkUnknown { chunk: id });
                    }
                }
            }
        }
        Ok(out)
    }

    fn frame(&self, codec: &mut Codec, place: &Location) -> repository::Result<Arc<Vec<u8>>> {
        let key = (place.pack.id, place.frame_offset);
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, frame)) = recent().iter().find(|(known, _)| *known == key) {
            return Ok(frame.clone());
        }
        let mut plain = Vec::new();
        fetch_frame(self.repository, &self.packs, codec, place, &mut plain)?;
        let frame = Arc::new(plain);
        let mut recent = recent();
        recent.push_front((key, frame.clone()));
        recent.truncate(FRAMES_KEPT);
        Ok(frame)
    }

    /// A chunk that is not where it should be: another copy, or its place in the index as it is now, for a prune may run beside.
    fn elsewhere(&self, id: &ChunkId) -> repository::Result<Vec<u8>> {
        let error = match self.reader.data(id) {
            Err(error) if error.may_have_moved() => error,
            answer => return answer,
        };
        let load = || Index::load(self.repository, Scope::Read, &mut |_| ()).ok();
        let Some(index) = self.again.get_or_init(load) else { return Err(error) };
        ChunkReader::new(self.repository, index, self.writer).and_then(|reader| reader.data(id)).map_err(|_| error)
    }
}
