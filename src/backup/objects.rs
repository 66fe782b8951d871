//! The objects of one bucket, joined with the tree of the snapshot before.
//!
//! Owns the road from a listing to jobs: what is unchanged by size, time, ETag and version is told while the listing goes on (`unchanged`), and neither sorted nor fetched; small
//! objects are fetched ahead of the workers that cut them, large ones by ranges while they are cut.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use object_store::ObjectMeta;

use super::assemble::{Assembly, PATIENCE, Pending, Previous, Slot, advance};
use super::large::{LargeFile, Subject};
use super::pipeline::{Done, Job, ObjectTicket};
use super::unchanged::{Marked, Marks, Unchanged};
use super::{Error, Result};
use crate::bucket::Bucket;
use crate::names::TreePath;
use crate::pack::entry::Entry;
use crate::pack::object::{attribute, has_tags};
use crate::pack::tree::{Origin, TreeReader};
use crate::repository::ChunkReader;
use crate::source::bucket::{Fetcher, Listed, Listing, WHOLE_BYTES_MAX, root_entry, source_name};
use crate::source::exclude::Excludes;

/// Objects that travel to a worker together.
const BATCH: usize = 32;

type Before = (Entry, Origin);

/// What is left to be put in order once a bucket is listed.
struct Join<'r> {
    listing: Listing,
    fetcher: Arc<Fetcher>,
    previous: Option<&'r Previous<'r>>,
    /// The tree before, from its begin; none where every key was compared as it was listed.
    old: Option<TreeReader<'r, ChunkReader<'r>>>,
    ahead: Option<Before>,
}

impl Join<'_> {
    /// What stood at `path` before. Paths grow.
    fn before(&mut self, path: &TreePath) -> Result<Option<Before>> {
        while self.ahead.as_ref().is_some_and(|(entry, _)| entry.path < *path) {
            self.ahead = advance(&mut self.old)?;
        }
        match &self.ahead {
            Some((entry, _)) if entry.path == *path => Ok(self.ahead.take()),
            _ => Ok(None),
        }
    }
}

impl<'r> Assembly<'_, '_, 'r> {
    pub(super) fn bucket(
        &mut self,
        bucket: &Bucket,
        excludes: &Excludes,
        previous: Option<&'r Previous<'r>>,
    ) -> Result<()> {
        let (shared, tally) = (self.shared, &mut *self.tally);
        let progress = &shared.control.progress;
        let name = source_name(bucket);
        let mut unchanged = Unchanged::new(previous, self.request.object_tags)?;
        let mut go_on = |keys: usize| {
            progress.entries.fetch_add(keys as u64, Ordering::Relaxed);
            tally.look_after(shared)?;
            Ok::<bool, Error>(!shared.should_stop())
        };
        let mut take = |path: &str, meta: &ObjectMeta| {
            if !excludes.is_empty() && is_excluded(excludes, &name, path.as_bytes()) {
                return Ok(true);
            }
            let Some(unchanged) = &mut unchanged else { return Ok(false) };
            let same = unchanged.take(path, meta)?;
            if same {
                progress.files.fetch_add(1, Ordering::Relaxed);
                progress.bytes.fetch_add(meta.size, Ordering::Relaxed);
            }
            Ok(same)
        };
        let Some(listing) = Listing::sift(bucket, &mut go_on, &mut take)? else { return Err(Error::Cancelled) };
        let (leaves, is_complete) = match unchanged.map(Unchanged::finish) {
            Some(Marks { leaves, complete }) => (leaves, complete),
            None => (BTreeMap::new(), previous.is_none()),
        };
        let old = previous.filter(|_| !is_complete);
        let mut join = Join {
            listing,
            fetcher: Arc::new(Fetcher::new(bucket, self.request.object_tags)),
            previous,
            old: old.map(|previous| TreeReader::new(previous.reader, &previous.root)),
            ahead: None,
        };
        join.ahead = advance(&mut join.old)?;
        self.join(&mut join, leaves)?;
        self.send_batch()?;
        while !self.pending.is_empty() {
            self.settle(true)?;
        }
        Ok(())
    }

    /// The marked leaves of the tree before with the sorted keys.
    fn join(&mut self, join: &mut Join<'r>, leaves: BTreeMap<TreePath, Marked>) -> Result<()> {
        let mut leaves = leaves.into_iter().peekable();
        let has_root = leaves.peek().is_some_and(|(first, marked)| first.is_root() && marked.has(0));
        if !has_root {
            let before = join.before(&TreePath::root())?;
            self.pending.push_back(Pending { slot: Slot::Ready(Box::new(root_entry())), before });
        }
        loop {
            if self.shared.should_stop() {
                return Err(Error::Cancelled);
            }
            let key = join.listing.ahead();
            let leaf = leaves.next_if(|(first, _)| key.is_none_or(|key| key >= first));
            match leaf {
                Some((_, marked)) if marked.is_whole() && key.is_none_or(|key| key > marked.leaf.last()) => {
                    self.pending.push_back(Pending { slot: Slot::Leaf(marked.leaf), before: None });
                }
                Some((_, marked)) => self.leaf(join, &marked)?,
                None => {
                    let Some((listed, twice)) = join.listing.next_key()? else { return Ok(()) };
                    let before = join.before(&listed.path)?;
                    self.key(join, listed, twice, before)?;
                }
            }
            self.settle(false)?;
        }
    }

    /// One leaf of the tree before, and the keys that belong into it.
    fn leaf(&mut self, join: &mut Join<'r>, marked: &Marked) -> Result<()> {
        let Some(previous) = join.previous else { return Ok(()) };
        let mut entries = TreeReader::of_leaf(previous.reader, &marked.leaf);
        let mut place = 0;
        while let Some((entry, origin)) = entries.next_entry()? {
            while join.listing.ahead().is_some_and(|key| *key < entry.path) {
                let Some((listed, twice)) = join.listing.next_key()? else { break };
                self.key(join, listed, twice, None)?;
            }
            let is_marked = marked.has(place);
            place += 1;
            if join.listing.ahead() == Some(&entry.path) {
                let Some((listed, twice)) = join.listing.next_key()? else { break };
                self.key(join, listed, twice || is_marked, Some((entry, origin)))?;
            } else if is_marked {
                self.pending.push_back(Pending { slot: Slot::Same, before: Some((entry, origin)) });
            }
            self.settle(false)?;
        }
        Ok(())
    }

    fn key(&mut self, join: &Join<'r>, listed: Listed, twice: bool, before: Option<Before>) -> Result<()> {
        if twice {
            let problem = join.listing.twice(&listed.path);
            self.tally.problem(&problem, &self.shared.control.progress);
            return Ok(());
        }
        self.object(&join.fetcher, listed, before, join.previous)
    }

    fn object(
        &mut self,
        fetcher: &Arc<Fetcher>,
        listed: Listed,
        before: Option<Before>,
        previous: Option<&Previous<'_>>,
    ) -> Result<()> {
        if let (Some((entry, _)), Some(previous)) = (&before, previous)
            && listed.is_entry(entry)
            && (!self.request.object_tags || attribute(entry).is_some_and(has_tags))
            && (!previous.doubted || self.is_stored(entry, previous)?)
        {
            let progress = &self.shared.control.progress;
            progress.files.fetch_add(1, Ordering::Relaxed);
            progress.bytes.fetch_add(listed.size, Ordering::Relaxed);
            self.pending.push_back(Pending { slot: Slot::Same, before });
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
fn is_excluded(excludes: &Excludes, name: &[u8], path: &[u8]) -> bool {
    let absolute = [name, b"/", path].concat();
    let above = absolute.iter().enumerate().skip(name.len() + 1).filter(|(_, byte)| **byte == b'/');
    above.into_iter().any(|(at, _)| excludes.excludes(&absolute[..at], true)) || excludes.excludes(&absolute, false)
}
