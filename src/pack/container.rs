//! Packs: frames of chunks under one random key (`FORMAT.md`, section 6).
//!
//! Owns header, frames, table and footer. Refuses stores and compression: frames come in compressed, bytes go out to whoever stores them.

use subtle::ConstantTimeEq;

use crate::names::{ChunkId, GroupId, PackId, RepositoryId, WriterId};
use crate::pack::wire::{Malformed, Reader};
use crate::seal::cipher::{FrameSealer, Opener, TAG_BYTES, pack_commitment};
use crate::seal::key::Secret;
use crate::seal::stanza::{Recipient, RecipientSecret, STANZA_BYTES, StanzaError, To, Use};

pub const MAGIC: [u8; 8] = *b"LIFEPACK";
pub const FOOTER_MAGIC: [u8; 4] = *b"KCAP";
pub const FOOTER_BYTES: usize = 16;
const AAD_BYTES: usize = 40;
const HEADER_BYTES: usize = 72;
/// Bytes of a data pack before its first frame.
pub const DATA_HEAD_BYTES: usize = HEADER_BYTES + STANZA_BYTES;
/// Bytes of a metadata pack before its first frame.
pub const METADATA_HEAD_BYTES: usize = HEADER_BYTES + 2 * STANZA_BYTES;
/// A pack is closed once it reaches its size, so it is at most that and one frame; no reader believes in larger ones.
pub const PACK_BYTES_MAX: u64 = 1 << 30;

/// Whose pack it is, and so who opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A data pack: opened by the recipient only.
    Group(GroupId),
    /// A metadata pack: opened by the recipient and by its writer.
    Writer(WriterId),
}

impl Owner {
    pub fn kind(self) -> PackKind {
        match self {
            Owner::Group(_) => PackKind::Data,
            Owner::Writer(_) => PackKind::Metadata,
        }
    }

    fn bytes(self) -> [u8; 8] {
        match self {
            Owner::Group(GroupId(bytes)) | Owner::Writer(WriterId(bytes)) => bytes,
        }
    }

    fn purpose(self) -> Use {
        match self {
            Owner::Group(_) => Use::DataPack,
            Owner::Writer(_) => Use::MetadataPack,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PackKind {
    Data = 1,
    Metadata = 2,
}

impl PackKind {
    pub fn from_number(number: u8) -> Option<Self> {
        [PackKind::Data, PackKind::Metadata].into_iter().find(|kind| *kind as u8 == number)
    }

    /// Bytes before the first frame.
    pub fn head_bytes(self) -> usize {
        match self {
            PackKind::Data => DATA_HEAD_BYTES,
            PackKind::Metadata => METADATA_HEAD_BYTES,
        }
    }
}

/// One frame as a table lists it. Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub offset: u32,
    /// With codec byte and tag.
    pub stored_len: u32,
    pub plain_len: u32,
    pub chunks: u32,
}

/// What a pack holds, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub frames: Vec<Frame>,
    pub chunks: Vec<(ChunkId, u32)>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    #[error("it is no pack")]
    NotAPack,
    #[error("it has format version {0}, newer than this build knows; use a newer Lifeboat")]
    Version(u16),
    #[error("it needs a feature that this build does not have (bits {0:#x}); use a newer Lifeboat")]
    Features(u32),
    #[error("it belongs to repository {0}")]
    OtherRepository(RepositoryId),
    #[error("it is a metadata pack where a data pack belongs, or the reverse")]
    Kind,
    #[error("its key does not open: {0}")]
    Stanza(#[from] StanzaError),
    #[error("its key is not the one that it commits to")]
    Commitment,
    #[error("the frame at byte {0} is damaged")]
    Frame(u32),
    #[error("its table is damaged")]
    Table,
    #[error("its table makes no sense: {0}")]
    Malformed(#[from] Malformed),
}

/// A pack being filled. Bytes that it returns go to the store in that order.
pub struct PackBuilder {
    sealer: FrameSealer,
    opener: std::sync::Arc<Opener>,
    aad: [u8; AAD_BYTES],
    table: Table,
}

impl PackBuilder {
    /// A new pack and its first bytes. `writer` is the metadata key of a metadata pack's writer.
    pub fn new(
        repository: RepositoryId,
        owner: Owner,
        recipient: &Recipient,
        writer: Option<&Recipient>,
    ) -> (Self, Vec<u8>) {
        let key = Secret::random();
        let mut head = Vec::with_capacity(METADATA_HEAD_BYTES);
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&1u16.to_le_bytes());
        head.push(owner.kind() as u8);
        head.push(1);
        head.extend_from_slice(&0u32.to_le_bytes());
        head.extend_from_slice(&repository.0);
        head.extend_from_slice(&owner.bytes());
        let mut aad = [0; AAD_BYTES];
        aad.copy_from_slice(&head);
        head.extend_from_slice(&pack_commitment(&key));
        let wrap =
            |to: To, recipient: &Recipient| recipient.wrap(repository, owner.purpose(), to, &owner.bytes(), &key);
        head.extend_from_slice(&wrap(To::Recipient, recipient));
        if let (Owner::Writer(_), Some(writer)) = (owner, writer) {
            head.extend_from_slice(&wrap(To::Writer, writer));
        }
        assert!(head.len() == owner.kind().head_bytes(), "a metadata pack has a writer");
        let sealer = FrameSealer::new(&key, head.len() as u64);
        (Self { sealer, opener: Opener::new(&key).into(), aad, table: Table::default() }, head)
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.sealer.offset()
    }

    pub fn is_empty(&self) -> bool {
        self.table.frames.is_empty()
    }

    /// Bytes of the table so far.
    pub fn table_bytes(&self) -> u64 {
        4 + self.table.frames.len() as u64 * 12 + self.table.chunks.len() as u64 * 36
    }

    /// Seals `frame` (codec byte and payload, `plain_len` bytes before compression) in place and lists it.
    pub fn add(&mut self, frame: &mut Vec<u8>, plain_len: u32, chunks: &[(ChunkId, u32)]) -> Frame {
        let offset = self.sealer.seal(&self.aad, frame);
        // A pack is closed far below 4 GiB.
        let row =
            Frame { offset: offset as u32, stored_len: frame.len() as u32, plain_len, chunks: chunks.len() as u32 };
        self.table.frames.push(row);
        self.table.chunks.extend_from_slice(chunks);
        row
    }

    /// Opens frames of this pack, for the comparison before they are trusted.
    pub fn frames(&self) -> FrameOpener {
        FrameOpener { opener: self.opener.clone(), aad: self.aad }
    }

    /// The last bytes of the pack, and what it holds. `pad` hides the length within its Padmé class.
    pub fn finish(self, pad: bool) -> (Vec<u8>, Table) {
        let mut out = self.table.encode();
        let offset = self.sealer.finish(&self.aad, &mut out);
        let table_len = out.len() as u32;
        if pad {
            let whole = offset + out.len() as u64 + FOOTER_BYTES as u64;
            out.resize(out.len() + (padme(whole) - whole) as usize, 0);
        }
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&table_len.to_le_bytes());
        out.extend_from_slice(&FOOTER_MAGIC);
        (out, self.table)
    }
}

/// The padded length of `len` bytes: at most 12 % more, and lengths fall into few classes (Nikitin et al., PETS 2019).
pub fn padme(len: u64) -> u64 {
    if len < 2 {
        return len;
    }
    let exponent = len.ilog2();
    let spare = exponent - (exponent.ilog2() + 1).min(exponent);
    let mask = (1u64 << spare) - 1;
    (len + mask) & !mask
}

impl Table {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.frames.len() * 12 + self.chunks.len() * 36);
        out.extend_from_slice(&(self.frames.len() as u32).to_le_bytes());
        for frame in &self.frames {
            out.extend_from_slice(&frame.stored_len.to_le_bytes());
            out.extend_from_slice(&frame.plain_len.to_le_bytes());
            out.extend_from_slice(&frame.chunks.to_le_bytes());
        }
        for (id, len) in &self.chunks {
            out.extend_from_slice(&id.0);
            out.extend_from_slice(&len.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8], first_frame: u64, table_offset: u64) -> Result<Self, PackError> {
        let mut reader = Reader::new(bytes);
        let count = reader.u32()? as usize;
        if count.checked_mul(12).is_none_or(|need| need > reader.remaining()) {
            return Err(Malformed("a count is larger than what follows").into());
        }
        let mut table = Table { frames: Vec::with_capacity(count), chunks: Vec::new() };
        let (mut offset, mut chunks) = (first_frame, 0u64);
        for _ in 0..count {
            let (stored_len, plain_len, chunk_count) = (reader.u32()?, reader.u32()?, reader.u32()?);
            let start = u32::try_from(offset).map_err(|_| Malformed("a frame lies beyond the pack"))?;
            table.frames.push(Frame { offset: start, stored_len, plain_len, chunks: chunk_count });
            offset += u64::from(stored_len);
            chunks += u64::from(chunk_count);
        }
        if offset != table_offset || chunks.checked_mul(36) != Some(reader.remaining() as u64) {
            return Err(Malformed("frames and table do not fill the pack").into());
        }
        while !reader.is_empty() {
            table.chunks.push((ChunkId(reader.array()?), reader.u32()?));
        }
        Ok(table)
    }
}

/// The start of a pack, checked; its stanzas not yet opened.
pub struct PackHead {
    pub owner: Owner,
    repository: RepositoryId,
    aad: [u8; AAD_BYTES],
    commitment: [u8; 32],
    stanzas: Vec<u8>,
}

impl PackHead {
    /// Parses the first bytes of a pack (`kind.head_bytes()`; more does no harm).
    pub fn parse(bytes: &[u8], repository: RepositoryId, kind: PackKind) -> Result<Self, PackError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<8>().ok() != Some(MAGIC) {
            return Err(PackError::NotAPack);
        }
        let version = u16::from_le_bytes(reader.array()?);
        if version != 1 {
            return Err(PackError::Version(version));
        }
        let (kind_number, suite, features) = (reader.u8()?, reader.u8()?, reader.u32()?);
        if features != 0 || suite != 1 {
            return Err(PackError::Features(features));
        }
        let home = RepositoryId(reader.array()?);
        if home != repository {
            return Err(PackError::OtherRepository(home));
        }
        let owner = reader.array()?;
        let owner = match PackKind::from_number(kind_number) {
            Some(found) if found != kind => return Err(PackError::Kind),
            Some(PackKind::Data) => Owner::Group(GroupId(owner)),
            Some(PackKind::Metadata) => Owner::Writer(WriterId(owner)),
            None => return Err(PackError::Kind),
        };
        let commitment = reader.array()?;
        let stanzas = reader.bytes(kind.head_bytes() - HEADER_BYTES)?.to_vec();
        let mut aad = [0; AAD_BYTES];
        aad.copy_from_slice(&bytes[..AAD_BYTES]);
        Ok(Self { owner, repository, aad, commitment, stanzas })
    }

    /// Opens the pack's key. `to` says whose `secret` it is.
    pub fn open(&self, secret: &RecipientSecret, to: To) -> Result<FrameOpener, PackError> {
        let stanza = match to {
            To::Recipient => self.stanzas.get(..STANZA_BYTES),
            To::Writer => self.stanzas.get(STANZA_BYTES..2 * STANZA_BYTES),
        };
        let stanza = stanza.ok_or(PackError::Stanza(StanzaError::Refused))?;
        let key = secret.unwrap(self.repository, self.owner.purpose(), to, &self.owner.bytes(), stanza)?;
        if !bool::from(pack_commitment(&key).ct_eq(&self.commitment)) {
            return Err(PackError::Commitment);
        }
        Ok(FrameOpener { opener: Opener::new(&key).into(), aad: self.aad })
    }
}

/// Opens the frames of one pack; cheap to clone.
#[derive(Clone)]
pub struct FrameOpener {
    opener: std::sync::Arc<Opener>,
    aad: [u8; AAD_BYTES],
}

impl FrameOpener {
    /// Opens the stored frame at `offset` in place: codec byte and payload.
    pub fn open<'a>(&self, offset: u32, stored: &'a mut [u8]) -> Result<&'a [u8], PackError> {
        match self.opener.open_frame(u64::from(offset), false, &self.aad, stored) {
            Ok(frame) => Ok(frame),
            Err(_) => Err(PackError::Frame(offset)),
        }
    }

    /// Opens the stored table at `offset`.
    pub fn open_table(&self, kind: PackKind, offset: u64, stored: &mut [u8]) -> Result<Table, PackError> {
        let plain = self.opener.open_frame(offset, true, &self.aad, stored).map_err(|_| PackError::Table)?;
        Table::decode(plain, kind.head_bytes() as u64, offset)
    }
}

/// Where the table lies, from the last `FOOTER_BYTES` of a pack of `size` bytes: offset and length.
pub fn parse_footer(footer: &[u8], size: u64) -> Result<(u64, u32), PackError> {
    let mut reader = Reader::new(footer);
    let (offset, len, magic) = (reader.u64()?, reader.u32()?, reader.array::<4>()?);
    let end = offset.checked_add(u64::from(len)).and_then(|end| end.checked_add(FOOTER_BYTES as u64));
    if magic != FOOTER_MAGIC || (len as usize) < TAG_BYTES || end.is_none_or(|end| end > size) {
        return Err(PackError::Table);
    }
    Ok((offset, len))
}

/// The name of a pack from all its bytes.
pub fn pack_name(bytes: &[u8]) -> PackId {
    PackId(*blake3::hash(bytes).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: RepositoryId = RepositoryId([1; 16]);

    fn pack(owner: Owner, pad: bool) -> (Vec<u8>, Table, RecipientSecret, RecipientSecret) {
        let reader = RecipientSecret::from_seed(&Secret::new([1; 32]));
        let writer = RecipientSecret::from_seed(&Secret::new([2; 32]));
        let (mut builder, mut bytes) = PackBuilder::new(HOME, owner, &reader.public(), Some(&writer.public()));
        let mut frame = b"\0onetwo".to_vec();
        builder.add(&mut frame, 6, &[(ChunkId([1; 32]), 3), (ChunkId([2; 32]), 3)]);
        bytes.extend_from_slice(&frame);
        let (tail, table) = builder.finish(pad);
        bytes.extend_from_slice(&tail);
        (bytes, table, reader, writer)
    }

    #[test]
    fn a_pack_tells_its_table_and_opens_its_frames() {
        for (owner, pad) in [(Owner::Group(GroupId([5; 8])), false), (Owner::Writer(WriterId([6; 8])), true)] {
            let (bytes, table, reader, _) = pack(owner, pad);
            let head = PackHead::parse(&bytes, HOME, owner.kind()).unwrap();
            assert_eq!(head.owner, owner);
            let opener = head.open(&reader, To::Recipient).unwrap();
            let size = bytes.len() as u64;
            let (offset, len) = parse_footer(&bytes[bytes.len() - FOOTER_BYTES..], size).unwrap();
            let mut stored = bytes[offset as usize..][..len as usize].to_vec();
            assert_eq!(opener.open_table(owner.kind(), offset, &mut stored).unwrap(), table);
            let frame = table.frames[0];
            let mut stored = bytes[frame.offset as usize..][..frame.stored_len as usize].to_vec();
            assert_eq!(opener.open(frame.offset, &mut stored).unwrap(), b"\0onetwo");
            if pad {
                assert_eq!(size, padme(size));
            }
        }
    }

    #[test]
    fn a_writer_opens_its_metadata_and_no_data() {
        let (bytes, _, _, writer) = pack(Owner::Writer(WriterId([6; 8])), false);
        let head = PackHead::parse(&bytes, HOME, PackKind::Metadata).unwrap();
        assert!(head.open(&writer, To::Writer).is_ok());
        assert!(head.open(&writer, To::Recipient).is_err());
        let (bytes, _, _, writer) = pack(Owner::Group(GroupId([5; 8])), false);
        let head = PackHead::parse(&bytes, HOME, PackKind::Data).unwrap();
        assert!(head.open(&writer, To::Writer).is_err());
        assert!(head.open(&writer, To::Recipient).is_err());
    }

    #[test]
    fn padding_is_at_most_an_eighth() {
        for len in (1..200_000u64).step_by(37).chain([1 << 24, (1 << 24) + 1]) {
            let padded = padme(len);
            assert!(padded >= len && padded - len <= len / 8 + 1, "{len} -> {padded}");
        }
    }
}
