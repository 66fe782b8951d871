//! What this host remembers: its runs, the times they were due, what drills found, and who may ask.
//!
//! Owns the SQLite database `lifeboat.db` in the state directory and the lock that gives the directory to one daemon.
//! Refuses to be the truth: the store is, and whatever stands here can be lost without losing a snapshot. It never reads
//! a clock; whoever records says when.
//!
//! Crash order. A run is recorded before it begins, and its end after it ended; a row without an end whose process is gone
//! is `interrupted` at the next start. SQLite runs in WAL mode with `synchronous=FULL`, so what a call returned is durable.

mod forgotten;
mod occurrences;
mod open;
mod run;
mod runs;
mod tokens;
mod words;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rusqlite::Connection;

pub use occurrences::{Due, Fate, Occurrence, Progressed};
pub use open::{Damage, StateLock};
pub use run::{Counts, DrillFindings, Ending, Filter, Idempotency, NewRun, PolicyMemory, Process, Run, Sent, Tallies};
pub use tokens::{Token, TokenSecret};
pub use words::{MissReason, Role, RunId, RunKind, RunState, Trigger};

pub type Result<T> = std::result::Result<T, CatalogError>;

/// The open database. One connection behind a lock: every call is short, and SQLite has one writer anyway.
pub struct Catalog {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    connection: Connection,
    /// The greatest id given out: ids grow even when the clock goes back.
    last_id: Option<RunId>,
}

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("the state directory {path} cannot be used")]
    Directory {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    #[error("another daemon ({holder}) already owns the state directory {path}")]
    Owned { path: PathBuf, holder: String },
    #[error("the database {path} was written by a newer Lifeboat (version {found}; this one knows {known})")]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("the database {path} is damaged")]
    Damaged {
        path: PathBuf,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the database {path} refused to {verb}")]
    Sqlite {
        path: PathBuf,
        verb: &'static str,
        #[source]
        cause: rusqlite::Error,
    },
    #[error("there is a token of the name {name:?} already")]
    TokenExists { name: String },
    #[error("{name:?} is no name for a token (1 to 64 printable characters)")]
    TokenName { name: String },
    #[error("the kernel gave no random bytes")]
    Random(#[source] getrandom::Error),
}

impl Catalog {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in a caller leaves SQLite's own transaction rolled back, so the connection stays good.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, verb: &'static str) -> impl FnOnce(rusqlite::Error) -> CatalogError + '_ {
        move |cause| CatalogError::Sqlite { path: self.path.clone(), verb, cause }
    }

    /// Writes that the daemon is alive. It fails exactly when nothing else could be recorded either.
    pub fn pulse(&self, at: Timestamp) -> Result<()> {
        self.lock()
            .connection
            .execute("INSERT INTO pulse VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET at_ms = ?1", [millis(at)])
            .map_err(self.failed("take a write"))?;
        Ok(())
    }

    /// When the daemon last wrote that it was alive.
    pub fn last_pulse(&self) -> Result<Option<Timestamp>> {
        self.lock()
            .connection
            .query_row("SELECT max(at_ms) AS at_ms FROM pulse", [], |row| optional_time(row, "at_ms"))
            .map_err(self.failed("tell its last pulse"))
    }
}

fn millis(at: Timestamp) -> i64 {
    at.as_millisecond()
}

/// A time from the database; one outside of what `jiff` knows is a damaged row.
fn time(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    optional_time(row, column)?
        .ok_or_else(|| rusqlite::Error::InvalidColumnType(0, column.to_owned(), rusqlite::types::Type::Null))
}

fn optional_time(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<Option<Timestamp>> {
    let Some(ms) = row.get::<_, Option<i64>>(column)? else { return Ok(None) };
    Timestamp::from_millisecond(ms)
        .map(Some)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Integer, Box::new(error)))
}
