//! The commands that write, from outside: lists of files, streams, parts of a snapshot, and whose the files become.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::Ordering;

use lifeboat::restore::{Control, Patterns, Request, plan, run};
use lifeboat::store::memory::MemoryStore;
use serde_json::Value;

use crate::cli::{Desk, Ended};
use crate::support::repo;

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
}

fn snapshots(desk: &Desk) -> Value {
    desk.json(["snapshots", "--json"])
}

/// All names beneath `root`, sorted.
fn names(root: &Path) -> Vec<String> {
    fn add(root: &Path, at: &Path, names: &mut Vec<String>) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            names.push(path.strip_prefix(root).unwrap().display().to_string());
            if path.is_dir() && !path.is_symlink() {
                add(root, &path, names);
            }
        }
    }
    let mut all = Vec::new();
    add(root, root, &mut all);
    all.sort();
    all
}

/// Where a path of this machine lands in a restore of everything.
fn within(target: PathBuf, path: &Path) -> PathBuf {
    target.join(path.strip_prefix("/").unwrap())
}

fn pid_is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

#[test]
fn a_list_is_taken_word_for_word_and_what_is_missing_is_named() {
    let desk = Desk::with_repository();
    for name in ["# no comment", " blanks ", "*.txt", "not listed"] {
        fs::write(desk.path("source").join(name), name).unwrap();
    }
    let list = format!(
        "source/# no comment\n\nsource/ blanks \nsource/*.txt\n{}\nsource/gone\n",
        desk.path("source/sub").display()
    );
    fs::write(desk.path("list"), list).unwrap();
    let ended = desk.run(["backup", "--files-from", "list", "--json"]);
    assert_eq!((ended.code, json(&ended)["outcome"].as_str()), (3, Some("partial")), "{ended:?}");
    assert!(ended.err.contains("source/gone could not be found"), "{ended:?}");
    desk.good(["restore", "latest", "--to", "out"]);
    let saved = names(&within(desk.path("out"), &desk.path("source")));
    assert_eq!(saved, [" blanks ", "# no comment", "*.txt", "sub", "sub/b.txt"]);
    assert_eq!(snapshots(&desk)[0]["outcome"], "partial");
}

#[test]
fn a_list_with_nuls_takes_every_name() {
    let desk = Desk::with_repository();
    fs::write(desk.path("source/two\nlines"), "x").unwrap();
    let list = [desk.path("source/two\nlines").as_os_str().as_bytes(), b"\0source/a.txt\0"].concat();
    let list = String::from_utf8(list).unwrap();
    let ended = desk.with_input(["backup", "--files-from0", "-", "--json"], &list);
    assert_eq!((ended.code, &json(&ended)["files"]), (0, &2.into()), "{ended:?}");
    let wrong = desk.with_input(["backup", "--files-from", "-"], &list);
    wrong.refused(2, "holds a NUL");
}

#[test]
fn a_list_that_changes_finds_the_run_before_and_reads_what_is_new() {
    let desk = Desk::with_repository();
    for n in 0..40 {
        fs::write(desk.path(&format!("source/f{n:02}")), vec![n; 5000]).unwrap();
        // Long ago, so that no clock's grain makes it doubtful.
        let file = fs::File::options().write(true).open(desk.path(&format!("source/f{n:02}"))).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }
    let list = |numbers: std::ops::Range<u8>| numbers.map(|n| format!("source/f{n:02}\n")).collect::<String>();
    let first = desk.with_input(["backup", "--files-from", "-", "--json"], &list(0..30));
    std::thread::sleep(std::time::Duration::from_millis(100));
    let again = desk.with_input(["backup", "--files-from", "-", "--json"], &list(0..30));
    std::thread::sleep(std::time::Duration::from_millis(100));
    let second = desk.with_input(["backup", "--files-from", "-", "--json"], &list(10..40));
    let (first, again, second) = (json(&first), json(&again), json(&second));
    assert_eq!(again["parent"], first["id"]);
    assert_eq!((&again["files_unchanged"], &again["new_bytes"]), (&30.into(), &0.into()));
    assert_eq!(second["parent"], again["id"]);
    assert_eq!((&second["files_unchanged"], &second["files_new"]), (&20.into(), &10.into()));
    assert_eq!(second["files_read"], 10);
    let told = snapshots(&desk)[2]["paths"].clone();
    assert_eq!(told, Value::Array(vec![desk.path("source").display().to_string().into()]));
    // A whole directory is another thing: it is not compared with a part of it.
    assert_eq!(desk.json(["backup", "source", "--json"])["parent"], Value::Null);
}

#[test]
fn directories_on_the_way_come_back_as_they_were_and_nothing_else_of_them() {
    let desk = Desk::with_repository();
    fs::set_permissions(desk.path("source/sub"), fs::Permissions::from_mode(0o2750)).unwrap();
    symlink("sub", desk.path("source/link")).unwrap();
    let time = fs::metadata(desk.path("source/sub")).unwrap().modified().unwrap();
    fs::write(desk.path("list"), "source/link/b.txt\n").unwrap();
    desk.good(["backup", "--files-from", "list"]);
    desk.good(["restore", "latest", "--to", "out"]);
    let source = within(desk.path("out"), &desk.path("source"));
    assert_eq!(names(&source), ["link", "sub", "sub/b.txt"]);
    let sub = fs::metadata(source.join("sub")).unwrap();
    assert_eq!((sub.mode() & 0o0777, sub.modified().unwrap()), (0o750, time));
    assert_eq!(fs::read(source.join("link/b.txt")).unwrap(), b"world");
    let place = format!("latest:{}", desk.path("source").display());
    let delete = ["restore", &place, "--to", "out", "--overwrite", "always", "--delete"];
    desk.run(delete).refused(2, "chosen one by one");
    assert_eq!(desk.json(["ls", &place, "--json"]).as_array().unwrap().len(), 4);
}

#[test]
fn a_list_of_nothing_saves_nothing() {
    let desk = Desk::with_repository();
    desk.with_input(["backup", "--files-from", "-"], "\n\n").refused(2, "names no path");
    desk.with_input(["backup", "--files-from", "-"], "gone/a\ngone/b\n").refused(1, "none of the 2 paths");
    desk.run(["backup", "--files-from", "nowhere"]).refused(4, "cannot read the list");
    desk.with_input(["backup", "--files-from", "-", "--key", "-"], "source\n").refused(2, "more than once");
    assert_eq!(snapshots(&desk), Value::Array(vec![]));
}

#[test]
fn standard_input_is_a_file_that_deduplicates_with_the_one_before() {
    let desk = Desk::with_repository();
    let dump = repo::noise(9 << 20, 7);
    let pour = |bytes: &[u8], name: &str| {
        fs::write(desk.path("dump"), bytes).unwrap();
        let mut command = desk.command(["backup", "-", "--stdin-name", name, "--json"]);
        command.stdin(fs::File::open(desk.path("dump")).unwrap());
        let ended = Ended::of(command.output().unwrap());
        assert_eq!(ended.code, 0, "{ended:?}");
        json(&ended)
    };
    let before = std::time::SystemTime::now();
    let first = pour(&dump, "db.sql");
    let longer = [b"one line more\n", dump.as_slice()].concat();
    let second = pour(&longer, "db.sql");
    assert_eq!((&second["parent"], &second["files_changed"]), (&first["id"], &1.into()));
    assert!(second["new_bytes"].as_u64().unwrap() < 2 << 20, "{second}");
    assert_eq!(pour(&longer, "/dumps/other.sql")["parent"], Value::Null);
    desk.good(["restore", second["id"].as_str().unwrap(), "--to", "out", "--verify"]);
    assert!(fs::read(desk.path("out/db.sql")).unwrap() == longer);
    let file = fs::metadata(desk.path("out/db.sql")).unwrap();
    assert_eq!(file.mode() & 0o7777, 0o600);
    assert_eq!(file.uid(), rustix::process::geteuid().as_raw());
    assert!(file.modified().unwrap() >= before && file.modified().unwrap() <= std::time::SystemTime::now());
    let place = "latest:/dumps/other.sql";
    desk.good(["restore", place, "--to", "one"]);
    assert_eq!(names(&desk.path("one")), ["other.sql"]);
}

#[test]
fn a_stream_of_nothing_is_a_failure_unless_it_was_expected() {
    let desk = Desk::with_repository();
    desk.run(["backup", "-"]).refused(1, "not one byte");
    desk.run(["backup", "--command", "--", "true"]).refused(1, "the command true gave not one byte");
    assert_eq!(snapshots(&desk), Value::Array(vec![]));
    assert_eq!(desk.json(["backup", "-", "--allow-empty", "--json"])["bytes"], 0);
    desk.good(["restore", "latest", "--to", "out"]);
    assert_eq!(fs::read(desk.path("out/stdin")).unwrap(), b"");
}

#[test]
fn a_command_is_saved_only_if_it_succeeds() {
    let desk = Desk::with_repository();
    let command = |script: &str| desk.run(["backup", "--command", "--stdin-name", "out", "--", "sh", "-c", script]);
    let good = command("printf 'a b'; echo talk >&2");
    assert_eq!((good.code, good.err.as_str()), (0, "talk\n"), "{good:?}");
    desk.good(["restore", "latest", "--to", "out"]);
    assert_eq!(fs::read(desk.path("out/out")).unwrap(), b"a b");
    // No shell: a sign is a sign.
    desk.good(["backup", "--command", "--", "printf", "%s", "$HOME; *"]);
    desk.good(["restore", "latest", "--to", "signs"]);
    assert_eq!(fs::read(desk.path("signs/stdin")).unwrap(), b"$HOME; *");
    let failed = command("head -c 3000000 /dev/zero; echo first >&2; echo 'no disk' >&2; exit 3");
    failed.refused(1, "the command sh failed (exit status: 3), so nothing was committed");
    assert!(failed.err.contains("it said last: first\n           no disk"), "{failed:?}");
    command("echo x; kill -9 $$").refused(1, "SIGKILL");
    desk.run(["backup", "--command", "--", "/no/such/program"]).refused(1, "/no/such/program cannot be started");
    assert_eq!(snapshots(&desk).as_array().unwrap().len(), 2);
    assert_eq!(desk.json(["verify", "--level", "data", "--json"])["sound"], true);
}

#[test]
fn a_cancelled_backup_ends_its_command_and_all_that_it_started() {
    let desk = Desk::with_repository();
    let script = "trap '' TERM; sleep 1000 & echo $$ $! > pids.new; mv pids.new pids; echo data; wait; wait";
    let mut command = desk.command(["backup", "--command", "--", "sh", "-c", script]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !desk.path("pids").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let ended = Ended::of(child.wait_with_output().unwrap());
    ended.refused(130, "cancelled before it was committed");
    let pids = fs::read_to_string(desk.path("pids")).unwrap();
    // What was killed takes a moment to be gone; if it was not, this waits for ever.
    while !pids.split_whitespace().all(pid_is_gone) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(snapshots(&desk), Value::Array(vec![]));
}

#[test]
fn the_repository_is_not_saved_into_itself() {
    let desk = Desk::with_repository();
    desk.run(["backup", "repository"]).refused(2, "part of the repository itself");
    desk.run(["backup", "repository/config"]).refused(2, "part of the repository itself");
    let everything = desk.json(["backup", ".", "--json"]);
    assert_eq!(everything["notes"].as_array().unwrap().len(), 1, "{everything}");
    let list = desk.good(["ls", "latest"]);
    assert!(list.contains("/repository\n") && !list.contains("/repository/"), "{list}");
}

#[test]
fn patterns_choose_what_is_restored_and_its_directories_keep_their_attributes() {
    let desk = Desk::with_repository();
    for name in ["etc/ssh/sshd.conf", "etc/ssh/key", "etc/web.conf", "home/a.conf", "home/tmp/b.conf", "home/c.txt"] {
        fs::create_dir_all(desk.path("source").join(name).parent().unwrap()).unwrap();
        fs::write(desk.path("source").join(name), name).unwrap();
    }
    fs::set_permissions(desk.path("source/etc/ssh"), fs::Permissions::from_mode(0o750)).unwrap();
    desk.backup();
    let place = format!("latest:{}", desk.path("source").display());
    let restored = |to: &str, arguments: &[&str]| {
        let all = ["restore", &place, "--to", to, "--verify"];
        desk.good(all.iter().chain(arguments));
        names(&desk.path(to))
    };
    let configurations = ["etc", "etc/ssh", "etc/ssh/sshd.conf", "etc/web.conf", "home", "home/a.conf"];
    assert_eq!(restored("1", &["--include", "*.conf", "--exclude", "tmp/"]), configurations);
    assert_eq!(fs::metadata(desk.path("1/etc/ssh")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(restored("2", &["--include", "./etc/ssh"]), ["etc", "etc/ssh", "etc/ssh/key", "etc/ssh/sshd.conf"]);
    assert_eq!(restored("3", &["--include", "ssh", "--include", "!key"]), ["etc", "etc/ssh", "etc/ssh/sshd.conf"]);
    fs::write(desk.path("patterns"), "# all but texts\n*\n!etc\n!*.txt\n!home\n").unwrap();
    assert_eq!(restored("4", &["--exclude-from", "patterns"]), ["a.txt", "etc", "home", "home/c.txt"]);
    let dry = desk.json(["restore", &place, "--to", "5", "--include", "*.conf", "--dry-run", "--json"]);
    assert_eq!((&dry["files"], &dry["directories"]), (&4.into(), &5.into()));
    assert!(!desk.path("5").exists());
    desk.run(["restore", &place, "--to", "6", "--include", "nothing-like-this"]).refused(4, "nothing in the snapshot");
    let delete = ["restore", &place, "--to", "1", "--include", "x", "--overwrite", "always", "--delete"];
    desk.run(delete).refused(2, "whole directory");
}

#[test]
fn a_large_tree_is_passed_by_where_it_is_excluded() {
    let desk = Desk::with_repository();
    for n in 0..3000 {
        fs::create_dir_all(desk.path("source/many")).unwrap();
        fs::write(desk.path(&format!("source/many/{n}")), "").unwrap();
    }
    fs::write(desk.path("source/after"), "x").unwrap();
    desk.backup();
    desk.good(["restore", "latest", "--to", "out", "--exclude", "many"]);
    assert_eq!(names(&within(desk.path("out"), &desk.path("source"))), ["a.txt", "after", "sub", "sub/b.txt"]);
}

#[test]
fn an_interrupted_restore_goes_on_with_the_same_choice_only() {
    let dir = tempfile::tempdir().unwrap();
    let root = repo::plant(dir.path());
    let (repository, _) = repo::fresh(std::sync::Arc::new(MemoryStore::default()));
    repo::backup(&repository, &root);
    let snapshot = lifeboat::repository::Snapshots::list(&repository).unwrap().readable[0].clone();
    let patterns = |pattern: &str| Patterns { given: vec![pattern.to_owned()], files: vec![] };
    let wish = |include: &str, exclude: &str| Request {
        path: Some(root.as_os_str().as_bytes().to_vec()),
        include: patterns(include),
        exclude: patterns(exclude),
        ..Request::new(snapshot.clone(), dir.path().join("out"))
    };
    let first = plan(&repository, wish("docs", "deep"), &Control::default()).unwrap();
    let cancelled = Control::default();
    cancelled.cancel.store(true, Ordering::Relaxed);
    assert!(run(&repository, &first, &cancelled).is_err());
    for (include, exclude) in [("docs", "deeper"), ("*", "deep"), ("deep", "docs")] {
        let error = plan(&repository, wish(include, exclude), &Control::default()).err().unwrap();
        assert!(error.to_string().contains("unfinished restore of something else"), "{error}");
    }
    let mut owners = wish("docs", "deep");
    owners.owners.user = Some(1);
    assert!(plan(&repository, owners, &Control::default()).is_err());
    let again = plan(&repository, wish("docs", "deep"), &Control::default()).unwrap();
    assert!(run(&repository, &again, &Control::default()).unwrap().is_whole());
    assert_eq!(names(&dir.path().join("out")).len(), 301);
}

#[test]
fn files_become_those_whom_they_are_given_to() {
    let desk = Desk::with_repository();
    let program = desk.path("source/program");
    fs::write(&program, "x").unwrap();
    if !rustix::process::geteuid().is_root() {
        desk.backup();
        desk.run(["restore", "latest", "--to", "out", "--target-owner", "0:0"]).refused(6, "by root only");
        return;
    }
    let own = |path: &Path, uid, gid| std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    own(&desk.path("source/a.txt"), 1234, 5678);
    own(&program, 4321, 8765);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    desk.backup();
    let place = format!("latest:{}", desk.path("source").display());
    let restored = |to: &str, arguments: &[&str]| {
        let all = ["restore", &place, "--to", to, "--verify", "--json"];
        let report = desk.json(all.iter().chain(arguments));
        let of = |name: &str| {
            let stat = fs::metadata(desk.path(to).join(name)).unwrap();
            (stat.uid(), stat.gid(), stat.mode() & 0o7777)
        };
        (of("a.txt"), of("program"), report)
    };
    let (text, program, report) = restored("1", &["--map-owner", "1234=77", "--map-owner", ":8765=:0"]);
    assert_eq!((text, program), ((77, 5678, 0o644), (4321, 0, 0o4755)));
    // A program that ran as one group does not begin to run as another.
    assert_eq!(report["omitted"]["setuid or setgid bits"], 1, "{report}");
    let (text, program, _) = restored("2", &["--target-owner", "root:99", "--map-owner", "1234=77"]);
    assert_eq!((text, program), ((77, 99, 0o644), (0, 99, 0o0755)));
    let (text, program, _) = restored("3", &["--target-owner", ":55"]);
    assert_eq!((text, program), ((1234, 55, 0o644), (4321, 55, 0o4755)));
}

#[test]
fn a_log_gets_no_progress_from_a_short_run_and_colour_from_none() {
    let desk = Desk::with_repository();
    let plain = |command: &mut std::process::Command| {
        let ended = Ended::of(command.output().unwrap());
        assert!(!ended.err.contains('\x1b') && !ended.out.contains('\x1b'), "{ended:?}");
        ended
    };
    assert_eq!(plain(&mut desk.command(["backup", "source"])).err, "");
    plain(desk.command(["bakup"]).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1"));
    plain(desk.command(["backup", "nope"]).env("CLICOLOR_FORCE", "1").env("TERM", "dumb"));
    plain(desk.command(["--help"]).env("CLICOLOR_FORCE", "1").arg("--no-color"));
    for arguments in [["backup", "nope"], ["bakup", "x"]] {
        let forced = Ended::of(desk.command(arguments).env("CLICOLOR_FORCE", "1").output().unwrap());
        assert!(forced.err.contains("\x1b["), "{forced:?}");
    }
}
