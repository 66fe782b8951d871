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

#[derive(Default)]
pub(super) struct Owners {
    by: OwnerBy,
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
        Self { by, known: Mutex::default() }
    }

    /// The uid and gid that `entry` should have here.
    pub fn of(&self, entry: &Entry) -> (u32, u32) {
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
