//! Files while they are written: under a temporary name beside the final one, until they are whole.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, fstat, ftruncate, linkat, openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::{Errno, pwrite};

use super::attributes::Given;
use super::confine::Folder;
use super::error::{Outcome, Result, TargetError, whole};
use super::handle::Handle;
use super::{Existing, Target, marker};
use crate::names::TreePath;
use crate::pack::entry::Entry;

/// How temporary names begin; 16 hex digits, a hyphen and a number in hex follow.
pub(super) const PREFIX: &str = ".lifeboat-part-";

/// Large files kept open while in progress. The others are opened again when bytes for them arrive.
const OPEN_FILES: usize = 128;

/// A large file being written, in any order and from any thread. It holds no descriptor. It ends with
/// [`Target::finish_file`] or [`Target::abandon_file`]; if a crash comes first, the next `begin` sweeps it away.
#[derive(Debug)]
pub struct FileInProgress {
    path: TreePath,
    part: String,
    size: u64,
    /// Who it is, so that an exchanged file is not written in its place.
    device: u64,
    inode: u64,
    owner: (u32, u32),
    may_have_acl: bool,
}

impl FileInProgress {
    pub fn path(&self) -> &TreePath {
        &self.path
    }

    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Files in progress that are open, by their temporary name, with the number of their last use.
#[derive(Default)]
pub(super) struct OpenParts {
    by_part: HashMap<String, (Arc<OwnedFd>, u64)>,
    uses: u64,
}

impl OpenParts {
    fn get(&mut self, part: &str) -> Option<Arc<OwnedFd>> {
        self.uses += 1;
        let uses = self.uses;
        let (fd, used) = self.by_part.get_mut(part)?;
        *used = uses;
        Some(Arc::clone(fd))
    }

    fn keep(&mut self, part: &str, fd: &Arc<OwnedFd>) {
        if self.by_part.len() >= OPEN_FILES
            && let Some(oldest) = self.by_part.iter().min_by_key(|(_, (_, used))| *used).map(|(part, _)| part.clone())
        {
            self.by_part.remove(&oldest);
        }
        self.uses += 1;
        self.by_part.insert(part.to_owned(), (Arc::clone(fd), self.uses));
    }
}

#[cfg(test)]
impl OpenParts {
    pub fn len(&self) -> usize {
        self.by_part.len()
    }

    pub fn clear(&mut self) {
        self.by_part.clear();
    }
}

impl Target {
    /// Begins a file of `size` bytes, all of them zero and taking no space until written.
    pub fn begin_file(&self, path: &TreePath, size: u64) -> Result<FileInProgress> {
        self.check_name(path)?;
        let (folder, _) = self.confined.place("create", path)?;
        let (fd, part) = self.create_part(&folder, path, 0o600)?;
        let begun = ftruncate(&fd, size).and_then(|()| fstat(&fd)).map_err(|errno| {
            let _ = unlinkat(&folder.fd, &part, AtFlags::empty());
            self.confined.error("make room for", path, errno)
        })?;
        lock(&self.parts).keep(&part, &Arc::new(fd));
        Ok(FileInProgress {
            path: path.clone(),
            part,
            size,
            device: begun.st_dev,
            inode: begun.st_ino,
            owner: (begun.st_uid, begun.st_gid),
            may_have_acl: folder.may_give_acl,
        })
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_at(&self, file: &FileInProgress, offset: u64, bytes: &[u8]) -> Result<()> {
        self.write_all(self.open_part(file)?.as_fd(), &file.path, file.size, offset, bytes)
    }

    /// Sets the attributes of `entry` on a file whose bytes are all written, and gives it its name.
    pub fn finish_file(&self, file: FileInProgress, entry: &Entry, existing: Existing) -> Result<Outcome> {
        let finished = self.open_part(&file).and_then(|fd| {
            let mut outcome = Outcome::default();
            // With an inherited ACL the mode is not what was asked for; nor under a mask that takes from the owner.
            let plain = !file.may_have_acl && self.umask.is_some_and(|umask| umask & 0o600 == 0);
            let given = Given { owner: Some(file.owner), mode: plain.then_some(0o600), acl: file.may_have_acl };
            self.apply(Handle::Open(fd.as_fd()), entry, given, &mut outcome);
            let (folder, name) = self.confined.place("finish", &file.path)?;
            self.publish(&folder, &file.part, name, &file.path, existing)?;
            Ok(outcome)
        });
        match finished {
            Ok(outcome) => {
                lock(&self.parts).by_part.remove(&file.part);
                Ok(outcome)
            }
            Err(error) => {
                self.abandon_file(file);
                Err(error)
            }
        }
    }

    /// Removes a file that will not be finished.
    pub fn abandon_file(&self, file: FileInProgress) {
        lock(&self.parts).by_part.remove(&file.part);
        // A part that cannot be removed now is swept when the restore is continued.
        if let Ok((folder, _)) = self.confined.try_place(&file.path) {
            let _ = unlinkat(&folder.fd, &file.part, AtFlags::empty());
        }
    }

    /// Writes a whole file in one go: `chunks` are (offset, bytes), ascending; what lies between them is a hole.
    pub fn write_small(
        &self,
        path: &TreePath,
        entry: &Entry,
        chunks: &[(u64, &[u8])],
        existing: Existing,
    ) -> Result<Outcome> {
        self.check_name(path)?;
        let (folder, name) = self.confined.place("create", path)?;
        let creation = self.creation(&folder, entry);
        let (fd, part) = self.create_part(&folder, path, creation.mode)?;
        let fill = || {
            let size = entry.kind.size();
            if has_holes(chunks, size) {
                // Before the bytes: a file that grows by writing gets space ahead (XFS), which would then fill its holes.
                ftruncate(&fd, size).map_err(|errno| self.confined.error("make room for", path, errno))?;
            }
            for (offset, bytes) in chunks {
                self.write_all(fd.as_fd(), path, size, *offset, bytes)?;
            }
            let mut given = creation.given;
            if given.owner.is_none() && folder.ours {
                let made = fstat(&fd).map_err(|errno| self.confined.error("look at", path, errno))?;
                given.owner = Some(*folder.gives.get_or_init(|| (made.st_uid, made.st_gid)));
            }
            let mut outcome = Outcome::default();
            self.apply(Handle::Open(fd.as_fd()), entry, given, &mut outcome);
            self.publish(&folder, &part, name, path, existing)?;
            Ok(outcome)
        };
        fill().inspect_err(|_| {
            let _ = unlinkat(&folder.fd, &part, AtFlags::empty());
        })
    }

    /// Makes sure that `path` can be the name of a thing that is no directory.
    pub(super) fn check_name(&self, path: &TreePath) -> Result<()> {
        if path.is_root() {
            return Err(TargetError::Exists { path: whole(&self.confined.dir, path) });
        }
        if path.as_bytes() == marker::NAME.as_bytes() {
            return Err(TargetError::Reserved { path: whole(&self.confined.dir, path) });
        }
        Ok(())
    }

    fn create_part(&self, folder: &Folder, path: &TreePath, mode: u32) -> Result<(OwnedFd, String)> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.under_part_name(|part| openat(&folder.fd, part, flags, Mode::from_raw_mode(mode)))
            .map_err(|errno| self.confined.error("create", path, errno))
    }

    /// Calls `make` with a temporary name that nothing has.
    pub(super) fn under_part_name<T>(
        &self,
        make: impl Fn(&str) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<(T, String)> {
        loop {
            let number = self.part_count.fetch_add(1, Ordering::Relaxed);
            let part = format!("{}{number:x}", self.part_prefix);
            match make(&part) {
                // The names are drawn at random: only someone who guesses them gets here, and never for long.
                Err(Errno::EXIST) => {}
                made => return Ok((made?, part)),
            }
        }
    }

    fn open_part(&self, file: &FileInProgress) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = lock(&self.parts).get(&file.part) {
            return Ok(fd);
        }
        let (folder, _) = self.confined.place("write", &file.path)?;
        // Not to wait, should a fifo have been put in its place.
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(&folder.fd, &file.part, flags, Mode::empty()).and_then(|fd| Ok((fstat(&fd)?, fd)));
        let (stat, fd) = match opened {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Err(self.exchanged(&file.path)),
            opened => opened.map_err(|errno| self.confined.error("write", &file.path, errno))?,
        };
        if (stat.st_dev, stat.st_ino) != (file.device, file.inode) {
            return Err(self.exchanged(&file.path));
        }
        let fd = Arc::new(fd);
        lock(&self.parts).keep(&file.part, &fd);
        Ok(fd)
    }

    fn exchanged(&self, path: &TreePath) -> TargetError {
        TargetError::Exchanged { path: whole(&self.confined.dir, path) }
    }

    pub(super) fn write_all(
        &self,
        fd: BorrowedFd<'_>,
        path: &TreePath,
        size: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<()> {
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > size) {
            return Err(TargetError::PastEnd { path: whole(&self.confined.dir, path), size });
        }
        let mut done = 0;
        while done < bytes.len() {
            match pwrite(fd, &bytes[done..], offset + done as u64) {
                Ok(0) => return Err(self.confined.error("write", path, Errno::NOSPC)),
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.confined.error("write", path, errno)),
            }
        }
        Ok(())
    }

    /// Gives what stands under the temporary name `part` its final name.
    pub(super) fn publish(
        &self,
        folder: &Folder,
        part: &str,
        name: &[u8],
        path: &TreePath,
        existing: Existing,
    ) -> Result<()> {
        let fd = folder.fd.as_fd();
        let renamed = match existing {
            Existing::Refuse => match renameat_with(fd, part, fd, name, RenameFlags::NOREPLACE) {
                Err(Errno::INVAL | Errno::NOSYS) => publish_by_link(fd, part, name),
                renamed => renamed,
            },
            Existing::Replace | Existing::ReplaceTree => match renameat(fd, part, fd, name) {
                Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                    self.clear_directory(folder, name, path, existing)?;
                    renameat(fd, part, fd, name)
                }
                renamed => renamed,
            },
        };
        renamed.map_err(|errno| self.confined.error("put in place", path, errno))
    }

    /// Removes the directory that stands where another thing is to be.
    fn clear_directory(&self, folder: &Folder, name: &[u8], path: &TreePath, existing: Existing) -> Result<()> {
        if existing == Existing::ReplaceTree {
            return self.remove(path).map(|_| ());
        }
        self.confined.forget_tree(path);
        match unlinkat(&folder.fd, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(TargetError::Exists { path: whole(&self.confined.dir, path) }),
            Err(errno) => Err(self.confined.error("replace", path, errno)),
            Ok(()) => Ok(()),
        }
    }
}

/// Whether `chunks` leave out some of `size` bytes.
fn has_holes(chunks: &[(u64, &[u8])], size: u64) -> bool {
    let mut end = 0;
    for (offset, bytes) in chunks {
        if *offset != end {
            return true;
        }
        end += bytes.len() as u64;
    }
    end != size
}

/// For file systems whose rename cannot refuse to replace.
fn publish_by_link(fd: BorrowedFd<'_>, part: &str, name: &[u8]) -> rustix::io::Result<()> {
    match linkat(fd, part, fd, name, AtFlags::empty()) {
        Ok(()) => unlinkat(fd, part, AtFlags::empty()),
        // Nor has it hard links: then there is a moment between looking and renaming.
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => match statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => renameat(fd, part, fd, name),
            Ok(_) => Err(Errno::EXIST),
            Err(errno) => Err(errno),
        },
        Err(errno) => Err(errno),
    }
}

/// Whether `name` is one that this module draws.
pub(super) fn is_part_name(name: &[u8]) -> bool {
    let hex = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    name.strip_prefix(PREFIX.as_bytes())
        .and_then(|rest| rest.split_at_checked(16))
        .is_some_and(|(random, rest)| hex(random) && rest.strip_prefix(b"-").is_some_and(hex))
}

fn lock(parts: &Mutex<OpenParts>) -> std::sync::MutexGuard<'_, OpenParts> {
    parts.lock().unwrap_or_else(PoisonError::into_inner)
}
