//! Compares what was restored with the snapshot: every attribute that was to be set, every byte of content.
//!
//! Owns the second walk. Refuses to repair: what differs is named. What is named already, as damaged or as lost, is passed over.

use std::collections::HashSet;
use std::thread;

use crossbeam_channel::{Receiver, bounded};

use super::content::Stored;
use super::local::{self, Same};
use super::plan::Plan;
use super::report::Notes;
use super::select::Step;
use super::{Control, Error, Result, told};
use crate::names::{TreePath, escape};
use crate::pack::entry::{Entry, Kind};
use crate::target::{Attribute, Difference, Target};

/// Entries on their way to workers, about 500 bytes each.
const QUEUE: usize = 256;

pub(super) fn check(
    plan: &Plan,
    stored: &Stored<'_>,
    target: &Target,
    notes: &Notes,
    control: &Control,
    workers: usize,
) -> Result<()> {
    let damaged: HashSet<TreePath> = notes.rest().damaged.iter().map(|damaged| damaged.path.clone()).collect();
    let checker = Checker { stored, target, notes, control };
    thread::scope(|scope| {
        let (send, receive) = bounded::<Entry>(QUEUE);
        let spawned: Vec<_> = (0..workers)
            .map(|_| {
                let (checker, receive) = (&checker, receive.clone());
                scope.spawn(move || checker.work(&receive))
            })
            .collect();
        drop(receive);
        let mut walk = plan.selection.walk(stored);
        let walked = loop {
            if let Err(error) = control.go_on() {
                break Err(error);
            }
            match walk.next() {
                Ok(Step::End) => break Ok(()),
                Ok(Step::Damage { .. }) => {}
                Ok(Step::Entry(picked)) if damaged.contains(&picked.entry.path) => {}
                // Workers that all ended have an error to tell.
                Ok(Step::Entry(picked)) => match send.send(picked.entry) {
                    Ok(()) => {}
                    Err(_) => break Ok(()),
                },
                Err(error) => break Err(error.into()),
            }
        };
        drop(send);
        let ended: Vec<Result<()>> =
            spawned.into_iter().map(|worker| worker.join().unwrap_or(Err(Error::Worker))).collect();
        walked.and(ended.into_iter().collect())
    })
}

struct Checker<'a, 's> {
    stored: &'a Stored<'s>,
    target: &'a Target,
    notes: &'a Notes,
    control: &'a Control,
}

impl Checker<'_, '_> {
    fn work(&self, entries: &Receiver<Entry>) -> Result<()> {
        let mut buffer = Vec::new();
        for entry in entries {
            self.entry(&entry, &mut buffer)?;
        }
        Ok(())
    }

    fn entry(&self, entry: &Entry, buffer: &mut Vec<u8>) -> Result<()> {
        let path = &entry.path;
        if self.notes.is_lost_entry(path) {
            return Ok(());
        }
        match self.target.differences(path, entry) {
            Ok(differences) => {
                let unnamed = |difference: &&Difference| {
                    !attribute(difference).is_some_and(|what| self.notes.is_lost(path, &what))
                };
                differences.iter().filter(unnamed).for_each(|difference| {
                    self.notes.difference(sentence(path, difference));
                });
                if differences.iter().any(|d| matches!(d, Difference::Missing | Difference::Kind { .. })) {
                    return Ok(());
                }
            }
            Err(error) => self.notes.difference(told(&error)),
        }
        let Kind::File { size, content, .. } = &entry.kind else { return Ok(()) };
        let file = match self.target.open_file(path) {
            Ok(file) => file,
            Err(error) => {
                self.notes.difference(told(&error));
                return Ok(());
            }
        };
        match local::compare(self.stored, self.stored.ids(), content, *size, &file, self.control, buffer) {
            Ok(Same::Yes) => {}
            Ok(Same::No { at }) => {
                self.notes.difference(format!("{path}: its content differs from byte {at} on"));
            }
            Ok(Same::Unknown) => self.notes.difference(format!("{path}: its list of chunks cannot be read")),
            Err(Error::Target(error)) => self.notes.difference(told(&error)),
            Err(error) => return Err(error),
        }
        self.notes.rest().verified_files += 1;
        Ok(())
    }
}

/// What a restore would have named, had it been unable to set it.
fn attribute(difference: &Difference) -> Option<Attribute> {
    match difference {
        Difference::Mode { .. } => Some(Attribute::Mode),
        Difference::Owner { .. } => Some(Attribute::Owner),
        Difference::Mtime { .. } => Some(Attribute::Times),
        Difference::Xattr { name } => Some(Attribute::Xattr(name.clone())),
        Difference::Missing
        | Difference::Kind { .. }
        | Difference::Size { .. }
        | Difference::Link { .. }
        | Difference::Device { .. } => None,
    }
}

fn sentence(path: &TreePath, difference: &Difference) -> String {
    match difference {
        Difference::Missing => format!("{path} is missing"),
        Difference::Kind { wanted, found } => format!("{path} should be a {wanted:?} and is a {found:?}"),
        Difference::Size { wanted, found } => format!("{path} should have {wanted} bytes and has {found}"),
        Difference::Mode { wanted, found } => format!("{path} should have mode {wanted:o} and has {found:o}"),
        Difference::Owner { wanted, found } => {
            format!("{path} should belong to {}:{} and belongs to {}:{}", wanted.0, wanted.1, found.0, found.1)
        }
        Difference::Mtime { .. } => format!("{path}: its modification time differs"),
        Difference::Link { wanted, found } => {
            format!("{path} should lead to {} and leads to {}", escape(wanted), escape(found))
        }
        Difference::Device { .. } => format!("{path}: its device numbers differ"),
        Difference::Xattr { name } => format!("{path}: its extended attribute {} differs", escape(name)),
    }
}
