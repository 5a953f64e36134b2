//! What a journal must know of its namespace to take an entry: the head, and each entity's last
//! revision for compare-and-set.
//!
//! It is built at replay and never stored, so its hashes may differ from start to start. It must
//! say after a replay what it said before: an entity whose last entry was superseded is unknown.

use std::{
    collections::{HashMap, hash_map},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
};

use super::{Conflict, Draft};
use crate::domain::{Entry, Revision, entry::QueueSettings};

/// An entity as 64 bits: a SipHash with a key drawn at start, so that nobody outside can make two
/// names meet. By chance two among a million entities do with probability 3 * 10^-8, among ten
/// million with 3 * 10^-6. Then one's compare-and-set is told of the other's last entry and loses:
/// nothing false is committed, and the next start draws another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct EntityKey(u64);

/// Makes [`EntityKey`]s; keys of two makers do not compare.
#[derive(Clone, Debug, Default)]
pub(super) struct EntityKeys(RandomState);

impl EntityKeys {
    /// The key of the entity that `entry` changes.
    pub(super) fn of(&self, entry: &Entry) -> EntityKey {
        // As `Entry::entity` has it, without its allocations.
        let fingerprint;
        let entity: (u8, &[u8]) = match entry {
            Entry::Task(task) => (0, task.id.as_bytes()),
            Entry::NewTask(new) => (0, new.task.id.as_bytes()),
            Entry::TaskRemoved(removed) => (0, removed.id.as_bytes()),
            Entry::StateDelta(delta) => (1, delta.state.as_bytes()),
            Entry::StateSnapshot(snapshot) => (1, snapshot.state.as_bytes()),
            Entry::StateValue(value) => (1, value.state.as_bytes()),
            Entry::Instance(instance) => (2, &instance.uid),
            Entry::Horizon(_) => (3, &[]),
            Entry::Queue(queue) => (4, queue.name.as_bytes()),
            Entry::ErrorGroup(group) => {
                fingerprint = group.fingerprint().0.to_be_bytes();
                (5, &fingerprint)
            }
        };
        EntityKey(self.0.hash_one(entity))
    }
}

/// Spreads numbers that nobody outside chooses: hashes and revisions.
#[derive(Clone, Copy, Debug, Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Odd, so that no two numbers meet, and the upper bits depend on all.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type Numbers<K, V> = HashMap<K, V, BuildHasherDefault<Spread>>;

/// The head and the last revisions.
#[derive(Debug, Default)]
pub(super) struct Index {
    head: Revision,
    last: Numbers<EntityKey, Revision>,
    /// Entities whose last entry says that they are gone: an entry of another entity (the
    /// horizon) may supersede it, and then nothing is known of them.
    gone: Numbers<Revision, EntityKey>,
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
        let revision = self.head.next();
        let last = self.last.entry(entity);
        let found = match &last {
            hash_map::Entry::Occupied(last) => *last.get(),
            hash_map::Entry::Vacant(_) => Revision::ZERO,
        };
        if draft.expect.is_some_and(|expected| expected != found) {
            return Err(Conflict { found });
        }
        self.head = revision;
        if !matches!(draft.entry, Entry::StateValue(_)) {
            last.insert_entry(revision);
        }
        if is_removal(&draft.entry) {
            self.gone.insert(revision, entity);
        }
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
        Entry::Queue(queue) => queue.settings == QueueSettings::default(),
        Entry::Task(_)
        | Entry::NewTask(_)
        | Entry::StateDelta(_)
        | Entry::StateValue(_)
        | Entry::Horizon(_)
        | Entry::ErrorGroup(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        entry::{Horizon, Instance, Queue, TaskRemoved},
        failure,
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
            Entry::Queue(Queue {
                name: name.into(),
                ..Queue::default()
            }),
            Entry::ErrorGroup(Box::new(failure::Group::new(failure::Kind {
                task_type: name.into(),
                ..failure::Kind::other()
            }))),
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
