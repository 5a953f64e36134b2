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

/// How often a lease is renewed of which the server does not say it.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// One lease.
///
/// At first it counts from when the answer that gave it came: the question may have waited for
/// many times as long, and the server counts from the moment it gave the task. That is too long by
/// what the answer was under way at most, and the answer to the first renewal, which is sent at
/// once, decides. From then on it counts from when the renewal was sent.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) token: Bytes,
    pub(super) task: String,
    /// The task should stop: it was asked to, or its lease is lost.
    pub(super) cancelled: CancellationToken,
    /// Another attempt may own the task: what this one returns counts no more.
    pub(super) lost: CancellationToken,
    until: Mutex<Instant>,
    /// How often the server wants to hear of it.
    renew_every: Duration,
    /// The handler has ended; only its result is still to be told.
    ended: AtomicBool,
    /// A renewal was answered: `until` is what the server promised, reckoned from when it was sent.
    promised: AtomicBool,
}

impl Held {
    pub(super) fn new(
        token: Bytes,
        task: String,
        until: Instant,
        renew_every: Option<Duration>,
    ) -> Self {
        let lost = CancellationToken::new();
        // Cancelled by a request alone, or by the loss.
        let cancelled = lost.child_token();
        Self {
            token,
            task,
            cancelled,
            lost,
            until: Mutex::new(until),
            renew_every: renew_every
                .filter(|every| !every.is_zero())
                .unwrap_or(RENEW_EVERY),
            ended: AtomicBool::new(false),
            promised: AtomicBool::new(false),
        }
    }

    pub(super) fn until(&self) -> Instant {
        *self.until.lock()
    }

    pub(super) fn extend(&self, until: Instant) {
        let mut held = self.until.lock();
        *held = (*held).max(until);
        self.promised.store(true, Ordering::Relaxed);
    }

    /// When it is over unless another renewal is answered; none where its first one is still to tell,
    /// or where there is nothing to stop any more.
    fn over_at(&self) -> Option<Instant> {
        let runs = !self.lost.is_cancelled() && !self.ended.load(Ordering::Relaxed);
        let counts = runs && self.promised.load(Ordering::Relaxed);
        counts.then(|| self.until())
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
    /// A lease was renewed, which may be over before any other.
    pub(super) renewed: Notify,
}

impl Leases {
    pub(super) fn insert(&self, held: Arc<Held>) {
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

    /// When the next of them is over, if it is not renewed.
    pub(super) fn next_over(&self) -> Option<Instant> {
        let held = self.held.lock();
        held.values().filter_map(|held| held.over_at()).min()
    }

    /// Those that are over by this worker's own clock are lost, whatever the server says later.
    pub(super) fn sweep(&self, now: Instant) {
        for held in self.all() {
            if held.over_at().is_some_and(|until| until <= now) {
                held.lose("its time is over");
            }
        }
    }

    /// How often the server wants to hear of them: all are renewed as often as the one that needs
    /// it most.
    pub(super) fn renew_interval(&self) -> Duration {
        let held = self.held.lock();
        let intervals = held.values().map(|held| held.renew_every);
        intervals.min().unwrap_or(RENEW_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_renewed_as_often_as_the_one_that_needs_it_most() {
        let leases = Leases::default();
        assert_eq!(leases.renew_interval(), RENEW_EVERY);
        for (token, every) in [(1, Some(700)), (2, None), (3, Some(1500)), (4, Some(0))] {
            let every = every.map(Duration::from_millis);
            let held = Held::new(vec![token].into(), String::new(), Instant::now(), every);
            leases.insert(Arc::new(held));
        }
        assert_eq!(leases.renew_interval(), Duration::from_millis(700));
        leases.remove(&vec![1].into());
        assert_eq!(leases.renew_interval(), Duration::from_millis(1500));
    }
}
