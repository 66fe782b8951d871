//! Trees: entries in order become nodes, nodes become entries again (`FORMAT.md`, section 8).
//!
//! Owns where nodes end, what is reused, which leaves are stored as patches (`patch` makes them), and the walk. Refuses stores: nodes go and come
//! through `NodeSink` and `NodeSource`. Memory: one open node for each level while building, one decoded node for each level while reading, whatever the
//! number of entries.

use std::sync::Arc;

use crate::names::{ChunkId, TreePath};
use crate::pack::entry::Entry;
use crate::pack::leaf::Leaf;
use crate::pack::node::{Child, Encoded, common_base_len, decode_inner, encode_inner, encode_leaf_rows};
use crate::pack::patch::{self, read_leaf};
use crate::pack::wire::Malformed;
use crate::seal::key::IdKeys;

const LEAF_ENTRIES_MIN: usize = 64;
const LEAF_ENTRIES_MAX: usize = 1024;
const LEAF_BYTES: usize = 512 << 10;
const LEAF_CUT: u32 = u32::MAX / 192;
const INNER_CHILDREN_MIN: usize = 16;
const INNER_CHILDREN_MAX: usize = 512;
const INNER_CUT: u32 = u32::MAX / 96;
/// 16^LEVELS_MAX children would be more entries than can exist.
pub const LEVELS_MAX: u8 = 16;

/// Where finished nodes go.
pub trait NodeSink {
    type Error;
    /// Stores a tree node, or finds that it is stored, and names it.
    fn put_tree_node(&mut self, plaintext: Vec<u8>) -> Result<ChunkId, Self::Error>;

    /// Whether the very node is stored already.
    fn has_tree_node(&mut self, plaintext: &[u8]) -> Result<bool, Self::Error> {
        let _ = plaintext;
        Ok(false)
    }

    /// A node of an older tree, to store a leaf as a patch on it; none unless it is certain to be there as long as what is put here.
    fn old_tree_node(&mut self, id: &ChunkId) -> Result<Option<Arc<Vec<u8>>>, Self::Error> {
        let _ = id;
        Ok(None)
    }

    /// The tree has a leaf that is a patch, stored now or before.
    fn has_patch(&mut self) {}
}

/// Where nodes come from: bytes that were checked against their id.
pub trait NodeSource {
    type Error: From<NodeError>;
    fn tree_node(&self, id: &ChunkId) -> Result<Arc<Vec<u8>>, Self::Error>;

    /// Says which nodes will be asked for soon, one after the other.
    fn ahead(&self, nodes: &mut dyn Iterator<Item = &ChunkId>) {
        let _ = nodes;
    }
}

/// A node whose bytes are those of its id and yet make no sense.
#[derive(Debug, thiserror::Error)]
#[error("tree node {id} makes no sense")]
pub struct NodeError {
    pub id: ChunkId,
    #[source]
    pub cause: Malformed,
}

/// The root of a tree, as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub id: ChunkId,
    /// 0: the root is a leaf.
    pub level: u8,
    pub base: TreePath,
    pub entries: u64,
    /// Sum of file sizes.
    pub bytes: u64,
}

/// A leaf that was read: what a later tree needs to use it again.
#[derive(Debug)]
pub struct LeafRef {
    child: Child,
    last: TreePath,
    is_patch: bool,
}

/// The entries of a leaf that was read.
pub type LeafEntries = Leaf<Arc<Vec<u8>>>;

impl LeafRef {
    pub fn first(&self) -> &TreePath {
        &self.child.first
    }

    /// The last of its paths.
    pub fn last(&self) -> &TreePath {
        &self.last
    }

    pub fn entries(&self) -> u64 {
        self.child.entries
    }

    /// Sum of file sizes.
    pub fn bytes(&self) -> u64 {
        self.child.bytes
    }
}

/// Where the entry of a path stands in an older tree: its leaf, and its place there.
#[derive(Clone, Debug)]
pub struct Origin {
    pub leaf: Arc<LeafRef>,
    pub place: usize,
    /// Whether it is the very same entry.
    pub is_same: bool,
}

/// Builds a tree from entries in order.
pub struct TreeBuilder<'a> {
    ids: &'a IdKeys,
    leaf: Vec<Entry>,
    leaf_bytes: usize,
    /// The old leaf whose first entries `leaf` is so far, unchanged.
    origin: Option<Arc<LeafRef>>,
    /// The old leaves that the paths of `leaf` stood in, and how many of them.
    old: Vec<(Arc<LeafRef>, usize)>,
    levels: Vec<Vec<Child>>,
    /// Of the entry before the first of `leaf`.
    last_path: Option<TreePath>,
}

fn last_two_parts(path: &TreePath) -> &[u8] {
    let bytes = path.as_bytes();
    let mut slashes = bytes.iter().enumerate().rev().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    slashes.nth(1).map_or(bytes, |at| &bytes[at + 1..])
}

fn weight(entry: &Entry) -> usize {
    use crate::pack::entry::{Content, Kind};
    let content = match &entry.kind {
        Kind::File { content: Content::Extents(extents), .. } => extents.len() * 36,
        Kind::Symlink { target } => target.len(),
        _ => 0,
    };
    64 + entry.path.as_bytes().len()
        + content
        + entry.xattrs.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>()
}

impl<'a> TreeBuilder<'a> {
    pub fn new(ids: &'a IdKeys) -> Self {
        let (leaf, old, levels) = (Vec::new(), Vec::new(), Vec::new());
        Self { ids, leaf, leaf_bytes: 0, origin: None, old, levels, last_path: None }
    }

    /// Adds the next entry; paths must grow. `origin` says where its path stands in an older tree.
    pub fn push<S: NodeSink>(&mut self, entry: Entry, origin: Option<Origin>, sink: &mut S) -> Result<(), S::Error> {
        let last = self.leaf.last().map(|entry| &entry.path).or(self.last_path.as_ref());
        assert!(last.is_none_or(|last| *last < entry.path), "entries come in order");
        let place = self.leaf.len();
        if let Some(origin) = &origin {
            match self.old.last_mut() {
                Some((leaf, count)) if Arc::ptr_eq(leaf, &origin.leaf) => *count += 1,
                _ => self.old.push((origin.leaf.clone(), 1)),
            }
        }
        self.origin = match (origin.filter(|origin| origin.is_same), self.origin.take()) {
            (Some(new), _) if place == 0 && new.place == 0 => Some(new.leaf),
            (Some(new), Some(old)) if new.place == place && Arc::ptr_eq(&new.leaf, &old) => Some(old),
            _ => None,
        };
        self.leaf_bytes += weight(&entry);
        let cut = self.leaf.len() + 1 >= LEAF_ENTRIES_MIN && self.ids.cut(last_two_parts(&entry.path)) < LEAF_CUT;
        self.leaf.push(entry);
        if cut || self.leaf.len() == LEAF_ENTRIES_MAX || self.leaf_bytes >= LEAF_BYTES {
            self.close_leaf(sink)?;
        }
        Ok(())
    }

    /// Adds all entries of an older tree's leaf, without a look at them. False, and nothing is added, where a leaf of just these entries may not
    /// be what their pushes would make: a tree is the same whatever was reused.
    pub fn push_leaf<S: NodeSink>(&mut self, leaf: &LeafRef, sink: &mut S) -> Result<bool, S::Error> {
        let entries = leaf.child.entries;
        let ends_itself = entries == LEAF_ENTRIES_MAX as u64
            || (entries >= LEAF_ENTRIES_MIN as u64 && self.ids.cut(last_two_parts(&leaf.last)) < LEAF_CUT);
        if !self.leaf.is_empty() || !ends_itself {
            return Ok(false);
        }
        assert!(self.last_path.as_ref().is_none_or(|before| *before < leaf.child.first), "entries come in order");
        self.last_path = Some(leaf.last.clone());
        if leaf.is_patch {
            sink.has_patch();
        }
        self.add_child(0, leaf.child.clone(), sink)?;
        Ok(true)
    }

    fn close_leaf<S: NodeSink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        let entries = std::mem::take(&mut self.leaf);
        let old = std::mem::take(&mut self.old);
        self.leaf_bytes = 0;
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(()) };
        self.last_path = Some(last.path.clone());
        let reused = self.origin.take().filter(|leaf| leaf.child.entries == entries.len() as u64);
        let child = match reused {
            Some(leaf) => {
                if leaf.is_patch {
                    sink.has_patch();
                }
                leaf.child.clone()
            }
            None => {
                let first = first.path.clone();
                let shared = |len, entry: &Entry| common_base_len(&first.as_bytes()[..len], entry.path.as_bytes());
                let base_len = entries.iter().fold(first.as_bytes().len(), shared);
                // Where most paths stood before, most bytes did.
                let most = old.iter().max_by_key(|(_, count)| *count).filter(|(_, count)| count * 2 >= entries.len());
                let leaf = encode_leaf_rows(&entries, base_len);
                let patch = match most {
                    Some((old, _)) if !sink.has_tree_node(&leaf.bytes)? => patch_on(old, &leaf, sink)?,
                    _ => None,
                };
                if patch.is_some() {
                    sink.has_patch();
                }
                let id = sink.put_tree_node(patch.unwrap_or(leaf.bytes))?;
                let bytes = entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.kind.size()));
                Child { first, base_len, id, entries: entries.len() as u64, bytes }
            }
        };
        self.add_child(0, child, sink)
    }

    fn add_child<S: NodeSink>(&mut self, level: usize, child: Child, sink: &mut S) -> Result<(), S::Error> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let children = &mut self.levels[level];
        // An inner node ends before a child that asks for it, so that the last node of a level is never empty.
        let cut = children.len() >= INNER_CHILDREN_MIN && self.ids.cut(last_two_parts(&child.first)) < INNER_CUT;
        if cut || children.len() == INNER_CHILDREN_MAX {
            let full = std::mem::take(children);
            let parent = self.close_inner(level, full, sink)?;
            self.add_child(level + 1, parent, sink)?;
        }
        self.levels[level].push(child);
        Ok(())
    }

    fn close_inner<S: NodeSink>(&self, level: usize, children: Vec<Child>, sink: &mut S) -> Result<Child, S::Error> {
        let base_len = shared_base_len(&children);
        let id = sink.put_tree_node(encode_inner(level as u8 + 1, &children, base_len))?;
        let entries = children.iter().fold(0u64, |sum, child| sum.saturating_add(child.entries));
        let bytes = children.iter().fold(0u64, |sum, child| sum.saturating_add(child.bytes));
        let first = children.into_iter().next().map(|child| child.first).unwrap_or_default();
        Ok(Child { first, base_len, id, entries, bytes })
    }

    /// Ends the tree; none if no entry was pushed.
    pub fn finish<S: NodeSink>(mut self, sink: &mut S) -> Result<Option<Root>, S::Error> {
        self.close_leaf(sink)?;
        let mut level = 0;
        while level < self.levels.len() {
            let children = std::mem::take(&mut self.levels[level]);
            let top = level + 1 == self.levels.len();
            match <[Child; 1]>::try_from(children) {
                Ok([only]) if top => {
                    let base = only.base();
                    let Child { id, entries, bytes, .. } = only;
                    return Ok(Some(Root { id, level: level as u8, base, entries, bytes }));
                }
                Ok([only]) => {
                    let parent = self.close_inner(level, vec![only], sink)?;
                    self.add_child(level + 1, parent, sink)?;
                }
                Err(children) => {
                    let parent = self.close_inner(level, children, sink)?;
                    self.add_child(level + 1, parent, sink)?;
                }
            }
            level += 1;
        }
        Ok(None)
    }
}

/// `leaf` as a patch on what an old leaf is or is itself a patch on; none where it cannot be had or a full leaf is better.
fn patch_on<S: NodeSink>(old: &LeafRef, leaf: &Encoded<'_>, sink: &mut S) -> Result<Option<Vec<u8>>, S::Error> {
    let Some(node) = sink.old_tree_node(&old.child.id)? else { return Ok(None) };
    let (id, base, before) = match patch::base_of(&node) {
        None => (old.child.id, node, None),
        Some(id) => match sink.old_tree_node(&id)? {
            Some(base) => (id, base, Some(node.len())),
            None => return Ok(None),
        },
    };
    let patch = patch::make(&id, &base, leaf);
    Ok(patch.filter(|patch| patch::is_worth(patch.len(), leaf.bytes.len(), before)))
}

/// Length of the directory that all children's bases share; a prefix of the first child's first path.
fn shared_base_len(children: &[Child]) -> usize {
    let Some(first) = children.first() else { return 0 };
    let own = &first.first.as_bytes()[..first.base_len];
    children
        .iter()
        .fold(own.len(), |len, child| common_base_len(&own[..len], &child.first.as_bytes()[..child.base_len]))
}

/// Reads a tree in order, from any path on.
pub struct TreeReader<'a, S: NodeSource> {
    source: &'a S,
    /// Inner nodes from the root down, each with the position of its next child; the level of its children.
    stack: Vec<(Arc<Vec<Child>>, usize, u8)>,
    leaf: Option<(Arc<LeafRef>, LeafEntries)>,
    /// Of the entry that comes next.
    place: usize,
    /// The last path of the leaf that was read last: a tree out of order ends here.
    last: Option<TreePath>,
    /// It looks for one place yet: what lies beside the way is not wanted.
    seeking: bool,
}

impl<'a, S: NodeSource> TreeReader<'a, S> {
    /// A reader of all entries of `root`.
    pub fn new(source: &'a S, root: &Root) -> Self {
        let child = Child {
            first: root.base.clone(),
            base_len: root.base.as_bytes().len(),
            id: root.id,
            entries: root.entries,
            bytes: root.bytes,
        };
        let stack = vec![(Arc::new(vec![child]), 0, root.level)];
        Self { source, stack, leaf: None, place: 0, last: None, seeking: false }
    }

    /// A reader of one leaf.
    pub fn of_leaf(source: &'a S, leaf: &LeafRef) -> Self {
        let stack = vec![(Arc::new(vec![leaf.child.clone()]), 0, 0)];
        Self { source, stack, leaf: None, place: 0, last: None, seeking: false }
    }

    /// A reader that begins at the first entry at or after `path`.
    pub fn starting_at(source: &'a S, root: &Root, path: &TreePath) -> Result<Self, S::Error> {
        let mut reader = Self { seeking: true, ..Self::new(source, root) };
        while let Some((children, next, _)) = reader.stack.last_mut() {
            // The last child that begins at or before the path may hold it.
            let after = children.partition_point(|child| child.first <= *path);
            *next = after.saturating_sub(1);
            if !reader.descend()? {
                break;
            }
            if let Some((_, leaf)) = &reader.leaf {
                reader.place = leaf.find(path.as_bytes()).unwrap_or_else(|place| place);
                break;
            }
        }
        reader.seeking = false;
        Ok(reader)
    }

    /// Goes one level down, to the next child. False at the end.
    fn descend(&mut self) -> Result<bool, S::Error> {
        self.leaf = None;
        loop {
            let Some((children, next, level)) = self.stack.last_mut() else { return Ok(false) };
            let Some(child) = children.get(*next).cloned() else {
                self.stack.pop();
                continue;
            };
            *next += 1;
            let level = *level;
            let id = child.id;
            let wrong = |cause| S::Error::from(NodeError { id, cause });
            if level == 0 {
                let stored = read_leaf(self.source, &id)?;
                let leaf = Leaf::parse(stored.bytes, child.base()).map_err(wrong)?;
                if leaf.is_empty() {
                    return Err(wrong(Malformed("a leaf is empty")));
                }
                let (first, last) = (leaf.path(0).map_err(wrong)?, leaf.path(leaf.len() - 1).map_err(wrong)?);
                if self.last.as_ref().is_some_and(|before| *before >= first) {
                    return Err(wrong(Malformed("leaves are out of order")));
                }
                self.last = Some(last.clone());
                // What the parent claims of a leaf is not believed: another tree may use it again.
                let child = Child { first, entries: leaf.len() as u64, bytes: leaf.size_sum(), ..child };
                let is_patch = stored.base.is_some();
                self.leaf = Some((Arc::new(LeafRef { child, last, is_patch }), leaf));
                self.place = 0;
            } else {
                if level > LEVELS_MAX {
                    return Err(wrong(Malformed("a tree is too deep")));
                }
                let bytes = self.source.tree_node(&id)?;
                let children = decode_inner(&bytes, level, &child.base()).map_err(wrong)?;
                if !self.seeking {
                    self.source.ahead(&mut children.iter().map(|child| &child.id));
                }
                self.stack.push((Arc::new(children), 0, level - 1));
            }
            return Ok(true);
        }
    }

    /// Leaves the leaf at hand for the next one. False at the end: there is none then.
    pub fn next_leaf(&mut self) -> Result<bool, S::Error> {
        while self.descend()? {
            if self.leaf.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The leaf at hand.
    pub fn leaf(&self) -> Option<(&Arc<LeafRef>, &LeafEntries)> {
        self.leaf.as_ref().map(|(leaf, entries)| (leaf, entries))
    }

    /// The next entry, and where it stands.
    pub fn next_entry(&mut self) -> Result<Option<(Entry, Origin)>, S::Error> {
        loop {
            if let Some((leaf, entries)) = &self.leaf
                && self.place < entries.len()
            {
                let wrong = |cause| S::Error::from(NodeError { id: leaf.child.id, cause });
                let entry = entries.entry(self.place).map_err(wrong)?;
                let origin = Origin { leaf: leaf.clone(), place: self.place, is_same: true };
                self.place += 1;
                return Ok(Some((entry, origin)));
            }
            if !self.descend()? {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{RepositoryId, WriterId};
    use crate::pack::entry::{Content, Cut, Kind, Timestamp};
    use crate::seal::key::{AdminKey, Secret};
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn ids() -> IdKeys {
        AdminKey::from_root(RepositoryId([1; 16]), Secret::new([1; 32])).own_writer().group().ids(WriterId([1; 8]))
    }

    #[derive(Default)]
    struct Memory {
        nodes: HashMap<ChunkId, Arc<Vec<u8>>>,
        put: usize,
    }

    impl NodeSink for Memory {
        type Error = NodeError;
        fn put_tree_node(&mut self, plaintext: Vec<u8>) -> Result<ChunkId, NodeError> {
            self.put += 1;
            let id = ids().tree(&plaintext);
            self.nodes.insert(id, Arc::new(plaintext));
            Ok(id)
        }
    }

    impl NodeSource for Memory {
        type Error = NodeError;
        fn tree_node(&self, id: &ChunkId) -> Result<Arc<Vec<u8>>, NodeError> {
            Ok(self.nodes[id].clone())
        }
    }

    fn file(path: String, mtime: i64) -> Entry {
        Entry {
            path: TreePath::from_bytes(path.into_bytes()).unwrap(),
            kind: Kind::File { size: 0, content: Content::Extents(vec![]), cut: Cut::Content },
            mode: 0o644,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: Timestamp { secs: mtime, nanos: 0 },
            ctime: Timestamp::default(),
            inode: 0,
            link_group: None,
            xattrs: vec![],
        }
    }

    fn many(count: usize) -> Vec<Entry> {
        let mut entries: Vec<Entry> = (0..count).map(|n| file(format!("d{:03}/f{n:06}", n % 97), 0)).collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries
    }

    fn build(entries: &[Entry], memory: &mut Memory) -> Root {
        let ids = ids();
        let mut builder = TreeBuilder::new(&ids);
        for entry in entries {
            builder.push(entry.clone(), None, memory).unwrap();
        }
        builder.finish(memory).unwrap().unwrap()
    }

    fn read(root: &Root, memory: &Memory) -> Vec<Entry> {
        let mut reader = TreeReader::new(memory, root);
        std::iter::from_fn(|| reader.next_entry().unwrap().map(|(entry, _)| entry)).collect()
    }

    #[test]
    fn a_large_tree_comes_back_in_order_and_its_sums_fit() {
        let entries = many(40_000);
        let mut memory = Memory::default();
        let root = build(&entries, &mut memory);
        assert!(root.level >= 2);
        assert_eq!(root.entries, 40_000);
        assert_eq!(read(&root, &memory), entries);
    }

    #[test]
    fn reading_starts_anywhere() {
        let entries = many(20_000);
        let mut memory = Memory::default();
        let root = build(&entries, &mut memory);
        for at in (0..20_000).step_by(1231) {
            let mut reader = TreeReader::starting_at(&memory, &root, &entries[at].path).unwrap();
            assert_eq!(reader.next_entry().unwrap().unwrap().0, entries[at]);
        }
        let before = TreePath::from_bytes(b"d050".to_vec()).unwrap();
        let mut reader = TreeReader::starting_at(&memory, &root, &before).unwrap();
        let first = entries.iter().find(|entry| entry.path > before).unwrap();
        assert_eq!(&reader.next_entry().unwrap().unwrap().0, first);
        let after = TreePath::from_bytes(b"z".to_vec()).unwrap();
        assert!(TreeReader::starting_at(&memory, &root, &after).unwrap().next_entry().unwrap().is_none());
    }

    #[test]
    fn whole_leaves_make_the_tree_that_their_entries_would() {
        let mut entries = many(20_000);
        let mut memory = Memory::default();
        let old = build(&entries, &mut memory);
        let ids = ids();
        // In the midst of a leaf, and behind the last one, which did not end by itself.
        for path in ["d013/f000000-", "d050/", "e"] {
            let path = format!("{path}new");
            let at = entries.partition_point(|entry| entry.path.cmp_bytes(path.as_bytes()).is_lt());
            entries.insert(at, file(path, 1));
        }
        let mut builder = TreeBuilder::new(&ids);
        let mut new = entries.iter().filter(|entry| entry.mtime.secs == 1).peekable();
        let (mut whole, mut leaves) = (0, TreeReader::new(&memory, &old));
        let mut sink = Memory::default();
        while leaves.next_leaf().unwrap() {
            let (leaf, old) = leaves.leaf().unwrap();
            let is_alone = new.peek().is_none_or(|entry| entry.path > *leaf.last());
            if is_alone && builder.push_leaf(leaf, &mut sink).unwrap() {
                whole += 1;
                continue;
            }
            for place in 0..old.len() {
                let entry = old.entry(place).unwrap();
                while let Some(before) = new.next_if(|new| new.path < entry.path) {
                    builder.push(before.clone(), None, &mut sink).unwrap();
                }
                let origin = Origin { leaf: leaf.clone(), place, is_same: true };
                builder.push(entry, Some(origin), &mut sink).unwrap();
            }
        }
        for entry in new {
            builder.push(entry.clone(), None, &mut sink).unwrap();
        }
        let root = builder.finish(&mut sink).unwrap().unwrap();
        assert_eq!(root, build(&entries, &mut memory));
        assert!(whole > 40, "{whole}");
        assert!(sink.put < 12, "{}", sink.put);
    }

    #[test]
    fn unchanged_leaves_are_used_again_and_a_full_build_agrees() {
        let mut entries = many(20_000);
        let mut memory = Memory::default();
        let old = build(&entries, &mut memory);
        entries[7_000].mtime.secs = 9;
        entries.remove(15_000);
        let ids = ids();
        memory.put = 0;
        let mut new_nodes = Memory::default();
        let mut builder = TreeBuilder::new(&ids);
        let mut old_reader = TreeReader::new(&memory, &old);
        let mut previous = old_reader.next_entry().unwrap();
        for entry in &entries {
            while previous.as_ref().is_some_and(|(old, _)| old.path < entry.path) {
                previous = old_reader.next_entry().unwrap();
            }
            let origin = previous.as_ref().filter(|(old, _)| old == entry).map(|(_, origin)| origin.clone());
            builder.push(entry.clone(), origin, &mut new_nodes).unwrap();
        }
        let incremental = builder.finish(&mut new_nodes).unwrap().unwrap();
        assert!(new_nodes.put < 8, "{} nodes written for two changes", new_nodes.put);
        let mut fresh = Memory::default();
        assert_eq!(build(&entries, &mut fresh), incremental);
        memory.nodes.extend(new_nodes.nodes);
        assert_eq!(read(&incremental, &memory), entries);
    }

    #[test]
    fn a_tree_that_repeats_itself_is_refused() {
        let mut memory = Memory::default();
        let once = build(&many(10), &mut memory);
        let child = |first: &str| Child {
            first: TreePath::from_bytes(first.into()).unwrap(),
            base_len: 0,
            id: once.id,
            entries: 10,
            bytes: 0,
        };
        let id = memory.put_tree_node(encode_inner(1, &[child("d"), child("e")], 0)).unwrap();
        let root = Root { id, level: 1, base: TreePath::root(), entries: 20, bytes: 0 };
        let mut reader = TreeReader::new(&memory, &root);
        let read = std::iter::from_fn(|| reader.next_entry().transpose()).take(1000);
        let read: Vec<_> = read.take_while(|entry| entry.is_ok()).collect();
        assert_eq!(read.len(), 10);
    }

    #[test]
    fn long_paths_close_a_leaf() {
        let deep = "x".repeat(100_000);
        let entries: Vec<Entry> = (0..300).map(|n| file(format!("{deep}/f{n:06}"), 0)).collect();
        let mut memory = Memory::default();
        let root = build(&entries, &mut memory);
        assert_eq!(read(&root, &memory), entries);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_tree_comes_back(entries in crate::pack::node::tests::entries(300)) {
            let mut memory = Memory::default();
            let root = build(&entries, &mut memory);
            prop_assert_eq!(read(&root, &memory), entries);
        }
    }
}
