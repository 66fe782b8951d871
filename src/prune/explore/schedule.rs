//! One run: actors on threads of their own, of which exactly one runs at a time, and whoever decides which.
//!
//! Owns the order of things. Every store call of an actor waits here until it is let go on; so a run follows from its choices, and from nothing else (actors draw
//! their randomness from a seed, and the clock stands until a choice moves it). Refuses to know what actors do (`actors`) and what must hold (`invariants`).
//!
//! A choice is a step: an actor's call is made; or it is made and its answer lost; or its process ends, right before the call or right after; or hours pass. The first
//! step that is offered is the dull one: whoever ran goes on. A run is told by its other steps: `12:g1 30:l0` (at step 12 actor 1 goes, at step 30 actor 0 loses an answer).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::actors::{self, Role};
use super::invariants::Model;
use super::objects::{Answer, Hash, Line as _, Objects, Op, hash};
use super::scene::Scene;
use super::steps::{ActorId, Step, Turns};
use super::story::Line;
use super::wire::{Event, Note, Wire};
use crate::clock::{Clock, ManualClock};
use crate::repository::rules::Rule;
use crate::store::{Class, Create};

/// More than a lease.
const HOURS: i64 = 7 * 3600;
/// No run of ours is longer; one that is goes round in a circle.
const STEPS_MAX: usize = 5000;

/// A step that can be taken now.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    pub step: Step,
    /// Whoever ran would have gone on.
    pub preempts: bool,
}

/// Where a run stands.
pub struct At<'a> {
    pub number: usize,
    /// What each actor waits for; none: it is through.
    pub pending: &'a [Option<&'a Op>],
    /// Equal states have equal futures.
    pub state: Hash,
    pub offers: &'a [Offer],
}

pub trait Chooser {
    /// None: the run is of no more interest.
    fn choose(&mut self, at: &At<'_>) -> Option<Step>;
}

/// Who acts, on what.
#[derive(Clone)]
pub struct Config {
    pub name: &'static str,
    pub scene: Arc<Scene>,
    pub roles: Vec<Role>,
    /// Taken away from everything that the actors do, those left out whose rule it is to use what others did.
    pub without: Option<Rule>,
    /// Actors that keep the rule.
    pub spared: &'static [ActorId],
    /// Other randomness, so another order of names.
    pub salt: u64,
}

struct Actor {
    pending: Option<Op>,
    answers: Sender<Answer>,
    ended: Arc<AtomicBool>,
    lives: u32,
    history: Hash,
}

/// What came of a run.
pub struct Outcome {
    pub broken: Option<String>,
    pub turns: Turns,
    pub story: Vec<Line>,
    /// Of every step and every answer.
    pub trace: Hash,
    /// Nobody has anything left to do.
    pub complete: bool,
    pub steps: usize,
    /// How often a collector met what it could not read.
    pub doubts: usize,
    pub objects: Objects,
    pub model: Model,
    pub seconds: i64,
}

struct Run<'a> {
    clock: &'a ManualClock,
    inbox: Receiver<(ActorId, Event)>,
    actors: Vec<Actor>,
    current: Option<ActorId>,
    objects: Objects,
    model: Model,
    broken: Option<String>,
    turns: Turns,
    story: Vec<Line>,
    trace: Hash,
    number: usize,
    doubts: usize,
}

/// Runs `config` by the choices of `chooser`.
pub fn run(config: &Config, chooser: &mut dyn Chooser) -> Outcome {
    let clock = ManualClock::at(config.scene.now);
    let (events, inbox) = unbounded();
    std::thread::scope(|scope| {
        let mut actors = Vec::new();
        let plans = Arc::new(Mutex::new(BTreeMap::new()));
        for (me, role) in config.roles.iter().enumerate() {
            let (answers, receiver) = bounded(1);
            let ended = Arc::new(AtomicBool::new(false));
            let (plans, late) = (plans.clone(), Arc::default());
            let wire = Wire { me, events: events.clone(), answers: receiver, ended: ended.clone(), plans, late };
            actors.push(Actor { pending: None, answers, ended, lives: 0, history: me as Hash });
            let clock = &clock;
            scope.spawn(move || live(config, role, clock, wire));
        }
        let (objects, model) = (config.scene.objects.clone(), Model::of(&config.scene));
        let mut run = Run {
            clock: &clock,
            inbox,
            actors,
            current: None,
            objects,
            model,
            broken: None,
            turns: vec![],
            story: vec![],
            trace: 0,
            number: 0,
            doubts: 0,
        };
        for actor in 0..run.actors.len() {
            if run.actors[actor].pending.is_none() {
                run.hear(actor);
            }
        }
        let complete = run.go_on(chooser);
        let Run { objects, model, broken, turns, story, trace, number, doubts, actors, .. } = run;
        for actor in &actors {
            actor.ended.store(true, Ordering::SeqCst);
        }
        drop(actors);
        let seconds = clock.now().secs;
        Outcome { broken, turns, story, trace, complete, steps: number, doubts, objects, model, seconds }
    })
}

/// An actor's thread: its lives, one after the other.
fn live(config: &Config, role: &Role, clock: &ManualClock, wire: Wire) {
    for life in 0..role.lives() {
        wire.late.lock().unwrap_or_else(PoisonError::into_inner).clear();
        wire.ended.store(false, Ordering::SeqCst);
        let without = config.without.filter(|_| !config.spared.contains(&wire.me));
        crate::repository::rules::without(without);
        crate::seal::drawn::by(Some(&format!("{} {} {life}", config.salt, wire.me)));
        // The first call comes before anything is done, so that no two actors ever run at once.
        wire.call(Op::Yield);
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            actors::act(role, &config.scene, clock, &wire);
        }));
        if let Err(panic) = acted {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let _ = wire.events.send((wire.me, Event::Panicked(text.unwrap_or_default())));
            return;
        }
        if !wire.has_ended() {
            break;
        }
    }
    let _ = wire.events.send((wire.me, Event::Finished));
}

impl Run<'_> {
    /// Listens to the actor that runs, until it calls or is through.
    fn hear(&mut self, actor: ActorId) {
        loop {
            let Ok((from, event)) = self.inbox.recv() else {
                self.broken = Some("an actor's thread is gone".into());
                return;
            };
            match event {
                Event::Call(op) => {
                    self.actors[from].pending = Some(op);
                    if from == actor {
                        return;
                    }
                }
                Event::Note(Note::Broken(what)) => _ = self.broken.get_or_insert(format!("actor {from}: {what}")),
                Event::Note(Note::Doubted(what)) => {
                    self.doubts += 1;
                    self.story.push(Line::Said(from, format!("refused to go on: {what}")));
                }
                Event::Note(Note::Plan(plan)) => {
                    self.story.push(Line::Said(from, format!("will commit {}", plan.session)));
                    self.model.plans.insert(plan.session, Arc::new(plan));
                }
                Event::Note(Note::Told(session)) => {
                    self.story.push(Line::Said(from, format!("was told that {session} is committed")));
                    self.model.told(session);
                    self.check();
                }
                Event::Panicked(what) => {
                    self.broken.get_or_insert(format!("actor {from} panicked: {what}"));
                    return;
                }
                Event::Finished => return,
            }
        }
    }

    fn check(&mut self) {
        if let Err(what) = self.model.check(&self.objects) {
            self.broken.get_or_insert(what);
        }
    }

    fn offers(&self) -> Vec<Offer> {
        let parked: Vec<ActorId> = (0..self.actors.len()).filter(|at| self.actors[*at].pending.is_some()).collect();
        let running =
            self.current.filter(|at| self.actors[*at].pending.as_ref().is_some_and(|op| !matches!(op, Op::Yield)));
        let next = || {
            let after = self.current.map_or(0, |at| at + 1);
            parked.iter().find(|at| **at >= after).or(parked.first()).copied()
        };
        let Some(dull) = running.or_else(next) else { return vec![] };
        let mut offers = vec![Offer { step: Step::Go(dull), preempts: false }];
        let preempts = running.is_some();
        offers.extend(parked.iter().filter(|at| **at != dull).map(|at| Offer { step: Step::Go(*at), preempts }));
        let free = |step| Offer { step, preempts: false };
        let op = |at: ActorId| self.actors[at].pending.as_ref();
        if matches!(op(dull), Some(Op::Create(..))) {
            offers.push(free(Step::Lose(dull)));
        }
        if op(dull).is_some_and(Op::writes) {
            offers.push(free(Step::After(dull)));
        }
        offers.extend(parked.iter().filter(|at| op(**at).is_some_and(Op::writes)).map(|at| free(Step::Before(*at))));
        offers.push(free(Step::Pass));
        offers
    }

    fn state(&self, dull: Step) -> Hash {
        let mut words = vec![self.objects.sum, self.model.past, self.clock.now().secs as Hash];
        words.extend(self.actors.iter().flat_map(|actor| [actor.history, actor.pending.is_some() as Hash]));
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        hash(&[&bytes, dull.to_string().as_bytes()])
    }

    fn go_on(&mut self, chooser: &mut dyn Chooser) -> bool {
        while self.broken.is_none() {
            let offers = self.offers();
            let Some(dull) = offers.first().map(|offer| offer.step) else { return true };
            if self.number >= STEPS_MAX {
                self.broken = Some(format!("no end after {STEPS_MAX} steps"));
                break;
            }
            let pending: Vec<Option<&Op>> = self.actors.iter().map(|actor| actor.pending.as_ref()).collect();
            let at = At { number: self.number, pending: &pending, state: self.state(dull), offers: &offers };
            let Some(step) = chooser.choose(&at) else { return false };
            if step != dull {
                self.turns.push((self.number, step));
            }
            self.take(step);
            self.number += 1;
        }
        false
    }

    fn take(&mut self, step: Step) {
        let number = self.number;
        let actor = match step {
            Step::Pass => {
                self.clock.advance(HOURS);
                self.trace = hash(&[&self.trace.to_le_bytes(), b"pass"]);
                self.story.push(Line::Step { number, step, op: None, answer: String::new() });
                return;
            }
            Step::Go(actor) | Step::Lose(actor) | Step::Before(actor) | Step::After(actor) => actor,
        };
        let Some(op) = self.actors[actor].pending.take() else {
            self.broken = Some(format!("step {number}: {step} is not on offer; the choices belong to another run"));
            return;
        };
        let answer = match step {
            Step::Before(_) => Answer::Failed(Class::Permanent, "this process has ended"),
            _ => self.objects.apply(&op),
        };
        if !matches!(step, Step::Before(_))
            && op.writes()
            && let Err(what) = self.model.after(&op, &answer, &self.objects)
        {
            self.broken.get_or_insert(what);
        }
        let told = match step {
            Step::Lose(_) => Answer::Failed(Class::Ambiguous, "the answer got lost"),
            _ => answer,
        };
        let (this, now) = (&mut self.actors[actor], self.clock.now().secs);
        let (text, told_hash) = (step.to_string(), told.hash());
        let call =
            [text.as_bytes(), op.verb().as_bytes(), op.key().as_bytes(), &told_hash.to_le_bytes(), &now.to_le_bytes()];
        let call = hash(&call);
        self.trace = hash(&[&self.trace.to_le_bytes(), &call.to_le_bytes()]);
        let answer = match (&told, &op) {
            (Answer::Failed(Class::NotFound, _), _) => "not there".to_owned(),
            (Answer::Created(Create::Occupied), _) => "occupied".to_owned(),
            (Answer::Listed(listed), _) => format!("{} listed", listed.len()),
            _ => String::new(),
        };
        self.story.push(Line::Step { number, step, op: Some(op), answer });
        self.current = Some(actor);
        if matches!(step, Step::Before(_) | Step::After(_)) {
            this.lives += 1;
            // Nothing is left of what it knew.
            this.history = hash(&[b"life", &this.lives.to_le_bytes(), &actor.to_le_bytes()]);
            this.ended.store(true, Ordering::SeqCst);
            let _ = this.answers.send(Answer::Failed(Class::Permanent, "this process has ended"));
        } else {
            this.history = hash(&[&this.history.to_le_bytes(), &call.to_le_bytes()]);
            let _ = this.answers.send(told);
        }
        if self.broken.is_none() {
            self.hear(actor);
        }
    }
}
