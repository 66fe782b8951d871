//! A set of small numbers: which of the snapshots of a walk.
//!
//! Owns one bit for each. Refuses to know what the numbers stand for.

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Set(Vec<u64>);

impl Set {
    pub fn one(number: usize) -> Self {
        let mut set = Self::default();
        set.insert(number);
        set
    }

    pub fn insert(&mut self, number: usize) {
        if self.0.len() <= number / 64 {
            self.0.resize(number / 64 + 1, 0);
        }
        self.0[number / 64] |= 1 << (number % 64);
    }

    pub fn add(&mut self, other: &Set) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(own, more)| *own |= more);
    }

    pub fn contains(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|bits| bits >> (number % 64) & 1 == 1)
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.0.len() * 64).filter(|number| self.contains(*number))
    }
}

impl FromIterator<usize> for Set {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        let mut set = Self::default();
        numbers.into_iter().for_each(|number| set.insert(number));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_two_of_the_same_are_equal() {
        let mut set = Set::one(3);
        set.add(&Set::one(130));
        assert_eq!(set.iter().collect::<Vec<_>>(), [3, 130]);
        assert_eq!((set.len(), set.contains(64), set.contains(130), set.contains(900)), (2, false, true, false));
        assert_eq!(set, [130, 3].into_iter().collect());
        let mut small = Set::one(1);
        small.add(&Set::one(2));
        assert!(small == [1, 2].into_iter().collect::<Set>() && !small.is_empty() && Set::default().is_empty());
    }
}
