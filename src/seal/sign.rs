//! Signatures: Ed25519 (RFC 8032) over a domain-separated hash.
//!
//! Owns the message that is signed. Refuses to say who may sign what: that is `pack`'s and the repository's.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::names::{ObjectKey, RepositoryId};
use crate::seal::key::Secret;

pub const SIGNATURE_BYTES: usize = 64;

/// A public key: 32 bytes as RFC 8032 encodes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

/// A private signing key.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    pub fn from_seed(seed: &Secret) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("any 32 bytes are an Ed25519 seed"))
    }

    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs what was added to `message`.
    pub fn sign(&self, message: &Message) -> [u8; SIGNATURE_BYTES] {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(self.0.sign(&message.bytes()).as_ref());
        signature
    }
}

impl PublicKey {
    pub fn verifies(self, message: &Message, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(&message.bytes(), signature).is_ok()
    }
}

const DOMAIN: &str = "lifeboat v1 signature";

/// What a signature covers: a repository, an object's key and the object's bytes, which may come piece by piece.
pub struct Message(blake3::Hasher);

impl Message {
    pub fn new(repository: RepositoryId, key: &ObjectKey) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(DOMAIN);
        hasher.update(&repository.0);
        let name = key.as_str().as_bytes();
        hasher.update(&(name.len() as u16).to_le_bytes()); // ObjectKey is at most 512 bytes
        hasher.update(name);
        Self(hasher)
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn with(mut self, bytes: &[u8]) -> Self {
        self.add(bytes);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        [DOMAIN.as_bytes(), self.0.finalize().as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_repository_key_and_bytes_only() {
        let signer = Signer::from_seed(&Secret::new([5; 32]));
        let key: ObjectKey = "s/00000000-aa".parse().unwrap();
        let other: ObjectKey = "s/00000000-ab".parse().unwrap();
        let home = RepositoryId([1; 16]);
        let message = |home, key, bytes: &[u8]| Message::new(home, key).with(bytes);
        let signature = signer.sign(&message(home, &key, b"bytes"));
        let public = signer.public();
        assert!(public.verifies(&message(home, &key, b"by").with(b"tes"), &signature));
        assert!(!public.verifies(&message(RepositoryId([2; 16]), &key, b"bytes"), &signature));
        assert!(!public.verifies(&message(home, &other, b"bytes"), &signature));
        assert!(!public.verifies(&message(home, &key, b"bytez"), &signature));
        let stranger = Signer::from_seed(&Secret::new([6; 32])).public();
        assert!(!stranger.verifies(&message(home, &key, b"bytes"), &signature));
    }

    #[test]
    fn a_signature_stays_what_it_was() {
        let signer = Signer::from_seed(&Secret::new([5; 32]));
        let key: ObjectKey = "s/00000000-aa".parse().unwrap();
        let signature = signer.sign(&Message::new(RepositoryId([1; 16]), &key).with(b"bytes"));
        let vector = "ce5ac9fc337a89268fc1fc76eddb21c305202b5a78a65cc008193b8868f6c0e091ac72cfc98921b9d5e01b8d259ca3a11c44ad8efa779176bdae83a8364c9407";
        assert_eq!(crate::names::hex(&signature), vector);
    }

    #[test]
    fn the_first_vector_of_rfc_8032_holds() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let seed: [u8; 32] = crate::names::unhex(seed).unwrap().try_into().unwrap();
        assert_eq!(crate::names::hex(&Signer::from_seed(&Secret::new(seed)).public().0), public);
    }
}
