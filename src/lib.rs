//! Lifeboat: a backup and disaster-recovery daemon, and the story of a byte.
//!
//! ```text
//! policy → schedule → source → chunk → seal → pack → store      a backup, left to right
//! target ←─── restore ←── unseal ←── unpack ←──────────┘        a restore, the way home
//!               ├→ verify   the same road, nothing written
//!               └→ drill    into an empty place, then ask it questions and keep the answers
//! ```
//!
//! The modules tell that story in five bands. Imports point up this list, never down.

// WORDS: no I/O, no other module
pub mod address;
pub mod compression;
pub mod names;
pub mod units;

// CORE: sync, no I/O; time and randomness handed in
pub mod chunk;
pub mod pack;
pub mod policy;
pub mod schedule;
pub mod seal;

// EDGES: the world, behind small traits; strangers to each other, but for the client of clouds (`bucket`)
pub mod bucket;
pub mod catalog;
pub mod clock;
pub mod source;
pub mod store;
pub mod target;

// JOURNEYS: the bands above, composed; one verb each
pub mod backup;
pub mod browse;
pub mod drill;
pub mod forget;
pub mod prune;
pub mod repository;
pub mod restore;
pub mod verify;

// SURFACES: people and machines outside
pub mod api;
pub mod cli;
pub mod daemon;
