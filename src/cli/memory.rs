//! What this host remembers of a store between commands.
//!
//! Owns a few bytes in the cache directory. Refuses to matter: lost, it is learnt again at the next backup.

use std::path::PathBuf;

use super::screen::Screen;
use crate::clock::{Clock, SystemClock};
use crate::names::RepositoryId;
use crate::store::probe::StoreMode;

/// `LIFEBOAT_CACHE`, else systemd's directory, else the XDG's.
pub fn directory() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = variable("LIFEBOAT_CACHE").or_else(|| variable("CACHE_DIRECTORY"));
    base.or_else(|| {
        let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")))?;
        Some(cache.join("lifeboat"))
    })
}

fn file(id: RepositoryId) -> Option<PathBuf> {
    Some(directory()?.join(format!("probe-{id}")))
}

/// How sure a note is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A whole probe said so, just now.
    Probed,
    /// A write session noticed it in passing: a daemon still probes.
    InPassing,
}

/// Notes how the store behaved: the time of the probe, and the mode, as the daemon does.
pub fn remember(id: RepositoryId, mode: &StoreMode, seen: Seen, screen: &Screen) {
    let Some(path) = file(id) else { return };
    let directory = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let at = if seen == Seen::Probed { SystemClock.now().secs } else { 0 };
    if let Err(error) = directory.and_then(|()| std::fs::write(&path, format!("{at} {}\n", mode.as_str()))) {
        screen.warn(format!("the cache {} cannot be written ({error}); nothing else suffers", path.display()));
    }
}

/// How the store behaved when this host last wrote to it.
pub fn recall(id: RepositoryId) -> Option<&'static str> {
    let text = std::fs::read_to_string(file(id)?).ok()?;
    let word = text.split_whitespace().nth(1)?;
    ["multi-writer", "single-writer"].into_iter().find(|mode| *mode == word)
}
