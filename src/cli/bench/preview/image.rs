//! The preview: one writer that puts it again and again, and its watchers.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    super::{
        Error,
        measure::Meter,
        payload::{self, PushFrame},
        session::connect,
        wait::Crew,
        watch::updates::next_ack,
    },
    only,
};
use crate::proto::v1::{
    Blob, KeyUpdate, PushStateResponse, StateDelta, Value, WatchStateRequest, key_change::Change,
    key_update::Operation, state_service_client::StateServiceClient, value::Kind,
    watch_state_response::Frame,
};

pub(super) const KEY: &str = "preview/image";
const PUSH: &str = "PushState";
const WATCH: &str = "WatchState";
/// Previews under way at most: a writer that is behind leaves some out.
const WINDOW: i32 = 2;

/// The writer of the preview.
#[derive(Debug, Clone, Default)]
pub(super) struct Image(Arc<ImageState>);

#[derive(Debug, Default)]
struct ImageState {
    goes: AtomicBool,
    put: AtomicU64,
}

impl Image {
    /// Starts the writer; it puts nothing before `go`.
    pub(super) async fn start(
        address: &str,
        state: &str,
        size_kib: u16,
        per_s: u16,
        crew: &mut Crew<()>,
    ) -> Result<Self, Error> {
        let image = Self::default();
        let channel = connect(address).await?;
        let open = PushFrame::open(state, WINDOW);
        let pixels = vec![7; usize::from(size_kib) << 10];
        let every = Duration::from_secs(1) / u32::from(per_s);
        crew.spawn(write(channel, open, pixels, every, Arc::clone(&image.0)));
        Ok(image)
    }

    pub(super) fn go(&self) {
        self.0.goes.store(true, Ordering::Relaxed);
    }

    /// How many are acknowledged.
    pub(super) fn put(&self) -> u64 {
        self.0.put.load(Ordering::Relaxed)
    }
}

async fn write(
    channel: Channel,
    open: PushFrame,
    mut pixels: Vec<u8>,
    every: Duration,
    image: Arc<ImageState>,
) -> Result<(), Error> {
    let (frames, receiver) = mpsc::channel(WINDOW as usize);
    let push = async |frame| {
        let gone = |_| Error::unexpected(PUSH, "the end of the stream");
        frames.send(frame).await.map_err(gone)
    };
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|source| Error::Connect {
        address: PUSH.to_owned(),
        source,
    })?;
    let path = PathAndQuery::from_static("/duite.v1.StateService/PushState");
    let codec = ProstCodec::<PushFrame, PushStateResponse>::default();
    push(open).await?;
    let request = Request::new(ReceiverStream::new(receiver));
    let answers = client.streaming(request, path, codec).await;
    let mut answers = answers.map_err(Error::call(PUSH))?.into_inner();
    next_ack(&mut answers).await?;

    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut sent, mut acked) = (0_u64, 0);
    loop {
        tokio::select! {
            ack = next_ack(&mut answers), if acked < sent => {
                acked = ack?.max(acked);
                image.put.store(acked, Ordering::Relaxed);
            }
            _ = ticks.tick(), if sent - acked < WINDOW as u64 => {
                if image.goes.load(Ordering::Relaxed) {
                    sent += 1;
                    // Every preview is another one.
                    pixels[..8].copy_from_slice(&sent.to_le_bytes());
                    push(PushFrame::of(vec![payload::batch(sent, vec![put(&pixels)])])).await?;
                }
            }
        }
    }
}

fn put(pixels: &[u8]) -> KeyUpdate {
    let blob = Blob {
        content_type: "image/png".to_owned(),
        data: Bytes::copy_from_slice(pixels),
        ..Blob::default()
    };
    let value = Value {
        kind: Some(Kind::Blob(blob)),
    };
    KeyUpdate {
        key: KEY.to_owned(),
        operation: Some(Operation::Put(value.encode_to_vec().into())),
    }
}

/// What the preview's watchers have seen together.
#[derive(Debug, Default)]
pub(super) struct Seen {
    synced: AtomicU64,
    inline: AtomicU64,
    stubs: AtomicU64,
    meter: OnceLock<Meter>,
}

impl Seen {
    /// Counts deliveries in `meter` from now on; the first one stays.
    pub(super) fn count_in(&self, meter: Meter) {
        self.meter.get_or_init(|| meter);
    }

    pub(super) fn synced(&self) -> u64 {
        self.synced.load(Ordering::Relaxed)
    }

    pub(super) fn inline(&self) -> u64 {
        self.inline.load(Ordering::Relaxed)
    }

    pub(super) fn stubs(&self) -> u64 {
        self.stubs.load(Ordering::Relaxed)
    }

    fn add(&self, delta: &StateDelta) {
        for change in delta.changes.iter().filter(|change| change.key == KEY) {
            let count = match change.change {
                Some(Change::Value(_)) => &self.inline,
                Some(Change::Stub(_)) => &self.stubs,
                Some(Change::Deleted(_)) | None => continue,
            };
            count.fetch_add(1, Ordering::Relaxed);
            if let Some(meter) = self.meter.get() {
                meter.add(1);
            }
        }
    }
}

/// Watches the preview until dropped.
pub(super) async fn watch(
    channel: Channel,
    state: String,
    inline_limit_bytes: i64,
    seen: Arc<Seen>,
) -> Result<(), Error> {
    let request = WatchStateRequest {
        names: vec![state],
        keys: Some(only(KEY.to_owned())),
        inline_limit_bytes,
        ..WatchStateRequest::default()
    };
    let frames = StateServiceClient::new(channel)
        .watch_state(request)
        .await
        .map_err(Error::call(WATCH))?;
    let mut frames = frames.into_inner();
    while let Some(answer) = frames.message().await.map_err(Error::call(WATCH))? {
        match answer.frame {
            Some(Frame::Delta(delta)) => {
                let delta = StateDelta::decode(delta)
                    .map_err(|error| Error::unexpected(WATCH, error.to_string()))?;
                seen.add(&delta);
            }
            Some(Frame::Synced(_)) => _ = seen.synced.fetch_add(1, Ordering::Relaxed),
            Some(Frame::Opened(_) | Frame::Snapshot(_) | Frame::Bookmark(_)) | None => {}
            Some(other @ (Frame::Reset(_) | Frame::Closing(_))) => {
                return Err(Error::unexpected(WATCH, format!("{other:?}")));
            }
        }
    }
    Err(Error::unexpected(WATCH, "the end of the stream"))
}
