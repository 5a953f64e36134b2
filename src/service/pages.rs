//! What the admin address says to whoever comes without gRPC: a few pages of text.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tonic::{
    body::Body,
    codegen::http::{
        HeaderValue, Method, Request, Response, StatusCode,
        header::{ALLOW, CONTENT_TYPE},
    },
    service::Routes,
};
use tower::{Layer, Service};

use crate::{
    runtime::blocking,
    telemetry::metrics::{Metrics, TEXT_FORMAT},
};

const PLAIN: &str = "text/plain; charset=utf-8";
const THERE: &str = "/metrics: what the server counts, for Prometheus\n";

/// Adds pages to what is served by gRPC: `/` says which there are.
#[must_use]
pub fn with_pages(routes: Routes, metrics: Metrics) -> Routes {
    Routes::from(routes.into_axum_router().layer(PagesLayer { metrics }))
}

#[derive(Clone, Debug)]
struct PagesLayer {
    metrics: Metrics,
}

impl<S> Layer<S> for PagesLayer {
    type Service = Pages<S>;

    fn layer(&self, inner: S) -> Pages<S> {
        Pages {
            inner,
            metrics: self.metrics.clone(),
        }
    }
}

#[derive(Clone, Debug)]
struct Pages<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, I, O> Service<Request<I>> for Pages<S>
where
    S: Service<Request<I>, Response = Response<O>, Error = Infallible>,
    S::Future: Send + 'static,
    O: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    O::Error: Into<tonic::codegen::StdError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<I>) -> Self::Future {
        let kind = request.headers().get(CONTENT_TYPE);
        let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if is_grpc {
            let answer = self.inner.call(request);
            return Box::pin(async move { Ok(answer.await?.map(Body::new)) });
        }
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let metrics = self.metrics.clone();
        Box::pin(async move { Ok(page(&method, &path, metrics).await) })
    }
}

async fn page(method: &Method, path: &str, metrics: Metrics) -> Response<Body> {
    if !matches!(path, "/" | "/metrics") {
        let text = format!("there is nothing at this path; there is {THERE}");
        return text_page(StatusCode::NOT_FOUND, PLAIN, text.into());
    }
    // Of an answer to HEAD the body is left out where it is sent.
    if !matches!(*method, Method::GET | Method::HEAD) {
        let text = "this can only be read: use GET\n";
        let mut page = text_page(StatusCode::METHOD_NOT_ALLOWED, PLAIN, text.into());
        let headers = page.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return page;
    }
    if path == "/" {
        return text_page(StatusCode::OK, PLAIN, THERE.into());
    }
    // It asks everything there is, which is too much for a thread that serves others.
    match blocking("read metrics", move || metrics.scrape()).await {
        Ok(Ok(text)) => text_page(StatusCode::OK, TEXT_FORMAT, text),
        Ok(Err(error)) => unreadable(&error.to_string()),
        Err(error) => unreadable(&error.to_string()),
    }
}

fn unreadable(problem: &str) -> Response<Body> {
    tracing::error!(error.message = problem, "metrics cannot be read");
    let text = format!("metrics cannot be read: {problem}\n");
    text_page(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, text.into())
}

fn text_page(status: StatusCode, kind: &'static str, text: Vec<u8>) -> Response<Body> {
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut page = Response::new(Body::new(text));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    page
}
