//! Calls a handler with what changes, beside the attempt that it belongs to.
//!
//! What a handler writes belongs to the attempt, so it has to be written before the attempt's queues
//! are closed: once the attempt ends no call begins, and those that have begun are waited for.

use std::{sync::Arc, time::Duration};

use opentelemetry::context::FutureExt;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};
use tracing::Instrument;

use crate::{
    client::{Changes, KeyWatch},
    runtime::{catch_now, create_library_task},
};

/// So long is a handler waited for that is still running when its attempt ends.
const RUNNING_GRACE: Duration = Duration::from_secs(5);

/// The handlers of one attempt that are running.
#[derive(Debug, Default)]
pub(super) struct Calls {
    state: Mutex<CallsState>,
    returned: Notify,
}

#[derive(Debug, Default)]
struct CallsState {
    ended: bool,
    running: usize,
}

/// While it is held, a handler runs.
#[derive(Debug)]
struct Call<'a>(&'a Calls);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
        self.0.returned.notify_waiters();
    }
}

impl Calls {
    /// None once the attempt has ended.
    fn begin(&self) -> Option<Call<'_>> {
        let mut state = self.state.lock();
        if state.ended {
            return None;
        }
        state.running += 1;
        Some(Call(self))
    }

    /// From here on none begins.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
    }

    /// Waits for those that have begun, though not for ever.
    pub(super) async fn until_returned(&self, task: &str) {
        let returned = async {
            loop {
                let returned = self.returned.notified();
                tokio::pin!(returned);
                returned.as_mut().enable();
                if self.state.lock().running == 0 {
                    return;
                }
                returned.await;
            }
        };
        if timeout(RUNNING_GRACE, returned).await.is_err() {
            tracing::warn!(
                task.name = task,
                "on_change handler did not return in time, what it writes is not the attempt's any more"
            );
        }
    }
}

/// Calls `handler` until the watch ends, which it does with its attempt.
pub(super) fn start(
    task: String,
    calls: Arc<Calls>,
    mut changes: KeyWatch,
    mut handler: impl FnMut(&Changes) + Send + 'static,
) {
    let name = format!("on_change {task}");
    let calling = async move {
        loop {
            let changes = match changes.changed().await {
                Ok(changes) => changes,
                Err(error) if error.reason() == "ATTEMPT_ENDED" => return,
                Err(error) => {
                    tracing::warn!(
                        task.name = task, error.reason = error.reason(), error.message = %error,
                        "on_change hears no more changes"
                    );
                    return;
                }
            };
            let Some(call) = calls.begin() else {
                return;
            };
            // What the panic left half done in the handler is the handler's own.
            let called = catch_now(|| handler(&changes));
            drop(call);
            if let Err(panic) = called {
                tracing::error!(
                    task.name = task, state.name = changes.state(), error.type = "panic",
                    error.message = panic.message, error.location = panic.location, "on_change handler panicked, it is called again with the next change"
                );
            }
            // Changes without end must not keep the others on this thread from running.
            tokio::task::yield_now().await;
        }
    };
    // What it logs and calls is the attempt's.
    let context = opentelemetry::Context::current();
    let calling = calling.in_current_span().with_context(context);
    drop(create_library_task(name, calling));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_call_begins_after_the_end_and_one_that_has_begun_is_waited_for() {
        let calls = Calls::default();
        let call = calls.begin().unwrap();
        calls.end();
        assert!(calls.begin().is_none());
        let waiting = calls.until_returned("t");
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(call);
        assert!(futures_util::poll!(&mut waiting).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_returns_is_not_waited_for_without_end() {
        let calls = Calls::default();
        let _call = calls.begin().unwrap();
        calls.end();
        calls.until_returned("t").await;
    }
}
