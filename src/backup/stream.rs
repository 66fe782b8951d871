//! A stream becomes one file: read and cut by the walk's thread, named, compressed and sealed by the workers.
//!
//! Owns the order of the regions, and what must be true before a stream may be committed: its command ended well, and it gave something.
//! Memory: `workers + 2` regions of about 3 MiB, whose buffers go round; however long the stream, however slow its reader.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, unbounded};

use super::assemble::Lanes;
use super::pipeline::{Job, Shared};
use super::sink::Sink;
use super::tally::Tally;
use super::{Error, Result, StreamRequest};
use crate::names::TreePath;
use crate::pack::entry::{Cut, Entry, Extent, Kind, Timestamp};
use crate::pack::list::ListBuilder;
use crate::pack::record::Time;
use crate::pack::tree::{Root, TreeBuilder};
use crate::source::StreamError;
use crate::source::meta::Owners;
use crate::source::stream::{Read, Stream};

/// Plaintext of a region: about a frame.
const REGION_BYTES: usize = 2 << 20;
/// How long a read of a silent stream takes before cancels, checkpoints and signs of life have their turn.
const PATIENCE: Duration = Duration::from_millis(200);
/// Nobody else may read it where it is restored.
const MODE: u32 = 0o600;

/// Some chunks in a row, on their way to a worker.
pub struct Region {
    number: u64,
    pub bytes: Vec<u8>,
    pub pieces: Vec<Range<usize>>,
    answers: Sender<Answer>,
}

struct Answer {
    number: u64,
    extents: Vec<Extent>,
    buffer: Vec<u8>,
}

impl Region {
    /// Hands in the extents of `pieces`, and the buffer back.
    pub fn answer(self, extents: Vec<Extent>) {
        // Whoever asked is gone only when the run has failed.
        let _ = self.answers.send(Answer { number: self.number, extents, buffer: self.bytes });
    }
}

struct Saving<'s, 'a, 'r> {
    shared: &'s Shared<'a>,
    lanes: &'r Lanes,
    tally: &'r mut Tally<'a>,
    answers: Receiver<Answer>,
    answer: Sender<Answer>,
    sent: u64,
    /// Regions whose extents stand in the list.
    done: u64,
    waiting: BTreeMap<u64, Vec<Extent>>,
    list: ListBuilder,
    spare: Vec<Vec<u8>>,
}

/// Reads the stream to its end and saves it as the only file of its source.
pub fn save<'a>(
    shared: &Shared<'a>,
    lanes: &Lanes,
    tally: &mut Tally<'a>,
    request: &StreamRequest,
    is_new: bool,
    started: Time,
) -> Result<Option<Root>> {
    let progress = shared.control.progress.clone();
    if let Ok(mut current) = progress.current.lock() {
        *current = request.feed.to_string();
    }
    let mut stream = Stream::open(&request.feed, request.listener.clone())?;
    let (answer, answers) = unbounded();
    let (waiting, spare) = (BTreeMap::new(), Vec::new());
    let list = ListBuilder::default();
    let mut saving = Saving { shared, lanes, tally, answers, answer, sent: 0, done: 0, waiting, list, spare };
    let size = saving.regions(&mut stream)?;
    while saving.done < saving.sent {
        saving.receive()?;
    }
    while !stream.ended(PATIENCE)? {
        saving.look_about()?;
    }
    if size == 0 && !request.allow_empty {
        return Err(StreamError::Empty { of: request.feed.to_string() }.into());
    }
    let content = saving.list.finish(&mut Sink(shared))?;
    shared.files_read.fetch_add(1, Ordering::Relaxed);
    progress.files.fetch_add(1, Ordering::Relaxed);
    progress.bytes.fetch_add(size, Ordering::Relaxed);
    tally.counts.files += 1;
    tally.counts.bytes += size;
    if is_new {
        tally.files_new += 1;
    } else {
        tally.files_changed += 1;
    }
    let mut builder = TreeBuilder::new(&shared.ids);
    builder.push(entry(Kind::File { size, content, cut: Cut::Content }, started), None, &mut Sink(shared))?;
    builder.finish(&mut Sink(shared))
}

/// Of nobody's file there is only what we know: who ran the backup, and when it began.
fn entry(kind: Kind, started: Time) -> Entry {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut owners = Owners::default();
    let time = Timestamp { secs: started.secs, nanos: started.nanos };
    Entry {
        path: TreePath::root(),
        kind,
        mode: MODE,
        uid,
        gid,
        user: owners.user(uid),
        group: owners.group(gid),
        mtime: time,
        ctime: time,
        inode: 0,
        link_group: None,
        xattrs: Vec::new(),
    }
}

impl Saving<'_, '_, '_> {
    /// Cuts everything into regions and hands them out. The bytes that came.
    fn regions(&mut self, stream: &mut Stream) -> Result<u64> {
        let max = self.shared.gear.sizes().max;
        let room = REGION_BYTES + 2 * max;
        let (mut buffer, mut filled, mut size, mut at_end) = (vec![0; room], 0, 0u64, false);
        while !at_end || filled > 0 {
            while !at_end && filled < room {
                match stream.read(&mut buffer[filled..], PATIENCE)? {
                    Read::Bytes(count) => {
                        filled += count;
                        size += count as u64;
                    }
                    Read::Nothing => self.look_about()?,
                    Read::End => at_end = true,
                }
            }
            let (mut start, mut pieces) = (0, Vec::new());
            // A boundary is looked for in all the bytes that it may depend on.
            while start < REGION_BYTES && (filled - start >= max || at_end && start < filled) {
                let len = self.shared.gear.cut(&buffer[start..filled]);
                pieces.push(start..start + len);
                start += len;
            }
            if pieces.is_empty() {
                continue;
            }
            let mut next = self.spare.pop().unwrap_or_else(|| vec![0; room]);
            next[..filled - start].copy_from_slice(&buffer[start..filled]);
            filled -= start;
            let bytes = std::mem::replace(&mut buffer, next);
            let region = Region { number: self.sent, bytes, pieces, answers: self.answer.clone() };
            self.hand_out(region)?;
        }
        Ok(size)
    }

    fn hand_out(&mut self, region: Region) -> Result<()> {
        self.sent += 1;
        let mut job = Job::Region(region);
        loop {
            match self.lanes.jobs.send_timeout(job, PATIENCE) {
                Ok(()) => break,
                Err(SendTimeoutError::Timeout(back)) => job = back,
                Err(SendTimeoutError::Disconnected(_)) => return Err(Error::Worker),
            }
            self.look_about()?;
        }
        while self.sent - self.done > self.lanes.workers as u64 + 2 {
            self.receive()?;
        }
        self.look_about()
    }

    /// Waits a moment for an answer.
    fn receive(&mut self) -> Result<()> {
        if let Ok(answer) = self.answers.recv_timeout(PATIENCE) {
            self.take(answer)?;
        }
        self.look_about()
    }

    fn take(&mut self, answer: Answer) -> Result<()> {
        self.spare.push(answer.buffer);
        self.waiting.insert(answer.number, answer.extents);
        while let Some(extents) = self.waiting.remove(&self.done) {
            self.done += 1;
            for extent in extents {
                self.list.push(extent, &mut Sink(self.shared))?;
            }
        }
        Ok(())
    }

    fn look_about(&mut self) -> Result<()> {
        if self.shared.should_stop() {
            return Err(Error::Cancelled);
        }
        while let Ok(answer) = self.answers.try_recv() {
            self.take(answer)?;
        }
        self.tally.look_after(self.shared)
    }
}
