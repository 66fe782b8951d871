//! Sets by number, so that millions of chunks name theirs in four bytes.
//!
//! Owns each set once, and the union of any two. Refuses to forget: there are as many as there are ways in which snapshots share parts.

use std::collections::HashMap;

use super::Set;

#[derive(Default)]
pub(super) struct Sets {
    sets: Vec<Set>,
    numbers: HashMap<Set, u32>,
    unions: HashMap<(u32, u32), u32>,
}

impl Sets {
    pub fn number(&mut self, set: &Set) -> u32 {
        if let Some(number) = self.numbers.get(set) {
            return *number;
        }
        let number = self.sets.len() as u32;
        self.sets.push(set.clone());
        self.numbers.insert(set.clone(), number);
        number
    }

    pub fn union(&mut self, a: u32, b: u32) -> u32 {
        if a == b {
            return a;
        }
        let key = (a.min(b), a.max(b));
        if let Some(number) = self.unions.get(&key) {
            return *number;
        }
        let mut set = self.sets[a as usize].clone();
        set.add(&self.sets[b as usize]);
        let number = self.number(&set);
        self.unions.insert(key, number);
        number
    }

    pub fn get(&self, number: u32) -> &Set {
        &self.sets[number as usize]
    }
}
