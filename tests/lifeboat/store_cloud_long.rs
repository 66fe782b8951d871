//! Clusters: Ceph, which keeps the promise of creating once, and Garage, which does not. Each test is ignored unless `scripts/test --long` runs it
//! below its cluster; Ceph also passes the contract of every store (`store_contract`).

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lifeboat::store::Store;
use lifeboat::store::probe::{StoreMode, probe};
use rustix::process::{Pid, Signal, kill_process};

use crate::store_cloud_whole::there_and_back;
use crate::support::place::Place;
use crate::support::repo::noise;
use crate::support::shipped::good;
use crate::support::{listing, servers};

#[test]
#[ignore = "needs a Ceph cluster: scripts/test --long"]
fn on_ceph_a_tree_comes_back_when_a_third_of_the_cluster_is_gone() {
    let place = Place::on(&servers::ceph());
    assert_eq!(probe(&*place.open()).unwrap().mode, StoreMode::MultiWriter);
    there_and_back(&place);
    pruned_while_a_third_hangs(&Place::on(&servers::ceph()), "LIFEBOAT_TEST_CEPH_THIRD", true);
    end("LIFEBOAT_TEST_CEPH_THIRD");
    there_and_back(&Place::on(&servers::ceph()));
    assert_eq!(probe(&*place.open()).unwrap().mode, StoreMode::MultiWriter);
}

#[test]
#[ignore = "needs a Garage cluster: scripts/test --long"]
fn on_garage_a_tree_comes_back_and_one_writer_is_allowed() {
    let place = Place::on(&servers::garage());
    let StoreMode::SingleWriter { reason } = probe(&*place.open()).unwrap().mode else {
        panic!("Garage knows no conditions")
    };
    assert!(reason.contains("accepts a create over an object that exists"), "{reason}");
    assert_eq!(place.open().list("").unwrap(), [], "the probe takes its objects along");
    there_and_back(&place);
    pruned_while_a_third_hangs(&Place::on(&servers::garage()), "LIFEBOAT_TEST_GARAGE_THIRD", false);
    end("LIFEBOAT_TEST_GARAGE_THIRD");
    there_and_back(&Place::on(&servers::garage()));
}

/// Backups and prunes, `beside` each other or in turn, while a third of the cluster hangs and comes back again and again. What is kept restores.
fn pruned_while_a_third_hangs(place: &Place, variable: &str, beside: bool) {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let root = home.join("tree");
    fs::create_dir(&root).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = place.lifeboat(home, arguments);
        command.env("LIFEBOAT_KEY", home.join("admin.key"));
        command
    };
    let run = |arguments: &[&str]| good(&mut command(arguments));
    good(&mut place.lifeboat(home, &["init", "-q", "--key-out", "admin.key"]));
    let (over, mut saved) = (AtomicBool::new(false), BTreeMap::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for signal in [Signal::STOP, Signal::CONT] {
                    send(variable, signal);
                    std::thread::sleep(Duration::from_secs(7));
                }
            }
        });
        let mut pruning: Option<std::process::Child> = None;
        for round in 0..8 {
            for n in 0..12 {
                fs::write(root.join(format!("f{n}-{}", round % 3)), noise(400_000, round * 100 + n)).unwrap();
            }
            let report: serde_json::Value = serde_json::from_str(&run(&["backup", "tree", "--json"])).unwrap();
            saved.insert(report["id"].as_str().unwrap().to_owned(), listing::of(&root));
            if let Some(ended) = pruning.take().map(|mut child| child.wait().unwrap().code()) {
                // It may have had to wait for the backup.
                assert!(matches!(ended, Some(0 | 7 | 75)), "{ended:?}");
            }
            run(&["forget", "-q", "--keep-last", "2"]);
            pruning = Some(command(&["prune", "-q", "--undo-window", "0s", "--yes"]).spawn().unwrap());
            if !beside && let Some(mut child) = pruning.take() {
                assert_eq!(child.wait().unwrap().code(), Some(0));
            }
        }
        if let Some(mut child) = pruning {
            child.wait().unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    run(&["prune", "-q", "--undo-window", "0s", "--yes", "--wait", "5m"]);
    run(&["verify", "--level", "data"]);
    let snapshots: serde_json::Value = serde_json::from_str(&run(&["snapshots", "--json"])).unwrap();
    let kept: Vec<&str> = snapshots.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(kept.len(), 2);
    for id in kept {
        let from = format!("{id}:{}", root.canonicalize().unwrap().display());
        run(&["restore", &from, "--to", id]);
        assert_eq!(listing::of(&home.join(id)), saved[id]);
    }
}

/// Ends the process that this variable names, as a machine ends that loses power.
fn end(variable: &str) {
    send(variable, Signal::KILL);
}

fn send(variable: &str, signal: Signal) {
    let pid = std::env::var(variable).unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}
