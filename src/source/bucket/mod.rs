//! A bucket being saved: its keys in the order of trees, and the bytes and properties of its objects.
//!
//! Owns every question to the cloud that is saved: listings (`listing`, `sort`), whole objects (`fetch`), and large ones by ranges (`ranges`). Refuses to mix two
//! states of one object: whatever is read in more than one request is asked for by its ETag. Refuses to write.
//!
//! A key's path is its relative key as `bucket::key` escapes it. Keys `a` and `a/b` stand side by side in a tree: a bucket has no directories, and its tree
//! none but the root.

mod fetch;
mod listing;
mod patience;
mod ranges;
mod sort;
mod tags;

use chrono::{DateTime, Utc};
use object_store::path::Path;
use object_store::{Attribute, Attributes, ObjectMeta};
use rustix::io::Errno;

pub use fetch::{Body, Fetch, Fetched, Fetcher};
pub use listing::Listing;
pub use patience::{is_later, patiently};
pub use ranges::ObjectReader;
pub use tags::{Tags, has_tags, need_tags, tags};

use super::problem::{Problem, ProblemKind};
use crate::bucket::Bucket;
use crate::names::TreePath;
use crate::pack::entry::{Content, Cut, Entry, Kind, Timestamp};
use crate::pack::object::{self, Identity, ObjectRecord};
use crate::pack::tree::LeafEntries;

/// Objects from here on are read by ranges; smaller ones whole.
pub const WHOLE_BYTES_MAX: u64 = 8 << 20;

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Relative to the bucket's prefix; never empty.
    pub path: TreePath,
    pub size: u64,
    pub modified: Timestamp,
    pub etag: Option<String>,
    pub version: Option<String>,
}

impl Listed {
    /// From what a listing or a HEAD said.
    pub fn of(path: TreePath, meta: ObjectMeta) -> Self {
        let ObjectMeta { last_modified, size, e_tag, version, .. } = meta;
        Self { path, size, modified: timestamp(last_modified), etag: e_tag, version }
    }

    /// Whether `entry` is this very object.
    pub fn is_entry(&self, entry: &Entry) -> bool {
        let Kind::File { size, .. } = entry.kind else { return false };
        let (etag, version) = (self.etag.as_deref(), self.version.as_deref());
        (size, entry.mtime) == (self.size, self.modified) && is_object(object::attribute(entry), etag, version)
    }

    /// What a fixed cut is for: a disk image, as far as a name tells.
    pub fn cut(&self) -> Cut {
        if super::image::is_image_name(self.path.file_name()) { Cut::Fixed } else { Cut::Content }
    }
}

/// Whether an object of the same size and time is the very one of `record`: same ETag, and version where both know one. Without an ETag nobody can tell.
fn is_object(record: Option<&[u8]>, etag: Option<&str>, version: Option<&str>) -> bool {
    let Some(identity) = record.filter(|_| etag.is_some()).and_then(Identity::of) else { return false };
    identity.etag == etag && (identity.version.is_none() || version.is_none() || identity.version == version)
}

/// Whether the very object that a listing shows stands at `place` of a leaf.
pub fn is_at(meta: &ObjectMeta, leaf: &LeafEntries, place: usize) -> bool {
    leaf.file_size(place) == Some(meta.size)
        && leaf.mtime(place) == Some(timestamp(meta.last_modified))
        && is_object(leaf.attribute(place, object::ATTRIBUTE), meta.e_tag.as_deref(), meta.version.as_deref())
}

pub fn timestamp(time: DateTime<Utc>) -> Timestamp {
    Timestamp { secs: time.timestamp(), nanos: time.timestamp_subsec_nanos().min(999_999_999) }
}

/// An object as the answer to a request for its bytes shows it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub size: u64,
    modified: Timestamp,
    etag: Option<String>,
    version: Option<String>,
    attributes: Attributes,
    /// None: nobody asked, or there was no answer.
    tags: Option<Tags>,
    /// What could not be learned of it.
    pub loss: Option<Problem>,
}

impl Seen {
    fn with_tags(self, bucket: &Bucket, path: &TreePath, tags: Option<object_store::Result<Tags>>) -> Self {
        match tags {
            None => self,
            Some(Ok(tags)) => Self { tags: Some(tags), ..self },
            Some(Err(error)) => Self { loss: Some(problem_of(bucket, path, "asked for its tags", &error)), ..self },
        }
    }

    fn new(meta: &ObjectMeta, attributes: Attributes) -> Self {
        Self {
            size: meta.size,
            modified: timestamp(meta.last_modified),
            etag: meta.e_tag.clone(),
            version: meta.version.clone(),
            attributes,
            tags: None,
            loss: None,
        }
    }

    /// The entry of an object whose bytes are `content`.
    pub fn entry(self, listed: &Listed, content: Content, size: u64, cut: Cut) -> Entry {
        let same = self.etag.is_some() && self.etag == listed.etag;
        // Headers have whole seconds, listings may be finer: the next listing is to find its own time.
        let mtime = if same { listed.modified } else { self.modified };
        let version = if same { listed.version.clone() } else { self.version };
        let mut record = ObjectRecord { etag: self.etag, version, tags: self.tags, ..Default::default() };
        for (attribute, value) in &self.attributes {
            let value = value.as_ref().to_owned();
            match attribute {
                Attribute::ContentType => record.content_type = Some(value),
                Attribute::ContentEncoding => record.content_encoding = Some(value),
                Attribute::ContentLanguage => record.content_language = Some(value),
                Attribute::ContentDisposition => record.content_disposition = Some(value),
                Attribute::CacheControl => record.cache_control = Some(value),
                Attribute::StorageClass => record.storage_class = Some(value),
                Attribute::Metadata(name) => record.metadata.push((name.to_string(), value)),
                other => tracing::warn!(?other, "an attribute of an object is of an unknown kind and is not kept"),
            }
        }
        record.metadata.sort();
        let xattrs = vec![(object::ATTRIBUTE.to_vec(), record.encode())];
        Entry { xattrs, ..bare(listed.path.clone(), Kind::File { size, content, cut }, mtime) }
    }
}

/// The root of a bucket's tree. It says nothing, so that it never changes.
pub fn root_entry() -> Entry {
    bare(TreePath::root(), Kind::Directory, Timestamp::default())
}

/// An entry of nobody in particular: a bucket knows no owners and no modes.
fn bare(path: TreePath, kind: Kind, mtime: Timestamp) -> Entry {
    Entry {
        path,
        mode: if kind.is_directory() { 0o700 } else { 0o600 },
        kind,
        uid: 0,
        gid: 0,
        user: None,
        group: None,
        mtime,
        ctime: mtime,
        inode: 0,
        link_group: None,
        xattrs: Vec::new(),
    }
}

/// What a manifest calls a bucket: an absolute path, `/SCHEME:/BUCKET/PREFIX`, so that whoever reads paths reads it, too.
pub fn source_name(bucket: &Bucket) -> Vec<u8> {
    let (scheme, rest) = bucket.url().split_once("://").unwrap_or(("bucket", bucket.url()));
    let name = rest.split('/').next().unwrap_or_default();
    let prefix = bucket.prefix().as_ref();
    let slash = if prefix.is_empty() { "" } else { "/" };
    format!("/{scheme}:/{name}{slash}{prefix}").into_bytes()
}

/// Where an object of `path` lies. None: the client takes no such path.
pub fn location(bucket: &Bucket, path: &TreePath) -> Option<Path> {
    let path = std::str::from_utf8(path.as_bytes()).ok()?;
    let whole = match bucket.prefix().as_ref() {
        "" => path.to_owned(),
        prefix => format!("{prefix}/{path}"),
    };
    // What a client would make another key of is none that it can reach.
    Path::parse(&whole).ok().filter(|parsed| parsed.as_ref() == whole)
}

/// An object's address, as people know it: with its key, not its path.
pub fn address(bucket: &Bucket, path: &TreePath) -> Vec<u8> {
    let key = match std::str::from_utf8(path.as_bytes()) {
        Ok(path) => crate::bucket::key::from_path(path).into_owned().into_bytes(),
        Err(_) => path.as_bytes().to_vec(),
    };
    [bucket.url().trim_end_matches('/').as_bytes(), b"/", &key].concat()
}

fn problem(bucket: &Bucket, path: &TreePath, kind: ProblemKind) -> Problem {
    Problem { path: address(bucket, path), kind }
}

/// What an error of the client means to an object that was listed a moment ago.
fn problem_of(bucket: &Bucket, path: &TreePath, verb: &'static str, error: &object_store::Error) -> Problem {
    use object_store::Error;
    let kind = match error {
        Error::NotFound { .. } => ProblemKind::Vanished,
        Error::Precondition { .. } => ProblemKind::Changed,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            ProblemKind::Unreadable { verb, errno: Errno::ACCESS }
        }
        _ => ProblemKind::Unreadable { verb, errno: Errno::IO },
    };
    if !matches!(kind, ProblemKind::Vanished) {
        tracing::warn!(key = %crate::names::escape(&address(bucket, path)), %error, "an object could not be {verb}");
    }
    problem(bucket, path, kind)
}
