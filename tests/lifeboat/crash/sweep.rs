//! One command after another, stopped at its points, each in a copy of the same repository.

use super::judge::{Hit, Judge, Purpose};
use super::points::{Fault, Point, Trial, all, points, spread};
use super::scene::{Place, Scene};
use super::trace::{self, Ended};
use super::{long, power, seed};
use crate::support::listing;
use crate::support::shipped::good;

struct Scenario {
    /// The test, for the line that repeats a trial.
    test: &'static str,
    purpose: Purpose,
    /// Trials of the default run, besides those of its end.
    share: usize,
    prepare: fn(&mut Scene),
    /// What a whole run leaves, or the scenario is not what it says.
    makes: &'static str,
    /// `TREE` stands for the tree's path.
    command: &'static [&'static str],
}

#[test]
fn a_first_backup_survives_every_fault() {
    sweep(&Scenario {
        test: "a_first_backup_survives_every_fault",
        purpose: Purpose::Save,
        share: 35,
        prepare: |_| {},
        makes: "repository/s",
        command: &["-q", "backup", "TREE"],
    });
}

#[test]
fn a_backup_of_changes_survives_every_fault() {
    sweep(&Scenario {
        test: "a_backup_of_changes_survives_every_fault",
        purpose: Purpose::Save,
        share: 45,
        prepare: |scene| {
            scene.save();
            scene.change(0);
        },
        makes: "repository/i/d",
        command: &["-q", "backup", "TREE"],
    });
}

#[test]
fn a_backup_that_merges_the_index_survives_every_fault() {
    sweep(&Scenario {
        test: "a_backup_that_merges_the_index_survives_every_fault",
        purpose: Purpose::Save,
        share: 45,
        prepare: Scene::save_until_it_would_merge,
        makes: "repository/i/s",
        command: &["-q", "backup", "TREE"],
    });
}

#[test]
fn forgetting_survives_every_fault() {
    sweep(&Scenario {
        test: "forgetting_survives_every_fault",
        purpose: Purpose::LetGo,
        share: 30,
        prepare: three,
        makes: "repository/t",
        command: &["-q", "forget", "--keep-last", "1"],
    });
}

#[test]
fn a_prune_survives_every_fault() {
    sweep(&Scenario {
        test: "a_prune_survives_every_fault",
        purpose: Purpose::Free,
        share: 60,
        prepare: |scene| {
            three(scene);
            scene.forget();
        },
        makes: "repository/e",
        command: &["-q", "prune", "--undo-window", "0s", "--yes"],
    });
}

#[test]
fn a_restore_survives_every_fault() {
    sweep(&Scenario {
        test: "a_restore_survives_every_fault",
        purpose: Purpose::BringBack,
        share: 40,
        prepare: Scene::save,
        makes: "out/big",
        command: &["-q", "restore", "latest:TREE", "--to", "out"],
    });
}

#[test]
fn a_restore_over_older_files_survives_every_fault() {
    sweep(&Scenario {
        test: "a_restore_over_older_files_survives_every_fault",
        purpose: Purpose::BringBack,
        share: 30,
        prepare: |scene| {
            scene.save();
            let older = format!("latest:{}", scene.tree().display());
            good(&mut scene.template_place().command(["-q", "restore", &older, "--to", "out"]));
            scene.change(0);
            scene.save();
        },
        makes: "out/pictures/new-0-0.raw",
        command: &["-q", "restore", "latest:TREE", "--to", "out", "--overwrite", "always", "--delete"],
    });
}

/// Three snapshots that differ.
fn three(scene: &mut Scene) {
    for round in 0..3 {
        scene.save();
        scene.change(round);
    }
}

fn sweep(scenario: &Scenario) {
    let mut scene = Scene::new();
    (scenario.prepare)(&mut scene);
    let tree = listing::of(&scene.tree());
    let sweep = Sweep { scenario, scene: &scene, tree: &tree };

    let place = scene.place("dry");
    let whole = trace::run(&sweep.command(&place), &scene.log(), None);
    assert_eq!(whole.code, Some(0), "{}", whole.err);
    assert!(place.home.join(scenario.makes).exists(), "it left no {}", scenario.makes);
    let points = points(&whole.calls, &place.home);
    drop(place);
    let trials = match std::env::var("LIFEBOAT_TEST_CRASH") {
        Ok(given) => vec![given.parse().unwrap()],
        Err(_) if long() => all(&points, &mut seed()),
        Err(_) => spread(&points, scenario.share),
    };
    let (mut met, mut failed) = (0, Vec::new());
    for trial in &trials {
        match sweep.try_until_met(trial) {
            Ok(hit) => met += usize::from(hit),
            Err((trial, why)) => {
                failed.push(format!(
                    "LIFEBOAT_TEST_CRASH={trial} cargo test --test lifeboat {}\n    {why}",
                    scenario.test
                ));
            }
        }
    }
    let (all, bad) = (trials.len(), failed.len());
    eprintln!("{}: {} points, {all} trials, {met} met their fault, {bad} failed", scenario.test, points.len());
    assert!(failed.is_empty(), "{bad} of {all} trials failed:\n{}", failed.join("\n"));
    assert!(met * 10 >= all * 9, "only {met} of {all} trials met their fault");
}

struct Sweep<'a> {
    scenario: &'a Scenario,
    scene: &'a Scene,
    tree: &'a str,
}

impl Sweep<'_> {
    fn command(&self, place: &Place) -> std::process::Command {
        let tree = self.scene.tree();
        place.command(self.scenario.command.iter().map(|word| word.replace("TREE", tree.to_str().unwrap())))
    }

    /// Whether the fault was met. Threads share work as it comes, and a late call of one of them may be passed by: then an earlier one is met.
    fn try_until_met(&self, trial: &Trial) -> Result<bool, (Trial, String)> {
        let mut trial = trial.clone();
        loop {
            if self.try_one(&trial).map_err(|why| (trial.clone(), why))? {
                return Ok(true);
            }
            let number = &mut trial.0[0].0.number;
            *number -= number.div_ceil(4);
            if *number == 0 {
                return Ok(false);
            }
        }
    }

    /// Whether the first run met its fault. What comes after a fault has less to do than the run that was measured.
    fn try_one(&self, trial: &Trial) -> Result<bool, String> {
        let place = self.scene.place("trial");
        let judge = Judge { scene: self.scene, purpose: self.scenario.purpose, place: &place, tree: self.tree };
        let (mut met, mut powered) = (None, true);
        for fault in &trial.0 {
            powered &= fault.1 == Fault::Kill || fault.1.is_error();
            let hit = self.stop(&judge, &place, fault, powered)?;
            met = met.or(Some(hit == Hit::Met));
            if hit == Hit::Astray {
                return Ok(met == Some(true));
            }
        }
        let again = self.command(&place).output().map_err(|error| error.to_string())?;
        judge.recovery(&again)?;
        Ok(met == Some(true))
    }

    fn stop(&self, judge: &Judge, place: &Place, fault: &(Point, Fault), powered: bool) -> Result<Hit, String> {
        let ended = trace::run(&self.command(place), &self.scene.log(), Some(fault));
        let last = ended.calls.last().map_or_else(String::new, |call| format!("{}({})", call.name, call.shown));
        self.look(judge, place, &ended, fault, powered)
            .map_err(|why| format!("{why}\n    the last call before its end: {last}"))
    }

    fn look(
        &self,
        judge: &Judge,
        place: &Place,
        ended: &Ended,
        (point, fault): &(Point, Fault),
        powered: bool,
    ) -> Result<Hit, String> {
        let hit = judge.end(ended, point, *fault)?;
        let cut = match fault {
            Fault::Lost => power::lose(&ended.calls, &place.home),
            Fault::Torn => power::tear(&ended.calls, &place.home),
            _ => Ok(()),
        };
        cut.map_err(|error| format!("the power cut failed: {error}"))?;
        judge.unharmed()?;
        if hit != Hit::Astray {
            judge.remains(ended, point, powered)?;
        }
        Ok(hit)
    }
}
