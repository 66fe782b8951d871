//! What this host has proven, so that no command proves it again.
//!
//! Owns a file of facts in the cache directory. There are two kinds:
//!
//! - A run of a near store, whole, was signed by its writer while its file had this stamp (`Store::stamp`). Whoever writes to a run's file, or puts another in its
//!   place, changes the stamp. Only stamps that the kernel of this host keeps count, so a disk whose change times somebody else may set (a share, a removable disk
//!   with a foreign file system) is read whole each time. What the stamp cannot see is a disk that was bent elsewhere and keeps its times: a flipped bit there is
//!   found by each block's own seal, and a forgery would need the index key of the group and the raw disk at once.
//! - The signature of this public key holds for these very bytes in this commit slot or of this mark, and this is the key of the manifest's body. The bytes are read and hashed
//!   each time, so no clock, file system or store is believed; what is spared is the signature's arithmetic and the decapsulation. Whether the certificate names
//!   that public key, whether the writer was revoked, and what the bytes say is asked anew each time.
//!
//! A fact's name is a hash keyed by a secret that only the key file holds (`Key::memory_key`: not the repository key, which other hosts have too), and the body's key
//! is sealed under another such hash. So whoever can write to the cache directory can add no fact, and whoever reads it learns how many there are. `verify` believes
//! none. Refuses to matter: what is lost, torn, forged, another key's or cannot be written is proven once more.
//!
//! Space: 80 bytes a fact. Of stale ones (of runs that were merged, slots that are gone, other keys) there are at most `SPARE`, or as many as there are slots.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use crate::names::{ObjectKey, RepositoryId};
use crate::seal::cipher::{Opener, SegmentSealer, TAG_BYTES};
use crate::seal::key::{Secret, derive};
use crate::seal::sign::PublicKey;
use crate::store::Tag;

const NAME_BYTES: usize = 32;
const SEALED_BYTES: usize = 32 + TAG_BYTES;
const LINE_BYTES: usize = NAME_BYTES + SEALED_BYTES;
/// A file that holds so many more facts than twice the slots of a listing is begun anew.
const SPARE: usize = 16 << 10;
/// A longer one is not read: 800 000 facts.
const FILE_BYTES_MAX: u64 = 64 << 20;

pub struct Proofs {
    path: PathBuf,
    key: Secret,
    inner: Mutex<Inner>,
}

struct Inner {
    known: HashMap<[u8; NAME_BYTES], [u8; SEALED_BYTES]>,
    file: Output,
}

enum Output {
    Closed,
    Open(File),
    /// A line may be torn there: nothing may follow it.
    Failed,
}

/// What may have been proven.
pub struct Fact {
    name: [u8; NAME_BYTES],
    seal: Secret,
}

impl Fact {
    fn new(hasher: &blake3::Hasher) -> Self {
        let mut out = Zeroizing::new([0; NAME_BYTES + 32]);
        hasher.finalize_xof().fill(out.as_mut_slice());
        let (mut name, mut seal) = ([0; NAME_BYTES], Zeroizing::new([0; 32]));
        name.copy_from_slice(&out[..NAME_BYTES]);
        seal.copy_from_slice(&out[NAME_BYTES..]);
        Self { name, seal: Secret::new(*seal) }
    }

    /// One fact has one secret, so its seal's only nonce is never used for two.
    fn seal(&self, secret: &Secret) -> [u8; SEALED_BYTES] {
        let mut sealed = Vec::with_capacity(SEALED_BYTES);
        SegmentSealer::new(&self.seal, Vec::new()).seal_all(secret.expose(), &mut sealed);
        sealed.try_into().expect("32 bytes and a tag")
    }

    fn open(&self, mut sealed: Zeroizing<[u8; SEALED_BYTES]>) -> Option<Secret> {
        let secret = Opener::new(&self.seal).open_segment(0, true, &[], sealed.as_mut_slice()).ok()?;
        secret.as_array().copied().map(Secret::new)
    }
}

impl Proofs {
    /// What is remembered in the cache directory `cache` by holders of a key.
    pub fn in_cache(cache: &Path, repository: RepositoryId, memory_key: &Secret) -> Self {
        let path = cache.join(format!("proven-{repository}"));
        let bytes = read(&path).unwrap_or_else(|| {
            let _ = fs::remove_file(&path);
            Vec::new()
        });
        // A torn end is no fact; what stands before it is.
        let lines = bytes.as_chunks::<LINE_BYTES>().0;
        let mut known = HashMap::with_capacity(lines.len());
        for line in lines {
            if let Some((name, sealed)) = line.split_first_chunk()
                && let Some(sealed) = sealed.as_array()
            {
                known.insert(*name, *sealed);
            }
        }
        let material = Zeroizing::new([&repository.0[..], memory_key.expose()].concat());
        let key = derive("proven", &material); // lines of another form need another purpose: then none of these is known
        Self { path, key, inner: Mutex::new(Inner { known, file: Output::Closed }) }
    }

    /// That the run at `key` was proven while it had this stamp.
    pub fn of_run(&self, key: &ObjectKey, stamp: Tag) -> Fact {
        Fact::new(self.hasher(1).update(&stamp.0).update(key.as_str().as_bytes()))
    }

    /// That `signer` signed `bytes` for the commit slot or the mark `slot`. Its secret: the key of the manifest's body, if this key opens that.
    pub fn of_slot(&self, slot: &ObjectKey, signer: PublicKey, bytes: &[u8]) -> Fact {
        let slot = slot.as_str().as_bytes();
        let mut hasher = self.hasher(2);
        hasher.update(&signer.0).update(&(slot.len() as u64).to_le_bytes()).update(slot);
        Fact::new(hasher.update(bytes))
    }

    fn hasher(&self, kind: u8) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(self.key.expose());
        hasher.update(&[kind]);
        hasher
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The secret of a fact that was proven.
    pub fn recall(&self, fact: &Fact) -> Option<Secret> {
        let sealed = self.lock().known.get(&fact.name).map(|sealed| Zeroizing::new(*sealed))?;
        fact.open(sealed)
    }

    /// Remembers a fact that was proven, with its secret or none.
    pub fn note(&self, fact: &Fact, secret: Option<&Secret>) {
        let sealed = fact.seal(secret.unwrap_or(&Secret::new([0; 32])));
        let mut inner = self.lock();
        if inner.known.insert(fact.name, sealed) == Some(sealed) {
            return;
        }
        let mut line = [0; LINE_BYTES];
        line[..NAME_BYTES].copy_from_slice(&fact.name);
        line[NAME_BYTES..].copy_from_slice(&sealed);
        if let Err(error) = inner.file.append(&self.path, &line) {
            tracing::debug!(%error, path = %self.path.display(), "proofs are not remembered; all is proven again");
        }
    }

    /// Begins the file anew if most of it must be of what is gone. `slots`: how many a listing shows.
    pub fn tidy(&self, slots: usize) {
        let mut inner = self.lock();
        if inner.known.len() > 2 * slots + SPARE {
            let _ = fs::remove_file(&self.path);
            *inner = Inner { known: HashMap::new(), file: Output::Closed };
        }
    }
}

/// All of a file, if it is there and of a size that makes sense.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(_) => return None,
    };
    (bytes.len() as u64 <= FILE_BYTES_MAX).then_some(bytes)
}

impl Output {
    /// One write, so that two processes do not write into each other's lines.
    fn append(&mut self, path: &Path, line: &[u8]) -> io::Result<()> {
        if let Output::Closed = self {
            *self = Output::Failed;
            *self = Output::Open(open(path)?);
        }
        let Output::Open(file) = self else { return Ok(()) }; // it was told
        let written = file.write(line);
        if !matches!(written, Ok(written) if written == line.len()) {
            *self = Output::Failed;
            return written.and(Err(io::ErrorKind::WriteZero.into()));
        }
        Ok(())
    }
}

/// The file, to be written on; one whose end is torn is begun anew.
fn open(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let file = open().or_else(|_| {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        open()
    })?;
    if file.metadata()?.len().is_multiple_of(LINE_BYTES as u64) {
        return Ok(file);
    }
    fs::remove_file(path)?;
    open()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: RepositoryId = RepositoryId([1; 16]);
    const SIGNER: PublicKey = PublicKey([7; 32]);

    fn proofs(cache: &Path) -> Proofs {
        Proofs::in_cache(cache, HOME, &Secret::new([2; 32]))
    }

    fn key(text: &str) -> ObjectKey {
        text.parse().unwrap()
    }

    fn recalled(proofs: &Proofs, fact: &Fact) -> Option<[u8; 32]> {
        proofs.recall(fact).map(|secret| *secret.expose())
    }

    fn file(cache: &Path) -> PathBuf {
        cache.join(format!("proven-{HOME}"))
    }

    #[test]
    fn a_fact_of_a_run_is_of_one_stamp_one_key_file_and_one_repository_and_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("not/yet/there");
        let (run, stamp) = (key("i/s/a"), Tag([3; 16]));
        let noted = proofs(&cache);
        noted.note(&noted.of_run(&run, stamp), None);
        let has = |proofs: &Proofs, run: &ObjectKey, stamp| proofs.recall(&proofs.of_run(run, stamp)).is_some();
        let again = proofs(&cache);
        assert!(has(&again, &run, stamp));
        assert!(!has(&again, &key("i/s/b"), stamp) && !has(&again, &run, Tag([4; 16])));
        assert!(!has(&Proofs::in_cache(&cache, HOME, &Secret::new([5; 32])), &run, stamp));
        let elsewhere = RepositoryId([6; 16]);
        std::fs::copy(file(&cache), cache.join(format!("proven-{elsewhere}"))).unwrap();
        assert!(!has(&Proofs::in_cache(&cache, elsewhere, &Secret::new([2; 32])), &run, stamp));
    }

    #[test]
    fn a_fact_of_a_slot_is_of_one_signer_and_one_string_of_bytes_and_its_secret_is_on_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        let noted = proofs(dir.path());
        let slot = key("s/00000000-aa");
        noted.note(&noted.of_slot(&slot, SIGNER, b"bytes"), Some(&Secret::new([9; 32])));
        let again = proofs(dir.path());
        assert_eq!(recalled(&again, &again.of_slot(&slot, SIGNER, b"bytes")), Some([9; 32]));
        for other in [
            again.of_slot(&key("s/00000000-ab"), SIGNER, b"bytes"),
            again.of_slot(&key("s/00000000-a"), SIGNER, b"abytes"),
            again.of_slot(&slot, PublicKey([8; 32]), b"bytes"),
            again.of_slot(&slot, SIGNER, b"bytez"),
            again.of_slot(&slot, SIGNER, b"byte"),
        ] {
            assert!(again.recall(&other).is_none());
        }
        let bytes = fs::read(file(dir.path())).unwrap();
        assert_eq!(bytes.len(), LINE_BYTES);
        assert!(!bytes.windows(8).any(|window| window == [9; 8]));
    }

    #[test]
    fn a_bent_line_is_no_fact_and_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let noted = proofs(dir.path());
        let fact = noted.of_slot(&key("s/00000000-aa"), SIGNER, b"bytes");
        noted.note(&fact, Some(&Secret::new([9; 32])));
        let good = fs::read(file(dir.path())).unwrap();
        for at in 0..LINE_BYTES {
            let mut bent = good.clone();
            bent[at] ^= 1 << (at % 8);
            fs::write(file(dir.path()), bent).unwrap();
            let again = proofs(dir.path());
            assert!(again.recall(&fact).is_none(), "byte {at}");
            again.note(&fact, Some(&Secret::new([9; 32])));
            assert_eq!(recalled(&proofs(dir.path()), &fact), Some([9; 32]), "byte {at}");
        }
    }

    #[test]
    fn what_stands_before_a_torn_end_counts_once_more_and_the_next_file_is_a_good_one() {
        let dir = tempfile::tempdir().unwrap();
        let first = proofs(dir.path());
        let facts: Vec<Fact> = (0..3).map(|n| first.of_slot(&key("s/00000000-aa"), SIGNER, &[n])).collect();
        first.note(&facts[0], None);
        first.note(&facts[1], None);
        let whole = fs::read(file(dir.path())).unwrap();
        for end in [1, LINE_BYTES - 1, LINE_BYTES + 1, 2 * LINE_BYTES - 1] {
            fs::write(file(dir.path()), &whole[..end]).unwrap();
            let torn = proofs(dir.path());
            assert_eq!(torn.recall(&facts[0]).is_some(), end > LINE_BYTES, "{end}");
            assert!(torn.recall(&facts[1]).is_none());
            torn.note(&facts[2], None);
            assert!(proofs(dir.path()).recall(&facts[2]).is_some(), "{end}");
        }
    }

    #[test]
    fn several_write_at_once_and_a_fact_is_written_once() {
        let dir = tempfile::tempdir().unwrap();
        let facts: Vec<Fact> =
            (0..100).map(|n| proofs(dir.path()).of_slot(&key("s/00000000-aa"), SIGNER, &[n])).collect();
        let open: Vec<Proofs> = (0..4).map(|_| proofs(dir.path())).collect();
        std::thread::scope(|scope| {
            for (own, part) in open.iter().zip(facts.chunks(25)) {
                scope.spawn(|| {
                    part.iter().for_each(|fact| own.note(fact, None));
                    part.iter().for_each(|fact| own.note(fact, None));
                });
            }
        });
        let all = proofs(dir.path());
        assert_eq!(facts.iter().filter(|fact| all.recall(fact).is_some()).count(), 100);
        assert_eq!(fs::metadata(file(dir.path())).unwrap().len(), (100 * LINE_BYTES) as u64);
    }

    #[test]
    fn a_file_that_is_mostly_stale_or_absurdly_long_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(file(dir.path()), (0..(SPARE + 3) as u32 * 20).flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
            .unwrap();
        let long = proofs(dir.path());
        let fact = long.of_slot(&key("s/00000000-aa"), SIGNER, b"bytes");
        long.note(&fact, None);
        long.tidy(2);
        assert!(file(dir.path()).exists(), "as many as a listing of two slots explains");
        long.tidy(1);
        assert!(!file(dir.path()).exists() && long.recall(&fact).is_none());
        long.note(&fact, None);
        assert!(proofs(dir.path()).recall(&fact).is_some());
        File::create(file(dir.path())).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        proofs(dir.path()).note(&fact, None);
        assert_eq!(fs::metadata(file(dir.path())).unwrap().len(), LINE_BYTES as u64);
    }

    #[test]
    fn where_nothing_can_be_written_facts_last_as_long_as_the_process() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(file(dir.path())).unwrap();
        fs::write(dir.path().join("file"), b"in the way").unwrap();
        for cache in [dir.path().to_owned(), dir.path().join("file/cache")] {
            let proofs = proofs(&cache);
            let fact = proofs.of_slot(&key("s/00000000-aa"), SIGNER, b"bytes");
            proofs.note(&fact, None);
            assert!(proofs.recall(&fact).is_some());
        }
    }
}
