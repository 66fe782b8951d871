//! What a command shows: data on standard output, talk on standard error.
//!
//! Owns both streams, colour, and the terminal's width. Refuses meaning in colour alone, and panics on a closed pipe: whoever
//! stopped reading has seen enough, and the work ends as it would have.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::exit::Exit;
use super::failure::{Failure, Result};

/// Text that is gathered before it is written, so that a listing is no flood of system calls.
const BUFFER_BYTES: usize = 64 << 10;

pub struct Screen {
    pub json: bool,
    pub quiet: bool,
    pub verbose: u8,
    /// Whether standard error takes colour.
    pub color: bool,
    out: Mutex<BufWriter<Stdout>>,
    closed: AtomicBool,
    /// Whether the line at the cursor is one that progress drew and may wipe.
    drawn: AtomicBool,
}

impl Screen {
    pub fn new(json: bool, quiet: bool, verbose: u8, no_color: bool) -> Self {
        let wanted = !no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            json,
            quiet,
            verbose,
            color: wanted && !dumb && io::stderr().is_terminal(),
            out: Mutex::new(BufWriter::with_capacity(BUFFER_BYTES, io::stdout())),
            closed: AtomicBool::new(false),
            drawn: AtomicBool::new(false),
        }
    }

    /// Data: one line.
    pub fn line(&self, text: impl AsRef<str>) -> Result<()> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let written = out.write_all(text.as_ref().as_bytes()).and_then(|()| out.write_all(b"\n"));
        drop(out);
        self.judge(written)
    }

    /// Data: the one JSON document of this command.
    pub fn document(&self, value: &serde_json::Value) -> Result<()> {
        self.line(format!("{value:#}"))
    }

    /// Data that is part of a document or of a text with its own line ends.
    pub fn raw(&self, text: &str) -> Result<()> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let written = out.write_all(text.as_bytes());
        drop(out);
        self.judge(written)
    }

    pub fn flush(&self) -> Result<()> {
        let flushed = self.out.lock().unwrap_or_else(PoisonError::into_inner).flush();
        self.judge(flushed)
    }

    fn judge(&self, written: io::Result<()>) -> Result<()> {
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if !self.is_closed() => Err(Failure::new(Exit::Failed, OutputError(error))),
            _ => Ok(()),
        }
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Talk, unless it was asked to be quiet.
    pub fn say(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.talk(text.as_ref());
        }
    }

    /// Something that a person should look at, and that stops nothing.
    pub fn warn(&self, text: impl AsRef<str>) {
        self.labelled("warning", text.as_ref());
    }

    pub fn hint(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.labelled("hint", text.as_ref());
        }
    }

    pub fn fail(&self, failure: &Failure) {
        if let Some(preface) = &failure.preface {
            self.talk(preface);
        }
        for (label, text) in failure.lines() {
            self.labelled(label, &text);
        }
    }

    /// `label: text`, the label in its colour.
    pub fn labelled(&self, label: &str, text: &str) {
        let paint = match label {
            "error" => "\x1b[1;31m",
            "warning" => "\x1b[1;33m",
            _ => "\x1b[1m",
        };
        if self.color {
            self.talk(&format!("{paint}{label}:\x1b[0m {text}"));
        } else {
            self.talk(&format!("{label}: {text}"));
        }
    }

    fn talk(&self, text: &str) {
        // On a terminal the two streams are one page: what was said first stands first. An error shows again at the end.
        let _ = self.flush();
        let wipe = if self.drawn.swap(false, Ordering::Relaxed) { "\r\x1b[K" } else { "" };
        // Nobody is left to be told that nobody can be told.
        let _ = writeln!(io::stderr().lock(), "{wipe}{text}");
    }

    /// Replaces the progress line.
    pub fn draw(&self, text: &str) {
        self.drawn.store(true, Ordering::Relaxed);
        let mut err = io::stderr().lock();
        let _ = write!(err, "\r{text}\x1b[K").and_then(|()| err.flush());
    }

    /// Takes the progress line away.
    pub fn wipe(&self) {
        if self.drawn.swap(false, Ordering::Relaxed) {
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\x1b[K").and_then(|()| err.flush());
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the output cannot be written")]
struct OutputError(#[source] io::Error);

/// Columns of the terminal behind standard error; none if there is no terminal.
pub fn progress_width() -> Option<usize> {
    width_of(&io::stderr())
}

/// Columns of the terminal behind standard output; none if there is no terminal.
pub fn output_width() -> Option<usize> {
    width_of(&io::stdout())
}

fn width_of(stream: &(impl IsTerminal + std::os::fd::AsFd)) -> Option<usize> {
    if !stream.is_terminal() {
        return None;
    }
    let columns = rustix::termios::tcgetwinsize(stream).map_or(0, |size| usize::from(size.ws_col));
    Some(if columns == 0 { 80 } else { columns })
}
