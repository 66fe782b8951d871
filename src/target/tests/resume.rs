use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn a_target_knows_whether_it_is_empty() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("absent");
    let target = open(&dir);
    assert_eq!(target.state().unwrap(), State::Empty);
    fs::create_dir(dir.join("lost+found")).unwrap();
    fs::write(dir.join(".lifeboat-part-0123456789abcdef-0"), b"cut short").unwrap();
    assert_eq!(target.state().unwrap(), State::Empty);
    fs::write(dir.join("lost+found/inode"), b"").unwrap();
    assert_eq!(target.state().unwrap(), State::Foreign { example: b"lost+found".to_vec() });
    fs::write(dir.join(".lifeboat-part-of-my-life"), b"a user's own").unwrap();
    assert_eq!(target.state().unwrap(), State::Foreign { example: b".lifeboat-part-of-my-life".to_vec() });
}

#[test]
fn an_interrupted_restore_is_continued_and_no_other_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    {
        let target = open(dir.path());
        assert_eq!(target.begin(b"snapshot 1").unwrap(), Begin::Fresh);
        target.make_directory(&path("d"), Existing::Refuse).unwrap();
        put(&target, "d/done", b"done");
        let part = target.begin_file(&path("d/half"), 9).unwrap();
        target.write_at(&part, 0, b"half").unwrap();
        // The process dies here.
    }
    assert_eq!(names_in(&dir.path().join("d")).len(), 2);
    let target = open(dir.path());
    assert_eq!(target.state().unwrap(), State::Interrupted { marker: b"snapshot 1".to_vec() });
    match target.begin(b"snapshot 2") {
        Err(TargetError::OtherRestore { theirs, ours, .. }) => {
            assert_eq!((&theirs[..], &ours[..]), (&b"snapshot 1"[..], &b"snapshot 2"[..]));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(names_in(&dir.path().join("d")).len(), 2, "another restore sweeps nothing");
    assert_eq!(target.begin(b"snapshot 1").unwrap(), Begin::Continued);
    assert_eq!(names_in(&dir.path().join("d")), ["done"]);
    same(&target, &{
        let mut done = file("d/done", 4, 0o644);
        done.path = path("d/done");
        done
    });

    let mut root = entry("", Kind::Directory, 0o755);
    root.mtime = Timestamp { secs: 1000, nanos: 5 };
    whole(target.finish_directory(&TreePath::root(), &root).unwrap());
    target.finish().unwrap();
    assert_eq!(names_in(dir.path()), ["d"]);
    let stat = fs::metadata(dir.path()).unwrap();
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1000, 5), "the marker leaves no trace");
}

#[test]
fn a_crash_between_the_marker_and_the_targets_own_time_is_made_good() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("restored"), b"x").unwrap();
    // What stands there when the process dies right after the marker is gone.
    let mut note = 1000i64.to_le_bytes().to_vec();
    note.extend_from_slice(&5u32.to_le_bytes());
    let name = "user.lifeboat.restore-mtime";
    if rustix::fs::setxattr(dir.path(), name, &note, rustix::fs::XattrFlags::empty()).is_err() {
        eprintln!("not tested: {} has no user attributes", dir.path().display());
        return;
    }
    let target = open(dir.path());
    assert_eq!(target.state().unwrap(), State::Foreign { example: b"restored".to_vec() });
    let stat = fs::metadata(dir.path()).unwrap();
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1000, 5));
    assert_eq!(rustix::fs::getxattr(dir.path(), name, &mut [0; 32]), Err(rustix::io::Errno::NODATA));
}

#[test]
fn a_marker_that_is_a_link_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::write(&outside, b"snapshot 1").unwrap();
    let target = open(&dir.path().join("inside"));
    std::os::unix::fs::symlink(&outside, dir.path().join("inside/.lifeboat-restore")).unwrap();
    assert!(target.state().is_err());
    assert!(target.begin(b"snapshot 1").is_err());
    assert_eq!(fs::read(&outside).unwrap(), b"snapshot 1");
}

#[test]
fn a_half_written_file_has_no_final_name() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    let part = target.begin_file(&path("a"), 8).unwrap();
    target.write_at(&part, 0, b"1234").unwrap();
    assert_eq!(target.stat(&path("a")).unwrap(), None);
    let listed = target.list(&TreePath::root()).unwrap();
    assert_eq!(listed.len(), 1);
    assert!(part::is_part_name(&listed[0].0), "{listed:?}");
    target.abandon_file(part);
    assert!(names_in(dir.path()).is_empty());
}

#[test]
fn differences_name_what_is_not_as_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    let was = put(&target, "a", b"x");
    assert_eq!(target.differences(&path("b"), &was).unwrap(), [Difference::Missing]);
    let mut wanted = was.clone();
    wanted.kind = file("a", 2, 0).kind;
    wanted.mode = 0o600;
    wanted.uid += 1;
    wanted.mtime.nanos += 1;
    wanted.xattrs = vec![(b"user.x".to_vec(), b"y".to_vec())];
    assert_eq!(
        target.differences(&path("a"), &wanted).unwrap(),
        [
            Difference::Size { wanted: 2, found: 1 },
            Difference::Mode { wanted: 0o600, found: 0o644 },
            Difference::Owner { wanted: (wanted.uid, wanted.gid), found: (was.uid, was.gid) },
            Difference::Mtime { wanted: wanted.mtime, found: was.mtime },
            Difference::Xattr { name: b"user.x".to_vec() },
        ]
    );
    let kind = Difference::Kind { wanted: FileKind::Fifo, found: FileKind::File };
    assert_eq!(target.differences(&path("a"), &entry("a", Kind::Fifo, 0o644)).unwrap(), [kind]);
}
