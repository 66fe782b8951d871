//! One thing in the target, held by a descriptor, and what can be asked of it and set on it.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
    fgetxattr, flistxattr, fremovexattr, fsetxattr, fstat, futimens, getxattr, listxattr, removexattr, setxattr,
    utimensat,
};
use rustix::io::{Errno, Result};

use super::confine::proc_path;
use crate::pack::entry::Timestamp;

/// The most that Linux lets a list of names, or a value, be long.
const XATTR_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy)]
pub(super) enum Handle<'a> {
    /// A file or directory, opened for real.
    Open(BorrowedFd<'a>),
    /// Anything, opened with `O_PATH`: a link, a fifo. Reached through `/proc/self/fd`, which leads to it alone.
    Path(BorrowedFd<'a>),
}

impl<'a> Handle<'a> {
    pub fn stat(self) -> Result<Stat> {
        fstat(self.fd())
    }

    fn fd(self) -> BorrowedFd<'a> {
        match self {
            Self::Open(fd) | Self::Path(fd) => fd,
        }
    }

    pub fn chown(self, uid: Option<Uid>, gid: Option<Gid>) -> Result<()> {
        match self {
            Self::Open(fd) => fchown(fd, uid, gid),
            Self::Path(fd) => chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH),
        }
    }

    pub fn chmod(self, mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Self::Open(fd) => fchmod(fd, mode),
            Self::Path(fd) => chmodat(CWD, proc_path(fd), mode, AtFlags::empty()),
        }
    }

    pub fn set_xattr(self, name: &[u8], value: &[u8]) -> Result<()> {
        match self {
            Self::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Path(fd) => setxattr(proc_path(fd), name, value, XattrFlags::empty()),
        }
    }

    /// Removes an attribute; one that is not there, or cannot be on this file system, is no error.
    pub fn remove_xattr(self, name: &[u8]) -> Result<()> {
        let removed = match self {
            Self::Open(fd) => fremovexattr(fd, name),
            Self::Path(fd) => removexattr(proc_path(fd), name),
        };
        match removed {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            removed => removed,
        }
    }

    pub fn set_mtime(self, mtime: Timestamp) -> Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() },
        };
        match self {
            Self::Open(fd) => futimens(fd, &times),
            Self::Path(fd) => utimensat(CWD, proc_path(fd), &times, AtFlags::empty()),
        }
    }

    /// Names of all attributes that we may see, in no order.
    pub fn xattr_names(self) -> Result<Vec<Vec<u8>>> {
        let names = grown(|buffer| match self {
            Self::Open(fd) => flistxattr(fd, buffer),
            Self::Path(fd) => listxattr(proc_path(fd), buffer),
        });
        match names {
            Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
            names => Ok(names?.split(|b| *b == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()),
        }
    }

    pub fn xattr(self, name: &[u8]) -> Result<Vec<u8>> {
        grown(|buffer| match self {
            Self::Open(fd) => fgetxattr(fd, name, buffer),
            Self::Path(fd) => getxattr(proc_path(fd), name, buffer),
        })
    }
}

/// What `read` fills, with a larger buffer where the first is too small.
fn grown(read: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 512];
    let len = match read(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(XATTR_BYTES_MAX, 0);
            read(&mut buffer)?
        }
        len => len?,
    };
    buffer.truncate(len);
    Ok(buffer)
}

/// A thing's own descriptor: opened for real if `readable`.
pub(super) fn handle_of(fd: &impl AsFd, readable: bool) -> Handle<'_> {
    if readable { Handle::Open(fd.as_fd()) } else { Handle::Path(fd.as_fd()) }
}
