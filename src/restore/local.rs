//! What stands in the target already, chunk by chunk.
//!
//! Owns the comparison of local bytes with the ids of a snapshot. Refuses to trust names, sizes and times where a restore was interrupted: without a
//! sync, a crash of the machine can leave whole names on empty files.

use super::content::is_local;
use super::{Control, Error, Result};
use crate::pack::entry::{Content, Extent};
use crate::pack::list::{ListReader, ListSource};
use crate::repository;
use crate::seal::key::IdKeys;
use crate::target::TargetFile;

const ZEROS_READ: usize = 1 << 20;

/// How local bytes compare with a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Same {
    Yes,
    /// They differ from this byte on, or a little before.
    No {
        at: u64,
    },
    /// The list of chunks is damaged, so nobody knows.
    Unknown,
}

/// Compares all of `file` with `content` of `size` bytes. `buffer` is scratch.
pub(super) fn compare<S: ListSource<Error = repository::Error>>(
    lists: &S,
    ids: &IdKeys,
    content: &Content,
    size: u64,
    file: &TargetFile,
    control: &Control,
    buffer: &mut Vec<u8>,
) -> Result<Same> {
    let (mut reader, mut offset) = (ListReader::new(lists, content), 0u64);
    loop {
        control.go_on()?;
        let extent = match reader.next_extent() {
            Ok(Some(extent)) => extent,
            Ok(None) => break,
            Err(error) if is_local(&error) => return Ok(Same::Unknown),
            Err(error) => return Err(error.into()),
        };
        let good = match extent {
            Extent::Data { id, len } => read_chunk(file, offset, len, buffer)? && ids.data(buffer) == id,
            Extent::Hole { len } => is_zero(file, offset, len, control, buffer)?,
        };
        if !good {
            return Ok(Same::No { at: offset });
        }
        offset = offset.saturating_add(extent.len());
    }
    let ends = offset == size && !read_chunk(file, offset, 1, buffer)?;
    Ok(if ends { Same::Yes } else { Same::No { at: offset } })
}

/// Reads `len` bytes into `buffer`; false if the file ends before.
pub(super) fn read_chunk(file: &TargetFile, offset: u64, len: u32, buffer: &mut Vec<u8>) -> Result<bool> {
    // A chunk's length comes from the store: memory is taken only for bytes that are there.
    let there = file.stat.size.checked_sub(offset).is_some_and(|rest| rest >= u64::from(len));
    if !there && len > 1 {
        return Ok(false);
    }
    buffer.resize(len as usize, 0);
    Ok(file.read_at(buffer, offset).map_err(Error::from)? == len as usize)
}

fn is_zero(file: &TargetFile, offset: u64, len: u64, control: &Control, buffer: &mut Vec<u8>) -> Result<bool> {
    let mut done = 0;
    while done < len {
        control.go_on()?;
        let step = (len - done).min(ZEROS_READ as u64);
        if !read_chunk(file, offset.saturating_add(done), step as u32, buffer)? || buffer.iter().any(|byte| *byte != 0)
        {
            return Ok(false);
        }
        done += step;
    }
    Ok(true)
}
