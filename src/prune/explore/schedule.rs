//! One run: actors on threads of their own, of which exactly one runs at a time, and whoever decides which.
//!
//! Owns the order of things. Every store call of an actor waits here until it is let go on; so a run follows from its choices, and from nothing else (actors draw
//! their randomness from a seed, and the clock stands until a choice moves it). Refuses to know what actors do (`actors`) and what must hold (`invariants`).
//!
//! A choice is a step: an actor's call is made; or it is made and its answer lost; or its process ends, right before the call or right after; or hours pass. The first
//! step that is offered is the dull one: whoever ran goes on. A run is told by its other steps: `12:g1 30:l0` (at step 12 actor 1 goes, at step 30 actor 0 loses an answer).

use std::fmt;
use std::str::FromStr;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::actors::{self, Role};
use super::invariants::{Model, Plan};
use super::objects::{Answer, Hash, Line, Objects, Op, hash};
use super::scene::Scene;
use crate::clock::{Clock, ManualClock};
use crate::names::{ObjectKey, SessionId};
use crate::pack::keys::{self, Meaning};
use crate::repository::rules::{Rule, holds};
use crate::store::{Class, Create};

/// More than a lease.
const HOURS: i64 = 7 * 3600;
/// No run of ours is longer; one that is goes round in a circle.
const STEPS_MAX: usize = 5000;

pub type ActorId = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    Go(ActorId),
    /// The call is made, and its answer lost.
    Lose(ActorId),
    /// The process ends before the call.
    Before(ActorId),
    /// The process ends after the call.
    After(ActorId),
    /// Seven hours pass.
    Pass,
}

impl Step {
    pub fn is_crash(self) -> bool {
        matches!(self, Step::Lose(_) | Step::Before(_) | Step::After(_))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Go(actor) => write!(f, "g{actor}"),
            Step::Lose(actor) => write!(f, "l{actor}"),
            Step::Before(actor) => write!(f, "b{actor}"),
            Step::After(actor) => write!(f, "a{actor}"),
            Step::Pass => write!(f, "t"),
        }
    }
}

impl FromStr for Step {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no step");
        if text == "t" {
            return Ok(Step::Pass);
        }
        let (kind, actor) = text.split_at_checked(1).ok_or_else(wrong)?;
        let actor = actor.parse().map_err(|_| wrong())?;
        match kind {
            "g" => Ok(Step::Go(actor)),
            "l" => Ok(Step::Lose(actor)),
            "b" => Ok(Step::Before(actor)),
            "a" => Ok(Step::After(actor)),
            _ => Err(wrong()),
        }
    }
}

/// The steps of a run that were not the dull ones, by their number.
pub type Turns = Vec<(usize, Step)>;

pub fn turns_text(turns: &[(usize, Step)]) -> String {
    turns.iter().map(|(at, step)| format!("{at}:{step}")).collect::<Vec<_>>().join(" ")
}

pub fn turns_of(text: &str) -> Result<Turns, String> {
    let turn = |part: &str| {
        let (at, step) = part.split_once(':').ok_or_else(|| format!("{part:?} is no turn"))?;
        Ok((at.parse().map_err(|_| format!("{part:?} has no number"))?, step.parse()?))
    };
    text.split_whitespace().map(turn).collect()
}

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

/// What an actor says beside its calls.
pub enum Note {
    /// It will try to commit this.
    Plan(Plan),
    /// It was told that its commit stands.
    Told(SessionId),
    /// A collector refused to go on.
    Doubted(String),
    /// What should not have happened to it.
    Broken(String),
}

enum Event {
    Call(Op),
    Note(Note),
    Finished,
    Panicked(String),
}

/// An actor's line to its scheduler.
#[derive(Clone)]
pub struct Wire {
    me: ActorId,
    events: Sender<(ActorId, Event)>,
    answers: Receiver<Answer>,
    ended: Arc<AtomicBool>,
    /// What anybody planned so far in this run.
    plans: Arc<Mutex<BTreeMap<SessionId, Arc<Plan>>>>,
    /// Packs that are not as durable as was said.
    late: Arc<Mutex<Vec<Op>>>,
}

impl Wire {
    pub fn planned(&self, plan: &Plan) {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.insert(plan.session, Arc::new(plan.clone()));
    }

    pub fn plan_of(&self, session: SessionId) -> Option<Arc<Plan>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).get(&session).cloned()
    }

    pub fn note(&self, note: Note) {
        let _ = self.events.send((self.me, Event::Note(note)));
    }

    /// Whether this process is no more.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Line for Wire {
    fn call(&self, op: Op) -> Answer {
        // Two rules are the store's and the packer's to keep, so without them it is the store that is another: one that replaces what stands in a slot, and one that
        // says of a pack that it is durable when it will be some time.
        match &op {
            Op::Create(key, _) if key.as_str().starts_with(keys::COMMITS) => {
                let late = std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner));
                for pack in late {
                    self.ask(pack);
                }
                if !holds(Rule::CommitCreatesOnly)
                    && let Op::Create(key, bytes) = op
                {
                    return self.ask(Op::Replace(key, bytes));
                }
            }
            Op::Create(key, _) if is_pack(key) && !holds(Rule::PackBeforeDelta) => {
                self.late.lock().unwrap_or_else(PoisonError::into_inner).push(op);
                return Answer::Created(Create::Created);
            }
            _ => {}
        }
        self.ask(op)
    }
}

fn is_pack(key: &ObjectKey) -> bool {
    matches!(keys::parse(key), Some(Meaning::Pack(..)))
}

impl Wire {
    fn ask(&self, op: Op) -> Answer {
        let ended = Answer::Failed(Class::Permanent, "this process has ended");
        if self.has_ended() || self.events.send((self.me, Event::Call(op))).is_err() {
            return ended;
        }
        self.answers.recv().unwrap_or_else(|_| {
            self.ended.store(true, Ordering::SeqCst);
            ended
        })
    }
}

struct Actor {
    pending: Option<Op>,
    answers: Sender<Answer>,
    ended: Arc<AtomicBool>,
    lives: u32,
    history: Hash,
}

/// One line of a run's story.
pub enum Line_ {
    Step { number: usize, step: Step, op: Option<Op>, answer: String },
    Said(ActorId, String),
}

/// What came of a run.
pub struct Outcome {
    pub broken: Option<String>,
    pub turns: Turns,
    pub story: Vec<Line_>,
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
    story: Vec<Line_>,
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
                    self.story.push(Line_::Said(from, format!("refused to go on: {what}")));
                }
                Event::Note(Note::Plan(plan)) => {
                    self.story.push(Line_::Said(from, format!("will commit {}", plan.session)));
                    self.model.plans.insert(plan.session, Arc::new(plan));
                }
                Event::Note(Note::Told(session)) => {
                    self.story.push(Line_::Said(from, format!("was told that {session} is committed")));
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
        let running = self.current.filter(|at| self.actors[*at].pending.as_ref().is_some_and(|op| !matches!(op, Op::Yield)));
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
                self.story.push(Line_::Step { number, step, op: None, answer: String::new() });
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
        let call = [text.as_bytes(), op.verb().as_bytes(), op.key().as_bytes(), &told_hash.to_le_bytes(), &now.to_le_bytes()];
        let call = hash(&call);
        self.trace = hash(&[&self.trace.to_le_bytes(), &call.to_le_bytes()]);
        let answer = match (&told, &op) {
            (Answer::Failed(Class::NotFound, _), _) => "not there".to_owned(),
            (Answer::Created(Create::Occupied), _) => "occupied".to_owned(),
            (Answer::Listed(listed), _) => format!("{} listed", listed.len()),
            _ => String::new(),
        };
        self.story.push(Line_::Step { number, step, op: Some(op), answer });
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

impl Outcome {
    /// The story of a run, for people.
    pub fn told(&self, config: &Config) -> String {
        let name = |actor: ActorId| format!("{actor} {:<9}", config.roles[actor].name());
        let line = |line: &Line_| match line {
            Line_::Said(actor, what) => format!("      {} {}", name(*actor), short(what)),
            Line_::Step { number, step: Step::Pass, .. } => format!("{number:>5}            seven hours pass"),
            Line_::Step { number, step, op, answer } => {
                let (Step::Go(actor) | Step::Lose(actor) | Step::Before(actor) | Step::After(actor)) = *step else {
                    return String::new();
                };
                let fate = match step {
                    Step::Lose(_) => "  THE ANSWER IS LOST",
                    Step::Before(_) => "  NOT DONE: THE PROCESS ENDS",
                    Step::After(_) => "  DONE, AND THE PROCESS ENDS",
                    Step::Go(_) | Step::Pass => "",
                };
                let (verb, key) = op.as_ref().map_or(("", ""), |op| (op.verb(), op.key()));
                format!("{number:>5} {} {verb} {} {answer}{fate}", name(actor), short(key))
            }
        };
        self.story.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// A text in which long names are cut to their last digits.
pub fn short(text: &str) -> String {
    let mut out = String::new();
    for part in text.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
        let (digits, rest) = match part.char_indices().next_back() {
            Some((at, last)) if !last.is_ascii_hexdigit() => part.split_at(at),
            _ => (part, ""),
        };
        out.push_str(if digits.len() > 8 { &digits[digits.len() - 5..] } else { digits });
        out.push_str(rest);
    }
    out
}
