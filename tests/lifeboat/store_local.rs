//! What a directory as a store promises beyond the contract.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat::address::Address;
use lifeboat::bucket::Options;
use lifeboat::store::address::{self, PlaceError};
use lifeboat::store::local::{LocalStore, OpenError};
use lifeboat::store::{Class, Create, Store};
use tempfile::TempDir;

use crate::support::{key, session};

fn store() -> (TempDir, PathBuf, LocalStore) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("store");
    let store = LocalStore::create(&root).unwrap();
    (directory, root, store)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn put(store: &LocalStore, name: &str, bytes: &[u8]) {
    assert_eq!(store.create(&key(name), bytes).unwrap(), Create::Created, "{name}");
}

fn leftover_names(store: &LocalStore) -> Vec<String> {
    store.leftovers().unwrap().into_iter().map(|leftover| leftover.name).collect()
}

#[test]
fn nobody_else_may_read_what_is_stored() {
    let (_directory, root, store) = store();
    put(&store, "s/one", b"x");
    let mut upload = store.begin(session(1), 0).unwrap();
    upload.append(b"x").unwrap();
    assert_eq!(mode(&root.join(format!("tmp/{}-0", session(1)))), 0o600);
    assert_eq!(upload.finish(&key("d/ab/pack")).unwrap(), Create::Created);
    for directory in ["", "tmp", "s", "d", "d/ab"] {
        assert_eq!(mode(&root.join(directory)), 0o700, "{directory}");
    }
    for file in ["s/one", "d/ab/pack"] {
        assert_eq!(mode(&root.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_missing_directory_is_named_and_not_made() {
    let (_directory, root, _store) = store();
    let absent = root.join("absent");
    let error = LocalStore::open(&absent).err().unwrap();
    assert!(matches!(error, OpenError::Missing { .. }), "{error:?}");
    assert!(error.to_string().contains(absent.to_str().unwrap()), "{error}");
    assert!(!absent.exists());
}

#[test]
fn a_file_is_no_store() {
    let (_directory, root, _store) = store();
    fs::write(root.join("file"), b"x").unwrap();
    for error in [LocalStore::open(&root.join("file")).err(), LocalStore::create(&root.join("file")).err()] {
        assert!(matches!(error, Some(OpenError::NotADirectory { .. })), "{error:?}");
    }
}

#[test]
fn a_directory_in_use_is_not_made_a_store() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    LocalStore::create(directory.path()).unwrap();
    LocalStore::create(directory.path()).unwrap(); // an init that was interrupted goes on

    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("letter.txt"), b"x").unwrap();
    let error = LocalStore::create(home.path()).err().unwrap();
    assert!(matches!(&error, OpenError::NotEmpty { entry, .. } if entry == "letter.txt"), "{error:?}");
}

#[test]
fn leftovers_are_no_objects_and_are_swept_when_dead() {
    let (_directory, root, store) = store();
    put(&store, "s/one", b"x");
    fs::write(root.join("s/two#1"), b"half").unwrap();
    fs::write(root.join("s/one#17"), b"half").unwrap();
    fs::write(root.join(format!("tmp/{}-3", session(2))), b"half a pack").unwrap();
    let live = store.begin(session(3), 0).unwrap();

    let listed: Vec<String> = store.list("").unwrap().iter().map(|listed| listed.key.to_string()).collect();
    assert_eq!(listed, ["s/one"]);
    let (dead_pack, live_pack) = (format!("tmp/{}-3", session(2)), format!("tmp/{}-0", session(3)));
    assert_eq!(leftover_names(&store), ["s/one#17", "s/two#1", &dead_pack, &live_pack]);

    let swept = store.sweep(&mut |leftover| leftover.session() != Some(session(3))).unwrap();
    assert_eq!((swept.files, swept.bytes), (3, 4 + 4 + 11));
    assert_eq!(leftover_names(&store), [live_pack]);
    assert_eq!(live.finish(&key("d/ab/live")).unwrap(), Create::Created);
    assert_eq!(leftover_names(&store), [""; 0]);
    assert_eq!(store.get(&key("s/one")).unwrap(), b"x");
}

#[test]
fn an_interrupted_create_does_not_stand_in_the_way() {
    let (_directory, root, store) = store();
    fs::create_dir(root.join("s")).unwrap();
    fs::write(root.join("s/one#1"), b"ha").unwrap();
    put(&store, "s/one", b"whole");
    assert_eq!(store.get(&key("s/one")).unwrap(), b"whole");
    assert_eq!(fs::read(root.join("s/one#1")).unwrap(), b"ha", "a leftover is the sweep's, not the create's");
}

#[test]
fn a_race_leaves_no_leftovers() {
    let (_directory, _root, store) = store();
    std::thread::scope(|scope| {
        for racer in 0..8u8 {
            let store = &store;
            scope.spawn(move || store.create(&key("s/one"), &[racer]).map(|_| ()).unwrap());
        }
    });
    assert_eq!(leftover_names(&store), [""; 0]);
}

#[test]
fn two_uploads_of_one_number_are_refused() {
    let (_directory, _root, store) = store();
    let _first = store.begin(session(1), 0).unwrap();
    assert_eq!(store.begin(session(1), 0).err().unwrap().class, Class::Permanent);
}

#[test]
fn what_is_no_file_in_the_place_of_an_object_is_an_error() {
    let (directory, root, store) = store();
    fs::write(directory.path().join("secret"), b"not ours").unwrap();
    fs::create_dir_all(root.join("s/directory")).unwrap();
    symlink(directory.path().join("secret"), root.join("s/link")).unwrap();
    symlink(directory.path(), root.join("linked")).unwrap();
    for name in ["s/directory", "s/link"] {
        let key = key(name);
        assert_eq!(store.get(&key).unwrap_err().class, Class::Permanent, "{name}");
        assert_eq!(store.get_range(&key, 0..1).unwrap_err().class, Class::Permanent, "{name}");
        assert_eq!(store.size(&key).unwrap_err().class, Class::Permanent, "{name}");
        assert_eq!(store.create(&key, b"x").unwrap_err().class, Class::Permanent, "{name}");
        let upload = store.begin(session(1), 0).unwrap();
        assert_eq!(upload.finish(&key).unwrap_err().class, Class::Permanent, "{name}");
    }
    assert_eq!(store.get(&key("linked/secret")).unwrap_err().class, Class::Permanent);
    assert_eq!(store.create(&key("linked/new"), b"x").unwrap_err().class, Class::Permanent);
    assert!(!directory.path().join("new").exists());
    // A listing that left it out would be shorter than the truth.
    assert_eq!(store.list("s/").unwrap_err().class, Class::Permanent);
    assert_eq!(store.list("linked/").unwrap_err().class, Class::Permanent);
    assert_eq!(leftover_names(&store), [""; 0]);
}

#[test]
fn files_that_are_not_ours_are_passed_over() {
    let (_directory, root, store) = store();
    fs::create_dir(root.join("lost+found")).unwrap();
    fs::write(root.join(".hidden"), b"x").unwrap();
    fs::write(root.join("README.TXT"), b"x").unwrap();
    fs::write(root.join("#1"), b"x").unwrap();
    fs::write(root.join("a#b"), b"x").unwrap();
    put(&store, "s/one", b"x");
    assert_eq!(store.list("").unwrap().len(), 1);
    assert_eq!(leftover_names(&store), [""; 0]);
}

#[test]
fn a_root_that_was_replaced_is_neither_read_as_empty_nor_written() {
    let (directory, root, store) = store();
    put(&store, "s/one", b"x");
    fs::rename(&root, directory.path().join("away")).unwrap();
    fs::create_dir(&root).unwrap();
    assert_eq!(store.get(&key("s/absent")).unwrap_err().class, Class::Permanent);
    assert_eq!(store.size(&key("s/absent")).unwrap_err().class, Class::Permanent);
    assert_eq!(store.list("").unwrap_err().class, Class::Permanent);
    assert_eq!(store.create(&key("s/two"), b"x").unwrap_err().class, Class::Permanent);
    assert_eq!(store.begin(session(1), 0).err().unwrap().class, Class::Permanent);
    assert!(fs::read_dir(&root).unwrap().next().is_none());
}

#[test]
fn a_directory_that_vanished_is_made_again() {
    let (_directory, root, store) = store();
    let finish = |number, name| {
        let mut upload = store.begin(session(1), number).unwrap();
        upload.append(b"x").unwrap();
        upload.finish(&key(name)).unwrap()
    };
    assert_eq!(finish(0, "d/ab/one"), Create::Created);
    put(&store, "s/one", b"x");
    for directory in ["d", "s", "tmp"] {
        fs::remove_dir_all(root.join(directory)).unwrap();
    }
    assert_eq!(finish(1, "d/ab/two"), Create::Created);
    put(&store, "s/two", b"x");
    assert_eq!(store.list("").unwrap().len(), 2);
}

#[test]
fn a_sessions_directory_goes_with_its_last_record_and_no_other_does() {
    let (_dir, root, store) = store();
    for name in ["w/aa/00000000", "w/aa/00000001", "d/aa/pack"] {
        put(&store, name, b"bytes");
    }
    store.delete(&key("d/aa/pack")).unwrap();
    store.delete(&key("w/aa/00000000")).unwrap();
    assert!(root.join("w/aa").exists() && root.join("d/aa").exists());
    store.delete(&key("w/aa/00000001")).unwrap();
    assert!(!root.join("w/aa").exists() && root.join("w").exists());
    put(&store, "w/aa/00000002", b"again");
    assert_eq!(store.get(&key("w/aa/00000002")).unwrap(), b"again");
}

#[test]
fn more_objects_are_read_than_files_are_kept_open() {
    let (_directory, _root, store) = store();
    for n in 0..100u8 {
        put(&store, &format!("d/{n}"), &[n; 10]);
    }
    for round in 0..3 {
        for n in 0..100u8 {
            assert_eq!(store.get_range(&key(&format!("d/{n}")), round..round + 1).unwrap(), [n]);
        }
    }
    let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    let root = store.url().strip_prefix("file://").unwrap().to_owned() + "/d/";
    assert!(open.filter(|path| path.to_string_lossy().starts_with(&root)).count() <= 64);
}

#[test]
fn a_range_is_never_read_from_a_file_that_was_deleted_by_others() {
    let (_directory, root, store) = store();
    put(&store, "d/one", b"x");
    assert_eq!(store.get_range(&key("d/one"), 0..1).unwrap(), b"x");
    fs::remove_file(root.join("d/one")).unwrap();
    assert!(store.get_range(&key("d/one"), 0..1).unwrap_err().is_not_found());
}

#[test]
fn free_space_is_told() {
    let (_directory, _root, store) = store();
    assert!(store.available_bytes().unwrap().unwrap() > 0);
}

#[test]
fn an_address_opens_what_it_created() {
    let directory = tempfile::tempdir().unwrap();
    let address = Address::parse(directory.path().join("a store/deep").to_str().unwrap()).unwrap();
    assert!(matches!(
        address::open(&address, &Options::default()).err(),
        Some(PlaceError::Directory(OpenError::Missing { .. }))
    ));
    let made: Arc<dyn Store> = address::create(&address, &Options::default()).unwrap();
    assert_eq!(made.create(&key("s/one"), b"x").unwrap(), Create::Created);
    assert_eq!(address::open(&address, &Options::default()).unwrap().get(&key("s/one")).unwrap(), b"x");
    assert_eq!(made.url(), address.url());
}

#[test]
fn an_error_names_its_path_and_its_cause() {
    let (_directory, root, store) = store();
    let error = store.get(&key("s/absent")).unwrap_err();
    assert_eq!(error.to_string(), format!("{}: cannot read s/absent", store.url()));
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(cause.to_string(), format!("cannot open {}", root.join("s/absent").display()));
    assert!(std::error::Error::source(cause).is_some());
}
