//! Between any two calls of one journey, all of another: chance would meet a moment of a millisecond once in a thousand runs, and this meets each.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lifeboat::names::{ObjectKey, SessionId};
use lifeboat::pack::record::Decision;
use lifeboat::prune;
use lifeboat::repository::{Repository, Snapshots};
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Create, Listed, Result, Store, Upload};
use lifeboat::verify::{self, Level};

use crate::support::repo::{backup, fresh, later, noise, reopen};

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

/// A repository in memory with one snapshot, and who is let in to it.
struct Scene<'a> {
    tree: &'a Path,
    store: Arc<MemoryStore>,
    repository: Repository,
    key: String,
}

impl<'a> Scene<'a> {
    fn new(tree: &'a Path) -> Self {
        let store = Arc::new(MemoryStore::default());
        fs::write(tree.join("old"), noise(40_000, 1)).unwrap();
        let _ = fs::remove_file(tree.join("new"));
        let (repository, key) = fresh(store.clone());
        backup(&repository, tree);
        Self { tree, store, repository, key }
    }

    /// Verifies, and lets `other` in before the n-th call. False: there was no such call.
    fn verify_beside(&self, before: usize, other: impl FnOnce(&Repository) + Send + 'static) -> bool {
        let (store, key) = (self.store.clone(), self.key.clone());
        let enter: Box<dyn FnOnce() + Send> = Box::new(move || other(&reopen(store, &key)));
        let inner = self.store.clone();
        let doorway = Arc::new(Doorway { inner, calls: AtomicUsize::new(0), before, other: Mutex::new(Some(enter)) });
        let request = verify::Request { level: Level::Data, workers: 1, ..verify::Request::default() };
        let reading = reopen(doorway.clone(), &self.key);
        let report = verify::run(&reading, &request, &verify::Control::default()).unwrap();
        assert!(report.is_sound(), "before call {before}: {:?}", report.findings);
        doorway.other.lock().unwrap().is_none()
    }

    fn snapshots(&self) -> Snapshots {
        Snapshots::list(&self.repository).unwrap()
    }
}

#[test]
fn a_verify_sees_no_damage_in_what_a_backup_commits_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let beside = |before: &usize| {
        let scene = Scene::new(dir.path());
        let tree = scene.tree.to_owned();
        let met = scene.verify_beside(*before, move |repository| {
            fs::write(tree.join("new"), noise(3000, 2)).unwrap();
            backup(repository, &tree);
        });
        assert_eq!(scene.snapshots().readable.len(), if met { 2 } else { 1 });
        met
    };
    let moments = (1..).take_while(beside).count();
    assert!(moments > 12, "{moments}");
}

/// A forgotten snapshot beside one that stays, and marks on it: three, and with the one by which it is gone for good four.
fn with_one_forgotten(root: &Path) -> Scene<'_> {
    let scene = Scene::new(root);
    let first = scene.snapshots().readable[0].clone();
    fs::write(scene.tree.join("new"), noise(3000, 2)).unwrap();
    fs::remove_file(scene.tree.join("old")).unwrap();
    backup(&scene.repository, scene.tree);
    for decision in [Decision::Forget("a test".into()), Decision::Undelete, Decision::Forget("again".into())] {
        scene.repository.decide(&later(), first.session, &first.slot, &decision).unwrap();
    }
    scene
}

fn prune(repository: &Repository) {
    let request = prune::Request { undo_window: Duration::ZERO, ..prune::Request::of(repository) };
    prune::run(repository, &later(), &request, &prune::Control::default()).unwrap();
}

#[test]
fn a_verify_sees_no_damage_in_slots_and_marks_that_a_prune_deletes_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let beside = |before: &usize| {
        let scene = with_one_forgotten(dir.path());
        // The first lets it go and deletes its packs, the second its slot and its marks.
        prune(&scene.repository);
        let met = scene.verify_beside(*before, prune);
        assert_eq!(scene.store.list("t/").unwrap().is_empty(), met);
        met
    };
    let moments = (1..).take_while(beside).count();
    assert!(moments > 12, "{moments}");
}

#[test]
fn a_verify_sees_no_damage_in_a_snapshot_that_a_prune_lets_go_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let beside = |before: &usize| {
        let scene = with_one_forgotten(dir.path());
        scene.verify_beside(*before, |repository| {
            prune(repository);
            prune(repository);
        })
    };
    let moments = (1..).take_while(beside).count();
    assert!(moments > 12, "{moments}");
}
