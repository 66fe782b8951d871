//! An object whose name is known only at its end.
//!
//! Clouds want the name first, so the bytes are held: in memory as long as they are few, else in a file that has no name. They are sealed, so
//! nothing of what is saved can be read there.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use bytes::Bytes;
use object_store::{MultipartUpload, PutMode, PutMultipartOptions, PutPayload};

use super::super::backoff::Pace;
use super::{Class, CloudStore, Create, Result, Store, StoreError, Upload};
use crate::bucket::refusal;
use crate::names::{ObjectKey, hex};

/// Held in memory and put at once: twice the largest pack.
const SPOOL_BYTES: usize = 64 << 20;
/// Of a multipart upload; clouds take at most 10 000 of them, 312 GiB in all.
const PART_BYTES: usize = 32 << 20;

pub(super) struct Held {
    store: CloudStore,
    bytes: Vec<u8>,
    file: Option<File>,
}

impl Held {
    pub fn new(store: CloudStore) -> Self {
        // At once as much as it will ever hold, and touched as it fills: what grows by doubling is copied, and leaves holes behind that no other pack fits in.
        Self { store, bytes: Vec::with_capacity(SPOOL_BYTES), file: None }
    }

    fn spool(&mut self) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(nameless()?),
        };
        file.write_all(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }

    /// Part by part. The name holds random bits or a hash of its own, so one look before is enough.
    fn in_parts(mut self, key: &ObjectKey) -> Result<Create> {
        self.store.may_be(key)?;
        let failed = failure(self.store.url(), key.as_str());
        self.spool().map_err(&failed)?;
        let Self { store, file, .. } = self;
        let Some(mut file) = file else { return store.create(key, &[]) };
        patiently(|| {
            if store.size(key)?.is_some() {
                return Ok(Create::Occupied);
            }
            file.seek(SeekFrom::Start(0)).map_err(&failed)?;
            Parts::begin(&store, key)?.send(&mut file, &failed).map(|()| Create::Created)
        })
    }
}

fn failure(url: &str, key: &str) -> impl Fn(std::io::Error) -> StoreError + use<> {
    let (url, key) = (url.to_owned(), key.to_owned());
    move |cause| {
        let class = match cause.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Class::Full,
            _ => Class::Permanent,
        };
        StoreError::new(class, &url, "hold in a temporary file", &key, cause)
    }
}

/// A multipart upload under way.
struct Parts<'s> {
    store: &'s CloudStore,
    key: &'s ObjectKey,
    upload: Box<dyn MultipartUpload>,
}

impl<'s> Parts<'s> {
    fn begin(store: &'s CloudStore, key: &'s ObjectKey) -> Result<Self> {
        let (path, objects) = (store.path(key.as_str())?, store.0.bucket.objects().clone());
        let attributes = store.options(key, PutMode::Create).attributes;
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let begin = async move { objects.put_multipart_opts(&path, options).await };
        Ok(Self { store, key, upload: store.wait("create", key.as_str(), begin)? })
    }

    fn send(mut self, file: &mut File, failed: &impl Fn(std::io::Error) -> StoreError) -> Result<()> {
        let sent = self.send_all(file, failed);
        let Self { store, key, mut upload } = self;
        let whole = sent.is_ok();
        // The future borrows the upload, so it takes it along.
        let end = async move {
            match whole {
                true => upload.complete().await.map(|_| ()),
                false => upload.abort().await, // else the bucket's lifecycle rule ends it
            }
        };
        let ended = store.wait("create", key.as_str(), end);
        sent?;
        match ended {
            Ok(()) => Ok(()),
            // The answer may have been lost, or a second attempt found nothing more to complete: look.
            Err(error) => match store.size(key) {
                Ok(Some(_)) => Ok(()),
                // Amazon tells some failures of its own in the body of a 200, which the client calls malformed: the upload is begun again.
                Ok(None) if error.class == Class::Permanent && refusal::of(&*error.cause).is_none() => {
                    Err(StoreError { class: Class::Ambiguous, ..error })
                }
                _ => Err(error),
            },
        }
    }

    /// The client numbers parts as they are handed over, so a part that fails is not sent again: the whole upload is.
    fn send_all(&mut self, file: &mut File, failed: &impl Fn(std::io::Error) -> StoreError) -> Result<()> {
        loop {
            let mut part = Vec::new();
            Read::by_ref(file).take(PART_BYTES as u64).read_to_end(&mut part).map_err(failed)?;
            if part.is_empty() {
                return Ok(());
            }
            let put = self.upload.put_part(PutPayload::from_bytes(Bytes::from(part)));
            self.store.wait("create", self.key.as_str(), put)?;
        }
    }
}

impl Upload for Held {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.bytes.len() + bytes.len() > SPOOL_BYTES {
            let failed = failure(self.store.url(), "an upload");
            self.spool().map_err(failed)?;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Puts the object, again and again where the answer is lost or the server is busy: the bytes are the same each time.
    fn finish(mut self: Box<Self>, key: &ObjectKey) -> Result<Create> {
        if self.file.is_some() {
            return self.in_parts(key);
        }
        let payload = PutPayload::from_bytes(std::mem::take(&mut self.bytes).into());
        patiently(|| self.store.put(key, payload.clone()))
    }
}

fn patiently<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    let pace = Pace::default();
    let mut attempt = 1;
    loop {
        match call() {
            Err(error) if matches!(error.class, Class::Transient | Class::Ambiguous) && pace.wait_after(attempt) => {
                attempt += 1;
            }
            answer => return answer,
        }
    }
}

/// A file below the directory for temporary files, mode 0600, that no name leads to.
fn nameless() -> std::io::Result<File> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(std::io::Error::other)?;
    let path = std::env::temp_dir().join(format!("lifeboat-upload-{}", hex(&random)));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
