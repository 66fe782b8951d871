//! How much is stored, and for whom.
//!
//! Owns the counts. They come from the index and the listing of the store; with shares, from every tree as well. Refuses to read a pack of files' content.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::share::Sets;
use super::spill::Sorted;
use super::{Damage, Result, go_on, held};
use crate::names::ChunkId;
use crate::pack::container::PackKind;
use crate::pack::keys::{self, Meaning};
use crate::pack::run::{Entries, EntryRow, Run, RunError};
use crate::repository::{self, Index, Repository, SealedRun, Snapshot};

/// Content of files, or nodes of trees and lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sort {
    pub packs: u64,
    /// Bytes of the packs, as stored.
    pub pack_bytes: u64,
    pub frames: u64,
    /// Different chunks, each counted once.
    pub chunks: u64,
    /// Their plaintext.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub content: Sort,
    pub metadata: Sort,
    pub objects: u64,
    /// Bytes of all objects.
    pub stored_bytes: u64,
}

/// What one of several holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Share {
    /// Plaintext of the different chunks that it holds.
    pub held_bytes: u64,
    /// Of those, chunks that no other holds.
    pub unique_bytes: u64,
    /// The same as stored: what would be free without it.
    pub unique_stored_bytes: u64,
    /// Every stored chunk, divided evenly among those that hold it.
    pub stored_share_bytes: u64,
}

#[derive(Debug, Default)]
pub struct Shares {
    /// By number, as the snapshots were numbered.
    pub of: Vec<Share>,
    /// Stored chunks that no snapshot holds any more.
    pub unheld_bytes: u64,
    pub unheld_stored_bytes: u64,
}

/// Counts what the store lists and what the index knows.
pub fn totals(repository: &Repository, index: &Index) -> repository::Result<Totals> {
    let mut totals = Totals::default();
    for listed in repository.store.list("")? {
        totals.objects += 1;
        totals.stored_bytes += listed.size;
        if let Some(Meaning::Pack(kind, _)) = keys::parse(&listed.key) {
            let sort = totals.sort(kind);
            sort.packs += 1;
            sort.pack_bytes += listed.size;
        }
    }
    let mut merged = Merged::new(index)?;
    for frames in &merged.frames {
        for frame in frames {
            totals.sort(if frame.is_sign_negative() { PackKind::Metadata } else { PackKind::Data }).frames += 1;
        }
    }
    while let Some(chunk) = merged.next()? {
        let sort = totals.sort(chunk.kind);
        sort.chunks += 1;
        sort.bytes += u64::from(chunk.len);
    }
    Ok(totals)
}

impl Totals {
    fn sort(&mut self, kind: PackKind) -> &mut Sort {
        match kind {
            PackKind::Data => &mut self.content,
            PackKind::Metadata => &mut self.metadata,
        }
    }
}

/// Divides what is stored among `count` holders. Each snapshot comes with the number of its holder. `scratch`: a directory for notes.
pub fn shares(
    repository: &Repository,
    index: &Index,
    snapshots: &[(&Snapshot, usize)],
    count: usize,
    scratch: &Path,
    damage: &mut dyn FnMut(Damage),
    cancel: &AtomicBool,
) -> Result<Shares> {
    let mut sets = Sets::default();
    let notes = held::note(repository, index, snapshots, scratch, &mut |set| Some(sets.number(set)), damage, cancel)?;
    divide(index, &mut sets, notes, count, cancel)
}

/// Goes through the index and the notes side by side.
fn divide(index: &Index, sets: &mut Sets, mut notes: Sorted, count: usize, cancel: &AtomicBool) -> Result<Shares> {
    let mut merged = Merged::new(index)?;
    // By the set of holders: plaintext, and bytes as stored.
    let mut sums: HashMap<u32, (u64, f64)> = HashMap::new();
    let (mut unheld, mut unheld_stored) = (0, 0.0);
    while let Some(chunk) = merged.next()? {
        go_on(cancel)?;
        let mut holders = None;
        notes.of(&chunk.id, |set| holders = Some(holders.map_or(set, |known| sets.union(known, set))))?;
        let (plain, stored) = match holders {
            Some(set) => {
                let sum = sums.entry(set).or_default();
                (&mut sum.0, &mut sum.1)
            }
            None => (&mut unheld, &mut unheld_stored),
        };
        *plain += u64::from(chunk.len);
        *stored += f64::from(chunk.len) * f64::from(chunk.ratio);
    }
    let mut shares = vec![Share::default(); count];
    let mut exact = vec![0.0; count];
    for (set, (plain, stored)) in sums {
        let holders: Vec<usize> = sets.get(set).iter().collect();
        for holder in &holders {
            let share = &mut shares[*holder];
            share.held_bytes += plain;
            exact[*holder] += stored / holders.len() as f64;
            if holders.len() == 1 {
                share.unique_bytes += plain;
                share.unique_stored_bytes += stored.round() as u64;
            }
        }
    }
    shares.iter_mut().zip(exact).for_each(|(share, exact)| share.stored_share_bytes = exact.round() as u64);
    Ok(Shares { of: shares, unheld_bytes: unheld, unheld_stored_bytes: unheld_stored.round() as u64 })
}

/// A chunk as the index knows it.
struct Chunk {
    id: ChunkId,
    len: u32,
    kind: PackKind,
    /// Stored bytes for each byte of plaintext, as its frame has it.
    ratio: f32,
}

/// All runs of an index side by side, each chunk once, in the order of ids. Memory: a block of each run, and four bytes for each frame.
struct Merged<'a> {
    sources: Vec<&'a Run<SealedRun>>,
    runs: Vec<std::iter::Peekable<Entries<'a, SealedRun>>>,
    /// For each run and frame: stored by plain bytes; negative for metadata.
    frames: Vec<Vec<f32>>,
}

fn told(error: RunError<repository::Error>, run: &Run<SealedRun>) -> repository::Error {
    match error {
        RunError::Read(error) => error,
        RunError::Malformed(cause) => repository::Error::Index { key: keys::run(run.source().name), cause },
    }
}

impl<'a> Merged<'a> {
    fn new(index: &'a Index) -> repository::Result<Self> {
        let (mut sources, mut runs, mut frames) = (Vec::new(), Vec::new(), Vec::new());
        for run in index.runs() {
            let mut of_run = Vec::with_capacity(usize::try_from(run.frames()).unwrap_or(0));
            run.each_frame(|frame| {
                let ratio = frame.stored_len as f32 / (frame.plain_len.max(1)) as f32;
                let metadata = run.packs().get(frame.pack as usize).is_some_and(|pack| pack.kind == PackKind::Metadata);
                of_run.push(if metadata { -ratio } else { ratio });
            })
            .map_err(|error| told(error, run))?;
            frames.push(of_run);
            runs.push(run.iter().peekable());
            sources.push(&**run);
        }
        Ok(Self { sources, runs, frames })
    }

    fn next(&mut self) -> repository::Result<Option<Chunk>> {
        let mut lowest: Option<ChunkId> = None;
        for (run, source) in self.runs.iter_mut().zip(&self.sources) {
            match run.peek() {
                Some(Ok(entry)) if lowest.is_none_or(|id| entry.id < id) => lowest = Some(entry.id),
                Some(Err(_)) => {
                    if let Some(Err(error)) = run.next() {
                        return Err(told(error, source));
                    }
                }
                _ => {}
            }
        }
        let Some(id) = lowest else { return Ok(None) };
        let mut found: Option<Chunk> = None;
        for (run, frames) in self.runs.iter_mut().zip(&self.frames) {
            let same = |entry: &std::result::Result<EntryRow, RunError<repository::Error>>| matches!(entry, Ok(entry) if entry.id == id);
            while let Some(Ok(entry)) = run.next_if(same) {
                let ratio = frames.get(entry.frame as usize).copied().unwrap_or(0.0);
                let kind = if ratio.is_sign_negative() { PackKind::Metadata } else { PackKind::Data };
                found = found.or(Some(Chunk { id, len: entry.len, kind, ratio: ratio.abs() }));
            }
        }
        Ok(found)
    }
}
