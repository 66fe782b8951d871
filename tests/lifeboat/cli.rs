//! The command line from outside: what a person sees, what a script reads, and how a process ends.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A place of its own for each test: home, cache, repository, source.
pub struct Desk {
    pub dir: tempfile::TempDir,
}

impl Desk {
    pub fn new() -> Self {
        let desk = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(desk.path("home")).unwrap();
        fs::create_dir_all(desk.path("source/sub")).unwrap();
        fs::write(desk.path("source/a.txt"), "hello").unwrap();
        fs::write(desk.path("source/sub/b.txt"), "world").unwrap();
        desk
    }

    /// A desk whose repository is there, with `admin.key`.
    pub fn with_repository() -> Self {
        let desk = Self::new();
        desk.good(["init", "--key-out", "admin.key"]);
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.args(arguments).current_dir(self.dir.path()).env_clear();
        command.env("HOME", self.path("home")).env("TZ", "UTC").env("LIFEBOAT_REPO", self.path("repository"));
        if self.path("admin.key").exists() {
            command.env("LIFEBOAT_KEY", self.path("admin.key"));
        }
        command.stdin(Stdio::null());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ended {
        Ended::of(self.command(arguments).output().unwrap())
    }

    /// Runs what must succeed; its standard output.
    pub fn good<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.out
    }

    pub fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Value {
        serde_json::from_str(&self.good(arguments)).unwrap()
    }

    pub fn with_input<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>, input: &str) -> Ended {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ended::of(child.wait_with_output().unwrap())
    }

    pub fn backup(&self) -> String {
        self.good(["-q", "backup", "source"]).trim().to_owned()
    }
}

#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("no signal ended it"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Ended with `code`, told `sentence` on standard error, and put nothing on standard output.
    #[track_caller]
    pub fn refused(&self, code: i32, sentence: &str) {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.contains(sentence), "{self:?}");
        let as_text = self.err.starts_with("error: ") || self.err.contains("\nerror: ");
        assert!(as_text || self.err.contains("\"error\":"), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

pub fn secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_backup_comes_back_byte_for_byte() {
    let desk = Desk::with_repository();
    let id = desk.backup();
    assert_eq!(id.len(), 32);
    let place = format!("{}:{}", &id[..8], desk.path("source").display());
    desk.good(["restore", &place, "--to", "out", "--verify"]);
    assert_eq!(fs::read_to_string(desk.path("out/sub/b.txt")).unwrap(), "world");
    let checked = desk.json(["verify", "--level", "data", "--json"]);
    assert_eq!(checked["sound"], true);
}

#[test]
fn wrong_usage_ends_with_two() {
    let desk = Desk::with_repository();
    desk.backup();
    desk.run(["snapshots", "--no-such-flag"]).refused(2, "--no-such-flag");
    desk.run(["ls"]).refused(2, "SNAPSHOT");
    desk.run(["ls", "latest:/a/../b"]).refused(2, "`..`");
    desk.run(["restore", "latest"]).refused(2, "--to");
    desk.run(["verify", "--sample", "5%"]).refused(2, "level data");
    desk.run(["config", "next", "web", "-n", "10001"]).refused(2, "10001");
    desk.run(["init", "--repo", "other"]).refused(2, "needs a way in");
    desk.run(["snapshots", "--key", "admin.key", "--passphrase-file", "admin.key"]).refused(2, "two ways in");
    let id = desk.backup();
    desk.run(["ls", &id, "--policy", "x"]).refused(2, "`latest`");
    let nobody = Ended::of(desk.command(["snapshots"]).env_remove("LIFEBOAT_KEY").output().unwrap());
    nobody.refused(2, "no key was given");
    let nowhere = Ended::of(desk.command(["snapshots"]).env_remove("LIFEBOAT_REPO").output().unwrap());
    nowhere.refused(2, "no repository was named");
}

#[test]
fn an_address_that_is_none_ends_with_two_and_shows_no_password() {
    let desk = Desk::with_repository();
    for url in ["https://user:hunter2@host/x", "s3:bucket", "file://host/x"] {
        let ended = desk.run(["snapshots", "--repo", url]);
        ended.refused(2, "write a directory");
        assert!(!ended.err.contains("hunter2"), "{ended:?}");
    }
}

#[test]
fn what_is_no_repository_ends_with_ten() {
    let desk = Desk::with_repository();
    desk.run(["snapshots", "--repo", "nowhere"]).refused(10, "there is no directory");
    fs::create_dir(desk.path("empty")).unwrap();
    let ended = desk.run(["snapshots", "--repo", "empty"]);
    ended.refused(10, "holds no Lifeboat repository");
    assert!(ended.err.contains("hint: "), "{ended:?}");
}

#[test]
fn a_wrong_key_or_passphrase_ends_with_twelve() {
    let desk = Desk::with_repository();
    desk.good(["init", "--repo", "other", "--key-out", "other.key"]);
    desk.run(["snapshots", "--key", "other.key"]).refused(12, "belongs to repository");
    secret(&desk.path("right"), "correct horse\n");
    secret(&desk.path("wrong"), "battery staple\n");
    desk.run(["snapshots", "--passphrase-file", "right"]).refused(12, "no key slot");
    desk.good(["key", "add", "--passphrase-file", "right"]);
    desk.good(["snapshots", "--passphrase-file", "right"]);
    desk.run(["snapshots", "--passphrase-file", "wrong"]).refused(12, "opens no slot");
    desk.run(["snapshots", "--key", "right"]).refused(12, "holds no key");
    desk.run(["snapshots", "--key", "missing"]).refused(4, "cannot read the key file");
}

#[test]
fn init_happens_once_and_tells_of_the_only_way_in() {
    let desk = Desk::new();
    let first = desk.run(["init", "--key-out", "admin.key", "--json"]);
    assert_eq!(first.code, 0, "{first:?}");
    let document: Value = serde_json::from_str(&first.out).unwrap();
    assert_eq!(document["store_mode"], "multi-writer");
    assert!(first.err.contains("only way in"), "{first:?}");
    let before = fs::read(desk.path("admin.key")).unwrap();
    desk.run(["init", "--key-out", "second.key"]).refused(7, "holds a repository already");
    assert!(!desk.path("second.key").exists(), "a key that opens nothing stays behind");
    desk.run(["init", "--repo", "third", "--key-out", "admin.key"]).refused(7, "cannot create");
    assert!(!desk.path("third").exists());
    assert_eq!(fs::read(desk.path("admin.key")).unwrap(), before);
    desk.good(["snapshots"]);
}

#[test]
fn two_ways_in_need_no_warning() {
    let desk = Desk::new();
    secret(&desk.path("pass"), "correct horse\n");
    let both = desk.run(["init", "--key-out", "admin.key", "--passphrase-file", "pass"]);
    assert_eq!((both.code, both.err.as_str()), (0, ""), "{both:?}");
    secret(&desk.path("next"), "battery staple\n");
    desk.good(["key", "add", "--passphrase-file", "pass", "--new-passphrase-file", "next"]);
    let slots = |desk: &Desk| desk.json(["key", "list", "--json", "--passphrase-file", "next"])["slots"].clone();
    assert_eq!(slots(&desk).as_array().unwrap().len(), 2);
    desk.run(["key", "remove", "0123456789abcdef0123"]).refused(4, "no slot or writer");
    for slot in slots(&desk).as_array().unwrap() {
        desk.good(["key", "remove", slot["id"].as_str().unwrap()]);
    }
    desk.run(["snapshots", "--passphrase-file", "next"]).refused(12, "no key slot");
}

#[test]
fn key_files_are_ours_alone_and_are_never_overwritten() {
    let desk = Desk::with_repository();
    desk.good(["key", "export", "--role", "writer", "--out", "web1.key"]);
    desk.good(["key", "export", "--role", "reader", "--out", "reader.key"]);
    desk.good(["key", "sheet", "--out", "sheet"]);
    for file in ["admin.key", "web1.key", "reader.key", "sheet"] {
        assert_eq!(mode(&desk.path(file)), 0o600, "{file}");
    }
    let before = fs::read(desk.path("web1.key")).unwrap();
    desk.run(["key", "export", "--role", "writer", "--out", "web1.key"]).refused(7, "cannot create");
    assert_eq!(fs::read(desk.path("web1.key")).unwrap(), before);
    fs::set_permissions(desk.path("admin.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let warned = desk.run(["snapshots"]);
    assert!(warned.code == 0 && warned.err.contains("open to others"), "{warned:?}");
}

#[test]
fn a_recovery_sheet_opens_the_repository_from_standard_input() {
    let desk = Desk::with_repository();
    desk.backup();
    let sheet = desk.good(["key", "sheet"]);
    let restored = desk.with_input(["restore", "latest", "--key", "-", "--to", "out"], &sheet);
    assert_eq!(restored.code, 0, "{restored:?}");
    let file = desk.path("out").join(desk.path("source/a.txt").strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(file).unwrap(), "hello");
    let line = sheet.lines().find(|line| line.trim_start().starts_with("3/")).unwrap();
    let mistyped = sheet.replace(line, &line.replacen(['0', '1', '2', '3', '4', '5', '6', '7'], "f", 9));
    desk.with_input(["snapshots", "--key", "-"], &mistyped).refused(12, "line 3 of the sheet");
}

#[test]
fn snapshots_in_json_are_what_scripts_rely_on() {
    let desk = Desk::with_repository();
    assert_eq!(desk.json(["snapshots", "--json"]), Value::Array(vec![]));
    desk.good(["backup", "source", "--tag", "a", "--tag", "b", "--policy", "web"]);
    let second = desk.json(["backup", "source", "--json"]);
    let list = desk.json(["snapshots", "--json"]);
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2);
    let first = &list[0];
    for field in [
        "id",
        "short_id",
        "time",
        "writer",
        "host",
        "policy",
        "paths",
        "tags",
        "outcome",
        "files",
        "bytes",
        "stored_bytes",
    ] {
        assert!(first.get(field).is_some_and(|value| !value.is_null()), "{field}: {first}");
    }
    assert_eq!((&first["policy"], &first["outcome"]), (&"web".into(), &"succeeded".into()));
    assert_eq!(first["tags"], serde_json::json!(["a", "b"]));
    assert_eq!(first["paths"], serde_json::json!([desk.path("source")]));
    assert_eq!((first["files"].as_u64(), first["bytes"].as_u64()), (Some(2), Some(10)));
    let time = first["time"].as_str().unwrap();
    assert!(time.ends_with('Z') && time < list[1]["time"].as_str().unwrap(), "{list:?}");
    assert_eq!(list[1]["id"], second["id"]);
    assert!(list[1]["policy"].is_null() && list[1].get("forgotten").is_none());
    assert_eq!(desk.json(["snapshots", "--json", "--tag", "b"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_writer_reads_its_own_names_and_never_content() {
    let desk = Desk::with_repository();
    desk.good(["key", "export", "--role", "writer", "--out", "web1.key"]);
    desk.good(["backup", "source", "--key", "web1.key"]);
    assert!(desk.good(["ls", "latest", "--key", "web1.key"]).contains("/sub/b.txt"));
    let refused = desk.run(["restore", "latest", "--to", "out", "--key", "web1.key"]);
    refused.refused(6, "restoring content needs an admin or reader key, and this one is a writer key");
    assert!(!desk.path("out").exists());
    desk.run(["key", "export", "--role", "reader", "--out", "r.key", "--key", "web1.key"]).refused(6, "needs an admin");
    assert!(!desk.path("r.key").exists());
}

#[test]
fn a_writer_does_not_take_what_it_cannot_see_for_leftovers() {
    let desk = Desk::with_repository();
    desk.backup();
    desk.good(["key", "export", "--role", "writer", "--out", "web1.key"]);
    let seen = desk.good(["verify", "--level", "data", "--key", "web1.key"]);
    assert!(seen.contains("no index of this key's group names: other groups'"), "{seen}");
    assert!(!desk.good(["verify", "--level", "data"]).contains("no index"));
}

#[test]
fn writers_of_one_name_are_told_apart_by_their_ids() {
    let desk = Desk::with_repository();
    desk.good(["key", "export", "--role", "writer", "--name", "web", "--out", "web1.key"]);
    let second = desk.run(["key", "export", "--role", "writer", "--name", "web", "--out", "web2.key"]);
    assert_eq!(second.code, 0, "{second:?}");
    assert!(second.err.contains("is named web too"), "{second:?}");
    desk.run(["key", "remove", "web"]).refused(2, "web is a writer's name, and this takes an id");
    desk.run(["key", "remove", "zzz"]).refused(4, "there is no slot or writer zzz");
}

#[test]
fn a_path_of_another_snapshot_says_what_this_one_saved() {
    let desk = Desk::with_repository();
    desk.backup();
    let refused = desk.run(["ls", "latest:/elsewhere"]);
    refused.refused(4, "/elsewhere is not in snapshot");
    assert!(refused.err.contains(&format!("hint: it saved {}", desk.path("source").display())), "{refused:?}");
}

#[test]
fn a_revoked_writer_is_refused_and_what_stood_stands() {
    let desk = Desk::with_repository();
    desk.good(["key", "export", "--role", "writer", "--out", "web1.key"]);
    desk.good(["backup", "source", "--key", "web1.key"]);
    let keys = desk.json(["key", "list", "--json"]);
    let writers = keys["writers"].as_array().unwrap();
    let id = writers.iter().find(|writer| writer["name"] == "web1").unwrap()["id"].as_str().unwrap();
    assert_eq!(desk.json(["key", "remove", id, "--json"])["snapshots_standing"], 1);
    desk.run(["backup", "source", "--key", "web1.key"]).refused(6, "was revoked");
    assert_eq!(desk.json(["snapshots", "--json"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_target_that_holds_something_is_left_alone() {
    let desk = Desk::with_repository();
    desk.backup();
    fs::create_dir(desk.path("out")).unwrap();
    fs::write(desk.path("out/mine"), "precious").unwrap();
    desk.run(["restore", "latest", "--to", "out"]).refused(7, "is not empty");
    assert_eq!(fs::read_dir(desk.path("out")).unwrap().count(), 1);
}

#[test]
fn a_dry_run_makes_nothing() {
    let desk = Desk::with_repository();
    desk.backup();
    let told = desk.json(["restore", "latest", "--to", "out", "--dry-run", "--json"]);
    assert_eq!((told["files"].as_u64(), told["bytes"].as_u64()), (Some(2), Some(10)));
    assert!(!desk.path("out").exists());
}

#[test]
fn a_repository_of_a_newer_version_is_refused_by_that_name() {
    let desk = Desk::with_repository();
    let config = desk.path("repository/config/00000000");
    let mut bytes = fs::read(&config).unwrap();
    bytes[8] += 1; // the version stands after the magic
    fs::write(&config, bytes).unwrap();
    for arguments in [&["snapshots"][..], &["backup", "source"]] {
        let ended = desk.run(arguments);
        ended.refused(1, "newer");
        assert!(ended.err.contains("nothing was written"), "{ended:?}");
    }
}

#[test]
fn damage_ends_with_thirteen_and_is_named() {
    let desk = Desk::with_repository();
    desk.backup();
    let slot = fs::read_dir(desk.path("repository/s")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&slot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&slot, bytes).unwrap();
    for arguments in [&["snapshots", "--json"][..], &["verify"], &["ls", "latest"]] {
        let ended = desk.run(arguments);
        assert_eq!(ended.code, 13, "{ended:?}");
    }
}

#[test]
fn a_source_that_is_not_there_is_a_failure_without_a_snapshot() {
    let desk = Desk::with_repository();
    desk.run(["backup", "nowhere"]).refused(1, "does not exist");
    assert_eq!(desk.json(["snapshots", "--json"]), Value::Array(vec![]));
}

#[test]
fn what_cannot_be_read_makes_a_partial_snapshot_and_ends_with_three() {
    let desk = Desk::with_repository();
    fs::set_permissions(desk.path("source/a.txt"), fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = desk.command(["backup", "source", "--json"]);
    if rustix::process::geteuid().is_root() {
        // Root reads everything: the run is another user's, who owns the desk and has a copy of the program there.
        fs::copy(env!("CARGO_BIN_EXE_lifeboat"), desk.path("lifeboat")).unwrap();
        let theirs = Command::new("chown").args(["-R", "65534:65534"]).arg(desk.dir.path()).status().unwrap();
        assert!(theirs.success());
        let mut as_nobody = Command::new(desk.path("lifeboat"));
        as_nobody.args(command.get_args()).current_dir(desk.dir.path()).env_clear().stdin(Stdio::null());
        as_nobody.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        as_nobody.uid(65534).gid(65534);
        command = as_nobody;
    }
    let ended = Ended::of(command.output().unwrap());
    assert_eq!(ended.code, 3, "{ended:?}");
    assert!(ended.err.contains("a.txt") && ended.err.contains("partial"), "{ended:?}");
}

#[test]
fn a_full_repository_ends_with_one_and_keeps_what_it_had() {
    let desk = Desk::new();
    let disk = desk.path("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&disk).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("not tested: only root may mount a small file system to fill");
        return;
    }
    let repo = disk.join("repository");
    let run = |arguments: &[&str]| {
        Ended::of(desk.command(arguments).arg("--repo").arg(&repo).args(["--key", "k"]).output().unwrap())
    };
    // Nothing here panics before the umount.
    let made = Ended::of(desk.command(["init", "--key-out", "k", "--repo"]).arg(&repo).output().unwrap());
    let small = run(&["backup", "source"]);
    fs::write(desk.path("source/noise"), crate::support::repo::noise(16 << 20, 1)).unwrap();
    let full = run(&["backup", "source"]);
    let (snapshots, verified) = (run(&["snapshots", "--json"]), run(&["verify", "--level", "data"]));
    let unmounted = Command::new("umount").arg(&disk).status().unwrap();
    assert!(unmounted.success());
    assert_eq!((made.code, small.code), (0, 0), "{made:?} {small:?}");
    full.refused(1, "No space left");
    assert_eq!(serde_json::from_str::<Value>(&snapshots.out).unwrap().as_array().unwrap().len(), 1);
    assert_eq!(verified.code, 0, "{verified:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let desk = Desk::with_repository();
    for n in 0..3000 {
        fs::write(desk.path(&format!("source/file-with-a-long-name-{n}")), "").unwrap();
    }
    desk.backup();
    let mut command = desk.command(["ls", "latest"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = Ended::of(child.wait_with_output().unwrap());
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended:?}");
}

#[test]
fn an_output_that_takes_nothing_is_a_failure() {
    let desk = Desk::with_repository();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ended = Ended::of(desk.command(["snapshots", "--json"]).stdout(full).output().unwrap());
    ended.refused(1, "the output cannot be written");
}

pub fn configure(desk: &Desk, schedule: &str) {
    fs::create_dir_all(desk.path("etc/policies")).unwrap();
    let repository = desk.path("repository");
    let key = desk.path("admin.key");
    let main = format!(
        "[daemon]\nstate = {:?}\n\n[repository.main]\nurl = {repository:?}\nkey = \"file:{}\"\n",
        desk.path("state"),
        key.display()
    );
    fs::write(desk.path("etc/lifeboat.toml"), main).unwrap();
    let policy = format!(
        "[policy.web]\nsource = {:?}\nrepo = \"main\"\nschedule = \"{schedule}\"\ntimezone = \"Europe/Berlin\"\nkeep = \"7d\"\n",
        desk.path("source")
    );
    fs::write(desk.path("etc/policies/web.toml"), policy).unwrap();
}

#[test]
fn a_mistake_in_a_policy_is_drawn_under_its_line_and_ends_with_five() {
    let desk = Desk::new();
    configure(&desk, "daily 25:00");
    let ended = desk.run(["config", "check", "--config", "etc"]);
    ended.refused(5, "--> etc/policies/web.toml:4:");
    assert!(ended.err.contains("schedule = \"daily 25:00\"") && ended.err.contains("^^^"), "{ended:?}");
    let json = desk.run(["config", "check", "--config", "etc", "--json"]);
    let document: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((json.code, &document["valid"]), (5, &false.into()));
    assert_eq!(document["problems"][0]["line"], 4);
    for arguments in [&["daemon"][..], &["config", "next", "web"], &["token", "list"]] {
        let ended = Ended::of(desk.command(arguments).args(["--config", "etc"]).output().unwrap());
        ended.refused(5, "--> etc/policies/web.toml:4:");
    }
}

#[test]
fn next_times_jump_with_the_clock() {
    let desk = Desk::new();
    configure(&desk, "daily 02:30");
    assert!(desk.good(["config", "check", "--config", "etc"]).starts_with("good: 1 policy"));
    let next = ["config", "next", "web", "--config", "etc", "--json", "--from", "2027-03-27T12:00:00Z", "-n", "2"];
    let list = desk.json(next);
    assert_eq!(list[0]["at"], "2027-03-28T01:30:00Z");
    assert_eq!(list[0]["local"], "2027-03-28T03:30:00+02:00");
    assert_eq!(list[0]["zone"], "Europe/Berlin");
    assert_eq!(list[1]["at"], "2027-03-29T00:30:00Z");
    assert_eq!(list.as_array().unwrap().len(), 2);
    desk.run(["config", "next", "nope", "--config", "etc"]).refused(4, "there is no policy nope");
}

#[test]
fn a_daemon_that_is_not_there_ends_with_nine() {
    let desk = Desk::with_repository();
    configure(&desk, "daily 02:30");
    for arguments in [&["status"][..], &["run", "list"], &["run", "start", "web"], &["drill", "run", "web"]] {
        let ended = Ended::of(desk.command(arguments).args(["--config", "etc"]).output().unwrap());
        ended.refused(9, "cannot be reached");
    }
}

#[test]
fn the_daemon_runs_drills_and_tells_through_its_socket() {
    let desk = Desk::with_repository();
    configure(&desk, "daily 02:30");
    let main = fs::read_to_string(desk.path("etc/lifeboat.toml")).unwrap();
    fs::write(desk.path("etc/lifeboat.toml"), main.replace("[daemon]", "[daemon]\nlisten = \"127.0.0.1:0\"")).unwrap();
    let log = fs::File::create(desk.path("log")).unwrap();
    let mut daemon = desk.command(["daemon", "--config", "etc"]).stderr(log).spawn().unwrap();
    let ask = |arguments: &[&str]| Ended::of(desk.command(arguments).args(["--config", "etc"]).output().unwrap());
    let ready = (0..600).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        ask(&["status"]).code == 0
    });
    let ended = [
        ask(&["run", "start", "web", "--wait", "--json"]),
        ask(&["drill", "run", "web", "--wait", "--json"]),
        ask(&["status", "--json"]),
        ask(&["run", "list", "--json"]),
        ask(&["run", "start", "nope"]),
    ];
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let stopped = daemon.wait().unwrap();
    let log = fs::read_to_string(desk.path("log")).unwrap();
    assert!(ready && stopped.success(), "{stopped} {log}");
    let [run, drill, status, list, nope] = ended;
    let json = |ended: &Ended| serde_json::from_str::<Value>(&ended.out).unwrap();
    assert_eq!((run.code, &json(&run)["state"]), (0, &"succeeded".into()), "{run:?} {log}");
    assert_eq!((drill.code, &json(&drill)["verdict"]), (0, &"pass".into()), "{drill:?} {log}");
    assert_eq!(json(&status)["policies"][0]["state"], "ok", "{status:?}");
    assert_eq!(json(&list).as_array().unwrap().len(), 2);
    nope.refused(4, "no such policy");
    assert!(log.contains("run finished") || log.contains("run.finished"), "{log}");
    ask(&["status"]).refused(9, "cannot be reached");
}

#[test]
fn a_token_is_shown_once_and_revoked_by_its_name() {
    let desk = Desk::new();
    configure(&desk, "daily 02:30");
    let made = desk.good(["token", "create", "--config", "etc", "--name", "ci", "--role", "run", "--expires", "90d"]);
    assert!(made.trim().starts_with("lb_"), "{made}");
    let listed = desk.good(["token", "list", "--config", "etc"]);
    assert!(listed.contains("ci") && listed.contains("good") && !listed.contains("lb_"), "{listed}");
    desk.good(["token", "revoke", "ci", "--config", "etc"]);
    let create = |name| desk.run(["token", "create", "--config", "etc", "--name", name, "--role", "run"]).err;
    assert!(!create("known").contains("warning"), "the catalog is known");
    fs::rename(desk.path("state"), desk.path("elsewhere")).unwrap();
    assert!(create("strange").contains("no daemon has kept anything in"), "a token that no daemon may know");
    desk.run(["token", "revoke", "ci", "--config", "etc"]).refused(4, "no token");
}

#[test]
fn help_names_every_verb_and_each_verb_has_help() {
    let desk = Desk::new();
    let help = desk.good(["--help"]);
    let section = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let verbs: Vec<&str> = section.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(
        verbs,
        [
            "init",
            "backup",
            "snapshots",
            "ls",
            "find",
            "diff",
            "dump",
            "restore",
            "forget",
            "undelete",
            "hold",
            "prune",
            "verify",
            "stats",
            "doctor",
            "key",
            "config",
            "daemon",
            "status",
            "run",
            "drill",
            "token",
            "completions",
            "man"
        ]
    );
    for verb in verbs {
        assert!(desk.good([verb, "--help"]).contains("Usage: lifeboat"), "{verb}");
    }
    assert!(help.contains("12 wrong key or passphrase"), "{help}");
}
