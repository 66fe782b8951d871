//! The daemon's numbers in Prometheus' text form.
//!
//! Owns names, labels and the writing. Refuses to count: every series is read from the catalog when it is asked for, so it
//! goes on after a restart where it stood, and a policy that is gone drops out. Every label value comes from a bounded set.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use jiff::Timestamp;

use super::problem::Problem;
use super::runs::blocking;
use crate::catalog::{MissReason, RunKind, RunState, Tallies};
use crate::daemon::{Core, RUNNING_MAX, Status};

const KINDS: [RunKind; 2] = [RunKind::Backup, RunKind::Drill];

pub async fn show(State(core): State<Arc<Core>>) -> Result<impl IntoResponse, Problem> {
    let text = blocking(move || Ok(write(&core.status()?, &core.tallies()?, core.jobs().running()))).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text))
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP lifeboat_{name} {help}\n# TYPE lifeboat_{name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = write!(self.0, "lifeboat_{name}");
        for (at, (label, text)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    /// A gauge of times: one sample for each policy that has one.
    fn times<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Vec<(&'a str, &'a str)>, Option<Timestamp>)>,
    ) {
        self.family(name, "gauge", help);
        for (labels, at) in samples {
            if let Some(at) = at {
                self.sample(name, &labels, seconds(at));
            }
        }
    }
}

fn seconds(at: Timestamp) -> String {
    let millis = at.as_millisecond();
    format!("{}.{:03}", millis.div_euclid(1000), millis.rem_euclid(1000))
}

pub fn write(status: &Status, tallies: &Tallies, running: usize) -> String {
    let mut page = Page(String::with_capacity(8 << 10));
    let name = |policy: &crate::policy::Policy| policy.name.as_str().to_owned();
    let policies: Vec<_> = status.policies.iter().map(|entry| (name(&entry.policy), entry)).collect();

    page.family("build_info", "gauge", "What runs here.");
    page.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family("policy_info", "gauge", "Policies in force.");
    for (policy, entry) in &policies {
        page.sample("policy_info", &[("policy", policy), ("repository", entry.policy.repository.as_str())], 1);
    }

    page.family("run_total", "counter", "Runs that ended.");
    for (policy, _) in &policies {
        for kind in KINDS {
            for result in RunState::ALL.iter().filter(|state| state.is_terminal()) {
                let known = tallies.runs.iter().find(|(of, k, r, _)| of == policy && *k == kind && r == result);
                let labels = [("policy", policy.as_str()), ("kind", kind.as_str()), ("result", result.as_str())];
                page.sample("run_total", &labels, known.map_or(0, |(_, _, _, n)| *n));
            }
        }
    }
    page.family("occurrence_missed_total", "counter", "Due times that got no run of their own.");
    for (policy, _) in &policies {
        for reason in MissReason::ALL {
            let known = tallies.missed.iter().find(|(of, _, r, _)| of == policy && r == reason.as_str());
            let labels = [("policy", policy.as_str()), ("kind", "backup"), ("reason", reason.as_str())];
            page.sample("occurrence_missed_total", &labels, known.map_or(0, |(_, _, _, n)| *n));
        }
    }
    page.family("bytes_total", "counter", "Bytes of all backups that ended.");
    for (policy, _) in &policies {
        let known = tallies.bytes.iter().find(|(of, _)| of == policy).map_or([0; 3], |(_, bytes)| *bytes);
        for (stage, bytes) in ["read", "new", "stored"].into_iter().zip(known) {
            page.sample("bytes_total", &[("policy", policy), ("stage", stage)], bytes);
        }
    }

    page.times(
        "run_start_timestamp_seconds",
        "When the newest run that ended began.",
        policies.iter().flat_map(|(policy, entry)| {
            let memory = &entry.memory;
            [("backup", &memory.last_backup), ("drill", &memory.last_drill)].map(|(kind, run)| {
                let at = run.as_ref().map(|run| run.frozen());
                (vec![("policy", policy.as_str()), ("kind", kind)], at)
            })
        }),
    );
    page.times(
        "run_last_success_timestamp_seconds",
        "When the newest good run ended.",
        policies.iter().flat_map(|(policy, entry)| {
            let memory = &entry.memory;
            [("backup", &memory.last_point), ("drill", &memory.last_passed_drill)].map(|(kind, run)| {
                (vec![("policy", policy.as_str()), ("kind", kind)], run.as_ref().and_then(|run| run.ended))
            })
        }),
    );
    page.times(
        "next_run_timestamp_seconds",
        "When the next run is due.",
        policies.iter().map(|(policy, entry)| (vec![("policy", policy.as_str()), ("kind", "backup")], entry.next)),
    );
    page.times(
        "recovery_point_timestamp_seconds",
        "When the data of the newest good recovery point were frozen.",
        policies.iter().map(|(policy, entry)| {
            let labels = vec![("policy", policy.as_str()), ("repository", entry.policy.repository.as_str())];
            (labels, entry.memory.last_point.as_ref().map(|run| run.frozen()))
        }),
    );
    page.family("recovery_points", "gauge", "Good recovery points made by this host.");
    for (policy, entry) in &policies {
        let labels = [("policy", policy.as_str()), ("repository", entry.policy.repository.as_str())];
        page.sample("recovery_points", &labels, entry.memory.points);
    }

    for (metric, help, value) in [
        (
            "source_files",
            "Files seen by the newest backup.",
            (|counts| counts.files) as fn(crate::catalog::Counts) -> u64,
        ),
        ("source_bytes", "Bytes seen by the newest backup.", |counts| counts.bytes),
        ("source_errors", "Files that the newest backup could not read.", |counts| counts.unreadable),
    ] {
        page.family(metric, "gauge", help);
        for (policy, entry) in &policies {
            if let Some(run) = &entry.memory.last_backup {
                page.sample(metric, &[("policy", policy)], value(run.counts));
            }
        }
    }
    page.times(
        "drill_last_timestamp_seconds",
        "When the newest drill came to a verdict.",
        policies.iter().map(|(policy, entry)| {
            (vec![("drill", policy.as_str())], entry.memory.last_drill.as_ref().and_then(|run| run.ended))
        }),
    );
    page.family("drill_checks", "gauge", "Files of the newest drill, by what became of their check.");
    for (policy, entry) in &policies {
        let Some(drill) = entry.memory.last_drill.as_ref().and_then(|run| run.drill) else { continue };
        let passed = drill.checked_files.saturating_sub(drill.mismatches);
        for (result, n) in [("pass", passed), ("fail", drill.mismatches), ("not_run", drill.not_run)] {
            page.sample("drill_checks", &[("drill", policy), ("result", result)], n);
        }
    }

    page.family("config_last_reload_success_timestamp_seconds", "gauge", "When the configuration in force was read.");
    page.sample("config_last_reload_success_timestamp_seconds", &[], seconds(status.loaded.at));
    page.family("scheduler_last_tick_timestamp_seconds", "gauge", "When the scheduler last came round.");
    page.sample("scheduler_last_tick_timestamp_seconds", &[], seconds(status.health.ticked_at));
    page.family("slots_in_use", "gauge", "Runs going on.");
    page.sample("slots_in_use", &[("kind", "total")], running);
    page.family("slots", "gauge", "Runs that may go on at a time.");
    page.sample("slots", &[("kind", "total")], RUNNING_MAX);
    page.0
}
