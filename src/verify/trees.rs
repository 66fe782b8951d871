//! Trees: every live node once, and every chunk that it refers to looked up.
//!
//! Owns the walk over all snapshots and what makes a node sensible. Memory: 16 bytes for each node that was seen, in a hash set that is at most half empty: under 35
//! bytes a node, so 34 MiB for a million nodes (about 200 million files), beside 16 MiB of decoded frames and the stack of one branch.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Result;
use super::check::Check;
use super::finding::Number;
use crate::names::{ChunkId, ObjectKey, TreePath};
use crate::pack::container::PackKind;
use crate::pack::entry::{Content, Entry, Extent, Kind};
use crate::pack::list::{LIST_DEPTH_MAX, ListSource};
use crate::pack::node::{ListNode, decode_inner, decode_leaf};
use crate::pack::patch::read_leaf;
use crate::pack::tree::{LEVELS_MAX, NodeError, NodeSource};
use crate::pack::wire::Malformed;
use crate::repository::{ChunkReader, Error as RepositoryError, Index, Snapshot, SnapshotState, Snapshots};

/// What was walked.
#[derive(Default)]
pub struct Walked {
    /// Whose trees were walked.
    pub snapshots: u64,
    /// Another writer's, which this key may not read.
    pub closed: u64,
    pub nodes: u64,
    /// References to chunks that were looked up, each node's once.
    pub references: u64,
}

/// A node as whoever names it describes it.
struct Claim {
    id: ChunkId,
    shape: Shape,
    bytes: u64,
}

enum Shape {
    Tree { level: u8, base: TreePath, first: Option<TreePath>, entries: u64 },
    List { depth: u8 },
}

impl Claim {
    /// The same node under the same description is looked at once. Under another one it is looked at again: one of the two must be wrong.
    fn mark(&self) -> [u8; 16] {
        let (tag, level, entries) = match &self.shape {
            Shape::Tree { level, entries, .. } => (0, *level, *entries),
            Shape::List { depth } => (1, *depth, 0),
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.id.0).update(&[tag, level]);
        hasher.update(&entries.to_le_bytes()).update(&self.bytes.to_le_bytes());
        let mut mark = [0; 16];
        mark.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        mark
    }
}

/// A base among the marks of claims, which are hashes of their own.
fn base_mark(id: &ChunkId) -> [u8; 16] {
    let mut mark = [0; 16];
    mark.copy_from_slice(&id.0[..16]);
    mark
}

/// Walks the trees of every readable snapshot that is not forgotten for good.
pub fn check(check: &Check<'_>, index: &Index, snapshots: &Snapshots) -> Result<Walked> {
    let mut walk = Walk { check, index, seen: HashSet::new(), walked: Walked::default() };
    let whole = |snapshot: &&Snapshot| snapshot.state != SnapshotState::Expired;
    let mut order: Vec<&Snapshot> = snapshots.readable.iter().filter(whole).collect();
    // One writer's after the other: a reader of nodes, with its cache, serves one writer.
    order.sort_by_key(|snapshot| snapshot.writer);
    for snapshots in order.chunk_by(|a, b| a.writer == b.writer) {
        let readable: Vec<_> = snapshots.iter().filter(|snapshot| snapshot.body.is_some()).collect();
        walk.walked.closed += (snapshots.len() - readable.len()) as u64;
        let Some(first) = readable.first() else { continue };
        let reader = match ChunkReader::new(check.repository, index, first.writer) {
            Ok(reader) => reader,
            Err(error) => {
                check.absorb(error, PackKind::Metadata, &first.slot)?;
                continue;
            }
        };
        for snapshot in readable {
            walk.snapshot(&reader, snapshot)?;
        }
    }
    Ok(walk.walked)
}

struct Walk<'a> {
    check: &'a Check<'a>,
    index: &'a Index,
    seen: HashSet<[u8; 16]>,
    walked: Walked,
}

impl Walk<'_> {
    fn snapshot(&mut self, reader: &ChunkReader<'_>, snapshot: &Snapshot) -> Result<()> {
        let Some(body) = &snapshot.body else { return Ok(()) };
        let slot = &snapshot.slot;
        self.walked.snapshots += 1;
        for source in &body.sources {
            let Ok(base) = TreePath::from_bytes(source.root.base.to_vec()) else {
                self.nonsense(slot, "names a tree whose root is no path");
                continue;
            };
            if !source.ancestors.is_empty() && decode_leaf(&source.ancestors, &TreePath::root()).is_err() {
                self.nonsense(slot, "describes the directories above a source in a way that makes no sense");
            }
            let root = source.tree();
            let shape = Shape::Tree { level: root.level, base, first: None, entries: root.entries };
            let mut stack = vec![Claim { id: root.id, shape, bytes: root.bytes }];
            while let Some(claim) = stack.pop() {
                if self.seen.insert(claim.mark()) {
                    self.walked.nodes += 1;
                    self.check.control.progress.nodes.fetch_add(1, Ordering::Relaxed);
                    self.check.go_on()?;
                    self.node(reader, slot, claim, &mut stack)?;
                }
            }
        }
        Ok(())
    }

    fn nonsense(&self, slot: &ObjectKey, what: impl Into<String>) -> Option<Number> {
        self.check.at_risk();
        self.check.findings.damage(slot, what)
    }

    fn node(&mut self, reader: &ChunkReader<'_>, slot: &ObjectKey, claim: Claim, stack: &mut Vec<Claim>) -> Result<()> {
        let read = match &claim.shape {
            Shape::Tree { level: 0, .. } => match read_leaf(reader, &claim.id) {
                Ok(leaf) => {
                    if let Some(base) = leaf.base {
                        self.base(slot, &base)?;
                    }
                    Ok(leaf.bytes)
                }
                Err(error) => Err(error),
            },
            Shape::Tree { .. } => reader.tree_node(&claim.id),
            Shape::List { .. } => reader.list_node(&claim.id),
        };
        let wrong = match read {
            Err(error) => {
                self.check.absorb(error, PackKind::Metadata, slot)?;
                return Ok(());
            }
            Ok(bytes) => match self.children(reader, slot, &claim, &bytes, stack)? {
                Ok(()) => return self.node_place(slot, &claim.id),
                Err(cause) => NodeError { id: claim.id, cause },
            },
        };
        self.nonsense(slot, format!("leads to a node that makes no sense: {} ({})", wrong.id, wrong.cause));
        Ok(())
    }

    /// A full leaf that a patch was made on: it came back as what its id says. Its entries are no part of this snapshot, and it is counted where it is a
    /// leaf of another.
    fn base(&mut self, slot: &ObjectKey, id: &ChunkId) -> Result<()> {
        if self.seen.insert(base_mark(id)) { self.node_place(slot, id) } else { Ok(()) }
    }

    /// Nodes lie in metadata packs, so that their writer can read them.
    fn node_place(&self, slot: &ObjectKey, id: &ChunkId) -> Result<()> {
        match self.index.locate(id) {
            Ok(Some(place)) if place.pack.kind != PackKind::Metadata => {
                self.nonsense(slot, format!("leads to a node that lies in a data pack: {id}"));
            }
            Ok(_) => {}
            Err(error) => {
                self.check.absorb(error, PackKind::Metadata, slot)?;
            }
        }
        Ok(())
    }

    /// Decodes a node, compares it with its claim, and adds what it leads to. The inner result says whether it makes sense.
    fn children(
        &mut self,
        reader: &ChunkReader<'_>,
        slot: &ObjectKey,
        claim: &Claim,
        bytes: &Arc<Vec<u8>>,
        stack: &mut Vec<Claim>,
    ) -> Result<Result<(), Malformed>> {
        match &claim.shape {
            Shape::Tree { level: 0, base, first, entries } => {
                let leaf = match decode_leaf(bytes, base) {
                    Ok(leaf) => leaf,
                    Err(cause) => return Ok(Err(cause)),
                };
                let sum = leaf.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.kind.size()));
                if leaf.is_empty() {
                    return Ok(Err(Malformed("a leaf is empty")));
                }
                if first.as_ref().is_some_and(|first| *first != leaf[0].path) {
                    return Ok(Err(Malformed("it begins with another path than its parent says")));
                }
                for entry in &leaf {
                    self.entry(slot, entry, stack)?;
                }
                Ok(sums((leaf.len() as u64, sum), (*entries, claim.bytes)))
            }
            Shape::Tree { level, base, first, entries } => {
                if *level > LEVELS_MAX {
                    return Ok(Err(Malformed("a tree is too deep")));
                }
                let children = match decode_inner(bytes, *level, base) {
                    Ok(children) => children,
                    Err(cause) => return Ok(Err(cause)),
                };
                if first.as_ref().is_some_and(|first| *first != children[0].first) {
                    return Ok(Err(Malformed("it begins with another path than its parent says")));
                }
                let found = children.iter().fold((0u64, 0u64), |(entries, bytes), child| {
                    (entries.saturating_add(child.entries), bytes.saturating_add(child.bytes))
                });
                reader.bring(&mut children.iter().map(|child| &child.id));
                for child in children.into_iter().rev() {
                    let base = child.base();
                    let shape =
                        Shape::Tree { level: level - 1, base, first: Some(child.first), entries: child.entries };
                    stack.push(Claim { id: child.id, shape, bytes: child.bytes });
                }
                Ok(sums(found, (*entries, claim.bytes)))
            }
            Shape::List { depth } => {
                let node = match ListNode::decode(bytes) {
                    Ok(node) => node,
                    Err(cause) => return Ok(Err(cause)),
                };
                let found = match (node, *depth) {
                    (ListNode::Extents(extents), 1) => {
                        for extent in &extents {
                            self.extent(slot, extent, None)?;
                        }
                        extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.len()))
                    }
                    (ListNode::Children { level, children }, 2..=LIST_DEPTH_MAX) if level == depth - 1 => {
                        for (id, bytes) in children.iter().rev() {
                            stack.push(Claim { id: *id, shape: Shape::List { depth: depth - 1 }, bytes: *bytes });
                        }
                        children.iter().try_fold(0u64, |sum, (_, bytes)| sum.checked_add(*bytes))
                    }
                    _ => return Ok(Err(Malformed("a list is of another depth"))),
                };
                Ok(if found == Some(claim.bytes) {
                    Ok(())
                } else {
                    Err(Malformed("a list is not as long as its file"))
                })
            }
        }
    }

    fn entry(&mut self, slot: &ObjectKey, entry: &Entry, stack: &mut Vec<Claim>) -> Result<()> {
        match &entry.kind {
            Kind::File { content: Content::Extents(extents), .. } => {
                for extent in extents {
                    self.extent(slot, extent, Some(&entry.path))?;
                }
            }
            Kind::File { size, content: Content::Nodes { root, depth }, .. } => {
                stack.push(Claim { id: *root, shape: Shape::List { depth: *depth }, bytes: *size });
            }
            _ => {}
        }
        Ok(())
    }

    fn extent(&mut self, slot: &ObjectKey, extent: &Extent, path: Option<&TreePath>) -> Result<()> {
        let Extent::Data { id, len } = extent else { return Ok(()) };
        self.walked.references += 1;
        let fits = |place: &crate::pack::run::Location| place.len == *len && place.pack.kind == PackKind::Data;
        let place = match self.index.locate(id) {
            Ok(place) => place,
            Err(error) => {
                self.check.absorb(error, PackKind::Metadata, slot)?;
                return Ok(());
            }
        };
        let of = path.map(|path| format!(" for {path}")).unwrap_or_default();
        match place {
            Some(place) if fits(&place) => {}
            None => {
                let error = RepositoryError::ChunkUnknown { chunk: *id };
                self.nonsense(slot, format!("needs what is not there{of}: {error}"));
            }
            Some(place) => {
                let others = match self.index.locate_all(id) {
                    Ok(places) => places,
                    Err(error) => return self.check.absorb(error, PackKind::Metadata, slot).map(|_| ()),
                };
                if !others.iter().any(fits) {
                    let what = format!(
                        "needs chunk {id}{of} with {len} bytes in a data pack, and the index has one with {} bytes in {}",
                        place.len,
                        crate::pack::keys::pack(place.pack.kind, place.pack.id)
                    );
                    self.nonsense(slot, what);
                }
            }
        }
        Ok(())
    }
}

fn sums(found: (u64, u64), claimed: (u64, u64)) -> Result<(), Malformed> {
    if found == claimed { Ok(()) } else { Err(Malformed("its sums are not those that its parent says")) }
}
