//! Several names of one file.
//!
//! Owns which names are the same file: those of one link group whose entries agree in all but name. One that differs (the file changed while it was
//! saved) is written by itself, for a link would give it the other's content.

use std::collections::HashMap;
use std::sync::Arc;

use super::window::FileWork;
use crate::names::TreePath;
use crate::pack::entry::{Entry, Timestamp};
use crate::pack::node::encode_leaf;

/// The first name of a group, and how it fared.
pub(super) struct Group {
    pub path: TreePath,
    fingerprint: blake3::Hash,
    pub first: First,
}

pub(super) enum First {
    /// It stands.
    Made,
    /// It could not be made.
    Lost,
    /// It stands once its content does.
    File(Arc<FileWork>),
}

/// A later name of a group.
pub(super) struct Link {
    pub entry: Entry,
    pub group: Arc<Group>,
}

#[derive(Default)]
pub(super) struct Groups(HashMap<(usize, u64), Arc<Group>>);

impl Groups {
    /// The group whose file `entry` names once more.
    pub fn find(&self, part: usize, entry: &Entry) -> Option<Arc<Group>> {
        let group = self.0.get(&(part, entry.link_group?))?;
        (group.fingerprint == fingerprint(entry)).then(|| Arc::clone(group))
    }

    /// Remembers the first name of a group. Of names that differ the first stays.
    pub fn add(&mut self, part: usize, entry: &Entry, fingerprint: Option<blake3::Hash>, first: First) {
        if let (Some(group), Some(fingerprint)) = (entry.link_group, fingerprint) {
            let new = || Arc::new(Group { path: entry.path.clone(), fingerprint, first });
            self.0.entry((part, group)).or_insert_with(new);
        }
    }
}

/// All of an entry but its name and what is never restored.
pub(super) fn fingerprint(entry: &Entry) -> blake3::Hash {
    let bare = Entry { path: TreePath::root(), ctime: Timestamp::default(), inode: 0, ..entry.clone() };
    blake3::hash(&encode_leaf(&[bare], 0))
}
