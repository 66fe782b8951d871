//! A tree of files as text: a line for each entry, so that two trees are the same if their texts are.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// `TYPE MODE SIZE MTIME CONTENT FIRST-NAME XATTRS PATH`, in the order of the paths' bytes.
///
/// CONTENT is the BLAKE3 of a file or the target of a symlink, FIRST-NAME the first path of a file with several, XATTRS
/// those of `user.`; `-` stands for none. Bytes that are not printable ASCII are escaped as Rust does.
pub fn of(root: &Path) -> String {
    let mut paths = vec![PathBuf::new()];
    walk(root, Path::new(""), &mut paths);
    paths.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    let mut first_names = HashMap::new();
    let mut text = String::new();
    for path in paths {
        let full = root.join(&path);
        let found = fs::symlink_metadata(&full).unwrap();
        let kind = found.file_type();
        let shown = escaped(path.as_os_str().as_bytes());
        let (word, size, content) = if kind.is_file() {
            ("file", found.len().to_string(), blake3::hash(&fs::read(&full).unwrap()).to_hex().to_string())
        } else if kind.is_symlink() {
            ("symlink", "-".to_owned(), escaped(fs::read_link(&full).unwrap().as_os_str().as_bytes()))
        } else if kind.is_dir() {
            ("directory", "-".to_owned(), "-".to_owned())
        } else if kind.is_fifo() {
            ("fifo", "-".to_owned(), "-".to_owned())
        } else {
            panic!("no test plants {kind:?}")
        };
        let first = if found.nlink() > 1 && !kind.is_dir() {
            first_names.entry(found.ino()).or_insert_with(|| shown.clone()).clone()
        } else {
            "-".to_owned()
        };
        let mode = found.mode() & 0o7777;
        let (seconds, nanos) = (found.mtime(), found.mtime_nsec());
        let xattrs = attributes(&full);
        let path = if shown.is_empty() { "." } else { &shown };
        writeln!(text, "{word} {mode:04o} {size} {seconds}.{nanos:09} {content} {first} {xattrs} {path}").unwrap();
    }
    text
}

fn walk(root: &Path, below: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            walk(root, &path, paths);
        }
        paths.push(path);
    }
}

fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace(' ', "\\x20")
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0u8; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut shown: Vec<String> = Vec::new();
    for name in names[..len].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0u8; 4096];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        shown.push(format!("{}={}", escaped(name), escaped(&value[..len])));
    }
    shown.sort();
    if shown.is_empty() { "-".to_owned() } else { shown.join(",") }
}
