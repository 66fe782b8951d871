//! The names of one directory, sorted, in little memory.
//!
//! Owns the bytes of the names and their order. Refuses to look at what a name stands for.

use std::cmp::Ordering;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

/// What one `getdents` may fill: the most that glibc ever asks for too, and some hundreds of names a call.
pub(super) const BUFFER_BYTES: usize = 64 << 10;

/// A listing that once held more than this is not kept for reuse.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// All names of one directory in two pieces of memory: 17 bytes for each name beside the name itself. A million names of
/// 24 bytes are 41 MB for as long as that directory is walked; half as much again at worst, since vectors grow ahead.
#[derive(Default)]
pub(super) struct Listing {
    /// Every name with its NUL, in the order of the kernel.
    bytes: Vec<u8>,
    names: Vec<Name>,
}

#[derive(Clone, Copy)]
struct Name {
    /// The first eight bytes, big-endian, zero where the name is shorter: decides most comparisons without a look at
    /// `bytes`. A name holds no NUL, so zero stands before whatever a longer name has there.
    prefix: u64,
    /// Where it starts in `bytes`, with its `FileType` in the lowest four bits.
    place: u64,
}

impl Listing {
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The `index`th name in byte order, and its type where the file system told (else `Unknown`).
    pub fn name(&self, index: usize) -> Option<(&CStr, FileType)> {
        let name = self.names.get(index)?;
        Some((self.text(*name)?, FileType::from_raw_mode(((name.place & 0xf) << 12) as u32)))
    }

    pub fn position(&self, wanted: &CStr) -> Option<usize> {
        let found = self.names.binary_search_by(|name| match self.text(*name) {
            Some(text) => text.to_bytes().cmp(wanted.to_bytes()),
            None => Ordering::Less,
        });
        found.ok()
    }

    /// Forgets all names but one.
    pub fn keep_only(&mut self, index: usize) {
        if index < self.names.len() {
            self.names.swap(0, index);
            self.names.truncate(1);
        }
    }

    /// Reads all names of `dir`. After an error it holds, sorted, those that came before it.
    pub fn read(&mut self, dir: impl AsFd, buffer: &mut [MaybeUninit<u8>]) -> Result<(), Errno> {
        self.bytes.clear();
        self.names.clear();
        let mut entries = RawDir::new(dir, buffer);
        let mut result = Ok(());
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) => self.push(entry.file_name(), entry.file_type()),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    result = Err(errno);
                    break;
                }
            }
        }
        self.sort();
        result
    }

    /// Holds these names, whose types nobody told. One with a NUL within is no name.
    pub fn fill<'n>(&mut self, names: impl Iterator<Item = &'n [u8]>) {
        self.bytes.clear();
        self.names.clear();
        for name in names.filter_map(|name| CString::new(name).ok()) {
            self.push(&name, FileType::Unknown);
        }
        self.sort();
    }

    fn push(&mut self, name: &CStr, file_type: FileType) {
        let text = name.to_bytes();
        if text == b"." || text == b".." {
            return;
        }
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

    pub fn is_small(&self) -> bool {
        self.bytes.capacity() + self.names.capacity() * size_of::<Name>() <= KEPT_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listing(names: &[Vec<u8>]) -> Listing {
        let mut listing = Listing::default();
        for name in names {
            listing.push(&CString::new(name.clone()).unwrap(), FileType::Symlink);
        }
        listing.sort();
        listing
    }

    proptest! {
        #[test]
        fn names_come_in_byte_order(ends in prop::collection::vec("[\x01a-]{1,4}", 0..40), shared in 0usize..12) {
            let names: Vec<Vec<u8>> =
                ends.iter().map(|end| [&b"\xffbcdefghijkl"[..shared], end.as_bytes()].concat()).collect();
            let listing = listing(&names);
            let got: Vec<Vec<u8>> = (0..listing.len()).map(|i| listing.name(i).unwrap().0.to_bytes().to_vec()).collect();
            let mut expected = names;
            expected.sort();
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn dots_are_left_out_and_types_survive() {
        let listing = listing(&[b".".to_vec(), b"..".to_vec(), b"...".to_vec()]);
        assert_eq!(listing.len(), 1);
        assert_eq!(listing.name(0), Some((c"...", FileType::Symlink)));
        assert_eq!(listing.name(1), None);
    }

    #[test]
    fn a_name_is_found_and_kept_alone() {
        let mut listing = listing(&[b"b".to_vec(), b"CACHEDIR.TAG".to_vec(), b"a".to_vec()]);
        assert_eq!(listing.position(c"CACHEDIR"), None);
        let at = listing.position(c"CACHEDIR.TAG").unwrap();
        listing.keep_only(at);
        assert_eq!(listing.len(), 1);
        assert_eq!(listing.name(0).unwrap().0, c"CACHEDIR.TAG");
    }
}
