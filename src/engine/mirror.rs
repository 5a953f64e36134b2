//! The mirror: the view folded from a namespace's journal.
//!
//! [`Mirror::apply`] is the only way it changes, live and at the start alike. A fold reads nothing
//! but its own entity's entries, so a journal from which superseded entries are gone folds to the
//! same mirror.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    errors::ErrorGroups,
    queues::Queues,
    rate::Rate,
    tasks::{Kept, Tasks},
};
use crate::{
    domain::{
        Entry, QueueId, Revision, StateId, TaskId, Uid,
        entry::{Horizon, Instance, TaskRemoved},
        failure::Fingerprint,
        state::{DeltaResult, LargeValue, PartResult, State, StateDelta, StateSnapshot},
        task::{Phase, Status, Task},
    },
    journal::Committed,
};

/// A task as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRow {
    /// The record.
    pub task: Task,
    /// Revision of the record.
    pub revision: Revision,
    /// Revision of its first record.
    pub created: Revision,
}

/// What is remembered of a task that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovedTask {
    /// Its uid.
    pub uid: Uid,
    /// The status it had.
    pub last_status: Status,
}

/// A state with what the journal holds of it.
#[derive(Clone, Debug)]
pub struct StateSlot {
    /// The state.
    pub state: State,
    /// Its entries in the journal that are not superseded, ascending, but for values.
    pub entries: Vec<Revision>,
    /// Its value entries that are not superseded, ascending: those its keys refer to and dead ones.
    pub values: Vec<Revision>,
    /// Bytes of these values.
    pub value_bytes: usize,
    /// Bytes of the deltas since the last snapshot.
    pub delta_bytes: usize,
    /// What the last snapshot weighed.
    pub snapshot_bytes: usize,
    /// Commits folded in this process; for counting what a watch folds.
    pub commits: u64,
    /// Batches merged in this process.
    pub merged_batches: u64,
    /// Deltas folded in this process.
    pub journal_entries: u64,
    /// Deltas that a restart would replay on top of the last snapshot.
    pub entries_since_snapshot: u64,
    /// How fast it is merged.
    pub rate: Rate,
}

/// A worker process.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceRow {
    /// Its last entry.
    pub record: Instance,
    /// That entry's revision.
    pub revision: Revision,
}

/// Everything a namespace holds, at one revision.
#[derive(Debug, Default)]
pub struct Mirror {
    /// The last revision folded.
    pub head: Revision,
    /// Removals at or before it are forgotten.
    pub horizon: Revision,
    /// The entry that set the horizon.
    pub horizon_entry: Option<Revision>,
    /// Tasks, with tombstones of the removed.
    pub tasks: Tasks,
    /// Task commits folded in this process.
    pub task_commits: u64,
    /// The last revision that changed a task which stood already.
    pub task_changed: Revision,
    /// States, the deleted ones included until the horizon passes them.
    pub states: BTreeMap<StateId, StateSlot>,
    /// Worker processes.
    pub instances: BTreeMap<Uid, InstanceRow>,
    /// Running tasks by worker process.
    pub leased: HashMap<Uid, BTreeSet<TaskId>>,
    /// Queues with their settings and counts.
    pub queues: Queues,
    /// Failures taken for the same one.
    pub errors: ErrorGroups,
    /// Commits of error groups folded in this process.
    pub error_commits: u64,
    /// How often it was put in place of one that a panic left half changed.
    pub generation: u64,
}

/// What an entry did.
#[derive(Debug)]
pub enum Folded {
    /// A task changed, came or went.
    Task {
        /// Which.
        id: TaskId,
        /// As it was.
        before: Option<Arc<TaskRow>>,
        /// As it is.
        after: Option<Arc<TaskRow>>,
    },
    /// A state took a delta.
    Delta {
        /// Which.
        state: StateId,
        /// What became of each part.
        result: DeltaResult,
    },
    /// A large value of a state was noted, for the delta behind it.
    Value,
    /// A state was written whole.
    Snapshot {
        /// Which.
        state: StateId,
        /// It was deleted by it.
        deleted: bool,
    },
    /// A worker instance was heard of, or given up.
    Instance {
        /// Which.
        uid: Uid,
    },
    /// A queue has new settings.
    Queue {
        /// Which.
        queue: QueueId,
    },
    /// An error group came or changed.
    ErrorGroup {
        /// Which.
        fingerprint: Fingerprint,
    },
    /// Old removals were forgotten.
    Horizon,
}

impl Mirror {
    /// Folds one entry.
    pub fn apply(&mut self, committed: Committed) -> Folded {
        let Committed {
            revision,
            entry,
            bytes,
        } = committed;
        self.head = self.head.max(revision);
        match entry {
            Entry::Task(task) => self.apply_task(revision, *task),
            Entry::NewTask(new) => {
                let (task, packed) = new.committed(revision);
                self.put_task(task, Some(packed), revision)
            }
            Entry::TaskRemoved(removed) => self.apply_removal(revision, &removed),
            Entry::StateDelta(delta) => self.apply_delta(revision, &delta, bytes),
            Entry::StateValue(value) => self.apply_value(revision, &value),
            Entry::StateSnapshot(snapshot) => self.apply_snapshot(revision, &snapshot, bytes),
            Entry::Instance(record) => {
                let uid = Uid::from_bytes(&record.uid).unwrap_or_default();
                self.instances.insert(uid, InstanceRow { record, revision });
                Folded::Instance { uid }
            }
            Entry::Horizon(horizon) => self.apply_horizon(revision, horizon),
            Entry::Queue(queue) => {
                let queue = self.queues.apply(revision, queue);
                Folded::Queue { queue }
            }
            Entry::ErrorGroup(group) => {
                let fingerprint = self.errors.apply(revision, *group);
                self.error_commits += 1;
                Folded::ErrorGroup { fingerprint }
            }
        }
    }

    fn apply_task(&mut self, revision: Revision, mut task: Task) -> Folded {
        // A decoder makes room for four, and most tasks have one.
        task.attempts.shrink_to_fit();
        task.create_revision = task.created_at(revision).0;
        task.set_aside(revision);
        let runs = task.phase.as_ref().is_some_and(Phase::runs);
        let kept = (!runs).then(|| task.pack(revision));
        self.put_task(task, kept, revision)
    }

    fn put_task(&mut self, task: Task, kept: Option<Box<[u8]>>, revision: Revision) -> Folded {
        let id = TaskId::trusted(&task.id);
        let after = Arc::new(TaskRow {
            created: Revision(task.create_revision),
            task,
            revision,
        });
        let kept = kept.map_or_else(|| Kept::Whole(after.clone()), Kept::Packed);
        let before = self.tasks.put(id.clone(), kept, &after);
        if let Some(before) = before.as_deref() {
            self.task_changed = revision;
            self.unlease(&id, before);
        }
        if let Some(attempt) = after.task.running() {
            self.leased
                .entry(attempt.instance())
                .or_default()
                .insert(id.clone());
        }
        self.queues
            .follow(before.as_deref().map(|row| &row.task), Some(&after.task));
        self.task_commits += 1;
        Folded::Task {
            id,
            before,
            after: Some(after),
        }
    }

    fn apply_removal(&mut self, revision: Revision, removed: &TaskRemoved) -> Folded {
        let id = TaskId::trusted(&removed.id);
        let tombstone = RemovedTask {
            uid: Uid::from_bytes(&removed.uid).unwrap_or_default(),
            last_status: removed.last_status(),
        };
        let before = self.tasks.remove(&id, tombstone, revision);
        self.task_changed = revision;
        if let Some(before) = before.as_deref() {
            self.unlease(&id, before);
            self.queues.follow(Some(&before.task), None);
        }
        self.task_commits += 1;
        Folded::Task {
            id,
            before,
            after: None,
        }
    }

    fn unlease(&mut self, id: &TaskId, row: &TaskRow) {
        let Some(attempt) = row.task.running() else {
            return;
        };
        if let Some(tasks) = self.leased.get_mut(&attempt.instance()) {
            tasks.remove(id);
            if tasks.is_empty() {
                self.leased.remove(&attempt.instance());
            }
        }
    }

    fn slot(&mut self, id: &StateId) -> &mut StateSlot {
        self.states.entry(id.clone()).or_insert_with(|| StateSlot {
            state: State::new(id.clone()),
            entries: Vec::new(),
            values: Vec::new(),
            value_bytes: 0,
            delta_bytes: 0,
            snapshot_bytes: 0,
            commits: 0,
            merged_batches: 0,
            journal_entries: 0,
            entries_since_snapshot: 0,
            rate: Rate::default(),
        })
    }

    fn apply_value(&mut self, revision: Revision, value: &LargeValue) -> Folded {
        let slot = self.slot(&StateId::trusted(&value.state));
        slot.state.apply_value(revision, value);
        slot.values.push(revision);
        slot.value_bytes += value.value.len();
        Folded::Value
    }

    fn apply_delta(&mut self, revision: Revision, delta: &StateDelta, bytes: usize) -> Folded {
        let id = StateId::trusted(&delta.state);
        let slot = self.slot(&id);
        let result = slot.state.apply_delta(revision, delta);
        slot.entries.push(revision);
        slot.delta_bytes += bytes;
        slot.commits += u64::from(result.changed);
        slot.merged_batches += merged_batches(delta, &result);
        slot.journal_entries += u64::from(!delta.parts.is_empty());
        slot.entries_since_snapshot += 1;
        Folded::Delta { state: id, result }
    }

    fn apply_snapshot(
        &mut self,
        revision: Revision,
        snapshot: &StateSnapshot,
        bytes: usize,
    ) -> Folded {
        let id = StateId::trusted(&snapshot.state);
        let slot = self.slot(&id);
        let deleted = slot.state.alive() && !snapshot.alive;
        slot.state.apply_snapshot(revision, snapshot);
        slot.entries.clear();
        slot.entries.push(revision);
        slot.values = slot.live_values();
        slot.value_bytes = slot.state.large_bytes();
        slot.delta_bytes = 0;
        slot.snapshot_bytes = bytes;
        slot.entries_since_snapshot = 0;
        slot.commits += u64::from(deleted);
        Folded::Snapshot { state: id, deleted }
    }

    fn apply_horizon(&mut self, revision: Revision, horizon: Horizon) -> Folded {
        let up_to = Revision(horizon.revision);
        self.horizon = self.horizon.max(up_to);
        self.horizon_entry = Some(revision);
        self.tasks.forget(up_to);
        self.states.retain(|_, slot| !slot.forgettable(up_to));
        self.instances.retain(|_, row| !row.forgettable(up_to));
        self.queues.forget(up_to);
        Folded::Horizon
    }

    /// Notes that a state was merged at `now`, on the monotonic clock; once for each delta.
    pub(super) fn note_merge(&mut self, state: &StateId, now: Duration) {
        if let Some(slot) = self.states.get_mut(state) {
            let (merges, batches) = (slot.journal_entries, slot.merged_batches);
            slot.rate.note(now, merges, batches);
        }
    }

    /// Takes the place of a mirror that a panic left half changed: goes on with its counters, which
    /// watches and rates compare with what they saw.
    pub(super) fn succeed(&mut self, old: &mut Mirror) {
        self.generation = old.generation + 1;
        self.task_commits = old.task_commits;
        self.error_commits = old.error_commits;
        // What was changed of old tasks since cannot be told from what is left in the journal.
        self.task_changed = self.head;
        for (id, slot) in &mut self.states {
            if let Some(old) = old.states.get_mut(id) {
                slot.commits = old.commits;
                slot.merged_batches = old.merged_batches;
                slot.journal_entries = old.journal_entries;
                slot.rate = std::mem::take(&mut old.rate);
            }
        }
    }

    /// Begins to count anew: what was replayed is not this process's work.
    pub(super) fn reset_counts(&mut self) {
        for slot in self.states.values_mut() {
            slot.merged_batches = 0;
            slot.journal_entries = 0;
            slot.rate = Rate::default();
        }
    }

    /// Entries that a horizon at `up_to` would make superfluous, its predecessor included.
    #[must_use]
    pub fn forgettable(&self, up_to: Revision) -> Vec<Revision> {
        let tasks = self
            .tasks
            .table()
            .dead()
            .map(|(revision, _)| revision)
            .take_while(|r| *r <= up_to);
        let states = self.states.values().filter(|slot| slot.forgettable(up_to));
        let instances = self.instances.values().filter(|row| row.forgettable(up_to));
        tasks
            .chain(states.flat_map(|slot| slot.entries.iter().chain(&slot.values).copied()))
            .chain(instances.map(|row| row.revision))
            .chain(self.queues.forgettable(up_to))
            .collect()
    }
}

/// Batches of a delta that took effect.
fn merged_batches(delta: &StateDelta, result: &DeltaResult) -> u64 {
    let parts = delta.parts.iter().zip(&result.parts);
    parts
        .filter(|(_, result)| matches!(result, PartResult::Applied { .. }))
        .map(|(part, _)| (part.last_sequence + 1).saturating_sub(part.first_sequence))
        .sum()
}

impl StateSlot {
    /// Value entries that its keys refer to, ascending.
    fn live_values(&self) -> Vec<Revision> {
        let mut live: Vec<_> = self.state.large_values().collect();
        live.sort_unstable();
        live
    }

    /// What a snapshot makes superfluous: every entry but the values it refers to.
    #[must_use]
    pub fn superseded_by_snapshot(&self) -> Vec<Revision> {
        let live = self.live_values();
        let dead = self.values.iter();
        let dead = dead.filter(|value| live.binary_search(value).is_err());
        self.entries.iter().chain(dead).copied().collect()
    }

    /// What a deletion makes superfluous: every entry.
    #[must_use]
    pub fn superseded_by_deletion(&self) -> Vec<Revision> {
        self.entries.iter().chain(&self.values).copied().collect()
    }

    /// Bytes of value entries that no key refers to.
    #[must_use]
    pub fn dead_value_bytes(&self) -> usize {
        self.value_bytes.saturating_sub(self.state.large_bytes())
    }

    /// Bytes of the keys and values that a snapshot carries.
    #[must_use]
    pub fn snapshot_size(&self) -> usize {
        self.state.size_bytes() - self.state.large_bytes()
    }

    /// Deleted, with no writer or task remembered.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        let state = &self.state;
        !state.alive() && state.writers().next().is_none() && state.mentions().next().is_none()
    }

    /// A deleted state whose deletion is at or before `up_to`, and of which no writer could send
    /// something again: a snapshot forgets those first.
    fn forgettable(&self, up_to: Revision) -> bool {
        let old = |entries: &[Revision]| entries.last().is_none_or(|last| *last <= up_to);
        self.is_bare() && old(&self.entries) && old(&self.values)
    }
}

impl InstanceRow {
    fn forgettable(&self, up_to: Revision) -> bool {
        self.record.expired && self.revision <= up_to
    }
}

/// Mirrors are equal when they hold the same; what only counts this process's folds is left out.
impl PartialEq for Mirror {
    fn eq(&self, other: &Self) -> bool {
        let states = |mirror: &Self| -> Vec<_> {
            mirror
                .states
                .iter()
                .map(|(id, s)| {
                    let StateSlot {
                        state,
                        entries,
                        values,
                        value_bytes,
                        ..
                    } = s.clone();
                    (id.clone(), state, entries, values, value_bytes)
                })
                .collect()
        };
        self.head == other.head
            && self.horizon == other.horizon
            && self.tasks == other.tasks
            && self.instances == other.instances
            && self.leased == other.leased
            && self.queues == other.queues
            && self.errors == other.errors
            && states(self) == states(other)
    }
}
