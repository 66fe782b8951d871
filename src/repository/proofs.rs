//! Runs of a near store that this host has proven, so that no command reads them whole again.
//!
//! Owns a file of hashes in the cache directory: one for each run, of its key and its stamp (`Store::stamp`), keyed by the repository's key. Whoever writes to a
//! run's file, or puts another in its place, changes the stamp, and the run is proven anew. Only stamps that the kernel of this host keeps count, so a disk whose
//! change times somebody else may set (a share, a removable disk with a foreign file system) is read whole each time. What the stamp cannot see is a disk that
//! was bent elsewhere and keeps its times: a flipped bit there is found by each block's own seal, and a forgery would need the index key of the group and the raw
//! disk at once. `verify` believes no proof. Refuses to matter: lost or unwritable, runs are read once more.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::names::{ObjectKey, RepositoryId};
use crate::seal::key::{Secret, derive};
use crate::store::Tag;

const HASH_BYTES: usize = 32;
/// A file that is longer is begun anew: far more runs than ever lie side by side.
const PROOFS_MAX: usize = 16 << 10;

pub struct Proofs {
    path: PathBuf,
    key: Secret,
    known: Mutex<HashSet<[u8; HASH_BYTES]>>,
}

impl Proofs {
    /// What is remembered in the cache directory `cache`.
    pub fn in_cache(cache: &Path, repository: RepositoryId, repository_key: &Secret) -> Self {
        let path = cache.join(format!("proven-{repository}"));
        // A torn end is no proof; what stands before it is.
        let bytes = std::fs::read(&path).unwrap_or_default();
        let known: HashSet<_> = bytes.as_chunks::<HASH_BYTES>().0.iter().copied().collect();
        if known.len() > PROOFS_MAX || !bytes.len().is_multiple_of(HASH_BYTES) {
            let _ = std::fs::remove_file(&path);
        }
        Self { path, key: derive("proven runs", repository_key.expose()), known: Mutex::new(known) }
    }

    fn hash(&self, key: &ObjectKey, stamp: Tag) -> [u8; HASH_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(self.key.expose());
        *hasher.update(&stamp.0).update(key.as_str().as_bytes()).finalize().as_bytes()
    }

    pub fn has(&self, key: &ObjectKey, stamp: Tag) -> bool {
        let hash = self.hash(key, stamp);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }

    /// Remembers that the run at `key` was proven while it had this stamp.
    pub fn note(&self, key: &ObjectKey, stamp: Tag) {
        let hash = self.hash(key, stamp);
        if !self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(hash) {
            return;
        }
        let open = || OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path);
        let file = open().or_else(|_| {
            self.path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            open()
        });
        // One write, so that two processes do not write into each other's.
        if let Err(error) = file.and_then(|mut file| file.write_all(&hash)) {
            tracing::debug!(%error, path = %self.path.display(), "a proof is not remembered; the run is read whole again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_of_one_run_one_stamp_and_one_repository_and_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("not/yet/there");
        let (id, secret) = (RepositoryId([1; 16]), Secret::new([2; 32]));
        let (key, other): (ObjectKey, ObjectKey) = ("i/s/a".parse().unwrap(), "i/s/b".parse().unwrap());
        let (stamp, later) = (Tag([3; 16]), Tag([4; 16]));
        Proofs::in_cache(&cache, id, &secret).note(&key, stamp);
        let again = Proofs::in_cache(&cache, id, &secret);
        assert!(again.has(&key, stamp));
        assert!(!again.has(&other, stamp) && !again.has(&key, later));
        assert!(!Proofs::in_cache(&cache, id, &Secret::new([5; 32])).has(&key, stamp));
        assert!(!Proofs::in_cache(&cache, RepositoryId([6; 16]), &secret).has(&key, stamp));
        // Torn: the whole proofs count once more, and the next file is a good one.
        let path = cache.join(format!("proven-{id}"));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(&[9; 5]);
        std::fs::write(&path, bytes).unwrap();
        let torn = Proofs::in_cache(&cache, id, &secret);
        assert!(torn.has(&key, stamp));
        torn.note(&other, stamp);
        assert!(Proofs::in_cache(&cache, id, &secret).has(&other, stamp));
    }
}
