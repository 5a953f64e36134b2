//! What a handler is given: its task, its state, its cancel token.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::{
    failure::TaskFailure,
    finish::MAX_MARKS,
    lease::Held,
    steer::{self, Calls},
};
use crate::{
    client::{Changes, Client, KeyFollower, KeyWatch, StateQueue, Update, short_name},
    proto::v1::{Contribution, Task, TraceContext, WriterMark},
};

/// So long are writers waited for that a finish has no room to name.
const SURPLUS_DEADLINE: Duration = Duration::from_secs(30);

/// One attempt of one task, as its handler sees it. A clone is the same attempt.
#[derive(Debug, Clone)]
pub struct TaskContext {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    task: Task,
    held: Arc<Held>,
    trace: Option<TraceContext>,
    queues: Mutex<Queues>,
    /// Those that were closed at the end.
    closed: Mutex<Vec<StateQueue>>,
    /// The watch of each state of which keys are followed; none once the attempt has ended.
    followed: Mutex<Option<BTreeMap<String, KeyFollower>>>,
    calls: Arc<Calls>,
    contributions: Mutex<BTreeMap<String, Vec<Update>>>,
}

#[derive(Debug, Default)]
struct Queues {
    by_state: BTreeMap<String, StateQueue>,
    /// The attempt has said what it wrote last.
    over: bool,
}

impl TaskContext {
    pub(super) fn new(
        client: Client,
        task: Task,
        held: Arc<Held>,
        trace: Option<TraceContext>,
    ) -> Self {
        let inner = Inner {
            client,
            task,
            held,
            trace,
            queues: Mutex::default(),
            closed: Mutex::default(),
            followed: Mutex::new(Some(BTreeMap::new())),
            calls: Arc::default(),
            contributions: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.inner.task
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> i32 {
        self.inner.task.attempt
    }

    /// A client of the worker's server.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// The span that this attempt runs in: the handler's own where the worker exports spans, else
    /// the attempt's, which the server made. What the handler submits, pushes and calls through a
    /// client is told of it without being asked to; it is here for calls of other kinds.
    pub fn trace_context(&self) -> Option<&TraceContext> {
        self.inner.trace.as_ref()
    }

    /// The lease's token, for programs that write for this attempt.
    pub fn lease_token(&self) -> &bytes::Bytes {
        &self.inner.held.token
    }

    /// Until when the lease holds by this process's clock. Renewals move it on while the attempt
    /// runs; when it has passed, another attempt may run, and what must not be done twice at once
    /// should stop. [`cancelled`](Self::cancelled) is told of the same a moment later.
    pub fn lease_until(&self) -> Instant {
        self.inner.held.until()
    }

    /// The input's bytes.
    pub fn input(&self) -> &[u8] {
        self.inner
            .task
            .input
            .as_ref()
            .map_or(&[], |input| &input.data)
    }

    /// The input, read as JSON. No input is read as `null`.
    ///
    /// # Errors
    ///
    /// A permanent failure of type `input.invalid`: another attempt would read the same.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, TaskFailure> {
        let input = match self.input() {
            [] => b"null",
            input => input,
        };
        match serde_json::from_slice(input) {
            Ok(value) => Ok(value),
            Err(error) => {
                let message = format!("the task's input is not what its handler takes: {error}");
                // What serde says may quote the input, which no log may hold.
                let (line, column) = (error.line(), error.column());
                let logged = format!(
                    "the task's input is not what its handler takes, at line {line} column {column}"
                );
                let failure = TaskFailure::new("input.invalid", message)
                    .permanent()
                    .of_library("");
                Err(failure.logged_as(logged))
            }
        }
    }

    /// Cancelled when the task is asked to stop, and when its lease is lost. A handler should look
    /// at it often, or select on it.
    pub fn cancelled(&self) -> CancellationToken {
        self.inner.held.cancelled.clone()
    }

    /// Whether the task was asked to stop or its lease is lost.
    pub fn is_cancelled(&self) -> bool {
        self.inner.held.cancelled.is_cancelled()
    }

    /// The queue to the task's state, or to one that is named after the task. It writes for this
    /// attempt and no longer; the task ends after what it wrote is merged. Once the attempt has
    /// ended the queue refuses what it is given, and counts it ([`QueueStats::refused`]).
    ///
    /// [`QueueStats::refused`]: crate::client::QueueStats::refused
    pub fn state(&self) -> StateQueue {
        self.state_named(&self.state_name())
    }

    /// The full name of the task's state, or of the one that is named after the task.
    pub fn state_name(&self) -> String {
        match self.inner.task.state_name.as_str() {
            "" => self
                .inner
                .client
                .state_name(short_name(&self.inner.task.name)),
            name => self.inner.client.state_name(name),
        }
    }

    /// The same for another state.
    pub fn state_named(&self, state: &str) -> StateQueue {
        let Inner {
            client,
            held,
            queues,
            ..
        } = &*self.inner;
        let name = client.state_name(state);
        let mut queues = queues.lock();
        let over = queues.over;
        let queue = queues.by_state.entry(name).or_insert_with_key(|name| {
            let queue = StateQueue::builder(client, name).lease_token(held.token.clone());
            // A push hears of a cancel or a loss before the next renewal does.
            let queue = queue.tell(held.cancelled.clone(), held.lost.clone()).open();
            if over {
                tracing::warn!(
                    task.name = held.task,
                    state.name = name,
                    "the attempt has ended, what it writes now is refused"
                );
                queue.close();
            }
            queue
        });
        queue.clone()
    }

    /// Calls `handler` when one of the keys changes, until the attempt ends: how people steer a
    /// task while it runs. `state` is any state, such as this task's
    /// ([`state_name`](Self::state_name)).
    ///
    /// ```no_run
    /// # use duite::worker::TaskContext;
    /// # use std::sync::atomic::{AtomicI64, Ordering};
    /// # fn example(task: &TaskContext) {
    /// static ZOOM: AtomicI64 = AtomicI64::new(1);
    /// task.on_change(&task.state_name(), ["zoom"], |changes| {
    ///     ZOOM.store(changes.get("zoom").unwrap_or(1), Ordering::Relaxed);
    /// });
    /// # }
    /// ```
    ///
    /// It is called at once with what the keys hold already, if anything, and then with the latest
    /// values: what changes while it runs is folded, never queued. What the task itself writes is a
    /// change too where it alters the value; [`Changes::is_own`] tells. The handler runs beside the
    /// attempt, one call at a time, and should be short: set a variable, wake a loop. The attempt
    /// ends when a call that has begun has returned, or after 5 s. A panic in it
    /// is logged and does not end the attempt; the next change calls it again. For an async form
    /// see [`watch_keys`](Self::watch_keys).
    pub fn on_change<S: Into<String>>(
        &self,
        state: &str,
        keys: impl IntoIterator<Item = S>,
        handler: impl FnMut(&Changes) + Send + 'static,
    ) {
        let changes = self.watch_keys(state, keys);
        let calls = Arc::clone(&self.inner.calls);
        steer::start(self.inner.held.task.clone(), calls, changes, handler);
    }

    /// Follows keys of a state until the attempt ends. All that the attempt follows of one state
    /// shares one watch.
    ///
    /// ```no_run
    /// # async fn example(task: duite::worker::TaskContext) -> Result<(), duite::client::Error> {
    /// let mut params = task.watch_keys(&task.state_name(), ["zoom", "palette"]);
    /// loop {
    ///     let changes = params.changed().await?;
    ///     let zoom: f64 = changes.get("zoom").unwrap_or(1.0);
    /// #   let _ = zoom;
    /// }
    /// # }
    /// ```
    pub fn watch_keys<S: Into<String>>(
        &self,
        state: &str,
        keys: impl IntoIterator<Item = S>,
    ) -> KeyWatch {
        let Inner { client, task, .. } = &*self.inner;
        let name = client.state_name(state);
        let mut followed = self.inner.followed.lock();
        let Some(followers) = followed.as_mut() else {
            let over = KeyFollower::new(client, &name, &task.name);
            over.close();
            return over.follow(keys);
        };
        let follower = followers
            .entry(name)
            .or_insert_with_key(|name| KeyFollower::new(client, name, &task.name));
        follower.follow(keys)
    }

    /// Ends what the attempt follows: no handler is called any more.
    pub(super) fn end_followers(&self) {
        self.inner.calls.end();
        let followers = self.inner.followed.lock().take();
        for follower in followers.into_iter().flatten() {
            follower.1.close();
        }
    }

    /// Waits for handlers that are still running.
    pub(super) async fn until_handlers_returned(&self) {
        let Inner { calls, held, .. } = &*self.inner;
        calls.until_returned(&held.task).await;
    }

    /// Sets `progress`, from 0 to 1.
    pub fn progress(&self, fraction: f64) {
        self.state().set("progress", fraction);
    }

    /// Operations that take effect exactly once per task, with its success, however many attempts
    /// it takes: how many tasks keep one shared count exact.
    pub fn contribute(&self, state: &str, updates: impl IntoIterator<Item = Update>) {
        let name = self.inner.client.state_name(state);
        self.inner
            .contributions
            .lock()
            .entry(name)
            .or_default()
            .extend(updates);
    }

    /// Ends the attempt's queues and says what they wrote last.
    pub(super) fn close_queues(&self) -> Vec<WriterMark> {
        let queues = {
            let mut queues = self.inner.queues.lock();
            queues.over = true;
            std::mem::take(&mut queues.by_state)
        };
        let marks = queues.values().flat_map(StateQueue::close).collect();
        self.inner.closed.lock().extend(queues.into_values());
        marks
    }

    /// Leaves as many marks as a finish may name: what is acknowledged needs none, so the writers
    /// beyond that are waited for.
    pub(super) async fn settle_surplus(&self, mut marks: Vec<WriterMark>) -> Vec<WriterMark> {
        if marks.len() <= MAX_MARKS {
            return marks;
        }
        let queues = self.inner.closed.lock().clone();
        let until = Instant::now() + SURPLUS_DEADLINE;
        for queue in queues {
            if marks.len() <= MAX_MARKS {
                break;
            }
            let left = until.saturating_duration_since(Instant::now());
            if queue.settle_within(left).await.is_ok() {
                marks.retain(|mark| mark.state_name != queue.state_name());
            }
        }
        marks
    }

    /// The queues that were closed: what they hold may still be on its way.
    pub(super) fn take_closed(&self) -> Vec<StateQueue> {
        std::mem::take(&mut *self.inner.closed.lock())
    }

    pub(super) fn take_contributions(&self) -> Vec<Contribution> {
        let contributions = std::mem::take(&mut *self.inner.contributions.lock());
        let wire = contributions
            .into_iter()
            .map(|(state_name, updates)| Contribution {
                state_name,
                updates: updates.into_iter().map(Update::into_wire).collect(),
            });
        wire.collect()
    }
}
