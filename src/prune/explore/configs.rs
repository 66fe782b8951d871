//! What is explored: who meets whom, over what.

use super::actors::{Role, Then};
use super::scene::{Past, Scene};
use super::schedule::Config;
use super::writer::Task;

pub const A: (&str, &str) = ("a", "what was there first");
pub const B: (&str, &str) = ("b", "what came second");
pub const C: (&str, &str) = ("c", "what came third");
pub const D: (&str, &str) = ("d", "what came last");

/// One snapshot of one file.
pub static ONE: Past = &[(0, Task::of(&[A]))];
/// A file that only the older snapshot has, and one that both have.
static TWO: Past = &[(0, Task::of(&[A, B])), (0, Task::of(&[B]).on_parent())];

/// Two files in one pack, one of which only the older snapshot has.
static PACKED: Past = &[(0, Task::of(&[A, B, C]).together()), (0, Task::of(&[B]).on_parent())];
/// So many deltas that the next backup makes a segment of them, which other writers read.
static MERGED: Past = &[(0, Task::of(&[A, B]).in_pieces())];

static NEW: &[Task] = &[Task::of(&[C])];
static SAME: &[Task] = &[Task::of(&[A]).advancing()];
static PLAIN: &[Task] = &[Task::of(&[A])];
static SECOND: &[Task] = &[Task::of(&[B, C]).advancing()];
static FOUND: &[Task] = &[Task::of(&[A, B]).advancing()];
static ALL: &[Task] = &[Task::of(&[A, B, C]).on_parent().advancing()];
static UNCHANGED: &[Task] = &[Task::of(&[A]).on_parent().advancing()];
static CHANGED: &[Task] = &[Task::of(&[A, C]).on_parent().advancing()];
static TWICE: &[Task] = &[Task::of(&[A, C]), Task::of(&[A, B, C]).on_parent()];

pub fn config(name: &'static str, past: Past, roles: Vec<Role>) -> Config {
    Config { name, scene: Scene::after(past), roles, without: None, spared: &[], salt: 0 }
}

pub fn writer(key: usize, tasks: &'static [Task]) -> Role {
    Role::Writer { key, tasks, lives: 2 }
}

pub const FORGETTER: Role = Role::Forgetter { count: 1, then: Then::Expire };
const HIDER: Role = Role::Forgetter { count: 1, then: Then::Nothing };
const WAVERER: Role = Role::Forgetter { count: 1, then: Then::TakeBack };
pub const READER: Role = Role::Reader { times: 2 };

pub const COLLECTOR: Role = Role::Collector { runs: 3, lives: 2 };

/// The fewest who can meet.
pub fn smallest() -> Config {
    let collector = Role::Collector { runs: 1, lives: 1 };
    let writer = Role::Writer { key: 0, tasks: PLAIN, lives: 1 };
    config("smallest", ONE, vec![writer, FORGETTER, collector])
}

/// What the default search goes through: none of them may lose anything.
pub fn all() -> Vec<Config> {
    vec![
        config("dedup-beside-prune", ONE, vec![writer(0, SAME), FORGETTER, COLLECTOR]),
        config("parent-beside-prune", ONE, vec![writer(0, UNCHANGED), FORGETTER, COLLECTOR]),
        config("changed-beside-prune", TWO, vec![writer(0, CHANGED), HIDER, COLLECTOR, READER]),
        config("two-collectors", ONE, vec![writer(0, SAME), FORGETTER, COLLECTOR, COLLECTOR]),
        config("one-key-twice", TWO, vec![writer(0, SAME), writer(0, SECOND), FORGETTER, COLLECTOR]),
        config("two-writers", MERGED, vec![writer(0, SAME), writer(1, FOUND), FORGETTER, COLLECTOR]),
        config("repack", PACKED, vec![writer(0, ALL), FORGETTER, COLLECTOR, READER]),
        config("repack-twice", PACKED, vec![writer(0, NEW), FORGETTER, COLLECTOR, COLLECTOR, READER]),
        config("taken-back", TWO, vec![WAVERER, COLLECTOR, COLLECTOR, READER]),
        config("many", TWO, vec![writer(0, TWICE), writer(1, SAME), FORGETTER, COLLECTOR, COLLECTOR, READER]),
        config("no-prune", TWO, vec![writer(0, TWICE), writer(1, NEW), FORGETTER, READER]),
    ]
}
