//! Brings results home: whatever is ready goes in one FinishTasks call, one call at a time, until
//! it is answered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{
    failure::TaskFailure,
    lease::{Held, Leases},
};
use crate::{
    client::{Backoff, Client, Error},
    proto::v1::{
        FinishTasksRequest, OutcomeResult, TaskOutcome, outcome_result, task_outcome::Outcome,
    },
};

/// The API's limit for one call.
const MAX_OUTCOMES: usize = 1000;
/// Below the 4 MiB that a call may weigh.
const MAX_BYTES: usize = 3 << 20;
/// A server that was away gives each lease a full period when it comes back, so a result is worth
/// bringing for a while after its lease has passed by our clock.
const PATIENCE: Duration = Duration::from_secs(120);

/// The API's limit for the marks of one outcome.
pub(super) const MAX_MARKS: usize = 128;
/// What a failure weighs at most that the server keeps whole, and some.
const MAX_FAILURE_BYTES: usize = 256 << 10;

const OPERATION: &str = "FinishTasks";

/// An attempt's end, to be told.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) held: Arc<Held>,
    pub(super) outcome: TaskOutcome,
    pub(super) attempt: i32,
    /// The server took it not, and this tells why in its place.
    pub(super) refused: bool,
}

impl Finished {
    pub(super) fn new(held: Arc<Held>, outcome: TaskOutcome, attempt: i32) -> Self {
        Self {
            held,
            outcome,
            attempt,
            refused: false,
        }
    }

    /// Puts what the server says of it in the place of a result that it refuses: another attempt
    /// would come to the same, and nobody would learn why. Only once; false if that was it.
    fn replace(&mut self, error: &Error) -> bool {
        if self.refused || !refuses(error) {
            return false;
        }
        self.refused = true;
        let outcome = &mut self.outcome;
        tracing::warn!(
            task.name = self.held.task,
            error.reason = error.reason(),
            error.message = error.message(),
            "result refused, telling that instead"
        );
        outcome.contributions.clear();
        outcome.flushed.truncate(MAX_MARKS);
        // A failure is never refused for itself, unless it is too large for the call.
        let keep = matches!(&outcome.outcome, Some(Outcome::Failure(failure))
            if failure.encoded_len() <= MAX_FAILURE_BYTES);
        if !keep {
            let message = format!("the server refused the result: {error}");
            let failure = TaskFailure::new("result.refused", message)
                .permanent()
                .of_library("");
            outcome.outcome = Some(Outcome::Failure(failure.into_wire(None, self.attempt)));
        }
        true
    }
}

/// Whether the server will never take this outcome, for what is in it.
fn refuses(error: &Error) -> bool {
    let code = matches!(
        error.code(),
        tonic::Code::InvalidArgument | tonic::Code::ResourceExhausted | tonic::Code::OutOfRange
    );
    code && !error.is_retryable() && error.reason() != "LEASE_LOST"
}

/// Tells results until the senders are gone and everything is told.
pub(super) async fn run(client: Client, leases: Arc<Leases>, mut ready: mpsc::Receiver<Finished>) {
    let mut waiting: Vec<Finished> = Vec::new();
    loop {
        if waiting.is_empty() && ready.recv_many(&mut waiting, MAX_OUTCOMES).await == 0 {
            return;
        }
        while waiting.len() < MAX_OUTCOMES
            && let Ok(more) = ready.try_recv()
        {
            waiting.push(more);
        }
        let later = waiting.split_off(how_many_fit(&waiting));
        finish(&client, &leases, waiting).await;
        waiting = later;
    }
}

fn how_many_fit(waiting: &[Finished]) -> usize {
    let mut bytes = 0;
    let fit = waiting.iter().take(MAX_OUTCOMES).take_while(|finished| {
        bytes += finished.outcome.encoded_len() + 8;
        bytes <= MAX_BYTES
    });
    fit.count().max(1)
}

async fn finish(client: &Client, leases: &Leases, finished: Vec<Finished>) {
    // The same id through all attempts; what was told already is answered with the task.
    let request_id = Uuid::new_v4().to_string();
    let mut finished = finished;
    let mut backoff = Backoff::for_calls();
    loop {
        let request = FinishTasksRequest {
            outcomes: finished
                .iter()
                .map(|finished| finished.outcome.clone())
                .collect(),
            request_id: request_id.clone(),
        };
        let answer = client
            .unary(OPERATION, request, |request| {
                let mut workers = client.workers();
                async move { workers.finish_tasks(request).await }
            })
            .await;
        let error = match answer {
            Ok(answer) => {
                let mut results = answer.results.into_iter();
                let mut again = None;
                finished.retain_mut(|one| match settle(one, results.next()) {
                    Settled::Told => {
                        leases.remove(&one.held.token);
                        false
                    }
                    Settled::Replaced => true,
                    Settled::Later(error) => {
                        again = Some(error);
                        true
                    }
                });
                match again {
                    None if finished.is_empty() => return,
                    None => continue,
                    Some(error) => error,
                }
            }
            Err(error) => error,
        };
        if !may_be_tried_again(&error) {
            if finished.len() > 1 {
                // One of them spoils it for the others.
                for one in finished {
                    Box::pin(finish(client, leases, vec![one])).await;
                }
                return;
            }
            if finished.iter_mut().any(|one| one.replace(&error)) {
                continue;
            }
            drop_all(leases, &finished, &error);
            return;
        }
        tracing::debug!(error.message = %error, outcomes = finished.len(), "finish failed, trying again");
        let now = Instant::now();
        let (keep, given_up) = finished
            .into_iter()
            .partition(|finished| finished.held.until() + PATIENCE > now);
        finished = keep;
        drop_all(leases, &given_up, &error);
        if finished.is_empty() {
            return;
        }
        tokio::time::sleep(error.retry_after().unwrap_or_default() + backoff.next_wait()).await;
    }
}

fn may_be_tried_again(error: &Error) -> bool {
    error.is_retryable()
        || matches!(
            error.code(),
            tonic::Code::DeadlineExceeded | tonic::Code::Aborted | tonic::Code::Internal
        )
}

enum Settled {
    /// Taken, or refused for good.
    Told,
    /// Refused: another outcome has taken its place.
    Replaced,
    /// To be told again.
    Later(Error),
}

fn settle(finished: &mut Finished, result: Option<OutcomeResult>) -> Settled {
    let error = match result.and_then(|result| result.result) {
        Some(outcome_result::Result::Task(task)) => {
            tracing::debug!(task.name = task.name, task.status = ?task.status(), "task finished");
            return Settled::Told;
        }
        Some(outcome_result::Result::Error(status)) => Error::from_item(OPERATION, &status),
        None => Error::new(
            OPERATION,
            tonic::Code::Internal,
            "ANSWER_INCOMPLETE",
            "no result for it",
        ),
    };
    if error.is_retryable() {
        return Settled::Later(error);
    }
    if finished.replace(&error) {
        return Settled::Replaced;
    }
    tracing::warn!(
        task.name = finished.held.task,
        error.reason = error.reason(),
        error.message = error.message(),
        "result was not taken"
    );
    Settled::Told
}

fn drop_all(leases: &Leases, finished: &[Finished], error: &Error) {
    for Finished { held, .. } in finished {
        leases.remove(&held.token);
        tracing::error!(task.name = held.task, error.message = %error, "result could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::WriterMark;

    #[test]
    fn a_refused_result_names_no_more_writers_than_the_limit() {
        let held = Held::new(
            vec![1].into(),
            "t1".to_owned(),
            Instant::now() + PATIENCE,
            None,
        );
        let outcome = TaskOutcome {
            flushed: vec![WriterMark::default(); MAX_MARKS + 1],
            ..TaskOutcome::default()
        };
        let mut finished = Finished::new(Arc::new(held), outcome, 1);
        let refused = Error::new(OPERATION, tonic::Code::InvalidArgument, "", "too many");
        assert!(finished.replace(&refused));
        assert_eq!(finished.outcome.flushed.len(), MAX_MARKS);
    }
}
