//! Decides what a restore into a bucket will do, and changes nothing.

use futures_util::StreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::super::content::{Indexes, Stored};
use super::super::filter::Filter;
use super::super::plan::{Totals, note};
use super::super::select::{Selection, Step};
use super::super::{Control, Error, Overwrite, Result, told};
use super::{Request, Start};
use crate::bucket::Bucket;
use crate::names::{TreePath, escape, hex};
use crate::pack::entry::Kind;
use crate::pack::record::SourceKind;
use crate::repository::{Index, Repository, Scope};
use crate::source::bucket::{Listed, address, location, patiently};

/// The object that stands as long as a restore is unfinished.
pub(super) const MARK: &str = ".lifeboat-restore";
/// A longer one is none of ours.
const MARK_BYTES_MAX: u64 = 64 << 10;

/// What a restore will do. Reading it to a person is a dry run.
pub struct Plan {
    pub request: Request,
    pub start: Start,
    pub totals: Totals,
    /// Index objects that do not verify, and gaps in the list of files: one sentence each.
    pub warnings: Vec<String>,
    /// Gaps in the list of files.
    pub gaps: u64,
    pub(super) mark: Vec<u8>,
    pub(in super::super) indexes: Indexes,
    pub(in super::super) selection: Selection,
}

/// Decides how `request` can be met. Reads only.
pub fn plan(repository: &Repository, mut request: Request, control: &Control) -> Result<Plan> {
    let body = request.snapshot.need_body(repository)?.clone();
    repository.need_reader("restoring content")?;
    if request.delete && request.overwrite == Overwrite::Never {
        return Err(Error::DeleteWithoutOverwrite);
    }
    if request.delete && !(request.include.is_empty() && request.exclude.is_empty()) {
        return Err(Error::DeletePartial);
    }
    if request.delete && body.sources.iter().any(|source| source.kind == SourceKind::Selection) {
        return Err(Error::DeleteSelection);
    }
    refuse_own_store(repository, &request.to)?;
    if let (None, [only]) = (&request.path, &body.sources[..])
        && only.kind == SourceKind::Bucket
    {
        request.path = Some(only.name.to_vec());
    }
    let filter = Filter::new(request.path.as_deref(), &request.include, &request.exclude)?;
    let mark = mark(&request, &filter);
    let start = start(&request, &mark)?;
    let mut warnings = Vec::new();
    let index = Index::load(repository, Scope::Read, &mut |error| note(&mut warnings, told(&error)))?;
    let indexes = Indexes::new(index);
    let stored = Stored::new(repository, &indexes, request.snapshot.writer)?;
    let selection = Selection::new(&body, request.path.as_deref(), None, filter, &stored)?.keep_objects();
    let (mut totals, mut gaps) = (Totals::default(), 0);
    let mut walk = selection.walk(&stored);
    loop {
        control.go_on()?;
        match walk.next()? {
            Step::End => break,
            Step::Damage { after, error } => {
                gaps += 1;
                note(&mut warnings, format!("some files after {after} cannot be known: {error}"));
            }
            Step::Entry(picked) => match &picked.entry.kind {
                Kind::File { size, .. } => {
                    totals.files += 1;
                    totals.bytes = totals.bytes.saturating_add(*size);
                }
                Kind::Directory => totals.directories += 1,
                _ => totals.others += 1,
            },
        }
    }
    if request.delete && gaps > 0 {
        return Err(Error::DeleteBlind);
    }
    totals.bytes_needed = totals.bytes;
    drop(walk);
    drop(stored);
    Ok(Plan { request, start, totals, warnings, gaps, mark, indexes, selection })
}

/// By which a later restore knows this one again.
fn mark(request: &Request, filter: &Filter) -> Vec<u8> {
    format!(
        "lifeboat restore 1\nsnapshot {}\npath {}\nfilter {}\n",
        request.snapshot.id,
        escape(request.path.as_deref().unwrap_or(b"/")),
        hex(&filter.fingerprint()),
    )
    .into_bytes()
}

pub(super) fn mark_path() -> TreePath {
    TreePath::from_bytes(MARK.as_bytes().to_vec()).unwrap_or_default()
}

pub(super) fn mark_location(bucket: &Bucket) -> Path {
    location(bucket, &mark_path()).unwrap_or_else(|| bucket.prefix().clone().join(MARK))
}

pub(super) fn failed(bucket: &Bucket, verb: &'static str) -> impl Fn(object_store::Error) -> Error {
    let url = bucket.url().to_owned();
    move |cause| Error::Bucket { url: url.clone(), verb, cause }
}

/// A future of the client, awaited; that it panicked is an error like any other.
pub(super) fn wait<T: Send + 'static>(
    bucket: &Bucket,
    future: impl Future<Output = object_store::Result<T>> + Send + 'static,
) -> object_store::Result<T> {
    let lost = |cause| object_store::Error::Generic { store: "bucket", source: Box::new(cause) };
    bucket.wait(future).map_err(lost)?
}

/// What a restore meets under the prefix, or why it must not begin.
pub(super) fn start(request: &Request, mark: &[u8]) -> Result<Start> {
    let bucket = &request.to;
    let (objects, at) = (bucket.objects().clone(), mark_location(bucket));
    let found = wait(bucket, async move {
        patiently(|| async {
            match objects.get(&at).await {
                Ok(got) if got.meta.size > MARK_BYTES_MAX => Ok(Some((got.meta.clone(), Vec::new()))),
                Ok(got) => Ok(Some((got.meta.clone(), got.bytes().await?.to_vec()))),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    });
    if let Some((meta, theirs)) = found.map_err(failed(bucket, "looked at"))? {
        if theirs == mark {
            return Ok(Start::Continued(Listed::of(mark_path(), meta)));
        }
        return Err(Error::OtherUpload { url: bucket.url().to_owned(), mark: MARK.to_owned() });
    }
    let prefix = Some(bucket.prefix().clone()).filter(|prefix| !prefix.as_ref().is_empty());
    let objects = bucket.objects().clone();
    let first =
        wait(
            bucket,
            async move { patiently(|| async { objects.list(prefix.as_ref()).next().await.transpose() }).await },
        );
    match first.map_err(failed(bucket, "listed"))? {
        None => Ok(Start::Empty),
        Some(_) if request.overwrite != Overwrite::Never => Ok(Start::Over),
        Some(meta) => {
            let from = bucket.prefix().as_ref().len();
            let relative = meta.location.as_ref()[from..].trim_start_matches('/').as_bytes().to_vec();
            let path = TreePath::from_bytes(relative).unwrap_or_default();
            let example = escape(&address(bucket, &path));
            Err(Error::BucketNotEmpty { url: bucket.url().to_owned(), example })
        }
    }
}

/// A restore into the repository would mix objects of two kinds.
fn refuse_own_store(repository: &Repository, to: &Bucket) -> Result<()> {
    let (store, to) = (repository.store.url().trim_end_matches('/').to_owned(), to.url().trim_end_matches('/'));
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match within(&store, to) || within(to, &store) {
        true => Err(Error::InRepository { to: to.into() }),
        false => Ok(()),
    }
}
