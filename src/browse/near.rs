//! What stands at a path of a snapshot, and what stands near a path that is not there.
//!
//! Owns the look at one place, and the guess at what was meant. Reads the nodes on the way and of one directory, no more.

use super::{Result, joined, sources, under_root};
use crate::names::TreePath;
use crate::pack::entry::Entry;
use crate::pack::tree::TreeReader;
use crate::repository::{ChunkReader, Repository, Snapshot};

/// Names of a directory that are looked at for a guess.
const NAMES_MAX: usize = 2000;
const GUESSES_MAX: usize = 3;

#[derive(Debug)]
pub enum There {
    /// Its path is the one under `/`.
    Entry(Box<Entry>),
    /// A directory above what was saved.
    Above,
    Nothing,
}

/// What stands at an absolute path.
pub fn look(repository: &Repository, reader: &ChunkReader<'_>, snapshot: &Snapshot, path: &[u8]) -> Result<There> {
    let Some(path) = under_root(path) else { return Ok(There::Nothing) };
    let mut above = false;
    for (name, source) in sources(snapshot.need_body(repository)?, &snapshot.id.short())? {
        let Some(inner) = path.relative_to(&name) else {
            above |= name.is_within(&path);
            continue;
        };
        let entry = TreeReader::starting_at(reader, &source.tree(), &inner)?.next_entry()?;
        return Ok(match entry {
            Some((entry, _)) if entry.path == inner => There::Entry(Box::new(Entry { path, ..entry })),
            _ => There::Nothing,
        });
    }
    Ok(if above { There::Above } else { There::Nothing })
}

/// Absolute paths that whoever asked for `path` may have meant, the likeliest first: those in the deepest directory on the way whose names are alike.
pub fn guesses(
    repository: &Repository,
    reader: &ChunkReader<'_>,
    snapshot: &Snapshot,
    path: &[u8],
) -> Result<Vec<Vec<u8>>> {
    let Some(wanted) = under_root(path) else { return Ok(Vec::new()) };
    let mut directory = wanted.parent().unwrap_or_default();
    let mut missing = wanted.clone();
    loop {
        match look(repository, reader, snapshot, &super::absolute(&directory))? {
            There::Nothing if !directory.is_root() => {
                missing = directory.clone();
                directory = directory.parent().unwrap_or_default();
            }
            There::Entry(entry) if !entry.kind.is_directory() => return Ok(vec![super::absolute(&directory)]),
            _ => break,
        }
    }
    let mut alike: Vec<(f64, TreePath)> = names(repository, reader, snapshot, &directory)?
        .into_iter()
        .filter_map(|path| {
            let (name, meant) = (lower(path.file_name()), lower(missing.file_name()));
            let score = strsim::jaro_winkler(&name, &meant);
            (score > 0.75).then_some((score, path))
        })
        .collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(alike.into_iter().take(GUESSES_MAX).map(|(_, path)| super::absolute(&path)).collect())
}

fn lower(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_lowercase()
}

/// The paths right beneath a directory under `/`, at most `NAMES_MAX`: of a source, or on the way to one.
fn names(
    repository: &Repository,
    reader: &ChunkReader<'_>,
    snapshot: &Snapshot,
    directory: &TreePath,
) -> Result<Vec<TreePath>> {
    let mut names = Vec::new();
    for (name, source) in sources(snapshot.need_body(repository)?, &snapshot.id.short())? {
        if let Some(way) = name.relative_to(directory).filter(|way| !way.is_root()) {
            let first = way.parts().next().map(<[u8]>::to_vec).unwrap_or_default();
            names.extend(TreePath::from_bytes(first).ok().map(|first| joined(directory, &first)));
            continue;
        }
        let Some(inner) = directory.relative_to(&name) else { continue };
        let root = source.tree();
        let mut tree = TreeReader::starting_at(reader, &root, &inner)?;
        while let Some((entry, _)) = tree.next_entry()? {
            if !entry.path.is_within(&inner) || names.len() >= NAMES_MAX {
                break;
            }
            if entry.path == inner {
                continue;
            }
            names.push(joined(&name, &entry.path));
            if let Some(after) = entry.path.after_all_beneath().filter(|_| entry.kind.is_directory()) {
                tree = TreeReader::starting_at(reader, &root, &after)?;
            }
        }
    }
    Ok(names)
}
