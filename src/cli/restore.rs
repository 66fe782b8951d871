//! `lifeboat restore`: a snapshot becomes files again.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::owners::Owners;
use super::place::Place;
use super::screen::Screen;
use super::select::Latest;
use super::text::{count, duration, others, path_json, plural, rate};
use super::{Context, cloud, interrupt, open, pick, progress};
use crate::bucket::Traffic;
use crate::names::escape;
use crate::pack::record::Outcome;
use crate::repository::{Errand, Snapshot, Snapshots};
use crate::restore::{self, Control, Overwrite, Patterns, Plan, Report, Request, Start, Totals};
use crate::target::OwnerBy;
use crate::units::ByteCount;

/// Shown under the options.
const EXAMPLES: &str = "\
Patterns mean what they mean in .gitignore. Directories that lead to what is
brought back are made as they were. A restore that was ended goes on when the
same command is given again.

  lifeboat restore latest:/etc --to /tmp/etc
  lifeboat restore latest --to /mnt --include /home/ann --exclude '*.iso'
  lifeboat restore latest:/srv --to /srv --map-owner ann=ben --map-owner :ann=:ben";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// `latest` or an id, and the path whose content to restore
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    place: OsString,
    /// Where to: what lies under PATH goes into DIR, a file lands as DIR/name; or a bucket: s3://BUCKET/PREFIX, gs://…, az://…
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// What becomes of files that stand in DIR
    #[arg(long, value_name = "WHEN", default_value = "never")]
    overwrite: When,
    /// Remove from DIR what the snapshot does not hold
    #[arg(long)]
    pub(super) delete: bool,
    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with = "verify")]
    pub(super) dry_run: bool,
    /// Read everything again afterwards and compare it with the snapshot
    #[arg(long)]
    pub(super) verify: bool,
    /// Leave out owners, setuid bits, capabilities and devices; else what cannot be set is a loss (exit code 3)
    #[arg(long)]
    unprivileged: bool,
    /// Bring back only what matches, with all beneath it: `*.conf` anywhere, `/etc/ssh` as it was on its host, `./x` beneath PATH
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// A file of such patterns, one in a line
    #[arg(long, value_name = "FILE")]
    include_from: Vec<PathBuf>,
    /// Leave out what matches, whatever includes it; `!` takes back, in both
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// A file of such patterns, one in a line
    #[arg(long, value_name = "FILE")]
    exclude_from: Vec<PathBuf>,
    #[command(flatten)]
    owners: Owners,
    #[command(flatten)]
    latest: Latest,
}

#[derive(Clone, Copy, ValueEnum)]
enum When {
    /// DIR must be empty or absent; the same restore may continue
    Never,
    /// Keep files whose size, time and attributes agree
    IfChanged,
    /// Write every file anew
    Always,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    let place = Place::parse(&arguments.place)?;
    let bucket = cloud::bucket(&arguments.to)?;
    let to = std::path::absolute(&arguments.to).map_err(|cause| Failure::file("find", &arguments.to, cause))?;
    let privileged = rustix::process::geteuid().is_root() && !arguments.unprivileged;
    let owners = arguments.owners.map(privileged)?;
    let repository = open::repository_for(globals, screen, Errand::Read)?;
    repository.need_reader("restoring content")?;
    let selection = arguments.latest.selection(&repository, &place.snapshot)?;
    let snapshots = Snapshots::list(&repository)?;
    let overwrite = match arguments.overwrite {
        When::Never => Overwrite::Never,
        When::IfChanged => Overwrite::IfChanged,
        When::Always => Overwrite::Always,
    };
    if let Some(to) = bucket {
        let snapshot = pick::snapshot(screen, &snapshots, &place.snapshot, &selection)?.clone();
        if arguments.verify {
            let sentence = "a restore into a bucket is not compared afterwards";
            return Err(Failure::usage(sentence)
                .hint("leave out `--verify`, and back the bucket up: what is the same is stored already"));
        }
        if arguments.owners.any() {
            let sentence = "objects in a bucket have no owners of this machine";
            return Err(Failure::usage(sentence).hint("leave out --target-owner, --map-owner and --owner-by-name"));
        }
        let wish = cloud::Wish {
            snapshot,
            path: place.path,
            overwrite,
            delete: arguments.delete,
            include: Patterns { given: arguments.include, files: arguments.include_from },
            exclude: Patterns { given: arguments.exclude, files: arguments.exclude_from },
            to,
            dry_run: arguments.dry_run,
        };
        return cloud::restore(context, &repository, wish);
    }
    let request = Request {
        path: place.path,
        overwrite,
        delete: arguments.delete,
        verify: arguments.verify,
        privileged: !arguments.unprivileged,
        owner: if arguments.owners.by_name() { OwnerBy::Name } else { OwnerBy::Number },
        owners,
        include: Patterns { given: arguments.include, files: arguments.include_from },
        exclude: Patterns { given: arguments.exclude, files: arguments.exclude_from },
        ..Request::new(pick::snapshot(screen, &snapshots, &place.snapshot, &selection)?.clone(), to)
    };
    let control = Control::default();
    interrupt::watch(control.cancel.clone())?;
    warn_of_partial(context, &request.snapshot);
    let plan = restore::plan(&repository, request, &control)?;
    for warning in &plan.warnings {
        screen.warn(warning);
    }
    if arguments.dry_run {
        return show_plan(context, &plan);
    }
    let watched = &control.progress;
    let look = || progress::Seen {
        // Of a large file under way only what was fetched for it is known.
        bytes: watched.bytes.load(Ordering::Relaxed).max(watched.bytes_fetched.load(Ordering::Relaxed)),
        bytes_total: Some(plan.totals.bytes),
        guessed: false,
        bytes_new: None,
        things: plural(watched.files.load(Ordering::Relaxed), "file", "files"),
        problems: watched.problems.load(Ordering::Relaxed),
        current: watched.current.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    };
    let report = progress::while_running(screen, &|| None, &look, || restore::run(&repository, &plan, &control))?;
    show(context, &plan, &report, repository.store.traffic())
}

/// What was missing from the start cannot come back: whoever restores should know before relying on it.
pub(super) fn warn_of_partial(context: &Context, snapshot: &Snapshot) {
    let partial = snapshot.body.as_ref().filter(|body| body.outcome == Outcome::Partial);
    if let Some(body) = partial {
        let missing = plural(body.counts.unreadable + body.counts.changed, "file or directory", "files or directories");
        context.screen.warn(format!(
            "the snapshot {} is partial: {missing} could not be saved as a whole when it was made",
            snapshot.id.short()
        ));
    }
}

fn start_word(start: Start) -> &'static str {
    match start {
        Start::Empty => "empty",
        Start::Continued => "continued",
        Start::Over => "over",
    }
}

fn show_plan(context: &Context, plan: &Plan) -> Result<Exit> {
    let screen = &context.screen;
    if screen.json {
        let head = head(&plan.request.snapshot, path_json(&plan.request.to), start_word(plan.start));
        screen.document(&plan_json(head, &plan.totals, &plan.warnings))?;
    } else {
        // The warnings have been told.
        let text = plan.to_string();
        let mut lines = text.lines().filter(|line| !line.starts_with("warning: "));
        screen.line(format!("would {}", lines.next().unwrap_or_default()))?;
        lines.try_for_each(|line| screen.line(line))?;
    }
    Ok(if plan.gaps > 0 { Exit::Damage } else { Exit::Done })
}

/// What every document of a restore begins with.
pub(super) struct Head {
    snapshot: String,
    to: Value,
    start: &'static str,
}

pub(super) fn head(snapshot: &Snapshot, to: Value, start: &'static str) -> Head {
    Head { snapshot: snapshot.id.to_string(), to, start }
}

/// What a dry run prints, into whatever place.
pub(super) fn plan_json(head: Head, totals: &Totals, warnings: &[String]) -> Value {
    json!({
        "dry_run": true,
        "snapshot": head.snapshot,
        "to": head.to,
        "start": head.start,
        "files": totals.files,
        "directories": totals.directories,
        "others": totals.others,
        "bytes": totals.bytes,
        "warnings": warnings,
    })
}

/// What a restore prints, into whatever place.
pub(super) fn report_json(head: Head, report: &Report, requests: Option<Traffic>) -> Value {
    json!({
        "snapshot": head.snapshot,
        "to": head.to,
        "start": head.start,
        "files": report.files,
        "directories": report.directories,
        "others": report.others,
        "bytes": report.bytes,
        "fetched_bytes": report.bytes_fetched,
        "unchanged": report.skipped_unchanged,
        "deleted": report.deleted,
        "omitted": report.omitted,
        "losses": report.losses,
        "losses_count": report.losses_count,
        "renamed": report.renamed,
        "renamed_count": report.renamed_count,
        "verified_files": report.verified_files,
        "differences": report.differences,
        "differences_count": report.differences_count,
        "damaged": damaged(report),
        "damaged_count": report.damaged_count,
        "seconds": report.seconds,
        "requests": requests,
        "whole": report.is_whole(),
    })
}

fn damaged(report: &Report) -> Vec<String> {
    report.damaged.iter().map(|damaged| format!("{}: {}", damaged.path, damaged.error)).collect()
}

/// Names everything that did not go as it should.
pub(super) fn tell(screen: &Screen, report: &Report) {
    // In JSON the one error is the last line.
    let bad = if screen.json { "warning" } else { "error" };
    for (label, sentences, all) in [
        (bad, &damaged(report), report.damaged_count),
        (bad, &report.differences, report.differences_count),
        ("warning", &report.losses, report.losses_count),
        ("note", &report.renamed, report.renamed_count),
    ] {
        for sentence in sentences {
            screen.labelled(label, sentence);
        }
        let more = all.saturating_sub(sentences.len() as u64);
        if more > 0 {
            screen.labelled(label, &format!("and {} more", count(more)));
        }
    }
}

fn show(context: &Context, plan: &Plan, report: &Report, requests: Option<Traffic>) -> Result<Exit> {
    let screen = &context.screen;
    tell(screen, report);
    if screen.json {
        let head = head(&plan.request.snapshot, path_json(&plan.request.to), start_word(plan.start));
        screen.document(&report_json(head, report, requests))?;
    } else if !screen.quiet {
        lines(context, plan, report)?;
    }
    screen.flush()?;
    verdict(report)
}

fn lines(context: &Context, plan: &Plan, report: &Report) -> Result<()> {
    let screen = &context.screen;
    let others = others(report.others);
    screen.line(format!(
        "restored {}, {}{others}: {} in {}",
        plural(report.files, "file", "files"),
        plural(report.directories, "directory", "directories"),
        ByteCount(report.bytes),
        duration(report.seconds),
    ))?;
    screen.line(format!(
        "fetched  {} at {}",
        ByteCount(report.bytes_fetched),
        rate(report.bytes.max(report.bytes_fetched), report.seconds)
    ))?;
    if report.skipped_unchanged > 0 {
        screen.line(format!(
            "kept     {} that stood as they should",
            plural(report.skipped_unchanged, "file", "files")
        ))?;
    }
    if report.deleted > 0 {
        screen.line(format!("removed  {} that the snapshot does not hold", plural(report.deleted, "name", "names")))?;
    }
    if plan.request.verify {
        screen.line(format!("compared {}", plural(report.verified_files, "file", "files")))?;
    }
    if !report.omitted.is_empty() {
        let omitted: Vec<String> =
            report.omitted.iter().map(|(what, times)| format!("{what} ({})", count(*times))).collect();
        let why = match plan.request.privileged {
            true => "another owner has them now",
            false => "as asked",
        };
        screen.line(format!("left out {}: {why}", omitted.join(", ")))?;
    }
    let path = plan.request.path.as_deref().unwrap_or(b"/");
    screen.line(format!(
        "snapshot {}:{} to {}",
        plan.request.snapshot.id.short(),
        escape(path),
        plan.request.to.display()
    ))
}

/// What is worst decides.
pub(super) fn verdict(report: &Report) -> Result<Exit> {
    if report.store_failed {
        return Err(Failure::new(Exit::Failed, "the store failed, and files are missing or incomplete")
            .hint("once the store answers, the same command continues the restore"));
    }
    if report.damaged_count > 0 {
        let files = plural(report.damaged_count, "file is", "files are");
        return Err(Failure::new(Exit::Damage, format!("{files} damaged in the repository and could not be restored"))
            .hint("another snapshot may hold them whole; `lifeboat verify --level data` lists all damage"));
    }
    if report.differences_count > 0 {
        let files = plural(report.differences_count, "difference", "differences");
        let sentence = format!("the target does not hold what was restored: {files}");
        return Err(Failure::new(Exit::Failed, sentence).hint(
            "look whether something else writes there, then restore again with --overwrite if-changed --verify",
        ));
    }
    if report.losses_count > 0 {
        let losses = plural(report.losses_count, "attribute or entry", "attributes or entries");
        return Err(Failure::new(Exit::Losses, format!("{losses} could not be set"))
            .hint("the warnings above name them; root, and a file system that knows them, can set all"));
    }
    Ok(Exit::Done)
}
