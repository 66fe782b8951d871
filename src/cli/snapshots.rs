//! `lifeboat snapshots`: what can be restored.

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::screen::{Screen, output_width};
use super::select::Filter;
use super::text::{Table, bytes_json, count, cut, duration, local, plural, time_of};
use super::{Context, open};
use crate::clock::{Clock, SystemClock};
use crate::names::escape;
use crate::pack::record::{ManifestBody, Outcome, Time};
use crate::repository::{Hold, Repository, Snapshot, SnapshotState, Snapshots, Standing, Unreadable};
use crate::units::ByteCount;

const HELP: &str = "\
Size is what a snapshot holds, Stored what it added to the store, Took how
long it ran. A narrow terminal shows fewer columns; without a terminal
there are all of them, with `-` for nothing.

Unless --group-by says otherwise, snapshots of one writer and policy stand
together (those without a policy: of one writer and the same paths), and
--latest counts within such a group.

Examples:
  lifeboat snapshots --last                     the newest of each group
  lifeboat snapshots --policy web --latest 5
  lifeboat snapshots --group-by host,paths
  lifeboat snapshots --json --tag release";

#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    #[command(flatten)]
    filter: Filter,
    /// Those too that are forgotten, or committed after their writer was revoked
    #[arg(long)]
    all: bool,
    /// What those that stand together share
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    group_by: Vec<Group>,
    /// Only the newest N of each group
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// Only the newest of each group
    #[arg(long, conflicts_with = "latest")]
    last: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    Policy,
    Host,
    Paths,
    Writer,
    /// One list
    None,
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
    let mut groups = grouped(&repository, &shown, &arguments.group_by)?;
    if let Some(latest) = arguments.latest.or(arguments.last.then_some(1)) {
        groups.iter_mut().for_each(|(_, of)| drop(of.drain(..of.len().saturating_sub(latest))));
    }
    let left = |snapshot: &&Snapshot| groups.iter().any(|(_, of)| of.iter().any(|kept| kept.id == snapshot.id));
    let shown: Vec<&Snapshot> = shown.into_iter().filter(left).collect();
    if screen.json {
        let list = shown.iter().map(|snapshot| to_json(&repository, snapshot)).collect::<Result<Vec<Value>>>()?;
        screen.document(&Value::Array(list))?;
    } else {
        let width = output_width();
        // A page for people has groups where there are several; a list for a script only if it asked.
        let apart = if arguments.group_by.is_empty() { width.is_some() && groups.len() > 1 } else { groups.len() > 1 };
        if !apart {
            groups = vec![(String::new(), shown.clone())];
        }
        let named: &[Group] = match &arguments.group_by[..] {
            [] if apart => &[Group::Policy, Group::Writer],
            by => by,
        };
        show(&repository, screen, &groups, apart.then_some(named), width)?;
        screen.flush()?;
        screen.say(plural(shown.len() as u64, "snapshot", "snapshots"));
    }
    let (forgotten, revoked): (Vec<_>, Vec<_>) = hidden.into_iter().partition(|s| s.state.is_forgotten());
    for (hidden, why) in [(revoked, "committed after the writer was revoked"), (forgotten, "forgotten")] {
        if !hidden.is_empty() {
            let hidden = plural(hidden.len() as u64, "snapshot is", "snapshots are");
            screen.say(format!("{hidden} not shown: {why} (--all shows them)"));
        }
    }
    tell_doubtful(screen, &snapshots);
    let lost: Vec<&Unreadable> = match arguments.all {
        true => snapshots.unreadable.iter().collect(),
        false => snapshots.lost().collect(),
    };
    for lost in &lost {
        tell_unreadable(screen, lost);
    }
    if lost.is_empty() {
        return Ok(Exit::Done);
    }
    let lost = plural(lost.len() as u64, "snapshot", "snapshots");
    Err(Failure::new(Exit::Damage, format!("{lost} could not be read")).hint("`lifeboat verify` lists all damage"))
}

/// What those are called that a snapshot stands together with.
pub fn name_of_group(repository: &Repository, snapshot: &Snapshot) -> Result<String> {
    Ok(grouped(repository, &[snapshot], &[])?.into_iter().map(|(name, _)| name).next().unwrap_or_default())
}

/// Snapshots that stand together, each group under its name, in the order of names.
fn grouped<'s>(
    repository: &Repository,
    snapshots: &[&'s Snapshot],
    by: &[Group],
) -> Result<Vec<(String, Vec<&'s Snapshot>)>> {
    let mut groups: std::collections::BTreeMap<String, Vec<&Snapshot>> = std::collections::BTreeMap::new();
    for snapshot in snapshots {
        let body = snapshot.body.as_deref();
        let policy = body.and_then(|body| body.policy.as_deref());
        let name =
            |group: &Group| -> Result<Option<String>> {
                Ok(match group {
                    Group::Policy => Some(policy.map_or_else(
                        || "no policy".to_owned(),
                        |policy| format!("policy {}", escape(policy.as_bytes())),
                    )),
                    Group::Host => body.map(|body| format!("host {}", escape(body.host.as_bytes()))),
                    Group::Paths => body.map(paths),
                    Group::Writer => Some(format!("writer {}", escape(writer_name(repository, snapshot)?.as_bytes()))),
                    Group::None => None,
                })
            };
        let own: &[Group] = match (by, policy) {
            ([_, ..], _) => by,
            ([], Some(_)) => &[Group::Policy, Group::Writer],
            ([], None) => &[Group::Paths, Group::Writer],
        };
        let parts: Vec<Option<String>> = own.iter().map(name).collect::<Result<_>>()?;
        groups.entry(parts.into_iter().flatten().collect::<Vec<_>>().join(", ")).or_default().push(snapshot);
    }
    Ok(groups.into_iter().collect())
}

fn paths(body: &ManifestBody) -> String {
    body.sources.iter().flat_map(|source| source.paths()).map(escape).collect::<Vec<_>>().join(", ")
}

fn show(
    repository: &Repository,
    screen: &Screen,
    groups: &[(String, Vec<&Snapshot>)],
    apart: Option<&[Group]>,
    width: Option<usize>,
) -> Result<()> {
    let mut table = Table::new(&[
        "ID", "Time", "Writer", "Host", "Policy", "Outcome", ">Files", ">Size", ">Stored", ">Took", "Tags", "Decided",
        "Paths",
    ]);
    let is_decided = groups.iter().flat_map(|(_, of)| of).any(|snapshot| !decision(snapshot).is_empty());
    for snapshot in groups.iter().flat_map(|(_, of)| of) {
        let mut row = row(repository, snapshot, screen.verbose > 0)?;
        if width.is_none() {
            row.iter_mut().filter(|cell| cell.is_empty()).for_each(|cell| *cell = "-".to_owned());
        }
        table.row(row);
    }
    if !is_decided {
        table.drop_column("Decided");
    }
    if width.is_some() {
        table.drop_empty_columns();
        // What the heading says, or what says the same of all, goes first.
        let said = apart.unwrap_or_default();
        for (group, column) in [(Group::Policy, "Policy"), (Group::Writer, "Writer"), (Group::Host, "Host")] {
            if said.contains(&group) {
                table.drop_column(column);
            } else if table.is_constant(column) {
                table.fit(width, 16, &[column]);
            }
        }
        let droppable = ["Took", "Stored", "Host", "Files", "Tags", "Writer", "Policy", "Size", "Decided", "Outcome"];
        table.fit(width, 16, &droppable);
    }
    let mut lines = table.lines(width).into_iter().map(|line| width.map_or(line.clone(), |width| cut(&line, width)));
    let Some(head) = lines.next().filter(|_| groups.iter().any(|(_, of)| !of.is_empty())) else { return Ok(()) };
    screen.line(head)?;
    for (name, of) in groups {
        if apart.is_some() {
            let line = heading(name, of);
            screen.line(width.map_or(line.clone(), |width| cut(&line, width)))?;
        }
        for line in lines.by_ref().take(of.len()) {
            screen.line(line)?;
        }
    }
    Ok(())
}

/// `# policy web, writer web1: 12 snapshots, the newest 2 h 07 m ago, 3.40 GiB stored`.
fn heading(name: &str, of: &[&Snapshot]) -> String {
    let stored: u64 =
        of.iter().filter_map(|snapshot| snapshot.body.as_ref()).map(|body| body.counts.bytes_stored).sum();
    let age = of.last().and_then(|snapshot| snapshot.started()).map_or_else(String::new, |time| {
        let seconds = Timestamp::now().duration_since(time_of(time)).as_secs_f64();
        if seconds < 0.0 {
            ", the newest in the future".to_owned()
        } else {
            format!(", the newest {} ago", duration(seconds))
        }
    });
    let snapshots = plural(of.len() as u64, "snapshot", "snapshots");
    format!("# {name}: {snapshots}{age}, {} stored", ByteCount(stored))
}

/// A snapshot that is there and cannot be read: never silently left out.
pub fn tell_unreadable(screen: &Screen, lost: &Unreadable) {
    let sentence = format!("the snapshot {} cannot be read: {}", lost.session.snapshot().short(), chain(&lost.error));
    screen.warn(sentence);
}

/// Decisions that do not count.
pub fn tell_doubtful(screen: &Screen, snapshots: &Snapshots) {
    for (session, _, error) in &snapshots.marks.doubtful {
        let id = session.snapshot().short();
        screen.warn(format!("what was decided of snapshot {id} cannot be read, so it is kept: {}", chain(error)));
    }
}

pub fn chain(error: &dyn std::error::Error) -> String {
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
    let state = match snapshot.state {
        SnapshotState::Good => None,
        SnapshotState::Revoked => Some("revoked"),
        SnapshotState::Forgotten => Some("forgotten"),
        SnapshotState::Expired => Some("expired"),
    };
    let Some(body) = &snapshot.body else {
        let paths = "(another writer's: this key cannot read it)".to_owned();
        let mut row = vec![String::new(); 13];
        (row[0], row[2], row[5], row[11], row[12]) =
            (id, writer, state.unwrap_or_default().to_owned(), decision(snapshot), paths);
        return Ok(row);
    };
    let problems = body.counts.unreadable + body.counts.changed;
    let mut outcome = match (state, problems) {
        (Some(state), _) => state.to_owned(),
        (None, 0) => outcome(body).to_owned(),
        (None, problems) => format!("{} ({})", outcome(body), count(problems)),
    };
    if held(snapshot).is_some() {
        outcome.push_str(", held");
    }
    Ok(vec![
        id,
        local(time_of(body.started)),
        escape(writer.as_bytes()),
        escape(body.host.as_bytes()),
        body.policy.as_deref().map_or_else(String::new, |policy| escape(policy.as_bytes())),
        outcome,
        count(body.counts.files),
        ByteCount(body.counts.bytes).to_string(),
        ByteCount(body.counts.bytes_stored).to_string(),
        duration(seconds(body)),
        escape(body.tags.join(",").as_bytes()),
        decision(snapshot),
        paths(body),
    ])
}

/// The hold that keeps it now.
fn held(snapshot: &Snapshot) -> Option<&Hold> {
    snapshot.marked.hold(now())
}

pub fn now() -> Time {
    let now = SystemClock.now();
    Time { secs: now.secs, nanos: now.nanos }
}

/// Since when it is forgotten and why, or why it is held and until when.
fn decision(snapshot: &Snapshot) -> String {
    let reason = |text: &str| escape(text.as_bytes());
    match &snapshot.marked.standing {
        Standing::Forgotten { at, reason: why } => format!("{}: {}", local(time_of(*at)), reason(why)),
        Standing::Expired => String::new(),
        Standing::Kept => held(snapshot).map_or_else(String::new, |hold| {
            let until = hold.until.map_or_else(String::new, |until| format!("until {}: ", local(time_of(until))));
            format!("{until}{}", reason(&hold.reason))
        }),
    }
}

/// How long a run took, by its own clock; nothing if that was set back meanwhile.
fn seconds(body: &ManifestBody) -> f64 {
    time_of(body.finished).duration_since(time_of(body.started)).as_secs_f64().max(0.0)
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
        "new_bytes": counts.map(|counts| counts.bytes_new),
        "problems_count": counts.map(|counts| counts.unreadable + counts.changed),
        "seconds": body.map(seconds),
    });
    if snapshot.revoked {
        value["revoked"] = json!(true);
    }
    if snapshot.state.is_forgotten() {
        value["forgotten"] = json!(true);
    }
    match &snapshot.marked.standing {
        Standing::Kept => {}
        Standing::Forgotten { at, reason } => {
            value["forgotten_at"] = json!(time_of(*at).to_string());
            value["forgotten_reason"] = json!(reason);
        }
        Standing::Expired => value["expired"] = json!(true),
    }
    if let Some(hold) = held(snapshot) {
        value["held"] = json!(true);
        value["held_reason"] = json!(hold.reason);
        value["held_until"] = json!(hold.until.map(|until| time_of(until).to_string()));
    }
    Ok(value)
}
