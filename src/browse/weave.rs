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
        let bytes = self.trees[tree].nodes.tree_node(&child.id)?;
        if level > LEVELS_MAX {
            return Ok(ControlFlow::Break(Malformed("a tree is too deep")));
        }
        if level == 0 {
            let entries = match decode_leaf(&bytes, &child.base()) {
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
        let children = match decode_inner(&bytes, level, &child.base()) {
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
