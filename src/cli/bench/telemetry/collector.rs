//! The other end of the exporters: one that counts what it is sent, and one that never answers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use opentelemetry_proto::tonic::collector::{
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
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, async_trait, transport::Server};

use super::Error;

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    spans: AtomicU64,
    log_records: AtomicU64,
}

/// Dropping it ends it.
#[derive(Debug)]
pub(super) struct Collector {
    endpoint: String,
    counts: Arc<Counts>,
    job: JoinHandle<Result<(), Error>>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.job.abort();
    }
}

impl Collector {
    /// One that takes everything and counts it.
    pub(super) async fn answering() -> Result<Self, Error> {
        let (listener, endpoint) = listen().await?;
        let counts = Arc::<Counts>::default();
        let services = Services(Arc::clone(&counts));
        let job = tokio::spawn(async move {
            let server = Server::builder()
                .add_service(TraceServiceServer::new(services.clone()))
                .add_service(LogsServiceServer::new(services.clone()))
                .add_service(MetricsServiceServer::new(services));
            let served = server.serve_with_incoming(TcpListenerStream::new(listener));
            served
                .await
                .map_err(|error| Error::io("serve the collector", std::io::Error::other(error)))
        });
        Ok(Self {
            endpoint,
            counts,
            job,
        })
    }

    /// One that takes connections, reads nothing and says nothing.
    pub(super) async fn silent() -> Result<Self, Error> {
        let (listener, endpoint) = listen().await?;
        let counts = Arc::<Counts>::default();
        let counted = Arc::clone(&counts);
        let job = tokio::spawn(async move {
            // A few at most: an exporter has one connection and opens another when it gave one up.
            let mut held = Vec::new();
            loop {
                let accepted = listener.accept().await;
                let (connection, _) =
                    accepted.map_err(|source| Error::io("accept a connection", source))?;
                counted.connections.fetch_add(1, Ordering::Relaxed);
                held.push(connection);
            }
        });
        Ok(Self {
            endpoint,
            counts,
            job,
        })
    }

    pub(super) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    pub(super) fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::Relaxed)
    }

    pub(super) fn spans(&self) -> u64 {
        self.counts.spans.load(Ordering::Relaxed)
    }

    pub(super) fn log_records(&self) -> u64 {
        self.counts.log_records.load(Ordering::Relaxed)
    }

    /// Ends it; an error if it had ended before.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        if !self.job.is_finished() {
            return Ok(());
        }
        (&mut self.job).await.map_err(|_| Error::Panicked)?
    }
}

async fn listen() -> Result<(TcpListener, String), Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.map_err(|source| Error::io("listen on a free port", source))?;
    let address = listener.local_addr();
    let address = address.map_err(|source| Error::io("learn the free port", source))?;
    Ok((listener, format!("http://{address}")))
}

#[derive(Debug, Clone)]
struct Services(Arc<Counts>);

#[async_trait]
impl TraceService for Services {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.get_ref().resource_spans.iter();
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        let spans: usize = scopes.map(|scope| scope.spans.len()).sum();
        self.0.spans.fetch_add(spans as u64, Ordering::Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[async_trait]
impl LogsService for Services {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let resources = request.get_ref().resource_logs.iter();
        let scopes = resources.flat_map(|resource| &resource.scope_logs);
        let records: usize = scopes.map(|scope| scope.log_records.len()).sum();
        self.0
            .log_records
            .fetch_add(records as u64, Ordering::Relaxed);
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

#[async_trait]
impl MetricsService for Services {
    async fn export(
        &self,
        _: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}
