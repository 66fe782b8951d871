//! Requests and bytes of a bucket, counted as they pass.

use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;

/// Requests by what clouds charge for, repeated ones among them, and bytes of bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    pub puts: u64,
    pub gets: u64,
    pub heads: u64,
    pub lists: u64,
    pub deletes: u64,
    /// Requests of any kind that were refused or not answered; an absent object and an occupied key are answers.
    pub failures: u64,
    pub up_bytes: u64,
    pub down_bytes: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    puts: AtomicU64,
    gets: AtomicU64,
    heads: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    failures: AtomicU64,
    up_bytes: AtomicU64,
    down_bytes: AtomicU64,
}

impl Counters {
    pub fn request(&self, method: &Method, is_list: bool, bytes: u64) {
        let counter = match *method {
            _ if is_list => &self.lists,
            Method::GET => &self.gets,
            Method::HEAD => &self.heads,
            Method::DELETE => &self.deletes,
            _ => &self.puts,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.up_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub fn down(&self, bytes: u64) {
        self.down_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn read(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            puts: read(&self.puts),
            gets: read(&self.gets),
            heads: read(&self.heads),
            lists: read(&self.lists),
            deletes: read(&self.deletes),
            failures: read(&self.failures),
            up_bytes: read(&self.up_bytes),
            down_bytes: read(&self.down_bytes),
        }
    }
}
