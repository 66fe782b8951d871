//! Runs under way: who waits, who runs, and how each ends.
//!
//! Owns the queue, the threads and the cancel flags. Refuses to decide what is due. A run is in the catalog before it is in
//! the queue here, `running` there before the engine hears of it, and closed there before its place is free.
//!
//! Two facts are kept apart: *asked to stop* (the cancel flag) and *ended* (the row is closed). A catalog that takes no
//! writes, say on a full disk, keeps ends waiting in `unrecorded`; each tick tries again, and `readyz` is red meanwhile.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{error, info, warn};

use super::core::Core;
use super::engine::{Outcome, PROBLEMS_MAX, Progress, RunContext, RunReport, Task};
use crate::catalog::{CatalogError, Ending, NewRun, Run, RunId, RunKind, RunState, Sent};
use crate::names::PolicyName;

/// Runs at a time: each may use every core and a pipeline's memory.
pub const RUNNING_MAX: usize = 2;
/// Runs that wait or run: a row and some hundred bytes each.
pub const OPEN_MAX: usize = 256;
/// Of one error or problem.
const SENTENCE_CHARS_MAX: usize = 2000;

#[derive(Default)]
pub struct Jobs {
    inner: Mutex<Inner>,
    /// Told whenever a run ended.
    ended: Condvar,
}

#[derive(Default)]
struct Inner {
    queue: VecDeque<Waiting>,
    running: HashMap<RunId, Running>,
    unrecorded: Vec<(RunId, Ending)>,
}

struct Waiting {
    id: RunId,
    kind: RunKind,
    policy: PolicyName,
    drill_files: Option<u32>,
}

struct Running {
    kind: RunKind,
    policy: PolicyName,
    since: Timestamp,
    context: RunContext,
    /// Whether a person asked, and not the daemon's end.
    cancelled: bool,
    last_progress: Option<Progress>,
}

/// What a policy has under way, of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Active {
    Nothing,
    /// It has not begun, and so will see all that there is when it begins.
    Waiting(RunId),
    /// It sees all that there was at `since`.
    Running {
        id: RunId,
        since: Timestamp,
    },
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn active(&self, policy: &PolicyName, kind: RunKind) -> Active {
        let inner = self.lock();
        if let Some((id, run)) = inner.running.iter().find(|(_, run)| run.policy == *policy && run.kind == kind) {
            return Active::Running { id: *id, since: run.since };
        }
        match inner.queue.iter().find(|run| run.policy == *policy && run.kind == kind) {
            Some(run) => Active::Waiting(run.id),
            None => Active::Nothing,
        }
    }

    pub fn open(&self) -> usize {
        let inner = self.lock();
        inner.queue.len() + inner.running.len()
    }

    pub fn running(&self) -> usize {
        self.lock().running.len()
    }

    pub fn progress(&self, id: RunId) -> Option<Progress> {
        self.lock().running.get(&id)?.context.progress.get()
    }

    pub fn has_unrecorded(&self) -> bool {
        !self.lock().unrecorded.is_empty()
    }

    /// Waits until no run is left, or `patience` is used up. The answer is whether none is left.
    fn wait_idle(&self, patience: Duration) -> bool {
        let inner = self.lock();
        let (inner, _) = self
            .ended
            .wait_timeout_while(inner, patience, |inner| !inner.running.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        inner.running.is_empty()
    }
}

impl Core {
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// Records a run that somebody asked for and lets it begin when it may.
    pub fn submit(self: &Arc<Self>, new: &NewRun, exclusive: bool) -> Result<Sent, CatalogError> {
        let sent = self.catalog.submit(new, &self.process, exclusive, OPEN_MAX)?;
        if let Sent::Recorded(run) = &sent {
            self.enqueue(run, new.policy.clone());
        }
        Ok(sent)
    }

    /// Queues a run that the catalog has as queued.
    pub(super) fn enqueue(self: &Arc<Self>, run: &Run, policy: PolicyName) {
        info!(event = "run.queued", run_id = %run.id, policy = %policy, kind = %run.kind, trigger = %run.trigger, "run queued");
        let waiting = Waiting { id: run.id, kind: run.kind, policy, drill_files: run.drill_files };
        self.jobs.lock().queue.push_back(waiting);
        self.pump();
    }

    /// Begins what may begin: first come, first served, save that a policy has one run at a time.
    pub(super) fn pump(self: &Arc<Self>) {
        loop {
            let mut inner = self.jobs.lock();
            if self.is_stopping() || inner.running.len() >= RUNNING_MAX {
                return;
            }
            let busy = |run: &Waiting| inner.running.values().any(|other| other.policy == run.policy);
            let Some(at) = inner.queue.iter().position(|run| !busy(run)) else { return };
            let Some(next) = inner.queue.remove(at) else { return };
            let context = RunContext::new(next.id);
            let running = Running {
                kind: next.kind,
                policy: next.policy.clone(),
                since: self.now(),
                context: context.clone(),
                cancelled: false,
                last_progress: None,
            };
            inner.running.insert(next.id, running);
            drop(inner);
            let (id, core) = (next.id, Arc::clone(self));
            let spawned = std::thread::Builder::new()
                .name(format!("{}-{}", next.kind, next.policy))
                .spawn(move || core.perform(next, &context));
            if let Err(cause) = spawned {
                let sentence = format!("no thread could be started for this run: {cause}");
                self.close(id, Ending::without_result(RunState::Failed, Some(sentence), self.now()));
            }
        }
    }

    /// The life of one run, on a thread of its own.
    fn perform(self: Arc<Self>, run: Waiting, context: &RunContext) {
        let (ending, detail) = self.perform_and_judge(&run, context);
        if let Some(ending) = ending {
            self.close(run.id, ending);
        } else {
            warn!(event = "run.not_begun", run_id = %run.id, policy = %run.policy, detail, "run was closed before it began");
            self.jobs.lock().running.remove(&run.id);
            self.jobs.ended.notify_all();
        }
        self.pump();
    }

    fn perform_and_judge(&self, run: &Waiting, context: &RunContext) -> (Option<Ending>, &'static str) {
        let failed = |sentence: String| Ending::without_result(RunState::Failed, Some(sentence), self.now());
        let Some((task, scope)) = self.task(&run.policy) else {
            return (Some(failed(format!("the policy {} is not configured any more", run.policy))), "");
        };
        match self.catalog.begin(run.id, &scope, self.now()) {
            Ok(true) => {}
            Ok(false) => return (None, "its row is no longer queued"),
            Err(cause) => {
                // What cannot be recorded is not done: a backup that nobody knows of would be no recovery point.
                error!(event = "catalog.error", run_id = %run.id, error = %chain(&cause), "run could not be recorded");
                return (
                    Some(failed(format!("this run could not be recorded and was not begun: {}", chain(&cause)))),
                    "",
                );
            }
        }
        info!(event = "run.started", run_id = %run.id, policy = %run.policy, kind = %run.kind, "run started");
        let report = catch_unwind(AssertUnwindSafe(|| match run.kind {
            RunKind::Backup => self.engine.backup(&task, context),
            RunKind::Drill => {
                self.engine.sample_drill(&task, run.drill_files.unwrap_or(task.policy.drill.files), context)
            }
            RunKind::Verify => {
                RunReport::failed("engine", "this daemon does not verify by itself; use `lifeboat verify`")
            }
        }))
        .unwrap_or_else(|panic| RunReport::failed("panic", format!("the engine panicked: {}", panic_text(&*panic))));
        if let Some(forgotten) = &report.forgotten
            && let Err(cause) = self.catalog.note_forgotten(&scope, forgotten)
        {
            error!(event = "catalog.error", run_id = %run.id, error = %chain(&cause),
                "what was forgotten could not be recorded; the next backup tries again");
        }
        (Some(self.judge(run, &task, context, report)), "")
    }

    /// Turns what the engine says into what is recorded, and believes no success that its own numbers deny.
    fn judge(&self, run: &Waiting, task: &Task, context: &RunContext, report: RunReport) -> Ending {
        let RunReport { outcome, snapshot, mut error, mut error_class, counts, mut problems, drill, .. } = report;
        let mut state = match outcome {
            Outcome::Succeeded => RunState::Succeeded,
            Outcome::Partial => RunState::Partial,
            Outcome::Failed => RunState::Failed,
            Outcome::Cancelled => RunState::Cancelled,
            Outcome::TimedOut => RunState::TimedOut,
        };
        let mut deny = |to: RunState, class: &str, sentence: &str| {
            state = to;
            error.get_or_insert_with(|| sentence.to_owned());
            error_class.get_or_insert_with(|| class.to_owned());
        };
        let claims = matches!(outcome, Outcome::Succeeded | Outcome::Partial);
        match run.kind {
            RunKind::Backup if claims && snapshot.is_none() => {
                deny(RunState::Failed, "engine", "the engine reported success without a snapshot");
            }
            RunKind::Drill if claims => match drill {
                Some(found) if found.mismatches > 0 => {
                    deny(RunState::Failed, "mismatch", "what came back differs from what was stored");
                }
                Some(found) if outcome == Outcome::Succeeded && (found.not_run > 0 || found.checked_files == 0) => {
                    deny(RunState::Partial, "inconclusive", "not every check was made, so nothing is proved");
                }
                None => deny(RunState::Partial, "inconclusive", "nothing was compared, so nothing is proved"),
                Some(_) => {}
            },
            _ => {}
        }
        let asked_by_person = self.jobs.lock().running.get(&run.id).is_some_and(|running| running.cancelled);
        if state == RunState::Cancelled && !asked_by_person && context.is_cancelled() {
            state = RunState::Interrupted;
            error = Some("the daemon was stopped while this run was going".to_owned());
            error_class = Some("interrupted".to_owned());
        }
        problems.truncate(PROBLEMS_MAX);
        problems.iter_mut().chain(&mut error).for_each(clip);
        let recovery_point = run.kind == RunKind::Backup
            && snapshot.is_some()
            && (state == RunState::Succeeded || state == RunState::Partial && task.policy.accept_partial);
        Ending { state, snapshot, recovery_point, counts, drill, error, error_class, problems, at: self.now() }
    }

    /// Closes a run's row and frees its place.
    fn close(&self, id: RunId, ending: Ending) {
        let finished = self.catalog.finish(id, &ending);
        let mut inner = self.jobs.lock();
        let policy = inner.running.remove(&id).map(|running| running.policy);
        let policy = policy.as_ref().map_or("", PolicyName::as_str);
        let counts = ending.counts;
        match (&finished, ending.state) {
            (Err(cause), _) => {
                error!(event = "catalog.error", run_id = %id, policy, error = %chain(cause),
                    "end of a run could not be recorded; it will be tried again");
            }
            (Ok(_), RunState::Succeeded) => {
                info!(event = "run.finished", run_id = %id, policy, state = %ending.state, files = counts.files,
                    bytes = counts.bytes, new_bytes = counts.new_bytes, stored_bytes = counts.stored_bytes, "run finished");
            }
            (Ok(_), RunState::Failed | RunState::TimedOut) => {
                error!(event = "run.finished", run_id = %id, policy, state = %ending.state,
                    err_class = ending.error_class.as_deref().unwrap_or(""),
                    error = ending.error.as_deref().unwrap_or("no reason was given"), "run finished");
            }
            (Ok(_), _) => {
                warn!(event = "run.finished", run_id = %id, policy, state = %ending.state,
                    error = ending.error.as_deref().unwrap_or(""), "run finished");
            }
        }
        if finished.is_err() {
            inner.unrecorded.push((id, ending));
        }
        drop(inner);
        self.jobs.ended.notify_all();
    }

    /// Tries again to record ends that the catalog did not take, and notes how far the others are.
    pub(super) fn record_leftovers(&self) {
        let (unrecorded, moved) = {
            let mut inner = self.jobs.lock();
            let moved: Vec<_> = inner
                .running
                .iter_mut()
                .filter_map(|(id, run)| {
                    let progress = run.context.progress.get();
                    let changed = progress.is_some() && progress != run.last_progress;
                    run.last_progress.clone_from(&progress);
                    changed.then_some((*id, progress))
                })
                .collect();
            (inner.unrecorded.clone(), moved)
        };
        for (id, ending) in unrecorded {
            if self.catalog.finish(id, &ending).is_ok() {
                self.jobs.lock().unrecorded.retain(|(other, _)| *other != id);
            }
        }
        for (id, progress) in moved {
            if let Ok(text) = serde_json::to_string(&progress)
                && let Err(cause) = self.catalog.note_progress(id, &text)
            {
                warn!(event = "catalog.error", run_id = %id, error = %chain(&cause), "progress could not be recorded");
            }
        }
    }

    /// Asks a run to stop. False if it ended already.
    pub fn cancel(&self, id: RunId) -> Result<bool, CatalogError> {
        if !self.catalog.ask_cancel(id)? {
            return Ok(false);
        }
        let mut inner = self.jobs.lock();
        if let Some(running) = inner.running.get_mut(&id) {
            running.cancelled = true;
            running.context.cancel.store(true, Ordering::Relaxed);
            return Ok(true);
        }
        if inner.unrecorded.iter().any(|(other, _)| *other == id) {
            return Ok(false);
        }
        inner.queue.retain(|waiting| waiting.id != id);
        drop(inner);
        let sentence = "it was cancelled before it began".to_owned();
        self.catalog.finish(id, &Ending::without_result(RunState::Cancelled, Some(sentence), self.now()))
    }

    /// Takes no more runs, asks all to stop, waits for them up to `patience`, and closes the rows of those that did not.
    pub fn stop(&self, patience: Duration) {
        self.note_stopping();
        let begun = Instant::now();
        let waiting: Vec<_> = {
            let mut inner = self.jobs.lock();
            for running in inner.running.values() {
                running.context.cancel.store(true, Ordering::Relaxed);
            }
            inner.queue.drain(..).map(|waiting| waiting.id).collect()
        };
        let interrupted = |sentence: &str| {
            let mut ending = Ending::without_result(RunState::Interrupted, Some(sentence.to_owned()), self.now());
            ending.error_class = Some("interrupted".to_owned());
            ending
        };
        for id in waiting {
            self.close(id, interrupted("the daemon was stopped before this run began"));
        }
        if !self.jobs.wait_idle(patience) {
            let left: Vec<_> = self.jobs.lock().running.keys().copied().collect();
            for id in left {
                warn!(event = "run.abandoned", run_id = %id, waited_ms = begun.elapsed().as_millis() as u64,
                    "run did not stop in time");
                self.close(id, interrupted("the daemon was stopped and this run did not end in time"));
            }
        }
        self.record_leftovers();
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// A sentence that a page can show: names of files may be as long as their owner likes.
fn clip(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(SENTENCE_CHARS_MAX) {
        text.truncate(at);
        text.push('…');
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}
