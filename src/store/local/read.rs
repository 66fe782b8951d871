//! Reading objects: whole ones, and many small ranges of the same few.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::error::LocalError;
use super::root::Root;
use crate::names::ObjectKey;
use crate::store::Tag;

/// Packs that stay open for `get_range`. A restore reads a handful at a time; 64 descriptors are little of the usual 1024.
const OPEN_FILES_MAX: usize = 64;

/// An object's file and its size.
fn open(root: &Root, key: &ObjectKey) -> Result<(File, u64), LocalError> {
    let path = || root.path.join(key.as_str());
    // Nonblocking: a fifo in the place of an object must not hang us.
    let fd = match root.open_below(key.as_str(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(fd) => fd,
        Err(Errno::LOOP | Errno::NXIO) => return Err(LocalError::NotAFile { path: path() }),
        Err(Errno::NOENT | Errno::NOTDIR) => {
            // Absent is a strong word: it must not come from a disk that is gone.
            root.still_stands()?;
            return Err(root.error("open", key.as_str(), Errno::NOENT));
        }
        Err(errno) => return Err(root.error("open", key.as_str(), errno)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|errno| root.error("look at", key.as_str(), errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(LocalError::NotAFile { path: path() });
    }
    Ok((File::from(fd), u64::try_from(stat.st_size).unwrap_or(0)))
}

pub(super) fn size(root: &Root, key: &ObjectKey) -> Result<u64, LocalError> {
    open(root, key).map(|(_, size)| size)
}

/// File systems on disks and in memory of this host whose change times no program can set: ext2 to ext4, XFS, Btrfs, F2FS, bcachefs, ZFS, tmpfs, and overlays of
/// these. On a share the server keeps the time, and others may be the server.
const KEPT_HERE: [u64; 8] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0xca45_1a4e, 0x2fc1_2fc1, 0x0102_1994, 0x794c_7630];
/// Two writes so close together may carry one change time: Linux stamps by the timer tick, 10 ms at most.
const GRAIN_NANOS: i128 = 100_000_000;

/// Which file stands at `key`, and when it was last written to.
pub(super) fn stamp(root: &Root, key: &ObjectKey) -> Result<Option<Tag>, LocalError> {
    let (file, _) = open(root, key)?;
    let refuse = |errno| root.error("look at", key.as_str(), errno);
    if !KEPT_HERE.contains(&(rustix::fs::fstatfs(&file).map_err(refuse)?.f_type as u64)) {
        return Ok(None);
    }
    let stat = rustix::fs::fstat(&file).map_err(refuse)?;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let nanos = |secs: i64, nanos: i64| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
    let age = nanos(now.tv_sec, now.tv_nsec) - nanos(stat.st_ctime, stat.st_ctime_nsec as i64);
    let told = [
        stat.st_dev,
        stat.st_ino,
        stat.st_size as u64,
        stat.st_mtime as u64,
        stat.st_mtime_nsec,
        stat.st_ctime as u64,
        stat.st_ctime_nsec,
    ];
    Ok((age > GRAIN_NANOS).then(|| Tag::of(&format!("{told:x?}"))))
}

pub(super) fn whole(root: &Root, key: &ObjectKey) -> Result<Vec<u8>, LocalError> {
    let (file, size) = open(root, key)?;
    exactly(root, key, file.as_fd(), 0..size)
}

/// The bytes of `range`, read into memory that was never written before.
fn exactly(root: &Root, key: &ObjectKey, file: BorrowedFd<'_>, range: Range<u64>) -> Result<Vec<u8>, LocalError> {
    let path = || root.path.join(key.as_str());
    let length = range.end - range.start;
    let too_large = || LocalError::TooLarge { path: path(), size: length };
    let wanted = usize::try_from(length).map_err(|_| too_large())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(wanted).map_err(|_| too_large())?;
    while bytes.len() < wanted {
        let at = range.start + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(LocalError::Short { path: path(), size: at, start: range.start, end: range.end }),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(root.error("read", key.as_str(), errno)),
        }
    }
    bytes.truncate(wanted); // an allocator may give more than was asked for
    Ok(bytes)
}

struct OpenFile {
    file: Arc<File>,
    used: u64,
}

/// The files that were read last. Objects never change, so an open one is as good as a fresh one, until it is deleted:
/// each use asks whether it still has a name.
#[derive(Default)]
pub(super) struct OpenFiles {
    inner: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    files: HashMap<ObjectKey, OpenFile>,
    uses: u64,
}

impl OpenFiles {
    pub(super) fn read(&self, root: &Root, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, LocalError> {
        if range.start > range.end {
            return Err(LocalError::Backwards { start: range.start, end: range.end });
        }
        let (file, size) = self.file(root, key)?;
        if range.end > size {
            let path = root.path.join(key.as_str());
            return Err(LocalError::Short { path, size, start: range.start, end: range.end });
        }
        exactly(root, key, file.as_fd(), range)
    }

    pub(super) fn forget(&self, key: &ObjectKey) {
        self.lock().files.remove(key);
    }

    fn file(&self, root: &Root, key: &ObjectKey) -> Result<(Arc<File>, u64), LocalError> {
        let standing = {
            let mut shelf = self.lock();
            shelf.uses += 1;
            let uses = shelf.uses;
            shelf.files.get_mut(key).map(|open| {
                open.used = uses;
                Arc::clone(&open.file)
            })
        };
        if let Some(file) = standing
            && let Ok(stat) = rustix::fs::fstat(&file)
            && stat.st_nlink > 0
        {
            return Ok((file, u64::try_from(stat.st_size).unwrap_or(0)));
        }
        self.forget(key);
        let (file, size) = open(root, key)?;
        let file = Arc::new(file);
        let mut shelf = self.lock();
        let used = shelf.uses;
        if shelf.files.len() >= OPEN_FILES_MAX
            && let Some(oldest) = shelf.files.iter().min_by_key(|(_, open)| open.used).map(|(key, _)| key.clone())
        {
            shelf.files.remove(&oldest);
        }
        shelf.files.insert(key.clone(), OpenFile { file: Arc::clone(&file), used });
        Ok((file, size))
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
