//! What is explored: who meets whom, over what.

use super::actors::{Role, Task};
use super::scene::{Past, Scene};
use super::schedule::Config;

const A: (&str, &str) = ("a", "what was there first");
const B: (&str, &str) = ("b", "what came second");
const C: (&str, &str) = ("c", "what came third");

/// One snapshot of one file.
static ONE: Past = &[(0, Task::of(&[A]))];
/// A file that only the older snapshot has, and one that both have.
static TWO: Past = &[(0, Task::of(&[A, B])), (0, Task::of(&[B]).on_parent())];

static NEW: &[Task] = &[Task::of(&[C])];
static SAME: &[Task] = &[Task::of(&[A])];
static UNCHANGED: &[Task] = &[Task::of(&[A]).on_parent()];
static CHANGED: &[Task] = &[Task::of(&[A, C]).on_parent()];
static TWICE: &[Task] = &[Task::of(&[A, C]), Task::of(&[A, B, C]).on_parent()];

fn config(name: &'static str, past: Past, roles: Vec<Role>) -> Config {
    Config { name, scene: Scene::after(past), roles, without: None, salt: 0 }
}

fn writer(key: usize, tasks: &'static [Task]) -> Role {
    Role::Writer { key, tasks, lives: 2 }
}

const FORGETTER: Role = Role::Forgetter { count: 1, expires: true };
const READER: Role = Role::Reader { times: 2 };

pub fn all() -> Vec<Config> {
    vec![
        config("one-key-twice", ONE, vec![writer(0, SAME), writer(0, UNCHANGED)]),
        config("two-writers", ONE, vec![writer(0, SAME), writer(1, NEW)]),
        config("forgotten-parent", TWO, vec![writer(0, CHANGED), FORGETTER, READER]),
        config("many", TWO, vec![writer(0, TWICE), writer(1, SAME), FORGETTER, READER]),
    ]
}
