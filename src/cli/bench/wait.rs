//! Waiting with an end: signals, deadlines, joined tasks.

use std::{future::Future, time::Duration};

use tokio::task::{JoinError, JoinSet};

use super::Error;

/// Completes when the user or the system asks the process to stop, so that dropping the benchmark
/// stops its server processes too.
pub(super) async fn for_interrupt() -> Result<(), Error> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())
            .map_err(|source| Error::io("listen for SIGTERM", source))?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result.map_err(|source| Error::io("listen for SIGINT", source)),
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c()
        .await
        .map_err(|source| Error::io("listen for interrupts", source))
}

/// The result of `future`, or an error that says what did not happen in time.
pub(super) async fn at_most<T>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, future)
        .await
        .unwrap_or_else(|_| {
            Err(Error::TimedOut {
                what: what.to_owned(),
                limit,
            })
        })
}

/// Tasks that end with the value that holds them: none outlives its measurement.
#[derive(Debug)]
pub(super) struct Crew<T> {
    running: JoinSet<Result<T, Error>>,
    ended: Vec<T>,
}

impl<T: Send + 'static> Crew<T> {
    pub(super) fn new() -> Self {
        Self {
            running: JoinSet::new(),
            ended: Vec::new(),
        }
    }

    pub(super) fn spawn(
        &mut self,
        member: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) {
        self.running.spawn(member);
    }

    /// Waits for `measurement`, or for the first member that fails.
    pub(super) async fn during<R>(
        &mut self,
        measurement: impl Future<Output = R>,
    ) -> Result<R, Error> {
        let mut measurement = std::pin::pin!(measurement);
        loop {
            tokio::select! {
                result = &mut measurement => return Ok(result),
                Some(ended) = self.running.join_next() => self.take(ended)?,
            }
        }
    }

    /// Waits for all members; the first that fails ends the wait.
    pub(super) async fn join(mut self, limit: Duration, what: &str) -> Result<Vec<T>, Error> {
        at_most(limit, what, async {
            while let Some(ended) = self.running.join_next().await {
                self.take(ended)?;
            }
            Ok(())
        })
        .await?;
        Ok(self.ended)
    }

    fn take(&mut self, ended: Result<Result<T, Error>, JoinError>) -> Result<(), Error> {
        self.ended.push(ended.map_err(|_| Error::Panicked)??);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_member_that_fails_ends_the_measurement() {
        let mut crew = Crew::new();
        crew.spawn(async { Ok(1) });
        crew.spawn(async { Err(Error::NothingMeasured("nothing")) });
        let result = crew.during(pending::<()>()).await;
        assert!(
            matches!(result, Err(Error::NothingMeasured(_))),
            "{result:?}"
        );
    }

    #[tokio::test]
    async fn members_that_ended_during_the_measurement_are_joined_too() {
        let mut crew = Crew::new();
        crew.spawn(async { Ok(1) });
        crew.during(tokio::task::yield_now()).await.unwrap();
        crew.spawn(async { Ok(2) });
        let mut values = crew
            .join(Duration::from_secs(10), "the members end")
            .await
            .unwrap();
        values.sort_unstable();
        assert_eq!(values, [1, 2]);
    }

    #[tokio::test]
    async fn a_wait_without_end_says_what_it_waited_for() {
        let waited = at_most(
            Duration::from_millis(3),
            "the sunrise",
            pending::<Result<(), _>>(),
        );
        let error = waited.await.unwrap_err().to_string();
        assert!(
            error.starts_with("the sunrise did not happen within 3ms"),
            "{error}"
        );
        assert!(
            at_most(Duration::from_secs(3), "now", ready(Ok(())))
                .await
                .is_ok()
        );
    }
}
