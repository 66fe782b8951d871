//! What is needed of what is stored: for every pack, the chunks in it that somebody needs.
//!
//! Owns the merge of the index with what snapshots hold. A chunk that lies in several packs counts in one of them, its owner: what owns nothing can go. Only packs that the
//! store lists, and that nobody deleted, own anything.
//! Memory: a block of each run, 8 bytes for each frame, a bit for each entry, some 100 bytes for each pack.

use std::collections::{HashMap, HashSet};
use std::iter::Peekable;
use std::sync::atomic::AtomicBool;

use super::{Error, Result};
use crate::browse::{Held, go_on};
use crate::names::{ChunkId, PackId};
use crate::pack::keys;
use crate::pack::run::{Entries, EntryRow, PackRow, Run, RunError};
use crate::repository::{self, Index, SealedRun};

/// What a pack holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    pub row: PackRow,
    /// Chunks that the index knows in it, and their bytes as stored.
    pub chunks: u64,
    pub bytes: u64,
    /// Chunks that it owns, and their bytes as stored.
    pub live_chunks: u64,
    pub live_bytes: u64,
}

impl Account {
    /// Bytes that nobody needs; the pack's table and head are needed as long as anything is.
    pub fn dead_bytes(&self) -> u64 {
        if self.live_chunks == 0 { self.row.size } else { self.bytes.saturating_sub(self.live_bytes) }
    }
}

/// The accounts of all packs that the index names.
#[derive(Default)]
pub(super) struct Survey {
    pub accounts: Vec<Account>,
    places: HashMap<PackId, u32>,
    /// Chunks that a snapshot needs and no pack that may be used has.
    pub lost: u64,
    /// For each run of the index, a bit for each entry: its pack owns the chunk.
    owned: Vec<Vec<u64>>,
}

impl Survey {
    /// Goes through the index side by side with what is held. `may_own` says which packs can be relied on; of several copies the first in one that
    /// `is_preferred` owns.
    pub fn make(
        index: &Index,
        mut held: Held,
        may_own: &dyn Fn(&PackId) -> bool,
        is_preferred: &dyn Fn(&PackId) -> bool,
        cancel: &AtomicBool,
    ) -> Result<Self> {
        let mut survey = Self::default();
        let mut copies = Copies::new(index, &mut survey)?;
        let usable: Vec<(bool, bool)> =
            survey.accounts.iter().map(|account| (may_own(&account.row.id), is_preferred(&account.row.id))).collect();
        let mut found = Vec::new();
        while let Some(id) = copies.next(&mut found)? {
            go_on(cancel).map_err(Error::from)?;
            let is_held = held.has(&id)?;
            let mut owner: Option<&Found> = None;
            for copy in &found {
                let account = &mut survey.accounts[copy.pack as usize];
                account.chunks += 1;
                account.bytes += u64::from(copy.bytes);
                let (may, preferred) = usable[copy.pack as usize];
                let is_better = owner.is_none_or(|owner| preferred && !usable[owner.pack as usize].1);
                if is_held && may && is_better {
                    owner = Some(copy);
                }
            }
            if let Some(Found { pack, bytes, run, entry }) = owner {
                let account = &mut survey.accounts[*pack as usize];
                account.live_chunks += 1;
                account.live_bytes += u64::from(*bytes);
                if let Some(word) = survey.owned[*run].get_mut((*entry / 64) as usize) {
                    *word |= 1 << (*entry % 64);
                }
            } else if is_held {
                survey.lost += 1;
            }
        }
        survey.lost += held.passed_by()?;
        Ok(survey)
    }

    /// The chunks that each of some packs owns, sorted. `index` is the one that was surveyed.
    pub fn owned_by(&self, index: &Index, packs: &HashSet<PackId>) -> Result<HashMap<PackId, Vec<ChunkId>>> {
        let mut owned: HashMap<PackId, Vec<ChunkId>> = packs.iter().map(|pack| (*pack, Vec::new())).collect();
        for (run, bits) in index.runs().iter().zip(&self.owned) {
            let frames = run.frames_of(|row| packs.contains(&row.id)).map_err(|error| told(error, run))?;
            if frames.is_empty() {
                continue;
            }
            let mut of_frame = Vec::new();
            run.each_frame(|frame| of_frame.push(frame.pack)).map_err(|error| told(error, run))?;
            for (at, entry) in run.iter().enumerate() {
                let entry = entry.map_err(|error| told(error, run))?;
                let is_owned = bits.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1);
                if is_owned && frames.contains(entry.frame) {
                    let row = of_frame.get(entry.frame as usize).and_then(|pack| run.packs().get(*pack as usize));
                    if let Some(chunks) = row.and_then(|row| owned.get_mut(&row.id)) {
                        chunks.push(entry.id);
                    }
                }
            }
        }
        owned.values_mut().for_each(|chunks| chunks.sort_unstable());
        Ok(owned)
    }

    pub fn account(&self, pack: &PackId) -> Option<&Account> {
        self.places.get(pack).and_then(|place| self.accounts.get(*place as usize))
    }

    pub fn names(&self, pack: &PackId) -> bool {
        self.places.contains_key(pack)
    }

    /// The packs that own something.
    pub fn owners(&self) -> HashSet<PackId> {
        self.accounts.iter().filter(|account| account.live_chunks > 0).map(|account| account.row.id).collect()
    }

    fn place(&mut self, row: &PackRow) -> u32 {
        *self.places.entry(row.id).or_insert_with(|| {
            self.accounts.push(Account { row: *row, chunks: 0, bytes: 0, live_chunks: 0, live_bytes: 0 });
            self.accounts.len() as u32 - 1
        })
    }
}

/// A copy of a chunk.
struct Found {
    /// Its place in the survey.
    pack: u32,
    /// As stored.
    bytes: u32,
    run: usize,
    entry: u64,
}

/// All runs side by side, each chunk once, with every pack that has it.
struct Copies<'a> {
    runs: Vec<Cursor<'a>>,
}

struct Cursor<'a> {
    run: &'a Run<SealedRun>,
    entries: Peekable<Entries<'a, SealedRun>>,
    /// How many entries came out.
    at: u64,
    /// For each frame: its pack in the survey, and stored bytes for each byte of plaintext.
    frames: Vec<(u32, f32)>,
}

fn told(error: RunError<repository::Error>, run: &Run<SealedRun>) -> Error {
    Error::Repository(match error {
        RunError::Read(error) => error,
        RunError::Malformed(cause) => repository::Error::Index { key: keys::run(run.source().name), cause },
    })
}

impl<'a> Copies<'a> {
    fn new(index: &'a Index, survey: &mut Survey) -> Result<Self> {
        let mut runs = Vec::new();
        for run in index.runs() {
            let places: Vec<u32> = run.packs().iter().map(|row| survey.place(row)).collect();
            let mut frames = Vec::with_capacity(usize::try_from(run.frames()).unwrap_or(0));
            run.each_frame(|frame| {
                let place = places.get(frame.pack as usize).copied().unwrap_or(u32::MAX);
                frames.push((place, frame.stored_len as f32 / frame.plain_len.max(1) as f32));
            })
            .map_err(|error| told(error, run))?;
            survey.owned.push(vec![0; usize::try_from(run.entries().div_ceil(64)).unwrap_or(0)]);
            runs.push(Cursor { run, entries: run.iter().peekable(), at: 0, frames });
        }
        Ok(Self { runs })
    }

    /// The next chunk, and its copies.
    fn next(&mut self, found: &mut Vec<Found>) -> Result<Option<ChunkId>> {
        found.clear();
        let mut lowest: Option<ChunkId> = None;
        for cursor in &mut self.runs {
            match cursor.entries.peek() {
                Some(Ok(entry)) if lowest.is_none_or(|id| entry.id < id) => lowest = Some(entry.id),
                Some(Err(_)) => {
                    if let Some(Err(error)) = cursor.entries.next() {
                        return Err(told(error, cursor.run));
                    }
                }
                _ => {}
            }
        }
        let Some(id) = lowest else { return Ok(None) };
        for (run, Cursor { entries, frames, at, .. }) in self.runs.iter_mut().enumerate() {
            let same = |entry: &std::result::Result<EntryRow, RunError<repository::Error>>| matches!(entry, Ok(entry) if entry.id == id);
            while let Some(Ok(entry)) = entries.next_if(same) {
                if let Some((pack, ratio)) = frames.get(entry.frame as usize).filter(|(pack, _)| *pack != u32::MAX) {
                    found.push(Found { pack: *pack, bytes: (entry.len as f32 * ratio).ceil() as u32, run, entry: *at });
                }
                *at += 1;
            }
        }
        Ok(Some(id))
    }
}
