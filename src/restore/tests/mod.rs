//! Claims about snapshots that no honest backup makes, and about packs that move or are damaged. They are built node by node.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use minicbor::bytes::{ByteArray, ByteVec};

use super::*;
use crate::clock::SystemClock;
use crate::compression::Level;
use crate::names::ChunkId;
use crate::pack::entry::{Content, Cut, Entry, Extent, Kind, Timestamp};
use crate::pack::node::ListNode;
use crate::pack::record::{Counts, ManifestBody, Outcome, Source, SourceKind, Time};
use crate::pack::tree::{NodeSink, TreeBuilder};
use crate::pack::{keys, record};
use crate::repository::{Class, Index, Packer, Repository, Scope, Selection, Snapshots, WriteSession};
use crate::seal::compress::Codec;
use crate::store::Store;
use crate::store::memory::MemoryStore;

fn repository() -> Repository {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let made = repository::init::<repository::Error>(&*store, &SystemClock, None, |_| Ok(())).unwrap();
    Repository::open(store, made.key).unwrap()
}

/// A session in which every chunk and node is stored as it is given.
struct Forge<'a> {
    repository: &'a Repository,
    session: WriteSession<'a>,
    packer: Packer<'a>,
    codec: Codec,
}

impl<'a> Forge<'a> {
    fn new(repository: &'a Repository) -> Self {
        let (session, _) = WriteSession::start(repository, &SystemClock, &|_| Vec::new()).unwrap();
        let packer = Packer::new(repository, session.id, session.began, Default::default());
        Self { repository, session, packer, codec: Codec::new() }
    }

    fn ids(&self) -> crate::seal::key::IdKeys {
        let writer = self.repository.need_writer("tests").unwrap();
        writer.keys.ids(writer.id)
    }

    fn store(&mut self, class: Class, id: ChunkId, bytes: &[u8]) {
        let chunks = [(id, bytes.len() as u32)];
        let mut scratch = Default::default();
        self.packer.store_frame(class, Some(Level::STANDARD), bytes, &chunks, &mut self.codec, &mut scratch).unwrap();
    }

    /// A chunk of a file.
    fn data(&mut self, bytes: &[u8]) -> Extent {
        let id = self.ids().data(bytes);
        self.store(Class::Data, id, bytes);
        Extent::Data { id, len: bytes.len() as u32 }
    }

    /// Chunks of files, in one frame.
    fn frame(&mut self, chunks: &[Vec<u8>]) -> Vec<Extent> {
        let ids = self.ids();
        let named: Vec<(ChunkId, u32)> = chunks.iter().map(|chunk| (ids.data(chunk), chunk.len() as u32)).collect();
        let (bytes, mut scratch) = (chunks.concat(), Default::default());
        self.packer.store_frame(Class::Data, None, &bytes, &named, &mut self.codec, &mut scratch).unwrap();
        named.into_iter().map(|(id, len)| Extent::Data { id, len }).collect()
    }

    fn list(&mut self, extents: Vec<Extent>) -> Content {
        let node = ListNode::Extents(extents).encode();
        let root = self.ids().list(&node);
        self.store(Class::Metadata, root, &node);
        Content::Nodes { root, depth: 1 }
    }

    fn source(&mut self, name: &str, entries: Vec<Entry>) -> Source {
        let ids = self.ids();
        let mut builder = TreeBuilder::new(&ids);
        for entry in entries {
            builder.push(entry, None, self).unwrap();
        }
        let root = builder.finish(self).unwrap().unwrap();
        Source {
            name: ByteVec::from(name.as_bytes().to_vec()),
            kind: SourceKind::Filesystem,
            selected: None,
            root: record::Root {
                id: ByteArray::from(root.id.0),
                level: root.level,
                base: ByteVec::from(root.base.as_bytes().to_vec()),
                entries: root.entries,
                bytes: root.bytes,
            },
            ancestors: ByteVec::from(Vec::new()),
        }
    }

    fn commit(mut self, sources: Vec<Source>) {
        self.packer.finish_packs().unwrap();
        if let Some((name, _)) = self.packer.write_delta(&mut self.session.next_run).unwrap() {
            self.session.runs.push(name);
        }
        let at = Time { secs: 0, nanos: 0 };
        let body = ManifestBody {
            started: at,
            finished: at,
            host: "test".into(),
            user: "test".into(),
            policy: None,
            tags: vec![],
            sources,
            outcome: Outcome::Complete,
            problems: vec![],
            counts: Counts::default(),
            keep_wish: None,
            version: "test".into(),
        };
        self.session.commit(&body).unwrap();
    }
}

impl NodeSink for Forge<'_> {
    type Error = std::convert::Infallible;
    fn put_tree_node(&mut self, plaintext: Vec<u8>) -> std::result::Result<ChunkId, Self::Error> {
        let id = self.ids().tree(&plaintext);
        self.store(Class::Metadata, id, &plaintext);
        Ok(id)
    }
}

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: TreePath::from_bytes(path.as_bytes().to_vec()).unwrap(),
        mode: if kind.is_directory() { 0o755 } else { 0o644 },
        kind,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        user: None,
        group: None,
        mtime: Timestamp { secs: 1_700_000_000, nanos: 5 },
        ctime: Timestamp::default(),
        inode: 0,
        link_group: None,
        xattrs: vec![],
    }
}

fn dir(path: &str) -> Entry {
    entry(path, Kind::Directory)
}

fn file(path: &str, size: u64, content: Content) -> Entry {
    entry(path, Kind::File { size, content, cut: Cut::Content })
}

/// A file of one chunk, as honest as can be.
fn honest(forge: &mut Forge<'_>, path: &str, bytes: &[u8]) -> Entry {
    let extents = vec![forge.data(bytes)];
    file(path, bytes.len() as u64, Content::Extents(extents))
}

fn wish(repository: &Repository, to: &Path) -> Request {
    let snapshots = Snapshots::list(repository).unwrap();
    let snapshot = snapshots.latest(&Selection::default()).unwrap().clone();
    let path = Some(b"/src".to_vec());
    Request { path, workers: 2, verify: true, ..Request::new(snapshot, to.to_owned()) }
}

fn go(repository: &Repository, request: Request) -> Result<Report> {
    let control = Control::default();
    run(repository, &plan(repository, request, &control)?, &control)
}

fn names(report: &Report) -> Vec<String> {
    let mut names: Vec<String> = report.damaged.iter().map(|damaged| damaged.path.to_string()).collect();
    names.sort();
    names
}

#[test]
fn a_file_whose_sizes_lie_is_named_and_the_others_come_back() {
    let repository = repository();
    let mut forge = Forge::new(&repository);
    let chunk = forge.data(b"hello");
    let Extent::Data { id, .. } = chunk else { unreachable!() };
    let short = forge.list(vec![chunk]);
    let long = forge.list(vec![chunk, chunk, chunk]);
    let huge = forge.list(vec![Extent::Hole { len: u64::MAX >> 1 }, Extent::Hole { len: u64::MAX >> 1 }]);
    let lie = Content::Extents(vec![Extent::Data { id, len: 7 }]);
    let unknown = Content::Extents(vec![Extent::Data { id: ChunkId([7; 32]), len: 4 }]);
    let entries = vec![
        dir(""),
        file("a-short", 1000, short),
        file("b-long", 11, long),
        file("c-lie", 7, lie),
        file("d-unknown", 4, unknown),
        file("e-huge", 10, huge),
        honest(&mut forge, "z-good", b"good"),
    ];
    let source = forge.source("/src", entries);
    forge.commit(vec![source]);
    let dir = tempfile::tempdir().unwrap();
    let report = go(&repository, wish(&repository, &dir.path().join("to"))).unwrap();
    assert_eq!(names(&report), ["a-short", "b-long", "c-lie", "d-unknown", "e-huge"], "{report:?}");
    assert_eq!((report.files, report.losses_count, report.differences_count), (1, 0, 0), "{report:?}");
    assert_eq!(fs::read(dir.path().join("to/z-good")).unwrap(), b"good");
    assert_eq!(fs::read_dir(dir.path().join("to")).unwrap().count(), 1, "nothing half written stays");
}

#[test]
fn nothing_is_written_through_a_link_or_a_file_that_poses_as_a_directory() {
    let repository = repository();
    let outside = tempfile::tempdir().unwrap();
    let mut forge = Forge::new(&repository);
    let link = Kind::Symlink { target: outside.path().as_os_str().as_encoded_bytes().to_vec() };
    let entries = vec![
        dir(""),
        honest(&mut forge, ".lifeboat-restore", b"a marker of its own"),
        honest(&mut forge, "file", b"file"),
        honest(&mut forge, "file/below", b"below"),
        honest(&mut forge, "good", b"good"),
        entry("link", link),
        honest(&mut forge, "link/escaped", b"escaped"),
        honest(&mut forge, "no/entry/for/these", b"deep"),
    ];
    let source = forge.source("/src", entries);
    forge.commit(vec![source]);
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    let report = go(&repository, Request { verify: false, ..wish(&repository, &to) }).unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(fs::read(to.join("good")).unwrap(), b"good");
    assert_eq!(fs::read(to.join("no/entry/for/these")).unwrap(), b"deep");
    assert!(report.losses_count >= 3, "{report:?}");
    assert_eq!(report.damaged_count, 0);
    // Neither where anything may be replaced.
    let over = Request { overwrite: Overwrite::Always, delete: true, verify: false, ..wish(&repository, &to) };
    go(&repository, over).unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(fs::read(to.join("good")).unwrap(), b"good");
}

#[test]
fn names_of_one_group_are_linked_only_where_they_agree() {
    let repository = repository();
    let mut forge = Forge::new(&repository);
    let mut entries = vec![dir("")];
    for (name, bytes) in [("a", "same"), ("b", "same"), ("c", "other"), ("d", "same")] {
        let mut entry = honest(&mut forge, name, bytes.as_bytes());
        entry.link_group = Some(5);
        if name == "d" {
            entry.mode = 0o600;
        }
        entries.push(entry);
    }
    let source = forge.source("/src", entries);
    forge.commit(vec![source]);
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    let report = go(&repository, wish(&repository, &to)).unwrap();
    assert!(report.is_whole(), "{report:?}");
    let inode = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("b"));
    assert!(inode("a") != inode("c") && inode("a") != inode("d"));
    assert_eq!(fs::read(to.join("c")).unwrap(), b"other");
}

#[test]
fn sources_within_one_another_are_refused() {
    let repository = repository();
    let mut forge = Forge::new(&repository);
    let (outer, inner) = (forge.source("/src", vec![dir("")]), forge.source("/src/inner", vec![dir("")]));
    forge.commit(vec![outer, inner]);
    let to = tempfile::tempdir().unwrap();
    let error = go(&repository, wish(&repository, to.path())).unwrap_err();
    assert!(matches!(error, Error::Sources { .. }), "{error}");
}

#[test]
fn a_chunk_is_read_from_another_pack_when_one_is_gone_even_if_that_came_after_the_plan() {
    let repository = repository();
    let mut forge = Forge::new(&repository);
    let entries = vec![dir(""), honest(&mut forge, "a", b"stored twice"), honest(&mut forge, "b", b"stored twice")];
    let source = forge.source("/src", entries);
    forge.commit(vec![source]);
    let out = tempfile::tempdir().unwrap();
    let before = wish(&repository, &out.path().join("x"));
    let control = Control::default();
    let early = plan(&repository, before, &control).unwrap();
    let id = Forge::new(&repository).ids().data(b"stored twice");
    // Another session stores it again, and the first pack goes: what a prune beside does.
    let mut again = Forge::new(&repository);
    let entry = honest(&mut again, "a", b"stored twice");
    let source = again.source("/src2", vec![dir(""), entry]);
    let first = Index::load(&repository, Scope::Read, &mut |_| ()).unwrap().locate(&id).unwrap().unwrap();
    again.commit(vec![source]);
    repository.store.delete(&keys::pack(first.pack.kind, first.pack.id)).unwrap();
    let report = run(&repository, &early, &control).unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!(fs::read(out.path().join("x/b")).unwrap(), b"stored twice");
    // And with the other one gone as well, both names are told.
    let other = Index::load(&repository, Scope::Read, &mut |_| ()).unwrap();
    for place in other.locate_all(&id).unwrap() {
        repository.store.delete(&keys::pack(place.pack.kind, place.pack.id)).unwrap();
    }
    let snapshot = early.request.snapshot.clone();
    let last = Request { path: Some(b"/src".to_vec()), ..Request::new(snapshot, out.path().join("y")) };
    let report = go(&repository, last).unwrap();
    assert_eq!(names(&report), ["a", "b"]);
}

#[test]
fn a_file_that_spans_several_windows_comes_back_with_its_other_name() {
    let repository = repository();
    let mut forge = Forge::new(&repository);
    let (one, two) = (forge.data(b"0123456789abcdef"), forge.data(b"fedcba9876543210"));
    let mut extents = vec![one; 300_000];
    extents[1] = Extent::Hole { len: 16 };
    extents[299_999] = two;
    assert!(extents.len() * window::USE_BYTES > window::WINDOW_BYTES);
    let list = forge.list(extents);
    let mut names = [file("a", 4_800_000, list.clone()), file("b", 4_800_000, list)];
    names.iter_mut().for_each(|entry| entry.link_group = Some(1));
    let [a, b] = names;
    let source = forge.source("/src", vec![dir(""), a, b]);
    forge.commit(vec![source]);
    let out = tempfile::tempdir().unwrap();
    let report = go(&repository, wish(&repository, &out.path().join("to"))).unwrap();
    assert!(report.is_whole(), "{report:?}");
    let bytes = fs::read(out.path().join("to/a")).unwrap();
    let mut wanted = b"0123456789abcdef".repeat(299_999);
    wanted[16..32].fill(0);
    wanted.extend_from_slice(b"fedcba9876543210");
    assert!(bytes == wanted);
    let inode = |name: &str| fs::metadata(out.path().join("to").join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("b"));
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_made() {
    let repository = repository();
    let mut forge = Forge::new(&repository);
    let large = Extent::Data { id: ChunkId([1; 32]), len: 16 << 20 };
    let list = forge.list(vec![large; 100_000]);
    let source = forge.source("/src", vec![dir(""), file("a", 100_000 * (16 << 20), list)]);
    forge.commit(vec![source]);
    let out = tempfile::tempdir().unwrap();
    let error = go(&repository, wish(&repository, &out.path().join("to"))).unwrap_err();
    assert!(matches!(error, Error::Space { .. }), "{error}");
    assert!(!out.path().join("to").exists());
}

#[test]
fn a_frame_of_which_each_window_wants_little_is_read_once() {
    let repository = repository();
    let mut forge = Forge::new(&repository);
    let chunks = |seed: u8| -> Vec<Vec<u8>> { (0..40).map(|n| vec![seed + n; 8192]).collect() };
    let (scattered, shared) = (forge.frame(&chunks(1)), forge.frame(&chunks(101)));
    let filler = vec![forge.data(b"0123456789abcdef"); 250_000];
    assert!(filler.len() * window::USE_BYTES > window::WINDOW_BYTES, "each fills a window");
    let filler = forge.list(filler);
    let small = |path: &str, extent: Extent| file(path, 8192, Content::Extents(vec![extent]));
    let mut entries = vec![dir("")];
    for (n, place) in ["a", "b", "c"].into_iter().enumerate() {
        entries.push(dir(place));
        entries.push(file(&format!("{place}/filler"), 4_000_000, filler.clone()));
        entries.push(dir(&format!("{place}/in")));
        entries.push(small(&format!("{place}/in/one"), scattered[n]));
        let mut pair = small(&format!("{place}/pair"), shared[0]);
        pair.link_group = Some(1);
        entries.push(pair);
    }
    let source = forge.source("/src", entries);
    forge.commit(vec![source]);
    let out = tempfile::tempdir().unwrap();
    let to = out.path().join("to");
    let report = go(&repository, wish(&repository, &to)).unwrap();
    assert!(report.is_whole(), "{report:?}");
    let frame = 40 * 8192;
    assert!((2 * frame..3 * frame).contains(&report.bytes_fetched), "each frame once: {}", report.bytes_fetched);
    let meta = |path: String| fs::metadata(to.join(path)).unwrap();
    for (n, place) in ["a", "b", "c"].into_iter().enumerate() {
        assert!(fs::read(to.join(place).join("in/one")).unwrap() == vec![1 + n as u8; 8192]);
        assert!(fs::read(to.join(place).join("filler")).unwrap() == b"0123456789abcdef".repeat(250_000));
        assert_eq!(meta(format!("{place}/pair")).ino(), meta("a/pair".into()).ino());
        for directory in [place.to_owned(), format!("{place}/in")] {
            assert_eq!(meta(directory).mtime(), 1_700_000_000, "its attributes come after all that lies in it");
        }
    }
}
