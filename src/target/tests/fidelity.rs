use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

/// An ACL as the kernel stores it: (tag, permissions, id) each.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn acl_for_user(uid: u32) -> Vec<u8> {
    let none = u32::MAX;
    acl(&[(0x01, 6, none), (0x02, 4, uid), (0x04, 4, none), (0x10, 6, none), (0x20, 0, none)])
}

/// cap_net_bind_service=ep
fn capability() -> Vec<u8> {
    let mut bytes = 0x0200_0001u32.to_le_bytes().to_vec();
    for word in [1u32 << 10, 0, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

#[test]
fn a_small_file_comes_out_as_its_entry_says() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    for (name, mode) in [("a", 0o644), ("b", 0o600), ("c", 0o000), ("d", 0o777), ("e", 0o755), ("f", 0o1644)] {
        let entry = file(name, 5, mode);
        whole(write(&target, &entry, b"hello", Existing::Refuse).unwrap());
        same(&target, &entry);
    }
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"hello");
    assert_eq!(names_in(dir.path()), ["a", "b", "c", "d", "e", "f"], "no temporary file is left");
}

#[test]
fn modification_times_far_away_keep_their_nanoseconds() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    for (name, secs) in [("1960", -315_619_200), ("1969", -1), ("2200", 7_258_118_400)] {
        let mut entry = file(name, 0, 0o644);
        entry.mtime = Timestamp { secs, nanos: 999_999_999 };
        whole(write(&target, &entry, b"", Existing::Refuse).unwrap());
        same(&target, &entry);
        assert_eq!(fs::metadata(dir.path().join(name)).unwrap().mtime(), secs);
    }
}

#[test]
fn a_time_that_cannot_be_set_is_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    for (name, secs, nanos) in [("too far", i64::MAX, 0), ("now", 0, 0x3fff_ffff), ("omit", 0, 0x3fff_fffe)] {
        let mut entry = file(name, 0, 0o644);
        entry.mtime = Timestamp { secs, nanos };
        let outcome = write(&target, &entry, b"", Existing::Refuse).unwrap();
        let lost: Vec<_> = outcome.losses.iter().map(|loss| loss.what.clone()).collect();
        // Some file systems hold any second; none holds a nanosecond that is no number of nanoseconds.
        let kept = nanos == 0 && target.differences(&entry.path, &entry).unwrap().is_empty();
        assert!(kept || lost == [Attribute::Times], "{name}: {lost:?}");
    }
}

#[test]
fn setuid_and_capability_survive_a_change_of_owner() {
    if !checked_as_root("owners and capabilities") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    let mut small = file("small", 2, 0o6755);
    (small.uid, small.gid) = (1234, 5678);
    small.xattrs = vec![(b"security.capability".to_vec(), capability()), (b"user.x".to_vec(), b"y".to_vec())];
    whole(write(&target, &small, b"hi", Existing::Refuse).unwrap());
    same(&target, &small);

    let mut large = small.clone();
    large.path = path("large");
    let part = target.begin_file(&large.path, 2).unwrap();
    target.write_at(&part, 0, b"hi").unwrap();
    whole(target.finish_file(part, &large, Existing::Refuse).unwrap());
    same(&target, &large);
    let found = target.read_entry(&large.path).unwrap().unwrap();
    assert_eq!((found.stat.mode, found.stat.uid, found.stat.gid), (0o6755, 1234, 5678));
    assert!(found.xattrs.contains(&(b"security.capability".to_vec(), capability())));
}

#[test]
fn the_owner_of_a_second_file_is_set_although_the_first_taught_it() {
    if !checked_as_root("foreign owners") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    for (name, uid, gid) in [("a", 0, 0), ("b", 7, 0), ("c", 0, 7), ("d", 8, 9), ("e", 0, 0)] {
        for mode in [0o640, 0o604, 0o644, 0o070] {
            let mut entry = file(&format!("{name}{mode:o}"), 0, mode);
            (entry.uid, entry.gid) = (uid, gid);
            whole(write(&target, &entry, b"", Existing::Refuse).unwrap());
            same(&target, &entry);
        }
    }
}

#[test]
fn xattrs_and_acls_come_back_and_inherited_ones_do_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    let mut folder = entry("d", Kind::Directory, 0o750);
    folder.xattrs =
        vec![(b"system.posix_acl_default".to_vec(), acl_for_user(7)), (b"user.tag".to_vec(), b"\0\xff".to_vec())];
    target.make_directory(&folder.path, Existing::Refuse).unwrap();
    whole(target.finish_directory(&folder.path, &folder).unwrap());
    same(&target, &folder);

    // The directory now gives its ACL to whatever is made in it, which no entry asked for.
    let plain = put(&target, "d/plain", b"x");
    same(&target, &plain);
    let mut ruled = file("d/ruled", 1, 0o660);
    ruled.xattrs = vec![(b"system.posix_acl_access".to_vec(), acl_for_user(42)), (b"user.big".to_vec(), vec![7; 2000])];
    whole(write(&target, &ruled, b"x", Existing::Refuse).unwrap());
    same(&target, &ruled);
    let large = file("d/large", 1, 0o640);
    let part = target.begin_file(&large.path, 1).unwrap();
    whole(target.finish_file(part, &large, Existing::Refuse).unwrap());
    same(&target, &large);
    let below = entry("d/below", Kind::Directory, 0o700);
    target.make_directory(&below.path, Existing::Refuse).unwrap();
    whole(target.finish_directory(&below.path, &below).unwrap());
    same(&target, &below);
    let fifo = entry("d/fifo", Kind::Fifo, 0o640);
    whole(target.make_special(&fifo.path, &fifo, Existing::Refuse).unwrap());
    same(&target, &fifo);

    // An attribute that a directory had before, and should not have, goes.
    folder.xattrs.clear();
    assert_eq!(target.differences(&folder.path, &folder).unwrap().len(), 3, "two attributes, and the time");
    whole(target.finish_directory(&folder.path, &folder).unwrap());
    same(&target, &folder);
}

#[test]
fn a_read_only_file_keeps_its_user_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    let mut entry = file("a", 1, 0o444);
    entry.xattrs = vec![(b"user.x".to_vec(), b"y".to_vec())];
    whole(write(&target, &entry, b"x", Existing::Refuse).unwrap());
    same(&target, &entry);
}

#[test]
fn links_fifos_and_sockets_come_back_with_their_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    let mut link = entry("dangling", Kind::Symlink { target: b"/no\xffwhere/../x".to_vec() }, 0o777);
    if checked_as_root("owner and trusted attribute of a symlink") {
        (link.uid, link.gid) = (12, 34);
        // A memory file system keeps no attributes of links; where it does they come back.
        link.xattrs = vec![(b"trusted.l".to_vec(), b"v".to_vec())];
    }
    whole(target.make_symlink(&link.path, &link, Existing::Refuse).unwrap());
    same(&target, &link);
    for entry in [entry("fifo", Kind::Fifo, 0o622), entry("socket", Kind::Socket, 0o777)] {
        whole(target.make_special(&entry.path, &entry, Existing::Refuse).unwrap());
        same(&target, &entry);
        let again = target.make_special(&entry.path, &entry, Existing::Refuse);
        assert!(matches!(again, Err(TargetError::Exists { .. })), "{again:?}");
        whole(target.make_special(&entry.path, &entry, Existing::Replace).unwrap());
        same(&target, &entry);
    }
    if checked_as_root("devices") {
        let device = entry("null", Kind::CharDevice { major: 1, minor: 3 }, 0o666);
        whole(target.make_special(&device.path, &device, Existing::Refuse).unwrap());
        same(&target, &device);
        let block = entry("loop", Kind::BlockDevice { major: 7, minor: 300 }, 0o660);
        whole(target.make_special(&block.path, &block, Existing::Refuse).unwrap());
        same(&target, &block);
    }
}

#[test]
fn hard_links_are_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    target.make_directory(&path("d"), Existing::Refuse).unwrap();
    put(&target, "a", b"one");
    put(&target, "other", b"two");
    whole(target.make_link(&path("a"), &path("d/b"), Existing::Refuse).unwrap());
    whole(target.make_link(&path("a"), &path("d/b"), Existing::Refuse).unwrap());
    let refused = target.make_link(&path("a"), &path("other"), Existing::Refuse);
    assert!(matches!(refused, Err(TargetError::Exists { .. })), "{refused:?}");
    whole(target.make_link(&path("a"), &path("other"), Existing::Replace).unwrap());
    let stat = target.stat(&path("a")).unwrap().unwrap();
    assert_eq!(stat.nlink, 3);
    assert_eq!(target.stat(&path("d/b")).unwrap().unwrap().identity, stat.identity);
    assert_eq!(names_in(dir.path()), ["a", "d", "other"]);
}

#[test]
fn a_sparse_file_stays_sparse_whichever_order_its_bytes_come_in() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    let size = 64 << 20;
    let entry = file("disk", size, 0o600);
    let part = target.begin_file(&entry.path, size).unwrap();
    std::thread::scope(|threads| {
        for offset in [size - 4096, 32 << 20, 0] {
            let (target, part) = (&target, &part);
            threads.spawn(move || target.write_at(part, offset, &[7; 4096]).unwrap());
        }
    });
    whole(target.finish_file(part, &entry, Existing::Refuse).unwrap());
    same(&target, &entry);
    let small = file("small", 1 << 20, 0o600);
    whole(target.write_small(&small.path, &small, &[(4096, &[1; 10])], Existing::Refuse).unwrap());
    same(&target, &small);
    for (name, most) in [("disk", 3 * 64 * 1024), ("small", 64 * 1024)] {
        let stat = target.stat(&path(name)).unwrap().unwrap();
        assert!(stat.allocated <= most, "{name} takes {} bytes", stat.allocated);
    }
    let disk = target.open_file(&path("disk")).unwrap();
    let mut bytes = [0; 5000];
    assert_eq!(disk.read_at(&mut bytes, size - 4097).unwrap(), 4097);
    assert_eq!((bytes[0], bytes[1], bytes[4096]), (0, 7, 7));
}

#[test]
fn a_thousand_files_in_progress_need_few_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    let names: Vec<_> = (0..1000).map(|n| format!("d{}/f{n}", n % 400)).collect();
    for n in 0..400 {
        target.make_directory(&path(&format!("d{n}")), Existing::Refuse).unwrap();
    }
    let parts: Vec<_> = names.iter().map(|name| target.begin_file(&path(name), 8).unwrap()).collect();
    for part in &parts {
        target.write_at(part, 4, b"5678").unwrap();
    }
    for part in parts.iter().rev() {
        target.write_at(part, 0, b"1234").unwrap();
    }
    assert!(target.confined.open_count() <= 256);
    assert!(target.parts.lock().unwrap().len() <= 128);
    for (part, name) in parts.into_iter().zip(&names) {
        whole(target.finish_file(part, &file(name, 8, 0o644), Existing::Refuse).unwrap());
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), b"12345678");
    }
    assert_eq!(target.parts.lock().unwrap().len(), 0);
}

#[test]
fn directories_are_closed_to_others_until_finished_and_the_root_gets_its_attributes() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("new/target");
    let target = open(&dir);
    let mode = |name: &str| fs::symlink_metadata(dir.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(""), 0o700);
    assert_eq!(target.make_directory(&path("d"), Existing::Refuse).unwrap(), Made::Created);
    assert_eq!(target.make_directory(&path("d"), Existing::Refuse).unwrap(), Made::Existed);
    assert_eq!(target.make_directory(&path("d/e"), Existing::Refuse).unwrap(), Made::Created);
    assert_eq!((mode("d"), mode("d/e")), (0o700, 0o700));
    put(&target, "d/e/f", b"x");
    let entries =
        [entry("d/e", Kind::Directory, 0o000), entry("d", Kind::Directory, 0o3775), entry("", Kind::Directory, 0o751)];
    for entry in &entries {
        whole(target.finish_directory(&entry.path, entry).unwrap());
    }
    for entry in entries.iter().rev() {
        same(&target, entry);
    }
    // A second run gets into the closed directory again, whoever we are.
    target.make_directory(&path("d/e"), Existing::Refuse).unwrap();
    put(&target, "d/e/g", b"y");
    assert!(target.remove(&path("d")).unwrap());
}

#[test]
fn an_unprivileged_target_leaves_out_and_names_what_needs_privilege() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::open(dir.path(), unprivileged()).unwrap();
    let mut program = file("program", 1, 0o6755);
    program.uid += 1;
    program.xattrs =
        [&b"security.capability"[..], b"trusted.x", b"user.kept"].map(|n| (n.to_vec(), capability())).into();
    let outcome = write(&target, &program, b"x", Existing::Refuse).unwrap();
    let mut omitted: Vec<_> = outcome.omitted.into_iter().map(|o| o.what.to_string()).collect();
    omitted.sort();
    let expected =
        ["extended attribute security.capability", "extended attribute trusted.x", "mode", "owner"].map(str::to_owned);
    assert_eq!(omitted, expected);
    assert!(outcome.losses.is_empty(), "{:?}", outcome.losses);
    same(&target, &program);
    let found = target.read_entry(&program.path).unwrap().unwrap();
    assert_eq!(found.stat.mode, 0o755);
    assert_eq!(found.stat.uid, rustix::process::geteuid().as_raw());
    assert_eq!(found.xattrs, [(b"user.kept".to_vec(), capability())]);

    let device = entry("null", Kind::CharDevice { major: 1, minor: 3 }, 0o666);
    let outcome = target.make_special(&device.path, &device, Existing::Refuse).unwrap();
    assert_eq!(outcome.omitted, [Omitted { path: path("null"), what: Attribute::Device }]);
    assert_eq!(target.stat(&path("null")).unwrap(), None);
}

#[test]
fn an_owner_that_cannot_be_set_takes_setuid_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    let mut program = file("program", 1, 0o4755);
    program.uid = u32::MAX;
    let outcome = write(&target, &program, b"x", Existing::Refuse).unwrap();
    assert_eq!(outcome.losses.iter().map(|l| &l.what).collect::<Vec<_>>(), [&Attribute::Owner, &Attribute::Mode]);
    assert_eq!(target.stat(&program.path).unwrap().unwrap().mode, 0o755);
}

#[test]
fn owners_go_by_name_where_asked() {
    let by_name = owner::Owners::new(OwnerBy::Name);
    let mut entry = file("a", 0, 0o644);
    (entry.uid, entry.gid) = (4711, 4712);
    entry.user = Some(b"root".to_vec());
    entry.group = Some(b"no such group\0".to_vec());
    assert_eq!(by_name.of(&entry), (0, 4712));
    assert_eq!(owner::Owners::new(OwnerBy::Number).of(&entry), (4711, 4712));
}

#[test]
fn a_name_in_a_directory_that_was_closed_meanwhile_becomes_no_link_and_that_is_named() {
    if !checked_as_root("what another user may do") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // Rights belong to threads: this one gives root's up.
    let nobody = rustix::process::Uid::from_raw(65_534);
    let user = std::thread::spawn({
        let at = dir.path().join("target");
        move || {
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let target = open(&at);
            target.make_directory(&path("d"), Existing::Refuse).unwrap();
            whole(
                target
                    .write_small(&path("d/a"), &Entry { uid: 65_534, ..file("d/a", 0, 0o644) }, &[], Existing::Refuse)
                    .unwrap(),
            );
            let closed = Entry { uid: 65_534, ..entry("d", Kind::Directory, 0o000) };
            whole(target.finish_directory(&path("d"), &closed).unwrap());
            let outcome = target.make_link(&path("d/a"), &path("b"), Existing::Refuse).unwrap();
            assert_eq!(outcome.losses.iter().map(|loss| &loss.what).collect::<Vec<_>>(), [&Attribute::HardLink]);
            // And the target itself may end up closed: the restore ends all the same, with no marker left.
            assert_eq!(target.begin(b"x").unwrap(), Begin::Fresh);
            let root = Entry { uid: 65_534, ..entry("", Kind::Directory, 0o111) };
            whole(target.finish_directory(&root.path, &root).unwrap());
            target.finish().unwrap();
            let stat = target.stat(&root.path).unwrap().unwrap();
            assert_eq!((stat.mode, stat.mtime), (0o111, root.mtime));
            assert_eq!(target.stat(&path(MARKER_NAME)).unwrap(), None);
        }
    });
    user.join().unwrap();
}

#[test]
fn a_small_file_with_holes_has_its_size_before_its_bytes_and_one_without_is_written_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let target = open(dir.path());
    let bytes = [7u8; 4096];
    let holes: [&[(u64, &[u8])]; 4] = [&[], &[(0, &bytes)], &[(8192, &bytes)], &[(0, &bytes), (8192, &bytes)]];
    for (n, chunks) in holes.into_iter().enumerate() {
        let entry = file(&format!("f{n}"), 12_288, 0o644);
        whole(target.write_small(&entry.path, &entry, chunks, Existing::Refuse).unwrap());
        let mut wanted = vec![0; 12_288];
        chunks.iter().for_each(|(at, bytes)| wanted[*at as usize..][..bytes.len()].copy_from_slice(bytes));
        assert!(fs::read(dir.path().join(format!("f{n}"))).unwrap() == wanted, "{n}");
        same(&target, &entry);
    }
}
