//! How many tasks of each concurrency key run in a queue, and who waits for one of them to stop.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// Where something was parked: priority, task type, fairness key.
pub(super) type Place = (u8, Arc<str>, Arc<str>);

/// Of one queue.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Most running tasks of a key; 0: no limit.
    pub(super) limit: u32,
    keys: HashMap<Arc<str>, Key>,
}

#[derive(Debug, Default)]
struct Key {
    running: u32,
    /// At most one for each share that has tasks of the key.
    parked: BTreeSet<Place>,
}

impl Slots {
    pub(super) fn is_full(&self, key: &str) -> bool {
        self.limit > 0 && self.running(key) >= self.limit
    }

    pub(super) fn running(&self, key: &str) -> u32 {
        self.keys.get(key).map_or(0, |key| key.running)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// A task of the key runs.
    pub(super) fn take(&mut self, key: &Arc<str>) {
        self.keys.entry(key.clone()).or_default().running += 1;
    }

    /// A task of the key runs no longer; where that makes room, who waited for it.
    pub(super) fn give(&mut self, key: &str) -> BTreeSet<Place> {
        let Some(found) = self.keys.get_mut(key) else {
            return BTreeSet::new();
        };
        found.running = found.running.saturating_sub(1);
        let room = self.limit == 0 || found.running < self.limit;
        let woken = if room {
            std::mem::take(&mut found.parked)
        } else {
            BTreeSet::new()
        };
        self.tidy(key);
        woken
    }

    pub(super) fn park(&mut self, key: &Arc<str>, rank: u8, r#type: &Arc<str>, fair: &Arc<str>) {
        let found = self.keys.entry(key.clone()).or_default();
        found.parked.insert((rank, r#type.clone(), fair.clone()));
    }

    /// What was parked there is gone.
    pub(super) fn forget(&mut self, key: &str, rank: u8, r#type: &str, fair: &str) {
        if let Some(found) = self.keys.get_mut(key) {
            found.parked.remove(&(rank, r#type.into(), fair.into()));
            self.tidy(key);
        }
    }

    /// Everyone who waits, for the limit has changed.
    pub(super) fn wake_all(&mut self) -> Vec<(Arc<str>, Place)> {
        let mut woken = Vec::new();
        for (name, key) in &mut self.keys {
            let parked = std::mem::take(&mut key.parked);
            woken.extend(parked.into_iter().map(|place| (name.clone(), place)));
        }
        self.keys.retain(|_, key| key.running > 0);
        woken
    }

    fn tidy(&mut self, key: &str) {
        let unused = |key: &Key| key.running == 0 && key.parked.is_empty();
        if self.keys.get(key).is_some_and(unused) {
            self.keys.remove(key);
        }
    }
}
