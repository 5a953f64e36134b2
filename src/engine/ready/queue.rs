//! One queue: its settings, what runs of it, and what waits at each priority.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    level::{Front, Level},
    slots::Slots,
};
use crate::domain::{Revision, entry::QueueSettings, task::Task};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    settings: QueueSettings,
    /// Leases planned and tasks running, finishing ones included.
    pub(super) running: u32,
    slots: Slots,
    /// By nine minus the priority, so that the first in order goes first.
    pub(super) levels: BTreeMap<u8, Level>,
    /// The oldest of everything that differs in more than age, parked or not: the first of them
    /// waits longest.
    heads: BTreeSet<Revision>,
    /// When it was last served, or came to be: whose turn it is among queues asked together.
    pub(super) served: u64,
}

/// Nine minus the priority.
pub(super) fn rank(task: &Task) -> u8 {
    9_u8.saturating_sub(u8::try_from(task.priority).unwrap_or(9))
}

impl Queue {
    pub(super) fn new(served: u64) -> Self {
        Self {
            served,
            ..Self::default()
        }
    }

    /// Nothing is known of it that would not be known of a new one.
    pub(super) fn is_unused(&self) -> bool {
        self.running == 0 && self.levels.is_empty() && self.settings == QueueSettings::default()
    }

    /// Whether it may hand out anything.
    fn is_open(&self) -> bool {
        let QueueSettings {
            paused,
            max_running,
            ..
        } = self.settings;
        !paused && (max_running == 0 || self.running < max_running)
    }

    pub(super) fn configure(&mut self, settings: QueueSettings) {
        self.settings = settings;
        self.slots.limit = settings.max_running_per_key;
        for (concurrency, (rank, r#type, key)) in self.slots.wake_all() {
            if let Some(level) = self.levels.get_mut(&rank) {
                level.unpark(&r#type, &key, &concurrency);
            }
        }
    }

    pub(super) fn insert(&mut self, task: &Task, revision: Revision, clock: &mut u64) -> bool {
        let level = self.levels.entry(rank(task)).or_default();
        level.insert(task, revision, &mut self.heads, clock)
    }

    pub(super) fn remove(&mut self, task: &Task, revision: Revision) -> bool {
        let rank = rank(task);
        let Some(level) = self.levels.get_mut(&rank) else {
            return false;
        };
        let slots = &mut self.slots;
        let removed = level.remove(rank, task, revision, &mut self.heads, slots);
        self.drop_if_empty(rank);
        removed
    }

    /// What it would hand out of these task types, with its rank.
    pub(super) fn front(&mut self, types: &[String], clock: &mut u64) -> Option<(u8, Front)> {
        if !self.is_open() {
            return None;
        }
        let slots = &mut self.slots;
        let mut levels = self.levels.iter_mut();
        levels.find_map(|(rank, level)| Some((*rank, level.front(*rank, types, slots, clock)?)))
    }

    /// Takes what [`Queue::front`] found: it counts as running from here on. With it comes its
    /// concurrency key.
    pub(super) fn take(
        &mut self,
        rank: u8,
        front: &Front,
        clock: &mut u64,
    ) -> Option<(Revision, Option<Arc<str>>)> {
        let level = self.levels.get_mut(&rank)?;
        let taken = level.take(front, &mut self.heads)?;
        self.drop_if_empty(rank);
        self.running += 1;
        if let (_, Some(key)) = &taken {
            self.slots.take(key);
        }
        *clock += 1;
        self.served = *clock;
        Some(taken)
    }

    /// A task runs that was not taken here.
    pub(super) fn start(&mut self, concurrency: &str) {
        self.running += 1;
        if !concurrency.is_empty() {
            self.slots.take(&concurrency.into());
        }
    }

    /// A task runs no longer. Says whether something may be handed out that could not be.
    pub(super) fn stop(&mut self, concurrency: &str) -> bool {
        let was_open = self.is_open();
        self.running = self.running.saturating_sub(1);
        let mut opens = !was_open && self.is_open() && !self.levels.is_empty();
        if !concurrency.is_empty() {
            for (rank, r#type, key) in self.slots.give(concurrency) {
                if let Some(level) = self.levels.get_mut(&rank) {
                    level.unpark(&r#type, &key, concurrency);
                    opens = true;
                }
            }
        }
        opens
    }

    /// The revision of the task that waits longest.
    pub(super) fn oldest(&self) -> Option<Revision> {
        self.heads.first().copied()
    }

    fn drop_if_empty(&mut self, rank: u8) {
        let empty = |level: &Level| level.waiting == 0;
        if self.levels.get(&rank).is_some_and(empty) {
            self.levels.remove(&rank);
        }
    }

    /// What must hold between calls.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert!(self.levels.values().all(|level| level.waiting > 0));
        assert!(self.running > 0 || self.slots.is_empty() || !self.levels.is_empty());
    }

    #[cfg(test)]
    pub(super) fn running_of(&self, concurrency: &str) -> u32 {
        self.slots.running(concurrency)
    }
}
