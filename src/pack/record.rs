//! The small sealed objects: their bodies, as CBOR arrays with numbered fields (RFC 8949).
//!
//! Owns the fields of config, certificate, revocation, session record, manifest, fence, mark, epoch and verdict. A new field gets the next number, and older
//! readers skip it; what they must not skip raises the feature bits of the envelope.

use minicbor::bytes::{ByteArray, ByteVec};
use minicbor::{Decode, Encode};

use crate::seal::object::ObjectError;

/// Times: seconds since 1970, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(array)]
pub struct Time {
    #[n(0)]
    pub secs: i64,
    #[n(1)]
    pub nanos: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Config {
    #[n(0)]
    pub created: Time,
    /// Public key that everything is wrapped to.
    #[n(1)]
    pub recipient: ByteVec,
    /// Features that a reader, a writer, a pruner must know; a later config may raise them.
    #[n(2)]
    pub read_features: Vec<String>,
    #[n(3)]
    pub write_features: Vec<String>,
    #[n(4)]
    pub maintain_features: Vec<String>,
    /// Sizes of content-defined chunks, bytes.
    #[n(5)]
    pub chunk_min: u32,
    #[n(6)]
    pub chunk_normal: u32,
    #[n(7)]
    pub chunk_max: u32,
    /// A pack is closed once it reaches this many bytes.
    #[n(8)]
    pub pack_bytes: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Certificate {
    #[n(0)]
    pub created: Time,
    #[n(1)]
    pub writer: ByteArray<8>,
    #[n(2)]
    pub group: ByteArray<8>,
    #[n(3)]
    pub group_name: Option<String>,
    /// What people call the writer.
    #[n(4)]
    pub name: String,
    #[n(5)]
    pub signing: ByteArray<32>,
    #[n(6)]
    pub metadata: ByteVec,
}

/// A manifest that stands although its writer is revoked.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Standing {
    #[n(0)]
    pub slot: String,
    #[n(1)]
    pub hash: ByteArray<32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Revocation {
    #[n(0)]
    pub created: Time,
    #[n(1)]
    pub writer: ByteArray<8>,
    #[n(2)]
    pub standing: Vec<Standing>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SessionRecord {
    #[n(0)]
    pub at: Time,
    #[n(1)]
    pub epoch: u32,
    /// Slots of the manifests whose trees this session may use again: a collector keeps what they need.
    #[n(2)]
    pub parents: Vec<String>,
    /// Condemned packs that this session already used.
    #[n(3)]
    pub vetoes: Vec<ByteArray<32>>,
    /// Keyed hash of the machine's id; with boot, pid and start it tells whether the session can still live.
    #[n(4)]
    pub host: ByteArray<16>,
    #[n(5)]
    pub boot: ByteArray<16>,
    #[n(6)]
    pub pid: u32,
    /// Start of the process, clock ticks since boot.
    #[n(7)]
    pub started: u64,
    /// The epoch in which the session began, which is the one of its slot; none: it has come to no other since.
    #[n(8)]
    pub began: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Manifest {
    #[n(0)]
    pub writer: ByteArray<8>,
    #[n(1)]
    pub group: ByteArray<8>,
    #[n(2)]
    pub session: ByteArray<16>,
    #[n(3)]
    pub epoch: u32,
    /// Slots of all newest manifests of the same writer at the session's start.
    #[n(4)]
    pub parents: Vec<String>,
    /// Slots of other writers' newest manifests, at most 64.
    #[n(5)]
    pub heads: Vec<String>,
    /// BLAKE3 of the listed slot keys, joined by newlines.
    #[n(6)]
    pub listing: ByteArray<32>,
    /// Keys of the index objects that the session wrote.
    #[n(7)]
    pub indexes: Vec<String>,
    #[n(8)]
    pub to_recipient: ByteVec,
    #[n(9)]
    pub to_writer: ByteVec,
    /// Commitment, then sealed segments.
    #[n(10)]
    pub body: ByteVec,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ManifestBody {
    #[n(0)]
    pub started: Time,
    #[n(1)]
    pub finished: Time,
    #[n(2)]
    pub host: String,
    #[n(3)]
    pub user: String,
    #[n(4)]
    pub policy: Option<String>,
    #[n(5)]
    pub tags: Vec<String>,
    #[n(6)]
    pub sources: Vec<Source>,
    #[n(7)]
    pub outcome: Outcome,
    /// The first problems; `counts` has all of them.
    #[n(8)]
    pub problems: Vec<Problem>,
    #[n(9)]
    pub counts: Counts,
    /// The policy's `keep`, where a host wishes it and another decides.
    #[n(10)]
    pub keep_wish: Option<String>,
    #[n(11)]
    pub version: String,
}

#[cfg(test)]
impl ManifestBody {
    /// Of a run that took no time, named nothing and saved nothing.
    pub fn bare(at: Time) -> Self {
        Self {
            started: at,
            finished: at,
            host: String::new(),
            user: String::new(),
            policy: None,
            tags: vec![],
            sources: vec![],
            outcome: Outcome::Complete,
            problems: vec![],
            counts: Counts::default(),
            keep_wish: None,
            version: String::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Outcome {
    #[n(0)]
    Complete,
    /// Something could not be read.
    #[n(1)]
    Partial,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Source {
    /// For a filesystem: the absolute path, raw bytes. For a bucket: `/SCHEME:/BUCKET`, and `/PREFIX` if it has one.
    #[n(0)]
    pub name: ByteVec,
    #[n(1)]
    pub kind: SourceKind,
    #[n(2)]
    pub root: Root,
    /// A leaf (base empty) with the directories above the source, relative to `/`.
    #[n(3)]
    pub ancestors: ByteVec,
    /// Of a selection: absolute paths that hold all of what was asked for, few of them.
    #[n(4)]
    pub selected: Option<Vec<ByteVec>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum SourceKind {
    #[n(0)]
    Filesystem,
    #[n(1)]
    Bucket,
    /// Paths beneath `/` that were asked for one by one, with the directories that lead to them: what else those directories held is not known.
    #[n(2)]
    Selection,
    /// One file that came as a stream.
    #[n(3)]
    Stream,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Root {
    #[n(0)]
    pub id: ByteArray<32>,
    #[n(1)]
    pub level: u8,
    #[n(2)]
    pub base: ByteVec,
    #[n(3)]
    pub entries: u64,
    #[n(4)]
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Problem {
    /// Absolute, raw bytes.
    #[n(0)]
    pub path: ByteVec,
    #[n(1)]
    pub kind: ProblemKind,
    #[n(2)]
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum ProblemKind {
    /// Gone between listing and opening: no loss.
    #[n(0)]
    Vanished,
    #[n(1)]
    Unreadable,
    /// Still changing after every retry; stored as it was read.
    #[n(2)]
    Changed,
    /// Unreadable, and the policy allows it.
    #[n(3)]
    Allowed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Counts {
    #[n(0)]
    pub files: u64,
    #[n(1)]
    pub directories: u64,
    #[n(2)]
    pub others: u64,
    /// Sum of file sizes.
    #[n(3)]
    pub bytes: u64,
    /// Files whose content was read.
    #[n(4)]
    pub files_read: u64,
    /// Plaintext bytes read from files.
    #[n(5)]
    pub bytes_read: u64,
    /// Plaintext bytes of new chunks.
    #[n(6)]
    pub bytes_new: u64,
    /// Bytes of the objects that this session stored, manifest excluded.
    #[n(7)]
    pub bytes_stored: u64,
    #[n(8)]
    pub vanished: u64,
    #[n(9)]
    pub unreadable: u64,
    #[n(10)]
    pub changed: u64,
    #[n(11)]
    pub allowed: u64,
}

/// What the admin decided of a snapshot. Decisions on one snapshot are numbered, and each was made knowing those before it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Mark {
    #[n(0)]
    pub at: Time,
    /// The snapshot's commit slot.
    #[n(1)]
    pub slot: String,
    #[n(2)]
    pub decision: Decision,
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Decision {
    /// It is hidden, and stays whole for the undo window.
    #[n(0)]
    Forget(#[n(0)] String),
    /// Forgetting it is taken back.
    #[n(1)]
    Undelete,
    /// The undo window is over: what only it needs may go.
    #[n(2)]
    Expire,
    /// No rule forgets it, for this reason, until that time if there is one.
    #[n(3)]
    Hold(#[n(0)] String, #[n(1)] Option<Time>),
    #[n(4)]
    Release,
}

/// A deletion epoch: packs that nobody may use any more, and what counts of all that began before its boundary. Rows of fixed length stand one after the
/// other, so that a million packs are 32 MB and no more.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Epoch {
    #[n(0)]
    pub at: Time,
    /// Names of data packs that go unless the verdict spares them; 32 bytes each.
    #[n(1)]
    pub condemned_data: ByteVec,
    /// The same of metadata packs.
    #[n(2)]
    pub condemned_metadata: ByteVec,
    /// Names of packs that older verdicts deleted, and that an index object may still name; 32 bytes each.
    #[n(3)]
    pub gone: ByteVec,
    /// Every session that began in an epoch before this one is settled.
    #[n(4)]
    pub boundary: u32,
    /// Of sessions that began before the boundary: the index objects that count. Session 16, sequence u32, epoch u32 (0xffffffff: a segment) each.
    #[n(5)]
    pub runs: ByteVec,
    /// Of the same: the commit slots that count. Epoch u32, session 16 each.
    #[n(6)]
    pub slots: ByteVec,
}

/// The last word on an epoch's packs: those that it condemned and that are not named here are deleted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Verdict {
    #[n(0)]
    pub at: Time,
    /// Names of packs; 32 bytes each.
    #[n(1)]
    pub spared: ByteVec,
}

/// What stands in a commit slot to keep a session from committing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Fence {
    #[n(0)]
    pub at: Time,
    #[n(1)]
    pub session: ByteArray<16>,
    #[n(2)]
    pub reason: String,
}

/// The bytes of a record.
pub fn encode<T: Encode<()>>(record: &T) -> Vec<u8> {
    minicbor::to_vec(record).expect("memory takes what is written")
}

/// A record from bytes that were opened.
pub fn decode<T: for<'b> Decode<'b, ()>>(bytes: &[u8]) -> Result<T, ObjectError> {
    minicbor::decode(bytes).map_err(|error| ObjectError::Body(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_with_more_fields_is_read_by_the_fields_that_are_known() {
        let time = Time { secs: -5, nanos: 7 };
        let mut bytes = encode(&time);
        assert_eq!(bytes, [0x82, 0x24, 0x07]);
        bytes[0] = 0x83;
        bytes.push(0x18);
        bytes.push(0x99);
        assert_eq!(decode::<Time>(&bytes), Ok(time));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_decoders(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Manifest>(&bytes);
            let _ = decode::<ManifestBody>(&bytes);
            let _ = decode::<Config>(&bytes);
            let _ = decode::<SessionRecord>(&bytes);
            let _ = decode::<Mark>(&bytes);
            let _ = decode::<Epoch>(&bytes);
            let _ = decode::<Verdict>(&bytes);
        }
    }
}
