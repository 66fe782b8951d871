//! What a journey will ask first, asked while the repository still opens.
//!
//! Owns the first questions of each errand, their order, and the threads that ask. Each answer is taken once, by whoever would have asked; what nobody took within
//! `FRESH` is forgotten, and what failed is asked anew. Refuses near stores, where there is nothing to gain, and every question whose place in the protocol of
//! `session` comes after the session's record.
//!
//! Two orders matter. A writer's epoch comes before the snapshots that are named with it: if the epoch cannot be had, the snapshots are not asked for, and
//! whoever asks for the epoch himself drops what came here. A reader's index comes after its snapshots, so that it holds what they name; whoever lists snapshots
//! anew drops it.
//!
//! Memory: `RUNS_BYTES` of index, until it is taken.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::together::each;
use crate::names::{ObjectKey, WriterId};
use crate::pack::keys::{self, Meaning};
use crate::pack::run::RunName;
use crate::store::{Listed, Store};

const FRESH: Duration = Duration::from_secs(10);
const RUNS: usize = 16;
const RUNS_BYTES: u64 = 8 << 20;
/// Beside each other; the rest of the line is the journey's own.
const RUNS_AT_ONCE: usize = 4;
const CERTIFICATES: usize = 8;

/// What a repository is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Errand {
    #[default]
    Any,
    /// A session of this key's writer.
    Write,
    /// A snapshot's content.
    Read,
    /// Everything that is stored.
    Verify,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Question {
    List(&'static str),
    Get(ObjectKey),
}

enum Answer {
    Awaited,
    Listing(Vec<Listed>),
    Bytes(Vec<u8>),
}

/// An answer, and since when it is waited for.
struct Asked {
    at: Instant,
    answer: Answer,
}

struct Shared {
    answers: Mutex<HashMap<Question, Asked>>,
    news: Condvar,
}

/// Answers on their way. Clones are one.
#[derive(Clone)]
pub(super) struct Ahead(Arc<Shared>);

/// A question under way. Dropped without an answer, nobody waits for it any more.
struct Promise {
    shared: Arc<Shared>,
    question: Question,
}

impl Shared {
    fn answers(&self) -> MutexGuard<'_, HashMap<Question, Asked>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Promise {
    fn keep(self, answer: Answer) {
        // Nobody awaits what was forgotten meanwhile.
        if let Some(awaited) = self.shared.answers().get_mut(&self.question) {
            awaited.answer = answer;
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut answers = self.shared.answers();
        if matches!(answers.get(&self.question), Some(Asked { answer: Answer::Awaited, .. })) {
            answers.remove(&self.question);
        }
        drop(answers);
        self.shared.news.notify_all();
    }
}

impl Ahead {
    fn nothing() -> Self {
        Self(Arc::new(Shared { answers: Mutex::default(), news: Condvar::new() }))
    }

    /// Begins to ask what `errand` needs first. `own` is the writer that will write.
    pub fn begin(store: &Arc<dyn Store>, errand: Errand, own: Option<WriterId>) -> Self {
        let ahead = Self::nothing();
        if !store.is_remote() {
            return ahead;
        }
        match (errand, own) {
            (Errand::Write, Some(own)) => {
                ahead.list_in_turn(store, &[keys::EPOCHS, keys::COMMITS]);
                ahead.list_in_turn(store, &[keys::REVOCATIONS]);
                ahead.list_in_turn(store, &[keys::MARKS]);
                ahead.get(store, keys::certificate(own));
            }
            (Errand::Read, _) => {
                ahead.snapshots_and_index(store);
                ahead.list_in_turn(store, &[keys::REVOCATIONS]);
                ahead.list_in_turn(store, &[keys::MARKS]);
                ahead.list_in_turn(store, &[keys::EPOCHS]);
            }
            (Errand::Verify, _) => ahead.list_in_turn(store, &[""]),
            (Errand::Any | Errand::Write, _) => {}
        }
        ahead
    }

    /// The listing of `prefix`, if it was asked for and nobody took it yet.
    pub fn listing(&self, prefix: &'static str) -> Option<Vec<Listed>> {
        match self.take(&Question::List(prefix)) {
            Some(Answer::Listing(listed)) => Some(listed),
            _ => None,
        }
    }

    /// An object's bytes, likewise.
    pub fn bytes(&self, key: &ObjectKey) -> Option<Vec<u8>> {
        match self.take(&Question::Get(key.clone())) {
            Some(Answer::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Forgets everything: what will be asked now is newer.
    pub fn forget(&self) {
        self.0.answers().clear();
        self.0.news.notify_all();
    }

    /// Forgets the listing of the index. Runs that came stay: they are what their names say whenever they came.
    pub fn forget_index(&self) {
        self.0.answers().remove(&Question::List(keys::INDEX));
        self.0.news.notify_all();
    }

    fn take(&self, question: &Question) -> Option<Answer> {
        let mut answers = self.0.answers();
        loop {
            let asked = answers.get(question)?;
            let left = FRESH.saturating_sub(asked.at.elapsed());
            match asked.answer {
                _ if left.is_zero() => {
                    answers.remove(question);
                }
                Answer::Awaited => {
                    answers = self.0.news.wait_timeout(answers, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                _ => return answers.remove(question).map(|asked| asked.answer),
            }
        }
    }

    fn promise(&self, question: Question) -> Promise {
        let asked = Asked { at: Instant::now(), answer: Answer::Awaited };
        self.0.answers().insert(question.clone(), asked);
        Promise { shared: self.0.clone(), question }
    }

    /// Has `work` done beside; if no thread can be had its promises are dropped, and whoever needs the answers asks himself.
    fn beside(work: impl FnOnce() + Send + 'static) {
        let _ = std::thread::Builder::new().name("ahead".into()).spawn(work);
    }

    /// One listing after the other, to the first that fails.
    pub fn list_in_turn(&self, store: &Arc<dyn Store>, prefixes: &[&'static str]) {
        let promises: Vec<_> = prefixes.iter().map(|prefix| (*prefix, self.promise(Question::List(prefix)))).collect();
        let store = store.clone();
        Self::beside(move || {
            for (prefix, promise) in promises {
                match store.list(prefix) {
                    Ok(listed) => promise.keep(Answer::Listing(listed)),
                    Err(_) => break,
                }
            }
        });
    }

    fn get(&self, store: &Arc<dyn Store>, key: ObjectKey) {
        let (promise, store) = (self.promise(Question::Get(key.clone())), store.clone());
        Self::beside(move || {
            if let Ok(bytes) = store.get(&key) {
                promise.keep(Answer::Bytes(bytes));
            }
        });
    }

    fn snapshots_and_index(&self, store: &Arc<dyn Store>) {
        let (snapshots, index) =
            (self.promise(Question::List(keys::COMMITS)), self.promise(Question::List(keys::INDEX)));
        let (ahead, store) = (self.clone(), store.clone());
        Self::beside(move || {
            let Ok(listed) = store.list(keys::COMMITS) else { return };
            writers(&listed).into_iter().take(CERTIFICATES).for_each(|id| ahead.get(&store, keys::certificate(id)));
            snapshots.keep(Answer::Listing(listed));
            let Ok(listed) = store.list(keys::INDEX) else { return };
            let wanted: Vec<(ObjectKey, Mutex<Option<Promise>>)> = runs(&*store, &listed)
                .into_iter()
                .map(|key| (key.clone(), Mutex::new(Some(ahead.promise(Question::Get(key))))))
                .collect();
            index.keep(Answer::Listing(listed));
            each(RUNS_AT_ONCE, &wanted, |(key, promise)| {
                let promise = promise.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let (Some(promise), Ok(bytes)) = (promise, store.get(key)) {
                    promise.keep(Answer::Bytes(bytes));
                }
            });
        });
    }
}

/// Those who committed.
fn writers(listed: &[Listed]) -> BTreeSet<WriterId> {
    let writer = |listed: &Listed| match keys::parse(&listed.key) {
        Some(Meaning::Commit { session, .. }) => Some(session.writer()),
        _ => None,
    };
    listed.iter().filter_map(writer).collect()
}

/// The runs that an index will be made of, as far as they are few and small: segments if there are any, which may replace the others. None that this host
/// has a copy of.
fn runs(store: &dyn Store, listed: &[Listed]) -> Vec<ObjectKey> {
    let named: Vec<(RunName, &Listed)> = listed
        .iter()
        .filter_map(|listed| match keys::parse(&listed.key) {
            Some(Meaning::Run(name)) => Some((name, listed)),
            _ => None,
        })
        .collect();
    let has_segments = named.iter().any(|(name, _)| name.epoch.is_none());
    let mut bytes = 0;
    let fits = |(_, listed): &&(RunName, &Listed)| {
        bytes += listed.size;
        bytes <= RUNS_BYTES
    };
    let is_near = |key: &ObjectKey| store.copies().is_some_and(|copies| copies.has(key));
    let chosen = named.iter().filter(|(name, listed)| name.epoch.is_none() == has_segments && !is_near(&listed.key));
    chosen.take_while(fits).take(RUNS).map(|(_, listed)| listed.key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    fn kept(ahead: &Ahead, question: Question, answer: Answer) {
        ahead.promise(question).keep(answer);
    }

    #[test]
    fn an_answer_is_taken_once_and_nobody_waits_for_a_broken_promise() {
        let ahead = Ahead::nothing();
        kept(&ahead, Question::List(keys::COMMITS), Answer::Listing(Vec::new()));
        assert!(ahead.listing(keys::COMMITS).is_some());
        assert!(ahead.listing(keys::COMMITS).is_none(), "the next is asked anew");
        let promise = ahead.promise(Question::List(keys::INDEX));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| ahead.listing(keys::INDEX));
            drop(promise);
            assert!(waiting.join().unwrap().is_none());
        });
    }

    #[test]
    fn what_was_forgotten_does_not_come_back() {
        let ahead = Ahead::nothing();
        let promise = ahead.promise(Question::List(keys::INDEX));
        ahead.forget();
        promise.keep(Answer::Listing(Vec::new()));
        assert!(ahead.listing(keys::INDEX).is_none());
    }

    #[test]
    fn near_stores_are_not_asked_ahead() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let ahead = Ahead::begin(&store, Errand::Read, None);
        assert!(ahead.0.answers().is_empty());
    }
}
