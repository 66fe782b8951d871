//! `lifeboat init`: a repository comes to be.
//!
//! Owns the order that people see: the way in is safe first, then the repository exists.

use std::path::PathBuf;

use serde_json::json;

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::secrets::{self, NewSecretFile};
use super::{Context, memory, open};
use crate::clock::SystemClock;
use crate::pack::keys;
use crate::repository;
use crate::seal::key::Key;
use crate::store::address;
use crate::store::probe::{self, StoreMode};

#[derive(clap::Args)]
pub struct Arguments {
    /// Write the admin key to this new file, mode 0600
    #[arg(long, value_name = "FILE")]
    key_out: Option<PathBuf>,
}

pub fn run(context: &Context, arguments: &Arguments) -> Result<Exit> {
    let Context { globals, screen } = context;
    if globals.key.is_some() {
        return Err(Failure::usage("init makes a key of its own: --key names one that exists")
            .hint("use --key-out FILE, or --passphrase-file FILE, or both"));
    }
    if arguments.key_out.is_none() && globals.passphrase_file.is_none() {
        return Err(Failure::usage("a repository needs a way in")
            .hint("give --key-out FILE for a key file, or --passphrase-file FILE, or both"));
    }
    let address = open::address(globals)?;
    let passphrase = match &globals.passphrase_file {
        Some(path) => Some(secrets::read_passphrase(path, screen)?),
        None => None,
    };
    // Before the store is touched: a name that is taken or impossible should leave nothing behind.
    let mut key_file = arguments.key_out.as_deref().map(NewSecretFile::create).transpose()?;
    let store = address::create(&address, &open::options()?)?;
    if !store.list(keys::CONFIGS)?.is_empty() {
        return Err(repository::Error::Exists { url: store.url().to_owned() }.into());
    }
    let mode = probe::probe(&*store)?.mode;
    let passphrase = passphrase.as_deref().map(Vec::as_slice);
    let made = repository::init(&*store, &SystemClock, passphrase, |key: &Key| match &mut key_file {
        Some(file) => file.keep(&key.to_text()),
        None => Ok(()),
    });
    let made = made.inspect_err(|failure: &Failure| {
        // Any other error may have come after the commit, and then this file is the only way in.
        if failure.exit == Exit::Conflict
            && let Some(file) = &mut key_file
        {
            file.discard();
        }
    })?;
    let id = made.key.repository();
    memory::remember(id, &mode, memory::Seen::Probed, screen);

    let shown_file = key_file.as_ref().map(|file| file.path().display().to_string());
    if screen.json {
        let mut document = json!({
            "repository": id.to_string(),
            "url": store.url(),
            "store_mode": mode,
            "key_file": shown_file,
            "slots": made.slots,
        });
        if let StoreMode::SingleWriter { reason } = &mode {
            document["store_mode_reason"] = json!(reason);
        }
        screen.document(&document)?;
    } else {
        screen.line(format!("repository {id} at {}", store.url()))?;
        if let Some(file) = &shown_file {
            screen.line(format!("admin key  {file}"))?;
        }
        if made.slots > 0 {
            screen.line("passphrase opens the repository with --passphrase-file")?;
        }
        screen.line(format!("store mode {}", mode.as_str()))?;
    }
    warn_of_single_writer(context, &mode);
    if made.slots + usize::from(shown_file.is_some()) < 2 {
        let only = shown_file.map_or_else(|| "the passphrase".to_owned(), |file| format!("the file {file}"));
        screen.warn(format!("the only way in is {only}: if it is lost, so is every backup"));
        screen.hint("print `lifeboat key sheet` and keep the paper elsewhere, or `lifeboat key add` a passphrase");
    }
    Ok(Exit::Done)
}

pub fn warn_of_single_writer(context: &Context, mode: &StoreMode) {
    if let StoreMode::SingleWriter { reason } = mode {
        context.screen.warn(format!("this store can serve only one writer at a time: {reason}"));
    }
}
