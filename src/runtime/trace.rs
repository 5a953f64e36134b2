//! The span that code runs in, as it travels: W3C trace context in and out of OpenTelemetry's.

use std::sync::LazyLock;

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{domain::trace::SpanRef, proto::v1::TraceContext};

/// The context that the process was started in, where it was: the variables `TRACEPARENT` and
/// `TRACESTATE`, as tasks of the type `exec` have them.
static PROCESS: LazyLock<Option<TraceContext>> = LazyLock::new(|| {
    let context = TraceContext {
        traceparent: std::env::var("TRACEPARENT").ok()?,
        tracestate: std::env::var("TRACESTATE").unwrap_or_default(),
    };
    SpanRef::parse(&context.traceparent).map(|_| context)
});

/// What a call made here is to carry: the current span where an OpenTelemetry layer knows it, else
/// the context that OpenTelemetry holds for current, else the one that the process was started in.
pub(crate) fn current_trace_context() -> Option<TraceContext> {
    span_trace_context(&Span::current())
        .or_else(|| wire(Context::current().span().span_context()))
        .or_else(|| PROCESS.clone())
}

/// The span's own; none without an OpenTelemetry layer.
pub(crate) fn span_trace_context(span: &Span) -> Option<TraceContext> {
    if span.is_none() {
        return None;
    }
    wire(span.context().span().span_context())
}

/// What to run a future in so that calls it makes carry this context, also where no layer is
/// installed. None where it is not a context.
pub(crate) fn remote_context(trace: &TraceContext) -> Option<Context> {
    let SpanRef {
        trace_id,
        span_id,
        flags,
    } = SpanRef::parse(&trace.traceparent)?;
    let state = trace.tracestate.parse::<TraceState>().unwrap_or_default();
    let span = SpanContext::new(
        TraceId::from(trace_id),
        SpanId::from(span_id),
        TraceFlags::new(flags),
        true,
        state,
    );
    Some(Context::new().with_remote_span_context(span))
}

/// OpenTelemetry's current context, where a future that is spawned here would not find it by its
/// span.
pub(super) fn inherited() -> Option<Context> {
    let current = Context::current();
    let spans_know = !current.has_active_span() || span_trace_context(&Span::current()).is_some();
    (!spans_know).then_some(current)
}

/// The trace's id, for logs.
pub(crate) fn trace_id(trace: &TraceContext) -> Option<String> {
    SpanRef::parse(&trace.traceparent).map(|span| format!("{:032x}", span.trace_id))
}

fn wire(span: &SpanContext) -> Option<TraceContext> {
    if !span.is_valid() {
        return None;
    }
    let reference = SpanRef {
        trace_id: u128::from_be_bytes(span.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(span.span_id().to_bytes()),
        flags: span.trace_flags().to_u8(),
    };
    Some(TraceContext {
        traceparent: reference.to_string(),
        tracestate: span.trace_state().header(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_goes_in_and_out_unchanged() {
        let trace = TraceContext {
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
            tracestate: "vendor=1".to_owned(),
        };
        let attached = remote_context(&trace).unwrap().attach();
        assert_eq!(current_trace_context(), Some(trace.clone()));
        drop(attached);
        assert_eq!(current_trace_context(), None);
        assert_eq!(
            trace_id(&trace).unwrap(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert!(remote_context(&TraceContext::default()).is_none());
    }
}
