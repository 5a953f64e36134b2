//! The revision-indexed map behind every watch.
//!
//! A watch is replication of a map, not an event feed: it holds a cursor and asks "what changed
//! after it?". So each row knows the revision of its last change, an index leads from revisions to
//! keys, and removed keys stay as tombstones until they are forgotten. State keys and tasks use
//! this one structure; whatever else is watched will too.

use std::{
    borrow::Borrow,
    collections::{BTreeSet, HashMap, hash_map::Entry},
    fmt::Debug,
    hash::Hash,
    ops::Bound,
};

use super::id::Revision;

/// A map whose rows know when they changed. `K` should clone cheaply: a row and the index share it.
#[derive(Clone, Debug)]
pub struct RevisionTable<K, V, T = ()> {
    rows: HashMap<K, Stored<V, T>>,
    /// Every row once. `None` stands before all keys, so that a range can begin at a revision.
    index: BTreeSet<(Revision, Option<K>)>,
    /// Tombstones once more, so that forgetting them never walks over live rows.
    graves: BTreeSet<(Revision, K)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Stored<V, T> {
    revision: Revision,
    content: Kept<V, T>,
}

#[derive(Clone, Debug, PartialEq)]
enum Kept<V, T> {
    Live(V),
    Dead(T),
}

/// What a row holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Content<'a, V, T> {
    /// The key is there.
    Live(&'a V),
    /// The key was deleted.
    Dead(&'a T),
}

impl<V, T> Clone for Content<'_, V, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V, T> Copy for Content<'_, V, T> {}

/// A row, dead or alive.
#[derive(Debug, PartialEq, Eq)]
pub struct Row<'a, V, T> {
    /// Its last change.
    pub revision: Revision,
    /// What it holds.
    pub content: Content<'a, V, T>,
}

impl<V, T> Stored<V, T> {
    fn row(&self) -> Row<'_, V, T> {
        let content = match &self.content {
            Kept::Live(value) => Content::Live(value),
            Kept::Dead(tombstone) => Content::Dead(tombstone),
        };
        Row {
            revision: self.revision,
            content,
        }
    }
}

impl<K, V, T> Default for RevisionTable<K, V, T> {
    fn default() -> Self {
        Self {
            rows: HashMap::new(),
            index: BTreeSet::new(),
            graves: BTreeSet::new(),
        }
    }
}

/// Tables are equal when their rows are: the indexes follow from them.
impl<K: Eq + Hash, V: PartialEq, T: PartialEq> PartialEq for RevisionTable<K, V, T> {
    fn eq(&self, other: &Self) -> bool {
        self.rows == other.rows
    }
}

impl<K: Clone + Ord + Hash, V, T> RevisionTable<K, V, T> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key; returns the value it held. `revision` may be lower than others present: a
    /// snapshot brings its rows with the revisions they had.
    pub fn put(&mut self, key: K, value: V, revision: Revision) -> Option<V> {
        self.set(key, Kept::Live(value), revision)
    }

    /// Deletes a key, also one never held: somebody may have been told of it within the same
    /// revision. Its tombstone stays until it is forgotten. Returns the value it held.
    pub fn delete(&mut self, key: &K, tombstone: T, revision: Revision) -> Option<V> {
        self.set(key.clone(), Kept::Dead(tombstone), revision)
    }

    fn set(&mut self, key: K, content: Kept<V, T>, revision: Revision) -> Option<V> {
        let dies = matches!(content, Kept::Dead(_));
        let stored = Stored { revision, content };
        let (key, before) = match self.rows.entry(key) {
            Entry::Vacant(entry) => {
                let key = entry.key().clone();
                entry.insert(stored);
                (key, None)
            }
            Entry::Occupied(mut entry) => {
                // The key the row has, not the one given: the two would both be kept in memory.
                let key = entry.key().clone();
                (key, Some(entry.insert(stored)))
            }
        };
        let mut value = None;
        let mut indexed = false;
        if let Some(before) = before {
            indexed = before.revision == revision;
            if !indexed {
                self.index.remove(&(before.revision, Some(key.clone())));
            }
            match before.content {
                Kept::Live(held) => value = Some(held),
                Kept::Dead(_) => {
                    self.graves.remove(&(before.revision, key.clone()));
                }
            }
        }
        if dies {
            self.graves.insert((revision, key.clone()));
        }
        if !indexed {
            self.index.insert((revision, Some(key)));
        }
        value
    }

    /// Drops a row without leaving a tombstone; returns the value it held.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let (key, stored) = self.rows.remove_entry(key)?;
        match stored.content {
            Kept::Live(value) => {
                self.index.remove(&(stored.revision, Some(key)));
                Some(value)
            }
            Kept::Dead(_) => {
                self.index.remove(&(stored.revision, Some(key.clone())));
                self.graves.remove(&(stored.revision, key));
                None
            }
        }
    }

    /// Drops the tombstones at or before `up_to`, oldest first; says which they were. Whoever has
    /// a cursor before them can no longer be told.
    pub fn forget(&mut self, up_to: Revision) -> Vec<(K, Revision)> {
        let mut forgotten = Vec::new();
        while let Some((revision, _)) = self.graves.first()
            && *revision <= up_to
        {
            let Some((revision, key)) = self.graves.pop_first() else {
                break;
            };
            self.rows.remove(&key);
            self.index.remove(&(revision, Some(key.clone())));
            forgotten.push((key, revision));
        }
        forgotten
    }

    /// The value of a live key.
    #[must_use]
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        match &self.rows.get(key)?.content {
            Kept::Live(value) => Some(value),
            Kept::Dead(_) => None,
        }
    }

    /// The row of a key, dead or alive.
    #[must_use]
    pub fn row<Q>(&self, key: &Q) -> Option<Row<'_, V, T>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.rows.get(key).map(Stored::row)
    }

    /// The key as the table keeps it, dead or alive: cloning it is cheaper than making one.
    #[must_use]
    pub fn stored_key<Q>(&self, key: &Q) -> Option<&K>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.rows.get_key_value(key).map(|(key, _)| key)
    }

    /// Everything that changed after a revision, ascending by (revision, key). It can be taken in
    /// parts: go on after the last revision seen, or with [`Self::changes_after_row`] within one.
    pub fn changes_after(
        &self,
        revision: Revision,
    ) -> impl Iterator<Item = (Revision, &K, Content<'_, V, T>)> {
        self.changes(Bound::Included((revision.next(), None)))
    }

    /// Everything that changed after one row of a revision: one commit may be more than a message
    /// holds. The row itself may have changed since.
    pub fn changes_after_row(
        &self,
        revision: Revision,
        key: K,
    ) -> impl Iterator<Item = (Revision, &K, Content<'_, V, T>)> {
        self.changes(Bound::Excluded((revision, Some(key))))
    }

    fn changes(
        &self,
        start: Bound<(Revision, Option<K>)>,
    ) -> impl Iterator<Item = (Revision, &K, Content<'_, V, T>)> {
        let places = self.index.range((start, Bound::Unbounded));
        places.filter_map(|(revision, key)| {
            let key = key.as_ref()?;
            let row = self.rows.get(key)?.row();
            Some((*revision, key, row.content))
        })
    }

    /// Live rows, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, Revision, &V)> {
        self.rows
            .iter()
            .filter_map(|(key, stored)| match &stored.content {
                Kept::Live(value) => Some((key, stored.revision, value)),
                Kept::Dead(_) => None,
            })
    }

    /// Tombstones, oldest first.
    pub fn dead(&self) -> impl DoubleEndedIterator<Item = (Revision, &K)> {
        self.graves.iter().map(|(revision, key)| (*revision, key))
    }

    /// How many keys are live.
    #[must_use]
    pub fn live_len(&self) -> usize {
        self.rows.len() - self.graves.len()
    }

    /// How many tombstones there are.
    #[must_use]
    pub fn tombstones(&self) -> usize {
        self.graves.len()
    }

    /// The highest revision of any row, dead or alive; zero where there is none.
    #[must_use]
    pub fn last_revision(&self) -> Revision {
        self.index
            .last()
            .map_or(Revision::ZERO, |(revision, _)| *revision)
    }
}

#[cfg(test)]
mod tests;
