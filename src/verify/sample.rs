//! A random share of packs, and what it proves.
//!
//! Owns the choice and the statement. The choice follows from the seed alone, so that it can be made again.

use std::str::FromStr;

use serde::Serialize;

use crate::names::{NameError, PackId};

/// How many packs are read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sample {
    /// Above 0, at most 100.
    Percent(f64),
    /// At least 1.
    Count(u64),
}

impl Sample {
    pub fn is_possible(self) -> bool {
        match self {
            Sample::Percent(percent) => percent > 0.0 && percent <= 100.0,
            Sample::Count(count) => count > 0,
        }
    }

    /// How many of `all` packs are meant: at least one where there is one.
    pub fn size(self, all: usize) -> usize {
        let wanted = match self {
            Sample::Percent(percent) => (all as f64 * percent / 100.0).ceil() as usize,
            Sample::Count(count) => usize::try_from(count).unwrap_or(usize::MAX),
        };
        wanted.max(1).min(all)
    }
}

/// `5%` or `200`.
impl FromStr for Sample {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let sample = match text.trim().strip_suffix('%') {
            Some(percent) => percent.trim().parse().ok().map(Sample::Percent),
            None => text.trim().parse().ok().map(Sample::Count),
        };
        sample.filter(|sample| sample.is_possible()).ok_or_else(|| NameError {
            what: "a sample (a share such as 5%, or a number of packs such as 200)",
            text: text.to_owned(),
        })
    }
}

/// Marks the packs that are read. Each pack's place in the draw is a hash of the seed and its name.
pub fn choose<'a>(packs: impl Iterator<Item = &'a PackId>, seed: u64, sample: Sample) -> Vec<bool> {
    let mut drawn: Vec<(u64, u32)> = packs
        .enumerate()
        .map(|(at, pack)| {
            let hash = blake3::Hasher::new().update(&seed.to_le_bytes()).update(&pack.0).finalize();
            let mut first = [0; 8];
            first.copy_from_slice(&hash.as_bytes()[..8]);
            (u64::from_le_bytes(first), at as u32)
        })
        .collect();
    let mut chosen = vec![false; drawn.len()];
    drawn.sort_unstable();
    for (_, at) in drawn.iter().take(sample.size(drawn.len())) {
        chosen[*at as usize] = true;
    }
    chosen
}

/// What a sample says of all packs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sampled {
    pub seed: u64,
    pub packs: u64,
    pub packs_of: u64,
    pub packs_damaged: u64,
    /// With 95 % confidence at most this share of all packs is damaged.
    pub damaged_share_max: f64,
    pub statement: String,
}

impl Sampled {
    pub fn new(seed: u64, packs: u64, of: u64, damaged: u64) -> Self {
        let share = if of == 0 {
            0.0
        } else if packs == of {
            damaged as f64 / of as f64
        } else {
            upper_bound(damaged, packs)
        };
        let percent = share * 100.0;
        let statement = if of == 0 {
            "there is no pack to sample".to_owned()
        } else if packs == of {
            format!("{damaged} of all {of} packs are damaged: the sample was everything")
        } else {
            format!(
                "{damaged} of {packs} sampled packs are damaged: with 95 % confidence at most {percent:.3} % of all {of} are (seed {seed})"
            )
        };
        Self { seed, packs, packs_of: of, packs_damaged: damaged, damaged_share_max: share, statement }
    }
}

/// Upper 95 % bound of a share of which `k` of `n` were seen: 3/n where none was (the rule of three), else Wilson's score bound, one-sided.
/// Drawing without putting back only makes the truth better than that.
fn upper_bound(k: u64, n: u64) -> f64 {
    let n = n as f64;
    if k == 0 {
        return (3.0 / n).min(1.0);
    }
    let (z, p) = (1.645, k as f64 / n);
    let centre = p + z * z / (2.0 * n);
    let spread = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    ((centre + spread) / (1.0 + z * z / n)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_its_size_and_its_seed_decides_it() {
        let packs: Vec<PackId> = (0..200u8).map(|n| PackId([n; 32])).collect();
        let draw = |seed, sample| choose(packs.iter(), seed, sample);
        for (sample, size) in
            [(Sample::Percent(10.0), 20), (Sample::Count(7), 7), (Sample::Percent(0.01), 1), (Sample::Count(999), 200)]
        {
            assert_eq!(draw(1, sample).iter().filter(|chosen| **chosen).count(), size, "{sample:?}");
        }
        assert_eq!(draw(1, Sample::Count(9)), draw(1, Sample::Count(9)));
        assert_ne!(draw(1, Sample::Count(9)), draw(2, Sample::Count(9)));
        assert!(choose([].iter(), 1, Sample::Count(9)).is_empty());
    }

    #[test]
    fn a_sample_is_read_as_written() {
        assert_eq!("5%".parse(), Ok(Sample::Percent(5.0)));
        assert_eq!("0.5 %".parse(), Ok(Sample::Percent(0.5)));
        assert_eq!("200".parse(), Ok(Sample::Count(200)));
        for bad in ["", "0", "0%", "101%", "-1", "NaN%", "x"] {
            assert!(bad.parse::<Sample>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_bound_is_three_over_n_and_never_below_what_was_seen() {
        assert_eq!(Sampled::new(1, 300, 5000, 0).damaged_share_max, 0.01);
        assert_eq!(Sampled::new(1, 2, 5000, 0).damaged_share_max, 1.0);
        assert!(Sampled::new(1, 300, 5000, 3).damaged_share_max > 0.01);
        assert_eq!(Sampled::new(1, 40, 40, 0).damaged_share_max, 0.0);
    }
}
