//! Content-defined chunking by a keyed gear hash.
//!
//! Source: Gear from Ddelta (Xia et al., Performance Evaluation 2014); two masks around the normal size and the skipped minimum from FastCDC (Xia et
//! al., USENIX ATC 2016). Where a chunk ends depends on its own bytes and the table only: never on buffers, threads or read sizes. The
//! table comes from the group's secret, so sizes of chunks are not those of a public chunker; that hides little from who knows the files (eprint
//! 2025/532, 2025/558), which is why chunk lengths are encrypted and packs are filled alternately.

use crate::seal::key::Secret;

/// Bounds of a chunk in bytes, `min < normal < max`. Every chunk but a file's last is within `min..=max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub min: usize,
    pub normal: usize,
    pub max: usize,
}

/// 64 KiB, 256 KiB, 1 MiB.
pub const SIZES: Sizes = Sizes { min: 64 << 10, normal: 256 << 10, max: 1 << 20 };

/// A chunker of one group.
pub struct Gear {
    table: Box<[u64; 256]>,
    sizes: Sizes,
    /// Two bits more than the normal size asks for: applies before it.
    mask_hard: u64,
    /// Two bits fewer: applies after it.
    mask_easy: u64,
}

impl Gear {
    pub fn new(seed: &Secret, sizes: Sizes) -> Self {
        let mut bytes = zeroize::Zeroizing::new([0; 2048]);
        let mut hasher = blake3::Hasher::new_derive_key("lifeboat v1 gear table");
        hasher.update(seed.expose()).finalize_xof().fill(bytes.as_mut_slice());
        let mut table = Box::new([0; 256]);
        for (entry, bytes) in table.iter_mut().zip(bytes.chunks_exact(8)) {
            *entry = u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
        }
        let bits = sizes.normal.ilog2();
        // High bits: they depend on the last 64 bytes, low ones on fewer.
        let mask = |bits: u32| !0 << (64 - bits);
        Self { table, sizes, mask_hard: mask(bits + 2), mask_easy: mask(bits - 2) }
    }

    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The length of the first chunk of `bytes`: all of them, if no boundary lies within.
    ///
    /// A boundary that is found stays one whatever follows, once `bytes` holds `max` bytes or ends with the file.
    pub fn cut(&self, bytes: &[u8]) -> usize {
        let Sizes { min, normal, max } = self.sizes;
        if bytes.len() <= min {
            return bytes.len();
        }
        let end = bytes.len().min(max);
        let middle = end.min(normal);
        let table = &*self.table;
        let mut hash = 0u64;
        for (at, byte) in bytes[min..middle].iter().enumerate() {
            hash = (hash << 1).wrapping_add(table[usize::from(*byte)]);
            if hash & self.mask_hard == 0 {
                return min + at + 1;
            }
        }
        for (at, byte) in bytes[middle..end].iter().enumerate() {
            hash = (hash << 1).wrapping_add(table[usize::from(*byte)]);
            if hash & self.mask_easy == 0 {
                return middle + at + 1;
            }
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Sizes = Sizes { min: 64, normal: 256, max: 1024 };

    fn gear() -> Gear {
        Gear::new(&Secret::new([3; 32]), SMALL)
    }

    fn noise(len: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cuts(gear: &Gear, mut bytes: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while !bytes.is_empty() {
            let len = gear.cut(bytes);
            lengths.push(len);
            bytes = &bytes[len..];
        }
        lengths
    }

    #[test]
    fn chunks_are_of_the_asked_size_and_cuts_stay_what_they_were() {
        let lengths = cuts(&gear(), &noise(200_000, 1));
        assert_eq!(lengths.iter().sum::<usize>(), 200_000);
        let (last, whole) = lengths.split_last().unwrap();
        assert!(whole.iter().all(|len| (64..=1024).contains(len)) && *last <= 1024);
        let mean = 200_000 / lengths.len();
        assert!((200..400).contains(&mean), "mean {mean}");
        // The format's own vector: other cuts would orphan every stored chunk.
        assert_eq!(lengths[..8], [328, 307, 386, 271, 296, 261, 260, 303]);
    }

    #[test]
    fn an_insertion_moves_few_boundaries() {
        let before = noise(100_000, 2);
        let mut after = before.clone();
        after.splice(50_000..50_000, *b"inserted");
        let ends = |bytes: &[u8]| {
            let mut at = 0;
            cuts(&gear(), bytes).into_iter().map(|len| (at += len, at).1).collect::<Vec<_>>()
        };
        let old: std::collections::HashSet<usize> = ends(&before).into_iter().collect();
        let moved = ends(&after).into_iter().filter(|end| !old.contains(end) && !old.contains(&(end.wrapping_sub(8))));
        let moved = moved.count();
        assert!(moved <= 12, "{moved} of {}", old.len());
    }

    #[test]
    fn another_key_cuts_elsewhere() {
        let other = Gear::new(&Secret::new([4; 32]), SMALL);
        assert_ne!(cuts(&gear(), &noise(20_000, 1)), cuts(&other, &noise(20_000, 1)));
    }

    proptest! {
        #[test]
        fn a_cut_does_not_depend_on_what_follows_max(len in 1024usize..4000, seed in any::<u8>()) {
            let bytes = noise(len, seed);
            prop_assert_eq!(gear().cut(&bytes), gear().cut(&bytes[..1024]));
        }
    }
}
