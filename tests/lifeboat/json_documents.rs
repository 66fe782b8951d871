//! What `--json` prints is what `src/cli/JSON.md` says, in both directions: its tables are read here.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::cli::{Desk, Ended, configure, secret};
use crate::support::repo::noise;

const PAGE: &str = include_str!("../../src/cli/JSON.md");

/// What a backup that compressed nothing does not have.
pub const OF_LEVELS: [&str; 2] = ["compression.levels[].level", "compression.levels[].bytes"];

/// Field and type, as a section of the page has them.
type Fields = BTreeMap<String, String>;

fn section(name: &str) -> Fields {
    let heading = format!("\n## {name}\n");
    let start = PAGE.find(&heading).unwrap_or_else(|| panic!("JSON.md has no section {name}")) + heading.len();
    let text = &PAGE[start..];
    let text = &text[..text.find("\n## ").unwrap_or(text.len())];
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let fields: Fields = rows
        .map(|row| {
            let (field, rest) = row.split_once("` | ").unwrap();
            (field.to_owned(), rest.split(" | ").next().unwrap().to_owned())
        })
        .collect();
    assert!(!fields.is_empty(), "{name} has no table");
    fields
}

/// What `entry` stands for: the fields of `ls`, except `path`.
fn entry() -> Fields {
    let fields = section("ls").into_iter().map(|(field, kind)| (field["[].".len()..].to_owned(), kind));
    fields.filter(|(field, _)| field != "path").collect()
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.ends_with('Z') && text.parse::<jiff::Timestamp>().is_ok())
}

fn is_of(kind: &str, value: &Value) -> bool {
    if let Some(kind) = kind.strip_suffix(" or null") {
        return value.is_null() || is_of(kind, value);
    }
    if let Some(kind) = kind.strip_prefix("array of ") {
        return value.as_array().is_some_and(|all| all.iter().all(|one| is_of(kind, one)));
    }
    match kind {
        "string" => value.is_string(),
        "integer" => value.as_u64().is_some_and(|number| number < 1 << 53),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "id" => value.as_str().is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit())),
        "time" => is_time(value),
        "any" => true,
        "entry" => {
            compare("entry", &entry(), "", value, &mut BTreeSet::new());
            value.is_object()
        }
        "requests" => value.as_object().is_some_and(|requests| {
            let names = ["deletes", "down_bytes", "failures", "gets", "heads", "lists", "puts", "up_bytes"];
            requests.keys().map(String::as_str).collect::<BTreeSet<_>>() == BTreeSet::from(names)
                && requests.values().all(|count| count.is_u64())
        }),
        other => panic!("JSON.md names a type {other:?}"),
    }
}

/// Compares `value`, which the page calls `at`, with what the page says of it; what was met is noted.
fn compare(name: &str, fields: &Fields, at: &str, value: &Value, met: &mut BTreeSet<String>) {
    let is_described = |prefix: &str| fields.keys().any(|field| field.starts_with(prefix));
    match value {
        Value::Object(object) if at.is_empty() || is_described(&format!("{at}.")) => {
            for (key, value) in object {
                let field = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                let kind = fields.get(&field).unwrap_or_else(|| panic!("{name}: {field} is not in JSON.md"));
                let kind = kind.strip_prefix("optional ").unwrap_or(kind);
                assert!(is_of(kind, value), "{name}: {field} should be {kind} and is {value}");
                met.insert(field.clone());
                compare(name, fields, &field, value, met);
            }
            let beneath = if at.is_empty() { String::new() } else { format!("{at}.") };
            let own = |field: &&String| {
                field.strip_prefix(&beneath).is_some_and(|rest| !rest.contains(['.', '[']) && !rest.is_empty())
            };
            for field in fields.keys().filter(own).filter(|field| !fields[*field].starts_with("optional ")) {
                assert!(
                    object.contains_key(&field[beneath.len()..]),
                    "{name}: {field} is in JSON.md and not in {value}"
                );
            }
        }
        Value::Array(all) if is_described(&format!("{at}[]")) => {
            all.iter().for_each(|one| compare(name, fields, &format!("{at}[]"), one, met));
        }
        _ => {}
    }
}

/// Checks a document against its section; `met` gathers the fields that were seen, over several documents.
pub fn check(name: &str, document: &str, met: &mut BTreeSet<String>) -> Value {
    let value: Value = serde_json::from_str(document).unwrap_or_else(|error| panic!("{name}: {error}: {document:?}"));
    let is_list = section(name).keys().any(|field| field.starts_with("[]"));
    assert_eq!(value.is_array(), is_list, "{name}: {value}");
    compare(name, &section(name), "", &value, met);
    value
}

/// Every field of the section was in one of the documents.
pub fn all_met(name: &str, met: &BTreeSet<String>, but: &[&str]) {
    let unmet: Vec<String> =
        section(name).into_keys().filter(|field| !met.contains(field) && !but.contains(&field.as_str())).collect();
    assert!(unmet.is_empty(), "{name}: no document had {unmet:?}");
}

#[track_caller]
pub fn good(name: &str, ended: &Ended, but: &[&str]) -> Value {
    assert_eq!(ended.code, 0, "{name}: {ended:?}");
    let mut met = BTreeSet::new();
    let value = check(name, &ended.out, &mut met);
    all_met(name, &met, but);
    value
}

/// Each line of standard error is an object; the last one.
pub fn talk(ended: &Ended) -> Option<Value> {
    let lines = ended.err.lines().map(serde_json::from_str::<Value>);
    let lines: Vec<Value> = lines.map(|line| line.unwrap_or_else(|error| panic!("{error}: {ended:?}"))).collect();
    assert!(lines.iter().all(Value::is_object), "{ended:?}");
    lines.last().cloned()
}

#[test]
fn every_section_is_compared_with_what_a_command_prints() {
    let here = [include_str!("json_documents.rs"), include_str!("json_documents_of_readers.rs")].concat();
    let (sections, _) = PAGE.split_once("\n## Commands without a document\n").unwrap();
    for name in sections.lines().filter_map(|line| line.strip_prefix("## ")) {
        let compared = ["good", "check"].iter().any(|verb| here.contains(&format!("{verb}(\"{name}\"")));
        assert!(compared, "{name} is in JSON.md, and no test compares it");
    }
}

#[test]
fn commands_of_the_repository_print_what_the_page_says() {
    let desk = Desk::new();
    let run = |arguments: &[&str]| {
        let ended = desk.run(arguments.iter().copied().chain(["--json"]));
        talk(&ended);
        ended
    };
    good("init", &run(&["init", "--key-out", "admin.key"]), &["store_mode_reason"]);
    std::os::unix::fs::symlink("a.txt", desk.path("source/link")).unwrap();
    std::fs::write(desk.path("source/a.txt"), "hello ".repeat(1000)).unwrap();
    let saved = good("backup", &run(&["backup", "source"]), &[]);
    assert_eq!((&saved["files_new"], &saved["parent"]), (&2.into(), &Value::Null));
    good("ls", &run(&["ls", "latest"]), &["[].device"]);
    good("restore --dry-run", &run(&["restore", "latest", "--to", "out", "--dry-run"]), &[]);
    good("restore", &run(&["restore", "latest", "--to", "out", "--verify"]), &[]);
    let of_findings = ["severity", "object", "what", "snapshots", "more_snapshots", "paths", "more_paths"];
    let of_findings: Vec<String> = of_findings.iter().map(|field| format!("findings[].{field}")).collect();
    let of_findings: Vec<&str> = of_findings.iter().map(String::as_str).collect();
    good("verify", &run(&["verify", "--level", "data"]), &of_findings);
    secret(&desk.path("word"), "correct horse\n");
    let slot = good("key add", &run(&["key", "add", "--passphrase-file", "word"]), &[]);
    let writer = good("key export", &run(&["key", "export", "--role", "writer", "--out", "web.key"]), &[]);
    good("key export", &run(&["key", "export", "--role", "reader", "--out", "reader.key"]), &[]);
    good("key list", &run(&["key", "list"]), &[]);
    good("key remove", &run(&["key", "remove", slot["slot"].as_str().unwrap()]), &["snapshots_standing"]);
    good("key remove", &run(&["key", "remove", writer["writer"].as_str().unwrap()]), &["slots_left"]);
    good("key list", &run(&["key", "list"]), &["slots[].id"]);
}

#[test]
fn damage_is_printed_as_the_page_says_and_the_error_comes_after_it() {
    let desk = Desk::with_repository();
    desk.backup();
    let packs = desk.path("repository/d");
    let pack = walk(&packs).into_iter().next().expect("a data pack");
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    let mut modes = std::fs::metadata(&pack).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut modes, 0o600);
    std::fs::set_permissions(&pack, modes).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    let ended = desk.run(["verify", "--level", "data", "--json"]);
    assert_eq!(ended.code, 13, "{ended:?}");
    let mut met = BTreeSet::new();
    assert_eq!(check("verify", &ended.out, &mut met)["sound"], false);
    all_met("verify", &met, &[]);
    let error = talk(&ended).unwrap();
    check("Errors", &error.to_string(), &mut BTreeSet::new());
    assert_eq!(error["exit_code"], 13);
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn mistakes_are_one_object_at_the_end_whoever_finds_them() {
    let desk = Desk::with_repository();
    for (code, arguments) in [
        (2, &["backup"][..]),
        (2, &["bakup", "x"]),
        (2, &["backup", "source", "--exclude", "a{b"]),
        (1, &["backup", "nowhere"]),
        (10, &["snapshots", "--repo", "nowhere"]),
        (4, &["ls", "0123"]),
        (7, &["init", "--key-out", "other.key"]),
        (9, &["status"]),
        (5, &["config", "show", "web", "--config", "nowhere"]),
    ] {
        let ended = desk.run(arguments.iter().copied().chain(["--json"]));
        let error = talk(&ended).unwrap();
        let mut met = BTreeSet::new();
        check("Errors", &error.to_string(), &mut met);
        all_met("Errors", &met, &[]);
        assert_eq!((ended.code, &error["exit_code"]), (code, &code.into()), "{arguments:?} {ended:?}");
        assert_eq!(ended.out, "", "{arguments:?}");
    }
}

#[test]
fn commands_of_the_configuration_print_what_the_page_says() {
    let desk = Desk::with_repository();
    configure(&desk, "daily 25:00");
    let run = |arguments: &[&str]| {
        let ended = desk.run(arguments.iter().copied().chain(["--json", "--config", "etc"]));
        talk(&ended);
        ended
    };
    let bad = run(&["config", "check"]);
    assert_eq!(bad.code, 5, "{bad:?}");
    check("config check", &bad.out, &mut BTreeSet::new());
    configure(&desk, "daily 02:30");
    check("config check", &run(&["config", "check"]).out, &mut BTreeSet::new());
    good("config next", &run(&["config", "next", "web", "-n", "3"]), &[]);
    good("config show", &run(&["config", "show", "web"]), &[]);
    let made = run(&["token", "create", "--name", "ci", "--role", "run", "--expires", "90d"]);
    good("token create", &made, &[]);
    good("token list", &run(&["token", "list"]), &[]);
    good("token revoke", &run(&["token", "revoke", "ci"]), &[]);
}

#[test]
fn commands_of_the_daemon_print_what_the_page_says() {
    let desk = Desk::with_repository();
    configure(&desk, "daily 02:30");
    let main = std::fs::read_to_string(desk.path("etc/lifeboat.toml")).unwrap();
    let main = main.replace("[daemon]", "[daemon]\nlisten = \"127.0.0.1:0\"");
    std::fs::write(desk.path("etc/lifeboat.toml"), main).unwrap();
    let log = std::fs::File::create(desk.path("log")).unwrap();
    let mut daemon = desk.command(["daemon", "--config", "etc"]).stderr(log).spawn().unwrap();
    let ask = |arguments: &[&str]| desk.run(arguments.iter().copied().chain(["--config", "etc", "--json"]));
    let ready = (0..600).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        ask(&["status"]).code == 0
    });
    let start = ask(&["run", "start", "web", "--wait"]);
    let id = serde_json::from_str::<Value>(&start.out).map_or_else(|_| String::new(), |run| run["id"].to_string());
    let ended = [
        ask(&["run", "show", id.trim_matches('"')]),
        start,
        ask(&["drill", "run", "web", "--wait"]),
        ask(&["run", "list"]),
        ask(&["status"]),
        ask(&["drill", "run", "web"]),
    ];
    // Only what has not ended can be cancelled, so there is something new to save each time.
    let cancelled = (0..20).find_map(|seed| {
        std::fs::write(desk.path("source/large"), noise(48 << 20, seed)).unwrap();
        let start = ask(&["run", "start", "web"]);
        let id = serde_json::from_str::<Value>(&start.out).ok()?["id"].as_str()?.to_owned();
        let cancel = ask(&["run", "cancel", &id]);
        (cancel.code == 0).then_some((start, cancel))
    });
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), rustix::process::Signal::TERM).unwrap();
    daemon.wait().unwrap();
    assert!(ready);
    let [shown, run, drill, list, status, asked] = ended;
    let of_drills = ["verdict", "files_asked", "drill"];
    let run = good("run show", &run, &[&of_drills[..], &["progress"]].concat());
    assert_eq!(run["state"], "succeeded");
    assert_eq!(check("run show", &shown.out, &mut BTreeSet::new())["id"], run["id"]);
    assert_eq!(good("run start", &asked, &[])["kind"], "drill");
    let (start, cancel) = cancelled.expect("a run that could be cancelled");
    let start = good("run start", &start, &[]);
    assert_eq!(check("run show", &cancel.out, &mut BTreeSet::new())["id"], start["id"]);
    good("run show", &drill, &["progress"]);
    let list: Value = serde_json::from_str(&list.out).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    for run in list.as_array().unwrap() {
        check("run show", &run.to_string(), &mut BTreeSet::new());
    }
    good("status", &status, &[]);
}
