//! The server, put together: store, engine, services, listeners, and their end in order.
//!
//! [`run`] is the checklist. The caller owns the configuration and the wish to stop, so that tests
//! take port 0 and stop it when they please.

mod failures;
mod io_threads;
mod listen;
mod stop;

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use self::listen::{Endpoint, bind, serve};
use crate::{
    config::ServerConfig,
    engine::{Engine, EngineOptions, StartError},
    journal::{LocalOptions, LocalStore, OpenError},
    runtime::{JobKind, Registry, TaskError, blocking, library},
    service,
    telemetry::{
        Probe,
        metrics::{JobReading, Metrics},
    },
};

pub use stop::END_WITHIN;

/// How long the last push of metrics is waited for.
const PUSH_WITHIN: Duration = Duration::from_secs(1);

/// Why a server did not start, or ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {problem}; {}choose another with {option}",
        bind_advice(problem)
    )]
    Bind {
        /// As it was configured.
        address: String,
        /// What the system said.
        problem: io::Error,
        /// What sets it.
        option: &'static str,
    },
    /// The data folder cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The journal cannot be replayed.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A thread of the server's start panicked.
    #[error("opening the data folder failed: {0}")]
    Panicked(String),
    /// A background job failed that the server cannot do without.
    #[error("the job `{job}` failed and the server cannot go on without it: {problem}")]
    Fatal {
        /// Which job.
        job: String,
        /// Why.
        problem: TaskError,
    },
    /// The end was not a clean one.
    #[error("the data folder could not be closed in order: {0}; what was acknowledged is safe")]
    Close(String),
}

fn bind_advice(problem: &io::Error) -> &'static str {
    match problem.kind() {
        io::ErrorKind::AddrInUse => "stop what uses it or ",
        io::ErrorKind::AddrNotAvailable => "it is not an address of this machine: ",
        io::ErrorKind::PermissionDenied => "ports below 1024 need special rights: ",
        _ => "",
    }
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The services.
    pub grpc: SocketAddr,
    /// Health, reflection and metrics.
    pub admin: SocketAddr,
}

/// Runs a server until `shutdown` is ready and its work has been put away, or until it cannot go
/// on. `ready` is called once, when it serves; `probe` hears of what happens.
pub async fn run(
    config: &ServerConfig,
    mut probe: Probe,
    ready: impl FnOnce(Bound),
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    // Ports first: they fail at once, which should not come after a long replay. Until then
    // connections wait in the listener's queue, and health says that nothing is served yet.
    let grpc = bind(&config.listen, "--listen").await?;
    let admin = bind(&config.admin, "--admin").await?;
    let bound = Bound {
        grpc: grpc.address,
        admin: admin.address,
    };

    let failed = CancellationToken::new();
    let jobs = Registry::new(failed.clone());
    let metrics = Metrics::start();
    probe.metrics = metrics.clone();
    if let Some(spans) = probe.traces.span_counts() {
        metrics.register_export_counts("spans", move || spans.read());
    }
    if let Some(logs) = probe.traces.log_counts() {
        metrics.register_export_counts("logs", move || logs.read());
    }
    let reported_to = Arc::new(OnceLock::new());
    let _reports = failures::report(&jobs, Arc::clone(&reported_to));
    let (admin_routes, health) = service::admin_routes().await;
    let admin_routes = service::with_pages(admin_routes, metrics.clone());
    let admin = Endpoint {
        listener: admin,
        max_streams: listen::ADMIN_STREAMS,
        http1: true,
        stop: CancellationToken::new(),
    };
    let stop_admin = admin.stop.clone();
    // A start that fails must not leave it behind.
    let _stop_admin = stop_admin.clone().drop_guard();
    let _admin = jobs.spawn_job(JobKind::Admin, "admin", serve(admin, admin_routes));

    tokio::pin!(shutdown);
    let started = async {
        let store = open_store(config, jobs.clone()).await?;
        let options = EngineOptions {
            keep_ended: usize::try_from(config.keep_ended).unwrap_or(usize::MAX),
            probe,
        };
        Ok::<_, Error>(Engine::start_with(options, Arc::new(store), jobs.clone()).await?)
    };
    let engine = tokio::select! {
        engine = started => engine?,
        // A long replay reads and nothing else: there is nothing to put away.
        () = &mut shutdown => return Ok(()),
    };
    let _ = reported_to.set(engine.clone());
    read_when_asked(&metrics, &engine, &jobs);
    let mut routes = service::routes(engine.clone(), jobs.clone());
    if config.reflection {
        routes = service::with_reflection(routes);
    }
    let grpc = Endpoint {
        listener: grpc,
        max_streams: config.max_streams,
        http1: false,
        stop: CancellationToken::new(),
    };
    let stop_accepting = grpc.stop.clone();
    let grpc = jobs.spawn_job(
        JobKind::Server,
        "grpc",
        io_threads::serve(grpc, routes, config.io_threads, jobs.clone()),
    );
    health.set_serving().await;
    metrics.set_ready(true);
    tracing::info!(
        grpc.address = %bound.grpc,
        admin.address = %bound.admin,
        data = %config.data.display(),
        "server is ready"
    );
    ready(bound);

    tokio::select! {
        () = &mut shutdown => tracing::info!("asked to stop"),
        () = failed.cancelled() => {}
    }
    metrics.set_ready(false);
    let stopped = stop::in_order(stop::Parts {
        drain_timeout: config.drain_timeout,
        health,
        engine,
        grpc,
        stop_accepting,
        stop_admin,
    })
    .await;
    // A receiver that does not answer has had its time; the process may end meanwhile.
    let last_push = blocking("push the last metrics", move || metrics.stop());
    if tokio::time::timeout(PUSH_WITHIN, last_push).await.is_err() {
        tracing::warn!("the receiver of metrics does not answer: the last ones are lost");
    }
    match jobs.fatal_failure() {
        Some((job, problem)) => Err(Error::Fatal { job, problem }),
        None => stopped,
    }
}

/// What the rest of the server says when somebody collects.
fn read_when_asked(metrics: &Metrics, engine: &Engine, jobs: &Registry) {
    // It counts there itself: neither may keep the other.
    let engine = engine.weak();
    metrics.read_from(move |reading| {
        if let Some(engine) = engine() {
            engine.read(reading);
        }
    });
    let jobs = jobs.clone();
    metrics.read_from(move |reading| {
        reading.pending = jobs.pending_tasks() as u64;
        let mut kinds = jobs.by_kind();
        // The library's own work in this process is the server's.
        for (kind, of_library) in library().by_kind() {
            kinds.entry(kind).or_default().add(of_library);
        }
        let kinds = kinds.into_iter().map(|(kind, counts)| JobReading {
            kind,
            running: counts.running,
            failures: counts.failed + counts.panicked,
            restarts: counts.restarts,
        });
        reading.jobs = kinds.collect();
    });
}

async fn open_store(config: &ServerConfig, jobs: Registry) -> Result<LocalStore, Error> {
    let data = config.data.clone();
    let options = LocalOptions {
        durability: config.durability,
        disk_reserve: config.disk_reserve,
    };
    blocking("open the data folder", move || {
        LocalStore::open_in(&data, options, &jobs)
    })
    .await
    .map_err(|error| Error::Panicked(error.to_string()))?
    .map_err(Error::Open)
}
