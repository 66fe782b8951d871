//! Writers: their certificates, and what became of them.
//!
//! Owns reading of certificates and revocations, each once. A certificate counts only with the admin's signature.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Error, Repository, Result, each};
use crate::names::{GroupId, WriterId};
use crate::pack::{keys, record};
use crate::seal::object::{ObjectError, ObjectKind, SignedBy};
use crate::seal::sign::PublicKey;
use crate::seal::stanza::Recipient;

/// A certified writer.
pub struct Writer {
    pub id: WriterId,
    pub group: GroupId,
    pub group_name: Option<String>,
    pub name: String,
    pub signing: PublicKey,
    pub metadata: Recipient,
    pub created: record::Time,
}

/// Writers that were read so far.
#[derive(Default)]
pub struct Writers(Mutex<HashMap<WriterId, Arc<Writer>>>);

impl Repository {
    /// The certified writer, from its certificate.
    pub fn writer(&self, id: WriterId) -> Result<Arc<Writer>> {
        if let Some(writer) = self.writers.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(writer.clone());
        }
        let key = keys::certificate(id);
        let damaged = |cause| Error::Damaged { key: key.clone(), cause };
        let body = match self.read(&key, |bytes| self.open_admins(ObjectKind::Certificate, &key, bytes)) {
            Err(Error::Store(error)) if error.is_not_found() => return Err(Error::NoCertificate { writer: id }),
            body => body?,
        };
        let certificate: record::Certificate = record::decode(&body).map_err(damaged)?;
        if certificate.writer.as_slice() != id.0 {
            return Err(damaged(ObjectError::Body("it certifies another writer".into())));
        }
        let metadata = Recipient::from_bytes(&certificate.metadata)
            .map_err(|_| damaged(ObjectError::Body("the metadata key is no key".into())))?;
        let writer = Arc::new(Writer {
            id,
            group: GroupId(*certificate.group),
            group_name: certificate.group_name,
            name: certificate.name,
            signing: PublicKey(*certificate.signing),
            metadata,
            created: certificate.created,
        });
        self.writers.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, writer.clone());
        Ok(writer)
    }

    /// The revocation of a writer, if the newest listing that this process made shows one (it makes the first here). One that does not verify revokes
    /// nothing and is an error to whoever asks.
    pub fn revocation(&self, id: WriterId) -> Result<Option<record::Revocation>> {
        let known = self.revoked.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|all| all.contains(&id));
        let revoked = match known {
            Some(revoked) => revoked,
            None => self.list_revoked()?.contains(&id),
        };
        if !revoked {
            return Ok(None);
        }
        let key = keys::revocation(id);
        match self.read(&key, |bytes| self.open_admins(ObjectKind::Revocation, &key, bytes)) {
            Err(Error::Store(error)) if error.is_not_found() => Ok(None),
            body => record::decode(&body?).map(Some).map_err(|cause| Error::Damaged { key, cause }),
        }
    }

    /// Lists revocations, for `revocation` to go by.
    pub(crate) fn list_revoked(&self) -> Result<HashSet<WriterId>> {
        let listed = match self.ahead.listing(keys::REVOCATIONS) {
            Some(listed) => listed,
            None => self.store.list(keys::REVOCATIONS)?,
        };
        let writer = |listed: &crate::store::Listed| match keys::parse(&listed.key) {
            Some(keys::Meaning::Revocation(writer)) => Some(writer),
            _ => None,
        };
        let revoked: HashSet<WriterId> = listed.iter().filter_map(writer).collect();
        *self.revoked.lock().unwrap_or_else(PoisonError::into_inner) = Some(revoked.clone());
        Ok(revoked)
    }

    /// All writers with a key in the listing; those whose certificate does not verify come as errors.
    pub fn all_writers(&self) -> Result<Vec<Result<Arc<Writer>>>> {
        let listed = self.store.list(keys::CERTIFICATES)?;
        let ids: Vec<WriterId> = listed
            .iter()
            .filter_map(|listed| match keys::parse(&listed.key) {
                Some(keys::Meaning::Certificate(id)) => Some(id),
                _ => None,
            })
            .collect();
        Ok(each(self.calls(), &ids, |id| self.writer(*id)))
    }

    fn open_admins(&self, kind: ObjectKind, key: &crate::names::ObjectKey, bytes: &[u8]) -> Result<Vec<u8>> {
        match self.open_signed(kind, key, bytes)? {
            (SignedBy::Admin, body) => Ok(body),
            (SignedBy::Writer(_) | SignedBy::AdminFor(_), _) => {
                Err(Error::Damaged { key: key.clone(), cause: ObjectError::Signature })
            }
        }
    }
}
