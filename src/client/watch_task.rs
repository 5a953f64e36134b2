//! Watching tasks: a map by name that follows the server's.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::BoxFuture;
use tonic::{Response, Status, Streaming};

use super::{
    connection::Client,
    propagate,
    task::wire_duration,
    watch::{Framed, Watch, WatchKind, WatchStart, opening},
    watch_core::{Frame, View},
};
use crate::proto::v1::{
    Position, RemovedTask, Task, TaskFilter, WatchOptions, WatchTasksRequest, WatchTasksResponse,
    watch_tasks_response,
};

/// A watch of tasks.
pub type TaskWatch = Watch<Tasks>;

/// One task's change.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskChange {
    /// It is new or has changed.
    Changed(Box<Task>),
    /// It was deleted, or does not match any more.
    Removed(RemovedTask),
}

impl View for BTreeMap<String, Task> {
    type Change = TaskChange;

    fn apply(&mut self, change: TaskChange) {
        match change {
            TaskChange::Changed(task) => {
                self.insert(task.name.clone(), *task);
            }
            TaskChange::Removed(removed) => {
                self.remove(&removed.name);
            }
        }
    }
}

/// Watches tasks.
#[derive(Debug)]
pub struct Tasks {
    filter: TaskFilter,
    until_terminal: bool,
    expected_tasks: i32,
}

impl WatchKind for Tasks {
    type Response = WatchTasksResponse;
    type View = BTreeMap<String, Task>;
    const OPERATION: &'static str = "WatchTasks";

    fn open(
        &self,
        client: &Client,
        options: WatchOptions,
    ) -> BoxFuture<'static, Result<Response<Streaming<WatchTasksResponse>>, Status>> {
        let request = WatchTasksRequest {
            parent: client.parent(),
            filter: Some(self.filter.clone()),
            options: Some(options),
            until_terminal: self.until_terminal,
            expected_tasks: self.expected_tasks,
        };
        let mut tasks = client.task_watches();
        let request = propagate::request(request);
        opening(async move { tasks.watch_tasks(request).await })
    }

    fn may_end(&self) -> bool {
        self.until_terminal
    }
}

impl Tasks {
    /// A watch of all tasks as the simulation opens it.
    #[cfg(test)]
    pub(super) fn all() -> Self {
        Self {
            filter: TaskFilter::default(),
            until_terminal: false,
            expected_tasks: 0,
        }
    }
}

impl Framed for Tasks {
    fn frame(&self, response: WatchTasksResponse) -> Option<Frame<TaskChange>> {
        use watch_tasks_response::Frame as Wire;
        let changed = |tasks: Vec<Task>| tasks.into_iter().map(Box::new).map(TaskChange::Changed);
        Some(match response.frame? {
            Wire::Opened(opened) => Frame::Opened(opened),
            Wire::Snapshot(chunk) => Frame::Snapshot(changed(chunk.tasks).collect()),
            Wire::Synced(synced) => Frame::Synced(synced.position.unwrap_or_default()),
            Wire::Delta(delta) => {
                let removed = delta.removed.into_iter().map(TaskChange::Removed);
                Frame::Delta {
                    base: delta.base_revision,
                    position: delta.position,
                    changes: changed(delta.changed).chain(removed).collect(),
                    more: delta.more,
                    folded: delta.folded_commits,
                }
            }
            Wire::Bookmark(bookmark) => Frame::Bookmark(bookmark.position?),
            Wire::Reset(reset) => Frame::Reset(reset),
            Wire::Closing(closing) => Frame::Closing(closing),
        })
    }
}

/// Settings of a [`TaskWatch`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `start` is called"]
pub struct TaskWatchBuilder {
    client: Client,
    kind: Tasks,
    options: WatchOptions,
    start: WatchStart,
}

impl Client {
    /// Watches the tasks that match.
    pub fn watch_tasks(&self, filter: TaskFilter) -> TaskWatchBuilder {
        TaskWatchBuilder {
            client: self.clone(),
            kind: Tasks {
                filter,
                until_terminal: false,
                expected_tasks: 0,
            },
            options: WatchOptions::default(),
            start: WatchStart::Snapshot,
        }
    }

    /// Watches one task until it has ended.
    pub fn watch_task(&self, task: &str) -> TaskWatchBuilder {
        let filter = TaskFilter {
            names: vec![self.task_name(task)],
            ..TaskFilter::default()
        };
        self.watch_tasks(filter).until_terminal(0)
    }
}

impl TaskWatchBuilder {
    /// Ends when all tasks that the filter names, or `expected` tasks that match its labels, have
    /// ended.
    pub fn until_terminal(mut self, expected: i32) -> Self {
        self.kind.until_terminal = true;
        self.kind.expected_tasks = expected;
        self
    }

    /// The least time between two deltas: what changes meanwhile is folded by the server.
    pub fn min_delta_interval(mut self, interval: Duration) -> Self {
        self.options.min_delta_interval = Some(wire_duration(interval));
        self
    }

    /// How often the server should say that it is there: 5 s to 60 s. Default: 15 s.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.options.heartbeat_interval = Some(wire_duration(interval));
        self
    }

    /// Starts with what changed after a position.
    pub fn resume_from(mut self, position: Position) -> Self {
        self.start = WatchStart::From(position);
        self
    }

    /// Starts with what changes from now on.
    pub fn updates_only(mut self) -> Self {
        self.start = WatchStart::Live;
        self
    }

    /// The watch. Nothing is sent until its first event is asked for.
    pub fn start(self) -> TaskWatch {
        Watch::new(self.client, self.kind, self.options, &self.start)
    }
}
