//! What a command shows: data on standard output, talk on standard error.
//!
//! Owns both streams, colour, and the terminal's width. With `--json` each line of talk is a JSON object, whose one or first key says
//! what it is: `note`, `warning`, `hint`, `said` (a command whose output is saved), `error`. Refuses meaning in colour alone, and panics on a closed pipe: whoever
//! stopped reading has seen enough, and the work ends as it would have.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use clap::ColorChoice;
use serde_json::{Map, Value, json};

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
    drawn: Arc<AtomicBool>,
}

/// Whether talk is JSON, for whoever talks when there is no screen at hand: a signal's handler.
static TALKS_JSON: AtomicBool = AtomicBool::new(false);

/// What was said of colour, in the order of what wins: `--no-color`, `NO_COLOR`, a terminal that knows none, `CLICOLOR_FORCE`, `CLICOLOR`.
pub fn color_choice(no_color: bool) -> ColorChoice {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let never = no_color || variable("NO_COLOR").is_some() || is_dumb();
    match (never, variable("CLICOLOR_FORCE").as_deref(), variable("CLICOLOR").as_deref()) {
        (true, _, _) => ColorChoice::Never,
        (false, Some(force), _) if force != "0" => ColorChoice::Always,
        (false, _, Some("0")) => ColorChoice::Never,
        _ => ColorChoice::Auto,
    }
}

/// A terminal that only prints: it would show what moves the cursor and wipes lines.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

impl Screen {
    pub fn new(json: bool, quiet: bool, verbose: u8, no_color: bool) -> Self {
        TALKS_JSON.store(json, Ordering::Relaxed);
        let color = match color_choice(no_color) {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => io::stderr().is_terminal(),
        };
        Self {
            json,
            quiet,
            verbose,
            color: color && !json,
            out: Mutex::new(BufWriter::with_capacity(BUFFER_BYTES, io::stdout())),
            closed: AtomicBool::new(false),
            drawn: Arc::new(AtomicBool::new(false)),
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
            match self.json {
                true => self.labelled("note", text.as_ref()),
                false => self.talk(text.as_ref()),
            }
        }
    }

    /// Shows what a command says, from any thread.
    pub fn listener(&self) -> impl Fn(&str) + Send + Sync + 'static {
        let (drawn, json) = (Arc::clone(&self.drawn), self.json);
        move |text| {
            let wipe = if drawn.swap(false, Ordering::Relaxed) { WIPE } else { "" };
            let text = if json { json!({ "said": text }).to_string() } else { text.to_owned() };
            let _ = writeln!(io::stderr().lock(), "{wipe}{text}");
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
        if self.json {
            return self.talk(&failure.to_json().to_string());
        }
        if let Some(preface) = &failure.preface {
            self.talk(preface);
        }
        for (label, text) in failure.lines() {
            self.labelled(label, &text);
        }
    }

    /// `label: text`, the label in its colour.
    pub fn labelled(&self, label: &str, text: &str) {
        if self.json {
            let fields: Map<String, Value> = [(label.replace(' ', "_"), json!(text))].into_iter().collect();
            return self.talk(&Value::Object(fields).to_string());
        }
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
        let wipe = if self.drawn.swap(false, Ordering::Relaxed) { WIPE } else { "" };
        // Nobody is left to be told that nobody can be told.
        let _ = writeln!(io::stderr().lock(), "{wipe}{text}");
    }

    /// Replaces the progress line.
    pub fn draw(&self, text: &str) {
        self.drawn.store(true, Ordering::Relaxed);
        let mut err = io::stderr().lock();
        // Without wrapping, should the terminal be narrower than it was a moment ago.
        let _ = write!(err, "\x1b[?7l\r{text}\x1b[K\x1b[?7h").and_then(|()| err.flush());
    }

    /// Takes the progress line away.
    pub fn wipe(&self) {
        if self.drawn.swap(false, Ordering::Relaxed) {
            let mut err = io::stderr().lock();
            let _ = write!(err, "{WIPE}").and_then(|()| err.flush());
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the output cannot be written")]
struct OutputError(#[source] io::Error);

/// Goes back to the line's start and empties it.
const WIPE: &str = "\r\x1b[K";

/// Tells of a signal, on a line of its own whatever stands at the cursor.
pub fn tell_of_signal(text: &str) {
    let mut err = io::stderr().lock();
    let _ = match TALKS_JSON.load(Ordering::Relaxed) {
        true => writeln!(err, "{}", json!({ "note": text })),
        false => writeln!(err, "\n{text}"),
    };
}

/// Columns of the terminal behind standard error; none if there is no terminal, or none that can wipe a line.
pub fn progress_width() -> Option<usize> {
    if is_dumb() { None } else { width_of(&io::stderr()) }
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
