//! Everything that can be seen of a tree, without the code under test: two trees are alike if their censuses are.
//!
//! Owns a walk of its own, by descriptors, so that no path is too long. Access and birth times are left out: nothing sets them.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use lifeboat::names::escape;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, SeekFrom, getxattr, listxattr, openat, readlinkat, seek, statat,
};
use rustix::io::Errno;

/// One path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub kind: FileType,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, u64),
    /// Of files and links.
    pub size: u64,
    /// BLAKE3 of a file, the target of a link, the number of a device.
    pub content: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path of the same file, in byte order.
    pub same_as: Vec<u8>,
    pub links: u64,
    /// Bytes on disk, and the runs of a file that are data.
    pub allocated: u64,
    pub data: Vec<(u64, u64)>,
}

pub type Census = BTreeMap<Vec<u8>, Fact>;

/// Of the root (an empty path) and all beneath it, written out, so that it shows which space it takes.
pub fn of(root: &Path) -> Census {
    // Delayed allocation shows no extents: what was written is written out first.
    let top = openat(CWD, root, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).unwrap();
    rustix::fs::syncfs(&top).unwrap();
    seen(root)
}

/// The same of what may still be on its way to the disk.
pub fn seen(root: &Path) -> Census {
    let mut census = Census::new();
    let mut first = HashMap::new();
    let held = openat(CWD, root, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).unwrap();
    look(&held, CWD.as_fd(), root.as_os_str().as_encoded_bytes(), Vec::new(), &mut census, &mut first);
    census
}

fn look(
    held: &OwnedFd,
    dir: impl AsFd,
    name: &[u8],
    path: Vec<u8>,
    census: &mut Census,
    first: &mut HashMap<(u64, u64), Vec<u8>>,
) {
    let stat = statat(held, c"", AtFlags::EMPTY_PATH).unwrap();
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut fact = Fact {
        kind,
        mode: stat.st_mode & 0o7777,
        owner: (stat.st_uid, stat.st_gid),
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u64),
        size: if kind.is_file() || kind.is_symlink() { stat.st_size as u64 } else { 0 },
        content: Vec::new(),
        xattrs: attributes(held),
        same_as: path.clone(),
        links: if kind.is_dir() { 1 } else { stat.st_nlink },
        allocated: if kind.is_file() { stat.st_blocks as u64 * 512 } else { 0 },
        data: Vec::new(),
    };
    if !kind.is_dir() {
        fact.same_as = first.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.clone()).clone();
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match kind {
        FileType::Symlink => fact.content = readlinkat(held, c"", Vec::new()).unwrap().into_bytes(),
        FileType::CharacterDevice | FileType::BlockDevice => fact.content = stat.st_rdev.to_le_bytes().to_vec(),
        FileType::RegularFile => {
            let file = openat(&dir, name, flags, Mode::empty()).unwrap();
            fact.data = data(&file, fact.size);
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(std::fs::File::from(file)).unwrap();
            fact.content = hasher.finalize().as_bytes().to_vec();
        }
        _ => {}
    }
    census.insert(path.clone(), fact);
    if kind.is_dir() {
        let opened = openat(&dir, name, flags | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let listing = rustix::fs::Dir::read_from(&opened).unwrap();
        let mut names: Vec<Vec<u8>> = listing.map(|entry| entry.unwrap().file_name().to_bytes().to_vec()).collect();
        names.sort();
        for name in names.into_iter().filter(|name| name != b"." && name != b"..") {
            let at = if path.is_empty() { name.clone() } else { [&path[..], b"/", &name].concat() };
            let held = openat(&opened, &name[..], OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
            look(&held.unwrap(), &opened, &name, at, census, first);
        }
    }
}

fn attributes(held: &OwnedFd) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let at = format!("/proc/self/fd/{}", held.as_raw_fd());
    let mut names = vec![0; 64 << 10];
    let len = match listxattr(&at, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        len => len.unwrap(),
    };
    // XFS shows an ACL to root under a second name.
    let counts = |name: &&[u8]| !name.is_empty() && !name.starts_with(b"trusted.SGI_ACL_");
    let names = names[..len].split(|byte| *byte == 0).filter(counts);
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let len = getxattr(&at, name, &mut value[..]).unwrap();
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect()
}

/// The runs of a file that are no holes.
fn data(file: &OwnedFd, size: u64) -> Vec<(u64, u64)> {
    let (mut runs, mut at) = (Vec::new(), 0);
    while at < size {
        let Ok(start) = seek(file, SeekFrom::Data(at)) else { break };
        let end = seek(file, SeekFrom::Hole(start)).unwrap().min(size);
        runs.push((start, end));
        at = end;
    }
    seek(file, SeekFrom::Start(0)).unwrap();
    runs
}

/// What a block, and a file system's own bookkeeping for a file, may add.
const SLACK: u64 = 128 << 10;

/// How `copy` differs from `original`, a sentence each.
pub fn differences(original: &Census, copy: &Census) -> Vec<String> {
    let mut found = Vec::new();
    for (path, a) in original {
        let path_shown = escape(path);
        let Some(b) = copy.get(path) else {
            found.push(format!("{path_shown} is missing"));
            continue;
        };
        let mut unlike = |what: &str, a: String, b: String| {
            if a != b {
                found.push(format!("{path_shown}: {what} was {a} and is {b}"));
            }
        };
        unlike("kind", format!("{:?}", a.kind), format!("{:?}", b.kind));
        unlike("mode", format!("{:o}", a.mode), format!("{:o}", b.mode));
        unlike("owner", format!("{:?}", a.owner), format!("{:?}", b.owner));
        unlike("mtime", format!("{:?}", a.mtime), format!("{:?}", b.mtime));
        unlike("size", a.size.to_string(), b.size.to_string());
        unlike("content", shown(&a.content), shown(&b.content));
        unlike(
            "names",
            format!("{} {}", a.links, a.same_as.escape_ascii()),
            format!("{} {}", b.links, b.same_as.escape_ascii()),
        );
        for name in a.xattrs.keys().chain(b.xattrs.keys()) {
            let value = |fact: &Fact| {
                fact.xattrs.get(name).map_or("absent".into(), |value| format!("{} {}", value.len(), shown(value)))
            };
            unlike(&format!("attribute {}", name.escape_ascii()), value(a), value(b));
        }
        if b.allocated > a.allocated + SLACK {
            found.push(format!("{path_shown}: took {} bytes on disk and takes {}", a.allocated, b.allocated));
        }
        // What was preallocated takes its space, and yet is no data until it was looked at.
        let data: u64 = a.data.iter().map(|(start, end)| end - start).sum();
        if a.allocated < data + SLACK
            && let Some(run) = b.data.iter().find(|run| !holds(&a.data, run))
        {
            found.push(format!("{path_shown}: data at {run:?} where a hole was: {:?}", a.data));
        }
    }
    found.extend(
        copy.keys().filter(|path| !original.contains_key(*path)).map(|path| format!("{} is too much", escape(path))),
    );
    found.dedup();
    found
}

/// Whether `run`, less a block at each end, lies within one of `runs`.
fn holds(runs: &[(u64, u64)], run: &(u64, u64)) -> bool {
    const BLOCK: u64 = 64 << 10;
    runs.iter().any(|(start, end)| start.saturating_sub(BLOCK) <= run.0 && run.1 <= end + BLOCK)
}

fn shown(bytes: &[u8]) -> String {
    if bytes.len() <= 40 { bytes.escape_ascii().to_string() } else { blake3::hash(bytes).to_string() }
}

/// Without what takes which space: once read, preallocated bytes pass for data.
pub fn without_space(census: &Census) -> Census {
    let bare = |fact: &Fact| Fact { allocated: 0, data: Vec::new(), ..fact.clone() };
    census.iter().map(|(path, fact)| (path.clone(), bare(fact))).collect()
}

/// The trees must be alike.
#[track_caller]
pub fn alike(original: &Census, copy: &Census) {
    let found = differences(original, copy);
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found[..found.len().min(60)].join("\n"));
}
