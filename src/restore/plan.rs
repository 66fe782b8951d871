//! Decides what a restore will do, and changes nothing.
//!
//! Owns the look at the target, the sums, the check of space, and the marker by which a later restore knows this one again. The list of files is read
//! to its end here, so damage in it is known before anything is written. `run` executes the very value that a dry run prints.

use std::fmt;
use std::path::{Path, PathBuf};

use super::content::{Indexes, Stored};
use super::filter::Filter;
use super::select::{Picked, Selection, Step};
use super::{Control, Error, Overwrite, Request, Result, told};
use crate::address::Address;
use crate::names::{escape, hex};
use crate::pack::entry::{Content, Entry, Extent, Kind};
use crate::pack::list::ListReader;
use crate::pack::record::SourceKind;
use crate::repository::{Index, Repository, Scope};
use crate::target::{OwnerBy, State, Target, TargetOptions};
use crate::units::ByteCount;

/// What stands in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing.
    Empty,
    /// This very restore, unfinished.
    Continued,
    /// Something else, which may be overwritten.
    Over,
}

/// Sums over what the snapshot holds of what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub files: u64,
    pub directories: u64,
    /// Links, fifos, sockets, devices.
    pub others: u64,
    /// Sum of the sizes of files, a file with several names counted for each.
    pub bytes: u64,
    /// Bytes and files that the target must take beside what stands there.
    pub bytes_needed: u64,
    pub inodes_needed: u64,
}

/// What a restore will do. Reading it to a person is a dry run.
pub struct Plan {
    pub request: Request,
    pub start: Start,
    pub totals: Totals,
    /// Index objects that do not verify, and gaps in the list of files: one sentence each, at most `NAMED_MAX`.
    pub warnings: Vec<String>,
    /// Gaps in the list of files.
    pub gaps: u64,
    pub(super) marker: Vec<u8>,
    pub(super) indexes: Indexes,
    pub(super) selection: Selection,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (request, totals) = (&self.request, &self.totals);
        let path = escape(request.path.as_deref().unwrap_or(b"/"));
        writeln!(f, "restore {}:{path} to {}", request.snapshot.id.short(), request.to.display())?;
        let some = |number: u64, one: &str, many: &str| format!("{number} {}", if number == 1 { one } else { many });
        write!(f, "{}, ", some(totals.files, "file", "files"))?;
        write!(f, "{}", some(totals.directories, "directory", "directories"))?;
        if totals.others > 0 {
            write!(f, ", {}", some(totals.others, "other", "others"))?;
        }
        writeln!(f, ": {}", ByteCount(totals.bytes))?;
        match self.start {
            Start::Empty => writeln!(f, "the target is empty")?,
            Start::Continued => writeln!(f, "an interrupted restore is continued")?,
            Start::Over => writeln!(f, "the target holds files: --overwrite {}", request.overwrite.as_str())?,
        }
        for (word, patterns) in [("only", &request.include), ("without", &request.exclude)] {
            let files = patterns.files.iter().map(|file| format!("what {} says", file.display()));
            let all: Vec<String> = patterns.given.iter().cloned().chain(files).collect();
            if !all.is_empty() {
                writeln!(f, "{word} {}", all.join(", "))?;
            }
        }
        if request.delete {
            writeln!(f, "what the snapshot lacks is deleted")?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

/// Decides how `request` can be met. Reads only.
pub fn plan(repository: &Repository, request: Request, control: &Control) -> Result<Plan> {
    let body = request.snapshot.need_body(repository)?.clone();
    repository.need_reader("restoring content")?;
    if request.delete && request.overwrite == Overwrite::Never {
        return Err(Error::DeleteWithoutOverwrite);
    }
    if request.delete && (request.files.is_some() || !request.include.is_empty() || !request.exclude.is_empty()) {
        return Err(Error::DeletePartial);
    }
    if request.delete && body.sources.iter().any(|source| source.kind == SourceKind::Selection) {
        return Err(Error::DeleteSelection);
    }
    refuse_own_store(repository, &request.to)?;
    let filter = Filter::new(request.path.as_deref(), &request.include, &request.exclude)?;
    let marker = marker(&request, &filter);
    let (target, start) = look(&request, &marker)?;
    let mut warnings = Vec::new();
    let index = Index::load(repository, Scope::Read, &mut |error| note(&mut warnings, told(&error)))?;
    let indexes = Indexes::new(index);
    let stored = Stored::new(repository, &indexes, request.snapshot.writer)?;
    let selection = Selection::new(&body, request.path.as_deref(), request.files.clone(), filter, &stored)?;
    let mut sums = Sums { stored: &stored, target: target.as_ref().filter(|_| start != Start::Empty), exact: false };
    let (mut totals, gaps) = sums.add_up(&selection, control, Some(&mut warnings))?;
    if totals.files + totals.others == 0 && gaps == 0 && request.files.is_some() {
        return Err(Error::NoFiles);
    }
    let chooses = !request.include.is_empty() || !request.exclude.is_empty();
    if chooses && totals.files + totals.directories + totals.others == 0 && gaps == 0 {
        return Err(Error::NoMatch { path: request.path });
    }
    if request.delete && gaps > 0 {
        return Err(Error::DeleteBlind);
    }
    let (bytes, inodes) = room(&request.to)?;
    if totals.bytes_needed > bytes {
        // Long lists of extents were taken for files without holes: now they are read.
        sums.exact = true;
        totals.bytes_needed = sums.add_up(&selection, control, None)?.0.bytes_needed;
    }
    if totals.bytes_needed > bytes {
        return Err(Error::Space { to: request.to, needed: totals.bytes_needed, available: bytes });
    }
    if let Some(available) = inodes.filter(|available| totals.inodes_needed > *available) {
        return Err(Error::Inodes { to: request.to, needed: totals.inodes_needed, available });
    }
    drop(stored);
    Ok(Plan { request, start, totals, warnings, gaps, marker, indexes, selection })
}

pub(super) fn note(warnings: &mut Vec<String>, sentence: String) {
    if warnings.len() < super::NAMED_MAX {
        warnings.push(sentence);
    }
}

/// Adds up what a selection asks of the target.
struct Sums<'a, 's> {
    stored: &'a Stored<'s>,
    /// A target that holds something: what stands there need not be made.
    target: Option<&'a Target>,
    /// Read long lists of extents to know their holes.
    exact: bool,
}

impl Sums<'_, '_> {
    fn add_up(
        &self,
        selection: &Selection,
        control: &Control,
        mut warnings: Option<&mut Vec<String>>,
    ) -> Result<(Totals, u64)> {
        let (mut totals, mut gaps) = (Totals::default(), 0);
        let mut groups = std::collections::HashSet::new();
        let mut walk = selection.walk(self.stored);
        loop {
            control.go_on()?;
            let picked = match walk.next()? {
                Step::End => return Ok((totals, gaps)),
                Step::Damage { after, error } => {
                    gaps += 1;
                    if let Some(warnings) = &mut warnings {
                        note(warnings, format!("some files after {after} cannot be known: {error}"));
                    }
                    continue;
                }
                Step::Entry(picked) => picked,
            };
            let Picked { entry, part, .. } = *picked;
            match &entry.kind {
                Kind::File { size, .. } => {
                    totals.files += 1;
                    totals.bytes = totals.bytes.saturating_add(*size);
                }
                Kind::Directory => totals.directories += 1,
                _ => totals.others += 1,
            }
            let another_name = entry.link_group.is_some_and(|group| !groups.insert((part, group)));
            if !another_name {
                self.add_need(&mut totals, &entry)?;
            }
        }
    }

    fn add_need(&self, totals: &mut Totals, entry: &Entry) -> Result<()> {
        let stands = match self.target {
            Some(target) => target.stat(&entry.path)?,
            None => None,
        };
        if stands.is_none() {
            totals.inodes_needed += 1;
        }
        let taken = stands.map_or(0, |stat| stat.allocated);
        let needed = self.data_bytes(&entry.kind)?.saturating_sub(taken);
        totals.bytes_needed = totals.bytes_needed.saturating_add(needed);
        Ok(())
    }

    fn data_bytes(&self, kind: &Kind) -> Result<u64> {
        let data = |extent: &Extent| match extent {
            Extent::Data { len, .. } => u64::from(*len),
            Extent::Hole { .. } => 0,
        };
        match kind {
            Kind::File { content: Content::Extents(extents), .. } => Ok(extents.iter().map(data).sum()),
            Kind::File { size, .. } if !self.exact => Ok(*size),
            Kind::File { size, content, .. } => {
                let (mut reader, mut sum) = (ListReader::new(self.stored, content), 0u64);
                loop {
                    match reader.next_extent() {
                        Ok(Some(extent)) => sum = sum.saturating_add(data(&extent)),
                        Ok(None) => return Ok(sum.min(*size)),
                        Err(error) if super::content::is_local(&error) => return Ok(sum.min(*size)),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            _ => Ok(0),
        }
    }
}

/// Which restore this is: whatever changes what comes to stand in the target is in it.
fn marker(request: &Request, filter: &Filter) -> Vec<u8> {
    let owner = match request.owner {
        OwnerBy::Number => "number",
        OwnerBy::Name => "name",
    };
    let files = match &request.files {
        None => "all".to_owned(),
        Some(files) => {
            let mut hasher = blake3::Hasher::new();
            for file in files.iter() {
                hasher.update(file.as_bytes());
                hasher.update(&[0]);
            }
            hasher.finalize().to_hex().to_string()
        }
    };
    format!(
        "lifeboat restore 2\nsnapshot {}\npath {}\noverwrite {}\ndelete {}\nprivileged {}\nowner {owner}\nfiles {files}\n\
         patterns {}\nowners {}\n",
        request.snapshot.id,
        escape(request.path.as_deref().unwrap_or(b"/")),
        request.overwrite.as_str(),
        request.delete,
        request.privileged,
        hex(&filter.fingerprint()),
        blake3::hash(format!("{:?}", request.owners).as_bytes()).to_hex(),
    )
    .into_bytes()
}

/// The target, made if it is absent.
pub(super) fn open(request: &Request) -> Result<Target> {
    let options = TargetOptions { privileged: request.privileged, owner: request.owner };
    Ok(Target::open(&request.to, options)?.with_owners(request.owners.clone()))
}

/// Opens the target if it exists, and tells what it holds.
fn look(request: &Request, marker: &[u8]) -> Result<(Option<Target>, Start)> {
    match std::fs::metadata(&request.to) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok((None, Start::Empty)),
        Err(cause) => return Err(Error::Look { path: request.to.clone(), cause }),
        Ok(_) => {}
    }
    let target = open(request)?;
    let start = start(&target, request, marker)?;
    Ok((Some(target), start))
}

/// What a restore meets in `target`, or why it must not begin.
pub(super) fn start(target: &Target, request: &Request, marker: &[u8]) -> Result<Start> {
    match target.state()? {
        State::Empty => Ok(Start::Empty),
        State::Interrupted { marker: theirs } if theirs == marker => Ok(Start::Continued),
        State::Interrupted { marker: theirs } => Err(crate::target::TargetError::OtherRestore {
            target: request.to.clone(),
            theirs,
            ours: marker.to_owned(),
        }
        .into()),
        State::Foreign { example } if request.overwrite == Overwrite::Never => {
            Err(Error::NotEmpty { to: request.to.clone(), example })
        }
        State::Foreign { .. } => Ok(Start::Over),
    }
}

/// The nearest directory at or above `path` that exists, resolved, and what of `path` does not.
fn existing(path: &Path) -> Result<(PathBuf, PathBuf)> {
    let whole = std::path::absolute(path).map_err(|cause| Error::Look { path: path.to_owned(), cause })?;
    for above in whole.ancestors() {
        match above.canonicalize() {
            Ok(resolved) => {
                let rest = whole.strip_prefix(above).unwrap_or(Path::new("")).to_owned();
                return Ok((resolved, rest));
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return Err(Error::Look { path: above.to_owned(), cause }),
        }
    }
    Ok((PathBuf::from("/"), PathBuf::new()))
}

/// A restore into the repository would mix files with objects.
fn refuse_own_store(repository: &Repository, to: &Path) -> Result<()> {
    let url = repository.store.url();
    if !url.starts_with("file:") {
        return Ok(());
    }
    let Ok(address) = Address::parse(url) else { return Ok(()) };
    let Some(Ok(store)) = address.directory().map(Path::canonicalize) else { return Ok(()) };
    let (resolved, rest) = existing(to)?;
    if resolved.join(rest).starts_with(&store) {
        return Err(Error::InRepository { to: to.to_owned() });
    }
    Ok(())
}

/// Bytes, and files if they are limited, that the file system of the target has left.
fn room(to: &Path) -> Result<(u64, Option<u64>)> {
    let (resolved, _) = existing(to)?;
    let space = rustix::fs::statvfs(&resolved).map_err(|errno| Error::Look { path: resolved, cause: errno.into() })?;
    let bytes = space.f_bavail.saturating_mul(space.f_frsize);
    Ok((bytes, (space.f_files > 0).then_some(space.f_favail)))
}
