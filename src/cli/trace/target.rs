//! What `duite trace` is given: a task's name, a trace's id or a traceparent.

use tonic::Code;

use super::super::Error;
use crate::{client, domain::trace::SpanRef};

/// Digits of a trace's id.
const DIGITS: usize = 32;

#[derive(Debug, PartialEq)]
pub(super) enum Target<'a> {
    /// By name.
    Task(&'a str),
    /// By 32 lowercase hexadecimal digits.
    Trace(String),
}

impl<'a> Target<'a> {
    pub(super) fn of(typed: &'a str) -> Self {
        match trace_id(typed) {
            Ok(id) => Self::Trace(id),
            Err(_) => Self::Task(typed),
        }
    }
}

/// The id of a trace that is named by it or by one of its spans, as the API takes it.
pub(in super::super) fn trace_id(typed: &str) -> Result<String, String> {
    let typed = typed.trim();
    let lower = typed.to_ascii_lowercase();
    if let Some(span) = SpanRef::parse(&lower) {
        return Ok(format!("{:032x}", span.trace_id));
    }
    let is_id = lower.len() == DIGITS && lower.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id && lower.bytes().any(|byte| byte != b'0') {
        return Ok(lower);
    }
    Err("a trace is named by the 32 hexadecimal digits of its id, not all 0, or by a traceparent such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned())
}

/// Why there is no such task; what was meant for a trace may have been mistyped.
pub(super) fn not_found(typed: &str, error: client::Error) -> Error {
    let is_missing = error.code() == Code::NotFound || error.reason() == "FIELD_INVALID";
    let problem = Error::from(error);
    let looks_like_trace = (24..=60).contains(&typed.len())
        && typed
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        && uuid::Uuid::parse_str(typed).is_err();
    if is_missing && looks_like_trace {
        return problem.hint("if it was meant for a trace: an id has 32 hexadecimal digits, a traceparent is 00-ID-SPAN-FLAGS with 32, 16 and 2");
    }
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_trace_is_taken_by_its_id_or_a_traceparent_and_all_else_for_a_task() {
        let parent = format!("00-{ID}-00f067aa0ba902b7-01");
        for typed in [ID, &ID.to_uppercase(), &parent, &parent.to_uppercase()] {
            assert_eq!(Target::of(typed), Target::Trace(ID.to_owned()));
        }
        for typed in [
            "nightly",
            &ID[1..],
            &"0".repeat(32),
            &parent[1..],
            "0199a7f0-4bf9-7f35-a3ce-929d0e0e4736",
            "",
        ] {
            assert_eq!(Target::of(typed), Target::Task(typed));
        }
    }

    #[test]
    fn a_mistyped_trace_is_told_how_one_looks() {
        let error = || client::Error::new("GetTask", Code::NotFound, "TASK_NOT_FOUND", "none");
        let said = |typed: &str| not_found(typed, error()).to_string();
        assert!(said(&ID[1..]).contains("32 hexadecimal digits"));
        assert!(!said("nightly").contains("32 hexadecimal digits"));
        assert!(said("nightly").contains("`duite task list`"));
        assert!(said("0199a7f0-4bf9-7f35-a3ce-929d0e0e4736").contains("`duite task list`"));
    }
}
