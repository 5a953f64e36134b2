//! How a worker is set up, started and stopped.

use std::{collections::BTreeSet, fmt, future::Future, process, sync::Arc, thread, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    context::TaskContext,
    exec,
    failure::{Output, TaskFailure},
    finish,
    lease::Leases,
    lease_loop::{self, Running},
    renew,
    run::Handlers,
};
use crate::{
    client::{Client, Error},
    proto::v1::ReleaseLeasesRequest,
    runtime::{TaskHandle, blocking, create_library_task},
};

/// Results that wait to be told; an attempt that ends beyond that waits for its turn.
const FINISHED_CAPACITY: usize = 1024;
/// How long a stopping worker may take beyond its grace: to drop what still runs, and to tell
/// results and state.
const FINISH_DEADLINE: Duration = Duration::from_secs(10);
/// The API's limit for one call.
const MAX_RELEASED: usize = 1000;

/// Who the worker is to the server.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) worker_id: String,
    pub(super) instance_uid: String,
}

/// Settings of a [`Worker`].
#[must_use = "a builder does nothing until `start` is called"]
pub struct WorkerBuilder {
    client: Client,
    queues: BTreeSet<String>,
    concurrency: usize,
    worker_id: Option<String>,
    handlers: Handlers,
    cancel_grace: Duration,
}

impl WorkerBuilder {
    /// The queues it takes tasks from. Default: `default`.
    pub fn queues<S: Into<String>>(mut self, queues: impl IntoIterator<Item = S>) -> Self {
        self.queues.extend(queues.into_iter().map(Into::into));
        self
    }

    /// How many tasks it runs at once. Default: the number of processors.
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.concurrency = tasks.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Its name, the same after a restart. Default: the host's name and the process's id.
    pub fn worker_id(mut self, worker_id: impl Into<String>) -> Self {
        self.worker_id = Some(worker_id.into());
        self
    }

    /// How long a handler may go on after its task was asked to stop, before its future is
    /// dropped. Default: 30 s.
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.cancel_grace = grace;
        self
    }

    /// Runs tasks of a type. A second handler of the same type takes the place of the first.
    pub fn handler<H, F, O, E>(mut self, task_type: impl Into<String>, handler: H) -> Self
    where
        H: Fn(TaskContext) -> F + Send + Sync + 'static,
        F: Future<Output = Result<O, E>> + Send + 'static,
        O: Into<Output>,
        E: Into<TaskFailure>,
    {
        let handler = move |context: TaskContext| {
            let attempt = handler(context);
            let attempt = async move { attempt.await.map(Into::into).map_err(Into::into) };
            Box::pin(attempt) as super::run::HandlerFuture
        };
        self.handlers.insert(task_type.into(), Arc::new(handler));
        self
    }

    /// Whether it runs tasks of type `exec`: any command line that is submitted. Default: no.
    pub fn allow_exec(self, allow: bool) -> Self {
        if allow {
            self.handler(exec::TASK_TYPE, exec::run)
        } else {
            self
        }
    }

    /// Starts it. To be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When it has no handlers, or the thread that renews leases cannot be started.
    pub fn start(self) -> Result<Worker, Error> {
        const OPERATION: &str = "Worker";
        if self.handlers.is_empty() {
            return Err(Error::invalid(
                OPERATION,
                "a worker needs at least one handler",
            ));
        }
        let identity = Identity {
            worker_id: self.worker_id.unwrap_or_else(default_worker_id),
            instance_uid: Uuid::new_v4().to_string(),
        };
        let queues = if self.queues.is_empty() {
            vec!["default".to_owned()]
        } else {
            self.queues.into_iter().collect()
        };
        let leases = Arc::new(Leases::default());
        let renewing = CancellationToken::new();
        let renewer = renew::start(
            self.client.clone(),
            identity.clone(),
            Arc::clone(&leases),
            renewing.clone(),
        )
        .map_err(|error| {
            let message = format!("the thread that renews leases did not start: {error}");
            Error::new(OPERATION, tonic::Code::Internal, "THREAD", message)
        })?;
        let (finished, ready) = mpsc::channel(FINISHED_CAPACITY);
        let finisher = create_library_task(
            "worker finish",
            finish::run(self.client.clone(), Arc::clone(&leases), ready),
        );
        let running = Running {
            client: self.client,
            identity,
            queues: queues.into(),
            handlers: Arc::new(self.handlers),
            leases,
            slots: Arc::new(Semaphore::new(self.concurrency)),
            attempts: TaskTracker::new(),
            settling: TaskTracker::new(),
            finished,
            cancel_grace: self.cancel_grace,
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
        };
        tracing::info!(
            worker.id = running.identity.worker_id, worker.instance = running.identity.instance_uid,
            worker.queues = ?running.queues, worker.concurrency = self.concurrency,
            "worker started"
        );
        let asker = create_library_task("worker lease", lease_loop::run(running.clone()));
        Ok(Worker {
            running,
            asker,
            finisher,
            renewing,
            renewer: Some(renewer),
        })
    }
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WorkerBuilder")
            .field("queues", &self.queues)
            .field("concurrency", &self.concurrency)
            .field("handlers", &self.handlers.keys())
            .finish_non_exhaustive()
    }
}

fn default_worker_id() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let host = host
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    match host.trim() {
        "" => format!("worker-{}", process::id()),
        host => format!("{host}-{}", process::id()),
    }
}

/// A worker that runs. Dropping it drops its attempts; their leases expire by themselves.
#[must_use = "dropping a worker stops it"]
pub struct Worker {
    running: Running,
    asker: TaskHandle<()>,
    finisher: TaskHandle<()>,
    renewing: CancellationToken,
    renewer: Option<thread::JoinHandle<()>>,
}

impl Worker {
    /// All settings.
    pub fn builder(client: Client) -> WorkerBuilder {
        let concurrency = thread::available_parallelism().map_or(1, usize::from);
        WorkerBuilder {
            client,
            queues: BTreeSet::new(),
            concurrency,
            worker_id: None,
            handlers: Handlers::new(),
            cancel_grace: Duration::from_secs(30),
        }
    }

    /// Its stable name.
    pub fn worker_id(&self) -> &str {
        &self.running.identity.worker_id
    }

    /// This process's own name.
    pub fn instance_uid(&self) -> &str {
        &self.running.identity.instance_uid
    }

    /// How many attempts run now.
    pub fn attempts(&self) -> usize {
        self.running.attempts.len()
    }

    /// Takes no more work; what runs goes on, renewed.
    pub fn initiate_shutdown(&self) {
        self.running.draining.cancel();
    }

    /// Runs until `until` is ready, then shuts down.
    pub async fn run_until(self, until: impl Future<Output = ()>, grace: Duration) {
        until.await;
        self.shutdown(grace).await;
    }

    /// Takes no more work, waits up to `grace` for what runs, tells the results, and gives back
    /// what is unfinished, so that it is tried elsewhere at once and costs no attempt.
    pub async fn shutdown(mut self, grace: Duration) {
        self.initiate_shutdown();
        // The asker ends at once; a failure of it has been logged.
        let _ = (&mut self.asker).await;
        self.running.attempts.close();
        if timeout(grace, self.running.attempts.wait()).await.is_err() {
            tracing::warn!(attempts = self.attempts(), "giving back what is unfinished");
            self.running.stopping.cancel();
        }
        let deadline = Instant::now() + FINISH_DEADLINE;
        let dropped = timeout_at(deadline, self.running.attempts.wait()).await;
        if dropped.is_err() {
            // A handler that never yields cannot be dropped.
            tracing::warn!(
                attempts = self.attempts(),
                "attempts did not end, leaving them"
            );
        }
        // With the last sender gone, the finisher ends once everything is told.
        let (nobody, _) = mpsc::channel(1);
        self.running.finished = nobody;
        if timeout_at(deadline, &mut self.finisher).await.is_err() {
            tracing::warn!("results could not be told in time");
        }
        self.running.settling.close();
        if timeout_at(deadline, self.running.settling.wait())
            .await
            .is_err()
        {
            let queues = self.running.settling.len();
            tracing::warn!(queues, "state was not acknowledged in time");
        }
        self.release().await;
        self.renewing.cancel();
        if let Some(renewer) = self.renewer.take() {
            // It ends within one turn of its loop.
            let _ = blocking("wait for the thread of leases", move || renewer.join()).await;
        }
    }

    async fn release(&self) {
        let Running { client, leases, .. } = &self.running;
        let lease_tokens: Vec<_> = leases.all().iter().map(|held| held.token.clone()).collect();
        for some in lease_tokens.chunks(MAX_RELEASED) {
            let request = ReleaseLeasesRequest {
                lease_tokens: some.to_vec(),
            };
            let released = client
                .unary("ReleaseLeases", request, |request| {
                    let mut workers = client.workers();
                    async move { workers.release_leases(request).await }
                })
                .await;
            if let Err(error) = released {
                tracing::warn!(error.message = %error, "leases were not released, they will expire");
                return;
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.running.draining.cancel();
        self.running.stopping.cancel();
        self.renewing.cancel();
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Worker")
            .field("identity", &self.running.identity)
            .field("queues", &self.running.queues)
            .field("attempts", &self.attempts())
            .finish_non_exhaustive()
    }
}
