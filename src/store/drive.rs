//! Runs a future of `object_store` to its end on a thread that may block.
//!
//! Its local and in-memory stores do their work inline, unless the thread belongs to a tokio runtime: then they send it to
//! that runtime's pool and wait. Waiting there could hang when the pool is full of waiters or is being shut down, so the
//! future is driven on a thread that no runtime knows.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The future's output; an error only when a thread was needed and could not be had.
pub(super) fn to_end<T: Send>(future: impl Future<Output = T> + Send) -> io::Result<T> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Ok(here(future));
    }
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("store".into()).spawn_scoped(scope, || here(future))?;
        worker.join().map_err(|_| io::Error::other("the store's thread panicked"))
    })
}

fn here<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_that_is_woken_from_elsewhere_ends() {
        let (send, receive) = tokio::sync::oneshot::channel();
        thread::spawn(move || send.send(7));
        assert_eq!(to_end(receive).unwrap(), Ok(7));
    }

    #[test]
    fn no_runtime_is_seen_by_what_is_driven() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let seen = runtime.block_on(async { to_end(async { tokio::runtime::Handle::try_current().is_ok() }) });
        assert!(!seen.unwrap());
    }
}
