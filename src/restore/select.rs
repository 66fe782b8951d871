//! Which entries of a snapshot are meant, and where in the target they land.
//!
//! Owns the merging of a snapshot's sources and the directories above them into one ordered walk, and the part of it that was asked for. A walk holds one
//! leaf. Refuses to end at a damaged node: it is named, and the walk goes on behind it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::content::is_local;
use super::filter::{Choice, Chooser, Filter};
use super::landing::{Owner, land};
use super::{Error, Result, told};
use crate::names::TreePath;
use crate::pack::entry::Entry;
use crate::pack::node::decode_leaf;
use crate::pack::record::{ManifestBody, SourceKind};
use crate::pack::tree::{NodeSource, Root, TreeReader};
use crate::repository;

/// Entries passed over one by one before the walk looks for the next that is wanted.
const PASSED_MAX: usize = 1024;

/// One source, or the part of it that is wanted.
struct Part {
    /// The source's own path, relative to `/`.
    name: TreePath,
    root: Root,
    /// Within the source: where the wanted part begins.
    from: TreePath,
    /// Directories above the source that are wanted and that no part before this one has.
    above: Vec<Entry>,
    /// Its entries are objects.
    bucket: bool,
}

/// What was asked for.
pub(super) struct Selection {
    parts: Vec<Part>,
    /// What paths, relative to `/`, lose on their way into the target.
    strip: TreePath,
    files: Option<Arc<BTreeSet<TreePath>>>,
    /// Objects become files of this one's; none: they stay objects.
    owner: Option<Owner>,
    filter: Filter,
}

/// An entry that is wanted; its path is the one in the target.
pub(super) struct Picked {
    pub entry: Entry,
    /// Which source it is of.
    pub part: usize,
    /// A directory above the sources, of which the snapshot holds a part only.
    pub above: bool,
    /// It is an object.
    pub object: bool,
    /// The key of an object whose path in the target is another.
    pub key: Option<String>,
}

pub(super) enum Step {
    Entry(Box<Picked>),
    /// Some entries after `after` cannot be known.
    Damage {
        after: TreePath,
        error: String,
    },
    End,
}

/// An absolute path as one relative to `/`.
fn absolute(bytes: &[u8]) -> Option<TreePath> {
    let mut rest = bytes.strip_prefix(b"/")?;
    while let Some(shorter) = rest.strip_suffix(b"/") {
        rest = shorter;
    }
    TreePath::from_bytes(rest.to_vec()).ok()
}

fn joined(base: &TreePath, rest: &TreePath) -> TreePath {
    match (base.is_root(), rest.is_root()) {
        (true, _) => rest.clone(),
        (_, true) => base.clone(),
        // Two good paths joined are a good path.
        _ => TreePath::from_bytes([base.as_bytes(), b"/", rest.as_bytes()].concat()).unwrap_or_default(),
    }
}

impl Selection {
    pub fn new<S: NodeSource<Error = repository::Error>>(
        body: &ManifestBody,
        path: Option<&[u8]>,
        files: Option<Arc<BTreeSet<TreePath>>>,
        filter: Filter,
        nodes: &S,
    ) -> Result<Self> {
        let not_found = || Error::NotFound { path: path.unwrap_or(b"/").to_vec() };
        let base = match path {
            None => TreePath::root(),
            Some(path) => absolute(path).ok_or_else(|| Error::Path { path: path.to_vec() })?,
        };
        let mut sources = Vec::with_capacity(body.sources.len());
        for source in &body.sources {
            let name = absolute(&source.name).ok_or_else(|| Error::Sources {
                problem: format!("{} is no absolute path", crate::names::escape(&source.name)),
            })?;
            sources.push((name, source));
        }
        sources.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = sources.windows(2).find(|pair| pair[1].0.is_within(&pair[0].0)) {
            return Err(Error::Sources { problem: format!("/{} lies within /{}", pair[1].0, pair[0].0) });
        }
        let mut parts = Vec::new();
        let mut seen = BTreeSet::new();
        for (name, source) in sources {
            let from = match (name.is_within(&base), base.relative_to(&name)) {
                (true, _) => TreePath::root(),
                (_, Some(from)) => from,
                _ => continue,
            };
            let above = match source.ancestors.is_empty() {
                true => Vec::new(),
                false => decode_leaf(&source.ancestors, &TreePath::root()).map_err(|cause| Error::Sources {
                    problem: format!("the directories above /{name} cannot be read: {cause}"),
                })?,
            };
            let wanted = |entry: &Entry| {
                entry.kind.is_directory()
                    && name.is_within(&entry.path)
                    && entry.path != name
                    && entry.path.is_within(&base)
            };
            let above = above.into_iter().filter(wanted).filter(|entry| seen.insert(entry.path.clone())).collect();
            let bucket = source.kind == SourceKind::Bucket;
            parts.push(Part { name, root: source.tree(), from, above, bucket });
        }
        let owner = Some(Owner::of_this_process());
        let mut selection = Self { parts, strip: base.clone(), files, owner, filter };
        match &selection.parts[..] {
            [] => return Err(not_found()),
            [part] if base.is_within(&part.name) => {
                let first = match TreeReader::starting_at(nodes, &part.root, &part.from)
                    .and_then(|mut reader| reader.next_entry())
                {
                    Ok(first) => first.map(|(entry, _)| entry),
                    // Whether it is a directory is unknown then, and most often it is.
                    Err(error) if is_local(&error) => return Ok(selection),
                    Err(error) => return Err(error.into()),
                };
                let first = first.filter(|entry| entry.path.is_within(&part.from)).ok_or_else(not_found)?;
                if first.path == part.from && !first.kind.is_directory() {
                    selection.strip = base.parent().ok_or_else(not_found)?;
                }
            }
            _ => {}
        }
        Ok(selection)
    }

    pub fn walk<'a, S: NodeSource<Error = repository::Error>>(&'a self, nodes: &'a S) -> Walk<'a, S> {
        Walk {
            selection: self,
            nodes,
            part: 0,
            above: 0,
            reader: None,
            ahead: None,
            last: None,
            passed: 0,
            chooser: self.filter.chooser(),
            on_the_way: Vec::new(),
            chosen: VecDeque::new(),
        }
    }

    /// Leaves objects what they are.
    pub fn keep_objects(self) -> Self {
        Self { owner: None, ..self }
    }

    /// Whether `path` (relative to `/`) or something beneath it is asked for.
    fn wants(&self, path: &TreePath) -> bool {
        let Some(files) = &self.files else { return true };
        files.range(path..).next().is_some_and(|file| file.is_within(path))
    }

    /// The first path after `path` that is wanted: a file, or a directory that leads to it.
    fn next_wanted(&self, path: &TreePath) -> Option<TreePath> {
        use std::ops::Bound;
        let next = self.files.as_ref()?.range((Bound::Excluded(path), Bound::Unbounded)).next()?;
        let mut first = next.clone();
        while let Some(parent) = first.parent().filter(|parent| parent > path) {
            first = parent;
        }
        Some(first)
    }
}

/// All entries that are wanted, in order.
pub(super) struct Walk<'a, S: NodeSource> {
    selection: &'a Selection,
    nodes: &'a S,
    part: usize,
    above: usize,
    reader: Option<TreeReader<'a, S>>,
    /// What the reader said when it was asked whether something lies beneath an object.
    ahead: Option<repository::Result<Option<Entry>>>,
    /// The newest path, relative to `/`, wanted or not.
    last: Option<TreePath>,
    passed: usize,
    chooser: Chooser<'a>,
    /// Directories that were passed, from the top down, of which nothing is chosen so far.
    on_the_way: Vec<(TreePath, Picked)>,
    /// Entries that are chosen, to be handed out first.
    chosen: VecDeque<Picked>,
}

impl<S: NodeSource<Error = repository::Error>> Walk<'_, S> {
    /// The next step. An error ends the walk: the store cannot be reached.
    pub fn next(&mut self) -> repository::Result<Step> {
        loop {
            if let Some(picked) = self.chosen.pop_front() {
                return Ok(Step::Entry(Box::new(picked)));
            }
            let Some(part) = self.selection.parts.get(self.part) else { return Ok(Step::End) };
            if let Some(entry) = part.above.get(self.above) {
                self.above += 1;
                if !self.selection.wants(&entry.path) {
                    continue;
                }
                let Some(path) = entry.path.relative_to(&self.selection.strip) else { continue };
                let whole = entry.path.clone();
                let entry = Entry { path, ..entry.clone() };
                self.choose(whole, Picked { entry, part: self.part, above: true, object: false, key: None });
                continue;
            }
            if self.reader.is_none() {
                let (reader, damage) = open(self.nodes, part, &part.from)?;
                self.reader = Some(reader);
                if let Some(error) = damage {
                    return Ok(self.damage(error));
                }
            }
            let Some(reader) = &mut self.reader else { continue };
            let next = match self.ahead.take() {
                Some(next) => next,
                None => reader.next_entry().map(|next| next.map(|(entry, _)| entry)),
            };
            let mut entry = match next {
                Ok(Some(entry)) => entry,
                Ok(None) => {
                    self.next_part();
                    continue;
                }
                Err(error) if is_local(&error) => return Ok(self.damage(told(&error))),
                Err(error) => return Err(error),
            };
            if !entry.path.is_within(&part.from) {
                if entry.path > part.from {
                    self.next_part();
                }
                continue;
            }
            let path = joined(&part.name, &entry.path);
            if self.last.as_ref().is_some_and(|last| path <= *last) {
                let after = path.relative_to(&self.selection.strip).unwrap_or_default();
                return Ok(Step::Damage { after, error: "its place in the snapshot's order is taken".into() });
            }
            self.last = Some(path.clone());
            if self.selection.wants(&path) {
                let within =
                    std::mem::replace(&mut entry.path, path.relative_to(&self.selection.strip).unwrap_or_default());
                let mut key = None;
                if let Some(owner) = self.selection.owner.filter(|_| part.bucket) {
                    if within.is_root() {
                        // A bucket has no attributes of its own to set on a directory.
                        continue;
                    }
                    let ahead = reader.next_entry().map(|next| next.map(|(entry, _)| entry));
                    let beside = matches!(&ahead, Ok(Some(next)) if next.path.is_within(&within));
                    self.ahead = Some(ahead);
                    key = land(&mut entry, beside, owner);
                }
                let object = part.bucket && !entry.kind.is_directory();
                if self.choose(path, Picked { entry, part: self.part, above: false, object, key }) {
                    self.passed = 0;
                    continue;
                }
            }
            self.passed += 1;
            if self.passed > PASSED_MAX {
                self.skip()?;
            }
        }
    }

    /// Hands out what is chosen, after the directories that lead to it. False: it is not.
    fn choose(&mut self, path: TreePath, picked: Picked) -> bool {
        let choice = self.chooser.choose(&path, picked.entry.kind.is_directory());
        if choice == Choice::Out {
            return false;
        }
        while self.on_the_way.last().is_some_and(|(above, _)| !path.is_within(above)) {
            self.on_the_way.pop();
        }
        if choice == Choice::Leads {
            self.on_the_way.push((path, picked));
        } else {
            self.chosen.extend(self.on_the_way.drain(..).map(|(_, picked)| picked));
            self.chosen.push_back(picked);
        }
        true
    }

    fn next_part(&mut self) {
        self.part += 1;
        self.above = 0;
        self.reader = None;
        self.ahead = None;
        self.passed = 0;
    }

    /// Goes on at the next entry that is wanted, without reading what lies between.
    fn skip(&mut self) -> repository::Result<()> {
        self.passed = 0;
        let (selection, Some(last)) = (self.selection, &self.last) else { return Ok(()) };
        let Some(part) = selection.parts.get(self.part) else { return Ok(()) };
        if let Some(behind) = self.chooser.behind_excluded(last) {
            let Some(next) = behind.relative_to(&part.name) else {
                // All of the part is excluded.
                self.next_part();
                return Ok(());
            };
            let (reader, damage) = open(self.nodes, part, &next)?;
            if damage.is_none() {
                self.reader = Some(reader);
                self.ahead = None;
            }
            return Ok(());
        }
        if selection.files.is_none() {
            return Ok(());
        }
        match selection.next_wanted(last).and_then(|next| next.relative_to(&part.name)) {
            None => self.next_part(),
            Some(next) => {
                // If the way there is damaged, the long way tells of it.
                let (reader, damage) = open(self.nodes, part, &next)?;
                if damage.is_none() {
                    self.reader = Some(reader);
                    self.ahead = None;
                }
            }
        }
        Ok(())
    }

    fn damage(&self, error: String) -> Step {
        let after = self.last.as_ref().and_then(|last| last.relative_to(&self.selection.strip)).unwrap_or_default();
        Step::Damage { after, error }
    }
}

/// A reader from `from` on. Where the way there is damaged, one from the beginning, and what was wrong.
fn open<'a, S: NodeSource<Error = repository::Error>>(
    nodes: &'a S,
    part: &Part,
    from: &TreePath,
) -> repository::Result<(TreeReader<'a, S>, Option<String>)> {
    let whole = || TreeReader::new(nodes, &part.root);
    if from.is_root() {
        return Ok((whole(), None));
    }
    match TreeReader::starting_at(nodes, &part.root, from) {
        Ok(reader) => Ok((reader, None)),
        Err(error) if is_local(&error) => Ok((whole(), Some(told(&error)))),
        Err(error) => Err(error),
    }
}
