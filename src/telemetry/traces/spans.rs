//! What each span of a task says.
//!
//! Names and attributes follow the messaging conventions where these have a word for it; they are
//! listed in docs/TRACES.md. A name holds the task type, never an id.

use std::borrow::Cow;

use opentelemetry::{
    KeyValue,
    trace::{SpanKind, Status},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{End, Merge, span_context, span_id, time};
use crate::{
    domain::{
        NamespaceId,
        task::{Attempt, Phase, Task},
        trace::{SpanRef, TaskSpan},
    },
    telemetry::export::scope,
};

/// A description is for people who skim; the whole message is in the exception's record.
const MAX_DESCRIPTION_BYTES: usize = 256;

struct Made<'a> {
    name: String,
    kind: SpanKind,
    span: SpanRef,
    parent: Option<u64>,
    /// The parent was made in another process.
    remote: bool,
    tracestate: &'a str,
    start_us: i64,
    end_us: i64,
    attributes: Vec<KeyValue>,
    status: Status,
}

impl Made<'_> {
    fn finish(self) -> SpanData {
        SpanData {
            span_context: span_context(self.span, self.tracestate, false),
            parent_span_id: span_id(self.parent.unwrap_or_default()),
            parent_span_is_remote: self.remote,
            span_kind: self.kind,
            name: Cow::Owned(self.name),
            start_time: time(self.start_us),
            // A clock that was put back makes no span of less than nothing.
            end_time: time(self.end_us.max(self.start_us)),
            attributes: self.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: self.status,
            instrumentation_scope: scope(),
        }
    }
}

pub(super) fn create(namespace: &NamespaceId, task: &Task, creator: SpanRef) -> SpanData {
    let own = TaskSpan::Create.id(task.uid);
    let is_root = creator.span_id == own;
    Made {
        name: format!("create {}", task.r#type),
        kind: SpanKind::Producer,
        span: creator.sibling(own),
        parent: (!is_root).then_some(creator.span_id),
        remote: !is_root,
        tracestate: tracestate(task),
        start_us: task.create_us,
        end_us: task.create_us,
        attributes: of_task(namespace, task, "create"),
        status: Status::Unset,
    }
    .finish()
}

/// The wait that the lease ends; `before` is the task as it waited.
pub(super) fn wait(
    namespace: &NamespaceId,
    before: &Task,
    task: &Task,
    attempt: &Attempt,
    creator: SpanRef,
) -> SpanData {
    let since_us = match &before.phase {
        Some(Phase::Queued(queued)) => queued.since_us,
        _ => attempt.start_us,
    };
    let mut attributes = of_task(namespace, task, "wait");
    attributes.push(attempt_number(attempt));
    Made {
        name: format!("wait {}", task.r#type),
        kind: SpanKind::Internal,
        span: creator.sibling(TaskSpan::Wait(attempt.fence).id(task.uid)),
        parent: Some(creator.span_id),
        remote: is_remote(task, creator),
        tracestate: tracestate(task),
        start_us: since_us,
        end_us: attempt.start_us,
        attributes,
        status: Status::Unset,
    }
    .finish()
}

pub(super) fn attempt(
    namespace: &NamespaceId,
    task: &Task,
    attempt: &Attempt,
    end: End<'_>,
    span: SpanRef,
    creator: SpanRef,
) -> SpanData {
    let mut attributes = of_task(namespace, task, "process");
    attributes.extend([
        attempt_number(attempt),
        KeyValue::new("worker.id", attempt.worker_id.clone()),
        KeyValue::new("duite.attempt.outcome", end.outcome()),
    ]);
    let status = match end {
        End::Failed(failure) => {
            attributes.push(KeyValue::new("error.type", failure.r#type.clone()));
            Status::error(described(&failure.message))
        }
        End::Succeeded | End::Cancelled | End::Released => Status::Unset,
    };
    // A lease that went back has left no end in the record: it ended as the task waited again.
    let end_us = match (attempt.end_us, &task.phase) {
        (0, Some(Phase::Queued(queued))) => queued.since_us,
        (0, _) => task.end_us,
        (end_us, _) => end_us,
    };
    Made {
        name: format!("process {}", task.r#type),
        kind: SpanKind::Consumer,
        span,
        parent: Some(creator.span_id),
        remote: is_remote(task, creator),
        tracestate: tracestate(task),
        start_us: attempt.start_us,
        end_us,
        attributes,
        status,
    }
    .finish()
}

pub(super) fn merge(namespace: &NamespaceId, merge: &Merge<'_>, parent: SpanRef) -> SpanData {
    let batches = i64::try_from(merge.batches).unwrap_or(i64::MAX);
    Made {
        name: "merge state".to_owned(),
        kind: SpanKind::Internal,
        span: parent.sibling(fastrand::u64(1..)),
        parent: Some(parent.span_id),
        remote: false,
        tracestate: tracestate(merge.task),
        start_us: merge.start_us,
        end_us: merge.end_us,
        attributes: vec![
            KeyValue::new("duite.namespace", namespace.to_string()),
            KeyValue::new("task.id", merge.task.id.clone()),
            KeyValue::new("state.id", merge.state.to_string()),
            KeyValue::new("duite.merge.batches", batches),
        ],
        status: Status::Unset,
    }
    .finish()
}

/// What all spans and records of a task say of it.
pub(super) fn of_task(
    namespace: &NamespaceId,
    task: &Task,
    operation: &'static str,
) -> Vec<KeyValue> {
    vec![
        KeyValue::new("messaging.system", "duite"),
        KeyValue::new("messaging.operation.name", operation),
        KeyValue::new("messaging.destination.name", task.queue.clone()),
        KeyValue::new("duite.namespace", namespace.to_string()),
        KeyValue::new("task.id", task.id.clone()),
        KeyValue::new("task.type", task.r#type.clone()),
    ]
}

pub(super) fn attempt_number(attempt: &Attempt) -> KeyValue {
    KeyValue::new("task.attempt", i64::from(attempt.number))
}

fn is_remote(task: &Task, creator: SpanRef) -> bool {
    creator.span_id != TaskSpan::Create.id(task.uid)
}

fn tracestate(task: &Task) -> &str {
    let context = task.trace_context.as_ref();
    context.map_or("", |context| context.tracestate.as_str())
}

fn described(message: &str) -> String {
    let mut end = message.len().min(MAX_DESCRIPTION_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}
