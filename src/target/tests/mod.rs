//! Claims about targets. Run by root all of them are checked; run by a user, what needs root is named and left out.

mod fidelity;
mod hostile;
mod resume;
mod room;

use std::path::Path;

use super::*;
use crate::names::ChunkId;
use crate::pack::entry::{Content, Cut, Entry, Kind, Timestamp};

fn privileged() -> TargetOptions {
    TargetOptions { privileged: true, owner: OwnerBy::Number }
}

fn unprivileged() -> TargetOptions {
    TargetOptions { privileged: false, owner: OwnerBy::Number }
}

fn open(dir: &Path) -> Target {
    Target::open(dir, privileged()).unwrap()
}

fn path(text: &str) -> TreePath {
    TreePath::from_bytes(text.as_bytes().to_vec()).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether what only root can do is checked. If not, it says so.
fn checked_as_root(what: &str) -> bool {
    if !is_root() {
        eprintln!("not checked, since it needs root: {what}");
    }
    is_root()
}

/// An entry of our own.
fn entry(at: &str, kind: Kind, mode: u32) -> Entry {
    Entry {
        path: path(at),
        kind,
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        user: None,
        group: None,
        mtime: Timestamp { secs: 1_700_000_000, nanos: 123_456_789 },
        ctime: Timestamp::default(),
        inode: 0,
        link_group: None,
        xattrs: Vec::new(),
    }
}

fn file(at: &str, size: u64, mode: u32) -> Entry {
    let content = Content::Nodes { root: ChunkId([0; 32]), depth: 1 };
    entry(at, Kind::File { size, content, cut: Cut::Content }, mode)
}

fn write(target: &Target, entry: &Entry, bytes: &[u8], existing: Existing) -> Result<Outcome> {
    target.write_small(&entry.path, entry, &[(0, bytes)], existing)
}

#[track_caller]
fn whole(outcome: Outcome) {
    assert!(outcome.is_whole(), "{outcome:?}");
}

/// Writes a small file that must come out as its entry says.
#[track_caller]
fn put(target: &Target, at: &str, bytes: &[u8]) -> Entry {
    let entry = file(at, bytes.len() as u64, 0o644);
    whole(write(target, &entry, bytes, Existing::Refuse).unwrap());
    entry
}

#[track_caller]
fn same(target: &Target, entry: &Entry) {
    assert_eq!(target.differences(&entry.path, entry).unwrap(), [], "{}", entry.path);
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
