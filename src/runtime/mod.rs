//! Decorated tasks: every future that is spawned has its failure caught, logged once and counted.
//!
//! [`create_task`] spawns a future, [`decorate_task`] takes over one that already runs, and
//! [`pending_tasks`] says how many of them have not finished. All three use a process-wide
//! [`Registry`]; a server makes its own, so that what it lists and what can end it are its own
//! jobs. A panic inside a task becomes a [`TaskError::Panicked`], never a crash, with the place and
//! the stack that the panic hook saw (`panics`). A task of a program's own runs in a span that is a
//! child of the current one, and its failure is put where the client finds it to report (`report`).

mod backtrace;
mod blocking;
mod decorated;
mod failure;
mod handle;
mod job;
mod panics;
mod registry;
mod report;
mod restart;
mod text;
mod trace;

use std::{error::Error, future::Future, sync::LazyLock};

use decorated::Owner;
use tokio::task::JoinHandle;

pub(crate) use blocking::{blocking, decorated};
pub(crate) use failure::RUNTIME;
pub use failure::{Cause, Origin, TaskError};
pub use handle::TaskHandle;
pub use job::{JobFailure, JobKind, JobReport, KindCounts, OnFailure, OnStop};
pub use panics::leave_panics_alone;
pub(crate) use panics::{Panic, catch, catch_now};
pub use registry::{Registry, TaskCounts};
#[cfg(test)]
pub(crate) use report::CAPACITY;
pub(crate) use report::{Sink, open as open_reports, sink as report_sink};
pub use restart::{Backoff, Life};
pub(crate) use text::cut;
pub(crate) use trace::{current_trace_context, remote_context, span_trace_context, trace_id};

static PROCESS: LazyLock<Registry> = LazyLock::new(|| Registry::of(Owner::Caller));
/// The client's and worker's own tasks, which no program should find among its pending ones.
static LIBRARY: LazyLock<Registry> = LazyLock::new(|| Registry::of(Owner::Library));

/// Runs `future` as an independent task whose failure is caught, logged once and counted.
///
/// The task goes on when the handle is dropped.
///
/// # Panics
///
/// Outside a tokio runtime, as `tokio::spawn` does.
#[track_caller]
pub fn create_task<F, T, E>(name: impl Into<String>, future: F) -> TaskHandle<T>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Error + Send + 'static,
{
    PROCESS.create_task(name, future)
}

/// Catches, logs and counts the failure of a task that already runs.
///
/// # Panics
///
/// Outside a tokio runtime, as `tokio::spawn` does.
#[track_caller]
pub fn decorate_task<T, E>(name: impl Into<String>, task: JoinHandle<Result<T, E>>) -> TaskHandle<T>
where
    T: Send + 'static,
    E: Error + Send + 'static,
{
    PROCESS.decorate_task(name, task)
}

/// What `#[duite::task]` makes of a function's body.
#[track_caller]
pub(crate) fn create_task_of<F, T, E>(name: &str, function: &str, future: F) -> TaskHandle<T>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Error + Send + 'static,
{
    PROCESS.spawn_of(JobKind::Task, name, Some(function), future)
}

/// How many tasks of [`create_task`] and [`decorate_task`] have not finished.
pub fn pending_tasks() -> usize {
    PROCESS.pending_tasks()
}

/// Where tasks of the library itself are registered.
pub(crate) fn library() -> &'static Registry {
    &LIBRARY
}

/// Runs a task of the library itself, decorated like any other.
#[track_caller]
pub(crate) fn create_library_task<F>(name: impl Into<String>, future: F) -> TaskHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    LIBRARY.create_task(name, async {
        Ok::<_, std::convert::Infallible>(future.await)
    })
}
