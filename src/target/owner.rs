//! Whose a restored file becomes.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, PoisonError};

use crate::pack::entry::Entry;

/// How owners and groups of entries are mapped to this machine's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnerBy {
    /// The numbers of the source: the same machine, or a disk that will be one.
    #[default]
    Number,
    /// The names of the source where this machine knows them, else the numbers.
    Name,
}

/// Owners that were told apart from all others: those of another machine become those of this one. What it names wins over `OwnerBy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerMap {
    /// The first that fits decides.
    pub users: Vec<(Whose, u32)>,
    pub groups: Vec<(Whose, u32)>,
    /// Of all that no pair names.
    pub user: Option<u32>,
    pub group: Option<u32>,
}

/// An owner or group as a snapshot has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    Name(Vec<u8>),
    Number(u32),
}

impl Whose {
    fn is(&self, name: Option<&[u8]>, number: u32) -> bool {
        match self {
            Self::Name(wanted) => name == Some(wanted),
            Self::Number(wanted) => number == *wanted,
        }
    }
}

impl OwnerMap {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn user(&self, entry: &Entry) -> Option<u32> {
        let named = self.users.iter().find(|(whose, _)| whose.is(entry.user.as_deref(), entry.uid));
        named.map(|(_, id)| *id).or(self.user)
    }

    fn group(&self, entry: &Entry) -> Option<u32> {
        let named = self.groups.iter().find(|(whose, _)| whose.is(entry.group.as_deref(), entry.gid));
        named.map(|(_, id)| *id).or(self.group)
    }
}

#[derive(Default)]
pub(super) struct Owners {
    by: OwnerBy,
    pub map: OwnerMap,
    known: Mutex<Known>,
}

/// Answers of the user database, which may be slow and far away. As many as a snapshot has owners.
#[derive(Default)]
struct Known {
    users: HashMap<Vec<u8>, Option<u32>>,
    groups: HashMap<Vec<u8>, Option<u32>>,
}

impl Owners {
    pub fn new(by: OwnerBy) -> Self {
        Self { by, ..Self::default() }
    }

    /// The uid and gid that `entry` should have here.
    pub fn of(&self, entry: &Entry) -> (u32, u32) {
        let (user, group) = (self.map.user(entry), self.map.group(entry));
        if let (Some(user), Some(group)) = (user, group) {
            return (user, group);
        }
        let (uid, gid) = self.unmapped(entry);
        (user.unwrap_or(uid), group.unwrap_or(gid))
    }

    /// Mode bits that `entry` must not have here: a program that ran with its owner's rights would run with another's.
    pub fn withheld(&self, entry: &Entry) -> u32 {
        if entry.kind.is_directory() {
            return 0;
        }
        let user = self.map.user(entry).is_some_and(|user| user != entry.uid);
        let group = self.map.group(entry).is_some_and(|group| group != entry.gid);
        entry.mode & (if user { 0o4000 } else { 0 } | if group { 0o2000 } else { 0 })
    }

    fn unmapped(&self, entry: &Entry) -> (u32, u32) {
        if self.by == OwnerBy::Number {
            return (entry.uid, entry.gid);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = entry.user.as_deref().and_then(|name| {
            look_up(&mut known.users, name, |name| uzers::get_user_by_name(OsStr::from_bytes(name)).map(|u| u.uid()))
        });
        let gid = entry.group.as_deref().and_then(|name| {
            look_up(&mut known.groups, name, |name| uzers::get_group_by_name(OsStr::from_bytes(name)).map(|g| g.gid()))
        });
        (uid.unwrap_or(entry.uid), gid.unwrap_or(entry.gid))
    }
}

fn look_up(known: &mut HashMap<Vec<u8>, Option<u32>>, name: &[u8], ask: impl Fn(&[u8]) -> Option<u32>) -> Option<u32> {
    // The database takes C strings: a name with a NUL in it is nobody's.
    if name.contains(&0) {
        return None;
    }
    if let Some(id) = known.get(name) {
        return *id;
    }
    let id = ask(name);
    known.insert(name.to_vec(), id);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::TreePath;
    use crate::pack::entry::{Kind, Timestamp};

    fn entry(user: &str, uid: u32, group: &str, gid: u32, mode: u32) -> Entry {
        Entry {
            path: TreePath::root(),
            kind: Kind::Fifo,
            mode,
            uid,
            gid,
            user: (!user.is_empty()).then(|| user.as_bytes().to_vec()),
            group: (!group.is_empty()).then(|| group.as_bytes().to_vec()),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            inode: 0,
            link_group: None,
            xattrs: vec![],
        }
    }

    #[test]
    fn a_pair_decides_before_the_owner_of_all_and_that_one_before_the_number() {
        let mut owners = Owners::new(OwnerBy::Number);
        owners.map.users = vec![(Whose::Name(b"ann".to_vec()), 70), (Whose::Number(5), 71)];
        assert_eq!(owners.of(&entry("ann", 1, "ann", 1, 0)), (70, 1));
        assert_eq!(owners.of(&entry("", 5, "ann", 1, 0)), (71, 1));
        assert_eq!(owners.of(&entry("bob", 2, "bob", 2, 0)), (2, 2));
        owners.map.user = Some(80);
        owners.map.group = Some(81);
        assert_eq!(owners.of(&entry("ann", 1, "ann", 1, 0)), (70, 81));
        assert_eq!(owners.of(&entry("bob", 2, "bob", 2, 0)), (80, 81));
    }

    #[test]
    fn the_rights_of_an_owner_do_not_become_anothers() {
        let mut owners = Owners::new(OwnerBy::Number);
        owners.map.user = Some(0);
        assert_eq!(owners.withheld(&entry("ann", 1, "ann", 1, 0o6755)), 0o4000);
        assert_eq!(owners.withheld(&entry("root", 0, "root", 0, 0o6755)), 0);
        owners.map.group = Some(0);
        assert_eq!(owners.withheld(&entry("ann", 1, "ann", 1, 0o6755)), 0o6000);
        let directory = Entry { kind: Kind::Directory, ..entry("ann", 1, "ann", 1, 0o2755) };
        assert_eq!(owners.withheld(&directory), 0);
    }
}
