//! `lifeboat prune`: what no snapshot needs is deleted.
//!
//! Owns the flags, the words for what was done, and which of it is an exit code. Refuses to shorten the undo window without a yes.

use std::time::Duration;

use clap::Args;
use jiff::{Span, SpanRelativeTo};
use serde_json::{Value, json};

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::screen::Screen;
use super::text::{local, plural, time_of};
use super::{Context, interrupt, open};
use crate::clock::SystemClock;
use crate::forget::UNDO_DAYS;
use crate::names::SnapshotId;
use crate::prune::{Control, Error, Report, Request, Sum};
use crate::repository::Error as RepositoryError;
use crate::units::ByteCount;

const HELP: &str = "\
Snapshots that `lifeboat forget` hid stay whole for 7 days; then a prune lets
them go for good, and deletes what only they needed. Packs that are mostly
dead are written anew. It may run beside backups, restores and other prunes.

A backup that began before waits for nobody, so this prune may have to wait
for it: it does what is safe now, and ends with 75 if something remains. The
next prune goes on where this one ended, and --wait waits.

Examples:
  lifeboat prune --dry-run
  lifeboat prune --wait 30m
  lifeboat prune --undo-window 0s --yes";

#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// How long a forgotten snapshot stays whole: 12h, 7d
    #[arg(long, value_name = "AGE", value_parser = span)]
    undo_window: Option<Duration>,
    /// Shorten the undo window: what is gone then does not come back
    #[arg(short, long)]
    yes: bool,
    /// Wait for running backups so long, at most: 90s, 30m
    #[arg(long, value_name = "TIME", value_parser = span, default_value = "0s")]
    wait: Duration,
    /// Rewrite packs of so many bytes at most, such as 20GiB
    #[arg(long, value_name = "SIZE")]
    max_repack: Option<ByteCount>,
    /// Rewrite every pack of which so much is dead, and no other; else 20 on a
    /// disk, and more until 5 of all that is stored are dead, elsewhere 25
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    repack_from: Option<u8>,
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// A span of time, with days of 24 hours.
fn span(text: &str) -> std::result::Result<Duration, String> {
    let wrong = || format!("{text:?} is no span of time; write 90s, 30m, 12h or 7d");
    let span: Span = text.parse().map_err(|_| wrong())?;
    let span = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(span).map_err(|_| wrong())
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    let usual = Duration::from_secs(u64::from(UNDO_DAYS) * 86_400);
    if arguments.undo_window.is_some_and(|window| window < usual) && !arguments.yes && !arguments.dry_run {
        let sentence = format!("what was forgotten less than {UNDO_DAYS} days ago would be gone for good");
        return Err(Failure::usage(sentence).hint("add --yes if it should be, or --dry-run to see what would go"));
    }
    // Backups and whatever else runs here come first. The kernel takes the turn at disks from this, too (ioprio_set(2)).
    let _ = rustix::process::nice(19);
    let repository = open::repository(globals, screen)?;
    let control = Control::default();
    interrupt::watch(control.cancel.clone())?;
    let mut request = Request::of(&repository);
    request.undo_window = arguments.undo_window.unwrap_or(request.undo_window);
    request.wait = arguments.wait;
    request.repack_max = arguments.max_repack.map(|bytes| bytes.0);
    request.dry_run = arguments.dry_run;
    if let Some(percent) = arguments.repack_from {
        request.repack_from = f64::from(percent) / 100.0;
        request.leave = 1.0;
    }
    let report = crate::prune::run(&repository, &SystemClock, &request, &control)?;
    if screen.json {
        screen.document(&document(&report, &request))?;
    } else {
        for line in lines(&report, arguments.dry_run) {
            screen.line(line)?;
        }
    }
    ended(screen, &report)
}

fn sum(sum: Sum) -> Value {
    json!({ "packs": sum.packs, "bytes": sum.bytes })
}

fn document(report: &Report, request: &Request) -> Value {
    json!({
        "dry_run": request.dry_run,
        "finished": report.is_finished(),
        "expired": report.expired.iter().map(SnapshotId::to_string).collect::<Vec<_>>(),
        "undo_open": report.undo_open,
        "undo_ends": report.undo_ends.map(|at| time_of(at).to_string()),
        "stored": sum(report.stored),
        "needed_bytes": report.needed_bytes,
        "dead": sum(report.dead),
        "rewritten": sum(report.rewritten),
        "rewritten_to": sum(report.rewritten_to),
        "deleted": sum(report.deleted),
        "objects_deleted": report.small_deleted,
        "spared": report.spared,
        "fenced": report.fenced,
        "left_bytes": report.left_bytes,
        "lost_chunks": report.lost_chunks,
        "waiting": report.waiting.iter().map(|waiting| json!({
            "writer": waiting.session.writer().to_string(),
            "session": waiting.session.to_string(),
            "heard": time_of(waiting.heard).to_string(),
        })).collect::<Vec<_>>(),
        "lost_race": report.lost_race,
        "seconds": report.seconds,
    })
}

fn of_packs(sum: Sum) -> String {
    format!("{} ({})", plural(sum.packs, "pack", "packs"), ByteCount(sum.bytes))
}

fn lines(report: &Report, dry_run: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let would = |did: &str, would: &str| if dry_run { would.to_owned() } else { did.to_owned() };
    if !report.expired.is_empty() {
        let ids: Vec<String> = report.expired.iter().map(|id| id.short()).collect();
        let gone = would("gone for good", "would be gone for good");
        lines.push(format!("{gone}: {}", ids.join(" ")));
    }
    if let Some(ends) = report.undo_ends {
        let snapshots = plural(report.undo_open, "forgotten snapshot", "forgotten snapshots");
        lines.push(format!("{snapshots} can be taken back; the first until {}", local(time_of(ends))));
    }
    if report.stored.packs > 0 {
        let (stored, needed) = (of_packs(report.stored), ByteCount(report.needed_bytes));
        lines.push(format!("stored: {stored}, of which snapshots need {needed}"));
    }
    if report.dead.packs > 0 {
        lines.push(format!("nothing is needed in {}", of_packs(report.dead)));
    }
    if report.rewritten.packs > 0 {
        let rewritten = would("written anew", "would be written anew");
        let to = if dry_run { String::new() } else { format!(" as {}", of_packs(report.rewritten_to)) };
        lines.push(format!("{rewritten}: {}{to}", of_packs(report.rewritten)));
    }
    if !dry_run {
        let small = plural(report.small_deleted, "other object", "other objects");
        lines.push(format!("deleted: {} and {small}", of_packs(report.deleted)));
    }
    if report.left_bytes > 0 {
        lines.push(format!("{} are dead and stay: rewriting their packs costs more", ByteCount(report.left_bytes)));
    }
    lines
}

/// What remains, and how the command ends.
fn ended(screen: &Screen, report: &Report) -> Result<Exit> {
    if report.lost_chunks > 0 {
        let chunks = plural(report.lost_chunks, "chunk", "chunks");
        screen.warn(format!("{chunks} that snapshots need could not be found in any pack"));
        screen.hint("`lifeboat verify` names the files; nothing that may hold them was deleted");
    }
    if report.fenced > 0 {
        let sessions = plural(report.fenced, "session that ended without a word", "sessions that ended without a word");
        screen.say(format!("{sessions} cannot commit any more; whoever still runs one starts over"));
    }
    if report.lost_race {
        let sentence = "another prune was faster; this one stopped";
        return Err(Failure::new(Exit::Conflict, sentence).hint("wait until the other one ends"));
    }
    if let Some(waiting) = report.waiting.first() {
        let sessions = plural(report.waiting.len() as u64, "running session", "running sessions");
        let heard = local(time_of(waiting.heard));
        let sentence = format!(
            "{sessions} must look up or end before anything is deleted (writer {}, heard of {heard})",
            waiting.session.writer()
        );
        let hint = "prune again later, or add --wait 30m; one that is silent for 6 hours is taken for dead";
        return Err(Failure::new(Exit::Transient, sentence).hint(hint));
    }
    Ok(Exit::Done)
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let sentence = error.to_string();
        match error {
            Error::Repository(error) => error.into(),
            Error::Doubt(doubts) => {
                let names: Vec<String> = doubts.iter().map(|doubt| told(&doubt.error)).collect();
                let exit = match doubts.iter().all(|doubt| !doubt.error.is_damage()) {
                    true => Exit::Failed,
                    false => Exit::Damage,
                };
                let text = format!("{sentence}: {}", names.join("; "));
                Self::new(exit, text).hint(
                    "`lifeboat verify` tells what is damaged; forget the snapshots that need it, or mend the store",
                )
            }
            Error::Clock { .. } => Self::new(Exit::Failed, sentence).hint("set this machine's clock, or the store's"),
            Error::Cancelled => Self::new(Exit::Interrupted, sentence),
            Error::Notes(_) => Self::new(Exit::Failed, error),
        }
    }
}

fn told(error: &RepositoryError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
