//! What each key can do, and above all what a writer's cannot.

use std::fs;
use std::sync::Arc;

use lifeboat::backup::{self, Control};
use lifeboat::clock::SystemClock;
use lifeboat::names::ObjectKey;
use lifeboat::pack::entry::{Content, Extent, Kind};
use lifeboat::pack::keys;
use lifeboat::pack::tree::TreeReader;
use lifeboat::repository::{
    self, ChunkReader, Error, Index, Repository, Scope, Selection, SnapshotState, Snapshots, export_writer,
    revoke_writer,
};
use lifeboat::seal::key::Key;
use lifeboat::seal::object::{self, Identity, ObjectKind, SignedBy};
use lifeboat::store::Store;
use lifeboat::store::memory::MemoryStore;

use crate::support::repo::{backup, fresh, later, plant, reopen, request};

struct Scene {
    store: MemoryStore,
    admin: Repository,
    admin_key: String,
    writer_key: String,
    _dir: tempfile::TempDir,
    root: std::path::PathBuf,
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let store = MemoryStore::default();
    let (admin, admin_key) = fresh(Arc::new(store.clone()));
    let (_, key) = export_writer(&admin, &SystemClock, "web1", None).unwrap();
    let writer_key = key.to_text().to_string();
    Scene { store, admin, admin_key, writer_key, _dir: dir, root }
}

impl Scene {
    fn writer(&self) -> Repository {
        reopen(Arc::new(self.store.clone()), &self.writer_key)
    }

    fn reader(&self) -> Repository {
        let Key::Admin(admin) = Key::from_text(&self.admin_key).unwrap() else { panic!() };
        Repository::open(Arc::new(self.store.clone()), Key::Reader(admin.reader())).unwrap()
    }
}

#[test]
fn a_writer_sees_its_own_names_and_no_content_not_even_twenty_bytes() {
    let scene = scene();
    let writer = scene.writer();
    backup(&writer, &scene.root);
    let snapshots = Snapshots::list(&writer).unwrap();
    let snapshot = snapshots.latest(&Selection::default()).unwrap();
    let index = Index::load(&writer, Scope::Read, &mut |error| panic!("{error}")).unwrap();
    let reader = ChunkReader::new(&writer, &index, snapshot.writer).unwrap();
    let root = snapshot.body.as_ref().unwrap().sources[0].tree();
    let mut tree = TreeReader::new(&reader, &root);
    let (mut names, mut refused) = (0, 0);
    while let Some((entry, _)) = tree.next_entry().unwrap() {
        names += 1;
        let Kind::File { content: Content::Extents(extents), .. } = &entry.kind else { continue };
        for extent in extents {
            let Extent::Data { id, .. } = extent else { continue };
            assert!(matches!(reader.data(id), Err(Error::Role { .. })), "{}", entry.path);
            refused += 1;
        }
        assert!(format!("{entry:?}").find("twenty bytes").is_none());
    }
    assert!(names > 300 && refused > 300);
    // What is at rest, opened with everything the key file holds, never shows the text either.
    for listed in scene.store.list("").unwrap() {
        let bytes = scene.store.get(&listed.key).unwrap();
        assert!(!bytes.windows(12).any(|window| window == b"twenty bytes"), "{}", listed.key);
    }
}

#[test]
fn a_reader_reads_everything_and_writes_nothing() {
    let scene = scene();
    backup(&scene.writer(), &scene.root);
    let reader = scene.reader();
    let snapshots = Snapshots::list(&reader).unwrap();
    let snapshot = snapshots.latest(&Selection::default()).unwrap();
    let index = Index::load(&reader, Scope::Read, &mut |error| panic!("{error}")).unwrap();
    let chunks = ChunkReader::new(&reader, &index, snapshot.writer).unwrap();
    let mut tree = TreeReader::new(&chunks, &snapshot.body.as_ref().unwrap().sources[0].tree());
    let mut seen = false;
    while let Some((entry, _)) = tree.next_entry().unwrap() {
        if entry.path.as_bytes() == b"twenty"
            && let Kind::File { content: Content::Extents(extents), .. } = &entry.kind
            && let [Extent::Data { id, .. }] = extents[..]
        {
            assert_eq!(chunks.data(&id).unwrap(), b"twenty bytes of text");
            seen = true;
        }
    }
    assert!(seen);
    let refused = backup::run(&reader, &later(), &request(&scene.root), &Control::default()).unwrap_err();
    assert!(matches!(refused, backup::Error::Repository(Error::Role { .. })));
    assert!(matches!(export_writer(&reader, &SystemClock, "x", None), Err(Error::Role { .. })));
}

#[test]
fn a_writer_does_not_see_into_another_writers_snapshot() {
    let scene = scene();
    backup(&scene.admin, &scene.root);
    let writer = scene.writer();
    let snapshots = Snapshots::list(&writer).unwrap();
    assert_eq!(snapshots.readable.len(), 1);
    assert!(snapshots.readable[0].body.is_none());
    assert!(matches!(snapshots.latest(&Selection::default()), Err(Error::NoSnapshot(_))));
    assert!(ChunkReader::new(&writer, &Index::empty(), snapshots.readable[0].writer).is_err());
}

/// Puts an object signed by the thief's own key at `key`, in place of what stands there.
fn forge(scene: &Scene, kind: ObjectKind, key: &ObjectKey, by: SignedBy, body: &[u8]) {
    let Key::Writer(writer) = Key::from_text(&scene.writer_key).unwrap() else { panic!() };
    let base = Key::from_text(&scene.writer_key).unwrap().repository_key();
    let signer = writer.signer();
    let identity = Identity { kind, repository: scene.admin.id, key, base: &base, by, signer: &signer, features: 0 };
    let bytes = object::seal(&identity, body);
    scene.store.delete(key).unwrap();
    assert_eq!(scene.store.create(key, &bytes).unwrap(), lifeboat::store::Create::Created);
}

fn body_of(scene: &Scene, key: &ObjectKey) -> Vec<u8> {
    let base = Key::from_text(&scene.writer_key).unwrap().repository_key();
    let bytes = scene.store.get(key).unwrap();
    object::Envelope::parse(&bytes, key, scene.admin.id).unwrap().open(&base).unwrap()
}

#[test]
fn a_writer_cannot_forge_the_config() {
    let scene = scene();
    let key = keys::config(0);
    let body = body_of(&scene, &key);
    let writer = scene.writer().access.writer.as_ref().unwrap().id;
    for by in [SignedBy::Admin, SignedBy::Writer(writer)] {
        forge(&scene, ObjectKind::Config, &key, by, &body);
        let error = Repository::open(Arc::new(scene.store.clone()), Key::from_text(&scene.admin_key).unwrap()).err();
        assert!(matches!(error, Some(Error::Damaged { .. })), "{by:?}");
    }
}

#[test]
fn a_writer_cannot_forge_a_certificate() {
    let scene = scene();
    let victim = scene.admin.access.writer.as_ref().unwrap().id;
    let key = keys::certificate(victim);
    let body = body_of(&scene, &key);
    let thief = scene.writer().access.writer.as_ref().unwrap().id;
    for by in [SignedBy::Admin, SignedBy::Writer(thief)] {
        forge(&scene, ObjectKind::Certificate, &key, by, &body);
        assert!(scene.reader().writer(victim).is_err(), "{by:?}");
    }
}

#[test]
fn a_writer_cannot_forge_another_writers_manifest() {
    let scene = scene();
    let report = backup(&scene.admin, &scene.root);
    let slot = keys::commit(0, report.snapshot.session());
    let body = body_of(&scene, &slot);
    let thief = scene.writer().access.writer.as_ref().unwrap().id;
    let victim = scene.admin.access.writer.as_ref().unwrap().id;
    for by in [SignedBy::Admin, SignedBy::Writer(thief), SignedBy::Writer(victim)] {
        forge(&scene, ObjectKind::Manifest, &slot, by, &body);
        let snapshots = Snapshots::list(&scene.reader()).unwrap();
        assert!(snapshots.readable.is_empty(), "{by:?}");
        assert_eq!(snapshots.unreadable.len(), 1);
        assert!(matches!(snapshots.latest(&Selection::default()), Err(Error::LatestUnknown { .. })));
    }
}

#[test]
fn a_revoked_writers_later_snapshots_are_never_latest() {
    let scene = scene();
    let writer = scene.writer();
    let first = backup(&writer, &scene.root);
    assert_eq!(revoke_writer(&scene.admin, &SystemClock, writer.access.writer.as_ref().unwrap().id).unwrap(), 1);
    let refused = backup::run(&scene.writer(), &later(), &request(&scene.root), &Control::default());
    assert!(matches!(refused, Err(backup::Error::Repository(Error::Revoked { .. }))));
    // A thief's program does not look.
    let key = keys::revocation(writer.access.writer.as_ref().unwrap().id);
    let revocation = scene.store.get(&key).unwrap();
    scene.store.delete(&key).unwrap();
    let second = backup(&scene.writer(), &scene.root);
    assert_eq!(scene.store.create(&key, &revocation).unwrap(), lifeboat::store::Create::Created);
    let snapshots = Snapshots::list(&scene.reader()).unwrap();
    let state = |id| snapshots.readable.iter().find(|s| s.id == id).unwrap().state;
    assert_eq!(state(first.snapshot), SnapshotState::Good);
    assert_eq!(state(second.snapshot), SnapshotState::Revoked);
    assert_eq!(snapshots.latest(&Selection::default()).unwrap().id, first.snapshot);
}

#[test]
fn groups_share_chunks_only_by_name() {
    let scene = scene();
    let writer = |group| {
        let (_, key) = export_writer(&scene.admin, &SystemClock, "w", group).unwrap();
        Repository::open(Arc::new(scene.store.clone()), key).unwrap()
    };
    backup(&scene.admin, &scene.root);
    let alone = backup(&writer(None), &scene.root);
    assert!(alone.counts.bytes_new > 18 << 20);
    let (a, b) = (writer(Some("web")), writer(Some("web")));
    backup(&a, &scene.root);
    // Only merged segments of others are read; these two have none yet, so the second uploads too, and later ones need not.
    let other = backup(&b, &scene.root);
    assert_eq!(other.outcome, lifeboat::pack::record::Outcome::Complete);
}

#[test]
fn the_wrong_key_and_no_repository_are_told_apart() {
    let scene = scene();
    let (_, other_key) = fresh(Arc::new(MemoryStore::default()));
    let wrong = Repository::open(Arc::new(scene.store.clone()), Key::from_text(&other_key).unwrap()).err();
    assert!(matches!(wrong, Some(Error::OtherRepository { .. })), "{wrong:?}");
    let none = Repository::open(Arc::new(MemoryStore::default()), Key::from_text(&other_key).unwrap()).err();
    assert!(matches!(none, Some(Error::NotARepository { .. })), "{none:?}");
    let again = repository::init::<Error>(&scene.store, &SystemClock, None, |_| Ok(())).err();
    assert!(matches!(again, Some(Error::Exists { .. })));
}

#[test]
fn passphrases_open_slots_and_only_theirs() {
    let store = MemoryStore::default();
    let made = repository::init::<Error>(&store, &SystemClock, Some(b"correct horse"), |_| Ok(())).unwrap();
    let opened = repository::open_slot(&store, b"correct horse").unwrap();
    assert_eq!(*opened.to_text(), *made.key.to_text());
    assert!(matches!(repository::open_slot(&store, b"wrong"), Err(Error::Passphrase { .. })));
    assert!(Repository::open(Arc::new(store), opened).is_ok());
}

#[test]
fn a_revoked_writers_segments_are_no_reason_not_to_store() {
    let scene = scene();
    let writer = |name| {
        let (_, key) = export_writer(&scene.admin, &SystemClock, name, Some("web")).unwrap();
        Repository::open(Arc::new(scene.store.clone()), key).unwrap()
    };
    let (thief, honest) = (writer("thief"), writer("honest"));
    let small = scene.root.join("small");
    fs::create_dir(&small).unwrap();
    let save = |repository: &Repository, n: u8| {
        fs::write(small.join("file"), [n; 900]).unwrap();
        backup(repository, &small).counts.bytes_new
    };
    // Enough runs for a segment, which others of the group read.
    for n in 0..9 {
        assert_eq!(save(&thief, n), 900);
    }
    assert!(!scene.store.list("i/s/").unwrap().is_empty());
    assert_eq!(save(&honest, 3), 0, "the group shares what its segments name");
    let late = writer("late");
    revoke_writer(&scene.admin, &SystemClock, thief.access.writer.as_ref().unwrap().id).unwrap();
    assert_eq!(save(&late, 4), 900);
}
