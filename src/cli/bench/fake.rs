//! A server for the tests of the load: it keeps what it must in memory and promises nothing.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, watch};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use crate::proto::v1::{
    self,
    key_change::Change,
    key_update::Operation,
    push_state_request, push_state_response,
    state_service_server::{StateService, StateServiceServer},
    task_service_server::{TaskService, TaskServiceServer},
    watch_state_response::Frame,
    worker_service_server::{WorkerService, WorkerServiceServer},
};

/// A writer that asks for this window has a key of its first batch rejected.
pub(super) const REJECTING_WINDOW: i32 = 777;

/// A writer that asks for this window has its stream broken at its tenth batch.
pub(super) const CUTTING_WINDOW: i32 = 778;

/// Starts it on a free port; it ends with the test's runtime.
pub(super) async fn start() -> String {
    let incoming = TcpIncoming::bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let incoming = incoming.with_nodelay(Some(true));
    let address = incoming.local_addr().unwrap().to_string();
    let fake = Fake::default();
    let serve = Server::builder()
        .add_service(StateServiceServer::new(fake.clone()))
        .add_service(TaskServiceServer::new(fake.clone()))
        .add_service(WorkerServiceServer::new(fake))
        .serve_with_incoming(incoming);
    tokio::spawn(serve);
    address
}

#[derive(Clone, Default)]
struct Fake {
    /// All updates since the start, of whichever state: a test has only one.
    updates: Arc<watch::Sender<Vec<v1::KeyUpdate>>>,
    waiting: Arc<Mutex<Vec<v1::Task>>>,
    submitted: Arc<Notify>,
    /// Names of tasks that were cancelled, which are their lease tokens.
    cancelled: Arc<watch::Sender<Vec<Bytes>>>,
}

impl Fake {
    fn apply(&self, updates: Vec<v1::KeyUpdate>) {
        self.updates.send_modify(|all| all.extend(updates));
    }

    fn submit(&self, request: v1::CreateTaskRequest) -> v1::Task {
        let mut task = request.task.unwrap_or_default();
        task.name = format!("{}/tasks/{}", request.parent, request.request_id);
        self.waiting.lock().push(task.clone());
        self.submitted.notify_waiters();
        task
    }

    fn lease(&self, request: &v1::LeaseTasksRequest) -> Vec<v1::Lease> {
        let mut waiting = self.waiting.lock();
        let mut leases = Vec::new();
        while leases.len() < request.max_tasks as usize {
            let wanted = |task: &v1::Task| request.queues.contains(&task.queue);
            let Some(index) = waiting.iter().position(wanted) else {
                break;
            };
            let task = waiting.swap_remove(index);
            let lease_token = task.name.clone().into();
            leases.push(v1::Lease {
                task: Some(task),
                lease_token,
                ..Default::default()
            });
        }
        leases
    }
}

fn delta(base: usize, updates: &[v1::KeyUpdate]) -> v1::WatchStateResponse {
    let folded: BTreeMap<_, _> = updates
        .iter()
        .map(|update| (&update.key, &update.operation))
        .collect();
    let changes = folded.into_iter().map(|(key, operation)| {
        let value = match operation {
            Some(Operation::Put(value)) => value.clone(),
            _ => Bytes::new(),
        };
        v1::KeyChange {
            key: key.clone(),
            change: Some(Change::Value(value)),
            ..Default::default()
        }
    });
    let delta = v1::StateDelta {
        base_revision: base as i64,
        changes: changes.collect(),
        folded_commits: updates.len() as i32,
        position: Some(position(base + updates.len())),
        ..Default::default()
    };
    v1::WatchStateResponse {
        frame: Some(delta.into()),
    }
}

/// As many revisions as updates.
fn position(updates: usize) -> v1::Position {
    v1::Position {
        revision: updates as i64,
        ..Default::default()
    }
}

fn unimplemented<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in the fake"))
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl StateService for Fake {
    type WatchStateStream = Answers<v1::WatchStateResponse>;
    type PushStateStream = Answers<v1::PushStateResponse>;

    async fn watch_state(
        &self,
        _: Request<v1::WatchStateRequest>,
    ) -> Result<Response<Self::WatchStateStream>, Status> {
        let mut updates = self.updates.subscribe();
        let seen = updates.borrow_and_update().len();
        let synced = v1::WatchStateResponse {
            frame: Some(Frame::Synced(v1::WatchSynced::default())),
        };
        let deltas = stream::unfold((updates, seen), |(mut updates, seen)| async move {
            updates.changed().await.ok()?;
            let (answer, seen) = {
                let all = updates.borrow_and_update();
                (delta(seen, &all[seen..]), all.len())
            };
            Some((Ok(answer), (updates, seen)))
        });
        Ok(Response::new(
            stream::iter([Ok(synced)]).chain(deltas).boxed(),
        ))
    }

    async fn push_state(
        &self,
        request: Request<Streaming<v1::PushStateRequest>>,
    ) -> Result<Response<Self::PushStateStream>, Status> {
        let fake = self.clone();
        Ok(Response::new(answers(fake, request.into_inner()).boxed()))
    }

    async fn update_state(
        &self,
        request: Request<v1::UpdateStateRequest>,
    ) -> Result<Response<v1::UpdateStateResponse>, Status> {
        self.apply(request.into_inner().updates);
        let position = Some(position(self.updates.borrow().len()));
        Ok(Response::new(v1::UpdateStateResponse {
            position,
            ..Default::default()
        }))
    }

    async fn get_state(
        &self,
        _: Request<v1::GetStateRequest>,
    ) -> Result<Response<v1::GetStateResponse>, Status> {
        unimplemented()
    }

    async fn list_states(
        &self,
        _: Request<v1::ListStatesRequest>,
    ) -> Result<Response<v1::ListStatesResponse>, Status> {
        unimplemented()
    }

    async fn delete_state(
        &self,
        _: Request<v1::DeleteStateRequest>,
    ) -> Result<Response<v1::DeleteStateResponse>, Status> {
        unimplemented()
    }

    async fn update_state_settings(
        &self,
        _: Request<v1::UpdateStateSettingsRequest>,
    ) -> Result<Response<v1::UpdateStateSettingsResponse>, Status> {
        unimplemented()
    }

    async fn get_monitor(
        &self,
        _: Request<v1::GetMonitorRequest>,
    ) -> Result<Response<v1::GetMonitorResponse>, Status> {
        unimplemented()
    }
}

/// Acknowledges each frame. Panics, and so fails the call, on batches that do not follow.
fn answers(
    fake: Fake,
    frames: Streaming<v1::PushStateRequest>,
) -> impl Stream<Item = Result<v1::PushStateResponse, Status>> {
    let mut last = 0;
    let mut wanted = 0;
    frames.map(move |frame| {
        let window = |batches| {
            Some(v1::PushWindow {
                max_unacked_batches: batches,
                ..Default::default()
            })
        };
        let answer = match frame?.frame {
            Some(push_state_request::Frame::Open(open)) => {
                wanted = open.wanted_window;
                push_state_response::Frame::Opened(v1::PushOpened {
                    window: window(wanted.min(100)),
                    ..Default::default()
                })
            }
            Some(push_state_request::Frame::Batches(batches)) => {
                let batches = v1::UpdateBatches::decode(batches)
                    .map_err(|error| Status::invalid_argument(error.to_string()))?;
                let mut rejected = Vec::new();
                for batch in batches.batches {
                    if batch.sequence != last + 1 {
                        let what = format!("batch {} after {last}", batch.sequence);
                        return Err(Status::failed_precondition(what));
                    }
                    last = batch.sequence;
                    if wanted == CUTTING_WINDOW && last == 10 {
                        return Err(Status::unavailable("cut"));
                    }
                    if wanted == REJECTING_WINDOW && last == 1 {
                        let key = batch.updates[0].key.clone();
                        let reason = "VALUE_TOO_LARGE".to_owned();
                        rejected.push(v1::RejectedKey {
                            sequence: last,
                            key,
                            reason,
                        });
                    }
                    // What nobody watches need not be kept.
                    if fake.updates.receiver_count() > 0 {
                        fake.apply(batch.updates);
                    }
                }
                let ack = v1::PushAck {
                    acked_sequence: last,
                    window: window(wanted.min(100)),
                    rejected,
                    ..Default::default()
                };
                push_state_response::Frame::Ack(ack)
            }
            other => return Err(Status::invalid_argument(format!("{other:?}"))),
        };
        Ok(v1::PushStateResponse {
            frame: Some(answer),
        })
    })
}

#[tonic::async_trait]
impl TaskService for Fake {
    type WatchTasksStream = Answers<v1::WatchTasksResponse>;

    async fn create_task(
        &self,
        request: Request<v1::CreateTaskRequest>,
    ) -> Result<Response<v1::CreateTaskResponse>, Status> {
        let task = Some(self.submit(request.into_inner()));
        Ok(Response::new(v1::CreateTaskResponse {
            task,
            position: None,
        }))
    }

    async fn batch_create_tasks(
        &self,
        request: Request<v1::BatchCreateTasksRequest>,
    ) -> Result<Response<v1::BatchCreateTasksResponse>, Status> {
        let results = request.into_inner().requests.into_iter().map(|request| {
            let task = v1::create_task_result::Result::Task(self.submit(request));
            v1::CreateTaskResult { result: Some(task) }
        });
        let results = results.collect();
        Ok(Response::new(v1::BatchCreateTasksResponse {
            results,
            position: None,
        }))
    }

    async fn get_task(
        &self,
        _: Request<v1::GetTaskRequest>,
    ) -> Result<Response<v1::GetTaskResponse>, Status> {
        unimplemented()
    }

    async fn list_tasks(
        &self,
        _: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        unimplemented()
    }

    async fn cancel_task(
        &self,
        request: Request<v1::CancelTaskRequest>,
    ) -> Result<Response<v1::CancelTaskResponse>, Status> {
        let name = request.into_inner().name;
        self.cancelled.send_modify(|all| all.push(name.into()));
        Ok(Response::new(v1::CancelTaskResponse::default()))
    }

    async fn retry_tasks(
        &self,
        _: Request<v1::RetryTasksRequest>,
    ) -> Result<Response<v1::RetryTasksResponse>, Status> {
        unimplemented()
    }

    async fn watch_tasks(
        &self,
        _: Request<v1::WatchTasksRequest>,
    ) -> Result<Response<Self::WatchTasksStream>, Status> {
        unimplemented()
    }
}

#[tonic::async_trait]
impl WorkerService for Fake {
    type WatchLeasesStream = Answers<v1::WatchLeasesResponse>;

    async fn lease_tasks(
        &self,
        request: Request<v1::LeaseTasksRequest>,
    ) -> Result<Response<v1::LeaseTasksResponse>, Status> {
        let request = request.into_inner();
        let wait = request.wait.map_or(Duration::ZERO, |wait| {
            Duration::new(wait.seconds as u64, wait.nanos as u32)
        });
        let until = Instant::now() + wait;
        loop {
            let submitted = self.submitted.notified();
            let leases = self.lease(&request);
            if !leases.is_empty() || Instant::now() >= until {
                return Ok(Response::new(v1::LeaseTasksResponse { leases }));
            }
            // Either way, look again.
            let _ = tokio::time::timeout_at(until.into(), submitted).await;
        }
    }

    async fn finish_tasks(
        &self,
        request: Request<v1::FinishTasksRequest>,
    ) -> Result<Response<v1::FinishTasksResponse>, Status> {
        let outcomes = request.into_inner().outcomes;
        let results = outcomes.into_iter().map(|_| v1::OutcomeResult {
            result: Some(v1::outcome_result::Result::Task(v1::Task::default())),
        });
        let results = results.collect();
        Ok(Response::new(v1::FinishTasksResponse {
            results,
            position: None,
        }))
    }

    async fn renew_leases(
        &self,
        request: Request<v1::RenewLeasesRequest>,
    ) -> Result<Response<v1::RenewLeasesResponse>, Status> {
        let mut held = v1::LeaseStatus {
            valid_for: Some(prost_types::Duration {
                seconds: 8,
                nanos: 0,
            }),
            ..Default::default()
        };
        held.set_disposition(v1::lease_status::Disposition::Held);
        let statuses = vec![held; request.into_inner().lease_tokens.len()];
        Ok(Response::new(v1::RenewLeasesResponse { statuses }))
    }

    async fn watch_leases(
        &self,
        _: Request<v1::WatchLeasesRequest>,
    ) -> Result<Response<Self::WatchLeasesStream>, Status> {
        let cancelled = self.cancelled.subscribe();
        let news = stream::unfold((cancelled, 0), |(mut cancelled, seen)| async move {
            let all = cancelled.wait_for(|all| all.len() > seen).await.ok()?;
            let mut directive = v1::LeaseDirective {
                lease_token: all[seen].clone(),
                ..Default::default()
            };
            drop(all);
            directive.set_disposition(v1::lease_status::Disposition::CancelRequested);
            let frame = Some(v1::watch_leases_response::Frame::Directive(directive));
            let answer = v1::WatchLeasesResponse { frame };
            Some((Ok(answer), (cancelled, seen + 1)))
        });
        Ok(Response::new(news.boxed()))
    }

    async fn release_leases(
        &self,
        _: Request<v1::ReleaseLeasesRequest>,
    ) -> Result<Response<v1::ReleaseLeasesResponse>, Status> {
        unimplemented()
    }
}
