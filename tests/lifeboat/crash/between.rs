//! Between any two calls of one journey, all of another: chance would meet a moment of a millisecond once in a thousand runs, and this meets each.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lifeboat::names::{ObjectKey, SessionId};
use lifeboat::repository::Snapshots;
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Create, Listed, Result, Store, Upload};
use lifeboat::verify::{self, Level};

use crate::support::repo::{backup, fresh, noise, reopen};

/// A store that lets somebody else in before its n-th call.
struct Doorway {
    inner: Arc<MemoryStore>,
    calls: AtomicUsize,
    before: usize,
    other: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Doorway {
    fn pass(&self) -> &MemoryStore {
        if self.calls.fetch_add(1, Ordering::SeqCst) + 1 == self.before
            && let Some(other) = self.other.lock().unwrap().take()
        {
            other();
        }
        &self.inner
    }
}

impl Store for Doorway {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        self.pass().get(key)
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        self.pass().get_range(key, range)
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        self.pass().size(key)
    }

    fn create(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Create> {
        self.pass().create(key, bytes)
    }

    fn begin(&self, session: SessionId, number: u32) -> Result<Box<dyn Upload>> {
        self.pass().begin(session, number)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.pass().list(prefix)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.pass().delete(key)
    }

    fn available_bytes(&self) -> Result<Option<u64>> {
        self.pass().available_bytes()
    }
}

/// Verifies a repository of one snapshot, and lets a backup in before the n-th call. False: there was no such call.
fn verify_with_a_backup(tree: &Path, before: usize) -> bool {
    let store = Arc::new(MemoryStore::default());
    fs::write(tree.join("old"), noise(40_000, 1)).unwrap();
    let _ = fs::remove_file(tree.join("new"));
    let (repository, key) = fresh(store.clone());
    backup(&repository, tree);
    let enter = {
        let (store, key, tree) = (store.clone(), key.clone(), tree.to_owned());
        move || {
            fs::write(tree.join("new"), noise(3000, 2)).unwrap();
            backup(&reopen(store, &key), &tree);
        }
    };
    let (calls, other) = (AtomicUsize::new(0), Mutex::new(Some(Box::new(enter) as Box<dyn FnOnce() + Send>)));
    let doorway = Arc::new(Doorway { inner: store, calls, before, other });
    let request = verify::Request { level: Level::Data, workers: 1, ..verify::Request::default() };
    let report = verify::run(&reopen(doorway.clone(), &key), &request, &verify::Control::default()).unwrap();
    assert!(report.is_sound(), "a backup before call {before}: {:?}", report.findings);
    let entered = doorway.other.lock().unwrap().is_none();
    assert_eq!(Snapshots::list(&repository).unwrap().readable.len(), if entered { 2 } else { 1 });
    entered
}

#[test]
fn a_verify_sees_no_damage_in_what_a_backup_commits_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let moments = (1..).take_while(|before| verify_with_a_backup(dir.path(), *before)).count();
    assert!(moments > 12, "{moments}");
}
