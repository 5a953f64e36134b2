//! The registry of decorated tasks and background jobs: who runs, who failed, with what.

use std::{
    collections::BTreeMap, error::Error, fmt, future::Future, panic::Location, sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use super::{
    decorated::{Decoration, Owner},
    failure::TaskError,
    handle::TaskHandle,
    job::{JobKind, JobReport, OnFailure, OnStop},
    panics,
};

/// How many tasks have ended in which way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct TaskCounts {
    /// Returned a value.
    pub succeeded: u64,
    /// Returned an error.
    pub failed: u64,
    /// Panicked.
    pub panicked: u64,
    /// Were aborted, or dropped with their runtime.
    pub cancelled: u64,
}

/// Knows every task that was created or decorated through it. A clone is the same registry.
#[derive(Clone, Default)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    shutdown: CancellationToken,
    owner: Owner,
    idle: Notify,
    /// Held for moments only, never across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_id: u64,
    running: BTreeMap<u64, Running>,
    /// Background jobs by name, also after they ended. Plain tasks leave no line behind.
    jobs: BTreeMap<Arc<str>, Job>,
    counts: TaskCounts,
    fatal: Option<(String, TaskError)>,
}

struct Running {
    name: Arc<str>,
    kind: JobKind,
    abort: Option<AbortHandle>,
}

struct Job {
    kind: JobKind,
    starts: u64,
    running: u64,
    last_failure: String,
}

impl Registry {
    /// A registry that cancels `shutdown` when a job fails that the process cannot do without.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self {
            shared: Arc::new(Shared {
                shutdown,
                ..Shared::default()
            }),
        }
    }

    /// One for the tasks of somebody else than the process.
    pub(super) fn of(owner: Owner) -> Self {
        Self {
            shared: Arc::new(Shared {
                owner,
                ..Shared::default()
            }),
        }
    }

    /// See [`create_task`](super::create_task).
    #[track_caller]
    pub fn create_task<F, T, E>(&self, name: impl Into<String>, future: F) -> TaskHandle<T>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Error + Send + 'static,
    {
        self.spawn_job(JobKind::Task, name, future)
    }

    /// Starts a background job; its kind decides what its failure does.
    #[track_caller]
    pub fn spawn_job<F, T, E>(
        &self,
        kind: JobKind,
        name: impl Into<String>,
        future: F,
    ) -> TaskHandle<T>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Error + Send + 'static,
    {
        self.spawn_of(kind, name, None, future)
    }

    /// The same for code of which the function is known.
    #[track_caller]
    pub(super) fn spawn_of<F, T, E>(
        &self,
        kind: JobKind,
        name: impl Into<String>,
        function: Option<&str>,
        future: F,
    ) -> TaskHandle<T>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Error + Send + 'static,
    {
        let guard = self.enter(kind, Arc::from(name.into()), Location::caller(), function);
        let (name, id) = (Arc::clone(&guard.name), guard.id);
        let decorated = guard.decoration.surroundings().run(async move {
            // The future is not looked at again after a panic, only dropped.
            let result = match panics::catch(future).await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(TaskError::of(&error, guard.decoration.origin())),
                Err(panic) => Err(panic.into()),
            };
            guard.leave(result)
        });
        let join = tokio::spawn(decorated);
        let abort = join.abort_handle();
        self.shared.set_abort(id, abort.clone());
        TaskHandle::new(name, abort, join)
    }

    /// See [`decorate_task`](super::decorate_task).
    #[track_caller]
    pub fn decorate_task<T, E>(
        &self,
        name: impl Into<String>,
        task: JoinHandle<Result<T, E>>,
    ) -> TaskHandle<T>
    where
        T: Send + 'static,
        E: Error + Send + 'static,
    {
        let name = Arc::from(name.into());
        let guard = self.enter(JobKind::Task, name, Location::caller(), None);
        let name = Arc::clone(&guard.name);
        let abort = task.abort_handle();
        self.shared.set_abort(guard.id, abort.clone());
        let late = panics::Late::new(task.id());
        let decorated = guard.decoration.surroundings().run(async move {
            let result = match task.await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(TaskError::of(&error, guard.decoration.origin())),
                Err(error) => Err(match error.try_into_panic() {
                    Ok(payload) => late.caught(&*payload).into(),
                    Err(_) => TaskError::Cancelled,
                }),
            };
            guard.leave(result)
        });
        let join = tokio::spawn(decorated);
        TaskHandle::new(name, abort, join)
    }

    /// How many tasks and jobs have not finished.
    pub fn pending_tasks(&self) -> usize {
        self.shared.state.lock().running.len()
    }

    /// How many have ended, and how.
    pub fn counts(&self) -> TaskCounts {
        self.shared.state.lock().counts
    }

    /// The first failure that asked for the process's end, with the job's name.
    pub fn fatal_failure(&self) -> Option<(String, TaskError)> {
        self.shared.state.lock().fatal.clone()
    }

    /// Every background job ever started under its name, then the plain tasks that run.
    pub fn jobs(&self) -> Vec<JobReport> {
        let state = self.shared.state.lock();
        let jobs = state.jobs.iter().map(|(name, job)| JobReport {
            name: name.to_string(),
            kind: job.kind,
            restarts: job.starts.saturating_sub(1),
            last_failure: job.last_failure.clone(),
            running: job.running > 0,
        });
        let tasks = state
            .running
            .values()
            .filter(|running| running.kind == JobKind::Task);
        let tasks = tasks.map(|running| JobReport {
            name: running.name.to_string(),
            kind: running.kind,
            restarts: 0,
            last_failure: String::new(),
            running: true,
        });
        jobs.chain(tasks).collect()
    }

    /// Aborts the jobs whose kind allows it, waits up to `grace` for the others, aborts what is
    /// left, and says how many those were. It starts no new ones, nor does it refuse them.
    pub async fn stop(&self, grace: Duration) -> usize {
        self.abort_where(|kind| kind.on_stop() == OnStop::Abort);
        if tokio::time::timeout(grace, self.wait_idle()).await.is_ok() {
            return 0;
        }
        self.abort_where(|_| true)
    }

    /// Waits until nothing runs.
    pub async fn wait_idle(&self) {
        loop {
            // Registered before the look, so that a task ending in between is not missed.
            let idle = self.shared.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.pending_tasks() == 0 {
                return;
            }
            idle.await;
        }
    }

    fn abort_where(&self, chosen: impl Fn(JobKind) -> bool) -> usize {
        let state = self.shared.state.lock();
        let running = state
            .running
            .values()
            .filter(|running| chosen(running.kind));
        running
            .filter_map(|running| running.abort.as_ref())
            .map(AbortHandle::abort)
            .count()
    }

    fn enter(
        &self,
        kind: JobKind,
        name: Arc<str>,
        at: &'static Location<'static>,
        function: Option<&str>,
    ) -> Guard {
        let decoration = Decoration::new(kind, &name, self.shared.owner, at, function);
        let mut state = self.shared.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.running.insert(
            id,
            Running {
                name: Arc::clone(&name),
                kind,
                abort: None,
            },
        );
        if kind != JobKind::Task {
            let job = state.jobs.entry(Arc::clone(&name)).or_insert_with(|| Job {
                kind,
                starts: 0,
                running: 0,
                last_failure: String::new(),
            });
            job.starts += 1;
            job.running += 1;
        }
        drop(state);
        Guard {
            shared: Arc::clone(&self.shared),
            id,
            kind,
            name,
            decoration,
            left: false,
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Registry")
            .field("jobs", &self.jobs())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn set_abort(&self, id: u64, abort: AbortHandle) {
        if let Some(running) = self.state.lock().running.get_mut(&id) {
            running.abort = Some(abort);
        }
    }
}

/// Takes the task off the list however its future ends, being dropped included.
struct Guard {
    shared: Arc<Shared>,
    id: u64,
    kind: JobKind,
    name: Arc<str>,
    decoration: Decoration,
    left: bool,
}

impl Guard {
    fn leave<T>(mut self, result: Result<T, TaskError>) -> Result<T, TaskError> {
        self.settle(result.as_ref().err());
        result
    }

    fn settle(&mut self, error: Option<&TaskError>) {
        self.left = true;
        let mut fatal = false;
        {
            let mut state = self.shared.state.lock();
            state.running.remove(&self.id);
            match error {
                None => state.counts.succeeded += 1,
                Some(TaskError::Failed { .. }) => state.counts.failed += 1,
                Some(TaskError::Panicked { .. }) => state.counts.panicked += 1,
                Some(TaskError::Cancelled) => state.counts.cancelled += 1,
            }
            // A plain task may have a job's name, but it is not that job.
            let is_job = self.kind != JobKind::Task;
            if let Some(job) = state.jobs.get_mut(&self.name).filter(|_| is_job) {
                job.running -= 1;
            }
            if let Some(error) = error.filter(|error| **error != TaskError::Cancelled) {
                if let Some(job) = state.jobs.get_mut(&self.name).filter(|_| is_job) {
                    job.last_failure = error.to_string();
                }
                fatal = self.kind.on_failure() == OnFailure::ShutDown;
                if fatal && state.fatal.is_none() {
                    state.fatal = Some((self.name.to_string(), error.clone()));
                }
            }
        }
        let decoration = &self.decoration;
        decoration.settle(self.kind, &self.name, error, fatal, self.shared.owner);
        if fatal {
            self.shared.shutdown.cancel();
        }
        self.shared.idle.notify_waiters();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.left {
            self.settle(Some(&TaskError::Cancelled));
        }
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
