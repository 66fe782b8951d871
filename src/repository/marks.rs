//! What the admin decided of snapshots: forgotten, taken back, gone for good, held.
//!
//! Owns the marks and what they come to. Those on one snapshot are numbered from 0, and each is created once: whoever decides builds on the marks that he read,
//! and finds the next number taken if another decided meanwhile. So of an undelete and the end of the undo window only one can be had, and a hold that
//! comes before a forget keeps it off.
//!
//! What does not verify widens no right. A snapshot with a mark that is missing, damaged, not the admin's or senseless stands as if it had none, and is named
//! (`Marks::doubtful`): it is shown, restored and kept. Refuses to delete anything.

use std::collections::BTreeMap;

use super::proofs::Proofs;
use super::{Error, Repository, Result, each};
use crate::clock::Clock;
use crate::names::{ObjectKey, SessionId};
use crate::pack::keys::{self, Meaning};
use crate::pack::record::{self, Decision, Mark, Time};
use crate::seal::object::{Envelope, ObjectError, ObjectKind, SignedBy};
use crate::store::Listed;

/// Two admins who decide at the same time; more in a row is somebody's loop.
const TRIES: usize = 16;
/// So often a mark that was listed may be gone when it is read.
const TRIES_MISSING: usize = 3;

/// Whether a snapshot is there for its owners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    #[default]
    Kept,
    /// Hidden, and whole until the undo window is over.
    Forgotten { at: Time, reason: String },
    /// No way back: what only it needs may be gone.
    Expired,
}

/// Kept whatever rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub at: Time,
    pub reason: String,
    pub until: Option<Time>,
}

/// What the marks on one snapshot come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    pub standing: Standing,
    hold: Option<Hold>,
    /// The number of the mark that was the last.
    last: Option<u32>,
    /// There are marks, and they do not count: see `Marks::doubtful`.
    pub doubtful: bool,
}

/// The marks of one listing.
#[derive(Default)]
pub struct Marks {
    of: BTreeMap<SessionId, Marked>,
    /// Marks that do not verify, each with the session whose snapshot it may be on.
    pub doubtful: Vec<(SessionId, ObjectKey, Error)>,
}

impl Marked {
    /// The hold that is in force at `now`.
    pub fn hold(&self, now: Time) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| hold.until.is_none_or(|until| until > now))
    }

    /// Takes in the next decision.
    fn after(self, mark: Mark, number: u32) -> std::result::Result<Self, ObjectError> {
        let Self { mut standing, mut hold, .. } = self;
        match (mark.decision, &standing) {
            (Decision::Forget(reason), Standing::Kept) => standing = Standing::Forgotten { at: mark.at, reason },
            (Decision::Undelete, Standing::Forgotten { .. }) => standing = Standing::Kept,
            (Decision::Expire, Standing::Forgotten { .. }) => standing = Standing::Expired,
            (Decision::Hold(reason, until), Standing::Kept) => hold = Some(Hold { at: mark.at, reason, until }),
            (Decision::Release, _) if hold.is_some() => hold = None,
            _ => return Err(ObjectError::Body("it decides what cannot follow the mark before it".into())),
        }
        Ok(Self { standing, hold, last: Some(number), doubtful: false })
    }

    /// Whether `decision` may be made now; why not.
    pub fn allows(&self, decision: &Decision, now: Time) -> std::result::Result<(), Refusal> {
        match (decision, &self.standing) {
            (_, Standing::Expired) => Err(Refusal::Gone),
            (Decision::Forget(_), Standing::Forgotten { .. }) => Err(Refusal::Forgotten),
            (Decision::Forget(_) | Decision::Expire, _) if let Some(hold) = self.hold(now) => {
                Err(Refusal::Held { reason: hold.reason.clone() })
            }
            (Decision::Forget(_), Standing::Kept) => Ok(()),
            (Decision::Undelete | Decision::Expire, Standing::Forgotten { .. }) => Ok(()),
            (Decision::Undelete | Decision::Expire, Standing::Kept) => Err(Refusal::NotForgotten),
            (Decision::Hold(..), Standing::Forgotten { .. }) => Err(Refusal::Forgotten),
            (Decision::Hold(..), Standing::Kept) => Ok(()),
            (Decision::Release, _) if self.hold.is_some() => Ok(()),
            (Decision::Release, _) => Err(Refusal::NotHeld),
        }
    }
}

/// Why a decision was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it is forgotten already")]
    Forgotten,
    #[error("it is not forgotten")]
    NotForgotten,
    #[error("it was forgotten, and its undo window is over")]
    Gone,
    #[error("it is held: {reason}")]
    Held { reason: String },
    #[error("it is not held")]
    NotHeld,
}

impl Marks {
    /// What the marks on the snapshot of `session` come to.
    pub fn of(&self, session: SessionId) -> Marked {
        self.of.get(&session).cloned().unwrap_or_default()
    }

    /// Reads the marks that were listed, `threads` at a time. Signatures that `proofs` knows over the same bytes are not verified again.
    pub(super) fn read(
        repository: &Repository,
        listed: &[Listed],
        proofs: Option<&Proofs>,
        threads: impl FnOnce(usize) -> usize,
    ) -> Result<Self> {
        let marks: Vec<(SessionId, u32, &ObjectKey)> = listed
            .iter()
            .filter_map(|listed| match keys::parse(&listed.key) {
                Some(Meaning::Mark(session, number)) => Some((session, number, &listed.key)),
                _ => None,
            })
            .collect();
        let read = each(threads(marks.len()), &marks, |(session, _, key)| repository.read_mark(*session, key, proofs));
        let mut all = Self::default();
        for ((session, number, key), mark) in marks.into_iter().zip(read) {
            if all.doubtful.last().is_some_and(|(doubted, ..)| *doubted == session) {
                continue;
            }
            let before = all.of(session);
            let expected = before.last.map_or(0, |last| last.saturating_add(1));
            let after = match mark {
                Err(Error::Store(error)) if !error.is_not_found() => return Err(error.into()),
                _ if number != expected => Err(Error::Missing { key: keys::mark(session, expected) }),
                Err(Error::Store(_)) => Err(Error::Missing { key: key.clone() }),
                mark => mark.and_then(|mark| {
                    before.after(mark, number).map_err(|cause| Error::Damaged { key: key.clone(), cause })
                }),
            };
            match after {
                Ok(after) => _ = all.of.insert(session, after),
                Err(error) => {
                    all.of.insert(session, Marked { doubtful: true, ..Marked::default() });
                    all.doubtful.push((session, key.clone(), error));
                }
            }
        }
        Ok(all)
    }
}

impl Repository {
    pub(super) fn list_marks(&self) -> Result<Vec<Listed>> {
        match self.ahead.listing(keys::MARKS) {
            Some(listed) => Ok(listed),
            None => Ok(self.store.list(keys::MARKS)?),
        }
    }

    fn read_mark(&self, session: SessionId, key: &ObjectKey, proofs: Option<&Proofs>) -> Result<Mark> {
        let damaged = |cause| Error::Damaged { key: key.clone(), cause };
        let open = |bytes: &[u8]| {
            let envelope = Envelope::parse(bytes, key, self.id).map_err(damaged)?;
            let header = &envelope.header;
            match (header.kind, envelope.signed_by) {
                (ObjectKind::Mark, SignedBy::Admin) => {}
                (ObjectKind::Mark, SignedBy::Writer(_) | SignedBy::AdminFor(_)) => {
                    return Err(damaged(ObjectError::Signature));
                }
                (kind, _) => return Err(damaged(ObjectError::Kind(kind as u8))),
            }
            let signer = self.access.admin_public;
            let fact = proofs.map(|proofs| (proofs, proofs.of_slot(key, signer, bytes)));
            let is_known = fact.as_ref().is_some_and(|(proofs, fact)| proofs.recall(fact).is_some());
            if !is_known {
                envelope.verify(signer).map_err(damaged)?;
                if let Some((proofs, fact)) = &fact {
                    proofs.note(fact, None);
                }
            }
            envelope.open(&self.access.repository_key).map_err(damaged)
        };
        let mark: Mark = record::decode(&self.read(key, open)?).map_err(damaged)?;
        let slot = mark.slot.parse().ok().and_then(|slot| keys::parse(&slot));
        match slot {
            Some(Meaning::Commit { session: of, .. }) if of == session => Ok(mark),
            _ => Err(damaged(ObjectError::Body("it is on another snapshot than its key says".into()))),
        }
    }

    /// Decides on the snapshot in a slot, whether or not it can be read; what its marks come to then. Refuses what does not follow from the marks
    /// that stand there by now.
    pub fn decide(
        &self,
        clock: &dyn Clock,
        session: SessionId,
        slot: &ObjectKey,
        decision: &Decision,
    ) -> Result<Marked> {
        let admin = self.need_admin("deciding what becomes of snapshots")?;
        let snapshot = session.snapshot();
        for attempt in 0..TRIES {
            let listed = self.store.list(&keys::marks(session))?;
            let marks = Marks::read(self, &listed, None, |_| self.calls())?;
            match marks.doubtful.into_iter().next() {
                // A prune may be at the marks of what it removed.
                Some((_, _, Error::Missing { .. })) if attempt + 1 < TRIES_MISSING => continue,
                Some((_, _, error)) => return Err(error),
                None => {}
            }
            let before = marks.of.get(&session).cloned().unwrap_or_default();
            let now = clock.now();
            let at = Time { secs: now.secs, nanos: now.nanos };
            before.allows(decision, at).map_err(|why| Error::Undecided { snapshot, why })?;
            let number = before.last.map_or(0, |last| last.saturating_add(1));
            let mark = Mark { at, slot: slot.to_string(), decision: decision.clone() };
            let key = keys::mark(session, number);
            let bytes = self.seal_as_admin(admin, ObjectKind::Mark, &key, &record::encode(&mark));
            if self.create(&key, &bytes)? {
                return before.after(mark, number).map_err(|cause| Error::Damaged { key, cause });
            }
        }
        Err(Error::Contended { snapshot })
    }
}

#[cfg(test)]
mod tests;
