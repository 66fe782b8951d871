//! The shipped binary, killed with SIGKILL at random moments: earlier snapshots stay exact, and the next run works with no manual step.
//!
//! A dozen kills of each kind by default; `LIFEBOAT_TEST_LONG=1` makes it hundreds (`scripts/test --long`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::repo::noise;

struct Scene {
    dir: tempfile::TempDir,
    dice: u64,
}

fn kills() -> usize {
    if std::env::var_os("LIFEBOAT_TEST_LONG").is_some() { 300 } else { 12 }
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        for folder in 0..20 {
            let folder = tree.join(format!("folder-{folder}"));
            fs::create_dir_all(&folder).unwrap();
            for n in 0..40u64 {
                fs::write(folder.join(format!("file-{n}")), noise(3000 + 97 * n as usize, n)).unwrap();
            }
        }
        fs::write(tree.join("big"), noise(6 << 20, 4711)).unwrap();
        let seed = std::env::var("LIFEBOAT_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let dice = seed.unwrap_or_else(|| std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
        eprintln!("LIFEBOAT_TEST_SEED={dice}");
        let scene = Self { dir, dice };
        let key = scene.path("admin.key");
        scene.good(&["init", "--key-out", key.to_str().unwrap()]);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command
            .args(arguments)
            .env("LIFEBOAT_REPO", self.path("repository"))
            .env("LIFEBOAT_KEY", self.path("admin.key"))
            .env("LIFEBOAT_CACHE", self.path("cache"))
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn good(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// A number below `limit`, from the seed (xorshift64).
    fn roll(&mut self, limit: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % limit.max(1)
    }

    /// Starts a command and kills it after a while. True if it was still running.
    fn kill(&self, arguments: &[&str], after: Duration) -> bool {
        let mut child = self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(after);
        let running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        running
    }
}

fn assert_same(a: &Path, b: &Path) {
    let (from, to) = (format!("{}/", a.display()), format!("{}/", b.display()));
    let output = Command::new("rsync").args(["-aHAXnc", "--delete", "--itemize-changes", &from, &to]).output().unwrap();
    assert!(output.status.success(), "rsync: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty(), "differs:\n{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_killed_backup_harms_nothing_and_the_next_one_works() {
    let mut scene = Scene::new();
    let tree = scene.path("tree");
    let tree_text = tree.to_str().unwrap().to_owned();
    scene.good(&["backup", &tree_text]);
    let first = scene.path("first");
    assert!(Command::new("cp").args(["-a", &tree_text]).arg(&first).status().unwrap().success());
    let begun = Instant::now();
    fs::write(tree.join("big"), noise(6 << 20, 1)).unwrap();
    scene.good(&["backup", &tree_text]);
    let usual = begun.elapsed().as_millis() as u64;
    let id = String::from_utf8(scene.good(&["snapshots", "--json"]).stdout).unwrap();
    let id = id.split("\"id\"").nth(1).and_then(|rest| rest.split('"').nth(1)).unwrap().to_owned();
    let mut killed = 0;
    for round in 0..kills() {
        fs::write(tree.join("big"), noise(6 << 20, 100 + round as u64)).unwrap();
        fs::write(tree.join(format!("folder-1/new-{round}")), noise(50_000, round as u64)).unwrap();
        let after = Duration::from_millis(scene.roll(usual));
        killed += usize::from(scene.kill(&["backup", &tree_text], after));
        scene.good(&["verify", "--level", if round % 4 == 0 { "data" } else { "metadata" }]);
    }
    assert!(killed > 0, "no kill came while a backup ran");
    let restored = scene.path("restored");
    let source = format!("{id}:{tree_text}");
    scene.good(&["restore", &source, "--to", restored.to_str().unwrap()]);
    assert_same(&first, &restored);
    scene.good(&["backup", &tree_text]);
    let newest = scene.path("newest");
    scene.good(&["restore", &format!("latest:{tree_text}"), "--to", newest.to_str().unwrap()]);
    assert_same(&tree, &newest);
    assert_eq!(
        fs::read_dir(scene.path("repository/tmp")).map(|entries| entries.count()).unwrap_or(0),
        0,
        "leftovers are swept"
    );
}

#[test]
fn a_killed_restore_is_continued_by_the_same_command() {
    let mut scene = Scene::new();
    let tree = scene.path("tree");
    let tree_text = tree.to_str().unwrap().to_owned();
    scene.good(&["backup", &tree_text]);
    let source = format!("latest:{tree_text}");
    let begun = Instant::now();
    scene.good(&["restore", &source, "--to", scene.path("whole").to_str().unwrap()]);
    let usual = begun.elapsed().as_millis() as u64;
    let mut killed = 0;
    for round in 0..kills() {
        let to = scene.path(&format!("restored-{round}"));
        let command = ["restore", source.as_str(), "--to", to.to_str().unwrap()];
        for _ in 0..2 {
            let after = Duration::from_millis(scene.roll(usual));
            killed += usize::from(scene.kill(&command, after));
        }
        // A restore that was not killed in time finished, and its target is no longer empty.
        let output = scene.run(&command);
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(text.contains("not empty"), "{text}");
        }
        assert_same(&tree, &to);
        fs::remove_dir_all(&to).unwrap();
    }
    assert!(killed > 0, "no kill came while a restore ran");
}
