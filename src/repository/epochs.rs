//! Deletion epochs, as whoever reads or writes the repository goes by them (`pack/FORMAT.md`, section 11).
//!
//! Owns the view of the newest epoch: which packs nobody may use again, and what counts of all that began before its boundary. Only the newest epoch and its verdict are
//! read: what older ones deleted and may still be named stands in it. Refuses to delete, and to guess: an epoch that does not verify says nothing (`View::doubt`), a writer
//! then uses no pack but its own, and a prune does nothing.

use std::collections::HashSet;

use super::rules::{Rule, holds};
use super::{Error, Repository, Result};
use crate::names::{ObjectKey, PackId, SessionId};
use crate::pack::keys::{self, Meaning};
use crate::pack::record;
use crate::pack::run::RunName;
use crate::seal::object::{ObjectError, ObjectKind, SignedBy};
use crate::store::Listed;

const PACK_BYTES: usize = 32;
const RUN_BYTES: usize = 24;
const SLOT_BYTES: usize = 20;
/// A prune ends once in a while; more in a row is somebody's loop.
const RELOADS: usize = 4;
/// In the place of a segment's epoch.
const NO_EPOCH: u32 = u32::MAX;

/// What a listing tells of the epochs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Newest {
    /// 0: there is none.
    pub number: u32,
    pub has_verdict: bool,
}

impl Newest {
    pub fn of(listed: &[Listed]) -> Self {
        let meanings = || listed.iter().filter_map(|listed| keys::parse(&listed.key));
        let number = |meaning| match meaning {
            Meaning::Epoch(number) => Some(number),
            _ => None,
        };
        let number = meanings().filter_map(number).max().unwrap_or(0);
        Self { number, has_verdict: number > 0 && meanings().any(|meaning| meaning == Meaning::Verdict(number)) }
    }
}

/// What the newest epoch says.
#[derive(Default)]
pub(crate) struct View {
    pub newest: Newest,
    /// Every session that began before is settled.
    pub boundary: u32,
    /// Packs that the epoch condemned, spared ones among them.
    pub condemned: HashSet<PackId>,
    /// Of those: the ones that its verdict spares.
    pub spared: HashSet<PackId>,
    /// Packs that older verdicts deleted.
    pub gone: HashSet<PackId>,
    runs: HashSet<RunName>,
    slots: HashSet<(u32, SessionId)>,
    /// Why the epoch, or its verdict, says nothing.
    pub doubt: Option<Error>,
}

fn ids(rows: &[u8]) -> impl Iterator<Item = PackId> + '_ {
    rows.chunks_exact(PACK_BYTES).map(|row| {
        let mut id = [0; PACK_BYTES];
        id.copy_from_slice(row);
        PackId(id)
    })
}

/// Names of packs as an epoch and a verdict have them.
pub(crate) fn pack_rows<'a>(packs: impl IntoIterator<Item = &'a PackId>) -> Vec<u8> {
    packs.into_iter().flat_map(|pack| pack.0).collect()
}

pub(crate) fn run_rows<'a>(runs: impl IntoIterator<Item = &'a RunName>) -> Vec<u8> {
    let mut rows = Vec::new();
    for RunName { session, sequence, epoch } in runs {
        rows.extend_from_slice(&session.0);
        rows.extend_from_slice(&sequence.to_le_bytes());
        rows.extend_from_slice(&epoch.unwrap_or(NO_EPOCH).to_le_bytes());
    }
    rows
}

pub(crate) fn slot_rows<'a>(slots: impl IntoIterator<Item = &'a (u32, SessionId)>) -> Vec<u8> {
    slots.into_iter().flat_map(|(epoch, session)| epoch.to_le_bytes().into_iter().chain(session.0)).collect()
}

fn word(bytes: &[u8]) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(bytes);
    u32::from_le_bytes(word)
}

fn session(bytes: &[u8]) -> SessionId {
    let mut id = [0; 16];
    id.copy_from_slice(bytes);
    SessionId(id)
}

impl View {
    /// Whether nobody may use a pack again.
    pub fn excludes(&self, pack: &PackId) -> bool {
        let condemned = || self.condemned.contains(pack) && !self.spared.contains(pack);
        (holds(Rule::CondemnedUnused) && condemned()) || (holds(Rule::GoneUnused) && self.gone.contains(pack))
    }

    /// Whether a verdict deleted a pack.
    pub fn is_deleted(&self, pack: &PackId) -> bool {
        self.gone.contains(pack)
            || (self.newest.has_verdict && self.condemned.contains(pack) && !self.spared.contains(pack))
    }

    /// Whether what stands in a commit slot counts.
    pub fn counts_slot(&self, epoch: u32, session: SessionId) -> bool {
        epoch >= self.boundary || self.slots.contains(&(epoch, session)) || !holds(Rule::SlotsListed)
    }

    /// Whether a writer may go by an index object of a session that began in epoch `began`; none: that cannot be told. Where nothing was ever deleted all of them count.
    pub fn counts_run(&self, name: &RunName, began: Option<u32>) -> bool {
        self.newest.number == 0
            || began.is_some_and(|began| began >= self.boundary)
            || self.runs.contains(name)
            || !holds(Rule::SettledRunsOnly)
    }

    /// Slots that the epoch lists.
    pub fn slots(&self) -> impl Iterator<Item = (u32, SessionId)> + '_ {
        self.slots.iter().copied()
    }

    fn take_epoch(&mut self, epoch: &record::Epoch) -> std::result::Result<(), ObjectError> {
        let rows = [
            (&epoch.condemned_data, PACK_BYTES),
            (&epoch.condemned_metadata, PACK_BYTES),
            (&epoch.gone, PACK_BYTES),
            (&epoch.runs, RUN_BYTES),
            (&epoch.slots, SLOT_BYTES),
        ];
        if rows.iter().any(|(rows, len)| !rows.len().is_multiple_of(*len)) {
            return Err(ObjectError::Body("a list of it ends in the middle of a row".into()));
        }
        self.boundary = epoch.boundary;
        self.condemned = ids(&epoch.condemned_data).chain(ids(&epoch.condemned_metadata)).collect();
        self.gone = ids(&epoch.gone).collect();
        let run = |row: &[u8]| {
            let epoch = word(&row[20..]);
            RunName {
                session: session(&row[..16]),
                sequence: word(&row[16..20]),
                epoch: (epoch != NO_EPOCH).then_some(epoch),
            }
        };
        self.runs = epoch.runs.chunks_exact(RUN_BYTES).map(run).collect();
        let slot = |row: &[u8]| (word(&row[..4]), session(&row[4..]));
        self.slots = epoch.slots.chunks_exact(SLOT_BYTES).map(slot).collect();
        Ok(())
    }
}

impl Repository {
    /// The newest deletion epoch.
    pub(crate) fn newest_epoch(&self) -> Result<Newest> {
        Ok(Newest::of(&self.store.list(keys::EPOCHS)?))
    }

    /// The same, as it was read while the repository opened; snapshots that were listed then came after it.
    pub(crate) fn first_epoch(&self) -> Result<Newest> {
        match self.ahead.listing(keys::EPOCHS) {
            Some(listed) => Ok(Newest::of(&listed)),
            None => {
                self.ahead.forget();
                self.newest_epoch()
            }
        }
    }

    /// The epochs for whoever only reads, who may have asked for them in any order.
    pub(super) fn list_epochs(&self) -> Result<Newest> {
        match self.ahead.listing(keys::EPOCHS) {
            Some(listed) => Ok(Newest::of(&listed)),
            None => self.newest_epoch(),
        }
    }

    /// What the newest epoch says; a newer one's, if that took its place meanwhile. Errors are the store's own; what does not verify is `doubt`.
    pub(crate) fn view(&self, newest: Newest) -> Result<View> {
        let mut view = self.read_view(newest)?;
        for _ in 0..RELOADS {
            let Some(Error::Missing { .. }) = view.doubt else { break };
            let newest = self.newest_epoch()?;
            if newest == view.newest {
                break;
            }
            view = self.read_view(newest)?;
        }
        Ok(view)
    }

    fn read_view(&self, newest: Newest) -> Result<View> {
        let mut view = View { newest, ..View::default() };
        if newest.number == 0 {
            return Ok(view);
        }
        let (epoch_key, verdict_key) = (keys::epoch(newest.number), keys::verdict(newest.number));
        let verdict =
            || newest.has_verdict.then(|| self.read_admins::<record::Verdict>(ObjectKind::Verdict, &verdict_key));
        let (epoch, verdict) = super::both(
            self.store.is_remote(),
            || self.read_admins::<record::Epoch>(ObjectKind::Epoch, &epoch_key),
            verdict,
        );
        let damaged = |cause| Error::Damaged { key: epoch_key.clone(), cause };
        let taken = epoch.and_then(|epoch| view.take_epoch(&epoch).map_err(damaged));
        let spared = verdict.transpose().map(|verdict| verdict.map(|verdict| ids(&verdict.spared).collect()));
        match (taken, spared) {
            (Ok(()), Ok(spared)) => view.spared = spared.unwrap_or_default(),
            (Err(Error::Store(error)), _) | (_, Err(Error::Store(error))) if !error.is_not_found() => {
                return Err(error.into());
            }
            // All or nothing: half of what an epoch says could make a slot vanish.
            (Err(error), _) | (_, Err(error)) => {
                view = View { newest, doubt: Some(error), ..View::default() };
            }
        }
        Ok(view)
    }

    fn read_admins<T: for<'b> minicbor::Decode<'b, ()>>(&self, kind: ObjectKind, key: &ObjectKey) -> Result<T> {
        let damaged = |cause| Error::Damaged { key: key.clone(), cause };
        let body = self.read(key, |bytes| match self.open_signed(kind, key, bytes)? {
            (SignedBy::Admin, body) => Ok(body),
            _ => Err(damaged(ObjectError::Signature)),
        });
        match body {
            Err(Error::Store(error)) if error.is_not_found() => Err(Error::Missing { key: key.clone() }),
            body => record::decode(&body?).map_err(damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use minicbor::bytes::ByteVec;

    use super::*;
    use crate::pack::record::Time;

    #[test]
    fn rows_come_back_as_they_were() {
        let (a, b) = (SessionId([1; 16]), SessionId([2; 16]));
        let runs =
            [RunName { session: a, sequence: 7, epoch: Some(3) }, RunName { session: b, sequence: 0, epoch: None }];
        let (packs, slots) = ([PackId([5; 32]), PackId([6; 32])], [(0, a), (9, b)]);
        let epoch = record::Epoch {
            at: Time { secs: 0, nanos: 0 },
            condemned_data: ByteVec::from(pack_rows(&packs[..1])),
            condemned_metadata: ByteVec::from(vec![]),
            gone: ByteVec::from(pack_rows(&packs[1..])),
            boundary: 10,
            runs: ByteVec::from(run_rows(&runs)),
            slots: ByteVec::from(slot_rows(&slots)),
        };
        let mut view = View { newest: Newest { number: 11, has_verdict: false }, ..View::default() };
        view.take_epoch(&epoch).unwrap();
        assert!(packs.iter().all(|pack| view.excludes(pack)) && !view.excludes(&PackId([7; 32])));
        assert!(runs.iter().all(|run| view.counts_run(run, None)));
        assert!(
            !view.counts_run(&RunName { sequence: 1, ..runs[0] }, Some(3)),
            "it came after its session was settled"
        );
        assert!(view.counts_run(&RunName { sequence: 1, ..runs[0] }, Some(10)));
        assert!(view.counts_slot(9, b) && view.counts_slot(10, a) && !view.counts_slot(9, a));
        view.spared.insert(packs[0]);
        assert!(!view.excludes(&packs[0]));
        let torn = record::Epoch { slots: ByteVec::from(vec![0; 19]), ..epoch };
        assert!(View::default().take_epoch(&torn).is_err());
    }
}
