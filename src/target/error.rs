//! What goes wrong at a target, what could not be set, and what was left out on purpose: three different things.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::names::{TreePath, escape};

pub type Result<T> = std::result::Result<T, TargetError>;

/// Why a call on a target did nothing, or stopped. Paths are whole: the target's own, then the one inside it.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("no space or inodes left to {verb} {}", shown(path))]
    Full {
        verb: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the quota is used up: cannot {verb} {}", shown(path))]
    Quota {
        verb: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// EIO: the device or its file system failed.
    #[error("the device failed to {verb} {}", shown(path))]
    Failing {
        verb: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the file system is read-only: cannot {verb} {}", shown(path))]
    ReadOnly {
        verb: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("something stands at {} already", shown(path))]
    Exists { path: PathBuf },
    #[error("a directory in {} is missing", shown(path))]
    Missing { path: PathBuf },
    /// A symlink or another thing that is no directory stands where the path needs one. It was not followed.
    #[error("cannot {verb} {}: a part of that path is no directory, and links are not followed", shown(path))]
    Obstructed { verb: &'static str, path: PathBuf },
    #[error("{} is a mount point: it is neither replaced nor removed", shown(path))]
    Mounted { path: PathBuf },
    #[error("{} is no regular file", shown(path))]
    NotAFile { path: PathBuf },
    /// Someone else exchanged the temporary file while it was being written.
    #[error("the temporary file of {} was exchanged by someone else", shown(path))]
    Exchanged { path: PathBuf },
    #[error("a write beyond the {size} bytes of {} was refused", shown(path))]
    PastEnd { path: PathBuf, size: u64 },
    #[error("{} is a name that the restore itself needs", shown(path))]
    Reserved { path: PathBuf },
    #[error("{} holds an unfinished restore of something else: {}", shown(target), escape(theirs))]
    OtherRestore { target: PathBuf, theirs: Vec<u8>, ours: Vec<u8> },
    #[error("cannot {verb} {}", shown(path))]
    Other {
        verb: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

impl TargetError {
    /// `verb` completes the sentence "cannot …".
    pub(super) fn new(verb: &'static str, path: PathBuf, errno: Errno) -> Self {
        let cause = io::Error::from(errno);
        match errno {
            Errno::NOSPC => Self::Full { verb, path, cause },
            Errno::DQUOT => Self::Quota { verb, path, cause },
            Errno::IO => Self::Failing { verb, path, cause },
            Errno::ROFS => Self::ReadOnly { verb, path, cause },
            Errno::EXIST => Self::Exists { path },
            Errno::NOENT => Self::Missing { path },
            Errno::LOOP | Errno::NOTDIR => Self::Obstructed { verb, path },
            Errno::BUSY => Self::Mounted { path },
            _ => Self::Other { verb, path, cause },
        }
    }

    /// Whether going on is pointless: no later file would fare better.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Quota { .. } | Self::Failing { .. } | Self::ReadOnly { .. })
    }
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// The whole path of something inside the target at `dir`.
pub(super) fn whole(dir: &Path, path: &TreePath) -> PathBuf {
    if path.is_root() { dir.to_owned() } else { dir.join(OsStr::from_bytes(path.as_bytes())) }
}

/// A property of an entry that a target may be unable to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    Owner,
    Mode,
    Xattr(Vec<u8>),
    Times,
    /// The whole entry: this kind cannot be made here.
    Device,
    Fifo,
    Socket,
    Symlink,
    /// The name could not become a second name of the same file. Nothing stands there.
    HardLink,
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("owner"),
            Self::Mode => f.write_str("mode"),
            Self::Xattr(name) => write!(f, "extended attribute {}", escape(name)),
            Self::Times => f.write_str("modification time"),
            Self::Device => f.write_str("device"),
            Self::Fifo => f.write_str("fifo"),
            Self::Socket => f.write_str("socket"),
            Self::Symlink => f.write_str("symlink"),
            Self::HardLink => f.write_str("hard link"),
        }
    }
}

/// Something that was asked for and could not be set. The rest of the entry was.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what} could not be set")]
pub struct Loss {
    pub path: TreePath,
    pub what: Attribute,
    #[source]
    pub cause: io::Error,
}

/// Something that an unprivileged restore leaves out by choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Omitted {
    pub path: TreePath,
    pub what: Attribute,
}

/// How faithfully an entry was made.
#[derive(Debug, Default)]
#[must_use]
pub struct Outcome {
    pub losses: Vec<Loss>,
    pub omitted: Vec<Omitted>,
}

impl Outcome {
    pub fn is_whole(&self) -> bool {
        self.losses.is_empty() && self.omitted.is_empty()
    }

    pub(super) fn lose(&mut self, path: &TreePath, what: Attribute, cause: impl Into<io::Error>) {
        self.losses.push(Loss { path: path.clone(), what, cause: cause.into() });
    }

    pub(super) fn omit(&mut self, path: &TreePath, what: Attribute) {
        self.omitted.push(Omitted { path: path.clone(), what });
    }
}
