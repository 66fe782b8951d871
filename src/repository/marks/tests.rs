use std::sync::Arc;

use super::*;
use crate::clock::ManualClock;
use crate::pack::record::ManifestBody;
use crate::repository::{Selection, Snapshot, SnapshotState, Snapshots, WriteSession, export_writer, init};
use crate::seal::key::Key;
use crate::store::memory::MemoryStore;
use crate::store::{Create, Store};

const NOW: i64 = 1_000_000;

struct Scene {
    store: MemoryStore,
    key: String,
}

impl Scene {
    fn new() -> Self {
        let store = MemoryStore::default();
        let made = init::<Error>(&store, &ManualClock::at(NOW), None, |_| Ok(())).unwrap();
        Self { store, key: made.key.to_text().to_string() }
    }

    fn open(&self, key: &str) -> Repository {
        Repository::open(Arc::new(self.store.clone()), Key::from_text(key).unwrap()).unwrap()
    }

    fn admin(&self) -> Repository {
        self.open(&self.key)
    }

    fn commit(&self, secs: i64) -> Snapshot {
        let admin = self.admin();
        let clock = ManualClock::at(secs);
        let (session, _) = WriteSession::start(&admin, &clock, &|_| vec![]).unwrap();
        let at = Time { secs, nanos: 0 };
        let body = ManifestBody::bare(at);
        let id = session.commit(&body).unwrap().id;
        self.list().readable.into_iter().find(|snapshot| snapshot.id == id).unwrap()
    }

    fn list(&self) -> Snapshots {
        Snapshots::list(&self.admin()).unwrap()
    }

    fn decide(&self, snapshot: &Snapshot, decision: Decision) -> std::result::Result<Marked, Refusal> {
        match self.admin().decide(&ManualClock::at(NOW), snapshot.session, &snapshot.slot, &decision) {
            Ok(marked) => Ok(marked),
            Err(Error::Undecided { why, .. }) => Err(why),
            Err(error) => panic!("{error}"),
        }
    }

    fn replace(&self, key: &ObjectKey, bytes: &[u8]) {
        self.store.delete(key).unwrap();
        assert_eq!(self.store.create(key, bytes).unwrap(), Create::Created);
    }
}

fn forget() -> Decision {
    Decision::Forget("because".into())
}

fn hold(until: Option<i64>) -> Decision {
    Decision::Hold("an inquiry".into(), until.map(|secs| Time { secs, nanos: 0 }))
}

#[test]
fn a_forgotten_snapshot_is_hidden_and_comes_back_until_it_is_gone_for_good() {
    let scene = Scene::new();
    let snapshot = scene.commit(NOW);
    let state = || scene.list().readable[0].state;
    assert_eq!(scene.decide(&snapshot, Decision::Undelete), Err(Refusal::NotForgotten));
    scene.decide(&snapshot, forget()).unwrap();
    assert_eq!(state(), SnapshotState::Forgotten);
    assert_eq!(scene.decide(&snapshot, forget()), Err(Refusal::Forgotten));
    assert_eq!(scene.decide(&snapshot, Decision::Undelete).unwrap().standing, Standing::Kept);
    assert_eq!(state(), SnapshotState::Good);
    scene.decide(&snapshot, forget()).unwrap();
    scene.decide(&snapshot, Decision::Expire).unwrap();
    assert_eq!(state(), SnapshotState::Expired);
    for late in [Decision::Undelete, forget(), hold(None), Decision::Release] {
        assert_eq!(scene.decide(&snapshot, late), Err(Refusal::Gone));
    }
    assert!(scene.list().marks.doubtful.is_empty());
}

#[test]
fn what_is_held_is_not_forgotten_until_the_hold_ends() {
    let scene = Scene::new();
    let snapshot = scene.commit(NOW);
    assert_eq!(scene.decide(&snapshot, Decision::Release), Err(Refusal::NotHeld));
    scene.decide(&snapshot, hold(None)).unwrap();
    assert_eq!(scene.decide(&snapshot, forget()), Err(Refusal::Held { reason: "an inquiry".into() }));
    // The newer hold is the one that counts.
    scene.decide(&snapshot, hold(Some(NOW + 10))).unwrap();
    assert!(scene.decide(&snapshot, forget()).is_err());
    scene.decide(&snapshot, hold(Some(NOW))).unwrap();
    assert_eq!(scene.list().readable[0].marked.hold(Time { secs: NOW, nanos: 0 }), None);
    scene.decide(&snapshot, forget()).unwrap();
    assert_eq!(scene.decide(&snapshot, hold(None)), Err(Refusal::Forgotten));
}

#[test]
fn of_an_undelete_and_an_expiry_only_one_is_had() {
    let scene = Scene::new();
    for _ in 0..40 {
        let snapshot = scene.commit(NOW);
        scene.decide(&snapshot, forget()).unwrap();
        let start = std::sync::Barrier::new(2);
        let decide = |decision| {
            start.wait();
            scene.decide(&snapshot, decision)
        };
        let (gone, undone) = std::thread::scope(|scope| {
            let undone = scope.spawn(|| decide(Decision::Undelete));
            (decide(Decision::Expire), undone.join().unwrap())
        });
        match (undone, gone) {
            (Ok(_), Err(Refusal::NotForgotten)) | (Err(Refusal::Gone), Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_was_forgotten_is_not_latest_and_stays_in_the_line() {
    let scene = Scene::new();
    let (old, new) = (scene.commit(NOW), scene.commit(NOW + 1));
    scene.decide(&new, forget()).unwrap();
    let snapshots = scene.list();
    assert_eq!(snapshots.latest(&Selection::default()).unwrap().id, old.id);
    let named = |snapshots: &Snapshots| snapshots.find(&new.id.to_string(), &Selection::default()).map(|new| new.state);
    assert_eq!(named(&snapshots).unwrap(), SnapshotState::Forgotten);
    // The next names what was forgotten, so that a hidden one still shows.
    assert_eq!(scene.commit(NOW + 2).parents, [new.slot.to_string()]);
    scene.decide(&new, Decision::Expire).unwrap();
    assert!(matches!(named(&scene.list()), Err(Error::Expired { snapshot }) if snapshot == new.id));
}

#[test]
fn what_was_revoked_stays_out_of_the_line_though_it_is_forgotten_too() {
    let scene = Scene::new();
    let (old, thiefs) = (scene.commit(NOW), scene.commit(NOW + 1));
    let mut snapshots = scene.list();
    let writer = old.writer;
    for snapshot in &mut snapshots.readable {
        if snapshot.id == thiefs.id {
            (snapshot.state, snapshot.revoked) = (SnapshotState::Forgotten, true);
        }
    }
    assert_eq!(snapshots.heads(writer).0, [old.slot.to_string()]);
}

#[test]
fn what_cannot_be_read_can_be_forgotten_and_hides_no_newest_any_more() {
    let scene = Scene::new();
    let (old, lost) = (scene.commit(NOW), scene.commit(NOW + 1));
    scene.replace(&lost.slot, b"damaged");
    let latest = |snapshots: &Snapshots| snapshots.latest(&Selection::default()).map(|latest| latest.id);
    let before = scene.list();
    assert!(matches!(latest(&before), Err(Error::LatestUnknown { .. })));
    assert_eq!(before.lost().count(), 1);
    scene.decide(&lost, forget()).unwrap();
    let after = scene.list();
    assert_eq!((latest(&after).unwrap(), after.lost().count(), after.unreadable.len()), (old.id, 0, 1));
}

#[test]
fn a_mark_that_does_not_verify_forgets_nothing_and_is_named() {
    let scene = Scene::new();
    let (snapshot, other) = (scene.commit(NOW), scene.commit(NOW + 1));
    scene.decide(&snapshot, forget()).unwrap();
    let key = keys::mark(snapshot.session, 0);
    let good = scene.store.get(&key).unwrap();
    let doubted = |bytes: &[u8]| {
        scene.replace(&key, bytes);
        let snapshots = scene.list();
        assert_eq!(snapshots.readable[0].state, SnapshotState::Good);
        assert!(snapshots.readable[0].marked.doubtful);
        let [(session, named, error)] = &snapshots.marks.doubtful[..] else { panic!("one is doubtful") };
        assert_eq!((session, named), (&snapshot.session, &key));
        let again = scene.admin().decide(&ManualClock::at(NOW), snapshot.session, &snapshot.slot, &Decision::Undelete);
        assert_eq!(again.unwrap_err().to_string(), error.to_string());
        error.to_string()
    };
    for at in (0..good.len()).step_by(11) {
        let mut bent = good.clone();
        bent[at] ^= 1 << (at % 8);
        doubted(&bent);
    }
    doubted(&good[..good.len() - 1]);
    doubted(b"");
    // Another snapshot's mark, and another repository's.
    scene.decide(&other, forget()).unwrap();
    doubted(&scene.store.get(&keys::mark(other.session, 0)).unwrap());
    let elsewhere = Scene::new();
    let stranger = elsewhere.commit(NOW);
    elsewhere.decide(&stranger, forget()).unwrap();
    doubted(&elsewhere.store.get(&keys::mark(stranger.session, 0)).unwrap());
    // A writer's own signature, under the very key.
    let (_, writer) = export_writer(&scene.admin(), &ManualClock::at(NOW), "web1", None).unwrap();
    let writer = scene.open(&writer.to_text());
    let at = Time { secs: NOW, nanos: 0 };
    let mark = Mark { at, slot: snapshot.slot.to_string(), decision: forget() };
    doubted(&writer.seal_as_writer(ObjectKind::Mark, &key, &record::encode(&mark)).unwrap());
    scene.replace(&key, &good);
    assert_eq!(scene.list().readable[0].state, SnapshotState::Forgotten);
}

#[test]
fn a_signature_that_is_remembered_is_one_of_the_very_bytes() {
    let scene = Scene::new();
    let snapshot = scene.commit(NOW);
    scene.decide(&snapshot, forget()).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let state = || {
        let snapshots = Snapshots::list(&scene.admin().remembering(Some(cache.path()))).unwrap();
        (snapshots.readable[0].state, snapshots.marks.doubtful.len())
    };
    assert_eq!([state(), state()], [(SnapshotState::Forgotten, 0); 2]);
    let key = keys::mark(snapshot.session, 0);
    let good = scene.store.get(&key).unwrap();
    for at in [good.len() / 2, good.len() - 1] {
        let mut bent = good.clone();
        bent[at] ^= 1;
        scene.replace(&key, &bent);
        assert_eq!(state(), (SnapshotState::Good, 1));
    }
    scene.replace(&key, &good);
    assert_eq!(state(), (SnapshotState::Forgotten, 0));
}

#[test]
fn where_a_mark_is_missing_the_later_ones_do_not_count() {
    let scene = Scene::new();
    let snapshot = scene.commit(NOW);
    for decision in [forget(), Decision::Undelete, forget()] {
        scene.decide(&snapshot, decision).unwrap();
    }
    scene.store.delete(&keys::mark(snapshot.session, 1)).unwrap();
    let snapshots = scene.list();
    assert_eq!(snapshots.readable[0].state, SnapshotState::Good);
    let doubtful = &snapshots.marks.doubtful[0];
    assert_eq!(doubtful.2.to_string(), format!("{} is missing", keys::mark(snapshot.session, 1)));
}

#[test]
fn marks_that_contradict_each_other_do_not_count() {
    let scene = Scene::new();
    let snapshot = scene.commit(NOW);
    let admin = scene.admin();
    let key = keys::mark(snapshot.session, 0);
    let mark = Mark { at: Time { secs: NOW, nanos: 0 }, slot: snapshot.slot.to_string(), decision: Decision::Expire };
    let bytes = admin.seal_as_admin(admin.need_admin("").unwrap(), ObjectKind::Mark, &key, &record::encode(&mark));
    assert_eq!(scene.store.create(&key, &bytes).unwrap(), Create::Created);
    let snapshots = scene.list();
    assert_eq!((snapshots.readable[0].state, snapshots.marks.doubtful.len()), (SnapshotState::Good, 1));
}

#[test]
fn only_the_admin_decides() {
    let scene = Scene::new();
    let snapshot = scene.commit(NOW);
    let (_, writer) = export_writer(&scene.admin(), &ManualClock::at(NOW), "web1", None).unwrap();
    let writer = scene.open(&writer.to_text());
    let refused = writer.decide(&ManualClock::at(NOW), snapshot.session, &snapshot.slot, &forget()).unwrap_err();
    assert!(matches!(refused, Error::Role { .. }), "{refused}");
}
