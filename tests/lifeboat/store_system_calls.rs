//! What a directory as a store asks of the kernel, seen and bent by strace (`scripts/test` installs it).
//!
//! Each test runs one ignored test of this binary, the child below, under strace.

use std::path::Path;
use std::process::Command;

use lifeboat::store::local::LocalStore;
use lifeboat::store::{Create, Store};

use crate::support::{key, session};

const ROOT: &str = "LIFEBOAT_TEST_ROOT";
const CHILD: &str = "store_system_calls::child_creates_an_object_and_a_pack";

#[test]
#[ignore = "run by the tests below, under strace"]
fn child_creates_an_object_and_a_pack() {
    let root = std::env::var_os(ROOT).expect("the parent names a directory");
    let store = LocalStore::open(Path::new(&root)).unwrap();
    let word = |answer: lifeboat::store::Result<Create>| match answer {
        Ok(create) => format!("{create:?}"),
        Err(error) => format!("{:?}", error.class),
    };
    println!("\nobject {}", word(store.create(&key("s/one"), b"an object")));
    let pack = store.begin(session(1), 0).and_then(|mut upload| {
        upload.append(&[7; 100_000])?;
        upload.finish(&key("d/ab/pack"))
    });
    println!("\npack {}", word(pack));
}

struct Seen {
    object: String,
    pack: String,
    /// Lines of strace: one system call each, descriptors with their paths.
    calls: Vec<String>,
}

/// Runs the child in a new store under `strace`, with these arguments.
fn run(root: &Path, arguments: &[&str]) -> Seen {
    let log = root.with_extension("log");
    let output = Command::new("strace")
        .args(["-f", "-y", "-qq", "-o"])
        .arg(&log)
        .args(["-e", "trace=mkdir,mkdirat,fsync,fdatasync,link,linkat,rename,renameat,renameat2,unlink,unlinkat"])
        .args(arguments)
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "--test-threads=1", CHILD])
        .env(ROOT, root)
        .output()
        .expect("strace is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = |what: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(what)).map(str::to_owned);
        line.unwrap_or_else(|| {
            panic!("the child said nothing of {what}: {text}{}", String::from_utf8_lossy(&output.stderr))
        })
    };
    let calls = std::fs::read_to_string(&log).unwrap().lines().map(str::to_owned).collect();
    Seen { object: answer("object "), pack: answer("pack "), calls }
}

fn new_store(directory: &Path, name: &str) -> std::path::PathBuf {
    let root = directory.join(name);
    LocalStore::create(&root).unwrap();
    root.canonicalize().unwrap()
}

/// The number of the first call that holds all of `words`.
#[track_caller]
fn at(calls: &[String], words: &[&str]) -> usize {
    let found = calls.iter().position(|call| words.iter().all(|word| call.contains(word)));
    found.unwrap_or_else(|| panic!("no call with {words:?} in {calls:#?}"))
}

#[test]
fn what_is_stored_is_fsynced_before_its_name_and_its_name_before_the_answer() {
    let directory = tempfile::tempdir().unwrap();
    let root = new_store(directory.path(), "store");
    let seen = run(&root, &[]);
    assert_eq!((seen.object.as_str(), seen.pack.as_str()), ("Created", "Created"));
    let path = |name: &str| format!("{}", root.join(name).display());
    let tmp = format!("tmp/{}-0", session(1));
    for (staged, name, parent) in [("s/one#1", "s/one\"", "s"), (tmp.as_str(), "d/ab/pack\"", "d/ab")] {
        let file = at(&seen.calls, &["fsync(", &format!("{}>", path(staged))]);
        let link = at(&seen.calls, &["link", name]);
        let after = &seen.calls[link..];
        assert!(file < link, "{name} was linked before its bytes were durable: {:#?}", seen.calls);
        at(after, &["fsync(", &format!("{}>", path(parent))]);
    }
    // Each directory that was made on the way has its own name made durable before anything is named in it.
    for (made, parent, name) in [("s", "", "s/one\""), ("d", "", "d/ab/pack\""), ("d/ab", "d", "d/ab/pack\"")] {
        let link = at(&seen.calls, &["link", name]);
        let between = &seen.calls[at(&seen.calls, &["mkdirat(", &format!("\"{made}\"")])..link];
        at(between, &["fsync(", &format!("{}>", path(parent).trim_end_matches('/'))]);
    }
    // And the name under `tmp/` goes durably.
    let gone = at(&seen.calls, &["unlinkat(", &tmp]);
    at(&seen.calls[gone..], &["fsync(", &format!("{}>", path("tmp"))]);
}

#[test]
fn what_is_found_standing_is_made_durable_before_it_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let root = new_store(directory.path(), "store");
    run(&root, &[]);
    let seen = run(&root, &[]);
    assert_eq!((seen.object.as_str(), seen.pack.as_str()), ("Occupied", "Occupied"));
    for parent in ["s", "d/ab"] {
        at(&seen.calls, &["fsync(", &format!("{}>", root.join(parent).display())]);
    }
}

#[test]
fn no_failed_fsync_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let root = new_store(directory.path(), "whole");
    let fsyncs = run(&root, &[]).calls.iter().filter(|call| call.contains("fsync(")).count();
    assert!(fsyncs >= 8, "{fsyncs}");
    for number in 1..=fsyncs {
        let root = new_store(directory.path(), &format!("fsync-{number}"));
        let seen = run(&root, &["-e", &format!("inject=fsync:error=EIO:when={number}")]);
        assert!([&seen.object, &seen.pack].contains(&&"Permanent".to_owned()), "fsync {number}: {:#?}", seen.calls);
        let pack_stands = root.join("d/ab/pack").exists();
        let tmp_failed = seen.calls.iter().any(|call| call.contains("/tmp>") && call.contains("EIO"));
        assert!(seen.pack == "Created" || !pack_stands || tmp_failed, "fsync {number} failed and the pack stands");
    }
}

#[test]
fn no_space_and_no_rights_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    for (error, class) in [("ENOSPC", "Full"), ("EDQUOT", "Full"), ("EACCES", "Denied"), ("EROFS", "Denied")] {
        let root = new_store(directory.path(), error);
        let seen = run(&root, &["-e", &format!("inject=link,linkat:error={error}")]);
        assert_eq!((seen.object.as_str(), seen.pack.as_str()), (class, class), "{error}");
        assert!(LocalStore::open(&root).unwrap().list("").unwrap().is_empty());
        assert!(LocalStore::open(&root).unwrap().leftovers().unwrap().is_empty());
    }
}

#[test]
fn a_file_system_without_hard_links_is_stored_to_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    for error in ["EPERM", "EOPNOTSUPP", "EMLINK"] {
        let root = new_store(directory.path(), error);
        let seen = run(&root, &["-e", &format!("inject=link,linkat:error={error}")]);
        assert_eq!((seen.object.as_str(), seen.pack.as_str()), ("Created", "Created"), "{error}");
        at(&seen.calls, &["renameat2(", "s/one\"", "RENAME_NOREPLACE"]);
        at(&seen.calls, &["renameat2(", "d/ab/pack\"", "RENAME_NOREPLACE"]);
        let store = LocalStore::open(&root).unwrap();
        assert_eq!(store.get(&key("s/one")).unwrap(), b"an object");
        assert_eq!(store.get(&key("d/ab/pack")).unwrap(), [7; 100_000]);
        assert!(store.leftovers().unwrap().is_empty());

        let again = run(&root, &["-e", &format!("inject=link,linkat:error={error}")]);
        assert_eq!((again.object.as_str(), again.pack.as_str()), ("Occupied", "Occupied"), "{error}");
        assert!(store.leftovers().unwrap().is_empty());
    }
}

#[test]
fn a_file_system_that_cannot_create_without_replacing_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = new_store(directory.path(), "store");
    let bent = ["-e", "inject=link,linkat:error=EPERM", "-e", "inject=renameat2:error=EINVAL"];
    let seen = run(&root, &bent);
    assert_eq!((seen.object.as_str(), seen.pack.as_str()), ("Permanent", "Permanent"));
}
