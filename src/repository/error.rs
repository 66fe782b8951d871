//! What can be wrong with a repository, and what to do next.
//!
//! Owns one sentence for each trouble, and its hint. Surfaces print both, and map them to exit codes.

use super::marks::Refusal;
use crate::names::{ChunkId, ObjectKey, PackId, RepositoryId, SessionId, SnapshotId, WriterId};
use crate::pack::container::PackError;
use crate::pack::tree::NodeError;
use crate::pack::wire::Malformed;
use crate::seal::compress::FrameError;
use crate::seal::key::Role;
use crate::seal::object::ObjectError;
use crate::store::{Class, StoreError};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{url} holds no Lifeboat repository")]
    NotARepository { url: String },
    #[error("{url} holds a repository already")]
    Exists { url: String },
    #[error("the key belongs to repository {key}, and config/00000000 in {url} is of repository {found}")]
    OtherRepository { url: String, key: RepositoryId, found: RepositoryId },
    #[error("{key} is damaged or not to be trusted")]
    Damaged {
        key: ObjectKey,
        #[source]
        cause: ObjectError,
    },
    #[error("{key} is missing")]
    Missing { key: ObjectKey },
    #[error("the repository uses the feature {feature:?}, which this build does not know")]
    Feature { feature: String },
    #[error("{what} needs {need} key, and this one is a {} key", have.name())]
    Role { what: &'static str, have: Role, need: &'static str },
    #[error("writer {writer} has no certificate that verifies")]
    NoCertificate { writer: WriterId },
    #[error("writer {writer} was revoked: nothing that it commits counts")]
    Revoked { writer: WriterId },
    #[error("pack {pack} is damaged")]
    Pack {
        pack: PackId,
        #[source]
        cause: PackError,
    },
    #[error("pack {pack} is damaged: a frame at byte {offset} does not decompress")]
    Frame {
        pack: PackId,
        offset: u32,
        #[source]
        cause: FrameError,
    },
    #[error("pack {pack} is damaged: chunk {chunk} is not what its id says")]
    Chunk { pack: PackId, chunk: ChunkId },
    #[error("pack {pack} is missing")]
    PackMissing { pack: PackId },
    #[error("chunk {chunk} is in no pack that the index knows")]
    ChunkUnknown { chunk: ChunkId },
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("the index object {key} makes no sense")]
    Index {
        key: ObjectKey,
        #[source]
        cause: Malformed,
    },
    #[error("session {session} was fenced: its commit slot is taken")]
    Fenced { session: SessionId },
    #[error("another session of writer {writer} is running, and this store can serve only one writer at a time")]
    Busy { writer: WriterId },
    #[error("what was sealed did not open to what was read: memory or processor of this machine are faulty")]
    SelfCheck,
    #[error("snapshot {} stays as it is: {why}", snapshot.short())]
    Undecided { snapshot: SnapshotId, why: Refusal },
    #[error("snapshot {} is being decided on by others all the time", snapshot.short())]
    Contended { snapshot: SnapshotId },
    #[error("snapshot {} was forgotten, and its undo window is over: parts of it may be gone", snapshot.short())]
    Expired { snapshot: SnapshotId },
    #[error("no snapshot {0}")]
    NoSnapshot(String),
    #[error("{prefix:?} fits {count} snapshots")]
    Ambiguous { prefix: String, count: usize },
    #[error("the newest snapshot cannot be told: {key} does not verify")]
    LatestUnknown { key: String, newest_readable: Option<String> },
    #[error("the passphrase opens no slot of {url}")]
    Passphrase { url: String },
    #[error("{url} has no key slot, so no passphrase can open it")]
    NoSlots { url: String },
    #[error("there is no {what} {id}")]
    NoKey { what: &'static str, id: String },
    #[error("the store does not give back what was just written to {key}")]
    ReadBack { key: ObjectKey },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The next step, where there is one to name.
pub trait Hint {
    fn hint(&self) -> Option<String>;
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Error::NotARepository { url } => {
                format!("check the address, or make one with `lifeboat init --repo {url} --key-out FILE`")
            }
            Error::Exists { .. } => "use it with its own key, or choose another address".into(),
            Error::OtherRepository { .. } => "give the key that was made for this repository".into(),
            Error::Damaged { cause: ObjectError::Version(_) | ObjectError::Features(_), .. }
            | Error::Feature { .. } => "use a newer Lifeboat; nothing was written".into(),
            Error::Damaged { cause: ObjectError::Signature | ObjectError::Key, .. } => {
                "is it the right key? if so, the object was changed: look at the store's own history".into()
            }
            Error::Damaged { .. }
            | Error::Missing { .. }
            | Error::Pack { .. }
            | Error::Frame { .. }
            | Error::Chunk { .. }
            | Error::PackMissing { .. }
            | Error::ChunkUnknown { .. }
            | Error::Node(_)
            | Error::Index { .. } => {
                "`lifeboat verify --level data` lists all damage; other snapshots may be whole".into()
            }
            Error::Role { .. } => "give another key with --key, or make one with `lifeboat key export`".into(),
            Error::NoCertificate { .. } => {
                "its key was never exported from this repository, or the store lost it".into()
            }
            Error::Revoked { .. } => {
                "ask the repository's admin for another key (`lifeboat key export --role writer`)".into()
            }
            Error::Fenced { .. } => "run the backup again: what was uploaded is found again".into(),
            Error::Busy { .. } => "wait until the other one ends".into(),
            Error::SelfCheck => "test the machine's memory before trusting it with backups".into(),
            Error::Undecided { why: Refusal::Held { .. }, .. } => "`lifeboat hold --release` ends the hold".into(),
            Error::Undecided { why: Refusal::Forgotten, .. } => "`lifeboat undelete` takes it back".into(),
            Error::Undecided { .. } => "`lifeboat snapshots --all` shows what was decided".into(),
            Error::Contended { .. } => "try again".into(),
            Error::Expired { .. } => "`lifeboat snapshots` lists what there is".into(),
            Error::NoSnapshot(_) => "`lifeboat snapshots` lists what there is".into(),
            Error::Ambiguous { .. } => "give more digits of the id".into(),
            Error::LatestUnknown { newest_readable, .. } => match newest_readable {
                Some(id) => format!("name a snapshot (the newest readable one is {id}) or add --skip-unreadable"),
                None => "no other snapshot is readable".into(),
            },
            Error::Passphrase { .. } => "try again, or use a key file or the recovery sheet with --key".into(),
            Error::NoSlots { .. } => "use a key file or the recovery sheet with --key".into(),
            Error::NoKey { .. } => "`lifeboat key list` lists what there is".into(),
            Error::ReadBack { .. } => "do not trust this store with backups".into(),
            Error::Store(error) => return store_hint(error),
        };
        Some(text)
    }
}

fn store_hint(error: &StoreError) -> Option<String> {
    if let Some(hint) = error.hint() {
        return Some(hint.to_owned());
    }
    let text = match error.class {
        Class::Full => "free some space; what was uploaded stays and is found again",
        Class::Denied => "check the rights of this user, or the store's credentials",
        Class::Transient | Class::Ambiguous => "try again later",
        Class::NotFound | Class::Short => "`lifeboat verify` lists all damage",
        Class::Permanent => return None,
    };
    Some(text.into())
}

impl Error {
    /// Whether what was looked for may lie elsewhere by now, as the index knows it now.
    pub fn may_have_moved(&self) -> bool {
        match self {
            Error::PackMissing { .. } | Error::ChunkUnknown { .. } | Error::Missing { .. } => true,
            Error::Store(error) => error.is_not_found(),
            _ => false,
        }
    }

    /// Whether something in the store is not what it should be (exit code 13).
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Damaged { cause, .. } => {
                !matches!(cause, ObjectError::Version(_) | ObjectError::Features(_) | ObjectError::OtherRepository(_))
            }
            Error::Missing { .. }
            | Error::Pack { .. }
            | Error::Frame { .. }
            | Error::Chunk { .. }
            | Error::PackMissing { .. }
            | Error::ChunkUnknown { .. }
            | Error::Node(_)
            | Error::Index { .. }
            | Error::NoCertificate { .. }
            | Error::LatestUnknown { .. } => true,
            Error::Store(error) => matches!(error.class, Class::NotFound | Class::Short),
            _ => false,
        }
    }
}
