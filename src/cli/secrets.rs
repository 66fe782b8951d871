//! Keys and passphrases on their way in and out of files.
//!
//! Owns the mode, the durability and the one-time creation of key files. Refuses secrets as arguments, which every user of the
//! machine can read, and never overwrites a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::exit::{Exit, ExitOf};
use super::failure::{Failure, Result};
use super::screen::Screen;
use crate::seal::key::Key;
use crate::seal::keyfile::KeyFileError;
use crate::seal::sheet;

/// More than any key file or sheet has.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// The key in a file, or on standard input if `path` is `-`. A recovery sheet is as good as a key file.
pub fn read_key(path: &Path, screen: &Screen) -> Result<Key> {
    let text = read(path, "read the key file", screen)?;
    let text = std::str::from_utf8(&text).map_err(|_| not_a_key(path, KeyFileError::NotAKeyFile.into()))?;
    sheet::read(text).map_err(|cause| not_a_key(path, cause))
}

fn not_a_key(path: &Path, cause: sheet::SheetError) -> Failure {
    let newer = matches!(cause, sheet::SheetError::Key(KeyFileError::Version(_)));
    let error = NotAKey { shown: shown(path), cause };
    let failure = Failure::new(if newer { Exit::Failed } else { Exit::WrongKey }, error);
    if newer { failure } else { failure.hint("give a key file, or a recovery sheet: numbered lines with their checks") }
}

#[derive(Debug, thiserror::Error)]
#[error("{shown} holds no key")]
struct NotAKey {
    shown: String,
    #[source]
    cause: sheet::SheetError,
}

/// The passphrase in a file, or on standard input if `path` is `-`: all but one line end.
pub fn read_passphrase(path: &Path, screen: &Screen) -> Result<Zeroizing<Vec<u8>>> {
    let mut text = read(path, "read the passphrase file", screen)?;
    if text.last() == Some(&b'\n') {
        text.pop();
        if text.last() == Some(&b'\r') {
            text.pop();
        }
    }
    if text.is_empty() {
        return Err(Failure::usage(format!("{} holds no passphrase", shown(path))));
    }
    Ok(text)
}

fn shown(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

fn read(path: &Path, doing: &'static str, screen: &Screen) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |cause| Failure::file(doing, path, cause);
    if path == Path::new("-") {
        return take(io::stdin().lock()).map_err(|cause| Failure::new(cause.exit(), StdinError(cause)));
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        screen.warn(format!("{} is open to others (mode {mode:04o}); make it 0600", path.display()));
    }
    take(file).map_err(failed)
}

#[derive(Debug, thiserror::Error)]
#[error("standard input cannot be read")]
struct StdinError(#[source] io::Error);

fn take(from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for all of it from the start: growing would leave copies behind that nothing wipes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX as usize + 1));
    from.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 64 KiB"));
    }
    Ok(bytes)
}

/// A file that was just made for a secret, empty and ours alone. Dropped before `keep`, it is gone.
pub struct NewSecretFile {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl NewSecretFile {
    /// Makes the file with mode 0600. One that exists is refused.
    pub fn create(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Err(Failure::usage("a key is written to a file, not to standard output"));
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = made.map_err(|cause| {
            let exists = cause.kind() == io::ErrorKind::AlreadyExists;
            let failure = Failure::file("create", path, cause);
            if exists { failure.hint("nothing was overwritten; choose another name") } else { failure }
        })?;
        Ok(Self { path: path.to_owned(), file, kept: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `text`, makes it durable, and reads it back.
    pub fn keep(&mut self, text: &str) -> Result<()> {
        self.write(text).map_err(|cause| Failure::file("write", &self.path, cause))?;
        self.kept = true;
        Ok(())
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        self.file.sync_all()?;
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory)?.sync_all()?;
        if take(File::open(&self.path)?)?.as_slice() != text.as_bytes() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not read back as it was written"));
        }
        Ok(())
    }

    /// Takes the file away again: what it holds opens nothing.
    pub fn discard(&mut self) {
        self.kept = false;
    }
}

impl Drop for NewSecretFile {
    fn drop(&mut self) {
        if !self.kept {
            // An empty or useless file is a nuisance, and no harm.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen() -> Screen {
        Screen::new(false, true, 0, true)
    }

    #[test]
    fn a_secret_file_is_ours_alone_and_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut file = NewSecretFile::create(&path).unwrap();
        file.keep("secret\n").unwrap();
        drop(file);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let refused = NewSecretFile::create(&path).err().unwrap();
        assert_eq!(refused.exit, Exit::Conflict);
        assert_eq!(std::fs::read(&path).unwrap(), b"secret\n");
    }

    #[test]
    fn a_secret_file_that_was_not_kept_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        drop(NewSecretFile::create(&path).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_passphrase_loses_one_line_end_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        for (stored, read) in [("pass\n", "pass"), ("pass\r\n", "pass"), (" pass \n\n", " pass \n"), ("pass", "pass")] {
            let path = dir.path().join("p");
            std::fs::write(&path, stored).unwrap();
            assert_eq!(read_passphrase(&path, &screen()).unwrap().as_slice(), read.as_bytes());
        }
        let path = dir.path().join("empty");
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(read_passphrase(&path, &screen()).err().unwrap().exit, Exit::Usage);
    }
}
