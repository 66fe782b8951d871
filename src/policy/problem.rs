//! What is wrong with a configuration, and where.
//!
//! Owns the shape of a problem. Refuses to judge: `document` and `check` find problems, `picture` draws them.

use std::ops::Range;

use serde::Serialize;

/// Everything found in one pass, in the order of files and lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Problems {
    pub list: Vec<Problem>,
}

/// Whether the configuration can be used in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// `E110`; stable across versions.
    pub code: &'static str,
    /// One sentence without a full stop. Holds no secret.
    pub message: String,
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// The line with secrets masked, and the part that is meant.
    #[serde(skip)]
    pub quote: Option<Quote>,
    /// What to write under the caret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The other place, of two that contradict each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<Place>,
}

/// A place in a file. `line` and `col` count from 1, in lines and characters; both are 0 where the file as a whole is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    pub file: String,
    pub line: usize,
    pub col: usize,
}

/// One line as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Without control characters and secrets.
    pub text: String,
    /// What is meant, in bytes of `text`; on character boundaries.
    pub mark: Range<usize>,
}

impl Problems {
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    pub fn errors(&self) -> usize {
        self.list.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    pub fn warnings(&self) -> usize {
        self.list.len() - self.errors()
    }

    /// An array of objects: severity, code, message, file, line, col, hint (or null), and where there are such, label and other.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default() // strings and numbers under string keys always fit
    }
}
