//! What a script learns from the way a command ended.
//!
//! Owns the one table of exit codes, and which error ends with which. Refuses sentences: those belong to the errors.

use crate::bucket::{ConnectError, Refusal, refusal};
use crate::repository::{Error as RepositoryError, Refusal as Undecided};
use crate::store::address::PlaceError;
use crate::store::local::OpenError;
use crate::store::{Class, StoreError};
use crate::target::TargetError;
use crate::{backup, catalog, restore, verify};

/// How a command ended. An unknown code means failure.
///
/// | code | meaning |
/// |---|---|
/// | 0 | done |
/// | 1 | failed; no space and I/O errors of the repository among it |
/// | 2 | wrong usage |
/// | 3 | done, with losses: of the source, or of what a restore could not set |
/// | 4 | what was named is not there |
/// | 5 | the configuration is invalid |
/// | 6 | denied: by the system, by the store, or because the key's role does not allow it |
/// | 7 | a conflict, or somebody else is at it |
/// | 8 | a drill failed or was inconclusive |
/// | 9 | the daemon cannot be reached |
/// | 10 | there is no repository |
/// | 12 | wrong key or passphrase |
/// | 13 | stored data are damaged |
/// | 75 | a transient failure: try again |
/// | 130 | interrupted |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Losses = 3,
    NotFound = 4,
    Config = 5,
    Denied = 6,
    Conflict = 7,
    Drill = 8,
    Unreachable = 9,
    NoRepository = 10,
    WrongKey = 12,
    Damage = 13,
    Transient = 75,
    Interrupted = 130,
}

/// The table, as `lifeboat --help` shows it.
pub const HELP: &str = "\
Exit codes:
  0 done                          8 drill failed
  1 failed                        9 daemon unreachable
  2 wrong usage                  10 no repository
  3 done, with losses            12 wrong key or passphrase
  4 not found                    13 stored data damaged
  5 configuration invalid        75 try again
  6 denied                      130 interrupted
  7 conflict, or busy";

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that knows its row of the table.
pub trait ExitOf {
    fn exit(&self) -> Exit;
}

impl ExitOf for StoreError {
    fn exit(&self) -> Exit {
        if let Some(Refusal::NoBucket { .. }) = refusal::of(&*self.cause) {
            return Exit::NoRepository;
        }
        match self.class {
            Class::Denied => Exit::Denied,
            Class::Transient | Class::Ambiguous => Exit::Transient,
            Class::NotFound | Class::Short => Exit::Damage,
            Class::Full | Class::Permanent => Exit::Failed,
        }
    }
}

impl ExitOf for RepositoryError {
    fn exit(&self) -> Exit {
        match self {
            Self::NotARepository { .. } => Exit::NoRepository,
            Self::OtherRepository { .. } | Self::Passphrase { .. } | Self::NoSlots { .. } => Exit::WrongKey,
            Self::Exists { .. } | Self::Busy { .. } => Exit::Conflict,
            Self::Role { .. } | Self::Revoked { .. } => Exit::Denied,
            Self::Fenced { .. } | Self::Contended { .. } => Exit::Transient,
            Self::Expired { .. } | Self::Undecided { why: Undecided::Gone, .. } => Exit::NotFound,
            Self::Undecided { .. } => Exit::Conflict,
            Self::NoSnapshot(_) | Self::NoKey { .. } => Exit::NotFound,
            Self::Ambiguous { .. } => Exit::Usage,
            Self::Store(error) => error.exit(),
            error if error.is_damage() => Exit::Damage,
            _ => Exit::Failed,
        }
    }
}

impl ExitOf for OpenError {
    fn exit(&self) -> Exit {
        match self {
            Self::Missing { .. } | Self::NotADirectory { .. } => Exit::NoRepository,
            Self::NotEmpty { .. } => Exit::Conflict,
            Self::NotText { .. } => Exit::Usage,
            Self::Io { source, .. } => source.exit(),
        }
    }
}

/// Of whatever is no store: a key file, a configuration, an output.
impl ExitOf for std::io::Error {
    fn exit(&self) -> Exit {
        match self.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Exit::Denied,
            std::io::ErrorKind::AlreadyExists => Exit::Conflict,
            _ => Exit::Failed,
        }
    }
}

impl ExitOf for PlaceError {
    fn exit(&self) -> Exit {
        match self {
            Self::Address(_) => Exit::Usage,
            Self::Directory(error) => error.exit(),
            Self::Bucket(error) => error.exit(),
            Self::NotEmpty { .. } => Exit::Conflict,
            Self::Store(error) => error.exit(),
            Self::NoWorkingDirectory { .. } => Exit::Failed,
        }
    }
}

impl ExitOf for ConnectError {
    fn exit(&self) -> Exit {
        match self {
            Self::NoCredentials { .. } => Exit::Denied,
            Self::Missing { .. } | Self::PlainHttp { .. } | Self::Endpoint { .. } | Self::Option(_) => Exit::Usage,
            Self::Certificates { .. } | Self::Client { .. } | Self::Runtime { .. } => Exit::Failed,
        }
    }
}

impl ExitOf for backup::Error {
    fn exit(&self) -> Exit {
        use crate::source::SourceError;
        match self {
            Self::Source(
                SourceError::Missing { .. } | SourceError::NoneListed { .. } | SourceError::Unreadable { .. },
            ) => Exit::Failed,
            Self::Stream(_) => Exit::Failed,
            Self::Source(SourceError::PatternFile { cause, .. }) => cause.exit(),
            Self::Source(_) | Self::NoPath | Self::Nested { .. } | Self::InRepository { .. } => Exit::Usage,
            Self::Repository(error) => error.exit(),
            Self::Cancelled => Exit::Interrupted,
            Self::Worker => Exit::Failed,
        }
    }
}

impl ExitOf for restore::Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Path { .. }
            | Self::InRepository { .. }
            | Self::DeleteWithoutOverwrite
            | Self::DeletePartial
            | Self::DeleteSelection => Exit::Usage,
            Self::Pattern(crate::source::SourceError::PatternFile { cause, .. }) => cause.exit(),
            Self::Pattern(_) => Exit::Usage,
            Self::NotFound { .. } | Self::NoFiles | Self::NoMatch { .. } => Exit::NotFound,
            Self::Sources { .. } | Self::DeleteBlind => Exit::Damage,
            Self::NotEmpty { .. } | Self::BucketNotEmpty { .. } | Self::OtherUpload { .. } => Exit::Conflict,
            Self::Bucket { .. } | Self::Listing(_) => Exit::Failed,
            Self::Space { .. } | Self::Inodes { .. } | Self::Worker => Exit::Failed,
            Self::Look { cause, .. } => cause.exit(),
            Self::Target(error) => error.exit(),
            Self::Repository(error) => error.exit(),
            Self::Cancelled => Exit::Interrupted,
        }
    }
}

impl ExitOf for TargetError {
    fn exit(&self) -> Exit {
        match self {
            Self::ReadOnly { .. } => Exit::Denied,
            Self::Exists { .. } | Self::Mounted { .. } | Self::OtherRestore { .. } => Exit::Conflict,
            Self::Other { cause, .. } => cause.exit(),
            _ => Exit::Failed,
        }
    }
}

impl ExitOf for verify::Error {
    fn exit(&self) -> Exit {
        match self {
            Self::Sample | Self::SampleWithoutData(_) => Exit::Usage,
            Self::Cancelled => Exit::Interrupted,
            Self::Worker => Exit::Failed,
            Self::Repository(error) => error.exit(),
        }
    }
}

impl ExitOf for catalog::CatalogError {
    fn exit(&self) -> Exit {
        use catalog::CatalogError;
        match self {
            CatalogError::Directory { cause, .. } => cause.exit(),
            CatalogError::Owned { .. } | CatalogError::TokenExists { .. } => Exit::Conflict,
            CatalogError::TokenName { .. } => Exit::Usage,
            CatalogError::Newer { .. }
            | CatalogError::Damaged { .. }
            | CatalogError::Sqlite { .. }
            | CatalogError::Random(_) => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_or_failing_repository_is_a_failure_and_never_a_loss() {
        for class in [Class::Full, Class::Permanent] {
            let error = RepositoryError::from(StoreError::new(class, "file:///x", "create", "d/1", "no space"));
            assert_eq!(backup::Error::from(error).exit(), Exit::Failed);
        }
    }

    #[test]
    fn a_wrong_key_is_told_from_damage() {
        let wrong = RepositoryError::Passphrase { url: "file:///x".into() };
        assert_eq!(wrong.exit() as u8, 12);
        let lost = RepositoryError::from(StoreError::new(Class::NotFound, "file:///x", "read", "d/1", "gone"));
        assert_eq!(lost.exit() as u8, 13);
    }
}
