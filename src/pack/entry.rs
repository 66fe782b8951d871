//! One entry of a tree: what a source says of a file and what a target sets again.
//!
//! Owns the in-memory shape. `tree` owns its bytes at rest; nothing here reads a file system.

use crate::names::{ChunkId, TreePath};

/// A time as the kernel gives it: seconds since 1970 (negative before), nanoseconds 0..1e9 added to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    pub secs: i64,
    pub nanos: u32,
}

/// Everything about one path, except the bytes of its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the source's root; empty for the root itself.
    pub path: TreePath,
    pub kind: Kind,
    /// Permission, setuid, setgid and sticky bits: 0..=0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Names of owner and group on the source, raw bytes, where it had one.
    pub user: Option<Vec<u8>>,
    pub group: Option<Vec<u8>>,
    pub mtime: Timestamp,
    /// For change detection only; never restored.
    pub ctime: Timestamp,
    /// For change detection only; never restored.
    pub inode: u64,
    /// Same number, same file: set for what has more than one name and is no directory.
    pub link_group: Option<u64>,
    /// Extended attributes, ACLs and file capabilities among them: (name, value) sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `size` in bytes; the extents of `content` add up to it.
    File {
        size: u64,
        content: Content,
        cut: Cut,
    },
    Directory,
    /// The target's raw bytes, never followed.
    Symlink {
        target: Vec<u8>,
    },
    Fifo,
    Socket,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
}

/// How a file's content was cut, so that the next backup cuts it alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cut {
    /// Where content suggests (`chunk::gear`).
    #[default]
    Content,
    /// Every 64 KiB: disk images.
    Fixed,
}

/// The bytes of a file, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// All extents, few enough to stand in the entry.
    Extents(Vec<Extent>),
    /// Extents in nodes of their own (`tree`): `depth` 1 means that `root` holds extents, more that it holds nodes.
    Nodes { root: ChunkId, depth: u8 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// One chunk, `len` bytes of plaintext, at least 1.
    Data { id: ChunkId, len: u32 },
    /// Bytes that read as zero and take no space; never adjacent to another hole.
    Hole { len: u64 },
}

impl Extent {
    pub fn len(self) -> u64 {
        match self {
            Extent::Data { len, .. } => u64::from(len),
            Extent::Hole { len } => len,
        }
    }

    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

impl Kind {
    pub fn is_directory(&self) -> bool {
        matches!(self, Kind::Directory)
    }

    /// Size in bytes of a file; 0 for all else.
    pub fn size(&self) -> u64 {
        if let Kind::File { size, .. } = self { *size } else { 0 }
    }

    /// `-dlpscb`, as `ls -l` shows it.
    pub fn letter(&self) -> char {
        match self {
            Kind::File { .. } => '-',
            Kind::Directory => 'd',
            Kind::Symlink { .. } => 'l',
            Kind::Fifo => 'p',
            Kind::Socket => 's',
            Kind::CharDevice { .. } => 'c',
            Kind::BlockDevice { .. } => 'b',
        }
    }
}
