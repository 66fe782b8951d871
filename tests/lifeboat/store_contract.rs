//! What every store and every wrapper promises: one suite over all of them.

use std::any::Any;
use std::sync::{Arc, Barrier};
use std::thread;

use lifeboat::store::cached::CachedStore;
use lifeboat::store::create_once::{Outcome, create_once};
use lifeboat::store::local::LocalStore;
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::meter::Metered;
use lifeboat::store::probe::{self, StoreMode};
use lifeboat::store::retry::Retry;
use lifeboat::store::{Class, Copies, Create, Store};
use tempfile::TempDir;

use crate::support::faulty::FaultyStore;
use crate::support::place::Place;
use crate::support::servers;
use crate::support::{key, session};

/// A store, and what must outlive it: its directory, or the double that it speaks to.
struct Shelf {
    store: Box<dyn Store>,
    _beneath: Box<dyn Any>,
}

fn shelf(store: impl Store + 'static) -> Shelf {
    Shelf { store: Box::new(store), _beneath: Box::new(()) }
}

fn local_in(directory: TempDir) -> Shelf {
    let store = LocalStore::create(&directory.path().join("store")).unwrap();
    Shelf { store: Box::new(store), _beneath: Box::new(directory) }
}

fn cloud_at(place: Place) -> Shelf {
    Shelf { store: Box::new(place.open()), _beneath: Box::new(place) }
}

/// Copies are kept of keys under `s/` and a few others.
fn cached_in(directory: TempDir) -> Shelf {
    let copies = Copies::at(directory.path().join("copies"));
    let store = CachedStore::over(Arc::new(MemoryStore::default()), copies);
    Shelf { store: Box::new(store), _beneath: Box::new(directory) }
}

macro_rules! contract {
    ($($(#[$attribute:meta])* $name:ident: $make:expr;)*) => {
        $(mod $name {
            use super::*;

            fn store() -> Shelf {
                $make
            }

            claims! { ($(#[$attribute])*)
                what_was_created_is_read_whole
                a_create_replaces_nothing
                a_range_is_exact
                a_range_beyond_the_end_is_short
                a_range_that_runs_backwards_is_refused
                what_is_absent_is_not_found
                a_listing_is_ordered_by_key
                a_prefix_cuts_keys_not_parts
                a_long_listing_is_whole
                an_upload_becomes_its_object
                an_upload_that_is_dropped_leaves_nothing
                an_upload_replaces_nothing
                one_of_many_creates_wins
                one_of_many_uploads_wins
                a_deleted_object_is_gone
                keys_under_tmp_are_refused
                the_probe_finds_a_store_for_many_writers
                an_object_is_created_once
                calls_from_inside_a_runtime_return
            }
        })*
    };
}

macro_rules! claims {
    ($attributes:tt $($claim:ident)*) => {
        $(claim! { $attributes $claim })*
    };
}

macro_rules! claim {
    (($($attribute:tt)*) $claim:ident) => {
        #[test]
        $($attribute)*
        fn $claim() {
            super::$claim(&*store().store);
        }
    };
}

contract! {
    memory: shelf(MemoryStore::default());
    local: local_in(tempfile::tempdir().unwrap());
    local_in_shared_memory: local_in(tempfile::tempdir_in("/dev/shm").unwrap());
    metered: shelf(Metered::over(MemoryStore::default()));
    retried: shelf(Retry::over(MemoryStore::default()));
    shared: shelf(Arc::new(MemoryStore::default()));
    cached: cached_in(tempfile::tempdir().unwrap());
    faultless: shelf(FaultyStore::over(MemoryStore::default()));
    s3_double: cloud_at(Place::s3());
    gcs_double: cloud_at(Place::gcs());
    moto: cloud_at(Place::moto());
    azurite: cloud_at(Place::azurite());
    #[ignore = "needs a Ceph cluster: scripts/test --long"]
    ceph: cloud_at(Place::on(&servers::ceph()));
}

/// Bytes that differ at every place and by seed.
fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed).collect()
}

fn put(store: &dyn Store, name: &str, bytes: &[u8]) {
    assert_eq!(store.create(&key(name), bytes).unwrap(), Create::Created, "{name}");
}

fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    store.list(prefix).unwrap().into_iter().map(|listed| listed.key.to_string()).collect()
}

fn what_was_created_is_read_whole(store: &dyn Store) {
    for (number, length) in [0, 1, 4096, 3 << 20].into_iter().enumerate() {
        let key = key(&format!("w/{number}"));
        assert_eq!(store.create(&key, &bytes(length, 1)).unwrap(), Create::Created);
        assert_eq!(store.get(&key).unwrap(), bytes(length, 1));
        assert_eq!(store.size(&key).unwrap(), Some(length as u64));
    }
}

fn a_create_replaces_nothing(store: &dyn Store) {
    put(store, "s/one", b"first");
    assert_eq!(store.create(&key("s/one"), b"second").unwrap(), Create::Occupied);
    assert_eq!(store.create(&key("s/one"), b"first").unwrap(), Create::Occupied);
    assert_eq!(store.get(&key("s/one")).unwrap(), b"first");
    assert_eq!(names(store, ""), ["s/one"]);
}

fn a_range_is_exact(store: &dyn Store) {
    let whole = bytes(100_000, 2);
    put(store, "d/ab/pack", &whole);
    for (start, end) in [(0, 0), (0, 1), (1, 2), (4095, 4097), (99_999, 100_000), (0, 100_000), (100_000, 100_000)] {
        let part = store.get_range(&key("d/ab/pack"), start..end).unwrap();
        assert_eq!(part, whole[start as usize..end as usize], "{start}..{end}");
    }
}

fn a_range_beyond_the_end_is_short(store: &dyn Store) {
    put(store, "x", &[1; 10]);
    for range in [0..11, 9..11, 10..11, 11..11, 50..60, 0..u64::MAX] {
        let error = store.get_range(&key("x"), range.clone()).unwrap_err();
        assert_eq!(error.class, Class::Short, "{range:?}");
    }
}

#[expect(clippy::reversed_empty_ranges, reason = "that is the claim's subject")]
fn a_range_that_runs_backwards_is_refused(store: &dyn Store) {
    put(store, "x", &[1; 10]);
    assert_eq!(store.get_range(&key("x"), 5..4).unwrap_err().class, Class::Permanent);
}

fn what_is_absent_is_not_found(store: &dyn Store) {
    put(store, "d/here", b"x");
    for name in ["absent", "d/absent", "e/ab/absent", "d/here/below"] {
        let key = key(name);
        assert_eq!(store.size(&key).unwrap(), None, "{name}");
        assert!(store.get(&key).unwrap_err().is_not_found(), "{name}");
        assert!(store.get_range(&key, 0..1).unwrap_err().is_not_found(), "{name}");
        store.delete(&key).unwrap();
    }
    assert_eq!(names(store, "e/"), [""; 0]);
    assert_eq!(names(store, "d/here/"), [""; 0]);
    assert_eq!(names(store, "Not/a/key"), [""; 0]);
}

fn a_listing_is_ordered_by_key(store: &dyn Store) {
    // `-` and `.` stand before `/`, so a walk of directories meets these in another order.
    let ordered = ["a-b/x", "a.b", "a/b", "a/b-c/d", "a/b.c", "aa", "b/1", "b/10", "b/2"];
    for (size, name) in ordered.iter().enumerate().rev() {
        // A directory stands in the place of no object: `a/b` is a file here and nothing lies beneath it.
        put(store, name, &vec![0; size]);
    }
    let listing = store.list("").unwrap();
    assert!(listing.is_sorted());
    assert_eq!(names(store, ""), ordered);
    for (size, listed) in listing.iter().enumerate() {
        assert_eq!(listed.size, size as u64, "{}", listed.key);
    }
}

fn a_prefix_cuts_keys_not_parts(store: &dyn Store) {
    for name in ["s/0-a", "s/0-b", "s/1-a", "sx/0", "d/ab/1", "d/ac/1", "d/b/1"] {
        put(store, name, b"x");
    }
    assert_eq!(names(store, "s/"), ["s/0-a", "s/0-b", "s/1-a"]);
    assert_eq!(names(store, "s"), ["s/0-a", "s/0-b", "s/1-a", "sx/0"]);
    assert_eq!(names(store, "s/0-"), ["s/0-a", "s/0-b"]);
    assert_eq!(names(store, "s/0-a"), ["s/0-a"]);
    assert_eq!(names(store, "d/a"), ["d/ab/1", "d/ac/1"]);
    assert_eq!(names(store, "d/ab/"), ["d/ab/1"]);
    assert_eq!(names(store, "q"), [""; 0]);
    assert_eq!(names(store, "").len(), 7);
}

fn a_long_listing_is_whole(store: &dyn Store) {
    thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || (0..275).for_each(|n| put(store, &format!("l/{:04}", part * 275 + n), b"")));
        }
    });
    let expected: Vec<String> = (0..1100).map(|n| format!("l/{n:04}")).collect();
    assert_eq!(names(store, "l/"), expected);
}

fn an_upload_becomes_its_object(store: &dyn Store) {
    let mut upload = store.begin(session(1), 0).unwrap();
    let mut whole = Vec::new();
    for (number, length) in [10, 0, 200_000, 1, 65_536].into_iter().enumerate() {
        upload.append(&bytes(length, number as u8)).unwrap();
        whole.extend(bytes(length, number as u8));
    }
    assert_eq!(names(store, ""), [""; 0], "an object in the making is none");
    assert_eq!(upload.finish(&key("d/ab/pack")).unwrap(), Create::Created);
    assert_eq!(store.get(&key("d/ab/pack")).unwrap(), whole);
    assert_eq!(names(store, ""), ["d/ab/pack"]);
}

fn an_upload_that_is_dropped_leaves_nothing(store: &dyn Store) {
    let mut upload = store.begin(session(1), 0).unwrap();
    upload.append(b"half").unwrap();
    drop(upload);
    assert_eq!(names(store, ""), [""; 0]);
    // Its place is free again.
    let upload = store.begin(session(1), 0).unwrap();
    assert_eq!(upload.finish(&key("empty")).unwrap(), Create::Created);
    assert_eq!(store.size(&key("empty")).unwrap(), Some(0));
}

fn an_upload_replaces_nothing(store: &dyn Store) {
    put(store, "d/ab/pack", b"first");
    let mut upload = store.begin(session(1), 0).unwrap();
    upload.append(b"second").unwrap();
    assert_eq!(upload.finish(&key("d/ab/pack")).unwrap(), Create::Occupied);
    assert_eq!(store.get(&key("d/ab/pack")).unwrap(), b"first");
}

fn one_of_many_creates_wins(store: &dyn Store) {
    for round in 0..5 {
        let key = key(&format!("race/{round}"));
        let start = Barrier::new(8);
        let racers: Vec<u8> = (0..8).collect();
        let won = win(&racers, |racer| {
            start.wait();
            store.create(&key, &bytes(5000, racer)).unwrap()
        });
        assert_eq!(won.len(), 1, "{won:?}");
        assert_eq!(store.get(&key).unwrap(), bytes(5000, won[0]));
    }
    assert_eq!(names(store, "").len(), 5, "a race leaves no litter in the listing");
}

fn one_of_many_uploads_wins(store: &dyn Store) {
    let key = key("d/ab/pack");
    let start = Barrier::new(8);
    let racers: Vec<u8> = (0..8).collect();
    let won = win(&racers, |racer| {
        let mut upload = store.begin(session(racer), 0).unwrap();
        upload.append(&bytes(5000, racer)).unwrap();
        start.wait();
        upload.finish(&key).unwrap()
    });
    assert_eq!(won.len(), 1, "{won:?}");
    assert_eq!(store.get(&key).unwrap(), bytes(5000, won[0]));
}

fn win(racers: &[u8], run: impl Fn(u8) -> Create + Sync) -> Vec<u8> {
    thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = racers.iter().map(|racer| (*racer, scope.spawn(move || run(*racer)))).collect();
        threads
            .into_iter()
            .filter_map(|(racer, thread)| (thread.join().unwrap() == Create::Created).then_some(racer))
            .collect()
    })
}

fn a_deleted_object_is_gone(store: &dyn Store) {
    put(store, "d/ab/pack", b"first");
    assert_eq!(store.get_range(&key("d/ab/pack"), 0..1).unwrap(), b"f");
    store.delete(&key("d/ab/pack")).unwrap();
    assert!(store.get_range(&key("d/ab/pack"), 0..1).unwrap_err().is_not_found());
    assert_eq!(store.size(&key("d/ab/pack")).unwrap(), None);
    assert_eq!(names(store, ""), [""; 0]);
    put(store, "d/ab/pack", b"again");
    assert_eq!(store.get_range(&key("d/ab/pack"), 0..5).unwrap(), b"again");
}

fn keys_under_tmp_are_refused(store: &dyn Store) {
    assert_eq!(store.create(&key("tmp/x"), b"x").unwrap_err().class, Class::Permanent);
    let upload = store.begin(session(1), 0).unwrap();
    assert_eq!(upload.finish(&key("tmp/x")).unwrap_err().class, Class::Permanent);
    assert_eq!(names(store, ""), [""; 0]);
}

fn the_probe_finds_a_store_for_many_writers(store: &dyn Store) {
    assert_eq!(probe::probe(store).unwrap().mode, StoreMode::MultiWriter);
    assert_eq!(names(store, ""), [""; 0], "the probe takes its objects along");
}

fn an_object_is_created_once(store: &dyn Store) {
    assert_eq!(create_once(store, &key("s/1"), b"ours").unwrap(), Outcome::Won);
    assert_eq!(create_once(store, &key("s/1"), b"ours").unwrap(), Outcome::Won);
    assert_eq!(create_once(store, &key("s/1"), b"theirs").unwrap(), Outcome::Lost(b"ours".to_vec()));
}

fn calls_from_inside_a_runtime_return(store: &dyn Store) {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        put(store, "a", b"x");
        assert_eq!(store.get(&key("a")).unwrap(), b"x");
        assert_eq!(names(store, ""), ["a"]);
        store.delete(&key("a")).unwrap();
    });
}
