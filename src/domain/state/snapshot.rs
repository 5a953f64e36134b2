//! A whole state as one entry, which replaces all earlier ones of it.
//!
//! Whatever is forgotten, is forgotten by a snapshot: every replica then forgets it at the same
//! revision, and a replay that begins at the snapshot ends where the live mirror stands.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;

use crate::domain::{
    id::{Revision, Uid},
    limits::MAX_TOMBSTONES,
};

use super::{
    delta::{Mention, SnapshotEntry, StateSnapshot, Tombstone, WriterPosition},
    large::Stored,
    mirror::{Key, KeyTable, State, StateValue, TaskMention, WriterState},
};

/// What a snapshot leaves out.
pub struct Prune<'a> {
    /// Tombstones at or before it.
    pub tombstones_up_to: Revision,
    /// Writers whose last batch is older than this,
    pub writers_before_us: i64,
    /// or than this, if they are done,
    pub done_before_us: i64,
    /// unless they are kept for another reason: an open stream, or a task that has not ended.
    pub keep_writer: &'a dyn Fn(Uid) -> bool,
    /// Tasks that may still write, contribute or name their writers; what is known of others goes.
    pub keep_task: &'a dyn Fn(Uid) -> bool,
}

impl Prune<'_> {
    /// Leaves out nothing but what is over [`MAX_TOMBSTONES`].
    pub const NOTHING: Prune<'static> = Prune {
        tombstones_up_to: Revision::ZERO,
        writers_before_us: i64::MIN,
        done_before_us: i64::MIN,
        keep_writer: &|_| true,
        keep_task: &|_| true,
    };
}

impl std::fmt::Debug for Prune<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prune")
            .field("tombstones_up_to", &self.tombstones_up_to)
            .field("writers_before_us", &self.writers_before_us)
            .finish_non_exhaustive()
    }
}

impl State {
    /// The state as it stands, less what `prune` forgets. Nothing a client sees changes by it:
    /// keys keep their revisions, and so does the state.
    #[must_use]
    pub fn snapshot(&self, prune: &Prune<'_>) -> StateSnapshot {
        let horizon = self.horizon_after(prune);
        let kept = |tombstone: &Tombstone| tombstone.mod_revision > horizon.0;
        let mut snapshot = StateSnapshot {
            entries: self.entries(),
            tombstones: self.tombstones().filter(kept).collect(),
            horizon: horizon.0,
            ..self.frame()
        };
        snapshot.writers.retain(|writer| {
            let before = match writer.done {
                true => prune.done_before_us,
                false => prune.writers_before_us,
            };
            writer.time_us >= before
                || (prune.keep_writer)(uid(&writer.writer_id))
                || (!writer.task_uid.is_empty() && (prune.keep_task)(uid(&writer.task_uid)))
        });
        snapshot
            .mentions
            .retain(|mention| (prune.keep_task)(uid(&mention.task_uid)));
        snapshot.tombstones.sort_by(|a, b| a.key.cmp(&b.key));
        snapshot
    }

    /// The state deleted: every key becomes a tombstone of this entry's own revision. Writers and
    /// fences stay, so that nothing acknowledged is applied again to a later incarnation.
    #[must_use]
    pub fn deletion(&self, time_us: i64) -> StateSnapshot {
        let killed = self.table.iter().map(|(key, _, _)| Tombstone {
            key: key.to_string(),
            mod_revision: 0,
        });
        let mut tombstones: Vec<_> = self.tombstones().chain(killed).collect();
        tombstones.sort_by(|a, b| a.key.cmp(&b.key));
        StateSnapshot {
            alive: false,
            update_us: time_us,
            revision: 0,
            settings: None,
            tombstones,
            horizon: self.horizon.0,
            ..self.frame()
        }
    }

    /// Folds a snapshot: replaces everything. Rows that stay keep their places, because a walk may
    /// have come half through a revision: it must find the other half where it was.
    pub fn apply_snapshot(&mut self, revision: Revision, snapshot: &StateSnapshot) {
        let own = |stored: u64| match stored {
            0 => revision,
            earlier => Revision(earlier),
        };
        let live = snapshot.entries.iter().map(|entry| entry.key.as_str());
        let dead = snapshot.tombstones.iter().map(|dead| dead.key.as_str());
        let keys: HashSet<&str> = live.chain(dead).collect();
        for (key, value) in self.table.retain(|key| keys.contains(&**key)) {
            self.forget_size(&key, Some(&value));
        }
        self.unclaimed.clear();
        for entry in &snapshot.entries {
            let (key, value) = stored(&self.table, entry);
            self.set(key, value, own(entry.mod_revision));
        }
        for tombstone in &snapshot.tombstones {
            let key = shared_key(&self.table, &tombstone.key);
            let held = self.table.delete(&key, (), own(tombstone.mod_revision));
            self.forget_size(&key, held.as_ref());
        }
        self.uid = uid(&snapshot.uid);
        self.alive = snapshot.alive;
        self.create_us = snapshot.create_us;
        self.update_us = snapshot.update_us;
        self.revision = own(snapshot.revision);
        self.settings = snapshot.settings.unwrap_or_default();
        self.horizon = Revision(snapshot.horizon);
        self.writers = snapshot.writers.iter().map(writer).collect();
        self.mentions = snapshot.mentions.iter().map(mention).collect();
    }

    /// Everything but keys and tombstones.
    fn frame(&self) -> StateSnapshot {
        let mut writers: Vec<_> = self.writers().collect();
        writers.sort_unstable_by_key(|(uid, _)| *uid);
        let mut mentions: Vec<_> = self.mentions().collect();
        mentions.sort_unstable_by_key(|(uid, _)| *uid);
        StateSnapshot {
            state: self.id.to_string(),
            uid: self.uid.to_bytes(),
            alive: self.alive,
            create_us: self.create_us,
            update_us: self.update_us,
            revision: self.revision.0,
            settings: Some(self.settings),
            writers: writers
                .into_iter()
                .map(|(uid, writer)| WriterPosition {
                    writer_id: uid.to_bytes(),
                    epoch: writer.epoch,
                    sequence: writer.sequence,
                    time_us: writer.time_us,
                    task_uid: match writer.task {
                        task if task == Uid::default() => Bytes::new(),
                        task => task.to_bytes(),
                    },
                    done: writer.done,
                })
                .collect(),
            mentions: mentions
                .into_iter()
                .map(|(uid, mention)| Mention {
                    task_uid: uid.to_bytes(),
                    fence: mention.fence,
                    contributed: mention.contributed,
                })
                .collect(),
            ..StateSnapshot::default()
        }
    }

    fn entries(&self) -> Vec<SnapshotEntry> {
        let live = self.table.iter();
        let mut entries: Vec<_> = live
            .map(|(key, revision, held)| SnapshotEntry {
                key: key.to_string(),
                value: held.value.inline().cloned().unwrap_or_default(),
                large: held.value.large().cloned(),
                mod_revision: revision.0,
                source: held.source.to_string(),
            })
            .collect();
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        entries
    }

    fn tombstones(&self) -> impl Iterator<Item = Tombstone> {
        self.table.dead().map(|(revision, key)| Tombstone {
            key: key.to_string(),
            mod_revision: revision.0,
        })
    }

    /// The highest revision of a tombstone that `prune` or the bound on tombstones forgets; never
    /// lower than before, or a watch could resume over a deletion nobody remembers.
    fn horizon_after(&self, prune: &Prune<'_>) -> Revision {
        let surplus = self.table.tombstones().saturating_sub(MAX_TOMBSTONES);
        let dead = self.table.dead().map(|(revision, _)| revision);
        let forgotten = dead
            .enumerate()
            .take_while(|(place, revision)| *place < surplus || *revision <= prune.tombstones_up_to)
            .last();
        forgotten.map_or(self.horizon, |(_, revision)| self.horizon.max(revision))
    }
}

/// Key and value of an entry; those the table held already are shared, since a snapshot mostly
/// repeats what stands. What is new is copied out of the block it came in.
fn stored(before: &KeyTable, entry: &SnapshotEntry) -> (Key, StateValue) {
    let key = shared_key(before, &entry.key);
    let value = match before.get(&key) {
        Some(held) if is_same(held, entry) && *held.source == *entry.source => held.clone(),
        _ => StateValue {
            value: match &entry.large {
                Some(large) => Stored::Large(Arc::new(large.detached())),
                None => Stored::Inline(Bytes::copy_from_slice(&entry.value)),
            },
            source: entry.source.as_str().into(),
        },
    };
    (key, value)
}

fn is_same(held: &StateValue, entry: &SnapshotEntry) -> bool {
    match (&held.value, &entry.large) {
        (Stored::Inline(value), None) => *value == entry.value,
        (Stored::Large(held), Some(large)) => **held == *large,
        _ => false,
    }
}

fn shared_key(before: &KeyTable, key: &str) -> Key {
    before
        .stored_key(key)
        .map_or_else(|| key.into(), Key::clone)
}

fn writer(stored: &WriterPosition) -> (Uid, WriterState) {
    let writer = WriterState {
        epoch: stored.epoch,
        sequence: stored.sequence,
        time_us: stored.time_us,
        task: uid(&stored.task_uid),
        done: stored.done,
    };
    (uid(&stored.writer_id), writer)
}

fn mention(stored: &Mention) -> (Uid, TaskMention) {
    let mention = TaskMention {
        fence: stored.fence,
        contributed: stored.contributed,
    };
    (uid(&stored.task_uid), mention)
}

fn uid(bytes: &[u8]) -> Uid {
    Uid::from_bytes(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests;
