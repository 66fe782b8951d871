//! Which snapshots and files need what was found damaged.
//!
//! Owns the second walk over the trees, which happens only if there is damage. A chunk in a damaged pack is read: what still comes back, from there or from another copy, is
//! not affected. Memory: about 50 bytes for each node, so 48 MiB for a million, after the first walk's set is gone; and a node that two snapshots share is read once.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use super::Result;
use super::check::Check;
use super::finding::Number;
use crate::names::{ChunkId, ObjectKey, PackId, TreePath, escape};
use crate::pack::container::PackKind;
use crate::pack::entry::{Content, Extent, Kind};
use crate::pack::keys;
use crate::pack::list::ListReader;
use crate::pack::node::{Child, decode_inner, decode_leaf};
use crate::pack::patch::read_leaf;
use crate::pack::tree::{LEVELS_MAX, NodeError, NodeSource};
use crate::pack::wire::Malformed;
use crate::repository::{ChunkReader, Error as RepositoryError, Index, Snapshot, SnapshotState, Snapshots};

/// Findings that a subtree meets.
type Met = Arc<[Number]>;

/// Adds snapshots and paths to the findings.
pub fn map(check: &Check<'_>, index: &Index, snapshots: &Snapshots) -> Result<()> {
    let suspects = std::mem::take(&mut *check.suspects.lock().unwrap_or_else(PoisonError::into_inner));
    let whole = |snapshot: &&Snapshot| snapshot.body.is_some() && snapshot.state != SnapshotState::Expired;
    let mut order: Vec<&Snapshot> = snapshots.readable.iter().filter(whole).collect();
    order.sort_by_key(|snapshot| snapshot.writer);
    for snapshots in order.chunk_by(|a, b| a.writer == b.writer) {
        let reader = match ChunkReader::new(check.repository, index, snapshots[0].writer) {
            Ok(reader) => reader,
            Err(error) => {
                check.absorb(error, PackKind::Metadata, &snapshots[0].slot)?;
                continue;
            }
        };
        // Nodes are one writer's, so what is known of them is too.
        let mut walk = Walk { check, index, reader, suspects: &suspects, known: HashMap::new(), none: Arc::from([]) };
        for snapshot in snapshots {
            walk.snapshot(snapshot)?;
        }
    }
    Ok(())
}

struct Walk<'a> {
    check: &'a Check<'a>,
    index: &'a Index,
    reader: ChunkReader<'a>,
    suspects: &'a HashSet<PackId>,
    known: HashMap<[u8; 16], Met>,
    none: Met,
}

struct Place<'a> {
    slot: &'a ObjectKey,
    source: &'a [u8],
}

impl Place<'_> {
    fn path(&self, path: &TreePath) -> String {
        let source = self.source.strip_suffix(b"/").unwrap_or(self.source);
        if path.is_root() { escape(self.source) } else { escape(&[source, b"/", path.as_bytes()].concat()) }
    }
}

impl Walk<'_> {
    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let Some(body) = &snapshot.body else { return Ok(()) };
        for source in &body.sources {
            let root = source.tree();
            let place = Place { slot: &snapshot.slot, source: &source.name };
            let base_len = root.base.as_bytes().len();
            let child = Child { first: root.base, base_len, id: root.id, entries: root.entries, bytes: root.bytes };
            for number in self.node(&place, &child, root.level)?.iter() {
                self.check.findings.affects_snapshot(*number, snapshot.id);
            }
        }
        Ok(())
    }

    /// What the subtree of a node meets. Levels fall with every step, so the calls are at most `LEVELS_MAX` deep.
    fn node(&mut self, place: &Place<'_>, child: &Child, level: u8) -> Result<Met> {
        self.check.go_on()?;
        let mut mark = [0; 16];
        mark.copy_from_slice(&child.id.0[..16]);
        mark[15] ^= level;
        if let Some(met) = self.known.get(&mark) {
            return Ok(met.clone());
        }
        let mut met = BTreeSet::new();
        let wrong = |cause| RepositoryError::from(NodeError { id: child.id, cause });
        let base = child.base();
        if level > LEVELS_MAX {
            let error = wrong(Malformed("a tree is too deep"));
            self.lost(place, &base, error, &mut met)?;
            return Ok(met.into_iter().collect());
        }
        let read = match level {
            0 => read_leaf(&self.reader, &child.id).map(|leaf| leaf.bytes),
            _ => self.reader.tree_node(&child.id),
        };
        match read {
            Ok(bytes) if level == 0 => match decode_leaf(&bytes, &base).map_err(wrong) {
                Ok(entries) => {
                    for entry in entries {
                        if let Kind::File { content, .. } = &entry.kind {
                            self.file(place, &entry.path, content, &mut met)?;
                        }
                    }
                }
                Err(error) => self.lost(place, &base, error, &mut met)?,
            },
            Ok(bytes) => match decode_inner(&bytes, level, &base).map_err(wrong) {
                Ok(children) => {
                    for child in &children {
                        met.extend(self.node(place, child, level - 1)?.iter());
                    }
                }
                Err(error) => self.lost(place, &base, error, &mut met)?,
            },
            Err(error) => self.lost(place, &base, error, &mut met)?,
        }
        let met: Met = if met.is_empty() { self.none.clone() } else { met.into_iter().collect() };
        self.known.insert(mark, met.clone());
        Ok(met)
    }

    /// A node that cannot be read: everything beneath its directory may be lost with it.
    fn lost(
        &self,
        place: &Place<'_>,
        base: &TreePath,
        error: RepositoryError,
        met: &mut BTreeSet<Number>,
    ) -> Result<()> {
        if let Some(number) = self.check.absorb(error, PackKind::Metadata, place.slot)? {
            let directory = place.path(base);
            self.check
                .findings
                .affects_path(number, &format!("{}/…", directory.strip_suffix('/').unwrap_or(&directory)));
            met.insert(number);
        }
        Ok(())
    }

    fn file(&self, place: &Place<'_>, path: &TreePath, content: &Content, met: &mut BTreeSet<Number>) -> Result<()> {
        let mut own = BTreeSet::new();
        let mut extents = ListReader::new(&self.reader, content);
        loop {
            match extents.next_extent() {
                Ok(Some(Extent::Data { id, .. })) => self.chunk(place, &id, &mut own)?,
                Ok(Some(Extent::Hole { .. })) => {}
                Ok(None) => break,
                Err(error) => {
                    own.extend(self.check.absorb(error, PackKind::Metadata, place.slot)?);
                    break;
                }
            }
        }
        if !own.is_empty() {
            let shown = place.path(path);
            for number in &own {
                self.check.findings.affects_path(*number, &shown);
            }
            met.append(&mut own);
        }
        Ok(())
    }

    fn chunk(&self, place: &Place<'_>, id: &ChunkId, own: &mut BTreeSet<Number>) -> Result<()> {
        let places = match self.index.locate(id) {
            Ok(Some(first)) if !self.suspects.contains(&first.pack.id) => return Ok(()),
            Ok(Some(_)) => self.index.locate_all(id),
            Ok(None) => Ok(vec![]),
            Err(error) => Err(error),
        };
        let error = match places {
            Ok(places) if places.is_empty() => RepositoryError::ChunkUnknown { chunk: *id },
            Ok(places) if places.iter().any(|place| !self.suspects.contains(&place.pack.id)) => return Ok(()),
            Ok(places) => {
                // With a key that reads no content nothing can be said in the chunk's favour.
                match self.reader.data(id) {
                    Ok(_) => return Ok(()),
                    Err(RepositoryError::Store(error)) => {
                        let here = keys::pack(PackKind::Data, places[0].pack.id);
                        self.check.absorb(RepositoryError::Store(error), PackKind::Data, &here)?;
                    }
                    Err(_) => {}
                }
                for place in places {
                    own.extend(self.check.findings.of(&keys::pack(place.pack.kind, place.pack.id)));
                }
                return Ok(());
            }
            Err(error) => error,
        };
        let what = format!("needs what is not there: {error}");
        match error {
            RepositoryError::ChunkUnknown { .. } => own.extend(self.check.findings.damage(place.slot, what)),
            error => own.extend(self.check.absorb(error, PackKind::Data, place.slot)?),
        }
        Ok(())
    }
}
