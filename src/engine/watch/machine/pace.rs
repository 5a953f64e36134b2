//! What a watch does by the clock: deltas held back, bookmarks, its end.

use std::{
    future::Future,
    task::{Context, Poll},
};

use tokio::time::Instant;

use super::{super::ClosingReason, Source, Watch};

impl<S: Source> Watch<S> {
    /// Until when the next delta is held back.
    pub(super) fn held_back(&self) -> Option<Instant> {
        let next = self.last_delta? + self.min_delta_interval;
        (next > Instant::now()).then_some(next)
    }

    /// Notes when a delta was made, for those who want few. Reading the clock is a good part of
    /// what a shared delta costs.
    pub(super) fn note_delta(&mut self) {
        if !self.min_delta_interval.is_zero() {
            self.last_delta = Some(Instant::now());
        }
    }

    /// Sees to what is due without a change: while the timer runs there is nothing to see to.
    pub(super) fn wait_for_timer(
        &mut self,
        context: &mut Context<'_>,
        held_back: Option<Instant>,
    ) -> Poll<()> {
        let known = self.timer_waker.as_ref();
        let known = known.is_some_and(|waker| waker.will_wake(context.waker()));
        if known && !self.timer.is_elapsed() && self.last_delta.is_none() {
            return Poll::Pending;
        }
        let now = Instant::now();
        if now >= self.ends_at {
            self.close(ClosingReason::MaxAge);
            return Poll::Ready(());
        }
        let half = self.heartbeat / 2;
        if std::mem::take(&mut self.spoke) {
            // Since the last look, so at most half a heartbeat ago. When exactly is not noted:
            // reading the clock is a good part of what a shared delta costs.
            self.bookmark_at = now + half;
        } else if now >= self.bookmark_at {
            self.bookmark();
            self.bookmark_at = now + self.heartbeat;
            return Poll::Ready(());
        }
        let due = self.bookmark_at.min(now + half).min(self.ends_at);
        let due = held_back.map_or(due, |at| at.min(due));
        if self.timer.deadline() != due || self.timer.is_elapsed() {
            self.timer.as_mut().reset(due);
        }
        self.timer_waker = Some(context.waker().clone());
        if self.timer.as_mut().poll(context).is_ready() {
            // Just now: to be looked at with a fresh reading of the clock.
            self.timer_waker = None;
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
