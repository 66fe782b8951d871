//! Slots: a whole key file behind a passphrase, in the store (`pack/FORMAT.md`, section 9).
//!
//! Owns the slot's bytes and its key derivation, Argon2id (RFC 9106). Parameters that come from a store are capped before memory is taken.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::names::RepositoryId;
use crate::seal::key::Key;
use crate::seal::keyfile::KeyFileError;

const MAGIC: [u8; 8] = *b"LIFESLOT";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 8 + 2 + 1 + 1 + 12 + 16 + 16 + 32;
const SLOT_BYTES_MAX: usize = 16 * 1024;

/// How hard a guess is: memory in KiB, passes, lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

/// 64 MiB, 3 passes, 4 lanes: the second choice of RFC 9106, section 4.
pub const DEFAULT_COST: Cost = Cost { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
const COST_MAX: Cost = Cost { memory_kib: 4 * 1024 * 1024, passes: 16, lanes: 16 };

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    #[error("it is no key slot")]
    NotASlot,
    #[error("the slot has version {0}, newer than this build knows; use a newer Lifeboat")]
    Version(u16),
    #[error("the slot asks for more work than is allowed ({0:?})")]
    Cost(Cost),
    #[error("the passphrase does not open the slot")]
    Passphrase,
    #[error("the slot is damaged")]
    Damaged,
    #[error(transparent)]
    Key(#[from] KeyFileError),
}

fn stretch(passphrase: &[u8], salt: &[u8], cost: Cost) -> Result<Zeroizing<[u8; 64]>, SlotError> {
    let too_much = |_| SlotError::Cost(cost);
    if cost.memory_kib > COST_MAX.memory_kib || cost.passes > COST_MAX.passes || cost.lanes > COST_MAX.lanes {
        return Err(SlotError::Cost(cost));
    }
    let params = argon2::Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(64)).map_err(too_much)?;
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut out = Zeroizing::new([0; 64]);
    argon.hash_password_into(passphrase, salt, out.as_mut_slice()).map_err(too_much)?;
    Ok(out)
}

fn cipher(stretched: &[u8; 64]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &stretched[..32]).expect("32 bytes are an AES-256 key"))
}

/// Wraps `key` behind `passphrase`. The salt is new, so the derived key seals this once.
pub fn close(key: &Key, passphrase: &[u8], cost: Cost) -> Result<Vec<u8>, SlotError> {
    let salt: [u8; 16] = super::random();
    let stretched = stretch(passphrase, &salt, cost)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + 1024);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[1, 1]);
    for number in [cost.memory_kib, cost.passes, cost.lanes] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&salt);
    bytes.extend_from_slice(&key.repository().0);
    bytes.extend_from_slice(&stretched[32..]);
    let text = key.to_text();
    let mut sealed = Zeroizing::new(text.as_bytes().to_vec());
    let tag = cipher(&stretched)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key([0; 12]), Aad::from(&bytes), sealed.as_mut_slice())
        .expect("a key file is far below the cipher's limit");
    bytes.extend_from_slice(&sealed);
    bytes.extend_from_slice(tag.as_ref());
    Ok(bytes)
}

/// The repository that a slot says it belongs to.
pub fn repository(slot: &[u8]) -> Result<RepositoryId, SlotError> {
    header(slot).map(|(_, _, repository)| repository)
}

fn header(slot: &[u8]) -> Result<(Cost, [u8; 16], RepositoryId), SlotError> {
    if slot.len() < HEADER_BYTES + 16 || slot.len() > SLOT_BYTES_MAX || slot[..8] != MAGIC {
        return Err(SlotError::NotASlot);
    }
    let version = u16::from_le_bytes([slot[8], slot[9]]);
    if version != VERSION {
        return Err(SlotError::Version(version));
    }
    if slot[10..12] != [1, 1] {
        return Err(SlotError::Damaged);
    }
    let number = |at: usize| u32::from_le_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]);
    let cost = Cost { memory_kib: number(12), passes: number(16), lanes: number(20) };
    let (mut salt, mut id) = ([0; 16], [0; 16]);
    salt.copy_from_slice(&slot[24..40]);
    id.copy_from_slice(&slot[40..56]);
    Ok((cost, salt, RepositoryId(id)))
}

/// Opens a slot.
pub fn open(slot: &[u8], passphrase: &[u8]) -> Result<Key, SlotError> {
    let (cost, salt, repository) = header(slot)?;
    let stretched = stretch(passphrase, &salt, cost)?;
    if !bool::from(stretched[32..].ct_eq(&slot[56..HEADER_BYTES])) {
        return Err(SlotError::Passphrase);
    }
    let mut sealed = Zeroizing::new(slot[HEADER_BYTES..].to_vec());
    let text = cipher(&stretched)
        .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::from(&slot[..HEADER_BYTES]), sealed.as_mut_slice())
        .map_err(|_| SlotError::Damaged)?;
    let key = Key::from_text(std::str::from_utf8(text).map_err(|_| SlotError::Damaged)?)?;
    if key.repository() == repository { Ok(key) } else { Err(SlotError::Damaged) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::key::{AdminKey, Secret};

    const CHEAP: Cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };

    fn key() -> Key {
        Key::Admin(AdminKey::from_root(RepositoryId([7; 16]), Secret::new([1; 32])))
    }

    #[test]
    fn a_slot_opens_with_its_passphrase_only() {
        let slot = close(&key(), b"correct horse", CHEAP).unwrap();
        assert_eq!(*open(&slot, b"correct horse").unwrap().to_text(), *key().to_text());
        assert_eq!(open(&slot, b"wrong horse").err(), Some(SlotError::Passphrase));
        assert_eq!(repository(&slot), Ok(RepositoryId([7; 16])));
    }

    #[test]
    fn a_flipped_bit_in_a_slot_is_found() {
        let slot = close(&key(), b"correct horse", CHEAP).unwrap();
        for at in 0..slot.len() {
            let mut bent = slot.clone();
            bent[at] ^= 1;
            assert!(open(&bent, b"correct horse").is_err(), "byte {at}");
        }
    }

    #[test]
    fn hostile_costs_are_refused_before_the_work() {
        let mut slot = close(&key(), b"correct horse", CHEAP).unwrap();
        slot[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(open(&slot, b"correct horse").err(), Some(SlotError::Cost(_))));
    }

    #[test]
    fn a_slot_of_the_first_version_opens_forever() {
        let slot = crate::names::unhex(include_str!("slot-v1.txt").trim_end()).unwrap();
        assert_eq!(*open(&slot, b"correct horse").unwrap().to_text(), *key().to_text());
    }
}
