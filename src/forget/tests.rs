use std::sync::Arc;

use super::*;
use crate::names::SessionId;
use crate::pack::keys;
use crate::pack::record::{Root, Source};
use crate::repository::Marked;
use minicbor::bytes::{ByteArray, ByteVec};

const A: WriterId = WriterId([1; 8]);
const B: WriterId = WriterId([2; 8]);
const DAY: i64 = 86_400;

/// Of `number` days after the beginning.
fn snapshot(writer: WriterId, number: u8, policy: Option<&str>, sources: &[(SourceKind, &str)]) -> Snapshot {
    let started = Time { secs: DAY * i64::from(number), nanos: 0 };
    let source = |(kind, name): &(SourceKind, &str)| Source {
        name: ByteVec::from(name.as_bytes().to_vec()),
        kind: *kind,
        root: Root { id: ByteArray::from([0; 32]), level: 0, base: ByteVec::from(vec![]), entries: 0, bytes: 0 },
        ancestors: ByteVec::from(vec![]),
        selected: None,
    };
    let body = ManifestBody {
        host: format!("host-{number}"),
        policy: policy.map(str::to_owned),
        sources: sources.iter().map(source).collect(),
        ..ManifestBody::bare(started)
    };
    let session = SessionId::new(writer, [number; 8]);
    Snapshot {
        id: session.snapshot(),
        session,
        slot: keys::commit(0, session),
        writer,
        group: crate::names::GroupId([0; 8]),
        parents: vec![],
        heads: vec![],
        indexes: vec![],
        state: SnapshotState::Good,
        revoked: false,
        marked: Marked::default(),
        body: Some(Arc::new(body)),
    }
}

/// Which days of each group stay.
fn staying(snapshots: &[Snapshot], keep: &str) -> Vec<Vec<i64>> {
    let now = Timestamp::from_second(DAY * 300).unwrap();
    let groups = judge(snapshots, &keep.parse().unwrap(), &TimeZone::UTC, now);
    let day = |judged: &Judged<'_>| judged.snapshot.started().unwrap().secs / DAY;
    groups.iter().map(|group| group.judged.iter().filter(|j| j.stays()).map(day).collect()).collect()
}

#[test]
fn a_rule_counts_for_each_writer_and_policy_and_else_for_each_set_of_sources() {
    use SourceKind::{Bucket, Filesystem};
    let all = [
        snapshot(A, 1, Some("web"), &[(Filesystem, "/srv")]),
        // The policy saves more by now, on a host of another name.
        snapshot(A, 2, Some("web"), &[(Filesystem, "/srv"), (Filesystem, "/etc")]),
        snapshot(A, 3, Some("mail"), &[(Filesystem, "/srv")]),
        snapshot(A, 4, None, &[(Filesystem, "/srv"), (Filesystem, "/etc")]),
        snapshot(A, 5, None, &[(Filesystem, "/etc"), (Filesystem, "/srv")]),
        snapshot(A, 6, None, &[(Bucket, "/etc"), (Filesystem, "/srv")]),
        snapshot(B, 7, Some("web"), &[(Filesystem, "/srv")]),
    ];
    assert_eq!(staying(&all, "1l"), [vec![3], vec![2], vec![5], vec![6], vec![7]]);
}

#[test]
fn what_is_forgotten_revoked_or_closed_to_this_key_neither_counts_nor_is_judged() {
    let mut all: Vec<Snapshot> = (1..=5).map(|day| snapshot(A, day, Some("web"), &[])).collect();
    all[4].state = SnapshotState::Forgotten;
    all[3].state = SnapshotState::Revoked;
    all[2].body = None;
    assert_eq!(staying(&all, "1l"), [vec![2]]);
}
