use super::*;
use crate::names::{RepositoryId, WriterId};
use crate::pack::entry::{Content, Cut, Entry, Extent, Kind, Timestamp};
use crate::pack::node::{encode_inner, encode_leaf, encode_leaf_rows, tests as nodes};
use crate::pack::tree::{NodeSink, Origin, Root, TreeBuilder, TreeReader};
use crate::seal::key::{AdminKey, IdKeys, Secret};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

fn ids() -> IdKeys {
    AdminKey::from_root(RepositoryId([1; 16]), Secret::new([1; 32])).own_writer().group().ids(WriterId([1; 8]))
}

#[derive(Default)]
struct Memory {
    nodes: HashMap<ChunkId, Arc<Vec<u8>>>,
    /// What was put and not there.
    new: Vec<ChunkId>,
    has_patch: bool,
}

impl Memory {
    fn put(&mut self, plaintext: Vec<u8>) -> ChunkId {
        let id = ids().tree(&plaintext);
        if self.nodes.insert(id, Arc::new(plaintext)).is_none() {
            self.new.push(id);
        }
        id
    }

    fn new_bytes(&self) -> usize {
        self.new.iter().map(|id| self.nodes[id].len()).sum()
    }

    fn patches(&self) -> usize {
        self.new.iter().filter(|id| base_of(&self.nodes[id]).is_some()).count()
    }
}

impl NodeSink for Memory {
    type Error = NodeError;
    fn put_tree_node(&mut self, plaintext: Vec<u8>) -> Result<ChunkId, NodeError> {
        Ok(self.put(plaintext))
    }

    fn has_tree_node(&mut self, plaintext: &[u8]) -> Result<bool, NodeError> {
        Ok(self.nodes.contains_key(&ids().tree(plaintext)))
    }

    fn old_tree_node(&mut self, id: &ChunkId) -> Result<Option<Arc<Vec<u8>>>, NodeError> {
        Ok(self.nodes.get(id).cloned())
    }

    fn has_patch(&mut self) {
        self.has_patch = true;
    }
}

impl NodeSource for Memory {
    type Error = NodeError;
    fn tree_node(&self, id: &ChunkId) -> Result<Arc<Vec<u8>>, NodeError> {
        self.nodes.get(id).cloned().ok_or(NodeError { id: *id, cause: Malformed("it is not there") })
    }
}

fn file(path: String, secs: i64) -> Entry {
    let id = *blake3::hash(format!("{path} {secs}").as_bytes()).as_bytes();
    let extents = vec![Extent::Data { id: ChunkId(id), len: 900 }];
    Entry {
        path: TreePath::from_bytes(path.into_bytes()).unwrap(),
        kind: Kind::File { size: 900, content: Content::Extents(extents), cut: Cut::Content },
        mode: 0o644,
        uid: 0,
        gid: 0,
        user: None,
        group: None,
        mtime: Timestamp { secs, nanos: secs as u32 },
        ctime: Timestamp { secs, nanos: secs as u32 },
        inode: 7,
        link_group: None,
        xattrs: vec![],
    }
}

/// The tree of `entries`, built beside the one before.
fn build(entries: &[Entry], old: Option<&Root>, memory: &mut Memory) -> Root {
    memory.new.clear();
    memory.has_patch = false;
    let mut before = BTreeMap::new();
    if let Some(old) = old {
        let mut reader = TreeReader::new(memory, old);
        while let Some((entry, origin)) = reader.next_entry().unwrap() {
            before.insert(entry.path.clone(), (entry, origin));
        }
    }
    let ids = ids();
    let mut builder = TreeBuilder::new(&ids);
    for entry in entries {
        let origin = before.get(&entry.path);
        let origin = origin.map(|(old, origin)| Origin { is_same: old == entry, ..origin.clone() });
        builder.push(entry.clone(), origin, memory).unwrap();
    }
    builder.finish(memory).unwrap().unwrap()
}

fn read(root: &Root, memory: &Memory) -> Vec<Entry> {
    let mut reader = TreeReader::new(memory, root);
    std::iter::from_fn(|| reader.next_entry().unwrap().map(|(entry, _)| entry)).collect()
}

/// First paths of all leaves.
fn cuts(root: &Root, memory: &Memory) -> Vec<TreePath> {
    let (mut reader, mut cuts) = (TreeReader::new(memory, root), Vec::new());
    while reader.next_leaf().unwrap() {
        cuts.push(reader.leaf().unwrap().0.first().clone());
    }
    cuts
}

fn encoded(entries: &[Entry]) -> (Vec<u8>, ChunkId) {
    let bytes = encode_leaf(entries, 0);
    let id = ids().tree(&bytes);
    (bytes, id)
}

#[test]
fn days_of_scattered_edits_store_patches_and_now_and_then_a_leaf() {
    let mut entries: Vec<Entry> = (0..10_000).map(|n| file(format!("d{:02}/f{n:06}", n / 500), 0)).collect();
    let mut memory = Memory::default();
    let mut root = build(&entries, None, &mut memory);
    let whole = memory.new_bytes();
    assert!(!memory.has_patch);
    let mut grown = Vec::new();
    for day in 1..=30i64 {
        for n in 0..200 {
            let at = (n * 7919 + day as usize * 4801) % entries.len();
            entries[at] = file(String::from_utf8(entries[at].path.as_bytes().to_vec()).unwrap(), day);
        }
        root = build(&entries, Some(&root), &mut memory);
        assert!(memory.has_patch);
        assert_eq!(read(&root, &memory), entries);
        grown.push((memory.new_bytes(), memory.patches()));
        // The next run with no change stores nothing, and still says that there are patches.
        let again = build(&entries, Some(&root), &mut memory);
        assert_eq!((again, memory.new.len(), memory.has_patch), (root.clone(), 0, true));
    }
    let sum: usize = grown.iter().map(|(bytes, _)| bytes).sum();
    assert!(grown[0].0 < whole / 20, "{} of {whole}", grown[0].0);
    assert!(sum < whole * 30 / 4, "{sum} bytes in 30 days, of {whole}");
    assert!(memory.nodes.values().filter(|node| node[0] == 0).count() > 80, "no full leaf was ever stored again");
}

#[test]
fn what_changes_in_every_entry_is_stored_and_not_what_stays() {
    let mut entries: Vec<Entry> = (0..3_000).map(|n| file(format!("d/f{n:06}"), 0)).collect();
    let mut memory = Memory::default();
    let mut root = build(&entries, None, &mut memory);
    let whole = memory.new_bytes();
    for day in 1..4u32 {
        entries.iter_mut().for_each(|entry| entry.mtime = Timestamp { secs: i64::from(day) << 25, nanos: day });
        root = build(&entries, Some(&root), &mut memory);
        assert!(memory.new_bytes() < whole / 2, "day {day}: {} of {whole}", memory.new_bytes());
        assert_eq!(read(&root, &memory), entries);
    }
}

#[test]
fn a_leaf_that_is_stored_whole_is_used_whole() {
    let old: Vec<Entry> = (0..100).map(|n| file(format!("f{n:06}"), 0)).collect();
    let mut new = old.clone();
    new[50].mode = 0o600;
    let mut memory = Memory::default();
    let first = build(&old, None, &mut memory);
    let second = build(&new, None, &mut memory);
    assert_eq!(build(&new, Some(&first), &mut memory), second);
    assert!(memory.new.is_empty() && !memory.has_patch);
}

#[test]
fn where_the_base_is_gone_the_leaf_is_stored_whole() {
    struct Lossy(Memory);
    impl NodeSink for Lossy {
        type Error = NodeError;
        fn put_tree_node(&mut self, plaintext: Vec<u8>) -> Result<ChunkId, NodeError> {
            Ok(self.0.put(plaintext))
        }
    }
    let mut entries: Vec<Entry> = (0..100).map(|n| file(format!("f{n:06}"), 0)).collect();
    let mut memory = Memory::default();
    let root = build(&entries, None, &mut memory);
    let mut reader = TreeReader::new(&memory, &root);
    let mut old: Vec<(Entry, Origin)> = std::iter::from_fn(|| reader.next_entry().unwrap()).collect();
    entries[50].mode = 0o600;
    old[50].0.mode = 0o600;
    old[50].1.is_same = false;
    let ids = ids();
    let (mut builder, mut sink) = (TreeBuilder::new(&ids), Lossy(Memory::default()));
    for (entry, origin) in old {
        builder.push(entry, Some(origin), &mut sink).unwrap();
    }
    let whole = builder.finish(&mut sink).unwrap().unwrap();
    assert_eq!((read(&whole, &sink.0), sink.0.patches()), (entries, 0));
}

/// A patch of these edits on that base, behind what a reader says of it.
fn refused(memory: &mut Memory, base: ChunkId, edits: &[u8]) -> String {
    let id = memory.put([&[PATCH], &base.0[..], edits].concat());
    match read_leaf(memory, &id) {
        Ok(_) => panic!("it was read"),
        Err(error) => {
            assert!(error.id == id || error.id == base);
            error.cause.to_string()
        }
    }
}

#[test]
fn what_is_no_patch_on_a_full_leaf_is_refused_by_name() {
    let mut memory = Memory::default();
    let old: Vec<Entry> = (0..100).map(|n| file(format!("f{n:06}"), 0)).collect();
    let mut new = old.clone();
    new[50].mode = 0o600;
    let (bytes, base) = encoded(&old);
    memory.put(bytes.clone());
    let patch = make(&base, &bytes, &encode_leaf_rows(&new, 0)).unwrap();
    let good = memory.put(patch.clone());
    assert_eq!(**read_leaf(&memory, &good).unwrap().bytes, encode_leaf(&new, 0));
    let edits = &patch[33..];

    assert_eq!(refused(&mut memory, good, edits), "a patch is on a patch");
    let child = crate::pack::node::Child { first: TreePath::root(), base_len: 0, id: base, entries: 1, bytes: 0 };
    let inner = memory.put(encode_inner(1, &[child], 0));
    assert_eq!(refused(&mut memory, inner, edits), "a patch is on no leaf");
    let empty = memory.put(vec![]);
    assert_eq!(refused(&mut memory, empty, edits), "a patch is on no leaf");
    assert_eq!(refused(&mut memory, ChunkId([9; 32]), edits), "it is not there");

    // Terabytes, by its word; and by copying one thing again and again, which cannot be said.
    let mut bomb = Vec::new();
    put_varint(&mut bomb, 1 << 42);
    assert_eq!(refused(&mut memory, base, &bomb), "a patch makes more than it and its base are");
    let mut twice = Vec::new();
    put_varint(&mut twice, bytes.len() as u64 + 3);
    (0..2).for_each(|_| {
        twice.extend_from_slice(&[0, 0]);
        put_varint(&mut twice, bytes.len() as u64);
    });
    assert_eq!(refused(&mut memory, base, &twice), "it ends too early");
    for end in 0..edits.len() {
        refused(&mut memory, base, &edits[..end]);
    }
    assert_eq!(split(&patch[..20]).err(), Some(Malformed("it ends too early")));
    refused(&mut memory, base, &[edits, b"\x03new\0\0"].concat());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_tree_of_any_generation_comes_back(
        all in nodes::entries(400),
        days in prop::collection::vec(prop::collection::vec((any::<prop::sample::Index>(), 0u8..5), 0..40), 1..8),
    ) {
        let mut there = vec![true; all.len()];
        let mut entries = all.clone();
        let mut memory = Memory::default();
        let mut root = build(&all, None, &mut memory);
        for (day, edits) in days.into_iter().enumerate() {
            for (at, edit) in edits {
                let at = at.index(all.len());
                let entry = &mut entries[at];
                match edit {
                    0 => there[at] = false,
                    1 => there[at] = true,
                    2 => entry.mode ^= 1,
                    3 => entry.mtime = Timestamp { secs: day as i64, nanos: 1 },
                    _ => entry.kind = Kind::Symlink { target: vec![b'x'; 1 + at % 90] },
                }
            }
            there[0] = true;
            let now: Vec<Entry> = entries.iter().zip(&there).filter(|(_, there)| **there).map(|(e, _)| e.clone()).collect();
            let next = build(&now, Some(&root), &mut memory);
            prop_assert_eq!(read(&next, &memory), now.clone());
            for id in &memory.new {
                if let Some(base) = base_of(&memory.nodes[id]) {
                    prop_assert_eq!(memory.nodes[&base][0], 0);
                }
            }
            // What is reused moves no cut, and the same is made again.
            let mut fresh = Memory::default();
            let whole = build(&now, None, &mut fresh);
            prop_assert_eq!(cuts(&next, &memory), cuts(&whole, &fresh));
            prop_assert_eq!((next.entries, next.bytes, &next.base), (whole.entries, whole.bytes, &whole.base));
            prop_assert_eq!(build(&now, Some(&next), &mut memory), next.clone());
            root = next;
        }
    }

    #[test]
    fn any_two_leaves_make_a_patch_that_leads_from_one_to_the_other(a in nodes::entries(30), b in nodes::entries(30)) {
        let (old, id) = encoded(&a);
        let new = encode_leaf_rows(&b, 0);
        let patch = make(&id, &old, &new).unwrap();
        prop_assert_eq!(apply(&old, &patch[33..]).unwrap(), new.bytes);
    }

    #[test]
    fn no_bytes_panic_a_patch(base in prop::collection::vec(any::<u8>(), 0..50), edits in prop::collection::vec(0u8..20, 0..50)) {
        let base = [&[0], &base[..]].concat();
        if let Ok(made) = apply(&base, &edits) {
            prop_assert!(made.len() <= base.len() + edits.len());
        }
    }
}
