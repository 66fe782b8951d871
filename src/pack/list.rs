//! Extent lists: short ones stand in the entry, long ones in nodes (`FORMAT.md`, section 8).
//!
//! Owns where list nodes end, and the walk. A list of any length is built and read in the memory of one node for each level.

use std::sync::Arc;

use crate::names::ChunkId;
use crate::pack::entry::{Content, Extent};
use crate::pack::node::ListNode;
use crate::pack::tree::NodeError;
use crate::pack::wire::Malformed;

/// More extents than this stand in nodes.
pub const INLINE_EXTENTS: usize = 64;
const NODE_MIN: usize = 64;
const NODE_MAX: usize = 2048;
const NODE_CUT: u32 = u32::MAX / 256;
/// No file has more levels of list nodes.
pub const LIST_DEPTH_MAX: u8 = 8;

/// Where finished list nodes go.
pub trait ListSink {
    type Error;
    fn put_list_node(&mut self, plaintext: Vec<u8>) -> Result<ChunkId, Self::Error>;
}

/// Where list nodes come from: bytes that were checked against their id.
pub trait ListSource {
    type Error: From<NodeError>;
    fn list_node(&self, id: &ChunkId) -> Result<Arc<Vec<u8>>, Self::Error>;
}

/// Builds the content of one file from its extents in order.
#[derive(Default)]
pub struct ListBuilder {
    extents: Vec<Extent>,
    /// Closed nodes by level, the lowest first: id and bytes beneath.
    levels: Vec<Vec<(ChunkId, u64)>>,
}

fn cuts(id: &ChunkId) -> bool {
    u32::from_le_bytes([id.0[0], id.0[1], id.0[2], id.0[3]]) < NODE_CUT
}

impl ListBuilder {
    /// Adds the next extent. Neighbouring holes become one; empty ones vanish.
    pub fn push<S: ListSink>(&mut self, extent: Extent, sink: &mut S) -> Result<(), S::Error> {
        if extent.is_empty() {
            return Ok(());
        }
        if let (Some(Extent::Hole { len }), Extent::Hole { len: more }) = (self.extents.last_mut(), extent) {
            *len += more;
            return Ok(());
        }
        let full = match self.extents.last() {
            Some(Extent::Data { id, .. }) => self.extents.len() >= NODE_MIN && cuts(id),
            _ => false,
        };
        if full || self.extents.len() == NODE_MAX {
            self.close_extents(sink)?;
        }
        self.extents.push(extent);
        Ok(())
    }

    fn close_extents<S: ListSink>(&mut self, sink: &mut S) -> Result<(), S::Error> {
        let extents = std::mem::take(&mut self.extents);
        let bytes = extents.iter().map(|extent| extent.len()).sum();
        let id = sink.put_list_node(ListNode::Extents(extents).encode())?;
        self.add(0, (id, bytes), sink)
    }

    fn add<S: ListSink>(&mut self, level: usize, child: (ChunkId, u64), sink: &mut S) -> Result<(), S::Error> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let children = &mut self.levels[level];
        let full = children.len() >= NODE_MIN && children.last().is_some_and(|(id, _)| cuts(id));
        if full || children.len() == NODE_MAX {
            let children = std::mem::take(children);
            let parent = close(level, children, sink)?;
            self.add(level + 1, parent, sink)?;
        }
        self.levels[level].push(child);
        Ok(())
    }

    pub fn finish<S: ListSink>(mut self, sink: &mut S) -> Result<Content, S::Error> {
        if self.levels.is_empty() && self.extents.len() <= INLINE_EXTENTS {
            return Ok(Content::Extents(self.extents));
        }
        if !self.extents.is_empty() {
            self.close_extents(sink)?;
        }
        let mut level = 0;
        loop {
            let children = std::mem::take(&mut self.levels[level]);
            if level + 1 == self.levels.len() && children.len() == 1 {
                return Ok(Content::Nodes { root: children[0].0, depth: level as u8 + 1 });
            }
            if !children.is_empty() {
                let parent = close(level, children, sink)?;
                self.add(level + 1, parent, sink)?;
            }
            level += 1;
        }
    }
}

fn close<S: ListSink>(level: usize, children: Vec<(ChunkId, u64)>, sink: &mut S) -> Result<(ChunkId, u64), S::Error> {
    let bytes = children.iter().map(|(_, bytes)| bytes).sum();
    let id = sink.put_list_node(ListNode::Children { level: level as u8 + 1, children }.encode())?;
    Ok((id, bytes))
}

/// Reads the extents of a file in order.
pub struct ListReader<'a, S: ListSource> {
    source: &'a S,
    extents: std::vec::IntoIter<Extent>,
    /// Nodes still to be read, the next one last: id, and its depth.
    pending: Vec<(ChunkId, u8)>,
}

impl<'a, S: ListSource> ListReader<'a, S> {
    pub fn new(source: &'a S, content: &Content) -> Self {
        match content {
            Content::Extents(extents) => Self { source, extents: extents.clone().into_iter(), pending: vec![] },
            Content::Nodes { root, depth } => {
                Self { source, extents: vec![].into_iter(), pending: vec![(*root, *depth)] }
            }
        }
    }

    pub fn next_extent(&mut self) -> Result<Option<Extent>, S::Error> {
        loop {
            if let Some(extent) = self.extents.next() {
                return Ok(Some(extent));
            }
            let Some((id, depth)) = self.pending.pop() else { return Ok(None) };
            let wrong = |cause| S::Error::from(NodeError { id, cause });
            let node = ListNode::decode(&self.source.list_node(&id)?).map_err(wrong)?;
            match (node, depth) {
                (ListNode::Extents(extents), 1) => self.extents = extents.into_iter(),
                (ListNode::Children { level, children }, 2..=LIST_DEPTH_MAX) if level == depth - 1 => {
                    self.pending.extend(children.iter().rev().map(|(id, _)| (*id, depth - 1)));
                }
                _ => return Err(wrong(Malformed("a list is of another depth"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Memory(HashMap<ChunkId, Arc<Vec<u8>>>);

    impl ListSink for Memory {
        type Error = NodeError;
        fn put_list_node(&mut self, plaintext: Vec<u8>) -> Result<ChunkId, NodeError> {
            let id = ChunkId(*blake3::hash(&plaintext).as_bytes());
            self.0.insert(id, Arc::new(plaintext));
            Ok(id)
        }
    }

    impl ListSource for Memory {
        type Error = NodeError;
        fn list_node(&self, id: &ChunkId) -> Result<Arc<Vec<u8>>, NodeError> {
            Ok(self.0[id].clone())
        }
    }

    fn extents(count: u64) -> Vec<Extent> {
        (0..count)
            .map(|n| match n % 5 {
                4 => Extent::Hole { len: n + 1 },
                _ => Extent::Data { id: ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes()), len: 100 },
            })
            .collect()
    }

    fn build(extents: &[Extent], memory: &mut Memory) -> Content {
        let mut builder = ListBuilder::default();
        for extent in extents {
            builder.push(*extent, memory).unwrap();
        }
        builder.finish(memory).unwrap()
    }

    #[test]
    fn lists_of_every_length_come_back() {
        for count in [0, 1, 63, 64, 65, 1000, 50_000, 200_000] {
            let (mut memory, extents) = (Memory::default(), extents(count));
            let content = build(&extents, &mut memory);
            assert_eq!(matches!(content, Content::Extents(_)), count <= 64, "{count}");
            let mut reader = ListReader::new(&memory, &content);
            let back: Vec<Extent> = std::iter::from_fn(|| reader.next_extent().unwrap()).collect();
            assert!(back == extents, "{count}");
        }
    }

    #[test]
    fn one_changed_extent_rewrites_few_nodes() {
        let (mut memory, mut extents) = (Memory::default(), extents(100_000));
        build(&extents, &mut memory);
        let before = memory.0.len();
        extents[50_001] = Extent::Data { id: ChunkId([9; 32]), len: 100 };
        build(&extents, &mut memory);
        assert!(memory.0.len() - before <= 5, "{} new nodes", memory.0.len() - before);
    }

    #[test]
    fn neighbouring_holes_become_one() {
        let mut memory = Memory::default();
        let content = build(&[Extent::Hole { len: 3 }, Extent::Hole { len: 4 }], &mut memory);
        assert_eq!(content, Content::Extents(vec![Extent::Hole { len: 7 }]));
    }
}
