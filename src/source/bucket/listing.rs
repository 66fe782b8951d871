//! All keys of a bucket, in the order of its tree.
//!
//! Owns the reading of the listing on the bucket's runtime while this thread sorts. Two keys that a client shows alike are both told as lost: which of them it would fetch is
//! unknown.

use futures_util::StreamExt;
use object_store::ObjectMeta;
use rustix::io::Errno;

use super::sort::{Sorted, Sorter};
use super::{Listed, patiently, problem};
use crate::bucket::Bucket;
use crate::names::TreePath;
use crate::source::problem::{Problem, ProblemKind, SourceError};

/// Keys that travel together from the runtime: a page of most clouds.
const BATCH: usize = 1000;
/// Batches on their way, about 300 KB each.
const BATCHES: usize = 8;

/// What a bucket holds.
pub struct Listing {
    bucket: Bucket,
    sorted: Sorted,
    ahead: Option<Listed>,
}

impl Listing {
    /// Asks for the first key, so that a bucket that is not there, or not ours, is known before anything is stored.
    pub fn probe(bucket: &Bucket) -> Result<(), SourceError> {
        let (objects, under) = (bucket.objects().clone(), prefix(bucket).cloned());
        let first = bucket
            .wait(async move { patiently(|| async { objects.list(under.as_ref()).next().await.transpose() }).await });
        match first.map_err(|cause| unlisted(bucket, cause))? {
            Err(error) => Err(refused(bucket, error)),
            // An empty bucket is one; a prefix is nothing but the keys beneath it.
            Ok(None) if prefix(bucket).is_some() => {
                Err(SourceError::Missing { root: bucket.url().as_bytes().to_vec() })
            }
            Ok(_) => Ok(()),
        }
    }

    /// Reads the whole listing. `go_on` is asked after each batch; with a false the listing ends early, and is of no use.
    pub fn read<E: From<SourceError>>(
        bucket: &Bucket,
        go_on: &mut dyn FnMut(usize) -> Result<bool, E>,
    ) -> Result<Option<Self>, E> {
        Self::sift(bucket, go_on, &mut |_, _| Ok(false))
    }

    /// The same, of what `take` leaves: it sees each object as it is listed, with its path, and a true says that it needs no place in the order.
    pub fn sift<E: From<SourceError>>(
        bucket: &Bucket,
        go_on: &mut dyn FnMut(usize) -> Result<bool, E>,
        take: &mut dyn FnMut(&str, &ObjectMeta) -> Result<bool, E>,
    ) -> Result<Option<Self>, E> {
        let (send, mut receive) = tokio::sync::mpsc::channel::<object_store::Result<Vec<ObjectMeta>>>(BATCHES);
        let mut stream = bucket.objects().list(prefix(bucket));
        bucket.runtime().spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while let Some(next) = stream.next().await {
                match next {
                    Ok(meta) => batch.push(meta),
                    Err(error) => {
                        let _ = send.send(Err(error)).await; // nobody listens any more
                        return;
                    }
                }
                if batch.len() == BATCH {
                    let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                    if send.send(Ok(full)).await.is_err() {
                        return;
                    }
                }
            }
            if send.send(Ok(batch)).await.is_ok() {
                // An empty batch says that the end was reached: a task that died says nothing.
                let _ = send.send(Ok(Vec::new())).await;
            }
        });
        let mut sorter = Sorter::default();
        let mut ended = false;
        let from = match bucket.prefix().as_ref().len() {
            0 => 0,
            len => len + 1,
        };
        while let Some(batch) = receive.blocking_recv() {
            let batch = batch.map_err(|error| refused(bucket, error))?;
            ended = batch.is_empty();
            if !go_on(batch.len())? {
                return Ok(None);
            }
            for meta in batch {
                // The prefix itself is no key beneath it.
                let Some(relative) = meta.location.as_ref().get(from..).filter(|rest| !rest.is_empty()) else {
                    continue;
                };
                if take(relative, &meta)? {
                    continue;
                }
                let path = TreePath::from_bytes(relative.as_bytes().to_vec());
                let path = path.map_err(|error| unlisted(bucket, std::io::Error::other(error)))?;
                sorter.push(&Listed::of(path, meta)).map_err(|cause| unlisted(bucket, cause))?;
            }
        }
        if !ended {
            return Err(unlisted(bucket, std::io::Error::other("the listing ended before its end")).into());
        }
        let sorted = sorter.finish().map_err(|cause| unlisted(bucket, cause))?;
        let mut listing = Self { bucket: bucket.clone(), sorted, ahead: None };
        listing.ahead = listing.take()?;
        Ok(Some(listing))
    }

    fn take(&mut self) -> Result<Option<Listed>, SourceError> {
        self.sorted.next_record().map_err(|cause| unlisted(&self.bucket, cause))
    }

    /// The next object.
    pub fn next_object(&mut self) -> Result<Option<Result<Listed, Problem>>, SourceError> {
        let next = self.next_key()?;
        Ok(next.map(|(listed, twice)| if twice { Err(self.twice(&listed.path)) } else { Ok(listed) }))
    }

    /// What is to be said of a path that two keys have.
    pub fn twice(&self, path: &TreePath) -> Problem {
        let kind = ProblemKind::Unreadable { verb: "told from another key", errno: Errno::EXIST };
        problem(&self.bucket, path, kind)
    }

    /// The path of the next key.
    pub fn ahead(&self) -> Option<&TreePath> {
        self.ahead.as_ref().map(|listed| &listed.path)
    }

    /// The next key, and whether another one has its path.
    pub fn next_key(&mut self) -> Result<Option<(Listed, bool)>, SourceError> {
        let Some(listed) = self.ahead.take() else { return Ok(None) };
        let mut twice = false;
        loop {
            self.ahead = self.take()?;
            match &self.ahead {
                Some(next) if next.path == listed.path => twice = true,
                _ => break,
            }
        }
        Ok(Some((listed, twice)))
    }
}

fn prefix(bucket: &Bucket) -> Option<&object_store::path::Path> {
    Some(bucket.prefix()).filter(|prefix| !prefix.as_ref().is_empty())
}

fn unlisted(bucket: &Bucket, cause: std::io::Error) -> SourceError {
    SourceError::Unreadable { root: bucket.url().as_bytes().to_vec(), cause }
}

fn refused(bucket: &Bucket, error: object_store::Error) -> SourceError {
    let root = bucket.url().as_bytes().to_vec();
    match error {
        object_store::Error::NotFound { .. } => SourceError::Missing { root },
        error => SourceError::Unreadable { root, cause: std::io::Error::other(error) },
    }
}
