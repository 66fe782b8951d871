//! A remote store whose small and metadata objects are kept on this host.
//!
//! Owns which objects are kept: `config/ writers/ revoked/ s/ t/` whole, as they are read or created; deltas as they are created; `i/` and `m/` by parts, as
//! whoever knows their size has them brought. All of these are created once and never replaced, so a copy is never old: it can only be of what is gone, and
//! every complete listing removes those. Refuses negative answers: what is not kept is asked for. Session records, epochs, probes, slots and
//! data packs always come from the store.
//!
//! Memory: `BRINGERS` pieces of `PIECE_BYTES` while copies are brought: 32 MiB, shared by all callers.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::copies::{Copies, NewCopy};
use super::{Create, Inspection, Leftover, Listed, Replace, Result, Store, Swept, Upload};
use crate::bucket::Traffic;
use crate::names::{ObjectKey, RepositoryId, SessionId, hex};

/// Kept whole when they pass by.
const WHOLE: [&str; 5] = ["config/", "writers/", "revoked/", "s/", "t/"];
/// Kept when this host creates them: what it made itself needs no proof.
const OWN: &str = "i/d/";
const PIECE_BYTES: u64 = 4 << 20;
const BRINGERS: usize = 8;

pub struct CachedStore {
    store: Arc<dyn Store>,
    copies: Copies,
    /// Keys that are being brought, by whichever thread.
    busy: Arc<(Mutex<HashSet<ObjectKey>>, Condvar)>,
    /// Pieces in memory, of all callers together.
    pieces: Arc<(Mutex<usize>, Condvar)>,
}

/// The place of a store's copies below the cache directory: the same repository at another address has its own.
pub fn place(cache: &std::path::Path, repository: RepositoryId, store: &dyn Store) -> PathBuf {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&repository.0).update(store.url().as_bytes());
    cache.join("stores").join(hex(&hasher.finalize().as_bytes()[..16]))
}

/// `store` with its copies below `cache`, if it is far enough away for them to pay.
pub fn near(store: Arc<dyn Store>, cache: Option<PathBuf>, repository: RepositoryId) -> Arc<dyn Store> {
    match cache {
        Some(cache) if store.is_remote() => {
            let place = place(&cache, repository, &*store);
            Arc::new(CachedStore::over(store, Copies::at(place)))
        }
        _ => store,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_kept_whole(key: &ObjectKey) -> bool {
    WHOLE.iter().any(|folder| key.as_str().starts_with(folder))
}

fn is_kept_by_parts(key: &ObjectKey) -> bool {
    key.as_str().starts_with("i/") || key.as_str().starts_with("m/")
}

impl CachedStore {
    pub fn over(store: Arc<dyn Store>, copies: Copies) -> Self {
        Self { store, copies, busy: Arc::default(), pieces: Arc::default() }
    }

    /// Fetches `objects`, which nobody else is fetching.
    fn fetch(&self, objects: &[(ObjectKey, u64)]) {
        let mut copies: Vec<(NewCopy, AtomicUsize, AtomicBool)> = Vec::with_capacity(objects.len());
        let mut pieces: Vec<(usize, Range<u64>)> = Vec::new();
        for (number, (_, size)) in objects.iter().enumerate() {
            let Some(mut copy) = self.copies.begin() else { return };
            copy.ends_at(*size);
            let starts = (0..*size).step_by(PIECE_BYTES as usize);
            copies.push((copy, AtomicUsize::new(starts.clone().count()), AtomicBool::new(true)));
            pieces.extend(starts.map(|start| (number, start..(start + PIECE_BYTES).min(*size))));
        }
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some((number, range)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                let (copy, _, whole) = &copies[*number];
                if !whole.load(Ordering::Relaxed) {
                    continue;
                }
                let _one = Piece::take(&self.pieces);
                let written = self
                    .store
                    .get_range(&objects[*number].0, range.clone())
                    .is_ok_and(|bytes| copy.write_at(range.start, &bytes));
                if !written {
                    // Whoever reads the object learns why.
                    whole.store(false, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..pieces.len().min(BRINGERS) {
                // Fewer threads take longer, and that is all.
                let _ = std::thread::Builder::new().name("bring".into()).spawn_scoped(scope, work);
            }
            work();
        });
        for ((copy, _, whole), (key, _)) in copies.into_iter().zip(objects) {
            if whole.into_inner() {
                copy.keep(key);
            }
        }
    }
}

/// The right to hold one piece in memory.
struct Piece<'a>(&'a (Mutex<usize>, Condvar));

impl<'a> Piece<'a> {
    fn take(pieces: &'a (Mutex<usize>, Condvar)) -> Self {
        let mut taken = lock(&pieces.0);
        while *taken >= BRINGERS {
            taken = pieces.1.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += 1;
        Self(pieces)
    }
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        *lock(&self.0.0) -= 1;
        self.0.1.notify_one();
    }
}

/// Keys that this thread brings; given up when it is through, or unwinds.
struct Bringing<'a> {
    busy: &'a (Mutex<HashSet<ObjectKey>>, Condvar),
    keys: Vec<ObjectKey>,
}

impl Drop for Bringing<'_> {
    fn drop(&mut self) {
        let mut busy = lock(&self.busy.0);
        self.keys.iter().for_each(|key| _ = busy.remove(key));
        self.busy.1.notify_all();
    }
}

impl Store for CachedStore {
    fn url(&self) -> &str {
        self.store.url()
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        if !is_kept_whole(key) {
            return self.store.get(key);
        }
        if let Some(bytes) = self.copies.get(key) {
            return Ok(bytes);
        }
        let bytes = self.store.get(key)?;
        self.copies.keep(key, &bytes);
        Ok(bytes)
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        if is_kept_by_parts(key)
            && let Some(bytes) = self.copies.open(key).and_then(|copy| copy.read(range.clone()).ok())
        {
            return Ok(bytes);
        }
        self.store.get_range(key, range)
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        self.store.size(key)
    }

    fn create(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Create> {
        let create = self.store.create(key, bytes)?;
        if create == Create::Created && (is_kept_whole(key) || key.as_str().starts_with(OWN)) {
            self.copies.keep(key, bytes);
        }
        Ok(create)
    }

    fn begin(&self, session: SessionId, number: u32) -> Result<Box<dyn Upload>> {
        self.store.begin(session, number)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let listed = self.store.list(prefix)?;
        self.copies.only(prefix, &listed);
        Ok(listed)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.store.delete(key)?;
        self.copies.remove(key);
        Ok(())
    }

    fn available_bytes(&self) -> Result<Option<u64>> {
        self.store.available_bytes()
    }

    fn sweep(&self, is_dead: &mut dyn FnMut(&Leftover) -> bool) -> Result<Swept> {
        self.store.sweep(is_dead)
    }

    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Replace> {
        self.copies.remove(key);
        self.store.replace(key, bytes)
    }

    fn traffic(&self) -> Option<Traffic> {
        self.store.traffic()
    }

    fn inspect(&self) -> Result<Inspection> {
        self.store.inspect()
    }

    fn is_remote(&self) -> bool {
        self.store.is_remote()
    }

    fn copies(&self) -> Option<&Copies> {
        Some(&self.copies)
    }

    fn bring(&self, objects: &[(ObjectKey, u64)]) {
        if !self.copies.work() {
            return;
        }
        let mut mine: HashMap<&ObjectKey, u64> = HashMap::new();
        let mut theirs = Vec::new();
        let mut bringing = Bringing { busy: &self.busy, keys: Vec::new() };
        for (key, size) in objects.iter().filter(|(key, _)| is_kept_by_parts(key)) {
            if mine.contains_key(key) {
                continue;
            }
            let mut busy = lock(&self.busy.0);
            if busy.contains(key) {
                theirs.push(key);
            } else if !self.copies.has(key) {
                busy.insert(key.clone());
                bringing.keys.push(key.clone());
                mine.insert(key, *size);
            }
        }
        if !mine.is_empty() {
            let mine: Vec<(ObjectKey, u64)> = bringing.keys.iter().map(|key| (key.clone(), mine[key])).collect();
            self.fetch(&mine);
        }
        drop(bringing);
        let mut busy = lock(&self.busy.0);
        while theirs.iter().any(|key| busy.contains(*key)) {
            busy = self.busy.1.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn fresh(&self) -> Option<Arc<dyn Store>> {
        Some(Arc::new(Self::over(self.store.clone(), self.copies.fresh())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::WriterId;
    use crate::store::memory::MemoryStore;
    use crate::store::meter::{self, Metered};

    fn key(text: &str) -> ObjectKey {
        text.parse().unwrap()
    }

    fn cached(directory: &std::path::Path) -> (MemoryStore, crate::store::meter::Meter, CachedStore) {
        let memory = MemoryStore::default();
        let metered = Metered::over(memory.clone());
        let meter = metered.meter();
        (memory, meter, CachedStore::over(Arc::new(metered), Copies::at(directory.to_owned())))
    }

    fn create(store: &dyn Store, key: &ObjectKey, bytes: &[u8]) {
        assert_eq!(store.create(key, bytes).unwrap(), Create::Created);
    }

    #[test]
    fn what_passes_by_is_not_asked_for_again_and_what_is_gone_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, meter, store) = cached(dir.path());
        let (own, others, record) = (key("s/00000000-aa"), key("s/00000000-bb"), key("w/aa/00000000"));
        create(&store, &own, b"own");
        create(&memory, &others, b"others");
        create(&store, &record, b"record");
        for _ in 0..3 {
            assert_eq!(store.get(&own).unwrap(), b"own");
            assert_eq!(store.get(&others).unwrap(), b"others");
            assert_eq!(store.get(&record).unwrap(), b"record");
        }
        assert_eq!(meter.traffic().gets, 1 + 3, "one of the other's slot, and each of the record");
        memory.delete(&others).unwrap();
        assert_eq!(store.list("s/").unwrap().len(), 1);
        assert!(store.get(&others).unwrap_err().is_not_found());
    }

    #[test]
    fn what_is_brought_is_read_here_by_parts() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, meter, store) = cached(dir.path());
        let bytes: Vec<u8> = (0..9u32 << 20).map(|n| (n >> 7) as u8).collect();
        let objects: Vec<(ObjectKey, u64)> =
            (0..5).map(|n| (key(&format!("m/aa/pack{n}")), bytes.len() as u64)).collect();
        objects.iter().for_each(|(key, _)| create(&memory, key, &bytes));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| store.bring(&objects));
            }
        });
        assert_eq!(meter.traffic(), meter::Traffic { range_gets: 15, down_bytes: 45 << 20, ..Default::default() });
        for (key, _) in &objects {
            assert_eq!(store.get_range(key, 4 << 20..5 << 20).unwrap(), bytes[4 << 20..5 << 20]);
        }
        assert_eq!(meter.traffic().range_gets, 15);
        // An object that is not there or is shorter than was said brings nothing, and its reader is told so.
        store.bring(&[(key("m/aa/none"), 10), (objects[0].0.clone(), 1), (key("d/aa/data"), 5)]);
        assert!(store.get_range(&key("m/aa/none"), 0..10).unwrap_err().is_not_found());
    }

    #[test]
    fn uploads_and_unkept_keys_pass_through() {
        let dir = tempfile::tempdir().unwrap();
        let (memory, _, store) = cached(dir.path());
        let mut upload = store.begin(SessionId::new(WriterId([1; 8]), [1; 8]), 0).unwrap();
        upload.append(b"pack").unwrap();
        assert_eq!(upload.finish(&key("d/aa/pack")).unwrap(), Create::Created);
        assert_eq!(memory.get(&key("d/aa/pack")).unwrap(), b"pack");
        assert!(!dir.path().join("d").exists());
    }
}
