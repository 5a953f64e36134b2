//! What a decorated task says when it did not end well.

use std::{any::Any, error::Error};

/// The longest chain of causes that is kept.
const MAX_CAUSES: usize = 8;

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
        chain: Vec<String>,
    },
    /// The task panicked.
    #[error("the task panicked: {message}")]
    Panicked {
        /// What was given to `panic!`, where that was text.
        message: String,
    },
    /// The task was aborted, or its runtime ended.
    #[error("the task was cancelled before it finished")]
    Cancelled,
}

impl TaskError {
    /// The account of an error that a task returned.
    pub fn of<E: Error>(error: &E) -> Self {
        let causes = std::iter::successors(error.source(), |cause: &&dyn Error| (**cause).source());
        TaskError::Failed {
            error_type: short_type_name::<E>(),
            message: error.to_string(),
            chain: causes.take(MAX_CAUSES).map(ToString::to_string).collect(),
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
}

/// The type's path without generic arguments.
pub(crate) fn short_type_name<E: ?Sized>() -> String {
    let name = std::any::type_name::<E>();
    name.split('<').next().unwrap_or(name).to_owned()
}

/// What was given to `panic!`, where that was text.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic whose payload is not text".to_owned()
    }
}
