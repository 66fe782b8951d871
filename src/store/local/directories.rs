//! The directories below the root that are known to stand, durably.
//!
//! A directory that is found standing may have been made a moment ago by another process that has not fsynced it yet, so
//! being there is not enough: its parent is fsynced once, and with it everything that the parent then holds.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Dir, FileType, Mode};
use rustix::io::Errno;

use super::error::LocalError;
use super::root::Root;

#[derive(Default)]
pub(super) struct Directories {
    known: Mutex<HashSet<String>>,
}

impl Directories {
    /// Makes `name` and those above it, 0700, so that they survive a power cut. The empty name is the root.
    pub(super) fn ensure(&self, root: &Root, name: &str) -> Result<(), LocalError> {
        let mut known = self.lock();
        if name.is_empty() || known.contains(name) {
            return Ok(());
        }
        let ends = name.match_indices('/').map(|(at, _)| at).chain([name.len()]);
        let mut parent = "";
        for end in ends {
            let child = &name[..end];
            if !known.contains(child) {
                match rustix::fs::mkdirat(&root.fd, child, Mode::RWXU) {
                    Ok(()) => {
                        root.sync(child)?;
                        root.sync(parent)?;
                        known.insert(child.to_owned());
                    }
                    Err(Errno::EXIST) => {
                        root.open_directory(child)?;
                        let standing = directories_in(root, parent)?;
                        root.sync(parent)?;
                        known.extend(standing);
                    }
                    Err(errno) => return Err(root.error("make the directory", child, errno)),
                }
            }
            parent = child;
        }
        Ok(())
    }

    /// Forgets one that was removed.
    pub(super) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    /// Forgets all: something removed a directory that was known.
    pub(super) fn doubt(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn directories_in(root: &Root, parent: &str) -> Result<Vec<String>, LocalError> {
    let failed = |errno| root.error("list", parent, errno);
    let mut names = Vec::new();
    for entry in Dir::new(root.open_directory(parent)?).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type() == FileType::Directory
            && let Ok(name) = entry.file_name().to_str()
        {
            names.push(if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") });
        }
    }
    Ok(names)
}
