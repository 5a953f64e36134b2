//! The journal of the simulated server: the one in memory, slow and faulty in virtual time, that
//! keeps a copy of every entry that was ever committed, compacted away or not.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fastrand::Rng;
use parking_lot::Mutex;

use crate::{
    domain::{Entry, Epoch, NamespaceId, Revision, Uid},
    journal::{
        AppendError, AppendFuture, Committed, Draft, Fault, Journal, MemoryStore, OpenError,
        ReadFuture, Store,
    },
};

/// Everything committed, by epoch and revision.
pub(super) type Log = BTreeMap<(Epoch, Revision), Entry>;

/// The disk: what outlives the server.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    store: MemoryStore,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    rng: Rng,
    /// The longest that a group takes, in milliseconds; it may take twice, before and after.
    slowest_ms: u64,
    log: Log,
    unknown: u64,
    refused: u64,
}

impl Disk {
    pub(super) fn new(mut rng: Rng) -> Self {
        let slowest_ms = [0, 2, 20, 200][rng.usize(..4)];
        let shared = Shared {
            rng,
            slowest_ms,
            log: Log::new(),
            unknown: 0,
            refused: 0,
        };
        Self {
            store: MemoryStore::new(Uid(1)),
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    /// A disk with a copy of what is committed now, for a later epoch.
    pub(super) fn backup(&self) -> MemoryStore {
        self.store.restored(self.store.epoch())
    }

    /// Puts a copy in the place of what there is, under a new epoch.
    pub(super) fn restore(&mut self, backup: &MemoryStore, epoch: Epoch) {
        self.store = backup.restored(epoch);
    }

    /// The process that has it open is gone.
    pub(super) fn kill(&self) {
        self.store.faults().kill();
    }

    pub(super) fn next_append(&self, fault: Fault) {
        self.store.faults().next_append(fault);
    }

    pub(super) fn be_fast(&self) {
        self.shared.lock().slowest_ms = 2;
    }

    pub(super) fn log(&self) -> Log {
        self.shared.lock().log.clone()
    }

    /// How often it refused, and how often nobody could know what became of a group.
    pub(super) fn failures(&self) -> (u64, u64) {
        let shared = self.shared.lock();
        (shared.refused, shared.unknown)
    }
}

impl Shared {
    fn delay(&mut self) -> Duration {
        let longest = if self.rng.u8(..20) == 0 {
            self.slowest_ms * 20
        } else {
            self.slowest_ms
        };
        Duration::from_millis(self.rng.u64(0..=longest))
    }

    fn record(&mut self, epoch: Epoch, committed: &Committed) {
        let place = (epoch, committed.revision);
        self.log
            .entry(place)
            .or_insert_with(|| committed.entry.clone());
    }
}

impl Store for Disk {
    fn epoch(&self) -> Epoch {
        self.store.epoch()
    }

    fn namespaces(&self) -> Result<Vec<NamespaceId>, OpenError> {
        self.store.namespaces()
    }

    fn open(&self, namespace: &NamespaceId) -> Result<Arc<dyn Journal>, OpenError> {
        Ok(Arc::new(Slow {
            journal: self.store.open(namespace)?,
            epoch: self.store.epoch(),
            shared: self.shared.clone(),
        }))
    }

    fn close(&self) -> Result<(), OpenError> {
        self.store.close()
    }
}

#[derive(Debug)]
struct Slow {
    journal: Arc<dyn Journal>,
    epoch: Epoch,
    shared: Arc<Mutex<Shared>>,
}

impl Journal for Slow {
    fn replay(&self, sink: &mut dyn FnMut(Committed)) -> Result<Revision, OpenError> {
        self.journal.replay(&mut |committed| {
            // A group whose outcome was unknown is met here for the first time.
            self.shared.lock().record(self.epoch, &committed);
            sink(committed);
        })
    }

    fn append(&self, group: Vec<Draft>) -> AppendFuture {
        let (journal, epoch, shared) = (self.journal.clone(), self.epoch, self.shared.clone());
        let (before, after) = {
            let mut shared = shared.lock();
            (shared.delay(), shared.delay())
        };
        Box::pin(async move {
            pause(before).await;
            let appended = journal.append(group).await;
            {
                let mut shared = shared.lock();
                match &appended {
                    Ok(appended) => {
                        for committed in &appended.committed {
                            shared.record(epoch, committed);
                        }
                    }
                    Err(AppendError::Refused(_) | AppendError::Full(_)) => shared.refused += 1,
                    Err(AppendError::Unknown(_)) => shared.unknown += 1,
                }
            }
            // Killed in here, it is committed and nobody was told.
            pause(after).await;
            appended
        })
    }

    fn read(&self, revision: Revision) -> ReadFuture {
        self.journal.read(revision)
    }
}

async fn pause(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}
