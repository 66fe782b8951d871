//! Frames: chunks joined, compressed as one (`pack/FORMAT.md`, section 6: codec, then the bytes).
//!
//! Owns the codec byte and the reused zstd contexts. Refuses ciphers. What does not shrink by 3 % is kept raw: trying is the test, since
//! zstd passes random data at 3 GB/s (level 1 at 5, 6 at 1.8, 8 at 1.2) while a sample of a frame misjudged images by 20 % of their size. A trial at
//! level 1 would cost level 6 a quarter on text, and spare it half on random data; so only from `TRIED_FIRST` on, whose binary trees crawl through
//! random data at 60 to 120 MB/s and, from 16 on, 8, does a trial come first.
//!
//! Memory of the contexts of one worker, `ZSTD_estimateCCtxSize_usingCParams` for frames of 2 MiB and up: level 1 0.56 MiB, 2 0.74, 3 1.24, 4 2.5, 5 and 6
//! 3.5, 7 and 8 6.5 (5.5 in fact: 2^20 positions of 4 bytes, as many tags of 1, and 0.5). Levels 9 to 19 would take 12 to 81: their tables are cut to
//! the 2^20 positions of level 8 (level 9 then is 0.4 % larger on text, and as fast as 8) and, for the binary trees, to 2^21 nodes of 4 bytes: 8 + 4 + 1.25 = 13.25.
//! The decompressor takes 0.16. A backup counts 4 MiB of a worker's 19 for contexts (`backup::pipeline`), so level 8, the highest that it takes of its
//! own accord, adds 1.7 MiB a worker, and what a person asks for at most 9.4: on two workers 19, which 96 MiB on a disk and 256 to a cloud have left.

use std::io::Cursor;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::CParameter;

use crate::compression::Level;

/// Plaintext bytes of a frame, in most cases: a frame is closed once it reaches this.
pub const FRAME_BYTES: usize = 2 << 20;
/// Plaintext bytes of a frame, always: `FRAME_BYTES` and one largest chunk.
pub const FRAME_BYTES_MAX: usize = FRAME_BYTES + (16 << 20);

/// From this level on level 1 is tried first, and a frame that it does not make 1 % smaller is kept raw.
const TRIED_FIRST: u8 = 13;
/// From this level on the tables are cut, to so many positions and nodes, as powers of two.
const CUT_FROM: u8 = 9;
const POSITIONS_LOG: u32 = 20;
const NODES_LOG: u32 = 21;

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
    level: Level,
    decompressor: Decompressor<'static>,
}

impl Default for Codec {
    fn default() -> Self {
        Self::new()
    }
}

impl Codec {
    pub fn new() -> Self {
        let level = Level::STANDARD;
        let compressor = Compressor::new(i32::from(level.get())).expect("zstd gives a context when there is memory");
        let decompressor = Decompressor::new().expect("zstd gives a context when there is memory");
        Self { compressor, level, decompressor }
    }

    /// Replaces `out` by the frame of `plaintext`, with room left for a tag. Whether it is compressed: without a level, or where that is not worth it, the bytes
    /// are kept as they are.
    pub fn compress(&mut self, plaintext: &[u8], level: Option<Level>, out: &mut Vec<u8>) -> bool {
        // What would not fit in 97 % of the plaintext is not worth its decompression.
        let room = plaintext.len() - plaintext.len() / 32;
        let hopeful = |codec: &mut Self, level: Level, out: &mut Vec<u8>| {
            level.get() < TRIED_FIRST
                || codec.fits(plaintext, Level::FAST, plaintext.len() - plaintext.len() / 100, out)
        };
        if level.is_some_and(|level| hopeful(self, level, out) && self.fits(plaintext, level, room, out)) {
            return true;
        }
        out.clear();
        out.push(RAW);
        out.extend_from_slice(plaintext);
        false
    }

    /// Compresses into `out` what becomes at most `room` bytes.
    fn fits(&mut self, plaintext: &[u8], level: Level, room: usize, out: &mut Vec<u8>) -> bool {
        self.turn_to(level);
        out.clear();
        out.reserve(1 + room);
        out.push(ZSTD);
        // Behind the codec, into memory that nobody fills with zeros first.
        let mut behind = Cursor::new(&mut *out);
        behind.set_position(1);
        self.compressor.compress_to_buffer(plaintext, &mut behind).is_ok_and(|written| written <= room)
    }

    fn turn_to(&mut self, level: Level) {
        if level == self.level {
            return;
        }
        self.compressor.set_compression_level(i32::from(level.get())).expect("levels 1 to 19 exist");
        for (before, now) in settings(self.level).into_iter().zip(settings(level)) {
            if before != now {
                self.compressor.set_parameter(now).expect("each is within its range");
            }
        }
        self.level = level;
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
                out.clear();
                out.reserve(plain_len);
                match self.decompressor.decompress_to_buffer(bytes, out) {
                    Ok(written) if written == plain_len => Ok(()),
                    _ => Err(FrameError::Damaged),
                }
            }
            other => Err(FrameError::Codec(other)),
        }
    }
}

/// What a level does otherwise than zstd would; 0 is what zstd would do.
fn settings(level: Level) -> [CParameter; 2] {
    let is_cut = level.get() >= CUT_FROM;
    let or_own = |value| if is_cut { value } else { 0 };
    [CParameter::HashLog(or_own(POSITIONS_LOG)), CParameter::ChainLog(or_own(NODES_LOG))]
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
        let standard = Some(Level::STANDARD);
        assert!(!codec.compress(&random, standard, &mut frame));
        assert_eq!((frame[0], frame.len()), (RAW, random.len() + 1));
        codec.decompress(&frame, random.len(), &mut back).unwrap();
        assert_eq!(back, random);
        let text = b"to be or not to be ".repeat(5000);
        assert!(codec.compress(&text, Level::new(2), &mut frame));
        assert!(frame[0] == ZSTD && frame.len() < text.len() / 20);
        codec.decompress(&frame, text.len(), &mut back).unwrap();
        assert_eq!(back, text);
        assert!(!codec.compress(&text, None, &mut frame));
        assert_eq!((frame[0], frame.len()), (RAW, text.len() + 1));
        codec.decompress(&frame, text.len(), &mut back).unwrap();
        assert_eq!(back, text);
    }

    /// Half a MiB of words, in an order that never repeats.
    fn text() -> Vec<u8> {
        let mut dice = vec![0; 80_000];
        blake3::Hasher::new().finalize_xof().fill(&mut dice);
        dice.iter().flat_map(|die| format!("word{} ", u32::from(*die) * u32::from(*die)).into_bytes()).collect()
    }

    #[test]
    fn no_level_takes_more_memory_than_the_header_says() {
        let mut plain = text().repeat(8);
        plain.truncate(FRAME_BYTES + (1 << 20));
        let mut frame = Vec::new();
        for (level, kib) in
            [(1, 600), (3, 1300), (6, 3600), (8, 6700), (9, 5700), (12, 5700), (15, 12_900), (17, 13_600)]
        {
            let mut codec = Codec::new();
            assert!(codec.compress(&plain, Level::new(level), &mut frame));
            let taken = codec.compressor.context_mut().sizeof();
            assert!(taken <= kib << 10, "level {level} takes {taken} bytes");
        }
    }

    #[test]
    fn a_level_is_the_same_after_any_other() {
        let plain = text();
        let (mut codec, mut frame, mut fresh) = (Codec::new(), Vec::new(), Vec::new());
        for level in [3, 9, 3, 13, 1, 14, 8, 10, 6] {
            codec.compress(&plain, Level::new(level), &mut frame);
            Codec::new().compress(&plain, Level::new(level), &mut fresh);
            assert!(frame == fresh, "level {level}: {} bytes, and {} at first", frame.len(), fresh.len());
        }
    }

    #[test]
    fn a_hopeless_frame_is_kept_raw_at_every_level() {
        let mut random = vec![0; 300_000];
        blake3::Hasher::new().finalize_xof().fill(&mut random);
        let (mut codec, mut frame) = (Codec::new(), Vec::new());
        for level in 1..=19 {
            assert!(!codec.compress(&random, Level::new(level), &mut frame), "{level}");
            assert_eq!((frame[0], &frame[1..]), (RAW, &random[..]), "{level}");
        }
    }

    #[test]
    fn a_lying_length_is_refused() {
        let mut codec = Codec::new();
        let (mut frame, mut back) = (Vec::new(), Vec::new());
        codec.compress(&[0; 10_000], Some(Level::STANDARD), &mut frame);
        for wrong in [0, 9_999, 10_001, usize::MAX] {
            assert_eq!(codec.decompress(&frame, wrong, &mut back), Err(FrameError::Damaged), "{wrong}");
        }
        assert_eq!(codec.decompress(&[9, 1, 2], 2, &mut back), Err(FrameError::Codec(9)));
        assert_eq!(codec.decompress(&[], 0, &mut back), Err(FrameError::Damaged));
    }

    proptest! {
        #[test]
        fn every_frame_comes_back(bytes in prop::collection::vec(0u8..4, 0..5000), level in 0u8..=19) {
            let mut codec = Codec::new();
            let (mut frame, mut back) = (Vec::new(), Vec::new());
            codec.compress(&bytes, Level::new(level), &mut frame);
            codec.decompress(&frame, bytes.len(), &mut back).unwrap();
            prop_assert_eq!(back, bytes);
        }
    }
}
