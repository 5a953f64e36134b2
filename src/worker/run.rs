//! Runs one attempt: calls the handler, catches what it does, and says how it ended.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message;

use super::{
    context::TaskContext,
    failure::{Output, TaskFailure},
    lease::Held,
};
use crate::{
    proto::v1::{Payload, TaskOutcome, task_outcome::Outcome},
    runtime::catch,
};

/// The API's limit for an output, its type and metadata included.
const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// Below the 4 MiB that a call may weigh.
const MAX_OUTCOME_BYTES: usize = 3 << 20;
/// A handler whose lease is lost has so long to notice before its future is dropped.
const LOST_GRACE: Duration = Duration::from_secs(5);

pub(super) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Output, TaskFailure>> + Send>>;
pub(super) type Handler = Arc<dyn Fn(TaskContext) -> HandlerFuture + Send + Sync>;
pub(super) type Handlers = BTreeMap<String, Handler>;

/// Runs the attempt to its end. None when its lease is lost: the result is another attempt's.
pub(super) async fn run(
    handlers: &Handlers,
    context: &TaskContext,
    held: &Held,
    cancel_grace: Duration,
) -> Option<TaskOutcome> {
    // However it ends: it may also be dropped.
    let following = EndFollowers(context);
    let started = Instant::now();
    let result = match handlers.get(&context.task().r#type) {
        Some(handler) => call(handler, context, held, cancel_grace).await,
        None => {
            let message = format!("this worker has no handler for `{}`", context.task().r#type);
            Err(TaskFailure::new("handler.missing", message).of_library(""))
        }
    };
    drop(following);
    log(held, &result, started.elapsed());
    context.until_handlers_returned().await;
    let flushed = context.settle_surplus(context.close_queues()).await;
    if held.lost.is_cancelled() {
        let succeeded = result.is_ok();
        tracing::warn!(
            task.name = held.task,
            succeeded,
            "result dropped, the lease was lost"
        );
        return None;
    }
    Some(outcome(context, held, result, flushed))
}

/// The one place where the end of a handler is logged.
fn log(held: &Held, result: &Result<Output, TaskFailure>, duration: Duration) {
    let task = &held.task;
    match result {
        Ok(_) => tracing::debug!(task.name = task, ?duration, "handler finished"),
        Err(failure) if failure.is_cancel() => {
            tracing::debug!(task.name = task, ?duration, "handler stopped on request")
        }
        Err(failure) => {
            let (what, message) = (failure.failure_type(), failure.logged());
            let said = if what == "panic" {
                "handler panicked"
            } else {
                "handler failed"
            };
            tracing::error!(
                task.name = task, ?duration, error.type = what, error.message = message,
                error.location = failure.location(), "{said}"
            );
        }
    }
}

struct EndFollowers<'a>(&'a TaskContext);

impl Drop for EndFollowers<'_> {
    fn drop(&mut self) {
        self.0.end_followers();
    }
}

fn outcome(
    context: &TaskContext,
    held: &Held,
    result: Result<Output, TaskFailure>,
    flushed: Vec<crate::proto::v1::WriterMark>,
) -> TaskOutcome {
    let mut outcome = TaskOutcome {
        lease_token: held.token.clone(),
        flushed,
        ..TaskOutcome::default()
    };
    let wire = |failure: TaskFailure| {
        let trace = context.trace_context().cloned();
        Outcome::Failure(failure.into_wire(trace, context.attempt()))
    };
    match result {
        Ok(Output(payload)) => {
            let weight = payload_bytes(&payload);
            outcome.outcome = Some(Outcome::Output(payload));
            outcome.contributions = context.take_contributions();
            let bytes = outcome.encoded_len();
            let too_large = if weight > MAX_PAYLOAD_BYTES {
                Some(("the output weighs", weight, MAX_PAYLOAD_BYTES))
            } else if bytes > MAX_OUTCOME_BYTES {
                let what = "the output and contributions weigh";
                Some((what, bytes, MAX_OUTCOME_BYTES))
            } else {
                None
            };
            if let Some((what, bytes, limit)) = too_large {
                let message = format!(
                    "{what} {bytes} bytes, the limit is {limit}; put large results elsewhere \
                     and return where"
                );
                let failure = TaskFailure::new("output.too_large", message)
                    .permanent()
                    .of_library("");
                outcome.contributions.clear();
                outcome.outcome = Some(wire(failure));
            }
        }
        Err(failure) => outcome.outcome = Some(wire(failure)),
    }
    outcome
}

fn payload_bytes(payload: &Payload) -> usize {
    let metadata = payload.metadata.iter();
    let metadata: usize = metadata.map(|(key, value)| key.len() + value.len()).sum();
    payload.content_type.len() + payload.data.len() + metadata
}

async fn call(
    handler: &Handler,
    context: &TaskContext,
    held: &Held,
    cancel_grace: Duration,
) -> Result<Output, TaskFailure> {
    // Whatever the panic left half done is dropped with the attempt.
    let calling = catch(async { handler(context.clone()).await });
    let give_up = async {
        held.cancelled.cancelled().await;
        tokio::select! {
            () = tokio::time::sleep(cancel_grace) => {}
            () = async { held.lost.cancelled().await; tokio::time::sleep(LOST_GRACE).await } => {}
        }
    };
    tokio::select! {
        biased;
        result = calling => result.unwrap_or_else(|panic| Err(TaskFailure::panic(panic))),
        () = give_up => {
            tracing::warn!(task.name = held.task, "handler did not stop in time, dropping it");
            Err(TaskFailure::cancelled())
        }
    }
}
