//! Paths that were asked for one by one: a list of files, as `find` prints it.
//!
//! Owns which names of a directory lead to what was asked for, so that a walk goes there and lists nothing on the way. Refuses to read
//! the list: whoever hands it over has made each path absolute.

use super::problem::SourceError;
use crate::names::TreePath;

/// Sorted, none within another. About 40 bytes for each path beside the path itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed(Vec<TreePath>);

impl Listed {
    /// From paths relative to the root of the walk. What lies within another of them is asked for by that one already.
    pub fn new(mut paths: Vec<TreePath>) -> Self {
        paths.sort_unstable();
        paths.dedup_by(|later, kept| later.is_within(kept));
        Self(paths)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether `path` is one of them, and so saved with all that lies beneath it.
    pub fn holds(&self, path: &TreePath) -> bool {
        self.0.binary_search(path).is_ok()
    }

    /// Those at or beneath `path`.
    pub fn beneath<'l>(&'l self, path: &'l TreePath) -> impl Iterator<Item = &'l TreePath> {
        let start = self.0.partition_point(|listed| listed < path);
        self.0[start..].iter().take_while(|listed| listed.is_within(path))
    }

    /// The names in the directory `path` that lead to them, each once, sorted.
    pub(super) fn names<'l>(&'l self, path: &'l TreePath) -> impl Iterator<Item = &'l [u8]> {
        let depth = path.parts().count();
        let mut last: Option<&[u8]> = None;
        let all = self.beneath(path).filter_map(move |listed| listed.parts().nth(depth));
        all.filter(move |name| last.replace(name) != Some(name))
    }

    /// A list of which nothing is there is a mistake, and no empty backup.
    pub fn must_exist(&self) -> Result<(), SourceError> {
        let stands = |path: &TreePath| {
            use std::os::unix::ffi::OsStrExt;
            let whole = [b"/", path.as_bytes()].concat();
            std::fs::symlink_metadata(std::ffi::OsStr::from_bytes(&whole))
        };
        // What cannot be looked at is there, as far as anybody knows; the walk says what is wrong with it.
        let is_gone = |error: std::io::Error| {
            matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
        };
        let gone = |path: &TreePath| stands(path).is_err_and(is_gone);
        match self.0.first() {
            Some(first) if self.0.iter().all(gone) => {
                Err(SourceError::NoneListed { listed: self.0.len(), first: [b"/", first.as_bytes()].concat() })
            }
            _ => Ok(()),
        }
    }

    /// At most `max` paths (at least one) that hold all of these: where there are more, directories stand for what is in them, the
    /// deepest first.
    pub fn abbreviated(&self, max: usize) -> Vec<TreePath> {
        let mut paths = self.0.clone();
        while paths.len() > max.max(1) {
            let depth = paths.iter().map(|path| path.parts().count()).max().unwrap_or(0);
            let shorten = |path: TreePath| match path.parent() {
                Some(parent) if path.parts().count() == depth => parent,
                _ => path,
            };
            paths = Self::new(paths.into_iter().map(shorten).collect()).0;
        }
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(paths: &[&str]) -> Listed {
        Listed::new(paths.iter().map(|path| tree(path)).collect())
    }

    fn tree(path: &str) -> TreePath {
        TreePath::from_bytes(path.as_bytes().to_vec()).unwrap()
    }

    fn names(listed: &Listed, path: &str) -> Vec<String> {
        listed.names(&tree(path)).map(|name| String::from_utf8(name.to_vec()).unwrap()).collect()
    }

    #[test]
    fn what_lies_within_another_is_asked_for_once() {
        let listed = listed(&["etc/ssh", "etc", "home/ann/b", "home/ann/a", "etc-old", "home/ann/a"]);
        let expected: Vec<TreePath> = ["etc", "etc-old", "home/ann/a", "home/ann/b"].map(tree).into();
        assert_eq!(listed.0, expected);
        assert!(listed.holds(&tree("etc")) && !listed.holds(&tree("home")) && !listed.holds(&tree("etc/ssh")));
    }

    #[test]
    fn a_directory_on_the_way_has_the_names_that_lead_on() {
        let listed = listed(&["etc/ssh/config", "etc/fstab", "home/ann/a", "home/ann/b", "home/bob", "srv"]);
        assert_eq!(names(&listed, ""), ["etc", "home", "srv"]);
        assert_eq!(names(&listed, "etc"), ["fstab", "ssh"]);
        assert_eq!(names(&listed, "home"), ["ann", "bob"]);
        assert_eq!(names(&listed, "home/ann"), ["a", "b"]);
        assert_eq!(names(&listed, "ho"), Vec::<String>::new());
    }

    #[test]
    fn many_paths_are_told_by_their_directories() {
        let listed = listed(&["home/ann/x/1", "home/ann/x/2", "home/ann/y/1", "srv/www", "srv/ftp"]);
        let told = |max| listed.abbreviated(max).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(told(5).len(), 5);
        assert_eq!(told(4), ["home/ann/x", "home/ann/y", "srv/ftp", "srv/www"]);
        assert_eq!(told(3), ["home/ann", "srv/ftp", "srv/www"]);
        assert_eq!(told(2), ["home", "srv"]);
        assert_eq!(listed.abbreviated(1), [TreePath::root()]);
    }

    #[test]
    fn a_list_of_which_nothing_stands_is_refused() {
        assert!(matches!(
            listed(&["no-such-a", "no-such-b"]).must_exist(),
            Err(SourceError::NoneListed { listed: 2, .. })
        ));
        assert!(listed(&["no-such-a", "proc"]).must_exist().is_ok());
    }
}
