//! Unary calls: a deadline over all attempts, and retries of what was surely not answered.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status};

use super::{backoff::Backoff, connection::Client, error::Error, propagate};

/// The first attempt and three more.
const MAX_ATTEMPTS: u32 = 4;

impl Client {
    /// Sends `request` within the client's deadline. `UNAVAILABLE` alone is tried again, which is
    /// safe because a call that changes anything carries a request id or is idempotent.
    pub(crate) async fn unary<M, R, F, Fut>(
        &self,
        operation: &'static str,
        request: M,
        send: F,
    ) -> Result<R, Error>
    where
        M: Clone,
        F: Fn(Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        self.unary_within(operation, self.deadline(), request, send)
            .await
    }

    /// The same with a deadline of its own.
    pub(crate) async fn unary_within<M, R, F, Fut>(
        &self,
        operation: &'static str,
        within: Duration,
        request: M,
        send: F,
    ) -> Result<R, Error>
    where
        M: Clone,
        F: Fn(Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = Instant::now() + within;
        let mut backoff = Backoff::for_calls();
        let mut attempt = 1;
        let trace = propagate::current();
        loop {
            let mut request = Request::new(request.clone());
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            propagate::add(&trace, request.metadata_mut());
            let error = match timeout_at(deadline, send(request)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => Error::from_status(operation, &status),
                Err(_) => return Err(self.late(operation, within)),
            };
            // The server keeps the deadline too, and may be the first to say that it passed.
            let is_late = error.code() == Code::Cancelled && Instant::now() >= deadline;
            if is_late || error.reason() == "DEADLINE" {
                return Err(self.late(operation, within));
            }
            if error.code() != Code::Unavailable || attempt == MAX_ATTEMPTS {
                return Err(error);
            }
            attempt += 1;
            let wait = error.retry_after().unwrap_or_default() + backoff.next_wait();
            if Instant::now() + wait >= deadline {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }

    fn late(&self, operation: &'static str, within: Duration) -> Error {
        let message = format!(
            "no answer from {} within {within:?}; it may still take effect",
            self.address()
        );
        Error::new(operation, Code::DeadlineExceeded, "DEADLINE", message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::{client::fake::Fake, proto::v1::LeaseTasksRequest};

    /// A client whose calls never reach its channel.
    fn client() -> Client {
        Client::connect("http://127.0.0.1:1").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn unavailable_is_tried_four_times_and_no_more() {
        let calls = AtomicU32::new(0);
        let answer = client()
            .unary("GetTask", (), |_: Request<()>| async {
                calls.fetch_add(1, Ordering::Relaxed);
                Err::<Response<()>, _>(Status::unavailable("starting"))
            })
            .await;
        assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
        assert_eq!(calls.into_inner(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn another_code_is_not_tried_again() {
        let calls = AtomicU32::new(0);
        let answer = client()
            .unary("GetTask", (), |_: Request<()>| async {
                calls.fetch_add(1, Ordering::Relaxed);
                Err::<Response<()>, _>(Status::aborted("stale"))
            })
            .await;
        assert_eq!(answer.unwrap_err().code(), Code::Aborted);
        assert_eq!(calls.into_inner(), 1);
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_told_as_a_passed_deadline() {
        let fake = Fake {
            lease_tasks: Some(Box::new(|_| Ok(None))),
            ..Fake::default()
        };
        let client = fake.serve();
        for _ in 0..10 {
            let request = LeaseTasksRequest::default();
            let answer = client.unary_within(
                "LeaseTasks",
                Duration::from_millis(30),
                request,
                |request| {
                    let mut workers = client.workers();
                    async move { workers.lease_tasks(request).await }
                },
            );
            let error = answer.await.unwrap_err();
            assert_eq!(
                (error.code(), error.reason()),
                (Code::DeadlineExceeded, "DEADLINE")
            );
            assert!(error.message().contains("may still take effect"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unanswered_call_ends_at_its_deadline() {
        let started = Instant::now();
        let answer = client()
            .unary("GetTask", (), |_: Request<()>| {
                std::future::pending::<Result<Response<()>, Status>>()
            })
            .await;
        assert_eq!(answer.unwrap_err().reason(), "DEADLINE");
        assert_eq!(started.elapsed(), Duration::from_secs(10));
    }
}
