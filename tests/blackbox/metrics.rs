//! What can be scraped: it is right, it parses, it follows the conventions, all of it is in
//! docs/OBSERVABILITY.md, and the dashboard and the alerts ask for nothing else. And the same pushed.
//!
//! `prometheus-python` (scripts/tools) reads it with Prometheus's own Python client; where that is
//! missing, and CI is not set, only that part is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use duite::proto::v1::{self as pb, task_outcome};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    metrics_service_server::{MetricsService, MetricsServiceServer},
};
use parking_lot::Mutex;
use tonic::{Request, Response, Status, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    support::{self, PATIENCE},
    wire::{self, PARENT, States, Tasks, Workers},
};

/// Metrics as a receiver has them, by name.
#[derive(Clone, Debug, Default)]
struct Received(Arc<Mutex<BTreeMap<String, usize>>>);

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let resources = request.into_inner().resource_metrics.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_metrics);
        let mut names = self.0.lock();
        for metric in scopes.flat_map(|scope| scope.metrics) {
            *names.entry(metric.name).or_default() += 1;
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// A receiver on a free port; its address.
async fn receive() -> (Received, String) {
    let received = Received::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let service = MetricsServiceServer::new(received.clone());
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    (received, address)
}

/// A server with variables of its own.
struct Server {
    child: Child,
    grpc: String,
    admin: String,
    folder: tempfile::TempDir,
}

impl Server {
    fn start(variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0";
        let mut command =
            support::command(["server", "--listen", any, "--admin", any, "--data", "data"]);
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("OTEL_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .envs(variables.iter().copied())
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let fields = line.trim_end().strip_prefix("listening grpc=").unwrap();
        let (grpc, admin) = fields.split_once(" admin=").unwrap();
        Self {
            grpc: format!("http://{grpc}"),
            admin: admin.to_owned(),
            child,
            folder,
        }
    }

    /// Status, content type and body of a request over HTTP/1.1.
    fn ask(&self, method: &str, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: duite\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let kind = head
            .lines()
            .find_map(|line| line.strip_prefix("content-type: "));
        (status, kind.unwrap_or_default().to_owned(), body.to_owned())
    }

    fn scrape(&self) -> Scrape {
        let (status, kind, body) = self.ask("GET", "/metrics");
        assert_eq!((status, kind.as_str()), (200, "text/plain; version=0.0.4"));
        Scrape::parse(body)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "{}",
                fs::read_to_string(self.folder.path().join("log")).unwrap()
            );
        }
    }
}

/// Status and body of `GET /metrics` over HTTP/2.
async fn over_http2(admin: &str) -> (u16, String) {
    let stream = tokio::net::TcpStream::connect(admin).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = tonic::codegen::http::Request::get(format!("http://{admin}/metrics"));
    let (response, _) = client
        .send_request(request.body(()).unwrap(), true)
        .unwrap();
    let response = response.await.unwrap();
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut page = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        body.flow_control().release_capacity(part.len()).unwrap();
        page.extend_from_slice(&part);
    }
    (status, String::from_utf8(page).unwrap())
}

/// A scrape, taken apart.
#[derive(Debug)]
struct Scrape {
    text: String,
    /// Kind by name.
    kinds: BTreeMap<String, String>,
    values: BTreeMap<String, f64>,
    /// Names of labels by name of the metric.
    labels: BTreeMap<String, BTreeSet<String>>,
}

impl Scrape {
    fn parse(text: String) -> Self {
        let mut scrape = Self {
            text: String::new(),
            kinds: BTreeMap::new(),
            values: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                scrape.kinds.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').unwrap();
                scrape
                    .values
                    .insert(series.to_owned(), value.parse().unwrap());
                let (sample, rest) = series.split_once('{').unwrap_or((series, ""));
                let base = scrape.base(sample).to_owned();
                let labels = scrape.labels.entry(base).or_default();
                for label in rest.split("\",").filter(|label| label.contains("=\"")) {
                    let (label, _) = label.split_once('=').unwrap();
                    if label != "le" {
                        labels.insert(label.to_owned());
                    }
                }
            }
        }
        scrape.text = text;
        scrape
    }

    /// The metric that a sample is of.
    fn base<'a>(&self, sample: &'a str) -> &'a str {
        if self.kinds.contains_key(sample) {
            return sample;
        }
        let mut ends = ["_bucket", "_sum", "_count"].into_iter();
        let base = ends.find_map(|end| sample.strip_suffix(end));
        base.unwrap_or(sample)
    }

    #[track_caller]
    fn expect(&self, series: &str, value: f64) {
        assert_eq!(
            self.values.get(series),
            Some(&value),
            "{series} in {}",
            self.text
        );
    }

    #[track_caller]
    fn at_least(&self, series: &str, value: f64) {
        let found = self.values.get(series).copied();
        assert!(
            found >= Some(value),
            "{series} is {found:?} in {}",
            self.text
        );
    }
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Has a file read by Prometheus's own client, if that is there.
#[track_caller]
fn read_by_prometheus(kind: &str, file: &Path) {
    if let Some(problems) = problems(kind, file) {
        assert_eq!(problems, "");
    }
}

/// What Prometheus's own client finds wrong with a file; none where it is not there.
fn problems(kind: &str, file: &Path) -> Option<String> {
    let check = repository().join("tests/blackbox/metrics_check.py");
    let mut command = Command::new("prometheus-python");
    match command.arg(check).arg(kind).arg(file).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8(said).unwrap();
            assert_eq!(output.status.success(), said.is_empty(), "{said}");
            Some(said)
        }
        Err(error) if env::var_os("CI").is_none() => {
            eprintln!("not read by prometheus-python ({error}): scripts/tools install");
            None
        }
        Err(error) => panic!("prometheus-python: {error}; install it with: scripts/tools install"),
    }
}

async fn lease(workers: &mut Workers, tasks: i32) -> Vec<pb::Lease> {
    let request = pb::LeaseTasksRequest {
        parent: PARENT.to_owned(),
        task_types: vec!["resize".to_owned()],
        max_tasks: tasks,
        wait: wire::millis(10_000),
        worker_id: "worker".to_owned(),
        instance_uid: "11111111-1111-4111-8111-111111111111".to_owned(),
        ..pb::LeaseTasksRequest::default()
    };
    workers
        .lease_tasks(request)
        .await
        .unwrap()
        .into_inner()
        .leases
}

/// Three tasks succeed, two fail, one waits in a queue that nobody serves.
async fn work(channel: &Channel) {
    let mut tasks = Tasks::new(channel.clone());
    for number in 0..6 {
        let request = pb::CreateTaskRequest {
            parent: PARENT.to_owned(),
            task: Some(pb::Task {
                r#type: "resize".to_owned(),
                queue: if number == 5 { "images" } else { "default" }.to_owned(),
                policy: Some(pb::TaskPolicy {
                    max_attempts: 1,
                    ..pb::TaskPolicy::default()
                }),
                ..pb::Task::default()
            }),
            ..pb::CreateTaskRequest::default()
        };
        tasks.create_task(request).await.unwrap();
    }
    let mut workers = Workers::new(channel.clone());
    let mut leases = Vec::new();
    while leases.len() < 5 {
        leases.extend(lease(&mut workers, 5).await);
    }
    let outcomes = leases.into_iter().enumerate().map(|(number, lease)| {
        let outcome = if number < 3 {
            task_outcome::Outcome::Output(pb::Payload::default())
        } else {
            task_outcome::Outcome::Failure(pb::Failure {
                category: pb::failure::Category::Application.into(),
                r#type: "Oops".to_owned(),
                message: "it broke".to_owned(),
                ..pb::Failure::default()
            })
        };
        pb::TaskOutcome {
            lease_token: lease.lease_token,
            outcome: Some(outcome),
            ..pb::TaskOutcome::default()
        }
    });
    let request = pb::FinishTasksRequest {
        outcomes: outcomes.collect(),
        ..pb::FinishTasksRequest::default()
    };
    workers.finish_tasks(request).await.unwrap();
    let missing = pb::GetTaskRequest {
        name: wire::task_name("nobody"),
        ..pb::GetTaskRequest::default()
    };
    tasks.get_task(missing).await.unwrap_err();
}

/// Batches of three keys and a duplicate, pushed, and a watch that sees a change. Gives the watch.
async fn states(channel: &Channel) -> tonic::Streaming<pb::WatchStateResponse> {
    let mut states = States::new(channel.clone());
    let writer = "22222222-2222-4222-8222-222222222222";
    let (frames, receiver) = tokio::sync::mpsc::channel(8);
    frames.send(wire::open_frame("s", writer)).await.unwrap();
    let one = || {
        wire::batch(
            1,
            vec![wire::put("a", 1), wire::put("b", 1), wire::put("c", 1)],
        )
    };
    frames.send(wire::batches_frame(vec![one()])).await.unwrap();
    frames.send(wire::batches_frame(vec![one()])).await.unwrap();
    let two = wire::batch(2, vec![wire::put("a", 2)]);
    frames.send(wire::batches_frame(vec![two])).await.unwrap();
    let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = states.push_state(receiver).await.unwrap().into_inner();
    loop {
        let frame = answers.message().await.unwrap().unwrap().frame;
        if let Some(pb::push_state_response::Frame::Ack(ack)) = frame
            && ack.acked_sequence == 2
        {
            break;
        }
    }
    drop(frames);
    while let Ok(Some(_)) = answers.message().await {}

    let request = pb::WatchStateRequest {
        names: vec![wire::state_name("s")],
        ..pb::WatchStateRequest::default()
    };
    let mut watch = states.watch_state(request).await.unwrap().into_inner();
    let mut changed = false;
    loop {
        match watch.message().await.unwrap().unwrap().frame.unwrap() {
            pb::watch_state_response::Frame::Synced(_) if !changed => {
                changed = true;
                let update = wire::update("s", vec![wire::put("a", 3)]);
                states.update_state(update).await.unwrap();
            }
            pb::watch_state_response::Frame::Delta(_) => return watch,
            _ => {}
        }
    }
}

/// Rows of the tables of metrics in the document: Prometheus's name, kind, labels; by name.
fn documented() -> BTreeMap<String, (String, String, BTreeSet<String>)> {
    let text = fs::read_to_string(repository().join("docs/OBSERVABILITY.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, prometheus, kind, labels, meaning] = cells[..] else {
            continue;
        };
        if !prometheus.starts_with('`') {
            continue;
        }
        assert!(!meaning.is_empty(), "{line}");
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned);
        let row = (
            name.trim_matches('`').to_owned(),
            kind.to_owned(),
            labels.collect(),
        );
        let twice = rows.insert(prometheus.trim_matches('`').to_owned(), row);
        assert!(twice.is_none(), "{line}");
    }
    rows
}

/// Names of metrics in expressions of PromQL, without what stands in braces or behind `by`.
fn asked_for(expression: &str, found: &mut BTreeSet<String>) {
    let mut outside = String::new();
    let mut depth = 0;
    for part in expression.chars() {
        match part {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ if depth == 0 => outside.push(part),
            _ => {}
        }
    }
    let words = outside.split(|part: char| !part.is_ascii_alphanumeric() && part != '_');
    let of_ours = ["duite_", "rpc_server_", "process_", "target_info"];
    let labels = ["duite_namespace"];
    found.extend(
        words
            .filter(|word| of_ours.iter().any(|start| word.starts_with(start)))
            .filter(|word| !labels.contains(word))
            .map(str::to_owned),
    );
}

#[test]
fn the_reader_finds_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scrape");
    let wrong = "# HELP a_milliseconds About.\n# TYPE a_milliseconds gauge\na_milliseconds{job=\"x\"} 1\n\
        # HELP b About.\n# TYPE b counter\nb 1\n# TYPE c histogram\nc_bucket{le=\"1\"} 2\nc_count 1\n";
    fs::write(&file, wrong).unwrap();
    let Some(found) = problems("scrape", &file) else {
        return;
    };
    for problem in [
        "a_milliseconds has a unit",
        "a_milliseconds has the label job",
        "b is a counter and does not end in _total",
        "c has no help",
        "no +Inf bucket",
    ] {
        assert!(found.contains(problem), "`{problem}` is not in {found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_scraped_is_right_and_documented_and_pushed_as_well() {
    let (received, collector) = receive().await;
    let server = Server::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_LOGS_EXPORTER", "none"),
    ]);
    let channel = wire::connect(&server.grpc).await.unwrap();
    work(&channel).await;
    let watch = states(&channel).await;
    let scrape = server.scrape();

    scrape.expect(r#"duite_tasks_created_total{task_type="resize"}"#, 6.0);
    let finished = |status: &str, count| {
        let labels = format!(r#"{{task_status="{status}",task_type="resize"}}"#);
        scrape.expect(&format!("duite_tasks_finished_total{labels}"), count);
    };
    finished("succeeded", 3.0);
    finished("failed", 2.0);
    finished("cancelled", 0.0);
    let standing = |status: &str, count| {
        let labels = format!(r#"{{duite_namespace="default",task_status="{status}"}}"#);
        scrape.expect(&format!("duite_tasks{labels}"), count);
    };
    standing("succeeded", 3.0);
    standing("failed", 2.0);
    standing("queued", 1.0);
    scrape.expect(
        r#"duite_tasks_failures_total{error_type="Oops",task_type="resize"}"#,
        2.0,
    );
    scrape.expect(
        r#"duite_task_attempt_duration_seconds_count{outcome="failed",task_type="resize"}"#,
        2.0,
    );
    scrape.expect(
        r#"duite_task_wait_duration_seconds_count{duite_namespace="default",task_queue="default"}"#,
        5.0,
    );
    let images = r#"{duite_namespace="default",task_queue="images"}"#;
    scrape.expect(&format!("duite_queue_depth{images}"), 1.0);
    scrape.at_least(
        &format!("duite_queue_oldest_wait_seconds{images}"),
        0.000_001,
    );
    let calls = |method: &str, code: &str| {
        format!(
            r#"rpc_server_call_duration_seconds_count{{rpc_method="duite.v1.{method}",rpc_response_status_code="{code}",rpc_system_name="grpc"}}"#
        )
    };
    scrape.expect(&calls("TaskService/CreateTask", "OK"), 6.0);
    scrape.expect(&calls("TaskService/GetTask", "NOT_FOUND"), 1.0);
    scrape.expect("duite_state_batches_received_total", 2.0);
    scrape.expect("duite_state_operations_received_total", 4.0);
    scrape.expect("duite_state_batches_duplicate_total", 1.0);
    scrape.expect("duite_state_batches_merged_total", 3.0);
    scrape.expect(r#"duite_watches_open{kind="state"}"#, 1.0);
    scrape.expect(
        r#"duite_streams_active{rpc_method="duite.v1.StateService/WatchState"}"#,
        1.0,
    );
    scrape.expect(
        r#"duite_streams_ended_total{rpc_method="duite.v1.StateService/PushState",rpc_response_status_code="OK"}"#,
        1.0,
    );
    scrape.expect("duite_server_ready", 1.0);
    scrape.at_least(r#"duite_jobs_running{kind="monitor"}"#, 1.0);
    scrape.at_least("duite_disk_free_bytes", 1.0);
    scrape.at_least("process_memory_usage_bytes", 1e6);
    scrape.at_least("duite_journal_append_size_bytes_sum", 100.0);
    scrape.at_least("duite_watch_commits_total", 1.0);
    drop(watch);

    let file = server.folder.path().join("scrape");
    fs::write(&file, &scrape.text).unwrap();
    read_by_prometheus("scrape", &file);

    let documented = documented();
    let there: BTreeSet<_> = scrape.kinds.keys().collect();
    assert_eq!(documented.keys().collect::<BTreeSet<_>>(), there);
    for (name, (_, kind, labels)) in &documented {
        assert_eq!(kind, &scrape.kinds[name], "{name}");
        assert_eq!(labels, &scrape.labels[name], "{name}");
    }

    let wanted: BTreeSet<_> = documented.values().map(|row| row.0.clone()).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let names = received.0.lock().keys().cloned().collect::<BTreeSet<_>>();
        let missing: Vec<_> = wanted.difference(&names).collect();
        // What Prometheus is told of the server is the resource here.
        if missing == ["target_info"] {
            assert_eq!(names.difference(&wanted).count(), 0, "{names:?}");
            break;
        }
        assert!(Instant::now() < deadline, "{missing:?} were not pushed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn dashboard_and_alerts_ask_only_for_what_there_is() {
    let documented = documented();
    let exists = |word: &str| {
        let histogram = ["_bucket", "_sum", "_count"].iter();
        let mut of_histogram = histogram.filter_map(|end| word.strip_suffix(end));
        documented.contains_key(word)
            || of_histogram.any(|base| documented.get(base).is_some_and(|row| row.1 == "histogram"))
    };
    let dashboard = repository().join("deploy/grafana/duite.json");
    let dashboard = fs::read_to_string(dashboard).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let mut asked = BTreeSet::new();
    let mut expressions = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            expressions += 1;
            asked_for(target["expr"].as_str().unwrap(), &mut asked);
        }
    }
    assert!(expressions > 20, "{expressions}");
    let rules = repository().join("deploy/prometheus/alerts.yaml");
    let text = fs::read_to_string(&rules).unwrap();
    let mut alerts = 0;
    for expression in text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "))
    {
        alerts += 1;
        asked_for(expression, &mut asked);
    }
    assert!(alerts >= 7, "{alerts}");
    let unknown: Vec<_> = asked.iter().filter(|word| !exists(word)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    read_by_prometheus("rules", &rules);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_read_beside_grpc_and_other_paths_say_what_there_is() {
    let server = Server::start(&[]);
    let channel = wire::connect(&format!("http://{}", server.admin))
        .await
        .unwrap();
    let mut health = HealthClient::new(channel);
    let answer = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    let (status, page) = over_http2(&server.admin).await;
    assert_eq!(status, 200);
    assert!(page.contains("duite_server_ready 1"), "{page}");
    let scrape = server.scrape();
    assert!(
        !scrape.text.contains("duite_telemetry"),
        "nothing is pushed"
    );
    let (status, _, body) = server.ask("GET", "/");
    assert_eq!(status, 200);
    assert!(body.contains("/metrics"), "{body}");
    let (status, _, body) = server.ask("GET", "/metric");
    assert_eq!(status, 404);
    assert!(body.contains("/metrics"), "{body}");
    assert!(scrape.values.contains_key("duite_server_ready"));
    let (status, _, body) = server.ask("POST", "/metrics");
    assert_eq!(status, 405);
    assert!(body.contains("GET"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_never_answers_keeps_nobody_waiting() {
    // It accepts connections and says nothing.
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", hole.local_addr().unwrap());
    let mut server = Server::start(&[
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &address),
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
    ]);
    let channel = wire::connect(&server.grpc).await.unwrap();
    work(&channel).await;
    server
        .scrape()
        .expect(r#"duite_tasks_created_total{task_type="resize"}"#, 6.0);
    drop(channel);
    let began = Instant::now();
    support::signal(&server.child, rustix::process::Signal::TERM);
    assert!(server.child.wait().unwrap().success());
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}
