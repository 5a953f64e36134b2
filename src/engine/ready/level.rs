//! One priority of one queue: fairness keys take turns, over all its task types.
//!
//! The keys stand in a ring. Who is served goes behind all others, and so does a key that comes (or
//! comes back): nobody saves up turns by being away, and nobody waits for more than one task of each
//! key that was there before. Who is served goes behind when the next is asked for, not before: a
//! key that comes while a worker is busy with somebody's many tasks is next. A place in the ring is a
//! number that only grows, so the ring is a sorted map.
//!
//! Workers ask for task types, so each type has a line of its own, in the order of the ring. A key
//! that went back is moved in a line when it is met at its head: as it can only have gone back, it is
//! never met too late.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{fit, share::Share, slots::Slots};
use crate::domain::{Revision, task::Task};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Level {
    /// Every fairness key that has something waiting.
    pub(super) keys: HashMap<Arc<str>, Turn>,
    pub(super) lines: HashMap<Arc<str>, Line>,
    /// Tasks that wait.
    pub(super) waiting: usize,
    /// The key that was served last, which has not gone behind the others yet.
    served: Option<Arc<str>>,
}

/// Where a fairness key stands in the ring.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) place: u64,
    /// Tasks of the key.
    pub(super) waiting: usize,
}

/// The tasks of one type.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) name: Arc<str>,
    /// Keys that have something to hand out, by their place in the ring or an earlier one.
    order: BTreeMap<u64, Arc<str>>,
    pub(super) shares: HashMap<Arc<str>, Share>,
}

/// What a level would hand out.
#[derive(Debug)]
pub(super) struct Front {
    place: u64,
    pub(super) revision: Revision,
    pub(super) r#type: Arc<str>,
}

impl Level {
    /// False: it is there already.
    pub(super) fn insert(
        &mut self,
        task: &Task,
        revision: Revision,
        heads: &mut BTreeSet<Revision>,
        clock: &mut u64,
    ) -> bool {
        let key = intern(&self.keys, &task.fairness_key);
        if !self.lines.contains_key(task.r#type.as_str()) {
            let name: Arc<str> = task.r#type.as_str().into();
            self.lines.insert(name.clone(), Line::new(name));
        }
        let line = self.lines.get_mut(task.r#type.as_str());
        let line = line.expect("it was inserted where it was missing");
        let share = line.shares.entry(key.clone()).or_default();
        if !share.insert(&task.concurrency_key, revision, heads) {
            return false;
        }
        self.waiting += 1;
        let turn = self.keys.entry(key.clone()).or_insert_with(|| {
            *clock += 1;
            Turn {
                place: *clock,
                waiting: 0,
            }
        });
        turn.waiting += 1;
        line.enter(&key, turn.place);
        true
    }

    /// False: it is not there.
    pub(super) fn remove(
        &mut self,
        rank: u8,
        task: &Task,
        revision: Revision,
        heads: &mut BTreeSet<Revision>,
        slots: &mut Slots,
    ) -> bool {
        let (r#type, key) = (task.r#type.as_str(), task.fairness_key.as_str());
        let Some(line) = self.lines.get_mut(r#type) else {
            return false;
        };
        let Some(share) = line.shares.get_mut(key) else {
            return false;
        };
        let concurrency = &task.concurrency_key;
        let Some(parked_is_over) = share.remove(concurrency, revision, heads) else {
            return false;
        };
        if parked_is_over {
            slots.forget(concurrency, rank, r#type, key);
        }
        self.left(r#type, key);
        true
    }

    /// The best of these types, all where none is named. Parks what it meets and may not be handed
    /// out.
    pub(super) fn front(
        &mut self,
        rank: u8,
        types: &[String],
        slots: &mut Slots,
        clock: &mut u64,
    ) -> Option<Front> {
        if let Some(key) = self.served.take()
            && let Some(turn) = self.keys.get_mut(&key)
        {
            *clock += 1;
            turn.place = *clock;
        }
        let mut best: Option<Front> = None;
        let mut look = |line: &mut Line| {
            let Some((place, revision)) = line.front(rank, &self.keys, slots) else {
                return;
            };
            let better = |best: &Front| (place, revision) < (best.place, best.revision);
            if best.as_ref().is_none_or(better) {
                best = Some(Front {
                    place,
                    revision,
                    r#type: line.name.clone(),
                });
            }
        };
        if types.is_empty() {
            self.lines.values_mut().for_each(look);
        } else {
            for name in types {
                if let Some(line) = self.lines.get_mut(name.as_str()) {
                    look(line);
                }
            }
        }
        best
    }

    /// Takes what [`Level::front`] found; with it comes its concurrency key.
    pub(super) fn take(
        &mut self,
        front: &Front,
        heads: &mut BTreeSet<Revision>,
    ) -> Option<(Revision, Option<Arc<str>>)> {
        let line = self.lines.get_mut(&front.r#type)?;
        let key = line.order.get(&front.place)?.clone();
        let taken = line.shares.get_mut(&key)?.pop(heads)?;
        self.left(&front.r#type, &key);
        self.served = Some(key).filter(|key| self.keys.contains_key(key));
        Some(taken)
    }

    /// A concurrency key of a share may run again.
    pub(super) fn unpark(&mut self, r#type: &str, key: &str, concurrency: &str) {
        let Some(line) = self.lines.get_mut(r#type) else {
            return;
        };
        let share = line.shares.get_mut(key);
        if share.is_some_and(|share| share.unpark(concurrency))
            && let Some((key, turn)) = self.keys.get_key_value(key)
        {
            line.enter(key, turn.place);
        }
    }

    /// Where a key stands among the others.
    pub(super) fn place_of(&self, key: &str, turn: &Turn) -> u64 {
        match &self.served {
            Some(served) if **served == *key => u64::MAX,
            _ => turn.place,
        }
    }

    /// One task of a share is gone: so may be the share, its line and its key.
    fn left(&mut self, r#type: &str, key: &str) {
        self.waiting -= 1;
        if let Some(line) = self.lines.get_mut(r#type) {
            line.tidy(key);
            if line.shares.is_empty() {
                self.lines.remove(r#type);
            }
        }
        if let Some(turn) = self.keys.get_mut(key) {
            turn.waiting -= 1;
            if turn.waiting == 0 {
                self.keys.remove(key);
                // Should it come again, it has its place from then.
                self.served.take_if(|served| **served == *key);
                fit(&mut self.keys);
            }
        }
    }
}

impl Line {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            order: BTreeMap::new(),
            shares: HashMap::new(),
        }
    }

    fn front(
        &mut self,
        rank: u8,
        keys: &HashMap<Arc<str>, Turn>,
        slots: &mut Slots,
    ) -> Option<(u64, Revision)> {
        loop {
            let (&place, key) = self.order.first_key_value()?;
            let key = key.clone();
            let share = self.shares.get_mut(&key)?;
            // It has gone back since.
            let now = keys.get(&key).map_or(place, |turn| turn.place);
            if now != place {
                self.leave(&key);
                self.enter(&key, now);
                continue;
            }
            match share.head() {
                Some((_, Some(concurrency))) if slots.is_full(concurrency) => {
                    let concurrency = concurrency.clone();
                    share.park(&concurrency);
                    slots.park(&concurrency, rank, &self.name, &key);
                }
                Some((revision, _)) => return Some((place, revision)),
                None => self.leave(&key),
            }
        }
    }

    /// Takes a key into the order, where it has something to hand out and is not in it.
    fn enter(&mut self, key: &Arc<str>, place: u64) {
        if let Some(share) = self.shares.get_mut(key)
            && share.place.is_none()
            && share.head().is_some()
        {
            share.place = Some(place);
            self.order.insert(place, key.clone());
        }
    }

    fn leave(&mut self, key: &str) {
        let share = self.shares.get_mut(key);
        if let Some(place) = share.and_then(|share| share.place.take()) {
            self.order.remove(&place);
        }
    }

    /// Drops a share without tasks; one that is parked as a whole leaves the order.
    fn tidy(&mut self, key: &str) {
        let Some(share) = self.shares.get(key) else {
            return;
        };
        let empty = share.is_empty();
        if share.head().is_none() {
            self.leave(key);
        }
        if empty {
            self.shares.remove(key);
            fit(&mut self.shares);
        }
    }
}

/// The name as it is kept already, or a new one.
fn intern<T>(names: &HashMap<Arc<str>, T>, name: &str) -> Arc<str> {
    let known = names.get_key_value(name);
    known.map_or_else(|| name.into(), |(name, _)| name.clone())
}
