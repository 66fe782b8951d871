//! Commit and deletion, every way that their steps can meet: the real code over a simulated store, one store call at a time.
//!
//! ```text
//! config ──▶ schedule: actors on threads, one runs ──▶ invariants after every write ──▶ the end: all restored, nothing left over
//!              ▲ choices: all within bounds, by chance, or a run that was told
//! ```
//!
//! Owns no rule of the protocol. `rules` takes one away at a time, and then the same search must find a run that loses something (`mutants`).

mod actors;
mod choices;
mod configs;
mod invariants;
mod mutants;
mod objects;
mod quiesce;
mod runs;
mod scene;
mod schedule;
mod steps;
mod story;
mod wire;
mod writer;

use choices::{Bounds, Wander};
use runs::{Failure, Tally, again, exhaust, two_at_a_time, wander};
use schedule::{Config, run};
use steps::turns_of;

fn whole_or_told(done: Result<Tally, Box<Failure>>) -> Tally {
    match done {
        Ok(tally) => tally,
        Err(failure) => panic!("{}", failure.text),
    }
}

fn is_long() -> bool {
    std::env::var_os("LIFEBOAT_TEST_LONG").is_some()
}

#[test]
fn no_schedule_within_bounds_loses_a_snapshot() {
    let configs = configs::all();
    let share = if is_long() { 500_000 } else { 10_000 } / configs.len();
    let bounds = Bounds { preemptions: 2, crashes: 1, passes: 1 };
    let began = std::time::Instant::now();
    let tally = whole_or_told(two_at_a_time(&configs, |config| exhaust(config, bounds, share)));
    println!("within bounds: {tally:?} in {:?}", began.elapsed());
    assert!(tally.states >= share * 3 / 4);
}

#[test]
fn the_fewest_who_can_meet_are_explored_to_the_last_schedule() {
    let preemptions = if is_long() { 2 } else { 1 };
    let began = std::time::Instant::now();
    let tally = whole_or_told(exhaust(&configs::smallest(), Bounds { preemptions, crashes: 0, passes: 0 }, usize::MAX));
    println!("the fewest: {tally:?} in {:?}", began.elapsed());
    assert!(tally.all);
}

#[test]
fn no_schedule_by_chance_loses_a_snapshot() {
    let configs = configs::all();
    let share = if is_long() { 500_000 } else { 10_000 } / configs.len();
    let bounds = Bounds { preemptions: 0, crashes: 2, passes: 2 };
    let began = std::time::Instant::now();
    // Other runs than those of last time: any number.
    let seed = std::env::var("LIFEBOAT_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let tally = whole_or_told(two_at_a_time(&configs, |config| wander(config, bounds, seed, share)));
    println!("by chance: {tally:?} in {:?}", began.elapsed());
}

#[test]
fn a_run_follows_from_its_seed() {
    for config in configs::all() {
        for seed in [3, 4] {
            let bounds = Bounds { preemptions: 0, crashes: 2, passes: 1 };
            let told = || run(&config, &mut Wander::by(seed, config.roles.len(), bounds));
            let (one, two) = (told(), told());
            assert_eq!((one.trace, one.steps), (two.trace, two.steps), "{} by {seed}", config.name);
            let (_, three) = again(&config, one.turns.clone());
            assert_eq!(one.trace, three.trace, "{} by its turns", config.name);
        }
    }
}

/// `LIFEBOAT_TEST_REPLAY='CONFIG#SALT | TURNS'`; else a quiet run is told.
#[test]
fn a_run_is_told_again() {
    let text = std::env::var("LIFEBOAT_TEST_REPLAY").unwrap_or_else(|_| "two-writers#0 | 20:g1".into());
    let (name, turns) = text.split_once('|').expect("CONFIG#SALT | TURNS");
    let (name, salt) = name.trim().split_once('#').expect("CONFIG#SALT");
    let find = |config: &Config| config.name == name;
    let all = configs::all().into_iter().chain([configs::smallest()]);
    let mut config = { all }.find(find).expect("a config of that name");
    config.salt = salt.trim().parse().expect("a number");
    let turns = turns_of(turns).expect("turns");
    let (wrong, outcome) = again(&config, turns.clone());
    println!("{}", story::tell(&outcome.story, &config));
    assert_eq!(outcome.turns, turns, "the run went another way");
    if let Some(wrong) = wrong {
        panic!("{wrong}");
    }
}
