//! A repository and a tree of files to try things on.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat::backup::{self, Control, Report, Request};
use lifeboat::clock::{Clock, ManualClock, SystemClock};
use lifeboat::repository::{self, Repository};
use lifeboat::seal::key::Key;
use lifeboat::store::Store;

/// A fresh repository in `store`, opened with its admin key.
pub fn fresh(store: Arc<dyn Store>) -> (Repository, String) {
    let made = repository::init::<repository::Error>(&*store, &SystemClock, None, |_| Ok(())).unwrap();
    let text = made.key.to_text().to_string();
    (Repository::open(store, made.key).unwrap(), text)
}

pub fn reopen(store: Arc<dyn Store>, key: &str) -> Repository {
    Repository::open(store, Key::from_text(key).unwrap()).unwrap()
}

pub fn request(path: &Path) -> Request {
    Request { paths: vec![path.to_owned()], ..Request::default() }
}

/// An hour ahead: files that were just planted are old enough for their times to be trusted.
pub fn later() -> ManualClock {
    ManualClock::at(SystemClock.now().secs + 3600)
}

pub fn backup(repository: &Repository, path: &Path) -> Report {
    backup::run(repository, &later(), &request(path), &Control::default()).unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A small tree with one of most things: text, noise, an empty file, links, a hole, a deep folder.
pub fn plant(root: &Path) -> PathBuf {
    let root = root.join("tree");
    fs::create_dir_all(root.join("docs/deep/er")).unwrap();
    for n in 0..300 {
        fs::write(root.join(format!("docs/note-{n:03}.txt")), format!("note {n}\n").repeat(n + 1)).unwrap();
    }
    fs::write(root.join("docs/deep/er/noise.bin"), noise(700_000, 1)).unwrap();
    fs::write(root.join("large.bin"), noise(18 << 20, 2)).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("twenty"), b"twenty bytes of text").unwrap();
    fs::hard_link(root.join("twenty"), root.join("twenty-too")).unwrap();
    symlink("docs/note-001.txt", root.join("link")).unwrap();
    let sparse = fs::File::create(root.join("sparse.img")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(200_000, 3), 5 << 20).unwrap();
    fs::set_permissions(root.join("docs/deep"), fs::Permissions::from_mode(0o750)).unwrap();
    root
}
