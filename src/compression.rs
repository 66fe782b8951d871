//! How hard content is compressed, as people write it.
//!
//! Owns the words and the range of levels. Refuses to compress, and to say what `auto` comes to: that is the backup's matter.

use std::fmt;
use std::str::FromStr;

use crate::names::NameError;

/// What was asked for. Metadata is compressed in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Level 3, 2 for disk images, and more while a slow link leaves the time for it.
    #[default]
    Auto,
    /// Level 1.
    Fast,
    Level(Level),
    Off,
}

/// A level of zstd. Beyond 19 it takes windows that no frame fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

impl Level {
    pub const MAX: usize = 19;
    pub const FAST: Self = Self(1);
    pub const STANDARD: Self = Self(3);

    pub const fn new(level: u8) -> Option<Self> {
        if level >= 1 && level as usize <= Self::MAX { Some(Self(level)) } else { None }
    }

    pub const fn get(self) -> u8 {
        self.0
    }
}

impl FromStr for Compression {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text {
            "auto" => Ok(Self::Auto),
            "fast" => Ok(Self::Fast),
            "off" => Ok(Self::Off),
            _ => digits.then(|| text.parse().ok().and_then(Level::new).map(Self::Level)).flatten().ok_or_else(|| {
                NameError { what: "a compression (auto, fast, off, or 1 to 19)", text: text.to_owned() }
            }),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Fast => f.pad("fast"),
            Self::Off => f.pad("off"),
            Self::Level(level) => level.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_as_itself() {
        let words = ["auto", "fast", "off"].into_iter().map(str::to_owned);
        for text in words.chain((1..=19).map(|level| level.to_string())) {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        assert_eq!(Compression::default(), "auto".parse().unwrap());
    }

    #[test]
    fn other_words_and_levels_are_refused() {
        for text in
            ["", "0", "20", "-1", "+3", "3.0", " 3", "256", "999999999999999999999", "max", "AUTO", "none", "zstd"]
        {
            let error = text.parse::<Compression>().unwrap_err();
            assert!(error.to_string().contains("auto, fast, off, or 1 to 19"), "{text}: {error}");
        }
    }
}
