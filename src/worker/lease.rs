//! The leases a worker holds, shared by the loop that gets them, the thread that renews them and
//! the loop that finishes them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// One lease. It counts from when the request that gave or renewed it was sent, because the
/// server counts from a moment after that.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) token: Bytes,
    pub(super) task: String,
    /// The task should stop: it was asked to, or its lease is lost.
    pub(super) cancelled: CancellationToken,
    /// Another attempt may own the task: what this one returns counts no more.
    pub(super) lost: CancellationToken,
    until: Mutex<Instant>,
    /// The handler has ended; only its result is still to be told.
    ended: AtomicBool,
}

impl Held {
    pub(super) fn new(token: Bytes, task: String, until: Instant) -> Self {
        let lost = CancellationToken::new();
        // Cancelled by a request alone, or by the loss.
        let cancelled = lost.child_token();
        Self {
            token,
            task,
            cancelled,
            lost,
            until: Mutex::new(until),
            ended: AtomicBool::new(false),
        }
    }

    pub(super) fn until(&self) -> Instant {
        *self.until.lock()
    }

    pub(super) fn extend(&self, until: Instant) {
        let mut held = self.until.lock();
        *held = (*held).max(until);
    }

    /// The handler has ended. From here on a renewal that finds the lease gone is no news: the
    /// finish may have closed it while the renewal was on its way.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    pub(super) fn lose(&self, why: &str) {
        if !self.lost.is_cancelled() && !self.ended.load(Ordering::Relaxed) {
            tracing::warn!(task.name = self.task, "lease lost: {why}");
            self.lost.cancel();
        }
    }
}

/// All leases of a worker.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// Held for moments, never across an await.
    held: Mutex<BTreeMap<Bytes, Arc<Held>>>,
    /// A lease has come that has to be accepted at once.
    pub(super) came: Notify,
    interval: Mutex<Option<Duration>>,
}

impl Leases {
    pub(super) fn insert(&self, held: Arc<Held>, renew_interval: Option<Duration>) {
        if let Some(interval) = renew_interval.filter(|interval| !interval.is_zero()) {
            *self.interval.lock() = Some(interval);
        }
        self.held.lock().insert(held.token.clone(), held);
        self.came.notify_one();
    }

    pub(super) fn remove(&self, token: &Bytes) {
        self.held.lock().remove(token);
    }

    pub(super) fn get(&self, token: &Bytes) -> Option<Arc<Held>> {
        self.held.lock().get(token).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Held>> {
        self.held.lock().values().cloned().collect()
    }

    /// How often the server wants to hear of them.
    pub(super) fn renew_interval(&self) -> Duration {
        self.interval.lock().unwrap_or(Duration::from_secs(2))
    }
}
