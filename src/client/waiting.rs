//! Small flushes that wait for batches of the large lane, in two heaps.
//!
//! The *front* waits for a batch that is fixed when its first flush comes, so it is reached however
//! many large values follow. What has to wait for a later batch than that folds into the *back*,
//! which becomes the front when the front is released. A single heap whose batch moved on with each
//! flush would never be released under a steady flow of large values.

use super::{push_fold::Pending, update::Update};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    front: Heap,
    /// Empty where the front is.
    back: Heap,
}

#[derive(Debug, Default)]
struct Heap {
    flushes: Pending,
    /// How many batches of the large lane have to be acknowledged.
    until: u64,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.front.flushes.is_empty()
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.front.flushes.contains(key) || self.back.flushes.contains(key)
    }

    /// As so many batches is it counted: what waits has no numbers yet.
    pub(super) fn batches(&self) -> usize {
        let heaps = [&self.front, &self.back];
        heaps.iter().filter(|heap| !heap.flushes.is_empty()).count()
    }

    pub(super) fn flushes(&self) -> usize {
        self.front.flushes.flushes() + self.back.flushes.flushes()
    }

    pub(super) fn weight(&self) -> usize {
        self.front.flushes.weight() + self.back.flushes.weight()
    }

    /// Takes a flush that has to wait for `until` and for what of its own keys waits already.
    pub(super) fn fold_in(&mut self, updates: Vec<Update>, until: u64) {
        let is_behind = |update: &Update| self.back.flushes.contains(&update.key);
        let heap = if self.is_empty() {
            self.front.until = until;
            &mut self.front
        } else if until <= self.front.until && !updates.iter().any(is_behind) {
            &mut self.front
        } else {
            if self.back.flushes.is_empty() {
                self.back.until = self.front.until;
            }
            self.back.until = self.back.until.max(until);
            &mut self.back
        };
        heap.flushes.fold_in(updates);
    }

    pub(super) fn squeeze(&mut self) {
        self.front.flushes.squeeze();
        self.back.flushes.squeeze();
    }

    /// The next heap that waits for no more than `acked`.
    pub(super) fn release(&mut self, acked: u64) -> Option<Pending> {
        let is_due = !self.is_empty() && self.front.until <= acked;
        if !is_due {
            return None;
        }
        self.take_front().map(|(flushes, _)| flushes)
    }

    /// The next heap and what it waits for, due or not.
    pub(super) fn take_front(&mut self) -> Option<(Pending, u64)> {
        if self.is_empty() {
            return None;
        }
        let back = std::mem::take(&mut self.back);
        let front = std::mem::replace(&mut self.front, back);
        Some((front.flushes, front.until))
    }
}
