//! `duite trace`: what a task went through, as the server itself knows it.
//!
//! No collector is needed: every task carries its trace and its last attempts.

mod chart;
mod progress;
mod target;
mod text;
mod timeline;

use std::{process::ExitCode, time::SystemTime};

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use tonic::Code;

pub(super) use self::target::trace_id;
use self::{progress::Progress, target::Target, text::Screen};
use super::{
    Error,
    connect::{ConnectArgs, OutputArgs},
    error::Exit,
    output, show,
};
use crate::{
    client::Client,
    proto::v1::{Task, TaskFilter},
};

/// Tasks of a trace that are shown.
const SHOWN: usize = 20;
/// Reads at a time.
const AT_ONCE: usize = 8;

/// Show what a task went through: its waits, attempts, failures and pauses, as the server knows them
///
/// Given a task, its timeline. Given a trace, those of all its tasks in this namespace: the newest 20,
/// the first of them first. No collector of traces is needed. Times count from the submission; the
/// server keeps the last 10 attempts of a task, and nothing of a lease that was given back before the
/// work began.
#[derive(Args, Debug)]
#[command(after_long_help = "\
With -o json, each line is a Task of the API.

Examples:
  duite trace nightly
  duite trace 4bf92f3577b34da6a3ce929d0e0e4736
  duite trace \"$TRACEPARENT\"
  duite trace nightly -o json | jq -c '.attempts[]'

Exit codes: 0 shown, 3 there is no such task, or the trace has none; 69 no server.")]
pub(super) struct TraceArgs {
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// A task, a trace's id, or a traceparent
    #[arg(value_name = "TASK|TRACE")]
    target: String,
}

impl TraceArgs {
    pub(super) async fn run(self) -> Result<ExitCode, Error> {
        let client = self.connect.client()?;
        let json = self.output.is_json();
        match Target::of(&self.target) {
            Target::Task(task) => match client.get_task(task).await {
                Ok(task) => shown(&client, vec![task], json).await?,
                Err(error) => return Err(target::not_found(task, error)),
            },
            Target::Trace(trace) => of_trace(&client, &trace, &self.target, json).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn of_trace(client: &Client, trace: &str, typed: &str, json: bool) -> Result<(), Error> {
    let filter = TaskFilter {
        trace_id: trace.to_owned(),
        ..TaskFilter::default()
    };
    // One more than is shown tells whether there are more.
    let tasks = client.all_tasks(filter).take(SHOWN + 1);
    let mut tasks: Vec<Task> = tasks.try_collect().await?;
    if tasks.is_empty() {
        // A task may have a name of 32 digits.
        return match client.get_task(typed).await {
            Ok(task) => shown(client, vec![task], json).await,
            Err(error) if error.code() == Code::NotFound => {
                let message = format!("the namespace has no task of the trace {trace}");
                Err(Error::new(Exit::NotFound, message).hint(
                    "tasks leave when their retention is over; --namespace names another namespace",
                ))
            }
            Err(error) => Err(error.into()),
        };
    }
    let more = tasks.len() > SHOWN;
    tasks.truncate(SHOWN);
    tasks.reverse();
    shown(client, tasks, json).await?;
    if more {
        eprintln!("there are more: `duite task list --trace {trace} --limit 1000` lists them");
    }
    Ok(())
}

/// Shows tasks one below the other.
async fn shown(client: &Client, tasks: Vec<Task>, json: bool) -> Result<(), Error> {
    if json {
        return tasks
            .iter()
            .try_for_each(|task| output::json_line("Task", task));
    }
    let screen = Screen::here();
    let first = tasks.iter().filter_map(show::created).min();
    let of = |task: Task| async move {
        let progress = Progress::read(client, &task).await;
        (task, progress)
    };
    let mut told = stream::iter(tasks).map(of).buffered(AT_ONCE);
    let mut is_first = true;
    while let Some((task, progress)) = told.next().await {
        if !std::mem::replace(&mut is_first, false) {
            output::line("")?;
        }
        let now = SystemTime::now();
        output::line(screen.task(&task, progress.as_ref(), first, now))?;
    }
    Ok(())
}
