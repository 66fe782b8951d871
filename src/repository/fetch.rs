//! Index runs on their way into this process: whose they are, and that their writer signed every byte.
//!
//! Owns the proof. Segments that the admin made of several writers' runs say for which group they are. A run's signature covers all of it, and its blocks are sealed one by one under the group's key, which every writer of the group holds: so
//! the signature is what tells one writer's run from another's forgery, and it must be checked over the whole run before one block of it is believed.
//! Where this host keeps copies, that happens once: nothing but a run that was verified is ever kept under a run's name, by whoever fetched it (here, and
//! `verify`) or made it (deltas and segments of this host), in a directory that only this user can write to. A copy under that name is therefore believed
//! block by block. One that was torn or bent since does not open: it is dropped, and the store is asked.
//! A store that is near needs no copies: a run there is proven where it lies, and `proofs` remembers it, until the file is written to or replaced.
//!
//! Memory: far away, a run up to `WHOLE_BYTES` passes whole, and a larger one in pieces, through the copy that it becomes; near, one beyond `KEEP_BYTES` in pieces.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Error, Repository, Result, each};
use crate::names::{GroupId, ObjectKey};
use crate::pack::keys;
use crate::pack::run::RunName;
use crate::seal::object::{
    Envelope, HEADER_BYTES, Header, ObjectError, ObjectKind, SegmentOpener, SignedBy, TRAILER_BYTES,
};
use crate::seal::sign::{Message, PublicKey, SIGNATURE_BYTES};
use crate::store::copies::{Copies, Copy};

/// Objects up to this size stay in memory, sealed, once they were verified.
const KEEP_BYTES: usize = 128 << 10;
/// Where each block would take a round trip, and no copy can be kept, runs stay in memory up to this sum: 1.4 million chunks.
const ROOM_BYTES: usize = 64 << 20;
const WHOLE_BYTES: u64 = 8 << 20;
const PIECE_BYTES: u64 = 4 << 20;
/// Pieces of one run that are under way at once.
const PIECES: usize = 4;

/// What this process has of a run.
pub(super) enum Held {
    Bytes(Vec<u8>),
    Copy(Copy),
    /// Each block comes from the store.
    Nothing,
}

/// Memory for runs of which no copy can be kept.
#[derive(Default)]
pub(super) struct Room(AtomicUsize);

pub(super) struct Fetched {
    pub size: u64,
    pub by: SignedBy,
    pub group: GroupId,
    pub opener: SegmentOpener,
    pub held: Held,
}

/// Fetches a run, and proves it; none if this key has no key for its group. `size` is what a listing says.
pub(super) fn run(repository: &Repository, name: RunName, size: Option<u64>, room: &Room) -> Result<Option<Fetched>> {
    let writer = repository.writer(name.session.writer())?;
    let wanted = Wanted { repository, name, key: keys::run(name), signer: writer.signing };
    let fetched = |size: u64, (header, by): Proven, held| -> Result<Option<Fetched>> {
        let of = if let SignedBy::AdminFor(group) = by { group } else { writer.group };
        let Some(group) = repository.access.group(of) else { return Ok(None) };
        let opener = header.opener(&wanted.key, &group.index_key()).map_err(|cause| wanted.damaged(cause))?;
        Ok(Some(Fetched { size, by, group: group.id, opener, held }))
    };
    // Of another group's runs those may be for this key that the admin made, and they are segments.
    if repository.access.group(writer.group).is_none() {
        let Some(size) = size.filter(|_| name.epoch.is_none()) else { return Ok(None) };
        let trailer = repository.store.get_range(&wanted.key, size.saturating_sub(TRAILER_BYTES as u64)..size)?;
        if !matches!(SignedBy::of_trailer(&trailer), Ok(SignedBy::AdminFor(group)) if repository.access.group(group).is_some())
        {
            return Ok(None);
        }
    }
    let copies = repository.store.copies();
    if let Some(copies) = copies {
        if let Some(copy) = copies.open(&wanted.key) {
            match wanted.ends(copy.size(), |range| Ok(copy.read(range).unwrap_or_default())) {
                Ok(ends) => return fetched(copy.size(), ends, Held::Copy(copy)),
                Err(_) => _ = copies.forget(&wanted.key),
            }
        }
        if let Some(size) = size.filter(|size| *size > WHOLE_BYTES)
            && let Some((ends, copy)) = wanted.in_pieces(copies, size)?
        {
            return fetched(size, ends, Held::Copy(copy));
        }
    }
    if let Some(size) = size.filter(|size| *size > KEEP_BYTES as u64)
        && copies.is_none()
        && !repository.store.is_remote()
    {
        return fetched(size, wanted.in_place(size)?, Held::Nothing);
    }
    let proved = |bytes: Vec<u8>| wanted.prove(&bytes).map(|ends| (ends, bytes));
    let (ends, bytes) = match repository.ahead.bytes(&wanted.key).map(proved) {
        Some(Ok(proved)) => proved,
        _ => proved(repository.store.get(&wanted.key)?)?,
    };
    if let Some(copies) = copies {
        keep(copies, &wanted.key, &bytes);
    }
    let size = bytes.len() as u64;
    let held = if bytes.len() <= KEEP_BYTES {
        Held::Bytes(bytes)
    } else if let Some(copy) = copies.and_then(|copies| copies.open(&wanted.key)) {
        Held::Copy(copy)
    } else if repository.store.is_remote() && room.0.fetch_add(bytes.len(), Ordering::Relaxed) < ROOM_BYTES {
        Held::Bytes(bytes)
    } else {
        Held::Nothing
    };
    fetched(size, ends, held)
}

fn keep(copies: &Copies, key: &ObjectKey, verified: &[u8]) {
    if let Some(mut copy) = copies.begin() {
        copy.append(verified);
        copy.keep(key);
    }
}

/// A run's header, and who signed it.
type Proven = (Header, SignedBy);

struct Wanted<'a> {
    repository: &'a Repository,
    name: RunName,
    key: ObjectKey,
    signer: PublicKey,
}

impl Wanted<'_> {
    fn damaged(&self, cause: ObjectError) -> Error {
        Error::Damaged { key: self.key.clone(), cause }
    }

    /// The header of a run of this name.
    fn header(&self, bytes: &[u8]) -> Result<Header> {
        let header = Header::parse(bytes, self.repository.id).map_err(|cause| self.damaged(cause))?;
        let kind = if self.name.epoch.is_some() { ObjectKind::Delta } else { ObjectKind::Segment };
        if header.kind == kind { Ok(header) } else { Err(self.damaged(ObjectError::Kind(header.kind as u8))) }
    }

    /// Who may have signed it, and whose signature that would be.
    fn signer(&self, by: SignedBy) -> Result<PublicKey> {
        match by {
            SignedBy::Writer(writer) if writer == self.name.session.writer() => Ok(self.signer),
            SignedBy::AdminFor(_) if self.name.epoch.is_none() => Ok(self.repository.access.admin_public),
            _ => Err(self.damaged(ObjectError::Signature)),
        }
    }

    /// Beginning and end of a run that was proven before.
    fn ends(&self, size: u64, read: impl Fn(std::ops::Range<u64>) -> Result<Vec<u8>>) -> Result<Proven> {
        let header = self.header(&read(0..HEADER_BYTES as u64)?)?;
        let trailer = read(size.saturating_sub(TRAILER_BYTES as u64)..size)?;
        let by = SignedBy::of_trailer(&trailer).map_err(|cause| self.damaged(cause))?;
        Ok((header, by))
    }

    /// Checks all of a run.
    fn prove(&self, bytes: &[u8]) -> Result<Proven> {
        let envelope = Envelope::parse(bytes, &self.key, self.repository.id).map_err(|cause| self.damaged(cause))?;
        let header = self.header(bytes)?;
        envelope.verify(self.signer(envelope.signed_by)?).map_err(|cause| self.damaged(cause))?;
        Ok((header, envelope.signed_by))
    }

    /// Fetches a large run into a copy, and checks it there before it is kept; none if no copy can be kept.
    fn in_pieces(&self, copies: &Copies, size: u64) -> Result<Option<(Proven, Copy)>> {
        let Some(mut new) = copies.begin() else { return Ok(None) };
        let starts: Vec<u64> = (0..size).step_by(PIECE_BYTES as usize).collect();
        let bring = |start: &u64| -> Result<bool> {
            let bytes = self.repository.store.get_range(&self.key, *start..(start + PIECE_BYTES).min(size))?;
            Ok(new.write_at(*start, &bytes))
        };
        for written in each(PIECES, &starts, bring) {
            if !written? {
                return Ok(None);
            }
        }
        let mut torn = false;
        let proven = self.prove_pieces(size, |range| {
            let piece = new.read(range);
            torn |= piece.is_err();
            Ok(piece.unwrap_or_default())
        });
        if torn {
            return Ok(None);
        }
        let proven = proven?;
        new.ends_at(size);
        new.keep(&self.key);
        Ok(copies.open(&self.key).map(|copy| (proven, copy)))
    }

    /// Checks a large run where it lies, unless that was done before and nobody has written to it since.
    fn in_place(&self, size: u64) -> Result<Proven> {
        let store = &self.repository.store;
        let stamp = store.stamp(&self.key)?;
        let fact =
            self.repository.proofs.as_ref().zip(stamp).map(|(proofs, stamp)| (proofs, proofs.of_run(&self.key, stamp)));
        if fact.as_ref().is_some_and(|(proofs, fact)| proofs.recall(fact).is_some()) {
            return self.ends(size, |range| Ok(store.get_range(&self.key, range)?));
        }
        let proven = self.prove_pieces(size, |range| Ok(store.get_range(&self.key, range)?))?;
        if let Some((proofs, fact)) = fact
            && store.stamp(&self.key)? == stamp
        {
            proofs.note(&fact, None);
        }
        Ok(proven)
    }

    /// Checks all of a run that `read` brings piece by piece.
    fn prove_pieces(&self, size: u64, mut read: impl FnMut(std::ops::Range<u64>) -> Result<Vec<u8>>) -> Result<Proven> {
        let mut message = Message::new(self.repository.id, &self.key);
        let signed = size.checked_sub(SIGNATURE_BYTES as u64).ok_or_else(|| self.damaged(ObjectError::Short))?;
        let mut header = None;
        for start in (0..size).step_by(PIECE_BYTES as usize) {
            let piece = read(start..(start + PIECE_BYTES).min(size))?;
            if start == 0 {
                header = Some(self.header(&piece)?);
            }
            message.add(&piece[..piece.len().min(signed.saturating_sub(start) as usize)]);
        }
        let trailer = read(size.saturating_sub(TRAILER_BYTES as u64)..size)?;
        let by = SignedBy::of_trailer(&trailer).map_err(|cause| self.damaged(cause))?;
        if trailer.len() != TRAILER_BYTES || !self.signer(by)?.verifies(&message, &trailer[9..]) {
            return Err(self.damaged(ObjectError::Signature));
        }
        header.map(|header| (header, by)).ok_or_else(|| self.damaged(ObjectError::Short))
    }
}
