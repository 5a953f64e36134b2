//! What the mirror holds of queues: settings, and how many tasks each has of every status.
//!
//! Counted as tasks are folded, so that listing queues costs nothing but the rows listed.

use std::{collections::BTreeMap, ops::Bound};

use crate::domain::{
    QueueId, Revision,
    entry::{Queue, QueueSettings},
    task::{Status, Task},
};

/// A queue as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueRow {
    /// How it hands out its tasks.
    pub settings: QueueSettings,
    /// The entry they are from; none: no entry, they are the defaults.
    pub entry: Option<Revision>,
    counts: [u64; STATUSES],
}

const STATUSES: usize = 6;

impl QueueRow {
    /// Tasks with this status, of those that are kept.
    #[must_use]
    pub fn count(&self, status: Status) -> u64 {
        self.counts[place(status)]
    }

    /// Whether it is worth showing: it has settings, or tasks.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.settings != QueueSettings::default() || self.has_tasks()
    }

    fn has_tasks(&self) -> bool {
        self.counts.iter().any(|count| *count > 0)
    }

    /// Its entry says nothing that no entry would not say, and is at or before `up_to`.
    fn is_forgettable(&self, up_to: Revision) -> bool {
        self.settings == QueueSettings::default() && self.entry.is_some_and(|entry| entry <= up_to)
    }
}

fn place(status: Status) -> usize {
    match status {
        Status::Scheduled => 0,
        Status::Queued => 1,
        Status::Running => 2,
        Status::Succeeded => 3,
        Status::Failed => 4,
        Status::Cancelled => 5,
    }
}

/// The queues of a namespace: those with settings or tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    rows: BTreeMap<QueueId, QueueRow>,
    /// How many have an entry.
    entries: usize,
}

impl Queues {
    /// One queue; none: it has neither settings nor tasks.
    #[must_use]
    pub fn get(&self, queue: &str) -> Option<&QueueRow> {
        self.rows.get(queue)
    }

    /// How many have an entry in the journal.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Those worth showing, by name.
    pub fn after(&self, name: Bound<QueueId>) -> impl Iterator<Item = (&QueueId, &QueueRow)> {
        let rows = self.rows.range((name, Bound::Unbounded));
        rows.filter(|(_, row)| row.is_known())
    }

    /// Those with an entry, by name.
    pub fn with_entry(&self) -> impl Iterator<Item = (&QueueId, &QueueRow)> {
        self.rows.iter().filter(|(_, row)| row.entry.is_some())
    }

    /// A task changed, came or went.
    pub fn follow(&mut self, before: Option<&Task>, after: Option<&Task>) {
        if let (Some(before), Some(after)) = (before, after)
            && before.queue == after.queue
        {
            let (from, to) = (place(before.status()), place(after.status()));
            if from != to
                && let Some(row) = self.rows.get_mut(before.queue.as_str())
            {
                row.counts[from] = row.counts[from].saturating_sub(1);
                row.counts[to] += 1;
            }
            return;
        }
        if let Some(task) = after {
            self.row(&task.queue).counts[place(task.status())] += 1;
        }
        if let Some(task) = before
            && let Some(row) = self.rows.get_mut(task.queue.as_str())
        {
            let count = &mut row.counts[place(task.status())];
            *count = count.saturating_sub(1);
            if row.entry.is_none() && !row.has_tasks() {
                self.rows.remove(task.queue.as_str());
            }
        }
    }

    /// New settings.
    pub fn apply(&mut self, revision: Revision, queue: Queue) -> QueueId {
        let row = self.row(&queue.name);
        row.settings = queue.settings;
        let new = row.entry.replace(revision).is_none();
        self.entries += usize::from(new);
        QueueId::trusted(&queue.name)
    }

    /// Entries that a horizon at `up_to` would make superfluous.
    pub fn forgettable(&self, up_to: Revision) -> impl Iterator<Item = Revision> {
        let rows = self.rows.values();
        let old = rows.filter(move |row| row.is_forgettable(up_to));
        old.filter_map(|row| row.entry)
    }

    /// Forgets the entries that say nothing any more.
    pub fn forget(&mut self, up_to: Revision) {
        if self.forgettable(up_to).next().is_none() {
            return;
        }
        let mut forgotten = 0;
        self.rows.retain(|_, row| {
            if row.is_forgettable(up_to) {
                row.entry = None;
                forgotten += 1;
            }
            row.entry.is_some() || row.has_tasks()
        });
        self.entries -= forgotten;
    }

    fn row(&mut self, name: &str) -> &mut QueueRow {
        // Nearly always it is there, and then no name is made.
        if !self.rows.contains_key(name) {
            self.rows
                .insert(QueueId::trusted(name), QueueRow::default());
        }
        self.rows
            .get_mut(name)
            .expect("it was inserted where it was missing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(queue: &str) -> Task {
        let task = Task {
            queue: queue.into(),
            ..Task::default()
        };
        task.begin(crate::domain::Uid(1), 1)
    }

    fn paused(name: &str, paused: bool) -> Queue {
        let settings = QueueSettings {
            paused,
            ..QueueSettings::default()
        };
        Queue {
            name: name.into(),
            settings,
        }
    }

    fn names(queues: &Queues) -> Vec<String> {
        let rows = queues.after(Bound::Unbounded);
        rows.map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn a_queue_stands_as_long_as_it_has_tasks() {
        let mut queues = Queues::default();
        let (one, other) = (task("q"), task("p"));
        queues.follow(None, Some(&one));
        queues.follow(None, Some(&one));
        assert_eq!(queues.get("q").unwrap().count(Status::Queued), 2);
        // Under a name that is used again, in another queue.
        queues.follow(Some(&one), Some(&other));
        assert_eq!(names(&queues), ["p", "q"]);
        queues.follow(Some(&one), None);
        queues.follow(Some(&other), None);
        assert_eq!(queues, Queues::default());
    }

    #[test]
    fn settings_stand_without_tasks_and_defaults_are_forgotten() {
        let mut queues = Queues::default();
        queues.apply(Revision(1), paused("q", true));
        assert_eq!((names(&queues), queues.entries()), (vec!["q".into()], 1));
        queues.apply(Revision(2), paused("q", false));
        assert!(names(&queues).is_empty());
        assert_eq!(queues.forgettable(Revision(1)).count(), 0);
        queues.forget(Revision(1));
        assert_eq!(queues.entries(), 1);
        assert_eq!(
            queues.forgettable(Revision(2)).collect::<Vec<_>>(),
            [Revision(2)]
        );
        queues.forget(Revision(2));
        assert_eq!(queues, Queues::default());
    }
}
