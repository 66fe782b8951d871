//! The machine's time, and one that tests wind by hand.
//!
//! Owns the only calls to the wall clock. Refuses zones and calendars, which are `jiff`'s.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::pack::entry::Timestamp;

/// What is asked of a clock: now, as seconds and nanoseconds since 1970, UTC.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = jiff::Timestamp::now();
        let nanos = now.as_nanosecond();
        let secs = nanos.div_euclid(1_000_000_000);
        Timestamp { secs: secs as i64, nanos: nanos.rem_euclid(1_000_000_000) as u32 }
    }
}

/// A clock that stands still until it is set.
#[derive(Debug, Default)]
pub struct ManualClock {
    seconds: AtomicI64,
}

impl ManualClock {
    pub fn at(seconds: i64) -> Self {
        Self { seconds: AtomicI64::new(seconds) }
    }

    pub fn advance(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp { secs: self.seconds.load(Ordering::SeqCst), nanos: 0 }
    }
}
