//! Sizes as people read and write them.
//!
//! Owns the text of byte counts. Refuses durations, which belong to `jiff`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes. Reads `10MiB`, `10 MB`, `4096`; writes the largest binary unit with at most three digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteCount(pub u64);

const UNITS: [(&str, u64); 13] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
];

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = UNITS[..6].iter().rev().find(|(_, size)| self.0 >= *size).unwrap_or(&UNITS[0]);
        if *size == 1 {
            return f.pad(&format!("{} {unit}", self.0));
        }
        let amount = self.0 as f64 / *size as f64;
        let digits = if amount < 9.995 {
            2
        } else if amount < 99.95 {
            1
        } else {
            0
        };
        f.pad(&format!("{amount:.digits$} {unit}"))
    }
}

impl FromStr for ByteCount {
    type Err = crate::names::NameError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || crate::names::NameError { what: "a size (such as 512KiB, 10MiB, 2GB)", text: text.to_owned() };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let number: u64 = trimmed[..split].parse().map_err(|_| bad())?;
        let unit = trimmed[split..].trim();
        let size = if unit.is_empty() {
            1
        } else {
            UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(bad)?.1
        };
        number.checked_mul(size).map(Self).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_as_written() {
        for (text, bytes) in [("4096", 4096), ("10MiB", 10 << 20), ("10 MB", 10_000_000), ("1g", 1 << 30)] {
            assert_eq!(text.parse(), Ok(ByteCount(bytes)), "{text}");
        }
        for bad in ["", "MiB", "-1", "1.5GiB", "9 parsecs", "99999999PiB"] {
            assert!(bad.parse::<ByteCount>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_shows_three_digits() {
        let shown = [0, 1023, 1024, 1536, 10 << 20, 999 << 30].map(|n| ByteCount(n).to_string());
        assert_eq!(shown, ["0 B", "1023 B", "1.00 KiB", "1.50 KiB", "10.0 MiB", "999 GiB"]);
    }
}
