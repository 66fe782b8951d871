//! Temporary files for what sorting would take too much memory for.
//!
//! Owns where they lie: where temporary files that may be large go. They have no name, and are gone with the process.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

/// A file that nobody else can open and that needs no removal: in `TMPDIR`, else in `/var/tmp`, else in `/tmp`.
pub(super) fn file() -> io::Result<File> {
    let wished = std::env::var_os("TMPDIR").map(PathBuf::from);
    let places = wished.into_iter().chain(["/var/tmp".into(), "/tmp".into()]);
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for place in places {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(&place, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => return Ok(file.into()),
            Err(errno) => {
                failed = io::Error::new(
                    io::Error::from(errno).kind(),
                    format!("a temporary file for the listing cannot be made in {}: {errno}", place.display()),
                );
            }
        }
    }
    Err(failed)
}
