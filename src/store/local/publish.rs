//! The moment at which a durable file under `tmp/` becomes an object.
//!
//! The order, and what a power cut leaves after each step: the file is fsynced (a leftover), its final name is linked and
//! that directory fsynced (the object, and a leftover that is a second name of it), the name under `tmp/` is unlinked and
//! `tmp/` fsynced (the object). Where files cannot have two names, one rename that never replaces stands for both.

use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, RenameFlags};
use rustix::io::Errno;

use super::TMP;
use super::error::{LocalError, is_no_hard_links};
use super::root::{Root, parent};
use crate::names::ObjectKey;
use crate::store::Create;

/// Gives the file `from` below the root, durable already, the name `key`; `from` is gone afterwards.
pub(super) fn publish(root: &Root, from: &str, key: &ObjectKey) -> Result<Create, LocalError> {
    let mut named = name_it(root, from, key);
    if matches!(named, Err(Errno::NOENT)) {
        // Somebody removed the shard directory, which we knew to stand.
        root.directories.doubt();
        root.ensure_parent(key)?;
        named = name_it(root, from, key);
    }
    match named {
        Ok(()) => {}
        Err(Errno::EXIST) if !same_file(root, from, key)? => {
            let create = occupied(root, key)?;
            forget(root, from)?;
            return Ok(create);
        }
        // A network file system that lost its own first answer: the name is ours.
        Err(Errno::EXIST) => {}
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            return Err(LocalError::CannotCreate { path: root.path.clone() });
        }
        Err(errno) => return Err(root.error("create", key.as_str(), errno)),
    }
    if let Err(error) = root.sync(parent(key.as_str())) {
        // Not durable, and no second fsync would tell the truth: the object is abandoned, name and all.
        let _ = rustix::fs::unlinkat(&root.fd, key.as_str(), AtFlags::empty());
        return Err(error);
    }
    forget(root, from)?;
    Ok(Create::Created)
}

/// By link, else by rename; remembers which of them works here.
fn name_it(root: &Root, from: &str, key: &ObjectKey) -> Result<(), Errno> {
    if root.has_links.load(Ordering::Relaxed) {
        match rustix::fs::linkat(&root.fd, from, &root.fd, key.as_str(), AtFlags::empty()) {
            Err(errno) if is_no_hard_links(errno) => {}
            answer => return answer,
        }
    }
    rustix::fs::renameat_with(&root.fd, from, &root.fd, key.as_str(), RenameFlags::NOREPLACE)?;
    root.has_links.store(false, Ordering::Relaxed);
    Ok(())
}

fn same_file(root: &Root, from: &str, key: &ObjectKey) -> Result<bool, LocalError> {
    let stat = |name: &str| root.stat(name).map_err(|errno| root.error("look at", name, errno));
    let (ours, theirs) = (stat(from)?, stat(key.as_str())?);
    Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
}

fn forget(root: &Root, from: &str) -> Result<(), LocalError> {
    match rustix::fs::unlinkat(&root.fd, from, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => root.sync(TMP),
        Err(errno) => Err(root.error("remove", from, errno)),
    }
}

/// The answer for a key at which something stands, made durable first: it may be our own object, linked by a process that
/// died before it could fsync the directory, and its finder may take it for stored.
pub(super) fn occupied(root: &Root, key: &ObjectKey) -> Result<Create, LocalError> {
    match root.stat(key.as_str()) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            root.sync(parent(key.as_str()))?;
            Ok(Create::Occupied)
        }
        Ok(_) => Err(LocalError::NotAFile { path: root.path.join(key.as_str()) }),
        Err(errno) => Err(root.error("look at", key.as_str(), errno)),
    }
}
