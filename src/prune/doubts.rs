//! What keeps a prune from deleting: objects that may protect something, and that cannot be read.
//!
//! Owns the list of them. For choosing and restoring what does not verify counts as absent; for deletion it counts as present, so a prune that meets any such object
//! names them all, and does nothing. Whatever made them unreadable gains no right by it.

use crate::names::ObjectKey;
use crate::pack::keys::{self, Meaning};
use crate::repository::{Error as RepositoryError, Index, Repository, Scope, SnapshotState, Snapshots, Standing};

use super::{Error, Result};

/// An object that cannot be read, or what in it cannot.
#[derive(Debug)]
pub struct Doubt {
    /// None: the error names what it is about.
    pub key: Option<ObjectKey>,
    pub error: RepositoryError,
}

impl Doubt {
    pub(super) fn of(error: RepositoryError) -> Self {
        Self { key: None, error }
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
    for (_, key, error) in std::mem::take(&mut snapshots.marks.doubtful) {
        doubts.push(Doubt { key: Some(key), error });
    }
    for key in snapshots.missing() {
        doubts.push(Doubt::of(RepositoryError::Missing { key }));
    }
    let mut refused = Vec::new();
    let index = Index::load_counting(repository, Scope::Read, counts, &mut |error| refused.push(error))?;
    for error in refused {
        note(&mut doubts, error)?;
    }
    doubts.extend(missing_runs(&index, snapshots));
    if doubts.is_empty() { Ok(index) } else { Err(Error::Doubt(doubts)) }
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
