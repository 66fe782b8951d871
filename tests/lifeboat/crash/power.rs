//! What a power cut leaves of the files that a run made: known from its calls, done to its directory once it is dead.
//!
//! The harshest disk that POSIX allows, twice: one that kept nothing it was not told to keep (`lost`), and one that kept every name but
//! no bytes (`torn`). Bytes are durable after an fsync of their file, a name after an fsync of its directory, all after a syncfs.
//! Removals are durable at once, and a file that stood before the run keeps what it held unless the run cut it off.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::trace::Call;

#[derive(Default)]
struct Disk {
    /// Files that the run made or cut off, by their names now.
    files: BTreeMap<PathBuf, usize>,
    made: usize,
    /// Files with bytes that are not durable.
    wet: BTreeSet<usize>,
    /// Names that are not durable, and the durable name that each would have again.
    pending: BTreeMap<PathBuf, Option<PathBuf>>,
}

pub fn lose(calls: &[Call], place: &Path) -> io::Result<()> {
    let disk = Disk::after(calls, place);
    for (name, before) in &disk.pending {
        let gone = match before {
            Some(before) => fs::rename(name, before),
            None if name.is_dir() => fs::remove_dir_all(name),
            None => fs::remove_file(name),
        };
        gone.or_else(nothing_there)?;
    }
    for name in disk.wet_names() {
        fs::File::options().write(true).open(name).and_then(|file| file.set_len(0)).or_else(nothing_there)?;
    }
    Ok(())
}

pub fn tear(calls: &[Call], place: &Path) -> io::Result<()> {
    for name in Disk::after(calls, place).wet_names() {
        let zeroed = fs::File::options().write(true).open(name).and_then(|file| {
            let found = file.metadata()?;
            file.set_len(0)?;
            file.set_len(found.len())?;
            file.set_modified(found.modified()?)
        });
        zeroed.or_else(nothing_there)?;
    }
    Ok(())
}

/// It went with its directory, or before.
fn nothing_there(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

impl Disk {
    fn after(calls: &[Call], place: &Path) -> Self {
        let mut disk = Self::default();
        for call in calls.iter().filter(|call| call.succeeded) {
            match call.paths.as_slice() {
                [path] if path.starts_with(place) => disk.one(call, path),
                [from, to] if to.starts_with(place) => disk.two(&call.name, from, to),
                _ => {}
            }
        }
        disk
    }

    fn one(&mut self, call: &Call, path: &Path) {
        match call.name.as_str() {
            "openat" if call.shown.contains("O_EXCL") => {
                self.new_file(path);
                self.pending.insert(path.to_owned(), None);
            }
            "openat" if call.shown.contains("O_TRUNC") => self.new_file(path),
            "openat" => {}
            "mkdir" | "mkdirat" => drop(self.pending.insert(path.to_owned(), None)),
            "unlink" | "unlinkat" => {
                self.files.remove(path);
                self.pending.remove(path);
            }
            "syncfs" => {
                self.wet.clear();
                self.pending.clear();
            }
            "fsync" | "fdatasync" => {
                if let Some(file) = self.files.get(path) {
                    self.wet.remove(file);
                }
                self.pending.retain(|name, _| name.parent() != Some(path));
            }
            _ => self.wet.extend(self.files.get(path)),
        }
    }

    fn two(&mut self, call: &str, from: &Path, to: &Path) {
        if let Some(file) = self.files.get(from).copied() {
            self.files.insert(to.to_owned(), file);
        }
        match call {
            "link" | "linkat" => drop(self.pending.insert(to.to_owned(), None)),
            _ => {
                self.files.remove(from);
                let before = self.pending.remove(from).unwrap_or_else(|| Some(from.to_owned()));
                self.pending.insert(to.to_owned(), before);
            }
        }
    }

    fn new_file(&mut self, path: &Path) {
        self.made += 1;
        self.files.insert(path.to_owned(), self.made);
        self.wet.insert(self.made);
    }

    fn wet_names(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().filter(|(_, file)| self.wet.contains(file)).map(|(name, _)| name.as_path())
    }
}
