//! Where a run can be stopped, and how: known from a run without a fault.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::trace::Call;

/// The n-th such call of any thread, from 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Point {
    pub call: String,
    pub number: usize,
}

impl Point {
    /// Nothing is left to be done there but to end.
    pub fn is_end(&self) -> bool {
        self.call == "exit_group"
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, before the call does anything.
    Kill,
    Eio,
    Enospc,
    /// The power goes: names and bytes that were not made durable are gone.
    Lost,
    /// The power goes: the names are there, on files full of zeros.
    Torn,
}

impl Fault {
    pub const ALL: [Self; 5] = [Self::Kill, Self::Eio, Self::Enospc, Self::Lost, Self::Torn];

    pub fn is_error(self) -> bool {
        matches!(self, Self::Eio | Self::Enospc)
    }

    pub fn injection(self) -> &'static str {
        match self {
            Self::Eio => "error=EIO",
            Self::Enospc => "error=ENOSPC",
            Self::Kill | Self::Lost | Self::Torn => "signal=KILL",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Eio => "eio",
            Self::Enospc => "enospc",
            Self::Lost => "lost",
            Self::Torn => "torn",
        }
    }
}

/// Faults of runs in a row: the same command is given again after each.
#[derive(Clone, Debug)]
pub struct Trial(pub Vec<(Point, Fault)>);

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (point, fault)) in self.0.iter().enumerate() {
            let plus = if at == 0 { "" } else { "+" };
            write!(f, "{plus}{}:{}:{}", point.call, point.number, fault.word())?;
        }
        Ok(())
    }
}

impl FromStr for Trial {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |text: &str| {
            let mut parts = text.split(':');
            let (call, number, word) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
            let fault = Fault::ALL.into_iter().find(|fault| fault.word() == word)?;
            Some((Point { call: call.to_owned(), number }, fault))
        };
        let faults: Option<Vec<_>> = text.split('+').map(one).collect();
        faults.map(Self).ok_or_else(|| format!("{text:?} is not CALL:NUMBER:FAULT"))
    }
}

/// The points of a run that touched something in `place`, in the order of their first call, and its end.
pub fn points(calls: &[Call], place: &Path) -> Vec<Point> {
    let mut counts: HashMap<(&str, &str), usize> = HashMap::new();
    let (mut points, mut seen) = (Vec::new(), HashSet::new());
    for call in calls {
        let number = counts.entry((&call.thread, &call.name)).or_default();
        *number += 1;
        let here = call.paths.iter().any(|path| path.starts_with(place));
        let makes = call.name != "openat" || call.shown.contains("O_CREAT");
        let point = Point { call: call.name.clone(), number: *number };
        if ((here && makes) || point.is_end()) && seen.insert(point.clone()) {
            points.push(point);
        }
    }
    points
}

/// The end, by each fault that can come there, and `share` others: spread over the whole run, and over the faults.
pub fn spread(points: &[Point], share: usize) -> Vec<Trial> {
    let one = |point: &Point, fault| Trial(vec![(point.clone(), fault)]);
    let (ends, others): (Vec<&Point>, Vec<&Point>) = points.iter().partition(|point| point.is_end());
    let faults = Fault::ALL.into_iter().filter(|fault| !fault.is_error());
    let mut trials: Vec<Trial> = faults.flat_map(|fault| ends.iter().map(move |point| one(point, fault))).collect();
    let share = share.min(others.len() * Fault::ALL.len());
    trials.extend((0..share).map(|at| one(others[at * others.len() / share], Fault::ALL[at % Fault::ALL.len()])));
    trials
}

/// Every point by every fault; and for each point, a fault that is met by the run after a fault.
pub fn all(points: &[Point], dice: &mut u64) -> Vec<Trial> {
    let any = points.iter().flat_map(|point| Fault::ALL.map(|fault| (point.clone(), fault)));
    let singles = any.filter(|(point, fault)| !(point.is_end() && fault.is_error()));
    let mut trials: Vec<Trial> = singles.map(|one| Trial(vec![one])).collect();
    let pairs = points.iter().filter(|point| !point.is_end()).map(|point| {
        let other = &points[super::roll(dice, points.len() as u64) as usize];
        let mut fault = || Fault::ALL[super::roll(dice, Fault::ALL.len() as u64) as usize];
        let (first, second) = (fault(), fault());
        let second = if other.is_end() { Fault::Kill } else { second };
        Trial(vec![(point.clone(), first), (other.clone(), second)])
    });
    trials.extend(pairs.collect::<Vec<_>>());
    trials
}
