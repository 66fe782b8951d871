//! Asking a cloud again.
//!
//! Owns when: after what a cloud says of itself, never of the object. Reads, and writes of whole objects, may be repeated freely. Clients repeat nothing by themselves.

use std::future::Future;
use std::time::Duration;

use crate::bucket::{Kind, refusal};

/// In all between 25 and 50 seconds; the bucket's circuit knows of longer silences.
const ATTEMPTS: u32 = 9;
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// The answer to `call`, which is made again while the cloud says "later".
pub async fn patiently<T, F: Future<Output = object_store::Result<T>>>(
    mut call: impl FnMut() -> F,
) -> object_store::Result<T> {
    let mut attempt = 1;
    loop {
        match call().await {
            Err(error) if attempt < ATTEMPTS && is_later(&error) => {}
            answer => return answer,
        }
        let doubled = PAUSE_FIRST.saturating_mul(1 << (attempt - 1)).min(PAUSE_MAX);
        // Many requests that failed together do not come back together. Without randomness the pause is merely a regular one.
        let share = getrandom::u32().unwrap_or(u32::MAX);
        tokio::time::sleep(doubled / 2 + (doubled / 2).mul_f64(f64::from(share) / f64::from(u32::MAX))).await;
        attempt += 1;
    }
}

/// Whether a cloud says that it may work later.
pub fn is_later(error: &object_store::Error) -> bool {
    refusal::of(error).is_some_and(|refusal| matches!(refusal.kind(), Kind::Transient | Kind::Ambiguous))
}
