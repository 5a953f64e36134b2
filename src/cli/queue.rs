//! `duite queue`: list, get, pause, resume, set.

use std::{process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use futures_util::{StreamExt, TryStreamExt};

use super::{
    Error,
    connect::{ConnectArgs, OutputArgs},
    output, show,
};
use crate::{
    client::{Client, short_name},
    proto::v1::{Queue, QueueSettings},
};

/// Look at the queues that tasks wait in, pause and limit them
///
/// A queue needs no creating: a task names it. What is set of it stays until it is set otherwise.
#[derive(Args, Debug)]
pub(super) struct QueueCommand {
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    List(ListArgs),
    Get(GetArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
    Set(SetArgs),
}

/// List the queues with their depths
///
/// OLDEST is how long the task has been ready that has been ready longest. LIMIT and PER KEY are
/// how many tasks may run at once, in all and of each concurrency key.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  duite queue list
  duite queue list -o json | jq .queued")]
struct ListArgs {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Show one queue
#[derive(Args, Debug)]
#[command(override_usage = "duite queue get [OPTIONS] <QUEUE>")]
#[command(after_long_help = "\
Examples:
  duite queue get gpu

Exit codes: 0 shown, 69 no server.")]
struct GetArgs {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
}

/// Hand out no more tasks of a queue
///
/// It goes on accepting tasks, and those that run go on.
#[derive(Args, Debug)]
#[command(override_usage = "duite queue pause [OPTIONS] <QUEUE>")]
#[command(after_long_help = "\
Examples:
  duite queue pause gpu

Exit codes: 0 it is on the server's disk, 1 refused, 69 no server.")]
struct PauseArgs {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
}

/// Hand out tasks of a queue again
#[derive(Args, Debug)]
#[command(override_usage = "duite queue resume [OPTIONS] <QUEUE>")]
#[command(after_long_help = "\
Examples:
  duite queue resume gpu

Exit codes: 0 it is on the server's disk, 1 refused, 69 no server.")]
struct ResumeArgs {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
}

/// Limit how many tasks of a queue run at once
///
/// What is not named stays. Tasks that run go on: where more run than a new limit allows, none is
/// handed out until fewer do.
#[derive(Args, Debug)]
#[command(override_usage = "duite queue set [OPTIONS] <QUEUE>")]
#[command(after_long_help = "\
Examples:
  duite queue set gpu --max-running 4
  duite queue set mail --max-running-per-key 1     (one at a time of each --concurrency-key)
  duite queue set gpu --max-running 0              (no limit again)

Exit codes: 0 it is on the server's disk, 1 refused, 2 wrong options, 69 no server.")]
struct SetArgs {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Args, Clone, Copy, Debug)]
#[group(required = true, multiple = true)]
struct LimitArgs {
    /// Most tasks running at once; 0: no limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    max_running: Option<i32>,
    /// Most tasks running at once of each concurrency key; 0: no limit
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    max_running_per_key: Option<i32>,
}

impl LimitArgs {
    /// The settings, and which of them are meant.
    fn settings(self) -> (QueueSettings, Vec<&'static str>) {
        let settings = QueueSettings {
            paused: false,
            max_running: self.max_running.unwrap_or_default(),
            max_running_per_key: self.max_running_per_key.unwrap_or_default(),
        };
        let named = [
            self.max_running.map(|_| "max_running"),
            self.max_running_per_key.map(|_| "max_running_per_key"),
        ];
        (settings, named.into_iter().flatten().collect())
    }
}

impl QueueCommand {
    pub(super) async fn run(self) -> Result<ExitCode, Error> {
        let client = self.connect.client()?;
        let json = self.output.is_json();
        let queue = match self.command {
            Command::List(args) => {
                list(&client, &args, json).await?;
                return Ok(ExitCode::SUCCESS);
            }
            Command::Get(args) => client.get_queue(&args.queue).await?,
            Command::Pause(args) => client.pause_queue(&args.queue).await?,
            Command::Resume(args) => client.resume_queue(&args.queue).await?,
            Command::Set(args) => {
                let (settings, named) = args.limits.settings();
                client.update_queue(&args.queue, settings, &named).await?
            }
        };
        if json {
            output::json_line("Queue", &queue)?;
        } else {
            output::line(shown(&queue))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(client: &Client, args: &ListArgs, json: bool) -> Result<(), Error> {
    let limit = args.limit as usize;
    // One more than asked for tells whether there are more.
    let queues = client.all_queues().take(limit.saturating_add(1));
    let mut queues: Vec<_> = queues.try_collect().await?;
    let more = queues.len() > limit;
    queues.truncate(limit);
    if json {
        queues
            .iter()
            .try_for_each(|queue| output::json_line("Queue", queue))?;
    } else if queues.is_empty() {
        eprintln!("no queues");
    } else {
        output::line(output::trimmed(&table(&queues)))?;
    }
    if more {
        eprintln!("there are more: --limit shows them");
    }
    Ok(())
}

fn table(queues: &[Queue]) -> comfy_table::Table {
    let mut table = output::table([
        "QUEUE",
        "STATUS",
        "QUEUED",
        "OLDEST",
        "RUNNING",
        "LIMIT",
        "PER KEY",
        "SCHEDULED",
        "SUCCEEDED",
        "FAILED",
        "CANCELLED",
    ]);
    for queue in queues {
        let settings = queue.settings.unwrap_or_default();
        table.add_row([
            short_name(&queue.name).to_owned(),
            status(settings).to_owned(),
            queue.queued.to_string(),
            oldest(queue),
            queue.running.to_string(),
            limit(settings.max_running),
            limit(settings.max_running_per_key),
            queue.scheduled.to_string(),
            queue.succeeded.to_string(),
            queue.failed.to_string(),
            queue.cancelled.to_string(),
        ]);
    }
    table
}

/// Everything of one queue, a line for each thing.
fn shown(queue: &Queue) -> String {
    let settings = queue.settings.unwrap_or_default();
    let or_none = |limit: i32| match limit {
        0 => "no limit".to_owned(),
        limit => limit.to_string(),
    };
    let oldest = match oldest(queue).as_str() {
        "" => String::new(),
        age => format!(", the oldest for {age}"),
    };
    let ended = format!(
        "{} succeeded, {} failed, {} cancelled",
        queue.succeeded, queue.failed, queue.cancelled
    );
    let lines = [
        ("queue", short_name(&queue.name).to_owned()),
        ("status", status(settings).to_owned()),
        ("max running", or_none(settings.max_running)),
        ("per key", or_none(settings.max_running_per_key)),
        ("scheduled", queue.scheduled.to_string()),
        ("queued", format!("{}{oldest}", queue.queued)),
        ("running", queue.running.to_string()),
        ("ended", ended),
    ];
    let lines = lines.map(|(name, value)| format!("{name:<11} {value}"));
    lines.join("\n")
}

fn status(settings: QueueSettings) -> &'static str {
    if settings.paused { "paused" } else { "open" }
}

/// Nothing where there is no limit.
fn limit(limit: i32) -> String {
    if limit == 0 {
        String::new()
    } else {
        limit.to_string()
    }
}

fn oldest(queue: &Queue) -> String {
    let wait = queue.oldest_wait.map(Duration::try_from);
    // Clocks may be put back: what is negative has only just come.
    wait.map_or_else(String::new, |wait| show::rough(wait.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_told_with_its_limits_and_depths() {
        let mut queue = Queue {
            name: "namespaces/default/queues/gpu".to_owned(),
            queued: 3,
            running: 2,
            failed: 1,
            oldest_wait: Some(prost_types::Duration {
                seconds: 90,
                nanos: 0,
            }),
            settings: Some(QueueSettings {
                paused: true,
                max_running: 2,
                max_running_per_key: 0,
            }),
            ..Queue::default()
        };
        assert_eq!(
            shown(&queue),
            "queue       gpu\n\
             status      paused\n\
             max running 2\n\
             per key     no limit\n\
             scheduled   0\n\
             queued      3, the oldest for 90s\n\
             running     2\n\
             ended       0 succeeded, 1 failed, 0 cancelled"
        );
        queue.oldest_wait = None;
        let table = output::trimmed(&table(&[queue]));
        assert!(table.ends_with("gpu    paused  3               2        2               0          0          1       0"), "{table}");
    }

    #[test]
    fn only_what_is_named_is_set() {
        let limits = LimitArgs {
            max_running: None,
            max_running_per_key: Some(0),
        };
        let (settings, named) = limits.settings();
        assert_eq!(settings, QueueSettings::default());
        assert_eq!(named, ["max_running_per_key"]);
    }
}
