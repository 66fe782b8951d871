//! `lifeboat backup`: paths become a snapshot.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::intake::{Intake, Wanted};
use super::text::{count, duration, others, plural, rate};
use super::{Context, interrupt, memory, open, progress};
use crate::backup::{self, Compressed, Control, Report, Request};
use crate::bucket::Traffic;
use crate::clock::SystemClock;
use crate::compression::Compression;
use crate::names::PolicyName;
use crate::pack::record::Outcome;
use crate::repository::{Errand, Repository, Snapshots};
use crate::store::probe::StoreMode;
use crate::units::ByteCount;

/// Shown under the options.
const EXAMPLES: &str = "\
What is named or listed is always saved; patterns leave out what lies beneath.

  lifeboat backup /etc /home --exclude '*.tmp' -x
  find /srv -newer stamp -print0 | lifeboat backup --files-from0 -
  lifeboat backup --command --stdin-name db.dump -- pg_dump -Fc db";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    intake: Intake,
    /// Leave out what matches: `*.o` anywhere, `/home/*/cache` on this host, `./x` beneath the PATH; `!` takes back
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// A file of such patterns, one in a line
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave out what directories marked by a CACHEDIR.TAG hold
    #[arg(long)]
    exclude_caches: bool,
    /// Stay on the file systems of the PATHs
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Do not read a file again because its inode number alone changed (network and FUSE file systems)
    #[arg(long)]
    ignore_inode: bool,
    /// Save the tags of objects as well (S3): one more request for each new or changed object of a bucket
    #[arg(long)]
    object_tags: bool,
    /// Mark the snapshot with a word
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Count the snapshot to this policy
    #[arg(long, value_name = "NAME")]
    policy: Option<PolicyName>,
    /// How hard content is compressed: auto (zstd 3, 2 for disk images, more where a slow link leaves the time), fast (zstd 1), off, or a level of zstd, 1 to 19
    #[arg(long, value_name = "auto|fast|off|LEVEL", hide_default_value = true, default_value_t)]
    compression: Compression,
    /// Threads that chunk, compress and encrypt; else one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    if let Some(tag) =
        arguments.tag.iter().find(|tag| tag.is_empty() || tag.chars().any(|c| c.is_control() || c == ','))
    {
        let sentence = format!("{tag:?} is no tag: it is empty, or has a comma or control character");
        return Err(Failure::usage(sentence).hint("give one word for each --tag, and --tag again for the next"));
    }
    let mut request = Request {
        excludes: arguments.exclude,
        exclude_files: arguments.exclude_file,
        exclude_caches: arguments.exclude_caches,
        one_file_system: arguments.one_file_system,
        ignore_inode: arguments.ignore_inode,
        object_tags: arguments.object_tags,
        tags: arguments.tag,
        policy: arguments.policy.map(String::from),
        compression: arguments.compression,
        workers: usize::from(arguments.workers.unwrap_or(0)),
        ..Request::default()
    };
    match arguments.intake.wanted(globals, screen)? {
        Wanted::Places { paths, buckets } => (request.paths, request.buckets) = (paths, buckets),
        Wanted::Listed(paths) => request.listed = Some(paths),
        Wanted::Stream(stream) => request.stream = Some(stream),
    }
    if request.object_tags && request.buckets.is_empty() {
        let sentence = "--object-tags is about the objects of buckets, and no bucket is to be saved";
        return Err(Failure::usage(sentence).hint("leave it out, or name a bucket, such as s3://photos/2026"));
    }
    let request = request;
    let repository = open::repository_for(globals, screen, Errand::Write)?;
    let control = Control::default();
    interrupt::watch(control.cancel.clone())?;
    let watched = &control.progress;
    let report = progress::while_running(
        screen,
        &|| expected_bytes(&repository, &request),
        &|| progress::Seen::of_backup(watched),
        || backup::run(&repository, &SystemClock, &request, &control),
    )?;
    if !report.multi_writer {
        let mode = StoreMode::SingleWriter { reason: "it accepted a second create of one object".into() };
        super::init::warn_of_single_writer(context, &mode);
        memory::remember(repository.id, &mode, memory::Seen::InPassing, screen);
    } else if memory::recall(repository.id).is_none() {
        memory::remember(repository.id, &StoreMode::MultiWriter, memory::Seen::InPassing, screen);
    }
    show(context, &report, repository.store.traffic())
}

/// What the newest snapshot of the same sources held: a guess at what is to come.
fn expected_bytes(repository: &Repository, request: &Request) -> Option<u64> {
    let writer = repository.access.writer.as_ref()?.id;
    let snapshots = Snapshots::list(repository).ok()?;
    let asked = request.sources();
    let newest = snapshots.readable.iter().rev().filter(|snapshot| snapshot.writer == writer).find_map(|snapshot| {
        let body = snapshot.body.as_ref()?;
        let is_asked = |name: &[u8], kind| asked.iter().any(|(asked, of)| asked == name && *of == kind);
        let same = body.sources.len() == asked.len() && body.sources.iter().all(|s| is_asked(&s.name, s.kind));
        same.then_some(body.counts.bytes)
    });
    newest.filter(|bytes| *bytes > 0)
}

fn show(context: &Context, report: &Report, requests: Option<Traffic>) -> Result<Exit> {
    let screen = &context.screen;
    let counts = &report.counts;
    let losses = counts.unreadable + counts.changed;
    for note in &report.notes {
        screen.say(format!("note: {note}"));
    }
    for problem in &report.problems {
        screen.warn(problem);
    }
    let told = report.problems.len() as u64;
    let all = losses + counts.vanished + counts.allowed;
    if all > told && told > 0 {
        screen.warn(format!("and {} more", count(all - told)));
    }
    let partial = report.outcome == Outcome::Partial;
    if screen.json {
        screen.document(&json!({
            "id": report.snapshot.to_string(),
            "short_id": report.snapshot.short(),
            "parent": report.parent.map(|parent| parent.to_string()),
            "outcome": if partial { "partial" } else { "succeeded" },
            "files": counts.files,
            "directories": counts.directories,
            "others": counts.others,
            "files_new": report.files_new,
            "files_changed": report.files_changed,
            "files_unchanged": unchanged(report),
            "bytes": counts.bytes,
            "files_read": counts.files_read,
            "bytes_read": counts.bytes_read,
            "new_bytes": counts.bytes_new,
            "stored_bytes": counts.bytes_stored,
            "vanished": counts.vanished,
            "unreadable": counts.unreadable,
            "changed": counts.changed,
            "allowed": counts.allowed,
            "seconds": report.seconds,
            "store_mode": if report.multi_writer { "multi-writer" } else { "single-writer" },
            "requests": requests,
            "compression": {
                "asked": report.compressed.asked.to_string(),
                "levels": report.compressed.levels.iter().map(|(level, bytes)| json!({ "level": level, "bytes": bytes })).collect::<Vec<_>>(),
                "raw_bytes": report.compressed.raw_bytes,
            },
            "notes": report.notes,
            "problems": report.problems,
        }))?;
    } else if screen.quiet {
        screen.line(report.snapshot.to_string())?;
    } else {
        lines(context, report)?;
    }
    if partial {
        let lost = plural(losses, "file or directory is", "files or directories are");
        let sentence = format!("the snapshot is partial: {lost} missing or not as a whole");
        let hint = "the warnings above name them; `lifeboat snapshots` marks it until a whole one takes its place";
        return Err(Failure::new(Exit::Losses, sentence).hint(hint));
    }
    Ok(Exit::Done)
}

fn lines(context: &Context, report: &Report) -> Result<()> {
    let (screen, counts) = (&context.screen, &report.counts);
    let others = others(counts.others);
    screen.line(format!(
        "saved    {}, {}{others}: {} in {}",
        plural(counts.files, "file", "files"),
        plural(counts.directories, "directory", "directories"),
        ByteCount(counts.bytes),
        duration(report.seconds),
    ))?;
    let parent = report.parent.map_or_else(
        || "no earlier snapshot to compare with".to_owned(),
        |parent| format!("compared with {}", parent.short()),
    );
    screen.line(format!(
        "files    {} new, {} changed, {} unchanged ({parent})",
        count(report.files_new),
        count(report.files_changed),
        count(unchanged(report)),
    ))?;
    let at = match counts.bytes_read {
        0 => String::new(),
        bytes => format!(" at {}", rate(bytes, report.seconds)),
    };
    screen.line(format!(
        "read     {}, {}{at}",
        plural(counts.files_read, "file", "files"),
        ByteCount(counts.bytes_read)
    ))?;
    screen.line(format!(
        "new      {}, stored in {}{}",
        ByteCount(counts.bytes_new),
        ByteCount(counts.bytes_stored),
        saving(counts.bytes, counts.bytes_stored)
    ))?;
    if screen.verbose > 0 {
        screen.line(format!("packed   {}", packed(&report.compressed)))?;
    }
    if counts.vanished > 0 {
        screen.line(format!("vanished {} between listing and reading", plural(counts.vanished, "file", "files")))?;
    }
    let partial = report.outcome == Outcome::Partial;
    screen.line(format!("snapshot {}{}", report.snapshot, if partial { "  PARTIAL" } else { "" }))
}

/// At which levels, and how much of it.
fn packed(compressed: &Compressed) -> String {
    let levels = compressed.levels.iter().map(|(level, bytes)| format!("{} at level {level}", ByteCount(*bytes)));
    let raw = (compressed.raw_bytes > 0).then(|| format!("{} as it is", ByteCount(compressed.raw_bytes)));
    let parts: Vec<String> = levels.chain(raw).collect();
    let parts = if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") };
    format!("{parts} (compression {})", compressed.asked)
}

fn unchanged(report: &Report) -> u64 {
    report.counts.files.saturating_sub(report.files_new + report.files_changed)
}

/// How much of the source went to the store; of a tiny source, which is all overhead, there is nothing to say.
fn saving(bytes: u64, stored: u64) -> String {
    if stored > bytes || bytes == 0 {
        return String::new();
    }
    format!(" ({:.1} % of the source)", stored as f64 * 100.0 / bytes as f64)
}
