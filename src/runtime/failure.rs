//! What a decorated task says when it did not end well.

use std::{borrow::Cow, error::Error, panic::Location};

use super::{backtrace, panics::Panic, text::cut};
use crate::{
    domain::limits::{MAX_CAUSES, MAX_FAILURE_MESSAGE_BYTES, MAX_ID_BYTES, MAX_STACK_BYTES},
    proto::v1::{Failure, failure::Category},
};

/// A cause's texts may be a part as long as those of the whole: there may be eight of them.
const CAUSE_SHARE: usize = 8;
pub(crate) const RUNTIME: &str = concat!("rust/", env!("CARGO_PKG_RUST_VERSION"));

/// Why a decorated task has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// The task returned an error.
    #[error("{message}")]
    Failed {
        /// The error's Rust type, without generic arguments: of low cardinality.
        error_type: String,
        /// The error as it shows itself.
        message: String,
        /// Its causes, the nearest first.
        chain: Vec<Cause>,
        /// Where it comes from.
        origin: Box<Origin>,
    },
    /// The task panicked.
    #[error("the task panicked: {message}")]
    Panicked {
        /// What was given to `panic!`, where that was text.
        message: String,
        /// Where that was.
        origin: Box<Origin>,
    },
    /// The task was aborted, or its runtime ended.
    #[error("the task was cancelled before it finished")]
    Cancelled,
}

/// One link in the chain of causes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The error's Rust type where it is known, else `cause`: an error tells of its cause only what
    /// it says, not what it is, so this is known for the standard library's.
    pub error_type: Cow<'static, str>,
    /// The error as it shows itself.
    pub message: String,
}

/// Where a failure comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// What kind of failure it is.
    pub category: Category,
    /// `file.rs:function`, or `file.rs` where the function is not known.
    pub location: String,
    /// The stack; empty where there is none.
    pub stack: String,
}

impl Origin {
    /// A place alone.
    pub(crate) fn of_place(location: String) -> Self {
        Self {
            category: Category::Application,
            location,
            stack: String::new(),
        }
    }

    /// A place in the code that calls, with a stack where `RUST_LIB_BACKTRACE` or `RUST_BACKTRACE`
    /// asks for one.
    pub(crate) fn at(location: &Location<'_>) -> Self {
        let trace = std::backtrace::Backtrace::capture();
        let mut origin = Self {
            category: Category::Application,
            ..Self::default()
        };
        let mut function = None;
        if trace.status() == std::backtrace::BacktraceStatus::Captured {
            let printed = trace.to_string();
            function = backtrace::function_at(&printed, location);
            origin.stack = cut(printed, MAX_STACK_BYTES);
        }
        origin.location = backtrace::place(location, function.as_deref());
        origin
    }
}

impl TaskError {
    /// The account of an error that a task returned; `origin` is the nearest known.
    pub(crate) fn of<E: Error + 'static>(error: &E, origin: Origin) -> Self {
        // What another task failed with is passed on as it was told.
        let any: &(dyn Error + 'static) = error;
        match any.downcast_ref::<TaskError>() {
            Some(TaskError::Cancelled) | None => {}
            Some(told) => return told.clone(),
        }
        let causes = std::iter::successors(error.source(), |cause: &&(dyn Error + 'static)| {
            (**cause).source()
        });
        let mut category = category_of(error);
        let chain = causes.take(MAX_CAUSES).map(|cause| {
            category = category.or_else(|| category_of(cause));
            Cause {
                error_type: known_type(cause).unwrap_or("cause").into(),
                message: cut(cause.to_string(), MAX_FAILURE_MESSAGE_BYTES / CAUSE_SHARE),
            }
        });
        let chain = chain.collect();
        TaskError::Failed {
            error_type: match any.is::<TaskError>() {
                true => "cancelled".to_owned(),
                false => short_type_name::<E>(),
            },
            message: cut(error.to_string(), MAX_FAILURE_MESSAGE_BYTES),
            chain,
            origin: Box::new(Origin {
                category: category.unwrap_or(Category::Application),
                ..origin
            }),
        }
    }

    /// A word of low cardinality for metrics and logs.
    pub fn error_type(&self) -> &str {
        match self {
            TaskError::Failed { error_type, .. } => error_type,
            TaskError::Panicked { .. } => "panic",
            TaskError::Cancelled => "cancelled",
        }
    }

    /// Where it comes from; none for a cancel.
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            TaskError::Failed { origin, .. } | TaskError::Panicked { origin, .. } => Some(origin),
            TaskError::Cancelled => None,
        }
    }

    /// What kind of failure it is.
    pub fn category(&self) -> Category {
        self.origin()
            .map_or(Category::Cancelled, |origin| origin.category)
    }

    /// As the API has it, without trace and time.
    pub(crate) fn to_wire(&self) -> Failure {
        let origin = self.origin().cloned().unwrap_or_default();
        let (message, chain) = match self {
            TaskError::Failed { message, chain, .. } => (message.clone(), &chain[..]),
            TaskError::Panicked { message, .. } => (message.clone(), &[][..]),
            TaskError::Cancelled => (self.to_string(), &[][..]),
        };
        let cause = chain.iter().rev().fold(None, |cause, link| {
            Some(Box::new(Failure {
                category: Category::Application.into(),
                r#type: link.error_type.clone().into_owned(),
                message: link.message.clone(),
                runtime: RUNTIME.to_owned(),
                cause,
                ..Failure::default()
            }))
        });
        Failure {
            category: self.category().into(),
            r#type: cut(self.error_type().to_owned(), MAX_ID_BYTES),
            message,
            stack_trace: origin.stack,
            runtime: RUNTIME.to_owned(),
            retryable: true,
            cause,
            location: origin.location,
            ..Failure::default()
        }
    }
}

impl From<Panic> for TaskError {
    fn from(panic: Panic) -> Self {
        TaskError::Panicked {
            message: panic.message,
            origin: Box::new(Origin {
                category: Category::Application,
                location: panic.location,
                stack: panic.stack,
            }),
        }
    }
}

/// What the kind of an error says about whose fault it is.
fn category_of(error: &(dyn Error + 'static)) -> Option<Category> {
    use std::io::ErrorKind;
    if error.is::<tokio::time::error::Elapsed>() {
        return Some(Category::Timeout);
    }
    match error.downcast_ref::<std::io::Error>()?.kind() {
        ErrorKind::OutOfMemory | ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Some(Category::Resource)
        }
        ErrorKind::TimedOut => Some(Category::Timeout),
        _ => None,
    }
}

/// The type of an error of which only the trait object is known.
fn known_type(error: &(dyn Error + 'static)) -> Option<&'static str> {
    macro_rules! known {
        ($($known:ty),* $(,)?) => {
            $(if error.is::<$known>() { return Some(stringify_type::<$known>()); })*
        };
    }
    known!(
        std::io::Error,
        std::fmt::Error,
        std::num::ParseIntError,
        std::num::ParseFloatError,
        std::num::TryFromIntError,
        std::str::Utf8Error,
        std::string::FromUtf8Error,
        std::net::AddrParseError,
        std::time::SystemTimeError,
        std::env::VarError,
        tokio::time::error::Elapsed,
        tokio::task::JoinError,
        serde_json::Error,
        TaskError,
    );
    None
}

fn stringify_type<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    name.split('<').next().unwrap_or(name)
}

/// The type's path without generic arguments.
fn short_type_name<E: ?Sized>() -> String {
    let name = std::any::type_name::<E>();
    name.split('<').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(place: &str) -> Origin {
        Origin::of_place(place.to_owned())
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the mesh could not be read")]
    struct MeshError(#[source] std::io::Error);

    #[test]
    fn causes_have_their_type_where_it_is_known_and_say_the_category() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = TaskError::of(&MeshError(full), at("mesh.rs:read"));
        let TaskError::Failed { chain, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(chain[0].error_type, "std::io::error::Error");
        assert_eq!(error.category(), Category::Resource);
        let wire = error.to_wire();
        assert_eq!(wire.location, "mesh.rs:read");
        assert_eq!(wire.cause.unwrap().r#type, "std::io::error::Error");
    }

    #[test]
    fn what_another_task_failed_with_is_passed_on() {
        let inner = TaskError::of(&std::fmt::Error, at("a.rs"));
        assert_eq!(TaskError::of(&inner, at("b.rs")), inner);
        let cancelled = TaskError::of(&TaskError::Cancelled, at("b.rs"));
        assert_eq!(cancelled.error_type(), "cancelled");
    }

    #[test]
    fn long_texts_are_cut_with_a_mark() {
        let long = std::io::Error::other("x".repeat(MAX_FAILURE_MESSAGE_BYTES + 1));
        let wire = TaskError::of(&long, Origin::default()).to_wire();
        assert_eq!(wire.message.len(), MAX_FAILURE_MESSAGE_BYTES);
        assert!(wire.message.ends_with("… (cut, 16385 bytes)"));
    }
}
