//! `lifeboat ls`: what a snapshot holds, entry by entry as the tree is read.

use std::ffi::OsString;

use clap::Args;
use serde_json::{Value, json};

use super::exit::Exit;
use super::failure::Result;
use super::place::{self, Place, Reach};
use super::screen::Screen;
use super::select::Latest;
use super::text::{bytes_json, local, time_of_entry};
use super::{Context, open, pick};
use crate::names::{TreePath, escape};
use crate::pack::entry::{Entry, Kind};
use crate::pack::tree::TreeReader;
use crate::repository::{ChunkReader, Index, Repository, Scope, Snapshots};

const HELP: &str = "\
Examples:
  lifeboat ls latest                    all of the newest snapshot
  lifeboat ls latest:/etc --depth 1     what /etc itself holds
  lifeboat ls 3f2a9c1b:/etc/ssh -l      with mode, owner, size and time";

#[derive(Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// `latest` or an id, and the path to list, with all that lies beneath it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    place: OsString,
    /// Mode, owner, size and time too
    #[arg(short, long)]
    long: bool,
    /// Only so many levels beneath PATH; 0 is PATH itself
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    #[command(flatten)]
    latest: Latest,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    let place = Place::parse(&arguments.place)?;
    let repository = open::repository(globals, screen)?;
    let selection = arguments.latest.selection(&repository, &place.snapshot)?;
    let snapshots = Snapshots::list(&repository)?;
    let snapshot = pick::snapshot(screen, &snapshots, &place.snapshot, &selection)?;
    let body = snapshot.need_body(&repository)?;
    let index = load_index(&repository, screen)?;
    let reader = ChunkReader::new(&repository, &index, snapshot.writer)?;
    let wanted = place.path.as_deref().unwrap_or(b"/");
    let mut listing = Listing { screen, long: arguments.long, found: 0 };
    for source in &body.sources {
        let start = match place::reach(&source.name, wanted) {
            Reach::Apart => continue,
            Reach::Whole => TreePath::root(),
            Reach::Within(path) => path,
        };
        // Counted from PATH, or from what was saved if that lies deeper.
        let deepest = arguments.depth.map(|depth| parts(wanted).max(parts(&source.name)).saturating_add(depth));
        let root = source.tree();
        let mut tree = TreeReader::starting_at(&reader, &root, &start)?;
        while let Some((entry, _)) = tree.next_entry()? {
            if !entry.path.is_within(&start) || screen.is_closed() {
                break;
            }
            let depth = parts(&source.name) + parts(entry.path.as_bytes());
            if deepest.is_none_or(|deepest| depth <= deepest) {
                listing.entry(&source.name, &entry)?;
            }
            if deepest.is_some_and(|deepest| depth >= deepest)
                && let Some(after) = entry.path.after_all_beneath().filter(|_| entry.kind.is_directory())
            {
                tree = TreeReader::starting_at(&reader, &root, &after)?;
            }
        }
    }
    if listing.found == 0 {
        return Err(pick::not_there(&repository, &reader, snapshot, wanted));
    }
    listing.end()?;
    Ok(Exit::Done)
}

/// How many names a path has.
fn parts(path: &[u8]) -> usize {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).count()
}

/// The index for reading. What of it does not verify is told, and the rest is used.
pub fn load_index(repository: &Repository, screen: &Screen) -> Result<Index> {
    let mut refused = Vec::new();
    let index = Index::load(repository, Scope::Read, &mut |error| refused.push(error))?;
    for error in refused {
        screen.warn(format!("part of the index is not used: {error}"));
    }
    Ok(index)
}

struct Listing<'a> {
    screen: &'a Screen,
    long: bool,
    found: u64,
}

impl Listing<'_> {
    fn end(&self) -> Result<()> {
        if self.screen.json { self.screen.raw(if self.found == 0 { "[]\n" } else { "\n]\n" }) } else { Ok(()) }
    }

    fn entry(&mut self, root: &[u8], entry: &Entry) -> Result<()> {
        let path = place::join(root, &entry.path);
        self.found += 1;
        if self.screen.json {
            self.screen.raw(if self.found == 1 { "[\n" } else { ",\n" })?;
            return self.screen.raw(&to_json(&path, entry).to_string());
        }
        let path = escape(&path);
        if !self.long {
            return self.screen.line(path);
        }
        let size = match entry.kind {
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => format!("{major}, {minor}"),
            ref kind => kind.size().to_string(),
        };
        let target = match &entry.kind {
            Kind::Symlink { target } => format!(" -> {}", escape(target)),
            _ => String::new(),
        };
        self.screen.line(format!(
            "{} {:<16} {size:>12} {} {path}{target}",
            mode(entry),
            owners(entry),
            local(time_of_entry(entry.mtime)),
        ))
    }
}

/// `user:group`, by name where there is one.
pub fn owners(entry: &Entry) -> String {
    let owner = |name: &Option<Vec<u8>>, id: u32| name.as_ref().map_or_else(|| id.to_string(), |name| escape(name));
    format!("{}:{}", owner(&entry.user, entry.uid), owner(&entry.group, entry.gid))
}

/// `-rwsr-xr-t`, as `ls -l` shows it.
pub fn mode(entry: &Entry) -> String {
    let mut text = String::with_capacity(10);
    text.push(entry.kind.letter());
    for (shift, special, set, unset) in [(6, 0o4000, 's', 'S'), (3, 0o2000, 's', 'S'), (0, 0o1000, 't', 'T')] {
        let bits = entry.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (entry.mode & special != 0, bits & 1 != 0) {
            (true, true) => set,
            (true, false) => unset,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

pub fn to_json(path: &[u8], entry: &Entry) -> Value {
    let word = match &entry.kind {
        Kind::File { .. } => "file",
        Kind::Directory => "directory",
        Kind::Symlink { .. } => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharDevice { .. } => "char_device",
        Kind::BlockDevice { .. } => "block_device",
    };
    let mut value = json!({
        "path": bytes_json(path),
        "type": word,
        "mode": format!("{:04o}", entry.mode),
        "uid": entry.uid,
        "gid": entry.gid,
        "user": entry.user.as_deref().map(bytes_json),
        "group": entry.group.as_deref().map(bytes_json),
        "mtime": time_of_entry(entry.mtime).to_string(),
    });
    match &entry.kind {
        Kind::File { size, .. } => value["size"] = json!(size),
        Kind::Symlink { target } => value["target"] = bytes_json(target),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            value["device"] = json!([major, minor])
        }
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::entry::Timestamp;

    #[test]
    fn modes_look_like_those_of_ls() {
        let entry = |kind, mode| Entry {
            path: TreePath::root(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            inode: 0,
            link_group: None,
            xattrs: vec![],
        };
        assert_eq!(mode(&entry(Kind::Directory, 0o1777)), "drwxrwxrwt");
        assert_eq!(mode(&entry(Kind::Fifo, 0o4644)), "prwSr--r--");
        assert_eq!(mode(&entry(Kind::Socket, 0o2755)), "srwxr-sr-x");
    }
}
