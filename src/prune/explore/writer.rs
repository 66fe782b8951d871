//! A backup in a run: `backup::run` without its threads and its walk.
//!
//! Owns the order of its parts, which are those of production: session, index, packs, tree, delta, commit.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use minicbor::bytes::{ByteArray, ByteVec};

use super::invariants::Plan;
use crate::clock::Clock;
use crate::names::{ChunkId, SessionId, TreePath};
use crate::pack::entry::{Content, Cut, Entry, Extent, Kind, Timestamp};
use crate::pack::record::{self, ManifestBody, SourceKind, Time};
use crate::pack::tree::{NodeSink, Origin, Root, TreeBuilder, TreeReader};
use crate::repository::{
    ChunkReader, Class, Committed, Error, Index, Packer, Repository, Snapshot, SnapshotState, Snapshots, WriteSession,
    merge_own_runs,
};
use crate::seal::compress::Codec;
use crate::seal::key::IdKeys;

/// One backup.
#[derive(Clone, Debug)]
pub struct Task {
    /// What is to be saved: names, in their order, and contents.
    pub files: &'static [(&'static str, &'static str)],
    /// Whether the writer's newest snapshot is used again where it holds the same.
    pub parent: bool,
    /// Whether a sign of life is given: after the index was asked, and before the commit.
    pub advance: bool,
    /// All content in one pack.
    pub together: bool,
    /// An index delta for each chunk, and so many of them that they are merged.
    pub pieces: bool,
}

impl Task {
    pub const fn of(files: &'static [(&'static str, &'static str)]) -> Self {
        Self { files, parent: false, advance: false, together: false, pieces: false }
    }

    pub const fn on_parent(self) -> Self {
        Self { parent: true, ..self }
    }

    pub const fn advancing(self) -> Self {
        Self { advance: true, ..self }
    }

    pub const fn in_pieces(self) -> Self {
        Self { pieces: true, ..self }
    }

    pub const fn together(self) -> Self {
        Self { together: true, ..self }
    }
}

/// Who hears what a writer says.
pub trait Stage {
    fn plan(&self, plan: Plan);
    fn told(&self, session: SessionId);
    fn known(&self, session: SessionId) -> Option<Arc<Plan>>;
}

fn parent_of(snapshots: &Snapshots, repository: &Repository) -> Option<Snapshot> {
    let own = repository.access.writer.as_ref().map(|writer| writer.id);
    let fits = |snapshot: &&Snapshot| Some(snapshot.writer) == own && snapshot.state == SnapshotState::Good;
    snapshots.readable.iter().rev().find(fits).cloned()
}

/// One backup, to its commit.
pub fn save(repository: &Repository, clock: &dyn Clock, task: &Task, stage: &dyn Stage) -> Result<Committed, Error> {
    let choose = |snapshots: &Snapshots| {
        let parent = parent_of(snapshots, repository).filter(|_| task.parent);
        parent.iter().map(|parent| parent.slot.to_string()).collect()
    };
    let (mut session, snapshots) = WriteSession::start(repository, clock, &choose)?;
    let parent = parent_of(&snapshots, repository).filter(|_| task.parent && session.may_reuse());
    match fill(repository, clock, task, stage, &mut session, &snapshots, parent.as_ref()) {
        Ok(body) => {
            let id = session.id;
            let committed = session.commit(&body)?;
            stage.told(id);
            Ok(committed)
        }
        Err(error) => {
            session.abandon();
            Err(error)
        }
    }
}

/// Everything before the commit.
fn fill(
    repository: &Repository,
    clock: &dyn Clock,
    task: &Task,
    stage: &dyn Stage,
    session: &mut WriteSession<'_>,
    snapshots: &Snapshots,
    parent: Option<&Snapshot>,
) -> Result<ManifestBody, Error> {
    let writer = repository.need_writer("saving")?;
    let index = session.load_index(snapshots, &mut |_| ())?;
    let reading = index.share();
    let packer = Packer::new(repository, session.id, session.began, Arc::default());
    let ids = writer.keys.ids(writer.id);
    let mut save =
        Saving { index: RwLock::new(index), packer, codec: Codec::new(), scratch: Default::default(), bases: vec![] };

    let reader = ChunkReader::new(repository, &reading, writer.id)?.reloading();
    let old = parent.and_then(|parent| Some((parent, parent.body.as_ref()?.sources.first()?.tree())));
    let known = match &old {
        // As a backup does: a tree that cannot be read is as good as none.
        Some((_, root)) => match entries_of(&reader, root) {
            Err(error) if error.is_damage() => BTreeMap::new(),
            known => known?,
        },
        None => BTreeMap::new(),
    };
    let mut entries = Vec::new();
    let mut data = Vec::new();
    for (name, content) in task.files {
        let id = ids.data(content.as_bytes());
        let entry = file(name, id, content.len());
        match known.get(*name) {
            Some((before, origin)) if before.kind == entry.kind => entries.push((before.clone(), Some(origin.clone()))),
            _ => {
                if save.must_store(&id)? {
                    data.push((id, content.as_bytes()));
                }
                entries.push((entry, None));
            }
        }
    }
    if task.advance {
        session.advance(&save.index, &save.packer)?;
    }
    match task.together {
        true => save.store(Class::Data, &data)?,
        false => data.iter().try_for_each(|chunk| save.store(Class::Data, &[*chunk]))?,
    }
    if task.pieces {
        for number in 0..8u8 {
            let piece = [number; 9];
            save.store(Class::Data, &[(ids.data(&piece), &piece)])?;
            checkpoint(repository, session, &save)?;
        }
        let index = save.index.read().unwrap_or_else(PoisonError::into_inner);
        merge_own_runs(repository, &index, session)?;
    }
    let mut builder = TreeBuilder::new(&ids);
    let mut sink = Sink { save: &mut save, ids: &ids };
    for (entry, origin) in entries {
        builder.push(entry, origin, &mut sink)?;
    }
    let root = builder.finish(&mut sink)?.expect("a task has files");
    assert_eq!(root.level, 0, "a task's files fit one leaf");
    checkpoint(repository, session, &save)?;
    if task.advance {
        session.advance(&save.index, &save.packer)?;
    }
    let mut reach = vec![root.id];
    reach.extend(save.bases);
    // A leaf that was used again may be a patch itself.
    let before = old.as_ref().filter(|(_, old)| old.id == root.id);
    if let Some(before) = before.and_then(|(parent, _)| stage.known(parent.session)) {
        reach.extend(before.reach.iter().copied());
    }
    reach.extend(task.files.iter().map(|(_, content)| ids.data(content.as_bytes())));
    let files = task.files.iter().map(|(name, content)| ((*name).to_owned(), content.as_bytes().to_vec())).collect();
    stage.plan(Plan { session: session.id, reach, files });
    Ok(body(&root, clock))
}

fn checkpoint(repository: &Repository, session: &mut WriteSession<'_>, save: &Saving<'_>) -> Result<(), Error> {
    save.packer.finish_packs()?;
    if let Some((name, stored)) = save.packer.write_delta(&mut session.next_run)? {
        session.runs.push(name);
        save.index.write().unwrap_or_else(PoisonError::into_inner).add(repository, name)?;
        save.packer.forget_claims(&stored);
    }
    Ok(())
}

pub fn entries_of(reader: &ChunkReader<'_>, root: &Root) -> Result<BTreeMap<String, (Entry, Origin)>, Error> {
    let mut tree = TreeReader::new(reader, root);
    let mut known = BTreeMap::new();
    while let Some((entry, origin)) = tree.next_entry()? {
        known.insert(String::from_utf8_lossy(entry.path.as_bytes()).into_owned(), (entry, origin));
    }
    Ok(known)
}

fn file(name: &str, id: ChunkId, len: usize) -> Entry {
    Entry {
        path: TreePath::from_bytes(name.as_bytes().to_vec()).expect("a task's names are good"),
        kind: Kind::File {
            size: len as u64,
            content: Content::Extents(vec![Extent::Data { id, len: len as u32 }]),
            cut: Cut::Content,
        },
        mode: 0o644,
        uid: 0,
        gid: 0,
        user: None,
        group: None,
        mtime: Timestamp::default(),
        ctime: Timestamp::default(),
        inode: 0,
        link_group: None,
        xattrs: vec![],
    }
}

fn body(root: &Root, clock: &dyn Clock) -> ManifestBody {
    let now = clock.now();
    let source = record::Source {
        name: ByteVec::from(b"/source".to_vec()),
        kind: SourceKind::Filesystem,
        root: record::Root {
            id: ByteArray::from(root.id.0),
            level: root.level,
            base: ByteVec::from(root.base.as_bytes().to_vec()),
            entries: root.entries,
            bytes: root.bytes,
        },
        ancestors: ByteVec::from(vec![]),
        selected: None,
    };
    ManifestBody { sources: vec![source], ..ManifestBody::bare(Time { secs: now.secs, nanos: now.nanos }) }
}

/// What `backup::pipeline` shares among its threads.
struct Saving<'a> {
    index: RwLock<Index>,
    packer: Packer<'a>,
    codec: Codec,
    scratch: (Vec<u8>, Vec<u8>),
    /// Nodes that what was stored is a patch on.
    bases: Vec<ChunkId>,
}

impl Saving<'_> {
    fn must_store(&self, id: &ChunkId) -> Result<bool, Error> {
        if self.packer.has_claimed(id) {
            return Ok(false);
        }
        let known = self.index.read().unwrap_or_else(PoisonError::into_inner).contains(id)?;
        Ok(!known && self.packer.claim(id))
    }

    fn store(&mut self, class: Class, chunks: &[(ChunkId, &[u8])]) -> Result<(), Error> {
        if chunks.is_empty() {
            return Ok(());
        }
        let plain: Vec<u8> = chunks.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        let rows: Vec<(ChunkId, u32)> = chunks.iter().map(|(id, bytes)| (*id, bytes.len() as u32)).collect();
        self.packer.store_frame(class, None, &plain, &rows, &mut self.codec, &mut self.scratch)
    }
}

struct Sink<'s, 'a> {
    save: &'s mut Saving<'a>,
    ids: &'s IdKeys,
}

impl NodeSink for Sink<'_, '_> {
    type Error = Error;
    fn put_tree_node(&mut self, plaintext: Vec<u8>) -> Result<ChunkId, Error> {
        let id = self.ids.tree(&plaintext);
        if self.save.must_store(&id)? {
            self.save.store(Class::Metadata, &[(id, &plaintext)])?;
        }
        if let Some((0xff, rest)) = plaintext.split_first()
            && let Some(base) = rest.first_chunk()
        {
            self.save.bases.push(ChunkId(*base));
        }
        Ok(id)
    }
}
