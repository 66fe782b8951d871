//! Whole journeys over clouds: the shipped binary saves, verifies and restores, and what comes back is compared byte by byte; backups whose every
//! write meets a fault are whole or not there.

use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use lifeboat::backup::{self, Control};
use lifeboat::repository::{Repository, Snapshots};
use lifeboat::seal::key::Key;
use lifeboat::store::Store;

use crate::backup::read_back;
use crate::support::cloud::{Cloud, Conditions, Fault, Refusal, Verb};
use crate::support::listing;
use crate::support::place::Place;
use crate::support::repo::{fresh, later, noise, plant, reopen, request};
use crate::support::service::until;
use crate::support::shipped::{good, refused};
use crate::support::tcp_proxy::{Direction, TcpProxy};
use crate::support::told;

/// Saves twice, verifies, restores both.
pub fn there_and_back(place: &Place) {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let root = plant(home);
    let run = |arguments: &[&str]| good(place.lifeboat(home, arguments).env("LIFEBOAT_KEY", home.join("admin.key")));
    let made = good(&mut place.lifeboat(home, &["init", "--json", "--key-out", "admin.key"]));
    assert!(made.contains("multi-writer") || made.contains("single-writer"), "{made}");
    let saved: serde_json::Value = serde_json::from_str(&run(&["backup", "tree", "--json"])).unwrap();
    // At least a pack of each kind, a delta, the session's record twice, and the manifest.
    assert!(saved["requests"]["puts"].as_u64().is_some_and(|puts| puts >= 6), "{saved}");
    assert!(saved["requests"]["up_bytes"].as_u64() >= saved["stored_bytes"].as_u64(), "{saved}");
    let first = listing::of(&root);
    fs::write(root.join("docs/note-007.txt"), "changed").unwrap();
    fs::write(root.join("another"), noise(3 << 20, 9)).unwrap();
    fs::remove_file(root.join("empty")).unwrap();
    run(&["backup", "tree"]);
    let second = listing::of(&root);
    run(&["verify", "--level", "data"]);
    let snapshots: serde_json::Value = serde_json::from_str(&run(&["snapshots", "--json"])).unwrap();
    let ids: Vec<&str> = snapshots.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 2);
    for (id, expected) in ids.iter().zip([first, second]) {
        let from = format!("{id}:{}", root.canonicalize().unwrap().display());
        run(&["restore", &from, "--to", id]);
        assert_eq!(listing::of(&home.join(id)), expected);
    }
}

#[test]
fn a_tree_goes_to_moto_and_comes_back() {
    there_and_back(&Place::moto());
}

#[test]
fn a_tree_goes_to_azurite_and_comes_back() {
    there_and_back(&Place::azurite());
}

#[test]
fn a_tree_goes_to_gcs_and_comes_back() {
    let place = Place::gcs();
    there_and_back(&place);
    place.cloud().assert_every_fault_was_met();
}

#[test]
fn a_tree_goes_to_s3_on_a_bad_day_and_comes_back() {
    let place = Place::s3();
    let cloud = place.cloud();
    cloud.page_keys(3);
    for number in [2, 9, 15] {
        cloud.on(Verb::Put, number, Fault::LostAfter);
        cloud.on(Verb::Put, number + 2, Fault::Refused(Refusal::SlowDown));
        cloud.on(Verb::Get, number, Fault::CutBody(10));
        cloud.on(Verb::Get, number + 3, Fault::LostBefore);
        cloud.on(Verb::List, number, Fault::Refused(Refusal::InternalError));
    }
    there_and_back(&place);
    cloud.assert_every_fault_was_met();
}

#[test]
fn the_binary_names_what_is_wrong_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for (refusal, words) in [
        (Refusal::SignatureDoesNotMatch, "the secret key is wrong"),
        (Refusal::InvalidAccessKeyId, "does not know the access key"),
        (Refusal::RequestTimeTooSkewed, "clock is 3 hours ahead"),
        (Refusal::NoSuchBucket, "there is no bucket double"),
        (Refusal::PermanentRedirect("eu-west-1"), "the bucket is in the region eu-west-1"),
        (Refusal::QuotaExceeded, "no space left"),
    ] {
        let place = Place::s3();
        place.cloud().refuse(Verb::Any, refusal.clone());
        let output = place.lifeboat(dir.path(), &["init", "--key-out", "admin.key"]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{refusal:?}");
        assert!(said.contains(words) && said.contains("hint"), "{refusal:?}: {said}");
        assert!(!dir.path().join("admin.key").exists(), "{refusal:?}: a key without a repository");
    }
}

#[test]
fn a_bucket_without_conditions_is_used_by_one_writer_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::s3();
    place.cloud().conditions(Conditions::Ignored);
    let output = place.lifeboat(dir.path(), &["init", "--json", "--key-out", "admin.key"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(out.contains("\"single-writer\""), "{out}");
    assert!(err.contains("one writer at a time"), "{err}");
}

#[test]
fn a_key_that_may_not_write_reads() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let place = Place::s3();
    fs::create_dir(home.join("tree")).unwrap();
    fs::write(home.join("tree/file"), "text").unwrap();
    let with = |arguments: &[&str]| {
        let mut command = place.lifeboat(home, arguments);
        command.env("LIFEBOAT_KEY", home.join("admin.key"));
        command
    };
    good(&mut place.lifeboat(home, &["init", "--key-out", "admin.key"]));
    good(&mut with(&["backup", "tree"]));
    place.cloud().refuse(Verb::Write, Refusal::AccessDenied);
    good(&mut with(&["verify", "--level", "data"]));
    good(&mut with(&["snapshots"]));
    let writes = place.cloud().count(Verb::Write);
    good(&mut with(&["restore", "latest:", "--to", "out"]));
    assert_eq!(place.cloud().count(Verb::Write), writes, "whoever only reads never tries to write");
    refused(&mut with(&["backup", "tree"]), 6);
}

/// A repository on a double of S3, and a tree beside it.
struct House {
    dir: tempfile::TempDir,
    cloud: Cloud,
    store: Arc<dyn Store>,
    key: String,
}

impl House {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..5 {
            fs::write(dir.path().join(format!("file-{n}")), noise(20_000 + n, n as u64)).unwrap();
        }
        let cloud = Cloud::s3();
        let store = Place::on_s3(&cloud).open();
        let (_, key) = fresh(store.clone());
        Self { dir, cloud, store, key }
    }

    fn backup(&self) -> Result<(), Box<dyn Error>> {
        let repository = Repository::open(self.store.clone(), Key::from_text(&self.key)?)?;
        backup::run(&repository, &later(), &request(self.dir.path()), &Control::default())?;
        Ok(())
    }

    /// How many snapshots a host sees that knows nothing yet. Each byte of the newest is compared.
    fn snapshots(&self) -> usize {
        let repository = reopen(Place::on_s3(&self.cloud).open(), &self.key);
        let snapshots = Snapshots::list(&repository).unwrap().readable.len();
        if snapshots > 0 {
            let files = read_back(&repository).into_iter().filter(|(_, bytes)| !bytes.is_empty());
            let sizes: Vec<Vec<u8>> = files.map(|(_, bytes)| bytes).collect();
            let expected: Vec<Vec<u8>> = (0..5).map(|n| noise(20_000 + n, n as u64)).collect();
            assert!(sizes == expected, "what came back is not what was saved");
        }
        snapshots
    }
}

#[test]
fn a_backup_outlives_a_fault_at_every_write() {
    let faults = [
        Fault::LostAfter,
        Fault::LostBefore,
        Fault::Refused(Refusal::SlowDown),
        Fault::DoneThenRefused(Refusal::InternalError),
        Fault::Conflict,
    ];
    for fault in faults {
        let mut met = 0;
        for number in 1.. {
            let house = House::new();
            house.cloud.on(Verb::Write, number, fault.clone());
            house.backup().unwrap();
            assert_eq!(house.snapshots(), 1, "{fault:?} at {number}");
            if !house.cloud.has_met_every_fault() {
                break;
            }
            met += 1;
        }
        assert!(met >= 5, "{fault:?} met {met} writes");
    }
}

#[test]
fn a_backup_outlives_a_lost_answer_at_every_request() {
    let mut met = 0;
    for number in 1.. {
        let house = House::new();
        house.cloud.on(Verb::Any, number, Fault::LostAfter);
        house.backup().unwrap();
        assert_eq!(house.snapshots(), 1, "at {number}");
        // Reading back asks as well.
        if !house.cloud.has_met_every_fault() || number > 40 {
            break;
        }
        met += 1;
    }
    assert!(met >= 10, "{met} requests");
}

#[test]
fn a_backup_that_is_refused_from_some_request_on_is_whole_or_not_there() {
    for (verb, refusal, words) in [
        (Verb::Any, Refusal::ExpiredToken, "the credentials have expired"),
        (Verb::Write, Refusal::QuotaExceeded, "no space left"),
        (Verb::Write, Refusal::InsufficientStorage, "no space left"),
        (Verb::Write, Refusal::AccessDenied, "the store does not allow it"),
    ] {
        let (mut refused, mut absent) = (0, 0);
        for number in 1.. {
            let house = House::new();
            house.cloud.refuse_from(verb, number, refusal.clone());
            let result = house.backup();
            house.cloud.refuse(verb, None);
            match result {
                Ok(()) => {
                    assert_eq!(house.snapshots(), 1);
                    break;
                }
                Err(error) => {
                    refused += 1;
                    let said = told(&*error);
                    assert!(said.contains(words), "{refusal:?} from {number}: {said}");
                    // After the commit the run looks once more whether it counts, and says that it cannot know.
                    let left = house.snapshots();
                    assert!(left <= 1, "{refusal:?} from {number}: {left} snapshots");
                    absent += usize::from(left == 0);
                    house.backup().unwrap();
                    assert_eq!(house.snapshots(), left + 1, "{refusal:?} from {number}: the next run");
                }
            }
        }
        assert!(absent >= 3 && absent + 3 >= refused, "{refusal:?}: {refused} refused, {absent} without a snapshot");
    }
}

#[test]
fn a_backup_outlives_an_outage_and_a_narrow_line() {
    let house = House::new();
    let line = TcpProxy::to(house.cloud.address());
    line.bytes_per_second(400_000);
    line.latency(Duration::from_millis(2), Duration::from_millis(2));
    let place = Place::on_s3(&house.cloud).by(&line.url());
    let house = House { store: place.open(), ..house };
    std::thread::scope(|scope| {
        let backup = scope.spawn(|| house.backup().unwrap());
        // Down when the first bytes of packs are on their way, up again a second later.
        until("the first bytes", || (line.bytes(Direction::ToServer) > 20_000).then_some(()));
        line.go_down();
        std::thread::sleep(Duration::from_secs(1));
        line.come_up();
        backup.join().unwrap();
    });
    assert_eq!(house.snapshots(), 1);
}
