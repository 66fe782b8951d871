//! `lifeboat run` and `lifeboat drill`: work that the daemon does.
//!
//! Owns asking for a run, waiting for its end, and the exit code that its end means. Losing the daemon while waiting is exit
//! code 9; the run goes on.

use std::thread::sleep;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Context;
use super::client::{Client, Daemon};
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::screen::{self, Screen};
use super::status::{list, text};
use super::text::{Table, count, duration, local_of_text};
use crate::catalog::{RunId, RunKind, RunState};
use crate::names::PolicyName;
use crate::units::ByteCount;

const POLL_FIRST: Duration = Duration::from_millis(200);
const POLL_MAX: Duration = Duration::from_secs(2);

#[derive(Subcommand)]
pub enum Verb {
    /// Back up a policy's source now
    Start {
        /// The policy's id
        #[arg(value_name = "POLICY")]
        policy: PolicyName,
        /// Wait for the end, and end with the run's exit code
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// List runs, newest first
    List {
        /// Only of this policy
        #[arg(long, value_name = "NAME")]
        policy: Option<PolicyName>,
        /// Only in this state, such as failed
        #[arg(long, value_name = "STATE")]
        state: Option<RunState>,
        /// Only of this kind: backup or drill
        #[arg(long, value_name = "KIND")]
        kind: Option<RunKind>,
        /// How many
        #[arg(short, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=500))]
        number: u16,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Show one run, with its problems
    Show {
        /// The run's id
        #[arg(value_name = "ID")]
        id: RunId,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Ask a run to stop
    Cancel {
        /// The run's id
        #[arg(value_name = "ID")]
        id: RunId,
        #[command(flatten)]
        daemon: Daemon,
    },
}

#[derive(Subcommand)]
pub enum DrillVerb {
    /// Restore a sample of the newest snapshot into an empty place and compare it
    Run {
        /// The policy's id
        #[arg(value_name = "POLICY")]
        policy: PolicyName,
        /// How many files; else what the policy says
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        files: Option<u32>,
        /// Wait for the end: 0 if it passed, else 8
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
}

pub fn run(context: &Context, verb: &Verb) -> Result<Exit> {
    match verb {
        Verb::Start { policy, wait, daemon } => {
            start(context, daemon, &format!("/v1/policies/{policy}/runs"), &json!({}), *wait)
        }
        Verb::List { policy, state, kind, number, daemon } => {
            let mut path = format!("/v1/runs?limit={number}");
            // Each was parsed: letters, digits and `._-` only.
            for (name, value) in [
                ("policy", policy.as_ref().map(PolicyName::as_str)),
                ("state", state.map(RunState::as_str)),
                ("kind", kind.map(RunKind::as_str)),
            ] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={value}"));
                }
            }
            show_list(&context.screen, &Client::new(context, daemon)?.get(&path)?.body)
        }
        Verb::Show { id, daemon } => {
            let run = Client::new(context, daemon)?.get(&format!("/v1/runs/{id}"))?.body;
            show(&context.screen, &run)?;
            Ok(Exit::Done)
        }
        Verb::Cancel { id, daemon } => {
            let run = Client::new(context, daemon)?.post(&format!("/v1/runs/{id}/cancel"), &json!({}))?.body;
            if context.screen.json {
                context.screen.document(&run)?;
            } else {
                context.screen.line(format!("asked {id} to stop"))?;
            }
            Ok(Exit::Done)
        }
    }
}

pub fn drill(context: &Context, verb: &DrillVerb) -> Result<Exit> {
    let DrillVerb::Run { policy, files, wait, daemon } = verb;
    let body = files.map_or_else(|| json!({}), |files| json!({ "files": files }));
    start(context, daemon, &format!("/v1/drills/{policy}/runs"), &body, *wait)
}

fn start(context: &Context, daemon: &Daemon, path: &str, body: &Value, wait: bool) -> Result<Exit> {
    let screen = &context.screen;
    let client = Client::new(context, daemon)?;
    let answer = client.post(path, body)?;
    let id = text(&answer.body["id"]);
    if !wait {
        if screen.json {
            screen.document(&answer.body)?;
        } else {
            screen.line(&id)?;
        }
        return Ok(Exit::Done);
    }
    screen.say(format!("waiting for {id}; Ctrl-C stops the waiting and not the run"));
    let location = answer.location.filter(|at| at.starts_with('/')).unwrap_or_else(|| format!("/v1/runs/{id}"));
    let mut pause = POLL_FIRST;
    let run = loop {
        sleep(pause);
        pause = (pause * 2).min(POLL_MAX);
        let run = match client.get(&location) {
            Err(failure) if failure.exit == Exit::Unreachable => {
                return Err(failure.hint(format!("the run {id} goes on if the daemon does: `lifeboat run show {id}`")));
            }
            answer => answer?.body,
        };
        if state(&run)?.is_terminal() {
            break run;
        }
        if !screen.quiet && screen::progress_width().is_some() {
            screen.draw(&format!("{}  {}", text(&run["state"]), progress(&run["progress"])));
        }
    };
    screen.wipe();
    show(screen, &run)?;
    outcome(&run)
}

fn state(run: &Value) -> Result<RunState> {
    let word = run["state"].as_str().unwrap_or_default();
    word.parse().map_err(|error: crate::names::NameError| Failure::new(Exit::Failed, error))
}

/// The exit code of a run that ended.
fn outcome(run: &Value) -> Result<Exit> {
    let state = state(run)?;
    if run["kind"] == RunKind::Drill.as_str() && state != RunState::Cancelled {
        return Ok(if run["verdict"] == "pass" { Exit::Done } else { Exit::Drill });
    }
    Ok(match state {
        RunState::Succeeded => Exit::Done,
        RunState::Partial => Exit::Losses,
        RunState::Cancelled => Exit::Interrupted,
        RunState::Interrupted => Exit::Transient,
        RunState::Failed | RunState::TimedOut | RunState::Queued | RunState::Running => Exit::Failed,
    })
}

fn progress(progress: &Value) -> String {
    if progress.is_null() {
        return String::new();
    }
    let number = |name: &str| progress[name].as_u64();
    let of = |total: Option<String>| total.map_or_else(String::new, |total| format!(" of {total}"));
    format!(
        "{}  {}{} files  {}{}",
        text(&progress["phase"]),
        count(number("files").unwrap_or(0)),
        of(number("files_total").map(count)),
        ByteCount(number("bytes").unwrap_or(0)),
        of(number("bytes_total").map(|bytes| ByteCount(bytes).to_string())),
    )
}

fn took(run: &Value) -> String {
    run["seconds"].as_f64().map_or_else(String::new, duration)
}

fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(String::new, |bytes| ByteCount(bytes).to_string())
}

fn show_list(screen: &Screen, body: &Value) -> Result<Exit> {
    let runs = list(&body["runs"]);
    if screen.json {
        screen.document(&body["runs"])?;
        return Ok(Exit::Done);
    }
    let mut table =
        Table::new(&["ID", "Kind", "Policy", "State", "Began", ">Took", ">Files", ">New", "Snapshot", "Error"]);
    for run in runs {
        let began = if run["started_at"].is_null() { &run["queued_at"] } else { &run["started_at"] };
        let snapshot: String = text(&run["snapshot"]).chars().take(8).collect();
        table.row(vec![
            text(&run["id"]),
            text(&run["kind"]),
            text(&run["policy"]),
            text(&run["state"]),
            local_of_text(began),
            took(run),
            run["files"].as_u64().map_or_else(String::new, count),
            bytes(&run["new_bytes"]),
            snapshot,
            text(&run["error"]),
        ]);
    }
    table.drop_empty_columns();
    table.fit(screen::output_width(), 16, &["Took", "New", "Files", "Snapshot", "Kind"]);
    if !runs.is_empty() {
        for line in table.lines(screen::output_width()) {
            screen.line(line)?;
        }
    }
    screen.flush()?;
    screen.say(super::text::plural(runs.len() as u64, "run", "runs"));
    Ok(Exit::Done)
}

fn show(screen: &Screen, run: &Value) -> Result<()> {
    if screen.json {
        return screen.document(run);
    }
    let drill = run["kind"] == RunKind::Drill.as_str();
    let mut lines = vec![
        ("run", text(&run["id"])),
        ("kind", text(&run["kind"])),
        ("policy", text(&run["policy"])),
        ("state", text(&run["state"])),
        ("began", local_of_text(&run["started_at"])),
        ("took", took(run)),
        ("snapshot", text(&run["snapshot"])),
    ];
    if drill {
        let checked = &run["drill"];
        lines.push(("verdict", text(&run["verdict"])));
        if !checked.is_null() {
            lines.push((
                "compared",
                format!("{} files, {}", text(&checked["checked_files"]), bytes(&checked["checked_bytes"])),
            ));
            lines.push(("mismatches", text(&checked["mismatches"])));
            lines.push(("not run", text(&checked["not_run"])));
            // Owners, privileged bits and devices, which a drill cannot set: no mismatch, and no proof either.
            lines.push(("outside", text(&checked["outside"])));
        }
    } else {
        lines.push(("files", run["files"].as_u64().map_or_else(String::new, count)));
        lines.push(("size", bytes(&run["bytes"])));
        lines.push(("new", bytes(&run["new_bytes"])));
        lines.push(("stored", bytes(&run["stored_bytes"])));
    }
    lines.push(("error", text(&run["error"])));
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        screen.line(format!("{name:<10} {value}"))?;
    }
    for problem in list(&run["problems"]) {
        screen.line(format!("problem    {}", text(problem)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_passed_drill_and_a_whole_backup_end_with_zero() {
        let exit = |kind: &str, state: &str, verdict: Value| {
            outcome(&json!({ "kind": kind, "state": state, "verdict": verdict })).ok().unwrap()
        };
        assert_eq!(exit("backup", "succeeded", Value::Null), Exit::Done);
        assert_eq!(exit("backup", "partial", Value::Null), Exit::Losses);
        assert_eq!(exit("backup", "failed", Value::Null), Exit::Failed);
        assert_eq!(exit("drill", "succeeded", json!("pass")), Exit::Done);
        assert_eq!(exit("drill", "succeeded", json!("inconclusive")), Exit::Drill);
        assert_eq!(exit("drill", "failed", json!("fail")), Exit::Drill);
    }
}
