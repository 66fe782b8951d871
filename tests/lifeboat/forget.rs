//! Letting snapshots go from outside: rules over chosen times, names, holds, ways back; what others see of it; and what a bad mark does.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use jiff::Timestamp;
use lifeboat::backup::{self, Control, Request};
use lifeboat::clock::ManualClock;
use lifeboat::store::local::LocalStore;
use serde_json::Value;

use crate::cli::{Desk, Ended};
use crate::support::repo::{noise, reopen, request};

/// A snapshot that was made at `time`; its id.
fn saved(desk: &Desk, time: &str, policy: Option<&str>) -> String {
    let store = Arc::new(LocalStore::open(&desk.path("repository")).unwrap());
    let repository = reopen(store, &fs::read_to_string(desk.path("admin.key")).unwrap());
    let clock = ManualClock::at(time.parse::<Timestamp>().unwrap().as_second());
    let request = Request { policy: policy.map(str::to_owned), ..request(&desk.path("source")) };
    backup::run(&repository, &clock, &request, &Control::default()).unwrap().snapshot.to_string()
}

fn four(desk: &Desk) -> [String; 4] {
    ["2026-03-01T08:00:00Z", "2026-03-01T20:00:00Z", "2026-03-02T08:00:00Z", "2026-03-03T08:00:00Z"]
        .map(|time| saved(desk, time, None))
}

/// Every object, with its bytes.
fn objects(desk: &Desk) -> BTreeSet<(PathBuf, Vec<u8>)> {
    files(&desk.path("repository")).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Every file below, in order.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

/// Where a snapshot was committed: a session's id is a snapshot's with its halves changed over.
fn slot_of(desk: &Desk, id: &str) -> PathBuf {
    let session = format!("{}{}", &id[16..], &id[..16]);
    let slots = files(&desk.path("repository/s"));
    slots.into_iter().find(|slot| slot.to_str().unwrap().ends_with(&session)).unwrap()
}

fn bend(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|snapshot| snapshot["id"].as_str().unwrap()).collect()
}

fn listed(desk: &Desk) -> Vec<String> {
    ids(&desk.json(["snapshots", "--json"])).into_iter().map(str::to_owned).collect()
}

/// What a rule keeps, in a dry run.
fn kept(desk: &Desk, rules: &[&str]) -> Vec<String> {
    let document = desk.json([&["forget", "--dry-run", "--json", "--timezone", "UTC"], rules].concat());
    let rows = document["snapshots"].as_array().unwrap().iter();
    rows.filter(|row| row["action"] == "keep").map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_dry_run_says_what_the_run_does_and_changes_nothing() {
    let desk = Desk::with_repository();
    let [a, b, c, d] = four(&desk);
    let rules = ["forget", "--keep-daily", "2", "--timezone", "UTC"];
    let before = objects(&desk);
    let mut planned = desk.json([&rules[..], &["--dry-run", "--json"]].concat());
    let told = desk.good([&rules[..], &["--dry-run"]].concat());
    assert!(told.contains("would keep 2 snapshots and forget 2\n"), "{told}");
    assert_eq!(objects(&desk), before);
    let done = desk.json([&rules[..], &["--json"]].concat());
    assert_eq!((planned["dry_run"].take(), &done["dry_run"]), (true.into(), &false.into()));
    assert!(planned["freed_bytes"].take().is_u64() && done["freed_bytes"].is_null());
    planned["dry_run"] = false.into();
    assert_eq!(planned, done);
    let rows = |field: &str| -> Vec<Value> {
        done["snapshots"].as_array().unwrap().iter().map(|row| row[field].clone()).collect()
    };
    assert_eq!(ids(&done["snapshots"]), [&a, &b, &c, &d]);
    assert_eq!(rows("action"), ["forget", "forget", "keep", "keep"]);
    assert_eq!(rows("reasons")[2..], [serde_json::json!(["daily 2 of 2"]), serde_json::json!(["daily 1 of 2"])]);
    assert_eq!((&done["kept"], &done["forgotten"], &done["failed"]), (&2.into(), &2.into(), &0.into()));
    assert_eq!(listed(&desk), [c.clone(), d.clone()]);
    let all = desk.json(["snapshots", "--all", "--json"]);
    assert_eq!(ids(&all), [&a, &b, &c, &d]);
    assert_eq!((&all[0]["forgotten"], &all[0]["forgotten_reason"]), (&true.into(), &"not among --keep-daily 2".into()));
    assert!(all[2]["forgotten"].is_null());
    // Nothing is left to do, and nothing is done.
    let marks = objects(&desk);
    let again = desk.run(rules);
    assert_eq!((again.code, again.out.lines().last()), (0, Some("kept 2 snapshots, forgot 0")), "{again:?}");
    assert_eq!(objects(&desk), marks);
    assert_eq!(marks.len(), before.len() + 2);
}

#[test]
fn rules_count_periods_of_a_zone_from_the_newest_snapshot() {
    let desk = Desk::with_repository();
    let [a, b, c, d] = four(&desk);
    assert_eq!(kept(&desk, &["--keep-last", "1"]), std::slice::from_ref(&d));
    assert_eq!(kept(&desk, &["--keep-hourly", "3"]), [b.clone(), c.clone(), d.clone()]);
    assert_eq!(kept(&desk, &["--keep-monthly", "5"]), std::slice::from_ref(&d));
    // Monday 2026-03-02 begins a week.
    assert_eq!(kept(&desk, &["--keep-weekly", "5"]), [b.clone(), d.clone()]);
    assert_eq!(kept(&desk, &["--keep-within", "1d"]), [c.clone(), d.clone()]);
    assert_eq!(kept(&desk, &["--keep-within-daily", "1y"]), [b.clone(), c.clone(), d.clone()]);
    assert_eq!(kept(&desk, &["--keep-yearly", "1", "--keep-within", "36h"]), [b.clone(), c.clone(), d.clone()]);
    assert_eq!(kept(&desk, &["--keep-last", "0", "--keep-within-hourly", "9d"]), [a, b, c, d.clone()]);
    // 20:00 in London is 05:00 of the next day in Tokyo, and 08:00 there is 17:00 of that day.
    let tokyo = desk.json(["forget", "-n", "--json", "--keep-daily", "9", "--timezone", "Asia/Tokyo"]);
    assert_eq!((&tokyo["kept"], &tokyo["zone"]), (&3.into(), &"Asia/Tokyo".into()));
    // A rule of no least number: one that keeps no whole snapshot is meant.
    assert_eq!(desk.json(["forget", "-n", "--json", "--keep-last", "2"])["keep"], "--keep-last 2");
}

#[test]
fn each_policy_and_each_set_of_paths_is_a_group_of_its_own() {
    let desk = Desk::with_repository();
    let [web, mail, none, web_again] = [
        ("2026-03-01T08:00:00Z", Some("web")),
        ("2026-03-02T08:00:00Z", Some("mail")),
        ("2026-03-03T08:00:00Z", None),
        ("2026-03-04T08:00:00Z", Some("web")),
    ]
    .map(|(time, policy)| saved(&desk, time, policy));
    let kept_of_each: BTreeSet<String> = kept(&desk, &["--keep-last", "1"]).into_iter().collect();
    assert_eq!(kept_of_each, BTreeSet::from([mail.clone(), none.clone(), web_again.clone()]));
    let text = desk.good(["forget", "-n", "--keep-last", "1"]);
    assert!(text.contains("# policy web, writer admin: 2 snapshots, 1 to forget\n"), "{text}");
    let of_mail = desk.json(["forget", "--json", "--keep-last", "1", "--policy", "mail"]);
    assert_eq!(ids(&of_mail["snapshots"]), [&mail]);
    desk.good(["forget", "--keep-last", "1"]);
    assert_eq!(listed(&desk), [mail, none, web_again]);
    desk.good(["undelete", &web[..8]]);
    assert_eq!(listed(&desk).len(), 4);
}

#[test]
fn what_is_forgotten_is_hidden_comes_back_by_its_id_and_can_be_taken_back() {
    let desk = Desk::with_repository();
    let old = desk.backup();
    fs::write(desk.path("source/new"), noise(100_000, 1)).unwrap();
    let new = desk.backup();
    desk.run(["undelete", &new]).refused(7, "it is not forgotten");
    desk.good(["forget", &new[..8], "--reason", "saved by mistake"]);
    desk.run(["forget", &new]).refused_after_rows(7, "it is forgotten already");
    let hidden = desk.run(["snapshots"]);
    assert!(hidden.code == 0 && !hidden.out.contains(&new[..8]), "{hidden:?}");
    assert!(hidden.err.contains("1 snapshot is not shown: forgotten"), "{hidden:?}");
    let all = desk.good(["snapshots", "--all"]);
    assert!(all.contains("forgotten") && all.contains("saved by mistake"), "{all}");
    let ls = desk.run(["ls", "latest"]);
    assert!(ls.code == 0 && !ls.out.contains("/source/new"), "{ls:?}");
    assert_eq!(desk.good(["find", "new"]), "");
    let stats = desk.json(["stats", "--json"]);
    assert_eq!((&stats["snapshots"], &stats["forgotten_snapshots"]), (&2.into(), &1.into()));
    let place = format!("{new}:{}", desk.path("source").display());
    let restored = desk.run(["restore", &place, "--to", "out", "--verify"]);
    assert_eq!(restored.code, 0, "{restored:?}");
    assert!(restored.err.contains("is forgotten; `lifeboat undelete"), "{restored:?}");
    assert_eq!(fs::read(desk.path("out/new")).unwrap(), noise(100_000, 1));
    // A check covers it as long as it can come back.
    let checked = desk.json(["verify", "--level", "data", "--json"]);
    assert_eq!((&checked["sound"], &checked["snapshots"]), (&true.into(), &2.into()));
    assert!(checked["notes"][0].as_str().unwrap().ends_with("can be taken back: 1."), "{checked}");
    let back = desk.run(["undelete", &new[..8]]);
    assert!(back.code == 0 && back.out.starts_with(&new[..8]) && back.out.ends_with("taken back\n"), "{back:?}");
    assert_eq!(listed(&desk), [old, new]);
}

#[test]
fn a_backup_does_not_use_the_tree_of_what_is_forgotten() {
    let desk = Desk::with_repository();
    let (old, new) = (desk.backup(), desk.backup());
    desk.good(["forget", &new]);
    let third = desk.json(["backup", "source", "--json"]);
    assert_eq!((&third["parent"], &third["new_bytes"]), (&old.as_str().into(), &0.into()));
    desk.good(["forget", &old, third["id"].as_str().unwrap()]);
    let fourth = desk.json(["backup", "source", "--json"]);
    assert_eq!((&fourth["parent"], &fourth["files_read"]), (&Value::Null, &2.into()));
    assert_eq!(desk.json(["verify", "--level", "data", "--json"])["sound"], true);
    // All of them stand in one line, so that it shows if a forgotten one is gone.
    for id in [&old, &new, third["id"].as_str().unwrap()] {
        let slot = slot_of(&desk, id);
        fs::rename(&slot, desk.path("away")).unwrap();
        let told = desk.run(["verify"]);
        assert!(told.code == 13 && told.out.contains("a snapshot is lost or hidden"), "{told:?}");
        fs::rename(desk.path("away"), &slot).unwrap();
    }
}

#[test]
fn what_is_held_stays_whatever_is_asked_until_it_is_released() {
    let desk = Desk::with_repository();
    let [a, b, c, d] = four(&desk);
    desk.good(["hold", &a, &b, "--reason", "the audit"]);
    desk.run(["forget", &a]).refused_after_rows(7, "it is held: the audit");
    assert_eq!(kept(&desk, &["--keep-last", "1"]), [a.clone(), b.clone(), d.clone()]);
    let shown = desk.json(["snapshots", "--json"]);
    assert_eq!((&shown[0]["held"], &shown[0]["held_reason"]), (&true.into(), &"the audit".into()));
    assert!(shown[0]["held_until"].is_null() && shown[2]["held"].is_null());
    assert!(desk.good(["snapshots"]).contains("succeeded, held"));
    // One that is held keeps no other from being forgotten.
    let some = desk.run(["forget", &a, &c, "--json"]);
    assert_eq!(some.code, 7, "{some:?}");
    let document: Value = serde_json::from_str(&some.out).unwrap();
    assert_eq!((&document["forgotten"], &document["failed"]), (&1.into(), &1.into()));
    desk.good(["hold", "--release", &a]);
    desk.run(["hold", "--release", &a]).refused(7, "it is not held");
    desk.good(["forget", "--keep-last", "1"]);
    assert_eq!(listed(&desk), [b.clone(), d.clone()]);
    desk.run(["hold", &a, "--reason", "late"]).refused(7, "it is forgotten already");
    // A hold that ends ends by itself; the newer one counts.
    desk.good(["hold", "latest", "--reason", "until the year after next", "--for", "2y"]);
    let until = desk.json(["snapshots", "--json"])[1]["held_until"].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(until > Timestamp::now());
    for (arguments, sentence) in [
        (&["hold", &b, "--reason", "x", "--until", "2020-01-01"][..], "would end in the past"),
        (&["hold", &b, "--reason", "x", "--until", "soon"], "is no time"),
        (&["hold", &b, "--reason", " "], "the reason is empty"),
        (&["hold", &b, "--reason", &"x".repeat(1001)], "longer than 1000 bytes"),
        (&["hold", &b], "--reason"),
        (&["hold", "--release", &b, "--reason", "x"], "cannot be used with"),
        (&["hold", &b, "--reason", "x", "--for", "2d", "--until", "2090-01-01"], "cannot be used with"),
        (&["hold", &b, "--reason", "x", "--for", "0d"], "is no age"),
    ] {
        desk.run(arguments).refused(2, sentence);
    }
}

#[test]
fn what_says_nothing_or_too_much_is_refused() {
    let desk = Desk::with_repository();
    let id = desk.backup();
    for (arguments, sentence) in [
        (&["forget"][..], "nothing says what is to be forgotten"),
        (&["forget", &id, "--keep-last", "1"], "two ways"),
        (&["forget", "--keep-last", "0"], "every snapshot would go"),
        (&["forget", "--keep-last", "0", "--keep-daily", "0"], "every snapshot would go"),
        (&["forget", "latest"], "`latest` is another snapshot"),
        (&["undelete", "latest"], "`latest` is another snapshot"),
        (&["forget", &id, "--policy", "web"], "an id needs none"),
        (&["forget", &id, "--timezone", "UTC"], "an id needs none"),
        (&["forget", "--keep-last", "1", "--timezone", "Nowhere/Land"], "no time zone"),
        (&["forget", "--keep-last=-1"], "--keep-last"),
        (&["forget", "--keep-within", "soon"], "is no age"),
        (&["forget", &id, "--reason", ""], "the reason is empty"),
        (&["undelete"], "SNAPSHOT"),
        (&["hold", "--reason", "x"], "SNAPSHOT"),
    ] {
        desk.run(arguments).refused(2, sentence);
    }
    // A slip in one of several names: nothing happens.
    desk.run(["forget", &id, "ffffffff"]).refused(4, "no snapshot is named ffffffff");
    assert_eq!(listed(&desk), [id]);
}

#[test]
fn only_an_admin_decides() {
    let desk = Desk::with_repository();
    let id = desk.backup();
    for role in ["writer", "reader"] {
        desk.good(["key", "export", "--role", role, "--out", role]);
        for arguments in [
            &["forget", &id][..],
            &["forget", "--keep-last", "1", "--dry-run"],
            &["undelete", &id],
            &["hold", &id, "--reason", "x"],
            &["hold", "--release", &id],
        ] {
            desk.run([arguments, &["--key", role]].concat())
                .refused(6, &format!("needs an admin key, and this one is a {role} key"));
        }
        // What others see of it: their readers hide it too.
        desk.good(["forget", &id]);
        assert_eq!(desk.json(["snapshots", "--json", "--key", role]).as_array().unwrap().len(), 0);
        desk.good(["undelete", &id]);
    }
}

#[test]
fn two_who_forget_at_once_forget_everything_once() {
    let desk = Desk::with_repository();
    let saved: Vec<String> = (1..=12).map(|day| saved(&desk, &format!("2026-03-{day:02}T08:00:00Z"), None)).collect();
    let start = || {
        let mut command = desk.command(["forget", "--keep-last", "1"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let both = [start(), start()].map(|child| Ended::of(child.wait_with_output().unwrap()));
    assert!(both.iter().all(|ended| ended.code == 0), "{both:?}");
    assert_eq!(listed(&desk), saved[11..]);
    assert_eq!(files(&desk.path("repository/t")).len(), 11, "one mark each");
    assert_eq!(desk.json(["verify", "--json"])["sound"], true);
}

#[test]
fn a_mark_that_is_damaged_or_missing_forgets_nothing_and_is_named() {
    let desk = Desk::with_repository();
    let (a, b) = (desk.backup(), desk.backup());
    desk.good(["forget", &a]);
    desk.good(["undelete", &a]);
    desk.good(["forget", &a]);
    assert_eq!(listed(&desk), std::slice::from_ref(&b));
    let marks = files(&desk.path("repository/t"));
    let name = |mark: &Path| format!("t/{}", mark.file_name().unwrap().to_str().unwrap());
    let good = fs::read(&marks[2]).unwrap();
    bend(&marks[2]);
    let told = |named: &Path| {
        let shown = desk.run(["snapshots"]);
        assert!(shown.code == 0 && shown.out.contains(&a[..8]), "{shown:?}");
        assert!(shown.err.contains(&format!("what was decided of snapshot {}", &a[..8])), "{shown:?}");
        let checked = desk.run(["verify", "--json"]);
        assert_eq!(checked.code, 13, "{checked:?}");
        let finding = serde_json::from_str::<Value>(&checked.out).unwrap()["findings"][0].clone();
        assert_eq!((&finding["object"], &finding["severity"]), (&name(named).into(), &"damage".into()));
        assert!(finding["what"].as_str().unwrap().ends_with("so its snapshot counts as kept"), "{finding}");
        assert_eq!(finding["snapshots"], serde_json::json!([a]));
        let rules = desk.json(["forget", "--keep-last", "1", "--json"]);
        assert_eq!(
            rules["snapshots"][0]["reasons"],
            serde_json::json!(["what was decided of it before cannot be read"])
        );
        assert_eq!(desk.run(["forget", &a]).code, 13);
        assert_eq!(desk.run(["doctor"]).code, 13);
    };
    told(&marks[2]);
    fs::write(&marks[2], &good).unwrap();
    assert_eq!(listed(&desk), [b]);
    fs::rename(&marks[1], desk.path("away")).unwrap();
    told(&marks[1]);
}

#[test]
fn what_cannot_be_read_is_touched_by_no_rule_and_can_be_forgotten_by_its_id() {
    let desk = Desk::with_repository();
    let (lost, _, new) = (desk.backup(), desk.backup(), desk.backup());
    bend(&slot_of(&desk, &lost));
    let plan = desk.run(["forget", "--keep-last", "1", "--dry-run", "--json"]);
    assert_eq!(plan.code, 13, "{plan:?}");
    let document: Value = serde_json::from_str(&plan.out).unwrap();
    assert_eq!((&document["freed_bytes"], &document["forgotten"]), (&Value::Null, &1.into()));
    assert_eq!(document["unreadable"], serde_json::json!([lost]));
    assert_eq!(desk.run(["forget", "--keep-last", "1"]).code, 13);
    let seen = desk.run(["snapshots", "--json"]);
    assert_eq!((seen.code, ids(&serde_json::from_str(&seen.out).unwrap())), (13, vec![&new[..]]));
    desk.good(["forget", &lost[..8]]);
    assert_eq!(listed(&desk), [new]);
    assert_eq!(desk.run(["snapshots", "--all"]).code, 13);
}

#[test]
fn a_dry_run_tells_what_only_the_forgotten_need() {
    let desk = Desk::with_repository();
    fs::write(desk.path("source/first"), noise(1_000_000, 1)).unwrap();
    saved(&desk, "2026-03-01T08:00:00Z", None);
    fs::remove_file(desk.path("source/first")).unwrap();
    fs::write(desk.path("source/second"), noise(500_000, 2)).unwrap();
    let second = saved(&desk, "2026-03-02T08:00:00Z", None);
    fs::remove_file(desk.path("source/second")).unwrap();
    saved(&desk, "2026-03-03T08:00:00Z", None);
    let freed = |rules: [&str; 2]| {
        let document = desk.json(["forget", "-n", "--json", rules[0], rules[1]]);
        document["freed_bytes"].as_u64().unwrap()
    };
    let (one, two) = (freed(["--keep-last", "2"]), freed(["--keep-last", "1"]));
    assert!((1_000_000..1_010_000).contains(&one) && (1_500_000..1_510_000).contains(&two), "{one} {two}");
    assert_eq!(freed(["--keep-last", "3"]), 0);
    // What is forgotten already goes with it.
    desk.good(["forget", &second]);
    assert!((1_500_000..1_510_000).contains(&freed(["--keep-last", "1"])));
    let stats = desk.json(["stats", "--by", "policy", "--json"]);
    let [of_none, forgotten] = &stats["shares"].as_array().unwrap()[..] else { panic!("{stats}") };
    assert_eq!((&of_none["name"], &of_none["snapshots"]), (&"(none)".into(), &2.into()));
    assert_eq!((&forgotten["name"], &forgotten["id"]), (&"(forgotten)".into(), &Value::Null));
    assert!((500_000..510_000).contains(&forgotten["unique_stored_bytes"].as_u64().unwrap()), "{stats}");
}

impl Ended {
    /// Ended with `code` and told `sentence`, after the rows.
    #[track_caller]
    fn refused_after_rows(&self, code: i32, sentence: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(sentence) && self.err.contains("error: "), "{self:?}");
        assert!(self.out.contains("failed"), "{self:?}");
    }
}
