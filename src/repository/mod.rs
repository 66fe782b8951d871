//! A repository: a store, opened with a key, whose objects are what they should be.
//!
//! Owns opening, trust (who may have signed what), the index, reading of nodes, write sessions and the commit (`pack/FORMAT.md`, sections 2 and 10).
//! Refuses sources and targets: journeys bring those. What does not verify counts as absent here, and is named.

mod access;
mod ahead;
mod chunks;
mod epochs;
mod error;
mod fetch;
mod host;
mod index;
mod init;
mod manifests;
mod marks;
mod merge;
mod packer;
mod proofs;
pub(crate) mod rules;
mod session;
mod snapshots;
mod spent;
mod together;
mod uploads;
mod writers;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use ahead::Ahead;

use crate::clock::Clock;
use crate::names::{ObjectKey, RepositoryId, WriterId};
use crate::pack::keys::{self, Meaning};
use crate::pack::record;
use crate::seal::key::{AdminKey, Key, Role};
use crate::seal::object::{self, Envelope, Identity, ObjectError, ObjectKind, SignedBy};
use crate::seal::sign::PublicKey;
use crate::seal::stanza::Recipient;
use crate::store::create_once::{Outcome, create_once};
use crate::store::{Listed, Store};

pub use access::Access;
pub use ahead::Errand;
pub use chunks::{ChunkReader, PackKeys, decode_frame, fetch_frame};
pub(crate) use epochs::{View, pack_rows, run_rows, slot_rows};
pub use error::{Error, Hint, Result};
pub(crate) use host::Process;
pub use host::host_name;
pub use index::{Index, Scope, SealedRun};
pub use init::{Initialised, add_slot, export_writer, init, open_slot, revoke_writer, slots};
pub use marks::{Hold, Marked, Marks, Refusal, Standing};
pub use merge::merge_own_runs;
pub(crate) use merge::{MERGE_RUNS, Part, deleted, merge_for_group, tier};
pub use packer::{Class, Packer};
use proofs::Proofs;
pub(crate) use session::LEASE_SECONDS;
pub use session::{Committed, WriteSession};
pub use snapshots::{Selection, Snapshot, SnapshotState, Snapshots, Unreadable};
pub use spent::Spent;
pub(crate) use together::{CALLS, both, each};
pub use writers::{Writer, Writers};

/// Snapshots that expired may lack parts, and what is older than the newest epoch's boundary counts only if it lists it. The first prune raises it.
pub(crate) const DELETION: &str = "deletion";
/// Features of version 1 that this build knows.
const KNOWN_FEATURES: [&str; 1] = [DELETION];

/// An open repository. Shared by threads.
pub struct Repository {
    pub store: Arc<dyn Store>,
    pub id: RepositoryId,
    pub config: record::Config,
    pub access: Arc<Access>,
    pub recipient: Recipient,
    pub writers: Writers,
    /// Writers with a revocation in the newest listing of these.
    revoked: Mutex<Option<HashSet<WriterId>>>,
    ahead: Ahead,
    /// None: everything is proven once more.
    proofs: Option<Proofs>,
    /// A newer configuration than the one that is gone by, which does not verify.
    pub(crate) doubtful_config: Option<ObjectKey>,
}

impl Repository {
    /// Opens the repository in `store` with `key`. Reads only.
    pub fn open(store: Arc<dyn Store>, key: Key) -> Result<Self> {
        Self::open_for(store, key, Errand::Any)
    }

    /// The same. On a store that is far away, what `errand` asks first is asked meanwhile.
    pub fn open_for(store: Arc<dyn Store>, key: Key, errand: Errand) -> Result<Self> {
        let access = Access::new(key);
        let ahead = Ahead::begin(&store, errand, access.writer.as_ref().map(|writer| writer.id));
        let mut numbers: Vec<(u32, ObjectKey)> = store
            .list(keys::CONFIGS)?
            .into_iter()
            .filter_map(|listed| match keys::parse(&listed.key) {
                Some(Meaning::Config(number)) => Some((number, listed.key)),
                _ => None,
            })
            .collect();
        numbers.sort();
        let (mut refused, mut doubtful) = (None, None);
        while let Some((_, key)) = numbers.pop() {
            let read = || read_config(&*store, &key, &access);
            match again_without_copy(&*store, &key, read) {
                Ok((config, recipient)) => {
                    check_features(&config.read_features)?;
                    let opened = Self::of(store, config, Arc::new(access), recipient, ahead);
                    return Ok(Self { doubtful_config: doubtful, ..opened });
                }
                // The store's own trouble is no reason to believe in an older configuration.
                Err(error @ Error::Store(_)) => return Err(error),
                // A configuration of this admin's that a newer Lifeboat made: an older one beside it must not be acted on.
                Err(error @ Error::Damaged { cause: ObjectError::Version(_) | ObjectError::Features(_), .. })
                    if store
                        .get(&key)
                        .is_ok_and(|bytes| object::is_signed(&bytes, &key, access.repository, access.admin_public)) =>
                {
                    return Err(error);
                }
                Err(error) => {
                    refused = refused.or(Some(error));
                    doubtful = doubtful.or(Some(key));
                }
            }
        }
        Err(refused.unwrap_or_else(|| Error::NotARepository { url: store.url().to_owned() }))
    }

    fn of(
        store: Arc<dyn Store>,
        config: record::Config,
        access: Arc<Access>,
        recipient: Recipient,
        ahead: Ahead,
    ) -> Self {
        let (id, writers, revoked) = (access.repository, Writers::default(), Mutex::default());
        Self { store, id, config, access, recipient, writers, revoked, ahead, proofs: None, doubtful_config: None }
    }

    /// The same, remembering in the cache directory of this host, if there is one, what it has proven.
    pub fn remembering(mut self, cache: Option<&std::path::Path>) -> Self {
        self.proofs = cache.map(|cache| Proofs::in_cache(cache, self.id, &self.access.memory_key));
        self
    }

    /// The same repository as its store has it, whatever copies this host keeps; none: it keeps none.
    pub fn fresh(&self) -> Option<Self> {
        let store = self.store.fresh()?;
        Some(Self::of(store, self.config.clone(), self.access.clone(), self.recipient.clone(), self.ahead.clone()))
    }

    /// Refuses a repository whose maintenance takes features that this build does not know.
    pub(crate) fn check_maintain_features(&self) -> Result<()> {
        check_features(&self.config.maintain_features)
    }

    /// Has every other build refuse the repository that does not know what deletion means; once.
    pub(crate) fn raise_deletion(&self, clock: &dyn Clock) -> Result<()> {
        let admin = self.need_admin("raising a feature")?;
        let mut config = self.config.clone();
        let features = [&mut config.read_features, &mut config.write_features, &mut config.maintain_features];
        if features.iter().all(|features| features.iter().any(|feature| feature == DELETION)) {
            return Ok(());
        }
        for features in features.into_iter().filter(|features| !features.iter().any(|feature| feature == DELETION)) {
            features.push(DELETION.to_owned());
        }
        let now = clock.now();
        config.created = record::Time { secs: now.secs, nanos: now.nanos };
        let number = |listed: &Listed| match keys::parse(&listed.key) {
            Some(Meaning::Config(number)) => Some(number),
            _ => None,
        };
        let newest = self.store.list(keys::CONFIGS)?.iter().filter_map(number).max().unwrap_or(0);
        let key = keys::config(newest.saturating_add(1));
        let bytes = self.seal_as_admin(admin, ObjectKind::Config, &key, &record::encode(&config));
        // Taken: another prune did the same.
        self.create(&key, &bytes).map(|_| ())
    }

    /// How many calls should be under way at once.
    pub(crate) fn calls(&self) -> usize {
        if self.store.is_remote() { CALLS } else { 1 }
    }

    /// Reads an object whole and makes something of it. A bad copy on this host is dropped, and the object read once more.
    pub(crate) fn read<T>(&self, key: &ObjectKey, open: impl Fn(&[u8]) -> Result<T>) -> Result<T> {
        if let Some(Ok(opened)) = self.ahead.bytes(key).map(|bytes| open(&bytes)) {
            return Ok(opened);
        }
        again_without_copy(&*self.store, key, || open(&self.store.get(key)?))
    }

    /// The writer's half of the key, or an error that says which role is needed for `what`.
    pub fn need_writer(&self, what: &'static str) -> Result<&access::WriterAccess> {
        self.access.writer.as_ref().ok_or(Error::Role { what, have: self.access.role, need: "an admin or writer" })
    }

    /// The reader's half of the key.
    pub fn need_reader(&self, what: &'static str) -> Result<&access::ReaderAccess> {
        self.access.reader.as_ref().ok_or(Error::Role { what, have: self.access.role, need: "an admin or reader" })
    }

    pub fn need_admin(&self, what: &'static str) -> Result<&AdminKey> {
        self.access.admin.as_ref().ok_or(Error::Role { what, have: self.access.role, need: "an admin" })
    }

    pub fn role(&self) -> Role {
        self.access.role
    }

    /// The commit slots. An index that was listed while the repository opened goes with the slots that were listed then, and with no later ones.
    pub(crate) fn list_commits(&self) -> Result<Vec<Listed>> {
        match self.ahead.listing(keys::COMMITS) {
            Some(listed) => Ok(listed),
            None => {
                self.ahead.forget_index();
                Ok(self.store.list(keys::COMMITS)?)
            }
        }
    }

    pub(crate) fn list_index(&self) -> Result<Vec<Listed>> {
        match self.ahead.listing(keys::INDEX) {
            Some(listed) => Ok(listed),
            None => Ok(self.store.list(keys::INDEX)?),
        }
    }

    /// Lists the commit slots, and then the index, while the caller does something else.
    pub(crate) fn list_ahead(&self) {
        if self.store.is_remote() {
            self.ahead.list_in_turn(&self.store, &[keys::COMMITS, keys::INDEX]);
            self.ahead.list_in_turn(&self.store, &[keys::REVOCATIONS]);
            self.ahead.list_in_turn(&self.store, &[keys::MARKS]);
            self.ahead.list_in_turn(&self.store, &[keys::EPOCHS]);
        }
    }

    /// Everything that the store holds.
    pub(crate) fn list_all(&self) -> Result<Vec<Listed>> {
        match self.ahead.listing("") {
            Some(listed) => Ok(listed),
            None => Ok(self.store.list("")?),
        }
    }

    /// Seals a record for every holder of the repository key, signed by this key's writer.
    pub(crate) fn seal_as_writer(&self, kind: ObjectKind, key: &ObjectKey, body: &[u8]) -> Result<Vec<u8>> {
        self.seal_with(kind, 0, key, body)
    }

    /// The same, for readers that know these features.
    pub(crate) fn seal_with(&self, kind: ObjectKind, features: u32, key: &ObjectKey, body: &[u8]) -> Result<Vec<u8>> {
        let writer = self.need_writer("to write")?;
        Ok(object::seal(
            &Identity {
                kind,
                repository: self.id,
                key,
                base: &self.access.repository_key,
                by: SignedBy::Writer(writer.id),
                signer: &writer.signer,
                features,
            },
            body,
        ))
    }

    /// Seals a record for every holder of the repository key, signed by the admin.
    pub(crate) fn seal_as_admin(&self, admin: &AdminKey, kind: ObjectKind, key: &ObjectKey, body: &[u8]) -> Vec<u8> {
        let identity = Identity {
            kind,
            repository: self.id,
            key,
            base: &self.access.repository_key,
            by: SignedBy::Admin,
            signer: &admin.signer(),
            features: 0,
        };
        object::seal(&identity, body)
    }

    /// Creates an object that must not exist. False: another one stands there.
    pub(crate) fn create(&self, key: &ObjectKey, bytes: &[u8]) -> Result<bool> {
        Ok(create_once(&*self.store, key, bytes)? == Outcome::Won)
    }

    /// An object that a writer (or the admin) signed, opened with the repository key.
    pub(crate) fn open_signed(&self, kind: ObjectKind, key: &ObjectKey, bytes: &[u8]) -> Result<(SignedBy, Vec<u8>)> {
        let damaged = |cause| Error::Damaged { key: key.clone(), cause };
        let envelope = Envelope::parse(bytes, key, self.id).map_err(damaged)?;
        if envelope.header.kind != kind {
            return Err(damaged(ObjectError::Kind(envelope.header.kind as u8)));
        }
        envelope.verify(self.signer(envelope.signed_by)?).map_err(damaged)?;
        Ok((envelope.signed_by, envelope.open(&self.access.repository_key).map_err(damaged)?))
    }

    /// The public key of whoever is said to have signed.
    fn signer(&self, by: SignedBy) -> Result<PublicKey> {
        match by {
            SignedBy::Admin | SignedBy::AdminFor(_) => Ok(self.access.admin_public),
            SignedBy::Writer(writer) => Ok(self.writer(writer)?.signing),
        }
    }
}

/// What `read` makes of an object. If it finds damage, and a copy on this host was what it read, it reads what the store has.
fn again_without_copy<T>(store: &dyn Store, key: &ObjectKey, read: impl Fn() -> Result<T>) -> Result<T> {
    match read() {
        Err(error) if !matches!(error, Error::Store(_)) && store.copies().is_some_and(|copies| copies.forget(key)) => {
            read()
        }
        read => read,
    }
}

fn read_config(store: &dyn Store, key: &ObjectKey, access: &Access) -> Result<(record::Config, Recipient)> {
    let damaged = |cause| Error::Damaged { key: key.clone(), cause };
    let bytes = store.get(key)?;
    let envelope = Envelope::parse(&bytes, key, access.repository).map_err(|cause| match cause {
        ObjectError::OtherRepository(found) => {
            Error::OtherRepository { url: store.url().to_owned(), found, key: access.repository }
        }
        cause => damaged(cause),
    })?;
    if envelope.header.kind != ObjectKind::Config {
        return Err(damaged(ObjectError::Kind(envelope.header.kind as u8)));
    }
    envelope.verify(access.admin_public).map_err(damaged)?;
    let config: record::Config =
        record::decode(&envelope.open(&access.repository_key).map_err(damaged)?).map_err(damaged)?;
    let recipient = Recipient::from_bytes(&config.recipient)
        .map_err(|_| damaged(ObjectError::Body("the recipient's key is no key".into())))?;
    if !access.trusts(&recipient) {
        return Err(damaged(ObjectError::Body("it names a recipient that this key does not trust".into())));
    }
    let sizes = (config.chunk_min, config.chunk_normal, config.chunk_max);
    let in_order = 64 <= sizes.0 && sizes.0 < sizes.1 && sizes.1 < sizes.2 && sizes.2 <= 16 << 20;
    if !in_order || !(1 << 16..=512 << 20).contains(&config.pack_bytes) {
        return Err(damaged(ObjectError::Body("its sizes make no sense".into())));
    }
    Ok((config, recipient))
}

fn check_features(features: &[String]) -> Result<()> {
    match features.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str())) {
        None => Ok(()),
        Some(feature) => Err(Error::Feature { feature: feature.clone() }),
    }
}
