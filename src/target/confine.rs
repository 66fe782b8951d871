//! How a path becomes a descriptor: beneath the target, through no link.
//!
//! A path is resolved by `openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`, or, where the
//! kernel has no such call, one part after another with `O_NOFOLLOW`. What is done to a file is then done by a single
//! name within the descriptor of its directory, and a single name cannot lead elsewhere. So whoever exchanges a directory
//! for a link while a restore runs either comes too late, and the directory that was opened is written, or too early, and
//! the path is `Obstructed`. The same holds for directories kept open: they are what they were when they were opened.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, fgetxattr_query, fstat, getxattr_query, openat, openat2, statat,
};
use rustix::io::Errno;

use super::error::{Result, TargetError, whole};
use crate::names::TreePath;

/// Directories kept open. With the files of `part::OPEN_FILES` this stays far below the usual 1024 descriptors.
const OPEN_FOLDERS: usize = 256;

/// Most bytes that one call resolves; the kernel takes 4095.
const SEGMENT_BYTES: usize = 4000;

/// Attempts at a resolution that the kernel calls unsure because something else was being renamed.
const UNSURE_MAX: usize = 64;

pub(super) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// A directory inside the target, held open.
pub(super) struct Folder {
    pub fd: OwnedFd,
    /// Opened for reading; otherwise only names within it can be used (`O_PATH`).
    pub readable: bool,
    /// Only we (or root) can change its mode, group and ACL, so what we learnt of new files in it stays true.
    pub ours: bool,
    /// New files may come with an ACL that nobody asked for.
    pub may_give_acl: bool,
    /// Owner and group that a new file in here gets, once one was made. Only kept if the directory is `ours`.
    pub gives: OnceLock<(u32, u32)>,
}

pub(super) struct Confined {
    root: OwnedFd,
    pub dir: PathBuf,
    /// The kernel has no `openat2`: resolve part by part.
    stepwise: AtomicBool,
    euid: u32,
    open: Mutex<OpenFolders>,
}

#[derive(Default)]
struct OpenFolders {
    by_path: HashMap<Vec<u8>, (Arc<Folder>, u64)>,
    /// Grows with each use; the smallest number was used longest ago.
    uses: u64,
}

impl OpenFolders {
    fn get(&mut self, path: &[u8]) -> Option<Arc<Folder>> {
        self.uses += 1;
        let uses = self.uses;
        let (folder, used) = self.by_path.get_mut(path)?;
        *used = uses;
        Some(Arc::clone(folder))
    }

    fn keep(&mut self, path: &[u8], folder: &Arc<Folder>) {
        if self.by_path.len() >= OPEN_FOLDERS
            && let Some(oldest) = self.by_path.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone())
        {
            self.by_path.remove(&oldest);
        }
        self.uses += 1;
        self.by_path.insert(path.to_vec(), (Arc::clone(folder), self.uses));
    }
}

impl Confined {
    pub fn new(root: OwnedFd, dir: PathBuf) -> Self {
        Self {
            root,
            dir,
            stepwise: AtomicBool::new(false),
            euid: rustix::process::geteuid().as_raw(),
            open: Mutex::default(),
        }
    }

    /// As on a kernel without `openat2`.
    #[cfg(test)]
    pub fn without_openat2(&self) {
        self.stepwise.store(true, Ordering::Relaxed);
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub fn is_root_user(&self) -> bool {
        self.euid == 0
    }

    pub fn euid(&self) -> u32 {
        self.euid
    }

    pub fn error(&self, verb: &'static str, path: &TreePath, errno: Errno) -> TargetError {
        TargetError::new(verb, whole(&self.dir, path), errno)
    }

    /// The directory that holds `path`, and the name within it; for the target itself, it and `.`.
    pub fn place<'p>(&self, verb: &'static str, path: &'p TreePath) -> Result<(Arc<Folder>, &'p [u8])> {
        self.try_place(path).map_err(|errno| self.error(verb, path, errno))
    }

    pub fn try_place<'p>(&self, path: &'p TreePath) -> rustix::io::Result<(Arc<Folder>, &'p [u8])> {
        if path.is_root() {
            return Ok((self.try_folder(b"")?, b"."));
        }
        let (parent, name) = split_last(path.as_bytes());
        Ok((self.try_folder(parent)?, name))
    }

    pub fn folder(&self, verb: &'static str, path: &TreePath) -> Result<Arc<Folder>> {
        self.try_folder(path.as_bytes()).map_err(|errno| self.error(verb, path, errno))
    }

    fn try_folder(&self, path: &[u8]) -> rustix::io::Result<Arc<Folder>> {
        // The nearest directory that is open already saves resolving what lies above it.
        let mut base = path;
        let mut nearest = None;
        {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                nearest = open.get(base).or(nearest);
                if nearest.is_some() || base.is_empty() {
                    break;
                }
                base = split_last(base).0;
            }
        }
        let from = match &nearest {
            Some(folder) if base.len() == path.len() => return Ok(Arc::clone(folder)),
            Some(folder) => folder.fd.as_fd(),
            None => self.root.as_fd(),
        };
        let rest = path[base.len()..].strip_prefix(b"/").unwrap_or(&path[base.len()..]);
        let folder = Arc::new(self.open_folder(from, rest)?);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).keep(path, &folder);
        Ok(folder)
    }

    fn open_folder(&self, from: BorrowedFd<'_>, rest: &[u8]) -> rustix::io::Result<Folder> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let (fd, readable) = match self.open_beneath(from, rest, flags | OFlags::RDONLY, ResolveFlags::empty()) {
            Err(Errno::ACCESS) => (self.open_beneath(from, rest, flags | OFlags::PATH, ResolveFlags::empty())?, false),
            opened => (opened?, true),
        };
        let ours = fstat(&fd)?.st_uid == self.euid;
        let gives_acl = if readable {
            fgetxattr_query(&fd, ACL_DEFAULT)
        } else {
            getxattr_query(proc_path(fd.as_fd()), ACL_DEFAULT)
        };
        let none = matches!(gives_acl, Ok(0) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT));
        Ok(Folder { fd, readable, ours, may_give_acl: !none || !ours, gives: OnceLock::new() })
    }

    /// Opens `rest`, which may be longer than the kernel's limit for one path, beneath `from`.
    pub fn open_beneath(
        &self,
        from: BorrowedFd<'_>,
        rest: &[u8],
        flags: OFlags,
        resolve: ResolveFlags,
    ) -> rustix::io::Result<OwnedFd> {
        if rest.is_empty() {
            return openat(from, c".", flags, Mode::empty());
        }
        let mut held: Option<OwnedFd> = None;
        let mut rest = rest;
        loop {
            let at = held.as_ref().map_or(from, AsFd::as_fd);
            let stepwise = self.stepwise.load(Ordering::Relaxed);
            let (segment, tail) = split_segment(rest, if stepwise { 0 } else { SEGMENT_BYTES });
            let flags = if tail.is_empty() {
                flags
            } else {
                OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
            };
            let opened = if stepwise {
                let crosses = |fd: OwnedFd| match fstat(&fd)?.st_dev == fstat(at)?.st_dev {
                    true => Ok(fd),
                    false => Err(Errno::XDEV),
                };
                let opened = openat(at, segment, flags | OFlags::NOFOLLOW, Mode::empty());
                if resolve.contains(ResolveFlags::NO_XDEV) { opened.and_then(crosses) } else { opened }
            } else {
                open_segment(at, segment, flags, resolve)
            };
            match opened {
                Err(Errno::NOSYS) if !stepwise => self.stepwise.store(true, Ordering::Relaxed),
                Err(errno) => return Err(errno),
                Ok(fd) if tail.is_empty() => return Ok(fd),
                Ok(fd) => {
                    held = Some(fd);
                    rest = tail;
                }
            }
        }
    }

    /// Opens what stands at `path` itself, link or not, without any right to its content.
    pub fn open_path(&self, path: &TreePath) -> rustix::io::Result<OwnedFd> {
        let (folder, name) = self.try_place(path)?;
        openat(&folder.fd, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    pub fn stat(&self, path: &TreePath) -> rustix::io::Result<rustix::fs::Stat> {
        let (folder, name) = self.try_place(path)?;
        statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Closes the directory at `path`, whose attributes are about to change.
    pub fn forget(&self, path: &TreePath) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).by_path.remove(path.as_bytes());
    }

    /// Closes all that lies at or beneath `path`, which is about to go.
    pub fn forget_tree(&self, path: &TreePath) {
        let inside = |open: &[u8]| {
            let rest = open.strip_prefix(path.as_bytes());
            path.is_root() || rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        self.open.lock().unwrap_or_else(PoisonError::into_inner).by_path.retain(|open, _| !inside(open));
    }

    #[cfg(test)]
    pub fn open_count(&self) -> usize {
        self.open.lock().unwrap().by_path.len()
    }
}

fn open_segment(
    at: BorrowedFd<'_>,
    segment: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 1..UNSURE_MAX {
        match openat2(at, segment, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
    openat2(at, segment, flags, Mode::empty(), resolve)
}

/// The directory's path (empty: the target) and the last name.
fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// The longest run of whole parts within `bytes_max` (at least one part), and what remains.
fn split_segment(path: &[u8], bytes_max: usize) -> (&[u8], &[u8]) {
    if path.len() <= bytes_max {
        return (path, b"");
    }
    let within = path[..bytes_max].iter().rposition(|b| *b == b'/');
    match within.or_else(|| path.iter().position(|b| *b == b'/')) {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, b""),
    }
}

/// A name through which calls without a descriptor form reach what `fd` holds, and nothing else.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
