//! Sends reports on a thread of its own, so that neither a busy runtime nor one that ends keeps them.

use std::{sync::Arc, time::Duration};

use prost::Message;
use tokio::{
    runtime::Runtime,
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{backoff::Backoff, connection::Client, error::Error};
use crate::{
    proto::v1::{FailureReport, ReportFailuresRequest},
    runtime::{Sink, decorated},
};

/// The API's limit for one call.
const MAX_REPORTS: usize = 100;
/// Below the 4 MiB that a call may weigh.
const MAX_BYTES: usize = 3 << 20;
/// How long a report waits for company.
const LINGER: Duration = Duration::from_secs(1);
/// So long is a batch tried that the server does not answer or cannot take now.
const PATIENCE: Duration = Duration::from_secs(600);
/// Losses are told of so often.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// From a panic to the next try.
const PANIC_PAUSE: Duration = Duration::from_secs(1);

/// Where reports go.
pub(super) enum Target {
    Client(Client),
    Address {
        address: String,
        /// Whose error groups count them; none: `default`.
        namespace: Option<String>,
    },
}

/// Starts the thread.
pub(super) fn start(
    target: Target,
    sink: Arc<Sink>,
    reports: mpsc::Receiver<FailureReport>,
) -> Result<(), Error> {
    let failed = |error: std::io::Error| {
        let message = format!("the thread that reports failures could not be started: {error}");
        Error::new("ReportFailures", tonic::Code::Internal, "THREAD", message)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let runtime = Own(Some(runtime));
    let client = {
        let _inside = runtime.get().enter();
        match target {
            Target::Client(client) => client.on_this_runtime(),
            Target::Address { address, namespace } => {
                let builder = Client::builder().address(address);
                let builder = namespace
                    .into_iter()
                    .fold(builder, |builder, namespace| builder.namespace(namespace));
                builder.build()?
            }
        }
    };
    let mut reports = reports;
    std::thread::Builder::new()
        .name("duite-reports".to_owned())
        .spawn(move || {
            loop {
                let sender = Sender::new(client.clone(), Arc::clone(&sink), PATIENCE);
                let run = || runtime.get().block_on(sender.run(&mut reports));
                if decorated("report failures", run)().is_ok() {
                    return;
                }
                std::thread::sleep(PANIC_PAUSE);
            }
        })
        .map_err(failed)?;
    Ok(())
}

/// A runtime that is dropped where others run: its own drop would wait, which panics there.
struct Own(Option<Runtime>);

impl Own {
    fn get(&self) -> &Runtime {
        self.0.as_ref().expect("it is taken by drop alone")
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

struct Sender {
    client: Client,
    sink: Arc<Sink>,
    patience: Duration,
    /// What was lost when it was last told of, and when that was.
    warned: (u64, Option<Instant>),
}

impl Sender {
    fn new(client: Client, sink: Arc<Sink>, patience: Duration) -> Self {
        Self {
            client,
            sink,
            patience,
            warned: (0, None),
        }
    }

    async fn run(mut self, reports: &mut mpsc::Receiver<FailureReport>) {
        let mut next = None;
        loop {
            let first = match next.take() {
                Some(report) => report,
                None => match tokio::time::timeout(WARN_EVERY, reports.recv()).await {
                    Ok(Some(report)) => report,
                    Ok(None) => return,
                    Err(_) => {
                        self.warn();
                        continue;
                    }
                },
            };
            let batch;
            (batch, next) = self.gather(first, reports).await;
            let sent = batch.len();
            self.send(batch).await;
            self.sink.settle(sent);
            self.warn();
        }
    }

    /// What goes in one call, and what does not fit it any more.
    async fn gather(
        &self,
        first: FailureReport,
        reports: &mut mpsc::Receiver<FailureReport>,
    ) -> (Vec<FailureReport>, Option<FailureReport>) {
        let until = Instant::now() + LINGER;
        let mut bytes = first.encoded_len();
        let mut batch = vec![first];
        let mut hurried = false;
        while batch.len() < MAX_REPORTS {
            let report = if hurried {
                reports.try_recv().ok()
            } else {
                tokio::select! {
                    biased;
                    report = timeout_at(until, reports.recv()) => report.ok().flatten(),
                    () = self.sink.hurried() => {
                        hurried = true;
                        continue;
                    }
                }
            };
            let Some(report) = report else { break };
            bytes += report.encoded_len();
            if bytes > MAX_BYTES {
                return (batch, Some(report));
            }
            batch.push(report);
        }
        (batch, None)
    }

    async fn send(&mut self, batch: Vec<FailureReport>) {
        let reports = batch.len();
        let request = ReportFailuresRequest {
            parent: self.client.parent(),
            reports: batch,
        };
        let until = Instant::now() + self.patience;
        let mut backoff = Backoff::for_streams();
        loop {
            let answer = self
                .client
                .unary("ReportFailures", request.clone(), |request| {
                    let mut errors = self.client.errors();
                    async move { errors.report_failures(request).await }
                });
            let error = match answer.await {
                Ok(_) => return,
                Err(error) => error,
            };
            let wait = error.retry_after().unwrap_or_default() + backoff.next_wait();
            // A passed deadline may have taken effect; the ids make it count once.
            let again = error.is_retryable() || error.reason() == "DEADLINE";
            if !again || Instant::now() + wait >= until {
                tracing::debug!(reports, error.message = %error, "failure reports were given up");
                self.sink.count_lost(reports);
                return;
            }
            self.warn();
            tokio::time::sleep(wait).await;
        }
    }

    /// One line a minute at most says what was lost since the last.
    fn warn(&mut self) {
        let dropped = self.sink.dropped();
        let (told, at) = self.warned;
        if dropped == told || at.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return;
        }
        tracing::warn!(
            reports = dropped - told,
            server.address = self.client.address(),
            "failure reports were lost: too many at once, or the server did not take them"
        );
        self.warned = (dropped, Some(Instant::now()));
    }
}

#[cfg(test)]
mod start_tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_none_is_an_error_and_no_panic() {
        for address in ["localhost", "not an address", ""] {
            let (sink, reports) = Sink::new(1);
            let target = Target::Address {
                address: address.to_owned(),
                namespace: None,
            };
            assert!(start(target, sink, reports).is_err(), "{address}");
        }
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
