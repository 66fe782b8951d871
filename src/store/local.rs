//! A directory as a store.
//!
//! Owns the layout on disk: a key is a path below the root, files are 0600 and directories 0700, packs in the making lie
//! under `tmp/`. Packs are written by our own file code (`pack`, `publish`), all other objects by `object_store` with fsync
//! on. Refuses to follow symbolic links below the root, and to go on when something else stands where the root stood: an
//! unmounted disk must not turn into an empty repository, nor fill the disk beneath.
//!
//! When a pack's fsync fails, of the file or of its directory, its name is withdrawn. `object_store` does not tell which of
//! its steps failed, so after an error of class `Permanent` such an object may stand, whole, and not durably: the caller has
//! been told that it does not, and whoever meets it later makes it durable first.
//!
//! What a crash leaves is never an object: `tmp/…`, and `name#N` from `object_store`. `leftovers` finds both, `sweep`
//! removes what its caller knows to be dead. Deletes are not fsynced: one that a power cut undoes brings back an object
//! that the protocol has condemned, which is harmless, and prune deletes thousands.

mod directories;
mod error;
mod pack;
mod publish;
mod read;
mod root;
mod walk;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};
use rustix::fs::{AtFlags, Mode};

use super::{
    Class, Create, Inspection, Leftover, Listed, Replace, Result, Store, StoreError, Swept, Tag, Upload, drive,
};
use crate::names::{ObjectKey, SessionId};
use error::LocalError;
pub use error::OpenError;
use read::OpenFiles;
use root::Root;
use walk::{Seen, Want};

/// Where packs in the making lie; no key may begin with it.
const TMP: &str = "tmp";
/// Where leftovers can lie: packs in the making, and small objects.
const LEFTOVER_PREFIXES: [&str; 10] =
    ["tmp/", "config/", "keys/", "writers/", "revoked/", "w/", "i/", "s/", "t/", "probe/"];
/// Where each session has a directory of its own, which nobody writes to once its last record is gone.
const RECORDS: &str = "w/";

pub struct LocalStore {
    root: Arc<Root>,
    objects: LocalFileSystem,
    open_files: OpenFiles,
}

impl LocalStore {
    /// Opens the store in a directory that exists.
    pub fn open(path: &Path) -> std::result::Result<Self, OpenError> {
        let root = Root::open(path)?;
        let objects = LocalFileSystem::new_with_prefix(&root.path)
            .map_err(|cause| OpenError::Io { path: root.path.clone(), source: std::io::Error::other(cause) })?
            .with_fsync(true);
        Ok(Self { root: Arc::new(root), objects, open_files: OpenFiles::default() })
    }

    /// Makes the directory, and those above it, and opens it. One that exists must be empty but for `lost+found`, or be
    /// what an earlier `create` made.
    pub fn create(path: &Path) -> std::result::Result<Self, OpenError> {
        root::make(path)?;
        Self::open(path)
    }

    /// Files that are no objects: packs in the making, and what crashes left. Packs are made in `tmp/` only, so the many directories that
    /// hold them are not looked into.
    pub fn leftovers(&self) -> Result<Vec<Leftover>> {
        let mut found = Vec::new();
        for prefix in LEFTOVER_PREFIXES {
            walk::walk(&self.root, prefix, Want::Leftovers, &mut |seen| {
                if let Seen::Leftover(leftover) = seen {
                    found.push(leftover);
                }
            })
            .map_err(|cause| self.refuse("list", TMP, cause))?;
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn refuse(&self, verb: &'static str, key: impl ToString, cause: LocalError) -> StoreError {
        StoreError::new(cause.class(), &self.root.url, verb, key, cause)
    }

    /// Through `object_store`; none if the file system has no hard links and it must be done otherwise.
    fn put(&self, key: &ObjectKey, bytes: &[u8]) -> std::result::Result<Option<Create>, LocalError> {
        let path = object_store::path::Path::parse(key.as_str()).map_err(LocalError::package)?;
        let payload = PutPayload::from(bytes.to_vec());
        let put = self.objects.put_opts(&path, payload, PutOptions::from(PutMode::Create));
        let answer = drive::to_end(put).map_err(|source| self.root.io("start a thread for", key.as_str(), source))?;
        match answer {
            Ok(_) => {
                // The package leaves the mode to the umask. The directory is 0700 whether or not this works.
                let _ = rustix::fs::chmodat(&self.root.fd, key.as_str(), Mode::RUSR | Mode::WUSR, AtFlags::empty());
                Ok(Some(Create::Created))
            }
            Err(object_store::Error::AlreadyExists { .. }) => publish::occupied(&self.root, key).map(Some),
            Err(cause) => {
                let cause = LocalError::package(cause);
                if cause.says_no_hard_links() { Ok(None) } else { Err(cause) }
            }
        }
    }

    fn try_create(&self, key: &ObjectKey, bytes: &[u8]) -> std::result::Result<Create, LocalError> {
        self.root.accepts(key)?;
        self.root.still_stands()?;
        self.root.ensure_parent(key)?;
        if self.root.has_links.load(Ordering::Relaxed)
            && let Some(create) = self.put(key, bytes)?
        {
            return Ok(create);
        }
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(LocalError::package)?;
        let mut file = pack::Unpublished::begin(&self.root, format!("create-{}", crate::names::hex(&random)))?;
        file.append(bytes)?;
        file.finish(key)
    }
}

impl Store for LocalStore {
    fn url(&self) -> &str {
        &self.root.url
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        read::whole(&self.root, key).map_err(|cause| self.refuse("read", key, cause))
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        self.open_files.read(&self.root, key, range).map_err(|cause| self.refuse("read", key, cause))
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        match read::size(&self.root, key) {
            Ok(size) => Ok(Some(size)),
            Err(cause) if cause.class() == Class::NotFound => Ok(None),
            Err(cause) => Err(self.refuse("size up", key, cause)),
        }
    }

    fn stamp(&self, key: &ObjectKey) -> Result<Option<Tag>> {
        read::stamp(&self.root, key).map_err(|cause| self.refuse("look at", key, cause))
    }

    fn create(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Create> {
        self.try_create(key, bytes).map_err(|cause| self.refuse("create", key, cause.of_a_write()))
    }

    fn begin(&self, session: SessionId, number: u32) -> Result<Box<dyn Upload>> {
        let name = format!("{session}-{number}");
        let begun = self.root.still_stands().and_then(|()| pack::Unpublished::begin(&self.root, name.clone()));
        match begun {
            Ok(file) => Ok(Box::new(file)),
            Err(cause) => Err(self.refuse("create", format_args!("{TMP}/{name}"), cause.of_a_write())),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let mut found = Vec::new();
        let walked = self.root.still_stands().and_then(|()| {
            walk::walk(&self.root, prefix, Want::Objects, &mut |seen| {
                if let Seen::Object(listed) = seen {
                    found.push(listed);
                }
            })
        });
        walked.map_err(|cause| self.refuse("list", prefix, cause))?;
        found.sort_unstable();
        Ok(found)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.open_files.forget(key);
        let deleted = match rustix::fs::unlinkat(&self.root.fd, key.as_str(), AtFlags::empty()) {
            Ok(()) => {
                if let Some(session) = key.as_str().strip_prefix(RECORDS).and_then(|rest| rest.split_once('/')) {
                    // It stays while it holds another record. Left behind, each session's would make all later listings longer.
                    let directory = format!("{RECORDS}{}", session.0);
                    if rustix::fs::unlinkat(&self.root.fd, &directory, AtFlags::REMOVEDIR).is_ok() {
                        self.root.directories.forget(&directory);
                    }
                }
                Ok(())
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => self.root.still_stands(),
            Err(rustix::io::Errno::ISDIR) => Err(LocalError::NotAFile { path: self.root.path.join(key.as_str()) }),
            Err(errno) => Err(self.root.error("remove", key.as_str(), errno)),
        };
        deleted.map_err(|cause| self.refuse("delete", key, cause))
    }

    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Replace> {
        let replaced = self.root.still_stands().and_then(|()| {
            std::fs::write(self.root.path.join(key.as_str()), bytes)
                .map_err(|source| self.root.io("replace", key.as_str(), source))
        });
        replaced.map(|()| Replace::Done).map_err(|cause| self.refuse("replace", key, cause))
    }

    fn inspect(&self) -> Result<Inspection> {
        Ok(Inspection { leftovers: Some(self.leftovers()?), ..Inspection::default() })
    }

    /// Only the leftovers of ended processes are dead. Were `name#1` removed under a process that is about to link it, and
    /// made anew by another, the first would publish the second's unfinished bytes.
    fn sweep(&self, is_dead: &mut dyn FnMut(&Leftover) -> bool) -> Result<Swept> {
        let mut swept = Swept::default();
        for leftover in self.leftovers()? {
            if !is_dead(&leftover) {
                continue;
            }
            match rustix::fs::unlinkat(&self.root.fd, &leftover.name, AtFlags::empty()) {
                Ok(()) => {
                    swept.files += 1;
                    swept.bytes += leftover.bytes;
                }
                Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => {
                    let cause = self.root.error("remove", &leftover.name, errno);
                    return Err(self.refuse("delete", &leftover.name, cause));
                }
            }
        }
        Ok(swept)
    }

    fn available_bytes(&self) -> Result<Option<u64>> {
        match rustix::fs::fstatvfs(&self.root.fd) {
            Ok(space) => Ok(Some(space.f_bavail.saturating_mul(space.f_frsize))),
            Err(errno) => Err(self.refuse("size up", "", self.root.error("ask for the free space of", "", errno))),
        }
    }
}
