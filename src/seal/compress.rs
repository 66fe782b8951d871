//! Frames: chunks joined, compressed as one (`pack/FORMAT.md`, section 6: codec, then the bytes).
//!
//! Owns the codec byte and the reused zstd contexts. Refuses ciphers. What does not shrink by 3 % is kept raw: trying is the test, since
//! zstd passes random data at 3 GB/s while a sample of a frame misjudged images by 20 % of their size.

use zstd::bulk::{Compressor, Decompressor};

/// Plaintext bytes of a frame, in most cases: a frame is closed once it reaches this.
pub const FRAME_BYTES: usize = 2 << 20;
/// Plaintext bytes of a frame, always: `FRAME_BYTES` and one largest chunk.
pub const FRAME_BYTES_MAX: usize = FRAME_BYTES + (16 << 20);

const RAW: u8 = 0;
const ZSTD: u8 = 1;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the frame's codec {0} is unknown to this build")]
    Codec(u8),
    #[error("the frame does not decompress to its length")]
    Damaged,
}

/// One worker's compressor and decompressor, their contexts reused.
pub struct Codec {
    compressor: Compressor<'static>,
    level: i32,
    decompressor: Decompressor<'static>,
}

impl Default for Codec {
    fn default() -> Self {
        Self::new()
    }
}

impl Codec {
    pub fn new() -> Self {
        let level = 3;
        let compressor = Compressor::new(level).expect("zstd gives a context when there is memory");
        let decompressor = Decompressor::new().expect("zstd gives a context when there is memory");
        Self { compressor, level, decompressor }
    }

    /// Replaces `out` by the frame of `plaintext`, with room left for a tag.
    pub fn compress(&mut self, plaintext: &[u8], level: i32, out: &mut Vec<u8>) {
        if level != self.level {
            self.compressor.set_compression_level(level).expect("levels 1 to 19 exist");
            self.level = level;
        }
        out.clear();
        // What would not fit in 97 % of the plaintext is not worth its decompression.
        let room = plaintext.len() - plaintext.len() / 32;
        out.resize(1 + room, 0);
        out[0] = ZSTD;
        match self.compressor.compress_to_buffer(plaintext, &mut out[1..]) {
            Ok(written) => out.truncate(1 + written),
            Err(_) => {
                out.clear();
                out.push(RAW);
                out.extend_from_slice(plaintext);
            }
        }
    }

    /// Replaces `out` by the plaintext of `frame`, which must be `plain_len` bytes (at most `FRAME_BYTES_MAX`).
    pub fn decompress(&mut self, frame: &[u8], plain_len: usize, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let (codec, bytes) = frame.split_first().ok_or(FrameError::Damaged)?;
        if plain_len > FRAME_BYTES_MAX {
            return Err(FrameError::Damaged);
        }
        match *codec {
            RAW if bytes.len() == plain_len => {
                out.clear();
                out.extend_from_slice(bytes);
                Ok(())
            }
            RAW => Err(FrameError::Damaged),
            ZSTD => {
                out.resize(plain_len, 0);
                match self.decompressor.decompress_to_buffer(bytes, out.as_mut_slice()) {
                    Ok(written) if written == plain_len => Ok(()),
                    _ => Err(FrameError::Damaged),
                }
            }
            other => Err(FrameError::Codec(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn random_bytes_are_kept_raw_and_text_is_not() {
        let mut codec = Codec::new();
        let mut random = vec![0; 100_000];
        blake3::Hasher::new().finalize_xof().fill(&mut random);
        let (mut frame, mut back) = (Vec::new(), Vec::new());
        codec.compress(&random, 3, &mut frame);
        assert_eq!((frame[0], frame.len()), (RAW, random.len() + 1));
        codec.decompress(&frame, random.len(), &mut back).unwrap();
        assert_eq!(back, random);
        let text = b"to be or not to be ".repeat(5000);
        codec.compress(&text, 2, &mut frame);
        assert!(frame[0] == ZSTD && frame.len() < text.len() / 20);
        codec.decompress(&frame, text.len(), &mut back).unwrap();
        assert_eq!(back, text);
    }

    #[test]
    fn a_lying_length_is_refused() {
        let mut codec = Codec::new();
        let (mut frame, mut back) = (Vec::new(), Vec::new());
        codec.compress(&[0; 10_000], 3, &mut frame);
        for wrong in [0, 9_999, 10_001, usize::MAX] {
            assert_eq!(codec.decompress(&frame, wrong, &mut back), Err(FrameError::Damaged), "{wrong}");
        }
        assert_eq!(codec.decompress(&[9, 1, 2], 2, &mut back), Err(FrameError::Codec(9)));
        assert_eq!(codec.decompress(&[], 0, &mut back), Err(FrameError::Damaged));
    }

    proptest! {
        #[test]
        fn every_frame_comes_back(bytes in prop::collection::vec(0u8..4, 0..5000), level in 1i32..=9) {
            let mut codec = Codec::new();
            let (mut frame, mut back) = (Vec::new(), Vec::new());
            codec.compress(&bytes, level, &mut frame);
            codec.decompress(&frame, bytes.len(), &mut back).unwrap();
            prop_assert_eq!(back, bytes);
        }
    }
}
