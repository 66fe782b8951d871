//! What `--json` prints where something is looked for, compared and counted, and where buckets are saved and restored: as `src/cli/JSON.md` says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::cli::{Desk, Ended};
use crate::json_documents::{OF_LEVELS, all_met, check, good, talk};
use crate::support::cloud::BUCKET;
use crate::support::place::Place;

/// What a snapshot does not have that nothing was decided of, and whose writer is in force.
const OF_DECISIONS: [&str; 8] = [
    "[].revoked",
    "[].forgotten",
    "[].forgotten_at",
    "[].forgotten_reason",
    "[].expired",
    "[].held",
    "[].held_reason",
    "[].held_until",
];

/// Runs it with `--json`; standard error must be JSON too.
fn run(desk: &Desk, arguments: &[&str]) -> Ended {
    let ended = desk.run(arguments.iter().copied().chain(["--json"]));
    talk(&ended);
    ended
}

/// Two snapshots between which everything happened that `diff` has a word for; their ids.
fn two(desk: &Desk) -> [String; 2] {
    let at = |name: &str| desk.path("source").join(name);
    let save = |tag: &str| {
        let saved = good("backup", &run(desk, &["backup", "source", "--policy", "web", "--tag", tag]), &OF_LEVELS);
        saved["id"].as_str().unwrap().to_owned()
    };
    std::os::unix::fs::symlink("a.txt", at("link")).unwrap();
    fs::write(at("gone"), "gone").unwrap();
    fs::write(at("other"), "file").unwrap();
    fs::write(at("bytes"), b"\0one").unwrap();
    let first = save("one");
    fs::write(at("a.txt"), "hello again").unwrap();
    fs::write(at("bytes"), b"\0two").unwrap();
    fs::set_permissions(at("sub/b.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(at("gone")).unwrap();
    fs::remove_file(at("other")).unwrap();
    fs::create_dir(at("other")).unwrap();
    fs::write(at("other/b.txt"), "came").unwrap();
    [first, save("two")]
}

#[test]
fn snapshots_are_printed_as_the_page_says_to_whoever_may_read_them_and_to_others() {
    let desk = Desk::with_repository();
    two(&desk);
    let list = good("snapshots", &run(&desk, &["snapshots"]), &OF_DECISIONS);
    assert!(list[0]["host"].is_string() && list[0]["new_bytes"].as_u64() > Some(0), "{list}");
    let web = good("key export", &run(&desk, &["key", "export", "--role", "writer", "--out", "web.key"]), &[]);
    good("backup", &run(&desk, &["backup", "source", "--key", "web.key"]), &OF_LEVELS);
    let seen = good("snapshots", &run(&desk, &["snapshots", "--key", "web.key"]), &OF_DECISIONS);
    assert!(seen[0]["host"].is_null() && seen[0]["writer_name"].is_string() && seen[2]["host"].is_string(), "{seen}");
    good("key remove", &run(&desk, &["key", "remove", web["writer"].as_str().unwrap()]), &["slots_left"]);
    // One that comes after the revocation does not count; its writer cannot know.
    let all = good("snapshots", &run(&desk, &["snapshots", "--all"]), &OF_DECISIONS);
    assert_eq!(all.as_array().unwrap().len(), 3, "{all}");
}

#[test]
fn what_is_decided_of_snapshots_is_printed_as_the_page_says() {
    let desk = Desk::with_repository();
    let [first, second] = two(&desk);
    let planned = good("forget", &run(&desk, &["forget", "--keep-last", "1", "--dry-run"]), &[]);
    assert!(planned["freed_bytes"].as_u64() > Some(0), "{planned}");
    good("forget", &run(&desk, &["forget", "--keep-last", "1"]), &[]);
    good("undelete", &run(&desk, &["undelete", &first]), &[]);
    // It tells of `hold` too.
    good("undelete", &run(&desk, &["hold", &second, "--reason", "an audit", "--for", "1d"]), &[]);
    let held = run(&desk, &["forget", &first, &second]);
    assert_eq!(held.code, 7, "{held:?}");
    let document = check("forget", &held.out, &mut BTreeSet::new());
    assert_eq!((&document["snapshots"][1]["action"], &document["keep"]), (&"failed".into(), &Value::Null));
    assert!(document["snapshots"][1]["error"].is_string() && document["snapshots"][0]["error"].is_null(), "{document}");
    let all = good("snapshots", &run(&desk, &["snapshots", "--all"]), &["[].revoked", "[].expired"]);
    assert_eq!((&all[0]["forgotten"], &all[1]["held"]), (&true.into(), &true.into()));
    let late = run(&desk, &["undelete", &first, &second]);
    assert_eq!(late.code, 7, "{late:?}");
    assert_eq!(check("undelete", &late.out, &mut BTreeSet::new())["snapshots"][1]["done"], false);
}

#[test]
fn finding_and_comparing_print_what_the_page_says() {
    let desk = Desk::with_repository();
    let [first, second] = two(&desk);
    let at = |snapshot: &str, name: &str| format!("{snapshot}:{}", desk.path("source").join(name).display());
    let found = good("find", &run(&desk, &["find", "*"]), &["[].versions[].device"]);
    assert!(found.as_array().unwrap().iter().any(|one| one["versions"].as_array().unwrap().len() == 2), "{found}");
    assert_eq!(check("find", &run(&desk, &["find", "nowhere"]).out, &mut BTreeSet::new()), Value::Array(vec![]));
    let diff = good("diff", &run(&desk, &["diff", &first, &second]), &["changes[].relative_path"]);
    let words: BTreeSet<&str> =
        diff["changes"].as_array().unwrap().iter().map(|change| change["change"].as_str().unwrap()).collect();
    assert_eq!(words, BTreeSet::from(["added", "removed", "modified", "metadata", "type"]), "{diff}");
    assert_eq!((&diff["old_path"], diff["new"].as_str()), (&"/".into(), Some(&second[..])));
    let within = good("diff", &run(&desk, &["diff", &at(&first, "sub"), &at(&second, "other")]), &[]);
    assert_eq!(within["changes"][1]["relative_path"], "b.txt", "{within}");
    check("diff", &run(&desk, &["diff", &first, &second, "--summary"]).out, &mut BTreeSet::new());
    for (name, content, sizes) in [
        ("a.txt", "text", (Some(5), Some(11))),
        ("bytes", "binary", (Some(4), Some(4))),
        ("sub/b.txt", "same", (Some(5), Some(5))),
        ("gone", "text", (Some(4), None)),
    ] {
        let path = desk.path("source").join(name);
        let ended = run(&desk, &["diff", &first, &second, "--content", path.to_str().unwrap()]);
        let diff = good("diff --content", &ended, &[]);
        assert_eq!((&diff["content"], &diff["old"]), (&content.into(), &first.as_str().into()), "{name}");
        assert_eq!((diff["old_size"].as_u64(), diff["new_size"].as_u64()), sizes, "{name}");
        assert_eq!(diff["new_path"].is_null(), sizes.1.is_none(), "{name}");
        assert_eq!(diff["lines"].is_string(), content == "text", "{name}");
        assert_eq!(diff["first_difference"].is_u64(), content == "binary", "{name}");
    }
    good("diff --content", &run(&desk, &["diff", &at(&first, "gone"), &at(&second, "bytes")]), &[]);
}

#[test]
fn what_is_written_into_files_is_told_as_the_page_says() {
    let desk = Desk::with_repository();
    let [_, id] = two(&desk);
    let at = |name: &str| format!("{id}:{}", desk.path("source").join(name).display());
    let file = good("dump --to", &run(&desk, &["dump", &at("a.txt"), "--to", "a"]), &[]);
    assert_eq!((&file["bytes"], &file["archive"], &file["entries"]), (&11.into(), &Value::Null, &Value::Null));
    let all = good("dump --to", &run(&desk, &["dump", &at("other"), "--archive", "tar", "--to", "all.tar"]), &[]);
    assert_eq!((&all["archive"], &all["entries"]), (&"tar".into(), &2.into()));
    good("man --out", &run(&desk, &["man", "--out", "pages"]), &[]);
}

#[test]
fn sums_are_printed_as_the_page_says() {
    let desk = Desk::with_repository();
    let with_by = ["by", "shares", "unheld_bytes", "unheld_stored_bytes"];
    let of_shares = ["name", "id", "snapshots", "files", "logical_bytes"].map(|field| format!("shares[].{field}"));
    let of_bytes = ["different_bytes", "unique_bytes", "unique_stored_bytes", "stored_share_bytes"];
    let of_bytes = of_bytes.map(|field| format!("shares[].{field}"));
    let without: Vec<&str> = of_shares.iter().chain(&of_bytes).map(String::as_str).chain(with_by).collect();
    let empty = good("stats", &run(&desk, &["stats"]), &without);
    assert_eq!((&empty["dedup_ratio"], &empty["files"]), (&Value::Null, &0.into()));
    two(&desk);
    good("backup", &run(&desk, &["backup", "source"]), &OF_LEVELS);
    good("stats", &run(&desk, &["stats"]), &without);
    for by in ["policy", "writer", "host", "snapshot"] {
        let stats = good("stats", &run(&desk, &["stats", "--by", by]), &[]);
        assert_eq!(stats["by"], by);
        let unnamed = stats["shares"].as_array().unwrap().iter().filter(|share| share["id"].is_null()).count();
        assert_eq!(unnamed, usize::from(by == "policy"), "{stats}");
    }
    // A host that has not written there.
    let stranger = Ended::of(desk.command(["stats", "--json"]).env("HOME", desk.path("source")).output().unwrap());
    assert_eq!(good("stats", &stranger, &without)["store_mode"], Value::Null);
}

#[test]
fn the_doctor_prints_what_the_page_says_whether_or_not_all_is_well() {
    let desk = Desk::with_repository();
    desk.backup();
    let well = good("doctor", &run(&desk, &["doctor"]), &[]);
    assert_eq!((&well["healthy"], &well["store_mode"]), (&true.into(), &"multi-writer".into()));
    let page = include_str!("../../src/cli/JSON.md");
    let row = page.lines().find(|line| line.starts_with("| `checks[].check`")).unwrap();
    let known: Vec<&str> = row.split('`').skip(3).step_by(2).collect();
    for check in well["checks"].as_array().unwrap() {
        assert!(known.contains(&check["check"].as_str().unwrap()), "{check}");
    }
    let ill = run(&desk, &["doctor", "--repo", "nowhere"]);
    assert_eq!(ill.code, 10, "{ill:?}");
    let mut met = BTreeSet::new();
    let document = check("doctor", &ill.out, &mut met);
    all_met("doctor", &met, &[]);
    assert_eq!((&document["healthy"], &document["store_mode"]), (&false.into(), &Value::Null));
}

#[test]
fn buckets_are_saved_and_restored_into_with_the_same_documents() {
    let desk = Desk::with_repository();
    desk.backup();
    let place = Place::s3();
    let run = |arguments: &[&str]| {
        let environment = place.environment.iter().map(|(name, value)| (*name, value));
        let ended = Ended::of(desk.command([arguments, &["--json"]].concat()).envs(environment).output().unwrap());
        talk(&ended);
        ended
    };
    let bucket = format!("s3://{BUCKET}/copy");
    let planned = good("restore --dry-run", &run(&["restore", "latest", "--to", &bucket, "--dry-run"]), &[]);
    let restored = good("restore", &run(&["restore", "latest", "--to", &bucket]), &[]);
    assert_eq!((&planned["to"], &restored["to"]), (&bucket.as_str().into(), &bucket.as_str().into()));
    assert_eq!((&planned["files"], &restored["files"]), (&2.into(), &2.into()));
    let saved = good("backup", &run(&["backup", &bucket]), &OF_LEVELS);
    assert_eq!((&saved["files"], &saved["bytes"]), (&2.into(), &10.into()));
    let listed = good("ls", &run(&["ls", "latest"]), &["[].target", "[].device"]);
    assert!(listed.as_array().unwrap().len() >= 2, "{listed}");
    let snapshots = good("snapshots", &run(&["snapshots"]), &OF_DECISIONS);
    assert_eq!(snapshots[1]["paths"], serde_json::json!([format!("/s3:/{BUCKET}/copy")]));
    let out = good("restore", &run(&["restore", "latest", "--to", "out"]), &[]);
    assert_eq!((&out["files"], &out["renamed_count"]), (&2.into(), &0.into()));
}

#[test]
fn what_a_prune_did_is_printed_as_the_page_says() {
    let desk = Desk::with_repository();
    let [first, _] = two(&desk);
    good("forget", &run(&desk, &["forget", &first]), &[]);
    let waiting = ["waiting[].writer", "waiting[].session", "waiting[].heard"];
    let done = good("prune", &run(&desk, &["prune", "--undo-window", "0s", "--yes"]), &waiting);
    assert_eq!((&done["finished"], &done["expired"][0]), (&true.into(), &first.into()));
}
