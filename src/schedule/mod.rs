//! What is due, and what may be let go.
//!
//! Owns triggers, their occurrences in a zone, and retention rules as written. Refuses clocks: it is told the time and never
//! asks. Refuses to run anything: two occurrences at one instant are two here, and one run in the daemon.

mod cron;
mod due;
pub mod keep;
pub mod retention;
mod trigger;

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use trigger::{Trigger, TriggerError, offset_seconds, seconds};

/// When a policy runs: at least one trigger, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    triggers: Vec<Trigger>,
}

/// One time that a trigger names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// When it is due.
    pub at: Timestamp,
    /// Which trigger of the schedule, from 0.
    pub trigger: usize,
    /// The local time that was named, `2027-03-28T02:30:00`; with its offset where the trigger follows real instants.
    pub nominal: String,
    /// What no other occurrence of the schedule is called, in any process and at any time: the trigger as it shows itself, `@`,
    /// and the nominal time (as UTC where it is an instant). It outlives a reordering of the triggers.
    pub id: String,
}

impl Schedule {
    /// None without a trigger; one that stands twice counts once.
    pub fn new(triggers: impl IntoIterator<Item = Trigger>) -> Option<Self> {
        let mut unique: Vec<Trigger> = Vec::new();
        for trigger in triggers {
            if !unique.contains(&trigger) {
                unique.push(trigger);
            }
        }
        if unique.is_empty() { None } else { Some(Self { triggers: unique }) }
    }

    pub fn triggers(&self) -> &[Trigger] {
        &self.triggers
    }

    /// All occurrences due later than `after`, in order of time, then of trigger. Times may repeat; ids never do.
    /// Wall-clock times end with the year 2100.
    pub fn occurrences<'a>(&'a self, zone: &'a TimeZone, after: Timestamp) -> impl Iterator<Item = Occurrence> + 'a {
        let mut sources: Vec<_> = self
            .triggers
            .iter()
            .enumerate()
            .map(|(index, trigger)| due::Instants::new(trigger, index, zone, after).peekable())
            .collect();
        std::iter::from_fn(move || {
            let times = sources.iter_mut().enumerate().filter_map(|(index, source)| Some((source.peek()?.at, index)));
            let (_, first) = times.min()?;
            sources[first].next()
        })
    }

    /// The first occurrence due later than `after`. Another one may be due at the same instant: see `due`.
    pub fn next_after(&self, zone: &TimeZone, after: Timestamp) -> Option<Occurrence> {
        self.occurrences(zone, after).next()
    }

    /// What is due in `(after, until]`. Lazy: after a long sleep there may be many.
    pub fn due<'a>(
        &'a self,
        zone: &'a TimeZone,
        after: Timestamp,
        until: Timestamp,
    ) -> impl Iterator<Item = Occurrence> + 'a {
        self.occurrences(zone, after).take_while(move |occurrence| occurrence.at <= until)
    }
}

/// The triggers, with commas between.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, trigger) in self.triggers.iter().enumerate() {
            write!(f, "{}{trigger}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
