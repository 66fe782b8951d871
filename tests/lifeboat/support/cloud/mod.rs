//! Doubles of S3 and of GCS: one shelf of objects on a loopback port, in the dialect of either.
//!
//! They are stricter than the clouds: what they do not know is refused by name (501), a payload must have the hash it was signed with,
//! an upload that ended is unknown, small parts are refused. Signatures must be there and well-formed, and are not checked. Faults are laid on the n-th request of a verb
//! from now on (`on`, `burst`); manners stay until they are changed (`refuse`, `conditions`, `show_after_lists`).
//!
//! Every repeat of the client is a request of its own here, so a fault that is outlived by a repeat was met.

mod answer;
mod call;
mod refusal;
mod script;
mod shelf;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use refusal::Refusal;
pub use script::{Fault, Request, Verb};
pub use shelf::Object;

use super::loopback::Loopback;
use script::Script;
use shelf::Shelf;

pub const BUCKET: &str = "double";
pub const REGION: &str = "us-east-1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    S3,
    Gcs,
}

/// What a write's condition ("only if nothing stands there") is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    Honoured,
    Ignored,
    /// Such a write is refused: 501.
    NotImplemented,
    /// Looked at, then forgotten: two writes at once both find nothing.
    LostInRaces,
}

struct Manners {
    /// Requests of the verb that pass before it, and what comes then.
    refusal: Option<(Verb, u64, Refusal)>,
    conditions: Conditions,
    lists_until_shown: u64,
    page_keys: usize,
    region: &'static str,
}

struct State {
    shelf: Shelf,
    script: Script,
    manners: Manners,
    /// Writes of a key that have looked at its conditions and not yet been done.
    in_flight: BTreeMap<String, usize>,
}

struct Inner {
    dialect: Dialect,
    state: Mutex<State>,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clones are the same cloud, which ends with the last of them.
#[derive(Clone)]
pub struct Cloud {
    inner: Arc<Inner>,
    server: Arc<Loopback>,
}

impl Cloud {
    pub fn s3() -> Self {
        Self::speaking(Dialect::S3)
    }

    pub fn gcs() -> Self {
        Self::speaking(Dialect::Gcs)
    }

    fn speaking(dialect: Dialect) -> Self {
        let manners = Manners {
            refusal: None,
            conditions: Conditions::Honoured,
            lists_until_shown: 0,
            page_keys: 1000,
            region: REGION,
        };
        let state = State { shelf: Shelf::default(), script: Script::default(), manners, in_flight: BTreeMap::new() };
        let inner = Arc::new(Inner { dialect, state: Mutex::new(state) });
        let answering = Arc::clone(&inner);
        let server = Loopback::serve(move |asked| answer::answer(Arc::clone(&answering), asked));
        Self { inner, server: Arc::new(server) }
    }

    /// `http://127.0.0.1:PORT`; the bucket is the first part of a path.
    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.server.address
    }

    /// Lays `fault` on the request number `number` of `verb`, counted from 1 and from now.
    pub fn on(&self, verb: Verb, number: u64, fault: Fault) {
        self.burst(verb, number, 1, fault);
    }

    /// The same on `count` requests in a row.
    pub fn burst(&self, verb: Verb, first: u64, count: u64, fault: Fault) {
        self.inner.state().script.lay(verb, first, count, fault);
    }

    /// Refuses every request of `verb` from now on, until told otherwise.
    pub fn refuse(&self, verb: Verb, refusal: impl Into<Option<Refusal>>) {
        self.inner.state().manners.refusal = refusal.into().map(|refusal| (verb, 0, refusal));
    }

    /// The same from the request number `number` of the verb on, counted from 1 and from now.
    pub fn refuse_from(&self, verb: Verb, number: u64, refusal: Refusal) {
        assert!(number > 0, "requests are counted from 1");
        self.inner.state().manners.refusal = Some((verb, number - 1, refusal));
    }

    pub fn conditions(&self, conditions: Conditions) {
        self.inner.state().manners.conditions = conditions;
    }

    /// Objects are shown after so many further listings, from now on.
    pub fn show_after_lists(&self, lists: u64) {
        self.inner.state().manners.lists_until_shown = lists;
    }

    /// At most so many names on a page of a listing.
    pub fn page_keys(&self, most: usize) {
        self.inner.state().manners.page_keys = most;
    }

    /// Where the bucket is: a signature for another region is refused.
    pub fn region(&self, region: &'static str) {
        self.inner.state().manners.region = region;
    }

    /// Forgets the faults that are still to come.
    pub fn forget_faults(&self) {
        self.inner.state().script.forget();
    }

    /// All requests, those that were refused among them.
    pub fn requests(&self) -> Vec<Request> {
        self.inner.state().script.requests.clone()
    }

    pub fn count(&self, verb: Verb) -> usize {
        self.inner.state().script.requests.iter().filter(|request| verb.counts(request.verb)).count()
    }

    pub fn keys(&self) -> Vec<String> {
        self.inner.state().shelf.objects.keys().cloned().collect()
    }

    pub fn object(&self, key: &str) -> Option<Object> {
        self.inner.state().shelf.objects.get(key).cloned()
    }

    /// Keys of uploads that were begun and have not ended.
    pub fn unfinished(&self) -> Vec<String> {
        self.inner.state().shelf.uploads.values().map(|upload| upload.key.clone()).collect()
    }

    /// Puts an object there behind every client's back.
    pub fn plant(&self, key: &str, bytes: &[u8]) {
        let bytes = axum::body::Bytes::copy_from_slice(bytes);
        self.inner.state().shelf.put(key, bytes, Vec::new(), BTreeMap::new());
    }

    pub fn has_met_every_fault(&self) -> bool {
        self.inner.state().script.missed().is_empty()
    }

    /// A test cannot pass by missing its subject.
    #[track_caller]
    pub fn assert_every_fault_was_met(&self) {
        let missed = self.inner.state().script.missed();
        assert!(missed.is_empty(), "faults that were not met: {missed:?}");
    }
}
