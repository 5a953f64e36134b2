//! Retention by count: of the tasks that have ended, so many are kept, and the longest ended leave
//! first. Retention by age goes on beside it, with a timer for each.
//!
//! A task that was created with a request id is kept for its 24 hours all the same: a repeated
//! request must find it. It counts with the others, and is in line from then on.

use std::collections::BTreeSet;

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
    line: BTreeSet<(i64, Revision)>,
    /// Those of a replay, not in line yet: a million are sorted sooner at once.
    replayed: Vec<(i64, Revision)>,
}

impl Ended {
    fn key(row: &TaskRow) -> (i64, Revision) {
        (row.task.leaves_us(), row.created)
    }

    /// A replayed task has ended.
    pub(super) fn note(&mut self, row: &TaskRow) {
        self.replayed.push(Self::key(row));
    }

    /// All that were replayed are noted.
    pub(super) fn line_up(&mut self) {
        self.line = std::mem::take(&mut self.replayed).into_iter().collect();
    }

    /// A task has ended.
    pub(super) fn insert(&mut self, row: &TaskRow) {
        self.line.insert(Self::key(row));
    }

    /// It is gone.
    pub(super) fn remove(&mut self, row: &TaskRow) {
        self.line.remove(&Self::key(row));
    }

    /// The next that may leave, where there are more than `keep`; it is in line no longer.
    fn pop(&mut self, keep: usize, now_us: i64) -> Option<Revision> {
        if self.line.len() <= keep || self.line.first()?.0 > now_us {
            return None;
        }
        self.line.pop_first().map(|(_, created)| created)
    }
}

impl Core {
    /// Asks for the removal of what is too many, a bounded number at a time.
    pub(super) fn keep_few(&mut self) {
        let keep = self.shared.keep_ended;
        if !self.has_room_for(Kind::Removal) || keep == 0 || self.ended.line.len() <= keep {
            return;
        }
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        for _ in 0..MAX_REMOVALS {
            let Some(created) = self.ended.pop(keep, self.now.wall_us) else {
                return;
            };
            let first = mirror.tasks.newest(Revision(created.0 + 1)).next();
            if let Some((_, id, ..)) = first.filter(|(found, ..)| *found == created) {
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
    fn the_longest_ended_leave_first_and_a_protected_one_not_before_its_time() {
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
        assert_eq!(line.pop(4, 100), None);
        assert_eq!(line.pop(3, 100), Some(Revision(3)));
        assert_eq!(line.pop(2, 100), Some(Revision(1)));
        line.remove(&rows[3]);
        // The protected one alone is left, over the count.
        assert_eq!(line.pop(0, 1_009), None);
        assert_eq!(line.pop(0, 1_010), Some(Revision(2)));
        assert_eq!(line.pop(0, i64::MAX), None);
    }
}
