//! A large object, read from its beginning to its end by ranges that are fetched ahead.
//!
//! Owns the order of its parts. Every one is asked for by the ETag, so all of them are of one state of the object or it is [`ProblemKind::Changed`]. Nothing is asked before the
//! first read. Room for a part is taken in the parts' order and by a reader that holds none, or taken only if there is some: readers never wait for each other in a circle.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::{GetOptions, GetRange};
use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::fetch::{Fetcher, unaddressed};
use super::{Listed, Seen, location, patiently, problem, problem_of, tags};
use crate::bucket::Bucket;
use crate::source::problem::{Problem, ProblemKind};

pub(super) const PART_BYTES: u64 = 4 << 20;
/// Parts of one object that are fetched ahead.
const AHEAD: usize = 6;

struct Part {
    seen: Seen,
    bytes: bytes::Bytes,
    _room: OwnedSemaphorePermit,
}

type Waiting = oneshot::Receiver<Result<Part, Problem>>;

#[derive(Default)]
struct State {
    /// The next byte that will be read, and the next that will be asked for.
    offset: u64,
    asked: u64,
    current: Option<(Part, usize)>,
    waiting: VecDeque<Waiting>,
    seen: Option<Seen>,
}

/// One reading of one state of an object.
pub struct ObjectReader {
    bucket: Bucket,
    listed: Listed,
    ranges: Arc<Semaphore>,
    tags: bool,
    state: Mutex<State>,
}

impl ObjectReader {
    pub fn new(fetcher: &Fetcher, listed: &Listed) -> Self {
        Self {
            bucket: fetcher.bucket().clone(),
            listed: listed.clone(),
            ranges: fetcher.ranges.clone(),
            tags: fetcher.tags,
            state: Mutex::default(),
        }
    }

    pub fn listed(&self) -> &Listed {
        &self.listed
    }

    /// What the first answer said of the object; none before the first read.
    pub fn seen(&self) -> Option<Seen> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).seen.clone()
    }

    pub fn problem(&self, kind: ProblemKind) -> Problem {
        problem(&self.bucket, &self.listed.path, kind)
    }

    /// Fills `buffer` from `offset` on, which must be where the last read ended.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Problem> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if offset != state.offset {
            return Err(self.problem(ProblemKind::Unreadable { verb: "read out of order", errno: Errno::SPIPE }));
        }
        let mut filled = 0;
        while filled < buffer.len() && state.offset < self.listed.size {
            if state.current.is_none() {
                let part = self.next_part(&mut state)?;
                if state.seen.is_none() {
                    state.seen = Some(part.seen.clone());
                }
                state.current = Some((part, 0));
            }
            let Some((part, at)) = &mut state.current else { break };
            let len = (part.bytes.len() - *at).min(buffer.len() - filled);
            buffer[filled..filled + len].copy_from_slice(&part.bytes[*at..*at + len]);
            *at += len;
            let done = *at == part.bytes.len();
            if done {
                state.current = None;
            }
            filled += len;
            state.offset += len as u64;
        }
        Ok(filled)
    }

    fn next_part(&self, state: &mut State) -> Result<Part, Problem> {
        if state.waiting.is_empty() {
            let room = self.bucket.runtime().block_on(self.ranges.clone().acquire_owned());
            self.ask(state, room.map_err(|_| self.broken())?)?;
        }
        while state.waiting.len() < AHEAD && state.asked < self.listed.size {
            let Ok(room) = self.ranges.clone().try_acquire_owned() else { break };
            self.ask(state, room)?;
        }
        let waiting = state.waiting.pop_front().ok_or_else(|| self.broken())?;
        waiting.blocking_recv().map_err(|_| self.broken())?
    }

    fn broken(&self) -> Problem {
        self.problem(ProblemKind::Unreadable { verb: "fetched", errno: Errno::IO })
    }

    fn ask(&self, state: &mut State, room: OwnedSemaphorePermit) -> Result<(), Problem> {
        let Some(etag) = self.listed.etag.clone() else {
            let verb = "read in parts without an ETag";
            return Err(self.problem(ProblemKind::Unreadable { verb, errno: Errno::OPNOTSUPP }));
        };
        let at = location(&self.bucket, &self.listed.path);
        let at = at.ok_or_else(|| unaddressed(&self.bucket, &self.listed.path))?;
        let range = state.asked..(state.asked + PART_BYTES).min(self.listed.size);
        state.asked = range.end;
        let tags = self.tags && range.start == 0;
        let (send, receive) = oneshot::channel();
        let (bucket, listed) = (self.bucket.clone(), self.listed.clone());
        self.bucket.runtime().spawn(async move {
            let _ = send.send(part(&bucket, &listed, at, etag, range, tags, room).await); // nobody reads on
        });
        state.waiting.push_back(receive);
        Ok(())
    }
}

async fn part(
    bucket: &Bucket,
    listed: &Listed,
    at: object_store::path::Path,
    etag: String,
    range: std::ops::Range<u64>,
    with_tags: bool,
    room: OwnedSemaphorePermit,
) -> Result<Part, Problem> {
    let got = patiently(|| async {
        let options = GetOptions {
            if_match: Some(etag.clone()),
            range: Some(GetRange::Bounded(range.clone())),
            ..Default::default()
        };
        let got = bucket.objects().get_opts(&at, options).await?;
        // A cloud that takes no conditions must not mix either.
        if got.meta.size != listed.size || got.meta.e_tag.as_ref().is_some_and(|now| *now != etag) {
            return Ok(None);
        }
        let seen = Seen::new(&got.meta, got.attributes.clone());
        Ok(Some((seen, got.bytes().await?)))
    });
    let asked = async { if with_tags { Some(tags(bucket, &at).await) } else { None } };
    let (got, tags) = tokio::join!(got, asked);
    match got {
        Ok(None) => Err(problem(bucket, &listed.path, ProblemKind::Changed)),
        Ok(Some((seen, bytes))) if bytes.len() as u64 == range.end - range.start => {
            Ok(Part { seen: seen.with_tags(bucket, &listed.path, tags), bytes, _room: room })
        }
        Ok(Some(_)) => {
            let kind = ProblemKind::Unreadable { verb: "fetched as a whole", errno: Errno::IO };
            Err(problem(bucket, &listed.path, kind))
        }
        Err(error) => Err(problem_of(bucket, &listed.path, "fetched", &error)),
    }
}
