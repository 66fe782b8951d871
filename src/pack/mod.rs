//! The bytes at rest: packs, index runs, trees, and the small sealed objects.
//!
//! Owns the one description of them (below) and their codecs. Refuses stores, files and clocks.
#![doc = include_str!("FORMAT.md")]

pub mod container;
pub mod entry;
pub mod run;
pub mod wire;
