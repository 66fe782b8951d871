//! The end of all things: nobody acts any more, hours have passed, and a collector takes what nobody needs.
//!
//! Owns the claim that no garbage stays for ever.

use std::sync::{Arc, Mutex, PoisonError};

use super::actors::request;
use super::invariants::Model;
use super::objects::{Answer, Line, Objects, Op};
use super::runs::restored;
use super::scene::open;
use super::schedule::{Config, Outcome};
use crate::clock::{Clock, ManualClock};
use crate::prune;

/// One to finish an epoch, one to free what expired, one for what the first two wrote anew, and so on; far fewer are needed.
const PRUNES: usize = 8;

/// A line to objects that a model watches.
#[derive(Clone)]
struct Watched(Arc<Mutex<State>>);

struct State {
    objects: Objects,
    model: Model,
    broken: Option<String>,
}

impl Line for Watched {
    fn call(&self, op: Op) -> Answer {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { objects, model, broken } = &mut *state;
        let answer = objects.apply(&op);
        if op.writes()
            && let Err(what) = model.after(&op, &answer, objects)
        {
            broken.get_or_insert(what);
        }
        answer
    }
}

pub fn swept(config: &Config, outcome: &Outcome) -> Result<(), String> {
    let (objects, model) = (outcome.objects.clone(), outcome.model.clone());
    let store = Watched(Arc::new(Mutex::new(State { objects, model, broken: None })));
    let clock = ManualClock::at(outcome.seconds);
    let mut before = None;
    for _ in 0..PRUNES {
        clock.advance(7 * 3600);
        crate::seal::drawn::by(Some(&format!("the last prunes {}", clock.now().secs)));
        let repository = open(&store, &config.scene.admin);
        let done = prune::run(&repository, &clock, &request(&repository), &prune::Control::default());
        crate::seal::drawn::by(None);
        let report = done.map_err(|error| format!("a prune at the end of all things failed: {error:?}"))?;
        let state = store.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(broken) = &state.broken {
            return Err(format!("a prune at the end of all things: {broken}"));
        }
        restored(config, &state.model, &state.objects)?;
        if report.is_finished() && before == Some(state.objects.sum) {
            break;
        }
        before = Some(state.objects.sum);
    }
    let state = store.0.lock().unwrap_or_else(PoisonError::into_inner);
    let left = state.model.garbage(&state.objects)?;
    match left.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} objects that nobody needs stay for ever, {first} among them", left.len())),
    }
}
