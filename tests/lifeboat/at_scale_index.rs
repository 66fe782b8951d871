//! Indexes far larger than the memory that they may take, made by the code that makes every index: opened, asked, added to, merged.
//!
//! A million chunks by default. Ten and a hundred million, and how long everything took:
//!
//!     LIFEBOAT_TEST_LONG=1 cargo test --release --test lifeboat -- --nocapture --test-threads=1 at_scale

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lifeboat::names::{ChunkId, PackId, SessionId};
use lifeboat::pack::container::PackKind;
use lifeboat::pack::keys;
use lifeboat::pack::run::{EntryRow, FrameRow, PackRow, RunName, RunWriter};
use lifeboat::repository::{Error, Index, Repository, Scope};
use lifeboat::seal::key::Key;
use lifeboat::seal::object::{Identity, ObjectError, ObjectKind, Sealing, SignedBy};
use lifeboat::store::local::LocalStore;
use lifeboat::store::meter::{Meter, Metered, Traffic};
use lifeboat::store::{Create, StoreError};

use crate::memory::{PEAK_BYTES_MAX, peak};
use crate::support::shipped::{good, lifeboat};

const CHUNKS_PER_FRAME: u64 = 16;
const FRAMES_PER_PACK: u64 = 32;
const CHUNK_BYTES: u32 = 64 << 10;

pub fn is_long() -> bool {
    std::env::var_os("LIFEBOAT_TEST_LONG").is_some()
}

fn scramble(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Id `number` of `of`: they grow, and are spread as hashes are.
fn id(number: u64, of: u64) -> ChunkId {
    let step = u64::MAX / of;
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(number * step + scramble(number) % step).to_be_bytes());
    for part in 1..4 {
        id[part * 8..part * 8 + 8].copy_from_slice(&scramble(number + part as u64 * of).to_be_bytes());
    }
    ChunkId(id)
}

struct Place {
    dir: tempfile::TempDir,
    cache: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("admin.key");
        good(lifeboat(dir.path(), ["init", "--repo", "repository", "--key-out"]).arg(&key));
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for n in 0..300 {
            fs::write(tree.join(format!("{n}")), format!("text {n}").repeat(100)).unwrap();
        }
        Self { cache: dir.path().join("notes"), dir }
    }

    fn home(&self) -> &Path {
        self.dir.path()
    }

    /// The repository as a command opens it, and what it asks of its store.
    fn open(&self, cache: Option<&Path>) -> (Repository, Meter) {
        let key = Key::from_text(&fs::read_to_string(self.home().join("admin.key")).unwrap()).unwrap();
        let store = Metered::over(LocalStore::open(&self.home().join("repository")).unwrap());
        let meter = store.meter();
        (Repository::open(Arc::new(store), key).unwrap().remembering(cache), meter)
    }

    /// Loads the index; what that asked of the store.
    fn load(&self, cache: Option<&Path>) -> (Index, Meter, Traffic, Duration) {
        let (repository, meter) = self.open(cache);
        let (before, begun) = (meter.traffic(), Instant::now());
        let index = Index::load(&repository, Scope::Read, &mut |error| panic!("{error}")).unwrap();
        let took = begun.elapsed();
        let mut asked = meter.traffic();
        asked.range_gets -= before.range_gets;
        asked.down_bytes -= before.down_bytes;
        (index, meter, asked, took)
    }

    /// Stores, as one segment, every chunk of `of` whose number leaves `part` divided by `parts`.
    fn plant(&self, part: u64, parts: u64, of: u64) -> RunName {
        let (repository, _) = self.open(None);
        let writer = repository.need_writer("planting").unwrap();
        let session = SessionId::new(writer.id, scramble(part + of).to_be_bytes());
        let name = RunName { session, sequence: 0, epoch: None };
        let (key, base) = (keys::run(name), writer.keys.index_key());
        let identity = Identity {
            kind: ObjectKind::Segment,
            repository: repository.id,
            key: &key,
            base: &base,
            by: SignedBy::Writer(writer.id),
            signer: &writer.signer,
            features: 0,
        };
        let mut upload = repository.store.begin(session, 0).unwrap();
        let mut out = Vec::new();
        let mut sealing = Sealing::new(&identity, &mut out);
        let mut run = RunWriter::new(|block: &[u8]| -> Result<(), StoreError> {
            sealing.push(block, &mut out);
            if out.len() > 1 << 20 {
                upload.append(&out)?;
                out.clear();
            }
            Ok(())
        });
        let count = (of - part).div_ceil(parts);
        for (at, number) in (0u64..).zip((part..of).step_by(parts as usize)) {
            // As content is cut: neighbours in a file are none in the index.
            let frame = scramble(number) % count.div_ceil(CHUNKS_PER_FRAME);
            let offset = (at % CHUNKS_PER_FRAME) as u32 * CHUNK_BYTES;
            run.entry(&EntryRow { id: id(number, of), frame: frame as u32, offset, len: CHUNK_BYTES }).unwrap();
        }
        let frames = count.div_ceil(CHUNKS_PER_FRAME);
        for frame in 0..frames {
            let (pack, offset) = ((frame / FRAMES_PER_PACK) as u32, (frame % FRAMES_PER_PACK) as u32 * (1 << 20));
            run.frame(&FrameRow { pack, offset, stored_len: 1 << 20, plain_len: 1 << 20 }).unwrap();
        }
        let pack = |number: u64| {
            let id = PackId(*blake3::hash(&[part, number].map(u64::to_le_bytes).concat()).as_bytes());
            PackRow { id, kind: PackKind::Data, size: FRAMES_PER_PACK << 20 }
        };
        let packs: Vec<PackRow> = (0..frames.div_ceil(FRAMES_PER_PACK)).map(pack).collect();
        let footer = run.finish(&packs, &[]).unwrap();
        sealing.finish(&identity, &footer, &mut out);
        upload.append(&out).unwrap();
        assert_eq!(upload.finish(&key).unwrap(), Create::Created);
        name
    }

    fn stored(&self, name: RunName) -> PathBuf {
        self.home().join("repository").join(keys::run(name).as_str())
    }
}

/// A change time is believed once it is so old that a second write would show.
fn settle() {
    std::thread::sleep(Duration::from_millis(150));
}

/// What a run of so many chunks has behind its entries and frames: 9 or 10 bits and a fence for each, and its packs.
fn tail_bytes(chunks: u64) -> u64 {
    chunks * 126 / 100 + chunks / (CHUNKS_PER_FRAME * FRAMES_PER_PACK) * 42 + (64 << 10)
}

fn ceiling(chunks: u64) -> u64 {
    PEAK_BYTES_MAX + chunks * 12 / 10
}

#[test]
fn an_index_of_any_size_is_opened_by_its_tail_and_asked_by_single_blocks() {
    let sizes: &[u64] = if is_long() { &[1_000_000, 10_000_000, 100_000_000] } else { &[1_000_000] };
    for &chunks in sizes {
        let place = Place::new();
        let begun = Instant::now();
        let name = place.plant(0, 1, chunks);
        let size = fs::metadata(place.stored(name)).unwrap().len();
        eprintln!("{chunks} chunks: {} MiB, made in {:.1?}", size >> 20, begun.elapsed());
        settle();
        let (_, _, asked, took) = place.load(Some(&place.cache));
        eprintln!("  proven and opened in {took:.0?}");
        assert!(asked.down_bytes < size + tail_bytes(chunks), "{asked:?} of {size} bytes");
        let (index, meter, asked, took) = place.load(Some(&place.cache));
        eprintln!("  opened in {took:.0?}: {} reads, {} KiB", asked.range_gets, asked.down_bytes >> 10);
        assert_eq!(index.chunks(), chunks);
        assert!(asked.down_bytes < tail_bytes(chunks), "{asked:?}");
        assert!(asked.range_gets < tail_bytes(chunks) / (4 << 20) + 6, "{asked:?}");

        let reads = |before: Traffic| meter.traffic().range_gets - before.range_gets;
        let (before, begun, misses) = (meter.traffic(), Instant::now(), 200_000u64);
        for number in 0..misses {
            // Between two that are there: the same first bytes, others behind.
            assert!(!index.contains(&id(scramble(number) % (2 * chunks) + chunks, 4 * chunks)).unwrap());
        }
        let took = begun.elapsed() / misses as u32;
        eprintln!("  a stranger: {took:.0?}, {:.4} reads", reads(before) as f64 / misses as f64);
        assert!(reads(before) < misses / 100, "{} reads for {misses} strangers", reads(before));

        let (before, begun, hits) = (meter.traffic(), Instant::now(), 50_000u64);
        for at in 0..hits {
            let number = scramble(at) % chunks;
            let found = index.locate(&id(number, chunks)).unwrap().expect("it was planted");
            assert_eq!((found.len, found.offset), (CHUNK_BYTES, (number % CHUNKS_PER_FRAME) as u32 * CHUNK_BYTES));
        }
        let took = begun.elapsed() / hits as u32;
        eprintln!("  one that is there: {took:.0?}, {:.2} reads", reads(before) as f64 / hits as f64);
        assert!(reads(before) <= 2 * hits, "{} reads for {hits} chunks", reads(before));
        drop(index);

        let tree = place.home().join("tree").canonicalize().unwrap();
        for arguments in [
            &["backup", "tree"][..],
            &["backup", "tree"],
            &["ls", "latest"],
            &["restore", &format!("latest:{}", tree.display()), "--to", "out"],
            &["stats"],
        ] {
            let begun = Instant::now();
            let peak = peak(place.home(), arguments);
            eprintln!("  {}: {} MiB, {:.1?}", arguments[0], peak >> 20, begun.elapsed());
            assert!(peak < ceiling(chunks), "{arguments:?} took {peak} bytes");
        }
    }
}

#[test]
fn eight_runs_become_one_in_the_memory_of_an_index() {
    let chunks = if is_long() { 20_000_000 } else { 1_000_000 };
    let place = Place::new();
    for part in 0..8 {
        place.plant(part, 8, chunks);
    }
    let begun = Instant::now();
    let peak = peak(place.home(), &["backup", "tree"]);
    eprintln!("8 runs of {} chunks merged: {} MiB, {:.1?}", chunks / 8, peak >> 20, begun.elapsed());
    assert!(peak < ceiling(chunks), "the backup took {peak} bytes");
    let (index, ..) = place.load(None);
    let merged: Vec<_> = index.runs().iter().filter(|run| run.replaced().len() == 8).collect();
    assert_eq!(merged.len(), 1, "the eight stand for themselves");
    assert_eq!(merged[0].entries(), chunks);
    assert_eq!(
        merged[0].iter().map(|entry| entry.unwrap().id).zip(0..).find(|(there, n)| *there != id(*n, chunks)),
        None
    );
    for at in 0..20_000 {
        let number = scramble(at) % chunks;
        let found = index.locate(&id(number, chunks)).unwrap().expect("it was planted");
        assert_eq!(found.offset, (number / 8 % CHUNKS_PER_FRAME) as u32 * CHUNK_BYTES);
        assert!(!index.contains(&id(number, 4 * chunks + 1)).unwrap());
    }
}

#[test]
fn a_run_is_proven_once_and_again_after_it_was_written_to() {
    let place = Place::new();
    let chunks = 10_000;
    let path = place.stored(place.plant(0, 1, chunks));
    let size = fs::metadata(&path).unwrap().len();
    let whole = |cache| place.load(cache).2.down_bytes >= size;
    assert!(whole(Some(&*place.cache)), "nothing was proven yet");
    settle();
    assert!(whole(Some(&*place.cache)), "a change time that is too fresh was believed");
    assert!(!whole(Some(&*place.cache)), "it was proven twice");
    assert!(whole(None), "without notes");

    // In a block of entries, which no load reads.
    let good_bytes = fs::read(&path).unwrap();
    let mut bent = good_bytes.clone();
    bent[9000] ^= 1;
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let mut refused = None;
        let (repository, _) = place.open(Some(&place.cache));
        let index = Index::load(&repository, Scope::Read, &mut |error| refused = Some(error)).unwrap();
        (refused, index.chunks())
    };
    let (error, left) = refused(&bent);
    assert!(matches!(error, Some(Error::Damaged { cause: ObjectError::Signature, .. })), "{error:?}");
    assert_eq!(left, 0);
    let (error, left) = refused(&good_bytes);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(left, chunks);
    // Another file in its place, with all times as they were but the one that nobody sets.
    settle();
    assert!(whole(Some(&*place.cache)));
    assert!(!whole(Some(&*place.cache)));
    let before = fs::metadata(&path).unwrap();
    let aside = path.with_extension("aside");
    fs::write(&aside, &bent).unwrap();
    fs::File::options().write(true).open(&aside).unwrap().set_modified(before.modified().unwrap()).unwrap();
    fs::rename(&aside, &path).unwrap();
    let mut told = None;
    let (repository, _) = place.open(Some(&place.cache));
    Index::load(&repository, Scope::Read, &mut |error| told = Some(error)).unwrap();
    assert!(matches!(told, Some(Error::Damaged { cause: ObjectError::Signature, .. })), "{told:?}");
}
