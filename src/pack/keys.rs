//! Keys of objects, written and read (`FORMAT.md`, section 2).
//!
//! Owns the layout of the key space. Nothing else writes a key by hand.

use crate::names::{ObjectKey, PackId, SessionId, WriterId, hex};
use crate::pack::container::PackKind;
use crate::pack::run::RunName;

pub const CONFIGS: &str = "config/";
pub const SLOTS: &str = "keys/";
pub const CERTIFICATES: &str = "writers/";
pub const REVOCATIONS: &str = "revoked/";
pub const SESSIONS: &str = "w/";
pub const INDEX: &str = "i/";
pub const COMMITS: &str = "s/";
pub const DATA: &str = "d/";
pub const METADATA: &str = "m/";
pub const MARKS: &str = "t/";
pub const EPOCHS: &str = "e/";
pub const PROBES: &str = "probe/";

fn key(text: String) -> ObjectKey {
    text.parse().expect("keys are made of hex, '/' and '-'")
}

pub fn config(number: u32) -> ObjectKey {
    key(format!("{CONFIGS}{number:08x}"))
}

/// The key of a slot with these bytes.
pub fn slot(bytes: &[u8]) -> ObjectKey {
    key(format!("{SLOTS}{}", hex(blake3::hash(bytes).as_bytes())))
}

pub fn certificate(writer: WriterId) -> ObjectKey {
    key(format!("{CERTIFICATES}{writer}"))
}

pub fn revocation(writer: WriterId) -> ObjectKey {
    key(format!("{REVOCATIONS}{writer}"))
}

pub fn session_record(session: SessionId, number: u32) -> ObjectKey {
    key(format!("{SESSIONS}{session}/{number:08x}"))
}

/// All records of one session.
pub fn session_records(session: SessionId) -> String {
    format!("{SESSIONS}{session}/")
}

pub fn run(name: RunName) -> ObjectKey {
    let RunName { session, sequence, epoch } = name;
    key(match epoch {
        Some(epoch) => format!("{INDEX}d/{epoch:08x}-{session}-{sequence:08x}"),
        None => format!("{INDEX}s/{session}-{sequence:08x}"),
    })
}

pub fn commit(epoch: u32, session: SessionId) -> ObjectKey {
    key(format!("{COMMITS}{epoch:08x}-{session}"))
}

/// All marks on the snapshot of one session.
pub fn marks(session: SessionId) -> String {
    format!("{MARKS}{session}-")
}

/// What was decided of a snapshot, `number` decisions before it.
pub fn mark(session: SessionId, number: u32) -> ObjectKey {
    key(format!("{MARKS}{session}-{number:08x}"))
}

/// The deletion epoch of this number.
pub fn epoch(number: u32) -> ObjectKey {
    key(format!("{EPOCHS}{number:08x}"))
}

/// What becomes of the packs that an epoch condemned.
pub fn verdict(number: u32) -> ObjectKey {
    key(format!("{EPOCHS}{number:08x}-v"))
}

pub fn pack(kind: PackKind, id: PackId) -> ObjectKey {
    let folder = match kind {
        PackKind::Data => DATA,
        PackKind::Metadata => METADATA,
    };
    key(format!("{folder}{}/{id}", hex(&id.0[..1])))
}

fn number(text: &str) -> Option<u32> {
    let good = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    good.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// What stands at a key, as the key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    Config(u32),
    Slot,
    Certificate(WriterId),
    Revocation(WriterId),
    SessionRecord(SessionId, u32),
    Run(RunName),
    Commit { epoch: u32, session: SessionId },
    Mark(SessionId, u32),
    Pack(PackKind, PackId),
    Epoch(u32),
    Verdict(u32),
    Probe,
}

/// Reads a key; none if no version-1 object has such a key.
pub fn parse(key: &ObjectKey) -> Option<Meaning> {
    let (folder, rest) = key.as_str().split_once('/')?;
    match folder {
        "config" => number(rest).map(Meaning::Config),
        "keys" => rest.parse::<PackId>().ok().map(|_| Meaning::Slot),
        "writers" => rest.parse().ok().map(Meaning::Certificate),
        "revoked" => rest.parse().ok().map(Meaning::Revocation),
        "w" => {
            let (session, at) = rest.split_once('/')?;
            Some(Meaning::SessionRecord(session.parse().ok()?, number(at)?))
        }
        "i" => {
            let (which, rest) = rest.split_once('/')?;
            let (epoch, rest) = match which {
                "d" => {
                    let (epoch, rest) = rest.split_once('-')?;
                    (Some(number(epoch)?), rest)
                }
                "s" => (None, rest),
                _ => return None,
            };
            let (session, sequence) = rest.split_once('-')?;
            Some(Meaning::Run(RunName { session: session.parse().ok()?, sequence: number(sequence)?, epoch }))
        }
        "s" => {
            let (epoch, session) = rest.split_once('-')?;
            Some(Meaning::Commit { epoch: number(epoch)?, session: session.parse().ok()? })
        }
        "d" | "m" => {
            let kind = if folder == "d" { PackKind::Data } else { PackKind::Metadata };
            let (shard, id) = rest.split_once('/')?;
            let id: PackId = id.parse().ok()?;
            (hex(&id.0[..1]) == shard).then_some(Meaning::Pack(kind, id))
        }
        "t" => {
            let (session, at) = rest.split_once('-')?;
            Some(Meaning::Mark(session.parse().ok()?, number(at)?))
        }
        "e" => match rest.strip_suffix("-v") {
            Some(rest) => number(rest).map(Meaning::Verdict),
            None => number(rest).map(Meaning::Epoch),
        },
        "probe" => Some(Meaning::Probe),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_back_as_what_it_is() {
        let session = SessionId([0xab; 16]);
        let delta = RunName { session, sequence: 7, epoch: Some(3) };
        let segment = RunName { session, sequence: 8, epoch: None };
        for (key, meaning) in [
            (config(5), Meaning::Config(5)),
            (slot(b"x"), Meaning::Slot),
            (certificate(WriterId([1; 8])), Meaning::Certificate(WriterId([1; 8]))),
            (revocation(WriterId([1; 8])), Meaning::Revocation(WriterId([1; 8]))),
            (session_record(session, 2), Meaning::SessionRecord(session, 2)),
            (run(delta), Meaning::Run(delta)),
            (run(segment), Meaning::Run(segment)),
            (commit(1, session), Meaning::Commit { epoch: 1, session }),
            (mark(session, 1), Meaning::Mark(session, 1)),
            (epoch(17), Meaning::Epoch(17)),
            (verdict(17), Meaning::Verdict(17)),
            (pack(PackKind::Data, PackId([9; 32])), Meaning::Pack(PackKind::Data, PackId([9; 32]))),
            (pack(PackKind::Metadata, PackId([9; 32])), Meaning::Pack(PackKind::Metadata, PackId([9; 32]))),
        ] {
            assert_eq!(parse(&key), Some(meaning), "{key}");
        }
        for stranger in
            ["x", "config/1", "d/00/ff", "s/00000000", "w/ab/00000000", "t/00000000", "e/00000000-w", "z/00000000"]
        {
            assert_eq!(parse(&stranger.parse().unwrap()), None, "{stranger}");
        }
    }
}
