//! Failures and payloads, both ways.
//!
//! A report of a failure is never refused for its size: it is cut, and says so where it was.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::bounds::{clamped, duration, set_timestamp, timestamp_in};
use crate::{
    domain::{
        Error, Reason,
        failure::location,
        limits::{
            MAX_CAUSES, MAX_FAILURE_MESSAGE_BYTES, MAX_ID_BYTES, MAX_PAYLOAD_BYTES, MAX_STACK_BYTES,
        },
        task::{Failure, FailureCategory, Payload, TraceContext},
        trace::SpanRef,
    },
    proto::v1 as pb,
};

/// Details beyond this are left out: ten failed attempts must fit one message.
const MAX_DETAILS_BYTES: usize = 64 << 10;
/// A cause's part of the whole is smaller: there may be eight of them.
const CAUSE_SHARE: usize = 8;
/// The longest pause a worker may wish for: a hundred years.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(100 * 365 * 86_400);
const MAX_METADATA: usize = 32;
const MAX_METADATA_BYTES: usize = 1 << 10;
const MAX_LOCATION_BYTES: usize = 256;
const MAX_TRACEPARENT_BYTES: usize = 128;
const MAX_TRACESTATE_BYTES: usize = 512;

/// A worker's account of a failure, within the limits, with its location where that can be found:
/// here, so that the monitor need not look for it.
pub(crate) fn failure_in(failure: pb::Failure) -> Failure {
    // Of the whole stack: where it is cut, the frame may be gone.
    let found = failure.location.is_empty().then(|| {
        let stack = Failure {
            stack_trace: failure.stack_trace.clone(),
            ..Failure::default()
        };
        cut(location(&stack), MAX_LOCATION_BYTES)
    });
    let mut failure = cut_failure(failure, 0);
    if let Some(found) = found {
        failure.location = found;
    }
    failure
}

fn cut_failure(failure: pb::Failure, depth: usize) -> Failure {
    let share = if depth == 0 { 1 } else { CAUSE_SHARE };
    let category = match FailureCategory::try_from(failure.category) {
        // The server alone knows that a lease was lost.
        Err(_) | Ok(FailureCategory::LeaseLost) => FailureCategory::Application,
        Ok(category) => category,
    };
    let time = failure.time.as_ref();
    let time_us = time.and_then(|time| timestamp_in("failure.time", time).ok());
    let delay = clamped(failure.retry_delay.as_ref());
    Failure {
        category: category as i32,
        r#type: cut(failure.r#type, MAX_ID_BYTES),
        message: cut(failure.message, MAX_FAILURE_MESSAGE_BYTES / share),
        stack_trace: cut_stack(failure.stack_trace, MAX_STACK_BYTES / share),
        runtime: cut(failure.runtime, MAX_ID_BYTES),
        retryable: failure.retryable,
        retry_delay_us: delay.map(|delay| {
            let delay = delay.min(MAX_RETRY_DELAY);
            u64::try_from(delay.as_micros()).unwrap_or(u64::MAX)
        }),
        metadata: cut_metadata(failure.metadata),
        details: failure.details.map(|details| cut_details(details, share)),
        trace_context: failure.trace_context.and_then(trace_context_in),
        attempt: 0,
        time_us: time_us.unwrap_or_default(),
        cause: failure
            .cause
            .filter(|_| depth < MAX_CAUSES)
            .map(|cause| Box::new(cut_failure(*cause, depth + 1))),
        location: cut(failure.location, MAX_LOCATION_BYTES),
    }
}

fn cut(mut text: String, limit: usize) -> String {
    if text.len() <= limit {
        return text;
    }
    let mark = format!("… (cut, {} bytes)", text.len());
    let mut end = limit.saturating_sub(mark.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str(&mark);
    text
}

/// A stack keeps both its ends: some languages begin with the frame that failed, others end with it.
fn cut_stack(stack: String, limit: usize) -> String {
    if stack.len() <= limit {
        return stack;
    }
    crate::domain::failure::cut_middle(&stack, limit)
}

fn cut_metadata(metadata: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let fits = metadata
        .into_iter()
        .filter(|(key, _)| key.len() <= MAX_ID_BYTES);
    fits.take(MAX_METADATA)
        .map(|(key, value)| (key, cut(value, MAX_METADATA_BYTES)))
        .collect()
}

fn cut_details(details: pb::Payload, share: usize) -> Payload {
    let mut details = copied(details);
    details.content_type = cut(details.content_type, MAX_METADATA_BYTES);
    details.metadata = cut_metadata(details.metadata);
    if details.data.len() > MAX_DETAILS_BYTES / share {
        leave_out(&mut details.metadata, &mut details.data);
    }
    details
}

/// Metadata of a payload whose data is not here: how many bytes it has.
pub(super) const OMITTED_BYTES: &str = "duite.omitted_bytes";

/// Says in a payload's metadata that its data is not here.
pub(super) fn leave_out(metadata: &mut BTreeMap<String, String>, data: &mut Bytes) {
    metadata.insert(OMITTED_BYTES.into(), data.len().to_string());
    *data = Bytes::new();
}

/// A task's input or output.
pub(super) fn payload_in(field: &'static str, payload: pb::Payload) -> Result<Payload, Error> {
    let metadata = payload.metadata.iter();
    let size = payload.content_type.len()
        + payload.data.len()
        + metadata
            .map(|(key, value)| key.len() + value.len())
            .sum::<usize>();
    if size > MAX_PAYLOAD_BYTES {
        return Err(Error::new(
            Reason::ValueTooLarge,
            format!("{field} has {size} bytes, {MAX_PAYLOAD_BYTES} are the limit: store it elsewhere and send where"),
        )
        .with("field", field)
        .with("size", size)
        .with("limit", MAX_PAYLOAD_BYTES));
    }
    Ok(copied(payload))
}

/// The data is a slice of the whole message, which would stay in memory as long as the task does.
fn copied(payload: pb::Payload) -> Payload {
    Payload {
        content_type: payload.content_type,
        data: Bytes::copy_from_slice(&payload.data),
        metadata: payload.metadata,
    }
}

/// A trace context; none where it is empty or not one: tracing never stops work.
pub(super) fn trace_context_in(context: pb::TraceContext) -> Option<TraceContext> {
    let tracestate = Some(context.tracestate).filter(|state| state.len() <= MAX_TRACESTATE_BYTES);
    let well_formed = context.traceparent.len() <= MAX_TRACEPARENT_BYTES
        && SpanRef::parse(&context.traceparent).is_some();
    well_formed.then(|| TraceContext {
        traceparent: context.traceparent,
        tracestate: tracestate.unwrap_or_default(),
    })
}

/// A failure as stored, to the wire.
pub(super) fn failure_out(failure: &Failure) -> pb::Failure {
    pb::Failure {
        category: failure.category,
        r#type: failure.r#type.clone(),
        message: failure.message.clone(),
        stack_trace: failure.stack_trace.clone(),
        runtime: failure.runtime.clone(),
        retryable: failure.retryable,
        retry_delay: failure
            .retry_delay_us
            .map(|micros| duration(std::time::Duration::from_micros(micros))),
        metadata: failure.metadata.clone(),
        details: failure.details.as_ref().map(payload_out),
        trace_context: failure.trace_context.as_ref().map(trace_context_out),
        attempt: i32::try_from(failure.attempt).unwrap_or(i32::MAX),
        time: set_timestamp(failure.time_us),
        cause: failure
            .cause
            .as_deref()
            .map(|cause| Box::new(failure_out(cause))),
        location: failure.location.clone(),
    }
}

/// A payload as stored, to the wire.
pub(super) fn payload_out(payload: &Payload) -> pb::Payload {
    pb::Payload {
        content_type: payload.content_type.clone(),
        data: payload.data.clone(),
        metadata: payload.metadata.clone(),
    }
}

/// A trace context as stored, to the wire.
pub(super) fn trace_context_out(context: &TraceContext) -> pb::TraceContext {
    pb::TraceContext {
        traceparent: context.traceparent.clone(),
        tracestate: context.tracestate.clone(),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn depth(failure: &Failure) -> usize {
        failure.cause.as_deref().map_or(0, |cause| 1 + depth(cause))
    }

    #[test]
    fn the_largest_failure_fits_a_message_ten_times_over() {
        let text = "é".repeat(1 << 20);
        let mut failure = pb::Failure::default();
        for _ in 0..20 {
            failure = pb::Failure {
                message: text.clone(),
                stack_trace: text.clone(),
                details: Some(pb::Payload {
                    data: vec![7; 1 << 20].into(),
                    ..Default::default()
                }),
                cause: Some(Box::new(failure)),
                category: 4,
                ..Default::default()
            };
        }
        let kept = failure_in(failure);
        assert_eq!(depth(&kept), MAX_CAUSES);
        assert!(kept.stack_trace.contains("… (cut, "));
        assert!(kept.stack_trace.len() <= MAX_STACK_BYTES);
        assert_eq!(kept.category, FailureCategory::Application as i32);
        assert_eq!(
            kept.details.as_ref().unwrap().metadata["duite.omitted_bytes"],
            (1 << 20).to_string()
        );
        assert!(kept.encoded_len() < 320 << 10, "{}", kept.encoded_len());
    }

    #[test]
    fn a_location_that_is_not_said_is_found_in_the_stack() {
        for (said, expected) in [("", "app.js:Solver.step"), ("x.js:f", "x.js:f")] {
            let failure = pb::Failure {
                stack_trace: "Error: x\n    at Solver.step (/app/app.js:2:28)".into(),
                location: said.into(),
                ..Default::default()
            };
            assert_eq!(failure_in(failure).location, expected);
        }
    }

    #[test]
    fn what_is_no_trace_context_is_left_out() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (traceparent, kept) in [
            (good, true),
            ("", false),
            ("00-xyz", false),
            (&"0".repeat(55), false),
            (&good.to_uppercase(), false),
            (
                &good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
                false,
            ),
            (&format!("{good}-more"), false),
        ] {
            let context = pb::TraceContext {
                traceparent: traceparent.into(),
                tracestate: String::new(),
            };
            assert_eq!(trace_context_in(context).is_some(), kept, "{traceparent}");
        }
    }

    #[test]
    fn a_stack_that_is_cut_shows_where_it_failed_and_the_place_is_of_the_whole() {
        let frame = |function: &str| {
            format!("  File \"/app/solver.py\", line 7, in {function}\n    recurse(n - 1)\n")
        };
        let stack = format!(
            "Traceback (most recent call last):\n{}{}ValueError: too deep\n",
            frame("recurse").repeat(3_000),
            frame("innermost"),
        );
        let kept = failure_in(pb::Failure {
            stack_trace: stack,
            ..pb::Failure::default()
        });
        assert_eq!(kept.location, "solver.py:innermost");
        assert!(kept.stack_trace.len() <= MAX_STACK_BYTES);
        assert!(kept.stack_trace.ends_with("ValueError: too deep\n"));
    }
}
