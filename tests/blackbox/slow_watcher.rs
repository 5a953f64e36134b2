//! A watcher that stops reading while a writer goes on: it costs the server no memory, slows nobody
//! and misses no last value.
//!
//! *How memory is measured.* Much of what a server holds after 100,000 updates has nothing to do
//! with a slow watcher: the store's memtables fill (by two or three megabytes with each round) and
//! empty, the allocator keeps what it once had, the state itself has a thousand keys. So the same
//! load runs first, a few times, with a watcher that reads. Resident memory is read at every
//! acknowledgement; its highest in the round with the watcher that does not read is compared with
//! its highest in the rounds before. What the watcher's own buffers in the server hold counts in
//! full, and so does what the memtables grow by in that round.

use std::time::{Duration, Instant};

use duite::proto::v1::{
    self as pb, push_state_response::Frame as PushFrame, watch_state_response::Frame,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    history::View,
    setting,
    support::Server,
    wire::{self, States, as_integer, batch, put},
};

const STATE: &str = "busy";
const UPDATES: i64 = 100_000;
const KEYS: i64 = 1_000;
/// Batches in one frame, and how many may be unacknowledged.
const FRAME: i64 = 100;
const WINDOW: i64 = 2_000;
const MOST_GROWTH: u64 = 10 << 20;
/// Rounds of warming up; `DUITE_SLOW_WARM_UPS` sets another number.
const WARM_UPS: u64 = 3;
/// What the watcher takes in unread, of this stream and of its connection: HTTP/2's own default.
const UNREAD_BYTES: u32 = 65_535;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_stops_reading_costs_no_memory_and_misses_no_last_value() {
    let server = Server::start();
    let mut writer = Writer::open(&server).await;

    let reading = tokio::spawn(read_for_ever(watch(&server).await));
    let mut rounds = Vec::new();
    for _ in 0..setting("DUITE_SLOW_WARM_UPS", WARM_UPS).max(1) {
        rounds.push(writer.push_updates(&server).await);
    }
    let level = rounds.iter().copied().max().unwrap_or(0);
    reading.abort();

    // Polled up to here and no further: nothing reads it while the writer goes on.
    let mut slow = watch(&server).await;
    let mut view = View::new();
    while !apply(&mut view, next(&mut slow).await).is_complete {}
    let commits_before = commits(&server).await;
    let stopped = Instant::now();
    let highest = writer.push_updates(&server).await;
    // What matters is that it does not read while the updates are made; `DUITE_SLOW_SECONDS` makes
    // the pause as long as one may want to see it.
    let pause = Duration::from_secs(setting("DUITE_SLOW_SECONDS", 0));
    tokio::time::sleep_until((stopped + pause).into()).await;
    let highest = highest.max(server.resident_bytes());
    let paused = stopped.elapsed();

    let truth = wire::get_state(&writer.channel, STATE).await;
    let truth = truth.state.expect("an answer has its state");
    let (mut frames, mut folded, mut most_folded) = (0, 0, 0);
    let mut reached = 0;
    while reached < truth.revision {
        let applied = apply(&mut view, next(&mut slow).await);
        frames += 1;
        folded += applied.folded;
        most_folded = most_folded.max(applied.folded);
        reached = reached.max(applied.revision);
    }
    let commits = commits(&server).await - commits_before;
    let megabytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    eprintln!(
        "{UPDATES} updates in {commits} commits while a watcher did not read for {:.1} s: it caught up with {frames} frames, one of them for {most_folded} commits; server {:.1} MB at most, {:.1} MB before (warming up: {:.1?})",
        paused.as_secs_f64(),
        megabytes(highest),
        megabytes(level),
        rounds
            .iter()
            .map(|bytes| megabytes(*bytes))
            .collect::<Vec<_>>(),
    );

    let stands: View<i64> = truth
        .entries
        .iter()
        .map(|entry| {
            (
                entry.key.clone(),
                (as_integer(&entry.value), entry.mod_revision),
            )
        })
        .collect();
    assert_eq!(stands.len() as i64, KEYS);
    assert_eq!(view, stands, "the watcher ends with what the server says");
    assert_eq!(i64::from(folded), commits, "each commit is in one delta");
    assert!(most_folded > 1, "nothing was folded: {most_folded}");
    let grown = highest.saturating_sub(level);
    assert!(
        grown <= MOST_GROWTH,
        "the server grew by {:.1} MB while a watcher did not read",
        megabytes(grown)
    );
}

/// Pushes without folding, so that the server sees every update.
struct Writer {
    channel: Channel,
    frames: mpsc::Sender<pb::PushStateRequest>,
    acks: Streaming<pb::PushStateResponse>,
    sent: i64,
}

impl Writer {
    async fn open(server: &Server) -> Self {
        let channel = wire::connect(&server.addr()).await.unwrap();
        let (frames, outgoing) = mpsc::channel(2);
        let id = uuid::Uuid::new_v4().to_string();
        frames.send(wire::open_frame(STATE, &id)).await.unwrap();
        let mut states = States::new(channel.clone());
        let acks = states.push_state(ReceiverStream::new(outgoing)).await;
        let mut acks = acks.unwrap().into_inner();
        let first = acks.message().await.unwrap().unwrap().frame;
        assert!(matches!(first, Some(PushFrame::Opened(_))), "{first:?}");
        let mut writer = Self {
            channel,
            frames,
            acks,
            sent: 0,
        };
        // The state stands before anybody watches it.
        writer.push(KEYS, server).await;
        writer
    }

    async fn push_updates(&mut self, server: &Server) -> u64 {
        self.push(UPDATES, server).await
    }

    /// Makes so many updates; the highest memory of the server meanwhile.
    async fn push(&mut self, updates: i64, server: &Server) -> u64 {
        let last = self.sent + updates;
        let mut acknowledged = self.sent;
        let mut highest = server.resident_bytes();
        while acknowledged < last {
            let until = last.min(acknowledged + WINDOW).min(self.sent + FRAME);
            tokio::select! {
                room = self.frames.reserve(), if self.sent < until => {
                    let batches = (self.sent + 1..=until)
                        .map(|number| batch(number, vec![put(format!("key-{:04}", number % KEYS), number)]));
                    room.unwrap().send(wire::batches_frame(batches.collect()));
                    self.sent = until;
                }
                frame = self.acks.message() => match frame.unwrap().unwrap().frame {
                    Some(PushFrame::Ack(ack)) => {
                        assert_eq!(ack.rejected, []);
                        acknowledged = ack.acked_sequence;
                        highest = highest.max(server.resident_bytes());
                    }
                    other => panic!("nothing but acknowledgements was to come: {other:?}"),
                },
            }
        }
        highest
    }
}

/// A watch on a connection of its own, so that it stops nobody else by not reading.
async fn watch(server: &Server) -> Streaming<pb::WatchStateResponse> {
    // hyper's own default is megabytes, and what fits there is sent although nobody reads.
    let endpoint = Endpoint::from_shared(server.addr()).unwrap();
    let endpoint = endpoint
        .initial_stream_window_size(UNREAD_BYTES)
        .initial_connection_window_size(UNREAD_BYTES);
    let channel = endpoint.connect().await.unwrap();
    let request = pb::WatchStateRequest {
        names: vec![wire::state_name(STATE)],
        ..pb::WatchStateRequest::default()
    };
    let stream = States::new(channel).watch_state(request).await;
    stream.unwrap().into_inner()
}

async fn read_for_ever(mut stream: Streaming<pb::WatchStateResponse>) {
    let mut view = View::new();
    loop {
        apply(&mut view, next(&mut stream).await);
    }
}

async fn next(stream: &mut Streaming<pb::WatchStateResponse>) -> Frame {
    let frame = tokio::time::timeout(Duration::from_secs(60), stream.message()).await;
    let frame = frame.expect("a frame comes in time").expect("no error");
    frame.and_then(|frame| frame.frame).expect("a frame")
}

#[derive(Default)]
struct Applied {
    is_complete: bool,
    revision: i64,
    folded: i32,
}

fn apply(view: &mut View<i64>, frame: Frame) -> Applied {
    let mut delta = pb::StateDelta::default();
    if let Frame::Delta(encoded) = &frame {
        delta = pb::StateDelta::decode(encoded.clone()).unwrap();
    }
    let position = match &frame {
        Frame::Synced(frame) => frame.position.as_ref(),
        Frame::Bookmark(frame) => frame.position.as_ref(),
        Frame::Delta(_) => delta.position.as_ref(),
        Frame::Opened(_) | Frame::Snapshot(_) => None,
        other => panic!("nothing gave a reason for {other:?}"),
    };
    let revision = position.map(|position| position.revision);
    let (changes, folded) = match frame {
        Frame::Snapshot(chunk) => (chunk.entries, 0),
        Frame::Delta(_) => (delta.changes, delta.folded_commits),
        _ => (Vec::new(), 0),
    };
    for change in changes {
        let Some(pb::key_change::Change::Value(value)) = change.change else {
            panic!("only small values are put: {change:?}");
        };
        view.insert(change.key, (as_integer(&value), change.mod_revision));
    }
    Applied {
        is_complete: revision.is_some(),
        revision: revision.unwrap_or(0),
        folded,
    }
}

/// Commits of the state since the server's start.
async fn commits(server: &Server) -> i64 {
    let channel = wire::connect(&server.addr()).await.unwrap();
    let request = pb::GetMonitorRequest {
        name: wire::state_name(STATE),
    };
    let monitor = States::new(channel).get_monitor(request).await;
    monitor.unwrap().into_inner().journal_entries
}
