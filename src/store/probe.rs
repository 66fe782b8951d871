//! Whether a store keeps the promise that everything rests on: create never replaces, and a listing shows what was created.
//!
//! Some servers answer a second create rightly and lose a race; some accept both. So eight threads race for one key, five
//! times. A store that fails is used by one writer at a time, which the answer says, with the reason.
//!
//! A probe object ends in the BLAKE3 of its key and of its bytes before, so that `verify` covers it. (Its name cannot hold
//! that hash: the racers bring different bytes to one key.)

use std::sync::Barrier;

use super::backoff::Pace;
use super::create_once::is_refused_again;
use super::{Class, Create, Result, Store, StoreError};
use crate::names::{ObjectKey, hex};

const RACERS: usize = 8;
const RACES: usize = 5;
const HASH_BYTES: usize = 32;

/// Where probe objects lie.
pub const PREFIX: &str = "probe/";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreMode {
    MultiWriter,
    SingleWriter {
        /// What the store did, as a sentence without its end.
        reason: String,
    },
}

impl StoreMode {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::MultiWriter => "multi-writer",
            Self::SingleWriter { .. } => "single-writer",
        }
    }
}

impl serde::Serialize for StoreMode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    pub mode: StoreMode,
}

/// Whether `bytes` are those of a whole probe object at `key`.
pub fn is_whole(key: &ObjectKey, bytes: &[u8]) -> bool {
    bytes.split_last_chunk::<HASH_BYTES>().is_some_and(|(body, hash)| *hash == hash_of(key, body))
}

fn hash_of(key: &ObjectKey, body: &[u8]) -> [u8; HASH_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_str().as_bytes()).update(&[0]).update(body);
    *hasher.finalize().as_bytes()
}

pub(super) fn object(key: &ObjectKey, body: &str) -> Vec<u8> {
    let mut bytes = body.as_bytes().to_vec();
    bytes.extend_from_slice(&hash_of(key, body.as_bytes()));
    bytes
}

/// Writes 6 objects of under 100 bytes, and deletes them where that is allowed. An error says that the store could not be
/// asked, not that it answered badly.
pub fn probe(store: &dyn Store) -> Result<ProbeResult> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|cause| StoreError::new(Class::Permanent, store.url(), "create", PREFIX, cause))?;
    let run = Run { store, prefix: format!("{PREFIX}{}", hex(&random)) };
    let found = run.all();
    for number in 0..=RACES {
        if let Ok(key) = run.key(number) {
            let _ = store.delete(&key); // credentials that may not delete leave it to prune
        }
    }
    let mode = match found? {
        None => StoreMode::MultiWriter,
        Some(reason) => StoreMode::SingleWriter { reason },
    };
    Ok(ProbeResult { mode })
}

struct Run<'a> {
    store: &'a dyn Store,
    prefix: String,
}

/// What the store did wrong, if anything.
type Finding = Option<String>;

impl Run<'_> {
    fn key(&self, number: usize) -> Result<ObjectKey> {
        let text = format!("{}-{number}", self.prefix);
        text.parse().map_err(|cause| StoreError::new(Class::Permanent, self.store.url(), "create", &text, cause))
    }

    fn all(&self) -> Result<Finding> {
        if let Some(finding) = self.twice()? {
            return Ok(Some(finding));
        }
        for number in 1..=RACES {
            if let Some(finding) = self.race(number)? {
                return Ok(Some(finding));
            }
        }
        Ok(None)
    }

    fn twice(&self) -> Result<Finding> {
        let key = self.key(0)?;
        let first = object(&key, "first");
        let pace = Pace::default();
        let mut attempt = 1;
        loop {
            match self.store.create(&key, &first) {
                Ok(Create::Created) => break,
                Ok(Create::Occupied) if attempt == 1 => {
                    return Ok(Some("it calls a key occupied that was never used".into()));
                }
                // By our own bytes, from an attempt whose answer was lost; what follows compares.
                Ok(Create::Occupied) => break,
                Err(error)
                    if matches!(error.class, Class::Ambiguous | Class::Transient) && pace.wait_after(attempt) =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
        let is_refused = is_refused_again(self.store, &key, &object(&key, "second"))?;
        let stands = self.store.get(&key)?;
        if !is_refused {
            return Ok(Some("it accepts a create over an object that exists".into()));
        }
        if stands != first {
            return Ok(Some("it refused a second create and changed the object all the same".into()));
        }
        self.listed(&key, stands.len())
    }

    fn race(&self, number: usize) -> Result<Finding> {
        let key = self.key(number)?;
        let start = Barrier::new(RACERS);
        let answers: Vec<Result<Create>> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS)
                .map(|racer| {
                    let (key, start) = (&key, &start);
                    let bytes = object(key, &format!("racer {racer}"));
                    scope.spawn(move || {
                        start.wait();
                        self.store.create(key, &bytes)
                    })
                })
                .collect();
            let panicked = || StoreError::new(Class::Permanent, self.store.url(), "create", &key, "a thread panicked");
            racers.into_iter().map(|racer| racer.join().unwrap_or_else(|_| Err(panicked()))).collect()
        });
        let mut winners = Vec::new();
        let mut unanswered = Vec::new();
        for (racer, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(Create::Created) => winners.push(racer),
                Ok(Create::Occupied) => {}
                Err(error) if matches!(error.class, Class::Ambiguous | Class::Transient) => unanswered.push(racer),
                Err(error) => return Err(error),
            }
        }
        if winners.len() > 1 {
            return Ok(Some(format!("it accepted {} of {RACERS} creates that raced for one key", winners.len())));
        }
        let stands = self.store.get(&key)?;
        let candidates = if winners.is_empty() { &unanswered } else { &winners };
        if !candidates.iter().any(|racer| stands == object(&key, &format!("racer {racer}"))) {
            return Ok(Some("after a race for one key it holds another object than the winner's".into()));
        }
        self.listed(&key, stands.len())
    }

    fn listed(&self, key: &ObjectKey, size: usize) -> Result<Finding> {
        let listing = self.store.list(&self.prefix)?;
        match listing.iter().find(|listed| listed.key == *key) {
            Some(listed) if listed.size == size as u64 => Ok(None),
            Some(_) => Ok(Some("its listing shows another size than the object has".into())),
            None => Ok(Some("its listing does not show an object that was just created".into())),
        }
    }
}
