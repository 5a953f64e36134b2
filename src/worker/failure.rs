//! What a handler returns: an output, or a failure with what is known of its cause.

use std::{borrow::Cow, error::Error, panic::Location, time::Duration};

use bytes::Bytes;

use crate::{
    client::Value,
    proto::v1::{Failure, Payload, TraceContext, failure::Category},
    runtime::{Origin, Panic, RUNTIME, TaskError, cut},
};

/// A message is for people; longer ones belong into the details.
const MAX_MESSAGE_BYTES: usize = 16 << 10;
/// The API's limit for a failure's details.
pub(super) const MAX_DETAILS_BYTES: usize = 64 << 10;

/// What a task gives back.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output(pub(super) Payload);

impl Output {
    /// Bytes of a content type.
    pub fn bytes(content_type: impl Into<String>, data: impl Into<Bytes>) -> Self {
        let content_type = content_type.into();
        Self(Payload {
            content_type,
            data: data.into(),
            ..Payload::default()
        })
    }
}

impl From<()> for Output {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl From<Payload> for Output {
    fn from(payload: Payload) -> Self {
        Self(payload)
    }
}

impl From<serde_json::Value> for Output {
    fn from(json: serde_json::Value) -> Self {
        Self::bytes("application/json", json.to_string())
    }
}

impl From<Value> for Output {
    fn from(value: Value) -> Self {
        crate::client::from_value(&value).into()
    }
}

/// Why an attempt did not succeed. Any error becomes one with `?`: retryable, with its type, message
/// and causes, and with the file that the `?` stands in. Where `RUST_LIB_BACKTRACE` or
/// `RUST_BACKTRACE` asks for it, also with its stack and the function.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a failure is told by returning it"]
pub struct TaskFailure {
    failure: Box<Failure>,
    /// What the log says in place of a message that may hold what no log may.
    logged: Option<Cow<'static, str>>,
}

impl TaskFailure {
    /// A failure of a type, a word of low cardinality such as `mesh.invalid`.
    #[track_caller]
    pub fn new(failure_type: impl Into<String>, message: impl Into<String>) -> Self {
        let origin = Origin::at(Location::caller());
        let failure = Failure {
            category: Category::Application.into(),
            r#type: failure_type.into(),
            message: cut(message.into(), MAX_MESSAGE_BYTES),
            runtime: RUNTIME.to_owned(),
            retryable: true,
            location: origin.location,
            stack_trace: origin.stack,
            ..Failure::default()
        };
        Self::of_wire(failure)
    }

    /// The attempt stopped because it was asked to: the task is then CANCELLED, and this is kept
    /// with it.
    #[track_caller]
    pub fn cancelled() -> Self {
        Self::new("cancelled", "stopped on request")
            .permanent()
            .category(Category::Cancelled)
    }

    fn of_wire(failure: Failure) -> Self {
        Self {
            failure: Box::new(failure),
            logged: None,
        }
    }

    /// What a panicking handler comes to.
    pub(super) fn panic(panic: Panic) -> Self {
        Self::of_wire(TaskError::from(panic).to_wire())
    }

    /// It arises in the library, whose code is not the task's: `place` is the nearest thing that is the
    /// task's own, or empty.
    pub(super) fn of_library(mut self, place: &str) -> Self {
        self.failure.location = place.to_owned();
        self.failure.stack_trace.clear();
        self
    }

    /// What the log is to say in place of the message.
    pub(super) fn logged_as(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.logged = Some(text.into());
        self
    }

    /// What the log may say of it.
    pub(super) fn logged(&self) -> &str {
        self.logged.as_deref().unwrap_or(&self.failure.message)
    }

    pub(super) fn failure_type(&self) -> &str {
        &self.failure.r#type
    }

    pub(super) fn location(&self) -> &str {
        &self.failure.location
    }

    pub(super) fn is_cancel(&self) -> bool {
        self.failure.category() == Category::Cancelled
    }

    /// Trying again cannot help.
    pub fn permanent(mut self) -> Self {
        self.failure.retryable = false;
        self
    }

    /// Trying again may help. The default.
    pub fn retryable(mut self) -> Self {
        self.failure.retryable = true;
        self
    }

    /// When to try again, in place of the task's policy.
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.failure.retry_delay = Some(crate::client::wire_duration(delay));
        self
    }

    /// The category. Default: APPLICATION.
    pub fn category(mut self, category: Category) -> Self {
        self.failure.category = category.into();
        self
    }

    /// The type, in place of the error's Rust type.
    pub fn with_type(mut self, failure_type: impl Into<String>) -> Self {
        self.failure.r#type = failure_type.into();
        self
    }

    /// What else is known, by key.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.failure.metadata.insert(key.into(), value.into());
        self
    }

    /// What else is known, as a payload.
    pub fn details(mut self, details: impl Into<Output>) -> Self {
        self.failure.details = Some(details.into().0);
        self
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.failure.message
    }

    pub(super) fn into_wire(mut self, trace: Option<TraceContext>, attempt: i32) -> Failure {
        if let Some(details) = &mut self.failure.details
            && details.data.len() > MAX_DETAILS_BYTES
        {
            // As the server would leave them out, but the call stays within its limit.
            let bytes = details.data.len().to_string();
            details
                .metadata
                .insert("duite.omitted_bytes".to_owned(), bytes);
            details.data = Bytes::new();
        }
        Failure {
            trace_context: trace,
            attempt,
            time: Some(std::time::SystemTime::now().into()),
            ..*self.failure
        }
    }
}

impl<E: Error + 'static> From<E> for TaskFailure {
    #[track_caller]
    fn from(error: E) -> Self {
        let origin = Origin::at(Location::caller());
        Self::of_wire(TaskError::of(&error, origin).to_wire())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the mesh could not be read")]
    struct MeshError(#[source] std::io::Error);

    #[test]
    fn an_error_becomes_a_retryable_failure_with_its_causes() {
        let failure = TaskFailure::from(MeshError(std::io::Error::other("disk on fire")));
        let wire = failure.into_wire(None, 3);
        assert!(wire.r#type.ends_with("MeshError"), "{}", wire.r#type);
        assert_eq!(
            (wire.message.as_str(), wire.attempt),
            ("the mesh could not be read", 3)
        );
        assert_eq!(wire.cause.unwrap().message, "disk on fire");
        assert!(wire.retryable);
        assert_eq!(wire.category, i32::from(Category::Application));
        assert!(wire.runtime.starts_with("rust/"));
    }

    #[test]
    fn details_that_are_too_large_are_left_out_and_counted() {
        let details = Output::bytes("text/plain", vec![b'x'; MAX_DETAILS_BYTES + 1]);
        let wire = TaskFailure::new("large", "see details")
            .details(details)
            .into_wire(None, 1);
        let details = wire.details.unwrap();
        assert!(details.data.is_empty());
        assert_eq!(details.metadata["duite.omitted_bytes"], "65537");
    }

    #[test]
    fn a_failure_knows_the_file_of_its_question_mark() {
        fn read() -> Result<u32, TaskFailure> {
            Ok("x".parse::<u32>()?)
        }
        let wire = read().unwrap_err().into_wire(None, 1);
        assert!(wire.location.starts_with("failure.rs"), "{wire:?}");
        let made = TaskFailure::new("mesh.invalid", "empty").into_wire(None, 1);
        assert!(made.location.starts_with("failure.rs"), "{made:?}");
    }

    #[tokio::test]
    async fn it_does_so_in_async_code_too() {
        let read = async { Ok::<u32, TaskFailure>("x".parse::<u32>()?) };
        let wire = read.await.unwrap_err().into_wire(None, 1);
        assert!(wire.location.starts_with("failure.rs"), "{wire:?}");
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let failure = TaskFailure::new("long", "ä".repeat(MAX_MESSAGE_BYTES)).permanent();
        assert!(failure.message().len() <= MAX_MESSAGE_BYTES);
        assert!(failure.message().ends_with(" bytes)"));
        assert!(!failure.into_wire(None, 1).retryable);
    }
}
