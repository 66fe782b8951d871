//! Which snapshots of a group stay, and by which rules.
//!
//! Owns the decision, from times and a rule. Refuses to delete, and to group: it is told the points of one group and says of each why it stays, or that nothing keeps it.
//!
//! - A period (an hour, a day, an ISO week, a month, a year of the zone) is kept by its newest point. Periods without a point do not count, so a host that was
//!   switched off for a month loses nothing by it.
//! - `within` counts from the newest point, not from now, for the same reason.
//! - A point that lies in the future was made by a clock that was wrong. It stays, and takes nobody's place: neither does it fill a count, nor is anything reckoned from it.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

use super::keep::{Keep, RULES};

/// Clocks of hosts differ by less.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// A snapshot, as retention sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    pub at: Timestamp,
    /// One could recover from it: `min_points` counts these.
    pub healthy: bool,
}

/// Why a point stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The newest of its period, the `nth` of `of` that are kept; `rule` is a place in `RULES`.
    Count { rule: usize, nth: u32, of: u32 },
    /// Young enough; `rule` says of which periods (`last`: every point).
    Within { rule: usize },
    /// Without it fewer than `min_points` healthy points would stay.
    Least,
    /// Its time lies in the future.
    Future,
}

/// A period of local time. Two hours of one name, when clocks are set back, are two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Period {
    Point(usize),
    Hour(DateTime, Offset),
    Day(i16, i16),
    Week(i16, i8),
    Month(i16, i8),
    Year(i16),
}

fn period(rule: usize, number: usize, at: &Zoned) -> Period {
    match RULES[rule].0 {
        "last" => Period::Point(number),
        "hourly" => Period::Hour(at.date().at(at.hour(), 0, 0, 0), at.offset()),
        "daily" => Period::Day(at.year(), at.day_of_year()),
        "weekly" => {
            let week = at.date().iso_week_date();
            Period::Week(week.year(), week.week())
        }
        "monthly" => Period::Month(at.year(), at.month()),
        _ => Period::Year(at.year()),
    }
}

/// Why each of `points` stays, in their order; none: no rule keeps it. `points` may stand in any order; of two at the same time the later one counts as newer.
pub fn decide(points: &[Point], keep: &Keep, zone: &TimeZone, now: Timestamp) -> Vec<Vec<Reason>> {
    let mut reasons = vec![Vec::new(); points.len()];
    let in_future = |point: &Point| point.at.duration_since(now) > AHEAD;
    let mut order: Vec<usize> = (0..points.len()).filter(|number| !in_future(&points[*number])).collect();
    order.sort_by_key(|number| std::cmp::Reverse((points[*number].at, *number)));
    for (number, _) in points.iter().enumerate().filter(|(_, point)| in_future(point)) {
        reasons[number].push(Reason::Future);
    }
    let local: Vec<Zoned> = order.iter().map(|number| points[*number].at.to_zoned(zone.clone())).collect();
    for (rule, &of) in keep.counts().iter().enumerate() {
        let newest = newest_of_periods(rule, &order, &local);
        for (&number, nth) in newest.iter().zip(1..=of) {
            reasons[number].push(Reason::Count { rule, nth, of });
        }
    }
    for (rule, age) in keep.within().iter().enumerate() {
        let (Some(age), Some(newest)) = (age, local.first()) else { continue };
        // An age that reaches back further than time does keeps everything.
        let since = age.before(newest);
        for number in newest_of_periods(rule, &order, &local) {
            if since.is_none_or(|since| points[number].at >= since) {
                reasons[number].push(Reason::Within { rule });
            }
        }
    }
    let healthy = |number: &&usize| points[**number].healthy;
    let staying = order.iter().filter(healthy).filter(|number| !reasons[**number].is_empty()).count();
    let missing = (keep.min_points() as usize).saturating_sub(staying);
    let spare: Vec<usize> =
        order.iter().filter(healthy).filter(|n| reasons[**n].is_empty()).copied().take(missing).collect();
    for number in spare {
        reasons[number].push(Reason::Least);
    }
    reasons
}

/// The newest point of each period that has one, newest first.
fn newest_of_periods(rule: usize, order: &[usize], local: &[Zoned]) -> Vec<usize> {
    let mut newest = Vec::new();
    let mut before = None;
    for (&number, at) in order.iter().zip(local) {
        let now = Some(period(rule, number, at));
        if now != before {
            newest.push(number);
            before = now;
        }
    }
    newest
}

#[cfg(test)]
mod tests;
