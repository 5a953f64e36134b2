//! RetryTasks: the failed and cancelled tasks of a filter, or those that are named, repeated.

use std::sync::Arc;

use tonic::metadata::MetadataMap;

use super::{
    Context,
    convert::{self, Detail, Repeater, task_filter},
    position,
    status::to_item,
    task_service::as_they_stand,
};
use crate::{
    domain::{Error, Reason, TaskId, id::parse_namespace, limits::MAX_PAGE_SIZE, task::Status},
    engine::{Namespace, Page, TaskFilter, mirror::TaskRow},
    proto::v1::{self as pb, create_task_result},
    telemetry::Traces,
};

/// Tasks looked up at a time.
const STEP: usize = 100;
/// Inputs that are held at a time; one always may be.
const MAX_INPUT_BYTES: usize = 8 << 20;
/// A call by filter that has looked at so many, most of them repeated already, leaves the rest to
/// the next: it is to answer in time.
const MAX_LOOKED_AT: usize = 5_000;
/// A call by filter that has copied so much leaves the rest to the next.
const MAX_CALL_BYTES: usize = 64 << 20;

/// Answers a call.
pub(super) async fn retry_tasks(
    context: &Context,
    request: pb::RetryTasksRequest,
    headers: &MetadataMap,
) -> Result<pb::RetryTasksResponse, Error> {
    let id = parse_namespace("parent", &request.parent)?;
    let filter = task_filter(&id, request.filter)?;
    let size = match usize::try_from(request.page_size) {
        Ok(0) => MAX_PAGE_SIZE,
        Ok(size) => size.min(MAX_PAGE_SIZE),
        Err(_) => {
            let problem = format!("must not be negative, got {}", request.page_size);
            return Err(Error::field("page_size", problem));
        }
    };
    let repeater = Repeater::new(&id, &request.request_id, headers)?;
    let mut call = Call {
        namespace: context.existing(&id)?,
        repeater,
        traces: context.traces().clone(),
        results: Vec::new(),
        bytes: 0,
    };
    let next_page_token = if filter.ids.is_empty() {
        call.by_filter(filter, size, request.page_token).await?
    } else {
        call.by_name(filter).await?;
        String::new()
    };
    Ok(call.answer(next_page_token))
}

struct Call {
    namespace: Namespace,
    repeater: Repeater,
    traces: Traces,
    results: Vec<Result<Arc<TaskRow>, Error>>,
    bytes: usize,
}

impl Call {
    /// Page by page until enough are repeated; gives the token of the rest.
    async fn by_filter(
        &mut self,
        mut filter: TaskFilter,
        size: usize,
        mut token: String,
    ) -> Result<String, Error> {
        let ended = [Status::Failed, Status::Cancelled];
        let wanted =
            |status: &Status| filter.statuses.is_empty() || filter.statuses.contains(status);
        filter.statuses = ended.into_iter().filter(wanted).collect();
        if filter.statuses.is_empty() {
            return Ok(String::new());
        }
        let mut looked_at = 0;
        loop {
            let room = (size - self.results.len()).min(STEP);
            let asked = i32::try_from(room).unwrap_or(i32::MAX);
            let mut page: Page<Arc<TaskRow>> = self.namespace.list_tasks(&filter, asked, &token)?;
            looked_at += page.items.len();
            // A page that is not full went past as many tasks as one may.
            let looked_far = page.items.len() < room || looked_at >= MAX_LOOKED_AT;
            token = page.next_page_token;
            // What an earlier sending of this call made is no task for it, however it ended.
            page.items.retain(|row| !self.repeater.is_ours(&row.task));
            for result in self.repeat(page.items).await? {
                // Somebody else did, or it is gone since.
                let left_out = [Reason::TaskExists, Reason::TaskNotFound];
                if !matches!(&result, Err(error) if left_out.contains(&error.reason)) {
                    self.results.push(result);
                }
            }
            let enough = self.results.len() >= size || self.bytes > MAX_CALL_BYTES;
            if token.is_empty() || enough || looked_far {
                return Ok(token);
            }
        }
    }

    async fn by_name(&mut self, filter: TaskFilter) -> Result<(), Error> {
        for names in filter.ids.chunks(STEP) {
            let rows: Vec<_> = names.iter().map(|id| self.named(id, &filter)).collect();
            let good = rows.iter().flatten().cloned().collect();
            let mut repeated = self.repeat(good).await?.into_iter();
            for row in rows {
                let missing = || {
                    let problem = "a task to be repeated has no result";
                    Err(Error::new(Reason::Internal, problem))
                };
                let result = row.and_then(|_| repeated.next().unwrap_or_else(missing));
                self.results.push(result);
            }
        }
        Ok(())
    }

    fn named(&self, id: &TaskId, filter: &TaskFilter) -> Result<Arc<TaskRow>, Error> {
        let (row, _) = self.namespace.get_task(id)?;
        row.task.check_repeatable()?;
        if !filter.matches(&row) {
            let problem = format!("task {id} is named and does not match the rest of the filter");
            return Err(Error::new(Reason::TaskNotRetryable, problem).with("task", id));
        }
        Ok(row)
    }

    /// Repeats tasks that can be; results in order.
    async fn repeat(
        &mut self,
        rows: Vec<Arc<TaskRow>>,
    ) -> Result<Vec<Result<Arc<TaskRow>, Error>>, Error> {
        let results = rows.iter().map(|row| self.repeated(row));
        let mut results: Vec<_> = results.collect();
        let open = |(row, found): (_, &Option<_>)| found.is_none().then_some(row);
        let open: Vec<_> = rows.into_iter().zip(&results).filter_map(open).collect();
        let mut places = results.iter_mut().filter(|result| result.is_none());
        let mut rest = &open[..];
        while !rest.is_empty() {
            let some;
            (some, rest) = rest.split_at(held_at_a_time(rest));
            let inputs = self.namespace.inputs(some).await.into_iter().zip(some);
            let op = |(input, row): (Result<_, _>, &Arc<TaskRow>)| {
                input.map(|input| self.repeater.create(&row.task, input, &self.traces))
            };
            let ops = inputs.map(op).collect();
            self.bytes += some.iter().map(input_bytes).sum::<usize>();
            let created = self.namespace.tasks(ops).await?.into_iter().zip(some);
            for ((result, row), place) in created.zip(&mut places) {
                *place = Some(result.map_err(|error| self.repeater.refused(&row.task, error)));
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// What is known of a task that was repeated already, without reading its input; none where it
    /// was not.
    fn repeated(&self, row: &TaskRow) -> Option<Result<Arc<TaskRow>, Error>> {
        let id = self.repeater.id(&row.task);
        let (repetition, _) = self.namespace.get_task(&id).ok()?;
        Some(match self.repeater.made(&repetition.task, &row.task) {
            true => Ok(repetition),
            false => Err(self.repeater.exists(&row.task)),
        })
    }

    fn answer(self, next_page_token: String) -> pb::RetryTasksResponse {
        let (rows, at) = as_they_stand(&self.namespace, self.results);
        let id = self.namespace.id();
        let result = |row: Result<Arc<TaskRow>, Error>| match row {
            Ok(row) => create_task_result::Result::Task(convert::task(id, &row, Detail::Brief)),
            Err(error) => create_task_result::Result::Error(to_item(&error)),
        };
        let results = rows.into_iter().map(|row| pb::CreateTaskResult {
            result: Some(result(row)),
        });
        let mut results: Vec<_> = results.collect();
        let tasks = results.iter_mut().filter_map(|one| match &mut one.result {
            Some(create_task_result::Result::Task(task)) => Some(task),
            _ => None,
        });
        convert::fit(tasks);
        pb::RetryTasksResponse {
            results,
            position: Some(position(&self.namespace, at)),
            next_page_token,
        }
    }
}

/// How many of these tasks, at least one, have inputs that may be held together.
fn held_at_a_time(rows: &[Arc<TaskRow>]) -> usize {
    let mut bytes = 0;
    let fits = |row: &&Arc<TaskRow>| {
        bytes += input_bytes(row);
        bytes <= MAX_INPUT_BYTES
    };
    rows.iter().take_while(fits).count().max(1)
}

fn input_bytes(row: &Arc<TaskRow>) -> usize {
    let here = row.task.input.as_ref().map_or(0, |input| input.data.len());
    here + usize::try_from(row.task.input_bytes).unwrap_or(usize::MAX >> 1)
}
