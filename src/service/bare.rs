//! The services without a transport, for the simulation.

use std::sync::Arc;

use super::{
    Context, Streams, queue_service, state_service, task_service, watch::Frames, worker_service,
};
use crate::{engine::Engine, proto::v1 as pb, runtime::Registry};

type Tasks =
    dyn pb::task_service_server::TaskService<WatchTasksStream = Frames<pb::WatchTasksResponse>>;
type States = dyn pb::state_service_server::StateService<
        WatchStateStream = Frames<pb::WatchStateResponse>,
        PushStateStream = Frames<pb::PushStateResponse>,
    >;
type Workers = dyn pb::worker_service_server::WorkerService<WatchLeasesStream = Frames<pb::WatchLeasesResponse>>;

/// The handlers of all calls.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) states: Arc<States>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) queues: Arc<dyn pb::queue_service_server::QueueService>,
}

/// All services over one engine.
pub(crate) fn services(engine: Engine, jobs: Registry) -> Services {
    let context = Context {
        engine,
        jobs,
        streams: Streams::default(),
    };
    Services {
        tasks: Arc::new(task_service::Tasks(context.clone())),
        states: Arc::new(state_service::States(context.clone())),
        workers: Arc::new(worker_service::Workers(context.clone())),
        queues: Arc::new(queue_service::Queues(context)),
    }
}
