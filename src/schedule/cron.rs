//! Cron lines as crontab(5) writes them, evaluated by the `cron` crate on bare wall-clock time.
//!
//! Owns the five fields. Refuses zones: what a wall-clock time means somewhere is `due`'s matter. Every field is spelled out
//! as a list before the crate sees it, because the crate counts Sunday as 1 and knows neither five fields nor ranges that
//! wrap. When both day fields are restricted, both must match.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};

use super::trigger::{DAYS, TriggerError, day_number};

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// What the names beginning with `@` stand for.
const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// A parsed cron line.
#[derive(Clone, Debug)]
pub struct CronLine {
    /// The five fields, lower case, one space between them.
    text: String,
    engine: cron::Schedule,
    /// Whether the hour field begins with `*`: such a line follows real instants.
    every_hour: bool,
    /// Whether both day fields are restricted, where crontab(5) would be content with either.
    both_days: bool,
}

struct Field {
    name: &'static str,
    min: u32,
    max: u32,
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", min: 0, max: 59 },
    Field { name: "hour", min: 0, max: 23 },
    Field { name: "day of month", min: 1, max: 31 },
    Field { name: "month", min: 1, max: 12 },
    Field { name: "day of week", min: 0, max: 7 }, // 0 and 7 are Sunday
];

impl CronLine {
    /// The next wall-clock time that matches, strictly later than `after`; both in seconds as if the clock were UTC.
    /// None when there is none up to the year 2100.
    pub fn next_wall(&self, after: i64) -> Option<i64> {
        let after: DateTime<Utc> = DateTime::from_timestamp(after, 0)?;
        self.engine.after(&after).next().map(|next| next.timestamp())
    }

    pub fn follows_instants(&self) -> bool {
        self.every_hour
    }

    pub fn restricts_both_days(&self) -> bool {
        self.both_days
    }
}

impl FromStr for CronLine {
    type Err = TriggerError;
    fn from_str(line: &str) -> Result<Self, TriggerError> {
        let line = line.trim().to_ascii_lowercase();
        let line = match NICKNAMES.iter().find(|(name, _)| *name == line) {
            Some((_, fields)) => *fields,
            None if line.starts_with('@') => return Err(TriggerError::Nickname { text: line }),
            None => &line,
        };
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        if fields.len() != FIELDS.len() {
            return Err(TriggerError::FieldCount { count: fields.len() });
        }
        let mut engine = String::from("0"); // the crate wants seconds
        for (field, text) in FIELDS.iter().zip(&fields) {
            engine.push(' ');
            engine.push_str(&field.spell_out(text)?);
        }
        let engine = engine.parse().map_err(|_| TriggerError::Unreadable { text: fields.join(" ") })?;
        let restricted = |field: usize| !fields[field].starts_with('*');
        Ok(Self {
            text: fields.join(" "),
            engine,
            every_hour: !restricted(1),
            both_days: restricted(2) && restricted(4),
        })
    }
}

impl fmt::Display for CronLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Field {
    /// The field as a comma-separated list of single values, or `*`.
    fn spell_out(&self, text: &str) -> Result<String, TriggerError> {
        let is_day = self.max == 7;
        let size = if is_day { 7 } else { self.max + 1 };
        let mut chosen = vec![false; size as usize];
        for item in text.split(',') {
            let bad = || TriggerError::Field { field: self.name, text: item.to_owned() };
            let (range, step) = match item.split_once('/') {
                None => (item, 1),
                Some((range, step)) => (range, digits(step).filter(|step| *step > 0).ok_or_else(bad)?),
            };
            let (first, last) = if range == "*" {
                (self.min, if is_day { 6 } else { self.max })
            } else if let Some((first, last)) = range.split_once('-') {
                (self.value(first).ok_or_else(bad)?, self.value(last).ok_or_else(bad)?)
            } else if item.contains('/') {
                return Err(TriggerError::StepWithoutRange { field: self.name, text: item.to_owned() });
            } else {
                let value = self.value(range).ok_or_else(bad)?;
                (value, value)
            };
            // A range that wraps, such as 22-2 or fri-mon, goes on after the field's largest value.
            let span = if is_day { 7 } else { self.max - self.min + 1 };
            let length = if last >= first { last - first } else { last + span - first };
            for offset in (0..=length).step_by(step as usize) {
                let value = (first - self.min + offset) % span + self.min;
                chosen[value as usize] = true;
            }
        }
        if chosen.iter().skip(self.min as usize).all(|chosen| *chosen) {
            return Ok("*".to_owned());
        }
        let show = |value: usize| if is_day { DAYS[value].to_owned() } else { value.to_string() };
        let list: Vec<String> = (0..chosen.len()).filter(|value| chosen[*value]).map(show).collect();
        Ok(list.join(","))
    }

    fn value(&self, text: &str) -> Option<u32> {
        let named = match self.max {
            7 => day_number(text),
            12 => MONTHS.iter().position(|name| *name == text).map(|at| at as u32 + 1),
            _ => None,
        };
        named.or_else(|| digits(text).filter(|value| (self.min..=self.max).contains(value)))
    }
}

/// A number of one to three digits; no sign.
pub(super) fn digits(text: &str) -> Option<u32> {
    let good = (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if good { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fires(line: &str, after: &str, count: usize) -> Vec<String> {
        let line: CronLine = line.parse().unwrap();
        let mut wall = after.parse::<DateTime<Utc>>().unwrap().timestamp();
        let mut times = Vec::new();
        for _ in 0..count {
            wall = line.next_wall(wall).unwrap();
            times.push(DateTime::from_timestamp(wall, 0).unwrap().format("%a %F %R").to_string());
        }
        times
    }

    fn weekdays(line: &str, after: &str, count: usize) -> Vec<String> {
        fires(line, after, count).into_iter().map(|time| time[..3].to_owned()).collect()
    }

    #[test]
    fn sunday_is_0_and_7_and_sun_and_monday_is_1() {
        for sunday in ["0", "7", "sun", "SUN"] {
            assert_eq!(fires(&format!("0 3 * * {sunday}"), "2027-01-01T00:00:00Z", 1), ["Sun 2027-01-03 03:00"]);
        }
        assert_eq!(fires("0 3 * * 1", "2027-01-01T00:00:00Z", 1), ["Mon 2027-01-04 03:00"]);
        assert_eq!(weekdays("0 3 * * 5-7", "2027-01-04T00:00:00Z", 4), ["Fri", "Sat", "Sun", "Fri"]);
        assert_eq!(weekdays("0 3 * * 0-7", "2027-01-04T00:00:00Z", 2), ["Mon", "Tue"]);
        assert_eq!(weekdays("0 3 * * fri-mon/3", "2027-01-04T04:00:00Z", 3), ["Fri", "Mon", "Fri"]);
    }

    #[test]
    fn ranges_may_wrap() {
        let hours: Vec<String> =
            fires("0 22-2 * * *", "2027-01-01T12:00:00Z", 6).into_iter().map(|text| text[15..].to_owned()).collect();
        assert_eq!(hours, ["22:00", "23:00", "00:00", "01:00", "02:00", "22:00"]);
        assert_eq!(
            fires("0 0 1 nov-feb *", "2027-01-01T12:00:00Z", 4),
            ["Mon 2027-02-01 00:00", "Mon 2027-11-01 00:00", "Wed 2027-12-01 00:00", "Sat 2028-01-01 00:00"]
        );
    }

    #[test]
    fn both_day_fields_must_match() {
        assert_eq!(fires("0 0 13 * fri", "2027-01-01T00:00:00Z", 1), ["Fri 2027-08-13 00:00"]);
        assert!("0 0 13 * fri".parse::<CronLine>().unwrap().restricts_both_days());
        assert!(!"0 0 */2 * fri".parse::<CronLine>().unwrap().restricts_both_days());
    }

    #[test]
    fn the_thirtieth_of_february_never_comes() {
        assert_eq!("0 0 30 2 *".parse::<CronLine>().unwrap().next_wall(0), None);
        assert_eq!(fires("0 0 29 2 *", "2027-01-01T00:00:00Z", 1), ["Tue 2028-02-29 00:00"]);
    }

    #[test]
    fn what_crontab_does_not_say_is_refused() {
        for bad in ["* * * *", "0 0 0 * * *", "0 0 0 * * * 2027"] {
            assert!(matches!(bad.parse::<CronLine>(), Err(TriggerError::FieldCount { .. })), "{bad}");
        }
        for bad in [
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "-1 * * * *",
            "*/0 * * * *",
            ",1 * * * *",
        ] {
            assert!(matches!(bad.parse::<CronLine>(), Err(TriggerError::Field { .. })), "{bad}");
        }
        for bad in ["* * L * *", "* * * * mon#1", "* * 15W * *", "* * ? * *", "a b c d e", "1-2-3 * * * *"] {
            assert!(matches!(bad.parse::<CronLine>(), Err(TriggerError::Field { .. })), "{bad}");
        }
        assert!(matches!("5/10 * * * *".parse::<CronLine>(), Err(TriggerError::StepWithoutRange { .. })));
        assert!(matches!("@reboot".parse::<CronLine>(), Err(TriggerError::Nickname { .. })));
    }

    #[test]
    fn nicknames_are_their_lines() {
        let shown =
            ["@hourly", "@daily", "@weekly", "@monthly", "@yearly"].map(|n| n.parse::<CronLine>().unwrap().to_string());
        assert_eq!(shown, ["0 * * * *", "0 0 * * *", "0 0 * * 0", "0 0 1 * *", "0 0 1 1 *"]);
    }
}
