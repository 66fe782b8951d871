//! A leaf that is looked at where it lies (`FORMAT.md`, section 8).
//!
//! Owns the only reader of a leaf's bytes: `node::decode_leaf` and `tree::TreeReader` stand on it. A `Leaf` was checked from its first byte to its last, so that nothing is shown
//! of one that is malformed anywhere. Whoever only compares paths, sizes and times copies nothing; entries are made one by one, on demand.
//!
//! Memory: about 150 bytes for each entry beside the bytes, and the paths beneath the leaf's base, written out: at most `PATH_BYTES_SUM_MAX`.

use std::cmp::Ordering;
use std::ops::{Deref, Range};

use crate::names::{ChunkId, TreePath, cmp_paths, parts_are_good};
use crate::pack::entry::{Content, Cut, Entry, Kind, Timestamp};
use crate::pack::node::{self, LINK_GROUP, NODE_ENTRIES_MAX, NODES, XATTRS, get_extent, get_extents, get_front};
use crate::pack::wire::{Malformed, Reader};

/// Paths of a leaf, written out: front coding would let few bytes ask for terabytes.
const PATH_BYTES_SUM_MAX: usize = 16 << 20;
/// Depth and root of a list.
const LIST_BYTES: usize = 1 + 32;

/// A leaf whose bytes were checked as a whole.
pub struct Leaf<B> {
    bytes: B,
    base: TreePath,
    /// Of all rows, relative to `base`, one behind the other.
    paths: Vec<u8>,
    rows: Vec<Row>,
    users: Vec<Owner>,
    groups: Vec<Owner>,
}

/// A numeric id, and where its name stands in the bytes.
type Owner = (u32, Option<Range<usize>>);

struct Row {
    /// Where it begins in the bytes.
    start: usize,
    path: Range<usize>,
    tag: u8,
    mode: u32,
    user: usize,
    group: usize,
    mtime: Timestamp,
    ctime: Timestamp,
    inode: u64,
    link_group: Option<u64>,
    /// Where the extended attributes begin, if the tag says that there are any.
    xattrs: usize,
    /// Of a file.
    size: u64,
    /// Of a file: its cut, and whether its extents stand in nodes.
    cut: u8,
    /// Where that begins which only this kind has; a file's, behind `cut`.
    own: usize,
}

fn get_owners(reader: &mut Reader<'_>, whole: usize) -> Result<Vec<Owner>, Malformed> {
    let count = reader.count(2)?;
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let id = reader.varint_u32()?;
        let name = match reader.varint()? {
            0 => None,
            len => {
                let len = usize::try_from(len - 1).map_err(|_| Malformed("a name is too long"))?;
                let at = whole - reader.remaining();
                reader.bytes(len)?;
                Some(at..at + len)
            }
        };
        rows.push((id, name));
    }
    Ok(rows)
}

fn get_owner(reader: &mut Reader<'_>, rows: &[Owner]) -> Result<usize, Malformed> {
    let at = usize::try_from(reader.varint()?).unwrap_or(usize::MAX);
    if at < rows.len() { Ok(at) } else { Err(Malformed("an owner is missing")) }
}

fn get_time(reader: &mut Reader<'_>, before: i64) -> Result<Timestamp, Malformed> {
    let (secs, nanos) = (before.wrapping_add(reader.zigzag()?), reader.varint_u32()?);
    if nanos >= 1_000_000_000 {
        return Err(Malformed("a time has too many nanoseconds"));
    }
    Ok(Timestamp { secs, nanos })
}

fn get_cut(byte: u8) -> Result<Cut, Malformed> {
    match byte & !NODES {
        0 => Ok(Cut::Content),
        1 => Ok(Cut::Fixed),
        _ => Err(Malformed("a file was cut in an unknown way")),
    }
}

impl<B: Deref<Target: AsRef<[u8]>>> Leaf<B> {
    /// Reads all of `bytes`, whose paths lie within `base`. A leaf may be empty.
    pub fn parse(bytes: B, base: TreePath) -> Result<Self, Malformed> {
        let whole = bytes.as_ref().len();
        let mut reader = Reader::new(bytes.as_ref());
        if reader.u8()? != 0 {
            return Err(Malformed("a leaf is no leaf"));
        }
        let count = reader.count(10)?;
        if count > NODE_ENTRIES_MAX {
            return Err(Malformed("a leaf holds too many entries"));
        }
        let (users, groups) = (get_owners(&mut reader, whole)?, get_owners(&mut reader, whole)?);
        let (mut paths, mut rows) = (Vec::with_capacity(whole / 2), Vec::<Row>::with_capacity(count));
        let (mut path, mut mtime_before, mut inode_before) = (0..0, 0i64, 0u64);
        for number in 0..count {
            let start = whole - reader.remaining();
            path = put_path(&mut reader, &mut paths, path, number == 0)?;
            let tag = reader.u8()?;
            let mode = reader.varint_u32()?;
            if mode > 0o7777 {
                return Err(Malformed("a mode has unknown bits"));
            }
            let (user, group) = (get_owner(&mut reader, &users)?, get_owner(&mut reader, &groups)?);
            let mtime = get_time(&mut reader, mtime_before)?;
            let ctime = get_time(&mut reader, mtime.secs)?;
            let inode = inode_before.wrapping_add(reader.zigzag()? as u64);
            (mtime_before, inode_before) = (mtime.secs, inode);
            let link_group = if tag & LINK_GROUP != 0 { Some(reader.u64()?) } else { None };
            let xattrs = whole - reader.remaining();
            if tag & XATTRS != 0 {
                for _ in 0..reader.count(2)? {
                    reader.slice()?;
                    reader.slice()?;
                }
            }
            let (mut size, mut cut) = (0, 0);
            if kind_of(tag) == 0 {
                size = reader.varint()?;
                cut = reader.u8()?;
                get_cut(cut)?;
            }
            let own = whole - reader.remaining();
            match kind_of(tag) {
                0 if cut & NODES != 0 => {
                    reader.bytes(LIST_BYTES)?;
                }
                0 => {
                    let mut sum = Some(0u64);
                    for _ in 0..reader.count(1)? {
                        let extent = get_extent(&mut reader)?;
                        sum = sum.and_then(|sum| sum.checked_add(extent.len()));
                    }
                    if sum != Some(size) {
                        return Err(Malformed("a file's extents are not its size"));
                    }
                }
                2 => {
                    reader.slice()?;
                }
                5 | 6 => {
                    reader.varint_u32()?;
                    reader.varint_u32()?;
                }
                1 | 3 | 4 => {}
                _ => return Err(Malformed("an entry is of an unknown kind")),
            }
            let path = path.clone();
            rows.push(Row {
                start,
                path,
                tag,
                mode,
                user,
                group,
                mtime,
                ctime,
                inode,
                link_group,
                xattrs,
                size,
                cut,
                own,
            });
        }
        if !reader.is_empty() {
            return Err(Malformed("a leaf holds more than its entries"));
        }
        Ok(Self { bytes, base, paths, rows, users, groups })
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Sum of file sizes.
    pub fn size_sum(&self) -> u64 {
        self.rows.iter().fold(0u64, |sum, row| sum.saturating_add(row.size))
    }

    pub fn path(&self, place: usize) -> Result<TreePath, Malformed> {
        node::rebuild(&self.base, self.rest(self.need(place)?))
    }

    /// Whether `path` stands at `place`.
    pub fn is_at(&self, place: usize, path: &[u8]) -> bool {
        let Some(row) = self.rows.get(place) else { return false };
        within(&self.base, path).is_ok_and(|rest| rest == self.rest(row))
    }

    /// The place of `path`, or the one that it would have.
    pub fn find(&self, path: &[u8]) -> Result<usize, usize> {
        match within(&self.base, path) {
            Ok(rest) => self.rows.binary_search_by(|row| cmp_paths(self.rest(row), rest)),
            Err(Ordering::Less) => Err(0),
            Err(_) => Err(self.rows.len()),
        }
    }

    /// The size of a file; none of all else.
    pub fn file_size(&self, place: usize) -> Option<u64> {
        self.rows.get(place).filter(|row| kind_of(row.tag) == 0).map(|row| row.size)
    }

    pub fn mtime(&self, place: usize) -> Option<Timestamp> {
        self.rows.get(place).map(|row| row.mtime)
    }

    /// The value of an extended attribute.
    pub fn attribute(&self, place: usize, name: &[u8]) -> Option<&[u8]> {
        let row = self.rows.get(place).filter(|row| row.tag & XATTRS != 0)?;
        let mut reader = self.reader(row.xattrs);
        for _ in 0..reader.count(2).ok()? {
            let (found, value) = (reader.slice().ok()?, reader.slice().ok()?);
            if found == name {
                return Some(value);
            }
        }
        None
    }

    /// All that stands at `place`.
    pub fn entry(&self, place: usize) -> Result<Entry, Malformed> {
        let row = self.need(place)?;
        let name = |(id, name): &Owner| (*id, name.clone().map(|name| self.bytes.as_ref()[name].to_vec()));
        let ((uid, user), (gid, group)) = (name(&self.users[row.user]), name(&self.groups[row.group]));
        let mut xattrs = Vec::new();
        if row.tag & XATTRS != 0 {
            let mut reader = self.reader(row.xattrs);
            let count = reader.count(2)?;
            xattrs.reserve_exact(count);
            for _ in 0..count {
                xattrs.push((reader.slice()?.to_vec(), reader.slice()?.to_vec()));
            }
        }
        let mut own = self.reader(row.own);
        let kind = match kind_of(row.tag) {
            0 => {
                let content = match row.cut & NODES {
                    0 => Content::Extents(get_extents(&mut own)?),
                    _ => Content::Nodes { depth: own.u8()?, root: ChunkId(own.array()?) },
                };
                Kind::File { size: row.size, content, cut: get_cut(row.cut)? }
            }
            1 => Kind::Directory,
            2 => Kind::Symlink { target: own.slice()?.to_vec() },
            3 => Kind::Fifo,
            4 => Kind::Socket,
            5 => Kind::CharDevice { major: own.varint_u32()?, minor: own.varint_u32()? },
            _ => Kind::BlockDevice { major: own.varint_u32()?, minor: own.varint_u32()? },
        };
        let path = node::rebuild(&self.base, self.rest(row))?;
        let Row { mode, mtime, ctime, inode, link_group, .. } = *row;
        Ok(Entry { path, kind, mode, uid, gid, user, group, mtime, ctime, inode, link_group, xattrs })
    }

    /// The path of an entry relative to the leaf's base, and where all of it stands in the bytes.
    pub(super) fn row(&self, place: usize) -> Option<(&[u8], Range<usize>)> {
        let row = self.rows.get(place)?;
        let end = self.rows.get(place + 1).map_or(self.bytes.as_ref().len(), |next| next.start);
        Some((self.rest(row), row.start..end))
    }

    fn need(&self, place: usize) -> Result<&Row, Malformed> {
        self.rows.get(place).ok_or(Malformed("a leaf has fewer entries"))
    }

    fn rest(&self, row: &Row) -> &[u8] {
        &self.paths[row.path.clone()]
    }

    fn reader(&self, at: usize) -> Reader<'_> {
        Reader::new(&self.bytes.as_ref()[at..])
    }
}

fn kind_of(tag: u8) -> u8 {
    tag & !(LINK_GROUP | XATTRS)
}

/// Reads a path that is written against the one at `before`, and puts it behind that.
fn put_path(
    reader: &mut Reader<'_>,
    paths: &mut Vec<u8>,
    before: Range<usize>,
    is_first: bool,
) -> Result<Range<usize>, Malformed> {
    let (shared, rest) = get_front(reader, before.len())?;
    let start = paths.len();
    if start + shared + rest.len() > PATH_BYTES_SUM_MAX {
        return Err(Malformed("the paths of a leaf are too long"));
    }
    paths.extend_from_within(before.start..before.start + shared);
    paths.extend_from_slice(rest);
    let path = &paths[start..];
    // The parts before were good in the path before.
    let part = path[..shared].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    if !path.is_empty() && !parts_are_good(&path[part..]) {
        return Err(Malformed("a path could leave its root"));
    }
    if !is_first && cmp_paths(&paths[before.start + shared..before.end], rest).is_ge() {
        return Err(Malformed("entries are out of order"));
    }
    Ok(start..paths.len())
}

/// What of `path` lies beneath `base`; else how it stands to all that does.
fn within<'p>(base: &TreePath, path: &'p [u8]) -> Result<&'p [u8], Ordering> {
    let base = base.as_bytes();
    match path.strip_prefix(base) {
        Some(rest) if base.is_empty() || rest.is_empty() => Ok(rest),
        Some([b'/', rest @ ..]) if !rest.is_empty() => Ok(rest),
        _ => Err(cmp_paths(path, base)),
    }
}

#[cfg(test)]
mod tests;
