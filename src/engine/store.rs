//! All namespaces of a store: opened by replay, created on first use, closed in order.

use std::{collections::HashMap, io::Write, sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    COMMAND_QUEUE, Namespace, Shared,
    intake::Intake,
    mirror::Mirror,
    monitor,
    payloads::Payloads,
    presence::Presence,
    values::{CACHED_BYTES, ValueCache, Values},
    wakers::Wakers,
};
use crate::{
    domain::{Epoch, Error, NamespaceId, Reason},
    journal::{
        Durability, Journal, OpenError, Store, Usage,
        backup::{self, BackupError, Summary},
    },
    runtime::{JobKind, Registry, blocking},
    telemetry::Probe,
};

/// Namespaces one server runs.
const MAX_NAMESPACES: usize = 64;

/// Ended tasks that each namespace keeps unless it is told otherwise.
pub const DEFAULT_KEEP_ENDED: usize = 1_000_000;

/// What an engine runs with, beside its store.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Ended tasks that each namespace keeps; 0: all, until their retention is over.
    pub keep_ended: usize,
    /// Who is told of what happens.
    pub probe: Probe,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            keep_ended: DEFAULT_KEEP_ENDED,
            probe: Probe::default(),
        }
    }
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened or read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The thread that replays the journal failed.
    #[error("replaying namespace {0} failed: {1}")]
    Replay(NamespaceId, String),
}

/// A store's namespaces. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    jobs: Registry,
    /// Where monitors run, whoever opens their namespace.
    runtime: Handle,
    namespaces: Mutex<HashMap<NamespaceId, Namespace>>,
    values: Arc<ValueCache>,
    options: EngineOptions,
    /// One namespace is opened at a time.
    opening: tokio::sync::Mutex<()>,
    draining: CancellationToken,
    stop: CancellationToken,
}

impl Engine {
    /// Opens every namespace of the store by replaying its journal. `default` is opened always.
    /// Background jobs are registered with `jobs`.
    pub async fn start(store: Arc<dyn Store>, jobs: Registry) -> Result<Self, StartError> {
        Self::start_with(EngineOptions::default(), store, jobs).await
    }

    /// The same with options.
    pub async fn start_with(
        options: EngineOptions,
        store: Arc<dyn Store>,
        jobs: Registry,
    ) -> Result<Self, StartError> {
        let inner = Inner {
            store,
            jobs,
            runtime: Handle::current(),
            namespaces: Mutex::default(),
            values: Arc::new(ValueCache::new(CACHED_BYTES)),
            options,
            opening: tokio::sync::Mutex::default(),
            draining: CancellationToken::new(),
            stop: CancellationToken::new(),
        };
        let engine = Self {
            inner: Arc::new(inner),
        };
        let mut known = engine.inner.store.namespaces()?;
        let default = NamespaceId::trusted("default");
        if !known.contains(&default) {
            known.push(default);
        }
        for namespace in known {
            engine.open(&namespace).await?;
        }
        Ok(engine)
    }

    /// The store's epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.inner.store.epoch()
    }

    /// Who is told of what happens.
    #[must_use]
    pub fn probe(&self) -> &Probe {
        &self.inner.options.probe
    }

    /// When writes are answered.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.inner.store.durability()
    }

    /// Writes a backup of everything that is committed now. Blocks: not for a thread of the runtime.
    pub fn backup(&self, time_us: i64, out: &mut impl Write) -> Result<Summary, BackupError> {
        backup::write(self.inner.store.as_ref(), time_us, out)
    }

    /// A namespace that stands; for reads.
    pub fn existing(&self, id: &NamespaceId) -> Result<Namespace, Error> {
        self.inner
            .namespaces
            .lock()
            .get(id)
            .cloned()
            .ok_or_else(|| {
                Error::new(
                    Reason::NamespaceNotFound,
                    format!(
                        "there is no namespace {id}: the first task or update in it creates it"
                    ),
                )
                .with("namespace", id)
            })
    }

    /// A namespace, made where there is none; for writes.
    pub async fn namespace(&self, id: &NamespaceId) -> Result<Namespace, Error> {
        if let Ok(namespace) = self.existing(id) {
            return Ok(namespace);
        }
        let _one_at_a_time = self.inner.opening.lock().await;
        if let Ok(namespace) = self.existing(id) {
            return Ok(namespace);
        }
        if self.inner.draining.is_cancelled() {
            return Err(Error::new(
                Reason::NotReady,
                "the server is stopping: retry when it is back",
            ));
        }
        if self.inner.namespaces.lock().len() >= MAX_NAMESPACES {
            return Err(Error::new(
                Reason::QuotaExceeded,
                format!("there are {MAX_NAMESPACES} namespaces already, {id} cannot be added"),
            ));
        }
        self.open(id).await.map_err(|error| {
            tracing::error!(namespace = %id, error = %error, "namespace cannot be opened");
            Error::new(
                Reason::JournalUnavailable,
                format!("namespace {id} cannot be opened: {error}"),
            )
        })
    }

    async fn open(&self, id: &NamespaceId) -> Result<Namespace, StartError> {
        let (store, name) = (self.inner.store.clone(), id.clone());
        let began = Instant::now();
        let replay = blocking("replay a namespace", move || replay(store.as_ref(), &name)).await;
        let (journal, mirror) =
            replay.map_err(|error| StartError::Replay(id.clone(), error.to_string()))??;
        tracing::info!(
            namespace = %id,
            revision = mirror.head.0,
            tasks = mirror.tasks.live_len(),
            states = mirror.states.len(),
            "namespace opened"
        );
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let shared = Arc::new(Shared {
            id: id.clone(),
            epoch: self.epoch(),
            mirror: parking_lot::RwLock::new(mirror),
            ready: Mutex::default(),
            intake: Intake::default(),
            wakers: Wakers::default(),
            presence: Presence::default(),
            keep_ended: self.inner.options.keep_ended,
            replay: began.elapsed(),
            probe: self.inner.options.probe.clone(),
            values: Values::new(journal.clone(), self.inner.values.clone()),
            payloads: Payloads::new(journal.clone()),
            commands,
            draining: self.inner.draining.clone(),
            ended: CancellationToken::new(),
            #[cfg(test)]
            trap: Default::default(),
        });
        let stop = self.inner.stop.clone();
        let monitor = monitor::Monitor::new(shared.clone(), journal, receiver, stop);
        let _on_it = self.inner.runtime.enter();
        let _handle = self.inner.jobs.spawn_restarting(
            JobKind::Monitor,
            format!("monitor of {id}"),
            move |life| monitor.live(life, fastrand::u64(..)),
        );
        let namespace = Namespace::new(shared);
        self.inner
            .namespaces
            .lock()
            .insert(id.clone(), namespace.clone());
        if self.inner.draining.is_cancelled() {
            // It began while this was replayed, and found no watches here to close.
            namespace.shared().wakers.close();
        }
        Ok(namespace)
    }

    /// What the store takes and what is left.
    pub(super) fn usage(&self) -> Usage {
        self.inner.store.usage()
    }

    /// What is at hand of large values.
    pub(super) fn value_cache(&self) -> &ValueCache {
        &self.inner.values
    }

    /// The same engine for as long as somebody else holds on to it.
    pub fn weak(&self) -> impl Fn() -> Option<Self> + Send + Sync + use<> {
        let inner = Arc::downgrade(&self.inner);
        move || inner.upgrade().map(|inner| Self { inner })
    }

    /// Every open namespace.
    #[must_use]
    pub fn namespaces(&self) -> Vec<Namespace> {
        self.inner.namespaces.lock().values().cloned().collect()
    }

    /// Cancelled when the server begins to stop.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.inner.draining.clone()
    }

    /// Begins to stop: long polls answer empty, watches close with a word, push streams are told
    /// to reconnect. Calls are still served.
    pub fn drain(&self) {
        self.inner.draining.cancel();
        for namespace in self.namespaces() {
            namespace.shared().wakers.close();
            namespace.direct_reconnect();
        }
    }

    /// Finishes what was asked for, ends the monitors and closes the store.
    pub async fn stop(&self) -> Result<(), OpenError> {
        self.drain();
        self.inner.stop.cancel();
        for namespace in self.namespaces() {
            namespace.ended().await;
        }
        let store = self.inner.store.clone();
        blocking("close the store", move || store.close())
            .await
            .unwrap_or_else(|error| {
                Err(OpenError::Io {
                    path: String::new(),
                    problem: error.to_string(),
                })
            })
    }
}

/// Opens a namespace's journal and folds all of it. Reading and folding in two threads was tried:
/// what one allocates the other frees, and they spend more on that than the second core gives.
fn replay(store: &dyn Store, id: &NamespaceId) -> Result<(Arc<dyn Journal>, Mirror), OpenError> {
    let journal = store.open(id)?;
    let mirror = fold(journal.as_ref())?;
    Ok((journal, mirror))
}

/// Folds all of a journal into a new mirror. Blocks.
pub(super) fn fold(journal: &dyn Journal) -> Result<Mirror, OpenError> {
    let mut mirror = Mirror::default();
    let head = journal.replay(&mut |committed| {
        mirror.apply(committed);
    })?;
    mirror.head = mirror.head.max(head);
    mirror.reset_counts();
    Ok(mirror)
}
