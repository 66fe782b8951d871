//! Where a file is: which snapshots hold it, and in which versions.
//!
//! Owns the question and the runs of snapshots that hold the same version. Refuses to keep what it found: each path is told as the walk passes it, with
//! all its versions.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use globset::{GlobBuilder, GlobMatcher};

use super::{Damage, Error, Result, Set, Step, Tree, Visit, Weave, absolute, go_on, sources, under_root};
use crate::names::{ChunkId, TreePath};
use crate::pack::entry::{Entry, Kind, Timestamp};
use crate::repository::{ChunkReader, Index, Repository, Snapshot};

/// A pattern: of names, or of paths if it has a slash.
pub struct Pattern {
    matcher: GlobMatcher,
    of_paths: bool,
}

impl Pattern {
    /// `*.conf` fits names. `nginx/*.conf` fits the end of paths, `/etc/*.conf` whole ones; `**` passes directories.
    pub fn new(text: &str, any_case: bool) -> std::result::Result<Self, globset::Error> {
        let text = if text.len() > 1 { text.strip_suffix('/').unwrap_or(text) } else { text };
        let of_paths = text.contains('/');
        let whole = if of_paths && !text.starts_with('/') && !text.starts_with("**/") {
            format!("**/{text}")
        } else {
            text.to_owned()
        };
        let glob = GlobBuilder::new(&whole).literal_separator(true).case_insensitive(any_case).build()?;
        Ok(Self { matcher: glob.compile_matcher(), of_paths })
    }

    /// Whether it fits what stands at this absolute path.
    pub fn fits(&self, path: &[u8]) -> bool {
        use std::os::unix::ffi::OsStrExt;
        let name = path.iter().rposition(|byte| *byte == b'/').map_or(path, |at| &path[at + 1..]);
        let text = if self.of_paths { path } else { name };
        self.matcher.is_match(std::ffi::OsStr::from_bytes(text))
    }
}

/// What is looked for: whatever fits one of the patterns and all the rest.
#[derive(Default)]
pub struct Query {
    pub patterns: Vec<Pattern>,
    /// Letters as `ls -l` shows them, with `f` for files; none: all.
    pub kinds: Vec<char>,
    pub newer: Option<Timestamp>,
    pub older: Option<Timestamp>,
    pub larger: Option<u64>,
    pub smaller: Option<u64>,
    /// An absolute path; only what lies there or beneath.
    pub beneath: Option<Vec<u8>>,
}

impl Query {
    fn fits(&self, entry: &Entry) -> bool {
        let letter = if entry.kind.letter() == '-' { 'f' } else { entry.kind.letter() };
        let sized = |fits: &dyn Fn(u64) -> bool| matches!(entry.kind, Kind::File { size, .. } if fits(size));
        (self.kinds.is_empty() || self.kinds.contains(&letter))
            && self.newer.is_none_or(|time| entry.mtime > time)
            && self.older.is_none_or(|time| entry.mtime < time)
            && self.larger.is_none_or(|limit| sized(&|size| size > limit))
            && self.smaller.is_none_or(|limit| sized(&|size| size < limit))
            && {
                let path = absolute(&entry.path);
                self.patterns.is_empty() || self.patterns.iter().any(|pattern| pattern.fits(&path))
            }
    }
}

/// One version of a path, and the snapshots next to each other that hold it: places in the list that was asked, the newest first.
#[derive(Debug)]
pub struct Version {
    pub entry: Entry,
    pub snapshots: Vec<usize>,
}

/// A path with its versions, the newest first.
#[derive(Debug)]
pub struct Match {
    /// Absolute, raw bytes.
    pub path: Vec<u8>,
    pub versions: Vec<Version>,
}

/// What `find` says as it goes.
pub trait Listen {
    /// Break: nobody wants to hear more.
    fn found(&mut self, found: Match) -> ControlFlow<()>;
    fn damage(&mut self, damage: Damage);
}

/// Looks through snapshots of one writer, given newest first. Returns how many nodes were read.
pub fn find(
    repository: &Repository,
    index: &Index,
    snapshots: &[&Snapshot],
    query: &Query,
    listen: &mut dyn Listen,
    cancel: &AtomicBool,
) -> Result<u64> {
    let Some(first) = snapshots.first() else { return Ok(0) };
    let reader = ChunkReader::new(repository, index, first.writer)?;
    let beneath = match &query.beneath {
        Some(path) => {
            under_root(path).ok_or_else(|| Error::SourceName { snapshot: first.id.short(), name: path.clone() })?
        }
        None => TreePath::root(),
    };
    let (mut trees, mut covers) = (Vec::new(), Vec::new());
    for (number, snapshot) in snapshots.iter().enumerate() {
        let body = snapshot.need_body(repository)?;
        let mut names = Vec::new();
        for (name, source) in sources(body, &snapshot.id.short())? {
            let from = match (name.is_within(&beneath), beneath.relative_to(&name)) {
                (true, _) => TreePath::root(),
                (_, Some(from)) => from,
                _ => continue,
            };
            trees.push(Tree {
                nodes: &reader,
                root: source.tree(),
                name: name.clone(),
                from,
                strip: TreePath::root(),
                number,
            });
            names.push(name);
        }
        covers.push(names);
    }
    let mut weave = Weave::new(trees);
    let mut wanted = Wanted { query, beneath: &beneath, cancel };
    while let Some(step) = weave.next(&mut wanted, |error| !error.is_damage())? {
        go_on(cancel)?;
        match step {
            Step::Damage { after, error, .. } => listen.damage(Damage { after: absolute(&after), error }),
            Step::Path(path, found) => {
                let mut versions: Vec<(Entry, Set)> = Vec::new();
                for new in found {
                    match versions.iter_mut().find(|(entry, _)| same_version(entry, &new.entry)) {
                        Some((_, set)) => set.add(&new.set),
                        None => versions.push((new.entry, new.set)),
                    }
                }
                let found = Match { path: absolute(&path), versions: runs(&path, &versions, &covers) };
                if listen.found(found).is_break() {
                    break;
                }
            }
        }
    }
    go_on(cancel)?;
    Ok(weave.read)
}

struct Wanted<'q> {
    query: &'q Query,
    beneath: &'q TreePath,
    cancel: &'q AtomicBool,
}

impl Visit for Wanted<'_> {
    fn enter(&mut self, _: &ChunkId, _: &Set, _: u64) -> bool {
        go_on(self.cancel).is_ok()
    }

    fn wants(&mut self, entry: &Entry, _: &Set) -> bool {
        entry.path.is_within(self.beneath) && self.query.fits(entry)
    }
}

/// Whether two entries of one path are the same to whoever wants the file back.
pub(super) fn same_version(a: &Entry, b: &Entry) -> bool {
    a.kind == b.kind
        && a.mtime == b.mtime
        && (a.mode, a.uid, a.gid, &a.user, &a.group) == (b.mode, b.uid, b.gid, &b.user, &b.group)
        && a.xattrs == b.xattrs
}

/// Cuts the snapshots that could hold a path into runs that hold one version. One that saved the place and has no such version ends a run.
fn runs(path: &TreePath, versions: &[(Entry, Set)], covers: &[Vec<TreePath>]) -> Vec<Version> {
    let mut runs: Vec<(usize, Vec<usize>)> = Vec::new();
    let mut broken = true;
    for (number, names) in covers.iter().enumerate() {
        match versions.iter().position(|(_, set)| set.contains(number)) {
            Some(version) => {
                match runs.last_mut() {
                    Some((last, run)) if *last == version && !broken => run.push(number),
                    _ => runs.push((version, vec![number])),
                }
                broken = false;
            }
            None => broken |= names.iter().any(|name| path.is_within(name)),
        }
    }
    runs.into_iter().map(|(at, snapshots)| Version { entry: versions[at].0.clone(), snapshots }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, path: &str) -> bool {
        Pattern::new(pattern, false).unwrap().fits(path.as_bytes())
    }

    #[test]
    fn a_pattern_without_a_slash_is_of_names_and_one_with_a_slash_of_paths() {
        assert!(fits("*.conf", "/etc/nginx/site.conf") && !fits("*.conf", "/etc/x.conf/y"));
        assert!(fits("nginx/*.conf", "/etc/nginx/site.conf") && !fits("nginx/*.conf", "/etc/nginx/a/site.conf"));
        assert!(fits("/etc/**/*.conf", "/etc/nginx/a/site.conf") && !fits("/nginx/*.conf", "/etc/nginx/site.conf"));
        assert!(fits("/etc/nginx/", "/etc/nginx") && fits("{a,b}?", "/x/b1") && fits("[!a]b", "/cb"));
        assert!(!fits("READme", "/README") && Pattern::new("READme", true).unwrap().fits(b"/x/readME"));
        assert!(fits("/", "/") && Pattern::new("a[", false).is_err());
        assert!(fits("caf\u{e9}*", "/caf\u{e9}.txt") && Pattern::new("a*", false).unwrap().fits(b"/x/a\xff"));
    }

    #[test]
    fn runs_end_where_the_version_changes_or_the_file_was_away() {
        let entry = |secs| Entry {
            path: TreePath::root(),
            kind: Kind::Fifo,
            mode: 0,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: Timestamp { secs, nanos: 0 },
            ctime: Timestamp::default(),
            inode: 0,
            link_group: None,
            xattrs: vec![],
        };
        let path = |text: &str| TreePath::from_bytes(text.into()).unwrap();
        // Snapshots 0 1 2 hold the first version, 4 and 6 the second; 3 had none, 5 saved another place.
        let versions = [(entry(1), [0, 1, 2, 7].into_iter().collect()), (entry(2), [4, 6].into_iter().collect())];
        let home = || vec![path("home")];
        let covers = [home(), home(), home(), home(), home(), vec![path("etc")], home(), home()];
        let runs = runs(&path("home/x"), &versions, &covers);
        let shown: Vec<(i64, &[usize])> = runs.iter().map(|run| (run.entry.mtime.secs, &run.snapshots[..])).collect();
        assert_eq!(shown, [(1, &[0, 1, 2][..]), (2, &[4, 6]), (1, &[7])]);
    }
}
