//! The bytes at rest.

pub mod entry;
