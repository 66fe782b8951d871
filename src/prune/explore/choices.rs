//! Who chooses the steps of a run: one after the other within bounds, chance, or a run that was told before.
//!
//! Owns the search. A state that was met before with the same bounds left is not gone on from: what follows is known. Refuses to know what is explored.

use std::collections::HashSet;

use super::objects::{Hash, Op, hash};
use super::schedule::{At, Chooser, Offer};
use super::steps::{ActorId, Step, Turns};

/// Chance that follows from a seed (SplitMix64, Steele et al., OOPSLA 2014).
pub struct Chance(u64);

impl Chance {
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub fn below(&mut self, count: usize) -> usize {
        (self.next() % count.max(1) as u64) as usize
    }

    /// Once in so many.
    pub fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// What a run may hold of steps that are not dull.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Another goes on although whoever ran could.
    pub preemptions: usize,
    pub crashes: usize,
    /// Times that hours pass.
    pub passes: usize,
}

impl Bounds {
    /// What is left after a step; none: it cannot be afforded.
    fn after(self, offer: &Offer) -> Option<Self> {
        let Self { preemptions, crashes, passes } = self;
        match offer.step {
            Step::Pass => Some(Self { passes: passes.checked_sub(1)?, ..self }),
            step if step.is_crash() => Some(Self { crashes: crashes.checked_sub(1)?, ..self }),
            _ if offer.preempts => Some(Self { preemptions: preemptions.checked_sub(1)?, ..self }),
            _ => Some(self),
        }
    }
}

/// Everything within bounds: what was seen, and what is still to be tried.
pub struct Search {
    bounds: Bounds,
    seen: HashSet<Hash>,
    open: Vec<Turns>,
    chance: Chance,
}

impl Search {
    pub fn within(bounds: Bounds) -> Self {
        Self { bounds, seen: HashSet::new(), open: vec![vec![]], chance: Chance::of(1) }
    }

    /// States met so far.
    pub fn states(&self) -> usize {
        self.seen.len()
    }

    /// The next run; none: everything within the bounds was explored.
    pub fn next(&mut self) -> Option<Branch<'_>> {
        // In no order: whoever cannot go on to the end has seen some of everything.
        let at = self.chance.below(self.open.len());
        let turns = (!self.open.is_empty()).then(|| self.open.swap_remove(at))?;
        let left = self.bounds;
        Some(Branch { search: self, turns, taken: 0, left })
    }
}

/// A run that takes some turns, and then goes on where nobody was.
pub struct Branch<'s> {
    search: &'s mut Search,
    turns: Turns,
    taken: usize,
    left: Bounds,
}

impl Chooser for Branch<'_> {
    fn choose(&mut self, at: &At<'_>) -> Option<Step> {
        let dull = at.offers.first()?.step;
        if let Some((number, step)) = self.turns.get(self.taken) {
            if at.number < *number {
                return Some(dull);
            }
            let offer = at.offers.iter().find(|offer| offer.step == *step)?;
            self.left = self.left.after(offer)?;
            self.taken += 1;
            return Some(*step);
        }
        let left = [self.left.preemptions, self.left.crashes, self.left.passes].map(|left| left as u8);
        if !self.search.seen.insert(hash(&[&at.state.to_le_bytes(), &left])) {
            return None;
        }
        for offer in at.offers.iter().skip(1).filter(|offer| self.left.after(offer).is_some()) {
            let mut turns = self.turns.clone();
            turns.push((at.number, offer.step));
            self.search.open.push(turns);
        }
        Some(dull)
    }
}

/// A run by chance.
pub struct Wander {
    chance: Chance,
    left: Bounds,
    /// Of how many steps one goes to another.
    stays: usize,
    /// Of how many steps one is a crash, or a pass.
    rarely: usize,
    /// One that stands still for a while: a process that was stopped, a call that takes long.
    asleep: Option<(usize, std::ops::Range<usize>)>,
}

impl Wander {
    pub fn by(seed: u64, actors: usize, bounds: Bounds) -> Self {
        let mut chance = Chance::of(seed);
        let stays = [2, 5, 15][chance.below(3)];
        let rarely = [20, 60, 150][chance.below(3)];
        let begin = chance.below(80);
        let asleep = chance.once_in(2).then(|| (chance.below(actors), begin..begin + 10 + chance.below(150)));
        let left = Bounds {
            preemptions: usize::MAX,
            crashes: chance.below(bounds.crashes + 1),
            passes: chance.below(bounds.passes + 1),
        };
        Self { chance, left, stays, rarely, asleep }
    }
}

impl Chooser for Wander {
    fn choose(&mut self, at: &At<'_>) -> Option<Step> {
        let dull = at.offers.first()?.step;
        let rare = |offer: &&Offer| offer.step.is_crash() || offer.step == Step::Pass;
        if self.chance.once_in(self.rarely) {
            let rare: Vec<&Offer> = at.offers.iter().filter(rare).filter(|o| self.left.after(o).is_some()).collect();
            if !rare.is_empty() {
                let offer = rare[self.chance.below(rare.len())];
                self.left = self.left.after(offer).unwrap_or(self.left);
                return Some(offer.step);
            }
        }
        let sleeper = self.asleep.as_ref().filter(|(_, when)| when.contains(&at.number)).map(|(who, _)| Step::Go(*who));
        let awake: Vec<Step> = at
            .offers
            .iter()
            .filter(|offer| !rare(offer) && Some(offer.step) != sleeper)
            .map(|offer| offer.step)
            .collect();
        if awake.is_empty() || (Some(dull) != sleeper && !self.chance.once_in(self.stays)) {
            return Some(dull);
        }
        Some(awake[self.chance.below(awake.len())])
    }
}

/// A stretch of a run that somebody thought of.
#[derive(Clone, Copy, Debug)]
pub enum Leg {
    /// An actor goes on until it is about to make such a call, or is through.
    Until(ActorId, &'static str, &'static str),
    /// It goes on until it lets others go first, or is through.
    Turn(ActorId),
    /// It goes on until it is through.
    Through(ActorId),
    Take(Step),
}

/// A run along some legs; what comes then is dull.
pub struct Script {
    legs: &'static [Leg],
    at: usize,
    /// Whether the leg at hand was begun.
    begun: bool,
}

impl Script {
    pub fn of(legs: &'static [Leg]) -> Self {
        Self { legs, at: 0, begun: false }
    }

    /// Whether every leg was gone to its end.
    pub fn is_done(&self) -> bool {
        // Nobody asks any more once the last leg ends with the run.
        self.at + 1 >= self.legs.len()
    }
}

impl Chooser for Script {
    fn choose(&mut self, at: &At<'_>) -> Option<Step> {
        while let Some(leg) = self.legs.get(self.at) {
            let next = |actor: &ActorId| at.pending.get(*actor).copied().flatten();
            let step = match leg {
                Leg::Take(step) if !self.begun => Some(*step),
                Leg::Take(_) => None,
                Leg::Until(actor, verb, key) => next(actor)
                    .filter(|op| !(op.verb() == *verb && op.key().starts_with(key)))
                    .map(|_| Step::Go(*actor)),
                Leg::Turn(actor) => {
                    next(actor).filter(|op| !self.begun || !matches!(op, Op::Yield)).map(|_| Step::Go(*actor))
                }
                Leg::Through(actor) => next(actor).map(|_| Step::Go(*actor)),
            };
            if let Some(step) = step {
                self.begun = true;
                return at.offers.iter().find(|offer| offer.step == step).map(|offer| offer.step);
            }
            self.at += 1;
            self.begun = false;
        }
        at.offers.first().map(|offer| offer.step)
    }
}

/// A run that was told before.
pub struct Replay {
    turns: Turns,
    taken: usize,
}

impl Replay {
    pub fn of(turns: Turns) -> Self {
        Self { turns, taken: 0 }
    }
}

impl Chooser for Replay {
    fn choose(&mut self, at: &At<'_>) -> Option<Step> {
        let dull = at.offers.first()?.step;
        match self.turns.get(self.taken) {
            Some((number, step)) if *number == at.number => {
                self.taken += 1;
                at.offers.iter().find(|offer| offer.step == *step).map(|offer| offer.step)
            }
            _ => Some(dull),
        }
    }
}
