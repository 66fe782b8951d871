//! What is due, and what may be let go.
//!
//! Owns triggers, their occurrences in a zone, and retention rules as written. Refuses clocks: it is told the time and never asks.

pub mod keep;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// When a policy runs: at least one trigger, none twice.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    triggers: Vec<String>,
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
    /// What no other occurrence of the same schedule is called, in any process and at any time.
    pub id: String,
}

impl Schedule {
    /// All occurrences due later than `after`, in order of time, then of trigger. Times may repeat; ids never do.
    pub fn occurrences<'a>(&'a self, _zone: &'a TimeZone, _after: Timestamp) -> impl Iterator<Item = Occurrence> + 'a {
        self.triggers.iter().filter_map(|_| None)
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
