//! Calls of RetryTasks, by filter, several clients at once, repeated when they were not answered and
//! when they were.

use std::collections::BTreeSet;

use duite::proto::v1::{self as pb, create_task_result::Result as Created};
use fastrand::Rng;
use tonic::{Code, Status};

use super::{
    clients::{Shared, limited},
    clock::{self, SECOND},
};
use crate::{
    history::Repetition,
    wire::{PARENT, Tasks},
};

/// The label by which tasks are repeated, and how long one value of it is given.
const LABEL: &str = "group";
const GROUP: u64 = 5 * SECOND;

/// The label of a task that is submitted now.
pub(super) fn label() -> (String, String) {
    (LABEL.to_owned(), (clock::now() / GROUP).to_string())
}

/// Repeats what ended badly of those that were submitted not long ago. Gives the repetitions.
pub(super) async fn repeat(shared: &Shared, random: &mut Rng) -> Vec<pb::Task> {
    let group = clock::now() / GROUP - random.u64(..4);
    let mut request = pb::RetryTasksRequest {
        parent: PARENT.to_owned(),
        filter: Some(pb::TaskFilter {
            labels: [(LABEL.to_owned(), group.to_string())].into(),
            ..pb::TaskFilter::default()
        }),
        request_id: uuid::Uuid::from_u128(random.u128(..)).to_string(),
        page_size: random.choice([0, 1, 7]).unwrap_or(0),
        ..pb::RetryTasksRequest::default()
    };
    let mut made = Vec::new();
    for _ in 0..4 {
        let (tasks, next) = call(shared, &request).await;
        if request.page_size == 0 && random.u8(..3) == 0 {
            let (again, _) = call(shared, &request).await;
            let names: BTreeSet<_> = again.iter().map(|task| (&task.name, &task.uid)).collect();
            for task in &tasks {
                let found = names.contains(&(&task.name, &task.uid));
                assert!(found, "the same call does not find what it made: {task:?}");
            }
            made.extend(again);
        }
        made.extend(tasks);
        if next.is_empty() {
            break;
        }
        request.page_token = next;
    }
    made
}

/// Calls until it is answered.
async fn call(shared: &Shared, request: &pb::RetryTasksRequest) -> (Vec<pb::Task>, String) {
    'again: loop {
        let (id, page) = (&request.request_id, request.page_size);
        shared.log.line(format_args!(
            "repeats {page} request={id} {:?}",
            request.filter
        ));
        let mut tasks = Tasks::new(shared.channel.clone());
        let answer = match tasks.retry_tasks(limited(request.clone())).await {
            Ok(answer) => answer.into_inner(),
            // Nobody has submitted anything yet.
            Err(status) if status.code() == Code::NotFound => return (Vec::new(), String::new()),
            Err(status) => {
                shared.excuse("RetryTasks", &status).await;
                continue;
            }
        };
        let mut made = Vec::new();
        for result in answer.results {
            match result.result.expect("a result is one of two") {
                Created::Task(task) => made.push(task),
                Created::Error(error) => {
                    let code = Code::from(error.code);
                    let details = prost::Message::encode_to_vec(&error).into();
                    let status = Status::with_details(code, error.message, details);
                    shared.excuse("an item of RetryTasks", &status).await;
                    continue 'again;
                }
            }
        }
        return (made, answer.next_page_token);
    }
}

/// A task as a repetition, if it is one.
pub(super) fn repetition(task: &pb::Task) -> Option<Repetition> {
    (!task.retry_of.is_empty()).then(|| Repetition {
        of: task.retry_of.clone(),
        name: task.name.clone(),
        uid: task.uid.clone(),
    })
}
