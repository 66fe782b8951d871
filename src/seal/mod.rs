//! Chunk ↔ sealed chunk: keys, who holds which, and the ciphers under one purpose each.
//!
//! Owns every derivation, signature, stanza, nonce and id (`pack/FORMAT.md`, sections 3 to 5). Refuses I/O: randomness comes from the
//! kernel through `random`, bytes come from the caller. No key here has `Debug`, `Clone` or `Copy`; each wipes itself when dropped.

pub mod cipher;
pub mod compress;
pub mod key;
pub mod keyfile;
pub mod object;
pub mod sheet;
pub mod sign;
pub mod slot;
pub mod stanza;

/// Key material from the kernel. Errors end the process: weak randomness is worse than no backup.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

fn fill(bytes: &mut [u8]) {
    #[cfg(test)]
    if drawn::fill(bytes) {
        return;
    }
    if let Err(error) = getrandom::fill(bytes) {
        panic!("the kernel gives no randomness: {error}");
    }
}

/// Randomness that follows from a seed, so that a test can make the same run once more. No other build has it.
#[cfg(test)]
pub(crate) mod drawn {
    use std::cell::RefCell;

    thread_local! {
        static STREAM: RefCell<Option<blake3::OutputReader>> = const { RefCell::new(None) };
    }

    pub(super) fn fill(bytes: &mut [u8]) -> bool {
        STREAM.with_borrow_mut(|stream| stream.as_mut().map(|stream| stream.fill(bytes)).is_some())
    }

    /// Whatever this thread draws from now on follows from `seed`; none: it comes from the kernel.
    pub(crate) fn by(seed: Option<&str>) {
        STREAM.set(seed.map(|seed| blake3::Hasher::new().update(seed.as_bytes()).finalize_xof()));
    }
}
