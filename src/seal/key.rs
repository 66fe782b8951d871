//! Keys by role, and everything derived from them (`pack/FORMAT.md`, section 3).
//!
//! Owns the derivations. Refuses text forms (`keyfile`) and ciphers (`cipher`).

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::names::{ChunkId, GroupId, RepositoryId, WriterId};
use crate::seal::sign::{PublicKey, Signer};
use crate::seal::stanza::{Recipient, RecipientSecret};

/// 32 secret bytes that wipe themselves.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn random() -> Self {
        Self(super::random())
    }

    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Another holder of the same secret, said aloud where it happens.
    pub fn duplicate(&self) -> Self {
        Self(self.0)
    }

    pub fn equals(&self, other: &Secret) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// BLAKE3 `derive_key` in Lifeboat's own context.
pub fn derive(purpose: &str, material: &[u8]) -> Secret {
    let mut hasher = blake3::Hasher::new_derive_key(&format!("lifeboat v1 {purpose}"));
    hasher.update(material);
    let secret = Secret(*hasher.finalize().as_bytes());
    hasher.zeroize();
    secret
}

fn join(a: &[u8], b: &[u8]) -> zeroize::Zeroizing<Vec<u8>> {
    zeroize::Zeroizing::new([a, b].concat())
}

/// What the admin key file holds: the root of everything.
pub struct AdminKey {
    pub repository: RepositoryId,
    root: Secret,
}

/// What a reader key file holds: it opens everything and signs nothing.
pub struct ReaderKey {
    pub repository: RepositoryId,
    pub(super) repository_key: Secret,
    pub(super) recipient_seed: Secret,
    pub(super) group_root: Secret,
    pub(super) admin: PublicKey,
}

/// What a writer key file holds: it adds to its group and reads its own names and attributes.
pub struct WriterKey {
    pub repository: RepositoryId,
    pub(super) repository_key: Secret,
    pub(super) group: GroupId,
    pub(super) group_secret: Secret,
    pub(super) seed: Secret,
    pub(super) admin: PublicKey,
    pub(super) recipient_hash: [u8; 32],
}

/// Any key file.
pub enum Key {
    Admin(AdminKey),
    Reader(ReaderKey),
    Writer(WriterKey),
}

/// The three roles, as people write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Admin,
    Reader,
    Writer,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Reader => "reader",
            Role::Writer => "writer",
        }
    }
}

impl AdminKey {
    pub fn generate() -> Self {
        Self { repository: RepositoryId(super::random()), root: Secret::random() }
    }

    pub fn from_root(repository: RepositoryId, root: Secret) -> Self {
        Self { repository, root }
    }

    pub(super) fn root(&self) -> &Secret {
        &self.root
    }

    pub fn signer(&self) -> Signer {
        Signer::from_seed(&derive("admin signing seed", self.root.expose()))
    }

    fn group_root(&self) -> Secret {
        derive("group root", self.root.expose())
    }

    /// The id of a group that people named. Not secret, and the same whenever the name is given again.
    pub fn named_group(&self, name: &str) -> GroupId {
        let key = derive("group name key", self.root.expose());
        let mut id = [0; 8];
        id.copy_from_slice(&blake3::keyed_hash(key.expose(), name.as_bytes()).as_bytes()[..8]);
        GroupId(id)
    }

    fn recipient_secret(&self) -> RecipientSecret {
        RecipientSecret::from_seed(&derive("recipient seed", self.root.expose()))
    }

    /// A reader of everything, also of groups made later.
    pub fn reader(&self) -> ReaderKey {
        ReaderKey {
            repository: self.repository,
            repository_key: derive("repository key", self.root.expose()),
            recipient_seed: derive("recipient seed", self.root.expose()),
            group_root: self.group_root(),
            admin: self.signer().public(),
        }
    }

    /// A writer of `group` with the identity of `seed`.
    pub fn writer(&self, group: GroupId, seed: Secret) -> WriterKey {
        WriterKey {
            repository: self.repository,
            repository_key: derive("repository key", self.root.expose()),
            group,
            group_secret: group_secret(&self.group_root(), group),
            seed,
            admin: self.signer().public(),
            recipient_hash: self.recipient_secret().public().hash(),
        }
    }

    /// The admin's own identity as a writer.
    pub fn own_writer(&self) -> WriterKey {
        self.writer(self.named_group(DEFAULT_GROUP), derive("admin writer seed", self.root.expose()))
    }
}

/// The group that the admin's own backups belong to.
pub const DEFAULT_GROUP: &str = "default";

fn group_secret(group_root: &Secret, group: GroupId) -> Secret {
    Secret(*blake3::keyed_hash(group_root.expose(), &group.0).as_bytes())
}

impl ReaderKey {
    pub fn group(&self, group: GroupId) -> GroupKeys {
        GroupKeys { id: group, secret: group_secret(&self.group_root, group) }
    }

    pub fn recipient_secret(&self) -> RecipientSecret {
        RecipientSecret::from_seed(&self.recipient_seed)
    }
}

impl WriterKey {
    pub fn writer_id(&self) -> WriterId {
        let mut id = [0; 8];
        id.copy_from_slice(&derive("writer id", self.seed.expose()).0[..8]);
        WriterId(id)
    }

    pub fn signer(&self) -> Signer {
        Signer::from_seed(&derive("writer signing seed", self.seed.expose()))
    }

    pub fn metadata_secret(&self) -> RecipientSecret {
        RecipientSecret::from_seed(&derive("writer metadata seed", self.seed.expose()))
    }

    pub fn group(&self) -> GroupKeys {
        GroupKeys { id: self.group, secret: self.group_secret.duplicate() }
    }

    /// Whether `recipient` is the one that this key was exported for.
    pub fn pins(&self, recipient: &Recipient) -> bool {
        self.recipient_hash.ct_eq(&recipient.hash()).into()
    }
}

impl Key {
    pub fn role(&self) -> Role {
        match self {
            Key::Admin(_) => Role::Admin,
            Key::Reader(_) => Role::Reader,
            Key::Writer(_) => Role::Writer,
        }
    }

    pub fn repository(&self) -> RepositoryId {
        match self {
            Key::Admin(key) => key.repository,
            Key::Reader(key) => key.repository,
            Key::Writer(key) => key.repository,
        }
    }

    /// The key that opens what every role may open.
    pub fn repository_key(&self) -> Secret {
        match self {
            Key::Admin(key) => derive("repository key", key.root.expose()),
            Key::Reader(key) => key.repository_key.duplicate(),
            Key::Writer(key) => key.repository_key.duplicate(),
        }
    }

    /// Seals what a host remembers for itself. An admin's and a reader's are one; no other host's key gives a writer's.
    pub fn memory_key(&self) -> Secret {
        match self {
            Key::Admin(key) => derive("memory of readers", derive("recipient seed", key.root.expose()).expose()),
            Key::Reader(key) => derive("memory of readers", key.recipient_seed.expose()),
            Key::Writer(key) => derive("memory of a writer", key.seed.expose()),
        }
    }

    /// The admin's public key: where trust starts.
    pub fn admin_public(&self) -> PublicKey {
        match self {
            Key::Admin(key) => key.signer().public(),
            Key::Reader(key) => key.admin,
            Key::Writer(key) => key.admin,
        }
    }
}

/// The secrets of one dedup group.
pub struct GroupKeys {
    pub id: GroupId,
    secret: Secret,
}

impl GroupKeys {
    pub fn index_key(&self) -> Secret {
        derive("index key", self.secret.expose())
    }

    pub fn chunk_seed(&self) -> Secret {
        derive("chunk seed", self.secret.expose())
    }

    pub fn ids(&self, writer: WriterId) -> IdKeys {
        IdKeys {
            data: derive("data id key", self.secret.expose()),
            tree: derive("tree id key", &join(self.secret.expose(), &writer.0)),
            list: derive("list id key", &join(self.secret.expose(), &writer.0)),
            cut: derive("tree cut key", self.secret.expose()),
        }
    }
}

/// Names content: one key for each kind, so that no file can pose as a node.
pub struct IdKeys {
    data: Secret,
    tree: Secret,
    list: Secret,
    cut: Secret,
}

impl IdKeys {
    pub fn data(&self, plaintext: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(self.data.expose(), plaintext).as_bytes())
    }

    pub fn tree(&self, plaintext: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(self.tree.expose(), plaintext).as_bytes())
    }

    pub fn list(&self, plaintext: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(self.list.expose(), plaintext).as_bytes())
    }

    /// The number that decides whether a leaf ends after a path.
    pub fn cut(&self, last_parts: &[u8]) -> u32 {
        let hash = blake3::keyed_hash(self.cut.expose(), last_parts);
        let mut first = [0; 4];
        first.copy_from_slice(&hash.as_bytes()[..4]);
        u32::from_le_bytes(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::hex;

    fn admin() -> AdminKey {
        AdminKey::from_root(RepositoryId([7; 16]), Secret::new([1; 32]))
    }

    #[test]
    fn derivations_are_those_of_the_format() {
        let root = [1u8; 32];
        let by_hand = |context: &str, material: &[u8]| blake3::derive_key(&format!("lifeboat v1 {context}"), material);
        let group_root = by_hand("group root", &root);
        let secret = *blake3::keyed_hash(&group_root, &[9; 8]).as_bytes();
        let keys = admin().reader().group(GroupId([9; 8]));
        assert_eq!(keys.index_key().expose(), &by_hand("index key", &secret));
        assert_eq!(keys.chunk_seed().expose(), &by_hand("chunk seed", &secret));
        let ids = keys.ids(WriterId([3; 8]));
        assert_eq!(ids.data(b"x").0, *blake3::keyed_hash(&by_hand("data id key", &secret), b"x").as_bytes());
        let with_writer = [&secret[..], &[3; 8]].concat();
        assert_eq!(ids.tree(b"x").0, *blake3::keyed_hash(&by_hand("tree id key", &with_writer), b"x").as_bytes());
        assert_eq!(ids.list(b"x").0, *blake3::keyed_hash(&by_hand("list id key", &with_writer), b"x").as_bytes());
    }

    #[test]
    fn vectors_stay_what_they_were() {
        let admin = admin();
        let writer = admin.own_writer();
        let ids = writer.group().ids(writer.writer_id());
        let shown = [
            hex(admin.named_group("default").0.as_slice()),
            hex(&writer.writer_id().0),
            hex(&admin.signer().public().0),
            hex(&writer.signer().public().0),
            hex(&writer.recipient_hash),
            hex(Key::Admin(admin).repository_key().expose()),
            ids.data(b"lifeboat").to_string(),
            ids.tree(b"lifeboat").to_string(),
            ids.list(b"lifeboat").to_string(),
            format!("{:08x}", ids.cut(b"etc/fstab")),
        ];
        assert_eq!(shown.join("\n"), include_str!("vectors.txt").trim_end());
    }

    #[test]
    fn all_roles_of_one_group_name_content_alike() {
        let admin = admin();
        let writer = admin.own_writer();
        let reader = admin.reader().group(writer.group().id);
        let id = writer.writer_id();
        assert_eq!(writer.group().ids(id).data(b"a"), reader.ids(id).data(b"a"));
        assert_ne!(reader.ids(id).data(b"a"), reader.ids(id).tree(b"a"));
        assert_ne!(reader.ids(id).tree(b"a"), reader.ids(WriterId([0; 8])).tree(b"a"));
        assert_ne!(admin.reader().group(GroupId([1; 8])).ids(id).data(b"a"), reader.ids(id).data(b"a"));
    }
}
