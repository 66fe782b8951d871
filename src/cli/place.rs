//! `SNAPSHOT[:PATH]`: a place in a snapshot, as people name it.
//!
//! Owns the splitting, and which part of a source a path reaches. Refuses `..`, which would mean what a link says.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::failure::{Failure, Result};
use crate::names::{TreePath, escape};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `latest`, or the beginning of an id.
    pub snapshot: String,
    /// Absolute, raw bytes, without doubled or trailing slashes.
    pub path: Option<Vec<u8>>,
}

impl Place {
    pub fn parse(text: &OsStr) -> Result<Self> {
        let bytes = text.as_bytes();
        let (snapshot, path) = match bytes.iter().position(|byte| *byte == b':') {
            Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
            None => (bytes, None),
        };
        let snapshot = String::from_utf8_lossy(snapshot).into_owned();
        if snapshot.is_empty() {
            let sentence = format!("{:?} names no snapshot", text.to_string_lossy());
            return Err(Failure::usage(sentence).hint("write latest, latest:/PATH, or an id of `lifeboat snapshots`"));
        }
        let path = path.filter(|path| !path.is_empty()).map(|path| absolute(OsStr::from_bytes(path))).transpose()?;
        Ok(Self { snapshot, path })
    }
}

/// A path inside a snapshot: absolute, whether or not it was written with its first slash.
pub fn absolute(path: &OsStr) -> Result<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.as_bytes().split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                return Err(Failure::usage(format!("the path {} has a `..`", escape(path.as_bytes())))
                    .hint("write it without: where `..` leads depends on links, and a snapshot follows none"));
            }
            part => parts.push(part),
        }
    }
    Ok([b"/", parts.join(&b'/').as_slice()].concat())
}

/// What a path reaches in the source that was saved from `root`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The source lies at the path or beneath it.
    Whole,
    /// The path lies within the source.
    Within(TreePath),
    /// They have nothing in common.
    Apart,
}

pub fn reach(root: &[u8], path: &[u8]) -> Reach {
    let tree = |absolute: &[u8]| TreePath::from_bytes(absolute.strip_prefix(b"/").unwrap_or(absolute).to_vec());
    let (Ok(root), Ok(path)) = (tree(root), tree(path)) else { return Reach::Apart };
    if root.is_within(&path) {
        return Reach::Whole;
    }
    path.relative_to(&root).map_or(Reach::Apart, Reach::Within)
}

/// The absolute path of what lies at `path` in the source that was saved from `root`.
pub fn join(root: &[u8], path: &TreePath) -> Vec<u8> {
    if path.is_root() {
        return root.to_vec();
    }
    let root = root.strip_suffix(b"/").unwrap_or(root);
    [root, b"/", path.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        Place::parse(OsStr::new(text)).unwrap()
    }

    #[test]
    fn a_place_is_a_snapshot_and_perhaps_a_path() {
        assert_eq!(place("latest"), Place { snapshot: "latest".into(), path: None });
        assert_eq!(place("ab12:/etc//ssh/"), Place { snapshot: "ab12".into(), path: Some(b"/etc/ssh".to_vec()) });
        assert_eq!(place("latest:etc").path, Some(b"/etc".to_vec()));
        assert_eq!(place("latest:/a:b").path, Some(b"/a:b".to_vec()));
        assert_eq!(place("latest:/").path, Some(b"/".to_vec()));
        assert!(Place::parse(OsStr::new(":/etc")).is_err());
        assert!(Place::parse(OsStr::new("latest:/etc/../x")).is_err());
    }

    #[test]
    fn a_path_reaches_into_a_source_over_it_or_past_it() {
        assert_eq!(reach(b"/home", b"/"), Reach::Whole);
        assert_eq!(reach(b"/home", b"/home"), Reach::Whole);
        assert_eq!(reach(b"/home", b"/homes"), Reach::Apart);
        assert_eq!(reach(b"/home", b"/home/a/b"), Reach::Within(TreePath::from_bytes(b"a/b".to_vec()).unwrap()));
        assert_eq!(reach(b"/", b"/etc"), Reach::Within(TreePath::from_bytes(b"etc".to_vec()).unwrap()));
        assert_eq!(join(b"/", &TreePath::from_bytes(b"etc".to_vec()).unwrap()), b"/etc");
        assert_eq!(join(b"/home", &TreePath::root()), b"/home");
    }
}
