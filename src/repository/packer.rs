//! Frames into packs, packs into the store, and what they hold into index deltas.
//!
//! Owns open packs (two for data, filled alternately, so that sizes of neighbouring frames do not stand side by side; one for metadata), the comparison
//! of what was sealed with what was read, and the checkpoints. Called by many workers at once.
//!
//! Order: a pack is durable before a delta names it, a delta before a manifest needs it. Memory: the name of each pack, the table of each open pack (36 bytes a chunk), and 44
//! bytes for each chunk that is in a finished pack and in no delta yet, which `checkpoint_due` bounds at `CHECKPOINT_CHUNKS`. A pack's table counts towards
//! its size, and has a limit of its own, so that a million tiny chunks are many packs.
//!
//! On a store that is far away a pack that is full goes up beside the workers (`uploads`), and is noted for the next delta when its create has returned. While
//! the link has little to do a pack goes before it is full (`early_bytes`), padded: a session begins with small packs, and one that outruns its link soon has none.
//!
//! A frame that fails its comparison takes its pack along: neither ever reaches a delta, else a later run would find its chunks and not store them again.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::spent::{Doing, Meter, Spent};
use super::uploads::Uploads;
use super::{Error, Repository, Result};
use crate::compression::Level;
use crate::names::{ChunkId, GroupId, PackId, SessionId, WriterId};
use crate::pack::container::{FOOTER_BYTES, FrameOpener, Owner, PackBuilder, PackKind, Table};
use crate::pack::keys;
use crate::pack::run::{EntryRow, FrameRow, PackRow, RunName, RunWriter};
use crate::seal::compress::Codec;
use crate::seal::object::{self, Identity, ObjectKind, SignedBy};
use crate::seal::stanza::Recipient;
use crate::store::copies::NewCopy;
use crate::store::{Create, Upload};

/// A delta is written after so many new chunks, so many new bytes, or so much time: an interrupted backup loses at most that.
const CHECKPOINT_CHUNKS: usize = 128 << 10;
const CHECKPOINT_BYTES: u64 = 1 << 30;
const CHECKPOINT_TIME: Duration = Duration::from_secs(300);
const SHARDS: usize = 64;
/// A pack of so many tiny chunks (65,536) is full, however few bytes they have: each of them takes some hundred bytes of memory until a delta names it.
const TABLE_BYTES_MAX: u64 = 36 * (64 << 10);
/// What the first data pack of a session holds at least where the link waits for it.
const EARLY_BYTES: u64 = 1 << 20;

/// What a data pack holds at least before it goes for the link's sake: 1 MiB, 1.5, 2, 3, 4, 6 and so on, so that each lasts until the two that are being
/// filled have the next, and a session whose link is the faster one has some ten packs below full size and no more.
fn early_bytes(number: u32, whole: u64) -> u64 {
    let doubled = EARLY_BYTES << (number / 2).min(16);
    whole.min(if number.is_multiple_of(2) { doubled } else { doubled + doubled / 2 })
}

/// Data or metadata: which packs a frame goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Data,
    Metadata,
}

struct OpenPack {
    builder: PackBuilder,
    stream: Stream,
    /// Bytes at which it is closed, and at which it is if the link waits.
    limit: u64,
    early: u64,
}

/// Where a pack's bytes go.
struct Stream {
    upload: Box<dyn Upload>,
    name: blake3::Hasher,
    /// Metadata that this host will read again at its next backup.
    copy: Option<NewCopy>,
}

#[derive(Default)]
struct Finished {
    packs: Vec<PackRow>,
    frames: Vec<FrameRow>,
    entries: Vec<EntryRow>,
    bytes: u64,
}

impl Stream {
    fn append(&mut self, bytes: &[u8]) -> crate::store::Result<()> {
        self.name.update(bytes);
        if let Some(copy) = &mut self.copy {
            copy.append(bytes);
        }
        self.upload.append(bytes)
    }
}

impl Finished {
    fn note(&mut self, row: PackRow, table: &Table) {
        let pack = self.packs.len() as u32;
        self.bytes += row.size;
        self.packs.push(row);
        let mut chunks = table.chunks.iter();
        for frame in &table.frames {
            let number = self.frames.len() as u32;
            let (stored_len, plain_len) = (frame.stored_len, frame.plain_len);
            self.frames.push(FrameRow { pack, offset: frame.offset, stored_len, plain_len });
            let mut offset = 0;
            for (id, len) in chunks.by_ref().take(frame.chunks as usize) {
                self.entries.push(EntryRow { id: *id, frame: number, offset, len: *len });
                offset += len;
            }
        }
    }
}

/// For whom the admin packs anew what was stored before. What it makes known are segments of the group.
struct For {
    group: GroupId,
    writer: WriterId,
    /// Opens metadata packs beside the recipient.
    metadata: Recipient,
}

/// The writing end of one session.
pub struct Packer<'a> {
    repository: &'a Repository,
    session: SessionId,
    epoch: u32,
    /// None: for this key's own writer.
    others: Option<For>,
    open: [Mutex<Option<OpenPack>>; 3],
    turn: AtomicUsize,
    /// Shared by packers that store for one session.
    next_pack: Arc<AtomicU32>,
    data_packs: AtomicU32,
    /// Ids that this session stores and no delta names yet: the first to claim one stores it.
    claimed: Vec<Mutex<HashSet<ChunkId>>>,
    finished: Arc<Mutex<Finished>>,
    /// Every pack that this session has named, from before it is stored.
    own: Mutex<HashSet<PackId>>,
    last_checkpoint: Mutex<Instant>,
    pub stored_bytes: Arc<AtomicU64>,
    /// None: the store is near, and whoever fills a pack finishes it.
    uploads: Option<Uploads>,
    meter: Meter,
    /// Plaintext bytes of data frames by their level; 0: stored as they are.
    by_level: [AtomicU64; Level::MAX + 1],
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A worker that panicked ends the session; what the others then see is never committed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Packer<'a> {
    /// `cancel` is set by whoever wants the session to end.
    pub fn new(repository: &'a Repository, session: SessionId, epoch: u32, cancel: Arc<AtomicBool>) -> Self {
        Self {
            repository,
            session,
            epoch,
            others: None,
            open: [Mutex::default(), Mutex::default(), Mutex::default()],
            turn: AtomicUsize::new(0),
            next_pack: Arc::default(),
            data_packs: AtomicU32::new(0),
            claimed: (0..SHARDS).map(|_| Mutex::default()).collect(),
            finished: Arc::default(),
            own: Mutex::default(),
            last_checkpoint: Mutex::new(Instant::now()),
            stored_bytes: Arc::default(),
            uploads: repository.store.is_remote().then(|| Uploads::new(cancel)),
            meter: Meter::new(Instant::now()),
            by_level: Default::default(),
        }
    }

    /// The admin's, for chunks of a group and nodes of a writer that were stored before. `numbers` tells the packs of all packers of one session apart.
    pub(crate) fn for_writer(
        repository: &'a Repository,
        session: SessionId,
        group: GroupId,
        writer: WriterId,
        numbers: &Arc<AtomicU32>,
        cancel: Arc<AtomicBool>,
    ) -> Result<Self> {
        let metadata = Recipient::from_bytes(repository.writer(writer)?.metadata.as_bytes())
            .map_err(|_| Error::NoCertificate { writer })?;
        let others = Some(For { group, writer, metadata });
        Ok(Self { others, next_pack: Arc::clone(numbers), ..Self::new(repository, session, 0, cancel) })
    }

    /// Whether the caller is the one that must store this chunk. It must not claim one that the index has.
    pub fn claim(&self, id: &ChunkId) -> bool {
        lock(&self.claimed[usize::from(id.0[31]) % SHARDS]).insert(*id)
    }

    /// Whether this session stores the chunk already.
    pub fn has_claimed(&self, id: &ChunkId) -> bool {
        lock(&self.claimed[usize::from(id.0[31]) % SHARDS]).contains(id)
    }

    /// The packs that this session stores, on their way or there.
    pub(super) fn own_packs(&self) -> HashSet<PackId> {
        lock(&self.own).clone()
    }

    /// How many packs this session stored, and bytes with the index that names them.
    pub(crate) fn stored(&self) -> (u64, u64) {
        (lock(&self.own).len() as u64, self.stored_bytes.load(Ordering::Relaxed))
    }

    /// What workers have spent on data frames.
    pub fn spent(&self) -> Spent {
        self.meter.spent()
    }

    /// Plaintext bytes of data frames by their level; the first as they are.
    pub fn bytes_by_level(&self) -> [u64; Level::MAX + 1] {
        self.by_level.each_ref().map(|bytes| bytes.load(Ordering::Relaxed))
    }

    /// Compresses (unless `level` is none), seals, compares and stores one frame. `scratch` holds two buffers to use again.
    pub fn store_frame(
        &self,
        class: Class,
        level: Option<Level>,
        plain: &[u8],
        chunks: &[(ChunkId, u32)],
        codec: &mut Codec,
        scratch: &mut (Vec<u8>, Vec<u8>),
    ) -> Result<()> {
        let (frame, sealed) = scratch;
        let compressed = match class {
            Class::Data => self.meter.during(Doing::Compressing, || codec.compress(plain, level, frame)),
            Class::Metadata => codec.compress(plain, level, frame),
        };
        if class == Class::Data {
            let at = level.filter(|_| compressed).map_or(0, |level| usize::from(level.get()));
            self.by_level[at].fetch_add(plain.len() as u64, Ordering::Relaxed);
        }
        codec.decompress(frame, plain.len(), sealed).map_err(|_| Error::SelfCheck)?;
        if sealed != plain {
            return Err(Error::SelfCheck);
        }
        sealed.clear();
        sealed.extend_from_slice(frame);
        self.append(class, sealed, plain.len() as u32, chunks, |opener, offset, sealed| {
            opener.open(offset, sealed).is_ok_and(|opened| opened == frame.as_slice())
        })
    }

    /// Stores a frame that was compressed before: codec byte and payload. `frame` is sealed in place.
    pub(crate) fn copy_frame(
        &self,
        class: Class,
        frame: &mut Vec<u8>,
        plain_len: u32,
        chunks: &[(ChunkId, u32)],
    ) -> Result<()> {
        let before = frame.clone();
        self.append(class, frame, plain_len, chunks, |opener, offset, sealed| {
            opener.open(offset, sealed).is_ok_and(|opened| opened == before)
        })
    }

    /// Seals `frame` in place and appends it to an open pack. `opens` sees what was sealed; if it says no, the pack is given up.
    fn append(
        &self,
        class: Class,
        frame: &mut Vec<u8>,
        plain_len: u32,
        chunks: &[(ChunkId, u32)],
        opens: impl FnOnce(&FrameOpener, u32, &mut [u8]) -> bool,
    ) -> Result<()> {
        let place = match class {
            Class::Data => self.turn.fetch_add(1, Ordering::Relaxed) % 2,
            Class::Metadata => 2,
        };
        let mut slot = lock(&self.open[place]);
        // It goes back only whole: an error or a panic on the way drops it, and nothing names what it held.
        let mut pack = match slot.take() {
            Some(pack) => pack,
            None => self.begin(class)?,
        };
        let row = pack.builder.add(frame, plain_len, chunks);
        pack.stream.append(frame)?;
        if !opens(&pack.builder.frames(), row.offset, frame) {
            return Err(Error::SelfCheck);
        }
        let table = pack.builder.table_bytes();
        let len = pack.builder.len() + table;
        let is_full = table >= TABLE_BYTES_MAX || len >= pack.limit;
        let is_awaited = || len >= pack.early && self.uploads.as_ref().is_some_and(Uploads::is_idle);
        if !is_full && !is_awaited() {
            *slot = Some(pack);
            return Ok(());
        }
        drop(slot);
        self.finish_pack(class, pack, !is_full)
    }

    fn begin(&self, class: Class) -> Result<OpenPack> {
        let own = self.repository.need_writer("storing content")?;
        let own_metadata = own.metadata.public();
        let (group, writer, metadata) = match &self.others {
            Some(For { group, writer, metadata }) => (*group, *writer, metadata),
            None => (own.group, own.id, &own_metadata),
        };
        let owner = match class {
            Class::Data => Owner::Group(group),
            Class::Metadata => Owner::Writer(writer),
        };
        let (builder, head) = PackBuilder::new(self.repository.id, owner, &self.repository.recipient, Some(metadata));
        let number = self.next_pack.fetch_add(1, Ordering::Relaxed);
        if let Some(uploads) = &self.uploads {
            uploads.check()?;
        }
        let store = &self.repository.store;
        let copy = store.copies().filter(|_| class == Class::Metadata).and_then(|copies| copies.begin());
        let upload = store.begin(self.session, number)?;
        let limit = u64::from(self.repository.config.pack_bytes);
        let early = match class {
            Class::Data => early_bytes(self.data_packs.fetch_add(1, Ordering::Relaxed), limit),
            // What a directory's walk needs should lie in as few places as can be.
            Class::Metadata => limit,
        };
        let mut stream = Stream { upload, name: blake3::Hasher::new(), copy };
        stream.append(&head)?;
        Ok(OpenPack { builder, stream, limit, early })
    }

    fn finish_pack(&self, class: Class, pack: OpenPack, pad: bool) -> Result<()> {
        let OpenPack { builder, mut stream, .. } = pack;
        let table_at = builder.len();
        let (tail, table) = builder.finish(pad);
        stream.append(&tail)?;
        let kind = match class {
            Class::Data => PackKind::Data,
            Class::Metadata => PackKind::Metadata,
        };
        debug_assert!(tail.len() > FOOTER_BYTES);
        let row = PackRow { id: PackId(*stream.name.finalize().as_bytes()), kind, size: table_at + tail.len() as u64 };
        lock(&self.own).insert(row.id);
        let (finished, stored) = (self.finished.clone(), self.stored_bytes.clone());
        let Stream { upload, copy, .. } = stream;
        let finish = move || -> crate::store::Result<()> {
            let key = keys::pack(kind, row.id);
            match upload.finish(&key)? {
                // The name is the hash of bytes under a key that was just drawn: whoever stands there stores these very bytes.
                Create::Created | Create::Occupied => {}
            }
            if let Some(copy) = copy {
                copy.keep(&key);
            }
            stored.fetch_add(row.size, Ordering::Relaxed);
            lock(&finished).note(row, &table);
            Ok(())
        };
        match &self.uploads {
            // Whoever stores metadata is no worker, in most cases, and never waits long.
            Some(uploads) if class == Class::Data => {
                Ok(self.meter.during(Doing::Waiting, || uploads.start(row.size, finish))?)
            }
            Some(uploads) => Ok(uploads.start(row.size, finish)?),
            None => finish().map_err(Error::Store),
        }
    }

    /// Whether enough has been stored since the last delta.
    pub fn checkpoint_due(&self) -> bool {
        let finished = lock(&self.finished);
        let due = lock(&self.last_checkpoint).elapsed() >= CHECKPOINT_TIME;
        finished.entries.len() >= CHECKPOINT_CHUNKS
            || finished.bytes >= CHECKPOINT_BYTES
            || (due && !finished.packs.is_empty())
    }

    /// Finishes every open pack, padded; none is under way when this returns.
    pub fn finish_packs(&self) -> Result<()> {
        for (place, class) in [(2, Class::Metadata), (0, Class::Data), (1, Class::Data)] {
            let pack = lock(&self.open[place]).take();
            if let Some(pack) = pack {
                self.finish_pack(class, pack, true)?;
            }
        }
        self.land()
    }

    /// Finishes what a session that ends early should not have done in vain. Far away, what is not yet under way would take longer than whoever cancelled
    /// wants to wait.
    pub fn end_early(&self) -> Result<()> {
        match self.uploads {
            Some(_) => self.land(),
            None => self.finish_packs(),
        }
    }

    fn land(&self) -> Result<()> {
        Ok(self.uploads.as_ref().map_or(Ok(()), Uploads::land)?)
    }

    /// Writes a delta of the packs finished since the last one; none if there is nothing to tell. The caller adds it to its index, and then calls
    /// `forget_claims` with the ids.
    pub fn write_delta(&self, sequence: &mut u32) -> Result<Option<(RunName, Vec<ChunkId>)>> {
        let Finished { packs, frames, mut entries, .. } = std::mem::take(&mut *lock(&self.finished));
        *lock(&self.last_checkpoint) = Instant::now();
        if packs.is_empty() {
            return Ok(None);
        }
        entries.sort_unstable_by_key(|entry| entry.id);
        let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
        let mut body = Vec::with_capacity(entries.len() * 46 + 8192);
        let mut writer = RunWriter::new(|block: &[u8]| -> std::result::Result<(), std::convert::Infallible> {
            body.extend_from_slice(block);
            Ok(())
        });
        let run = (|| {
            for entry in &entries {
                writer.entry(entry)?;
            }
            for frame in &frames {
                writer.frame(frame)?;
            }
            writer.finish(&packs, &[])
        })();
        let footer = match run {
            Ok(footer) => footer,
            Err(never) => match never {},
        };
        body.extend_from_slice(&footer);
        drop(entries);
        let own = self.repository.need_writer("storing an index")?;
        let (epoch, kind, base, by, admin) = match &self.others {
            Some(For { group, .. }) => {
                let admin = self.repository.need_admin("storing an index for others")?;
                let base = admin.reader().group(*group).index_key();
                (None, ObjectKind::Segment, base, SignedBy::AdminFor(*group), Some(admin.signer()))
            }
            None => (Some(self.epoch), ObjectKind::Delta, own.keys.index_key(), SignedBy::Writer(own.id), None),
        };
        let name = RunName { session: self.session, sequence: *sequence, epoch };
        *sequence += 1;
        let key = keys::run(name);
        let signer = admin.as_ref().unwrap_or(&own.signer);
        let identity =
            Identity { kind, repository: self.repository.id, key: &key, base: &base, by, signer, features: 0 };
        let bytes = object::seal(&identity, &body);
        self.stored_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if !self.repository.create(&key, &bytes)? {
            return Err(Error::Fenced { session: self.session });
        }
        Ok(Some((name, ids)))
    }

    /// The index knows these ids now.
    pub fn forget_claims(&self, ids: &[ChunkId]) {
        for id in ids {
            lock(&self.claimed[usize::from(id.0[31]) % SHARDS]).remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::repository::init;
    use crate::store::memory::MemoryStore;

    fn repository() -> Repository {
        let store = Arc::new(MemoryStore::default());
        let made = init::<Error>(&*store, &ManualClock::at(1_000_000), None, |_| Ok(())).unwrap();
        Repository::open(store, made.key).unwrap()
    }

    fn session() -> SessionId {
        SessionId::new(WriterId([1; 8]), [2; 8])
    }

    fn store(packer: &Packer<'_>, bytes: &[u8], chunks: &[(ChunkId, u32)]) -> Result<()> {
        packer.store_frame(
            Class::Data,
            Some(Level::STANDARD),
            bytes,
            chunks,
            &mut Codec::new(),
            &mut Default::default(),
        )
    }

    #[test]
    fn a_frame_that_does_not_open_reaches_no_delta() {
        let repository = repository();
        let packer = Packer::new(&repository, session(), 0, Arc::default());
        store(&packer, b"whole", &[(ChunkId([1; 32]), 5)]).unwrap();
        packer.turn.store(0, Ordering::Relaxed);
        let mut frame = b"\0bent".to_vec();
        let bent = packer.append(Class::Data, &mut frame, 4, &[(ChunkId([2; 32]), 4)], |_, _, _| false);
        assert!(matches!(bent, Err(Error::SelfCheck)));
        // What a run that fails does with the rest.
        packer.finish_packs().unwrap();
        assert!(packer.write_delta(&mut 0).unwrap().is_none(), "a later run would believe in these chunks");
    }

    #[test]
    fn packs_that_go_early_grow_to_full_size() {
        let sizes: Vec<u64> = (0..12).map(|number| early_bytes(number, 32 << 20) >> 19).collect();
        assert_eq!(sizes, [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 64]);
        assert_eq!(early_bytes(0, 1 << 16), 1 << 16);
        assert_eq!(early_bytes(u32::MAX, 32 << 20), 32 << 20);
    }

    #[test]
    fn tiny_chunks_fill_a_pack_by_its_table() {
        let repository = repository();
        let packer = Packer::new(&repository, session(), 0, Arc::default());
        let chunks: Vec<(ChunkId, u32)> =
            (0..40_000u32).map(|n| (ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes()), 1)).collect();
        for _ in 0..30 {
            store(&packer, &vec![7; chunks.len()], &chunks).unwrap();
        }
        // 1.2 million chunks of one byte, a few KiB compressed: 43 MB of tables.
        assert!(!lock(&packer.finished).packs.is_empty());
    }
}
