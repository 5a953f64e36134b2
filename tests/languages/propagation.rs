//! Trace context from and to plain OpenTelemetry gRPC clients: a task belongs to the trace of the
//! call that submitted it, and a handler's span to the attempt it runs.

use std::process::Command;

use duite::{
    domain::trace::SpanRef,
    proto::v1::{self as pb, task_service_client::TaskServiceClient},
};

use crate::{
    language::{self, Language},
    receiver::Receiver,
    support::Server,
    traces,
};

/// Reads a task.
pub(crate) async fn get_task(server: &Server, name: &str) -> pb::Task {
    let mut client = TaskServiceClient::connect(server.addr())
        .await
        .expect("the server listens");
    let name = name.to_owned();
    let request = pb::GetTaskRequest {
        name,
        ..pb::GetTaskRequest::default()
    };
    let response = client.get_task(request).await.expect("the task stands");
    response.into_inner().task.expect("a task")
}

/// The span of a stored context.
pub(crate) fn span_of(context: Option<&pb::TraceContext>) -> SpanRef {
    let context = context.expect("a trace context");
    SpanRef::parse(&context.traceparent).expect("a W3C trace context")
}

/// Runs a program that submits a task and runs it, and sees that the trace went with both.
async fn propagates(program: impl FnOnce(&Server) -> Command) {
    let receiver = Receiver::start().await;
    let server = &traces::exporting(&receiver);
    let program = program(server);
    let said = language::run(program).await.json();
    let text = |field: &str| said[0][field].as_str().expect("a text").to_owned();
    let task = get_task(server, &text("task")).await;
    assert_eq!(task.status(), pb::task::Status::Succeeded, "{task:?}");
    let creator = span_of(task.trace_context.as_ref());
    assert_eq!(format!("{:032x}", creator.trace_id), text("trace_id"));
    assert!(creator.is_sampled());
    let lease = SpanRef::parse(&text("lease")).expect("the lease has a trace context");
    assert_eq!(lease.trace_id, creator.trace_id);
    assert_eq!(text("handler_trace_id"), text("trace_id"));
    assert_eq!(text("handler_parent_id"), format!("{:016x}", lease.span_id));
    assert_eq!(span_of(task.attempts[0].trace_context.as_ref()), lease);
    assert_ne!(lease.span_id, creator.span_id, "the attempt has a span");
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_context_goes_from_and_to_a_plain_client_in_node() {
    let Some(node) = Language::node() else { return };
    let program = |server: &Server| {
        let mut program = node.program("languages/node/propagate.js");
        program.args([server.grpc(), language::proto_folder()]);
        program
    };
    propagates(program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_context_goes_from_and_to_a_plain_client_in_go() {
    let Some(go) = Language::go() else { return };
    let program = |server: &Server| {
        go.add_package("languages/go/duite");
        let mut program = go.build_go("languages/go/propagate", "propagate");
        program.args([server.grpc(), &uuid::Uuid::new_v4().to_string()]);
        program
    };
    propagates(program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_context_goes_from_and_to_a_plain_client_in_python() {
    let Some(python) = Language::python() else {
        return;
    };
    // Without an exporter in the server its attempts carry the submitter's context.
    let receiver = Receiver::start().await;
    let server = Server::start();
    let said = traces::submit_and_work(python, &server, &receiver).await;
    let task = get_task(&server, &said.task).await;
    assert_eq!(task.status(), pb::task::Status::Succeeded, "{task:?}");
    let creator = span_of(task.trace_context.as_ref());
    assert_eq!(creator.trace_id, said.trace_id);
    let seen = receiver
        .until(|seen| seen.named("handle mesh").count() == 3)
        .await;
    let parents = seen.named("handle mesh").map(|span| span.parent);
    let leases: Vec<_> = said.leases.iter().map(|lease| lease.span_id).collect();
    assert_eq!(parents.collect::<Vec<_>>(), leases);
    let handlers: Vec<_> = seen.named("handle mesh").collect();
    for (attempt, handler) in task.attempts.iter().zip(&handlers).take(2) {
        let failure = attempt.failure.as_ref().expect("it failed");
        let span = span_of(failure.trace_context.as_ref());
        assert_eq!(span.trace_id, handler.trace);
        assert_eq!(span.span_id, handler.id);
    }
    are_whole(&task);
}

/// What the API has of the two exceptions.
fn are_whole(task: &pb::Task) {
    let [first, second, _] = &task.attempts[..] else {
        panic!("three attempts were expected: {task:#?}");
    };
    let failures = [first, second].map(|one| one.failure.as_ref().expect("it failed"));
    for (failure, (kind, message, location)) in failures.into_iter().zip([
        (
            "ZeroDivisionError",
            "division by zero",
            "worker.py:vertices_per_face",
        ),
        (
            "MeshError",
            "a mesh of 12 vertices has no faces",
            "worker.py:build_mesh",
        ),
    ]) {
        assert_eq!((&*failure.r#type, &*failure.message), (kind, message));
        assert_eq!(failure.location, location);
        assert!(failure.runtime.starts_with("python/3."), "{failure:?}");
        let stack = &failure.stack_trace;
        assert!(
            stack.starts_with("Traceback (most recent call last)"),
            "{stack}"
        );
        assert!(stack.contains("in build_mesh"), "{stack}");
    }
    let cause = failures[1].cause.as_ref().expect("it has a cause");
    assert_eq!((&*cause.r#type, &*cause.message), ("KeyError", "'faces'"));
}
