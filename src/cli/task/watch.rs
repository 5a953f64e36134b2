//! `duite task watch`.

use std::{collections::BTreeMap, process::ExitCode};

use clap::Args;

use super::{
    super::{
        Error,
        follow::{Display, Follow},
        live::Live,
        output, show,
        watching::{self, Frames, Look, PaceArgs, Shown, Told, Watching},
    },
    FilterArgs,
};
use crate::{
    client::{Client, TaskChange, WatchEvent, short_name},
    proto::v1::{
        Task, TaskChunk, TaskDelta, TaskFilter, WatchTasksResponse, task::Status,
        watch_tasks_response::Frame,
    },
};

/// Watch tasks live
///
/// With names: follows these to their end, with bars for those whose state has a key `progress`
/// from 0 to 1. Without: shows all that match, until interrupted. Reconnects by itself.
#[derive(Args, Debug)]
#[command(after_long_help = "\
With -o json, each line is a frame of the API's WatchTasksResponse.

Examples:
  duite task watch
  duite task watch --queue gpu --status running
  duite task watch --label batch=7 --until-ended 100
  duite task watch --updates-only --every 1s
  duite task watch build-1 build-2
  duite task watch -o json | jq -c '.delta.changed[]?'

Exit codes: 0 interrupted, or as many as asked have ended, or all named tasks succeeded; 1 one did not; 3 no such task; 69 no server.")]
pub(super) struct WatchArgs {
    /// The tasks; none: all that match
    #[arg(value_name = "TASK", conflicts_with_all = ["queues", "statuses", "labels", "trace", "every", "updates_only"])]
    tasks: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    pace: PaceArgs,
    /// End when so many tasks that match have ended, rather than when interrupted
    #[arg(long, value_name = "N", conflicts_with_all = ["tasks", "statuses"], value_parser = clap::value_parser!(i32).range(1..=100_000))]
    until_ended: Option<i32>,
}

pub(super) async fn run(client: &Client, args: WatchArgs, json: bool) -> Result<ExitCode, Error> {
    if args.tasks.is_empty() {
        return all(client, args, json).await;
    }
    let mut tasks = Vec::new();
    for task in &args.tasks {
        tasks.push(client.get_task(task).await?);
    }
    let ended: Vec<Task> = if json {
        frames_to_the_end(client, &tasks).await?
    } else {
        let ended = Follow::to_the_end(client, tasks, Display::progress()).await?;
        ended.into_values().collect()
    };
    let succeeded = |task: &Task| task.status() == Status::Succeeded;
    Ok(if ended.iter().all(succeeded) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Frames of named tasks until all have ended.
async fn frames_to_the_end(client: &Client, tasks: &[Task]) -> Result<Vec<Task>, Error> {
    let filter = TaskFilter {
        names: tasks.iter().map(|task| task.name.clone()).collect(),
        ..TaskFilter::default()
    };
    let mut watch = client.watch_tasks(filter).until_terminal(0).start();
    let mut watching = Watching::default();
    let mut frames = Frames::default();
    while let Some(event) = watch.next().await {
        let event = event?;
        let Look { is_first, note } = watching.look(&event)?;
        if let Some(note) = note {
            eprintln!("{note}");
        }
        frames.print(&Tasks, event, is_first, watch.view())?;
    }
    Ok(watch.view().values().cloned().collect())
}

/// Everything that matches, until interrupted or until enough have ended.
async fn all(client: &Client, args: WatchArgs, json: bool) -> Result<ExitCode, Error> {
    let live = if json { None } else { Live::on_terminal() };
    let watch = client.watch_tasks(args.filter.filter());
    let mut watch = args.pace.of(watch, live.is_some());
    if let Some(expected) = args.until_ended {
        watch = watch.until_terminal(expected);
    }
    watching::show(watch.start(), live, json, Tasks).await
}

/// Tasks by name.
struct Tasks;

impl Shown<BTreeMap<String, Task>> for Tasks {
    type Response = WatchTasksResponse;
    const RESPONSE: &'static str = "WatchTasksResponse";

    fn response(&self, told: Told<'_, BTreeMap<String, Task>>) -> WatchTasksResponse {
        let frame = match told {
            Told::Snapshot(view) => {
                let tasks = view.values().cloned().collect();
                Frame::Snapshot(TaskChunk { tasks })
            }
            Told::Synced(synced) => Frame::Synced(synced),
            Told::Delta {
                base_revision,
                position,
                changes,
                folded_commits,
            } => {
                let mut delta = TaskDelta {
                    base_revision,
                    position,
                    folded_commits,
                    ..TaskDelta::default()
                };
                for change in changes {
                    match change {
                        TaskChange::Changed(task) => delta.changed.push(*task),
                        TaskChange::Removed(removed) => delta.removed.push(removed),
                    }
                }
                Frame::Delta(delta)
            }
            Told::Reset(reset) => Frame::Reset(reset),
        };
        WatchTasksResponse { frame: Some(frame) }
    }

    /// The newest first: a table that does not fit is cut at its end.
    fn table(&self, view: &BTreeMap<String, Task>) -> String {
        let mut tasks: Vec<&Task> = view.values().collect();
        tasks.sort_by_key(|task| std::cmp::Reverse(show::created(task)));
        let table = show::task_table(tasks);
        let count = view.len();
        let noun = if count == 1 { "task" } else { "tasks" };
        format!("{}\n{count} {noun}", output::trimmed(&table))
    }

    /// A line for each task that changed.
    fn lines(
        &mut self,
        event: &WatchEvent<TaskChange>,
        is_first: bool,
        view: &BTreeMap<String, Task>,
    ) -> Vec<String> {
        let line =
            |task: &Task| format!("{}: {}", short_name(&task.name), show::status_phrase(task));
        let changed = |change: &TaskChange| match change {
            TaskChange::Changed(task) => line(task),
            TaskChange::Removed(removed) => {
                let last = show::word(removed.last_status());
                format!("{}: gone, was {last}", short_name(&removed.name))
            }
        };
        match event {
            WatchEvent::Synced { .. } if is_first => view.values().map(line).collect(),
            WatchEvent::Changed { changes, .. } => changes.iter().map(changed).collect(),
            _ => Vec::new(),
        }
    }
}
