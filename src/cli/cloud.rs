//! Buckets on the command line: `s3://BUCKET/PREFIX` and its kin, as what is saved and where a restore goes.
//!
//! Owns which words mean a bucket, and what people read of a restore into one. Refuses to guess: without `://` a word is a path.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use serde_json::json;

use super::exit::Exit;
use super::failure::Result;
use super::restore::{head, plan_json, report_json, tell, verdict, warn_of_partial};
use super::text::{count, duration, plural};
use super::{Context, interrupt, open, progress};
use crate::address::Address;
use crate::bucket::{Bucket, Traffic};
use crate::names::escape;
use crate::repository::{Repository, Snapshot};
use crate::restore::upload::{self, Plan, Start};
use crate::restore::{Control, Overwrite, Patterns, Report};
use crate::store::address::{PlaceError, parse};
use crate::units::ByteCount;

/// The bucket that a word means; none if it means a path.
pub fn bucket(word: &Path) -> Result<Option<Bucket>> {
    let Some(text) = word.to_str().filter(|text| text.contains("://")) else { return Ok(None) };
    match parse(text)? {
        Address::Directory(_) => Ok(None),
        Address::Bucket(address) => Ok(Some(Bucket::open(&address, &open::options()?).map_err(PlaceError::from)?)),
    }
}

/// Buckets and paths, told apart.
pub fn split(words: &[PathBuf]) -> Result<(Vec<Bucket>, Vec<PathBuf>)> {
    let (mut buckets, mut paths) = (Vec::new(), Vec::new());
    for word in words {
        match bucket(word)? {
            Some(bucket) if buckets.iter().any(|other: &Bucket| other.url() == bucket.url()) => {}
            Some(bucket) => buckets.push(bucket),
            None => paths.push(word.clone()),
        }
    }
    Ok((buckets, paths))
}

/// What a restore into a bucket is asked for.
pub struct Wish {
    pub snapshot: Snapshot,
    pub path: Option<Vec<u8>>,
    pub overwrite: Overwrite,
    pub delete: bool,
    pub include: Patterns,
    pub exclude: Patterns,
    pub to: Bucket,
    pub dry_run: bool,
}

pub fn restore(context: &Context, repository: &Repository, wish: Wish) -> Result<Exit> {
    let screen = &context.screen;
    let control = Control::default();
    interrupt::watch(control.cancel.clone())?;
    warn_of_partial(context, &wish.snapshot);
    let Wish { snapshot, path, overwrite, delete, include, exclude, to, dry_run } = wish;
    let request = upload::Request { path, overwrite, delete, include, exclude, ..upload::Request::new(snapshot, to) };
    let plan = upload::plan(repository, request, &control)?;
    for warning in &plan.warnings {
        screen.warn(warning);
    }
    if dry_run {
        return show_plan(context, &plan);
    }
    let watched = &control.progress;
    let look = || progress::Seen {
        bytes: watched.bytes.load(Ordering::Relaxed),
        bytes_total: Some(plan.totals.bytes),
        guessed: false,
        bytes_new: None,
        things: plural(watched.files.load(Ordering::Relaxed), "object", "objects"),
        problems: watched.problems.load(Ordering::Relaxed),
        current: watched.current.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    };
    let report = progress::while_running(screen, &|| None, &look, || upload::run(repository, &plan, &control))?;
    show(context, &plan, &report, repository.store.traffic())
}

fn start_word(start: &Start) -> &'static str {
    match start {
        Start::Empty => "empty",
        Start::Continued(_) => "continued",
        Start::Over => "over",
    }
}

fn show_plan(context: &Context, plan: &Plan) -> Result<Exit> {
    let screen = &context.screen;
    let totals = &plan.totals;
    if screen.json {
        let head = head(&plan.request.snapshot, json!(plan.request.to.url()), start_word(&plan.start));
        screen.document(&plan_json(head, totals, &plan.warnings))?;
    } else {
        screen.line(format!("would restore {}", what(plan)))?;
        screen.line(format!("{}: {}", plural(totals.files, "object", "objects"), ByteCount(totals.bytes)))?;
        screen.line(match plan.start {
            Start::Empty => "the target is empty",
            Start::Continued(_) => "an interrupted restore would be continued",
            Start::Over => "the target holds objects",
        })?;
        if plan.request.delete {
            screen.line("what the snapshot does not hold would be removed")?;
        }
    }
    Ok(if plan.gaps > 0 { Exit::Damage } else { Exit::Done })
}

fn what(plan: &Plan) -> String {
    let path = plan.request.path.as_deref().unwrap_or(b"/");
    format!("{}:{} to {}", plan.request.snapshot.id.short(), escape(path), plan.request.to.url())
}

fn show(context: &Context, plan: &Plan, report: &Report, requests: Option<Traffic>) -> Result<Exit> {
    let screen = &context.screen;
    tell(screen, report);
    if screen.json {
        let head = head(&plan.request.snapshot, json!(plan.request.to.url()), start_word(&plan.start));
        screen.document(&report_json(head, report, requests))?;
    } else if !screen.quiet {
        screen.line(format!(
            "restored {}: {} in {}",
            plural(report.files, "object", "objects"),
            ByteCount(report.bytes),
            duration(report.seconds)
        ))?;
        if report.skipped_unchanged > 0 {
            screen
                .line(format!("kept     {} that stood there", plural(report.skipped_unchanged, "object", "objects")))?;
        }
        if report.deleted > 0 {
            let removed = plural(report.deleted, "object", "objects");
            screen.line(format!("removed  {removed} that the snapshot does not hold"))?;
        }
        if !report.omitted.is_empty() {
            let omitted: Vec<String> =
                report.omitted.iter().map(|(what, times)| format!("{what} ({})", count(*times))).collect();
            screen.line(format!("left out what objects do not have: {}", omitted.join(", ")))?;
        }
        screen.line(format!("snapshot {}", what(plan)))?;
    }
    screen.flush()?;
    verdict(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_without_a_scheme_is_a_path() {
        let words = ["s3:bucket", "/srv/s3:/x", "./gs:/b", "file:///srv"].map(PathBuf::from);
        let (buckets, paths) = split(&words).unwrap();
        assert!(buckets.is_empty() && paths == words);
    }
}
