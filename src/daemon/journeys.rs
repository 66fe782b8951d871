//! The engine of the shipped binary: a policy's repository is opened, and the journeys do the work.
//!
//! Owns the first probe of a store, and the words in which errors reach the catalog. Nothing is kept open between runs: a key
//! that was replaced counts from the next run on, and no secret stays in memory while nothing runs.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::engine::{Engine, Outcome, Progress, ProgressCell, RunContext, RunReport, Task};
use super::place::{self, OpenStoreError};
use super::secret::{self, SecretError};
use crate::catalog::{Counts, DrillFindings};
use crate::clock::{Clock, SystemClock};
use crate::names::hex;
use crate::pack::record;
use crate::policy::{RepositoryConfig, SecretRef};
use crate::repository::{self, Access, Errand, Hint, Repository, Selection};
use crate::seal::key::Role;
use crate::store::probe::{self, StoreMode};
use crate::store::{Class, cached};
use crate::{backup, drill, restore};

/// The store is probed again after so long.
const PROBE_SECONDS: i64 = 30 * 86_400;
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Runs the real journeys.
#[derive(Debug, Default)]
pub struct Journeys;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Key(#[from] SecretError),
    #[error(transparent)]
    Open(#[from] OpenStoreError),
    #[error(transparent)]
    Repository(#[from] repository::Error),
    #[error(transparent)]
    Backup(#[from] backup::Error),
    #[error(transparent)]
    Drill(#[from] drill::Error),
}

impl Failure {
    /// The error the failure stands for, if it is the repository's.
    fn repository(&self) -> Option<&repository::Error> {
        match self {
            Failure::Repository(error)
            | Failure::Backup(backup::Error::Repository(error))
            | Failure::Drill(drill::Error::Repository(error))
            | Failure::Drill(drill::Error::Restore(restore::Error::Repository(error))) => Some(error),
            _ => None,
        }
    }

    fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Failure::Backup(backup::Error::Cancelled)
                | Failure::Drill(drill::Error::Restore(restore::Error::Cancelled))
        )
    }

    /// A stable word for what to look at.
    fn class(&self) -> &'static str {
        match (self.repository(), self) {
            (Some(repository::Error::Store(error)), _) => match error.class {
                Class::Full => "space",
                Class::Denied => "denied",
                _ => "store",
            },
            (Some(repository::Error::OtherRepository { .. } | repository::Error::Role { .. }), _) => "key",
            (Some(error), _) if error.is_damage() => "damage",
            (Some(_), _) => "repository",
            (None, Failure::Key(_)) => "key",
            (None, Failure::Open(OpenStoreError::Secret(_))) => "key",
            (None, Failure::Open(OpenStoreError::Place(_))) => "store",
            (None, Failure::Backup(backup::Error::Source(_))) => "source",
            (None, Failure::Drill(drill::Error::NoPoint)) => "no_point",
            (None, Failure::Drill(drill::Error::Scratch(_) | drill::Error::Restore(_))) => "scratch",
            _ => "engine",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Failure::Drill(drill::Error::Restore(error)) => error.hint(),
            Failure::Open(OpenStoreError::Place(error)) => error.hint(),
            failure => failure.repository().and_then(Hint::hint),
        }
    }

    fn report(&self) -> RunReport {
        if self.is_cancelled() {
            return RunReport { error: Some("the run was cancelled".into()), ..RunReport::new(Outcome::Cancelled) };
        }
        let mut sentence = super::chain(self);
        if let Some(hint) = self.hint() {
            sentence.push_str(&format!(" (hint: {hint})"));
        }
        RunReport::failed(self.class(), sentence)
    }
}

fn open(config: &RepositoryConfig, key: &SecretRef, cache: &Path, errand: Errand) -> Result<Repository, Failure> {
    let key = secret::key(key)?;
    let store = cached::near(place::open(config)?, Some(cache.to_owned()), key.repository());
    let repository = Repository::open_for(store, key, errand)?.remembering(Some(cache));
    keep_probed(&repository, cache)?;
    Ok(repository)
}

/// Probes the store at its first use and every 30 days; the answer is kept in the cache directory.
fn keep_probed(repository: &Repository, cache: &Path) -> Result<(), Failure> {
    if repository.access.writer.is_none() {
        return Ok(()); // who only reads never probes
    }
    let memo = cache.join(format!("probe-{}", hex(&repository.id.0)));
    let now = SystemClock.now().secs;
    let last = fs::read_to_string(&memo).ok().and_then(|text| text.split_whitespace().next()?.parse::<i64>().ok());
    if last.is_some_and(|last| (0..PROBE_SECONDS).contains(&now.saturating_sub(last))) {
        return Ok(());
    }
    let found = probe::probe(&*repository.store).map_err(repository::Error::from)?;
    if let StoreMode::SingleWriter { reason } = &found.mode {
        tracing::warn!(store = repository.store.url(), reason, "the store serves one writer at a time only");
    }
    if let Err(error) = fs::write(&memo, format!("{now} {}\n", found.mode.as_str())) {
        tracing::warn!(%error, path = %memo.display(), "the probe's answer could not be kept; the next run probes again");
    }
    Ok(())
}

impl Engine for Journeys {
    fn backup(&self, task: &Task, run: &RunContext) -> RunReport {
        match backup_of(task, run) {
            Ok(report) => report,
            Err(failure) => failure.report(),
        }
    }

    fn sample_drill(&self, task: &Task, files: u32, run: &RunContext) -> RunReport {
        match drill_of(task, files, run) {
            Ok(report) => report,
            Err(failure) => failure.report(),
        }
    }
}

fn backup_of(task: &Task, run: &RunContext) -> Result<RunReport, Failure> {
    let policy = &task.policy;
    let repository = open(&task.repository, &task.repository.key, &task.cache, Errand::Write)?;
    let request = backup::Request {
        paths: policy.source.paths.clone(),
        buckets: place::buckets(&policy.source)?,
        object_tags: policy.source.object_tags,
        excludes: policy.source.exclude.clone(),
        exclude_files: policy.source.exclude_files.clone(),
        exclude_caches: policy.source.exclude_caches,
        one_file_system: policy.source.one_file_system,
        ignore_inode: policy.source.ignore_inode,
        tags: policy.tags.clone(),
        policy: Some(policy.name.to_string()),
        keep_wish: (repository.role() != Role::Admin).then(|| policy.keep.to_string()),
        allow_unreadable: policy.allow_unreadable.clone(),
        compression: policy.compression,
        ..backup::Request::default()
    };
    let control = backup::Control { cancel: run.cancel.clone(), ..Default::default() };
    let progress = control.progress.clone();
    let watch = move || Progress {
        phase: "storing",
        files: progress.files.load(Ordering::Relaxed),
        bytes: progress.bytes.load(Ordering::Relaxed),
        ..Progress::default()
    };
    let done = watched(&run.progress, watch, || backup::run(&repository, &SystemClock, &request, &control))?;
    let partial = done.outcome == record::Outcome::Partial;
    Ok(RunReport {
        snapshot: Some(done.snapshot.to_string()),
        counts: Counts {
            files: done.counts.files,
            bytes: done.counts.bytes,
            new_bytes: done.counts.bytes_new,
            stored_bytes: done.counts.bytes_stored,
            vanished: done.counts.vanished,
            unreadable: done.counts.unreadable + done.counts.changed,
        },
        problems: done.problems,
        forgotten: Some(done.forgotten.iter().map(ToString::to_string).collect()),
        ..RunReport::new(if partial { Outcome::Partial } else { Outcome::Succeeded })
    })
}

fn drill_of(task: &Task, files: u32, run: &RunContext) -> Result<RunReport, Failure> {
    let key = task.repository.read_key.as_ref().unwrap_or(&task.repository.key);
    // Another host's policy of the same name proves nothing about this one's snapshots.
    let writer = Access::new(secret::key(&task.repository.key)?).writer.map(|writer| writer.id);
    let repository = open(&task.repository, key, &task.cache, Errand::Any)?;
    let request = drill::Request {
        selection: Selection { policy: Some(task.policy.name.to_string()), writer, ..Selection::default() },
        files: files as usize,
        scratch: &task.cache.join("drills"),
    };
    let control = restore::Control { cancel: run.cancel.clone(), ..Default::default() };
    let progress = control.progress.clone();
    let watch = move || Progress {
        phase: "restoring",
        files: progress.files.load(Ordering::Relaxed),
        bytes: progress.bytes.load(Ordering::Relaxed),
        ..Progress::default()
    };
    let found = watched(&run.progress, watch, || drill::sample(&repository, &request, &control))?;
    let outcome = match (found.mismatches_count, found.not_run) {
        (0, 0) => Outcome::Succeeded,
        (0, _) => Outcome::Partial,
        _ => Outcome::Failed,
    };
    let failed = || {
        let count = found.mismatches_count;
        format!("{count} of {} drilled files did not come back as they were", found.checked_files)
    };
    Ok(RunReport {
        snapshot: Some(found.snapshot.to_string()),
        error: (outcome == Outcome::Failed).then(failed),
        error_class: (outcome == Outcome::Failed).then(|| "mismatch".into()),
        counts: Counts { files: found.checked_files, bytes: found.checked_bytes, ..Counts::default() },
        problems: found.mismatches.clone(),
        drill: Some(DrillFindings {
            checked_files: found.checked_files,
            checked_bytes: found.checked_bytes,
            mismatches: found.mismatches_count,
            not_run: found.not_run,
            outside: found.outside,
        }),
        ..RunReport::new(outcome)
    })
}

/// Does `work` while a thread beside it tells how far it is.
fn watched<T>(cell: &Arc<ProgressCell>, watch: impl Fn() -> Progress + Send + Sync, work: impl FnOnce() -> T) -> T {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (cell, ended, watch) = (cell.clone(), &ended, &watch);
        let teller = scope.spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                cell.set(watch());
                std::thread::park_timeout(PROGRESS_EVERY);
            }
            cell.set(watch());
        });
        // A panic of the work must not leave the teller running: the scope would wait for it for ever.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        ended.store(true, Ordering::Relaxed);
        teller.thread().unpark();
        match result {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
