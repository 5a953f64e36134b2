//! What is logged of an attempt: that it started, so that a trace shows a task while it runs, and
//! why it failed, once.

use opentelemetry::{
    Key,
    logs::{AnyValue, LogRecord, Severity},
    trace::{SpanId, TraceFlags, TraceId},
};
use opentelemetry_sdk::logs::SdkLogRecord;
use parking_lot::Mutex;

use super::{
    Told,
    spans::{common, time},
};
use crate::domain::{
    task::{Attempt, Failure, FailureCategory},
    trace::SpanRef,
};

/// Failed attempts that are written to standard error in one second; of further ones only how many
/// there were. Every one is stored with its task.
const MAX_LINES_PER_SECOND: u32 = 100;

/// Where log lines of failed attempts come from. They are not exported: the record is.
pub(in crate::telemetry) const LINES_TARGET: &str = "duite::attempt";

/// An attempt that was stopped on request did not fail.
pub(super) fn is_stop(failure: &Failure) -> bool {
    failure.category == FailureCategory::Cancelled as i32
}

/// As the semantic conventions want it: never empty.
pub(super) fn error_type(failure: &Failure) -> String {
    match failure.r#type.as_str() {
        "" => "_OTHER".to_owned(),
        given => given.to_owned(),
    }
}

/// An attempt started.
pub(super) fn started(record: &mut SdkLogRecord, told: Told<'_>, attempt: &Attempt, span: SpanRef) {
    fill(record, told, Some(attempt), Some(span));
    record.set_event_name("duite.attempt.started");
    record.set_timestamp(time(attempt.start_us));
    record.set_severity_number(Severity::Info);
    record.set_severity_text("INFO");
    record.set_body(AnyValue::from("attempt started"));
}

/// An attempt failed, or a task without one; `is_final`: no other follows.
pub(super) fn failed(
    record: &mut SdkLogRecord,
    told: Told<'_>,
    attempt: Option<&Attempt>,
    failure: &Failure,
    span: Option<SpanRef>,
    is_final: bool,
) {
    fill(record, told, attempt, span);
    record.set_event_name("duite.attempt.exception");
    record.set_timestamp(time(ended_us(attempt, failure)));
    let severity = match is_final {
        true => Severity::Error,
        false => Severity::Warn,
    };
    record.set_severity_number(severity);
    record.set_severity_text(severity.name());
    record.set_body(AnyValue::from(what_failed(attempt)));
    let error = error_type(failure);
    record.add_attribute("error.type", error.clone());
    record.add_attribute("exception.type", error);
    record.add_attribute("exception.message", failure.message.clone());
    if !failure.stack_trace.is_empty() {
        record.add_attribute("exception.stacktrace", failure.stack_trace.clone());
    }
}

fn ended_us(attempt: Option<&Attempt>, failure: &Failure) -> i64 {
    attempt.map_or(failure.time_us, |attempt| attempt.end_us)
}

fn what_failed(attempt: Option<&Attempt>) -> &'static str {
    match attempt {
        Some(_) => "attempt failed",
        None => "task failed without an attempt",
    }
}

fn fill(
    record: &mut SdkLogRecord,
    told: Told<'_>,
    attempt: Option<&Attempt>,
    span: Option<SpanRef>,
) {
    for pair in common(told) {
        record.add_attribute(pair.key, AnyValue::from(pair.value.as_str().into_owned()));
    }
    if let Some(attempt) = attempt {
        let number = i64::from(attempt.number);
        record.add_attribute(Key::new("duite.attempt.number"), AnyValue::from(number));
        record.add_attribute("worker.id", attempt.worker_id.clone());
    }
    if let Some(span) = span {
        record.set_trace_context(
            TraceId::from_bytes(span.trace_id.to_be_bytes()),
            SpanId::from_bytes(span.span_id.to_be_bytes()),
            Some(TraceFlags::new(span.flags)),
        );
    }
}

/// The lines of failed attempts on standard error, at most so many a second.
#[derive(Debug, Default)]
pub(super) struct FailureLines(Mutex<Second>);

/// What was written in one second of the records' own time.
#[derive(Debug, Default)]
struct Second {
    second: i64,
    lines: u32,
    left_out: u64,
}

/// What to write of one failure.
#[derive(Debug, PartialEq)]
struct Turn {
    /// The failure itself.
    line: bool,
    /// How many were left out before.
    left_out: u64,
}

impl FailureLines {
    pub(super) fn write(
        &self,
        told: Told<'_>,
        attempt: Option<&Attempt>,
        failure: &Failure,
        span: Option<SpanRef>,
    ) {
        let second = ended_us(attempt, failure) / 1_000_000;
        let turn = self.0.lock().turn(second);
        if turn.left_out > 0 {
            tracing::warn!(
                target: LINES_TARGET,
                left_out = turn.left_out,
                "more attempts failed than are logged one by one"
            );
        }
        if turn.line {
            // Not the message: it may quote what the task was given, and that is never logged. It is
            // stored with the task, and grouped.
            let trace_id = span.map(|span| format!("{:032x}", span.trace_id));
            tracing::warn!(
                target: LINES_TARGET,
                namespace = %told.namespace,
                task.id = told.task.id,
                task.type = told.task.r#type,
                attempt = attempt.map(|attempt| attempt.number),
                worker.id = attempt.map(|attempt| &*attempt.worker_id),
                error.type = error_type(failure),
                error.location = failure.location,
                trace_id,
                "{}",
                what_failed(attempt)
            );
        }
    }
}

impl Second {
    fn turn(&mut self, second: i64) -> Turn {
        let mut left_out = 0;
        if self.second != second {
            left_out = self.left_out;
            *self = Self {
                second,
                ..Self::default()
            };
        }
        let line = self.lines < MAX_LINES_PER_SECOND;
        if line {
            self.lines += 1;
        } else {
            self.left_out += 1;
        }
        Turn { line, left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_what_is_left_out_is_told_in_the_next_second() {
        let mut second = Second::default();
        let written = (0..250).filter(|_| second.turn(7).line).count();
        assert_eq!(written, 100);
        let told = Turn {
            line: true,
            left_out: 150,
        };
        assert_eq!(second.turn(8), told);
        assert_eq!(second.turn(8).left_out, 0);
    }
}
