//! How many snapshots of which period are to stay.
//!
//! Owns the rule and its text form. Refuses to delete: it is a wish that whoever prunes will read.

use std::fmt;
use std::str::FromStr;

use jiff::{Span, Timestamp, Zoned};

/// The newest snapshot of each of so many periods, in the policy's zone (0 is no rule), and of each that lies within an age. Something is kept in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    counts: [u32; 6],
    within: [Option<Age>; 6],
    min_points: u32,
}

/// Names of the rules, and their short forms.
pub const RULES: [(&str, &str); 6] =
    [("last", "l"), ("hourly", "h"), ("daily", "d"), ("weekly", "w"), ("monthly", "m"), ("yearly", "y")];

/// Names of the ages, in the order of `RULES`: the first keeps every snapshot that young, the others the newest of each period.
pub const WITHIN: [&str; 6] =
    ["within", "within_hourly", "within_daily", "within_weekly", "within_monthly", "within_yearly"];

/// The name of the least number of healthy snapshots.
pub const MIN_POINTS: &str = "min_points";

/// The largest count of one rule: more is a slip of the finger.
pub const COUNT_MAX: u32 = 100_000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    #[error("\"{text}\" is not a count and a unit")]
    Item { text: String },
    #[error("\"{text}\" is no age")]
    Age { text: String },
    #[error("`{unit}` stands twice")]
    Twice { unit: String },
    #[error("a policy keeps at least one snapshot")]
    Nothing,
}

/// A stretch of the calendar: `1y6m14d`, `36h`, `2w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// In the order of `AGES`.
    amounts: [u32; 5],
}

const AGES: [char; 5] = ['y', 'm', 'w', 'd', 'h'];

impl Age {
    /// So long before `at`, in its zone; none: before all time.
    pub fn before(&self, at: &Zoned) -> Option<Timestamp> {
        Some(at.checked_sub(self.span()?).ok()?.timestamp())
    }

    /// So long after `at`; none: after all time.
    pub fn after(&self, at: &Zoned) -> Option<Timestamp> {
        Some(at.checked_add(self.span()?).ok()?.timestamp())
    }

    fn span(&self) -> Option<Span> {
        let [years, months, weeks, days, hours] = self.amounts.map(i64::from);
        let span = Span::new().try_years(years).and_then(|span| span.try_months(months));
        let span = span.and_then(|span| span.try_weeks(weeks)).and_then(|span| span.try_days(days));
        span.and_then(|span| span.try_hours(hours)).ok()
    }
}

impl FromStr for Age {
    type Err = KeepError;

    /// Counts with `y`, `m` (months), `w`, `d`, `h`, one behind the other, each once, together above 0.
    fn from_str(text: &str) -> Result<Self, KeepError> {
        let bad = || KeepError::Age { text: shown(text) };
        let mut amounts = [None; 5];
        let mut rest = text;
        while !rest.is_empty() {
            let split = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let amount: u32 = rest[..split].parse().ok().filter(|amount| *amount <= COUNT_MAX).ok_or_else(bad)?;
            let unit = rest[split..].chars().next().and_then(|unit| AGES.iter().position(|known| *known == unit));
            if amounts[unit.ok_or_else(bad)?].replace(amount).is_some() {
                return Err(bad());
            }
            rest = &rest[split + 1..];
        }
        let amounts = amounts.map(Option::unwrap_or_default);
        if amounts == [0; 5] { Err(bad()) } else { Ok(Self { amounts }) }
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        AGES.iter().zip(self.amounts).filter(|(_, amount)| *amount > 0).try_for_each(|(unit, n)| write!(f, "{n}{unit}"))
    }
}

impl Keep {
    /// From counts in the order of `RULES`, ages in the order of `WITHIN`, and the least number of healthy snapshots (1 unless said).
    pub fn with(counts: [u32; 6], within: [Option<Age>; 6], min_points: Option<u32>) -> Result<Self, KeepError> {
        if counts == [0; 6] && within == [None; 6] {
            return Err(KeepError::Nothing);
        }
        Ok(Self { counts, within, min_points: min_points.unwrap_or(1) })
    }

    /// In the order of `RULES`.
    pub fn counts(&self) -> &[u32; 6] {
        &self.counts
    }

    /// In the order of `WITHIN`.
    pub fn within(&self) -> &[Option<Age>; 6] {
        &self.within
    }

    /// So many healthy snapshots stay whatever the rules say.
    pub fn min_points(&self) -> u32 {
        self.min_points
    }
}

impl FromStr for Keep {
    type Err = KeepError;

    /// `7d 4w 12m`: counts with `l` (last), `h`, `d`, `w`, `m`, `y`, and `within=30d`, `within_daily=1y`, `min_points=2`, in any order, with spaces or commas between.
    fn from_str(text: &str) -> Result<Self, KeepError> {
        let (mut counts, mut within, mut min_points) = ([None; 6], [None; 6], None);
        for item in text.split([' ', ',', '\t']).filter(|item| !item.is_empty()) {
            let bad = || KeepError::Item { text: shown(item) };
            let count = |text: &str| text.parse().ok().filter(|count| *count <= COUNT_MAX).ok_or_else(bad);
            let (name, twice) = match item.split_once('=') {
                Some((MIN_POINTS, text)) => (MIN_POINTS, min_points.replace(count(text)?).is_some()),
                Some((name, age)) => {
                    let rule = WITHIN.iter().position(|known| *known == name).ok_or_else(bad)?;
                    (name, within[rule].replace(age.parse::<Age>()?).is_some())
                }
                None => {
                    let split = item.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
                    let (number, unit) = item.split_at(split);
                    let rule =
                        RULES.iter().position(|(name, short)| *short == unit || *name == unit).ok_or_else(bad)?;
                    (unit, counts[rule].replace(count(number)?).is_some())
                }
            };
            if twice {
                return Err(KeepError::Twice { unit: name.to_owned() });
            }
        }
        Self::with(counts.map(Option::unwrap_or_default), within, min_points)
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = RULES.iter().zip(self.counts).filter(|(_, count)| *count > 0);
        let mut items: Vec<String> = counts.map(|((_, unit), count)| format!("{count}{unit}")).collect();
        let within = WITHIN.iter().zip(self.within);
        items.extend(within.filter_map(|(name, age)| age.map(|age| format!("{name}={age}"))));
        if self.min_points != 1 {
            items.push(format!("{MIN_POINTS}={}", self.min_points));
        }
        f.pad(&items.join(" "))
    }
}

/// What was typed, short enough for a line.
fn shown(text: &str) -> String {
    crate::names::escape(text.as_bytes()).chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_back_as_it_is_shown() {
        for (typed, shown) in [
            ("7d 4w 12m", "7d 4w 12m"),
            ("12m,7d", "7d 12m"),
            ("3l 24h 1y 0w", "3l 24h 1y"),
            ("5last", "5l"),
            ("min_points=2 within_daily=1y within=14d2w 1d", "1d within=2w14d within_daily=1y min_points=2"),
            ("within=36h min_points=1", "within=36h"),
        ] {
            let keep: Keep = typed.parse().unwrap();
            assert_eq!(keep.to_string(), shown);
            assert_eq!(shown.parse(), Ok(keep));
        }
        assert_eq!("7d 4w 12m".parse::<Keep>().unwrap().counts(), &[0, 0, 7, 4, 12, 0]);
    }

    #[test]
    fn a_rule_that_keeps_nothing_is_refused() {
        for nothing in ["", "0d", "0d 0w", "min_points=3"] {
            assert_eq!(nothing.parse::<Keep>(), Err(KeepError::Nothing), "{nothing}");
        }
    }

    #[test]
    fn a_rule_that_is_not_understood_is_refused() {
        for bad in ["7", "d", "-1d", "7 d", "7x", "7D", "99999999999d", "100001d", "ü"] {
            assert!(matches!(bad.parse::<Keep>(), Err(KeepError::Item { .. })), "{bad}");
        }
        for bad in [
            "within=",
            "within=0d",
            "within=7",
            "within=d",
            "within=1d1d",
            "within=3s",
            "within=100001d",
            "within_last=1d",
        ] {
            assert!(matches!(bad.parse::<Keep>(), Err(KeepError::Age { .. } | KeepError::Item { .. })), "{bad}");
        }
        for twice in ["7d 8d", "within=1d within=2d", "min_points=1 min_points=2"] {
            assert!(matches!(twice.parse::<Keep>(), Err(KeepError::Twice { .. })), "{twice}");
        }
    }
}
