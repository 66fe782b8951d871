//! The machine being saved: a sorted walk, metadata, excludes, and file content with its holes.
//!
//! Owns every look at the file system that is saved. Refuses to follow a link, to open anything but a regular file for its
//! content, to write, and to know what a chunk is. What goes wrong with one file is a [`Problem`] and the walk goes on;
//! only a root that is not there, or an exclude that means nothing, is a [`SourceError`].
//!
//! One thread walks; workers open what it found, each file once, through the handle of its directory. No path string
//! reaches the kernel after the root's own, so paths longer than `PATH_MAX` are ordinary, and a directory that is swapped
//! for a link leads nowhere.

pub mod bucket;
mod dir;
pub mod exclude;
pub mod image;
pub mod listed;
mod listing;
pub mod meta;
mod nameless;
pub mod open;
pub mod problem;
pub mod stat;
pub mod stream;
pub mod walk;

pub use problem::{Problem, ProblemKind, SourceError};
pub use stream::StreamError;
