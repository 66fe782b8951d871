//! What the time of workers goes into: compressing, and waiting for room on the way to a store that is far away.
//!
//! Owns two sums that also count those who are in the middle of it, so that whoever asks during a long wait hears of it. Refuses conclusions:
//! `backup::effort` draws them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Summed over all workers; only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    pub compressing: Duration,
    pub waiting: Duration,
}

#[derive(Clone, Copy)]
pub(super) enum Doing {
    Compressing,
    Waiting,
}

pub(super) struct Meter(Mutex<State>);

struct State {
    at: Instant,
    compressing: u32,
    waiting: u32,
    spent: Spent,
}

impl State {
    /// Brings the sums up to `now`.
    fn advance(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.spent.compressing += since * self.compressing;
        self.spent.waiting += since * self.waiting;
    }

    fn count(&mut self, doing: Doing) -> &mut u32 {
        match doing {
            Doing::Compressing => &mut self.compressing,
            Doing::Waiting => &mut self.waiting,
        }
    }
}

/// Somebody who is doing it, until dropped: a panic on the way is an end, too.
struct Busy<'m>(&'m Meter, Doing);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state(Instant::now());
        *state.count(self.1) -= 1;
    }
}

impl Meter {
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(State { at: now, compressing: 0, waiting: 0, spent: Spent::default() }))
    }

    fn state(&self, now: Instant) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.advance(now);
        state
    }

    pub fn during<T>(&self, doing: Doing, work: impl FnOnce() -> T) -> T {
        *self.state(Instant::now()).count(doing) += 1;
        let _busy = Busy(self, doing);
        work()
    }

    pub fn spent(&self) -> Spent {
        self.state(Instant::now()).spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_are_in_the_middle_of_it_count() {
        let begun = Instant::now();
        let second = Duration::from_secs(1);
        let mut state = State { at: begun, compressing: 1, waiting: 2, spent: Spent::default() };
        state.advance(begun + second);
        assert_eq!(state.spent, Spent { compressing: second, waiting: 2 * second });
        *state.count(Doing::Waiting) -= 1;
        state.advance(begun + 3 * second);
        // An instant that another thread took earlier is no reason to count anything twice.
        state.advance(begun + second);
        state.advance(begun + 3 * second);
        assert_eq!(state.spent, Spent { compressing: 3 * second, waiting: 4 * second });
    }

    #[test]
    fn an_end_by_a_panic_is_an_end() {
        let meter = Meter::new(Instant::now());
        let panic = || meter.during(Doing::Waiting, || panic!("as it happens"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panic)).is_err());
        assert_eq!(meter.0.lock().unwrap().waiting, 0);
    }
}
