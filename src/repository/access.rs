//! What a key can do in a repository.
//!
//! Owns the split of a key into its halves, each derived once. Refuses stores.

use crate::names::{GroupId, RepositoryId, WriterId};
use crate::seal::key::{AdminKey, GroupKeys, Key, ReaderKey, Role, Secret, WriterKey};
use crate::seal::sign::{PublicKey, Signer};
use crate::seal::stanza::{Recipient, RecipientSecret};

/// An opened key: what every role has, and what this one has beside it.
pub struct Access {
    pub role: Role,
    pub repository: RepositoryId,
    pub(crate) repository_key: Secret,
    pub(super) memory_key: Secret,
    pub admin_public: PublicKey,
    pub admin: Option<AdminKey>,
    pub reader: Option<ReaderAccess>,
    pub writer: Option<WriterAccess>,
}

/// The half that opens content.
pub struct ReaderAccess {
    key: ReaderKey,
    pub secret: RecipientSecret,
}

/// The half that adds content.
pub struct WriterAccess {
    key: WriterKey,
    pub id: WriterId,
    pub group: GroupId,
    pub signer: Signer,
    pub metadata: RecipientSecret,
    pub keys: GroupKeys,
}

impl ReaderAccess {
    fn new(key: ReaderKey) -> Self {
        Self { secret: key.recipient_secret(), key }
    }
}

impl WriterAccess {
    fn new(key: WriterKey) -> Self {
        let keys = key.group();
        Self { id: key.writer_id(), group: keys.id, signer: key.signer(), metadata: key.metadata_secret(), keys, key }
    }
}

impl Access {
    pub fn new(key: Key) -> Self {
        let (role, repository) = (key.role(), key.repository());
        let (repository_key, memory_key, admin_public) = (key.repository_key(), key.memory_key(), key.admin_public());
        let (admin, reader, writer) = match key {
            Key::Admin(key) => {
                let (reader, writer) = (ReaderAccess::new(key.reader()), WriterAccess::new(key.own_writer()));
                (Some(key), Some(reader), Some(writer))
            }
            Key::Reader(key) => (None, Some(ReaderAccess::new(key)), None),
            Key::Writer(key) => (None, None, Some(WriterAccess::new(key))),
        };
        Self { role, repository, repository_key, memory_key, admin_public, admin, reader, writer }
    }

    /// The secrets of a group, if this key has them.
    pub fn group(&self, group: GroupId) -> Option<GroupKeys> {
        match (&self.reader, &self.writer) {
            (Some(reader), _) => Some(reader.key.group(group)),
            (None, Some(writer)) if writer.group == group => Some(writer.key.group()),
            _ => None,
        }
    }

    /// Whether this key was made for `recipient`.
    pub fn trusts(&self, recipient: &Recipient) -> bool {
        match (&self.reader, &self.writer) {
            (Some(reader), _) => reader.secret.public().as_bytes() == recipient.as_bytes(),
            (None, Some(writer)) => writer.key.pins(recipient),
            (None, None) => false,
        }
    }
}
