//! Decorated tasks: every future that is spawned has its failure caught, logged once and counted.
//!
//! [`create_task`] spawns a future, [`decorate_task`] takes over one that already runs, and
//! [`pending_tasks`] says how many of them have not finished. All three use a process-wide
//! [`Registry`]; a server makes its own, so that what it lists and what can end it are its own
//! jobs. A panic inside a task becomes a [`TaskError::Panicked`], never a crash.

mod failure;
mod handle;
mod job;
mod registry;
mod restart;

use std::{error::Error, future::Future, sync::LazyLock};

use tokio::task::JoinHandle;

pub use failure::TaskError;
pub(crate) use failure::{panic_message, short_type_name};
pub use handle::TaskHandle;
pub use job::{JobFailure, JobKind, JobReport, KindCounts, OnFailure, OnStop};
pub use registry::{Registry, TaskCounts};
pub use restart::{Backoff, GiveUp, Life};

static PROCESS: LazyLock<Registry> = LazyLock::new(Registry::default);
/// The client's and worker's own tasks, which no program should find among its pending ones.
static LIBRARY: LazyLock<Registry> = LazyLock::new(Registry::default);

/// Runs `future` as an independent task whose failure is caught, logged once and counted.
///
/// The task goes on when the handle is dropped.
///
/// # Panics
///
/// Outside a tokio runtime, as `tokio::spawn` does.
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
pub fn decorate_task<T, E>(name: impl Into<String>, task: JoinHandle<Result<T, E>>) -> TaskHandle<T>
where
    T: Send + 'static,
    E: Error + Send + 'static,
{
    PROCESS.decorate_task(name, task)
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
pub(crate) fn create_library_task<F>(name: impl Into<String>, future: F) -> TaskHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    LIBRARY.create_task(name, async {
        future.await;
        Ok::<_, std::convert::Infallible>(())
    })
}
