//! An object's pieces, one after the other, the next ones on their way.
//!
//! Owns the threads that read ahead. Near, each piece is read when its turn comes. Memory far away: the piece that is looked at, and `READERS` more.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::Result;

/// Reads of one object at once: while the bytes of one pass the link, the other's round trip does.
const READERS: usize = 2;

/// What a read brings: bytes, or none after a finding was noted.
pub type Piece = Result<Option<Vec<u8>>>;

/// Has `look` see what `read` brings of each range, in their order. False: one could not be had, which was noted, and those after it were not looked at.
pub fn in_turn(
    apart: bool,
    ranges: &[Range<u64>],
    read: impl Fn(Range<u64>) -> Piece + Sync,
    mut look: impl FnMut(u64, Vec<u8>),
) -> Result<bool> {
    let mut see = |range: &Range<u64>, piece: Piece| -> Result<bool> {
        let Some(bytes) = piece? else { return Ok(false) };
        look(range.start, bytes);
        Ok(true)
    };
    if !apart || ranges.len() < 2 {
        for range in ranges {
            if !see(range, read(range.clone()))? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    let read = &read;
    std::thread::scope(|scope| {
        // A reader that waits to hand over its piece holds it, and reads no further.
        let lanes: [(SyncSender<Piece>, Receiver<Piece>); READERS] = std::array::from_fn(|_| sync_channel(0));
        let mut receivers = Vec::with_capacity(READERS);
        for (number, (send, receive)) in lanes.into_iter().enumerate() {
            let reader = move || {
                for range in ranges.iter().skip(number).step_by(READERS) {
                    if send.send(read(range.clone())).is_err() {
                        return; // nobody looks any more
                    }
                }
            };
            // Without a thread the lane is closed, and its pieces are read when their turn comes.
            let _ = std::thread::Builder::new().name("ahead".into()).spawn_scoped(scope, reader);
            receivers.push(receive);
        }
        for (range, receive) in ranges.iter().zip((0..READERS).cycle().map(|lane| &receivers[lane])) {
            let piece = receive.recv().unwrap_or_else(|_| read(range.clone()));
            if !see(range, piece)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::Error;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn ranges(count: u64) -> Vec<Range<u64>> {
        (0..count).map(|at| at * 10..at * 10 + 10).collect()
    }

    #[test]
    fn pieces_are_seen_in_their_order_and_few_are_read_ahead() {
        for apart in [false, true] {
            let (begun, mut seen) = (AtomicU64::new(0), Vec::new());
            let read = |range: Range<u64>| {
                begun.fetch_add(1, Ordering::SeqCst);
                Ok(Some(vec![range.start as u8]))
            };
            let all = in_turn(apart, &ranges(20), read, |start, bytes| {
                assert_eq!(bytes, [start as u8]);
                seen.push(start);
                assert!(begun.load(Ordering::SeqCst) <= seen.len() as u64 + READERS as u64);
            });
            assert!(all.unwrap());
            assert_eq!(seen, (0..20).map(|at| at * 10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_cannot_be_had_ends_it() {
        for apart in [false, true] {
            let mut seen = 0;
            let gone = |range: Range<u64>| Ok((range.start < 50).then(Vec::new));
            assert!(!in_turn(apart, &ranges(20), gone, |_, _| seen += 1).unwrap());
            assert_eq!(seen, 5);
            let fails = |range: Range<u64>| if range.start < 50 { Ok(Some(Vec::new())) } else { Err(Error::Cancelled) };
            assert!(matches!(in_turn(apart, &ranges(20), fails, |_, _| {}), Err(Error::Cancelled)));
        }
    }
}
