//! A listing of any length, put into the order of trees.
//!
//! Clouds list keys by their bytes, where `a-b` comes before `a/b`, or in no order at all; a tree wants a directory's content right behind its name. Which keys stand between
//! `a` and `a/…` is known only at the end of `a`'s neighbours, which may be the end of the bucket (`2020-01-01` and, perhaps, `2020/`). So all that has to be put in order is sorted: in
//! memory up to `MEMORY_BYTES`, beyond that in sorted runs of a file without a name. A million keys of 60 bytes take about 130 MB of it for as long as
//! the listing is read, and one sequential write and read.
//!
//! Owns the file: it is made where temporary files that may be large go (`TMPDIR`, else `/var/tmp`, else `/tmp`), and is gone with the process. Memory: `MEMORY_BYTES` of
//! records, 12 bytes for each of them, and `READ_BYTES` for each run; a billion keys are about 4,000 runs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Listed;
use crate::names::TreePath;
use crate::pack::entry::Timestamp;
use crate::pack::wire::{Malformed, Reader, put_slice, put_varint, put_zigzag};
use crate::source::nameless;

const MEMORY_BYTES: usize = 32 << 20;
const READ_BYTES: usize = 16 << 10;

/// Takes records in any order.
pub struct Sorter {
    memory_bytes: usize,
    buffer: Buffer,
    spill: Option<File>,
    /// Where runs begin and end in the file.
    runs: Vec<(u64, u64)>,
    end: u64,
}

/// Records one behind the other, and where each is.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Begin, length of the key, length of the record with its key.
    places: Vec<(u32, u32, u32)>,
}

impl Buffer {
    fn key(&self, place: &(u32, u32, u32)) -> &[u8] {
        &self.bytes[place.0 as usize..(place.0 + place.1) as usize]
    }

    fn sort(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        places.sort_by(|a, b| self.key(a).cmp(self.key(b)));
        self.places = places;
    }
}

impl Default for Sorter {
    fn default() -> Self {
        Self::with_memory(MEMORY_BYTES)
    }
}

impl Sorter {
    fn with_memory(memory_bytes: usize) -> Self {
        Self { memory_bytes, buffer: Buffer::default(), spill: None, runs: Vec::new(), end: 0 }
    }

    pub fn push(&mut self, listed: &Listed) -> io::Result<()> {
        let Buffer { bytes, places } = &mut self.buffer;
        let start = bytes.len();
        // With slashes below every other byte, the order of bytes is that of trees.
        bytes.extend(listed.path.as_bytes().iter().map(|byte| if *byte == b'/' { 0 } else { *byte }));
        let key = bytes.len() - start;
        put_varint(bytes, listed.size);
        put_zigzag(bytes, listed.modified.secs);
        put_varint(bytes, u64::from(listed.modified.nanos));
        for text in [&listed.etag, &listed.version] {
            bytes.push(u8::from(text.is_some()));
            put_slice(bytes, text.as_deref().unwrap_or_default().as_bytes());
        }
        let place = |at: usize| u32::try_from(at).map_err(|_| io::Error::other("a listed key is too long"));
        places.push((place(start)?, place(key)?, place(bytes.len() - start)?));
        if bytes.len() >= self.memory_bytes { self.write_run() } else { Ok(()) }
    }

    fn write_run(&mut self) -> io::Result<()> {
        self.buffer.sort();
        let file = match &mut self.spill {
            Some(file) => file,
            none => none.insert(nameless::file()?),
        };
        let start = self.end;
        let mut out = Vec::with_capacity(1 << 20);
        let mut write = |out: &mut Vec<u8>| -> io::Result<()> {
            file.write_all_at(out, self.end)?;
            self.end += out.len() as u64;
            out.clear();
            Ok(())
        };
        for (at, key, len) in &self.buffer.places {
            put_varint(&mut out, u64::from(*key));
            put_slice(&mut out, &self.buffer.bytes[*at as usize..(at + len) as usize]);
            if out.len() >= 1 << 20 {
                write(&mut out)?;
            }
        }
        write(&mut out)?;
        self.runs.push((start, self.end));
        self.buffer.bytes.clear();
        self.buffer.places.clear();
        Ok(())
    }

    /// All records, in order.
    pub fn finish(mut self) -> io::Result<Sorted> {
        self.buffer.sort();
        let mut heap = BinaryHeap::with_capacity(self.runs.len() + 1);
        for (start, end) in self.runs {
            let mut run = Run { offset: start, end, bytes: Vec::new(), at: 0, key: Vec::new(), rest: Vec::new() };
            if run.advance(self.spill.as_ref())? {
                heap.push(Reverse(run));
            }
        }
        Ok(Sorted { spill: self.spill, heap, buffer: self.buffer, next: 0 })
    }
}

/// A sorted stretch of the file, ordered by its next record.
struct Run {
    offset: u64,
    end: u64,
    bytes: Vec<u8>,
    at: usize,
    key: Vec<u8>,
    rest: Vec<u8>,
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Run {}

impl PartialOrd for Run {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Run {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl Run {
    /// Goes to the next record. False at the end.
    fn advance(&mut self, file: Option<&File>) -> io::Result<bool> {
        loop {
            let mut reader = Reader::new(&self.bytes[self.at..]);
            let left = self.bytes.len() - self.at;
            let mut record = || -> Result<(usize, &[u8], usize), Malformed> {
                let key = reader.varint()? as usize;
                let whole = reader.slice()?;
                Ok((key, whole, reader.remaining()))
            };
            if let Ok((key, whole, remaining)) = record()
                && key <= whole.len()
            {
                self.key.clear();
                self.key.extend_from_slice(&whole[..key]);
                self.rest.clear();
                self.rest.extend_from_slice(&whole[key..]);
                self.at += left - remaining;
                return Ok(true);
            }
            let Some(file) = file.filter(|_| self.offset < self.end) else {
                return if left == 0 { Ok(false) } else { Err(changed()) };
            };
            self.bytes.drain(..self.at);
            self.at = 0;
            let kept = self.bytes.len();
            let want = (self.end - self.offset).min(READ_BYTES.max(kept) as u64) as usize;
            self.bytes.resize(kept + want, 0);
            file.read_exact_at(&mut self.bytes[kept..], self.offset)?;
            self.offset += want as u64;
        }
    }
}

/// Records in the order of trees.
pub struct Sorted {
    spill: Option<File>,
    heap: BinaryHeap<Reverse<Run>>,
    buffer: Buffer,
    next: usize,
}

impl Sorted {
    pub fn next_record(&mut self) -> io::Result<Option<Listed>> {
        let place = self.buffer.places.get(self.next);
        let in_memory = place.map(|place| self.buffer.key(place));
        if let Some(mut top) = self.heap.peek_mut()
            && in_memory.is_none_or(|key| top.0.key.as_slice() <= key)
        {
            let listed = decode(&top.0.key, &top.0.rest)?;
            if !top.0.advance(self.spill.as_ref())? {
                PeekMut::pop(top);
            }
            return Ok(Some(listed));
        }
        let Some((at, key, len)) = place else { return Ok(None) };
        let record = &self.buffer.bytes[*at as usize..(at + len) as usize];
        self.next += 1;
        decode(&record[..*key as usize], &record[*key as usize..]).map(Some)
    }
}

fn changed() -> io::Error {
    io::Error::other("the temporary file of the listing was changed")
}

fn decode(key: &[u8], rest: &[u8]) -> io::Result<Listed> {
    let wrong = |_| changed();
    let path = key.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect();
    let path = TreePath::from_bytes(path).map_err(|_| wrong(Malformed("")))?;
    let mut reader = Reader::new(rest);
    let size = reader.varint().map_err(wrong)?;
    let modified = Timestamp { secs: reader.zigzag().map_err(wrong)?, nanos: reader.varint_u32().map_err(wrong)? };
    let mut text = || -> Result<Option<String>, Malformed> {
        let is_some = reader.u8()? == 1;
        let text = reader.slice()?;
        Ok(is_some.then(|| String::from_utf8_lossy(text).into_owned()))
    };
    let (etag, version) = (text().map_err(wrong)?, text().map_err(wrong)?);
    Ok(Listed { path, size, modified, etag, version })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(memory: usize, listed: &[Listed]) -> (Vec<Listed>, usize) {
        let mut sorter = Sorter::with_memory(memory);
        listed.iter().for_each(|one| sorter.push(one).unwrap());
        let runs = sorter.runs.len();
        let mut sorted = sorter.finish().unwrap();
        (std::iter::from_fn(|| sorted.next_record().unwrap()).collect(), runs)
    }

    fn listed(path: &str, size: u64) -> Listed {
        Listed {
            path: TreePath::from_bytes(path.as_bytes().to_vec()).unwrap(),
            size,
            modified: Timestamp { secs: 5 - size as i64, nanos: 7 },
            etag: size.is_multiple_of(2).then(|| format!("\"{size}\"")),
            version: size.is_multiple_of(3).then(|| size.to_string()),
        }
    }

    #[test]
    fn a_directory_follows_its_name_wherever_its_keys_were_listed() {
        let keys = ["2020", "2020-01", "2020-01/x", "2020.log", "2020/a", "2021"];
        assert!(keys.is_sorted(), "as clouds list them");
        let all: Vec<Listed> = keys.iter().enumerate().map(|(at, key)| listed(key, at as u64)).collect();
        for memory in [1, 40, 1 << 20] {
            let (sorted, _) = sorted(memory, &all);
            let paths: Vec<String> = sorted.iter().map(|one| one.path.to_string()).collect();
            assert_eq!(paths, ["2020", "2020/a", "2020-01", "2020-01/x", "2020.log", "2021"]);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_changed_in_memory_or_in_runs(
            parts in prop::collection::vec(("[ab./-]{1,9}", 0u64..50), 0..60), memory in 1usize..600,
        ) {
            let all: Vec<Listed> =
                parts.iter().map(|(key, size)| listed(&crate::bucket::key::to_path(key), *size)).collect();
            let (sorted, _) = sorted(memory, &all);
            prop_assert!(sorted.is_sorted_by_key(|one| one.path.clone()));
            let order = |mut all: Vec<Listed>| {
                all.sort_by(|a, b| a.path.cmp(&b.path).then(a.size.cmp(&b.size)));
                all
            };
            prop_assert_eq!(order(sorted), order(all));
        }
    }

    #[test]
    fn what_is_more_than_memory_goes_to_the_file() {
        let all: Vec<Listed> = (0..20_000).rev().map(|n| listed(&format!("key-{n:06}"), n)).collect();
        let (back, runs) = sorted(64 << 10, &all);
        assert!(runs > 5, "{runs}");
        assert!(back.iter().rev().eq(all.iter()));
    }
}
