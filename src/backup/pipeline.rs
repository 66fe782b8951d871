//! Threads: one walk, `workers` workers, one queue between them.
//!
//! ```text
//! walk ── jobs (bounded) ──▶ workers: open, read, cut, name, look up, compress, seal, append
//!   ▲                            │
//!   └──── results (as jobs) ◀────┘   then, in the walk's order: leaves, nodes, root
//! ```
//!
//! Where there is a tree before, listing and stats have a thread of their own, and the walk compares what comes from it (`assemble`).
//!
//! A job runs to completion on one worker, its data hot in cache; only a large file is shared. Memory is bounded by bytes: each worker holds one read buffer (4 MiB), two
//! frames in the making (3 MiB each), their compressed and compared forms (5 MiB) and its zstd contexts (4 MiB, or 6 at level 8, see `seal::compress`), so about 19 MiB, or 21; the queue holds names only, at most
//! `QUEUE_JOBS` times 256 of them, and the walk at most `PENDING_ENTRIES` entries that wait for their turn. Objects of a bucket are fetched ahead of the workers: 64 MiB of bodies
//! (`source::bucket`), and the 32 MiB of its listing's sort.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crossbeam_channel::{Receiver, Sender};

use super::content::Worker;
use super::effort::Dial;
use super::large::LargeFile;
use super::sink::Nodes;
use super::stream::Region;
use super::{Control, Error, Result};
use crate::chunk::gear::Gear;
use crate::names::ChunkId;
use crate::pack::entry::Entry;
use crate::repository::{self, Index, Packer, Repository};
use crate::seal::key::IdKeys;
use crate::source::bucket::{Fetch, Fetcher, Listed};
use crate::source::problem::Problem;
use crate::source::walk::Found;

/// Jobs that wait for a worker.
pub const QUEUE_JOBS: usize = 8;

/// What all threads of one attempt see.
pub struct Shared<'a> {
    pub repository: &'a Repository,
    pub control: &'a Control,
    pub packer: Packer<'a>,
    pub dial: Dial,
    pub index: RwLock<Index>,
    pub ids: IdKeys,
    pub gear: Gear,
    pub nodes: Nodes,
    /// Set when no more work makes sense: an error elsewhere, or a cancel.
    pub stop: AtomicBool,
    failure: Mutex<Option<Error>>,
    pub files_read: AtomicU64,
    pub bytes_read: AtomicU64,
    pub bytes_new: AtomicU64,
}

/// A file to be read, and where its result belongs.
pub struct Ticket {
    pub number: u64,
    pub found: Found,
}

pub enum Job {
    /// Small files, in the walk's order.
    Batch(Vec<Ticket>),
    /// One file, cut by one worker.
    Single(Ticket),
    /// One file, cut by all workers: each of them receives the job.
    Large(Arc<LargeFile>),
    /// Objects on their way, in the listing's order.
    Objects(Vec<ObjectTicket>),
    /// A stretch of a stream, cut already.
    Region(Region),
}

/// An object that is being fetched, and where its result belongs.
pub struct ObjectTicket {
    pub number: u64,
    pub listed: Listed,
    pub fetch: Fetch,
    pub fetcher: Arc<Fetcher>,
}

/// What became of a file. An entry may come with a problem: it was stored as well as it could be.
pub struct Done {
    pub number: u64,
    pub entry: Option<Entry>,
    pub problem: Option<Problem>,
}

impl<'a> Shared<'a> {
    pub fn new(
        repository: &'a Repository,
        control: &'a Control,
        packer: Packer<'a>,
        dial: Dial,
        index: Index,
    ) -> Result<Self> {
        let writer = repository.need_writer("backing up")?;
        let config = &repository.config;
        let sizes = crate::chunk::gear::Sizes {
            min: config.chunk_min as usize,
            normal: config.chunk_normal as usize,
            max: config.chunk_max as usize,
        };
        Ok(Self {
            repository,
            control,
            packer,
            dial,
            index: RwLock::new(index),
            ids: writer.keys.ids(writer.id),
            gear: Gear::new(&writer.keys.chunk_seed(), sizes),
            nodes: Nodes::default(),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
            files_read: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_new: AtomicU64::new(0),
        })
    }

    /// Whether the caller must store this chunk: nobody has, and nobody else will.
    pub fn must_store(&self, id: &ChunkId) -> Result<bool> {
        if self.packer.has_claimed(id) {
            return Ok(false);
        }
        let known = self.index.read().unwrap_or_else(PoisonError::into_inner).contains(id)?;
        Ok(!known && self.packer.claim(id))
    }

    /// Whether the index or this session has the chunk.
    pub fn has(&self, id: &ChunkId) -> Result<bool> {
        Ok(self.packer.has_claimed(id) || self.index.read().unwrap_or_else(PoisonError::into_inner).contains(id)?)
    }

    /// Ends the attempt; the first reason is kept.
    pub fn fail(&self, error: Error) {
        // An upload that breaks off because of a cancel is no reason of its own.
        let error = match error {
            Error::Repository(repository::Error::Store(_)) if self.control.is_cancelled() => Error::Cancelled,
            error => error,
        };
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.control.is_cancelled()
    }
}

/// Ends the attempt when its thread unwinds: nobody else will send the results that the walk waits for.
struct Watch<'w, 'a>(&'w Shared<'a>);

impl Drop for Watch<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Worker);
        }
    }
}

/// Takes jobs until there are no more, then stores what is left in its frames.
pub fn work(shared: &Shared<'_>, jobs: &Receiver<Job>, results: &Sender<Done>) {
    let _watch = Watch(shared);
    let mut worker = Worker::new(shared, results);
    let mut run = || -> Result<()> {
        for job in jobs {
            if shared.should_stop() {
                continue; // drain, so that the walk never waits for a queue that nobody empties
            }
            worker.take(job)?;
        }
        if shared.should_stop() { Ok(()) } else { worker.flush() }
    };
    if let Err(error) = run() {
        shared.fail(error);
        for _ in jobs {}
    }
}
