use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;

/// A target beside a directory that nothing may touch.
struct Yard {
    dir: tempfile::TempDir,
    target: Target,
}

impl Yard {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/precious"), b"precious").unwrap();
        let target = open(&dir.path().join("inside"));
        Self { dir, target }
    }

    fn plant(&self, name: &str, to: &str) {
        symlink(self.dir.path().join(to), self.dir.path().join("inside").join(name)).unwrap();
    }

    #[track_caller]
    fn assert_outside_is_untouched(&self) {
        assert_eq!(names_in(&self.dir.path().join("outside")), ["precious"]);
        assert_eq!(fs::read(self.dir.path().join("outside/precious")).unwrap(), b"precious");
        assert_eq!(names_in(self.dir.path()), ["inside", "outside"]);
    }
}

#[test]
fn a_link_in_the_path_is_never_followed() {
    for stepwise in [false, true] {
        let yard = Yard::new();
        if stepwise {
            yard.target.confined.without_openat2();
        }
        let target = &yard.target;
        yard.plant("door", "outside");
        target.make_directory(&path("real"), Existing::Refuse).unwrap();
        yard.plant("real/door", "outside");
        for door in ["door", "real/door"] {
            let within = path(&format!("{door}/precious"));
            let new = path(&format!("{door}/new"));
            let wanted = file(&format!("{door}/new"), 1, 0o644);
            let obstructed = |error: TargetError| assert!(matches!(error, TargetError::Obstructed { .. }), "{error:?}");
            obstructed(target.write_small(&new, &wanted, &[(0, b"x")], Existing::Replace).unwrap_err());
            obstructed(target.begin_file(&within, 1).unwrap_err());
            obstructed(target.make_directory(&new, Existing::ReplaceTree).unwrap_err());
            obstructed(
                target
                    .make_symlink(&new, &entry("x", Kind::Symlink { target: vec![1] }, 0), Existing::Replace)
                    .unwrap_err(),
            );
            obstructed(target.make_link(&within, &path("stolen"), Existing::Replace).unwrap_err());
            obstructed(target.open_file(&within).unwrap_err());
            obstructed(target.list(&path(door)).unwrap_err());
            obstructed(target.finish_directory(&path(door), &entry(door, Kind::Directory, 0o777)).unwrap_err());
            assert_eq!(target.stat(&within).unwrap(), None);
            assert!(!target.remove(&within).unwrap());
            assert!(target.remove(&path(door)).unwrap(), "the link itself goes");
        }
        yard.assert_outside_is_untouched();
    }
}

#[test]
fn a_link_at_the_final_name_is_replaced_and_not_followed() {
    let yard = Yard::new();
    yard.plant("a", "outside/precious");
    yard.plant("d", "outside");
    let wanted = file("a", 3, 0o644);
    let refused = write(&yard.target, &wanted, b"new", Existing::Refuse);
    assert!(matches!(refused, Err(TargetError::Exists { .. })), "{refused:?}");
    let shadow = yard.target.open_file(&wanted.path);
    assert!(matches!(shadow, Err(TargetError::NotAFile { .. })), "{shadow:?}");
    whole(write(&yard.target, &wanted, b"new", Existing::Replace).unwrap());
    same(&yard.target, &wanted);
    let refused = yard.target.make_directory(&path("d"), Existing::Refuse);
    assert!(matches!(refused, Err(TargetError::Exists { .. })), "{refused:?}");
    assert_eq!(yard.target.make_directory(&path("d"), Existing::Replace).unwrap(), Made::Created);
    yard.assert_outside_is_untouched();
    assert_eq!(names_in(&yard.dir.path().join("inside")), ["a", "d"]);
}

#[test]
fn files_directories_and_what_stands_there_follow_the_policy() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    put(&target, "file", b"old");
    for name in ["empty", "full"] {
        target.make_directory(&path(name), Existing::Refuse).unwrap();
    }
    put(&target, "full/x", b"x");
    for (name, existing, done) in [
        ("file", Existing::Refuse, false),
        ("empty", Existing::Refuse, false),
        ("full", Existing::Refuse, false),
        ("full", Existing::Replace, false),
        ("file", Existing::Replace, true),
        ("empty", Existing::Replace, true),
        ("full", Existing::ReplaceTree, true),
    ] {
        let wanted = file(name, 3, 0o644);
        let small = write(&target, &wanted, b"new", existing);
        assert_eq!(small.is_ok(), done, "{name} {existing:?}: {small:?}");
        if !done {
            assert!(matches!(small, Err(TargetError::Exists { .. })), "{small:?}");
            let part = target.begin_file(&path(name), 3).unwrap();
            let large = target.finish_file(part, &wanted, existing);
            assert!(matches!(large, Err(TargetError::Exists { .. })), "{large:?}");
        }
    }
    assert_eq!(names_in(dir.path()), ["empty", "file", "full"], "what failed left nothing");
    assert_eq!(fs::read(dir.path().join("full")).unwrap(), b"new");
}

#[test]
fn nothing_lands_outside_while_directories_are_swapped_for_links() {
    let yard = Yard::new();
    let inside = yard.dir.path().join("inside");
    let target = &yard.target;
    target.make_directory(&path("a"), Existing::Refuse).unwrap();
    target.make_directory(&path("a/b"), Existing::Refuse).unwrap();
    let stop = AtomicBool::new(false);
    let (mut written, mut obstructed, mut swaps) = (0, 0, 0);
    std::thread::scope(|threads| {
        let attacker = threads.spawn(|| {
            let mut swaps = 0;
            while !stop.load(Ordering::Relaxed) {
                for (name, aside) in [("a/b", "a/b-aside"), ("a", "a-aside")] {
                    fs::rename(inside.join(name), inside.join(aside)).unwrap();
                    symlink(yard.dir.path().join("outside"), inside.join(name)).unwrap();
                    std::thread::sleep(Duration::from_micros(20));
                    fs::remove_file(inside.join(name)).unwrap();
                    fs::rename(inside.join(aside), inside.join(name)).unwrap();
                    swaps += 1;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            swaps
        });
        // Until 2,000 files are written, or an attacker who never pauses has had his fill.
        for n in 0..50_000 {
            // As if no directory were open: each path is resolved while links come and go.
            target.confined.forget_tree(&TreePath::root());
            match write(target, &file(&format!("a/b/f{n}"), 1, 0o644), b"x", Existing::Replace) {
                Ok(_) => written += 1,
                Err(TargetError::Obstructed { .. }) => {
                    obstructed += 1;
                    std::thread::sleep(Duration::from_micros(20));
                }
                Err(TargetError::Missing { .. }) => std::thread::yield_now(),
                Err(other) => panic!("{other:?}"),
            }
            if let Ok(part) = target.begin_file(&path(&format!("a/b/g{n}")), 1) {
                target.confined.forget_tree(&TreePath::root());
                target.parts.lock().unwrap().clear();
                let _ = target.write_at(&part, 0, b"x");
                let _ = target.finish_file(part, &file("g", 1, 0o644), Existing::Replace);
            }
            let _ = target.remove(&path(&format!("a/b/f{}", n / 2)));
            let _ = target.remove(&path("a/b/precious"));
            if written == 2000 {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        swaps = attacker.join().unwrap();
    });
    eprintln!("{written} files written and {obstructed} obstructed during {swaps} swaps");
    assert!(written > 0 && obstructed > 0 && swaps > 0);
    yard.assert_outside_is_untouched();
}

#[test]
fn an_exchanged_temporary_file_is_not_written() {
    let yard = Yard::new();
    let inside = yard.dir.path().join("inside");
    let precious = yard.dir.path().join("outside/precious");
    for how in ["symlink", "hard link", "gone"] {
        let part = yard.target.begin_file(&path("a"), 8).unwrap();
        yard.target.parts.lock().unwrap().clear();
        let temporary = inside.join(&names_in(&inside)[0]);
        fs::remove_file(&temporary).unwrap();
        match how {
            "symlink" => symlink(&precious, &temporary).unwrap(),
            "hard link" => fs::hard_link(&precious, &temporary).unwrap(),
            _ => {}
        }
        let written = yard.target.write_at(&part, 0, b"ruined");
        assert!(matches!(written, Err(TargetError::Exchanged { .. })), "{how}: {written:?}");
        yard.target.abandon_file(part);
        assert!(names_in(&inside).is_empty());
    }
    yard.assert_outside_is_untouched();
}

#[test]
fn removing_a_tree_takes_its_links_and_leaves_what_they_point_to() {
    let yard = Yard::new();
    let target = &yard.target;
    for name in ["t", "t/u", "t/u/v"] {
        target.make_directory(&path(name), Existing::Refuse).unwrap();
    }
    put(target, "t/u/f", b"x");
    yard.plant("t/u/v/door", "outside");
    yard.plant("t/door", "outside/precious");
    if !is_root() {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(yard.dir.path().join("inside/t/u"), fs::Permissions::from_mode(0o000)).unwrap();
    }
    assert!(target.remove(&path("t")).unwrap());
    assert!(!target.remove(&path("t")).unwrap());
    assert!(matches!(target.remove(&TreePath::root()), Err(TargetError::Reserved { .. })));
    assert!(names_in(&yard.dir.path().join("inside")).is_empty());
    yard.assert_outside_is_untouched();
}

#[test]
fn writes_beyond_the_size_and_reserved_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    let part = target.begin_file(&path("a"), 4).unwrap();
    for offset in [1, 4, u64::MAX] {
        let written = target.write_at(&part, offset, b"1234");
        assert!(matches!(written, Err(TargetError::PastEnd { size: 4, .. })), "{written:?}");
    }
    target.abandon_file(part);
    let marker = write(&target, &file(".lifeboat-restore", 1, 0o644), b"x", Existing::Replace);
    assert!(matches!(marker, Err(TargetError::Reserved { .. })), "{marker:?}");
    let root = write(&target, &file("", 1, 0o644), b"x", Existing::ReplaceTree);
    assert!(matches!(root, Err(TargetError::Exists { .. })), "{root:?}");
    assert!(names_in(dir.path()).is_empty());
}

#[test]
fn a_path_far_beyond_the_kernels_limit_works() {
    for stepwise in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let target = open(dir.path());
        if stepwise {
            target.confined.without_openat2();
        }
        let name = "n".repeat(200);
        let mut deep = TreePath::root();
        for _ in 0..60 {
            deep = deep.join(name.as_bytes()).unwrap();
            target.make_directory(&deep, Existing::Refuse).unwrap();
        }
        assert!(deep.as_bytes().len() > 2 * 4096);
        // Nothing above is open any more, so that the whole path is resolved.
        target.confined.forget_tree(&TreePath::root());
        let mut entry = file("x", 1, 0o640);
        entry.path = deep.join(b"file").unwrap();
        whole(write(&target, &entry, b"x", Existing::Refuse).unwrap());
        target.confined.forget_tree(&TreePath::root());
        same(&target, &entry);
        assert!(target.remove(&path(&name)).unwrap());
        assert!(names_in(dir.path()).is_empty());
    }
}
