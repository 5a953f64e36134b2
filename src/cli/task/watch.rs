//! `duite task watch`.

use std::process::ExitCode;

use clap::Args;

use super::{
    super::{
        Error,
        follow::{Display, Follow},
        live::Live,
        output, show, signals,
        watching::{Look, PaceArgs, Watching},
    },
    FilterArgs,
};
use crate::{
    client::{Client, TaskChange, TaskWatch, WatchEvent, short_name},
    proto::v1::{
        Task, TaskChunk, TaskDelta, TaskFilter, WatchSynced, WatchTasksResponse, task::Status,
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
    #[arg(value_name = "TASK", conflicts_with_all = ["queues", "statuses", "labels", "every", "updates_only"])]
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
        frames.print(event, is_first, &watch)?;
    }
    Ok(watch.view().values().cloned().collect())
}

/// Everything that matches, until interrupted or until enough have ended.
async fn all(client: &Client, args: WatchArgs, json: bool) -> Result<ExitCode, Error> {
    let mut live = if json { None } else { Live::on_terminal() };
    let mut watch = client.watch_tasks(args.filter.filter());
    if let Some(interval) = args.pace.interval(live.is_some()) {
        watch = watch.min_delta_interval(interval);
    }
    if args.pace.updates_only {
        watch = watch.updates_only();
    }
    if let Some(expected) = args.until_ended {
        watch = watch.until_terminal(expected);
    }
    let mut watch = watch.start();
    let mut interrupts = signals::Interrupts::listen()?;
    let mut watching = Watching::default();
    let mut frames = Frames::default();
    loop {
        let event = tokio::select! {
            event = watch.next() => event,
            () = interrupts.next() => return Ok(ExitCode::SUCCESS),
        };
        let Some(event) = event else {
            return Ok(ExitCode::SUCCESS);
        };
        let event = event?;
        let Look { is_first, note } = watching.look(&event)?;
        match (note, &mut live) {
            (Some(note), Some(live)) => live.note(&note),
            (Some(note), None) => eprintln!("{note}"),
            (None, _) => {}
        }
        if json {
            frames.print(event, is_first, &watch)?;
        } else if let Some(live) = &mut live {
            live.draw(&table(&watch))?;
        } else {
            lines(&event, is_first, &watch)?;
        }
    }
}

/// The newest first: a table that does not fit is cut at its end.
fn table(watch: &TaskWatch) -> String {
    let mut tasks: Vec<&Task> = watch.view().values().collect();
    tasks.sort_by_key(|task| std::cmp::Reverse(show::created(task)));
    let table = show::task_table(tasks);
    let count = watch.view().len();
    let noun = if count == 1 { "task" } else { "tasks" };
    format!("{}\n{count} {noun}", output::trimmed(&table))
}

/// A line for each task that changed.
fn lines(event: &WatchEvent<TaskChange>, is_first: bool, watch: &TaskWatch) -> Result<(), Error> {
    let line = |task: &Task| {
        output::line(format!(
            "{}: {}",
            short_name(&task.name),
            show::status_phrase(task)
        ))
    };
    match event {
        WatchEvent::Synced { .. } if is_first => watch.view().values().try_for_each(line),
        WatchEvent::Changed { changes, .. } => changes.iter().try_for_each(|change| match change {
            TaskChange::Changed(task) => line(task),
            TaskChange::Removed(removed) => {
                let last = show::word(removed.last_status());
                output::line(format!("{}: gone, was {last}", short_name(&removed.name)))
            }
        }),
        _ => Ok(()),
    }
}

/// Events as the API's frames.
#[derive(Debug, Default)]
struct Frames {
    revision: i64,
}

impl Frames {
    fn print(
        &mut self,
        event: WatchEvent<TaskChange>,
        is_first: bool,
        watch: &TaskWatch,
    ) -> Result<(), Error> {
        let print = |frame| {
            output::json_line(
                "WatchTasksResponse",
                &WatchTasksResponse { frame: Some(frame) },
            )
        };
        match event {
            WatchEvent::Synced { position } => {
                if is_first {
                    let tasks = watch.view().values().cloned().collect();
                    print(Frame::Snapshot(TaskChunk { tasks }))?;
                }
                self.revision = position.revision;
                let position = Some(position);
                print(Frame::Synced(WatchSynced { position }))
            }
            WatchEvent::Changed {
                changes,
                position,
                folded_commits,
            } => {
                let mut delta = TaskDelta {
                    base_revision: self.revision,
                    folded_commits,
                    ..TaskDelta::default()
                };
                self.revision = position.revision;
                delta.position = Some(position);
                for change in changes {
                    match change {
                        TaskChange::Changed(task) => delta.changed.push(*task),
                        TaskChange::Removed(removed) => delta.removed.push(removed),
                    }
                }
                print(Frame::Delta(delta))
            }
            WatchEvent::Reset { reset } => print(Frame::Reset(reset.unwrap_or_default())),
            WatchEvent::Reconnecting { .. } => Ok(()),
        }
    }
}
