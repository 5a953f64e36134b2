//! `PushState`: batches in, acknowledgements out.
//!
//! One state machine, driven by the poll of the response: it sends what the session has to tell,
//! and otherwise reads the next frame, admits its batches and hands them over. Nothing is queued
//! here: the session folds what waits, and what it acknowledges is a position. So a client that
//! does not read its acknowledgements stops only itself, and a dropped stream takes both halves
//! with it.

use std::{sync::Arc, time::Duration};

use futures_util::stream::{self, StreamExt};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Status, Streaming};

use super::{
    Context,
    convert::{self, duration, uuid},
    state_service::source,
    watch::Frames,
};
use crate::{
    domain::{
        Error, Reason,
        id::parse_state_name,
        limits::{MAX_BATCH_BYTES, MAX_VALUE_BYTES},
    },
    engine::{
        Namespace,
        command::OpenRequest,
        intake::{Directive, PushNews, Session, WINDOW_BATCHES, WINDOW_BYTES},
    },
    proto::v1::{
        self as pb, push_directive, push_state_request::Frame as In,
        push_state_response::Frame as Out,
    },
};

/// A client that opens the call and says nothing is let go.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// How often a silent client must show that it lives.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A client silent for so long is gone.
const SILENCE: Duration = KEEPALIVE.saturating_mul(3);
/// How long a writer that was told to reconnect has for its window.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// The response of one call.
pub(super) fn stream(
    context: Context,
    incoming: Streaming<pb::PushStateRequest>,
    permit: OwnedSemaphorePermit,
) -> Frames<pb::PushStateResponse> {
    let push = Push {
        context,
        incoming: Some(incoming),
        open: None,
        ended: false,
        _permit: permit,
    };
    stream::unfold(push, |mut push| async {
        let frame = push.next().await?;
        push.ended = frame.is_err();
        let frame = frame
            .map(|frame| pb::PushStateResponse { frame: Some(frame) })
            .map_err(|end| match end {
                End::Refused(error) => Status::from(error),
                End::Broken(status) => status,
            });
        Some((frame, push))
    })
    .boxed()
}

/// Where a call stands.
struct Push {
    context: Context,
    /// The client's half; none once it has closed it.
    incoming: Option<Streaming<pb::PushStateRequest>>,
    /// None until the client has said what it writes to.
    open: Option<Open>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

/// Why a call ends otherwise than well.
enum End {
    Refused(Error),
    /// The client's half broke: what the transport says.
    Broken(Status),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl Push {
    /// The next frame to send; none: the call ends well.
    async fn next(&mut self) -> Option<Result<Out, End>> {
        if self.ended {
            return None;
        }
        if let Some(open) = &mut self.open {
            return open.next(&mut self.incoming).await;
        }
        let opened = open(&self.context, self.incoming.as_mut()?).await;
        Some(opened.map(|(open, frame)| {
            self.open = Some(open);
            frame
        }))
    }
}

/// An open call.
struct Open {
    seat: Seat,
    window: pb::PushWindow,
    /// Set once the client was told to reconnect.
    drains_until: Option<Instant>,
}

/// A session that is left when the call is over, however it ends.
struct Seat {
    namespace: Namespace,
    session: Arc<Session>,
    batches: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.namespace.leave(&self.session);
        let (duplicates, rejected_unlisted) = self.session.counters();
        tracing::debug!(
            namespace = %self.namespace.id(),
            state = %self.session.state,
            writer.id = %self.session.writer,
            batches = self.batches,
            duplicates,
            rejected_unlisted,
            "push stream closed"
        );
    }
}

/// Reads the first frame and opens the writer.
async fn open(
    context: &Context,
    incoming: &mut Streaming<pb::PushStateRequest>,
) -> Result<(Open, Out), End> {
    let missing = || Error::field("open", "must be the first frame");
    let first = timeout(OPEN_PATIENCE, incoming.message()).await;
    // Late is not wrong: a process that was frozen meanwhile may try again.
    let first = first
        .map_err(|_| gone("the first frame did not come in time"))?
        .map_err(End::Broken)?;
    let Some(In::Open(asked)) = first.and_then(|first| first.frame) else {
        return Err(missing().into());
    };
    let (id, state) = parse_state_name("open.state_name", &asked.state_name)?;
    let window = window(asked.wanted_window)?;
    let lease = convert::lease_token(&id, &asked.lease_token)?;
    let request = OpenRequest {
        state,
        writer: uuid("open.writer_id", &asked.writer_id)?,
        source: source(lease.as_ref()),
        lease,
    };
    let namespace = context.namespace(&id).await?;
    let opened = namespace.open_writer(request).await?;
    let last_sequence = opened.last_sequence;
    let session = opened.claim();
    tracing::debug!(
        namespace = %id,
        state = %session.state,
        writer.id = %session.writer,
        sequence = last_sequence,
        "push stream opened"
    );
    let frame = Out::Opened(pb::PushOpened {
        last_sequence: i64::try_from(last_sequence).unwrap_or(i64::MAX),
        window: Some(window),
        max_batch_bytes: MAX_BATCH_BYTES as i64,
        max_value_bytes: MAX_VALUE_BYTES as i64,
        keepalive_interval: Some(duration(KEEPALIVE)),
    });
    let open = Open {
        seat: Seat {
            namespace,
            session,
            batches: 0,
        },
        window,
        drains_until: None,
    };
    Ok((open, frame))
}

/// What the client may have in flight: what it wants, within what the server takes.
fn window(wanted: i32) -> Result<pb::PushWindow, Error> {
    let batches = match u32::try_from(wanted) {
        Ok(0) => WINDOW_BATCHES,
        Ok(wanted) => wanted.min(WINDOW_BATCHES),
        Err(_) => {
            let problem = format!("must not be negative, got {wanted}");
            return Err(Error::field("open.wanted_window", problem));
        }
    };
    Ok(pb::PushWindow {
        max_unacked_batches: i32::try_from(batches).unwrap_or(i32::MAX),
        max_unacked_bytes: WINDOW_BYTES as i64,
    })
}

/// What woke an open call.
enum Woken {
    News(Result<PushNews, Error>),
    Frame(Result<Option<pb::PushStateRequest>, Status>),
    Silent,
    Drained,
}

impl Open {
    async fn next(
        &mut self,
        incoming: &mut Option<Streaming<pb::PushStateRequest>>,
    ) -> Option<Result<Out, End>> {
        loop {
            if incoming.is_none() && self.seat.session.settled() {
                return None;
            }
            match self.wake(incoming).await {
                Woken::News(Ok(news)) => return Some(Ok(self.frame(news))),
                Woken::News(Err(error)) => return Some(Err(error.into())),
                Woken::Frame(Ok(None)) => *incoming = None,
                Woken::Frame(Err(status)) => return Some(Err(End::Broken(status))),
                Woken::Frame(Ok(Some(request))) => {
                    if let Err(error) = self.take(request) {
                        return Some(Err(error.into()));
                    }
                }
                Woken::Silent => {
                    let problem = format!("no frame came for {} s", SILENCE.as_secs());
                    return Some(Err(gone(&problem).into()));
                }
                Woken::Drained => return Some(Err(gone("the server is stopping").into())),
            }
        }
    }

    /// News goes first: acknowledgements make room at the client. Dropping the losing future
    /// loses nothing, neither news nor a frame half read.
    async fn wake(&self, incoming: &mut Option<Streaming<pb::PushStateRequest>>) -> Woken {
        let session = &self.seat.session;
        let drained = self.drains_until.unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            news = session.news() => Woken::News(news),
            () = sleep_until(drained), if self.drains_until.is_some() => Woken::Drained,
            frame = async {
                let incoming = incoming.as_mut()?;
                // While the window is full the client is slowed by HTTP/2; that is no silence.
                session.room().await;
                Some(timeout(SILENCE, incoming.message()).await)
            }, if incoming.is_some() => match frame {
                Some(Ok(frame)) => Woken::Frame(frame),
                Some(Err(_)) => Woken::Silent,
                None => Woken::Frame(Ok(None)),
            },
        }
    }

    fn take(&mut self, request: pb::PushStateRequest) -> Result<(), Error> {
        let batches = match request.frame {
            Some(In::Batches(batches)) => batches,
            Some(In::Keepalive(_)) => {
                self.seat.namespace.keep_alive(&self.seat.session);
                return Ok(());
            }
            Some(In::Open(_)) => {
                return Err(Error::field("open", "must come once, as the first frame"));
            }
            None => {
                return Err(Error::field(
                    "frame",
                    "is empty or not known to this version",
                ));
            }
        };
        self.seat.batches += self.seat.namespace.push(&self.seat.session, &batches)?;
        Ok(())
    }

    fn frame(&mut self, news: PushNews) -> Out {
        match news {
            PushNews::Ack {
                sequence,
                revision,
                rejected,
            } => Out::Ack(pb::PushAck {
                acked_sequence: i64::try_from(sequence).unwrap_or(i64::MAX),
                revision: revision.wire(),
                window: Some(self.window),
                rejected: convert::rejected(rejected),
            }),
            PushNews::Rewind { expected } => Out::Rewind(pb::PushRewind {
                expected_sequence: i64::try_from(expected).unwrap_or(i64::MAX),
            }),
            PushNews::Directive(directive) => {
                if directive == Directive::Reconnect {
                    self.drains_until = Some(Instant::now() + DRAIN_PATIENCE);
                }
                Out::Directive(told(directive))
            }
        }
    }
}

fn told(directive: Directive) -> pb::PushDirective {
    use push_directive::Kind;
    let (kind, message) = match directive {
        Directive::CancelRequested => (Kind::CancelRequested, "the task was asked to stop"),
        Directive::LeaseLost => (Kind::LeaseLost, "the lease is over: stop the work"),
        Directive::Reconnect => (
            Kind::Reconnect,
            "the server is stopping: wait for what is unacknowledged, then open again",
        ),
    };
    pb::PushDirective {
        kind: kind as i32,
        message: message.to_owned(),
    }
}

fn gone(problem: &str) -> Error {
    Error::new(
        Reason::StreamDraining,
        format!("{problem}: open the stream again with the same writer"),
    )
}
