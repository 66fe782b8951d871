//! A tree of one of everything that a file system can hold.
//!
//! Run by root it plants all of it; run by a user, what needs root is left out, and told on standard error. What the file system at
//! hand refuses (a value too long, a time too far) is left out too: what stands afterwards is what has to come back.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
    chownat, fallocate, lsetxattr, makedev, mkdirat, mknodat, openat, utimensat,
};

use super::repo::noise;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether what only root can do is tried. If not, it says so, past the capture of passing tests.
pub fn as_root(what: &str) -> bool {
    if !is_root() {
        let _ = writeln!(std::io::stderr(), "NOT CHECKED, since it needs root: {what}");
    }
    is_root()
}

/// An ACL as the kernel stores it: owner, one user, group, mask, others.
pub fn acl(user: u32, permissions: [u16; 5]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for ((tag, id), permission) in
        [(1u16, u32::MAX), (2, user), (4, u32::MAX), (0x10, u32::MAX), (0x20, u32::MAX)].into_iter().zip(permissions)
    {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permission.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// `cap_net_bind_service=ep`
pub fn capability() -> Vec<u8> {
    [0x0200_0001u32, 1 << 10, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Sets an attribute; false where this file system takes no such one.
pub fn attribute(path: &Path, name: &str, value: &[u8]) -> bool {
    lsetxattr(path, name, value, XattrFlags::empty()).is_ok()
}

pub fn touch(path: &Path, secs: i64, nanos: i64) {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let times = Timestamps { last_access: omit, last_modification: Timespec { tv_sec: secs, tv_nsec: nanos as _ } };
    // A file system may refuse a time; then the one that stands is what has to come back.
    let _ = utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW);
}

fn own(path: &Path, uid: u32, gid: u32) {
    if is_root() {
        chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn node(path: &Path, kind: FileType, device: u64) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

/// 1960, 1970 and the second before it, 2038 and the second before it, 2106, 2200; then 1899, 2500, the year 9999 and the year 1.
const SECONDS: [i64; 11] = [
    -315_619_200,
    0,
    -1,
    i32::MAX as i64,
    i32::MAX as i64 + 1,
    1 << 32,
    7_258_118_400,
    -2_210_000_000,
    16_725_225_600,
    253_402_300_799,
    -62_135_596_800,
];

/// Plants the tree in `root`, which is made; `many` entries lie in one directory.
pub fn plant(root: &Path, many: usize) {
    fs::create_dir_all(root).unwrap();
    let folder = |name: &str| {
        let path = root.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    modes(&folder("modes"));
    owners(&folder("owners"));
    times(&folder("times"));
    names(&folder("names"));
    links(&folder("links"));
    hard(&folder("hard"));
    special(&folder("special"));
    attributes(&folder("xattrs"));
    lists(&folder("acls"));
    capabilities(&folder("capabilities"));
    sparse(&folder("sparse"));
    sizes(&folder("sizes"));
    deep(&folder("deep"));
    folder("empty");
    let crowd = folder("crowd");
    for n in 0..many {
        File::create(crowd.join(format!("{n:05}"))).unwrap();
    }
    // Folders last, the deepest first: all else moved their times.
    let mut seed = 1_000_000_000;
    stamp(root, &mut seed);
    attribute(root, "user.of.the.root", b"kept");
    attribute(root, "system.posix_acl_default", &acl(4711, [7, 5, 5, 5, 0]));
    own(root, 77, 88);
    mode(root, 0o3751);
    touch(root, 1_234_567_890, 987_654_321);
}

fn stamp(folder: &Path, seed: &mut i64) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() && (is_root() || fs::read_dir(entry.path()).is_ok()) {
            stamp(&entry.path(), seed);
        }
    }
    // Those of `times` keep their own.
    if !folder.parent().is_some_and(|above| above.ends_with("times")) {
        *seed += 86_413;
        touch(folder, *seed, *seed % 999_999_999);
    }
}

fn modes(at: &Path) {
    for bits in [0o000, 0o400, 0o444, 0o600, 0o604, 0o640, 0o644, 0o777, 0o1644, 0o2755, 0o4755, 0o6711, 0o7777] {
        let file = at.join(format!("file-{bits:04o}"));
        fs::write(&file, "text").unwrap();
        mode(&file, bits);
    }
    for bits in [0o700, 0o755, 0o1777, 0o2775, 0o3777, 0o7777, 0o500, 0o300, 0o111, 0o000] {
        let folder = at.join(format!("folder-{bits:04o}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("inside"), "text").unwrap();
        // Only root can read what nobody may.
        if bits & 0o400 != 0 || is_root() {
            mode(&folder, bits);
        }
    }
    if !is_root() {
        // A backup that misses a file is partial, and nothing of it is to be compared.
        mode(&at.join("file-0000"), 0o600);
    }
}

fn owners(at: &Path) {
    for (uid, gid) in [(1234, 5678), (0, 5678), (1234, 0), (65534, 65534), (u32::MAX - 1, u32::MAX - 1)] {
        let path = |kind: &str| at.join(format!("{kind}-{uid}-{gid}"));
        fs::write(path("file"), "text").unwrap();
        fs::write(path("large"), noise(300_000, 31)).unwrap();
        fs::create_dir(path("folder")).unwrap();
        fs::write(path("folder").join("inside"), "").unwrap();
        symlink("nowhere", path("link")).unwrap();
        node(&path("fifo"), FileType::Fifo, 0);
        for kind in ["file", "large", "folder", "link", "fifo"] {
            own(&path(kind), uid, gid);
        }
        mode(&path("large"), 0o6755);
    }
}

fn times(at: &Path) {
    for (n, secs) in SECONDS.into_iter().enumerate() {
        let path = |kind: &str| at.join(format!("{kind}-{n:02}"));
        fs::write(path("file"), format!("{secs}")).unwrap();
        fs::write(path("large"), noise(300_000, 32)).unwrap();
        fs::create_dir(path("folder")).unwrap();
        fs::write(path("folder").join("inside"), "").unwrap();
        symlink("nowhere", path("link")).unwrap();
        node(&path("fifo"), FileType::Fifo, 0);
        for kind in ["file", "large", "folder", "link", "fifo"] {
            touch(&path(kind), secs, if n % 2 == 0 { 999_999_999 } else { 1 });
        }
    }
}

fn names(at: &Path) {
    let long = [b'n'; 255];
    let long_strange = [0xff; 255];
    let all: [&[u8]; 45] = [
        &long,
        &long_strange,
        b"\xff\xfe\x80",
        b"\xc3\x28",
        b"new\nline",
        b"\n",
        b"\r",
        b"tab\t",
        b"-rf",
        b"--",
        b"-",
        b"*",
        b"?",
        b"[a-z]",
        b"{a,b}",
        b" ",
        b"  lead",
        b"trail ",
        b"\\",
        b"\\x41",
        b"\"",
        b"'",
        b"`id`",
        b"$HOME",
        b"%s%n",
        b"~",
        b"#",
        b";",
        b"&",
        b"|",
        b"<",
        b"a:b",
        b"...",
        b"..x",
        b".hidden",
        b"\x01\x7f",
        b"\x1b[31m",
        "\u{e9}".as_bytes(),
        "e\u{301}".as_bytes(),
        b"A",
        b"a",
        b"latest:",
        b"CACHEDIR.TAG",
        b".lifeboat-restore",
        b".lifeboat-part-0123456789abcdef-1",
    ];
    for (n, name) in all.into_iter().enumerate() {
        let name = OsStr::from_bytes(name);
        fs::write(at.join(name), format!("{n}")).unwrap();
        let folder = at.join("folders").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), "inside").unwrap();
        fs::create_dir_all(at.join("links")).unwrap();
        symlink(name, at.join("links").join(name)).unwrap();
    }
    let cache = at.join("cache");
    fs::create_dir(&cache).unwrap();
    fs::write(cache.join("CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    fs::write(cache.join("no default leaves it out"), "").unwrap();
}

fn links(at: &Path) {
    let longest = vec![b'x'; 4095];
    let long_path = [b"y/".repeat(500), b"end".to_vec()].concat();
    let targets: [&[u8]; 12] = [
        b"../names/a",
        b"nowhere",
        b"/",
        b"/proc/self/root",
        b".",
        b"..",
        b"targets-06",
        b"\xff\xfe",
        b"new\nline",
        b"../../../../../../../../etc/passwd",
        &long_path,
        &longest,
    ];
    for (n, target) in targets.into_iter().enumerate() {
        let path = at.join(format!("targets-{n:02}"));
        if symlink(OsStr::from_bytes(target), &path).is_err() {
            // XFS ends at 1023 bytes.
            symlink(OsStr::from_bytes(&target[..1000]), &path).unwrap();
        }
        own(&path, 1000 + n as u32, 2000 + n as u32);
        touch(&path, 1_000_000_000 + n as i64, 123_456_789);
        if is_root() {
            attribute(&path, "trusted.of.the.link", b"not of what it leads to");
        }
    }
}

fn hard(at: &Path) {
    for folder in ["a", "b", "c"] {
        fs::create_dir(at.join(folder)).unwrap();
    }
    fs::write(at.join("a/file"), "one file").unwrap();
    fs::write(at.join("a/empty"), "").unwrap();
    fs::write(at.join("a/large"), noise(2 << 20, 33)).unwrap();
    fs::write(at.join("a/tool"), "tool").unwrap();
    own(&at.join("a/tool"), 1234, 5678);
    mode(&at.join("a/tool"), 0o4711);
    attribute(&at.join("a/tool"), "user.x", b"y");
    symlink("a link", at.join("a/link")).unwrap();
    node(&at.join("a/fifo"), FileType::Fifo, 0);
    drop(UnixListener::bind(Short::of(&at.join("a")).0.join("socket")).unwrap());
    let mut kinds = vec!["file", "empty", "large", "tool", "link", "fifo", "socket"];
    if as_root("hard links of devices") {
        node(&at.join("a/device"), FileType::CharacterDevice, makedev(1, 3));
        kinds.push("device");
    }
    for kind in kinds {
        fs::hard_link(at.join("a").join(kind), at.join("b").join(kind)).unwrap();
        fs::hard_link(at.join("a").join(kind), at.join("b").join(format!("{kind}-2"))).unwrap();
    }
    fs::write(at.join("a/disk"), noise(200_000, 42)).unwrap();
    fs::hard_link(at.join("a/disk"), at.join("b/disk.img")).unwrap();
    // Alike in all but being one file: as many files they must come back.
    for name in ["c/twin-1", "c/twin-2"] {
        fs::write(at.join(name), "twins").unwrap();
        touch(&at.join(name), 1_111_111_111, 111);
    }
}

/// Socket addresses are short: a symlink to where they are to be.
struct Short(PathBuf, #[allow(dead_code)] tempfile::TempDir);

impl Short {
    fn of(at: &Path) -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let link = dir.path().join("s");
        symlink(at, &link).unwrap();
        Self(link, dir)
    }
}

fn special(at: &Path) {
    node(&at.join("fifo"), FileType::Fifo, 0);
    drop(UnixListener::bind(Short::of(at).0.join("socket")).unwrap());
    mode(&at.join("socket"), 0o7777);
    mode(&at.join("fifo"), 0o1622);
    if as_root("device files") {
        node(&at.join("char"), FileType::CharacterDevice, makedev(1, 3));
        node(&at.join("block"), FileType::BlockDevice, makedev(7, 200));
        // XFS has room for smaller numbers only.
        let largest = makedev(4095, (1 << 20) - 1);
        let _ = mknodat(CWD, at.join("largest"), FileType::BlockDevice, Mode::from_raw_mode(0o640), largest);
        node(&at.join("overlay-whiteout"), FileType::CharacterDevice, makedev(0, 0));
        mode(&at.join("char"), 0o666);
        own(&at.join("block"), 0, 6);
    }
    for name in ["fifo", "socket", "char", "block"] {
        if at.join(name).symlink_metadata().is_ok() {
            touch(&at.join(name), 1_600_000_000, 5);
        }
    }
}

fn attributes(at: &Path) {
    let file = at.join("file");
    fs::write(&file, "text").unwrap();
    fs::write(at.join("large"), noise(300_000, 34)).unwrap();
    fs::create_dir(at.join("folder")).unwrap();
    symlink("nowhere", at.join("link")).unwrap();
    node(&at.join("fifo"), FileType::Fifo, 0);
    for path in [&file, &at.join("large"), &at.join("folder")] {
        attribute(path, "user.empty", b"");
        attribute(path, "user.binary", &[0, 255, b'\n', 0]);
        attribute(path, &format!("user.{}", "n".repeat(250)), b"long name");
        attribute(path, "user.\u{e9}\n", b"strange name");
        attribute(path, "btrfs.compression", b"zstd");
    }
    for name in ["huge", "many", "read-only"] {
        fs::write(at.join(name), "x").unwrap();
    }
    // As large as this file system takes.
    let sizes = [64 << 10, 16_000, 3_900, 3_000];
    sizes.iter().find(|size| attribute(&at.join("huge"), "user.huge", &noise(**size, 35)));
    for n in 0..50 {
        attribute(&at.join("many"), &format!("user.{n:02}"), &noise(50, n));
    }
    attribute(&at.join("read-only"), "user.x", b"y");
    mode(&at.join("read-only"), 0o444);
    if as_root("trusted and security attributes, and attributes of links, fifos and devices") {
        node(&at.join("device"), FileType::CharacterDevice, makedev(1, 3));
        for name in ["file", "large", "folder", "link", "fifo", "device"] {
            attribute(&at.join(name), "trusted.t", b"trusted");
            attribute(&at.join(name), "security.lifeboat-test", b"\0\x01");
        }
    }
}

fn lists(at: &Path) {
    for (name, bits) in [("plain", 0o644), ("secret", 0o000), ("wide", 0o666)] {
        fs::write(at.join(name), "text").unwrap();
        mode(&at.join(name), bits);
        attribute(&at.join(name), "system.posix_acl_access", &acl(4711, [6, 4, 4, 4, 0]));
    }
    // The mask is less than the group has.
    fs::write(at.join("masked"), "text").unwrap();
    attribute(&at.join("masked"), "system.posix_acl_access", &acl(4711, [7, 7, 7, 1, 1]));
    let giving = at.join("giving");
    fs::create_dir(&giving).unwrap();
    // These stood before the list did, and have none of it.
    fs::create_dir(giving.join("folder-before")).unwrap();
    fs::write(giving.join("file-before"), "text").unwrap();
    fs::write(giving.join("large-before"), noise(300_000, 36)).unwrap();
    mode(&giving.join("file-before"), 0o640);
    attribute(&giving, "system.posix_acl_default", &acl(4711, [7, 7, 5, 7, 0]));
    attribute(&giving, "system.posix_acl_access", &acl(4712, [7, 1, 1, 1, 0]));
    fs::create_dir(giving.join("folder-after")).unwrap();
    fs::write(giving.join("file-after"), "text").unwrap();
    node(&giving.join("fifo-after"), FileType::Fifo, 0);
    if !is_root() {
        mode(&at.join("secret"), 0o600);
    }
}

fn capabilities(at: &Path) {
    if !as_root("file capabilities") {
        return;
    }
    for name in ["tool", "owned", "large"] {
        fs::write(at.join(name), if name == "large" { noise(300_000, 37) } else { b"tool".to_vec() }).unwrap();
        if name == "owned" {
            own(&at.join(name), 1234, 5678);
        }
        mode(&at.join(name), if name == "owned" { 0o6755 } else { 0o755 });
        attribute(&at.join(name), "security.capability", &capability());
    }
}

fn sparse(at: &Path) {
    const SIZE: u64 = 64 << 20;
    let file = |name: &str, len: u64| {
        let file = File::create(at.join(name)).unwrap();
        file.set_len(len).unwrap();
        file
    };
    file("hole", SIZE);
    file("hole.img", 3 << 20);
    file("hole-at-the-end", SIZE).write_all_at(&noise(100_000, 38), 0).unwrap();
    file("data-at-the-end", SIZE).write_all_at(b"end.", SIZE - 4).unwrap();
    file("last-byte", 5001).write_all_at(b"!", 5000).unwrap();
    file("first-byte", 100_001).write_all_at(b"!", 0).unwrap();
    file("small-hole", 3 << 12).write_all_at(&noise(4096, 39), 4096).unwrap();
    let many = file("many-holes", SIZE);
    for n in 0..64 {
        many.write_all_at(&noise(4096, n), n << 20).unwrap();
    }
    file("zeros-that-were-written", 0).write_all_at(&vec![0; 1 << 20], 0).unwrap();
    let punched = file("punched", 0);
    punched.write_all_at(&noise(4 << 20, 40), 0).unwrap();
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&punched, mode, 1 << 20, 2 << 20).unwrap();
    fallocate(file("preallocated", 0), FallocateFlags::empty(), 0, 4 << 20).unwrap();
    let beyond = file("preallocated-beyond-its-end", 0);
    beyond.write_all_at(b"little", 0).unwrap();
    fallocate(&beyond, FallocateFlags::KEEP_SIZE, 0, 4 << 20).unwrap();
    let partly = file("partly-preallocated", 8 << 20);
    fallocate(&partly, FallocateFlags::empty(), 1 << 20, 2 << 20).unwrap();
    partly.write_all_at(&noise(500_000, 41), 5 << 20).unwrap();
}

/// Around every length at which something is done otherwise: chunks, frames, small and large files, images.
fn sizes(at: &Path) {
    let edges: [usize; 9] = [1, 512, 4 << 10, 64 << 10, 256 << 10, 1 << 20, 2 << 20, 4 << 20, 16 << 20];
    fs::write(at.join("0"), "").unwrap();
    for edge in edges {
        let bytes = noise(edge + 1, edge as u64);
        let around: &[usize] = if edge < 4 << 20 { &[edge - 1, edge, edge + 1] } else { &[edge] };
        for len in around {
            fs::write(at.join(len.to_string()), &bytes[..*len]).unwrap();
            if *len <= 1 << 20 {
                fs::write(at.join(format!("{len}.img")), &bytes[..*len]).unwrap();
                fs::write(at.join(format!("{len}-zeros")), vec![0; *len]).unwrap();
            }
        }
    }
}

fn deep(at: &Path) {
    let mut folder = at.to_owned();
    for level in 0..20 {
        folder.push(format!("{level}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("file"), format!("{level}")).unwrap();
    }
}

/// Plants a chain of folders in `root` whose paths are far longer than the kernel takes in one piece; a file in each.
pub fn plant_long_path(root: &Path) {
    fs::create_dir_all(root).unwrap();
    let (mode, flags) = (Mode::from_raw_mode(0o755), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC);
    let name = std::ffi::CString::new(vec![b'l'; 250]).unwrap();
    let mut at = openat(CWD, root, flags, mode).unwrap();
    for level in 0..40 {
        let file = openat(&at, c"z-file", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, mode).unwrap();
        File::from(file).write_all(format!("{level}").as_bytes()).unwrap();
        rustix::fs::symlinkat(c"z-file", &at, c"a-link").unwrap();
        mkdirat(&at, &*name, mode).unwrap();
        rustix::fs::linkat(&at, c"z-file", &at, c"a-second-name", AtFlags::empty()).unwrap();
        at = openat(&at, &*name, flags, mode).unwrap();
    }
}
