//! `duite info`: the server, its jobs and the workers it knows.

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{
    Error,
    connect::{ConnectArgs, OutputArgs},
    output, show,
};
use crate::proto::v1::WorkerInstance;

/// Workers shown.
const WORKERS: i32 = 1_000;

/// Show the server, its background jobs and the workers it knows
#[derive(Args, Debug)]
#[command(after_long_help = "\
With -o json: one line each with GetServerInfoResponse, ListBackgroundJobsResponse and
ListWorkersResponse of the API.

Examples:
  duite info
  duite info --addr http://build-server:7643

Exit codes: 0 shown, 69 no server.")]
pub(super) struct InfoArgs {
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl InfoArgs {
    pub(super) async fn run(self) -> Result<ExitCode, Error> {
        let client = self.connect.client()?;
        let info = client.server_info().await?;
        let jobs = client.background_jobs().await?;
        let workers = client.list_workers(WORKERS, "").await?;
        if self.output.is_json() {
            output::json_line("GetServerInfoResponse", &info)?;
            output::json_line("ListBackgroundJobsResponse", &jobs)?;
            output::json_line("ListWorkersResponse", &workers)?;
            return Ok(ExitCode::SUCCESS);
        }
        output::line(format!(
            "duite {} at {}, store epoch {}, durability {}",
            info.version,
            self.connect.address(),
            info.store_epoch,
            info.durability
        ))?;
        let mut table = output::table([
            "JOB",
            "KIND",
            "RUNS",
            "FAILURES",
            "RESTARTS",
            "ON FAILURE",
            "LAST FAILURE",
        ]);
        for job in &jobs.jobs {
            table.add_row([
                job.name.as_str(),
                &job.kind,
                if job.running { "yes" } else { "no" },
                &job.failures.to_string(),
                &job.restarts.to_string(),
                &job.on_failure,
                &job.last_failure,
            ]);
        }
        output::line(format!("\n{}", output::trimmed(&table)))?;
        if workers.workers.is_empty() {
            output::line("\nno workers")?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = output::table(["WORKER", "QUEUES", "TYPES", "LEASES", "RENEWED"]);
        for worker in &workers.workers {
            table.add_row([
                worker.worker_id.as_str(),
                &worker.queues.join(","),
                &worker.task_types.join(","),
                &worker.leases.to_string(),
                &renewed(worker),
            ]);
        }
        output::line(format!("\n{}", output::trimmed(&table)))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn renewed(worker: &WorkerInstance) -> String {
    let since = worker.since_renewal.as_ref();
    let since = since.and_then(|since| Duration::try_from(*since).ok());
    let since = since.map_or_else(
        || "never".to_owned(),
        |since| format!("{} ago", show::rough(since)),
    );
    if worker.suspect {
        format!("{since}, silent")
    } else {
        since
    }
}
