//! Clusters: Ceph, which keeps the promise of creating once, and Garage, which does not. Each test is ignored unless `scripts/test --long` runs it
//! below its cluster; Ceph also passes the contract of every store (`store_contract`).

use lifeboat::store::Store;
use lifeboat::store::probe::{StoreMode, probe};
use rustix::process::{Pid, Signal, kill_process};

use crate::store_cloud_whole::there_and_back;
use crate::support::place::Place;
use crate::support::servers;

#[test]
#[ignore = "needs a Ceph cluster: scripts/test --long"]
fn on_ceph_a_tree_comes_back_when_a_third_of_the_cluster_is_gone() {
    let place = Place::on(&servers::ceph());
    assert_eq!(probe(&*place.open()).unwrap().mode, StoreMode::MultiWriter);
    there_and_back(&place);
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
    end("LIFEBOAT_TEST_GARAGE_THIRD");
    there_and_back(&Place::on(&servers::garage()));
}

/// Ends the process that this variable names, as a machine ends that loses power.
fn end(variable: &str) {
    let pid = std::env::var(variable).unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}
