//! Planning what happens to tasks: calls item by item, retention, and the end of finishing tasks.

use std::sync::Arc;

use super::{
    super::{
        command::{Reply, TaskOp, TaskOpKind},
        mirror::{Mirror, TaskRow},
    },
    Call, Core, Ticket, Work,
    group::{Group, PartSettle, Settle},
    states::limit,
};
use crate::{
    domain::{
        Entry, Error, NamespaceId, Reason, Revision, StateId, TaskId, Uid,
        entry::TaskRemoved,
        state::{Admitted, Part, Writer},
        table::Content,
        task::{Changed, Event, Finishing, Phase, Task, WriterMark, next},
    },
    journal::Draft,
};

/// The error for a task that is not there.
pub(crate) fn task_not_found(id: &TaskId) -> Error {
    Error::new(
        Reason::TaskNotFound,
        format!("there is no task {id}, or its retention is over"),
    )
    .with("task", id)
}

impl Core {
    pub(super) fn open_call(
        &mut self,
        ops: Vec<Result<TaskOp, Error>>,
        reply: Reply<Vec<Result<Arc<TaskRow>, Error>>>,
    ) {
        let call = self.id();
        let mut results = Vec::with_capacity(ops.len());
        let mut open = 0;
        for (place, op) in ops.into_iter().enumerate() {
            match op {
                Ok(op) => {
                    results.push(None);
                    open += 1;
                    let ticket = Some(Ticket { call, place });
                    self.backlog.push_back(Work::Task { op, ticket });
                }
                Err(error) => results.push(Some(Err(error))),
            }
        }
        self.calls.insert(
            call,
            Call {
                open,
                results,
                reply,
            },
        );
        if open == 0 {
            self.close_call(call);
        }
    }

    pub(super) fn resolve(&mut self, ticket: Option<Ticket>, result: Result<Arc<TaskRow>, Error>) {
        let Some(Ticket { call, place }) = ticket else {
            return;
        };
        let Some(open) = self.calls.get_mut(&call) else {
            return;
        };
        open.results[place] = Some(result);
        open.open -= 1;
        if open.open == 0 {
            self.close_call(call);
        }
    }

    fn close_call(&mut self, call: u64) {
        if let Some(call) = self.calls.remove(&call) {
            // A caller that is gone has its answer in the journal.
            let _ = call
                .reply
                .send(Ok(call.results.into_iter().flatten().collect()));
        }
    }

    pub(super) fn plan_task(
        &mut self,
        op: TaskOp,
        ticket: Option<Ticket>,
        group: &mut Group,
    ) -> Option<Work> {
        if group.has_task(&op.id) {
            return Some(Work::Task { op, ticket });
        }
        let (row, last) = self.find_task(&op.id);
        let TaskOp { id, kind } = op;
        match kind {
            TaskOpKind::Create(new) => {
                if let Some(row) = row {
                    self.resolve(ticket, existing(row, &new.task));
                    return None;
                }
                if let Some(error) = self.storage_full() {
                    self.resolve(ticket, Err(error));
                    return None;
                }
                group.add_bytes(new.record.len());
                let draft = Draft {
                    entry: Entry::NewTask(new),
                    expect: Some(last),
                    supersedes: superseded(last),
                };
                group.touch_task(id);
                group.push(draft, ticket.map_or(Settle::Nothing, Settle::Item));
            }
            TaskOpKind::Event(mut event) => {
                let Some(row) = row else {
                    self.resolve(ticket, Err(gone(&id, &event)));
                    return None;
                };
                if ticket.is_none() && self.was_renewed(&id, &event) {
                    return None;
                }
                self.look_at_marks(&mut event);
                let random = self.random.u64(..);
                match next(&row.task, &event, self.now.wall_us, random) {
                    Ok(Changed::Not) => self.resolve(ticket, Ok(row)),
                    Err(error) => self.resolve(ticket, Err(error)),
                    Ok(Changed::To(task)) => {
                        let settle = match ticket {
                            Some(ticket) => Settle::Item(ticket),
                            None => Settle::Own(id, event),
                        };
                        self.push_record(&row, *task, settle, group);
                    }
                }
            }
        }
        None
    }

    /// Drafts a task's next record.
    pub(super) fn push_record(
        &mut self,
        row: &TaskRow,
        mut task: Task,
        settle: Settle,
        group: &mut Group,
    ) {
        task.create_revision = row.created.0;
        group.add_bytes(prost::Message::encoded_len(&task));
        group.touch_task(TaskId::trusted(&task.id));
        self.count_failures(&row.task, &task, group);
        // What holds its input or output stays as long as the task does.
        let supersedes = if task.is_kept_in(row.revision) {
            Vec::new()
        } else {
            vec![row.revision]
        };
        let draft = Draft {
            entry: Entry::Task(Box::new(task)),
            expect: Some(row.revision),
            supersedes,
        };
        group.push(draft, settle);
    }

    pub(super) fn plan_removal(&mut self, id: TaskId, group: &mut Group) -> Option<Work> {
        if group.has_task(&id) {
            return Some(Work::Remove(id));
        }
        let (row, _) = self.find_task(&id);
        let row = row.filter(|row| row.task.status().is_terminal())?;
        let removed = TaskRemoved {
            id: id.to_string(),
            uid: row.task.uid.to_bytes(),
            last_status: row.task.status() as i32,
        };
        let draft = Draft {
            entry: Entry::TaskRemoved(removed),
            expect: Some(row.revision),
            supersedes: entries_of(&row),
        };
        group.touch_task(id.clone());
        group.push(draft, Settle::Removal(id));
        None
    }

    /// The task, and the revision of its last entry, tombstones included.
    pub(super) fn find_task(&self, id: &TaskId) -> (Option<Arc<TaskRow>>, Revision) {
        let mirror = self.shared.mirror.read();
        match mirror.tasks.row(id) {
            Some((last, Content::Live(kept))) => (Some(kept.unpack(id, last)), last),
            Some((last, Content::Dead(_))) => (None, last),
            None => (None, Revision::ZERO),
        }
    }

    fn look_at_marks(&self, event: &mut Event) {
        if let Event::Finish {
            marks,
            marks_merged,
            ..
        } = event
        {
            *marks_merged = merged(&self.shared.mirror.read(), marks);
        }
    }

    /// Brings finishing tasks on: first their contributions, then, when those and the batches they
    /// name are part of the mirror, their end. Each step is an entry in a group of its own, and
    /// each is found missing and done again after a restart.
    pub(super) fn plan_finishing(&mut self, group: &mut Group) {
        if !std::mem::take(&mut self.finishing_due) {
            return;
        }
        let shared = self.shared.clone();
        let ids: Vec<_> = self
            .finishing
            .iter()
            .map(|(id, at)| (id.clone(), *at))
            .collect();
        for (id, deadline) in ids {
            if group.has_task(&id) || group.is_heavy() {
                self.finishing_due = true;
                continue;
            }
            let (Some(row), _) = self.find_task(&id) else {
                continue;
            };
            let Some(Phase::Finishing(finishing)) = &row.task.phase else {
                continue;
            };
            let mirror = shared.mirror.read();
            let missing = contributions_missing(&mirror, &shared.id, &row.task, finishing);
            if !missing.is_empty() {
                for (state, part) in missing {
                    if group.takes_parts(&state) {
                        plan_contribution(&mirror, group, &state, part);
                    } else {
                        self.finishing_due = true;
                    }
                }
                continue;
            }
            let merged = merged(&mirror, &finishing.marks);
            drop(mirror);
            if !merged && self.now.mono < deadline {
                continue;
            }
            let event = Event::Settle {
                flush_incomplete: !merged,
            };
            if let Ok(Changed::To(task)) = next(&row.task, &event, self.now.wall_us, 0) {
                self.push_record(&row, *task, Settle::Own(id, event), group);
            }
        }
    }
}

/// Contributions keep to the state's limits like everyone else.
fn plan_contribution(mirror: &Mirror, group: &mut Group, state: &StateId, mut part: Part) {
    let mut admitted = Admitted {
        ops: std::mem::take(&mut part.ops),
        rejected: Vec::new(),
    };
    limit(mirror.states.get(state), group, state, &mut admitted);
    part.ops = admitted.ops;
    part.rejected = admitted.rejected;
    group.push_part(state, part, PartSettle::Contribution);
}

/// Every entry of a task that still counts.
fn entries_of(row: &TaskRow) -> Vec<Revision> {
    let mut entries = vec![row.revision];
    for at in [row.task.input_at, row.task.output_at].map(Revision) {
        if at != Revision::ZERO && !entries.contains(&at) {
            entries.push(at);
        }
    }
    entries
}

fn superseded(last: Revision) -> Vec<Revision> {
    if last == Revision::ZERO {
        Vec::new()
    } else {
        vec![last]
    }
}

fn existing(row: Arc<TaskRow>, asked: &Task) -> Result<Arc<TaskRow>, Error> {
    if row.task.request_digest == asked.request_digest {
        return Ok(row);
    }
    Err(Error::new(
        Reason::TaskExists,
        format!(
            "task {} stands already and was made by a different request: choose another id",
            row.task.id
        ),
    )
    .with("task", &row.task.id))
}

/// The error for an event of a task that is not there: under a lease token, the lease is over.
fn gone(id: &TaskId, event: &Event) -> Error {
    match event {
        Event::Finish { .. } | Event::Release { .. } => Error::new(
            Reason::LeaseLost,
            format!("the lease on task {id} is over: the task is gone, stop the work"),
        )
        .with("task", id),
        _ => task_not_found(id),
    }
}

fn merged(mirror: &Mirror, marks: &[WriterMark]) -> bool {
    marks.iter().all(|mark| {
        let slot = mirror.states.get(mark.state.as_str());
        let writer = Uid::from_bytes(&mark.writer_id).unwrap_or_default();
        let position = slot.and_then(|slot| slot.state.writer(&writer));
        position.is_some_and(|position| position.sequence >= mark.sequence)
    })
}

/// The parts of a finishing task's contributions that no state holds yet.
fn contributions_missing(
    mirror: &Mirror,
    namespace: &NamespaceId,
    task: &Task,
    finishing: &Finishing,
) -> Vec<(StateId, Part)> {
    let uid = task.uid();
    let source = namespace.task_name(&task.id);
    let missing = finishing.contributions.iter().filter(|contribution| {
        let slot = mirror.states.get(contribution.state.as_str());
        !slot.is_some_and(|slot| slot.state.contributed(&uid))
    });
    missing
        .map(|contribution| {
            let part = Part {
                writer: Some(Writer::Contribution(task.uid.to_bytes())),
                first_sequence: 1,
                last_sequence: 1,
                ops: contribution.ops.clone(),
                source: source.clone(),
                ..Part::default()
            };
            (StateId::trusted(&contribution.state), part)
        })
        .collect()
}
