//! A small repository with an object of every kind, and a store that shows it with one object changed.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::sync::Arc;

use lifeboat::clock::SystemClock;
use lifeboat::names::{ObjectKey, SessionId, WriterId, hex};
use lifeboat::pack::keys::{self, Meaning};
use lifeboat::pack::record::{self, Decision, Time};
use lifeboat::repository::{self, Repository, Snapshots, WriteSession, export_writer, revoke_writer};
use lifeboat::seal::key::Key;
use lifeboat::seal::object::{self, Identity, ObjectKind, SignedBy};
use lifeboat::store::memory::MemoryStore;
use lifeboat::store::{Class, Create, Listed, Result, Store, StoreError, Upload};
use minicbor::bytes::ByteArray;

use super::repo::{backup, noise};

pub type Objects = Arc<BTreeMap<ObjectKey, Vec<u8>>>;

pub struct Small {
    pub objects: Objects,
    pub admin_key: String,
    /// Of the writer that is in force.
    pub writer_key: String,
}

/// Two writers and the admin, eleven snapshots, eight of whose index runs were merged into a segment; a slot, a revocation, a fence, an open
/// session, a probe's leftover; and two marks on one snapshot, which was forgotten and taken back.
pub fn small() -> Small {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    fs::create_dir(&root).unwrap();
    for n in 0..90 {
        fs::write(root.join(format!("note-{n:03}")), format!("note {n}\n").repeat(20)).unwrap();
    }
    // Enough fixed pieces for list nodes.
    fs::write(root.join("disk.img"), noise(70 << 16, 1)).unwrap();
    let store = MemoryStore::default();
    let made = repository::init::<repository::Error>(&store, &SystemClock, Some(b"passphrase"), |_| Ok(())).unwrap();
    let admin_key = made.key.to_text().to_string();
    let shared: Arc<dyn Store> = Arc::new(store.clone());
    let mut admin = Repository::open(shared.clone(), made.key).unwrap();
    admin.config.pack_bytes = 4 << 20;
    let (_, web) = export_writer(&admin, &SystemClock, "web1", None).unwrap();
    let (old_id, old) = export_writer(&admin, &SystemClock, "old1", Some("default")).unwrap();
    let writer_key = web.to_text().to_string();
    for n in 0..8 {
        fs::write(root.join("changing"), format!("change {n}")).unwrap();
        backup(&admin, &root);
    }
    for key in [web, old] {
        let writer = Repository::open(shared.clone(), key).unwrap();
        let part = dir.path().join(format!("of-{}", writer.access.writer.as_ref().unwrap().id));
        fs::create_dir(&part).unwrap();
        fs::write(part.join("own"), writer.access.writer.as_ref().unwrap().id.0).unwrap();
        backup(&writer, &part);
    }
    assert_eq!(revoke_writer(&admin, &SystemClock, old_id).unwrap(), 1);
    fs::write(root.join("changing"), "the last change").unwrap();
    backup(&admin, &root);
    // A session that stays open: nothing withdraws it.
    let (session, _) = WriteSession::start(&admin, &SystemClock, &|_| vec![]).unwrap();
    drop(session);
    fence(&store, &admin, &admin_key);
    let first = Snapshots::list(&admin).unwrap().readable[0].clone();
    for decision in [Decision::Forget("a test".into()), Decision::Undelete] {
        admin.decide(&SystemClock, first.session, &first.slot, &decision).unwrap();
    }
    probe(&store);
    let objects: BTreeMap<_, _> =
        store.list("").unwrap().into_iter().map(|l| (l.key.clone(), store.get(&l.key).unwrap())).collect();
    let small = Small { objects: Arc::new(objects), admin_key, writer_key };
    let kinds: std::collections::BTreeSet<_> = small.objects.keys().map(kind).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), KINDS, "an object of every kind");
    small
}

pub const KINDS: [&str; 13] = [
    "certificate",
    "config",
    "data pack",
    "delta",
    "fence",
    "manifest",
    "mark",
    "metadata pack",
    "probe",
    "revocation",
    "segment",
    "session record",
    "slot",
];

const FENCED: SessionId = SessionId([0xfe; 16]);

/// The kind of an object of a small repository, by its key.
pub fn kind(key: &ObjectKey) -> &'static str {
    use lifeboat::pack::container::PackKind;
    match keys::parse(key).unwrap() {
        Meaning::Config(_) => "config",
        Meaning::Slot => "slot",
        Meaning::Certificate(_) => "certificate",
        Meaning::Revocation(_) => "revocation",
        Meaning::SessionRecord(..) => "session record",
        Meaning::Run(name) if name.epoch.is_some() => "delta",
        Meaning::Run(_) => "segment",
        Meaning::Commit { session: FENCED, .. } => "fence",
        Meaning::Commit { .. } => "manifest",
        Meaning::Mark(..) => "mark",
        Meaning::Pack(PackKind::Data, _) => "data pack",
        Meaning::Pack(PackKind::Metadata, _) => "metadata pack",
        Meaning::Epoch(_) => "epoch",
        Meaning::Verdict(_) => "verdict",
        Meaning::Probe => "probe",
    }
}

fn fence(store: &MemoryStore, admin: &Repository, admin_key: &str) {
    let Key::Admin(root) = Key::from_text(admin_key).unwrap() else { panic!("an admin key") };
    let (signer, base) = (root.signer(), Key::from_text(admin_key).unwrap().repository_key());
    let key = keys::commit(0, FENCED);
    let identity = Identity {
        kind: ObjectKind::Fence,
        repository: admin.id,
        key: &key,
        base: &base,
        by: SignedBy::Admin,
        signer: &signer,
        features: 0,
    };
    let fence =
        record::Fence { at: Time { secs: 1, nanos: 0 }, session: ByteArray::from(FENCED.0), reason: "a test".into() };
    assert_eq!(store.create(&key, &object::seal(&identity, &record::encode(&fence))).unwrap(), Create::Created);
}

fn probe(store: &MemoryStore) {
    let key: ObjectKey = format!("probe/{}-0", hex(&[9; 16])).parse().unwrap();
    let mut bytes = b"first".to_vec();
    let hash = blake3::Hasher::new().update(key.as_str().as_bytes()).update(&[0]).update(b"first").finalize();
    bytes.extend_from_slice(hash.as_bytes());
    assert_eq!(store.create(&key, &bytes).unwrap(), Create::Created);
}

/// Shows `objects`, one of them changed or absent. Refuses every write: whoever only reads must never try.
pub struct Changed {
    pub objects: Objects,
    pub key: ObjectKey,
    /// None: it is absent.
    pub bytes: Option<Vec<u8>>,
}

impl Changed {
    /// The objects as they are.
    pub fn nothing(objects: &Objects) -> Self {
        let (key, bytes) = objects.first_key_value().unwrap();
        Self { objects: objects.clone(), key: key.clone(), bytes: Some(bytes.clone()) }
    }

    fn bytes(&self, key: &ObjectKey) -> Result<&[u8]> {
        let found = if *key == self.key { self.bytes.as_ref() } else { self.objects.get(key) };
        found
            .map(Vec::as_slice)
            .ok_or_else(|| StoreError::new(Class::NotFound, "changed:", "read", key, "no such object"))
    }
}

impl Store for Changed {
    fn url(&self) -> &str {
        "changed:"
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        self.bytes(key).map(<[u8]>::to_vec)
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        let bytes = self.bytes(key)?.get(range.start as usize..range.end as usize);
        bytes
            .map(<[u8]>::to_vec)
            .ok_or_else(|| StoreError::new(Class::Short, "changed:", "read", key, "it ends before"))
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        Ok(self.bytes(key).ok().map(|bytes| bytes.len() as u64))
    }

    fn create(&self, key: &ObjectKey, _: &[u8]) -> Result<Create> {
        panic!("a reader created {key}")
    }

    fn begin(&self, session: SessionId, _: u32) -> Result<Box<dyn Upload>> {
        panic!("a reader began an object of {session}")
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let mut keys: Vec<&ObjectKey> = self.objects.keys().filter(|key| **key != self.key).collect();
        keys.extend(self.bytes.as_ref().map(|_| &self.key));
        keys.sort();
        let found = keys.into_iter().filter(|key| key.as_str().starts_with(prefix));
        found.map(|key| Ok(Listed { key: key.clone(), size: self.bytes(key)?.len() as u64, tag: None })).collect()
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        panic!("a reader deleted {key}")
    }

    fn available_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// The writer of an object's session, where its key tells.
pub fn writer_of(key: &ObjectKey) -> Option<WriterId> {
    match keys::parse(key)? {
        Meaning::Run(name) => Some(name.session.writer()),
        Meaning::Commit { session, .. } => Some(session.writer()),
        _ => None,
    }
}
