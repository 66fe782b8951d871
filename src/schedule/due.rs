//! From triggers to instants.
//!
//! Owns the mapping of wall-clock times into a zone, by the rules of RFC 5545: a time in a gap moves later by the gap, a
//! repeated time is its first pass. Refuses randomness: jitter is added by whoever runs things.

use std::collections::VecDeque;

use jiff::Timestamp;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

use super::Occurrence;
use super::trigger::{Shape, Trigger};

/// The occurrences of one trigger, in order of (instant, wall-clock time).
pub(super) struct Instants<'a> {
    trigger: &'a Trigger,
    index: usize,
    zone: &'a TimeZone,
    after: Timestamp,
    state: State,
}

enum State {
    /// Seconds since 1970 of the last multiple that was looked at.
    Every { last: i64 },
    /// The instant, in seconds, up to which everything was listed.
    Real { last: i64 },
    /// The wall clock, in seconds as if it were UTC, up to which everything was mapped; and what awaits its turn, since a gap
    /// moves times behind later ones.
    Wall { last: i64, ready: VecDeque<(Timestamp, i64)> },
}

impl<'a> Instants<'a> {
    pub fn new(trigger: &'a Trigger, index: usize, zone: &'a TimeZone, after: Timestamp) -> Self {
        let second = after.as_nanosecond().div_euclid(1_000_000_000) as i64; // fits: jiff ends with the year 9999
        let wall = second + i64::from(zone.to_offset(after).seconds());
        let state = match trigger.shape() {
            Shape::Every { .. } => State::Every { last: second },
            _ if trigger.follows_instants() => State::Real { last: second },
            _ => State::Wall { last: wall - slack(zone, second), ready: VecDeque::new() },
        };
        Self { trigger, index, zone, after, state }
    }

    fn real(&self, at: i64) -> Option<Occurrence> {
        let at = Timestamp::from_second(at).ok()?;
        let nominal = at.to_zoned(self.zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        Some(Occurrence { at, trigger: self.index, nominal, id: format!("{}@{at}", self.trigger) })
    }
}

impl Iterator for Instants<'_> {
    type Item = Occurrence;

    fn next(&mut self) -> Option<Occurrence> {
        loop {
            let found = match &mut self.state {
                State::Every { last } => {
                    let Shape::Every { seconds, offset } = self.trigger.shape() else { return None };
                    let (period, offset) = (i64::try_from(*seconds).ok()?, i64::try_from(*offset).ok()?);
                    let next = last.checked_sub(offset)?.div_euclid(period).checked_add(1)?.checked_mul(period)?;
                    *last = next.checked_add(offset)?;
                    let at = *last;
                    self.real(at)?
                }
                State::Real { last } => {
                    *last = next_real(self.trigger.shape(), self.zone, *last)?;
                    let at = *last;
                    self.real(at)?
                }
                State::Wall { last, ready } => {
                    if ready.is_empty() {
                        refill(self.trigger.shape(), self.zone, last, ready)?;
                    }
                    let (at, wall) = ready.pop_front()?;
                    let nominal = Offset::UTC.to_datetime(Timestamp::from_second(wall).ok()?);
                    let nominal = nominal.strftime("%Y-%m-%dT%H:%M:%S").to_string();
                    Occurrence { at, trigger: self.index, id: format!("{}@{nominal}", self.trigger), nominal }
                }
            };
            if found.at > self.after {
                return Some(found);
            }
        }
    }
}

/// How far behind the wall clock of `second` a time may lie whose instant is still to come: as far as the clock jumped, if it
/// jumped no longer ago than that.
fn slack(zone: &TimeZone, second: i64) -> i64 {
    let jump = || {
        let change = zone.preceding(Timestamp::from_second(second + 1).ok()?).next()?.timestamp().as_second();
        let offset = |at| Timestamp::from_second(at).ok().map(|at| i64::from(zone.to_offset(at).seconds()));
        let jump = offset(change)? - offset(change - 1)?;
        Some(jump).filter(|jump| second - change <= *jump)
    };
    jump().unwrap_or(0).max(0)
}

/// The next instant later than `last` at which the zone's wall clock matches. Seconds since 1970 in and out.
fn next_real(shape: &Shape, zone: &TimeZone, mut last: i64) -> Option<i64> {
    loop {
        let here = Timestamp::from_second(last).ok()?;
        let offset = i64::from(zone.to_offset(here).seconds());
        let change = zone.following(here).next().map(|change| change.timestamp().as_second());
        let found = shape.next_wall(last + offset)? - offset;
        match change {
            // The clock changes first. The instant of the change counts too, read by the new clock.
            Some(change) if found >= change => {
                let new = i64::from(zone.to_offset(Timestamp::from_second(change).ok()?).seconds());
                if shape.next_wall(change + new - 1)? == change + new {
                    return Some(change);
                }
                last = change;
            }
            _ => return Some(found),
        }
    }
}

/// Maps the next wall-clock time, and with one in a gap all those that the gap could put before it.
fn refill(shape: &Shape, zone: &TimeZone, last: &mut i64, ready: &mut VecDeque<(Timestamp, i64)>) -> Option<()> {
    let mut until = i64::MIN;
    while let Some(wall) = shape.next_wall(*last) {
        if !ready.is_empty() && wall >= until {
            break;
        }
        *last = wall;
        let civil = Offset::UTC.to_datetime(Timestamp::from_second(wall).ok()?);
        let ambiguous = zone.to_ambiguous_timestamp(civil);
        if let AmbiguousOffset::Gap { before, after } = ambiguous.offset() {
            until = until.max(wall + i64::from(after.seconds()) - i64::from(before.seconds()));
        }
        ready.push_back((ambiguous.compatible().ok()?, wall));
    }
    ready.make_contiguous().sort();
    if ready.is_empty() { None } else { Some(()) }
}
