//! The walk: the root, then everything beneath it, in the order of `TreePath`.
//!
//! Owns the order, and what is left out of it. Refuses to open files and to read anything but names, stats and the first
//! bytes of a `CACHEDIR.TAG`.
//!
//! A found entry costs one `statx` by name on its directory's descriptor and one allocation (its path); a directory costs an
//! open, a stat to be sure of it, and at least two `getdents` besides. The memory is that of the listings from the root to
//! where the walk is (`LISTINGS_BYTES` of names together, and the rest in files), a handle for each of those directories, and one path.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::dir::{Base, Dir, open_quietly};
use super::exclude::Excludes;
use super::listed::Listed;
use super::listing::{BUFFER_BYTES, CACHEDIR_TAG, Listing};
use super::open;
use super::problem::{Problem, ProblemKind, SourceError};
use super::stat::{FileType, Stat, stat_at};
use crate::names::TreePath;

#[derive(Clone, Debug, Default)]
pub struct WalkOptions {
    pub excludes: Excludes,
    /// Mount points are kept, what is mounted there is not.
    pub one_file_system: bool,
    /// A directory with a valid `CACHEDIR.TAG` is kept with its tag, without the rest.
    pub exclude_caches: bool,
    /// Only these, with the directories that lead to them; the root is `/` then.
    pub listed: Option<Arc<Listed>>,
    /// Device and inode of a directory that is kept empty: the store that all is saved to.
    pub closed: Option<(u64, u64)>,
}

/// Something that stood in the source when the walk came by.
#[derive(Clone)]
pub struct Found {
    /// Relative to the root; empty for the root itself.
    pub path: TreePath,
    pub stat: Stat,
    /// The directory that holds it.
    pub dir: Arc<Dir>,
}

impl Found {
    /// Its name in `dir`.
    pub fn name(&self) -> &[u8] {
        if self.path.is_root() { &self.dir.base().root_name } else { self.path.file_name() }
    }

    /// The host's absolute path, for people.
    pub fn absolute(&self) -> Vec<u8> {
        self.dir.base().absolute(&self.path)
    }

    pub fn problem(&self, kind: ProblemKind) -> Problem {
        self.dir.problem(&self.path, kind)
    }

    /// What stands under the name now: programs replace files by renaming a new one over them.
    pub fn again(&self) -> Result<Found, Problem> {
        let descriptor = self.dir.descriptor().map_err(|kind| self.problem(kind))?;
        let stat = stat_at(&*descriptor, self.name(), false)
            .map_err(|errno| self.problem(ProblemKind::from_errno("looked at", errno)))?;
        Ok(Found { stat, ..self.clone() })
    }
}

/// An iterator over everything found. A problem stands where the entry (or, after a directory, its content) would have.
pub struct Walk {
    options: WalkOptions,
    base: Arc<Base>,
    root: Option<Found>,
    /// The directory that was yielded last, whose content comes next.
    pending: Option<Pending>,
    /// From the root to the directory being walked.
    frames: Vec<Frame>,
    /// Of the last frame, kept in hand so that an entry takes no lock.
    descriptor: Option<Arc<OwnedFd>>,
    /// Of the last frame; of `pending` while there is one.
    path: TreePath,
    /// The host's path of the entry at hand; empty where nothing is excluded.
    absolute: Vec<u8>,
    spare: Vec<Listing>,
    buffer: Box<[MaybeUninit<u8>]>,
    /// Of listed paths that lie beneath what cannot hold them.
    unmet: VecDeque<Problem>,
}

struct Pending {
    dir: Arc<Dir>,
    scope: Scope,
}

/// What of a directory is wanted.
#[derive(Clone, Copy)]
enum Scope {
    /// All that is not left out, on this device if the walk keeps to one.
    All { dev: u64 },
    /// What leads to listed paths, on any device.
    Listed,
}

struct Frame {
    dir: Arc<Dir>,
    scope: Scope,
    listing: Listing,
}

/// What the first bytes of a tag must be (<https://bford.info/cachedir/>).
const CACHEDIR_SIGNATURE: &[u8; 43] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Names in memory, of all directories from the root to where the walk is: some 400,000 names of 24 bytes. What is more is sorted through a file.
const LISTINGS_BYTES: usize = 16 << 20;
/// Each directory has that much in any case.
const LISTING_BYTES_MIN: usize = 256 << 10;

/// Emptied listings kept for the next directories.
const SPARE_MAX: usize = 16;

impl Walk {
    /// Starts at `root`: a directory, or any other file. A root that is a link is saved as a link; its parents are followed.
    pub fn new(root: &Path, options: WalkOptions) -> Result<Self, SourceError> {
        let shown = root.as_os_str().as_bytes().to_vec();
        let refuse = |errno: Errno| match errno {
            Errno::NOENT | Errno::NOTDIR => SourceError::Missing { root: shown.clone() },
            errno => SourceError::Unreadable { root: shown.clone(), cause: errno.into() },
        };
        let absolute =
            std::path::absolute(root).map_err(|cause| SourceError::Unreadable { root: shown.clone(), cause })?;
        let (parent, name) = match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            _ => (absolute.as_path(), OsStr::new(".")),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let anchor = openat(CWD, parent, flags, Mode::empty()).map_err(refuse)?;
        let stat = stat_at(&anchor, name, !options.one_file_system).map_err(refuse)?;
        // Joined again, so that no slash is left at its end.
        let shown_root = if name == "." { absolute.clone() } else { parent.join(name) };
        let base = Base::new(shown_root.into_os_string().into_encoded_bytes(), name.as_bytes().to_vec(), anchor);
        let found = Found { path: TreePath::root(), stat, dir: Dir::anchor(Arc::clone(&base)) };
        let mut walk = Self {
            options,
            base,
            root: None,
            pending: None,
            frames: Vec::new(),
            descriptor: None,
            path: TreePath::root(),
            absolute: Vec::new(),
            spare: Vec::new(),
            buffer: vec![MaybeUninit::uninit(); BUFFER_BYTES].into_boxed_slice(),
            unmet: VecDeque::new(),
        };
        walk.try_root(&found, name, refuse)?;
        walk.root = Some(found);
        Ok(walk)
    }

    /// A root that cannot be read is known before anything is stored.
    fn try_root(
        &mut self,
        found: &Found,
        name: &OsStr,
        refuse: impl Fn(Errno) -> SourceError,
    ) -> Result<(), SourceError> {
        let refuse_kind = |kind| match kind {
            ProblemKind::Vanished => refuse(Errno::NOENT),
            ProblemKind::Changed => refuse(Errno::AGAIN),
            ProblemKind::Unreadable { errno, .. } => refuse(errno),
        };
        match found.stat.file_type {
            FileType::Directory => {
                let name = CString::new(name.as_bytes()).map_err(|_| refuse(Errno::INVAL))?;
                let listed = self.options.listed.as_ref().is_some_and(|listed| !listed.holds(&found.path));
                let (dir, scope) = match listed {
                    true => (found.dir.passage(&name, found.stat.identity()), Scope::Listed),
                    false => (found.dir.child(&name, found.stat.identity()), Scope::All { dev: found.stat.dev }),
                };
                dir.descriptor().map_err(refuse_kind)?;
                self.pending = Some(Pending { dir, scope });
            }
            FileType::RegularFile => {
                open::open(found).map_err(|problem| refuse_kind(problem.kind))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Lists the pending directory and makes it the one being walked.
    fn enter(&mut self, Pending { dir, scope }: Pending) -> Result<(), Problem> {
        let descriptor = match dir.descriptor() {
            Ok(descriptor) => descriptor,
            Err(kind) => {
                let problem = dir.problem(&self.path, kind);
                self.ascend();
                return Err(problem);
            }
        };
        let mut listing = self.spare.pop().unwrap_or_default();
        if let (Scope::Listed, Some(listed)) = (scope, &self.options.listed) {
            listing.fill(listed.names(&self.path));
            self.descriptor = Some(descriptor);
            self.frames.push(Frame { dir, scope, listing });
            self.restart_absolute();
            return Ok(());
        }
        let held = self.frames.iter().map(|frame| frame.listing.held()).sum();
        let room = LISTINGS_BYTES.saturating_sub(held).max(LISTING_BYTES_MIN);
        let result = listing.read(&descriptor, &mut self.buffer, room);
        if self.options.exclude_caches && listing.has_tag() && is_cache(&descriptor) {
            listing.keep_only(CACHEDIR_TAG);
        }
        // What was listed before an error is saved all the same.
        let result = result.map_err(|errno| dir.problem(&self.path, ProblemKind::from_errno("listed", errno)));
        self.descriptor = Some(descriptor);
        self.frames.push(Frame { dir, scope, listing });
        self.restart_absolute();
        result
    }

    /// Ends the directory being walked.
    fn leave(&mut self) {
        if let Some(frame) = self.frames.pop()
            && frame.listing.is_small()
            && self.spare.len() < SPARE_MAX
        {
            self.spare.push(frame.listing);
        }
        self.ascend();
    }

    fn ascend(&mut self) {
        self.descriptor = None;
        self.path = self.path.parent().unwrap_or_default();
        self.restart_absolute();
    }

    /// The path of the directory being walked, with a slash, where excludes need it.
    fn restart_absolute(&mut self) {
        if !self.options.excludes.is_empty() {
            self.absolute = self.base.absolute(&self.path);
            if self.absolute.last() != Some(&b'/') {
                self.absolute.push(b'/');
            }
        }
    }

    /// The next name of the directory being walked, unless it is left out. None at its end.
    fn step(&mut self) -> Option<Option<Result<Found, Problem>>> {
        let frame = self.frames.last_mut()?;
        let (name, file_type) = match frame.listing.next()? {
            Ok(next) => next,
            // What the file of names no longer gives is as good as not listed.
            Err(errno) => {
                let problem = frame.dir.problem(&self.path, ProblemKind::Unreadable { verb: "listed", errno });
                return Some(Some(Err(problem)));
            }
        };
        let path = match self.path.join(name.to_bytes()) {
            Ok(path) => path,
            Err(_) => {
                let kind = ProblemKind::Unreadable { verb: "named", errno: Errno::INVAL };
                let mut problem = frame.dir.problem(&self.path, kind);
                problem.path.push(b'/');
                problem.path.extend_from_slice(name.to_bytes());
                return Some(Some(Err(problem)));
            }
        };
        let listed = match (frame.scope, &self.options.listed) {
            (Scope::Listed, Some(listed)) => Some(Arc::clone(listed)),
            _ => None,
        };
        // What was asked for by name is never left out.
        let excluding = !self.options.excludes.is_empty() && listed.is_none();
        if excluding {
            self.absolute.extend_from_slice(name.to_bytes());
            // A file system that does not tell types has them asked for below.
            let known = file_type != FileType::Unknown;
            let out = known && self.options.excludes.excludes(&self.absolute, file_type.is_dir());
            if out {
                self.absolute.truncate(self.absolute.len() - name.to_bytes().len());
                return Some(None);
            }
        }
        let descriptor = match &self.descriptor {
            Some(descriptor) => Ok(descriptor),
            None => frame.dir.descriptor().map(|descriptor| &*self.descriptor.insert(descriptor)),
        };
        let stat = descriptor.and_then(|descriptor| {
            let mount = !self.options.one_file_system;
            stat_at(descriptor, name, mount).map_err(|errno| ProblemKind::from_errno("examined", errno))
        });
        if excluding {
            let is_dir = stat.as_ref().is_ok_and(|stat| stat.file_type.is_dir());
            let out = file_type == FileType::Unknown && self.options.excludes.excludes(&self.absolute, is_dir);
            self.absolute.truncate(self.absolute.len() - name.to_bytes().len());
            if out {
                return Some(None);
            }
        }
        if let Some(listed) = listed {
            return Some(self.step_on_the_way(&listed, path, stat));
        }
        let stat = match stat {
            Ok(stat) => stat,
            Err(kind) => return Some(Some(Err(frame.dir.problem(&path, kind)))),
        };
        let elsewhere = matches!(frame.scope, Scope::All { dev } if dev != stat.dev);
        let closed = self.options.closed == Some((stat.dev, stat.inode));
        if stat.file_type.is_dir() && !(self.options.one_file_system && elsewhere) && !closed {
            self.pending = Some(Pending { dir: frame.dir.child(name, stat.identity()), scope: frame.scope });
            self.path = path.clone();
        }
        Some(Some(Ok(Found { path, stat, dir: Arc::clone(&frame.dir) })))
    }

    /// A name that is listed, or that leads to what is: one that is not there was asked for all the same.
    fn step_on_the_way(
        &mut self,
        listed: &Listed,
        path: TreePath,
        stat: Result<Stat, ProblemKind>,
    ) -> Option<Result<Found, Problem>> {
        let frame = self.frames.last()?;
        let asked_for = listed.holds(&path);
        let errno = match &stat {
            Ok(stat) if asked_for || stat.file_type.is_dir() => None,
            Ok(_) => Some(Errno::NOTDIR),
            Err(ProblemKind::Vanished) => Some(Errno::NOENT),
            Err(kind) => return Some(Err(frame.dir.problem(&path, *kind))),
        };
        let stat = match (errno, stat) {
            (None, Ok(stat)) => stat,
            (errno, _) => {
                let kind = ProblemKind::Unreadable { verb: "found", errno: errno.unwrap_or(Errno::NOENT) };
                self.unmet.extend(listed.beneath(&path).map(|path| frame.dir.problem(path, kind)));
                return self.unmet.pop_front().map(Err);
            }
        };
        if stat.file_type.is_dir() {
            let name = CString::new(path.file_name()).ok()?;
            let (dir, scope) = match asked_for {
                true => (frame.dir.child(&name, stat.identity()), Scope::All { dev: stat.dev }),
                false => (frame.dir.passage(&name, stat.identity()), Scope::Listed),
            };
            self.pending = Some(Pending { dir, scope });
            self.path = path.clone();
        }
        Some(Ok(Found { path, stat, dir: Arc::clone(&frame.dir) }))
    }
}

impl Iterator for Walk {
    type Item = Result<Found, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(root) = self.root.take() {
            return Some(Ok(root));
        }
        if let Some(problem) = self.unmet.pop_front() {
            return Some(Err(problem));
        }
        if let Some(pending) = self.pending.take()
            && let Err(problem) = self.enter(pending)
        {
            return Some(Err(problem));
        }
        while !self.frames.is_empty() {
            match self.step() {
                Some(Some(item)) => return Some(item),
                Some(None) => {}
                None => self.leave(),
            }
        }
        None
    }
}

/// Whether the `CACHEDIR.TAG` in `dir` says what it must.
fn is_cache(dir: &OwnedFd) -> bool {
    let is_file = stat_at(dir, CACHEDIR_TAG, false).is_ok_and(|stat| stat.file_type.is_file());
    if !is_file {
        return false;
    }
    let Ok(tag) = open_quietly(dir, CACHEDIR_TAG, OFlags::RDONLY) else { return false };
    let mut first = [0; CACHEDIR_SIGNATURE.len()];
    let mut filled = 0;
    while filled < first.len() {
        match rustix::io::pread(&tag, &mut first[filled..], filled as u64) {
            Ok(0) | Err(_) => return false,
            Ok(count) => filled += count,
        }
    }
    first == *CACHEDIR_SIGNATURE
}

#[cfg(test)]
mod tests {
    use super::super::dir::OPEN_MAX;
    use super::*;
    use proptest::prelude::*;
    use rustix::process::{Uid, geteuid};
    use std::collections::BTreeSet;
    use std::ffi::CStr;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    fn walk(root: &Path, options: WalkOptions) -> Walk {
        Walk::new(root, options).unwrap()
    }

    /// Paths of everything found; any problem fails.
    fn paths(root: &Path, options: WalkOptions) -> Vec<Vec<u8>> {
        walk(root, options).map(|found| found.unwrap().path.as_bytes().to_vec()).collect()
    }

    fn names(root: &Path, options: WalkOptions) -> Vec<String> {
        paths(root, options).into_iter().map(|path| String::from_utf8(path).unwrap()).collect()
    }

    fn write(path: PathBuf, content: &[u8]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn excluding(root: &Path, patterns: &[&str]) -> WalkOptions {
        let patterns: Vec<String> = patterns.iter().map(|p| p.to_string()).collect();
        WalkOptions { excludes: Excludes::new(root, &patterns, &[]).unwrap(), ..WalkOptions::default() }
    }

    #[test]
    fn the_order_is_that_of_tree_paths_and_the_root_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b", "a/b/c", "a/c", "a-b", "a.d/x", "a\x01", "A"] {
            write(dir.path().join(name), b"");
        }
        let expected = ["", "A", "a", "a/b", "a/b/c", "a/c", "a\x01", "a-b", "a.d", "a.d/x", "b"];
        assert_eq!(names(dir.path(), WalkOptions::default()), expected);
    }

    #[test]
    fn names_are_bytes_whatever_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let long = [b'n'; 255];
        let strange: [&[u8]; 6] = [b"\xff\xfe", b"new\nline", b"\x1b[31m", b" ", b"\\", &long];
        for name in strange {
            write(dir.path().join(OsStr::from_bytes(name)), b"x");
        }
        let found: BTreeSet<_> = paths(dir.path(), WalkOptions::default()).into_iter().collect();
        for name in strange {
            assert!(found.contains(name), "{name:?}");
        }
        assert_eq!(found.len(), strange.len() + 1);
        let all: Vec<_> = walk(dir.path(), WalkOptions::default()).map(Result::unwrap).collect();
        assert!(all.iter().filter(|f| f.stat.file_type.is_file()).all(|found| open::open(found).is_ok()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_tree_is_found_whole_and_in_order(files in prop::collection::btree_set("[a./-]{1,9}", 0..24)) {
            let dir = tempfile::tempdir().unwrap();
            let mut expected = BTreeSet::from([TreePath::root()]);
            for file in files {
                let Ok(path) = TreePath::from_bytes(file.clone().into_bytes()) else { continue };
                let whole = dir.path().join(&file);
                if std::fs::create_dir_all(whole.parent().unwrap()).is_err() || std::fs::write(&whole, "").is_err() {
                    continue; // a file stands where a directory would, or the other way round
                }
                let mut above = Some(path);
                while let Some(path) = above {
                    above = path.parent();
                    expected.insert(path);
                }
            }
            // What a refused file left of its directories is there too.
            let found: Vec<_> = walk(dir.path(), WalkOptions::default()).map(|f| f.unwrap().path).collect();
            prop_assert!(found.is_sorted());
            let found: BTreeSet<_> = found.into_iter().collect();
            prop_assert!(found.is_superset(&expected));
            for path in &found {
                prop_assert!(dir.path().join(OsStr::from_bytes(path.as_bytes())).symlink_metadata().is_ok());
            }
        }
    }

    #[test]
    fn a_root_that_is_a_link_or_a_file_is_found_alone() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("d/f"), b"x");
        symlink("d", dir.path().join("l")).unwrap();
        for (root, file_type) in [("l", FileType::Symlink), ("d/f", FileType::RegularFile)] {
            let found: Vec<_> = walk(&dir.path().join(root), WalkOptions::default()).map(Result::unwrap).collect();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].stat.file_type, file_type);
            assert!(found[0].path.is_root());
            assert_eq!(found[0].name(), root.rsplit('/').next().unwrap().as_bytes());
        }
        assert_eq!(names(&dir.path().join("l/."), WalkOptions::default()).len(), 1, "`.` changes nothing");
        assert_eq!(names(&dir.path().join("l/../d/"), WalkOptions::default()), ["", "f"]);
        assert_eq!(names(&dir.path().join("d/../d/.."), WalkOptions::default()), ["", "d", "d/f", "l"]);
    }

    #[test]
    fn the_root_of_the_machine_is_a_root() {
        let mut walk = walk(Path::new("/"), WalkOptions { one_file_system: true, ..WalkOptions::default() });
        assert_eq!(walk.next().unwrap().unwrap().absolute(), b"/");
        let below = walk.next().unwrap().unwrap();
        assert_eq!(below.absolute(), [b"/", below.path.as_bytes()].concat());
    }

    #[test]
    fn a_root_that_is_not_there_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("f"), b"");
        for root in ["none", "none/x", "f/x"] {
            let error = Walk::new(&dir.path().join(root), WalkOptions::default()).err().unwrap();
            assert!(matches!(error, SourceError::Missing { .. }), "{root}: {error:?}");
            assert!(error.to_string().ends_with("does not exist"), "{error}");
        }
    }

    /// Runs `test` in a thread without root's rights.
    fn as_nobody(test: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let nobody = Uid::from_raw(65_534);
                if geteuid().is_root() {
                    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
                }
                test();
            });
            thread.join().unwrap();
        });
    }

    #[test]
    fn what_may_not_be_read_is_a_problem_and_the_rest_is_found() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        mode(dir.path(), 0o755);
        for name in ["a/hidden", "b", "c/x"] {
            write(dir.path().join(name), b"");
        }
        mode(&dir.path().join("a"), 0o000);
        mode(&dir.path().join("b"), 0o000);
        as_nobody(|| {
            let all: Vec<_> = walk(dir.path(), WalkOptions::default()).collect();
            let found: Vec<_> = all.iter().flatten().collect();
            let paths: Vec<_> = found.iter().map(|f| f.path.to_string()).collect();
            assert_eq!(paths, ["", "a", "b", "c", "c/x"]);
            let problem = all[2].as_ref().err().unwrap();
            assert_eq!(problem.path, dir.path().join("a").as_os_str().as_bytes());
            assert_eq!(problem.kind, ProblemKind::Unreadable { verb: "opened", errno: Errno::ACCESS });
            assert!(problem.is_loss());
            assert!(open::open(found[2]).err().unwrap().is_loss());
            for root in ["a", "b"] {
                let error = Walk::new(&dir.path().join(root), WalkOptions::default()).err().unwrap();
                assert!(matches!(error, SourceError::Unreadable { .. }), "{error:?}");
                assert!(error.to_string().ends_with("cannot be read"));
            }
        });
        mode(&dir.path().join("a"), 0o755);
    }

    #[test]
    fn what_vanishes_between_listing_and_looking_is_told_and_the_walk_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b/x", "c"] {
            write(dir.path().join(name), b"");
        }
        let mut walk = walk(dir.path(), WalkOptions::default());
        walk.next().unwrap().unwrap();
        walk.next().unwrap().unwrap(); // the root is listed by now
        assert_eq!(walk.next().unwrap().unwrap().path.to_string(), "b");
        std::fs::remove_dir_all(dir.path().join("b")).unwrap();
        std::fs::remove_file(dir.path().join("c")).unwrap();
        for name in ["b", "c"] {
            let problem = walk.next().unwrap().err().unwrap();
            assert_eq!(problem.kind, ProblemKind::Vanished);
            assert_eq!(problem.path, dir.path().join(name).as_os_str().as_bytes());
            assert!(!problem.is_loss());
        }
        assert!(walk.next().is_none());
        assert!(walk.next().is_none());
    }

    #[test]
    fn a_directory_swapped_for_a_link_or_another_directory_is_not_entered() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join("secret/s"), b"");
        for swap in ["link", "directory"] {
            write(dir.path().join("root/d/x"), b"");
            let root = dir.path().join("root");
            let mut walk = walk(&root, WalkOptions::default());
            walk.next().unwrap().unwrap();
            assert_eq!(walk.next().unwrap().unwrap().path.to_string(), "d");
            std::fs::rename(root.join("d"), dir.path().join(swap)).unwrap();
            match swap {
                "link" => symlink("../secret", root.join("d")).unwrap(),
                _ => std::fs::create_dir(root.join("d")).unwrap(),
            }
            assert_eq!(walk.next().unwrap().err().unwrap().kind, ProblemKind::Changed, "{swap}");
            assert!(walk.next().is_none());
            std::fs::remove_dir_all(root).unwrap();
        }
    }

    #[test]
    fn excluded_directories_are_not_entered_and_negation_brings_back() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "cache/a",
            "src/cache/b",
            "src/a.o",
            "src/keep.o",
            "logs/a",
            "logs/audit",
            "top/x",
            "deep/top/x",
            "v1",
            "v2",
            "v3",
        ] {
            write(dir.path().join(name), b"");
        }
        let absolute = dir.path().join("deep").to_str().unwrap().to_owned();
        let patterns = ["cache/", "*.o", "!keep.o", "logs/*", "!logs/audit", "./top", "./v2", &absolute];
        let expected = ["", "logs", "logs/audit", "src", "src/keep.o", "v1", "v3"];
        assert_eq!(names(dir.path(), excluding(dir.path(), &patterns)), expected);
        let root_itself = dir.path().file_name().unwrap().to_str().unwrap();
        assert!(names(dir.path(), excluding(dir.path(), &[root_itself])).len() > 1, "the root was asked for");
    }

    #[test]
    fn excludes_see_names_that_are_no_text() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path().join(OsStr::from_bytes(b"\xff\n/a.o")), b"");
        write(dir.path().join(OsStr::from_bytes(b"\xff\n/\xfe.o")), b"");
        write(dir.path().join(OsStr::from_bytes(b"\xff\n/\xfe.c")), b"");
        let expected = [&b""[..], b"\xff\n", b"\xff\n/\xfe.c"];
        assert_eq!(paths(dir.path(), excluding(dir.path(), &["*.o"])), expected);
    }

    #[test]
    fn a_cache_keeps_its_tag_only_and_only_if_the_tag_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let right = [&CACHEDIR_SIGNATURE[..], b"\n# comment"].concat();
        let tags: [(&str, &[u8]); 4] =
            [("good", &right), ("exact", CACHEDIR_SIGNATURE), ("short", &right[..42]), ("bad", &[b'S'; 50])];
        for (name, tag) in tags {
            write(dir.path().join(name).join("CACHEDIR.TAG"), tag);
            write(dir.path().join(name).join("z/content"), b"");
            write(dir.path().join(name).join("A"), b"");
        }
        std::fs::create_dir(dir.path().join("link")).unwrap();
        symlink("../good/CACHEDIR.TAG", dir.path().join("link/CACHEDIR.TAG")).unwrap();
        write(dir.path().join("link/z"), b"");
        let options = WalkOptions { exclude_caches: true, ..WalkOptions::default() };
        let found = names(dir.path(), options);
        let of = |name: &str| found.iter().filter(|path| path.starts_with(&format!("{name}/"))).count();
        assert_eq!((of("good"), of("exact"), of("short"), of("bad"), of("link")), (1, 1, 4, 4, 2));
        assert!(found.contains(&"good/CACHEDIR.TAG".to_owned()));
        assert_eq!(names(dir.path(), WalkOptions::default()).len(), 1 + 5 + 4 * 4 + 2);
    }

    #[test]
    fn another_file_system_is_kept_as_an_empty_directory_if_asked() {
        use std::os::unix::fs::MetadataExt;
        let dev = |path: &str| std::fs::metadata(path).map(|m| m.dev()).unwrap_or_default();
        let Ok(file) = tempfile::NamedTempFile::new_in("/dev/shm") else {
            println!("skipped, needs /dev/shm");
            return;
        };
        if dev("/dev") == dev("/dev/shm") {
            println!("skipped, /dev/shm is not mounted apart");
            return;
        }
        let wanted = file.path().strip_prefix("/dev").unwrap().as_os_str().as_bytes();
        let one = WalkOptions { one_file_system: true, ..WalkOptions::default() };
        let within: Vec<_> = walk(Path::new("/dev"), one).flatten().map(|f| f.path.to_string()).collect();
        assert!(within.contains(&"shm".to_owned()));
        assert!(!within.iter().any(|path| path.starts_with("shm/")));
        // Other tests come and go in there: their problems are not ours.
        let mut beyond = walk(Path::new("/dev"), WalkOptions::default()).flatten();
        assert!(beyond.any(|found| found.path.as_bytes() == wanted));
    }

    /// Removes what the standard library would need a descriptor for each level to remove.
    struct Deep(tempfile::TempDir);

    impl Drop for Deep {
        fn drop(&mut self) {
            let removed = std::process::Command::new("rm").arg("-rf").arg(self.0.path().join("d")).status();
            assert!(removed.is_ok_and(|status| status.success()) || std::thread::panicking());
        }
    }

    #[test]
    fn a_tree_of_two_thousand_levels_beyond_path_max_is_found_whole_and_opened_with_few_descriptors() {
        const LEVELS: usize = 2_000;
        let long = std::ffi::CString::new(vec![b'd'; 200]).unwrap();
        let deep = Deep(tempfile::tempdir().unwrap());
        let mode = Mode::from_raw_mode(0o755);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = openat(CWD, deep.0.path(), flags, mode).unwrap();
        for level in 0..LEVELS {
            let name: &CStr = if level == 0 { c"d" } else { &long };
            rustix::fs::mkdirat(&at, name, mode).unwrap();
            // After the directory within the order, so that each level is come back to.
            openat(&at, c"z", OFlags::CREATE | OFlags::WRONLY, mode).unwrap();
            at = openat(&at, name, flags, mode).unwrap();
        }
        let mut walk = walk(deep.0.path(), WalkOptions::default());
        let (mut directories, mut files) = (0, 0);
        let mut kept = Vec::new(); // paths of 400 KB: not all of them
        for found in &mut walk {
            let found = found.unwrap();
            match found.stat.file_type {
                FileType::Directory => directories += 1,
                _ => {
                    // The files come from the deepest up.
                    assert_eq!(found.path.parts().count(), LEVELS - files);
                    files += 1;
                    if files % 50 == 1 {
                        kept.push(found);
                    }
                }
            }
        }
        assert_eq!((directories, files), (LEVELS + 1, LEVELS));
        assert!(kept[0].path.as_bytes().len() > 390_000);
        for found in &kept {
            open::open(found).unwrap();
        }
        assert!(walk.base.open_count() <= OPEN_MAX, "{}", walk.base.open_count());
    }

    #[test]
    fn files_of_many_directories_may_wait_to_be_opened() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..OPEN_MAX * 3 {
            write(dir.path().join(format!("{index}/f")), b"x");
        }
        let mut walk = walk(dir.path(), WalkOptions::default());
        let found: Vec<_> = (&mut walk).map(Result::unwrap).collect();
        assert!(walk.base.open_count() <= OPEN_MAX);
        std::thread::scope(|scope| {
            for half in found.chunks(found.len() / 2 + 1) {
                scope.spawn(move || {
                    for file in half.iter().filter(|f| f.stat.file_type.is_file()) {
                        assert_eq!(open::open(file).unwrap().stat().size, 1);
                    }
                });
            }
        });
        assert!(walk.base.open_count() <= OPEN_MAX);
    }

    #[test]
    fn a_directory_moved_away_while_files_wait_is_a_change_not_another_file() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..OPEN_MAX + 10 {
            write(dir.path().join(format!("{index:04}/f")), b"x");
        }
        let found: Vec<_> = walk(dir.path(), WalkOptions::default()).map(Result::unwrap).collect();
        let first = found.iter().find(|f| f.path.as_bytes() == b"0000/f").unwrap();
        // Its descriptor was closed to make room; another directory takes its name.
        std::fs::rename(dir.path().join("0000"), dir.path().join("old")).unwrap();
        std::fs::rename(dir.path().join("0001"), dir.path().join("0000")).unwrap();
        assert_eq!(open::open(first).err().unwrap().kind, ProblemKind::Changed);
    }
}
