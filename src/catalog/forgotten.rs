//! What was let go elsewhere: snapshots that are no recovery points any more.
//!
//! Owns the newest word on them. Refuses to change runs: one that ended stays as it was, and what is taken back counts again.

use rusqlite::params;

use super::{Catalog, Result};

impl Catalog {
    /// Takes `snapshots` for all that are forgotten within a scope.
    pub fn note_forgotten(&self, scope: &str, snapshots: &[String]) -> Result<()> {
        let mut inner = self.lock();
        (|| {
            let transaction = inner.connection.transaction()?;
            transaction.execute("DELETE FROM forgotten WHERE scope = ?1", [scope])?;
            for snapshot in snapshots {
                transaction.execute("INSERT OR IGNORE INTO forgotten VALUES (?1, ?2)", params![scope, snapshot])?;
            }
            transaction.commit()
        })()
        .map_err(self.failed("note what was forgotten"))
    }
}
