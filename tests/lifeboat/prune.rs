//! Prune from outside: what goes, what stays, what it says, for whom it waits, and what it does when something cannot be read.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use lifeboat::backup::{self, Control};
use lifeboat::clock::ManualClock;
use lifeboat::names::ObjectKey;
use lifeboat::pack::record::Decision;
use lifeboat::prune::{self, Report};
use lifeboat::repository::{Error, Repository, Snapshots, WriteSession, export_writer};
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Create, Store};
use lifeboat::{restore, verify};

use crate::cli::Desk;
use crate::forget::files;
use crate::support::repo::{fresh, noise, reopen, request};

const NOW: i64 = 1_800_000_000;
const HOUR: i64 = 3600;

/// A repository in memory, a source, and a clock.
struct Scene {
    repository: Repository,
    key: String,
    store: Arc<MemoryStore>,
    source: tempfile::TempDir,
    clock: ManualClock,
}

impl Scene {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::default());
        let (repository, key) = fresh(store.clone());
        Self { repository, key, store, source: tempfile::tempdir().unwrap(), clock: ManualClock::at(NOW) }
    }

    fn write(&self, name: &str, len: usize, seed: u64) {
        fs::write(self.source.path().join(name), noise(len, seed)).unwrap();
    }

    fn save_as(&self, repository: &Repository) -> lifeboat::names::SnapshotId {
        self.clock.advance(1);
        backup::run(repository, &self.clock, &request(self.source.path()), &Control::default()).unwrap().snapshot
    }

    fn save(&self) -> lifeboat::names::SnapshotId {
        self.save_as(&self.repository)
    }

    fn forget(&self, snapshot: lifeboat::names::SnapshotId) {
        let snapshots = Snapshots::list(&self.repository).unwrap();
        let found = snapshots.readable.iter().find(|s| s.id == snapshot).unwrap();
        let decision = Decision::Forget("a test".into());
        self.repository.decide(&self.clock, found.session, &found.slot, &decision).unwrap();
    }

    fn at_once(&self) -> prune::Request {
        prune::Request { undo_window: Duration::ZERO, ..prune::Request::of(&self.repository) }
    }

    fn prune(&self) -> Result<Report, prune::Error> {
        prune::run(&self.repository, &self.clock, &self.at_once(), &prune::Control::default())
    }

    fn keys(&self, prefix: &str) -> BTreeSet<ObjectKey> {
        self.store.list(prefix).unwrap().into_iter().map(|listed| listed.key).collect()
    }

    fn bytes(&self) -> u64 {
        self.store.list("d/").unwrap().iter().map(|listed| listed.size).sum()
    }

    /// A snapshot comes back as the source is now.
    fn restores(&self, snapshot: lifeboat::names::SnapshotId) {
        let out = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::list(&self.repository).unwrap();
        let found = snapshots.readable.iter().find(|s| s.id == snapshot).unwrap().clone();
        let path = Some(self.source.path().as_os_str().as_encoded_bytes().to_vec());
        let request = restore::Request { path, verify: true, ..restore::Request::new(found, out.path().join("out")) };
        let control = restore::Control::default();
        let plan = restore::plan(&self.repository, request, &control).unwrap();
        assert!(restore::run(&self.repository, &plan, &control).unwrap().is_whole());
        for entry in fs::read_dir(self.source.path()).unwrap() {
            let name = entry.unwrap().file_name();
            let back = fs::read(out.path().join("out").join(&name)).unwrap();
            assert!(back == fs::read(self.source.path().join(&name)).unwrap(), "{name:?}");
        }
    }

    fn verifies(&self) {
        let request = verify::Request { level: verify::Level::Data, sample: None, seed: None, workers: 1 };
        let report = verify::run(&self.repository, &request, &verify::Control::default()).unwrap();
        assert!(report.findings.is_empty(), "{:?}", report.findings);
    }
}

#[test]
fn what_only_the_forgotten_need_goes_and_the_rest_comes_back() {
    let scene = Scene::new();
    scene.write("stays", 3 << 20, 1);
    let mut old = Vec::new();
    for seed in 10..14 {
        scene.write("changes", 2 << 20, seed);
        old.push(scene.save());
    }
    let newest = old.pop().unwrap();
    let before = scene.bytes();
    old.iter().for_each(|snapshot| scene.forget(*snapshot));
    let report = scene.prune().unwrap();
    assert!(report.is_finished(), "{report:?}");
    assert_eq!(report.expired.len(), 3);
    assert!(report.deleted.bytes > 6 << 20, "{report:?}");
    assert!(scene.bytes() < (5 << 20) + (200 << 10), "{} of {before}", scene.bytes());
    scene.restores(newest);
    scene.verifies();
    // The next epoch takes what the first could not: slots, marks and index objects of before.
    scene.write("changes", 1000, 99);
    let last = scene.save();
    scene.forget(newest);
    assert!(scene.prune().unwrap().is_finished());
    assert!(scene.prune().unwrap().is_finished());
    // The last snapshot, and the fence of the prune that merged the index.
    let slots = scene.keys("s/");
    assert!(slots.len() <= 2 && slots.iter().all(|slot| slot.as_str().starts_with("s/00000001-")), "{slots:?}");
    assert_eq!((scene.keys("t/").len(), scene.keys("w/").len(), scene.keys("e/").len()), (0, 0, 2));
    scene.restores(last);
    scene.verifies();
    scene.save();
    scene.verifies();
}

#[test]
fn packs_that_are_mostly_dead_are_written_anew_and_little_stays() {
    let scene = Scene::new();
    // Each pack holds some of every file; half of the files change, so each is half dead.
    for n in 0..200 {
        scene.write(&format!("f{n:03}"), 40_000 + n, n as u64);
    }
    let first = scene.save();
    for n in (0..200).step_by(2) {
        scene.write(&format!("f{n:03}"), 40_000 + n, 1000 + n as u64);
    }
    let second = scene.save();
    scene.forget(first);
    let before = scene.bytes();
    let report = scene.prune().unwrap();
    assert!(report.rewritten.packs > 0 && report.rewritten_to.packs > 0, "{report:?}");
    let dead = 100 * 40_100;
    let freed = before - scene.bytes();
    assert!(freed as f64 > 0.93 * f64::from(dead), "{freed} of {dead} freed");
    scene.restores(second);
    scene.verifies();
    // What was written anew is found by the next backup, and nothing is stored twice.
    let stored = scene.bytes();
    scene.save();
    assert_eq!(scene.bytes(), stored);
    assert_eq!(scene.prune().unwrap().rewritten.packs, 0);
}

#[test]
fn a_writer_reads_its_names_and_its_group_its_chunks_after_packs_were_written_anew() {
    let scene = Scene::new();
    let (_, web) = export_writer(&scene.repository, &scene.clock, "web", Some("apart")).unwrap();
    let text = web.to_text().to_string();
    let web = reopen(scene.store.clone(), &text);
    for n in 0..60 {
        scene.write(&format!("f{n}"), 30_000, n);
    }
    let (own, first) = (scene.save(), scene.save_as(&web));
    for n in 0..30 {
        scene.write(&format!("f{n}"), 30_000, 100 + n);
    }
    let second = scene.save_as(&web);
    scene.forget(first);
    scene.forget(own);
    assert!(scene.prune().unwrap().rewritten.packs > 0);
    scene.restores(second);
    scene.verifies();
    let web = reopen(scene.store.clone(), &text);
    let names = Snapshots::list(&web).unwrap();
    assert!(names.readable.iter().any(|snapshot| snapshot.id == second && snapshot.body.is_some()));
    let stored = scene.bytes();
    scene.save_as(&web);
    assert_eq!(scene.bytes(), stored, "its own chunks are found where they lie now");
}

#[test]
fn within_its_window_what_was_forgotten_can_be_taken_back() {
    let scene = Scene::new();
    scene.write("a", 1 << 20, 1);
    let first = scene.save();
    scene.write("a", 1 << 20, 2);
    scene.save();
    scene.forget(first);
    scene.clock.advance(6 * 24 * HOUR);
    let usual = prune::Request::of(&scene.repository);
    let prune = || prune::run(&scene.repository, &scene.clock, &usual, &prune::Control::default()).unwrap();
    let report = prune();
    assert_eq!((report.expired.len(), report.undo_open, report.deleted.packs), (0, 1, 0));
    let snapshots = Snapshots::list(&scene.repository).unwrap();
    let found = snapshots.readable.iter().find(|s| s.id == first).unwrap();
    scene.repository.decide(&scene.clock, found.session, &found.slot, &Decision::Undelete).unwrap();
    scene.clock.advance(30 * 24 * HOUR);
    assert_eq!(prune().deleted.packs, 0);
    scene.write("a", 1 << 20, 1);
    scene.restores(first);
    scene.forget(first);
    // A clock that was ahead when it was forgotten lets it stay longer, and no shorter.
    scene.clock.advance(-20 * 24 * HOUR);
    assert_eq!(prune().expired.len(), 0);
    scene.clock.advance(27 * 24 * HOUR);
    let report = prune();
    assert_eq!((report.expired.len(), report.deleted.packs > 0), (1, true), "{report:?}");
}

#[test]
fn a_running_session_is_waited_for_and_one_that_is_silent_is_fenced() {
    let scene = Scene::new();
    scene.write("a", 1 << 20, 1);
    let first = scene.save();
    scene.write("a", 1 << 20, 2);
    let second = scene.save();
    scene.forget(first);
    let (running, _) = WriteSession::start(&scene.repository, &scene.clock, &|_| vec![]).unwrap();
    let id = running.id;
    for _ in 0..2 {
        let report = scene.prune().unwrap();
        assert_eq!(report.waiting.iter().map(|waiting| waiting.session).collect::<Vec<_>>(), [id]);
        assert_eq!((report.deleted.packs, report.is_finished()), (0, false));
    }
    scene.clock.advance(7 * HOUR);
    let report = scene.prune().unwrap();
    assert_eq!((report.fenced, report.deleted.packs > 0, report.is_finished()), (1, true, true), "{report:?}");
    let at = lifeboat::pack::record::Time { secs: NOW, nanos: 0 };
    let body = Snapshots::list(&scene.repository).unwrap().readable[0].body.clone().unwrap();
    let body = lifeboat::pack::record::ManifestBody { started: at, ..(*body).clone() };
    assert!(matches!(running.commit(&body), Err(Error::Fenced { .. })));
    scene.restores(second);
    scene.verifies();
}

/// Everything but what a prune may write without deleting anything: its own session, and the feature that it raises.
fn standing(scene: &Scene) -> BTreeSet<ObjectKey> {
    let own = |key: &ObjectKey| ["w/", "config/"].iter().any(|prefix| key.as_str().starts_with(prefix));
    scene.keys("").into_iter().filter(|key| !own(key)).collect()
}

#[test]
fn while_anything_that_may_protect_something_cannot_be_read_nothing_is_deleted() {
    for prefix in ["s/", "i/d/", "t/", "writers/", "m/", "e/00000001", "e/00000001-v"] {
        let scene = Scene::new();
        scene.write("a", 1 << 20, 1);
        let first = scene.save();
        scene.write("a", 1 << 20, 2);
        let before = scene.keys("");
        let second = scene.save();
        // Of the second, which stays: what only the first needs protects nothing.
        let of_second: BTreeSet<ObjectKey> = scene.keys("").difference(&before).cloned().collect();
        scene.forget(first);
        if prefix.starts_with("e/") {
            scene.prune().unwrap();
            scene.write("a", 1 << 20, 3);
            scene.save();
            scene.forget(second);
        }
        let key = match prefix {
            "t/" | "writers/" => scene.keys(prefix).into_iter().next().unwrap(),
            "e/00000001" | "e/00000001-v" => prefix.parse().unwrap(),
            _ => of_second.into_iter().find(|key| key.as_str().starts_with(prefix)).unwrap(),
        };
        let good = scene.store.get(&key).unwrap();
        let mut bent = good.clone();
        // Within what each reader must open: the first stanza of a pack, the first segment of all else.
        bent[100] ^= 1;
        for bytes in [Some(&bent), None] {
            if bytes.is_none() && ["t/", "writers/", "e/00000001", "e/00000001-v"].contains(&prefix) {
                // A last mark or epoch that is gone shows nowhere; a writer without a certificate shows in what it signed.
                continue;
            }
            scene.store.delete(&key).unwrap();
            if let Some(bytes) = bytes {
                assert_eq!(scene.store.create(&key, bytes).unwrap(), Create::Created);
            }
            let packs = (scene.keys("d/"), scene.keys("m/"));
            let repository = reopen(scene.store.clone(), &scene.key);
            let refused = prune::run(&repository, &scene.clock, &scene.at_once(), &prune::Control::default());
            assert!(refused.is_err(), "{key} {}: {refused:?}", bytes.is_some());
            assert_eq!((scene.keys("d/"), scene.keys("m/")), packs, "{key}");
        }
        scene.store.delete(&key).unwrap();
        assert_eq!(scene.store.create(&key, &good).unwrap(), Create::Created);
        let mended = prune::run(
            &reopen(scene.store.clone(), &scene.key),
            &scene.clock,
            &scene.at_once(),
            &prune::Control::default(),
        );
        assert!(mended.unwrap().is_finished(), "{key}");
    }
}

#[test]
fn a_listing_that_hides_what_another_snapshot_names_condemns_nothing() {
    let scene = Scene::new();
    for seed in 0..3 {
        scene.write("a", 1 << 20, seed);
        scene.save();
    }
    let first = Snapshots::list(&scene.repository).unwrap().readable[0].id;
    scene.forget(first);
    let middle = Snapshots::list(&scene.repository).unwrap().readable[1].slot.clone();
    let bytes = scene.store.get(&middle).unwrap();
    scene.store.delete(&middle).unwrap();
    let packs = scene.keys("d/");
    match scene.prune() {
        Err(prune::Error::Doubt(doubts)) => {
            assert!(doubts[0].error.to_string().contains(middle.as_str()), "{doubts:?}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(scene.keys("d/"), packs);
    assert_eq!(scene.store.create(&middle, &bytes).unwrap(), Create::Created);
    assert!(scene.prune().unwrap().deleted.packs > 0);
}

#[test]
fn an_epoch_that_the_admin_did_not_sign_condemns_nothing() {
    let scene = Scene::new();
    scene.write("a", 1 << 20, 1);
    scene.save();
    // One of another repository, and one that is noise.
    let other = Scene::new();
    other.write("a", 1 << 20, 1);
    let gone = other.save();
    other.write("a", 1 << 20, 2);
    other.save();
    other.forget(gone);
    other.prune().unwrap();
    let epoch: ObjectKey = "e/00000001".parse().unwrap();
    for bytes in [other.store.get(&epoch).unwrap(), noise(500, 9)] {
        assert_eq!(scene.store.create(&epoch, &bytes).unwrap(), Create::Created);
        let before = standing(&scene);
        assert!(matches!(scene.prune(), Err(prune::Error::Doubt(_))));
        assert_eq!(standing(&scene), before);
        // Backups go on, and use nothing that may be condemned.
        let saved = scene.save();
        assert!(scene.bytes() > 2 << 20, "it was stored again");
        scene.restores(saved);
        for key in standing(&scene).difference(&before) {
            scene.store.delete(key).unwrap();
        }
        scene.store.delete(&epoch).unwrap();
    }
    assert!(scene.prune().unwrap().is_finished());
}

#[test]
fn a_prune_that_ends_anywhere_is_finished_by_the_next() {
    use crate::support::faulty::{Fault, FaultyStore, Verb};
    let mut ended_early = 0;
    for call in 1.. {
        let scene = Scene::new();
        for n in 0..40 {
            scene.write(&format!("f{n}"), 20_000, n);
        }
        let first = scene.save();
        for n in 0..20 {
            scene.write(&format!("f{n}"), 20_000, 100 + n);
        }
        let second = scene.save();
        scene.forget(first);
        let faulty = FaultyStore::over((*scene.store).clone()).on(Verb::Change, call, Fault::Crash);
        let broken = reopen(Arc::new(faulty), &scene.key);
        let died = prune::run(&broken, &scene.clock, &scene.at_once(), &prune::Control::default());
        scene.restores(second);
        // Its session is heard of no more.
        scene.clock.advance(7 * HOUR);
        let report = scene.prune().unwrap();
        assert!(report.is_finished(), "after call {call}: {report:?}");
        scene.prune().unwrap();
        scene.restores(second);
        scene.verifies();
        assert!(scene.bytes() < 40 * 20_000 * 11 / 10 + 4000, "after call {call}: {} bytes", scene.bytes());
        if died.is_ok() {
            break;
        }
        ended_early += 1;
    }
    assert!(ended_early > 8, "{ended_early}");
}

#[test]
fn the_command_asks_before_it_shortens_the_window_and_tells_what_it_did() {
    let desk = Desk::with_repository();
    desk.backup();
    fs::write(desk.path("source/more"), noise(1 << 20, 7)).unwrap();
    desk.backup();
    fs::remove_file(desk.path("source/more")).unwrap();
    desk.backup();
    desk.good(["forget", "--keep-last", "1", "-q"]);
    let objects = || files(&desk.path("repository"));
    let before = objects();
    desk.run(["prune", "--undo-window", "0s"]).refused(2, "would be gone for good");
    let plan = desk.json(["prune", "--undo-window", "0s", "--dry-run", "--json"]);
    assert_eq!(objects(), before, "a dry run changes nothing");
    assert_eq!((plan["dry_run"].clone(), plan["expired"].as_array().unwrap().len()), (true.into(), 2));
    let usual = desk.good(["prune"]);
    assert!(usual.contains("2 forgotten snapshots can be taken back") && usual.contains("deleted: 0 packs"), "{usual}");
    let done = desk.json(["prune", "--undo-window", "0s", "--yes", "--json"]);
    for field in ["expired", "stored", "needed_bytes", "dead", "rewritten", "left_bytes"] {
        assert_eq!(done[field], plan[field], "{field}: the plan is what is done");
    }
    assert!(done["deleted"]["bytes"].as_u64().unwrap() >= 1 << 20, "{done}");
    desk.run(["prune", "--undo-window", "soon", "--yes"]).refused(2, "soon");
    let again = desk.good(["prune"]);
    assert!(again.contains("deleted: 0 packs"), "{again}");
    desk.good(["verify", "--level", "data"]);
}

#[test]
fn only_an_admin_prunes() {
    let desk = Desk::with_repository();
    desk.backup();
    for role in ["reader", "writer"] {
        let out = format!("{role}.key");
        desk.good(["key", "export", "--role", role, "--out", desk.path(&out).to_str().unwrap(), "-q"]);
        desk.run(["prune", "--key", desk.path(&out).to_str().unwrap()]).refused(6, "an admin");
    }
}
