//! Nodes into metadata frames.
//!
//! Owns the one frame of nodes that is being filled, and which old nodes a patch may stand on. Called by the walk (tree nodes) and by workers (list nodes).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::pipeline::Shared;
use super::{Error, Result};
use crate::compression::Level;
use crate::names::ChunkId;
use crate::pack::list::ListSink;
use crate::pack::tree::{NodeSink, NodeSource};
use crate::repository::{ChunkReader, Class};
use crate::seal::compress::Codec;

/// Plaintext bytes of a metadata frame: small enough that one node is found without decoding much beside it.
const FRAME_BYTES: usize = 1 << 20;
/// Whatever is asked for content: a tree that is not compressed would be three times as large, and read again by every backup.
const LEVEL: Option<Level> = Some(Level::STANDARD);

#[derive(Default)]
struct Filling {
    plain: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
    codec: Codec,
    scratch: (Vec<u8>, Vec<u8>),
}

/// The metadata frame being filled.
#[derive(Default)]
pub struct Nodes {
    filling: Mutex<Filling>,
    patches: AtomicBool,
}

impl Nodes {
    fn put(&self, shared: &Shared<'_>, id: ChunkId, plaintext: &[u8]) -> Result<ChunkId> {
        if shared.must_store(&id)? {
            let mut filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
            filling.plain.extend_from_slice(plaintext);
            filling.chunks.push((id, plaintext.len() as u32)); // nodes are far below 4 GiB
            if filling.plain.len() >= FRAME_BYTES {
                store(shared, &mut filling)?;
            }
        }
        Ok(id)
    }

    /// Whether a tree of this session has leaves that are patches.
    pub fn have_patches(&self) -> bool {
        self.patches.load(Ordering::Relaxed)
    }

    /// Stores what is left.
    pub fn flush(&self, shared: &Shared<'_>) -> Result<()> {
        store(shared, &mut self.filling.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn store(shared: &Shared<'_>, filling: &mut Filling) -> Result<()> {
    let Filling { plain, chunks, codec, scratch } = filling;
    if !chunks.is_empty() {
        shared.packer.store_frame(Class::Metadata, LEVEL, plain, chunks, codec, scratch)?;
        plain.clear();
        chunks.clear();
    }
    Ok(())
}

/// The sink of lists, and of trees that have none before them.
pub struct Sink<'s, 'a>(pub &'s Shared<'a>);

impl NodeSink for Sink<'_, '_> {
    type Error = Error;
    fn put_tree_node(&mut self, plaintext: Vec<u8>) -> Result<ChunkId> {
        let id = self.0.ids.tree(&plaintext);
        self.0.nodes.put(self.0, id, &plaintext)
    }
}

impl ListSink for Sink<'_, '_> {
    type Error = Error;
    fn put_list_node(&mut self, plaintext: Vec<u8>) -> Result<ChunkId> {
        let id = self.0.ids.list(&plaintext);
        self.0.nodes.put(self.0, id, &plaintext)
    }
}

/// The sink of a tree that has one before it, or may have.
pub struct TreeSink<'s, 'a, 'r> {
    pub shared: &'s Shared<'a>,
    pub old: Option<&'r ChunkReader<'r>>,
}

impl NodeSink for TreeSink<'_, '_, '_> {
    type Error = Error;
    fn put_tree_node(&mut self, plaintext: Vec<u8>) -> Result<ChunkId> {
        Sink(self.shared).put_tree_node(plaintext)
    }

    fn has_tree_node(&mut self, plaintext: &[u8]) -> Result<bool> {
        self.shared.has(&self.shared.ids.tree(plaintext))
    }

    /// Only what the index of this session names and what comes back whole: a patch on anything else would be lost with it.
    fn old_tree_node(&mut self, id: &ChunkId) -> Result<Option<Arc<Vec<u8>>>> {
        let Some(reader) = self.old else { return Ok(None) };
        if !self.shared.has(id)? {
            return Ok(None);
        }
        match reader.tree_node(id) {
            Ok(node) => Ok(Some(node)),
            Err(error) if error.is_damage() => {
                tracing::warn!(%error, "a leaf of the snapshot before is damaged; the new one is stored whole");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn has_patch(&mut self) {
        self.shared.nodes.patches.store(true, Ordering::Relaxed);
    }
}
