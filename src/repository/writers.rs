//! Writers: their certificates, and what became of them.
//!
//! Owns reading of certificates and revocations, each once. A certificate counts only with the admin's signature.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Error, Repository, Result};
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
        let bytes = match self.store.get(&key) {
            Err(error) if error.is_not_found() => return Err(Error::NoCertificate { writer: id }),
            bytes => bytes?,
        };
        let damaged = |cause| Error::Damaged { key: key.clone(), cause };
        let body = self.open_admins(ObjectKind::Certificate, &key, &bytes)?;
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

    /// The revocation of a writer, if there is one. One that does not verify revokes nothing and is an error to whoever asks.
    pub fn revocation(&self, id: WriterId) -> Result<Option<record::Revocation>> {
        let key = keys::revocation(id);
        let bytes = match self.store.get(&key) {
            Err(error) if error.is_not_found() => return Ok(None),
            bytes => bytes?,
        };
        let body = self.open_admins(ObjectKind::Revocation, &key, &bytes)?;
        record::decode(&body).map(Some).map_err(|cause| Error::Damaged { key, cause })
    }

    /// All writers with a key in the listing; those whose certificate does not verify come as errors.
    pub fn all_writers(&self) -> Result<Vec<Result<Arc<Writer>>>> {
        let listed = self.store.list(keys::CERTIFICATES)?;
        Ok(listed
            .iter()
            .filter_map(|listed| match keys::parse(&listed.key) {
                Some(keys::Meaning::Certificate(id)) => Some(self.writer(id)),
                _ => None,
            })
            .collect())
    }

    fn open_admins(&self, kind: ObjectKind, key: &crate::names::ObjectKey, bytes: &[u8]) -> Result<Vec<u8>> {
        match self.open_signed(kind, key, bytes)? {
            (SignedBy::Admin, body) => Ok(body),
            (SignedBy::Writer(_), _) => Err(Error::Damaged { key: key.clone(), cause: ObjectError::Signature }),
        }
    }
}
