//! A daemon to try things on: a clock wound by hand, an engine that does as it is told, a directory of its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::core::{Core, Parts, this_process};
use super::engine::{Engine, Outcome, RunContext, RunReport, Task};
use crate::catalog::{Catalog, Counts, DrillFindings, StateLock};
use crate::clock::ManualClock;

/// 2027-01-15 08:00:00 UTC, a Friday.
pub const START: i64 = 1_800_000_000;

pub const HOME: &str = r#"
[policy.home]
source   = "/srv/home"
repo     = "main"
schedule = "daily 02:00"
keep     = "7d 4w 12m"
"#;

type Answer = Box<dyn Fn(&Task, Option<u32>, &RunContext) -> RunReport + Send + Sync>;

/// Answers with what it was given, once its gate is open; one that is cancelled at the gate says so.
pub struct FakeEngine {
    answer: Mutex<Arc<Answer>>,
    open: Mutex<bool>,
    opened: Condvar,
    begun: Mutex<Vec<String>>,
}

impl FakeEngine {
    pub fn new() -> Arc<Self> {
        let engine = Self {
            answer: Mutex::new(Arc::new(Box::new(good))),
            open: Mutex::new(true),
            opened: Condvar::new(),
            begun: Mutex::new(Vec::new()),
        };
        Arc::new(engine)
    }

    pub fn answers(&self, answer: impl Fn(&Task, Option<u32>, &RunContext) -> RunReport + Send + Sync + 'static) {
        *self.answer.lock().unwrap() = Arc::new(Box::new(answer));
    }

    pub fn shut(&self) {
        *self.open.lock().unwrap() = false;
    }

    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    /// The policies whose runs began, in order.
    pub fn begun(&self) -> Vec<String> {
        self.begun.lock().unwrap().clone()
    }

    fn perform(&self, task: &Task, files: Option<u32>, run: &RunContext) -> RunReport {
        self.begun.lock().unwrap().push(task.policy.name.to_string());
        let mut open = self.open.lock().unwrap();
        while !*open {
            if run.is_cancelled() {
                return RunReport::new(Outcome::Cancelled);
            }
            open = self.opened.wait_timeout(open, Duration::from_millis(2)).unwrap().0;
        }
        drop(open);
        let answer = Arc::clone(&*self.answer.lock().unwrap());
        answer(task, files, run)
    }
}

impl Engine for FakeEngine {
    fn backup(&self, task: &Task, run: &RunContext) -> RunReport {
        self.perform(task, None, run)
    }

    fn sample_drill(&self, task: &Task, files: u32, run: &RunContext) -> RunReport {
        self.perform(task, Some(files), run)
    }
}

/// A backup or a drill that went as well as it can.
pub fn good(_task: &Task, files: Option<u32>, run: &RunContext) -> RunReport {
    let counts = Counts { files: 12, bytes: 4 << 20, new_bytes: 1 << 20, stored_bytes: 300 << 10, ..Counts::default() };
    let drill = files.map(|files| DrillFindings {
        checked_files: u64::from(files),
        checked_bytes: 1 << 20,
        ..DrillFindings::default()
    });
    RunReport { snapshot: Some(run.id.to_string()), counts, drill, ..RunReport::new(Outcome::Succeeded) }
}

pub struct Bench {
    pub core: Arc<Core>,
    pub engine: Arc<FakeEngine>,
    pub clock: Arc<ManualClock>,
    directory: tempfile::TempDir,
    _lock: StateLock,
}

impl Bench {
    /// A daemon with these policies, in the text of a file; `main` is a repository.
    pub fn new(policies: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write_config(directory.path(), "", policies);
        Self::over(directory, Arc::new(ManualClock::at(START)))
    }

    pub fn with_daemon(daemon: &str, policies: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write_config(directory.path(), daemon, policies);
        Self::over(directory, Arc::new(ManualClock::at(START)))
    }

    fn over(directory: tempfile::TempDir, clock: Arc<ManualClock>) -> Self {
        let engine = FakeEngine::new();
        let config_dir = directory.path().join("etc");
        let config = crate::policy::load(&config_dir).unwrap_or_else(|problems| panic!("{problems:?}"));
        let lock = StateLock::acquire(&directory.path().join("state")).unwrap();
        let (catalog, damage) = Catalog::open(&lock, super::instant(&*clock)).unwrap();
        assert!(damage.is_none());
        let core = Core::new(Parts {
            catalog,
            engine: Arc::clone(&engine) as Arc<dyn Engine>,
            clock: Arc::clone(&clock) as Arc<dyn crate::clock::Clock>,
            process: this_process(),
            host: "bk01".to_owned(),
            cache: PathBuf::from("/nowhere"),
            config_dir,
            config,
        });
        Self { core, engine, clock, directory, _lock: lock }
    }

    /// The daemon dies where it stands, and another one starts `seconds` later, with a gate that is open.
    pub fn crash_and_start(self, seconds: i64) -> Self {
        let bench = self.crash(seconds);
        bench.core.recover().unwrap();
        bench
    }

    /// The same, short of looking at what the dead one left.
    pub fn crash(self, seconds: i64) -> Self {
        let Self { core, engine, clock, directory, _lock } = self;
        drop(_lock);
        clock.advance(seconds);
        let bench = Self::over(directory, clock);
        // The threads of the dead would be gone. Here they end late, when everything they record is refused.
        bench.core.catalog.interrupt_open(bench.core.now()).unwrap();
        engine.open();
        drop(core);
        bench
    }

    pub fn write(&self, policies: &str) {
        write_config(self.directory.path(), "", policies);
    }

    /// Does something to the database behind the daemon's back.
    pub fn sabotage(&self, sql: &str) {
        let path = self.directory.path().join("state/lifeboat.db");
        rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
    }

    /// Waits for everything that was begun.
    pub fn settle(&self) {
        let patience = Instant::now() + Duration::from_secs(20);
        while self.core.jobs().open() > 0 {
            assert!(Instant::now() < patience, "a run did not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the engine has heard of `n` runs.
    pub fn wait_begun(&self, n: usize) {
        let patience = Instant::now() + Duration::from_secs(20);
        while self.engine.begun().len() < n {
            assert!(Instant::now() < patience, "a run did not begin");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Winds the clock and lets the scheduler look.
    pub fn after(&self, seconds: i64) -> Duration {
        self.clock.advance(seconds);
        self.core.tick()
    }
}

fn write_config(directory: &Path, daemon: &str, policies: &str) {
    let etc = directory.join("etc");
    std::fs::create_dir_all(etc.join("policies")).unwrap();
    let main = format!(
        "[daemon]\n{daemon}\n[repository.main]\nurl = \"/srv/backup\"\nkey = \"file:/etc/lifeboat/web1.key\"\n"
    );
    std::fs::write(etc.join("lifeboat.toml"), main).unwrap();
    std::fs::write(etc.join("policies/all.toml"), policies).unwrap();
}
