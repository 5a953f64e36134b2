//! One trace from submit to failure, with submitter and worker in Python: a plain OpenTelemetry SDK,
//! and nothing of duite's but generated code.

use std::collections::BTreeMap;

use duite::domain::trace::SpanRef;

use crate::{
    language::{self, Language},
    propagation::{get_task, span_of},
    receiver::{Receiver, Seen},
    support::Server,
};

/// As OTLP numbers them.
const INTERNAL: i32 = 1;
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;

/// What submitter and worker said.
pub(crate) struct Said {
    pub(crate) task: String,
    /// The submitter's span.
    pub(crate) trace_id: u128,
    span_id: u64,
    /// The contexts that came with the leases, by attempt.
    pub(crate) leases: Vec<SpanRef>,
}

/// A server that sends its spans and log records to the receiver.
pub(crate) fn exporting(receiver: &Receiver) -> Server {
    Server::start_env([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address()),
        ("OTEL_SERVICE_NAME", "duite"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "100"),
    ])
}

/// Submits a task, and runs its three attempts, of which two fail.
pub(crate) async fn submit_and_work(
    python: &Language,
    server: &Server,
    receiver: &Receiver,
) -> Said {
    let program = |name: &str| {
        let mut program = python.program(&format!("languages/python/{name}.py"));
        program
            .arg(server.grpc())
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address())
            .env("OTEL_SERVICE_NAME", name);
        program
    };
    let submitted = language::run(program("submitter")).await.json();
    let text = |field: &str| submitted[0][field].as_str().expect("a text");
    let attempts = language::run(program("worker")).await.json();
    let leases = attempts.iter().enumerate().map(|(number, attempt)| {
        assert_eq!(attempt["attempt"], number + 1);
        let context = attempt["traceparent"].as_str().expect("a text");
        SpanRef::parse(context).expect("the lease has a trace context")
    });
    Said {
        task: text("task").to_owned(),
        trace_id: u128::from_str_radix(text("trace_id"), 16).expect("a trace id"),
        span_id: u64::from_str_radix(text("span_id"), 16).expect("a span id"),
        leases: leases.collect(),
    }
}

/// How many spans of the trace there are, by name.
fn names(seen: &Seen, trace: u128) -> BTreeMap<&str, usize> {
    let mut names = BTreeMap::new();
    for span in seen.spans.iter().filter(|span| span.trace == trace) {
        *names.entry(&*span.name).or_default() += 1;
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_holds_a_task_from_submit_to_its_third_attempt_in_python() {
    let Some(python) = Language::python() else {
        return;
    };
    let receiver = Receiver::start().await;
    let server = exporting(&receiver);
    let said = submit_and_work(python, &server, &receiver).await;
    let task = get_task(&server, &said.task).await;
    let trace = said.trace_id;
    let exceptions = |seen: &Seen| -> Vec<_> {
        let of_trace = seen.records.iter().filter(|record| record.trace == trace);
        of_trace
            .filter(|record| !record.text("exception.type").is_empty())
            .cloned()
            .collect()
    };
    let wanted = [
        "submit",
        "create mesh",
        "wait mesh",
        "process mesh",
        "handle mesh",
    ];
    let wanted = wanted.into_iter().zip([1, 1, 3, 3, 3]);
    let seen = receiver
        .until(|seen| {
            let names = names(seen, trace);
            let has = |(name, least): (&str, usize)| names.get(name).is_some_and(|n| *n >= least);
            wanted.clone().all(has) && exceptions(seen).len() >= 2
        })
        .await;

    // The submitter's span, and the call in it, which is the task's creator.
    let spans: Vec<_> = seen
        .spans
        .iter()
        .filter(|span| span.trace == trace)
        .collect();
    let one = |name: &str| {
        let named: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        assert_eq!(named.len(), 1, "{name}: {spans:#?}");
        *named[0]
    };
    let submit = one("submit");
    assert_eq!((submit.id, submit.parent), (said.span_id, 0));
    assert_eq!(submit.service, "submitter");
    let creator = span_of(task.trace_context.as_ref()).span_id;
    let call = spans.iter().find(|span| span.id == creator);
    let call = call.expect("the call is in the trace");
    assert_eq!(
        (&*call.service, call.kind, call.parent),
        ("submitter", CLIENT, submit.id)
    );

    // The server's: children of the creator.
    let create = one("create mesh");
    assert_eq!(
        (&*create.service, create.kind, create.parent),
        ("duite", PRODUCER, creator)
    );
    let waits: Vec<_> = spans
        .iter()
        .filter(|span| span.name == "wait mesh")
        .collect();
    assert_eq!(waits.len(), 3, "one before each attempt: {waits:#?}");
    for wait in waits {
        assert_eq!(
            (&*wait.service, wait.kind, wait.parent),
            ("duite", INTERNAL, creator)
        );
    }
    let processes: Vec<_> = spans
        .iter()
        .filter(|span| span.name == "process mesh")
        .collect();
    assert_eq!(processes.len(), 3, "{spans:#?}");
    let handlers: Vec<_> = spans
        .iter()
        .filter(|span| span.name == "handle mesh")
        .collect();
    assert_eq!(handlers.len(), 3, "{spans:#?}");
    for (number, attempt) in task.attempts.iter().enumerate() {
        let context = span_of(attempt.trace_context.as_ref());
        assert_eq!(context, said.leases[number]);
        let process = processes.iter().find(|span| span.id == context.span_id);
        let process = process.expect("the attempt's span is in the trace");
        assert_eq!(
            (&*process.service, process.kind, process.parent),
            ("duite", CONSUMER, creator)
        );
        let children: Vec<_> = handlers
            .iter()
            .filter(|span| span.parent == process.id)
            .collect();
        assert_eq!(children.len(), 1, "{spans:#?}");
        assert_eq!(children[0].service, "worker");
        let fails = number < 2;
        assert_eq!(
            (process.failed, children[0].failed),
            (fails, fails),
            "{spans:#?}"
        );
    }

    // Each failed attempt has its exception, once.
    let records = exceptions(&seen);
    assert_eq!(records.len(), 2, "{records:#?}");
    for (attempt, (kind, message, function)) in task.attempts.iter().zip([
        ("ZeroDivisionError", "division by zero", "vertices_per_face"),
        (
            "MeshError",
            "a mesh of 12 vertices has no faces",
            "build_mesh",
        ),
    ]) {
        let span = span_of(attempt.trace_context.as_ref()).span_id;
        let record = records.iter().find(|record| record.span == span);
        let record = record.expect("a record has the attempt's span");
        assert_eq!(record.text("exception.type"), kind);
        assert_eq!(record.text("exception.message"), message);
        let stack = record.text("exception.stacktrace");
        assert!(stack.contains(&format!("in {function}")), "{stack}");
    }
}
