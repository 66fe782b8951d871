//! What this host remembers of its proofs: it spares work, and hides nothing.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat::clock::SystemClock;
use lifeboat::pack::keys;
use lifeboat::repository::{Repository, SnapshotState, Snapshots, export_writer, revoke_writer};
use lifeboat::seal::key::Key;
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Create, Store};
use serde_json::Value;

use crate::support::journey::Journey;
use crate::support::repo::{backup, fresh};
use crate::support::shipped::{good, refused};

const LINE_BYTES: u64 = 80;

/// A repository with some snapshots of a small tree, made by the shipped binary.
fn saved(home: &Path, snapshots: usize) -> (Journey, PathBuf) {
    let (journey, tree) = (Journey::begin(home), home.join("tree"));
    fs::create_dir(&tree).unwrap();
    for number in 0..snapshots {
        fs::write(tree.join(format!("file-{number}")), format!("{number}")).unwrap();
        journey.save(&tree);
    }
    (journey, tree)
}

/// The file that remembers, in the cache below `home`.
fn memory(home: &Path) -> PathBuf {
    let found = fs::read_dir(home.join(".cache/lifeboat")).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("proven-");
    let found: Vec<PathBuf> = found.filter(is_it).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

fn ids(journey: &Journey) -> Vec<String> {
    let list: Value = serde_json::from_str(&good(&mut journey.command(["snapshots", "--json"]))).unwrap();
    list.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

fn slots(home: &Path) -> Vec<PathBuf> {
    let mut slots: Vec<_> = fs::read_dir(home.join("repository/s")).unwrap().map(|e| e.unwrap().path()).collect();
    slots.sort();
    slots
}

/// Bends one bit, in the file itself or in another that takes its place, with the length and modification time that it had.
fn bend(path: &Path, at: u64, in_place: bool) {
    let before = fs::metadata(path).unwrap().modified().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 0x10;
    if in_place {
        File::options().write(true).open(path).unwrap().write_all_at(&bytes, 0).unwrap();
    } else {
        let beside = path.with_extension("beside");
        fs::write(&beside, &bytes).unwrap();
        fs::rename(&beside, path).unwrap();
    }
    let file = File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(before)).unwrap();
}

#[test]
fn a_manifest_that_is_tampered_with_after_it_was_proven_is_refused_by_whoever_reads_it() {
    for in_place in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (journey, tree) = saved(dir.path(), 1);
        assert_eq!(ids(&journey).len(), 1);
        let proven = fs::metadata(memory(dir.path())).unwrap().len();
        assert_eq!(proven, LINE_BYTES);
        let slot = slots(dir.path()).remove(0);
        for at in [0, 40, 100, 1500, fs::metadata(&slot).unwrap().len() - 1] {
            bend(&slot, at, in_place);
            refused(&mut journey.command(["snapshots"]), 13);
            refused(&mut journey.bringing(&tree, &dir.path().join("to")), 13);
            refused(&mut journey.command(["verify", "--level", "structure"]), 13);
            bend(&slot, at, in_place);
            assert_eq!(ids(&journey).len(), 1);
        }
        bend(&slot, 1500, in_place);
        let report: Value = serde_json::from_str(&good(journey.command(["backup", "--json"]).arg(&tree))).unwrap();
        assert_eq!((&report["parent"], &report["files_read"]), (&Value::Null, &Value::from(1)), "it is no parent");
        assert_eq!(fs::metadata(memory(dir.path())).unwrap().len(), proven, "and nothing was proven");
    }
}

#[test]
fn a_snapshot_that_was_proven_before_its_writer_was_revoked_is_revoked() {
    let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::default());
    let (admin, admin_key) = fresh(Arc::new(store.clone()));
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "file").unwrap();
    let (_, key) = export_writer(&admin, &SystemClock, "web1", None).unwrap();
    let writer = Repository::open(Arc::new(store.clone()), key).unwrap();
    let id = writer.access.writer.as_ref().unwrap().id;
    let first = backup(&writer, &tree);
    assert_eq!(revoke_writer(&admin, &SystemClock, id).unwrap(), 1);
    let revoked = keys::revocation(id);
    let revocation = store.get(&revoked).unwrap();
    store.delete(&revoked).unwrap();
    let second = backup(&writer, &tree);
    let states = || {
        let admin = Repository::open(Arc::new(store.clone()), Key::from_text(&admin_key).unwrap()).unwrap();
        let snapshots = Snapshots::list(&admin.remembering(Some(&dir.path().join("cache")))).unwrap();
        assert!(snapshots.unreadable.is_empty());
        [first.snapshot, second.snapshot].map(|id| snapshots.readable.iter().find(|s| s.id == id).unwrap().state)
    };
    assert_eq!(states(), [SnapshotState::Good; 2]);
    assert_eq!(store.create(&revoked, &revocation).unwrap(), Create::Created);
    assert_eq!(states(), [SnapshotState::Good, SnapshotState::Revoked]);
}

#[test]
fn several_at_once_prove_what_they_need_and_leave_a_good_file() {
    let dir = tempfile::tempdir().unwrap();
    let (journey, _) = saved(dir.path(), 12);
    let all = ids(&journey);
    fs::remove_file(memory(dir.path())).unwrap();
    let together: Vec<_> = (0..4)
        .map(|_| journey.command(["snapshots", "--json"]).stdout(std::process::Stdio::piped()).spawn().unwrap())
        .collect();
    for one in together {
        let output = one.wait_with_output().unwrap();
        assert!(output.status.success());
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(list.as_array().unwrap().len(), all.len());
    }
    assert_eq!(ids(&journey), all);
    let length = fs::metadata(memory(dir.path())).unwrap().len();
    assert!(length >= 12 * LINE_BYTES && length.is_multiple_of(LINE_BYTES), "{length}");
    assert_eq!(ids(&journey), all);
    assert_eq!(fs::metadata(memory(dir.path())).unwrap().len(), length, "nothing was left to prove");
}

#[test]
fn a_memory_that_is_junk_or_cannot_be_written_changes_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (journey, tree) = saved(dir.path(), 3);
    let all = ids(&journey);
    let file = memory(dir.path());
    let good_bytes = fs::read(&file).unwrap();
    for junk in [vec![], vec![0; 80], vec![0xff; 799], good_bytes[1..].to_vec(), good_bytes[..85].to_vec()] {
        fs::write(&file, junk).unwrap();
        assert_eq!(ids(&journey), all);
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(ids(&journey), all);
    let nowhere = dir.path().join("nowhere");
    fs::write(&nowhere, "in the way").unwrap();
    let mut command = journey.command(["snapshots", "--json"]);
    let list: Value = serde_json::from_str(&good(command.env("LIFEBOAT_CACHE", &nowhere))).unwrap();
    assert_eq!(list.as_array().unwrap().len(), all.len());
    good(journey.command(["-q", "backup"]).arg(&tree).env("LIFEBOAT_CACHE", &nowhere));
    good(journey.bringing(&tree, &dir.path().join("to")).env("LIFEBOAT_CACHE", &nowhere));
}
