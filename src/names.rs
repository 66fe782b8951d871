//! The names of things, each parsed once at the door and carried as proof.
//!
//! Owns identifiers and their one text form. Refuses I/O, meaning and policy: a name says which, never what.

use std::fmt;
use std::str::FromStr;

/// A text that is not the name it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct NameError {
    pub what: &'static str,
    pub text: String,
}

/// Lower-case hex of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Bytes of lower-case hex; none if the text is anything else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

macro_rules! hex_name {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                unhex(text)
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| NameError { what: $what, text: text.to_owned() })
            }
        }
    };
}

hex_name!(
    /// Identity of a chunk or tree node: keyed BLAKE3 of its plaintext.
    ChunkId, 32, "a chunk id (64 hex digits)"
);
hex_name!(
    /// Name of a pack: BLAKE3 of its bytes as stored.
    PackId, 32, "a pack name (64 hex digits)"
);
hex_name!(
    /// Identity of a writer, drawn when its key is exported.
    WriterId, 8, "a writer id (16 hex digits)"
);
hex_name!(
    /// Identity of a dedup group: the writers that share chunk ids.
    GroupId, 8, "a group id (16 hex digits)"
);
hex_name!(
    /// Identity of a repository, drawn at `init`.
    RepositoryId, 16, "a repository id (32 hex digits)"
);
hex_name!(
    /// One write session: its writer's id, then 8 random bytes, so that a listing tells whose slot it is.
    SessionId, 16, "a session id (32 hex digits)"
);
hex_name!(
    /// A snapshot as people name it: its session with the random half first, so that short prefixes differ.
    SnapshotId, 16, "a snapshot id (32 hex digits)"
);

impl SessionId {
    pub fn new(writer: WriterId, random: [u8; 8]) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&writer.0);
        bytes[8..].copy_from_slice(&random);
        Self(bytes)
    }

    pub fn writer(self) -> WriterId {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[..8]);
        WriterId(bytes)
    }

    pub fn snapshot(self) -> SnapshotId {
        let mut bytes = self.0;
        bytes.rotate_left(8);
        SnapshotId(bytes)
    }
}

impl SnapshotId {
    pub fn session(self) -> SessionId {
        let mut bytes = self.0;
        bytes.rotate_left(8);
        SessionId(bytes)
    }

    /// The first 8 hex digits: what tables show and prefixes match.
    pub fn short(self) -> String {
        hex(&self.0[..4])
    }
}

/// The key of an object in a store: `/`-separated parts of `[a-z0-9.-]`, none empty, none starting with a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectKey {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let part_is_good = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
        };
        if text.len() <= 512 && text.split('/').all(part_is_good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError { what: "an object key", text: text.to_owned() })
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a policy: 1 to 63 of `[a-z0-9._-]`, beginning with a letter or digit. It is part of URLs and metrics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PolicyName(String);

impl PolicyName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PolicyName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        if starts_well && text.len() <= 63 && text.bytes().all(good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError { what: "a policy name (1 to 63 of a-z 0-9 . _ -)", text: text.to_owned() })
        }
    }
}

impl TryFrom<String> for PolicyName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<PolicyName> for String {
    fn from(name: PolicyName) -> String {
        name.0
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A path inside a source: relative, `/`-separated raw bytes (no encoding is promised), no `.`, `..`, NUL or empty part.
///
/// The empty path is the source's root itself. The order is that of a depth-first walk with sorted names: a directory
/// stands right before what it holds (as if parts were joined by NUL).
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct TreePath(Vec<u8>);

impl TreePath {
    pub fn root() -> Self {
        Self(Vec::new())
    }

    /// The order of paths, against bytes that may yet become one.
    pub fn cmp_bytes(&self, other: &[u8]) -> std::cmp::Ordering {
        cmp_paths(&self.0, other)
    }

    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, NameError> {
        if bytes.is_empty() || parts_are_good(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(NameError { what: "a path inside a snapshot", text: escape(&bytes) })
        }
    }

    /// The path of `name` in this directory. `name` must be one good part.
    pub fn join(&self, name: &[u8]) -> Result<Self, NameError> {
        if !part_is_good(name) {
            return Err(NameError { what: "a file name", text: escape(name) });
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Ok(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The last part; empty for the root.
    pub fn file_name(&self) -> &[u8] {
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => &self.0[at + 1..],
            None => &self.0,
        }
    }

    /// The directory that holds this path; none for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }

    /// The parts, outermost first; none for the root.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|part| !part.is_empty())
    }

    /// Whether `self` is `other` or lies beneath it.
    pub fn is_within(&self, other: &TreePath) -> bool {
        other.is_root()
            || self.0 == other.0
            || (self.0.starts_with(&other.0) && self.0.get(other.0.len()) == Some(&b'/'))
    }

    /// The first path that could stand behind this one and all that lies beneath it; none for the root.
    pub fn after_all_beneath(&self) -> Option<Self> {
        // Paths order as if `/` were NUL, and no name holds a NUL: nothing fits between.
        (!self.is_root()).then(|| Self([self.as_bytes(), b"\x01"].concat()))
    }

    /// What remains of a path within `base`; none if it is not within it.
    pub fn relative_to(&self, base: &TreePath) -> Option<TreePath> {
        if !self.is_within(base) {
            return None;
        }
        let skip = if base.is_root() { 0 } else { (base.0.len() + 1).min(self.0.len()) };
        Some(Self(self.0[skip..].to_vec()))
    }
}

/// The order of paths: that of a walk which sorts the names of each directory by their bytes. So a slash stands before all else.
pub fn cmp_paths(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    match a.iter().zip(b).find(|(a, b)| a != b) {
        None => a.len().cmp(&b.len()),
        Some((a, b)) => rank(*a).cmp(&rank(*b)),
    }
}

/// Whether all parts of a path that is not the root's may stand in one.
pub fn parts_are_good(path: &[u8]) -> bool {
    let is_part = |part: &[u8]| !matches!(part, b"" | b"." | b"..");
    !path.contains(&0) && path.split(|byte| *byte == b'/').all(is_part)
}

fn part_is_good(part: &[u8]) -> bool {
    !part.is_empty() && part != b"." && part != b".." && !part.contains(&0) && !part.contains(&b'/')
}

impl Ord for TreePath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.cmp_bytes(&other.0)
    }
}

impl PartialOrd for TreePath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", escape(&self.0))
    }
}

/// Text of raw bytes that a terminal can print: UTF-8 kept, control bytes, backslashes and broken UTF-8 as `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                text.push_str("\\\\");
            } else if c.is_control() {
                let mut buffer = [0; 4];
                for byte in c.encode_utf8(&mut buffer).bytes() {
                    text.push_str(&format!("\\x{byte:02x}"));
                }
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_orders_as_a_sorted_walk_meets_it() {
        let path = |s: &str| TreePath::from_bytes(s.as_bytes().to_vec()).unwrap();
        let walk = ["", "a", "a/b", "a/b/c", "a/c", "a-b", "a.d", "b"].map(path);
        assert!(walk.is_sorted());
    }

    #[test]
    fn nothing_stands_between_what_lies_beneath_a_path_and_what_comes_after() {
        let path = |s: &str| TreePath::from_bytes(s.as_bytes().to_vec()).unwrap();
        let after = path("a/b").after_all_beneath().unwrap();
        assert!(
            path("a/b/\u{10ffff}") < after && after <= path("a/b\x01") && after < path("a/b-") && after < path("a/b ")
        );
        assert_eq!(TreePath::root().after_all_beneath(), None);
    }

    #[test]
    fn a_path_that_could_leave_its_root_is_refused() {
        for bad in ["/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b"] {
            assert!(TreePath::from_bytes(bad.as_bytes().to_vec()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn relative_paths_drop_their_base() {
        let path = |s: &str| TreePath::from_bytes(s.as_bytes().to_vec()).unwrap();
        assert_eq!(path("etc/ssh/x").relative_to(&path("etc")), Some(path("ssh/x")));
        assert_eq!(path("etc").relative_to(&path("etc")), Some(TreePath::root()));
        assert_eq!(path("etcetera").relative_to(&path("etc")), None);
    }

    #[test]
    fn a_snapshot_and_its_session_name_each_other() {
        let session = SessionId::new(WriterId([1; 8]), [2; 8]);
        assert_eq!(session.snapshot().session(), session);
        assert_eq!(session.writer(), WriterId([1; 8]));
        assert_eq!(session.snapshot().short(), "02020202");
        assert_eq!(session.snapshot().to_string().parse::<SnapshotId>().unwrap(), session.snapshot());
    }

    #[test]
    fn escaped_names_stay_on_one_line() {
        assert_eq!(escape(b"a\nb\xff\\"), "a\\x0ab\\xff\\\\");
    }
}
