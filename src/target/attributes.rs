//! Sets what an entry says of a file, in the order in which nothing undoes what went before.
//!
//! Owner first: a change of owner clears setuid, setgid and capabilities. Plain attributes before the mode, which may
//! take away our right to write them. Capabilities and ACLs after the mode. Times last, since all else touches them. Then
//! the kernel is asked what stands: some file systems take a mode, an owner or a time that they cannot keep, and say nothing.

use std::io;

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;

use super::Target;
use super::confine::{ACL_ACCESS, ACL_DEFAULT, Folder};
use super::error::{Attribute, Outcome};
use super::handle::Handle;
use crate::pack::entry::{Entry, Kind, Timestamp};

const SETUID_SETGID: u32 = 0o6000;
const CAPABILITY: &[u8] = b"security.capability";

/// What the kernel gave a thing when it was made. What is not known is set.
#[derive(Clone, Copy, Default)]
pub(super) struct Given {
    pub owner: Option<(u32, u32)>,
    pub mode: Option<u32>,
    /// It may have an ACL that it inherited.
    pub acl: bool,
}

/// What was set, as far as nothing refused it.
struct Set {
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
    mtime: Option<Timestamp>,
}

/// How to create a small file so that little is left to set.
pub(super) struct Creation {
    pub mode: u32,
    pub given: Given,
}

impl Target {
    /// Sets everything on `handle` but its content.
    pub(super) fn apply(&self, handle: Handle<'_>, entry: &Entry, given: Given, outcome: &mut Outcome) {
        let owned = self.set_owner(handle, entry, given, outcome);
        let link = matches!(entry.kind, Kind::Symlink { .. });
        if given.acl && !link {
            self.drop_inherited_acl(handle, entry, outcome);
        }
        self.set_xattrs(handle, entry, outcome, |name| name != CAPABILITY && !is_acl(name));
        let mode = if link { None } else { self.set_mode(handle, entry, given, owned, outcome) };
        self.set_xattrs(handle, entry, outcome, |name| name == CAPABILITY);
        self.set_xattrs(handle, entry, outcome, is_acl);
        let mtime = set_times(handle, entry, outcome);
        confirm(handle, entry, Set { owner: owned.then(|| self.owners.of(entry)), mode, mtime }, outcome);
    }

    /// The permission bits to create a file with in `folder`: the final ones, unless for a moment somebody could read
    /// it who may not afterwards.
    pub(super) fn creation(&self, folder: &Folder, entry: &Entry) -> Creation {
        let owner = if folder.ours { folder.gives.get().copied() } else { None };
        let wanted = entry.mode & 0o777;
        let keeps_owner = owner.is_some_and(|owner| owner == self.owners.of(entry)) || !self.options.privileged;
        let alike_for_all = (wanted >> 3) & 7 == wanted & 7;
        let mut mode = if keeps_owner || alike_for_all { wanted } else { wanted & 0o700 };
        if folder.may_give_acl {
            mode = 0o600;
        }
        if !self.confined.is_root_user() && !entry.xattrs.is_empty() {
            mode |= 0o200;
        }
        let known = if folder.may_give_acl { None } else { self.umask.map(|umask| mode & !umask) };
        Creation { mode, given: Given { owner, mode: known, acl: folder.may_give_acl } }
    }

    /// Whether the thing now has the owner that its entry names.
    fn set_owner(&self, handle: Handle<'_>, entry: &Entry, given: Given, outcome: &mut Outcome) -> bool {
        let given = match given.owner.map_or_else(|| handle.stat().map(|s| (s.st_uid, s.st_gid)), Ok) {
            Ok(given) => given,
            Err(errno) => {
                outcome.lose(&entry.path, Attribute::Owner, errno);
                return false;
            }
        };
        let wanted = self.owners.of(entry);
        if wanted == given {
            return true;
        }
        if wanted.0 == u32::MAX || wanted.1 == u32::MAX {
            // To chown, this number means "leave it".
            outcome.lose(&entry.path, Attribute::Owner, Errno::INVAL);
            return false;
        }
        let uid = (wanted.0 != given.0).then(|| Uid::from_raw(wanted.0));
        let gid = (wanted.1 != given.1).then(|| Gid::from_raw(wanted.1));
        if !self.options.privileged {
            // A group of our own is no privilege.
            let set = uid.is_none() && given.0 == self.confined.euid() && handle.chown(None, gid).is_ok();
            if !set {
                outcome.omit(&entry.path, Attribute::Owner);
            }
            return set;
        }
        if let Err(errno) = handle.chown(uid, gid) {
            if uid.is_some() && gid.is_some() {
                // The group alone may still be ours to give; the owner is lost either way.
                let _ = handle.chown(None, gid);
            }
            outcome.lose(&entry.path, Attribute::Owner, errno);
            return false;
        }
        true
    }

    /// The mode that it should have by now; none if it could not be set.
    fn set_mode(
        &self,
        handle: Handle<'_>,
        entry: &Entry,
        given: Given,
        owned: bool,
        outcome: &mut Outcome,
    ) -> Option<u32> {
        let withheld = self.owners.withheld(entry);
        let mut mode = entry.mode & 0o7777 & !withheld;
        if withheld != 0 && self.options.privileged {
            outcome.omit(&entry.path, Attribute::Mode);
        }
        let special = mode & SETUID_SETGID != 0;
        if special && !self.options.privileged {
            mode &= !SETUID_SETGID;
            outcome.omit(&entry.path, Attribute::Mode);
        } else if special && !owned {
            // Setuid for the wrong user would be a hole that the source did not have.
            mode &= !SETUID_SETGID;
            outcome.lose(&entry.path, Attribute::Mode, io::Error::other("its owner could not be set"));
        }
        if given.mode == Some(mode) {
            return Some(mode);
        }
        if let Err(errno) = handle.chmod(mode) {
            outcome.lose(&entry.path, Attribute::Mode, errno);
            return None;
        }
        Some(mode)
    }

    fn set_xattrs(&self, handle: Handle<'_>, entry: &Entry, outcome: &mut Outcome, now: impl Fn(&[u8]) -> bool) {
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| now(name)) {
            let what = || Attribute::Xattr(name.clone());
            if !self.sets_xattr(name) {
                outcome.omit(&entry.path, what());
            } else if let Err(errno) = handle.set_xattr(name, value) {
                outcome.lose(&entry.path, what(), errno);
            }
        }
    }

    /// Unprivileged, only what every user may set.
    pub(super) fn sets_xattr(&self, name: &[u8]) -> bool {
        self.options.privileged || !(name.starts_with(b"security.") || name.starts_with(b"trusted."))
    }

    fn drop_inherited_acl(&self, handle: Handle<'_>, entry: &Entry, outcome: &mut Outcome) {
        let acls: &[&[u8]] = if entry.kind.is_directory() { &[ACL_ACCESS, ACL_DEFAULT] } else { &[ACL_ACCESS] };
        for acl in acls {
            if entry.xattrs.iter().all(|(name, _)| name != acl)
                && let Err(errno) = handle.remove_xattr(acl)
            {
                outcome.lose(&entry.path, Attribute::Xattr(acl.to_vec()), errno);
            }
        }
    }

    /// Removes attributes of a directory that its entry does not have: it may have stood here before.
    pub(super) fn drop_foreign_xattrs(&self, handle: Handle<'_>, entry: &Entry, outcome: &mut Outcome) {
        let names = match handle.xattr_names() {
            Ok(names) => names,
            Err(errno) => return outcome.lose(&entry.path, Attribute::Xattr(b"*".to_vec()), errno),
        };
        for name in names {
            if is_comparable(&name)
                && self.sets_xattr(&name)
                && entry.xattrs.iter().all(|(wanted, _)| *wanted != name)
                && let Err(errno) = handle.remove_xattr(&name)
            {
                outcome.lose(&entry.path, Attribute::Xattr(name), errno);
            }
        }
    }
}

/// Attributes that belong to a file's owner and would be restored; labels that the system gives by itself do not count,
/// nor does the second name under which XFS shows an ACL.
pub(super) fn is_comparable(name: &[u8]) -> bool {
    let trusted = name.starts_with(b"trusted.") && !name.starts_with(b"trusted.SGI_ACL_");
    name.starts_with(b"user.") || trusted || name == CAPABILITY || is_acl(name)
}

fn is_acl(name: &[u8]) -> bool {
    name == ACL_ACCESS || name == ACL_DEFAULT
}

/// The time that it should have by now; none if it could not be set.
fn set_times(handle: Handle<'_>, entry: &Entry, outcome: &mut Outcome) -> Option<Timestamp> {
    let mtime = entry.mtime;
    if mtime.nanos >= 1_000_000_000 {
        // To the kernel such numbers mean "now" and "leave it".
        outcome.lose(&entry.path, Attribute::Times, Errno::INVAL);
        return None;
    }
    match handle.set_mtime(mtime) {
        Ok(()) => Some(mtime),
        Err(errno) => {
            outcome.lose(&entry.path, Attribute::Times, errno);
            None
        }
    }
}

/// Names what was set and does not stand. A time too far away becomes the nearest that can be held, nanoseconds are cut off,
/// setgid goes without the right to it; where a mount rules owners and modes they are as it says: all without an error.
fn confirm(handle: Handle<'_>, entry: &Entry, set: Set, outcome: &mut Outcome) {
    let stat = match handle.stat() {
        Ok(stat) => stat,
        Err(errno) => return outcome.lose(&entry.path, Attribute::Times, errno),
    };
    let mut kept = |what: Attribute, text: String| {
        outcome.lose(&entry.path, what, io::Error::other(format!("the file system keeps {text}")));
    };
    if set.owner.is_some_and(|owner| owner != (stat.st_uid, stat.st_gid)) {
        kept(Attribute::Owner, format!("{}:{}", stat.st_uid, stat.st_gid));
    }
    if set.mode.is_some_and(|mode| mode != stat.st_mode & 0o7777) {
        kept(Attribute::Mode, format!("{:o}", stat.st_mode & 0o7777));
    }
    let (secs, nanos) = (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(u32::MAX));
    if set.mtime.is_some_and(|mtime| (mtime.secs, mtime.nanos) != (secs, nanos)) {
        kept(Attribute::Times, format!("{secs}.{nanos:09} seconds since 1970"));
    }
}
