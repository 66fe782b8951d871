//! The bytes of stored files, in order, and whether two files hold the same.
//!
//! Owns reading of one file in the memory of one chunk, and the comparison that reads as little as it can: ids first, bytes only where ids cannot tell.

use crate::pack::entry::{Content, Extent};
use crate::pack::list::ListReader;
use crate::repository::{self, ChunkReader};

/// Pieces of two files that are compared at once.
const PIECE: usize = 256 << 10;

/// A file's bytes, from its beginning on.
pub struct Bytes<'a> {
    reader: &'a ChunkReader<'a>,
    list: ListReader<'a, ChunkReader<'a>>,
    chunk: Vec<u8>,
    at: usize,
    hole: u64,
}

impl<'a> Bytes<'a> {
    pub fn new(reader: &'a ChunkReader<'a>, content: &Content) -> Self {
        Self { reader, list: ListReader::new(reader, content), chunk: Vec::new(), at: 0, hole: 0 }
    }

    /// Fills `buffer` from its beginning; less than all of it only at the end of the file.
    pub fn read(&mut self, buffer: &mut [u8]) -> repository::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let room = &mut buffer[filled..];
            if self.hole > 0 {
                let zeros = usize::try_from(self.hole).unwrap_or(usize::MAX).min(room.len());
                room[..zeros].fill(0);
                self.hole -= zeros as u64;
                filled += zeros;
            } else if self.at < self.chunk.len() {
                let some = room.len().min(self.chunk.len() - self.at);
                room[..some].copy_from_slice(&self.chunk[self.at..self.at + some]);
                self.at += some;
                filled += some;
            } else {
                match self.list.next_extent()? {
                    None => break,
                    Some(Extent::Hole { len }) => self.hole = len,
                    Some(Extent::Data { id, len }) => {
                        self.chunk = self.reader.data(&id)?;
                        if self.chunk.len() != len as usize {
                            return Err(repository::Error::ChunkUnknown { chunk: id });
                        }
                        self.at = 0;
                    }
                }
            }
        }
        Ok(filled)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Same {
    Yes,
    No,
    /// Only the bytes could tell, and this key may not read them.
    Unknown,
}

/// One side of a comparison.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub reader: &'a ChunkReader<'a>,
    pub content: &'a Content,
}

/// Whether two files of one size hold the same bytes. `one_group`: their chunks are named by the same key. `may_read`: this key opens content.
pub fn same(a: Side<'_>, b: Side<'_>, one_group: bool, may_read: bool) -> repository::Result<Same> {
    if one_group {
        if a.content == b.content {
            return Ok(Same::Yes);
        }
        if let Some(answer) = by_ids(a, b)? {
            return Ok(if answer { Same::Yes } else { Same::No });
        }
    }
    if !may_read {
        return Ok(Same::Unknown);
    }
    Ok(if first_difference(a, b)?.is_none() { Same::Yes } else { Same::No })
}

/// None: the chunks of the two begin and end at different places, though they may be the same bytes.
fn by_ids(a: Side<'_>, b: Side<'_>) -> repository::Result<Option<bool>> {
    let mut lists = (ListReader::new(a.reader, a.content), ListReader::new(b.reader, b.content));
    loop {
        match (lists.0.next_extent()?, lists.1.next_extent()?) {
            (None, None) => return Ok(Some(true)),
            (Some(a), Some(b)) if a == b => {}
            (Some(Extent::Data { len: a, .. }), Some(Extent::Data { len: b, .. })) if a == b => return Ok(Some(false)),
            _ => return Ok(None),
        }
    }
}

/// The first byte at which two files differ; the length of the shorter one, if it is the other's beginning.
pub fn first_difference(a: Side<'_>, b: Side<'_>) -> repository::Result<Option<u64>> {
    let mut files = (Bytes::new(a.reader, a.content), Bytes::new(b.reader, b.content));
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    let mut offset = 0;
    loop {
        let (a, b) = (files.0.read(&mut left)?, files.1.read(&mut right)?);
        let shared = a.min(b);
        if let Some(at) = (0..shared).find(|at| left[*at] != right[*at]) {
            return Ok(Some(offset + at as u64));
        }
        if a != b {
            return Ok(Some(offset + shared as u64));
        }
        if a == 0 {
            return Ok(None);
        }
        offset += shared as u64;
    }
}
