//! What is made of a store's lost, false and late answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lifeboat::store::backoff::Pace;
use lifeboat::store::create_once::{Outcome, create_once_at};
use lifeboat::store::local::LocalStore;
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::meter::Metered;
use lifeboat::store::probe::{self, StoreMode};
use lifeboat::store::retry::Retry;
use lifeboat::store::{Class, Create, Listed, Result, Store, Upload};

use crate::support::faulty::{Fault, FaultyStore, Verb};
use crate::support::{key, session};

type Faulty = FaultyStore<MemoryStore>;

fn faulty() -> Faulty {
    FaultyStore::over(MemoryStore::default())
}

/// Five attempts, and the pauses between them, which nobody waits for.
fn pace() -> (Pace, Arc<Mutex<Vec<Duration>>>) {
    let slept = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&slept);
    let pace = Pace::new(5, Duration::from_secs(1), Duration::from_secs(60));
    (pace.sleeping_by(move |pause| notes.lock().unwrap().push(pause)), slept)
}

fn create(store: &Faulty, bytes: &[u8]) -> Result<Outcome> {
    create_once_at(store, &key("s/1"), bytes, &pace().0)
}

#[test]
fn a_lost_answer_is_a_win_once() {
    let store = faulty().on(Verb::Create, 1, Fault::ApplyThenFail);
    assert_eq!(create(&store, b"ours").unwrap(), Outcome::Won);
    assert_eq!(store.count(Verb::Create), 1);
    assert_eq!(store.list("").unwrap().len(), 1);
    store.assert_every_fault_was_met();
}

#[test]
fn occupied_with_nothing_there_is_tried_again() {
    let store = faulty().on(Verb::Create, 1, Fault::FalseOccupied);
    assert_eq!(create(&store, b"ours").unwrap(), Outcome::Won);
    assert_eq!(store.get(&key("s/1")).unwrap(), b"ours");
    store.assert_every_fault_was_met();
}

#[test]
fn occupied_for_ever_with_nothing_there_is_no_win() {
    let mut store = faulty();
    for number in 1..=5 {
        store = store.on(Verb::Create, number, Fault::FalseOccupied);
    }
    assert_eq!(create(&store, b"ours").unwrap_err().class, Class::Ambiguous);
    store.assert_every_fault_was_met();
}

#[test]
fn an_ambiguous_failure_before_the_store_is_tried_again() {
    let store = faulty().on(Verb::Create, 1, Fault::FailBefore(Class::Ambiguous));
    assert_eq!(create(&store, b"ours").unwrap(), Outcome::Won);
    assert_eq!(store.count(Verb::Create), 2);
    store.assert_every_fault_was_met();
}

#[test]
fn others_bytes_under_a_lost_answer_are_a_loss() {
    let store = faulty().on(Verb::Create, 2, Fault::FailBefore(Class::Ambiguous));
    assert_eq!(create(&store, b"theirs").unwrap(), Outcome::Won);
    assert_eq!(create(&store, b"ours").unwrap(), Outcome::Lost(b"theirs".to_vec()));
    assert_eq!(store.count(Verb::Create), 2, "a store without conditions would have overwritten");
    store.assert_every_fault_was_met();
}

#[test]
fn what_may_stand_is_looked_for_until_the_store_answers() {
    let store = faulty()
        .on(Verb::Create, 1, Fault::ApplyThenFail)
        .on(Verb::Get, 1, Fault::FailBefore(Class::Transient))
        .on(Verb::Get, 2, Fault::FailBefore(Class::Transient));
    assert_eq!(create(&store, b"ours").unwrap(), Outcome::Won);
    assert_eq!(store.count(Verb::Create), 1);
    store.assert_every_fault_was_met();
}

#[test]
fn a_store_that_refuses_is_not_asked_again() {
    for class in [Class::Denied, Class::Full, Class::Permanent] {
        let store = faulty().on(Verb::Create, 1, Fault::FailBefore(class));
        assert_eq!(create(&store, b"ours").unwrap_err().class, class);
        assert_eq!(store.calls().len(), 1);
        store.assert_every_fault_was_met();
    }
}

#[test]
fn a_silent_store_is_left_after_the_last_attempt() {
    let mut store = faulty();
    for number in 1..=5 {
        store = store.on(Verb::Create, number, Fault::FailBefore(Class::Transient));
    }
    assert_eq!(create(&store, b"ours").unwrap_err().class, Class::Transient);
    assert_eq!(store.calls().len(), 5);
    store.assert_every_fault_was_met();
}

#[test]
fn reads_are_repeated_with_growing_pauses() {
    let store = faulty();
    assert_eq!(store.create(&key("x"), b"bytes").unwrap(), Create::Created);
    let store = store
        .on(Verb::Get, 1, Fault::FailBefore(Class::Transient))
        .on(Verb::Get, 2, Fault::FailBefore(Class::Transient))
        .on(Verb::GetRange, 1, Fault::FailBefore(Class::Transient))
        .on(Verb::Size, 1, Fault::FailBefore(Class::Transient))
        .on(Verb::List, 1, Fault::FailBefore(Class::Transient))
        .on(Verb::Delete, 1, Fault::ApplyThenFail);
    let (pace, slept) = pace();
    let patient = Retry::at(store.clone(), pace);
    assert_eq!(patient.get(&key("x")).unwrap(), b"bytes");
    assert_eq!(patient.get_range(&key("x"), 1..3).unwrap(), b"yt");
    assert_eq!(patient.size(&key("x")).unwrap(), Some(5));
    assert_eq!(patient.list("").unwrap().len(), 1);
    patient.delete(&key("x")).unwrap();
    store.assert_every_fault_was_met();
    let slept = slept.lock().unwrap();
    assert_eq!(slept.len(), 6);
    assert!(slept[1] >= Duration::from_secs(1) && slept[0] <= Duration::from_secs(1), "{slept:?}");
}

#[test]
fn creates_are_not_repeated_behind_the_callers_back() {
    let store = faulty().on(Verb::Create, 1, Fault::FailBefore(Class::Transient));
    let patient = Retry::at(store.clone(), pace().0);
    assert_eq!(patient.create(&key("x"), b"").unwrap_err().class, Class::Transient);
    assert_eq!(store.count(Verb::Create), 1);
}

#[test]
fn what_is_absent_is_not_asked_for_twice() {
    let store = faulty();
    let patient = Retry::at(store.clone(), pace().0);
    assert!(patient.get(&key("x")).unwrap_err().is_not_found());
    assert_eq!(store.calls().len(), 1);
}

#[test]
fn a_meter_counts_requests_and_bytes() {
    let store = Metered::over(MemoryStore::default());
    let meter = store.meter();
    assert_eq!(store.create(&key("x"), &[0; 10]).unwrap(), Create::Created);
    let mut upload = store.begin(session(1), 0).unwrap();
    upload.append(&[0; 5]).unwrap();
    upload.append(&[0; 5]).unwrap();
    assert_eq!(upload.finish(&key("y")).unwrap(), Create::Created);
    store.get(&key("x")).unwrap();
    store.get_range(&key("x"), 0..3).unwrap();
    store.get(&key("absent")).unwrap_err();
    store.size(&key("x")).unwrap();
    store.list("").unwrap();
    store.delete(&key("x")).unwrap();
    let traffic = meter.traffic();
    assert_eq!((traffic.gets, traffic.range_gets, traffic.sizes, traffic.lists, traffic.deletes), (2, 1, 1, 1, 1));
    assert_eq!((traffic.creates, traffic.uploads, traffic.up_bytes, traffic.down_bytes), (1, 1, 20, 13));
}

/// A server that ignores the condition, as some do.
#[derive(Default)]
struct Overwriting {
    store: MemoryStore,
    /// Whether it obeys the condition when asked twice in a row, and loses it only in a race.
    obeys_alone: bool,
}

impl Store for Overwriting {
    fn url(&self) -> &str {
        "overwriting:"
    }

    fn get(&self, key: &lifeboat::names::ObjectKey) -> Result<Vec<u8>> {
        self.store.get(key)
    }

    fn get_range(&self, key: &lifeboat::names::ObjectKey, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
        self.store.get_range(key, range)
    }

    fn size(&self, key: &lifeboat::names::ObjectKey) -> Result<Option<u64>> {
        self.store.size(key)
    }

    fn create(&self, key: &lifeboat::names::ObjectKey, bytes: &[u8]) -> Result<Create> {
        if self.obeys_alone {
            if self.store.size(key)?.is_some() {
                return Ok(Create::Occupied);
            }
            std::thread::sleep(Duration::from_millis(50)); // between looking and writing, as such servers do
        }
        self.store.delete(key)?;
        let _ = self.store.create(key, bytes)?;
        Ok(Create::Created)
    }

    fn begin(&self, session: lifeboat::names::SessionId, number: u32) -> Result<Box<dyn Upload>> {
        self.store.begin(session, number)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.store.list(prefix)
    }

    fn delete(&self, key: &lifeboat::names::ObjectKey) -> Result<()> {
        self.store.delete(key)
    }

    fn available_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

fn reason(store: &dyn Store) -> String {
    match probe::probe(store).unwrap().mode {
        StoreMode::SingleWriter { reason } => reason,
        StoreMode::MultiWriter => panic!("the probe trusted a store that it must not trust"),
    }
}

#[test]
fn a_store_that_overwrites_is_for_one_writer() {
    let found = reason(&Overwriting::default());
    assert!(found.contains("over an object that exists"), "{found}");
}

#[test]
fn a_store_that_loses_races_is_for_one_writer() {
    let found = reason(&Overwriting { obeys_alone: true, ..Overwriting::default() });
    assert!(found.contains("raced for one key"), "{found}");
}

#[test]
fn a_store_whose_listing_lags_is_for_one_writer() {
    for listing in [1, 4] {
        let store = faulty().on(Verb::List, listing, Fault::HideFromList(1));
        assert!(reason(&store).contains("listing"));
        store.assert_every_fault_was_met();
    }
}

#[test]
fn a_store_that_cannot_be_asked_is_an_error_of_the_probe() {
    let store = faulty().on(Verb::Create, 2, Fault::FailBefore(Class::Denied));
    assert_eq!(probe::probe(&store).unwrap_err().class, Class::Denied);
    store.assert_every_fault_was_met();
}

#[test]
fn a_lost_answer_in_a_race_is_no_verdict() {
    let store = faulty().on(Verb::Create, 5, Fault::ApplyThenFail);
    assert_eq!(probe::probe(&store).unwrap().mode, StoreMode::MultiWriter);
    store.assert_every_fault_was_met();
}

#[test]
fn probe_objects_that_stay_can_be_checked() {
    let mut store = faulty();
    for number in 1..=6 {
        store = store.on(Verb::Delete, number, Fault::FailBefore(Class::Denied));
    }
    assert_eq!(probe::probe(&store).unwrap().mode, StoreMode::MultiWriter);
    let listing = store.list(probe::PREFIX).unwrap();
    assert_eq!(listing.len(), 6);
    for listed in listing {
        let mut bytes = store.get(&listed.key).unwrap();
        assert!(probe::is_whole(&listed.key, &bytes));
        assert!(!probe::is_whole(&key("probe/other"), &bytes));
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(!probe::is_whole(&listed.key, &bytes), "byte {at}");
            bytes[at] ^= 1;
        }
        assert!(!probe::is_whole(&listed.key, &bytes[..bytes.len() - 1]));
    }
    store.assert_every_fault_was_met();
}

#[test]
fn the_double_tears_flips_and_hides_as_told() {
    let store = faulty()
        .on_write(1, Fault::Torn(3))
        .on_write(2, Fault::FlipBit(0))
        .on_write(3, Fault::Torn(1))
        .on(Verb::Get, 3, Fault::ShortRead)
        .on(Verb::List, 1, Fault::HideFromList(2));
    assert_eq!(store.create(&key("a"), b"whole").unwrap(), Create::Created);
    assert_eq!(store.create(&key("b"), b"whole").unwrap(), Create::Created);
    let mut upload = store.begin(session(1), 0).unwrap();
    upload.append(b"whole").unwrap();
    assert_eq!(upload.finish(&key("c")).unwrap(), Create::Created);
    assert_eq!(store.get(&key("a")).unwrap(), b"who");
    assert_eq!(store.get(&key("b")).unwrap(), b"vhole");
    assert_eq!(store.get(&key("b")).unwrap(), b"vhol");
    assert_eq!(store.survivor().get(&key("c")).unwrap(), b"w");
    assert_eq!(store.list("").unwrap().len(), 1);
    assert_eq!(store.list("").unwrap().len(), 3);
    store.assert_every_fault_was_met();
}

#[test]
#[should_panic(expected = "faults that were not met")]
fn the_double_notices_a_fault_that_changed_nothing() {
    let store = faulty().on_write(1, Fault::Torn(100));
    assert_eq!(store.create(&key("a"), b"short").unwrap(), Create::Created);
    store.assert_every_fault_was_met();
}

#[test]
fn a_crash_leaves_what_a_killed_process_leaves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = FaultyStore::over(LocalStore::create(&path).unwrap()).on(Verb::Append, 2, Fault::CrashAfter);
    assert_eq!(store.create(&key("s/one"), b"x").unwrap(), Create::Created);
    let mut upload = store.begin(session(1), 0).unwrap();
    upload.append(b"half").unwrap();
    upload.append(&[0; 100_000]).unwrap_err();
    upload.finish(&key("d/ab/pack")).unwrap_err();
    assert!(store.has_crashed());
    assert_eq!(store.get(&key("s/one")).unwrap_err().class, Class::Permanent);
    store.assert_every_fault_was_met();

    let reopened = LocalStore::open(&path).unwrap();
    assert_eq!(reopened.list("").unwrap().len(), 1);
    assert_eq!(reopened.leftovers().unwrap().len(), 1);
    assert_eq!(reopened.sweep(&mut |leftover| leftover.session() == Some(session(1))).unwrap().files, 1);
}

#[test]
fn a_full_store_says_so_and_is_not_asked_again() {
    let store = faulty().on(Verb::Append, 2, Fault::Full).on(Verb::Create, 1, Fault::Full);
    let mut upload = store.begin(session(1), 0).unwrap();
    upload.append(b"x").unwrap();
    assert_eq!(upload.append(b"x").unwrap_err().class, Class::Full);
    assert_eq!(create(&store, b"ours").unwrap_err().class, Class::Full);
    assert_eq!(store.count(Verb::Create), 1);
    store.assert_every_fault_was_met();
}

/// Every kind of change, in the order of a small backup: a stop at the first error, as a killed process stops.
fn changes(store: &dyn Store) -> Result<()> {
    let _ = store.create(&key("w/record"), b"record")?;
    let mut upload = store.begin(session(1), 0)?;
    upload.append(&[1; 100_000])?;
    upload.append(&[2; 100_000])?;
    let _ = upload.finish(&key("d/ab/pack"))?;
    let _ = store.create(&key("s/manifest"), b"manifest")?;
    store.delete(&key("w/record"))
}

#[test]
fn a_crash_at_any_change_leaves_whole_objects_and_leftovers_that_are_swept() {
    let mut crashes = 0;
    for fault in [Fault::Crash, Fault::CrashAfter] {
        for number in 1.. {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("store");
            let store = FaultyStore::over(LocalStore::create(&path).unwrap()).on(Verb::Change, number, fault.clone());
            if changes(&store).is_ok() {
                assert_eq!(number - 1, store.count(Verb::Any), "each change was tried");
                break;
            }
            store.assert_every_fault_was_met();
            crashes += 1;

            let reopened = LocalStore::open(&path).unwrap();
            for Listed { key, size, .. } in reopened.list("").unwrap() {
                let whole = match key.as_str() {
                    "w/record" => b"record".to_vec(),
                    "s/manifest" => b"manifest".to_vec(),
                    _ => [[1; 100_000], [2; 100_000]].concat(),
                };
                assert_eq!(size, whole.len() as u64, "{fault:?} {number}: {key}");
                assert_eq!(reopened.get(&key).unwrap(), whole, "{fault:?} {number}: {key}");
            }
            reopened.sweep(&mut |_| true).unwrap();
            assert!(reopened.leftovers().unwrap().is_empty());
            changes(&reopened).unwrap();
        }
    }
    assert_eq!(crashes, 14);
}
