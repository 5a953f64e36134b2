//! Deadlines of the engine, on the monotonic clock.
//!
//! A timer is never taken back: when it fires, whoever handles it looks whether it still means
//! something. The heap therefore holds at most one timer per kind and change of an entity, and
//! those of the past leave as they come due.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use crate::domain::{StateId, TaskId, Uid};

/// What a deadline is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A task scheduled for a time becomes ready, by the wall clock.
    Due(TaskId),
    /// The pause before a task's next attempt is over then.
    Retry(TaskId, Duration),
    /// A lease runs out, or its renewal is overdue.
    Lease(TaskId, u64),
    /// An attempt takes too long from then on.
    Attempt(TaskId, u64, Duration),
    /// A task takes too long from then on.
    Total(TaskId, Duration),
    /// A finishing task waits no longer.
    Flush(TaskId),
    /// A terminal task is removed.
    Retention(TaskId),
    /// A worker instance has been silent.
    Instance(Uid),
    /// A worker whose stream broke should have opened another.
    Broken(Uid),
    /// A long poll answers empty.
    Poll(u64),
    /// A state's merge interval is over.
    Merge(StateId),
    /// Time to plan again, nothing more.
    Look,
    /// Time to note the head, sweep and prune.
    Upkeep,
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Duration, Timer)>>,
}

impl Timers {
    pub(crate) fn set(&mut self, at: Duration, timer: Timer) {
        self.heap.push(Reverse((at, timer)));
    }

    /// The next deadline.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// One timer that is due.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_not_early() {
        let mut timers = Timers::default();
        timers.set(Duration::from_secs(2), Timer::Upkeep);
        timers.set(Duration::from_secs(1), Timer::Poll(1));
        assert_eq!(timers.pop(Duration::ZERO), None);
        assert_eq!(timers.pop(Duration::from_secs(5)), Some(Timer::Poll(1)));
        assert_eq!(timers.pop(Duration::from_secs(5)), Some(Timer::Upkeep));
        assert_eq!(timers.next(), None);
    }
}
