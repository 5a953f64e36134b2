//! Log records tied to the spans of attempts: that one has started, and what it failed with.
//!
//! A span is sent when it ends. The record of its start is sent at once, so that a trace shows a task
//! while it runs. Failures are records and not events of the span, as the semantic conventions ask:
//! <https://opentelemetry.io/docs/specs/semconv/exceptions/exceptions-logs/>.

use opentelemetry::{
    logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity},
    trace::TraceFlags,
};
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};

use super::{
    span_id,
    spans::{attempt_number, of_task},
    time, trace_id,
};
use crate::{
    domain::{
        NamespaceId,
        task::{Attempt, Failure, Task},
        trace::SpanRef,
    },
    telemetry::export::scope,
};

#[derive(Debug)]
pub(super) struct Records {
    logger: SdkLogger,
}

impl Records {
    pub(super) fn new(provider: &SdkLoggerProvider) -> Self {
        let logger = provider.logger_with_scope(scope());
        Self { logger }
    }

    pub(super) fn started(
        &self,
        namespace: &NamespaceId,
        task: &Task,
        attempt: &Attempt,
        span: SpanRef,
    ) {
        let mut record = self.logger.create_log_record();
        record.set_event_name("duite.attempt.started");
        record.set_severity_number(Severity::Info);
        record.set_severity_text("INFO");
        record.set_timestamp(time(attempt.start_us));
        record.set_body(AnyValue::from("attempt started"));
        self.emit(namespace, task, Some(attempt), Some(span), record);
    }

    pub(super) fn exception(
        &self,
        namespace: &NamespaceId,
        task: &Task,
        attempt: Option<&Attempt>,
        failure: &Failure,
        span: Option<SpanRef>,
    ) {
        let mut record = self.logger.create_log_record();
        record.set_event_name("duite.attempt.exception");
        // Another attempt may mend it.
        let severity = match task.status().is_terminal() {
            true => (Severity::Error, "ERROR"),
            false => (Severity::Warn, "WARN"),
        };
        record.set_severity_number(severity.0);
        record.set_severity_text(severity.1);
        record.set_timestamp(time(failure.time_us));
        record.set_body(AnyValue::from("attempt failed"));
        record.add_attribute("error.type", failure.r#type.clone());
        record.add_attribute("exception.type", failure.r#type.clone());
        record.add_attribute("exception.message", failure.message.clone());
        if !failure.stack_trace.is_empty() {
            record.add_attribute("exception.stacktrace", failure.stack_trace.clone());
        }
        self.emit(namespace, task, attempt, span, record);
    }

    fn emit(
        &self,
        namespace: &NamespaceId,
        task: &Task,
        attempt: Option<&Attempt>,
        span: Option<SpanRef>,
        mut record: opentelemetry_sdk::logs::SdkLogRecord,
    ) {
        if let Some(span) = span {
            let flags = TraceFlags::new(span.flags);
            record.set_trace_context(trace_id(span), span_id(span.span_id), Some(flags));
        }
        for one in of_task(namespace, task, "process") {
            record.add_attribute(one.key, AnyValue::from(one.value.as_str().into_owned()));
        }
        if let Some(attempt) = attempt {
            let number = attempt_number(attempt);
            record.add_attribute(number.key, AnyValue::Int(i64::from(attempt.number)));
            record.add_attribute("worker.id", attempt.worker_id.clone());
        }
        self.logger.emit(record);
    }
}
