//! Prune: what no snapshot needs is deleted, beside whoever reads and writes (`pack/FORMAT.md`, section 11).
//!
//! Owns the collector: it expires what was forgotten and whose undo window is over, finds out which packs are needed (`survey`), rewrites those that are mostly dead
//! (`repack`), condemns, waits for open sessions (`sessions`), gives the verdict (`verdict`) and sweeps. Every step is durable before the next begins, and a prune that
//! ends anywhere is finished by the next one, whoever runs it:
//!
//! | ends after | left behind | next prune |
//! |---|---|---|
//! | expire marks | snapshots that are gone for good, whole | frees them |
//! | new packs and segments of a repack | chunks that lie in two packs | counts each in one, and condemns what owns none |
//! | the epoch | packs that nobody uses again | waits, and gives the verdict after looking at everything anew |
//! | the verdict | packs to be deleted | deletes them |
//! | some deletions | the rest | deletes it |
//!
//! What does not verify counts as needed: while anything that may protect something is unreadable, nothing is condemned and no verdict given (`doubts`).
//! Two collectors at once: one creates the epoch, the other stops. Memory: see `survey`; a repack holds one pack, and what it makes of it, at a time.
//! Refuses to wait unless asked: it does what is safe now, and says for whom it would have to wait.

mod condemn;
mod doubts;
#[cfg(test)]
mod explore;
mod repack;
mod sessions;
mod survey;
mod sweep;
mod verdict;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::browse;
use crate::clock::Clock;
use crate::forget::UNDO_DAYS;
use crate::names::{ObjectKey, PackId, SnapshotId};
use crate::pack::record::{Decision, Time};
use crate::repository::{self, Marked, Repository, Snapshots, Standing, WriteSession};

pub use doubts::Doubt;
pub use sessions::Waiting;

/// How often a prune that waits looks again.
const GLANCE: Duration = Duration::from_secs(1);

/// What is asked of a prune.
#[derive(Clone, Debug)]
pub struct Request {
    /// So long a forgotten snapshot stays whole.
    pub undo_window: Duration,
    /// How long to wait for sessions at most; none: what can be done without waiting.
    pub wait: Duration,
    /// Packs of which so much is dead are rewritten.
    pub repack_from: f64,
    /// And others, worst first, while more than this share of all that is stored is dead.
    pub leave: f64,
    /// Bytes of packs that are rewritten at most; none: as many as there are.
    pub repack_max: Option<u64>,
    /// A directory for notes.
    pub scratch: PathBuf,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
}

impl Request {
    /// What is asked of a store where reading costs nothing (near) or time and money.
    pub fn of(repository: &Repository) -> Self {
        let near = !repository.store.is_remote();
        Self {
            undo_window: Duration::from_secs(u64::from(UNDO_DAYS) * 86_400),
            wait: Duration::ZERO,
            // Elsewhere reading a pack and writing it again costs as much as keeping a quarter of it for months.
            repack_from: if near { 0.2 } else { 0.25 },
            leave: if near { 0.05 } else { 1.0 },
            repack_max: None,
            scratch: std::env::temp_dir(),
            dry_run: false,
        }
    }
}

/// What watches a prune and can end it.
#[derive(Clone, Debug, Default)]
pub struct Control {
    pub cancel: Arc<AtomicBool>,
}

/// Packs, and their bytes as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub packs: u64,
    pub bytes: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.packs += 1;
        self.bytes += bytes;
    }
}

/// What a prune did, or would do.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Forgotten snapshots that are gone for good since this run.
    pub expired: Vec<SnapshotId>,
    /// Forgotten snapshots that are still whole, and when the first of them expires.
    pub undo_open: u64,
    pub undo_ends: Option<Time>,
    /// What is stored in packs, and what of it is needed.
    pub stored: Sum,
    pub needed_bytes: u64,
    /// Packs in which nothing is needed.
    pub dead: Sum,
    /// Packs that were rewritten, and what was made of them.
    pub rewritten: Sum,
    pub rewritten_to: Sum,
    /// Packs that were deleted.
    pub deleted: Sum,
    /// Other objects that were deleted: index, slots, marks, records, epochs.
    pub small_deleted: u64,
    /// Packs that a session or a snapshot since turned out to need.
    pub spared: u64,
    /// Sessions that were taken for dead.
    pub fenced: u64,
    /// Bytes that are dead and stay: rewriting their packs costs more.
    pub left_bytes: u64,
    /// Sessions that have to come to the epoch before anything is deleted.
    pub waiting: Vec<Waiting>,
    /// Another prune was faster.
    pub lost_race: bool,
    /// Data of live snapshots that no pack has: `verify` names it.
    pub lost_chunks: u64,
    pub seconds: f64,
}

impl Report {
    /// Whether everything is done that can be.
    pub fn is_finished(&self) -> bool {
        self.waiting.is_empty() && !self.lost_race
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} that may protect something cannot be read, so nothing was deleted", count(.0))]
    Doubt(Vec<Doubt>),
    #[error("this machine's clock is {seconds} s {} the store's, so no window can be judged", if *ahead { "ahead of" } else { "behind" })]
    Clock { seconds: u64, ahead: bool },
    #[error("the prune was cancelled; what was done stays done, and the next one goes on")]
    Cancelled,
    #[error(transparent)]
    Notes(browse::Error),
    #[error(transparent)]
    Repository(#[from] repository::Error),
}

fn count(doubts: &[Doubt]) -> String {
    match doubts {
        [_] => "an object".into(),
        doubts => format!("{} objects", doubts.len()),
    }
}

impl From<browse::Error> for Error {
    fn from(error: browse::Error) -> Self {
        match error {
            browse::Error::Repository(error) => Self::Repository(error),
            browse::Error::Cancelled => Self::Cancelled,
            error => Self::Notes(error),
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// The store's clock and ours may differ by so much.
const CLOCK_SECONDS: u64 = 600;

/// Prunes as asked.
pub fn run(repository: &Repository, clock: &dyn Clock, request: &Request, control: &Control) -> Result<Report> {
    let began = Instant::now();
    let mut report = Report::default();
    repository.need_admin("pruning")?;
    repository.check_maintain_features()?;
    if let Some(ahead) = repository.store.inspect().map_err(repository::Error::from)?.clock_ahead
        && ahead.unsigned_abs() > CLOCK_SECONDS
    {
        return Err(Error::Clock { seconds: ahead.unsigned_abs(), ahead: ahead > 0 });
    }
    if request.dry_run {
        condemn::rehearse(repository, clock, request, control, &mut report)?;
    } else {
        repository.raise_deletion(clock)?;
        let (session, _) = WriteSession::start(repository, clock, &|_| vec![])?;
        let mut prune = Prune { repository, clock, request, control, session, report };
        let ended = prune.all();
        let Prune { session, report: done, .. } = prune;
        session.abandon();
        ended?;
        report = done;
    }
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// A prune at work.
struct Prune<'a> {
    repository: &'a Repository,
    clock: &'a dyn Clock,
    request: &'a Request,
    control: &'a Control,
    session: WriteSession<'a>,
    report: Report,
}

impl Prune<'_> {
    fn all(&mut self) -> Result<()> {
        let newest = self.repository.newest_epoch()?;
        if newest.number > 0 && !newest.has_verdict && !self.conclude(newest.number, &HashSet::new())? {
            return Ok(());
        }
        for (snapshot, session, slot) in due(self.repository, self.clock, self.request, &mut self.report)? {
            match self.repository.decide(self.clock, session, &slot, &Decision::Expire) {
                Ok(_) => self.report.expired.push(snapshot),
                // Somebody took it back meanwhile, or holds it.
                Err(repository::Error::Undecided { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.fence_the_dead()?;
        let Some((epoch, known)) = self.condemn()? else { return Ok(()) };
        self.conclude(epoch, &known).map(|_| ())
    }

    /// Whoever is dead holds nothing back: what it stored and never committed is nobody's, even if nothing else is to be done.
    fn fence_the_dead(&mut self) -> Result<()> {
        let view = self.repository.view(self.repository.newest_epoch()?)?;
        // Nobody has come to an epoch that is not open yet; who lives is not waited for.
        let next = view.newest.number.saturating_add(1);
        let fenced = &mut self.report.fenced;
        sessions::look(self.repository, self.clock, &self.session, next, view.boundary, fenced).map(drop)?;
        Ok(())
    }

    /// Waits for the sessions, gives the verdict on an epoch, and sweeps. `known`: slots whose trees were surveyed when it was opened. False: somebody is waited for.
    fn conclude(&mut self, epoch: u32, known: &HashSet<ObjectKey>) -> Result<bool> {
        let view = self.repository.view(self.repository.newest_epoch()?)?;
        if let Some(error) = view.doubt {
            return Err(Error::Doubt(vec![Doubt::of(error)]));
        }
        // Another prune judged it, and opened the next: sessions that came to this one are not those that came to that.
        if view.newest.number != epoch {
            self.report.lost_race = true;
            return Ok(false);
        }
        if view.newest.has_verdict {
            self.sweep()?;
            return Ok(true);
        }
        let began = Instant::now();
        let passed = loop {
            browse::go_on(&self.control.cancel)?;
            let looked = sessions::look(
                self.repository,
                self.clock,
                &self.session,
                epoch,
                view.boundary,
                &mut self.report.fenced,
            )?;
            match looked {
                Ok(passed) => break passed,
                Err(waiting) if began.elapsed() >= self.request.wait => {
                    self.report.waiting = waiting;
                    return Ok(false);
                }
                Err(_) => std::thread::sleep(GLANCE.min(self.request.wait)),
            }
        };
        self.judge(&view, &passed, known)?;
        self.sweep()?;
        Ok(true)
    }
}

/// Snapshots that were forgotten and whose undo window is over, with their sessions and slots. Those whose window is open are counted.
fn due(
    repository: &Repository,
    clock: &dyn Clock,
    request: &Request,
    report: &mut Report,
) -> Result<Vec<(SnapshotId, crate::names::SessionId, ObjectKey)>> {
    let snapshots = Snapshots::list(repository)?;
    let now = clock.now();
    let window = i64::try_from(request.undo_window.as_secs()).unwrap_or(i64::MAX);
    let mut due = Vec::new();
    let readable = snapshots.readable.iter().map(|s| (s.session, &s.slot, s.marked.clone()));
    let unreadable = snapshots.unreadable.iter().map(|s| (s.session, &s.slot, snapshots.marks.of(s.session)));
    for (session, slot, marked) in readable.chain(unreadable) {
        let Marked { standing: Standing::Forgotten { at, .. }, .. } = &marked else { continue };
        let ends = Time { secs: at.secs.saturating_add(window), nanos: at.nanos };
        let is_held = marked.hold(Time { secs: now.secs, nanos: now.nanos }).is_some();
        // A mark from the future waits for its time.
        if ends <= (Time { secs: now.secs, nanos: now.nanos }) && !is_held {
            due.push((session.snapshot(), session, slot.clone()));
        } else {
            report.undo_open += 1;
            report.undo_ends = Some(report.undo_ends.map_or(ends, |known| known.min(ends)));
        }
    }
    Ok(due)
}

/// The packs of a listing, with their sizes.
fn packs(listed: &[crate::store::Listed]) -> std::collections::HashMap<PackId, (ObjectKey, u64)> {
    let pack = |listed: &crate::store::Listed| match crate::pack::keys::parse(&listed.key) {
        Some(crate::pack::keys::Meaning::Pack(_, id)) => Some((id, (listed.key.clone(), listed.size))),
        _ => None,
    };
    listed.iter().filter_map(pack).collect()
}
