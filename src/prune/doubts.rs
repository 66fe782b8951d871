//! What keeps a prune from deleting: objects that may protect something, and that cannot be read.
//!
//! Owns the list of them. For choosing and restoring what does not verify counts as absent; for deletion it counts as present, so a prune that meets any such object
//! names them all, and does nothing. Whatever made them unreadable gains no right by it.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::{ObjectKey, SessionId};
use crate::pack::keys::{self, Meaning};
use crate::repository::{Error as RepositoryError, Index, Repository, Scope, SnapshotState, Snapshots, Standing};

use super::{Error, Result};

/// An object that cannot be read, or what in it cannot; the error names it.
#[derive(Debug)]
pub struct Doubt {
    pub error: RepositoryError,
}

impl Doubt {
    pub(super) fn of(error: RepositoryError) -> Self {
        Self { error }
    }
}

fn note(doubts: &mut Vec<Doubt>, error: RepositoryError) -> Result<()> {
    match error {
        // The store's own trouble is no doubt about an object, and may pass.
        RepositoryError::Store(error) if !error.is_not_found() => Err(Error::Repository(error.into())),
        error => {
            doubts.push(Doubt::of(error));
            Ok(())
        }
    }
}

/// Looks at everything small that protects something, and loads the index. Fails with all doubts if there are any.
pub(super) fn index_without(
    repository: &Repository,
    snapshots: &mut Snapshots,
    counts: &dyn Fn(&crate::pack::run::RunName) -> bool,
) -> Result<Index> {
    let mut doubts = Vec::new();
    if let Some(key) = &repository.doubtful_config {
        doubts.push(Doubt::of(RepositoryError::Missing { key: key.clone() }));
    }
    for writer in repository.all_writers()? {
        if let Err(error) = writer {
            note(&mut doubts, error)?;
        }
    }
    for writer in repository.list_revoked()? {
        if let Err(error) = repository.revocation(writer) {
            note(&mut doubts, error)?;
        }
    }
    for lost in std::mem::take(&mut snapshots.unreadable) {
        // What is gone for good protects nothing, whether or not it can be read.
        if snapshots.marks.of(lost.session).standing != Standing::Expired {
            note(&mut doubts, lost.error)?;
        }
    }
    doubts.extend(std::mem::take(&mut snapshots.marks.doubtful).into_iter().map(|(.., error)| Doubt::of(error)));
    for key in snapshots.missing().into_iter().chain(hidden(snapshots)) {
        doubts.push(Doubt::of(RepositoryError::Missing { key }));
    }
    let mut refused = Vec::new();
    let index = Index::load_counting(repository, Scope::Read, counts, &mut |error| refused.push(error))?;
    for error in refused {
        note(&mut doubts, error)?;
    }
    doubts.extend(missing_runs(&index, snapshots));
    doubts.extend(silent_sessions(repository, &index, snapshots)?);
    if doubts.is_empty() { Ok(index) } else { Err(Error::Doubt(doubts)) }
}

/// Slots that a snapshot names as what came before it, and that are neither listed nor removed by an epoch: a listing that is not whole hides what is needed.
fn hidden(snapshots: &Snapshots) -> Vec<ObjectKey> {
    let listed = snapshots.settled();
    let live = snapshots.readable.iter().filter(|snapshot| snapshot.state != SnapshotState::Expired);
    let named: BTreeSet<&String> = live.flat_map(|snapshot| snapshot.parents.iter().chain(&snapshot.heads)).collect();
    let is_hidden = |key: &ObjectKey| match keys::parse(key) {
        Some(Meaning::Commit { epoch, session }) => {
            listed.get(&session) != Some(&epoch) && snapshots.view.counts_slot(epoch, session)
        }
        _ => false,
    };
    named.into_iter().filter_map(|name| name.parse().ok()).filter(is_hidden).collect()
}

/// Slots of sessions that left index objects and nothing else. One that commits leaves a manifest, one that gives up a fence, and one that was killed its record: so what stood in
/// the slot was removed, or is not listed.
fn silent_sessions(repository: &Repository, index: &Index, snapshots: &Snapshots) -> Result<Vec<Doubt>> {
    let (settled, view) = (snapshots.settled(), &snapshots.view);
    let names = index.runs().iter().flat_map(|run| run.replaced().iter().chain(std::iter::once(&run.source().name)));
    let began: BTreeMap<SessionId, u32> = names
        .filter_map(|name| name.epoch.map(|epoch| (name.session, epoch)))
        .filter(|(session, epoch)| !settled.contains_key(session) && view.counts_slot(*epoch, *session))
        .collect();
    let mut doubts = Vec::new();
    for (session, epoch) in began {
        let (slot, records) = (keys::commit(epoch, session), keys::session_records(session));
        // Open; or settled since the listing.
        let is_open = !repository.store.list(&records).map_err(RepositoryError::from)?.is_empty();
        if !is_open && repository.store.size(&slot).map_err(RepositoryError::from)?.is_none() {
            doubts.push(Doubt::of(RepositoryError::Missing { key: slot }));
        }
    }
    Ok(doubts)
}

/// Index objects that a snapshot names and that are gone: packs may be known to nobody else.
fn missing_runs(index: &Index, snapshots: &Snapshots) -> Vec<Doubt> {
    let known: std::collections::HashSet<_> = index
        .runs()
        .iter()
        .flat_map(|run| run.replaced().iter().copied().chain(std::iter::once(run.source().name)))
        .collect();
    let live = snapshots.readable.iter().filter(|snapshot| snapshot.state != SnapshotState::Expired);
    let mut named: Vec<&String> = live.flat_map(|snapshot| &snapshot.indexes).collect();
    named.sort_unstable();
    named.dedup();
    let missing =
        named.into_iter().filter_map(|name| name.parse::<ObjectKey>().ok()).filter(|key| match keys::parse(key) {
            Some(Meaning::Run(name)) => !known.contains(&name),
            _ => false,
        });
    missing.map(|key| Doubt::of(RepositoryError::Missing { key })).collect()
}
