//! `lifeboat doctor`: everything that a backup and a restore rest on, looked at once.
//!
//! Owns the order: from the address outwards to the key, so that the first trouble explains those after it. Writes nothing but objects of its own
//! under `probe/`, and those only with a key that may write. Refuses to repair anything.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::text::count;
use super::{Context, memory, open};
use crate::address::Address;
use crate::clock::{Clock, SystemClock};
use crate::pack::keys;
use crate::repository::{self, Index, Repository, Scope, Snapshots, Standing};
use crate::seal::key::Role;
use crate::store::Store;
use crate::store::probe::{self, StoreMode};
use crate::store::resist::{Resistance, resist};
use crate::store::{Inspection, address};
use crate::units::ByteCount;

/// Clocks further apart are worth a word; clouds refuse at fifteen minutes.
const CLOCK_SECONDS: u64 = 60;
/// Less free space than this, and less than a twentieth part, is worth a word.
const SPACE_BYTES: u64 = 10 << 30;
const QUESTIONS: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Not looked at, and why.
    Skipped,
    Warning,
    Bad,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }
}

struct Check {
    name: &'static str,
    verdict: Verdict,
    says: String,
    hint: Option<String>,
}

/// What was found so far. The first failure decides how the command ends.
struct Examination<'a> {
    context: &'a Context,
    checks: Vec<Check>,
    exit: Exit,
}

pub fn run(context: &Context) -> Result<Exit> {
    let mut examination = Examination { context, checks: Vec::new(), exit: Exit::Done };
    let mode = examination.all();
    let Examination { checks, exit, .. } = examination;
    let screen = &context.screen;
    if screen.json {
        let list: Vec<_> = checks
            .iter()
            .map(|check| json!({ "check": check.name, "verdict": check.verdict.word(), "says": check.says, "hint": check.hint }))
            .collect();
        screen.document(&json!({ "healthy": exit == Exit::Done, "store_mode": mode, "checks": list }))?;
        return Ok(exit);
    }
    for check in &checks {
        screen.line(format!("{:<8} {:<11} {}", check.verdict.word(), check.name, check.says))?;
        if let Some(hint) = &check.hint {
            screen.line(format!("{:21}hint: {hint}", ""))?;
        }
    }
    let warnings = checks.iter().filter(|check| check.verdict == Verdict::Warning).count();
    screen.line(match (exit, warnings) {
        (Exit::Done, 0) => "all is well".to_owned(),
        (Exit::Done, 1) => "nothing is broken; one thing deserves a look".to_owned(),
        (Exit::Done, more) => format!("nothing is broken; {more} things deserve a look"),
        _ => "something is broken: see above".to_owned(),
    })?;
    Ok(exit)
}

impl Examination<'_> {
    fn tell(&mut self, name: &'static str, verdict: Verdict, says: impl Into<String>) -> &mut Check {
        let at = self.checks.len();
        self.checks.push(Check { name, verdict, says: says.into(), hint: None });
        &mut self.checks[at]
    }

    fn fail(&mut self, name: &'static str, failure: Failure) {
        if self.exit == Exit::Done {
            self.exit = failure.exit;
        }
        let lines = failure.lines();
        let of = |kind: &str| {
            lines.iter().filter(|(name, _)| *name == kind).map(|(_, text)| text.as_str()).collect::<Vec<_>>()
        };
        let says = [of("error"), of("caused by")].concat().join(": ");
        let hint = of("hint").first().map(|hint| (*hint).to_owned());
        self.tell(name, Verdict::Bad, says).hint = hint;
    }

    /// All checks. The answer is the store's mode, if it was asked.
    fn all(&mut self) -> Option<&'static str> {
        self.cache();
        let (address, store) = match self.store() {
            Ok(found) => found,
            Err(failure) => {
                self.fail("store", failure);
                return None;
            }
        };
        self.space(&address, &*store);
        let repository = match self.repository(store.clone()) {
            Ok(repository) => repository,
            Err(failure) => {
                self.fail("key", failure);
                return None;
            }
        };
        self.snapshots(&repository);
        self.clock_and_leftovers(&*store, &repository);
        if repository.access.writer.is_none() {
            let says =
                "a reader's key writes nothing, so nothing was tried: run this with a writer's or the admin's key";
            self.tell("behaviour", Verdict::Skipped, says);
            return memory::recall(repository.id);
        }
        let mode = self.behaviour(&*store, &repository);
        self.resistance(&*store, repository.role());
        mode
    }

    fn store(&mut self) -> Result<(Address, Arc<dyn Store>)> {
        let globals = &self.context.globals;
        let address = open::address(globals)?;
        let store = address::open(&address, &open::options()?)?;
        let mut times = Vec::new();
        for _ in 0..QUESTIONS {
            let start = Instant::now();
            store.list(keys::CONFIGS)?;
            times.push(start.elapsed());
        }
        times.sort_unstable();
        let middle = times[QUESTIONS / 2].as_secs_f64() * 1000.0;
        self.tell("store", Verdict::Good, format!("{} answers in {middle:.1} ms", store.url()));
        Ok((address, store))
    }

    fn repository(&mut self, store: Arc<dyn Store>) -> Result<Repository> {
        let Context { globals, screen } = self.context;
        let key = open::key(globals, &*store, screen)?;
        let repository = Repository::open(store.clone(), key)?;
        let says = format!("opens repository {} as {}", repository.id, repository.role().name());
        self.tell("key", Verdict::Good, says);
        let revoked = repository.access.writer.as_ref().map(|writer| writer.id);
        if let Some(writer) = revoked
            && repository.revocation(writer)?.is_some()
        {
            return Err(repository::Error::Revoked { writer }.into());
        }
        let slots = repository::slots(&*store)?.len();
        if repository.role() == Role::Admin && slots == 0 {
            self.tell(
                "ways in",
                Verdict::Warning,
                "no passphrase opens the repository: if every key file and sheet is lost, so is every backup",
            )
            .hint = Some("add one with `lifeboat key add`, or keep a printed `lifeboat key sheet`".into());
        }
        Ok(repository)
    }

    fn snapshots(&mut self, repository: &Repository) {
        let list = match Snapshots::list(repository) {
            Ok(list) => list,
            Err(error) => return self.fail("snapshots", error.into()),
        };
        let now = SystemClock.now().secs;
        let readable: Vec<_> = list.readable.iter().filter(|snapshot| !snapshot.state.is_forgotten()).collect();
        let newest = readable.iter().filter_map(|snapshot| snapshot.started()).map(|time| time.secs).max();
        let says = match newest {
            None => "there are none yet".to_owned(),
            Some(at) => format!("{} readable, the newest {} old", count(readable.len() as u64), age(now - at)),
        };
        self.tell("snapshots", Verdict::Good, says);
        if let Some(at) = newest.filter(|at| *at > now + CLOCK_SECONDS as i64) {
            let says = format!("this machine's clock stands {} before the newest snapshot", age(at - now));
            self.tell("clock", Verdict::Warning, says).hint = Some("set the clock: snapshots are named by it".into());
        }
        let forgotten = |session| list.marks.of(session).standing != Standing::Kept;
        for lost in list.unreadable.into_iter().filter(|lost| !forgotten(lost.session)) {
            self.fail("snapshots", lost.error.into());
        }
        for (_, _, error) in list.marks.doubtful {
            self.fail("snapshots", error.into());
        }
        let mut refused = Vec::new();
        let scope = match (&repository.access.reader, &repository.access.writer) {
            (None, Some(writer)) => Scope::Write { group: writer.group, writer: writer.id },
            _ => Scope::Read,
        };
        match Index::load(repository, scope, &mut |error| refused.push(error)) {
            Ok(index) if refused.is_empty() => {
                let says = format!(
                    "{} chunks in {} runs, each signed as it should be",
                    count(index.chunks()),
                    count(index.runs().len() as u64)
                );
                self.tell("index", Verdict::Good, says);
            }
            Ok(_) => {}
            Err(error) => self.fail("index", error.into()),
        }
        for error in refused {
            self.fail("index", error.into());
        }
    }

    fn clock_and_leftovers(&mut self, store: &dyn Store, repository: &Repository) {
        let found = match store.inspect() {
            Ok(found) => found,
            // Credentials for a backup need not allow to list uploads.
            Err(error) => {
                self.tell("leftovers", Verdict::Skipped, format!("the store does not tell: {error}"));
                Inspection::default()
            }
        };
        match found.clock_ahead {
            None => {}
            Some(apart) if apart.unsigned_abs() < CLOCK_SECONDS => {
                self.tell("clock", Verdict::Good, "this machine's clock and the store's agree");
            }
            Some(apart) => {
                let way = if apart > 0 { "ahead of" } else { "behind" };
                let says = format!("this machine's clock is {} {way} the store's", age(apart.abs()));
                self.tell("clock", Verdict::Warning, says).hint =
                    Some("set the clock (timedatectl, chronyc): clouds refuse signatures at 15 minutes".into());
            }
        }
        let Some(leftovers) = found.leftovers else { return };
        let old = leftovers.iter().filter(|one| SystemClock.now().secs - one.modified > 86_400).collect::<Vec<_>>();
        if old.is_empty() {
            self.tell(
                "leftovers",
                Verdict::Good,
                format!("{} unfinished uploads, none older than a day", leftovers.len()),
            );
            return;
        }
        let bytes: u64 = old.iter().map(|one| one.bytes).sum();
        let size = if bytes == 0 { String::new() } else { format!(", {}", ByteCount(bytes)) };
        let says = format!("{} unfinished uploads are older than a day{size}", old.len());
        let hint = match repository.store.url().starts_with("file:") {
            true => "the next backup removes those of sessions that ended",
            false => "let the bucket end them: a lifecycle rule that aborts multipart uploads after 7 days",
        };
        self.tell("leftovers", Verdict::Warning, says).hint = Some(hint.into());
    }

    fn behaviour(&mut self, store: &dyn Store, repository: &Repository) -> Option<&'static str> {
        let mode = match probe::probe(store) {
            Ok(found) => found.mode,
            Err(error) => {
                self.fail("behaviour", error.into());
                return None;
            }
        };
        memory::remember(repository.id, &mode, memory::Seen::Probed, &self.context.screen);
        match &mode {
            StoreMode::MultiWriter => {
                self.tell(
                    "behaviour",
                    Verdict::Good,
                    "creates never replace, one of eight that race wins, listings show what was stored",
                );
            }
            StoreMode::SingleWriter { reason } => {
                self.tell("behaviour", Verdict::Warning, format!("only one writer at a time is safe here: {reason}"))
                    .hint =
                    Some("let one host write to it, or use a store with conditional creates (If-None-Match)".into());
            }
        }
        Some(mode.as_str())
    }

    fn resistance(&mut self, store: &dyn Store, role: Role) {
        let Resistance { replaces, deletes } = match resist(store) {
            Ok(found) => found,
            Err(error) => return self.fail("resistance", error.into()),
        };
        let can = match (replaces, deletes) {
            (Some(true), true) => "replace and delete objects",
            (Some(true), false) => "replace objects",
            (_, true) => "delete objects",
            (Some(false), false) => {
                self.tell("resistance", Verdict::Good, "these credentials can neither replace objects nor delete them");
                return;
            }
            (None, false) => {
                self.tell(
                    "resistance",
                    Verdict::Good,
                    "these credentials cannot delete objects; replacing could not be tried",
                );
                return;
            }
        };
        if role == Role::Admin {
            let says =
                format!("these credentials can {can}, which pruning needs; keep them off the hosts that are saved");
            self.tell("resistance", Verdict::Good, says);
            return;
        }
        let says = format!("whoever breaks into this host can {can}: the store does not refuse");
        let hint = match store.url().starts_with("file:") {
            true => {
                "a directory cannot refuse its owner: keep a second repository in a bucket whose credentials may only create and read"
            }
            false => {
                "give this host credentials without the right to delete and to overwrite (a bucket policy), or turn on versions and Object Lock"
            }
        };
        self.tell("resistance", Verdict::Warning, says).hint = Some(hint.into());
    }

    fn cache(&mut self) {
        let Some(directory) = memory::directory() else {
            let says = "there is no place for it: neither LIFEBOAT_CACHE nor HOME is set";
            self.tell("cache", Verdict::Warning, says).hint =
                Some("set LIFEBOAT_CACHE: without a cache each run reads the index anew".into());
            return;
        };
        let written = std::fs::create_dir_all(&directory).and_then(|()| {
            let file = directory.join(format!("doctor-{}", std::process::id()));
            std::fs::write(&file, b"x").and_then(|()| std::fs::remove_file(&file))
        });
        match written {
            Ok(()) => {
                let free = free_bytes(&directory).map_or(String::new(), |free| format!(", {} free", ByteCount(free)));
                self.tell("cache", Verdict::Good, format!("{} takes files{free}", directory.display()));
            }
            Err(error) => {
                self.tell("cache", Verdict::Warning, format!("{} takes no files: {error}", directory.display())).hint =
                    Some("runs go on without it, and read the index anew each time".into());
            }
        }
    }

    fn space(&mut self, address: &Address, store: &dyn Store) {
        let free = match store.available_bytes() {
            Ok(Some(free)) => free,
            Ok(None) => return,
            Err(error) => return self.fail("space", error.into()),
        };
        let whole = address.directory().and_then(|path| rustix::fs::statvfs(path).ok());
        let whole = whole.map_or(0, |space| space.f_blocks.saturating_mul(space.f_frsize));
        let says = format!("{} free for the repository", ByteCount(free));
        if free < SPACE_BYTES && free < whole / 20 {
            self.tell("space", Verdict::Warning, says).hint =
                Some("make room before a backup fails for want of it".into());
        } else {
            self.tell("space", Verdict::Good, says);
        }
    }
}

fn free_bytes(path: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(path).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Seconds as people say them.
fn age(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
