//! Whose restored files become, as people write it.
//!
//! Owns `USER:GROUP` and `OLD=NEW`. Names on the right are this machine's, and are looked up here, once: a name that nobody bears is a
//! mistake, and not a file with a strange owner.

use std::ffi::OsStr;

use clap::Args;

use super::exit::Exit;
use super::failure::{Failure, Result};
use crate::target::{OwnerMap, Whose};

#[derive(Args)]
pub struct Owners {
    /// Find owners by their names on this machine, and not by their numbers
    #[arg(long)]
    owner_by_name: bool,
    /// Give everything to this owner of this machine; `USER` or `:GROUP` alone leave the other
    #[arg(long, value_name = "USER:GROUP")]
    target_owner: Option<String>,
    /// Give what was OLD's to NEW; `:OLD=:NEW` for groups. Names or numbers; wins over --target-owner
    #[arg(long, value_name = "OLD=NEW")]
    map_owner: Vec<String>,
}

impl Owners {
    /// Whether anything was asked about owners.
    pub fn any(&self) -> bool {
        self.owner_by_name || self.target_owner.is_some() || !self.map_owner.is_empty()
    }

    pub fn by_name(&self) -> bool {
        self.owner_by_name
    }

    /// What was asked for; `privileged` says whether owners can be set at all.
    pub fn map(&self, privileged: bool) -> Result<OwnerMap> {
        let mut map = OwnerMap::default();
        if let Some(text) = &self.target_owner {
            let (user, group) = text.split_once(':').unwrap_or((text, ""));
            if user.is_empty() && group.is_empty() {
                return Err(Failure::usage(format!("--target-owner {text:?} names nobody"))
                    .hint("write USER, USER:GROUP or :GROUP"));
            }
            map.user = (!user.is_empty()).then(|| number(Sort::User, user)).transpose()?;
            map.group = (!group.is_empty()).then(|| number(Sort::Group, group)).transpose()?;
        }
        for text in &self.map_owner {
            let wrong = || {
                Failure::usage(format!("--map-owner {text:?} is no pair"))
                    .hint("write OLD=NEW for a user and :OLD=:NEW for a group, such as ann=bob or :1000=:staff")
            };
            let (old, new) = text.split_once('=').ok_or_else(wrong)?;
            let (sort, old, new) = match (old.strip_prefix(':'), new.strip_prefix(':')) {
                (Some(old), Some(new)) => (Sort::Group, old, new),
                (None, None) => (Sort::User, old, new),
                _ => return Err(wrong()),
            };
            if old.is_empty() || new.is_empty() || old.contains(':') || new.contains(':') {
                return Err(wrong());
            }
            let whose = match old.parse() {
                Ok(number) => Whose::Number(number),
                Err(_) => Whose::Name(old.as_bytes().to_vec()),
            };
            let pairs = if sort == Sort::User { &mut map.users } else { &mut map.groups };
            pairs.push((whose, number(sort, new)?));
        }
        if !map.is_empty() && !privileged {
            let sentence = "owners can be set by root only, and without --unprivileged";
            return Err(Failure::new(Exit::Denied, sentence)
                .hint("run it as root, or leave out --target-owner and --map-owner: all files become yours"));
        }
        Ok(map)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    User,
    Group,
}

/// A number, or a name of this machine.
fn number(sort: Sort, text: &str) -> Result<u32> {
    let (word, found) = match sort {
        Sort::User => ("user", uzers::get_user_by_name(OsStr::new(text)).map(|user| user.uid())),
        Sort::Group => ("group", uzers::get_group_by_name(OsStr::new(text)).map(|group| group.gid())),
    };
    // The last number means "leave it" to the kernel.
    let number = found.or_else(|| text.parse().ok()).filter(|number| *number != u32::MAX);
    number.ok_or_else(|| {
        Failure::usage(format!("this machine has no {word} {text:?}"))
            .hint(format!("make the {word} first, or give a number"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(target: Option<&str>, pairs: &[&str]) -> Result<OwnerMap> {
        let pairs = pairs.iter().map(|pair| pair.to_string()).collect();
        Owners { owner_by_name: false, target_owner: target.map(str::to_owned), map_owner: pairs }.map(true)
    }

    #[test]
    fn owners_are_names_or_numbers_of_this_machine() {
        let all = map(Some("root:7"), &["ann=0", ":1000=:root"]).unwrap();
        assert_eq!((all.user, all.group), (Some(0), Some(7)));
        assert_eq!(all.users, [(Whose::Name(b"ann".to_vec()), 0)]);
        assert_eq!(all.groups, [(Whose::Number(1000), 0)]);
        assert_eq!(map(Some(":5"), &[]).unwrap().user, None);
        assert_eq!(map(Some("5"), &[]).unwrap().group, None);
    }

    #[test]
    fn what_is_no_owner_is_refused() {
        for target in ["", ":", "no such user:0", "4294967295"] {
            assert!(map(Some(target), &[]).is_err(), "{target}");
        }
        for pair in ["ann", "ann=", "=bob", ":a=b", "a=:b", "a:b=c", "a=b:c"] {
            assert!(map(None, &[pair]).is_err(), "{pair}");
        }
    }
}
