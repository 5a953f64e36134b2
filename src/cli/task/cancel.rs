//! `duite task cancel`.

use std::process::ExitCode;

use clap::Args;
use futures_util::{StreamExt, TryStreamExt};

use super::{
    super::{Error, output, show},
    FilterArgs, StatusArg,
};
use crate::{
    client::{Client, short_name},
    proto::v1::Task,
};

/// Calls at a time.
const AT_ONCE: usize = 16;

/// Ask tasks to stop
///
/// One that waits is cancelled at once. One that runs is told, and ends when its worker has ended it.
/// With a filter: all that match and have not ended.
#[derive(Args, Debug)]
#[command(
    override_usage = "duite task cancel [OPTIONS] <TASK>...\n       duite task cancel [OPTIONS] --queue <QUEUE> --label <KEY=VALUE>"
)]
#[command(after_long_help = "\
Examples:
  duite task cancel nightly --reason \"wrong input\"
  duite task cancel --label batch=7 --status queued

Exit codes: 0 asked, 1 one has ended already, 3 there is no such task, 69 no server.")]
pub(super) struct CancelArgs {
    /// The tasks
    #[arg(value_name = "TASK", conflicts_with_all = ["queues", "statuses", "labels", "trace", "all"])]
    tasks: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Every task that has not ended
    #[arg(long)]
    all: bool,
    /// Why, for people; the worker is told
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

pub(super) async fn run(client: &Client, args: CancelArgs, json: bool) -> Result<ExitCode, Error> {
    if !args.tasks.is_empty() {
        return named(client, &args, json).await;
    }
    if args.filter.is_empty() && !args.all {
        return Err(Error::usage("nothing says which tasks should stop")
            .hint("name them, choose with --queue, --status, --label or --trace, or say --all"));
    }
    let mut filter = args.filter;
    if filter.statuses.is_empty() {
        filter.statuses = vec![StatusArg::Scheduled, StatusArg::Queued, StatusArg::Running];
    }
    let reason = args.reason.as_str();
    let cancelling = client.all_tasks(filter.filter()).map_ok(async |task| {
        match client.cancel_task(&task.name, reason).await {
            Ok(task) => Ok(Some(task)),
            // It has ended, or is gone, since it was listed.
            Err(error) if ["TASK_TERMINAL", "TASK_NOT_FOUND"].contains(&error.reason()) => Ok(None),
            Err(error) => Err(error),
        }
    });
    let cancelled = cancelling.try_buffer_unordered(AT_ONCE);
    let mut cancelled = std::pin::pin!(cancelled);
    let mut asked = 0;
    while let Some(task) = cancelled.next().await {
        if let Some(task) = task? {
            asked += 1;
            tell(&task, json)?;
        }
    }
    if asked == 0 {
        eprintln!("no task to stop");
    }
    Ok(ExitCode::SUCCESS)
}

/// Each stands by itself; the last error is the command's.
async fn named(client: &Client, args: &CancelArgs, json: bool) -> Result<ExitCode, Error> {
    let mut failed: Option<Error> = None;
    for task in &args.tasks {
        match client.cancel_task(task, &args.reason).await {
            Ok(task) => tell(&task, json)?,
            Err(error) => {
                if let Some(before) = failed.replace(error.into()) {
                    let _ = before.report();
                }
            }
        }
    }
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn tell(task: &Task, json: bool) -> Result<(), Error> {
    if json {
        output::json_line("Task", task)
    } else {
        output::line(format!(
            "{}: {}",
            short_name(&task.name),
            show::status_phrase(task)
        ))
    }
}
