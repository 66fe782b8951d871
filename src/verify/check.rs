//! What every part of a check shares: the repository, the findings, and reads whose failure is sorted.
//!
//! Owns the line between damage and an unavailable store: an object that is absent, short or unreadable while the store still answers is damage, and
//! the run goes on; all else ends it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::deleted::Deleted;
use super::finding::{Findings, Number, causes, sentence};
use super::ledger::{Ledger, Mark};
use super::{Control, Error, Result};
use crate::names::{GroupId, ObjectKey, PackId, WriterId};
use crate::pack::container::PackKind;
use crate::pack::keys::{self, Meaning};
use crate::pack::run::PackRow;
use crate::repository::{Error as RepositoryError, Repository, both, each};
use crate::seal::sign::PublicKey;
use crate::store::{Class, StoreError};

/// No object but packs and index runs has a reason to be larger: it would have to be held whole.
pub const SMALL_BYTES_MAX: u64 = 32 << 20;
const AHEAD_BYTES: u64 = 16 << 20;
const AHEAD_OBJECTS: usize = 256;
/// Copies on this host's disk.
const AHEAD_METADATA_BYTES: u64 = 64 << 20;

/// A writer whose certificate was read by this check and verifies.
#[derive(Clone, Copy)]
pub struct Certified {
    pub signing: PublicKey,
    pub group: GroupId,
}

pub struct Check<'a> {
    pub repository: &'a Repository,
    pub control: &'a Control,
    pub findings: Findings,
    pub writers: HashMap<WriterId, Certified>,
    pub deleted: Deleted,
    /// Data packs that are missing or were found damaged: whether a chunk there is lost is told by reading it.
    pub suspects: Mutex<HashSet<PackId>>,
    /// Something was found that snapshots may need: which ones is worth a walk over the trees.
    pub content_at_risk: AtomicBool,
    pub bytes_read: AtomicU64,
    /// What was fetched before its turn, each taken once.
    early: Mutex<HashMap<ObjectKey, crate::store::Result<Vec<u8>>>>,
}

/// Everything that the store lists. Packs apart: 48 bytes each (a store's own listing takes about 130 for each object while it is read).
pub struct Listing {
    pub objects: u64,
    pub small: Vec<(ObjectKey, Meaning, u64)>,
    /// Sorted by id, so that an index's packs are found among them.
    pub packs: Vec<PackRow>,
    /// Of all objects that have one.
    pub marks: Vec<Mark>,
    /// Packs that this host found sound before, and that have not changed by the store's word.
    pub known_packs: HashSet<PackId>,
    /// How many such objects there are.
    pub known: u64,
}

impl Listing {
    /// `believing`: what this host found sound before, and has a copy of if it is no data pack, need not be read again.
    pub fn read(check: &Check<'_>, believing: bool) -> Result<Self> {
        let store = &check.repository.store;
        let listed = check.repository.list_all()?;
        let copies = store.copies();
        let ledger = copies.filter(|_| believing).map(Ledger::open).unwrap_or_default();
        let mut listing =
            Self { objects: 0, small: vec![], packs: vec![], marks: vec![], known_packs: HashSet::new(), known: 0 };
        for object in listed {
            if let (Some(copies), Some(mark)) = (copies, Mark::of(&object)) {
                listing.marks.push(mark);
                if ledger.has(mark) {
                    listing.known += 1;
                    match keys::parse(&object.key) {
                        Some(Meaning::Pack(_, id)) => _ = listing.known_packs.insert(id),
                        _ => copies.believe(&object.key),
                    }
                }
            }
            if object.key.as_str().starts_with("tmp/") {
                continue;
            }
            listing.objects += 1;
            match keys::parse(&object.key) {
                Some(Meaning::Pack(kind, id)) => listing.packs.push(PackRow { id, kind, size: object.size }),
                Some(meaning) => listing.small.push((object.key, meaning, object.size)),
                None => {
                    check.findings.warning(&object.key, "is a stranger: no object of a repository has such a key");
                }
            }
        }
        listing.packs.sort_unstable();
        Ok(listing)
    }

    pub fn has(&self, key: &ObjectKey) -> bool {
        self.small.binary_search_by(|(known, ..)| known.cmp(key)).is_ok()
    }

    pub fn pack(&self, id: PackId, kind: PackKind) -> Option<usize> {
        self.packs.binary_search_by(|row| (row.id, row.kind).cmp(&(id, kind))).ok()
    }
}

impl<'a> Check<'a> {
    pub fn new(repository: &'a Repository, control: &'a Control) -> Self {
        Self {
            repository,
            control,
            findings: Findings::default(),
            writers: HashMap::new(),
            deleted: Deleted::default(),
            suspects: Mutex::default(),
            content_at_risk: AtomicBool::new(false),
            bytes_read: AtomicU64::new(0),
            early: Mutex::default(),
        }
    }

    /// Fetches small objects and index runs at once where each takes a round trip, up to `AHEAD_BYTES`: whoever looks at one does not ask again. Beside
    /// them come, if `whole`, copies of metadata packs, which will be read from their first byte to their last.
    pub fn fetch_early(&self, listing: &Listing, whole: bool) -> Result<()> {
        self.go_on()?;
        let store = &self.repository.store;
        if !store.is_remote() {
            return Ok(());
        }
        let mut small: Vec<_> = listing.small.iter().collect();
        small.sort_by_key(|(.., size)| *size);
        let mut bytes = 0;
        small.truncate(AHEAD_OBJECTS);
        small.retain(|(.., size)| {
            bytes += size;
            bytes <= AHEAD_BYTES
        });
        let mut bytes = 0;
        let metadata = listing.packs.iter().filter(|pack| whole && pack.kind == PackKind::Metadata);
        let metadata: Vec<(ObjectKey, u64)> = metadata
            .map(|pack| (keys::pack(pack.kind, pack.id), pack.size))
            .take_while(|(_, size)| {
                bytes += size;
                bytes <= AHEAD_METADATA_BYTES
            })
            .collect();
        let fetch = |(key, meaning, size): &&(ObjectKey, Meaning, u64)| match meaning {
            Meaning::Run(_) => store.get_range(key, 0..*size),
            _ => store.get(key),
        };
        let fetched = || each(self.repository.calls(), &small, fetch);
        let (fetched, ()) = both(true, fetched, || store.bring(&metadata));
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        early.extend(small.iter().map(|(key, ..)| key.clone()).zip(fetched));
        Ok(())
    }

    fn early(&self, key: &ObjectKey) -> Option<crate::store::Result<Vec<u8>>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner).remove(key)
    }

    pub fn go_on(&self) -> Result<()> {
        self.control.progress.findings.store(self.findings.len(), Ordering::Relaxed);
        if self.control.cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    pub fn at_risk(&self) {
        self.content_at_risk.store(true, Ordering::Relaxed);
    }

    /// All of a small object, or none after a finding was noted.
    pub fn get(&self, key: &ObjectKey, size: u64) -> Result<Option<Vec<u8>>> {
        self.go_on()?;
        if size > SMALL_BYTES_MAX {
            self.findings.damage(key, format!("is {size} bytes long, and no such object can be"));
            return Ok(None);
        }
        self.sorted(key, self.early(key).unwrap_or_else(|| self.repository.store.get(key)))
    }

    /// Small objects, several at once where each takes a round trip: as `get`, in their order, to be looked at one by one. What is held is at most
    /// `AHEAD_BYTES`, and one object.
    pub fn each(&self, wanted: &[(&ObjectKey, u64)], mut look: impl FnMut(usize, Vec<u8>) -> Result<()>) -> Result<()> {
        let mut start = 0;
        while start < wanted.len() {
            let mut bytes = 0;
            let fits = |(_, size): &&(&ObjectKey, u64)| {
                bytes += size;
                bytes <= AHEAD_BYTES
            };
            let count = wanted[start..].iter().take(AHEAD_OBJECTS).take_while(fits).count().max(1);
            let objects = &wanted[start..start + count];
            let read = each(self.repository.calls(), objects, |(key, size)| self.get(key, *size));
            for (at, bytes) in (start..).zip(read) {
                if let Some(bytes) = bytes? {
                    look(at, bytes)?;
                }
            }
            start += count;
        }
        Ok(())
    }

    /// A range of an object, or none after a finding was noted.
    pub fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Option<Vec<u8>>> {
        self.go_on()?;
        let early = self.early(key).filter(|early| match early {
            Ok(bytes) => range == (0..bytes.len() as u64),
            Err(_) => true,
        });
        self.sorted(key, early.unwrap_or_else(|| self.repository.store.get_range(key, range)))
    }

    fn sorted(&self, key: &ObjectKey, answer: crate::store::Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
        match answer {
            Ok(bytes) => {
                self.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                self.control.progress.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(Some(bytes))
            }
            Err(error) => self.unreadable(key, error).map(|_| None),
        }
    }

    fn unreadable(&self, key: &ObjectKey, error: StoreError) -> Result<Option<Number>> {
        let what = match error.class {
            // What a running backup withdraws, or a probe, is no loss.
            Class::NotFound => match keys::parse(key) {
                Some(Meaning::SessionRecord(..) | Meaning::Probe) => return Ok(None),
                _ if self.deleted.explains(self.repository, key)? => return Ok(None),
                _ => "was listed and is missing".to_owned(),
            },
            Class::Short => "is cut short".to_owned(),
            // One bad sector is damage; a disk that is gone answers nothing at all.
            Class::Permanent if self.repository.store.list(keys::CONFIGS).is_ok_and(|listed| !listed.is_empty()) => {
                format!("cannot be read: {}", sentence(&error))
            }
            _ => return Err(RepositoryError::from(error).into()),
        };
        Ok(self.findings.damage(key, what))
    }

    /// Notes what the repository found wrong while it was read. `here` is named where the error names no object, and `kind` is that of its packs.
    pub fn absorb(&self, error: RepositoryError, kind: PackKind, here: &ObjectKey) -> Result<Option<Number>> {
        let is_missing = matches!(
            error,
            RepositoryError::ChunkUnknown { .. }
                | RepositoryError::PackMissing { .. }
                | RepositoryError::Missing { .. }
        );
        if is_missing && self.deleted.is_over(self.repository, here)? {
            return Ok(None);
        }
        self.at_risk();
        let what = format!("does not verify: {}", causes(&error));
        let number = match &error {
            RepositoryError::Damaged { key, .. } | RepositoryError::Index { key, .. } => {
                self.findings.damage(key, what)
            }
            RepositoryError::Missing { key } => self.findings.damage(key, "is missing"),
            RepositoryError::Pack { pack, .. } | RepositoryError::Frame { pack, .. } => {
                self.findings.damage(&keys::pack(kind, *pack), format!("is damaged: {}", causes(&error)))
            }
            RepositoryError::Chunk { pack, chunk } => self
                .findings
                .damage(&keys::pack(kind, *pack), format!("is damaged: chunk {chunk} is not what its id says")),
            RepositoryError::PackMissing { pack } => self.findings.damage(&keys::pack(kind, *pack), "is missing"),
            RepositoryError::NoCertificate { writer } => {
                self.findings.damage(&keys::certificate(*writer), "is missing")
            }
            RepositoryError::ChunkUnknown { .. } | RepositoryError::Node(_) => {
                self.findings.damage(here, format!("leads to nothing: {}", sentence(&error)))
            }
            RepositoryError::Store(_) => {
                let RepositoryError::Store(error) = error else { return Ok(None) };
                let key = error.key.parse().unwrap_or_else(|_| here.clone());
                return self.unreadable(&key, error);
            }
            _ => return Err(error.into()),
        };
        Ok(number)
    }
}
