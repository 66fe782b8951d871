//! Days of scattered edits: what they add to the tree, what comes back of them, and what is lost with a leaf that patches stand on.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::shipped::{good, lifeboat};

fn command(home: &Path, arguments: &[&str]) -> std::process::Command {
    let mut command = lifeboat(home, arguments);
    command.env("LIFEBOAT_REPO", home.join("repository")).env("LIFEBOAT_KEY", home.join("admin.key"));
    command
}

fn told(home: &Path, arguments: &[&str]) -> String {
    good(&mut command(home, arguments))
}

fn json(home: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&told(home, arguments)).unwrap()
}

/// Metadata packs.
fn packs(home: &Path) -> BTreeSet<PathBuf> {
    let folders = fs::read_dir(home.join("repository/m")).unwrap();
    folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap()).map(|pack| pack.unwrap().path()).collect()
}

/// Required features of all manifests, sorted.
fn features(home: &Path) -> Vec<u32> {
    let slots = fs::read_dir(home.join("repository/s")).unwrap();
    let bits = |slot: PathBuf| u32::from_le_bytes(fs::read(slot).unwrap()[12..16].try_into().unwrap());
    let mut features: Vec<u32> = slots.map(|slot| bits(slot.unwrap().path())).collect();
    features.sort();
    features
}

fn bytes<'p>(packs: impl Iterator<Item = &'p PathBuf>) -> u64 {
    packs.map(|pack| fs::metadata(pack).unwrap().len()).sum()
}

fn name(number: usize) -> String {
    format!("tree/folder-{:02}/a small file {number:04}", number / 150)
}

const FILES: usize = 3_000;

fn plant(home: &Path) {
    fs::create_dir_all(home.join("tree")).unwrap();
    good(lifeboat(home, ["init", "--repo", "repository", "--key-out"]).arg(home.join("admin.key")));
    for number in 0..FILES {
        fs::create_dir_all(home.join(name(number)).parent().unwrap()).unwrap();
        fs::write(home.join(name(number)), format!("{number}")).unwrap();
    }
    settle();
}

/// What was changed too shortly before a backup is read once more by the next.
fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(100));
}

/// Two files of a hundred, scattered.
fn edit(home: &Path, day: usize) -> BTreeSet<String> {
    let changed: BTreeSet<String> = (0..FILES / 50).map(|n| name((n * 53 + day * 17) % FILES)).collect();
    for path in &changed {
        fs::write(home.join(path), format!("day {day} of {path}")).unwrap();
    }
    settle();
    changed
}

fn same_trees(one: &Path, other: &Path) {
    let end = std::process::Command::new("diff").args(["-r", "-q"]).args([one, other]).output().unwrap();
    assert!(end.status.success(), "{}", String::from_utf8_lossy(&end.stdout));
}

#[test]
fn ten_days_of_scattered_edits_add_little_to_the_tree_and_all_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    plant(home);
    told(home, &["backup", "tree"]);
    let mut known = packs(home);
    let first = bytes(known.iter());
    assert_eq!(features(home), [0]);
    for day in 1..=10 {
        let changed = edit(home, day);
        told(home, &["backup", "tree"]);
        let now = packs(home);
        let grown = bytes(now.difference(&known));
        assert!(grown * 3 < first, "day {day} added {grown} bytes to a tree of {first}");
        known = now;
        let snapshots = json(home, &["snapshots", "--json"]);
        let id = |at: usize| snapshots[at]["short_id"].as_str().unwrap().to_owned();
        let diff = told(home, &["diff", &id(day - 1), &id(day)]);
        let path = |line: &str| Some(line.strip_prefix("M  ")?.split_once("  ")?.0.split_once("/tree/")?.1.to_owned());
        let told: BTreeSet<String> = diff.lines().filter_map(path).map(|path| format!("tree/{path}")).collect();
        assert_eq!(told, changed, "{diff}");
        if day % 3 == 1 {
            let out = format!("out-{day}");
            let place = format!("latest:{}", home.join("tree").canonicalize().unwrap().display());
            self::told(home, &["restore", &place, "--to", &out]);
            same_trees(&home.join("tree"), &home.join(out));
        }
    }
    // Nothing changed: no tree is stored, whatever it is made of.
    told(home, &["backup", "tree"]);
    assert_eq!(packs(home), known);
    // Who does not know patches is told so by every manifest that needs them.
    assert_eq!(features(home), [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]);
    told(home, &["verify", "--level", "data"]);
}

#[test]
fn a_lost_leaf_takes_the_patches_on_it_along_and_verify_says_whose() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    plant(home);
    told(home, &["backup", "tree"]);
    let bases = packs(home);
    edit(home, 1);
    told(home, &["backup", "tree"]);
    let [base] = &bases.into_iter().collect::<Vec<_>>()[..] else { panic!("one pack holds a small tree") };
    let whole = fs::read(base).unwrap();
    let mut bent = whole.clone();
    // In the first frame, behind the stanzas.
    bent[3_000] ^= 1;
    for damaged in [None, Some(bent)] {
        match &damaged {
            None => fs::remove_file(base).unwrap(),
            Some(bent) => fs::write(base, bent).unwrap(),
        }
        let output = command(home, &["verify", "--level", "metadata", "--json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(13), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let name = base.file_name().unwrap().to_str().unwrap();
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["object"].as_str().unwrap().contains(name)).unwrap();
        assert_eq!(finding["snapshots"].as_array().unwrap().len(), 2, "{report}");
        if damaged.is_none() {
            fs::write(base, &whole).unwrap();
            told(home, &["verify", "--level", "metadata"]);
        }
    }
}
