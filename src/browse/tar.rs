//! A directory of a snapshot as a tar stream (POSIX.1-2001 pax, as GNU tar reads it).
//!
//! Owns headers, names, hard links and what a tar cannot hold. Sparse files are written out. Refuses to leave anything out in silence: sockets are named.

use std::collections::HashMap;

use tar::{EntryType, Header};

use super::dump::Pump;
use super::find::same_version;
use super::weave::Everything;
use super::{Error, Result, Set, Step, Tree, Weave, absolute, joined, sources, under_root};
use crate::names::TreePath;
use crate::pack::entry::{Entry, Kind, Timestamp};
use crate::pack::node::decode_leaf;
use crate::repository::{ChunkReader, Repository, Snapshot};

const BLOCK: u64 = 512;
/// What eleven octal digits hold: sizes and times.
const OCTAL_11: u64 = 0o77_777_777_777;
/// What seven octal digits hold: owners and device numbers.
const OCTAL_7: u32 = 0o7_777_777;

/// What went into a stream.
#[derive(Debug, Default)]
pub struct Written {
    pub entries: u64,
    /// Absolute paths of sockets and of devices with numbers beyond what a header holds.
    pub left_out: Vec<Vec<u8>>,
}

/// Puts what lies at an absolute path into the pump: a directory as `./` and what is in it, anything else by its name.
pub fn archive(
    repository: &Repository,
    reader: &ChunkReader<'_>,
    snapshot: &Snapshot,
    path: &[u8],
    is_directory: bool,
    pump: &mut Pump<'_>,
) -> Result<Written> {
    let id = snapshot.id.short();
    let wanted = under_root(path).ok_or_else(|| Error::NotFound { path: path.to_vec(), snapshot: id.clone() })?;
    let strip = if is_directory { wanted.clone() } else { wanted.parent().unwrap_or_default() };
    let mut trees = Vec::new();
    let mut above: HashMap<TreePath, Entry> = HashMap::new();
    for (name, source) in sources(snapshot.need_body(repository)?, &id)? {
        let from = match (name.is_within(&wanted), wanted.relative_to(&name)) {
            (true, _) => TreePath::root(),
            (_, Some(from)) => from,
            _ => continue,
        };
        if !source.ancestors.is_empty() {
            let entries = decode_leaf(&source.ancestors, &TreePath::root())
                .map_err(|cause| crate::pack::tree::NodeError { id: crate::names::ChunkId(*source.root.id), cause })
                .map_err(crate::repository::Error::from)?;
            let leads =
                |entry: &Entry| name.is_within(&entry.path) && entry.path != name && entry.path.is_within(&wanted);
            above.extend(entries.into_iter().filter(leads).map(|entry| (entry.path.clone(), entry)));
        }
        trees.push(Tree { nodes: reader, root: source.tree(), name, from, strip: strip.clone(), number: 0 });
    }
    let mut weave = Weave::new(trees);
    for (path, entry) in above {
        if let Some(path) = path.relative_to(&strip) {
            weave.add(Entry { path, ..entry }, Set::one(0));
        }
    }
    let mut tape = Tape { reader, pump, links: HashMap::new(), strip, written: Written::default() };
    while let Some(step) = weave.next(&mut Everything, |_| true)? {
        match step {
            Step::Damage { error, .. } => return Err(error.into()),
            Step::Path(_, found) => {
                if let Some(first) = found.into_iter().next() {
                    tape.entry(first.entry)?;
                }
            }
        }
    }
    tape.pump.zeros(2 * BLOCK)?;
    Ok(tape.written)
}

struct Tape<'a, 'p> {
    reader: &'a ChunkReader<'a>,
    pump: &'a mut Pump<'p>,
    /// The first name of each file that has several, and what stood there.
    links: HashMap<u64, (Vec<u8>, Entry)>,
    strip: TreePath,
    written: Written,
}

impl Tape<'_, '_> {
    fn entry(&mut self, entry: Entry) -> Result<()> {
        let devices = |major: u32, minor: u32| major <= OCTAL_7 && minor <= OCTAL_7;
        let fits = match entry.kind {
            Kind::Socket => false,
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => devices(major, minor),
            _ => true,
        };
        if !fits {
            self.written.left_out.push(absolute(&joined(&self.strip, &entry.path)));
            return Ok(());
        }
        self.written.entries += 1;
        let name = name(&entry);
        if let Some(group) = entry.link_group {
            match self.links.get(&group) {
                Some((first, known)) if same_version(known, &entry) => {
                    return self.pump.bytes(head(&entry, &name, Some(first)));
                }
                Some(_) => {}
                None => drop(self.links.insert(group, (name.clone(), entry.clone()))),
            }
        }
        self.pump.bytes(head(&entry, &name, None))?;
        if let Kind::File { size, content, .. } = &entry.kind {
            self.pump.file(self.reader, content, *size)?;
            let rest = size % BLOCK;
            if rest > 0 {
                self.pump.bytes(vec![0; (BLOCK - rest) as usize])?;
            }
        }
        Ok(())
    }
}

/// `./`, `./directory/`, `./directory/file`.
fn name(entry: &Entry) -> Vec<u8> {
    let slash: &[u8] = if entry.kind.is_directory() && !entry.path.is_root() { b"/" } else { b"" };
    [b"./", entry.path.as_bytes(), slash].concat()
}

/// The headers of an entry; `link`: it is one more name of what stands there.
fn head(entry: &Entry, name: &[u8], link: Option<&[u8]>) -> Vec<u8> {
    let mut header = Header::new_ustar();
    let mut records = Vec::new();
    let target = match (&entry.kind, link) {
        (_, Some(first)) => Some(first),
        (Kind::Symlink { target }, None) => Some(target.as_slice()),
        _ => None,
    };
    header.set_entry_type(match (&entry.kind, link) {
        (_, Some(_)) => EntryType::Link,
        (Kind::Directory, _) => EntryType::Directory,
        (Kind::Symlink { .. }, _) => EntryType::Symlink,
        (Kind::Fifo, _) => EntryType::Fifo,
        (Kind::CharDevice { .. }, _) => EntryType::Char,
        (Kind::BlockDevice { .. }, _) => EntryType::Block,
        (Kind::File { .. } | Kind::Socket, _) => EntryType::Regular,
    });
    let fields = header.as_old_mut();
    text(&mut fields.name, "path", name, &mut records);
    text(&mut fields.linkname, "linkpath", target.unwrap_or_default(), &mut records);
    header.set_mode(entry.mode);
    let size = if link.is_some() { 0 } else { entry.kind.size() };
    if size > OCTAL_11 {
        record(&mut records, b"size", size.to_string().as_bytes());
    }
    header.set_size(size.min(OCTAL_11));
    for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if id > OCTAL_7 {
            record(&mut records, key.as_bytes(), id.to_string().as_bytes());
        }
    }
    header.set_uid(entry.uid.min(OCTAL_7).into());
    header.set_gid(entry.gid.min(OCTAL_7).into());
    let secs = u64::try_from(entry.mtime.secs).ok().filter(|secs| *secs <= OCTAL_11);
    header.set_mtime(secs.unwrap_or(0));
    if secs.is_none() || entry.mtime.nanos > 0 {
        record(&mut records, b"mtime", time(entry.mtime).as_bytes());
    }
    if let Some(fields) = header.as_ustar_mut() {
        text(&mut fields.uname, "uname", entry.user.as_deref().unwrap_or_default(), &mut records);
        text(&mut fields.gname, "gname", entry.group.as_deref().unwrap_or_default(), &mut records);
    }
    if let Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } = entry.kind {
        // A ustar header takes both, and they were found to fit.
        let _ = header.set_device_major(major).and_then(|()| header.set_device_minor(minor));
    }
    if link.is_none() {
        for (key, value) in &entry.xattrs {
            record(&mut records, &[b"SCHILY.xattr.".as_slice(), &keyword(key)].concat(), value);
        }
    }
    header.set_cksum();
    let mut out = Vec::with_capacity(3 * BLOCK as usize);
    if !records.is_empty() {
        let mut extended = Header::new_ustar();
        extended.set_entry_type(EntryType::XHeader);
        let label = [b"./PaxHeaders/", entry.path.file_name()].concat();
        let label = &label[..label.len().min(100)];
        extended.as_old_mut().name[..label.len()].copy_from_slice(label);
        extended.set_mode(0o644);
        extended.set_uid(0);
        extended.set_gid(0);
        extended.set_mtime(secs.unwrap_or(0));
        extended.set_size(records.len() as u64);
        extended.set_cksum();
        out.extend_from_slice(extended.as_bytes());
        out.extend_from_slice(&records);
        out.resize(out.len().next_multiple_of(BLOCK as usize), 0);
    }
    out.extend_from_slice(header.as_bytes());
    out
}

/// Text into a field; what does not fit there whole goes into a record too.
fn text(field: &mut [u8], key: &str, value: &[u8], records: &mut Vec<u8>) {
    let len = value.len().min(field.len());
    field[..len].copy_from_slice(&value[..len]);
    if len < value.len() {
        record(records, key.as_bytes(), value);
    }
}

/// `length key=value\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = 3 + key.len() + value.len();
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(format!("{len} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// An attribute's name as GNU tar writes it into a keyword, in which `=` ends the name.
fn keyword(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => out.extend_from_slice(b"%25"),
            b'=' => out.extend_from_slice(b"%3D"),
            byte => out.push(*byte),
        }
    }
    out
}

/// Seconds with their fraction; before 1970 too, where nanoseconds still count upwards.
fn time(at: Timestamp) -> String {
    match (at.secs, at.nanos) {
        (secs, 0) => secs.to_string(),
        (secs @ 0.., nanos) => format!("{secs}.{nanos:09}"),
        (secs, nanos) => format!("-{}.{:09}", -(secs + 1), 1_000_000_000 - nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_record_counts_itself() {
        let written = |value: &str| {
            let mut records = Vec::new();
            record(&mut records, b"path", value.as_bytes());
            String::from_utf8(records).unwrap()
        };
        assert_eq!([written("x"), written("xy")], ["9 path=x\n", "11 path=xy\n"]);
        for len in 80..110 {
            let text = written(&"x".repeat(len));
            assert_eq!(text.split(' ').next(), Some(text.len().to_string().as_str()));
        }
    }

    #[test]
    fn times_before_1970_are_negative_and_keep_their_fraction() {
        let shown = |secs, nanos| time(Timestamp { secs, nanos });
        assert_eq!([shown(5, 0), shown(5, 7)], ["5", "5.000000007"]);
        assert_eq!([shown(-2, 500_000_000), shown(-1, 999_999_999)], ["-1.500000000", "-0.000000001"]);
    }

    #[test]
    fn names_of_attributes_cannot_end_early() {
        assert_eq!(keyword(b"user.a=b%"), b"user.a%3Db%25");
    }
}
