//! Bytes → chunks.
//!
//! Owns where content is cut. Refuses I/O and hashing of content: whoever calls brings bytes and names what comes out.

pub mod gear;

/// Bytes of a chunk of a disk image: changed blocks of an image lie scattered, and small fixed ones grew a quarter less than
/// content-defined ones of the same mean, at half the time.
pub const FIXED_BYTES: usize = 64 << 10;
