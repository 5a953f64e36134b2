//! What is caught, counted, listed and stopped.

use std::{convert::Infallible, future::pending, io};

use tokio::time::Instant;

use super::*;

#[derive(Debug, thiserror::Error)]
#[error("the mesh could not be read")]
struct MeshError(#[source] io::Error);

fn mesh_error() -> MeshError {
    MeshError(io::Error::other("disk on fire"))
}

#[tokio::test]
async fn a_value_comes_through_the_handle() {
    let registry = Registry::default();
    let task = registry.create_task("sum", async { Ok::<_, Infallible>(42) });
    assert_eq!(task.name(), "sum");
    assert_eq!(task.await, Ok(42));
    assert_eq!(registry.counts().succeeded, 1);
    assert_eq!(registry.pending_tasks(), 0);
}

#[tokio::test]
async fn an_error_is_kept_with_its_type_and_causes() {
    let registry = Registry::default();
    let error = registry
        .create_task("mesh", async { Err::<(), _>(mesh_error()) })
        .await;
    let Err(TaskError::Failed {
        error_type,
        message,
        chain,
        origin,
    }) = error
    else {
        panic!("expected a failure, got {error:?}");
    };
    assert!(error_type.ends_with("MeshError"), "{error_type}");
    assert_eq!(message, "the mesh could not be read");
    assert_eq!(chain[0].message, "disk on fire");
    assert_eq!(origin.location, "registry_tests.rs");
    assert_eq!(registry.counts().failed, 1);
}

#[tokio::test]
async fn a_panic_is_a_failure_told_apart_from_an_error() {
    let registry = Registry::default();
    let task = registry.create_task("boom", async {
        if true {
            panic!("index {} out of range", 7);
        }
        Ok::<(), Infallible>(())
    });
    let Err(TaskError::Panicked { message, origin }) = task.await else {
        panic!("expected a panic");
    };
    assert_eq!(message, "index 7 out of range");
    assert!(
        origin.location.starts_with("registry_tests.rs"),
        "{origin:?}"
    );
    assert_eq!(registry.counts().panicked, 1);
}

#[tokio::test]
async fn an_aborted_task_is_cancelled_and_no_longer_pending() {
    let registry = Registry::default();
    let task = registry.create_task("wait", pending::<Result<(), Infallible>>());
    assert_eq!(registry.pending_tasks(), 1);
    task.abort();
    assert_eq!(task.await, Err(TaskError::Cancelled));
    registry.wait_idle().await;
    assert_eq!(registry.counts().cancelled, 1);
}

#[tokio::test]
async fn a_decorated_task_is_caught_and_aborted_like_a_created_one() {
    let registry = Registry::default();
    let failing = tokio::spawn(async { Err::<(), _>(mesh_error()) });
    let failing = registry.decorate_task("mesh", failing).await;
    assert!(
        matches!(failing, Err(TaskError::Failed { .. })),
        "{failing:?}"
    );
    let endless = registry.decorate_task("wait", tokio::spawn(pending::<Result<(), Infallible>>()));
    endless.abort();
    assert_eq!(endless.await, Err(TaskError::Cancelled));
}

#[tokio::test]
async fn a_job_the_process_needs_shuts_it_down_and_another_does_not() {
    let shutdown = CancellationToken::new();
    let registry = Registry::new(shutdown.clone());
    let job = registry.spawn_job(JobKind::Maintenance, "prune", async {
        Err::<(), _>(mesh_error())
    });
    job.await.unwrap_err();
    assert!(!shutdown.is_cancelled());
    let job = registry.spawn_job(JobKind::Journal, "append", async {
        Err::<(), _>(mesh_error())
    });
    job.await.unwrap_err();
    assert!(shutdown.is_cancelled());
    assert_eq!(
        registry.fatal_failure().map(|(name, _)| name).as_deref(),
        Some("append")
    );
}

#[tokio::test]
async fn jobs_are_listed_with_restarts_and_their_last_failure() {
    let registry = Registry::default();
    for _ in 0..3 {
        let job = async { Err::<(), _>(mesh_error()) };
        registry
            .spawn_job(JobKind::Maintenance, "prune", job)
            .await
            .unwrap_err();
    }
    let jobs = registry.jobs();
    assert_eq!(jobs.len(), 1);
    assert_eq!(
        (jobs[0].name.as_str(), jobs[0].restarts, jobs[0].running),
        ("prune", 2, false)
    );
    assert_eq!(jobs[0].last_failure, "the mesh could not be read");
}

#[tokio::test(start_paused = true)]
async fn stopping_waits_for_what_must_finish_and_aborts_the_rest() {
    let registry = Registry::default();
    let stream = registry.spawn_job(
        JobKind::Stream,
        "watch",
        pending::<Result<(), Infallible>>(),
    );
    let journal = registry.spawn_job(JobKind::Journal, "append", async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, Infallible>("flushed")
    });
    assert_eq!(registry.stop(Duration::from_secs(5)).await, 0);
    assert_eq!(stream.await, Err(TaskError::Cancelled));
    assert_eq!(journal.await, Ok("flushed"));
    let stuck = registry.spawn_job(
        JobKind::Journal,
        "stuck",
        pending::<Result<(), Infallible>>(),
    );
    assert_eq!(registry.stop(Duration::from_secs(5)).await, 1);
    assert_eq!(stuck.await, Err(TaskError::Cancelled));
}

/// Lives as long as it is told: it panics, fails or ends.
fn restarting(
    registry: &Registry,
    kind: JobKind,
    mut life: impl FnMut(Life) -> Result<(), MeshError> + Send + 'static,
) -> TaskHandle<()> {
    registry.spawn_restarting(kind, "sweep", move |number| {
        std::future::ready(life(number))
    })
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_or_panics_is_started_again_until_it_succeeds() {
    let shutdown = CancellationToken::new();
    let registry = Registry::new(shutdown.clone());
    let began = Instant::now();
    let job = restarting(&registry, JobKind::Maintenance, |life| match life.number {
        0 => Err(mesh_error()),
        1 => panic!("twice"),
        _ => Ok(()),
    });
    assert_eq!(job.await, Ok(()));
    let passed = began.elapsed();
    assert!(passed >= Duration::from_millis(240) && passed <= Duration::from_millis(310));
    let jobs = registry.jobs();
    assert_eq!((jobs.len(), jobs[0].restarts, jobs[0].failures), (1, 2, 2));
    assert_eq!(jobs[0].last_failure, "the task panicked: twice");
    assert!(!jobs[0].running && !shutdown.is_cancelled());
    let counts = KindCounts {
        started: 3,
        failed: 1,
        panicked: 1,
        restarts: 2,
        ..KindCounts::default()
    };
    assert_eq!(registry.by_kind(), [("maintenance", counts)].into());
}

#[tokio::test(start_paused = true)]
async fn a_job_the_server_needs_is_given_up_after_failures_in_a_row() {
    let shutdown = CancellationToken::new();
    let registry = Registry::new(shutdown.clone());
    let job = registry.spawn_restarting(JobKind::Monitor, "sweep", |life| async move {
        life.at_work();
        // A minute of work forgives what was before.
        if life.number % 4 == 3 && life.number < 20 {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        if true {
            panic!("life {}", life.number);
        }
        Ok::<_, MeshError>(())
    });
    // The last that worked for a minute counts as the first, and four more in a row.
    let error = job.await.unwrap_err();
    assert_eq!(error.to_string(), "the task panicked: life 23");
    assert!(shutdown.is_cancelled());
    assert!(registry.fatal_failure().is_some());
    assert_eq!(registry.by_kind()["monitor"].panicked, 24);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_kind_that_only_restarts_after_panics_is_its_last_word() {
    let shutdown = CancellationToken::new();
    let registry = Registry::new(shutdown.clone());
    let job = restarting(&registry, JobKind::Monitor, |_| Err(mesh_error()));
    assert!(matches!(job.await, Err(TaskError::Failed { .. })));
    assert!(shutdown.is_cancelled());
    assert_eq!(registry.by_kind()["monitor"].restarts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_rests_is_listed_as_not_running_and_can_be_aborted() {
    let registry = Registry::default();
    let job = restarting(&registry, JobKind::Telemetry, |_| Err(mesh_error()));
    tokio::task::yield_now().await;
    assert!(!registry.jobs()[0].running);
    assert_eq!(registry.pending_tasks(), 1);
    job.abort();
    assert_eq!(job.await, Err(TaskError::Cancelled));
    let counts = registry.by_kind()["telemetry"];
    assert_eq!((counts.running, counts.cancelled, counts.failed), (0, 1, 1));
}

#[tokio::test]
async fn a_thread_that_panics_is_caught_counted_and_acted_on() {
    let shutdown = CancellationToken::new();
    let registry = Registry::new(shutdown.clone());
    let work = || -> Result<(), Infallible> { panic!("no disk") };
    let thread = registry.spawn_thread(JobKind::Journal, "disk", work);
    let error = thread.unwrap().join().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the task panicked: no disk");
    assert!(shutdown.is_cancelled());
    assert_eq!(registry.by_kind()["journal"].panicked, 1);
    let work = || Ok::<_, Infallible>(7);
    let task = registry.spawn_blocking(JobKind::Maintenance, "count", work);
    assert_eq!(task.await, Ok(7));
}

#[tokio::test]
async fn a_sink_is_told_of_failures_within_its_room_and_of_nothing_else() {
    let registry = Registry::default();
    let (sink, mut failures) = mpsc::channel(1);
    registry.on_failure(sink);
    for _ in 0..3 {
        let job = async { Err::<(), _>(mesh_error()) };
        let _ = registry.spawn_job(JobKind::Stream, "mesh", job).await;
    }
    registry
        .create_task("fine", async { Ok::<_, Infallible>(()) })
        .await
        .unwrap();
    let aborted = registry.create_task("wait", pending::<Result<(), Infallible>>());
    aborted.abort();
    let _ = aborted.await;
    let failure = failures.try_recv().unwrap();
    assert_eq!((&*failure.name, failure.kind), ("mesh", JobKind::Stream));
    assert!(failures.try_recv().is_err());
    assert_eq!(registry.failures_dropped(), 2);
}
