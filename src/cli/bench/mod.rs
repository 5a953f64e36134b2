//! `duite bench`: how fast this build is on this machine, beside what the machine itself allows.
//!
//! Every figure is taken together with its ceiling, in one run: the same bytes in the same frames
//! through bare tonic and a bare log (`ceiling`). Machines and disks differ by factors from one
//! minute to the next, so only the ratio of one run means something, and a run whose ceiling is
//! itself too low is void.
//!
//! - `push`, `watch`, `submit`, `tasks`, `cancel`: one command each;
//! - `telemetry`: what exporting traces and logs costs the server;
//! - `backlog`: what a million waiting tasks cost, in the server's processor time and memory;
//! - `idle`, `slow`, `flood`, `preview`, `fairness`: what one user must not do to the others;
//! - `session`: what they share: the server under test, the ceilings, the report;
//! - `server`, `process`: a server as a child process, and what it used;
//! - `pairs`, `thread`: interleaved comparisons, and a client that shares no thread with the load;
//! - `fill`: tasks that only wait; `lives`: those that live their whole lives;
//! - `measure`, `report`, `payload`, `stored`: counting, printing, the bytes that are sent, and those
//!   that the journal makes of them.

mod args;
mod backlog;
mod cancel;
mod ceiling;
mod error;
mod fairness;
#[cfg(test)]
mod fake;
mod fill;
mod flood;
mod idle;
mod lives;
mod measure;
mod pairs;
mod payload;
mod preview;
mod process;
mod push;
mod report;
mod server;
mod session;
mod slow;
mod stored;
mod submit;
mod tasks;
mod telemetry;
mod thread;
mod wait;
mod watch;

use clap::{Args, Subcommand};
use tokio::sync::oneshot;

pub use error::Error;

/// Measure duite on this machine, beside what the machine itself allows.
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Measure what the machine allows: bare tonic and bare fdatasync, without duite
    Ceiling(ceiling::CeilingArgs),
    /// Writers push batches of state, each acknowledged when durable
    Push(push::PushArgs),
    /// Many watchers of one state that changes all the time
    Watch(watch::WatchArgs),
    /// Many clients create tasks, each acknowledged when durable
    Submit(submit::SubmitArgs),
    /// Tasks through their whole life: submit, lease, finish
    Tasks(tasks::TasksArgs),
    /// Tasks while a million others wait: the server's CPU for each, and its memory
    ///
    /// Two servers are started, one with many tasks waiting and one with few, and the same load runs
    /// on the one and on the other in turn. Takes about 3 × --duration and the time to fill.
    #[command(mut_arg("duration", |arg| arg.default_value("20s")))]
    Backlog(backlog::BacklogArgs),
    /// Whole lives of tasks with traces and logs exported, and without: the server's CPU for each
    ///
    /// First to an endpoint that takes connections and never answers, every task traced; then to a
    /// collector in this process, a tenth of the tasks traced.
    #[command(mut_arg("duration", |arg| arg.default_value("20s")))]
    Telemetry(telemetry::TelemetryArgs),
    /// Running tasks are cancelled: how soon their handlers hear of it
    Cancel(cancel::CancelArgs),
    /// Thousands of watchers of states that do not change: what each costs the server
    Idle(idle::IdleArgs),
    /// A hundred writers, with and without a watcher that never reads
    Slow(slow::SlowArgs),
    /// Very small batches, each in an HTTP/2 frame of its own, on one connection
    Flood(flood::FloodArgs),
    /// A small key's updates while large previews go to many watchers
    Preview(preview::PreviewArgs),
    /// One modest writer, with and without writers that flood another state
    Fairness(fairness::FairnessArgs),
    /// The bare tonic server that the ceilings are measured against
    #[command(hide = true)]
    CeilingServer(ceiling::CeilingServerArgs),
}

/// Runs one benchmark and prints its report.
///
/// # Errors
/// When the server cannot be started or reached, when a call fails, when the run is void because
/// its own ceiling is too low, and when it is interrupted.
pub async fn run(args: BenchArgs) -> Result<(), Error> {
    // A current-thread runtime of its own: the load generator must cost as little as it can, and
    // on two cores a multi-threaded one takes its second thread from the server.
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("bench".to_owned())
        .spawn(move || {
            let result = single_threaded().and_then(|runtime| {
                runtime.block_on(async {
                    tokio::select! {
                        result = dispatch(args) => result,
                        result = wait::for_interrupt() => result.and(Err(Error::Interrupted)),
                    }
                })
            });
            // The receiver is gone only if the caller was dropped, and then nobody asks.
            let _ = sender.send(result);
        })
        .map_err(|source| Error::io("start the bench thread", source))?;
    receiver.await.unwrap_or(Err(Error::Panicked))
}

async fn dispatch(args: BenchArgs) -> Result<(), Error> {
    match args.command {
        Command::Ceiling(args) => ceiling::run(args).await,
        Command::Push(args) => push::run(args).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Submit(args) => submit::run(args).await,
        Command::Tasks(args) => tasks::run(args).await,
        Command::Backlog(args) => backlog::run(args).await,
        Command::Telemetry(args) => telemetry::run(args).await,
        Command::Cancel(args) => cancel::run(args).await,
        Command::Idle(args) => idle::run(args).await,
        Command::Slow(args) => slow::run(args).await,
        Command::Flood(args) => flood::run(args).await,
        Command::Preview(args) => preview::run(args).await,
        Command::Fairness(args) => fairness::run(args).await,
        Command::CeilingServer(args) => ceiling::run_server(args).await,
    }
}

fn single_threaded() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::io("start a runtime", source))
}
