//! How long to wait between attempts, and how often.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Pauses that double from `first` up to `cap`, each between half and all of that, drawn anew so that many hosts which
/// failed together do not come back together.
#[derive(Clone)]
pub struct Pace {
    /// Calls in all, the first among them; at least one is made.
    pub attempts: u32,
    pub first: Duration,
    pub cap: Duration,
    sleep: Arc<dyn Fn(Duration) + Send + Sync>,
}

impl Default for Pace {
    /// Outlives a store's silence of one minute: 15 attempts wait between 63 and 127 seconds in all.
    fn default() -> Self {
        Self::new(15, Duration::from_millis(200), Duration::from_secs(15))
    }
}

impl Pace {
    pub fn new(attempts: u32, first: Duration, cap: Duration) -> Self {
        Self { attempts, first, cap, sleep: Arc::new(thread::sleep) }
    }

    /// Sleeps by `sleep` instead of the thread's.
    pub fn sleeping_by(self, sleep: impl Fn(Duration) + Send + Sync + 'static) -> Self {
        Self { sleep: Arc::new(sleep), ..self }
    }

    /// Waits after the failed attempt number `attempt`, counted from 1. False: there is none left, and no wait.
    pub(super) fn wait_after(&self, attempt: u32) -> bool {
        if attempt >= self.attempts {
            return false;
        }
        let doubled = self.first.saturating_mul(1u32.checked_shl(attempt - 1).unwrap_or(u32::MAX)).min(self.cap);
        // Without randomness the pause is merely a regular one.
        let share = getrandom::u32().unwrap_or(u32::MAX);
        let half = doubled / 2;
        (self.sleep)(half + half.mul_f64(f64::from(share) / f64::from(u32::MAX)));
        true
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pace({} attempts, {:?} to {:?})", self.attempts, self.first, self.cap)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn pauses(pace: Pace) -> Vec<Duration> {
        let slept = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&slept);
        let pace = pace.sleeping_by(move |pause| notes.lock().unwrap().push(pause));
        let mut attempt = 1;
        while pace.wait_after(attempt) {
            attempt += 1;
        }
        let slept = slept.lock().unwrap();
        slept.clone()
    }

    #[test]
    fn pauses_double_up_to_the_cap_and_end() {
        let pauses = pauses(Pace::new(5, Duration::from_secs(1), Duration::from_secs(3)));
        let bounds = [1000, 2000, 3000, 3000].map(Duration::from_millis);
        assert_eq!(pauses.len(), bounds.len());
        for (pause, bound) in pauses.iter().zip(bounds) {
            assert!((bound / 2..=bound).contains(pause), "{pause:?} for {bound:?}");
        }
    }

    #[test]
    fn the_usual_pace_outlives_a_minute() {
        let total: Duration = pauses(Pace::default()).iter().sum();
        assert!((Duration::from_secs(60)..Duration::from_secs(150)).contains(&total), "{total:?}");
    }

    #[test]
    fn a_long_row_of_attempts_does_not_overflow() {
        assert_eq!(pauses(Pace::new(80, Duration::from_secs(1), Duration::from_secs(2))).len(), 79);
    }
}
