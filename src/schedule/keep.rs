//! How many snapshots of which period are to stay.
//!
//! Owns the rule and its text form. Refuses to delete: it is a wish that whoever prunes will read.

use std::fmt;
use std::str::FromStr;

/// The newest snapshot of each of so many periods, in the policy's zone; 0 is no rule. At least one rule is above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    counts: [u32; 6],
}

/// Names of the rules, and their short forms.
pub const RULES: [(&str, &str); 6] =
    [("last", "l"), ("hourly", "h"), ("daily", "d"), ("weekly", "w"), ("monthly", "m"), ("yearly", "y")];

/// The largest count of one rule: more is a slip of the finger.
pub const COUNT_MAX: u32 = 100_000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    #[error("\"{text}\" is not a count and a unit")]
    Item { text: String },
    #[error("the unit \"{unit}\" stands twice")]
    Twice { unit: String },
    #[error("a policy keeps at least one snapshot")]
    Nothing,
}

impl Keep {
    /// From counts in the order of `RULES`.
    pub fn new(counts: [u32; 6]) -> Result<Self, KeepError> {
        if counts.iter().all(|count| *count == 0) {
            return Err(KeepError::Nothing);
        }
        Ok(Self { counts })
    }

    pub fn last(&self) -> u32 {
        self.counts[0]
    }

    pub fn hourly(&self) -> u32 {
        self.counts[1]
    }

    pub fn daily(&self) -> u32 {
        self.counts[2]
    }

    pub fn weekly(&self) -> u32 {
        self.counts[3]
    }

    pub fn monthly(&self) -> u32 {
        self.counts[4]
    }

    pub fn yearly(&self) -> u32 {
        self.counts[5]
    }
}

impl FromStr for Keep {
    type Err = KeepError;

    /// `7d 4w 12m`: counts with `l` (last), `h`, `d`, `w`, `m`, `y`, in any order, with spaces or commas between.
    fn from_str(text: &str) -> Result<Self, KeepError> {
        let mut counts = [None; 6];
        for item in text.split([' ', ',', '\t']).filter(|item| !item.is_empty()) {
            let bad = || KeepError::Item { text: crate::names::escape(item.as_bytes()).chars().take(40).collect() };
            let split = item.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let (count, unit) = item.split_at(split);
            let count: u32 = count.parse().ok().filter(|count| *count <= COUNT_MAX).ok_or_else(bad)?;
            let rule = RULES.iter().position(|(name, short)| *short == unit || *name == unit).ok_or_else(bad)?;
            if counts[rule].replace(count).is_some() {
                return Err(KeepError::Twice { unit: unit.to_owned() });
            }
        }
        Self::new(counts.map(Option::unwrap_or_default))
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for ((_, unit), count) in RULES.iter().zip(self.counts).filter(|(_, count)| *count > 0) {
            write!(f, "{gap}{count}{unit}")?;
            gap = " ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_back_as_it_is_shown() {
        for (typed, shown) in
            [("7d 4w 12m", "7d 4w 12m"), ("12m,7d", "7d 12m"), ("3l 24h 1y 0w", "3l 24h 1y"), ("5last", "5l")]
        {
            let keep: Keep = typed.parse().unwrap();
            assert_eq!(keep.to_string(), shown);
            assert_eq!(shown.parse(), Ok(keep));
        }
        assert_eq!("7d 4w 12m".parse::<Keep>().unwrap().monthly(), 12);
    }

    #[test]
    fn a_rule_that_keeps_nothing_is_refused() {
        for nothing in ["", "0d", "0d 0w"] {
            assert_eq!(nothing.parse::<Keep>(), Err(KeepError::Nothing), "{nothing}");
        }
    }

    #[test]
    fn a_rule_that_is_not_understood_is_refused() {
        for bad in ["7", "d", "-1d", "7 d", "7x", "7D", "99999999999d", "100001d", "ü"] {
            assert!(matches!(bad.parse::<Keep>(), Err(KeepError::Item { .. })), "{bad}");
        }
        assert_eq!("7d 8d".parse::<Keep>(), Err(KeepError::Twice { unit: "d".into() }));
    }
}
