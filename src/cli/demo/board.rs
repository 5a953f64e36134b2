//! What there is to see, taken from what the watches have brought and from nothing else.

use std::collections::BTreeMap;

use super::{flaky, slice};
use crate::{
    client::{StateView, ViewEntry, from_value, short_name},
    proto::v1::{Failure, Task, failure::Category, task::Status},
};

/// Three counts: of what there is, or of what is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) slices: u64,
}

/// What one worker is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct WorkerLine {
    /// Slices it has finished.
    pub(super) done: u64,
    /// Slices it has in hand.
    pub(super) running: u64,
    /// Files it has behind it in those.
    pub(super) files: u64,
    pub(super) of: u64,
}

/// The flaky task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FlakyLine {
    pub(super) status: Status,
    pub(super) attempt: i32,
    /// The last failure, with its causes.
    pub(super) failure: Option<String>,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Board {
    pub(super) done: Totals,
    pub(super) workers: BTreeMap<String, WorkerLine>,
    pub(super) flaky: FlakyLine,
    /// Tasks that have ended, however.
    pub(super) ended: usize,
}

/// One attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FailedAttempt {
    pub(super) task: String,
    pub(super) attempt: i32,
    pub(super) worker: String,
    pub(super) lost: bool,
    pub(super) failure_type: String,
    pub(super) message: String,
}

impl Board {
    /// `state` is the shared state's full name.
    pub(super) fn of(tasks: &BTreeMap<String, Task>, view: &StateView, state: &str) -> Self {
        let mut board = Self {
            done: done(view, state),
            ..Self::default()
        };
        for task in tasks.values() {
            let (id, status) = (short_name(&task.name), task.status());
            board.ended += usize::from(is_terminal(status));
            if id == flaky::ID {
                board.flaky = FlakyLine {
                    status,
                    attempt: task.attempt,
                    failure: task.failure.as_ref().map(with_causes),
                };
                continue;
            }
            let line = match status {
                Status::Running | Status::Succeeded => {
                    board.workers.entry(task.worker_id.clone()).or_default()
                }
                _ => continue,
            };
            if status == Status::Succeeded {
                line.done += 1;
                continue;
            }
            line.running += 1;
            if let Some(json) = view.get(state, id).and_then(json) {
                line.files += json["files"].as_u64().unwrap_or_default();
                line.of += json["of"].as_u64().unwrap_or_default();
            }
        }
        board
    }
}

/// What the shared state says is done.
pub(super) fn done(view: &StateView, state: &str) -> Totals {
    let count = |key| {
        let json = view.get(state, key).and_then(json);
        json.and_then(|json| json.as_u64()).unwrap_or_default()
    };
    Totals {
        files: count("files_done"),
        bytes: count("bytes_done"),
        slices: count("slices_done"),
    }
}

fn json(entry: &ViewEntry) -> Option<serde_json::Value> {
    entry.value().map(|value| from_value(&value))
}

pub(super) fn is_terminal(status: Status) -> bool {
    matches!(
        status,
        Status::Succeeded | Status::Failed | Status::Cancelled
    )
}

/// The slices that a worker has in hand.
pub(super) fn held_by<'a>(tasks: impl IntoIterator<Item = &'a Task>, worker: &str) -> Vec<String> {
    let held = tasks.into_iter().filter(|task| {
        task.status() == Status::Running
            && task.worker_id == worker
            && task.r#type == slice::TASK_TYPE
    });
    held.map(|task| short_name(&task.name).to_owned()).collect()
}

/// All attempts that failed, in the order of their tasks.
pub(super) fn failed_attempts(tasks: &BTreeMap<String, Task>) -> Vec<FailedAttempt> {
    let mut failed = Vec::new();
    for task in tasks.values() {
        for attempt in &task.attempts {
            let Some(failure) = &attempt.failure else {
                continue;
            };
            failed.push(FailedAttempt {
                task: short_name(&task.name).to_owned(),
                attempt: attempt.number,
                worker: attempt.worker_id.clone(),
                lost: failure.category() == Category::LeaseLost,
                failure_type: failure.r#type.clone(),
                message: with_causes(failure),
            });
        }
    }
    failed
}

/// The message and those of its causes.
pub(super) fn with_causes(failure: &Failure) -> String {
    let mut text = failure.message.clone();
    let causes = std::iter::successors(failure.cause.as_deref(), |cause| cause.cause.as_deref());
    for cause in causes {
        text.push_str(": ");
        text.push_str(&cause.message);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::Attempt;

    fn task(id: &str, worker: &str, status: Status) -> Task {
        let task_type = if id == flaky::ID {
            flaky::TASK_TYPE
        } else {
            slice::TASK_TYPE
        };
        Task {
            name: format!("namespaces/default/tasks/{id}"),
            r#type: task_type.to_owned(),
            worker_id: worker.to_owned(),
            status: status.into(),
            attempt: 2,
            ..Task::default()
        }
    }

    fn tasks(tasks: impl IntoIterator<Item = Task>) -> BTreeMap<String, Task> {
        let tasks = tasks.into_iter().map(|task| (task.name.clone(), task));
        tasks.collect()
    }

    #[test]
    fn a_board_counts_what_each_worker_did_and_does() {
        let mut flaky = task(flaky::ID, "b", Status::Queued);
        flaky.failure = Some(Failure {
            message: "no way".to_owned(),
            cause: Some(Box::new(Failure {
                message: "refused".to_owned(),
                ..Failure::default()
            })),
            ..Failure::default()
        });
        let tasks = tasks([
            task("slice-0000", "a", Status::Succeeded),
            task("slice-0001", "a", Status::Running),
            task("slice-0002", "b", Status::Running),
            task("slice-0003", "", Status::Queued),
            flaky,
        ]);
        let board = Board::of(&tasks, &StateView::default(), "demo");
        assert_eq!(
            (board.workers["a"].done, board.workers["a"].running),
            (1, 1)
        );
        assert_eq!(
            (board.workers["b"].done, board.workers["b"].running),
            (0, 1)
        );
        assert_eq!(board.ended, 1);
        assert_eq!(board.flaky.failure.as_deref(), Some("no way: refused"));
        assert_eq!(held_by(tasks.values(), "a"), ["slice-0001"]);
    }

    #[test]
    fn failed_attempts_say_whether_the_worker_was_lost() {
        let mut lost = task("slice-0001", "b", Status::Succeeded);
        lost.attempts = vec![
            Attempt {
                number: 1,
                worker_id: "a".to_owned(),
                failure: Some(Failure {
                    category: Category::LeaseLost.into(),
                    ..Failure::default()
                }),
                ..Attempt::default()
            },
            Attempt {
                number: 2,
                ..Attempt::default()
            },
        ];
        let failed = failed_attempts(&tasks([lost]));
        assert_eq!(failed.len(), 1);
        assert!(failed[0].lost);
        assert_eq!((failed[0].worker.as_str(), failed[0].attempt), ("a", 1));
    }
}
