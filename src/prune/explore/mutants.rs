//! Each rule of the protocol taken away, and a run that then loses something.
//!
//! Owns a script for each: the shortest run that we know in which the rule is all that stands between a snapshot and its loss. With the rule the same run ends well,
//! and so does whatever is tried around it. A rule whose script ends well without it carries no load, or the explorer has a hole.

use super::actors::{Role, Then};
use super::choices::Bounds;
use super::choices::Leg::{self, Take, Through, Turn, Until};
use super::configs::{A, B, C, D, ONE, READER, config, writer};
use super::runs::{along, wander};
use super::scene::Past;
use super::schedule::Config;
use super::steps::ActorId;
use super::steps::Step::{After, Before, Go, Pass};
use super::story::{short, tell};
use super::writer::Task;
use crate::repository::rules::Rule;

/// Snapshots that share nothing.
static APART: Past = &[(0, Task::of(&[A])), (0, Task::of(&[B])), (0, Task::of(&[C])), (0, Task::of(&[D]))];

const E: (&str, &str) = ("e", "what nobody has yet");

static SAME: &[Task] = &[Task::of(&[A])];
static SAME_ADVANCING: &[Task] = &[Task::of(&[A]).advancing()];
static UNCHANGED: &[Task] = &[Task::of(&[A]).on_parent().advancing()];
static NEW: &[Task] = &[Task::of(&[E])];

/// The writer, whoever forgets, the collector.
const W: ActorId = 0;
const F: ActorId = 1;
const K: ActorId = 2;

fn forgetting(count: usize) -> Role {
    Role::Forgetter { count, then: Then::Expire }
}

fn collecting(runs: u32) -> Role {
    Role::Collector { runs, lives: 1 }
}

struct Mutant {
    rule: Rule,
    past: Past,
    roles: Vec<Role>,
    /// Actors that keep the rule.
    spared: &'static [ActorId],
    script: &'static [Leg],
}

/// One writer, one snapshot that is forgotten, one collector.
fn plain(rule: Rule, task: &'static [Task], script: &'static [Leg]) -> Mutant {
    let roles = vec![writer(0, task), forgetting(1), collecting(4)];
    Mutant { rule, past: ONE, roles, spared: &[], script }
}

impl Mutant {
    fn config(&self, without: Option<Rule>) -> Config {
        let config = config("mutant", self.past, self.roles.clone());
        Config { without, spared: self.spared, ..config }
    }
}

fn is_caught(mutant: Mutant) {
    let with = mutant.config(None);
    if let Err(failure) = along(&with, mutant.script) {
        panic!("with all rules: {}", failure.text);
    }
    let bounds = Bounds { preemptions: 0, crashes: 1, passes: 1 };
    if let Err(failure) = wander(&with, bounds, 1000, 400) {
        panic!("with all rules: {}", failure.text);
    }
    match along(&mutant.config(Some(mutant.rule)), mutant.script) {
        Err(failure) => println!("without {:?}: {}", mutant.rule, short(&failure.what)),
        Ok(outcome) => panic!("without {:?} nothing is lost:\n{}", mutant.rule, tell(&outcome.story, &with)),
    }
}

#[test]
fn a_writer_that_reads_the_epoch_once_loses() {
    // It read the epoch, and a whole prune came before its record.
    let script = &[Through(F), Until(W, "create", "w/"), Turn(K), Through(W)];
    is_caught(plain(Rule::EpochReadTwice, SAME, script));
}

#[test]
fn a_writer_that_uses_what_is_condemned_in_its_epoch_loses() {
    let script =
        &[Through(F), Until(K, "create", "e/00000001"), Take(Go(K)), Until(W, "create", "s/"), Turn(K), Through(W)];
    is_caught(plain(Rule::CondemnedUnused, SAME, script));
}

#[test]
fn a_writer_that_uses_what_older_verdicts_deleted_loses() {
    // The index object still names the packs of the first; the second epoch is open.
    let script = &[Turn(F), Turn(F), Turn(K), Through(F), Until(K, "create", "e/00000002"), Take(Go(K)), Through(W)];
    let roles = vec![writer(0, SAME), forgetting(2), collecting(4)];
    is_caught(Mutant { rule: Rule::GoneUnused, past: APART, roles, spared: &[], script });
}

#[test]
fn a_writer_that_believes_what_was_indexed_after_the_end_loses() {
    const LATE: ActorId = 3;
    // A writer is taken for dead, what it stored goes, and even the memory of that; then it wakes, and tells where it stored what.
    let script = &[
        Turn(F),
        Turn(F),
        Until(LATE, "create", "i/"),
        Take(Pass),
        Turn(K),
        Turn(K),
        Turn(F),
        Turn(K),
        Through(F),
        Turn(K),
        Take(Go(LATE)),
        Until(LATE, "create", "s/"),
        Through(W),
    ];
    let roles = vec![writer(0, NEW), forgetting(3), collecting(8), writer(0, NEW)];
    is_caught(Mutant { rule: Rule::SettledRunsOnly, past: APART, roles, spared: &[], script });
}

#[test]
fn a_writer_that_names_no_condemned_pack_that_it_used_loses() {
    let script =
        &[Through(F), Until(W, "get", "i/"), Take(Go(W)), Turn(K), Until(W, "create", "s/"), Turn(K), Through(W)];
    is_caught(plain(Rule::Vetoes, SAME_ADVANCING, script));
}

#[test]
fn a_commit_over_a_fence_loses() {
    let script = &[Through(F), Until(W, "create", "s/"), Take(Pass), Turn(K), Through(W)];
    is_caught(plain(Rule::CommitCreatesOnly, SAME, script));
}

#[test]
fn a_commit_that_does_not_look_for_the_boundary_loses() {
    // Its fence was swept by the second epoch.
    let script = &[Through(F), Until(W, "create", "s/"), Take(Pass), Turn(K), Turn(K), Turn(K), Through(W)];
    is_caught(plain(Rule::BoundaryAfterCommit, SAME, script));
}

#[test]
fn a_reader_that_believes_every_slot_meets_what_is_not_whole() {
    const R: ActorId = 3;
    let script =
        &[Through(F), Until(W, "create", "s/"), Take(Pass), Turn(K), Turn(K), Turn(K), Take(Go(W)), Through(R)];
    let roles = vec![writer(0, SAME), forgetting(1), collecting(4), READER];
    is_caught(Mutant { rule: Rule::SlotsListed, past: APART, roles, spared: &[W, F, K], script });
}

#[test]
fn a_verdict_that_waits_for_nobody_loses() {
    let script = &[Through(F), Until(W, "create", "s/"), Turn(K), Through(W)];
    is_caught(plain(Rule::SessionsAwaited, SAME, script));
}

#[test]
fn a_verdict_by_the_snapshots_of_before_loses() {
    let script =
        &[Through(F), Until(W, "create", "s/"), Until(K, "create", "e/00000001"), Take(Go(K)), Through(W), Turn(K)];
    is_caught(plain(Rule::SnapshotsListedAgain, SAME, script));
}

#[test]
fn a_verdict_that_does_not_keep_parents_loses() {
    // The parent is chosen, then forgotten, then condemned; its writer's record comes between the collector's look at sessions and the epoch.
    let script = &[
        Until(W, "create", "w/"),
        Through(F),
        Until(K, "create", "e/00000001"),
        Until(W, "list", "i/"),
        Take(Go(K)),
        Until(W, "create", "s/"),
        Turn(K),
        Through(W),
    ];
    is_caught(plain(Rule::ParentsKept, UNCHANGED, script));
}

#[test]
fn a_delta_before_its_packs_loses() {
    let script = &[Until(W, "create", "i/"), Take(After(W)), Through(1)];
    let roles = vec![Role::Writer { key: 0, tasks: NEW, lives: 1 }, writer(0, NEW)];
    is_caught(Mutant { rule: Rule::PackBeforeDelta, past: ONE, roles, spared: &[], script });
}

/// A collector that reads the newest epoch twice may meet two, and must not judge the one by the sessions that came to the other.
#[test]
fn a_collector_judges_the_epoch_that_it_waited_for() {
    const OTHER: ActorId = 3;
    let script = &[
        Turn(F),
        Turn(F),
        Until(K, "create", "e/00000001"),
        Take(Go(K)),
        Until(OTHER, "size up", "s/"),
        Take(Go(OTHER)),
        Take(Go(OTHER)),
        Turn(K),
        Through(F),
        Until(W, "create", "s/"),
        Turn(K),
        Turn(OTHER),
        Through(W),
    ];
    static SECOND: &[Task] = &[Task::of(&[B])];
    let roles = vec![writer(0, SECOND), forgetting(2), collecting(3), collecting(2)];
    if let Err(failure) = along(&config("two-epochs", APART, roles), script) {
        panic!("{}", failure.text);
    }
}

/// What a writer left that will never come back is nobody's.
#[test]
fn what_a_dead_writer_left_goes_although_nothing_else_does() {
    let script = &[Until(W, "create", "s/"), Take(Before(W))];
    let roles = vec![Role::Writer { key: 0, tasks: NEW, lives: 1 }];
    if let Err(failure) = along(&config("dead-writer", ONE, roles), script) {
        panic!("{}", failure.text);
    }
}

/// Its record was swept as that of a settled session, and the store took it once more: no sign that two writers cannot be kept apart.
#[test]
fn a_writer_that_slept_between_its_records_starts_over() {
    let sleeps = |before: &'static [Leg]| {
        let roles = vec![writer(0, SAME), forgetting(1), collecting(2)];
        if let Err(failure) = along(&config("sleeper", ONE, roles), before) {
            panic!("{}", failure.text);
        }
    };
    // The second record, or the listing, comes while another prune is open.
    sleeps(&[
        Through(F),
        Until(W, "create", "w/"),
        Take(Go(W)),
        Take(Pass),
        Turn(K),
        Until(K, "create", "e/00000002"),
        Take(Go(W)),
        Through(W),
    ]);
    sleeps(&[Through(F), Until(W, "list", "w/"), Take(Pass), Turn(K), Until(K, "create", "e/00000002"), Through(W)]);
}
