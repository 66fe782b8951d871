//! `lifeboat backup`: paths become a snapshot.

use std::path::{Component, Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::text::{count, duration, others, plural};
use super::{Context, cloud, interrupt, memory, open, progress};
use crate::backup::{self, Control, Report, Request};
use crate::clock::SystemClock;
use crate::names::PolicyName;
use crate::pack::record::Outcome;
use crate::repository::{Repository, Snapshots};
use crate::store::probe::StoreMode;
use crate::units::ByteCount;

#[derive(Args)]
pub struct Arguments {
    /// Files and directories to save, or buckets: s3://BUCKET/PREFIX, gs://…, az://…
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
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
    /// Mark the snapshot with a word
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Count the snapshot to this policy
    #[arg(long, value_name = "NAME")]
    policy: Option<PolicyName>,
    /// Threads that chunk, compress and encrypt; else one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
}

pub fn run(context: &Context, arguments: Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    let mut paths: Vec<PathBuf> = Vec::new();
    let (buckets, words) = cloud::split(&arguments.paths)?;
    for path in &words {
        let path = absolute(path)?;
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    if let Some(tag) =
        arguments.tag.iter().find(|tag| tag.is_empty() || tag.chars().any(|c| c.is_control() || c == ','))
    {
        return Err(Failure::usage(format!("{tag:?} is no tag: it is empty, or has a comma or control character")));
    }
    let request = Request {
        paths,
        buckets,
        excludes: arguments.exclude,
        exclude_files: arguments.exclude_file,
        exclude_caches: arguments.exclude_caches,
        one_file_system: arguments.one_file_system,
        ignore_inode: arguments.ignore_inode,
        tags: arguments.tag,
        policy: arguments.policy.map(String::from),
        workers: usize::from(arguments.workers.unwrap_or(0)),
        ..Request::default()
    };
    let repository = open::repository(globals, screen)?;
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
    show(context, &report)
}

/// The path as the kernel sees it from here. A `..` goes where links lead, so the kernel is asked.
fn absolute(path: &Path) -> Result<PathBuf> {
    let failed = |cause| Failure::file("find", path, cause);
    if path.as_os_str().is_empty() {
        return Err(Failure::usage("a path is empty"));
    }
    let absolute = std::path::absolute(path).map_err(failed)?;
    if !absolute.components().any(|part| part == Component::ParentDir) {
        return Ok(absolute.components().collect());
    }
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize().map_err(failed)?.join(name)),
        _ => absolute.canonicalize().map_err(failed),
    }
}

/// What the newest snapshot of the same paths held: a guess at what is to come.
fn expected_bytes(repository: &Repository, request: &Request) -> Option<u64> {
    let writer = repository.access.writer.as_ref()?.id;
    let snapshots = Snapshots::list(repository).ok()?;
    let names = backup::names(request);
    let asked = |name: &[u8]| names.iter().any(|asked| asked == name);
    let newest = snapshots.readable.iter().rev().filter(|snapshot| snapshot.writer == writer).find_map(|snapshot| {
        let body = snapshot.body.as_ref()?;
        let same = body.sources.len() == names.len() && body.sources.iter().all(|source| asked(&source.name));
        same.then_some(body.counts.bytes)
    });
    newest.filter(|bytes| *bytes > 0)
}

fn show(context: &Context, report: &Report) -> Result<Exit> {
    let screen = &context.screen;
    let counts = &report.counts;
    let losses = counts.unreadable + counts.changed;
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
            "problems": report.problems,
        }))?;
    } else if screen.quiet {
        screen.line(report.snapshot.to_string())?;
    } else {
        let others = others(counts.others);
        let parent = report.parent.map_or_else(
            || "no earlier snapshot to compare with".to_owned(),
            |parent| format!("compared with {}", parent.short()),
        );
        screen.line(format!(
            "saved    {}, {}{others}: {} in {}",
            plural(counts.files, "file", "files"),
            plural(counts.directories, "directory", "directories"),
            ByteCount(counts.bytes),
            duration(report.seconds),
        ))?;
        screen.line(format!(
            "read     {}, {} ({parent})",
            plural(counts.files_read, "file", "files"),
            ByteCount(counts.bytes_read)
        ))?;
        screen.line(format!(
            "new      {}, stored in {}{}",
            ByteCount(counts.bytes_new),
            ByteCount(counts.bytes_stored),
            saving(counts.bytes, counts.bytes_stored)
        ))?;
        if counts.vanished > 0 {
            screen
                .line(format!("vanished {} between listing and reading", plural(counts.vanished, "file", "files")))?;
        }
        screen.line(format!("snapshot {}{}", report.snapshot, if partial { "  PARTIAL" } else { "" }))?;
    }
    if partial {
        screen.flush()?;
        let lost = plural(losses, "file or directory is", "files or directories are");
        screen.labelled("error", &format!("the snapshot is partial: {lost} missing or not as a whole"));
        return Ok(Exit::Losses);
    }
    Ok(Exit::Done)
}

/// How much of the source went to the store; of a tiny source, which is all overhead, there is nothing to say.
fn saving(bytes: u64, stored: u64) -> String {
    if stored > bytes || bytes == 0 {
        return String::new();
    }
    format!(" ({:.1} % of the source)", stored as f64 * 100.0 / bytes as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_dots_goes_where_the_kernel_would_go() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("real/inner")).unwrap();
        std::os::unix::fs::symlink(dir.join("real/inner"), dir.join("link")).unwrap();
        assert_eq!(absolute(&dir.join("link/../x")).unwrap(), dir.join("real/x"));
        assert_eq!(absolute(&dir.join("link/..")).unwrap(), dir.join("real"));
        assert_eq!(absolute(&dir.join("./link/")).unwrap(), dir.join("link"));
    }
}
