//! An OpenTelemetry collector over gRPC that keeps what it is sent, for tests.
//!
//! [`Collector::start`] is a healthy one; [`Collector::black_hole`] accepts connections and answers
//! nothing; [`Collector::refusing`] answers every export with an error.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test crate uses a part of it"
)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::Metric,
    trace::v1::Span,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::{Request, Response, Status, transport::Server};

/// How long anything may take that should take no time.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was received.
#[derive(Clone, Debug, Default)]
pub struct Received {
    pub spans: Vec<Span>,
    pub logs: Vec<LogRecord>,
    pub metrics: Vec<Metric>,
    /// The attributes of the resource of the last export.
    pub resource: Vec<KeyValue>,
}

/// A collector, which ends when it is dropped.
#[derive(Debug)]
pub struct Collector {
    /// `http://HOST:PORT`, for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: String,
    store: Store,
    server: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct Store {
    received: Arc<Mutex<Received>>,
    news: watch::Sender<()>,
    refuses: bool,
}

impl Collector {
    /// One that takes everything.
    pub async fn start() -> Self {
        Self::serve(false).await
    }

    /// One that takes nothing, and says so.
    pub async fn refusing() -> Self {
        Self::serve(true).await
    }

    /// One that accepts connections, reads nothing and answers nothing.
    pub async fn black_hole() -> Self {
        let (listener, endpoint) = listen().await;
        let server = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                held.push(connection);
            }
        });
        Self {
            endpoint,
            store: Store::new(false),
            server,
        }
    }

    async fn serve(refuses: bool) -> Self {
        let (listener, endpoint) = listen().await;
        let store = Store::new(refuses);
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let serving = Server::builder()
            .add_service(TraceServiceServer::new(store.clone()))
            .add_service(LogsServiceServer::new(store.clone()))
            .add_service(MetricsServiceServer::new(store.clone()))
            .serve_with_incoming(incoming);
        let server = tokio::spawn(async move { serving.await.expect("the collector serves") });
        Self {
            endpoint,
            store,
            server,
        }
    }

    /// What it has received so far.
    pub fn received(&self) -> Received {
        self.store.received.lock().unwrap().clone()
    }

    /// Waits until what it has received is as wished, and gives it.
    pub async fn until(&self, wish: impl Fn(&Received) -> bool) -> Received {
        let mut news = self.store.news.subscribe();
        let wait = async {
            loop {
                news.mark_unchanged();
                let received = self.received();
                if wish(&received) {
                    return received;
                }
                news.changed().await.expect("the store is kept here");
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(received) => received,
            Err(_) => panic!("it was not received: {:#?}", self.received()),
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, format!("http://{address}"))
}

impl Received {
    /// The spans of this name.
    pub fn named(&self, name: &str) -> Vec<&Span> {
        self.spans.iter().filter(|span| span.name == name).collect()
    }

    /// The log records of this event.
    pub fn events(&self, name: &str) -> Vec<&LogRecord> {
        let records = self.logs.iter();
        records.filter(|record| record.event_name == name).collect()
    }
}

/// The text of an attribute.
pub fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|one| one.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// The text of a body.
pub fn body(value: Option<&AnyValue>) -> Option<&str> {
    match value?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

impl Store {
    fn new(refuses: bool) -> Self {
        Self {
            received: Arc::default(),
            news: watch::Sender::new(()),
            refuses,
        }
    }

    fn take(&self, keep: impl FnOnce(&mut Received)) -> Result<(), Status> {
        if self.refuses {
            return Err(Status::permission_denied("this collector takes nothing"));
        }
        keep(&mut self.received.lock().unwrap());
        self.news.send_replace(());
        Ok(())
    }
}

#[tonic::async_trait]
impl TraceService for Store {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take(|received| {
            for resource in request.into_inner().resource_spans {
                received.resource = resource.resource.unwrap_or_default().attributes;
                let spans = resource.scope_spans.into_iter();
                received.spans.extend(spans.flat_map(|scope| scope.spans));
            }
        })?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Store {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.take(|received| {
            for resource in request.into_inner().resource_logs {
                received.resource = resource.resource.unwrap_or_default().attributes;
                let logs = resource.scope_logs.into_iter();
                received
                    .logs
                    .extend(logs.flat_map(|scope| scope.log_records));
            }
        })?;
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Store {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.take(|received| {
            for resource in request.into_inner().resource_metrics {
                received.resource = resource.resource.unwrap_or_default().attributes;
                let metrics = resource.scope_metrics.into_iter();
                received
                    .metrics
                    .extend(metrics.flat_map(|scope| scope.metrics));
            }
        })?;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
