//! Chunks and nodes from their packs, checked against their ids.
//!
//! Owns opening of packs and frames. Metadata packs are read from this host's copies, where it keeps any: they are brought whole, those that a walk will come to
//! next ahead of it. Memory: at most `CACHE_BYTES` of decoded frames for each reader and `PACKS_MAX` open pack keys.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::{Error, Index, Repository, Result, Scope};
use crate::names::{ChunkId, PackId, WriterId};
use crate::pack::container::{FrameOpener, Owner, PackError, PackHead, PackKind};
use crate::pack::keys;
use crate::pack::list::ListSource;
use crate::pack::run::{Location, PackRow};
use crate::pack::tree::NodeSource;
use crate::seal::compress::{Codec, FRAME_BYTES_MAX, FrameError};
use crate::seal::key::IdKeys;
use crate::seal::stanza::To;

/// Decoded frames kept by one reader of nodes.
const CACHE_BYTES: usize = 16 << 20;
const PACKS_MAX: usize = 4096;
/// Bytes of packs that are brought ahead at a time: whoever looks at one directory does not fetch the names of all.
const AHEAD_BYTES: u64 = 64 << 20;

/// Keys of packs that were opened, so that each stanza is opened once, and each head read once.
#[derive(Default)]
pub struct PackKeys(Mutex<HashMap<PackId, Arc<Mutex<Option<FrameOpener>>>>>);

/// Bytes that begin with a pack's head, and what was read beside them; none if the pack was open already.
pub type Along<T> = Option<(Vec<u8>, T)>;

impl PackKeys {
    /// The cipher of a pack's frames. Reads the pack's head if it was not open yet.
    pub fn opener(&self, repository: &Repository, pack: &PackRow) -> Result<FrameOpener> {
        let head = || Ok((read_pack(repository, pack, 0..pack.kind.head_bytes() as u64)?, ()));
        Ok(self.opener_or(repository, pack, head)?.0)
    }

    /// The same; but if the pack was not open yet, `read` brings bytes that begin with its head, and what it brings beside them comes back, too.
    /// Others who ask for the same pack wait meanwhile.
    pub fn opener_or<T>(
        &self,
        repository: &Repository,
        pack: &PackRow,
        read: impl FnOnce() -> Result<(Vec<u8>, T)>,
    ) -> Result<(FrameOpener, Along<T>)> {
        let cell = {
            let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if open.len() >= PACKS_MAX && !open.contains_key(&pack.id) {
                open.clear();
            }
            open.entry(pack.id).or_default().clone()
        };
        let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opener) = &*cell {
            return Ok((opener.clone(), None));
        }
        let (bytes, rest) = read()?;
        let opener = open_head(repository, pack, &bytes)?;
        *cell = Some(opener.clone());
        Ok((opener, Some((bytes, rest))))
    }

    /// Forgets a pack whose head came from a bad copy.
    fn forget(&self, pack: PackId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&pack);
    }
}

fn read_pack(repository: &Repository, pack: &PackRow, range: std::ops::Range<u64>) -> Result<Vec<u8>> {
    let key = keys::pack(pack.kind, pack.id);
    if pack.kind == PackKind::Metadata {
        repository.store.bring(&[(key.clone(), pack.size)]);
    }
    match repository.store.get_range(&key, range) {
        Err(error) if error.is_not_found() => Err(Error::PackMissing { pack: pack.id }),
        Err(error) if error.class == crate::store::Class::Short => Err(Error::Pack {
            pack: pack.id,
            cause: PackError::Malformed(crate::pack::wire::Malformed("it is cut short")),
        }),
        bytes => Ok(bytes?),
    }
}

/// Opens a pack's key from its first bytes.
pub(super) fn open_head(repository: &Repository, pack: &PackRow, head: &[u8]) -> Result<FrameOpener> {
    let wrong = |cause| Error::Pack { pack: pack.id, cause };
    let head = PackHead::parse(head, repository.id, pack.kind).map_err(wrong)?;
    match (&repository.access.reader, &repository.access.writer, head.owner) {
        (Some(reader), ..) => head.open(&reader.secret, To::Recipient).map_err(wrong),
        (None, Some(writer), Owner::Writer(owner)) if owner == writer.id => {
            head.open(&writer.metadata, To::Writer).map_err(wrong)
        }
        _ => Err(Error::Role { what: "reading content", have: repository.access.role, need: "an admin or reader" }),
    }
}

/// Reads one frame and replaces `plain` by its plaintext.
pub fn fetch_frame(
    repository: &Repository,
    packs: &PackKeys,
    codec: &mut Codec,
    location: &Location,
    plain: &mut Vec<u8>,
) -> Result<()> {
    let opener = packs.opener(repository, &location.pack)?;
    let start = u64::from(location.frame_offset);
    let mut stored = read_pack(repository, &location.pack, start..start + u64::from(location.frame_stored_len))?;
    decode_frame(&opener, codec, location, &mut stored, plain)
}

/// Opens `stored`, the frame at `location`, and replaces `plain` by its plaintext.
pub fn decode_frame(
    opener: &FrameOpener,
    codec: &mut Codec,
    location: &Location,
    stored: &mut [u8],
    plain: &mut Vec<u8>,
) -> Result<()> {
    let pack = location.pack.id;
    let frame = opener.open(location.frame_offset, stored).map_err(|cause| Error::Pack { pack, cause })?;
    let broken = |cause| Error::Frame { pack, offset: location.frame_offset, cause };
    if location.frame_plain_len as usize > FRAME_BYTES_MAX {
        return Err(broken(FrameError::Damaged));
    }
    codec.decompress(frame, location.frame_plain_len as usize, plain).map_err(broken)
}

/// A frame's place: its pack, and its offset there.
type Place = (PackId, u32);

#[derive(Default)]
struct FrameCache {
    /// With the time of their last use, by `clock`.
    frames: HashMap<Place, (Arc<Vec<u8>>, u64)>,
    bytes: usize,
    clock: u64,
}

impl FrameCache {
    fn get(&mut self, key: Place) -> Option<Arc<Vec<u8>>> {
        self.clock += 1;
        let (frame, used) = self.frames.get_mut(&key)?;
        *used = self.clock;
        Some(frame.clone())
    }

    fn put(&mut self, key: Place, frame: Arc<Vec<u8>>) {
        while self.bytes + frame.len() > CACHE_BYTES {
            let oldest = self.frames.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            let Some((frame, _)) = oldest.and_then(|key| self.frames.remove(&key)) else { break };
            self.bytes -= frame.len();
        }
        self.bytes += frame.len();
        self.frames.insert(key, (frame, self.clock));
    }
}

/// Reads chunks and nodes of one writer's snapshots.
pub struct ChunkReader<'a> {
    repository: &'a Repository,
    index: &'a Index,
    ids: IdKeys,
    packs: PackKeys,
    frames: Mutex<(FrameCache, Codec)>,
    /// The index as it stands now, once something was not where `index` has it; none: nobody asks for it.
    again: Option<OnceLock<Option<Index>>>,
}

#[derive(Clone, Copy)]
enum ChunkKind {
    Data,
    Tree,
    List,
}

impl<'a> ChunkReader<'a> {
    /// A reader of what `writer` committed.
    pub fn new(repository: &'a Repository, index: &'a Index, writer: WriterId) -> Result<Self> {
        let certified = repository.writer(writer)?;
        let group = repository.access.group(certified.group).ok_or(Error::Role {
            what: "reading another group's snapshot",
            have: repository.access.role,
            need: "an admin or reader",
        })?;
        Ok(Self {
            repository,
            index,
            ids: group.ids(writer),
            packs: PackKeys::default(),
            frames: Mutex::default(),
            again: None,
        })
    }

    /// The same, which loads the index once more if something is gone: a prune may run beside.
    pub fn reloading(self) -> Self {
        Self { again: Some(OnceLock::new()), ..self }
    }

    pub fn ids(&self) -> &IdKeys {
        &self.ids
    }

    /// Drops this host's copy of a pack that was found bad. True: the store is worth asking.
    fn forget_copy(&self, pack: &PackRow) -> bool {
        let copies = self.repository.store.copies().filter(|_| pack.kind == PackKind::Metadata);
        let forgotten = copies.is_some_and(|copies| copies.forget(&keys::pack(pack.kind, pack.id)));
        if forgotten {
            self.packs.forget(pack.id);
        }
        forgotten
    }

    /// Has copies brought of the packs that hold these nodes, which will be read soon. What cannot be had is told to whoever reads it.
    pub fn bring(&self, nodes: &mut dyn Iterator<Item = &ChunkId>) {
        let Some(copies) = self.repository.store.copies().filter(|copies| copies.work()) else { return };
        let (mut seen, mut wanted, mut bytes) = (HashSet::new(), Vec::new(), 0);
        for place in nodes.filter_map(|id| self.index.locate(id).ok().flatten()) {
            let pack = place.pack;
            let key = keys::pack(pack.kind, pack.id);
            if pack.kind == PackKind::Metadata && seen.insert(pack.id) && !copies.has(&key) {
                bytes += pack.size;
                wanted.push((key, pack.size));
                if bytes >= AHEAD_BYTES {
                    break;
                }
            }
        }
        self.repository.store.bring(&wanted);
    }

    /// The plaintext of a file's chunk.
    pub fn data(&self, id: &ChunkId) -> Result<Vec<u8>> {
        self.read(id, ChunkKind::Data).map(Arc::unwrap_or_clone)
    }

    fn read(&self, id: &ChunkId, kind: ChunkKind) -> Result<Arc<Vec<u8>>> {
        let first = self.read_by(self.index, id, kind);
        let Some(again) = self.again.as_ref().filter(|_| first.as_ref().is_err_and(Error::may_have_moved)) else {
            return first;
        };
        let load = || Index::load(self.repository, Scope::Read, &mut |_| ()).ok();
        match again.get_or_init(load).as_ref().map(|index| self.read_by(index, id, kind)) {
            Some(Ok(chunk)) => Ok(chunk),
            _ => first,
        }
    }

    /// Tries every place where the chunk lies; the first error is told if none is good.
    fn read_by(&self, index: &Index, id: &ChunkId, kind: ChunkKind) -> Result<Arc<Vec<u8>>> {
        let first = index.locate(id)?.ok_or(Error::ChunkUnknown { chunk: *id })?;
        let error = match self.read_at(id, kind, &first) {
            Ok(chunk) => return Ok(chunk),
            Err(error) => error,
        };
        for place in index.locate_all(id)?.iter().filter(|place| **place != first) {
            if let Ok(chunk) = self.read_at(id, kind, place) {
                return Ok(chunk);
            }
        }
        Err(error)
    }

    fn read_at(&self, id: &ChunkId, kind: ChunkKind, place: &Location) -> Result<Arc<Vec<u8>>> {
        let frame = self.frame(place)?;
        let (start, end) = (place.offset as usize, place.offset as usize + place.len as usize);
        let wrong = || Error::Chunk { pack: place.pack.id, chunk: *id };
        let bytes = frame.get(start..end).ok_or_else(wrong)?;
        let found = match kind {
            ChunkKind::Data => self.ids.data(bytes),
            ChunkKind::Tree => self.ids.tree(bytes),
            ChunkKind::List => self.ids.list(bytes),
        };
        if found == *id { Ok(Arc::new(bytes.to_vec())) } else { Err(wrong()) }
    }

    fn frame(&self, place: &Location) -> Result<Arc<Vec<u8>>> {
        let key = (place.pack.id, place.frame_offset);
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let (cache, codec) = &mut *frames;
        if let Some(frame) = cache.get(key) {
            return Ok(frame);
        }
        let mut plain = Vec::new();
        let mut fetch = || fetch_frame(self.repository, &self.packs, codec, place, &mut plain);
        match fetch() {
            Err(error) if error.is_damage() && self.forget_copy(&place.pack) => fetch()?,
            fetched => fetched?,
        }
        let frame = Arc::new(plain);
        cache.put(key, frame.clone());
        Ok(frame)
    }
}

impl NodeSource for ChunkReader<'_> {
    type Error = Error;
    fn tree_node(&self, id: &ChunkId) -> Result<Arc<Vec<u8>>> {
        self.read(id, ChunkKind::Tree)
    }

    fn ahead(&self, nodes: &mut dyn Iterator<Item = &ChunkId>) {
        self.bring(nodes);
    }
}

impl ListSource for ChunkReader<'_> {
    type Error = Error;
    fn list_node(&self, id: &ChunkId) -> Result<Arc<Vec<u8>>> {
        self.read(id, ChunkKind::List)
    }
}
