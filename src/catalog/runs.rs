//! Runs: recorded before they begin, closed once.
//!
//! Owns the table of runs and what drills found. Refuses to run anything, and to change how a run ended (triggers see to it).

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::run::{
    Ending, Filter, NewRun, PolicyMemory, Process, Run, SELECT, Sent, Tallies, find, open_run, run_of, signed,
};
use super::{Catalog, Result, RunId, RunKind, millis};
use crate::names::PolicyName;

/// Rows of one listing.
pub const LIST_MAX: usize = 500;
/// How long a key of a request is remembered.
const KEY_LIFE: SignedDuration = SignedDuration::from_hours(24);

impl super::Inner {
    pub(super) fn insert_run(
        connection: &Connection,
        last_id: &mut Option<RunId>,
        new: &NewRun,
        process: &Process,
        chance: [u8; 10],
    ) -> rusqlite::Result<RunId> {
        let drawn = RunId::new(new.at, chance);
        let id = match *last_id {
            Some(last) if last >= drawn => last.successor(),
            _ => drawn,
        };
        connection
            .prepare_cached(
                "INSERT INTO run (id, kind, policy, trigger, actor, nominal_ms, missed, retry_of, state, boot_id, pid, \
                 process_start, queued_ms, drill_files, idempotency_key, body_hash) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'queued', ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            )?
            .execute(params![
                id,
                new.kind,
                new.policy.as_str(),
                new.trigger,
                new.actor,
                new.nominal.map(millis),
                new.missed,
                new.retry_of,
                process.boot_id,
                process.pid,
                signed(process.start),
                millis(new.at),
                new.drill_files,
                new.idempotency.as_ref().map(|idempotency| &idempotency.key),
                new.idempotency.as_ref().map(|idempotency| idempotency.body_hash.to_vec()),
            ])?;
        // Kept even if the transaction is rolled back: a gap in the ids harms nobody.
        *last_id = Some(id);
        Ok(id)
    }
}

pub(super) fn chance() -> Result<[u8; 10]> {
    let mut bytes = [0; 10];
    getrandom::fill(&mut bytes).map_err(super::CatalogError::Random)?;
    Ok(bytes)
}

impl Catalog {
    /// Records a run that somebody asked for. `exclusive`: refuse while one of the same kind and policy is under way.
    /// At most `open_max` runs wait or run at a time.
    pub fn submit(&self, new: &NewRun, process: &Process, exclusive: bool, open_max: usize) -> Result<Sent> {
        let chance = chance()?;
        let failed = self.failed("record a run");
        let mut inner = self.lock();
        let inner = &mut *inner;
        (|| {
            let transaction = inner.connection.transaction()?;
            if let Some(wanted) = &new.idempotency {
                let earlier = transaction
                    .prepare_cached(
                        "SELECT id, body_hash FROM run WHERE idempotency_key = ?1 AND kind = ?2 AND policy = ?3 \
                         AND queued_ms > ?4 ORDER BY id DESC LIMIT 1",
                    )?
                    .query_row(
                        params![
                            wanted.key,
                            new.kind,
                            new.policy.as_str(),
                            millis(new.at) - KEY_LIFE.as_millis() as i64
                        ],
                        |row| Ok((row.get::<_, RunId>(0)?, row.get::<_, Vec<u8>>(1)?)),
                    )
                    .optional()?;
                if let Some((id, body_hash)) = earlier {
                    return Ok(match find(&transaction, id)? {
                        Some(run) if body_hash == wanted.body_hash => Sent::Replayed(run),
                        _ => Sent::KeyReused(id),
                    });
                }
            }
            if exclusive && let Some(id) = open_run(&transaction, new.policy.as_str(), new.kind)? {
                return Ok(Sent::Busy(id));
            }
            let open: i64 = transaction
                .prepare_cached("SELECT count(*) FROM run WHERE state IN ('queued', 'running')")?
                .query_row([], |row| row.get(0))?;
            if open >= open_max as i64 {
                return Ok(Sent::Full);
            }
            let id = super::Inner::insert_run(&transaction, &mut inner.last_id, new, process, chance)?;
            let run = find(&transaction, id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            transaction.commit()?;
            Ok(Sent::Recorded(run))
        })()
        .map_err(failed)
    }

    /// Marks a queued run as running. False if it is not queued any more: then it must not run.
    /// `scope` tells what the run saves and where to: under another scope, its snapshot counts for nothing.
    pub fn begin(&self, id: RunId, scope: &str, at: Timestamp) -> Result<bool> {
        self.lock()
            .connection
            .execute(
                "UPDATE run SET state = 'running', started_ms = ?2, scope = ?3 WHERE id = ?1 AND state = 'queued'",
                params![id, millis(at), scope],
            )
            .map(|changed| changed == 1)
            .map_err(self.failed("begin a run"))
    }

    /// Closes a run. False if it was closed before: then nothing changes.
    pub fn finish(&self, id: RunId, ending: &Ending) -> Result<bool> {
        let problems = serde_json::Value::from(ending.problems.clone()).to_string();
        let mut inner = self.lock();
        (|| {
            let transaction = inner.connection.transaction()?;
            // First, for the triggers forbid any change to a run after its end.
            if let Some(drill) = ending.drill {
                transaction.execute(
                    "INSERT INTO drill SELECT id, ?2, ?3, ?4, ?5, ?6 FROM run \
                     WHERE id = ?1 AND state IN ('queued', 'running')",
                    params![
                        id,
                        signed(drill.checked_files),
                        signed(drill.checked_bytes),
                        signed(drill.mismatches),
                        signed(drill.not_run),
                        signed(drill.outside)
                    ],
                )?;
            }
            let counts = ending.counts;
            let changed = transaction.execute(
                "UPDATE run SET state = ?2, ended_ms = ?3, snapshot = ?4, recovery_point = ?5, files = ?6, bytes = ?7, \
                 new_bytes = ?8, stored_bytes = ?9, vanished = ?10, unreadable = ?11, error = ?12, error_class = ?13, \
                 problems = ?14 WHERE id = ?1 AND state IN ('queued', 'running')",
                params![
                    id,
                    ending.state,
                    millis(ending.at),
                    ending.snapshot,
                    ending.recovery_point,
                    signed(counts.files),
                    signed(counts.bytes),
                    signed(counts.new_bytes),
                    signed(counts.stored_bytes),
                    signed(counts.vanished),
                    signed(counts.unreadable),
                    ending.error,
                    ending.error_class,
                    problems,
                ],
            )?;
            transaction.commit()?;
            Ok(changed == 1)
        })()
        .map_err(self.failed("close a run"))
    }

    /// Notes that somebody wants the run to stop. False if it ended already.
    pub fn ask_cancel(&self, id: RunId) -> Result<bool> {
        self.lock()
            .connection
            .execute("UPDATE run SET cancel_asked = 1 WHERE id = ?1 AND state IN ('queued', 'running')", [id])
            .map(|changed| changed == 1)
            .map_err(self.failed("note a cancellation"))
    }

    /// Notes how far a run is: JSON, for people.
    pub fn note_progress(&self, id: RunId, progress: &str) -> Result<()> {
        self.lock()
            .connection
            .execute("UPDATE run SET progress = ?2 WHERE id = ?1 AND state = 'running'", params![id, progress])
            .map(|_| ())
            .map_err(self.failed("note progress"))
    }

    /// Closes whatever a dead daemon left open. Only for the holder of the state directory's lock: nobody else runs.
    pub fn interrupt_open(&self, at: Timestamp) -> Result<Vec<Run>> {
        let mut inner = self.lock();
        (|| {
            let transaction = inner.connection.transaction()?;
            let open: Vec<RunId> = transaction
                .prepare("SELECT id FROM run WHERE state IN ('queued', 'running') ORDER BY id")?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            transaction.execute(
                "UPDATE run SET state = 'interrupted', ended_ms = ?1, error_class = 'interrupted', \
                 error = CASE state WHEN 'queued' THEN 'the daemon ended before this run began' \
                 ELSE 'the daemon ended while this run was going' END WHERE state IN ('queued', 'running')",
                [millis(at)],
            )?;
            let mut runs = Vec::with_capacity(open.len());
            for id in open {
                runs.extend(find(&transaction, id)?);
            }
            transaction.commit()?;
            Ok(runs)
        })()
        .map_err(self.failed("close interrupted runs"))
    }

    pub fn run(&self, id: RunId) -> Result<Option<Run>> {
        find(&self.lock().connection, id).map_err(self.failed("show a run"))
    }

    /// Up to `limit` runs (at most 500), newest first.
    pub fn runs(&self, filter: &Filter, limit: usize) -> Result<Vec<Run>> {
        let limit = limit.min(LIST_MAX) as i64;
        self.select(
            "WHERE (?1 IS NULL OR policy = ?1) AND (?2 IS NULL OR kind = ?2) AND (?3 IS NULL OR state = ?3) \
             AND (?4 IS NULL OR id < ?4) ORDER BY id DESC LIMIT ?5",
            params![filter.policy, filter.kind, filter.state, filter.before, limit],
        )
    }

    /// Runs that wait or run, in the order of their recording.
    pub fn open_runs(&self) -> Result<Vec<Run>> {
        self.select("WHERE state IN ('queued', 'running') ORDER BY id", [])
    }

    fn select(&self, tail: &str, parameters: impl rusqlite::Params) -> Result<Vec<Run>> {
        let inner = self.lock();
        (|| {
            let mut statement = inner.connection.prepare_cached(&format!("{SELECT} {tail}"))?;
            let rows = statement.query_map(parameters, run_of)?;
            rows.collect::<rusqlite::Result<_>>()
        })()
        .map_err(self.failed("list runs"))
    }

    /// What a policy's state depends on, of runs that had the same scope. One that never began had none, and counts.
    pub fn memory(&self, policy: &PolicyName, scope: &str) -> Result<PolicyMemory> {
        const ENDED: &str = "state NOT IN ('queued', 'running')";
        let inner = self.lock();
        let policy = policy.as_str();
        let newest = |condition: &str, kind: RunKind| {
            inner
                .connection
                .prepare_cached(&format!(
                    "{SELECT} WHERE policy = ?1 AND kind = ?2 AND (scope = ?3 OR scope IS NULL) AND {condition} \
                     ORDER BY id DESC LIMIT 1"
                ))?
                .query_row([&policy as &dyn ToSql, &kind, &scope], run_of)
                .optional()
        };
        (|| {
            Ok(PolicyMemory {
                last_backup: newest(ENDED, RunKind::Backup)?,
                last_point: newest(
                    "recovery_point = 1 AND snapshot NOT IN (SELECT snapshot FROM forgotten WHERE forgotten.scope = ?3)",
                    RunKind::Backup,
                )?,
                points: inner
                    .connection
                    .prepare_cached(
                        "SELECT count(*) FROM run WHERE policy = ?1 AND recovery_point = 1 AND (scope = ?2 OR scope IS NULL) \
                         AND snapshot NOT IN (SELECT snapshot FROM forgotten WHERE forgotten.scope = ?2)",
                    )?
                    .query_row([policy, scope], |row| row.get::<_, i64>(0))?
                    .unsigned_abs(),
                last_drill: newest("state IN ('succeeded', 'partial', 'failed', 'timed_out')", RunKind::Drill)?,
                last_passed_drill: newest(
                    "state = 'succeeded' AND checked_files > 0 AND mismatches = 0 AND not_run = 0",
                    RunKind::Drill,
                )?,
            })
        })()
        .map_err(self.failed("tell what it knows of a policy"))
    }

    pub fn tallies(&self) -> Result<Tallies> {
        let inner = self.lock();
        let count = |row: &Row<'_>, at: usize| row.get::<_, i64>(at).map(|n| n.max(0).unsigned_abs());
        (|| {
            Ok(Tallies {
                runs: inner
                    .connection
                    .prepare_cached("SELECT policy, kind, result, n FROM run_tally")?
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, count(row, 3)?)))?
                    .collect::<rusqlite::Result<_>>()?,
                bytes: inner
                    .connection
                    .prepare_cached("SELECT policy, read, new, stored FROM byte_tally")?
                    .query_map([], |row| Ok((row.get(0)?, [count(row, 1)?, count(row, 2)?, count(row, 3)?])))?
                    .collect::<rusqlite::Result<_>>()?,
                missed: inner
                    .connection
                    .prepare_cached("SELECT policy, kind, reason, n FROM missed_tally")?
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, count(row, 3)?)))?
                    .collect::<rusqlite::Result<_>>()?,
            })
        })()
        .map_err(self.failed("add up"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Counts, DrillFindings, Idempotency, RunState, StateLock, Trigger};
    use super::*;

    pub fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    pub fn catalog() -> (tempfile::TempDir, Catalog) {
        let dir = tempfile::tempdir().unwrap();
        let lock = StateLock::acquire(dir.path()).unwrap();
        let (catalog, damage) = Catalog::open(&lock, at(0)).unwrap();
        assert!(damage.is_none());
        (dir, catalog)
    }

    pub fn process() -> Process {
        Process { boot_id: "boot".into(), pid: 7, start: 42 }
    }

    pub fn new_run(kind: RunKind, second: i64) -> NewRun {
        NewRun {
            kind,
            policy: "home".parse().unwrap(),
            trigger: Trigger::Api,
            actor: "test".into(),
            nominal: None,
            missed: 0,
            retry_of: None,
            drill_files: (kind == RunKind::Drill).then_some(5),
            idempotency: None,
            at: at(second),
        }
    }

    fn recorded(catalog: &Catalog, new: &NewRun) -> Run {
        match catalog.submit(new, &process(), false, 100).unwrap() {
            Sent::Recorded(run) => run,
            other => panic!("{other:?}"),
        }
    }

    fn good(second: i64) -> Ending {
        Ending {
            snapshot: Some("ab".repeat(16)),
            recovery_point: true,
            counts: Counts { files: 3, bytes: 300, new_bytes: 30, stored_bytes: 20, vanished: 1, unreadable: 0 },
            problems: vec!["a \"vanished\" file".into()],
            ..Ending::without_result(RunState::Succeeded, None, at(second))
        }
    }

    #[test]
    fn a_run_is_there_before_it_begins_and_keeps_what_it_was_told() {
        let (_dir, catalog) = catalog();
        let run = recorded(&catalog, &new_run(RunKind::Backup, 0));
        assert_eq!((run.state, run.started, run.process.clone()), (RunState::Queued, None, process()));
        assert_eq!(catalog.open_runs().unwrap(), vec![run.clone()]);
        assert!(catalog.begin(run.id, "s", at(1)).unwrap());
        assert!(catalog.finish(run.id, &good(9)).unwrap());
        let run = catalog.run(run.id).unwrap().unwrap();
        assert_eq!((run.started, run.ended), (Some(at(1)), Some(at(9))));
        assert_eq!((run.counts, run.problems), (good(9).counts, good(9).problems));
        assert_eq!(catalog.open_runs().unwrap(), vec![]);
    }

    #[test]
    fn an_end_never_changes_even_by_hand() {
        let (_dir, catalog) = catalog();
        let run = recorded(&catalog, &new_run(RunKind::Backup, 0));
        let failed = Ending::without_result(RunState::Failed, Some("no".into()), at(2));
        assert!(catalog.finish(run.id, &failed).unwrap());
        assert!(!catalog.finish(run.id, &good(3)).unwrap());
        assert!(!catalog.begin(run.id, "s", at(3)).unwrap());
        assert!(!catalog.ask_cancel(run.id).unwrap());
        for sql in [
            "UPDATE run SET state = 'succeeded'",
            "UPDATE run SET recovery_point = 1",
            "UPDATE run SET state = 'queued'",
            "DELETE FROM run",
        ] {
            assert!(catalog.lock().connection.execute(sql, []).is_err(), "{sql}");
        }
        assert_eq!(catalog.run(run.id).unwrap().unwrap().state, RunState::Failed);
    }

    #[test]
    fn what_a_dead_daemon_left_open_is_interrupted_and_nothing_else() {
        let (_dir, catalog) = catalog();
        let done = recorded(&catalog, &new_run(RunKind::Backup, 0));
        catalog.begin(done.id, "s", at(0)).unwrap();
        catalog.finish(done.id, &good(1)).unwrap();
        let running = recorded(&catalog, &new_run(RunKind::Backup, 2));
        catalog.begin(running.id, "s", at(3)).unwrap();
        let queued = recorded(&catalog, &new_run(RunKind::Drill, 4));

        let interrupted = catalog.interrupt_open(at(100)).unwrap();
        assert_eq!(interrupted.iter().map(|run| run.id).collect::<Vec<_>>(), [running.id, queued.id]);
        assert!(interrupted.iter().all(|run| run.state == RunState::Interrupted && run.ended == Some(at(100))));
        assert_ne!(interrupted[0].error, interrupted[1].error);
        assert_eq!(catalog.run(done.id).unwrap().unwrap().state, RunState::Succeeded);
        assert_eq!(catalog.interrupt_open(at(101)).unwrap(), vec![]);
    }

    #[test]
    fn a_key_brings_one_run_for_a_day() {
        let (_dir, catalog) = catalog();
        let keyed = |body: u8, second| NewRun {
            idempotency: Some(Idempotency { key: "k".into(), body_hash: [body; 32] }),
            ..new_run(RunKind::Drill, second)
        };
        let first = recorded(&catalog, &keyed(1, 0));
        let again = |body, second| catalog.submit(&keyed(body, second), &process(), true, 100).unwrap();
        assert_eq!(again(1, 1), Sent::Replayed(first.clone()));
        assert_eq!(again(2, 1), Sent::KeyReused(first.id));
        catalog.finish(first.id, &good(2)).unwrap();
        assert!(matches!(again(1, 86_399), Sent::Replayed(run) if run.id == first.id));
        assert!(matches!(again(1, 86_401), Sent::Recorded(_)));
    }

    #[test]
    fn an_exclusive_run_waits_for_no_other_of_its_kind() {
        let (_dir, catalog) = catalog();
        let first = recorded(&catalog, &new_run(RunKind::Drill, 0));
        let submit = |kind| catalog.submit(&new_run(kind, 1), &process(), true, 2).unwrap();
        assert_eq!(submit(RunKind::Drill), Sent::Busy(first.id));
        assert!(matches!(submit(RunKind::Backup), Sent::Recorded(_)));
        assert_eq!(submit(RunKind::Verify), Sent::Full);
    }

    #[test]
    fn listings_go_from_the_newest_backwards_even_when_the_clock_does() {
        let (_dir, catalog) = catalog();
        let ids: Vec<_> = [5, 5, 3, 9]
            .map(|second| recorded(&catalog, &new_run(RunKind::Backup, second)).id)
            .into_iter()
            .rev()
            .collect();
        let listed = |filter: &Filter, limit| {
            catalog.runs(filter, limit).unwrap().into_iter().map(|run| run.id).collect::<Vec<_>>()
        };
        assert_eq!(listed(&Filter::default(), 10), ids);
        assert_eq!(listed(&Filter { before: Some(ids[1]), ..Filter::default() }, 1), ids[2..3]);
        assert_eq!(listed(&Filter { kind: Some(RunKind::Drill), ..Filter::default() }, 10), []);
        assert_eq!(listed(&Filter { policy: Some("other".into()), ..Filter::default() }, 10), []);
        assert_eq!(listed(&Filter { state: Some(RunState::Queued), ..Filter::default() }, 10), ids);
    }

    #[test]
    fn a_failed_run_does_not_hide_the_last_good_point() {
        let (_dir, catalog) = catalog();
        let policy = "home".parse().unwrap();
        let point = recorded(&catalog, &new_run(RunKind::Backup, 0));
        catalog.finish(point.id, &good(1)).unwrap();
        let failed = recorded(&catalog, &new_run(RunKind::Backup, 2));
        catalog.finish(failed.id, &Ending::without_result(RunState::Failed, None, at(3))).unwrap();
        let drill = recorded(&catalog, &new_run(RunKind::Drill, 4));
        let findings = DrillFindings { checked_files: 5, not_run: 1, ..DrillFindings::default() };
        let ending = Ending { drill: Some(findings), ..Ending::without_result(RunState::Succeeded, None, at(5)) };
        catalog.finish(drill.id, &ending).unwrap();

        let memory = catalog.memory(&policy, "s").unwrap();
        assert_eq!(memory.last_backup.unwrap().id, failed.id);
        assert_eq!((memory.last_point.unwrap().id, memory.points), (point.id, 1));
        assert_eq!(memory.last_drill.as_ref().map(|run| run.drill), Some(Some(findings)));
        assert_eq!(memory.last_passed_drill, None, "a check that was not made proves nothing");
    }

    #[test]
    fn a_forgotten_snapshot_is_no_recovery_point_until_it_is_taken_back() {
        let (_dir, catalog) = catalog();
        let policy = "home".parse().unwrap();
        let ids = ["ab", "cd"].map(|id| id.repeat(16));
        let points = [0, 2].map(|second| recorded(&catalog, &new_run(RunKind::Backup, second)).id);
        for (point, id) in points.iter().zip(&ids) {
            assert!(catalog.begin(*point, "s", at(3)).unwrap());
            assert!(catalog.finish(*point, &Ending { snapshot: Some(id.clone()), ..good(4) }).unwrap());
        }
        let memory = || {
            let memory = catalog.memory(&policy, "s").unwrap();
            (memory.last_point.map(|run| run.id), memory.points)
        };
        assert_eq!(memory(), (Some(points[1]), 2));
        catalog.note_forgotten("s", &ids[1..]).unwrap();
        assert_eq!(memory(), (Some(points[0]), 1));
        catalog.note_forgotten("s", &ids).unwrap();
        assert_eq!(memory(), (None, 0));
        // What another place forgot is another's.
        catalog.note_forgotten("elsewhere", &ids).unwrap();
        catalog.note_forgotten("s", &[]).unwrap();
        assert_eq!(memory(), (Some(points[1]), 2));
    }

    #[test]
    fn two_processes_write_without_getting_in_each_others_way() {
        let (dir, catalog) = catalog();
        let other = Catalog::open_shared(dir.path()).unwrap();
        std::thread::scope(|scope| {
            for catalog in [&catalog, &other] {
                scope.spawn(move || {
                    for second in 0..20 {
                        let run = recorded(catalog, &new_run(RunKind::Backup, second));
                        assert!(catalog.finish(run.id, &good(second)).unwrap());
                    }
                });
            }
        });
        assert_eq!(catalog.runs(&Filter::default(), 100).unwrap().len(), 40);
    }

    #[test]
    fn sums_go_on_after_a_restart() {
        let (dir, catalog) = catalog();
        for second in [0, 1] {
            let run = recorded(&catalog, &new_run(RunKind::Backup, second));
            catalog.finish(run.id, &good(2)).unwrap();
        }
        drop(catalog);
        let tallies = Catalog::open_shared(dir.path()).unwrap().tallies().unwrap();
        assert_eq!(tallies.runs, [("home".to_owned(), RunKind::Backup, RunState::Succeeded, 2)]);
        assert_eq!(tallies.bytes, [("home".to_owned(), [600, 60, 40])]);
    }
}
