//! Leaves that are stored as what differs from another leaf (`FORMAT.md`, section 8).
//!
//! Owns the making of a patch, when one is worth it, and the only way back: whoever reads a leaf reads it here. A patch is on a full leaf and never on
//! another patch, so that a leaf costs two nodes at most, however many days its tree has seen. It takes the bytes of its base in their order and each
//! once: it cannot make more than it and its base are together, which bounds the memory before any is taken.

use std::ops::Range;
use std::sync::Arc;

use crate::names::{ChunkId, TreePath, cmp_paths};
use crate::pack::leaf::Leaf;
use crate::pack::node::Encoded;
use crate::pack::tree::{NodeError, NodeSource};
use crate::pack::wire::{Malformed, Reader, put_slice, put_varint};

/// The first byte of a patch. A leaf begins with 0, an inner node with its level.
const PATCH: u8 = 0xff;
/// A shorter copy takes more bytes than what it copies.
const COPY_BYTES_MIN: usize = 4;

/// A leaf's plaintext, and the full leaf that it was made of if it is stored as a patch.
pub struct LeafBytes {
    pub bytes: Arc<Vec<u8>>,
    pub base: Option<ChunkId>,
}

/// Reads a leaf, however it is stored.
pub fn read_leaf<S: NodeSource>(source: &S, id: &ChunkId) -> Result<LeafBytes, S::Error> {
    let node = source.tree_node(id)?;
    let wrong = |cause| S::Error::from(NodeError { id: *id, cause });
    let Some((base_id, edits)) = split(&node).map_err(wrong)? else { return Ok(LeafBytes { bytes: node, base: None }) };
    let base = source.tree_node(&base_id)?;
    let bytes = Arc::new(apply(&base, edits).map_err(wrong)?);
    Ok(LeafBytes { bytes, base: Some(base_id) })
}

/// The base and the edits of a patch; none of all else.
fn split(node: &[u8]) -> Result<Option<(ChunkId, &[u8])>, Malformed> {
    let Some((&PATCH, rest)) = node.split_first() else { return Ok(None) };
    let (base, edits) = rest.split_first_chunk().ok_or(Malformed("it ends too early"))?;
    Ok(Some((ChunkId(*base), edits)))
}

/// The base that a patch names; none of all else.
pub(super) fn base_of(node: &[u8]) -> Option<ChunkId> {
    split(node).ok().flatten().map(|(base, _)| base)
}

fn apply(base: &[u8], edits: &[u8]) -> Result<Vec<u8>, Malformed> {
    match base.first() {
        Some(0) => {}
        Some(&PATCH) => return Err(Malformed("a patch is on a patch")),
        _ => return Err(Malformed("a patch is on no leaf")),
    }
    let mut reader = Reader::new(edits);
    let number = |reader: &mut Reader<'_>| Ok(usize::try_from(reader.varint()?).unwrap_or(usize::MAX));
    let len = number(&mut reader)?;
    if len > base.len() + edits.len() {
        return Err(Malformed("a patch makes more than it and its base are"));
    }
    let mut out = Vec::with_capacity(len);
    let mut rest = Reader::new(base);
    while !reader.is_empty() {
        out.extend_from_slice(reader.slice()?);
        rest.bytes(number(&mut reader)?)?;
        out.extend_from_slice(rest.bytes(number(&mut reader)?)?);
    }
    if out.len() == len { Ok(out) } else { Err(Malformed("a patch does not make what it says")) }
}

/// A patch that makes `leaf` of the full leaf `base`; none where `base` is no leaf.
pub(super) fn make(base_id: &ChunkId, base: &[u8], leaf: &Encoded<'_>) -> Option<Vec<u8>> {
    // Where it lies does not matter: paths are compared beneath the directories of both. Those of two leaves at one place are nearly always one.
    let old = Leaf::parse(base, TreePath::root()).ok()?;
    let mut edits = Edits { base, new: &leaf.bytes, out: vec![PATCH], taken: 0, insert: Vec::new(), copy: 0..0 };
    edits.out.extend_from_slice(&base_id.0);
    put_varint(&mut edits.out, leaf.bytes.len() as u64);
    let ends = leaf.rows.iter().skip(1).map(|(_, start)| *start).chain(std::iter::once(leaf.bytes.len()));
    let head = leaf.rows.first().map_or(leaf.bytes.len(), |(_, start)| *start);
    edits.align(0..old.row(0).map_or(base.len(), |(_, row)| row.start), 0..head);
    let mut place = 0;
    for ((path, start), end) in leaf.rows.iter().zip(ends) {
        let mut same = None;
        while let Some((old, row)) = old.row(place) {
            match cmp_paths(old, path) {
                std::cmp::Ordering::Greater => break,
                order => {
                    place += 1;
                    if order.is_eq() {
                        same = Some(row);
                        break;
                    }
                }
            }
        }
        match same {
            Some(row) => edits.align(row, *start..end),
            None => edits.insert(*start..end),
        }
    }
    let patch = edits.finish();
    // What does not come back is not stored.
    apply(base, &patch[1 + 32..]).is_ok_and(|back| back == leaf.bytes).then_some(patch)
}

/// Whether a patch of `len` bytes is stored instead of a leaf of `leaf`. `before` is the length of the patch that the leaf was until now; none: it was full.
///
/// Patches on one base grow by what changes in a day, `d`, until a full leaf, `f`, takes their place: `n` days of that cost `f/n + dn/2` each, least where the
/// last patch is `sqrt(2fd)` long. That is a fifth of the leaf where one entry of 50 changes each day, and a quarter where one of 30 does; at a quarter a leaf
/// that changes ten times slower costs three fifths more than its least, and still a seventh of full leaves. A first patch saves what it saves at once, and so does one
/// that did not grow (the same files change each day): these may be half as long as the leaf, which compression makes two thirds.
pub(super) fn is_worth(len: usize, leaf: usize, before: Option<usize>) -> bool {
    len <= leaf / 4 || (len <= leaf / 2 && before.is_none_or(|before| len <= before))
}

/// A patch in the making.
struct Edits<'a> {
    base: &'a [u8],
    new: &'a [u8],
    out: Vec<u8>,
    /// Where the base stands after what `out` took of it.
    taken: usize,
    /// What comes next, and the copy behind it.
    insert: Vec<u8>,
    copy: Range<usize>,
}

impl Edits<'_> {
    /// Two rows of one path, which differ in the middle if at all.
    fn align(&mut self, old: Range<usize>, new: Range<usize>) {
        let (a, b) = (&self.base[old.clone()], &self.new[new.clone()]);
        let head = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(a, b)| a == b).count();
        self.copy(old.start..old.start + head);
        self.insert(new.start + head..new.end - tail);
        self.copy(old.end - tail..old.end);
    }

    fn copy(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        if self.copy.is_empty() || self.copy.end != range.start {
            self.settle();
            self.copy = range;
        } else {
            self.copy.end = range.end;
        }
    }

    fn insert(&mut self, range: Range<usize>) {
        if !range.is_empty() {
            self.settle();
            self.insert.extend_from_slice(&self.new[range]);
        }
    }

    /// Writes the copy at hand and what comes before it.
    fn settle(&mut self) {
        let copy = std::mem::take(&mut self.copy);
        if copy.len() < COPY_BYTES_MIN {
            self.insert.extend_from_slice(&self.base[copy]);
        } else {
            put_slice(&mut self.out, &self.insert);
            put_varint(&mut self.out, (copy.start - self.taken) as u64);
            put_varint(&mut self.out, copy.len() as u64);
            self.taken = copy.end;
            self.insert.clear();
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.settle();
        if !self.insert.is_empty() {
            put_slice(&mut self.out, &self.insert);
            self.out.extend_from_slice(&[0, 0]);
        }
        self.out
    }
}

#[cfg(test)]
mod tests;
