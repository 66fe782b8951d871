//! Index runs: every one read whole, replaced ones too.
//!
//! Owns the signature over a run of any length, and what runs and stored packs say of each other. Memory: one piece of 4 MiB, whatever the run's size (eight far away), beside the
//! index itself (`repository::Index`), and 4 bytes for each frame of the run that is being counted and for each pack.

use std::sync::atomic::Ordering;

use super::Result;
use super::check::{Check, Listing};
use super::sealed::{Fault, Orphans};
use crate::names::ObjectKey;
use crate::pack::container::PackKind;
use crate::pack::keys::{self, Meaning};
use crate::pack::run::{PackRow, RunError, RunName};
use crate::repository::{Error as RepositoryError, Index, Scope, Snapshots, each};
use crate::seal::cipher::{SEGMENT_BYTES, TAG_BYTES};
use crate::seal::key::GroupKeys;
use crate::seal::object::{HEADER_BYTES, Header, ObjectError, ObjectKind, SignedBy, TRAILER_BYTES, segment_range};
use crate::seal::sign::{Message, SIGNATURE_BYTES};

const STORED_SEGMENT_BYTES: u64 = (SEGMENT_BYTES + TAG_BYTES) as u64;
/// Segments read at once: just below 4 MiB.
const PIECE_BYTES: u64 = 1019 * STORED_SEGMENT_BYTES;

/// Runs read at once where each read takes a round trip: 32 MiB.
const RUNS_AT_ONCE: usize = 8;

/// Checks signature and seal of every run. Returns how many could not be opened because they belong to a group that this key has no part in.
pub fn check(check: &Check<'_>, listing: &Listing, orphans: &mut Orphans) -> Result<u64> {
    let mut closed = 0;
    let run = |object: &(ObjectKey, Meaning, u64)| match object {
        (key, Meaning::Run(name), size) => Some((key.clone(), *name, *size)),
        _ => None,
    };
    let all: Vec<(ObjectKey, RunName, u64)> = listing.small.iter().filter_map(run).collect();
    let at_once = if check.repository.store.is_remote() { RUNS_AT_ONCE } else { 1 };
    let read = each(at_once, &all, |(key, name, size)| {
        let read = whole(check, key, *name, *size)?;
        let bent = || check.repository.store.copies().is_some_and(|copies| copies.forget(key));
        // It may be the copy on this host that is bad.
        if read.is_err() && bent() { whole(check, key, *name, *size) } else { Ok(read) }
    });
    for ((key, ..), outcome) in all.iter().zip(read) {
        match outcome? {
            Ok(opened) => closed += u64::from(!opened),
            Err(fault) => {
                check.at_risk();
                orphans.note(check, key, fault);
            }
        }
    }
    Ok(closed)
}

/// One run. What verifies is kept as this host's copy, so that the index, which is loaded next, does not fetch it again. True: its segments were opened; false: only its signature could be checked.
fn whole(check: &Check<'_>, key: &ObjectKey, name: RunName, size: u64) -> Result<Result<bool, Fault>> {
    let writer = name.session.writer();
    let Some(certified) = check.writers.get(&writer) else { return Ok(Err(Fault::NoCertificate(writer))) };
    let group = check.repository.access.group(certified.group);
    let Some((_, segments)) = segment_range(size, 0) else { return Ok(Err(ObjectError::Short.into())) };
    let body_end = size - TRAILER_BYTES as u64;
    let mut message = Message::new(check.repository.id, key);
    let (mut at, mut number, mut opener) = (0u64, 0u64, None);
    let mut trailer = Vec::new();
    let mut copy = check.repository.store.copies().filter(|copies| !copies.has(key)).and_then(|copies| copies.begin());
    // A segment that does not open is told after the signature, which says more.
    let mut sound = true;
    while at < size {
        let mut end = if at == 0 { HEADER_BYTES as u64 + PIECE_BYTES } else { at + PIECE_BYTES };
        if end >= body_end {
            end = size;
        }
        let Some(mut piece) = check.get_range(key, at..end)? else { return Ok(Ok(group.is_some())) };
        let signed = piece.len() - if end == size { SIGNATURE_BYTES } else { 0 };
        message.add(&piece[..signed]);
        if let Some(copy) = &mut copy {
            copy.append(&piece);
        }
        let mut start = 0;
        if at == 0 {
            let header = match Header::parse(&piece, check.repository.id) {
                Ok(header) => header,
                Err(error) => return Ok(Err(error.into())),
            };
            let kind = if name.epoch.is_some() { ObjectKind::Delta } else { ObjectKind::Segment };
            if header.kind != kind {
                return Ok(Err(ObjectError::Kind(header.kind as u8).into()));
            }
            opener = match group.as_ref().map(|group| header.opener(key, &group.index_key())).transpose() {
                Ok(Some(opener)) => Some(opener),
                // The admin may have made a segment for another group than its own.
                other => match (other, admins_group(check, key, name, size)?) {
                    (_, Some(group)) => match header.opener(key, &group.index_key()) {
                        Ok(opener) => Some(opener),
                        Err(error) => return Ok(Err(error.into())),
                    },
                    (Err(error), None) => return Ok(Err(error.into())),
                    (Ok(_), None) => None,
                },
            };
            start = HEADER_BYTES;
        }
        if end == size {
            trailer = piece.split_off(piece.len() - TRAILER_BYTES);
        }
        for segment in piece[start..].chunks_mut(STORED_SEGMENT_BYTES as usize) {
            if let Some(opener) = &opener {
                sound &= opener.open(number, segments, segment).is_ok();
            }
            number += 1;
        }
        at = end;
    }
    let signer = match SignedBy::of_trailer(&trailer) {
        Ok(SignedBy::AdminFor(_)) if name.epoch.is_none() => check.repository.access.admin_public,
        Ok(SignedBy::Writer(by)) if by == writer => certified.signing,
        _ => return Ok(Err(ObjectError::Signature.into())),
    };
    if !signer.verifies(&message, &trailer[9..]) {
        return Ok(Err(ObjectError::Signature.into()));
    }
    if sound && let Some(copy) = copy {
        copy.keep(key);
    }
    Ok(if sound { Ok(opener.is_some()) } else { Err(ObjectError::Damaged.into()) })
}

/// The group that a segment of the admin's is for, if this key has part in it.
fn admins_group(check: &Check<'_>, key: &ObjectKey, name: RunName, size: u64) -> Result<Option<GroupKeys>> {
    if name.epoch.is_some() {
        return Ok(None);
    }
    let Some(trailer) = check.get_range(key, size.saturating_sub(TRAILER_BYTES as u64)..size)? else { return Ok(None) };
    Ok(match SignedBy::of_trailer(&trailer) {
        Ok(SignedBy::AdminFor(group)) => check.repository.access.group(group),
        _ => None,
    })
}

/// The index as readers use it. What it refuses is noted.
pub fn load(check: &Check<'_>, listing: &Listing, snapshots: &Snapshots) -> Result<Index> {
    let mut refused = Vec::new();
    let mut index = Index::load(check.repository, Scope::Read, &mut |error| refused.push(error))?;
    // What lies only where a prune deleted it leads to nothing, although the index names it.
    let is_there = |pack: &PackRow| listing.pack(pack.id, pack.kind).is_some();
    index.hide(|pack| snapshots.view.is_deleted(&pack.id) && !is_there(pack))?;
    for error in refused {
        let here = match &error {
            RepositoryError::Store(error) => error.key.parse().unwrap_or_else(|_| keys::config(0)),
            _ => keys::config(0),
        };
        // A run that was removed meanwhile was replaced by one that the index holds.
        if !matches!(&error, RepositoryError::Store(error) if error.is_not_found()) {
            check.absorb(error, PackKind::Metadata, &here)?;
        }
    }
    Ok(index)
}

/// What the index says of the packs in the listing.
pub struct Known {
    /// By place in the listing: whether any run names the pack.
    pub named: Vec<bool>,
    pub unreferenced_packs: u64,
    pub unreferenced_bytes: u64,
}

/// Compares every pack that a run names with what is stored.
pub fn against_listing(check: &Check<'_>, listing: &Listing, index: &Index) -> Result<Known> {
    let mut named = vec![false; listing.packs.len()];
    for run in index.runs() {
        check.go_on()?;
        for pack in run.packs() {
            let key = keys::pack(pack.kind, pack.id);
            let size = match listing.pack(pack.id, pack.kind) {
                Some(at) => {
                    named[at] = true;
                    Some(listing.packs[at].size)
                }
                // A backup that runs meanwhile may have stored it after the listing.
                None => check.repository.store.size(&key).map_err(RepositoryError::from)?,
            };
            let what = match size {
                Some(size) if size == pack.size => continue,
                Some(size) => format!("is {size} bytes long, and the index says {}", pack.size),
                None if check.deleted.explains(check.repository, &key)? => continue,
                None => "is missing".to_owned(),
            };
            check.findings.damage(&key, what);
            suspect(check, pack.kind, pack.id);
        }
    }
    let strays = || listing.packs.iter().zip(&named).filter(|(_, named)| !**named).map(|(pack, _)| pack.size);
    let (unreferenced_packs, unreferenced_bytes) = (strays().count() as u64, strays().sum());
    Ok(Known { named, unreferenced_packs, unreferenced_bytes })
}

/// Marks a pack whose content may be lost.
pub fn suspect(check: &Check<'_>, kind: PackKind, pack: crate::names::PackId) {
    check.at_risk();
    if kind == PackKind::Data {
        check.suspects.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(pack);
    }
}

/// How many entries of all runs lie in each pack of the listing. None: the index is damaged, so that numbers would mean nothing.
pub fn entries_by_pack(check: &Check<'_>, listing: &Listing, index: &Index) -> Result<Option<Vec<u32>>> {
    let mut counts = vec![0u32; listing.packs.len()];
    let mut sound = true;
    for run in index.runs() {
        let places: Vec<Option<usize>> = run.packs().iter().map(|pack| listing.pack(pack.id, pack.kind)).collect();
        let mut pack_of_frame = Vec::new();
        let mut count = || -> std::result::Result<bool, RunError<RepositoryError>> {
            run.each_frame(|frame| pack_of_frame.push(frame.pack))?;
            let mut sensible = true;
            for (at, entry) in run.iter().enumerate() {
                let entry = entry?;
                match pack_of_frame.get(entry.frame as usize).and_then(|pack| places.get(*pack as usize)) {
                    Some(Some(place)) => counts[*place] = counts[*place].saturating_add(1),
                    // Missing; that was told.
                    Some(None) => {}
                    None => sensible = false,
                }
                if at.is_multiple_of(1 << 16) && check.control.cancel.load(Ordering::Relaxed) {
                    break;
                }
            }
            Ok(sensible)
        };
        let key = keys::run(run.source().name);
        match count() {
            Ok(true) => {}
            Ok(false) => {
                sound = false;
                check.at_risk();
                check.findings.damage(&key, "makes no sense: an entry names no pack");
            }
            Err(error) => {
                sound = false;
                let error = match error {
                    RunError::Read(error) => error,
                    RunError::Malformed(cause) => RepositoryError::Index { key: key.clone(), cause },
                };
                check.absorb(error, PackKind::Metadata, &key)?;
            }
        }
        check.go_on()?;
    }
    Ok(sound.then_some(counts))
}
