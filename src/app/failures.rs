//! Failures of background jobs, handed on to be reported beside those of tasks.

use std::convert::Infallible;

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::runtime::{JobFailure, JobKind, Registry};

/// Failures that may wait to be reported; what is beyond it is counted by the registry.
const WAITING: usize = 64;
/// The job that reports. Its own failures are logged and never reported: that would not end.
const NAME: &str = "failure reports";

/// Reports every failure of a job from now on, until what it returns is dropped.
pub(super) fn report(jobs: &Registry) -> DropGuard {
    let stop = CancellationToken::new();
    let guard = stop.clone().drop_guard();
    let (sink, mut failures) = mpsc::channel(WAITING);
    jobs.on_failure(sink);
    let _handle = jobs.spawn_job(JobKind::Stream, NAME, async move {
        let reporting = async {
            while let Some(failure) = failures.recv().await {
                if failure.name != NAME {
                    hand_on(&failure).await;
                }
            }
        };
        stop.run_until_cancelled(reporting).await;
        Ok::<_, Infallible>(())
    });
    guard
}

/// The last hop: to the error groups of the namespace `default`. Until those take reports it is only
/// traced; the registry has logged the failure already.
async fn hand_on(failure: &JobFailure) {
    tracing::debug!(
        job.name = failure.name,
        job.kind = failure.kind.as_str(),
        error.type = failure.error.error_type(),
        "a job's failure is to be reported"
    );
}
