//! A problem in the making: a code, a sentence and a span.
//!
//! Owns the collecting. Refuses to draw lines: that needs every secret of a file to be known first.

use std::ops::Range;

use super::problem::{Place, Problem, Problems, Severity};
use super::quote::Page;

/// More problems than this are counted and not kept.
const PROBLEMS_MAX: usize = 500;

/// A part of one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub file: usize,
    pub span: Range<usize>,
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Typed<T> {
    pub value: T,
    pub spot: Spot,
}

#[derive(Debug, PartialEq)]
pub(super) struct Finding {
    code: &'static str,
    message: String,
    spot: Spot,
    label: Option<String>,
    hint: Option<String>,
    other: Option<Spot>,
}

impl Finding {
    pub fn label(&mut self, label: impl Into<String>) -> &mut Self {
        self.label = Some(label.into());
        self
    }

    pub fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn other(&mut self, other: &Spot) -> &mut Self {
        self.other = Some(other.clone());
        self
    }
}

#[derive(Default)]
pub(super) struct Found {
    findings: Vec<Finding>,
    /// About a file or directory as a whole.
    whole: Vec<Problem>,
}

impl Found {
    /// `code` begins with `E` for an error and `W` for a warning.
    pub fn add(&mut self, code: &'static str, spot: &Spot, message: impl Into<String>) -> &mut Finding {
        self.findings.push(Finding {
            code,
            message: message.into(),
            spot: spot.clone(),
            label: None,
            hint: None,
            other: None,
        });
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }

    /// A problem of a file or directory as a whole.
    pub fn whole(&mut self, code: &'static str, file: impl Into<String>, message: impl Into<String>, hint: &str) {
        self.whole.push(Problem {
            severity: severity(code),
            code,
            message: message.into(),
            place: Place { file: file.into(), line: 0, col: 0 },
            quote: None,
            label: None,
            hint: Some(hint.to_owned()).filter(|hint| !hint.is_empty()),
            other: None,
        });
    }

    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| severity(finding.code) == Severity::Error)
            || self.whole.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// Draws every problem; one that was found twice at one place counts once.
    pub fn finish(self, pages: &[Page<'_>]) -> Problems {
        let mut findings = self.findings;
        findings.sort_by_key(|finding| (finding.spot.file, finding.spot.span.start, finding.code));
        findings.dedup();
        // Errors are what must be seen if something has to be left out.
        let (mut kept, warnings): (Vec<_>, Vec<_>) =
            findings.into_iter().partition(|f| severity(f.code) == Severity::Error);
        kept.extend(warnings);
        let left_out = kept.len().saturating_sub(PROBLEMS_MAX);
        kept.truncate(PROBLEMS_MAX);
        kept.sort_by_key(|finding| (finding.spot.file, finding.spot.span.start, finding.code));

        let mut list = self.whole;
        for finding in kept {
            let Some(page) = pages.get(finding.spot.file) else { continue };
            list.push(Problem {
                severity: severity(finding.code),
                code: finding.code,
                message: finding.message,
                place: page.place(finding.spot.span.start),
                quote: Some(page.quote(&finding.spot.span)),
                label: finding.label,
                hint: finding.hint,
                other: finding.other.and_then(|spot| Some(pages.get(spot.file)?.place(spot.span.start))),
            });
        }
        let mut problems = Problems { list };
        if left_out > 0 {
            let file = pages.first().map_or_else(String::new, |page| page.file.name.clone());
            let mut more = Found::default();
            more.whole("E199", file, format!("{left_out} more problems are not shown"), "");
            problems.list.extend(more.whole);
        }
        problems
    }
}

fn severity(code: &str) -> Severity {
    if code.starts_with('W') { Severity::Warning } else { Severity::Error }
}
