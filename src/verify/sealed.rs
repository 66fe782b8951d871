//! The small objects: each opened whole, with the signature of whoever may sign it.
//!
//! Owns which signer belongs to which key. Refuses what objects say of each other (`lineage`) and index runs (`runs`).

use std::collections::HashMap;

use super::Result;
use super::check::{Certified, Check, Listing};
use crate::names::{GroupId, ObjectKey, WriterId};
use crate::pack::keys::{self, Meaning};
use crate::pack::record;
use crate::seal::object::{Envelope, ObjectError, ObjectKind, SignedBy};
use crate::seal::sign::PublicKey;
use crate::seal::slot;
use crate::seal::stanza::Recipient;
use crate::store::probe;

/// Why an object is not what it should be: a sentence that goes on from its key, or a certificate that is not there to check it with.
pub enum Fault {
    Object(String),
    NoCertificate(WriterId),
}

impl From<ObjectError> for Fault {
    fn from(error: ObjectError) -> Self {
        Fault::Object(format!("does not verify: {error}"))
    }
}

fn fault<T>(what: &str) -> Result<T, Fault> {
    Err(Fault::Object(what.to_owned()))
}

/// Objects that no certificate was there for, by writer.
#[derive(Default)]
pub struct Orphans(HashMap<WriterId, u64>);

impl Orphans {
    pub fn note(&mut self, check: &Check<'_>, key: &ObjectKey, fault: Fault) {
        match fault {
            Fault::Object(what) => {
                check.findings.damage(key, what);
            }
            Fault::NoCertificate(writer) => *self.0.entry(writer).or_default() += 1,
        }
    }

    /// One finding for each writer, at its certificate.
    pub fn tell(self, check: &Check<'_>) {
        for (writer, count) in self.0 {
            check.at_risk();
            let key = keys::certificate(writer);
            let more = format!(", so {count} of its writer's objects cannot be checked");
            match check.findings.of(&key) {
                Some(number) => check.findings.extend(number, &more),
                None => {
                    check.findings.damage(&key, format!("is missing{more}"));
                }
            }
        }
    }
}

/// Checks every small object of the listing. Certificates first: they check the others.
pub fn check(check: &mut Check<'_>, listing: &Listing, orphans: &mut Orphans) -> Result<()> {
    let mut certificates = Vec::new();
    let mut others = Vec::new();
    for (key, meaning, size) in &listing.small {
        match meaning {
            Meaning::Certificate(writer) => certificates.push((key, *size, *writer)),
            Meaning::Run(_) | Meaning::Pack(..) => {}
            _ => others.push((key, *size, *meaning)),
        }
    }
    let mut certified = HashMap::new();
    let wanted: Vec<_> = certificates.iter().map(|(key, size, _)| (*key, *size)).collect();
    check.each(&wanted, |at, bytes| {
        let (key, _, writer) = certificates[at];
        match certificate(check, key, &bytes, writer) {
            Ok(found) => _ = certified.insert(writer, found),
            Err(fault) => orphans.note(check, key, fault),
        }
        Ok(())
    })?;
    check.writers.extend(certified);
    let check = &*check;
    let wanted: Vec<_> = others.iter().map(|(key, size, _)| (*key, *size)).collect();
    check.each(&wanted, |at, bytes| {
        let (key, _, meaning) = others[at];
        if let Err(fault) = object(check, key, &bytes, meaning) {
            orphans.note(check, key, fault);
        }
        Ok(())
    })
}

fn object(check: &Check<'_>, key: &ObjectKey, bytes: &[u8], meaning: Meaning) -> Result<(), Fault> {
    match meaning {
        Meaning::Config(_) => config(check, key, bytes),
        Meaning::Slot if keys::slot(bytes) != *key => fault("is damaged: its bytes are not those of its name"),
        Meaning::Slot => match slot::repository(bytes) {
            Ok(home) if home == check.repository.id => Ok(()),
            Ok(home) => fault(&format!("belongs to repository {home}")),
            Err(error) => fault(&format!("is no usable slot: {error}")),
        },
        Meaning::Probe if probe::is_whole(key, bytes) => Ok(()),
        Meaning::Probe => fault("is damaged: its hash does not fit"),
        Meaning::Revocation(writer) => {
            let body = signed(check, key, bytes, &[ObjectKind::Revocation], &[SignedBy::Admin])?.1;
            let revocation: record::Revocation = record::decode(&body)?;
            if *revocation.writer != writer.0 {
                return fault("does not verify: it revokes another writer");
            }
            if check.writers.contains_key(&writer) { Ok(()) } else { Err(Fault::NoCertificate(writer)) }
        }
        Meaning::SessionRecord(session, _) => {
            let by = SignedBy::Writer(session.writer());
            let body = signed(check, key, bytes, &[ObjectKind::Session], &[by])?.1;
            record::decode::<record::SessionRecord>(&body)?;
            Ok(())
        }
        Meaning::Commit { epoch, session } => {
            let by = SignedBy::Writer(session.writer());
            let kinds = [ObjectKind::Manifest, ObjectKind::Fence];
            let (envelope, body) = signed(check, key, bytes, &kinds, &[by, SignedBy::Admin])?;
            if envelope.header.kind == ObjectKind::Fence {
                let fence: record::Fence = record::decode(&body)?;
                return if *fence.session == session.0 {
                    Ok(())
                } else {
                    fault("fences another session than its slot's")
                };
            }
            let manifest: record::Manifest = record::decode(&body)?;
            let fits =
                *manifest.session == session.0 && *manifest.writer == session.writer().0 && manifest.epoch == epoch;
            if envelope.signed_by == by && fits { Ok(()) } else { fault("names another session than its slot's") }
        }
        Meaning::Mark(session, _) => {
            let body = signed(check, key, bytes, &[ObjectKind::Mark], &[SignedBy::Admin])?.1;
            let mark: record::Mark = record::decode(&body)?;
            let slot = mark.slot.parse().ok().and_then(|slot| keys::parse(&slot));
            match slot {
                Some(Meaning::Commit { session: of, .. }) if of == session => Ok(()),
                _ => fault("is on another snapshot than its key says"),
            }
        }
        Meaning::Certificate(_) | Meaning::Run(_) | Meaning::Pack(..) | Meaning::Epoch(_) | Meaning::Verdict(_) => {
            Ok(())
        }
    }
}

/// An object of one of `kinds`, signed by one of `signers`, opened whole with the repository key.
fn signed<'b>(
    check: &Check<'_>,
    key: &'b ObjectKey,
    bytes: &'b [u8],
    kinds: &[ObjectKind],
    signers: &[SignedBy],
) -> Result<(Envelope<'b>, Vec<u8>), Fault> {
    let envelope = Envelope::parse(bytes, key, check.repository.id)?;
    if !kinds.contains(&envelope.header.kind) {
        return Err(ObjectError::Kind(envelope.header.kind as u8).into());
    }
    if !signers.contains(&envelope.signed_by) {
        return Err(ObjectError::Signature.into());
    }
    envelope.verify(public(check, envelope.signed_by)?)?;
    let body = envelope.open(&check.repository.access.repository_key)?;
    Ok((envelope, body))
}

fn public(check: &Check<'_>, by: SignedBy) -> Result<PublicKey, Fault> {
    match by {
        SignedBy::Admin | SignedBy::AdminFor(_) => Ok(check.repository.access.admin_public),
        SignedBy::Writer(writer) => {
            check.writers.get(&writer).map(|certified| certified.signing).ok_or(Fault::NoCertificate(writer))
        }
    }
}

fn config(check: &Check<'_>, key: &ObjectKey, bytes: &[u8]) -> Result<(), Fault> {
    let body = signed(check, key, bytes, &[ObjectKind::Config], &[SignedBy::Admin])?.1;
    let config: record::Config = record::decode(&body)?;
    match Recipient::from_bytes(&config.recipient) {
        Ok(recipient) if check.repository.access.trusts(&recipient) => Ok(()),
        _ => fault("names a recipient that this key does not trust"),
    }
}

fn certificate(check: &Check<'_>, key: &ObjectKey, bytes: &[u8], writer: WriterId) -> Result<Certified, Fault> {
    let body = signed(check, key, bytes, &[ObjectKind::Certificate], &[SignedBy::Admin])?.1;
    let certificate: record::Certificate = record::decode(&body)?;
    if *certificate.writer != writer.0 {
        return fault("does not verify: it certifies another writer");
    }
    if Recipient::from_bytes(&certificate.metadata).is_err() {
        return fault("does not verify: the metadata key is no key");
    }
    Ok(Certified { signing: PublicKey(*certificate.signing), group: GroupId(*certificate.group) })
}
