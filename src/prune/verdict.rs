//! The verdict on an epoch's packs.
//!
//! Owns the second look: once every session has come to the epoch, what was committed since is listed anew, and whatever of the condemned it needs is spared, as is
//! what open sessions have named. A verdict is created once and says which packs stay; all others of its epoch are deleted, by this prune or any later one.

use std::collections::HashSet;

use minicbor::bytes::ByteVec;

use super::condemn::held;
use super::sessions::Passed;
use super::survey::Survey;
use super::{Prune, Result, doubts, packs};
use crate::names::{ObjectKey, PackId};
use crate::pack::keys;
use crate::pack::record;
use crate::pack::run::RunName;
use crate::repository::rules::{Rule, holds};
use crate::repository::{self, Snapshot, SnapshotState, Snapshots, View, pack_rows};
use crate::seal::object::ObjectKind;

impl Prune<'_> {
    /// Gives the verdict on the epoch of `view`, unless there is one. `known`: slots whose trees were looked at when the epoch was opened, and of which nothing was condemned.
    pub(super) fn judge(&mut self, view: &View, passed: &Passed, known: &HashSet<ObjectKey>) -> Result<()> {
        let repository = self.repository;
        let mut snapshots = Snapshots::list(repository)?;
        let settled = snapshots.settled();
        let own = self.session.id;
        let counts = |name: &RunName| {
            name.session == own || view.counts_run(name, name.epoch.or(settled.get(&name.session).copied()))
        };
        let index = doubts::index_without(repository, &mut snapshots, &counts)?;
        let is_needed = |snapshot: &&Snapshot| {
            snapshot.state != SnapshotState::Expired
                || (passed.pinned.contains(&snapshot.slot) && holds(Rule::ParentsKept))
        };
        let (old, mut new): (Vec<&Snapshot>, Vec<&Snapshot>) =
            snapshots.readable.iter().filter(is_needed).partition(|snapshot| known.contains(&snapshot.slot));
        if !holds(Rule::SnapshotsListedAgain) {
            new.clear();
        }
        let mut spared: HashSet<PackId> = view.condemned.intersection(&passed.vetoes).copied().collect();
        if !new.is_empty() {
            let held = held(repository, &index, &new, &old, self.request, self.control)?;
            let there = packs(&repository.store.list("").map_err(repository::Error::from)?);
            let may_own = |pack: &PackId| there.contains_key(pack) && !view.gone.contains(pack);
            let survey =
                Survey::make(&index, held, &may_own, &|pack| !view.condemned.contains(pack), &self.control.cancel)?;
            spared.extend(survey.owners().intersection(&view.condemned));
        }
        let mut spared: Vec<PackId> = spared.into_iter().collect();
        spared.sort_unstable();
        let verdict = record::Verdict { at: self.now(), spared: ByteVec::from(pack_rows(&spared)) };
        let key = keys::verdict(view.newest.number);
        let admin = repository.need_admin("pruning")?;
        let bytes = repository.seal_as_admin(admin, ObjectKind::Verdict, &key, &record::encode(&verdict));
        // Another prune may have given it, which looked as well.
        if repository.create(&key, &bytes)? {
            self.report.spared += spared.len() as u64;
        }
        Ok(())
    }
}
