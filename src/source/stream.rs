//! A stream as a source: standard input, or what a command writes to its standard output.
//!
//! Owns the pipe, the command and its end. A command is run as it was given, without a shell, in a process group of its own, so that it
//! and all it started can be ended together; it reads nothing, and what it says on standard error is handed on line by line.
//! Refuses to take the end of the bytes for the end of the story: only a command that ended with success gave all it had.
//!
//! No read waits longer than it is told to, so whoever reads can be cancelled while a command is silent. The command's standard error
//! has a thread of its own: neither pipe can fill while the other is waited for.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::names::escape;

/// Lines of standard error that an error repeats.
const LAST_LINES: usize = 5;
/// A line that goes on beyond this is told in pieces.
const LINE_BYTES_MAX: usize = 4 << 10;
/// How long a command has between being asked to end and being ended.
const GRACE: Duration = Duration::from_secs(2);
const MOMENT: Duration = Duration::from_millis(20);
/// The last words of a command that has ended: they lie in the pipe already.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Where the bytes come from.
#[derive(Clone, Debug)]
pub enum Feed {
    StandardInput,
    /// A program and its arguments.
    Command(Vec<OsString>),
}

/// Receives what a command says on standard error, line by line, escaped.
#[derive(Clone)]
pub struct Listener(pub Arc<dyn Fn(&str) + Send + Sync>);

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

/// Nothing can be saved: the stream is not all that it should be.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("no command was given")]
    NoCommand,
    #[error("the command {program} cannot be started")]
    Start {
        program: String,
        #[source]
        cause: io::Error,
    },
    #[error("{of} cannot be read")]
    Read {
        of: String,
        #[source]
        cause: io::Error,
    },
    #[error("the command {program} failed ({status}), so nothing was committed")]
    Failed {
        program: String,
        status: ExitStatus,
        #[source]
        said: Option<Said>,
    },
    #[error(
        "the command {program} was stopped: it wants to ask something on the terminal, and nobody can answer there"
    )]
    Asks { program: String },
    #[error("{of} gave not one byte, so nothing was committed")]
    Empty { of: String },
}

/// The last that a command said.
#[derive(Debug, thiserror::Error)]
#[error("it said last: {}", .0.join("\n           "))]
pub struct Said(Vec<String>);

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    Bytes(usize),
    /// Nothing came in time.
    Nothing,
    End,
}

/// An open stream. Dropped before its end, it ends its command.
pub struct Stream {
    from: OwnedFd,
    running: Option<Running>,
}

struct Running {
    child: Child,
    program: String,
    words: Arc<Words>,
    ended: bool,
}

impl Stream {
    pub fn open(feed: &Feed, listener: Listener) -> Result<Self, StreamError> {
        match feed {
            Feed::StandardInput => {
                let from = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3);
                let from = from.map_err(|errno| StreamError::Read { of: feed.to_string(), cause: errno.into() })?;
                Ok(Self { from, running: None })
            }
            Feed::Command(words) => Self::start(words, listener),
        }
    }

    fn start(words: &[OsString], listener: Listener) -> Result<Self, StreamError> {
        let (program, arguments) = words.split_first().ok_or(StreamError::NoCommand)?;
        let shown = escape(program.as_bytes());
        let failed = |cause| StreamError::Start { program: shown.clone(), cause };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let (output, talk) = (child.stdout.take(), child.stderr.take());
        let words = Arc::new(Words::default());
        let running = Running { child, program: shown.clone(), words: Arc::clone(&words), ended: false };
        let (Some(output), Some(talk)) = (output, talk) else { return Err(failed(io::ErrorKind::BrokenPipe.into())) };
        // From here on a drop ends the command.
        let stream = Self { from: OwnedFd::from(output), running: Some(running) };
        let listen = move || words.hear(talk, &listener);
        std::thread::Builder::new().name("lifeboat-stderr".to_owned()).spawn(listen).map_err(failed)?;
        Ok(stream)
    }

    /// Reads what there is into `buffer`, which is not empty; waits for at most `patience`.
    pub fn read(&mut self, buffer: &mut [u8], patience: Duration) -> Result<Read, StreamError> {
        let wait = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.from, PollFlags::IN)], Some(&wait)) {
            Ok(0) => {
                self.refuse_to_ask()?;
                return Ok(Read::Nothing);
            }
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Read::Nothing),
            Err(errno) => return Err(self.unreadable(errno)),
        }
        match rustix::io::read(&self.from, buffer) {
            Ok(0) => Ok(Read::End),
            Ok(count) => Ok(Read::Bytes(count)),
            Err(Errno::INTR | Errno::AGAIN) => Ok(Read::Nothing),
            Err(errno) => Err(self.unreadable(errno)),
        }
    }

    /// After the last byte: whether the command has ended, and well. Waits for at most `patience`. Standard input just ends.
    pub fn ended(&mut self, patience: Duration) -> Result<bool, StreamError> {
        let Some(running) = &mut self.running else { return Ok(true) };
        let failed = |cause| StreamError::Read { of: "the command's end".to_owned(), cause };
        let deadline = Instant::now() + patience;
        let status = loop {
            match running.child.try_wait().map_err(failed)? {
                Some(status) => break status,
                None if Instant::now() >= deadline => {
                    self.refuse_to_ask()?;
                    return Ok(false);
                }
                None => std::thread::sleep(MOMENT),
            }
        };
        running.ended = true;
        let last = running.words.last();
        if status.success() {
            return Ok(true);
        }
        let said = (!last.is_empty()).then_some(Said(last));
        Err(StreamError::Failed { program: running.program.clone(), status, said })
    }

    /// A command in the background that reads from the terminal is stopped by the kernel, and would be for ever.
    fn refuse_to_ask(&self) -> Result<(), StreamError> {
        let Some(running) = &self.running else { return Ok(()) };
        let Some(pid) = running.pid() else { return Ok(()) };
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let stopped = waitid(WaitId::Pid(pid), options).ok().flatten().and_then(|status| status.stopping_signal());
        if stopped.is_some_and(|signal| [Signal::TTIN.as_raw(), Signal::TTOU.as_raw()].contains(&signal)) {
            return Err(StreamError::Asks { program: running.program.clone() });
        }
        Ok(())
    }

    fn unreadable(&self, errno: Errno) -> StreamError {
        let of = match &self.running {
            None => Feed::StandardInput.to_string(),
            Some(running) => format!("the output of {}", running.program),
        };
        StreamError::Read { of, cause: errno.into() }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.from.as_fd()
    }
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Feed::StandardInput => f.write_str("standard input"),
            Feed::Command(words) => {
                write!(f, "the command {}", escape(words.first().map_or(OsStr::new(""), |word| word).as_bytes()))
            }
        }
    }
}

impl Running {
    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.child.id().try_into().ok()?)
    }
}

impl Drop for Running {
    /// Ends the command with all that it started. Its id is still its own: it was not waited for.
    fn drop(&mut self) {
        let Some(pid) = self.pid().filter(|_| !self.ended) else { return };
        // One that is stopped hears nothing else.
        for signal in [Signal::TERM, Signal::CONT] {
            let _ = kill_process_group(pid, signal);
        }
        let deadline = Instant::now() + GRACE;
        let over = || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
        while Instant::now() < deadline && matches!(over(), Ok(None)) {
            std::thread::sleep(MOMENT);
        }
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// What a command said, and whether it can still say something.
#[derive(Default)]
struct Words {
    state: Mutex<(VecDeque<String>, bool)>,
    silent: Condvar,
}

impl Words {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<String>, bool)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, mut talk: impl io::Read, listener: &Listener) {
        let (mut line, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = talk.read(&mut buffer) {
            for byte in &buffer[..count] {
                // Whoever draws progress over one line ends it with a carriage return.
                if *byte == b'\n' || *byte == b'\r' || line.len() >= LINE_BYTES_MAX {
                    self.tell(&mut line, listener);
                }
                if *byte != b'\n' && *byte != b'\r' {
                    line.push(*byte);
                }
            }
        }
        self.tell(&mut line, listener);
        self.lock().1 = true;
        self.silent.notify_all();
    }

    fn tell(&self, line: &mut Vec<u8>, listener: &Listener) {
        let text = escape(line);
        line.clear();
        if text.is_empty() {
            return;
        }
        (listener.0)(&text);
        let mut state = self.lock();
        if state.0.len() == LAST_LINES {
            state.0.pop_front();
        }
        state.0.push_back(text);
    }

    /// The last lines of a command that has ended. Something that it left running may hold the pipe: it is not waited for.
    fn last(&self) -> Vec<String> {
        let waited = self.silent.wait_timeout_while(self.lock(), LAST_WORDS, |(_, over)| !*over);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.0.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(script: &str) -> (Stream, Arc<Mutex<Vec<String>>>) {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let also = Arc::clone(&heard);
        let feed = Feed::Command(["sh", "-c", script].map(OsString::from).into());
        (
            Stream::open(&feed, Listener(Arc::new(move |line| also.lock().unwrap().push(line.to_owned())))).unwrap(),
            heard,
        )
    }

    fn all(stream: &mut Stream) -> Vec<u8> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 1000]);
        loop {
            match stream.read(&mut buffer, LONG).unwrap() {
                Read::Bytes(count) => bytes.extend_from_slice(&buffer[..count]),
                Read::Nothing => {}
                Read::End => return bytes,
            }
        }
    }

    #[test]
    fn what_a_command_writes_comes_whole_and_what_it_says_is_heard() {
        let (mut stream, heard) = shell("echo to you; echo to them >&2; printf 'half \\033 a line' >&2");
        assert_eq!(all(&mut stream), b"to you\n");
        assert!(stream.ended(LONG).unwrap());
        stream.running.as_ref().unwrap().words.last();
        assert_eq!(*heard.lock().unwrap(), ["to them", "half \\x1b a line"]);
    }

    #[test]
    fn megabytes_on_both_pipes_block_nobody() {
        let script = "dd if=/dev/zero bs=65536 count=32 >&2; dd if=/dev/zero bs=65536 count=32; echo done >&2";
        let (mut stream, heard) = shell(script);
        assert_eq!(all(&mut stream).len(), 2 << 20);
        assert!(stream.ended(LONG).unwrap());
        stream.running.as_ref().unwrap().words.last();
        assert_eq!(heard.lock().unwrap().last().map(String::as_str), Some("done"));
    }

    #[test]
    fn a_command_that_fails_says_how_and_what_it_said_last() {
        let (mut stream, _) = shell("echo some bytes; for n in 1 2 3 4 5 6 7; do echo line $n >&2; done; exit 3");
        all(&mut stream);
        match stream.ended(LONG).unwrap_err() {
            StreamError::Failed { status, said: Some(said), .. } => {
                assert_eq!(status.code(), Some(3));
                assert_eq!(said.0, ["line 3", "line 4", "line 5", "line 6", "line 7"]);
            }
            other => panic!("{other:?}"),
        }
        let (mut killed, _) = shell("kill -9 $$");
        assert_eq!(all(&mut killed), b"");
        assert!(killed.ended(LONG).unwrap_err().to_string().contains("SIGKILL"));
    }

    #[test]
    fn the_end_of_the_bytes_is_not_yet_the_end_of_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let (mut stream, _) = shell(&format!("echo x; exec >&-; read line < '{}'; exit 4", pipe.display()));
        assert_eq!(all(&mut stream), b"x\n");
        assert!(!stream.ended(Duration::from_millis(1)).unwrap());
        std::fs::write(&pipe, "go on\n").unwrap();
        assert!(matches!(stream.ended(LONG), Err(StreamError::Failed { .. })));
    }

    #[test]
    fn a_silent_command_can_be_left_and_takes_its_children_along() {
        let dir = tempfile::tempdir().unwrap();
        let ids = dir.path().join("ids");
        // The second one does not listen.
        let script =
            format!("trap '' TERM; sleep 1000 & echo $$ $! > '{0}.new'; mv '{0}.new' '{0}'; wait; wait", ids.display());
        let (mut stream, _) = shell(&script);
        while !ids.exists() {
            assert_eq!(stream.read(&mut [0; 8], MOMENT).unwrap(), Read::Nothing);
        }
        drop(stream);
        for id in std::fs::read_to_string(&ids).unwrap().split_whitespace() {
            // What was killed takes a moment to be gone; what was not is a sleep of many minutes, and then this test hangs.
            let stat = || std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            while stat().rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X'])) {
                std::thread::sleep(MOMENT);
            }
        }
    }

    #[test]
    fn a_command_that_is_not_there_is_told_by_name() {
        let feed = Feed::Command(vec!["/no/such/program".into()]);
        let error = Stream::open(&feed, Listener(Arc::new(|_| {}))).err().unwrap();
        assert_eq!(error.to_string(), "the command /no/such/program cannot be started");
        let none = Stream::open(&Feed::Command(vec![]), Listener(Arc::new(|_| {})));
        assert!(matches!(none, Err(StreamError::NoCommand)));
    }
}
