//! Who acts in a run: writers, collectors, an admin who forgets, readers.
//!
//! Owns what each does, built of the parts that production is built of (`writer` owns backups), on one thread.

use std::sync::Arc;
use std::time::Duration;

use super::invariants::Plan;
use super::objects::{Line, Op};
use super::scene::{Scene, try_open};
use super::wire::{Note, Wire};
use super::writer::{Stage, Task, entries_of, save};
use crate::clock::Clock;
use crate::names::SessionId;
use crate::pack::entry::{Content, Extent, Kind};
use crate::pack::record::Decision;
use crate::prune;
use crate::repository::{ChunkReader, Error, Index, Repository, Scope, Snapshot, SnapshotState, Snapshots};

/// A session that is fenced starts again so often.
const ATTEMPTS: usize = 2;
/// A reader that meets a collector looks at the index anew so often.
const LOOKS: usize = 6;

/// What follows on a forget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// A collector ends the undo window.
    Nothing,
    Expire,
    TakeBack,
}

#[derive(Clone, Debug)]
pub enum Role {
    /// Which of the scene's keys, and how many processes it may have, one after the other.
    Writer { key: usize, tasks: &'static [Task], lives: u32 },
    /// Lets the scene's oldest snapshots go, so many, one after the other.
    Forgetter { count: usize, then: Then },
    /// Prunes until nothing is left to do, so often at most in one life.
    Collector { runs: u32, lives: u32 },
    /// Restores every good snapshot, so often.
    Reader { times: u32 },
}

impl Role {
    pub fn name(&self) -> &'static str {
        match self {
            Role::Writer { .. } => "writer",
            Role::Forgetter { .. } => "forgetter",
            Role::Collector { .. } => "collector",
            Role::Reader { .. } => "reader",
        }
    }

    pub fn lives(&self) -> u32 {
        match self {
            Role::Writer { lives, .. } | Role::Collector { lives, .. } => *lives,
            Role::Forgetter { .. } | Role::Reader { .. } => 1,
        }
    }
}

/// What `role` does in one life.
pub fn act(role: &Role, scene: &Scene, clock: &dyn Clock, wire: &Wire) {
    let acted = match role {
        Role::Writer { key, tasks, .. } => try_open(wire, &scene.writers[*key])
            .and_then(|repository| tasks.iter().try_for_each(|task| back_up(&repository, clock, task, wire, scene))),
        Role::Forgetter { count, then } => {
            try_open(wire, &scene.admin).and_then(|repository| forget(&repository, clock, wire, scene, *count, *then))
        }
        Role::Collector { runs, .. } => collect(scene, clock, wire, *runs),
        Role::Reader { times } => try_open(wire, &scene.admin).and_then(|repository| {
            (0..*times).try_for_each(|_| {
                wire.call(Op::Yield);
                read(&repository, wire, scene)
            })
        }),
    };
    if let Err(error) = acted
        && !wire.has_ended()
    {
        wire.note(Note::Broken(format!("a {} failed: {error:?}", role.name())));
    }
}

struct OnWire<'a>(&'a Wire, &'a Scene);

impl Stage for OnWire<'_> {
    fn plan(&self, plan: Plan) {
        self.0.planned(&plan);
        self.0.note(Note::Plan(plan));
    }
    fn told(&self, session: SessionId) {
        self.0.note(Note::Told(session));
    }
    fn known(&self, session: SessionId) -> Option<Arc<Plan>> {
        self.1.plans.get(&session).cloned().or_else(|| self.0.plan_of(session))
    }
}

fn back_up(repository: &Repository, clock: &dyn Clock, task: &Task, wire: &Wire, scene: &Scene) -> Result<(), Error> {
    for attempt in 1.. {
        wire.call(Op::Yield);
        match save(repository, clock, task, &OnWire(wire, scene)) {
            Err(Error::Fenced { .. }) if attempt < ATTEMPTS => {}
            Err(Error::Fenced { .. }) => break,
            saved => return saved.map(drop),
        }
    }
    Ok(())
}

/// Prunes without waiting, and keeping nothing that is forgotten.
pub fn request(repository: &Repository) -> prune::Request {
    // A pack is written anew as soon as it pays at all.
    prune::Request { undo_window: Duration::ZERO, leave: 0.0, ..prune::Request::of(repository) }
}

/// A collector of its own process for each run, as a timer starts them.
fn collect(scene: &Scene, clock: &dyn Clock, wire: &Wire, runs: u32) -> Result<(), Error> {
    for _ in 0..runs {
        let repository = try_open(wire, &scene.admin)?;
        match prune::run(&repository, clock, &request(&repository), &prune::Control::default()) {
            Ok(_) => {}
            // The admin's own session was taken for dead, or what it looked at went away under it: the next one does it.
            Err(prune::Error::Repository(Error::Fenced { .. })) => {}
            Err(prune::Error::Doubt(doubts)) => wire.note(Note::Doubted(format!("{doubts:?}"))),
            Err(prune::Error::Repository(error)) => return Err(error),
            Err(error) => wire.note(Note::Broken(format!("a prune failed: {error:?}"))),
        }
        wire.call(Op::Yield);
    }
    Ok(())
}

fn forget(
    repository: &Repository,
    clock: &dyn Clock,
    wire: &Wire,
    scene: &Scene,
    count: usize,
    then: Then,
) -> Result<(), Error> {
    for session in scene.snapshots.iter().take(count) {
        wire.call(Op::Yield);
        let snapshots = Snapshots::list(repository)?;
        let Some(snapshot) = snapshots.readable.iter().find(|snapshot| snapshot.session == *session) else { continue };
        let mut decisions = vec![Decision::Forget("its time has come".into())];
        match then {
            Then::Nothing => {}
            Then::Expire => decisions.push(Decision::Expire),
            Then::TakeBack => decisions.push(Decision::Undelete),
        }
        for decision in decisions {
            match repository.decide(clock, *session, &snapshot.slot, &decision) {
                // A collector was faster.
                Ok(_) | Err(Error::Undecided { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Restores every snapshot that is good now and still good when it was read.
fn read(repository: &Repository, wire: &Wire, scene: &Scene) -> Result<(), Error> {
    let mut failed = None;
    for _ in 0..LOOKS {
        let snapshots = Snapshots::list(repository)?;
        let good: Vec<&Snapshot> =
            snapshots.readable.iter().filter(|snapshot| snapshot.state == SnapshotState::Good).collect();
        match restore(repository, &good, &|session| OnWire(wire, scene).known(session)) {
            Ok(()) => return Ok(()),
            Err(error) if error.is_damage() => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Reads snapshots whole, and compares them with what was saved.
pub fn restore(
    repository: &Repository,
    snapshots: &[&Snapshot],
    plan: &dyn Fn(SessionId) -> Option<Arc<Plan>>,
) -> Result<(), Error> {
    let mut refused = None;
    let index = Index::load(repository, Scope::Read, &mut |error| refused = Some(error))?;
    if let Some(error) = refused {
        return Err(error);
    }
    for snapshot in snapshots {
        let reader = ChunkReader::new(repository, &index, snapshot.writer)?;
        let body = snapshot.need_body(repository)?;
        let mut files = Vec::new();
        for source in &body.sources {
            for (name, (entry, _)) in entries_of(&reader, &source.tree())? {
                let Kind::File { content: Content::Extents(extents), .. } = entry.kind else { continue };
                let mut bytes = Vec::new();
                for extent in extents {
                    if let Extent::Data { id, .. } = extent {
                        bytes.extend(reader.data(&id)?);
                    }
                }
                files.push((name, bytes));
            }
        }
        let plan = plan(snapshot.session).expect("whoever commits has told its plan");
        assert_eq!(files, plan.files, "snapshot {} came back as another", snapshot.session);
    }
    Ok(())
}
