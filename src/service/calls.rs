//! Around every call of the services: what it takes is counted, until its answer has been sent; a
//! panic in it is caught, counted, and answered with INTERNAL, so that it costs nobody else on the
//! connection his call; one that passes its deadline is told so; and one that is refused as it begins leaves a debug line: with it, a client's complaint can be
//! found without a packet trace. Streams that end later tell their own end.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::time::{Sleep, sleep};
use tonic::{
    Status,
    codegen::http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE},
};
use tower::{Layer, Service};

use super::to_status;
use crate::{
    domain::{Error, Reason},
    proto::DESCRIPTOR_SET,
    runtime::{JobKind, Registry, catch_now},
    telemetry::metrics::{Call, Calls, Metrics},
};

const STATUS: &str = "grpc-status";
const TIMEOUT: &str = "grpc-timeout";

#[derive(Clone, Debug)]
pub(super) struct CallsLayer {
    calls: Calls,
    jobs: Registry,
}

impl CallsLayer {
    /// Panics are told to `jobs`.
    pub(super) fn new(metrics: &Metrics, jobs: Registry) -> Self {
        Self {
            calls: metrics.calls(methods()),
            jobs,
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
            jobs: self.jobs.clone(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    inner: S,
    calls: Calls,
    jobs: Registry,
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
            guard: PanicGuard {
                path: path.into(),
                jobs: self.jobs.clone(),
            },
            // Made before tonic's own, which answers with CANCELLED: so this one is never later, and
            // is looked at first.
            deadline: timeout(request.headers()).map(|time| Box::pin(sleep(time))),
            inner: Box::pin(self.inner.call(request)),
        }
    }
}

/// A call until its answer begins.
#[derive(Debug)]
pub(super) struct Answering<F> {
    guard: PanicGuard,
    call: Option<Call>,
    deadline: Option<Pin<Box<Sleep>>>,
    inner: Pin<Box<F>>,
}

/// How long the caller waits, if he says so and it can be understood: at most 8 digits and a unit.
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

impl<F, O, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<O>, E>>,
    O: Body<Data = Bytes> + Unpin,
{
    type Output = Result<Response<Answer<O>>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let polled = this.guard.poll(|| this.inner.as_mut().poll(context));
        let response = match polled {
            Ok(Poll::Ready(response)) => response?.map(Some),
            Ok(Poll::Pending) => {
                let Some(deadline) = &mut this.deadline else {
                    return Poll::Pending;
                };
                ready!(deadline.as_mut().poll(context));
                // Without details, like the one that the caller's own library makes.
                Status::deadline_exceeded("the call's deadline has passed")
                    .into_http::<()>()
                    .map(|()| None)
            }
            Err(failed) => {
                let mut response = Response::new(None);
                *response.headers_mut() = failed;
                response
            }
        };
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
        let guard = self.guard.clone();
        Poll::Ready(Ok(response.map(|body| Answer { body, call, guard })))
    }
}

impl<F> Answering<F> {
    fn log(&self, headers: &HeaderMap, code: &HeaderValue) {
        let message = headers.get("grpc-message");
        tracing::debug!(
            rpc.method = %self.guard.path,
            rpc.response.status_code = code.to_str().unwrap_or(""),
            error.message = message.and_then(|value| value.to_str().ok()).unwrap_or(""),
            "call refused"
        );
    }
}

/// An answer on its way; the call ends with it.
#[derive(Debug)]
pub(super) struct Answer<O: Body> {
    /// None: there is nothing more to send.
    body: Option<O>,
    call: Option<Call>,
    guard: PanicGuard,
}

/// Catches the panics of one call.
#[derive(Clone, Debug)]
struct PanicGuard {
    path: Arc<str>,
    jobs: Registry,
}

impl PanicGuard {
    /// What a poll gave, or after a panic the headers that end the call. What panicked is not polled
    /// again.
    fn poll<T>(&self, poll: impl FnOnce() -> T) -> Result<T, HeaderMap> {
        catch_now(poll).map_err(|panic| {
            self.jobs.caught(JobKind::Call, &self.path, panic);
            let error = Error::new(
                Reason::Internal,
                "the server failed at this call, which is its fault: its log says where",
            );
            let response: Response<()> = to_status(&error).into_http();
            response.into_parts().0.headers
        })
    }
}

impl<O: Body<Data = Bytes> + Unpin> Body for Answer<O> {
    type Data = Bytes;
    type Error = O::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, O::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        let polled = this.guard.poll(|| Pin::new(body).poll_frame(context));
        let frame = match polled {
            Ok(poll) => ready!(poll),
            Err(mut failed) => {
                this.body = None;
                failed.remove(CONTENT_TYPE);
                Some(Ok(Frame::trailers(failed)))
            }
        };
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(call) = self.call.take()
        {
            call.end(trailers.get(STATUS).map_or(b"", HeaderValue::as_bytes));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Some(body) => body.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io};

    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Panics as it is called, or as its answer is sent.
    #[derive(Clone)]
    struct Panicking {
        at_once: bool,
    }

    struct Never;

    impl Body for Never {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
            panic!("as it was sent")
        }
    }

    impl Service<Request<()>> for Panicking {
        type Response = Response<Never>;
        type Error = Infallible;
        type Future = futures_util::future::Lazy<Answers>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            let answers: Answers = match self.at_once {
                true => |_| panic!("as it was called"),
                false => |_| Ok(Response::new(Never)),
            };
            futures_util::future::lazy(answers)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_passes_its_deadline_is_told_so() {
        let layer = CallsLayer::new(&Metrics::default(), Registry::new(CancellationToken::new()));
        let mut service = layer.layer(tower::service_fn(|_: Request<()>| {
            std::future::pending::<Result<Response<Never>, Infallible>>()
        }));
        let request = Request::builder()
            .uri("/duite.v1.WorkerService/LeaseTasks")
            .header(TIMEOUT, "300m");
        let begun = tokio::time::Instant::now();
        let answer = service.call(request.body(()).unwrap()).await.unwrap();
        assert_eq!(answer.headers()[STATUS], "4");
        assert_eq!(begun.elapsed().as_millis(), 300);
    }

    #[test]
    fn a_deadline_is_digits_and_a_unit() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, text.parse().unwrap());
            timeout(&headers)
        };
        assert_eq!(of("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(of("99999999M"), Some(Duration::from_secs(5_999_999_940)));
        assert_eq!(of("3S"), Some(Duration::from_secs(3)));
        assert_eq!(of("30000m"), Some(Duration::from_secs(30)));
        assert_eq!(of("7u"), Some(Duration::from_micros(7)));
        assert_eq!(of("0n"), Some(Duration::ZERO));
        for wrong in [
            "",
            "S",
            "3",
            "-3S",
            "+3S",
            "3.5S",
            "123456789S",
            "3s",
            "3\u{e9}",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    type Answers = fn(&mut Context<'_>) -> Result<Response<Never>, Infallible>;

    #[tokio::test]
    async fn a_panic_ends_its_call_with_internal_and_is_counted_once() {
        let jobs = Registry::new(CancellationToken::new());
        let layer = CallsLayer::new(&Metrics::default(), jobs.clone());
        let ask = |at_once| {
            let request = Request::builder().uri("/duite.v1.TaskService/GetTask");
            layer
                .layer(Panicking { at_once })
                .call(request.body(()).unwrap())
        };
        let refused = ask(true).await.unwrap();
        assert_eq!(refused.headers()[STATUS], "13");
        assert!(refused.body().is_end_stream());
        let mut answer = ask(false).await.unwrap().into_body();
        let frame = std::future::poll_fn(|context| Pin::new(&mut answer).poll_frame(context));
        let trailers = frame.await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers[STATUS], "13");
        let end = std::future::poll_fn(|context| Pin::new(&mut answer).poll_frame(context));
        assert!(end.await.is_none());
        assert_eq!(jobs.by_kind()["call"].panicked, 2);
        assert_eq!(jobs.pending_tasks(), 0);
    }

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
