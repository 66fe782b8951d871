//! `lifeboat stats`: how much was saved, and in how little.

use serde_json::json;

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::text::count;
use super::{Context, ls, memory, open};
use crate::names::ChunkId;
use crate::pack::keys::{self, Meaning};
use crate::repository::{Error as RepositoryError, Index, Snapshots};
use crate::units::ByteCount;

pub fn run(context: &Context) -> Result<Exit> {
    let Context { globals, screen } = context;
    let repository = open::repository(globals, screen)?;
    let snapshots = Snapshots::list(&repository)?;
    let bodies: Vec<_> = snapshots.readable.iter().filter_map(|snapshot| snapshot.body.as_ref()).collect();
    let logical: u64 = bodies.iter().map(|body| body.counts.bytes).sum();
    let files: u64 = bodies.iter().map(|body| body.counts.files).sum();
    let index = ls::load_index(&repository, screen)?;
    let (chunks, unique) = unique(&index)?;
    let (mut objects, mut packs, mut stored) = (0u64, 0u64, 0u64);
    for listed in repository.store.list("")? {
        objects += 1;
        stored += listed.size;
        packs += u64::from(matches!(keys::parse(&listed.key), Some(Meaning::Pack(..))));
    }
    let mode = memory::recall(repository.id);
    if mode == Some("single-writer") {
        screen.warn("this store can serve only one writer at a time");
    }
    if screen.json {
        screen.document(&json!({
            "repository": repository.id.to_string(),
            "url": repository.store.url(),
            "store_mode": mode,
            "snapshots": snapshots.readable.len(),
            "unreadable_snapshots": snapshots.unreadable.len(),
            "files": files,
            "logical_bytes": logical,
            "unique_bytes": unique,
            "stored_bytes": stored,
            "objects": objects,
            "packs": packs,
            "chunks": chunks,
        }))?;
    } else {
        let ratio =
            |part: u64| if stored == 0 { String::new() } else { format!("{:.1} x", part as f64 / stored as f64) };
        let lines = [
            ("repository", format!("{} at {}", repository.id, repository.store.url())),
            ("store mode", mode.unwrap_or("not known to this host: it has not written here").to_owned()),
            ("snapshots", count(snapshots.readable.len() as u64)),
            ("files in all of them", count(files)),
            ("bytes in all of them", format!("{}  ({} of what is stored)", ByteCount(logical), ratio(logical))),
            ("different bytes", format!("{}  in {} chunks, tree included", ByteCount(unique), count(chunks))),
            ("stored", format!("{}  in {} objects, {} of them packs", ByteCount(stored), count(objects), count(packs))),
        ];
        for (name, value) in lines {
            screen.line(format!("{name:<21} {value}"))?;
        }
    }
    if !snapshots.unreadable.is_empty() {
        let lost = snapshots.unreadable.len();
        return Err(Failure::new(Exit::Damage, format!("{lost} of the snapshots cannot be read and are not counted"))
            .hint("`lifeboat snapshots` names them"));
    }
    Ok(Exit::Done)
}

/// Different chunks, and the sum of their plaintext. The runs are read side by side in the order of ids, so that memory holds
/// one block of each and nothing else.
fn unique(index: &Index) -> Result<(u64, u64)> {
    let broken = |error: crate::pack::run::RunError<RepositoryError>| match error {
        crate::pack::run::RunError::Read(error) => Failure::from(error),
        error => Failure::new(Exit::Damage, error),
    };
    let mut runs: Vec<_> = index.runs().iter().map(|run| run.iter().peekable()).collect();
    let (mut chunks, mut bytes) = (0, 0);
    loop {
        let mut lowest: Option<ChunkId> = None;
        for run in &mut runs {
            match run.peek() {
                Some(Ok(entry)) if lowest.is_none_or(|id| entry.id < id) => lowest = Some(entry.id),
                Some(Err(_)) => {
                    if let Some(Err(error)) = run.next() {
                        return Err(broken(error));
                    }
                }
                _ => {}
            }
        }
        let Some(id) = lowest else { return Ok((chunks, bytes)) };
        let mut len = 0;
        for run in &mut runs {
            while let Some(Ok(entry)) = run.next_if(|entry| matches!(entry, Ok(entry) if entry.id == id)) {
                len = entry.len;
            }
        }
        chunks += 1;
        bytes += u64::from(len);
    }
}
