//! Due times: each recorded once, with what became of it.
//!
//! Owns how far a schedule has been dealt with. Refuses to compute when something is due; `schedule` does.
//!
//! One transaction per decision: a due time and the run that answers it are recorded together or not at all, so a crash
//! between them neither loses the time nor runs it twice.

use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, params};

use super::{Catalog, MissReason, NewRun, Process, Result, Run, RunId, RunKind, millis, optional_time, time};
use crate::names::PolicyName;

/// A due time as a schedule names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub identity: String,
    pub nominal: Timestamp,
}

/// What is to become of a batch of due times.
#[derive(Clone, Debug)]
pub enum Fate {
    /// A new run answers them.
    Start(NewRun),
    /// A run that waits, and so will see everything up to now, answers them.
    Join(RunId),
    /// Nothing answers them.
    Skip(MissReason),
}

/// A batch of due times of one policy, oldest first.
#[derive(Clone, Debug)]
pub struct Progressed<'a> {
    pub policy: &'a PolicyName,
    pub kind: RunKind,
    /// Too long ago to be met: recorded as missed, and made up for by the same run.
    pub missed: &'a [Due],
    /// Met now.
    pub met: &'a [Due],
    pub fate: Fate,
    /// The time up to which the schedule is dealt with after this.
    pub until: Timestamp,
    pub now: Timestamp,
}

/// A due time as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    pub identity: String,
    pub nominal: Timestamp,
    /// `started`, `missed` or `skipped`.
    pub state: String,
    pub reason: Option<String>,
    pub run: Option<RunId>,
}

fn occurrence_of(row: &Row<'_>) -> rusqlite::Result<Occurrence> {
    Ok(Occurrence {
        identity: row.get("identity")?,
        nominal: time(row, "nominal_ms")?,
        state: row.get("state")?,
        reason: row.get("reason")?,
        run: row.get("run")?,
    })
}

impl Catalog {
    /// The time up to which a schedule has been dealt with. A schedule that is new, or another than before, waits for its
    /// next time: it begins `now`.
    pub fn schedule_after(
        &self,
        policy: &PolicyName,
        kind: RunKind,
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<Timestamp> {
        let mut inner = self.lock();
        (|| {
            let transaction = inner.connection.transaction()?;
            let known = transaction
                .prepare_cached("SELECT after_ms FROM schedule WHERE policy = ?1 AND kind = ?2 AND fingerprint = ?3")?
                .query_row(params![policy.as_str(), kind, fingerprint], |row| optional_time(row, "after_ms"))
                .optional()?
                .flatten();
            if let Some(after) = known {
                return Ok(after);
            }
            transaction.execute(
                "INSERT INTO schedule VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (policy, kind) DO UPDATE SET fingerprint = ?3, after_ms = ?4",
                params![policy.as_str(), kind, fingerprint, millis(now)],
            )?;
            transaction.commit()?;
            Ok(now)
        })()
        .map_err(self.failed("begin a schedule"))
    }

    /// Records a batch of due times and the run that answers them. Times that are on record already are left as they are;
    /// if none is new, there is no run.
    pub fn progress_schedule(&self, batch: &Progressed<'_>, process: &Process) -> Result<Option<Run>> {
        let chance = super::runs::chance()?;
        let mut inner = self.lock();
        let inner = &mut *inner;
        (|| {
            let transaction = inner.connection.transaction()?;
            let policy = batch.policy.as_str();
            let mut insert = transaction.prepare_cached(
                "INSERT INTO occurrence (policy, kind, identity, nominal_ms, state, reason, recorded_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
            )?;
            let (met_state, met_reason) = match batch.fate {
                Fate::Skip(reason) => ("skipped", Some(reason)),
                Fate::Start(_) | Fate::Join(_) => ("started", None),
            };
            let missed = batch.missed.iter().map(|due| (due, "missed", Some(MissReason::DaemonDown)));
            let met = batch.met.iter().map(|due| (due, met_state, met_reason));
            let mut fresh = Vec::new();
            let mut fresh_missed = 0u32;
            for (due, state, reason) in missed.chain(met) {
                let at = [millis(due.nominal), millis(batch.now)];
                if insert.execute(params![policy, batch.kind, due.identity, at[0], state, reason, at[1]])? == 1 {
                    fresh_missed += u32::from(state == "missed");
                    fresh.push(due);
                }
            }
            drop(insert);
            let run = match &batch.fate {
                _ if fresh.is_empty() => None,
                Fate::Skip(_) => None,
                Fate::Join(run) => {
                    transaction.execute(
                        "UPDATE run SET missed = missed + ?2 WHERE id = ?1 AND state IN ('queued', 'running')",
                        params![run, fresh_missed],
                    )?;
                    Some(*run)
                }
                Fate::Start(new) => {
                    let nominal = fresh.last().map(|due| due.nominal);
                    let new = NewRun { nominal, missed: fresh_missed, ..new.clone() };
                    Some(super::Inner::insert_run(&transaction, &mut inner.last_id, &new, process, chance)?)
                }
            };
            if let Some(run) = run {
                let mut link = transaction.prepare_cached(
                    "UPDATE occurrence SET run = ?4 WHERE policy = ?1 AND kind = ?2 AND identity = ?3",
                )?;
                for due in fresh {
                    link.execute(params![policy, batch.kind, due.identity, run])?;
                }
            }
            transaction.execute(
                "UPDATE schedule SET after_ms = max(after_ms, ?3) WHERE policy = ?1 AND kind = ?2",
                params![policy, batch.kind, millis(batch.until)],
            )?;
            let recorded = match (&batch.fate, run) {
                (Fate::Start(_), Some(id)) => super::run::find(&transaction, id)?,
                _ => None,
            };
            transaction.commit()?;
            Ok(recorded)
        })()
        .map_err(self.failed("record a due time"))
    }

    /// Takes a schedule back to `now` after the clock went back by more than a little: what was called missed has yet to come.
    /// Times that brought a run keep it, so none runs twice.
    pub fn rewind_schedule(&self, policy: &PolicyName, kind: RunKind, now: Timestamp) -> Result<()> {
        let mut inner = self.lock();
        (|| {
            let transaction = inner.connection.transaction()?;
            transaction.execute(
                "DELETE FROM occurrence WHERE policy = ?1 AND kind = ?2 AND nominal_ms > ?3 AND state <> 'started'",
                params![policy.as_str(), kind, millis(now)],
            )?;
            transaction.execute(
                "UPDATE schedule SET after_ms = min(after_ms, ?3) WHERE policy = ?1 AND kind = ?2",
                params![policy.as_str(), kind, millis(now)],
            )?;
            transaction.commit()
        })()
        .map_err(self.failed("take a schedule back"))
    }

    /// Up to `limit` due times of a policy, newest first.
    pub fn occurrences(&self, policy: &PolicyName, kind: RunKind, limit: usize) -> Result<Vec<Occurrence>> {
        let inner = self.lock();
        (|| {
            let mut statement = inner.connection.prepare_cached(
                "SELECT * FROM occurrence WHERE policy = ?1 AND kind = ?2 ORDER BY nominal_ms DESC, identity LIMIT ?3",
            )?;
            let rows = statement
                .query_map(params![policy.as_str(), kind, limit.min(super::runs::LIST_MAX) as i64], occurrence_of)?;
            rows.collect::<rusqlite::Result<_>>()
        })()
        .map_err(self.failed("list due times"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::runs::tests::{at, catalog, new_run, process};
    use super::super::{Ending, RunState};
    use super::*;

    fn due(second: i64) -> Due {
        Due { identity: format!("t@{second}"), nominal: at(second) }
    }

    fn home() -> PolicyName {
        "home".parse().unwrap()
    }

    fn batch<'a>(policy: &'a PolicyName, missed: &'a [Due], met: &'a [Due], fate: Fate) -> Progressed<'a> {
        let until = met.last().or(missed.last()).map_or(at(0), |due| due.nominal);
        Progressed { policy, kind: RunKind::Backup, missed, met, fate, until, now: until }
    }

    fn start() -> Fate {
        Fate::Start(new_run(RunKind::Backup, 0))
    }

    #[test]
    fn a_due_time_brings_one_run_however_often_it_is_seen() {
        let (_dir, catalog) = catalog();
        let home = home();
        catalog.schedule_after(&home, RunKind::Backup, "f", at(0)).unwrap();
        let dues = [due(60)];
        let run = catalog.progress_schedule(&batch(&home, &[], &dues, start()), &process()).unwrap().unwrap();
        assert_eq!(run.nominal, Some(at(60)));
        assert_eq!(catalog.progress_schedule(&batch(&home, &[], &dues, start()), &process()).unwrap(), None);
        assert_eq!(catalog.open_runs().unwrap().len(), 1);
        assert_eq!(catalog.schedule_after(&home, RunKind::Backup, "f", at(999)).unwrap(), at(60));
    }

    #[test]
    fn missed_times_collapse_into_the_run_that_makes_up_for_them() {
        let (_dir, catalog) = catalog();
        let home = home();
        let (missed, met) = ([due(60), due(120)], [due(180)]);
        let run = catalog.progress_schedule(&batch(&home, &missed, &met, start()), &process()).unwrap().unwrap();
        assert_eq!(run.missed, 2);
        let rows = catalog.occurrences(&home, RunKind::Backup, 10).unwrap();
        let shown: Vec<_> = rows.iter().map(|row| (row.state.as_str(), row.reason.as_deref(), row.run)).collect();
        let missed = ("missed", Some("daemon_down"), Some(run.id));
        assert_eq!(shown, [("started", None, Some(run.id)), missed, missed]);
    }

    #[test]
    fn a_skipped_time_says_why_and_brings_no_run() {
        let (_dir, catalog) = catalog();
        let home = home();
        let skip = Fate::Skip(MissReason::Overlap);
        assert_eq!(catalog.progress_schedule(&batch(&home, &[], &[due(60)], skip), &process()).unwrap(), None);
        let rows = catalog.occurrences(&home, RunKind::Backup, 10).unwrap();
        assert_eq!(
            (rows[0].state.as_str(), rows[0].reason.as_deref(), rows[0].run),
            ("skipped", Some("overlap"), None)
        );
        assert_eq!(catalog.tallies().unwrap().missed, [("home".into(), RunKind::Backup, "overlap".into(), 1)]);
        assert_eq!(catalog.open_runs().unwrap(), []);
    }

    #[test]
    fn another_schedule_begins_now_and_the_same_one_goes_on() {
        let (_dir, catalog) = catalog();
        let after = |print, second| catalog.schedule_after(&home(), RunKind::Backup, print, at(second)).unwrap();
        assert_eq!(after("daily", 10), at(10));
        assert_eq!(after("daily", 500), at(10));
        assert_eq!(after("hourly", 600), at(600));
    }

    #[test]
    fn a_clock_that_goes_back_brings_missed_times_again_and_answered_ones_never() {
        let (_dir, catalog) = catalog();
        let home = home();
        catalog.schedule_after(&home, RunKind::Backup, "f", at(0)).unwrap();
        let (missed, met) = ([due(1000), due(2000)], [due(3000)]);
        let run = catalog.progress_schedule(&batch(&home, &missed, &met, start()), &process()).unwrap().unwrap();
        catalog.finish(run.id, &Ending::without_result(RunState::Succeeded, None, at(3001))).unwrap();
        catalog.rewind_schedule(&home, RunKind::Backup, at(500)).unwrap();
        assert_eq!(catalog.schedule_after(&home, RunKind::Backup, "f", at(500)).unwrap(), at(500));
        assert!(catalog.progress_schedule(&batch(&home, &[], &[due(1000)], start()), &process()).unwrap().is_some());
        assert_eq!(catalog.progress_schedule(&batch(&home, &[], &met, start()), &process()).unwrap(), None);
    }
}
