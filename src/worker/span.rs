//! The span that a handler runs in: a child of the attempt's span, which is the server's.
//!
//! With an OpenTelemetry layer the span is exported, and it is what the handler's own calls and the
//! failure name. Without one the attempt's span takes its place, so that tasks which a handler
//! submits are in its trace either way.

use std::future::Future;

use opentelemetry::{Context, context::FutureExt};
use tracing::{Instrument, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    client::short_name,
    proto::v1::{Task, TraceContext},
    runtime::{remote_context, span_trace_context, trace_id},
};

/// The span of one attempt's handler.
#[derive(Debug)]
pub(super) struct HandlerSpan {
    span: Span,
    context: Context,
    trace: Option<TraceContext>,
}

impl HandlerSpan {
    /// `attempt` is the context that the lease came with.
    pub(super) fn new(task: &Task, attempt: Option<TraceContext>) -> Self {
        // At the level of errors, so that every line has its fields whatever is filtered. It is in
        // the trace of its task, not of what the worker happens to do.
        let span = tracing::error_span!(
            parent: None,
            "handle",
            otel.name = format!("handle {}", task.r#type),
            otel.kind = "internal",
            task.id = short_name(&task.name),
            task.type = task.r#type,
            attempt = task.attempt,
            trace_id = field::Empty,
        );
        let remote = attempt.as_ref().and_then(remote_context);
        if let Some(remote) = &remote {
            // Without a layer there is nothing to set.
            let _ = span.set_parent(remote.clone());
        }
        let trace = span_trace_context(&span).or(attempt);
        if let Some(id) = trace.as_ref().and_then(trace_id) {
            span.record("trace_id", id);
        }
        Self {
            span,
            context: remote.unwrap_or_default(),
            trace,
        }
    }

    /// What children of the handler are children of.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.trace.clone()
    }

    /// Runs the future in it.
    pub(super) fn around<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        future.instrument(self.span).with_context(self.context)
    }
}
