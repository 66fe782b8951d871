//! Where a restore lands, and cannot leave.
//!
//! Owns one directory: everything made, changed, read or removed through a [`Target`] lies beneath the descriptor that it
//! holds, reached through no link (`confine`). A file is written under a temporary name and renamed when it is whole, so
//! no half file ever stands under a final name. Refuses to know where bytes come from, which entry is wanted, and what to
//! do about a difference: it says what stands here, what could not be set, and what was left out by choice.
//!
//! Calls block, and may come from several threads at once.

mod attributes;
mod confine;
mod differ;
mod error;
mod handle;
mod make;
mod marker;
mod owner;
mod part;
mod read;
mod remove;

#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use rustix::fs::{Mode, OFlags, StatVfs, fstatvfs};
use rustix::io::Errno;

pub use differ::Difference;
pub use error::{Attribute, Loss, Omitted, Outcome, Result, TargetError};
pub use make::Made;
pub use marker::{Begin, NAME as MARKER_NAME, State};
pub use owner::{OwnerBy, OwnerMap, Whose};
pub use part::FileInProgress;
pub use read::{FileKind, Found, TargetFile, TargetStat};

use crate::names::TreePath;
use confine::Confined;
use owner::Owners;
use part::OpenParts;

/// What a restore may do here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetOptions {
    /// Sets owners, setuid and setgid bits, capabilities, `trusted.` and `security.` attributes, and makes devices. Without
    /// it they are left out, and named as [`Omitted`].
    pub privileged: bool,
    pub owner: OwnerBy,
}

/// What becomes of a thing that stands where another is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the call is an [`TargetError::Exists`].
    Refuse,
    /// It is replaced, unless it is a directory that holds something.
    Replace,
    /// It is replaced with all it holds.
    ReplaceTree,
}

/// A directory that a restore fills.
pub struct Target {
    confined: Confined,
    options: TargetOptions,
    owners: Owners,
    /// The mask of this process; none if it could not be learnt, and then every mode is set.
    umask: Option<u32>,
    /// Temporary names of this target begin alike, and no other's do.
    part_prefix: String,
    part_count: AtomicU64,
    parts: Mutex<OpenParts>,
}

impl Target {
    /// Opens the directory at `dir`, made with its parents if absent. Links on the way to it are followed: they are the
    /// caller's. From there on none is.
    pub fn open(dir: &Path, options: TargetOptions) -> Result<Self> {
        let failed = |verb: &'static str| {
            move |cause: io::Error| match Errno::from_io_error(&cause) {
                Some(errno) => TargetError::new(verb, dir.to_owned(), errno),
                None => TargetError::Other { verb, path: dir.to_owned(), cause },
            }
        };
        if let Some(parent) = dir.parent()
            && !parent.as_os_str().is_empty()
        {
            fs::create_dir_all(parent).map_err(failed("create"))?;
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => return Err(failed("create")(cause)),
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty()).map_err(|errno| failed("open")(errno.into()))?;
        let random = getrandom::u64().map_err(|_| failed("draw a temporary name in")(Errno::NODATA.into()))?;
        Ok(Self {
            confined: Confined::new(root, dir.to_owned()),
            options,
            owners: Owners::new(options.owner),
            umask: umask(),
            part_prefix: format!("{}{random:016x}-", part::PREFIX),
            part_count: AtomicU64::new(0),
            parts: Mutex::default(),
        })
    }

    /// The same target for owners that are mapped.
    pub fn with_owners(mut self, map: OwnerMap) -> Self {
        self.owners.map = map;
        self
    }

    /// Bytes that may still be written here.
    pub fn available_bytes(&self) -> Result<u64> {
        let space = self.space()?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// Files that may still be made here; none if the file system has no such limit.
    pub fn available_inodes(&self) -> Result<Option<u64>> {
        let space = self.space()?;
        Ok((space.f_files > 0).then_some(space.f_favail))
    }

    fn space(&self) -> Result<StatVfs> {
        let root = TreePath::root();
        fstatvfs(self.confined.root()).map_err(|errno| self.confined.error("read the free space of", &root, errno))
    }
}

/// The file mode creation mask of this process. To ask the kernel is to set it, for all threads; `/proc` just tells.
fn umask() -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(mask.trim(), 8).ok()
}
