//! A store that asks again when the store beneath says "later".
//!
//! Refuses to repeat creates: whether one took effect is `create_once`'s question. Deletes and reads may be repeated freely.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::backoff::Pace;
use super::{Class, Copies, Create, Inspection, Leftover, Listed, Replace, Result, Store, Swept, Upload};
use crate::bucket::Traffic;
use crate::names::{ObjectKey, SessionId};

pub struct Retry<S> {
    store: S,
    pace: Pace,
    /// Until the store has answered once: where nobody ever answered, a wrong address is likelier than a break.
    first: Option<Pace>,
    answered: AtomicBool,
}

impl<S: Store> Retry<S> {
    pub fn over(store: S) -> Self {
        Self::at(store, Pace::default())
    }

    pub fn at(store: S, pace: Pace) -> Self {
        Self { store, pace, first: None, answered: AtomicBool::new(false) }
    }

    /// At the usual pace once the store has answered; before, it gets six attempts within three to seven seconds.
    pub fn hasty_at_first(store: S) -> Self {
        Self::over(store).first_at(Pace::new(6, Duration::from_millis(200), Duration::from_secs(15)))
    }

    pub fn first_at(self, pace: Pace) -> Self {
        Self { first: Some(pace), ..self }
    }

    fn patiently<T>(&self, call: impl Fn(&S) -> Result<T>) -> Result<T> {
        let mut attempt = 1;
        loop {
            let answer = call(&self.store);
            let later = match &answer {
                Err(error) => matches!(error.class, Class::Transient | Class::Ambiguous),
                Ok(_) => false,
            };
            if !later {
                self.answered.store(true, Ordering::Relaxed);
                return answer;
            }
            let pace = match &self.first {
                Some(first) if !self.answered.load(Ordering::Relaxed) => first,
                _ => &self.pace,
            };
            if !pace.wait_after(attempt) {
                return answer;
            }
            attempt += 1;
        }
    }
}

impl<S: Store> Store for Retry<S> {
    fn url(&self) -> &str {
        self.store.url()
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        self.patiently(|store| store.get(key))
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        self.patiently(|store| store.get_range(key, range.clone()))
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        self.patiently(|store| store.size(key))
    }

    fn create(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Create> {
        self.store.create(key, bytes)
    }

    fn begin(&self, session: SessionId, number: u32) -> Result<Box<dyn Upload>> {
        self.store.begin(session, number)
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.patiently(|store| store.list(prefix))
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.patiently(|store| store.delete(key))
    }

    fn available_bytes(&self) -> Result<Option<u64>> {
        self.patiently(|store| store.available_bytes())
    }

    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Replace> {
        self.store.replace(key, bytes)
    }

    fn traffic(&self) -> Option<Traffic> {
        self.store.traffic()
    }

    fn inspect(&self) -> Result<Inspection> {
        self.store.inspect()
    }

    fn sweep(&self, is_dead: &mut dyn FnMut(&Leftover) -> bool) -> Result<Swept> {
        self.store.sweep(is_dead)
    }

    fn is_remote(&self) -> bool {
        self.store.is_remote()
    }

    fn copies(&self) -> Option<&Copies> {
        self.store.copies()
    }

    fn bring(&self, objects: &[(ObjectKey, u64)]) {
        self.store.bring(objects);
    }

    fn fresh(&self) -> Option<Arc<dyn Store>> {
        self.store.fresh().map(|store| Arc::new(Retry::at(store, self.pace.clone())) as Arc<dyn Store>)
    }
}
