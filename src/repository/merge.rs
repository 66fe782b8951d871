//! Index runs made one.
//!
//! Owns the merging of a writer's own runs at the end of a backup, and of a group's runs by the admin. What a verdict deleted is left out; what is only condemned is not: the
//! verdict may spare it. What is replaced stays until a prune sweeps it.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Error, Index, Repository, Result, SealedRun, WriteSession};
use crate::names::{GroupId, PackId, SessionId};
use crate::pack::keys;
use crate::pack::run::{self, BLOCK_BYTES, Frames, Run, RunError, RunName};
use crate::seal::key::Secret;
use crate::seal::object::{Identity, ObjectKind, Sealing, SignedBy};
use crate::seal::sign::Signer;
use crate::store::Create;

/// So many runs of one size class become one.
pub(crate) const MERGE_RUNS: usize = 8;

/// A run, and the frames of it that are left out.
pub(crate) type Part<'a> = (&'a Arc<Run<SealedRun>>, Frames);

/// By powers of eight of their entries: each entry is rewritten about once for each power.
pub(crate) fn tier(run: &Run<SealedRun>) -> u32 {
    run.entries().max(1).ilog2() / 3
}

/// The frames of packs that a verdict deleted.
pub(crate) fn deleted(run: &Run<SealedRun>, is_deleted: &dyn Fn(&PackId) -> bool) -> Result<Frames> {
    run.frames_of(|row| is_deleted(&row.id)).map_err(|error| told(error, run))
}

fn told(error: RunError<Error>, run: &Run<SealedRun>) -> Error {
    match error {
        RunError::Read(error) => error,
        RunError::Malformed(cause) => Error::Index { key: keys::run(run.source().name), cause },
    }
}

/// Merges this writer's own runs, size class by size class, into segments that say what they replace. Returns the names of new segments and their bytes.
pub fn merge_own_runs(
    repository: &Repository,
    index: &Index,
    session: &mut WriteSession<'_>,
) -> Result<Vec<(RunName, u64)>> {
    let writer = repository.need_writer("merging the index")?;
    let mut tiers: HashMap<u32, Vec<&Arc<Run<SealedRun>>>> = HashMap::new();
    // What the admin merged is not for a writer to replace.
    for run in index.runs().iter().filter(|run| run.source().by == SignedBy::Writer(writer.id)) {
        tiers.entry(tier(run)).or_default().push(run);
    }
    let mut made = Vec::new();
    for runs in tiers.into_values().filter(|runs| runs.len() >= MERGE_RUNS) {
        let mut parts: Vec<Part<'_>> = Vec::new();
        for run in runs {
            parts.push((run, deleted(run, &|pack| session.is_deleted(pack))?));
        }
        let mut replaced = Vec::new();
        for (run, _) in &parts {
            replaced.push(run.source().name);
            replaced.extend_from_slice(run.replaced());
        }
        let (base, by) = (writer.keys.index_key(), SignedBy::Writer(writer.id));
        made.push(segment(repository, session, &base, by, &writer.signer, &parts, &replaced)?);
    }
    Ok(made)
}

/// Merges runs of one group, whoever wrote them, into a segment of the admin's.
pub(crate) fn merge_for_group(
    repository: &Repository,
    session: &mut WriteSession<'_>,
    group: GroupId,
    parts: &[Part<'_>],
    replaced: &[RunName],
) -> Result<(RunName, u64)> {
    let admin = repository.need_admin("merging the index")?;
    let base = admin.reader().group(group).index_key();
    segment(repository, session, &base, SignedBy::AdminFor(group), &admin.signer(), parts, replaced)
}

fn segment(
    repository: &Repository,
    session: &mut WriteSession<'_>,
    base: &Secret,
    by: SignedBy,
    signer: &Signer,
    parts: &[Part<'_>],
    replaced: &[RunName],
) -> Result<(RunName, u64)> {
    let name = RunName { session: session.id, sequence: session.next_run, epoch: None };
    session.next_run += 1;
    let key = keys::run(name);
    let kind = ObjectKind::Segment;
    let identity = Identity { kind, repository: repository.id, key: &key, base, by, signer, features: 0 };
    let bytes = write(repository, session.id, &identity, name, parts, replaced)?;
    session.runs.push(name);
    Ok((name, bytes))
}

fn write(
    repository: &Repository,
    session: SessionId,
    identity: &Identity<'_>,
    name: RunName,
    parts: &[Part<'_>],
    replaced: &[RunName],
) -> Result<u64> {
    let mut upload = repository.store.begin(session, u32::MAX - name.sequence)?;
    let mut copy = repository.store.copies().and_then(|copies| copies.begin());
    let mut out = Vec::with_capacity(1 << 20);
    let mut sealing = Sealing::new(identity, &mut out);
    let mut bytes = 0u64;
    let inputs: Vec<(&Run<SealedRun>, Frames)> =
        parts.iter().map(|(run, left_out)| (&***run, left_out.clone())).collect();
    let footer = run::merge(&inputs, replaced, |block: &[u8]| -> Result<()> {
        sealing.push(block, &mut out);
        if out.len() >= (1 << 20) - 2 * BLOCK_BYTES {
            upload.append(&out)?;
            if let Some(copy) = &mut copy {
                copy.append(&out);
            }
            bytes += out.len() as u64;
            out.clear();
        }
        Ok(())
    })
    .map_err(|error| match error {
        run::MergeError::Write(error) => error,
        run::MergeError::Read(RunError::Read(error)) => error,
        run::MergeError::Read(RunError::Malformed(cause)) => Error::Index { key: identity.key.clone(), cause },
    })?;
    sealing.finish(identity, &footer, &mut out);
    upload.append(&out)?;
    bytes += out.len() as u64;
    if let Some(copy) = &mut copy {
        copy.append(&out);
    }
    match upload.finish(identity.key)? {
        Create::Created => {
            // Signed by this process: no other proof is needed.
            if let Some(copy) = copy {
                copy.keep(identity.key);
            }
            Ok(bytes)
        }
        // The key holds this session's 64 random bits.
        Create::Occupied => Err(Error::Fenced { session }),
    }
}
