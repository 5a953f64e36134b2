//! Wrong input over gRPC, and wrong starts: each gets its code, its reason, and a message that says
//! what was wrong, with which value, and what to do.

use duite::{
    client::encode_value,
    proto::v1::{self as pb, push_state_response::Frame, value::Kind},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{
    support::{Server, command, run},
    wire::{self, PARENT, States, Tasks, Workers, add, batch, put, put_encoded},
};

const STATE: &str = "s";

/// Panics unless a call was refused so.
#[track_caller]
fn refused<T: std::fmt::Debug>(
    result: Result<tonic::Response<T>, Status>,
    code: Code,
    reason: &str,
    says: &[&str],
) {
    let status = result.expect_err("this call is wrong");
    assert_eq!(status.code(), code, "{status:?}");
    assert_eq!(wire::reason(&status), reason, "{status:?}");
    for part in says {
        let message = status.message();
        assert!(message.contains(part), "`{part}` is not in `{message}`");
    }
}

async fn connected(server: &Server) -> Channel {
    wire::connect(&server.addr()).await.unwrap()
}

#[tokio::test]
async fn an_unknown_task_or_state_is_named() {
    let server = Server::start();
    let channel = connected(&server).await;
    let mut tasks = Tasks::new(channel.clone());
    let name = wire::task_name("no-such-task");
    let get = pb::GetTaskRequest {
        name: name.clone(),
        ..pb::GetTaskRequest::default()
    };
    let told = &["no-such-task"];
    refused(
        tasks.get_task(get).await,
        Code::NotFound,
        "TASK_NOT_FOUND",
        told,
    );
    let cancel = pb::CancelTaskRequest {
        name,
        ..pb::CancelTaskRequest::default()
    };
    refused(
        tasks.cancel_task(cancel).await,
        Code::NotFound,
        "TASK_NOT_FOUND",
        told,
    );
    let get = pb::GetStateRequest {
        name: wire::state_name("no-such-state"),
        ..pb::GetStateRequest::default()
    };
    let got = States::new(channel).get_state(get).await;
    refused(got, Code::NotFound, "STATE_NOT_FOUND", &["no-such-state"]);
}

#[tokio::test]
async fn a_bad_name_is_refused_with_its_field() {
    let server = Server::start();
    let channel = connected(&server).await;
    let long = wire::task_name(&"x".repeat(129));
    let names = [
        ("tasks/1", "tasks/1"),
        ("namespaces/default/states/1", "namespaces/default/states/1"),
        ("namespaces/default/tasks/no good", "no good"),
        ("namespaces/default/tasks/.hidden", ".hidden"),
        (long.as_str(), "128"),
        ("", "namespaces/"),
    ];
    for (name, says) in names {
        let request = pb::GetTaskRequest {
            name: name.to_owned(),
            ..pb::GetTaskRequest::default()
        };
        let got = Tasks::new(channel.clone()).get_task(request).await;
        let status = got.as_ref().expect_err("a bad name");
        let violations = tonic_types::StatusExt::get_details_bad_request(status);
        let violations = violations.expect("a BadRequest").field_violations;
        assert_eq!(violations[0].field, "name", "{status:?}");
        refused(got, Code::InvalidArgument, "FIELD_INVALID", &[says]);
    }
    let request = pb::CreateTaskRequest {
        parent: PARENT.to_owned(),
        task: Some(pb::Task::default()),
        ..pb::CreateTaskRequest::default()
    };
    let created = Tasks::new(channel.clone()).create_task(request).await;
    refused(
        created,
        Code::InvalidArgument,
        "FIELD_INVALID",
        &["task.type"],
    );
}

/// A push stream by hand.
struct Push {
    frames: mpsc::Sender<pb::PushStateRequest>,
    answers: Streaming<pb::PushStateResponse>,
}

impl Push {
    async fn open(channel: &Channel) -> Self {
        let writer = uuid::Uuid::new_v4().to_string();
        Self::open_with(channel, wire::open_frame(STATE, &writer)).await
    }

    async fn open_with(channel: &Channel, open: pb::PushStateRequest) -> Self {
        let (frames, outgoing) = mpsc::channel(4);
        frames.send(open).await.unwrap();
        let mut states = States::new(channel.clone());
        let answers = states.push_state(ReceiverStream::new(outgoing)).await;
        let mut push = Self {
            frames,
            answers: answers.unwrap().into_inner(),
        };
        let Frame::Opened(opened) = push.answer().await.unwrap() else {
            panic!("the first frame is `opened`");
        };
        assert_eq!(opened.last_sequence, 0);
        push
    }

    async fn send(&self, batches: Vec<pb::UpdateBatch>) {
        self.frames
            .send(wire::batches_frame(batches))
            .await
            .unwrap();
    }

    async fn answer(&mut self) -> Result<Frame, Status> {
        let answer = self.answers.message().await?;
        Ok(answer.and_then(|answer| answer.frame).expect("a frame"))
    }

    /// Everything up to `sequence` is acknowledged; the keys that were rejected on the way.
    async fn acknowledged(&mut self, sequence: i64) -> Vec<(i64, String, String)> {
        let mut rejected = Vec::new();
        loop {
            match self.answer().await.unwrap() {
                Frame::Ack(ack) => {
                    let keys = ack.rejected.into_iter();
                    rejected.extend(keys.map(|key| (key.sequence, key.key, key.reason)));
                    if ack.acked_sequence >= sequence {
                        return rejected;
                    }
                }
                other => panic!("an acknowledgement was to come: {other:?}"),
            }
        }
    }
}

fn text(bytes: usize) -> bytes::Bytes {
    encode_value(&pb::Value {
        kind: Some(Kind::Text("x".repeat(bytes))),
    })
}

#[tokio::test]
async fn a_wrong_key_is_rejected_alone_and_its_batch_goes_on() {
    let server = Server::start();
    let channel = connected(&server).await;
    let (longest, too_long) = ("k".repeat(256), "k".repeat(257));
    let wrong = |good: &str| {
        vec![
            put(too_long.clone(), 1),
            put("", 1),
            put(longest.clone(), 1),
            put_encoded("word", text(4)),
            add("word", 1),
            put(good, 1),
        ]
    };
    let reasons = [
        (longest.as_str(), "KEY_INVALID"),
        ("", "KEY_INVALID"),
        ("word", "TYPE_MISMATCH"),
    ];

    let mut push = Push::open(&channel).await;
    push.send(vec![
        batch(1, wrong("pushed")),
        batch(2, vec![put("after", 2)]),
    ])
    .await;
    let mut rejected = push.acknowledged(2).await;
    rejected.sort();
    let mut expected: Vec<_> = reasons
        .map(|(key, reason)| (1, key.to_owned(), reason.to_owned()))
        .into();
    expected.sort();
    assert_eq!(rejected, expected);

    let mut states = States::new(channel.clone());
    let updated = states.update_state(wire::update(STATE, wrong("updated")));
    let updated = updated.await.unwrap().into_inner();
    let mut rejected: Vec<_> = updated
        .rejected
        .into_iter()
        .map(|key| (key.sequence, key.key, key.reason))
        .collect();
    rejected.sort();
    expected.iter_mut().for_each(|key| key.0 = 0);
    assert_eq!(rejected, expected);

    let state = wire::get_state(&channel, STATE).await.state.unwrap();
    let keys: Vec<_> = state
        .entries
        .iter()
        .map(|entry| entry.key.as_str())
        .collect();
    assert_eq!(
        keys,
        ["after", longest.as_str(), "pushed", "updated", "word"]
    );
}

#[tokio::test]
async fn a_value_over_the_limit_is_refused_and_the_largest_is_not() {
    const LIMIT: usize = (1 << 20) - 1024;
    let server = Server::start();
    let channel = connected(&server).await;
    // A text of so many bytes takes four more when encoded.
    let largest = || put_encoded("large", text(LIMIT - 4));
    let too_large = || put_encoded("larger", text(LIMIT - 3));

    let mut push = Push::open(&channel).await;
    push.send(vec![batch(1, vec![largest()])]).await;
    push.send(vec![batch(2, vec![too_large()])]).await;
    push.send(vec![batch(3, vec![put("after", 3)])]).await;
    let rejected = push.acknowledged(3).await;
    let expected = (2, "larger".to_owned(), "VALUE_TOO_LARGE".to_owned());
    assert_eq!(rejected, [expected]);

    let mut states = States::new(channel.clone()).max_decoding_message_size(8 << 20);
    let updated = states
        .update_state(wire::update(STATE, vec![too_large()]))
        .await;
    let updated = updated.unwrap().into_inner();
    assert_eq!(updated.rejected[0].reason, "VALUE_TOO_LARGE");
    let batch = vec![largest(), largest()];
    let updated = states.update_state(wire::update(STATE, batch)).await;
    refused(
        updated,
        Code::ResourceExhausted,
        "VALUE_TOO_LARGE",
        &["updates", "1048576"],
    );

    let state = wire::get_state(&channel, STATE).await.state.unwrap();
    let keys: Vec<_> = state
        .entries
        .iter()
        .map(|entry| entry.key.as_str())
        .collect();
    assert_eq!(keys, ["after", "large"]);
}

#[tokio::test]
async fn a_gap_in_the_sequence_is_answered_with_where_to_go_on() {
    let server = Server::start();
    let channel = connected(&server).await;
    let mut push = Push::open(&channel).await;
    push.send(vec![batch(1, vec![add("n", 1)])]).await;
    assert_eq!(push.acknowledged(1).await, []);
    // 2 is missing.
    push.send(vec![
        batch(3, vec![add("n", 1)]),
        batch(4, vec![add("n", 1)]),
    ])
    .await;
    match push.answer().await.unwrap() {
        Frame::Rewind(rewind) => assert_eq!(rewind.expected_sequence, 2),
        other => panic!("a rewind was to come: {other:?}"),
    }
    // The stream goes on, what came after the gap was not taken, and a repeated batch does nothing.
    let again = [1, 2, 3, 4].map(|sequence| batch(sequence, vec![add("n", 1)]));
    push.send(again.into()).await;
    assert_eq!(push.acknowledged(4).await, []);
    let state = wire::get_state(&channel, STATE).await.state.unwrap();
    assert_eq!(wire::as_integer(&state.entries[0].value), 4);

    // A writer nobody knows does not begin in the middle.
    let mut unknown = Push::open(&channel).await;
    unknown.send(vec![batch(7, vec![add("n", 1)])]).await;
    let status = unknown.answer().await.expect_err("the stream ends");
    let answer: Result<tonic::Response<()>, _> = Err(status);
    refused(
        answer,
        Code::Aborted,
        "WRITER_EXPIRED",
        &["batch 7", "new writer"],
    );
}

#[tokio::test]
async fn an_old_lease_token_is_refused_wherever_it_is_shown() {
    let server = Server::start();
    let channel = connected(&server).await;
    let request = pb::CreateTaskRequest {
        parent: PARENT.to_owned(),
        task: Some(pb::Task {
            r#type: "work".to_owned(),
            ..pb::Task::default()
        }),
        ..pb::CreateTaskRequest::default()
    };
    Tasks::new(channel.clone())
        .create_task(request)
        .await
        .unwrap();
    let mut workers = Workers::new(channel.clone());
    let wanted = pb::LeaseTasksRequest {
        parent: PARENT.to_owned(),
        task_types: vec!["work".to_owned()],
        worker_id: "w".to_owned(),
        instance_uid: uuid::Uuid::new_v4().to_string(),
        ..pb::LeaseTasksRequest::default()
    };
    let leases = workers
        .lease_tasks(wanted.clone())
        .await
        .unwrap()
        .into_inner();
    let old = leases.leases[0].lease_token.clone();
    let given_back = pb::ReleaseLeasesRequest {
        lease_tokens: vec![old.clone()],
    };
    workers.release_leases(given_back).await.unwrap();

    let outcome = pb::TaskOutcome {
        lease_token: old.clone(),
        outcome: Some(pb::task_outcome::Outcome::Output(pb::Payload::default())),
        ..pb::TaskOutcome::default()
    };
    let finish = pb::FinishTasksRequest {
        outcomes: vec![outcome],
        ..pb::FinishTasksRequest::default()
    };
    let results = workers
        .finish_tasks(finish)
        .await
        .unwrap()
        .into_inner()
        .results;
    let Some(pb::outcome_result::Result::Error(error)) = &results[0].result else {
        panic!("the lease was given back: {results:?}");
    };
    assert_eq!(error.code, Code::Aborted as i32);
    let details = prost::Message::encode_to_vec(error);
    let status = Status::with_details(Code::Aborted, error.message.clone(), details.into());
    let lost: Result<tonic::Response<()>, _> = Err(status);
    refused(lost, Code::Aborted, "LEASE_LOST", &["lease"]);

    let renewal = pb::RenewLeasesRequest {
        lease_tokens: vec![old.clone()],
        worker_id: wanted.worker_id,
        instance_uid: wanted.instance_uid,
    };
    let renewed = workers.renew_leases(renewal).await.unwrap().into_inner();
    let lost = pb::lease_status::Disposition::Lost;
    assert_eq!(renewed.statuses[0].disposition(), lost);

    let update = pb::UpdateStateRequest {
        lease_token: old.clone(),
        ..wire::update(STATE, vec![put("a", 1)])
    };
    let mut states = States::new(channel.clone());
    refused(
        states.update_state(update.clone()).await,
        Code::Aborted,
        "LEASE_LOST",
        &["lease"],
    );
    let foreign = pb::UpdateStateRequest {
        lease_token: vec![0xff; 20].into(),
        ..update
    };
    let updated = states.update_state(foreign).await;
    refused(
        updated,
        Code::InvalidArgument,
        "LEASE_TOKEN_MALFORMED",
        &["20 bytes", "LeaseTasks"],
    );

    let mut open = wire::open_frame(STATE, &uuid::Uuid::new_v4().to_string());
    if let Some(pb::push_state_request::Frame::Open(open)) = &mut open.frame {
        open.lease_token = old;
    }
    let outgoing = tokio_stream::iter([open]);
    let mut answers = states.push_state(outgoing).await.unwrap().into_inner();
    let answer = answers.message().await.map(tonic::Response::new);
    refused(answer, Code::Aborted, "LEASE_LOST", &["lease"]);
}

#[test]
fn a_data_folder_of_another_version_is_refused_and_left_as_it_was() {
    let mut server = Server::start();
    assert!(server.stop().success());
    let format = server.data().join("FORMAT");
    std::fs::write(&format, "duite-journal 99").unwrap();
    let data = server.data();
    let data = data.to_str().unwrap();
    let again = || {
        let options = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        run(command(["server", "--data", data]).args(options))
    };
    let version = [
        "duite-journal 99",
        "duite-journal 2",
        data,
        "another folder",
    ];
    again().expect(1).says(version);
    assert_eq!(
        std::fs::read_to_string(&format).unwrap(),
        "duite-journal 99"
    );
    // A folder that holds something else is not taken over either.
    std::fs::remove_file(&format).unwrap();
    again().expect(1).says(["FORMAT", "--data"]);
}

#[test]
fn a_data_folder_in_use_is_refused_and_its_server_goes_on() {
    let server = Server::start();
    let data = server.data();
    let options = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let second = run(command(["server", "--data", data.to_str().unwrap()]).args(options));
    let holder = format!("process {}", server.pid());
    second.expect(1).says(["is in use", &holder, "--data"]);
    server.run(["state", "set", "s", "a=1"]).expect(0);
}

#[test]
fn a_port_in_use_is_refused_with_the_address() {
    let first = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let options = ["server", "--admin", "127.0.0.1:0", "--listen", first.grpc()];
    let second = run(command(options).current_dir(folder.path()));
    second.expect(1).says([first.grpc(), "--listen"]);
}

#[test]
fn an_unknown_option_is_named_with_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let refused = run(command(["server", "--listn", "127.0.0.1:0"]).current_dir(folder.path()));
    refused.expect(2).says(["--listn", "--listen"]);
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 0, "nothing was begun");
}
