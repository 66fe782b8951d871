//! Removes what should not be here, and never anything elsewhere.

use rustix::fs::{AtFlags, ResolveFlags, unlinkat};
use rustix::io::Errno;

use super::Target;
use super::error::{Result, TargetError, whole};
use super::read::FileKind;
use crate::names::TreePath;

impl Target {
    /// Removes what stands at `path`, with all it holds; false if nothing did. Links are removed, never followed. A mount
    /// point, at `path` or beneath, ends it with [`TargetError::Mounted`]. What was removed by then is gone.
    pub fn remove(&self, path: &TreePath) -> Result<bool> {
        if path.is_root() {
            return Err(TargetError::Reserved { path: whole(&self.confined.dir, path) });
        }
        let Some(stat) = self.stat(path)? else { return Ok(false) };
        if stat.kind != FileKind::Directory {
            return self.unlink(path, AtFlags::empty());
        }
        // What is still to do, the last first; a directory that was emptied comes by again, to go itself.
        let mut waiting = vec![(path.clone(), false)];
        while let Some((directory, emptied)) = waiting.pop() {
            if emptied {
                self.confined.forget_tree(&directory);
                self.unlink(&directory, AtFlags::REMOVEDIR)?;
                continue;
            }
            self.make_enterable(&directory)?;
            let names = self.list_within(&directory, ResolveFlags::NO_XDEV).map_err(|error| match error {
                TargetError::Other { path, cause, .. } if Errno::from_io_error(&cause) == Some(Errno::XDEV) => {
                    TargetError::Mounted { path }
                }
                error => error,
            })?;
            waiting.push((directory.clone(), true));
            for (name, kind) in names {
                let Ok(child) = directory.join(&name) else { continue };
                if kind == FileKind::Directory {
                    waiting.push((child, false));
                } else {
                    self.unlink(&child, AtFlags::empty())?;
                }
            }
        }
        Ok(true)
    }

    /// False if it was gone already.
    pub(super) fn unlink(&self, path: &TreePath, flags: AtFlags) -> Result<bool> {
        let (folder, name) = self.confined.place("remove", path)?;
        match unlinkat(&folder.fd, name, flags) {
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.confined.error("remove", path, errno)),
            Ok(()) => Ok(true),
        }
    }
}
