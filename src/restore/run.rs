//! Carries out a plan.
//!
//! Owns the order: the marker; then, window by window, directories and all that has no content, files, links, and the attributes of directories that hold
//! nothing more to come; then the comparison, if it was asked for; then everything is made durable and the marker goes. Stopped anywhere, the same plan can be made again and
//! goes on. Memory: one window, and the directories from the root to the current entry.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::content::{Stored, is_local};
use super::fetch::{Fetcher, More};
use super::links::{First, Group, Groups, Link, fingerprint};
use super::local::{self, Same};
use super::plan::{self, Plan, Start};
use super::report::{Notes, Report};
use super::select::{Picked, Step};
use super::window::{FOLDER_BYTES, Failure, FileWork, Window, deliver};
use super::{Control, Overwrite, Result, check, told};
use crate::names::TreePath;
use crate::pack::entry::{Content, Entry, Extent, Kind};
use crate::pack::list::ListReader;
use crate::repository::Repository;
use crate::target::{Attribute, Begin, Existing, FileKind, MARKER_NAME, Outcome, Target, TargetError, TargetFile};

/// Smaller files are fetched rather than searched for local bytes to use again.
const REUSE_BYTES_MIN: u64 = 256 << 10;

/// A directory on the way from the root to the current entry.
struct Folder {
    path: TreePath,
    /// Its attributes; none if the snapshot has none.
    entry: Option<Entry>,
    /// What stood in it, sorted, and how far it was compared; empty unless names are to be deleted.
    stood: Vec<(Vec<u8>, FileKind)>,
    compared: usize,
    delete: Vec<TreePath>,
    /// It could not be made, and nothing in it can.
    lost: bool,
}

struct Run<'a, 's> {
    plan: &'a Plan,
    control: &'a Control,
    stored: &'a Stored<'s>,
    target: &'a Target,
    notes: &'a Notes,
    fetcher: Fetcher<'a, 's>,
    existing: Existing,
    /// Names may stand here that an interrupted run made.
    continued: bool,
    stack: Vec<Folder>,
    /// Directories that are complete once the window is.
    left: Vec<Folder>,
    window: Window,
    links: Vec<Link>,
    groups: Groups,
    /// Files of the target (device and inode) with several names, one of which stays as some entry's own.
    claimed: HashSet<(u64, u64)>,
    buffer: Vec<u8>,
}

/// Restores as planned. An error leaves the marker, and the same restore goes on from there.
pub fn run(repository: &Repository, plan: &Plan, control: &Control) -> Result<Report> {
    let began = Instant::now();
    let request = &plan.request;
    let target = plan::open(request)?;
    // What stood there when it was planned may be another thing now.
    let start = plan::start(&target, request, &plan.marker)?;
    let begun = target.begin(&plan.marker)?;
    let stored = Stored::new(repository, &plan.indexes, request.snapshot.writer)?;
    let notes = Notes::new(Arc::clone(&control.progress), request.verify);
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = if request.workers == 0 { cores() } else { request.workers };
    let existing = match (start, begun) {
        (Start::Empty, Begin::Fresh) => Existing::Refuse,
        _ if request.delete => Existing::ReplaceTree,
        _ => Existing::Replace,
    };
    let mut run = Run {
        plan,
        control,
        stored: &stored,
        target: &target,
        notes: &notes,
        fetcher: Fetcher::new(&stored, &target, &notes, control, workers),
        existing,
        continued: begun == Begin::Continued,
        stack: Vec::new(),
        left: Vec::new(),
        window: Window::new(repository.store.is_remote()),
        links: Vec::new(),
        groups: Groups::default(),
        claimed: HashSet::new(),
        buffer: Vec::new(),
    };
    if let Err(error) = run.go() {
        run.window.files.iter().for_each(|file| file.abandon(&target));
        return Err(error);
    }
    drop(run);
    if request.verify {
        check::check(plan, &stored, &target, &notes, control, workers)?;
    }
    // What the store refused may be had once it is mended: the marker stays, and the same restore goes on then.
    if !notes.rest().store_failed {
        target.finish()?;
    }
    drop(stored);
    Ok(notes.into_report(began.elapsed().as_secs_f64()))
}

impl Run<'_, '_> {
    fn go(&mut self) -> Result<()> {
        self.target.make_directory(&TreePath::root(), self.existing)?;
        self.stack.push(Folder::new(TreePath::root(), None));
        let mut walk = self.plan.selection.walk(self.stored);
        loop {
            self.control.go_on()?;
            match walk.next()? {
                Step::End => break,
                Step::Damage { after, error } => {
                    self.notes.damaged(&after, format!("some files after this one cannot be known: {error}"));
                }
                Step::Entry(picked) => self.meet(*picked)?,
            }
            if self.window.is_full() {
                self.flush(More::Comes)?;
            }
        }
        while let Some(folder) = self.stack.pop() {
            self.left.push(folder);
        }
        self.flush(More::No)
    }

    fn meet(&mut self, picked: Picked) -> Result<()> {
        let progress = &self.control.progress;
        if progress.entries.fetch_add(1, Ordering::Relaxed).is_multiple_of(64)
            && let Ok(mut current) = progress.current.lock()
        {
            *current = picked.entry.path.to_string();
        }
        let Picked { entry, part, above, key, .. } = picked;
        if let Some(key) = &key {
            self.notes.renamed(key, &entry.path);
        }
        let directory = entry.kind.is_directory();
        if entry.path.is_root() {
            if directory {
                self.notes.rest().directories += 1;
                self.enter_root(entry, above)?;
            } else {
                self.notes.loss("the snapshot has no name for its only file".into());
            }
            return Ok(());
        }
        if !self.open_parent(&entry.path)? {
            let sentence = format!("{} was not restored: its directory could not be made", entry.path);
            self.notes.lost_entry(&entry.path, sentence);
            return Ok(());
        }
        if directory {
            let (path, deletes) = (entry.path.clone(), self.plan.request.delete && !above);
            if self.enter(path, Some(entry), deletes)? {
                self.notes.rest().directories += 1;
            }
            return Ok(());
        }
        self.place(entry, part)
    }

    /// The target itself has attributes, and perhaps names to delete.
    fn enter_root(&mut self, entry: Entry, above: bool) -> Result<()> {
        let stood = match self.plan.request.delete && !above {
            true => self.target.list(&TreePath::root())?,
            false => Vec::new(),
        };
        let keeps = |name: &[u8], kind: &FileKind| {
            name == MARKER_NAME.as_bytes() || (name == b"lost+found" && *kind == FileKind::Directory)
        };
        if let Some(root) = self.stack.first_mut() {
            root.stood = stood.into_iter().filter(|(name, kind)| !keeps(name, kind)).collect();
            root.entry = Some(entry);
        }
        Ok(())
    }

    /// Leaves directories that do not hold `path`, and enters those that do. False: one of them could not be made.
    fn open_parent(&mut self, path: &TreePath) -> Result<bool> {
        while self.stack.len() > 1 && self.stack.last().is_some_and(|top| !path.is_within(&top.path)) {
            self.left.extend(self.stack.pop());
            self.window.weight += FOLDER_BYTES;
        }
        let Some(parent) = path.parent() else { return Ok(false) };
        let Some(top) = self.stack.last() else { return Ok(false) };
        if top.lost {
            return Ok(false);
        }
        // Directories that the snapshot does not describe: above a source, or behind a gap in the list.
        let missing = parent.relative_to(&top.path).unwrap_or_default();
        let names: Vec<Vec<u8>> = missing.parts().map(<[u8]>::to_vec).collect();
        for name in names {
            let Some(top) = self.stack.last() else { return Ok(false) };
            let Ok(path) = top.path.join(&name) else { return Ok(false) };
            if !self.enter(path, None, false)? {
                return Ok(false);
            }
        }
        if let Some(top) = self.stack.last_mut() {
            top.has(path.file_name());
        }
        Ok(true)
    }

    /// Makes a directory and goes into it. False: it could not be made.
    fn enter(&mut self, path: TreePath, entry: Option<Entry>, deletes: bool) -> Result<bool> {
        let mut folder = Folder::new(path, entry);
        let made = self.target.make_directory(&folder.path, self.existing).and_then(|made| {
            if deletes && made == crate::target::Made::Existed {
                folder.stood = self.target.list(&folder.path)?;
            }
            Ok(())
        });
        if let Err(error) = made {
            self.lose(&folder.path, error)?;
            folder.lost = true;
        }
        let good = !folder.lost;
        self.stack.push(folder);
        Ok(good)
    }

    /// Notes an error of the target that concerns one entry; the others end the restore.
    fn lose(&self, path: &TreePath, error: TargetError) -> Result<()> {
        if error.is_fatal() {
            return Err(error.into());
        }
        self.notes.lost_entry(path, told(&error));
        Ok(())
    }

    /// What is no directory.
    fn place(&mut self, entry: Entry, part: usize) -> Result<()> {
        if let Some(group) = self.groups.find(part, &entry) {
            self.window.weight += 512 + entry.path.as_bytes().len();
            self.links.push(Link { entry, group });
            return Ok(());
        }
        let print = entry.link_group.map(|_| fingerprint(&entry));
        if self.stands(&entry)? {
            self.notes.unchanged(entry.kind.size());
            self.groups.add(part, &entry, print, First::Made);
            return Ok(());
        }
        if matches!(entry.kind, Kind::File { .. }) {
            let work = self.file(entry)?;
            self.groups.add(part, &work.entry, print, First::File(Arc::clone(&work)));
            return Ok(());
        }
        let first = if self.make(&entry)? { First::Made } else { First::Lost };
        self.groups.add(part, &entry, print, first);
        Ok(())
    }

    /// Makes a link or a special file. False: nothing stands there.
    fn make(&self, entry: &Entry) -> Result<bool> {
        let made = match entry.kind {
            Kind::Symlink { .. } => self.target.make_symlink(&entry.path, entry, self.existing),
            _ => self.target.make_special(&entry.path, entry, self.existing),
        };
        match made {
            Err(error) => {
                self.lose(&entry.path, error)?;
                Ok(false)
            }
            Ok(outcome) => {
                let stands = !is_nothing(&outcome);
                self.notes.outcome(outcome);
                if stands {
                    self.notes.rest().others += 1;
                }
                Ok(stands)
            }
        }
    }

    /// Whether what stands at an entry's place is what it says, so that nothing is to do.
    fn stands(&mut self, entry: &Entry) -> Result<bool> {
        if !self.agrees(entry)? {
            return Ok(false);
        }
        match self.target.stat(&entry.path) {
            // What the snapshot has as two files must not stay two names of one: whoever writes to one would change the other.
            Ok(Some(stat)) if stat.nlink > 1 => Ok(self.claimed.insert(stat.identity)),
            Ok(_) => Ok(true),
            Err(error) if error.is_fatal() => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    /// Whether attributes and content are those of the entry.
    fn agrees(&mut self, entry: &Entry) -> Result<bool> {
        let looks = self.continued || self.plan.request.overwrite == Overwrite::IfChanged;
        if self.existing == Existing::Refuse || !looks {
            return Ok(false);
        }
        // An unprivileged restore leaves devices out: there is nothing to compare.
        let device = matches!(entry.kind, Kind::CharDevice { .. } | Kind::BlockDevice { .. });
        if device && !self.plan.request.privileged {
            return Ok(false);
        }
        match self.target.differences(&entry.path, entry) {
            Ok(differences) if differences.is_empty() => {}
            Ok(_) => return Ok(false),
            Err(error) if error.is_fatal() => return Err(error.into()),
            Err(_) => return Ok(false),
        }
        let Kind::File { size, content, .. } = &entry.kind else { return Ok(true) };
        if !self.continued {
            return Ok(true);
        }
        let Some(file) = self.local(&entry.path)? else { return Ok(false) };
        let (lists, ids) = (self.stored, self.stored.ids());
        match local::compare(lists, ids, content, *size, &file, self.control, &mut self.buffer) {
            Ok(same) => Ok(same == Same::Yes),
            Err(super::Error::Target(error)) if !error.is_fatal() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The file that stands at `path`, if one does and can be read.
    fn local(&self, path: &TreePath) -> Result<Option<TargetFile>> {
        match self.target.open_file(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.is_fatal() => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    /// Plans the content of a file.
    fn file(&mut self, mut entry: Entry) -> Result<Arc<FileWork>> {
        let nothing = Content::Extents(Vec::new());
        let (size, content) = match &mut entry.kind {
            Kind::File { size, content, .. } => (*size, std::mem::replace(content, nothing)),
            _ => (0, nothing),
        };
        let reuses = self.existing != Existing::Refuse && size >= REUSE_BYTES_MIN;
        let looks = self.continued || self.plan.request.overwrite == Overwrite::IfChanged;
        let local = if reuses && looks { self.local(&entry.path)? } else { None };
        let work = FileWork::new(entry, self.existing);
        let mut place = self.window.add(&work);
        let damaged = |error: String| work.fail(Failure::Damaged(error));
        let (stored, mut offset) = (self.stored, 0u64);
        let mut reader = ListReader::new(stored, &content);
        drop(content);
        loop {
            let extent = match reader.next_extent() {
                Ok(Some(extent)) => extent,
                Ok(None) if offset == size => break,
                Ok(None) => {
                    damaged(format!("its list ends at byte {offset} of {size}"));
                    break;
                }
                Err(error) if is_local(&error) => {
                    damaged(told(&error));
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            let end = offset.saturating_add(extent.len());
            if end > size {
                damaged(format!("its list goes beyond its {size} bytes"));
                break;
            }
            if let Extent::Data { id, len } = extent {
                let at_hand = match &local {
                    Some(file) => self.read_local(file, offset, len)? && stored.ids().data(&self.buffer) == id,
                    None => false,
                };
                if at_hand {
                    work.wait_for_one();
                    deliver(self.target, self.notes, &work, offset, &self.buffer)?;
                } else {
                    self.window.want(id, len, place, offset);
                }
            }
            offset = end;
            if self.window.is_full() {
                self.flush(More::Comes)?;
                place = self.window.add(&work);
            }
        }
        self.window.ended.push(place);
        Ok(work)
    }

    fn read_local(&mut self, file: &TargetFile, offset: u64, len: u32) -> Result<bool> {
        self.control.go_on()?;
        match local::read_chunk(file, offset, len, &mut self.buffer) {
            Err(super::Error::Target(error)) if !error.is_fatal() => Ok(false),
            read => read,
        }
    }

    /// Does all that was planned: contents, links, and the directories that nothing more comes into. Files whose chunks lie far from the others' wait for
    /// windows to come, and the directories above them with them.
    fn flush(&mut self, more: More) -> Result<()> {
        self.fetch(more)?;
        let mut again = false;
        for link in std::mem::take(&mut self.links) {
            self.control.go_on()?;
            if let Some(entry) = self.link(link)? {
                // No link could be made: it becomes a file of its own.
                if matches!(entry.kind, Kind::File { .. }) {
                    self.file_again(entry)?;
                    again = true;
                } else {
                    self.make(&entry)?;
                }
            }
        }
        if again {
            self.fetch(more)?;
        }
        let waited_for = self.window.directories();
        for folder in std::mem::take(&mut self.left) {
            if waited_for.contains(&folder.path) {
                self.window.weight += FOLDER_BYTES;
                self.left.push(folder);
            } else {
                self.leave(folder)?;
            }
        }
        Ok(())
    }

    fn fetch(&mut self, more: More) -> Result<()> {
        let window = self.window.take();
        match self.fetcher.bring(&window, more) {
            Ok(waiting) => {
                self.window.carry(window, &waiting);
                Ok(())
            }
            Err(error) => {
                window.files.iter().for_each(|file| file.abandon(self.target));
                Err(error)
            }
        }
    }

    /// Makes a later name of a file. The entry comes back if it must be made by itself.
    fn link(&self, link: Link) -> Result<Option<Entry>> {
        let Link { entry, group } = link;
        let Group { path: first, first: state, .. } = &*group;
        match state {
            First::File(work) if !work.is_done() => {
                let Some(Failure::Damaged(error)) = work.failure() else { return Ok(Some(entry)) };
                self.notes.damaged(&entry.path, error);
                return Ok(None);
            }
            First::Lost => return Ok(Some(entry)),
            First::File(_) | First::Made => {}
        }
        match self.target.make_link(first, &entry.path, self.existing) {
            Err(error) => {
                self.lose(&entry.path, error)?;
                Ok(None)
            }
            Ok(outcome) => {
                let lost = outcome.losses.iter().any(|loss| loss.what == Attribute::HardLink);
                self.notes.outcome(outcome);
                if lost {
                    return Ok(Some(entry));
                }
                self.notes.shares_losses(first, &entry);
                match entry.kind {
                    Kind::File { .. } => self.notes.wrote(0),
                    _ => self.notes.rest().others += 1,
                }
                Ok(None)
            }
        }
    }

    /// Writes a file in the middle of the links: what fills the window is fetched at once.
    fn file_again(&mut self, entry: Entry) -> Result<()> {
        let links = std::mem::take(&mut self.links);
        let left = std::mem::take(&mut self.left);
        let planned = self.file(entry);
        self.links = links;
        self.left = left;
        planned.map(|_| ())
    }

    /// Nothing more comes into a directory: what the snapshot lacks goes, and it gets its attributes.
    fn leave(&mut self, mut folder: Folder) -> Result<()> {
        if folder.lost {
            return Ok(());
        }
        folder.rest();
        for path in &folder.delete {
            self.control.go_on()?;
            match self.target.remove(path) {
                Ok(removed) => self.notes.rest().deleted += u64::from(removed),
                Err(error) => self.lose(path, error)?,
            }
        }
        let Some(entry) = &folder.entry else { return Ok(()) };
        match self.target.finish_directory(&folder.path, entry) {
            Ok(outcome) => self.notes.outcome(outcome),
            Err(error) => self.lose(&folder.path, error)?,
        }
        Ok(())
    }
}

/// Whether nothing was made.
fn is_nothing(outcome: &Outcome) -> bool {
    let whole = |what: &Attribute| {
        matches!(
            what,
            Attribute::Device | Attribute::Fifo | Attribute::Socket | Attribute::Symlink | Attribute::HardLink
        )
    };
    outcome.losses.iter().any(|loss| whole(&loss.what)) || outcome.omitted.iter().any(|omitted| whole(&omitted.what))
}

impl Folder {
    fn new(path: TreePath, entry: Option<Entry>) -> Self {
        Self { path, entry, stood: Vec::new(), compared: 0, delete: Vec::new(), lost: false }
    }

    /// The snapshot has `name` here: what stood before it in the order, and was not met, is to go.
    fn has(&mut self, name: &[u8]) {
        while let Some((stood, _)) = self.stood.get(self.compared) {
            if stood.as_slice() > name {
                return;
            }
            if stood.as_slice() < name {
                self.delete.extend(self.path.join(stood).ok());
            }
            self.compared += 1;
        }
    }

    fn rest(&mut self) {
        for (stood, _) in self.stood.drain(..).skip(self.compared) {
            self.delete.extend(self.path.join(&stood).ok());
        }
    }
}
