//! The revision-indexed map behind every watch.
//!
//! A watch is replication of a map, not an event feed: it holds a cursor and asks "what changed
//! after it?". So each row knows the revision of its last change, an index leads from revisions to
//! rows, and removed keys stay as tombstones until they are forgotten. State keys and tasks use
//! this one structure; whatever else is watched will too.
//!
//! Rows stand in slots, and hash table and indexes name them by slot number: millions of tasks are
//! kept, and a number takes a quarter of what a key takes.

use std::{
    borrow::Borrow,
    collections::BTreeSet,
    fmt::Debug,
    hash::{BuildHasher, Hash, RandomState},
    ops::Bound,
};

use hashbrown::{HashTable, hash_table::Entry};

use self::slots::Slots;
use super::id::Revision;

mod slots;

/// A map whose rows know when they changed. `K` should clone cheaply. At most 2^32 rows.
#[derive(Clone, Debug)]
pub struct RevisionTable<K, V, T = ()> {
    slots: Slots<Stored<K, V, T>>,
    /// Slots that are empty.
    free: Vec<u32>,
    by_key: HashTable<u32>,
    hasher: RandomState,
    /// Every row once.
    index: BTreeSet<Place>,
    /// Tombstones once more, so that forgetting them never walks over live rows.
    graves: BTreeSet<Place>,
}

/// A row's place in the order of changes: by revision, and within one by a number that a row keeps
/// while it stands. A walk in parts goes on behind the place it has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    // Halves, because a `u64` would make a place 16 bytes where 12 do.
    revision: [u32; 2],
    slot: u32,
}

impl Place {
    fn new(revision: Revision, slot: u32) -> Self {
        // The upper and the lower 32 of the 64 bits.
        let revision = [(revision.0 >> 32) as u32, revision.0 as u32];
        Self { revision, slot }
    }

    /// Behind everything of a revision.
    #[must_use]
    pub fn after(revision: Revision) -> Self {
        Self::new(revision, u32::MAX)
    }

    /// Before everything of its revision, unless it is behind all of it already.
    #[must_use]
    pub fn again(self) -> Self {
        match self.slot {
            u32::MAX => self,
            _ => Self::after(Revision(self.revision().0.saturating_sub(1))),
        }
    }

    /// The revision it stands at.
    #[must_use]
    pub fn revision(self) -> Revision {
        let [high, low] = self.revision;
        Revision(u64::from(high) << 32 | u64::from(low))
    }
}

#[derive(Clone, Debug)]
struct Stored<K, V, T> {
    key: K,
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

impl<K, V, T> Stored<K, V, T> {
    fn content(&self) -> Content<'_, V, T> {
        match &self.content {
            Kept::Live(value) => Content::Live(value),
            Kept::Dead(tombstone) => Content::Dead(tombstone),
        }
    }

    fn row(&self) -> Row<'_, V, T> {
        Row {
            revision: self.revision,
            content: self.content(),
        }
    }
}

impl<K, V, T> Default for RevisionTable<K, V, T> {
    fn default() -> Self {
        Self {
            slots: Slots::default(),
            free: Vec::new(),
            by_key: HashTable::new(),
            hasher: RandomState::new(),
            index: BTreeSet::new(),
            graves: BTreeSet::new(),
        }
    }
}

/// Tables are equal when their rows are, in whatever slots: the indexes follow from them.
impl<K: Eq + Hash, V: PartialEq, T: PartialEq> PartialEq for RevisionTable<K, V, T> {
    fn eq(&self, other: &Self) -> bool {
        let same = |stored: &Stored<K, V, T>| {
            let other = other.find(&stored.key);
            other.is_some_and(|other| {
                stored.revision == other.revision && stored.content == other.content
            })
        };
        self.by_key.len() == other.by_key.len() && self.slots.iter().all(same)
    }
}

impl<K: Eq + Hash, V, T> RevisionTable<K, V, T> {
    fn find<Q>(&self, key: &Q) -> Option<&Stored<K, V, T>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let slot = self.by_key.find(self.hasher.hash_one(key), |slot| {
            stored(&self.slots, *slot).key.borrow() == key
        });
        slot.map(|slot| stored(&self.slots, *slot))
    }
}

fn stored<K, V, T>(slots: &Slots<Stored<K, V, T>>, slot: u32) -> &Stored<K, V, T> {
    slots.get(slot).expect(NAMED)
}

/// Why a slot that was named holds a row.
const NAMED: &str = "the hash table and the indexes name slots that hold a row";

impl<K: Clone + Eq + Hash, V, T> RevisionTable<K, V, T> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key; returns the value it held. `revision` may be lower than others present: a
    /// snapshot brings its rows with the revisions they had.
    pub fn put(&mut self, key: K, value: V, revision: Revision) -> Option<V> {
        self.set(key, Kept::Live(value), revision)
            .1
            .map(|held| held.1)
    }

    /// The same; says in which slot the row stands, and the revision of the value it held.
    pub fn put_in_slot(
        &mut self,
        key: K,
        value: V,
        revision: Revision,
    ) -> (u32, Option<(Revision, V)>) {
        self.set(key, Kept::Live(value), revision)
    }

    /// Deletes a key, also one never held: somebody may have been told of it within the same
    /// revision. Its tombstone stays until it is forgotten. Returns the value it held.
    pub fn delete(&mut self, key: &K, tombstone: T, revision: Revision) -> Option<V> {
        let (_, held) = self.set(key.clone(), Kept::Dead(tombstone), revision);
        held.map(|held| held.1)
    }

    fn set(
        &mut self,
        key: K,
        content: Kept<V, T>,
        revision: Revision,
    ) -> (u32, Option<(Revision, V)>) {
        let dies = matches!(content, Kept::Dead(_));
        let entry = self.by_key.entry(
            self.hasher.hash_one(&key),
            |slot| stored(&self.slots, *slot).key == key,
            |slot| self.hasher.hash_one(&stored(&self.slots, *slot).key),
        );
        let (slot, before) = match entry {
            Entry::Vacant(entry) => {
                let new = Stored {
                    key,
                    revision,
                    content,
                };
                let free = self.free.pop();
                let free = free.and_then(|slot| Some((slot, self.slots.slot(slot)?)));
                let slot = match free {
                    Some((slot, empty)) => {
                        *empty = Some(new);
                        slot
                    }
                    None => self.slots.push(new),
                };
                entry.insert(slot);
                (slot, None)
            }
            Entry::Occupied(entry) => {
                let slot = *entry.get();
                // The key stays the one the row has: two that are equal would both be kept.
                let stored = self.slots.slot(slot).and_then(Option::as_mut).expect(NAMED);
                let before = std::mem::replace(&mut stored.content, content);
                let at = std::mem::replace(&mut stored.revision, revision);
                (slot, Some((at, before)))
            }
        };
        let place = Place::new(revision, slot);
        let mut value = None;
        let mut indexed = false;
        if let Some((at, content)) = before {
            let before = Place::new(at, slot);
            indexed = before == place;
            if !indexed {
                self.index.remove(&before);
            }
            match content {
                Kept::Live(held) => value = Some((at, held)),
                Kept::Dead(_) => {
                    self.graves.remove(&before);
                }
            }
        }
        if dies {
            self.graves.insert(place);
        }
        if !indexed {
            self.index.insert(place);
        }
        (slot, value)
    }

    /// Drops a row without leaving a tombstone; returns the value it held.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let found = self
            .by_key
            .find_entry(self.hasher.hash_one(key), |slot| {
                stored(&self.slots, *slot).key.borrow() == key
            })
            .ok()?;
        let (slot, _) = found.remove();
        let stored = self.empty(slot);
        let place = Place::new(stored.revision, slot);
        self.index.remove(&place);
        match stored.content {
            Kept::Live(value) => Some(value),
            Kept::Dead(_) => {
                self.graves.remove(&place);
                None
            }
        }
    }

    /// Drops the rows of all keys but those to keep, without leaving tombstones; gives those that
    /// lived. The others keep their places.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) -> Vec<(K, V)> {
        let rows = self.slots.iter();
        let gone: Vec<K> = rows
            .filter(|stored| !keep(&stored.key))
            .map(|stored| stored.key.clone())
            .collect();
        let dropped = gone.into_iter().filter_map(|key| {
            let value = self.remove(&key)?;
            Some((key, value))
        });
        dropped.collect()
    }

    fn empty(&mut self, slot: u32) -> Stored<K, V, T> {
        self.free.push(slot);
        self.slots.slot(slot).and_then(Option::take).expect(NAMED)
    }

    /// Drops the tombstones at or before `up_to`, oldest first; says which they were. Whoever has
    /// a cursor before them can no longer be told.
    pub fn forget(&mut self, up_to: Revision) -> Vec<(K, Revision)> {
        let mut forgotten = Vec::new();
        while let Some(place) = self.graves.first().copied()
            && place.revision() <= up_to
        {
            self.graves.pop_first();
            self.index.remove(&place);
            let stored = self.empty(place.slot);
            let hash = self.hasher.hash_one(&stored.key);
            if let Ok(found) = self.by_key.find_entry(hash, |slot| *slot == place.slot) {
                found.remove();
            }
            forgotten.push((stored.key, place.revision()));
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
        match &self.find(key)?.content {
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
        self.find(key).map(Stored::row)
    }

    /// The key as the table keeps it, dead or alive: cloning it is cheaper than making one.
    #[must_use]
    pub fn stored_key<Q>(&self, key: &Q) -> Option<&K>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.find(key).map(|stored| &stored.key)
    }

    /// What stands in a slot.
    #[must_use]
    pub fn in_slot(&self, slot: u32) -> Option<(&K, Row<'_, V, T>)> {
        let stored = self.slots.get(slot)?;
        Some((&stored.key, stored.row()))
    }

    /// Everything that changed after a revision, ascending by revision.
    pub fn changes_after(
        &self,
        revision: Revision,
    ) -> impl Iterator<Item = (Revision, &K, Content<'_, V, T>)> {
        self.changes_behind(Place::after(revision))
            .map(|(place, key, content)| (place.revision(), key, content))
    }

    /// Everything that changed behind a place, in the order of places. So it can be taken in
    /// parts, also within one revision: one commit may be more than a message holds. The row at
    /// the place may have changed since.
    pub fn changes_behind(
        &self,
        place: Place,
    ) -> impl Iterator<Item = (Place, &K, Content<'_, V, T>)> {
        let places = self.index.range((Bound::Excluded(place), Bound::Unbounded));
        places.map(|place| {
            let stored = stored(&self.slots, place.slot);
            (*place, &stored.key, stored.content())
        })
    }

    /// Live rows, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, Revision, &V)> {
        let rows = self.slots.iter();
        rows.filter_map(|stored| match &stored.content {
            Kept::Live(value) => Some((&stored.key, stored.revision, value)),
            Kept::Dead(_) => None,
        })
    }

    /// Tombstones, oldest first.
    pub fn dead(&self) -> impl DoubleEndedIterator<Item = (Revision, &K)> {
        let row = |place: &Place| &stored(&self.slots, place.slot).key;
        self.graves
            .iter()
            .map(move |place| (place.revision(), row(place)))
    }

    /// How many keys are live.
    #[must_use]
    pub fn live_len(&self) -> usize {
        self.by_key.len() - self.graves.len()
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
            .map_or(Revision::ZERO, |place| place.revision())
    }
}

#[cfg(test)]
mod tests;
