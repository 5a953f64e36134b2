//! A journal in memory, for tests and simulation, that fails when told to.
//!
//! Clones of a [`MemoryStore`] share their data, so a restart is: [`Store::close`] or
//! [`Faults::kill`], then opening the journals again on the same store or a clone. What was opened
//! before a close, a kill or an unknown outcome is over and takes nothing more, as with a process
//! that has ended.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::{
    AppendError, AppendFuture, Appended, Committed, Draft, Journal, OpenError, ReadFuture, Store,
    index::{EntityKeys, Index},
};
use crate::domain::{Entry, Epoch, NamespaceId, Revision};

type Answer = Result<Appended, AppendError>;

/// All journals of a store in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    epoch: Epoch,
    shared: Arc<Shared>,
}

/// The journal of one namespace of a [`MemoryStore`].
#[derive(Debug)]
pub struct MemoryJournal {
    namespace: NamespaceId,
    life: u64,
    shared: Arc<Shared>,
}

/// Makes a [`MemoryStore`] fail, or stop, at a place of the test's choice.
#[derive(Clone, Debug)]
pub struct Faults {
    shared: Arc<Shared>,
}

/// What goes wrong with an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is committed, and the answer says so; the journal goes on.
    Refuse,
    /// Everything is committed, but the answer is unknown.
    UnknownCommitted,
    /// Nothing is committed, but the answer is unknown.
    UnknownLost,
}

#[derive(Debug)]
struct Shared {
    data: Mutex<Data>,
    /// How many groups the gate holds.
    held: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Data {
    keys: EntityKeys,
    namespaces: BTreeMap<NamespaceId, Stored>,
    /// Which process this would be; journals opened in an earlier one are over.
    life: u64,
    faults: VecDeque<Fault>,
    entries_left: Option<u64>,
    gate_shut: bool,
    /// The gate holds this namespace alone.
    gate_of: Option<NamespaceId>,
    held: VecDeque<Job>,
}

#[derive(Debug, Default)]
struct Stored {
    entries: BTreeMap<Revision, Bytes>,
    head: Revision,
    /// Built anew in every life, as a real journal does at replay.
    index: Option<Index>,
}

#[derive(Debug)]
struct Job {
    namespace: NamespaceId,
    life: u64,
    group: Vec<Draft>,
    answer: oneshot::Sender<Answer>,
}

impl MemoryStore {
    /// An empty store whose epoch is `epoch`.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        let shared = Arc::new(Shared {
            data: Mutex::default(),
            held: watch::Sender::new(0),
        });
        Self { epoch, shared }
    }

    /// A copy of what is committed now, under another epoch: what a backup gives when it is
    /// restored.
    #[must_use]
    pub fn restored(&self, epoch: Epoch) -> Self {
        let restored = Self::new(epoch);
        let data = self.shared.data.lock();
        let namespaces = data.namespaces.iter().map(|(id, stored)| {
            let stored = Stored {
                entries: stored.entries.clone(),
                head: stored.head,
                index: None,
            };
            (id.clone(), stored)
        });
        restored.shared.data.lock().namespaces = namespaces.collect();
        drop(data);
        restored
    }

    /// The handle that makes it fail.
    #[must_use]
    pub fn faults(&self) -> Faults {
        Faults {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(crate::domain::Uid(uuid::Uuid::new_v4().as_u128()))
    }
}

impl Store for MemoryStore {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn namespaces(&self) -> Result<Vec<NamespaceId>, OpenError> {
        Ok(self.shared.data.lock().namespaces.keys().cloned().collect())
    }

    fn open(&self, namespace: &NamespaceId) -> Result<Arc<dyn Journal>, OpenError> {
        let mut data = self.shared.data.lock();
        data.namespaces.entry(namespace.clone()).or_default();
        Ok(Arc::new(MemoryJournal {
            namespace: namespace.clone(),
            life: data.life,
            shared: Arc::clone(&self.shared),
        }))
    }

    /// Commits what the gate holds; journals opened from now on are of a new life.
    fn close(&self) -> Result<(), OpenError> {
        self.shared.release(usize::MAX);
        self.shared.data.lock().end_life();
        Ok(())
    }
}

impl Journal for MemoryJournal {
    fn replay(&self, sink: &mut dyn FnMut(Committed)) -> Result<Revision, OpenError> {
        let (entries, head) = {
            let data = self.shared.data.lock();
            let stored = &data.namespaces[&self.namespace];
            (stored.entries.clone(), stored.head)
        };
        for (revision, bytes) in entries {
            sink(read(&self.namespace, revision, bytes)?);
        }
        Ok(head)
    }

    fn append(&self, group: Vec<Draft>) -> AppendFuture {
        let (answer, answered) = oneshot::channel();
        let job = Job {
            namespace: self.namespace.clone(),
            life: self.life,
            group,
            answer,
        };
        self.shared.take(job);
        Box::pin(async move {
            answered
                .await
                .unwrap_or_else(|_| Err(AppendError::Unknown("the store was killed".into())))
        })
    }

    fn read(&self, revision: Revision) -> ReadFuture {
        let data = self.shared.data.lock();
        let found = if data.life == self.life {
            let stored = &data.namespaces[&self.namespace];
            let bytes = stored.entries.get(&revision).cloned();
            bytes
                .map(|bytes| read(&self.namespace, revision, bytes))
                .transpose()
        } else {
            Err(OpenError::Io {
                path: "in memory".into(),
                problem: "was closed: open it again".into(),
            })
        };
        Box::pin(std::future::ready(found))
    }
}

impl Faults {
    /// The next append that is not given a fault yet meets this one. A fault is met when the
    /// group is committed: of a held group, when the gate lets it through.
    pub fn next_append(&self, fault: Fault) {
        self.shared.data.lock().faults.push_back(fault);
    }

    /// Kills the process that has the store open: its journals take nothing more, and what the
    /// gate holds is lost.
    pub fn kill(&self) {
        let mut data = self.shared.data.lock();
        data.end_life();
        let lost = std::mem::take(&mut data.held);
        drop(data);
        self.shared.held.send_replace(0);
        drop(lost);
    }

    /// Kills it after `entries` more entries, over all namespaces and in the middle of a group
    /// too: later entries are lost, and the append that had them is answered unknown.
    pub fn kill_after(&self, entries: u64) {
        self.shared.data.lock().entries_left = Some(entries);
    }

    /// Spoils an entry on its disk: from now on it is read as damaged.
    pub fn damage(&self, namespace: &NamespaceId, revision: Revision) {
        let mut data = self.shared.data.lock();
        let stored = data.namespaces.get_mut(namespace);
        let entry = stored.and_then(|stored| stored.entries.get_mut(&revision));
        if let Some(entry) = entry {
            *entry = Bytes::from_static(b"\xff");
        }
    }

    /// Holds every group that comes from now on, uncommitted, until released.
    pub fn shut_gate(&self) {
        let mut data = self.shared.data.lock();
        data.gate_shut = true;
        data.gate_of = None;
    }

    /// The same for the groups of one namespace; others go through.
    pub fn shut_gate_of(&self, namespace: &NamespaceId) {
        let mut data = self.shared.data.lock();
        data.gate_shut = true;
        data.gate_of = Some(namespace.clone());
    }

    /// Waits until the gate holds at least `groups`.
    pub async fn until_held(&self, groups: usize) {
        let mut held = self.shared.held.subscribe();
        // The sender lives in `self.shared`, so the wait cannot fail.
        let _ = held.wait_for(|&held| held >= groups).await;
    }

    /// Lets up to `groups` held groups through, oldest first; says how many there were. The gate
    /// stays shut.
    pub fn release(&self, groups: usize) -> usize {
        self.shared.release(groups)
    }

    /// Lets everything through from now on.
    pub fn open_gate(&self) {
        self.shared.data.lock().gate_shut = false;
        self.shared.release(usize::MAX);
    }
}

impl Shared {
    fn take(&self, job: Job) {
        let mut data = self.data.lock();
        let meant = data.gate_of.as_ref();
        let meant = meant.is_none_or(|namespace| *namespace == job.namespace);
        if data.gate_shut && meant && data.life == job.life {
            data.held.push_back(job);
            let held = data.held.len();
            drop(data);
            self.held.send_replace(held);
        } else {
            let answer = data.commit(&job.namespace, job.life, job.group);
            drop(data);
            let _ = job.answer.send(answer);
        }
    }

    fn release(&self, groups: usize) -> usize {
        for released in 0..groups {
            let mut data = self.data.lock();
            let Some(job) = data.held.pop_front() else {
                return released;
            };
            let held = data.held.len();
            let answer = data.commit(&job.namespace, job.life, job.group);
            drop(data);
            self.held.send_replace(held);
            let _ = job.answer.send(answer);
        }
        groups
    }
}

impl Data {
    fn end_life(&mut self) {
        self.life += 1;
        self.entries_left = None;
        for stored in self.namespaces.values_mut() {
            stored.index = None;
        }
    }

    fn commit(&mut self, namespace: &NamespaceId, life: u64, group: Vec<Draft>) -> Answer {
        if self.life != life {
            return Err(AppendError::Refused(
                "the journal failed or was closed: open it again".into(),
            ));
        }
        let fault = self.faults.pop_front();
        match fault {
            Some(Fault::Refuse) => {
                return Err(AppendError::Refused("a test asked for it".into()));
            }
            Some(Fault::UnknownLost) => {
                self.end_life();
                return Err(AppendError::Unknown("a test asked for it".into()));
            }
            Some(Fault::UnknownCommitted) | None => {}
        }
        let stored = self.namespaces.entry(namespace.clone()).or_default();
        let index = match &mut stored.index {
            Some(index) => index,
            empty => empty.insert(
                index(&self.keys, namespace, &stored.entries, stored.head)
                    .map_err(|error| AppendError::Refused(error.to_string()))?,
            ),
        };
        let mut appended = Appended {
            committed: Vec::with_capacity(group.len()),
            outcomes: Vec::with_capacity(group.len()),
        };
        for draft in group {
            if self.entries_left == Some(0) {
                self.end_life();
                return Err(AppendError::Unknown("the process was killed".into()));
            }
            let entity = self.keys.of(&draft.entry);
            let outcome = index.admit(entity, &draft, |old| {
                stored.entries.remove(&old);
            });
            appended.outcomes.push(outcome);
            if let Ok(revision) = outcome {
                let mut buffer = Vec::new();
                draft.entry.encode(&mut buffer);
                appended.committed.push(Committed {
                    revision,
                    entry: draft.entry,
                    bytes: buffer.len(),
                });
                stored.entries.insert(revision, buffer.into());
                stored.head = index.head();
                self.entries_left = self.entries_left.map(|left| left - 1);
            }
        }
        if fault.is_some() {
            self.end_life();
            return Err(AppendError::Unknown("a test asked for it".into()));
        }
        Ok(appended)
    }
}

fn index(
    keys: &EntityKeys,
    namespace: &NamespaceId,
    entries: &BTreeMap<Revision, Bytes>,
    head: Revision,
) -> Result<Index, OpenError> {
    let mut index = Index::default();
    for (&revision, bytes) in entries {
        let entry = read(namespace, revision, bytes.clone())?.entry;
        index.learn(keys.of(&entry), &entry, revision);
    }
    index.learn_head(head);
    Ok(index)
}

fn read(namespace: &NamespaceId, revision: Revision, bytes: Bytes) -> Result<Committed, OpenError> {
    let size = bytes.len();
    match Entry::decode(bytes) {
        Ok(entry) => Ok(Committed {
            revision,
            entry,
            bytes: size,
        }),
        Err(error) => Err(OpenError::Damaged {
            namespace: namespace.to_string(),
            revision,
            problem: error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::conformance::{Reopen, conformance, plain, task};

    impl Reopen for MemoryStore {
        fn open(&self) -> Arc<dyn Store> {
            Arc::new(self.clone())
        }
    }

    conformance!(MemoryStore::default());

    fn draft(id: &str) -> Draft {
        plain(task(id, "q"))
    }

    fn opened(store: &MemoryStore) -> Arc<dyn Journal> {
        Store::open(store, &NamespaceId::trusted("n")).unwrap()
    }

    fn stored(store: &MemoryStore) -> usize {
        let mut found = 0;
        opened(store).replay(&mut |_| found += 1).unwrap();
        found
    }

    #[tokio::test]
    async fn a_refusal_leaves_the_journal_working() {
        let store = MemoryStore::default();
        let journal = opened(&store);
        store.faults().next_append(Fault::Refuse);
        let refused = journal.append(vec![draft("a")]).await;
        assert!(matches!(refused, Err(AppendError::Refused(_))));
        assert_eq!(stored(&store), 0);
        journal.append(vec![draft("a")]).await.unwrap();
        assert_eq!(stored(&store), 1);
    }

    #[tokio::test]
    async fn an_unknown_outcome_may_be_committed_or_not_and_ends_the_journal() {
        for (fault, expected) in [(Fault::UnknownCommitted, 1), (Fault::UnknownLost, 0)] {
            let store = MemoryStore::default();
            let journal = opened(&store);
            store.faults().next_append(fault);
            let unknown = journal.append(vec![draft("a")]).await;
            assert!(matches!(unknown, Err(AppendError::Unknown(_))));
            let refused = journal.append(vec![draft("b")]).await;
            assert!(matches!(refused, Err(AppendError::Refused(_))));
            assert_eq!(stored(&store), expected);
            opened(&store).append(vec![draft("b")]).await.unwrap();
            assert_eq!(stored(&store), expected + 1);
        }
    }

    #[tokio::test]
    async fn a_kill_keeps_the_entries_before_it() {
        let store = MemoryStore::default();
        let journal = opened(&store);
        store.faults().kill_after(3);
        journal.append(vec![draft("a"), draft("b")]).await.unwrap();
        let unknown = journal.append(vec![draft("c"), draft("d")]).await;
        assert!(matches!(unknown, Err(AppendError::Unknown(_))));
        assert_eq!(stored(&store), 3);
        let appended = opened(&store).append(vec![draft("d")]).await.unwrap();
        assert_eq!(appended.outcomes, [Ok(Revision(4))]);
    }

    #[tokio::test]
    async fn the_gate_lets_groups_through_one_by_one() {
        let store = MemoryStore::default();
        let faults = store.faults();
        let journal = opened(&store);
        faults.shut_gate();
        let first = journal.append(vec![draft("a")]);
        let second = tokio::spawn(journal.append(vec![draft("b")]));
        faults.until_held(2).await;
        assert_eq!(stored(&store), 0);
        assert_eq!(faults.release(1), 1);
        assert_eq!(first.await.unwrap().outcomes, [Ok(Revision(1))]);
        assert_eq!(stored(&store), 1);
        assert!(!second.is_finished());
        faults.open_gate();
        assert_eq!(second.await.unwrap().unwrap().outcomes, [Ok(Revision(2))]);
        journal.append(vec![draft("c")]).await.unwrap();
    }

    #[tokio::test]
    async fn a_kill_loses_what_the_gate_holds() {
        let store = MemoryStore::default();
        let faults = store.faults();
        let journal = opened(&store);
        faults.shut_gate();
        let held = journal.append(vec![draft("a")]);
        faults.kill();
        faults.open_gate();
        assert!(matches!(held.await, Err(AppendError::Unknown(_))));
        assert!(matches!(
            journal.append(vec![draft("a")]).await,
            Err(AppendError::Refused(_))
        ));
        assert_eq!(stored(&store), 0);
    }
}
