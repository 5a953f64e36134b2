//! `#[duite::task]` and what becomes of failures in a client process: one process, so that what is
//! process-wide (the pending tasks, the place that failures are reported to) has one set of tests.

use std::{
    num::ParseIntError,
    sync::{Arc, Mutex, atomic::AtomicU32, atomic::Ordering},
    time::Duration,
};

use duite::{
    TaskError, TaskHandle,
    client::Client,
    proto::v1::{
        self as pb,
        error_service_server::{ErrorService, ErrorServiceServer},
    },
};
use tonic::{Request, Response, Status};
use tracing_subscriber::fmt::MakeWriter;

/// Reads a number.
#[duite::task]
async fn read(text: String) -> Result<u32, ParseIntError> {
    let value = text.trim().parse::<u32>()?;
    Ok(value)
}

#[duite::task(name = "mesh")]
async fn named<T: Send + 'static>(mut values: Vec<T>, (extra, _): (T, u8)) -> usize {
    values.push(extra);
    values.len()
}

#[duite::task]
async fn nothing(counter: Arc<AtomicU32>) {
    counter.fetch_add(1, Ordering::SeqCst);
}

#[duite::task]
async fn breaks(index: usize) -> u8 {
    [1, 2, 3][index]
}

#[duite::task]
async fn written() -> std::io::Result<()> {
    if true {
        return Err(std::io::Error::other("disk on fire"));
    }
    Ok(())
}

/// Calls itself, which schedules another task.
#[duite::task]
async fn counts(down: u32) -> Result<u32, TaskError> {
    match down {
        0 => Ok(0),
        _ => Ok(counts(down - 1).await? + 1),
    }
}

mod inner {
    #[duite::task]
    pub(super) async fn seen() -> &'static str {
        "seen"
    }
}

#[tokio::test]
async fn a_call_schedules_the_function_and_gives_its_handle() {
    let handle: TaskHandle<u32> = read(" 42 ".to_owned());
    assert_eq!(handle.name(), "read");
    assert_eq!(handle.await, Ok(42));
    let handle = named(vec!["a"], ("b", 1));
    assert_eq!(handle.name(), "mesh");
    assert_eq!(handle.await, Ok(2));
    assert_eq!(inner::seen().await, Ok("seen"));
    assert_eq!(counts(3).await, Ok(3));
}

#[tokio::test]
async fn it_runs_without_being_awaited() {
    let counter = Arc::new(AtomicU32::new(0));
    drop(nothing(Arc::clone(&counter)));
    while counter.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_error_names_the_function_it_came_from() {
    let error = read("x".to_owned()).await.unwrap_err();
    assert_eq!(error.error_type(), "core::num::error::ParseIntError");
    assert_eq!(error.origin().unwrap().location, "macros.rs:read");
    let error = written().await.unwrap_err();
    assert_eq!(error.to_string(), "disk on fire");
    assert_eq!(error.origin().unwrap().location, "macros.rs:written");
}

#[tokio::test]
async fn a_panic_names_the_function_and_has_a_stack() {
    let error = breaks(7).await.unwrap_err();
    assert!(matches!(error, TaskError::Panicked { .. }), "{error:?}");
    let origin = error.origin().unwrap();
    assert_eq!(origin.location, "macros.rs:breaks", "{}", origin.stack);
    assert!(origin.stack.contains("macros.rs"), "{}", origin.stack);
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_failure_is_logged_once_with_its_duration_within_its_span() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(lines.clone())
        .with_ansi(false)
        .finish();
    // With just one subscriber in the process, tracing asks the thread that first meets a span whether
    // anybody wants it, and another test's thread says no, for all.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let outer = tracing::info_span!("request", id = 7);
    let task = outer.in_scope(|| read("logged".to_owned()));
    task.await.unwrap_err();
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let told: Vec<&str> = text.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(told.len(), 1, "{text}");
    for part in [
        "request{id=7}:task{task.name=\"read\"",
        "duration=",
        "macros.rs:read",
    ] {
        assert!(told[0].contains(part), "{part} in {}", told[0]);
    }
}

type Reports = tokio::sync::mpsc::UnboundedSender<pb::FailureReport>;

struct Errors(Reports);

#[tonic::async_trait]
impl ErrorService for Errors {
    async fn report_failures(
        &self,
        request: Request<pb::ReportFailuresRequest>,
    ) -> Result<Response<pb::ReportFailuresResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.parent, "namespaces/default");
        for report in request.reports {
            self.0.send(report).unwrap();
        }
        Ok(Response::new(pb::ReportFailuresResponse::default()))
    }
    async fn get_error_group(
        &self,
        _: Request<pb::GetErrorGroupRequest>,
    ) -> Result<Response<pb::GetErrorGroupResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }
    async fn list_error_groups(
        &self,
        _: Request<pb::ListErrorGroupsRequest>,
    ) -> Result<Response<pb::ListErrorGroupsResponse>, Status> {
        Err(Status::unimplemented("a fake"))
    }
    type WatchErrorsStream = tokio_stream::Pending<Result<pb::WatchErrorsResponse, Status>>;
    async fn watch_errors(
        &self,
        _: Request<pb::WatchErrorsRequest>,
    ) -> Result<Response<Self::WatchErrorsStream>, Status> {
        Err(Status::unimplemented("a fake"))
    }
}

#[duite::task]
async fn reported(text: String) -> Result<u32, ParseIntError> {
    text.parse()
}

#[duite::task]
async fn reported_panic(text: String) -> u8 {
    panic!("no {text}")
}

#[tokio::test]
async fn failures_are_reported_and_cancels_are_not() {
    let bound = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = bound.local_addr().unwrap().to_string();
    let (reports, mut received) = tokio::sync::mpsc::unbounded_channel();
    let server = tonic::transport::Server::builder()
        .add_service(ErrorServiceServer::new(Errors(reports)))
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(bound));
    tokio::spawn(server);
    let client = Client::connect(address).unwrap();
    duite::report_failures_to(&client).unwrap();
    assert!(duite::report_failures_to(&client).is_err(), "one server");

    reported("x".to_owned()).await.unwrap_err();
    reported_panic("luck".to_owned()).await.unwrap_err();
    let endless = duite::create_task(
        "endless",
        std::future::pending::<Result<(), ParseIntError>>(),
    );
    endless.abort();
    assert_eq!(endless.await, Err(TaskError::Cancelled));
    let running = tokio::spawn(async { "y".parse::<u32>() });
    duite::decorate_task("taken over", running)
        .await
        .unwrap_err();
    assert_eq!(duite::flush_reports(Duration::from_secs(30)).await, 0);

    let mut told = Vec::new();
    while let Ok(report) = received.try_recv() {
        // Other tests of this process may fail at the same time.
        if ["reported", "reported_panic", "endless", "taken_over"].contains(&&*report.task_type) {
            told.push(report);
        }
    }
    let names: Vec<&str> = told.iter().map(|report| &*report.task_type).collect();
    assert_eq!(names, ["reported", "reported_panic", "taken_over"]);
    let failures: Vec<&pb::Failure> = told.iter().flat_map(|report| &report.failure).collect();
    assert_eq!(failures[0].location, "macros.rs:reported");
    assert_eq!(
        (&*failures[1].r#type, &*failures[1].message),
        ("panic", "no luck")
    );
    assert_eq!(failures[1].location, "macros.rs:reported_panic");
    assert!(
        failures
            .iter()
            .all(|failure| failure.runtime.starts_with("rust/"))
    );
    assert!(failures.iter().all(|failure| failure.time.is_some()));
}
