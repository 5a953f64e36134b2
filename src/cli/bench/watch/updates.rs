//! The one writer that all watch: an update at each tick, stamped with the time.
//!
//! It has a thread of its own, so that a thousand busy watchers do not delay its ticks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use prost::Message;
use tokio::{
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use super::super::{
    Error,
    payload::{self, PushFrame},
    session::connect,
    single_threaded, wait,
};
use crate::proto::v1::{self, PushStateResponse, push_state_response::Frame, value::Kind};

const CALL: &str = "PushState";
/// Far more than one update a tick needs.
const WINDOW: i32 = 4_096;
/// How long the server may take for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Times within this process, small enough for a value.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli::bench) struct Clock(Instant);

impl Clock {
    pub(in crate::cli::bench) fn start() -> Self {
        Self(Instant::now())
    }

    pub(in crate::cli::bench) fn stamp(self) -> Kind {
        Kind::Integer(i64::try_from(self.0.elapsed().as_nanos()).unwrap_or(i64::MAX))
    }

    /// The moment that an encoded value is stamped with, if it is.
    pub(in crate::cli::bench) fn read(self, value: &[u8]) -> Option<Instant> {
        match v1::Value::decode(value).ok()?.kind? {
            Kind::Integer(nanos) => Some(self.0 + Duration::from_nanos(nanos.try_into().ok()?)),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
pub(in crate::cli::bench) struct Plan {
    pub(in crate::cli::bench) address: String,
    pub(in crate::cli::bench) state: String,
    pub(in crate::cli::bench) updates_per_s: u32,
    pub(in crate::cli::bench) keys: u64,
    pub(in crate::cli::bench) clock: Clock,
}

/// The writer's thread. Dropping it ends the thread.
#[derive(Debug)]
pub(in crate::cli::bench) struct Updates {
    go: Option<oneshot::Sender<()>>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    ended: oneshot::Receiver<Result<(), Error>>,
}

impl Updates {
    /// Starts the writer; all keys are there when this returns, and nothing changes before `go`.
    pub(in crate::cli::bench) async fn start(plan: Plan) -> Result<Self, Error> {
        let (go, may_go) = oneshot::channel();
        let (filled, is_filled) = oneshot::channel();
        let (end, mut ended) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let shared = (Arc::clone(&stop), Arc::clone(&sent));
        std::thread::Builder::new()
            .name("bench-updates".to_owned())
            .spawn(move || {
                let result = single_threaded()
                    .and_then(|runtime| runtime.block_on(write(plan, filled, may_go, shared)));
                // Nobody asks when the benchmark was interrupted.
                let _ = end.send(result);
            })
            .map_err(|source| Error::io("start the writer's thread", source))?;
        if is_filled.await.is_err() {
            (&mut ended).await.unwrap_or(Err(Error::Panicked))?;
        }
        Ok(Self {
            go: Some(go),
            stop,
            sent,
            ended,
        })
    }

    pub(in crate::cli::bench) fn go(&mut self) {
        if let Some(go) = self.go.take() {
            // A writer that has failed says so when it is stopped.
            let _ = go.send(());
        }
    }

    pub(in crate::cli::bench) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Fails when the writer has ended by itself.
    pub(in crate::cli::bench) fn check(&mut self) -> Result<(), Error> {
        match (&mut self.ended).now_or_never() {
            None => Ok(()),
            Some(ended) => ended.unwrap_or(Err(Error::Panicked)),
        }
    }

    /// Stops the updates; all that were sent are acknowledged when this returns. Says how many.
    pub(in crate::cli::bench) async fn stop(mut self) -> Result<u64, Error> {
        self.stop.store(true, Ordering::Relaxed);
        (&mut self.ended).await.unwrap_or(Err(Error::Panicked))?;
        Ok(self.sent())
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn write(
    plan: Plan,
    filled: oneshot::Sender<()>,
    may_go: oneshot::Receiver<()>,
    (stop, sent): (Arc<AtomicBool>, Arc<AtomicU64>),
) -> Result<(), Error> {
    let (frames, receiver) = mpsc::channel(64);
    let push = async |frame| {
        let gone = |_| Error::unexpected(CALL, "the end of the stream");
        frames.send(frame).await.map_err(gone)
    };
    let mut client = Grpc::new(connect(&plan.address).await?);
    client.ready().await.map_err(|source| Error::Connect {
        address: plan.address.clone(),
        source,
    })?;
    let path = PathAndQuery::from_static("/duite.v1.StateService/PushState");
    let codec = ProstCodec::<PushFrame, PushStateResponse>::default();
    push(PushFrame::open(&plan.state, WINDOW)).await?;
    let fill = (0..plan.keys)
        .map(|key| payload::put(key, plan.clock.stamp()))
        .collect();
    let mut sequence = 1;
    push(PushFrame::of(vec![payload::batch(sequence, fill)])).await?;
    let request = Request::new(ReceiverStream::new(receiver));
    let answers = client
        .streaming(request, path, codec)
        .await
        .map_err(Error::call(CALL))?;
    let mut answers = answers.into_inner();
    let mut acked = 0;
    while acked < sequence {
        acked = next_ack(&mut answers).await?.max(acked);
    }
    if filled.send(()).is_err() || may_go.await.is_err() {
        return Ok(()); // the benchmark has ended already
    }

    let mut ticks = interval(Duration::from_secs(1) / plan.updates_per_s);
    // The rate is promised: ticks that came late are made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            ack = next_ack(&mut answers), if acked < sequence => acked = ack?.max(acked),
            _ = ticks.tick(), if sequence - acked < WINDOW as u64 => {
                sequence += 1;
                let update = payload::put(sequence % plan.keys, plan.clock.stamp());
                push(PushFrame::of(vec![payload::batch(sequence, vec![update])])).await?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    while acked < sequence {
        acked = next_ack(&mut answers).await?.max(acked);
    }
    Ok(())
}

/// The sequence of the next acknowledgement; 0 for a frame that is none.
pub(in crate::cli::bench) async fn next_ack(
    answers: &mut Streaming<PushStateResponse>,
) -> Result<u64, Error> {
    let answer = async { answers.message().await.map_err(Error::call(CALL)) };
    let answer = wait::at_most(ANSWER_WITHIN, "an acknowledgement", answer).await?;
    match answer.and_then(|answer| answer.frame) {
        Some(Frame::Opened(_)) => Ok(0),
        Some(Frame::Ack(ack)) if ack.rejected.is_empty() => {
            Ok(u64::try_from(ack.acked_sequence).unwrap_or(0))
        }
        other => Err(Error::unexpected(CALL, format!("{other:?}"))),
    }
}
