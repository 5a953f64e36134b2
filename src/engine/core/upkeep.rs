//! Timers that come due, and what keeps the mirror small.

use std::{sync::Arc, time::Duration};

use super::{
    super::{
        mirror::TaskRow,
        timers::{Kind, Timer},
    },
    Core, MAX_WORK_PER_GROUP, UPKEEP_INTERVAL, Work,
    follow::{WALL_RECHECK, patient},
    group::{Group, Settle},
};
use crate::{
    domain::{
        Entry, Revision, TaskId,
        entry::Horizon,
        limits::{HISTORY_WINDOW, WRITER_RETENTION},
        task::{Event, Phase},
    },
    journal::Draft,
};

/// Entries one horizon may make superfluous; more wait for the next.
const MAX_FORGOTTEN: usize = 10_000;
/// The wall clock was put where it moved so much more or less than the monotonic one between two
/// looks: more than a clock is slewed by.
const JUMP_US: u64 = 1_000_000;

impl Core {
    pub(super) fn fire_timers(&mut self, group: &mut Group) {
        for kind in Kind::ALL {
            self.fire(kind, group);
        }
        self.due_tasks();
    }

    /// Timers that lead to this kind of work; those for which it has no room stay.
    pub(super) fn fire(&mut self, kind: Kind, group: &mut Group) {
        for _ in 0..MAX_WORK_PER_GROUP {
            if !self.has_room_for(kind) {
                break;
            }
            let Some(timer) = self.timers.pop(kind, self.now.mono) else {
                break;
            };
            match timer {
                Timer::Poll(id) => self.poll_over(id),
                Timer::Instance(uid) => self.instance_silent(uid, group),
                Timer::Upkeep => self.upkeep(group),
                // Finishing tasks are looked at in every round; this only makes sure there is one.
                Timer::Flush(_) => self.finishing_due = true,
                Timer::Aside => self.match_due = true,
                Timer::Look => {}
                Timer::Merge(state) => self.pause_over(&state),
                Timer::Lease(id, fence) => self.lease_due(id, fence),
                Timer::Broken(uid) => self.still_broken(uid),
                Timer::Retry(id, life, until) => self.retry_due(id, life, until),
                Timer::Attempt(id, secret, until) => self.attempt_over(id, secret, until),
                Timer::Total(id, life, until) => self.total_over(id, life, until),
                Timer::Retention(id, life) => self.retention_over(id, life),
            }
        }
    }

    /// False, and the timer set again, where the wall clock was put back since it was set.
    fn wall_has_come(&mut self, at_us: i64, timer: Timer) -> bool {
        let come = self.now.wall_us >= at_us;
        if !come {
            let at = patient(self.now, self.now.mono_at(at_us));
            let at = at.max(self.now.mono + WALL_RECHECK);
            self.set_timer(at, timer);
        }
        come
    }

    /// When the next of the scheduled tasks is due, as the clocks stand now. Should the wall clock be
    /// put, the next upkeep finds out.
    pub(super) fn next_due(&self) -> Option<Duration> {
        let (due_us, _) = self.scheduled.first()?;
        Some(self.now.mono_at(*due_us))
    }

    /// Tasks scheduled for a time that has come.
    fn due_tasks(&mut self) {
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        for _ in 0..MAX_WORK_PER_GROUP {
            let due = self.scheduled.first().copied();
            let due = due.filter(|(due_us, _)| *due_us <= self.now.wall_us);
            let Some(due) = due.filter(|_| self.has_room_for(Kind::Task)) else {
                return;
            };
            self.scheduled.remove(&due);
            if let Some(id) = mirror.tasks.created_at(due.1) {
                self.push_own(id.clone(), Event::Due);
            }
        }
    }

    /// The task, where it is still the one that was created there.
    fn find_life(&self, id: &TaskId, life: Revision) -> Option<Arc<TaskRow>> {
        self.find_task(id).0.filter(|row| row.created == life)
    }

    fn retry_due(&mut self, id: TaskId, life: Revision, until: Duration) {
        let Some(row) = self.find_life(&id, life) else {
            return;
        };
        if matches!(row.task.phase, Some(Phase::Scheduled(_)))
            && self.time_has_come(until, Timer::Retry(id.clone(), life, until))
        {
            self.push_own(id, Event::Due);
        }
    }

    fn attempt_over(&mut self, id: TaskId, secret: u64, until: Duration) {
        let (Some(row), _) = self.find_task(&id) else {
            return;
        };
        let running = row.task.running();
        if let Some(attempt) = running.filter(|attempt| attempt.secret == secret)
            && self.time_has_come(until, Timer::Attempt(id.clone(), secret, until))
            && !self.is_promised(&id, Timer::Attempt(id.clone(), secret, until))
        {
            let fence = attempt.fence;
            self.push_own(id, Event::AttemptTimeout { fence });
        }
    }

    fn total_over(&mut self, id: TaskId, life: Revision, until: Duration) {
        let Some(row) = self.find_life(&id, life) else {
            return;
        };
        if !row.task.status().is_terminal()
            && self.time_has_come(until, Timer::Total(id.clone(), life, until))
            && !self.is_promised(&id, Timer::Total(id.clone(), life, until))
        {
            self.push_own(id, Event::TotalTimeout);
        }
    }

    /// False, and the timer set again, where it was set for before.
    fn time_has_come(&mut self, until: Duration, timer: Timer) -> bool {
        let come = self.now.mono >= until;
        if !come {
            self.set_timer(patient(self.now, until), timer);
        }
        come
    }

    /// Whether the task's worker may still count on its lease; then the timer is set again. A limit
    /// is not behind the leases it caps: this keeps the promise, should the two be reckoned apart.
    fn is_promised(&mut self, id: &TaskId, timer: Timer) -> bool {
        let left = self.promised(id);
        if !left.is_zero() {
            self.set_timer(self.now.mono + left, timer);
        }
        !left.is_zero()
    }

    /// Looks whether the wall clock was put, before anything is judged by it. Forward: nothing may be
    /// given up for it that was young a moment ago.
    pub(super) fn look_at_wall(&mut self) {
        let mono_us = i64::try_from(self.now.mono.as_micros()).unwrap_or(i64::MAX);
        let ahead_us = self.now.wall_us.saturating_sub(mono_us);
        let jump_us = ahead_us.saturating_sub(self.wall_ahead_us);
        self.wall_ahead_us = ahead_us;
        if jump_us.unsigned_abs() < JUMP_US {
            return;
        }
        tracing::warn!(
            jump_s = jump_us as f64 / 1e6,
            "the wall clock was put: leases and timeouts are measured without it"
        );
        if jump_us < 0 {
            return;
        }
        self.wall_put = Some(self.now.mono);
    }

    /// Whether nobody has put the wall clock forward for so long.
    pub(super) fn wall_is_settled(&self, retention: Duration) -> bool {
        self.wall_put
            .is_none_or(|put| self.now.mono >= put.saturating_add(retention))
    }

    fn retention_over(&mut self, id: TaskId, life: Revision) {
        let Some(row) = self.find_life(&id, life) else {
            return;
        };
        if row.task.status().is_terminal()
            && self.wall_has_come(row.task.expire_us, Timer::Retention(id.clone(), life))
        {
            self.removals.push_back(Work::Remove(id));
        }
    }

    /// Notes the head, forgets topics nobody waits for, and moves the horizon when something
    /// removed is older than the history window.
    fn upkeep(&mut self, group: &mut Group) {
        self.set_timer(self.now.mono + UPKEEP_INTERVAL, Timer::Upkeep);
        self.shared.wakers.sweep();
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        self.head_times.push_back((self.now.mono, mirror.head));
        let up_to = self.head_before(HISTORY_WINDOW);
        let oldest_kept = self.now.mono.saturating_sub(HISTORY_WINDOW);
        while self
            .head_times
            .get(1)
            .is_some_and(|(at, _)| *at <= oldest_kept)
        {
            self.head_times.pop_front();
        }
        // A deleted state is forgotten in two steps: who wrote to it, then it.
        let aged =
            self.now.wall_us - i64::try_from(WRITER_RETENTION.as_micros()).unwrap_or(i64::MAX);
        if self.has_room_for(Kind::Removal) {
            let expired: Vec<_> = self.expired(&mirror).collect();
            self.removals.extend(expired);
        }
        for (id, slot) in &mirror.states {
            let old = slot.entries.last().is_some_and(|last| *last <= up_to);
            if old && !slot.state.alive() && !slot.is_bare() {
                let mut writers = slot.state.writers();
                let mut tasks = slot.state.mentions();
                let open = |task| self.open_tasks.contains(&task);
                if writers.any(|(_, writer)| writer.time_us < aged && !open(writer.task))
                    || tasks.any(|(task, _)| !self.open_tasks.contains(&task))
                {
                    self.snapshots_due.insert(id.clone());
                }
            }
        }
        let mut supersedes = mirror.forgettable(up_to);
        if supersedes.is_empty() {
            return;
        }
        supersedes.sort_unstable();
        // The horizon must not pass an entry that stays.
        let horizon = match supersedes.get(MAX_FORGOTTEN) {
            Some(first_kept) => Revision(first_kept.0 - 1),
            None => up_to,
        };
        supersedes = mirror.forgettable(horizon);
        supersedes.extend(mirror.horizon_entry);
        let draft = Draft {
            entry: Entry::Horizon(Horizon {
                revision: horizon.0,
            }),
            expect: Some(mirror.horizon_entry.unwrap_or(Revision::ZERO)),
            supersedes,
        };
        group.forgets = true;
        group.push(draft, Settle::Nothing);
    }

    /// The newest head that is at least `age` old; zero where none is known.
    pub(super) fn head_before(&self, age: Duration) -> Revision {
        let Some(at) = self.now.mono.checked_sub(age) else {
            return Revision::ZERO;
        };
        let old = self.head_times.iter().rev().find(|(noted, _)| *noted <= at);
        old.map_or(Revision::ZERO, |(_, head)| *head)
    }
}
