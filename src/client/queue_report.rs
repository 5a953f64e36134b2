//! What a StateQueue tells of itself: counts, rejected keys, what is not acknowledged.

use super::error::Error;

/// A key that the state did not take; the rest of its batch stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The batch, as its writer counts (see [`StateQueue::marks`](super::StateQueue::marks)); 0
    /// where the client itself refused the key.
    pub sequence: i64,
    /// The key.
    pub key: String,
    /// UPPER_SNAKE, such as `VALUE_TOO_LARGE`.
    pub reason: String,
}

/// What a queue has done.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct QueueStats {
    /// Flushes of the program.
    pub flushes: u64,
    /// Those of them that went to the stream for large values: they held one above 64 KiB, or a key
    /// that waited there behind one.
    pub large_flushes: u64,
    /// Batches that got a number.
    pub batches: u64,
    /// Batches sent for the first time.
    pub sent: u64,
    /// Batches sent again, after a lost connection or a rewind.
    pub resent: u64,
    /// Batches that are durable.
    pub acked: u64,
    /// Flushes that went into an earlier one's batch.
    pub folded: u64,
    /// Batches that were cut because they weighed more than a batch may.
    pub split: u64,
    /// Flushes that found more pending than the bound allows. Nothing was lost; sums of
    /// floating-point numbers may have been added in another order.
    pub overflows: u64,
    /// Streams after the first one of each kind.
    pub reconnects: u64,
    /// Keys that were rejected.
    pub rejected: u64,
    /// Flushes after the queue had ended.
    pub refused: u64,
    /// Times the server had forgotten the writer. What was unacknowledged then was sent again
    /// under a new one, and may have taken effect twice.
    pub writer_restarts: u64,
    /// Batches without an acknowledgement.
    pub unacked: usize,
    /// Bytes that are held in memory.
    pub held_bytes: usize,
}

/// Not everything that was flushed is known to be durable.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{batches} batches of state {state} are not acknowledged: {}", self.why())]
pub struct Unacknowledged {
    /// The state's name.
    pub state: String,
    /// Batches without an acknowledgement, one that has no number yet included.
    pub batches: usize,
    /// Whether the attempt's lease was lost: the writes were fenced off.
    pub lease_lost: bool,
    /// The last error of the connection.
    #[source]
    pub error: Option<Error>,
}

impl Unacknowledged {
    fn why(&self) -> String {
        match (&self.error, self.lease_lost) {
            (_, true) => "the lease was lost".to_owned(),
            (Some(error), false) => error.to_string(),
            (None, false) => "the deadline passed first".to_owned(),
        }
    }
}
