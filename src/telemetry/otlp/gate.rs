//! What waits to be exported, counted and bounded before anything is built.
//!
//! With a collector that answers nothing, the cost of an event is one comparison: the gate is full,
//! the drop is counted, and no span is made.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// What became of the items of one signal since the process started.
#[derive(Debug, Default)]
pub struct ExportCounts {
    /// Taken by the collector.
    pub exported: AtomicU64,
    /// Sent in vain: the collector refused them or did not answer in time.
    pub failed: AtomicU64,
    /// Never sent, because too many were waiting.
    pub dropped: AtomicU64,
    /// Wait now, or are on their way.
    pub pending: AtomicU64,
}

/// Lets so many items in as may wait.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    pub(super) counts: Arc<ExportCounts>,
    room: u64,
}

impl Gate {
    pub(super) fn new(room: usize) -> Self {
        Self {
            counts: Arc::default(),
            room: room as u64,
        }
    }

    /// Whether one more would be let in; if not, that one is counted as dropped.
    pub(super) fn has_room(&self) -> bool {
        let has_room = self.counts.pending.load(Relaxed) < self.room;
        if !has_room {
            self.counts.dropped.fetch_add(1, Relaxed);
        }
        has_room
    }

    /// Lets one in, which is pending until [`Gate::leave`]; false: there is no room, and it is
    /// counted as dropped.
    pub(super) fn enter(&self) -> bool {
        if !self.has_room() {
            return false;
        }
        if self.counts.pending.fetch_add(1, Relaxed) < self.room {
            return true;
        }
        self.counts.pending.fetch_sub(1, Relaxed);
        self.counts.dropped.fetch_add(1, Relaxed);
        false
    }

    /// So many were sent, with or without success.
    pub(super) fn leave(&self, items: usize, exported: bool) {
        let items = items as u64;
        let end = match exported {
            true => &self.counts.exported,
            false => &self.counts.failed,
        };
        end.fetch_add(items, Relaxed);
        self.counts.pending.fetch_sub(items, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_its_room_items_are_dropped_and_counted_and_what_leaves_makes_room() {
        let gate = Gate::new(2);
        assert_eq!(
            [gate.enter(), gate.enter(), gate.enter()],
            [true, true, false]
        );
        assert!(!gate.has_room());
        gate.leave(2, true);
        assert!(gate.enter());
        gate.leave(1, false);
        let counts = &gate.counts;
        let counted = [
            &counts.exported,
            &counts.failed,
            &counts.dropped,
            &counts.pending,
        ];
        assert_eq!(counted.map(|count| count.load(Relaxed)), [2, 1, 2, 0]);
    }

    #[test]
    fn no_more_are_let_in_at_once_than_there_is_room_for() {
        let gate = Gate::new(100);
        let entered = std::thread::scope(|scope| {
            let enter = || (0..1_000).filter(|_| gate.enter()).count();
            let threads = [0; 4].map(|_| scope.spawn(enter));
            threads
                .map(|thread| thread.join().unwrap())
                .iter()
                .sum::<usize>()
        });
        assert_eq!(entered, 100);
        assert_eq!(gate.counts.dropped.load(Relaxed), 3_900);
    }
}
