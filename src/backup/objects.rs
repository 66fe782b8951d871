//! The objects of one bucket, joined with the tree of the snapshot before.
//!
//! Owns the road from a listing to jobs: what is unchanged by size, time, ETag and version is not fetched; small objects are fetched ahead of the workers that cut them, large
//! ones by ranges while they are cut.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::assemble::{Assembly, PATIENCE, Pending, Previous, Slot, advance};
use super::large::{LargeFile, Subject};
use super::pipeline::{Done, Job, ObjectTicket};
use super::{Error, Result};
use crate::bucket::Bucket;
use crate::names::TreePath;
use crate::pack::entry::Entry;
use crate::pack::tree::{Origin, TreeReader};
use crate::source::bucket::{Fetcher, Listed, Listing, WHOLE_BYTES_MAX, root_entry, source_name};
use crate::source::exclude::Excludes;

/// Objects that travel to a worker together.
const BATCH: usize = 32;

impl Assembly<'_, '_, '_> {
    pub(super) fn bucket(
        &mut self,
        bucket: &Bucket,
        excludes: &Excludes,
        previous: Option<&Previous<'_>>,
    ) -> Result<()> {
        let (shared, tally) = (self.shared, &mut *self.tally);
        let progress = shared.control.progress.clone();
        let listing = Listing::read(bucket, &mut |keys| {
            progress.entries.fetch_add(keys as u64, Ordering::Relaxed);
            tally.look_after(shared)?;
            Ok::<bool, Error>(!shared.should_stop())
        })?;
        let Some(mut listing) = listing else { return Err(Error::Cancelled) };
        let mut old = previous.map(|previous| TreeReader::new(previous.reader, &previous.root));
        let mut ahead = advance(&mut old)?;
        let root = root_entry();
        let before = match &ahead {
            Some((entry, _)) if entry.path.is_root() => ahead.take(),
            _ => None,
        };
        if before.is_some() {
            ahead = advance(&mut old)?;
        }
        self.pending.push_back(Pending { slot: Slot::Ready(Box::new(root)), before });
        let fetcher = Arc::new(Fetcher::new(bucket));
        let name = source_name(bucket);
        while let Some(next) = listing.next_object()? {
            if self.shared.should_stop() {
                return Err(Error::Cancelled);
            }
            let listed = match next {
                Ok(listed) if !excludes.is_empty() && is_excluded(excludes, &name, &listed.path) => continue,
                Ok(listed) => listed,
                Err(problem) => {
                    self.tally.problem(&problem, &progress);
                    continue;
                }
            };
            while ahead.as_ref().is_some_and(|(entry, _)| entry.path < listed.path) {
                ahead = advance(&mut old)?;
            }
            let before = match &ahead {
                Some((entry, _)) if entry.path == listed.path => ahead.take(),
                _ => None,
            };
            if before.is_some() {
                ahead = advance(&mut old)?;
            }
            self.object(&fetcher, listed, before, previous)?;
            self.settle(false)?;
        }
        self.send_batch()?;
        while !self.pending.is_empty() {
            self.settle(true)?;
        }
        Ok(())
    }

    fn object(
        &mut self,
        fetcher: &Arc<Fetcher>,
        listed: Listed,
        before: Option<(Entry, Origin)>,
        previous: Option<&Previous<'_>>,
    ) -> Result<()> {
        if let (Some((entry, _)), Some(previous)) = (&before, previous)
            && listed.is_entry(entry)
            && (!previous.doubted || self.is_stored(entry, previous)?)
        {
            let progress = &self.shared.control.progress;
            progress.files.fetch_add(1, Ordering::Relaxed);
            progress.bytes.fetch_add(listed.size, Ordering::Relaxed);
            let entry = Box::new(entry.clone());
            self.pending.push_back(Pending { slot: Slot::Ready(entry), before });
            return Ok(());
        }
        let number = self.first + self.pending.len() as u64;
        self.pending.push_back(Pending { slot: Slot::Waiting, before });
        if listed.size >= WHOLE_BYTES_MAX {
            // The small objects before it first: they may be waited for.
            self.send_batch()?;
            let subject = Subject::Object(listed, fetcher.clone());
            match LargeFile::open(subject, number, self.lanes.workers) {
                Ok(file) => {
                    let file = Arc::new(file);
                    for _ in 0..self.lanes.workers {
                        self.send(Job::Large(file.clone()))?;
                    }
                }
                Err(problem) => self.receive(Done { number, entry: None, problem: Some(problem) }),
            }
            return Ok(());
        }
        let fetch = match fetcher.start(&listed, std::time::Duration::ZERO) {
            Some(fetch) => fetch,
            None => {
                // What fills the room is taken by workers, if they have it.
                self.send_batch()?;
                loop {
                    if let Some(fetch) = fetcher.start(&listed, PATIENCE) {
                        break fetch;
                    }
                    if self.shared.should_stop() {
                        return Err(Error::Cancelled);
                    }
                    self.tally.look_after(self.shared)?;
                }
            }
        };
        self.objects.push(ObjectTicket { number, listed, fetch, fetcher: fetcher.clone() });
        if self.objects.len() >= BATCH { self.send_batch() } else { Ok(()) }
    }
}

/// Whether a key, or what would be a directory above it, is left out. Patterns see the source as it is called: `/s3:/BUCKET/PREFIX`.
fn is_excluded(excludes: &Excludes, name: &[u8], path: &TreePath) -> bool {
    let absolute = [name, b"/", path.as_bytes()].concat();
    let above = absolute.iter().enumerate().skip(name.len() + 1).filter(|(_, byte)| **byte == b'/');
    above.into_iter().any(|(at, _)| excludes.excludes(&absolute[..at], true)) || excludes.excludes(&absolute, false)
}
