//! The queue over a connection in memory, to a server that breaks it in many ways.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt, stream};
use prost::Message;
use tonic::{Code, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::{
    client::fake::{Fake, Frames},
    proto::v1::{
        KeyUpdate, PushAck, PushDirective, PushOpened, PushStateRequest, PushStateResponse,
        PushWindow, RejectedKey, UpdateBatch, UpdateBatches, key_update::Operation,
        push_directive::Kind, push_state_request, push_state_response::Frame, value,
    },
};

/// What the server has durably taken, by writer.
#[derive(Default)]
struct Store {
    writers: BTreeMap<String, Vec<UpdateBatch>>,
    streams: u64,
}

impl Store {
    fn integer(&self, key: &str) -> i64 {
        let mut sum = 0;
        let updates = self
            .writers
            .values()
            .flatten()
            .flat_map(|batch| &batch.updates);
        for KeyUpdate {
            key: name,
            operation,
        } in updates
        {
            if name == key {
                let (Some(Operation::Put(bytes)) | Some(Operation::Add(bytes))) = operation else {
                    panic!("only integers are expected");
                };
                let Some(value::Kind::Integer(integer)) = decode_value(bytes).unwrap().kind else {
                    panic!("only integers are expected");
                };
                sum = match operation {
                    Some(Operation::Add(_)) => sum + integer,
                    _ => integer,
                };
            }
        }
        sum
    }
}

/// What the server does after it has taken a frame of batches.
#[derive(Clone, Copy)]
enum Then {
    Ack,
    /// Takes that many frames on each stream, acknowledges none of the last and breaks it.
    BreakAfter(u64),
    Silence,
    LoseLease,
    Reject,
}

fn opened(last_sequence: i64) -> Frame {
    let window = PushWindow {
        max_unacked_batches: 8,
        max_unacked_bytes: 1 << 20,
    };
    Frame::Opened(PushOpened {
        last_sequence,
        window: Some(window),
        ..PushOpened::default()
    })
}

fn ack(acked_sequence: i64) -> Frame {
    Frame::Ack(PushAck {
        acked_sequence,
        ..PushAck::default()
    })
}

struct Session {
    requests: Streaming<PushStateRequest>,
    store: Arc<Mutex<Store>>,
    then: Then,
    writer: String,
    frames: u64,
    broken: bool,
}

impl Session {
    async fn next(&mut self) -> Option<Result<PushStateResponse, Status>> {
        use push_state_request::Frame as Sent;
        if self.broken {
            return None;
        }
        loop {
            let frame = self.requests.message().await.ok()??.frame.unwrap();
            let answer = match frame {
                Sent::Open(open) => {
                    self.writer = open.writer_id;
                    let mut store = self.store.lock();
                    store.streams += 1;
                    let taken = store.writers.entry(self.writer.clone()).or_default();
                    opened(taken.len() as i64)
                }
                Sent::Batches(batches) => {
                    self.frames += 1;
                    let mut store = self.store.lock();
                    let taken = store.writers.get_mut(&self.writer).unwrap();
                    for batch in UpdateBatches::decode(batches).unwrap().batches {
                        if batch.sequence as usize == taken.len() + 1 {
                            taken.push(batch);
                        } else {
                            assert_eq!(batch, taken[batch.sequence as usize - 1]);
                        }
                    }
                    let last = taken.len() as i64;
                    match self.then {
                        Then::Ack => ack(last),
                        Then::BreakAfter(frames) if self.frames < frames => ack(last),
                        Then::BreakAfter(_) => {
                            self.broken = true;
                            return Some(Err(Status::unavailable("going")));
                        }
                        Then::Silence => continue,
                        Then::LoseLease => {
                            let kind = Kind::LeaseLost.into();
                            Frame::Directive(PushDirective {
                                kind,
                                message: "fenced".to_owned(),
                            })
                        }
                        Then::Reject => Frame::Ack(PushAck {
                            acked_sequence: last,
                            rejected: vec![RejectedKey {
                                sequence: last,
                                key: "bad".to_owned(),
                                reason: "TYPE_MISMATCH".to_owned(),
                            }],
                            ..PushAck::default()
                        }),
                    }
                }
                Sent::Keepalive(_) => continue,
            };
            return Some(Ok(PushStateResponse {
                frame: Some(answer),
            }));
        }
    }
}

fn serve(then: Then) -> (Client, Arc<Mutex<Store>>) {
    let store = Arc::new(Mutex::new(Store::default()));
    let shared = Arc::clone(&store);
    let push_state = move |requests| -> Result<Frames<PushStateResponse>, Status> {
        let store = Arc::clone(&shared);
        let session = Session {
            requests,
            store,
            then,
            writer: String::new(),
            frames: 0,
            broken: false,
        };
        let frames = stream::unfold(session, |mut session| async {
            let frame = session.next().await?;
            Some((frame, session))
        });
        Ok(frames.boxed())
    };
    let fake = Fake {
        push_state: Some(Box::new(push_state)),
        ..Fake::default()
    };
    (fake.serve(), store)
}

#[tokio::test]
async fn what_is_set_is_durable_after_exit() {
    let (client, store) = serve(Then::Ack);
    let queue = StateQueue::open(&client, "run");
    queue.set("phase", 1);
    queue.update([("a", 2), ("b", 3)]);
    queue.delete("c");
    let stats = queue.exit().await.unwrap();
    assert_eq!((stats.flushes, stats.unacked), (3, 0));
    let store = store.lock();
    assert_eq!(store.integer("phase"), 1);
    assert_eq!(store.integer("b"), 3);
    let batches = store.writers.values().next().unwrap();
    assert!(batches.last().unwrap().r#final);
}

#[tokio::test(start_paused = true)]
async fn broken_streams_lose_nothing_and_repeat_nothing() {
    let (client, store) = serve(Then::BreakAfter(3));
    let queue = StateQueue::open(&client, "run");
    for step in 1..=500 {
        queue.set("step", step);
        queue.add("sum", step);
        if step % 10 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let stats = queue.exit_within(Duration::from_secs(600)).await.unwrap();
    assert!(stats.reconnects > 0, "{stats:?}");
    let store = store.lock();
    assert_eq!(
        (store.integer("step"), store.integer("sum")),
        (500, 500 * 501 / 2)
    );
    assert_eq!(store.streams, stats.reconnects + 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_neither_blocks_the_writer_nor_fills_its_memory() {
    let (client, _store) = serve(Then::Silence);
    let queue = StateQueue::open(&client, "run");
    for step in 0..10_000 {
        queue.set("step", step);
        if step % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let stats = queue.stats();
    assert!(stats.held_bytes < 4096, "{stats:?}");
    assert!(stats.folded > 9000, "{stats:?}");
    let error = queue.exit_within(Duration::from_secs(1)).await.unwrap_err();
    assert!(error.batches > 0 && !error.lease_lost, "{error}");
}

#[tokio::test]
async fn a_lost_lease_ends_the_queue_and_is_told() {
    let (client, _store) = serve(Then::LoseLease);
    let queue = StateQueue::builder(&client, "run")
        .lease_token(vec![7])
        .open();
    queue.set("step", 1);
    queue.lease_lost().cancelled().await;
    let error = queue.exit().await.unwrap_err();
    assert!(error.lease_lost, "{error}");
    queue.set("step", 2);
    assert_eq!(queue.stats().refused, 1);
}

#[tokio::test]
async fn rejected_keys_reach_the_program() {
    let (client, _store) = serve(Then::Reject);
    let told = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&told);
    let queue = StateQueue::builder(&client, "run")
        .on_rejected(move |rejection| {
            assert!(!rejection.reason.is_empty());
            counter.fetch_add(1, Ordering::Relaxed);
        })
        .open();
    queue.set("bad", "text");
    queue.settle_within(Duration::from_secs(10)).await.unwrap();
    queue.set("k".repeat(257), 1);
    queue.set("large", "x".repeat(2 << 20));
    let reasons: Vec<_> = queue
        .rejections()
        .into_iter()
        .map(|told| told.reason)
        .collect();
    assert_eq!(reasons, ["TYPE_MISMATCH", "KEY_INVALID", "VALUE_TOO_LARGE"]);
    assert_eq!(told.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn what_is_no_value_is_refused_at_once() {
    let (client, _store) = serve(Then::Ack);
    let queue = StateQueue::open(&client, "run");
    queue.set("x", f64::NAN);
    queue.max("x", f64::NAN);
    queue.set("list", vec![1.0, f64::NAN]);
    let reasons = queue.rejections().into_iter().map(|told| told.reason);
    assert_eq!(reasons.collect::<Vec<_>>(), ["VALUE_INVALID"; 3]);
    assert_eq!((queue.get("x"), queue.stats().flushes), (None, 0));
}

#[tokio::test]
async fn deleted_keys_are_not_remembered() {
    let (client, _store) = serve(Then::Ack);
    let queue = StateQueue::open(&client, "run");
    for index in 0..100 {
        queue.set(format!("k{index}"), index);
        queue.delete(format!("k{index}"));
    }
    assert!(queue.shared.state.lock().own.is_empty());
}

#[tokio::test]
async fn a_callback_that_panics_ends_the_queue_and_is_told() {
    let (client, _store) = serve(Then::Reject);
    let queue = StateQueue::builder(&client, "run")
        .on_rejected(|rejection| panic!("{} was rejected", rejection.key))
        .open();
    queue.set("bad", "text");
    let ended = async {
        while !queue.shared.state.lock().ended {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), ended).await.unwrap();
    assert_eq!(queue.rejections().len(), 1);
    queue.set("more", 1);
    assert_eq!(queue.stats().refused, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_given_up_ends_on_the_server_too() {
    let ended = Arc::new(Notify::new());
    let told = Arc::clone(&ended);
    let push_state = move |mut requests: Streaming<PushStateRequest>| {
        let told = Arc::clone(&told);
        tokio::spawn(async move {
            while let Ok(Some(_)) = requests.message().await {}
            told.notify_one();
        });
        // It is opened, nothing is ever acknowledged, and no keepalive wakes our side of it.
        let Frame::Opened(mut first) = opened(0) else {
            panic!("it is what it was made as");
        };
        first.keepalive_interval = Some(prost_types::Duration {
            seconds: 3600,
            nanos: 0,
        });
        let frame = Some(Frame::Opened(first));
        let frames = stream::iter([Ok(PushStateResponse { frame })]);
        Ok(frames.chain(stream::pending()).boxed() as Frames<PushStateResponse>)
    };
    let fake = Fake {
        push_state: Some(Box::new(push_state)),
        ..Fake::default()
    };
    let queue = StateQueue::open(&fake.serve(), "run");
    queue.set("step", 1);
    timeout(Duration::from_secs(120), ended.notified())
        .await
        .expect("the first stream is given up after 30 s");
}

#[tokio::test]
async fn a_writer_that_the_server_forgot_starts_anew() {
    let store = Arc::new(Mutex::new(Vec::<String>::new()));
    let writers = Arc::clone(&store);
    let push_state = move |mut requests: Streaming<PushStateRequest>| {
        let writers = Arc::clone(&writers);
        let frames = stream::once(async move {
            let first = requests.message().await?.unwrap();
            let Some(push_state_request::Frame::Open(open)) = first.frame else {
                panic!("the first frame opens the stream");
            };
            let known = {
                let mut writers = writers.lock();
                writers.push(open.writer_id.clone());
                writers.len() > 1
            };
            if !known {
                let details = ErrorDetails::with_error_info("WRITER_EXPIRED", "duite", []);
                let message = "this writer is not known any more";
                return Err(Status::with_error_details(Code::Aborted, message, details));
            }
            Ok(stream::unfold(
                (requests, false),
                |(mut requests, is_open)| async move {
                    if !is_open {
                        let frame = PushStateResponse {
                            frame: Some(opened(0)),
                        };
                        return Some((Ok(frame), (requests, true)));
                    }
                    let request = requests.message().await.ok()??;
                    let Some(push_state_request::Frame::Batches(batches)) = request.frame else {
                        return None;
                    };
                    let batches = UpdateBatches::decode(batches).unwrap();
                    let last = batches.batches.last().unwrap().sequence;
                    let frame = PushStateResponse {
                        frame: Some(ack(last)),
                    };
                    Some((Ok(frame), (requests, true)))
                },
            ))
        });
        let frames = frames.flat_map(|session| match session {
            Ok(frames) => frames.boxed(),
            Err(status) => stream::iter([Err(status)]).boxed(),
        });
        Ok(frames.boxed() as Frames<PushStateResponse>)
    };
    let fake = Fake {
        push_state: Some(Box::new(push_state)),
        ..Fake::default()
    };
    let queue = StateQueue::open(&fake.serve(), "run");
    queue.set("step", 1);
    let stats = queue.exit().await.unwrap();
    assert_eq!(stats.writer_restarts, 1);
    let writers = store.lock();
    assert_ne!(writers[0], writers[1]);
}

#[tokio::test]
async fn a_queue_reads_its_own_writes_before_they_are_sent() {
    let (client, _store) = serve(Then::Ack);
    let queue = StateQueue::builder(&client, "run").auto_flush(false).open();
    assert_eq!(queue.get("n"), None);
    queue.set("n", 40);
    queue.add("n", 2);
    assert_eq!(queue.get("n"), Some(42.into()));
    assert_eq!(queue.stats().flushes, 0);
    queue.delete("n");
    assert_eq!(queue.get("n"), None);
    queue.set("n", 5);
    queue.flush();
    queue.flush();
    assert_eq!(queue.stats().flushes, 1);
    let mark = queue.marks().remove(0);
    assert_eq!(
        (mark.state_name.as_str(), mark.sequence),
        ("namespaces/default/states/run", 1)
    );
    queue.exit().await.unwrap();
}

#[tokio::test]
async fn a_queue_that_nobody_wrote_to_opens_no_stream() {
    let (client, store) = serve(Then::Ack);
    let queue = StateQueue::open(&client, "run");
    assert_eq!(queue.marks(), []);
    queue.exit().await.unwrap();
    assert_eq!(store.lock().streams, 0);
}

#[tokio::test]
async fn a_dropped_queue_sends_what_was_set() {
    let (client, store) = serve(Then::Ack);
    let queue = StateQueue::builder(&client, "run").auto_flush(false).open();
    queue.set("step", 7);
    let shared = Arc::clone(&queue.shared);
    drop(queue);
    shared.until_settled().await;
    assert_eq!(store.lock().integer("step"), 7);
}

/// What a server took that lets large values wait until it is told otherwise.
struct Held {
    client: Client,
    /// The keys of each batch, and whether it is its writer's last.
    taken: tokio::sync::mpsc::Receiver<(Vec<String>, bool)>,
    release: Arc<tokio::sync::Semaphore>,
}

fn hold_large() -> Held {
    let release = Arc::new(tokio::sync::Semaphore::new(0));
    let (tell, taken) = tokio::sync::mpsc::channel(256);
    let held = Arc::clone(&release);
    let push_state = move |mut requests: Streaming<PushStateRequest>| {
        let (answer, answers) = tokio::sync::mpsc::channel(16);
        let (tell, release) = (tell.clone(), Arc::clone(&held));
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let frame = match request.frame.unwrap() {
                    push_state_request::Frame::Open(_) => opened(0),
                    push_state_request::Frame::Keepalive(_) => continue,
                    push_state_request::Frame::Batches(batches) => {
                        if batches.len() > 64 << 10 {
                            release.acquire().await.unwrap().forget();
                        }
                        let batches = UpdateBatches::decode(batches).unwrap().batches;
                        let last = batches.last().unwrap().sequence;
                        for batch in batches {
                            let keys = batch.updates.into_iter().map(|update| update.key);
                            tell.send((keys.collect(), batch.r#final)).await.unwrap();
                        }
                        ack(last)
                    }
                };
                let frame = Some(frame);
                // A queue that hears no more has ended.
                let _ = answer.send(Ok(PushStateResponse { frame })).await;
            }
        });
        Ok(tokio_stream::wrappers::ReceiverStream::new(answers).boxed())
    };
    let fake = Fake {
        push_state: Some(Box::new(push_state)),
        ..Fake::default()
    };
    Held {
        client: fake.serve(),
        taken,
        release,
    }
}

impl Held {
    async fn next(&mut self) -> Vec<String> {
        let taken = timeout(Duration::from_secs(10), self.taken.recv());
        taken.await.expect("it comes at once").unwrap().0
    }
}

fn image(bytes: usize) -> Value {
    crate::client::blob("image/png", vec![7; bytes])
}

#[tokio::test]
async fn a_large_value_that_is_held_back_delays_no_small_key_and_exit_waits_for_both() {
    let mut server = hold_large();
    let queue = StateQueue::open(&server.client, "run");
    queue.set("preview", image(1_000_000));
    for step in 0..10 {
        queue.set("progress", step);
        assert_eq!(server.next().await, ["progress"]);
    }
    assert_eq!(queue.stats().large_flushes, 1);
    let exit = queue.clone();
    let exit = tokio::spawn(async move { exit.exit_within(Duration::from_secs(60)).await });
    let (keys, last) = server.taken.recv().await.unwrap();
    assert!(keys.is_empty() && last);
    // One of the lanes has ended, the other holds what the server does not take.
    assert!(!exit.is_finished());
    assert!(queue.stats().unacked >= 1);
    server.release.add_permits(1);
    assert_eq!(server.next().await, ["preview"]);
    let (_, last) = server.taken.recv().await.unwrap();
    assert!(last);
    let stats = exit.await.unwrap().unwrap();
    assert_eq!((stats.unacked, stats.flushes), (0, 11));
    let marks = queue.marks();
    assert_eq!(
        marks.iter().map(|mark| mark.sequence).collect::<Vec<_>>(),
        [11, 2]
    );
    assert_ne!(marks[0].writer_id, marks[1].writer_id);
}

#[tokio::test]
async fn a_key_that_went_with_a_large_value_follows_it_and_the_others_pass_by() {
    let mut server = hold_large();
    let queue = StateQueue::open(&server.client, "run");
    queue.update([("preview", image(100_000)), ("step", 1.into())]);
    while queue.stats().sent == 0 {
        tokio::task::yield_now().await;
    }
    queue.set("step", 2);
    queue.set("step", 3);
    queue.set("progress", 1);
    assert_eq!(server.next().await, ["progress"]);
    queue.set("progress", 2);
    assert_eq!(server.next().await, ["progress"]);
    server.release.add_permits(1);
    assert_eq!(server.next().await, ["preview", "step"]);
    assert_eq!(server.next().await, ["step"]);
    let stats = queue.exit().await.unwrap();
    assert_eq!((stats.flushes, stats.folded), (5, 1));
}

#[tokio::test]
async fn while_one_preview_is_on_its_way_the_others_fold() {
    let mut server = hold_large();
    let queue = StateQueue::open(&server.client, "run");
    for step in 0..50 {
        queue.set("preview", image(700_000 + step));
        tokio::task::yield_now().await;
        assert!(queue.stats().held_bytes < 3 << 20, "{:?}", queue.stats());
    }
    server.release.add_permits(50);
    let stats = queue.exit().await.unwrap();
    assert!(stats.folded >= 40, "{stats:?}");
    assert_eq!(server.next().await, ["preview"]);
}

#[tokio::test]
async fn a_lease_that_is_lost_on_the_stream_for_large_values_is_lost() {
    let (client, _store) = serve(Then::LoseLease);
    let queue = StateQueue::builder(&client, "run")
        .lease_token(vec![7])
        .open();
    queue.set("preview", image(100_000));
    queue.lease_lost().cancelled().await;
    let error = queue.exit().await.unwrap_err();
    assert!(error.lease_lost, "{error}");
}

#[tokio::test(start_paused = true)]
async fn broken_streams_lose_nothing_in_either_lane() {
    let (client, store) = serve(Then::BreakAfter(2));
    let queue = StateQueue::open(&client, "run");
    for step in 1..=200 {
        queue.add("sum", step);
        if step % 20 == 0 {
            queue.push([
                Update::add("sum", step),
                Update::put("preview", "x".repeat(70_000)),
            ]);
            queue.push([Update::add("large", step), Update::put("preview", step)]);
        }
        if step % 5 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let stats = queue.exit_within(Duration::from_secs(600)).await.unwrap();
    assert!(
        stats.reconnects > 0 && stats.large_flushes >= 10,
        "{stats:?}"
    );
    let store = store.lock();
    let tenth: i64 = (1..=10).map(|step| step * 20).sum();
    assert_eq!(store.integer("sum"), 200 * 201 / 2 + tenth);
    assert_eq!(store.integer("large"), tenth);
    assert_eq!(store.writers.len(), 2);
}
