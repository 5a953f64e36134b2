//! The two lanes of a StateQueue, as a pure state machine: large values never delay small ones.
//!
//! A flush that holds a large value goes, whole, to the *large* lane, any other to the *small*
//! one. Each lane is a writer of its own with a stream of its own, so they would overtake each
//! other; what keeps every key's updates in the program's order is that no key is ever on its way
//! in both lanes:
//!
//! - A flush with a key that is *pending* in the large lane joins it there: it folds, and is sent
//!   no later than it could be otherwise.
//! - A small flush with a key that the large lane has numbered and not acknowledged *waits*, and
//!   folds with others that wait; flushes that share no key with it pass by. It is given to the
//!   small lane when the large one has acknowledged what was numbered when it came, or what was
//!   numbered when the heap before it was released: large values without end do not keep it (see
//!   `waiting`).
//! - A large flush with a key that the small lane holds, or that waits, is not sent until the small
//!   lane has acknowledged it. What was pending before it gets its number first.
//!
//! So what is pending in the large lane waits for the small lane and for what waits; what waits,
//! waits for numbered batches of the large lane alone; these wait for batches that were numbered
//! before them; and the small lane waits for nothing. There
//! is no circle, and hence no deadlock. A key stays behind a large value only where the program
//! flushed it together with that value, or with a key that was; and two rounds of what the large lane
//! has on its way at most.
//!
//! In the large lane the latest wins: it has at most [`LARGE_WINDOW_BYTES`] or a single batch
//! numbered, and what comes meanwhile folds by key. So it holds at most that, and one value per key;
//! what waits holds two values per key at most.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost_types::Timestamp;
use uuid::Uuid;

use super::{
    push_core::{Counters, PushCore, WriterLost},
    update::Update,
    waiting::Waiting,
};
use crate::proto::v1::{PushOpened, PushWindow};

/// Values above this, encoded, are large: the server keeps them out of line.
pub(super) const LARGE_VALUE_BYTES: usize = 64 << 10;
/// What the large lane has numbered at most, or else a single batch.
pub(super) const LARGE_WINDOW_BYTES: usize = 1 << 20;

/// A key that the large lane holds without a number.
const PENDING: u64 = u64::MAX;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Small,
    Large,
}

impl Lane {
    pub(super) const ALL: [Self; 2] = [Self::Small, Self::Large];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Large => "large",
        }
    }
}

/// Which lanes may have something to send that they had not before.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[must_use = "a lane that is not woken sends nothing"]
pub(super) struct Ready {
    pub(super) small: bool,
    pub(super) large: bool,
}

impl Ready {
    pub(super) const BOTH: Self = Self {
        small: true,
        large: true,
    };

    pub(super) fn has(self, lane: Lane) -> bool {
        match lane {
            Lane::Small => self.small,
            Lane::Large => self.large,
        }
    }

    /// All but this one.
    pub(super) fn without(mut self, lane: Lane) -> Self {
        match lane {
            Lane::Small => self.small = false,
            Lane::Large => self.large = false,
        }
        self
    }

    fn and(mut self, lane: Lane) -> Self {
        match lane {
            Lane::Small => self.small = true,
            Lane::Large => self.large = true,
        }
        self
    }
}

enum Route {
    Small,
    Large,
    /// Until the large lane has so many batches acknowledged.
    Wait(u64),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lanes {
    small: PushCore,
    large: PushCore,
    /// Small flushes that touch what the large lane has on its way.
    waiting: Waiting,
    waiting_limit: usize,
    /// Flushes that found more waiting than that.
    overflows: u64,
    /// The keys that the large lane holds, each with the count of the last batch that has it.
    large_keys: BTreeMap<String, u64>,
    /// How the large lane stood when they were last looked through.
    large_stood: (u64, u64, bool),
    /// What is pending in the large lane comes after something that has no number yet.
    after_pending: bool,
    /// What is pending in the large lane comes after so many batches of the small one.
    after: u64,
    large_value_bytes: usize,
}

impl Lanes {
    pub(super) fn new(pending_limit: usize, large_value_bytes: usize) -> Self {
        let large = PushCore::new(Uuid::new_v4(), pending_limit);
        Self {
            small: PushCore::new(Uuid::new_v4(), pending_limit),
            large: large.with_most_bytes(LARGE_WINDOW_BYTES),
            waiting: Waiting::default(),
            waiting_limit: pending_limit,
            overflows: 0,
            large_keys: BTreeMap::new(),
            large_stood: (0, 0, false),
            after_pending: false,
            after: 0,
            large_value_bytes,
        }
    }

    /// One lane, to look at.
    pub(super) fn lane(&self, lane: Lane) -> &PushCore {
        match lane {
            Lane::Small => &self.small,
            Lane::Large => &self.large,
        }
    }

    fn lane_mut(&mut self, lane: Lane) -> &mut PushCore {
        match lane {
            Lane::Small => &mut self.small,
            Lane::Large => &mut self.large,
        }
    }

    /// Whether everything that was flushed is durable.
    pub(super) fn is_settled(&self) -> bool {
        self.small.is_settled() && self.large.is_settled() && self.waiting.is_empty()
    }

    /// Batches that are not known to be durable, what has no number included.
    pub(super) fn unsettled_batches(&self) -> usize {
        self.small.unsettled_batches() + self.large.unsettled_batches() + self.waiting.batches()
    }

    pub(super) fn unacked_batches(&self) -> usize {
        self.small.unacked_batches() + self.large.unacked_batches()
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.small.held_bytes() + self.large.held_bytes() + self.waiting.weight()
    }

    /// What both have done.
    pub(super) fn counters(&self) -> Counters {
        let mut both = self.small.counters().clone();
        both.add(self.large.counters());
        both.flushes += self.waiting.flushes() as u64;
        both.overflows += self.overflows;
        both
    }

    /// Takes one flush.
    pub(super) fn flush(&mut self, updates: Vec<Update>, now: Timestamp) -> Ready {
        match self.route(&updates) {
            Route::Small => {
                self.small.flush(updates, now);
                self.advance(now).and(Lane::Small)
            }
            Route::Wait(until) => {
                self.waiting.fold_in(updates, until);
                if self.waiting.weight() > self.waiting_limit {
                    self.overflows += 1;
                    self.waiting.squeeze();
                }
                Ready::default()
            }
            Route::Large => {
                self.order_after_small(&updates, now);
                for update in &updates {
                    match self.large_keys.get_mut(&update.key) {
                        Some(count) => *count = PENDING,
                        None => {
                            self.large_keys.insert(update.key.clone(), PENDING);
                        }
                    }
                }
                self.large.flush(updates, now);
                self.advance(now).and(Lane::Large)
            }
        }
    }

    fn route(&self, updates: &[Update]) -> Route {
        let is_large = |update: &Update| update.operation.weight() > self.large_value_bytes;
        if updates.iter().any(is_large) {
            return Route::Large;
        }
        let mut until = None;
        if self.large_keys.is_empty() && self.waiting.is_empty() {
            return Route::Small;
        }
        for update in updates {
            match self.large_keys.get(&update.key) {
                Some(&PENDING) => return Route::Large,
                Some(count) => until = until.max(Some(*count)),
                None if self.waiting.contains(&update.key) => until = until.max(Some(0)),
                None => {}
            }
        }
        until.map_or(Route::Small, Route::Wait)
    }

    /// What the small lane holds of these keys comes before what is pending in the large one. What
    /// was pending there already gets its number first where there is room, so that it waits for no
    /// more than it had to: else keys that are new each time could keep it back for ever.
    fn order_after_small(&mut self, updates: &[Update], now: Timestamp) {
        let mut keys = updates.iter().map(|update| &update.key);
        let after_pending =
            keys.any(|key| self.waiting.contains(key) || self.small.is_pending(key));
        let count = self.small.last_touching(updates, self.after);
        if !self.after_pending && (after_pending || count.is_some()) {
            self.large.number_behind_the_barrier(now);
            self.note_large();
        }
        self.after_pending |= after_pending;
        if !after_pending && let Some(count) = count {
            self.after = count;
        }
        self.bar_large();
    }

    fn bar_large(&mut self) {
        let barrier = if self.after_pending {
            u64::MAX
        } else {
            self.after
        };
        self.large.set_barrier(barrier);
    }

    /// Carries what has happened in one lane over to the other.
    fn advance(&mut self, now: Timestamp) -> Ready {
        let mut ready = Ready::default();
        let large_was_blocked = self.large.is_blocked();
        let small_was_blocked = self.small.is_blocked();
        self.small.set_reached(self.large.acked());
        while let Some(released) = self.waiting.release(self.large.acked()) {
            self.small.absorb(released, now);
            ready.small = true;
        }
        self.large.set_reached(self.small.acked());
        if self.after_pending && self.waiting.is_empty() && !self.small.has_pending() {
            self.after_pending = false;
            self.after = self.small.numbered();
            self.bar_large();
        }
        ready.small |= small_was_blocked && !self.small.is_blocked();
        ready.large |= large_was_blocked && !self.large.is_blocked();
        self.note_large();
        ready
    }

    /// Keeps up with what the large lane holds.
    fn note_large(&mut self) {
        let (numbered, acked) = (self.large.numbered(), self.large.acked());
        let has_pending = self.large.has_pending();
        let stands = (numbered, acked, has_pending);
        if std::mem::replace(&mut self.large_stood, stands) == stands {
            return;
        }
        self.large_keys.retain(|_, count| {
            if *count == PENDING && !has_pending {
                *count = numbered;
            }
            *count > acked
        });
    }

    /// Numbers everything that was flushed, room or not, so that its marks can be given to others.
    /// Until the other lane has come so far, the small lane may then wait for the large one.
    pub(super) fn seal(&mut self, now: Timestamp) {
        self.seal_small(now, PushCore::seal);
        self.seal_large(now, PushCore::seal);
    }

    /// The same, and marks the last batch of each lane that was used as its writer's last.
    pub(super) fn finish(&mut self, now: Timestamp) {
        let is_used = |core: &PushCore| core.last_sequence() > 0 || !core.is_settled();
        if is_used(&self.small) || !self.waiting.is_empty() {
            self.seal_small(now, PushCore::finish);
        }
        if is_used(&self.large) {
            self.seal_large(now, PushCore::finish);
        }
    }

    fn seal_small(&mut self, now: Timestamp, last: fn(&mut PushCore, Timestamp)) {
        while let Some((waited, until)) = self.waiting.take_front() {
            // Of what waits nothing is sent too early, and what was flushed before goes first.
            self.small.seal(now);
            self.small.set_barrier(until);
            self.small.absorb(waited, now);
        }
        last(&mut self.small, now);
        self.small.set_barrier(0);
    }

    fn seal_large(&mut self, now: Timestamp, last: fn(&mut PushCore, Timestamp)) {
        if std::mem::take(&mut self.after_pending) {
            self.after = self.small.numbered();
        }
        self.bar_large();
        last(&mut self.large, now);
        self.note_large();
    }

    /// What a lane is to send now, if anything.
    pub(super) fn next_frame(&mut self, lane: Lane, now: Timestamp) -> (Option<Bytes>, Ready) {
        let frame = self.lane_mut(lane).next_encoded_frame(now);
        (frame, self.advance(now))
    }

    pub(super) fn on_opened(
        &mut self,
        lane: Lane,
        opened: &PushOpened,
        now: Timestamp,
    ) -> Result<Ready, WriterLost> {
        self.lane_mut(lane).on_opened(opened)?;
        Ok(self.advance(now).and(lane))
    }

    pub(super) fn on_ack(
        &mut self,
        lane: Lane,
        sequence: i64,
        window: Option<&PushWindow>,
        now: Timestamp,
    ) -> Ready {
        self.lane_mut(lane).on_ack(sequence, window);
        self.advance(now).and(lane)
    }

    pub(super) fn on_rewind(&mut self, lane: Lane, expected: i64) -> Result<(), WriterLost> {
        self.lane_mut(lane).on_rewind(expected)
    }

    pub(super) fn on_disconnect(&mut self, lane: Lane) {
        self.lane_mut(lane).on_disconnect();
    }

    pub(super) fn on_drain(&mut self, lane: Lane) {
        self.lane_mut(lane).on_drain();
    }

    pub(super) fn restart_writer(&mut self, lane: Lane, writer: Uuid) -> usize {
        self.lane_mut(lane).restart_writer(writer)
    }
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
