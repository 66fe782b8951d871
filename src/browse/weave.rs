//! Many trees in one walk.
//!
//! Owns the order, and the meeting of equal parts. What is still to be read stands in a queue by its first path, upper nodes before lower ones and nodes
//! before entries. Every node that stands in several trees at the same place therefore waits there under one key before it is read: it is read once, for
//! all of them, and entries of one path come out together, in the order of paths. Memory: the children of the nodes above the place of the walk, for each
//! tree that differs there, and of the entries only those that are wanted. Refuses to end at a damaged node: it is told, and the walk goes on behind it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

use super::{Set, joined};
use crate::names::{ChunkId, TreePath};
use crate::pack::entry::Entry;
use crate::pack::node::{Child, decode_inner, decode_leaf};
use crate::pack::patch::read_leaf;
use crate::pack::tree::{LEVELS_MAX, NodeError, NodeSource, Root};
use crate::pack::wire::Malformed;

/// One source of a snapshot, or a part of it.
pub struct Tree<'a, S> {
    pub nodes: &'a S,
    pub root: Root,
    /// Where the source lay, under `/`.
    pub name: TreePath,
    /// What is wanted of it, in the source.
    pub from: TreePath,
    /// What paths under `/` lose; the source lies within it, or it within the source.
    pub strip: TreePath,
    /// Which of the snapshots it is of.
    pub number: usize,
}

/// What a walk asks whoever walks.
pub trait Visit {
    /// Whether to read a node. `set` says in which snapshots it stands, `entries` how many entries are said to be beneath.
    fn enter(&mut self, _id: &ChunkId, _set: &Set, _entries: u64) -> bool {
        true
    }

    /// A leaf that was read is a patch on this one.
    fn base(&mut self, _id: &ChunkId, _set: &Set) {}

    /// Whether an entry is wanted; its path is relative to `strip`.
    fn wants(&mut self, _entry: &Entry, _set: &Set) -> bool {
        true
    }
}

/// Wants all.
pub struct Everything;
impl Visit for Everything {}

/// One version of what stands at a path: of all snapshots of the set.
#[derive(Debug)]
pub struct Found {
    pub entry: Entry,
    pub set: Set,
}

#[derive(Debug)]
pub enum Step<E> {
    /// All versions at one path, no two of the same node.
    Path(TreePath, Vec<Found>),
    /// What lies beneath a node of these snapshots cannot be known.
    Damage { after: TreePath, set: Set, error: E },
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Base {
    /// The directory that all paths of the node share lies in what is wanted.
    Within(TreePath),
    /// It lies above; a node of another part of another source is another node then.
    Above(TreePath, TreePath),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    path: TreePath,
    /// Upper levels first, entries last.
    rank: u8,
    base: Option<Base>,
    id: ChunkId,
    /// Tells versions of one path apart.
    serial: u64,
}

enum Waiting {
    Node { child: Child, level: u8, tree: usize, set: Set },
    Entry(Box<Found>),
}

const ENTRY: u8 = u8::MAX;

pub struct Weave<'a, S: NodeSource> {
    trees: Vec<Tree<'a, S>>,
    waiting: BTreeMap<Place, Waiting>,
    troubles: VecDeque<Step<S::Error>>,
    serial: u64,
    /// Nodes that were read.
    pub read: u64,
}

impl<'a, S: NodeSource> Weave<'a, S> {
    pub fn new(trees: Vec<Tree<'a, S>>) -> Self {
        let roots: Vec<(Child, u8, Set)> = trees
            .iter()
            .map(|tree| {
                let Root { id, level, base, entries, bytes } = tree.root.clone();
                let base_len = base.as_bytes().len();
                (Child { first: base, base_len, id, entries, bytes }, level, Set::one(tree.number))
            })
            .collect();
        let mut weave = Self { trees, waiting: BTreeMap::new(), troubles: VecDeque::new(), serial: 0, read: 0 };
        for (tree, (child, level, set)) in roots.into_iter().enumerate() {
            weave.put(child, level, tree, set);
        }
        weave
    }

    /// Adds an entry that stands in no tree: a directory above a source. Its path is relative to `strip`.
    pub fn add(&mut self, entry: Entry, set: Set) {
        self.serial += 1;
        let place =
            Place { path: entry.path.clone(), rank: ENTRY, base: None, id: ChunkId([0; 32]), serial: self.serial };
        self.waiting.insert(place, Waiting::Entry(Box::new(Found { entry, set })));
    }

    /// A path of a tree as it comes out; the root for what lies above what is wanted.
    fn shown(&self, tree: usize, path: &TreePath) -> Option<TreePath> {
        let tree = &self.trees[tree];
        joined(&tree.name, path).relative_to(&tree.strip)
    }

    fn put(&mut self, child: Child, level: u8, tree: usize, set: Set) {
        let path = self.shown(tree, &child.first).unwrap_or_default();
        let base = child.base();
        let base = match self.shown(tree, &base) {
            Some(base) => Base::Within(base),
            None => Base::Above(joined(&self.trees[tree].name, &base), self.trees[tree].strip.clone()),
        };
        let rank = LEVELS_MAX.saturating_sub(level.min(LEVELS_MAX));
        let place = Place { path, rank, base: Some(base), id: child.id, serial: 0 };
        match self.waiting.get_mut(&place) {
            Some(Waiting::Node { set: known, .. }) => known.add(&set),
            _ => drop(self.waiting.insert(place, Waiting::Node { child, level, tree, set })),
        }
    }

    /// The next step; none at the end. `hard` says which errors end the walk, because others would follow.
    pub fn next(
        &mut self,
        visit: &mut impl Visit,
        hard: impl Fn(&S::Error) -> bool,
    ) -> Result<Option<Step<S::Error>>, S::Error> {
        loop {
            if let Some(trouble) = self.troubles.pop_front() {
                return Ok(Some(trouble));
            }
            let Some((place, waiting)) = self.waiting.pop_first() else { return Ok(None) };
            match waiting {
                Waiting::Entry(found) => {
                    let mut versions = vec![*found];
                    while let Some(next) = self.waiting.first_entry() {
                        if next.key().path != place.path || next.key().rank != ENTRY {
                            break;
                        }
                        if let Waiting::Entry(found) = next.remove() {
                            versions.push(*found);
                        }
                    }
                    return Ok(Some(Step::Path(place.path, versions)));
                }
                Waiting::Node { child, level, tree, set } => {
                    if !visit.enter(&child.id, &set, child.entries) {
                        continue;
                    }
                    self.read += 1;
                    match self.open(&place.path, &child, level, tree, &set, visit) {
                        Ok(ControlFlow::Continue(())) => {}
                        Ok(ControlFlow::Break(cause)) => {
                            let error = NodeError { id: child.id, cause }.into();
                            self.troubles.push_back(Step::Damage { after: place.path, set, error });
                        }
                        Err(error) if hard(&error) => return Err(error),
                        Err(error) => self.troubles.push_back(Step::Damage { after: place.path, set, error }),
                    }
                }
            }
        }
    }

    /// Reads a node and puts what it holds into the queue.
    fn open(
        &mut self,
        place: &TreePath,
        child: &Child,
        level: u8,
        tree: usize,
        set: &Set,
        visit: &mut impl Visit,
    ) -> Result<ControlFlow<Malformed>, S::Error> {
        let nodes = self.trees[tree].nodes;
        if level > LEVELS_MAX {
            return Ok(ControlFlow::Break(Malformed("a tree is too deep")));
        }
        if level == 0 {
            let leaf = read_leaf(nodes, &child.id)?;
            if let Some(base) = &leaf.base {
                visit.base(base, set);
            }
            let entries = match decode_leaf(&leaf.bytes, &child.base()) {
                Ok(entries) => entries,
                Err(cause) => return Ok(ControlFlow::Break(cause)),
            };
            for mut entry in entries {
                let in_part = entry.path.is_within(&self.trees[tree].from);
                let Some(path) = self.shown(tree, &entry.path).filter(|_| in_part) else { continue };
                if path < *place {
                    return Ok(ControlFlow::Break(Malformed("leaves are out of order")));
                }
                entry.path = path;
                if visit.wants(&entry, set) {
                    self.add(entry, set.clone());
                }
            }
            return Ok(ControlFlow::Continue(()));
        }
        let children = match decode_inner(&nodes.tree_node(&child.id)?, level, &child.base()) {
            Ok(children) => children,
            Err(cause) => return Ok(ControlFlow::Break(cause)),
        };
        // Of the children before what is wanted only the last may hold its beginning.
        let from = self.trees[tree].from.clone();
        let start = children.partition_point(|child| child.first <= from).saturating_sub(1);
        for child in children.into_iter().skip(start) {
            if child.first > from && !child.first.is_within(&from) {
                break;
            }
            if self.shown(tree, &child.first).is_some_and(|path| path < *place) {
                return Ok(ControlFlow::Break(Malformed("nodes are out of order")));
            }
            self.put(child, level - 1, tree, set.clone());
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{RepositoryId, WriterId};
    use crate::pack::entry::Timestamp;
    use crate::pack::tree::{NodeSink, TreeBuilder};
    use crate::seal::key::{AdminKey, IdKeys, Secret};
    use proptest::prelude::*;
    use std::cell::RefCell;
    use std::collections::{BTreeMap, HashMap};
    use std::sync::Arc;

    fn ids() -> IdKeys {
        AdminKey::from_root(RepositoryId([1; 16]), Secret::new([1; 32])).own_writer().group().ids(WriterId([1; 8]))
    }

    #[derive(Default)]
    struct Memory {
        nodes: HashMap<ChunkId, Arc<Vec<u8>>>,
        asked: RefCell<Vec<ChunkId>>,
    }

    impl NodeSink for Memory {
        type Error = NodeError;
        fn put_tree_node(&mut self, plaintext: Vec<u8>) -> Result<ChunkId, NodeError> {
            let id = ids().tree(&plaintext);
            self.nodes.insert(id, Arc::new(plaintext));
            Ok(id)
        }
    }

    impl NodeSource for Memory {
        type Error = NodeError;
        fn tree_node(&self, id: &ChunkId) -> Result<Arc<Vec<u8>>, NodeError> {
            self.asked.borrow_mut().push(*id);
            let missing = NodeError { id: *id, cause: Malformed("it is not there") };
            self.nodes.get(id).cloned().ok_or(missing)
        }
    }

    fn build(entries: &[Entry], memory: &mut Memory) -> Root {
        let ids = ids();
        let mut builder = TreeBuilder::new(&ids);
        for entry in entries {
            builder.push(entry.clone(), None, memory).unwrap();
        }
        builder.finish(memory).unwrap().unwrap()
    }

    fn path(text: &str) -> TreePath {
        TreePath::from_bytes(text.as_bytes().to_vec()).unwrap()
    }

    fn file(name: String, secs: i64) -> Entry {
        Entry {
            path: path(&name),
            kind: crate::pack::entry::Kind::Fifo,
            mode: 0o644,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: Timestamp { secs, nanos: 0 },
            ctime: Timestamp::default(),
            inode: 0,
            link_group: None,
            xattrs: vec![],
        }
    }

    fn tree<'a>(nodes: &'a Memory, root: &Root, number: usize) -> Tree<'a, Memory> {
        let (name, from, strip) = (path("srv"), TreePath::root(), TreePath::root());
        Tree { nodes, root: root.clone(), name, from, strip, number }
    }

    /// Paths with the versions of each: the entry, and who has it.
    type Seen = BTreeMap<Vec<u8>, Vec<(Entry, Vec<usize>)>>;

    fn walk(mut weave: Weave<'_, Memory>) -> (Seen, usize, u64) {
        let (mut seen, mut damaged, mut last) = (Seen::new(), 0, None);
        while let Some(step) = weave.next(&mut Everything, |_| false).unwrap() {
            match step {
                Step::Damage { .. } => damaged += 1,
                Step::Path(path, found) => {
                    assert!(last.as_ref().is_none_or(|last| *last < path), "paths grow");
                    last = Some(path.clone());
                    let versions = seen.entry(path.as_bytes().to_vec()).or_default();
                    for Found { entry, set } in found {
                        match versions.iter_mut().find(|(known, _)| *known == entry) {
                            Some((_, of)) => of.extend(set.iter()),
                            None => versions.push((entry, set.iter().collect())),
                        }
                    }
                    versions.iter_mut().for_each(|(_, of)| of.sort_unstable());
                    versions.sort_by(|a, b| a.1.cmp(&b.1));
                }
            }
        }
        (seen, damaged, weave.read)
    }

    #[test]
    fn a_node_that_many_trees_share_is_read_once() {
        let mut memory = Memory::default();
        let mut entries: Vec<Entry> = (0..20_000).map(|n| file(format!("d{:02}/f{n:06}", n / 500), 0)).collect();
        let mut roots = vec![build(&entries, &mut memory)];
        let whole = memory.nodes.len() as u64;
        for round in 1..30 {
            entries[round * 600].mtime.secs = round as i64;
            roots.push(build(&entries, &mut memory));
        }
        let trees = roots.iter().enumerate().map(|(number, root)| tree(&memory, root, number)).collect();
        let (seen, damaged, read) = walk(Weave::new(trees));
        assert_eq!((seen.len(), damaged), (20_000, 0));
        assert_eq!(read, memory.nodes.len() as u64);
        assert!(read < whole + 29 * 4, "{read} nodes read of {whole} in one tree");
        let mut asked = memory.asked.borrow().clone();
        asked.sort();
        assert!(asked.windows(2).all(|pair| pair[0] != pair[1]));
        let changed = &seen[b"srv/d01/f000600".as_slice()];
        assert_eq!(changed.iter().map(|(_, of)| of.len()).collect::<Vec<_>>(), [1, 29]);
    }

    #[test]
    fn a_part_of_a_tree_costs_the_nodes_on_the_way_to_it() {
        let mut memory = Memory::default();
        let entries: Vec<Entry> = (0..20_000).map(|n| file(format!("d{:02}/f{n:06}", n / 500), 0)).collect();
        let root = build(&entries, &mut memory);
        let part = Tree { from: path("d07"), strip: path("srv/d07"), ..tree(&memory, &root, 0) };
        let (seen, _, read) = walk(Weave::new(vec![part]));
        assert_eq!(seen.len(), 500);
        assert!(seen.contains_key(b"f003500".as_slice()) && read < 20, "{read} nodes");
    }

    #[test]
    fn behind_a_damaged_node_the_walk_goes_on() {
        let mut memory = Memory::default();
        let entries: Vec<Entry> = (0..3_000).map(|n| file(format!("f{n:06}"), 0)).collect();
        let root = build(&entries, &mut memory);
        let lost = *memory.nodes.keys().find(|id| **id != root.id).unwrap();
        memory.nodes.remove(&lost);
        let (seen, damaged, _) = walk(Weave::new(vec![tree(&memory, &root, 0)]));
        assert_eq!(damaged, 1);
        assert!(seen.len() < 3_000 && seen.len() > 1_000, "{}", seen.len());
    }

    #[test]
    fn the_same_leaf_elsewhere_is_other_entries() {
        let mut memory = Memory::default();
        let at = |base: &str| (0..300).map(|n| file(format!("{base}/f{n:03}"), 0)).collect::<Vec<_>>();
        let (a, b) = (build(&at("a"), &mut memory), build(&at("b"), &mut memory));
        let (seen, ..) = walk(Weave::new(vec![tree(&memory, &a, 0), tree(&memory, &b, 1)]));
        assert_eq!(seen.len(), 600);
        // Seen from their own directories they are the same.
        let part = |root: &Root, base: &str, number| Tree {
            from: path(base),
            strip: path(&format!("srv/{base}")),
            ..tree(&memory, root, number)
        };
        let (seen, ..) = walk(Weave::new(vec![part(&a, "a", 0), part(&b, "b", 1)]));
        assert_eq!(seen.len(), 300);
        assert!(seen.values().all(|versions| versions.len() == 1 && versions[0].1 == [0, 1]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn any_trees_come_out_as_each_of_them_is(
            all in crate::pack::node::tests::entries(300),
            keep in prop::collection::vec(prop::collection::vec(0u8..8, 300), 1..4),
        ) {
            let mut memory = Memory::default();
            let (mut roots, mut expected) = (Vec::new(), Seen::new());
            for (number, choices) in keep.iter().enumerate() {
                let mut own = Vec::new();
                for (entry, choice) in all.iter().zip(choices) {
                    let mut entry = entry.clone();
                    match choice {
                        0 => continue,
                        1 => entry.mode ^= 1,
                        _ => {}
                    }
                    let shown = [b"srv/", entry.path.as_bytes()].concat();
                    let seen = Entry { path: TreePath::from_bytes(shown.clone()).unwrap(), ..entry.clone() };
                    let versions = expected.entry(shown).or_default();
                    match versions.iter_mut().find(|(known, _)| *known == seen) {
                        Some((_, of)) => of.push(number),
                        None => versions.push((seen, vec![number])),
                    }
                    own.push(entry);
                }
                if !own.is_empty() {
                    roots.push((build(&own, &mut memory), number));
                }
            }
            expected.values_mut().for_each(|versions| versions.sort_by(|a, b| a.1.cmp(&b.1)));
            let trees = roots.iter().map(|(root, number)| tree(&memory, root, *number)).collect();
            let (seen, damaged, _) = walk(Weave::new(trees));
            prop_assert_eq!(damaged, 0);
            prop_assert_eq!(seen, expected);
        }
    }
}
