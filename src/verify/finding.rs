//! What a check found, as people and scripts read it.
//!
//! Owns the wording of a finding and the bounded list of them. One object has one finding: what is found first is told, what follows is added to it.
//! Memory: at most `FINDINGS_MAX` findings of about 3 KiB with every list full; what is beyond is counted.

use std::collections::HashMap;
use std::error::Error as _;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::names::{ObjectKey, SnapshotId};

pub const FINDINGS_MAX: usize = 4096;
pub const PATHS_MAX: usize = 20;
const SNAPSHOTS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth a look; nothing that was stored is lost by it.
    Warning,
    /// Something stored is not what it should be.
    Damage,
}

/// One object that is not what it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// The object's key.
    pub object: String,
    /// Completes the sentence that begins with the key.
    pub what: String,
    /// Ids of snapshots that need it, at most 64.
    pub snapshots: Vec<String>,
    pub more_snapshots: u64,
    /// Absolute paths that need it, escaped, at most 20. One that ends in `/…` stands for all beneath.
    pub paths: Vec<String>,
    pub more_paths: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.object, self.what)?;
        if !self.snapshots.is_empty() {
            let short = |id: &String| id.get(..8).unwrap_or(id).to_owned();
            let names: Vec<String> = self.snapshots.iter().take(4).map(short).collect();
            let all = self.snapshots.len() as u64 + self.more_snapshots;
            let (plural, dots) = (plural(all), if all > names.len() as u64 { ", …" } else { "" });
            write!(f, "; {all} snapshot{plural} affected ({}{dots})", names.join(", "))?;
        }
        if !self.paths.is_empty() {
            let all = self.paths.len() as u64 + self.more_paths;
            let dots = if all > 3 { ", …" } else { "" };
            let shown: Vec<&str> = self.paths.iter().take(3).map(String::as_str).collect();
            write!(f, "; {all} path{} affected ({}{dots})", plural(all), shown.join(", "))?;
        }
        Ok(())
    }
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// An error and its causes as one sentence.
pub fn sentence(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The causes of an error without the error itself, which names an object that the finding names already.
pub fn causes(error: &crate::repository::Error) -> String {
    error.source().map_or_else(|| error.to_string(), sentence)
}

/// A finding's number in its list.
pub type Number = usize;

#[derive(Default)]
struct Inner {
    list: Vec<Finding>,
    by_object: HashMap<String, Number>,
    omitted: u64,
}

/// Findings from every thread.
#[derive(Default)]
pub struct Findings(Mutex<Inner>);

impl Findings {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a finding, or returns the one that the object has already. None: the list is full, and it was counted.
    pub fn add(&self, severity: Severity, object: &str, what: impl Into<String>) -> Option<Number> {
        let mut inner = self.lock();
        if let Some(&number) = inner.by_object.get(object) {
            let finding = &mut inner.list[number];
            if finding.severity < severity {
                finding.severity = severity;
                finding.what = what.into();
            }
            return Some(number);
        }
        if inner.list.len() == FINDINGS_MAX {
            inner.omitted += 1;
            return None;
        }
        let number = inner.list.len();
        inner.by_object.insert(object.to_owned(), number);
        inner.list.push(Finding {
            severity,
            object: object.to_owned(),
            what: what.into(),
            snapshots: vec![],
            more_snapshots: 0,
            paths: vec![],
            more_paths: 0,
        });
        Some(number)
    }

    pub fn damage(&self, object: &ObjectKey, what: impl Into<String>) -> Option<Number> {
        self.add(Severity::Damage, object.as_str(), what)
    }

    pub fn warning(&self, object: &ObjectKey, what: impl Into<String>) -> Option<Number> {
        self.add(Severity::Warning, object.as_str(), what)
    }

    pub fn of(&self, object: &ObjectKey) -> Option<Number> {
        self.lock().by_object.get(object.as_str()).copied()
    }

    pub fn extend(&self, number: Number, more: &str) {
        if let Some(finding) = self.lock().list.get_mut(number) {
            finding.what.push_str(more);
        }
    }

    pub fn affects_snapshot(&self, number: Number, snapshot: SnapshotId) {
        let text = snapshot.to_string();
        if let Some(finding) = self.lock().list.get_mut(number)
            && !finding.snapshots.contains(&text)
        {
            if finding.snapshots.len() < SNAPSHOTS_MAX {
                finding.snapshots.push(text);
            } else {
                finding.more_snapshots += 1;
            }
        }
    }

    pub fn affects_path(&self, number: Number, path: &str) {
        if let Some(finding) = self.lock().list.get_mut(number)
            && !finding.paths.iter().any(|known| known == path)
        {
            if finding.paths.len() < PATHS_MAX {
                finding.paths.push(path.to_owned());
            } else {
                finding.more_paths += 1;
            }
        }
    }

    /// How many findings there are so far.
    pub fn len(&self) -> u64 {
        let inner = self.lock();
        inner.list.len() as u64 + inner.omitted
    }

    /// All findings, damage first, then by object; and how many more there were.
    pub fn finish(self) -> (Vec<Finding>, u64) {
        let mut inner = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        inner.list.sort_by(|a, b| (b.severity, &a.object).cmp(&(a.severity, &b.object)));
        (inner.list, inner.omitted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_as_a_sentence() {
        let findings = Findings::default();
        let key: ObjectKey = "d/ab/abcd".parse().unwrap();
        let number = findings.damage(&key, "is not what its name says").unwrap();
        assert_eq!(findings.damage(&key, "is found again"), Some(number));
        findings.affects_snapshot(number, SnapshotId([0xab; 16]));
        for n in 0..25 {
            findings.affects_path(number, &format!("/f{n}"));
        }
        let (list, omitted) = findings.finish();
        assert_eq!(
            list[0].to_string(),
            "d/ab/abcd is not what its name says; 1 snapshot affected (abababab); 25 paths affected (/f0, /f1, /f2, …)"
        );
        assert_eq!((list.len(), list[0].paths.len(), list[0].more_paths, omitted), (1, 20, 5, 0));
    }

    #[test]
    fn damage_outranks_a_warning_and_comes_first() {
        let findings = Findings::default();
        findings.add(Severity::Warning, "a", "is odd");
        findings.add(Severity::Warning, "b", "is odd");
        findings.add(Severity::Damage, "b", "is broken");
        let (list, _) = findings.finish();
        let seen: Vec<_> = list.iter().map(|f| (f.object.as_str(), f.what.as_str())).collect();
        assert_eq!(seen, [("b", "is broken"), ("a", "is odd")]);
    }

    #[test]
    fn findings_beyond_the_limit_are_counted() {
        let findings = Findings::default();
        for n in 0..FINDINGS_MAX + 3 {
            findings.add(Severity::Damage, &n.to_string(), "x");
        }
        let (list, omitted) = findings.finish();
        assert_eq!((list.len(), omitted), (FINDINGS_MAX, 3));
    }
}
