//! The line of an actor to its scheduler: its calls, and what it says beside them.
//!
//! Owns the two rules that are not the journeys' to keep but the store's and the packer's: without one of them it is the store at this line's end that is another.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender};

use super::invariants::Plan;
use super::objects::{Answer, Line, Op};
use super::steps::ActorId;
use crate::names::{ObjectKey, SessionId};
use crate::pack::keys::{self, Meaning};
use crate::repository::rules::{Rule, holds};
use crate::store::{Class, Create};

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

pub enum Event {
    Call(Op),
    Note(Note),
    Finished,
    Panicked(String),
}

/// An actor's line to its scheduler.
#[derive(Clone)]
pub struct Wire {
    pub me: ActorId,
    pub events: Sender<(ActorId, Event)>,
    pub answers: Receiver<Answer>,
    /// Whether this process is no more.
    pub ended: Arc<AtomicBool>,
    /// What anybody planned so far in this run.
    pub plans: Arc<Mutex<BTreeMap<SessionId, Arc<Plan>>>>,
    /// Packs that are not as durable as was said.
    pub late: Arc<Mutex<Vec<Op>>>,
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
