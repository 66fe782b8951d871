//! A store that is far away: each call takes a round trip, and all bytes share one link. It counts what it is asked.
//!
//! The longest chain: calls of which each began after another had ended, listings not counted. On a real store that many round trips are the least that a
//! run takes, however fast its link.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lifeboat::names::{ObjectKey, SessionId};
use lifeboat::store::{Create, Leftover, Listed, Result, Store, Swept, Upload};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Get,
    GetRange,
    Size,
    Create,
    Finish,
    List,
    Delete,
}

/// What a far store was asked since it was last looked at.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Every call, with its key or prefix, in the order in which they began.
    pub calls: Vec<(Call, String)>,
    pub chain: u32,
    /// The most that was under way at once.
    pub at_once: BTreeMap<Call, u32>,
}

impl Asked {
    pub fn count(&self, call: Call) -> usize {
        self.calls.iter().filter(|(one, _)| *one == call).count()
    }

    /// Calls by kind.
    pub fn by_kind(&self) -> BTreeMap<Call, usize> {
        let mut kinds = BTreeMap::new();
        self.calls.iter().for_each(|(call, _)| *kinds.entry(*call).or_default() += 1);
        kinds
    }
}

#[derive(Default)]
struct Trace {
    asked: Asked,
    under_way: BTreeMap<Call, u32>,
}

/// When the link is free again.
#[derive(Default)]
struct Link(Mutex<Option<Instant>>);

struct Inner<S> {
    store: S,
    round_trip: Duration,
    bytes_per_second: Option<f64>,
    up: Link,
    down: Link,
    trace: Mutex<Trace>,
}

/// Clones are one store.
pub struct Far<S> {
    inner: Arc<Inner<S>>,
}

impl<S> Clone for Far<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<S: Store + 'static> Far<S> {
    pub fn over(store: S, round_trip: Duration, bytes_per_second: Option<f64>) -> Self {
        let inner = Inner {
            store,
            round_trip,
            bytes_per_second,
            up: Link::default(),
            down: Link::default(),
            trace: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What was asked since the last time, and begins anew.
    pub fn asked(&self) -> Asked {
        std::mem::take(&mut self.inner.trace().asked)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S> Inner<S> {
    fn trace(&self) -> MutexGuard<'_, Trace> {
        lock(&self.trace)
    }

    /// A call from its beginning to its end.
    fn call<T>(&self, call: Call, key: &str, work: impl FnOnce() -> T) -> T {
        let place = {
            let mut trace = self.trace();
            trace.asked.calls.push((call, key.to_owned()));
            let now = trace.under_way.entry(call).or_default();
            *now += 1;
            let now = *now;
            let most = trace.asked.at_once.entry(call).or_default();
            *most = now.max(*most);
            trace.asked.chain + u32::from(call != Call::List)
        };
        sleep(self.round_trip);
        let answer = work();
        let mut trace = self.trace();
        *trace.under_way.entry(call).or_default() -= 1;
        trace.asked.chain = trace.asked.chain.max(place);
        answer
    }

    /// Waits until so many bytes have passed the link.
    fn pass(&self, link: &Link, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let through = {
            let mut free = lock(&link.0);
            let now = Instant::now();
            let through = free.unwrap_or(now).max(now) + Duration::from_secs_f64(bytes as f64 / rate);
            *free = Some(through);
            through
        };
        sleep(through.saturating_duration_since(Instant::now()));
    }

    fn down(&self, bytes: Result<Vec<u8>>) -> Result<Vec<u8>> {
        if let Ok(bytes) = &bytes {
            self.pass(&self.down, bytes.len() as u64);
        }
        bytes
    }
}

impl<S: Store + 'static> Store for Far<S> {
    fn url(&self) -> &str {
        self.inner.store.url()
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        self.inner.call(Call::Get, key.as_str(), || self.inner.down(self.inner.store.get(key)))
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        self.inner.call(Call::GetRange, key.as_str(), || self.inner.down(self.inner.store.get_range(key, range)))
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        self.inner.call(Call::Size, key.as_str(), || self.inner.store.size(key))
    }

    fn create(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Create> {
        self.inner.call(Call::Create, key.as_str(), || {
            self.inner.pass(&self.inner.up, bytes.len() as u64);
            self.inner.store.create(key, bytes)
        })
    }

    /// As a bucket does it: buffered, and put once.
    fn begin(&self, session: SessionId, number: u32) -> Result<Box<dyn Upload>> {
        Ok(Box::new(FarUpload { far: self.clone(), session, number, bytes: Vec::new() }))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.inner.call(Call::List, prefix, || self.inner.store.list(prefix))
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.inner.call(Call::Delete, key.as_str(), || self.inner.store.delete(key))
    }

    fn available_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn sweep(&self, is_dead: &mut dyn FnMut(&Leftover) -> bool) -> Result<Swept> {
        self.inner.store.sweep(is_dead)
    }

    fn is_remote(&self) -> bool {
        true
    }
}

struct FarUpload<S> {
    far: Far<S>,
    session: SessionId,
    number: u32,
    bytes: Vec<u8>,
}

impl<S: Store + 'static> Upload for FarUpload<S> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>, key: &ObjectKey) -> Result<Create> {
        let inner = &self.far.inner;
        inner.call(Call::Finish, key.as_str(), || {
            inner.pass(&inner.up, self.bytes.len() as u64);
            let mut upload = inner.store.begin(self.session, self.number)?;
            upload.append(&self.bytes)?;
            upload.finish(key)
        })
    }
}
