//! What comes back is what was there: an empty column of differences, by default flags, through the shipped binary.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Uid, chownat};
use serde_json::Value;

use crate::support::census::{self, alike};
use crate::support::journey::{Journey, rsync_differences, told};
use crate::support::odd::{self, as_root, plant, plant_long_path};

#[test]
fn one_of_everything_comes_back_with_an_empty_column_of_differences() {
    let dir = tempfile::tempdir().unwrap();
    let (source, to) = (dir.path().join(OsStr::from_bytes(b"-odd\xff \n")), dir.path().join("there"));
    plant(&source, 10_000);
    let journey = Journey::begin(&dir.path().join("home"));
    let before = census::of(&source);
    journey.save(&source);
    alike(&census::without_space(&before), &census::without_space(&census::of(&source)));
    journey.bring_whole(&source, &to);
    alike(&before, &census::of(&to));
    assert_eq!(rsync_differences(&source, &to), "");
    // And once more, from a snapshot for which nothing was read again.
    journey.save(&source);
    let again = dir.path().join("again");
    journey.bring_whole(&source, &again);
    alike(&before, &census::of(&again));
}

#[test]
fn a_path_longer_than_the_kernel_takes_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (source, to) = (dir.path().join("long"), dir.path().join("there"));
    plant_long_path(&source);
    let journey = Journey::begin(&dir.path().join("home"));
    let before = census::of(&source);
    assert!(before.keys().any(|path| path.len() > 2 * 4096));
    journey.save(&source);
    journey.bring_whole(&source, &to);
    alike(&before, &census::of(&to));
}

#[test]
fn a_restore_compared_with_its_snapshot_finds_no_difference() {
    let dir = tempfile::tempdir().unwrap();
    let (source, to) = (dir.path().join("odd"), dir.path().join("there"));
    plant(&source, 100);
    let journey = Journey::begin(&dir.path().join("home"));
    journey.save(&source);
    let output = journey.bringing(&source, &to).arg("--verify").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    // Over what stands already: everything is kept, and nothing moves.
    let stood = census::of(&to);
    let output = journey.bringing(&source, &to).args(["--overwrite", "if-changed", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["bytes"], 0, "{report}");
    alike(&census::without_space(&stood), &census::without_space(&census::of(&to)));
    alike(&census::of(&source), &stood);
}

/// The user that restores without root's rights.
const USER: u32 = 65_533;

fn give(path: &Path, uid: u32) {
    chownat(CWD, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)), AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A tree with something for each right that a user lacks, and with what needs none.
fn plant_for_a_user(source: &Path) {
    for folder in ["", "mine", "foreign", "mine/closed"] {
        fs::create_dir_all(source.join(folder)).unwrap();
    }
    let write = |name: &str, mode| {
        let path = source.join(name);
        fs::write(&path, name).unwrap();
        give(&path, USER);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    odd::attribute(&write("mine/file", 0o640), "user.x", b"y");
    odd::attribute(&write("mine/read-only", 0o400), "user.x", b"y");
    odd::attribute(&write("mine/listed", 0o600), "system.posix_acl_access", &odd::acl(4711, [6, 4, 4, 4, 0]));
    write("mine/tool", 0o4755);
    write("mine/closed/inside", 0o644);
    fs::hard_link(source.join("mine/file"), source.join("mine/second-name")).unwrap();
    odd::node(&source.join("mine/fifo"), FileType::Fifo, 0);
    std::os::unix::fs::symlink("nowhere", source.join("mine/link")).unwrap();
    for name in ["", "mine", "mine/closed", "mine/fifo", "mine/link"] {
        give(&source.join(name), USER);
    }
    fs::set_permissions(source.join("mine/closed"), fs::Permissions::from_mode(0o111)).unwrap();
    give(&write("foreign/owner", 0o644), 1234);
    give(&write("foreign/group", 0o644), USER);
    chownat(CWD, source.join("foreign/group"), None, Some(Gid::from_raw(5678)), AtFlags::empty()).unwrap();
    let setuid = source.join("foreign/setuid");
    fs::write(&setuid, "x").unwrap();
    fs::set_permissions(&setuid, fs::Permissions::from_mode(0o4755)).unwrap();
    odd::attribute(&write("foreign/capability", 0o755), "security.capability", &odd::capability());
    odd::attribute(&write("foreign/trusted", 0o644), "trusted.t", b"t");
    odd::node(&source.join("foreign/char"), FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    give(&source.join("foreign"), USER);
}

#[test]
fn what_a_user_may_not_set_is_named_one_by_one_and_the_restore_ends_with_losses() {
    if !as_root("a restore by an ordinary user of what root saved") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let source = dir.path().join("source");
    plant_for_a_user(&source);
    let journey = Journey::begin(&dir.path().join("home"));
    journey.save(&source);
    for entry in walk(&journey.home) {
        give(&entry, USER);
    }
    // The user's own part comes back whole, and nothing is said.
    let binary = dir.path().join("lifeboat");
    fs::copy(env!("CARGO_BIN_EXE_lifeboat"), &binary).unwrap();
    let places = dir.path().join("places");
    fs::create_dir(&places).unwrap();
    give(&places, USER);
    let as_user = |path: &Path, to: &Path, more: &[&str]| {
        let restore = journey.bringing(path, to);
        let mut command = std::process::Command::new("setpriv");
        let id = USER.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(&binary).args(restore.get_args());
        command.args(more).current_dir(&journey.home).env_clear();
        for (name, value) in restore.get_envs() {
            command.env(name, value.unwrap());
        }
        command.output().expect("setpriv is there (package util-linux)")
    };
    let mine = places.join("mine");
    let output = as_user(&source.join("mine"), &mine, &["--verify"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    alike(&census::of(&source.join("mine")), &census::of(&mine));

    let all = places.join("all");
    let output = as_user(&source, &all, &["--verify", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let losses: Vec<&str> = report["losses"].as_array().unwrap().iter().map(|loss| loss.as_str().unwrap()).collect();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let expected = [
        "foreign/owner: owner could not be set",
        "foreign/group: owner could not be set",
        "foreign/setuid: owner could not be set",
        "foreign/setuid: mode could not be set",
        "foreign/capability: extended attribute security.capability could not be set",
        "foreign/trusted: extended attribute trusted.t could not be set",
        "foreign/char: device could not be set",
    ];
    for sentence in expected {
        assert!(losses.iter().any(|loss| loss.starts_with(sentence)), "{sentence}: {losses:#?}");
        assert!(stderr.contains(sentence), "{sentence}: {stderr}");
    }
    assert_eq!(
        (losses.len(), report["losses_count"].as_u64()),
        (expected.len(), Some(expected.len() as u64)),
        "{losses:#?}"
    );
    assert_eq!(report["differences_count"], 0, "what is named as lost is not named again as different: {report:#}");
    assert_eq!(report["whole"], false);
    // And nothing else differs than what was named.
    let found = census::differences(&census::of(&source), &census::of(&all));
    let unnamed: Vec<_> = found
        .iter()
        .filter(|found| !losses.iter().any(|loss| loss.split(':').next() == found.split([':', ' ']).next()))
        .collect();
    assert!(unnamed.is_empty(), "{unnamed:#?}");
    assert_eq!(
        fs::metadata(all.join("foreign/setuid")).unwrap().mode() & 0o7777,
        0o755,
        "no setuid for the wrong user"
    );

    // A folder whose final mode forbids to write in it, and a target that is somebody else's.
    let output = as_user(&source.join("mine/closed"), &places.join("closed"), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    alike(&census::of(&source.join("mine/closed")), &census::of(&places.join("closed")));
    let shared = places.join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let output = as_user(&source.join("mine"), &shared, &["--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let losses: Vec<&str> = report["losses"].as_array().unwrap().iter().map(|loss| loss.as_str().unwrap()).collect();
    let of_the_target = [": owner could not be set", ": mode could not be set", ": modification time could not be set"];
    assert!(losses.iter().zip(of_the_target).all(|(loss, start)| loss.starts_with(start)), "{losses:#?}");
    assert_eq!(losses.len(), 3, "{losses:#?}");
    assert!(!shared.join(".lifeboat-restore").exists());

    // Who asks for it leaves these things out by choice, and that is no loss.
    let chosen = places.join("chosen");
    let output = as_user(&source, &chosen, &["--unprivileged", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (report["losses_count"].as_u64(), report["omitted"]["device"].as_u64()),
        (Some(0), Some(1)),
        "{report:#}"
    );
}

fn walk(root: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![root.to_owned()];
    for entry in fs::read_dir(root).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn files_that_are_separate_in_the_snapshot_do_not_stay_names_of_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let (source, to) = (dir.path().join("source"), dir.path().join("there"));
    fs::create_dir(&source).unwrap();
    for name in ["a", "b", "c", "d"] {
        fs::write(source.join(name), "alike").unwrap();
    }
    fs::remove_file(source.join("d")).unwrap();
    fs::hard_link(source.join("c"), source.join("d")).unwrap();
    for name in ["a", "b", "c"] {
        odd::touch(&source.join(name), 1_000_000_000, 1);
    }
    let journey = Journey::begin(&dir.path().join("home"));
    journey.save(&source);
    journey.bring_whole(&source, &to);
    for name in ["b", "c", "d"] {
        fs::remove_file(to.join(name)).unwrap();
        fs::hard_link(to.join("a"), to.join(name)).unwrap();
    }
    let output = journey.bringing(&source, &to).args(["--overwrite", "if-changed"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    alike(&census::of(&source), &census::of(&to));
}

#[test]
fn files_with_inode_flags_are_saved_and_come_back_without_the_flags() {
    if !as_root("immutable and append-only files") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, to) = (dir.path().join("source"), dir.path().join("there"));
    fs::create_dir_all(source.join("immutable-folder")).unwrap();
    for name in ["immutable", "append-only", "nodump", "immutable-folder/inside"] {
        fs::write(source.join(name), name).unwrap();
    }
    let chattr = |flag: &str, name: &str| {
        let done = std::process::Command::new("chattr").arg(flag).arg(source.join(name)).status();
        assert!(done.expect("chattr is there (package e2fsprogs)").success(), "{flag} {name}");
    };
    for (flag, name) in [("i", "immutable"), ("a", "append-only"), ("d", "nodump"), ("i", "immutable-folder")] {
        chattr(&format!("+{flag}"), name);
    }
    let journey = Journey::begin(&dir.path().join("home"));
    let saved = std::panic::catch_unwind(|| {
        journey.save(&source);
        journey.bring_whole(&source, &to);
        alike(&census::of(&source), &census::of(&to));
    });
    for (flag, name) in [("i", "immutable"), ("a", "append-only"), ("d", "nodump"), ("i", "immutable-folder")] {
        chattr(&format!("-{flag}"), name);
    }
    saved.unwrap();
    fs::write(to.join("immutable"), "the copy may be changed").unwrap();
}
