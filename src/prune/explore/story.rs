//! What happened in a run, line by line.
//!
//! Owns the text. Names are cut to their last digits: in one run those differ.

use super::objects::Op;
use super::schedule::Config;
use super::steps::{ActorId, Step};

/// One line of a run's story.
pub enum Line {
    Step { number: usize, step: Step, op: Option<Op>, answer: String },
    Said(ActorId, String),
}

/// The story of a run, for people.
pub fn tell(story: &[Line], config: &Config) -> String {
    let name = |actor: ActorId| format!("{actor} {:<9}", config.roles[actor].name());
    let line = |line: &Line| match line {
        Line::Said(actor, what) => format!("      {} {}", name(*actor), short(what)),
        Line::Step { number, step: Step::Pass, .. } => format!("{number:>5}            seven hours pass"),
        Line::Step { number, step, op, answer } => {
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
    story.iter().map(line).collect::<Vec<_>>().join("\n")
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
