//! Write sessions as a collector sees them: which are open, and which it has to wait for.
//!
//! Owns the wait and the fences. A session is open while a record of it stands and its slot is free. One that has come to an epoch has named what it used of the packs
//! that the epoch condemned; one that is silent for a lease, or whose process this host knows to be gone, is fenced: its slot is taken, so that it can never commit, and
//! starts over. A clock that is wrong fences too early or too late, and loses nothing.
//! Refuses to believe a record that its writer did not sign: such a session is open, has come to no epoch, and is fenced at once.

use std::collections::{BTreeMap, HashMap, HashSet};

use minicbor::bytes::ByteArray;

use crate::clock::Clock;
use crate::names::{ObjectKey, PackId, SessionId};
use crate::pack::keys::{self, Meaning};
use crate::pack::record::{self, SessionRecord, Time};
use crate::repository::rules::{Rule, holds};
use crate::repository::{Error, LEASE_SECONDS, Process, Repository, Result, WriteSession};
use crate::seal::object::{ObjectKind, SignedBy};

/// A session that may still commit.
pub(super) struct Open {
    pub session: SessionId,
    /// Its newest record; none: no record of it verifies.
    pub record: Option<SessionRecord>,
}

impl Open {
    /// The epoch in which it began: the one of its slot.
    pub fn began(&self) -> Option<u32> {
        self.record.as_ref().map(|record| record.began.unwrap_or(record.epoch))
    }

    fn has_come_to(&self, epoch: u32) -> bool {
        self.record.as_ref().is_some_and(|record| record.epoch >= epoch)
    }
}

/// The sessions of one listing, those that are settled left out.
pub(super) struct Sessions {
    pub open: Vec<Open>,
    /// Records of sessions that are settled: nobody needs them.
    pub spent: Vec<ObjectKey>,
}

impl Sessions {
    /// Lists records first and slots then, so that whatever was settled meanwhile is. `own` is left out.
    pub fn list(repository: &Repository, own: Option<SessionId>) -> Result<Self> {
        let mut records: BTreeMap<SessionId, Vec<u32>> = BTreeMap::new();
        for listed in repository.store.list(keys::SESSIONS)? {
            if let Some(Meaning::SessionRecord(session, number)) = keys::parse(&listed.key) {
                records.entry(session).or_default().push(number);
            }
        }
        records.retain(|session, _| Some(*session) != own);
        let mut settled = HashSet::new();
        if !records.is_empty() {
            for listed in repository.store.list(keys::COMMITS)? {
                if let Some(Meaning::Commit { session, .. }) = keys::parse(&listed.key) {
                    settled.insert(session);
                }
            }
        }
        let (mut open, mut spent) = (Vec::new(), Vec::new());
        for (session, numbers) in records {
            if settled.contains(&session) {
                spent.extend(numbers.into_iter().map(|number| keys::session_record(session, number)));
                continue;
            }
            // The newest record names all vetoes: an older one does not stand in for it.
            let Some(last) = numbers.last() else { continue };
            match read_record(repository, session, *last)? {
                Read::Gone => {}
                Read::Doubtful => open.push(Open { session, record: None }),
                Read::Record(record) => open.push(Open { session, record: Some(*record) }),
            }
        }
        Ok(Self { open, spent })
    }

    /// Slots whose trees open sessions may use again.
    pub fn pinned(&self) -> HashSet<ObjectKey> {
        let records = self.open.iter().filter_map(|open| open.record.as_ref());
        records.flat_map(|record| &record.parents).filter_map(|slot| slot.parse().ok()).collect()
    }

    fn vetoes(&self) -> HashSet<PackId> {
        let records = self.open.iter().filter_map(|open| open.record.as_ref());
        records.flat_map(|record| &record.vetoes).map(|pack| PackId(**pack)).collect()
    }
}

enum Read {
    /// The session removed it: it is settled by now, or never will be.
    Gone,
    Doubtful,
    Record(Box<SessionRecord>),
}

fn read_record(repository: &Repository, session: SessionId, number: u32) -> Result<Read> {
    let key = keys::session_record(session, number);
    let bytes = match repository.store.get(&key) {
        Err(error) if error.is_not_found() => return Ok(Read::Gone),
        bytes => bytes?,
    };
    let opened = match repository.open_signed(ObjectKind::Session, &key, &bytes) {
        // Whether the record is good cannot be told while the store does not say who may sign.
        Err(Error::Store(error)) => return Err(error.into()),
        opened => opened.ok(),
    };
    let body = opened.filter(|(by, _)| *by == SignedBy::Writer(session.writer())).map(|(_, body)| body);
    let record = body.and_then(|body| record::decode(&body).ok());
    Ok(record.map_or(Read::Doubtful, |record| Read::Record(Box::new(record))))
}

/// What open sessions hold on to once all of them have come to an epoch.
pub(super) struct Passed {
    pub vetoes: HashSet<PackId>,
    pub pinned: HashSet<ObjectKey>,
}

/// Whom a collector still waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub session: SessionId,
    /// When it was heard of last, and from when on it is fenced.
    pub heard: Time,
}

/// One look at the sessions: all have come to `epoch`, or these have not. Those that are dead are fenced; how many is added to `fenced`.
pub(super) fn look(
    repository: &Repository,
    clock: &dyn Clock,
    own: &WriteSession<'_>,
    epoch: u32,
    boundary: u32,
    fenced: &mut u64,
) -> Result<std::result::Result<Passed, Vec<Waiting>>> {
    let this = Process::this(&repository.access.repository_key);
    let now = clock.now();
    loop {
        let sessions = Sessions::list(repository, Some(own.id))?;
        let (mut waiting, mut any_fenced) = (Vec::new(), false);
        for open in sessions.open.iter().filter(|open| !open.has_come_to(epoch)) {
            if !holds(Rule::SessionsAwaited) {
                break;
            }
            let reason = match &open.record {
                None => Some("no record of it verifies"),
                Some(record) if now.secs.saturating_sub(record.at.secs) > LEASE_SECONDS => {
                    Some("it was silent for a lease")
                }
                Some(record) if this.knows_dead(&Process::of(record)) => Some("its process ended without a commit"),
                Some(record) => {
                    waiting.push(Waiting { session: open.session, heard: record.at });
                    None
                }
            };
            if let Some(reason) = reason {
                // Where no record tells the slot, every one that it could commit in is taken.
                let slots = match open.began() {
                    Some(began) => began..=began,
                    None => boundary..=epoch,
                };
                for began in slots {
                    fence(repository, now.secs, open.session, began, reason)?;
                }
                *fenced += 1;
                any_fenced = true;
            }
        }
        if any_fenced {
            // A fenced one may have committed just before: what it did is looked at, and what it vetoed is not needed.
            continue;
        }
        return Ok(match waiting.is_empty() {
            true => Ok(Passed { vetoes: sessions.vetoes(), pinned: sessions.pinned() }),
            false => Err(waiting),
        });
    }
}

fn fence(repository: &Repository, now: i64, session: SessionId, began: u32, reason: &str) -> Result<()> {
    let slot = keys::commit(began, session);
    let at = Time { secs: now, nanos: 0 };
    let fence = record::Fence { at, session: ByteArray::from(session.0), reason: reason.to_owned() };
    let admin = repository.need_admin("fencing a session")?;
    let bytes = repository.seal_as_admin(admin, ObjectKind::Fence, &slot, &record::encode(&fence));
    // Taken already: the session committed, or somebody else fenced it.
    repository.create(&slot, &bytes).map(|_| ())
}

/// The epoch in which each settled session of a listing of slots began.
pub(super) fn began_of(open: &[Open], settled: &HashMap<SessionId, u32>, session: SessionId) -> Option<u32> {
    settled.get(&session).copied().or_else(|| open.iter().find(|open| open.session == session).and_then(Open::began))
}
