//! What a mistake looks like: each stands in a file of `messages/`, word for word.
//!
//! After a change that was meant, `LIFEBOAT_BLESS=1` writes the files anew, and the difference is there to be read. Ids and this test's directory
//! are replaced by words.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::cli::{Desk, Ended, configure, secret};

const BLESS: &str = "LIFEBOAT_BLESS";

/// Any run of 8 or more hexadecimal digits that has a digit in it.
fn without_ids(text: &str) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\n']) {
        if c.is_ascii_hexdigit() && !c.is_ascii_uppercase() {
            word.push(c);
            continue;
        }
        let is_id = word.len() >= 8 && word.contains(|c: char| c.is_ascii_digit());
        out.push_str(if is_id { "<id>" } else { &word });
        word.clear();
        out.push(c);
    }
    out.pop();
    out
}

struct Gallery<'d> {
    desk: &'d Desk,
    seen: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Gallery<'_> {
    /// Runs what must fail, and compares all that it says with the file `name`.
    fn shows(&mut self, name: &str, arguments: &[&str]) {
        let ended = self.desk.run(arguments);
        self.compare(name, &arguments.join(" "), ended);
    }

    fn compare(&mut self, name: &str, shown: &str, ended: Ended) {
        assert_ne!(ended.code, 0, "{name}: {ended:?}");
        assert_eq!(ended.out, "", "{name}: a mistake has nothing to print on standard output");
        let here = self.desk.path("").display().to_string();
        let text = format!("$ lifeboat {shown}\n{}[exit code {}]\n", ended.err, ended.code);
        let text = without_ids(&text.replace(here.trim_end_matches('/'), "<desk>"));
        // What to do next: a hint, clap's tip, the words that would be right, or where they stand.
        let helps = ["hint: ", "\"hint\":\"", "tip: ", "write a directory", "one of: ", "For more information, try"];
        if !helps.iter().any(|help| text.contains(help)) {
            self.wrong.push(format!("{name} does not say what to do next:\n{text}"));
        }
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lifeboat/messages").join(format!("{name}.txt"));
        assert!(self.seen.insert(name.to_owned()), "{name} stands here twice");
        if std::env::var_os(BLESS).is_some() {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, text).unwrap();
        } else {
            let expected = fs::read_to_string(&file).unwrap_or_default();
            if expected != text {
                self.wrong.push(format!("--- {name}: expected\n{expected}--- {name}: found\n{text}"));
            }
        }
    }
}

fn ambiguous(desk: &Desk) -> String {
    // Of seventeen ids two begin alike.
    let ids: Vec<String> = (0..17).map(|_| desk.backup()).collect();
    let first = |id: &String| id[..1].to_owned();
    let mut seen = BTreeSet::new();
    ids.iter().map(first).find(|digit| !seen.insert(digit.clone())).unwrap()
}

#[test]
fn every_mistake_is_told_as_its_file_says() {
    let desk = Desk::with_repository();
    desk.good(["-q", "init", "--repo", "other", "--key-out", "other.key"]);
    desk.good(["key", "export", "--role", "writer", "--out", "writer.key"]);
    desk.good(["key", "export", "--role", "reader", "--out", "reader.key"]);
    fs::write(desk.path("list"), "source/a.txt\n").unwrap();
    desk.good(["backup", "--files-from", "list"]);
    let listed = desk.json(["snapshots", "--json"])[0]["id"].as_str().unwrap().to_owned();
    fs::create_dir(desk.path("empty")).unwrap();
    secret(&desk.path("word"), "correct horse\n");
    let mut gallery = Gallery { desk: &desk, seen: BTreeSet::new(), wrong: Vec::new() };
    let g = &mut gallery;

    let digit = ambiguous(&desk);
    let ended = desk.run(["ls", &digit]);
    let fits = format!("\"{digit}\" fits ");
    let (before, after) = ended.err.split_once(&fits).unwrap_or((&ended.err, ""));
    let err = format!("{before}\"<digit>\" fits <some>{}", after.trim_start_matches(|c: char| c.is_ascii_digit()));
    g.compare("ls-ambiguous-id", "ls <digit>", Ended { err, ..ended });

    // Ways in.
    let without =
        |name: &str, arguments: &[&str]| Ended::of(desk.command(arguments).env_remove(name).output().unwrap());
    g.compare("no-key", "snapshots", without("LIFEBOAT_KEY", &["snapshots"]));
    g.compare("no-repository-named", "snapshots", without("LIFEBOAT_REPO", &["snapshots"]));
    g.shows("repository-missing", &["snapshots", "--repo", "nowhere"]);
    g.shows("repository-is-no-repository", &["snapshots", "--repo", "empty"]);
    g.shows("repository-is-a-file", &["snapshots", "--repo", "source/a.txt"]);
    g.shows("repository-of-unknown-kind", &["snapshots", "--repo", "ftp://user:secret@host/x"]);
    g.shows("repository-with-one-slash", &["snapshots", "--repo", "file:/srv"]);
    g.shows("repository-file-with-host", &["snapshots", "--repo", "file://srv/backup"]);
    g.shows("key-missing", &["snapshots", "--key", "nowhere.key"]);
    g.shows("key-is-no-key", &["snapshots", "--key", "word"]);
    g.shows("key-is-a-directory", &["snapshots", "--key", "empty"]);
    g.shows("key-of-another-repository", &["snapshots", "--key", "other.key"]);
    g.shows("key-and-passphrase", &["snapshots", "--key", "admin.key", "--passphrase-file", "word"]);
    g.shows("passphrase-without-slots", &["snapshots", "--passphrase-file", "word"]);
    desk.good(["key", "add", "--passphrase-file", "word"]);
    secret(&desk.path("wrong-word"), "battery staple\n");
    g.shows("passphrase-wrong", &["snapshots", "--passphrase-file", "wrong-word"]);
    g.shows("reader-cannot-write", &["backup", "source", "--key", "reader.key"]);
    g.shows("writer-cannot-read", &["restore", "latest", "--to", "out", "--key", "writer.key"]);
    g.shows("writer-cannot-export", &["key", "export", "--role", "reader", "--out", "x.key", "--key", "writer.key"]);

    // Keys and init.
    g.shows("init-twice", &["init", "--key-out", "new.key"]);
    g.shows("init-without-a-way-in", &["init", "--repo", "new"]);
    g.shows("init-key-in-no-directory", &["init", "--repo", "new", "--key-out", "nowhere/new.key"]);
    g.shows("init-in-a-full-directory", &["init", "--repo", "source/sub", "--key-out", "new.key"]);
    g.shows("key-export-over-a-file", &["key", "export", "--role", "reader", "--out", "other.key"]);
    g.shows("key-remove-unknown", &["key", "remove", "zz"]);
    g.shows("key-remove-by-name", &["key", "remove", "admin"]);
    g.shows("key-sheet-json", &["key", "sheet", "--json"]);
    g.shows("key-add-without-passphrase", &["key", "add"]);

    // Backup.
    g.shows("backup-without-path", &["backup"]);
    g.shows("backup-source-missing", &["backup", "sorce"]);
    g.shows("backup-nested", &["backup", "source", "source/sub"]);
    g.shows("backup-bad-pattern", &["backup", "source", "--exclude", "a{b"]);
    g.shows("backup-empty-pattern", &["backup", "source", "--exclude", " "]);
    g.shows("backup-no-pattern-file", &["backup", "source", "--exclude-file", "nowhere"]);
    fs::write(desk.path("patterns"), "fine\n[z-a]\n").unwrap();
    g.shows("backup-bad-pattern-line", &["backup", "source", "--exclude-file", "patterns"]);
    g.shows("backup-bad-tag", &["backup", "source", "--tag", "a,b"]);
    g.shows("backup-bad-policy-name", &["backup", "source", "--policy", "A B"]);
    g.shows("backup-bad-workers", &["backup", "source", "--workers", "0"]);
    g.shows("backup-the-repository", &["backup", "repository"]);
    g.shows("backup-stdin-and-path", &["backup", "-", "source"]);
    g.shows("backup-stdin-empty", &["backup", "-"]);
    g.shows("backup-stdin-twice", &["backup", "-", "--key", "-"]);
    g.shows("backup-stdin-bad-name", &["backup", "-", "--stdin-name", "/"]);
    g.shows("backup-stdin-name-without-stdin", &["backup", "source", "--stdin-name", "x"]);
    g.shows("backup-command-fails", &["backup", "--command", "--", "sh", "-c", "echo no such database >&2; exit 2"]);
    g.shows("backup-command-missing", &["backup", "--command", "--", "pg_dmup", "db"]);
    g.shows("backup-command-and-list", &["backup", "--command", "--files-from", "list", "x"]);
    g.shows("backup-list-missing", &["backup", "--files-from", "nowhere"]);
    g.shows("backup-list-empty", &["backup", "--files-from", "/dev/null"]);
    fs::write(desk.path("gone.list"), "gone/a\ngone/b\n").unwrap();
    g.shows("backup-list-of-nothing", &["backup", "--files-from", "gone.list"]);
    fs::write(desk.path("nuls"), "a\0b\0").unwrap();
    g.shows("backup-list-with-nuls", &["backup", "--files-from", "nuls"]);

    // Restore and reading.
    g.shows("ls-unknown-id", &["ls", "0123456789"]);
    g.shows("ls-no-snapshot-named", &["ls", ":/etc"]);
    g.shows("ls-path-not-in-snapshot", &["ls", "latest:/etc"]);
    g.shows("ls-dots", &["ls", "latest:/etc/../x"]);
    g.shows("ls-id-narrowed", &["ls", &listed, "--policy", "web"]);
    g.shows("snapshots-unknown-writer", &["snapshots", "--writer", "nobody"]);
    g.shows("restore-without-target", &["restore", "latest"]);
    g.shows("restore-path-not-in-snapshot", &["restore", "latest:/etc", "--to", "out"]);
    g.shows("restore-target-not-empty", &["restore", "latest", "--to", "source/sub"]);
    g.shows("restore-into-repository", &["restore", "latest", "--to", "repository/x"]);
    g.shows("restore-target-below-a-file", &["restore", "latest", "--to", "source/a.txt/x"]);
    g.shows("restore-delete-without-overwrite", &["restore", "latest", "--to", "out", "--delete"]);
    let delete = ["--to", "out", "--delete", "--overwrite", "always"];
    g.shows("restore-delete-and-include", &[&["restore", "latest", "--include", "x"], &delete[..]].concat());
    g.compare("restore-delete-of-a-list", "restore <id> --to out --delete --overwrite always", {
        desk.run([&["restore", &listed], &delete[..]].concat())
    });
    g.shows("restore-overwrite-what", &["restore", "latest", "--to", "out", "--overwrite", "sometimes"]);
    g.shows("restore-nothing-matches", &["restore", "latest", "--to", "out", "--include", "*.nothing"]);
    g.shows("restore-bad-pattern", &["restore", "latest", "--to", "out", "--exclude", "[z-a]"]);
    g.shows("restore-no-pattern-file", &["restore", "latest", "--to", "out", "--include-from", "nowhere"]);
    g.shows("restore-bad-map", &["restore", "latest", "--to", "out", "--map-owner", "ann"]);
    g.shows("restore-unknown-owner", &["restore", "latest", "--to", "out", "--target-owner", "no_such_user_here"]);
    g.shows(
        "restore-owner-unprivileged",
        &["restore", "latest", "--to", "out", "--unprivileged", "--target-owner", "0"],
    );
    g.shows("restore-dry-run-and-verify", &["restore", "latest", "--to", "out", "--dry-run", "--verify"]);
    g.shows("forget-nothing-said", &["forget"]);
    g.shows("forget-keeps-nothing", &["forget", "--keep-last", "0"]);
    g.shows("forget-rules-and-ids", &["forget", &listed, "--keep-last", "1"]);
    g.shows("forget-latest", &["forget", "latest"]);
    g.shows("forget-bad-age", &["forget", "--keep-within", "soon"]);
    g.shows("forget-bad-zone", &["forget", "--keep-last", "1", "--timezone", "Mars/Olympus"]);
    g.shows("forget-unknown-id", &["forget", "0123456789"]);
    g.shows("writer-cannot-forget", &["forget", "--keep-last", "1", "--key", "writer.key"]);
    g.shows("undelete-not-forgotten", &["undelete", &listed]);
    g.shows("hold-in-the-past", &["hold", &listed, "--reason", "audit", "--until", "2020-01-01"]);
    g.shows("hold-without-reason", &["hold", &listed]);
    g.shows("hold-not-held", &["hold", "--release", &listed]);
    g.shows("verify-bad-level", &["verify", "--level", "all"]);
    g.shows("verify-bad-sample", &["verify", "--level", "data", "--sample", "500%"]);
    g.shows("verify-sample-of-structure", &["verify", "--sample", "5%"]);

    // The words themselves.
    g.shows("verb-misspelt", &["bakup", "source"]);
    g.shows("flag-misspelt", &["backup", "source", "--exlude", "x"]);
    g.shows("flags-that-conflict", &["-q", "-v", "snapshots"]);
    g.shows("verb-missing", &["key"]);

    // The configuration and the daemon.
    g.shows("config-missing", &["config", "check", "--config", "nowhere"]);
    configure(&desk, "daily 25:00");
    g.shows("config-bad-schedule", &["config", "check", "--config", "etc"]);
    configure(&desk, "daily 02:30");
    g.shows("config-unknown-policy", &["config", "next", "nope", "--config", "etc"]);
    g.shows("daemon-unreachable", &["status", "--socket", "nowhere.sock"]);
    g.shows("run-bad-state", &["run", "list", "--state", "done"]);
    g.shows("token-bad-role", &["token", "create", "--config", "etc", "--name", "x", "--role", "root"]);
    g.shows("token-unknown", &["token", "revoke", "ci", "--config", "etc"]);

    let Gallery { seen, wrong, .. } = gallery;
    assert!(wrong.is_empty(), "{}\n{BLESS}=1 writes what was found", wrong.join("\n"));
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lifeboat/messages");
    let elsewhere = ["denied", "disk-full", "damaged"];
    for entry in fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        let known = seen.contains(&name) || elsewhere.iter().any(|prefix| name.starts_with(prefix));
        assert!(known, "nothing says {name}.txt any more");
    }
}

#[test]
fn damage_is_told_as_its_file_says() {
    let desk = Desk::with_repository();
    fs::write(desk.path("source/noise"), crate::support::repo::noise(3 << 20, 1)).unwrap();
    desk.backup();
    let mut packs = Vec::new();
    files(&desk.path("repository/d"), &mut packs);
    for pack in packs {
        fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
        let mut bytes = fs::read(&pack).unwrap();
        bytes[100..200].fill(0);
        fs::write(&pack, bytes).unwrap();
    }
    let mut gallery = Gallery { desk: &desk, seen: BTreeSet::new(), wrong: Vec::new() };
    let place = format!("latest:{}/noise", desk.path("source").display());
    let ended = desk.run(["restore", &place, "--to", "out", "-q"]);
    gallery.compare("damaged-restore", "restore latest:<desk>/source/noise --to out -q", ended);
    assert!(gallery.wrong.is_empty(), "{}", gallery.wrong.join("\n"));
}

fn files(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn what_may_not_be_read_or_written_is_told_as_its_files_say() {
    let desk = Desk::with_repository();
    desk.backup();
    let program = desk.path("lifeboat");
    fs::copy(env!("CARGO_BIN_EXE_lifeboat"), &program).unwrap();
    fs::create_dir(desk.path("locked")).unwrap();
    fs::write(desk.path("closed"), "x").unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        let theirs = Command::new("chown").args(["-R", "65534:65534"]).arg(desk.dir.path()).status().unwrap();
        assert!(theirs.success());
    }
    for name in ["locked", "closed"] {
        fs::set_permissions(desk.path(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let mut gallery = Gallery { desk: &desk, seen: BTreeSet::new(), wrong: Vec::new() };
    for (name, arguments) in [
        ("denied-source", &["backup", "closed"][..]),
        ("denied-key", &["snapshots", "--key", "closed"]),
        ("denied-repository", &["snapshots", "--repo", "locked"]),
        ("denied-target", &["restore", "latest", "--to", "locked/out"]),
        ("denied-list", &["backup", "--files-from", "closed"]),
    ] {
        let mut command = Command::new(&program);
        let like = desk.command(arguments);
        command.args(like.get_args()).current_dir(desk.dir.path()).env_clear().stdin(std::process::Stdio::null());
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if root {
            // Root may do all: the run is another user's.
            command.uid(65534).gid(65534);
        }
        gallery.compare(name, &arguments.join(" "), Ended::of(command.output().unwrap()));
    }
    fs::set_permissions(desk.path("locked"), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(gallery.wrong.is_empty(), "{}", gallery.wrong.join("\n"));
}

#[test]
fn a_full_disk_is_told_as_its_files_say() {
    let desk = Desk::with_repository();
    fs::write(desk.path("source/noise"), crate::support::repo::noise(9 << 20, 1)).unwrap();
    desk.backup();
    let disk = desk.path("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&disk).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("not tested: only root may mount a small file system to fill");
        return;
    }
    // Nothing here panics before the umount.
    let repository = desk.run(["init", "--repo", "disk/repository", "--key-out", "disk.key", "-q"]);
    let full = desk.run(["backup", "source", "--repo", "disk/repository", "--key", "disk.key"]);
    let restored = desk.run(["restore", "latest", "--to", "disk/out"]);
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    assert_eq!(repository.code, 0, "{repository:?}");
    let mut gallery = Gallery { desk: &desk, seen: BTreeSet::new(), wrong: Vec::new() };
    let told = |ended: Ended| {
        // How much room there is, is the kernel's to say.
        let err = ended.err.lines().map(|line| match line.split_once(" has room for ") {
            Some((path, _)) => format!("{path} has room for <some> bytes, and <more> are to be written\n"),
            None => format!("{line}\n"),
        });
        Ended { err: err.collect(), ..ended }
    };
    let full = Ended { err: path_of_object_removed(&full.err), ..full };
    gallery.compare("disk-full-backup", "backup source", full);
    gallery.compare("disk-full-restore", "restore latest --to disk/out", told(restored));
    assert!(gallery.wrong.is_empty(), "{}", gallery.wrong.join("\n"));
}

/// Which object met the end of the disk depends on chance.
fn path_of_object_removed(text: &str) -> String {
    let words = text.split_inclusive([' ', '\n']).map(|word| {
        let end = word.trim_end_matches([' ', '\n', ':', ',']);
        match end.contains("/repository/")
            || end.starts_with("d/")
            || end.starts_with("m/")
            || end.starts_with("w/")
            || end.starts_with("tmp/")
        {
            true => format!("<object>{}", &word[end.len()..]),
            false => word.to_owned(),
        }
    });
    words.collect()
}
