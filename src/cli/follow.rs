//! Following tasks to their end, with what their states say meanwhile.
//!
//! One watch of the tasks and one of their states, each resumed by itself through every reconnect.
//! What is shown goes to standard error: bars on a terminal, a line for each change elsewhere.

mod display;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

pub(super) use self::display::Display;
use super::{Error, show, signals, watching::Line};
use crate::{
    client::{Client, StateWatch, TaskWatch, WatchEvent, short_name},
    proto::v1::{Task, TaskFilter, task::Status},
};

/// States that one watch takes.
const MAX_STATES: usize = 64;
/// When somebody is told that no worker takes the task.
const UNTAKEN_AFTER: Duration = Duration::from_secs(3);
/// Least time between two redraws.
const REDRAW: Duration = Duration::from_millis(100);
/// Larger values are not shown, as they do not come with a watch.
const SHOWN_VALUE_BYTES: i64 = 64 << 10;

/// Follows tasks until all have ended.
pub(super) struct Follow<'a> {
    client: &'a Client,
    tasks: BTreeMap<String, Task>,
    /// The tasks that report to a state, by its name.
    reporters: BTreeMap<String, BTreeSet<String>>,
    /// What was shown of a state: the revision of each key.
    shown: BTreeMap<String, BTreeMap<String, i64>>,
    display: Display,
    line: Line,
    cancel_asked: bool,
}

impl<'a> Follow<'a> {
    /// Follows `tasks` and gives them as they ended, by name.
    pub(super) async fn to_the_end(
        client: &'a Client,
        tasks: Vec<Task>,
        display: Display,
    ) -> Result<BTreeMap<String, Task>, Error> {
        let mut reporters: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for task in &tasks {
            reporters
                .entry(state_of(client, task))
                .or_default()
                .insert(task.name.clone());
        }
        let mut follow = Self {
            client,
            tasks: tasks
                .into_iter()
                .map(|task| (task.name.clone(), task))
                .collect(),
            reporters,
            shown: BTreeMap::new(),
            display,
            line: Line::default(),
            cancel_asked: false,
        };
        let result = follow.run().await;
        follow.display.end();
        result.map(|()| follow.tasks)
    }

    async fn run(&mut self) -> Result<(), Error> {
        for task in self.tasks.values().cloned().collect::<Vec<_>>() {
            self.show_task(&task).await;
        }
        let filter = TaskFilter {
            names: self.tasks.keys().cloned().collect(),
            ..TaskFilter::default()
        };
        let mut tasks = self.client.watch_tasks(filter).until_terminal(0);
        tasks = tasks.min_delta_interval(REDRAW);
        let mut tasks = tasks.start();
        let states = self.reporters.keys().take(MAX_STATES);
        let states = self.client.watch_state(states).min_delta_interval(REDRAW);
        let mut states = Some(states.start());
        let mut interrupts = signals::Interrupts::listen()?;
        let untaken_at = Instant::now() + UNTAKEN_AFTER;
        let mut told_untaken = false;
        loop {
            tokio::select! {
                event = tasks.next() => match event {
                    None => break,
                    Some(event) => self.on_tasks(event?, &tasks).await,
                },
                event = next_state(&mut states), if states.is_some() => match event {
                    Some(Ok(event)) => self.on_states(&event, states.as_ref()),
                    // Without states the tasks can still be followed.
                    Some(Err(error)) => {
                        self.display.note(&format!("states are not shown: {error}"));
                        states = None;
                    }
                    None => states = None,
                },
                () = sleep_until(untaken_at), if !told_untaken => {
                    told_untaken = true;
                    self.on_untaken();
                }
                () = interrupts.next() => self.on_interrupt().await?,
            }
        }
        Ok(())
    }

    async fn on_tasks<C>(&mut self, event: WatchEvent<C>, watch: &TaskWatch) {
        if let Some(note) = self.line.note(&event) {
            self.display.note(&note);
        }
        for (name, task) in watch.view() {
            let Some(known) = self.tasks.get_mut(name) else {
                continue;
            };
            if known.revision != task.revision {
                known.clone_from(task);
                self.show_task(task).await;
            }
        }
    }

    /// Shows a task; of one that has ended, first what its state came to.
    async fn show_task(&mut self, task: &Task) {
        if show::has_ended(task) {
            self.show_last(&state_of(self.client, task)).await;
        }
        self.display.task(task);
    }

    fn on_states<C>(&mut self, event: &WatchEvent<C>, watch: Option<&StateWatch>) {
        if !matches!(
            event,
            WatchEvent::Synced { .. } | WatchEvent::Changed { .. }
        ) {
            return;
        }
        let Some(watch) = watch else { return };
        for (state, keys) in watch.view().iter() {
            let changes = keys
                .iter()
                .filter_map(|(key, entry)| Some((key.clone(), entry.mod_revision, entry.value()?)));
            let changes = changes.collect();
            self.show(state, changes);
        }
    }

    /// Shows what of a state was not shown yet.
    fn show(&mut self, state: &str, entries: Vec<(String, i64, crate::client::Value)>) {
        let shown = self.shown.entry(state.to_owned()).or_default();
        let mut changes = Vec::new();
        for (key, revision, value) in entries {
            if shown.insert(key.clone(), revision) < Some(revision) {
                changes.push((key, value));
            }
        }
        if changes.is_empty() {
            return;
        }
        let tasks = self.reporters.get(state).into_iter().flatten();
        self.display.state(short_name(state), tasks, &changes);
    }

    /// The states' watch may be behind the tasks': what it still had to bring is read.
    async fn show_last(&mut self, state: &str) {
        // No state: nobody has reported.
        let read = self
            .client
            .get_state_within(state, &[], SHOWN_VALUE_BYTES)
            .await;
        let Ok((read, _)) = read else {
            return;
        };
        let told = read.entries.into_iter();
        let told = told.filter(|entry| entry.stub.is_none());
        let entries = told.filter_map(|entry| {
            let value = crate::client::decode_value(&entry.value).ok()?;
            Some((entry.key, entry.mod_revision, value))
        });
        let entries = entries.collect();
        self.show(state, entries);
    }

    fn on_untaken(&mut self) {
        let waiting = |task: &&Task| task.status() == Status::Queued && task.attempt == 0;
        let Some(task) = self.tasks.values().find(waiting) else {
            return;
        };
        let option = if task.r#type == "exec" {
            " --allow-exec"
        } else {
            ""
        };
        self.display.note(&format!(
            "no worker has taken {} yet; does one for queue `{}` run? `duite worker{option} --queue {}` starts one",
            short_name(&task.name),
            task.queue,
            task.queue
        ));
    }

    async fn on_interrupt(&mut self) -> Result<(), Error> {
        if self.cancel_asked {
            return Err(Error::failed("left; the task goes on until it has stopped"));
        }
        self.cancel_asked = true;
        self.display
            .note("asking the task to stop; interrupt again to leave it");
        let running: Vec<String> = self
            .tasks
            .values()
            .filter(|task| !show::has_ended(task))
            .map(|task| task.name.clone())
            .collect();
        for name in running {
            if let Err(error) = self.client.cancel_task(&name, "interrupted").await {
                self.display
                    .note(&format!("{}: {}", short_name(&name), error.message()));
            }
        }
        Ok(())
    }
}

/// A worker reports to a state named after the task where the task names none.
fn state_of(client: &Client, task: &Task) -> String {
    match task.state_name.as_str() {
        "" => client.state_name(short_name(&task.name)),
        state => state.to_owned(),
    }
}

async fn next_state(
    states: &mut Option<StateWatch>,
) -> Option<Result<WatchEvent<crate::client::StateChange>, crate::client::Error>> {
    match states {
        Some(states) => states.next().await,
        None => None,
    }
}

/// The one task that was followed.
pub(super) fn only(mut ended: BTreeMap<String, Task>, name: &str) -> Result<Task, Error> {
    ended
        .remove(name)
        .ok_or_else(|| Error::failed(format!("the task {} is gone", short_name(name))))
}

/// 0 where the task succeeded.
pub(super) fn exit_code(task: &Task) -> ExitCode {
    if task.status() == Status::Succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
