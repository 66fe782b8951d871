//! Creating an object of which there may be only one, over stores whose answers get lost.
//!
//! "Occupied" is no verdict: the occupant may be our own bytes, from a call whose answer was lost, and a server may answer
//! so with nothing stored at all. So the occupant is read and compared: our bytes mean that we won, other bytes that we
//! lost, none that we try again. Whoever creates makes its bytes its own by sealing random ones into them.

use super::backoff::Pace;
use super::{Class, Create, Result, Store, StoreError};
use crate::names::ObjectKey;

#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Our bytes stand at the key.
    Won,
    /// These bytes of somebody else do.
    Lost(Vec<u8>),
}

#[derive(Debug, thiserror::Error)]
#[error("{attempts} attempts met a store that says the key is occupied and has nothing there")]
struct Undecided {
    attempts: u32,
}

/// Creates the object, at the usual pace.
pub fn create_once(store: &dyn Store, key: &ObjectKey, bytes: &[u8]) -> Result<Outcome> {
    create_once_at(store, key, bytes, &Pace::default())
}

/// Creates the object. An error means that it is unknown whether our bytes stand at the key.
pub fn create_once_at(store: &dyn Store, key: &ObjectKey, bytes: &[u8], pace: &Pace) -> Result<Outcome> {
    // Once a call may have taken effect, we look before we create again: a store without conditions would overwrite.
    let mut look_first = false;
    let mut attempt = 1;
    loop {
        let failure = match if look_first { look(store, key, bytes) } else { create(store, key, bytes) } {
            Step::Decided(outcome) => return Ok(outcome),
            Step::Failed(error) => return Err(error),
            Step::Absent(failure) => {
                look_first = false;
                failure
            }
            Step::Unknown(failure) => {
                look_first = true;
                failure
            }
        };
        if !pace.wait_after(attempt) {
            return Err(failure.unwrap_or_else(|| {
                let cause = Undecided { attempts: attempt };
                StoreError::new(Class::Ambiguous, store.url(), "create", key, cause)
            }));
        }
        attempt += 1;
    }
}

/// Whether a create of an object that stands is refused, asked until there is an answer.
pub fn is_refused_again(store: &dyn Store, key: &ObjectKey, bytes: &[u8]) -> Result<bool> {
    let pace = Pace::default();
    let mut attempt = 1;
    loop {
        match store.create(key, bytes) {
            Ok(create) => return Ok(create == Create::Occupied),
            Err(error) if matches!(error.class, Class::Ambiguous | Class::Transient) && pace.wait_after(attempt) => {
                attempt += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

enum Step {
    Decided(Outcome),
    Failed(StoreError),
    /// Nothing stands at the key: create (again).
    Absent(Option<StoreError>),
    /// Something may stand there: look (again).
    Unknown(Option<StoreError>),
}

fn create(store: &dyn Store, key: &ObjectKey, bytes: &[u8]) -> Step {
    match store.create(key, bytes) {
        Ok(Create::Created) => Step::Decided(Outcome::Won),
        Ok(Create::Occupied) => look(store, key, bytes),
        Err(error) if error.class == Class::Ambiguous => match look(store, key, bytes) {
            Step::Absent(_) => Step::Absent(Some(error)),
            step => step,
        },
        Err(error) if error.class == Class::Transient => Step::Absent(Some(error)),
        Err(error) => Step::Failed(error),
    }
}

fn look(store: &dyn Store, key: &ObjectKey, bytes: &[u8]) -> Step {
    match store.get(key) {
        Ok(found) if found == bytes => Step::Decided(Outcome::Won),
        Ok(found) => Step::Decided(Outcome::Lost(found)),
        Err(error) => match error.class {
            Class::NotFound => Step::Absent(None),
            Class::Transient | Class::Ambiguous => Step::Unknown(Some(error)),
            Class::Denied | Class::Full | Class::Short | Class::Permanent => Step::Failed(error),
        },
    }
}
