//! The shipped daemon, end to end: schedules, requests, drills, signals, and what it says when something is wrong.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::repo::noise;
use crate::support::service::{Daemon, House, until};
use crate::support::shipped::{good, lifeboat};

const RUN: &str = "/v1/policies/hand/runs";
const DRILL: &str = "/v1/drills/hand/runs";

#[track_caller]
fn run(daemon: &Daemon, path: &str, token: &str, state: &str) -> Value {
    let run = daemon.run(path, token);
    assert_eq!(run["state"], state, "{run}");
    run
}

fn scratch_is_empty(house: &House) -> bool {
    fs::read_dir(house.path("cache/drills")).map_or(true, |mut entries| entries.next().is_none())
}

fn objects(below: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(objects(&path)) } else { all.push(path) }
    }
    all
}

#[test]
fn a_schedule_leaves_a_recovery_point_and_a_requested_drill_proves_it() {
    let house = House::new();
    house.policy("tick", "every 1s");
    let daemon = house.start();
    let token = house.token("drill");

    let point =
        until("a recovery point", || Some(daemon.policy("tick")["last_good_point"].clone()).filter(Value::is_object));
    let path = format!("/v1/runs/{}", point["run"].as_str().unwrap());
    let scheduled = daemon.get(&path, Some(&token)).body;
    assert_eq!((&scheduled["trigger"], &scheduled["state"]), (&json!("schedule"), &json!("succeeded")), "{scheduled}");
    assert_eq!((&scheduled["files"], &scheduled["snapshot"]), (&json!(20), &point["snapshot"]), "{scheduled}");

    assert_eq!(daemon.policy("hand")["state"], "waiting");
    let backup = run(&daemon, RUN, &token, "succeeded");
    assert_eq!((&backup["trigger"], &backup["recovery_point"]), (&json!("api"), &json!(true)), "{backup}");
    assert_eq!(daemon.policy("hand")["state"], "unproven");
    let drill = run(&daemon, DRILL, &token, "succeeded");
    assert_eq!((&drill["verdict"], &drill["drill"]["checked_files"]), (&json!("pass"), &json!(20)), "{drill}");
    assert!(scratch_is_empty(&house), "the scratch directory stays after a drill");
    let hand = daemon.policy("hand");
    assert_eq!((&hand["state"], &hand["level"]), (&json!("ok"), &json!("good")), "{hand}");

    // What the status calls a recovery point is one: it restores.
    let mut restore = lifeboat(&house.path(""), ["restore", "--to", "out", "--repo"]);
    restore.arg(house.path("repository")).arg("--key").arg(house.path("admin.key"));
    let snapshot = hand["last_good_point"]["snapshot"].as_str().unwrap();
    good(restore.arg(format!("{snapshot}:{}", house.path("source").display())));
    assert_eq!(fs::read(house.path("out/sub/file-7")).unwrap(), noise(3007, 7));

    assert_eq!(daemon.stop().code(), Some(0));
    assert!(!house.path("api.sock").exists(), "the socket stays");
}

#[test]
fn nobody_runs_anything_without_a_good_token_nor_from_a_foreign_page() {
    let house = House::new();
    let daemon = house.start();
    let (reader, runner) = (house.token("read"), house.token("run"));
    let refused = daemon.post(RUN, None, "{}");
    assert_eq!(refused.status, 401, "{refused:?}");
    assert!(refused.header("www-authenticate").is_some(), "{refused:?}");
    assert_eq!(daemon.post(RUN, Some("lb_wrong"), "{}").status, 401);
    assert_eq!(daemon.post(RUN, Some(&reader), "{}").status, 403);
    assert_eq!(daemon.post(DRILL, Some(&runner), "{}").status, 403);
    let ask = |headers: &[(&str, &str)], method, path| daemon.ask(method, path, Some(&runner), headers, "").status;
    for path in ["/v1/status", "/readyz", "/v1/runs"] {
        assert_eq!(ask(&[("Host", "evil.example")], "GET", path), 421, "{path}");
        assert_eq!(ask(&[("Origin", "http://evil.example")], "GET", path), 403, "{path}");
    }
    assert_eq!(ask(&[("Host", "evil.example")], "POST", RUN), 421);
    assert_eq!(ask(&[("Origin", "http://evil.example")], "POST", RUN), 403);
    assert_eq!(daemon.get("/v1/runs", Some(&reader)).body["runs"], json!([]), "something ran");
    run(&daemon, RUN, &runner, "succeeded");
}

#[test]
fn a_run_that_dies_with_the_daemon_is_interrupted_and_the_next_one_works() {
    let house = House::new();
    let mut daemon = house.start();
    let token = house.token("drill");
    // A run may end before the blow falls; then another one, with something new to store.
    let interrupted = (0..10).find_map(|round| {
        fs::write(house.path("source/large"), noise(64 << 20, round)).unwrap();
        let accepted = daemon.post(RUN, Some(&token), "{}");
        assert_eq!(accepted.status, 202, "{accepted:?}");
        let location = accepted.header("location").unwrap().to_owned();
        until("the run's begin", || {
            let run = daemon.get(&location, Some(&token)).body;
            (run["state"] != "queued").then_some(())
        });
        daemon.kill();
        daemon = house.start();
        let run = daemon.get(&location, Some(&token)).body;
        (run["state"] == "interrupted").then_some(run)
    });
    let interrupted = interrupted.expect("no run was met while it ran");
    assert_eq!(interrupted["recovery_point"], false, "{interrupted}");
    run(&daemon, RUN, &token, "succeeded");
    let drill = run(&daemon, DRILL, &token, "succeeded");
    assert_eq!(drill["verdict"], "pass", "{drill}");
    assert_eq!(daemon.policy("hand")["state"], "ok");
    let mut verify =
        lifeboat(&house.path(""), ["verify", "--level", "data", "--repo", "repository", "--key", "admin.key"]);
    good(&mut verify);
    assert!(objects(&house.path("repository/tmp")).is_empty(), "what the dead run left is swept");
}

#[test]
fn a_broken_configuration_changes_nothing_and_is_told() {
    let house = House::new();
    let daemon = house.start();
    let token = house.token("drill");
    let names = |status: &Value| -> Vec<String> {
        status["policies"].as_array().unwrap().iter().map(|policy| policy["id"].as_str().unwrap().to_owned()).collect()
    };
    house.policy("second", "@yearly");
    fs::write(house.path("etc/policies/broken.toml"), "[policy.broken]\nsource = 7\n").unwrap();
    daemon.signal(Signal::HUP);
    let status =
        until("the refusal", || Some(daemon.status()).filter(|status| status["config"]["rejected"].is_object()));
    assert_eq!(names(&status), ["hand"], "half of a configuration was taken");
    let problems = status["config"]["rejected"]["problems"].as_array().unwrap();
    assert!(problems.iter().any(|problem| problem.to_string().contains("broken.toml")), "{problems:?}");
    run(&daemon, RUN, &token, "succeeded");

    fs::remove_file(house.path("etc/policies/broken.toml")).unwrap();
    daemon.signal(Signal::HUP);
    let status = until("the new configuration", || {
        Some(daemon.status()).filter(|status| status["config"]["rejected"].is_null())
    });
    let mut found = names(&status);
    found.sort();
    assert_eq!(found, ["hand", "second"]);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn two_daemons_never_share_a_state_directory() {
    let house = House::new();
    let first = house.start();
    let token = house.token("drill");
    let (mut second, _) = house.spawn();
    let ended = until("the second daemon's refusal", || second.try_wait().unwrap());
    assert_eq!(ended.code(), Some(7));
    run(&first, RUN, &token, "succeeded");
    assert_eq!(first.stop().code(), Some(0));
    let third = house.start();
    assert!(third.policy("hand")["last_good_point"].is_object(), "what the first one did is remembered");
}

#[test]
fn a_damaged_pack_fails_the_drill_and_is_never_green() {
    let house = House::new();
    let daemon = house.start();
    let token = house.token("drill");
    run(&daemon, RUN, &token, "succeeded");
    run(&daemon, DRILL, &token, "succeeded");
    assert_eq!(daemon.policy("hand")["state"], "ok");

    let packs = objects(&house.path("repository/d"));
    assert!(!packs.is_empty());
    for pack in packs {
        let mut bytes = fs::read(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        // Stored objects may be read-only; a disk that rots asks nobody.
        fs::remove_file(&pack).unwrap();
        fs::write(&pack, bytes).unwrap();
    }
    let drill = run(&daemon, DRILL, &token, "failed");
    assert_eq!(drill["verdict"], "fail", "{drill}");
    assert!(scratch_is_empty(&house), "the scratch directory stays after a failed drill");
    let hand = daemon.policy("hand");
    assert_eq!((&hand["state"], &hand["level"]), (&json!("drill_failed"), &json!("bad")), "{hand}");
    assert_ne!(daemon.status()["recoverable"]["answer"], "yes");

    // A backup after that does not hide it, and neither does a restart.
    run(&daemon, RUN, &token, "succeeded");
    assert_eq!(daemon.policy("hand")["state"], "drill_failed");
    daemon.stop();
    assert_eq!(house.start().policy("hand")["state"], "drill_failed");
}

#[test]
fn a_vanished_source_fails_the_run_and_leaves_the_recovery_point() {
    let house = House::new();
    let daemon = house.start();
    let token = house.token("drill");
    run(&daemon, RUN, &token, "succeeded");
    run(&daemon, DRILL, &token, "succeeded");
    let before = daemon.policy("hand");
    fs::rename(house.path("source"), house.path("elsewhere")).unwrap();
    let failed = run(&daemon, RUN, &token, "failed");
    assert_eq!((&failed["error_class"], &failed["snapshot"]), (&json!("source"), &Value::Null), "{failed}");
    let after = daemon.policy("hand");
    assert_eq!((&after["state"], &after["level"]), (&json!("failing"), &json!("bad")), "{after}");
    assert_eq!(after["last_good_point"]["snapshot"], before["last_good_point"]["snapshot"]);
    assert_ne!(daemon.status()["recoverable"]["answer"], "yes");
    fs::rename(house.path("elsewhere"), house.path("source")).unwrap();
    run(&daemon, RUN, &token, "succeeded");
    assert_eq!(daemon.policy("hand")["state"], "ok");
}
