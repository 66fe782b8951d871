//! A bucket as a store.
//!
//! Owns the meaning of a cloud's answers for create-once objects. A create is a conditional PUT; a server that says that it knows no conditions gets
//! a look before each PUT instead, which the probe then finds out to be no protection. Reads and listings are repeated by `Retry` around this store,
//! creates by whoever knows what their bytes are: `create_once`, and `finish` below, whose bytes are a pack's under a name that is their hash.
//!
//! Memory: an upload is held until it is put, `SPOOL_BYTES` of it at most; what is larger (a merged index of a large repository) goes through an
//! unlinked temporary file and a multipart upload, in parts of `PART_BYTES`. A crash leaves no object; unfinished multipart uploads are the bucket's
//! own to end (a lifecycle rule), and on S3 `doctor` names them.

mod unfinished;
mod upload;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{Attribute, Attributes, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::retry::Retry;
use super::{Class, Create, Inspection, Listed, Replace, Result, Store, StoreError, Tag, Upload};
use crate::address::BucketAddress;
use crate::bucket::refusal::{self, Kind, Refusal};
use crate::bucket::{Bucket, ConnectError, Options, StorageClasses, Traffic};
use crate::names::{ObjectKey, SessionId};
use crate::pack::keys;

/// A bucket. Cheap to clone, so that an upload outlives the call that began it.
#[derive(Clone)]
pub struct CloudStore(Arc<Inner>);

struct Inner {
    bucket: Bucket,
    classes: StorageClasses,
    /// False once the server said that it knows no conditional PUT.
    has_conditions: AtomicBool,
}

/// An answer that is nobody's fault that we know of. The client's own words follow.
#[derive(Debug, thiserror::Error)]
#[error("the answer makes no sense")]
struct Unexpected(#[source] object_store::Error);

#[derive(Debug, thiserror::Error)]
#[error("the object has {size} bytes, and {end} were to be there")]
struct Ends {
    size: u64,
    end: u64,
}

impl CloudStore {
    /// A client of the bucket at `address`, with reads that are repeated. Makes no request.
    pub fn open(address: &BucketAddress, options: &Options) -> std::result::Result<Arc<dyn Store>, ConnectError> {
        Ok(Self::over(Bucket::open(address, options)?, options.classes.clone()).repeated())
    }

    /// The same, with reads and listings that are repeated.
    pub fn repeated(self) -> Arc<dyn Store> {
        Arc::new(Retry::hasty_at_first(self))
    }

    /// A key below the prefix that no repository has, if there is one.
    pub fn stranger(&self) -> Result<Option<String>> {
        let (root, objects) = (self.0.bucket.prefix().clone(), self.0.bucket.objects().clone());
        let first = async move {
            let from = (!root.as_ref().is_empty()).then_some(&root);
            let mut stream = objects.list(from);
            while let Some(meta) = stream.try_next().await? {
                let key = meta.location.as_ref();
                let bare = key.strip_prefix(root.as_ref()).unwrap_or(key).trim_start_matches('/');
                if bare.parse().ok().as_ref().and_then(keys::parse).is_none() {
                    return Ok(Some(key.to_owned()));
                }
            }
            Ok(None)
        };
        self.wait("list", "", first)
    }

    /// The bare store, which repeats nothing.
    pub fn over(bucket: Bucket, classes: StorageClasses) -> Self {
        Self(Arc::new(Inner { bucket, classes, has_conditions: AtomicBool::new(true) }))
    }

    pub fn bucket(&self) -> &Bucket {
        &self.0.bucket
    }

    fn path(&self, key: &str) -> Result<Path> {
        let prefix = self.0.bucket.prefix();
        let whole = if prefix.as_ref().is_empty() { key.to_owned() } else { format!("{prefix}/{key}") };
        Path::parse(&whole).map_err(|cause| StoreError::new(Class::Permanent, self.url(), "name", key, cause))
    }

    fn wait<T: Send + 'static>(
        &self,
        verb: &'static str,
        key: &str,
        future: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.0.bucket.wait(future) {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.refuse(verb, key, error)),
            Err(cause) => Err(StoreError::new(Class::Permanent, self.url(), verb, key, cause)),
        }
    }

    fn refuse(&self, verb: &'static str, key: &str, error: object_store::Error) -> StoreError {
        let (class, refusal) = meaning(&error);
        match refusal {
            Some(refusal) => StoreError::new(class, self.url(), verb, key, refusal),
            None => StoreError::new(class, self.url(), verb, key, Unexpected(error)),
        }
    }

    /// Other stores keep their unfinished files there, and a repository may be copied between stores.
    fn may_be(&self, key: &ObjectKey) -> Result<()> {
        let is_reserved = key.as_str().starts_with("tmp/");
        let refused = || {
            StoreError::new(
                Class::Permanent,
                self.url(),
                "create",
                key,
                "keys that begin with `tmp/` belong to no object",
            )
        };
        if is_reserved { Err(refused()) } else { Ok(()) }
    }

    fn options(&self, key: &ObjectKey, mode: PutMode) -> PutOptions {
        let class = match key.as_str().starts_with(keys::DATA) {
            true => &self.0.classes.data,
            false => &self.0.classes.metadata,
        };
        let attributes: Attributes = class.iter().map(|class| (Attribute::StorageClass, class.clone())).collect();
        PutOptions { mode, attributes, ..PutOptions::default() }
    }

    /// One attempt to create an object.
    fn put(&self, key: &ObjectKey, payload: PutPayload) -> Result<Create> {
        self.may_be(key)?;
        if self.0.has_conditions.load(Ordering::Relaxed) {
            match self.put_by(key, payload.clone(), PutMode::Create) {
                Err(error) if knows_no_conditions(&error) => self.0.has_conditions.store(false, Ordering::Relaxed),
                answer => return answer,
            }
        }
        match self.size(key)? {
            Some(_) => Ok(Create::Occupied),
            None => self.put_by(key, payload, PutMode::Overwrite),
        }
    }

    fn put_by(&self, key: &ObjectKey, payload: PutPayload, mode: PutMode) -> Result<Create> {
        let (path, options) = (self.path(key.as_str())?, self.options(key, mode));
        let objects = self.0.bucket.objects().clone();
        let put = async move {
            match objects.put_opts(&path, payload, options).await {
                Ok(_) => Ok(Create::Created),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    Ok(Create::Occupied)
                }
                Err(error) => Err(error),
            }
        };
        self.wait("create", key.as_str(), put)
    }
}

/// A server without conditional PUT that says so: 501, as Swift does.
fn knows_no_conditions(error: &StoreError) -> bool {
    matches!(refusal::of(&*error.cause), Some(Refusal::Other { status: 501, .. }))
}

fn meaning(error: &object_store::Error) -> (Class, Option<Refusal>) {
    if let Some(refusal) = refusal::of(error) {
        let class = match refusal.kind() {
            Kind::Transient => Class::Transient,
            Kind::Ambiguous => Class::Ambiguous,
            Kind::Denied => Class::Denied,
            Kind::Full => Class::Full,
            Kind::Short => Class::Short,
            Kind::Permanent => Class::Permanent,
        };
        return (class, Some(refusal.clone()));
    }
    let class = match error {
        object_store::Error::NotFound { .. } => Class::NotFound,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => Class::Denied,
        _ => Class::Permanent,
    };
    (class, None)
}

impl Store for CloudStore {
    fn url(&self) -> &str {
        self.0.bucket.url()
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        let (path, objects) = (self.path(key.as_str())?, self.0.bucket.objects().clone());
        self.wait("read", key.as_str(), async move { objects.get(&path).await?.bytes().await }).map(Vec::from)
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        if range.start > range.end {
            let cause = format!("the range {range:?} runs backwards");
            return Err(StoreError::new(Class::Permanent, self.url(), "read", key, cause));
        }
        let end = range.end;
        let ends = |size: u64| StoreError::new(Class::Short, self.url(), "read", key, Ends { size, end });
        if range.is_empty() {
            // No cloud can be asked for nothing.
            return match self.size(key)? {
                None => Err(StoreError::new(Class::NotFound, self.url(), "read", key, "it is not there")),
                Some(size) if size < end => Err(ends(size)),
                Some(_) => Ok(Vec::new()),
            };
        }
        let (path, objects, len) = (self.path(key.as_str())?, self.0.bucket.objects().clone(), end - range.start);
        let read = self.wait("read", key.as_str(), async move { objects.get_range(&path, range).await });
        match read {
            Ok(bytes) if bytes.len() as u64 == len => Ok(bytes.into()),
            // A server may cut the range at the object's end, which the client calls unexpected.
            Ok(_) => Err(ends(self.size(key)?.unwrap_or(0))),
            Err(error) if matches!(error.class, Class::Permanent) && refusal::of(&*error.cause).is_none() => {
                match self.size(key)? {
                    Some(size) if size < end => Err(ends(size)),
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        let (path, objects) = (self.path(key.as_str())?, self.0.bucket.objects().clone());
        match self.wait("size up", key.as_str(), async move { objects.head(&path).await }) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Create> {
        self.put(key, PutPayload::from_bytes(Bytes::copy_from_slice(bytes)))
    }

    fn begin(&self, _: SessionId, _: u32) -> Result<Box<dyn Upload>> {
        Ok(Box::new(upload::Held::new(self.clone())))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        // Clouds list by whole parts; what cuts one is compared here.
        let parts = prefix.rsplit_once('/').map_or("", |(parts, _)| parts);
        let root = self.0.bucket.prefix().clone();
        let from = if parts.is_empty() { root.clone() } else { self.path(parts)? };
        let from = (!from.as_ref().is_empty()).then_some(from);
        let objects = self.0.bucket.objects().clone();
        let wanted = prefix.to_owned();
        let listing = async move {
            let strip = if root.as_ref().is_empty() { String::new() } else { format!("{root}/") };
            let mut found = Vec::new();
            let mut stream = objects.list(from.as_ref());
            while let Some(meta) = stream.try_next().await? {
                let Some(key) = meta.location.as_ref().strip_prefix(&strip) else { continue };
                // What is no key of ours is nobody's object.
                if let (true, Ok(key)) = (key.starts_with(&wanted), key.parse()) {
                    found.push(Listed { key, size: meta.size, tag: meta.e_tag.as_deref().map(Tag::of) });
                }
            }
            Ok(found)
        };
        let mut found = self.wait("list", prefix, listing)?;
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        let (path, objects) = (self.path(key.as_str())?, self.0.bucket.objects().clone());
        match self.wait("delete", key.as_str(), async move { objects.delete(&path).await }) {
            Err(error) if error.is_not_found() => Ok(()),
            answer => answer,
        }
    }

    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Replace> {
        let payload = PutPayload::from_bytes(Bytes::copy_from_slice(bytes));
        self.put_by(key, payload, PutMode::Overwrite).map(|_| Replace::Done)
    }

    fn traffic(&self) -> Option<Traffic> {
        Some(self.0.bucket.traffic())
    }

    fn inspect(&self) -> Result<Inspection> {
        let leftovers = unfinished::uploads(&self.0.bucket)
            .map_err(|error| self.refuse("list the unfinished uploads of", "", error))?;
        Ok(Inspection { clock_ahead: self.0.bucket.clock_ahead(), leftovers })
    }

    /// Clouds do not tell.
    fn available_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn is_remote(&self) -> bool {
        true
    }
}
