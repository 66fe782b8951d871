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

/// Fills `bytes` with key material from the kernel. Errors end the process: weak randomness is worse than no backup.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        panic!("the kernel gives no randomness: {error}");
    }
    bytes
}
