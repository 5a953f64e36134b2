//! What an error is on the wire: a code, a message, and `google.rpc` details that programs act on.

use std::{collections::HashMap, time::Duration};

use prost::Message;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::domain::{
    Error, Reason,
    error::{self},
};

/// `ErrorInfo.domain` of every error of this service.
pub(crate) const DOMAIN: &str = "duite";
/// Errors travel in HTTP/2 trailers, up to three times over and encoded; many clients take no more
/// than 8 KiB of them. What quotes a caller's own text may be longer and is cut.
const MAX_MESSAGE_CHARS: usize = 512;
const MAX_FACT_CHARS: usize = 256;

/// An error with its details, as a call ends with it.
#[must_use]
pub fn to_status(error: &Error) -> Status {
    let message = cut(&error.message, MAX_MESSAGE_CHARS);
    let facts: HashMap<String, String> = error
        .metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), cut(value, MAX_FACT_CHARS)))
        .collect();
    let mut details = ErrorDetails::with_error_info(error.reason.as_str(), DOMAIN, facts);
    if error.reason == Reason::FieldInvalid {
        let field = error.metadata.get("field").map_or("", String::as_str);
        details.add_bad_request_violation(cut(field, MAX_FACT_CHARS), message.clone());
    }
    if let Some(delay) = retry_delay(error.reason) {
        details.set_retry_info(Some(delay));
    }
    Status::with_error_details(code(error.reason.code()), message, details)
}

/// An error as an item of an answer carries it: code, message and details as [`to_status`].
#[must_use]
pub(crate) fn to_item(error: &Error) -> tonic_types::pb::Status {
    let status = to_status(error);
    tonic_types::pb::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::pb::Status {
        code: status.code() as i32,
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        to_status(&error)
    }
}

fn code(code: error::Code) -> Code {
    match code {
        error::Code::InvalidArgument => Code::InvalidArgument,
        error::Code::NotFound => Code::NotFound,
        error::Code::AlreadyExists => Code::AlreadyExists,
        error::Code::FailedPrecondition => Code::FailedPrecondition,
        error::Code::Aborted => Code::Aborted,
        error::Code::OutOfRange => Code::OutOfRange,
        error::Code::ResourceExhausted => Code::ResourceExhausted,
        error::Code::Unavailable => Code::Unavailable,
        error::Code::Unimplemented => Code::Unimplemented,
        error::Code::Internal => Code::Internal,
    }
}

/// How long to wait before the same call may succeed; none where waiting does not help.
fn retry_delay(reason: Reason) -> Option<Duration> {
    match reason {
        Reason::StreamDraining => Some(Duration::from_millis(200)),
        Reason::NotReady => Some(Duration::from_millis(500)),
        Reason::JournalUnavailable => Some(Duration::from_secs(1)),
        Reason::QuotaExceeded => Some(Duration::from_secs(2)),
        Reason::TooManyStreams | Reason::StorageFull => Some(Duration::from_secs(5)),
        _ => None,
    }
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_travels_with_its_code_and_info() {
        for reason in Reason::ALL {
            let error = Error::new(*reason, "what was wrong").with("key", "value");
            let status = to_status(&error);
            let info = status.get_details_error_info().unwrap();
            assert_eq!(
                (info.reason.as_str(), info.domain.as_str()),
                (reason.as_str(), DOMAIN)
            );
            assert_eq!(info.metadata["key"], "value");
            let transient = matches!(status.code(), Code::Unavailable);
            assert!(
                !transient || status.get_details_retry_info().is_some(),
                "{reason:?}"
            );
            let item = to_item(&error);
            assert_eq!(item.code, status.code() as i32);
            assert_eq!(item.message, "what was wrong");
            assert!(!item.details.is_empty());
        }
    }

    #[test]
    fn a_wrong_field_is_named_and_long_text_is_cut() {
        let error = Error::field("parent", format!("is {}", "é".repeat(100_000)));
        let status = to_status(&error);
        let request = status.get_details_bad_request().unwrap();
        assert_eq!(request.field_violations[0].field, "parent");
        assert!(status.message().ends_with('…'));
        assert!(status.details().len() < 4_096);
    }
}
