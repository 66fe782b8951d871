//! Stanzas: a 32-byte key wrapped for one holder of a private key (`pack/FORMAT.md`, section 5).
//!
//! Owns HPKE base mode with X-Wing (RFC 9180; draft-connolly-cfrg-xwing-kem). Refuses data: only keys are wrapped.

use std::convert::Infallible;

use hpke::inout::InOutBuf;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, aead::AeadTag, aead::AesGcm256, kdf::HkdfSha256, kem::XWing,
};
use zeroize::Zeroize;

use crate::names::RepositoryId;
use crate::seal::key::Secret;

/// Bytes of a stanza: version, encapsulated key, wrapped key, tag.
pub const STANZA_BYTES: usize = 1 + 1120 + 32 + 16;
/// Bytes of a recipient's public key.
pub const PUBLIC_BYTES: usize = 1216;
const VERSION: u8 = 1;

/// What the wrapped key opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Use {
    DataPack = 1,
    MetadataPack = 2,
    ManifestBody = 3,
}

/// Whom a stanza is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum To {
    Recipient = 1,
    Writer = 2,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StanzaError {
    #[error("the key stanza has version {0}, which this build does not know")]
    Version(u8),
    #[error("the key stanza is damaged, or was made for another key")]
    Refused,
}

/// A public key that keys are wrapped to.
#[derive(Clone)]
pub struct Recipient {
    key: <XWing as Kem>::PublicKey,
    bytes: Vec<u8>,
}

/// Its private half.
pub struct RecipientSecret {
    secret: <XWing as Kem>::PrivateKey,
    public: <XWing as Kem>::PublicKey,
}

/// Where all key material comes from, as the cipher's library asks for it.
struct Drawn;

impl TryRng for Drawn {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(super::random()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(super::random()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        super::fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Drawn {}

fn info(repository: RepositoryId, purpose: Use, to: To) -> Vec<u8> {
    let mut info = b"lifeboat v1 stanza".to_vec();
    info.extend_from_slice(&repository.0);
    info.push(purpose as u8);
    info.push(to as u8);
    info
}

impl Recipient {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StanzaError> {
        let key = <XWing as Kem>::PublicKey::from_bytes(bytes).map_err(|_| StanzaError::Refused)?;
        Ok(Self { key, bytes: bytes.to_vec() })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.bytes).as_bytes()
    }

    /// Wraps `key`. `aad` names what the key belongs to.
    pub fn wrap(&self, repository: RepositoryId, purpose: Use, to: To, aad: &[u8], key: &Secret) -> Vec<u8> {
        let mut wrapped = *key.expose();
        let sealed = hpke::single_shot_seal_inout_detached_with_rng::<AesGcm256, HkdfSha256, XWing>(
            &OpModeS::Base,
            &self.key,
            &info(repository, purpose, to),
            InOutBuf::from(wrapped.as_mut_slice()),
            aad,
            &mut Drawn,
        );
        // The public key was checked when it was parsed, and 32 bytes are no message that a cipher could refuse.
        let (encapsulated, tag) = sealed.expect("a checked recipient accepts a key");
        let mut stanza = Vec::with_capacity(STANZA_BYTES);
        stanza.push(VERSION);
        stanza.extend_from_slice(&encapsulated.to_bytes());
        stanza.extend_from_slice(&wrapped);
        stanza.extend_from_slice(&tag.to_bytes());
        stanza
    }
}

impl RecipientSecret {
    pub fn from_seed(seed: &Secret) -> Self {
        let (secret, public) = XWing::derive_keypair(seed.expose());
        Self { secret, public }
    }

    pub fn public(&self) -> Recipient {
        Recipient { bytes: self.public.to_bytes().to_vec(), key: self.public.clone() }
    }

    pub fn unwrap(
        &self,
        repository: RepositoryId,
        purpose: Use,
        to: To,
        aad: &[u8],
        stanza: &[u8],
    ) -> Result<Secret, StanzaError> {
        if stanza.len() != STANZA_BYTES {
            return Err(StanzaError::Refused);
        }
        if stanza[0] != VERSION {
            return Err(StanzaError::Version(stanza[0]));
        }
        let refused = |_| StanzaError::Refused;
        let encapsulated = <XWing as Kem>::EncappedKey::from_bytes(&stanza[1..1121]).map_err(refused)?;
        let mut key = [0; 32];
        key.copy_from_slice(&stanza[1121..1153]);
        let tag = AeadTag::<AesGcm256>::from_bytes(&stanza[1153..]).map_err(refused)?;
        hpke::single_shot_open_inout_detached::<AesGcm256, HkdfSha256, XWing>(
            &OpModeR::Base,
            &self.secret,
            &encapsulated,
            &info(repository, purpose, to),
            InOutBuf::from(key.as_mut_slice()),
            aad,
            &tag,
        )
        .map_err(refused)?;
        let secret = Secret::new(key);
        key.zeroize();
        Ok(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_opens_for_its_recipient_use_and_owner_only() {
        let mine = RecipientSecret::from_seed(&Secret::new([1; 32]));
        let other = RecipientSecret::from_seed(&Secret::new([2; 32]));
        let home = RepositoryId([3; 16]);
        let stanza = mine.public().wrap(home, Use::DataPack, To::Recipient, b"group", &Secret::new([9; 32]));
        assert_eq!(stanza.len(), STANZA_BYTES);
        assert_eq!(mine.public().as_bytes().len(), PUBLIC_BYTES);
        let open = |secret: &RecipientSecret, home, purpose, to, aad: &[u8], stanza: &[u8]| {
            secret.unwrap(home, purpose, to, aad, stanza).map(|key| *key.expose())
        };
        assert_eq!(open(&mine, home, Use::DataPack, To::Recipient, b"group", &stanza), Ok([9; 32]));
        let refused = Err(StanzaError::Refused);
        assert_eq!(open(&other, home, Use::DataPack, To::Recipient, b"group", &stanza), refused);
        assert_eq!(open(&mine, RepositoryId([4; 16]), Use::DataPack, To::Recipient, b"group", &stanza), refused);
        assert_eq!(open(&mine, home, Use::MetadataPack, To::Recipient, b"group", &stanza), refused);
        assert_eq!(open(&mine, home, Use::DataPack, To::Writer, b"group", &stanza), refused);
        assert_eq!(open(&mine, home, Use::DataPack, To::Recipient, b"grouq", &stanza), refused);
        for at in [0, 1, 600, 1121, 1168] {
            let mut bent = stanza.clone();
            bent[at] ^= 1;
            assert!(open(&mine, home, Use::DataPack, To::Recipient, b"group", &bent).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_stanza_of_the_first_version_opens_forever() {
        let mine = RecipientSecret::from_seed(&Secret::new([1; 32]));
        let stanza = crate::names::unhex(include_str!("stanza-v1.txt").trim_end()).unwrap();
        let key = mine.unwrap(RepositoryId([3; 16]), Use::DataPack, To::Recipient, b"group", &stanza).unwrap();
        assert_eq!(key.expose(), &[9; 32]);
    }
}
