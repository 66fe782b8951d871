//! Random trees that change at random, and a plain copy of each state: every snapshot must come back as the copy kept it, and a
//! snapshot that reused what was known must be, leaf by leaf and to the last attribute, the one that a full read makes.
//!
//! A history that fails is printed with its seed, which `LIFEBOAT_TEST_SEED` repeats. `LIFEBOAT_TEST_LONG=1` tries many more.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lifeboat::backup::{self, Report};
use lifeboat::clock::SystemClock;
use lifeboat::names::{ObjectKey, SnapshotId, TreePath};
use lifeboat::pack::entry::Entry;
use lifeboat::pack::record::Outcome;
use lifeboat::pack::tree::TreeReader;
use lifeboat::repository::{ChunkReader, Index, Repository, Scope, Snapshots};
use lifeboat::restore;
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Create, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use rustix::fs::{CWD, FileType, RenameFlags, renameat_with};

use crate::support::census::{self, Census};
use crate::support::odd::{acl, attribute, is_root, node, touch};
use crate::support::repo::{fresh, noise, reopen, request};
use crate::support::scratch::roomy;

/// One change. Numbers choose among what stands at that time.
#[derive(Clone, Debug)]
enum Change {
    Create {
        name: Vec<u8>,
        content: Bytes,
    },
    MakeFolder {
        name: Vec<u8>,
    },
    MakeNode {
        name: Vec<u8>,
        socket: bool,
    },
    MakeLink {
        name: Vec<u8>,
        target: Vec<u8>,
    },
    /// Some bytes of a file become others, at a place of its length's; its time may be set back, to the very one it had.
    Modify {
        at: u16,
        place: u32,
        bytes: u16,
        hide: bool,
    },
    Append {
        at: u16,
        content: Bytes,
    },
    Truncate {
        at: u16,
        to: u32,
    },
    /// Into another folder or under another name.
    Rename {
        at: u16,
        to: u16,
        name: Vec<u8>,
    },
    Mode {
        at: u16,
        bits: u32,
    },
    Own {
        at: u16,
        uid: u32,
    },
    Touch {
        at: u16,
        secs: i64,
        nanos: i64,
    },
    Attribute {
        at: u16,
        value: Vec<u8>,
        acl: bool,
    },
    /// A file becomes a folder of the same name, a folder a file.
    Turn {
        at: u16,
    },
    HardLink {
        at: u16,
        to: u16,
        name: Vec<u8>,
    },
    Delete {
        at: u16,
    },
    /// Two files of one size and one time, each in the other's place.
    Swap {
        at: u16,
        with: u16,
    },
    /// A new file under an old name, as programs save.
    Replace {
        at: u16,
        content: Bytes,
    },
}

/// Content that shares blocks with other content.
#[derive(Clone, Debug)]
struct Bytes {
    blocks: Vec<u8>,
    tail: u16,
    /// The blocks lie this far apart, with holes between.
    gap: u32,
}

impl Bytes {
    const BLOCK: usize = 40_000;

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let file = File::create(path)?;
        let mut end = 0;
        for block in &self.blocks {
            file.write_all_at(&noise(Self::BLOCK, u64::from(*block)), end)?;
            end += (Self::BLOCK as u64) + u64::from(self.gap);
        }
        file.write_all_at(&noise(usize::from(self.tail), 77), end)
    }

    fn all(&self) -> Vec<u8> {
        let blocks = self.blocks.iter().flat_map(|block| noise(Self::BLOCK, u64::from(*block)));
        blocks.chain(noise(usize::from(self.tail), 78)).collect()
    }
}

fn contents() -> impl Strategy<Value = Bytes> {
    let blocks = prop_oneof![4 => prop::collection::vec(0u8..6, 0..2), 1 => prop::collection::vec(0u8..6, 2..40)];
    let gap = prop_oneof![5 => Just(0u32), 1 => Just(300_000u32)];
    (blocks, 0u16..600, gap).prop_map(|(blocks, tail, gap)| Bytes { blocks, tail, gap })
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "c", "d", "e", "f", "g", "h", "a.b", "a-b", "B", "x.img"]).prop_map(|name| name.as_bytes().to_vec()),
        2 => prop::collection::vec(1u8..=255, 1..12),
        1 => prop::collection::vec(1u8..=255, 255..=255),
    ]
    .prop_map(|name| name.into_iter().map(|byte| if byte == b'/' { b'|' } else { byte }).collect::<Vec<u8>>())
    .prop_filter("a name", |name| name != b"." && name != b"..")
}

fn changes() -> impl Strategy<Value = Change> {
    let at = any::<u16>;
    let mode = prop::sample::select(vec![0o644u32, 0o600, 0o755, 0o000, 0o4755, 0o1777, 0o2770]);
    let secs = prop::sample::select(vec![0i64, -1, 1_000_000_000, -315_619_200, 7_258_118_400, 1_700_000_000]);
    prop_oneof![
        6 => (names(), contents()).prop_map(|(name, content)| Change::Create { name, content }),
        2 => names().prop_map(|name| Change::MakeFolder { name }),
        1 => (names(), any::<bool>()).prop_map(|(name, socket)| Change::MakeNode { name, socket }),
        1 => (names(), names()).prop_map(|(name, target)| Change::MakeLink { name, target }),
        6 => (at(), any::<u32>(), 1u16..5000, any::<bool>()).prop_map(|(at, place, bytes, hide)| Change::Modify { at, place, bytes, hide }),
        2 => (at(), contents()).prop_map(|(at, content)| Change::Append { at, content }),
        2 => (at(), any::<u32>()).prop_map(|(at, to)| Change::Truncate { at, to }),
        3 => (at(), at(), names()).prop_map(|(at, to, name)| Change::Rename { at, to, name }),
        2 => (at(), mode).prop_map(|(at, bits)| Change::Mode { at, bits }),
        1 => (at(), 0u32..5).prop_map(|(at, uid)| Change::Own { at, uid }),
        2 => (at(), secs, 0i64..1_000_000_000).prop_map(|(at, secs, nanos)| Change::Touch { at, secs, nanos }),
        2 => (at(), prop::collection::vec(any::<u8>(), 0..40), any::<bool>()).prop_map(|(at, value, acl)| Change::Attribute { at, value, acl }),
        2 => at().prop_map(|at| Change::Turn { at }),
        2 => (at(), at(), names()).prop_map(|(at, to, name)| Change::HardLink { at, to, name }),
        2 => at().prop_map(|at| Change::Delete { at }),
        3 => (at(), at()).prop_map(|(at, with)| Change::Swap { at, with }),
        2 => (at(), contents()).prop_map(|(at, content)| Change::Replace { at, content }),
    ]
}

/// A stretch between two snapshots, and whether the clock moves on after it, so that times can be trusted.
type Stretch = (Vec<Change>, bool);

/// What a history begins with.
fn planting() -> impl Strategy<Value = Change> {
    let link = (any::<u16>(), any::<u16>(), names()).prop_map(|(at, to, name)| Change::HardLink { at, to, name });
    prop_oneof![
        8 => (names(), contents()).prop_map(|(name, content)| Change::Create { name, content }),
        3 => names().prop_map(|name| Change::MakeFolder { name }),
        1 => link,
        2 => changes(),
    ]
}

fn histories() -> impl Strategy<Value = Vec<Stretch>> {
    let first = prop::collection::vec(planting(), 20..60);
    let later = prop::collection::vec((prop::collection::vec(changes(), 0..6), prop::bool::weighted(0.7)), 4..15);
    (first, later).prop_map(|(first, mut later)| {
        later.insert(0, (first, true));
        later
    })
}

/// The tree that changes.
struct Live {
    root: PathBuf,
    /// Beside the tree, to rename from.
    aside: PathBuf,
}

impl Live {
    fn all(&self, wanted: impl Fn(&fs::Metadata) -> bool) -> Vec<PathBuf> {
        let (mut found, mut waiting) = (Vec::new(), vec![self.root.clone()]);
        while let Some(folder) = waiting.pop() {
            let mut inside: Vec<PathBuf> =
                fs::read_dir(&folder).map_or(vec![], |dir| dir.map(|entry| entry.unwrap().path()).collect());
            inside.sort();
            for path in inside {
                let meta = path.symlink_metadata().unwrap();
                if meta.is_dir() {
                    waiting.push(path.clone());
                }
                if wanted(&meta) {
                    found.push(path);
                }
            }
        }
        found
    }

    fn pick(&self, at: u16, wanted: impl Fn(&fs::Metadata) -> bool) -> Option<PathBuf> {
        let found = self.all(wanted);
        found.get(usize::from(at) % found.len().max(1)).cloned()
    }

    fn file(&self, at: u16) -> Option<PathBuf> {
        self.pick(at, fs::Metadata::is_file)
    }

    fn folder(&self, at: u16) -> PathBuf {
        // The root among them, and as root any folder can be written.
        let mut found = self.all(fs::Metadata::is_dir);
        found.push(self.root.clone());
        found.swap_remove(usize::from(at) % found.len())
    }

    /// Does one change. What the system refuses (a name that is taken, a folder into itself) has not happened.
    fn change(&self, number: usize, change: &Change) -> Option<()> {
        let place =
            |name: &[u8]| self.folder(name.iter().map(|byte| u16::from(*byte)).sum()).join(OsStr::from_bytes(name));
        match change {
            Change::Create { name, content } => {
                let path = place(name);
                path.symlink_metadata().is_err().then(|| content.write(&path).ok())?
            }
            Change::MakeFolder { name } => fs::create_dir(place(name)).ok(),
            Change::MakeNode { name, socket } => {
                let path = place(name);
                path.symlink_metadata()
                    .is_err()
                    .then(|| node(&path, if *socket { FileType::Socket } else { FileType::Fifo }, 0))
            }
            Change::MakeLink { name, target } => symlink(OsStr::from_bytes(target), place(name)).ok(),
            Change::Modify { at, place, bytes, hide } => {
                let path = self.file(*at)?;
                let before = path.metadata().ok()?;
                let offset = u64::from(*place) % before.len().max(1);
                let len = usize::from(*bytes).min((before.len() - offset.min(before.len())) as usize);
                File::options().write(true).open(&path).ok()?.write_all_at(&noise(len, number as u64), offset).ok()?;
                if *hide {
                    touch(&path, before.mtime(), before.mtime_nsec());
                }
                Some(())
            }
            Change::Append { at, content } => {
                let path = self.file(*at)?;
                let end = path.metadata().ok()?.len();
                File::options().write(true).open(&path).ok()?.write_all_at(&content.all(), end).ok()
            }
            Change::Truncate { at, to } => {
                let path = self.file(*at)?;
                let len = u64::from(*to) % (path.metadata().ok()?.len() * 2 + 1);
                File::options().write(true).open(&path).ok()?.set_len(len).ok()
            }
            Change::Rename { at, to, name } => {
                let path = self.pick(*at, |_| true)?;
                let to = self.folder(*to).join(OsStr::from_bytes(name));
                to.symlink_metadata().is_err().then(|| fs::rename(path, to).ok())?
            }
            Change::Mode { at, bits } => {
                // A user must be able to read what is to be saved.
                let bits = if is_root() { *bits } else { bits | 0o600 };
                let path = self.pick(*at, |meta| meta.is_file() || (meta.is_dir() && is_root()))?;
                fs::set_permissions(path, fs::Permissions::from_mode(bits)).ok()
            }
            Change::Own { at, uid } => {
                let path = self.pick(*at, |_| is_root())?;
                std::os::unix::fs::lchown(path, Some(*uid), Some(*uid + 1)).ok()
            }
            Change::Touch { at, secs, nanos } => {
                touch(&self.pick(*at, |_| true)?, *secs, *nanos);
                Some(())
            }
            Change::Attribute { at, value, acl: true } => {
                let path = self.pick(*at, |meta| meta.is_file() || meta.is_dir())?;
                attribute(&path, "system.posix_acl_access", &acl(value.len() as u32, [6, 4, 4, 4, 0])).then_some(())
            }
            Change::Attribute { at, value, .. } => {
                let path = self.pick(*at, |meta| meta.is_file() || meta.is_dir())?;
                attribute(&path, "user.random", value).then_some(())
            }
            Change::Turn { at } => {
                let path = self.pick(*at, |meta| meta.is_file() || meta.is_dir())?;
                if path.is_dir() {
                    fs::remove_dir_all(&path).ok()?;
                    fs::write(&path, "was a folder").ok()
                } else {
                    fs::remove_file(&path).ok()?;
                    fs::create_dir(&path).ok()?;
                    fs::write(path.join("inside"), "was a file").ok()
                }
            }
            Change::HardLink { at, to, name } => {
                let path = self.pick(*at, |meta| !meta.is_dir())?;
                fs::hard_link(path, self.folder(*to).join(OsStr::from_bytes(name))).ok()
            }
            Change::Delete { at } => {
                let path = self.pick(*at, |_| true)?;
                if path.symlink_metadata().ok()?.is_dir() {
                    fs::remove_dir_all(path).ok()
                } else {
                    fs::remove_file(path).ok()
                }
            }
            Change::Swap { at, with } => {
                let (a, b) = (self.file(*at)?, self.file(*with)?);
                let (len, time) = (a.metadata().ok()?.len(), a.metadata().ok()?);
                if len > 1 << 20 || a == b || time.ino() == b.metadata().ok()?.ino() {
                    return None;
                }
                // Alike to whoever looks at sizes and times only.
                fs::write(&b, noise(len as usize, number as u64)).ok()?;
                touch(&b, time.mtime(), time.mtime_nsec());
                renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).ok()
            }
            Change::Replace { at, content } => {
                let path = self.file(*at)?;
                content.write(&self.aside).ok()?;
                fs::rename(&self.aside, path).ok()
            }
        }
    }
}

/// A repository in memory with its key, and what it held when it was new.
struct Kept {
    repository: Repository,
    key: String,
    blank: Vec<(ObjectKey, Vec<u8>)>,
}

impl Kept {
    fn new() -> Self {
        let store = MemoryStore::default();
        let (repository, key) = fresh(Arc::new(store.clone()));
        let blank =
            store.list("").unwrap().into_iter().map(|listed| (listed.key.clone(), store.get(&listed.key).unwrap()));
        let blank = blank.collect();
        Self { repository, key, blank }
    }

    /// A repository with the same key that knows of no snapshot.
    fn knowing_nothing(&self) -> Repository {
        let store = MemoryStore::default();
        for (key, bytes) in &self.blank {
            assert_eq!(store.create(key, bytes).unwrap(), Create::Created);
        }
        reopen(Arc::new(store), &self.key)
    }
}

/// A tree whatever its leaves are stored as.
#[derive(Debug, PartialEq)]
struct Saved {
    level: u8,
    base: TreePath,
    entries: u64,
    bytes: u64,
    leaves: Vec<Vec<Entry>>,
}

/// Saves `root` by the real clock: whether a time can be trusted is part of what is tried.
fn save(repository: &Repository, root: &Path) -> (Report, Saved) {
    let report = backup::run(repository, &SystemClock, &request(root), &Default::default()).unwrap();
    assert_eq!(report.outcome, Outcome::Complete, "{:?}", report.problems);
    let snapshots = Snapshots::list(repository).unwrap();
    let snapshot = snapshots.readable.iter().find(|snapshot| snapshot.id == report.snapshot).unwrap();
    let root = snapshot.body.as_ref().unwrap().sources[0].tree();
    let index = Index::load(repository, Scope::Read, &mut |error| panic!("{error}")).unwrap();
    let reader = ChunkReader::new(repository, &index, snapshot.writer).unwrap();
    let (mut tree, mut leaves) = (TreeReader::new(&reader, &root), Vec::new());
    while tree.next_leaf().unwrap() {
        let (_, leaf) = tree.leaf().unwrap();
        leaves.push((0..leaf.len()).map(|place| leaf.entry(place).unwrap()).collect());
    }
    (report, Saved { level: root.level, base: root.base, entries: root.entries, bytes: root.bytes, leaves })
}

fn bring(repository: &Repository, id: SnapshotId, root: &Path, to: &Path) -> Census {
    let snapshots = Snapshots::list(repository).unwrap();
    let snapshot = snapshots.readable.iter().find(|snapshot| snapshot.id == id).unwrap().clone();
    let path = Some(root.as_os_str().as_bytes().to_vec());
    let request = restore::Request { path, privileged: true, ..restore::Request::new(snapshot, to.to_owned()) };
    let control = restore::Control::default();
    let report = restore::run(repository, &restore::plan(repository, request, &control).unwrap(), &control).unwrap();
    assert!(report.is_whole(), "{report:?}");
    census::seen(to)
}

/// What was met over all histories: a test must not pass by missing its subject.
#[derive(Default)]
struct Met {
    snapshots: AtomicU64,
    changes: AtomicU64,
    files: AtomicU64,
    files_read: AtomicU64,
}

fn is_long() -> bool {
    std::env::var_os("LIFEBOAT_TEST_LONG").is_some()
}

fn live_through(history: &[Stretch], met: &Met) -> Result<(), TestCaseError> {
    // The long runs go to the disk.
    let dir = if is_long() { tempfile::tempdir().unwrap() } else { roomy() };
    let live = Live { root: dir.path().join("live"), aside: dir.path().join("aside") };
    fs::create_dir(&live.root).unwrap();
    let kept = Kept::new();
    let mut saved = Vec::new();
    for (number, (changes, settles)) in history.iter().enumerate() {
        for (n, change) in changes.iter().enumerate() {
            if live.change(number * 100 + n, change).is_some() {
                met.changes.fetch_add(1, Ordering::Relaxed);
            }
        }
        if *settles {
            std::thread::sleep(Duration::from_millis(70));
        }
        let (report, root) = save(&kept.repository, &live.root);
        met.snapshots.fetch_add(1, Ordering::Relaxed);
        if number > 0 {
            met.files.fetch_add(report.counts.files, Ordering::Relaxed);
            met.files_read.fetch_add(report.counts.files_read, Ordering::Relaxed);
        }
        // The plain copy, by a program that knows nothing of us.
        let copy = dir.path().join(format!("copy-{number}"));
        let copied = Command::new("cp").arg("-a").arg("--").args([&live.root, &copy]).status().unwrap();
        prop_assert!(copied.success());
        let (_, full) = save(&kept.knowing_nothing(), &live.root);
        prop_assert_eq!(&root, &full, "snapshot {} is not what a full read makes", number);
        saved.push((report.snapshot, copy));
    }
    for (number, (id, copy)) in saved.iter().enumerate() {
        let to = dir.path().join("there");
        let brought = bring(&kept.repository, *id, &live.root, &to);
        let differences =
            census::differences(&census::without_space(&census::seen(copy)), &census::without_space(&brought));
        prop_assert!(differences.is_empty(), "snapshot {} came back otherwise: {:#?}", number, differences);
        fs::remove_dir_all(&to).unwrap();
    }
    Ok(())
}

#[test]
fn every_snapshot_of_a_random_history_comes_back_and_is_what_a_full_read_makes() {
    let long = is_long();
    let time = Duration::from_secs(if long { 600 } else { 15 });
    let (begun, met) = (Instant::now(), Met::default());
    let config = Config { cases: 1, max_shrink_time: 20_000, failure_persistence: None, ..Config::default() };
    let mut histories_lived = 0;
    while histories_lived < if long { 2_000 } else { 12 } && begun.elapsed() < time {
        let seed = match std::env::var("LIFEBOAT_TEST_SEED") {
            Ok(seed) => seed.parse().expect("LIFEBOAT_TEST_SEED is a number"),
            Err(_) => getrandom::u64().unwrap(),
        };
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, blake3::hash(&seed.to_le_bytes()).as_bytes());
        let mut runner = TestRunner::new_with_rng(config.clone(), random);
        if let Err(error) = runner.run(&histories(), |history| live_through(&history, &met)) {
            panic!("LIFEBOAT_TEST_SEED={seed}: {error}");
        }
        histories_lived += 1;
    }
    let [snapshots, changes, files, read] =
        [&met.snapshots, &met.changes, &met.files, &met.files_read].map(|count| count.load(Ordering::Relaxed));
    println!(
        "{histories_lived} histories, {snapshots} snapshots, {changes} changes; {read} of {files} files read again"
    );
    assert!(snapshots >= 5 && changes > 20, "nothing was tried");
    assert!(read > 0 && read < files, "some files are read again, and others are not: {read} of {files}");
}

/// The edits that a look at size and mtime alone misses, right after a backup, again and again.
#[test]
fn an_edit_that_hides_behind_size_and_time_is_saved_however_soon_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("live");
    fs::create_dir(&root).unwrap();
    let kept = Kept::new();
    let mut wrong = Vec::new();
    for name in ["in-place", "replaced", "swapped-1", "swapped-2"] {
        fs::write(root.join(name), noise(3000, 1)).unwrap();
        touch(&root.join(name), 1_500_000_000, 0);
    }
    for round in 0..40u64 {
        fs::write(root.join("in-place"), noise(3000, 2 * round)).unwrap();
        fs::write(dir.path().join("new"), noise(3000, 2 * round + 1)).unwrap();
        touch(&dir.path().join("new"), 1_500_000_000, 0);
        fs::rename(dir.path().join("new"), root.join("replaced")).unwrap();
        fs::write(root.join("swapped-1"), noise(3000, 1000 + round)).unwrap();
        touch(&root.join("swapped-1"), 1_500_000_000, 0);
        renameat_with(CWD, root.join("swapped-1"), CWD, root.join("swapped-2"), RenameFlags::EXCHANGE).unwrap();
        touch(&root.join("in-place"), 1_500_000_000, 0);
        let (report, _) = save(&kept.repository, &root);
        let to = dir.path().join("there");
        let brought = bring(&kept.repository, report.snapshot, &root, &to);
        let found = census::differences(&census::without_space(&census::seen(&root)), &census::without_space(&brought));
        wrong.extend(found.into_iter().map(|found| format!("round {round}: {found}")));
        fs::remove_dir_all(&to).unwrap();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
