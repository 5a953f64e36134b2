//! Asks for work when there is room for it, and runs what comes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::span::HandlerSpan;
use super::{
    builder::Identity,
    context::TaskContext,
    finish::Finished,
    lease::{Held, Leases},
    run::{self, Handlers},
};
use crate::{
    client::{Backoff, Client, std_duration, wire_duration},
    proto::v1::{Lease, LeaseTasksRequest},
};

/// How long the server may keep a question for work.
const WAIT: Duration = Duration::from_secs(20);
/// What an answer may take beyond that.
const WAIT_SLACK: Duration = Duration::from_secs(10);
/// An answer without work that comes sooner is one of a server that does not wait, because it is
/// ending or has too many who ask.
const SOON: Duration = Duration::from_secs(1);
/// How long the state of an attempt that has ended is waited for at most; the server takes it no
/// longer than for 10 s after the finish.
const SETTLE: Duration = Duration::from_secs(60);
/// The API's limit for one question.
const MAX_TASKS: usize = 1000;

/// What the loop and the attempts it starts share.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) client: Client,
    pub(super) identity: Identity,
    pub(super) queues: Arc<[String]>,
    pub(super) handlers: Arc<Handlers>,
    pub(super) leases: Arc<Leases>,
    pub(super) slots: Arc<Semaphore>,
    pub(super) attempts: TaskTracker,
    /// The state that attempts which have ended wrote last, on its way to the server.
    pub(super) settling: TaskTracker,
    pub(super) finished: mpsc::Sender<Finished>,
    pub(super) cancel_grace: Duration,
    /// No more work is asked for.
    pub(super) draining: CancellationToken,
    /// The attempts that run are dropped.
    pub(super) stopping: CancellationToken,
}

/// Asks until the worker drains.
pub(super) async fn run(running: Running) {
    let mut backoff = Backoff::for_streams();
    let draining = running.draining.clone();
    let asking = async {
        loop {
            let slots = free_slots(&running.slots).await;
            let asked = Instant::now();
            match ask(&running, slots.len()).await {
                Ok(leases) if leases.is_empty() && asked.elapsed() < SOON => {
                    let wait = backoff.next_wait();
                    tracing::debug!(
                        ?wait,
                        "there is no work, and the server did not wait for any"
                    );
                    drop(slots);
                    tokio::time::sleep(wait).await;
                }
                Ok(leases) => {
                    backoff.reset();
                    let received = Instant::now();
                    for (lease, slot) in leases.into_iter().zip(slots) {
                        start(&running, lease, received, slot);
                    }
                }
                Err(error) => {
                    let wait = error.retry_after().unwrap_or_default() + backoff.next_wait();
                    if error.is_retryable() {
                        tracing::debug!(error.message = %error, ?wait, "asking for work failed");
                    } else {
                        tracing::warn!(error.message = %error, ?wait, "asking for work failed");
                    }
                    drop(slots);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    };
    // An answer that is on its way is dropped with the question: its leases were never accepted
    // and expire by themselves within seconds.
    tokio::select! {
        () = draining.cancelled() => {}
        () = asking => {}
    }
}

/// All slots that are free and can be asked for at once, at least one.
async fn free_slots(slots: &Arc<Semaphore>) -> Vec<OwnedSemaphorePermit> {
    let first = Arc::clone(slots).acquire_owned().await;
    let mut free = vec![first.expect("the semaphore is never closed")];
    while free.len() < MAX_TASKS
        && let Ok(slot) = Arc::clone(slots).try_acquire_owned()
    {
        free.push(slot);
    }
    free
}

async fn ask(running: &Running, slots: usize) -> Result<Vec<Lease>, crate::client::Error> {
    let Running {
        client,
        identity,
        queues,
        handlers,
        ..
    } = running;
    let request = LeaseTasksRequest {
        parent: client.parent(),
        queues: queues.to_vec(),
        task_types: handlers.keys().cloned().collect(),
        max_tasks: i32::try_from(slots).unwrap_or(i32::MAX),
        wait: Some(wire_duration(WAIT)),
        worker_id: identity.worker_id.clone(),
        instance_uid: identity.instance_uid.clone(),
    };
    let answer = client
        .unary_within("LeaseTasks", WAIT + WAIT_SLACK, request, |request| {
            let mut workers = client.workers();
            async move { workers.lease_tasks(request).await }
        })
        .await?;
    Ok(answer.leases)
}

fn start(running: &Running, lease: Lease, received: Instant, slot: OwnedSemaphorePermit) {
    let Some(task) = lease.task else {
        tracing::warn!("a lease without a task was given");
        return;
    };
    let valid_for = std_duration(lease.valid_for.as_ref()).unwrap_or(Duration::from_secs(4));
    let held = Arc::new(Held::new(
        lease.lease_token,
        task.name.clone(),
        received + valid_for,
        std_duration(lease.renew_interval.as_ref()),
    ));
    running.leases.insert(Arc::clone(&held));
    let span = HandlerSpan::new(&task, lease.trace_context);
    let context = TaskContext::new(
        running.client.clone(),
        task,
        Arc::clone(&held),
        span.trace(),
    );
    let Running {
        handlers,
        leases,
        finished,
        cancel_grace,
        stopping,
        settling,
        ..
    } = running.clone();
    running.attempts.spawn(span.around(async move {
        let attempt = run::run(&handlers, &context, &held, cancel_grace);
        let outcome = tokio::select! {
            outcome = attempt => outcome,
            // What is dropped here is released by the shutdown.
            () = stopping.cancelled() => return,
        };
        for queue in context.take_closed() {
            // What is left then is said by the queue itself.
            settling.spawn(async move { queue.settle_within(SETTLE).await });
        }
        // The slot is free before the result is told: telling needs no processor.
        drop(slot);
        match outcome {
            Some(outcome) => {
                held.end();
                let one = Finished::new(held, outcome, context.attempt());
                if finished.send(one).await.is_err() {
                    tracing::error!("the loop that tells results is gone");
                }
            }
            None => leases.remove(&held.token),
        }
    }));
}
