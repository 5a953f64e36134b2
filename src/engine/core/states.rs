//! Planning what happens to states: pushed batches, unary updates, deletions, snapshots.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{
    super::{
        command::{OpenRequest, Opened, Reply, UpdateRequest, Updated},
        intake::{Directive, Session},
        mirror::{Mirror, StateSlot},
        token::LeaseToken,
    },
    Core, Work,
    group::{Group, PartSettle, Settle},
};
use crate::{
    domain::{
        Entry, Error, Reason, Revision, StateId, Uid,
        limits::{
            DONE_WRITER_RETENTION, HISTORY_WINDOW, MAX_KEYS_PER_STATE, MAX_MESSAGE_BYTES,
            MAX_STATE_BYTES, WRITER_RETENTION,
        },
        state::{Admitted, Fence, KeyBudget, KeyOp, Op, Part, Prune, RejectedOp, Writer},
        task::{AttemptEnd, Phase},
    },
    journal::Draft,
};

/// Bytes of unary updates that one state takes in a group; more wait, and others do not.
const MAX_STATE_CALL_BYTES: usize = 1 << 20;
/// Deltas of a state may weigh this much before a snapshot replaces them, however small the state.
const SNAPSHOT_MIN_BYTES: usize = 64 << 10;
/// Deltas may outweigh the state by this factor; what a snapshot costs is then at most half of
/// what the deltas cost.
const SNAPSHOT_FACTOR: usize = 2;
/// Values that no key refers to any more may weigh this much, or as much as the state, before a
/// snapshot drops them. It carries references, so it is small, unless the rest of the state is
/// large: then it is written for at least as many dead bytes.
const DEAD_VALUE_BYTES: usize = 4 << 20;

/// The error for a state that is not there.
pub(crate) fn state_not_found(state: &StateId) -> Error {
    Error::new(
        Reason::StateNotFound,
        format!("there is no state {state}: a first update creates it"),
    )
    .with("state", state)
}

fn lease_lost(token: &LeaseToken) -> Error {
    Error::new(
        Reason::LeaseLost,
        format!(
            "the lease on task {} is over: stop the work, what it writes is refused",
            token.task
        ),
    )
    .with("task", &token.task)
}

impl Core {
    pub(super) fn plan_update(
        &mut self,
        request: UpdateRequest,
        reply: Reply<Updated>,
        group: &mut Group,
    ) -> Option<Work> {
        let joined = group.delta_of(&request.state);
        let repeated = request
            .request_id
            .is_some_and(|id| joined.is_some_and(|delta| delta.writers.contains(&id)));
        // What compares-and-sets looks at a state nothing is planned for.
        let must_wait = request.expected.is_some() && !group.is_untouched(&request.state);
        let full = near_full(&self.shared.mirror.read(), group, &request.state)
            || group.bytes_of(&request.state) > MAX_STATE_CALL_BYTES;
        if !group.takes_parts(&request.state) || repeated || must_wait || full {
            return Some(Work::Update(request, reply));
        }
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        let slot = mirror.states.get(&request.state);
        let fence = match self.fence(&mirror, request.lease.as_ref(), None) {
            Ok(fence) => fence,
            Err(error) => {
                let _ = reply.send(Err(error));
                return None;
            }
        };
        let revision = slot
            .filter(|slot| slot.state.alive())
            .map_or(Revision::ZERO, |slot| slot.state.revision());
        let repeat = request
            .request_id
            .filter(|id| slot.is_some_and(|slot| slot.state.writer(id).is_some()));
        if repeat.is_some() {
            let _ = reply.send(Ok(Updated {
                revision,
                rejected: Vec::new(),
            }));
            return None;
        }
        if let Some(expected) = request.expected.filter(|expected| *expected != revision) {
            let _ = reply.send(Err(Error::new(
                Reason::RevisionMismatch,
                format!("state {} is at revision {revision}, not at the expected {expected}: read it again and decide anew", request.state),
            )
            .with("state", &request.state)
            .with("expected", expected)
            .with("found", revision)));
            return None;
        }
        let mut admitted = Admitted {
            ops: request.ops,
            rejected: request.rejected,
        };
        limit(slot, group, &request.state, &mut admitted);
        let plan = group.delta(&request.state);
        plan.writers.extend(request.request_id);
        if request.expected.is_some() {
            let last = slot.and_then(|slot| slot.entries.last().copied());
            plan.exclusive = Some(last.unwrap_or_default());
        }
        let part = Part {
            writer: request.request_id.map(|id| Writer::Stream(id.to_bytes())),
            epoch: 0,
            first_sequence: 1,
            last_sequence: 1,
            fence,
            ops: admitted.ops,
            source: request.source,
            rejected: admitted.rejected,
            last: false,
        };
        group.push_part(&request.state, part, PartSettle::Update(reply));
        None
    }

    pub(super) fn plan_deletion(
        &mut self,
        state: StateId,
        uid: Option<Uid>,
        reply: Reply<Revision>,
        group: &mut Group,
    ) -> Option<Work> {
        if !group.is_untouched(&state) {
            return Some(Work::Delete { state, uid, reply });
        }
        let mirror = self.shared.mirror.read();
        let Some(slot) = mirror.states.get(&state).filter(|slot| slot.state.alive()) else {
            let _ = reply.send(Err(state_not_found(&state)));
            return None;
        };
        if let Some(wanted) = uid.filter(|wanted| *wanted != slot.state.uid()) {
            let _ = reply.send(Err(Error::new(
                Reason::StateNotFound,
                format!(
                    "state {state} is another incarnation ({}) than the named one ({wanted})",
                    slot.state.uid()
                ),
            )
            .with("state", &state)
            .with("uid", slot.state.uid())));
            return None;
        }
        let draft = Draft {
            entry: Entry::StateSnapshot(slot.state.deletion(self.now.wall_us)),
            expect: slot.entries.last().copied(),
            supersedes: slot.superseded_by_deletion(),
        };
        drop(mirror);
        group.rewrite(state, true);
        group.push(draft, Settle::Deletion(reply));
        None
    }

    /// Opens a writer at its durable position. Nothing is in flight now, so that position is the
    /// truth. Under a lease the state has not seen, the fence is raised first.
    pub(super) fn plan_open(
        &mut self,
        request: OpenRequest,
        reply: Reply<Opened>,
        group: &mut Group,
    ) -> Option<Work> {
        if !group.takes_parts(&request.state) {
            return Some(Work::Open(request, reply));
        }
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        let fence = match self.fence(&mirror, request.lease.as_ref(), Some(request.writer)) {
            Ok(fence) => fence,
            Err(error) => {
                let _ = reply.send(Err(error));
                return None;
            }
        };
        let slot = mirror.states.get(&request.state);
        let task = fence
            .as_ref()
            .and_then(|fence| Uid::from_bytes(&fence.task_uid));
        let raises = fence.as_ref().zip(task).is_some_and(|(fence, task)| {
            slot.is_none_or(|slot| slot.state.fence(&task) < fence.fence)
        });
        if raises {
            drop(mirror);
            let part = Part {
                first_sequence: 1,
                fence,
                ..Part::default()
            };
            let state = request.state.clone();
            let settle = PartSettle::Open(request, task.unwrap_or_default(), reply);
            group.push_part(&state, part, settle);
            return None;
        }
        drop(mirror);
        self.open_session(request, task.unwrap_or_default(), reply);
        None
    }

    pub(super) fn open_session(&self, request: OpenRequest, task: Uid, reply: Reply<Opened>) {
        let (last, revision) = {
            let mirror = self.shared.mirror.read();
            let slot = mirror.states.get(&request.state);
            let writer = slot.and_then(|slot| slot.state.writer(&request.writer));
            (
                writer.map_or(0, |w| w.sequence),
                slot.map_or(Revision::ZERO, |s| s.state.revision()),
            )
        };
        let lease = request.lease.map(|token| (token, task));
        let intake = &self.shared.intake;
        let session = intake.open(
            request.writer,
            request.state,
            lease,
            request.source,
            last,
            revision,
        );
        if self.draining {
            session.direct(Directive::Reconnect);
        }
        // A finishing task is not kept waiting for a merge interval.
        if self.awaits(session.writer) {
            intake.hurry(&session);
        }
        // Where nobody hears it, dropping the answer closes the session.
        let _ = reply.send(Ok(Opened::new(session, last, self.shared.clone())));
    }

    pub(super) fn plan_session(&mut self, session: Arc<Session>, group: &mut Group) {
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        let lease = session.lease.as_ref().map(|(token, _)| token);
        let fence = match self.fence(&mirror, lease, Some(session.writer)) {
            Ok(fence) => fence,
            Err(error) => {
                session.direct(Directive::LeaseLost);
                session.close(error);
                return;
            }
        };
        let Some(taken) = session.take() else { return };
        // What was accepted under a lease shows that its worker lives.
        if let Some(token) = lease {
            self.heard_of(&token.task);
        }
        let mut admitted = Admitted {
            ops: taken.ops,
            rejected: taken.rejected,
        };
        limit(
            mirror.states.get(&session.state),
            group,
            &session.state,
            &mut admitted,
        );
        let part = Part {
            writer: Some(Writer::Stream(session.writer.to_bytes())),
            epoch: 0,
            first_sequence: taken.first,
            last_sequence: taken.last,
            fence,
            ops: admitted.ops,
            source: session.source.clone(),
            rejected: admitted.rejected,
            last: session.is_done(),
        };
        let (state, last, bytes) = (session.state.clone(), taken.last, taken.bytes);
        let settle = PartSettle::Session {
            session,
            last,
            bytes,
        };
        group.push_part(&state, part, settle);
    }

    /// The fence of what is written under a lease. `LEASE_LOST` where the lease is over, unless the
    /// worker itself ended it and what its writer had on the way may still arrive.
    fn fence(
        &self,
        mirror: &Mirror,
        lease: Option<&LeaseToken>,
        writer: Option<Uid>,
    ) -> Result<Option<Fence>, Error> {
        let Some(token) = lease else { return Ok(None) };
        let row = mirror
            .tasks
            .get(&token.task)
            .ok_or_else(|| lease_lost(token))?;
        let attempt = row
            .task
            .attempt_of(token.fence, token.secret)
            .ok_or_else(|| lease_lost(token))?;
        let awaited = match (&row.task.phase, writer) {
            (Some(Phase::Finishing(finishing)), Some(writer)) => {
                let id = writer.to_bytes();
                finishing.marks.iter().any(|mark| mark.writer_id == id)
            }
            // It failed and waits for its next attempt, whose fence will end this one's pushes.
            (Some(Phase::Scheduled(_) | Phase::Queued(_)), Some(_)) => {
                token.fence == row.task.fence
            }
            _ => false,
        };
        match attempt.end() {
            AttemptEnd::Open => {}
            AttemptEnd::Finished if awaited => {}
            AttemptEnd::Finished | AttemptEnd::Lost => return Err(lease_lost(token)),
        }
        Ok(Some(Fence {
            task_uid: row.task.uid.to_bytes(),
            fence: token.fence,
        }))
    }

    /// Snapshots of states whose deltas outweigh them.
    pub(super) fn plan_snapshots(&mut self, group: &mut Group) {
        if self.snapshots_due.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        let tombstones_up_to = self.head_before(HISTORY_WINDOW);
        let now = self.now;
        let since = self.started.max(self.wall_put.unwrap_or_default());
        // After a start, and after the clock was put forward, every writer has as long to come back
        // as it would have had without.
        let before_us = |retention| {
            let settled = now.mono >= since + retention;
            settled.then(|| now.wall_us - micros(retention))
        };
        // Sessions first: a writer with an open stream is never aged out.
        let open: HashSet<Uid> = shared
            .intake
            .sessions()
            .iter()
            .map(|session| session.writer)
            .collect();
        let mut later = HashSet::new();
        for state in std::mem::take(&mut self.snapshots_due) {
            let Some(slot) = mirror.states.get(&state) else {
                continue;
            };
            if group.is_heavy() {
                later.insert(state);
                continue;
            }
            let prune = Prune {
                tombstones_up_to,
                writers_before_us: before_us(WRITER_RETENTION).unwrap_or(i64::MIN),
                done_before_us: before_us(DONE_WRITER_RETENTION).unwrap_or(i64::MIN),
                keep_writer: &|writer| open.contains(&writer),
                keep_task: &|task| self.open_tasks.contains(&task),
            };
            let draft = Draft {
                entry: Entry::StateSnapshot(slot.state.snapshot(&prune)),
                expect: slot.entries.last().copied(),
                supersedes: slot.superseded_by_snapshot(),
            };
            group.add_bytes(slot.snapshot_size());
            group.rewrite(state, false);
            group.push(draft, Settle::Nothing);
        }
        self.snapshots_due = later;
    }

    pub(super) fn snapshot_when_due(&mut self, state: &StateId) {
        let due = self
            .shared
            .mirror
            .read()
            .states
            .get(state)
            .is_some_and(|slot| {
                let whole = slot.snapshot_size().max(slot.snapshot_bytes);
                slot.delta_bytes > SNAPSHOT_MIN_BYTES.max(SNAPSHOT_FACTOR * whole)
                    || slot.dead_value_bytes() > DEAD_VALUE_BYTES.max(slot.state.size_bytes())
            });
        if due {
            self.snapshots_due.insert(state.clone());
        }
    }
}

/// Whether a state is so near a limit that only one part may be planned at a time.
pub(super) fn near_full(mirror: &Mirror, group: &Group, state: &StateId) -> bool {
    let Some((slot, plan)) = mirror.states.get(state).zip(group.delta_of(state)) else {
        // Nothing is planned for it, or it is new: then the plan itself must stay within bounds.
        return group.delta_of(state).is_some_and(|plan| plan.ops > 1_000);
    };
    plan.ops > 0
        && (slot.state.key_count() + plan.ops + 1_000 > MAX_KEYS_PER_STATE
            || slot.state.size_bytes() + plan.bytes + MAX_MESSAGE_BYTES > MAX_STATE_BYTES)
}

/// Refuses what would make the state too large, in keys or in bytes.
pub(super) fn limit(
    slot: Option<&StateSlot>,
    group: &Group,
    state: &StateId,
    batch: &mut Admitted,
) {
    let planned = group.delta_of(state);
    let (ops, bytes) = planned.map_or((0, 0), |plan| (plan.ops, plan.bytes));
    let empty;
    let folded = match slot {
        Some(slot) => &slot.state,
        None => {
            empty = crate::domain::state::State::new(state.clone());
            &empty
        }
    };
    KeyBudget::new(folded, ops + batch.ops.len()).limit(batch);
    let mut room = MAX_STATE_BYTES.saturating_sub(folded.size_bytes() + bytes);
    if weight(&batch.ops) <= room {
        return;
    }
    batch.ops.retain(|op| {
        let size = match &op.op {
            Some(Op::Put(value)) => Some(value.len()),
            Some(Op::PutLarge(put)) => Some(put.size()),
            _ => None,
        };
        let bytes = size.map_or(0, |size| {
            // What it replaces makes room.
            let held = folded.table().get(op.key.as_str());
            let held = held.map_or(0, |held| op.key.len() + held.value.size());
            (op.key.len() + size).saturating_sub(held)
        });
        if bytes > room {
            let reason = Reason::QuotaExceeded.as_str().to_owned();
            batch.rejected.push(RejectedOp {
                sequence: op.sequence,
                key: op.key.clone(),
                reason,
            });
            return false;
        }
        room -= bytes;
        true
    });
}

/// Roughly the bytes of operations.
pub(super) fn weight(ops: &[KeyOp]) -> usize {
    let value = |op: &Op| match op {
        Op::Put(bytes) | Op::Add(bytes) | Op::Max(bytes) | Op::Min(bytes) => bytes.len(),
        Op::PutLarge(put) => put.size(),
        Op::Delete(_) => 0,
    };
    let of = |op: &KeyOp| op.key.len() + op.op.as_ref().map_or(0, value);
    ops.iter().map(of).sum()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
