//! Connections: taken, limited, answered, closed.
//!
//! Owns the accept loops and their limits. Refuses requests nothing; the router has its own say.
//!
//! Limits, for each of the two sockets: 256 connections, one request each (no keep-alive, so nobody sits on a place); 10 s for
//! the header; 60 s in all, so that a reader who reads nothing is let go too. When every place is taken, the connection that
//! has kept its header back for longest makes room: ten thousand silent sockets cannot keep a health check waiting.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tower::ServiceExt;
use tracing::warn;

use super::Peer;
use crate::daemon::Core;

const CONNECTIONS_MAX: usize = 256;
const HEADER_TIME_MAX: Duration = Duration::from_secs(10);
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);
const HEADER_BYTES_MAX: usize = 16 << 10;
/// After an accept that failed, say for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves both sockets until told to stop; answers under way are finished by then or given up with the runtime.
pub async fn serve(core: Arc<Core>, tcp: TcpListener, unix: UnixListener, stop: watch::Receiver<bool>) {
    let router = super::router(core);
    let tcp_room = Arc::new(Room::new(CONNECTIONS_MAX));
    let unix_room = Arc::new(Room::new(CONNECTIONS_MAX));
    let stopped = async move {
        let mut stop = stop;
        // An error means that nobody is left to say so, which says so.
        let _ = stop.wait_for(|stop| *stop).await.is_ok();
    };
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            accepted = tcp.accept() => match accepted {
                Ok((stream, address)) => take(stream, Peer::Tcp(address), &router, &tcp_room).await,
                Err(cause) => pause(&cause).await,
            },
            accepted = unix.accept() => match accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream))) {
                Ok((uid, stream)) => take(stream, Peer::Unix { uid }, &router, &unix_room).await,
                Err(cause) => pause(&cause).await,
            },
        }
    }
}

async fn pause(cause: &io::Error) {
    warn!(event = "api.accept", error = %cause, "connection could not be taken");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn take<S>(stream: S, peer: Peer, router: &Router, room: &Arc<Room>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some((seat, permit)) = room.enter().await else { return };
    let router = router.clone();
    let room = Arc::clone(room);
    tokio::spawn(async move {
        let _permit: OwnedSemaphorePermit = permit;
        let begun = Arc::clone(&seat);
        let leaving = Arc::clone(&room);
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            // Its header is here: from now on it is a guest and no longer a candidate for leaving.
            room.forget(&begun);
            request.extensions_mut().insert(peer);
            let answer = router.clone().oneshot(request.map(Body::new));
            async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME_MAX)
            .keep_alive(false)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            // A connection that breaks off is its client's affair.
            _ = connection => {}
            () = seat.notified() => {}
            () = tokio::time::sleep(CONNECTION_TIME_MAX) => {}
        }
        leaving.forget(&seat);
    });
}

/// The places of one socket, and who sits there without having said what they want.
struct Room {
    places: Arc<Semaphore>,
    silent: Mutex<VecDeque<Arc<Notify>>>,
}

impl Room {
    fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), silent: Mutex::new(VecDeque::with_capacity(places)) }
    }

    async fn enter(&self) -> Option<(Arc<Notify>, OwnedSemaphorePermit)> {
        if self.places.available_permits() == 0
            && let Some(oldest) = self.silent().pop_front()
        {
            oldest.notify_one();
        }
        let permit = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let seat = Arc::new(Notify::new());
        self.silent().push_back(Arc::clone(&seat));
        Some((seat, permit))
    }

    fn forget(&self, seat: &Arc<Notify>) {
        self.silent().retain(|other| !Arc::ptr_eq(other, seat));
    }

    fn silent(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Notify>>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_silent_makes_room_and_a_guest_does_not() {
        let room = Room::new(2);
        let (guest, _guest_permit) = room.enter().await.unwrap();
        room.forget(&guest);
        let (silent, silent_permit) = room.enter().await.unwrap();
        let leaves = async {
            silent.notified().await;
            drop(silent_permit);
        };
        let (entered, ()) = tokio::join!(room.enter(), leaves);
        assert!(entered.is_some());
    }
}
