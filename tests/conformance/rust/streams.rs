//! The streams that a client opens again after a break: watches and pushes.

use std::{collections::BTreeMap, time::Duration};

use duite::proto::v1::{
    KeyChange, Position, PushOpen, PushStateRequest, PushStateResponse, StateDelta, Task,
    UpdateBatch, UpdateBatches, WatchOptions, WatchStateRequest, WatchStateResponse,
    WatchTasksRequest, WatchTasksResponse, key_change::Change, push_state_request,
    push_state_response, state_service_client::StateServiceClient,
    task_service_client::TaskServiceClient, watch_opened::Start, watch_state_response,
    watch_tasks_response,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

use super::words::{short, show_value};

pub(super) const STREAM_TIME: Duration = Duration::from_secs(120);

/// A call that is a stream, with its deadline.
pub(super) fn stream<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(STREAM_TIME);
    request
}

/// What is watched.
pub(super) enum Watched {
    /// The names that changes point at, and the request.
    States(Vec<String>, WatchStateRequest),
    Tasks(WatchTasksRequest),
}

enum Frames {
    States(Streaming<WatchStateResponse>),
    Tasks(Streaming<WatchTasksResponse>),
}

/// A name with what it is now; none: it is gone.
type Changes = Vec<(String, Option<String>)>;

/// What the two kinds of watch have in common.
enum Frame {
    Opened(Start),
    Snapshot(Changes),
    Synced(Position),
    Delta(i64, Changes, Option<Position>),
    Bookmark(Position),
    Reset,
    Other,
}

/// A watch: the view that it has told, and the token to go on with.
pub(super) struct Watch {
    watched: Watched,
    frames: Option<Frames>,
    view: BTreeMap<String, String>,
    revision: i64,
    token: bytes::Bytes,
    pub(super) is_chained: bool,
}

impl Watch {
    pub(super) fn new(watched: Watched, token: &str) -> Self {
        Self {
            watched,
            frames: None,
            view: BTreeMap::new(),
            revision: 0,
            token: token.to_owned().into(),
            is_chained: true,
        }
    }

    /// Reads up to `synced`. Gives how it started.
    pub(super) async fn open(&mut self, channel: &Channel) -> Result<&'static str, Status> {
        let options = Some(WatchOptions {
            resume_token: self.token.clone(),
            ..WatchOptions::default()
        });
        self.frames = Some(match &mut self.watched {
            Watched::States(_, request) => {
                request.options = options;
                let mut service = StateServiceClient::new(channel.clone());
                let answer = service.watch_state(stream(request.clone())).await?;
                Frames::States(answer.into_inner())
            }
            Watched::Tasks(request) => {
                request.options = options;
                let mut service = TaskServiceClient::new(channel.clone());
                let answer = service.watch_tasks(stream(request.clone())).await?;
                Frames::Tasks(answer.into_inner())
            }
        });
        self.is_chained = true;
        let mut started = "";
        loop {
            let ended = || Status::aborted("the watch ended");
            let frame = self.next().await?.ok_or_else(ended)?;
            if let Frame::Opened(start) = &frame {
                started = start.as_str_name().trim_start_matches("START_");
            }
            let is_synced = matches!(frame, Frame::Synced(_));
            self.take(frame);
            if is_synced {
                return Ok(started);
            }
        }
    }

    /// The next frame; none at an end with OK.
    async fn next(&mut self) -> Result<Option<Frame>, Status> {
        match self.frames.as_mut().expect("it is open") {
            Frames::Tasks(frames) => {
                let frame = frames.message().await?;
                Ok(frame.map(|frame| task_frame(frame.frame)))
            }
            Frames::States(frames) => {
                let Watched::States(ids, _) = &self.watched else {
                    unreachable!("the frames are of states")
                };
                let frame = frames.message().await?;
                Ok(frame.map(|frame| state_frame(ids, frame.frame)))
            }
        }
    }

    /// Says whether the view is complete after the frame.
    fn take(&mut self, frame: Frame) -> bool {
        match frame {
            Frame::Opened(Start::Snapshot) | Frame::Reset => {
                self.view.clear();
                self.revision = 0;
                false
            }
            Frame::Snapshot(changes) => {
                self.apply(changes);
                false
            }
            Frame::Delta(base, changes, position) => {
                self.is_chained &= base == self.revision;
                self.apply(changes);
                position.is_some_and(|position| self.hold(position))
            }
            Frame::Synced(position) | Frame::Bookmark(position) => self.hold(position),
            Frame::Opened(_) | Frame::Other => false,
        }
    }

    fn apply(&mut self, changes: Changes) {
        for (name, text) in changes {
            match text {
                Some(text) => self.view.insert(name, text),
                None => self.view.remove(&name),
            };
        }
    }

    fn hold(&mut self, position: Position) -> bool {
        self.is_chained &= position.revision >= self.revision;
        self.revision = position.revision;
        self.token = position.resume_token;
        true
    }

    /// Reads on until the view has that, or to the end where `name` is `end`.
    pub(super) async fn until(&mut self, name: &str, wanted: &str) -> Result<(), Status> {
        let mut is_complete = true;
        loop {
            let held = self.view.get(name).map_or("absent", String::as_str);
            if is_complete && held == wanted {
                return Ok(());
            }
            match self.next().await? {
                Some(frame) => is_complete = self.take(frame),
                None if name == "end" => return Ok(()),
                None => return Err(Status::aborted("the watch ended")),
            }
        }
    }

    pub(super) fn show(&self) -> String {
        let words = self
            .view
            .iter()
            .map(|(name, text)| format!(" {name}={text}"));
        words.collect()
    }

    /// Cancels the call; the view and the token stay.
    pub(super) fn cut(&mut self) {
        self.frames = None;
    }
}

fn task_frame(frame: Option<watch_tasks_response::Frame>) -> Frame {
    use watch_tasks_response::Frame as Wire;
    let status = |task: &Task| {
        let status = task.status().as_str_name().trim_start_matches("STATUS_");
        (short(&task.name).to_owned(), Some(status.to_owned()))
    };
    match frame {
        Some(Wire::Opened(opened)) => Frame::Opened(opened.start()),
        Some(Wire::Snapshot(chunk)) => Frame::Snapshot(chunk.tasks.iter().map(status).collect()),
        Some(Wire::Synced(synced)) => Frame::Synced(synced.position.unwrap_or_default()),
        Some(Wire::Bookmark(mark)) => Frame::Bookmark(mark.position.unwrap_or_default()),
        Some(Wire::Reset(_)) => Frame::Reset,
        Some(Wire::Delta(delta)) => {
            let gone = |name: &str| (short(name).to_owned(), None);
            let removed = delta.removed.iter().map(|task| gone(&task.name));
            let changes = delta.changed.iter().map(status).chain(removed).collect();
            Frame::Delta(
                delta.base_revision,
                changes,
                last(delta.more, delta.position),
            )
        }
        _ => Frame::Other,
    }
}

fn state_frame(ids: &[String], frame: Option<watch_state_response::Frame>) -> Frame {
    use watch_state_response::Frame as Wire;
    let change = |change: KeyChange| {
        let name = format!("{}/{}", ids[change.target as usize], change.key);
        let text = match change.change {
            Some(Change::Value(value)) => Some(show_value(&value)),
            Some(Change::Stub(stub)) => Some(format!("stub:{}", stub.content_type)),
            Some(Change::Deleted(_)) | None => None,
        };
        (name, text)
    };
    match frame {
        Some(Wire::Opened(opened)) => Frame::Opened(opened.start()),
        Some(Wire::Snapshot(chunk)) => {
            Frame::Snapshot(chunk.entries.into_iter().map(change).collect())
        }
        Some(Wire::Synced(synced)) => Frame::Synced(synced.position.unwrap_or_default()),
        Some(Wire::Bookmark(mark)) => Frame::Bookmark(mark.position.unwrap_or_default()),
        Some(Wire::Reset(_)) => Frame::Reset,
        Some(Wire::Delta(delta)) => {
            // The crate's generated code has it encoded; code from the files has the message.
            let delta = StateDelta::decode(delta).expect("a delta");
            let changes = delta.changes.into_iter().map(change).collect();
            Frame::Delta(
                delta.base_revision,
                changes,
                last(delta.more, delta.position),
            )
        }
        _ => Frame::Other,
    }
}

/// The position of a delta's last part.
fn last(more: bool, position: Option<Position>) -> Option<Position> {
    position.filter(|_| !more)
}

/// A writer of a state: what it has sent and not heard to be durable, to be sent again.
pub(super) struct Pen {
    pub(super) opening: PushOpen,
    sender: Option<mpsc::UnboundedSender<PushStateRequest>>,
    frames: Option<Streaming<PushStateResponse>>,
    unacked: BTreeMap<i64, UpdateBatch>,
    window: usize,
    pub(super) acked: i64,
    pub(super) sent: i64,
    rejected: String,
}

impl Pen {
    pub(super) fn new(opening: PushOpen) -> Self {
        Self {
            opening,
            sender: None,
            frames: None,
            unacked: BTreeMap::new(),
            window: 0,
            acked: 0,
            sent: 0,
            rejected: String::new(),
        }
    }

    /// Gives the last sequence that is durable, and drops what that makes known.
    pub(super) async fn open(&mut self, channel: &Channel) -> Result<i64, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        // Before the call: the server answers once it has seen this.
        let open = push_state_request::Frame::Open(self.opening.clone());
        let _ = sender.send(PushStateRequest { frame: Some(open) });
        let mut service = StateServiceClient::new(channel.clone());
        let requests = stream(UnboundedReceiverStream::new(receiver));
        let mut frames = service.push_state(requests).await?.into_inner();
        let frame = frames.message().await?.and_then(|frame| frame.frame);
        let Some(push_state_response::Frame::Opened(opened)) = frame else {
            return Err(Status::aborted("the push was not opened"));
        };
        (self.sender, self.frames) = (Some(sender), Some(frames));
        self.resize(opened.window.unwrap_or_default().max_unacked_batches);
        self.drop_to(opened.last_sequence);
        Ok(opened.last_sequence)
    }

    fn resize(&mut self, batches: i32) {
        self.window = usize::try_from(batches).expect("a window is a count");
    }

    fn drop_to(&mut self, acked: i64) {
        self.acked = self.acked.max(acked);
        self.unacked.retain(|sequence, _| *sequence > acked);
    }

    pub(super) async fn send(&mut self, batch: UpdateBatch) -> Result<(), Status> {
        while self.unacked.len() >= self.window {
            self.read().await?;
        }
        self.sent = self.sent.max(batch.sequence);
        if batch.sequence > self.acked {
            self.unacked.insert(batch.sequence, batch.clone());
        }
        self.write(batch);
        Ok(())
    }

    fn write(&self, batch: UpdateBatch) {
        let batches = UpdateBatches {
            batches: vec![batch],
        };
        let frame = Some(batches.into());
        if let Some(sender) = &self.sender {
            let _ = sender.send(PushStateRequest { frame });
        }
    }

    pub(super) fn send_again(&self) {
        for batch in self.unacked.values() {
            self.write(batch.clone());
        }
    }

    /// Takes a frame. Gives the number expected where it is a rewind, and false at the end.
    pub(super) async fn read(&mut self) -> Result<(Option<i64>, bool), Status> {
        let frames = self.frames.as_mut().expect("it is open");
        let Some(frame) = frames.message().await? else {
            return Ok((None, false));
        };
        match frame.frame {
            Some(push_state_response::Frame::Ack(ack)) => {
                self.drop_to(ack.acked_sequence);
                self.resize(ack.window.unwrap_or_default().max_unacked_batches);
                let told = ack.rejected.iter();
                let words =
                    told.map(|r| format!(" rejected={}:{}:{}", r.sequence, r.key, r.reason));
                self.rejected.extend(words);
                Ok((None, true))
            }
            Some(push_state_response::Frame::Rewind(rewind)) => {
                let expected = rewind.expected_sequence;
                self.unacked.retain(|sequence, _| *sequence < expected);
                self.sent = expected - 1;
                Ok((Some(expected), true))
            }
            _ => Ok((None, true)),
        }
    }

    /// Closes its own side.
    pub(super) fn close(&mut self) {
        self.sender = None;
    }

    /// Cancels the call; what is not acknowledged stays.
    pub(super) fn cut(&mut self) {
        (self.frames, self.sender) = (None, None);
    }

    pub(super) fn show_rejected(&mut self) -> String {
        std::mem::take(&mut self.rejected)
    }
}
