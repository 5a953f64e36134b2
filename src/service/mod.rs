//! The gRPC services: thin translations between the wire and the engine. The only part of the
//! server that knows `tonic::Status`.
//!
//! - [`routes`]: every service with its limits; start here
//! - [`admin_routes`]: health and reflection, for an address of their own; [`with_pages`]: what that
//!   says without gRPC
//! - `calls`: what every call takes, and which are refused
//! - `status`: what an error is on the wire
//! - `convert`: messages to domain types and back
//! - `push`, `watch`: the streams; `streams`: how many of them there may be
//!
//! A handler takes the message apart, calls the [`Namespace`], and puts the answer together. What
//! lasts (streams) is built on poll: there is no queue between the engine and HTTP/2.

mod admin;
mod backup;
#[cfg(test)]
pub(crate) mod bare;
mod calls;
mod convert;
mod error_service;
mod pages;
mod push;
mod queue_service;
mod read_state;
mod retry;
mod state_service;
mod status;
mod streams;
mod system_service;
mod task_service;
mod unimplemented;
mod watch;
mod worker_service;

use tonic::service::Routes;

pub use admin::{HealthControl, admin_routes, with_reflection};
pub use pages::with_pages;
pub use status::to_status;
pub use streams::{MAX_PUSHES, MAX_WATCHES};

use crate::{
    domain::{Error, NamespaceId, Revision, limits::MAX_MESSAGE_BYTES},
    engine::{Engine, Namespace},
    proto::v1::{
        self as pb, error_service_server::ErrorServiceServer,
        queue_service_server::QueueServiceServer, state_service_server::StateServiceServer,
        system_service_server::SystemServiceServer, task_service_server::TaskServiceServer,
        worker_service_server::WorkerServiceServer,
    },
    runtime::Registry,
    telemetry::Traces,
};
use calls::CallsLayer;
use streams::Streams;

/// Every service of the package, for health checks.
pub const SERVICES: [&str; 6] = [
    pb::task_service_server::SERVICE_NAME,
    pb::state_service_server::SERVICE_NAME,
    pb::worker_service_server::SERVICE_NAME,
    pb::queue_service_server::SERVICE_NAME,
    pb::error_service_server::SERVICE_NAME,
    pb::system_service_server::SERVICE_NAME,
];

/// What every service holds.
#[derive(Clone, Debug)]
struct Context {
    engine: Engine,
    jobs: Registry,
    streams: Streams,
}

impl Context {
    /// What begins the traces of tasks.
    fn traces(&self) -> &Traces {
        &self.engine.probe().traces
    }

    /// The namespace of a call that only reads, or that acts on what must stand already.
    fn existing(&self, id: &NamespaceId) -> Result<Namespace, Error> {
        self.engine.existing(id)
    }

    /// The namespace of a call that may be the first to name it.
    async fn namespace(&self, id: &NamespaceId) -> Result<Namespace, Error> {
        self.engine.namespace(id).await
    }
}

/// All services over one engine. `jobs` is what `ListBackgroundJobs` lists.
///
/// Message limits are set here and nowhere else: tonic's own are 4 MiB in and none out.
#[must_use]
pub fn routes(engine: Engine, jobs: Registry) -> Routes {
    let calls = CallsLayer::new(&engine.probe().metrics, jobs.clone());
    let context = Context {
        engine,
        jobs,
        streams: Streams::default(),
    };
    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        };
    }
    let mut routes = Routes::builder();
    routes
        .add_service(limited!(
            TaskServiceServer,
            task_service::Tasks(context.clone())
        ))
        .add_service(limited!(
            StateServiceServer,
            state_service::States(context.clone())
        ))
        .add_service(limited!(
            WorkerServiceServer,
            worker_service::Workers(context.clone())
        ))
        .add_service(limited!(
            SystemServiceServer,
            system_service::System(context.clone())
        ))
        .add_service(limited!(
            QueueServiceServer,
            queue_service::Queues(context.clone())
        ))
        .add_service(limited!(ErrorServiceServer, error_service::Errors(context)));
    Routes::from(routes.routes().into_axum_router().layer(calls))
}

/// A position of a namespace, as the wire has it.
fn position(namespace: &Namespace, revision: Revision) -> pb::Position {
    pb::Position {
        revision: revision.wire(),
        resume_token: namespace.token(revision),
    }
}
