//! The rules of commit and deletion that carry the load, by name.
//!
//! Owns nothing but their names. Each stands in the code as a condition that always holds, but for two that are a matter of order and of the store (`CommitCreatesOnly`,
//! `PackBeforeDelta`), which the explorer's own store breaks. Only the explorer of the protocol's states can take one away, to see that it notices (`prune::explore`).

/// A rule without which some interleaving loses a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code)] // some are taken away in the explorer's own half only
pub(crate) enum Rule {
    /// A writer reads the newest epoch once more after its record stands.
    EpochReadTwice,
    /// A writer uses no pack that is condemned in its epoch.
    CondemnedUnused,
    /// Nor one that was deleted, though an index object names it.
    GoneUnused,
    /// Nor what an index object says that appeared after its session was settled.
    SettledRunsOnly,
    /// A writer that comes to a new epoch names the condemned packs that it has used already.
    Vetoes,
    /// What stands in a commit slot stays.
    CommitCreatesOnly,
    /// A commit counts only if the boundary has not passed its session by.
    BoundaryAfterCommit,
    /// A slot before the boundary counts only if the epoch lists it.
    SlotsListed,
    /// A verdict waits for every session that began before its epoch.
    SessionsAwaited,
    /// The snapshots are listed again for the verdict.
    SnapshotsListedAgain,
    /// The trees that open sessions may use again are kept.
    ParentsKept,
    /// A pack is durable before an index object names it.
    PackBeforeDelta,
}

#[cfg(not(test))]
pub(crate) const fn holds(_: Rule) -> bool {
    true
}

#[cfg(test)]
pub(crate) use taken::{holds, without};

#[cfg(test)]
mod taken {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static TAKEN: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    pub(crate) fn holds(rule: Rule) -> bool {
        TAKEN.get() != Some(rule)
    }

    /// Takes a rule away from everything that this thread does from now on; none: all hold.
    pub(crate) fn without(rule: Option<Rule>) {
        TAKEN.set(rule);
    }
}
