//! The bare tonic service: what the wire allows when nothing is done with what comes over it.
//!
//! Written by hand where generated code would stand, because it must not be part of the public
//! `.proto` files. It takes the same bytes in the same frames as duite's own services.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use prost::Message;
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{MissedTickBehavior, interval},
};
use tonic::{
    Request, Response, Status, Streaming,
    codegen::{Body, BoxFuture, Context, Poll, Service, http},
    server::{Grpc, NamedService},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::{
    super::payload::PushFrame,
    group::GroupLog,
    wire::{Count, FanOut, RawCodec, Small, path},
};
use crate::proto::v1;

#[derive(Clone)]
pub(super) struct BareService {
    log: GroupLog,
    fan_out: Arc<FanOutState>,
}

/// The frame that watchers are sent. It is no queue: a watcher that is late skips what it missed.
struct FanOutState {
    frame: watch::Sender<Bytes>,
    ticker: Mutex<Option<AbortHandle>>,
}

impl BareService {
    pub(super) fn new(log: GroupLog) -> Self {
        let (frame, _) = watch::channel(Bytes::new());
        Self {
            log,
            fan_out: Arc::new(FanOutState {
                frame,
                ticker: Mutex::new(None),
            }),
        }
    }

    async fn echo_durable(self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let bytes = request.into_inner();
        self.log
            .append(bytes.clone())
            .await
            .map_err(|kind| Status::internal(format!("the bare log failed: {kind}")))?;
        Ok(Response::new(bytes))
    }

    async fn start_fan_out(self, request: Request<FanOut>) -> Result<Response<Count>, Status> {
        let FanOut {
            frame,
            updates_per_s,
        } = request.into_inner();
        let state = Arc::clone(&self.fan_out);
        let ticker = tokio::spawn(async move { state.tick(frame, updates_per_s).await });
        if let Some(earlier) = self.fan_out.ticker.lock().replace(ticker.abort_handle()) {
            earlier.abort();
        }
        Ok(Response::new(Count { items: 0 }))
    }

    fn frames(&self) -> impl Stream<Item = Result<Bytes, Status>> + Send + use<> {
        stream::unfold(self.fan_out.frame.subscribe(), |mut receiver| async move {
            receiver.changed().await.ok()?;
            let frame = receiver.borrow_and_update().clone();
            Some((Ok(frame), receiver))
        })
    }
}

impl FanOutState {
    async fn tick(&self, frame: Bytes, updates_per_s: u32) {
        if updates_per_s == 0 {
            loop {
                self.frame.send_replace(frame.clone());
                tokio::task::yield_now().await;
            }
        }
        let mut ticks = interval(Duration::from_secs(1) / updates_per_s);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            ticks.tick().await;
            self.frame.send_replace(frame.clone());
        }
    }
}

async fn echo(request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
    Ok(Response::new(request.into_inner()))
}

/// Reads a client stream to its end; `items` says how many a message carries.
async fn count<T>(
    request: Request<Streaming<T>>,
    items: impl Fn(T) -> usize,
) -> Result<Response<Count>, Status> {
    let mut messages = request.into_inner();
    let mut total = 0;
    while let Some(message) = messages.message().await? {
        total += items(message) as u64;
    }
    Ok(Response::new(Count { items: total }))
}

fn batches(request: v1::PushStateRequest) -> usize {
    match request.frame {
        Some(v1::push_state_request::Frame::Batches(batches)) => {
            v1::UpdateBatches::decode(batches).map_or(0, |batches| batches.batches.len())
        }
        _ => 0,
    }
}

impl NamedService for BareService {
    const NAME: &'static str = path::SERVICE;
}

impl Service<http::Request<tonic::body::Body>> for BareService {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.route(request).await) })
    }
}

impl BareService {
    async fn route<B>(self, request: http::Request<B>) -> http::Response<tonic::body::Body>
    where
        B: Body + Send + 'static,
        B::Error: Into<tonic::codegen::StdError> + Send,
    {
        match request.uri().path() {
            path::ECHO => Grpc::new(RawCodec).unary(service_fn(echo), request).await,
            path::ECHO_DURABLE => {
                let handler = service_fn(move |request| self.clone().echo_durable(request));
                Grpc::new(RawCodec).unary(handler, request).await
            }
            path::MESSAGES => {
                let handler = service_fn(|request| count(request, |_: Small| 1));
                Grpc::new(ProstCodec::default())
                    .client_streaming(handler, request)
                    .await
            }
            path::PUSH => {
                let handler = service_fn(|request| count(request, |frame: PushFrame| frame.len()));
                Grpc::new(ProstCodec::default())
                    .client_streaming(handler, request)
                    .await
            }
            path::PUSH_DECODED => {
                let handler = service_fn(|request| count(request, batches));
                Grpc::new(ProstCodec::default())
                    .client_streaming(handler, request)
                    .await
            }
            path::ROUND_TRIPS => {
                let handler = service_fn(|request: Request<Streaming<Bytes>>| async {
                    Ok::<_, Status>(Response::new(request.into_inner().boxed()))
                });
                Grpc::new(RawCodec).streaming(handler, request).await
            }
            path::START_FAN_OUT => {
                let handler = service_fn(move |request| self.clone().start_fan_out(request));
                Grpc::new(ProstCodec::default())
                    .unary(handler, request)
                    .await
            }
            path::WATCH => {
                let handler = service_fn(move |_: Request<Bytes>| {
                    let frames = self.frames();
                    async { Ok::<_, Status>(Response::new(frames)) }
                });
                Grpc::new(RawCodec).server_streaming(handler, request).await
            }
            unknown => {
                Status::unimplemented(format!("the bare service has no {unknown}")).into_http()
            }
        }
    }
}
