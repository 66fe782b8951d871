//! One run from its request to its commit.
//!
//! Order (each step durable before the next): sources opened; session announced, parents pinned; index loaded; packs and deltas while the walk goes on; last packs, last
//! delta, segments; manifest. A run that ends early leaves a delta of the packs that it finished, so the next one finds them.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use minicbor::bytes::{ByteArray, ByteVec};

use super::assemble::{Assembly, Input, Lanes, Previous, ancestors};
use super::pipeline::{QUEUE_JOBS, Shared, work};
use super::tally::Tally;
use super::{Control, Error, Report, Request, Result};
use crate::clock::Clock;
use crate::names::{WriterId, escape};
use crate::pack::keys::{self, Meaning};
use crate::pack::node::encode_leaf;
use crate::pack::record::{self, ManifestBody, Outcome, SourceKind, Time};
use crate::pack::tree::Root;
use crate::repository::{
    self, ChunkReader, Committed, Index, Packer, Repository, Scope, Snapshot, SnapshotState, Snapshots, WriteSession,
    host_name, merge_own_runs,
};
use crate::source::bucket::{self, Listing};
use crate::source::exclude::Excludes;
use crate::source::walk::{Walk, WalkOptions};

/// A session that is fenced (another process took it for dead) starts again so often.
const ATTEMPTS: usize = 3;

/// Saves what `request` names, and commits it.
pub fn run(repository: &Repository, clock: &dyn Clock, request: &Request, control: &Control) -> Result<Report> {
    check_names(&names(request))?;
    let mut attempt = 1;
    loop {
        match attempt_once(repository, clock, request, control) {
            Err(Error::Repository(repository::Error::Fenced { session })) if attempt < ATTEMPTS => {
                tracing::warn!(%session, "the session was fenced; starting another");
                attempt += 1;
            }
            result => return result,
        }
    }
}

/// What the manifest calls each source: a path by itself, a bucket as `/SCHEME:/BUCKET/PREFIX`.
pub fn names(request: &Request) -> Vec<Vec<u8>> {
    let paths = request.paths.iter().map(|path| path.as_os_str().as_bytes().to_vec());
    paths.chain(request.buckets.iter().map(bucket::source_name)).collect()
}

fn check_names(names: &[Vec<u8>]) -> Result<()> {
    if names.is_empty() {
        return Err(Error::NoPath);
    }
    let path = |name: &Vec<u8>| PathBuf::from(std::ffi::OsStr::from_bytes(name));
    for (at, inner) in names.iter().enumerate() {
        for (other, outer) in names.iter().enumerate() {
            if at != other && path(inner).starts_with(path(outer)) && (inner != outer || at > other) {
                return Err(Error::Nested { inner: escape(inner), outer: escape(outer) });
            }
        }
    }
    Ok(())
}

/// Which older snapshot each source is compared with.
struct Parents(Vec<Option<Snapshot>>);

fn choose_parents(snapshots: &Snapshots, writer: WriterId, request: &Request) -> Parents {
    let of = |name: &[u8], policy: bool| {
        snapshots.readable.iter().rev().find(|snapshot| {
            snapshot.writer == writer
                && snapshot.state == SnapshotState::Good
                && snapshot.body.as_ref().is_some_and(|body| {
                    (!policy || body.policy == request.policy)
                        && body.sources.iter().any(|source| source.name.as_slice() == name)
                })
        })
    };
    Parents(names(request).iter().map(|name| of(name, true).or_else(|| of(name, false)).cloned()).collect())
}

fn time(clock: &dyn Clock) -> Time {
    let now = clock.now();
    Time { secs: now.secs, nanos: now.nanos }
}

fn attempt_once(repository: &Repository, clock: &dyn Clock, request: &Request, control: &Control) -> Result<Report> {
    let (begun, started) = (Instant::now(), time(clock));
    let writer = repository.need_writer("backing up")?;
    let mut inputs = Vec::new();
    for path in &request.paths {
        let options = WalkOptions {
            excludes: Excludes::new(path, &request.excludes, &request.exclude_files)?,
            one_file_system: request.one_file_system,
            exclude_caches: request.exclude_caches,
        };
        inputs.push(Input::Files(Walk::new(path, options)?));
    }
    for bucket in &request.buckets {
        Listing::probe(bucket)?;
        inputs.push(Input::Bucket(bucket.clone()));
    }
    let allowed = Excludes::new(Path::new("/"), &request.allow_unreadable, &[])?;

    let choose = |snapshots: &Snapshots| {
        let parents = choose_parents(snapshots, writer.id, request).0;
        parents.into_iter().flatten().map(|parent| parent.slot.to_string()).collect()
    };
    let (session, snapshots) = WriteSession::start(repository, clock, &choose)?;
    let multi_writer = session.multi_writer;
    let parents = choose_parents(&snapshots, writer.id, request);
    let report =
        match save(repository, clock, request, control, session, &snapshots, &parents, inputs, allowed, started) {
            Ok((committed, body)) => Report {
                snapshot: committed.id,
                parent: parents.0.iter().flatten().next().map(|parent| parent.id),
                outcome: body.outcome,
                counts: body.counts,
                problems: body.problems.iter().map(|p| format!("{} {}", escape(&p.path), p.detail)).collect(),
                seconds: begun.elapsed().as_secs_f64(),
                multi_writer,
            },
            Err(error) => return Err(error),
        };
    Ok(report)
}

/// Whether an index object that one of this writer's manifests names is gone, so that older trees may not be whole.
fn index_is_doubtful(repository: &Repository, index: &Index, snapshots: &Snapshots, refused: usize) -> Result<bool> {
    if refused > 0 {
        return Ok(true);
    }
    let known: std::collections::HashSet<_> = index
        .runs()
        .iter()
        .flat_map(|run| run.replaced().iter().copied().chain(std::iter::once(run.source().name)))
        .collect();
    let own = repository.need_writer("backing up")?.id;
    let named = snapshots.readable.iter().filter(|s| s.writer == own).flat_map(|s| &s.indexes);
    Ok(named.filter_map(|key| key.parse().ok()).any(|key| match keys::parse(&key) {
        Some(Meaning::Run(name)) => !known.contains(&name),
        _ => true,
    }))
}

#[allow(clippy::too_many_arguments)] // the one place where everything about a run meets
fn save(
    repository: &Repository,
    clock: &dyn Clock,
    request: &Request,
    control: &Control,
    session: WriteSession<'_>,
    snapshots: &Snapshots,
    parents: &Parents,
    inputs: Vec<Input>,
    allowed: Excludes,
    started: Time,
) -> Result<(Committed, ManifestBody)> {
    let writer = repository.need_writer("backing up")?;
    let mut refused = 0;
    let scope = Scope::Write { group: writer.group, writer: writer.id };
    let index = Index::load(repository, scope, &mut |error| {
        tracing::warn!(%error, "an index object does not verify; what it names is uploaded again");
        refused += 1;
    })?;
    let doubted = index_is_doubtful(repository, &index, snapshots, refused)?;
    let reading = index.share();
    let reader = ChunkReader::new(repository, &reading, writer.id)?;
    let packer = Packer::new(repository, session.id, session.epoch, control.cancel.clone());
    let shared = Shared::new(repository, control, packer, index)?;
    let workers = match request.workers {
        0 => std::thread::available_parallelism().map_or(2, |cores| cores.get()),
        workers => workers,
    };
    let mut tally = Tally::new(session, allowed);

    let walked = std::thread::scope(|scope| -> Result<Vec<Option<Root>>> {
        let (jobs, queue) = crossbeam_channel::bounded(QUEUE_JOBS.max(workers));
        let (results, answers) = crossbeam_channel::unbounded();
        let mut threads = Vec::new();
        for number in 0..workers {
            let (shared, queue, results) = (&shared, queue.clone(), results.clone());
            let builder = std::thread::Builder::new().name(format!("backup-{number}"));
            let thread = builder.spawn_scoped(scope, move || work(shared, &queue, &results));
            threads.push(thread.map_err(|_| Error::Worker)?);
        }
        drop((queue, results));
        let lanes = Lanes { jobs, results: answers, workers };
        let mut roots = Vec::new();
        for ((input, parent), name) in inputs.into_iter().zip(&parents.0).zip(names(request)) {
            let previous = parent.as_ref().and_then(|parent| previous(parent, &name, &reader, doubted));
            match Assembly::run(&shared, request, &lanes, &mut tally, input, previous.as_ref()) {
                Ok(root) => roots.push(root),
                Err(error) => {
                    // Before the workers are told to stop: that they were is no reason for anything.
                    shared.fail(error);
                    break;
                }
            }
        }
        drop(lanes);
        for thread in threads {
            if thread.join().is_err() {
                shared.fail(Error::Worker);
            }
        }
        // The first failure is the reason, the walk's or a worker's; that others were told to stop is not.
        match shared.failure() {
            Some(error) => Err(error),
            None => Ok(roots),
        }
    });
    let finished = walked.and_then(|roots| {
        if control.is_cancelled() {
            return Err(Error::Cancelled);
        }
        shared.nodes.flush(&shared)?;
        shared.packer.finish_packs()?;
        Ok(roots)
    });
    let roots = match finished {
        Ok(roots) => roots,
        Err(error) => {
            // What was uploaded should be found again; if even that fails, the next run uploads it again. What a defect or faulty memory left is not
            // to be found.
            if !matches!(error, Error::Worker | Error::Repository(repository::Error::SelfCheck)) {
                let _ = shared.nodes.flush(&shared);
                let _ = shared.packer.end_early();
                let _ = tally.checkpoint(&shared);
            }
            tally.session.abandon();
            return Err(error);
        }
    };
    match conclude(repository, clock, request, &shared, &mut tally, roots, started) {
        Ok(body) => Ok((tally.session.commit(&body)?, body)),
        Err(error) => {
            tally.session.abandon();
            Err(error)
        }
    }
}

/// The last delta, the segments, and what the manifest says.
fn conclude(
    repository: &Repository,
    clock: &dyn Clock,
    request: &Request,
    shared: &Shared<'_>,
    tally: &mut Tally<'_>,
    roots: Vec<Option<Root>>,
    started: Time,
) -> Result<ManifestBody> {
    let control = shared.control;
    tally.checkpoint(shared)?;
    let Tally { session, counts, problems, .. } = tally;
    let index = shared.index.read().unwrap_or_else(PoisonError::into_inner);
    let mut stored = shared.packer.stored_bytes.load(Ordering::Relaxed);
    for (name, bytes) in merge_own_runs(repository, &index, session.id, &mut session.next_run)? {
        session.runs.push(name);
        stored += bytes;
    }
    counts.files_read = shared.files_read.load(Ordering::Relaxed);
    counts.bytes_read = shared.bytes_read.load(Ordering::Relaxed);
    counts.bytes_new = shared.bytes_new.load(Ordering::Relaxed);
    counts.bytes_stored = stored;
    control.progress.bytes_stored.store(stored, Ordering::Relaxed);
    let mut sources = Vec::new();
    for (at, (name, root)) in names(request).into_iter().zip(roots).enumerate() {
        // A root that could be listed and then not be read leaves nothing to restore.
        let root = root.ok_or_else(|| crate::source::problem::SourceError::Missing { root: name.clone() })?;
        let path = request.paths.get(at);
        sources.push(record::Source {
            name: ByteVec::from(name),
            kind: if path.is_some() { SourceKind::Filesystem } else { SourceKind::Bucket },
            root: record::Root {
                id: ByteArray::from(root.id.0),
                level: root.level,
                base: ByteVec::from(root.base.as_bytes().to_vec()),
                entries: root.entries,
                bytes: root.bytes,
            },
            ancestors: ByteVec::from(path.map_or_else(Vec::new, |path| encode_leaf(&ancestors(path), 0))),
        });
    }
    let partial = counts.unreadable > 0 || counts.changed > 0;
    Ok(ManifestBody {
        started,
        finished: time(clock),
        host: host_name(),
        user: uzers::get_current_username().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        policy: request.policy.clone(),
        tags: request.tags.clone(),
        sources,
        outcome: if partial { Outcome::Partial } else { Outcome::Complete },
        problems: std::mem::take(problems),
        counts: *counts,
        keep_wish: request.keep_wish.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn previous<'p>(parent: &Snapshot, name: &[u8], reader: &'p ChunkReader<'p>, doubted: bool) -> Option<Previous<'p>> {
    let body = parent.body.as_ref()?;
    let source = body.sources.iter().find(|source| source.name.as_slice() == name)?;
    Some(Previous { reader, root: source.tree(), started: body.started, doubted })
}
