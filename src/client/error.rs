//! The one error of the client: what a call was answered with, and what to do about it.

use std::{collections::BTreeMap, error::Error as _, fmt, time::Duration};

use tonic::{Code, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, RpcStatusExt, StatusExt};

/// Why a call did not succeed.
///
/// Act on [`reason`](Error::reason), which is stable; the message is for people.
#[derive(Clone)]
pub struct Error {
    inner: Box<Inner>,
}

#[derive(Clone)]
struct Inner {
    operation: &'static str,
    code: Code,
    message: String,
    reason: String,
    metadata: BTreeMap<String, String>,
    violations: Vec<(String, String)>,
    retry_after: Option<Duration>,
}

impl Error {
    /// An error that the client itself found.
    pub(crate) fn new(
        operation: &'static str,
        code: Code,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            inner: Box::new(Inner {
                operation,
                code,
                message: message.into(),
                reason: reason.to_owned(),
                metadata: BTreeMap::new(),
                violations: Vec::new(),
                retry_after: None,
            }),
        }
    }

    pub(crate) fn invalid(operation: &'static str, message: impl Into<String>) -> Self {
        Self::new(operation, Code::InvalidArgument, "FIELD_INVALID", message)
    }

    /// The server's answer, or what the transport made of its absence.
    pub(crate) fn from_status(operation: &'static str, status: &Status) -> Self {
        // A status that came over the wire has no source. One that has was made on this side, of a
        // broken or refused connection, and tonic gives some of those the code UNKNOWN.
        if status.source().is_some() && status.code() != Code::DeadlineExceeded {
            let mut message = status.message().to_owned();
            let causes = std::iter::successors(status.source(), |cause| (**cause).source());
            // The call's own deadline, which the transport keeps too and calls CANCELLED.
            if causes.clone().any(|cause| cause.is::<TimeoutExpired>()) {
                let message = "no answer in time; it may still take effect";
                return Self::new(operation, Code::DeadlineExceeded, "DEADLINE", message);
            }
            if let Some(root) = causes.last().map(ToString::to_string)
                && !message.contains(&root)
            {
                message = format!("{message}: {root}");
            }
            return Self::new(operation, Code::Unavailable, "TRANSPORT", message);
        }
        let mut error = Self::new(operation, status.code(), "", status.message());
        error.take_details(status.get_error_details());
        error
    }

    /// The outcome of one item of a batch.
    pub(crate) fn from_item(operation: &'static str, status: &tonic_types::pb::Status) -> Self {
        let mut error = Self::new(operation, Code::from(status.code), "", &*status.message);
        error.take_details(status.get_error_details());
        error
    }

    fn take_details(&mut self, details: ErrorDetails) {
        if let Some(info) = details.error_info() {
            self.inner.reason.clone_from(&info.reason);
            self.inner.metadata = info
                .metadata
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
        }
        self.inner.retry_after = details.retry_info().and_then(|info| info.retry_delay);
        if let Some(request) = details.bad_request() {
            self.inner.violations = request
                .field_violations
                .iter()
                .map(|violation| (violation.field.clone(), violation.description.clone()))
                .collect();
        }
    }

    /// The call that failed, such as `CreateTask`.
    pub fn operation(&self) -> &'static str {
        self.inner.operation
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.inner.code
    }

    /// The stable reason, such as `TASK_NOT_FOUND`; `TRANSPORT` or `DEADLINE` where no server
    /// answered, empty where it gave none.
    pub fn reason(&self) -> &str {
        &self.inner.reason
    }

    /// What was wrong, for people.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// The figures and names behind the reason.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.inner.metadata
    }

    /// The fields that were wrong and why.
    pub fn violations(&self) -> &[(String, String)] {
        &self.inner.violations
    }

    /// How long the server asked to wait before another attempt.
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// Whether the same call may succeed later, unchanged.
    pub fn is_retryable(&self) -> bool {
        match self.inner.code {
            Code::Unavailable => true,
            Code::ResourceExhausted => self.inner.retry_after.is_some(),
            _ => false,
        }
    }

    /// Whether no later attempt of the same stream can succeed.
    pub(crate) fn ends_streams(&self) -> bool {
        matches!(
            self.inner.code,
            Code::InvalidArgument
                | Code::NotFound
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented
                | Code::FailedPrecondition
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            operation,
            code,
            message,
            reason,
            violations,
            ..
        } = &*self.inner;
        write!(formatter, "{operation}: {message}")?;
        for (field, description) in violations {
            if !message.contains(description) {
                write!(formatter, "; {field}: {description}")?;
            }
        }
        match reason.as_str() {
            "" => write!(formatter, " ({code:?})"),
            reason => write!(formatter, " ({reason})"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            operation,
            code,
            message,
            reason,
            metadata,
            ..
        } = &*self.inner;
        formatter
            .debug_struct("Error")
            .field("operation", operation)
            .field("code", code)
            .field("reason", reason)
            .field("message", message)
            .field("metadata", metadata)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_metadata_and_retry_come_from_the_details() {
        let details = ErrorDetails::with_error_info(
            "TASK_NOT_FOUND",
            "duite",
            [("task".to_owned(), "t9".to_owned())],
        );
        let status = Status::with_error_details(Code::NotFound, "no task t9", details);
        let error = Error::from_status("GetTask", &status);
        assert_eq!(
            (error.code(), error.reason()),
            (Code::NotFound, "TASK_NOT_FOUND")
        );
        assert_eq!(error.metadata()["task"], "t9");
        assert_eq!(error.to_string(), "GetTask: no task t9 (TASK_NOT_FOUND)");
        assert!(!error.is_retryable());
        let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(300)));
        let status = Status::with_error_details(Code::ResourceExhausted, "busy", details);
        let error = Error::from_status("CreateTask", &status);
        assert_eq!(error.retry_after(), Some(Duration::from_millis(300)));
        assert!(error.is_retryable());
    }

    #[test]
    fn a_broken_connection_is_unavailable_whatever_the_transport_called_it() {
        let broken = std::io::Error::new(std::io::ErrorKind::BrokenPipe, "broken pipe");
        let error = Error::from_status("GetTask", &Status::from_error(Box::new(broken)));
        assert_eq!(
            (error.code(), error.reason()),
            (Code::Unavailable, "TRANSPORT")
        );
        assert!(error.message().contains("broken pipe"));
    }
}
