//! Where objects live: create-once bytes under keys.
//!
//! Owns the interface to stores, its errors, and the stores themselves. Refuses to know what an object means: keys, seals
//! and the commit protocol belong to `pack` and the journeys. Calls block; whoever serves HTTP calls from a thread that may.
//!
//! What is asked of a store (everything else is built on it): `create` never replaces and is durable when it returns;
//! `list` shows whatever was created before it began; `get` returns what was created, whole. No clock is asked for.

pub mod address;
pub mod backoff;
pub mod cached;
pub mod cloud;
pub mod copies;
pub mod create_once;
mod drive;
pub mod local;
pub mod memory;
pub mod meter;
pub mod probe;
pub mod resist;
pub mod retry;
mod shared;

use std::ops::Range;
use std::sync::Arc;

pub use self::copies::Copies;
use crate::bucket::Traffic;
use crate::names::{ObjectKey, SessionId};

pub type Result<T> = std::result::Result<T, StoreError>;

/// What a listing tells of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub key: ObjectKey,
    pub size: u64,
    /// What the store says of the object's bytes, where it says anything: other bytes have another tag. It is the store's word, and no proof.
    pub tag: Option<Tag>,
}

/// An entity tag, hashed: stores write them in all lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(pub [u8; 16]);

impl Tag {
    pub fn of(text: &str) -> Self {
        let mut tag = [0; 16];
        tag.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
        Self(tag)
    }
}

/// How a `create` ended. Neither answer is ambiguous to the store; a lost answer is an error of class `Ambiguous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Create {
    Created,
    /// Something stands at the key (perhaps the very bytes, from an earlier attempt). Nothing was changed.
    Occupied,
}

/// A place for objects. Cheap to share; every call may come from any thread.
pub trait Store: Send + Sync {
    /// The store's URL as people may see it: no secret in it.
    fn url(&self) -> &str;

    /// All bytes of an object.
    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>>;

    /// Exactly the bytes of `range`; an object that ends before is `Short`.
    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>>;

    /// Size in bytes, or none if nothing stands at the key.
    fn size(&self, key: &ObjectKey) -> Result<Option<u64>>;

    /// Stores `bytes` unless the key is occupied; durable when it returns `Created`.
    fn create(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Create>;

    /// Begins an object whose name is known only at its end. `number` is unique within the session.
    fn begin(&self, session: SessionId, number: u32) -> Result<Box<dyn Upload>>;

    /// All objects whose key starts with `prefix` (empty: every object; else it ends in `/` or cuts the last part),
    /// ordered by key. Leftovers of crashes are not objects.
    fn list(&self, prefix: &str) -> Result<Vec<Listed>>;

    /// Removes an object; one that is gone already is no error.
    fn delete(&self, key: &ObjectKey) -> Result<()>;

    /// Bytes that can still be stored, where the store can tell.
    fn available_bytes(&self) -> Result<Option<u64>>;

    /// Puts other bytes over an object. Only `resist` asks, of an object of its own, to learn whether the store refuses.
    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Replace> {
        let _ = (key, bytes);
        Ok(Replace::Unknown)
    }

    /// Requests that went out so far, repeated ones among them; none from a store that makes none.
    fn traffic(&self) -> Option<Traffic> {
        None
    }

    /// What a store tells of itself when it is examined.
    fn inspect(&self) -> Result<Inspection> {
        Ok(Inspection::default())
    }

    /// Removes what crashes left of unfinished writes, where `is_dead` says so. All leftovers are listed before the first question is asked, so
    /// whoever lists sessions to answer it sees every session that a leftover may belong to.
    fn sweep(&self, is_dead: &mut dyn FnMut(&Leftover) -> bool) -> Result<Swept> {
        let _ = is_dead; // this store leaves nothing behind
        Ok(Swept::default())
    }

    /// What would be another if anybody had written to the object since, by the word of this host's kernel and nobody else's; none where that cannot be told, or
    /// where it may yet change without a sign.
    fn stamp(&self, key: &ObjectKey) -> Result<Option<Tag>> {
        let _ = key;
        Ok(None)
    }

    /// Whether each call takes a round trip, so that many at once are better than many in a row, and packs are better large.
    fn is_remote(&self) -> bool {
        false
    }

    /// Copies of some objects on this host, where a wrapper keeps them.
    fn copies(&self) -> Option<&Copies> {
        None
    }

    /// Fetches copies of these objects (keys and sizes) ahead, several at once, where copies are kept. Nothing is promised: whoever reads an object
    /// learns what is wrong with it.
    fn bring(&self, objects: &[(ObjectKey, u64)]) {
        let _ = objects;
    }

    /// The same store, believing no copy that was kept before; none: it keeps none.
    fn fresh(&self) -> Option<Arc<dyn Store>> {
        None
    }
}

/// How a `replace` ended, if it was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Replace {
    Done,
    /// This store has no way to try.
    Unknown,
}

/// What is known of a store beyond its objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Seconds that this machine's clock is ahead of the store's, by the last answer.
    pub clock_ahead: Option<i64>,
    /// What crashes left of unfinished writes, where the store can tell.
    pub leftovers: Option<Vec<Leftover>>,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub files: u64,
    pub bytes: u64,
}

/// A file that is no object: a pack in the making, or what a crash left of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Below the root: `tmp/<session>-<n>`, `tmp/create-<random>` or `<key>#<n>`.
    pub name: String,
    pub bytes: u64,
    /// Seconds since 1970 of its last write, by the clock of whoever serves the disk.
    pub modified: i64,
}

impl Leftover {
    /// Whose pack it was to be; none for any other object, which took but a moment to write.
    pub fn session(&self) -> Option<SessionId> {
        let (session, _) = self.name.strip_prefix("tmp/")?.split_once('-')?;
        session.parse().ok()
    }
}

/// An object in the making. Dropped before `finish`, it leaves nothing that a listing shows.
pub trait Upload: Send {
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Makes the object durable under `key`, without replacing.
    fn finish(self: Box<Self>, key: &ObjectKey) -> Result<Create>;
}

/// What an error asks of its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing stands at the key.
    NotFound,
    /// The same call may succeed later: network, throttling, a server's fault.
    Transient,
    /// The call may or may not have taken effect: look before doing it again.
    Ambiguous,
    /// Credentials or rights.
    Denied,
    /// No space or quota left.
    Full,
    /// The object ends before the bytes that were asked for.
    Short,
    /// All else: the call will not succeed as it stands.
    Permanent,
}

/// A store's refusal: which call on which key, and why.
#[derive(Debug, thiserror::Error)]
#[error("{store}: cannot {verb} {}", if key.is_empty() { "its objects" } else { key })]
pub struct StoreError {
    pub class: Class,
    pub store: String,
    /// `read`, `create`, `list`, `delete`, `size up`: completes the sentence "cannot …".
    pub verb: &'static str,
    /// The key, or the prefix of a listing.
    pub key: String,
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

impl StoreError {
    pub fn new(
        class: Class,
        store: &str,
        verb: &'static str,
        key: impl ToString,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { class, store: store.to_owned(), verb, key: key.to_string(), cause: cause.into() }
    }

    /// The next step that a cloud's refusal asks for, where there is one.
    pub fn hint(&self) -> Option<&'static str> {
        crate::bucket::refusal::of(&*self.cause).and_then(crate::bucket::Refusal::hint)
    }

    pub fn is_not_found(&self) -> bool {
        self.class == Class::NotFound
    }
}
