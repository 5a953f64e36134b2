//! `duite task`: get, list, watch, cancel, retry.

mod cancel;
mod retry;
mod watch;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use futures_util::{StreamExt, TryStreamExt};

use super::{
    Error,
    connect::{ConnectArgs, OutputArgs},
    new_task::parse_pair,
    output, show, trace,
};
use crate::{
    client::Client,
    proto::v1::{TaskFilter, task::Status},
};

/// Look at tasks, stop them, repeat them
#[derive(Args, Debug)]
pub(super) struct TaskCommand {
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Get(GetArgs),
    List(ListArgs),
    Watch(watch::WatchArgs),
    Cancel(cancel::CancelArgs),
    Retry(retry::RetryArgs),
}

/// Show one task with its attempts
#[derive(Args, Debug)]
#[command(override_usage = "duite task get [OPTIONS] <TASK>")]
#[command(after_long_help = "\
Examples:
  duite task get 0199a7f0-…
  duite task get nightly -o json | jq .status

Exit codes: 0 shown, 3 there is no such task, 69 no server.")]
struct GetArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: String,
}

/// List tasks, the newest first
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  duite task list
  duite task list --status failed --label nightly=1
  duite task list --trace 4bf92f3577b34da6a3ce929d0e0e4736
  duite task list --limit 1000 -o json")]
struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Which tasks.
#[derive(Args, Clone, Debug, Default)]
struct FilterArgs {
    /// Only of this queue; may be repeated
    #[arg(short, long = "queue", value_name = "QUEUE")]
    queues: Vec<String>,
    /// Only with this status; may be repeated
    #[arg(short, long = "status", value_name = "STATUS", value_enum)]
    statuses: Vec<StatusArg>,
    /// Only with this label; may be repeated
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
    /// Only of this trace: its id, or a traceparent
    #[arg(long, value_name = "TRACE", value_parser = trace::trace_id)]
    trace: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StatusArg {
    Scheduled,
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl FilterArgs {
    fn is_empty(&self) -> bool {
        self.queues.is_empty()
            && self.statuses.is_empty()
            && self.labels.is_empty()
            && self.trace.is_none()
    }

    fn filter(self) -> TaskFilter {
        let status = |status: StatusArg| match status {
            StatusArg::Scheduled => Status::Scheduled,
            StatusArg::Queued => Status::Queued,
            StatusArg::Running => Status::Running,
            StatusArg::Succeeded => Status::Succeeded,
            StatusArg::Failed => Status::Failed,
            StatusArg::Cancelled => Status::Cancelled,
        };
        TaskFilter {
            names: Vec::new(),
            statuses: self
                .statuses
                .into_iter()
                .map(|s| status(s).into())
                .collect(),
            queues: self.queues,
            labels: self.labels.into_iter().collect(),
            trace_id: self.trace.unwrap_or_default(),
        }
    }
}

impl TaskCommand {
    pub(super) async fn run(self) -> Result<ExitCode, Error> {
        let client = self.connect.client()?;
        let json = self.output.is_json();
        match self.command {
            Command::Get(args) => get(&client, &args.task, json).await?,
            Command::List(args) => list(&client, args, json).await?,
            Command::Watch(args) => return watch::run(&client, args, json).await,
            Command::Cancel(args) => return cancel::run(&client, args, json).await,
            Command::Retry(args) => return retry::run(&client, args, json).await,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn get(client: &Client, task: &str, json: bool) -> Result<(), Error> {
    let task = client.get_task(task).await?;
    if json {
        output::json_line("Task", &task)
    } else {
        output::line(show::task(&task))
    }
}

async fn list(client: &Client, args: ListArgs, json: bool) -> Result<(), Error> {
    let limit = args.limit as usize;
    let tasks = client.all_tasks(args.filter.filter());
    // One more than asked for tells whether there are more.
    let mut tasks: Vec<_> = tasks.take(limit.saturating_add(1)).try_collect().await?;
    let more = tasks.len() > limit;
    tasks.truncate(limit);
    if json {
        tasks
            .iter()
            .try_for_each(|task| output::json_line("Task", task))?;
    } else if tasks.is_empty() {
        eprintln!("no tasks");
    } else {
        output::line(output::trimmed(&show::task_table(&tasks)))?;
    }
    if more {
        eprintln!("there are more: --limit shows them");
    }
    Ok(())
}
