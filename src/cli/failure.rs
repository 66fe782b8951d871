//! A command that did not succeed: what is told, and how the process ends.
//!
//! Owns the form of an error on the screen: one sentence, each cause once, one hint; and the same in JSON. Refuses to word any of them.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::exit::{Exit, ExitOf};
use crate::repository::Hint;

pub type Result<T> = std::result::Result<T, Failure>;

/// An error with its exit code and the next step, where there is one.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    error: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
    /// Lines above the error: the pictures of a configuration.
    pub preface: Option<String>,
}

/// A file of this machine that could not be used. `doing` completes the sentence "cannot …".
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct FileError {
    pub doing: &'static str,
    pub path: PathBuf,
    #[source]
    pub cause: std::io::Error,
}

impl Failure {
    pub fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit, error: error.into(), hint: None, preface: None }
    }

    pub fn usage(sentence: impl Into<String>) -> Self {
        Self::new(Exit::Usage, sentence.into())
    }

    pub fn file(doing: &'static str, path: &Path, cause: std::io::Error) -> Self {
        let hint = of_io(&cause);
        let failure = Self::new(cause.exit(), FileError { doing, path: path.to_owned(), cause });
        Self { hint: hint.map(str::to_owned), ..failure }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What people read, without colour: `error: …`, then causes and a hint on lines of their own.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = vec![("error", self.error.to_string())];
        let mut next = self.error.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // A wrapper that only repeats its cause says nothing new.
            if lines.last().is_none_or(|(_, above)| !above.ends_with(&text)) {
                lines.push(("caused by", text));
            }
            next = cause.source();
        }
        lines.extend(self.hint.clone().map(|hint| ("hint", hint)));
        lines
    }

    /// What scripts read: the last line of standard error.
    pub fn to_json(&self) -> Value {
        let lines = self.lines();
        let pictures = self.preface.iter();
        let causes = lines.iter().filter(|(label, _)| *label == "caused by").map(|(_, text)| text);
        let causes: Vec<&String> = pictures.chain(causes).collect();
        json!({
            "error": self.error.to_string(),
            "causes": causes,
            "hint": self.hint,
            "exit_code": self.exit as u8,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

/// What helps against most refusals of the system.
fn of_io(error: &std::io::Error) -> Option<&'static str> {
    use std::io::ErrorKind;
    Some(match error.kind() {
        ErrorKind::NotFound => {
            "look for a typing mistake; a relative path begins at the directory that lifeboat is started in"
        }
        ErrorKind::PermissionDenied => "run it as a user who may, or change the owner or the mode of the path",
        ErrorKind::IsADirectory => "this takes a file, and a directory stands there",
        ErrorKind::NotADirectory => "a part of this path is a file, where a directory is needed",
        ErrorKind::ReadOnlyFilesystem => "choose a place on another file system, or mount this one for writing",
        ErrorKind::StorageFull => "make room on that file system, and give the same command again",
        _ => return None,
    })
}

/// A mistake in the arguments, for those who read no text: its first paragraph, and all tips as one hint.
pub fn of_arguments(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let (sentence, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let sentence = words(sentence.strip_prefix("error: ").unwrap_or(sentence));
    let tips: Vec<String> = rest.lines().filter_map(|line| line.trim().strip_prefix("tip: ").map(words)).collect();
    let failure = Failure::usage(sentence);
    if tips.is_empty() { failure } else { failure.hint(tips.join("; ")) }
}

macro_rules! from {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(error.exit(), error)
            }
        })+
    };
}

from!(crate::catalog::CatalogError,);

impl From<crate::store::address::PlaceError> for Failure {
    fn from(error: crate::store::address::PlaceError) -> Self {
        use crate::store::address::PlaceError;
        use crate::store::local::OpenError;
        let made = "make it with `lifeboat init --repo DIR --key-out FILE`";
        let hint = error.hint().or_else(|| match &error {
            PlaceError::Directory(OpenError::Missing { .. }) => Some(format!("mount it, mend the address, or {made}")),
            PlaceError::Directory(OpenError::NotADirectory { .. }) => Some(format!("mend the address, or {made}")),
            PlaceError::Directory(OpenError::NotEmpty { .. }) => {
                Some("a repository begins in an empty or absent directory: give another one".to_owned())
            }
            PlaceError::Directory(OpenError::NotText { .. }) => Some("give it a name in UTF-8".to_owned()),
            PlaceError::Directory(OpenError::Io { source, .. }) => of_io(source).map(str::to_owned),
            _ => None,
        });
        Self { hint, ..Self::new(error.exit(), error) }
    }
}

impl From<crate::repository::Error> for Failure {
    fn from(error: crate::repository::Error) -> Self {
        let hint = error.hint();
        Self { hint, ..Self::new(error.exit(), error) }
    }
}

impl From<crate::store::StoreError> for Failure {
    fn from(error: crate::store::StoreError) -> Self {
        crate::repository::Error::from(error).into()
    }
}

impl From<crate::restore::Error> for Failure {
    fn from(error: crate::restore::Error) -> Self {
        use crate::restore::Error as Restore;
        use crate::source::SourceError;
        use crate::target::TargetError;
        let of_io = |cause: &std::io::Error| of_io(cause).map(str::to_owned);
        let hint = match &error {
            Restore::Pattern(SourceError::PatternFile { cause, .. }) => of_io(cause),
            Restore::Look { cause, .. } | Restore::Target(TargetError::Other { cause, .. }) => of_io(cause),
            error => error.hint(),
        };
        Self { hint, ..Self::new(error.exit(), error) }
    }
}

impl From<crate::verify::Error> for Failure {
    fn from(error: crate::verify::Error) -> Self {
        match error {
            crate::verify::Error::Repository(error) => error.into(),
            error @ crate::verify::Error::SampleWithoutData(_) => {
                Self::new(error.exit(), error).hint("add --level data, or leave out --sample")
            }
            error => Self::new(error.exit(), error),
        }
    }
}

impl From<crate::backup::Error> for Failure {
    fn from(error: crate::backup::Error) -> Self {
        use crate::backup::Error as Backup;
        use crate::source::{SourceError, StreamError};
        let hint = match &error {
            Backup::Source(SourceError::Missing { .. }) => "look for a typing mistake; nothing was saved",
            Backup::Source(SourceError::NoneListed { .. }) => {
                "relative paths in a list begin at the directory that lifeboat is started in; nothing was saved"
            }
            Backup::Source(SourceError::NoTags { .. }) => {
                "leave out --object-tags (or a policy's `object_tags`); nothing was saved"
            }
            Backup::Source(SourceError::Unreadable { .. }) => "run it as a user who may read it, such as root",
            Backup::Source(
                SourceError::Pattern { .. } | SourceError::PatternLine { .. } | SourceError::EmptyPattern,
            ) => "patterns are those of .gitignore; a backslash before a sign takes its meaning away",
            Backup::Source(SourceError::PatternFile { cause, .. }) => match of_io(cause) {
                Some(hint) => hint,
                None => return Self::new(error.exit(), error),
            },
            Backup::InRepository { .. } => "save what the backups are made of; the repository is copied by other means",
            Backup::Nested { .. } => "leave out the inner one: it is saved with the other",
            Backup::Cancelled => "give the same command again to save what is there then",
            Backup::NoPath => "name a PATH, or a list that has one",
            Backup::Stream(StreamError::Empty { .. }) => "add --allow-empty if nothing may be right",
            Backup::Stream(StreamError::Failed { .. }) => {
                "run the command by itself until it succeeds; what stands in the repository is as it was"
            }
            Backup::Stream(StreamError::Asks { .. }) => {
                "give it its password in a file or in the environment (for pg_dump: ~/.pgpass or PGPASSFILE)"
            }
            Backup::Stream(StreamError::Start { .. }) => "give a program of PATH or its whole path; no shell is asked",
            _ => {
                return match error {
                    Backup::Repository(error) => error.into(),
                    error => Self::new(error.exit(), error),
                };
            }
        };
        Self::new(error.exit(), error).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_once_and_the_hint_comes_last() {
        let cause = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let failure = Failure::file("read the key file", Path::new("/k"), cause).hint("look again");
        let lines = failure.lines();
        assert_eq!(lines[0], ("error", "cannot read the key file /k".into()));
        assert_eq!(lines[1], ("caused by", "no such file".into()));
        assert_eq!(lines[2], ("hint", "look again".into()));
        assert_eq!(lines.len(), 3);
        assert_eq!(failure.exit, Exit::NotFound);
    }
}
