//! From a request to what is read: one intake for each source.
//!
//! Owns the refusal of requests that cannot be met, before anything is stored. Refuses to read: a walk is opened here, and a stream not even that.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minicbor::bytes::ByteVec;

use super::{Error, Request, Result, StreamRequest};
use crate::address::Address;
use crate::bucket::Bucket;
use crate::names::{TreePath, escape};
use crate::repository::Repository;
use crate::source::bucket::{Listing, need_tags, source_name};
use crate::source::exclude::Excludes;
use crate::source::listed::Listed;
use crate::source::walk::{Walk, WalkOptions};

/// Paths by which a manifest tells what was selected.
const SELECTED_MAX: usize = 8;

pub enum Intake {
    Walk(Box<Walk>),
    Bucket(Bucket, Box<Excludes>),
    Stream(Box<StreamRequest>),
}

/// The directory that the repository lies in, if it is one of this machine: to save it into itself would never end.
pub struct OwnStore {
    path: PathBuf,
    identity: (u64, u64),
}

impl OwnStore {
    pub fn of(repository: &Repository) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let address = Address::parse(repository.store.url()).ok()?;
        let path = address.directory()?.canonicalize().ok()?;
        let stat = path.metadata().ok()?;
        Some(Self { path, identity: (stat.dev(), stat.ino()) })
    }

    /// `root` has no links in it. Refuses one that is a part of the store. A note where the store is a part of what is saved.
    fn beneath(&self, root: &Path) -> Result<Option<String>> {
        if root.starts_with(&self.path) {
            return Err(Error::InRepository { path: escape(root.as_os_str().as_bytes()) });
        }
        let told = || format!("the repository itself is left out: {}", escape(self.path.as_os_str().as_bytes()));
        Ok(self.path.starts_with(root).then(told))
    }
}

/// One for each of `Request::sources`, in that order; and what is worth a note.
pub fn intakes(request: &Request, store: Option<&OwnStore>) -> Result<(Vec<Intake>, Vec<String>)> {
    let mut notes = Vec::new();
    let roots = request.listed.as_ref().unwrap_or(&request.paths);
    for root in roots.iter().filter(|_| request.stream.is_none()) {
        // Listed paths come resolved, and may be a million.
        let resolved = match request.listed {
            Some(_) => root.clone(),
            None => root.canonicalize().unwrap_or_else(|_| root.clone()),
        };
        notes.extend(store.map(|store| store.beneath(&resolved)).transpose()?.flatten());
    }
    Ok((open(request, store)?, notes))
}

fn open(request: &Request, store: Option<&OwnStore>) -> Result<Vec<Intake>> {
    if let Some(stream) = &request.stream {
        return Ok(vec![Intake::Stream(Box::new(stream.clone()))]);
    }
    let walk = |path: &Path, listed: Option<Arc<Listed>>| -> Result<Intake> {
        let options = WalkOptions {
            excludes: Excludes::new(path, &request.excludes, &request.exclude_files)?,
            one_file_system: request.one_file_system,
            exclude_caches: request.exclude_caches,
            listed,
            closed: store.map(|store| store.identity),
        };
        Ok(Intake::Walk(Box::new(Walk::new(path, options)?)))
    };
    if let Some(listed) = listed(request) {
        if listed.is_empty() {
            return Err(Error::NoPath);
        }
        listed.must_exist()?;
        return Ok(vec![walk(Path::new("/"), Some(Arc::new(listed)))?]);
    }
    check_names(&request.sources().into_iter().map(|(name, _)| name).collect::<Vec<_>>())?;
    let mut intakes = request.paths.iter().map(|path| walk(path, None)).collect::<Result<Vec<_>>>()?;
    for bucket in &request.buckets {
        let name = source_name(bucket);
        let excludes = Excludes::new(Path::new(OsStr::from_bytes(&name)), &request.excludes, &request.exclude_files)?;
        if request.object_tags {
            need_tags(bucket)?;
        }
        Listing::probe(bucket)?;
        intakes.push(Intake::Bucket(bucket.clone(), Box::new(excludes)));
    }
    Ok(intakes)
}

/// What a manifest tells of a selection.
pub fn selected(request: &Request) -> Option<Vec<ByteVec>> {
    let paths = listed(request)?.abbreviated(SELECTED_MAX);
    Some(paths.iter().map(|path| ByteVec::from([b"/", path.as_bytes()].concat())).collect())
}

fn listed(request: &Request) -> Option<Listed> {
    let tree = |path: &PathBuf| {
        let bytes = path.as_os_str().as_bytes();
        TreePath::from_bytes(bytes.strip_prefix(b"/").unwrap_or(bytes).to_vec()).ok()
    };
    Some(Listed::new(request.listed.as_ref()?.iter().filter_map(tree).collect()))
}

fn check_names(names: &[Vec<u8>]) -> Result<()> {
    if names.is_empty() {
        return Err(Error::NoPath);
    }
    let path = |name: &Vec<u8>| PathBuf::from(OsStr::from_bytes(name));
    for (at, inner) in names.iter().enumerate() {
        for (other, outer) in names.iter().enumerate() {
            if at != other && path(inner).starts_with(path(outer)) && (inner != outer || at > other) {
                return Err(Error::Nested { inner: escape(inner), outer: escape(outer) });
            }
        }
    }
    Ok(())
}
