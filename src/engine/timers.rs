//! Deadlines of the engine, on the monotonic clock.
//!
//! A timer is never taken back: when it fires, whoever handles it looks whether it still means
//! something. The heap therefore holds at most one timer per kind and change of an entity, and
//! those of the past leave as they come due. The id of a task that is gone may be used again, so what
//! is due at a time that the task's record does not tell names its life too: the revision that
//! created it, or its attempt's secret.
//!
//! There is a heap for each kind of work they lead to, so that while one kind has to wait its timers
//! stay where they are, and keep no other from firing.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use crate::domain::{Revision, StateId, TaskId, Uid};

/// What a deadline is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The pause before the next attempt of the task created there is over then.
    Retry(TaskId, Revision, Duration),
    /// A lease runs out, or its renewal is overdue.
    Lease(TaskId, u64),
    /// The attempt with this secret takes too long from then on.
    Attempt(TaskId, u64, Duration),
    /// The task created there takes too long from then on.
    Total(TaskId, Revision, Duration),
    /// A finishing task waits no longer.
    Flush(TaskId),
    /// The task created there, which has ended, is removed.
    Retention(TaskId, Revision),
    /// A worker instance has been silent.
    Instance(Uid),
    /// A worker whose stream broke should have opened another.
    Broken(Uid),
    /// A long poll answers empty.
    Poll(u64),
    /// A state's merge interval is over.
    Merge(StateId),
    /// A worker that was given nothing for a while may be given tasks again.
    Aside,
    /// Time to plan again, nothing more.
    Look,
    /// Time to note the head, sweep and prune.
    Upkeep,
}

/// What kind of work a timer leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The monitor's own upkeep, waiting workers, pauses.
    Upkeep,
    /// What happens to a task by itself.
    Task,
    /// A task leaves.
    Removal,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Upkeep, Self::Task, Self::Removal];

    fn of(timer: &Timer) -> Self {
        match timer {
            Timer::Retention(..) => Self::Removal,
            Timer::Retry(..) | Timer::Lease(..) | Timer::Attempt(..) | Timer::Total(..) => {
                Self::Task
            }
            Timer::Flush(_)
            | Timer::Instance(_)
            | Timer::Broken(_)
            | Timer::Poll(_)
            | Timer::Merge(_)
            | Timer::Aside
            | Timer::Look
            | Timer::Upkeep => Self::Upkeep,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heaps: [BinaryHeap<Reverse<(Duration, Timer)>>; Kind::ALL.len()],
}

impl Timers {
    pub(crate) fn set(&mut self, at: Duration, timer: Timer) {
        self.heaps[Kind::of(&timer) as usize].push(Reverse((at, timer)));
    }

    /// The next deadline.
    pub(crate) fn next(&self) -> Option<Duration> {
        let first =
            |heap: &BinaryHeap<Reverse<(Duration, Timer)>>| heap.peek().map(|Reverse((at, _))| *at);
        self.heaps.iter().filter_map(first).min()
    }

    /// One timer of this kind that is due.
    pub(crate) fn pop(&mut self, kind: Kind, now: Duration) -> Option<Timer> {
        let heap = &mut self.heaps[kind as usize];
        if heap.peek()?.0.0 > now {
            return None;
        }
        heap.pop().map(|Reverse((_, timer))| timer)
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
        let upkeep = Kind::Upkeep;
        let later = Duration::from_secs(5);
        assert_eq!(timers.pop(upkeep, Duration::ZERO), None);
        assert_eq!(timers.pop(upkeep, later), Some(Timer::Poll(1)));
        assert_eq!(timers.pop(upkeep, later), Some(Timer::Upkeep));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn timers_of_a_kind_that_has_to_wait_keep_no_other_from_firing() {
        let mut timers = Timers::default();
        let id = TaskId::trusted("t");
        timers.set(Duration::ZERO, Timer::Retention(id.clone(), Revision(1)));
        timers.set(Duration::from_secs(1), Timer::Lease(id.clone(), 1));
        timers.set(Duration::from_secs(2), Timer::Upkeep);
        let later = Duration::from_secs(5);
        assert_eq!(timers.pop(Kind::Upkeep, later), Some(Timer::Upkeep));
        let lease = Timer::Lease(id.clone(), 1);
        assert_eq!(timers.pop(Kind::Task, later), Some(lease));
        assert_eq!(timers.next(), Some(Duration::ZERO));
        let retention = Timer::Retention(id, Revision(1));
        assert_eq!(timers.pop(Kind::Removal, later), Some(retention));
    }
}
