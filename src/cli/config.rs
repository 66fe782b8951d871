//! `lifeboat config`: what the files say, and what they mean.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Context;
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::text::{Table, plural};
use crate::names::PolicyName;
use crate::policy::{self, Config, Policy, Problems, RepositoryConfig};

const OCCURRENCES_MAX: i64 = 10_000;

/// Where the configuration lies.
#[derive(Clone, clap::Args)]
pub struct Directory {
    /// The directory of lifeboat.toml and policies/
    #[arg(long = "config", value_name = "DIR", default_value = "/etc/lifeboat")]
    pub directory: PathBuf,
}

#[derive(Subcommand)]
pub enum Verb {
    /// Find every mistake in the configuration, or in single files
    Check {
        #[command(flatten)]
        config: Directory,
        /// Files to check, each with the lifeboat.toml beside or above it; else the whole directory
        #[arg(value_name = "FILE", conflicts_with = "directory")]
        files: Vec<PathBuf>,
    },
    /// List when a policy is due
    Next {
        #[command(flatten)]
        config: Directory,
        /// The policy's id
        #[arg(value_name = "POLICY")]
        policy: PolicyName,
        /// How many times to list
        #[arg(short, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(i64).range(1..=OCCURRENCES_MAX))]
        number: i64,
        /// List times later than this one (RFC 3339, such as 2027-03-28T00:00:00Z); else than now
        #[arg(long, value_name = "TIME")]
        from: Option<Timestamp>,
    },
    /// Show what a policy means, defaults included
    Show {
        #[command(flatten)]
        config: Directory,
        /// The policy's id
        #[arg(value_name = "POLICY")]
        policy: PolicyName,
    },
}

pub fn run(context: &Context, verb: &Verb) -> Result<Exit> {
    match verb {
        Verb::Check { config, files } => check(context, &config.directory, files),
        Verb::Next { config, policy, number, from } => {
            let config = load(context, &config.directory)?;
            let from = from.unwrap_or_else(Timestamp::now);
            next(context, find(&config, policy)?, *number as usize, from)
        }
        Verb::Show { config, policy } => {
            let config = load(context, &config.directory)?;
            show(context, &config, find(&config, policy)?)
        }
    }
}

/// The configuration, or a failure with the pictures of all that is wrong with it.
pub fn load(context: &Context, directory: &Path) -> Result<Config> {
    policy::load(directory).map_err(|problems| invalid(context, &problems))
}

pub fn invalid(context: &Context, problems: &Problems) -> Failure {
    let count = plural(problems.errors() as u64, "error", "errors");
    let mut failure = Failure::new(Exit::Config, format!("the configuration has {count}"));
    failure.preface = Some(policy::render(problems, context.screen.color));
    failure
}

fn find<'a>(config: &'a Config, name: &PolicyName) -> Result<&'a Policy> {
    config.policies.get(name).ok_or_else(|| {
        let names: Vec<&str> = config.policies.keys().map(PolicyName::as_str).collect();
        let nearest = names.iter().max_by(|a, b| {
            let likeness = |text: &str| strsim::jaro_winkler(text, name.as_str());
            likeness(a).total_cmp(&likeness(b))
        });
        let failure = Failure::new(Exit::NotFound, format!("there is no policy {name}"));
        match nearest {
            Some(nearest) if names.len() > 5 => failure.hint(format!("did you mean {nearest}?")),
            Some(_) => failure.hint(format!("there are {}", names.join(", "))),
            None => failure,
        }
    })
}

fn check(context: &Context, directory: &Path, files: &[PathBuf]) -> Result<Exit> {
    let screen = &context.screen;
    let (problems, policies) = if files.is_empty() {
        match policy::load(directory) {
            Ok(config) => (config.warnings, Some(config.policies.len())),
            Err(problems) => (problems, None),
        }
    } else {
        (policy::check_files(files), None)
    };
    if screen.json {
        screen.document(&json!({
            "valid": !problems.has_errors(),
            "errors": problems.errors(),
            "warnings": problems.warnings(),
            "policies": policies,
            "problems": problems.to_json(),
        }))?;
        return Ok(if problems.has_errors() { Exit::Config } else { Exit::Done });
    }
    if problems.has_errors() {
        return Err(invalid(context, &problems));
    }
    if !problems.is_empty() {
        screen.say(policy::render(&problems, screen.color).trim_end());
    }
    let what = policies.map_or_else(
        || plural(files.len() as u64, "file", "files"),
        |policies| plural(policies as u64, "policy", "policies"),
    );
    let warnings = match problems.warnings() as u64 {
        0 => String::new(),
        some => format!(", {}", plural(some, "warning", "warnings")),
    };
    screen.line(format!("good: {what}{warnings}"))?;
    Ok(Exit::Done)
}

fn next(context: &Context, policy: &Policy, number: usize, from: Timestamp) -> Result<Exit> {
    let screen = &context.screen;
    let zone = policy.zone.iana_name().unwrap_or("UTC");
    let mut list: Vec<Value> = Vec::new();
    let mut table = Table::new(&["UTC", "Local", "Named", "Trigger"]);
    for occurrence in policy.schedule.occurrences(&policy.zone, from).take(number) {
        let local = occurrence.at.to_zoned(policy.zone.clone());
        let trigger = policy.schedule.triggers()[occurrence.trigger].to_string();
        if screen.json {
            list.push(json!({
                "at": occurrence.at.to_string(),
                "local": local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
                "zone": zone,
                "nominal": occurrence.nominal,
                "trigger": trigger,
            }));
        } else {
            // What was named differs from what will be where the clock jumps.
            let shown = local.strftime("%Y-%m-%dT%H:%M:%S").to_string();
            let named = if occurrence.nominal.starts_with(&shown) { String::new() } else { occurrence.nominal };
            table.row(vec![
                occurrence.at.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
                local.strftime("%a %Y-%m-%d %H:%M:%S %:z").to_string(),
                named,
                trigger,
            ]);
        }
    }
    if screen.json {
        screen.document(&Value::Array(list))?;
        return Ok(Exit::Done);
    }
    table.drop_empty_columns();
    for line in table.lines(super::screen::output_width()) {
        screen.line(line)?;
    }
    screen.flush()?;
    screen.say(format!("in {zone}"));
    Ok(Exit::Done)
}

fn show(context: &Context, config: &Config, policy: &Policy) -> Result<Exit> {
    let screen = &context.screen;
    let repository = config.repositories.get(&policy.repository);
    let url = repository.map(|repository| repository.url.as_str());
    let key = |pick: fn(&RepositoryConfig) -> Option<String>| repository.and_then(pick);
    let texts = |paths: &[PathBuf]| -> Vec<String> { paths.iter().map(|path| path.display().to_string()).collect() };
    let source = &policy.source;
    let zone = policy.zone.iana_name().unwrap_or("UTC");
    let triggers: Vec<String> = policy.schedule.triggers().iter().map(ToString::to_string).collect();
    let value = json!({
        "policy": policy.name,
        "source": {
            "paths": texts(&source.paths),
            "exclude": source.exclude,
            "exclude_files": texts(&source.exclude_files),
            "exclude_caches": source.exclude_caches,
            "one_file_system": source.one_file_system,
            "ignore_inode": source.ignore_inode,
        },
        "repository": {
            "name": policy.repository.as_str(),
            "url": url,
            "key": key(|r| Some(r.key.to_string())),
            "read_key": key(|r| r.read_key.as_ref().map(ToString::to_string)),
            "admin_key": key(|r| r.admin_key.as_ref().map(ToString::to_string)),
        },
        "schedule": triggers,
        "zone": zone,
        "keep": policy.keep.to_string(),
        "tags": policy.tags,
        "accept_partial": policy.accept_partial,
        "allow_unreadable": policy.allow_unreadable,
        "compression": policy.compression.to_string(),
        "drill": { "files": policy.drill.files },
    });
    if screen.json {
        screen.document(&value)?;
        return Ok(Exit::Done);
    }
    let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
    let list = |items: &[String]| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
    let rows = [
        ("policy", policy.name.to_string()),
        ("paths", list(&texts(&source.paths))),
        ("exclude", list(&source.exclude)),
        ("exclude_files", list(&texts(&source.exclude_files))),
        ("exclude_caches", yes(source.exclude_caches)),
        ("one_file_system", yes(source.one_file_system)),
        ("ignore_inode", yes(source.ignore_inode)),
        (
            "repository",
            match url {
                Some(url) if url != policy.repository.as_str() => format!("{} at {url}", policy.repository),
                _ => policy.repository.to_string(),
            },
        ),
        ("key", key(|r| Some(r.key.to_string())).unwrap_or_default()),
        ("schedule", list(&triggers)),
        ("zone", zone.to_owned()),
        (
            "keep",
            format!("{} (the daemon forgets nothing by it yet; `lifeboat forget` takes its own rules)", policy.keep),
        ),
        ("tags", list(&policy.tags)),
        ("accept_partial", yes(policy.accept_partial)),
        ("allow_unreadable", list(&policy.allow_unreadable)),
        ("compression", policy.compression.to_string()),
        ("drill.files", policy.drill.files.to_string()),
    ];
    for (name, value) in rows {
        screen.line(format!("{name:<16} {value}"))?;
    }
    Ok(Exit::Done)
}
