//! The simulated server's process: the real engine and the real handlers of every call over the
//! [`Disk`], with lives that end by a kill, in order, or because the journal failed.

use std::sync::Arc;

use fastrand::Rng;
use futures_util::StreamExt;
use tokio::{
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time::Duration,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status, Streaming,
    codec::{Codec, EncodeBody},
};
use tonic_prost::ProstCodec;

use super::{
    call,
    disk::Disk,
    event::{Answer, ConnId, Event, Heard, Opening},
    net::{Lane, Net},
};
use crate::{
    engine::Engine,
    proto::v1 as pb,
    runtime::Registry,
    service::bare::{Services, services},
};

/// Lane of what the server itself has to say.
const SERVER_LANE: u32 = 1;
/// Frames that a connection holds before they are read.
const FRAMES_ON_THE_WAY: usize = 4_096;

pub(super) struct Server {
    pub(super) disk: Disk,
    pub(super) life: u64,
    net: Net,
    running: Option<Running>,
}

struct Running {
    engine: Engine,
    services: Services,
    jobs: Registry,
    /// Streams and calls.
    tasks: JoinSet<()>,
}

/// The server's half of a stream.
pub(super) struct Half {
    /// Frames of a push stream.
    pub(super) frames: Option<mpsc::Sender<pb::PushStateRequest>>,
    abort: AbortHandle,
}

impl Half {
    pub(super) fn reset(&self) {
        self.abort.abort();
    }
}

impl Server {
    pub(super) fn new(disk: Disk, net: Net) -> Self {
        Self {
            disk,
            life: 0,
            net,
            running: None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn engine(&self) -> Option<&Engine> {
        self.running.as_ref().map(|running| &running.engine)
    }

    pub(super) async fn start(&mut self) {
        assert!(self.running.is_none(), "the server runs already");
        self.life += 1;
        let failed = CancellationToken::new();
        let jobs = Registry::new(failed.clone());
        let engine = Engine::start(Arc::new(self.disk.clone()), jobs.clone());
        let engine = engine.await.expect("a journal in memory can be read");
        let mut tasks = JoinSet::new();
        let (net, life) = (self.net.clone(), self.life);
        tasks.spawn(async move {
            failed.cancelled().await;
            net.post(SERVER_LANE, 1, Event::Died(life));
        });
        self.running = Some(Running {
            services: services(engine.clone(), jobs.clone()),
            engine,
            jobs,
            tasks,
        });
    }

    /// kill -9.
    pub(super) async fn kill(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        self.disk.kill();
        running.tasks.abort_all();
        while running.tasks.join_next().await.is_some() {}
        running.jobs.stop(Duration::ZERO).await;
        running.jobs.wait_idle().await;
    }

    /// SIGTERM: streams are told, then everything ends.
    pub(super) fn drain(&self) {
        if let Some(running) = &self.running {
            running.engine.drain();
        }
    }

    /// The end of a drained process.
    pub(super) async fn stop(&mut self) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        running
            .engine
            .stop()
            .await
            .expect("a journal in memory closes");
        running.tasks.abort_all();
        while running.tasks.join_next().await.is_some() {}
        running.jobs.stop(Duration::ZERO).await;
        running.jobs.wait_idle().await;
    }

    /// Serves a call; the answer goes onto the lane, unless it is lost.
    pub(super) fn call(&mut self, id: usize, request: call::Request, mut lane: Lane, lost: bool) {
        let life = self.life;
        let Some(running) = &mut self.running else {
            let down = Status::unavailable("nobody listens");
            let result = Err(down);
            lane.send(Event::Answer(id, Answer { life, result }));
            return;
        };
        let services = running.services.clone();
        running.tasks.spawn(async move {
            let result = request.serve(services).await;
            if !lost {
                lane.send(Event::Answer(id, Answer { life, result }));
            }
        });
    }

    /// Serves a stream: a frame is asked for only where there is a credit for it. `None`: nobody
    /// listens.
    pub(super) fn open(
        &mut self,
        conn: ConnId,
        opening: Opening,
        mut lane: Lane,
        credits: Arc<Semaphore>,
    ) -> Option<Half> {
        let Some(running) = &mut self.running else {
            let down = Status::unavailable("nobody listens");
            lane.send(Event::Hear(conn, Heard::End(Some(down))));
            return None;
        };
        let services = running.services.clone();
        macro_rules! serve {
            ($stream:expr, $heard:path) => {
                running.tasks.spawn(async move {
                    let end = match $stream.await {
                        Err(status) => Some(status),
                        Ok(response) => {
                            let mut frames = response.into_inner();
                            loop {
                                // The room in HTTP/2's window.
                                credits
                                    .acquire()
                                    .await
                                    .expect("it is never closed")
                                    .forget();
                                match frames.next().await {
                                    Some(Ok(frame)) => lane.send(Event::Hear(conn, $heard(frame))),
                                    Some(Err(status)) => break Some(status),
                                    None => break None,
                                }
                            }
                        }
                    };
                    lane.send(Event::Hear(conn, Heard::End(end)));
                })
            };
        }
        let (frames, abort) = match opening {
            Opening::Push(open) => {
                let (frames, incoming) = mpsc::channel(FRAMES_ON_THE_WAY);
                let first = pb::PushStateRequest {
                    frame: Some(pb::push_state_request::Frame::Open(open)),
                };
                frames.try_send(first).expect("there is room for the first");
                let abort = serve!(
                    services
                        .states
                        .push_state(Request::new(streaming(incoming))),
                    Heard::Push
                );
                (Some(frames), abort)
            }
            Opening::States(request) => {
                let abort = serve!(
                    services.states.watch_state(Request::new(request)),
                    Heard::States
                );
                (None, abort)
            }
            Opening::Leases(request) => {
                let abort = serve!(
                    services.workers.watch_leases(Request::new(request)),
                    Heard::Leases
                );
                (None, abort)
            }
            Opening::Tasks(request) => {
                let abort = serve!(
                    services.tasks.watch_tasks(Request::new(request)),
                    Heard::Tasks
                );
                (None, abort)
            }
        };
        Some(Half { frames, abort })
    }
}

/// The client's half as the handler reads it: encoded and decoded as on the wire.
fn streaming(frames: mpsc::Receiver<pb::PushStateRequest>) -> Streaming<pb::PushStateRequest> {
    let mut codec = ProstCodec::<pb::PushStateRequest, pb::PushStateRequest>::default();
    let frames = ReceiverStream::new(frames).map(Ok);
    let body = EncodeBody::new_client(codec.encoder(), frames, None, None);
    Streaming::new_request(codec.decoder(), body, None, None)
}

/// A random number generator of its own for each thing that draws, so that what one draws does not
/// depend on when the others do.
pub(super) fn fork(seed: u64, what: u64) -> Rng {
    let mixed =
        (seed ^ what.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    Rng::with_seed(mixed ^ (mixed >> 31))
}
