//! `lifeboat snapshots`: what can be restored.

use clap::Args;
use serde_json::{Value, json};

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::select::Filter;
use super::text::{Table, bytes_json, count, local, plural, time_of};
use super::{Context, open};
use crate::names::escape;
use crate::pack::record::{ManifestBody, Outcome};
use crate::repository::{Repository, Snapshot, SnapshotState, Snapshots, Unreadable};
use crate::units::ByteCount;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    filter: Filter,
    /// Those too that do not count: committed after their writer was revoked
    #[arg(long)]
    all: bool,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    let repository = open::repository(globals, screen)?;
    let selection = arguments.filter.selection(&repository)?;
    let snapshots = Snapshots::list(&repository)?;
    let fits = |snapshot: &&Snapshot| arguments.filter.is_empty() || selection.fits(snapshot);
    let (shown, hidden): (Vec<_>, Vec<_>) = snapshots
        .readable
        .iter()
        .filter(fits)
        .partition(|snapshot| arguments.all || snapshot.state == SnapshotState::Good);
    if screen.json {
        let list = shown.iter().map(|snapshot| to_json(&repository, snapshot)).collect::<Result<Vec<Value>>>()?;
        screen.document(&Value::Array(list))?;
    } else {
        let mut table = Table::new(&[
            "ID", "Time", "Writer", "Host", "Policy", "Outcome", ">Files", ">Size", ">Stored", "Tags", "Paths",
        ]);
        for snapshot in &shown {
            table.row(row(&repository, snapshot, screen.verbose > 0)?);
        }
        table.drop_empty_columns();
        table.fit(super::screen::output_width(), 16, &["Stored", "Host", "Files", "Tags", "Size", "Writer"]);
        if !shown.is_empty() {
            for line in table.lines(super::screen::output_width()) {
                screen.line(line)?;
            }
        }
        screen.flush()?;
        screen.say(plural(shown.len() as u64, "snapshot", "snapshots"));
    }
    if !hidden.is_empty() {
        let hidden = plural(hidden.len() as u64, "snapshot is", "snapshots are");
        screen.say(format!("{hidden} not shown: committed after the writer was revoked (--all shows them)"));
    }
    for lost in &snapshots.unreadable {
        tell_unreadable(context, lost);
    }
    Ok(if snapshots.unreadable.is_empty() { Exit::Done } else { Exit::Damage })
}

/// A snapshot that is there and cannot be read: never silently left out.
fn tell_unreadable(context: &Context, lost: &Unreadable) {
    context.screen.labelled("error", &format!("the snapshot {} cannot be read", lost.session.snapshot().short()));
    context.screen.labelled("caused by", &chain(&lost.error));
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// The words of outcomes, everywhere.
pub fn outcome(body: &ManifestBody) -> &'static str {
    match body.outcome {
        Outcome::Complete => "succeeded",
        Outcome::Partial => "partial",
    }
}

fn writer_name(repository: &Repository, snapshot: &Snapshot) -> Result<String> {
    // Its manifest verified, so its certificate did.
    repository.writer(snapshot.writer).map(|writer| writer.name.clone()).map_err(Failure::from)
}

fn row(repository: &Repository, snapshot: &Snapshot, whole_id: bool) -> Result<Vec<String>> {
    let id = if whole_id { snapshot.id.to_string() } else { snapshot.id.short() };
    let writer = writer_name(repository, snapshot)?;
    let revoked = snapshot.state == SnapshotState::Revoked;
    let Some(body) = &snapshot.body else {
        let empty = || String::new();
        let paths = "(another writer's: this key cannot read it)".to_owned();
        let state = if revoked { "revoked".to_owned() } else { empty() };
        return Ok(vec![id, empty(), writer, empty(), empty(), state, empty(), empty(), empty(), empty(), paths]);
    };
    let paths: Vec<String> = body.sources.iter().flat_map(|source| source.paths()).map(escape).collect();
    Ok(vec![
        id,
        local(time_of(body.started)),
        escape(writer.as_bytes()),
        escape(body.host.as_bytes()),
        body.policy.as_deref().map_or_else(String::new, |policy| escape(policy.as_bytes())),
        if revoked { "revoked".to_owned() } else { outcome(body).to_owned() },
        count(body.counts.files),
        ByteCount(body.counts.bytes).to_string(),
        ByteCount(body.counts.bytes_stored).to_string(),
        escape(body.tags.join(",").as_bytes()),
        paths.join(", "),
    ])
}

fn to_json(repository: &Repository, snapshot: &Snapshot) -> Result<Value> {
    let body = snapshot.body.as_deref();
    let counts = body.map(|body| body.counts);
    let mut value = json!({
        "id": snapshot.id.to_string(),
        "short_id": snapshot.id.short(),
        "time": body.map(|body| time_of(body.started).to_string()),
        "finished": body.map(|body| time_of(body.finished).to_string()),
        "writer": snapshot.writer.to_string(),
        "writer_name": writer_name(repository, snapshot)?,
        "host": body.map(|body| &body.host),
        "user": body.map(|body| &body.user),
        "policy": body.and_then(|body| body.policy.as_ref()),
        "paths": body.map(|body| body.sources.iter().flat_map(|source| source.paths()).map(bytes_json).collect::<Vec<_>>()),
        "tags": body.map(|body| &body.tags),
        "outcome": body.map(outcome),
        "files": counts.map(|counts| counts.files),
        "directories": counts.map(|counts| counts.directories),
        "bytes": counts.map(|counts| counts.bytes),
        "stored_bytes": counts.map(|counts| counts.bytes_stored),
    });
    if snapshot.state == SnapshotState::Revoked {
        value["revoked"] = json!(true);
    }
    Ok(value)
}
