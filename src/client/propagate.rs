//! Tells a call which trace it is made in: `traceparent` and `tracestate`, as W3C has them.

use tonic::{Request, metadata::MetadataMap};

use crate::{proto::v1::TraceContext, runtime::current_trace_context};

/// The span that is current where this is called.
pub(super) fn current() -> Option<TraceContext> {
    current_trace_context()
}

/// Puts it into a call's metadata; what somebody put there before stays.
pub(super) fn add(trace: &Option<TraceContext>, metadata: &mut MetadataMap) {
    let Some(trace) = trace else { return };
    if metadata.contains_key("traceparent") {
        return;
    }
    // Both are ASCII; what is not could not be sent, and a call is worth more than its trace.
    if let Ok(parent) = trace.traceparent.parse() {
        metadata.insert("traceparent", parent);
        if !trace.tracestate.is_empty()
            && let Ok(state) = trace.tracestate.parse()
        {
            metadata.insert("tracestate", state);
        }
    }
}

/// A call, once for a whole stream, that is told of the current span.
pub(super) fn request<T>(message: T) -> Request<T> {
    request_in(&current(), message)
}

/// The same of another span than the current.
pub(super) fn request_in<T>(trace: &Option<TraceContext>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    add(trace, request.metadata_mut());
    request
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry::{context::FutureExt, trace::TracerProvider};
    use parking_lot::Mutex;
    use tracing::Instrument;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::{
        client::{NewTask, fake::Fake},
        proto::v1::{CreateTaskResponse, Task},
        runtime::{remote_context, span_trace_context},
    };

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    type Seen = Arc<Mutex<Vec<(String, String)>>>;

    fn fake() -> (Fake, Seen) {
        let seen = Seen::default();
        let headers = Arc::clone(&seen);
        let text = |metadata: &MetadataMap, key| {
            let value = metadata.get(key).map(|value| value.to_str().unwrap());
            value.unwrap_or_default().to_owned()
        };
        let fake = Fake {
            create_task: Some(Box::new(|_| {
                Ok(CreateTaskResponse {
                    task: Some(Task::default()),
                    ..CreateTaskResponse::default()
                })
            })),
            headers: Some(Box::new(move |_, metadata| {
                let found = (text(metadata, "traceparent"), text(metadata, "tracestate"));
                headers.lock().push(found);
            })),
            ..Fake::default()
        };
        (fake, seen)
    }

    #[tokio::test]
    async fn a_call_carries_the_context_that_opentelemetry_holds_for_current() {
        let (fake, seen) = fake();
        let client = fake.serve();
        client.submit(NewTask::new("a")).await.unwrap();
        let context = remote_context(&TraceContext {
            traceparent: PARENT.to_owned(),
            tracestate: "vendor=1".to_owned(),
        });
        let call = client
            .submit(NewTask::new("a"))
            .with_context(context.unwrap());
        call.await.unwrap();
        let with = (PARENT.to_owned(), "vendor=1".to_owned());
        assert_eq!(*seen.lock(), [Default::default(), with]);
    }

    #[tokio::test]
    async fn the_streams_of_a_queue_carry_what_was_current_where_it_was_opened() {
        let (told, mut heard) = tokio::sync::mpsc::channel(8);
        let fake = Fake {
            headers: Some(Box::new(move |call, metadata| {
                let parent = metadata.get("traceparent").cloned();
                // The queue tries again; the first time is enough.
                let _ = told.try_send((call, parent));
            })),
            ..Fake::default()
        };
        let client = fake.serve();
        let context = remote_context(&TraceContext {
            traceparent: PARENT.to_owned(),
            tracestate: String::new(),
        });
        let attached = context.unwrap().attach();
        let queue = crate::client::StateQueue::open(&client, "s");
        drop(attached);
        queue.set("key", 1);
        queue.flush();
        let (call, parent) = heard.recv().await.unwrap();
        assert_eq!(
            (call, parent.unwrap().to_str().unwrap()),
            ("PushState", PARENT)
        );
    }

    #[tokio::test]
    async fn a_call_carries_the_span_that_a_layer_knows() {
        let (fake, seen) = fake();
        let client = fake.serve();
        let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let _another = crate::telemetry::beside_another();
        let _subscriber =
            tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        let span = tracing::info_span!("submit");
        let expected = span_trace_context(&span).unwrap().traceparent;
        let call = client.submit(NewTask::new("a")).instrument(span);
        call.await.unwrap();
        assert_eq!(seen.lock()[0].0, expected);
    }
}
