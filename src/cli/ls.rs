//! `lifeboat ls`: what a snapshot holds, entry by entry as the tree is read.

use std::ffi::OsString;

use clap::Args;
use serde_json::{Value, json};

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::place::{self, Place, Reach};
use super::screen::Screen;
use super::select::Latest;
use super::text::{bytes_json, local, time_of_entry};
use super::{Context, open};
use crate::names::{TreePath, escape};
use crate::pack::entry::{Entry, Kind};
use crate::pack::tree::TreeReader;
use crate::repository::{ChunkReader, Index, Repository, Scope, Snapshots};

#[derive(Args)]
pub struct Arguments {
    /// `latest` or an id, and the path to list, with all that lies beneath it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    place: OsString,
    /// Mode, owner, size and time too
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    latest: Latest,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    let place = Place::parse(&arguments.place)?;
    let repository = open::repository(globals, screen)?;
    let selection = arguments.latest.selection(&repository, &place.snapshot)?;
    let snapshots = Snapshots::list(&repository)?;
    let snapshot = snapshots.find(&place.snapshot, &selection)?;
    let body = snapshot.need_body(&repository)?;
    let index = load_index(&repository, screen)?;
    let reader = ChunkReader::new(&repository, &index, snapshot.writer)?;
    let wanted = place.path.as_deref().unwrap_or(b"/");
    let mut listing = Listing { screen, long: arguments.long, found: 0 };
    listing.begin()?;
    for source in &body.sources {
        let start = match place::reach(&source.name, wanted) {
            Reach::Apart => continue,
            Reach::Whole => TreePath::root(),
            Reach::Within(path) => path,
        };
        let mut tree = TreeReader::starting_at(&reader, &source.tree(), &start)?;
        while let Some((entry, _)) = tree.next_entry()? {
            if !entry.path.is_within(&start) || screen.is_closed() {
                break;
            }
            listing.entry(&source.name, &entry)?;
        }
    }
    listing.end()?;
    if listing.found == 0 {
        let sentence = format!("{} is not in snapshot {}", escape(wanted), snapshot.id.short());
        let saved: Vec<String> = body.sources.iter().flat_map(|source| source.paths()).map(escape).collect();
        let hint =
            format!("it saved {}; `--path PATH` chooses among snapshots in which PATH was saved", saved.join(", "));
        return Err(Failure::new(Exit::NotFound, sentence).hint(hint));
    }
    Ok(Exit::Done)
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
    fn begin(&self) -> Result<()> {
        if self.screen.json { self.screen.raw("[") } else { Ok(()) }
    }

    fn end(&self) -> Result<()> {
        if self.screen.json { self.screen.raw(if self.found == 0 { "]\n" } else { "\n]\n" }) } else { Ok(()) }
    }

    fn entry(&mut self, root: &[u8], entry: &Entry) -> Result<()> {
        let path = place::join(root, &entry.path);
        self.found += 1;
        if self.screen.json {
            self.screen.raw(if self.found == 1 { "\n" } else { ",\n" })?;
            return self.screen.raw(&to_json(&path, entry).to_string());
        }
        let path = escape(&path);
        if !self.long {
            return self.screen.line(path);
        }
        let owner = |name: &Option<Vec<u8>>, id: u32| name.as_ref().map_or_else(|| id.to_string(), |name| escape(name));
        let size = match entry.kind {
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => format!("{major}, {minor}"),
            ref kind => kind.size().to_string(),
        };
        let target = match &entry.kind {
            Kind::Symlink { target } => format!(" -> {}", escape(target)),
            _ => String::new(),
        };
        self.screen.line(format!(
            "{} {:<8} {:<8} {size:>12} {} {path}{target}",
            mode(entry),
            owner(&entry.user, entry.uid),
            owner(&entry.group, entry.gid),
            local(time_of_entry(entry.mtime)),
        ))
    }
}

/// `-rwsr-xr-t`, as `ls -l` shows it.
fn mode(entry: &Entry) -> String {
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

fn to_json(path: &[u8], entry: &Entry) -> Value {
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
