//! The plan of a prune, and the epoch that makes it known.
//!
//! Owns the order of looking (epoch, sessions, slots, index, packs: each later than what names it) and what an epoch says: packs that are condemned, packs that are gone,
//! the boundary, and what counts of all that began before it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use minicbor::bytes::ByteVec;

use super::sessions::{Sessions, began_of};
use super::survey::Survey;
use super::{Control, Doubt, Error, Prune, Report, Request, Result, doubts, due, packs};
use crate::browse::{Damage, Held};
use crate::clock::Clock;
use crate::names::{ObjectKey, PackId, SessionId};
use crate::pack::container::PackKind;
use crate::pack::keys;
use crate::pack::record::{self, Time};
use crate::pack::run::{PackRow, RunName};
use crate::repository::{
    self, Index, Repository, Snapshot, SnapshotState, Snapshots, View, pack_rows, run_rows, slot_rows,
};
use crate::seal::object::ObjectKind;

/// What is written anew takes heads, tables and an index: for less than this it is not done.
const REWRITE_BYTES: u64 = 128 << 10;
/// Nor for less of a pack, whatever is left.
const REWRITE_SHARE: f64 = 0.01;
/// So many index objects that others replaced are worth an epoch.
const REPLACED_RUNS: usize = 16;

/// The repository as one prune sees it.
pub(super) struct State {
    pub view: Arc<View>,
    pub sessions: Sessions,
    pub snapshots: Snapshots,
    pub index: Index,
    pub packs: HashMap<PackId, (ObjectKey, u64)>,
    /// Index objects that the store has.
    runs: Vec<RunName>,
}

impl State {
    /// Looks at everything, each thing after what it names. `own` is this prune's session.
    pub fn read(repository: &Repository, own: Option<SessionId>) -> Result<Self> {
        let view = Arc::new(repository.view(repository.newest_epoch()?)?);
        if view.doubt.is_some() {
            let view = Arc::into_inner(view).and_then(|view| view.doubt);
            return Err(Error::Doubt(view.map(Doubt::of).into_iter().collect()));
        }
        let sessions = Sessions::list(repository, own)?;
        let mut snapshots = Snapshots::list(repository)?;
        let settled = snapshots.settled();
        let counts =
            |name: &RunName| view.counts_run(name, name.epoch.or(began_of(&sessions.open, &settled, name.session)));
        let index = doubts::index_without(repository, &mut snapshots, &counts)?;
        let listed = repository.store.list("").map_err(repository::Error::from)?;
        let run = |listed: &crate::store::Listed| match keys::parse(&listed.key) {
            Some(keys::Meaning::Run(name)) => Some(name),
            _ => None,
        };
        let runs = listed.iter().filter_map(run).collect();
        Ok(Self { view, sessions, snapshots, index, packs: packs(&listed), runs })
    }

    /// Snapshots whose trees are needed: those that are not gone for good, and those that an open session may use again. `expiring` count as gone.
    pub fn roots(&self, expiring: &HashSet<SessionId>) -> Vec<&Snapshot> {
        let pinned = self.sessions.pinned();
        let is_needed = |snapshot: &&Snapshot| {
            (snapshot.state != SnapshotState::Expired && !expiring.contains(&snapshot.session))
                || pinned.contains(&snapshot.slot)
        };
        self.snapshots.readable.iter().filter(is_needed).collect()
    }

    /// Whether a pack is there, and no verdict deleted it.
    pub fn has_pack(&self, pack: &PackId) -> bool {
        self.packs.contains_key(pack) && !self.view.is_deleted(pack)
    }

    /// Index objects that the store has, or that a snapshot names.
    pub fn named_runs(&self) -> HashSet<RunName> {
        let named = self.snapshots.readable.iter().flat_map(|snapshot| &snapshot.indexes);
        let named = named.filter_map(|name| name.parse().ok()).filter_map(|key| match keys::parse(&key) {
            Some(keys::Meaning::Run(name)) => Some(name),
            _ => None,
        });
        self.runs.iter().copied().chain(named).collect()
    }

    /// Whether the session of an index object is over.
    pub fn is_settled(&self, name: &RunName) -> bool {
        self.sessions.open.iter().all(|open| open.session != name.session)
    }

    /// The boundary of an epoch that is opened now: no session that began before is open.
    fn boundary(&self) -> u32 {
        let began = self.sessions.open.iter().map(|open| open.began().unwrap_or(self.view.boundary));
        began.fold(self.view.newest.number, u32::min).max(self.view.boundary)
    }

    /// The epoch in which the session of an index object began.
    fn began(&self, name: &RunName, settled: &HashMap<SessionId, u32>) -> Option<u32> {
        name.epoch.or(began_of(&self.sessions.open, settled, name.session))
    }
}

/// What is to be done.
pub(super) struct Plan {
    pub survey: Survey,
    /// Packs in which nothing is needed, those that no index object names among them.
    pub dead: Vec<PackRow>,
    /// Packs that are mostly dead, worst first.
    pub rewrite: Vec<PackRow>,
    pub left_bytes: u64,
}

/// Everything in the trees of `roots`. What cannot be read may hold anything.
pub(super) fn held(
    repository: &Repository,
    index: &Index,
    roots: &[&Snapshot],
    known: &[&Snapshot],
    request: &Request,
    control: &Control,
) -> Result<Held> {
    let mut doubts = Vec::new();
    let mut damage = |Damage { error, .. }| doubts.push(Doubt::of(error));
    let held = Held::by(repository, index, roots, known, &request.scratch, &mut damage, &control.cancel)?;
    if doubts.is_empty() { Ok(held) } else { Err(Error::Doubt(doubts)) }
}

impl Plan {
    pub fn make(
        repository: &Repository,
        state: &State,
        roots: &[&Snapshot],
        request: &Request,
        control: &Control,
    ) -> Result<Self> {
        let held = held(repository, &state.index, roots, &[], request, control)?;
        let survey = Survey::make(&state.index, held, &|pack| state.has_pack(pack), &|_| true, &control.cancel)?;
        // What an open session has only just stored is needed by nobody yet.
        let open: HashSet<SessionId> = state.sessions.open.iter().map(|open| open.session).collect();
        let fresh: HashSet<PackId> = state
            .index
            .runs()
            .iter()
            .filter(|run| open.contains(&run.source().name.session))
            .flat_map(|run| run.packs().iter().map(|row| row.id))
            .collect();
        let mut dead: Vec<PackRow> = Vec::new();
        let mut partly = Vec::new();
        for account in survey.accounts.iter().filter(|account| state.has_pack(&account.row.id)) {
            if account.live_chunks > 0 {
                partly.push(account);
            } else if !fresh.contains(&account.row.id) {
                dead.push(account.row);
            }
        }
        // What no index object names is somebody's leftover; but while sessions are open it may be on its way into one, and while chunks are missing it may have them.
        if open.is_empty() && survey.lost == 0 {
            for (pack, (key, size)) in &state.packs {
                if !survey.names(pack) && !state.view.is_deleted(pack) {
                    let kind = if key.as_str().starts_with(keys::DATA) { PackKind::Data } else { PackKind::Metadata };
                    dead.push(PackRow { id: *pack, kind, size: *size });
                }
            }
        }
        dead.sort_unstable();
        let share = |account: &&super::survey::Account| account.dead_bytes() as f64 / account.row.size.max(1) as f64;
        partly.sort_unstable_by(|a, b| share(b).total_cmp(&share(a)).then(a.row.cmp(&b.row)));
        let stored: u64 = survey.accounts.iter().filter(|a| a.live_chunks > 0).map(|account| account.row.size).sum();
        let mut left: u64 = partly.iter().map(|account| account.dead_bytes()).sum();
        let enough = (stored as f64 * request.leave) as u64;
        let whole = left;
        let (mut rewrite, mut budget) = (Vec::new(), request.repack_max.unwrap_or(u64::MAX));
        for account in partly {
            let share = share(&account);
            let pays = share >= request.repack_from || (left > enough && share >= REWRITE_SHARE);
            if !pays || budget < account.row.size {
                break;
            }
            budget -= account.row.size;
            left -= account.dead_bytes();
            rewrite.push(account.row);
        }
        if whole - left < REWRITE_BYTES {
            rewrite.clear();
            left = whole;
        }
        Ok(Self { survey, dead, rewrite, left_bytes: left })
    }

    fn tell(&self, state: &State, report: &mut Report) {
        for (_, size) in state.packs.values() {
            report.stored.add(*size);
        }
        report.needed_bytes = self.survey.accounts.iter().map(|account| account.live_bytes).sum();
        self.dead.iter().for_each(|row| report.dead.add(row.size));
        self.rewrite.iter().for_each(|row| report.rewritten.add(row.size));
        report.left_bytes = self.left_bytes;
        report.lost_chunks = self.survey.lost;
    }
}

/// Says what a prune would do, and does nothing.
pub(super) fn rehearse(
    repository: &Repository,
    clock: &dyn Clock,
    request: &Request,
    control: &Control,
    report: &mut Report,
) -> Result<()> {
    let due = due(repository, clock, request, report)?;
    report.expired = due.iter().map(|(snapshot, ..)| *snapshot).collect();
    let expiring: HashSet<SessionId> = due.iter().map(|(_, session, _)| *session).collect();
    let state = State::read(repository, None)?;
    let plan = Plan::make(repository, &state, &state.roots(&expiring), request, control)?;
    plan.tell(&state, report);
    Ok(())
}

impl Prune<'_> {
    /// Finds out what can go, rewrites what is mostly dead, and opens an epoch. None: there is nothing to do, or another was faster. Else the epoch, and the slots whose trees
    /// were looked at.
    pub(super) fn condemn(&mut self) -> Result<Option<(u32, HashSet<ObjectKey>)>> {
        let state = State::read(self.repository, Some(self.session.id))?;
        // An epoch that was opened since this prune began waits for it, and is not for it to finish; and what this prune indexes counts only if no boundary passes it by.
        if state.view.newest.number != self.session.began {
            self.report.lost_race = true;
            return Ok(None);
        }
        if state.view.newest.has_verdict {
            self.sweep()?;
        }
        let roots = state.roots(&HashSet::new());
        let known: HashSet<ObjectKey> = roots.iter().map(|snapshot| snapshot.slot.clone()).collect();
        let plan = Plan::make(self.repository, &state, &roots, self.request, self.control)?;
        plan.tell(&state, &mut self.report);
        if plan.dead.is_empty() && plan.rewrite.is_empty() && !self.has_leftovers(&state) {
            return Ok(None);
        }
        let mut condemned = plan.dead.clone();
        condemned.extend(self.rewrite(&state, &plan)?);
        let epoch = self.open_epoch(&state, &condemned)?;
        Ok(epoch.map(|epoch| (epoch, known)))
    }

    /// Whether a new epoch would let small objects go.
    fn has_leftovers(&self, state: &State) -> bool {
        let (boundary, pinned, settled) = (state.boundary(), state.sessions.pinned(), state.snapshots.settled());
        let is_over = |snapshot: &Snapshot| {
            snapshot.state == SnapshotState::Expired
                && settled.get(&snapshot.session).is_some_and(|began| *began < boundary)
                && !pinned.contains(&snapshot.slot)
        };
        let read: HashSet<RunName> = state.index.runs().iter().map(|run| run.source().name).collect();
        let is_replaced =
            |name: &&RunName| !read.contains(name) && state.began(name, &settled).is_none_or(|began| began < boundary);
        state.snapshots.readable.iter().any(is_over) || state.runs.iter().filter(is_replaced).count() >= REPLACED_RUNS
    }

    /// Creates the next epoch; none: another prune did.
    fn open_epoch(&mut self, state: &State, condemned: &[PackRow]) -> Result<Option<u32>> {
        let number = state.view.newest.number + 1;
        let (boundary, settled, pinned) = (state.boundary(), state.snapshots.settled(), state.sessions.pinned());
        let of = |kind: PackKind| {
            ByteVec::from(pack_rows(condemned.iter().filter(|row| row.kind == kind).map(|row| &row.id)))
        };
        let runs: Vec<RunName> = state
            .index
            .runs()
            .iter()
            .map(|run| run.source().name)
            .filter(|name| state.began(name, &settled).is_none_or(|began| began < boundary))
            .collect();
        let mut slots: Vec<(u32, SessionId)> = state
            .snapshots
            .readable
            .iter()
            .filter(|snapshot| snapshot.state != SnapshotState::Expired || pinned.contains(&snapshot.slot))
            .filter_map(|snapshot| settled.get(&snapshot.session).map(|began| (*began, snapshot.session)))
            .filter(|(began, _)| *began < boundary)
            .collect();
        slots.sort_unstable();
        let epoch = record::Epoch {
            at: self.now(),
            condemned_data: of(PackKind::Data),
            condemned_metadata: of(PackKind::Metadata),
            gone: ByteVec::from(pack_rows(&gone(state, boundary))),
            boundary,
            runs: ByteVec::from(run_rows(&runs)),
            slots: ByteVec::from(slot_rows(&slots)),
        };
        let key = keys::epoch(number);
        let admin = self.repository.need_admin("pruning")?;
        let bytes = self.repository.seal_as_admin(admin, ObjectKind::Epoch, &key, &record::encode(&epoch));
        if self.repository.create(&key, &bytes)? {
            return Ok(Some(number));
        }
        self.report.lost_race = true;
        Ok(None)
    }

    pub(super) fn now(&self) -> Time {
        let now = self.clock.now();
        Time { secs: now.secs, nanos: now.nanos }
    }
}

/// Packs that are deleted and that some index object may still name, now or later: those of the last verdict always, since a session that began before it may still merge its index
/// objects; older ones until every such session is settled and nothing names them.
fn gone(state: &State, boundary: u32) -> Vec<PackId> {
    let named: HashSet<PackId> =
        state.index.runs().iter().flat_map(|run| run.packs().iter().map(|row| row.id)).collect();
    let older = state.view.gone.iter().filter(|pack| boundary < state.view.newest.number || named.contains(pack));
    let newest = state.view.condemned.iter().filter(|pack| !state.view.spared.contains(pack));
    let mut gone: Vec<PackId> = older.chain(newest).copied().collect();
    gone.sort_unstable();
    gone.dedup();
    gone
}
