//! Backups from outside: what they store, what they do not read again, and what an interruption leaves.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lifeboat::backup::{self, Control, Request};
use lifeboat::names::{ObjectKey, SessionId, TreePath};
use lifeboat::pack::entry::{Entry, Extent, Kind};
use lifeboat::pack::list::ListReader;
use lifeboat::pack::record::Outcome;
use lifeboat::pack::tree::TreeReader;
use lifeboat::repository::{ChunkReader, Index, Repository, Scope, Selection, Snapshots};
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::meter::Metered;
use lifeboat::store::{self, Class, Create, Store, StoreError, Upload};
use lifeboat::verify;

use crate::support::faulty::{Fault, FaultyStore, Verb};
use crate::support::repo::{backup, fresh, later, noise, plant, reopen, request};

/// Every entry of the newest snapshot's first source, and the bytes of its files.
pub fn read_back(repository: &Repository) -> Vec<(Entry, Vec<u8>)> {
    let snapshots = Snapshots::list(repository).unwrap();
    let snapshot = snapshots.latest(&Selection::default()).unwrap();
    let index = Index::load(repository, Scope::Read, &mut |error| panic!("{error}")).unwrap();
    let reader = ChunkReader::new(repository, &index, snapshot.writer).unwrap();
    let root = snapshot.body.as_ref().unwrap().sources[0].tree();
    let mut tree = TreeReader::new(&reader, &root);
    let mut all = Vec::new();
    while let Some((entry, _)) = tree.next_entry().unwrap() {
        let mut bytes = Vec::new();
        if let Kind::File { content, .. } = &entry.kind {
            let mut extents = ListReader::new(&reader, content);
            while let Some(extent) = extents.next_extent().unwrap() {
                match extent {
                    Extent::Data { id, .. } => bytes.extend_from_slice(&reader.data(&id).unwrap()),
                    Extent::Hole { len } => bytes.resize(bytes.len() + len as usize, 0),
                }
            }
        }
        all.push((entry, bytes));
    }
    all
}

#[test]
fn every_byte_of_every_file_comes_back_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, _) = fresh(Arc::new(MemoryStore::default()));
    let report = backup(&repository, &root);
    assert_eq!((report.outcome, report.counts.files, report.counts.others), (Outcome::Complete, 306, 1));
    let all = read_back(&repository);
    assert!(all.iter().map(|(entry, _)| &entry.path).is_sorted());
    assert_eq!(all.len() as u64, report.counts.files + report.counts.directories + report.counts.others);
    for (entry, bytes) in &all {
        if let Kind::File { size, .. } = entry.kind {
            let path =
                entry.path.parts().fold(root.clone(), |path, part| path.join(std::str::from_utf8(part).unwrap()));
            assert!(fs::read(&path).unwrap() == *bytes && size == bytes.len() as u64, "{path:?}");
        }
    }
    let sparse = all.iter().find(|(entry, _)| entry.path == TreePath::from_bytes(b"sparse.img".to_vec()).unwrap());
    assert!(matches!(&sparse.unwrap().0.kind, Kind::File { cut: lifeboat::pack::entry::Cut::Fixed, .. }));
}

#[test]
fn a_run_without_changes_opens_no_file_and_stores_a_manifest_only() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let store = MemoryStore::default();
    let (repository, _) = fresh(Arc::new(store.clone()));
    backup(&repository, &root);
    let before = store.list("").unwrap();
    let report = backup(&repository, &root);
    assert_eq!((report.counts.files_read, report.counts.bytes_new, report.counts.bytes_stored), (0, 0, 0));
    let after = store.list("").unwrap();
    let new: Vec<_> = after.iter().filter(|listed| !before.contains(listed)).collect();
    assert_eq!(new.len(), 1, "{new:?}");
    assert!(new[0].key.as_str().starts_with("s/") && new[0].size <= 4096, "{new:?}");
}

#[test]
fn a_change_stores_what_changed_and_the_tree_is_that_of_a_full_read() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, _) = fresh(Arc::new(MemoryStore::default()));
    backup(&repository, &root);
    fs::write(root.join("docs/note-007.txt"), noise(5_000, 9)).unwrap();
    fs::remove_file(root.join("docs/note-200.txt")).unwrap();
    fs::rename(root.join("docs/note-100.txt"), root.join("docs/renamed.txt")).unwrap();
    let report = backup(&repository, &root);
    assert_eq!(report.counts.bytes_new, 5_000);
    assert!(report.counts.files_read <= 2, "{}", report.counts.files_read);
    let incremental = read_back(&repository);
    // The same mtimes set once more: every ctime is new, so every file is read.
    for path in walk(&root) {
        let file = fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(file.metadata().unwrap().modified().unwrap()).unwrap();
    }
    let full = backup(&repository, &root);
    assert_eq!((full.counts.files_read, full.counts.bytes_new), (305, 0));
    let strip = |all: Vec<(Entry, Vec<u8>)>| {
        all.into_iter().map(|(mut entry, bytes)| (entry.ctime = Default::default(), entry, bytes)).collect::<Vec<_>>()
    };
    assert!(strip(incremental) == strip(read_back(&repository)));
}

fn walk(root: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files.extend(walk(&entry.path())),
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}

#[test]
fn many_workers_cut_a_large_file_where_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large");
    fs::write(&path, noise(40 << 20, 5)).unwrap();
    let (repository, _) = fresh(Arc::new(MemoryStore::default()));
    let run = |workers| {
        let request = Request { workers, ..request(&path) };
        backup::run(&repository, &later(), &request, &Control::default()).unwrap()
    };
    assert_eq!(run(1).counts.bytes_new, 40 << 20);
    fs::File::options().append(true).open(&path).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    let again = run(5);
    assert_eq!((again.counts.bytes_read, again.counts.bytes_new), (40 << 20, 0));
}

#[test]
fn an_interrupted_run_leaves_earlier_snapshots_and_the_next_one_works() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let memory = MemoryStore::default();
    let (repository, key) = fresh(Arc::new(memory.clone()));
    backup(&repository, &root);
    let before = read_back(&repository);
    fs::write(root.join("new.bin"), noise(3 << 20, 77)).unwrap();
    let mut crashes = 0;
    for n in 1.. {
        let faulty = Arc::new(FaultyStore::over(memory.clone()).on(Verb::Change, n, Fault::Crash));
        let repository = reopen(faulty.clone(), &key);
        let result = backup::run(&repository, &later(), &request(&root), &Control::default());
        if result.is_ok() && !faulty.has_crashed() {
            break;
        }
        crashes += 1;
        // Whatever the crash left, the earlier snapshot reads as before, unless the new one was committed.
        let after = reopen(Arc::new(memory.clone()), &key);
        if result.is_err() && Snapshots::list(&after).unwrap().readable.len() == 1 {
            assert!(read_back(&after) == before, "after crash {n}");
        }
    }
    assert!(crashes >= 5, "{crashes}");
    let repository = reopen(Arc::new(memory), &key);
    backup(&repository, &root);
    assert!(
        read_back(&repository)
            .iter()
            .any(|(entry, bytes)| entry.path.as_bytes() == b"new.bin" && bytes.len() == 3 << 20)
    );
}

#[test]
fn a_commit_whose_answer_is_lost_is_one_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), b"a").unwrap();
    let memory = MemoryStore::default();
    let (_, key) = fresh(Arc::new(memory.clone()));
    // Writes: session record, its probe, data pack, metadata pack, delta, manifest.
    let faulty = Arc::new(FaultyStore::over(memory.clone()).on_write(6, Fault::ApplyThenFail));
    let report = backup(&reopen(faulty.clone(), &key), dir.path());
    faulty.assert_every_fault_was_met();
    let snapshots = Snapshots::list(&reopen(Arc::new(memory), &key)).unwrap();
    assert_eq!(snapshots.readable.iter().map(|s| s.id).collect::<Vec<_>>(), [report.snapshot]);
}

#[test]
fn a_write_that_fails_and_stands_all_the_same_leaves_nothing_that_looks_like_damage() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), b"a").unwrap();
    // Session record, its probe, data pack, metadata pack, delta, manifest.
    for number in 1..=6 {
        let memory = MemoryStore::default();
        let (_, key) = fresh(Arc::new(memory.clone()));
        let faulty = Arc::new(FaultyStore::over(memory.clone()).on_write(number, Fault::ApplyThenRefuse));
        backup::run(&reopen(faulty.clone(), &key), &later(), &request(dir.path()), &Control::default()).unwrap_err();
        faulty.assert_every_fault_was_met();
        let repository = reopen(Arc::new(memory), &key);
        let request = verify::Request { level: verify::Level::Data, ..verify::Request::default() };
        let report = verify::run(&repository, &request, &verify::Control::default()).unwrap();
        assert!(report.is_sound(), "after write {number}: {:?}", report.findings);
        backup(&repository, dir.path());
    }
}

#[test]
fn a_full_store_ends_the_run_and_is_no_problem_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let memory = MemoryStore::default();
    let (_, key) = fresh(Arc::new(memory.clone()));
    let faulty = Arc::new(FaultyStore::over(memory).on(Verb::Append, 4, Fault::Full));
    let repository = reopen(faulty.clone(), &key);
    let error = backup::run(&repository, &later(), &request(&root), &Control::default()).unwrap_err();
    faulty.assert_every_fault_was_met();
    let backup::Error::Repository(lifeboat::repository::Error::Store(error)) = error else { panic!("{error:?}") };
    assert_eq!(error.class, Class::Full);
    assert!(Snapshots::list(&repository).unwrap().readable.is_empty());
}

#[test]
fn a_cancelled_run_commits_nothing_and_loses_no_upload() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, _) = fresh(Arc::new(MemoryStore::default()));
    let control = Control::default();
    control.cancel.store(true, Ordering::SeqCst);
    let error = backup::run(&repository, &later(), &request(&root), &control).unwrap_err();
    assert!(matches!(error, backup::Error::Cancelled), "{error}");
    assert!(Snapshots::list(&repository).unwrap().readable.is_empty());
    assert!(repository.store.list("w/").unwrap().is_empty(), "the session is withdrawn");
}

#[test]
fn two_runs_at_once_with_one_key_both_commit_and_the_next_joins_them() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, _) = fresh(Arc::new(MemoryStore::default()));
    std::thread::scope(|scope| {
        let one = scope.spawn(|| backup(&repository, &root));
        let two = scope.spawn(|| backup(&repository, &root));
        assert_ne!(one.join().unwrap().snapshot, two.join().unwrap().snapshot);
    });
    let third = backup(&repository, &root);
    let snapshots = Snapshots::list(&repository).unwrap();
    assert_eq!(snapshots.readable.len(), 3);
    let named = &snapshots.readable.iter().find(|s| s.id == third.snapshot).unwrap().parents;
    assert!(!named.is_empty() && named.len() <= 2);
}

#[test]
fn what_an_index_no_longer_knows_is_read_and_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let store = MemoryStore::default();
    let (repository, _) = fresh(Arc::new(store.clone()));
    let first = backup(&repository, &root);
    for listed in store.list("i/").unwrap() {
        store.delete(&listed.key).unwrap();
    }
    let again = backup(&repository, &root);
    assert_eq!(again.counts.bytes_new, first.counts.bytes_new);
    assert_eq!(
        read_back(&repository).len() as u64,
        first.counts.files + first.counts.directories + first.counts.others
    );
}

#[test]
fn many_runs_leave_few_index_objects_that_count() {
    let dir = tempfile::tempdir().unwrap();
    let (store, file) = (MemoryStore::default(), dir.path().join("file"));
    let (repository, _) = fresh(Arc::new(store));
    for n in 0..20 {
        fs::write(&file, noise(1000, n)).unwrap();
        backup(&repository, dir.path());
    }
    let index = Index::load(&repository, Scope::Read, &mut |error| panic!("{error}")).unwrap();
    assert!(index.runs().len() < 10, "{} runs", index.runs().len());
    assert_eq!(read_back(&repository).len(), 2);
}

#[test]
fn an_unreadable_index_object_is_no_reason_to_lose_anything() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let memory = MemoryStore::default();
    let (repository, key) = fresh(Arc::new(memory.clone()));
    let first = backup(&repository, &root);
    let delta = memory.list("i/d/").unwrap().remove(0).key;
    let mut bytes = memory.get(&delta).unwrap();
    bytes[300] ^= 1;
    memory.delete(&delta).unwrap();
    assert_eq!(memory.create(&delta, &bytes).unwrap(), lifeboat::store::Create::Created);
    let again = backup(&reopen(Arc::new(memory), &key), &root);
    assert_eq!(again.counts.bytes_new, first.counts.bytes_new);
}

#[test]
fn an_unchanged_run_asks_the_store_for_little() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let memory = MemoryStore::default();
    let (repository, key) = fresh(Arc::new(memory.clone()));
    backup(&repository, &root);
    let metered = Metered::over(memory);
    let meter = metered.meter();
    backup(&reopen(Arc::new(metered), &key), &root);
    let traffic = meter.traffic();
    assert!(traffic.creates <= 3, "{traffic:?}");
}

#[test]
fn a_file_that_is_replaced_while_the_walk_goes_on_is_saved_as_it_is_then() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    fs::create_dir(&root).unwrap();
    let busy = root.join("busy");
    fs::write(&busy, b"0").unwrap();
    let (repository, _) = fresh(Arc::new(MemoryStore::default()));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let runs = std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let next = dir.path().join("next");
                fs::write(&next, format!("{n}")).unwrap();
                fs::rename(&next, &busy).unwrap();
            }
        });
        // Nothing in here panics: the other thread would never end.
        let mut runs = Vec::new();
        for _ in 0..30 {
            let report = backup::run(&repository, &later(), &request(&root), &Control::default());
            runs.push(report.map(|report| (report.counts, read_back(&repository))));
        }
        stop.store(true, Ordering::SeqCst);
        runs
    });
    for run in runs {
        // Vanished, replaced, or read: never a failure of the run, and what is stored is a number.
        let (counts, all) = run.unwrap();
        let stored = all.iter().find(|(entry, _)| entry.path.as_bytes() == b"busy");
        assert!(
            stored.is_some() || counts.vanished + counts.changed > 0,
            "{counts:?} {:?}",
            all.iter().map(|(entry, _)| entry.path.clone()).collect::<Vec<_>>()
        );
        if let Some((_, bytes)) = stored {
            assert!(std::str::from_utf8(bytes).unwrap().parse::<u64>().is_ok(), "{bytes:?}");
        }
    }
}

#[test]
fn the_latest_is_the_last_commit_whatever_the_clock_says() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let (repository, _) = fresh(Arc::new(MemoryStore::default()));
    let clock = later();
    for n in 0..12u8 {
        fs::write(&file, [n; 40]).unwrap();
        let report = backup::run(&repository, &clock, &request(dir.path()), &Control::default()).unwrap();
        let snapshots = Snapshots::list(&repository).unwrap();
        assert_eq!(snapshots.latest(&Selection::default()).unwrap().id, report.snapshot, "run {n}");
        if n % 3 == 0 {
            clock.advance(-100);
        }
    }
}

/// What a pack does with its first bytes.
type OnHead = Arc<dyn Fn(&[u8]) -> lifeboat::store::Result<()> + Send + Sync>;

/// A memory store whose packs do as they are told.
struct Packs {
    store: MemoryStore,
    on_head: OnHead,
}

struct OnePack {
    on_head: Option<OnHead>,
}

impl Upload for OnePack {
    fn append(&mut self, bytes: &[u8]) -> store::Result<()> {
        self.on_head.take().map_or(Ok(()), |on_head| on_head(bytes))
    }

    fn finish(self: Box<Self>, _: &ObjectKey) -> store::Result<Create> {
        Ok(Create::Created)
    }
}

impl Store for Packs {
    fn url(&self) -> &str {
        self.store.url()
    }
    fn get(&self, key: &ObjectKey) -> store::Result<Vec<u8>> {
        self.store.get(key)
    }
    fn get_range(&self, key: &ObjectKey, range: std::ops::Range<u64>) -> store::Result<Vec<u8>> {
        self.store.get_range(key, range)
    }
    fn size(&self, key: &ObjectKey) -> store::Result<Option<u64>> {
        self.store.size(key)
    }
    fn create(&self, key: &ObjectKey, bytes: &[u8]) -> store::Result<Create> {
        self.store.create(key, bytes)
    }
    fn begin(&self, _: SessionId, _: u32) -> store::Result<Box<dyn Upload>> {
        Ok(Box::new(OnePack { on_head: Some(self.on_head.clone()) }))
    }
    fn list(&self, prefix: &str) -> store::Result<Vec<store::Listed>> {
        self.store.list(prefix)
    }
    fn delete(&self, key: &ObjectKey) -> store::Result<()> {
        self.store.delete(key)
    }
    fn available_bytes(&self) -> store::Result<Option<u64>> {
        self.store.available_bytes()
    }
}

#[test]
fn a_worker_that_panics_ends_the_run_instead_of_hanging_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), noise(3 << 20, 1)).unwrap();
    let store = MemoryStore::default();
    let (_, key) = fresh(Arc::new(store.clone()));
    let packs = Packs { store: store.clone(), on_head: Arc::new(|_| panic!("a defect")) };
    let order = Request { workers: 2, ..request(dir.path()) };
    let failed = backup::run(&reopen(Arc::new(packs), &key), &later(), &order, &Control::default()).unwrap_err();
    assert!(matches!(failed, backup::Error::Worker), "{failed}");
    assert!(store.list("i/").unwrap().is_empty() && store.list("s/").unwrap().is_empty());
}

#[test]
fn the_walks_own_failure_is_told_and_not_that_others_were_stopped() {
    use std::sync::atomic::{AtomicBool, AtomicU32};
    let dir = tempfile::tempdir().unwrap();
    // One worker is held at `a` until the other is held at `z`; then the names between them fill a frame, and the walk meets the full store.
    fs::write(dir.path().join("a"), noise(3 << 20, 1)).unwrap();
    fs::write(dir.path().join("z"), noise(8 << 20, 2)).unwrap();
    for n in 0..14_000 {
        fs::write(
            dir.path().join(format!("n{n:05}{}", noise(40, n).iter().map(|b| format!("{b:02x}")).collect::<String>())),
            b"",
        )
        .unwrap();
    }
    let (begun, failed) = (AtomicU32::new(0), AtomicBool::new(false));
    let wait_for = |done: &dyn Fn() -> bool| {
        while !done() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    let on_head = move |head: &[u8]| {
        if head[10] == 2 {
            failed.store(true, Ordering::SeqCst);
            return Err(StoreError::new(Class::Full, "memory", "create", "a pack", "no room"));
        }
        if begun.fetch_add(1, Ordering::SeqCst) == 0 {
            wait_for(&|| begun.load(Ordering::SeqCst) > 1);
        } else {
            wait_for(&|| failed.load(Ordering::SeqCst));
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        Ok(())
    };
    let store = MemoryStore::default();
    let (_, key) = fresh(Arc::new(store.clone()));
    let packs = Packs { store, on_head: Arc::new(on_head) };
    let order = Request { workers: 2, ..request(dir.path()) };
    let told = backup::run(&reopen(Arc::new(packs), &key), &later(), &order, &Control::default()).unwrap_err();
    assert!(matches!(told, backup::Error::Repository(lifeboat::repository::Error::Store(_))), "{told}");
}

#[test]
fn a_late_failure_leaves_no_session_that_looks_alive() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), noise(100_000, 1)).unwrap();
    let store = MemoryStore::default();
    let (_, key) = fresh(Arc::new(store.clone()));
    // The writes of such a run: session record (twice), data pack, metadata pack, delta.
    let faulty = FaultyStore::over(store.clone()).on_write(5, Fault::Full);
    let failed = backup::run(&reopen(Arc::new(faulty), &key), &later(), &request(dir.path()), &Control::default());
    assert!(failed.is_err());
    let stored = |prefix: &str| !store.list(prefix).unwrap().is_empty();
    assert!(stored("d/") && stored("m/") && !stored("i/"), "the fault was meant for the delta");
    assert!(store.list("w/").unwrap().is_empty(), "in a single-writer store it would be in the way for hours");
}

#[test]
fn a_new_name_of_a_file_that_did_not_change_joins_its_link_group() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a"), b"one file").unwrap();
    fs::hard_link(root.join("a"), root.join("b")).unwrap();
    let (repository, _) = fresh(Arc::new(MemoryStore::default()));
    let hidden = Request { excludes: vec!["b".into()], ..request(&root) };
    backup::run(&repository, &later(), &hidden, &Control::default()).unwrap();
    assert_eq!(fs::metadata(root.join("a")).unwrap().nlink(), 2);
    let report = backup(&repository, &root);
    assert_eq!(report.counts.files_read, 1);
    let groups: Vec<_> = read_back(&repository).iter().filter_map(|(entry, _)| entry.link_group).collect();
    assert!(groups.len() == 2 && groups[0] == groups[1], "{groups:?}");
}
