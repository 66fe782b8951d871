//! A file under `tmp/` that becomes an object when it is whole.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::error::LocalError;
use super::root::Root;
use super::{TMP, publish};
use crate::names::ObjectKey;
use crate::store::{Create, Result, StoreError, Upload};

/// Frames are far larger than this and pass by the buffer; headers and tables gather in it.
const BUFFER_BYTES: usize = 64 << 10;

/// Dropped unfinished, or after a failure, it takes its file along: a file whose write or fsync failed is never used.
pub(super) struct Unpublished {
    root: Arc<Root>,
    /// Below the root.
    name: String,
    /// None once a write failed.
    file: Option<BufWriter<File>>,
    /// Whether the name under `tmp/` is still ours to remove.
    stands: bool,
}

impl Unpublished {
    pub(super) fn begin(root: &Arc<Root>, name: String) -> std::result::Result<Self, LocalError> {
        root.directories.ensure(root, TMP)?;
        let name = format!("{TMP}/{name}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&root.fd, &name, flags, Mode::RUSR | Mode::WUSR);
        let fd = match open() {
            Err(rustix::io::Errno::NOENT) => {
                root.directories.doubt();
                root.directories.ensure(root, TMP)?;
                open()
            }
            answer => answer,
        }
        .map_err(|errno| root.error("create", &name, errno))?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, File::from(fd));
        Ok(Self { root: Arc::clone(root), name, file: Some(file), stands: true })
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> std::result::Result<(), LocalError> {
        let file = self.file.as_mut().ok_or(LocalError::Abandoned)?;
        match file.write_all(bytes) {
            Ok(()) => Ok(()),
            Err(source) => {
                self.abandon();
                Err(self.root.io("write to", &self.name, source))
            }
        }
    }

    pub(super) fn finish(mut self, key: &ObjectKey) -> std::result::Result<Create, LocalError> {
        self.root.accepts(key)?;
        self.root.still_stands()?;
        let mut file = self.file.take().ok_or(LocalError::Abandoned)?;
        if let Err(source) = file.flush().and_then(|()| file.get_ref().sync_all()) {
            // What is left in the buffer must not be written by the drop.
            drop(file.into_parts());
            return Err(self.root.io("make durable", &self.name, source));
        }
        drop(file);
        self.root.ensure_parent(key)?;
        let create = publish::publish(&self.root, &self.name, key)?;
        self.stands = false;
        Ok(create)
    }

    fn abandon(&mut self) {
        if let Some(file) = self.file.take() {
            drop(file.into_parts());
        }
    }

    fn refuse(root: &Root, key: &str, cause: LocalError) -> StoreError {
        let cause = cause.of_a_write();
        StoreError::new(cause.class(), &root.url, "create", key, cause)
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        self.abandon();
        if self.stands {
            // What remains is a leftover, which a sweep finds.
            let _ = rustix::fs::unlinkat(&self.root.fd, &self.name, AtFlags::empty());
        }
    }
}

impl Upload for Unpublished {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        Unpublished::append(self, bytes).map_err(|cause| Self::refuse(&self.root, &self.name, cause))
    }

    fn finish(self: Box<Self>, key: &ObjectKey) -> Result<Create> {
        let root = Arc::clone(&self.root);
        Unpublished::finish(*self, key).map_err(|cause| Self::refuse(&root, key.as_str(), cause))
    }
}
