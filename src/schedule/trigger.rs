//! One line of a schedule: `daily 02:00`, `mon..fri 22:00`, `monthly last-fri 03:00`, `every 4h`, or a cron line.
//!
//! Owns the words. Refuses zones and clocks.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::{Date, Time, Weekday};
use jiff::tz::Offset;

use super::cron::{CronLine, digits};

pub(super) const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const LONG_DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
const PLACES: [(&str, i8); 5] = [("first", 1), ("second", 2), ("third", 3), ("fourth", 4), ("last", -1)];

/// The longest `every`: a leap year. Longer periods are a mistake in the unit.
const EVERY_SECONDS_MAX: u64 = 366 * 86_400;

/// One line of a schedule. Two triggers are equal if they are written alike in `Display`.
#[derive(Clone, Debug)]
pub struct Trigger {
    text: String,
    shape: Shape,
}

#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// Wall-clock times, or real instants if the line says so.
    Cron(Box<CronLine>),
    /// A weekday of each month, counted from its start or its end.
    Weekday { nth: i8, weekday: Weekday, time: Time },
    /// Instants at `offset` plus a multiple of `seconds` since 1970; 0 < seconds, offset < seconds.
    Every { seconds: u64, offset: u64 },
}

/// A line that is no trigger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TriggerError {
    #[error("a cron line has five fields, and this one has {count}")]
    FieldCount { count: usize },
    #[error("\"{text}\" is no {field} of a cron line")]
    Field { field: &'static str, text: String },
    #[error("\"{text}\" has a step without a range")]
    StepWithoutRange { field: &'static str, text: String },
    #[error("\"{text}\" is not a known name of a schedule")]
    Nickname { text: String },
    #[error("\"{text}\" is not a time of day")]
    TimeOfDay { text: String },
    #[error("\"{text}\" is not a day")]
    Day { text: String },
    #[error("\"{text}\" is not a duration between 1s and 366d")]
    Duration { text: String },
    #[error("the offset is not shorter than the period")]
    Offset,
    #[error("\"{text}\" is not a schedule")]
    Unreadable { text: String },
}

impl TriggerError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            Self::FieldCount { count } if *count > 5 => {
                "write minute, hour, day of month, month, day of week; seconds and years are not part of it ('every 30s' is a schedule too)".into()
            }
            Self::FieldCount { .. } => "write minute, hour, day of month, month, day of week: '15 2 * * *'".into(),
            Self::Field { text, .. } if text.contains(['l', '#', 'w']) && !text.contains("jul") => {
                "L, W and # are not crontab's; write 'monthly last-fri 03:00' or 'monthly first-mon 03:00'".into()
            }
            Self::Field { field, .. } => match *field {
                "minute" => "minutes go from 0 to 59".into(),
                "hour" => "hours go from 0 to 23".into(),
                "day of month" => "days of the month go from 1 to 31".into(),
                "month" => "months go from 1 to 12, or jan to dec".into(),
                _ => "days of the week go from 0 to 7 (0 and 7 are Sunday), or sun to sat".into(),
            },
            Self::StepWithoutRange { text, .. } => {
                let (first, step) = text.split_once('/').unwrap_or((text, "1"));
                format!("write '*/{step}' or a range, such as '{first}-59/{step}'")
            }
            Self::Nickname { .. } => "the names are @hourly, @daily, @weekly, @monthly and @yearly".into(),
            Self::TimeOfDay { .. } => "write hours and minutes from 00:00 to 23:59".into(),
            Self::Day { .. } => "write 'daily 02:00', 'sat 02:00', 'mon..fri 22:00', 'monthly 15 02:00' or 'monthly last-fri 03:00'".into(),
            Self::Duration { .. } => "write '30s', '15m', '4h', '1d' or '1w'".into(),
            Self::Offset => "shorten the offset or lengthen the period".into(),
            Self::Unreadable { .. } => {
                "write 'daily 02:00', 'mon..fri 22:00', 'monthly last-fri 03:00', 'every 4h' or five cron fields".into()
            }
        }
    }
}

impl Trigger {
    /// `every` this long, `offset` later than the multiples since 1970.
    pub fn every(seconds: u64, offset: u64) -> Result<Self, TriggerError> {
        if seconds == 0 || seconds > EVERY_SECONDS_MAX {
            return Err(TriggerError::Duration { text: show_seconds(seconds) });
        }
        if offset >= seconds {
            return Err(TriggerError::Offset);
        }
        let text = match offset {
            0 => format!("every {}", show_seconds(seconds)),
            _ => format!("every {} offset {}", show_seconds(seconds), show_seconds(offset)),
        };
        Ok(Self { text, shape: Shape::Every { seconds, offset } })
    }

    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Whether it names real instants and no wall-clock times.
    pub fn follows_instants(&self) -> bool {
        match &self.shape {
            Shape::Cron(line) => line.follows_instants(),
            Shape::Weekday { .. } => false,
            Shape::Every { .. } => true,
        }
    }

    /// Whether it is a cron line with both day fields restricted, which crontab(5) would read as either.
    pub fn restricts_both_days(&self) -> bool {
        // `monthly last-fri` and `mon..fri` say what they mean; only a cron line can surprise.
        matches!(&self.shape, Shape::Cron(line) if line.restricts_both_days()) && self.text.starts_with("cron ")
    }

    /// Whether it names a day that some months lack, and which are then left out.
    pub fn skips_short_months(&self) -> bool {
        ["monthly 29 ", "monthly 30 ", "monthly 31 "].iter().any(|start| self.text.starts_with(start))
    }

    /// Whether any time up to the year 2100 matches.
    pub fn ever_fires(&self) -> bool {
        match &self.shape {
            Shape::Cron(line) => line.next_wall(0).is_some(),
            Shape::Weekday { .. } | Shape::Every { .. } => true,
        }
    }
}

impl Shape {
    /// The next wall-clock time strictly later than `after`, both in seconds as if the clock were UTC; none for `every`.
    pub fn next_wall(&self, after: i64) -> Option<i64> {
        match self {
            Self::Cron(line) => line.next_wall(after),
            Self::Weekday { nth, weekday, time } => {
                let start = Timestamp::from_second(after).ok()?;
                let mut month = Offset::UTC.to_datetime(start).date().first_of_month();
                loop {
                    let date: Date = month.nth_weekday_of_month(*nth, *weekday).ok()?;
                    let wall = Offset::UTC.to_timestamp(date.to_datetime(*time)).ok()?.as_second();
                    if wall > after {
                        return Some(wall);
                    }
                    month = month.last_of_month().tomorrow().ok()?;
                }
            }
            Self::Every { .. } => None,
        }
    }
}

impl PartialEq for Trigger {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Trigger {}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Trigger {
    type Err = TriggerError;
    fn from_str(text: &str) -> Result<Self, TriggerError> {
        let lower = text.trim().to_ascii_lowercase();
        let words: Vec<&str> = lower.split_ascii_whitespace().collect();
        let cron = |fields: &str| {
            let line: CronLine = fields.parse()?;
            Ok(Self { text: format!("cron {line}"), shape: Shape::Cron(Box::new(line)) })
        };
        let by_fields = |text: String, fields: String| Ok(Self { text, shape: Shape::Cron(Box::new(fields.parse()?)) });
        match words.as_slice() {
            ["cron", fields @ ..] => cron(&fields.join(" ")),
            [name] if name.starts_with('@') => cron(name),
            ["every", period] => Self::every(seconds(period)?, 0),
            ["every", period, "offset", offset] => Self::every(seconds(period)?, offset_seconds(offset)?),
            ["daily", time] => {
                let time = time_of_day(time)?;
                by_fields(format!("daily {}", show(time)), format!("{} {} * * *", time.minute(), time.hour()))
            }
            ["monthly", day, time] => {
                let time = time_of_day(time)?;
                let bad = || TriggerError::Day { text: (*day).to_owned() };
                if let Some((place, weekday)) = day.split_once('-') {
                    let (place, nth) = PLACES.iter().find(|(name, _)| *name == place).ok_or_else(bad)?;
                    let number = day_number(weekday).ok_or_else(bad)?;
                    let weekday = Weekday::from_sunday_zero_offset(number as i8).map_err(|_| bad())?;
                    let text = format!("monthly {place}-{} {}", DAYS[number as usize], show(time));
                    Ok(Self { text, shape: Shape::Weekday { nth: *nth, weekday, time } })
                } else {
                    let day = digits(day).filter(|day| (1..=31).contains(day)).ok_or_else(bad)?;
                    let fields = format!("{} {} {day} * *", time.minute(), time.hour());
                    by_fields(format!("monthly {day} {}", show(time)), fields)
                }
            }
            [days, time] if days.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                let days = weekdays(days)?;
                let time = time_of_day(time)?;
                let fields = format!("{} {} * * {}", time.minute(), time.hour(), days.replace("..", "-"));
                by_fields(format!("{days} {}", show(time)), fields)
            }
            // Digits and `*` begin a cron line, whatever else is wrong with it.
            [first, _, ..] if first.starts_with(|c: char| c.is_ascii_digit() || c == '*') => cron(&words.join(" ")),
            _ => Err(TriggerError::Unreadable { text: shorten(text) }),
        }
    }
}

/// 0 for Sunday to 6 for Saturday, from a name of three letters or in full, lower case.
pub(super) fn day_number(text: &str) -> Option<u32> {
    let at = DAYS.iter().position(|day| *day == text).or_else(|| LONG_DAYS.iter().position(|day| *day == text))?;
    Some(at as u32)
}

/// `mon`, `mon,wed`, `mon..fri`, `fri..mon,wed`, with short names.
fn weekdays(text: &str) -> Result<String, TriggerError> {
    let day = |text: &str| match day_number(text) {
        Some(number) => Ok(DAYS[number as usize]),
        None => Err(TriggerError::Day { text: text.to_owned() }),
    };
    let mut items = Vec::new();
    for item in text.split(',') {
        items.push(match item.split_once("..") {
            Some((first, last)) => format!("{}..{}", day(first)?, day(last)?),
            None => day(item)?.to_owned(),
        });
    }
    Ok(items.join(","))
}

fn time_of_day(text: &str) -> Result<Time, TriggerError> {
    let read = || {
        let (hour, minute) = text.split_once(':')?;
        if minute.len() != 2 || hour.len() > 2 {
            return None;
        }
        Time::new(digits(hour)? as i8, digits(minute)? as i8, 0, 0).ok()
    };
    read().ok_or_else(|| TriggerError::TimeOfDay { text: shorten(text) })
}

fn show(time: Time) -> String {
    format!("{:02}:{:02}", time.hour(), time.minute())
}

/// Seconds of `30s`, `15m`, `4h`, `1d`, `1w`, `1h30m`; at least one.
pub fn seconds(text: &str) -> Result<u64, TriggerError> {
    offset_seconds(text).and_then(|seconds| match seconds {
        0 => Err(TriggerError::Duration { text: shorten(text) }),
        _ => Ok(seconds),
    })
}

/// The same, but `0s` is good.
pub fn offset_seconds(text: &str) -> Result<u64, TriggerError> {
    let bad = || TriggerError::Duration { text: shorten(text) };
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = rest[..split].parse().map_err(|_| bad())?;
        let unit = match rest.as_bytes()[split] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 7 * 86_400,
            _ => return Err(bad()),
        };
        total = number.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        rest = &rest[split + 1..];
    }
    if total > EVERY_SECONDS_MAX { Err(bad()) } else { Ok(total) }
}

fn show_seconds(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let (unit, size) = units.iter().find(|(_, size)| seconds.is_multiple_of(*size)).unwrap_or(&units[3]);
    if seconds == 0 { "0s".to_owned() } else { format!("{}{unit}", seconds / size) }
}

/// Text of a person, short enough for a message.
fn shorten(text: &str) -> String {
    let text = crate::names::escape(text.as_bytes());
    if text.chars().count() <= 40 { text } else { text.chars().take(39).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_shows_itself_as_it_is_written() {
        for text in [
            "daily 02:00",
            "sat 04:30",
            "mon..fri 22:00",
            "mon,wed 07:05",
            "fri..mon,wed 01:00",
            "monthly 15 02:00",
            "monthly last-fri 03:00",
            "monthly first-sun 00:00",
            "every 4h",
            "every 5s",
            "every 1d offset 2h",
            "cron 15 */6 * * *",
            "cron 0 2 * * mon-fri",
        ] {
            let trigger: Trigger = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(trigger.to_string(), text);
        }
    }

    #[test]
    fn other_spellings_mean_the_same_trigger() {
        for (typed, canonical) in [
            (" Daily  2:00 ", "daily 02:00"),
            ("Monday 02:00", "mon 02:00"),
            ("every 60m", "every 1h"),
            ("every 90s", "every 90s"),
            ("every 1h30m", "every 90m"),
            ("every 1w", "every 7d"),
            ("every 4h offset 0s", "every 4h"),
            ("15 */6 * * *", "cron 15 */6 * * *"),
            ("@daily", "cron 0 0 * * *"),
            ("cron @hourly", "cron 0 * * * *"),
        ] {
            assert_eq!(typed.parse::<Trigger>().unwrap().to_string(), canonical, "{typed}");
        }
    }

    #[test]
    fn what_is_no_trigger_is_refused_with_a_hint() {
        for bad in [
            "",
            " ",
            "daily",
            "daily 24:00",
            "daily 2",
            "daily 02:00:00",
            "daily 02:0",
            "dayly 02:00",
            "mon.fri 02:00",
            "mon.. 02:00",
            "monthly 32 02:00",
            "monthly 0 02:00",
            "monthly fifth-fri 02:00",
            "monthly last 02:00",
            "every 0s",
            "every 4",
            "every h",
            "every 367d",
            "every -1h",
            "every 1.5h",
            "every 4h offset 4h",
            "every 99999999999999999999h",
            "every 4ü",
            "0 2 * *",
            "0 0 2 * * *",
            "@reboot",
            "every",
            "cron",
            "sometimes",
            "at 5",
            "daily 0²:00",
            "daily 02:00 ☃",
        ] {
            let error = bad.parse::<Trigger>().expect_err(bad);
            assert!(!error.hint().is_empty() && !error.to_string().contains('\n'));
        }
    }
}
