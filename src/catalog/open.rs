//! Opening the catalog: whose it is, how it grew, and what is done about damage.
//!
//! Owns the directory, the lock, migrations and the recovery from damage. Refuses to know what the tables mean.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use rustix::fs::FlockOperation;

use super::{Catalog, CatalogError, Inner, Result, RunId};

const FILE: &str = "lifeboat.db";
const LOCK: &str = "lifeboat.lock";
/// "LIFB": tells our database from another program's.
const APPLICATION: i32 = 0x4c49_4642;
/// Each brings `user_version` from its index to its index plus one. Never edited once released.
const MIGRATIONS: [&str; 2] = [include_str!("migrations/0001_runs.sql"), include_str!("migrations/0002_forgotten.sql")];
/// How long a writer waits for another process: `token create` beside a running daemon.
const BUSY_WAIT: Duration = Duration::from_secs(10);

/// Proof that this process is the only daemon of a state directory; let go when dropped, and by the kernel on a crash.
#[derive(Debug)]
pub struct StateLock {
    directory: PathBuf,
    _file: File,
}

/// A database that could not be read and was put aside.
#[derive(Debug)]
pub struct Damage {
    pub moved_to: PathBuf,
    pub reason: String,
}

impl StateLock {
    /// Takes the directory, creating it (mode 0700) if it is not there.
    pub fn acquire(directory: &Path) -> Result<Self> {
        create_directory(directory)?;
        let refused = |cause| CatalogError::Directory { path: directory.to_owned(), cause };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join(LOCK))
            .map_err(refused)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // Only to tell who it is: the kernel's lock has decided already.
                let _ = Read::by_ref(&mut file).take(64).read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "unknown".to_owned() } else { holder.trim().to_owned() };
                return Err(CatalogError::Owned { path: directory.to_owned(), holder });
            }
            Err(errno) => return Err(refused(errno.into())),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "process {}", std::process::id()))
            .map_err(refused)?;
        Ok(Self { directory: directory.to_owned(), _file: file })
    }
}

impl Catalog {
    /// Opens the daemon's own catalog. A damaged one is renamed and an empty one takes its place: what is stored does not
    /// depend on it, and a daemon that stays down protects nobody.
    pub fn open(lock: &StateLock, now: Timestamp) -> Result<(Self, Option<Damage>)> {
        match Self::open_file(&lock.directory, true) {
            Err(CatalogError::Damaged { path, cause }) => {
                let damage = put_aside(&path, now, &*cause)?;
                Ok((Self::open_file(&lock.directory, true)?, Some(damage)))
            }
            other => Ok((other?, None)),
        }
    }

    /// Opens the catalog beside a daemon that may be running: for tokens and for looking. Damage is an error here.
    pub fn open_shared(directory: &Path) -> Result<Self> {
        create_directory(directory)?;
        Self::open_file(directory, false)
    }

    fn open_file(directory: &Path, check: bool) -> Result<Self> {
        let path = directory.join(FILE);
        create_file(directory, &path)?;
        let mut connection = Connection::open(&path).map_err(|cause| sort(&path, "open", cause))?;
        prepare(&mut connection, &path, check)?;
        let last_id = connection
            .query_row("SELECT max(id) FROM run", [], |row| row.get::<_, Option<RunId>>(0))
            .map_err(|cause| sort(&path, "tell its last run", cause))?;
        Ok(Self { path, inner: Mutex::new(Inner { connection, last_id }) })
    }
}

fn prepare(connection: &mut Connection, path: &Path, check: bool) -> Result<()> {
    let refused = |cause| sort(path, "open", cause);
    connection.busy_timeout(BUSY_WAIT).map_err(refused)?;
    // A transaction that reads first and then finds another writer before it does not wait, it fails: take the turn at once.
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    let version = |connection: &Connection| connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
    let found = version(connection).map_err(refused)?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(CatalogError::Newer { path: path.to_owned(), found, known });
    }
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;")
        .map_err(refused)?;
    if check && found > 0 {
        let answer: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(refused)?;
        if answer != "ok" {
            return Err(CatalogError::Damaged { path: path.to_owned(), cause: answer.into() });
        }
    }
    // The version is read again inside: two processes may open a new catalog at once.
    let transaction = connection.transaction().map_err(refused)?;
    let found = version(&transaction).map_err(refused)?;
    for (at, sql) in MIGRATIONS.iter().enumerate().skip(found.max(0).unsigned_abs() as usize) {
        transaction.execute_batch(sql).map_err(refused)?;
        transaction.pragma_update(None, "user_version", at as i64 + 1).map_err(refused)?;
    }
    if found < known {
        transaction.pragma_update(None, "application_id", APPLICATION).map_err(refused)?;
    }
    transaction.commit().map_err(refused)
}

/// Tells damage, which another file cures, from all else, which it would not.
fn sort(path: &Path, verb: &'static str, cause: rusqlite::Error) -> CatalogError {
    let path = path.to_owned();
    match cause.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            CatalogError::Damaged { path, cause: Box::new(cause) }
        }
        _ => CatalogError::Sqlite { path, verb, cause },
    }
}

fn create_directory(directory: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|cause| CatalogError::Directory { path: directory.to_owned(), cause })
}

/// Creates the file before SQLite does, for its mode and owner; SQLite gives both to the files beside it.
fn create_file(directory: &Path, path: &Path) -> Result<()> {
    let refused = |cause| CatalogError::Directory { path: directory.to_owned(), cause };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            // `sudo lifeboat token create` before the daemon's first start must not lock the daemon out.
            let owner = directory.metadata().map_err(refused)?;
            if rustix::process::geteuid().is_root() && owner.uid() != 0 {
                std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid())).map_err(refused)?;
            }
            Ok(())
        }
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(cause) => Err(refused(cause)),
    }
}

fn put_aside(path: &Path, now: Timestamp, reason: &dyn std::error::Error) -> Result<Damage> {
    let suffixed = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = format!(".damaged-{}", now.as_second());
    for suffix in ["-wal", "-shm", ""] {
        let from = suffixed(suffix);
        let to = suffixed(&format!("{aside}{suffix}"));
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(CatalogError::Directory { path: from, cause }),
        }
    }
    Ok(Damage { moved_to: suffixed(&aside), reason: reason.to_string() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn a_state_directory_has_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let held = StateLock::acquire(dir.path()).unwrap();
        let refused = StateLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(held);
        StateLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn nobody_else_reads_the_catalog() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/state");
        let lock = StateLock::acquire(&state).unwrap();
        let (catalog, _) = Catalog::open(&lock, now()).unwrap();
        catalog.pulse(now()).unwrap();
        assert_eq!(state.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        for file in std::fs::read_dir(&state).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
        }
    }

    #[test]
    fn a_catalog_from_the_future_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let lock = StateLock::acquire(dir.path()).unwrap();
        let (catalog, _) = Catalog::open(&lock, now()).unwrap();
        catalog.lock().connection.pragma_update(None, "user_version", 99).unwrap();
        drop(catalog);
        let error = Catalog::open(&lock, now()).map(|_| ()).unwrap_err();
        assert!(matches!(error, CatalogError::Newer { found: 99, .. }), "{error}");
        assert!(error.to_string().contains("newer Lifeboat"), "{error}");
    }

    #[test]
    fn a_damaged_catalog_is_put_aside_and_an_empty_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        let lock = StateLock::acquire(dir.path()).unwrap();
        drop(Catalog::open(&lock, now()).unwrap());
        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[..16].copy_from_slice(b"not a database!!");
        std::fs::write(&path, &bytes).unwrap();

        assert!(matches!(Catalog::open_shared(dir.path()), Err(CatalogError::Damaged { .. })));
        let (catalog, damage) = Catalog::open(&lock, now()).unwrap();
        let damage = damage.unwrap();
        assert_eq!(std::fs::read(&damage.moved_to).unwrap(), bytes);
        catalog.pulse(now()).unwrap();
        assert_eq!(catalog.last_pulse().unwrap(), Some(now()));
    }

    #[test]
    fn damage_in_the_middle_is_noticed_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let lock = StateLock::acquire(dir.path()).unwrap();
        drop(Catalog::open(&lock, now()).unwrap());
        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        let from = 4096 * 2;
        bytes[from..from + 64].fill(0xff);
        std::fs::write(&path, &bytes).unwrap();
        let (_, damage) = Catalog::open(&lock, now()).unwrap();
        assert!(damage.is_some());
    }
}
