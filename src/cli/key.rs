//! `lifeboat key`: who may open, read and write.
//!
//! Owns the verbs over slots and writers. Refuses to print a key anywhere but into a new file, the recovery sheet apart.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::secrets::{self, NewSecretFile};
use super::text::{Table, local, plural, time_of};
use super::{Context, open};
use crate::clock::SystemClock;
use crate::names::{ObjectKey, WriterId};
use crate::repository::{self, Error as RepositoryError, Repository};
use crate::seal::key::{Key, Role};
use crate::seal::sheet;

#[derive(Subcommand)]
pub enum Verb {
    /// List key slots and writers
    List,
    /// Add a key slot: a passphrase that opens what the given key opens
    Add(Add),
    /// Remove a key slot, or revoke a writer
    Remove(Remove),
    /// Make a key for a reader or a new writer
    Export(Export),
    /// Print the key as a recovery sheet, for paper
    Sheet(Sheet),
}

#[derive(clap::Args)]
pub struct Add {
    /// The new passphrase, where --passphrase-file is what opens the repository now
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct Remove {
    /// A slot's or a writer's id, or the beginning of one
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(clap::Args)]
pub struct Export {
    /// What the key may do
    #[arg(long)]
    role: ExportedRole,
    /// Join this dedup group: its members share content, and each can tell what the others hold
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// What people call the writer; else the name of the file
    #[arg(long)]
    name: Option<String>,
    /// The new file; mode 0600
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportedRole {
    /// Restores everything, writes nothing
    Reader,
    /// Backs up; reads names and attributes of its own snapshots, never content
    Writer,
}

#[derive(clap::Args)]
pub struct Sheet {
    /// Write it to this new file, mode 0600, and not to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(context: &Context, verb: &Verb) -> Result<Exit> {
    match verb {
        Verb::List => list(context),
        Verb::Add(arguments) => add(context, arguments),
        Verb::Remove(arguments) => remove(context, arguments),
        Verb::Export(arguments) => export(context, arguments),
        Verb::Sheet(arguments) => print_sheet(context, arguments),
    }
}

fn slot_id(slot: &ObjectKey) -> &str {
    slot.as_str().rsplit('/').next().unwrap_or_default()
}

fn list(context: &Context) -> Result<Exit> {
    let Context { globals, screen } = context;
    let repository = open::repository(globals, screen)?;
    let slots = repository::slots(&*repository.store)?;
    let mut exit = Exit::Done;
    let mut table = Table::new(&["Writer", "Name", "Group", "Created", "Revoked"]);
    let mut writers: Vec<Value> = Vec::new();
    for writer in repository.all_writers()? {
        let writer = match writer {
            Ok(writer) => writer,
            Err(error) => {
                exit = tell_damage(context, error)?;
                continue;
            }
        };
        let revoked = match repository.revocation(writer.id) {
            Ok(revocation) => revocation.map(|revocation| time_of(revocation.created)),
            Err(error) => {
                exit = tell_damage(context, error)?;
                None
            }
        };
        let created = time_of(writer.created);
        let group = writer.group_name.clone().unwrap_or_else(|| format!("its own ({})", writer.group));
        let revoked_text = revoked.map_or_else(String::new, local);
        table.row(vec![writer.id.to_string(), writer.name.clone(), group, local(created), revoked_text]);
        writers.push(json!({
            "id": writer.id.to_string(),
            "name": writer.name,
            "group": writer.group_name,
            "group_id": writer.group.to_string(),
            "created": created.to_string(),
            "revoked": revoked.map(|at| at.to_string()),
        }));
    }
    if screen.json {
        let slots: Vec<Value> = slots.iter().map(|slot| json!({ "id": slot_id(slot) })).collect();
        screen.document(&json!({ "slots": slots, "writers": writers }))?;
        return Ok(exit);
    }
    match &slots[..] {
        [] => screen.line("no slots: no passphrase opens this repository")?,
        slots => {
            screen.line("Slots (a passphrase each)")?;
            for slot in slots {
                screen.line(slot_id(slot))?;
            }
        }
    }
    screen.line("")?;
    table.drop_empty_columns();
    for line in table.lines(super::screen::output_width()) {
        screen.line(line)?;
    }
    Ok(exit)
}

/// Damage is told and the rest is shown; any other trouble ends the command.
fn tell_damage(context: &Context, error: RepositoryError) -> Result<Exit> {
    if !error.is_damage() {
        return Err(error.into());
    }
    context.screen.fail(&error.into());
    Ok(Exit::Damage)
}

fn add(context: &Context, arguments: &Add) -> Result<Exit> {
    let Context { globals, screen } = context;
    let store = open::store(globals)?;
    // `--key` opens and `--passphrase-file` is new, unless the new one has a flag of its own.
    let (key, new) = match (&arguments.new_passphrase_file, &globals.passphrase_file) {
        (Some(new), _) => (open::key(globals, &*store, screen)?, new),
        (None, Some(new)) => {
            let opening = super::Globals { passphrase_file: None, ..globals.clone() };
            let missing = "no key was given that opens the repository now";
            let hint =
                "give --key FILE beside --passphrase-file NEW, or --passphrase-file OLD --new-passphrase-file NEW";
            if open::key_file(&opening)?.is_none() {
                return Err(Failure::usage(missing).hint(hint));
            }
            if open::key_file(&opening)?.as_deref() == Some(Path::new("-")) && new == Path::new("-") {
                return Err(Failure::usage("key and passphrase cannot both come from standard input"));
            }
            (open::key(&opening, &*store, screen)?, new)
        }
        (None, None) => {
            return Err(Failure::usage("a slot needs a passphrase").hint("give --passphrase-file FILE"));
        }
    };
    let passphrase = secrets::read_passphrase(new, screen)?;
    let role = key.role();
    let text = key.to_text();
    // A slot with a key of another repository would open nothing.
    let repository = Repository::open(store, key)?;
    let key = key_again(&text)?;
    let slot = repository::add_slot(&*repository.store, &key, &passphrase)?;
    let id = slot.rsplit('/').next().unwrap_or_default();
    if screen.json {
        screen.document(&json!({ "slot": id, "role": role.name() }))?;
    } else {
        screen.line(format!("slot {id} opens the {} key", role.name()))?;
    }
    Ok(Exit::Done)
}

fn key_again(text: &str) -> Result<Key> {
    Key::from_text(text).map_err(|error| Failure::new(Exit::Failed, error))
}

fn remove(context: &Context, arguments: &Remove) -> Result<Exit> {
    let Context { globals, screen } = context;
    let repository = open::repository(globals, screen)?;
    repository.need_admin("removing a key")?;
    let wanted = arguments.id.to_ascii_lowercase();
    if wanted.is_empty() {
        return Err(Failure::usage("the id is empty"));
    }
    let slots = repository::slots(&*repository.store)?;
    let fitting: Vec<&ObjectKey> = slots.iter().filter(|slot| slot_id(slot).starts_with(&wanted)).collect();
    let known: Vec<_> = repository.all_writers()?.into_iter().filter_map(|writer| writer.ok()).collect();
    let writers: Vec<WriterId> =
        known.iter().map(|writer| writer.id).filter(|id| id.to_string().starts_with(&wanted)).collect();
    match (&fitting[..], &writers[..]) {
        ([slot], []) => {
            repository.store.delete(slot)?;
            let left = slots.len() - 1;
            if screen.json {
                screen.document(&json!({ "removed": "slot", "id": slot_id(slot), "slots_left": left }))?;
            } else {
                screen.line(format!("removed slot {}", slot_id(slot)))?;
            }
            if left == 0 {
                screen.warn("no slot is left: only key files and recovery sheets open this repository now");
            }
            screen.hint("whoever copied the slot earlier can still open that copy with its passphrase");
            Ok(Exit::Done)
        }
        ([], [writer]) => {
            let stand = repository::revoke_writer(&repository, &SystemClock, *writer)? as u64;
            if screen.json {
                let document = json!({ "removed": "writer", "id": writer.to_string(), "snapshots_standing": stand });
                screen.document(&document)?;
            } else {
                let standing = plural(stand, "snapshot of it stands", "snapshots of it stand");
                screen.line(format!("revoked writer {writer}: {standing}, later ones will not count"))?;
            }
            Ok(Exit::Done)
        }
        // Names need not be unique, and a revocation is for ever: it takes an id.
        ([], []) => match known.iter().find(|writer| writer.name == arguments.id) {
            Some(writer) => Err(Failure::usage(format!("{} is a writer's name, and this takes an id", arguments.id))
                .hint(format!("its id is {}; `lifeboat key list` lists all", writer.id))),
            None => Err(RepositoryError::NoKey { what: "slot or writer", id: wanted }.into()),
        },
        _ => Err(Failure::usage(format!("{wanted:?} fits {} keys", fitting.len() + writers.len()))
            .hint("give more digits of the id")),
    }
}

fn export(context: &Context, arguments: &Export) -> Result<Exit> {
    let Context { globals, screen } = context;
    if arguments.role == ExportedRole::Reader && (arguments.group.is_some() || arguments.name.is_some()) {
        return Err(Failure::usage("a reader opens every group and has no name: --group and --name are for writers"));
    }
    let stem = || arguments.out.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let name = arguments.name.clone().unwrap_or_else(stem);
    for (what, text) in [("name", Some(&name)), ("group", arguments.group.as_ref())] {
        let good = |text: &String| !text.is_empty() && text.len() <= 200 && !text.chars().any(char::is_control);
        if text.is_some_and(|text| !good(text)) {
            return Err(Failure::usage(format!("the {what} is 1 to 200 bytes without control characters")));
        }
    }
    let repository = open::repository(globals, screen)?;
    let admin = repository.need_admin("exporting a key")?;
    if arguments.role == ExportedRole::Writer {
        let taken = |writer: &repository::Writer| writer.name == name;
        if let Some(writer) = repository.all_writers()?.iter().flatten().find(|writer| taken(writer)) {
            screen.warn(format!(
                "the writer {} is named {name} too: `--writer {name}` will not tell them apart",
                writer.id
            ));
        }
    }
    // The file first: a certificate whose key was never kept would stay for ever.
    let mut file = NewSecretFile::create(&arguments.out)?;
    let (key, writer) = match arguments.role {
        ExportedRole::Reader => (Key::Reader(admin.reader()), None),
        ExportedRole::Writer => {
            let group = arguments.group.as_deref();
            let (id, key) = repository::export_writer(&repository, &SystemClock, &name, group)?;
            (key, Some(id))
        }
    };
    file.keep(&key.to_text())?;
    let out = arguments.out.display();
    if screen.json {
        screen.document(&json!({
            "role": key.role().name(),
            "file": out.to_string(),
            "writer": writer.map(|id| id.to_string()),
            "name": writer.map(|_| &name),
            "group": arguments.group,
        }))?;
    } else {
        match writer {
            Some(id) => screen.line(format!("writer {id} ({name}) in {out}"))?,
            None => screen.line(format!("reader key in {out}"))?,
        }
    }
    match (writer, &arguments.group) {
        (Some(_), Some(group)) => screen.say(format!(
            "It joins the group {group:?}: its members find each other's content already stored. So each can test whether\n\
             another holds a content that it guesses, and a hostile member could spoil what others reuse."
        )),
        (Some(_), None) => screen.say("It has a dedup group of its own: nothing is shared with other writers."),
        (None, _) => {}
    }
    Ok(Exit::Done)
}

fn print_sheet(context: &Context, arguments: &Sheet) -> Result<Exit> {
    let Context { globals, screen } = context;
    if screen.json {
        return Err(Failure::usage("a recovery sheet is a page of text: it has no JSON form").hint("leave out --json"));
    }
    let store = open::store(globals)?;
    let key = open::key(globals, &*store, screen)?;
    let text = key.to_text();
    // A sheet that opens nothing is worse than none.
    let repository = Repository::open(store, key)?;
    let key = key_again(&text)?;
    if key.role() != Role::Admin {
        screen.warn(format!("this is the sheet of a {} key: it cannot do what the admin key can", key.role().name()));
    }
    let sheet = sheet::print(&key, repository.store.url());
    match &arguments.out {
        Some(path) => {
            NewSecretFile::create(path)?.keep(&sheet)?;
            screen.line(format!("recovery sheet in {}", path.display()))?;
            screen.hint("print it, keep the paper where the backups are not, and remove the file");
        }
        None => screen.raw(&sheet)?,
    }
    Ok(Exit::Done)
}
