//! Carries out a plan for a bucket.
//!
//! Owns the join of two ordered lists: what is to stand in the bucket, and what stands there. Order: the mark (where the prefix must be empty), objects in any order, removals, and the end
//! of the mark. Stopped anywhere, the same command goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use futures_util::StreamExt;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::super::content::Stored;
use super::super::report::{Notes, Report};
use super::super::select::{Picked, Step};
use super::super::{Control, Error, Overwrite, Result, told};
use super::plan::{self, Plan, failed, mark_location, mark_path, wait};
use super::write::{Job, Writer, Written};
use super::{Start, properties};
use crate::bucket::key;
use crate::names::{TreePath, escape};
use crate::pack::entry::{Entry, Kind};
use crate::pack::object::ObjectRecord;
use crate::repository::Repository;
use crate::source::bucket::{Listed, Listing, address, has_tags, location, patiently, source_name, tags};

/// Entries that wait for a worker, a few kilobytes each at most.
const QUEUE: usize = 64;
/// So many objects in a row that could not be written: it is not them.
const FAILURES_MAX: u32 = 50;
const DELETE_BATCH: usize = 1000;

/// Restores as planned.
pub fn run(repository: &Repository, plan: &Plan, control: &Control) -> Result<Report> {
    let began = Instant::now();
    let request = &plan.request;
    let bucket = &request.to;
    // What stood there when it was planned may be another thing now.
    let start = plan::start(request, &plan.mark)?;
    if start == Start::Empty && request.overwrite == Overwrite::Never {
        put_mark(plan)?;
    }
    let standing = match start {
        Start::Empty => None,
        _ => Listing::read::<Error>(bucket, &mut |_| control.go_on().map(|()| true))?,
    };
    let notes = Notes::new(Arc::clone(&control.progress), false);
    let (results, written) = channel();
    let same_cloud = same_cloud(plan);
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = if request.workers == 0 { cores() } else { request.workers };
    let (jobs, queue) = crossbeam_channel::bounded::<Job>(QUEUE);
    let stop = AtomicBool::new(false);
    let ended = std::thread::scope(|scope| {
        let writer = Writer::new(bucket, same_cloud, results);
        let threads: Vec<_> = (0..workers)
            .map(|_| {
                let (writer, queue, stop) = (writer.clone(), queue.clone(), &stop);
                scope.spawn(move || -> Result<()> {
                    let stored = Stored::new(repository, &plan.indexes, request.snapshot.writer)?;
                    for job in queue {
                        if stop.load(Ordering::Relaxed) {
                            continue;
                        }
                        if let Err(error) = writer.write(&job, &stored, control) {
                            stop.store(true, Ordering::Relaxed);
                            return Err(error);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        drop(queue);
        let stored = Stored::new(repository, &plan.indexes, request.snapshot.writer)?;
        let mut run = Run {
            plan,
            control,
            notes: &notes,
            standing,
            ahead: None,
            met: BTreeSet::new(),
            delete: Vec::new(),
            handed_in: 0,
            written,
            failures: 0,
            failing_from: 0,
            unwritten: 0,
            start,
        };
        let walked = run.walk(&stored, &jobs, &stop);
        drop(jobs);
        if walked.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        let worked: Vec<Result<()>> =
            threads.into_iter().map(|thread| thread.join().unwrap_or(Err(Error::Worker))).collect();
        writer.drain();
        drop(writer);
        let worked: Result<()> = worked.into_iter().collect();
        walked.and(worked).and_then(|()| run.finish())
    });
    // Otherwise it has not ended: the mark stays, and the same command tries again what is missing.
    if ended? == 0 {
        remove_mark(plan)?;
    }
    Ok(notes.into_report(began.elapsed().as_secs_f64()))
}

fn put_mark(plan: &Plan) -> Result<()> {
    let bucket = &plan.request.to;
    let (objects, at, body) = (bucket.objects().clone(), mark_location(bucket), plan.mark.clone());
    let put = wait(bucket, async move {
        let create = PutOptions { mode: PutMode::Create, ..Default::default() };
        match patiently(|| objects.put_opts(&at, body.clone().into(), create.clone())).await {
            // A cloud without it has no two restores kept apart; the look before was all there is.
            Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
                patiently(|| objects.put(&at, body.clone().into())).await
            }
            put => put,
        }
    });
    match put {
        Ok(_) => Ok(()),
        // An answer may have been lost: then the mark is ours.
        Err(object_store::Error::AlreadyExists { .. }) => plan::start(&plan.request, &plan.mark).map(|_| ()),
        Err(error) => Err(failed(bucket, "written")(error)),
    }
}

fn remove_mark(plan: &Plan) -> Result<()> {
    if plan.request.overwrite != Overwrite::Never {
        return Ok(());
    }
    let bucket = &plan.request.to;
    let (objects, at) = (bucket.objects().clone(), mark_location(bucket));
    match wait(bucket, async move { patiently(|| objects.delete(&at)).await }) {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(failed(bucket, "cleared of the restore's mark")(error)),
    }
}

/// Whether everything that is restored comes from the kind of cloud it goes to.
fn same_cloud(plan: &Plan) -> bool {
    let scheme = |name: &[u8]| name.split(|byte| *byte == b'/').nth(1).map(<[u8]>::to_vec);
    let to = scheme(&source_name(&plan.request.to));
    plan.request.snapshot.body.iter().flat_map(|body| &body.sources).all(|source| scheme(&source.name) == to)
}

struct Run<'a> {
    plan: &'a Plan,
    control: &'a Control,
    notes: &'a Notes,
    standing: Option<Listing>,
    /// The next object that stands there.
    ahead: Option<Listed>,
    /// Paths that stand out of order, since a file's name is no key's path: they are not to be deleted.
    met: BTreeSet<TreePath>,
    delete: Vec<TreePath>,
    handed_in: u64,
    written: Receiver<(u64, Written)>,
    /// Objects that could not be written, in a row and in all. Objects end in any order, and what was handed in before the row's first proves nothing of the bucket since.
    failures: u32,
    failing_from: u64,
    unwritten: u64,
    start: Start,
}

impl Run<'_> {
    fn walk(&mut self, stored: &Stored<'_>, jobs: &crossbeam_channel::Sender<Job>, stop: &AtomicBool) -> Result<()> {
        let mut walk = self.plan.selection.walk(stored);
        self.advance()?;
        loop {
            self.control.go_on()?;
            self.note_written()?;
            if stop.load(Ordering::Relaxed) {
                // The worker that stopped has the reason.
                return Ok(());
            }
            match walk.next()? {
                Step::End => break,
                Step::Damage { after, error } => {
                    self.notes.damaged(&after, format!("some files after this one cannot be known: {error}"));
                }
                Step::Entry(picked) => {
                    if let Some(job) = self.meet(*picked)?
                        && jobs.send(job).is_err()
                    {
                        return Ok(());
                    }
                }
            }
        }
        while let Some(rest) = self.ahead.take() {
            self.surplus(rest.path);
            self.advance()?;
        }
        Ok(())
    }

    /// What to write for an entry, if anything.
    fn meet(&mut self, picked: Picked) -> Result<Option<Job>> {
        let progress = &self.control.progress;
        if progress.entries.fetch_add(1, Ordering::Relaxed).is_multiple_of(64)
            && let Ok(mut current) = progress.current.lock()
        {
            *current = picked.entry.path.to_string();
        }
        let Picked { mut entry, object, .. } = picked;
        match &entry.kind {
            Kind::File { .. } => {}
            // Keys need no directories.
            Kind::Directory if object || entry.path.is_root() => return Ok(None),
            Kind::Directory => {
                *self.notes.rest().omitted.entry("directory").or_default() += 1;
                return Ok(None);
            }
            _ => {
                self.notes.loss(format!("{} was not restored: an object cannot be what it is", entry.path));
                return Ok(None);
            }
        }
        if !object {
            let Some(path) = name_to_path(&entry.path) else {
                self.notes.loss(format!("{} was not restored: its name is not UTF-8", entry.path));
                return Ok(None);
            };
            *self.notes.rest().omitted.entry("owner, mode and time of a file").or_default() += 1;
            entry.path = path;
        }
        let bucket = &self.plan.request.to;
        let Some(at) = location(bucket, &entry.path) else {
            self.notes.loss(format!("{} was not restored: it cannot be addressed", entry.path));
            return Ok(None);
        };
        if entry.path == mark_path() {
            self.notes.loss(format!("{} was not restored: a restore's own mark has this key", entry.path));
            return Ok(None);
        }
        let standing = self.standing_at(&entry.path)?;
        if let Some(standing) = standing
            && self.stays(&entry, &standing, &at)?
        {
            self.notes.unchanged(entry.kind.size());
            return Ok(None);
        }
        self.handed_in += 1;
        Ok(Some(Job { entry, at, place: self.handed_in }))
    }

    fn advance(&mut self) -> Result<()> {
        let Some(standing) = &mut self.standing else { return Ok(()) };
        self.ahead = loop {
            match standing.next_object()? {
                None => break None,
                Some(Ok(listed)) if listed.path == mark_path() => {}
                Some(Ok(listed)) => break Some(listed),
                Some(Err(problem)) => self.notes.loss(told(&problem)),
            }
        };
        Ok(())
    }

    /// What stands at a path. Everything before it that was not asked for is surplus.
    fn standing_at(&mut self, path: &TreePath) -> Result<Option<Listed>> {
        while let Some(ahead) = self.ahead.take_if(|ahead| ahead.path < *path) {
            self.surplus(ahead.path);
            self.advance()?;
        }
        match self.ahead.take_if(|ahead| ahead.path == *path) {
            Some(standing) => {
                self.advance()?;
                Ok(Some(standing))
            }
            None => {
                if path.as_bytes().contains(&b'%') {
                    self.met.insert(path.clone());
                }
                Ok(None)
            }
        }
    }

    fn surplus(&mut self, path: TreePath) {
        if self.plan.request.delete {
            self.delete.push(path);
        }
    }

    /// Whether what stands there is what should stand there.
    fn stays(&self, entry: &Entry, standing: &Listed, at: &object_store::path::Path) -> Result<bool> {
        if standing.size != entry.kind.size() {
            return Ok(false);
        }
        if let Start::Continued(mark) = &self.start {
            return Ok(standing.modified >= mark.modified);
        }
        if self.plan.request.overwrite != Overwrite::IfChanged {
            return Ok(false);
        }
        // An ETag that is the same stands for the same bytes; an object of the same time was never written again.
        let Some(record) = ObjectRecord::of(entry) else { return Ok(false) };
        if record.etag.is_none() || record.etag != standing.etag {
            return Ok(false);
        }
        let bucket = &self.plan.request.to;
        // Tags change, and nothing else shows it.
        if let Some(wanted) = record.tags.filter(|_| has_tags(bucket)) {
            let (asked, at) = (bucket.clone(), at.clone());
            match wait(bucket, async move { tags(&asked, &at).await }) {
                Ok(found) if found == wanted => {}
                _ => return Ok(false),
            }
        }
        if standing.modified == entry.mtime {
            return Ok(true);
        }
        let (objects, at) = (bucket.objects().clone(), at.clone());
        let head = GetOptions { head: true, ..Default::default() };
        match wait(
            bucket,
            async move { patiently(|| objects.get_opts(&at, head.clone())).await.map(|got| got.attributes) },
        ) {
            Ok(found) => Ok(properties::agree(&properties::of(entry, same_cloud(self.plan)), &found)),
            Err(_) => Ok(false),
        }
    }

    fn note_written(&mut self) -> Result<()> {
        while let Ok((place, written)) = self.written.try_recv() {
            match written {
                Written::Whole(bytes) => self.notes.wrote(bytes),
                Written::Bare(bytes, sentence) => {
                    self.notes.wrote(bytes);
                    self.notes.loss(sentence);
                }
                Written::Damaged(path, error) => self.notes.damaged(&path, error),
                Written::Failed(sentence) => {
                    self.failing_from = if self.failures == 0 { place } else { place.min(self.failing_from) };
                    self.failures += 1;
                    if self.failures >= FAILURES_MAX {
                        let cause = std::io::Error::other(sentence);
                        let cause = object_store::Error::Generic { store: "bucket", source: Box::new(cause) };
                        return Err(failed(&self.plan.request.to, "written")(cause));
                    }
                    self.unwritten += 1;
                    self.notes.loss(sentence);
                    continue;
                }
            }
            if place > self.failing_from {
                self.failures = 0;
            }
        }
        Ok(())
    }

    /// After the last object: how many could not be written.
    fn finish(&mut self) -> Result<u64> {
        self.note_written()?;
        let delete = std::mem::take(&mut self.delete);
        let bucket = &self.plan.request.to;
        let (mut surplus, mut unsaid) = (Vec::new(), Vec::new());
        for path in delete.into_iter().filter(|path| !self.met.contains(path)) {
            let is_own_key = std::str::from_utf8(path.as_bytes()).is_ok_and(|path| key::from_path(path) == path);
            if is_own_key { surplus.push(path) } else { unsaid.push(path) }
        }
        // The request that removes many names them in its body, where paths stay paths.
        for path in unsaid {
            let shown = escape(&address(bucket, &path));
            self.notes.loss(format!("{shown} was not removed: its key cannot be named in such a request"));
        }
        for batch in surplus.chunks(DELETE_BATCH) {
            self.control.go_on()?;
            let all: Vec<_> = batch.iter().filter_map(|path| location(bucket, path)).map(Ok).collect();
            let objects = bucket.objects().clone();
            let removed = wait(bucket, async move {
                let stream = objects.delete_stream(futures_util::stream::iter(all).boxed());
                Ok(stream.collect::<Vec<_>>().await)
            });
            for one in removed.map_err(failed(bucket, "cleared of what the snapshot lacks"))? {
                match one {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => self.notes.rest().deleted += 1,
                    Err(error) => self.notes.loss(format!("an object could not be removed: {}", told(&error))),
                }
            }
        }
        Ok(self.unwritten)
    }
}

/// The path of the key that is a file's own path.
fn name_to_path(path: &TreePath) -> Option<TreePath> {
    let name = std::str::from_utf8(path.as_bytes()).ok()?;
    TreePath::from_bytes(key::to_path(name).into_bytes()).ok()
}
