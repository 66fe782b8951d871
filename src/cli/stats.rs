//! `lifeboat stats`: how much was saved, in how little, and for whom.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::screen::{Screen, output_width};
use super::text::{Table, count, local, plural, time_of};
use super::{Context, find, interrupt, ls, memory, open};
use crate::browse::tally::{self, Share, Shares, Totals};
use crate::names::escape;
use crate::repository::{Index, Repository, Snapshot, SnapshotState, Snapshots};
use crate::units::ByteCount;

const HELP: &str = "\
Words:
  logical    bytes of all files in all snapshots, as if each were a copy
  different  bytes after deduplication, before compression
  stored     bytes of all objects, with trees and index
  unique     stored bytes that no other line needs: what would be free
             without it
  share      stored bytes, each divided evenly among those that need it

Trees and index are read, and no file's content. With --by, every tree is.
Forgotten snapshots are stored as the others as long as they can be taken
back: they are counted, and with --by they have a line of their own.

Examples:
  lifeboat stats
  lifeboat stats --by policy
  lifeboat stats --by host --json";

#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Divide what is stored
    #[arg(long, value_name = "WHAT")]
    by: Option<By>,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Policy,
    Writer,
    Host,
    Snapshot,
}

impl By {
    fn word(self) -> &'static str {
        match self {
            By::Policy => "policy",
            By::Writer => "writer",
            By::Host => "host",
            By::Snapshot => "snapshot",
        }
    }
}

/// What all snapshots say of themselves.
#[derive(Clone, Copy, Default)]
struct Logical {
    snapshots: u64,
    /// Of these.
    forgotten: u64,
    files: u64,
    bytes: u64,
}

impl Logical {
    fn add(&mut self, snapshot: &Snapshot) {
        let Some(body) = &snapshot.body else { return };
        self.snapshots += 1;
        self.forgotten += u64::from(snapshot.state.is_forgotten());
        self.files += body.counts.files;
        self.bytes = self.bytes.saturating_add(body.counts.bytes);
    }
}

/// One line of the breakdown.
struct Holder {
    name: String,
    id: Option<String>,
    logical: Logical,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    let repository = open::repository(globals, screen)?;
    let cancel = Arc::new(AtomicBool::new(false));
    interrupt::watch(cancel.clone())?;
    let snapshots = Snapshots::list(&repository)?;
    let mut logical = Logical::default();
    // Of one that is forgotten for good nobody knows what is left.
    let whole = |snapshot: &&Snapshot| snapshot.state != SnapshotState::Expired;
    let counted: Vec<&Snapshot> = snapshots.readable.iter().filter(whole).collect();
    counted.iter().for_each(|snapshot| logical.add(snapshot));
    let index = ls::load_index(&repository, screen)?;
    let totals = tally::totals(&repository, &index)?;
    if repository.access.reader.is_none() {
        screen.warn("this key sees the chunks of its own group only, and the packs of all");
    }
    let mode = memory::recall(repository.id);
    if mode == Some("single-writer") {
        screen.warn("this store can serve only one writer at a time");
    }
    let mut damaged = 0;
    let shares = match arguments.by {
        None => None,
        Some(by) => Some((by, divide(&repository, &index, &counted, by, screen, &cancel, &mut damaged)?)),
    };
    if screen.json {
        let lost = snapshots.lost().count();
        let mut document = document(&repository, counted.len(), lost, logical, &totals, mode);
        if let Some((by, (holders, shares))) = &shares {
            document["by"] = json!(by.word());
            document["shares"] =
                holders.iter().zip(&shares.of).map(|(holder, share)| share_json(holder, share)).collect();
            document["unheld_bytes"] = json!(shares.unheld_bytes);
            document["unheld_stored_bytes"] = json!(shares.unheld_stored_bytes);
        }
        screen.document(&document)?;
    } else {
        lines(screen, &repository, logical, &totals, mode)?;
        if let Some((by, (holders, shares))) = &shares {
            screen.line("")?;
            table(screen, *by, holders, shares)?;
        }
    }
    let lost = snapshots.lost().count() as u64;
    if lost > 0 || damaged > 0 {
        let what = if lost > 0 {
            plural(lost, "snapshot", "snapshots")
        } else {
            plural(damaged, "part of a tree", "parts of trees")
        };
        return Err(Failure::new(Exit::Damage, format!("{what} could not be read, and what they hold is not counted"))
            .hint("`lifeboat snapshots` and `lifeboat verify` name them"));
    }
    Ok(Exit::Done)
}

fn ratio(of: u64, to: u64) -> Option<f64> {
    (to > 0).then(|| (of as f64 / to as f64 * 100.0).round() / 100.0)
}

fn document(
    repository: &Repository,
    snapshots: usize,
    unreadable: usize,
    logical: Logical,
    totals: &Totals,
    mode: Option<&'static str>,
) -> Value {
    let sort = |sort: tally::Sort| {
        json!({
            "packs": sort.packs, "pack_bytes": sort.pack_bytes, "frames": sort.frames,
            "chunks": sort.chunks, "different_bytes": sort.bytes,
        })
    };
    let (content, metadata) = (totals.content, totals.metadata);
    json!({
        "repository": repository.id.to_string(),
        "url": repository.store.url(),
        "store_mode": mode,
        "snapshots": snapshots,
        "forgotten_snapshots": logical.forgotten,
        "unreadable_snapshots": unreadable,
        "files": logical.files,
        "logical_bytes": logical.bytes,
        "different_bytes": content.bytes + metadata.bytes,
        "stored_bytes": totals.stored_bytes,
        "objects": totals.objects,
        "packs": content.packs + metadata.packs,
        "frames": content.frames + metadata.frames,
        "chunks": content.chunks + metadata.chunks,
        "content": sort(content),
        "metadata": sort(metadata),
        "dedup_ratio": ratio(logical.bytes, content.bytes),
        "compression_ratio": ratio(content.bytes, content.pack_bytes),
        "total_ratio": ratio(logical.bytes, totals.stored_bytes),
    })
}

fn share_json(holder: &Holder, share: &Share) -> Value {
    json!({
        "name": holder.name,
        "id": holder.id,
        "snapshots": holder.logical.snapshots,
        "files": holder.logical.files,
        "logical_bytes": holder.logical.bytes,
        "different_bytes": share.held_bytes,
        "unique_bytes": share.unique_bytes,
        "unique_stored_bytes": share.unique_stored_bytes,
        "stored_share_bytes": share.stored_share_bytes,
    })
}

fn lines(
    screen: &Screen,
    repository: &Repository,
    logical: Logical,
    totals: &Totals,
    mode: Option<&'static str>,
) -> Result<()> {
    let times = |of, to| ratio(of, to).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2} x"));
    let size = |bytes| ByteCount(bytes).to_string();
    let (content, metadata) = (totals.content, totals.metadata);
    let forgotten = match logical.forgotten {
        0 => String::new(),
        forgotten => format!("; {} of them forgotten", count(forgotten)),
    };
    let rest = totals.stored_bytes.saturating_sub(content.pack_bytes + metadata.pack_bytes);
    let lines = [
        ("repository", format!("{} at {}", repository.id, repository.store.url())),
        ("store mode", mode.unwrap_or("not known to this host: it has not written here").to_owned()),
        ("snapshots", format!("{} with {} files{forgotten}", count(logical.snapshots), count(logical.files))),
        ("logical", format!("{:>9}  all files of all snapshots", size(logical.bytes))),
        (
            "different",
            format!(
                "{:>9}  in {} chunks; deduplication {}",
                size(content.bytes),
                count(content.chunks),
                times(logical.bytes, content.bytes)
            ),
        ),
        (
            "packed",
            format!(
                "{:>9}  in {} and {}; compression {}",
                size(content.pack_bytes),
                plural(content.frames, "frame", "frames"),
                plural(content.packs, "pack", "packs"),
                times(content.bytes, content.pack_bytes)
            ),
        ),
        ("trees", format!("{:>9}  in {}", size(metadata.pack_bytes), plural(metadata.packs, "pack", "packs"))),
        ("index and records", format!("{:>9}", size(rest))),
        (
            "stored",
            format!(
                "{:>9}  in {}; altogether {}",
                size(totals.stored_bytes),
                plural(totals.objects, "object", "objects"),
                times(logical.bytes, totals.stored_bytes)
            ),
        ),
    ];
    for (name, value) in lines {
        screen.line(format!("{name:<18} {value}"))?;
    }
    Ok(())
}

/// Who holds what. Of snapshots that this key cannot read nothing is known, and that is said.
fn divide(
    repository: &Repository,
    index: &Index,
    snapshots: &[&Snapshot],
    by: By,
    screen: &Screen,
    cancel: &AtomicBool,
    damaged: &mut u64,
) -> Result<(Vec<Holder>, Shares)> {
    let mut holders: Vec<Holder> = Vec::new();
    let mut numbered: Vec<(&Snapshot, usize)> = Vec::new();
    let mut closed = 0;
    for &snapshot in snapshots {
        let Some(body) = &snapshot.body else {
            closed += 1;
            continue;
        };
        let text = |text: &str| escape(text.as_bytes());
        let is_forgotten = snapshot.state.is_forgotten();
        let (name, id) = match by {
            By::Policy | By::Writer | By::Host if is_forgotten => ("(forgotten)".to_owned(), None),
            By::Policy => (body.policy.as_deref().map_or_else(|| "(none)".to_owned(), text), body.policy.clone()),
            By::Writer => (text(&repository.writer(snapshot.writer)?.name), Some(snapshot.writer.to_string())),
            By::Host => (text(&body.host), Some(body.host.clone())),
            By::Snapshot => {
                let state = match snapshot.state {
                    SnapshotState::Good => "",
                    SnapshotState::Revoked => "  revoked",
                    SnapshotState::Forgotten | SnapshotState::Expired => "  forgotten",
                };
                let name = format!("{}  {}{state}", snapshot.id.short(), local(time_of(body.started)));
                (name, Some(snapshot.id.to_string()))
            }
        };
        let number = match holders.iter().position(|holder| (&holder.id, &holder.name) == (&id, &name)) {
            Some(number) => number,
            None => {
                holders.push(Holder { name, id, logical: Logical::default() });
                holders.len() - 1
            }
        };
        holders[number].logical.add(snapshot);
        numbered.push((snapshot, number));
    }
    if closed > 0 {
        let closed = plural(closed, "snapshot", "snapshots");
        screen.warn(format!("{closed} of other writers are not in the table: this key cannot read them"));
    }
    let mut tell = |damage| {
        *damaged += 1;
        find::tell_damage(screen, &damage);
    };
    let shares = tally::shares(repository, index, &numbered, holders.len(), &std::env::temp_dir(), &mut tell, cancel)?;
    Ok((holders, shares))
}

fn table(screen: &Screen, by: By, holders: &[Holder], shares: &Shares) -> Result<()> {
    let name = match by {
        By::Policy => "Policy",
        By::Writer => "Writer",
        By::Host => "Host",
        By::Snapshot => "Snapshot",
    };
    let mut table = Table::new(&[">Snapshots", ">Files", ">Logical", ">Different", ">Unique", ">Share", name]);
    let size = |bytes| ByteCount(bytes).to_string();
    for (holder, share) in holders.iter().zip(&shares.of) {
        table.row(vec![
            count(holder.logical.snapshots),
            count(holder.logical.files),
            size(holder.logical.bytes),
            size(share.held_bytes),
            size(share.unique_stored_bytes),
            size(share.stored_share_bytes),
            holder.name.clone(),
        ]);
    }
    if shares.unheld_bytes > 0 {
        let stored = size(shares.unheld_stored_bytes);
        let mut row = vec![String::new(); 7];
        (row[3], row[4], row[5]) = (size(shares.unheld_bytes), stored.clone(), stored);
        row[6] = "(no snapshot)".to_owned();
        table.row(row);
    }
    if matches!(by, By::Snapshot) {
        table.drop_column("Snapshots");
    }
    table.fit(output_width(), 20, &["Files", "Snapshots", "Different"]);
    for line in table.lines(output_width()) {
        screen.line(line)?;
    }
    Ok(())
}
