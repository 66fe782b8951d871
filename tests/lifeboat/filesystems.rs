//! The same tree on every file system at hand: there and back, and from one to another. What the other cannot hold is named.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use lifeboat::names::escape;
use serde_json::Value;

use crate::support::census::{self, alike};
use crate::support::journey::{Journey, rsync_differences, told};
use crate::support::mounts::{Mounted, inside_a_namespace};
use crate::support::odd::{self, plant, plant_long_path};
use crate::support::repo::noise;
use crate::support::scratch::roomy;

const EXT4: &[&str] = &["mkfs.ext4", "-q", "-F"];
const XFS: &[&str] = &["mkfs.xfs", "-q", "-f"];
const BTRFS: &[&str] = &["mkfs.btrfs", "-q", "-f"];
const IMAGE: u64 = 512 << 20;

/// Source and target on one file system.
#[track_caller]
fn there_and_back(disk: &Mounted, home: &Path) {
    let (source, to) = (disk.path("source"), disk.path("target"));
    plant(&source, 1_000);
    plant_long_path(&disk.path("long"));
    let journey = Journey::begin(home);
    let before = census::of(&source);
    for (from, to) in [(&source, &to), (&disk.path("long"), &disk.path("long-target"))] {
        journey.save(from);
        journey.bring_whole(from, to);
        alike(&census::of(from), &census::of(to));
    }
    assert_eq!(rsync_differences(&source, &to), "");
    alike(&census::without_space(&before), &census::without_space(&census::of(&source)));
}

#[test]
fn one_of_everything_comes_back_on_ext4() {
    if inside_a_namespace("filesystems::one_of_everything_comes_back_on_ext4") {
        let dir = roomy();
        there_and_back(&Mounted::image(dir.path(), "ext4", EXT4, IMAGE), &dir.path().join("home"));
    }
}

#[test]
fn one_of_everything_comes_back_on_xfs() {
    if inside_a_namespace("filesystems::one_of_everything_comes_back_on_xfs") {
        let dir = roomy();
        there_and_back(&Mounted::image(dir.path(), "xfs", XFS, IMAGE), &dir.path().join("home"));
    }
}

#[test]
fn one_of_everything_comes_back_on_btrfs() {
    if inside_a_namespace("filesystems::one_of_everything_comes_back_on_btrfs") {
        let dir = roomy();
        there_and_back(&Mounted::image(dir.path(), "btrfs", BTRFS, IMAGE), &dir.path().join("home"));
    }
}

#[test]
fn one_of_everything_comes_back_in_memory() {
    if inside_a_namespace("filesystems::one_of_everything_comes_back_in_memory") {
        let dir = roomy();
        there_and_back(&Mounted::memory(dir.path(), "memory"), &dir.path().join("home"));
    }
}

/// Restores what lies on one file system to another: what differs is named, what is named differs, and the exit code tells.
#[track_caller]
fn across(journey: &Journey, source: &Path, to: &Path) -> Vec<String> {
    let output = journey.bringing(source, to).args(["--json", "--verify"]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told(&output)));
    let losses: Vec<String> =
        report["losses"].as_array().unwrap().iter().map(|loss| loss.as_str().unwrap().to_owned()).collect();
    assert_eq!(losses.len() as u64, report["losses_count"].as_u64().unwrap());
    assert_eq!(report["differences_count"], 0, "what is named as lost is not named again: {:#}", report["differences"]);
    assert_eq!(output.status.code(), Some(if losses.is_empty() { 0 } else { 3 }), "{}", told(&output));
    let original = census::of(source);
    let differences = census::differences(&original, &census::of(to));
    // What a file has lost is told of its first name, and differs under each. "PATH: what differs", "PATH: what could not be set".
    let names: HashMap<String, String> =
        original.iter().map(|(path, fact)| (escape(path), escape(&fact.same_as))).collect();
    // What could not be made at all is named by its whole path.
    let whole = format!("cannot create {}/", to.display());
    let path = |sentence: &str| {
        let sentence = sentence.strip_prefix(&whole).unwrap_or(sentence);
        let path = sentence.strip_suffix(" is missing").unwrap_or_else(|| sentence.split_once(": ").unwrap().0);
        names[path].clone()
    };
    let differing: HashSet<String> = differences.iter().map(|found| path(found)).collect();
    let named: HashSet<String> = losses.iter().map(|loss| path(loss)).collect();
    let unnamed: Vec<_> = differences.iter().filter(|found| !named.contains(&path(found))).collect();
    assert!(unnamed.is_empty(), "lost without a word: {unnamed:#?}\nnamed: {losses:#?}");
    let idle: Vec<_> = losses.iter().filter(|loss| !differing.contains(&path(loss))).collect();
    assert!(idle.is_empty(), "named, and yet there: {idle:#?}");
    losses
}

#[test]
fn from_one_file_system_to_another_nothing_is_lost_without_a_word() {
    if !inside_a_namespace("filesystems::from_one_file_system_to_another_nothing_is_lost_without_a_word") {
        return;
    }
    let dir = roomy();
    let ext4 = Mounted::image(dir.path(), "ext4", EXT4, IMAGE);
    let btrfs = Mounted::image(dir.path(), "btrfs", BTRFS, IMAGE);
    let xfs = Mounted::image(dir.path(), "xfs", XFS, IMAGE);
    let memory = Mounted::memory(dir.path(), "memory");
    // Inodes of 128 bytes, as before ext4: whole seconds until 2038. And mounted without ACLs and user attributes.
    let old = Mounted::image(dir.path(), "old", &["mkfs.ext4", "-q", "-F", "-I", "128"], IMAGE);
    let journey = Journey::begin(&dir.path().join("home"));
    let told_of = |losses: &[String], what: &str| losses.iter().any(|loss| loss.contains(what));

    plant(&ext4.path("source"), 100);
    journey.save(&ext4.path("source"));
    assert_eq!(across(&journey, &ext4.path("source"), &memory.path("of-ext4")), Vec::<String>::new());
    let losses = across(&journey, &ext4.path("source"), &xfs.path("of-ext4"));
    assert!(told_of(&losses, "links/targets-11"), "XFS has no link of 4095 bytes: {losses:#?}");
    let losses = across(&journey, &ext4.path("source"), &old.path("of-ext4"));
    assert!(told_of(&losses, "modification time"), "{losses:#?}");

    plant(&btrfs.path("source"), 100);
    journey.save(&btrfs.path("source"));
    let losses = across(&journey, &btrfs.path("source"), &ext4.path("of-btrfs"));
    assert!(
        told_of(&losses, "btrfs.compression") && told_of(&losses, "times/file-09: modification time"),
        "{losses:#?}"
    );

    plant(&xfs.path("source"), 100);
    journey.save(&xfs.path("source"));
    let losses = across(&journey, &xfs.path("source"), &btrfs.path("of-xfs"));
    assert!(told_of(&losses, "xattrs/huge: extended attribute user.huge"), "{losses:#?}");
    let shadow = rustix::fs::lgetxattr(btrfs.path("of-xfs/acls/plain"), "trusted.SGI_ACL_FILE", &mut [0u8; 512][..]);
    assert!(shadow.is_err(), "the second name of an ACL on XFS is no attribute elsewhere");
}

#[test]
fn a_mount_is_crossed_by_default_and_kept_as_an_empty_folder_if_asked() {
    if !inside_a_namespace("filesystems::a_mount_is_crossed_by_default_and_kept_as_an_empty_folder_if_asked") {
        return;
    }
    let dir = roomy();
    let ext4 = Mounted::image(dir.path(), "ext4", EXT4, IMAGE);
    let source = ext4.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "of the first").unwrap();
    let inner = Mounted::image(&source, "inner", XFS, IMAGE);
    fs::rename(source.join("inner.image"), ext4.path("inner.image")).unwrap();
    fs::write(inner.path("file"), "of the second").unwrap();
    fs::hard_link(inner.path("file"), inner.path("second-name")).unwrap();
    let journey = Journey::begin(&dir.path().join("home"));
    journey.save(&source);
    let to = dir.path().join("all");
    journey.bring_whole(&source, &to);
    alike(&census::of(&source), &census::of(&to));
    // Into a target with a mount in it, things go where the paths lead, and the mount itself stays.
    let (at, memory) = (dir.path().join("mounted"), dir.path().join("mounted/inner"));
    fs::create_dir(&at).unwrap();
    let held = Mounted::memory(&at, "inner");
    let output = journey.bringing(&source, &at).args(["--overwrite", "always", "--delete"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    alike(&census::of(&source), &census::of(&at));
    assert!(held.path("file").exists() && memory.exists());

    let output = journey.command(["-q", "backup", "--one-file-system"]).arg(&source).output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    let to = dir.path().join("one");
    journey.bring_whole(&source, &to);
    assert_eq!(fs::read(to.join("file")).unwrap(), b"of the first");
    assert_eq!(fs::read_dir(to.join("inner")).unwrap().count(), 0);
}

#[test]
fn attributes_beyond_all_measure_are_named_each_time_and_the_rest_comes_back() {
    if !inside_a_namespace("filesystems::attributes_beyond_all_measure_are_named_each_time_and_the_rest_comes_back") {
        return;
    }
    let dir = roomy();
    let xfs = Mounted::image(dir.path(), "xfs", XFS, IMAGE);
    let source = xfs.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("laden"), "content").unwrap();
    fs::write(source.join("plain"), "content").unwrap();
    for n in 0..300 {
        assert!(odd::attribute(&source.join("laden"), &format!("user.{n:03}"), &noise(64 << 10, n)), "{n}");
    }
    odd::touch(&source.join("laden"), 1_000_000_000, 0);
    std::thread::sleep(std::time::Duration::from_millis(60));
    let journey = Journey::begin(&dir.path().join("home"));
    // The second run looks again at what the first could not save whole, although nothing changed.
    for run in 0..2 {
        let output = journey.command(["backup"]).arg(&source).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "run {run}: {}", told(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("laden"), "run {run}: {}", told(&output));
        let to = xfs.path(&format!("target-{run}"));
        let output = journey.bring(&source, &to);
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        assert_eq!(fs::read(to.join("laden")).unwrap(), b"content");
        let there = &census::of(&to)[&b"laden"[..]].xattrs;
        assert!((100..300).contains(&there.len()), "{}", there.len());
        assert_eq!(there[&b"user.000"[..]], noise(64 << 10, 0));
    }
}
