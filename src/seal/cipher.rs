//! AES-256-GCM with nonces that cannot repeat, because a type owns the counter.
//!
//! Owns two uses: frames of a pack (nonce = offset) and segments of a sealed object (nonce = number). Refuses random nonces.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::seal::key::{Secret, derive};

pub const TAG_BYTES: usize = 16;
/// Plaintext bytes of a segment.
pub const SEGMENT_BYTES: usize = 4096;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes were not sealed with this key at this place")]
pub struct Refused;

/// A key that opens. Sealing needs one of the types below.
pub struct Opener(LessSafeKey);

fn less_safe(key: &Secret) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose()).expect("32 bytes are an AES-256 key"))
}

fn nonce(counter: u64, lane: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&counter.to_le_bytes());
    bytes[8..].copy_from_slice(&lane.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Opener {
    pub fn new(key: &Secret) -> Self {
        Self(less_safe(key))
    }

    /// Opens `sealed` (ciphertext and tag) in place; the plaintext is what is returned.
    fn open<'a>(&self, counter: u64, lane: u32, aad: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], Refused> {
        self.0.open_in_place(nonce(counter, lane), Aad::from(aad), sealed).map_err(|_| Refused)
    }

    /// Opens the frame (or, `table`, the table) that lies at `offset` of its pack.
    pub fn open_frame<'a>(
        &self,
        offset: u64,
        table: bool,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Refused> {
        self.open(offset, u32::from(table), aad, sealed)
    }

    /// Opens segment `number` of a sealed object.
    pub fn open_segment<'a>(
        &self,
        number: u64,
        last: bool,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Refused> {
        self.open(number, u32::from(last), aad, sealed)
    }

    /// Opens all segments of a sealed body.
    pub fn open_segments(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Refused> {
        let mut plaintext = Vec::with_capacity(sealed.len());
        let mut pieces = sealed.chunks(SEGMENT_BYTES + TAG_BYTES).enumerate().peekable();
        if pieces.peek().is_none() {
            return Err(Refused);
        }
        while let Some((number, piece)) = pieces.next() {
            let mut piece = piece.to_vec();
            let last = pieces.peek().is_none();
            plaintext.extend_from_slice(self.open_segment(number as u64, last, aad, &mut piece)?);
        }
        Ok(plaintext)
    }
}

/// Seals the frames of one pack. A frame's nonce is its offset, and offsets only grow: what was sealed moves the next one on.
pub struct FrameSealer {
    key: LessSafeKey,
    offset: u64,
}

impl FrameSealer {
    /// `offset`: where the first frame of the pack will lie.
    pub fn new(key: &Secret, offset: u64) -> Self {
        Self { key: less_safe(key), offset }
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Seals `frame` in place, tag appended, and returns its offset.
    pub fn seal(&mut self, aad: &[u8], frame: &mut Vec<u8>) -> u64 {
        self.seal_as(0, aad, frame)
    }

    /// Seals the table; nothing can be sealed after it.
    pub fn finish(mut self, aad: &[u8], table: &mut Vec<u8>) -> u64 {
        self.seal_as(1, aad, table)
    }

    fn seal_as(&mut self, lane: u32, aad: &[u8], bytes: &mut Vec<u8>) -> u64 {
        let offset = self.offset;
        let sealed = self.key.seal_in_place_append_tag(nonce(offset, lane), Aad::from(aad), bytes);
        sealed.expect("a frame is far below the cipher's limit");
        self.offset += bytes.len() as u64;
        offset
    }
}

/// Seals the segments of one object in order.
pub struct SegmentSealer {
    key: LessSafeKey,
    aad: Vec<u8>,
    number: u64,
}

impl SegmentSealer {
    pub fn new(key: &Secret, aad: Vec<u8>) -> Self {
        Self { key: less_safe(key), aad, number: 0 }
    }

    /// Seals a whole body and appends it to `out`.
    pub fn seal_all(mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        let mut rest = plaintext;
        while rest.len() > SEGMENT_BYTES {
            let (piece, after) = rest.split_at(SEGMENT_BYTES);
            self.seal(piece, out);
            rest = after;
        }
        self.finish(rest, out);
    }

    /// Seals a segment that others follow: exactly `SEGMENT_BYTES`.
    pub fn seal(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        assert!(piece.len() == SEGMENT_BYTES, "only the last segment may be short");
        self.seal_as(false, piece, out);
    }

    /// Seals the last segment: at most `SEGMENT_BYTES`.
    pub fn finish(mut self, piece: &[u8], out: &mut Vec<u8>) {
        assert!(piece.len() <= SEGMENT_BYTES, "a segment has a length");
        self.seal_as(true, piece, out);
    }

    fn seal_as(&mut self, last: bool, piece: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(piece);
        let nonce = nonce(self.number, u32::from(last));
        let sealed = self.key.seal_in_place_separate_tag(nonce, Aad::from(&self.aad), &mut out[start..]);
        out.extend_from_slice(sealed.expect("a segment is far below the cipher's limit").as_ref());
        self.number += 1;
    }
}

/// The commitment to a pack's key: GCM alone would open under several keys.
pub fn pack_commitment(key: &Secret) -> [u8; 32] {
    *derive("pack commitment", key.expose()).expose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offsets_of_sealed_frames_are_their_places_in_the_pack() {
        let key = Secret::new([1; 32]);
        let mut sealer = FrameSealer::new(&key, 100);
        let (mut a, mut b, mut table) = (b"first".to_vec(), b"second".to_vec(), b"table".to_vec());
        assert_eq!(sealer.seal(b"pack", &mut a), 100);
        assert_eq!(sealer.seal(b"pack", &mut b), 100 + 5 + 16);
        assert_eq!(sealer.finish(b"pack", &mut table), 121 + 6 + 16);
        let opener = Opener::new(&key);
        assert_eq!(opener.open_frame(100, false, b"pack", &mut a.clone()).unwrap(), b"first");
        assert_eq!(opener.open_frame(143, true, b"pack", &mut table.clone()).unwrap(), b"table");
        assert_eq!(opener.open_frame(143, false, b"pack", &mut table), Err(Refused));
        assert_eq!(opener.open_frame(121, false, b"pack", &mut a), Err(Refused));
        assert_eq!(opener.open_frame(121, false, b"kcap", &mut b), Err(Refused));
    }

    proptest! {
        #[test]
        fn a_sealed_body_cannot_be_cut_reordered_or_bent(len in 0usize..20_000, at in any::<prop::sample::Index>()) {
            let key = Secret::new([2; 32]);
            let plaintext: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
            let mut sealed = Vec::new();
            SegmentSealer::new(&key, b"aad".to_vec()).seal_all(&plaintext, &mut sealed);
            let opener = Opener::new(&key);
            prop_assert_eq!(opener.open_segments(b"aad", &sealed).unwrap(), plaintext);
            prop_assert!(opener.open_segments(b"aae", &sealed).is_err());
            let at = at.index(sealed.len());
            prop_assert!(opener.open_segments(b"aad", &sealed[..at]).is_err());
            sealed[at] ^= 4;
            prop_assert!(opener.open_segments(b"aad", &sealed).is_err());
        }
    }
}
