//! The end of a server, in order and in time.
//!
//! Every step has a limit, because one that hangs must not keep the others from happening: a
//! connection that does not close (hyper's issue 4170 shows how) must not cost the clean close of
//! the journal.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Error;
use crate::{engine::Engine, runtime::TaskHandle, service::HealthControl};

/// How long closing the journal may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// What a clean end takes at most beyond the drain timeout.
pub const END_WITHIN: Duration = Duration::from_secs(15);

pub(super) struct Parts {
    pub(super) drain_timeout: Duration,
    pub(super) health: HealthControl,
    pub(super) engine: Engine,
    pub(super) grpc: TaskHandle<()>,
    pub(super) stop_accepting: CancellationToken,
    pub(super) stop_admin: CancellationToken,
}

/// Stops what runs.
pub(super) async fn in_order(parts: Parts) -> Result<(), Error> {
    // Whoever balances load looks elsewhere from here on.
    parts.health.set_not_serving().await;
    // Watches end with a word, long polls with nothing, writers are told to reconnect.
    parts.engine.drain();
    // No new connections; those that stand are told to finish.
    parts.stop_accepting.cancel();
    let mut grpc = parts.grpc;
    match timeout(parts.drain_timeout, &mut grpc).await {
        // A failure was logged where it happened.
        Ok(Ok(()) | Err(_)) => {}
        Err(_) => {
            grpc.abort();
            tracing::warn!(
                drain_timeout_s = parts.drain_timeout.as_secs_f64(),
                "connections were still open after the drain timeout and are cut"
            );
        }
    }
    let closed = timeout(CLOSE_WITHIN, parts.engine.stop()).await;
    parts.stop_admin.cancel();
    match closed {
        Ok(Ok(())) => {
            tracing::info!("server has stopped");
            Ok(())
        }
        Ok(Err(error)) => Err(Error::Close(error.to_string())),
        Err(_) => Err(Error::Close(format!(
            "it took longer than {CLOSE_WITHIN:?}"
        ))),
    }
}
