//! The tasks of a mirror, as small as they can be kept.
//!
//! A million tasks may wait, and as many may have ended: each is one block of bytes, its record
//! as the journal would write it, and is unpacked (about a microsecond) when it is asked for. Those
//! that run are few and asked for all the time: they are kept as they are. Data of inputs and
//! outputs is not here at all but in the journal (see [`Task::set_aside`]).

use std::{collections::BTreeMap, sync::Arc};

use super::mirror::{RemovedTask, TaskRow};
use crate::domain::{
    Revision, TaskId,
    table::{Content, Place, RevisionTable},
    task::{Glance, Task},
};

/// A task as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// It runs.
    Whole(Arc<TaskRow>),
    /// It waits or has ended: its record without its id.
    Packed(Box<[u8]>),
}

impl Kept {
    /// What filters ask of it.
    #[must_use]
    pub fn glance(&self) -> Glance<'_> {
        match self {
            Self::Whole(row) => Glance::from(&row.task),
            Self::Packed(bytes) => {
                Glance::at(bytes).expect("the bytes are those that this process packed")
            }
        }
    }

    /// The task under its key, last changed at `revision`.
    #[must_use]
    pub fn unpack(&self, id: &TaskId, revision: Revision) -> Arc<TaskRow> {
        match self {
            Self::Whole(row) => row.clone(),
            Self::Packed(bytes) => {
                let task = Task::unpack(bytes, id.as_str(), revision)
                    .expect("the bytes are those that this process packed");
                Arc::new(TaskRow {
                    created: Revision(task.create_revision),
                    task,
                    revision,
                })
            }
        }
    }
}

/// Boxed, because every row is as large as the largest.
pub type Tombstone = Box<RemovedTask>;

/// All tasks, with tombstones of the removed.
#[derive(Debug, Default)]
pub struct Tasks {
    table: RevisionTable<TaskId, Kept, Tombstone>,
    /// By the revision that created them: the order of lists.
    created: BTreeMap<Revision, u32>,
}

/// Equal when they hold the same, in whatever slots.
impl PartialEq for Tasks {
    fn eq(&self, other: &Self) -> bool {
        self.table == other.table && self.created.keys().eq(other.created.keys())
    }
}

impl Tasks {
    /// A task that stands.
    #[must_use]
    pub fn get(&self, id: &TaskId) -> Option<Arc<TaskRow>> {
        match self.row(id)? {
            (revision, Content::Live(kept)) => Some(kept.unpack(id, revision)),
            (_, Content::Dead(_)) => None,
        }
    }

    /// What is known of a task, removed or not, and its last revision.
    #[must_use]
    pub fn row(&self, id: &TaskId) -> Option<(Revision, Content<'_, Kept, Tombstone>)> {
        let row = self.table.row(id)?;
        Some((row.revision, row.content))
    }

    /// The task whose last record is that of a revision.
    #[must_use]
    pub fn at(&self, revision: Revision) -> Option<Arc<TaskRow>> {
        let before = Place::after(Revision(revision.0.checked_sub(1)?));
        let (place, id, content) = self.table.changes_behind(before).next()?;
        match content {
            Content::Live(kept) if place.revision() == revision => Some(kept.unpack(id, revision)),
            _ => None,
        }
    }

    /// Tasks that stand, unpacked, in no particular order.
    pub fn rows(&self) -> impl Iterator<Item = Arc<TaskRow>> {
        self.iter()
            .map(|(id, revision, kept)| kept.unpack(id, revision))
    }

    /// Tasks that stand, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&TaskId, Revision, &Kept)> {
        self.table.iter()
    }

    /// The task that stands and was created there.
    pub(crate) fn created_at(&self, revision: Revision) -> Option<&TaskId> {
        let (id, row) = self.table.in_slot(*self.created.get(&revision)?)?;
        matches!(row.content, Content::Live(_)).then_some(id)
    }

    /// Tasks that stand and were created before a revision, newest first.
    pub fn newest(
        &self,
        before: Revision,
    ) -> impl Iterator<Item = (Revision, &TaskId, Revision, &Kept)> {
        let slots = self.created.range(..before).rev();
        slots.filter_map(|(created, slot)| {
            let (id, row) = self.table.in_slot(*slot)?;
            match row.content {
                Content::Live(kept) => Some((*created, id, row.revision, kept)),
                Content::Dead(_) => None,
            }
        })
    }

    /// How many stand.
    #[must_use]
    pub fn live_len(&self) -> usize {
        self.table.live_len()
    }

    /// All of it, for walks.
    #[must_use]
    pub fn table(&self) -> &RevisionTable<TaskId, Kept, Tombstone> {
        &self.table
    }

    /// Takes in a task's next record, to be kept so; gives the one before.
    pub(super) fn put(&mut self, id: TaskId, kept: Kept, row: &TaskRow) -> Option<Arc<TaskRow>> {
        let (slot, before) = self.table.put_in_slot(id.clone(), kept, row.revision);
        let before = before.map(|(revision, kept)| kept.unpack(&id, revision));
        let created = before.as_ref().map(|before| before.created);
        if created != Some(row.created) {
            if let Some(created) = created {
                self.created.remove(&created);
            }
            self.created.insert(row.created, slot);
        }
        before
    }

    /// Removes a task; gives what it was.
    pub(super) fn remove(
        &mut self,
        id: &TaskId,
        tombstone: RemovedTask,
        revision: Revision,
    ) -> Option<Arc<TaskRow>> {
        let last = self.row(id).map(|(revision, _)| revision);
        let before = self.table.delete(id, Box::new(tombstone), revision);
        let before = before.and_then(|kept| Some(kept.unpack(id, last?)))?;
        self.created.remove(&before.created);
        Some(before)
    }

    /// Forgets the tombstones at or before a revision.
    pub(super) fn forget(&mut self, up_to: Revision) {
        self.table.forget(up_to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        Uid,
        task::{Payload, Phase, Running, Status, Terminal},
    };

    fn row(revision: u64, phase: Option<Phase>) -> (Kept, Arc<TaskRow>) {
        let task = Task {
            id: "0191f0a4-3f77-7a34-9c52-1e8ad4176b90".into(),
            r#type: "resize".into(),
            create_revision: 3,
            input: Some(Payload {
                content_type: "application/json".into(),
                data: vec![1; 1_000].into(),
                ..Payload::default()
            }),
            ..Task::default()
        };
        let mut task = task.begin(Uid(7), 1);
        task.set_aside(Revision(3));
        let runs = phase.is_some_and(|phase| matches!(phase, Phase::Running(_)));
        let packed = (!runs).then(|| task.pack(Revision(revision)));
        let row = Arc::new(TaskRow {
            task,
            revision: Revision(revision),
            created: Revision(3),
        });
        let kept = packed.map_or_else(|| Kept::Whole(row.clone()), Kept::Packed);
        (kept, row)
    }

    #[test]
    fn a_task_comes_back_as_it_was_put_away() {
        let mut tasks = Tasks::default();
        let rows = [
            row(3, None),
            row(5, Some(Phase::Running(Running {}))),
            row(9, Some(Phase::Terminal(Terminal { status: 4 }))),
        ];
        let id = TaskId::trusted(&rows[0].1.task.id);
        let mut before = None;
        for (kept, now) in rows {
            assert_eq!(tasks.put(id.clone(), kept, &now), before);
            assert_eq!(tasks.get(&id).as_ref(), Some(&now));
            assert_eq!(tasks.at(now.revision).as_ref(), Some(&now));
            assert_eq!(tasks.at(Revision(now.revision.0 - 1)), None);
            before = Some(now);
        }
        let newest: Vec<_> = tasks.newest(Revision(10)).map(|row| row.0).collect();
        assert_eq!(newest, [Revision(3)]);
        assert_eq!(tasks.newest(Revision(3)).count(), 0);
        let tombstone = RemovedTask {
            uid: Uid(7),
            last_status: Status::Succeeded,
        };
        assert_eq!(tasks.remove(&id, tombstone, Revision(11)), before);
        assert_eq!((tasks.get(&id), tasks.live_len()), (None, 0));
        assert_eq!(tasks.newest(Revision(100)).count(), 0);
        tasks.forget(Revision(11));
        assert_eq!(tasks, Tasks::default());
    }

    #[test]
    fn a_waiting_task_takes_little() {
        let (Kept::Packed(bytes), _) = row(3, None) else {
            panic!("a waiting task is packed");
        };
        assert!(bytes.len() < 120, "{} bytes", bytes.len());
    }
}
