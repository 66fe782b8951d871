//! A circuit for each bucket: a server that keeps failing is left alone for a while.
//!
//! Owns the decision whether a request may be made now. While the circuit is open requests fail at once; then one is let through, and its fate
//! decides for all. So many workers that wait for one sick server do not keep it sick. Refuses to wait: pauses belong to whoever repeats.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many failures one after another open it: more than a burst that a few workers meet at once.
const FAILURES: u32 = 24;
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(15);

#[derive(Default)]
pub(super) struct Circuit(Mutex<State>);

#[derive(Default)]
struct State {
    failures: u32,
    last: String,
    /// Open until then; one request may then try.
    open: Option<(Instant, Duration)>,
    /// That one is under way.
    trial: bool,
}

impl Circuit {
    /// Whether a request may be made; else how many failed and how the last one did.
    pub fn enter(&self, now: Instant) -> Result<(), (u32, String)> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.open {
            Some((until, _)) if now < until => Err((state.failures, state.last.clone())),
            // This one tries; the others wait for as long again.
            Some((_, pause)) => {
                state.open = Some((now + pause, pause));
                state.trial = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub fn succeeded(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    pub fn failed(&self, now: Instant, why: String) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = state.failures.saturating_add(1);
        state.last = why;
        let pause = match state.open {
            None if state.failures < FAILURES => return,
            None => PAUSE_FIRST,
            Some((_, pause)) if state.trial => (pause * 2).min(PAUSE_MAX),
            // Requests that were under way when it opened say nothing new.
            Some(_) => return,
        };
        state.trial = false;
        state.open = Some((now + pause, pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_failures_open_it_and_one_success_closes_it() {
        let (circuit, start) = (Circuit::default(), Instant::now());
        for _ in 0..FAILURES {
            assert!(circuit.enter(start).is_ok());
            circuit.failed(start, "refused".into());
        }
        assert_eq!(circuit.enter(start), Err((FAILURES, "refused".into())));
        let later = start + PAUSE_FIRST;
        assert!(circuit.enter(later).is_ok(), "one may try");
        assert!(circuit.enter(later).is_err(), "the others wait for it");
        circuit.failed(later, "refused".into());
        assert!(circuit.enter(later + PAUSE_FIRST).is_err(), "the pause has doubled");
        circuit.succeeded();
        assert!(circuit.enter(later).is_ok());
    }

    #[test]
    fn failures_that_alternate_with_successes_leave_it_closed() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..10 * FAILURES {
            circuit.failed(now, "busy".into());
            circuit.succeeded();
        }
        assert!(circuit.enter(now).is_ok());
    }
}
