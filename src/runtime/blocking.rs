//! Calls that block, and whole threads: decorated like tasks.

use std::{panic::Location, sync::Arc};

use super::{LIBRARY, failure::TaskError, job::JobKind, panics};

/// Runs `call` where it may block. Its panic is logged and counted like a task's, and comes back as
/// an error, as does the end of the runtime.
#[track_caller]
pub(crate) fn blocking<T: Send + 'static>(
    name: &'static str,
    call: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, TaskError>> + Send {
    // Dropped with the call where the runtime ends before that has begun.
    let call = decorated(name, call);
    let running = tokio::task::spawn_blocking(call);
    async move {
        let result = running.await;
        result.unwrap_or(Err(TaskError::Cancelled))
    }
}

/// The call of a thread of its own, to be made there: its panic is logged and counted, and whoever
/// makes the call decides what follows.
#[track_caller]
pub(crate) fn decorated<T>(
    name: &'static str,
    call: impl FnOnce() -> T,
) -> impl FnOnce() -> Result<T, TaskError> {
    let guard = LIBRARY.enter(JobKind::Task, Arc::from(name), Location::caller(), None);
    move || guard.leave(panics::catch_now(call).map_err(TaskError::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_a_blocking_call_comes_back_as_an_error_with_its_place() {
        assert_eq!(blocking("count", || 7).await, Ok(7));
        let panic = blocking("break", || -> u32 { panic!("no disk") }).await;
        let Err(TaskError::Panicked { message, origin }) = panic else {
            panic!("expected a panic, got {panic:?}");
        };
        assert_eq!(message, "no disk");
        assert!(origin.location.starts_with("blocking.rs"), "{origin:?}");
    }
}
