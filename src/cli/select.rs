//! Which snapshots are meant.
//!
//! Owns the flags that narrow `latest` and listings. Refuses to choose: `repository` does.

use clap::Args;

use super::failure::{Failure, Result};
use super::place;
use crate::names::WriterId;
use crate::repository::{Error as RepositoryError, Repository, Selection};

#[derive(Args, Default)]
pub struct Filter {
    /// Only snapshots of this policy
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// Only snapshots of this writer: its name, its id, or the beginning of its id
    #[arg(long, value_name = "WRITER")]
    writer: Option<String>,
    /// Only snapshots of this host, as it called itself
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Only snapshots in which this path was saved
    #[arg(long, value_name = "PATH")]
    path: Option<std::ffi::OsString>,
    /// Only snapshots with this tag; all of them if given again
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
}

/// `Filter` for commands that work on one snapshot.
#[derive(Args, Default)]
pub struct Latest {
    #[command(flatten)]
    pub filter: Filter,
    /// Take the newest readable snapshot even if an unreadable one may be newer
    #[arg(long)]
    skip_unreadable: bool,
}

impl Filter {
    pub fn is_empty(&self) -> bool {
        self.policy.is_none()
            && self.writer.is_none()
            && self.host.is_none()
            && self.path.is_none()
            && self.tag.is_empty()
    }

    pub fn selection(&self, repository: &Repository) -> Result<Selection> {
        Ok(Selection {
            policy: self.policy.clone(),
            writer: self.writer.as_deref().map(|text| writer(repository, text)).transpose()?,
            host: self.host.clone(),
            path: self.path.as_deref().map(place::absolute).transpose()?,
            tags: self.tag.clone(),
            skip_unreadable: false,
        })
    }
}

impl Latest {
    /// For a command that names several: the filter narrows each `latest` among them.
    pub fn of_several(&self, repository: &Repository, names: &[&str]) -> Result<Selection> {
        let name = if names.contains(&"latest") { "latest" } else { names.first().copied().unwrap_or("latest") };
        self.selection(repository, name)
    }

    /// Refuses to narrow what an id names already.
    pub fn selection(&self, repository: &Repository, snapshot: &str) -> Result<Selection> {
        if snapshot != "latest" && !self.filter.is_empty() {
            return Err(Failure::usage(
                "--policy, --writer, --host, --path and --tag narrow `latest`; an id needs none of them",
            )
            .hint("write latest, or leave them out"));
        }
        Ok(Selection { skip_unreadable: self.skip_unreadable, ..self.filter.selection(repository)? })
    }
}

fn writer(repository: &Repository, text: &str) -> Result<WriterId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    // A certificate that does not verify names nobody; its writer's snapshots are told as unreadable anyway.
    let writers: Vec<_> = repository.all_writers()?.into_iter().filter_map(std::result::Result::ok).collect();
    let mut fitting: Vec<WriterId> = writers.iter().filter(|w| w.name == text).map(|w| w.id).collect();
    if fitting.is_empty() && !text.is_empty() {
        fitting = writers.iter().map(|w| w.id).filter(|id| id.to_string().starts_with(text)).collect();
    }
    match fitting[..] {
        [id] => Ok(id),
        [] => Err(RepositoryError::NoKey { what: "writer", id: text.to_owned() }.into()),
        _ => Err(Failure::usage(format!("{text:?} fits {} writers", fitting.len()))
            .hint("`lifeboat key list` shows their ids")),
    }
}
