//! Deleting what may be deleted.
//!
//! Owns what that is: packs that the newest verdict does not spare, and, of all that began before its epoch's boundary, what the epoch does not list: index objects, commit slots with
//! their marks; records of settled sessions; older epochs. All of it may be deleted by anyone, any number of times: no name is ever used again. Slots that an open
//! session may read a tree of stay.
//! Order: packs before everything, a slot before the marks on it, which say that it is gone for good.

use std::collections::{HashMap, HashSet};

use super::sessions::{Sessions, began_of};
use super::{Doubt, Error, Prune, Result};
use crate::browse::go_on;
use crate::names::{ObjectKey, SessionId};
use crate::pack::keys::{self, Meaning};
use crate::repository;

impl Prune<'_> {
    /// Sweeps by the newest epoch, whose verdict stands.
    pub(super) fn sweep(&mut self) -> Result<()> {
        let repository = self.repository;
        let view = repository.view(repository.newest_epoch()?)?;
        if let Some(error) = view.doubt {
            return Err(Error::Doubt(vec![Doubt::of(error)]));
        }
        if !view.newest.has_verdict {
            return Ok(());
        }
        // Objects, then sessions, then slots: whose index object was listed is open, or settled by the last listing.
        let listed = repository.store.list("").map_err(repository::Error::from)?;
        let sessions = Sessions::list(repository, Some(self.session.id))?;
        let pinned = sessions.pinned();
        let slots = repository.store.list(keys::COMMITS).map_err(repository::Error::from)?;
        let slots: Vec<(u32, SessionId, &ObjectKey)> = slots
            .iter()
            .filter_map(|listed| match keys::parse(&listed.key) {
                Some(Meaning::Commit { epoch, session }) => Some((epoch, session, &listed.key)),
                _ => None,
            })
            .collect();
        let settled: HashMap<SessionId, u32> = slots.iter().map(|(epoch, session, _)| (*session, *epoch)).collect();
        let over: HashSet<SessionId> = slots
            .iter()
            .filter(|(epoch, session, slot)| !view.counts_slot(*epoch, *session) && !pinned.contains(*slot))
            .map(|(_, session, _)| *session)
            .collect();
        let (mut small, mut marks) = (sessions.spent.clone(), Vec::new());
        for object in &listed {
            go_on(&self.control.cancel)?;
            match keys::parse(&object.key) {
                Some(Meaning::Pack(_, id)) if view.is_deleted(&id) => {
                    self.delete(&object.key)?;
                    self.report.deleted.add(object.size);
                }
                Some(Meaning::Run(name)) if name.session != self.session.id => {
                    let began = name.epoch.or(began_of(&sessions.open, &settled, name.session));
                    if !view.counts_run(&name, began) {
                        small.push(object.key.clone());
                    }
                }
                Some(Meaning::Commit { session, .. }) if over.contains(&session) => small.push(object.key.clone()),
                Some(Meaning::Mark(session, _)) if over.contains(&session) || !settled.contains_key(&session) => {
                    marks.push(object.key.clone());
                }
                Some(Meaning::Epoch(number) | Meaning::Verdict(number)) if number < view.newest.number => {
                    small.push(object.key.clone());
                }
                _ => {}
            }
        }
        for key in small.iter().chain(&marks) {
            go_on(&self.control.cancel)?;
            self.delete(key)?;
            self.report.small_deleted += 1;
        }
        Ok(())
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        Ok(self.repository.store.delete(key).map_err(repository::Error::from)?)
    }
}
