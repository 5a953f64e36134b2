//! Calls over the wire with the generated clients, and the little that they need: nothing here
//! retries, reconnects or numbers by itself, so that a test knows exactly what it sent.

use bytes::Bytes;
use duite::{
    client::{decode_value, encode_value},
    proto::v1::{
        self as pb, key_update::Operation, state_service_client::StateServiceClient,
        task_service_client::TaskServiceClient, value::Kind,
        worker_service_client::WorkerServiceClient,
    },
};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

/// The namespace of all tests.
pub(crate) const PARENT: &str = "namespaces/default";

/// A connection of its own.
pub(crate) async fn connect(address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(address.to_owned()).expect("an address");
    endpoint.tcp_nodelay(true).connect().await
}

pub(crate) type States = StateServiceClient<Channel>;
pub(crate) type Tasks = TaskServiceClient<Channel>;
pub(crate) type Workers = WorkerServiceClient<Channel>;

pub(crate) fn state_name(state: &str) -> String {
    format!("{PARENT}/states/{state}")
}

pub(crate) fn task_name(task: &str) -> String {
    format!("{PARENT}/tasks/{task}")
}

pub(crate) fn integer(number: i64) -> Bytes {
    encode_value(&pb::Value {
        kind: Some(Kind::Integer(number)),
    })
}

pub(crate) fn put(key: impl Into<String>, number: i64) -> pb::KeyUpdate {
    put_encoded(key, integer(number))
}

pub(crate) fn put_encoded(key: impl Into<String>, value: Bytes) -> pb::KeyUpdate {
    pb::KeyUpdate {
        key: key.into(),
        operation: Some(Operation::Put(value)),
    }
}

pub(crate) fn add(key: impl Into<String>, number: i64) -> pb::KeyUpdate {
    pb::KeyUpdate {
        key: key.into(),
        operation: Some(Operation::Add(integer(number))),
    }
}

/// A value that is kept out of line and tells its number.
pub(crate) fn large(number: i64) -> Bytes {
    encode_value(&pb::Value {
        kind: Some(Kind::Text(large_text(number))),
    })
}

fn large_text(number: i64) -> String {
    format!("{number} ").repeat((70 << 10) / 2)
}

/// The integer of an encoded value, also of a large one, which must be whole.
pub(crate) fn as_integer(value: &Bytes) -> i64 {
    match decode_value(value).expect("an encoded value").kind {
        Some(Kind::Integer(number)) => number,
        Some(Kind::Text(text)) => {
            let number = text.split(' ').next().and_then(|first| first.parse().ok());
            let number = number.expect("a large value begins with its number");
            assert!(text == large_text(number), "large value {number} is torn");
            number
        }
        other => panic!("an integer was expected, here stands {other:?}"),
    }
}

pub(crate) fn open_frame(state: &str, writer: &str) -> pb::PushStateRequest {
    pb::PushStateRequest {
        frame: Some(pb::push_state_request::Frame::Open(pb::PushOpen {
            state_name: state_name(state),
            writer_id: writer.to_owned(),
            ..pb::PushOpen::default()
        })),
    }
}

pub(crate) fn batches_frame(batches: Vec<pb::UpdateBatch>) -> pb::PushStateRequest {
    pb::PushStateRequest {
        frame: Some(pb::UpdateBatches { batches }.into()),
    }
}

pub(crate) fn batch(sequence: i64, updates: Vec<pb::KeyUpdate>) -> pb::UpdateBatch {
    pb::UpdateBatch {
        sequence,
        updates,
        ..pb::UpdateBatch::default()
    }
}

pub(crate) fn update(state: &str, updates: Vec<pb::KeyUpdate>) -> pb::UpdateStateRequest {
    pb::UpdateStateRequest {
        name: state_name(state),
        updates,
        ..pb::UpdateStateRequest::default()
    }
}

pub(crate) fn millis(millis: u64) -> Option<prost_types::Duration> {
    let duration = std::time::Duration::from_millis(millis);
    Some(duration.try_into().expect("a short time"))
}

/// `ErrorInfo.reason`, and that it is ours.
pub(crate) fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    let info = info.unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "duite", "{status:?}");
    info.reason
}

/// The state as it is.
pub(crate) async fn get_state(channel: &Channel, state: &str) -> pb::GetStateResponse {
    let request = pb::GetStateRequest {
        name: state_name(state),
        ..pb::GetStateRequest::default()
    };
    let response = States::new(channel.clone()).get_state(request).await;
    response.expect("the state stands").into_inner()
}

/// All tasks, newest first.
pub(crate) async fn list_tasks(channel: &Channel) -> Vec<pb::Task> {
    list_matching(channel, pb::TaskFilter::default()).await
}

/// The tasks that match, newest first.
pub(crate) async fn list_matching(channel: &Channel, filter: pb::TaskFilter) -> Vec<pb::Task> {
    let mut client = Tasks::new(channel.clone());
    let mut tasks = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = pb::ListTasksRequest {
            parent: PARENT.to_owned(),
            page_size: 1000,
            page_token,
            filter: Some(filter.clone()),
            ..pb::ListTasksRequest::default()
        };
        let page = client.list_tasks(request).await.expect("a page");
        let page = page.into_inner();
        tasks.extend(page.tasks);
        if page.next_page_token.is_empty() {
            return tasks;
        }
        page_token = page.next_page_token;
    }
}
