//! Watchers that keep every frame, and resume after a crash from the last token.

use bytes::Bytes;
use duite::proto::v1::{
    self as pb, key_change, watch_opened, watch_state_response::Frame as StateFrame,
    watch_tasks_response::Frame as TaskFrame,
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use prost::Message;
use tokio::sync::watch;
use tonic::{Status, transport::Channel};

use super::world::{Connection, World};
use crate::{
    history::{Change, Frame, Start, Stream, complete_at},
    wire::{self, PARENT, States, Tasks, as_integer},
};

/// A frame, and the token that it brought.
pub(crate) type Recorded<V> = Result<(Frame<V>, Option<Bytes>), Status>;
pub(crate) type Opening<V> = BoxFuture<'static, Result<BoxStream<'static, Recorded<V>>, Status>>;

/// Watches until it holds the revision that `until` comes to name.
pub(super) async fn watch<V: Send + 'static>(
    world: World,
    mut until: watch::Receiver<Option<i64>>,
    open: impl Fn(Channel, Bytes) -> Opening<V>,
) -> Vec<Stream<V>> {
    let mut connection = Connection::default();
    let mut streams = Vec::new();
    let mut held: Option<(i64, Bytes)> = None;
    loop {
        world.connect(&mut connection).await;
        let token = held.as_ref().map_or_else(Bytes::new, |held| held.1.clone());
        let mut stream = Stream {
            resumed_from: held.as_ref().map(|held| held.0),
            frames: Vec::new(),
        };
        let failed = match open(connection.channel(), token).await {
            Err(status) => status,
            Ok(mut frames) => loop {
                let last = *until.borrow_and_update();
                if last.is_some() && held.as_ref().map(|held| held.0) >= last {
                    streams.push(stream);
                    return streams;
                }
                let frame = tokio::select! {
                    frame = frames.next() => frame.expect("a watch does not end with OK"),
                    _ = until.changed() => continue,
                };
                match frame {
                    Ok((frame, token)) => {
                        if let Some(at) = complete_at(&frame) {
                            held = Some((at, token.expect("a complete view has a token")));
                        }
                        stream.frames.push(frame);
                    }
                    Err(status) => break status,
                }
            },
        };
        world.excuse(&connection, "a watch", &failed);
        streams.push(stream);
    }
}

/// Stands for a large value that was replaced before it could be sent.
pub(super) const REPLACED: i64 = i64::MIN;

/// Opens a watch of states whose values are all integers, or large ones that tell one; a key is
/// `STATE/KEY`.
pub(crate) fn states(names: &'static [&'static str]) -> impl Fn(Channel, Bytes) -> Opening<i64> {
    move |channel, token| {
        let request = pb::WatchStateRequest {
            names: names.iter().map(|name| wire::state_name(name)).collect(),
            options: options(token),
            inline_limit_bytes: 1 << 20,
            ..pb::WatchStateRequest::default()
        };
        async move {
            let stream = States::new(channel)
                .watch_state(request)
                .await?
                .into_inner();
            let frames = stream.map(|frame| {
                let frame = frame?.frame.expect("a frame that this version knows");
                Ok(state_frame(names, frame))
            });
            Ok(frames.boxed())
        }
        .boxed()
    }
}

fn state_frame(names: &[&str], frame: StateFrame) -> (Frame<i64>, Option<Bytes>) {
    let changes = |changes: Vec<pb::KeyChange>| {
        let changes = changes.into_iter().map(|change| Change {
            key: format!("{}/{}", names[change.target as usize], change.key),
            value: match change.change.expect("a change is one of three") {
                key_change::Change::Value(value) => Some(as_integer(&value)),
                key_change::Change::Deleted(_) => None,
                key_change::Change::Stub(stub) => {
                    assert!(stub.size_bytes > 64 << 10 && stub.sha256.len() == 32);
                    Some(REPLACED)
                }
            },
            revision: change.mod_revision,
        });
        changes.collect()
    };
    match frame {
        StateFrame::Opened(frame) => opened(frame),
        StateFrame::Snapshot(chunk) => (Frame::Snapshot(changes(chunk.entries)), None),
        StateFrame::Synced(frame) => positioned(Frame::Synced, frame.position),
        StateFrame::Delta(frame) => {
            let frame = pb::StateDelta::decode(frame).unwrap();
            let base = frame.base_revision;
            let changes = changes(frame.changes);
            delta(base, frame.position, frame.more, changes)
        }
        StateFrame::Bookmark(frame) => positioned(Frame::Bookmark, frame.position),
        StateFrame::Reset(_) => (Frame::Reset, None),
        StateFrame::Closing(_) => (Frame::Closing, None),
    }
}

/// Opens a watch of all tasks, by name and status.
pub(crate) fn tasks(channel: Channel, token: Bytes) -> Opening<pb::task::Status> {
    let request = pb::WatchTasksRequest {
        parent: PARENT.to_owned(),
        options: options(token),
        ..pb::WatchTasksRequest::default()
    };
    async move {
        let stream = Tasks::new(channel).watch_tasks(request).await?.into_inner();
        let frames = stream.map(|frame| {
            let frame = frame?.frame.expect("a frame that this version knows");
            Ok(task_frame(frame))
        });
        Ok(frames.boxed())
    }
    .boxed()
}

fn task_frame(frame: TaskFrame) -> (Frame<pb::task::Status>, Option<Bytes>) {
    let changes = |tasks: Vec<pb::Task>, removed: Vec<pb::RemovedTask>| {
        let changed = tasks.into_iter().map(|task| Change {
            value: Some(task.status()),
            revision: task.revision,
            key: task.name,
        });
        let removed = removed.into_iter().map(|removed| Change {
            key: removed.name,
            value: None,
            revision: 0,
        });
        changed.chain(removed).collect()
    };
    match frame {
        TaskFrame::Opened(frame) => opened(frame),
        TaskFrame::Snapshot(chunk) => (Frame::Snapshot(changes(chunk.tasks, Vec::new())), None),
        TaskFrame::Synced(frame) => positioned(Frame::Synced, frame.position),
        TaskFrame::Delta(frame) => {
            let changes = changes(frame.changed, frame.removed);
            delta(frame.base_revision, frame.position, frame.more, changes)
        }
        TaskFrame::Bookmark(frame) => positioned(Frame::Bookmark, frame.position),
        TaskFrame::Reset(_) => (Frame::Reset, None),
        TaskFrame::Closing(_) => (Frame::Closing, None),
    }
}

fn options(resume_token: Bytes) -> Option<pb::WatchOptions> {
    Some(pb::WatchOptions {
        resume_token,
        ..pb::WatchOptions::default()
    })
}

fn opened<V>(frame: pb::WatchOpened) -> (Frame<V>, Option<Bytes>) {
    let start = match frame.start() {
        watch_opened::Start::Snapshot => Start::Snapshot,
        watch_opened::Start::Resumed => Start::Resumed,
        other => panic!("nobody asked for {other:?}"),
    };
    let at = frame.position.map_or(0, |position| position.revision);
    let epoch = frame.store_epoch;
    (Frame::Opened { start, epoch, at }, None)
}

fn positioned<V>(
    frame: impl Fn(i64) -> Frame<V>,
    position: Option<pb::Position>,
) -> (Frame<V>, Option<Bytes>) {
    let position = position.expect("a complete view has a position");
    (frame(position.revision), Some(position.resume_token))
}

fn delta<V>(
    base: i64,
    position: Option<pb::Position>,
    more: bool,
    changes: Vec<Change<V>>,
) -> (Frame<V>, Option<Bytes>) {
    assert_eq!(position.is_none(), more, "the last part has the position");
    let at = position.as_ref().map(|position| position.revision);
    let token = position.map(|position| position.resume_token);
    (Frame::Delta { base, at, changes }, token)
}
