//! Where a test with much to write works.

use std::path::Path;

/// In memory where there is room: disks are slow to sync, and every restore does. Else where temporary files go.
pub fn roomy() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).is_ok_and(|space| space.f_bavail * space.f_frsize >= 2 << 30);
    if room { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}
