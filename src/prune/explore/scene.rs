//! What runs begin with: a repository, its keys, and the snapshots that are there already.
//!
//! Owns the scenes, each made once in a process by the same code that runs explore, and from a seed: the same names everywhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::invariants::{Decoder, Plan};
use super::objects::{Alone, Line, Objects, SimStore};
use super::writer::{Stage, Task, save};
use crate::clock::ManualClock;
use crate::names::SessionId;
use crate::repository::{Error, Repository, export_writer, init};
use crate::seal::key::Key;

const NOW: i64 = 1_800_000_000;

/// Snapshots of a scene, in their order: by which writer, and what.
pub type Past = &'static [(usize, Task)];

pub struct Scene {
    pub objects: Objects,
    pub admin: String,
    /// Of one group.
    pub writers: [String; 2],
    pub plans: BTreeMap<SessionId, Arc<Plan>>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<SessionId>,
    pub now: i64,
    pub decoder: Decoder,
}

/// The repository at the end of a line, for the holder of a key. Each frame becomes a pack of its own.
pub fn open<L: Line>(line: &L, key: &str) -> Repository {
    try_open(line, key).expect("a scene's repository opens")
}

pub fn try_open<L: Line>(line: &L, key: &str) -> Result<Repository, Error> {
    let key = Key::from_text(key).expect("a scene's key was written by this process");
    let mut repository = Repository::open(Arc::new(SimStore(line.clone())), key)?;
    repository.config.pack_bytes = 1;
    Ok(repository)
}

/// What the past of a scene is noted in.
#[derive(Default)]
struct Notes(Mutex<Vec<Plan>>);

impl Stage for Notes {
    fn plan(&self, plan: Plan) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(plan);
    }
    fn told(&self, _: SessionId) {}
    fn known(&self, session: SessionId) -> Option<Arc<Plan>> {
        let plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        plans.iter().find(|plan| plan.session == session).cloned().map(Arc::new)
    }
}

impl Scene {
    /// The scene with these snapshots.
    pub fn after(past: Past) -> Arc<Self> {
        static MADE: Mutex<BTreeMap<usize, Arc<Scene>>> = Mutex::new(BTreeMap::new());
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        made.entry(past.as_ptr().addr()).or_insert_with(|| Arc::new(Self::make(past))).clone()
    }

    fn make(past: Past) -> Self {
        crate::seal::drawn::by(Some("a scene"));
        let (store, clock) = (Alone::default(), ManualClock::at(NOW));
        let made = init::<Error>(&SimStore(store.clone()), &clock, None, |_| Ok(())).expect("a scene is made");
        let admin = made.key.to_text().to_string();
        let writers = ["one", "two"].map(|name| {
            let (_, key) = export_writer(&open(&store, &admin), &clock, name, Some("default")).expect("a key is made");
            key.to_text().to_string()
        });
        // As the first prune of a repository does; what it makes of the packs' size is not what is stored.
        let repository = Repository::open(Arc::new(SimStore(store.clone())), Key::from_text(&admin).expect("a key"));
        repository.and_then(|repository| repository.raise_deletion(&clock)).expect("a scene is made");
        let notes = Notes::default();
        for (writer, task) in past {
            clock.advance(60);
            save(&open(&store, &writers[*writer]), &clock, task, &notes).expect("a scene's backup succeeds");
        }
        crate::seal::drawn::by(None);
        let plans = notes.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (objects, snapshots) = (store.objects(), plans.iter().map(|plan| plan.session).collect());
        let plans = plans.into_iter().map(|plan| (plan.session, Arc::new(plan))).collect();
        Self { decoder: Decoder::new(&admin, &objects), objects, admin, writers, plans, snapshots, now: NOW + 3600 }
    }
}
