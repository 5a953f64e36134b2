//! Large values for whoever wants them: from memory while they are in demand, else read back from
//! the journal.
//!
//! The mirror holds references only. What was written or read of late is cached, so that fifty
//! watchers of one preview share one copy and a preview that changes ten times a second is never
//! read from disk. A value never changes: its entry's revision stands for it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{
    domain::{Entry, Error, Reason, Revision},
    journal::Journal,
};

/// Bytes of large values a process keeps at hand; the least recently wanted go first.
pub(crate) const CACHED_BYTES: usize = 64 << 20;
/// Values a namespace reads from its journal at a time; others wait, and may find theirs cached.
const READS_AT_ONCE: usize = 4;

/// A value of a namespace.
type Place = (u64, Revision);

/// Values at hand, of all namespaces.
#[derive(Debug)]
pub(crate) struct ValueCache {
    most: usize,
    inner: Mutex<Inner>,
    spaces: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    values: HashMap<Place, (u64, Bytes)>,
    /// By when they were last wanted.
    order: BTreeMap<u64, Place>,
    wanted: u64,
    bytes: usize,
}

impl ValueCache {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            inner: Mutex::default(),
            spaces: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    fn put(&self, place: Place, value: Bytes) {
        let mut inner = self.inner.lock();
        inner.bytes += value.len();
        let wanted = inner.tick(place);
        if let Some((before, old)) = inner.values.insert(place, (wanted, value)) {
            inner.bytes -= old.len();
            inner.order.remove(&before);
        }
        while inner.bytes > self.most
            && let Some((_, oldest)) = inner.order.pop_first()
        {
            if let Some((_, value)) = inner.values.remove(&oldest) {
                inner.bytes -= value.len();
            }
        }
    }

    fn get(&self, place: Place) -> Option<Bytes> {
        let mut inner = self.inner.lock();
        let Some((before, value)) = inner.values.get(&place).cloned() else {
            self.misses.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        self.hits.fetch_add(1, Ordering::Relaxed);
        inner.order.remove(&before);
        let wanted = inner.tick(place);
        inner.values.insert(place, (wanted, value.clone()));
        Some(value)
    }

    /// How often a value was found here and how often not.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (count(&self.hits), count(&self.misses))
    }

    /// Bytes at hand.
    pub(crate) fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }
}

impl Inner {
    fn tick(&mut self, place: Place) -> u64 {
        self.wanted += 1;
        self.order.insert(self.wanted, place);
        self.wanted
    }
}

/// The large values of one namespace.
#[derive(Debug)]
pub(crate) struct Values {
    journal: Arc<dyn Journal>,
    cache: Arc<ValueCache>,
    space: u64,
    reads: Semaphore,
}

impl Values {
    pub(crate) fn new(journal: Arc<dyn Journal>, cache: Arc<ValueCache>) -> Self {
        Self {
            space: cache.spaces.fetch_add(1, Ordering::Relaxed),
            journal,
            cache,
            reads: Semaphore::new(READS_AT_ONCE),
        }
    }

    /// Keeps a value at hand that was just committed.
    pub(crate) fn keep(&self, revision: Revision, value: &Bytes) {
        self.cache.put((self.space, revision), value.clone());
    }

    /// Bytes at hand in the process, for tests.
    #[cfg(test)]
    pub(crate) fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// The value of an entry, if it need not be read back.
    pub(crate) fn at_hand(&self, revision: Revision) -> Option<Bytes> {
        self.cache.get((self.space, revision))
    }

    /// The value of an entry, encoded; none where it was superseded.
    pub(crate) async fn get(&self, revision: Revision) -> Result<Option<Bytes>, Error> {
        if let Some(value) = self.at_hand(revision) {
            return Ok(Some(value));
        }
        // Never closed, so never an error.
        let _permit = self.reads.acquire().await;
        if let Some(value) = self.at_hand(revision) {
            return Ok(Some(value));
        }
        let read = self.journal.read(revision).await.map_err(|error| {
            tracing::error!(revision = revision.0, error = %error, "value cannot be read back");
            Error::new(
                Reason::JournalUnavailable,
                format!("the value at revision {revision} cannot be read: {error}"),
            )
        })?;
        match read.map(|committed| committed.entry) {
            None => Ok(None),
            Some(Entry::StateValue(entry)) => {
                self.keep(revision, &entry.value);
                Ok(Some(entry.value))
            }
            Some(_) => Err(Error::new(
                Reason::Internal,
                format!("the entry at revision {revision} is no value"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{NamespaceId, state::LargeValue},
        journal::{Draft, MemoryStore, Store},
    };

    fn value(byte: u8, length: usize) -> Bytes {
        vec![byte; length].into()
    }

    #[test]
    fn the_cache_stays_within_its_bound_and_drops_what_was_not_wanted_for_longest() {
        let cache = ValueCache::new(100);
        for number in 1..=3 {
            cache.put((0, Revision(number)), value(1, 30));
        }
        assert!(cache.get((0, Revision(1))).is_some());
        cache.put((0, Revision(4)), value(2, 40));
        assert_eq!(cache.get((0, Revision(2))), None);
        assert!(cache.get((0, Revision(1))).is_some());
        assert_eq!(cache.bytes(), 100);
        // Again, and in another namespace: neither is counted twice nor mixed up.
        cache.put((0, Revision(4)), value(2, 40));
        assert_eq!(cache.bytes(), 100);
        assert_eq!(cache.get((1, Revision(4))), None);
        // What is larger than all of it is not kept.
        cache.put((0, Revision(5)), value(3, 101));
        assert_eq!(cache.bytes(), 0);
        let inner = cache.inner.lock();
        assert!(inner.order.is_empty() && inner.values.is_empty());
    }

    #[tokio::test]
    async fn a_value_is_read_back_once_and_a_superseded_one_is_none() {
        let store = MemoryStore::default();
        let journal = store.open(&NamespaceId::trusted("n")).unwrap();
        let entry = Entry::StateValue(LargeValue {
            state: "s".into(),
            uid: Bytes::new(),
            value: value(7, 70_000),
        });
        let draft = |supersedes| Draft {
            entry: entry.clone(),
            expect: None,
            supersedes,
        };
        journal.append(vec![draft(Vec::new())]).await.unwrap();
        let cache = Arc::new(ValueCache::new(CACHED_BYTES));
        let values = Values::new(journal.clone(), cache.clone());
        let first = values.get(Revision(1)).await.unwrap().unwrap();
        journal
            .append(vec![draft(vec![Revision(1)])])
            .await
            .unwrap();
        // From memory, and the same copy, although its entry is gone.
        let second = values.get(Revision(1)).await.unwrap().unwrap();
        assert_eq!(first.as_ptr(), second.as_ptr());
        let others = Values::new(journal.clone(), cache);
        assert_eq!(others.get(Revision(1)).await.unwrap(), None);
        store.faults().kill();
        let error = others.get(Revision(2)).await.unwrap_err();
        assert_eq!(error.reason, Reason::JournalUnavailable);
    }
}
