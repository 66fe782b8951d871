//! Which chunks and nodes snapshots hold.
//!
//! Owns the walk through their trees, and the notes of it, in the order of ids. A part that several trees share is read once. Refuses to read a pack of files' content.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::spill::{Sorted, Spill};
use super::{Damage, Result, Set, Step, Tree, Visit, Weave, absolute, go_on, sources};
use crate::names::{ChunkId, TreePath, WriterId};
use crate::pack::entry::{Content, Entry, Extent, Kind};
use crate::pack::list::{ListReader, ListSource};
use crate::repository::{self, ChunkReader, Index, Repository, Snapshot};

/// Notes everything that the snapshots hold, by what `number` makes of the set of those that hold it; none: what lies there is passed by. Each snapshot comes with its
/// number in the set. `scratch`: a directory for notes.
pub(super) fn note(
    repository: &Repository,
    index: &Index,
    snapshots: &[(&Snapshot, usize)],
    scratch: &Path,
    number: &mut dyn FnMut(&Set) -> Option<u32>,
    damage: &mut dyn FnMut(Damage),
    cancel: &AtomicBool,
) -> Result<Sorted> {
    let mut spill = Spill::new(scratch);
    let mut writers: Vec<WriterId> = snapshots.iter().map(|(snapshot, _)| snapshot.writer).collect();
    writers.sort_unstable();
    writers.dedup();
    for writer in writers {
        let reader = ChunkReader::new(repository, index, writer)?;
        let mut trees = Vec::new();
        for (snapshot, number) in snapshots.iter().filter(|(snapshot, _)| snapshot.writer == writer) {
            for (name, source) in sources(snapshot.need_body(repository)?, &snapshot.id.short())? {
                let (from, strip) = (TreePath::root(), TreePath::root());
                trees.push(Tree { nodes: &reader, root: source.tree(), name, from, strip, number: *number });
            }
        }
        let mut weave = Weave::new(trees);
        let mut notes = Notes { reader: &reader, number: &mut *number, spill: &mut spill, failed: None, cancel };
        // Entries are noted as their leaf is read, and none comes out.
        while let Some(step) = weave.next(&mut notes, |error| !error.is_damage())? {
            go_on(cancel)?;
            if let Step::Damage { after, error, .. } = step {
                damage(Damage { after: absolute(&after), error });
            }
            notes.check(damage)?;
        }
        notes.check(damage)?;
        go_on(cancel)?;
    }
    spill.finish()
}

/// What snapshots hold, asked for in the order of ids.
pub struct Held(Sorted);

impl Held {
    /// Everything in the trees of `snapshots`, without what lies in a part that one of `known` has, too, at the same place.
    pub fn by(
        repository: &Repository,
        index: &Index,
        snapshots: &[&Snapshot],
        known: &[&Snapshot],
        scratch: &Path,
        damage: &mut dyn FnMut(Damage),
        cancel: &AtomicBool,
    ) -> Result<Self> {
        // Numbers above 0 would do for nothing: who has it is not asked, but whether it is known.
        let all: Vec<(&Snapshot, usize)> =
            snapshots.iter().map(|new| (*new, 0)).chain(known.iter().map(|old| (*old, 1))).collect();
        let mut number = |set: &Set| (!set.contains(1)).then_some(0);
        note(repository, index, &all, scratch, &mut number, damage, cancel).map(Self)
    }

    /// Whether they hold `id`; ids that are asked for must grow.
    pub fn has(&mut self, id: &ChunkId) -> Result<bool> {
        let mut held = false;
        self.0.of(id, |_| held = true)?;
        Ok(held)
    }

    /// How many of those before the id that was asked for last, and after it, were asked for by nobody; some may count more than once.
    pub fn passed_by(mut self) -> Result<u64> {
        self.0.pass_by_the_rest()
    }
}

/// Notes which chunk is held by whom.
struct Notes<'a, 'r> {
    reader: &'a ChunkReader<'r>,
    /// What is noted of a part that stands in these snapshots; none: nothing, and what lies beneath is not looked at.
    number: &'a mut dyn FnMut(&Set) -> Option<u32>,
    spill: &'a mut Spill,
    failed: Option<(TreePath, super::Error)>,
    cancel: &'a AtomicBool,
}

impl Notes<'_, '_> {
    fn check(&mut self, damage: &mut dyn FnMut(Damage)) -> Result<()> {
        match self.failed.take() {
            None => Ok(()),
            Some((path, super::Error::Repository(error))) if error.is_damage() => {
                damage(Damage { after: absolute(&path), error });
                Ok(())
            }
            Some((_, error)) => Err(error),
        }
    }

    fn content(&mut self, content: &Content, set: u32) -> Result<()> {
        let noting = Noting { reader: self.reader, nodes: std::cell::RefCell::default() };
        let mut list = ListReader::new(&noting, content);
        while let Some(extent) = list.next_extent()? {
            if let Extent::Data { id, .. } = extent {
                self.spill.note(&id, set)?;
            }
        }
        for id in noting.nodes.into_inner() {
            self.spill.note(&id, set)?;
        }
        Ok(())
    }
}

impl Visit for Notes<'_, '_> {
    fn enter(&mut self, id: &ChunkId, set: &Set, _: u64) -> bool {
        let Some(number) = (self.number)(set) else { return false };
        if let Err(error) = self.spill.note(id, number) {
            self.failed.get_or_insert((TreePath::root(), error));
        }
        go_on(self.cancel).is_ok()
    }

    fn base(&mut self, id: &ChunkId, set: &Set) {
        self.enter(id, set, 0);
    }

    fn wants(&mut self, entry: &Entry, set: &Set) -> bool {
        if let Kind::File { content, .. } = &entry.kind
            && let Some(number) = (self.number)(set)
            && let Err(error) = self.content(content, number)
        {
            self.failed.get_or_insert((entry.path.clone(), error));
            // A step of the walk, at which the failure is looked at.
            return true;
        }
        false
    }
}

/// Remembers the nodes of one list.
struct Noting<'a, 'r> {
    reader: &'a ChunkReader<'r>,
    nodes: std::cell::RefCell<Vec<ChunkId>>,
}

impl ListSource for Noting<'_, '_> {
    type Error = repository::Error;
    fn list_node(&self, id: &ChunkId) -> repository::Result<std::sync::Arc<Vec<u8>>> {
        self.nodes.borrow_mut().push(*id);
        self.reader.list_node(id)
    }
}
