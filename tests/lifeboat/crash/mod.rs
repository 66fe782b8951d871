//! The shipped binary, stopped at the calls by which it makes something last, and real processes that work, and are killed, beside each other.
//!
//! `sweep` owns the claim that one command survives a fault: it is run under strace (`scripts/test` installs it), which kills it before the n-th of
//! those calls, or lets that call fail; or the power goes there, so that what was not yet durable is lost. `together` owns the claim that many
//! processes do each other no harm, and `between` that one journey does none to another at any moment of it. None knows how a store works inside: that is `store_faults`, `store_system_calls` and `backup`.
//!
//! - The default run takes about 300 points, spread over each command and all kinds of fault, and the same ones each time.
//!   `LIFEBOAT_TEST_LONG=1` takes every point by every fault, and for each point a pair of faults of two runs in a row: more than 3,000.
//! - A point that fails prints the line that repeats it alone: `LIFEBOAT_TEST_CRASH=CALL:NUMBER:FAULT`, several joined by `+` for runs in a row.
//!   FAULT is `kill`, `eio`, `enospc`, `lost` or `torn`. The number counts the calls of one thread, as strace does; where threads share
//!   work, another object may be hit; the last call that was seen is printed, and a point that was passed by is tried earlier.
//! - `LIFEBOAT_TEST_SEED` repeats the chosen pairs of faults, and the dice of `together`.

mod between;
mod judge;
mod points;
mod power;
mod scene;
mod sweep;
mod together;
mod trace;

/// A number below `limit`, from the seed (xorshift64).
fn roll(dice: &mut u64, limit: u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    *dice % limit.max(1)
}

/// `LIFEBOAT_TEST_SEED`, or the time; printed.
fn seed() -> u64 {
    let given = std::env::var("LIFEBOAT_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64).max(1);
    eprintln!("LIFEBOAT_TEST_SEED={seed}");
    seed
}

fn long() -> bool {
    std::env::var_os("LIFEBOAT_TEST_LONG").is_some()
}
