//! One debug line for each call that is refused as it begins: with it, a client's complaint can be
//! found without a packet trace. Streams that end later tell their own end.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FailedCallsLayer {}

impl<S> Layer<S> for FailedCallsLayer {
    type Service = FailedCalls<S>;

    fn layer(&self, inner: S) -> Self::Service {
        FailedCalls { inner }
    }
}

#[derive(Clone, Debug)]
pub(super) struct FailedCalls<S> {
    inner: S,
}

impl<S, I, O> Service<Request<I>> for FailedCalls<S>
where
    S: Service<Request<I>, Response = Response<O>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Logged<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        Logged {
            path: request.uri().path().to_owned(),
            inner: Box::pin(self.inner.call(request)),
        }
    }
}

#[derive(Debug)]
pub(super) struct Logged<F> {
    path: String,
    inner: Pin<Box<F>>,
}

impl<F, O, E> Future for Logged<F>
where
    F: Future<Output = Result<Response<O>, E>>,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.inner.as_mut().poll(context));
        // A refused call is answered by trailers alone, which hyper counts as headers.
        if let Ok(response) = &result
            && let Some(code) = response.headers().get("grpc-status")
            && code != "0"
        {
            let text = |name| {
                let value = response.headers().get(name);
                value.and_then(|value| value.to_str().ok()).unwrap_or("")
            };
            tracing::debug!(
                rpc.method = %self.path,
                rpc.response.status_code = text("grpc-status"),
                error.message = text("grpc-message"),
                "call refused"
            );
        }
        Poll::Ready(result)
    }
}
