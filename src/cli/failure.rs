//! A command that did not succeed: what is told, and how the process ends.
//!
//! Owns the form of an error on the screen: one sentence, each cause once, one hint. Refuses to word any of them.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

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
        Self::new(cause.exit(), FileError { doing, path: path.to_owned(), cause })
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
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
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

from!(crate::store::local::OpenError, crate::catalog::CatalogError,);

impl From<crate::store::address::PlaceError> for Failure {
    fn from(error: crate::store::address::PlaceError) -> Self {
        let hint = error.hint();
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
        let hint = error.hint();
        Self { hint, ..Self::new(error.exit(), error) }
    }
}

impl From<crate::verify::Error> for Failure {
    fn from(error: crate::verify::Error) -> Self {
        match error {
            crate::verify::Error::Repository(error) => error.into(),
            error => Self::new(error.exit(), error),
        }
    }
}

impl From<crate::backup::Error> for Failure {
    fn from(error: crate::backup::Error) -> Self {
        match error {
            crate::backup::Error::Repository(error) => error.into(),
            error => Self::new(error.exit(), error),
        }
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
