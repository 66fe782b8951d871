//! Which snapshots go, by a rule.
//!
//! Owns the groups that a rule is applied to: snapshots of one writer and policy, and without a policy those of one writer and the same sources. A host's name is
//! no part of it: a machine that is called something else is the same machine. Refuses to reckon (`schedule::retention`), to mark (`repository`), to take what is held,
//! and to touch what cannot be read or was revoked: an admin names that himself.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::names::WriterId;
use crate::pack::record::{ManifestBody, Outcome, SourceKind, Time};
use crate::repository::{Hold, Snapshot, SnapshotState};
use crate::schedule::keep::Keep;
use crate::schedule::retention::{Point, Reason, decide};

/// So long a forgotten snapshot stays whole, at least.
pub const UNDO_DAYS: u32 = 7;

/// What snapshots share to which one rule is applied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupId {
    pub writer: WriterId,
    pub of: Of,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    Policy(String),
    /// Sources by kind and name, sorted.
    Sources(Vec<(u8, Vec<u8>)>),
}

/// A group, its snapshots in the order of their commits.
pub struct Group<'s> {
    pub id: GroupId,
    pub judged: Vec<Judged<'s>>,
}

/// What becomes of a snapshot.
pub struct Judged<'s> {
    pub snapshot: &'s Snapshot,
    pub reasons: Vec<Reason>,
    pub hold: Option<Hold>,
    /// What was decided of it before cannot be read, so nothing more is.
    pub doubtful: bool,
}

impl Judged<'_> {
    pub fn stays(&self) -> bool {
        !self.reasons.is_empty() || self.hold.is_some() || self.doubtful
    }
}

impl GroupId {
    fn of(snapshot: &Snapshot, body: &ManifestBody) -> Self {
        let of = match &body.policy {
            Some(policy) => Of::Policy(policy.clone()),
            None => {
                let kind = |kind| match kind {
                    SourceKind::Filesystem => 0,
                    SourceKind::Bucket => 1,
                    SourceKind::Selection => 2,
                    SourceKind::Stream => 3,
                };
                let names = |source: &crate::pack::record::Source| {
                    let paths: Vec<Vec<u8>> = source.paths().into_iter().map(<[u8]>::to_vec).collect();
                    paths.into_iter().map(move |path| (kind(source.kind), path)).collect::<Vec<_>>()
                };
                let mut sources: Vec<_> = body.sources.iter().flat_map(names).collect();
                sources.sort();
                sources.dedup();
                Of::Sources(sources)
            }
        };
        Self { writer: snapshot.writer, of }
    }
}

/// Applies `keep` to each group of those of `snapshots` that count.
pub fn judge<'s>(
    snapshots: impl IntoIterator<Item = &'s Snapshot>,
    keep: &Keep,
    zone: &TimeZone,
    now: Timestamp,
) -> Vec<Group<'s>> {
    let mut groups: BTreeMap<GroupId, Vec<&Snapshot>> = BTreeMap::new();
    for snapshot in snapshots {
        if let (SnapshotState::Good, Some(body)) = (snapshot.state, &snapshot.body) {
            groups.entry(GroupId::of(snapshot, body)).or_default().push(snapshot);
        }
    }
    let time = Time { secs: now.as_second(), nanos: 0 };
    groups
        .into_iter()
        .map(|(id, of)| {
            let points: Vec<Point> = of.iter().filter_map(|snapshot| snapshot.body.as_deref().map(point)).collect();
            let reasons = decide(&points, keep, zone, now);
            let judged = of.into_iter().zip(reasons);
            let judged = judged.map(|(snapshot, reasons)| Judged {
                snapshot,
                reasons,
                hold: snapshot.marked.hold(time).cloned(),
                doubtful: snapshot.marked.doubtful,
            });
            Group { id, judged: judged.collect() }
        })
        .collect()
}

fn point(body: &ManifestBody) -> Point {
    // A time that no calendar knows is as good as one of the future: nothing is reckoned from it, and it stays.
    let at = Timestamp::new(body.started.secs, body.started.nanos.min(999_999_999) as i32).unwrap_or(Timestamp::MAX);
    Point { at, healthy: body.outcome == Outcome::Complete }
}

#[cfg(test)]
mod tests;
