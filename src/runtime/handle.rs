//! The handle to a decorated task.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::task::{AbortHandle, JoinHandle};

use super::{failure::TaskError, panics::Panic};

/// A decorated task: await it for its result, or drop it and let it run.
#[derive(Debug)]
pub struct TaskHandle<T> {
    name: Arc<str>,
    abort: AbortHandle,
    join: JoinHandle<Result<T, TaskError>>,
}

impl<T> TaskHandle<T> {
    pub(super) fn new(
        name: Arc<str>,
        abort: AbortHandle,
        join: JoinHandle<Result<T, TaskError>>,
    ) -> Self {
        Self { name, abort, join }
    }

    /// The name it was created with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Drops the task's future at its next await; awaiting the handle then gives
    /// [`TaskError::Cancelled`].
    pub fn abort(&self) {
        self.abort.abort();
    }

    /// Whether it has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        self.join.is_finished()
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(Pin::new(&mut self.join).poll(context)) {
            Ok(result) => result,
            Err(error) => Err(match error.try_into_panic() {
                // Of the decoration itself: what it is around is caught within.
                Ok(payload) => Panic::of(&*payload).into(),
                Err(_) => TaskError::Cancelled,
            }),
        })
    }
}
