//! The bytes at rest: packs, index runs, trees, and the small sealed objects.
//!
//! Owns the one description of them (below) and their codecs. Refuses stores, files and clocks.
#![doc = include_str!("FORMAT.md")]

pub mod container;
pub mod entry;
pub mod keys;
pub mod leaf;
pub mod list;
pub mod node;
pub mod object;
pub mod patch;
pub mod record;
pub mod run;
pub mod tree;
pub mod wire;
