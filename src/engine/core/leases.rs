//! Planning what workers ask: work, and time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    super::{
        command::{Granted, LeaseRequest, LeaseStatus, RenewRequest, Reply},
        mirror::{Mirror, TaskRow},
        ready::Taken,
        timers::Timer,
        token::LeaseToken,
    },
    Core, INSTANCE_SILENCE, Poll, Work,
    group::{Group, Settle},
};
use crate::{
    domain::{
        Entry, Error, Reason, Revision, TaskId, Uid,
        entry::{Instance, LeaseRef},
        limits::MAX_MESSAGE_BYTES,
        task::{AttemptEnd, Changed, Event, Phase, next},
    },
    journal::Draft,
};

/// Workers that may wait at once in one namespace.
const MAX_POLLS: usize = 10_000;
/// Tasks given to one worker in one answer take at most about so much, or are one.
const MAX_GRANTED_BYTES: usize = MAX_MESSAGE_BYTES - (256 << 10);
/// Renewals that say nothing new are journalled at most this often per instance.
const RENEWAL_ENTRY_INTERVAL_US: i64 = 1_000_000;

impl Core {
    pub(super) fn open_poll(&mut self, request: LeaseRequest, reply: Reply<Vec<Granted>>) {
        if self.draining {
            let _ = reply.send(Ok(Vec::new()));
            return;
        }
        if self.polls.len() >= MAX_POLLS {
            let _ = reply.send(Err(Error::new(
                Reason::QuotaExceeded,
                format!("{MAX_POLLS} workers wait for tasks already: retry later"),
            )));
            return;
        }
        let id = self.id();
        let deadline = self.now.mono + request.wait;
        self.set_timer(deadline, Timer::Poll(id));
        self.match_due = true;
        self.polls.insert(
            id,
            Poll {
                request: Arc::new(request),
                reply,
                deadline,
                served: false,
                registered: false,
            },
        );
    }

    /// Gives ready tasks to waiting workers, those who waited longest first. While the journal is
    /// short of room they are given none, but are looked at all the same: they are told so when they
    /// have waited, and those that are gone are forgotten.
    pub(super) fn plan_leases(&mut self, group: &mut Group) {
        // Settings that change in this group hold for what is handed out behind them, and the lines
        // follow when they are committed.
        if group.queues() > 0 || !std::mem::take(&mut self.match_due) {
            return;
        }
        self.polls.retain(|_, poll| !poll.reply.is_closed());
        let ids: Vec<u64> = self.polls.keys().copied().collect();
        // What this group does something else to. It steps aside meanwhile.
        let mut busy = Vec::new();
        for id in ids {
            if group.is_heavy() {
                self.match_due = true;
                break;
            }
            self.register(id, group);
            let Some(poll) = self.polls.get_mut(&id) else {
                continue;
            };
            poll.served = true;
            let is_aside = self.aside.has(poll.request.instance, self.now.mono);
            if is_aside || self.shortage.is_some() || self.shared.ready.lock().waiting() == 0 {
                continue;
            }
            let request = poll.request.clone();
            let (mut room, mut leases) = (MAX_GRANTED_BYTES, 0);
            while room > 0 && leases < request.max_tasks {
                let mut ready = self.shared.ready.lock();
                let Some(taken) = ready.take(&request.queues, &request.task_types) else {
                    break;
                };
                drop(ready);
                let row = self.shared.mirror.read().tasks.at(taken.revision);
                let Some(row) = row.filter(|row| matches!(row.task.phase, Some(Phase::Queued(_))))
                else {
                    tracing::error!(task.revision = %taken.revision, "what is in the ready line does not wait");
                    self.give_back(&taken, None);
                    continue;
                };
                if group.has_task(&TaskId::trusted(&row.task.id)) {
                    busy.push((taken, row));
                    continue;
                }
                room = room.saturating_sub(self.plan_lease(id, &request, taken, &row, group));
                leases += 1;
            }
        }
        for (taken, row) in busy {
            self.give_back(&taken, Some(&row));
        }
    }

    /// A task that was taken is not leased after all: it is put back in line, for whoever asks next.
    pub(super) fn give_back(&mut self, taken: &Taken, row: Option<&TaskRow>) {
        let mut ready = self.shared.ready.lock();
        ready.stop(&taken.queue, taken.concurrency_key());
        if let Some(row) = row.filter(|row| matches!(row.task.phase, Some(Phase::Queued(_)))) {
            ready.insert(&row.task, row.revision);
        }
        self.match_due = true;
    }

    /// Says how many bytes the lease takes.
    fn plan_lease(
        &mut self,
        poll: u64,
        request: &LeaseRequest,
        taken: Taken,
        row: &TaskRow,
        group: &mut Group,
    ) -> usize {
        let input = usize::try_from(row.task.input_bytes).unwrap_or(usize::MAX);
        let bytes = prost::Message::encoded_len(&row.task).saturating_add(input);
        let event = Event::Lease {
            secret: self.random.u64(..),
            worker_id: request.worker_id.clone(),
            instance: request.instance,
            trace_context: self.shared.probe.traces.attempt(&row.task),
        };
        let task = TaskId::trusted(&row.task.id);
        match next(&row.task, &event, self.now.wall_us, 0) {
            // Out of line while the group is in flight, so that no other poll takes it.
            Ok(Changed::To(record)) => {
                let settle = Settle::Lease { poll, task, taken };
                self.push_record(row, *record, settle, group);
            }
            Ok(Changed::Not) | Err(_) => {
                tracing::error!(task.id = %task, "a task in the ready line cannot be leased");
                self.give_back(&taken, None);
            }
        }
        bytes
    }

    /// Answers the polls that got work. A worker that is gone never saw its leases: they go back.
    pub(super) fn answer_polls(&mut self, granted: BTreeMap<u64, Vec<Arc<TaskRow>>>) {
        for (id, rows) in granted {
            let grants: Vec<_> = rows
                .iter()
                .map(|row| Granted {
                    row: row.clone(),
                    valid_for: self.promised(&TaskId::trusted(&row.task.id)),
                    // Read back by whoever asked, so that this loop need not wait for the disk.
                    input: None,
                })
                .collect();
            let answered = self
                .polls
                .remove(&id)
                .is_some_and(|poll| poll.reply.send(Ok(grants)).is_ok());
            if answered {
                continue;
            }
            for row in rows {
                let Some(attempt) = row.task.running() else {
                    continue;
                };
                let event = Event::LeaseUnaccepted {
                    fence: attempt.fence,
                };
                self.push_own(TaskId::trusted(&row.task.id), event);
            }
        }
    }

    /// The wait is over, or there was none; but each gets its turn once, before it is sent away.
    pub(super) fn poll_over(&mut self, id: u64) {
        let Some(poll) = self.polls.get(&id) else {
            return;
        };
        if !poll.served {
            self.set_timer(self.now.mono + Duration::from_nanos(1), Timer::Poll(id));
        } else if poll.deadline <= self.now.mono
            && let Some(poll) = self.polls.remove(&id)
        {
            let _ = poll.reply.send(Ok(Vec::new()));
        }
    }

    /// Notes that a worker is there, in the journal where it is new or was given up.
    fn register(&mut self, poll: u64, group: &mut Group) {
        let Some(poll) = self.polls.get_mut(&poll) else {
            return;
        };
        if std::mem::replace(&mut poll.registered, true) {
            return;
        }
        let (uid, now) = (poll.request.instance, self.now);
        if self.contacts.insert(uid, now.mono).is_none() {
            self.timers
                .set(now.mono + INSTANCE_SILENCE, Timer::Instance(uid));
        }
        let (revision, known) = {
            let mirror = self.shared.mirror.read();
            let row = mirror.instances.get(&uid);
            (
                row.map_or(Revision::ZERO, |row| row.revision),
                row.is_some_and(|row| !row.record.expired),
            )
        };
        if known || !group.touch_instance(uid) {
            return;
        }
        let record = Instance {
            uid: uid.to_bytes(),
            worker_id: poll.request.worker_id.clone(),
            queues: poll.request.queues.clone(),
            task_types: poll.request.task_types.clone(),
            time_us: now.wall_us,
            ..Instance::default()
        };
        group.push(instance_draft(record, revision), Settle::Nothing);
    }

    pub(super) fn plan_renewal(
        &mut self,
        request: RenewRequest,
        reply: Reply<Vec<LeaseStatus>>,
        group: &mut Group,
    ) -> Option<Work> {
        let uid = request.instance;
        // What this group does to a task is not yet seen in the mirror.
        let mut tokens = request.tokens.iter();
        if group.has_instance(uid) || tokens.any(|token| group.has_task(&token.task)) {
            return Some(Work::Renew(request, reply));
        }
        self.no_longer_aside(uid);
        if self.contacts.insert(uid, self.now.mono).is_none() {
            self.set_timer(self.now.mono + INSTANCE_SILENCE, Timer::Instance(uid));
        }
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        let row = mirror.instances.get(&uid);
        // Whatever an instance held when it was given up is lost, however it comes back.
        let expired = row.is_some_and(|row| row.record.expired);
        let statuses: Vec<_> = request
            .tokens
            .iter()
            .map(|token| {
                if expired {
                    LeaseStatus::Lost
                } else {
                    self.renew(&mirror, token)
                }
            })
            .collect();
        // A call need not name all that its worker holds: what others named stays accepted.
        let known = row.into_iter().flat_map(|row| &row.record.leases);
        let known = known.filter(|lease| still_runs(&mirror, lease));
        let mut leases: BTreeMap<&str, u64> = known
            .map(|lease| (lease.task.as_str(), lease.fence))
            .collect();
        for (token, status) in request.tokens.iter().zip(&statuses) {
            if *status != LeaseStatus::Lost {
                leases.insert(token.task.as_str(), token.fence);
            }
        }
        let leases: Vec<_> = leases
            .into_iter()
            .map(|(task, fence)| LeaseRef {
                task: task.to_owned(),
                fence,
            })
            .collect();
        let news = row.is_none_or(|row| {
            let age = self.now.wall_us.saturating_sub(row.record.time_us);
            row.record.leases != leases || !(0..RENEWAL_ENTRY_INTERVAL_US).contains(&age)
        });
        if expired || !news {
            let _ = reply.send(Ok(statuses));
            return None;
        }
        let record = Instance {
            uid: uid.to_bytes(),
            worker_id: request.worker_id,
            leases,
            queues: row.map(|row| row.record.queues.clone()).unwrap_or_default(),
            task_types: row
                .map(|row| row.record.task_types.clone())
                .unwrap_or_default(),
            time_us: self.now.wall_us,
            expired: false,
        };
        let revision = row.map_or(Revision::ZERO, |row| row.revision);
        group.touch_instance(uid);
        group.push(
            instance_draft(record, revision),
            Settle::Renewal(reply, statuses),
        );
        None
    }

    fn renew(&mut self, mirror: &Mirror, token: &LeaseToken) -> LeaseStatus {
        let Some(row) = mirror.tasks.get(&token.task) else {
            return LeaseStatus::Lost;
        };
        let attempt = row.task.attempt_of(token.fence, token.secret);
        if attempt.is_none_or(|attempt| attempt.end() != AttemptEnd::Open)
            || row.task.running().is_none()
        {
            return LeaseStatus::Lost;
        }
        match (self.heard_of(&token.task), &row.task.cancel) {
            // Its time is over, or it did not stop within its grace.
            (None | Some(Duration::ZERO), _) => LeaseStatus::Lost,
            (Some(period), Some(_)) => LeaseStatus::CancelRequested(period),
            (Some(period), None) => LeaseStatus::Held(period),
        }
    }

    /// A push stream says that the worker behind it lives.
    pub(super) fn keep_alive(&mut self, token: &LeaseToken) {
        let (Some(row), _) = self.find_task(&token.task) else {
            return;
        };
        let running = row.task.running();
        if running.is_some_and(|a| a.fence == token.fence && a.secret == token.secret) {
            self.heard_of(&token.task);
        }
    }

    /// A worker instance that has been silent is given up. Its leases run out by themselves.
    pub(super) fn instance_silent(&mut self, uid: Uid, group: &mut Group) {
        let Some(&last) = self.contacts.get(&uid) else {
            return;
        };
        let waits = self.polls.values().any(|poll| poll.request.instance == uid);
        // Leases have deadlines of their own: while one holds, its worker lives.
        let holds = self.shared.mirror.read().leased.contains_key(&uid);
        let due = if waits || holds { self.now.mono } else { last } + INSTANCE_SILENCE;
        if due > self.now.mono || !group.touch_instance(uid) {
            self.set_timer(
                due.max(self.now.mono + Duration::from_secs(1)),
                Timer::Instance(uid),
            );
            return;
        }
        let row = self.shared.mirror.read().instances.get(&uid).cloned();
        let Some(row) = row.filter(|row| !row.record.expired) else {
            self.contacts.remove(&uid);
            self.aside.forget(uid);
            return;
        };
        // Looked at once more: the entry may be refused.
        self.set_timer(self.now.mono + Duration::from_secs(1), Timer::Instance(uid));
        {
            let record = Instance {
                expired: true,
                leases: Vec::new(),
                time_us: self.now.wall_us,
                ..row.record
            };
            group.push(instance_draft(record, row.revision), Settle::Nothing);
        }
    }
}

impl Core {
    /// Whether a lease was renewed, or accepted, since its end was planned; then its timer is set
    /// again.
    pub(super) fn was_renewed(&mut self, id: &TaskId, event: &Event) -> bool {
        let (fence, if_accepted) = match event {
            Event::LeaseLost { fence } => (*fence, false),
            Event::LeaseUnaccepted { fence } => (*fence, true),
            Event::Suspect { .. } => return self.is_trusted(id),
            _ => return false,
        };
        let Some(held) = self.held.get(id).filter(|held| held.fence == fence) else {
            return false;
        };
        let renewed = if if_accepted {
            held.accepted
        } else {
            held.deadline > self.now.mono
        };
        if renewed {
            self.look_again(id.clone(), fence);
        }
        renewed
    }
}

/// How long a lease holds until a renewal accepts it: half of what it holds afterwards.
pub(super) fn first_lease(row: &TaskRow) -> Duration {
    lease_period(row) / 2
}

/// How long an accepted lease of the task holds.
pub(super) fn lease_period(row: &TaskRow) -> Duration {
    Duration::from_micros(row.task.policy.lease_us)
}

/// Whether the attempt of a lease that was accepted has not ended.
fn still_runs(mirror: &Mirror, lease: &LeaseRef) -> bool {
    let row = mirror.tasks.get(&TaskId::trusted(&lease.task));
    row.is_some_and(|row| {
        let attempt = row.task.running();
        attempt.is_some_and(|attempt| attempt.fence == lease.fence)
    })
}

fn instance_draft(record: Instance, last: Revision) -> Draft {
    Draft {
        entry: Entry::Instance(record),
        expect: Some(last),
        supersedes: if last == Revision::ZERO {
            Vec::new()
        } else {
            vec![last]
        },
    }
}
