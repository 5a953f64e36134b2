//! The registry of decorated tasks and background jobs: who runs, who failed, with what.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    future::Future,
    io,
    panic::Location,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use super::{
    decorated::{Decoration, End, Owner},
    failure::TaskError,
    handle::TaskHandle,
    job::{JobFailure, JobKind, JobReport, KindCounts, OnFailure, OnStop},
    panics::{self, Panic},
    restart::{Backoff, Failures, Life, jittered},
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
    kinds: BTreeMap<JobKind, KindCounts>,
    fatal: Option<(String, TaskError)>,
    /// Who is told of failures, without being waited for.
    sink: Option<mpsc::Sender<JobFailure>>,
    sink_dropped: u64,
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
    failures: u64,
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
            let result = guard.result_of(panics::catch(future).await);
            guard.leave(result)
        });
        let join = tokio::spawn(decorated);
        let abort = join.abort_handle();
        self.shared.set_abort(id, abort.clone());
        TaskHandle::new(name, abort, join)
    }

    /// Starts a background job that is started again when it fails, as its kind says: see
    /// [`Backoff`]. `start` makes the future of each life. Where the kind's failures are not followed
    /// by a restart it is the same as [`Registry::spawn_job`].
    #[track_caller]
    pub fn spawn_restarting<S, F, E>(
        &self,
        kind: JobKind,
        name: impl Into<String>,
        mut start: S,
    ) -> TaskHandle<()>
    where
        S: FnMut(Life) -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Error + Send + 'static,
    {
        let mut guard = self.enter(kind, Arc::from(name.into()), Location::caller(), None);
        let (name, id) = (Arc::clone(&guard.name), guard.id);
        let surroundings = guard.decoration.surroundings();
        let mut policy = match kind.on_failure() {
            OnFailure::Restart(backoff) => Some((backoff, Failures::new(backoff))),
            OnFailure::Log | OnFailure::ShutDown => None,
        };
        let work = async move {
            let mut number = 0;
            loop {
                let life = Life::new(number);
                // Each life's future is made inside, so that a panic there is caught as well.
                let living = async { start(life.clone()).await };
                let result = guard.result_of(panics::catch(living).await);
                let Err(error) = result else {
                    return guard.leave(Ok(()));
                };
                let pause = policy.as_mut().and_then(|(backoff, failures)| {
                    may_restart(*backoff, &error).then(|| failures.note(life.worked(*backoff)))?
                });
                let Some(pause) = pause.map(jittered) else {
                    return guard.leave(Err(error));
                };
                guard.fell(&error, pause);
                tokio::time::sleep(pause).await;
                guard.rise();
                number += 1;
            }
        };
        let join = tokio::spawn(surroundings.run(work));
        let abort = join.abort_handle();
        self.shared.set_abort(id, abort.clone());
        TaskHandle::new(name, abort, join)
    }

    /// Starts a background job on a thread of its own, of the same name. It cannot be aborted.
    #[track_caller]
    pub fn spawn_thread<W, T, E>(
        &self,
        kind: JobKind,
        name: impl Into<String>,
        work: W,
    ) -> io::Result<thread::JoinHandle<Result<T, TaskError>>>
    where
        W: FnOnce() -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: Error + Send + 'static,
    {
        let name = name.into();
        let builder = thread::Builder::new().name(name.clone());
        let registry = self.clone();
        // Entered here, so that it is listed when this returns. Where it cannot be started the guard
        // is dropped with the closure.
        let guard = registry.enter(kind, Arc::from(name), Location::caller(), None);
        builder.spawn(move || guard.run(work))
    }

    /// Runs work that blocks on a thread of the runtime's that is there for it.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    #[track_caller]
    pub fn spawn_blocking<W, T, E>(
        &self,
        kind: JobKind,
        name: impl Into<String>,
        work: W,
    ) -> TaskHandle<T>
    where
        W: FnOnce() -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: Error + Send + 'static,
    {
        let guard = self.enter(kind, Arc::from(name.into()), Location::caller(), None);
        let (name, id) = (Arc::clone(&guard.name), guard.id);
        let join = tokio::task::spawn_blocking(move || guard.run(work));
        let abort = join.abort_handle();
        self.shared.set_abort(id, abort.clone());
        TaskHandle::new(name, abort, join)
    }

    /// Tells `sink` of every failure from now on. Whoever reads it may be slow or gone: what finds no
    /// room is dropped and counted. Failures of what reads it must not come back to it.
    pub fn on_failure(&self, sink: mpsc::Sender<JobFailure>) {
        self.shared.state.lock().sink = Some(sink);
    }

    /// How many failures the sink had no room for.
    pub fn failures_dropped(&self) -> u64 {
        self.shared.state.lock().sink_dropped
    }

    /// How the jobs of each kind have fared; kinds that never ran are left out.
    pub fn by_kind(&self) -> BTreeMap<&'static str, KindCounts> {
        let state = self.shared.state.lock();
        let kinds = state.kinds.iter();
        kinds
            .map(|(kind, counts)| (kind.as_str(), *counts))
            .collect()
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
                Ok(result) => guard.result_of(Ok(result)),
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

    /// Counts, logs and hands on a panic that somebody else has caught, in work that is no job of its
    /// own.
    #[track_caller]
    pub(crate) fn caught(&self, kind: JobKind, name: &str, panic: Panic) {
        let owner = self.shared.owner;
        let decoration = Decoration::new(kind, name, owner, Location::caller(), None);
        let error = TaskError::from(panic);
        {
            let mut state = self.shared.state.lock();
            state.count(Some(&error), kind);
            state.note_failure(name, kind, &error);
        }
        decoration.settle(kind, name, Some(&error), End::Ends, owner);
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
            failures: job.failures,
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
            failures: 0,
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

    pub(super) fn enter(
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
                failures: 0,
                last_failure: String::new(),
            });
            job.starts += 1;
            job.running += 1;
        }
        let counts = state.kinds.entry(kind).or_default();
        counts.started += 1;
        counts.running += 1;
        drop(state);
        Guard {
            shared: Arc::clone(&self.shared),
            id,
            kind,
            name,
            decoration,
            rests: false,
            left: false,
        }
    }
}

fn may_restart(backoff: Backoff, error: &TaskError) -> bool {
    match error {
        TaskError::Panicked { .. } => true,
        TaskError::Failed { .. } => !backoff.panics_only,
        TaskError::Cancelled => false,
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

impl State {
    /// The line of a background job. A plain task may have a job's name, but it is not that job.
    fn job(&mut self, name: &str, kind: JobKind) -> Option<&mut Job> {
        let is_job = kind != JobKind::Task;
        self.jobs.get_mut(name).filter(|_| is_job)
    }

    fn no_longer_runs(&mut self, name: &str, kind: JobKind) {
        self.kinds.entry(kind).or_default().running -= 1;
        if let Some(job) = self.job(name, kind) {
            job.running -= 1;
        }
    }

    /// Each end is counted here, once.
    fn count(&mut self, error: Option<&TaskError>, kind: JobKind) {
        let counts = self.kinds.entry(kind).or_default();
        let (all, of_kind) = match error {
            None => {
                self.counts.succeeded += 1;
                return;
            }
            Some(TaskError::Failed { .. }) => (&mut self.counts.failed, &mut counts.failed),
            Some(TaskError::Panicked { .. }) => (&mut self.counts.panicked, &mut counts.panicked),
            Some(TaskError::Cancelled) => (&mut self.counts.cancelled, &mut counts.cancelled),
        };
        *all += 1;
        *of_kind += 1;
    }

    /// Notes a failure that is not a cancellation with its job, and tells the sink.
    fn note_failure(&mut self, name: &str, kind: JobKind, error: &TaskError) {
        if let Some(job) = self.job(name, kind) {
            job.failures += 1;
            job.last_failure = error.to_string();
        }
        if let Some(sink) = &self.sink {
            let failure = JobFailure {
                name: name.to_owned(),
                kind,
                error: error.clone(),
                time: SystemTime::now(),
            };
            if sink.try_send(failure).is_err() {
                self.sink_dropped += 1;
            }
        }
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
pub(super) struct Guard {
    shared: Arc<Shared>,
    id: u64,
    kind: JobKind,
    name: Arc<str>,
    decoration: Decoration,
    /// It waits to be started again.
    rests: bool,
    left: bool,
}

impl Guard {
    pub(super) fn leave<T>(mut self, result: Result<T, TaskError>) -> Result<T, TaskError> {
        self.settle(result.as_ref().err());
        result
    }

    /// Runs work that blocks, in this thread.
    fn run<T, E: Error + 'static>(
        self,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, TaskError> {
        // What the work holds is not looked at again after a panic, only dropped.
        let surroundings = self.decoration.surroundings();
        let outcome = surroundings.run_now(|| panics::catch_now(work));
        let result = self.result_of(outcome);
        self.leave(result)
    }

    /// What a task came to that was caught.
    fn result_of<T, E: Error + 'static>(
        &self,
        outcome: Result<Result<T, E>, Panic>,
    ) -> Result<T, TaskError> {
        match outcome {
            Ok(Ok(value)) => Ok(value),
            // What the error says of itself is the program's code, and may panic as well.
            Ok(Err(error)) => {
                let account = || TaskError::of(&error, self.decoration.origin());
                Err(panics::catch_now(account).unwrap_or_else(TaskError::from))
            }
            Err(panic) => Err(panic.into()),
        }
    }

    /// It failed and rests before it is started again.
    fn fell(&mut self, error: &TaskError, pause: Duration) {
        self.rests = true;
        {
            let mut state = self.shared.state.lock();
            state.count(Some(error), self.kind);
            state.note_failure(&self.name, self.kind, error);
            state.no_longer_runs(&self.name, self.kind);
        }
        self.tell(Some(error), End::Restarts(pause));
    }

    /// It is started again.
    fn rise(&mut self) {
        self.rests = false;
        let mut state = self.shared.state.lock();
        let counts = state.kinds.entry(self.kind).or_default();
        counts.started += 1;
        counts.restarts += 1;
        counts.running += 1;
        if let Some(job) = state.job(&self.name, self.kind) {
            job.starts += 1;
            job.running += 1;
        }
    }

    fn settle(&mut self, error: Option<&TaskError>) {
        self.left = true;
        let mut fatal = false;
        {
            let mut state = self.shared.state.lock();
            state.running.remove(&self.id);
            state.count(error, self.kind);
            if !self.rests {
                state.no_longer_runs(&self.name, self.kind);
            }
            if let Some(error) = error.filter(|error| **error != TaskError::Cancelled) {
                state.note_failure(&self.name, self.kind, error);
                fatal = self.kind.is_needed();
                if fatal && state.fatal.is_none() {
                    state.fatal = Some((self.name.to_string(), error.clone()));
                }
            }
        }
        let end = if fatal { End::Fatal } else { End::Ends };
        self.tell(error, end);
        if fatal {
            self.shared.shutdown.cancel();
        }
        self.shared.idle.notify_waiters();
    }

    fn tell(&self, error: Option<&TaskError>, end: End) {
        let owner = self.shared.owner;
        self.decoration
            .settle(self.kind, &self.name, error, end, owner);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        if thread::panicking() {
            // Not the task, whose panics are caught: what surrounds it.
            self.settle(Some(&Panic::default().into()));
        } else {
            self.settle(Some(&TaskError::Cancelled));
        }
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
