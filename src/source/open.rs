//! The content of a regular file: its bytes, its holes, and whether it held still.
//!
//! Owns the one open of each file. Refuses everything that is not a regular file, without waiting for it: between listing
//! and opening, a name may have become a fifo, a link or a device.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Advice, OFlags, SeekFrom, fadvise, seek};
use rustix::io::Errno;

use super::dir::open_quietly;
use super::problem::{Problem, ProblemKind};
use super::stat::{Stat, stat_of};
use super::walk::Found;

/// From this size on the kernel is asked to read far ahead.
const READ_AHEAD_BYTES_MIN: u64 = 1 << 20;

/// A regular file, open for reading. May be shared by threads: every read says where.
pub struct OpenFile {
    descriptor: OwnedFd,
    stat: Stat,
    /// Absolute, for problems.
    path: Vec<u8>,
}

/// A run of bytes that is stored, or that is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub offset: u64,
    pub len: u64,
    pub hole: bool,
}

/// Opens what was found, once for its content and its metadata. `Changed` if it is another file by now.
pub fn open(found: &Found) -> Result<OpenFile, Problem> {
    let fail = |kind| found.problem(kind);
    let unreadable = |errno| fail(ProblemKind::from_errno("opened", errno));
    let dir = found.dir.descriptor().map_err(fail)?;
    let descriptor = open_quietly(&*dir, found.name(), OFlags::RDONLY).map_err(unreadable)?;
    let stat = stat_of(&descriptor).map_err(unreadable)?;
    if !stat.file_type.is_file() || stat.identity() != found.stat.identity() {
        return Err(fail(ProblemKind::Changed));
    }
    if stat.size >= READ_AHEAD_BYTES_MIN {
        // Advice only: a file system that knows none reads as well as it can.
        let _ = fadvise(&descriptor, 0, None, Advice::Sequential);
    }
    Ok(OpenFile { descriptor, stat, path: found.absolute() })
}

impl OpenFile {
    /// As it was right after opening: what its entry should say, rather than what the walk saw.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Fills `buffer` from `offset` on; fewer bytes only where the file ends.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Problem> {
        let mut filled = 0;
        while filled < buffer.len() {
            match rustix::io::pread(&self.descriptor, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.problem(ProblemKind::Unreadable { verb: "read", errno })),
            }
        }
        Ok(filled)
    }

    /// Data and holes of the first `size` bytes, in order: no two holes adjacent, together exactly `size`. Asked of the
    /// file system one by one, so a file of a million extents costs no memory.
    pub fn extents(&self, size: u64) -> Extents<'_> {
        Extents { file: self, offset: 0, size, after_hole: false }
    }

    /// The data or hole that `offset` lies in, from there to its end, or to `size`. Whoever needs no iterator calls this
    /// with the end of the last one. What the file system does not tell is data.
    pub fn extent_at(&self, offset: u64, size: u64) -> Segment {
        let segment = |end: u64, hole| Segment { offset, len: end.clamp(offset, size.max(offset)) - offset, hole };
        if !self.stat.is_sparse() {
            return segment(size, false);
        }
        match seek(&self.descriptor, SeekFrom::Data(offset)) {
            // No data from here to the end of the file.
            Err(Errno::NXIO) => segment(size, true),
            Ok(data) if data > offset => segment(data, true),
            Ok(_) => match seek(&self.descriptor, SeekFrom::Hole(offset)) {
                Ok(hole) if hole > offset => segment(hole, false),
                _ => segment(size, false),
            },
            Err(_) => segment(size, false),
        }
    }

    /// Whether the file is still what `before` says, asked of the kernel now. Asked after the last read, a no means that
    /// what was read may be neither the old content nor the new.
    pub fn unchanged_since(&self, before: &Stat) -> bool {
        stat_of(&self.descriptor).is_ok_and(|now| now.is_unchanged_since(before))
    }

    /// A problem of this file.
    pub fn problem(&self, kind: ProblemKind) -> Problem {
        Problem { path: self.path.clone(), kind }
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// See [`OpenFile::extents`].
pub struct Extents<'a> {
    file: &'a OpenFile,
    offset: u64,
    size: u64,
    after_hole: bool,
}

impl Iterator for Extents<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if self.offset >= self.size {
            return None;
        }
        let mut segment = self.file.extent_at(self.offset, self.size);
        // Two in a row, only if the file is changing: the second can be read like data.
        segment.hole &= !self.after_hole;
        self.after_hole = segment.hole;
        self.offset += segment.len;
        Some(segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::walk::{Walk, WalkOptions};
    use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
    use std::os::unix::fs::{FileExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn find(root: &Path) -> Found {
        Walk::new(root, WalkOptions::default()).unwrap().next().unwrap().unwrap()
    }

    fn fifo(path: &Path) {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    #[test]
    fn what_is_no_longer_the_file_that_was_found_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let other = dir.path().join("other");
        std::fs::write(&other, "other").unwrap();
        let swaps: [(&str, &dyn Fn()); 5] = [
            ("fifo", &|| fifo(&path)),
            ("link", &|| symlink(&other, &path).unwrap()),
            ("directory", &|| std::fs::create_dir(&path).unwrap()),
            ("socket", &|| drop(UnixListener::bind(&path).unwrap())),
            ("another file", &|| std::fs::hard_link(&other, &path).unwrap()),
        ];
        for (name, swap) in swaps {
            std::fs::write(&path, "x").unwrap();
            let found = find(&path);
            std::fs::remove_file(&path).unwrap();
            swap();
            let problem = open(&found).err().expect(name);
            assert_eq!(problem.kind, ProblemKind::Changed, "{name}");
            assert_eq!(problem.path, path.as_os_str().as_encoded_bytes());
            if name == "directory" {
                std::fs::remove_dir(&path).unwrap();
            } else {
                std::fs::remove_file(&path).unwrap();
            }
        }
    }

    #[test]
    fn a_file_swapped_with_a_fifo_under_our_hands_never_hangs_and_never_lies() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("f"), dir.path().join("other"));
        std::fs::write(&path, "mine").unwrap();
        fifo(&other);
        let found = find(&path);
        let stop = AtomicBool::new(false);
        let (mut opened, mut refused) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    renameat_with(CWD, &path, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                }
            });
            while opened == 0 || refused == 0 || opened + refused < 2_000 {
                match open(&found) {
                    Ok(file) => {
                        let mut bytes = [0; 8];
                        assert_eq!(file.read_at(0, &mut bytes).unwrap(), 4);
                        opened += 1;
                    }
                    Err(problem) => {
                        assert_eq!(problem.kind, ProblemKind::Changed);
                        refused += 1;
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_file_that_is_gone_vanished() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "x").unwrap();
        let found: Vec<_> = Walk::new(dir.path(), WalkOptions::default()).unwrap().map(Result::unwrap).collect();
        std::fs::remove_file(dir.path().join("f")).unwrap();
        assert_eq!(open(&found[1]).err().unwrap().kind, ProblemKind::Vanished);
        drop(dir);
        assert_eq!(open(&found[1]).err().unwrap().kind, ProblemKind::Vanished);
    }

    #[test]
    fn reading_fills_the_buffer_up_to_the_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789").unwrap();
        let open = open(&find(file.path())).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(open.read_at(1, &mut buffer).unwrap(), 8);
        assert_eq!(&buffer, b"12345678");
        assert_eq!(open.read_at(8, &mut buffer).unwrap(), 2);
        assert_eq!(open.read_at(10, &mut buffer).unwrap(), 0);
        assert_eq!(open.stat().size, 10);
    }

    #[test]
    fn holes_are_told_and_add_up_with_the_data() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(16 << 20).unwrap();
        file.as_file().write_all_at(&[1; 4096], 4 << 20).unwrap();
        file.as_file().write_all_at(&[1; 4096], 8 << 20).unwrap();
        let opened = open(&find(file.path())).unwrap();
        let segments: Vec<_> = opened.extents(16 << 20).collect();
        let kinds: Vec<bool> = segments.iter().map(|s| s.hole).collect();
        assert_eq!(kinds, [true, false, true, false, true], "{segments:?}");
        let mut end = 0;
        for segment in &segments {
            assert_eq!(segment.offset, end);
            end += segment.len;
        }
        assert_eq!(end, 16 << 20);
        assert!(segments[1].offset <= 4 << 20 && segments[1].offset + segments[1].len >= (4 << 20) + 4096);
        assert_eq!(opened.extent_at(5 << 20, 16 << 20).offset, 5 << 20);
        assert!(opened.extent_at(5 << 20, 16 << 20).hole);
        // A size asked for that is not the file's: clamped, or filled up with a hole.
        assert_eq!(opened.extents(1 << 20).collect::<Vec<_>>(), [Segment { offset: 0, len: 1 << 20, hole: true }]);
        assert_eq!(opened.extents(20 << 20).map(|s| s.len).sum::<u64>(), 20 << 20);
        assert_eq!(opened.extents(0).count(), 0);
    }

    #[test]
    fn a_full_file_is_one_run_of_data_and_an_empty_one_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(open(&find(file.path())).unwrap().extents(0).count(), 0);
        std::fs::write(file.path(), vec![1; 9000]).unwrap();
        let opened = open(&find(file.path())).unwrap();
        assert_eq!(opened.extents(9000).collect::<Vec<_>>(), [Segment { offset: 0, len: 9000, hole: false }]);
    }

    #[test]
    fn a_sparse_file_of_terabytes_is_one_hole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // ext4 ends below 16 TiB.
        file.as_file().set_len(15 << 40).unwrap();
        let opened = open(&find(file.path())).unwrap();
        assert_eq!(opened.extents(15 << 40).collect::<Vec<_>>(), [Segment { offset: 0, len: 15 << 40, hole: true }]);
    }

    #[test]
    fn a_file_written_or_touched_while_read_is_not_unchanged() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123").unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH;
        file.as_file().set_modified(old).unwrap();
        let opened = open(&find(file.path())).unwrap();
        let before = *opened.stat();
        assert!(opened.unchanged_since(&before));
        std::fs::write(file.path(), "4567").unwrap();
        assert!(!opened.unchanged_since(&before));
        // Same size and mtime again: the change time tells, which nobody can set back.
        std::thread::sleep(std::time::Duration::from_millis(20));
        file.as_file().set_modified(old).unwrap();
        assert!(!opened.unchanged_since(&before));
    }

    #[test]
    fn reading_leaves_the_access_time_alone() {
        use std::os::unix::fs::MetadataExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "x").unwrap();
        let times = std::fs::FileTimes::new().set_accessed(std::time::SystemTime::UNIX_EPOCH);
        file.as_file().set_times(times).unwrap();
        open(&find(file.path())).unwrap().read_at(0, &mut [0]).unwrap();
        assert_eq!(std::fs::metadata(file.path()).unwrap().atime(), 0);
    }
}
