//! Objects of a bucket on their way into a directory.
//!
//! Owns the names under which they land where a file system has no room for their own, each of which leads back to its key (`bucket::key`), and what an object has that a file
//! has not. Refuses to drop an object for its name.

use crate::bucket::key;
use crate::names::TreePath;
use crate::pack::entry::Entry;
use crate::pack::object;

/// What file systems allow.
const NAME_BYTES_MAX: usize = 255;
/// Pieces of longer names take about so much, and a mark behind it.
const PIECE_BYTES: usize = 200;

/// Who owns what nobody owned.
#[derive(Clone, Copy)]
pub(super) struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    pub fn of_this_process() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }
}

/// Makes a file's entry of an object's. `beside` says that other objects lie beneath its path, as beneath a directory.
/// Gives the key back if the name is not the key's own.
pub(super) fn land(entry: &mut Entry, beside: bool, owner: Owner) -> Option<String> {
    (entry.uid, entry.gid) = (owner.uid, owner.gid);
    entry.xattrs.retain(|(name, _)| name != object::ATTRIBUTE);
    let path = landed(&entry.path, beside);
    let key = String::from_utf8_lossy(path.as_bytes());
    let key = key::from_path(&key);
    let told = (key.as_bytes() != path.as_bytes()).then(|| key.into_owned());
    entry.path = path;
    told
}

/// Where an object of `path` lands, if others lie `beside` it, beneath its path, and if none do.
pub fn landed(path: &TreePath, beside: bool) -> TreePath {
    let mut landed = String::from_utf8_lossy(path.as_bytes()).into_owned();
    if beside {
        landed.push_str(key::BARE);
    }
    if landed.split('/').any(|part| part.len() > NAME_BYTES_MAX) {
        landed = shortened(&landed);
    }
    // Escaped parts and pieces of them are good parts.
    TreePath::from_bytes(landed.into_bytes()).unwrap_or_else(|_| path.clone())
}

/// Divides parts that are too long into several.
fn shortened(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        let mut rest = part;
        while rest.len() > NAME_BYTES_MAX {
            // Neither a letter nor an escape is divided.
            let mut at = 0;
            while at < PIECE_BYTES {
                at += key::token_bytes(&rest[at..]);
            }
            parts.push(format!("{}{}", &rest[..at], key::GOES_ON));
            rest = &rest[at..];
        }
        parts.push(rest.to_owned());
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::entry::Kind;
    use proptest::prelude::*;

    fn landed(path: &str, beside: bool) -> (String, Option<String>) {
        let mut entry = Entry {
            path: TreePath::from_bytes(path.as_bytes().to_vec()).unwrap(),
            kind: Kind::Fifo,
            mode: 0,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: Default::default(),
            ctime: Default::default(),
            inode: 0,
            link_group: None,
            xattrs: vec![(object::ATTRIBUTE.to_vec(), vec![])],
        };
        let key = land(&mut entry, beside, Owner { uid: 1, gid: 2 });
        assert!(entry.xattrs.is_empty() && (entry.uid, entry.gid) == (1, 2));
        (String::from_utf8(entry.path.as_bytes().to_vec()).unwrap(), key)
    }

    #[test]
    fn an_object_lands_as_its_key_where_that_is_a_name() {
        assert_eq!(landed("a/b.txt", false), ("a/b.txt".into(), None));
        assert_eq!(landed("a/100%", false), ("a/100%".into(), None));
        assert_eq!(landed("a/%=", false), ("a/%=".into(), Some("a/".into())));
        assert_eq!(landed("a", true), ("a%=".into(), Some("a".into())));
    }

    proptest! {
        #[test]
        fn a_name_of_any_length_is_divided_into_names_and_comes_back(key in "[a%/=~é日\n]{1,6}", times in 1usize..400) {
            let key = key.repeat(times);
            let (landed, told) = landed(&key::to_path(&key), false);
            prop_assert!(landed.split('/').all(|part| part.len() <= NAME_BYTES_MAX));
            let back = key::from_path(&landed);
            prop_assert_eq!(back.as_ref(), key.as_str());
            prop_assert_eq!(told.is_some(), landed != key);
        }
    }
}
