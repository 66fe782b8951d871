//! Reads what stands in the target: to compare it, to decide what is replaced, to verify.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Stat, fstat, major, minor, openat, readlinkat, statat,
};
use rustix::io::{Errno, pread};

use super::Target;
use super::error::{Result, TargetError, whole};
use super::handle::Handle;
use crate::names::TreePath;
use crate::pack::entry::{Kind, Timestamp};

/// What kind of thing stands somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl FileKind {
    /// None for kinds that Linux does not have.
    fn of(file_type: FileType) -> Option<Self> {
        Some(match file_type {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => return None,
        })
    }
}

impl From<&Kind> for FileKind {
    fn from(kind: &Kind) -> Self {
        match kind {
            Kind::File { .. } => Self::File,
            Kind::Directory => Self::Directory,
            Kind::Symlink { .. } => Self::Symlink,
            Kind::Fifo => Self::Fifo,
            Kind::Socket => Self::Socket,
            Kind::CharDevice { .. } => Self::CharDevice,
            Kind::BlockDevice { .. } => Self::BlockDevice,
        }
    }
}

/// What `lstat` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetStat {
    pub kind: FileKind,
    /// In bytes; of files and symlinks.
    pub size: u64,
    /// Bytes that its blocks take on disk: less than `size` where it has holes.
    pub allocated: u64,
    /// 0..=0o7777
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub nlink: u64,
    /// Device and inode: the same for two names of one file.
    pub identity: (u64, u64),
    /// Major and minor number, of a device.
    pub device: (u32, u32),
}

impl TargetStat {
    fn of(stat: &Stat) -> Option<Self> {
        Some(Self {
            kind: FileKind::of(FileType::from_raw_mode(stat.st_mode))?,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Timestamp { secs: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
            nlink: stat.st_nlink,
            identity: (stat.st_dev, stat.st_ino),
            device: (major(stat.st_rdev), minor(stat.st_rdev)),
        })
    }
}

/// Everything about one path on disk, except the bytes of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub stat: TargetStat,
    /// Of a symlink.
    pub link: Option<Vec<u8>>,
    /// (name, value) sorted by name, as far as we may see them.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A regular file of the target, opened for reading.
#[derive(Debug)]
pub struct TargetFile {
    fd: OwnedFd,
    path: std::path::PathBuf,
    pub stat: TargetStat,
}

impl TargetFile {
    /// Fills `buffer` from `offset` on as far as the file goes; returns how many bytes that were.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match pread(&self.fd, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(TargetError::new("read", self.path.clone(), errno)),
            }
        }
        Ok(done)
    }
}

impl Target {
    /// What stands at `path`; none if nothing does, or if a part of the path is no directory.
    pub fn stat(&self, path: &TreePath) -> Result<Option<TargetStat>> {
        match self.confined.stat(path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(self.confined.error("look at", path, errno)),
            Ok(stat) => Ok(TargetStat::of(&stat)),
        }
    }

    pub fn open_file(&self, path: &TreePath) -> Result<TargetFile> {
        let (folder, name) = self.confined.place("read", path)?;
        let not_a_file = || TargetError::NotAFile { path: whole(&self.confined.dir, path) };
        let error = |errno| self.confined.error("read", path, errno);
        // Not to wait for whoever writes a fifo.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match openat(&folder.fd, name, flags, Mode::empty()) {
            Err(Errno::LOOP | Errno::NXIO) => return Err(not_a_file()),
            fd => fd.map_err(error)?,
        };
        let stat = TargetStat::of(&fstat(&fd).map_err(error)?).filter(|stat| stat.kind == FileKind::File);
        Ok(TargetFile { fd, path: whole(&self.confined.dir, path), stat: stat.ok_or_else(not_a_file)? })
    }

    /// The names in a directory, sorted, with what they are. Temporary names and the marker are among them.
    pub fn list(&self, path: &TreePath) -> Result<Vec<(Vec<u8>, FileKind)>> {
        self.list_within(path, ResolveFlags::empty())
    }

    pub(super) fn list_within(&self, path: &TreePath, resolve: ResolveFlags) -> Result<Vec<(Vec<u8>, FileKind)>> {
        self.try_list(path, resolve).map_err(|errno| self.confined.error("list", path, errno))
    }

    fn try_list(&self, path: &TreePath, resolve: ResolveFlags) -> rustix::io::Result<Vec<(Vec<u8>, FileKind)>> {
        let (folder, name) = self.confined.try_place(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Opened anew: a position in the listing belongs to the descriptor, and the folder's is shared.
        let name = if path.is_root() { b"" } else { name };
        let fd = self.confined.open_beneath(folder.fd.as_fd(), name, flags, resolve)?;
        let mut buffer = Vec::with_capacity(32 * 1024);
        let mut names = Vec::new();
        let mut listing = RawDir::new(&fd, buffer.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match FileKind::of(entry.file_type()) {
                Some(kind) => Some(kind),
                None => match statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileKind::of(FileType::from_raw_mode(stat.st_mode)),
                    Err(Errno::NOENT) => None,
                    Err(errno) => return Err(errno),
                },
            };
            names.extend(kind.map(|kind| (name.to_vec(), kind)));
        }
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    /// Everything about what stands at `path`; none as in [`Target::stat`].
    pub fn read_entry(&self, path: &TreePath) -> Result<Option<Found>> {
        match self.try_read_entry(path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            found => found.map_err(|errno| self.confined.error("read the attributes of", path, errno)),
        }
    }

    fn try_read_entry(&self, path: &TreePath) -> rustix::io::Result<Option<Found>> {
        let fd = self.confined.open_path(path)?;
        let handle = Handle::Path(fd.as_fd());
        let Some(stat) = TargetStat::of(&handle.stat()?) else { return Ok(None) };
        let link = match stat.kind {
            FileKind::Symlink => Some(readlinkat(&fd, c"", Vec::new())?.into_bytes()),
            _ => None,
        };
        let mut names = handle.xattr_names()?;
        names.sort_unstable();
        let mut xattrs = Vec::with_capacity(names.len());
        for name in names {
            match handle.xattr(&name) {
                Ok(value) => xattrs.push((name, value)),
                // Gone since it was listed, or not ours to read.
                Err(Errno::NODATA | Errno::ACCESS | Errno::PERM | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(Some(Found { stat, link, xattrs }))
    }
}
