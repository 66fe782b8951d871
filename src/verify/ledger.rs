//! What this host has found sound in a store that is far away, so that a check of the structure does not read all of it again.
//!
//! Owns a list of marks among this host's copies: 16 bytes for each object, a hash of its key, its size, and the tag with which the store listed it before it
//! was read. An object that is listed so again has, by the store's own word, the bytes that were read then; its copy is looked at instead, and a pack's
//! end not at all. So the requests of such a check do not grow with the repository. Levels metadata and data take nobody's word: they read everything that
//! they prove. Refuses to remember anything once damage was found, and where a store gives no tags.

use crate::names::ObjectKey;
use crate::store::{Copies, Listed};

const MARK_BYTES: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark([u8; MARK_BYTES]);

impl Mark {
    /// None: the store gives no tag.
    pub fn of(listed: &Listed) -> Option<Self> {
        let tag = listed.tag?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&tag.0).update(&listed.size.to_le_bytes()).update(listed.key.as_str().as_bytes());
        let mut mark = [0; MARK_BYTES];
        mark.copy_from_slice(&hasher.finalize().as_bytes()[..MARK_BYTES]);
        Some(Self(mark))
    }
}

/// Marks of objects that were found sound.
#[derive(Default)]
pub struct Ledger(Vec<Mark>);

fn key() -> ObjectKey {
    "ledger/structure".parse().expect("it is a key")
}

impl Ledger {
    /// What earlier checks left; nothing, if that is lost or bent.
    pub fn open(copies: &Copies) -> Self {
        copies.believe(&key());
        let bytes = copies.get(&key()).unwrap_or_default();
        // Sorted when it was kept.
        Self(bytes.as_chunks::<MARK_BYTES>().0.iter().copied().map(Mark).collect())
    }

    pub fn has(&self, mark: Mark) -> bool {
        self.0.binary_search(&mark).is_ok()
    }

    /// Leaves `marks` for later checks, in the place of all others.
    pub fn keep(copies: &Copies, mut marks: Vec<Mark>) {
        marks.sort_unstable();
        let bytes: Vec<u8> = marks.iter().flat_map(|mark| mark.0).collect();
        copies.keep(&key(), &bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Tag;

    #[test]
    fn another_size_or_tag_is_another_object() {
        let listed = |key: &str, size, tag| Listed { key: key.parse().unwrap(), size, tag };
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::at(dir.path().to_owned());
        let tag = Some(Tag::of("one"));
        let known = [listed("s/a", 1, tag), listed("s/b", 1, tag), listed("s/c", 7, Some(Tag::of("three")))];
        assert!(Ledger::open(&copies).0.is_empty());
        Ledger::keep(&copies, known.iter().filter_map(Mark::of).collect());
        let ledger = Ledger::open(&copies.fresh());
        assert!(known.iter().all(|listed| ledger.has(Mark::of(listed).unwrap())));
        for other in [listed("s/a", 2, tag), listed("s/a", 1, Some(Tag::of("two"))), listed("s/d", 1, tag)] {
            assert!(!ledger.has(Mark::of(&other).unwrap()), "{other:?}");
        }
        assert!(Mark::of(&listed("s/a", 1, None)).is_none());
    }
}
