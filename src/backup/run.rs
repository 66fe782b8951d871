//! One run from its request to its commit.
//!
//! Order (each step durable before the next): sources opened; session announced, parents pinned; index loaded; packs and deltas while the walk goes on; last packs, last
//! delta, segments; manifest. A run that ends early leaves a delta of the packs that it finished, so the next one finds them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use minicbor::bytes::{ByteArray, ByteVec};

use super::assemble::{Assembly, Input, Lanes, Previous, ancestors};
use super::effort::Dial;
use super::intake::{self, Intake, OwnStore, intakes};
use super::pipeline::{QUEUE_JOBS, Shared, work};
use super::stream;
use super::tally::Tally;
use super::{Compressed, Control, Error, Report, Request, Result};
use crate::clock::Clock;
use crate::names::{SnapshotId, WriterId, escape};
use crate::pack::keys::{self, Meaning};
use crate::pack::node::encode_leaf;
use crate::pack::record::{self, ManifestBody, Outcome, SourceKind, Time};
use crate::pack::tree::Root;
use crate::repository::{
    self, ChunkReader, Committed, Index, Packer, Repository, Snapshot, SnapshotState, Snapshots, WriteSession,
    host_name, merge_own_runs,
};
use crate::source::exclude::Excludes;

/// A session that is fenced (another process took it for dead) starts again so often.
const ATTEMPTS: usize = 3;

/// Saves what `request` names, and commits it.
pub fn run(repository: &Repository, clock: &dyn Clock, request: &Request, control: &Control) -> Result<Report> {
    if request.stream.is_some() {
        // What was read of a stream is gone: whoever sent it has to send it again.
        return attempt_once(repository, clock, request, control);
    }
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

/// Which older snapshot each path is compared with.
struct Parents(Vec<Option<Snapshot>>);

fn choose_parents(snapshots: &Snapshots, writer: WriterId, request: &Request) -> Parents {
    let of = |name: &[u8], kind: SourceKind, policy: bool| {
        snapshots.readable.iter().rev().find(|snapshot| {
            snapshot.writer == writer
                && snapshot.state == SnapshotState::Good
                && snapshot.body.as_ref().is_some_and(|body| {
                    (!policy || body.policy == request.policy)
                        && body.sources.iter().any(|source| source.name.as_slice() == name && source.kind == kind)
                })
        })
    };
    let sources = request.sources();
    Parents(
        sources.iter().map(|(name, kind)| of(name, *kind, true).or_else(|| of(name, *kind, false)).cloned()).collect(),
    )
}

fn forgotten(snapshots: &Snapshots, writer: WriterId) -> Vec<SnapshotId> {
    let own = snapshots.readable.iter().filter(|snapshot| snapshot.writer == writer && snapshot.state.is_forgotten());
    own.map(|snapshot| snapshot.id).collect()
}

fn time(clock: &dyn Clock) -> Time {
    let now = clock.now();
    Time { secs: now.secs, nanos: now.nanos }
}

fn attempt_once(repository: &Repository, clock: &dyn Clock, request: &Request, control: &Control) -> Result<Report> {
    let (begun, started) = (Instant::now(), time(clock));
    let writer = repository.need_writer("backing up")?;
    let (intakes, notes) = intakes(request, OwnStore::of(repository).as_ref())?;
    let allowed = Excludes::new(Path::new("/"), &request.allow_unreadable, &[])?;

    let choose = |snapshots: &Snapshots| {
        let parents = choose_parents(snapshots, writer.id, request).0;
        parents.into_iter().flatten().map(|parent| parent.slot.to_string()).collect()
    };
    let (session, snapshots) = WriteSession::start(repository, clock, &choose)?;
    let multi_writer = session.multi_writer;
    let parents = match session.may_reuse() {
        true => choose_parents(&snapshots, writer.id, request),
        false => Parents(vec![None; request.sources().len()]),
    };
    let saved = save(repository, clock, request, control, session, &snapshots, &parents, intakes, allowed, started);
    let report = match saved {
        Ok(Saved { committed, body, files_new, files_changed, compressed }) => Report {
            snapshot: committed.id,
            parent: parents.0.iter().flatten().next().map(|parent| parent.id),
            forgotten: forgotten(&snapshots, writer.id),
            outcome: body.outcome,
            counts: body.counts,
            files_new,
            files_changed,
            compressed,
            notes,
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
    let counts = |s: &&Snapshot| s.writer == own && s.state != SnapshotState::Expired;
    let named = snapshots.readable.iter().filter(counts).flat_map(|s| &s.indexes);
    Ok(named.filter_map(|key| key.parse().ok()).any(|key| match keys::parse(&key) {
        Some(Meaning::Run(name)) => !known.contains(&name),
        _ => true,
    }))
}

struct Saved {
    committed: Committed,
    body: ManifestBody,
    files_new: u64,
    files_changed: u64,
    compressed: Compressed,
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
    intakes: Vec<Intake>,
    allowed: Excludes,
    started: Time,
) -> Result<Saved> {
    let writer = repository.need_writer("backing up")?;
    let mut refused = 0;
    let index = session.load_index(snapshots, &mut |error| {
        tracing::warn!(%error, "an index object does not verify; what it names is uploaded again");
        refused += 1;
    })?;
    let doubted = index_is_doubtful(repository, &index, snapshots, refused)?;
    let reading = index.share();
    let reader = ChunkReader::new(repository, &reading, writer.id)?.reloading();
    let packer = Packer::new(repository, session.id, session.began, control.cancel.clone());
    let workers = match request.workers {
        0 => std::thread::available_parallelism().map_or(2, |cores| cores.get()),
        workers => workers,
    };
    let dial = Dial::new(request.compression, repository.store.is_remote(), workers, Instant::now());
    let shared = Shared::new(repository, control, packer, dial, index)?;
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
        let sources = request.sources();
        for ((intake, parent), (name, _)) in intakes.into_iter().zip(&parents.0).zip(&sources) {
            let previous = parent.as_ref().and_then(|parent| previous(parent, name, &reader, doubted));
            let root = match intake {
                Intake::Walk(walk) => {
                    Assembly::run(&shared, request, &lanes, &mut tally, Input::Files(walk), previous.as_ref())
                }
                Intake::Bucket(bucket, excludes) => {
                    let input = Input::Bucket(bucket, excludes);
                    Assembly::run(&shared, request, &lanes, &mut tally, input, previous.as_ref())
                }
                Intake::Stream(order) => stream::save(&shared, &lanes, &mut tally, &order, parent.is_none(), started),
            };
            match root {
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
        Ok(body) => {
            let Tally { mut session, files_new, files_changed, .. } = tally;
            session.leaf_patches = shared.nodes.have_patches();
            let compressed = Compressed::new(request.compression, shared.packer.bytes_by_level());
            Ok(Saved { committed: session.commit(&body)?, body, files_new, files_changed, compressed })
        }
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
    for (_, bytes) in merge_own_runs(repository, &index, session)? {
        stored += bytes;
    }
    counts.files_read = shared.files_read.load(Ordering::Relaxed);
    counts.bytes_read = shared.bytes_read.load(Ordering::Relaxed);
    counts.bytes_new = shared.bytes_new.load(Ordering::Relaxed);
    counts.bytes_stored = stored;
    control.progress.bytes_stored.store(stored, Ordering::Relaxed);
    let mut sources = Vec::new();
    for ((name, kind), root) in request.sources().into_iter().zip(roots) {
        // A root that could be listed and then not be read leaves nothing to restore.
        let missing = || crate::source::problem::SourceError::Missing { root: name.clone() };
        let root = root.ok_or_else(missing)?;
        let above = match kind {
            SourceKind::Filesystem => ancestors(Path::new(OsStr::from_bytes(&name))),
            SourceKind::Selection | SourceKind::Stream | SourceKind::Bucket => Vec::new(),
        };
        sources.push(record::Source {
            name: ByteVec::from(name),
            kind,
            selected: intake::selected(request),
            root: record::Root {
                id: ByteArray::from(root.id.0),
                level: root.level,
                base: ByteVec::from(root.base.as_bytes().to_vec()),
                entries: root.entries,
                bytes: root.bytes,
            },
            ancestors: ByteVec::from(encode_leaf(&above, 0)),
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
