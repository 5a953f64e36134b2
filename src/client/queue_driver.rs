//! The tasks behind a StateQueue, one for each lane: keeps a PushState stream open while there is
//! something to send.
//!
//! Frames are built when the connection asks for one, from what is ready at that moment; nothing
//! waits in a channel in between.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::Stream;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::{Code, Streaming};
use uuid::Uuid;

use super::{
    backoff::Backoff,
    connection::Client,
    error::Error,
    lanes::Lane,
    propagate,
    queue::{Shared, now},
    queue_report::Rejection,
    task::std_duration,
};
use crate::proto::v1::{
    PushAck, PushDirective, PushKeepalive, PushOpen, PushOpened, PushStateRequest,
    PushStateResponse, push_directive::Kind, push_state_request, push_state_response::Frame,
};

const OPERATION: &str = "PushState";
/// A stream that is not opened by then is given up.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// So long may something sent wait for its acknowledgement before the stream is given up.
const ACK_DEADLINE: Duration = Duration::from_secs(30);
/// So long is a server that goes away waited for.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// So long does a queue that was closed go on trying.
const LINGER: Duration = Duration::from_secs(60);
/// How often a silent stream says that it is there, unless the server asks for something else.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Batches that the writer would like to have on their way.
const WANTED_WINDOW: i32 = 1024;

/// How a stream ended.
enum End {
    /// Everything is acknowledged and nothing more will come.
    Settled,
    /// The server goes away, or has forgotten the writer: open the next one at once.
    Reopen,
    /// It broke.
    Broken(Error),
    /// No later stream can do better.
    Final(Error),
    /// The other lane has ended the queue.
    Over,
}

/// Sends what the lane has until the queue is closed and the lane settled, or can never be.
pub(super) async fn run(shared: Arc<Shared>, client: Client, lane: Lane) {
    let _guard = EndGuard(&shared, lane);
    let mut backoff = Backoff::for_streams();
    let mut closing_since = None;
    while wait_for_work(&shared, lane).await {
        // On the heap: most queues have but one lane that ever sends.
        let stream = Box::pin(stream(&shared, &client, lane, &mut backoff));
        let wait = match stream.await {
            End::Settled => break,
            End::Over => return,
            End::Final(error) => return end(&shared, Some(error)),
            End::Reopen => Duration::from_millis(fastrand::u64(0..200)),
            End::Broken(error) => {
                tracing::debug!(
                    state.name = shared.state_name, push.lane = lane.as_str(), error.message = %error,
                    "push stream broke, resuming"
                );
                let wait = error.retry_after().unwrap_or_default() + backoff.next_wait();
                shared.state.lock().last_error = Some(error);
                wait
            }
        };
        let (closing, left_over) = {
            let mut state = shared.state.lock();
            state.lanes.on_disconnect(lane);
            (state.closing, state.next_epoch(lane))
        };
        left_over.into_iter().for_each(Waker::wake);
        if closing && closing_since.get_or_insert_with(Instant::now).elapsed() > LINGER {
            return end(&shared, None);
        }
        sleep(wait).await;
    }
    let all_done = {
        let mut state = shared.state.lock();
        state.line(lane).done = true;
        state.lines.iter().all(|line| line.done)
    };
    if all_done {
        end(&shared, None);
    }
}

/// Ends the queue where one of its tasks ends in another way: the program's callback panicked, or
/// the runtime is going away. Otherwise everybody who waits for an acknowledgement would wait for
/// ever.
struct EndGuard<'a>(&'a Shared, Lane);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.0.state.lock();
            if state.ended || state.line(self.1).done {
                return;
            }
        }
        let message = if std::thread::panicking() {
            "the queue's task panicked, perhaps in the on_rejected callback"
        } else {
            "the queue's task was stopped with its runtime"
        };
        let error = Error::new(OPERATION, Code::Internal, "QUEUE_ENDED", message);
        end(self.0, Some(error));
    }
}

/// Ends the queue, both of its lanes.
fn end(shared: &Shared, error: Option<Error>) {
    let (unsettled, left_over) = {
        let mut state = shared.state.lock();
        if std::mem::replace(&mut state.ended, true) {
            return;
        }
        if let Some(error) = &error {
            state.last_error = Some(error.clone());
        }
        let left_over = Lane::ALL.map(|lane| {
            state.lanes.on_disconnect(lane);
            state.next_epoch(lane)
        });
        (state.lanes.unsettled_batches(), left_over)
    };
    left_over.into_iter().flatten().for_each(Waker::wake);
    shared.work.iter().for_each(Notify::notify_one);
    if error.is_some() || unsettled > 0 {
        let why = error
            .as_ref()
            .map_or("the time to linger passed", Error::message);
        tracing::warn!(
            state.name = shared.state_name,
            unacknowledged = unsettled,
            error.message = why,
            "state queue ended early"
        );
    }
    shared.progress.notify_waiters();
}

/// Waits until the lane has something to send; false when nothing ever will be.
async fn wait_for_work(shared: &Shared, lane: Lane) -> bool {
    loop {
        {
            let state = shared.state.lock();
            if state.ended {
                return false;
            }
            if !state.lanes.lane(lane).is_settled() {
                return true;
            }
            if state.closing {
                return false;
            }
        }
        shared.work[lane as usize].notified().await;
    }
}

/// One stream, from its opening to its end.
async fn stream(shared: &Arc<Shared>, client: &Client, lane: Lane, backoff: &mut Backoff) -> End {
    let (epoch, writer, left_over) = {
        let mut state = shared.state.lock();
        let left_over = state.next_epoch(lane);
        let writer = state.lanes.lane(lane).writer();
        let line = state.line(lane);
        line.streams += 1;
        line.stream_done = false;
        line.keepalive_due = false;
        (line.epoch, writer, left_over)
    };
    left_over.into_iter().for_each(Waker::wake);
    let open = PushOpen {
        state_name: shared.state_name.clone(),
        writer_id: writer.to_string(),
        lease_token: shared.lease_token.clone(),
        wanted_window: WANTED_WINDOW,
    };
    let frames = Frames {
        shared: Arc::clone(shared),
        lane,
        epoch,
        open: Some(open),
    };
    let mut pushes = match lane {
        Lane::Small => client.pushes(),
        Lane::Large => client.large_pushes(),
    };
    let opening = async {
        let mut answers = pushes
            .push_state(propagate::request_in(&shared.trace, frames))
            .await?
            .into_inner();
        let first = answers.message().await?;
        Ok((answers, first))
    };
    let (answers, opened) = match timeout(OPEN_DEADLINE, opening).await {
        Ok(Ok((
            answers,
            Some(PushStateResponse {
                frame: Some(Frame::Opened(opened)),
            }),
        ))) => (answers, opened),
        Ok(Ok((
            _,
            Some(PushStateResponse {
                frame: Some(Frame::Directive(directive)),
            }),
        ))) => {
            return on_directive(shared, lane, &directive).unwrap_or_else(|| {
                End::Broken(broken("it was told to stop before it was opened"))
            });
        }
        Ok(Ok(_)) => return End::Broken(broken("the stream did not begin with `opened`")),
        Ok(Err(status)) => return on_error(shared, lane, Error::from_status(OPERATION, &status)),
        Err(_) => return End::Broken(broken("the stream was not opened in time")),
    };
    let wakes = {
        let mut state = shared.state.lock();
        if let Ok(bytes @ 1..) = usize::try_from(opened.max_value_bytes) {
            state.max_value_bytes = bytes;
        }
        let Ok(ready) = state.lanes.on_opened(lane, &opened, now()) else {
            drop(state);
            return new_writer(shared, lane);
        };
        state.wakes(ready)
    };
    shared.wake(wakes);
    shared.progress.notify_waiters();
    converse(shared, answers, lane, &opened, backoff).await
}

/// Listens to the server while the connection takes the frames.
async fn converse(
    shared: &Shared,
    mut answers: Streaming<PushStateResponse>,
    lane: Lane,
    opened: &PushOpened,
    backoff: &mut Backoff,
) -> End {
    let keepalive = std_duration(opened.keepalive_interval.as_ref()).unwrap_or(KEEPALIVE);
    let keepalive = keepalive.max(Duration::from_millis(100));
    let mut next_keepalive = Instant::now() + keepalive;
    let mut heard = Instant::now();
    let mut drain_until: Option<Instant> = None;
    loop {
        let (settled, in_flight, drained) = {
            let state = shared.state.lock();
            if state.ended {
                return End::Over;
            }
            let core = state.lanes.lane(lane);
            let settled = state.closing && core.is_settled();
            (settled, core.is_in_flight(), core.is_drained())
        };
        if settled || drained {
            hang_up(shared, lane, &mut answers).await;
            return if settled { End::Settled } else { End::Reopen };
        }
        if !in_flight {
            heard = Instant::now();
        }
        let ack_deadline = heard + ACK_DEADLINE;
        let give_up = drain_until.map_or(ack_deadline, |drain| drain.min(ack_deadline));
        tokio::select! {
            answer = answers.message() => {
                heard = Instant::now();
                let end = match answer {
                    Ok(Some(PushStateResponse { frame: Some(frame) })) => match frame {
                        Frame::Ack(ack) => {
                            backoff.reset();
                            on_ack(shared, lane, ack);
                            None
                        }
                        Frame::Rewind(rewind) => {
                            let mut state = shared.state.lock();
                            let rewound = state.lanes.on_rewind(lane, rewind.expected_sequence);
                            let waker = state.line(lane).waker.take();
                            drop(state);
                            waker.into_iter().for_each(Waker::wake);
                            rewound.is_err().then(|| new_writer(shared, lane))
                        }
                        Frame::Directive(directive) => {
                            let end = on_directive(shared, lane, &directive);
                            if directive.kind() == Kind::Reconnect {
                                drain_until.get_or_insert(Instant::now() + DRAIN_DEADLINE);
                            }
                            end
                        }
                        Frame::Opened(_) => Some(End::Broken(broken("it was opened twice"))),
                    },
                    // A frame of a newer server.
                    Ok(Some(PushStateResponse { frame: None })) => None,
                    Ok(None) => Some(End::Broken(broken("the server ended the stream"))),
                    Err(status) => Some(on_error(shared, lane, Error::from_status(OPERATION, &status))),
                };
                if let Some(end) = end {
                    return end;
                }
            }
            () = sleep_until(next_keepalive) => {
                next_keepalive = Instant::now() + keepalive;
                let mut state = shared.state.lock();
                let line = state.line(lane);
                line.keepalive_due = true;
                let waker = line.waker.take();
                drop(state);
                waker.into_iter().for_each(Waker::wake);
            }
            // The queue was closed or has ended: look again.
            () = shared.work[lane as usize].notified() => {}
            () = sleep_until(give_up) => {
                if drain_until.is_some() {
                    return End::Reopen;
                }
                if in_flight {
                    return End::Broken(broken("nothing was acknowledged for 30 s"));
                }
            }
        }
    }
}

/// Ends our side of the stream and gives the server a moment to end its own.
async fn hang_up(shared: &Shared, lane: Lane, answers: &mut Streaming<PushStateResponse>) {
    let waker = {
        let mut state = shared.state.lock();
        let line = state.line(lane);
        line.stream_done = true;
        line.waker.take()
    };
    waker.into_iter().for_each(Waker::wake);
    let ended = async { while let Ok(Some(_)) = answers.message().await {} };
    // Whether it did does not matter: everything is acknowledged.
    let _ = timeout(Duration::from_secs(1), ended).await;
}

fn broken(message: &str) -> Error {
    Error::new(OPERATION, Code::Unavailable, "STREAM_BROKEN", message)
}

fn on_ack(shared: &Shared, lane: Lane, ack: PushAck) {
    let (waker, others) = {
        let mut state = shared.state.lock();
        let window = ack.window.as_ref();
        let ready = state.lanes.on_ack(lane, ack.acked_sequence, window, now());
        state.last_error = None;
        (
            state.line(lane).waker.take(),
            state.wakes(ready.without(lane)),
        )
    };
    // Without a waker the stream is about to look by itself.
    waker.into_iter().for_each(Waker::wake);
    shared.wake(others);
    let rejected = ack.rejected.into_iter().map(|rejected| Rejection {
        sequence: rejected.sequence,
        key: rejected.key,
        reason: rejected.reason,
    });
    shared.report(rejected.collect());
    shared.progress.notify_waiters();
}

fn on_directive(shared: &Shared, lane: Lane, directive: &PushDirective) -> Option<End> {
    match directive.kind() {
        Kind::CancelRequested => shared.cancel_requested.cancel(),
        Kind::LeaseLost => return Some(lease_lost(shared, &directive.message)),
        Kind::Reconnect => shared.state.lock().lanes.on_drain(lane),
        // A directive of a newer server.
        Kind::Unspecified => {}
    }
    None
}

fn on_error(shared: &Shared, lane: Lane, error: Error) -> End {
    match error.reason() {
        "LEASE_LOST" => lease_lost(shared, error.message()),
        "WRITER_EXPIRED" => new_writer(shared, lane),
        _ if error.ends_streams() => End::Final(error),
        _ => End::Broken(error),
    }
}

fn lease_lost(shared: &Shared, message: &str) -> End {
    shared.lease_lost.cancel();
    End::Final(Error::new(OPERATION, Code::Aborted, "LEASE_LOST", message))
}

fn new_writer(shared: &Shared, lane: Lane) -> End {
    let mut state = shared.state.lock();
    let renumbered = state.lanes.restart_writer(lane, Uuid::new_v4());
    drop(state);
    tracing::warn!(
        state.name = shared.state_name,
        push.lane = lane.as_str(),
        renumbered,
        "the server has forgotten this writer; what was unacknowledged is sent again and may take effect twice"
    );
    End::Reopen
}

/// Our side of one stream, built frame by frame as the connection has room.
struct Frames {
    shared: Arc<Shared>,
    lane: Lane,
    epoch: u64,
    open: Option<PushOpen>,
}

impl Stream for Frames {
    type Item = PushStateRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        use push_state_request::Frame;
        let frame = |frame| Poll::Ready(Some(PushStateRequest { frame: Some(frame) }));
        if let Some(open) = self.open.take() {
            return frame(Frame::Open(open));
        }
        let lane = self.lane;
        let mut state = self.shared.state.lock();
        let line = state.line(lane);
        if line.epoch != self.epoch || line.stream_done {
            return Poll::Ready(None);
        }
        let (batches, ready) = loop {
            let (batches, ready) = state.lanes.next_frame(lane, now());
            if batches.is_some() || !ready.has(lane) {
                break (batches, ready);
            }
        };
        let others = state.wakes(ready.without(lane));
        let line = state.line(lane);
        let keepalive = std::mem::take(&mut line.keepalive_due) && batches.is_none();
        if batches.is_none() && !keepalive {
            line.waker = Some(context.waker().clone());
        }
        drop(state);
        self.shared.wake(others);
        match batches {
            Some(batches) => frame(Frame::Batches(batches)),
            None if keepalive => frame(Frame::Keepalive(PushKeepalive {})),
            None => Poll::Pending,
        }
    }
}
