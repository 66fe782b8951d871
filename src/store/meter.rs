//! A store that counts what passes through it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Copies, Create, Inspection, Leftover, Listed, Replace, Result, Store, Swept, Tag, Upload};
use crate::names::{ObjectKey, SessionId};

/// Requests by verb, failed ones among them, and bytes of objects that went up and came down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    pub gets: u64,
    pub range_gets: u64,
    pub sizes: u64,
    pub creates: u64,
    /// Uploads that were finished.
    pub uploads: u64,
    pub lists: u64,
    pub deletes: u64,
    pub up_bytes: u64,
    pub down_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    gets: AtomicU64,
    range_gets: AtomicU64,
    sizes: AtomicU64,
    creates: AtomicU64,
    uploads: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    up_bytes: AtomicU64,
    down_bytes: AtomicU64,
}

/// Reads the counters of a metered store, also after it went behind a `dyn Store`.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Counters>);

impl Meter {
    pub fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &*self.0;
        Traffic {
            gets: read(&counters.gets),
            range_gets: read(&counters.range_gets),
            sizes: read(&counters.sizes),
            creates: read(&counters.creates),
            uploads: read(&counters.uploads),
            lists: read(&counters.lists),
            deletes: read(&counters.deletes),
            up_bytes: read(&counters.up_bytes),
            down_bytes: read(&counters.down_bytes),
        }
    }
}

pub struct Metered<S> {
    store: S,
    meter: Meter,
}

impl<S: Store> Metered<S> {
    pub fn over(store: S) -> Self {
        Self { store, meter: Meter::default() }
    }

    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    fn down(&self, bytes: Result<Vec<u8>>) -> Result<Vec<u8>> {
        if let Ok(bytes) = &bytes {
            add(&self.meter.0.down_bytes, bytes.len() as u64);
        }
        bytes
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl<S: Store> Store for Metered<S> {
    fn url(&self) -> &str {
        self.store.url()
    }

    fn get(&self, key: &ObjectKey) -> Result<Vec<u8>> {
        add(&self.meter.0.gets, 1);
        self.down(self.store.get(key))
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        add(&self.meter.0.range_gets, 1);
        self.down(self.store.get_range(key, range))
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        add(&self.meter.0.sizes, 1);
        self.store.size(key)
    }

    fn create(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Create> {
        add(&self.meter.0.creates, 1);
        add(&self.meter.0.up_bytes, bytes.len() as u64);
        self.store.create(key, bytes)
    }

    fn begin(&self, session: SessionId, number: u32) -> Result<Box<dyn Upload>> {
        let upload = self.store.begin(session, number)?;
        Ok(Box::new(MeteredUpload { upload, meter: self.meter() }))
    }

    fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        add(&self.meter.0.lists, 1);
        self.store.list(prefix)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        add(&self.meter.0.deletes, 1);
        self.store.delete(key)
    }

    fn available_bytes(&self) -> Result<Option<u64>> {
        self.store.available_bytes()
    }

    fn replace(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Replace> {
        self.store.replace(key, bytes)
    }

    fn traffic(&self) -> Option<crate::bucket::Traffic> {
        self.store.traffic()
    }

    fn inspect(&self) -> Result<Inspection> {
        self.store.inspect()
    }

    fn sweep(&self, is_dead: &mut dyn FnMut(&Leftover) -> bool) -> Result<Swept> {
        self.store.sweep(is_dead)
    }

    fn stamp(&self, key: &ObjectKey) -> Result<Option<Tag>> {
        self.store.stamp(key)
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
        self.store.fresh().map(|store| Arc::new(Metered { store, meter: self.meter() }) as Arc<dyn Store>)
    }
}

struct MeteredUpload {
    upload: Box<dyn Upload>,
    meter: Meter,
}

impl Upload for MeteredUpload {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        add(&self.meter.0.up_bytes, bytes.len() as u64);
        self.upload.append(bytes)
    }

    fn finish(self: Box<Self>, key: &ObjectKey) -> Result<Create> {
        add(&self.meter.0.uploads, 1);
        self.upload.finish(key)
    }
}
