//! News of its leases for one worker process, pushed.
//!
//! Liveness never depends on it: each renewal carries the same news.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep_until},
};

use super::{
    super::{Namespace, Shared, mirror::TaskRow, token::LeaseToken, wakers::Topic},
    ClosingReason, DEFAULT_HEARTBEAT, MAX_AGE,
};
use crate::{
    domain::{Error, Reason, Revision, TaskId, Uid, task::AttemptEnd},
    telemetry::metrics::{WatchKind, WatchMeter},
};

/// What a worker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseNews {
    /// Somebody asked the task to stop.
    CancelRequested {
        /// The lease.
        token: LeaseToken,
        /// Why.
        reason: String,
    },
    /// The lease is over, and not by the worker's own word.
    Lost {
        /// The lease.
        token: LeaseToken,
    },
    /// Nothing happened for a while.
    Bookmark,
    /// The stream ends; open it again.
    Closing {
        /// Why.
        reason: ClosingReason,
        /// When to come back.
        reconnect_after: Duration,
    },
}

/// See the module.
#[derive(Debug)]
pub struct LeaseWatch {
    shared: Arc<Shared>,
    instance: Uid,
    receiver: Receiver<Revision>,
    /// Leases that were seen, and whether the wish to stop was told.
    known: BTreeMap<TaskId, (LeaseToken, bool)>,
    ready: Vec<LeaseNews>,
    ends_at: Instant,
    last_frame: Instant,
    closing: bool,
    ended: bool,
    presence: Present,
    meter: WatchMeter,
}

/// Says that the stream is there, and when it is not.
#[derive(Debug)]
struct Present {
    shared: Arc<Shared>,
    instance: Uid,
    /// The stream ends by this server's own word.
    planned: bool,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.shared.presence.leave(self.instance, self.planned);
    }
}

impl Namespace {
    /// Watches the leases of one worker process.
    #[must_use]
    pub fn watch_leases(&self, instance: Uid) -> LeaseWatch {
        let shared = self.shared().clone();
        let now = Instant::now();
        shared.presence.enter(instance);
        let presence = Present {
            shared: shared.clone(),
            instance,
            planned: false,
        };
        LeaseWatch {
            meter: shared.probe.metrics.watch_opened(WatchKind::Leases),
            receiver: shared.wakers.subscribe(Topic::Instance(instance)),
            shared,
            instance,
            known: BTreeMap::new(),
            ready: Vec::new(),
            ends_at: now + MAX_AGE.mul_f64(0.9 + 0.2 * fastrand::f64()),
            last_frame: now,
            closing: false,
            ended: false,
            presence,
        }
    }
}

impl LeaseWatch {
    /// The next news; an error, once, at the end.
    pub async fn next(&mut self) -> Option<Result<LeaseNews, Error>> {
        loop {
            if let Some(news) = self.ready.pop() {
                self.last_frame = Instant::now();
                self.meter.frame();
                return Some(Ok(news));
            }
            if self.ended {
                return None;
            }
            if self.closing {
                self.ended = true;
                return Some(Err(Error::new(
                    Reason::StreamDraining,
                    "the stream ends as planned: open it again",
                )));
            }
            self.receiver.mark_unchanged();
            self.look();
            if !self.ready.is_empty() {
                continue;
            }
            let bookmark_at = self.last_frame + DEFAULT_HEARTBEAT;
            tokio::select! {
                biased;
                () = self.shared.draining.cancelled() => self.close(ClosingReason::Draining),
                () = self.shared.ended.cancelled() => self.close(ClosingReason::Draining),
                () = sleep_until(self.ends_at) => self.close(ClosingReason::MaxAge),
                () = sleep_until(bookmark_at) => self.ready.push(LeaseNews::Bookmark),
                _ = self.receiver.changed() => {}
            }
        }
    }

    /// Compares the leases that stand with those that were seen.
    fn look(&mut self) {
        let mirror = self.shared.mirror.read();
        let held: BTreeMap<_, _> = mirror
            .leased
            .get(&self.instance)
            .into_iter()
            .flatten()
            .filter_map(|id| Some((id.clone(), mirror.tasks.get(id)?)))
            .collect();
        for (id, row) in &held {
            let Some(token) = self.token(id, row) else {
                continue;
            };
            let (known, told) = self
                .known
                .entry(id.clone())
                .or_insert_with(|| (token.clone(), false));
            if *known != token {
                self.ready.push(LeaseNews::Lost {
                    token: std::mem::replace(known, token.clone()),
                });
                *told = false;
            }
            if let Some(cancel) = row.task.cancel.as_ref().filter(|_| !*told) {
                *told = true;
                self.ready.push(LeaseNews::CancelRequested {
                    token,
                    reason: cancel.reason.clone(),
                });
            }
        }
        let gone: Vec<_> = self
            .known
            .keys()
            .filter(|id| !held.contains_key(*id))
            .cloned()
            .collect();
        for id in gone {
            let Some((token, _)) = self.known.remove(&id) else {
                continue;
            };
            let attempt = mirror.tasks.get(&id).and_then(|row| {
                row.task
                    .attempt_of(token.fence, token.secret)
                    .map(crate::domain::task::Attempt::end)
            });
            // What the worker itself ended or gave back is no news to it.
            if attempt == Some(AttemptEnd::Lost) {
                self.ready.push(LeaseNews::Lost { token });
            }
        }
    }

    fn token(&self, id: &TaskId, row: &TaskRow) -> Option<LeaseToken> {
        let attempt = row.task.running()?;
        Some(LeaseToken {
            namespace: self.shared.id.clone(),
            task: id.clone(),
            fence: attempt.fence,
            secret: attempt.secret,
        })
    }

    fn close(&mut self, reason: ClosingReason) {
        let reconnect_after = Duration::from_millis(200 + fastrand::u64(..800));
        self.ready.push(LeaseNews::Closing {
            reason,
            reconnect_after,
        });
        self.closing = true;
        self.presence.planned = true;
    }
}
