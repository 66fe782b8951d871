//! Small objects, many at once.
//!
//! Owns the limits: `REQUESTS` under way, and `BYTES` of bodies under way or waiting to be taken, each counted with `EACH_BYTES` on top for what surrounds it
//! (so at most 4,096 objects wait). Ranges of large objects have a budget of their own: a queue of small ones that nobody takes must not keep a large one from ending.

use std::sync::Arc;
use std::time::Duration;

use object_store::{GetOptions, ObjectStoreExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Listed, Seen, WHOLE_BYTES_MAX, location, patiently, problem, problem_of, tags};
use crate::bucket::Bucket;
use crate::names::TreePath;
use crate::source::problem::{Problem, ProblemKind};

/// Requests for whole objects under way.
const REQUESTS: usize = 64;
const BYTES: u64 = 32 << 20;
const EACH_BYTES: u64 = 8 << 10;
/// Permits are counted in units of this.
const UNIT: u64 = 1 << 10;
/// Ranges of large objects, of `ranges::PART_BYTES` each, under way or waiting: 32 MiB.
const RANGES: usize = 8;

/// Fetches the objects of one bucket.
pub struct Fetcher {
    bucket: Bucket,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    pub(super) ranges: Arc<Semaphore>,
    /// Whether each object is asked for its tags as well.
    pub(super) tags: bool,
}

/// An object on its way.
pub struct Fetch(oneshot::Receiver<Body>);

pub enum Body {
    Whole(Fetched),
    /// It is large by now: read it by ranges.
    Grown(Listed),
    Problem(Problem),
    /// Its task ended by a defect.
    Lost,
}

/// An object in memory. Its bytes count against the limit until it is dropped.
pub struct Fetched {
    pub seen: Seen,
    pub bytes: bytes::Bytes,
    _room: OwnedSemaphorePermit,
}

impl Fetcher {
    pub fn new(bucket: &Bucket, tags: bool) -> Self {
        Self {
            tags,
            bucket: bucket.clone(),
            requests: Arc::new(Semaphore::new(REQUESTS)),
            bytes: Arc::new(Semaphore::new((BYTES / UNIT) as usize)),
            ranges: Arc::new(Semaphore::new(RANGES)),
        }
    }

    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Begins to fetch an object of less than `WHOLE_BYTES_MAX`. None: there was no room for it within `patience`.
    pub fn start(&self, listed: &Listed, patience: Duration) -> Option<Fetch> {
        let units = ((listed.size.min(WHOLE_BYTES_MAX) + EACH_BYTES) / UNIT) as u32;
        let room = match self.bytes.clone().try_acquire_many_owned(units) {
            Ok(room) => room,
            Err(_) if patience.is_zero() => return None,
            Err(_) => {
                let acquire = self.bytes.clone().acquire_many_owned(units);
                let waited = async { tokio::time::timeout(patience, acquire).await };
                self.bucket.runtime().block_on(waited).ok()?.ok()?
            }
        };
        let (send, receive) = oneshot::channel();
        let tags = self.tags;
        let (bucket, requests, listed) = (self.bucket.clone(), self.requests.clone(), listed.clone());
        self.bucket.runtime().spawn(async move {
            let Ok(_slot) = requests.acquire_owned().await else { return };
            let _ = send.send(fetch(&bucket, &listed, tags, room).await); // nobody waits for it any more
        });
        Some(Fetch(receive))
    }

    /// What stands under the key now.
    pub fn again(&self, path: &TreePath) -> Result<Listed, Problem> {
        let (bucket, objects) = (&self.bucket, self.bucket.objects().clone());
        let at = location(bucket, path).ok_or_else(|| unaddressed(bucket, path))?;
        let asked = bucket.wait(async move { patiently(|| objects.head(&at)).await });
        match asked {
            Ok(Ok(meta)) => Ok(Listed::of(path.clone(), meta)),
            Ok(Err(error)) => Err(problem_of(bucket, path, "asked for", &error)),
            Err(_) => Err(unaddressed(bucket, path)),
        }
    }
}

impl Fetch {
    /// Waits for its end.
    pub fn wait(self) -> Body {
        self.0.blocking_recv().unwrap_or(Body::Lost)
    }
}

pub(super) fn unaddressed(bucket: &Bucket, path: &TreePath) -> Problem {
    problem(bucket, path, ProblemKind::Unreadable { verb: "addressed", errno: rustix::io::Errno::INVAL })
}

async fn fetch(bucket: &Bucket, listed: &Listed, with_tags: bool, room: OwnedSemaphorePermit) -> Body {
    let Some(at) = location(bucket, &listed.path) else { return Body::Problem(unaddressed(bucket, &listed.path)) };
    let mut if_match = listed.etag.clone();
    loop {
        let asked_by_tag = if_match.is_some();
        let got = patiently(|| async {
            let options = GetOptions { if_match: if_match.clone(), ..Default::default() };
            let got = bucket.objects().get_opts(&at, options).await?;
            let (meta, attributes) = (got.meta.clone(), got.attributes.clone());
            let bytes = match meta.size {
                size if size >= WHOLE_BYTES_MAX => None,
                _ => Some(got.bytes().await?),
            };
            Ok((meta, attributes, bytes))
        });
        let asked = async { if with_tags { Some(tags(bucket, &at).await) } else { None } };
        let (got, tags) = tokio::join!(got, asked);
        return match got {
            // Another one took its key since it was listed: that one is saved then, whole, as of now.
            Err(object_store::Error::Precondition { .. }) if asked_by_tag => {
                if_match = None;
                continue;
            }
            Err(error) => Body::Problem(problem_of(bucket, &listed.path, "fetched", &error)),
            Ok((meta, _, None)) => Body::Grown(Listed::of(listed.path.clone(), meta)),
            Ok((meta, attributes, Some(bytes))) if bytes.len() as u64 == meta.size => {
                let seen = Seen::new(&meta, attributes).with_tags(bucket, &listed.path, tags);
                Body::Whole(Fetched { seen, bytes, _room: room })
            }
            Ok(_) => {
                let kind = ProblemKind::Unreadable { verb: "fetched as a whole", errno: rustix::io::Errno::IO };
                Body::Problem(problem(bucket, &listed.path, kind))
            }
        };
    }
}
