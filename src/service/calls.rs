//! Around every call of the services: what it takes is counted, until its answer has been sent, and
//! one that is refused as it begins leaves a debug line: with it, a client's complaint can be
//! found without a packet trace. Streams that end later tell their own end.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};
use tower::{Layer, Service};

use crate::{
    proto::DESCRIPTOR_SET,
    telemetry::metrics::{Call, Calls, Metrics},
};

const STATUS: &str = "grpc-status";

#[derive(Clone, Debug)]
pub(super) struct CallsLayer {
    calls: Calls,
}

impl CallsLayer {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            calls: metrics.calls(methods()),
        }
    }
}

/// Every method of the services, and whether one of its sides streams.
fn methods() -> Vec<(String, bool)> {
    let files = FileDescriptorSet::decode(DESCRIPTOR_SET)
        .expect("the descriptor set was made by a compiler");
    let mut methods = Vec::new();
    for file in &files.file {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                methods.push((name, method.client_streaming() || method.server_streaming()));
            }
        }
    }
    methods
}

impl<S> Layer<S> for CallsLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted {
            inner,
            calls: self.calls.clone(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    inner: S,
    calls: Calls,
}

impl<S, I, O> Service<Request<I>> for Counted<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    O: Body<Data = Bytes> + Unpin,
{
    type Response = Response<Answer<O>>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let path = request.uri().path();
        Answering {
            call: Some(self.calls.begin(path)),
            path: path.to_owned(),
            inner: Box::pin(self.inner.call(request)),
        }
    }
}

/// A call until its answer begins.
#[derive(Debug)]
pub(super) struct Answering<F> {
    path: String,
    call: Option<Call>,
    inner: Pin<Box<F>>,
}

impl<F, O, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<O>, E>>,
    O: Body<Data = Bytes> + Unpin,
{
    type Output = Result<Response<Answer<O>>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.inner.as_mut().poll(context))?;
        let mut call = self.call.take();
        // A refused call is answered by trailers alone, which hyper counts as headers.
        if let Some(code) = response.headers().get(STATUS) {
            if code != "0" {
                self.log(response.headers(), code);
            }
            if let Some(call) = call.take() {
                call.end(code.as_bytes());
            }
        }
        Poll::Ready(Ok(response.map(|body| Answer { body, call })))
    }
}

impl<F> Answering<F> {
    fn log(&self, headers: &HeaderMap, code: &HeaderValue) {
        let message = headers.get("grpc-message");
        tracing::debug!(
            rpc.method = %self.path,
            rpc.response.status_code = code.to_str().unwrap_or(""),
            error.message = message.and_then(|value| value.to_str().ok()).unwrap_or(""),
            "call refused"
        );
    }
}

/// An answer on its way; the call ends with it.
#[derive(Debug)]
pub(super) struct Answer<O: Body> {
    body: O,
    call: Option<Call>,
}

impl<O: Body<Data = Bytes> + Unpin> Body for Answer<O> {
    type Data = Bytes;
    type Error = O::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, O::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(call) = self.call.take()
        {
            call.end(trailers.get(STATUS).map_or(b"", HeaderValue::as_bytes));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_known_with_its_kind() {
        let methods = methods();
        let streams = |name: &str| {
            let found = methods.iter().find(|(known, _)| known == name);
            found.unwrap_or_else(|| panic!("{name} in {methods:?}")).1
        };
        assert!(!streams("duite.v1.TaskService/CreateTask"));
        assert!(streams("duite.v1.TaskService/WatchTasks"));
        assert!(streams("duite.v1.StateService/PushState"));
    }
}
