//! Leases as the monitor times them: until when each holds, and whether its worker is heard of.
//!
//! A worker that is not heard of is *suspect* before its lease is over, so that people see it. Two
//! things make it so: its last WatchLeases stream broke and none was opened again within
//! [`REOPEN_GRACE`]; or its renewal is overdue, by half an interval beyond two of them. The mark is a
//! transition of the task like any other. It goes with whatever renews the lease (a renewal that
//! names it, a push under it, the word of a push stream) and with the end of the attempt. A stream
//! that is opened again renews nothing and clears nothing: the next renewal is at most an interval
//! away.
//!
//! No lease reaches beyond the time limits of its attempt and its task: else the server would end an
//! attempt of which its worker may still believe that it owns the task. Where a lease ends with a
//! limit, the limit is why the attempt ends.

use std::time::Duration;

use super::{
    super::{mirror::TaskRow, timers::Timer},
    Core,
    leases::{first_lease, lease_period},
};
use crate::domain::{TaskId, Uid, task::Event};

/// How long a worker whose stream broke has to open another.
const REOPEN_GRACE: Duration = Duration::from_millis(400);

/// A lease as the monitor times it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) fence: u64,
    pub(super) deadline: Duration,
    pub(super) accepted: bool,
    /// How long it holds after each renewal.
    period: Duration,
    /// When the worker was heard of last, or the lease was given.
    heard: Duration,
    /// The task was asked to stop: renewals do not reach beyond.
    stop_by: Option<Duration>,
    /// Its time limits, and what happens to the task as the first of them is reached.
    limits: Limits,
    suspicion: Suspicion,
}

/// When a running task reaches its time limits.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    attempt: Option<Duration>,
    total: Option<Duration>,
}

impl Limits {
    fn first(self) -> Option<Duration> {
        self.attempt.into_iter().chain(self.total).min()
    }

    /// No later than the first of them.
    fn cap(self, until: Duration) -> Duration {
        self.first().map_or(until, |first| first.min(until))
    }

    /// What a lease that ends then ends with. The task's limit goes before the attempt's: there is
    /// no other attempt.
    fn reached(self, at: Duration, fence: u64) -> Option<Event> {
        if self.total.is_some_and(|total| total <= at) {
            return Some(Event::TotalTimeout);
        }
        let attempt = self.attempt.is_some_and(|attempt| attempt <= at);
        attempt.then_some(Event::AttemptTimeout { fence })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    Nothing,
    /// The mark waits to be planned.
    Asked,
    /// The record carries it.
    Marked,
    /// It does, and that it goes waits to be planned.
    Clearing,
}

impl Held {
    /// A lease that was given; `accepted` as the journal knows it after a start, where nobody knows
    /// what came by the stream: then it gets one full period.
    fn new(
        row: &TaskRow,
        fence: u64,
        now: Duration,
        limits: Limits,
        replayed: bool,
        accepted: bool,
    ) -> Self {
        let period = lease_period(row);
        let first = if replayed { period } else { first_lease(row) };
        Self {
            fence,
            deadline: limits.cap(now + first),
            accepted,
            period,
            heard: now,
            stop_by: None,
            limits,
            suspicion: Suspicion::Nothing,
        }
    }

    /// Takes up what the record says; true where it carries a mark that nobody asked for any more.
    fn follow(&mut self, row: &TaskRow, now: Duration) -> bool {
        if row.task.cancel.is_some() {
            let grace = row.task.policy.cancel_grace();
            self.stop_by.get_or_insert(now + grace);
        }
        let before = self.suspicion;
        match (row.task.suspect_us, before) {
            (1.., Suspicion::Clearing) => {}
            (1.., _) => self.suspicion = Suspicion::Marked,
            (_, Suspicion::Marked | Suspicion::Clearing) => self.suspicion = Suspicion::Nothing,
            _ => {}
        }
        before == Suspicion::Nothing && self.suspicion == Suspicion::Marked
    }

    /// The worker was heard of; gives how long the lease holds from now, 0 where it is over.
    pub(super) fn renew(&mut self, now: Duration) -> Duration {
        let until = now + self.period;
        let until = self.stop_by.map_or(until, |stop_by| until.min(stop_by));
        let until = self.limits.cap(until);
        self.accepted = true;
        self.heard = now;
        // What was promised stays.
        self.deadline = self.deadline.max(until);
        self.deadline.saturating_sub(now)
    }

    /// When its worker should have been heard of again: renewals come every quarter of the period.
    fn overdue_at(&self) -> Duration {
        self.heard + self.period * 5 / 8
    }

    /// When to look at it again.
    pub(super) fn next_look(&self) -> Duration {
        if self.accepted && self.suspicion == Suspicion::Nothing {
            self.deadline.min(self.overdue_at())
        } else {
            self.deadline
        }
    }
}

impl Core {
    /// Times the lease of a running task; true where it is a new one.
    pub(super) fn time_lease(
        &mut self,
        id: &TaskId,
        row: &TaskRow,
        fence: u64,
        replayed: bool,
        accepted: bool,
    ) -> bool {
        let now = self.now.mono;
        if let Some(held) = self.held.get_mut(id).filter(|held| held.fence == fence) {
            // The worker was heard of while the mark was on its way to the journal.
            if held.follow(row, now) {
                held.suspicion = Suspicion::Clearing;
                self.push_own(id.clone(), Event::Trust { fence });
            }
            return false;
        }
        let limits = self.limits_of(row);
        let mut held = Held::new(row, fence, now, limits, replayed, accepted);
        held.follow(row, now);
        self.set_timer(held.next_look(), Timer::Lease(id.clone(), fence));
        self.held.insert(id.clone(), held);
        true
    }

    /// The time of a lease has come: to end, or to be renewed.
    pub(super) fn lease_due(&mut self, id: TaskId, fence: u64) {
        let held = self.held.get(&id).copied();
        let Some(held) = held.filter(|held| held.fence == fence) else {
            return;
        };
        if held.deadline <= self.now.mono {
            tracing::info!(task.id = %id, accepted = held.accepted, "lease ran out");
            let lost = if held.accepted {
                Event::LeaseLost { fence }
            } else {
                self.note_unaccepted(&id, held.heard);
                Event::LeaseUnaccepted { fence }
            };
            let event = held.limits.reached(held.deadline, fence).unwrap_or(lost);
            self.push_own(id, event);
            return;
        }
        if held.accepted && held.overdue_at() <= self.now.mono {
            self.suspect(&id);
        }
        self.look_again(id, fence);
    }

    /// When the running task reaches its time limits.
    fn limits_of(&self, row: &TaskRow) -> Limits {
        let timeout = row.task.policy.attempt_timeout_us;
        let running = row.task.running().filter(|_| timeout > 0);
        Limits {
            attempt: running.map(|attempt| {
                let over_us = attempt.start_us.saturating_add_unsigned(timeout);
                self.now.mono_within(over_us, timeout)
            }),
            total: self.totals.get(&row.task.uid()).copied(),
        }
    }

    /// When the attempt that holds the task's lease takes too long.
    pub(super) fn attempt_limit(&self, id: &TaskId) -> Option<Duration> {
        self.held.get(id)?.limits.attempt
    }

    /// How long the task's worker may count on its lease from now.
    pub(super) fn promised(&self, id: &TaskId) -> Duration {
        let held = self.held.get(id);
        held.map_or(Duration::ZERO, |held| {
            held.deadline.saturating_sub(self.now.mono)
        })
    }

    /// Sets the timer of a lease.
    pub(super) fn look_again(&mut self, id: TaskId, fence: u64) {
        if let Some(held) = self.held.get(&id) {
            self.set_timer(held.next_look(), Timer::Lease(id, fence));
        }
    }

    /// Notes whose last stream broke, to look at them when they had time to open another.
    pub(super) fn note_broken(&mut self) {
        for instance in self.shared.presence.take_broken() {
            if self.shared.mirror.read().leased.contains_key(&instance) {
                self.broken.insert(instance, self.now.mono);
                self.set_timer(self.now.mono + REOPEN_GRACE, Timer::Broken(instance));
            }
        }
    }

    /// A worker that did not come back is suspect with all it holds, unless it was heard of.
    pub(super) fn still_broken(&mut self, instance: Uid) {
        let Some(&since) = self.broken.get(&instance) else {
            return;
        };
        if since + REOPEN_GRACE > self.now.mono {
            // It broke once more meanwhile, which has a timer of its own.
            return;
        }
        self.broken.remove(&instance);
        if self.shared.presence.is_open(instance) {
            return;
        }
        let leased = self.shared.mirror.read().leased.get(&instance).cloned();
        for id in leased.into_iter().flatten() {
            if self.held.get(&id).is_some_and(|held| held.heard <= since) {
                self.suspect(&id);
            }
        }
    }

    fn suspect(&mut self, id: &TaskId) {
        let Some(held) = self.held.get_mut(id) else {
            return;
        };
        if held.suspicion == Suspicion::Nothing {
            held.suspicion = Suspicion::Asked;
            let fence = held.fence;
            self.push_own(id.clone(), Event::Suspect { fence });
        }
    }

    /// The worker behind a lease was heard of: it is not suspect any more. Gives how long the lease
    /// holds from now; none where the task has no lease, 0 where it is over.
    pub(super) fn heard_of(&mut self, id: &TaskId) -> Option<Duration> {
        let held = self.held.get_mut(id)?;
        let left = held.renew(self.now.mono);
        match held.suspicion {
            Suspicion::Nothing | Suspicion::Clearing => {}
            Suspicion::Asked => held.suspicion = Suspicion::Nothing,
            Suspicion::Marked => {
                held.suspicion = Suspicion::Clearing;
                let fence = held.fence;
                self.push_own(id.clone(), Event::Trust { fence });
            }
        }
        Some(left)
    }

    /// Whether the worker was heard of since its mark was asked for.
    pub(super) fn is_trusted(&self, id: &TaskId) -> bool {
        let held = self.held.get(id);
        held.is_none_or(|held| held.suspicion == Suspicion::Nothing)
    }
}
