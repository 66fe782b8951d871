//! How many snapshots of which period are to stay.
//!
//! Owns the rule and its text form. Refuses to delete: it is a wish that `prune` reads.

/// The newest of each period, in the policy's zone; 0 is no rule. At least one rule is above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Keep {
    pub last: u32,
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
}
