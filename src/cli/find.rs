//! `lifeboat find`: which snapshots hold a file, and in which versions.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use jiff::Zoned;
use serde_json::json;

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::screen::{Screen, output_width};
use super::select::Filter;
use super::text::{count, cut, local, plural, time_of, time_of_entry};
use super::{Context, interrupt, ls, moment, open, pick};
use crate::browse::find::{self, Match, Pattern, Query, Version};
use crate::browse::{Damage, Error};
use crate::names::escape;
use crate::pack::entry::{Kind, Timestamp};
use crate::repository::{Repository, Selection, Snapshot, SnapshotState, Snapshots};
use crate::units::ByteCount;

const HELP: &str = "\
Under each path stand its versions, the newest first: the newest snapshot
that holds it, its time, size and time of the file, and how many snapshots
right before that one hold the same. --path PATH looks beneath PATH only.

Patterns:
  fstab, *.conf        names, wherever they are
  nginx/*.conf         the end of a path
  /etc/**/*.conf       a whole path; ** passes any directories

Examples:
  lifeboat find fstab
  lifeboat find '*.conf' --path /etc --newer 30d
  lifeboat find 'report*' -i --type f --larger 1MiB --policy office
  lifeboat find id_rsa --snapshot 3f2a9c1b --json";

#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// What to look for; whatever fits one of them
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// Capital letters are the same as small ones
    #[arg(short, long)]
    ignore_case: bool,
    /// Only this type; given again, these
    #[arg(long = "type", value_name = "TYPE")]
    kinds: Vec<Type>,
    /// Only what was changed after TIME: 2026-11-22, "2026-11-22 18:00", or 3d for three days ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    newer: Option<Timestamp>,
    /// Only what was changed before TIME
    #[arg(long, value_name = "TIME", value_parser = time)]
    older: Option<Timestamp>,
    /// Only files with more bytes than SIZE, such as 10MiB
    #[arg(long, value_name = "SIZE")]
    larger: Option<ByteCount>,
    /// Only files with fewer bytes than SIZE
    #[arg(long, value_name = "SIZE")]
    smaller: Option<ByteCount>,
    /// Look in this snapshot: an id or `latest`; given again, in these [default: all]
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Vec<String>,
    /// Mode and owner too
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    /// Files
    #[value(name = "f")]
    File,
    /// Directories
    #[value(name = "d")]
    Directory,
    /// Symbolic links
    #[value(name = "l")]
    Symlink,
    /// FIFOs
    #[value(name = "p")]
    Fifo,
    /// Sockets
    #[value(name = "s")]
    Socket,
    /// Character devices
    #[value(name = "c")]
    Char,
    /// Block devices
    #[value(name = "b")]
    Block,
}

fn time(text: &str) -> std::result::Result<Timestamp, String> {
    moment::parse(text, &Zoned::now())
}

impl Arguments {
    fn query(&self, selection: &Selection) -> Result<Query> {
        let pattern = |text: &String| {
            Pattern::new(text, self.ignore_case).map_err(|error| {
                let sentence = format!("the pattern {text:?} cannot be read: {}", error.kind());
                Failure::usage(sentence).hint("a backslash takes the meaning from *, ?, [ and {")
            })
        };
        let letter = |kind: &Type| kind.to_possible_value().and_then(|value| value.get_name().chars().next());
        Ok(Query {
            patterns: self.patterns.iter().map(pattern).collect::<Result<_>>()?,
            kinds: self.kinds.iter().filter_map(letter).collect(),
            newer: self.newer,
            older: self.older,
            larger: self.larger.map(|size| size.0),
            smaller: self.smaller.map(|size| size.0),
            beneath: selection.path.clone(),
        })
    }

    fn chosen<'s>(
        &self,
        screen: &Screen,
        snapshots: &'s Snapshots,
        selection: &Selection,
    ) -> Result<Vec<&'s Snapshot>> {
        if self.snapshot.is_empty() {
            let good = |snapshot: &&Snapshot| {
                snapshot.state == SnapshotState::Good
                    && snapshot.body.is_some()
                    && (self.filter.is_empty() || selection.fits(snapshot))
            };
            return Ok(snapshots.readable.iter().filter(good).collect());
        }
        let named = self.snapshot.iter().map(|text| pick::snapshot(screen, snapshots, text, selection));
        let named = named.collect::<Result<Vec<_>>>()?;
        // In the order of their commits, each once.
        let chosen = |snapshot: &&Snapshot| {
            named.iter().any(|named| named.id == snapshot.id) && (self.filter.is_empty() || selection.fits(snapshot))
        };
        Ok(snapshots.readable.iter().filter(chosen).collect())
    }
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    let repository = open::repository(globals, screen)?;
    let selection = arguments.filter.selection(&repository)?;
    let query = arguments.query(&selection)?;
    let cancel = Arc::new(AtomicBool::new(false));
    interrupt::watch(cancel.clone())?;
    let snapshots = Snapshots::list(&repository)?;
    let chosen = arguments.chosen(screen, &snapshots, &selection)?;
    let index = ls::load_index(&repository, screen)?;
    let mut by_writer: Vec<Vec<&Snapshot>> = Vec::new();
    for snapshot in chosen.iter().rev() {
        snapshot.need_body(&repository)?;
        match by_writer.iter_mut().find(|of| of[0].writer == snapshot.writer) {
            Some(of) => of.push(snapshot),
            None => by_writer.push(vec![snapshot]),
        }
    }
    let mut listing = Listing {
        screen,
        repository: &repository,
        long: arguments.long,
        width: output_width(),
        several: by_writer.len() > 1,
        snapshots: &[],
        told_writer: false,
        found: 0,
        damaged: 0,
        failed: None,
    };
    let mut nodes = 0;
    for of_writer in &by_writer {
        listing.snapshots = of_writer;
        listing.told_writer = false;
        nodes += find::find(&repository, &index, of_writer, &query, &mut listing, &cancel)?;
        if let Some(failure) = listing.failed.take() {
            return Err(failure);
        }
        if screen.is_closed() {
            break;
        }
    }
    if screen.json {
        screen.raw(if listing.found == 0 { "[]\n" } else { "\n]\n" })?;
    }
    screen.flush()?;
    screen.say(format!(
        "{} in {}; {} read",
        plural(listing.found, "path", "paths"),
        plural(chosen.len() as u64, "snapshot", "snapshots"),
        plural(nodes, "tree node", "tree nodes"),
    ));
    let unreadable = if arguments.snapshot.is_empty() { snapshots.unreadable.len() as u64 } else { 0 };
    verdict(listing.damaged, unreadable)
}

/// What could not be looked through is never silently left out.
fn verdict(damaged: u64, unreadable: u64) -> Result<Exit> {
    if damaged == 0 && unreadable == 0 {
        return Ok(Exit::Done);
    }
    let mut parts = Vec::new();
    if damaged > 0 {
        parts.push(plural(damaged, "part of a tree", "parts of trees"));
    }
    if unreadable > 0 {
        parts.push(plural(unreadable, "snapshot", "snapshots"));
    }
    Err(Failure::new(Exit::Damage, format!("{} could not be read: there may be more", parts.join(" and ")))
        .hint("`lifeboat verify` lists all damage"))
}

/// Tells of part of a tree that cannot be read.
pub fn tell_damage(screen: &Screen, damage: &Damage) {
    let cause = super::snapshots::chain(&damage.error);
    screen.warn(format!("something at or behind {} cannot be read: {cause}", escape(&damage.after)));
}

struct Listing<'a> {
    screen: &'a Screen,
    repository: &'a Repository,
    long: bool,
    width: Option<usize>,
    several: bool,
    snapshots: &'a [&'a Snapshot],
    told_writer: bool,
    found: u64,
    damaged: u64,
    failed: Option<Failure>,
}

impl find::Listen for Listing<'_> {
    fn found(&mut self, found: Match) -> ControlFlow<()> {
        self.found += 1;
        let shown = if self.screen.json { self.json(&found) } else { self.lines(&found) };
        self.failed = shown.err();
        if self.failed.is_some() || self.screen.is_closed() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn damage(&mut self, damage: Damage) {
        self.damaged += 1;
        tell_damage(self.screen, &damage);
    }
}

impl Listing<'_> {
    fn lines(&mut self, found: &Match) -> Result<()> {
        let screen = self.screen;
        if self.found == 1 && self.width.is_some() && !screen.quiet {
            let id = if screen.verbose > 0 { 32 } else { 8 };
            let mode = if self.long { format!("{:<29}", "Mode") } else { String::new() };
            let (snapshot, saved, size, modified) = ("Snapshot", "Saved", "Size", "Modified");
            let head = format!("  {snapshot:<id$}  {saved:<16}  {mode}{size:>9}  {modified:<16}  Also in");
            screen.line(self.width.map_or(head.clone(), |width| cut(&head, width)))?;
        }
        if !std::mem::replace(&mut self.told_writer, true) && self.several {
            let host = self.snapshots[0].body.as_ref().map_or_else(String::new, |body| escape(body.host.as_bytes()));
            let name = self.repository.writer(self.snapshots[0].writer)?.name.clone();
            let blank = if self.found > 1 { "\n" } else { "" };
            screen.line(format!("{blank}# writer {}, host {host}", escape(name.as_bytes())))?;
        }
        screen.line(escape(&found.path))?;
        for version in &found.versions {
            let line = self.version(version);
            screen.line(self.width.map_or_else(|| line.clone(), |width| cut(&line, width)))?;
        }
        Ok(())
    }

    fn version(&self, version: &Version) -> String {
        let of = |place: Option<&usize>| place.map(|place| self.snapshots[*place]);
        let id = |snapshot: &Snapshot| match self.screen.verbose {
            0 => snapshot.id.short(),
            _ => snapshot.id.to_string(),
        };
        let newest = of(version.snapshots.first()).map_or_else(String::new, |snapshot| {
            let time = snapshot.started().map_or_else(String::new, |time| local(time_of(time)));
            format!("{}  {time:.16}", id(snapshot))
        });
        let entry = &version.entry;
        let size = match &entry.kind {
            Kind::File { size, .. } => ByteCount(*size).to_string(),
            kind => word(kind).to_owned(),
        };
        let mode = if self.long { format!("{} {:<16}  ", ls::mode(entry), ls::owners(entry)) } else { String::new() };
        let more = match (version.snapshots.len(), of(version.snapshots.last())) {
            (0 | 1, _) | (_, None) => String::new(),
            (all, Some(oldest)) => format!("  +{} from {}", count(all as u64 - 1), id(oldest)),
        };
        format!("  {newest}  {mode}{size:>9}  {:.16}{more}", local(time_of_entry(entry.mtime)))
    }

    fn json(&self, found: &Match) -> Result<()> {
        let id = |place: &usize| self.snapshots[*place].id.to_string();
        let time = |place: Option<&usize>| {
            place.and_then(|place| self.snapshots[*place].started()).map(|time| time_of(time).to_string())
        };
        let versions: Vec<_> = found
            .versions
            .iter()
            .map(|version| {
                let mut value = ls::to_json(&found.path, &version.entry);
                if let Some(fields) = value.as_object_mut() {
                    fields.remove("path");
                }
                value["snapshots"] = version.snapshots.iter().map(id).collect();
                value["newest_time"] = json!(time(version.snapshots.first()));
                value["oldest_time"] = json!(time(version.snapshots.last()));
                value
            })
            .collect();
        let writer = self.snapshots[0].writer;
        let value = json!({
            "path": super::text::bytes_json(&found.path),
            "writer": writer.to_string(),
            "writer_name": self.repository.writer(writer)?.name,
            "versions": versions,
        });
        self.screen.raw(if self.found == 1 { "[\n" } else { ",\n" })?;
        self.screen.raw(&value.to_string())
    }
}

/// What an entry is, in the width of a size.
pub fn word(kind: &Kind) -> &'static str {
    match kind {
        Kind::File { .. } => "file",
        Kind::Directory => "directory",
        Kind::Symlink { .. } => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice { .. } | Kind::BlockDevice { .. } => "device",
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Repository(error) => error.into(),
            Error::NotFound { .. } => Failure::new(Exit::NotFound, error),
            Error::SourceName { .. } => Failure::new(Exit::Damage, error),
            Error::Cancelled => Failure::new(Exit::Interrupted, error),
            Error::Scratch { .. } => Failure::new(Exit::Failed, error).hint("TMPDIR names another directory"),
            Error::Output { .. } | Error::Worker => Failure::new(Exit::Failed, error),
        }
    }
}
