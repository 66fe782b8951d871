//! What every part of the running daemon shares.
//!
//! Owns the configuration in force, the catalog, the clock, and the facts of the daemon's own health. Refuses to decide
//! anything: `scheduler` decides what runs, `jobs` runs it, `status` judges.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::engine::{Engine, Task};
use super::jobs::Jobs;
use crate::catalog::{Catalog, Process};
use crate::clock::Clock;
use crate::names::{PolicyName, hex};
use crate::policy::{Config, Policy, Problems};

/// A loop that has not come round for so long is not alive: it sleeps 30 s at most.
pub const TICK_AGE_MAX: Duration = Duration::from_secs(120);

/// The daemon, without its threads and sockets.
pub struct Core {
    pub catalog: Catalog,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) clock: Arc<dyn Clock>,
    pub process: Process,
    pub host: String,
    pub started: Timestamp,
    pub(super) cache: PathBuf,
    config_dir: PathBuf,
    config: RwLock<Loaded>,
    pub(super) jobs: Jobs,
    stopping: AtomicBool,
    pulse: Mutex<Pulse>,
}

/// The configuration in force, and what became of the last attempt to replace it.
#[derive(Clone)]
pub struct Loaded {
    pub config: Arc<Config>,
    pub at: Timestamp,
    pub rejected: Option<Rejected>,
}

/// A configuration that was not taken.
#[derive(Clone, Debug)]
pub struct Rejected {
    pub at: Timestamp,
    pub problems: Arc<Problems>,
}

#[derive(Clone, Copy)]
struct Pulse {
    /// By the monotonic clock, so that a step of the wall clock neither hides nor feigns a hang.
    ticked: Instant,
    ticked_at: Timestamp,
    recorded: bool,
}

/// The daemon's own health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    pub alive: bool,
    /// Whether the catalog took the last write.
    pub recording: bool,
    pub stopping: bool,
    pub ticked_at: Timestamp,
}

impl Health {
    pub fn is_ready(self) -> bool {
        self.alive && self.recording && !self.stopping
    }
}

/// With what a daemon begins.
pub struct Parts {
    pub catalog: Catalog,
    pub engine: Arc<dyn Engine>,
    pub clock: Arc<dyn Clock>,
    pub process: Process,
    pub host: String,
    pub cache: PathBuf,
    pub config_dir: PathBuf,
    pub config: Config,
}

impl Core {
    pub fn new(parts: Parts) -> Arc<Self> {
        let now = instant(&*parts.clock);
        Arc::new(Self {
            catalog: parts.catalog,
            engine: parts.engine,
            clock: parts.clock,
            process: parts.process,
            host: parts.host,
            started: now,
            cache: parts.cache,
            config_dir: parts.config_dir,
            config: RwLock::new(Loaded { config: Arc::new(parts.config), at: now, rejected: None }),
            jobs: Jobs::default(),
            stopping: AtomicBool::new(false),
            pulse: Mutex::new(Pulse { ticked: Instant::now(), ticked_at: now, recorded: true }),
        })
    }

    pub fn now(&self) -> Timestamp {
        instant(&*self.clock)
    }

    pub fn loaded(&self) -> Loaded {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn config(&self) -> Arc<Config> {
        self.loaded().config
    }

    pub fn config_dir(&self) -> &Path {
        &self.config_dir
    }

    /// Reads the configuration again and takes it as a whole, or leaves the old one as a whole.
    pub fn reload(&self) -> Result<(), Arc<Problems>> {
        let loaded = crate::policy::load(&self.config_dir);
        let now = self.now();
        let mut current = self.config.write().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok(config) => {
                *current = Loaded { config: Arc::new(config), at: now, rejected: None };
                Ok(())
            }
            Err(problems) => {
                let problems = Arc::new(problems);
                current.rejected = Some(Rejected { at: now, problems: Arc::clone(&problems) });
                Err(problems)
            }
        }
    }

    /// What a run of this policy works on, as configured now, and its scope.
    pub(super) fn task(&self, policy: &PolicyName) -> Option<(Task, String)> {
        let config = self.config();
        let policy = config.policies.get(policy)?.clone();
        let repository = config.repositories.get(&policy.repository)?.clone();
        let scope = Self::scope(&config, &policy);
        Some((Task { policy, repository, cache: self.cache.clone() }, scope))
    }

    /// What the policy saves and where to, in short. A snapshot of other sources, or in another repository, proves nothing.
    pub(super) fn scope(config: &Config, policy: &Policy) -> String {
        let mut hasher = blake3::Hasher::new();
        let url = config.repositories.get(&policy.repository).map_or("", |repository| repository.url.as_str());
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(url.as_bytes());
        for path in &policy.source.paths {
            add(path.as_os_str().as_bytes());
        }
        for bucket in &policy.source.buckets {
            add(bucket.to_string().as_bytes());
        }
        // A bucket of the same name at another server is another one.
        if let Some(endpoint) = &policy.source.store.endpoint {
            add(endpoint.as_bytes());
        }
        hex(&hasher.finalize().as_bytes()[..16])
    }

    pub(super) fn note_tick(&self, at: Timestamp, recorded: bool) {
        *self.pulse() = Pulse { ticked: Instant::now(), ticked_at: at, recorded };
    }

    fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn health(&self) -> Health {
        let pulse = *self.pulse();
        Health {
            alive: pulse.ticked.elapsed() < TICK_AGE_MAX,
            recording: pulse.recorded && !self.jobs.has_unrecorded(),
            stopping: self.is_stopping(),
            ticked_at: pulse.ticked_at,
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(super) fn note_stopping(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }
}

/// The clock's time in the words of `jiff`; a clock beyond the year 9999 stands at its end.
pub fn instant(clock: &dyn Clock) -> Timestamp {
    let now = clock.now();
    let nanos = i32::try_from(now.nanos).unwrap_or(0);
    Timestamp::new(now.secs, nanos).unwrap_or(if now.secs < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// This process, as the kernel tells it apart from all others.
pub fn this_process() -> Process {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let boot_id = read("/proc/sys/kernel/random/boot_id").trim().to_owned();
    // The program's name is in parentheses and may hold anything; the start is the 20th field after it.
    let stat = read("/proc/self/stat");
    let start = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok()).unwrap_or(0);
    Process { boot_id, pid: std::process::id(), start }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_told_apart_by_boot_and_start() {
        let process = this_process();
        assert_eq!(process, this_process());
        assert!(process.start > 0 && process.boot_id.len() == 36, "{process:?}");
    }
}
