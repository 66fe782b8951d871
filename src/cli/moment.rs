//! A moment as people write it: a date, a time, or how long ago.
//!
//! Owns the reading of it. Refuses what has two meanings: a bare number is neither.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use crate::pack::entry;

/// `2026-11-22`, `2026-11-22 18:00` (this machine's clock), `2026-11-22T18:00:00Z`, or `3d`, `12h`, `2 weeks` before now.
pub fn parse(text: &str, now: &Zoned) -> Result<entry::Timestamp, String> {
    let wrong =
        || format!("{text:?} is no time; write 2026-11-22, \"2026-11-22 18:00\", or how long ago: 12h, 3d, 2weeks");
    let here = |time: DateTime| time.to_zoned(TimeZone::system()).map(|at| at.timestamp()).ok();
    let at = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| text.parse::<DateTime>().ok().and_then(here))
        .or_else(|| text.parse::<Date>().ok().and_then(|date| here(date.into())))
        .or_else(|| {
            let span = text.parse::<Span>().ok().filter(|_| !text.starts_with(['-', '+']))?;
            Some(now.checked_sub(span).ok()?.timestamp())
        })
        .ok_or_else(wrong)?;
    let nanos = at.subsec_nanosecond();
    // Stored times count nanoseconds upwards, before 1970 too.
    Ok(match u32::try_from(nanos) {
        Ok(nanos) => entry::Timestamp { secs: at.as_second(), nanos },
        Err(_) => entry::Timestamp { secs: at.as_second() - 1, nanos: (1_000_000_000 + nanos).unsigned_abs() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_times_or_spans_before_now() {
        let now: Zoned = "2026-11-22T12:00:00[UTC]".parse().unwrap();
        let secs = |text: &str| parse(text, &now).map(|time| time.secs);
        let at = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
        assert_eq!(secs("2026-11-22T10:00:00Z"), Ok(at("2026-11-22T10:00:00Z")));
        assert_eq!(secs("3d"), Ok(at("2026-11-19T12:00:00Z")));
        assert_eq!(secs("2 weeks"), Ok(at("2026-11-08T12:00:00Z")));
        assert_eq!(secs("90m"), Ok(at("2026-11-22T10:30:00Z")));
        assert!(secs("2026-11-20").is_ok() && secs("2026-11-20 18:30").is_ok());
        for bad in ["", "5", "yesterday", "-3d", "2026-13-01"] {
            assert!(secs(bad).is_err(), "{bad}");
        }
        let before = parse("1969-12-31T23:59:59.5Z", &now).unwrap();
        assert_eq!((before.secs, before.nanos), (-1, 500_000_000));
    }
}
