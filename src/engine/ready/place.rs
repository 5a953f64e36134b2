//! About how many tasks of its queue will be handed out before a waiting one.
//!
//! Counted as if nothing came and every worker took every task type: all of higher priority; of its
//! own fairness key what is older; and as many of each other key, which takes a turn for each turn of
//! its own. With many keys some are looked at and stand for the others, so the answer costs the same
//! whatever waits.

use super::{
    level::{Level, Line},
    queue::{Queue, rank},
};
use crate::domain::{Revision, task::Task};

/// Fairness keys, task types and concurrency keys that are looked at.
const MOST: usize = 128;

impl Queue {
    /// How many go before; none where it does not wait here.
    pub(super) fn before(&self, task: &Task, revision: Revision) -> Option<usize> {
        let rank = rank(task);
        let higher = self.levels.range(..rank);
        let higher: usize = higher.map(|(_, level)| level.waiting).sum();
        Some(
            higher
                + self
                    .levels
                    .get(&rank)?
                    .before(&task.fairness_key, revision)?,
        )
    }
}

impl Level {
    fn before(&self, key: &str, revision: Revision) -> Option<usize> {
        let place = self.place_of(key, self.keys.get(key)?);
        let own = |line: &Line| {
            let share = line.shares.get(key);
            share.map_or(0, |share| share.before(revision, MOST))
        };
        let own = sample(self.lines.values(), self.lines.len(), own);
        let others = self.keys.iter().filter(|(other, _)| ***other != *key);
        let others = sample(others, self.keys.len() - 1, |(name, other)| {
            let turns = own + usize::from(self.place_of(name, other) < place);
            turns.min(other.waiting)
        });
        Some(own + others)
    }
}

/// The sum over all `total` items, from some of them.
fn sample<T>(items: impl Iterator<Item = T>, total: usize, count: impl Fn(T) -> usize) -> usize {
    let seen: usize = items.take(MOST).map(count).sum();
    match total {
        0..=MOST => seen,
        // In 128 bits: a million keys with a million turns each.
        _ => usize::try_from(seen as u128 * total as u128 / MOST as u128).unwrap_or(usize::MAX),
    }
}
