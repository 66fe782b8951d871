//! What can go wrong with a source, and with one file of it.
//!
//! Owns the two kinds of trouble and their sentences. Refuses to decide what makes a run partial: it only says which is which.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::names::escape;

/// Nothing can be saved: the root or the excludes are not usable.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("tags of objects are read from S3 alone, and {bucket} is another kind of cloud")]
    NoTags { bucket: String },
    #[error("the source {} does not exist", escape(root))]
    Missing { root: Vec<u8> },
    #[error("the source {} cannot be read", escape(root))]
    Unreadable {
        root: Vec<u8>,
        #[source]
        cause: io::Error,
    },
    #[error("none of the {listed} paths in the list exists; the first is {}", escape(first))]
    NoneListed { listed: usize, first: Vec<u8> },
    #[error("{pattern:?} is not a pattern")]
    Pattern {
        pattern: String,
        #[source]
        cause: ignore::Error,
    },
    #[error("a pattern is empty")]
    EmptyPattern,
    #[error("the pattern {pattern:?} stands for a path below {}, whose name is not UTF-8", escape(base))]
    PatternBase { pattern: String, base: Vec<u8> },
    #[error("the file of patterns {} cannot be read", path.display())]
    PatternFile {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("line {line} of the file {} is not a pattern", path.display())]
    PatternLine {
        path: PathBuf,
        line: usize,
        #[source]
        cause: ignore::Error,
    },
}

/// One file or directory that was not saved, or not whole. Everything else still is.
///
/// Shown as one sentence of path and kind; its cause is the kind's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Absolute, raw bytes; shown escaped.
    pub path: Vec<u8>,
    pub kind: ProblemKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProblemKind {
    /// It was listed and is gone: as if the backup had begun a moment later.
    #[error("vanished before it was saved")]
    Vanished,
    /// Another file took its name, or its content moved under our hands.
    #[error("changed while it was being saved")]
    Changed,
    /// The kernel refused. `verb` completes the sentence "could not be …".
    #[error("could not be {verb}")]
    Unreadable {
        verb: &'static str,
        #[source]
        errno: Errno,
    },
}

impl Problem {
    /// Whether something that is there was not saved as it is, so that the run is partial. A vanished file is no loss.
    pub fn is_loss(&self) -> bool {
        self.kind != ProblemKind::Vanished
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", escape(&self.path), self.kind)
    }
}

impl Error for Problem {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.kind.source()
    }
}

impl ProblemKind {
    /// What an errno means to a file that stood there a moment ago.
    pub(super) fn from_errno(verb: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Vanished,
            // O_NOFOLLOW met a link, O_DIRECTORY met no directory, an open met a socket or a device without driver.
            Errno::LOOP | Errno::NOTDIR | Errno::NXIO => Self::Changed,
            errno => Self::Unreadable { verb, errno },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_escaped_sentence_with_its_cause_apart() {
        let kind = ProblemKind::from_errno("opened", Errno::ACCESS);
        let problem = Problem { path: b"/srv/a\x1b[2J\xff".to_vec(), kind };
        assert_eq!(problem.to_string(), "/srv/a\\x1b[2J\\xff could not be opened");
        assert_eq!(problem.source().map(ToString::to_string), Some(Errno::ACCESS.to_string()));
        assert!(problem.is_loss());
    }

    #[test]
    fn only_what_vanished_is_no_loss() {
        let loss = |errno| Problem { path: vec![], kind: ProblemKind::from_errno("read", errno) }.is_loss();
        assert!(!loss(Errno::NOENT));
        assert!(loss(Errno::LOOP) && loss(Errno::IO) && loss(Errno::ACCESS));
    }
}
