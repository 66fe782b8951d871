//! Making a repository, and its keys.
//!
//! Owns the order of `init`: certificate and slots, the caller's key file, then `config/00000000`, whose create commits. What is
//! stored is read back and opened before it is relied on. A crash before the config leaves no repository, and `init` can be run again.

use minicbor::bytes::{ByteArray, ByteVec};

use super::{Error, Repository, Result};
use crate::chunk::gear::SIZES;
use crate::clock::Clock;
use crate::names::{GroupId, WriterId};
use crate::pack::keys::{self, Meaning};
use crate::pack::record::{self, Time};
use crate::seal::key::{AdminKey, DEFAULT_GROUP, Key, Secret, WriterKey};
use crate::seal::object::{self, Identity, ObjectKind, SignedBy};
use crate::seal::slot::{self, DEFAULT_COST, SlotError};
use crate::store::Store;
use crate::store::create_once::{Outcome, create_once};

/// Bytes at which a pack on a local store is closed.
const PACK_BYTES: u32 = 16 << 20;
/// The same on a store that takes a round trip, and a fee, for each: at 200 Mbit/s one is under way for 1.3 s, so that 50 ms are 4 % of it.
const REMOTE_PACK_BYTES: u32 = 32 << 20;

/// A repository that was just made.
pub struct Initialised {
    pub key: Key,
    pub slots: usize,
}

fn now(clock: &dyn Clock) -> Time {
    let now = clock.now();
    Time { secs: now.secs, nanos: now.nanos }
}

/// Makes a repository in an empty store.
///
/// `save_key` keeps the key outside the store, durably, before the repository comes to be; its error ends the init.
pub fn init<E: From<Error>>(
    store: &dyn Store,
    clock: &dyn Clock,
    passphrase: Option<&[u8]>,
    save_key: impl FnOnce(&Key) -> std::result::Result<(), E>,
) -> std::result::Result<Initialised, E> {
    if !store.list(keys::CONFIGS).map_err(Error::from)?.is_empty() {
        return Err(Error::Exists { url: store.url().to_owned() }.into());
    }
    let admin = AdminKey::generate();
    let repository = admin.repository;
    let own = admin.own_writer();
    certify(store, clock, &admin, &own, Some(DEFAULT_GROUP), "admin")?;
    let key = Key::Admin(admin);
    let mut slots = 0;
    if let Some(passphrase) = passphrase {
        add_slot(store, &key, passphrase)?;
        slots += 1;
    }
    save_key(&key)?;
    let Key::Admin(admin) = &key else { unreachable!("it was made four lines above") };
    let config = record::Config {
        created: now(clock),
        recipient: ByteVec::from(admin.reader().recipient_secret().public().as_bytes().to_vec()),
        read_features: vec![],
        write_features: vec![],
        maintain_features: vec![],
        chunk_min: SIZES.min as u32,
        chunk_normal: SIZES.normal as u32,
        chunk_max: SIZES.max as u32,
        pack_bytes: if store.is_remote() { REMOTE_PACK_BYTES } else { PACK_BYTES },
    };
    let config_key = keys::config(0);
    let signer = admin.signer();
    let identity = Identity {
        kind: ObjectKind::Config,
        repository,
        key: &config_key,
        base: &key.repository_key(),
        by: SignedBy::Admin,
        signer: &signer,
        features: 0,
    };
    let bytes = object::seal(&identity, &record::encode(&config));
    match create_once(store, &config_key, &bytes).map_err(Error::from)? {
        Outcome::Won => {}
        Outcome::Lost(_) => return Err(Error::Exists { url: store.url().to_owned() }.into()),
    }
    if store.get(&config_key).map_err(Error::from)? != bytes {
        return Err(Error::ReadBack { key: config_key }.into());
    }
    Ok(Initialised { key, slots })
}

fn certify(
    store: &dyn Store,
    clock: &dyn Clock,
    admin: &AdminKey,
    writer: &WriterKey,
    group_name: Option<&str>,
    name: &str,
) -> Result<WriterId> {
    let id = writer.writer_id();
    let certificate = record::Certificate {
        created: now(clock),
        writer: ByteArray::from(id.0),
        group: ByteArray::from(writer.group().id.0),
        group_name: group_name.map(str::to_owned),
        name: name.to_owned(),
        signing: ByteArray::from(writer.signer().public().0),
        metadata: ByteVec::from(writer.metadata_secret().public().as_bytes().to_vec()),
    };
    let key = keys::certificate(id);
    let signer = admin.signer();
    let reader = Key::Reader(admin.reader());
    let base = reader.repository_key();
    let identity = Identity {
        kind: ObjectKind::Certificate,
        repository: admin.repository,
        key: &key,
        base: &base,
        by: SignedBy::Admin,
        signer: &signer,
        features: 0,
    };
    let bytes = object::seal(&identity, &record::encode(&certificate));
    match create_once(store, &key, &bytes)? {
        Outcome::Won => Ok(id),
        // Ids are 64 random bits, or derived from a root that was just drawn.
        Outcome::Lost(_) => Err(Error::Damaged { key, cause: object::ObjectError::Signature }),
    }
}

/// Makes a new writer, certifies it, and hands its key out. Without a group it gets one of its own.
pub fn export_writer(
    repository: &Repository,
    clock: &dyn Clock,
    name: &str,
    group: Option<&str>,
) -> Result<(WriterId, Key)> {
    let admin = repository.need_admin("exporting a writer's key")?;
    let id = match group {
        Some(name) => admin.named_group(name),
        None => GroupId(crate::seal::random()),
    };
    let writer = admin.writer(id, Secret::random());
    let id = certify(&*repository.store, clock, admin, &writer, group, name)?;
    Ok((id, Key::Writer(writer)))
}

/// Revokes a writer: what it committed until now stands, what comes later does not.
pub fn revoke_writer(repository: &Repository, clock: &dyn Clock, id: WriterId) -> Result<usize> {
    let admin = repository.need_admin("removing a writer's key")?;
    repository.writer(id)?;
    if id == admin.own_writer().writer_id() {
        return Err(Error::NoKey { what: "removable writer", id: format!("{id} (it is the admin's own)") });
    }
    let mut standing = Vec::new();
    for listed in repository.store.list(keys::COMMITS)? {
        let Some(Meaning::Commit { session, .. }) = keys::parse(&listed.key) else { continue };
        if session.writer() != id {
            continue;
        }
        let bytes = repository.store.get(&listed.key)?;
        if repository.open_signed(ObjectKind::Manifest, &listed.key, &bytes).is_ok() {
            standing.push(record::Standing {
                slot: listed.key.to_string(),
                hash: ByteArray::from(*blake3::hash(&bytes).as_bytes()),
            });
        }
    }
    let stand = standing.len();
    let revocation = record::Revocation { created: now(clock), writer: ByteArray::from(id.0), standing };
    let key = keys::revocation(id);
    let bytes = repository.seal_as_admin(admin, ObjectKind::Revocation, &key, &record::encode(&revocation));
    if repository.create(&key, &bytes)? {
        repository.list_revoked()?;
        Ok(stand)
    } else {
        Err(Error::NoKey { what: "writer in force with the id", id: id.to_string() })
    }
}

/// Stores `key` behind a passphrase, then reads the slot back and opens it.
pub fn add_slot(store: &dyn Store, key: &Key, passphrase: &[u8]) -> Result<String> {
    let refuse = |_: SlotError| Error::ReadBack { key: keys::slot(b"") };
    let bytes = slot::close(key, passphrase, DEFAULT_COST).map_err(refuse)?;
    let name = keys::slot(&bytes);
    if create_once(store, &name, &bytes)? != Outcome::Won {
        return Err(Error::ReadBack { key: name });
    }
    let opened = slot::open(&store.get(&name)?, passphrase);
    match opened {
        Ok(opened) if *opened.to_text() == *key.to_text() => Ok(name.to_string()),
        _ => Err(Error::ReadBack { key: name }),
    }
}

/// The keys of all slots.
pub fn slots(store: &dyn Store) -> Result<Vec<crate::names::ObjectKey>> {
    let listed = store.list(keys::SLOTS)?;
    Ok(listed.into_iter().filter(|l| keys::parse(&l.key) == Some(Meaning::Slot)).map(|l| l.key).collect())
}

/// Opens the first slot that `passphrase` opens. A damaged slot is passed over while another one opens.
pub fn open_slot(store: &dyn Store, passphrase: &[u8]) -> Result<Key> {
    let names = slots(store)?;
    let Some(config) = store.list(keys::CONFIGS)?.into_iter().next() else {
        return Err(Error::NotARepository { url: store.url().to_owned() });
    };
    if names.is_empty() {
        return Err(Error::NoSlots { url: store.url().to_owned() });
    }
    let config_bytes = store.get(&config.key)?;
    let mut damaged = None;
    for name in names {
        let bytes = store.get(&name)?;
        if keys::slot(&bytes) != name {
            damaged = Some(name);
            continue;
        }
        // An init that died before its config leaves slots of a repository that never came to be.
        if slot::repository(&bytes).is_ok_and(|home| object::home_of(&config_bytes).is_some_and(|here| here != home)) {
            continue;
        }
        match slot::open(&bytes, passphrase) {
            Ok(key) => return Ok(key),
            Err(SlotError::Passphrase) => {}
            Err(_) => damaged = Some(name),
        }
    }
    match damaged {
        Some(key) => {
            let cause = object::ObjectError::Body("no slot opens, and this one is not what its name says".into());
            Err(Error::Damaged { key, cause })
        }
        None => Err(Error::Passphrase { url: store.url().to_owned() }),
    }
}
