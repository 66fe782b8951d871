//! `lifeboat dump`: the content of a file, or a directory as a tar stream.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::place::Place;
use super::select::Latest;
use super::text::{count, plural};
use super::{Context, interrupt, ls, open, pick};
use crate::browse::dump::{NewFile, Sink, Stream, pump};
use crate::browse::near::There;
use crate::browse::tar::{self, Written};
use crate::browse::{Error, Result as BrowseResult};
use crate::names::escape;
use crate::pack::entry::Kind;
use crate::repository::{ChunkReader, Snapshots};
use crate::units::ByteCount;

const HELP: &str = "\
Every byte is checked before it is written. An archive is a pax tar with
owners, modes, times, links and extended attributes; GNU tar brings all of
it back with

  tar --xattrs --xattrs-include='*' --numeric-owner -xpf FILE

Sockets have no place in a tar: they are named, and the command ends with 3.

Examples:
  lifeboat dump latest:/etc/fstab
  lifeboat dump latest:/var/backups/db.sql.gz | zcat | psql
  lifeboat dump 3f2a9c1b:/srv/disk.img --to /tmp/disk.img
  lifeboat dump latest:/etc --archive tar | tar -tv
  lifeboat dump latest:/etc --archive tar --to etc.tar";

#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// `latest` or an id, and the path of a file, or of a directory with --archive
    #[arg(value_name = "SNAPSHOT:PATH")]
    place: OsString,
    /// Write a new file, with holes where the original had some, and never over another one
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Pack what lies at PATH into an archive
    #[arg(long, value_name = "FORMAT")]
    archive: Option<Archive>,
    #[command(flatten)]
    latest: Latest,
}

#[derive(Clone, Copy, ValueEnum)]
enum Archive {
    /// POSIX tar (pax)
    Tar,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    let place = Place::parse(&arguments.place)?;
    if screen.json && arguments.to.is_none() {
        return Err(Failure::usage("--json has no room beside content on standard output").hint("write it --to FILE"));
    }
    let path = match (&place.path, arguments.archive) {
        (Some(path), _) => path.as_slice(),
        (None, Some(_)) => b"/",
        (None, None) => {
            let sentence = format!("{} names a snapshot and no file in it", place.snapshot);
            return Err(Failure::usage(sentence).hint(format!(
                "write {0}:/PATH; `lifeboat ls {0}` lists paths, and --archive tar packs all of it",
                place.snapshot
            )));
        }
    };
    let repository = open::repository(globals, screen)?;
    repository.need_reader("giving out content")?;
    let selection = arguments.latest.selection(&repository, &place.snapshot)?;
    let cancel = Arc::new(AtomicBool::new(false));
    interrupt::watch(cancel.clone())?;
    let snapshots = Snapshots::list(&repository)?;
    let snapshot = pick::snapshot(screen, &snapshots, &place.snapshot, &selection)?;
    let index = ls::load_index(&repository, screen)?;
    let reader = ChunkReader::new(&repository, &index, snapshot.writer)?;
    let there = match path {
        b"/" => There::Above,
        path => pick::there(&repository, &reader, snapshot, path)?,
    };
    let content = match (&there, arguments.archive) {
        (_, Some(Archive::Tar)) => None,
        (There::Entry(entry), None) => match &entry.kind {
            Kind::File { size, content, .. } => Some((*size, content)),
            kind => return Err(no_file(&arguments.place, path, Some(kind))),
        },
        (_, None) => return Err(no_file(&arguments.place, path, None)),
    };
    let is_directory = match &there {
        There::Entry(entry) => entry.kind.is_directory(),
        _ => true,
    };
    let mut out = match &arguments.to {
        Some(file) => Out::create(file)?,
        None => Out::standard()?,
    };
    if content.is_none() && arguments.to.is_none() && io::stdout().is_terminal() {
        return Err(Failure::usage("an archive is nothing for a terminal")
            .hint("pipe it to another program, or give --to FILE"));
    }
    let work = |pump: &mut crate::browse::dump::Pump<'_>| -> BrowseResult<Written> {
        match content {
            Some((size, content)) => pump.file(&reader, content, size).map(|()| Written::default()),
            None => tar::archive(&repository, &reader, snapshot, path, is_directory, pump),
        }
    };
    let (written, bytes) = match pump(&repository, &index, &reader, snapshot.writer, out.sink(), &cancel, work) {
        Ok(written) => written,
        // Whoever stopped reading has seen enough.
        Err(Error::Output { cause, .. }) if cause.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Done),
        Err(error) => return Err(out.give_up(error)),
    };
    out.keep()?;
    for path in &written.left_out {
        screen.warn(format!("{} has no place in a tar and was left out", escape(path)));
    }
    if let Some(to) = &arguments.to {
        if screen.json {
            screen.document(&json!({
                "snapshot": snapshot.id.to_string(),
                "path": super::text::bytes_json(path),
                "to": super::text::path_json(to),
                "archive": arguments.archive.map(|_| "tar"),
                "bytes": bytes,
                "entries": arguments.archive.map(|_| written.entries),
                "left_out": written.left_out.iter().map(|path| super::text::bytes_json(path)).collect::<Vec<_>>(),
            }))?;
        } else {
            let entries = match arguments.archive {
                Some(_) => format!("{} in ", plural(written.entries, "entry", "entries")),
                None => String::new(),
            };
            screen.say(format!("wrote {entries}{} ({} bytes) to {}", ByteCount(bytes), count(bytes), to.display()));
        }
    }
    if written.left_out.is_empty() {
        return Ok(Exit::Done);
    }
    let left = plural(written.left_out.len() as u64, "entry", "entries");
    Err(Failure::new(Exit::Losses, format!("{left} could not be put into the archive"))
        .hint("`lifeboat restore` brings them back"))
}

fn no_file(place: &OsString, path: &[u8], kind: Option<&Kind>) -> Failure {
    let place = place.to_string_lossy();
    match kind {
        None | Some(Kind::Directory) => Failure::usage(format!("{} is a directory", escape(path)))
            .hint(format!("`lifeboat dump {place} --archive tar` packs it; `lifeboat ls {place}` lists it")),
        Some(Kind::Symlink { target }) => {
            Failure::usage(format!("{} is a link to {}", escape(path), escape(target))).hint("name what it leads to")
        }
        Some(kind) => Failure::usage(format!("{} is a {} and has no content", escape(path), super::find::word(kind))),
    }
}

/// Where bytes go that are no text of this program.
pub struct Out {
    sink: Box<dyn Sink>,
    /// A file that was made here, until it is whole.
    unfinished: Option<PathBuf>,
}

impl Out {
    /// Standard output, past the buffer that gathers lines.
    pub fn standard() -> Result<Self> {
        let duplicate = io::stdout().as_fd().try_clone_to_owned();
        let file = File::from(duplicate.map_err(|cause| Failure::new(Exit::Failed, cause))?);
        Ok(Self { sink: Box::new(Stream(file)), unfinished: None })
    }

    fn create(path: &Path) -> Result<Self> {
        let made = File::options().write(true).create_new(true).mode(0o600).open(path);
        let file = made.map_err(|cause| match cause.kind() {
            io::ErrorKind::AlreadyExists => Failure::new(Exit::Conflict, format!("{} exists already", path.display()))
                .hint("choose another name: nothing is overwritten"),
            _ => Failure::file("create", path, cause),
        })?;
        Ok(Self { sink: Box::new(NewFile::new(file)), unfinished: Some(path.to_owned()) })
    }

    pub fn sink(&mut self) -> &mut dyn Sink {
        &mut *self.sink
    }

    /// All at once; a closed pipe is no error.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self.sink.write(bytes).and_then(|()| self.sink.finish()) {
            Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::Output { what: "the output".into(), cause }.into())
            }
            _ => Ok(()),
        }
    }

    /// The file is whole: it stays, and so does its name.
    fn keep(mut self) -> Result<()> {
        let Some(path) = self.unfinished.take() else { return Ok(()) };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(|cause| Failure::file("make durable", &path, cause))
    }

    /// A file that is not whole goes away again.
    fn give_up(mut self, error: Error) -> Failure {
        let Some(path) = self.unfinished.take() else { return error.into() };
        let error = match error {
            Error::Output { cause, .. } => Error::Output { what: path.display().to_string(), cause },
            error => error,
        };
        match std::fs::remove_file(&path) {
            Ok(()) => error.into(),
            Err(_) => Failure::from(error).hint(format!("{} is not whole: remove it", path.display())),
        }
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if let Some(path) = &self.unfinished {
            // Nothing more can be done about it here.
            let _ = std::fs::remove_file(path);
        }
    }
}
