//! Tasks as clients see them.

use bytes::Bytes;
use prost::Message;

use super::{
    bounds::{set_timestamp, timestamp},
    failure::{OMITTED_BYTES, failure_out, leave_out, payload_out, trace_context_out},
};
use crate::{
    domain::{
        NamespaceId,
        limits::MAX_MESSAGE_BYTES,
        task::{Attempt, Payload, Phase},
        trace::{SpanRef, TaskSpan},
    },
    engine::{Aside, mirror::TaskRow},
    proto::v1 as pb,
};

/// What answers may weigh, with room for what is around the tasks.
const MAX_TASKS_BYTES: usize = MAX_MESSAGE_BYTES - (64 << 10);
/// A task that weighs more loses the stacks of its earlier attempts.
const MAX_TASK_BYTES: usize = MAX_MESSAGE_BYTES - (512 << 10);

/// How much of a task is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// All of it, for whoever asks for one task.
    Full,
    /// What a worker needs: the input, and what went wrong before in short.
    Work,
    /// For lists: stacks and causes are left out.
    Brief,
}

/// A task with what its record does not hold.
pub(crate) fn whole_task(namespace: &NamespaceId, row: &TaskRow, aside: Aside) -> pb::Task {
    let mut out = task(namespace, row, Detail::Work);
    fill(&mut out.input, aside.input);
    fill(&mut out.output, aside.output);
    // Without its payloads it was short enough already.
    let attempts = row.task.attempts.iter().map(attempt).collect();
    let short = std::mem::replace(&mut out.attempts, attempts);
    if out.encoded_len() > MAX_TASK_BYTES {
        out.attempts = short;
    }
    out
}

/// A task that was made a moment ago, without what its maker has just said of it.
pub(crate) fn made_task(namespace: &NamespaceId, row: &TaskRow) -> pb::Task {
    let task = &row.task;
    // Where the trace begins with the task, its creator does not know it yet.
    let own = TaskSpan::Create.id(task.uid());
    let root = task
        .trace_context
        .as_ref()
        .filter(|context| SpanRef::of(Some(context)).is_some_and(|span| span.span_id == own));
    pb::Task {
        name: namespace.task_name(&task.id),
        uid: task.uid().to_string(),
        r#type: task.r#type.clone(),
        queue: task.queue.clone(),
        status: task.status() as i32,
        trace_context: root.map(trace_context_out),
        create_time: Some(timestamp(task.create_us)),
        revision: row.revision.wire(),
        etag: format!("{:x}", row.revision.0),
        ..pb::Task::default()
    }
}

/// Puts data back where it was left out.
pub(super) fn fill(payload: &mut Option<pb::Payload>, data: Option<Bytes>) {
    if let (Some(payload), Some(data)) = (payload, data) {
        payload.metadata.remove(OMITTED_BYTES);
        payload.data = data;
    }
}

/// A task as it stands.
pub(crate) fn task(namespace: &NamespaceId, row: &TaskRow, detail: Detail) -> pb::Task {
    let task = &row.task;
    let last = task.attempts.last();
    let schedule_us = match &task.phase {
        Some(Phase::Scheduled(scheduled)) => scheduled.due_us,
        _ => task.schedule_us,
    };
    let mut out = pb::Task {
        name: namespace.task_name(&task.id),
        uid: task.uid().to_string(),
        r#type: task.r#type.clone(),
        queue: task.queue.clone(),
        input: payload(task.input.as_ref(), task.input_bytes),
        labels: task
            .labels
            .iter()
            .map(|label| (label.key.clone(), label.value.clone()))
            .collect(),
        policy: Some(policy(&task.policy)),
        state_name: match task.state.as_str() {
            "" => String::new(),
            state => namespace.state_name(state),
        },
        trace_context: task.trace_context.as_ref().map(trace_context_out),
        priority: i32::try_from(task.priority).unwrap_or_default(),
        fairness_key: task.fairness_key.clone(),
        concurrency_key: task.concurrency_key.clone(),
        schedule_time: set_timestamp(schedule_us),
        status: task.status() as i32,
        attempt: last.map_or(0, number),
        output: payload(task.output.as_ref(), task.output_bytes),
        failure: task.last_failure().map(failure_out),
        worker_id: last.map_or_else(String::new, |attempt| attempt.worker_id.clone()),
        create_time: Some(timestamp(task.create_us)),
        start_time: last.map(|attempt| timestamp(attempt.start_us)),
        end_time: set_timestamp(task.end_us),
        expire_time: set_timestamp(task.expire_us),
        revision: row.revision.wire(),
        etag: format!("{:x}", row.revision.0),
        cancel_requested: task.cancel.is_some(),
        attempts: task.attempts.iter().map(attempt).collect(),
        suspect_time: set_timestamp(task.suspect_us),
        flush_incomplete: task.flush_incomplete,
        retry_of: match task.retry_of.as_str() {
            "" => String::new(),
            task => namespace.task_name(task),
        },
        // Only for whoever asks for one task: it is not part of the record.
        queue_position: 0,
    };
    match detail {
        Detail::Full if out.encoded_len() <= MAX_TASK_BYTES => {}
        Detail::Full | Detail::Work => shorten_attempts(&mut out),
        Detail::Brief => {
            shorten_attempts(&mut out);
            shorten(out.failure.as_mut());
        }
    }
    out
}

/// A payload of a task; where its data is held elsewhere, it says how much that is.
fn payload(payload: Option<&Payload>, bytes_elsewhere: u64) -> Option<pb::Payload> {
    let mut out = payload_out(payload?);
    if out.data.is_empty() && bytes_elsewhere > 0 {
        let bytes = bytes_elsewhere.to_string();
        out.metadata.insert(OMITTED_BYTES.into(), bytes);
    }
    Some(out)
}

fn number(attempt: &Attempt) -> i32 {
    i32::try_from(attempt.number).unwrap_or(i32::MAX)
}

fn attempt(attempt: &Attempt) -> pb::Attempt {
    pb::Attempt {
        number: number(attempt),
        worker_id: attempt.worker_id.clone(),
        start_time: Some(timestamp(attempt.start_us)),
        end_time: set_timestamp(attempt.end_us),
        failure: attempt.failure.as_deref().map(failure_out),
        trace_context: attempt.trace_context.as_ref().map(trace_context_out),
    }
}

fn policy(policy: &crate::domain::task::Policy) -> pb::TaskPolicy {
    let micros = |micros: u64| {
        (micros != 0).then(|| super::duration(std::time::Duration::from_micros(micros)))
    };
    pb::TaskPolicy {
        max_attempts: i32::try_from(policy.max_attempts).unwrap_or(i32::MAX),
        attempt_timeout: micros(policy.attempt_timeout_us),
        total_timeout: micros(policy.total_timeout_us),
        lease_duration: micros(policy.lease_us),
        retry_initial_delay: micros(policy.retry_initial_us),
        retry_max_delay: micros(policy.retry_max_us),
        retention: micros(policy.retention_us),
        cancel_grace: Some(super::duration(policy.cancel_grace())),
    }
}

fn shorten_attempts(task: &mut pb::Task) {
    for attempt in &mut task.attempts {
        shorten(attempt.failure.as_mut());
    }
}

fn shorten(failure: Option<&mut pb::Failure>) {
    if let Some(failure) = failure {
        failure.stack_trace.clear();
        failure.details = None;
        failure.cause = None;
    }
}

/// Makes the tasks of one answer fit a message, losing payloads first. What was done is done: an
/// answer that does not fit would hide it.
pub(crate) fn fit<'a>(tasks: impl Iterator<Item = &'a mut pb::Task>) {
    let mut tasks: Vec<_> = tasks.collect();
    let weight = |tasks: &[&mut pb::Task]| -> usize {
        tasks.iter().map(|task| task.encoded_len() + 16).sum()
    };
    if weight(&tasks) <= MAX_TASKS_BYTES {
        return;
    }
    for task in &mut tasks {
        for payload in [&mut task.input, &mut task.output].into_iter().flatten() {
            if !payload.data.is_empty() {
                leave_out(&mut payload.metadata, &mut payload.data);
            }
        }
    }
    if weight(&tasks) <= MAX_TASKS_BYTES {
        return;
    }
    for task in &mut tasks {
        task.input = None;
        task.output = None;
        task.labels.clear();
        task.attempts.clear();
        task.failure = None;
        task.trace_context = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        Revision, Uid,
        task::{Failure, Task},
    };

    fn heavy() -> TaskRow {
        let failure = Failure {
            message: "m".repeat(16 << 10),
            stack_trace: "s".repeat(400 << 10),
            ..Failure::default()
        };
        let attempt = Attempt {
            failure: Some(Box::new(failure)),
            ..Attempt::default()
        };
        let input = Payload {
            content_type: "application/json".into(),
            data: vec![7; 1 << 20].into(),
            ..Payload::default()
        };
        let task = Task {
            id: "t".into(),
            input: Some(input),
            attempts: vec![attempt; 10],
            ..Task::default()
        };
        let mut task = task.begin(Uid(1), 1_000_000);
        task.set_aside(Revision(9));
        TaskRow {
            task,
            revision: Revision(9),
            created: Revision(9),
        }
    }

    #[test]
    fn the_heaviest_task_fits_a_message_and_a_thousand_of_them_another() {
        let namespace = NamespaceId::trusted("default");
        let aside = Aside {
            input: Some(vec![7; 1 << 20].into()),
            output: None,
        };
        let full = whole_task(&namespace, &heavy(), aside);
        assert!(
            full.encoded_len() <= MAX_TASK_BYTES,
            "{}",
            full.encoded_len()
        );
        assert_eq!(full.input.as_ref().unwrap().data.len(), 1 << 20);
        assert_eq!(full.name, "namespaces/default/tasks/t");
        assert!(full.input.as_ref().unwrap().metadata.is_empty());
        let mut tasks = vec![task(&namespace, &heavy(), Detail::Brief); 1_000];
        let input = tasks[0].input.as_ref().unwrap();
        assert_eq!(input.metadata["duite.omitted_bytes"], (1 << 20).to_string());
        assert_eq!(input.content_type, "application/json");
        fit(tasks.iter_mut());
        let weight: usize = tasks.iter().map(Message::encoded_len).sum();
        assert!(weight <= MAX_TASKS_BYTES, "{weight}");
        assert!(tasks.iter().all(|task| !task.name.is_empty()));
    }
}
