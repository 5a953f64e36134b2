//! Asking a process to stop.

use std::{
    io::{Write, stderr},
    process::exit,
    time::Duration,
};

use super::Error;
use crate::{runtime::create_library_task, worker::kill_groups};

/// Resolves at the first SIGINT or SIGTERM. From then on a second one ends the process at once, and
/// so does the time `within`: the clock runs on a thread of its own, so that it counts whatever
/// hangs. Either end takes the programs along that a worker runs: no destructor does it.
#[cfg(unix)]
pub(super) fn stop_requested(within: Duration) -> Result<impl Future<Output = ()> + use<>, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind).map_err(|error| Error::failed(format!("cannot listen for signals: {error}")))
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let (asked, first) = tokio::sync::oneshot::channel();
    let _listening = create_library_task("listen for signals", async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
            }
        };
        next().await;
        // Nobody waits any more: it is ending already.
        let _ = asked.send(());
        start_clock(within);
        let second = next().await;
        let _ = writeln!(stderr(), "error: stopped at once by a second signal");
        kill_groups();
        exit(128 + second.as_raw_value());
    });
    Ok(async move {
        // The task above never drops its end without sending.
        let _ = first.await;
    })
}

/// See above.
#[cfg(not(unix))]
pub(super) fn stop_requested(within: Duration) -> Result<impl Future<Output = ()> + use<>, Error> {
    Ok(async move {
        // An error means that there is no console to press keys at.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        start_clock(within);
    })
}

fn start_clock(within: Duration) {
    let clock = std::thread::Builder::new().name("stop-clock".to_owned());
    let started = clock.spawn(move || {
        std::thread::sleep(within);
        // Nothing here panics: a stderr that is closed must not keep it from ending.
        let _ = writeln!(stderr(), "error: not stopped within {within:?}, ending now");
        kill_groups();
        exit(1);
    });
    if let Err(error) = started {
        tracing::warn!(error.message = %error, "the stop has no time limit");
    }
}

/// Presses of Ctrl-C, for commands that mean something else by it than ending at once.
#[derive(Debug)]
pub(super) struct Interrupts(
    #[cfg(unix)] tokio::signal::unix::Signal,
    #[cfg(not(unix))] (),
);

impl Interrupts {
    /// From now on an interrupt does not end the process by itself.
    pub(super) fn listen() -> Result<Self, Error> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let signal = signal(SignalKind::interrupt());
            let signal = signal
                .map_err(|error| Error::failed(format!("cannot listen for signals: {error}")))?;
            Ok(Self(signal))
        }
        #[cfg(not(unix))]
        Ok(Self(()))
    }

    /// The next one.
    pub(super) async fn next(&mut self) {
        #[cfg(unix)]
        let heard = self.0.recv().await.is_some();
        #[cfg(not(unix))]
        let heard = tokio::signal::ctrl_c().await.is_ok();
        if !heard {
            std::future::pending::<()>().await;
        }
    }
}
