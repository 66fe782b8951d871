//! Notes about more chunks than memory should hold, given back in the order of ids.
//!
//! Owns sorting: a buffer of notes, and sorted files without a name where it spills over. Memory: `NOTES_MAX` notes of 16 bytes, and a buffer for each file.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Error, Result};
use crate::names::ChunkId;

/// Notes in memory: 16 MiB.
const NOTES_MAX: usize = 1 << 20;
const NOTE_BYTES: usize = 16;
/// As much of an id as tells chunks apart: ids are keyed hashes, and of 10^12 of them two share 96 bits with odds of one in 10^5.
const ID_BYTES: usize = 12;

type Start = [u8; ID_BYTES];
type Note = (Start, u32);

fn start(id: &ChunkId) -> Start {
    let mut start = [0; ID_BYTES];
    start.copy_from_slice(&id.0[..ID_BYTES]);
    start
}

pub(super) struct Spill {
    directory: PathBuf,
    notes: Vec<Note>,
    files: Vec<File>,
    max: usize,
}

impl Spill {
    pub fn new(directory: &Path) -> Self {
        Self::with_room(directory, NOTES_MAX)
    }

    fn with_room(directory: &Path, max: usize) -> Self {
        Self { directory: directory.to_owned(), notes: Vec::new(), files: Vec::new(), max }
    }

    pub fn note(&mut self, id: &ChunkId, set: u32) -> Result<()> {
        self.notes.push((start(id), set));
        if self.notes.len() < self.max {
            return Ok(());
        }
        self.sort();
        // Sorting that found many alike made room enough.
        if self.notes.len() > self.max / 2 { self.write().map_err(|cause| self.failed(cause)) } else { Ok(()) }
    }

    fn failed(&self, cause: io::Error) -> Error {
        Error::Scratch { directory: self.directory.clone(), cause }
    }

    fn sort(&mut self) {
        self.notes.sort_unstable();
        self.notes.dedup();
    }

    fn write(&mut self) -> io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!(".lifeboat-notes-{}-{number}", std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        std::fs::remove_file(&path)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        for (id, set) in self.notes.drain(..) {
            out.write_all(&id)?;
            out.write_all(&set.to_le_bytes())?;
        }
        let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        self.files.push(file);
        Ok(())
    }

    /// Ends the notes; they come back in order.
    pub fn finish(mut self) -> Result<Sorted> {
        self.sort();
        let mut runs: Vec<Run> = Vec::new();
        for file in std::mem::take(&mut self.files) {
            runs.push(Run::File(BufReader::with_capacity(64 << 10, file)));
        }
        runs.push(Run::Memory(std::mem::take(&mut self.notes).into_iter()));
        let heads = runs.iter_mut().map(Run::next).collect::<io::Result<_>>().map_err(|cause| self.failed(cause))?;
        Ok(Sorted { directory: self.directory, runs, heads, passed_by: 0 })
    }
}

enum Run {
    Memory(std::vec::IntoIter<Note>),
    File(BufReader<File>),
}

impl Run {
    fn next(&mut self) -> io::Result<Option<Note>> {
        match self {
            Run::Memory(notes) => Ok(notes.next()),
            Run::File(file) => {
                if io::BufRead::fill_buf(file)?.is_empty() {
                    return Ok(None);
                }
                let (mut id, mut set) = ([0; ID_BYTES], [0; NOTE_BYTES - ID_BYTES]);
                file.read_exact(&mut id)?;
                file.read_exact(&mut set)?;
                Ok(Some((id, u32::from_le_bytes(set))))
            }
        }
    }
}

/// Notes in the order of ids.
pub(super) struct Sorted {
    directory: PathBuf,
    runs: Vec<Run>,
    heads: Vec<Option<Note>>,
    passed_by: u64,
}

impl Sorted {
    /// Calls `each` with every set that was noted for `id`. Ids that are asked for must grow; notes of others before it are passed over.
    pub fn of(&mut self, id: &ChunkId, mut each: impl FnMut(u32)) -> Result<()> {
        let wanted = start(id);
        for (run, head) in self.runs.iter_mut().zip(&mut self.heads) {
            while let Some((id, set)) = *head
                && id <= wanted
            {
                if id == wanted {
                    each(set);
                } else {
                    self.passed_by += 1;
                }
                *head = run.next().map_err(|cause| Error::Scratch { directory: self.directory.clone(), cause })?;
            }
        }
        Ok(())
    }

    /// Notes of ids that nobody asked for, those that are left among them.
    pub fn pass_by_the_rest(&mut self) -> Result<u64> {
        self.of(&ChunkId([0xff; 32]), |_| ())?;
        Ok(self.passed_by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_in_order_though_they_filled_memory_many_times() {
        let dir = tempfile::tempdir().unwrap();
        let mut spill = Spill::with_room(dir.path(), 100);
        let id = |n: u64| ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes());
        for round in 0..3 {
            (0..1000).for_each(|n| spill.note(&id(n), (n % 7) as u32 + round).unwrap());
        }
        assert!(spill.files.len() > 10 && std::fs::read_dir(dir.path()).unwrap().next().is_none());
        let mut sorted = spill.finish().unwrap();
        let mut ids: Vec<(ChunkId, u64)> = (0..1000).map(|n| (id(n), n)).collect();
        ids.sort();
        for (id, n) in ids {
            let mut sets = Vec::new();
            sorted.of(&id, |set| sets.push(set)).unwrap();
            sets.sort_unstable();
            let first = (n % 7) as u32;
            assert_eq!(sets, [first, first + 1, first + 2]);
        }
    }
}
