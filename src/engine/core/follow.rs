//! What the monitor does once entries are folded: its indexes follow the mirror, callers are
//! answered, watches woken. And the same from scratch, after a replay.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use super::{
    super::{
        clock::Now,
        command::Updated,
        intake::{Directive, MAX_REJECTED_TOLD, Session},
        mirror::{Folded, TaskRow},
        timers::Timer,
        wakers::Topic,
    },
    Core, INSTANCE_SILENCE, UPKEEP_INTERVAL, Work,
    group::{PartSettle, Settle},
};
use crate::{
    domain::{
        Error, Reason, Revision, StateId, TaskId,
        limits::FLUSH_DEADLINE,
        state::{DeltaResult, PartResult},
        table::Content,
        task::{Attempt, Event, Phase, Status},
    },
    telemetry::Merge,
};

impl Core {
    /// Everything that follows from a replayed mirror.
    pub(super) fn take_up_mirror(&mut self) {
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        for (queue, row) in mirror.queues.with_entry() {
            let mut ready = shared.ready.lock();
            ready.configure(queue.as_str(), row.settings);
        }
        // The oldest first, so that each finds its place behind the others.
        for (revision, id, content) in mirror.tasks.table().changes_after(Revision::ZERO) {
            if let Content::Live(kept) = content {
                let row = kept.unpack(id, revision);
                self.follow_task(id, None, Some(&row), true);
            }
        }
        self.ended.line_up();
        for (uid, row) in &mirror.instances {
            if !row.record.expired {
                self.contacts.insert(*uid, self.now.mono);
                self.timers
                    .set(self.now.mono + INSTANCE_SILENCE, Timer::Instance(*uid));
            }
        }
        for (id, slot) in &mirror.states {
            // Nothing is in flight at a start: a value that no delta has named yet never will be.
            // Of a state that is bare the horizon takes it along.
            if slot.state.has_unclaimed() && !slot.is_bare() {
                self.snapshots_due.insert(id.clone());
            }
        }
        self.head_times.push_back((self.now.mono, mirror.head));
        self.timers
            .set(self.now.mono + UPKEEP_INTERVAL, Timer::Upkeep);
    }

    pub(super) fn follow_all(&mut self, folded: &[(Revision, Folded)]) {
        let Some((head, _)) = folded.last() else {
            return;
        };
        let mut topics = HashSet::from([Topic::Head]);
        let mut any_task = false;
        let single_tasks = self.shared.wakers.listen_to_tasks();
        for (_, fold) in folded {
            match fold {
                Folded::Task { id, before, after } => {
                    if single_tasks {
                        topics.insert(Topic::Task(id.clone()));
                    }
                    any_task = true;
                    self.shared.probe.task_changed(
                        &self.shared.id,
                        before.as_ref().map(|row| &row.task),
                        after.as_ref().map(|row| &row.task),
                    );
                    for row in [before, after].into_iter().flatten() {
                        let attempt = row.task.running();
                        topics.extend(attempt.map(|attempt| Topic::Instance(attempt.instance())));
                    }
                    self.follow_task(id, before.as_ref(), after.as_ref(), false);
                }
                Folded::Delta { state, result } => {
                    self.finishing_due = true;
                    if result.changed {
                        topics.insert(Topic::State(state.clone()));
                    }
                    self.snapshot_when_due(state);
                }
                Folded::Snapshot { state, deleted } => {
                    if *deleted {
                        topics.insert(Topic::State(state.clone()));
                    }
                }
                Folded::Queue { queue } => self.follow_queue(queue),
                Folded::ErrorGroup { .. } => drop(topics.insert(Topic::Errors)),
                Folded::Value | Folded::Instance { .. } | Folded::Horizon => {}
            }
        }
        if any_task {
            topics.insert(Topic::Tasks);
        }
        self.tell_directives();
        self.shared.wakers.wake(&topics, *head);
    }

    /// Ready lines, timers and leases of one task.
    fn follow_task(
        &mut self,
        id: &TaskId,
        before: Option<&Arc<TaskRow>>,
        after: Option<&Arc<TaskRow>>,
        replayed: bool,
    ) {
        if let Some(row) = before {
            match row.task.phase {
                Some(Phase::Queued(_)) => self.shared.ready.lock().remove(&row.task, row.revision),
                Some(Phase::Finishing(_)) => drop(self.finishing.remove(id)),
                Some(Phase::Scheduled(scheduled)) => {
                    self.scheduled.remove(&(scheduled.due_us, row.created));
                }
                Some(Phase::Terminal(_)) => self.ended.remove(row),
                _ => {}
            }
        }
        self.follow_running_count(before, after, replayed);
        let lost = before.is_some_and(|row| {
            row.task.running().is_some_and(|was| {
                let now = after.and_then(|row| row.task.attempt_of(was.fence, was.secret));
                now.is_none_or(|now| now.end() == crate::domain::task::AttemptEnd::Lost)
            })
        });
        if lost {
            self.direct(id, Directive::LeaseLost);
        }
        let Some(row) = after else {
            self.held.remove(id);
            return;
        };
        let now = self.now;
        if row.task.running().is_none() {
            self.held.remove(id);
        }
        let total = row.task.policy.total_timeout_us;
        let is_new = before.is_none() || replayed;
        if is_new && total > 0 && !row.task.status().is_terminal() {
            let until = now.mono_within(total_deadline_us(row), total);
            self.totals.insert(row.task.uid(), until);
            let timer = Timer::Total(id.clone(), row.created, until);
            self.set_timer(patient(now, until), timer);
        }
        // What was never leased has written to no state.
        if row.task.fence > 0 && !row.task.status().is_terminal() {
            self.open_tasks.insert(row.task.uid());
        }
        match &row.task.phase {
            Some(Phase::Scheduled(scheduled)) => match row.task.attempts.last() {
                // A pause of so long, whatever the wall says when it ends.
                Some(last) => {
                    let pause = scheduled.due_us.saturating_sub(last.end_us);
                    let pause = u64::try_from(pause).unwrap_or(0);
                    let until = now.mono_within(scheduled.due_us, pause);
                    let timer = Timer::Retry(id.clone(), row.created, until);
                    self.set_timer(patient(now, until), timer);
                }
                None => drop(self.scheduled.insert((scheduled.due_us, row.created))),
            },
            Some(Phase::Queued(_)) => {
                self.shared.ready.lock().insert(&row.task, row.revision);
                self.match_due = true;
            }
            Some(Phase::Running(_)) => {
                let asked = before.is_none_or(|before| before.task.cancel.is_none());
                if asked && row.task.cancel.is_some() {
                    self.direct(id, Directive::CancelRequested);
                }
                self.follow_running(id, row, replayed);
            }
            Some(Phase::Finishing(finishing)) => {
                for mark in &finishing.marks {
                    self.hurry_writer(&mark.writer_id);
                }
                let deadline = now.mono + FLUSH_DEADLINE;
                self.finishing.insert(id.clone(), deadline);
                self.finishing_due = true;
                self.set_timer(deadline, Timer::Flush(id.clone()));
            }
            Some(Phase::Terminal(_)) => {
                self.open_tasks.remove(&row.task.uid());
                self.totals.remove(&row.task.uid());
                match self.shared.keep_ended {
                    0 => {}
                    _ if replayed => self.ended.note(row),
                    _ => self.ended.insert(row),
                }
                self.set_timer(
                    now.mono_at(row.task.expire_us),
                    Timer::Retention(id.clone(), row.created),
                );
            }
            None => {}
        }
    }

    /// What runs of a queue: counted from when its lease was planned, or found at a start, until it
    /// has ended or waits again; a finishing task runs.
    fn follow_running_count(
        &mut self,
        before: Option<&Arc<TaskRow>>,
        after: Option<&Arc<TaskRow>>,
        replayed: bool,
    ) {
        let runs = |row: &&Arc<TaskRow>| row.task.status() == Status::Running;
        let (was, is) = (before.filter(runs), after.filter(runs));
        if let (Some(row), None) = (was, is) {
            let mut ready = self.shared.ready.lock();
            self.match_due |= ready.stop(&row.task.queue, &row.task.concurrency_key);
        } else if let (None, Some(row), true) = (was, is, replayed) {
            self.shared.ready.lock().start(&row.task);
        }
    }

    fn follow_running(&mut self, id: &TaskId, row: &TaskRow, replayed: bool) {
        let Some(attempt) = row.task.running() else {
            return;
        };
        // After a start nobody knows which leases were accepted but the journal.
        let accepted = replayed && self.is_accepted(id, attempt);
        if !self.time_lease(id, row, attempt.fence, replayed, accepted) {
            return;
        }
        if let Some(until) = self.attempt_limit(id) {
            let timer = Timer::Attempt(id.clone(), attempt.secret, until);
            self.set_timer(patient(self.now, until), timer);
        }
    }

    /// Whether the journal knows that the worker has the lease: a renewal named it.
    fn is_accepted(&self, id: &TaskId, attempt: &Attempt) -> bool {
        let mirror = self.shared.mirror.read();
        let row = mirror.instances.get(&attempt.instance());
        let leases = row.into_iter().flat_map(|row| &row.record.leases);
        let mut leases = leases.filter(|lease| lease.task == id.as_str());
        leases.any(|lease| lease.fence == attempt.fence)
    }

    /// Notes news for the push streams that write under the task's lease.
    fn direct(&mut self, id: &TaskId, directive: Directive) {
        self.directives
            .entry(id.clone())
            .or_default()
            .push(directive);
    }

    fn tell_directives(&mut self) {
        if self.directives.is_empty() {
            return;
        }
        let directives = std::mem::take(&mut self.directives);
        for session in self.shared.intake.sessions() {
            let task = session.lease.as_ref().map(|(token, _)| &token.task);
            for directive in task
                .and_then(|task| directives.get(task))
                .into_iter()
                .flatten()
            {
                session.direct(*directive);
            }
        }
    }

    pub(super) fn settle(
        &mut self,
        settle: Settle,
        revision: Revision,
        fold: Option<Folded>,
        granted: &mut BTreeMap<u64, Vec<Arc<TaskRow>>>,
    ) {
        let row = match &fold {
            Some(Folded::Task { after, .. }) => after.clone(),
            _ => None,
        };
        match settle {
            Settle::Nothing | Settle::Own(..) | Settle::Removal(_) => {}
            Settle::Reported(replies) => {
                for reply in replies {
                    let _ = reply.send(Ok(revision));
                }
            }
            Settle::Item(ticket) => {
                let missing = || {
                    Error::new(
                        Reason::Internal,
                        "the journal did not return the entry it committed",
                    )
                };
                self.resolve(Some(ticket), row.ok_or_else(missing));
            }
            Settle::Lease { poll, .. } => granted.entry(poll).or_default().extend(row),
            Settle::Renewal(reply, statuses) => drop(reply.send(Ok(statuses))),
            Settle::Deletion(reply) | Settle::Queue(reply) => drop(reply.send(Ok(revision))),
            Settle::Settings(state, reply) => {
                self.release(&state);
                let _ = reply.send(Ok(revision));
            }
            Settle::Parts(settles) => {
                if let Some(Folded::Delta { state, result }) = fold {
                    self.settle_parts(&state, revision, result, settles);
                }
            }
        }
    }

    fn settle_parts(
        &self,
        state: &StateId,
        revision: Revision,
        result: DeltaResult,
        settles: Vec<PartSettle>,
    ) {
        self.count_refused(&result);
        for (settle, result) in settles.into_iter().zip(result.parts) {
            match settle {
                PartSettle::Contribution => {
                    if let PartResult::Applied { rejected } = result
                        && !rejected.is_empty()
                    {
                        let keys: Vec<_> = rejected
                            .iter()
                            .map(|r| format!("{} {}", r.key, r.reason))
                            .collect();
                        tracing::warn!(state.id = %state, ?keys, "keys of a contribution were rejected");
                    }
                }
                PartSettle::Update(reply) => {
                    let rejected = match result {
                        PartResult::Applied { rejected } => Ok(rejected),
                        PartResult::Fenced => Err(Error::new(
                            Reason::LeaseLost,
                            format!("a later attempt of the task writes to state {state}"),
                        )),
                        _ => Ok(Vec::new()),
                    };
                    let _ = reply.send(rejected.map(|mut rejected| {
                        rejected.truncate(MAX_REJECTED_TOLD);
                        Updated { revision, rejected }
                    }));
                }
                PartSettle::Open(request, task, reply) => self.open_session(request, task, reply),
                PartSettle::Session {
                    session,
                    last,
                    bytes,
                } => {
                    match result {
                        PartResult::Applied { rejected } => {
                            self.tell_merge(&session, bytes, revision);
                            session.applied(last, bytes, revision, rejected);
                        }
                        PartResult::Duplicate => session.applied(last, bytes, revision, Vec::new()),
                        PartResult::Fenced => {
                            session.direct(Directive::LeaseLost);
                            session.close(Error::new(
                                Reason::LeaseLost,
                                format!("a later attempt of the task writes to state {state}"),
                            ));
                        }
                        PartResult::Gap { .. }
                        | PartResult::OldEpoch
                        | PartResult::AlreadyContributed => {
                            session.close(Error::new(
                            Reason::StreamDraining,
                            format!("writer {} does not stand where this stream began: open it again", session.writer),
                        ));
                        }
                    }
                }
            }
        }
    }

    fn count_refused(&self, result: &DeltaResult) {
        let (mut keys, mut parts) = (0, 0);
        for part in &result.parts {
            match part {
                PartResult::Applied { rejected } => keys += rejected.len(),
                PartResult::Fenced => parts += 1,
                _ => {}
            }
        }
        self.shared.probe.metrics.refused(keys, parts);
    }

    /// What a task has pushed is merged.
    fn tell_merge(&self, session: &Session, bytes: usize, revision: Revision) {
        let probe = &self.shared.probe;
        if !probe.traces.exports() {
            return;
        }
        if let Some((token, _)) = &session.lease
            && session.tells_merge(self.now.wall_us)
            && let (Some(row), _) = self.find_task(&token.task)
        {
            let merge = Merge {
                state: &session.state,
                fence: token.fence,
                bytes,
                revision,
                time_us: self.now.wall_us,
            };
            probe.merged(&self.shared.id, &row.task, &merge);
        }
    }

    /// The draft was not committed.
    pub(super) fn refuse(&mut self, settle: Settle, error: &Error) {
        match settle {
            Settle::Nothing => {}
            Settle::Reported(replies) => {
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
            Settle::Item(ticket) => self.resolve(Some(ticket), Err(error.clone())),
            // Planned anew from the task's record.
            Settle::Own(_, Event::Settle { .. }) => self.finishing_due = true,
            Settle::Own(id, event) => self.push_own(id, event),
            Settle::Removal(id) => self.removals.push_back(Work::Remove(id)),
            Settle::Lease { task, taken, .. } => {
                let row = self.find_task(&task).0;
                self.give_back(&taken, row.as_deref());
            }
            Settle::Renewal(reply, _) => drop(reply.send(Err(error.clone()))),
            Settle::Deletion(reply) | Settle::Settings(_, reply) | Settle::Queue(reply) => {
                drop(reply.send(Err(error.clone())));
            }
            Settle::Parts(settles) => {
                for settle in settles {
                    match settle {
                        PartSettle::Contribution => self.finishing_due = true,
                        PartSettle::Update(reply) => drop(reply.send(Err(error.clone()))),
                        PartSettle::Open(_, _, reply) => drop(reply.send(Err(error.clone()))),
                        PartSettle::Session { session, .. } => session.close(error.clone()),
                    }
                }
            }
        }
    }
}

/// When the task has taken too long, by the wall.
pub(super) fn total_deadline_us(row: &TaskRow) -> i64 {
    row.task
        .create_us
        .saturating_add_unsigned(row.task.policy.total_timeout_us)
}

/// A timer set by the wall clock is looked at again this soon at the earliest.
pub(super) const WALL_RECHECK: Duration = Duration::from_millis(1);
/// And every timer of a task that has not ended this late at the latest: the monotonic clock stands
/// still in a machine that sleeps, and the timers of tasks that have ended must not be kept for days.
pub(super) const WALL_PATIENCE: Duration = Duration::from_secs(600);

/// When to look again at what is due then.
pub(super) fn patient(now: Now, at: Duration) -> Duration {
    at.min(now.mono + WALL_PATIENCE)
}
