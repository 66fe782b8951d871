//! Bytes per second, shared by all requests of a bucket.
//!
//! Owns a debt: whoever moves bytes adds to it, and waits until time has paid what was owed before. So single requests are sent whole, and the
//! average keeps to the rate.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(super) struct Rate {
    bytes_per_second: Option<u64>,
    /// When all bytes so far are paid.
    paid: Mutex<Instant>,
}

impl Rate {
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.filter(|rate| *rate > 0), paid: Mutex::new(Instant::now()) }
    }

    /// Notes `bytes`; the answer is how long to wait before they move.
    pub fn take(&self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let start = (*paid).max(now);
        *paid = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
        start - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wait_for_what_was_moved_before() {
        let (rate, now) = (Rate::new(Some(1000)), Instant::now() + Duration::from_secs(1));
        assert_eq!(rate.take(500, now), Duration::ZERO);
        assert_eq!(rate.take(1000, now), Duration::from_millis(500));
        assert_eq!(rate.take(1, now + Duration::from_millis(500)), Duration::from_secs(1));
        assert_eq!(rate.take(1, now + Duration::from_secs(60)), Duration::ZERO, "silence saves nothing up");
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let rate = Rate::new(None);
        assert_eq!(rate.take(u64::MAX, Instant::now()), Duration::ZERO);
    }
}
