//! What one `statx` tells of a file.
//!
//! Owns the call and its flags. Never follows a link.

use std::os::fd::AsFd;

pub use rustix::fs::FileType;
use rustix::fs::{AtFlags, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::path::Arg;

use crate::pack::entry::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub file_type: FileType,
    /// 0..=0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Allocated space in units of 512 bytes, whatever the file system's own block is.
    pub blocks: u64,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub inode: u64,
    pub dev: u64,
    pub nlink: u32,
    /// Of a device file; else 0.
    pub rdev_major: u32,
    pub rdev_minor: u32,
    /// When the file was born, where the file system remembers.
    pub btime: Option<Timestamp>,
}

/// Which file it is on this machine, until it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub dev: u64,
    pub inode: u64,
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

impl Stat {
    pub(super) fn identity(&self) -> Identity {
        Identity { dev: self.dev, inode: self.inode }
    }

    /// Whether it takes less space than it has bytes. Also true of files that the file system compresses.
    pub fn is_sparse(&self) -> bool {
        self.blocks.saturating_mul(512) < self.size
    }

    /// Whether content and metadata are still those of `before`, as far as size and times tell.
    pub fn is_unchanged_since(&self, before: &Stat) -> bool {
        self.size == before.size && self.mtime == before.mtime && self.ctime == before.ctime
    }

    fn from_statx(raw: &Statx) -> Self {
        let time = |t: rustix::fs::StatxTimestamp| Timestamp { secs: t.tv_sec, nanos: t.tv_nsec };
        let mode = u32::from(raw.stx_mode);
        Self {
            file_type: FileType::from_raw_mode(mode),
            mode: mode & 0o7777,
            uid: raw.stx_uid,
            gid: raw.stx_gid,
            size: raw.stx_size,
            blocks: raw.stx_blocks,
            mtime: time(raw.stx_mtime),
            ctime: time(raw.stx_ctime),
            inode: raw.stx_ino,
            dev: rustix::fs::makedev(raw.stx_dev_major, raw.stx_dev_minor),
            nlink: raw.stx_nlink,
            rdev_major: raw.stx_rdev_major,
            rdev_minor: raw.stx_rdev_minor,
            btime: (raw.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(raw.stx_btime)),
        }
    }
}

/// Of `name` in the directory `dir`. A directory that mounts itself when entered is left unmounted unless `mount` says so:
/// then it is the mounted one that is told of, which is the one that an open would reach.
pub(super) fn stat_at(dir: impl AsFd, name: impl Arg + Copy, mount: bool) -> Result<Stat, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let raw = rustix::fs::statx(&dir, name, flags, WANTED)?;
    if mount && raw.stx_attributes.contains(StatxAttributes::AUTOMOUNT) {
        let mounted = rustix::fs::statx(&dir, name, AtFlags::SYMLINK_NOFOLLOW, WANTED)?;
        return Ok(Stat::from_statx(&mounted));
    }
    Ok(Stat::from_statx(&raw))
}

/// Of an open file.
pub(super) fn stat_of(file: impl AsFd) -> Result<Stat, Errno> {
    rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, WANTED).map(|raw| Stat::from_statx(&raw))
}
