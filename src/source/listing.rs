//! The names of one directory, sorted, in little memory.
//!
//! Owns the bytes of the names and their order, and the file that they are sorted through where they are too many. Refuses to look at what a name stands for.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use super::nameless;

/// What one `getdents` may fill: the most that glibc ever asks for too, and some hundreds of names a call.
pub(super) const BUFFER_BYTES: usize = 64 << 10;

/// A listing that once held more than this is not kept for reuse.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Of each sorted run in a file.
const READ_BYTES: usize = 16 << 10;
const WRITE_BYTES: usize = 256 << 10;

pub(super) const CACHEDIR_TAG: &CStr = c"CACHEDIR.TAG";

/// All names of one directory. In memory they are in two pieces, 17 bytes for each name beside the name itself; once that is more than the room they are
/// given, in sorted runs of a file without a name, and then only `READ_BYTES` of each run are in memory. Ten million names of 24 bytes in 16 MiB are 26 runs.
#[derive(Default)]
pub(super) struct Listing {
    /// Every name with its NUL, in the order of the kernel.
    bytes: Vec<u8>,
    names: Vec<Name>,
    /// The next of `names`.
    next: usize,
    spilt: Option<Spilt>,
    /// No file could be had; memory takes it all.
    unspillable: bool,
    has_tag: bool,
}

#[derive(Clone, Copy)]
struct Name {
    /// The first eight bytes, big-endian, zero where the name is shorter: decides most comparisons without a look at
    /// `bytes`. A name holds no NUL, so zero stands before whatever a longer name has there.
    prefix: u64,
    /// Where it starts in `bytes`, with its `FileType` in the lowest four bits.
    place: u64,
}

/// Names in a file: sorted runs of a type, a name and its NUL each.
struct Spilt {
    file: File,
    runs: Vec<Range<u64>>,
    heap: BinaryHeap<Reverse<Run>>,
    /// The run in front was given out and has to move on.
    given: bool,
}

/// A sorted run being read, ordered by its name at hand.
struct Run {
    left: Range<u64>,
    bytes: Vec<u8>,
    at: usize,
    kind: u8,
    /// With its NUL.
    name: Vec<u8>,
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Run {}

impl PartialOrd for Run {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Run {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name.cmp(&other.name)
    }
}

impl Run {
    /// To the next name. False: there is none.
    fn advance(&mut self, file: &File) -> io::Result<bool> {
        loop {
            let rest = &self.bytes[self.at..];
            if let Some(nul) = rest.iter().skip(1).position(|byte| *byte == 0) {
                self.kind = rest[0];
                self.name.clear();
                self.name.extend_from_slice(&rest[1..nul + 2]);
                self.at += nul + 2;
                return Ok(true);
            }
            if self.left.is_empty() {
                return if rest.is_empty() { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            self.bytes.drain(..self.at);
            self.at = 0;
            let (start, now) = (self.bytes.len(), (self.left.end - self.left.start).min(READ_BYTES as u64));
            self.bytes.resize(start + now as usize, 0);
            file.read_exact_at(&mut self.bytes[start..], self.left.start)?;
            self.left.start += now;
        }
    }
}

impl Spilt {
    /// Brings the first name of each run, and of `rest`, which found no place in the file.
    fn begin(&mut self, rest: Vec<u8>) -> io::Result<()> {
        let run = |left, bytes| Run { left, bytes, at: 0, kind: 0, name: Vec::new() };
        let in_file = self.runs.drain(..).map(|range| run(range, Vec::new()));
        for mut run in in_file.chain([run(0..0, rest)]) {
            if run.advance(&self.file)? {
                self.heap.push(Reverse(run));
            }
        }
        Ok(())
    }

    /// Has the next name in front; none there: they are through.
    fn turn(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.given, true)
            && let Some(mut front) = self.heap.peek_mut()
            && !front.0.advance(&self.file)?
        {
            PeekMut::pop(front);
        }
        Ok(())
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

fn type_of(kind: u64) -> FileType {
    FileType::from_raw_mode(((kind & 0xf) << 12) as u32)
}

impl Listing {
    /// The next name in byte order, and its type where the file system told (else `Unknown`). An error ends the names.
    pub fn next(&mut self) -> Option<Result<(&CStr, FileType), Errno>> {
        if self.spilt.is_none() {
            let name = *self.names.get(self.next)?;
            self.next += 1;
            return Some(Ok((self.text(name)?, type_of(name.place))));
        }
        if let Err(error) = self.spilt.as_mut()?.turn() {
            self.spilt = None;
            return Some(Err(errno(error)));
        }
        let Reverse(run) = self.spilt.as_ref()?.heap.peek()?;
        Some(Ok((CStr::from_bytes_with_nul(&run.name).ok()?, type_of(u64::from(run.kind)))))
    }

    /// Whether one of them is `CACHEDIR.TAG`.
    pub fn has_tag(&self) -> bool {
        self.has_tag
    }

    /// Forgets all names but this one.
    pub fn keep_only(&mut self, name: &CStr) {
        self.clear();
        self.push(name, FileType::Unknown);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.names.clear();
        (self.next, self.spilt, self.unspillable, self.has_tag) = (0, None, false, false);
    }

    /// Reads all names of `dir`, in `room` bytes of memory. After an error it holds, sorted, those that came before it.
    pub fn read(&mut self, dir: impl AsFd, buffer: &mut [MaybeUninit<u8>], room: usize) -> Result<(), Errno> {
        self.clear();
        let mut entries = RawDir::new(dir, buffer);
        let mut result = Ok(());
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) => self.take(entry.file_name(), entry.file_type(), room),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    result = Err(errno);
                    break;
                }
            }
        }
        result.and(self.finish())
    }

    fn take(&mut self, name: &CStr, file_type: FileType, room: usize) {
        self.push(name, file_type);
        if self.bytes.len() + self.names.len() * size_of::<Name>() >= room && !self.unspillable {
            self.spill();
        }
    }

    /// Holds these names, whose types nobody told. One with a NUL within is no name.
    pub fn fill<'n>(&mut self, names: impl Iterator<Item = &'n [u8]>) {
        self.clear();
        for name in names.filter_map(|name| CString::new(name).ok()) {
            self.push(&name, FileType::Unknown);
        }
        self.sort();
    }

    /// No more names come. An error: what is in the file cannot be read.
    fn finish(&mut self) -> Result<(), Errno> {
        if self.spilt.is_none() {
            self.sort();
            return Ok(());
        }
        // The rest as well, so that no memory is held while the directory is walked.
        self.spill();
        let Some(mut spilt) = self.spilt.take() else { return Ok(()) };
        self.sort();
        let mut rest = Vec::new(); // empty, unless the file had no room for it
        self.names.iter().for_each(|name| self.record(*name, &mut rest));
        (self.bytes, self.names) = Default::default();
        let begun = spilt.begin(rest);
        self.spilt = Some(spilt);
        begun.map_err(errno)
    }

    /// Moves all names to the file, unless that fails.
    fn spill(&mut self) {
        self.sort();
        match self.write_run() {
            Ok(()) => {
                self.bytes.clear();
                self.names.clear();
            }
            Err(error) => {
                tracing::warn!(%error, "a large directory is listed in memory");
                self.unspillable = true;
            }
        }
    }

    fn write_run(&mut self) -> io::Result<()> {
        let mut spilt = match self.spilt.take() {
            Some(spilt) => spilt,
            None => Spilt { file: nameless::file()?, runs: Vec::new(), heap: BinaryHeap::new(), given: false },
        };
        let start = spilt.runs.last().map_or(0, |run| run.end);
        let (mut end, mut out, mut result) = (start, Vec::with_capacity(WRITE_BYTES + 512), Ok(()));
        for (at, name) in (1..).zip(&self.names) {
            self.record(*name, &mut out);
            if result.is_ok() && (out.len() >= WRITE_BYTES || at == self.names.len()) {
                result = spilt.file.write_all_at(&out, end);
                end += out.len() as u64;
                out.clear();
            }
        }
        if result.is_ok() {
            spilt.runs.push(start..end);
        }
        // Earlier runs are needed all the same.
        self.spilt = Some(spilt);
        result
    }

    /// A name as it stands in the file.
    fn record(&self, name: Name, out: &mut Vec<u8>) {
        if let Some(text) = self.text(name) {
            out.push((name.place & 0xf) as u8);
            out.extend_from_slice(text.to_bytes_with_nul());
        }
    }

    fn push(&mut self, name: &CStr, file_type: FileType) {
        let text = name.to_bytes();
        if text == b"." || text == b".." {
            return;
        }
        self.has_tag |= name == CACHEDIR_TAG;
        let mut prefix = [0; 8];
        let shared = text.len().min(8);
        prefix[..shared].copy_from_slice(&text[..shared]);
        let kind = if file_type == FileType::Unknown { 0 } else { u64::from(file_type.as_raw_mode() >> 12) & 0xf };
        let place = (self.bytes.len() as u64) << 4 | kind;
        self.names.push(Name { prefix: u64::from_be_bytes(prefix), place });
        self.bytes.extend_from_slice(name.to_bytes_with_nul());
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        let rest = |name: &Name| {
            let from = &bytes[((name.place >> 4) as usize).min(bytes.len())..];
            CStr::from_bytes_until_nul(from).map_or(&b""[..], CStr::to_bytes)
        };
        self.names.sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix).then_with(|| rest(a).cmp(rest(b))));
    }

    fn text(&self, name: Name) -> Option<&CStr> {
        self.bytes.get((name.place >> 4) as usize..).and_then(|from| CStr::from_bytes_until_nul(from).ok())
    }

    /// Bytes of memory that it takes.
    pub fn held(&self) -> usize {
        let runs = self.spilt.as_ref().map_or(0, |spilt| spilt.heap.len() * 2 * READ_BYTES);
        self.bytes.capacity() + self.names.capacity() * size_of::<Name>() + runs
    }

    pub fn is_small(&self) -> bool {
        self.held() <= KEPT_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listing(names: &[Vec<u8>], room: usize) -> Listing {
        let mut listing = Listing::default();
        for name in names {
            listing.take(&CString::new(name.clone()).unwrap(), FileType::Symlink, room);
        }
        listing.finish().unwrap();
        listing
    }

    fn all(mut listing: Listing) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        while let Some(next) = listing.next() {
            let (name, file_type) = next.unwrap();
            assert_eq!(file_type, FileType::Symlink);
            names.push(name.to_bytes().to_vec());
        }
        names
    }

    proptest! {
        #[test]
        fn names_come_in_byte_order_through_memory_and_through_files(
            ends in prop::collection::btree_set("[\x01a-]{1,6}", 0..60), shared in 0usize..12, room in 1usize..3000
        ) {
            let mut names: Vec<Vec<u8>> =
                ends.iter().map(|end| [&b"\xffbcdefghijkl"[..shared], end.as_bytes()].concat()).collect();
            names.sort_by_key(|name| blake3::hash(name).as_bytes().to_owned());
            let (near, far) = (listing(&names, usize::MAX), listing(&names, room));
            prop_assert!(near.spilt.is_none());
            prop_assert!(room > 100 || names.len() < 10 || far.spilt.is_some());
            names.sort();
            prop_assert_eq!(all(near), names.clone());
            prop_assert_eq!(all(far), names);
        }
    }

    #[test]
    fn names_longer_than_what_is_read_at_once_survive() {
        let names = [vec![b'b'; 3 * READ_BYTES], vec![b'a'; READ_BYTES - 1], vec![b'a'; READ_BYTES]];
        assert_eq!(all(listing(&names, 1)), [names[1].clone(), names[2].clone(), names[0].clone()]);
    }

    #[test]
    fn what_finds_no_room_in_a_file_stays_in_memory() {
        let mut listing = Listing::default();
        listing.take(c"b", FileType::Symlink, 1);
        let spilt = listing.spilt.as_mut().unwrap();
        // It can be read, and no longer written to.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&spilt.file));
        spilt.file = File::open(path).unwrap();
        listing.take(c"c", FileType::Symlink, 1);
        listing.take(c"a", FileType::Symlink, 1);
        assert_eq!(listing.names.len(), 2);
        listing.finish().unwrap();
        assert_eq!(all(listing), [b"a", b"b", b"c"]);
    }

    #[test]
    fn dots_are_left_out_and_types_survive() {
        for room in [1, usize::MAX] {
            let mut listing = listing(&[b".".to_vec(), b"..".to_vec(), b"...".to_vec()], room);
            assert_eq!(listing.next(), Some(Ok((c"...", FileType::Symlink))));
            assert_eq!(listing.next(), None);
        }
    }

    #[test]
    fn a_tag_is_seen_and_kept_alone() {
        for room in [1, usize::MAX] {
            let mut listing = listing(&[b"b".to_vec(), b"CACHEDIR.TAG".to_vec(), b"a".to_vec()], room);
            assert!(listing.has_tag());
            listing.keep_only(CACHEDIR_TAG);
            assert_eq!(listing.next().unwrap().unwrap().0, CACHEDIR_TAG);
            assert_eq!(listing.next(), None);
            listing.clear();
            assert!(!listing.has_tag());
        }
        assert!(!listing(&[b"CACHEDIR".to_vec()], 1).has_tag());
    }
}
