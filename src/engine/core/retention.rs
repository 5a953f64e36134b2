//! Retention by count: of the tasks that have ended, so many are kept, and the longest ended leave
//! first. Retention by age goes on beside it, with a timer for each.
//!
//! A task that was created with a request id is kept for its 24 hours all the same: a repeated
//! request must find it. Until then it does not count either: else many of them would push out every
//! other task as soon as it has ended, before anyone could ask how. So the count bounds those that may
//! leave, and what is protected comes on top of it.

use std::{collections::BTreeSet, time::Duration};

use super::{
    super::{mirror::TaskRow, timers::Kind},
    Core, Work,
};
use crate::domain::Revision;

/// Removals asked for in one round; more follow in the next.
const MAX_REMOVALS: usize = 1_000;

/// Ended tasks by when they may leave: 16 bytes for each, and the tree's share.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Those that may.
    line: BTreeSet<(i64, Revision)>,
    /// Those that are protected until then.
    protected: BTreeSet<(i64, Revision)>,
    /// The longest protection there was.
    longest: Duration,
    /// Those of a replay, not in line yet: a million are sorted sooner at once. And those that are
    /// protected.
    replayed: [Vec<(i64, Revision)>; 2],
}

impl Ended {
    fn key(row: &TaskRow) -> (i64, Revision) {
        (row.task.leaves_us(), row.created)
    }

    /// A replayed task has ended.
    pub(super) fn note(&mut self, row: &TaskRow) {
        let is_protected = self.protects(row);
        self.replayed[usize::from(is_protected)].push(Self::key(row));
    }

    fn protects(&mut self, row: &TaskRow) -> bool {
        let least = Duration::from_micros(row.task.policy.least_retention_us);
        self.longest = self.longest.max(least);
        !least.is_zero()
    }

    /// All that were replayed are noted.
    pub(super) fn line_up(&mut self) {
        let lines = std::mem::take(&mut self.replayed);
        [self.line, self.protected] = lines.map(|line| line.into_iter().collect());
    }

    /// How many have ended.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.line.len() + self.protected.len()
    }

    /// A task has ended.
    pub(super) fn insert(&mut self, row: &TaskRow) {
        if self.protects(row) {
            self.protected.insert(Self::key(row));
        } else {
            self.line.insert(Self::key(row));
        }
    }

    /// It is gone.
    pub(super) fn remove(&mut self, row: &TaskRow) {
        let key = Self::key(row);
        let _ = self.line.remove(&key) || self.protected.remove(&key);
    }

    /// Puts a protected task whose time is over in line; false where there is none.
    fn release(&mut self, now_us: i64) -> bool {
        let over = self.protected.first().filter(|(until, _)| *until <= now_us);
        let Some(over) = over.copied() else {
            return false;
        };
        self.protected.remove(&over);
        self.line.insert(over)
    }

    /// The next that leaves, where there are more than `keep`; it is in line no longer.
    fn pop(&mut self, keep: usize) -> Option<Revision> {
        if self.line.len() <= keep {
            return None;
        }
        self.line.pop_first().map(|(_, created)| created)
    }
}

impl Core {
    /// Asks for the removal of what is too many, a bounded number at a time.
    pub(super) fn keep_few(&mut self) {
        let keep = self.shared.keep_ended;
        if !self.has_room_for(Kind::Removal) || keep == 0 {
            return;
        }
        // A clock that was put forward ends no protection.
        if self.wall_is_settled(self.ended.longest) {
            let now_us = self.now.wall_us;
            let mut released = 0;
            while released < MAX_REMOVALS && self.ended.release(now_us) {
                released += 1;
            }
        }
        if self.ended.line.len() <= keep {
            return;
        }
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        for _ in 0..MAX_REMOVALS {
            let Some(created) = self.ended.pop(keep) else {
                return;
            };
            if let Some(id) = mirror.tasks.created_at(created) {
                self.removals.push_back(Work::Remove(id.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::task::{Policy, Task};

    fn ended(created: u64, end_us: i64, least_retention_us: u64) -> TaskRow {
        TaskRow {
            task: Task {
                end_us,
                policy: Policy {
                    least_retention_us,
                    ..Policy::default()
                },
                ..Task::default()
            },
            revision: Revision(created),
            created: Revision(created),
        }
    }

    #[test]
    fn the_longest_ended_leave_first_and_a_protected_one_counts_from_its_time_on() {
        let mut line = Ended::default();
        let rows = [
            ended(1, 30, 0),
            ended(2, 10, 1_000),
            ended(3, 20, 0),
            ended(4, 40, 0),
        ];
        line.note(&rows[0]);
        line.note(&rows[1]);
        line.line_up();
        rows[2..].iter().for_each(|row| line.insert(row));
        assert_eq!(line.longest, Duration::from_micros(1_000));
        assert_eq!(line.pop(3), None);
        assert_eq!(line.pop(2), Some(Revision(3)));
        assert_eq!(line.pop(1), Some(Revision(1)));
        line.remove(&rows[3]);
        // The protected one alone is left.
        assert!(!line.release(1_009));
        assert_eq!(line.pop(0), None);
        assert!(line.release(1_010));
        assert!(!line.release(i64::MAX));
        assert_eq!(line.pop(0), Some(Revision(2)));
        assert_eq!(line.pop(0), None);
        line.insert(&rows[1]);
        line.remove(&rows[1]);
        assert!(!line.release(i64::MAX));
    }
}
