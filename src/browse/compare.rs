//! What differs between two snapshots, or between two places in them.
//!
//! Owns which entries belong together and what of them differs. Subtrees that both hold are passed over by their id. Refuses to read content as long as ids
//! can tell.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use super::content::{self, Same};
use super::{Damage, Error, Result, Set, Step, Tree, Visit, Weave, absolute, go_on, joined, sources, under_root};
use crate::names::{ChunkId, TreePath};
use crate::pack::entry::{Entry, Kind};
use crate::repository::{ChunkReader, Repository, Snapshot};

/// One of the two things that are compared.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    pub snapshot: &'a Snapshot,
    pub reader: &'a ChunkReader<'a>,
    /// An absolute path: what is compared lies there.
    pub path: &'a [u8],
}

/// What differs. Paths of the entries are relative to those of the sides.
#[derive(Debug)]
pub enum Change {
    Added(Entry),
    Removed(Entry),
    Changed(Box<(Entry, Entry)>, What),
}

/// What of an entry differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct What {
    pub kind: bool,
    pub content: bool,
    /// The content differs, and size, times and inode do not: nothing wrote there, as far as the source's file system knows.
    pub silent: bool,
    pub mode: bool,
    pub owner: bool,
    pub mtime: bool,
    pub xattrs: bool,
    pub device: bool,
}

impl What {
    /// The letter that `diff` shows.
    pub fn letter(self) -> char {
        match self {
            Self { kind: true, .. } => 'T',
            Self { silent: true, .. } => '?',
            Self { content: true, .. } => 'M',
            _ => 'U',
        }
    }

    /// Names of what differs beside content, in order.
    pub fn words(self) -> Vec<&'static str> {
        let all = [
            (self.kind, "type"),
            (self.content, "content"),
            (self.mode, "mode"),
            (self.owner, "owner"),
            (self.mtime, "mtime"),
            (self.xattrs, "xattrs"),
            (self.device, "device"),
        ];
        all.into_iter().filter(|(differs, _)| *differs).map(|(_, word)| word).collect()
    }

    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }

    /// Only the time: of a directory, that is what adding and removing names in it leaves.
    pub fn is_time_only(self) -> bool {
        self == Self { mtime: true, ..Self::default() }
    }
}

/// Things of one sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub files: u64,
    pub directories: u64,
    pub others: u64,
    /// Sum of file sizes.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, entry: &Entry) {
        match entry.kind {
            Kind::File { size, .. } => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(size);
            }
            Kind::Directory => self.directories += 1,
            _ => self.others += 1,
        }
    }

    pub fn all(self) -> u64 {
        self.files + self.directories + self.others
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub added: Count,
    pub removed: Count,
    /// Files with other content, and their bytes before and after.
    pub modified: u64,
    pub modified_bytes_before: u64,
    pub modified_bytes_after: u64,
    /// Of those, files that changed without a trace.
    pub silent: u64,
    pub metadata: u64,
    pub types: u64,
    /// Directories of which only the time differs; they are in `metadata` too.
    pub directory_times: u64,
}

impl Summary {
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, change: &Change) {
        match change {
            Change::Added(entry) => self.added.add(entry),
            Change::Removed(entry) => self.removed.add(entry),
            Change::Changed(both, what) => {
                match what.letter() {
                    'T' => self.types += 1,
                    'U' => self.metadata += 1,
                    _ => {
                        self.modified += 1;
                        self.modified_bytes_before = self.modified_bytes_before.saturating_add(both.0.kind.size());
                        self.modified_bytes_after = self.modified_bytes_after.saturating_add(both.1.kind.size());
                    }
                }
                self.silent += u64::from(what.silent);
                self.directory_times += u64::from(both.1.kind.is_directory() && what.is_time_only());
            }
        }
    }
}

pub trait Listen {
    /// Break: nobody wants to hear more.
    fn change(&mut self, change: Change) -> ControlFlow<()>;
    fn damage(&mut self, damage: Damage);
}

/// Tells every difference, in the order of paths.
pub fn compare(
    repository: &Repository,
    old: Side<'_>,
    new: Side<'_>,
    listen: &mut dyn Listen,
    cancel: &AtomicBool,
) -> Result<Summary> {
    let mut trees = Vec::new();
    for (number, side) in [old, new].into_iter().enumerate() {
        let snapshot = side.snapshot.id.short();
        let wrong = || Error::NotFound { path: side.path.to_vec(), snapshot: snapshot.clone() };
        let strip = under_root(side.path).ok_or_else(wrong)?;
        for (name, source) in sources(side.snapshot.need_body(repository)?, &snapshot)? {
            let from = match (name.is_within(&strip), strip.relative_to(&name)) {
                (true, _) => TreePath::root(),
                (_, Some(from)) => from,
                _ => continue,
            };
            trees.push(Tree { nodes: side.reader, root: source.tree(), name, from, strip: strip.clone(), number });
        }
    }
    let judge = Judge {
        old,
        new,
        one_group: old.snapshot.group == new.snapshot.group,
        may_read: repository.access.reader.is_some(),
    };
    let mut weave = Weave::new(trees);
    let mut summary = Summary::default();
    while let Some(step) = weave.next(&mut Differing { cancel }, |error| !error.is_damage())? {
        go_on(cancel)?;
        let change = match step {
            Step::Damage { after, set, error } => {
                let side = if set.contains(0) { old } else { new };
                let after = under_root(side.path).map_or_else(TreePath::root, |base| joined(&base, &after));
                listen.damage(Damage { after: absolute(&after), error });
                continue;
            }
            Step::Path(path, mut found) => {
                let mut take = |number| {
                    let at = found.iter().position(|version| version.set.contains(number))?;
                    // One that stands in both was in no shared node, and is the same all the same.
                    let shared = found[at].set.len() > 1;
                    if shared { Some(found[at].entry.clone()) } else { Some(found.swap_remove(at).entry) }
                };
                match (take(0), take(1)) {
                    (Some(old), Some(new)) => match judge.what(&old, &new) {
                        Ok(what) if what.is_nothing() => continue,
                        Ok(what) => Change::Changed(Box::new((old, new)), what),
                        Err(error) if error.is_damage() => {
                            let base = under_root(judge.new.path).unwrap_or_default();
                            listen.damage(Damage { after: absolute(&joined(&base, &path)), error });
                            continue;
                        }
                        Err(error) => return Err(error.into()),
                    },
                    (Some(old), None) => Change::Removed(old),
                    (None, Some(new)) => Change::Added(new),
                    (None, None) => continue,
                }
            }
        };
        summary.add(&change);
        if listen.change(change).is_break() {
            break;
        }
    }
    go_on(cancel)?;
    Ok(summary)
}

/// Passes over what both hold.
struct Differing<'a> {
    cancel: &'a AtomicBool,
}

impl Visit for Differing<'_> {
    fn enter(&mut self, _: &ChunkId, set: &Set, _: u64) -> bool {
        !(set.contains(0) && set.contains(1)) && go_on(self.cancel).is_ok()
    }
}

struct Judge<'a> {
    old: Side<'a>,
    new: Side<'a>,
    one_group: bool,
    may_read: bool,
}

impl Judge<'_> {
    fn what(&self, old: &Entry, new: &Entry) -> crate::repository::Result<What> {
        let mut what = What {
            kind: old.kind.letter() != new.kind.letter(),
            mode: old.mode != new.mode,
            owner: (old.uid, old.gid, &old.user, &old.group) != (new.uid, new.gid, &new.user, &new.group),
            mtime: old.mtime != new.mtime,
            xattrs: old.xattrs != new.xattrs,
            ..What::default()
        };
        match (&old.kind, &new.kind) {
            (Kind::File { size, content, .. }, Kind::File { size: new_size, content: new_content, .. }) => {
                what.content = size != new_size || {
                    let a = content::Side { reader: self.old.reader, content };
                    let b = content::Side { reader: self.new.reader, content: new_content };
                    content::same(a, b, self.one_group, self.may_read)? != Same::Yes
                };
                let untouched = (old.mtime, old.ctime, old.inode) == (new.mtime, new.ctime, new.inode);
                what.silent = what.content && size == new_size && untouched;
            }
            (Kind::Symlink { target }, Kind::Symlink { target: new_target }) => what.content = target != new_target,
            (old, new) => what.device = !what.kind && old != new,
        }
        Ok(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heaviest_difference_gives_the_letter() {
        let none = What::default();
        let letters = [
            What { kind: true, content: true, ..none },
            What { content: true, silent: true, ..none },
            What { content: true, mtime: true, mode: true, ..none },
            What { xattrs: true, ..none },
        ];
        assert_eq!(letters.map(What::letter), ['T', '?', 'M', 'U']);
        assert_eq!(letters[2].words(), ["content", "mode", "mtime"]);
        assert!(none.is_nothing() && What { mtime: true, ..none }.is_time_only() && !letters[2].is_time_only());
    }
}
