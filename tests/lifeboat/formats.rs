//! Repositories that past versions wrote: each opens by every way in, verifies, and gives back what its listing says.
//!
//! Owns `golden/`, whose README has the rules. This build's own repository goes through the same checks each time; with
//! `LIFEBOAT_TEST_GOLDEN=new` it is kept as the golden one of its format version, unless that version has one already.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use lifeboat::seal::object::VERSION;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use serde_json::Value;

use crate::support::listing;
use crate::support::repo::noise;
use crate::support::shipped::{good, lifeboat, refused};

const KEYS: &str = "public-test-keys";
const TOTAL_BYTES_MAX: u64 = 300 << 10;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lifeboat/golden")
}

fn command<S: AsRef<OsStr>>(folder: &Path, key: &str, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = lifeboat(folder, arguments);
    command.env("LIFEBOAT_REPO", folder.join("repository"));
    let way_in = folder.join(KEYS).join(key);
    if key == "passphrase" {
        command.arg("--passphrase-file").arg(way_in);
    } else {
        command.env("LIFEBOAT_KEY", way_in);
    }
    command
}

/// A snapshot as `expected.txt` tells of it.
struct Expected {
    id: String,
    writer: String,
    source: String,
    listing: String,
}

fn read_expected(folder: &Path) -> Vec<Expected> {
    let mut all: Vec<Expected> = Vec::new();
    for line in fs::read_to_string(folder.join("expected.txt")).unwrap().lines() {
        if let Some(head) = line.strip_prefix("snapshot ") {
            let [id, writer, source] = head.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let [id, writer, source] = [id, writer, source].map(str::to_owned);
            all.push(Expected { id, writer, source, listing: String::new() });
        } else {
            let snapshot = all.last_mut().expect("a snapshot's line comes first");
            snapshot.listing.push_str(line);
            snapshot.listing.push('\n');
        }
    }
    all
}

/// Every file of `from`, in directories of the same names. What holds no file is left out, and so are modes but for the keys'.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::create_dir_all(to).unwrap();
            fs::write(&target, fs::read(entry.path()).unwrap()).unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

fn files(below: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

/// All that a golden folder promises, tried on a copy.
fn check(original: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let folder = &dir.path().join("golden");
    copy(original, folder);
    let expected = read_expected(folder);

    let report: Value =
        serde_json::from_str(&good(&mut command(folder, "admin.key", ["verify", "--level", "data", "--json"])))
            .unwrap();
    assert_eq!(report["sound"], true, "{report}");

    let listed = |key: &str| -> BTreeSet<String> {
        let list = good(&mut command(folder, key, ["snapshots", "--json"]));
        let list: Vec<Value> = serde_json::from_str(&list).unwrap();
        list.iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
    };
    let all: BTreeSet<String> = expected.iter().map(|snapshot| snapshot.id.clone()).collect();
    for way_in in ["admin.key", "reader.key", "sheet.txt", "passphrase"] {
        assert_eq!(listed(way_in), all, "by {way_in}");
    }

    for (number, snapshot) in expected.iter().enumerate() {
        // Each way in restores something; the passphrase, which takes its time by design, the newest one only.
        let way_in = match number {
            last if last + 1 == expected.len() => "passphrase",
            other => ["reader.key", "sheet.txt", "admin.key"][other % 3],
        };
        let out = dir.path().join(format!("out-{number}"));
        let place = format!("{}:{}", snapshot.id, snapshot.source);
        let arguments = ["restore", &place, "--unprivileged", "--verify", "--to", out.to_str().unwrap()];
        good(&mut command(folder, way_in, arguments));
        assert_eq!(listing::of(&out), snapshot.listing, "{} by {way_in}", snapshot.id);
        if snapshot.writer == "admin" {
            let sparse = fs::metadata(out.join("sparse")).unwrap();
            assert!(sparse.blocks() * 512 < sparse.len() / 2, "the hole was filled: {} blocks", sparse.blocks());
        }
    }

    // A writer sees the names of its own snapshots, and nobody's content.
    let own = expected.iter().find(|snapshot| snapshot.writer == "web").unwrap();
    assert!(good(&mut command(folder, "web.key", ["ls", &own.id])).contains("page.html"));
    let out = dir.path().join("of-writer");
    refused(&mut command(folder, "web.key", ["restore", &own.id, "--to", out.to_str().unwrap()]), 6);
    refused(&mut command(folder, "old.key", ["backup", folder.to_str().unwrap()]), 6);

    // And it goes on: this build writes into it, and what was there stays.
    let more = dir.path().join("more");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("file"), noise(5000, 99)).unwrap();
    for key in ["web.key", "admin.key"] {
        good(&mut command(folder, key, ["-q", "backup", more.to_str().unwrap()]));
    }
    good(&mut command(folder, "admin.key", ["verify", "--level", "data"]));
    assert_eq!(listed("reader.key").len(), all.len() + 2);
}

#[test]
fn every_past_format_has_a_golden_repository_and_it_comes_back() {
    let folders: BTreeSet<String> = fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let versions: BTreeSet<String> = (1..=VERSION).map(|version| format!("v{version}")).collect();
    assert_eq!(folders, versions, "a folder per format version, none skipped");
    for folder in folders {
        check(&golden().join(folder));
    }
}

#[test]
fn a_repository_of_this_build_passes_what_golden_ones_pass() {
    let dir = tempfile::tempdir().unwrap();
    let (made, plain) = (dir.path().join("made"), dir.path().join("plain"));
    make(&made);
    fs::create_dir(&plain).unwrap();
    fs::copy(made.join("expected.txt"), plain.join("expected.txt")).unwrap();
    for part in ["repository", KEYS] {
        copy(&made.join(part), &plain.join(part)); // as Git would bring it back: files only
    }
    check(&plain);
    match std::env::var("LIFEBOAT_TEST_GOLDEN").as_deref() {
        Err(_) => {}
        Ok("new") => {
            let kept = golden().join(format!("v{VERSION}"));
            fs::create_dir(&kept).expect("a golden repository is never replaced");
            copy(&plain, &kept);
        }
        Ok(other) => panic!("LIFEBOAT_TEST_GOLDEN is `new` or nothing, not {other:?}"),
    }
}

/// A repository with an object of every kind that the command line makes, and its expected listing.
fn make(folder: &Path) {
    let keys = folder.join(KEYS);
    fs::create_dir_all(&keys).unwrap();
    let key = |name: &str| keys.join(name).to_str().unwrap().to_owned();
    fs::write(keys.join("passphrase"), "a public test value\n").unwrap();
    fs::set_permissions(keys.join("passphrase"), fs::Permissions::from_mode(0o600)).unwrap();
    let repository = folder.join("repository");
    let init = ["init", "--key-out", &key("admin.key"), "--passphrase-file", &key("passphrase"), "--repo"];
    good(lifeboat(folder, init).arg(&repository));
    for (role, name) in [("reader", "reader.key"), ("writer", "web.key"), ("writer", "old.key")] {
        good(&mut command(folder, "admin.key", ["key", "export", "--role", role, "--out", &key(name)]));
    }
    good(&mut command(folder, "admin.key", ["key", "sheet", "--out", &key("sheet.txt")]));

    let tree = folder.join("tree");
    let mut expected = String::new();
    let mut backup = |writer: &str, source: &Path| {
        let path = source.to_str().unwrap();
        let id = good(&mut command(folder, &format!("{writer}.key"), ["-q", "backup", path]));
        expected.push_str(&format!("snapshot {} {writer} {path}\n{}", id.trim(), listing::of(source)));
    };
    plant(&tree.join("main"));
    backup("admin", &tree.join("main"));
    for (writer, name) in [("web", "page.html"), ("old", "left.txt")] {
        let source = tree.join(writer);
        fs::create_dir(&source).unwrap();
        fs::write(source.join(name), format!("of {writer}\n")).unwrap();
        backup(writer, &source);
    }
    for round in 0..8 {
        fs::write(tree.join("main/changing"), format!("change {round}\n")).unwrap();
        backup("admin", &tree.join("main"));
    }
    let list: Value =
        serde_json::from_str(&good(&mut command(folder, "admin.key", ["key", "list", "--json"]))).unwrap();
    let writers = list["writers"].as_array().unwrap();
    let old = writers.iter().find(|writer| writer["name"] == "old").unwrap_or_else(|| panic!("{list}"));
    good(&mut command(folder, "admin.key", ["key", "remove", old["id"].as_str().unwrap()]));
    fs::write(tree.join("main/changing"), "the last change\n").unwrap();
    backup("admin", &tree.join("main"));
    fs::write(folder.join("expected.txt"), expected).unwrap();

    for kind in ["config", "keys", "writers", "revoked", "i/d", "i/s", "s", "d", "m"] {
        assert!(repository.join(kind).is_dir() && !files(&repository.join(kind)).is_empty(), "no {kind}");
    }
    let total: u64 = files(&repository).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(total < TOTAL_BYTES_MAX, "{total} bytes are much for a folder that every clone carries");
}

fn plant(root: &Path) {
    fs::create_dir_all(root.join("folder/deep")).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("folder/text"), "some text\n".repeat(50)).unwrap();
    fs::write(root.join("folder/deep/noise"), noise(20_000, 1)).unwrap();
    fs::write(root.join("folder/a name with spaces"), "spaces\n").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not-utf8-\xff\xfe")), "no encoding is promised\n").unwrap();
    fs::write(root.join("two"), "two names\n").unwrap();
    fs::hard_link(root.join("two"), root.join("folder/names")).unwrap();
    symlink("folder/text", root.join("link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    let fifo = root.join("fifo");
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(&noise(3000, 2), 1 << 20).unwrap();
    // Pieces of a disk image are listed one by one: enough of them that the list becomes a tree.
    let image: Vec<u8> = (0..70u8).flat_map(|block| [block + 1; 1 << 16]).collect();
    fs::write(root.join("disk.img"), image).unwrap();
    for (name, value) in [("user.lifeboat.text", &b"an attribute"[..]), ("user.lifeboat.bytes", b"\0\x01\xff")] {
        rustix::fs::setxattr(root.join("two"), name, value, XattrFlags::CREATE).unwrap();
    }
    for (path, mode) in [("empty", 0o400), ("folder/text", 0o664), ("folder/deep", 0o700), ("folder", 0o755)] {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    // 1960-01-01 and 2200-01-01, both with nanoseconds.
    for (path, seconds) in
        [("folder/text", -315_619_200), ("link", -315_619_200), ("two", 7_258_118_400), ("folder/deep", 7_258_118_400)]
    {
        let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, root.join(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}
