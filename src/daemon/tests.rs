//! What the daemon promises of schedules and runs, tried with a clock wound by hand.

use std::time::Duration;

use super::engine::{Outcome, RunReport};
use super::testing::{Bench, HOME, good};
use super::{Standing, chain};
use crate::catalog::{
    DrillFindings, Filter, MissReason, NewRun, Occurrence, Run, RunId, RunKind, RunState, Sent, Trigger,
};
use crate::names::PolicyName;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

fn home() -> PolicyName {
    "home".parse().unwrap()
}

fn manual(bench: &Bench, policy: &str, kind: RunKind) -> RunId {
    let new = NewRun {
        kind,
        policy: policy.parse().unwrap(),
        trigger: Trigger::Api,
        actor: "test".into(),
        nominal: None,
        missed: 0,
        retry_of: None,
        drill_files: (kind == RunKind::Drill).then_some(3),
        idempotency: None,
        at: bench.core.now(),
    };
    match bench.core.submit(&new, true).unwrap() {
        Sent::Recorded(run) => run.id,
        other => panic!("{other:?}"),
    }
}

/// All runs, oldest first.
fn runs(bench: &Bench) -> Vec<Run> {
    let mut runs = bench.core.catalog.runs(&Filter::default(), 100).unwrap();
    runs.reverse();
    runs
}

fn states(bench: &Bench) -> Vec<RunState> {
    runs(bench).iter().map(|run| run.state).collect()
}

fn occurrences(bench: &Bench) -> Vec<Occurrence> {
    bench.core.catalog.occurrences(&home(), RunKind::Backup, 100).unwrap()
}

fn standing(bench: &Bench) -> Standing {
    bench.core.status().unwrap().policies[0].standing
}

#[test]
fn a_new_policy_waits_for_its_next_time_and_then_runs_once() {
    let bench = Bench::new(HOME);
    assert_eq!(bench.after(0), Duration::from_secs(30));
    assert_eq!(runs(&bench), []);
    bench.after(18 * HOUR - 10);
    assert_eq!(runs(&bench), []);
    assert!(bench.after(5) <= Duration::from_millis(5001), "the loop wakes for the due time");
    bench.after(5);
    bench.after(0);
    bench.after(30);
    bench.settle();
    let runs = runs(&bench);
    assert_eq!(runs.len(), 1);
    assert_eq!((runs[0].trigger, runs[0].missed, runs[0].state), (Trigger::Schedule, 0, RunState::Succeeded));
    assert_eq!(runs[0].nominal.unwrap().to_string(), "2027-01-16T02:00:00Z");
    assert_eq!(occurrences(&bench)[0].run, Some(runs[0].id));
}

#[test]
fn a_run_is_recorded_as_running_before_the_engine_hears_of_it() {
    let bench = Bench::new(HOME);
    let core = std::sync::Arc::downgrade(&bench.core);
    bench.engine.answers(move |task, files, run| {
        let seen = core.upgrade().unwrap().catalog.run(run.id).unwrap().unwrap();
        assert_eq!((seen.state, seen.ended), (RunState::Running, None));
        good(task, files, run)
    });
    manual(&bench, "home", RunKind::Backup);
    bench.settle();
    assert_eq!(states(&bench), [RunState::Succeeded], "{:?}", runs(&bench));
}

#[test]
fn a_crash_interrupts_what_ran_and_repeats_it_once() {
    let bench = Bench::new(HOME);
    bench.after(0);
    bench.engine.shut();
    bench.after(18 * HOUR);
    bench.wait_begun(1);
    let bench = bench.crash_and_start(60);
    bench.settle();
    assert_eq!(states(&bench), [RunState::Interrupted, RunState::Succeeded]);
    let all = runs(&bench);
    assert_eq!((all[1].retry_of, all[1].nominal), (Some(all[0].id), all[0].nominal));

    let bench = bench.crash_and_start(60);
    bench.after(0);
    bench.settle();
    assert_eq!(runs(&bench).len(), 2, "nothing is left to repeat");
}

#[test]
fn a_run_that_is_interrupted_twice_is_not_begun_a_third_time() {
    let bench = Bench::new(HOME);
    bench.after(0);
    bench.engine.shut();
    bench.after(18 * HOUR);
    bench.wait_begun(1);
    let bench = bench.crash(60);
    bench.engine.shut();
    bench.core.recover().unwrap();
    bench.wait_begun(1);
    let bench = bench.crash_and_start(60);
    bench.settle();
    assert_eq!(states(&bench), [RunState::Interrupted; 2]);
}

#[test]
fn the_repeated_run_makes_up_for_what_was_missed_meanwhile() {
    let bench = Bench::new(HOME);
    bench.after(0);
    bench.engine.shut();
    bench.after(18 * HOUR);
    bench.wait_begun(1);
    let bench = bench.crash(3 * DAY + HOUR);
    bench.engine.shut();
    bench.core.recover().unwrap();
    bench.wait_begun(1);
    bench.after(0);
    let all = runs(&bench);
    assert_eq!((all.len(), all[1].missed), (2, 3));
    assert!(occurrences(&bench).iter().take(3).all(|row| row.state == "missed" && row.run == Some(all[1].id)));
    bench.engine.open();
    bench.settle();
}

#[test]
fn an_end_that_cannot_be_recorded_is_recorded_later_and_the_daemon_is_not_ready_until_then() {
    let bench = Bench::new(HOME);
    bench.after(0);
    bench.sabotage(
        "CREATE TRIGGER full BEFORE UPDATE ON run WHEN NEW.ended_ms IS NOT NULL BEGIN SELECT RAISE(ABORT, 'full'); END",
    );
    let id = manual(&bench, "home", RunKind::Backup);
    bench.settle();
    bench.after(30);
    assert_eq!(bench.core.catalog.run(id).unwrap().unwrap().state, RunState::Running);
    assert!(!bench.core.health().is_ready());
    assert_ne!(bench.core.status().unwrap().answer, "yes");
    bench.sabotage("DROP TRIGGER full");
    bench.after(30);
    assert_eq!(states(&bench), [RunState::Succeeded]);
    assert!(bench.core.health().is_ready());
}

#[test]
fn a_run_whose_beginning_cannot_be_recorded_does_not_begin() {
    let bench = Bench::new(HOME);
    bench.sabotage(
        "CREATE TRIGGER full BEFORE UPDATE ON run WHEN NEW.state = 'running' BEGIN SELECT RAISE(ABORT, 'full'); END",
    );
    manual(&bench, "home", RunKind::Backup);
    bench.settle();
    assert_eq!(bench.engine.begun(), Vec::<String>::new());
    assert_eq!(states(&bench), [RunState::Failed]);
    assert!(runs(&bench)[0].error.as_deref().unwrap().contains("was not begun"));
}

#[test]
fn a_catalog_that_takes_no_writes_makes_the_daemon_unready() {
    let bench = Bench::new(HOME);
    bench.after(0);
    assert!(bench.core.health().is_ready());
    bench.sabotage("CREATE TRIGGER full BEFORE UPDATE ON pulse BEGIN SELECT RAISE(ABORT, 'full'); END");
    bench.after(30);
    assert!(!bench.core.health().is_ready());
    bench.sabotage("DROP TRIGGER full");
    bench.after(30);
    assert!(bench.core.health().is_ready());
}

#[test]
fn an_endless_error_is_cut() {
    let bench = Bench::new(HOME);
    bench.engine.answers(|_, _, _| RunReport {
        problems: vec!["é".repeat(9000); 300],
        ..RunReport::failed("source", "x".repeat(1 << 20))
    });
    manual(&bench, "home", RunKind::Backup);
    bench.settle();
    let run = &runs(&bench)[0];
    assert!(run.error.as_ref().unwrap().len() < 3000);
    assert_eq!((run.problems.len(), run.problems[0].chars().count()), (100, 2001));
}

#[test]
fn a_manual_run_is_interrupted_and_not_repeated() {
    let bench = Bench::new(HOME);
    bench.engine.shut();
    manual(&bench, "home", RunKind::Backup);
    bench.wait_begun(1);
    let bench = bench.crash_and_start(60);
    bench.settle();
    assert_eq!(states(&bench), [RunState::Interrupted]);
}

#[test]
fn what_was_missed_while_down_is_made_up_for_by_one_run() {
    let bench = Bench::new(HOME);
    bench.after(0);
    let bench = bench.crash_and_start(5 * DAY);
    bench.after(0);
    bench.after(30);
    bench.settle();
    let all = runs(&bench);
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].missed, all[0].state), (5, RunState::Succeeded));
    let rows = occurrences(&bench);
    assert_eq!(rows.len(), 5);
    for row in rows {
        assert_eq!((row.state.as_str(), row.reason.as_deref()), ("missed", Some(MissReason::DaemonDown.as_str())));
        assert_eq!(row.run, Some(all[0].id));
    }
}

#[test]
fn a_quick_restart_over_a_due_time_misses_nothing() {
    let bench = Bench::new(HOME);
    bench.after(18 * HOUR - 20);
    let bench = bench.crash_and_start(60);
    bench.after(0);
    bench.settle();
    assert_eq!(runs(&bench)[0].missed, 0);
    assert_eq!(occurrences(&bench)[0].state, "started");
}

#[test]
fn a_due_time_during_a_run_is_skipped_and_says_why() {
    let bench = Bench::new(HOME);
    bench.after(0);
    bench.engine.shut();
    bench.after(18 * HOUR);
    bench.wait_begun(1);
    bench.after(DAY);
    assert_eq!(runs(&bench).len(), 1);
    let rows = occurrences(&bench);
    assert_eq!((rows[0].state.as_str(), rows[0].reason.as_deref(), rows[0].run), ("skipped", Some("overlap"), None));
    bench.engine.open();
    bench.settle();
    bench.after(DAY);
    bench.settle();
    assert_eq!(states(&bench), [RunState::Succeeded; 2]);
}

#[test]
fn two_triggers_at_one_instant_are_two_times_and_one_run() {
    let policy = HOME.replace("\"daily 02:00\"", "{ at = [\"daily 02:00\", \"every 6h\", \"sat 06:00\"] }");
    let bench = Bench::new(&policy);
    bench.after(0);
    // Saturday 06:00 is named by two of the three.
    for _ in 0..(22 * 6) {
        bench.after(600);
        bench.settle();
    }
    let at_six: Vec<_> =
        occurrences(&bench).into_iter().filter(|row| row.nominal.to_string() == "2027-01-16T06:00:00Z").collect();
    assert_eq!(at_six.len(), 2);
    assert!(at_six[0].run.is_some() && at_six[0].run == at_six[1].run, "{at_six:?}");
}

#[test]
fn a_clock_that_steps_back_runs_nothing_twice_and_stops_nothing() {
    let bench = Bench::new(HOME);
    bench.after(0);
    bench.after(18 * HOUR);
    bench.settle();
    bench.after(-HOUR);
    for _ in 0..120 {
        bench.after(60);
    }
    bench.settle();
    assert_eq!(runs(&bench).len(), 1);
    bench.after(DAY);
    bench.settle();
    assert_eq!(runs(&bench).len(), 2);
}

#[test]
fn a_trip_to_the_future_does_not_silence_the_schedule() {
    let bench = Bench::new(HOME);
    bench.after(0);
    bench.after(100 * DAY);
    bench.settle();
    bench.after(-100 * DAY);
    bench.after(18 * HOUR);
    bench.settle();
    assert_eq!(runs(&bench).len(), 2, "{:?}", runs(&bench));
    assert_eq!(runs(&bench)[1].nominal.unwrap().to_string(), "2027-01-16T02:00:00Z");
}

#[test]
fn a_policy_has_one_run_at_a_time_and_the_host_two() {
    let policies = ["a", "b", "c"].map(|name| HOME.replace("policy.home", &format!("policy.{name}"))).concat();
    let bench = Bench::new(&policies);
    bench.engine.shut();
    manual(&bench, "a", RunKind::Backup);
    manual(&bench, "a", RunKind::Drill);
    manual(&bench, "b", RunKind::Backup);
    manual(&bench, "c", RunKind::Backup);
    bench.wait_begun(2);
    assert_eq!((bench.core.jobs().running(), bench.core.jobs().open()), (2, 4));
    let mut first = bench.engine.begun();
    first.sort();
    assert_eq!(first, ["a", "b"]);
    bench.engine.open();
    bench.settle();
    assert_eq!(states(&bench), [RunState::Succeeded; 4]);
}

#[test]
fn an_engine_that_panics_has_failed_and_the_daemon_goes_on() {
    let bench = Bench::new(HOME);
    bench.engine.answers(|_, _, _| panic!("out of boats"));
    manual(&bench, "home", RunKind::Backup);
    bench.settle();
    bench.engine.answers(good);
    manual(&bench, "home", RunKind::Backup);
    bench.settle();
    assert_eq!(states(&bench), [RunState::Failed, RunState::Succeeded]);
    assert!(runs(&bench)[0].error.as_deref().unwrap().contains("out of boats"));
}

#[test]
fn success_without_a_snapshot_is_a_failure() {
    let bench = Bench::new(HOME);
    bench.engine.answers(|_, _, _| RunReport::new(Outcome::Succeeded));
    manual(&bench, "home", RunKind::Backup);
    bench.settle();
    assert_eq!(states(&bench), [RunState::Failed]);
    assert_eq!(standing(&bench), Standing::NoPoint);
}

#[test]
fn a_drill_passes_only_if_something_was_compared_and_all_of_it_was_equal() {
    let found = |checked_files, mismatches, not_run| DrillFindings {
        checked_files,
        mismatches,
        not_run,
        ..DrillFindings::default()
    };
    let cases = [
        (Some(found(3, 0, 0)), RunState::Succeeded),
        (Some(found(3, 1, 0)), RunState::Failed),
        (Some(found(3, 0, 1)), RunState::Partial),
        (Some(found(0, 0, 0)), RunState::Partial),
        (None, RunState::Partial),
    ];
    for (drill, state) in cases {
        let bench = Bench::new(HOME);
        bench.engine.answers(move |_, _, _| RunReport { drill, ..RunReport::new(Outcome::Succeeded) });
        manual(&bench, "home", RunKind::Drill);
        bench.settle();
        assert_eq!(states(&bench), [state], "{drill:?}");
        assert_eq!(runs(&bench)[0].is_passed_drill(), state == RunState::Succeeded);
    }
}

#[test]
fn a_partial_run_is_a_recovery_point_only_if_the_policy_says_so() {
    for (accept, standing_wanted) in [(false, Standing::NoPoint), (true, Standing::Unproven)] {
        let bench = Bench::new(&format!("{HOME}accept_partial = {accept}\n"));
        bench.engine.answers(|task, files, run| RunReport { outcome: Outcome::Partial, ..good(task, files, run) });
        manual(&bench, "home", RunKind::Backup);
        bench.settle();
        assert_eq!(standing(&bench), standing_wanted);
    }
}

#[test]
fn a_point_that_was_forgotten_since_is_none() {
    let bench = Bench::new(HOME);
    manual(&bench, "home", RunKind::Backup);
    bench.settle();
    assert_eq!(standing(&bench), Standing::Unproven);
    // The next backup is told of it, and leaves nothing itself.
    let first = bench.core.status().unwrap().policies[0].memory.last_point.clone().unwrap().snapshot.unwrap();
    bench.engine.answers(move |_, _, _| RunReport {
        forgotten: Some(vec![first.clone()]),
        ..RunReport::failed("source", "there is no such path")
    });
    manual(&bench, "home", RunKind::Backup);
    bench.settle();
    assert_eq!(standing(&bench), Standing::NoPoint);
}

#[test]
fn green_needs_a_fresh_point_a_good_run_and_a_passed_drill() {
    let bench = Bench::new(HOME);
    bench.after(0);
    assert_eq!(standing(&bench), Standing::Waiting);
    manual(&bench, "home", RunKind::Backup);
    bench.settle();
    assert_eq!(standing(&bench), Standing::Unproven);
    manual(&bench, "home", RunKind::Drill);
    bench.settle();
    assert_eq!(standing(&bench), Standing::Ok);
    assert_eq!(bench.core.status().unwrap().answer, "yes");

    bench.engine.answers(|_, _, _| RunReport::failed("store", "the store is gone; try `lifeboat doctor`"));
    bench.after(18 * HOUR);
    bench.settle();
    assert_eq!(standing(&bench), Standing::Failing);
    assert!(bench.core.status().unwrap().policies[0].reason.contains("the store is gone"));
    bench.after(DAY);
    bench.settle();
    assert_eq!(standing(&bench), Standing::Overdue);
    manual(&bench, "home", RunKind::Drill);
    bench.settle();
    assert_eq!(standing(&bench), Standing::DrillFailed);
    assert_ne!(bench.core.status().unwrap().answer, "yes");
}

#[test]
fn a_point_of_other_sources_or_in_another_repository_counts_for_nothing() {
    let edits = [HOME.replace("/srv/home", "/srv/other"), HOME.replace("\"main\"", "\"/srv/else\"\nkey = \"file:/k\"")];
    for edited in edits {
        let bench = Bench::new(HOME);
        bench.after(0);
        manual(&bench, "home", RunKind::Backup);
        manual(&bench, "home", RunKind::Drill);
        bench.settle();
        assert_eq!(standing(&bench), Standing::Ok);
        bench.write(&edited);
        bench.core.reload().unwrap();
        assert_eq!(standing(&bench), Standing::Waiting, "{edited}");
        bench.write(&HOME.replace("7d", "8d"));
        bench.core.reload().unwrap();
        assert_eq!(standing(&bench), Standing::Ok);
    }
}

#[test]
fn a_daemon_that_was_down_shows_as_overdue_and_not_as_green() {
    let bench = Bench::new(HOME);
    bench.after(0);
    manual(&bench, "home", RunKind::Backup);
    manual(&bench, "home", RunKind::Drill);
    bench.settle();
    assert_eq!(standing(&bench), Standing::Ok);
    let bench = bench.crash_and_start(3 * DAY);
    assert_eq!(standing(&bench), Standing::Overdue);
}

#[test]
fn a_stop_ends_every_run_and_closes_every_row() {
    let bench = Bench::new(HOME);
    bench.after(0);
    bench.engine.shut();
    bench.after(18 * HOUR);
    bench.wait_begun(1);
    let drill = manual(&bench, "home", RunKind::Drill);
    bench.core.stop(Duration::from_secs(20));
    assert_eq!(states(&bench), [RunState::Interrupted; 2]);
    assert_eq!(bench.core.catalog.run(drill).unwrap().unwrap().started, None);
    assert!(!bench.core.health().is_ready());
    bench.after(DAY);
    assert_eq!(runs(&bench).len(), 2, "nothing begins after the stop");
    let late = manual(&bench, "home", RunKind::Drill);
    assert_eq!(bench.core.jobs().running(), 0);
    assert!(bench.core.cancel(late).unwrap());

    let bench = bench.crash_and_start(60);
    bench.settle();
    assert_eq!(runs(&bench)[3].retry_of, Some(runs(&bench)[0].id), "the scheduled backup is made good");
}

#[test]
fn a_run_that_will_not_stop_is_closed_without_it() {
    let bench = Bench::new(HOME);
    let (open, gate) = crossbeam_channel::bounded::<()>(0);
    bench.engine.answers(move |task, files, run| {
        let _ = gate.recv();
        good(task, files, run)
    });
    let id = manual(&bench, "home", RunKind::Backup);
    bench.wait_begun(1);
    bench.core.stop(Duration::from_millis(1));
    assert_eq!(states(&bench), [RunState::Interrupted]);
    drop(open);
    bench.settle();
    assert_eq!(
        bench.core.catalog.run(id).unwrap().unwrap().state,
        RunState::Interrupted,
        "a late success changes nothing"
    );
}

#[test]
fn a_cancelled_run_says_so_whether_it_waits_or_runs() {
    let bench = Bench::new(HOME);
    bench.engine.shut();
    let running = manual(&bench, "home", RunKind::Backup);
    let waiting = manual(&bench, "home", RunKind::Drill);
    bench.wait_begun(1);
    assert!(bench.core.cancel(waiting).unwrap());
    assert!(bench.core.cancel(running).unwrap());
    bench.settle();
    assert_eq!(states(&bench), [RunState::Cancelled; 2]);
    assert!(!bench.core.cancel(running).unwrap());
}

#[test]
fn a_bad_configuration_leaves_the_old_one_whole_and_shows() {
    let bench = Bench::new(HOME);
    let before = bench.core.config();
    bench.write(&HOME.replace("daily 02:00", "daily 25:00"));
    assert!(bench.core.reload().unwrap_err().has_errors());
    assert!(std::sync::Arc::ptr_eq(&before, &bench.core.config()));
    assert!(bench.core.loaded().rejected.is_some());
    bench.write(&HOME.replace("policy.home", "policy.other"));
    bench.core.reload().unwrap();
    assert!(bench.core.loaded().rejected.is_none());
    assert_eq!(bench.core.config().policies.keys().map(PolicyName::as_str).collect::<Vec<_>>(), ["other"]);
}

#[test]
fn an_edited_schedule_begins_now_and_invents_no_past() {
    let bench = Bench::new(HOME);
    bench.after(0);
    bench.after(10 * HOUR);
    bench.write(&HOME.replace("daily 02:00", "every 15m"));
    bench.core.reload().unwrap();
    bench.after(0);
    assert_eq!(runs(&bench), []);
    bench.after(15 * 60);
    bench.settle();
    assert_eq!((runs(&bench).len(), runs(&bench)[0].missed), (1, 0));
}

#[test]
fn a_policy_that_is_gone_when_its_turn_comes_fails_with_a_reason() {
    let bench = Bench::new(&format!("{HOME}{}", HOME.replace("policy.home", "policy.other")));
    bench.engine.shut();
    manual(&bench, "home", RunKind::Backup);
    let drill = manual(&bench, "home", RunKind::Drill);
    bench.wait_begun(1);
    bench.write(&HOME.replace("policy.home", "policy.other"));
    bench.core.reload().unwrap();
    bench.engine.open();
    bench.settle();
    let drill = bench.core.catalog.run(drill).unwrap().unwrap();
    assert_eq!(drill.state, RunState::Failed);
    assert!(drill.error.unwrap().contains("not configured any more"));
}

#[test]
fn an_error_is_told_with_its_causes() {
    let cause = std::io::Error::other("no space left");
    let error = crate::catalog::CatalogError::Directory { path: "/x".into(), cause };
    assert_eq!(chain(&error), "the state directory /x cannot be used: no space left");
}
