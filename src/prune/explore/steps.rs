//! The steps of a run, and their text.
//!
//! Owns how a run is told in one line: the steps that were not the dull ones, each with its number.

use std::fmt;
use std::str::FromStr;

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
