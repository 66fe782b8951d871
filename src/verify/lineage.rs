//! What manifests say of each other, of index runs and of sessions.
//!
//! Owns the search for what is hidden: a snapshot that another one names and that is not there.

use std::collections::{BTreeMap, HashSet};

use super::Result;
use super::check::{Check, Listing};
use super::finding::causes;
use crate::names::{ObjectKey, SessionId};
use crate::pack::container::PackKind;
use crate::pack::keys::{self, Meaning};
use crate::pack::run::RunName;
use crate::repository::{Error as RepositoryError, Index, SnapshotState, Snapshots};

/// Checks what all slots name. The index was read after them.
pub fn check(check: &Check<'_>, listing: &Listing, index: &Index, mut snapshots: Snapshots) -> Result<Snapshots> {
    for lost in std::mem::take(&mut snapshots.unreadable) {
        // The slot's own finding, or the one of the certificate or revocation that it was checked with.
        let number = match check.findings.of(&lost.slot) {
            Some(number) => Some(number),
            None => check.absorb(lost.error, PackKind::Metadata, &lost.slot)?,
        };
        if let Some(number) = number {
            check.findings.affects_snapshot(number, lost.session.snapshot());
        }
    }
    let replaced: HashSet<RunName> = index
        .runs()
        .iter()
        .flat_map(|run| run.replaced().iter().filter(|old| run.source().may_replace(old)).copied())
        .collect();
    for snapshot in &snapshots.readable {
        check.go_on()?;
        for slot in snapshot.parents.iter().chain(&snapshot.heads) {
            named_slot(check, listing, slot, &snapshot.slot)?;
        }
        // Another group's segments cannot be opened, so what they replaced is not known. What is forgotten for good may lack anything.
        let open = check.repository.access.group(snapshot.group).is_some() && snapshot.state != SnapshotState::Expired;
        for object in snapshot.indexes.iter().filter(|_| open) {
            named_run(check, listing, &replaced, object, snapshot)?;
        }
        if snapshot.revoked {
            check.findings.warning(&snapshot.slot, "was committed after its writer was revoked");
        }
    }
    for slot in snapshots.missing() {
        // Twice, since it may have been listed away between the two.
        if !check.deleted.explains(check.repository, &slot)? {
            check
                .findings
                .damage(&slot, "is missing, and the newest deletion epoch lists it: a snapshot is lost or hidden");
        }
    }
    for (session, key, error) in std::mem::take(&mut snapshots.marks.doubtful) {
        // The marks on a slot that a prune deleted go one by one, and a later one may have been read before it went.
        let gone =
            matches!(error, RepositoryError::Missing { .. }) && check.deleted.explains(check.repository, &key)?;
        if !gone {
            doubtful_mark(check, session, &key, &error);
        }
    }
    revocations(check, listing)?;
    Ok(snapshots)
}

/// No content is at risk: what cannot be read forgets nothing.
fn doubtful_mark(check: &Check<'_>, session: SessionId, key: &ObjectKey, error: &RepositoryError) {
    let number = match error {
        RepositoryError::Missing { key } => check.findings.damage(key, "is missing, and later decisions follow it"),
        error => check.findings.damage(key, format!("does not verify: {}", causes(error))),
    };
    if let Some(number) = number {
        check.findings.extend(number, ", so its snapshot counts as kept");
        check.findings.affects_snapshot(number, session.snapshot());
    }
}

fn stands(check: &Check<'_>, listing: &Listing, key: &ObjectKey) -> Result<bool> {
    Ok(listing.has(key) || check.repository.store.size(key).map_err(RepositoryError::from)?.is_some())
}

fn named_slot(check: &Check<'_>, listing: &Listing, slot: &str, by: &ObjectKey) -> Result<()> {
    let parsed = slot.parse::<ObjectKey>().ok().and_then(|key| match keys::parse(&key) {
        Some(Meaning::Commit { session, .. }) => Some((key, session)),
        _ => None,
    });
    let Some((key, session)) = parsed else {
        check.findings.damage(by, "names a predecessor that is no slot");
        return Ok(());
    };
    if !stands(check, listing, &key)? && !check.deleted.explains(check.repository, &key)? {
        let what = format!("is missing, and {by} names it: a snapshot is lost or hidden");
        if let Some(number) = check.findings.damage(&key, what) {
            check.findings.affects_snapshot(number, session.snapshot());
        }
    }
    Ok(())
}

fn named_run(
    check: &Check<'_>,
    listing: &Listing,
    replaced: &HashSet<RunName>,
    object: &str,
    snapshot: &crate::repository::Snapshot,
) -> Result<()> {
    let parsed = object.parse::<ObjectKey>().ok().and_then(|key| match keys::parse(&key) {
        Some(Meaning::Run(name)) => Some((key, name)),
        _ => None,
    });
    let Some((key, name)) = parsed else {
        check.findings.damage(&snapshot.slot, "names an index object that is none");
        return Ok(());
    };
    if replaced.contains(&name) {
        return Ok(());
    }
    let number = match check.findings.of(&key) {
        Some(number) => Some(number),
        None if stands(check, listing, &key)? || check.deleted.explains(check.repository, &key)? => None,
        None => {
            check.at_risk();
            check.findings.damage(&key, "is missing, and no segment replaces it")
        }
    };
    if let Some(number) = number {
        check.findings.affects_snapshot(number, snapshot.id);
    }
    Ok(())
}

/// Every manifest that a revocation lets stand is still there, with the same bytes.
fn revocations(check: &Check<'_>, listing: &Listing) -> Result<()> {
    for (key, meaning, _) in &listing.small {
        let Meaning::Revocation(writer) = meaning else { continue };
        let revocation = match check.repository.revocation(*writer) {
            Ok(Some(revocation)) => revocation,
            Ok(None) => continue,
            Err(error) => {
                check.absorb(error, PackKind::Metadata, key)?;
                continue;
            }
        };
        for standing in &revocation.standing {
            named_slot(check, listing, &standing.slot, key)?;
            if let Ok(slot) = standing.slot.parse::<ObjectKey>()
                && let Some((.., size)) = listing.small.iter().find(|(known, ..)| *known == slot)
                && let Some(bytes) = check.get(&slot, *size)?
                && *blake3::hash(&bytes).as_bytes() != *standing.hash
            {
                check.findings.damage(&slot, format!("is not the manifest that {key} lets stand"));
            }
        }
    }
    Ok(())
}

/// Finds sessions that left index runs and nothing else. One that commits leaves a manifest, one that gives up a fence, and one that was killed its record: so what
/// stood in the slot was removed.
pub fn silent_sessions(check: &Check<'_>, listing: &Listing) -> Result<()> {
    let mut settled: HashSet<SessionId> = HashSet::new();
    let mut wrote: BTreeMap<SessionId, u32> = BTreeMap::new();
    for (_, meaning, _) in &listing.small {
        match meaning {
            Meaning::SessionRecord(session, _) | Meaning::Commit { session, .. } => {
                settled.insert(*session);
            }
            Meaning::Run(RunName { session, epoch: Some(epoch), .. }) => {
                wrote.insert(*session, *epoch);
            }
            _ => {}
        }
    }
    wrote.retain(|session, _| !settled.contains(session));
    for (session, epoch) in wrote {
        let slot = keys::commit(epoch, session);
        // It may have committed since the listing; and a lost one that another names is a finding already.
        if check.findings.of(&slot).is_none()
            && check.repository.store.size(&slot).map_err(RepositoryError::from)?.is_none()
            && !check.deleted.explains(check.repository, &slot)?
        {
            check.findings.damage(&slot, "is missing: its session stored an index, and neither committed nor gave up");
        }
    }
    Ok(())
}
