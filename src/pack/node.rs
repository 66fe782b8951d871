//! Nodes of a tree and of a long extent list, as bytes (`FORMAT.md`, section 8).
//!
//! Owns the codec of leaves, inner nodes and list nodes; the reading of a leaf is `leaf`'s. Refuses to decide where one ends (`tree`, `list`) and where it is stored.

use std::collections::HashMap;

use crate::names::{ChunkId, TreePath};
use crate::pack::entry::{Content, Cut, Entry, Extent, Kind};
use crate::pack::leaf::Leaf;
use crate::pack::wire::{Malformed, Reader, put_slice, put_varint, put_zigzag};

/// No path within a source is longer; whoever finds a longer one must not store it, since no reader would take it.
pub const PATH_BYTES_MAX: usize = 1 << 20;
/// Chunks of files are at most 16 MiB.
const CHUNK_BYTES_MAX: u64 = 16 << 20;
/// More than any leaf or inner node holds (1024 and 512; the directories above a source: 2048).
pub(super) const NODE_ENTRIES_MAX: usize = 4096;

/// A child as its parent lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The first path beneath, whole.
    pub first: TreePath,
    /// The directory that all paths beneath share: the first `base_len` bytes of `first`.
    pub base_len: usize,
    pub id: ChunkId,
    /// Entries beneath.
    pub entries: u64,
    /// Sum of file sizes beneath.
    pub bytes: u64,
}

impl Child {
    pub fn base(&self) -> TreePath {
        prefix(&self.first, self.base_len)
    }
}

fn prefix(path: &TreePath, len: usize) -> TreePath {
    TreePath::from_bytes(path.as_bytes()[..len].to_vec()).unwrap_or_default()
}

/// Length of the longest path that both are, or lie within.
pub fn common_base_len(a: &[u8], b: &[u8]) -> usize {
    let shared = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let ends = |path: &[u8]| shared == path.len() || path[shared] == b'/';
    if ends(a) && ends(b) { shared } else { a[..shared].iter().rposition(|b| *b == b'/').unwrap_or(0) }
}

fn strip(path: &TreePath, base_len: usize) -> &[u8] {
    let bytes = path.as_bytes();
    if base_len == 0 { bytes } else { bytes.get(base_len + 1..).unwrap_or_default() }
}

pub(super) fn rebuild(base: &TreePath, rest: &[u8]) -> Result<TreePath, Malformed> {
    let bytes = match (base.is_root(), rest.is_empty()) {
        (true, _) => rest.to_vec(),
        (false, true) => base.as_bytes().to_vec(),
        (false, false) => [base.as_bytes(), b"/", rest].concat(),
    };
    TreePath::from_bytes(bytes).map_err(|_| Malformed("a path could leave its root"))
}

/// Writes `path` against the one before it.
fn put_front(out: &mut Vec<u8>, before: &[u8], path: &[u8]) {
    let shared = before.iter().zip(path).take_while(|(a, b)| a == b).count();
    put_varint(out, shared as u64);
    put_slice(out, &path[shared..]);
}

/// How many bytes a path shares with the one before it, which has `before` of them, and its others.
pub(super) fn get_front<'b>(reader: &mut Reader<'b>, before: usize) -> Result<(usize, &'b [u8]), Malformed> {
    let shared = usize::try_from(reader.varint()?).map_err(|_| Malformed("a path is too long"))?;
    if shared > before {
        return Err(Malformed("a path shares more than there was"));
    }
    let rest = reader.slice()?;
    if shared + rest.len() > PATH_BYTES_MAX {
        return Err(Malformed("a path is too long"));
    }
    Ok((shared, rest))
}

/// A table of numeric ids with their names, in order of first use.
#[derive(Default)]
struct Owners<'a> {
    places: HashMap<(u32, Option<&'a [u8]>), u64>,
    rows: Vec<(u32, Option<&'a [u8]>)>,
}

impl<'a> Owners<'a> {
    fn place(&mut self, id: u32, name: Option<&'a [u8]>) -> u64 {
        if let Some(last) = self.rows.last()
            && *last == (id, name)
        {
            return self.rows.len() as u64 - 1;
        }
        *self.places.entry((id, name)).or_insert_with(|| {
            self.rows.push((id, name));
            self.rows.len() as u64 - 1
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.rows.len() as u64);
        for (id, name) in &self.rows {
            put_varint(out, u64::from(*id));
            match name {
                None => put_varint(out, 0),
                Some(name) => {
                    put_varint(out, name.len() as u64 + 1);
                    out.extend_from_slice(name);
                }
            }
        }
    }
}

pub(super) const LINK_GROUP: u8 = 16;
pub(super) const XATTRS: u8 = 32;
pub(super) const NODES: u8 = 0x80;

/// A leaf, and its entries: the path of each relative to the base, and where it begins in the bytes.
pub(super) struct Encoded<'e> {
    pub bytes: Vec<u8>,
    pub rows: Vec<(&'e [u8], usize)>,
}

/// A leaf: its entries, paths relative to their common base.
pub fn encode_leaf(entries: &[Entry], base_len: usize) -> Vec<u8> {
    encode_leaf_rows(entries, base_len).bytes
}

pub(super) fn encode_leaf_rows(entries: &[Entry], base_len: usize) -> Encoded<'_> {
    let (mut users, mut groups) = (Owners::default(), Owners::default());
    let mut body = Vec::with_capacity(entries.len() * 80);
    let mut rows = Vec::with_capacity(entries.len());
    let (mut before, mut mtime_before, mut inode_before) = (&[][..], 0i64, 0u64);
    for entry in entries {
        let path = strip(&entry.path, base_len);
        rows.push((path, body.len()));
        put_front(&mut body, before, path);
        before = path;
        let number = match &entry.kind {
            Kind::File { .. } => 0,
            Kind::Directory => 1,
            Kind::Symlink { .. } => 2,
            Kind::Fifo => 3,
            Kind::Socket => 4,
            Kind::CharDevice { .. } => 5,
            Kind::BlockDevice { .. } => 6,
        };
        let link = if entry.link_group.is_some() { LINK_GROUP } else { 0 };
        let xattrs = if entry.xattrs.is_empty() { 0 } else { XATTRS };
        body.push(number | link | xattrs);
        put_varint(&mut body, u64::from(entry.mode));
        put_varint(&mut body, users.place(entry.uid, entry.user.as_deref()));
        put_varint(&mut body, groups.place(entry.gid, entry.group.as_deref()));
        put_zigzag(&mut body, entry.mtime.secs.wrapping_sub(mtime_before));
        put_varint(&mut body, u64::from(entry.mtime.nanos));
        put_zigzag(&mut body, entry.ctime.secs.wrapping_sub(entry.mtime.secs));
        put_varint(&mut body, u64::from(entry.ctime.nanos));
        put_zigzag(&mut body, entry.inode.wrapping_sub(inode_before) as i64);
        (mtime_before, inode_before) = (entry.mtime.secs, entry.inode);
        if let Some(group) = entry.link_group {
            body.extend_from_slice(&group.to_le_bytes());
        }
        if !entry.xattrs.is_empty() {
            put_varint(&mut body, entry.xattrs.len() as u64);
            for (name, value) in &entry.xattrs {
                put_slice(&mut body, name);
                put_slice(&mut body, value);
            }
        }
        match &entry.kind {
            Kind::File { size, content, cut } => {
                put_varint(&mut body, *size);
                let cut = match cut {
                    Cut::Content => 0,
                    Cut::Fixed => 1,
                };
                match content {
                    Content::Extents(extents) => {
                        body.push(cut);
                        put_extents(&mut body, extents);
                    }
                    Content::Nodes { root, depth } => {
                        body.push(cut | NODES);
                        body.push(*depth);
                        body.extend_from_slice(&root.0);
                    }
                }
            }
            Kind::Symlink { target } => put_slice(&mut body, target),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                put_varint(&mut body, u64::from(*major));
                put_varint(&mut body, u64::from(*minor));
            }
            Kind::Directory | Kind::Fifo | Kind::Socket => {}
        }
    }
    let mut out = Vec::with_capacity(body.len() + 64);
    out.push(0);
    put_varint(&mut out, entries.len() as u64);
    users.put(&mut out);
    groups.put(&mut out);
    rows.iter_mut().for_each(|(_, start)| *start += out.len());
    out.append(&mut body);
    Encoded { bytes: out, rows }
}

/// All entries of a leaf whose paths lie within `base`.
pub fn decode_leaf(bytes: &[u8], base: &TreePath) -> Result<Vec<Entry>, Malformed> {
    let leaf = Leaf::parse(bytes, base.clone())?;
    (0..leaf.len()).map(|place| leaf.entry(place)).collect()
}

fn put_extents(out: &mut Vec<u8>, extents: &[Extent]) {
    put_varint(out, extents.len() as u64);
    for extent in extents {
        match extent {
            Extent::Data { id, len } => {
                put_varint(out, u64::from(*len) << 1);
                out.extend_from_slice(&id.0);
            }
            // A file is at most 2^63 - 1 bytes.
            Extent::Hole { len } => put_varint(out, len << 1 | 1),
        }
    }
}

pub(super) fn get_extents(reader: &mut Reader<'_>) -> Result<Vec<Extent>, Malformed> {
    let count = reader.count(1)?;
    let mut extents = Vec::with_capacity(count);
    for _ in 0..count {
        extents.push(get_extent(reader)?);
    }
    Ok(extents)
}

pub(super) fn get_extent(reader: &mut Reader<'_>) -> Result<Extent, Malformed> {
    let number = reader.varint()?;
    let len = number >> 1;
    match number & 1 {
        _ if len == 0 => Err(Malformed("an extent is empty")),
        1 => Ok(Extent::Hole { len }),
        _ if len > CHUNK_BYTES_MAX => Err(Malformed("a chunk is too long")),
        _ => Ok(Extent::Data {
            len: u32::try_from(len).map_err(|_| Malformed("a chunk is too long"))?,
            id: ChunkId(reader.array()?),
        }),
    }
}

/// An inner node of `level` 1 or more, its children's paths relative to the directory that all of them share.
pub fn encode_inner(level: u8, children: &[Child], base_len: usize) -> Vec<u8> {
    let mut out = vec![level];
    put_varint(&mut out, children.len() as u64);
    let mut before = &[][..];
    for child in children {
        let path = strip(&child.first, base_len);
        put_front(&mut out, before, path);
        before = path;
        let skip = if base_len == 0 { 0 } else { base_len + 1 };
        put_varint(&mut out, child.base_len.saturating_sub(skip) as u64);
        out.extend_from_slice(&child.id.0);
        put_varint(&mut out, child.entries);
        put_varint(&mut out, child.bytes);
    }
    out
}

pub fn decode_inner(bytes: &[u8], level: u8, base: &TreePath) -> Result<Vec<Child>, Malformed> {
    let mut reader = Reader::new(bytes);
    if level == 0 || reader.u8()? != level {
        return Err(Malformed("a node is of another level"));
    }
    let count = reader.count(37)?;
    if count > NODE_ENTRIES_MAX {
        return Err(Malformed("a node holds too many children"));
    }
    let mut children: Vec<Child> = Vec::with_capacity(count);
    let mut path = Vec::new();
    for _ in 0..count {
        let (shared, rest) = get_front(&mut reader, path.len())?;
        path.truncate(shared);
        path.extend_from_slice(rest);
        let first = rebuild(base, &path)?;
        if children.last().is_some_and(|before| before.first >= first) {
            return Err(Malformed("children are out of order"));
        }
        let own = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
        if own > path.len() || (own < path.len() && own > 0 && path[own] != b'/') {
            return Err(Malformed("a child's base is no directory"));
        }
        let base_len = match (base.as_bytes().len(), own) {
            (0, own) => own,
            (len, 0) => len,
            (len, own) => len + 1 + own,
        };
        let id = ChunkId(reader.array()?);
        children.push(Child { first, base_len, id, entries: reader.varint()?, bytes: reader.varint()? });
    }
    if children.is_empty() || !reader.is_empty() {
        return Err(Malformed("a node holds nothing, or more than its children"));
    }
    Ok(children)
}

/// A list node: extents, or children (id and bytes beneath) of the next lower level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListNode {
    Extents(Vec<Extent>),
    Children { level: u8, children: Vec<(ChunkId, u64)> },
}

impl ListNode {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            ListNode::Extents(extents) => {
                out.push(0);
                put_extents(&mut out, extents);
            }
            ListNode::Children { level, children } => {
                out.push(*level);
                put_varint(&mut out, children.len() as u64);
                for (id, bytes) in children {
                    out.extend_from_slice(&id.0);
                    put_varint(&mut out, *bytes);
                }
            }
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let node = match reader.u8()? {
            0 => ListNode::Extents(get_extents(&mut reader)?),
            level => {
                let count = reader.count(33)?;
                let mut children = Vec::with_capacity(count);
                for _ in 0..count {
                    children.push((ChunkId(reader.array()?), reader.varint()?));
                }
                ListNode::Children { level, children }
            }
        };
        if reader.is_empty() { Ok(node) } else { Err(Malformed("a list holds more than its extents")) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pack::entry::Timestamp;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'-'), Just(0xff), Just(b'\n')], 1..4)
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            prop::collection::vec((1u32..9000, any::<bool>(), any::<[u8; 32]>()), 0..5).prop_map(|extents| {
                let extents: Vec<Extent> = extents
                    .into_iter()
                    .map(|(len, hole, id)| match hole {
                        true => Extent::Hole { len: u64::from(len) << 20 },
                        false => Extent::Data { id: ChunkId(id), len },
                    })
                    .collect();
                let size = extents.iter().map(|e| e.len()).sum();
                Kind::File { size, content: Content::Extents(extents), cut: Cut::Content }
            }),
            Just(Kind::File {
                size: 1 << 50,
                content: Content::Nodes { root: ChunkId([9; 32]), depth: 2 },
                cut: Cut::Fixed
            }),
            Just(Kind::Directory),
            Just(Kind::Symlink { target: b"../x\xfe".to_vec() }),
            Just(Kind::Fifo),
            Just(Kind::Socket),
            (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
            (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
        ]
    }

    fn time() -> impl Strategy<Value = Timestamp> {
        (any::<i64>(), 0u32..1_000_000_000).prop_map(|(secs, nanos)| Timestamp { secs, nanos })
    }

    /// Sorted entries with distinct paths, all below the directory `base`.
    pub(crate) fn entries(max: usize) -> impl Strategy<Value = Vec<Entry>> {
        let one = (
            (prop::collection::vec(name(), 1..4), kind(), 0u32..=0o7777),
            (0u32..3, 0u32..3, prop::option::of(name())),
            (time(), time(), any::<u64>(), prop::option::of(any::<u64>())),
            prop::collection::vec((name(), name()), 0..3),
        );
        prop::collection::vec(one, 1..max).prop_map(|rows| {
            let mut entries: Vec<Entry> = rows
                .into_iter()
                .map(|((path, kind, mode), (uid, gid, user), (mtime, ctime, inode, link_group), xattrs)| Entry {
                    path: TreePath::from_bytes(path.join(&b'/')).unwrap(),
                    kind,
                    mode,
                    uid,
                    gid,
                    group: user.clone(),
                    user,
                    mtime,
                    ctime,
                    inode,
                    link_group,
                    xattrs,
                })
                .collect();
            entries.sort_by(|a, b| a.path.cmp(&b.path));
            entries.dedup_by(|a, b| a.path == b.path);
            entries
        })
    }

    proptest! {
        #[test]
        fn a_leaf_comes_back(entries in entries(12), moved in any::<bool>()) {
            let base_len = entries.iter().skip(1).fold(entries[0].path.as_bytes().len(), |len, entry| {
                common_base_len(&entries[0].path.as_bytes()[..len], entry.path.as_bytes())
            });
            let bytes = encode_leaf(&entries, base_len);
            let base = prefix(&entries[0].path, base_len);
            prop_assert_eq!(&decode_leaf(&bytes, &base).unwrap(), &entries);
            if moved {
                // The same bytes under another directory: only the paths differ.
                let elsewhere = base.join(b"moved").unwrap();
                let there = decode_leaf(&bytes, &elsewhere).unwrap();
                prop_assert!(there.iter().zip(&entries).all(|(a, b)| a.mtime == b.mtime && a.path.is_within(&elsewhere)));
            }
        }

        #[test]
        fn no_bytes_panic_the_decoders(bytes in prop::collection::vec(any::<u8>(), 0..200), bent in entries(5), at in any::<prop::sample::Index>()) {
            let root = TreePath::root();
            let _ = decode_leaf(&bytes, &root);
            let _ = decode_inner(&bytes, 1, &root);
            let _ = ListNode::decode(&bytes);
            let mut leaf = encode_leaf(&bent, 0);
            let at = at.index(leaf.len());
            leaf[at] ^= 0x41;
            let _ = decode_leaf(&leaf, &root);
        }
    }

    #[test]
    fn front_coding_asks_for_no_memory_without_end() {
        let mut leaf = vec![0];
        put_varint(&mut leaf, 1000);
        let owner = |leaf: &mut Vec<u8>| leaf.extend_from_slice(&[1, 0, 0]);
        owner(&mut leaf);
        owner(&mut leaf);
        for n in 0..1000u32 {
            let path = if n == 0 { vec![b'a'; 1 << 19] } else { format!("{n:04}").into_bytes() };
            put_varint(&mut leaf, if n == 0 { 0 } else { 1 << 19 });
            put_slice(&mut leaf, &path);
            leaf.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        assert_eq!(decode_leaf(&leaf, &TreePath::root()).err(), Some(Malformed("the paths of a leaf are too long")));
        let mut wide = vec![0];
        put_varint(&mut wide, 5000);
        wide.resize(60_000, 0);
        assert_eq!(decode_leaf(&wide, &TreePath::root()).err(), Some(Malformed("a leaf holds too many entries")));
        let mut long = vec![0];
        put_extents(&mut long, &[Extent::Data { id: ChunkId([1; 32]), len: (16 << 20) + 1 }]);
        assert_eq!(ListNode::decode(&long), Err(Malformed("a chunk is too long")));
    }

    #[test]
    fn an_inner_node_comes_back_under_any_base() {
        let path = |s: &str| TreePath::from_bytes(s.as_bytes().to_vec()).unwrap();
        let child = |first: &str, base_len: usize| Child {
            first: path(first),
            base_len,
            id: ChunkId([1; 32]),
            entries: 7,
            bytes: 1 << 40,
        };
        for (children, base) in [
            (vec![child("", 0), child("etc/ssh/a", 7), child("usr", 3)], ""),
            (vec![child("home/a/x", 6), child("home/a/y/z", 8)], "home/a"),
        ] {
            let bytes = encode_inner(2, &children, base.len());
            assert_eq!(decode_inner(&bytes, 2, &path(base)).unwrap(), children);
            assert!(decode_inner(&bytes, 1, &path(base)).is_err());
        }
    }

    #[test]
    fn bases_are_whole_directories() {
        for (a, b, base) in
            [("a/b/c", "a/b/d", "a/b"), ("a/bc", "a/bd", "a"), ("a", "a/b", "a"), ("x", "y", ""), ("", "a", "")]
        {
            assert_eq!(common_base_len(a.as_bytes(), b.as_bytes()), base.len(), "{a} {b}");
            assert_eq!(common_base_len(b.as_bytes(), a.as_bytes()), base.len(), "{a} {b}");
        }
    }
}
