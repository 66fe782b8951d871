//! What is due now, and what becomes of it.
//!
//! Owns the round that looks at every schedule, and what is made good after a stop. Refuses to run anything itself; `jobs`
//! does. Occurrences are computed from the last one that was dealt with, never from when a run ended, and each is recorded
//! under its own name before its run begins: none runs twice, none vanishes silently.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tracing::{error, info, warn};

use super::core::Core;
use super::jobs::{Active, OPEN_MAX, chain};
use crate::catalog::{CatalogError, Due, Fate, MissReason, NewRun, Progressed, RunKind, RunState, Sent, Trigger};
use crate::policy::Policy;

/// The longest sleep: after it the wall clock is asked again, for it may have been set or the machine suspended.
pub const SLEEP_MAX: Duration = Duration::from_secs(30);
/// A due time that is met later than this was missed, and is made up for. Covers a quick restart.
const GRACE: SignedDuration = SignedDuration::from_secs(120);
/// A schedule that stands further in the future than this tells of a clock that went back.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_mins(5);
/// A schedule is not followed further back than this.
const LOOK_BACK_MAX: SignedDuration = SignedDuration::from_hours(24 * 400);
/// Of the times missed in one go, so many of the newest get a row each.
const MISSED_ROWS_MAX: usize = 1000;

impl Core {
    /// Closes what a dead daemon left open, and repeats scheduled backups that were interrupted: once each.
    pub fn recover(self: &Arc<Self>) -> Result<(), CatalogError> {
        for run in self.catalog.interrupt_open(self.now())? {
            warn!(event = "run.interrupted", run_id = %run.id, policy = run.policy, kind = %run.kind,
                pid = run.process.pid, "run was interrupted by the daemon's end");
        }
        let config = self.config();
        for policy in config.policies.values() {
            let Some(last) = self.catalog.memory(&policy.name, &Self::scope(&config, policy))?.last_backup else {
                continue;
            };
            let repeat =
                last.state == RunState::Interrupted && last.trigger == Trigger::Schedule && last.retry_of.is_none();
            if !repeat {
                continue;
            }
            let new = NewRun {
                retry_of: Some(last.id),
                missed: last.missed,
                nominal: last.nominal,
                ..self.scheduled(policy)
            };
            if let Sent::Recorded(run) = self.submit(&new, true)? {
                info!(event = "run.repeated", run_id = %run.id, policy = %policy.name, of = %last.id, "interrupted run repeated");
            }
        }
        Ok(())
    }

    /// One round: everything due begins or is recorded as not begun. The answer is how long to sleep until the next.
    pub fn tick(self: &Arc<Self>) -> Duration {
        let now = self.now();
        let mut recorded = true;
        let mut note = |what: &str, result: Result<(), CatalogError>| {
            if let Err(cause) = result {
                recorded = false;
                error!(event = "catalog.error", error = %chain(&cause), "{what} could not be recorded");
            }
        };
        note("the daemon's pulse", self.catalog.pulse(now));
        self.record_leftovers();
        let mut next_due: Option<Timestamp> = None;
        if !self.is_stopping() {
            for policy in self.config().policies.values() {
                note("a due time", self.settle(policy, now));
                let next = policy.schedule.next_after(&policy.zone, now).map(|occurrence| occurrence.at);
                next_due = [next_due, next].into_iter().flatten().min();
            }
            self.pump();
        }
        self.note_tick(now, recorded);
        // A millisecond more, so that the due time has passed when the loop wakes.
        let until_due = next_due
            .and_then(|due| Duration::try_from(due.duration_since(self.now())).ok())
            .map_or(SLEEP_MAX, |wait| wait + Duration::from_millis(1));
        until_due.min(SLEEP_MAX)
    }

    fn scheduled(&self, policy: &Policy) -> NewRun {
        NewRun {
            kind: RunKind::Backup,
            policy: policy.name.clone(),
            trigger: Trigger::Schedule,
            actor: "scheduler".to_owned(),
            nominal: None,
            missed: 0,
            retry_of: None,
            drill_files: None,
            idempotency: None,
            at: self.now(),
        }
    }

    /// Deals with all times of one policy that are due by `now`.
    fn settle(self: &Arc<Self>, policy: &Policy, now: Timestamp) -> Result<(), CatalogError> {
        const KIND: RunKind = RunKind::Backup;
        let fingerprint = fingerprint(policy);
        let mut after = self.catalog.schedule_after(&policy.name, KIND, &fingerprint, now)?;
        if after.duration_since(now) > CLOCK_SLACK {
            warn!(event = "clock.jump", policy = %policy.name, stood_at = %after, "clock went back; schedule taken back with it");
            self.catalog.rewind_schedule(&policy.name, KIND, now)?;
            after = now;
        }
        if now.duration_since(after) > LOOK_BACK_MAX {
            warn!(event = "occurrence.missed", policy = %policy.name, since = %after, "schedule rested for too long to count what was missed");
            after = now.checked_sub(LOOK_BACK_MAX).unwrap_or(after);
        }
        let mut dues = VecDeque::new();
        let mut uncounted = 0u64;
        for occurrence in policy.schedule.due(&policy.zone, after, now) {
            if dues.len() == MISSED_ROWS_MAX {
                dues.pop_front();
                uncounted += 1;
            }
            dues.push_back(Due { identity: occurrence.id, nominal: occurrence.at });
        }
        let Some(until) = dues.back().map(|due| due.nominal) else { return Ok(()) };
        let met_from = dues.partition_point(|due| now.duration_since(due.nominal) > GRACE);
        let dues = Vec::from(dues);
        let (missed, met) = dues.split_at(met_from);
        let fate = match self.jobs.active(&policy.name, KIND) {
            // It began after all of these, say to repeat an interrupted run, and so answers them.
            Active::Running { id, since } if since >= until => Fate::Join(id),
            Active::Running { .. } => Fate::Skip(MissReason::Overlap),
            Active::Waiting(run) => Fate::Join(run),
            Active::Nothing if self.jobs.open() >= OPEN_MAX => Fate::Skip(MissReason::NoSlot),
            Active::Nothing => Fate::Start(self.scheduled(policy)),
        };
        if let Fate::Skip(reason) = fate {
            warn!(event = "occurrence.missed", policy = %policy.name, %reason, count = dues.len(), "due time skipped");
        }
        if !missed.is_empty() {
            warn!(event = "occurrence.missed", policy = %policy.name, reason = "daemon_down", count = missed.len(),
                uncounted, "due times missed");
        }
        let batch = Progressed { policy: &policy.name, kind: KIND, missed, met, fate, until, now };
        if let Some(run) = self.catalog.progress_schedule(&batch, &self.process)? {
            self.enqueue(&run, policy.name.clone());
        }
        Ok(())
    }
}

/// Tells one schedule from another under the same name.
fn fingerprint(policy: &Policy) -> String {
    format!("{} in {}", policy.schedule, policy.zone.iana_name().unwrap_or("an unnamed zone"))
}
