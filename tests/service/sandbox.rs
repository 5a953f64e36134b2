//! A server with clients on one connection in memory.

use std::{fmt::Debug, io, sync::Arc};

use bytes::Bytes;
use duite::{
    domain::Uid,
    engine::Engine,
    journal::memory::MemoryStore,
    proto::v1::{
        self as pb, key_update::Operation, state_service_client::StateServiceClient,
        system_service_client::SystemServiceClient, task_service_client::TaskServiceClient,
        value::Kind, worker_service_client::WorkerServiceClient,
    },
    runtime::Registry,
    service::routes,
};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::io::DuplexStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Response, Status,
    service::Routes,
    transport::{Channel, Endpoint, Server},
};
use tonic_types::StatusExt;

pub(crate) const PARENT: &str = "namespaces/default";
pub(crate) const STATE: &str = "namespaces/default/states/s";
pub(crate) const INSTANCE: &str = "11111111-1111-4111-8111-111111111111";
pub(crate) const WRITER: &str = "22222222-2222-4222-8222-222222222222";

/// A running server and clients of it.
pub(crate) struct Sandbox {
    pub(crate) store: MemoryStore,
    pub(crate) engine: Engine,
    pub(crate) channel: Channel,
    pub(crate) tasks: TaskServiceClient<Channel>,
    pub(crate) states: StateServiceClient<Channel>,
    pub(crate) workers: WorkerServiceClient<Channel>,
    pub(crate) system: SystemServiceClient<Channel>,
}

/// A client of what `routes` serves.
pub(crate) async fn connect(routes: Routes) -> Channel {
    let (client, server) = tokio::io::duplex(1 << 20);
    let incoming = futures_util::stream::iter([Ok::<DuplexStream, io::Error>(server)]);
    let server = Server::builder().add_routes(routes);
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client = Some(TokioIo::new(client));
    let connector = tower::service_fn(move |_| {
        let client = client.take();
        async { client.ok_or_else(|| io::Error::other("one connection is all there is")) }
    });
    Endpoint::from_static("http://in.memory")
        .connect_with_connector(connector)
        .await
        .unwrap()
}

impl Sandbox {
    pub(crate) async fn new() -> Self {
        let jobs = Registry::new(CancellationToken::new());
        let store = MemoryStore::new(Uid(1));
        let engine = Engine::start(Arc::new(store.clone()), jobs.clone());
        let engine = engine.await.unwrap();
        let channel = connect(routes(engine.clone(), jobs)).await;
        Self {
            store,
            engine,
            tasks: TaskServiceClient::new(channel.clone()),
            states: StateServiceClient::new(channel.clone()),
            workers: WorkerServiceClient::new(channel.clone()),
            system: SystemServiceClient::new(channel.clone()),
            channel,
        }
    }

    pub(crate) async fn create(&mut self, id: &str) -> pb::Task {
        let request = pb::CreateTaskRequest {
            parent: PARENT.into(),
            task_id: id.into(),
            task: Some(echo()),
            ..Default::default()
        };
        let response = self.tasks.create_task(request).await.unwrap();
        response.into_inner().task.unwrap()
    }

    pub(crate) async fn lease(&mut self) -> Vec<pb::Lease> {
        let response = self.workers.lease_tasks(lease_request()).await.unwrap();
        response.into_inner().leases
    }

    /// A task that is leased, and its lease.
    pub(crate) async fn leased(&mut self, id: &str) -> pb::Lease {
        self.create(id).await;
        self.lease().await.remove(0)
    }

    pub(crate) async fn renew(&mut self, token: &Bytes) -> pb::LeaseStatus {
        let request = pb::RenewLeasesRequest {
            lease_tokens: vec![token.clone()],
            worker_id: "worker".into(),
            instance_uid: INSTANCE.into(),
        };
        let response = self.workers.renew_leases(request).await.unwrap();
        response.into_inner().statuses.remove(0)
    }

    pub(crate) async fn finish(&mut self, outcome: pb::TaskOutcome) -> pb::outcome_result::Result {
        let request = pb::FinishTasksRequest {
            outcomes: vec![outcome],
            ..Default::default()
        };
        let response = self.workers.finish_tasks(request).await.unwrap();
        response.into_inner().results.remove(0).result.unwrap()
    }

    pub(crate) async fn get(&mut self, id: &str) -> Result<pb::Task, Status> {
        let request = pb::GetTaskRequest {
            name: name(id),
            ..Default::default()
        };
        let response = self.tasks.get_task(request).await?;
        Ok(response.into_inner().task.unwrap())
    }

    pub(crate) async fn update(
        &mut self,
        updates: Vec<pb::KeyUpdate>,
    ) -> Result<pb::UpdateStateResponse, Status> {
        let request = pb::UpdateStateRequest {
            name: STATE.into(),
            updates,
            ..Default::default()
        };
        Ok(self.states.update_state(request).await?.into_inner())
    }

    pub(crate) async fn state(&mut self) -> Result<pb::SharedState, Status> {
        let request = pb::GetStateRequest {
            name: STATE.into(),
            ..Default::default()
        };
        let response = self.states.get_state(request).await?;
        Ok(response.into_inner().state.unwrap())
    }
}

pub(crate) fn name(id: &str) -> String {
    format!("{PARENT}/tasks/{id}")
}

pub(crate) fn echo() -> pb::Task {
    pb::Task {
        r#type: "echo".into(),
        ..Default::default()
    }
}

pub(crate) fn lease_request() -> pb::LeaseTasksRequest {
    pb::LeaseTasksRequest {
        parent: PARENT.into(),
        task_types: vec!["echo".into()],
        max_tasks: 1_000,
        worker_id: "worker".into(),
        instance_uid: INSTANCE.into(),
        ..Default::default()
    }
}

pub(crate) fn output(lease: &pb::Lease, data: &'static [u8]) -> pb::TaskOutcome {
    pb::TaskOutcome {
        lease_token: lease.lease_token.clone(),
        outcome: Some(pb::task_outcome::Outcome::Output(pb::Payload {
            data: Bytes::from_static(data),
            ..Default::default()
        })),
        ..Default::default()
    }
}

pub(crate) fn integer(n: i64) -> Bytes {
    value(Kind::Integer(n))
}

pub(crate) fn text(text: &str) -> Bytes {
    value(Kind::Text(text.into()))
}

fn value(kind: Kind) -> Bytes {
    pb::Value { kind: Some(kind) }.encode_to_vec().into()
}

pub(crate) fn put(key: &str, value: Bytes) -> pb::KeyUpdate {
    update(key, Operation::Put(value))
}

pub(crate) fn add(key: &str, n: i64) -> pb::KeyUpdate {
    update(key, Operation::Add(integer(n)))
}

pub(crate) fn update(key: &str, operation: Operation) -> pb::KeyUpdate {
    pb::KeyUpdate {
        key: key.into(),
        operation: Some(operation),
    }
}

/// Entries as (key, value).
pub(crate) fn entries(state: &pb::SharedState) -> Vec<(&str, Bytes)> {
    let entries = state.entries.iter();
    entries
        .map(|entry| (entry.key.as_str(), entry.value.clone()))
        .collect()
}

/// `ErrorInfo.reason` of a call that was refused.
pub(crate) fn refusal<T>(result: Result<Response<T>, Status>) -> String {
    match result {
        Ok(_) => panic!("the call should be refused"),
        Err(status) => reason(&status),
    }
}

pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "duite");
    info.reason
}

/// The same of an item of an answer.
pub(crate) fn item_reason(item: &tonic_types::pb::Status) -> String {
    let details = item.encode_to_vec().into();
    let code = tonic::Code::from(item.code);
    reason(&Status::with_details(code, item.message.clone(), details))
}

/// Shows what was asked where an answer is not the expected one.
pub(crate) fn expect(reason: String, expected: &str, asked: &impl Debug) {
    assert_eq!(reason, expected, "{asked:?}");
}
