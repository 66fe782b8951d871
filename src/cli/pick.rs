//! The snapshot and the path that a person named, or what they may have meant.
//!
//! Owns the guesses after a slip of the fingers. Refuses to act on one.

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::screen::Screen;
use super::text::{local, time_of};
use crate::browse::near::{self, There};
use crate::names::{ObjectKey, SessionId, escape};
use crate::pack::record::Time;
use crate::repository::{
    ChunkReader, Error as RepositoryError, Marked, Repository, Selection, Snapshot, SnapshotState, Snapshots,
};

const GUESSES_MAX: usize = 3;

/// The snapshot that `text` names. One that is forgotten is what was asked for, and is told.
pub fn snapshot<'s>(
    screen: &Screen,
    snapshots: &'s Snapshots,
    text: &str,
    selection: &Selection,
) -> Result<&'s Snapshot> {
    let snapshot = named(snapshots, text, selection)?;
    if snapshot.state == SnapshotState::Forgotten {
        let id = snapshot.id.short();
        screen.warn(format!("the snapshot {id} is forgotten; `lifeboat undelete {id}` takes it back"));
    }
    Ok(snapshot)
}

/// The snapshot that `text` names, forgotten or not.
pub fn named<'s>(snapshots: &'s Snapshots, text: &str, selection: &Selection) -> Result<&'s Snapshot> {
    let error = match snapshots.find(text, selection) {
        Ok(snapshot) => return Ok(snapshot),
        Err(error) => error,
    };
    let unknown = matches!(error, RepositoryError::NoSnapshot(_)) && text != "latest";
    let failure = Failure::from(error);
    if !unknown {
        return Err(failure);
    }
    if text.starts_with(['/', '.', '~']) {
        return Err(failure.hint(format!("a path stands behind its snapshot: latest:{text}")));
    }
    let wanted = text.to_ascii_lowercase();
    let mut alike: Vec<(usize, &Snapshot)> = snapshots
        .readable
        .iter()
        .rev()
        .filter(|snapshot| !snapshot.state.is_forgotten())
        .map(|snapshot| {
            let id = snapshot.id.to_string();
            (strsim::osa_distance(&wanted, &id[..wanted.len().min(id.len())]), snapshot)
        })
        .filter(|(distance, _)| *distance <= 2 && distance * 2 < wanted.len())
        .collect();
    alike.sort_by_key(|(distance, _)| *distance);
    if alike.is_empty() {
        return Err(failure);
    }
    let guesses: Vec<String> = alike.iter().take(GUESSES_MAX).map(|(_, snapshot)| dated(snapshot)).collect();
    Err(failure.hint(format!("did you mean {}?", guesses.join(" or "))))
}

/// A snapshot that something is decided of, whether or not it can be read.
pub struct Target {
    pub session: SessionId,
    pub slot: ObjectKey,
    pub started: Option<Time>,
    pub marked: Marked,
}

impl From<&Snapshot> for Target {
    fn from(snapshot: &Snapshot) -> Self {
        let (slot, started) = (snapshot.slot.clone(), snapshot.started());
        Self { session: snapshot.session, slot, started, marked: snapshot.marked.clone() }
    }
}

/// What `texts` name, each once.
pub fn targets(snapshots: &Snapshots, texts: &[String]) -> Result<Vec<Target>> {
    let mut all: Vec<Target> = Vec::new();
    for text in texts {
        let readable = snapshots.find(text, &Selection::default());
        let target = match (readable, &snapshots.find_unreadable(text)[..]) {
            (Ok(snapshot), []) => Target::from(snapshot),
            (Err(RepositoryError::Damaged { .. }), [lost]) => Target {
                session: lost.session,
                slot: lost.slot.clone(),
                started: None,
                marked: snapshots.marks.of(lost.session),
            },
            (Ok(_) | Err(RepositoryError::Damaged { .. }), lost @ [_, ..]) => {
                return Err(RepositoryError::Ambiguous { prefix: text.clone(), count: lost.len().max(2) }.into());
            }
            _ => Target::from(named(snapshots, text, &Selection::default())?),
        };
        if all.iter().all(|known| known.session != target.session) {
            all.push(target);
        }
    }
    Ok(all)
}

/// Refuses `latest` where it is too easy a slip: it is another snapshot after each backup.
pub fn refuse_latest(texts: &[String]) -> Result<()> {
    if texts.iter().any(|text| text == "latest") {
        return Err(Failure::usage("`latest` is another snapshot after each backup, and this takes ids")
            .hint("`lifeboat snapshots --last` shows the id"));
    }
    Ok(())
}

/// `3f2a9c1b of 2026-11-22 18:00:00`.
pub fn dated(snapshot: &Snapshot) -> String {
    match snapshot.started() {
        Some(time) => format!("{} of {}", snapshot.id.short(), local(time_of(time))),
        None => snapshot.id.short(),
    }
}

/// What stands at `path`, or an error that names what is near.
pub fn there(repository: &Repository, reader: &ChunkReader<'_>, snapshot: &Snapshot, path: &[u8]) -> Result<There> {
    match near::look(repository, reader, snapshot, path)? {
        There::Nothing => Err(not_there(repository, reader, snapshot, path)),
        there => Ok(there),
    }
}

pub fn not_there(repository: &Repository, reader: &ChunkReader<'_>, snapshot: &Snapshot, path: &[u8]) -> Failure {
    let sentence = format!("{} is not in snapshot {}", escape(path), snapshot.id.short());
    let failure = Failure::new(Exit::NotFound, sentence);
    // A guess is a courtesy: what keeps it from being made is told by the command that needs the same nodes.
    let guesses = near::guesses(repository, reader, snapshot, path).unwrap_or_default();
    if !guesses.is_empty() {
        let guesses: Vec<String> = guesses.iter().map(|path| escape(path)).collect();
        return failure.hint(format!("did you mean {}?", guesses.join(" or ")));
    }
    let Some(body) = &snapshot.body else { return failure };
    let saved: Vec<String> = body.sources.iter().flat_map(|source| source.paths()).map(escape).collect();
    failure
        .hint(format!("it saved {}; `--path PATH` chooses among snapshots in which PATH was saved", saved.join(", ")))
}
