//! A run in the catalog's words, and its row.
//!
//! Owns the shapes and how one row is read. Refuses to write; `runs` does.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{RunId, RunKind, RunState, Trigger, optional_time, time};
use crate::names::PolicyName;

/// The process that records: whoever reads the row later can tell whether it still lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub boot_id: String,
    pub pid: u32,
    /// In clock ticks since boot, as the kernel counts: tells two processes of one pid apart.
    pub start: u64,
}

/// A run as it is recorded before it begins.
#[derive(Clone, Debug)]
pub struct NewRun {
    pub kind: RunKind,
    pub policy: PolicyName,
    pub trigger: Trigger,
    pub actor: String,
    /// The newest occurrence that it answers.
    pub nominal: Option<Timestamp>,
    /// How many missed occurrences it makes up for.
    pub missed: u32,
    pub retry_of: Option<RunId>,
    /// How many files a drill restores.
    pub drill_files: Option<u32>,
    pub idempotency: Option<Idempotency>,
    pub at: Timestamp,
}

/// What lets a client send a request twice and mean it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    pub key: String,
    pub body_hash: [u8; 32],
}

/// What became of a request for a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Sent {
    /// It is recorded and queued.
    Recorded(Run),
    /// The key has brought this run before.
    Replayed(Run),
    /// The key has brought a run before, for another request.
    KeyReused(RunId),
    /// A run of the same kind and policy is under way.
    Busy(RunId),
    /// So many runs wait that no more are taken.
    Full,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub files: u64,
    pub bytes: u64,
    pub new_bytes: u64,
    pub stored_bytes: u64,
    pub vanished: u64,
    pub unreadable: u64,
}

/// What a drill compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct DrillFindings {
    pub checked_files: u64,
    pub checked_bytes: u64,
    pub mismatches: u64,
    /// Checks that should have been made and were not: such a drill never passes.
    pub not_run: u64,
    /// What the service's user may not set, and which is no part of the drill.
    pub outside: u64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    pub state: RunState,
    pub snapshot: Option<String>,
    pub recovery_point: bool,
    pub counts: Counts,
    pub drill: Option<DrillFindings>,
    pub error: Option<String>,
    pub error_class: Option<String>,
    pub problems: Vec<String>,
    pub at: Timestamp,
}

impl Ending {
    /// An end with nothing to show for it.
    pub fn without_result(state: RunState, error: Option<String>, at: Timestamp) -> Self {
        Self {
            state,
            snapshot: None,
            recovery_point: false,
            counts: Counts::default(),
            drill: None,
            error,
            error_class: None,
            problems: Vec::new(),
            at,
        }
    }
}

/// A run as the catalog knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub id: RunId,
    pub kind: RunKind,
    pub policy: String,
    pub trigger: Trigger,
    pub actor: String,
    pub nominal: Option<Timestamp>,
    pub missed: u32,
    pub retry_of: Option<RunId>,
    pub state: RunState,
    pub cancel_asked: bool,
    pub process: Process,
    pub queued: Timestamp,
    pub started: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    pub drill_files: Option<u32>,
    pub snapshot: Option<String>,
    pub recovery_point: bool,
    pub counts: Counts,
    pub drill: Option<DrillFindings>,
    pub error: Option<String>,
    pub error_class: Option<String>,
    pub problems: Vec<String>,
    /// JSON, as last recorded.
    pub progress: Option<String>,
}

impl Run {
    /// Whether this drill proves that its policy restores.
    pub fn is_passed_drill(&self) -> bool {
        self.kind == RunKind::Drill
            && self.state == RunState::Succeeded
            && self.drill.is_some_and(|drill| drill.checked_files > 0 && drill.mismatches == 0 && drill.not_run == 0)
    }

    /// When its data were frozen, at the earliest: a snapshot is worth no more than its beginning.
    pub fn frozen(&self) -> Timestamp {
        self.started.unwrap_or(self.queued)
    }
}

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub policy: Option<String>,
    pub kind: Option<RunKind>,
    pub state: Option<RunState>,
    /// Only runs that were recorded before this one.
    pub before: Option<RunId>,
}

/// The newest of everything that a policy's state depends on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyMemory {
    /// The newest backup that ended.
    pub last_backup: Option<Run>,
    /// The newest backup that left a good recovery point.
    pub last_point: Option<Run>,
    pub points: u64,
    /// The newest drill that came to a verdict: one that was cancelled or interrupted says nothing.
    pub last_drill: Option<Run>,
    pub last_passed_drill: Option<Run>,
}

/// Sums since the catalog was begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Policy, kind, result, count.
    pub runs: Vec<(String, RunKind, RunState, u64)>,
    /// Policy; bytes read, new, stored.
    pub bytes: Vec<(String, [u64; 3])>,
    /// Policy, kind, reason, count.
    pub missed: Vec<(String, RunKind, String, u64)>,
}

pub(super) const SELECT: &str = "SELECT run.*, drill.run IS NOT NULL AS has_drill, checked_files, checked_bytes, mismatches, not_run, \
                      outside FROM run LEFT JOIN drill ON drill.run = run.id";

pub(super) fn run_of(row: &Row<'_>) -> rusqlite::Result<Run> {
    let count = |column: &str| row.get::<_, i64>(column).map(|n| n.max(0).unsigned_abs());
    let drill = if row.get("has_drill")? {
        Some(DrillFindings {
            checked_files: count("checked_files")?,
            checked_bytes: count("checked_bytes")?,
            mismatches: count("mismatches")?,
            not_run: count("not_run")?,
            outside: count("outside")?,
        })
    } else {
        None
    };
    let problems: String = row.get("problems")?;
    Ok(Run {
        id: row.get("id")?,
        kind: row.get("kind")?,
        policy: row.get("policy")?,
        trigger: row.get("trigger")?,
        actor: row.get("actor")?,
        nominal: optional_time(row, "nominal_ms")?,
        missed: row.get("missed")?,
        retry_of: row.get("retry_of")?,
        state: row.get("state")?,
        cancel_asked: row.get("cancel_asked")?,
        process: Process { boot_id: row.get("boot_id")?, pid: row.get("pid")?, start: count("process_start")? },
        queued: time(row, "queued_ms")?,
        started: optional_time(row, "started_ms")?,
        ended: optional_time(row, "ended_ms")?,
        drill_files: row.get("drill_files")?,
        snapshot: row.get("snapshot")?,
        recovery_point: row.get("recovery_point")?,
        counts: Counts {
            files: count("files")?,
            bytes: count("bytes")?,
            new_bytes: count("new_bytes")?,
            stored_bytes: count("stored_bytes")?,
            vanished: count("vanished")?,
            unreadable: count("unreadable")?,
        },
        drill,
        error: row.get("error")?,
        error_class: row.get("error_class")?,
        problems: serde_json::from_str(&problems).unwrap_or_else(|_| vec![problems.clone()]),
        progress: row.get("progress")?,
    })
}

/// SQLite's integers are signed; no count of ours comes near the end of them.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn find(connection: &Connection, id: RunId) -> rusqlite::Result<Option<Run>> {
    connection.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?.query_row([id], run_of).optional()
}

/// The run of this kind and policy that has not ended, if there is one; the newest, if a key brought several.
pub(super) fn open_run(connection: &Connection, policy: &str, kind: RunKind) -> rusqlite::Result<Option<RunId>> {
    connection
        .prepare_cached("SELECT max(id) FROM run WHERE policy = ?1 AND kind = ?2 AND state IN ('queued', 'running')")?
        .query_row(params![policy, kind], |row| row.get(0))
}
