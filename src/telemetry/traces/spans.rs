//! What the spans of a task say.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::{Told, records::error_type};
use crate::{
    domain::{
        task::{Attempt, Phase, Task},
        trace::{SpanRef, TaskSpan},
    },
    telemetry::{Merge, otlp::SCOPE},
};

/// A time of a record.
pub(super) fn time(us: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

/// What every span and record of a task says.
pub(super) fn common(told: Told<'_>) -> [KeyValue; 5] {
    let task = told.task;
    [
        KeyValue::new("messaging.system", "duite"),
        KeyValue::new("messaging.destination.name", task.queue.clone()),
        KeyValue::new("duite.namespace", told.namespace.to_string()),
        KeyValue::new("task.id", task.id.clone()),
        KeyValue::new("task.type", task.r#type.clone()),
    ]
}

fn of_attempt(attempt: &Attempt) -> [KeyValue; 2] {
    [
        KeyValue::new("duite.attempt.number", i64::from(attempt.number)),
        KeyValue::new("worker.id", attempt.worker_id.clone()),
    ]
}

/// The creation, a root where nobody submitted the task within a trace.
pub(super) fn create(told: Told<'_>, creator: SpanRef) -> SpanData {
    let own = TaskSpan::Create.id(told.task.uid());
    let start = told.task.create_us;
    let name = format!("create {}", told.task.r#type);
    let mut span = span(told, creator, own, name, start, start);
    if creator.span_id == own {
        span.parent_span_id = SpanId::INVALID;
        span.parent_span_is_remote = false;
    }
    span.span_kind = SpanKind::Producer;
    span.attributes
        .push(KeyValue::new("messaging.operation.type", "create"));
    span
}

/// The wait in the queue before a lease.
pub(super) fn wait(told: Told<'_>, creator: SpanRef, attempt: &Attempt, since_us: i64) -> SpanData {
    let own = TaskSpan::Wait(attempt.fence).id(told.task.uid());
    let name = format!("wait {}", told.task.r#type);
    let mut span = span(told, creator, own, name, since_us, attempt.start_us);
    span.attributes.extend(of_attempt(attempt));
    span
}

/// One attempt. `now` is what became of it; none: its lease was given back.
pub(super) fn attempt(
    told: Told<'_>,
    creator: SpanRef,
    was: &Attempt,
    now: Option<&Attempt>,
    after: Option<&Task>,
) -> SpanData {
    let own = TaskSpan::Attempt(was.fence).id(told.task.uid());
    let end_us = match (now, after.and_then(|task| task.phase.as_ref())) {
        (Some(now), _) => now.end_us,
        (None, Some(Phase::Queued(queued))) => queued.since_us,
        (None, Some(Phase::Terminal(_))) => after.map_or(was.start_us, |task| task.end_us),
        (None, _) => was.start_us,
    };
    let name = format!("process {}", told.task.r#type);
    let mut span = span(told, creator, own, name, was.start_us, end_us);
    span.span_kind = SpanKind::Consumer;
    span.attributes.extend(of_attempt(was));
    span.attributes
        .push(KeyValue::new("messaging.operation.type", "process"));
    let failure = now.and_then(|now| now.failure.as_deref());
    let outcome = match (now, failure) {
        (None, _) => "released",
        (Some(_), None) => "succeeded",
        (Some(_), Some(failure)) if super::records::is_stop(failure) => "cancelled",
        (Some(_), Some(_)) => "failed",
    };
    span.attributes
        .push(KeyValue::new("duite.attempt.outcome", outcome));
    if let Some(failure) = failure
        && outcome == "failed"
    {
        span.attributes
            .push(KeyValue::new("error.type", error_type(failure)));
        span.status = Status::error(failure.message.clone());
    }
    let status = after.map(Task::status);
    if let Some(status) = status.filter(|status| status.is_terminal()) {
        span.attributes
            .push(KeyValue::new("task.status", status.to_string()));
    }
    span
}

/// A merge of what an attempt has pushed, child of the attempt's span. What counts is when.
pub(super) fn merge(told: Told<'_>, attempt: SpanRef, merge: &Merge<'_>) -> SpanData {
    let name = format!("merge {}", merge.state);
    let own = fastrand::u64(1..);
    let mut span = span(told, attempt, own, name, merge.time_us, merge.time_us);
    span.parent_span_is_remote = false;
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    span.attributes.extend([
        KeyValue::new("duite.state", merge.state.to_string()),
        KeyValue::new("duite.revision", number(merge.revision.0)),
        KeyValue::new("duite.merge.bytes", number(merge.bytes as u64)),
    ]);
    span
}

/// An internal span, child of the creator's.
fn span(
    told: Told<'_>,
    creator: SpanRef,
    own: u64,
    name: String,
    start_us: i64,
    end_us: i64,
) -> SpanData {
    let context = told.task.trace_context.as_ref();
    let state = context.map(|context| context.tracestate.as_str());
    SpanData {
        span_context: span_context(creator.sibling(own), state.unwrap_or_default()),
        parent_span_id: SpanId::from_bytes(creator.span_id.to_be_bytes()),
        parent_span_is_remote: creator.span_id != TaskSpan::Create.id(told.task.uid()),
        span_kind: SpanKind::Internal,
        name: Cow::Owned(name),
        start_time: time(start_us),
        // The wall clock may have been set back.
        end_time: time(end_us.max(start_us)),
        attributes: common(told).into(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder(SCOPE)
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

fn span_context(span: SpanRef, tracestate: &str) -> SpanContext {
    let state = match tracestate {
        "" => TraceState::NONE,
        text => text.parse().unwrap_or(TraceState::NONE),
    };
    SpanContext::new(
        TraceId::from_bytes(span.trace_id.to_be_bytes()),
        SpanId::from_bytes(span.span_id.to_be_bytes()),
        TraceFlags::new(span.flags),
        false,
        state,
    )
}
