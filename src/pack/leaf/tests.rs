use super::*;
use crate::pack::entry::Extent;
use crate::pack::node::tests::entries;
use crate::pack::node::{common_base_len, encode_leaf};
use crate::pack::wire::{put_slice, put_varint};
use proptest::prelude::*;

/// A reader that makes each entry as it comes: the same format told a second time, in the plainest way.
mod plain {
    use super::*;

    fn front(reader: &mut Reader<'_>, before: &mut Vec<u8>) -> Result<(), Malformed> {
        let shared = usize::try_from(reader.varint()?).map_err(|_| Malformed("a path is too long"))?;
        if shared > before.len() {
            return Err(Malformed("a path shares more than there was"));
        }
        before.truncate(shared);
        before.extend_from_slice(reader.slice()?);
        if before.len() > node::PATH_BYTES_MAX {
            return Err(Malformed("a path is too long"));
        }
        Ok(())
    }

    type Name = (u32, Option<Vec<u8>>);

    fn owners(reader: &mut Reader<'_>) -> Result<Vec<Name>, Malformed> {
        let mut rows = Vec::new();
        for _ in 0..reader.count(2)? {
            let id = reader.varint_u32()?;
            let name = match reader.varint()? {
                0 => None,
                len => Some(reader.bytes(len as usize - 1)?.to_vec()),
            };
            rows.push((id, name));
        }
        Ok(rows)
    }

    fn file(reader: &mut Reader<'_>) -> Result<Kind, Malformed> {
        let size = reader.varint()?;
        let tag = reader.u8()?;
        let cut = match tag & !NODES {
            0 => Cut::Content,
            1 => Cut::Fixed,
            _ => return Err(Malformed("a file was cut in an unknown way")),
        };
        if tag & NODES != 0 {
            let content = Content::Nodes { depth: reader.u8()?, root: ChunkId(reader.array()?) };
            return Ok(Kind::File { size, content, cut });
        }
        let mut extents = Vec::new();
        for _ in 0..reader.count(1)? {
            let number = reader.varint()?;
            let len = number >> 1;
            extents.push(match number & 1 {
                _ if len == 0 => return Err(Malformed("an extent is empty")),
                1 => Extent::Hole { len },
                _ if len > 16 << 20 => return Err(Malformed("a chunk is too long")),
                _ => Extent::Data { len: len as u32, id: ChunkId(reader.array()?) },
            });
        }
        if extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.len())) != Some(size) {
            return Err(Malformed("a file's extents are not its size"));
        }
        Ok(Kind::File { size, content: Content::Extents(extents), cut })
    }

    pub fn decode(bytes: &[u8], base: &TreePath) -> Result<Vec<Entry>, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != 0 {
            return Err(Malformed("a leaf is no leaf"));
        }
        let count = reader.count(10)?;
        if count > NODE_ENTRIES_MAX {
            return Err(Malformed("a leaf holds too many entries"));
        }
        let (users, groups) = (owners(&mut reader)?, owners(&mut reader)?);
        let mut entries: Vec<Entry> = Vec::new();
        let (mut rest, mut mtime_before, mut inode_before, mut path_bytes) = (Vec::new(), 0i64, 0u64, 0);
        for _ in 0..count {
            front(&mut reader, &mut rest)?;
            path_bytes += rest.len();
            if path_bytes > PATH_BYTES_SUM_MAX {
                return Err(Malformed("the paths of a leaf are too long"));
            }
            let path = node::rebuild(base, &rest)?;
            if entries.last().is_some_and(|before| before.path >= path) {
                return Err(Malformed("entries are out of order"));
            }
            let tag = reader.u8()?;
            let mode = reader.varint_u32()?;
            if mode > 0o7777 {
                return Err(Malformed("a mode has unknown bits"));
            }
            let mut owner = |rows: &[Name]| {
                let at = reader.varint()? as usize;
                rows.get(at).cloned().ok_or(Malformed("an owner is missing"))
            };
            let ((uid, user), (gid, group)) = (owner(&users)?, owner(&groups)?);
            let mtime = get_time(&mut reader, mtime_before)?;
            let ctime = get_time(&mut reader, mtime.secs)?;
            let inode = inode_before.wrapping_add(reader.zigzag()? as u64);
            (mtime_before, inode_before) = (mtime.secs, inode);
            let link_group = if tag & LINK_GROUP != 0 { Some(reader.u64()?) } else { None };
            let mut xattrs = Vec::new();
            if tag & XATTRS != 0 {
                for _ in 0..reader.count(2)? {
                    xattrs.push((reader.slice()?.to_vec(), reader.slice()?.to_vec()));
                }
            }
            let kind = match tag & !(LINK_GROUP | XATTRS) {
                0 => file(&mut reader)?,
                1 => Kind::Directory,
                2 => Kind::Symlink { target: reader.slice()?.to_vec() },
                3 => Kind::Fifo,
                4 => Kind::Socket,
                5 => Kind::CharDevice { major: reader.varint_u32()?, minor: reader.varint_u32()? },
                6 => Kind::BlockDevice { major: reader.varint_u32()?, minor: reader.varint_u32()? },
                _ => return Err(Malformed("an entry is of an unknown kind")),
            };
            entries.push(Entry { path, kind, mode, uid, gid, user, group, mtime, ctime, inode, link_group, xattrs });
        }
        if reader.is_empty() { Ok(entries) } else { Err(Malformed("a leaf holds more than its entries")) }
    }
}

fn path(text: &str) -> TreePath {
    TreePath::from_bytes(text.as_bytes().to_vec()).unwrap()
}

fn base() -> impl Strategy<Value = TreePath> {
    prop_oneof![Just(TreePath::root()), Just(path("a")), Just(path("a-/b"))]
}

/// What is seen in place, and what is made of it, against the plain reader.
fn agree(bytes: &[u8], base: &TreePath) -> Result<(), TestCaseError> {
    let plain = plain::decode(bytes, base);
    let leaf = match Leaf::parse(bytes, base.clone()) {
        Ok(leaf) => leaf,
        Err(error) => {
            prop_assert_eq!(plain, Err(error));
            return Ok(());
        }
    };
    let made: Result<Vec<Entry>, Malformed> = (0..leaf.len()).map(|place| leaf.entry(place)).collect();
    prop_assert_eq!(&made, &plain);
    let entries = plain.unwrap();
    prop_assert_eq!(leaf.size_sum(), entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.kind.size())));
    for (place, entry) in entries.iter().enumerate() {
        prop_assert_eq!(&leaf.path(place).unwrap(), &entry.path);
        prop_assert_eq!(leaf.mtime(place), Some(entry.mtime));
        let size = if let Kind::File { size, .. } = entry.kind { Some(size) } else { None };
        prop_assert_eq!(leaf.file_size(place), size);
        for name in entry.xattrs.iter().map(|(name, _)| name.as_slice()).chain([&b"none"[..]]) {
            let value = entry.xattrs.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_slice());
            prop_assert_eq!(leaf.attribute(place, name), value);
        }
    }
    prop_assert!(leaf.path(entries.len()).is_err() && leaf.entry(entries.len()).is_err());
    let own = entries.iter().map(|entry| entry.path.as_bytes().to_vec());
    let others = ["", "a", "a-", "a-/b", "a-/b-", "a-/c", "a/a", "a/b/b", "b", "a.", "a-/b/a"].map(|text| text.into());
    for sought in own.chain(others) {
        let found = entries.binary_search_by(|entry| entry.path.cmp_bytes(&sought));
        prop_assert_eq!(leaf.find(&sought), found);
        for place in 0..=entries.len() {
            prop_assert_eq!(leaf.is_at(place, &sought), found == Ok(place));
        }
    }
    Ok(())
}

/// Bytes with a place of them changed: bent, cut off, taken out or doubled.
fn damaged(mut bytes: Vec<u8>, damage: &[(u8, prop::sample::Index, u8)]) -> Vec<u8> {
    for (how, at, byte) in damage {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match how {
            0 => bytes[at] ^= byte,
            1 => bytes[at] = *byte,
            2 => bytes.truncate(at),
            3 => drop(bytes.remove(at)),
            _ => bytes.insert(at, *byte),
        }
    }
    bytes
}

fn damage() -> impl Strategy<Value = Vec<(u8, prop::sample::Index, u8)>> {
    prop::collection::vec((0u8..5, any::<prop::sample::Index>(), any::<u8>()), 1..4)
}

/// A leaf of fifos whose paths are coded as they are given, right or wrong.
fn coded(paths: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut leaf = vec![0];
    put_varint(&mut leaf, paths.len() as u64);
    leaf.extend_from_slice(&[1, 0, 0, 1, 0, 0]);
    for (shared, rest) in paths {
        put_varint(&mut leaf, u64::from(*shared));
        put_slice(&mut leaf, rest);
        leaf.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    leaf
}

fn rest() -> impl Strategy<Value = Vec<u8>> {
    let byte =
        prop_oneof![4 => Just(b'a'), 4 => Just(b'b'), 3 => Just(b'/'), 1 => Just(b'.'), 1 => Just(b'-'), 1 => Just(0)];
    prop::collection::vec(byte, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_leaf_is_seen_as_a_plain_reader_reads_it(entries in entries(12), elsewhere in base()) {
        let first = entries[0].path.as_bytes();
        let shared = |len, entry: &Entry| common_base_len(&first[..len], entry.path.as_bytes());
        let base_len = entries.iter().fold(first.len(), shared);
        let bytes = encode_leaf(&entries, base_len);
        agree(&bytes, &TreePath::from_bytes(first[..base_len].to_vec()).unwrap())?;
        agree(&bytes, &elsewhere)?;
    }

    #[test]
    fn a_damaged_leaf_is_refused_with_the_words_of_a_plain_reader(entries in entries(6), damage in damage(), base in base()) {
        agree(&damaged(encode_leaf(&entries, 0), &damage), &base)?;
    }

    #[test]
    fn no_bytes_are_read_otherwise_than_by_a_plain_reader(bytes in prop::collection::vec(prop_oneof![Just(0u8), 1u8..4, any::<u8>()], 0..120), base in base()) {
        agree(&bytes, &base)?;
        agree(&[&[0], bytes.as_slice()].concat(), &base)?;
    }

    #[test]
    fn a_path_is_good_or_bad_however_it_is_coded(paths in prop::collection::vec((0u8..5, rest()), 0..5), base in base()) {
        agree(&coded(&paths), &base)?;
    }

    /// The paths before are right, so that the one that is not is reached.
    #[test]
    fn a_path_behind_good_ones_is_good_or_bad_however_it_is_coded(shared in 0u8..8, rest in rest(), base in base()) {
        agree(&coded(&[(0, b"a".to_vec()), (1, b"/a".to_vec()), (3, b"/b/b".to_vec()), (shared, rest)]), &base)?;
    }
}

#[test]
fn nothing_of_a_leaf_is_seen_whose_last_byte_is_wrong() {
    let mut bytes = coded(&[(0, b"a".to_vec()), (0, b"b".to_vec())]);
    assert_eq!(Leaf::parse(bytes.as_slice(), path("base")).map(|leaf| leaf.len()), Ok(2));
    bytes.push(0);
    let wrong = Leaf::parse(bytes.as_slice(), path("base")).map(|leaf| leaf.len());
    assert_eq!(wrong, Err(Malformed("a leaf holds more than its entries")));
}

#[test]
fn a_path_with_a_slash_behind_it_is_another() {
    let bytes = coded(&[(0, b"".to_vec()), (0, b"a".to_vec())]);
    let leaf = Leaf::parse(bytes.as_slice(), path("base")).unwrap();
    assert!(leaf.is_at(0, b"base") && !leaf.is_at(0, b"base/"));
    assert!(leaf.is_at(1, b"base/a") && !leaf.is_at(1, b"base/a/"));
}
