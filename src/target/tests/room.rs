use std::process::Command;

use super::*;

/// A small memory file system, unmounted when dropped.
struct Tmpfs {
    dir: tempfile::TempDir,
    at: std::path::PathBuf,
}

impl Tmpfs {
    fn mount(below: &str, options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join(below);
        fs::create_dir_all(&at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&at).output().unwrap();
        assert!(mount.status.success(), "{}", String::from_utf8_lossy(&mount.stderr));
        Self { dir, at }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

#[test]
fn a_full_disk_is_named_and_leaves_no_half_file() {
    if !checked_as_root("a full disk") {
        return;
    }
    let disk = Tmpfs::mount("disk", "size=256k,nr_inodes=20");
    let target = open(&disk.at);
    assert!(target.available_bytes().unwrap() <= 256 << 10);
    assert!(target.available_inodes().unwrap().unwrap() <= 20);
    let bytes = vec![7; 1 << 20];
    let full = write(&target, &file("small", 1 << 20, 0o644), &bytes, Existing::Refuse).unwrap_err();
    assert!(matches!(full, TargetError::Full { .. }) && full.is_fatal(), "{full:?}");
    assert!(full.to_string().ends_with("disk/small"), "{full}");
    let part = target.begin_file(&path("large"), 1 << 20).unwrap();
    let full = target.write_at(&part, 0, &bytes).unwrap_err();
    assert!(matches!(full, TargetError::Full { .. }), "{full:?}");
    target.abandon_file(part);
    assert!(names_in(&disk.at).is_empty());

    let full = (0..30).find_map(|n| write(&target, &file(&format!("f{n}"), 0, 0o644), b"", Existing::Refuse).err());
    assert!(matches!(full, Some(TargetError::Full { .. })), "{full:?}");
    assert!(names_in(&disk.at).iter().all(|name| name.starts_with('f')));
}

#[test]
fn a_removal_stops_at_a_mount_point() {
    if !checked_as_root("a mount within the target") {
        return;
    }
    for stepwise in [false, true] {
        let disk = Tmpfs::mount("target/a/b/mounted", "size=64k");
        fs::write(disk.at.join("precious"), b"precious").unwrap();
        let target = open(&disk.dir.path().join("target"));
        if stepwise {
            target.confined.without_openat2();
        }
        for at in ["a", "a/b/mounted"] {
            let removed = target.remove(&path(at));
            assert!(matches!(removed, Err(TargetError::Mounted { .. })), "{removed:?}");
        }
        assert_eq!(fs::read(disk.at.join("precious")).unwrap(), b"precious");
        // To restore into what is mounted there is all right.
        put(&target, "a/b/mounted/new", b"x");
        assert_eq!(names_in(&disk.at), ["new", "precious"]);
    }
}
