//! WatchState and WatchTasks.

use bytes::Bytes;
use duite::proto::v1::{
    self as pb, key_change::Change, key_update::Operation, task::Status, watch_closing,
    watch_opened::Start, watch_options::Delivery, watch_reset, watch_state_response::Frame,
    watch_tasks_response::Frame as TaskFrame,
};
use prost::Message;
use tonic::Streaming;

use crate::sandbox::{
    PARENT, STATE, Sandbox, expect, integer, name, output, put, reason, refusal, text, update,
};

type States = Streaming<pb::WatchStateResponse>;

fn watch(resume_token: Bytes) -> pb::WatchStateRequest {
    pb::WatchStateRequest {
        names: vec![STATE.into()],
        options: Some(pb::WatchOptions {
            resume_token,
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The same of some keys: another request, so another filter.
fn watch_some(resume_token: Bytes) -> pb::WatchStateRequest {
    pb::WatchStateRequest {
        keys: Some(pb::KeyFilter {
            prefixes: vec!["b".into()],
            ..Default::default()
        }),
        ..watch(resume_token)
    }
}

async fn next(frames: &mut States) -> Frame {
    frames.message().await.unwrap().unwrap().frame.unwrap()
}

/// Opens a watch, and what it says of its start.
async fn start(server: &mut Sandbox, request: pb::WatchStateRequest) -> (States, pb::WatchOpened) {
    let mut frames = server
        .states
        .watch_state(request)
        .await
        .unwrap()
        .into_inner();
    match next(&mut frames).await {
        Frame::Opened(opened) => (frames, opened),
        other => panic!("{other:?}"),
    }
}

async fn delta(frames: &mut States) -> pb::StateDelta {
    match next(frames).await {
        Frame::Delta(delta) => pb::StateDelta::decode(delta).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn synced(frames: &mut States) -> pb::Position {
    match next(frames).await {
        Frame::Synced(synced) => synced.position.unwrap(),
        other => panic!("{other:?}"),
    }
}

/// A watch whose client has seen one delta: the token it holds.
async fn watched(server: &mut Sandbox) -> Bytes {
    server.update(vec![put("a", integer(1))]).await.unwrap();
    let (mut frames, opened) = start(server, watch(Bytes::new())).await;
    assert_eq!(opened.start(), Start::Snapshot);
    assert_eq!(opened.store_epoch, server.engine.epoch().to_string());
    let Frame::Snapshot(chunk) = next(&mut frames).await else {
        panic!("no snapshot")
    };
    assert_eq!(chunk.entries[0].change, Some(Change::Value(integer(1))));
    let view = synced(&mut frames).await;

    let large = text(&"x".repeat(70 << 10));
    server
        .update(vec![put("b", integer(2)), put("large", large)])
        .await
        .unwrap();
    let delta = delta(&mut frames).await;
    assert_eq!((delta.base_revision, delta.more), (view.revision, false));
    assert_eq!(delta.folded_commits, 1);
    let [b, large] = &delta.changes[..] else {
        panic!("{delta:?}")
    };
    assert_eq!(
        (&*b.key, &b.change),
        ("b", &Some(Change::Value(integer(2))))
    );
    assert!(matches!(&large.change, Some(Change::Stub(stub)) if stub.size_bytes > 70 << 10));
    delta.position.unwrap().resume_token
}

#[tokio::test]
async fn a_watch_brings_a_snapshot_then_deltas_and_resumes_without_loss() {
    let mut server = Sandbox::new().await;
    let token = watched(&mut server).await;
    // While nobody watches: a deletion, and a key that changes twice.
    server
        .update(vec![update("a", Operation::Delete(true))])
        .await
        .unwrap();
    server.update(vec![put("b", integer(3))]).await.unwrap();
    let last = server.update(vec![put("b", integer(4))]).await.unwrap();
    let (mut frames, opened) = start(&mut server, watch(token)).await;
    assert_eq!(opened.start(), Start::Resumed);
    let missed = delta(&mut frames).await;
    let changes = missed.changes.iter();
    let changes: Vec<_> = changes
        .map(|c| (&*c.key, c.change.clone().unwrap()))
        .collect();
    assert_eq!(
        changes,
        [
            ("a", Change::Deleted(true)),
            ("b", Change::Value(integer(4)))
        ]
    );
    assert_eq!(
        missed.position.unwrap().revision,
        last.position.unwrap().revision
    );
    synced(&mut frames).await;
}

#[tokio::test]
async fn a_watchs_own_token_goes_with_its_own_request_and_a_writes_with_any() {
    let mut server = Sandbox::new().await;
    let token = watched(&mut server).await;
    let written = server.update(vec![put("b", integer(3))]).await.unwrap();
    let (mut frames, opened) = start(&mut server, watch_some(token.clone())).await;
    assert_eq!(opened.start(), Start::Snapshot);
    let Frame::Reset(reset) = next(&mut frames).await else {
        panic!("no reset")
    };
    assert_eq!(reset.reason(), watch_reset::Reason::FilterChanged);
    let any = written.position.unwrap().resume_token;
    let (_, opened) = start(&mut server, watch_some(any)).await;
    assert_eq!(opened.start(), Start::Resumed);
}

#[tokio::test]
async fn a_watch_of_tasks_ends_well_when_they_have_ended() {
    let mut server = Sandbox::new().await;
    let lease = server.leased("t").await;
    let request = pb::WatchTasksRequest {
        parent: PARENT.into(),
        filter: Some(pb::TaskFilter {
            names: vec![name("t")],
            ..Default::default()
        }),
        until_terminal: true,
        ..Default::default()
    };
    let mut frames = server
        .tasks
        .watch_tasks(request)
        .await
        .unwrap()
        .into_inner();
    let mut statuses = Vec::new();
    let mut finished = false;
    while let Some(frame) = frames.message().await.unwrap() {
        match frame.frame.unwrap() {
            TaskFrame::Snapshot(chunk) => statuses.extend(chunk.tasks.iter().map(pb::Task::status)),
            TaskFrame::Delta(delta) => statuses.extend(delta.changed.iter().map(pb::Task::status)),
            TaskFrame::Synced(_) if !finished => {
                finished = true;
                server.finish(output(&lease, b"done")).await;
            }
            _ => {}
        }
    }
    assert_eq!(statuses, [Status::Running, Status::Succeeded]);
}

#[tokio::test]
async fn a_task_that_matches_no_longer_says_how_it_stands() {
    let mut server = Sandbox::new().await;
    server.create("t").await;
    let request = pb::WatchTasksRequest {
        parent: PARENT.into(),
        filter: Some(pb::TaskFilter {
            statuses: vec![Status::Queued as i32],
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut frames = server
        .tasks
        .watch_tasks(request)
        .await
        .unwrap()
        .into_inner();
    while !matches!(
        frames.message().await.unwrap().unwrap().frame,
        Some(TaskFrame::Synced(_))
    ) {}
    server.lease().await;
    let frame = frames.message().await.unwrap().unwrap().frame;
    let Some(TaskFrame::Delta(delta)) = frame else {
        panic!("{frame:?}")
    };
    assert_eq!(delta.changed, []);
    let removed = &delta.removed[0];
    assert_eq!(
        (&removed.name, removed.last_status()),
        (&name("t"), Status::Running)
    );
    assert_eq!(removed.reason(), pb::removed_task::Reason::NoLongerMatches);
}

#[tokio::test]
async fn a_draining_server_closes_watches_with_a_word() {
    let mut server = Sandbox::new().await;
    let (mut frames, _) = start(&mut server, watch(Bytes::new())).await;
    synced(&mut frames).await;
    server.engine.drain();
    let Frame::Closing(closing) = next(&mut frames).await else {
        panic!("not closing")
    };
    assert_eq!(closing.reason(), watch_closing::Reason::Draining);
    let status = frames.message().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert_eq!(reason(&status), "STREAM_DRAINING");
}

#[tokio::test]
async fn wrong_watches_of_states_name_their_reason() {
    let mut server = Sandbox::new().await;
    let names = |names: Vec<String>| pb::WatchStateRequest {
        names,
        ..watch(Bytes::new())
    };
    let options = |options| pb::WatchStateRequest {
        options: Some(options),
        ..watch(Bytes::new())
    };
    let delivery = |delivery| {
        options(pb::WatchOptions {
            delivery,
            ..Default::default()
        })
    };
    let many = (0..65).map(|n| format!("{PARENT}/states/{n}")).collect();
    let mut long_key = watch(Bytes::new());
    long_key.keys = Some(pb::KeyFilter {
        exact: vec!["k".repeat(257)],
        ..Default::default()
    });
    let mut negative = watch(Bytes::new());
    negative.inline_limit_bytes = -1;
    let junk = Bytes::from_static(b"junk");
    let junk_position = options(pb::WatchOptions {
        min_position: junk.clone(),
        ..Default::default()
    });
    let wrong = [
        (names(Vec::new()), "FIELD_INVALID"),
        (names(vec!["s".into()]), "FIELD_INVALID"),
        (names(vec![STATE.into(); 2]), "FIELD_INVALID"),
        (names(many), "FIELD_INVALID"),
        (
            names(vec![STATE.into(), "namespaces/other/states/s".into()]),
            "FIELD_INVALID",
        ),
        (
            names(vec!["namespaces/no/states/s".into()]),
            "NAMESPACE_NOT_FOUND",
        ),
        (negative, "FIELD_INVALID"),
        (long_key, "FIELD_INVALID"),
        (watch(junk), "RESUME_TOKEN_MALFORMED"),
        (junk_position, "RESUME_TOKEN_MALFORMED"),
        (delivery(Delivery::Every as i32), "NOT_IMPLEMENTED"),
        (delivery(77), "FIELD_INVALID"),
    ];
    for (request, expected) in wrong {
        let reason = refusal(server.states.watch_state(request.clone()).await);
        expect(reason, expected, &request);
    }
}

#[tokio::test]
async fn wrong_watches_of_tasks_name_their_reason() {
    let mut server = Sandbox::new().await;
    let good = pb::WatchTasksRequest {
        parent: PARENT.into(),
        ..Default::default()
    };
    let unnamed = pb::TaskFilter {
        names: vec!["t".into()],
        ..Default::default()
    };
    let wrong = [
        pb::WatchTasksRequest {
            parent: "default".into(),
            ..good.clone()
        },
        pb::WatchTasksRequest {
            expected_tasks: -1,
            ..good.clone()
        },
        pb::WatchTasksRequest {
            until_terminal: true,
            ..good.clone()
        },
        pb::WatchTasksRequest {
            filter: Some(unnamed),
            ..good
        },
    ];
    for request in wrong {
        let reason = refusal(server.tasks.watch_tasks(request.clone()).await);
        expect(reason, "FIELD_INVALID", &request);
    }
}
