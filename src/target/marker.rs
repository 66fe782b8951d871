//! Knows an interrupted restore again.
//!
//! The marker is a file in the target that says which restore is under way. It stands there, durable, before anything else
//! is made, and goes when everything is durable. So whatever a crash leaves, the marker is there or the restore is done.
//! Its going touches the target's own modification time, which is set again after it; an extended attribute holds that time meanwhile, so that
//! whoever looks at the target next sets it if a crash came between. (Without such attributes that one time may be lost.)
//! Files under temporary names beside a marker are ours, half written, and swept before the restore goes on.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Mode, OFlags, fstat, fsync, openat, syncfs, unlinkat};
use rustix::io::Errno;

use super::error::{Result, TargetError, whole};
use super::handle::Handle;
use super::part::is_part_name;
use super::read::FileKind;
use super::{Existing, Target};
use crate::names::TreePath;
use crate::pack::entry::Timestamp;

/// The marker's name in the target.
pub const NAME: &str = ".lifeboat-restore";

/// Holds the target's modification time while the marker goes: seconds i64, nanoseconds u32. Setting and removing it changes no mtime.
const TIME_NOTE: &[u8] = b"user.lifeboat.restore-mtime";

/// Longer markers are not read: they were not written here.
const MARKER_BYTES_MAX: usize = 64 * 1024;

/// What stands in a target before a restore begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing, or nothing but the `lost+found` of a new file system and what a `begin` cut short left.
    Empty,
    /// An unfinished restore, with the bytes that it began with.
    Interrupted { marker: Vec<u8> },
    /// Something else; one name of it.
    Foreign { example: Vec<u8> },
}

/// How a restore begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    Fresh,
    /// The same restore was interrupted here: files under final names are whole, all else is as it may be.
    Continued,
}

impl Target {
    pub fn state(&self) -> Result<State> {
        if let Some(marker) = self.read_marker()? {
            return Ok(State::Interrupted { marker });
        }
        self.set_noted_time()?;
        for (name, kind) in self.list(&TreePath::root())? {
            let Ok(path) = TreePath::root().join(&name) else { continue };
            let of_the_file_system =
                name == b"lost+found" && kind == FileKind::Directory && self.list(&path)?.is_empty();
            let cut_short = kind == FileKind::File && is_part_name(&name);
            if !of_the_file_system && !cut_short {
                return Ok(State::Foreign { example: name });
            }
        }
        Ok(State::Empty)
    }

    /// Marks the target with `marker`, which says what is being restored; or goes on, if it bears that mark already. What an
    /// interrupted restore left under temporary names is removed.
    pub fn begin(&self, marker: &[u8]) -> Result<Begin> {
        let root = TreePath::root();
        let path = marker_path();
        if marker.len() > MARKER_BYTES_MAX {
            return Err(self.confined.error("mark", &root, Errno::MSGSIZE));
        }
        match self.read_marker()? {
            Some(theirs) if theirs == marker => {
                self.sweep()?;
                return Ok(Begin::Continued);
            }
            Some(theirs) => {
                let target = whole(&self.confined.dir, &root);
                return Err(TargetError::OtherRestore { target, theirs, ours: marker.to_owned() });
            }
            None => self.sweep_directory(&root)?,
        }
        let (folder, name) = self.confined.place("mark", &path)?;
        let error = |errno| self.confined.error("mark", &path, errno);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let (fd, part) = self.under_part_name(|part| openat(&folder.fd, part, flags, mode)).map_err(error)?;
        let marked = self.write_all(fd.as_fd(), &path, marker.len() as u64, 0, marker).and_then(|()| {
            fsync(&fd).map_err(error)?;
            self.publish(&folder, &part, name, &path, Existing::Refuse)?;
            fsync(self.confined.root()).map_err(error)
        });
        marked.inspect_err(|_| {
            let _ = unlinkat(&folder.fd, &part, AtFlags::empty());
        })?;
        Ok(Begin::Fresh)
    }

    /// Makes everything durable, then removes the marker. The times of the target itself stay as `finish_directory` set them.
    ///
    /// What was restored onto other file systems, mounted beneath the target, is not waited for.
    pub fn finish(&self) -> Result<()> {
        let root = TreePath::root();
        let fd = self.confined.root();
        syncfs(fd).map_err(|errno| self.confined.error("write out", &root, errno))?;
        let before = fstat(fd).map_err(|errno| self.confined.error("look at", &root, errno))?;
        let mtime = Timestamp { secs: before.st_mtime, nanos: u32::try_from(before.st_mtime_nsec).unwrap_or(0) };
        let mut note = mtime.secs.to_le_bytes().to_vec();
        note.extend_from_slice(&mtime.nanos.to_le_bytes());
        // A user may have just taken himself the right to remove anything here: then he gives it back to himself for a moment.
        let mode = before.st_mode & 0o7777;
        let barred = !self.confined.is_root_user() && before.st_uid == self.confined.euid() && mode & 0o300 != 0o300;
        let failed = |errno| self.confined.error("set the times of", &root, errno);
        if barred {
            Handle::Open(fd).chmod(mode | 0o700).map_err(failed)?;
            self.confined.forget(&root);
        }
        // Where it cannot be kept, a crash in the next two calls costs the time of the target itself.
        let noted = Handle::Open(fd).set_xattr(TIME_NOTE, &note).is_ok();
        self.unlink(&marker_path(), AtFlags::empty())?;
        match Handle::Open(fd).set_mtime(mtime) {
            // Not our directory: that its time could not be set was said when it was tried first.
            Err(Errno::PERM | Errno::ACCESS) => {}
            set => set.map_err(failed)?,
        }
        if noted {
            Handle::Open(fd).remove_xattr(TIME_NOTE).map_err(failed)?;
        }
        if barred {
            Handle::Open(fd).chmod(mode).map_err(failed)?;
        }
        fsync(fd).map_err(|errno| self.confined.error("write out", &root, errno))
    }

    /// Sets the target's modification time if a restore ended between the removal of its marker and that.
    fn set_noted_time(&self) -> Result<()> {
        let handle = Handle::Open(self.confined.root());
        let Ok(note) = handle.xattr(TIME_NOTE) else { return Ok(()) };
        let failed = |errno| self.confined.error("set the times of", &TreePath::root(), errno);
        if let Some((secs, nanos)) = note.split_first_chunk::<8>()
            && let Ok(nanos) = <[u8; 4]>::try_from(nanos)
            && u32::from_le_bytes(nanos) < 1_000_000_000
        {
            let mtime = Timestamp { secs: i64::from_le_bytes(*secs), nanos: u32::from_le_bytes(nanos) };
            handle.set_mtime(mtime).map_err(failed)?;
        }
        handle.remove_xattr(TIME_NOTE).map_err(failed)
    }

    fn read_marker(&self) -> Result<Option<Vec<u8>>> {
        let path = marker_path();
        if self.stat(&path)?.is_none() {
            return Ok(None);
        }
        let file = self.open_file(&path)?;
        let mut bytes = vec![0; MARKER_BYTES_MAX];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(Some(bytes))
    }

    /// Removes all temporary files in the target.
    fn sweep(&self) -> Result<()> {
        let mut waiting = vec![TreePath::root()];
        while let Some(directory) = waiting.pop() {
            for (name, kind) in self.listable(&directory)? {
                let Ok(path) = directory.join(&name) else { continue };
                if kind == FileKind::Directory {
                    waiting.push(path);
                } else if is_part_name(&name) {
                    self.unlink(&path, AtFlags::empty())?;
                }
            }
        }
        Ok(())
    }

    fn sweep_directory(&self, directory: &TreePath) -> Result<()> {
        for (name, kind) in self.list(directory)? {
            if kind != FileKind::Directory
                && is_part_name(&name)
                && let Ok(path) = directory.join(&name)
            {
                self.unlink(&path, AtFlags::empty())?;
            }
        }
        Ok(())
    }

    /// A directory that we may not read was finished, so it holds nothing half written; one that is gone holds nothing.
    fn listable(&self, directory: &TreePath) -> Result<Vec<(Vec<u8>, FileKind)>> {
        match self.list(directory) {
            Err(TargetError::Other { cause, .. }) if cause.kind() == std::io::ErrorKind::PermissionDenied => {
                Ok(Vec::new())
            }
            Err(TargetError::Missing { .. } | TargetError::Obstructed { .. }) => Ok(Vec::new()),
            listed => listed,
        }
    }
}

fn marker_path() -> TreePath {
    TreePath::root().join(NAME.as_bytes()).expect("the marker's name is one good part")
}
