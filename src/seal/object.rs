//! Sealed objects: everything in a repository that is neither a pack nor a slot (`pack/FORMAT.md`, section 4).
//!
//! Owns the envelope: header, commitment, segments, signature. Refuses to know what a body means.

use subtle::ConstantTimeEq;

use crate::names::{GroupId, ObjectKey, RepositoryId, WriterId};
use crate::seal::cipher::{Opener, SEGMENT_BYTES, SegmentSealer, TAG_BYTES};
use crate::seal::key::{Secret, derive};
use crate::seal::sign::{Message, PublicKey, SIGNATURE_BYTES, Signer};

pub const MAGIC: [u8; 8] = *b"LIFEBOAT";
pub const VERSION: u16 = 1;
pub const SUITE: u8 = 1;
/// The one feature of version 1, a manifest's: leaves of its trees may be stored as patches.
pub const LEAF_PATCHES: u32 = 1;
pub const HEADER_BYTES: usize = 96;
pub const TRAILER_BYTES: usize = 1 + 8 + SIGNATURE_BYTES;
const STORED_SEGMENT_BYTES: usize = SEGMENT_BYTES + TAG_BYTES;

const _: () = assert!(HEADER_BYTES == 8 + 2 + 1 + 1 + 4 + 16 + 32 + 32, "FORMAT.md, section 4");
const _: () = assert!(TRAILER_BYTES == 73, "FORMAT.md, section 4");

/// What an object is. The number stands in its header and in its key's purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ObjectKind {
    Config = 1,
    Certificate = 2,
    Revocation = 3,
    Session = 4,
    Delta = 5,
    Segment = 6,
    Manifest = 7,
    Fence = 8,
    Epoch = 9,
    Verdict = 10,
    Mark = 12,
}

impl ObjectKind {
    fn from_number(number: u8) -> Option<Self> {
        use ObjectKind::*;
        [Config, Certificate, Revocation, Session, Delta, Segment, Manifest, Fence, Epoch, Verdict, Mark]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// Who signed an object, as it claims; `Envelope::verify` proves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedBy {
    Admin,
    /// The admin, of what concerns one group: an index segment.
    AdminFor(GroupId),
    Writer(WriterId),
}

impl SignedBy {
    fn trailer(self) -> [u8; 9] {
        let (number, id) = match self {
            Self::Admin => (1, [0; 8]),
            Self::Writer(writer) => (2, writer.0),
            Self::AdminFor(group) => (3, group.0),
        };
        let mut bytes = [number; 9];
        bytes[1..].copy_from_slice(&id);
        bytes
    }

    /// What the last `TRAILER_BYTES` of an object say.
    pub fn of_trailer(trailer: &[u8]) -> Result<Self, ObjectError> {
        let bytes: &[u8; 9] = trailer.first_chunk().ok_or(ObjectError::Short)?;
        let mut id = [0; 8];
        id.copy_from_slice(&bytes[1..]);
        match bytes[0] {
            1 if id == [0; 8] => Ok(Self::Admin),
            2 => Ok(Self::Writer(WriterId(id))),
            3 => Ok(Self::AdminFor(GroupId(id))),
            _ => Err(ObjectError::Signature),
        }
    }
}

/// Why an object is not what it should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    #[error("it is no Lifeboat object")]
    NotAnObject,
    #[error("it is cut short")]
    Short,
    #[error("it has format version {0}, newer than this build knows; use a newer Lifeboat")]
    Version(u16),
    #[error("it needs a feature that this build does not have (bits {0:#x}); use a newer Lifeboat")]
    Features(u32),
    #[error("it belongs to repository {0}")]
    OtherRepository(RepositoryId),
    #[error("it is an object of another kind (number {0})")]
    Kind(u8),
    #[error("its signature does not verify")]
    Signature,
    #[error("the key does not open it")]
    Key,
    #[error("its content is damaged")]
    Damaged,
    #[error("its content makes no sense: {0}")]
    Body(String),
}

fn keys(base: &Secret, header: &[u8], key: &ObjectKey) -> (Secret, [u8; 32]) {
    // header: version at 8..10, kind at 10, repository at 16..32, salt at 32..64
    let mut material = zeroize::Zeroizing::new(base.expose().to_vec());
    material.push(header[10]);
    let purpose = derive("object purpose", &material);
    let mut hasher = blake3::Hasher::new_keyed(purpose.expose());
    hasher.update(&header[16..32]).update(&header[10..11]).update(&header[8..10]).update(&header[32..64]);
    hasher.update(key.as_str().as_bytes());
    let mut out = zeroize::Zeroizing::new([0; 64]);
    hasher.finalize_xof().fill(out.as_mut_slice());
    let (mut secret, mut commitment) = ([0; 32], [0; 32]);
    secret.copy_from_slice(&out[..32]);
    commitment.copy_from_slice(&out[32..]);
    (Secret::new(secret), commitment)
}

fn aad(header: &[u8], key: &ObjectKey) -> Vec<u8> {
    [&header[..HEADER_BYTES], key.as_str().as_bytes()].concat()
}

/// Where an object will stand, what it is, and who answers for it.
pub struct Identity<'a> {
    pub kind: ObjectKind,
    pub repository: RepositoryId,
    pub key: &'a ObjectKey,
    /// The key that its readers hold: the repository key, or a group's index key.
    pub base: &'a Secret,
    pub by: SignedBy,
    pub signer: &'a Signer,
    /// Bits of what a reader must know.
    pub features: u32,
}

/// Seals and signs `body`.
pub fn seal(identity: &Identity<'_>, body: &[u8]) -> Vec<u8> {
    let segments = body.len().div_ceil(SEGMENT_BYTES).max(1);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len() + segments * TAG_BYTES + TRAILER_BYTES);
    let mut sealing = Sealing::new(identity, &mut bytes);
    let mut rest = body;
    while rest.len() > SEGMENT_BYTES {
        let (piece, after) = rest.split_at(SEGMENT_BYTES);
        sealing.push(piece, &mut bytes);
        rest = after;
    }
    sealing.finish(identity, rest, &mut bytes);
    bytes
}

/// An object being sealed segment by segment. Each call appends to `out`, which may be drained between calls.
pub struct Sealing {
    sealer: SegmentSealer,
    message: Message,
}

impl Sealing {
    pub fn new(identity: &Identity<'_>, out: &mut Vec<u8>) -> Self {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.push(identity.kind as u8);
        header.push(SUITE);
        header.extend_from_slice(&identity.features.to_le_bytes());
        header.extend_from_slice(&identity.repository.0);
        header.extend_from_slice(&super::random::<32>());
        let (secret, commitment) = keys(identity.base, &header, identity.key);
        header.extend_from_slice(&commitment);
        out.extend_from_slice(&header);
        let message = Message::new(identity.repository, identity.key).with(&header);
        Self { sealer: SegmentSealer::new(&secret, aad(&header, identity.key)), message }
    }

    /// Adds a segment of exactly `SEGMENT_BYTES`.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        self.sealer.seal(piece, out);
        self.message.add(&out[start..]);
    }

    /// Adds the last segment, at most `SEGMENT_BYTES`, and signs. `identity` is the one it began with.
    pub fn finish(mut self, identity: &Identity<'_>, piece: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        self.sealer.finish(piece, out);
        out.extend_from_slice(&identity.by.trailer());
        self.message.add(&out[start..]);
        let signature = identity.signer.sign(&self.message);
        out.extend_from_slice(&signature);
    }
}

/// The checked header of an object: enough to open its segments one by one.
pub struct Header {
    pub kind: ObjectKind,
    bytes: [u8; HEADER_BYTES],
}

impl Header {
    /// Reads and checks the first `HEADER_BYTES` of an object that should be a `kind` of `repository`.
    pub fn parse(bytes: &[u8], repository: RepositoryId) -> Result<Self, ObjectError> {
        let header: [u8; HEADER_BYTES] =
            bytes.get(..HEADER_BYTES).and_then(|b| b.try_into().ok()).ok_or(ObjectError::Short)?;
        if header[..8] != MAGIC {
            return Err(ObjectError::NotAnObject);
        }
        let version = u16::from_le_bytes([header[8], header[9]]);
        if version != VERSION {
            return Err(ObjectError::Version(version));
        }
        let features = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
        let known = if header[10] == ObjectKind::Manifest as u8 { LEAF_PATCHES } else { 0 };
        if features & !known != 0 || header[11] != SUITE {
            return Err(ObjectError::Features(features & !known));
        }
        let mut home = [0; 16];
        home.copy_from_slice(&header[16..32]);
        if home != repository.0 {
            return Err(ObjectError::OtherRepository(RepositoryId(home)));
        }
        let kind = ObjectKind::from_number(header[10]).ok_or(ObjectError::Kind(header[10]))?;
        Ok(Self { kind, bytes: header })
    }

    /// The cipher of the object at `key`, if `base` is its key.
    pub fn opener(&self, key: &ObjectKey, base: &Secret) -> Result<SegmentOpener, ObjectError> {
        let (secret, commitment) = keys(base, &self.bytes, key);
        if !bool::from(commitment.ct_eq(&self.bytes[64..96])) {
            return Err(ObjectError::Key);
        }
        Ok(SegmentOpener { opener: Opener::new(&secret), aad: aad(&self.bytes, key) })
    }
}

/// The repository that an object says it belongs to; whoever has the key checks that.
pub fn home_of(bytes: &[u8]) -> Option<RepositoryId> {
    let header = bytes.get(..HEADER_BYTES).filter(|header| header[..8] == MAGIC)?;
    header[16..32].try_into().ok().map(RepositoryId)
}

/// Whether `signer` signed the object at `key`, whatever version or features it has. Trailers stay where they are.
pub fn is_signed(bytes: &[u8], key: &ObjectKey, repository: RepositoryId, signer: PublicKey) -> bool {
    bytes
        .split_last_chunk::<SIGNATURE_BYTES>()
        .is_some_and(|(signed, signature)| signer.verifies(&Message::new(repository, key).with(signed), signature))
}

/// Opens the segments of one object, in any order.
pub struct SegmentOpener {
    opener: Opener,
    aad: Vec<u8>,
}

impl SegmentOpener {
    /// Opens `stored` (with its tag), segment `number` of an object with `segments`.
    pub fn open<'a>(&self, number: u64, segments: u64, stored: &'a mut [u8]) -> Result<&'a mut [u8], ObjectError> {
        let last = number + 1 == segments;
        self.opener.open_segment(number, last, &self.aad, stored).map_err(|_| ObjectError::Damaged)
    }
}

/// Where segment `number` lies in an object of `size` bytes, and how many segments it has; none if it has no such segment.
pub fn segment_range(size: u64, number: u64) -> Option<(std::ops::Range<u64>, u64)> {
    let body = size.checked_sub((HEADER_BYTES + TRAILER_BYTES) as u64)?;
    let segments = body.div_ceil(STORED_SEGMENT_BYTES as u64);
    if number >= segments {
        return None;
    }
    let start = HEADER_BYTES as u64 + number * STORED_SEGMENT_BYTES as u64;
    Some((start..(start + STORED_SEGMENT_BYTES as u64).min(HEADER_BYTES as u64 + body), segments))
}

/// A whole object whose header is checked, whose signature is not yet.
pub struct Envelope<'a> {
    pub header: Header,
    pub signed_by: SignedBy,
    bytes: &'a [u8],
    key: &'a ObjectKey,
    repository: RepositoryId,
}

impl<'a> Envelope<'a> {
    pub fn parse(bytes: &'a [u8], key: &'a ObjectKey, repository: RepositoryId) -> Result<Self, ObjectError> {
        let header = Header::parse(bytes, repository)?;
        if bytes.len() < HEADER_BYTES + TAG_BYTES + TRAILER_BYTES {
            return Err(ObjectError::Short);
        }
        let signed_by = SignedBy::of_trailer(&bytes[bytes.len() - TRAILER_BYTES..])?;
        Ok(Self { header, signed_by, bytes, key, repository })
    }

    /// Proves that the holder of `signer` wrote these bytes at this key.
    pub fn verify(&self, signer: PublicKey) -> Result<(), ObjectError> {
        let (signed, signature) = self.bytes.split_at(self.bytes.len() - SIGNATURE_BYTES);
        let message = Message::new(self.repository, self.key).with(signed);
        if signer.verifies(&message, signature) { Ok(()) } else { Err(ObjectError::Signature) }
    }

    /// The body, whole.
    pub fn open(&self, base: &Secret) -> Result<Vec<u8>, ObjectError> {
        let opener = self.header.opener(self.key, base)?;
        let body = &self.bytes[HEADER_BYTES..self.bytes.len() - TRAILER_BYTES];
        opener.opener.open_segments(&opener.aad, body).map_err(|_| ObjectError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: RepositoryId = RepositoryId([1; 16]);

    fn sealed(body: &[u8]) -> (Vec<u8>, ObjectKey, Secret, Signer) {
        let key: ObjectKey = "config/00000000".parse().unwrap();
        let base = Secret::new([4; 32]);
        let signer = Signer::from_seed(&Secret::new([5; 32]));
        let identity = Identity {
            kind: ObjectKind::Config,
            repository: HOME,
            key: &key,
            base: &base,
            by: SignedBy::Admin,
            signer: &signer,
            features: 0,
        };
        (seal(&identity, body), key, base, signer)
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found() {
        let (bytes, key, base, signer) = sealed(&[7; 5000]);
        let read = |bytes: &[u8]| -> Result<Vec<u8>, ObjectError> {
            let envelope = Envelope::parse(bytes, &key, HOME)?;
            envelope.verify(signer.public())?;
            envelope.open(&base)
        };
        assert_eq!(read(&bytes).unwrap(), [7; 5000]);
        for at in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[at] ^= 1 << (at % 8);
            assert!(read(&bent).is_err(), "byte {at}");
        }
        assert!(read(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn an_object_cannot_stand_under_another_key_nor_open_with_another() {
        let (bytes, key, base, signer) = sealed(b"body");
        let elsewhere: ObjectKey = "config/00000001".parse().unwrap();
        let moved = Envelope::parse(&bytes, &elsewhere, HOME).unwrap();
        assert_eq!(moved.verify(signer.public()), Err(ObjectError::Signature));
        assert_eq!(moved.open(&base), Err(ObjectError::Key));
        let own = Envelope::parse(&bytes, &key, HOME).unwrap();
        assert_eq!(own.open(&Secret::new([9; 32])), Err(ObjectError::Key));
        let other = Envelope::parse(&bytes, &key, RepositoryId([2; 16])).err();
        assert_eq!(other, Some(ObjectError::OtherRepository(HOME)));
    }

    #[test]
    fn a_newer_version_and_an_unknown_feature_are_named() {
        let (mut bytes, key, ..) = sealed(b"body");
        for features in [1, 2] {
            bytes[12] = features;
            assert_eq!(Envelope::parse(&bytes, &key, HOME).err(), Some(ObjectError::Features(u32::from(features))));
        }
        // A manifest may have leaf patches, and nothing else.
        bytes[10] = ObjectKind::Manifest as u8;
        bytes[12] = 3;
        assert_eq!(Envelope::parse(&bytes, &key, HOME).err(), Some(ObjectError::Features(2)));
        bytes[12] = 1;
        assert!(Envelope::parse(&bytes, &key, HOME).is_ok());
        bytes[8] = 2;
        assert_eq!(Envelope::parse(&bytes, &key, HOME).err(), Some(ObjectError::Version(2)));
    }

    #[test]
    fn a_signature_is_known_whatever_the_version() {
        let (mut bytes, key, _, signer) = sealed(b"body");
        assert!(is_signed(&bytes, &key, HOME, signer.public()));
        bytes[8] = 2;
        assert!(!is_signed(&bytes, &key, HOME, signer.public()));
        let at = bytes.len() - SIGNATURE_BYTES;
        let again = signer.sign(&Message::new(HOME, &key).with(&bytes[..at]));
        bytes[at..].copy_from_slice(&again);
        assert!(is_signed(&bytes, &key, HOME, signer.public()));
        assert!(!is_signed(&bytes[..9], &key, HOME, signer.public()));
    }

    #[test]
    fn segments_open_one_by_one() {
        let (bytes, key, base, _) = sealed(&[3; 9000]);
        let header = Header::parse(&bytes, HOME).unwrap();
        let opener = header.opener(&key, &base).unwrap();
        let mut whole = Vec::new();
        for number in 0..3 {
            let (range, segments) = segment_range(bytes.len() as u64, number).unwrap();
            let mut stored = bytes[range.start as usize..range.end as usize].to_vec();
            whole.extend_from_slice(opener.open(number, segments, &mut stored).unwrap());
        }
        assert_eq!(whole, [3; 9000]);
        assert!(segment_range(bytes.len() as u64, 3).is_none());
    }
}
