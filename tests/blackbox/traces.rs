//! What an OpenTelemetry collector is told of tasks: one trace for each, also where a worker or the
//! server itself was killed, and nothing that a collector does not do ever holds up the server.

use std::time::{Duration, Instant};

use duite::proto::v1::{self as pb, task_outcome::Outcome};
use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};

use crate::{
    otlp::{Collector, text},
    support::{Server, Worker},
    wire::{self, PARENT, Tasks, Workers},
};

const SUBMITTER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const STARTED: &str = "duite.attempt.started";
const EXCEPTION: &str = "duite.attempt.exception";

/// A server that exports to `endpoint`, soon.
fn server(endpoint: &str) -> Server {
    Server::start_env([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "50"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "64"),
    ])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn submit(server: &Server, id: &str, traceparent: &str) {
    let channel = wire::connect(&server.addr()).await.unwrap();
    let context = (!traceparent.is_empty()).then(|| pb::TraceContext {
        traceparent: traceparent.to_owned(),
        ..pb::TraceContext::default()
    });
    let request = pb::CreateTaskRequest {
        parent: PARENT.to_owned(),
        task_id: id.to_owned(),
        task: Some(pb::Task {
            r#type: "work".to_owned(),
            trace_context: context,
            policy: Some(pb::TaskPolicy {
                retry_initial_delay: wire::millis(1),
                retry_max_delay: wire::millis(1),
                ..pb::TaskPolicy::default()
            }),
            ..pb::Task::default()
        }),
        ..pb::CreateTaskRequest::default()
    };
    Tasks::new(channel).create_task(request).await.unwrap();
}

/// Leases the task that comes, as a worker of any language does.
async fn lease(workers: &mut Workers) -> pb::Lease {
    let request = pb::LeaseTasksRequest {
        parent: PARENT.to_owned(),
        task_types: vec!["work".to_owned()],
        wait: wire::millis(30_000),
        worker_id: "by-hand".to_owned(),
        instance_uid: "11111111-1111-4111-8111-111111111111".to_owned(),
        ..pb::LeaseTasksRequest::default()
    };
    let leases = workers.lease_tasks(request).await.unwrap().into_inner();
    leases.leases.into_iter().next().expect("a task to run")
}

async fn finish(workers: &mut Workers, lease: &pb::Lease, outcome: Outcome) {
    let outcome = pb::TaskOutcome {
        lease_token: lease.lease_token.clone(),
        outcome: Some(outcome),
        ..pb::TaskOutcome::default()
    };
    let request = pb::FinishTasksRequest {
        outcomes: vec![outcome],
        ..pb::FinishTasksRequest::default()
    };
    workers.finish_tasks(request).await.unwrap();
}

fn failure(number: u32) -> Outcome {
    Outcome::Failure(pb::Failure {
        category: pb::failure::Category::Application as i32,
        r#type: "ValueError".to_owned(),
        message: format!("no luck {number}"),
        stack_trace: format!("at work.py:{number}"),
        retryable: true,
        ..pb::Failure::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_fails_twice_and_succeeds_is_one_trace_with_its_two_exceptions() {
    let collector = Collector::start().await;
    let server = server(&collector.endpoint);
    submit(&server, "job", SUBMITTER).await;
    let mut workers = Workers::new(wire::connect(&server.addr()).await.unwrap());
    for number in 1..=2 {
        let held = lease(&mut workers).await;
        finish(&mut workers, &held, failure(number)).await;
    }
    let held = lease(&mut workers).await;
    let output = Outcome::Output(pb::Payload::default());
    finish(&mut workers, &held, output).await;

    let got = collector
        .until(|got| {
            got.named("process work").len() == 3
                && got.events(EXCEPTION).len() == 2
                && got.events(STARTED).len() == 3
        })
        .await;
    assert_eq!(text(&got.resource, "service.name"), Some("duite"));
    assert_eq!(got.spans.len(), 1 + 3 + 3, "{:#?}", got.spans);
    for span in &got.spans {
        assert_eq!(hex(&span.trace_id), TRACE);
        assert_eq!(hex(&span.parent_span_id), "00f067aa0ba902b7");
        assert_eq!(text(&span.attributes, "task.id"), Some("job"));
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
    }
    assert_eq!(got.named("create work")[0].kind, SpanKind::Producer as i32);
    assert_eq!(got.named("wait work").len(), 3);
    let attempts = got.named("process work");
    let codes: Vec<_> = attempts
        .iter()
        .map(|span| span.status.clone().unwrap_or_default().code())
        .collect();
    assert_eq!(
        codes,
        [StatusCode::Error, StatusCode::Error, StatusCode::Unset]
    );
    for (record, number) in got.events(EXCEPTION).iter().zip(1..) {
        let said = |key| text(&record.attributes, key).unwrap_or_default().to_owned();
        assert_eq!(said("exception.type"), "ValueError");
        assert_eq!(said("exception.message"), format!("no luck {number}"));
        assert_eq!(said("exception.stacktrace"), format!("at work.py:{number}"));
        let attempt = attempts[number - 1];
        assert_eq!(record.trace_id, attempt.trace_id);
        assert_eq!(record.span_id, attempt.span_id);
    }
    // The lease carries the context of the attempt's span.
    let given = held.trace_context.unwrap();
    let expected = format!("00-{TRACE}-{}-01", hex(&attempts[2].span_id));
    assert_eq!(given.traceparent, expected);
    let lines = server.log();
    assert_eq!(lines.matches("\"attempt failed\"").count(), 2, "{lines}");
    assert!(lines.contains(TRACE), "{lines}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_attempt_of_a_killed_worker_is_seen_while_it_runs_and_ends_as_lease_lost() {
    let collector = Collector::start().await;
    let server = server(&collector.endpoint);
    let mut worker = Worker::start_with(&server, ["--id", "first"]);
    let run = ["run", "--detach", "--id", "job", "--lease-duration", "2s"];
    let script = "echo ::duite up=true; sleep 60";
    server
        .run(run.into_iter().chain(["--", "sh", "-c", script]))
        .expect(0);
    collector.until(|got| !got.events(STARTED).is_empty()).await;
    // What it has pushed shows that its lease is accepted.
    let mut watch = crate::support::Running::start(&mut server.command(["state", "watch", "job"]));
    watch.stdout_until("up");
    assert!(collector.received().named("process exec").is_empty());
    worker.kill9();
    let killed = Instant::now();
    let got = collector
        .until(|got| !got.named("process exec").is_empty())
        .await;
    assert!(
        killed.elapsed() < Duration::from_secs(6),
        "{:?}",
        killed.elapsed()
    );
    let span = got.named("process exec")[0];
    assert_eq!(text(&span.attributes, "error.type"), Some("lease_lost"));
    assert_eq!(text(&span.attributes, "worker.id"), Some("first"));
    let status = span.status.clone().unwrap_or_default();
    assert_eq!(status.code(), StatusCode::Error);
    let merges = got.spans.iter().filter(|one| one.name == "merge job");
    let merges: Vec<_> = merges.collect();
    assert!(!merges.is_empty(), "what it pushed was merged");
    assert!(merges.iter().all(|one| one.parent_span_id == span.span_id));
    let started = got.events(STARTED)[0];
    assert_eq!(started.span_id, span.span_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_in_mid_attempt_ends_the_attempt_s_span_once_when_it_is_back() {
    let collector = Collector::start().await;
    let mut server = server(&collector.endpoint);
    submit(&server, "job", "").await;
    let mut workers = Workers::new(wire::connect(&server.addr()).await.unwrap());
    let held = lease(&mut workers).await;
    let renewal = pb::RenewLeasesRequest {
        lease_tokens: vec![held.lease_token.clone()],
        worker_id: "by-hand".to_owned(),
        instance_uid: "11111111-1111-4111-8111-111111111111".to_owned(),
    };
    workers.renew_leases(renewal).await.unwrap();
    let before = collector.until(|got| got.spans.len() == 2).await;
    server.kill9();
    server.restart();
    let mut workers = Workers::new(wire::connect(&server.addr()).await.unwrap());
    finish(&mut workers, &held, Outcome::Output(pb::Payload::default())).await;
    assert!(server.stop().success());
    let got = collector.received();
    assert_eq!(got.spans.len(), 3, "{:#?}", got.spans);
    let attempt = got.named("process work")[0];
    let create = before.named("create work")[0];
    let wait = before.named("wait work")[0];
    assert!(create.parent_span_id.is_empty(), "the server's own root");
    assert_eq!(attempt.parent_span_id, create.span_id);
    assert_eq!(attempt.trace_id, create.trace_id);
    assert_eq!(attempt.start_time_unix_nano, wait.end_time_unix_nano);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_answers_nothing_holds_up_neither_the_work_nor_the_end() {
    let collector = Collector::black_hole().await;
    let mut server = server(&collector.endpoint);
    let mut workers = Workers::new(wire::connect(&server.addr()).await.unwrap());
    for number in 0..100 {
        submit(&server, &format!("job-{number}"), "").await;
        let held = lease(&mut workers).await;
        finish(&mut workers, &held, Outcome::Output(pb::Payload::default())).await;
    }
    drop(workers);
    let asked = Instant::now();
    assert!(server.stop().success());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(5), "it took {took:?} to stop");
    assert!(collector.received().spans.is_empty());
    let log = server.log();
    // 64 spans may wait. Where there is no room no trace begins: each of these is one span dropped.
    let told = log.lines().find(|line| line.contains("spans.dropped"));
    let told: serde_json::Value = serde_json::from_str(told.expect(&log)).unwrap();
    let lost = ["spans.dropped", "spans.failed", "spans.pending"];
    let lost = lost.map(|count| told[count].as_u64().unwrap());
    assert!(lost[1] + lost[2] >= 64, "{told}");
    assert!((1..=100).contains(&lost[0]), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_exported_and_what_exporters_and_transport_say_is_not() {
    let collector = Collector::start().await;
    let mut server = Server::start_env([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint),
        ("OTEL_BLRP_SCHEDULE_DELAY", "20"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        // All that any library says goes to standard error.
        (
            "DUITE_LOG",
            "info,h2=trace,hyper=trace,tonic=trace,opentelemetry=debug",
        ),
    ]);
    let is_ready = |got: &crate::otlp::Received| {
        let mut logs = got.logs.iter();
        logs.any(|record| crate::otlp::body(record.body.as_ref()) == Some("server is ready"))
    };
    collector.until(is_ready).await;
    assert!(server.stop().success());
    let got = collector.received();
    // A loop would have made hundreds by now.
    assert!(got.logs.len() < 10, "{:#?}", got.logs);
    let log = server.log();
    assert!(
        log.contains("OTEL_TRACES_SAMPLER is \\\"sometimes\\\""),
        "{log}"
    );
    assert!(log.contains("\"h2::"), "the libraries do speak");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_exported_where_nothing_is_asked_for() {
    let collector = Collector::start().await;
    let mut server = Server::start_env([
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
        ("OTEL_SDK_DISABLED", "true"),
    ]);
    submit(&server, "job", SUBMITTER).await;
    let mut workers = Workers::new(wire::connect(&server.addr()).await.unwrap());
    let held = lease(&mut workers).await;
    // The submitter's context goes on to the worker as it is.
    let given = held.trace_context.clone().unwrap();
    assert_eq!(given.traceparent, SUBMITTER);
    finish(&mut workers, &held, failure(1)).await;
    drop(workers);
    assert!(server.stop().success());
    let got = collector.received();
    assert_eq!((got.spans.len(), got.logs.len()), (0, 0));
}
