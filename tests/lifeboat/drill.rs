//! Sample drills: what passes, what does not, and that nothing is left behind.

use std::fs;
use std::sync::Arc;

use lifeboat::drill::{self, Findings, Request};
use lifeboat::repository::{Repository, Selection};
use lifeboat::restore;
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Create, Store};

use crate::support::repo::{backup, fresh, plant, reopen};

fn run(repository: &Repository, files: usize, scratch: &std::path::Path) -> Result<Findings, drill::Error> {
    let request = Request { selection: Selection::default(), files, scratch };
    let findings = drill::sample(repository, &request, &restore::Control::default());
    let left: Vec<_> = fs::read_dir(scratch).map(|entries| entries.collect()).unwrap_or_default();
    assert!(left.is_empty(), "the scratch directory is removed: {left:?}");
    findings
}

#[test]
fn a_drill_of_a_good_snapshot_checks_as_many_files_as_asked_and_passes() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, _) = fresh(Arc::new(MemoryStore::default()));
    let report = backup(&repository, &root);
    let scratch = dir.path().join("scratch");
    let some = run(&repository, 20, &scratch).unwrap();
    assert_eq!((some.checked_files, some.mismatches_count, some.not_run), (20, 0, 0));
    assert_eq!(some.snapshot, report.snapshot);
    let all = run(&repository, 10_000, &scratch).unwrap();
    assert_eq!((all.checked_files, all.checked_bytes), (report.counts.files, report.counts.bytes));
    assert_eq!((all.mismatches_count, all.not_run), (0, 0), "{:?}", all.mismatches);
}

#[test]
fn a_drill_of_a_damaged_snapshot_never_passes() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let store = MemoryStore::default();
    let (repository, key) = fresh(Arc::new(store.clone()));
    backup(&repository, &root);
    // One bit in the middle of every data pack: the frames there belong to some file.
    for listed in store.list("d/").unwrap() {
        let mut bytes = store.get(&listed.key).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        store.delete(&listed.key).unwrap();
        assert_eq!(store.create(&listed.key, &bytes).unwrap(), Create::Created);
    }
    let found = run(&reopen(Arc::new(store), &key), 10_000, &dir.path().join("scratch")).unwrap();
    assert!(found.mismatches_count > 0);
    assert!(found.mismatches.iter().all(|line| line.contains("did not come back")), "{:?}", found.mismatches);
}

#[test]
fn a_drill_of_nothing_is_no_pass() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    let (repository, _) = fresh(Arc::new(MemoryStore::default()));
    backup(&repository, &dir.path().join("empty"));
    let found = run(&repository, 5, &dir.path().join("scratch")).unwrap();
    assert_eq!((found.checked_files, found.not_run), (0, 1));
}
