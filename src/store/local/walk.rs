//! Walks the directories below the root, and tells objects from what crashes left.
//!
//! A name that cannot be a key (`lost+found`, a hidden file) is not ours and is passed over. A symbolic link or anything
//! else that is no file at a name that could be a key is an error: to pass it over would shorten a listing in silence.

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::TMP;
use super::error::LocalError;
use super::root::{Root, parent};
use crate::names::ObjectKey;
use crate::store::{Class, Leftover, Listed};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Objects,
    Leftovers,
}

pub(super) enum Seen {
    Object(Listed),
    Leftover(Leftover),
}

/// Shows `visit` what is wanted of everything whose name starts with `prefix`, in no order.
pub(super) fn walk(root: &Root, prefix: &str, want: Want, visit: &mut dyn FnMut(Seen)) -> Result<(), LocalError> {
    let top = parent(prefix);
    if !top.is_empty() && top.parse::<ObjectKey>().is_err() {
        return Ok(()); // no key starts so
    }
    let mut directories = vec![top.to_owned()];
    while let Some(directory) = directories.pop() {
        if directory == TMP && want == Want::Objects {
            continue;
        }
        let fd = match root.open_directory(&directory) {
            Ok(fd) => fd,
            // Not made yet, or removed since its parent was read.
            Err(error) if error.class() == Class::NotFound && !directory.is_empty() => continue,
            Err(LocalError::NotAFile { path }) if directory == top => match root.stat(&directory) {
                // An object stands where the prefix has a directory: no key starts so.
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => continue,
                _ => return Err(LocalError::NotAFile { path }),
            },
            Err(error) => return Err(error),
        };
        let failed = |errno| root.error("list", &directory, errno);
        let mut entries = Vec::new();
        for entry in Dir::read_from(&fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Ok(name) = entry.file_name().to_str() {
                entries.push((name.to_owned(), entry.file_type()));
            }
        }
        for (part, kind) in entries {
            let name = if directory.is_empty() { part.clone() } else { format!("{directory}/{part}") };
            let Some(role) = role(&name).filter(|_| name.starts_with(prefix)) else { continue };
            if kind == FileType::Directory {
                if matches!(role, Role::Object(_)) {
                    directories.push(name);
                }
                continue;
            }
            let unwanted = match want {
                Want::Objects => matches!(role, Role::Leftover),
                Want::Leftovers => matches!(role, Role::Object(_)),
            };
            if kind == FileType::RegularFile && unwanted {
                continue;
            }
            let stat = match rustix::fs::statat(&fd, part.as_str(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue, // deleted meanwhile
                Err(errno) => return Err(root.error("look at", &name, errno)),
            };
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            match (FileType::from_raw_mode(stat.st_mode), role, want) {
                (FileType::Directory, Role::Object(_), _) => directories.push(name),
                (FileType::RegularFile, Role::Object(key), Want::Objects) => {
                    visit(Seen::Object(Listed { key, size: bytes, tag: None }));
                }
                (FileType::RegularFile, Role::Leftover, Want::Leftovers) => {
                    visit(Seen::Leftover(Leftover { name, bytes, modified: stat.st_mtime }));
                }
                (FileType::RegularFile, ..) | (_, Role::Leftover, _) | (_, _, Want::Leftovers) => {}
                (_, Role::Object(_), Want::Objects) => {
                    return Err(LocalError::NotAFile { path: root.path.join(&name) });
                }
            }
        }
    }
    Ok(())
}

enum Role {
    /// What is called so is an object, or a directory on the way to some.
    Object(ObjectKey),
    Leftover,
}

fn role(name: &str) -> Option<Role> {
    if parent(name) == TMP {
        return Some(Role::Leftover);
    }
    if let Ok(key) = name.parse() {
        return Some(Role::Object(key));
    }
    let (key, number) = name.rsplit_once('#')?;
    let is_staged =
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) && key.parse::<ObjectKey>().is_ok();
    is_staged.then_some(Role::Leftover)
}
