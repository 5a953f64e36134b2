//! What a handler returns: an output, or a failure with what is known of its cause.

use std::{error::Error, time::Duration};

use bytes::Bytes;

use crate::{
    client::Value,
    proto::v1::{Failure, Payload, TraceContext, failure::Category},
    runtime::{TaskError, short_type_name},
};

/// The API keeps at most this many causes.
const MAX_CAUSES: usize = 8;
/// A message is for people; longer ones belong into the details.
const MAX_MESSAGE_BYTES: usize = 16 << 10;
/// The API's limit for a failure's details.
pub(super) const MAX_DETAILS_BYTES: usize = 64 << 10;
const RUNTIME: &str = concat!("rust/", env!("CARGO_PKG_RUST_VERSION"));

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

/// Why an attempt did not succeed. Any error becomes one with `?`: of the category APPLICATION,
/// retryable, with its type, message and causes.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a failure is told by returning it"]
pub struct TaskFailure {
    failure: Box<Failure>,
}

impl TaskFailure {
    /// A failure of a type, a word of low cardinality such as `mesh.invalid`.
    pub fn new(failure_type: impl Into<String>, message: impl Into<String>) -> Self {
        let failure = Failure {
            category: Category::Application.into(),
            r#type: failure_type.into(),
            message: cut(message.into()),
            runtime: RUNTIME.to_owned(),
            retryable: true,
            ..Failure::default()
        };
        Self {
            failure: Box::new(failure),
        }
    }

    /// The attempt stopped because it was asked to: the task is then CANCELLED, and this is kept
    /// with it.
    pub fn cancelled() -> Self {
        Self::new("cancelled", "stopped on request")
            .permanent()
            .category(Category::Cancelled)
    }

    /// What a panicking handler comes to.
    pub(super) fn panic(message: String) -> Self {
        Self::new("panic", message)
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
    fn from(error: E) -> Self {
        let mut failure = Self::new(type_of(&error), error.to_string());
        let causes = std::iter::successors(error.source(), |cause: &&dyn Error| (**cause).source());
        let causes: Vec<String> = causes.take(MAX_CAUSES).map(ToString::to_string).collect();
        failure.failure.cause = causes
            .into_iter()
            .rev()
            .fold(None, |cause, message| {
                let message = cut(message);
                let failure = Failure {
                    category: Category::Application.into(),
                    r#type: "cause".to_owned(),
                    message,
                    runtime: RUNTIME.to_owned(),
                    cause: cause.map(Box::new),
                    ..Failure::default()
                };
                Some(failure)
            })
            .map(Box::new);
        failure
    }
}

/// The Rust type, or what a decorated task's error says of it.
fn type_of<E: Error + 'static>(error: &E) -> String {
    match (error as &(dyn Error + 'static)).downcast_ref::<TaskError>() {
        Some(caught) => caught.error_type().to_owned(),
        None => short_type_name::<E>(),
    }
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        let mut ends = (0..=MAX_MESSAGE_BYTES).rev();
        let end = ends
            .find(|end| message.is_char_boundary(*end))
            .unwrap_or_default();
        message.truncate(end);
        message.push('…');
    }
    message
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
    fn a_long_message_is_cut_at_a_character() {
        let failure = TaskFailure::new("long", "ä".repeat(MAX_MESSAGE_BYTES)).permanent();
        assert!(failure.message().len() <= MAX_MESSAGE_BYTES + 4);
        assert!(!failure.into_wire(None, 1).retryable);
    }
}
