//! What is not there because it was deleted, and not because it was lost.
//!
//! Owns the question, of objects that something names, or that were listed before a prune removed them while this check runs. The answer comes from the newest deletion epoch,
//! which is read again whenever there is a newer one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Result;
use crate::names::ObjectKey;
use crate::pack::keys::{self, Meaning};
use crate::repository::{Error as RepositoryError, Repository, SnapshotState, Snapshots, View};

/// The newest epoch, as it was read last, and slots whose snapshots were found to be gone for good, or not.
#[derive(Default)]
pub struct Deleted {
    view: Mutex<Option<Arc<View>>>,
    over: Mutex<HashMap<ObjectKey, bool>>,
}

impl Deleted {
    /// Whether the snapshot in a slot is gone for good by now, though it was not when it was listed: then parts of it may be missing.
    pub fn is_over(&self, repository: &Repository, slot: &ObjectKey) -> Result<bool> {
        let Some(Meaning::Commit { .. }) = keys::parse(slot) else { return Ok(false) };
        let known = self.over.lock().unwrap_or_else(PoisonError::into_inner).get(slot).copied();
        if let Some(over) = known {
            return Ok(over);
        }
        let snapshots = Snapshots::list(repository)?;
        let live = snapshots.readable.iter().filter(|snapshot| snapshot.state != SnapshotState::Expired);
        let is_live =
            live.map(|snapshot| &snapshot.slot).chain(snapshots.lost().map(|lost| &lost.slot)).any(|live| live == slot);
        self.over.lock().unwrap_or_else(PoisonError::into_inner).insert(slot.clone(), !is_live);
        Ok(!is_live)
    }

    /// Whether a prune deleted what stood at `key`, or may have.
    pub fn explains(&self, repository: &Repository, key: &ObjectKey) -> Result<bool> {
        let Some(meaning) = keys::parse(key) else { return Ok(false) };
        let known = self.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(view) = &known
            && explains(repository, view, meaning)?
        {
            return Ok(true);
        }
        let newest = repository.newest_epoch()?;
        if known.is_some_and(|view| view.newest == newest) {
            return Ok(false);
        }
        let view = Arc::new(repository.view(newest)?);
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Some(view.clone());
        explains(repository, &view, meaning)
    }
}

fn explains(repository: &Repository, view: &View, meaning: Meaning) -> Result<bool> {
    Ok(match meaning {
        Meaning::Pack(_, pack) => view.is_deleted(&pack),
        Meaning::Commit { epoch, session } => !view.counts_slot(epoch, session),
        Meaning::Epoch(number) | Meaning::Verdict(number) => number < view.newest.number,
        Meaning::Run(name) if name.epoch.is_some() => !view.counts_run(&name, name.epoch),
        // When a segment's session began its slot tells; without one it is over, and the epoch lists what counts.
        Meaning::Run(name) => {
            let slots = repository.store.list(keys::COMMITS).map_err(RepositoryError::from)?;
            let began = slots.iter().find_map(|listed| match keys::parse(&listed.key) {
                Some(Meaning::Commit { epoch, session }) if session == name.session => Some(epoch),
                _ => None,
            });
            view.newest.number > 0 && !view.counts_run(&name, began)
        }
        // Marks go with their slot.
        Meaning::Mark(session, _) => {
            let slots = repository.store.list(keys::COMMITS).map_err(RepositoryError::from)?;
            let is_on = |key: &ObjectKey| matches!(keys::parse(key), Some(Meaning::Commit { session: of, epoch }) if of == session && view.counts_slot(epoch, session));
            view.newest.number > 0 && !slots.iter().any(|listed| is_on(&listed.key))
        }
        _ => false,
    })
}
