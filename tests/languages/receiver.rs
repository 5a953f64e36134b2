//! The other end of OTLP exporters: a gRPC server that keeps the spans and log records it is given.

use std::sync::Arc;

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
    common::v1::{KeyValue, any_value},
    resource::v1::Resource,
};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport};

use crate::support::PATIENCE;

/// A finished span.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    /// `service.name` of who sent it.
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) trace: u128,
    pub(crate) id: u64,
    /// 0: none.
    pub(crate) parent: u64,
    /// As OTLP numbers them.
    pub(crate) kind: i32,
    /// It ended with an error.
    pub(crate) failed: bool,
}

/// A log record.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) trace: u128,
    pub(crate) span: u64,
    attributes: Vec<KeyValue>,
}

impl Record {
    /// An attribute that is a text. Empty: it has none.
    pub(crate) fn text(&self, key: &str) -> &str {
        text(&self.attributes, key)
    }
}

/// All that was received, in the order in which it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) spans: Vec<Span>,
    pub(crate) records: Vec<Record>,
}

impl Seen {
    /// The spans of that name.
    pub(crate) fn named(&self, name: &str) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(move |span| span.name == name)
    }
}

/// Serves until the test's runtime ends.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    seen: Arc<watch::Sender<Seen>>,
    address: String,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let receiver = Self {
            seen: Arc::default(),
            address: format!("http://{address}"),
        };
        let serving = transport::Server::builder()
            .add_service(TraceServiceServer::new(receiver.clone()))
            .add_service(LogsServiceServer::new(receiver.clone()))
            .add_service(MetricsServiceServer::new(receiver.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        receiver
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` takes.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Waits until all that was received is enough.
    #[track_caller]
    pub(crate) fn until(
        &self,
        mut enough: impl FnMut(&Seen) -> bool,
    ) -> impl Future<Output = Seen> {
        let (mut seen, all) = (self.seen.subscribe(), self.seen.subscribe());
        async move {
            let wait = seen.wait_for(|seen| enough(seen));
            let waiting = tokio::time::timeout(PATIENCE, wait).await;
            let waiting = waiting.map(|received| received.expect("the receiver is there").clone());
            waiting.unwrap_or_else(|_| panic!("this is all that came: {:#?}", *all.borrow()))
        }
    }
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let value = found.and_then(|found| found.value.as_ref()?.value.as_ref());
    match value {
        Some(any_value::Value::StringValue(text)) => text,
        _ => "",
    }
}

fn service(resource: Option<&Resource>) -> String {
    let attributes = resource.map_or(&[][..], |resource| &resource.attributes);
    text(attributes, "service.name").to_owned()
}

fn trace_id(bytes: &[u8]) -> u128 {
    bytes.try_into().map_or(0, u128::from_be_bytes)
}

fn span_id(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = Vec::new();
        for resource in request.into_inner().resource_spans {
            let service = service(resource.resource.as_ref());
            let scopes = resource.scope_spans.into_iter();
            spans.extend(scopes.flat_map(|scope| scope.spans).map(|span| Span {
                service: service.clone(),
                name: span.name,
                trace: trace_id(&span.trace_id),
                id: span_id(&span.span_id),
                parent: span_id(&span.parent_span_id),
                kind: span.kind,
                failed: span.status.is_some_and(|status| status.code == 2),
            }));
        }
        self.seen.send_modify(|seen| seen.spans.extend(spans));
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let resources = request.into_inner().resource_logs.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_logs);
        let records = scopes.flat_map(|scope| scope.log_records);
        let records: Vec<_> = records
            .map(|record| Record {
                trace: trace_id(&record.trace_id),
                span: span_id(&record.span_id),
                attributes: record.attributes,
            })
            .collect();
        self.seen.send_modify(|seen| seen.records.extend(records));
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        _: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
}
