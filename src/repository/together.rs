//! Calls beside each other, where each takes a round trip.
//!
//! Owns the threads. On a store that is near, everything happens on the caller's thread, in the order in which it is written.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Builder};

/// Small calls that are under way at once: few enough for any store's limit of connections, and 300 a second at 50 ms.
pub(crate) const CALLS: usize = 16;

/// Does both, beside each other if `apart`. The first is done first otherwise.
pub(crate) fn both<A: Send, B>(apart: bool, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B) -> (A, B) {
    if !apart {
        let first = a();
        return (first, b());
    }
    let a = Mutex::new(Some(a));
    let take = || a.lock().unwrap_or_else(PoisonError::into_inner).take().map(|a| a());
    thread::scope(|scope| {
        // Without a thread it is done here, afterwards.
        let spawned = Builder::new().name("beside".into()).spawn_scoped(scope, take);
        let second = b();
        let first = match spawned {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => take(),
        };
        (first.expect("it is taken once"), second)
    })
}

/// Does `work` for every item, up to `threads` at once; what came of each, in their order.
pub(crate) fn each<T: Sync, R: Send>(threads: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    if threads < 2 || items.len() < 2 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let share = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            match items.get(at) {
                Some(item) => done.push((at, work(item))),
                None => return done,
            }
        }
    };
    let mut done = thread::scope(|scope| {
        let spawn = |_| Builder::new().name("beside".into()).spawn_scoped(scope, share).ok();
        let threads: Vec<_> = (1..threads.min(items.len())).filter_map(spawn).collect();
        let mut done = share();
        for thread in threads {
            done.extend(thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn both_meet_and_all_come_back_in_order() {
        let meet = Barrier::new(2);
        both(true, || meet.wait(), || meet.wait());
        let meet = Barrier::new(4);
        let numbers: Vec<u32> = (0..16).collect();
        let doubled = each(4, &numbers, |number| {
            meet.wait();
            number * 2
        });
        assert_eq!(doubled, numbers.iter().map(|number| number * 2).collect::<Vec<_>>());
    }

    #[test]
    fn near_by_one_follows_the_other() {
        let order = Mutex::new(Vec::new());
        both(false, || order.lock().unwrap().push(1), || order.lock().unwrap().push(2));
        each(1, &[3, 4], |number| order.lock().unwrap().push(*number));
        assert_eq!(order.into_inner().unwrap(), [1, 2, 3, 4]);
    }
}
