//! What `backup` was asked to save: paths, lists of paths, or a stream.
//!
//! Owns the reading of lists and which ways of asking exclude each other. A list is taken word for word: no comments, no patterns, no
//! quotes, no blanks cut off, so that what `find` prints is what is saved. Refuses to look at what is listed.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::failure::{Failure, Result};
use super::screen::Screen;
use super::{Globals, cloud, place};
use crate::backup::StreamRequest;
use crate::bucket::Bucket;
use crate::names::TreePath;
use crate::source::stream::{Feed, Listener};

#[derive(Args)]
pub struct Intake {
    /// Files and directories to save, or buckets (s3://BUCKET/PREFIX, gs://…, az://…); `-` saves what comes on standard input, as one file
    #[arg(value_name = "PATH", required_unless_present_any = ["files_from", "files_from0"])]
    paths: Vec<PathBuf>,
    /// Save the paths in this file too, one in a line, taken word for word; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    files_from: Vec<PathBuf>,
    /// The same with a NUL after each path, as `find -print0` writes them
    #[arg(long, value_name = "FILE")]
    files_from0: Vec<PathBuf>,
    /// The PATHs are a command: run it without a shell, and save what it writes, as one file, if it succeeds
    #[arg(long, conflicts_with_all = ["files_from", "files_from0"])]
    command: bool,
    /// The name of that one file, or its path in the snapshot
    #[arg(long, value_name = "NAME", default_value = "stdin", conflicts_with_all = ["files_from", "files_from0"])]
    stdin_name: OsString,
    /// Save it even if not one byte comes
    #[arg(long, conflicts_with_all = ["files_from", "files_from0"])]
    allow_empty: bool,
}

/// What is to be saved.
pub enum Wanted {
    Places { paths: Vec<PathBuf>, buckets: Vec<Bucket> },
    Listed(Vec<PathBuf>),
    Stream(StreamRequest),
}

impl Intake {
    pub fn wanted(&self, globals: &Globals, screen: &Screen) -> Result<Wanted> {
        let input = Path::new("-");
        let from_input = !self.command && self.paths.iter().any(|path| path == input);
        let lists = self.files_from.iter().chain(&self.files_from0);
        let readers = usize::from(from_input)
            + lists.clone().filter(|file| *file == input).count()
            + [&globals.key, &globals.passphrase_file].iter().filter(|file| file.as_deref() == Some(input)).count();
        if readers > 1 {
            let sentence = "standard input can be read once, and `-` stands for it more than once";
            return Err(Failure::usage(sentence).hint("give the key as a file: --key FILE"));
        }
        if self.command || from_input {
            return self.stream(screen, from_input).map(Wanted::Stream);
        }
        if self.allow_empty || self.stdin_name != "stdin" {
            let sentence = "--stdin-name and --allow-empty are about one file that comes as a stream";
            return Err(Failure::usage(sentence).hint("name `-` as the PATH, or add --command"));
        }
        if lists.count() == 0 {
            let (buckets, words) = cloud::split(&self.paths)?;
            let mut paths: Vec<PathBuf> = Vec::new();
            for path in &words {
                let path = absolute(path)?;
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
            return Ok(Wanted::Places { paths, buckets });
        }
        let mut places = Places::default();
        let (buckets, words) = cloud::split(&self.paths)?;
        if let Some(bucket) = buckets.first() {
            let sentence = format!("{} stands beside a list of files, which is a snapshot of its own", bucket.url());
            return Err(Failure::usage(sentence).hint("run `lifeboat backup` once for each"));
        }
        for path in &words {
            places.add(&absolute(path)?);
        }
        for (files, separator) in [(&self.files_from, b'\n'), (&self.files_from0, 0)] {
            for file in files {
                self.read_list(file, separator, &mut places)?;
            }
        }
        if places.found.is_empty() {
            let sentence = "there is nothing to save: the list names no path";
            return Err(Failure::usage(sentence).hint("look whether what wrote the list failed; nothing was saved"));
        }
        Ok(Wanted::Listed(places.found))
    }

    fn stream(&self, screen: &Screen, from_input: bool) -> Result<StreamRequest> {
        let feed = if self.command {
            Feed::Command(self.paths.iter().map(|word| word.clone().into_os_string()).collect())
        } else {
            Feed::StandardInput
        };
        if from_input && self.paths.len() > 1 {
            let sentence = "what comes on standard input is a snapshot of its own: other PATHs cannot stand beside `-`";
            return Err(Failure::usage(sentence).hint("run `lifeboat backup` once for each"));
        }
        if from_input && std::io::stdin().is_terminal() {
            let sentence = "standard input is a terminal: nothing is piped into `lifeboat backup -`";
            return Err(
                Failure::usage(sentence).hint("write `COMMAND | lifeboat backup -`, or better `--command -- COMMAND`")
            );
        }
        let path = place::absolute(&self.stdin_name)?;
        let name = TreePath::from_bytes(path[1..].to_vec()).ok().filter(|name| !name.is_root());
        let name = name.ok_or_else(|| {
            Failure::usage(format!("{:?} is no name for a file", self.stdin_name.to_string_lossy()))
                .hint("--stdin-name takes a name such as db.sql, or a path such as /dumps/db.sql")
        })?;
        Ok(StreamRequest { name, feed, listener: Listener(Arc::new(screen.listener())), allow_empty: self.allow_empty })
    }

    fn read_list(&self, file: &Path, separator: u8, places: &mut Places) -> Result<()> {
        let failed = |cause| Failure::file("read the list of files", file, cause);
        let bytes = if file == Path::new("-") {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).map_err(failed)?;
            bytes
        } else {
            std::fs::read(file).map_err(failed)?
        };
        for (number, entry) in bytes.split(|byte| *byte == separator).enumerate().filter(|(_, entry)| !entry.is_empty())
        {
            if entry.contains(&0) {
                let sentence = format!("line {} of {} holds a NUL, which is in no path", number + 1, file.display());
                return Err(Failure::usage(sentence).hint("--files-from0 reads lists with a NUL after each path"));
            }
            let path = Path::new(OsStr::from_bytes(entry));
            places.add(&absolute(path).unwrap_or_else(|_| plain(path)));
        }
        Ok(())
    }
}

/// Listed paths, each where it really is: a list may lead through links, and a snapshot holds what it holds in one place.
#[derive(Default)]
struct Places {
    found: Vec<PathBuf>,
    /// What the directories of listed paths are called without links.
    real: HashMap<PathBuf, PathBuf>,
}

impl Places {
    fn add(&mut self, path: &Path) {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return self.found.push(path.to_owned());
        };
        let real = match self.real.get(parent) {
            Some(real) => real,
            None => {
                // One that is not there stays as it is written: the backup tells that it is missing.
                let real = parent.canonicalize().unwrap_or_else(|_| parent.to_owned());
                if real != parent {
                    let link = parent.ancestors().filter(|above| above.is_symlink()).last();
                    self.found.extend(link.map(Path::to_owned));
                }
                self.real.entry(parent.to_owned()).or_insert(real)
            }
        };
        self.found.push(real.join(name));
    }
}

/// The path as the kernel sees it from here. A `..` goes where links lead, so the kernel is asked.
fn absolute(path: &Path) -> Result<PathBuf> {
    let failed = |cause| Failure::file("find", path, cause);
    if path.as_os_str().is_empty() {
        return Err(Failure::usage("a PATH is empty").hint("look at the quotes and variables around it"));
    }
    let absolute = std::path::absolute(path).map_err(failed)?;
    if !absolute.components().any(|part| part == Component::ParentDir) {
        return Ok(absolute.components().collect());
    }
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize().map_err(failed)?.join(name)),
        _ => absolute.canonicalize().map_err(failed),
    }
}

/// A listed path whose `..` leads nowhere, as it reads: it is reported missing under that name.
fn plain(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| Path::new("/").join(path));
    let mut plain = PathBuf::from("/");
    for part in whole.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::Normal(name) => plain.push(name),
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_dots_goes_where_the_kernel_would_go() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("real/inner")).unwrap();
        std::os::unix::fs::symlink(dir.join("real/inner"), dir.join("link")).unwrap();
        assert_eq!(absolute(&dir.join("link/../x")).unwrap(), dir.join("real/x"));
        assert_eq!(absolute(&dir.join("link/..")).unwrap(), dir.join("real"));
        assert_eq!(absolute(&dir.join("./link/")).unwrap(), dir.join("link"));
        assert_eq!(plain(&dir.join("gone/../x")), dir.join("x"));
    }

    #[test]
    fn a_listed_path_stands_where_it_is_and_the_link_to_it_is_saved_too() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("real/inner")).unwrap();
        std::os::unix::fs::symlink("real", dir.join("link")).unwrap();
        let mut places = Places::default();
        places.add(&dir.join("link/inner/a"));
        places.add(&dir.join("link/inner/b"));
        places.add(&dir.join("link"));
        assert_eq!(
            places.found,
            [dir.join("link"), dir.join("real/inner/a"), dir.join("real/inner/b"), dir.join("link")]
        );
    }
}
