//! Makes what is no regular file: directories, links, fifos, sockets, devices.

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use std::os::fd::AsFd;

use super::attributes::Given;
use super::confine::Folder;
use super::error::{Attribute, Outcome, Result, TargetError, whole};
use super::handle::{Handle, handle_of};
use super::{Existing, Target};
use crate::names::TreePath;
use crate::pack::entry::{Entry, Kind};

/// Whether `make_directory` had anything to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    Created,
    /// A directory stood there. What it holds is untouched.
    Existed,
}

impl Target {
    /// Makes a directory that only we can enter, until `finish_directory`. One that stands there is made enterable.
    pub fn make_directory(&self, path: &TreePath, existing: Existing) -> Result<Made> {
        if path.is_root() {
            self.make_enterable(path)?;
            return Ok(Made::Existed);
        }
        self.check_name(path)?;
        let (folder, name) = self.confined.place("create", path)?;
        let mode = Mode::from_raw_mode(0o700);
        let error = |errno| self.confined.error("create", path, errno);
        match mkdirat(&folder.fd, name, mode) {
            Ok(()) => return Ok(Made::Created),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(error(errno)),
        }
        let stands = statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(error)?;
        if FileType::from_raw_mode(stands.st_mode) == FileType::Directory {
            self.make_enterable(path)?;
            return Ok(Made::Existed);
        }
        if existing == Existing::Refuse {
            return Err(TargetError::Exists { path: whole(&self.confined.dir, path) });
        }
        unlinkat(&folder.fd, name, AtFlags::empty()).map_err(|errno| self.confined.error("replace", path, errno))?;
        mkdirat(&folder.fd, name, mode).map_err(error)?;
        Ok(Made::Created)
    }

    /// Lets us work in a directory of our own whose mode forbids it. Root needs no leave.
    pub(super) fn make_enterable(&self, path: &TreePath) -> Result<()> {
        if self.confined.is_root_user() {
            return Ok(());
        }
        let opened = || {
            let fd = self.confined.open_path(path)?;
            let stat = Handle::Path(fd.as_fd()).stat()?;
            let barred = stat.st_mode & 0o700 != 0o700 && stat.st_uid == self.confined.euid();
            if barred && FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                Handle::Path(fd.as_fd()).chmod((stat.st_mode & 0o7777) | 0o700)?;
                self.confined.forget(path);
            }
            Ok(())
        };
        opened().map_err(|errno| self.confined.error("enter", path, errno))
    }

    /// Sets the attributes of a directory, all of whose children are done; of the target itself, if the path is empty.
    pub fn finish_directory(&self, path: &TreePath, entry: &Entry) -> Result<Outcome> {
        let folder = self.confined.folder("finish", path)?;
        let handle = handle_of(&folder.fd, folder.readable);
        let mut outcome = Outcome::default();
        // Before `apply`, since an ACL that goes takes its part of the mode with it.
        self.drop_foreign_xattrs(handle, entry, &mut outcome);
        self.apply(handle, entry, Given::default(), &mut outcome);
        self.confined.forget(path);
        Ok(outcome)
    }

    pub fn make_symlink(&self, path: &TreePath, entry: &Entry, existing: Existing) -> Result<Outcome> {
        let Kind::Symlink { target } = &entry.kind else {
            return Err(self.confined.error("make a symlink at", path, Errno::INVAL));
        };
        self.make_node(path, entry, Attribute::Symlink, existing, |folder, part| {
            symlinkat(target.as_slice(), &folder.fd, part)
        })
    }

    /// Makes a fifo, a socket or a device. A device is left out by an unprivileged restore.
    pub fn make_special(&self, path: &TreePath, entry: &Entry, existing: Existing) -> Result<Outcome> {
        let (file_type, device, what) = match entry.kind {
            Kind::Fifo => (FileType::Fifo, 0, Attribute::Fifo),
            Kind::Socket => (FileType::Socket, 0, Attribute::Socket),
            Kind::CharDevice { major, minor } => (FileType::CharacterDevice, makedev(major, minor), Attribute::Device),
            Kind::BlockDevice { major, minor } => (FileType::BlockDevice, makedev(major, minor), Attribute::Device),
            Kind::File { .. } | Kind::Directory | Kind::Symlink { .. } => {
                return Err(self.confined.error("make a special file at", path, Errno::INVAL));
            }
        };
        if what == Attribute::Device && !self.options.privileged {
            let mut outcome = Outcome::default();
            outcome.omit(path, what);
            return Ok(outcome);
        }
        let mode = Mode::from_raw_mode(0o600);
        self.make_node(path, entry, what, existing, |folder, part| mknodat(&folder.fd, part, file_type, mode, device))
    }

    fn make_node(
        &self,
        path: &TreePath,
        entry: &Entry,
        what: Attribute,
        existing: Existing,
        make: impl Fn(&Folder, &str) -> rustix::io::Result<()>,
    ) -> Result<Outcome> {
        self.check_name(path)?;
        let (folder, name) = self.confined.place("create", path)?;
        let mut outcome = Outcome::default();
        let ((), part) = match self.under_part_name(|part| make(&folder, part)) {
            // Not this kind, not here, or not by us: the rest of the tree still comes back.
            Err(errno @ (Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)) => {
                outcome.lose(path, what, errno);
                return Ok(outcome);
            }
            made => made.map_err(|errno| self.confined.error("create", path, errno))?,
        };
        let finished = openat(&folder.fd, &part, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| self.confined.error("open", path, errno))
            .and_then(|fd| {
                let given = Given { acl: folder.may_give_acl, ..Given::default() };
                self.apply(Handle::Path(fd.as_fd()), entry, given, &mut outcome);
                self.publish(&folder, &part, name, path, existing)
            });
        if let Err(error) = finished {
            let _ = unlinkat(&folder.fd, &part, AtFlags::empty());
            return Err(error);
        }
        Ok(outcome)
    }

    /// Makes `path` a second name of what stands at `first`. Where that is impossible nothing is made, and the outcome
    /// has an [`Attribute::HardLink`] loss: the caller can still write the file once more.
    pub fn make_link(&self, first: &TreePath, path: &TreePath, existing: Existing) -> Result<Outcome> {
        self.check_name(path)?;
        let mut outcome = Outcome::default();
        let (from, from_name) = match self.confined.try_place(first) {
            // A directory of ours that has its final mode by now, and with it no way in.
            Err(errno @ Errno::ACCESS) => {
                outcome.lose(path, Attribute::HardLink, errno);
                return Ok(outcome);
            }
            placed => placed.map_err(|errno| self.confined.error("link", first, errno))?,
        };
        let (folder, name) = self.confined.place("create", path)?;
        let lost = |errno| matches!(errno, Errno::PERM | Errno::ACCESS | Errno::MLINK | Errno::XDEV | Errno::OPNOTSUPP);
        match linkat(&from.fd, from_name, &folder.fd, name, AtFlags::empty()) {
            Ok(()) => return Ok(outcome),
            Err(Errno::EXIST) => {}
            Err(errno) if lost(errno) => {
                outcome.lose(path, Attribute::HardLink, errno);
                return Ok(outcome);
            }
            Err(errno) => return Err(self.confined.error("link", path, errno)),
        }
        let inode = |folder: &Folder, name: &[u8]| {
            statat(&folder.fd, name, AtFlags::SYMLINK_NOFOLLOW)
                .map(|stat| (stat.st_dev, stat.st_ino))
                .map_err(|errno| self.confined.error("look at", path, errno))
        };
        if inode(&from, from_name)? == inode(&folder, name)? {
            return Ok(outcome);
        }
        if existing == Existing::Refuse {
            return Err(TargetError::Exists { path: whole(&self.confined.dir, path) });
        }
        let linked = self.under_part_name(|part| linkat(&from.fd, from_name, &folder.fd, part, AtFlags::empty()));
        let ((), part) = match linked {
            Err(errno) if lost(errno) => {
                outcome.lose(path, Attribute::HardLink, errno);
                return Ok(outcome);
            }
            linked => linked.map_err(|errno| self.confined.error("link", path, errno))?,
        };
        let published = self.publish(&folder, &part, name, path, existing);
        // A rename between two names of one file does nothing and keeps both: then the temporary one must go, too.
        let _ = unlinkat(&folder.fd, &part, AtFlags::empty());
        published.map(|()| outcome)
    }
}
