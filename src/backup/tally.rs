//! What a run counts and looks after while it walks.
//!
//! Owns the counts, the problems by name, checkpoints and signs of life. Lives on the walk's thread; workers count in `Shared`.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use minicbor::bytes::ByteVec;

use super::pipeline::Shared;
use super::{PROBLEMS_MAX, Progress, Result};
use crate::names::escape;
use crate::pack::record::{self, Counts};
use crate::repository::WriteSession;
use crate::source::exclude::Excludes;
use crate::source::problem::{Problem, ProblemKind};

/// What is counted and looked after on the walk's thread.
pub struct Tally<'a> {
    pub counts: Counts,
    pub files_new: u64,
    pub files_changed: u64,
    pub next_ticket: u64,
    pub session: WriteSession<'a>,
    /// The first `PROBLEMS_MAX`.
    pub problems: Vec<record::Problem>,
    /// Paths that may be unreadable.
    allowed: Excludes,
}

impl<'a> Tally<'a> {
    pub fn new(session: WriteSession<'a>, allowed: Excludes) -> Self {
        let (counts, problems) = (Counts::default(), Vec::new());
        Self { counts, files_new: 0, files_changed: 0, next_ticket: 0, session, problems, allowed }
    }

    pub fn problem(&mut self, problem: &Problem, progress: &Progress) {
        let allowed = || self.allowed.excludes(&problem.path, false);
        let (kind, count) = match problem.kind {
            // As if the backup had begun a moment later: no loss.
            ProblemKind::Vanished => (record::ProblemKind::Vanished, &mut self.counts.vanished),
            _ if allowed() => (record::ProblemKind::Allowed, &mut self.counts.allowed),
            ProblemKind::Changed => (record::ProblemKind::Changed, &mut self.counts.changed),
            _ => (record::ProblemKind::Unreadable, &mut self.counts.unreadable),
        };
        *count += 1;
        progress.problems.fetch_add(1, Ordering::Relaxed);
        if self.problems.len() < PROBLEMS_MAX {
            let mut sentence = problem.to_string();
            let mut cause = std::error::Error::source(problem);
            while let Some(error) = cause {
                sentence.push_str(&format!(": {error}"));
                cause = error.source();
            }
            let detail = sentence.strip_prefix(&escape(&problem.path)).unwrap_or(&sentence).trim().to_owned();
            self.problems.push(record::Problem { path: ByteVec::from(problem.path.clone()), kind, detail });
        }
    }

    /// A delta and a sign of life, where due.
    pub fn look_after(&mut self, shared: &Shared<'_>) -> Result<()> {
        self.session.heartbeat(&shared.index, &shared.packer)?;
        if shared.packer.checkpoint_due() { self.checkpoint(shared) } else { Ok(()) }
    }

    /// Writes a delta of the finished packs, and lets the index know.
    pub fn checkpoint(&mut self, shared: &Shared<'_>) -> Result<()> {
        if let Some((name, ids)) = shared.packer.write_delta(&mut self.session.next_run)? {
            self.session.runs.push(name);
            shared.index.write().unwrap_or_else(PoisonError::into_inner).add(shared.repository, name)?;
            shared.packer.forget_claims(&ids);
        }
        let stored = shared.packer.stored_bytes.load(Ordering::Relaxed);
        shared.control.progress.bytes_stored.store(stored, Ordering::Relaxed);
        Ok(())
    }
}
