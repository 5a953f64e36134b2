//! Failures of background jobs, counted in the error groups beside those of tasks.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    domain::{
        NamespaceId, Uid,
        failure::Report,
        task::{Failure, FailureCategory},
    },
    engine::Engine,
    runtime::{JobFailure, JobKind, Registry, library},
};

/// Failures that may wait to be reported; what is beyond it is counted by the registry.
const WAITING: usize = 64;
/// How often one is tried, how long each time, and the pause after it.
const TRIES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);
/// The job that reports. Its own failures are logged and never reported: that would not end.
const NAME: &str = "failure reports";
/// Where failures go that belong to no namespace.
const DEFAULT: &str = "default";

/// Reports every failure of a job from now on, until what it returns is dropped. `engine` is filled in
/// when there is one; what fails before is logged alone.
pub(super) fn report(jobs: &Registry, engine: Arc<OnceLock<Engine>>) -> DropGuard {
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    let (sink, mut failures) = mpsc::channel(WAITING);
    jobs.on_failure(sink.clone());
    // The library's own work in this process is the server's.
    library().on_failure(sink);
    let _handle = jobs.spawn_job(JobKind::Stream, NAME, async move {
        let reporting = async {
            while let Some(failure) = failures.recv().await {
                if failure.name != NAME
                    && let Some(engine) = engine.get()
                {
                    hand_on(engine, &failure).await;
                }
            }
        };
        stop.run_until_cancelled(reporting).await;
        Ok::<_, Infallible>(())
    });
    guard
}

/// To the namespace that the job serves, or to `default`. The registry has logged the failure already;
/// that it cannot be counted is no more than another line.
async fn hand_on(engine: &Engine, failure: &JobFailure) {
    let named = failure.name.strip_prefix("monitor of ");
    let named = named.filter(|_| failure.kind == JobKind::Monitor);
    let namespace = NamespaceId::trusted(named.unwrap_or(DEFAULT));
    let Some(report) = report_of(failure) else {
        return;
    };
    let mut reported = Ok(());
    // The monitor that takes it may be the one that fails. It counts once, by its id.
    for _ in 0..TRIES {
        let answer = match engine.existing(&namespace) {
            Ok(namespace) => {
                let report = namespace.report(vec![report.clone()]);
                tokio::time::timeout(PATIENCE, report).await
            }
            Err(error) => Ok(Err(error)),
        };
        reported = match answer {
            Ok(answer) => answer.map(drop).map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        };
        if reported.is_ok() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    if let Err(error) = reported {
        tracing::warn!(
            job.name = failure.name,
            namespace = %namespace,
            error.message = %error,
            "failure of a background job is not in the error groups"
        );
    }
}

fn report_of(failure: &JobFailure) -> Option<Report> {
    let error = &failure.error;
    let origin = error.origin();
    let text = |of: fn(&crate::runtime::Origin) -> &String| origin.map(of).cloned();
    let since_epoch = failure.time.duration_since(SystemTime::UNIX_EPOCH);
    let micros = since_epoch.map_or(0, |since| since.as_micros());
    let account = Failure {
        category: FailureCategory::Infrastructure as i32,
        r#type: error.error_type().to_owned(),
        message: error.to_string(),
        stack_trace: text(|origin| &origin.stack).unwrap_or_default(),
        location: text(|origin| &origin.location).unwrap_or_default(),
        runtime: concat!("rust/", env!("CARGO_PKG_RUST_VERSION")).to_owned(),
        time_us: i64::try_from(micros).unwrap_or_default(),
        ..Failure::default()
    };
    let id = Uid(uuid::Uuid::new_v4().as_u128());
    // Of low cardinality: the job's name may hold that of a namespace.
    let work = format!("duite.{}", failure.kind.as_str());
    Report::new(id, &work, &account)
}
