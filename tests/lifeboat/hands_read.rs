//! The commands that read, from outside: snapshots, ls, find, diff, dump, stats, completions, man.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// A repository, its key, and a source to save again and again.
struct Desk {
    dir: tempfile::TempDir,
}

#[derive(Debug)]
struct Ended {
    code: i32,
    out: Vec<u8>,
    err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let err = String::from_utf8(output.stderr).unwrap();
        Self { code: output.status.code().expect("no signal ended it"), out: output.stdout, err }
    }
}

impl Ended {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    #[track_caller]
    fn refused(&self, code: i32, sentence: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(sentence), "{self:?}");
        assert!(self.out.is_empty(), "{self:?}");
    }
}

impl Desk {
    fn new() -> Self {
        let desk = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(desk.path("home")).unwrap();
        fs::create_dir_all(desk.path("source/etc/nginx")).unwrap();
        fs::write(desk.path("source/etc/fstab"), "proc\nsys\ntmp\n").unwrap();
        fs::write(desk.path("source/etc/nginx/site.conf"), "listen 80\n").unwrap();
        desk.good(["init", "--key-out", "admin.key"]);
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    /// The absolute path of something in the source, as text.
    fn source(&self, name: &str) -> String {
        self.path("source").join(name).to_str().unwrap().trim_end_matches('/').to_owned()
    }

    fn at(&self, snapshot: &str, name: &str) -> String {
        format!("{snapshot}:{}", self.source(name))
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.args(arguments).current_dir(self.dir.path()).env_clear().stdin(Stdio::null());
        command.env("HOME", self.path("home")).env("TZ", "UTC").env("PATH", std::env::var_os("PATH").unwrap());
        command.env("LIFEBOAT_REPO", self.path("repository")).env("LIFEBOAT_KEY", self.path("admin.key"));
        command
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ended {
        self.command(arguments).output().unwrap().into()
    }

    #[track_caller]
    fn good<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.text().to_owned()
    }

    #[track_caller]
    fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Value {
        serde_json::from_str(&self.good(arguments)).unwrap()
    }

    /// Saves the source; the whole id.
    fn backup(&self, more: &[&str]) -> String {
        self.good([&["-q", "backup", "source"], more].concat()).trim().to_owned()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path("source").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Files of the repository whose key begins so, the largest first.
    fn objects(&self, prefix: &str) -> Vec<PathBuf> {
        let (mut todo, mut found) = (vec![self.path("repository").join(prefix)], Vec::new());
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() { todo.push(entry.path()) } else { found.push(entry.path()) }
            }
        }
        found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
        found
    }
}

/// Bytes that no compressor and no chunker likes, the same for the same seed.
fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn spoil(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let len = fs::metadata(path).unwrap().len();
    let file = File::options().read(true).write(true).open(path).unwrap();
    for at in (len / 8..len).step_by(64) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x55], at).unwrap();
    }
}

fn short(id: &str) -> &str {
    &id[..8]
}

#[test]
fn find_tells_each_version_and_the_snapshots_that_hold_it() {
    let desk = Desk::new();
    let first = desk.backup(&[]);
    let second = desk.backup(&[]);
    desk.write("etc/fstab", "proc\n");
    let third = desk.backup(&[]);
    fs::remove_file(desk.path("source/etc/fstab")).unwrap();
    desk.backup(&[]);
    desk.write("etc/fstab", "proc\n");
    let fifth = desk.backup(&[]);
    let found = desk.json(["find", "fstab", "--json"]);
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["path"], json!(desk.source("etc/fstab")));
    let versions = found[0]["versions"].as_array().unwrap();
    let of: Vec<Value> = versions.iter().map(|version| version["snapshots"].clone()).collect();
    assert_eq!(of, [json!([fifth]), json!([third]), json!([second, first])]);
    let sizes: Vec<u64> = versions.iter().map(|version| version["size"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [5, 5, 13]);
    assert!(versions[2]["oldest_time"].as_str() < versions[2]["newest_time"].as_str());
    let shown = desk.good(["find", "fstab"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!((lines.len(), lines[0]), (4, desk.source("etc/fstab").as_str()));
    assert!(lines[3].contains(short(&second)) && lines[3].ends_with(&format!("+1 from {}", short(&first))), "{shown}");
}

#[test]
fn find_looks_where_and_for_what_it_is_told() {
    let desk = Desk::new();
    desk.write("Report.TXT", noise(1, 5000));
    symlink("fstab", desk.path("source/etc/link.conf")).unwrap();
    let old = File::options().write(true).open(desk.path("source/etc/fstab")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)).unwrap();
    let first = desk.backup(&["--policy", "web", "--tag", "one"]);
    desk.write("etc/new.conf", "x");
    let second = desk.backup(&["--tag", "two"]);
    let names = |arguments: &[&str]| -> Vec<String> {
        let found = desk.json([&["find", "--json"], arguments].concat());
        let name = |found: &Value| found["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        found.as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(names(&["*.conf"]), ["link.conf", "new.conf", "site.conf"]);
    assert_eq!(names(&["*.conf", "--type", "l"]), ["link.conf"]);
    assert_eq!(names(&["nginx/*.conf"]), ["site.conf"]);
    assert_eq!(names(&["nginx", "--type", "d", "--type", "f"]), ["nginx"]);
    assert_eq!(names(&["report.*"]), Vec::<String>::new());
    assert_eq!(names(&["report.*", "-i"]), ["Report.TXT"]);
    assert_eq!(names(&["*", "--type", "f", "--larger", "4KiB"]), ["Report.TXT"]);
    assert_eq!(names(&["*", "--type", "f", "--smaller", "10"]), ["new.conf"]);
    assert_eq!(names(&["*", "--type", "f", "--older", "2002-01-01"]), ["fstab"]);
    assert_eq!(names(&["*.conf", "fstab", "--type", "f", "--newer", "1d"]), ["new.conf", "site.conf"]);
    assert_eq!(names(&["*.conf", "--policy", "web"]), ["link.conf", "site.conf"]);
    assert_eq!(names(&["new.conf", "--tag", "two"]), ["new.conf"]);
    assert_eq!(names(&["new.conf", "--snapshot", &first]), Vec::<String>::new());
    assert_eq!(names(&["new.conf", "--snapshot", short(&first), "--snapshot", short(&second)]), ["new.conf"]);
    assert_eq!(names(&["*.conf", "--snapshot", &first, "--tag", "two"]), Vec::<String>::new());
    assert_eq!(names(&["*.conf", "--path", &desk.source("etc/nginx")]), ["site.conf"]);
    assert_eq!(names(&["*.conf", "--host", "no-such-host"]), Vec::<String>::new());
    desk.run(["find", "a["]).refused(2, "cannot be read");
    desk.run(["find", "a", "--newer", "yesterday"]).refused(2, "no time");
    desk.run(["find", "a", "--snapshot", "ffffffff"]).refused(4, "no snapshot is named ffffffff");
}

#[test]
fn find_reads_what_snapshots_share_once() {
    let desk = Desk::new();
    (0..600).for_each(|n| desk.write(&format!("many/file-{n:04}"), "x"));
    let read = |ended: Ended| -> u64 {
        assert_eq!(ended.code, 0, "{ended:?}");
        let words: Vec<&str> = ended.err.split_whitespace().collect();
        words[words.iter().position(|word| *word == "tree").unwrap() - 1].parse().unwrap()
    };
    desk.backup(&[]);
    let once = read(desk.run(["find", "file-0300"]));
    (0..5).for_each(|_| drop(desk.backup(&[])));
    assert_eq!(read(desk.run(["find", "file-0300"])), once);
    desk.write("many/file-0300", "y");
    desk.backup(&[]);
    let more = read(desk.run(["find", "file-0300"]));
    assert!(more > once && more <= once + 4, "{once}, then {more}");
}

#[test]
fn find_separates_what_several_writers_saved() {
    let desk = Desk::new();
    desk.good(["key", "export", "--role", "writer", "--name", "web1", "--out", "web1.key"]);
    desk.backup(&[]);
    desk.backup(&["--key", "web1.key"]);
    let found = desk.json(["find", "fstab", "--json"]);
    let writers: Vec<&str> = found.as_array().unwrap().iter().map(|f| f["writer_name"].as_str().unwrap()).collect();
    assert_eq!(writers.len(), 2);
    assert!(writers.contains(&"web1"));
    assert!(desk.good(["find", "fstab"]).contains("# writer web1"));
    assert_eq!(desk.json(["find", "fstab", "--writer", "web1", "--json"]).as_array().unwrap().len(), 1);
    // A writer sees the names of its own snapshots.
    let own = desk.json(["find", "fstab", "--json", "--key", "web1.key"]);
    assert_eq!(own.as_array().unwrap().len(), 1);
}

#[test]
fn diff_names_what_came_went_and_changed() {
    let desk = Desk::new();
    desk.write("same/deep/file", "x");
    desk.write("mode", "x");
    desk.write("gone", "12345");
    desk.write("kind", "x");
    desk.write("content", "before");
    symlink("here", desk.path("source/link")).unwrap();
    let first = desk.backup(&[]);
    fs::set_permissions(desk.path("source/mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(desk.path("source/gone")).unwrap();
    fs::remove_file(desk.path("source/kind")).unwrap();
    fs::create_dir(desk.path("source/kind")).unwrap();
    desk.write("content", "after!!");
    desk.write("new/file", "123");
    fs::remove_file(desk.path("source/link")).unwrap();
    symlink("there", desk.path("source/link")).unwrap();
    let second = desk.backup(&[]);
    let diff = desk.json(["diff", &first, &second, "--json"]);
    let shown: Vec<(String, String)> = diff["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|change| change["differs"] != json!(["mtime"]))
        .map(|change| {
            let path = change["path"].as_str().unwrap().strip_prefix(&desk.source("")).unwrap();
            (change["letter"].as_str().unwrap().to_owned(), path.to_owned())
        })
        .collect();
    let wanted = [
        ("M", "/content"),
        ("-", "/gone"),
        ("T", "/kind"),
        ("M", "/link"),
        ("U", "/mode"),
        ("+", "/new"),
        ("+", "/new/file"),
    ];
    assert_eq!(shown, wanted.map(|(letter, path)| (letter.to_owned(), path.to_owned())));
    let summary = &diff["summary"];
    assert_eq!(summary["added"], json!({"files": 1, "directories": 1, "others": 0, "bytes": 3}));
    assert_eq!(summary["removed"], json!({"files": 1, "directories": 0, "others": 0, "bytes": 5}));
    assert_eq!((&summary["modified"], &summary["types"]), (&json!(2), &json!(1)));
    assert_eq!((&summary["modified_bytes_before"], &summary["modified_bytes_after"]), (&json!(6), &json!(7)));
    let text = desk.good(["diff", &first, &second]);
    assert!(text.contains(&format!("U  {}  (mode 0644 -> 0600)", desk.source("mode"))), "{text}");
    assert!(text.contains(&format!("M  {}  6 B -> 7 B", desk.source("content"))), "{text}");
    assert!(!text.contains(&format!("U  {}  (time)", desk.source(""))), "{text}");
    assert!(desk.good(["diff", &first, &second, "-v"]).contains(&format!("U  {}  (time)", desk.source(""))));
    // The same the other way round, of a part, and as totals only.
    let back = desk.json(["diff", &desk.at(&second, "new"), &desk.at(&first, "same"), "--json"]);
    assert_eq!(back["summary"]["removed"]["files"], 1);
    assert_eq!(back["changes"][1]["relative_path"], "deep");
    assert!(!desk.good(["diff", &first, &second, "--summary"]).contains("/content"));
    assert_eq!(desk.good(["diff", "latest", "--json"]), desk.good(["diff", &first, &second, "--json"]));
}

#[test]
fn diff_of_two_writers_compares_bytes_where_ids_cannot_tell() {
    let desk = Desk::new();
    desk.write("big", noise(10, 3_000_000));
    desk.good(["key", "export", "--role", "writer", "--name", "web1", "--out", "web1.key"]);
    let theirs = desk.backup(&["--key", "web1.key"]);
    let ours = desk.backup(&[]);
    let same = desk.run(["diff", &theirs, &ours, "--exit-code"]);
    assert_eq!(same.code, 0, "{same:?}");
    let mut bytes = noise(10, 3_000_000);
    bytes[2_999_999] ^= 1;
    desk.write("big", bytes);
    let changed = desk.backup(&[]);
    let diff = desk.json(["diff", &theirs, &changed, "--json"]);
    assert_eq!((&diff["summary"]["modified"], &diff["changes"][0]["letter"]), (&json!(1), &json!("M")), "{diff}");
}

#[test]
fn diff_ends_with_one_only_if_it_was_asked_to() {
    let desk = Desk::new();
    let first = desk.backup(&[]);
    desk.run(["diff", "latest"]).refused(4, "no snapshot before");
    desk.write("new", "x");
    let second = desk.backup(&[]);
    assert_eq!(desk.run(["diff", &first, &second]).code, 0);
    assert_eq!(desk.run(["diff", &first, &second, "--exit-code"]).code, 1);
    let same = desk.run(["diff", &second, "latest", "--exit-code"]);
    assert_eq!(same.code, 0);
    assert!(same.text().contains("no differences"));
    desk.run(["diff", &first, &desk.at("latest", "no-such")]).refused(4, "is not in snapshot");
    desk.run(["diff", &desk.at(&first, "etc"), "latest", "--content", "/x"]).refused(2, "--content");
}

#[test]
fn diff_of_a_file_is_what_patch_needs() {
    let desk = Desk::new();
    let lines = |change: &[usize]| -> String {
        let line = |n: usize| if change.contains(&n) { format!("changed {n}\n") } else { format!("line {n}\n") };
        (0..200).map(line).collect()
    };
    desk.write("text", lines(&[]));
    desk.write("binary", noise(2, 700_000));
    let first = desk.backup(&[]);
    let mut after = lines(&[0, 17, 18, 120]) + "no end";
    after.insert_str(500, "more\nand more\n");
    desk.write("text", &after);
    let mut bytes = noise(2, 700_000);
    bytes[654_321] ^= 1;
    desk.write("binary", bytes);
    let second = desk.backup(&[]);
    let text = desk.source("text");
    let ended = desk.run(["diff", &first, &second, "--content", &text, "--exit-code"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    let by_place = desk.good(["diff", &desk.at(&first, "text"), &desk.at(&second, "text")]);
    assert_eq!(by_place.as_bytes(), ended.out);
    fs::write(desk.path("old"), lines(&[])).unwrap();
    fs::write(desk.path("change"), &ended.out).unwrap();
    let patch = Command::new("patch").args(["-s", "old", "change"]).current_dir(desk.dir.path()).status().unwrap();
    assert!(patch.success());
    assert_eq!(fs::read_to_string(desk.path("old")).unwrap(), after);
    let binary = desk.json(["diff", &first, &second, "--content", &desk.source("binary"), "--json"]);
    assert_eq!((&binary["content"], &binary["first_difference"]), (&json!("binary"), &json!(654_321)));
    desk.run(["diff", &first, &second, "--content", &desk.source("etc")]).refused(2, "is not a file in both");
}

#[test]
fn dump_gives_the_bytes_of_a_file_and_nothing_else() {
    let desk = Desk::new();
    let big = noise(3, 9_000_000);
    desk.write("big", &big);
    desk.write("empty", "");
    let sparse = File::create(desk.path("source/sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 20 << 20).unwrap();
    let id = desk.backup(&[]);
    assert!(desk.run(["dump", &desk.at(&id, "big")]).out == big);
    let empty = desk.run(["dump", &desk.at("latest", "empty")]);
    assert_eq!((empty.code, empty.out.len(), empty.err.as_str()), (0, 0, ""));
    let out = desk.run(["dump", &desk.at(&id, "sparse")]).out;
    assert!(out == fs::read(desk.path("source/sparse")).unwrap());
    desk.good(["dump", &desk.at(&id, "sparse"), "--to", "copy"]);
    assert!(fs::read(desk.path("copy")).unwrap() == out);
    let meta = fs::metadata(desk.path("copy")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert!(meta.blocks() * 512 < 1 << 20, "holes stay holes");
    assert_eq!(meta.mode() & 0o777, 0o600);
    let told = desk.json(["dump", &desk.at(&id, "big"), "--to", "big", "--json"]);
    assert_eq!((&told["bytes"], &told["snapshot"]), (&json!(9_000_000), &json!(id)));
    desk.run(["dump", &desk.at(&id, "big"), "--to", "copy"]).refused(7, "exists already");
    assert!(fs::read(desk.path("copy")).unwrap() == out);
}

#[test]
fn dump_refuses_what_has_no_content_and_says_what_may_have_been_meant() {
    let desk = Desk::new();
    symlink("fstab", desk.path("source/etc/link")).unwrap();
    let id = desk.backup(&[]);
    desk.run(["dump", &desk.at(&id, "etc")]).refused(2, "--archive tar");
    desk.run(["dump", &desk.at(&id, "etc/link")]).refused(2, "is a link to fstab");
    desk.run(["dump", &id]).refused(2, "names a snapshot and no file");
    desk.run(["dump", &desk.at(&id, "etc/fstap")]).refused(4, &format!("did you mean {}?", desk.source("etc/fstab")));
    desk.run(["ls", &desk.at(&id, "etc/ngnix/site.conf")])
        .refused(4, &format!("did you mean {}?", desk.source("etc/nginx")));
    desk.run(["dump", &desk.at(&id, "etc/fstab/x")]).refused(4, &desk.source("etc/fstab"));
    desk.run(["dump", &format!("{id}:/elsewhere")]).refused(4, "it saved");
    let typo = format!("{}{}", if id.starts_with('0') { "1" } else { "0" }, &id[1..8]);
    desk.run(["dump", &desk.at(&typo, "etc/fstab")]).refused(4, &format!("did you mean {}", short(&id)));
    desk.run(["ls", "/etc"]).refused(4, "latest:/etc");
    desk.run(["dump", &desk.at(&id, "etc/fstab"), "--json"]).refused(2, "--to FILE");
    desk.good(["key", "export", "--role", "writer", "--out", "web1.key"]);
    let own = desk.backup(&["--key", "web1.key"]);
    desk.run(["dump", &desk.at(&own, "etc/fstab"), "--key", "web1.key"]).refused(6, "needs an admin or reader key");
    desk.run(["ls", &id, "--key", "web1.key"]).refused(6, "another writer's snapshot");
}

#[test]
fn whoever_stops_reading_a_dump_gets_no_error_and_a_full_device_does() {
    let desk = Desk::new();
    desk.write("big", noise(4, 20_000_000));
    let id = desk.backup(&[]);
    let mut child =
        desk.command(["dump", &desk.at(&id, "big")]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ended = Ended::from(desk.command(["dump", &desk.at(&id, "big")]).stdout(full).output().unwrap());
    ended.refused(1, "cannot write the output");
}

#[test]
fn a_dump_of_damaged_bytes_ends_with_thirteen_and_leaves_no_file() {
    let desk = Desk::new();
    desk.write("big", noise(5, 6_000_000));
    let id = desk.backup(&[]);
    spoil(&desk.objects("")[0]);
    let ended = desk.run(["dump", &desk.at(&id, "big"), "--to", "copy"]);
    ended.refused(13, "damaged");
    assert!(!desk.path("copy").exists());
    let piped = desk.run(["dump", &desk.at(&id, "big")]);
    assert_eq!(piped.code, 13);
    assert!(piped.out.len() < 6_000_000 && noise(5, 6_000_000).starts_with(&piped.out), "no wrong byte comes out");
}

/// What rsync would have to change to make `to` what `from` is.
fn differences(from: &Path, to: &Path) -> String {
    let slash = |path: &Path| format!("{}/", path.display());
    let output = Command::new("rsync").args(["-aHAXnci", "--delete", &slash(from), &slash(to)]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_tar_of_a_directory_comes_back_the_same() {
    let desk = Desk::new();
    let source = desk.path("source");
    desk.write("big", noise(6, 3_000_000));
    desk.write("empty", "");
    (0..300).for_each(|n| desk.write(&format!("many/f{n:03}"), format!("file {n}")));
    desk.write(&format!("deep/{}/{}", "d".repeat(120), "f".repeat(200)), "deep");
    desk.write("name with spaces and ü", "x");
    fs::write(source.join(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"raw\xff\n")), "raw").unwrap();
    symlink("t".repeat(150), source.join("long-link")).unwrap();
    symlink("etc/fstab", source.join("link")).unwrap();
    fs::hard_link(source.join("etc/fstab"), source.join("etc/twice")).unwrap();
    fs::hard_link(source.join("etc/fstab"), source.join("zlast")).unwrap();
    fs::set_permissions(source.join("empty"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(source.join("many"), fs::Permissions::from_mode(0o1777)).unwrap();
    let sparse = File::create(source.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(b"x", 1 << 20).unwrap();
    for (attribute, value) in [("user.plain", "one"), ("user.with=sign%", "two")] {
        let set = Command::new("setfattr").args(["-n", attribute, "-v", value]).arg(source.join("big")).status();
        assert!(set.unwrap().success());
    }
    assert!(Command::new("mkfifo").arg(source.join("fifo")).status().unwrap().success());
    let old = File::options().write(true).open(source.join("empty")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH - std::time::Duration::from_millis(86_400_500)).unwrap();
    let id = desk.backup(&[]);
    let extract = |archive: &Path, into: &str| {
        let into = desk.path(into);
        fs::create_dir(&into).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"]).arg(archive).arg("-C").arg(&into);
        let output = tar.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        into
    };
    let told = desk.json(["dump", &desk.at(&id, ""), "--archive", "tar", "--to", "all.tar", "--json"]);
    assert_eq!(told["left_out"], json!([]));
    assert_eq!(told["bytes"].as_u64(), Some(fs::metadata(desk.path("all.tar")).unwrap().len()));
    let out = extract(&desk.path("all.tar"), "out");
    assert_eq!(differences(&source, &out), "");
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(out.join("zlast")).unwrap().nlink(), 3);
    assert_eq!(fs::metadata(out.join("empty")).unwrap().mtime_nsec(), 500_000_000);
    // By a pipe it is the same stream; a part and a single file are packed alike.
    assert!(desk.run(["dump", &desk.at(&id, ""), "--archive", "tar"]).out == fs::read(desk.path("all.tar")).unwrap());
    desk.good(["dump", &desk.at(&id, "many"), "--archive", "tar", "--to", "many.tar"]);
    assert_eq!(differences(&source.join("many"), &extract(&desk.path("many.tar"), "many-out")), "");
    desk.good(["dump", &desk.at(&id, "etc/fstab"), "--archive", "tar", "--to", "one.tar"]);
    let one = extract(&desk.path("one.tar"), "one-out");
    assert_eq!(fs::read_to_string(one.join("fstab")).unwrap(), "proc\nsys\ntmp\n");
    // All of the snapshot, with the directories above the source.
    desk.good(["dump", &id, "--archive", "tar", "--to", "whole.tar"]);
    let whole = extract(&desk.path("whole.tar"), "whole-out");
    assert_eq!(differences(&source, &whole.join(source.strip_prefix("/").unwrap())), "");
}

#[test]
fn a_socket_is_named_when_a_tar_cannot_hold_it() {
    let desk = Desk::new();
    let _socket = std::os::unix::net::UnixListener::bind(desk.path("source/socket")).unwrap();
    let id = desk.backup(&[]);
    let ended = desk.run(["dump", &desk.at(&id, ""), "--archive", "tar", "--to", "all.tar"]);
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(ended.err.contains(&desk.source("socket")), "{ended:?}");
    let listed = Command::new("tar").arg("-tf").arg(desk.path("all.tar")).output().unwrap();
    assert!(listed.status.success() && String::from_utf8(listed.stdout).unwrap().contains("./etc/fstab"));
}

#[test]
fn stats_divide_what_is_stored_and_lose_none_of_it() {
    let desk = Desk::new();
    desk.write("shared", noise(7, 1_000_000));
    desk.backup(&["--policy", "web"]);
    desk.write("of-db", noise(8, 2_000_000));
    desk.backup(&["--policy", "db"]);
    let plain = desk.json(["stats", "--json"]);
    for field in ["store_mode", "url", "logical_bytes", "different_bytes", "stored_bytes", "dedup_ratio", "frames"] {
        assert!(!plain[field].is_null(), "{field}: {plain}");
    }
    assert_eq!((&plain["store_mode"], &plain["snapshots"]), (&json!("multi-writer"), &json!(2)));
    assert_eq!(plain["logical_bytes"], 4_000_046);
    let sizes: u64 = desk.objects("").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(plain["stored_bytes"].as_u64(), Some(sizes));
    let content = plain["content"]["different_bytes"].as_u64().unwrap();
    assert_eq!(content, 3_000_023, "each different byte once");
    for by in ["policy", "writer", "host", "snapshot"] {
        let stats = desk.json(["stats", "--by", by, "--json"]);
        assert_eq!((&stats["by"], &stats["unheld_bytes"]), (&json!(by), &json!(0)), "{stats}");
        let shares = stats["shares"].as_array().unwrap();
        let sum = |field: &str| shares.iter().map(|share| share[field].as_u64().unwrap()).sum::<u64>();
        let packed =
            stats["content"]["pack_bytes"].as_u64().unwrap() + stats["metadata"]["pack_bytes"].as_u64().unwrap();
        assert!(sum("stored_share_bytes") <= packed && sum("stored_share_bytes") > packed * 9 / 10, "{stats}");
        assert_eq!(sum("logical_bytes"), 4_000_046);
        if shares.len() == 1 {
            assert_eq!(shares[0]["unique_bytes"], stats["different_bytes"]);
        }
    }
    let stats = desk.json(["stats", "--by", "policy", "--json"]);
    let of =
        |name: &str| stats["shares"].as_array().unwrap().iter().find(|share| share["name"] == name).unwrap().clone();
    let (web, db) = (of("web"), of("db"));
    assert!(db["unique_bytes"].as_u64().unwrap() > 2_000_000 && db["unique_bytes"].as_u64().unwrap() < 2_100_000);
    assert!(web["unique_bytes"].as_u64().unwrap() < 100_000, "{web}");
    assert!(web["different_bytes"].as_u64().unwrap() > 1_000_000);
    let table = desk.good(["stats", "--by", "policy"]);
    assert!(table.contains("deduplication 1.33 x") && table.contains("Policy"), "{table}");
}

#[test]
fn stats_read_no_content() {
    let desk = Desk::new();
    desk.write("big", noise(9, 4_000_000));
    desk.backup(&[]);
    let before = desk.json(["stats", "--by", "host", "--json"]);
    spoil(&desk.objects("")[0]);
    assert_eq!(desk.json(["stats", "--by", "host", "--json"]), before);
}

#[test]
fn snapshots_stand_in_groups_and_the_newest_of_each_can_be_had() {
    let desk = Desk::new();
    let ids =
        [("web", "a"), ("web", "b"), ("db", "a")].map(|(policy, tag)| desk.backup(&["--policy", policy, "--tag", tag]));
    let own = desk.backup(&[]);
    let listed = |arguments: &[&str]| -> Vec<String> {
        let list = desk.json([&["snapshots", "--json"], arguments].concat());
        list.as_array().unwrap().iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(&["--last"]), [&ids[1], &ids[2], &own].map(String::clone));
    assert_eq!(listed(&["--latest", "1", "--group-by", "host"]), std::slice::from_ref(&own));
    assert_eq!(listed(&["--latest", "2", "--group-by", "none"]), [ids[2].clone(), own.clone()]);
    assert_eq!(listed(&["--policy", "web"]), ids[..2]);
    let list = desk.json(["snapshots", "--json"]);
    assert!(list[0]["seconds"].as_f64().is_some_and(|seconds| seconds >= 0.0), "{list}");
    assert!(list[0]["new_bytes"].as_u64().unwrap() > 0 && list[0]["problems_count"] == 0, "{list}");
    let grouped = desk.good(["snapshots", "--group-by", "policy"]);
    let heads: Vec<&str> = grouped.lines().filter(|line| line.starts_with('#')).collect();
    assert_eq!(heads.len(), 3, "{grouped}");
    assert!(heads[2].starts_with("# policy web: 2 snapshots, the newest "), "{grouped}");
    // For a script: every column, whatever is empty.
    let plain = desk.good(["snapshots", "--policy", "web", "--tag", "a"]);
    let columns: Vec<&str> = plain.lines().next().unwrap().split_whitespace().collect();
    let wanted = "ID Time Writer Host Policy Outcome Files Size Stored Took Tags Paths";
    assert_eq!(columns.join(" "), wanted);
}

/// What a terminal of `columns` shows.
fn on_a_terminal(desk: &Desk, columns: u32, arguments: &[&str]) -> String {
    let line = format!("stty cols {columns}; exec {} {}", env!("CARGO_BIN_EXE_lifeboat"), arguments.join(" "));
    let plain = desk.command::<&str>([]);
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(desk.dir.path()).env_clear().stdin(Stdio::null());
    for (name, value) in plain.get_envs() {
        script.env(name, value.unwrap_or_default());
    }
    let output = script.env("SHELL", "/bin/sh").output().unwrap();
    String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n")
}

#[test]
fn nothing_wraps_on_a_terminal() {
    let desk = Desk::new();
    desk.write("数据/a-file-with-a-name-that-goes-on-and-on-for-quite-a-while-until-it-ends.conf", "x");
    (0..3).for_each(|n| drop(desk.backup(&["--policy", "web", "--tag", &format!("a-rather-long-tag-{n}")])));
    desk.backup(&["--policy", "database-of-the-accounting-department"]);
    for columns in [60, 80, 120] {
        for arguments in
            [&["snapshots"][..], &["snapshots", "--last"], &["stats", "--by", "policy"], &["stats", "--by", "snapshot"]]
        {
            let shown = on_a_terminal(&desk, columns, arguments);
            assert!(shown.lines().count() > 3, "{shown}");
            let table = shown.lines().skip_while(|line| !line.starts_with("ID") && !line.contains("Unique"));
            assert!(table.clone().count() > 1, "{shown}");
            for line in table {
                let width = line.chars().map(|c| if c > '\u{2e80}' { 2 } else { 1 }).sum::<usize>();
                assert!(width <= columns as usize, "{columns}: {line:?} in\n{shown}");
            }
        }
        let found = on_a_terminal(&desk, columns, &["find", "fstab", "-q"]);
        assert!(found.lines().skip(1).all(|line| line.chars().count() <= columns as usize), "{found}");
    }
    let refused = on_a_terminal(&desk, 80, &["dump", "latest", "--archive", "tar"]);
    assert!(refused.contains("nothing for a terminal"), "{refused}");
}

#[test]
fn damage_to_trees_is_told_and_never_taken_for_nothing_found() {
    let desk = Desk::new();
    let first = desk.backup(&[]);
    desk.write("new", "x");
    let second = desk.backup(&[]);
    for pack in desk
        .objects("")
        .iter()
        .filter(|path| path.to_str().unwrap().contains("/m/") || path.to_str().unwrap().contains("/meta"))
    {
        spoil(pack);
    }
    let found = desk.run(["find", "fstab"]);
    assert_eq!(found.code, 13, "{found:?}");
    assert!(found.err.contains("cannot be read") && found.err.contains("there may be more"), "{found:?}");
    let diff = desk.run(["diff", &first, &second]);
    assert_eq!(diff.code, 13, "{diff:?}");
    assert_eq!(desk.run(["stats", "--by", "policy"]).code, 13);
    assert_eq!(desk.run(["dump", &second, "--archive", "tar", "--to", "x.tar"]).code, 13);
    assert!(!desk.path("x.tar").exists());
}

#[test]
fn ls_goes_as_deep_as_it_is_told() {
    let desk = Desk::new();
    desk.write("a/b/c/d", "x");
    desk.write("a/z", "x");
    let id = desk.backup(&[]);
    let below = |place: &str, depth: &str| -> Vec<String> {
        let shown = desk.good(["ls", place, "--depth", depth]);
        shown.lines().map(|line| line.strip_prefix(&desk.source("")).unwrap().to_owned()).collect()
    };
    assert_eq!(below(&id, "0"), [""]);
    assert_eq!(below(&id, "1"), ["", "/a", "/etc"]);
    assert_eq!(below(&desk.at(&id, "a"), "1"), ["/a", "/a/b", "/a/z"]);
    assert_eq!(below(&desk.at(&id, "a"), "2"), ["/a", "/a/b", "/a/b/c", "/a/z"]);
    assert_eq!(below(&desk.at(&id, "a"), "9"), ["/a", "/a/b", "/a/b/c", "/a/b/c/d", "/a/z"]);
}

#[test]
fn shells_take_their_completions() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = desk.good(["completions", shell]);
        assert_eq!(script, desk.good(["completions", shell]));
        assert!(script.contains("snapshots") && script.contains("find"), "{shell}");
        if shell == "bash" {
            let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            let output = bash.wait_with_output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        }
    }
    desk.run(["completions", "tcsh"]).refused(2, "tcsh");
}

#[test]
fn every_command_has_a_page_that_roff_can_read() {
    let desk = Desk::new();
    let told = desk.json(["man", "--out", "pages/man1", "--json"]);
    let pages = told["pages"].as_array().unwrap();
    let names: Vec<String> = fs::read_dir(desk.path("pages/man1"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), pages.len());
    for name in ["lifeboat.1", "lifeboat-backup.1", "lifeboat-find.1", "lifeboat-key-export.1"] {
        assert!(names.iter().any(|page| page == name), "{name}: {names:?}");
    }
    const REQUESTS: [&str; 12] = [".ie", ".el", ".TH", ".SH", ".SS", ".TP", ".RS", ".RE", ".PP", ".br", ".IP", ".ft"];
    for name in &names {
        let page = fs::read_to_string(desk.path("pages/man1").join(name)).unwrap();
        assert!(page.contains(".TH") && page.contains(".SH NAME") && page.contains("Lifeboat"), "{name}");
        for line in page.lines() {
            let request = line.split_whitespace().next().unwrap_or_default();
            let good = !line.starts_with(['.', '\'']) || REQUESTS.contains(&request) || line.starts_with(".\\\"");
            assert!(good, "{name}: {line}");
        }
    }
    let main = desk.good(["man"]);
    assert_eq!(main, fs::read_to_string(desk.path("pages/man1/lifeboat.1")).unwrap());
    desk.json(["man", "--out", "pages/man1", "--json"]);
    assert_eq!(main, fs::read_to_string(desk.path("pages/man1/lifeboat.1")).unwrap());
}
