//! What on disk is not as an entry says.

use super::Target;
use super::attributes::is_comparable;
use super::error::Result;
use super::read::{FileKind, Found};
use crate::names::TreePath;
use crate::pack::entry::{Entry, Kind, Timestamp};

/// One thing that is not as wanted. Content is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Nothing stands there.
    Missing,
    /// Another kind of thing stands there; nothing else was compared.
    Kind {
        wanted: FileKind,
        found: FileKind,
    },
    Size {
        wanted: u64,
        found: u64,
    },
    Mode {
        wanted: u32,
        found: u32,
    },
    Owner {
        wanted: (u32, u32),
        found: (u32, u32),
    },
    Mtime {
        wanted: Timestamp,
        found: Timestamp,
    },
    Link {
        wanted: Vec<u8>,
        found: Vec<u8>,
    },
    Device {
        wanted: (u32, u32),
        found: (u32, u32),
    },
    /// The value differs, or it is missing, or it should not be there.
    Xattr {
        name: Vec<u8>,
    },
}

impl Target {
    /// How what stands at `path` differs from what a restore of `entry` with these options would leave there.
    pub fn differences(&self, path: &TreePath, entry: &Entry) -> Result<Vec<Difference>> {
        let device = matches!(entry.kind, Kind::CharDevice { .. } | Kind::BlockDevice { .. });
        if device && !self.options.privileged {
            return Ok(Vec::new());
        }
        Ok(match self.read_entry(path)? {
            None => vec![Difference::Missing],
            Some(found) => self.compare(entry, &found),
        })
    }

    fn compare(&self, entry: &Entry, found: &Found) -> Vec<Difference> {
        let mut differences = Vec::new();
        let stat = &found.stat;
        let kind = FileKind::from(&entry.kind);
        if kind != stat.kind {
            return vec![Difference::Kind { wanted: kind, found: stat.kind }];
        }
        match &entry.kind {
            Kind::File { size, .. } if *size != stat.size => {
                differences.push(Difference::Size { wanted: *size, found: stat.size });
            }
            Kind::Symlink { target } if found.link.as_ref() != Some(target) => {
                let found = found.link.clone().unwrap_or_default();
                differences.push(Difference::Link { wanted: target.clone(), found });
            }
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor }
                if (*major, *minor) != stat.device =>
            {
                differences.push(Difference::Device { wanted: (*major, *minor), found: stat.device });
            }
            _ => {}
        }
        let mode = entry.mode & !self.owners.withheld(entry) & if self.options.privileged { 0o7777 } else { 0o1777 };
        if mode != stat.mode && kind != FileKind::Symlink {
            differences.push(Difference::Mode { wanted: mode, found: stat.mode });
        }
        let owner = self.owners.of(entry);
        if owner != (stat.uid, stat.gid) && self.options.privileged {
            differences.push(Difference::Owner { wanted: owner, found: (stat.uid, stat.gid) });
        }
        if entry.mtime != stat.mtime {
            differences.push(Difference::Mtime { wanted: entry.mtime, found: stat.mtime });
        }
        let wanted = entry.xattrs.iter().filter(|(name, _)| self.sets_xattr(name));
        for (name, value) in wanted {
            if found.xattrs.iter().all(|(n, v)| n != name || v != value) {
                differences.push(Difference::Xattr { name: name.clone() });
            }
        }
        let extra = found.xattrs.iter().filter(|(name, _)| is_comparable(name) && self.sets_xattr(name));
        for (name, _) in extra {
            if entry.xattrs.iter().all(|(n, _)| n != name) {
                differences.push(Difference::Xattr { name: name.clone() });
            }
        }
        differences
    }
}
