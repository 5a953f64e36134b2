//! `duite worker`.

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{Error, connect::ConnectArgs, signals};
use crate::worker::Worker;

/// Beyond its grace, a worker tells its last results and gives back what is unfinished.
const END_WITHIN: Duration = Duration::from_secs(20);

/// Run a worker
///
/// Takes tasks of type exec, which are command lines, and runs them: whoever can submit to its
/// queues runs programs here, so it wants --allow-exec. Handlers of other types are written with
/// the library (Rust: duite::worker).
///
/// On SIGINT or SIGTERM it takes no more, waits for what runs, and gives back what is unfinished,
/// which costs no attempt; a second signal ends it at once.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  duite worker --allow-exec
  duite worker --allow-exec --queue gpu --queue default --concurrency 2 --id gpu-1

Exit codes: 0 stopped as asked, 2 wrong options.")]
pub(super) struct WorkerArgs {
    /// A queue to take tasks from; may be repeated [default: default]
    #[arg(short, long = "queue", value_name = "QUEUE")]
    queues: Vec<String>,
    /// How many tasks to run at once [default: the number of processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: Option<u16>,
    /// Run the command lines that are submitted to its queues
    #[arg(long)]
    allow_exec: bool,
    /// Its name, the same after a restart [default: the host's name and the process's id]
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// How long a stopping worker waits for what runs
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
    grace: Duration,
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
}

impl WorkerArgs {
    pub(super) async fn run(self) -> Result<ExitCode, Error> {
        if !self.allow_exec {
            return Err(Error::usage("this worker would have nothing to run").hint(
                "--allow-exec lets it run the command lines that are submitted (type exec); \
                 a worker for other types is a program of your own, see the library's `worker` module",
            ));
        }
        let mut worker = Worker::builder(self.connect.client()?)
            .queues(self.queues)
            .allow_exec(self.allow_exec);
        if let Some(concurrency) = self.concurrency {
            worker = worker.concurrency(concurrency.into());
        }
        if let Some(id) = self.id {
            worker = worker.worker_id(id);
        }
        let stop = signals::stop_requested(self.grace.saturating_add(END_WITHIN))?;
        worker.start()?.run_until(stop, self.grace).await;
        Ok(ExitCode::SUCCESS)
    }
}
