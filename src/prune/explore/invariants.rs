//! What must hold after every step.
//!
//! Owns a model of what writers saved, told by them and never read back, and the checks of a store against it: a reader's view of slots and index objects, read
//! with the admin's key, each object once (`Decoder`). Refuses to trust the code under test: no rule of it is asked here but the formats.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::objects::{Alone, Answer, Hash, Object, Objects, Op};
use super::scene::Scene;
use crate::names::{ChunkId, ObjectKey, PackId, SessionId};
use crate::pack::container::PackKind;
use crate::pack::keys::{self, Meaning};
use crate::pack::record::{self, Decision};
use crate::pack::run::RunName;
use crate::repository::{Index, Repository};
use crate::seal::object::ObjectKind;
use crate::store::Create;

/// What a session saved.
#[derive(Clone)]
pub struct Plan {
    pub session: SessionId,
    /// Every chunk and node that its tree leads to.
    pub reach: Vec<ChunkId>,
    pub files: Vec<(String, Vec<u8>)>,
}

/// An index object.
pub struct RunView {
    pub name: RunName,
    pub replaced: Vec<RunName>,
    pub entries: Vec<(ChunkId, PackKind, PackId)>,
}

/// A deletion epoch or its verdict.
pub struct EpochView {
    pub condemned: HashSet<[u8; 32]>,
    pub boundary: u32,
    pub slots: HashSet<(u32, [u8; 16])>,
}

enum View {
    Run(RunView),
    Epoch(EpochView),
    Verdict(HashSet<[u8; 32]>),
    Mark(Decision),
}

/// Reads objects with the admin's key, and remembers them by their hashes.
pub struct Decoder(Mutex<Inner>);

struct Inner {
    store: Alone,
    repository: Repository,
    known: HashMap<Hash, Arc<View>>,
}

/// Views of long runs are begun anew at so many.
const KNOWN_MAX: usize = 1 << 17;

impl Decoder {
    pub fn new(admin: &str, objects: &Objects) -> Self {
        let store = Alone::over(objects.clone());
        let repository = super::scene::open(&store, admin);
        Self(Mutex::new(Inner { store, repository, known: HashMap::new() }))
    }

    fn view(&self, key: &ObjectKey, object: &Object) -> Result<Arc<View>, String> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = inner.known.get(&object.hash) {
            return Ok(view.clone());
        }
        let view = Arc::new(inner.read(key, object).map_err(|why| format!("{key} does not verify: {why}"))?);
        if inner.known.len() >= KNOWN_MAX {
            inner.known.clear();
        }
        inner.known.insert(object.hash, view.clone());
        Ok(view)
    }
}

fn rows<const N: usize>(bytes: &[u8]) -> HashSet<[u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied().collect()
}

impl Inner {
    fn read(&self, key: &ObjectKey, object: &Object) -> Result<View, String> {
        let said = |error: &dyn std::error::Error| format!("{error:?}");
        let open = |kind| self.repository.open_signed(kind, key, &object.bytes).map_err(|error| said(&error));
        match keys::parse(key) {
            Some(Meaning::Run(name)) => {
                self.store.put(key, &object.bytes);
                let mut index = Index::empty();
                let added = index.add(&self.repository, name).map_err(|error| said(&error));
                let view = added.and_then(|()| {
                    let run = index.runs().first().ok_or("it is of no group")?;
                    let mut entries = Vec::new();
                    for entry in run.iter() {
                        let entry = entry.map_err(|error| format!("{error:?}"))?;
                        let place = run.locate(&entry.id).map_err(|error| format!("{error:?}"))?;
                        let place = place.ok_or("it does not find its own entry")?;
                        entries.push((entry.id, place.pack.kind, place.pack.id));
                    }
                    let replaced = run.replaced().iter().filter(|old| run.source().may_replace(old)).copied().collect();
                    Ok(View::Run(RunView { name, replaced, entries }))
                });
                drop(index);
                self.store.take_away(key);
                view
            }
            Some(Meaning::Epoch(_)) => {
                let (_, body) = open(ObjectKind::Epoch)?;
                let epoch: record::Epoch = record::decode(&body).map_err(|error| said(&error))?;
                let mut condemned = rows::<32>(&epoch.condemned_data);
                condemned.extend(rows::<32>(&epoch.condemned_metadata));
                let slot = |row: &[u8; 20]| {
                    let (mut number, mut session) = ([0; 4], [0; 16]);
                    number.copy_from_slice(&row[..4]);
                    session.copy_from_slice(&row[4..]);
                    (u32::from_le_bytes(number), session)
                };
                let slots = epoch.slots.as_chunks::<20>().0.iter().map(slot).collect();
                Ok(View::Epoch(EpochView { condemned, boundary: epoch.boundary, slots }))
            }
            Some(Meaning::Verdict(_)) => {
                let (_, body) = open(ObjectKind::Verdict)?;
                let verdict: record::Verdict = record::decode(&body).map_err(|error| said(&error))?;
                Ok(View::Verdict(rows::<32>(&verdict.spared)))
            }
            Some(Meaning::Mark(..)) => {
                let (_, body) = open(ObjectKind::Mark)?;
                let mark: record::Mark = record::decode(&body).map_err(|error| said(&error))?;
                Ok(View::Mark(mark.decision))
            }
            _ => Err("nobody asks for it here".into()),
        }
    }
}

/// What writers saved, and what was written.
#[derive(Clone)]
pub struct Model {
    scene: Arc<Scene>,
    pub plans: BTreeMap<SessionId, Arc<Plan>>,
    told: BTreeSet<SessionId>,
    /// Snapshots that the admin let go for good.
    expired: BTreeSet<SessionId>,
    /// Every object that ever was, by its key.
    written: HashMap<ObjectKey, Hash>,
    /// What of the past matters to the future.
    pub past: Hash,
}

impl Model {
    pub fn of(scene: &Arc<Scene>) -> Self {
        let told = scene.plans.keys().copied().collect();
        let written = scene.objects.under("").map(|(key, object)| (key.clone(), object.hash)).collect();
        let (plans, expired) = (scene.plans.clone(), BTreeSet::new());
        Self { scene: scene.clone(), plans, told, expired, written, past: 0 }
    }

    pub fn told(&mut self, session: SessionId) {
        if self.told.insert(session) {
            self.past = self.past.wrapping_add(super::objects::hash(&[b"told", &session.0]));
        }
    }

    /// Takes in a write, after which `objects` are what they are.
    pub fn after(&mut self, op: &Op, answer: &Answer, objects: &Objects) -> Result<(), String> {
        let meaning = keys::parse(op_key(op));
        match (op, answer) {
            (Op::Create(key, _) | Op::Replace(key, _), Answer::Created(Create::Created)) => {
                let object = objects.get(key).ok_or("the store lost an object")?;
                if let Some(before) = self.written.insert(key.clone(), object.hash) {
                    self.may_come_again(key, meaning, before == object.hash, objects)?;
                } else {
                    self.past = self.past.wrapping_add(object.hash);
                }
                match meaning {
                    Some(Meaning::Epoch(number)) => self.may_open(number, objects)?,
                    Some(Meaning::Verdict(number)) => self.may_judge(number, objects)?,
                    Some(Meaning::Commit { .. } | Meaning::Run(_)) => {}
                    Some(Meaning::Mark(session, _)) => {
                        if matches!(&*self.view(key, object)?, View::Mark(Decision::Expire)) {
                            self.expired.insert(session);
                        }
                        return Ok(());
                    }
                    None => return Err(format!("{key} is no key of this format")),
                    Some(_) => return Ok(()),
                }
                self.check(objects)
            }
            (Op::Delete(key), _) => {
                match meaning {
                    Some(Meaning::Pack(_, pack)) => self.may_go(pack, objects)?,
                    Some(Meaning::Commit { .. } | Meaning::Run(_)) => {}
                    Some(Meaning::SessionRecord(..) | Meaning::Probe) => return Ok(()),
                    Some(Meaning::Epoch(number) | Meaning::Verdict(number)) if number < self.newest(objects)?.0 => {
                        return Ok(());
                    }
                    Some(Meaning::Mark(session, _)) => self.may_lose_mark(session, key, objects)?,
                    _ => return Err(format!("{key} was deleted")),
                }
                self.check(objects)
            }
            _ => Ok(()),
        }
    }

    /// What was deleted stays so: only a slot whose fence was swept can be taken once more, and nobody believes what stands there then.
    fn may_come_again(
        &self,
        key: &ObjectKey,
        meaning: Option<Meaning>,
        same: bool,
        objects: &Objects,
    ) -> Result<(), String> {
        let boundary = match self.newest(objects)?.1.as_deref() {
            Some(View::Epoch(epoch)) => epoch.boundary,
            _ => 0,
        };
        match meaning {
            Some(Meaning::Commit { epoch, .. }) if epoch < boundary => Ok(()),
            Some(Meaning::SessionRecord(..)) if same => Ok(()),
            Some(Meaning::Epoch(number) | Meaning::Verdict(number)) if number < self.newest(objects)?.0 => Ok(()),
            _ => Err(format!("{key} was written before, and is written again")),
        }
    }

    fn view(&self, key: &ObjectKey, object: &Object) -> Result<Arc<View>, String> {
        self.scene.decoder.view(key, object)
    }

    fn epoch(&self, number: u32, objects: &Objects) -> Result<Option<Arc<View>>, String> {
        let key = keys::epoch(number);
        objects.get(&key).map(|object| self.view(&key, object)).transpose()
    }

    fn newest(&self, objects: &Objects) -> Result<(u32, Option<Arc<View>>), String> {
        let numbers = objects.under(keys::EPOCHS).filter_map(|(key, _)| match keys::parse(key) {
            Some(Meaning::Epoch(number)) => Some(number),
            _ => None,
        });
        let newest = numbers.max().unwrap_or(0);
        Ok((newest, self.epoch(newest, objects)?))
    }

    fn may_open(&self, number: u32, objects: &Objects) -> Result<(), String> {
        if number < self.newest(objects)?.0 {
            // Its name was swept long ago, and nobody reads it again.
            return Ok(());
        }
        let before = number.checked_sub(1).ok_or("epoch 0 was created")?;
        if before > 0 && !objects.contains(&keys::verdict(before)) {
            return Err(format!("epoch {number} was opened while {before} had no verdict"));
        }
        let boundary = |view: Option<Arc<View>>| match view.as_deref() {
            Some(View::Epoch(epoch)) => epoch.boundary,
            _ => 0,
        };
        let (old, new) = (boundary(self.epoch(before, objects)?), boundary(self.epoch(number, objects)?));
        if new < old { Err(format!("the boundary went back from {old} to {new}")) } else { Ok(()) }
    }

    fn may_judge(&self, number: u32, objects: &Objects) -> Result<(), String> {
        if number < self.newest(objects)?.0 {
            return Ok(());
        }
        let key = keys::verdict(number);
        let view = objects.get(&key).map(|object| self.view(&key, object)).transpose()?;
        match (self.epoch(number, objects)?.as_deref(), view.as_deref()) {
            (Some(View::Epoch(epoch)), Some(View::Verdict(spared))) if spared.is_subset(&epoch.condemned) => Ok(()),
            (Some(View::Epoch(_)), _) => Err(format!("verdict {number} spares what was not condemned")),
            _ => Err(format!("there is verdict {number}, and no such epoch")),
        }
    }

    fn may_go(&self, pack: PackId, objects: &Objects) -> Result<(), String> {
        for (key, object) in objects.under(keys::EPOCHS) {
            let Some(Meaning::Verdict(number)) = keys::parse(key) else { continue };
            if let (View::Verdict(spared), Some(View::Epoch(epoch))) =
                (&*self.view(key, object)?, self.epoch(number, objects)?.as_deref())
                && epoch.condemned.contains(&pack.0)
                && !spared.contains(&pack.0)
            {
                return Ok(());
            }
        }
        Err(format!("pack {pack} was deleted, and no verdict says so"))
    }

    /// Marks go after the slot that they are on.
    fn may_lose_mark(&self, session: SessionId, key: &ObjectKey, objects: &Objects) -> Result<(), String> {
        let of =
            |slot: &ObjectKey| matches!(keys::parse(slot), Some(Meaning::Commit { session: of, .. }) if of == session);
        match objects.under(keys::COMMITS).any(|(slot, _)| of(slot)) {
            true => Err(format!("{key} was deleted, and its snapshot still stands")),
            false => Ok(()),
        }
    }

    /// Whether the admin let the snapshot of a session go for good.
    pub fn is_expired(&self, session: SessionId, objects: &Objects) -> Result<bool, String> {
        for (key, object) in objects.under(&keys::marks(session)) {
            if matches!(&*self.view(key, object)?, View::Mark(Decision::Expire)) {
                return Ok(true);
            }
        }
        // Its marks may be swept after its slot.
        Ok(self.expired.contains(&session))
    }

    /// Every snapshot that is there for a reader, by its session.
    pub fn live(&self, objects: &Objects) -> Result<BTreeMap<SessionId, Arc<Plan>>, String> {
        let (_, newest) = self.newest(objects)?;
        let mut live = BTreeMap::new();
        for (key, object) in objects.under(keys::COMMITS) {
            let Some(Meaning::Commit { epoch: began, session }) = keys::parse(key) else { continue };
            let is_manifest = object.bytes.get(10) == Some(&(ObjectKind::Manifest as u8));
            let counts = match newest.as_deref() {
                Some(View::Epoch(epoch)) => began >= epoch.boundary || epoch.slots.contains(&(began, session.0)),
                _ => true,
            };
            if is_manifest && counts && !self.is_expired(session, objects)? {
                let plan = self.plans.get(&session).ok_or_else(|| format!("{key}: nobody planned this commit"))?;
                live.insert(session, plan.clone());
            }
        }
        Ok(live)
    }

    /// Every chunk that a reader finds: an index object that nothing replaces names a pack that is there.
    pub fn found(&self, objects: &Objects) -> Result<HashSet<ChunkId>, String> {
        let mut views = Vec::new();
        for (key, object) in objects.under(keys::INDEX) {
            views.push(self.view(key, object)?);
        }
        let runs: Vec<&RunView> =
            views.iter().filter_map(|view| if let View::Run(run) = &**view { Some(run) } else { None }).collect();
        let replaced: HashSet<RunName> = runs.iter().flat_map(|run| run.replaced.iter().copied()).collect();
        let entries = runs.iter().filter(|run| !replaced.contains(&run.name)).flat_map(|run| &run.entries);
        let mut found = HashSet::new();
        for (chunk, kind, pack) in entries {
            if !found.contains(chunk) && objects.contains(&keys::pack(*kind, *pack)) {
                found.insert(*chunk);
            }
        }
        Ok(found)
    }

    /// Every committed snapshot is whole.
    pub fn check(&self, objects: &Objects) -> Result<(), String> {
        let live = self.live(objects)?;
        for session in &self.told {
            if !live.contains_key(session) && !self.is_expired(*session, objects)? {
                return Err(format!("snapshot {session} was committed, and does not count any more"));
            }
        }
        let found = self.found(objects)?;
        for (session, plan) in &live {
            if let Some(lost) = plan.reach.iter().find(|id| !found.contains(id)) {
                let which = if plan.reach.first() == Some(lost) { "its root" } else { "a chunk" };
                return Err(format!("snapshot {session} has lost {which} ({lost})"));
            }
        }
        Ok(())
    }

    /// Packs that hold nothing that a live snapshot needs.
    pub fn garbage(&self, objects: &Objects) -> Result<Vec<ObjectKey>, String> {
        let live = self.live(objects)?;
        let needed: HashSet<ChunkId> = live.values().flat_map(|plan| plan.reach.iter().copied()).collect();
        let mut useful: HashSet<ObjectKey> = HashSet::new();
        for (key, object) in objects.under(keys::INDEX) {
            if let View::Run(run) = &*self.view(key, object)? {
                let of = run.entries.iter().filter(|(chunk, ..)| needed.contains(chunk));
                useful.extend(of.map(|(_, kind, pack)| keys::pack(*kind, *pack)));
            }
        }
        let packs = objects.under(keys::DATA).chain(objects.under(keys::METADATA)).map(|(key, _)| key);
        Ok(packs.filter(|key| !useful.contains(key)).cloned().collect())
    }
}

fn op_key(op: &Op) -> &ObjectKey {
    match op {
        Op::Get(key) | Op::Range(key, _) | Op::Size(key) | Op::Delete(key) => key,
        Op::Create(key, _) | Op::Replace(key, _) => key,
        Op::List(_) | Op::Yield => unreachable!("neither writes"),
    }
}
