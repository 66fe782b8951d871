//! Write sessions: announce, read, write, commit.
//!
//! Owns the protocol of `pack/FORMAT.md` section 10. The order is what makes it safe beside a collector (the design's model leaves none of it out):
//!
//! 1. read the newest epoch, and then the snapshots;
//! 2. create the session's record, which pins the parents;
//! 3. read the newest epoch again: if it moved, start over;
//! 4. only then load the index;
//! 5. packs, then the deltas that name them;
//! 6. create the manifest in the session's slot, which commits;
//! 7. read the newest epoch: the commit counts if the boundary has not passed it by;
//! 8. remove the session's records.
//!
//! On a store that is far away, calls that do not need each other are made beside each other, and none of another step: after the record stands, its second
//! create (whether the store keeps writers apart), 3, and the listing of sessions. Step 1 may have been done while the repository opened (`ahead`), in its order:
//! how long it lies back does not matter, since 3 finds an epoch that moved since.
//!
//! A slot that is taken by anything else ends the session (`Fenced`): it starts again under a new id, and finds what it uploaded.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use minicbor::bytes::{ByteArray, ByteVec};

use super::epochs::{Newest, View};
use super::host::Process;
use super::rules::{Rule, holds};
use super::snapshots::settled;
use super::together::both;
use super::{Error, Index, Packer, Repository, Result, Scope, Snapshots};
use crate::clock::Clock;
use crate::names::{ObjectKey, PackId, SessionId, SnapshotId};
use crate::pack::keys::{self, Meaning};
use crate::pack::record::{self, Time};
use crate::pack::run::RunName;
use crate::seal::cipher::SegmentSealer;
use crate::seal::key::{Secret, derive};
use crate::seal::object::{LEAF_PATCHES, ObjectKind, SignedBy};
use crate::seal::stanza::{To, Use};
use crate::store::create_once::{Outcome, create_once, is_refused_again};
use crate::store::{Listed, Store};

/// A new record at least so often: what is silent for a lease is taken for dead.
const HEARTBEAT: Duration = Duration::from_secs(600);
/// So often a session looks for a new epoch, which a collector opened who now waits for it; a listing of few objects.
const LOOK_NEAR: Duration = Duration::from_secs(5);
const LOOK_FAR: Duration = Duration::from_secs(60);
/// Silent for longer, a session of another host is taken for dead in single-writer mode.
pub(crate) const LEASE_SECONDS: i64 = 6 * 3600;
/// An unfinished small object that nobody has written to for so long is nobody's.
const STALE_SECONDS: i64 = 86_400;
const HEADS_MAX: usize = 64;
const RESTARTS_MAX: usize = 8;

/// An announced session.
pub struct WriteSession<'a> {
    repository: &'a Repository,
    clock: &'a dyn Clock,
    pub id: SessionId,
    /// The epoch in which it began: the one of its slot and of its deltas.
    pub began: u32,
    /// The epoch that it has come to.
    epoch: u32,
    view: Arc<View>,
    /// Packs that it has come to use, as far as they were gathered, and those of them that were condemned.
    used: HashSet<PackId>,
    vetoes: HashSet<PackId>,
    process: Process,
    records: u32,
    last_record: Instant,
    last_look: Instant,
    parents: Vec<String>,
    /// `parents`, and the snapshots whose trees are used again.
    pinned: Vec<String>,
    heads: Vec<String>,
    listing: [u8; 32],
    /// Whether the store refused a second create of the session's record.
    pub multi_writer: bool,
    pub runs: Vec<RunName>,
    /// Whether the manifest's trees have leaves that are patches: whoever does not know them must not take them for damage.
    pub leaf_patches: bool,
    pub next_run: u32,
}

/// A snapshot that was committed.
#[derive(Clone, Debug)]
pub struct Committed {
    pub id: SnapshotId,
    pub slot: ObjectKey,
    pub bytes: u64,
}

fn time(clock: &dyn Clock) -> Time {
    let now = clock.now();
    Time { secs: now.secs, nanos: now.nanos }
}

impl<'a> WriteSession<'a> {
    /// Announces a session. `choose` names the snapshots (by slot) whose trees it will use again; they are pinned before they are read.
    pub fn start(
        repository: &'a Repository,
        clock: &'a dyn Clock,
        choose: &dyn Fn(&Snapshots) -> Vec<String>,
    ) -> Result<(Self, Snapshots)> {
        let writer = repository.need_writer("backing up")?;
        super::check_features(&repository.config.write_features)?;
        let process = Process::this(&repository.access.repository_key);
        for _ in 0..RESTARTS_MAX {
            // One after the other: snapshots that were listed before the epoch that is named with them are not what its collector saw.
            let view = repository.view(repository.first_epoch()?)?;
            let epoch = view.newest.number;
            let snapshots = Snapshots::list_by(repository, view)?;
            // The listing of snapshots brought the one of revocations.
            if repository.revocation(writer.id)?.is_some() {
                return Err(Error::Revoked { writer: writer.id });
            }
            let (parents, heads) = snapshots.heads(writer.id);
            let id = SessionId::new(writer.id, crate::seal::random());
            // What was forgotten is named, and not kept for that.
            let mut pinned: Vec<String> = parents.iter().filter(|slot| snapshots.is_good(slot)).cloned().collect();
            pinned.extend(choose(&snapshots).into_iter().filter(|slot| !parents.contains(slot)));
            if snapshots.view.doubt.is_some() {
                pinned.clear();
            }
            let mut session = Self {
                repository,
                clock,
                id,
                began: epoch,
                epoch,
                view: snapshots.view.clone(),
                used: HashSet::new(),
                vetoes: HashSet::new(),
                process,
                records: 0,
                last_record: Instant::now(),
                last_look: Instant::now(),
                parents,
                pinned,
                heads: heads.into_iter().take(HEADS_MAX).collect(),
                listing: snapshots.listing_hash(),
                multi_writer: true,
                runs: Vec::new(),
                leaf_patches: false,
                next_run: 0,
            };
            let (again, listed) = session.announce()?;
            if again?.number == epoch || !holds(Rule::EpochReadTwice) {
                session.meet_others(&listed?)?;
                if let Err(error) = session.sweep() {
                    tracing::warn!(%error, "leftovers could not be removed; they take space and do no harm");
                }
                return Ok((session, snapshots));
            }
            session.withdraw();
        }
        Err(Error::Fenced { session: SessionId::new(writer.id, [0; 8]) })
    }

    /// Creates the session's record. Only then, and all three beside each other on a store that is far away: the same create once more, the newest
    /// epoch again, and the listing of sessions.
    #[allow(clippy::type_complexity)] // two answers, each of which may be an error of its own
    fn announce(&mut self) -> Result<(Result<Newest>, Result<Vec<Listed>>)> {
        let key = keys::session_record(self.id, 0);
        let bytes = self.record(&key)?;
        match create_once(&*self.repository.store, &key, &bytes)? {
            Outcome::Won => {}
            Outcome::Lost(_) => return Err(Error::Fenced { session: self.id }),
        }
        self.records = 1;
        // The same bytes once more: a store that accepts them replaces objects, and cannot keep two writers apart.
        let repository = self.repository;
        let apart = repository.store.is_remote();
        let again = || is_refused_again(&*repository.store, &key, &bytes);
        let others = || both(apart, || repository.newest_epoch(), || repository.store.list(keys::SESSIONS));
        let (again, (epoch, listed)) = both(apart, again, others);
        self.multi_writer = again?;
        Ok((epoch, listed.map_err(Error::from)))
    }

    fn record(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        let record = record::SessionRecord {
            at: time(self.clock),
            epoch: self.epoch,
            parents: self.pinned.clone(),
            vetoes: self.vetoes.iter().map(|pack| ByteArray::from(pack.0)).collect(),
            host: ByteArray::from(self.process.host),
            boot: ByteArray::from(self.process.boot),
            pid: self.process.pid,
            started: self.process.started,
            began: (self.epoch != self.began).then_some(self.began),
        };
        self.repository.seal_as_writer(ObjectKind::Session, key, &record::encode(&record))
    }

    /// Looks at other sessions: this writer's dead ones are fenced and removed; a live one ends this session where the store serves one writer only.
    fn meet_others(&mut self, listed: &[Listed]) -> Result<()> {
        let store = &self.repository.store;
        let own_key = keys::session_record(self.id, 0);
        let is_listed = listed.iter().any(|listed| listed.key == own_key);
        if !is_listed || !self.multi_writer {
            // Whoever slept for a lease was taken for dead and its record removed, which is no fault of the store's.
            let slot = keys::commit(self.began, self.id);
            if store.size(&slot)?.is_some() || self.repository.newest_epoch()?.number != self.epoch {
                self.withdraw();
                return Err(Error::Fenced { session: self.id });
            }
            // A listing that lags behind its own writer cannot keep two apart, nor can a store that accepted the record twice.
            self.multi_writer = false;
        }
        // The numbers of each session's records, which the listing gives in order.
        let mut sessions: std::collections::BTreeMap<SessionId, Vec<u32>> = std::collections::BTreeMap::new();
        for listed in listed {
            if let Some(Meaning::SessionRecord(session, number)) = keys::parse(&listed.key)
                && session != self.id
            {
                sessions.entry(session).or_default().push(number);
            }
        }
        for (session, numbers) in sessions {
            let own = session.writer() == self.id.writer();
            if !own && self.multi_writer {
                // Another writer's, on a store that keeps the two apart: none of ours to judge.
                continue;
            }
            let record = numbers.last().and_then(|last| self.read_record(session, *last));
            let epoch = record.as_ref().map_or(self.epoch, |record| record.began.unwrap_or(record.epoch));
            let slot = keys::commit(epoch, session);
            let settled = store.size(&slot)?.is_some();
            let process = record.as_ref().map(Process::of);
            let dead = process.is_some_and(|process| self.process.knows_dead(&process));
            if own && dead && !settled && !self.fence(&slot, session, "its process ended without a commit")? {
                continue;
            }
            if own && (settled || dead) {
                for number in numbers {
                    // Credentials that may not delete leave it to the admin.
                    let _ = store.delete(&keys::session_record(session, number));
                }
            }
            let now = time(self.clock).secs;
            let silent = record.is_some_and(|record| now.saturating_sub(record.at.secs) > LEASE_SECONDS);
            if !self.multi_writer && !settled && !dead && !silent {
                self.withdraw();
                return Err(Error::Busy { writer: session.writer() });
            }
        }
        Ok(())
    }

    /// Removes what crashed uploads left in the store: packs of sessions that are over, and small objects that nobody has written to for a day.
    fn sweep(&self) -> Result<()> {
        let store = &self.repository.store;
        let now = time(self.clock).secs;
        let mut open: Option<std::collections::HashSet<SessionId>> = None;
        let mut failed = None;
        let swept = store.sweep(&mut |leftover| {
            let Some(session) = leftover.session() else {
                return now.saturating_sub(leftover.modified) > STALE_SECONDS;
            };
            if open.is_none() {
                match store.list(keys::SESSIONS) {
                    Ok(listed) => open = Some(listed.iter().filter_map(|l| session_of(&l.key)).collect()),
                    Err(error) => failed = failed.take().or(Some(error)),
                }
            }
            // A live session has a record, and had it before its first pack.
            open.as_ref().is_some_and(|open| !open.contains(&session))
        })?;
        if swept.files > 0 {
            tracing::info!(files = swept.files, bytes = swept.bytes, "leftovers of ended sessions removed");
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// A record as its own writer signed it: what another says of a session could make it look dead.
    fn read_record(&self, session: SessionId, number: u32) -> Option<record::SessionRecord> {
        let key = keys::session_record(session, number);
        let bytes = self.repository.store.get(&key).ok()?;
        let (by, body) = self.repository.open_signed(ObjectKind::Session, &key, &bytes).ok()?;
        if by != SignedBy::Writer(session.writer()) {
            return None;
        }
        record::decode(&body).ok()
    }

    /// Takes the slot of a session of this writer, so that it can never commit. False: it had committed.
    fn fence(&self, slot: &ObjectKey, session: SessionId, reason: &str) -> Result<bool> {
        let fence =
            record::Fence { at: time(self.clock), session: ByteArray::from(session.0), reason: reason.to_owned() };
        let bytes = self.repository.seal_as_writer(ObjectKind::Fence, slot, &record::encode(&fence))?;
        self.repository.create(slot, &bytes)
    }

    /// Whether older snapshots' trees and packs may be used again: not if what was deleted cannot be told.
    pub fn may_reuse(&self) -> bool {
        self.view.doubt.is_none()
    }

    /// Whether a verdict deleted a pack.
    pub(super) fn is_deleted(&self, pack: &PackId) -> bool {
        self.view.is_deleted(pack)
    }

    /// The index that this session goes by. What lies in packs that nobody may use again is not found in it, nor what was indexed after its session was settled.
    /// `refused` receives what does not verify.
    pub fn load_index(&self, snapshots: &Snapshots, refused: &mut dyn FnMut(Error)) -> Result<Index> {
        self.load(&self.view, &snapshots.settled(), refused)
    }

    fn load(&self, view: &View, settled: &HashMap<SessionId, u32>, refused: &mut dyn FnMut(Error)) -> Result<Index> {
        let writer = self.repository.need_writer("loading its index")?;
        let mut index = Index::empty();
        if view.doubt.is_none() {
            let scope = Scope::Write { group: writer.group, writer: writer.id };
            let counts = |name: &RunName| {
                name.session == self.id || view.counts_run(name, name.epoch.or(settled.get(&name.session).copied()))
            };
            index = Index::load_counting(self.repository, scope, &counts, refused)?;
        }
        index.guard(|pack| view.excludes(pack))?;
        Ok(index)
    }

    /// A sign of life, and a look for a new epoch, where they are due. `index` and `packer` are what this session goes by and stores with.
    pub fn heartbeat(&mut self, index: &RwLock<Index>, packer: &Packer<'_>) -> Result<()> {
        let look = if self.repository.store.is_remote() { LOOK_FAR } else { LOOK_NEAR };
        if self.last_look.elapsed() >= look {
            self.last_look = Instant::now();
            self.advance(index, packer)?;
        }
        if self.last_record.elapsed() >= HEARTBEAT { self.renew() } else { Ok(()) }
    }

    /// Comes to the newest epoch, if there is a newer one: condemned packs are used no more, and those that were used already are named, so that the verdict spares
    /// them. Whoever looks something up meanwhile waits.
    pub fn advance(&mut self, index: &RwLock<Index>, packer: &Packer<'_>) -> Result<()> {
        let newest = self.repository.newest_epoch()?;
        if newest.number <= self.epoch {
            return Ok(());
        }
        let fenced = || Error::Fenced { session: self.id };
        let view = self.repository.view(newest)?;
        // A verdict waits for every session, so this one was fenced; and what it uses cannot be told from an epoch that nobody can read.
        if view.doubt.is_some() || (newest.has_verdict && holds(Rule::SessionsAwaited)) {
            return Err(fenced());
        }
        let listed: Vec<ObjectKey> = self.repository.store.list(keys::COMMITS)?.into_iter().map(|l| l.key).collect();
        {
            let mut index = index.write().unwrap_or_else(PoisonError::into_inner);
            // What was used and can no longer be told from a damaged run: the session starts over.
            self.used.extend(index.used_packs().map_err(|error| if error.is_damage() { fenced() } else { error })?);
            *index = self.load(&view, &settled(&listed), &mut |error| {
                tracing::warn!(%error, "an index object does not verify; what it names is uploaded again");
            })?;
        }
        self.used.extend(packer.own_packs());
        if holds(Rule::Vetoes) {
            self.vetoes.extend(self.used.intersection(&view.condemned));
        }
        self.epoch = newest.number;
        self.view = Arc::new(view);
        self.renew()
    }

    /// Creates the next record.
    fn renew(&mut self) -> Result<()> {
        let key = keys::session_record(self.id, self.records);
        let bytes = self.record(&key)?;
        if !self.repository.create(&key, &bytes)? {
            return Err(Error::Fenced { session: self.id });
        }
        self.records += 1;
        self.last_record = Instant::now();
        Ok(())
    }

    /// Commits: the snapshot exists when this returns.
    pub fn commit(mut self, body: &record::ManifestBody) -> Result<Committed> {
        let slot = keys::commit(self.began, self.id);
        let bytes = self.seal_manifest(&slot, body)?;
        if !self.repository.create(&slot, &bytes)? {
            self.withdraw();
            return Err(Error::Fenced { session: self.id });
        }
        let was_passed_by = self.was_passed_by()?;
        self.withdraw();
        if was_passed_by {
            return Err(Error::Fenced { session: self.id });
        }
        Ok(Committed { id: self.id.snapshot(), slot, bytes: bytes.len() as u64 })
    }

    /// Whether the boundary lies behind this session: then it was fenced once, the fence was removed since, and what stands in its slot counts for nobody.
    fn was_passed_by(&self) -> Result<bool> {
        let newest = self.repository.newest_epoch()?;
        // No epoch's boundary reaches the epoch before it.
        if newest.number <= self.began || !holds(Rule::BoundaryAfterCommit) {
            return Ok(false);
        }
        let view = self.repository.view(newest)?;
        Ok(view.doubt.is_some() || self.began < view.boundary)
    }

    /// Ends the session without a commit. If it stored an index, or may have though the store said that it failed, a fence says so, and a missing
    /// manifest stays telling. Where even that fails, the record stays, and the writer's next session does it.
    pub fn abandon(mut self) {
        let slot = keys::commit(self.began, self.id);
        if self.next_run == 0 || self.fence(&slot, self.id, "it ended without a commit").is_ok() {
            self.withdraw();
        }
    }

    /// Removes the session's records. Where credentials forbid it, the admin's side does it later.
    fn withdraw(&mut self) {
        for number in 0..self.records {
            let _ = self.repository.store.delete(&keys::session_record(self.id, number));
        }
        self.records = 0;
    }

    fn seal_manifest(&self, slot: &ObjectKey, body: &record::ManifestBody) -> Result<Vec<u8>> {
        let repository = self.repository;
        let writer = repository.need_writer("committing")?;
        let key = Secret::random();
        let wrap = |recipient: &crate::seal::stanza::Recipient, to| {
            recipient.wrap(repository.id, Use::ManifestBody, to, slot.as_str().as_bytes(), &key)
        };
        let mut sealed = body_commitment(&key).to_vec();
        SegmentSealer::new(&key, body_aad(repository, slot)).seal_all(&record::encode(body), &mut sealed);
        let manifest = record::Manifest {
            writer: ByteArray::from(writer.id.0),
            group: ByteArray::from(writer.group.0),
            session: ByteArray::from(self.id.0),
            epoch: self.began,
            parents: self.parents.clone(),
            heads: self.heads.clone(),
            listing: ByteArray::from(self.listing),
            indexes: self.runs.iter().map(|name| keys::run(*name).to_string()).collect(),
            to_recipient: ByteVec::from(wrap(&repository.recipient, To::Recipient)),
            to_writer: ByteVec::from(wrap(&writer.metadata.public(), To::Writer)),
            body: ByteVec::from(sealed),
        };
        let features = if self.leaf_patches { LEAF_PATCHES } else { 0 };
        repository.seal_with(ObjectKind::Manifest, features, slot, &record::encode(&manifest))
    }
}

fn session_of(key: &ObjectKey) -> Option<SessionId> {
    match keys::parse(key) {
        Some(Meaning::SessionRecord(session, _)) => Some(session),
        _ => None,
    }
}

/// What binds the key of a manifest's body to its bytes.
pub(super) fn body_commitment(key: &Secret) -> [u8; 32] {
    *derive("body commitment", key.expose()).expose()
}

pub(super) fn body_aad(repository: &Repository, slot: &ObjectKey) -> Vec<u8> {
    [b"manifest body", &repository.id.0[..], slot.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::repository::{export_writer, init};
    use crate::store::memory::MemoryStore;
    use std::sync::Arc;

    fn begin<'a>(repository: &'a Repository, clock: &'a dyn Clock) -> WriteSession<'a> {
        WriteSession::start(repository, clock, &|_| vec![]).unwrap().0
    }

    #[test]
    fn what_another_writer_says_of_a_session_neither_kills_it_nor_anyone() {
        let (store, clock) = (Arc::new(MemoryStore::default()), ManualClock::at(1_000_000));
        let made = init::<Error>(&*store, &clock, None, |_| Ok(())).unwrap();
        let mine = Repository::open(store.clone(), made.key).unwrap();
        let (_, other) = export_writer(&mine, &clock, "other", None).unwrap();
        let other = Repository::open(store.clone(), other).unwrap();
        let live = begin(&mine, &clock);
        let forged = record::SessionRecord {
            at: Time { secs: i64::MIN, nanos: 0 },
            epoch: 0,
            parents: vec![],
            vetoes: vec![],
            host: ByteArray::from(live.process.host),
            boot: ByteArray::from([0; 16]),
            pid: 1,
            started: 1,
            began: None,
        };
        let key = keys::session_record(live.id, u32::MAX);
        let bytes = other.seal_as_writer(ObjectKind::Session, &key, &record::encode(&forged)).unwrap();
        assert!(other.create(&key, &bytes).unwrap());
        // Of its own session it may say what it likes; nobody's arithmetic must fail over it.
        let own = keys::session_record(SessionId::new(other.access.writer.as_ref().unwrap().id, [9; 8]), 0);
        let bytes = other.seal_as_writer(ObjectKind::Session, &own, &record::encode(&forged)).unwrap();
        assert!(other.create(&own, &bytes).unwrap());
        begin(&mine, &clock).abandon();
        assert_eq!(store.size(&keys::commit(0, live.id)).unwrap(), None, "the live session was fenced");
        assert!(store.size(&keys::session_record(live.id, 0)).unwrap().is_some());
    }

    #[test]
    fn an_unknown_write_feature_is_refused() {
        let (store, clock) = (Arc::new(MemoryStore::default()), ManualClock::at(1_000_000));
        let made = init::<Error>(&*store, &clock, None, |_| Ok(())).unwrap();
        let mut repository = Repository::open(store, made.key).unwrap();
        repository.config.write_features = vec!["parity".into()];
        let refused = WriteSession::start(&repository, &clock, &|_| vec![]).err();
        assert!(matches!(refused, Some(Error::Feature { .. })));
    }
}
