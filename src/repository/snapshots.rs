//! Snapshots: what the commit slots hold, and which one `latest` is.
//!
//! Owns reading of manifests, lineage, and selection. A slot that does not verify is named and never guessed at.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::session::{body_aad, body_commitment};
use super::{Error, Repository, Result};
use crate::names::{ChunkId, GroupId, ObjectKey, SessionId, SnapshotId, TreePath, WriterId};
use crate::pack::keys::{self, Meaning};
use crate::pack::record::{self, ManifestBody};
use crate::pack::tree::Root;
use crate::seal::cipher::Opener;
use crate::seal::object::{Envelope, ObjectError, ObjectKind, SignedBy};
use crate::seal::stanza::{To, Use};

/// A committed snapshot whose manifest verifies.
#[derive(Clone)]
pub struct Snapshot {
    pub id: SnapshotId,
    pub slot: ObjectKey,
    pub writer: WriterId,
    pub group: GroupId,
    pub parents: Vec<String>,
    pub heads: Vec<String>,
    pub indexes: Vec<String>,
    pub state: SnapshotState,
    /// None: this key may not read it (another writer's).
    pub body: Option<Arc<ManifestBody>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    Good,
    /// Committed after its writer was revoked: never `latest`, never a parent.
    Revoked,
}

/// A slot that holds no manifest that verifies.
pub struct Unreadable {
    pub slot: ObjectKey,
    pub session: SessionId,
    pub error: Error,
}

/// All slots of one listing.
pub struct Snapshots {
    /// Oldest first: by lineage, and by the time of their start where lineage says nothing. So a clock that was set back, or two runs in one
    /// tick of it, do not make an older snapshot the newest.
    pub readable: Vec<Snapshot>,
    pub unreadable: Vec<Unreadable>,
    listed: Vec<ObjectKey>,
}

/// Which snapshots are meant.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub policy: Option<String>,
    pub writer: Option<WriterId>,
    /// A source's path: absolute, raw bytes.
    pub path: Option<Vec<u8>>,
    pub tags: Vec<String>,
    /// Do not refuse when an unreadable manifest could be meant.
    pub skip_unreadable: bool,
}

impl Snapshot {
    pub fn started(&self) -> Option<record::Time> {
        self.body.as_ref().map(|body| body.started)
    }

    /// The body, or an error that says why this key has none.
    pub fn need_body(&self, repository: &Repository) -> Result<&Arc<ManifestBody>> {
        self.body.as_ref().ok_or(Error::Role {
            what: "reading another writer's snapshot",
            have: repository.role(),
            need: "an admin or reader",
        })
    }
}

impl record::Source {
    pub fn tree(&self) -> Root {
        Root {
            id: ChunkId(*self.root.id),
            level: self.root.level,
            base: TreePath::from_bytes(self.root.base.to_vec()).unwrap_or_default(),
            entries: self.root.entries,
            bytes: self.root.bytes,
        }
    }
}

impl Selection {
    /// Whether a snapshot is one of those; what this key cannot read fits nothing.
    pub fn fits(&self, snapshot: &Snapshot) -> bool {
        let Some(body) = &snapshot.body else { return false };
        self.writer.is_none_or(|writer| writer == snapshot.writer)
            && self.policy.as_ref().is_none_or(|policy| body.policy.as_ref() == Some(policy))
            && self.path.as_ref().is_none_or(|path| {
                body.sources.iter().any(|source| {
                    let name = source.name.as_slice();
                    path == name || (path.starts_with(name) && (name == b"/" || path.get(name.len()) == Some(&b'/')))
                })
            })
            && self.tags.iter().all(|tag| body.tags.contains(tag))
    }
}

impl Snapshots {
    /// Reads every slot.
    pub fn list(repository: &Repository) -> Result<Self> {
        let listed: Vec<ObjectKey> =
            repository.store.list(keys::COMMITS)?.into_iter().map(|listed| listed.key).collect();
        let (mut readable, mut unreadable) = (Vec::new(), Vec::new());
        let mut revocations: BTreeMap<WriterId, Option<record::Revocation>> = BTreeMap::new();
        for slot in &listed {
            let Some(Meaning::Commit { session, .. }) = keys::parse(slot) else { continue };
            match read_slot(repository, slot, session, &mut revocations) {
                Ok(Some(snapshot)) => readable.push(snapshot),
                Ok(None) => {}
                Err(Error::Store(error)) if !error.is_not_found() => return Err(error.into()),
                Err(error) => unreadable.push(Unreadable { slot: slot.clone(), session, error }),
            }
        }
        sort_by_lineage(&mut readable);
        Ok(Self { readable, unreadable, listed })
    }

    /// BLAKE3 of the listed slot keys, joined by newlines.
    pub fn listing_hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for (at, key) in self.listed.iter().enumerate() {
            hasher.update(if at == 0 { b"" } else { b"\n" });
            hasher.update(key.as_str().as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Slots of `writer`'s newest manifests (those that no other of its manifests names as a parent), and of others'.
    pub fn heads(&self, writer: WriterId) -> (Vec<String>, Vec<String>) {
        let named: HashSet<&str> =
            self.readable.iter().flat_map(|snapshot| snapshot.parents.iter().map(String::as_str)).collect();
        let newest =
            |snapshot: &&Snapshot| !named.contains(snapshot.slot.as_str()) && snapshot.state == SnapshotState::Good;
        let (own, others): (Vec<_>, Vec<_>) =
            self.readable.iter().filter(newest).partition(|snapshot| snapshot.writer == writer);
        let slots = |snapshots: Vec<&Snapshot>| snapshots.iter().map(|s| s.slot.to_string()).collect();
        (slots(own), slots(others))
    }

    /// The newest good snapshot that fits. Refuses if an unreadable one could be it.
    pub fn latest(&self, selection: &Selection) -> Result<&Snapshot> {
        let newest = self.readable.iter().rev().find(|s| s.state == SnapshotState::Good && selection.fits(s));
        if !selection.skip_unreadable {
            let ancestors: HashSet<&str> = self
                .readable
                .iter()
                .flat_map(|snapshot| snapshot.parents.iter().chain(&snapshot.heads).map(String::as_str))
                .collect();
            let could_be_newest = |lost: &&Unreadable| {
                selection.writer.is_none_or(|writer| writer == lost.session.writer())
                    && !ancestors.contains(lost.slot.as_str())
            };
            if let Some(lost) = self.unreadable.iter().find(could_be_newest) {
                return Err(Error::LatestUnknown {
                    key: lost.slot.to_string(),
                    newest_readable: newest.map(|snapshot| snapshot.id.short()),
                });
            }
        }
        newest.ok_or_else(|| Error::NoSnapshot("fits".into()))
    }

    /// The snapshot that `text` names: `latest`, or the beginning of an id.
    pub fn find(&self, text: &str, selection: &Selection) -> Result<&Snapshot> {
        if text == "latest" {
            return self.latest(selection);
        }
        let prefix = text.to_ascii_lowercase();
        let fitting: Vec<&Snapshot> =
            self.readable.iter().filter(|snapshot| snapshot.id.to_string().starts_with(&prefix)).collect();
        match fitting[..] {
            [snapshot] if !prefix.is_empty() => Ok(snapshot),
            [] | [_] => match self
                .unreadable
                .iter()
                .find(|lost| !prefix.is_empty() && lost.session.snapshot().to_string().starts_with(&prefix))
            {
                Some(lost) => Err(Error::Damaged {
                    key: lost.slot.clone(),
                    cause: ObjectError::Body("its manifest does not verify, so it cannot be read".into()),
                }),
                None => Err(Error::NoSnapshot(format!("is named {text}"))),
            },
            _ => Err(Error::Ambiguous { prefix: text.to_owned(), count: fitting.len() }),
        }
    }
}

/// Orders snapshots by the latest start among themselves and their predecessors, then by the length of their lineage.
fn sort_by_lineage(snapshots: &mut [Snapshot]) {
    type Rank = (Option<record::Time>, u64);
    let places: HashMap<&str, usize> = snapshots.iter().enumerate().map(|(at, s)| (s.slot.as_str(), at)).collect();
    let before: Vec<Vec<usize>> = snapshots
        .iter()
        .map(|s| s.parents.iter().chain(&s.heads).filter_map(|slot| places.get(slot.as_str()).copied()).collect())
        .collect();
    let mut ranks: Vec<Option<Rank>> = vec![None; snapshots.len()];
    let mut open = vec![false; snapshots.len()];
    for start in 0..snapshots.len() {
        let mut stack = vec![start];
        while let Some(&at) = stack.last() {
            if ranks[at].is_some() {
                stack.pop();
                continue;
            }
            // Signed manifests name what existed before them, so there is no circle; one that was made up would be cut here.
            if !open[at] && before[at].iter().any(|place| ranks[*place].is_none() && !open[*place]) {
                open[at] = true;
                stack.extend(before[at].iter().filter(|place| ranks[**place].is_none() && !open[**place]));
                continue;
            }
            let own: Rank = (snapshots[at].started(), 0);
            let rank = before[at]
                .iter()
                .filter_map(|place| ranks[*place])
                .fold(own, |rank, older| (rank.0.max(older.0), rank.1.max(older.1 + 1)));
            ranks[at] = Some(rank);
            stack.pop();
        }
    }
    let ranks: HashMap<SnapshotId, Option<Rank>> = snapshots.iter().zip(ranks).map(|(s, rank)| (s.id, rank)).collect();
    snapshots.sort_by_key(|snapshot| (ranks.get(&snapshot.id).copied().flatten(), snapshot.id));
}

fn read_slot(
    repository: &Repository,
    slot: &ObjectKey,
    session: SessionId,
    revocations: &mut BTreeMap<WriterId, Option<record::Revocation>>,
) -> Result<Option<Snapshot>> {
    let bytes = match repository.store.get(slot) {
        Err(error) if error.is_not_found() => return Err(Error::Missing { key: slot.clone() }),
        bytes => bytes?,
    };
    let damaged = |cause| Error::Damaged { key: slot.clone(), cause };
    let envelope = Envelope::parse(&bytes, slot, repository.id).map_err(damaged)?;
    if envelope.header.kind == ObjectKind::Fence {
        // A writer fences sessions of its own only; the admin may fence any.
        return match repository.open_signed(ObjectKind::Fence, slot, &bytes)? {
            (SignedBy::Writer(writer), _) if writer != session.writer() => Err(damaged(ObjectError::Signature)),
            _ => Ok(None),
        };
    }
    let (by, outer) = repository.open_signed(ObjectKind::Manifest, slot, &bytes)?;
    let writer = session.writer();
    if by != SignedBy::Writer(writer) {
        return Err(damaged(ObjectError::Signature));
    }
    let manifest: record::Manifest = record::decode(&outer).map_err(damaged)?;
    let own_group = repository.writer(writer)?.group;
    if *manifest.writer != writer.0 || *manifest.session != session.0 || *manifest.group != own_group.0 {
        return Err(damaged(ObjectError::Body("it names another session than its slot".into())));
    }
    if let std::collections::btree_map::Entry::Vacant(vacant) = revocations.entry(writer) {
        vacant.insert(repository.revocation(writer)?);
    }
    let state = match revocations.get(&writer).and_then(Option::as_ref) {
        Some(revocation) if !stands(revocation, slot, &bytes) => SnapshotState::Revoked,
        _ => SnapshotState::Good,
    };
    let body = open_body(repository, slot, &manifest)?.map(Arc::new);
    Ok(Some(Snapshot {
        id: session.snapshot(),
        slot: slot.clone(),
        writer,
        group: own_group,
        parents: manifest.parents,
        heads: manifest.heads,
        indexes: manifest.indexes,
        state,
        body,
    }))
}

/// Whether a manifest is one that its writer's revocation names with its hash. (Its ancestors are named too: the listing was whole.)
fn stands(revocation: &record::Revocation, slot: &ObjectKey, bytes: &[u8]) -> bool {
    let hash = *blake3::hash(bytes).as_bytes();
    revocation.standing.iter().any(|standing| standing.slot == slot.as_str() && *standing.hash == hash)
}

fn open_body(repository: &Repository, slot: &ObjectKey, manifest: &record::Manifest) -> Result<Option<ManifestBody>> {
    let damaged = |cause| Error::Damaged { key: slot.clone(), cause };
    let (secret, to, stanza) = match (&repository.access.reader, &repository.access.writer) {
        (Some(reader), _) => (&reader.secret, To::Recipient, &manifest.to_recipient),
        (None, Some(writer)) if writer.id.0 == *manifest.writer => (&writer.metadata, To::Writer, &manifest.to_writer),
        _ => return Ok(None),
    };
    let key = secret
        .unwrap(repository.id, Use::ManifestBody, to, slot.as_str().as_bytes(), stanza)
        .map_err(|error| damaged(ObjectError::Body(error.to_string())))?;
    let (commitment, sealed) = manifest.body.split_first_chunk::<32>().ok_or_else(|| damaged(ObjectError::Short))?;
    if !bool::from(body_commitment(&key).ct_eq(commitment)) {
        return Err(damaged(ObjectError::Key));
    }
    let plain = Opener::new(&key)
        .open_segments(&body_aad(repository, slot), sealed)
        .map_err(|_| damaged(ObjectError::Damaged))?;
    record::decode(&plain).map(Some).map_err(damaged)
}
