//! A store in this process's memory, for tests and for trying things out.
//!
//! Owns nothing but the bridge to `object_store::memory::InMemory`. Clones share their objects.

use std::ops::Range;

use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::{Class, Create, Listed, Result, Store, StoreError, Tag, Upload, drive};
use crate::names::{ObjectKey, SessionId};

const URL: &str = "memory:";

#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    objects: InMemory,
}

#[derive(Debug, thiserror::Error)]
enum MemoryError {
    #[error("the object ends at byte {size}, bytes {start} to {end} were asked for")]
    Short { size: u64, start: u64, end: u64 },
    #[error("the range {start}..{end} runs backwards")]
    Backwards { start: u64, end: u64 },
    #[error("keys that begin with `tmp/` belong to no object")]
    Reserved,
}

impl MemoryStore {
    fn bytes(&self, verb: &'static str, key: &ObjectKey) -> Result<impl AsRef<[u8]> + use<>> {
        let path = path(verb, key)?;
        let answer = drive::to_end(async { self.objects.get(&path).await?.bytes().await });
        answer.map_err(|cause| refuse(verb, key, cause.into()))?.map_err(|cause| refuse_package(verb, key, cause))
    }
}

impl Store for MemoryStore {
    fn url(&self) -> &str {
        URL
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        self.bytes("read", key).map(|bytes| bytes.as_ref().to_vec())
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        let Range { start, end } = range;
        if start > end {
            return Err(refuse("read", key, MemoryError::Backwards { start, end }.into()));
        }
        let bytes = self.bytes("read", key)?;
        let bytes = bytes.as_ref();
        let part = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        part.and_then(|(start, end)| bytes.get(start..end)).map(<[u8]>::to_vec).ok_or_else(|| {
            let cause = MemoryError::Short { size: bytes.len() as u64, start, end };
            StoreError::new(Class::Short, URL, "read", key, cause)
        })
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        match self.bytes("size up", key) {
            Ok(bytes) => Ok(Some(bytes.as_ref().len() as u64)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Create> {
        if key.as_str().starts_with("tmp/") {
            return Err(refuse("create", key, MemoryError::Reserved.into()));
        }
        let path = path("create", key)?;
        let payload = PutPayload::from(bytes.to_vec());
        let put = self.objects.put_opts(&path, payload, PutOptions::from(PutMode::Create));
        match drive::to_end(put).map_err(|cause| refuse("create", key, cause.into()))? {
            Ok(_) => Ok(Create::Created),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Create::Occupied),
            Err(cause) => Err(refuse_package("create", key, cause)),
        }
    }

    fn begin(&self, _session: SessionId, _number: u32) -> Result<Box<dyn Upload>> {
        Ok(Box::new(MemoryUpload { store: self.clone(), bytes: Vec::new() }))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let whole = ObjectListing { objects: &self.objects };
        let mut found: Vec<Listed> =
            whole.all()?.into_iter().filter(|listed| listed.key.as_str().starts_with(prefix)).collect();
        found.sort_unstable();
        Ok(found)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        let path = path("delete", key)?;
        let answer = drive::to_end(self.objects.delete(&path));
        match answer.map_err(|cause| refuse("delete", key, cause.into()))? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(cause) => Err(refuse_package("delete", key, cause)),
        }
    }

    fn available_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

struct ObjectListing<'a> {
    objects: &'a InMemory,
}

impl ObjectListing<'_> {
    /// Every object, directory by directory: the package's flat listing is a stream, and its polling needs a crate more.
    fn all(&self) -> Result<Vec<Listed>> {
        let mut found = Vec::new();
        let mut directories = vec![None];
        while let Some(directory) = directories.pop() {
            let listing = drive::to_end(self.objects.list_with_delimiter(directory.as_ref()));
            let listing = listing
                .map_err(|cause| refuse("list", "", cause.into()))?
                .map_err(|cause| refuse_package("list", "", cause))?;
            directories.extend(listing.common_prefixes.into_iter().map(Some));
            for object in listing.objects {
                let key = object.location.as_ref().parse().map_err(|cause| refuse_name(&object.location, cause))?;
                found.push(Listed { key, size: object.size, tag: object.e_tag.as_deref().map(Tag::of) });
            }
        }
        Ok(found)
    }
}

struct MemoryUpload {
    store: MemoryStore,
    bytes: Vec<u8>,
}

impl Upload for MemoryUpload {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>, key: &ObjectKey) -> Result<Create> {
        self.store.create(key, &self.bytes)
    }
}

fn path(verb: &'static str, key: &ObjectKey) -> Result<object_store::path::Path> {
    object_store::path::Path::parse(key.as_str()).map_err(|cause| refuse(verb, key, cause.into()))
}

fn refuse(verb: &'static str, key: impl ToString, cause: Box<dyn std::error::Error + Send + Sync>) -> StoreError {
    StoreError::new(Class::Permanent, URL, verb, key, cause)
}

fn refuse_name(path: &object_store::path::Path, cause: crate::names::NameError) -> StoreError {
    refuse("list", path, cause.into())
}

fn refuse_package(verb: &'static str, key: impl ToString, cause: object_store::Error) -> StoreError {
    let class = match cause {
        object_store::Error::NotFound { .. } => Class::NotFound,
        _ => Class::Permanent,
    };
    StoreError::new(class, URL, verb, key, cause)
}
