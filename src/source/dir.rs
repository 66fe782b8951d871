//! Handles of directories, few of them open at once.
//!
//! Owns the descriptors. A [`Dir`] knows its parent, its name there and which directory it was; its descriptor may be
//! closed at any time to make room and is then opened again, from the nearest open directory above. So a tree may be
//! deeper than the descriptors that a process has, and workers may hold files of any number of directories.
//!
//! A reopened directory must still be the same one: each step refuses links and compares device and inode. Someone who
//! moves directories about can make us report a change, never make us read elsewhere.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::problem::{Problem, ProblemKind};
use super::stat::{Identity, stat_of};
use crate::names::TreePath;

/// Open directories of one walk, beside the root's parent and the one in each thread's hand. A process may have 1,024
/// descriptors by default; several walks, their files and the connections to stores have to fit.
pub(super) const OPEN_MAX: usize = 128;

/// What all directories of one walk share.
pub(super) struct Base {
    /// Absolute, as people know it.
    pub root: Vec<u8>,
    /// The root's name in `anchor`; `.` where it has none of its own (`/`).
    pub root_name: Vec<u8>,
    /// The directory that holds the root. Never closed.
    anchor: Arc<OwnedFd>,
    /// Those that may be open, the one opened first in front.
    shelf: Mutex<VecDeque<Weak<Dir>>>,
}

/// A directory of the source. Cheap to share and to hold: it keeps no descriptor for itself.
pub struct Dir {
    base: Arc<Base>,
    /// None: this is the anchor.
    above: Option<Arc<Dir>>,
    name: CString,
    identity: Identity,
    /// Gone through and never listed: the right to search it is enough.
    passed: bool,
    open: Mutex<Option<Arc<OwnedFd>>>,
}

impl Base {
    pub fn new(root: Vec<u8>, root_name: Vec<u8>, anchor: OwnedFd) -> Arc<Self> {
        Arc::new(Self { root, root_name, anchor: Arc::new(anchor), shelf: Mutex::default() })
    }

    pub fn absolute(&self, path: &TreePath) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.root.len() + 1 + path.as_bytes().len());
        bytes.extend_from_slice(&self.root);
        if !path.is_root() {
            if bytes.last() != Some(&b'/') {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(path.as_bytes());
        }
        bytes
    }

    /// Remembers that `dir` is open, and closes the one that was opened first where there are too many.
    fn shelve(&self, dir: &Arc<Dir>) {
        let mut shelf = lock(&self.shelf);
        if shelf.len() >= OPEN_MAX {
            shelf.retain(|dir| dir.strong_count() > 0);
        }
        while shelf.len() >= OPEN_MAX {
            let Some(oldest) = shelf.pop_front() else { break };
            if let Some(oldest) = oldest.upgrade() {
                lock(&oldest.open).take();
            }
        }
        shelf.push_back(Arc::downgrade(dir));
    }
}

impl Dir {
    /// The directory that holds the root.
    pub(super) fn anchor(base: Arc<Base>) -> Arc<Self> {
        let identity = Identity { dev: 0, inode: 0 }; // never compared: the anchor is never opened again
        Arc::new(Self { base, above: None, name: CString::default(), identity, passed: true, open: Mutex::default() })
    }

    /// The directory `name` in this one, not opened yet.
    pub(super) fn child(self: &Arc<Self>, name: &CStr, identity: Identity) -> Arc<Self> {
        self.make(name, identity, false)
    }

    /// `child` for a directory that only leads on to another.
    pub(super) fn passage(self: &Arc<Self>, name: &CStr, identity: Identity) -> Arc<Self> {
        self.make(name, identity, true)
    }

    fn make(self: &Arc<Self>, name: &CStr, identity: Identity, passed: bool) -> Arc<Self> {
        Arc::new(Self {
            base: Arc::clone(&self.base),
            above: Some(Arc::clone(self)),
            name: name.to_owned(),
            identity,
            passed,
            open: Mutex::default(),
        })
    }

    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    pub(super) fn problem(&self, path: &TreePath, kind: ProblemKind) -> Problem {
        Problem { path: self.base.absolute(path), kind }
    }

    /// Its descriptor, opened (again) if need be. Held by the caller it stays open, whatever is closed meanwhile.
    pub(super) fn descriptor(self: &Arc<Self>) -> Result<Arc<OwnedFd>, ProblemKind> {
        if let Some(open) = self.opened() {
            return Ok(open);
        }
        let mut closed = vec![self];
        let mut above = self.above.as_ref();
        let mut descriptor = loop {
            let Some(dir) = above else { break Arc::clone(&self.base.anchor) };
            match dir.opened() {
                Some(open) => break open,
                None => closed.push(dir),
            }
            above = dir.above.as_ref();
        };
        for dir in closed.into_iter().rev() {
            descriptor = dir.open_in(&descriptor)?;
        }
        Ok(descriptor)
    }

    fn opened(&self) -> Option<Arc<OwnedFd>> {
        match self.above {
            Some(_) => lock(&self.open).clone(),
            None => Some(Arc::clone(&self.base.anchor)),
        }
    }

    fn open_in(self: &Arc<Self>, above: &OwnedFd) -> Result<Arc<OwnedFd>, ProblemKind> {
        let flags = OFlags::DIRECTORY | if self.passed { OFlags::PATH } else { OFlags::RDONLY };
        let unreadable = |errno| ProblemKind::from_errno("opened", errno);
        let descriptor = open_quietly(above, self.name.as_c_str(), flags).map_err(unreadable)?;
        if stat_of(&descriptor).map_err(unreadable)?.identity() != self.identity {
            return Err(ProblemKind::Changed);
        }
        let descriptor = Arc::new(descriptor);
        {
            let mut open = lock(&self.open);
            if let Some(open) = &*open {
                return Ok(Arc::clone(open)); // another thread was quicker
            }
            *open = Some(Arc::clone(&descriptor));
        }
        self.base.shelve(self);
        Ok(descriptor)
    }
}

impl Drop for Dir {
    /// Lets go of the directories above one by one: ten thousand of them dropping each other would exhaust the stack.
    fn drop(&mut self) {
        let mut above = self.above.take();
        while let Some(dir) = above {
            above = Arc::into_inner(dir).and_then(|mut dir| dir.above.take());
        }
    }
}

/// Opens `name` in `dir` without following a link, becoming a terminal's owner, waiting for a writer, or (where we may)
/// touching the access time.
pub(super) fn open_quietly(
    dir: impl AsFd,
    name: impl rustix::path::Arg + Copy,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match openat(&dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Access times are their owner's to spare.
        Err(Errno::PERM) => openat(&dir, name, flags, Mode::empty()),
        other => other,
    }
}

/// A panic elsewhere leaves these values whole: each is written in one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
impl Base {
    /// How many directories are open now.
    pub fn open_count(&self) -> usize {
        let live = lock(&self.shelf).iter().filter_map(Weak::upgrade).collect::<Vec<_>>();
        live.iter().filter(|dir| lock(&dir.open).is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;

    #[test]
    fn a_chain_of_any_length_is_dropped_without_recursion() {
        let anchor = open_quietly(CWD, c"/", OFlags::PATH).unwrap();
        let mut dir = Dir::anchor(Base::new(b"/".to_vec(), b".".to_vec(), anchor));
        for inode in 0..200_000 {
            dir = dir.child(c"d", Identity { dev: 0, inode });
        }
        drop(dir);
    }
}
