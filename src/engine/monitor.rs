//! The monitor's loop: wait, plan, append, apply.
//!
//! It panics for one reason only, a fault in the code; then it is started again and goes on from the
//! journal: see `recovery`.
//!
//! Nothing here may await anything that needs the loop itself. The only things awaited are
//! arrivals, time, and the one append in flight.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, mpsc},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

#[cfg(test)]
use super::recovery::Point;
use super::{
    Shared,
    clock::{Now, instant},
    command::Command,
    core::Core,
    recovery::{self, MonitorError},
};
use crate::{
    domain::{Error, Reason},
    journal::{AppendError, AppendFuture, Appended, Journal},
    runtime::Life,
    telemetry::metrics::{AppendFailure, Metrics},
};

/// Commands taken in one go before the plan is made.
const COMMANDS_PER_ROUND: usize = 1_024;

/// A namespace's monitor: what outlives a panic of its loop.
pub(super) struct Monitor {
    shared: Arc<Shared>,
    journal: Arc<dyn Journal>,
    desk: Arc<Mutex<Desk>>,
    stop: CancellationToken,
    /// Whatever way the last life ends, waiters learn of it.
    _ended: Ended,
}

/// What one life leaves to the next.
struct Desk {
    commands: mpsc::Receiver<Command>,
    /// The group in flight: the journal may commit it whatever becomes of the loop.
    append: Option<AppendFuture>,
}

impl Monitor {
    pub(super) fn new(
        shared: Arc<Shared>,
        journal: Arc<dyn Journal>,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Self {
        let desk = Desk {
            commands,
            append: None,
        };
        Self {
            _ended: Ended(shared.clone()),
            shared,
            journal,
            desk: Arc::new(Mutex::new(desk)),
            stop,
        }
    }

    /// One life: until it is asked to stop and nothing is left to do, or until it fails.
    pub(super) fn live(
        &self,
        life: Life,
        seed: u64,
    ) -> impl Future<Output = Result<(), MonitorError>> + Send + use<> {
        let (shared, journal) = (self.shared.clone(), self.journal.clone());
        let (desk, stop) = (self.desk.clone(), self.stop.clone());
        async move {
            // Nobody else has it: the life before is over.
            let mut desk = desk.lock().await;
            if life.number > 0 {
                recovery::recover(&shared, &journal, &mut desk.append).await?;
            }
            life.at_work();
            run(shared, journal, &mut desk, stop, seed).await?;
            Ok(())
        }
    }
}

/// Runs a namespace until `stop` and until nothing is left to do. An error means that the journal
/// can no longer be trusted to be what the mirror says.
async fn run(
    shared: Arc<Shared>,
    journal: Arc<dyn Journal>,
    desk: &mut Desk,
    stop: CancellationToken,
    seed: u64,
) -> Result<(), AppendError> {
    let Desk { commands, append } = desk;
    let mut core = Core::new(shared.clone(), Now::read(), seed);
    let (mut open, mut drained) = (true, false);
    let mut began = Instant::now();
    loop {
        #[cfg(test)]
        shared.trap.spring(Point::Loop);
        core.set_shortage(journal.shortage());
        if append.is_none() {
            if let Some(drafts) = core.plan(Now::read()) {
                began = Instant::now();
                *append = Some(journal.append(drafts));
                #[cfg(test)]
                shared.trap.spring(Point::Append);
            } else if !open && core.is_idle() {
                core.abandon(&stopping());
                return Ok(());
            }
        }
        let deadline = core.next_deadline().filter(|_| append.is_none());
        tokio::select! {
            biased;
            result = in_flight(append), if append.is_some() => {
                *append = None;
                measure(&shared.probe.metrics, began, &result);
                match result {
                    Ok(appended) => {
                        core.applied(appended, Now::read());
                    }
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
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.cancel();
        self.0.wakers.close();
        // Closed already but where it was given up after panics.
        self.0.intake.clear(&stopping());
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
