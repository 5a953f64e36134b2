//! The load on the bare service, one function per way of calling.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    super::{
        Error,
        measure::{Latency, Meter},
        payload::{BatchSource, PushFrame},
        server::ServerProcess,
        session::{connect, connect_many},
        wait::{self, Crew},
    },
    wire::{Count, FanOut, RawCodec, Small, path},
};
use crate::proto::v1;

/// How long a load may take to end once it is told to.
const GRACE: Duration = Duration::from_secs(15);

/// A bare server to put load on.
#[derive(Debug)]
pub(in super::super) struct Bare {
    address: String,
    /// Held so that it lives as long as the load.
    _process: Option<ServerProcess>,
}

#[derive(Debug)]
pub(in super::super) struct UnaryRate {
    pub(in super::super) calls_per_s: f64,
    pub(in super::super) latency: Latency,
}

/// What a client stream carries.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct PushShape {
    pub(in super::super) writers: usize,
    pub(in super::super) connections: usize,
    pub(in super::super) batches_per_frame: usize,
    /// Whether the server decodes each batch into the generated message.
    pub(in super::super) decoded: bool,
}

/// Who watches, and how often what they watch changes; 0: as often as can be.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct FanOutShape {
    pub(in super::super) watchers: usize,
    pub(in super::super) connections: usize,
    pub(in super::super) updates_per_s: u32,
}

impl Bare {
    /// Starts a bare server as a process of its own, its log in `folder`.
    pub(in super::super) async fn start(folder: &Path) -> Result<Self, Error> {
        let process = ServerProcess::start_bare(folder).await?;
        Ok(Self {
            address: process.address().to_owned(),
            _process: Some(process),
        })
    }

    /// A bare server that is there already.
    #[cfg(test)]
    pub(super) fn at(address: String) -> Self {
        Self {
            address,
            _process: None,
        }
    }

    /// Unary echo of `bytes`, `in_flight` calls at a time on one connection; `durable` ones are
    /// answered after a shared fdatasync.
    pub(in super::super) async fn unary(
        &self,
        bytes: Bytes,
        in_flight: usize,
        durable: bool,
        duration: Duration,
    ) -> Result<UnaryRate, Error> {
        let channel = connect(&self.address).await?;
        let meter = Meter::start(duration / 5, duration);
        let path = PathAndQuery::from_static(if durable {
            path::ECHO_DURABLE
        } else {
            path::ECHO
        });
        let mut callers = Crew::new();
        for _ in 0..in_flight {
            let (meter, bytes, path) = (meter.clone(), bytes.clone(), path.clone());
            let mut client = Grpc::new(channel.clone());
            callers.spawn(async move {
                while meter.running() {
                    let started = Instant::now();
                    ready(&mut client).await?;
                    let request = Request::new(bytes.clone());
                    let answer = client.unary(request, path.clone(), RawCodec).await;
                    answer.map_err(Error::call("bare Echo"))?;
                    meter.took_since(started);
                    meter.add(1);
                }
                Ok(())
            });
        }
        let calls_per_s = callers.during(meter.rate()).await?;
        callers
            .join(GRACE, "the end of the bare unary calls")
            .await?;
        Ok(UnaryRate {
            calls_per_s,
            latency: meter.latency(),
        })
    }

    /// Messages a second of one client stream, 100 bytes each.
    pub(in super::super) async fn messages(&self, duration: Duration) -> Result<f64, Error> {
        let payload = Bytes::from_static(&[b'x'; 100]);
        let message = Small { payload };
        let begun = Instant::now();
        let until = begun + duration;
        let mut sent = 0_u32;
        let messages = std::iter::from_fn(move || {
            // A clock reading for each message would be part of what is measured.
            sent = sent.wrapping_add(1);
            (!sent.is_multiple_of(256) || Instant::now() < until).then(|| message.clone())
        });
        let channel = connect(&self.address).await?;
        let total = count(channel, path::MESSAGES, stream::iter(messages)).await?;
        Ok(total as f64 / begun.elapsed().as_secs_f64())
    }

    /// Batches a second through client streams of frames like `PushState`'s.
    pub(in super::super) async fn push(
        &self,
        source: &Arc<BatchSource>,
        shape: PushShape,
        duration: Duration,
    ) -> Result<f64, Error> {
        let channels = connect_many(&self.address, shape.connections).await?;
        let path = if shape.decoded {
            path::PUSH_DECODED
        } else {
            path::PUSH
        };
        let begun = Instant::now();
        let until = begun + duration;
        let mut writers = Crew::new();
        for channel in channels.iter().cycle().take(shape.writers) {
            let (channel, source) = (channel.clone(), Arc::clone(source));
            let mut next = 1;
            let frames = std::iter::from_fn(move || {
                let first = next;
                next += shape.batches_per_frame as u64;
                (Instant::now() < until).then(|| source.frame(first, shape.batches_per_frame))
            });
            writers.spawn(count::<PushFrame>(channel, path, stream::iter(frames)));
        }
        let totals = writers
            .join(duration + GRACE, "the end of the bare client streams")
            .await?;
        Ok(totals.iter().sum::<u64>() as f64 / begun.elapsed().as_secs_f64())
    }

    /// Round trips of `bytes` on one bidirectional stream, one at a time.
    pub(in super::super) async fn round_trips(
        &self,
        bytes: Bytes,
        duration: Duration,
    ) -> Result<Latency, Error> {
        let failed = Error::call("bare RoundTrips");
        let mut client = Grpc::new(connect(&self.address).await?);
        ready(&mut client).await?;
        let (sender, receiver) = mpsc::channel(1);
        let path = PathAndQuery::from_static(path::ROUND_TRIPS);
        let request = Request::new(ReceiverStream::new(receiver));
        let meter = Meter::start(duration / 5, duration);
        wait::at_most(
            duration * 2 + GRACE,
            "the end of the bare round trips",
            async {
                let answers = client
                    .streaming(request, path, RawCodec)
                    .await
                    .map_err(&failed)?;
                let mut answers = answers.into_inner();
                while meter.running() {
                    let started = Instant::now();
                    // When the stream has ended, the next answer says why.
                    let _ = sender.send(bytes.clone()).await;
                    if answers.message().await.map_err(&failed)?.is_none() {
                        return Err(Error::unexpected(
                            "bare RoundTrips",
                            "the end of the stream",
                        ));
                    }
                    meter.took_since(started);
                }
                Ok(())
            },
        )
        .await?;
        Ok(meter.latency())
    }

    /// Copies of `frame` received a second by all watchers together, one at a time each, encoded
    /// once and decoded by the watchers as they decode duite's.
    pub(in super::super) async fn fan_out(
        &self,
        frame: &v1::WatchStateResponse,
        shape: FanOutShape,
        duration: Duration,
    ) -> Result<f64, Error> {
        let channels = connect_many(&self.address, shape.connections).await?;
        let meter = Meter::start(duration / 2, duration);
        let mut watchers = Crew::new();
        for channel in channels.iter().cycle().take(shape.watchers) {
            watchers.spawn(watch(channel.clone(), meter.clone()));
        }
        let frame = Bytes::from(frame.encode_to_vec());
        let start = FanOut {
            frame,
            updates_per_s: shape.updates_per_s,
        };
        self.start_fan_out(&channels[0], start).await?;
        let rate = watchers.during(meter.rate()).await;
        // Dropping the watchers closes their streams; an idle ticker then costs the server little.
        drop(watchers);
        let stop = FanOut {
            frame: Bytes::new(),
            updates_per_s: 1,
        };
        self.start_fan_out(&channels[0], stop).await?;
        rate
    }

    async fn start_fan_out(&self, channel: &Channel, start: FanOut) -> Result<(), Error> {
        let mut client = Grpc::new(channel.clone());
        ready(&mut client).await?;
        let path = PathAndQuery::from_static(path::START_FAN_OUT);
        let codec = ProstCodec::<FanOut, Count>::default();
        let answer = client.unary(Request::new(start), path, codec).await;
        answer.map(|_| ()).map_err(Error::call("bare StartFanOut"))
    }
}

async fn watch(channel: Channel, meter: Meter) -> Result<(), Error> {
    let failed = Error::call("bare Watch");
    let mut client = Grpc::new(channel);
    ready(&mut client).await?;
    let path = PathAndQuery::from_static(path::WATCH);
    let codec = ProstCodec::<Small, v1::WatchStateResponse>::default();
    let request = Request::new(Small {
        payload: Bytes::new(),
    });
    let frames = client
        .server_streaming(request, path, codec)
        .await
        .map_err(&failed)?;
    let mut frames = frames.into_inner();
    while let Some(answer) = frames.message().await.map_err(&failed)? {
        // What a watcher of duite's does with it.
        if let Some(v1::watch_state_response::Frame::Delta(delta)) = answer.frame {
            let delta = v1::StateDelta::decode(delta)
                .map_err(|error| Error::unexpected("bare Watch", error.to_string()))?;
            meter.add(u64::from(!delta.more));
        }
    }
    Ok(())
}

async fn count<T: Message + Send + 'static>(
    channel: Channel,
    path: &'static str,
    messages: impl futures_util::Stream<Item = T> + Send + 'static,
) -> Result<u64, Error> {
    let mut client = Grpc::new(channel);
    ready(&mut client).await?;
    let codec = ProstCodec::<T, Count>::default();
    let path = PathAndQuery::from_static(path);
    let answer = client
        .client_streaming(Request::new(messages), path, codec)
        .await;
    Ok(answer
        .map_err(Error::call("bare client stream"))?
        .into_inner()
        .items)
}

async fn ready(client: &mut Grpc<Channel>) -> Result<(), Error> {
    client.ready().await.map_err(|source| Error::Connect {
        address: "the bare server".into(),
        source,
    })
}
