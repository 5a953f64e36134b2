//! How a StateQueue is set up.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    connection::Client,
    lanes::{LARGE_VALUE_BYTES, Lane, Lanes},
    propagate,
    push_fold::Pending,
    queue::{OnRejected, Shared, State, StateQueue},
    queue_driver,
    queue_report::Rejection,
};

use crate::runtime::create_library_task;

/// Above this, pending floating-point sums give up their order; see
/// [`QueueStats::overflows`](super::QueueStats::overflows).
const DEFAULT_PENDING_BYTES: usize = 8 << 20;
/// What a value may weigh until the server says: 1 MiB less its envelope.
const DEFAULT_VALUE_BYTES: usize = (1 << 20) - 1024;

/// Settings of a [`StateQueue`].
#[must_use = "a builder does nothing until `open` is called"]
pub struct StateQueueBuilder {
    client: Client,
    state_name: String,
    lease_token: Bytes,
    auto_flush: bool,
    pending_bytes: usize,
    on_rejected: Option<OnRejected>,
    cancel_requested: CancellationToken,
    lease_lost: CancellationToken,
}

impl StateQueueBuilder {
    pub(super) fn new(client: &Client, state: &str) -> Self {
        Self {
            client: client.clone(),
            state_name: client.state_name(state),
            lease_token: Bytes::new(),
            auto_flush: true,
            pending_bytes: DEFAULT_PENDING_BYTES,
            on_rejected: None,
            cancel_requested: CancellationToken::new(),
            lease_lost: CancellationToken::new(),
        }
    }

    /// Cancels these where it would cancel its own: news on this stream is news for the attempt.
    pub(crate) fn tell(
        mut self,
        cancel_requested: CancellationToken,
        lost: CancellationToken,
    ) -> Self {
        self.cancel_requested = cancel_requested;
        self.lease_lost = lost;
        self
    }

    /// Whether each call is a flush of its own. Default: true.
    pub fn auto_flush(mut self, auto_flush: bool) -> Self {
        self.auto_flush = auto_flush;
        self
    }

    /// Writes for a task's attempt, and no longer than that.
    pub fn lease_token(mut self, token: impl Into<Bytes>) -> Self {
        self.lease_token = token.into();
        self
    }

    /// What may be pending before floating-point sums give up their order. Default: 8 MiB.
    pub fn max_pending_bytes(mut self, bytes: usize) -> Self {
        self.pending_bytes = bytes;
        self
    }

    /// Called with every key that is rejected.
    pub fn on_rejected(mut self, callback: impl Fn(&Rejection) + Send + Sync + 'static) -> Self {
        self.on_rejected = Some(Arc::new(callback));
        self
    }

    /// Opens the queue; it connects at the first flush. To be called inside a tokio runtime.
    pub fn open(self) -> StateQueue {
        let shared = Arc::new(Shared {
            state_name: self.state_name,
            lease_token: self.lease_token,
            trace: propagate::current(),
            state: Mutex::new(State {
                lanes: Lanes::new(self.pending_bytes, LARGE_VALUE_BYTES),
                unflushed: Pending::default(),
                own: BTreeMap::new(),
                max_value_bytes: DEFAULT_VALUE_BYTES,
                rejections: VecDeque::new(),
                rejected: 0,
                refused: 0,
                closing: false,
                ended: false,
                last_error: None,
                lines: Default::default(),
            }),
            work: [Notify::new(), Notify::new()],
            progress: Notify::new(),
            cancel_requested: self.cancel_requested,
            lease_lost: self.lease_lost,
            on_rejected: self.on_rejected,
        });
        for lane in Lane::ALL {
            let name = format!("state queue {} {}", shared.state_name, lane.as_str());
            let sending = queue_driver::run(Arc::clone(&shared), self.client.clone(), lane);
            // It ends by itself, after the last clone of the queue.
            drop(create_library_task(name, sending));
        }
        StateQueue::new(shared, self.auto_flush)
    }
}

impl fmt::Debug for StateQueueBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("StateQueueBuilder")
            .field("state_name", &self.state_name)
            .finish_non_exhaustive()
    }
}
