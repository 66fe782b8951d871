//! The rest of an entry: extended attributes, link targets, the names of owners, and which names are one file.
//!
//! Owns how they are read without following, opening or waiting for anything. Refuses content, which is `open`'s.
//!
//! A regular file is read through the descriptor that its content is read from ([`of_file`]). All else is held by an
//! `O_PATH` descriptor, which opens no device and wakes no fifo; the kernel reads attributes through such a one only by its
//! name in `/proc/self/fd`.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, OFlags, fgetxattr, flistxattr, getxattr, listxattr, readlinkat};
use rustix::io::Errno;

use super::dir::open_quietly;
use super::open::{OpenFile, open};
use super::problem::{Problem, ProblemKind};
use super::stat::{Stat, stat_of};
use super::walk::Found;
use crate::pack::entry::{Content, Cut, Entry, Kind, Timestamp};

/// What the kernel allows for one value, and for all names of one file (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_BYTES_MAX: usize = 64 << 10;

/// What all attributes of one file may come to: with more, its entry would outgrow what a reader takes. XFS and btrfs hold more.
const XATTRS_BYTES_MAX: usize = 8 << 20;

/// Most files have no attributes, or a short list of short ones: tried first, on the stack.
const XATTR_BYTES_USUAL: usize = 512;

/// All that an entry needs beside its name and its content.
#[derive(Clone, Debug)]
pub struct Meta {
    /// As it was when the rest was read.
    pub stat: Stat,
    pub user: Option<Vec<u8>>,
    pub group: Option<Vec<u8>>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a symbolic link; else empty.
    pub link_target: Vec<u8>,
    /// An attribute that is there and could not be read. The entry stands without it, and the run is partial.
    pub loss: Option<Problem>,
}

/// Names of users and groups, each asked for once. One for each thread, or one behind a lock.
#[derive(Default)]
pub struct Owners {
    users: HashMap<u32, Option<Vec<u8>>>,
    groups: HashMap<u32, Option<Vec<u8>>>,
}

impl Owners {
    pub fn user(&mut self, uid: u32) -> Option<Vec<u8>> {
        let ask = || uzers::get_user_by_uid(uid).map(|user| user.name().as_bytes().to_vec());
        self.users.entry(uid).or_insert_with(ask).clone()
    }

    pub fn group(&mut self, gid: u32) -> Option<Vec<u8>> {
        let ask = || uzers::get_group_by_gid(gid).map(|group| group.name().as_bytes().to_vec());
        self.groups.entry(gid).or_insert_with(ask).clone()
    }
}

/// Metadata of anything. A regular file is opened for it: who reads its content too calls [`of_file`].
pub fn read(found: &Found, owners: &mut Owners) -> Result<Meta, Problem> {
    if found.stat.file_type.is_file() {
        return Ok(of_file(&open(found)?, owners));
    }
    let fail = |kind| found.problem(kind);
    let unreadable = |errno| fail(ProblemKind::from_errno("examined", errno));
    let dir = found.dir.descriptor().map_err(fail)?;
    let held = open_quietly(&*dir, found.name(), OFlags::PATH).map_err(unreadable)?;
    let stat = stat_of(&held).map_err(unreadable)?;
    if stat.file_type != found.stat.file_type || stat.identity() != found.stat.identity() {
        return Err(fail(ProblemKind::Changed));
    }
    let link_target = match stat.file_type {
        FileType::Symlink => {
            let target = readlinkat(&held, c"", Vec::new()).map_err(unreadable)?;
            target.into_bytes()
        }
        _ => Vec::new(),
    };
    let mut meta = Meta::new(stat, owners);
    meta.link_target = link_target;
    add_xattrs(&mut meta, &Held::new(&held), fail);
    Ok(meta)
}

/// Metadata of an open file, without another open.
pub fn of_file(file: &OpenFile, owners: &mut Owners) -> Meta {
    let mut meta = Meta::new(*file.stat(), owners);
    add_xattrs(&mut meta, file, |kind| file.problem(kind));
    meta
}

/// The entry of what was found, as `meta` saw it. A file's content is still to come: it has no extents, and is cut by content.
pub fn entry(found: &Found, meta: Meta) -> Entry {
    let stat = &meta.stat;
    let (major, minor) = (stat.rdev_major, stat.rdev_minor);
    let kind = match stat.file_type {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink { target: meta.link_target },
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice { major, minor },
        FileType::BlockDevice => Kind::BlockDevice { major, minor },
        FileType::RegularFile | FileType::Unknown => {
            Kind::File { size: stat.size, content: Content::Extents(Vec::new()), cut: Cut::Content }
        }
    };
    Entry {
        path: found.path.clone(),
        kind,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        user: meta.user,
        group: meta.group,
        mtime: stat.mtime,
        // What could not be read whole is never unchanged: the next run tries again, and tells of it again.
        ctime: if meta.loss.is_some() { Timestamp::default() } else { stat.ctime },
        inode: stat.inode,
        link_group: link_group(stat),
        xattrs: meta.xattrs,
    }
}

/// The number that all names of one file share; none for directories and for what has one name only.
///
/// Drawn from device, inode and birth, so that a later file in the same inode is another one. 64 bits: among ten million
/// hard-linked files the odds of a collision are one in 370,000.
pub fn link_group(stat: &Stat) -> Option<u64> {
    if stat.nlink < 2 || stat.file_type.is_dir() {
        return None;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&stat.dev.to_le_bytes());
    hasher.update(&stat.inode.to_le_bytes());
    if let Some(born) = stat.btime {
        hasher.update(&born.secs.to_le_bytes());
        hasher.update(&born.nanos.to_le_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    Some(u64::from_le_bytes(first))
}

impl Meta {
    fn new(stat: Stat, owners: &mut Owners) -> Self {
        let (user, group) = (owners.user(stat.uid), owners.group(stat.gid));
        Self { stat, user, group, xattrs: Vec::new(), link_target: Vec::new(), loss: None }
    }
}

/// What attributes can be asked of.
trait Attributed {
    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno>;
    fn get(&self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno>;
}

impl Attributed for OpenFile {
    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        flistxattr(self.as_fd(), buffer)
    }

    fn get(&self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        fgetxattr(self.as_fd(), name, buffer)
    }
}

/// An `O_PATH` descriptor, by its name in `/proc`. Following that name ends at the very file, even if it is a link.
struct Held {
    proc_path: String,
}

impl Held {
    fn new(descriptor: &OwnedFd) -> Self {
        Self { proc_path: format!("/proc/self/fd/{}", descriptor.as_raw_fd()) }
    }
}

impl Attributed for Held {
    fn list(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        listxattr(&self.proc_path, buffer)
    }

    fn get(&self, name: &[u8], buffer: &mut [u8]) -> Result<usize, Errno> {
        getxattr(&self.proc_path, name, buffer)
    }
}

/// Puts all attributes that could be read into `meta`, sorted by name, and a problem where one could not.
fn add_xattrs(meta: &mut Meta, file: &impl Attributed, problem: impl Fn(ProblemKind) -> Problem) {
    // The file was there when its attributes were asked for: no errno means that it vanished.
    let loss = |errno| {
        let verb = "asked for all its extended attributes";
        Some(problem(ProblemKind::Unreadable { verb, errno }))
    };
    let names = match whole(|buffer| file.list(buffer)) {
        Ok(names) => names,
        // The file system knows none.
        Err(Errno::OPNOTSUPP) => return,
        Err(errno) => {
            meta.loss = loss(errno);
            return;
        }
    };
    let mut bytes = 0;
    // XFS shows each ACL to root a second time, as these; on another file system they would be attributes of no meaning.
    let listed = |wanted: &[u8]| names.split(|byte| *byte == 0).any(|name| name == wanted);
    let shadow = |name: &[u8]| match name {
        b"trusted.SGI_ACL_FILE" => listed(b"system.posix_acl_access"),
        b"trusted.SGI_ACL_DEFAULT" => listed(b"system.posix_acl_default"),
        _ => false,
    };
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty() && !shadow(name)) {
        match whole(|buffer| file.get(name, buffer)) {
            Ok(value) => {
                bytes += name.len() + value.len();
                if bytes > XATTRS_BYTES_MAX {
                    meta.loss = loss(Errno::TOOBIG);
                    break;
                }
                meta.xattrs.push((name.to_vec(), value));
            }
            // Removed since it was listed, or listed by a file system that does not mean it.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => meta.loss = loss(errno),
        }
    }
    meta.xattrs.sort();
}

/// All that `ask` has to say: first into what nearly always suffices, then into all that the kernel allows.
fn whole(ask: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut usual = [0; XATTR_BYTES_USUAL];
    match ask(&mut usual) {
        Ok(count) => Ok(usual[..count.min(XATTR_BYTES_USUAL)].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_BYTES_MAX];
            let count = ask(&mut large)?;
            large.truncate(count);
            large.shrink_to_fit();
            Ok(large)
        }
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::walk::{Walk, WalkOptions};
    use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, XattrFlags, chownat, makedev, mknodat, utimensat};
    use rustix::process::{Gid, Uid, geteuid};
    use std::ffi::OsStr;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    /// Everything beneath `root`, by name.
    fn entries(root: &Path) -> HashMap<Vec<u8>, Entry> {
        let mut owners = Owners::default();
        let walk = Walk::new(root, WalkOptions::default()).unwrap();
        walk.map(|found| {
            let found = found.unwrap();
            let meta = read(&found, &mut owners).unwrap();
            assert_eq!(meta.loss, None);
            let entry = entry(&found, meta);
            (entry.path.as_bytes().to_vec(), entry)
        })
        .collect()
    }

    fn is_root(what: &str) -> bool {
        if !geteuid().is_root() {
            println!("skipped, needs root: {what}");
        }
        geteuid().is_root()
    }

    fn set_xattr(path: &Path, name: &str, value: &[u8]) {
        rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
    }

    fn acl() -> Vec<u8> {
        let mut acl = 2u32.to_le_bytes().to_vec();
        for (tag, perm, id) in
            [(1u16, 6u16, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)]
        {
            acl.extend(tag.to_le_bytes());
            acl.extend(perm.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        acl
    }

    #[test]
    fn every_kind_of_file_is_told_and_none_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("file"), "12345").unwrap();
        std::fs::create_dir(at("dir")).unwrap();
        symlink(OsStr::from_bytes(b"no\xffwhere"), at("dangling")).unwrap();
        mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        drop(UnixListener::bind(at("socket")).unwrap());
        if is_root("device files") {
            mknodat(CWD, at("char"), FileType::CharacterDevice, Mode::RUSR, makedev(1, 3)).unwrap();
            // No driver answers to this number: an open would fail.
            mknodat(CWD, at("block"), FileType::BlockDevice, Mode::RUSR, makedev(240, 1_000_000)).unwrap();
        }
        let entries = entries(dir.path());
        let kind = |name: &str| entries[name.as_bytes()].kind.clone();
        assert_eq!(kind("file"), Kind::File { size: 5, content: Content::Extents(vec![]), cut: Cut::Content });
        assert_eq!(kind("dir"), Kind::Directory);
        assert_eq!(kind(""), Kind::Directory);
        assert_eq!(kind("dangling"), Kind::Symlink { target: b"no\xffwhere".to_vec() });
        assert_eq!(kind("fifo"), Kind::Fifo);
        assert_eq!(kind("socket"), Kind::Socket);
        if is_root("device files") {
            assert_eq!(kind("char"), Kind::CharDevice { major: 1, minor: 3 });
            assert_eq!(kind("block"), Kind::BlockDevice { major: 240, minor: 1_000_000 });
        }
    }

    #[test]
    fn modes_owners_and_times_are_exact() {
        let dir = tempfile::tempdir().unwrap();
        let modes = [0o000, 0o644, 0o4755, 0o2711, 0o1777];
        for (index, mode) in modes.into_iter().enumerate() {
            let path = dir.path().join(index.to_string());
            std::fs::write(&path, "").unwrap();
            if is_root("owners without a name") {
                let (user, group) = (Uid::from_raw(1_234_567), Gid::from_raw(7_654_321));
                chownat(CWD, &path, Some(user), Some(group), AtFlags::empty()).unwrap();
            }
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            // 1960, 1970 less a nanosecond, 2200.
            let secs = [-315_619_200, -1, 7_258_118_400][index % 3];
            let time = Timespec { tv_sec: secs, tv_nsec: 999_999_999 };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
        }
        let mut owners = Owners::default();
        for (index, mode) in modes.into_iter().enumerate() {
            if mode == 0 && !is_root("a file of mode 0") {
                continue;
            }
            let walk = Walk::new(&dir.path().join(index.to_string()), WalkOptions::default());
            let found = walk.unwrap().next().unwrap().unwrap();
            let entry = entry(&found, read(&found, &mut owners).unwrap());
            assert_eq!(entry.mode, mode);
            let secs = [-315_619_200, -1, 7_258_118_400][index % 3];
            assert_eq!(entry.mtime, Timestamp { secs, nanos: 999_999_999 });
            assert_eq!(entry.ctime, found.stat.ctime);
            assert_ne!(entry.inode, 0);
            if is_root("owners without a name") {
                assert_eq!((entry.uid, entry.gid), (1_234_567, 7_654_321));
                assert_eq!((entry.user, entry.group), (None, None));
            }
        }
    }

    #[test]
    fn owners_have_their_names() {
        let mut owners = Owners::default();
        assert_eq!(owners.user(0), Some(b"root".to_vec()));
        assert_eq!(owners.group(0), Some(b"root".to_vec()));
        assert_eq!(owners.user(0), Some(b"root".to_vec()), "from the cache");
    }

    #[test]
    fn names_of_one_file_share_a_link_group() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("d")).unwrap();
        for name in ["a", "other", "single"] {
            std::fs::write(at(name), "x").unwrap();
        }
        std::fs::hard_link(at("a"), at("d/b")).unwrap();
        std::fs::hard_link(at("other"), at("other2")).unwrap();
        symlink("x", at("s")).unwrap();
        std::fs::hard_link(at("s"), at("s2")).unwrap();
        let entries = entries(dir.path());
        let group = |name: &str| entries[name.as_bytes()].link_group;
        assert!(group("a").is_some() && group("s").is_some());
        assert_eq!(group("a"), group("d/b"));
        assert_eq!(group("s"), group("s2"));
        assert_ne!(group("a"), group("other"));
        assert_eq!((group("single"), group("d"), group("")), (None, None, None));
    }

    #[test]
    fn attributes_come_whole_and_sorted() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("f"), "").unwrap();
        std::fs::create_dir(at("d")).unwrap();
        symlink("dangling", at("s")).unwrap();
        mknodat(CWD, at("p"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        set_xattr(&at("f"), "user.z", b"");
        set_xattr(&at("f"), "user.a", &[0, 255, b'\n']);
        set_xattr(&at("f"), "user.long", &[7; 3000]);
        set_xattr(&at("f"), "system.posix_acl_access", &acl());
        set_xattr(&at("d"), "system.posix_acl_default", &acl());
        set_xattr(&at("d"), "user.d", b"1");
        let capability: Vec<u8> = [0x0200_0001u32, 1 << 10, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()).collect();
        let mut expected = vec!["system.posix_acl_access", "user.a", "user.long", "user.z"];
        if is_root("capabilities, trusted attributes, and attributes of links and fifos") {
            set_xattr(&at("f"), "security.capability", &capability);
            set_xattr(&at("f"), "trusted.t", b"t");
            set_xattr(&at("s"), "trusted.link", b"of the link");
            set_xattr(&at("p"), "trusted.fifo", b"of the fifo");
            expected =
                vec!["security.capability", "system.posix_acl_access", "trusted.t", "user.a", "user.long", "user.z"];
        }
        let entries = entries(dir.path());
        let xattrs = |name: &str| entries[name.as_bytes()].xattrs.clone();
        let ours = |name: &[u8]| name != b"security.selinux";
        let f: Vec<_> = xattrs("f").into_iter().filter(|(name, _)| ours(name)).collect();
        let names: Vec<_> = f.iter().map(|(name, _)| std::str::from_utf8(name).unwrap()).collect();
        assert_eq!(names, expected);
        for (name, value) in [("user.z", vec![]), ("user.a", vec![0, 255, b'\n']), ("user.long", vec![7; 3000])] {
            assert!(f.contains(&(name.as_bytes().to_vec(), value)), "{name}");
        }
        assert!(f.contains(&(b"system.posix_acl_access".to_vec(), acl())));
        assert!(xattrs("d").contains(&(b"system.posix_acl_default".to_vec(), acl())));
        assert!(xattrs("d").contains(&(b"user.d".to_vec(), b"1".to_vec())));
        if is_root("capabilities, trusted attributes, and attributes of links and fifos") {
            assert!(f.contains(&(b"security.capability".to_vec(), capability)));
            assert!(xattrs("s").contains(&(b"trusted.link".to_vec(), b"of the link".to_vec())));
            assert!(xattrs("p").contains(&(b"trusted.fifo".to_vec(), b"of the fifo".to_vec())));
        }
    }

    #[test]
    fn the_largest_values_come_whole_where_the_file_system_takes_them() {
        // ext4 holds one block; a memory file system holds what the kernel allows.
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
            println!("skipped, needs /dev/shm");
            return;
        };
        let path = dir.path().join("f");
        std::fs::write(&path, "").unwrap();
        let large = vec![9; XATTR_BYTES_MAX];
        for index in 0..100 {
            // Without tmpfs user attributes (before Linux 6.6) nothing can be tried here.
            let name = format!("user.{index:03}.{}", "x".repeat(100));
            if rustix::fs::setxattr(
                &path,
                &name,
                &large[..if index == 0 { large.len() } else { 1 }],
                XattrFlags::empty(),
            )
            .is_err()
            {
                println!("skipped, /dev/shm takes no such attributes ({index} taken)");
                return;
            }
        }
        let entries = entries(dir.path());
        let xattrs = &entries[&b"f"[..]].xattrs;
        assert_eq!(xattrs.len(), 100);
        assert_eq!(xattrs[0].1, large);
    }

    #[test]
    fn what_became_another_thing_has_no_metadata_to_give() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        symlink("a", &path).unwrap();
        let found = Walk::new(&path, WalkOptions::default()).unwrap().next().unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&found, &mut Owners::default()).unwrap_err().kind, ProblemKind::Vanished);
        std::fs::create_dir(&path).unwrap();
        assert_eq!(read(&found, &mut Owners::default()).unwrap_err().kind, ProblemKind::Changed);
    }
}
