//! The StateQueue: a program writes to it as if it were the server's state, and never waits.
//!
//! Every method that writes is synchronous: it takes a lock for moments, and a background task
//! does the sending. While the server is away, or slower than the writer, what was flushed folds
//! into one pending batch, so memory is bounded by the keys and the last value of each is never
//! lost. What a batch is and when it gets its number is decided in `push_core`; which of the two
//! streams carries it, so that a large value never delays a small one, in `lanes`.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::Arc,
    task::Waker,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use parking_lot::Mutex;
use prost_types::Timestamp;
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    connection::Client,
    error::Error,
    lanes::{Lane, Lanes, Ready},
    push_fold::{Pending, own_write, weight_of},
    queue_builder::StateQueueBuilder,
    queue_report::{QueueStats, Rejection, Unacknowledged},
    update::{Op, Update},
    value::decode_value,
};
use crate::proto::v1::{TraceContext, Value, WriterMark};

/// Rejected keys that are kept for [`StateQueue::rejections`]; older ones are only counted.
const MAX_REJECTIONS: usize = 1000;
/// How long `exit` waits by itself.
const EXIT_DEADLINE: Duration = Duration::from_secs(10);
/// The API's limit for a key.
const MAX_KEY_BYTES: usize = 256;

pub(super) type OnRejected = Arc<dyn Fn(&Rejection) + Send + Sync>;

/// What the queue, its clones and its sending tasks share.
pub(super) struct Shared {
    pub(super) state_name: String,
    pub(super) lease_token: Bytes,
    /// Where it was opened, which its streams are told of.
    pub(super) trace: Option<TraceContext>,
    /// Held for moments, never across an await; wakers are woken after it is released.
    pub(super) state: Mutex<State>,
    /// Wakes a lane's sending task while it has no stream.
    pub(super) work: [Notify; 2],
    /// Wakes those who wait for acknowledgements.
    pub(super) progress: Notify,
    pub(super) cancel_requested: CancellationToken,
    pub(super) lease_lost: CancellationToken,
    pub(super) on_rejected: Option<OnRejected>,
}

pub(super) struct State {
    pub(super) lanes: Lanes,
    /// What was set since the last flush.
    pub(super) unflushed: Pending,
    pub(super) own: BTreeMap<String, Op>,
    pub(super) max_value_bytes: usize,
    pub(super) rejections: VecDeque<Rejection>,
    pub(super) rejected: u64,
    pub(super) refused: u64,
    /// Nothing more is taken; the sending tasks end when all is acknowledged.
    pub(super) closing: bool,
    /// The sending tasks have ended for good.
    pub(super) ended: bool,
    pub(super) last_error: Option<Error>,
    pub(super) lines: [Line; 2],
}

/// A lane's connection to the server.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) streams: u64,
    /// Which stream may take frames: one left over from a lost connection may not.
    pub(super) epoch: u64,
    pub(super) stream_done: bool,
    pub(super) keepalive_due: bool,
    pub(super) waker: Option<Waker>,
    /// The sending task has ended, with everything settled.
    pub(super) done: bool,
}

/// Which lanes are to be woken once the lock is released: the stream where one waits for something
/// to send, else the task that would open one.
#[derive(Debug, Default)]
#[must_use = "what is not woken is not sent"]
pub(super) struct Wakes([Option<Option<Waker>>; 2]);

/// Writes to a state without ever waiting. A clone writes to the same queue; when the last one is
/// dropped, what was set is flushed and sent as long as the runtime lives.
#[derive(Clone)]
pub struct StateQueue {
    shared: Arc<Shared>,
    auto_flush: bool,
    _last: Arc<CloseOnDrop>,
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl StateQueue {
    /// A queue to `state` whose calls are each a flush of their own. To be called inside a tokio
    /// runtime.
    pub fn open(client: &Client, state: &str) -> Self {
        Self::builder(client, state).open()
    }

    /// All settings.
    pub fn builder(client: &Client, state: &str) -> StateQueueBuilder {
        StateQueueBuilder::new(client, state)
    }

    pub(super) fn new(shared: Arc<Shared>, auto_flush: bool) -> Self {
        let last = Arc::new(CloseOnDrop(Arc::clone(&shared)));
        Self {
            shared,
            auto_flush,
            _last: last,
        }
    }

    /// The state's full name.
    pub fn state_name(&self) -> &str {
        &self.shared.state_name
    }

    /// Sets a key.
    pub fn set(&self, key: impl Into<String>, value: impl Into<Value>) {
        self.push([Update::put(key, value)]);
    }

    /// Sets a key; the same as [`set`](Self::set).
    pub fn put(&self, key: impl Into<String>, value: impl Into<Value>) {
        self.set(key, value);
    }

    /// Removes a key.
    pub fn delete(&self, key: impl Into<String>) {
        self.push([Update::delete(key)]);
    }

    /// Adds an integer or number to a key; a missing one starts from 0.
    pub fn add(&self, key: impl Into<String>, value: impl Into<Value>) {
        self.push([Update::add(key, value)]);
    }

    /// Raises a key to an integer or number.
    pub fn max(&self, key: impl Into<String>, value: impl Into<Value>) {
        self.push([Update::max(key, value)]);
    }

    /// Lowers a key to an integer or number.
    pub fn min(&self, key: impl Into<String>, value: impl Into<Value>) {
        self.push([Update::min(key, value)]);
    }

    /// Sets several keys, which become visible together.
    pub fn update<K, V>(&self, values: impl IntoIterator<Item = (K, V)>)
    where
        K: Into<String>,
        V: Into<Value>,
    {
        self.push(
            values
                .into_iter()
                .map(|(key, value)| Update::put(key, value)),
        );
    }

    /// Carries out several operations, which become visible together.
    pub fn push(&self, updates: impl IntoIterator<Item = Update>) {
        let updates: Vec<Update> = updates.into_iter().collect();
        let mut rejected = Vec::new();
        let wakes = {
            let mut state = self.shared.state.lock();
            if state.is_over() {
                state.refused += 1;
                return;
            }
            let updates = state.admit(updates, &mut rejected);
            if !self.auto_flush || !state.unflushed.is_empty() {
                state.unflushed.fold_in(updates);
                if self.auto_flush {
                    state.flush()
                } else {
                    Wakes::default()
                }
            } else if updates.is_empty() && !rejected.is_empty() {
                Wakes::default()
            } else {
                let ready = state.lanes.flush(updates, now());
                state.wakes(ready)
            }
        };
        self.shared.wake(wakes);
        self.shared.report(rejected);
    }

    /// Hands over what was set since the last flush as one batch. It does not wait.
    pub fn flush(&self) {
        let wakes = self.shared.state.lock().flush();
        self.shared.wake(wakes);
    }

    /// What this queue last made of the key: its own writes, sent or not. None where it never
    /// set the key or has removed it.
    pub fn get(&self, key: &str) -> Option<Value> {
        match self.shared.state.lock().own.get(key) {
            Some(Op::Put(operand)) => decode_value(&operand.encoded).ok(),
            _ => None,
        }
    }

    /// The last batch of each of the queue's writers, with everything flushed so far in them: what
    /// a task's finish waits for. A queue has one writer, and a second one once it was given a
    /// value above 64 KiB. None where nothing was ever flushed. It gives everything its number at
    /// once, so that later flushes may have to wait for a large value that is on its way.
    pub fn marks(&self) -> Vec<WriterMark> {
        let (marks, wakes) = {
            let mut state = self.shared.state.lock();
            let flushed = state.flush();
            state.lanes.seal(now());
            let all = state.wakes(Ready::BOTH);
            (self.shared.marks(&state), flushed.and(all))
        };
        self.shared.wake(wakes);
        marks
    }

    /// Flushes and takes nothing more; the sending goes on by itself. Gives the last batch of each
    /// of the queue's writers.
    pub fn close(&self) -> Vec<WriterMark> {
        self.shared.close()
    }

    /// Flushes, takes nothing more, and waits until everything is durable, 10 s at most.
    ///
    /// # Errors
    ///
    /// When something is not acknowledged by then, or can no longer be.
    pub async fn exit(&self) -> Result<QueueStats, Unacknowledged> {
        self.exit_within(EXIT_DEADLINE).await
    }

    /// [`exit`](Self::exit) with a deadline of its own.
    ///
    /// # Errors
    ///
    /// When something is not acknowledged by then, or can no longer be.
    pub async fn exit_within(&self, within: Duration) -> Result<QueueStats, Unacknowledged> {
        self.close();
        self.settle_within(within).await
    }

    /// Flushes and waits until everything flushed so far and meanwhile is durable.
    ///
    /// # Errors
    ///
    /// When something is not acknowledged by then, or can no longer be.
    pub async fn settle_within(&self, within: Duration) -> Result<QueueStats, Unacknowledged> {
        self.flush();
        // A deadline that passes is told by what is left.
        let _ = timeout(within, self.shared.until_settled()).await;
        let state = self.shared.state.lock();
        if state.lanes.is_settled() {
            return Ok(state.stats());
        }
        Err(Unacknowledged {
            state: self.shared.state_name.clone(),
            batches: state.lanes.unsettled_batches(),
            lease_lost: self.shared.lease_lost.is_cancelled(),
            error: state.last_error.clone(),
        })
    }

    /// What it has done so far.
    pub fn stats(&self) -> QueueStats {
        self.shared.state.lock().stats()
    }

    /// Takes the keys that were rejected since the last look, the newest 1000 of them.
    pub fn rejections(&self) -> Vec<Rejection> {
        self.shared.state.lock().rejections.drain(..).collect()
    }

    /// Cancelled when the server says on this stream that the task is asked to stop.
    pub fn cancel_requested(&self) -> CancellationToken {
        self.shared.cancel_requested.clone()
    }

    /// Cancelled when the attempt's lease is lost: nothing more is accepted.
    pub fn lease_lost(&self) -> CancellationToken {
        self.shared.lease_lost.clone()
    }
}

impl fmt::Debug for StateQueue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StateQueue")
            .field("state_name", &self.shared.state_name)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

pub(super) fn now() -> Timestamp {
    SystemTime::now().into()
}

impl State {
    fn is_over(&self) -> bool {
        self.closing || self.ended
    }

    /// Remembers the program's own writes and sorts out what no server would take.
    fn admit(&mut self, updates: Vec<Update>, rejected: &mut Vec<Rejection>) -> Vec<Update> {
        let mut admitted = Vec::with_capacity(updates.len());
        for update in updates {
            let Update { key, operation } = &update;
            let reason = if key.is_empty() || key.len() > MAX_KEY_BYTES {
                "KEY_INVALID"
            } else if weight_of("", operation) > self.max_value_bytes {
                "VALUE_TOO_LARGE"
            } else if operation.is_invalid() {
                "VALUE_INVALID"
            } else {
                match own_write(self.own.get(key), operation) {
                    Some(known) => {
                        self.own.insert(key.clone(), known);
                    }
                    None => {
                        self.own.remove(key);
                    }
                }
                admitted.push(update);
                continue;
            };
            rejected.push(Rejection {
                sequence: 0,
                key: key.clone(),
                reason: reason.to_owned(),
            });
        }
        admitted
    }

    pub(super) fn line(&mut self, lane: Lane) -> &mut Line {
        &mut self.lines[lane as usize]
    }

    /// Ends what stream there is: it may still be polled, and finds its epoch over. The waker is to
    /// be woken once the lock is released; else nothing would poll the stream again, and it would
    /// stay open on both sides.
    #[must_use]
    pub(super) fn next_epoch(&mut self, lane: Lane) -> Option<Waker> {
        let line = self.line(lane);
        line.epoch += 1;
        line.waker.take()
    }

    pub(super) fn wakes(&mut self, ready: Ready) -> Wakes {
        let wake = |lane| ready.has(lane).then(|| self.line(lane).waker.take());
        Wakes(Lane::ALL.map(wake))
    }

    fn flush(&mut self) -> Wakes {
        if self.unflushed.is_empty() {
            return Wakes::default();
        }
        let updates = self.unflushed.take_updates();
        if self.is_over() {
            self.refused += 1;
            return Wakes::default();
        }
        let ready = self.lanes.flush(updates, now());
        self.wakes(ready)
    }

    fn stats(&self) -> QueueStats {
        let counters = self.lanes.counters();
        let reconnects = self.lines.iter().map(|line| line.streams.saturating_sub(1));
        QueueStats {
            flushes: counters.flushes,
            large_flushes: self.lanes.lane(Lane::Large).counters().flushes,
            batches: counters.batches,
            sent: counters.sent,
            resent: counters.resent,
            acked: counters.acked,
            folded: counters.folded,
            split: counters.split,
            overflows: counters.overflows,
            reconnects: reconnects.sum(),
            rejected: self.rejected,
            refused: self.refused,
            writer_restarts: counters.writer_restarts,
            unacked: self.lanes.unacked_batches(),
            held_bytes: self.lanes.held_bytes(),
        }
    }
}

impl Wakes {
    fn and(self, others: Self) -> Self {
        let [small, large] = self.0;
        let [other_small, other_large] = others.0;
        // A waker that was taken the first time is not there the second.
        let either = |one: Option<Option<Waker>>, other: Option<Option<Waker>>| match one {
            Some(Some(waker)) => Some(Some(waker)),
            one => other.or(one),
        };
        Self([either(small, other_small), either(large, other_large)])
    }
}

impl Shared {
    fn marks(&self, state: &State) -> Vec<WriterMark> {
        let mark = |lane| {
            let core = state.lanes.lane(lane);
            let sequence = core.last_sequence();
            (sequence > 0).then(|| WriterMark {
                state_name: self.state_name.clone(),
                writer_id: core.writer().to_string(),
                sequence,
            })
        };
        Lane::ALL.into_iter().filter_map(mark).collect()
    }

    fn close(&self) -> Vec<WriterMark> {
        let (marks, wakes) = {
            let mut state = self.state.lock();
            let flushed = state.flush();
            if !state.is_over() {
                state.lanes.finish(now());
            }
            state.closing = true;
            let all = state.wakes(Ready::BOTH);
            (self.marks(&state), flushed.and(all))
        };
        self.work.iter().for_each(Notify::notify_one);
        self.wake(wakes);
        marks
    }

    /// Wakes lanes.
    pub(super) fn wake(&self, wakes: Wakes) {
        for (wake, work) in wakes.0.into_iter().zip(&self.work) {
            match wake {
                Some(Some(waker)) => waker.wake(),
                Some(None) => work.notify_one(),
                None => {}
            }
        }
    }

    /// Keeps, counts and tells rejected keys.
    pub(super) fn report(&self, rejected: Vec<Rejection>) {
        if rejected.is_empty() {
            return;
        }
        {
            let mut state = self.state.lock();
            state.rejected += rejected.len() as u64;
            for rejection in &rejected {
                if state.rejections.len() == MAX_REJECTIONS {
                    state.rejections.pop_front();
                }
                state.rejections.push_back(rejection.clone());
            }
        }
        // Last, and without the lock: it is the program's, and may panic or use the queue.
        if let Some(callback) = &self.on_rejected {
            rejected.iter().for_each(|rejection| callback(rejection));
        }
    }

    async fn until_settled(&self) {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            {
                let state = self.state.lock();
                if state.lanes.is_settled() || state.ended {
                    return;
                }
            }
            progress.await;
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
