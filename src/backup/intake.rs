//! From a request to what is read: one intake for each source.
//!
//! Owns the refusal of requests that cannot be met, before anything is stored. Refuses to read: a walk is opened here, and a stream not even that.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minicbor::bytes::ByteVec;

use super::{Error, Request, Result, StreamRequest};
use crate::names::{TreePath, escape};
use crate::source::exclude::Excludes;
use crate::source::listed::Listed;
use crate::source::walk::{Walk, WalkOptions};

/// Paths by which a manifest tells what was selected.
const SELECTED_MAX: usize = 64;

pub enum Intake {
    Walk(Box<Walk>),
    Stream(Box<StreamRequest>),
}

/// One for each of `Request::sources`, in that order.
pub fn intakes(request: &Request) -> Result<Vec<Intake>> {
    if let Some(stream) = &request.stream {
        return Ok(vec![Intake::Stream(Box::new(stream.clone()))]);
    }
    let walk = |path: &Path, listed: Option<Arc<Listed>>| -> Result<Intake> {
        let options = WalkOptions {
            excludes: Excludes::new(path, &request.excludes, &request.exclude_files)?,
            one_file_system: request.one_file_system,
            exclude_caches: request.exclude_caches,
            listed,
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
    check_paths(&request.paths)?;
    request.paths.iter().map(|path| walk(path, None)).collect()
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

fn check_paths(paths: &[PathBuf]) -> Result<()> {
    if paths.is_empty() {
        return Err(Error::NoPath);
    }
    for (at, inner) in paths.iter().enumerate() {
        for (other, outer) in paths.iter().enumerate() {
            if at != other && inner.starts_with(outer) && (inner != outer || at > other) {
                let show = |path: &Path| escape(path.as_os_str().as_bytes());
                return Err(Error::Nested { inner: show(inner), outer: show(outer) });
            }
        }
    }
    Ok(())
}
