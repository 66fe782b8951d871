//! `lifeboat hold` and `lifeboat undelete`: what stays after all.

use clap::Args;
use jiff::Zoned;
use serde_json::json;

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::forget::{age, check_reason};
use super::screen::Screen;
use super::snapshots::now;
use super::text::{local, plural, time_of};
use super::{Context, moment, open, pick};
use crate::clock::SystemClock;
use crate::pack::record::{Decision, Time};
use crate::repository::Snapshots;
use crate::schedule::keep::Age;

const HELP: &str = "\
A held snapshot is kept whatever rules say, and cannot be forgotten by its id.
Another hold takes the place of the one before.

Examples:
  lifeboat hold 3f2a9c1b --reason 'the audit of 2026' --until 2027-06-30
  lifeboat hold latest --reason 'before the upgrade' --for 2w
  lifeboat hold --release 3f2a9c1b";

const UNDELETE_HELP: &str = "\
`lifeboat snapshots --all` shows what is forgotten, since when and why.

Examples:
  lifeboat undelete 3f2a9c1b";

#[derive(Args)]
#[command(after_help = UNDELETE_HELP)]
pub struct Undelete {
    /// Ids of forgotten snapshots
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<String>,
}

#[derive(Args)]
#[command(after_help = HELP)]
pub struct Hold {
    /// Ids of snapshots, or `latest`
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<String>,
    /// Why
    #[arg(long, value_name = "TEXT", required_unless_present = "release")]
    reason: Option<String>,
    /// Until then; a date is its first moment. Else until it is released
    #[arg(long, value_name = "DATE", conflicts_with = "span")]
    until: Option<String>,
    /// For so long from now: 36h, 14d, 1y6m
    #[arg(long = "for", id = "span", value_name = "AGE", value_parser = age)]
    span: Option<Age>,
    /// End the hold
    #[arg(long, conflicts_with_all = ["reason", "until", "span"])]
    release: bool,
}

pub fn undelete(context: &Context, arguments: &Undelete) -> Result<Exit> {
    pick::refuse_latest(&arguments.snapshots)?;
    decide(context, &arguments.snapshots, &Decision::Undelete, "taken back", "are forgotten still")
}

pub fn hold(context: &Context, arguments: &Hold) -> Result<Exit> {
    if arguments.release {
        return decide(context, &arguments.snapshots, &Decision::Release, "released", "were not released");
    }
    let reason = arguments.reason.clone().unwrap_or_default();
    check_reason(&reason)?;
    let until = end(arguments)?;
    let held = until.map_or_else(|| "held".to_owned(), |until| format!("held until {}", local(time_of(until))));
    decide(context, &arguments.snapshots, &Decision::Hold(reason, until), &held, "are not held by this")
}

/// When the hold ends; none: when it is released.
fn end(arguments: &Hold) -> Result<Option<Time>> {
    let here = Zoned::now();
    let until = match (&arguments.until, &arguments.span) {
        (Some(text), _) => {
            let at = moment::parse(text, &here).map_err(Failure::usage)?;
            Time { secs: at.secs, nanos: at.nanos }
        }
        (None, Some(span)) => {
            let beyond =
                || Failure::usage(format!("{span} from now is beyond all calendars")).hint("hold it without an end");
            Time { secs: span.after(&here).ok_or_else(beyond)?.as_second(), nanos: 0 }
        }
        (None, None) => return Ok(None),
    };
    if until <= now() {
        let sentence = format!("the hold would end in the past: {}", local(time_of(until)));
        return Err(Failure::usage(sentence).hint("name a day that is to come, or say how long with --for 14d"));
    }
    Ok(Some(until))
}

/// Decides the same of each; what fails keeps no other from it.
fn decide(context: &Context, names: &[String], decision: &Decision, done: &str, not: &str) -> Result<Exit> {
    let Context { globals, screen } = context;
    let repository = open::repository(globals, screen)?;
    repository.need_admin("deciding what becomes of snapshots")?;
    let targets = pick::targets(&Snapshots::list(&repository)?, names)?;
    let mut failures = Vec::new();
    let mut rows = Vec::new();
    for target in &targets {
        let id = target.session.snapshot();
        let failed = repository.decide(&SystemClock, target.session, &target.slot, decision).err();
        if screen.json {
            rows.push(json!({
                "id": id.to_string(),
                "short_id": id.short(),
                "time": target.started.map(|time| time_of(time).to_string()),
                "done": failed.is_none(),
                "error": failed.as_ref().map(ToString::to_string),
            }));
        } else if failed.is_none() {
            let of = target.started.map_or_else(String::new, |time| format!(" of {}", local(time_of(time))));
            screen.line(format!("{}{of} {done}", id.short()))?;
        }
        failures.extend(failed.map(Failure::from));
    }
    if screen.json {
        screen.document(&json!({ "snapshots": rows }))?;
    }
    screen.flush()?;
    finish(screen, failures, targets.len() as u64, not)
}

/// The first failure decides the exit code.
pub fn finish(screen: &Screen, mut failures: Vec<Failure>, all: u64, not: &str) -> Result<Exit> {
    if failures.len() < 2 {
        return failures.pop().map_or(Ok(Exit::Done), Err);
    }
    failures.iter().for_each(|failure| screen.warn(failure.to_string()));
    let sentence = format!("{} of {} {not}", failures.len(), plural(all, "snapshot", "snapshots"));
    Err(Failure::new(failures.remove(0).exit, sentence).hint("the warnings above name them"))
}
