//! Verify: proof that what a repository holds is what was stored. The same road as a restore, with nothing written anywhere.
//!
//! Owns what is checked at each level, and which snapshots and files a finding touches. Refuses to repair and to delete: a check that fails changes nothing.
//! Each level includes the ones before:
//!
//! - *structure*: a listing, the small objects, the index, and the last 16 bytes of each pack (on a store that is far away, of what the store does not list as
//!   it did when this host found it sound: `ledger`);
//! - *metadata*: every tree of every readable snapshot, and every byte of the metadata packs;
//! - *data*: every byte stored, referenced or not; every chunk decrypted, decompressed and named again.
//!
//! What cannot be seen: that an object was removed which nothing names, such as a slot, a probe, a revocation, the last mark on a snapshot, or the newest snapshot
//! where it had changed nothing.
//!
//! Memory: at most 96 MiB on a local store with an index of usual size: 8 workers of about 9 MiB (`packs`) and 8 MiB of index blocks; or, never at the same time, the sets of a walk over
//! the trees (`trees`, `affected`). Beside that stand the listing, 48 bytes a pack, and the index's own filters.

mod affected;
mod check;
mod deleted;
mod finding;
mod ledger;
mod lineage;
mod packs;
mod pieces;
mod runs;
mod sample;
mod sealed;
mod trees;

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;

use self::check::{Check, Listing};
use self::ledger::Ledger;
use self::packs::{Depth, Expected, Job, WORKERS_MAX};
use crate::names::NameError;
use crate::pack::container::PackKind;
use crate::repository::{self, Repository, SnapshotState, Snapshots};

pub use finding::{FINDINGS_MAX, Finding, PATHS_MAX, Severity};
pub use sample::{Sample, Sampled};

/// How much is proven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    #[default]
    Structure,
    Metadata,
    Data,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Structure => "structure",
            Level::Metadata => "metadata",
            Level::Data => "data",
        }
    }
}

impl FromStr for Level {
    type Err = NameError;
    fn from_str(text: &str) -> std::result::Result<Self, NameError> {
        [Level::Structure, Level::Metadata, Level::Data]
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| NameError { what: "a level (structure, metadata, data)", text: text.to_owned() })
    }
}

#[derive(Clone, Debug, Default)]
pub struct Request {
    pub level: Level,
    /// At level data: how many packs are read for their content. None: all.
    pub sample: Option<Sample>,
    /// Chooses the sample; none: drawn, and told in the report.
    pub seed: Option<u64>,
    /// Threads that read packs; 0: one for each core, and never more than eight.
    pub workers: usize,
}

/// What watches a check and can end it. Counters only grow.
#[derive(Clone, Debug, Default)]
pub struct Control {
    pub cancel: Arc<AtomicBool>,
    pub progress: Arc<Progress>,
}

#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes read of objects and packs.
    pub bytes: AtomicU64,
    /// Bytes of the packs that will be read whole, once they are known.
    pub bytes_total: AtomicU64,
    pub packs: AtomicU64,
    pub nodes: AtomicU64,
    pub findings: AtomicU64,
}

/// What a check saw.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub level: Level,
    /// Objects listed, packs among them.
    pub objects: u64,
    pub packs: u64,
    /// Packs of which every byte was read.
    pub packs_read: u64,
    /// Bytes read of objects and packs; tree nodes, which come through the index, are not counted again.
    pub bytes_read: u64,
    /// Commit slots that hold a manifest that verifies.
    pub snapshots: u64,
    /// Tree and list nodes, each once.
    pub nodes: u64,
    /// Chunks that the index names, nodes among them; a chunk that two of its runs name counts twice.
    pub chunks: u64,
    /// Chunks whose id was computed again from their plaintext.
    pub chunks_checked: u64,
    pub findings: Vec<Finding>,
    /// Findings beyond `FINDINGS_MAX`.
    pub findings_omitted: u64,
    /// Packs that no index run names: what an interrupted backup leaves. No damage.
    pub unreferenced_packs: u64,
    pub unreferenced_bytes: u64,
    pub sampled: Option<Sampled>,
    /// What was not checked, and why: whole sentences.
    pub notes: Vec<String>,
    pub seconds: f64,
}

impl Report {
    /// How many objects are damaged, as far as they were told.
    pub fn damaged(&self) -> usize {
        self.findings.iter().filter(|finding| finding.severity == Severity::Damage).count()
    }

    /// Whether nothing is damaged (else exit code 13).
    pub fn is_sound(&self) -> bool {
        self.damaged() == 0 && self.findings_omitted == 0
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a sample is above 0 % and at most 100 %, or at least one pack")]
    Sample,
    #[error("a sample belongs to level data, and the level is {}", .0.as_str())]
    SampleWithoutData(Level),
    #[error("the check was cancelled")]
    Cancelled,
    #[error("a worker thread ended by a defect of this program; the check is not complete")]
    Worker,
    #[error(transparent)]
    Repository(#[from] repository::Error),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Checks a repository. Damage is a finding and no error; an error says that the check is not complete.
pub fn run(repository: &Repository, request: &Request, control: &Control) -> Result<Report> {
    let began = Instant::now();
    match request.sample {
        Some(_) if request.level != Level::Data => return Err(Error::SampleWithoutData(request.level)),
        Some(sample) if !sample.is_possible() => return Err(Error::Sample),
        _ => {}
    }
    // What this host keeps copies of proves nothing of the store: each object is read there once, and then again from the copy of that.
    let fresh = repository.fresh();
    let repository = fresh.as_ref().unwrap_or(repository);
    let mut check = Check::new(repository, control);
    let listing = Listing::read(&check, request.level == Level::Structure)?;
    repository.list_ahead();
    check.fetch_early(&listing, request.level > Level::Structure)?;
    let mut orphans = sealed::Orphans::default();
    sealed::check(&mut check, &listing, &mut orphans)?;
    let runs_closed = runs::check(&check, &listing, &mut orphans)?;
    orphans.tell(&check);
    // As every reader does, slots before the index: what a backup commits meanwhile is then in the index as well.
    let snapshots = Snapshots::list_and_prove(repository)?;
    let index = runs::load(&check, &listing, &snapshots)?;
    let snapshots = lineage::check(&check, &listing, &index, snapshots)?;
    let known = runs::against_listing(&check, &listing, &index)?;

    let walked = match request.level {
        Level::Structure => trees::Walked::default(),
        _ => trees::check(&check, &index, &snapshots)?,
    };
    let entries = match request.level {
        Level::Structure => None,
        _ => runs::entries_by_pack(&check, &listing, &index)?,
    };
    let seed = request.seed.unwrap_or_else(|| u64::from_le_bytes(crate::seal::random()));
    let chosen = request.sample.map(|sample| sample::choose(listing.packs.iter().map(|pack| &pack.id), seed, sample));
    let jobs = plan(&listing, request.level, chosen.as_deref());
    let expected = Expected { index: &index, named: &known.named, entries: entries.as_deref() };
    let workers = match request.workers {
        0 => std::thread::available_parallelism().map_or(2, usize::from),
        workers => workers,
    };
    let workers = if repository.store.is_remote() { WORKERS_MAX } else { workers.min(WORKERS_MAX) };
    let seen = packs::check(&check, &listing, &jobs, &expected, workers)?;
    drop(entries);
    if check.content_at_risk.load(Ordering::Relaxed) {
        affected::map(&check, &index, &snapshots)?;
    }

    let mut notes = Vec::new();
    lineage::silent_sessions(&check, &listing)?;
    let packs_closed = seen.closed.into_inner();
    if packs_closed > 0 {
        notes.push(format!(
            "The content of {packs_closed} packs was not decrypted: a {} key does not open them. Their bytes were compared with their names.",
            repository.role().name()
        ));
    }
    if walked.closed > 0 {
        notes.push(format!(
            "The trees of {} snapshots of other writers were not read: this key may not.",
            walked.closed
        ));
    }
    if runs_closed > 0 {
        notes.push(format!(
            "{runs_closed} index objects belong to groups that this key has no part in: only their signatures were checked, and packs that they name count as unreferenced."
        ));
    }
    let forgotten = snapshots.readable.iter().filter(|s| s.state == SnapshotState::Forgotten).count();
    if forgotten > 0 {
        notes.push(format!("forgotten snapshots were checked all the same, and can be taken back: {forgotten}."));
    }
    let sampled = chosen.map(|chosen| {
        let packs = chosen.iter().filter(|chosen| **chosen).count() as u64;
        Sampled::new(seed, packs, listing.packs.len() as u64, seen.content_damaged.into_inner())
    });
    if listing.known > 0 {
        notes.push(format!(
            "{} objects were not read again: the store lists them as it did when this host found them sound. Level metadata reads them.",
            listing.known
        ));
    }
    let bytes_read = check.bytes_read.into_inner();
    let (findings, findings_omitted) = check.findings.finish();
    if let Some(copies) = repository.store.copies() {
        let sound = findings_omitted == 0 && findings.iter().all(|finding| finding.severity != Severity::Damage);
        Ledger::keep(copies, if sound { listing.marks } else { Vec::new() });
    }
    Ok(Report {
        level: request.level,
        objects: listing.objects,
        packs: listing.packs.len() as u64,
        packs_read: seen.packs_read.into_inner(),
        bytes_read,
        snapshots: snapshots.readable.len() as u64,
        nodes: walked.nodes,
        chunks: index.chunks(),
        chunks_checked: seen.chunks_checked.into_inner(),
        findings,
        findings_omitted,
        unreferenced_packs: known.unreferenced_packs,
        unreferenced_bytes: known.unreferenced_bytes,
        sampled,
        notes,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// How deep each pack is looked into: a sample narrows the content, and nothing below it.
fn plan(listing: &Listing, level: Level, chosen: Option<&[bool]>) -> Vec<Job> {
    let depth = |at: usize, kind: PackKind| match (level, kind) {
        (Level::Data, _) if chosen.is_none_or(|chosen| chosen[at]) => Depth::Content,
        (Level::Data | Level::Metadata, PackKind::Metadata) => Depth::Table,
        _ => Depth::Footer,
    };
    let packs = listing.packs.iter().enumerate().map(|(at, pack)| (pack, Job { at, depth: depth(at, pack.kind) }));
    packs
        .filter(|(pack, job)| job.depth > Depth::Footer || !listing.known_packs.contains(&pack.id))
        .map(|(_, job)| job)
        .collect()
}
