//! Tasks that wait to be leased, and whose turn it is.
//!
//! The order, from the outside in:
//!
//! 1. a queue that is paused, or runs its `max_running`, hands out nothing;
//! 2. the highest priority;
//! 3. of queues asked together, the one that was served longest ago;
//! 4. fairness keys in turn, over all task types of the queue ([`level`]);
//! 5. of a key the oldest whose concurrency key has room ([`share`]).
//!
//! A task is its revision here, which is unique, and eight bytes in a [`fifo`] where nothing but age
//! tells it from others. Names are kept once for each line. Choosing costs a few looks at the head of
//! a sorted map for each queue and type asked for, whatever waits behind.
//!
//! The monitor alone changes it; readers ask for [`Ready::oldest`] and [`Ready::before`], briefly.

mod fifo;
mod level;
mod place;
mod queue;
mod share;
mod slots;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, hash::Hash, sync::Arc};

use queue::Queue;

use crate::domain::{Revision, entry::QueueSettings, task::Task};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    /// Queues in which something waits or runs, or that have settings.
    queues: HashMap<Arc<str>, Queue>,
    waiting: usize,
    /// Grows with every turn: the places of all rings.
    clock: u64,
}

/// A task taken out of its line. It counts as running until [`Ready::stop`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The revision of its record.
    pub(crate) revision: Revision,
    /// Its queue.
    pub(crate) queue: Arc<str>,
    /// Its concurrency key, if it has one.
    pub(crate) concurrency: Option<Arc<str>>,
}

impl Taken {
    pub(crate) fn concurrency_key(&self) -> &str {
        self.concurrency.as_deref().unwrap_or_default()
    }
}

impl Ready {
    /// A task became ready in the record of this revision.
    pub(crate) fn insert(&mut self, task: &Task, revision: Revision) {
        let (queue, clock) = self.queue(&task.queue);
        if queue.insert(task, revision, clock) {
            self.waiting += 1;
        }
    }

    /// A task is no longer ready.
    pub(crate) fn remove(&mut self, task: &Task, revision: Revision) {
        if let Some(queue) = self.queues.get_mut(task.queue.as_str()) {
            if queue.remove(task, revision) {
                self.waiting -= 1;
            }
            self.tidy(&task.queue);
        }
    }

    /// Takes the task that a worker of these queues and types should run next. No types means every
    /// type.
    pub(crate) fn take(&mut self, queues: &[String], types: &[String]) -> Option<Taken> {
        let mut best = None;
        for name in queues {
            let Some(queue) = self.queues.get_mut(name.as_str()) else {
                continue;
            };
            let served = queue.served;
            if let Some((rank, front)) = queue.front(types, &mut self.clock)
                && best
                    .as_ref()
                    .is_none_or(|(found, _, _)| (rank, served) < *found)
            {
                best = Some(((rank, served), front, name));
            }
        }
        let ((rank, _), front, name) = best?;
        let (name, _) = self.queues.get_key_value(name.as_str())?;
        let name = name.clone();
        let queue = self.queues.get_mut(&name)?;
        let (revision, concurrency) = queue.take(rank, &front, &mut self.clock)?;
        self.waiting -= 1;
        Some(Taken {
            revision,
            queue: name,
            concurrency,
        })
    }

    /// A task runs that was not taken here: a replay found it.
    pub(crate) fn start(&mut self, task: &Task) {
        let (queue, _) = self.queue(&task.queue);
        queue.start(&task.concurrency_key);
    }

    /// A task that was taken or started runs no longer, or never will. Says whether something may be
    /// handed out now that could not be before.
    pub(crate) fn stop(&mut self, queue: &str, concurrency: &str) -> bool {
        let Some(found) = self.queues.get_mut(queue) else {
            return false;
        };
        let opens = found.stop(concurrency);
        self.tidy(queue);
        opens
    }

    /// A queue has these settings from here on.
    pub(crate) fn configure(&mut self, queue: &str, settings: QueueSettings) {
        self.queue(queue).0.configure(settings);
        self.tidy(queue);
    }

    /// Tasks that wait, in all queues.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The revision of the task that waits longest in a queue.
    pub(crate) fn oldest(&self, queue: &str) -> Option<Revision> {
        self.queues.get(queue)?.oldest()
    }

    /// About how many tasks of its queue go before a waiting one; see [`place`].
    pub(crate) fn before(&self, task: &Task, revision: Revision) -> Option<usize> {
        let queue = self.queues.get(task.queue.as_str())?;
        queue.before(task, revision)
    }

    /// What waits and what runs of each queue that has either.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> std::collections::BTreeMap<String, (u64, u64)> {
        let counts = self.queues.iter().map(|(name, queue)| {
            let waiting: usize = queue.levels.values().map(|level| level.waiting).sum();
            (name.to_string(), (waiting as u64, u64::from(queue.running)))
        });
        counts.filter(|(_, counts)| *counts != (0, 0)).collect()
    }

    fn queue(&mut self, name: &str) -> (&mut Queue, &mut u64) {
        if !self.queues.contains_key(name) {
            self.clock += 1;
            self.queues.insert(name.into(), Queue::new(self.clock));
        }
        let queue = self.queues.get_mut(name);
        (
            queue.expect("it was inserted where it was missing"),
            &mut self.clock,
        )
    }

    fn tidy(&mut self, name: &str) {
        if self.queues.get(name).is_some_and(Queue::is_unused) {
            self.queues.remove(name);
            fit(&mut self.queues);
        }
    }
}

/// Gives back most of a map's memory when it has emptied: there may be as many names as tasks.
fn fit<K: Eq + Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > 64 && map.len() < map.capacity() / 8 {
        map.shrink_to(2 * map.len());
    }
}
