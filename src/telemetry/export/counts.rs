//! What became of the items of one signal, and whether there is room for more.
//!
//! The queues of the SDK drop what does not fit after it was made. Here it is not made: with a
//! collector that does not answer, an event costs a look at a number.

use std::sync::atomic::{AtomicU64, Ordering};

/// The items of one signal: spans, or log records.
#[derive(Debug)]
pub struct ExportCounts {
    capacity: u64,
    pending: AtomicU64,
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// The counts at one moment, since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportCounted {
    /// Wait to be sent, or are on their way.
    pub pending: u64,
    /// A collector took them.
    pub exported: u64,
    /// They were sent and not taken.
    pub failed: u64,
    /// There was no room for them.
    pub dropped: u64,
}

impl ExportCounts {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity as u64,
            pending: AtomicU64::new(0),
            exported: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Takes a place for one item, or counts it as dropped.
    pub(super) fn admit(&self) -> bool {
        // More than one may take the last place at once; the queue behind has room for all.
        let fits = self.pending.load(Ordering::Relaxed) < self.capacity;
        let count = if fits { &self.pending } else { &self.dropped };
        count.fetch_add(1, Ordering::Relaxed);
        fits
    }

    /// So many items were sent, and taken or not.
    pub(super) fn sent(&self, items: usize, taken: bool) {
        let items = items as u64;
        let count = if taken { &self.exported } else { &self.failed };
        count.fetch_add(items, Ordering::Relaxed);
        let less = |pending: u64| Some(pending.saturating_sub(items));
        let _ = self
            .pending
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// How it stands.
    #[must_use]
    pub fn read(&self) -> ExportCounted {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ExportCounted {
            pending: of(&self.pending),
            exported: of(&self.exported),
            failed: of(&self.failed),
            dropped: of(&self.dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_room_comes_back_with_what_was_sent() {
        let counts = ExportCounts::new(2);
        assert_eq!([(); 3].map(|()| counts.admit()), [true, true, false]);
        counts.sent(1, true);
        assert!(counts.admit() && !counts.admit());
        counts.sent(2, false);
        let expected = ExportCounted {
            pending: 0,
            exported: 1,
            failed: 2,
            dropped: 2,
        };
        assert_eq!(counts.read(), expected);
    }
}
