//! Watches over a connection in memory: broken, ended, silent and lying streams.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use crate::{
    client::{
        StateWatch, encode_value,
        fake::{Fake, frames},
    },
    proto::v1::{
        GetTaskResponse, KeyChange, Payload, StateChunk, StateDelta, Task, TaskChunk, TaskDelta,
        WatchClosing, WatchOpened, WatchStateResponse, WatchSynced, WatchTasksResponse,
        key_change::Change, task, watch_opened::Start, watch_state_response::Frame as StateFrame,
        watch_tasks_response::Frame as TaskFrame,
    },
};

const STATE: &str = "namespaces/default/states/run";
const TASK: &str = "namespaces/default/tasks/t1";

fn position(revision: i64) -> Option<Position> {
    Some(Position {
        revision,
        resume_token: format!("token {revision}").into(),
    })
}

fn opened(start: Start, revision: i64) -> WatchOpened {
    WatchOpened {
        start: start.into(),
        position: position(revision),
        ..WatchOpened::default()
    }
}

fn put(key: &str, value: i64, mod_revision: i64) -> KeyChange {
    let change = Some(Change::Value(encode_value(&value.into())));
    KeyChange {
        key: key.to_owned(),
        change,
        mod_revision,
        ..KeyChange::default()
    }
}

fn delta(base_revision: i64, to: i64, changes: Vec<KeyChange>) -> StateFrame {
    StateDelta {
        base_revision,
        position: position(to),
        changes,
        folded_commits: 1,
        more: false,
    }
    .into()
}

fn snapshot(revision: i64, entries: Vec<KeyChange>) -> Vec<StateFrame> {
    vec![
        StateFrame::Opened(opened(Start::Snapshot, revision)),
        StateFrame::Snapshot(StateChunk { entries }),
        StateFrame::Synced(WatchSynced {
            position: position(revision),
        }),
    ]
}

/// A server whose n-th stream sends the n-th of these and ends as it says; later ones are silent.
/// What it was asked to resume from is kept.
fn serve(streams: Vec<(Vec<StateFrame>, Option<Status>)>) -> (StateWatch, Arc<Mutex<Vec<Bytes>>>) {
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&tokens);
    let streams = Mutex::new(streams.into_iter());
    let watch_state = move |request: crate::proto::v1::WatchStateRequest| {
        asked
            .lock()
            .push(request.options.unwrap_or_default().resume_token);
        let (sent, end) = streams.lock().next().unwrap_or_default();
        let sent = sent
            .into_iter()
            .map(|frame| WatchStateResponse { frame: Some(frame) });
        Ok(frames(sent, end))
    };
    let fake = Fake {
        watch_state: Some(Box::new(watch_state)),
        ..Fake::default()
    };
    (fake.serve().watch_state(["run"]).start(), tokens)
}

async fn next(watch: &mut StateWatch) -> WatchEvent<crate::client::StateChange> {
    watch
        .next()
        .await
        .expect("a state watch has no end")
        .expect("it can be mended")
}

fn held(watch: &StateWatch) -> Vec<(String, String)> {
    let keys = watch.view().state(STATE).cloned().unwrap_or_default();
    keys.into_iter()
        .map(|(key, entry)| (key, entry.value().unwrap().to_string()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_resumes_with_its_last_token_and_keeps_its_view() {
    let mut first = snapshot(5, vec![put("a", 1, 4)]);
    first.push(delta(5, 6, vec![put("a", 2, 6)]));
    let second = vec![
        StateFrame::Opened(opened(Start::Resumed, 6)),
        delta(6, 9, vec![put("b", 3, 9)]),
        StateFrame::Synced(WatchSynced {
            position: position(9),
        }),
    ];
    let broken = Status::unavailable("gone");
    let (mut watch, tokens) = serve(vec![(first, Some(broken)), (second, None)]);
    assert!(matches!(next(&mut watch).await, WatchEvent::Synced { .. }));
    assert!(matches!(next(&mut watch).await, WatchEvent::Changed { .. }));
    assert!(matches!(
        next(&mut watch).await,
        WatchEvent::Reconnecting { error: Some(_), .. }
    ));
    assert_eq!(held(&watch), [("a".to_owned(), "2".to_owned())]);
    assert!(matches!(next(&mut watch).await, WatchEvent::Changed { .. }));
    assert!(matches!(next(&mut watch).await, WatchEvent::Synced { .. }));
    assert_eq!(held(&watch).len(), 2);
    let short = STATE.rsplit('/').next().unwrap();
    assert_eq!(watch.view().state(short), watch.view().state(STATE));
    assert_eq!(*tokens.lock(), [Bytes::new(), Bytes::from("token 6")]);
    assert_eq!((watch.revision(), watch.broken_chains()), (Some(9), 0));
}

#[tokio::test(start_paused = true)]
async fn frames_that_do_not_chain_start_the_view_over_without_a_token() {
    let mut first = snapshot(5, vec![put("a", 1, 4)]);
    first.push(delta(7, 8, vec![put("a", 2, 8)]));
    let (mut watch, tokens) = serve(vec![
        (first, None),
        (snapshot(8, vec![put("a", 2, 8)]), None),
    ]);
    assert!(matches!(next(&mut watch).await, WatchEvent::Synced { .. }));
    assert!(matches!(
        next(&mut watch).await,
        WatchEvent::Reset { reset: None }
    ));
    assert!(held(&watch).is_empty());
    assert!(matches!(next(&mut watch).await, WatchEvent::Synced { .. }));
    assert_eq!(held(&watch), [("a".to_owned(), "2".to_owned())]);
    assert_eq!(*tokens.lock(), [Bytes::new(), Bytes::new()]);
    assert_eq!(watch.broken_chains(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_breaks_every_chain_is_asked_less_and_less_often() {
    let broken = || {
        let mut frames = snapshot(5, vec![put("a", 1, 4)]);
        frames.push(delta(7, 8, vec![]));
        (frames, None)
    };
    let (mut watch, _) = serve((0..60).map(|_| broken()).collect());
    let since = Instant::now();
    while watch.broken_chains() < 60 {
        next(&mut watch).await;
    }
    assert!(since.elapsed().as_secs() > 10, "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn three_heartbeats_of_silence_end_a_stream() {
    let streams = vec![(snapshot(5, vec![]), None), (snapshot(5, vec![]), None)];
    let (mut watch, tokens) = serve(streams);
    assert!(matches!(next(&mut watch).await, WatchEvent::Synced { .. }));
    let since = Instant::now();
    assert!(matches!(
        next(&mut watch).await,
        WatchEvent::Reconnecting { error: Some(_), .. }
    ));
    assert_eq!(since.elapsed().as_secs(), 45);
    assert!(matches!(next(&mut watch).await, WatchEvent::Synced { .. }));
    assert_eq!(tokens.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_announced_end_resumes_when_the_server_said() {
    let mut first = snapshot(5, vec![]);
    let reconnect_after = Some(prost_types::Duration {
        seconds: 3,
        nanos: 0,
    });
    first.push(StateFrame::Closing(WatchClosing {
        reconnect_after,
        ..WatchClosing::default()
    }));
    let (mut watch, _) = serve(vec![(first, Some(Status::unavailable("draining")))]);
    next(&mut watch).await;
    let WatchEvent::Reconnecting { error: None, wait } = next(&mut watch).await else {
        panic!("an announced end is no error");
    };
    assert_eq!(wait, Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn what_no_reconnect_can_mend_ends_the_watch() {
    let (mut watch, tokens) = serve(vec![(vec![], Some(Status::not_found("no state run")))]);
    let error = watch.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(watch.next().await.is_none());
    assert_eq!(tokens.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_to_next_that_is_dropped_loses_nothing() {
    let (mut watch, tokens) = serve(vec![(snapshot(5, vec![put("a", 1, 4)]), None)]);
    let mut dropped = 0;
    loop {
        // Polled once and dropped, over and over: connecting must still get somewhere.
        let polled = futures_util::poll!(std::pin::pin!(watch.next()));
        match polled {
            std::task::Poll::Ready(event) => {
                assert!(matches!(event, Some(Ok(WatchEvent::Synced { .. }))));
                break;
            }
            std::task::Poll::Pending => dropped += 1,
        }
        tokio::task::yield_now().await;
    }
    assert!(dropped > 0);
    assert_eq!(held(&watch).len(), 1);
    assert_eq!(tokens.lock().len(), 1);
}

fn task(status: task::Status) -> Task {
    Task {
        name: TASK.to_owned(),
        status: status.into(),
        ..Task::default()
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_task_outlives_a_broken_stream() {
    let streams = Mutex::new(0);
    let watch_tasks = move |request: crate::proto::v1::WatchTasksRequest| {
        assert!(request.until_terminal);
        let mut streams = streams.lock();
        *streams += 1;
        let (sent, end) = match *streams {
            1 => {
                let chunk = TaskChunk {
                    tasks: vec![task(task::Status::Running)],
                };
                let sent = vec![
                    TaskFrame::Opened(opened(Start::Snapshot, 3)),
                    TaskFrame::Snapshot(chunk),
                    TaskFrame::Synced(WatchSynced {
                        position: position(3),
                    }),
                ];
                (sent, Status::unavailable("gone"))
            }
            _ => {
                let delta = TaskDelta {
                    base_revision: 3,
                    position: position(4),
                    changed: vec![task(task::Status::Succeeded)],
                    ..TaskDelta::default()
                };
                let sent = vec![
                    TaskFrame::Opened(opened(Start::Resumed, 3)),
                    TaskFrame::Delta(delta),
                ];
                (sent, Status::unavailable("gone"))
            }
        };
        let sent = sent
            .into_iter()
            .map(|frame| WatchTasksResponse { frame: Some(frame) });
        Ok(frames(sent, Some(end)))
    };
    let readings = Mutex::new(0);
    let get_task = move |_| {
        let mut readings = readings.lock();
        *readings += 1;
        // What a watch leaves out.
        let whole = Task {
            output: Some(Payload {
                data: vec![7; 2048].into(),
                ..Payload::default()
            }),
            ..task(task::Status::Succeeded)
        };
        match *readings {
            1 => Ok(task(task::Status::Running)),
            2 => Err(Status::unavailable("starting")),
            _ => Ok(whole),
        }
        .map(|task| GetTaskResponse {
            task: Some(task),
            position: None,
        })
    };
    let fake = Fake {
        watch_tasks: Some(Box::new(watch_tasks)),
        get_task: Some(Box::new(get_task)),
        ..Fake::default()
    };
    let ended = fake.serve().wait("t1").await.unwrap();
    assert_eq!(ended.status(), task::Status::Succeeded);
    assert_eq!(ended.output.unwrap().data.len(), 2048);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_was_removed_as_it_ended_is_given_as_it_was_seen() {
    let watch_tasks = |_| {
        let delta = TaskDelta {
            base_revision: 3,
            position: position(4),
            changed: vec![task(task::Status::Succeeded)],
            ..TaskDelta::default()
        };
        let sent = [
            TaskFrame::Opened(opened(Start::Resumed, 3)),
            TaskFrame::Delta(delta),
        ];
        let sent = sent.map(|frame| WatchTasksResponse { frame: Some(frame) });
        Ok(frames(sent, None))
    };
    let readings = Mutex::new(0);
    let get_task = move |_| {
        let mut readings = readings.lock();
        *readings += 1;
        if *readings > 1 {
            return Err(Status::not_found("its retention is over"));
        }
        Ok(GetTaskResponse {
            task: Some(task(task::Status::Running)),
            position: position(3),
        })
    };
    let fake = Fake {
        watch_tasks: Some(Box::new(watch_tasks)),
        get_task: Some(Box::new(get_task)),
        ..Fake::default()
    };
    let ended = fake.serve().wait("t1").await.unwrap();
    assert_eq!(ended, task(task::Status::Succeeded));
}
