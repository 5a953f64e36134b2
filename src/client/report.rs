//! Failures of this process's own tasks, told to a server.
//!
//! What [`create_task`], [`decorate_task`] and `#[duite::task]` catch is logged; where an address is
//! configured it is reported as well, and lands in the error groups of the server. Configured means:
//! `DUITE_REPORT_ADDR`, else `DUITE_ADDR`, is set when the first task is created, or a program calls
//! [`report_failures_to`]. `DUITE_REPORT_ADDR=off` keeps everything here. There is no default.

use std::{error::Error as StdError, future::Future, sync::Once, time::Duration};

use tokio::task::JoinHandle;

use super::{connection::Client, error::Error, report_sender};
use crate::runtime::{self, TaskHandle};

static FROM_ENV: Once = Once::new();

/// Runs `future` as an independent task whose failure, panics included, is caught, logged once,
/// counted, and reported where an address is configured (see [`report_failures_to`]).
///
/// The task goes on when the handle is dropped. It runs in a span `task`, a child of the current
/// one.
///
/// # Panics
///
/// Outside a tokio runtime, as `tokio::spawn` does.
#[track_caller]
pub fn create_task<F, T, E>(name: impl Into<String>, future: F) -> TaskHandle<T>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: StdError + Send + 'static,
{
    report_as_configured();
    runtime::create_task(name, future)
}

/// Takes over a task that already runs: its failure is caught, logged once, counted and reported
/// like that of [`create_task`].
///
/// # Panics
///
/// Outside a tokio runtime, as `tokio::spawn` does.
#[track_caller]
pub fn decorate_task<T, E>(name: impl Into<String>, task: JoinHandle<Result<T, E>>) -> TaskHandle<T>
where
    T: Send + 'static,
    E: StdError + Send + 'static,
{
    report_as_configured();
    runtime::decorate_task(name, task)
}

/// What `#[duite::task]` makes of a function's body.
#[track_caller]
pub(crate) fn create_task_of<F, T, E>(name: &str, function: &str, future: F) -> TaskHandle<T>
where
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: StdError + Send + 'static,
{
    report_as_configured();
    runtime::create_task_of(name, function, future)
}

/// Reports failures to this client's server and namespace, in place of the environment's.
///
/// Reports are sent in the background, up to 100 in a call, at the latest after a second. At most
/// 1,024 wait; what comes then is dropped and counted, and a warning says so once a minute. A report
/// is tried again for ten minutes, and counts once however often it is sent.
///
/// # Errors
///
/// When the process reports already: it does so to one server.
pub fn report_failures_to(client: &Client) -> Result<(), Error> {
    FROM_ENV.call_once(|| {});
    let Some((sink, reports)) = runtime::open_reports() else {
        return Err(Error::invalid(
            "ReportFailures",
            "this process reports its failures already: call report_failures_to once, before \
             the first task is created"
                .to_owned(),
        ));
    };
    report_sender::start(report_sender::Target::Client(client.clone()), sink, reports)
}

/// Sends what waits, for at most so long; to be called before the process ends. Says how many
/// reports are left.
pub async fn flush_reports(timeout: Duration) -> usize {
    let Some(sink) = runtime::report_sink() else {
        return 0;
    };
    // What is left is in the answer.
    let _ = tokio::time::timeout(timeout, sink.flush()).await;
    sink.left()
}

fn report_as_configured() {
    FROM_ENV.call_once(|| {
        let Some(address) = configured(|name| std::env::var(name).ok()) else {
            return;
        };
        let Some((sink, reports)) = runtime::open_reports() else {
            return;
        };
        let target = report_sender::Target::Address {
            address: address.clone(),
            namespace: std::env::var("DUITE_NAMESPACE").ok().filter(|name| !name.is_empty()),
        };
        if let Err(error) = report_sender::start(target, sink, reports) {
            tracing::warn!(server.address = address, error.message = %error, "failures are not reported");
        }
    });
}

fn configured(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    let address = set("DUITE_REPORT_ADDR").or_else(|| set("DUITE_ADDR"))?;
    (address != "off").then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_reported_unless_an_address_is_configured() {
        let of = |set: &'static [(&str, &str)]| {
            configured(move |name| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("DUITE_ADDR", "a:1")]).as_deref(), Some("a:1"));
        let both = &[("DUITE_ADDR", "a:1"), ("DUITE_REPORT_ADDR", "b:1")];
        assert_eq!(of(both).as_deref(), Some("b:1"));
        assert_eq!(
            of(&[("DUITE_ADDR", "a:1"), ("DUITE_REPORT_ADDR", "off")]),
            None
        );
        assert_eq!(of(&[("DUITE_ADDR", "")]), None);
    }
}
