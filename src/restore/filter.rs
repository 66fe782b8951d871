//! Which paths of a snapshot are brought back, by patterns.
//!
//! Owns how `--include` and `--exclude` go together. Patterns mean what they mean in a backup's excludes (`source::exclude`): paths are those
//! that the files had on their host, `./` stands for PATH, and of several patterns that match the last one decides.
//!
//! - Without patterns to include, everything is. With them, what matches one is, with all that lies beneath it; `!` takes back.
//! - What matches a pattern to exclude is not brought back, nor anything beneath it, whatever includes it. PATH itself is never excluded: it was
//!   asked for by name.
//! - Directories that lead to something that is brought back are made, with their own attributes.
//!
//! Refuses to walk: it is shown paths in the order of a tree, parents before what they hold.

use std::path::Path;

use super::{Error, Patterns, Result};
use crate::names::TreePath;
use crate::source::exclude::Excludes;

#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    include: Excludes,
    exclude: Excludes,
    /// PATH, relative to `/`.
    base: TreePath,
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    In,
    /// A directory that is made once something in it is chosen.
    Leads,
    Out,
}

/// A filter on its way through a tree.
pub(super) struct Chooser<'f> {
    filter: &'f Filter,
    /// From the top down: directories above the newest path, and what was decided of them.
    above: Vec<Decided>,
}

struct Decided {
    path: TreePath,
    included: bool,
    excluded: bool,
}

impl Filter {
    /// `path` as in `Request::path`.
    pub fn new(path: Option<&[u8]>, include: &Patterns, exclude: &Patterns) -> Result<Self> {
        use std::os::unix::ffi::OsStrExt;
        let base = path.unwrap_or(b"/");
        let root = Path::new(std::ffi::OsStr::from_bytes(base));
        let trimmed = base.strip_prefix(b"/").unwrap_or(base);
        let trimmed = trimmed.strip_suffix(b"/").unwrap_or(trimmed);
        Ok(Self {
            include: Excludes::new(root, &include.given, &include.files).map_err(Error::Pattern)?,
            exclude: Excludes::new(root, &exclude.given, &exclude.files).map_err(Error::Pattern)?,
            base: TreePath::from_bytes(trimmed.to_vec()).unwrap_or_default(),
        })
    }

    /// The same for the same patterns in the same order.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.include.fingerprint()).update(&self.exclude.fingerprint());
        *hasher.finalize().as_bytes()
    }

    pub fn chooser(&self) -> Chooser<'_> {
        Chooser { filter: self, above: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }
}

impl Chooser<'_> {
    /// Decides on `path`, relative to `/`.
    pub fn choose(&mut self, path: &TreePath, is_directory: bool) -> Choice {
        if self.filter.is_empty() {
            return Choice::In;
        }
        while self.above.last().is_some_and(|above| !path.is_within(&above.path) || above.path == *path) {
            self.above.pop();
        }
        if self.above.is_empty() {
            self.descend(TreePath::root(), true);
        }
        // Directories that the snapshot does not tell of are directories all the same.
        let known = self.above.last().map_or(0, |above| above.path.parts().count());
        let mut whole = self.above.last().map(|above| above.path.clone()).unwrap_or_default();
        let missing: Vec<Vec<u8>> = path.parts().skip(known).map(<[u8]>::to_vec).collect();
        let last = missing.len();
        for (number, name) in missing.into_iter().enumerate() {
            let Ok(next) = whole.join(&name) else { return Choice::Out };
            whole = next;
            self.descend(whole.clone(), is_directory || number + 1 < last);
        }
        let Some(decided) = self.above.last() else { return Choice::Out };
        let choice = match decided {
            Decided { excluded: true, .. } => Choice::Out,
            Decided { included: true, .. } => Choice::In,
            _ if is_directory => Choice::Leads,
            _ => Choice::Out,
        };
        if !is_directory {
            self.above.pop();
        }
        choice
    }

    fn descend(&mut self, path: TreePath, is_directory: bool) {
        let Filter { include, exclude, base } = self.filter;
        let host = [b"/", path.as_bytes()].concat();
        let (mut included, mut excluded) = match self.above.last() {
            Some(above) => (above.included, above.excluded),
            None => (include.is_empty(), false),
        };
        if !path.is_root() {
            included = include.says(&host, is_directory).unwrap_or(included);
            let named = base.is_within(&path);
            excluded = excluded || !named && exclude.excludes(&host, is_directory);
        }
        self.above.push(Decided { path, included, excluded });
    }

    /// The least path behind the excluded directory that holds `path`, if one does.
    pub fn behind_excluded(&self, path: &TreePath) -> Option<TreePath> {
        let excluded = self.above.iter().find(|above| above.excluded && path.is_within(&above.path))?;
        // No name holds a byte less than this one.
        let behind = [excluded.path.file_name(), b"\x01"].concat();
        excluded.path.parent()?.join(&behind).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(path: &str) -> TreePath {
        TreePath::from_bytes(path.as_bytes().to_vec()).unwrap()
    }

    fn filter(base: &str, include: &[&str], exclude: &[&str]) -> Filter {
        let patterns = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|pattern| pattern.to_string()).collect();
            Excludes::new(&Path::new("/").join(base), &list, &[]).unwrap()
        };
        Filter { include: patterns(include), exclude: patterns(exclude), base: tree(base) }
    }

    /// What is chosen of some paths, given in order; a slash at the end makes a directory.
    fn chosen(filter: &Filter, paths: &[&str]) -> Vec<String> {
        let mut chooser = filter.chooser();
        let is_in = |path: &&&str| {
            let directory = path.ends_with('/');
            chooser.choose(&tree(path.trim_end_matches('/')), directory) == Choice::In
        };
        paths.iter().filter(is_in).map(ToString::to_string).collect()
    }

    const PATHS: [&str; 9] = [
        "etc/",
        "etc/fstab",
        "etc/ssh/",
        "etc/ssh/key",
        "etc/ssh/sshd.conf",
        "home/",
        "home/ann/",
        "home/ann/a.conf",
        "home/ann/a.txt",
    ];

    #[test]
    fn without_patterns_all_is_in() {
        assert_eq!(chosen(&filter("", &[], &[]), &PATHS), PATHS);
    }

    #[test]
    fn includes_choose_with_all_beneath_and_a_mark_takes_back() {
        assert_eq!(chosen(&filter("", &["*.conf"], &[]), &PATHS), ["etc/ssh/sshd.conf", "home/ann/a.conf"]);
        assert_eq!(chosen(&filter("", &["/etc/ssh"], &[]), &PATHS), ["etc/ssh/", "etc/ssh/key", "etc/ssh/sshd.conf"]);
        assert_eq!(
            chosen(&filter("", &["etc", "!key"], &[]), &PATHS),
            ["etc/", "etc/fstab", "etc/ssh/", "etc/ssh/sshd.conf"]
        );
        // Above PATH it counts too: all of PATH lies beneath it.
        assert_eq!(chosen(&filter("etc/ssh", &["/etc"], &[]), &["etc/ssh/", "etc/ssh/key"]).len(), 2);
        assert_eq!(
            chosen(&filter("etc", &["./ssh"], &[]), &PATHS[..5]),
            ["etc/ssh/", "etc/ssh/key", "etc/ssh/sshd.conf"]
        );
    }

    #[test]
    fn excludes_win_and_never_take_what_was_asked_for_by_name() {
        assert_eq!(chosen(&filter("", &["etc"], &["ssh/"]), &PATHS), ["etc/", "etc/fstab"]);
        assert_eq!(chosen(&filter("", &[], &["*", "!/etc", "!fstab"]), &PATHS), ["etc/", "etc/fstab"]);
        assert_eq!(
            chosen(&filter("etc", &[], &["etc", "key"]), &PATHS[..5]),
            ["etc/", "etc/fstab", "etc/ssh/", "etc/ssh/sshd.conf"]
        );
        assert_eq!(chosen(&filter("", &[], &["etc"]), &PATHS[..5]), Vec::<String>::new());
    }

    #[test]
    fn a_way_leads_and_behind_what_is_excluded_the_tree_goes_on() {
        let filter = filter("", &["*.conf"], &["ssh"]);
        let mut chooser = filter.chooser();
        assert_eq!(chooser.choose(&tree("etc"), true), Choice::Leads);
        assert_eq!(chooser.choose(&tree("etc/ssh"), true), Choice::Out);
        assert_eq!(chooser.choose(&tree("etc/ssh/a.conf"), false), Choice::Out);
        let behind = chooser.behind_excluded(&tree("etc/ssh/a.conf")).unwrap();
        assert!(behind > tree("etc/ssh/zzz") && behind < tree("etc/ssh0"));
        assert_eq!(chooser.behind_excluded(&tree("etc/zzz")), None);
    }
}
