//! What a run costs over a store that is far away, in calls and not in time; and that the copies which this host keeps of such a store can be lost, bent or
//! impossible without anything else suffering.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lifeboat::backup::{self, Report};
use lifeboat::names::ObjectKey;
use lifeboat::pack::record::Decision;
use lifeboat::repository::{self, Errand, Repository, Selection, Snapshots};
use lifeboat::restore;
use lifeboat::seal::key::Key;
use lifeboat::store::cached::{self, near};
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Class, Create, Store};
use lifeboat::verify;

use crate::support::far::{Asked, Call, Far};
use crate::support::faulty::{Fault, FaultyStore, Verb};
use crate::support::repo::{backup, fresh, later, noise, request};

struct Scene {
    dir: tempfile::TempDir,
    memory: MemoryStore,
    far: Far<MemoryStore>,
    key: String,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let memory = MemoryStore::default();
        let far = Far::over(memory.clone(), Duration::from_millis(1), None);
        let (_, key) = fresh(Arc::new(far.clone()));
        let scene = Self { dir, memory, far, key };
        fs::create_dir_all(scene.tree().join("notes")).unwrap();
        for n in 0..200 {
            fs::write(scene.tree().join(format!("notes/note-{n:03}")), format!("note {n}\n").repeat(20)).unwrap();
        }
        fs::write(scene.tree().join("noise"), noise(300_000, 1)).unwrap();
        scene
    }

    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// As a command opens it.
    fn open_in(&self, cache: &Path) -> Repository {
        self.open_for(cache, Errand::Any)
    }

    fn open_for(&self, cache: &Path, errand: Errand) -> Repository {
        let key = Key::from_text(&self.key).unwrap();
        let store = near(Arc::new(self.far.clone()), Some(cache.to_owned()), key.repository());
        Repository::open_for(store, key, errand).unwrap()
    }

    fn open(&self) -> Repository {
        self.open_in(&self.cache())
    }

    fn back_up(&self) -> Report {
        backup(&self.open(), &self.tree())
    }

    fn back_up_a_change(&self, n: usize) {
        fs::write(self.tree().join("changing"), format!("change {n}")).unwrap();
        self.back_up();
    }

    /// What `work` asks of the store.
    fn asks<T>(&self, work: impl FnOnce() -> T) -> (T, Asked) {
        self.far.asked();
        let done = work();
        (done, self.far.asked())
    }

    fn restore_with(&self, cache: &Path) -> restore::Report {
        self.restore_from(&self.open_in(cache))
    }

    fn restore_from(&self, repository: &Repository) -> restore::Report {
        let snapshots = Snapshots::list(repository).unwrap();
        let snapshot = snapshots.latest(&Selection::default()).unwrap().clone();
        let out = tempfile::tempdir_in(self.dir.path()).unwrap();
        let wanted = restore::Request {
            path: Some(self.tree().into_os_string().into_encoded_bytes()),
            ..restore::Request::new(snapshot, out.path().to_owned())
        };
        let control = restore::Control::default();
        let plan = restore::plan(repository, wanted, &control).unwrap();
        let report = restore::run(repository, &plan, &control).unwrap();
        assert!(plan.warnings.is_empty() && report.damaged.is_empty(), "{:?}", plan.warnings);
        assert_eq!(contents(out.path()), contents(&self.tree()));
        report
    }

    fn restore(&self) -> restore::Report {
        self.restore_with(&self.cache())
    }

    fn verify_at(&self, level: verify::Level, cache: &Path) -> verify::Report {
        let request = verify::Request { level, ..verify::Request::default() };
        verify::run(&self.open_in(cache), &request, &verify::Control::default()).unwrap()
    }

    /// Files of the cache.
    fn copies(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.cache()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => directories.push(entry.path()),
                    false => found.push(entry.path()),
                }
            }
        }
        found.sort();
        found
    }

    fn stored(&self, prefix: &str) -> Vec<ObjectKey> {
        self.memory.list(prefix).unwrap().into_iter().map(|listed| listed.key).collect()
    }
}

fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(root).unwrap().to_owned();
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

#[test]
fn a_backup_of_what_did_not_change_makes_four_calls_in_a_row() {
    let scene = Scene::new();
    scene.back_up();
    let (_, asked) = scene.asks(|| scene.back_up());
    assert_eq!(asked.chain, 4, "{:?}", asked.calls);
    let besides_listings: Vec<Call> = asked.calls.iter().map(|(call, _)| *call).filter(|c| *c != Call::List).collect();
    assert_eq!(besides_listings, [Call::Create, Call::Create, Call::Create, Call::Delete], "{:?}", asked.calls);
    let listings = asked.calls.iter().filter(|(call, _)| *call == Call::List).map(|(_, prefix)| prefix.as_str());
    let mut listings: Vec<&str> = listings.collect();
    listings.sort_unstable();
    assert_eq!(listings, ["config/", "e/", "e/", "e/", "i/", "revoked/", "s/", "t/", "w/"]);
}

#[test]
fn what_was_decided_of_snapshots_makes_no_chain_longer() {
    let scene = Scene::new();
    (0..3).for_each(|n| scene.back_up_a_change(n));
    let repository = scene.open();
    let oldest = Snapshots::list(&repository).unwrap().readable[0].clone();
    let forget = Decision::Forget("for a test".into());
    repository.decide(&later(), oldest.session, &oldest.slot, &forget).unwrap();
    // A host that has read the mark once has a copy of it; one that has not reads it beside the slots.
    let listing = |cache: &Path| scene.asks(|| Snapshots::list(&scene.open_in(cache)).unwrap()).1;
    let cold = scene.dir.path().join("cold");
    let reads_marks =
        |asked: &Asked| asked.calls.iter().filter(|(call, key)| *call == Call::Get && key.starts_with("t/")).count();
    let (first, second) = (listing(&cold), listing(&cold));
    assert_eq!((reads_marks(&first), reads_marks(&second)), (1, 0), "{:?}", second.calls);
    listing(&scene.cache());
    let (_, asked) = scene.asks(|| scene.back_up());
    assert_eq!((asked.calls.len(), asked.chain), (13, 4), "{:?}", asked.calls);
}

#[test]
fn what_is_asked_ahead_is_asked_once_and_by_nobody_else() {
    let scene = Scene::new();
    (0..3).for_each(|n| scene.back_up_a_change(n));
    let sorted = |asked: Asked| {
        let mut calls = asked.calls;
        calls.sort();
        calls
    };
    let (cold, ahead) = (scene.dir.path().join("cold"), scene.dir.path().join("ahead"));
    let plain = scene.asks(|| scene.restore_with(&cold)).1;
    let (_, asked) = scene.asks(|| scene.restore_from(&scene.open_for(&ahead, Errand::Read)));
    let at = |prefix: &str| asked.calls.iter().position(|(call, key)| *call == Call::List && key == prefix).unwrap();
    assert!(at("s/") < at("i/"), "an index that was listed before its snapshots may lack what they name");
    // Slots that are read beside each other may each ask for their writer's certificate.
    let mut once = sorted(plain);
    once.dedup();
    assert_eq!(once, sorted(asked));
    for errand in [Errand::Any, Errand::Write] {
        let (_, asked) = scene.asks(|| backup(&scene.open_for(&scene.cache(), errand), &scene.tree()));
        assert_eq!((asked.calls.len(), asked.chain), (13, 4), "{:?}", asked.calls);
    }
    let verify = |errand| {
        let repository = scene.open_for(&scene.cache(), errand);
        let request = verify::Request { level: verify::Level::Data, ..verify::Request::default() };
        verify::run(&repository, &request, &verify::Control::default()).unwrap()
    };
    let (plain, asked) = scene.asks(|| verify(Errand::Any));
    let (again, asked_again) = scene.asks(|| verify(Errand::Verify));
    assert!(plain.is_sound() && again.is_sound());
    assert_eq!(sorted(asked), sorted(asked_again));
}

#[test]
fn a_second_session_of_one_process_takes_no_old_answer() {
    let scene = Scene::new();
    scene.back_up();
    let repository = scene.open_for(&scene.cache(), Errand::Write);
    let first = backup(&repository, &scene.tree());
    let (second, asked) = scene.asks(|| backup(&repository, &scene.tree()));
    assert_eq!(second.parent, Some(first.snapshot));
    assert_eq!(asked.count(Call::List), 8, "all but the configuration: {:?}", asked.calls);
}

#[test]
fn the_protocols_order_holds_whatever_goes_beside_what() {
    [Errand::Any, Errand::Write].into_iter().for_each(the_protocols_order_holds);
}

fn the_protocols_order_holds(errand: Errand) {
    let scene = Scene::new();
    scene.back_up();
    let (_, asked) = scene.asks(|| backup(&scene.open_for(&scene.cache(), errand), &scene.tree()));
    let at = |call: Call, prefix: &str| {
        let places = asked.calls.iter().enumerate();
        places.filter(|(_, (one, key))| *one == call && key.starts_with(prefix)).map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (records, epochs, index) = (at(Call::Create, "w/"), at(Call::List, "e/"), at(Call::List, "i/"));
    let (slot, removal) = (at(Call::Create, "s/"), at(Call::Delete, "w/"));
    let snapshots = at(Call::List, "s/");
    assert!(epochs[0] < snapshots[0] && snapshots[0] < records[0], "the epoch, the snapshots, and then the record");
    assert!(records[0] < epochs[1], "and again after the record stands");
    assert!(epochs[1] < index[0], "only then the index");
    assert!(index[0] < slot[0] && slot[0] < epochs[2] && epochs[2] < removal[0]);
}

#[test]
fn requests_do_not_grow_with_snapshots_once_the_cache_is_warm() {
    let scene = Scene::new();
    let measure = || {
        scene.restore();
        let backup = scene.asks(|| scene.back_up()).1.by_kind();
        let restore = scene.asks(|| scene.restore()).1.by_kind();
        scene.verify_at(verify::Level::Structure, &scene.cache());
        let verify = scene.asks(|| scene.verify_at(verify::Level::Structure, &scene.cache())).1.by_kind();
        (backup, restore, verify)
    };
    (0..2).for_each(|n| scene.back_up_a_change(n));
    let few = measure();
    (2..57).for_each(|n| scene.back_up_a_change(n));
    let many = measure();
    assert_eq!(scene.stored("s/").len(), 59);
    assert_eq!(few, many);
}

#[test]
fn a_verify_asks_for_each_object_once() {
    let scene = Scene::new();
    (0..20).for_each(|n| scene.back_up_a_change(n));
    let (sound, asked) = scene.asks(|| scene.verify_at(verify::Level::Structure, &scene.cache()));
    assert!(sound.is_sound(), "{:?}", sound.findings);
    let mut reads: Vec<&str> =
        asked.calls.iter().filter(|(call, _)| *call != Call::List).map(|(_, key)| key.as_str()).collect();
    reads.sort_unstable();
    let all = scene.stored("");
    assert_eq!(reads, all.iter().map(ObjectKey::as_str).collect::<Vec<_>>(), "every object, and none twice");
    // What is listed as it was then is not asked for again, by a check that takes the store's word.
    let (sound, asked) = scene.asks(|| scene.verify_at(verify::Level::Structure, &scene.cache()));
    assert!(sound.is_sound() && asked.count(Call::List) == asked.calls.len(), "{:?}", asked.calls);
    assert!(sound.notes[0].starts_with(&format!("{} objects were not read again", all.len())), "{:?}", sound.notes);
    let (sound, asked) = scene.asks(|| scene.verify_at(verify::Level::Metadata, &scene.cache()));
    assert!(sound.is_sound(), "{:?}", sound.findings);
    assert_eq!(asked.calls.iter().filter(|(call, _)| *call != Call::List).count(), all.len());
    assert_eq!(
        asked.count(Call::List),
        7,
        "everything, and what opening, manifests, marks, epochs and index list: {:?}",
        asked.calls
    );
}

#[test]
fn a_verify_looks_at_the_store_and_not_at_copies() {
    let scene = Scene::new();
    (0..2).for_each(|n| scene.back_up_a_change(n));
    scene.restore();
    // Bad copies are no damage of the repository.
    for path in scene.copies() {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 3;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    assert!(scene.verify_at(verify::Level::Data, &scene.cache()).is_sound());
    // Good copies hide none.
    scene.restore();
    for prefix in ["s/", "i/", "m/", "writers/"] {
        let key = scene.stored(prefix).remove(0);
        let good = scene.memory.get(&key).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        replace(&scene.memory, &key, &bad);
        for level in [verify::Level::Structure, verify::Level::Metadata] {
            let report = scene.verify_at(level, &scene.cache());
            // A pack's end is as it was.
            let told = report.findings.iter().any(|finding| finding.object == key.as_str());
            assert_eq!(told, level > verify::Level::Structure || prefix != "m/", "{key}: {:?}", report.findings);
        }
        replace(&scene.memory, &key, &good);
        // Sound again, and remembered.
        assert!(scene.verify_at(verify::Level::Structure, &scene.cache()).is_sound());
    }
    assert!(scene.verify_at(verify::Level::Data, &scene.cache()).is_sound());
}

fn replace(store: &MemoryStore, key: &ObjectKey, bytes: &[u8]) {
    store.delete(key).unwrap();
    assert_eq!(store.create(key, bytes).unwrap(), Create::Created);
}

#[test]
fn a_cache_that_is_lost_or_bent_changes_nothing_but_requests() {
    let scene = Scene::new();
    (0..10).for_each(|n| scene.back_up_a_change(n));
    scene.restore();
    let warm = scene.asks(|| scene.restore()).1.calls.len();
    let good: Vec<(PathBuf, Vec<u8>)> =
        scene.copies().into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    for kind in ["config", "writers", "/s/", "/i/d/", "/i/s/", "/m/"] {
        assert!(good.iter().any(|(path, _)| path.to_str().unwrap().contains(kind)), "{kind}");
    }
    type Bend = fn(&mut Vec<u8>);
    let bends: [(&str, Bend); 6] = [
        ("a bit in the middle", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
        }),
        ("a bit at the start", |bytes| bytes[0] ^= 4),
        ("cut by one", |bytes| _ = bytes.pop()),
        ("cut to a half", |bytes| bytes.truncate(bytes.len() / 2)),
        ("empty", Vec::clear),
        ("zeros, as after a power cut", |bytes| bytes.fill(0)),
    ];
    for (what, bend) in bends {
        for (path, bytes) in &good {
            let mut bytes = bytes.clone();
            bend(&mut bytes);
            fs::write(path, bytes).unwrap();
        }
        let parent = Snapshots::list(&scene.open()).unwrap().latest(&Selection::default()).unwrap().id;
        scene.restore();
        assert_eq!(scene.back_up().parent, Some(parent), "{what}");
        // What was bad was fetched again, and is used again.
        scene.restore();
        assert_eq!(scene.asks(|| scene.restore()).1.calls.len(), warm, "{what}: it heals");
        for (path, bytes) in good.iter().filter(|(path, _)| path.exists()) {
            let name = path.to_str().unwrap();
            // Of runs and packs, which are read by parts, a part that nobody needed may still be as it was bent.
            if !name.contains("/i/") && !name.contains("/m/") {
                assert!(fs::read(path).unwrap() == *bytes, "{what}: {name}");
            }
        }
    }
    fs::remove_dir_all(scene.cache()).unwrap();
    scene.restore();
    assert_eq!(scene.asks(|| scene.restore()).1.calls.len(), warm);
    assert!(scene.verify_at(verify::Level::Data, &scene.cache()).is_sound());
}

#[test]
fn a_copy_of_another_repository_is_dropped() {
    let (scene, other) = (Scene::new(), Scene::new());
    scene.back_up();
    other.back_up();
    let key = Key::from_text(&scene.key).unwrap();
    let (theirs, ours) = (
        cached::place(&other.cache(), Key::from_text(&other.key).unwrap().repository(), &other.far),
        cached::place(&scene.cache(), key.repository(), &scene.far),
    );
    fs::remove_dir_all(&ours).unwrap();
    fs::create_dir_all(ours.join("config")).unwrap();
    fs::copy(theirs.join("config/00000000"), ours.join("config/00000000")).unwrap();
    scene.restore();
    assert!(fs::read(ours.join("config/00000000")).unwrap() != fs::read(theirs.join("config/00000000")).unwrap());
}

#[test]
fn where_no_copy_can_be_kept_every_run_succeeds() {
    let scene = Scene::new();
    let in_the_way = scene.dir.path().join("file");
    fs::write(&in_the_way, b"no directory").unwrap();
    for cache in [in_the_way.join("cache"), PathBuf::from("/proc/cache")] {
        for n in 0..9 {
            fs::write(scene.tree().join("changing"), format!("{cache:?} {n}")).unwrap();
            let report = backup(&scene.open_in(&cache), &scene.tree());
            assert!(n == 0 || report.counts.files_read == 1, "the snapshot before was read");
        }
        scene.restore_with(&cache);
        assert!(scene.verify_at(verify::Level::Data, &cache).is_sound());
    }
}

#[test]
fn copies_are_nobody_elses_to_read() {
    let scene = Scene::new();
    scene.back_up();
    let place = cached::place(&scene.cache(), Key::from_text(&scene.key).unwrap().repository(), &scene.far);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place), 0o700);
    let copies = scene.copies();
    assert!(copies.len() >= 5, "{copies:?}");
    for copy in copies {
        assert_eq!((mode(&copy), mode(copy.parent().unwrap())), (0o600, 0o700), "{copy:?}");
    }
}

#[test]
fn two_runs_share_a_cache() {
    let scene = Scene::new();
    scene.back_up();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let scene = &scene;
            scope.spawn(move || {
                if n % 2 == 0 {
                    scene.restore();
                } else {
                    scene.back_up();
                }
            });
        }
    });
    scene.restore();
    assert!(scene.verify_at(verify::Level::Data, &scene.cache()).is_sound());
}

#[test]
fn packs_go_up_beside_the_workers_and_come_down_many_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let far = Far::over(MemoryStore::default(), Duration::from_millis(50), None);
    let (mut repository, _) = fresh(Arc::new(far.clone()));
    assert_eq!(repository.config.pack_bytes, 32 << 20, "fewer, larger packs");
    repository.config.pack_bytes = 4 << 20;
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("noise"), noise(48 << 20, 1)).unwrap();
    far.asked();
    backup(&repository, &tree);
    let up = far.asked();
    assert!(up.at_once[&Call::Finish] >= 2, "{:?}", up.at_once);
    let delta = up.calls.iter().position(|(call, key)| *call == Call::Create && key.starts_with("i/d/")).unwrap();
    let last = up.calls.iter().rposition(|(call, key)| *call == Call::Finish && key.starts_with("d/")).unwrap();
    assert!(last < delta, "a delta names what stands");
    let smallest = far.list("d/").unwrap().iter().map(|listed| listed.size).min();
    assert!(smallest < Some(3 << 20), "an idle link is not kept waiting for a full pack: {smallest:?}");
    let snapshots = Snapshots::list(&repository).unwrap();
    let snapshot = snapshots.latest(&Selection::default()).unwrap().clone();
    let control = restore::Control::default();
    let out = dir.path().join("out");
    let plan = restore::plan(&repository, restore::Request::new(snapshot, out.clone()), &control).unwrap();
    far.asked();
    restore::run(&repository, &plan, &control).unwrap();
    let down = far.asked();
    assert!(down.at_once[&Call::GetRange] >= 8, "{:?}", down.at_once);
    let heads = down.calls.iter().filter(|(call, _)| *call == Call::GetRange).count();
    assert!(heads <= 64, "heads of packs come with their first frames: {heads}");
    assert!(fs::read(out.join(tree.strip_prefix("/").unwrap()).join("noise")).unwrap() == noise(48 << 20, 1));
}

#[test]
fn many_small_files_come_back_in_calls_of_a_mebibyte_and_more() {
    let scene = Scene::new();
    for n in 0..48 {
        let place = scene.tree().join(format!("mail-{n:02}"));
        fs::create_dir(&place).unwrap();
        for number in 0..64u64 {
            // One bit of eight is noise: a frame of 2 MiB is stored in little more than a quarter of one.
            let bits: Vec<u8> = noise(8192, 1000 * n + number).iter().map(|byte| b'a' + (byte & 1)).collect();
            fs::write(place.join(format!("{number}")), bits).unwrap();
        }
    }
    scene.back_up();
    // Files that were renamed lie far from their new neighbours.
    for n in 0..48 {
        let moved = scene.tree().join(format!("mail-{n:02}/7"));
        fs::rename(moved, scene.tree().join(format!("mail-{:02}/moved", 47 - n))).unwrap();
    }
    scene.back_up();
    let packs = scene.stored("d/").len() as u64;
    let stored: u64 = scene.memory.list("d/").unwrap().iter().map(|listed| listed.size).sum();
    let (_, asked) = scene.asks(|| scene.restore());
    let reads = asked.calls.iter().filter(|(_, key)| key.starts_with("d/")).count() as u64;
    assert!(stored > 3 << 20 && packs <= 4, "{stored} bytes in {packs} packs");
    // No call reads across a border, and a frame that does not fit is left to the next.
    let most = packs + stored.div_ceil(700 << 10);
    assert!((packs..=most).contains(&reads), "{reads} reads of {stored} bytes in {packs} packs, not {most}");
    assert!(asked.calls.len() as u64 <= reads + 12, "{:?}", asked.by_kind());
}

#[test]
fn an_upload_that_fails_ends_the_backup_and_the_next_goes_on_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let key = fresh(Arc::new(memory.clone())).1;
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("noise"), noise(40 << 20, 1)).unwrap();
    let open = |store: Arc<dyn Store>| {
        let mut repository = Repository::open(store, Key::from_text(&key).unwrap()).unwrap();
        repository.config.pack_bytes = 2 << 20;
        repository
    };
    let faulty = FaultyStore::over(memory.clone()).on(Verb::Finish, 6, Fault::FailBefore(Class::Full));
    let repository = open(Arc::new(Far::over(faulty.clone(), Duration::from_millis(5), None)));
    let error = backup::run(&repository, &later(), &request(&tree), &backup::Control::default()).unwrap_err();
    assert!(
        matches!(&error, backup::Error::Repository(repository::Error::Store(error)) if error.class == Class::Full),
        "{error:?}"
    );
    faulty.assert_every_fault_was_met();
    let repository = open(Arc::new(Far::over(memory.clone(), Duration::from_millis(5), None)));
    assert!(Snapshots::list(&repository).unwrap().readable.is_empty());
    let again = backup(&repository, &tree);
    assert!(again.counts.bytes_new < 38 << 20, "what was uploaded is found: {}", again.counts.bytes_new);
    let verified = verify::Request { level: verify::Level::Data, ..verify::Request::default() };
    assert!(verify::run(&repository, &verified, &verify::Control::default()).unwrap().is_sound());
}

#[test]
fn a_cancelled_backup_leaves_what_is_not_yet_on_its_way_and_finds_the_rest_again() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemoryStore::default();
    let key = fresh(Arc::new(memory.clone())).1;
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("noise"), noise(40 << 20, 1)).unwrap();
    let far = Far::over(memory.clone(), Duration::from_millis(20), None);
    let mut repository = Repository::open(Arc::new(far.clone()), Key::from_text(&key).unwrap()).unwrap();
    repository.config.pack_bytes = 4 << 20;
    let control = backup::Control::default();
    let ended = std::thread::scope(|scope| {
        let running = scope.spawn(|| backup::run(&repository, &later(), &request(&tree), &control));
        while memory.list("d/").unwrap().len() < 2 && !running.is_finished() {
            std::thread::yield_now();
        }
        control.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        running.join().unwrap()
    });
    assert!(matches!(ended, Err(backup::Error::Cancelled)), "{ended:?}");
    let stored: usize = memory.list("d/").unwrap().iter().map(|listed| listed.size as usize).sum();
    assert!(memory.list("i/d/").unwrap().len() == 1 && memory.list("w/").unwrap().is_empty());
    let again = backup(&repository, &tree);
    assert!(again.counts.bytes_new as usize <= (40 << 20) - stored + (1 << 20), "what was uploaded is found again");
}
