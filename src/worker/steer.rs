//! Calls a handler with what changes, beside the attempt that it belongs to.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    client::{Changes, KeyWatch},
    runtime::{create_library_task, panic_message},
};

/// Calls `handler` until the watch ends, which it does with its attempt.
pub(super) fn start(
    task: String,
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
            // What the panic left half done in the handler is the handler's own.
            let called = catch_unwind(AssertUnwindSafe(|| handler(&changes)));
            if let Err(payload) = called {
                let message = panic_message(&*payload);
                tracing::error!(
                    task.name = task, state.name = changes.state(), error.type = "panic",
                    error.message = message, "on_change handler panicked, it is called again with the next change"
                );
            }
            // Changes without end must not keep the others on this thread from running.
            tokio::task::yield_now().await;
        }
    };
    drop(create_library_task(name, calling));
}
