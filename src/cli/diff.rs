//! `lifeboat diff`: what changed from one snapshot to another, or in one file.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde_json::{Value, json};

use super::dump::Out;
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::place::{self, Place};
use super::screen::{Screen, output_width};
use super::select::Latest;
use super::text::{bytes_json, count, plural};
use super::{Context, find, interrupt, ls, open, pick};
use crate::browse::compare::{self, Change, Count, Side, Summary, What};
use crate::browse::near::There;
use crate::browse::text::{self, Difference};
use crate::browse::{Damage, content};
use crate::names::{TreePath, escape};
use crate::pack::entry::{Entry, Kind};
use crate::repository::{ChunkReader, Repository, Snapshot, SnapshotState, Snapshots};
use crate::units::ByteCount;

const HELP: &str = "\
Letters:
  +  only in NEW
  -  only in OLD
  M  other content
  ?  other content, though size, times and inode are the same: a disk
     that fails, or something that hides its traces
  U  other mode, owner, time or extended attributes, named in brackets
  T  another type

A directory of which only the time differs is counted and not listed;
-v lists it.

With one snapshot, it is compared with the one before it of the same
writer, policy and paths. If both places are files, or with --content,
the change of the file is shown line by line, as `diff -u` does; `patch`
can apply it.

Ends with 0 whether or not there are differences; with --exit-code, 1 if
there are.

Examples:
  lifeboat diff latest                  what the last backup brought
  lifeboat diff 3f2a9c1b latest
  lifeboat diff 3f2a9c1b:/etc latest:/etc --summary
  lifeboat diff 3f2a9c1b latest --content /etc/fstab
  lifeboat diff 3f2a9c1b:/srv/www latest:/srv/www-new";

#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Before: `latest` or an id, and perhaps a path in it
    #[arg(value_name = "OLD[:PATH]")]
    old: OsString,
    /// After, in the same form
    #[arg(value_name = "NEW[:PATH]")]
    new: Option<OsString>,
    /// Show the change of this file
    #[arg(long, value_name = "PATH")]
    content: Option<OsString>,
    /// Only the totals
    #[arg(long, conflicts_with = "content")]
    summary: bool,
    /// End with 1 if there are differences
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    latest: Latest,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    let mut places = vec![Place::parse(&arguments.old)?];
    places.extend(arguments.new.as_deref().map(Place::parse).transpose()?);
    if let Some(path) = &arguments.content {
        let path = place::absolute(path)?;
        for place in &mut places {
            if place.path.is_some() {
                return Err(Failure::usage("--content names the file already: give snapshots without a path"));
            }
            place.path = Some(path.clone());
        }
    }
    let repository = open::repository(globals, screen)?;
    let names: Vec<&str> = places.iter().map(|place| place.snapshot.as_str()).collect();
    let selection = arguments.latest.of_several(&repository, &names)?;
    let cancel = Arc::new(AtomicBool::new(false));
    interrupt::watch(cancel.clone())?;
    let snapshots = Snapshots::list(&repository)?;
    let mut chosen =
        names.iter().map(|name| pick::snapshot(screen, &snapshots, name, &selection)).collect::<Result<Vec<_>>>()?;
    if let [only] = chosen[..] {
        chosen.insert(0, before(&snapshots, only, &repository)?);
        places.insert(0, places[0].clone());
    }
    let index = ls::load_index(&repository, screen)?;
    let readers = [
        ChunkReader::new(&repository, &index, chosen[0].writer)?,
        ChunkReader::new(&repository, &index, chosen[1].writer)?,
    ];
    let side = |at: usize| Side {
        snapshot: chosen[at],
        reader: &readers[at],
        path: places[at].path.as_deref().unwrap_or(b"/"),
    };
    let (old, new) = (side(0), side(1));
    let there = |side: Side<'_>| match side.path {
        b"/" => Ok(There::Above),
        path => pick::there(&repository, side.reader, side.snapshot, path),
    };
    let found = match (&arguments.content, there(old), there(new)) {
        // A file that one of the two does not hold has come or gone.
        (Some(_), Ok(old), Err(error)) if error.exit == Exit::NotFound => (old, There::Nothing),
        (Some(_), Err(error), Ok(new)) if error.exit == Exit::NotFound => (There::Nothing, new),
        (_, old, new) => (old?, new?),
    };
    let differs = match (file(&found.0), file(&found.1)) {
        (Some(a), Some(b)) => of_a_file(context, &repository, (old, Some(a)), (new, Some(b)))?,
        (Some(a), None) if matches!(found.1, There::Nothing) => {
            of_a_file(context, &repository, (old, Some(a)), (new, None))?
        }
        (None, Some(b)) if matches!(found.0, There::Nothing) => {
            of_a_file(context, &repository, (old, None), (new, Some(b)))?
        }
        _ if arguments.content.is_some() => {
            let path = escape(places[0].path.as_deref().unwrap_or(b"/"));
            return Err(Failure::usage(format!("{path} is not a file in both snapshots")).hint(format!(
                "without --content: lifeboat diff {}:{path} {}:{path}",
                chosen[0].id.short(),
                chosen[1].id.short()
            )));
        }
        _ => of_trees(context, &repository, arguments, old, new, &cancel)?,
    };
    Ok(if differs && arguments.exit_code { Exit::Failed } else { Exit::Done })
}

fn file(there: &There) -> Option<&Entry> {
    match there {
        There::Entry(entry) if matches!(entry.kind, Kind::File { .. }) => Some(entry),
        _ => None,
    }
}

/// The newest snapshot before `snapshot` that saved the same.
fn before<'s>(snapshots: &'s Snapshots, snapshot: &Snapshot, repository: &Repository) -> Result<&'s Snapshot> {
    let body = snapshot.need_body(repository)?;
    let earlier = snapshots.readable.iter().rev().skip_while(|other| other.id != snapshot.id).skip(1);
    let names = |snapshot: &Snapshot| -> Vec<Vec<u8>> {
        let body = snapshot.body.iter();
        body.flat_map(|body| body.sources.iter().map(|source| source.name.to_vec())).collect()
    };
    let same = |other: &&Snapshot| {
        other.writer == snapshot.writer
            && other.state == SnapshotState::Good
            && other.body.as_ref().is_some_and(|other| other.policy == body.policy)
            && names(other) == names(snapshot)
    };
    earlier.into_iter().find(same).ok_or_else(|| {
        let sentence = format!("no snapshot before {} saved the same paths", snapshot.id.short());
        Failure::new(Exit::NotFound, sentence).hint("name two: `lifeboat snapshots` lists them")
    })
}

fn of_trees(
    context: &Context,
    repository: &Repository,
    arguments: &Arguments,
    old: Side<'_>,
    new: Side<'_>,
    cancel: &AtomicBool,
) -> Result<bool> {
    let screen = &context.screen;
    let mut listing =
        Listing { screen, quiet: arguments.summary, old: old.path, new: new.path, shown: 0, damaged: 0, failed: None };
    if screen.json {
        // The changes come as they are found, so the object is written piece by piece.
        let head = sides_json((old, Some(old.path)), (new, Some(new.path))).to_string();
        screen.raw(&format!("{},\"changes\":[", head.trim_end_matches('}')))?;
    }
    let summary = compare::compare(repository, old, new, &mut listing, cancel)?;
    if let Some(failure) = listing.failed {
        return Err(failure);
    }
    if screen.json {
        let end = if listing.shown == 0 { "" } else { "\n" };
        screen.raw(&format!("{end}],\"summary\":{}}}\n", summary_json(&summary)))?;
    } else if !screen.is_closed() {
        if listing.shown > 0 {
            screen.line("")?;
        }
        totals(screen, old, new, &summary)?;
    }
    if listing.damaged > 0 {
        let parts = plural(listing.damaged, "part of a tree", "parts of trees");
        let sentence = format!("{parts} could not be read: there may be more differences");
        return Err(Failure::new(Exit::Damage, sentence).hint("`lifeboat verify` lists all damage"));
    }
    Ok(!summary.is_nothing())
}

fn totals(screen: &Screen, old: Side<'_>, new: Side<'_>, summary: &Summary) -> Result<()> {
    let name = |side: Side<'_>| match side.path {
        b"/" => side.snapshot.id.short(),
        path => format!("{}:{}", side.snapshot.id.short(), escape(path)),
    };
    screen.line(format!("from {} to {}", name(old), name(new)))?;
    if summary.is_nothing() {
        return screen.line("no differences");
    }
    for (word, count) in [("added", summary.added), ("removed", summary.removed)] {
        if count.all() > 0 {
            screen.line(format!("{word:<9} {}", counted(count)))?;
        }
    }
    if summary.modified > 0 {
        screen.line(format!(
            "modified  {}: {} became {}",
            plural(summary.modified, "file", "files"),
            ByteCount(summary.modified_bytes_before),
            ByteCount(summary.modified_bytes_after),
        ))?;
    }
    if summary.silent > 0 {
        screen.line(format!("          {} of them without a trace in size, times or inode", count(summary.silent)))?;
    }
    let hidden = if screen.verbose > 0 { 0 } else { summary.directory_times };
    if summary.metadata > 0 {
        let more = match hidden {
            0 => String::new(),
            hidden => format!(", {} only by a directory's time (-v shows them)", count(hidden)),
        };
        screen.line(format!("metadata  {}{more}", plural(summary.metadata, "entry", "entries")))?;
    }
    if summary.types > 0 {
        screen.line(format!("type      {}", plural(summary.types, "entry", "entries")))?;
    }
    Ok(())
}

fn counted(count: Count) -> String {
    let mut parts = Vec::new();
    for (number, one, many) in [
        (count.files, "file", "files"),
        (count.directories, "directory", "directories"),
        (count.others, "other", "others"),
    ] {
        if number > 0 {
            parts.push(plural(number, one, many));
        }
    }
    format!("{}: {}", parts.join(", "), ByteCount(count.bytes))
}

/// The two places, as both documents begin; without a path there is nothing on that side.
fn sides_json(old: (Side<'_>, Option<&[u8]>), new: (Side<'_>, Option<&[u8]>)) -> Value {
    json!({
        "old": old.0.snapshot.id.to_string(),
        "old_path": old.1.map(bytes_json),
        "new": new.0.snapshot.id.to_string(),
        "new_path": new.1.map(bytes_json),
    })
}

fn summary_json(summary: &Summary) -> Value {
    let count = |count: Count| {
        json!({
            "files": count.files, "directories": count.directories, "others": count.others, "bytes": count.bytes,
        })
    };
    json!({
        "added": count(summary.added),
        "removed": count(summary.removed),
        "modified": summary.modified,
        "modified_bytes_before": summary.modified_bytes_before,
        "modified_bytes_after": summary.modified_bytes_after,
        "silent": summary.silent,
        "metadata": summary.metadata,
        "directory_times": summary.directory_times,
        "types": summary.types,
    })
}

struct Listing<'a> {
    screen: &'a Screen,
    quiet: bool,
    old: &'a [u8],
    new: &'a [u8],
    shown: u64,
    damaged: u64,
    failed: Option<Failure>,
}

impl compare::Listen for Listing<'_> {
    fn change(&mut self, change: Change) -> ControlFlow<()> {
        self.failed = self.show(&change).err();
        if self.failed.is_some() || self.screen.is_closed() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn damage(&mut self, damage: Damage) {
        self.damaged += 1;
        find::tell_damage(self.screen, &damage);
    }
}

impl Listing<'_> {
    fn show(&mut self, change: &Change) -> Result<()> {
        let place = |side: &[u8], path: &TreePath| place::join(side, path);
        let (letter, path, detail) = match change {
            Change::Added(entry) => ('+', place(self.new, &entry.path), of_one(entry)),
            Change::Removed(entry) => ('-', place(self.old, &entry.path), of_one(entry)),
            Change::Changed(both, what) => {
                let only_time = both.1.kind.is_directory() && what.is_time_only();
                if only_time && self.screen.verbose == 0 && !self.screen.json {
                    return Ok(());
                }
                (what.letter(), place(self.new, &both.1.path), of_two(&both.0, &both.1, *what))
            }
        };
        if self.quiet {
            return Ok(());
        }
        self.shown += 1;
        if !self.screen.json {
            return self.screen.line(format!("{letter}  {}{detail}", escape(&path)));
        }
        let entry = |entry: &Entry| {
            let mut value = ls::to_json(&path, entry);
            if let Some(fields) = value.as_object_mut() {
                fields.remove("path");
            }
            value
        };
        let (word, old, new, differs) = match change {
            Change::Added(new) => ("added", None, Some(entry(new)), vec![]),
            Change::Removed(old) => ("removed", Some(entry(old)), None, vec![]),
            Change::Changed(both, what) => {
                let word = match what.letter() {
                    'T' => "type",
                    'U' => "metadata",
                    _ => "modified",
                };
                (word, Some(entry(&both.0)), Some(entry(&both.1)), what.words())
            }
        };
        let mut value = json!({
            "path": bytes_json(&path),
            "change": word,
            "letter": letter.to_string(),
            "differs": differs,
            "old": old,
            "new": new,
        });
        if self.old != self.new {
            let inner = match change {
                Change::Added(entry) | Change::Removed(entry) => &entry.path,
                Change::Changed(both, _) => &both.1.path,
            };
            value["relative_path"] = bytes_json(inner.as_bytes());
        }
        self.screen.raw(if self.shown == 1 { "\n" } else { ",\n" })?;
        self.screen.raw(&value.to_string())
    }
}

fn of_one(entry: &Entry) -> String {
    match &entry.kind {
        Kind::File { size, .. } => format!("  {}", ByteCount(*size)),
        Kind::Directory => "/".to_owned(),
        Kind::Symlink { target } => format!(" -> {}", escape(target)),
        kind => format!("  {}", find::word(kind)),
    }
}

fn of_two(old: &Entry, new: &Entry, what: What) -> String {
    if what.kind {
        return format!("  {} -> {}", find::word(&old.kind), find::word(&new.kind));
    }
    let mut parts = Vec::new();
    match (&old.kind, &new.kind) {
        (Kind::File { size, .. }, Kind::File { size: new, .. }) if what.content && size == new => {
            parts.push(format!("{}, same size", ByteCount(*size)));
        }
        (Kind::File { size, .. }, Kind::File { size: new, .. }) if what.content => {
            parts.push(format!("{} -> {}", ByteCount(*size), ByteCount(*new)));
        }
        (Kind::Symlink { target }, Kind::Symlink { target: new }) if what.content => {
            parts.push(format!("-> {}, was {}", escape(new), escape(target)));
        }
        _ => {}
    }
    if what.mode {
        parts.push(format!("mode {:04o} -> {:04o}", old.mode, new.mode));
    }
    if what.owner {
        parts.push(format!("owner {} -> {}", ls::owners(old), ls::owners(new)));
    }
    let others = [(what.xattrs, "xattrs"), (what.device, "device"), (what.mtime && !what.content, "time")];
    parts.extend(others.into_iter().filter(|(differs, _)| *differs).map(|(_, word)| word.to_owned()));
    if what.content && parts.len() == 1 {
        return format!("  {}", parts[0]);
    }
    format!("  ({})", parts.join("; "))
}

/// The change of one file; none on a side: the file is not there. Returns whether there is one.
fn of_a_file(
    context: &Context,
    repository: &Repository,
    old: (Side<'_>, Option<&Entry>),
    new: (Side<'_>, Option<&Entry>),
) -> Result<bool> {
    repository.need_reader("comparing content")?;
    let screen = &context.screen;
    let nothing = crate::pack::entry::Content::Extents(Vec::new());
    let size = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.kind.size());
    let content_of = |entry: Option<&Entry>| match entry.map(|entry| &entry.kind) {
        Some(Kind::File { content, .. }) => content.clone(),
        _ => nothing.clone(),
    };
    let (old_content, new_content) = (content_of(old.1), content_of(new.1));
    let sizes = (size(old.1), size(new.1));
    let difference = text::difference(
        (content::Side { reader: old.0.reader, content: &old_content }, sizes.0),
        (content::Side { reader: new.0.reader, content: &new_content }, sizes.1),
    )?;
    let name = |(side, entry): (Side<'_>, Option<&Entry>)| match entry {
        Some(_) => format!("{}:{}", side.snapshot.id.short(), escape(side.path)),
        None => "/dev/null".to_owned(),
    };
    let differs = difference != Difference::None || old.1.is_some() != new.1.is_some();
    if screen.json {
        let (old_path, new_path) = (old.1.map(|_| old.0.path), new.1.map(|_| new.0.path));
        let mut document = sides_json((old.0, old_path), (new.0, new_path));
        document["old_size"] = json!(old.1.map(|_| sizes.0));
        document["new_size"] = json!(new.1.map(|_| sizes.1));
        difference_json(&mut document, &difference);
        return screen.document(&document).map(|()| differs);
    }
    match &difference {
        Difference::None if differs => screen.line(format!("{} and {} differ: an empty file", name(old), name(new)))?,
        Difference::None => screen.say("the content is the same"),
        Difference::Binary { at } | Difference::Long { at } => {
            let why = if matches!(difference, Difference::Binary { .. }) { "no text" } else { "too long for lines" };
            screen.line(format!("{} and {} differ: {why}", name(old), name(new)))?;
            let size = |size: u64| format!("{} bytes ({})", count(size), ByteCount(size));
            screen.line(format!("{} -> {}", size(sizes.0), size(sizes.1)))?;
            screen.line(format!("the first difference is at byte {}", count(*at)))?;
        }
        Difference::Lines(_) => {
            let shown = lines(&difference, output_width().is_some());
            let head = format!("--- {}\n+++ {}\n", name(old), name(new));
            screen.flush()?;
            Out::standard()?.write(&[head.as_bytes(), &shown].concat())?;
        }
    }
    Ok(differs)
}

/// Hunks as text. For a terminal without what would steer it.
fn lines(difference: &Difference, terminal: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let Difference::Lines(lines) = difference else { return out };
    for line in lines {
        if line.sign != '@' {
            out.push(line.sign as u8);
        }
        if terminal {
            let text = String::from_utf8_lossy(&line.text);
            let safe: String = text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
            out.extend_from_slice(safe.as_bytes());
        } else {
            out.extend_from_slice(&line.text);
        }
        out.push(b'\n');
    }
    out
}

fn difference_json(document: &mut Value, difference: &Difference) {
    let (word, at) = match difference {
        Difference::None => ("same", None),
        Difference::Lines(_) => ("text", None),
        Difference::Binary { at } => ("binary", Some(*at)),
        Difference::Long { at } => ("long", Some(*at)),
    };
    let text = lines(difference, false);
    document["content"] = json!(word);
    document["first_difference"] = json!(at);
    document["lines"] = json!((word == "text").then(|| bytes_json(&text)));
}
