//! Packs on their way to a store that is far away, while workers go on.
//!
//! Owns the threads, one for each pack that is under way, and the bound on their bytes. What names a pack is told only when its create has returned. The first
//! error ends the session: whoever brings the next pack receives it, and so does everyone after. A run that is cancelled waits for no room, and at its end
//! `PATIENCE` for what is under way: a store that has stopped answering is tried for two minutes, and whoever cancels wants to go. What lands later is a pack
//! that nothing names.
//!
//! Memory: `IN_FLIGHT_BYTES`, so two packs of 32 MiB, each of which is full only once its last frame and its table went beyond that. One alone fills a link but
//! for its round trip: at 200 Mbit/s it takes 1.3 s, and with two under way the round trip of one is covered by the bytes of the other. Beside them stand the
//! packs being filled, two for data and one for metadata: 96 MiB. With 19 MiB for each of two workers, 8 MiB of index blocks and 16 MiB of tree nodes that is
//! 230 MiB of the 256 that a backup to a cloud may take.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::store::{Class, Result, StoreError};

const IN_FLIGHT_BYTES: u64 = 72 << 20;
/// Small packs, which end a session, go at once.
const IN_FLIGHT: usize = 8;

/// At 200 Mbit/s all that may be under way lands in 3 s.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often whoever waits for room looks whether the run was cancelled.
const GLANCE: Duration = Duration::from_millis(200);

/// Uploads of one session.
pub(super) struct Uploads {
    flight: Arc<Flight>,
    cancel: Arc<AtomicBool>,
}

#[derive(Default)]
struct Flight {
    state: Mutex<State>,
    landed: Condvar,
}

#[derive(Default)]
struct State {
    uploads: usize,
    bytes: u64,
    error: Option<StoreError>,
}

impl Flight {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.landed.wait_timeout(state, GLANCE).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// One upload's share; given back when its thread is through, or unwinds.
struct Share {
    flight: Arc<Flight>,
    bytes: u64,
    failed: Option<StoreError>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.flight.state();
        state.uploads -= 1;
        state.bytes -= self.bytes;
        if let Some(error) = self.failed.take() {
            state.error.get_or_insert(error);
        }
        self.flight.landed.notify_all();
    }
}

/// The same error once more, for the next who asks.
fn again(error: &mut Option<StoreError>) -> Option<StoreError> {
    #[derive(Clone, Debug)]
    struct Cause(Arc<dyn std::error::Error + Send + Sync>);

    impl std::fmt::Display for Cause {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.fmt(f)
        }
    }

    impl std::error::Error for Cause {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.0.source()
        }
    }

    let StoreError { class, store, verb, key, cause } = error.take()?;
    let cause = match cause.downcast::<Cause>() {
        Ok(cause) => *cause,
        Err(cause) => Cause(Arc::from(cause)),
    };
    *error = Some(StoreError::new(class, &store, verb, &key, cause.clone()));
    Some(StoreError::new(class, &store, verb, &key, cause))
}

impl Uploads {
    /// `cancel` is set by whoever wants the session to end.
    pub fn new(cancel: Arc<AtomicBool>) -> Self {
        Self { flight: Arc::default(), cancel }
    }

    /// Whether one more should be under way: one alone leaves the link idle for a round trip after its last byte.
    pub fn is_idle(&self) -> bool {
        self.flight.state().uploads < 2
    }

    /// Waits for room, then has `upload` done beside the caller.
    pub fn start(&self, bytes: u64, upload: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        let mut state = self.flight.state();
        loop {
            if let Some(error) = again(&mut state.error) {
                return Err(error);
            }
            if self.cancel.load(Ordering::Relaxed) {
                return Err(StoreError::new(
                    Class::Permanent,
                    "the store",
                    "create",
                    "a pack",
                    "the run was cancelled",
                ));
            }
            if state.uploads == 0 || (state.uploads < IN_FLIGHT && state.bytes + bytes <= IN_FLIGHT_BYTES) {
                break;
            }
            state = self.flight.wait(state);
        }
        state.uploads += 1;
        state.bytes += bytes;
        drop(state);
        // If the thread cannot be had, or panics, the share comes back with the upload undone, and that is an error too.
        let unfinished = "the thread that uploads it could not be started, or ended by a defect";
        let failed = Some(StoreError::new(Class::Permanent, "the store", "create", "a pack", unfinished));
        let share = Share { flight: self.flight.clone(), bytes, failed };
        let work = move || {
            let mut share = share;
            share.failed = upload().err();
            drop(share);
        };
        // An error of the spawn drops the share: the caller learns of it as of any other failure.
        let _ = std::thread::Builder::new().name("upload".into()).spawn(work);
        Ok(())
    }

    /// Waits until nothing is under way.
    pub fn land(&self) -> Result<()> {
        let began = Instant::now();
        let mut state = self.flight.state();
        while state.uploads > 0 {
            if self.cancel.load(Ordering::Relaxed) && began.elapsed() > PATIENCE {
                tracing::warn!(
                    packs = state.uploads,
                    "the run was cancelled while packs were on their way; they are not waited for"
                );
                break;
            }
            state = self.flight.wait(state);
        }
        again(&mut state.error).map_or(Ok(()), Err)
    }

    /// The error of an upload that failed.
    pub fn check(&self) -> Result<()> {
        again(&mut self.flight.state().error).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::sync::mpsc;

    #[test]
    fn bytes_under_way_are_bounded_and_one_is_always_let_through() {
        let (uploads, flying, most) =
            (Uploads::new(Arc::default()), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        for bytes in [1 << 20, 32 << 20, 32 << 20, 20 << 20, 100 << 20, 40 << 20, 40 << 20] {
            let (flying, most) = (flying.clone(), most.clone());
            let upload = move || {
                most.fetch_max(flying.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
                std::thread::yield_now();
                flying.fetch_sub(bytes, Ordering::SeqCst);
                Ok(())
            };
            uploads.start(bytes, upload).unwrap();
        }
        uploads.land().unwrap();
        assert!(most.load(Ordering::SeqCst) <= 100 << 20);
    }

    #[test]
    fn the_first_error_reaches_everyone() {
        let uploads = Uploads::new(Arc::default());
        let full = || StoreError::new(Class::Full, "store", "create", "d/aa/bb", "no space");
        uploads.start(1, move || Err(full())).unwrap();
        for _ in 0..3 {
            let error = uploads.land().unwrap_err();
            assert_eq!((error.class, error.key.as_str()), (Class::Full, "d/aa/bb"));
            assert_eq!(error.cause.to_string(), "no space");
        }
        assert!(uploads.start(1, || Ok(())).is_err());
        assert!(uploads.check().is_err());
    }

    #[test]
    fn nobody_waits_for_room_in_a_run_that_was_cancelled() {
        let (send, receive) = mpsc::channel::<()>();
        let cancel = Arc::new(AtomicBool::new(false));
        let uploads = Uploads::new(cancel.clone());
        let stuck = move || {
            let _ = receive.recv();
            Ok(())
        };
        uploads.start(IN_FLIGHT_BYTES, stuck).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| uploads.start(1, || Ok(())));
            cancel.store(true, Ordering::Relaxed);
            assert!(waiting.join().unwrap().is_err());
        });
        drop(send);
        uploads.land().unwrap();
    }

    #[test]
    fn landing_waits_for_what_is_under_way() {
        let (send, receive) = mpsc::channel();
        let uploads = Uploads::new(Arc::default());
        uploads
            .start(1, move || {
                receive.recv().unwrap();
                Ok(())
            })
            .unwrap();
        std::thread::scope(|scope| {
            let landing = scope.spawn(|| uploads.land());
            assert!(!landing.is_finished());
            send.send(()).unwrap();
            landing.join().unwrap().unwrap();
        });
    }
}
