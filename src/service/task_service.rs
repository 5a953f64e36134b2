//! `TaskService`: submit, read, list, cancel, watch.

use std::sync::Arc;

use prost::Message;
use tonic::{Request, Response, Status, async_trait};

use super::{
    Context,
    convert::{self, Detail, items, task_filter, within},
    position,
    retry::retry_tasks,
    status::to_item,
    watch::{self, Frames},
};
use crate::{
    domain::{
        Error, Revision, TaskId, Uid,
        id::{parse_namespace, parse_task_name},
        limits::MAX_MESSAGE_BYTES,
        table::Content,
        task::Event,
    },
    engine::{
        Namespace, Page,
        clock::Now,
        command::{TaskOp, TaskOpKind},
        mirror::TaskRow,
        watch::WatchTasks,
    },
    proto::v1::{self as pb, create_task_result, task_service_server::TaskService},
};

/// A page of a list may weigh this much; beyond it, it holds fewer tasks than asked for.
const MAX_PAGE_BYTES: usize = MAX_MESSAGE_BYTES - (256 << 10);
/// Why a task should stop is for people.
const MAX_CANCEL_REASON_BYTES: usize = 1 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Tasks(pub(super) Context);

#[async_trait]
impl TaskService for Tasks {
    type WatchTasksStream = Frames<pb::WatchTasksResponse>;

    async fn create_task(
        &self,
        request: Request<pb::CreateTaskRequest>,
    ) -> Result<Response<pb::CreateTaskResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let id = parse_namespace("parent", &request.parent)?;
        let op = convert::create(&id, request, &headers, self.0.traces(), Now::read().wall_us)?;
        let namespace = self.0.namespace(&id).await?;
        let row = namespace.task(op).await?;
        Ok(Response::new(pb::CreateTaskResponse {
            position: Some(position(&namespace, row.created)),
            task: Some(convert::task(&id, &row, Detail::Full)),
        }))
    }

    async fn batch_create_tasks(
        &self,
        request: Request<pb::BatchCreateTasksRequest>,
    ) -> Result<Response<pb::BatchCreateTasksResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let id = parse_namespace("parent", &request.parent)?;
        items("requests", request.requests.len(), 1)?;
        let now_us = Now::read().wall_us;
        let ops: Vec<_> = request
            .requests
            .into_iter()
            .map(|one| {
                let same = one.parent.is_empty() || one.parent == request.parent;
                if !same {
                    let named = parse_namespace("requests.parent", &one.parent)?;
                    within("requests.parent", &id, &named)?;
                }
                convert::create(&id, one, &headers, self.0.traces(), now_us)
            })
            .collect();
        let namespace = self.0.namespace(&id).await?;
        // A task that stood already has the uid that it was made with.
        let uids: Vec<_> = ops.iter().map(uid_of).collect();
        let rows = namespace.tasks(ops).await?;
        let (rows, at) = as_they_stand(&namespace, rows);
        let mut results: Vec<_> = rows
            .into_iter()
            .zip(uids)
            .map(|(row, uid)| pb::CreateTaskResult {
                result: Some(match row {
                    Ok(row) if row.task.uid() == uid => {
                        create_task_result::Result::Task(convert::made_task(&id, &row))
                    }
                    Ok(row) => {
                        create_task_result::Result::Task(convert::task(&id, &row, Detail::Brief))
                    }
                    Err(error) => create_task_result::Result::Error(to_item(&error)),
                }),
            })
            .collect();
        convert::fit(
            results
                .iter_mut()
                .filter_map(|result| match &mut result.result {
                    Some(create_task_result::Result::Task(task)) => Some(task),
                    _ => None,
                }),
        );
        Ok(Response::new(pb::BatchCreateTasksResponse {
            results,
            position: Some(position(&namespace, at)),
        }))
    }

    async fn get_task(
        &self,
        request: Request<pb::GetTaskRequest>,
    ) -> Result<Response<pb::GetTaskResponse>, Status> {
        let request = request.into_inner();
        let (id, task) = parse_task_name("name", &request.name)?;
        let namespace = self.0.existing(&id)?;
        namespace.reach(&request.min_position).await?;
        let (row, at) = namespace.get_task(&task)?;
        let place = namespace.place_of(&row).unwrap_or_default();
        let aside = namespace.aside(&row).await?;
        let task = pb::Task {
            queue_position: i64::try_from(place).unwrap_or(i64::MAX),
            ..convert::whole_task(&id, &row, aside)
        };
        Ok(Response::new(pb::GetTaskResponse {
            task: Some(task),
            position: Some(position(&namespace, at)),
        }))
    }

    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Result<Response<pb::ListTasksResponse>, Status> {
        let request = request.into_inner();
        let id = parse_namespace("parent", &request.parent)?;
        let filter = task_filter(&id, request.filter)?;
        let namespace = self.0.existing(&id)?;
        namespace.reach(&request.min_position).await?;
        let mut size = request.page_size;
        loop {
            let page = namespace.list_tasks(&filter, size, &request.page_token)?;
            let many = page.items.len() > 1;
            let response = page_of_tasks(&namespace, page);
            if !many || response.encoded_len() <= MAX_PAGE_BYTES {
                return Ok(Response::new(response));
            }
            // Its own token goes with its own size: the next page begins where this one ends.
            size = i32::try_from(response.tasks.len() / 2).unwrap_or(1);
        }
    }

    async fn cancel_task(
        &self,
        request: Request<pb::CancelTaskRequest>,
    ) -> Result<Response<pb::CancelTaskResponse>, Status> {
        let request = request.into_inner();
        let (id, task) = parse_task_name("name", &request.name)?;
        convert::optional_uuid("request_id", &request.request_id)?;
        if request.reason.len() > MAX_CANCEL_REASON_BYTES {
            let problem = format!(
                "may have {MAX_CANCEL_REASON_BYTES} bytes, got {}",
                request.reason.len()
            );
            return Err(Error::field("reason", problem).into());
        }
        let namespace = self.0.existing(&id)?;
        let event = Event::Cancel {
            reason: request.reason,
        };
        let op = TaskOp {
            id: task,
            kind: TaskOpKind::Event(event),
        };
        let row = namespace.task(op).await?;
        Ok(Response::new(pb::CancelTaskResponse {
            position: Some(position(&namespace, row.revision)),
            task: Some(convert::task(&id, &row, Detail::Full)),
        }))
    }

    async fn retry_tasks(
        &self,
        request: Request<pb::RetryTasksRequest>,
    ) -> Result<Response<pb::RetryTasksResponse>, Status> {
        let (headers, _, request) = request.into_parts();
        let answer = retry_tasks(&self.0, request, &headers).await?;
        Ok(Response::new(answer))
    }

    async fn watch_tasks(
        &self,
        request: Request<pb::WatchTasksRequest>,
    ) -> Result<Response<Self::WatchTasksStream>, Status> {
        let request = request.into_inner();
        let id = parse_namespace("parent", &request.parent)?;
        let expected = usize::try_from(request.expected_tasks).map_err(|_| {
            let problem = format!("must not be negative, got {}", request.expected_tasks);
            Error::field("expected_tasks", problem)
        })?;
        let asked = WatchTasks {
            filter: task_filter(&id, request.filter)?,
            options: convert::options(request.options)?,
            until_terminal: request.until_terminal,
            expected,
        };
        let namespace = self.0.existing(&id)?;
        let permit = self.0.streams.watch()?;
        let watch = namespace.watch_tasks(asked).await?;
        Ok(Response::new(watch::tasks(id, watch, permit)))
    }
}

/// The uid that a creation gives its task.
fn uid_of(op: &Result<TaskOp, Error>) -> Uid {
    match op {
        Ok(TaskOp {
            kind: TaskOpKind::Create(new),
            ..
        }) => new.task.uid(),
        _ => Uid::default(),
    }
}

fn page_of_tasks(namespace: &Namespace, page: Page<Arc<TaskRow>>) -> pb::ListTasksResponse {
    let rows = page.items.iter();
    pb::ListTasksResponse {
        tasks: rows
            .map(|row| convert::task(namespace.id(), row, Detail::Brief))
            .collect(),
        next_page_token: page.next_page_token,
        position: Some(position(namespace, page.position)),
    }
}

/// The tasks of a batch as they stand at one position: what a watch from there tells continues
/// exactly what the answer shows. (Their own revisions may lie in several groups, and the first of
/// them may have moved on before the last was made.)
pub(super) fn as_they_stand(
    namespace: &Namespace,
    mut rows: Vec<Result<Arc<TaskRow>, Error>>,
) -> (Vec<Result<Arc<TaskRow>, Error>>, Revision) {
    let oldest = rows.iter().flatten().map(|row| row.revision).min();
    let head = namespace.read(|mirror| {
        if oldest.is_none_or(|oldest| mirror.task_changed < oldest) {
            return mirror.head;
        }
        for row in rows.iter_mut().flatten() {
            let id = TaskId::trusted(&row.task.id);
            if let Some((revision, Content::Live(kept))) = mirror.tasks.row(&id)
                && revision != row.revision
            {
                let now = kept.unpack(&id, revision);
                if now.task.uid == row.task.uid {
                    *row = now;
                }
            }
        }
        mirror.head
    });
    (rows, head)
}
