//! The monitor's loop: wait, plan, append, apply.
//!
//! Nothing here may await anything that needs the loop itself. The only things awaited are
//! arrivals, time, and the one append in flight.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, time::sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    clock::{Now, instant},
    command::Command,
    core::Core,
};
use crate::{
    domain::{Error, Reason},
    journal::{AppendError, AppendFuture, Appended, Journal},
    telemetry::metrics::{AppendFailure, Metrics},
};

/// Commands taken in one go before the plan is made.
const COMMANDS_PER_ROUND: usize = 1_024;

/// Runs a namespace until `stop` and until nothing is left to do. An error means that the journal
/// can no longer be trusted to be what the mirror says.
pub(super) async fn run(
    shared: Arc<Shared>,
    journal: Arc<dyn Journal>,
    mut commands: mpsc::Receiver<Command>,
    stop: CancellationToken,
    seed: u64,
) -> Result<(), AppendError> {
    // Whatever way the loop ends, waiters learn of it.
    let _ended = Ended(&shared);
    let mut core = Core::new(shared.clone(), Now::read(), seed);
    let mut append: Option<AppendFuture> = None;
    let (mut open, mut drained) = (true, false);
    let mut began = Instant::now();
    loop {
        core.set_shortage(journal.shortage());
        if append.is_none() {
            if let Some(drafts) = core.plan(Now::read()) {
                began = Instant::now();
                append = Some(journal.append(drafts));
            } else if !open && core.is_idle() {
                core.abandon(&stopping());
                return Ok(());
            }
        }
        let deadline = core.next_deadline().filter(|_| append.is_none());
        tokio::select! {
            biased;
            result = in_flight(&mut append), if append.is_some() => {
                append = None;
                measure(&shared.probe.metrics, began, &result);
                match result {
                    Ok(appended) => core.applied(appended, Now::read()),
                    Err(error @ AppendError::Refused(_)) => {
                        tracing::error!(namespace = %shared.id, error = %error, "journal refused a group");
                        core.failed(&error, Now::read());
                        if !open {
                            // It will not get better, and the end must come.
                            core.abandon(&stopping());
                            return Ok(());
                        }
                    }
                    // The journal says when it begins and when it ends.
                    Err(error @ AppendError::Full(_)) => {
                        core.failed(&error, Now::read());
                        if !open {
                            core.abandon(&stopping());
                            return Ok(());
                        }
                    }
                    Err(error @ AppendError::Unknown(_)) => {
                        core.failed(&error, Now::read());
                        core.abandon(&Error::new(Reason::JournalUnavailable, error.to_string()));
                        return Err(error);
                    }
                }
            }
            command = commands.recv(), if open && !core.is_full() => match command {
                Some(command) => {
                    let now = Now::read();
                    core.set_shortage(journal.shortage());
                    core.command(command, now);
                    for _ in 1..COMMANDS_PER_ROUND {
                        if core.is_full() {
                            break;
                        }
                        let Ok(command) = commands.try_recv() else { break };
                        core.command(command, now);
                    }
                }
                // Closed, and everything that was in it is taken.
                None => open = false,
            },
            () = shared.intake.pushed(), if append.is_none() => {}
            () = shared.presence.broke(), if append.is_none() => {}
            () = shared.draining.cancelled(), if !drained => {
                drained = true;
                core.drain();
            }
            () = stop.cancelled(), if !commands.is_closed() => commands.close(),
            () = sleep_until(instant(deadline.unwrap_or_default())), if deadline.is_some() => {}
            // Asked to stop while something waits that neither a timer nor an arrival brings on.
            () = tokio::time::sleep(STOP_POLL), if !open && append.is_none() => {}
        }
    }
}

fn measure(metrics: &Metrics, began: Instant, result: &Result<Appended, AppendError>) {
    match result {
        Ok(appended) => {
            let entries = &appended.committed;
            let bytes = entries.iter().map(|entry| entry.bytes).sum();
            metrics.appended(began.elapsed(), entries.len(), bytes);
        }
        Err(AppendError::Full(_)) => metrics.append_failed(AppendFailure::Full),
        Err(AppendError::Refused(_)) => metrics.append_failed(AppendFailure::Refused),
        Err(AppendError::Unknown(_)) => metrics.append_failed(AppendFailure::Unknown),
    }
}

/// Tells that the monitor has ended when it is dropped.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.ended.cancel();
        self.0.wakers.close();
    }
}

/// How often a stopping monitor looks whether it is idle.
const STOP_POLL: Duration = Duration::from_millis(10);

async fn in_flight(
    append: &mut Option<AppendFuture>,
) -> Result<crate::journal::Appended, AppendError> {
    match append {
        Some(append) => append.await,
        None => std::future::pending().await,
    }
}

fn stopping() -> Error {
    Error::new(
        Reason::NotReady,
        "the server is stopping: retry elsewhere, or when it is back",
    )
}
