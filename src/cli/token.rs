//! `lifeboat token`: who may ask the daemon, and for how much.

use std::path::PathBuf;

use clap::Subcommand;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::config::{self, Directory};
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::text::{Table, local};
use super::{Context, screen};
use crate::catalog::{Catalog, Role};
use crate::daemon::Places;
use crate::schedule;

#[derive(Subcommand)]
pub enum Verb {
    /// Make a token and print it, once
    Create {
        /// What people call it
        #[arg(long)]
        name: String,
        /// read, run, drill or admin; each includes those before it
        #[arg(long)]
        role: Role,
        /// For how long it is good, such as 90d; else until it is revoked
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        config: Directory,
    },
    /// List tokens; their secrets are not kept
    List {
        #[command(flatten)]
        config: Directory,
    },
    /// Revoke a token, by its name or id
    Revoke {
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        config: Directory,
    },
}

pub fn run(context: &Context, verb: &Verb) -> Result<Exit> {
    let now = Timestamp::now();
    match verb {
        Verb::Create { name, role, expires, config } => {
            let expires = expires.as_deref().map(|text| end(now, text)).transpose()?;
            let state = state(context, config)?;
            // A daemon that systemd gave its directories keeps its tokens where only `[daemon] state` tells us.
            let used = std::fs::read_dir(&state).is_ok_and(|mut names| names.next().is_some());
            let (token, secret) = Catalog::open_shared(&state)?.token_create(name, *role, expires, now)?;
            if !used {
                context.screen.warn(format!("no daemon has kept anything in {} yet", state.display()));
                context
                    .screen
                    .hint("if yours keeps its state elsewhere it does not know this token: set [daemon] state");
            }
            if context.screen.json {
                context.screen.document(&json!({
                    "id": token.id,
                    "name": token.name,
                    "role": token.role,
                    "expires": token.expires.map(|at| at.to_string()),
                    "token": secret.reveal(),
                }))?;
            } else {
                context.screen.line(secret.reveal())?;
                context.screen.say("This is the only time that it is shown.");
            }
            Ok(Exit::Done)
        }
        Verb::List { config } => list(context, &open(context, config)?, now),
        Verb::Revoke { name, config } => {
            if !open(context, config)?.token_revoke(name, now)? {
                let sentence = format!("there is no token {name:?} to revoke");
                return Err(Failure::new(Exit::NotFound, sentence).hint("`lifeboat token list` lists what there is"));
            }
            if context.screen.json {
                context.screen.document(&json!({ "revoked": name }))?;
            } else {
                context.screen.line(format!("revoked {name}"))?;
            }
            Ok(Exit::Done)
        }
    }
}

fn open(context: &Context, directory: &Directory) -> Result<Catalog> {
    Ok(Catalog::open_shared(&state(context, directory)?)?)
}

fn state(context: &Context, directory: &Directory) -> Result<PathBuf> {
    let config = config::load(context, &directory.directory)?;
    let places = Places::find(&config.daemon, |name| std::env::var_os(name));
    Ok(places.map_err(|error| Failure::new(Exit::Config, error))?.state)
}

fn end(now: Timestamp, text: &str) -> Result<Timestamp> {
    let seconds = schedule::seconds(text).map_err(|error| {
        let hint = error.hint();
        Failure::new(Exit::Usage, error).hint(hint)
    })?;
    let span = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    now.checked_add(span).map_err(|error| Failure::new(Exit::Usage, error))
}

fn list(context: &Context, catalog: &Catalog, now: Timestamp) -> Result<Exit> {
    let tokens = catalog.token_list()?;
    if context.screen.json {
        let all = tokens.iter().map(|token| {
            json!({
                "id": token.id,
                "name": token.name,
                "role": token.role,
                "created": token.created.to_string(),
                "expires": token.expires.map(|at| at.to_string()),
                "revoked": token.revoked.map(|at| at.to_string()),
                "good": token.is_good(now),
            })
        });
        context.screen.document(&Value::Array(all.collect()))?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["ID", "Name", "Role", "Created", "Expires", "State"]);
    for token in &tokens {
        let state = match (token.revoked.is_some(), token.is_good(now)) {
            (true, _) => "revoked",
            (false, true) => "good",
            (false, false) => "out of date",
        };
        let expires = token.expires.map_or_else(|| "never".to_owned(), local);
        table.row(vec![
            token.id.clone(),
            token.name.clone(),
            token.role.to_string(),
            local(token.created),
            expires,
            state.to_owned(),
        ]);
    }
    if !tokens.is_empty() {
        for line in table.lines(screen::output_width()) {
            context.screen.line(line)?;
        }
    }
    Ok(Exit::Done)
}
