//! Copies of a remote store's objects, in a directory of this host.
//!
//! Owns the files: 0600 in directories of 0700, written under a temporary name and renamed, never fsynced. Each ends in a trailer of 48 bytes: the
//! length of what stands before, the BLAKE3 of the key and those bytes (zero where the copy is read by parts, each of which has a seal of its own), and
//! a magic. So a copy that a power cut tore is seen, and is as good as none. Refuses to matter: the first error of a write is told once and ends all
//! writing, and whoever reads goes to the store. Several processes share a directory: names are published whole, and removed by whoever likes.
//!
//! Space: only small and metadata objects are kept, about a thousandth of what is stored. What a listing no longer shows is removed.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Listed;
use crate::names::ObjectKey;

/// Folders of keys of which copies may exist: small objects, the index, metadata packs.
pub(super) const FOLDERS: [&str; 7] = ["config/", "writers/", "revoked/", "s/", "t/", "i/", "m/"];
const TMP: &str = "tmp";
/// A copy in the making that nobody has written to for so long is nobody's.
const STALE: std::time::Duration = std::time::Duration::from_secs(86_400);
/// A copy so large is read so often that it stays open. Of runs, which are merged by powers of eight, there are a few dozen; packs are asked for one after another.
const LARGE_BYTES: u64 = 8 << 20;
const MAGIC: [u8; 8] = *b"LIFECOPY";
const HASH_BYTES: usize = 32;
const TRAILER_BYTES: usize = 8 + HASH_BYTES + MAGIC.len();
/// The trailer's hash of a copy that is read by parts.
const BY_PARTS: [u8; HASH_BYTES] = [0; HASH_BYTES];

struct Directory {
    root: PathBuf,
    /// Nothing more is written.
    failed: AtomicBool,
    next: AtomicU64,
    /// Copies that were found bad: each is given a second chance once.
    doubted: Mutex<HashSet<ObjectKey>>,
}

/// The copies of one store. Clones share the directory.
#[derive(Clone)]
pub struct Copies {
    directory: Arc<Directory>,
    /// Set: only what was kept through this value and its clones is believed.
    believed: Option<Arc<Mutex<HashSet<ObjectKey>>>>,
}

/// A copy that is read by parts. It holds no open file unless it is large: there may be thousands of others.
pub struct Copy {
    path: PathBuf,
    size: u64,
    file: Option<File>,
}

/// A copy in the making. Dropped before `keep`, it leaves nothing.
pub struct NewCopy {
    copies: Copies,
    file: File,
    path: PathBuf,
    /// Bytes appended so far.
    end: u64,
    whole: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hash(key: &ObjectKey, bytes: &[u8]) -> [u8; HASH_BYTES] {
    *blake3::Hasher::new().update(key.as_str().as_bytes()).update(&[0]).update(bytes).finalize().as_bytes()
}

fn trailer(len: u64, hash: [u8; HASH_BYTES]) -> Vec<u8> {
    [&len.to_le_bytes()[..], &hash, &MAGIC].concat()
}

/// Length and hash, if `bytes` end in a trailer that fits them.
fn parse(bytes: &[u8], len: u64) -> Option<[u8; HASH_BYTES]> {
    let trailer = bytes.get(bytes.len().checked_sub(TRAILER_BYTES)?..)?;
    let (told, rest) = trailer.split_first_chunk::<8>()?;
    let (hash, magic) = rest.split_first_chunk::<HASH_BYTES>()?;
    (u64::from_le_bytes(*told) == len && *magic == MAGIC).then_some(*hash)
}

impl Copies {
    /// Copies below `root`, which is made when the first is kept.
    pub fn at(root: PathBuf) -> Self {
        let directory =
            Directory { root, failed: AtomicBool::new(false), next: AtomicU64::new(0), doubted: Mutex::default() };
        Self { directory: Arc::new(directory), believed: None }
    }

    /// The same directory, believing nothing that stands there now.
    pub fn fresh(&self) -> Self {
        Self { directory: self.directory.clone(), believed: Some(Arc::default()) }
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.directory.root.join(key.as_str())
    }

    fn believes(&self, key: &ObjectKey) -> bool {
        self.believed.as_ref().is_none_or(|believed| lock(believed).contains(key))
    }

    /// Has a fresh view believe one copy all the same.
    pub fn believe(&self, key: &ObjectKey) {
        if let Some(believed) = &self.believed {
            lock(believed).insert(key.clone());
        }
    }

    /// Whether copies can be kept, as far as is known.
    pub fn work(&self) -> bool {
        !self.directory.failed.load(Ordering::Relaxed)
    }

    /// All of a copy that was kept whole.
    pub fn get(&self, key: &ObjectKey) -> Option<Vec<u8>> {
        if !self.believes(key) {
            return None;
        }
        let path = self.path(key);
        let mut bytes = fs::read(&path).ok()?;
        let len = bytes.len().saturating_sub(TRAILER_BYTES);
        match parse(&bytes, len as u64) {
            Some(told) if told == hash(key, &bytes[..len]) => {
                bytes.truncate(len);
                Some(bytes)
            }
            _ => {
                let _ = fs::remove_file(path); // torn; the store has it
                None
            }
        }
    }

    /// A copy whose parts prove themselves to whoever reads them.
    pub fn open(&self, key: &ObjectKey) -> Option<Copy> {
        if !self.believes(key) {
            return None;
        }
        let path = self.path(key);
        let file = File::open(&path).ok()?;
        let size = (|| -> io::Result<Option<u64>> {
            let Some(size) = file.metadata()?.len().checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
            let mut end = [0; TRAILER_BYTES];
            file.read_exact_at(&mut end, size)?;
            Ok(parse(&end, size).map(|_| size))
        })();
        match size {
            Ok(Some(size)) => Some(Copy { path, size, file: (size >= LARGE_BYTES).then_some(file) }),
            _ => {
                let _ = fs::remove_file(path); // torn
                None
            }
        }
    }

    pub fn has(&self, key: &ObjectKey) -> bool {
        self.open(key).is_some()
    }

    /// Keeps `bytes` as the copy of the object at `key`.
    pub fn keep(&self, key: &ObjectKey, bytes: &[u8]) {
        if let Some(mut copy) = self.begin() {
            copy.append(bytes);
            copy.publish(key, hash(key, bytes));
        }
    }

    /// Begins a copy whose bytes come by and by; none if nothing can be written.
    pub fn begin(&self) -> Option<NewCopy> {
        if !self.work() {
            return None;
        }
        let number = self.directory.next.fetch_add(1, Ordering::Relaxed);
        let tmp = self.directory.root.join(TMP);
        let path = tmp.join(format!("{}-{:x}-{number}", std::process::id(), Arc::as_ptr(&self.directory).addr()));
        let open = || OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(&path);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_directory(&tmp).and_then(|()| open()),
            opened => opened,
        };
        match file {
            Ok(file) => Some(NewCopy { copies: self.clone(), file, path, end: 0, whole: true }),
            Err(error) => {
                self.fail(&path, &error);
                None
            }
        }
    }

    /// Drops a copy that was found bad. True: there was one, and what the store has was not tried instead of it before.
    pub fn forget(&self, key: &ObjectKey) -> bool {
        let stood = self.believes(key) && fs::remove_file(self.path(key)).is_ok();
        if let Some(believed) = &self.believed {
            lock(believed).remove(key);
        }
        let first = lock(&self.directory.doubted).insert(key.clone());
        if stood && first {
            tracing::debug!(%key, "a copy on this host was bad; the store is asked again");
        }
        stood && first
    }

    /// Removes a copy whose object is gone.
    pub fn remove(&self, key: &ObjectKey) {
        let _ = fs::remove_file(self.path(key));
    }

    /// Removes copies below `prefix` of what a complete listing of it does not show, or shows with another size.
    pub fn only(&self, prefix: &str, listed: &[Listed]) {
        if "config/".starts_with(prefix) {
            self.sweep(); // so about once for each command
        }
        for folder in FOLDERS {
            if folder.starts_with(prefix) || prefix.starts_with(folder) {
                self.clean(&self.directory.root.join(folder), folder.trim_end_matches('/'), prefix, listed);
            }
        }
    }

    /// Removes what ended processes left.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.directory.root.join(TMP)) else { return };
        for entry in entries.flatten() {
            let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|at| at.elapsed());
            if age.is_ok_and(|age| age.is_ok_and(|age| age > STALE)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn clean(&self, directory: &Path, name: &str, prefix: &str, listed: &[Listed]) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            let Some(key) = entry.file_name().to_str().map(|last| format!("{name}/{last}")) else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                if key.starts_with(prefix) || prefix.starts_with(&key) {
                    self.clean(&entry.path(), &key, prefix, listed);
                }
                continue;
            }
            let stands = listed
                .binary_search_by(|listed| listed.key.as_str().cmp(&key))
                .is_ok_and(|at| metadata.len() == listed[at].size + TRAILER_BYTES as u64);
            if key.starts_with(prefix) && !stands {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn fail(&self, path: &Path, error: &io::Error) {
        if !self.directory.failed.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, path = %path.display(), "the cache cannot be written; the run goes on without it");
        }
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Copy {
    /// Bytes of the object.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Exactly the bytes of `range`.
    pub fn read(&self, range: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
        if range.start > range.end || range.end > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        match &self.file {
            Some(file) => file.read_exact_at(&mut bytes, range.start)?,
            None => File::open(&self.path)?.read_exact_at(&mut bytes, range.start)?,
        }
        Ok(bytes)
    }
}

impl NewCopy {
    pub fn append(&mut self, bytes: &[u8]) {
        let at = self.end;
        self.end += bytes.len() as u64;
        if !self.write_at(at, bytes) {
            self.whole = false;
        }
    }

    /// Writes a part at its place. False: it could not be written, and the copy is not to be kept.
    pub fn write_at(&self, at: u64, bytes: &[u8]) -> bool {
        match self.file.write_all_at(bytes, at) {
            Ok(()) => true,
            Err(error) => {
                self.copies.fail(&self.path, &error);
                false
            }
        }
    }

    /// What was written so far, to be read again.
    pub fn read(&self, range: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    /// Says how long it is, where parts were written at their places.
    pub fn ends_at(&mut self, size: u64) {
        self.end = size;
    }

    /// Publishes a copy that is read by parts.
    pub fn keep(self, key: &ObjectKey) {
        self.publish(key, BY_PARTS);
    }

    fn publish(self, key: &ObjectKey, hash: [u8; HASH_BYTES]) {
        if !self.whole || !self.write_at(self.end, &trailer(self.end, hash)) {
            return;
        }
        let path = self.copies.path(key);
        let published = match fs::rename(&self.path, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), make_directory).and_then(|()| fs::rename(&self.path, &path))
            }
            renamed => renamed,
        };
        match published {
            Ok(()) => {
                if let Some(believed) = &self.copies.believed {
                    lock(believed).insert(key.clone());
                }
            }
            Err(error) => self.copies.fail(&path, &error),
        }
    }
}

impl Drop for NewCopy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // renamed, if it was kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn key(text: &str) -> ObjectKey {
        text.parse().unwrap()
    }

    fn copies() -> (tempfile::TempDir, Copies) {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::at(dir.path().join("of-one-store"));
        (dir, copies)
    }

    #[test]
    fn a_copy_comes_back_and_is_nobody_elses_to_read() {
        let (dir, copies) = copies();
        let slot = key("s/00000000-aa");
        copies.keep(&slot, b"manifest");
        assert_eq!(copies.get(&slot).unwrap(), b"manifest");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let root = dir.path().join("of-one-store");
        assert_eq!((mode(&root), mode(&root.join("s")), mode(&root.join("s/00000000-aa"))), (0o700, 0o700, 0o600));
        assert_eq!(fs::read_dir(root.join(TMP)).unwrap().count(), 0);
    }

    #[test]
    fn a_torn_or_bent_copy_is_none() {
        let (dir, copies) = copies();
        let slot = key("s/00000000-aa");
        let path = dir.path().join("of-one-store/s/00000000-aa");
        for tear in [0usize, 1, 7, 20, 55] {
            copies.keep(&slot, b"manifest");
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..tear]).unwrap();
            assert_eq!(copies.get(&slot), None, "{tear}");
            assert!(!path.exists());
        }
        for bit in 0..(8 + TRAILER_BYTES) * 8 {
            copies.keep(&slot, b"manifest");
            let mut bytes = fs::read(&path).unwrap();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            assert_eq!(copies.get(&slot), None, "{bit}");
        }
        let pack = key("m/aa/pack");
        let mut new = copies.begin().unwrap();
        new.append(b"parts");
        new.keep(&pack);
        assert_eq!(copies.open(&pack).unwrap().read(1..4).unwrap(), b"art");
        assert!(copies.open(&pack).unwrap().read(1..6).is_err());
        File::options().write(true).open(dir.path().join("of-one-store/m/aa/pack")).unwrap().set_len(20).unwrap();
        assert!(copies.open(&pack).is_none());
    }

    #[test]
    fn a_fresh_view_believes_only_what_it_kept_itself() {
        let (_dir, copies) = copies();
        let (old, new) = (key("s/old"), key("s/new"));
        copies.keep(&old, b"old");
        let fresh = copies.fresh();
        assert_eq!(fresh.get(&old), None);
        fresh.keep(&new, b"new");
        assert_eq!(fresh.get(&new).unwrap(), b"new");
        fresh.believe(&old);
        assert_eq!(fresh.get(&old).unwrap(), b"old");
        assert_eq!(copies.get(&old).unwrap(), b"old");
        assert_eq!(copies.get(&new).unwrap(), b"new");
    }

    #[test]
    fn what_a_listing_does_not_show_goes_and_the_rest_stays() {
        let (_dir, copies) = copies();
        let keys = ["s/a", "s/b", "s/c", "i/d/x", "i/s/y", "config/00000000"].map(key);
        keys.iter().for_each(|key| copies.keep(key, b"four"));
        let listed = [("s/a", 4), ("s/b", 5)].map(|(name, size)| Listed { key: key(name), size, tag: None });
        copies.only("s/", &listed);
        copies.only("i/d/", &[]);
        copies.only("w/", &[]);
        let left: Vec<bool> = keys.iter().map(|key| copies.get(key).is_some()).collect();
        assert_eq!(left, [true, false, false, false, true, true]);
        copies.only("", &[]);
        assert!(keys.iter().all(|key| copies.get(key).is_none()));
    }

    #[test]
    fn where_nothing_can_be_written_nothing_is_kept_and_nobody_fails() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"in the way").unwrap();
        let copies = Copies::at(dir.path().join("file/cache"));
        let slot = key("s/00000000-aa");
        copies.keep(&slot, b"manifest");
        assert!(copies.get(&slot).is_none() && copies.begin().is_none() && !copies.work());
        copies.only("", &[]);
    }

    #[test]
    fn a_full_disk_ends_the_writing_and_nothing_else() {
        let (dir, copies) = copies();
        let (slot, pack) = (key("s/00000000-aa"), key("m/aa/pack"));
        copies.keep(&slot, b"manifest");
        let file = File::options().write(true).open("/dev/full").unwrap();
        let mut new = NewCopy { copies: copies.clone(), file, path: dir.path().join("none"), end: 0, whole: true };
        new.append(b"bytes");
        new.keep(&pack);
        assert!(!copies.work() && copies.begin().is_none() && !copies.has(&pack));
        assert_eq!(copies.get(&slot).unwrap(), b"manifest", "what was kept is still of use");
    }

    #[test]
    fn a_bad_copy_is_doubted_once() {
        let (_dir, copies) = copies();
        let slot = key("s/00000000-aa");
        assert!(!copies.forget(&slot), "there is none");
        let other = key("s/00000000-bb");
        copies.keep(&other, b"bad");
        assert!(copies.forget(&other));
        copies.keep(&other, b"bad again");
        assert!(!copies.forget(&other), "the store itself has it so");
    }
}
