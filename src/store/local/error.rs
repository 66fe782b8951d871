//! What a directory can refuse, and which class of refusal that is.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::store::Class;

/// Why a directory cannot be opened or made as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("there is no directory {}: is its disk mounted?", path.display())]
    Missing { path: PathBuf },
    #[error("{} is not a directory", path.display())]
    NotADirectory { path: PathBuf },
    #[error("{} is not empty: it holds {entry:?}", path.display())]
    NotEmpty { path: PathBuf, entry: String },
    #[error("the path {} is not UTF-8", path.display())]
    NotText { path: PathBuf },
    #[error("cannot open the directory {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum LocalError {
    #[error("cannot {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A refusal of the package, which names the path itself.
    #[error("the file system refused")]
    Package {
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("{} is no regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} ends at byte {size}, bytes {start} to {end} were asked for", path.display())]
    Short { path: PathBuf, size: u64, start: u64, end: u64 },
    #[error("the range {start}..{end} runs backwards")]
    Backwards { start: u64, end: u64 },
    #[error("{} needs {size} bytes of memory, which are not to be had", path.display())]
    TooLarge { path: PathBuf, size: u64 },
    #[error("{} is no longer the directory that was opened", path.display())]
    RootReplaced { path: PathBuf },
    #[error("keys that begin with `tmp/` are the store's own")]
    Reserved,
    #[error("the file system of {} can neither link nor rename without replacing", path.display())]
    CannotCreate { path: PathBuf },
    #[error("an earlier write to this upload failed")]
    Abandoned,
    /// A file that was needed on the way to an object is gone: something swept it. Nothing was created.
    #[error("a file of the write is gone")]
    SweptAway {
        #[source]
        source: Box<LocalError>,
    },
}

impl LocalError {
    pub(super) fn package(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Package { source: source.into() }
    }

    pub(super) fn class(&self) -> Class {
        match self {
            Self::Io { source, .. } => class_of(source),
            Self::Package { source } => errno_within(source.as_ref()).map_or(Class::Permanent, class_of_errno),
            Self::Short { .. } => Class::Short,
            Self::SweptAway { .. } => Class::Transient,
            Self::NotAFile { .. }
            | Self::Backwards { .. }
            | Self::TooLarge { .. }
            | Self::RootReplaced { .. }
            | Self::Reserved
            | Self::CannotCreate { .. }
            | Self::Abandoned => Class::Permanent,
        }
    }

    /// The same for a write, where "not found" cannot speak of the object.
    pub(super) fn of_a_write(self) -> Self {
        if self.class() == Class::NotFound { Self::SweptAway { source: Box::new(self) } } else { self }
    }

    pub(super) fn says_no_hard_links(&self) -> bool {
        match self {
            Self::Package { source } => errno_within(source.as_ref()).is_some_and(is_no_hard_links),
            _ => false,
        }
    }
}

/// What `linkat` answers where files have one name only (exFAT, some of SMB and FUSE).
pub(super) fn is_no_hard_links(errno: Errno) -> bool {
    matches!(errno, Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK)
}

/// The system's answer at the bottom of a chain of causes.
fn errno_within(error: &(dyn Error + 'static)) -> Option<Errno> {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Errno::from_io_error(io);
        }
        link = error.source();
    }
    None
}

fn class_of(error: &io::Error) -> Class {
    Errno::from_io_error(error).map_or(Class::Permanent, class_of_errno)
}

fn class_of_errno(errno: Errno) -> Class {
    match errno {
        Errno::NOENT => Class::NotFound,
        Errno::NOSPC | Errno::DQUOT => Class::Full,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => Class::Denied,
        // Network file systems, and limits of this process that pass.
        Errno::INTR
        | Errno::AGAIN
        | Errno::NOMEM
        | Errno::NFILE
        | Errno::MFILE
        | Errno::STALE
        | Errno::TIMEDOUT
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::NETUNREACH => Class::Transient,
        _ => Class::Permanent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_of_the_system_asks_the_right_thing_of_its_receiver() {
        for (errno, class) in [
            (Errno::NOENT, Class::NotFound),
            (Errno::NOSPC, Class::Full),
            (Errno::DQUOT, Class::Full),
            (Errno::ACCESS, Class::Denied),
            (Errno::ROFS, Class::Denied),
            (Errno::IO, Class::Permanent),
            (Errno::STALE, Class::Transient),
        ] {
            let error = LocalError::Io { doing: "open", path: "/x".into(), source: errno.into() };
            assert_eq!(error.class(), class, "{errno:?}");
        }
    }

    #[test]
    fn the_cause_is_found_below_the_package() {
        #[derive(Debug, thiserror::Error)]
        #[error("inner")]
        struct Inner(#[source] io::Error);
        let wrapped = object_store::Error::Generic { store: "x", source: Box::new(Inner(Errno::NOSPC.into())) };
        assert_eq!(LocalError::package(wrapped).class(), Class::Full);
    }

    #[test]
    fn a_write_never_says_not_found() {
        let error = LocalError::Io { doing: "link", path: "/x".into(), source: Errno::NOENT.into() };
        assert_eq!(error.of_a_write().class(), Class::Transient);
    }
}
