//! From `--repo` and a key to an open repository.
//!
//! Owns which of the key's ways in is taken. Refuses to guess: two keys that were both given are an error.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Globals;
use super::failure::{Failure, Result};
use super::screen::Screen;
use super::{memory, secrets};
use crate::address::Address;
use crate::bucket::{ConnectError, Options};
use crate::repository::{self, Errand, Repository};
use crate::seal::key::Key;
use crate::store::Store;
use crate::store::address::{self, PlaceError};
use crate::store::cached;

/// Names the key's file, as `--key` does.
const KEY_VARIABLE: &str = "LIFEBOAT_KEY";

pub fn address(globals: &Globals) -> Result<Address> {
    match globals.repo.as_deref().filter(|repo| !repo.is_empty()) {
        Some(repo) => Ok(address::parse(repo)?),
        None => Err(Failure::usage("no repository was named").hint("give --repo URL or set LIFEBOAT_REPO")),
    }
}

pub fn store(globals: &Globals) -> Result<Arc<dyn Store>> {
    Ok(address::open(&address(globals)?, &options()?)?)
}

/// How clouds are spoken to, by this process's environment.
pub fn options() -> Result<Options> {
    Ok(Options::from_environment().map_err(|error| PlaceError::from(ConnectError::from(error)))?)
}

/// The key's file: `--key`, or what the environment says if no passphrase was given.
pub fn key_file(globals: &Globals) -> Result<Option<PathBuf>> {
    match (&globals.key, &globals.passphrase_file) {
        (Some(_), Some(_)) => {
            Err(Failure::usage("--key and --passphrase-file are two ways in").hint("give one of them"))
        }
        (Some(key), None) => Ok(Some(key.clone())),
        (None, Some(_)) => Ok(None),
        (None, None) => Ok(std::env::var_os(KEY_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)),
    }
}

/// The key that was given, of any role.
pub fn key(globals: &Globals, store: &dyn Store, screen: &Screen) -> Result<Key> {
    match (key_file(globals)?, &globals.passphrase_file) {
        (Some(path), _) => secrets::read_key(&path, screen),
        (None, Some(path)) => slot(store, path, screen),
        (None, None) => Err(Failure::usage("no key was given").hint(
            "give --key FILE (`-` reads a key file or recovery sheet from standard input), or --passphrase-file FILE",
        )),
    }
}

fn slot(store: &dyn Store, path: &Path, screen: &Screen) -> Result<Key> {
    let passphrase = secrets::read_passphrase(path, screen)?;
    Ok(repository::open_slot(store, &passphrase)?)
}

pub fn repository(globals: &Globals, screen: &Screen) -> Result<Repository> {
    repository_for(globals, screen, Errand::Any)
}

pub fn repository_for(globals: &Globals, screen: &Screen, errand: Errand) -> Result<Repository> {
    let store = store(globals)?;
    let key = key(globals, &*store, screen)?;
    let cache = memory::directory();
    let near = cached::near(store, cache.clone(), key.repository());
    Ok(Repository::open_for(near, key, errand)?.remembering(cache.as_deref()))
}
