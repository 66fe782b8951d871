//! Restores from outside: what was saved comes back, or its loss is named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lifeboat::names::TreePath;
use lifeboat::repository::{Hint, Repository, Selection, Snapshots};
use lifeboat::restore::{self, Control, Error, Overwrite, Plan, Report, Request, Start};
use lifeboat::store::local::LocalStore;
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Class, Store};
use lifeboat::target::TargetError;
use proptest::prelude::*;

use crate::support::faulty::{Fault, FaultyStore, Verb};
use crate::support::repo::{backup, fresh, later, noise, plant, reopen};

type Result<T> = restore::Result<T>;

fn wish(repository: &Repository, path: Option<&Path>, to: &Path) -> Request {
    let snapshots = Snapshots::list(repository).unwrap();
    let snapshot = snapshots.latest(&Selection::default()).unwrap().clone();
    let path = path.map(|path| path.as_os_str().as_bytes().to_vec());
    Request {
        path,
        privileged: rustix::process::geteuid().is_root(),
        verify: true,
        workers: 3,
        ..Request::new(snapshot, to.to_owned())
    }
}

fn plan(repository: &Repository, request: Request) -> Result<Plan> {
    restore::plan(repository, request, &Control::default())
}

fn go(repository: &Repository, request: Request) -> Result<Report> {
    let control = Control::default();
    restore::run(repository, &restore::plan(repository, request, &control)?, &control)
}

/// A restore that must leave nothing to be said.
#[track_caller]
fn whole(repository: &Repository, request: Request) -> Report {
    let report = go(repository, request).unwrap();
    assert!(report.is_whole(), "{report:?}");
    report
}

/// Everything that can be seen of a tree, by path: hard links show as the first name of their file.
fn seen(root: &Path) -> BTreeMap<PathBuf, String> {
    let (mut found, mut first, mut waiting) = (BTreeMap::new(), BTreeMap::new(), vec![root.to_owned()]);
    while let Some(at) = waiting.pop() {
        let meta = fs::symlink_metadata(&at).unwrap();
        let path = at.strip_prefix(root).unwrap().to_owned();
        let mut line =
            format!("{:o} {}:{} {}.{}", meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec());
        if meta.is_dir() {
            let mut names: Vec<_> = fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            waiting.extend(names.into_iter().rev());
        } else if meta.is_symlink() {
            line += &format!(" -> {:?}", fs::read_link(&at).unwrap());
        } else if meta.is_file() {
            let same = first.entry(meta.ino()).or_insert_with(|| path.clone());
            line += &format!(" {} {} = {same:?}", meta.len(), blake3::hash(&fs::read(&at).unwrap()));
        }
        found.insert(path, line);
    }
    found
}

#[track_caller]
fn same(a: &Path, b: &Path) {
    let (a, b) = (seen(a), seen(b));
    for (path, line) in &a {
        assert_eq!(Some(line), b.get(path), "{path:?}");
    }
    assert_eq!(a.len(), b.len(), "{:?}", b.keys().find(|path| !a.contains_key(*path)));
}

fn memory() -> (Repository, MemoryStore, String) {
    let store = MemoryStore::default();
    let (repository, key) = fresh(Arc::new(store.clone()));
    (repository, store, key)
}

#[test]
fn a_tree_comes_back_as_it_was_and_the_plan_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, ..) = memory();
    backup(&repository, &root);
    let to = dir.path().join("out");
    let plan = plan(&repository, wish(&repository, Some(&root), &to)).unwrap();
    assert!(!to.exists(), "a plan changes nothing");
    assert_eq!(plan.start, Start::Empty);
    let report = restore::run(&repository, &plan, &Control::default()).unwrap();
    assert!(report.is_whole(), "{report:?}");
    same(&root, &to);
    assert_eq!(report.files, plan.totals.files);
    assert_eq!(report.directories, plan.totals.directories);
    assert_eq!(report.others, plan.totals.others);
    assert_eq!(report.verified_files, plan.totals.files);
    assert!(!to.join(".lifeboat-restore").exists());
    let sparse = fs::metadata(to.join("sparse.img")).unwrap();
    assert!(sparse.blocks() * 512 < 1 << 20, "holes stay holes: {}", sparse.blocks());
    let text = plan.to_string();
    assert!(text.contains(&format!("{} files", plan.totals.files)), "{text}");
}

#[test]
fn without_a_path_each_source_lands_at_its_own_and_the_directories_above_keep_their_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    for name in ["srv/a", "srv/b-file", "srv-more/c"] {
        let at = base.join(name);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        if name.ends_with("file") { fs::write(&at, "alone").unwrap() } else { fs::create_dir(&at).unwrap() }
    }
    fs::write(base.join("srv/a/x"), "x").unwrap();
    fs::write(base.join("srv/unsaved"), "not asked for").unwrap();
    fs::set_permissions(base.join("srv"), fs::Permissions::from_mode(0o711)).unwrap();
    let (repository, ..) = memory();
    let request = lifeboat::backup::Request {
        paths: vec![base.join("srv/a"), base.join("srv-more/c"), base.join("srv/b-file")],
        ..Default::default()
    };
    lifeboat::backup::run(&repository, &later(), &request, &Default::default()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("all");
    whole(&repository, wish(&repository, None, &to));
    let inside = to.join(base.strip_prefix("/").unwrap());
    same(&base.join("srv/a"), &inside.join("srv/a"));
    assert_eq!(fs::read(inside.join("srv/b-file")).unwrap(), b"alone");
    assert!(inside.join("srv-more/c").is_dir());
    assert!(!inside.join("srv/unsaved").exists());
    assert_eq!(fs::metadata(inside.join("srv")).unwrap().mode() & 0o7777, 0o711);
    // A directory above the sources.
    let to = out.path().join("part");
    whole(&repository, wish(&repository, Some(&base.join("srv")), &to));
    same(&base.join("srv/a"), &to.join("a"));
    assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o711);
    assert!(to.join("b-file").exists() && !to.join("c").exists());
    // A source that is a file.
    let to = out.path().join("file");
    whole(&repository, wish(&repository, Some(&base.join("srv/b-file")), &to));
    assert_eq!(fs::read(to.join("b-file")).unwrap(), b"alone");
}

#[test]
fn a_part_goes_into_the_target_and_a_file_keeps_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, ..) = memory();
    backup(&repository, &root);
    let to = dir.path().join("part");
    whole(&repository, wish(&repository, Some(&root.join("docs/deep")), &to));
    same(&root.join("docs/deep"), &to);
    for name in ["twenty", "link", "empty", "docs/note-007.txt"] {
        let to = dir.path().join("one").join(name);
        whole(&repository, wish(&repository, Some(&root.join(name)), &to));
        let name = Path::new(name).file_name().unwrap();
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
        assert_eq!(
            fs::symlink_metadata(to.join(name)).unwrap().mtime(),
            fs::symlink_metadata(root.join(if name == "note-007.txt" {
                Path::new("docs/note-007.txt")
            } else {
                Path::new(name)
            }))
            .unwrap()
            .mtime()
        );
    }
    for absent in ["docs/none", "docs/note-001.txt/below", "zzz"] {
        let error = go(&repository, wish(&repository, Some(&root.join(absent)), &dir.path().join("none"))).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
    let bad = go(&repository, wish(&repository, Some(Path::new("docs/../x")), &dir.path().join("none"))).unwrap_err();
    assert!(matches!(bad, Error::Path { .. }), "{bad}");
    assert!(!dir.path().join("none").exists(), "what cannot be planned leaves nothing");
}

#[test]
fn chosen_files_come_with_the_directories_that_lead_to_them_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("many");
    for n in 0..60 {
        fs::create_dir_all(root.join(format!("d{n:02}"))).unwrap();
        for f in 0..100 {
            fs::write(root.join(format!("d{n:02}/f{f:02}")), format!("{n} {f}")).unwrap();
        }
    }
    let (repository, ..) = memory();
    backup(&repository, &root);
    let inside = |name: &str| TreePath::from_bytes(root.join(name).as_os_str().as_bytes()[1..].to_vec()).unwrap();
    let files: BTreeSet<TreePath> = ["d00/f00", "d31/f50", "d31/f51", "d59/f99"].map(inside).into();
    let to = dir.path().join("out");
    let request = Request { files: Some(Arc::new(files)), ..wish(&repository, Some(&root), &to) };
    let report = whole(&repository, request);
    assert_eq!((report.files, report.directories), (4, 4));
    assert_eq!(fs::read_to_string(to.join("d31/f51")).unwrap(), "31 51");
    assert_eq!(seen(&to).len(), 8);
    let none =
        Request { files: Some(Arc::new([inside("zz")].into())), ..wish(&repository, None, &dir.path().join("no")) };
    assert!(matches!(go(&repository, none), Err(Error::NoFiles)));
}

#[test]
fn a_target_that_holds_something_is_left_alone_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, ..) = memory();
    backup(&repository, &root);
    let to = dir.path().join("out");
    fs::create_dir(&to).unwrap();
    fs::write(to.join("mine"), "precious").unwrap();
    let error = go(&repository, wish(&repository, Some(&root), &to)).unwrap_err();
    assert!(matches!(&error, Error::NotEmpty { example, .. } if example == b"mine"), "{error}");
    assert!(error.hint().unwrap().contains("--overwrite"));
    assert_eq!(seen(&to).len(), 2);
    let delete = Request { delete: true, ..wish(&repository, Some(&root), &to) };
    assert!(matches!(go(&repository, delete), Err(Error::DeleteWithoutOverwrite)));
    assert_eq!(fs::read(to.join("mine")).unwrap(), b"precious");
}

#[test]
fn overwriting_follows_its_rule() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, ..) = memory();
    backup(&repository, &root);
    let to = dir.path().join("out");
    whole(&repository, wish(&repository, Some(&root), &to));
    let spoil = || {
        fs::write(to.join("docs/note-001.txt"), "changed").unwrap();
        let large = fs::OpenOptions::new().write(true).open(to.join("large.bin")).unwrap();
        large.write_all_at(b"changed in the middle", 9 << 20).unwrap();
        fs::remove_file(to.join("link")).unwrap();
        fs::create_dir(to.join("link")).unwrap();
        fs::remove_dir_all(to.join("docs/deep")).unwrap();
        symlink("/nowhere", to.join("docs/deep")).unwrap();
        fs::set_permissions(to.join("empty"), fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(to.join("docs/extra"), "not in the snapshot").unwrap();
    };
    spoil();
    let request = Request { overwrite: Overwrite::IfChanged, ..wish(&repository, Some(&root), &to) };
    let report = whole(&repository, request);
    assert!(report.skipped_unchanged >= 299, "{report:?}");
    assert!(report.bytes_fetched < 4 << 20, "only what changed is fetched: {}", report.bytes_fetched);
    assert_eq!(fs::read(to.join("docs/extra")).unwrap(), b"not in the snapshot");
    fs::remove_file(to.join("docs/extra")).unwrap();
    spoil();
    let request = Request { overwrite: Overwrite::Always, delete: true, ..wish(&repository, Some(&root), &to) };
    let report = whole(&repository, request);
    assert_eq!((report.skipped_unchanged, report.deleted), (0, 1));
    same(&root, &to);
}

#[test]
fn deleting_takes_what_the_snapshot_lacks_and_spares_the_directories_above_a_source() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    let root = plant(&base);
    let (repository, ..) = memory();
    backup(&repository, &root);
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("all");
    whole(&repository, wish(&repository, None, &to));
    let inside = to.join(root.strip_prefix("/").unwrap());
    fs::write(to.join("beside"), "stays").unwrap();
    fs::write(inside.parent().unwrap().join("beside"), "stays").unwrap();
    fs::create_dir_all(inside.join("docs/a-tree/of/things")).unwrap();
    fs::write(inside.join("docs/a-tree/of/things/x"), "goes").unwrap();
    for name in ["!first", "docs/deep/er/zz", "zz-last"] {
        fs::write(inside.join(name), "goes").unwrap();
    }
    let request = Request { overwrite: Overwrite::IfChanged, delete: true, ..wish(&repository, None, &to) };
    let report = whole(&repository, request);
    assert_eq!(report.deleted, 4);
    same(&root, &inside);
    assert!(to.join("beside").exists() && inside.parent().unwrap().join("beside").exists());
}

#[test]
fn a_directory_with_content_gives_way_to_a_file_only_where_deleting_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, ..) = memory();
    backup(&repository, &root);
    let to = dir.path().join("out");
    fs::create_dir_all(to.join("twenty/full")).unwrap();
    let request = || Request { overwrite: Overwrite::Always, verify: false, ..wish(&repository, Some(&root), &to) };
    let report = go(&repository, request()).unwrap();
    assert_eq!(report.losses_count, 1, "{report:?}");
    assert!(to.join("twenty/full").is_dir());
    assert_eq!(fs::read(to.join("twenty-too")).unwrap(), b"twenty bytes of text", "its other name comes back");
    whole(&repository, Request { delete: true, ..request() });
    same(&root, &to);
}

#[test]
fn an_interrupted_restore_is_continued_and_ends_as_if_nothing_had_been() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, store, key) = memory();
    backup(&repository, &root);
    let to = dir.path().join("out");
    for number in [5, 6, 6, 7] {
        // The store goes away in the middle.
        let faulty = Arc::new(FaultyStore::over(store.clone()).on(Verb::GetRange, number, Fault::Crash));
        let broken = reopen(faulty, &key);
        let request = Request { workers: 1, ..wish(&broken, Some(&root), &to) };
        // Without the store nothing can be planned; once it is, each file that is refused is named, and the restore is not over.
        let report = go(&broken, request).unwrap();
        assert!(report.store_failed && report.damaged_count > 0, "{number}");
        assert!(to.join(".lifeboat-restore").exists(), "{number}");
    }
    // Or it is cancelled from the beginning on.
    let control = Control::default();
    let plan = restore::plan(&repository, wish(&repository, Some(&root), &to), &control).unwrap();
    control.cancel.store(true, Ordering::Relaxed);
    assert!(matches!(restore::run(&repository, &plan, &control), Err(Error::Cancelled)));
    assert!(to.join(".lifeboat-restore").exists());
    // A whole name with wrong bytes in it, as a crash of the machine can leave one.
    fs::create_dir_all(to.join("docs")).unwrap();
    fs::write(to.join("docs/note-009.txt"), vec![0; "note 9\n".len() * 10]).unwrap();
    let stamp = fs::File::open(root.join("docs/note-009.txt")).unwrap().metadata().unwrap().modified().unwrap();
    fs::File::options().write(true).open(to.join("docs/note-009.txt")).unwrap().set_modified(stamp).unwrap();
    // Another restore must not mix with this one.
    let other = go(&repository, wish(&repository, Some(&root.join("docs")), &to)).unwrap_err();
    assert!(matches!(other, Error::Target(TargetError::OtherRestore { .. })), "{other}");
    let again = plan_again(&repository, &root, &to);
    assert_eq!(again.start, Start::Continued);
    let report = restore::run(&repository, &again, &Control::default()).unwrap();
    assert!(report.is_whole(), "{report:?}");
    same(&root, &to);
}

fn plan_again(repository: &Repository, root: &Path, to: &Path) -> Plan {
    plan(repository, wish(repository, Some(root), to)).unwrap()
}

#[test]
fn what_stands_after_a_break_is_not_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, ..) = memory();
    backup(&repository, &root);
    let to = dir.path().join("out");
    let plan = plan_again(&repository, &root, &to);
    whole(&repository, wish(&repository, Some(&root), &to));
    // As if it had been killed just before its end, with one file still missing.
    let marker = marker_of(&repository, &root);
    fs::write(to.join(".lifeboat-restore"), marker).unwrap();
    fs::write(to.join(".lifeboat-part-0123456789abcdef-7"), "half").unwrap();
    fs::remove_file(to.join("docs/note-100.txt")).unwrap();
    let again = plan_again(&repository, &root, &to);
    assert_eq!(again.start, Start::Continued);
    let report = restore::run(&repository, &again, &Control::default()).unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(report.bytes, fs::metadata(root.join("docs/note-100.txt")).unwrap().len());
    assert_eq!(report.files + report.skipped_unchanged, plan.totals.files + plan.totals.others);
    same(&root, &to);
}

/// The marker that a restore of `root` leaves when it is cancelled at once.
fn marker_of(repository: &Repository, root: &Path) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let control = Control::default();
    let plan = restore::plan(repository, wish(repository, Some(root), &dir.path().join("x")), &control).unwrap();
    control.cancel.store(true, Ordering::Relaxed);
    restore::run(repository, &plan, &control).unwrap_err();
    fs::read(dir.path().join("x/.lifeboat-restore")).unwrap()
}

/// The data packs of a local store, largest first.
fn packs(store: &Path, kind: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(store.join(kind))
        .unwrap()
        .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    found
}

fn local(dir: &Path) -> (Repository, PathBuf, String) {
    let path = dir.join("repo");
    let store: Arc<dyn Store> = Arc::new(LocalStore::create(&path).unwrap());
    let (repository, key) = fresh(store);
    (repository, path, key)
}

/// Files of `root` that stand in `to` with other bytes than they should have.
fn wrong(root: &Path, to: &Path) -> Vec<PathBuf> {
    let (wanted, found) = (seen(root), seen(to));
    found
        .into_iter()
        .filter(|(path, line)| path.as_os_str() != "" && wanted.get(path) != Some(line))
        .map(|(path, _)| path)
        .collect()
}

#[test]
fn damage_costs_the_files_that_it_hits_and_no_others() {
    for (name, damage) in [
        (
            "flip",
            (|pack: &Path| {
                let file = fs::File::options().read(true).write(true).open(pack).unwrap();
                let at = fs::metadata(pack).unwrap().len() / 2;
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            }) as fn(&Path),
        ),
        ("cut", |pack| {
            let file = fs::File::options().write(true).open(pack).unwrap();
            file.set_len(fs::metadata(pack).unwrap().len() / 2).unwrap();
        }),
        ("head", |pack| {
            let file = fs::File::options().write(true).open(pack).unwrap();
            file.write_all_at(b"nonsense", 100).unwrap();
        }),
        ("gone", |pack| fs::remove_file(pack).unwrap()),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let root = plant(dir.path());
        let (repository, store, key) = local(dir.path());
        backup(&repository, &root);
        let pack = &packs(&store, "d")[0];
        fs::set_permissions(pack, fs::Permissions::from_mode(0o600)).unwrap();
        damage(pack);
        let repository = reopen(Arc::new(LocalStore::open(&store).unwrap()), &key);
        let to = dir.path().join("out");
        let report = go(&repository, wish(&repository, Some(&root), &to)).unwrap();
        assert!(report.damaged_count > 0, "{name}");
        assert!(!report.is_whole() && !report.store_failed, "{name}");
        let expected = seen(&root).len() as u64 - report.damaged_count;
        assert_eq!(seen(&to).len() as u64, expected, "{name}: {:?}", report.damaged);
        let named: BTreeSet<String> = report.damaged.iter().map(|damaged| damaged.path.to_string()).collect();
        for path in seen(&root).keys().filter(|path| path.as_os_str() != "") {
            assert_ne!(
                to.join(path).symlink_metadata().is_ok(),
                named.contains(path.to_str().unwrap()),
                "{name} {path:?}"
            );
        }
        assert_eq!(wrong(&root, &to), Vec::<PathBuf>::new(), "{name}");
        assert_eq!((report.losses_count, report.differences_count), (0, 0), "{name}: {report:?}");
    }
}

#[test]
fn a_damaged_list_of_files_is_told_before_anything_is_written_and_nothing_is_deleted_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("many");
    for n in 0..40 {
        fs::create_dir_all(root.join(format!("d{n:02}"))).unwrap();
        for f in 0..100 {
            fs::write(root.join(format!("d{n:02}/f{f:02}")), format!("{n} {f}")).unwrap();
        }
    }
    let (repository, store, key) = local(dir.path());
    backup(&repository, &root);
    let to = dir.path().join("before");
    whole(&repository, wish(&repository, Some(&root), &to));
    for pack in packs(&store, "m") {
        fs::remove_file(pack).unwrap();
    }
    let repository = reopen(Arc::new(LocalStore::open(&store).unwrap()), &key);
    let request = wish(&repository, Some(&root), &to);
    let delete = Request { delete: true, overwrite: Overwrite::Always, ..request.clone() };
    assert!(matches!(go(&repository, delete), Err(Error::DeleteBlind)));
    assert_eq!(seen(&to).len(), 4041);
    let plan = plan(&repository, Request { to: dir.path().join("after"), ..request }).unwrap();
    assert!(plan.gaps > 0 && !plan.warnings.is_empty());
    let report = restore::run(&repository, &plan, &Control::default()).unwrap();
    assert!(report.damaged_count > 0);
}

#[test]
fn a_store_that_is_away_ends_the_restore_and_names_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, store, key) = memory();
    backup(&repository, &root);
    let faulty = Arc::new(FaultyStore::over(store.clone()).on(Verb::GetRange, 5, Fault::FailBefore(Class::Transient)));
    let broken = reopen(faulty.clone(), &key);
    let error = go(&broken, wish(&broken, Some(&root), &dir.path().join("out"))).unwrap_err();
    assert!(matches!(error, Error::Repository(_)), "{error}");
    faulty.assert_every_fault_was_met();
}

#[test]
fn a_read_that_was_bad_once_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, store, key) = memory();
    backup(&repository, &root);
    // Heads and metadata come first; one of the later reads is a stretch of data.
    for number in 4..9 {
        let faulty = Arc::new(FaultyStore::over(store.clone()).on(Verb::GetRange, number, Fault::FlipBit(80_000)));
        let shaky = reopen(faulty.clone(), &key);
        let to = dir.path().join(format!("out{number}"));
        let report = go(&shaky, wish(&shaky, Some(&root), &to)).unwrap();
        if report.damaged_count == 0 {
            same(&root, &to);
        }
        assert_eq!(report.differences_count, 0);
        faulty.assert_every_fault_was_met();
    }
}

#[test]
fn the_repository_itself_is_no_target() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, store, _) = local(dir.path());
    backup(&repository, &root);
    symlink(&store, dir.path().join("alias")).unwrap();
    for to in [store.clone(), store.join("new/place"), dir.path().join("alias/x")] {
        let error = go(&repository, wish(&repository, Some(&root), &to)).unwrap_err();
        assert!(matches!(error, Error::InRepository { .. }), "{error}");
    }
}

#[test]
fn holes_need_no_room_and_stay_holes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    fs::create_dir(&root).unwrap();
    // Mostly holes: its size is no need of space.
    let image = fs::File::create(root.join("image")).unwrap();
    image.set_len(1 << 42).unwrap_or_else(|_| image.set_len(1 << 40).unwrap());
    image.write_all_at(b"a little", 1 << 20).unwrap();
    let (repository, ..) = memory();
    backup(&repository, &root);
    let plan = plan(&repository, Request { verify: false, ..wish(&repository, Some(&root), &dir.path().join("out")) })
        .unwrap();
    assert!(plan.totals.bytes >= 1 << 40 && plan.totals.bytes_needed <= 1 << 20, "{:?}", plan.totals);
    let report = restore::run(&repository, &plan, &Control::default()).unwrap();
    assert!(report.is_whole(), "{report:?}");
    let image = fs::File::open(dir.path().join("out/image")).unwrap();
    let mut bytes = [0; 8];
    image.read_exact_at(&mut bytes, 1 << 20).unwrap();
    assert_eq!(&bytes, b"a little");
}

#[test]
fn an_unprivileged_restore_says_what_it_leaves_out() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("tool"), "x").unwrap();
    fs::set_permissions(root.join("tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    let (repository, ..) = memory();
    backup(&repository, &root);
    let to = dir.path().join("out");
    let report = whole(&repository, Request { privileged: false, ..wish(&repository, Some(&root), &to) });
    assert_eq!(report.omitted.get("setuid or setgid bits"), Some(&1), "{report:?}");
    assert_eq!(fs::metadata(to.join("tool")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn more_files_than_one_window_holds_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    fs::create_dir_all(root.join("a/b")).unwrap();
    for n in 0..36_000u32 {
        fs::write(root.join(format!("a/{n:06}")), n.to_le_bytes()).unwrap();
    }
    fs::write(root.join("a/b/middle"), noise(3 << 20, 9)).unwrap();
    fs::hard_link(root.join("a/000007"), root.join("zz-link")).unwrap();
    let (repository, ..) = memory();
    backup(&repository, &root);
    let to = dir.path().join("out");
    whole(&repository, wish(&repository, Some(&root), &to));
    same(&root, &to);
}

/// A tree of files by path: content, mode.
fn trees() -> impl Strategy<Value = BTreeMap<Vec<u8>, (Vec<u8>, bool)>> {
    let part = prop::sample::select(vec!["a", "b", "a-b", "\u{e9}", "x.y"]);
    let path = prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/").into_bytes());
    let content = prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 1..200),
        (1usize..400_000, 0u64..4).prop_map(|(len, seed)| noise(len, seed)),
        (1usize..300_000).prop_map(|len| vec![0; len]),
    ];
    prop::collection::btree_map(path, (content, any::<bool>()), 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_tree_is_restored_as_it_was(tree in trees()) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        fs::create_dir(&root).unwrap();
        for (path, (content, link)) in &tree {
            let at = root.join(std::ffi::OsStr::from_bytes(path));
            // A path may need a directory where a shorter one has put a file.
            if fs::create_dir_all(at.parent().unwrap()).is_err() || at.exists() {
                continue;
            }
            fs::write(&at, content).unwrap();
            if *link {
                let _ = fs::hard_link(&at, root.join(format!("link-{}", content.len())));
            }
        }
        let (repository, ..) = memory();
        backup(&repository, &root);
        let to = dir.path().join("out");
        whole(&repository, wish(&repository, Some(&root), &to));
        prop_assert_eq!(seen(&root), seen(&to));
    }
}

const CHILD: &str = "LIFEBOAT_TEST_RESTORE";

/// What `a_killed_restore_is_continued` runs as a process of its own; without its variable it does nothing.
#[test]
#[ignore = "only started by another test"]
fn child_that_is_killed() {
    let Ok(text) = std::env::var(CHILD) else { return };
    let [store, key, root, to] = text.split('|').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let key = fs::read_to_string(key).unwrap();
    let repository = reopen(Arc::new(LocalStore::open(Path::new(store)).unwrap()), &key);
    go(&repository, wish(&repository, Some(Path::new(root)), Path::new(to))).unwrap();
}

#[test]
fn a_killed_restore_is_continued() {
    let dir = tempfile::tempdir().unwrap();
    let root = plant(dir.path());
    let (repository, store, key) = local(dir.path());
    backup(&repository, &root);
    let (key_file, to) = (dir.path().join("key"), dir.path().join("out"));
    fs::write(&key_file, &key).unwrap();
    let text = [&store, &key_file, &root, &to].map(|path| path.to_str().unwrap().to_owned()).join("|");
    for _ in 0..3 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "restore::child_that_is_killed"])
            .env(CHILD, &text)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Killed once it has begun, wherever it is by then.
        while !to.join(".lifeboat-restore").exists() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_millis(30));
        child.kill().unwrap();
        child.wait().unwrap();
        if !to.join(".lifeboat-restore").exists() {
            fs::remove_dir_all(&to).unwrap();
        }
    }
    whole(&repository, wish(&repository, Some(&root), &to));
    same(&root, &to);
}
