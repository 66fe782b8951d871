//! Many runs of one config, and the first that breaks what must hold.
//!
//! Owns the counts, the end of a run (everything is restored; what nobody needs is gone), and how a failure is told: as short as it can be made, with one command that
//! runs it again.

use std::sync::{Arc, Mutex};

use super::actors::restore;
use super::choices::{Bounds, Leg, Replay, Script, Search, Wander};
use super::invariants::Model;
use super::objects::{Alone, Objects};
use super::scene::open;
use super::schedule::{Chooser, Config, Outcome, run};
use super::steps::{Turns, turns_text};
use super::story::{short, tell};
use crate::repository::{Snapshot, SnapshotState, Snapshots};

/// What was explored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub runs: usize,
    /// Store calls under distinct schedules.
    pub states: usize,
    pub crashes: usize,
    /// Runs that came to their end.
    pub ends: usize,
    /// Collectors that refused to go on.
    pub doubts: usize,
    /// Whether nothing was left within the bounds.
    pub all: bool,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.runs += other.runs;
        self.states += other.states;
        self.crashes += other.crashes;
        self.ends += other.ends;
        self.doubts += other.doubts;
        self.all &= other.all;
    }
}

/// A run that broke something.
pub struct Failure {
    pub what: String,
    /// Its story, and how it is run again.
    pub text: String,
}

/// What is wrong with a run, if anything is.
fn wrong_with(config: &Config, outcome: &Outcome, thorough: bool) -> Option<String> {
    if let Some(broken) = &outcome.broken {
        return Some(broken.clone());
    }
    if !outcome.complete {
        return None;
    }
    let restored = restored(config, &outcome.model, &outcome.objects).err();
    restored.or_else(|| if thorough { super::quiesce::swept(config, outcome).err() } else { None })
}

/// Every live snapshot comes back.
pub fn restored(config: &Config, model: &Model, objects: &Objects) -> Result<(), String> {
    model.check(objects)?;
    let live = model.live(objects)?;
    let repository = open(&Alone::over(objects.clone()), &config.scene.admin);
    let failed = |error: crate::repository::Error| format!("at the end: {error:?}");
    let snapshots = Snapshots::list(&repository).map_err(failed)?;
    let there: Vec<&Snapshot> = snapshots.readable.iter().filter(|s| s.state != SnapshotState::Expired).collect();
    let (mut seen, mut wanted): (Vec<_>, Vec<_>) =
        (there.iter().map(|snapshot| snapshot.session).collect(), live.keys().copied().collect());
    seen.sort();
    wanted.sort();
    if seen != wanted || !snapshots.unreadable.is_empty() {
        return Err(format!("at the end {} snapshots are listed, and {} are there", seen.len(), wanted.len()));
    }
    restore(&repository, &there, &|session| model.plans.get(&session).cloned()).map_err(failed)
}

fn one(config: &Config, chooser: &mut dyn Chooser, tally: &mut Tally, thorough: bool) -> Result<Outcome, Box<Failure>> {
    let outcome = run(config, chooser);
    tally.runs += 1;
    tally.ends += usize::from(outcome.complete);
    tally.doubts += outcome.doubts;
    tally.crashes += outcome.turns.iter().filter(|(_, step)| step.is_crash()).count();
    match wrong_with(config, &outcome, thorough) {
        Some(what) => Err(Box::new(failure(config, what, outcome))),
        None => Ok(outcome),
    }
}

/// Everything within `bounds`, or `states_max` states of it.
pub fn exhaust(config: &Config, bounds: Bounds, states_max: usize) -> Result<Tally, Box<Failure>> {
    let mut search = Search::within(bounds);
    let mut tally = Tally { all: true, ..Tally::default() };
    loop {
        if search.states() >= states_max {
            tally.all = false;
            break;
        }
        let Some(mut branch) = search.next() else { break };
        let thorough = tally.runs.is_multiple_of(8);
        one(config, &mut branch, &mut tally, thorough)?;
    }
    tally.states = search.states();
    Ok(tally)
}

/// Runs by chance, until they made `states_max` calls; the seeds count from `seed` on.
pub fn wander(config: &Config, bounds: Bounds, seed: u64, states_max: usize) -> Result<Tally, Box<Failure>> {
    let mut tally = Tally::default();
    let mut config = config.clone();
    for seed in seed.. {
        if tally.states >= states_max {
            break;
        }
        config.salt = seed % 16;
        let mut chooser = Wander::by(seed, config.roles.len(), bounds);
        tally.states += one(&config, &mut chooser, &mut tally, seed % 4 == 0)?.steps;
    }
    Ok(tally)
}

/// The run with as few turns as it can be had, told.
fn failure(config: &Config, what: String, outcome: Outcome) -> Failure {
    let (mut what, mut outcome) = (what, outcome);
    let mut turns = outcome.turns.clone();
    let mut at = turns.len();
    let mut tries = 400;
    while at > 0 && tries > 0 {
        at -= 1;
        tries -= 1;
        let mut fewer = turns.clone();
        fewer.remove(at);
        let again = run(config, &mut Replay::of(fewer.clone()));
        if let Some(still) = wrong_with(config, &again, true) {
            (turns, what, outcome) = (again.turns.clone(), still, again);
            at = at.min(turns.len());
        }
    }
    told(config, what, outcome)
}

fn told(config: &Config, what: String, outcome: Outcome) -> Failure {
    let text = format!(
        "{}: {}\n{}\nreplay: LIFEBOAT_TEST_REPLAY='{} | {}' cargo test --lib explore::a_run -- --nocapture",
        config.name,
        short(&what),
        tell(&outcome.story, config),
        name_of(config),
        turns_text(&outcome.turns)
    );
    Failure { what, text }
}

fn name_of(config: &Config) -> String {
    let without = config.without.map_or(String::new(), |rule| format!(" without {rule:?}"));
    format!("{}#{}{without}", config.name, config.salt)
}

/// Runs a told run again: what was wrong with it, and its story.
pub fn again(config: &Config, turns: Turns) -> (Option<String>, Outcome) {
    let outcome = run(config, &mut Replay::of(turns));
    (wrong_with(config, &outcome, true), outcome)
}

/// Runs `config` along a script to its end: what is wrong with it.
pub fn along(config: &Config, legs: &'static [Leg]) -> Result<Outcome, Box<Failure>> {
    let mut script = Script::of(legs);
    let outcome = run(config, &mut script);
    if let Some(what) = wrong_with(config, &outcome, true) {
        return Err(Box::new(told(config, what, outcome)));
    }
    assert!(
        outcome.complete && script.is_done(),
        "the script was not gone to its end:\n{}",
        tell(&outcome.story, config)
    );
    Ok(outcome)
}

/// Does `work` for each config, two at a time.
pub fn two_at_a_time(
    configs: &[Config],
    work: impl Fn(&Config) -> Result<Tally, Box<Failure>> + Sync,
) -> Result<Tally, Box<Failure>> {
    let next = Mutex::new(configs.iter());
    let all = Arc::new(Mutex::new(Ok(Tally { all: true, ..Tally::default() })));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(config) = next.lock().ok().and_then(|mut next| next.next()) else { return };
                    let done = work(config);
                    let Ok(mut all) = all.lock() else { return };
                    match (&mut *all, done) {
                        (Ok(all), Ok(tally)) => *all += tally,
                        (Ok(_), Err(failure)) => *all = Err(failure),
                        (Err(_), _) => return,
                    }
                }
            });
        }
    });
    std::mem::replace(&mut *all.lock().unwrap_or_else(std::sync::PoisonError::into_inner), Ok(Tally::default()))
}
