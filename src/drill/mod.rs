//! A drill: part of a snapshot is brought back into an empty place, and the answer is kept.
//!
//! Owns the sample drill: random files of a policy's latest snapshot, restored into scratch, compared with the snapshot by reading them again, scratch removed.
//! Refuses to trust the restore's own report for what it compares: content, kind, size, modification time and permission bits are read back from the disk.
//! What an unprivileged user may not set (owners, setuid, devices) is counted as outside the drill.

mod scratch;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::names::{ChunkId, SnapshotId, TreePath, escape};
use crate::pack::entry::{Content, Entry, Extent, Kind};
use crate::pack::list::{ListReader, ListSource};
use crate::pack::record::SourceKind;
use crate::pack::tree::TreeReader;
use crate::repository::{self, ChunkReader, Index, Repository, Scope, Selection, Snapshot, Snapshots};
use crate::restore;

pub use scratch::{Scratch, ScratchError};

/// What to drill.
pub struct Request<'r> {
    pub selection: Selection,
    /// How many files; fewer if the snapshot has fewer.
    pub files: usize,
    /// Where scratch directories may be made.
    pub scratch: &'r Path,
}

/// What a drill found.
#[derive(Clone, Debug)]
pub struct Findings {
    pub snapshot: SnapshotId,
    pub checked_files: u64,
    pub checked_bytes: u64,
    /// Files that did not come back as they were, one sentence each, at most `MISMATCHES_NAMED`.
    pub mismatches: Vec<String>,
    pub mismatches_count: u64,
    /// Sampled files whose comparison could not be made.
    pub not_run: u64,
    /// Owners, privileged bits and the like, which the drill's user may not set.
    pub outside: u64,
    pub seconds: f64,
}

const MISMATCHES_NAMED: usize = 100;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no recovery point yet: nothing was backed up that a drill could restore")]
    NoPoint,
    #[error(transparent)]
    Repository(#[from] repository::Error),
    #[error(transparent)]
    Restore(#[from] restore::Error),
    #[error(transparent)]
    Scratch(#[from] ScratchError),
}

/// A sampled file: its path relative to `/`, where a restore puts it, and what the snapshot says of it.
struct Sampled {
    path: TreePath,
    landed: TreePath,
    entry: Entry,
}

/// Runs a sample drill.
pub fn sample(
    repository: &Repository,
    request: &Request<'_>,
    control: &restore::Control,
) -> std::result::Result<Findings, Error> {
    let begun = std::time::Instant::now();
    repository.need_reader("a drill")?;
    let snapshots = Snapshots::list(repository)?;
    let snapshot = snapshots.latest(&request.selection).map_err(|error| match error {
        repository::Error::NoSnapshot(_) => Error::NoPoint,
        error => error.into(),
    })?;
    let index = Index::load(repository, Scope::Read, &mut |error| {
        tracing::warn!(%error, "an index object does not verify; the drill goes on without it");
    })?;
    let reader = ChunkReader::new(repository, &index, snapshot.writer)?;
    let (sampled, out_of_reach) = draw(repository, snapshot, &reader, request.files)?;
    let mut findings = Findings {
        snapshot: snapshot.id,
        checked_files: 0,
        checked_bytes: 0,
        mismatches: Vec::new(),
        mismatches_count: 0,
        not_run: out_of_reach,
        outside: 0,
        seconds: 0.0,
    };
    if sampled.is_empty() {
        findings.not_run = findings.not_run.max(1);
        return Ok(findings);
    }
    let scratch = Scratch::make(request.scratch)?;
    let wanted: BTreeSet<TreePath> = sampled.iter().map(|sampled| sampled.path.clone()).collect();
    let order = restore::Request {
        files: Some(Arc::new(wanted)),
        ..restore::Request::new(snapshot.clone(), scratch.path().to_owned())
    };
    let plan = restore::plan(repository, order, control)?;
    let report = restore::run(repository, &plan, control)?;
    findings.outside = report.omitted.values().sum::<u64>() + report.losses_count;
    for file in &sampled {
        if control.is_cancelled() {
            return Err(restore::Error::Cancelled.into());
        }
        match compare(scratch.path(), file, &reader) {
            Ok(None) => {}
            Ok(Some(difference)) => {
                findings.mismatches_count += 1;
                if findings.mismatches.len() < MISMATCHES_NAMED {
                    findings.mismatches.push(format!("/{}: {difference}", file.path));
                }
            }
            Err(error) => {
                findings.not_run += 1;
                tracing::warn!(%error, path = %file.path, "a drilled file could not be compared");
                continue;
            }
        }
        findings.checked_files += 1;
        findings.checked_bytes += file.entry.kind.size();
    }
    scratch.remove()?;
    findings.seconds = begun.elapsed().as_secs_f64();
    Ok(findings)
}

/// `count` files drawn with equal chances from all of the snapshot's (algorithm R: Vitter, ACM TOMS 1985), and how many sources and files could not be
/// drawn from, since no path of a restore leads there.
fn draw(
    repository: &Repository,
    snapshot: &Snapshot,
    reader: &ChunkReader<'_>,
    count: usize,
) -> repository::Result<(Vec<Sampled>, u64)> {
    let mut dice = Dice::new();
    let (mut drawn, mut seen, mut out_of_reach): (Vec<Sampled>, u64, u64) = (Vec::new(), 0, 0);
    for source in &snapshot.need_body(repository)?.sources {
        let name = source.name.strip_prefix(b"/").unwrap_or(&source.name);
        let Ok(base) = TreePath::from_bytes(name.to_vec()) else {
            out_of_reach += 1;
            continue;
        };
        let mut tree = TreeReader::new(reader, &source.tree());
        // The object that was drawn last and that the next entry may lie beneath.
        let mut newest: Option<(usize, TreePath)> = None;
        while let Some((entry, _)) = tree.next_entry()? {
            if let Some((place, within)) = newest.take()
                && entry.path.is_within(&within)
                && let Some(file) = drawn.get_mut(place)
            {
                file.landed = restore::landed(&file.path, true);
            }
            if !matches!(entry.kind, Kind::File { .. }) {
                continue;
            }
            seen += 1;
            let place = if drawn.len() < count { Some(drawn.len()) } else { dice.below(seen, count) };
            let Some(place) = place else { continue };
            let path = match (base.is_root(), entry.path.is_root()) {
                (true, _) => entry.path.clone(),
                (false, true) => base.clone(),
                (false, false) => {
                    let joined = [base.as_bytes(), b"/", entry.path.as_bytes()].concat();
                    match TreePath::from_bytes(joined) {
                        Ok(path) => path,
                        Err(_) => {
                            out_of_reach += 1;
                            continue;
                        }
                    }
                }
            };
            let landed = match source.kind {
                SourceKind::Bucket => {
                    newest = Some((place, entry.path.clone()));
                    restore::landed(&path, false)
                }
                SourceKind::Filesystem | SourceKind::Selection | SourceKind::Stream => path.clone(),
            };
            let sampled = Sampled { path, landed, entry };
            match drawn.get_mut(place) {
                Some(old) => *old = sampled,
                None => drawn.push(sampled),
            }
        }
    }
    Ok((drawn, out_of_reach))
}

/// A stream of fair numbers from the kernel's randomness.
struct Dice(blake3::OutputReader);

impl Dice {
    fn new() -> Self {
        Self(blake3::Hasher::new_keyed(&crate::seal::random()).finalize_xof())
    }

    /// A number below `count` with the chance `count` in `seen`, else none. The bias of the modulus is below 2^-32 for any tree.
    fn below(&mut self, seen: u64, count: usize) -> Option<usize> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % seen).ok().filter(|place| *place < count)
    }
}

/// What differs between the file on disk and the snapshot; none if nothing does.
fn compare(scratch: &Path, file: &Sampled, reader: &ChunkReader<'_>) -> std::io::Result<Option<String>> {
    let path: PathBuf = scratch.join(std::ffi::OsString::from_vec(file.landed.as_bytes().to_vec()));
    let shown = || escape(path.as_os_str().as_bytes());
    let Kind::File { size, content, .. } = &file.entry.kind else { return Ok(Some("is no file".into())) };
    let found = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Some("did not come back".into()));
        }
        found => found?,
    };
    if !found.is_file() {
        return Ok(Some(format!("{} is no regular file", shown())));
    }
    if found.len() != *size {
        return Ok(Some(format!("has {} bytes instead of {size}", found.len())));
    }
    if (found.mtime(), found.mtime_nsec()) != (file.entry.mtime.secs, i64::from(file.entry.mtime.nanos)) {
        return Ok(Some("has another modification time".into()));
    }
    if found.mode() & 0o777 != file.entry.mode & 0o777 {
        return Ok(Some(format!("has mode {:o} instead of {:o}", found.mode() & 0o777, file.entry.mode & 0o777)));
    }
    // A file that its owner may not read: its content is out of reach, which is no pass.
    let open = fs::File::open(&path)?;
    same_content(open, *size, content, reader, &|bytes| reader.ids().data(bytes))
}

/// The file has `size` bytes. Content that the snapshot lists beyond them, or not up to them, is a difference: a list that ends early would leave the rest
/// unread and pass.
fn same_content<S>(
    mut file: impl Read,
    size: u64,
    content: &Content,
    lists: &S,
    name: &dyn Fn(&[u8]) -> ChunkId,
) -> std::io::Result<Option<String>>
where
    S: ListSource,
    S::Error: std::fmt::Display,
{
    let mut extents = ListReader::new(lists, content);
    let (mut buffer, mut offset) = (Vec::new(), 0u64);
    loop {
        let extent = match extents.next_extent() {
            Ok(None) if offset == size => return Ok(None),
            Ok(Some(extent)) if extent.len() <= size - offset => extent,
            Ok(_) => return Ok(Some(format!("the snapshot lists other content than its {size} bytes"))),
            Err(error) => return Ok(Some(format!("the snapshot's list of its content is damaged: {error}"))),
        };
        let good = match extent {
            Extent::Data { id, len } => {
                buffer.resize(len as usize, 0);
                file.read_exact(&mut buffer)?;
                name(&buffer) == id
            }
            Extent::Hole { len } => is_zero(&mut file, len, &mut buffer)?,
        };
        if !good {
            return Ok(Some(format!("differs at byte {offset} or within the {} after it", extent.len())));
        }
        offset += extent.len();
    }
}

fn is_zero(file: &mut impl Read, len: u64, buffer: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut left = len;
    while left > 0 {
        let step = left.min(1 << 20) as usize;
        buffer.resize(step, 0);
        file.read_exact(buffer)?;
        if buffer.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        left -= step as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::tree::NodeError;

    struct NoLists;

    impl ListSource for NoLists {
        type Error = NodeError;
        fn list_node(&self, id: &ChunkId) -> Result<Arc<Vec<u8>>, NodeError> {
            Err(NodeError { id: *id, cause: crate::pack::wire::Malformed("there is none") })
        }
    }

    #[test]
    fn content_that_is_not_as_long_as_its_file_is_a_difference() {
        let name = |bytes: &[u8]| ChunkId(*blake3::hash(bytes).as_bytes());
        let data = |bytes: &[u8]| Extent::Data { id: name(bytes), len: bytes.len() as u32 };
        let differs = |extents: Vec<Extent>| {
            same_content(&b"abcdef"[..], 6, &Content::Extents(extents), &NoLists, &name).unwrap().is_some()
        };
        assert!(!differs(vec![data(b"abc"), data(b"def")]));
        assert!(differs(vec![data(b"abc"), data(b"def_")]));
        assert!(differs(vec![data(b"abc")]), "the last three bytes were never compared");
        assert!(differs(vec![data(b"abc"), data(b"def"), Extent::Hole { len: 9 }]));
        assert!(differs(vec![data(b"abd"), data(b"def")]));
    }
}
