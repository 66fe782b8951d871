//! Snapshots: what the commit slots hold, and which one `latest` is.
//!
//! Owns lineage and selection; each slot is read by `manifests`. A slot that does not verify is named and never guessed at.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::epochs::View;
use super::manifests::Reading;
use super::marks::{Marked, Marks, Standing};
use super::proofs::Proofs;
use super::together::both;
use super::{Error, Repository, Result, each};
use crate::names::{ChunkId, GroupId, ObjectKey, SessionId, SnapshotId, TreePath, WriterId};
use crate::pack::keys::{self, Meaning};
use crate::pack::record::{self, ManifestBody};
use crate::pack::tree::Root;
use crate::seal::object::ObjectError;
use crate::store::Listed;

/// So many slots near by are worth a thread: they take 3 ms of a core if they were proven before, and 41 if not.
const SLOTS_PER_THREAD: usize = 128;

/// See `epochs`.
const RELOADS: usize = 4;

/// A committed snapshot whose manifest verifies.
#[derive(Clone)]
pub struct Snapshot {
    pub id: SnapshotId,
    /// The session that committed it.
    pub session: SessionId,
    pub slot: ObjectKey,
    pub writer: WriterId,
    pub group: GroupId,
    pub parents: Vec<String>,
    pub heads: Vec<String>,
    pub indexes: Vec<String>,
    pub state: SnapshotState,
    /// Committed after its writer was revoked, whatever was decided of it since.
    pub revoked: bool,
    pub marked: Marked,
    /// None: this key may not read it (another writer's).
    pub body: Option<Arc<ManifestBody>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    Good,
    /// Committed after its writer was revoked: never `latest`, never a parent.
    Revoked,
    /// The admin forgot it: hidden, whole as long as it can be taken back; never `latest`, and its trees are not used again.
    Forgotten,
    /// Forgotten for good: parts of it may be gone.
    Expired,
}

impl SnapshotState {
    /// Whether the admin let it go, so that it is shown only to whoever asks for it.
    pub fn is_forgotten(self) -> bool {
        matches!(self, Self::Forgotten | Self::Expired)
    }
}

/// A slot that holds no manifest that verifies.
pub struct Unreadable {
    pub slot: ObjectKey,
    pub session: SessionId,
    pub error: Error,
}

/// All slots of one listing.
pub struct Snapshots {
    /// In the order of their commits: by the time of their start, but none before what its own writer says came before it, so that a clock that was
    /// wrong once does not stay newest for years. Those that cannot be read come first.
    pub readable: Vec<Snapshot>,
    pub unreadable: Vec<Unreadable>,
    pub marks: Marks,
    /// The newest deletion epoch.
    pub(crate) view: Arc<View>,
    listed: Vec<ObjectKey>,
}

/// Which snapshots are meant.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub policy: Option<String>,
    pub writer: Option<WriterId>,
    pub host: Option<String>,
    /// A source's path: absolute, raw bytes.
    pub path: Option<Vec<u8>>,
    pub tags: Vec<String>,
    /// Do not refuse when an unreadable manifest could be meant.
    pub skip_unreadable: bool,
}

impl Snapshot {
    fn marked(mut self, marked: Marked) -> Self {
        match marked.standing {
            Standing::Kept => {}
            Standing::Forgotten { .. } => self.state = SnapshotState::Forgotten,
            Standing::Expired => self.state = SnapshotState::Expired,
        }
        Self { marked, ..self }
    }

    /// Whether it counts for the line of its writer's snapshots: what was forgotten came before what came after it all the same.
    fn is_of_the_line(&self) -> bool {
        !self.revoked
    }

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
    /// The absolute paths beneath which all of it lies: its name, or of a selection what was asked for.
    pub fn paths(&self) -> Vec<&[u8]> {
        match &self.selected {
            Some(selected) if !selected.is_empty() => selected.iter().map(|path| path.as_slice()).collect(),
            _ => vec![self.name.as_slice()],
        }
    }

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
            && self.host.as_ref().is_none_or(|host| body.host == *host)
            && self.path.as_ref().is_none_or(|path| {
                body.sources.iter().flat_map(|source| source.paths()).any(|name| {
                    path == name || (path.starts_with(name) && (name == b"/" || path.get(name.len()) == Some(&b'/')))
                })
            })
            && self.tags.iter().all(|tag| body.tags.contains(tag))
    }
}

impl Snapshots {
    /// Reads every slot. Signatures that this host has verified over the same bytes are not verified again.
    pub fn list(repository: &Repository) -> Result<Self> {
        Self::read_again(repository, repository.proofs.as_ref())
    }

    /// The same, going by an epoch that was read before.
    pub(super) fn list_by(repository: &Repository, view: View) -> Result<Self> {
        Self::read(repository, repository.proofs.as_ref(), Some(view))
    }

    /// The same, believing nothing that was proven before.
    pub fn list_and_prove(repository: &Repository) -> Result<Self> {
        Self::read_again(repository, None)
    }

    /// Reads once more what a prune removed while it was read: then there is a newer epoch, or a verdict.
    fn read_again(repository: &Repository, proofs: Option<&Proofs>) -> Result<Self> {
        let mut snapshots = Self::read(repository, proofs, None)?;
        for _ in 0..RELOADS {
            let errors = snapshots.unreadable.iter().map(|lost| &lost.error);
            let mut errors = errors.chain(snapshots.marks.doubtful.iter().map(|(.., error)| error));
            let is_missing = errors.any(|error| matches!(error, Error::Missing { .. }));
            if !is_missing || repository.newest_epoch()? == snapshots.view.newest {
                break;
            }
            snapshots = Self::read(repository, proofs, None)?;
        }
        Ok(snapshots)
    }

    fn read(repository: &Repository, proofs: Option<&Proofs>, view: Option<View>) -> Result<Self> {
        let apart = repository.store.is_remote();
        let epochs = || view.map_or_else(|| repository.list_epochs().and_then(|newest| repository.view(newest)), Ok);
        let marks = || both(apart, || repository.list_marks(), epochs);
        let others = || both(apart, || repository.list_revoked(), marks);
        let (listed, (revoked, (marks, view))) = both(apart, || repository.list_commits(), others);
        revoked?;
        let (marks, view) = (marks?, view?);
        let listed: Vec<ObjectKey> = listed?.into_iter().map(|listed| listed.key).collect();
        let slots: Vec<(&ObjectKey, SessionId)> = listed
            .iter()
            .filter_map(|slot| match keys::parse(slot) {
                Some(Meaning::Commit { epoch, session }) if view.counts_slot(epoch, session) => Some((slot, session)),
                _ => None,
            })
            .collect();
        // Marks go after their slot: those on another are what a prune has not come to yet.
        let counting: HashSet<SessionId> = slots.iter().map(|(_, session)| *session).collect();
        let is_on_slot = |listed: &Listed| matches!(keys::parse(&listed.key), Some(Meaning::Mark(session, _)) if counting.contains(&session));
        let marks: Vec<Listed> = marks.into_iter().filter(is_on_slot).collect();
        let reading = Reading::new(repository, proofs);
        let read = |(slot, session): &(&ObjectKey, SessionId)| reading.slot(slot, *session);
        // Near, it is work and no waiting.
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = |objects: usize| match repository.calls() {
            1 if objects > SLOTS_PER_THREAD => cores().min(objects.div_ceil(SLOTS_PER_THREAD)),
            calls => calls,
        };
        let read_slots = || each(threads(slots.len()), &slots, read);
        let objects = slots.len() + marks.len();
        let (read, marks) = both(apart, read_slots, || Marks::read(repository, &marks, proofs, threads));
        let marks = marks?;
        let (mut readable, mut unreadable) = (Vec::new(), Vec::new());
        for ((slot, session), read) in slots.iter().zip(read) {
            match read {
                Ok(Some(snapshot)) => readable.push(snapshot.marked(marks.of(*session))),
                Ok(None) => {}
                Err(Error::Store(error)) if !error.is_not_found() => return Err(error.into()),
                Err(error) => unreadable.push(Unreadable { slot: (*slot).clone(), session: *session, error }),
            }
        }
        if let Some(proofs) = proofs {
            proofs.tidy(objects);
        }
        Ok(Self { readable: in_order(readable), unreadable, marks, view: Arc::new(view), listed })
    }

    /// The epoch in which each session began that is settled.
    pub(crate) fn settled(&self) -> HashMap<SessionId, u32> {
        settled(&self.listed)
    }

    /// Slots that the newest epoch lists and the store does not: taken away by nobody who may.
    pub(crate) fn missing(&self) -> Vec<ObjectKey> {
        let there = self.settled();
        let missing = self.view.slots().filter(|(epoch, session)| there.get(session) != Some(epoch));
        missing.map(|(epoch, session)| keys::commit(epoch, session)).collect()
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
        let of_the_line = |snapshot: &&Snapshot| snapshot.is_of_the_line();
        let named: HashSet<&str> = self.readable.iter().filter(of_the_line).flat_map(own_parents).collect();
        let newest = |snapshot: &&Snapshot| !named.contains(snapshot.slot.as_str()) && of_the_line(snapshot);
        let (own, others): (Vec<_>, Vec<_>) =
            self.readable.iter().filter(newest).partition(|snapshot| snapshot.writer == writer);
        let slots = |snapshots: Vec<&Snapshot>| snapshots.iter().map(|s| s.slot.to_string()).collect();
        (slots(own), slots(others))
    }

    /// Those that cannot be read and that nobody let go.
    pub fn lost(&self) -> impl Iterator<Item = &Unreadable> {
        self.unreadable.iter().filter(|lost| self.marks.of(lost.session).standing == Standing::Kept)
    }

    /// Whether a slot holds a snapshot whose trees may be used again.
    pub fn is_good(&self, slot: &str) -> bool {
        self.readable.iter().any(|s| s.slot.as_str() == slot && s.state == SnapshotState::Good)
    }

    /// The newest good snapshot that fits. Refuses if an unreadable one could be it.
    pub fn latest(&self, selection: &Selection) -> Result<&Snapshot> {
        let newest = self.readable.iter().rev().find(|s| s.state == SnapshotState::Good && selection.fits(s));
        if !selection.skip_unreadable {
            let ancestors = self.before(selection);
            let could_be_newest = |lost: &&Unreadable| {
                selection.writer.is_none_or(|writer| writer == lost.session.writer())
                    && !ancestors.contains(lost.slot.as_str())
            };
            if let Some(lost) = self.lost().find(could_be_newest) {
                return Err(Error::LatestUnknown {
                    key: lost.slot.to_string(),
                    newest_readable: newest.map(|snapshot| snapshot.id.short()),
                });
            }
        }
        newest.ok_or_else(|| Error::NoSnapshot("fits".into()))
    }

    /// Slots that are certainly older than a snapshot that fits: those that it names, and those that they name. That some other snapshot names
    /// a slot says nothing: the newest of one policy is a parent of the next of another.
    fn before(&self, selection: &Selection) -> HashSet<&str> {
        let good = |snapshot: &&Snapshot| snapshot.state == SnapshotState::Good;
        let of_the_line = |snapshot: &&Snapshot| snapshot.is_of_the_line();
        let by_slot: HashMap<&str, &Snapshot> =
            self.readable.iter().filter(of_the_line).map(|snapshot| (snapshot.slot.as_str(), snapshot)).collect();
        let mut todo: Vec<&Snapshot> = self.readable.iter().filter(good).filter(|s| selection.fits(s)).collect();
        let mut before = HashSet::new();
        while let Some(snapshot) = todo.pop() {
            for slot in snapshot.parents.iter().chain(&snapshot.heads).map(String::as_str) {
                if before.insert(slot) {
                    todo.extend(by_slot.get(slot));
                }
            }
        }
        before
    }

    /// The snapshot that `text` names: `latest`, or the beginning of an id. Refuses one that is forgotten for good: parts of it may be gone.
    pub fn find(&self, text: &str, selection: &Selection) -> Result<&Snapshot> {
        if text == "latest" {
            return self.latest(selection);
        }
        let prefix = text.to_ascii_lowercase();
        let fitting: Vec<&Snapshot> =
            self.readable.iter().filter(|snapshot| snapshot.id.to_string().starts_with(&prefix)).collect();
        match fitting[..] {
            [snapshot] if !prefix.is_empty() && snapshot.state == SnapshotState::Expired => {
                Err(Error::Expired { snapshot: snapshot.id })
            }
            [snapshot] if !prefix.is_empty() => Ok(snapshot),
            [] | [_] => match self.find_unreadable(&prefix).first() {
                Some(lost) => Err(Error::Damaged {
                    key: lost.slot.clone(),
                    cause: ObjectError::Body("its manifest does not verify, so it cannot be read".into()),
                }),
                None => Err(Error::NoSnapshot(format!("is named {text}"))),
            },
            _ => Err(Error::Ambiguous { prefix: text.to_owned(), count: fitting.len() }),
        }
    }

    /// Those that cannot be read and whose id begins so.
    pub fn find_unreadable(&self, text: &str) -> Vec<&Unreadable> {
        let prefix = text.to_ascii_lowercase();
        let fits = |lost: &&Unreadable| lost.session.snapshot().to_string().starts_with(&prefix);
        self.unreadable.iter().filter(fits).filter(|_| !prefix.is_empty()).collect()
    }
}

/// Parents that are of the snapshot's own writer: of others' it has no say.
fn own_parents(snapshot: &Snapshot) -> impl Iterator<Item = &str> {
    let own = |slot: &&str| {
        let key = slot.parse().ok().and_then(|key| keys::parse(&key));
        matches!(key, Some(Meaning::Commit { session, .. }) if session.writer() == snapshot.writer)
    };
    snapshot.parents.iter().map(String::as_str).filter(own)
}

/// The epoch in which each session began whose slot was listed.
pub(super) fn settled<'a>(slots: impl IntoIterator<Item = &'a ObjectKey>) -> HashMap<SessionId, u32> {
    let slot = |key: &ObjectKey| match keys::parse(key) {
        Some(Meaning::Commit { epoch, session }) => Some((session, epoch)),
        _ => None,
    };
    slots.into_iter().filter_map(slot).collect()
}

/// See `Snapshots::readable`.
fn in_order(mut snapshots: Vec<Snapshot>) -> Vec<Snapshot> {
    snapshots.sort_by_key(|snapshot| (snapshot.started(), snapshot.id));
    let places: HashMap<&str, usize> =
        snapshots.iter().enumerate().map(|(at, snapshot)| (snapshot.slot.as_str(), at)).collect();
    let parents: Vec<Vec<usize>> = snapshots
        .iter()
        .map(|snapshot| own_parents(snapshot).filter_map(|slot| places.get(slot).copied()).collect())
        .collect();
    let mut children = vec![Vec::new(); snapshots.len()];
    let mut waiting_for: Vec<usize> = parents.iter().map(Vec::len).collect();
    for (child, parents) in parents.iter().enumerate() {
        parents.iter().for_each(|parent| children[*parent].push(child));
    }
    // Each with the latest start among itself and those before it, and its place in that line.
    let mut ranks: Vec<(Option<record::Time>, u64)> = snapshots.iter().map(|s| (s.started(), 0)).collect();
    let mut ready: Vec<usize> = (0..snapshots.len()).filter(|at| waiting_for[*at] == 0).collect();
    while let Some(parent) = ready.pop() {
        for &child in &children[parent] {
            let (latest, place) = ranks[parent];
            if ranks[child].0 <= latest && ranks[child] <= (latest, place) {
                ranks[child] = (latest, place + 1);
            }
            waiting_for[child] -= 1;
            if waiting_for[child] == 0 {
                ready.push(child);
            }
        }
    }
    let mut ranked: Vec<_> = ranks.into_iter().zip(snapshots).collect();
    ranked.sort_by_key(|(rank, snapshot)| (*rank, snapshot.id));
    ranked.into_iter().map(|(_, snapshot)| snapshot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::record::Time;

    const A: WriterId = WriterId([1; 8]);
    const B: WriterId = WriterId([2; 8]);

    fn slot(writer: WriterId, number: u8) -> ObjectKey {
        keys::commit(0, SessionId::new(writer, [number; 8]))
    }

    fn snapshot(writer: WriterId, number: u8, secs: i64, policy: &str, parents: &[(WriterId, u8)]) -> Snapshot {
        let started = Time { secs, nanos: 0 };
        let body = ManifestBody { policy: Some(policy.into()), ..ManifestBody::bare(started) };
        Snapshot {
            id: SessionId::new(writer, [number; 8]).snapshot(),
            session: SessionId::new(writer, [number; 8]),
            slot: slot(writer, number),
            writer,
            group: GroupId([0; 8]),
            parents: parents.iter().map(|(writer, number)| slot(*writer, *number).to_string()).collect(),
            heads: vec![],
            indexes: vec![],
            state: SnapshotState::Good,
            revoked: false,
            marked: Marked::default(),
            body: Some(Arc::new(body)),
        }
    }

    fn snapshots(readable: Vec<Snapshot>, lost: &[(WriterId, u8)]) -> Snapshots {
        let lost = lost.iter().map(|(writer, number)| Unreadable {
            slot: slot(*writer, *number),
            session: SessionId::new(*writer, [*number; 8]),
            error: Error::Missing { key: slot(*writer, *number) },
        });
        let (readable, unreadable) = (in_order(readable), lost.collect());
        Snapshots { readable, unreadable, marks: Marks::default(), view: Arc::default(), listed: vec![] }
    }

    fn numbers(all: &Snapshots) -> Vec<u8> {
        all.readable.iter().map(|snapshot| snapshot.id.0[0]).collect()
    }

    #[test]
    fn a_clock_that_was_ahead_once_does_not_stay_newest() {
        let all = snapshots(
            vec![
                snapshot(A, 4, 130, "p", &[(A, 3)]),
                snapshot(A, 3, 120, "p", &[(A, 2)]),
                snapshot(A, 2, 9_000, "p", &[(A, 1)]),
                snapshot(A, 1, 100, "p", &[]),
                snapshot(B, 5, 110, "p", &[]),
            ],
            &[],
        );
        assert_eq!(numbers(&all), [1, 5, 2, 3, 4]);
        assert_eq!(all.latest(&Selection::default()).unwrap().id.0[0], 4);
    }

    #[test]
    fn a_ring_of_parents_ends_no_listing() {
        let all = snapshots(vec![snapshot(A, 1, 2, "p", &[(A, 2)]), snapshot(A, 2, 1, "p", &[(A, 1)])], &[]);
        assert_eq!(numbers(&all), [2, 1]);
    }

    #[test]
    fn a_writer_has_no_say_in_anothers_line() {
        let all = snapshots(vec![snapshot(A, 1, 100, "p", &[]), snapshot(B, 2, 110, "p", &[(A, 1)])], &[]);
        let (own, others) = all.heads(A);
        assert_eq!((own, others), (vec![slot(A, 1).to_string()], vec![slot(B, 2).to_string()]));
    }

    #[test]
    fn an_unreadable_manifest_is_passed_over_only_if_one_that_fits_came_after_it() {
        let of = |policy: &str| Selection { policy: Some(policy.into()), ..Selection::default() };
        let line = || vec![snapshot(A, 1, 100, "p", &[]), snapshot(A, 3, 120, "q", &[(A, 2)])];
        // The lost one may be the newest of "p": that one of "q" came after it does not help.
        assert!(matches!(snapshots(line(), &[(A, 2)]).latest(&of("p")), Err(Error::LatestUnknown { .. })));
        assert_eq!(snapshots(line(), &[(A, 2)]).latest(&of("q")).unwrap().id.0[0], 3);
        let mut longer = line();
        longer.push(snapshot(A, 4, 130, "p", &[(A, 3)]));
        assert_eq!(snapshots(longer, &[(A, 2)]).latest(&of("p")).unwrap().id.0[0], 4);
        let revoked = Snapshot { state: SnapshotState::Revoked, revoked: true, ..snapshot(A, 4, 130, "p", &[(A, 2)]) };
        let theft = snapshots(vec![snapshot(A, 1, 100, "p", &[]), revoked], &[(A, 2)]);
        assert!(matches!(theft.latest(&of("p")), Err(Error::LatestUnknown { .. })));
    }
}
