//! The store's directory, held open, and what is known of it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::TMP;
use super::directories::Directories;
use super::error::{LocalError, OpenError};
use crate::names::ObjectKey;

pub(super) struct Root {
    /// Canonical.
    pub(super) path: PathBuf,
    pub(super) url: String,
    /// Held so that the disk cannot be unmounted unseen, and that reads need one system call to open.
    pub(super) fd: OwnedFd,
    identity: (u64, u64),
    pub(super) directories: Directories,
    /// Whether the file system links files, until it says otherwise.
    pub(super) has_links: AtomicBool,
}

/// Makes the directory of a new store.
pub(super) fn make(path: &Path) -> Result<(), OpenError> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenError::Io { path, source }
    };
    match fs::metadata(path) {
        Ok(found) if !found.is_dir() => return Err(OpenError::NotADirectory { path: path.to_path_buf() }),
        Ok(_) => must_be_free(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io(path))?;
            for dir in made {
                let above = dir.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
                sync_directory(above).map_err(io(above))?;
            }
        }
        Err(source) => return Err(OpenError::Io { path: path.to_path_buf(), source }),
    }
    let tmp = path.join(TMP);
    match DirBuilder::new().mode(0o700).create(&tmp) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(&tmp)(error)),
        _ => {}
    }
    sync_directory(path).map_err(io(path))
}

/// `tmp` is the first thing that is made in a store: a directory that has it is an earlier attempt.
fn must_be_free(path: &Path) -> Result<(), OpenError> {
    if path.join(TMP).is_dir() {
        return Ok(());
    }
    let failed = |source| OpenError::Io { path: path.to_path_buf(), source };
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name != "lost+found" {
            let entry = name.to_string_lossy().into_owned();
            return Err(OpenError::NotEmpty { path: path.to_path_buf(), entry });
        }
    }
    Ok(())
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => OpenError::Missing { path: path.to_path_buf() },
            io::ErrorKind::NotADirectory => OpenError::NotADirectory { path: path.to_path_buf() },
            _ => OpenError::Io { path: path.to_path_buf(), source },
        };
        let canonical = fs::canonicalize(path).map_err(failed)?;
        // The package would panic on such a path.
        let Some(text) = canonical.to_str() else {
            return Err(OpenError::NotText { path: canonical });
        };
        let url = crate::address::file_url(text);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, &canonical, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| failed(errno.into()))?;
        Ok(Self {
            path: canonical,
            url,
            fd,
            identity: (stat.st_dev, stat.st_ino),
            directories: Directories::default(),
            has_links: AtomicBool::new(true),
        })
    }

    /// Refuses once the path leads elsewhere: a disk unmounted by force, a directory moved away.
    pub(super) fn still_stands(&self) -> Result<(), LocalError> {
        match rustix::fs::stat(&self.path) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == self.identity => Ok(()),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Err(LocalError::RootReplaced { path: self.path.clone() }),
            Err(errno) => Err(self.error("look at", "", errno)),
        }
    }

    /// Refuses the keys that are the store's own.
    pub(super) fn accepts(&self, key: &ObjectKey) -> Result<(), LocalError> {
        if key.as_str().split('/').next() == Some(TMP) { Err(LocalError::Reserved) } else { Ok(()) }
    }

    pub(super) fn ensure_parent(&self, key: &ObjectKey) -> Result<(), LocalError> {
        self.directories.ensure(self, parent(key.as_str()))
    }

    /// Opens what lies at `name` below the root, through no symbolic link. The empty name is the root.
    pub(super) fn open_below(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let name = if name.is_empty() { "." } else { name };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.fd, name, flags, Mode::empty(), resolve) {
            Err(Errno::NOSYS) => rustix::fs::openat(&self.fd, name, flags, Mode::empty()),
            answer => answer,
        }
    }

    pub(super) fn open_directory(&self, name: &str) -> Result<OwnedFd, LocalError> {
        self.open_below(name, OFlags::RDONLY | OFlags::DIRECTORY).map_err(|errno| match errno {
            Errno::LOOP | Errno::NOTDIR => LocalError::NotAFile { path: self.path.join(name) },
            errno => self.error("open", name, errno),
        })
    }

    pub(super) fn stat(&self, name: &str) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.fd, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
    }

    /// A fresh descriptor each time: one whose fsync failed must not be asked again.
    pub(super) fn sync(&self, name: &str) -> Result<(), LocalError> {
        let fd = self.open_directory(name)?;
        rustix::fs::fsync(fd.as_fd()).map_err(|errno| self.error("make durable", name, errno))
    }

    pub(super) fn error(&self, doing: &'static str, name: &str, errno: Errno) -> LocalError {
        self.io(doing, name, errno.into())
    }

    pub(super) fn io(&self, doing: &'static str, name: &str, source: io::Error) -> LocalError {
        LocalError::Io { doing, path: self.path.join(name), source }
    }
}

/// The directory of a name below the root; empty for the root.
pub(super) fn parent(name: &str) -> &str {
    name.rfind('/').map_or("", |at| &name[..at])
}
