//! A server for tests: it speaks the real protocol over memory, and each call does what the test
//! says. What a test does not say is UNIMPLEMENTED.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server, server::Router},
};

use super::Client;
use crate::proto::v1::{
    error_service_server::{ErrorService, ErrorServiceServer},
    state_service_server::{StateService, StateServiceServer},
    task_service_server::{TaskService, TaskServiceServer},
    worker_service_server::{WorkerService, WorkerServiceServer},
    *,
};

pub(crate) type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Unary<Q, R> = Box<dyn Fn(Q) -> Result<R, Status> + Send + Sync>;
type Push = Box<
    dyn Fn(Streaming<PushStateRequest>) -> Result<Frames<PushStateResponse>, Status> + Send + Sync,
>;

/// What looks at the metadata of a call.
type Headers = Box<dyn Fn(&'static str, &tonic::metadata::MetadataMap) + Send + Sync>;

/// What the server does with each call.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) get_task: Option<Unary<GetTaskRequest, GetTaskResponse>>,
    pub(crate) list_tasks: Option<Unary<ListTasksRequest, ListTasksResponse>>,
    pub(crate) create_task: Option<Unary<CreateTaskRequest, CreateTaskResponse>>,
    pub(crate) watch_tasks: Option<Unary<WatchTasksRequest, Frames<WatchTasksResponse>>>,
    pub(crate) watch_state: Option<Unary<WatchStateRequest, Frames<WatchStateResponse>>>,
    pub(crate) push_state: Option<Push>,
    pub(crate) report_failures: Option<Unary<ReportFailuresRequest, ReportFailuresResponse>>,
    pub(crate) get_error_group: Option<Unary<GetErrorGroupRequest, GetErrorGroupResponse>>,
    pub(crate) list_error_groups: Option<Unary<ListErrorGroupsRequest, ListErrorGroupsResponse>>,
    pub(crate) watch_errors: Option<Unary<WatchErrorsRequest, Frames<WatchErrorsResponse>>>,
    pub(crate) lease_tasks: Option<Unary<LeaseTasksRequest, Option<LeaseTasksResponse>>>,
    pub(crate) renew_leases: Option<Unary<RenewLeasesRequest, RenewLeasesResponse>>,
    pub(crate) finish_tasks: Option<Unary<FinishTasksRequest, FinishTasksResponse>>,
    pub(crate) release_leases: Option<Unary<ReleaseLeasesRequest, ReleaseLeasesResponse>>,
    /// Sees the metadata of what comes, by the call's name.
    pub(crate) headers: Option<Headers>,
}

#[derive(Clone)]
struct Shared(Arc<Fake>);

fn unsaid() -> Status {
    Status::unimplemented("the test does not say what this call does")
}

fn call<Q, R>(handler: &Option<Unary<Q, R>>, request: Request<Q>) -> Result<Response<R>, Status> {
    let handler = handler.as_ref().ok_or_else(unsaid)?;
    handler(request.into_inner()).map(Response::new)
}

#[tonic::async_trait]
impl TaskService for Shared {
    async fn create_task(
        &self,
        request: Request<CreateTaskRequest>,
    ) -> Result<Response<CreateTaskResponse>, Status> {
        self.0.see("CreateTask", &request);
        call(&self.0.create_task, request)
    }
    async fn batch_create_tasks(
        &self,
        _: Request<BatchCreateTasksRequest>,
    ) -> Result<Response<BatchCreateTasksResponse>, Status> {
        Err(unsaid())
    }
    async fn get_task(
        &self,
        request: Request<GetTaskRequest>,
    ) -> Result<Response<GetTaskResponse>, Status> {
        call(&self.0.get_task, request)
    }
    async fn list_tasks(
        &self,
        request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksResponse>, Status> {
        call(&self.0.list_tasks, request)
    }
    async fn cancel_task(
        &self,
        _: Request<CancelTaskRequest>,
    ) -> Result<Response<CancelTaskResponse>, Status> {
        Err(unsaid())
    }
    async fn retry_tasks(
        &self,
        _: Request<RetryTasksRequest>,
    ) -> Result<Response<RetryTasksResponse>, Status> {
        Err(unsaid())
    }
    type WatchTasksStream = Frames<WatchTasksResponse>;
    async fn watch_tasks(
        &self,
        request: Request<WatchTasksRequest>,
    ) -> Result<Response<Frames<WatchTasksResponse>>, Status> {
        self.0.see("WatchTasks", &request);
        call(&self.0.watch_tasks, request)
    }
}

#[tonic::async_trait]
impl StateService for Shared {
    async fn get_state(
        &self,
        _: Request<GetStateRequest>,
    ) -> Result<Response<GetStateResponse>, Status> {
        Err(unsaid())
    }
    async fn list_states(
        &self,
        _: Request<ListStatesRequest>,
    ) -> Result<Response<ListStatesResponse>, Status> {
        Err(unsaid())
    }
    async fn update_state(
        &self,
        _: Request<UpdateStateRequest>,
    ) -> Result<Response<UpdateStateResponse>, Status> {
        Err(unsaid())
    }
    async fn delete_state(
        &self,
        _: Request<DeleteStateRequest>,
    ) -> Result<Response<DeleteStateResponse>, Status> {
        Err(unsaid())
    }
    async fn update_state_settings(
        &self,
        _: Request<UpdateStateSettingsRequest>,
    ) -> Result<Response<UpdateStateSettingsResponse>, Status> {
        Err(unsaid())
    }
    async fn get_monitor(
        &self,
        _: Request<GetMonitorRequest>,
    ) -> Result<Response<GetMonitorResponse>, Status> {
        Err(unsaid())
    }
    type WatchStateStream = Frames<WatchStateResponse>;
    async fn watch_state(
        &self,
        request: Request<WatchStateRequest>,
    ) -> Result<Response<Frames<WatchStateResponse>>, Status> {
        call(&self.0.watch_state, request)
    }
    type PushStateStream = Frames<PushStateResponse>;
    async fn push_state(
        &self,
        request: Request<Streaming<PushStateRequest>>,
    ) -> Result<Response<Frames<PushStateResponse>>, Status> {
        self.0.see("PushState", &request);
        let handler = self.0.push_state.as_ref().ok_or_else(unsaid)?;
        handler(request.into_inner()).map(Response::new)
    }
}

#[tonic::async_trait]
impl ErrorService for Shared {
    async fn report_failures(
        &self,
        request: Request<ReportFailuresRequest>,
    ) -> Result<Response<ReportFailuresResponse>, Status> {
        call(&self.0.report_failures, request)
    }
    async fn get_error_group(
        &self,
        request: Request<GetErrorGroupRequest>,
    ) -> Result<Response<GetErrorGroupResponse>, Status> {
        call(&self.0.get_error_group, request)
    }
    async fn list_error_groups(
        &self,
        request: Request<ListErrorGroupsRequest>,
    ) -> Result<Response<ListErrorGroupsResponse>, Status> {
        call(&self.0.list_error_groups, request)
    }
    type WatchErrorsStream = Frames<WatchErrorsResponse>;
    async fn watch_errors(
        &self,
        request: Request<WatchErrorsRequest>,
    ) -> Result<Response<Frames<WatchErrorsResponse>>, Status> {
        call(&self.0.watch_errors, request)
    }
}

#[tonic::async_trait]
impl WorkerService for Shared {
    async fn lease_tasks(
        &self,
        request: Request<LeaseTasksRequest>,
    ) -> Result<Response<LeaseTasksResponse>, Status> {
        match call(&self.0.lease_tasks, request)?.into_inner() {
            Some(response) => Ok(Response::new(response)),
            // A long poll that finds nothing.
            None => std::future::pending().await,
        }
    }
    async fn renew_leases(
        &self,
        request: Request<RenewLeasesRequest>,
    ) -> Result<Response<RenewLeasesResponse>, Status> {
        call(&self.0.renew_leases, request)
    }
    type WatchLeasesStream = Frames<WatchLeasesResponse>;
    async fn watch_leases(
        &self,
        _: Request<WatchLeasesRequest>,
    ) -> Result<Response<Frames<WatchLeasesResponse>>, Status> {
        Ok(Response::new(stream::pending().boxed()))
    }
    async fn finish_tasks(
        &self,
        request: Request<FinishTasksRequest>,
    ) -> Result<Response<FinishTasksResponse>, Status> {
        call(&self.0.finish_tasks, request)
    }
    async fn release_leases(
        &self,
        request: Request<ReleaseLeasesRequest>,
    ) -> Result<Response<ReleaseLeasesResponse>, Status> {
        call(&self.0.release_leases, request)
    }
}

impl Fake {
    fn see<T>(&self, call: &'static str, request: &Request<T>) {
        if let Some(headers) = &self.headers {
            headers(call, request.metadata());
        }
    }

    pub(crate) fn into_router(self) -> Router {
        let shared = Shared(Arc::new(self));
        Server::builder()
            .add_service(TaskServiceServer::new(shared.clone()))
            .add_service(StateServiceServer::new(shared.clone()))
            .add_service(ErrorServiceServer::new(shared.clone()))
            .add_service(WorkerServiceServer::new(shared))
    }

    /// Serves over memory until the client is gone; every new connection is taken.
    pub(crate) fn serve(self) -> Client {
        let (connections, taken) = mpsc::channel::<std::io::Result<DuplexStream>>(8);
        tokio::spawn(
            self.into_router()
                .serve_with_incoming(ReceiverStream::new(taken)),
        );
        Client::from_channels(channel(connections.clone()), channel(connections))
    }
}

fn channel(connections: mpsc::Sender<std::io::Result<DuplexStream>>) -> Channel {
    let connector = tower::service_fn(move |_| {
        let connections = connections.clone();
        async move {
            let (ours, theirs) = tokio::io::duplex(1 << 20);
            connections
                .send(Ok(theirs))
                .await
                .map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(ours))
        }
    });
    Endpoint::from_static("http://memory").connect_with_connector_lazy(connector)
}

/// These frames, then the end that `last` makes: an error, or silence.
pub(crate) fn frames<T: Send + 'static>(
    frames: impl IntoIterator<Item = T>,
    last: Option<Status>,
) -> Frames<T> {
    let frames: Vec<_> = frames.into_iter().map(Ok).collect();
    match last {
        Some(status) => stream::iter(frames)
            .chain(stream::iter([Err(status)]))
            .boxed(),
        None => stream::iter(frames).chain(stream::pending()).boxed(),
    }
}
