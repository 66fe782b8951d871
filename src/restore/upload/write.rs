//! Objects on their way into a bucket.
//!
//! Owns the limits: `REQUESTS` under way, and `BYTES` of bodies in the making or under way. What is larger than `PARTS_FROM` goes in parts of `PART_BYTES`, or of more where that
//! would be more than `PARTS_MAX` parts (from 140 GiB on), each of which counts against the limit, at most as the whole of it.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStore, PutMultipartOptions, PutOptions, PutPayload};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::super::content::{Stored, is_local};
use super::super::{Control, Error, Result, told};
use super::plan::wait;
use super::properties::Properties;
use crate::bucket::Bucket;
use crate::names::{TreePath, escape};
use crate::pack::entry::{Entry, Extent, Kind};
use crate::pack::list::ListReader;
use crate::source::bucket::{address, is_later, patiently};

const REQUESTS: usize = 32;
pub(super) const BYTES: u64 = 64 << 20;
const EACH_BYTES: u64 = 16 << 10;
/// Permits are counted in units of this.
const UNIT: u64 = 1 << 10;
const PARTS_FROM: u64 = 64 << 20;
const PART_BYTES: u64 = 16 << 20;
/// An upload in parts that the cloud put off is begun anew so often.
const UPLOADS: u32 = 4;
/// Clouds take 10,000.
const PARTS_MAX: u64 = 9_000;

/// An object to be written: where to, and from what.
pub(super) struct Job {
    pub entry: Entry,
    pub at: object_store::path::Path,
    /// Its place in the order in which objects were handed in.
    pub place: u64,
}

/// What became of an object.
pub(super) enum Written {
    Whole(u64),
    /// Its bytes stand there, its properties do not.
    Bare(u64, String),
    Failed(String),
    Damaged(TreePath, String),
}

#[derive(Clone)]
pub(super) struct Writer {
    pub bucket: Bucket,
    /// The snapshot's objects come from the same kind of cloud.
    pub same_cloud: bool,
    requests: Arc<Semaphore>,
    room: Arc<Semaphore>,
    results: Sender<(u64, Written)>,
}

/// What kept an object from being assembled.
enum Hindrance {
    Damage(String),
    /// Of the run.
    Run(Error),
}

impl Writer {
    pub fn new(bucket: &Bucket, same_cloud: bool, results: Sender<(u64, Written)>) -> Self {
        let (requests, room) = (Semaphore::new(REQUESTS), Semaphore::new((BYTES / UNIT) as usize));
        Self { bucket: bucket.clone(), same_cloud, requests: Arc::new(requests), room: Arc::new(room), results }
    }

    /// Waits until nothing is under way any more.
    pub fn drain(&self) {
        let all = self.room.clone().acquire_many_owned((BYTES / UNIT) as u32);
        let _ = self.bucket.runtime().block_on(all); // never closed
    }

    fn room(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = (bytes.saturating_add(EACH_BYTES) / UNIT).min(BYTES / UNIT) as u32;
        self.bucket.runtime().block_on(self.room.clone().acquire_many_owned(units)).ok()
    }

    fn tell(&self, job: &Job, written: Written) {
        let _ = self.results.send((job.place, written)); // the run is over
    }

    /// Reads an object's chunks and hands it to the cloud.
    pub fn write(&self, job: &Job, stored: &Stored<'_>, control: &Control) -> Result<()> {
        let size = job.entry.kind.size();
        let written = match size <= PARTS_FROM {
            true => self.whole(job, size, stored, control),
            false => self.parts(job, size, stored, control),
        };
        match written {
            Ok(()) => Ok(()),
            Err(Hindrance::Damage(error)) => {
                self.tell(job, Written::Damaged(job.entry.path.clone(), error));
                Ok(())
            }
            Err(Hindrance::Run(error)) => Err(error),
        }
    }

    fn whole(
        &self,
        job: &Job,
        size: u64,
        stored: &Stored<'_>,
        control: &Control,
    ) -> std::result::Result<(), Hindrance> {
        let Some(room) = self.room(size) else { return Ok(()) };
        let mut body = Vec::new();
        let mut content = Content::new(job, size, stored, control);
        content.fill(&mut body, size)?;
        content.end()?;
        let (bucket, results, requests) = (self.bucket.clone(), self.results.clone(), self.requests.clone());
        let (properties, untagged) = self.properties(job);
        let (at, shown, place) = (job.at.clone(), self.shown(&job.entry.path), job.place);
        self.bucket.runtime().spawn(async move {
            let Ok(_slot) = requests.acquire_owned().await else { return };
            let payload = PutPayload::from(Bytes::from(body));
            let put = |Properties { attributes, tags }: Properties| {
                let options = PutOptions { attributes, tags, ..Default::default() };
                patiently(move || {
                    let (bucket, at, payload, options) = (bucket.clone(), at.clone(), payload.clone(), options.clone());
                    async move { bucket.objects().put_opts(&at, payload, options).await }
                })
            };
            let mut outcome = put.clone()(properties.clone()).await;
            let mut bare = untagged;
            if let Err(error) = &outcome
                && let Some(less) = properties.less(error)
            {
                bare = Some(format!("the properties of {shown} could not be set: {}", told(error)));
                outcome = put(less).await;
            }
            let written = match (outcome, bare) {
                (Ok(_), None) => Written::Whole(size),
                (Ok(_), Some(sentence)) => Written::Bare(size, sentence),
                (Err(error), _) => Written::Failed(format!("{shown} could not be written: {}", told(&error))),
            };
            let _ = results.send((place, written)); // the run is over
            drop(room);
        });
        Ok(())
    }

    fn parts(
        &self,
        job: &Job,
        size: u64,
        stored: &Stored<'_>,
        control: &Control,
    ) -> std::result::Result<(), Hindrance> {
        let failed = |error: &object_store::Error| {
            Written::Failed(format!("{} could not be written: {}", self.shown(&job.entry.path), told(error)))
        };
        let mut attempt = 1;
        loop {
            match self.parts_once(job, size, stored, control)? {
                Ok(None) => self.tell(job, Written::Whole(size)),
                Ok(Some(sentence)) => self.tell(job, Written::Bare(size, sentence)),
                // A part cannot be sent again by itself: `object_store` numbers parts as they are handed in.
                Err(error) if is_later(&error) && attempt < UPLOADS => {
                    attempt += 1;
                    continue;
                }
                Err(error) => self.tell(job, failed(&error)),
            }
            return Ok(());
        }
    }

    /// Gives back what could not be set.
    fn parts_once(
        &self,
        job: &Job,
        size: u64,
        stored: &Stored<'_>,
        control: &Control,
    ) -> std::result::Result<object_store::Result<Option<String>>, Hindrance> {
        let (mut upload, bare) = match self.begin(job) {
            Ok(begun) => begun,
            Err(error) => return Ok(Err(error)),
        };
        let mut content = Content::new(job, size, stored, control);
        let sent = self.send_parts(&mut *upload, &mut content, size);
        let sent = sent.and_then(|sent| content.end().map(|()| sent));
        let runtime = self.bucket.runtime();
        let completed = match sent {
            Ok(Ok(())) => runtime.block_on(upload.complete()).map(|_| bare),
            Ok(Err(error)) => Err(error),
            Err(hindrance) => {
                let _ = runtime.block_on(upload.abort()); // what stays is for the bucket's own rules to remove
                return Err(hindrance);
            }
        };
        if completed.is_err() {
            let _ = runtime.block_on(upload.abort());
        }
        Ok(completed)
    }

    /// What the object is to be written with, and what of it this cloud cannot take.
    fn properties(&self, job: &Job) -> (Properties, Option<String>) {
        let mut properties = Properties::of(&job.entry, self.same_cloud);
        let mut untagged = None;
        // The client would leave them out without a word.
        if self.bucket.url().starts_with("gs://") && !properties.tags.is_empty() {
            properties.tags = Default::default();
            let shown = self.shown(&job.entry.path);
            untagged = Some(format!("the tags of {shown} could not be set: Google's clouds have no tags of objects"));
        }
        (properties, untagged)
    }

    fn begin(&self, job: &Job) -> object_store::Result<(Box<dyn MultipartUpload>, Option<String>)> {
        let begin = |Properties { attributes, tags }: Properties| {
            let (objects, at) = (self.bucket.objects().clone(), job.at.clone());
            let options = PutMultipartOptions { attributes, tags, ..Default::default() };
            wait(&self.bucket, async move { patiently(|| objects.put_multipart_opts(&at, options.clone())).await })
        };
        let (properties, untagged) = self.properties(job);
        match begin(properties.clone()) {
            Ok(begun) => Ok((begun, untagged)),
            Err(error) => {
                let Some(less) = properties.less(&error) else { return Err(error) };
                let shown = self.shown(&job.entry.path);
                let sentence = format!("the properties of {shown} could not be set: {}", told(&error));
                Ok((begin(less)?, Some(sentence)))
            }
        }
    }

    fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        content: &mut Content<'_, '_>,
        size: u64,
    ) -> std::result::Result<object_store::Result<()>, Hindrance> {
        let part_bytes = PART_BYTES.max(size.div_ceil(PARTS_MAX));
        let mut under_way: Vec<JoinHandle<object_store::Result<()>>> = Vec::new();
        let mut left = size;
        let mut outcome = Ok(());
        while left > 0 && outcome.is_ok() {
            let len = left.min(part_bytes);
            let Some(room) = self.room(len) else { break };
            let mut body = Vec::new();
            content.fill(&mut body, len)?;
            left -= len;
            let part = upload.put_part(PutPayload::from(Bytes::from(body)));
            let requests = self.requests.clone();
            under_way.push(self.bucket.runtime().spawn(async move {
                let _slot = requests.acquire_owned().await;
                let sent = part.await;
                drop(room);
                sent
            }));
            if under_way.iter().any(JoinHandle::is_finished) {
                let (ended, rest) = under_way.into_iter().partition(JoinHandle::is_finished);
                under_way = rest;
                outcome = self.joined(ended);
            }
        }
        let rest = self.joined(under_way);
        Ok(outcome.and(rest))
    }

    fn joined(&self, handles: Vec<JoinHandle<object_store::Result<()>>>) -> object_store::Result<()> {
        let mut outcome = Ok(());
        for handle in handles {
            let ended = self.bucket.runtime().block_on(handle);
            let ended = ended.unwrap_or_else(|source| Err(object_store::Error::JoinError { source }));
            outcome = outcome.and(ended);
        }
        outcome
    }

    fn shown(&self, path: &TreePath) -> String {
        escape(&address(&self.bucket, path))
    }
}

/// Whether a cloud has no such thing as was asked for.
/// The bytes of one file, in order.
struct Content<'c, 's> {
    stored: &'c Stored<'s>,
    control: &'c Control,
    extents: Option<ListReader<'c, Stored<'s>>>,
    left: u64,
    chunk: Vec<u8>,
    at: usize,
    zeros: u64,
}

impl<'c, 's> Content<'c, 's> {
    fn new(job: &'c Job, size: u64, stored: &'c Stored<'s>, control: &'c Control) -> Self {
        let extents = match &job.entry.kind {
            Kind::File { content, .. } => Some(ListReader::new(stored, content)),
            _ => None,
        };
        Self { stored, control, extents, left: size, chunk: Vec::new(), at: 0, zeros: 0 }
    }

    /// The next extent into `chunk` or `zeros`. False at the end of the list.
    fn next(&mut self) -> std::result::Result<bool, Hindrance> {
        self.control.go_on().map_err(Hindrance::Run)?;
        let extent = self.extents.as_mut().map_or(Ok(None), ListReader::next_extent).map_err(hindrance)?;
        match extent {
            None => return Ok(false),
            Some(Extent::Hole { len }) => self.zeros = len,
            Some(Extent::Data { id, len }) => {
                self.chunk = self.stored.data(&id).map_err(hindrance)?;
                self.at = 0;
                if self.chunk.len() != len as usize {
                    return Err(Hindrance::Damage(format!("its list says that chunk {id} has {len} bytes")));
                }
            }
        }
        Ok(true)
    }

    /// Adds the next `len` bytes.
    fn fill(&mut self, body: &mut Vec<u8>, len: u64) -> std::result::Result<(), Hindrance> {
        body.reserve_exact(len as usize);
        let mut missing = len;
        while missing > 0 {
            if self.zeros > 0 {
                let step = self.zeros.min(missing);
                body.resize(body.len() + step as usize, 0);
                self.zeros -= step;
                missing -= step;
            } else if self.at < self.chunk.len() {
                let step = ((self.chunk.len() - self.at) as u64).min(missing) as usize;
                body.extend_from_slice(&self.chunk[self.at..self.at + step]);
                self.at += step;
                missing -= step as u64;
            } else if !self.next()? {
                let at = self.left - missing;
                return Err(Hindrance::Damage(format!("its list ends {at} bytes before its end")));
            }
        }
        self.left -= len;
        Ok(())
    }

    /// Nothing may come after the last byte.
    fn end(&mut self) -> std::result::Result<(), Hindrance> {
        match self.left > 0 || self.zeros > 0 || self.at < self.chunk.len() || self.next()? {
            true => Err(Hindrance::Damage("its list goes beyond its size".into())),
            false => Ok(()),
        }
    }
}

fn hindrance(error: crate::repository::Error) -> Hindrance {
    match is_local(&error) {
        true => Hindrance::Damage(told(&error)),
        false => Hindrance::Run(error.into()),
    }
}
