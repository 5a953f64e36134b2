use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry::trace::Status;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};

use super::*;
use crate::{
    domain::task::{Changed, Event, Policy, next},
    telemetry::otlp::{Batching, Role, resource},
};

#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

struct Sandbox {
    traces: Traces,
    kept: Kept,
    namespace: NamespaceId,
    task: Option<Task>,
}

impl Sandbox {
    fn new(sampler: Sampler) -> Self {
        let batching = Batching {
            queue: 100,
            batch: 10,
            delay: Duration::from_secs(60),
        };
        let (kept, runtime) = (Kept::default(), tokio::runtime::Handle::current());
        let spans = Spans::to(kept.clone(), batching, &resource(Role::Server), &runtime);
        Self {
            traces: Traces::new(Some(spans), None, sampler),
            kept,
            namespace: NamespaceId::trusted("default"),
            task: None,
        }
    }

    fn change(&mut self, to: Option<Task>) {
        let (before, after) = (self.task.as_ref(), to.as_ref());
        self.traces.task_changed(&self.namespace, before, after);
        self.task = to;
    }

    fn create(&mut self, uid: u128, context: Option<TraceContext>) {
        let task = Task {
            id: "t".into(),
            r#type: "work".into(),
            policy: Policy {
                max_attempts: 3,
                ..Policy::default()
            },
            trace_context: self.traces.begin(context, Uid(uid)),
            ..Task::default()
        };
        self.change(Some(task.begin(Uid(uid), 1_000_000)));
    }

    fn event(&mut self, event: Event, now_us: i64) {
        match next(self.task.as_ref().unwrap(), &event, now_us, 0) {
            Ok(Changed::To(task)) => self.change(Some(*task)),
            other => panic!("{event:?} gives {other:?}"),
        }
    }

    fn lease(&mut self, now_us: i64) {
        let lease = Event::Lease {
            secret: 7,
            worker_id: "w".into(),
            instance: Uid(9),
            trace_context: self.traces.attempt(self.task.as_ref().unwrap()),
        };
        self.event(lease, now_us);
    }

    fn exported(&self) -> Vec<SpanData> {
        let spans = self.traces.spans().unwrap();
        spans.flush().unwrap();
        self.kept.0.lock().unwrap().clone()
    }
}

impl Spans {
    fn flush(&self) -> OTelSdkResult {
        self.provider(Sampler::default()).force_flush()
    }
}

fn submitted(flags: &str) -> Option<TraceContext> {
    Some(TraceContext {
        traceparent: format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}"),
        tracestate: "vendor=1".into(),
    })
}

fn attribute(span: &SpanData, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|one| one.key.as_str() == key)?;
    Some(found.value.as_str().into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lost_and_a_released_attempt_are_told_apart_and_each_ends_once() {
    let mut sandbox = Sandbox::new(Sampler::default());
    sandbox.create(1, submitted("01"));
    sandbox.lease(2_000_000);
    // Nothing of the span changes with these.
    sandbox.event(Event::Suspect { fence: 1 }, 2_500_000);
    sandbox.event(Event::LeaseLost { fence: 1 }, 3_000_000);
    sandbox.lease(4_000_000);
    sandbox.event(
        Event::Release {
            fence: 2,
            secret: 7,
        },
        5_000_000,
    );
    sandbox.lease(6_000_000);
    sandbox.event(Event::TotalTimeout, 7_000_000);
    sandbox.change(None);
    let spans = sandbox.exported();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
    let (wait, process) = ("wait work", "process work");
    assert_eq!(
        names,
        ["create work", wait, process, wait, process, wait, process]
    );
    let ended: Vec<_> = [2, 4, 6]
        .map(|at| &spans[at])
        .iter()
        .map(|span| {
            let outcome = attribute(span, "duite.attempt.outcome").unwrap();
            (outcome, attribute(span, "error.type"))
        })
        .collect();
    let text = |text: &str| text.to_owned();
    assert_eq!(
        ended,
        [
            (text("failed"), Some(text("lease_lost"))),
            (text("released"), None),
            (text("failed"), Some(text("timeout"))),
        ]
    );
    assert_eq!(spans[4].status, Status::Unset);
    assert_eq!(spans[4].end_time, spans::time(5_000_000));
    let state = spans[2].span_context.trace_state().header();
    assert_eq!(state, "vendor=1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_id_that_is_used_again_is_another_task_and_what_is_not_sampled_has_no_spans() {
    let mut sandbox = Sandbox::new(Sampler::default());
    sandbox.create(1, None);
    sandbox.create(2, submitted("00"));
    sandbox.lease(2_000_000);
    let attempt = sandbox.task.as_ref().unwrap().running().unwrap();
    assert_eq!(attempt.trace_context, submitted("00"), "passed on as it is");
    sandbox.event(Event::LeaseLost { fence: 1 }, 3_000_000);
    sandbox.create(3, None);
    let spans = sandbox.exported();
    assert_eq!(spans.len(), 2, "{spans:#?}");
    let [one, other] = [&spans[0], &spans[1]].map(|span| span.span_context.trace_id());
    assert_ne!(one, other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_sampler_decides_roots_and_one_that_follows_no_parent_decides_all() {
    let begin = |name: &str, context| {
        let sampler = Sampler::parse(name, None).unwrap();
        let context = Sandbox::new(sampler).traces.begin(context, Uid(5));
        context.map(|context| SpanRef::of(Some(&context)).unwrap().is_sampled())
    };
    assert_eq!(begin("parentbased_always_on", None), Some(true));
    assert_eq!(begin("parentbased_always_off", None), None);
    assert_eq!(begin("parentbased_always_off", submitted("01")), Some(true));
    assert_eq!(begin("always_off", submitted("01")), Some(false));
    assert_eq!(begin("always_on", submitted("00")), Some(true));
    let off = Traces::default();
    assert_eq!(off.begin(None, Uid(5)), None);
    assert_eq!(off.begin(submitted("01"), Uid(5)), submitted("01"));
}
