//! Tasks: submit, get, list, cancel, retry, wait.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::Stream;
use serde::Serialize;
use tonic::Code;
use uuid::Uuid;

use super::{backoff::Backoff, connection::Client, error::Error, paging};
use crate::proto::v1::{
    BatchCreateTasksRequest, CancelTaskRequest, CreateTaskRequest, CreateTaskResponse,
    CreateTaskResult, GetTaskRequest, GetTaskResponse, ListTasksRequest, ListTasksResponse,
    Payload, Position, RetryTasksRequest, Task, TaskFilter, TaskPolicy, create_task_result,
    task::Status,
};

/// A page of ListTasks.
pub type TaskPage = ListTasksResponse;

/// What became of the tasks that one call of RetryTasks was to repeat.
#[derive(Debug)]
pub struct RetryPage {
    /// The new tasks, and why there is none.
    pub results: Vec<Result<Task, Error>>,
    /// For the next call; empty: there are no more.
    pub next_page_token: String,
}

/// The API's limit for one BatchCreateTasks.
const MAX_BATCH: usize = 1000;

/// A task to submit.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a task does nothing until it is submitted"]
pub struct NewTask {
    task: Task,
    id: String,
    request_id: String,
    delay: Option<Duration>,
    state: Option<String>,
}

impl NewTask {
    /// A task of `task_type`, on the queue `default`.
    pub fn new(task_type: impl Into<String>) -> Self {
        let task = Task {
            r#type: task_type.into(),
            queue: "default".to_owned(),
            ..Task::default()
        };
        Self {
            task,
            id: String::new(),
            request_id: Uuid::new_v4().to_string(),
            delay: None,
            state: None,
        }
    }

    /// The queue it waits on.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.task.queue = queue.into();
        self
    }

    /// Its input as JSON.
    ///
    /// # Errors
    ///
    /// When the value has no JSON form, such as a map with keys that are not text.
    pub fn json<T: Serialize>(self, input: &T) -> Result<Self, serde_json::Error> {
        let data = serde_json::to_vec(input)?;
        Ok(self.bytes("application/json", data))
    }

    /// Its input as bytes of a content type.
    pub fn bytes(mut self, content_type: impl Into<String>, data: impl Into<Bytes>) -> Self {
        let content_type = content_type.into();
        self.task.input = Some(Payload {
            content_type,
            data: data.into(),
            ..Payload::default()
        });
        self
    }

    /// A label to find it by.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.task.labels.insert(key.into(), value.into());
        self
    }

    /// 0 (default) to 9, higher first.
    pub fn priority(mut self, priority: i32) -> Self {
        self.task.priority = priority;
        self
    }

    /// Who it is for: among tasks of one queue and priority these take turns.
    pub fn fairness_key(mut self, key: impl Into<String>) -> Self {
        self.task.fairness_key = key.into();
        self
    }

    /// What it takes up: its queue may limit how many of each run at once.
    pub fn concurrency_key(mut self, key: impl Into<String>) -> Self {
        self.task.concurrency_key = key.into();
        self
    }

    /// Its whole policy, in place of the server's defaults.
    pub fn policy(mut self, policy: TaskPolicy) -> Self {
        self.task.policy = Some(policy);
        self
    }

    /// How often it may be tried.
    pub fn max_attempts(mut self, attempts: i32) -> Self {
        self.task.policy.get_or_insert_default().max_attempts = attempts;
        self
    }

    /// How long it waits after the first failure, and at most after later ones.
    pub fn retry_delay(mut self, first: Duration, most: Duration) -> Self {
        let policy = self.task.policy.get_or_insert_default();
        policy.retry_initial_delay = Some(wire_duration(first));
        policy.retry_max_delay = Some(wire_duration(most));
        self
    }

    /// How long one attempt may take.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.task.policy.get_or_insert_default().attempt_timeout = Some(wire_duration(timeout));
        self
    }

    /// The state it reports to.
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.state = Some(state.into());
        self
    }

    /// Not before this long after the server has it, by the server's clock. In place of
    /// [`not_before`](Self::not_before).
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self.task.schedule_time = None;
        self
    }

    /// Not before `time`. In place of [`delay`](Self::delay).
    pub fn not_before(mut self, time: SystemTime) -> Self {
        self.task.schedule_time = Some(time.into());
        self.delay = None;
        self
    }

    /// An id of the caller's. Default: one that the server derives from the request id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// A UUID that makes submitting again answer with the same task. Default: a new one.
    pub fn request_id(mut self, request_id: impl Into<String>) -> Self {
        self.request_id = request_id.into();
        self
    }

    fn into_request(mut self, client: &Client) -> CreateTaskRequest {
        if let Some(state) = &self.state {
            self.task.state_name = client.state_name(state);
        }
        CreateTaskRequest {
            parent: client.parent(),
            task_id: self.id,
            task: Some(self.task),
            request_id: self.request_id,
            delay: self.delay.map(wire_duration),
        }
    }
}

/// A duration as messages carry it; longer than the wire can say is the longest it can.
pub(crate) fn wire_duration(duration: Duration) -> prost_types::Duration {
    let longest = prost_types::Duration {
        seconds: 315_576_000_000,
        nanos: 0,
    };
    prost_types::Duration::try_from(duration).unwrap_or(longest)
}

/// A duration that a message carries; absent or negative is None.
pub(crate) fn std_duration(duration: Option<&prost_types::Duration>) -> Option<Duration> {
    duration.and_then(|duration| Duration::try_from(*duration).ok())
}

/// Whether the status can still change.
pub(crate) fn is_terminal(status: Status) -> bool {
    matches!(
        status,
        Status::Succeeded | Status::Failed | Status::Cancelled
    )
}

fn absent(operation: &'static str, field: &str) -> Error {
    Error::new(
        operation,
        Code::Internal,
        "ANSWER_INCOMPLETE",
        format!("the answer has no {field}"),
    )
}

impl Client {
    /// Submits a task; with it comes the position to watch it from.
    ///
    /// # Errors
    ///
    /// When the server refuses it, or gives no answer in time.
    pub async fn submit(&self, task: NewTask) -> Result<Task, Error> {
        self.submit_at(task).await.map(|(task, _)| task)
    }

    /// Submits a task and gives the position to watch it from as well.
    ///
    /// # Errors
    ///
    /// When the server refuses it, or gives no answer in time.
    pub async fn submit_at(&self, task: NewTask) -> Result<(Task, Position), Error> {
        const OPERATION: &str = "CreateTask";
        let CreateTaskResponse { task, position } = self
            .unary(OPERATION, task.into_request(self), |request| {
                let mut tasks = self.tasks();
                async move { tasks.create_task(request).await }
            })
            .await?;
        let task = task.ok_or_else(|| absent(OPERATION, "task"))?;
        Ok((task, position.unwrap_or_default()))
    }

    /// Submits many tasks, each of which stands or falls by itself; the results are in order.
    ///
    /// # Errors
    ///
    /// When a call as a whole fails; what calls before it created stands.
    pub async fn submit_all(
        &self,
        tasks: impl IntoIterator<Item = NewTask>,
    ) -> Result<Vec<Result<Task, Error>>, Error> {
        let mut waiting: VecDeque<CreateTaskRequest> = tasks
            .into_iter()
            .map(|task| task.into_request(self))
            .collect();
        let mut results = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            let requests = paging::take_batch(&mut waiting, MAX_BATCH);
            results.extend(self.submit_batch(requests).await?);
        }
        Ok(results)
    }

    async fn submit_batch(
        &self,
        requests: Vec<CreateTaskRequest>,
    ) -> Result<Vec<Result<Task, Error>>, Error> {
        const OPERATION: &str = "BatchCreateTasks";
        let request = BatchCreateTasksRequest {
            parent: self.parent(),
            requests,
        };
        let expected = request.requests.len();
        let answer = self
            .unary(OPERATION, request, |request| {
                let mut tasks = self.tasks();
                async move { tasks.batch_create_tasks(request).await }
            })
            .await?;
        if answer.results.len() != expected {
            return Err(absent(OPERATION, "result for every task"));
        }
        Ok(answer
            .results
            .into_iter()
            .map(|result| created(OPERATION, result))
            .collect())
    }

    /// The task as it is now.
    ///
    /// # Errors
    ///
    /// `TASK_NOT_FOUND`, or when there is no answer in time.
    pub async fn get_task(&self, task: &str) -> Result<Task, Error> {
        self.get_task_since(task, &Position::default())
            .await
            .map(|(task, _)| task)
    }

    /// The task at least as fresh as `position`, and the position of the reading.
    ///
    /// # Errors
    ///
    /// `TASK_NOT_FOUND`, or when there is no answer in time.
    pub async fn get_task_since(
        &self,
        task: &str,
        position: &Position,
    ) -> Result<(Task, Position), Error> {
        const OPERATION: &str = "GetTask";
        let request = GetTaskRequest {
            name: self.task_name(task),
            min_position: position.resume_token.clone(),
        };
        let GetTaskResponse { task, position } = self
            .unary(OPERATION, request, |request| {
                let mut tasks = self.tasks();
                async move { tasks.get_task(request).await }
            })
            .await?;
        let task = task.ok_or_else(|| absent(OPERATION, "task"))?;
        Ok((task, position.unwrap_or_default()))
    }

    /// One page of tasks; `page_size` 0 is the server's default, an empty token the first page.
    ///
    /// # Errors
    ///
    /// When the token is of another filter, or there is no answer in time.
    pub async fn list_tasks(
        &self,
        filter: TaskFilter,
        page_size: i32,
        page_token: &str,
    ) -> Result<TaskPage, Error> {
        let request = ListTasksRequest {
            parent: self.parent(),
            page_size,
            page_token: page_token.to_owned(),
            filter: Some(filter),
            min_position: Bytes::new(),
        };
        self.unary("ListTasks", request, |request| {
            let mut tasks = self.tasks();
            async move { tasks.list_tasks(request).await }
        })
        .await
    }

    /// All tasks that match, page after page as they are asked for.
    pub fn all_tasks(&self, filter: TaskFilter) -> impl Stream<Item = Result<Task, Error>> + Send {
        let client = self.clone();
        paging::all(move |token| {
            let (client, filter) = (client.clone(), filter.clone());
            async move {
                let page = client.list_tasks(filter, paging::PAGE, &token).await?;
                Ok((page.tasks, page.next_page_token))
            }
        })
    }

    /// Asks a task to stop; one that waits is cancelled at once.
    ///
    /// # Errors
    ///
    /// `TASK_NOT_FOUND`, `TASK_TERMINAL`, or when there is no answer in time.
    pub async fn cancel_task(&self, task: &str, reason: &str) -> Result<Task, Error> {
        const OPERATION: &str = "CancelTask";
        let request = CancelTaskRequest {
            name: self.task_name(task),
            reason: reason.to_owned(),
            request_id: Uuid::new_v4().to_string(),
        };
        let answer = self
            .unary(OPERATION, request, |request| {
                let mut tasks = self.tasks();
                async move { tasks.cancel_task(request).await }
            })
            .await?;
        answer.task.ok_or_else(|| absent(OPERATION, "task"))
    }

    /// Makes a new task of each failed or cancelled one that matches and was not repeated already,
    /// call after call until there are no more. What could not be repeated says why. For very many,
    /// see [`retry_page`](Self::retry_page).
    ///
    /// # Errors
    ///
    /// When a call as a whole fails; what calls before it created stands.
    pub async fn retry_tasks(&self, filter: TaskFilter) -> Result<Vec<Result<Task, Error>>, Error> {
        let request_id = Uuid::new_v4().to_string();
        let mut results = Vec::new();
        let mut page_token = String::new();
        loop {
            let page = self.retry_page(filter.clone(), &request_id, &page_token);
            let page = page.await?;
            results.extend(page.results);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(results);
            }
        }
    }

    /// One call of RetryTasks: up to 1000 tasks. An empty token begins; the pages that follow are
    /// asked for with the same filter and `request_id`, a UUID that makes each call safe to repeat.
    ///
    /// # Errors
    ///
    /// When the call as a whole fails.
    pub async fn retry_page(
        &self,
        filter: TaskFilter,
        request_id: &str,
        page_token: &str,
    ) -> Result<RetryPage, Error> {
        const OPERATION: &str = "RetryTasks";
        let request = RetryTasksRequest {
            parent: self.parent(),
            filter: Some(filter),
            request_id: request_id.to_owned(),
            page_size: 0,
            page_token: page_token.to_owned(),
        };
        let answer = self
            .unary(OPERATION, request, |request| {
                let mut tasks = self.tasks();
                async move { tasks.retry_tasks(request).await }
            })
            .await?;
        let results = answer.results.into_iter();
        Ok(RetryPage {
            results: results.map(|result| created(OPERATION, result)).collect(),
            next_page_token: answer.next_page_token,
        })
    }

    /// Waits until the task has ended, through every reconnect, and gives it as it ended, with its
    /// input and output: whole as [`get_task`](Self::get_task) has it.
    ///
    /// # Errors
    ///
    /// `TASK_NOT_FOUND`, also when it was deleted meanwhile; and when no server is there at all.
    pub async fn wait(&self, task: &str) -> Result<Task, Error> {
        let name = self.task_name(task);
        let mut backoff = Backoff::for_streams();
        let mut reached = false;
        loop {
            let (task, position) = match self.get_task_since(&name, &Position::default()).await {
                Ok(answer) => answer,
                // A server that was there once will be there again; one that never was may be a
                // wrong address.
                Err(error) if reached && !error.ends_streams() => {
                    tokio::time::sleep(backoff.next_wait()).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            reached = true;
            if is_terminal(task.status()) {
                return Ok(task);
            }
            let mut watch = self.watch_task(&name).resume_from(position).start();
            while let Some(event) = watch.next().await {
                event?;
                if let Some(task) = watch.view().get(&name)
                    && is_terminal(task.status())
                {
                    return self.whole(task.clone()).await;
                }
            }
            // Ended with OK: the task is terminal, and the next reading shows it.
        }
    }

    /// A task that has ended, as it is read by itself: lists and watches leave out large data and
    /// what caused a failure. One that was removed since is given as it is known.
    ///
    /// # Errors
    ///
    /// When no server gives an answer.
    pub(crate) async fn whole(&self, task: Task) -> Result<Task, Error> {
        let mut backoff = Backoff::for_streams();
        loop {
            match self.get_task(&task.name).await {
                Ok(whole) if whole.uid == task.uid => return Ok(whole),
                // The name is another task's by now.
                Ok(_) => return Ok(task),
                Err(error) if error.code() == Code::NotFound => return Ok(task),
                Err(error) if error.ends_streams() => return Err(error),
                Err(_) => tokio::time::sleep(backoff.next_wait()).await,
            }
        }
    }
}

fn created(operation: &'static str, result: CreateTaskResult) -> Result<Task, Error> {
    match result.result {
        Some(create_task_result::Result::Task(task)) => Ok(task),
        Some(create_task_result::Result::Error(status)) => {
            Err(Error::from_item(operation, &status))
        }
        None => Err(absent(operation, "task")),
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
