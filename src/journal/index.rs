//! What a journal must know of its namespace to take an entry: the head, and each entity's last
//! revision for compare-and-set.
//!
//! It is built at replay and never stored, so its hashes may differ from start to start. It must
//! say after a replay what it said before: an entity whose last entry was superseded is unknown.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use super::{Conflict, Draft};
use crate::domain::{Entry, Revision};

/// An entity as 128 bits. Two SipHashes with keys of their own, drawn at start: nobody outside
/// can make two names meet, and by chance a billion entities do with probability 10^-21.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct EntityKey([u64; 2]);

/// Makes [`EntityKey`]s; keys of two makers do not compare.
#[derive(Clone, Debug, Default)]
pub(super) struct EntityKeys([RandomState; 2]);

impl EntityKeys {
    /// The key of the entity that `entry` changes.
    pub(super) fn of(&self, entry: &Entry) -> EntityKey {
        // As `Entry::entity` has it, without its allocations.
        let entity: (u8, &[u8]) = match entry {
            Entry::Task(task) => (0, task.id.as_bytes()),
            Entry::NewTask(new) => (0, new.task.id.as_bytes()),
            Entry::TaskRemoved(removed) => (0, removed.id.as_bytes()),
            Entry::StateDelta(delta) => (1, delta.state.as_bytes()),
            Entry::StateSnapshot(snapshot) => (1, snapshot.state.as_bytes()),
            Entry::StateValue(value) => (1, value.state.as_bytes()),
            Entry::Instance(instance) => (2, &instance.uid),
            Entry::Horizon(_) => (3, &[]),
        };
        EntityKey(self.0.each_ref().map(|state| state.hash_one(entity)))
    }
}

/// The head and the last revisions.
#[derive(Debug, Default)]
pub(super) struct Index {
    head: Revision,
    last: HashMap<EntityKey, Revision>,
    /// Entities whose last entry says that they are gone: an entry of another entity (the
    /// horizon) may supersede it, and then nothing is known of them.
    gone: HashMap<Revision, EntityKey>,
}

impl Index {
    /// The last revision issued.
    pub(super) fn head(&self) -> Revision {
        self.head
    }

    /// Takes in an entry read at replay. Entries come in order.
    pub(super) fn learn(&mut self, entity: EntityKey, entry: &Entry, revision: Revision) {
        self.head = self.head.max(revision);
        if matches!(entry, Entry::StateValue(_)) {
            return;
        }
        self.last.insert(entity, revision);
        if is_removal(entry) {
            self.gone.insert(revision, entity);
        }
    }

    /// Sets the stored head, which may be beyond the last entry.
    pub(super) fn learn_head(&mut self, head: Revision) {
        self.head = self.head.max(head);
    }

    /// Gives the draft its revision, or says what stands in its way. `superseded` is called with
    /// each revision to delete; its own and later ones are not deleted.
    pub(super) fn admit(
        &mut self,
        entity: EntityKey,
        draft: &Draft,
        mut superseded: impl FnMut(Revision),
    ) -> Result<Revision, Conflict> {
        let found = self.last.get(&entity).copied().unwrap_or(Revision::ZERO);
        if draft.expect.is_some_and(|expected| expected != found) {
            return Err(Conflict { found });
        }
        let revision = self.head.next();
        self.learn(entity, &draft.entry, revision);
        for &old in draft.supersedes.iter().filter(|&&old| old < revision) {
            if let Some(entity) = self.gone.remove(&old)
                && self.last.get(&entity) == Some(&old)
            {
                self.last.remove(&entity);
            }
            superseded(old);
        }
        Ok(revision)
    }
}

fn is_removal(entry: &Entry) -> bool {
    match entry {
        Entry::TaskRemoved(_) => true,
        Entry::StateSnapshot(snapshot) => !snapshot.alive,
        Entry::Instance(instance) => instance.expired,
        Entry::Task(_)
        | Entry::NewTask(_)
        | Entry::StateDelta(_)
        | Entry::StateValue(_)
        | Entry::Horizon(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        entry::{Horizon, Instance, TaskRemoved},
        state::{LargeValue, StateDelta, StateSnapshot},
        task::Task,
    };

    fn entries(name: &str) -> Vec<Entry> {
        vec![
            Entry::Task(Box::new(Task {
                id: name.into(),
                ..Task::default()
            })),
            Entry::TaskRemoved(TaskRemoved {
                id: name.into(),
                ..TaskRemoved::default()
            }),
            Entry::StateDelta(StateDelta {
                state: name.into(),
                ..StateDelta::default()
            }),
            Entry::StateSnapshot(StateSnapshot {
                state: name.into(),
                ..StateSnapshot::default()
            }),
            Entry::StateValue(LargeValue {
                state: name.into(),
                ..LargeValue::default()
            }),
            Entry::Instance(Instance {
                uid: crate::domain::Uid(name.len() as u128).to_bytes(),
                ..Instance::default()
            }),
            Entry::Horizon(Horizon { revision: 1 }),
        ]
    }

    #[test]
    fn two_entries_have_one_key_when_they_have_one_entity() {
        let keys = EntityKeys::default();
        let all: Vec<Entry> = [entries("a"), entries("ab")].concat();
        for left in &all {
            for right in &all {
                assert_eq!(
                    keys.of(left) == keys.of(right),
                    left.entity() == right.entity(),
                    "{left:?} {right:?}"
                );
            }
        }
    }
}
