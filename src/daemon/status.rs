//! Could we recover now? The one judgement that the API, the page and the metrics show.
//!
//! Owns the verdict on each policy, computed anew from what is on record. Refuses to remember: nothing here can go stale, and
//! a green verdict needs a good recovery point that is fresh, a newest run that is good, and a drill that passed.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::core::{Core, Health, Loaded};
use super::engine::Progress;
use crate::catalog::{CatalogError, PolicyMemory, Run, RunKind, RunState, Tallies};
use crate::policy::Policy;

/// A drill proves a policy for so long.
pub const PROOF_AGE_MAX: SignedDuration = SignedDuration::from_hours(24 * 100);

/// How bad it is; the order is from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Good,
    /// Nothing is lost, and somebody should look.
    Attention,
    /// What was promised is not so.
    Bad,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Attention => "attention",
            Self::Bad => "bad",
        }
    }
}

/// The verdict on one policy; the order is from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Fresh, and proved to restore.
    Ok,
    /// Fresh, and no drill has passed (lately).
    Unproven,
    /// The newest drill could not make all its checks.
    Inconclusive,
    /// No run has ended yet.
    Waiting,
    /// The newest run left no good recovery point, though nobody is to blame: cancelled, interrupted, or not whole.
    Incomplete,
    /// The newest run failed.
    Failing,
    /// Two due times have passed since the newest good recovery point.
    Overdue,
    /// The newest drill did not bring back what was stored.
    DrillFailed,
    /// Runs ended, and none left a good recovery point.
    NoPoint,
}

impl Standing {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unproven => "unproven",
            Self::Inconclusive => "inconclusive",
            Self::Waiting => "waiting",
            Self::Incomplete => "incomplete",
            Self::Failing => "failing",
            Self::Overdue => "overdue",
            Self::DrillFailed => "drill_failed",
            Self::NoPoint => "no_point",
        }
    }

    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Unproven => "UNPROVEN",
            Self::Inconclusive => "INCONCLUSIVE",
            Self::Waiting => "WAITING",
            Self::Incomplete => "INCOMPLETE",
            Self::Failing => "FAILING",
            Self::Overdue => "OVERDUE",
            Self::DrillFailed => "DRILL FAILED",
            Self::NoPoint => "NO POINT",
        }
    }

    pub fn level(self) -> Level {
        match self {
            Self::Ok => Level::Good,
            Self::Unproven | Self::Inconclusive | Self::Waiting | Self::Incomplete => Level::Attention,
            Self::Failing | Self::Overdue | Self::DrillFailed | Self::NoPoint => Level::Bad,
        }
    }
}

/// One policy, judged.
#[derive(Clone, Debug)]
pub struct PolicyStatus {
    pub policy: Policy,
    pub standing: Standing,
    /// One sentence: why it stands so.
    pub reason: String,
    pub memory: PolicyMemory,
    pub next: Option<Timestamp>,
    /// Runs under way, oldest first.
    pub open: Vec<Run>,
}

/// The whole host, judged.
pub struct Status {
    pub now: Timestamp,
    pub host: String,
    pub started: Timestamp,
    pub level: Level,
    /// `yes`, `in_doubt`, `no`, `nothing`.
    pub answer: &'static str,
    /// The answer as a sentence.
    pub sentence: String,
    /// Worst first, then by name.
    pub policies: Vec<PolicyStatus>,
    pub open: Vec<(Run, Option<Progress>)>,
    pub health: Health,
    pub loaded: Loaded,
}

impl Status {
    /// The policy that most needs a person, if one does.
    pub fn worst(&self) -> Option<&PolicyStatus> {
        self.policies.first().filter(|policy| policy.standing != Standing::Ok)
    }

    pub fn next(&self) -> Option<(&PolicyStatus, Timestamp)> {
        self.policies.iter().filter_map(|policy| Some((policy, policy.next?))).min_by_key(|(_, at)| *at)
    }
}

impl Core {
    pub fn status(self: &Arc<Self>) -> Result<Status, CatalogError> {
        let now = self.now();
        let loaded = self.loaded();
        let open = self.catalog.open_runs()?;
        let mut policies = Vec::with_capacity(loaded.config.policies.len());
        for policy in loaded.config.policies.values() {
            let memory = self.catalog.memory(&policy.name, &Self::scope(&loaded.config, policy))?;
            let open = open.iter().filter(|run| run.policy == policy.name.as_str()).cloned().collect();
            policies.push(judge(policy, memory, open, now));
        }
        policies.sort_by(|a, b| b.standing.cmp(&a.standing).then_with(|| a.policy.name.cmp(&b.policy.name)));
        let health = self.health();
        let (level, answer, sentence) = answer(&policies, health, &loaded);
        let open = open.into_iter().map(|run| (self.jobs().progress(run.id), run)).map(|(p, run)| (run, p)).collect();
        Ok(Status {
            now,
            host: self.host.clone(),
            started: self.started,
            level,
            answer,
            sentence,
            policies,
            open,
            health,
            loaded,
        })
    }

    pub fn tallies(&self) -> Result<Tallies, CatalogError> {
        self.catalog.tallies()
    }
}

fn judge(policy: &Policy, memory: PolicyMemory, open: Vec<Run>, now: Timestamp) -> PolicyStatus {
    let next = policy.schedule.next_after(&policy.zone, now).map(|occurrence| occurrence.at);
    let (standing, reason) = verdict(policy, &memory, &open, now);
    PolicyStatus { policy: policy.clone(), standing, reason, memory, next, open }
}

fn verdict(policy: &Policy, memory: &PolicyMemory, open: &[Run], now: Timestamp) -> (Standing, String) {
    let cause = |run: &Run| match &run.error {
        Some(error) => format!(": {error}"),
        None => String::new(),
    };
    let Some(point) = &memory.last_point else {
        return match &memory.last_backup {
            Some(last) => (
                Standing::NoPoint,
                format!(
                    "no backup has left a good recovery point yet; the newest one ended {}{}",
                    last.state,
                    cause(last)
                ),
            ),
            None if open.iter().any(|run| run.kind == RunKind::Backup) => {
                (Standing::Waiting, "the first backup is under way".to_owned())
            }
            None => (Standing::Waiting, "no backup of these sources into this repository has run yet".to_owned()),
        };
    };
    let mut found = Vec::new();
    if let Some(drill) = &memory.last_drill
        && !drill.is_passed_drill()
    {
        found.push(match drill.state {
            RunState::Partial | RunState::Succeeded => {
                (Standing::Inconclusive, format!("the newest drill could not make all its checks{}", cause(drill)))
            }
            _ => (Standing::DrillFailed, format!("the newest drill ended {}{}", drill.state, cause(drill))),
        });
    }
    // A due time counts from the point's own nominal time, so that a run that began late is not judged early.
    let since = point.nominal.map_or(point.frozen(), |nominal| nominal.max(point.frozen()));
    let passed = policy.schedule.due(&policy.zone, since, now).take(2).count();
    if passed >= 2 {
        let newest = memory.last_backup.as_ref().filter(|last| last.id != point.id);
        let why = newest.map(|last| format!("; the newest backup ended {}{}", last.state, cause(last)));
        let sentence = "two due times have passed since the newest good recovery point";
        found.push((Standing::Overdue, format!("{sentence}{}", why.unwrap_or_default())));
    }
    if let Some(last) = &memory.last_backup
        && last.id != point.id
    {
        found.push(match last.state {
            RunState::Failed | RunState::TimedOut => {
                (Standing::Failing, format!("the newest backup ended {}{}", last.state, cause(last)))
            }
            _ => (Standing::Incomplete, format!("the newest backup ended {}{}", last.state, cause(last))),
        });
    }
    let proved = memory.last_passed_drill.as_ref().and_then(|drill| drill.ended);
    match proved {
        None => found.push((Standing::Unproven, "no drill has restored it yet".to_owned())),
        Some(at) if now.duration_since(at) > PROOF_AGE_MAX => {
            found.push((Standing::Unproven, "no drill has restored it in the last 100 days".to_owned()));
        }
        Some(_) => {}
    }
    found
        .into_iter()
        .max_by_key(|(standing, _)| *standing)
        .unwrap_or_else(|| (Standing::Ok, "fresh, and a drill brought it back".to_owned()))
}

fn answer(policies: &[PolicyStatus], health: Health, loaded: &Loaded) -> (Level, &'static str, String) {
    let total = policies.len();
    let count = |wanted: &[Standing]| policies.iter().filter(|policy| wanted.contains(&policy.standing)).count();
    let of = |n: usize| match (n, total) {
        (1, 1) => "the policy".to_owned(),
        (n, total) if n == total => format!("all {total} policies"),
        (n, total) => format!("{n} of {total} policies"),
    };
    let without = policies.iter().filter(|policy| policy.memory.last_point.is_none()).count();
    let drills = count(&[Standing::DrillFailed]);
    let behind = count(&[Standing::Overdue, Standing::Failing]);
    let soft = count(&[Standing::Incomplete, Standing::Inconclusive]);
    let unproven = count(&[Standing::Unproven]);
    let verb = |n: usize| if n == 1 { "has" } else { "have" };
    // A sentence for the worst that is so, and never a better level than the worst policy has.
    let no_point = count(&[Standing::NoPoint]);
    let worst = policies.iter().map(|policy| policy.standing.level()).max().unwrap_or(Level::Attention);
    let (answer, sentence) = if total == 0 {
        ("nothing", "No policy is configured, so nothing is protected.".to_owned())
    } else if without == total {
        ("no", format!("No: {} {} no recovery point yet.", of(without), verb(without)))
    } else if no_point > 0 {
        ("in_doubt", format!("Not everything: {} {} no recovery point.", of(no_point), verb(no_point)))
    } else if drills > 0 {
        ("in_doubt", format!("In doubt: a drill failed for {}.", of(drills)))
    } else if behind > 0 {
        ("in_doubt", format!("Only to an older state: {} {} fallen behind.", of(behind), verb(behind)))
    } else if without > 0 {
        ("in_doubt", format!("Not everything yet: {} {} to run for the first time.", of(without), verb(without)))
    } else if soft > 0 {
        ("in_doubt", format!("Most likely: the newest run or drill of {} was not whole.", of(soft)))
    } else if unproven > 0 {
        ("in_doubt", format!("Most likely: no drill has proved {} yet.", of(unproven)))
    } else {
        ("yes", format!("Yes: a drill has brought back {}.", of(total)))
    };
    let level = worst;
    if !health.alive || !health.recording {
        return (Level::Bad, "in_doubt", "In doubt: the daemon cannot record what it does.".to_owned());
    }
    if loaded.rejected.is_some() && level == Level::Good {
        return (Level::Attention, answer, format!("{sentence} The newest configuration was refused."));
    }
    (level, answer, sentence)
}
