//! How a client is built and what it connects with.

use std::{fmt, sync::Arc, time::Duration};

use tonic::transport::{Channel, Endpoint};

use super::{
    error::Error,
    names::{parent, queue_name, state_name, task_name},
};
use crate::proto::v1::{
    error_service_client::ErrorServiceClient, queue_service_client::QueueServiceClient,
    state_service_client::StateServiceClient, system_service_client::SystemServiceClient,
    task_service_client::TaskServiceClient, worker_service_client::WorkerServiceClient,
};

/// Where a server is looked for when nobody says otherwise.
pub const DEFAULT_ADDRESS: &str = "http://127.0.0.1:7643";
/// What a message from the server may hold: its own limit is 4 MiB.
const DECODE_LIMIT: usize = 8 << 20;
/// The server closes what pings more often; a proxy's idle limit is some minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A connection to a duite server. A clone is cheap and shares it.
///
/// It connects when first used and again whenever that is needed. Calls, pushes and watches have
/// a connection each, because one HTTP/2 connection is served under one lock; pushes of large
/// values have another one, because what shares a connection waits for what it is sending.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    address: String,
    namespace: String,
    deadline: Duration,
    /// None where the caller brought its own channel.
    endpoint: Option<Endpoint>,
    control: Channel,
    push: Channel,
    large_push: Channel,
    watch: Channel,
}

/// Settings of a [`Client`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ClientBuilder {
    address: Option<String>,
    namespace: String,
    deadline: Duration,
}

impl Default for ClientBuilder {
    fn default() -> Self {
        Self {
            address: None,
            namespace: "default".to_owned(),
            deadline: Duration::from_secs(10),
        }
    }
}

impl ClientBuilder {
    /// `http://host:port`, or `host:port`. Default: `$DUITE_ADDR`, else [`DEFAULT_ADDRESS`].
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// The namespace of short names. Default: `default`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// How long a unary call may take, retries included. Default: 10 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Makes the client; nothing is connected yet. To be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the address cannot be understood.
    pub fn build(self) -> Result<Client, Error> {
        let address = self
            .address
            .or_else(|| {
                std::env::var("DUITE_ADDR")
                    .ok()
                    .filter(|address| !address.is_empty())
            })
            .unwrap_or_else(|| DEFAULT_ADDRESS.to_owned());
        let endpoint = endpoint(&address)?;
        let channel = || endpoint.connect_lazy();
        let (control, push, watch) = (channel(), channel(), channel());
        let large_push = channel();
        Ok(Client {
            shared: Arc::new(Shared {
                address,
                namespace: self.namespace,
                deadline: self.deadline,
                endpoint: Some(endpoint),
                control,
                push,
                large_push,
                watch,
            }),
        })
    }

    /// Makes a client over one channel of the caller's, for tests in memory.
    pub fn build_from_channel(self, channel: Channel) -> Client {
        Client {
            shared: Arc::new(Shared {
                address: self.address.unwrap_or_else(|| DEFAULT_ADDRESS.to_owned()),
                namespace: self.namespace,
                deadline: self.deadline,
                endpoint: None,
                control: channel.clone(),
                push: channel.clone(),
                large_push: channel.clone(),
                watch: channel,
            }),
        }
    }
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let with_scheme = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let refuse = |why: &dyn fmt::Display| {
        Error::invalid(
            "Connect",
            format!("the address `{address}` is not of the form http://host:port: {why}"),
        )
    };
    let has_port = |endpoint: &Endpoint| endpoint.uri().port().is_some();
    let endpoint = Endpoint::from_shared(with_scheme).map_err(|error| refuse(&error))?;
    match (endpoint.uri().scheme_str(), endpoint.uri().host()) {
        (Some("http"), Some(host)) if !host.is_empty() => {}
        (Some("http"), _) => return Err(refuse(&"it names no host")),
        _ => return Err(refuse(&"only http is built in")),
    }
    // A URL may mean port 80; a bare name is a port forgotten.
    if !address.contains("://") && !has_port(&endpoint) {
        let why = format!("it names no port, write HOST:PORT such as {address}:7643");
        return Err(refuse(&why));
    }
    endpoint
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(Duration::from_secs(10))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .user_agent(concat!("duite-rust/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| refuse(&error))
}

impl Client {
    /// A client of the server at `address`, which is connected to when first needed. To be called
    /// inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the address cannot be understood.
    pub fn connect(address: impl Into<String>) -> Result<Self, Error> {
        Self::builder().address(address).build()
    }

    /// A client of the server at `$DUITE_ADDR`, else at the default address.
    ///
    /// # Errors
    ///
    /// When the address cannot be understood.
    pub fn from_env() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// A client over a channel of the caller's, for tests in memory.
    pub fn from_channel(channel: Channel) -> Self {
        Self::builder().build_from_channel(channel)
    }

    /// The same, with a connection of its own for large values as a client of an address has.
    #[cfg(test)]
    pub(super) fn from_channels(channel: Channel, large_push: Channel) -> Self {
        let shared = Shared {
            address: DEFAULT_ADDRESS.to_owned(),
            namespace: "default".to_owned(),
            deadline: Duration::from_secs(10),
            endpoint: None,
            control: channel.clone(),
            push: channel.clone(),
            large_push,
            watch: channel,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// All settings.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The server's address as it was given.
    pub fn address(&self) -> &str {
        &self.shared.address
    }

    /// The namespace of short names.
    pub fn namespace(&self) -> &str {
        &self.shared.namespace
    }

    /// How long a unary call may take.
    pub(crate) fn deadline(&self) -> Duration {
        self.shared.deadline
    }

    /// `namespaces/{namespace}`.
    pub(crate) fn parent(&self) -> String {
        parent(&self.shared.namespace)
    }

    /// The full name of a task of this client's namespace.
    pub fn task_name(&self, task: &str) -> String {
        task_name(&self.shared.namespace, task)
    }

    /// The full name of a queue of this client's namespace.
    pub fn queue_name(&self, queue: &str) -> String {
        queue_name(&self.shared.namespace, queue)
    }

    /// The full name of a state of this client's namespace.
    pub fn state_name(&self, state: &str) -> String {
        state_name(&self.shared.namespace, state)
    }

    /// The same client with connections of its own, made inside the current runtime: for a thread
    /// whose calls must not wait for this one's. Over a channel of the caller's, a plain clone.
    pub(crate) fn on_this_runtime(&self) -> Self {
        let Some(endpoint) = &self.shared.endpoint else {
            return self.clone();
        };
        let control = endpoint.connect_lazy();
        Self {
            shared: Arc::new(Shared {
                address: self.shared.address.clone(),
                namespace: self.shared.namespace.clone(),
                deadline: self.shared.deadline,
                endpoint: Some(endpoint.clone()),
                push: control.clone(),
                large_push: control.clone(),
                watch: control.clone(),
                control,
            }),
        }
    }

    pub(crate) fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.shared.control.clone()).max_decoding_message_size(DECODE_LIMIT)
    }

    pub(crate) fn states(&self) -> StateServiceClient<Channel> {
        StateServiceClient::new(self.shared.control.clone()).max_decoding_message_size(DECODE_LIMIT)
    }

    pub(crate) fn task_queues(&self) -> QueueServiceClient<Channel> {
        QueueServiceClient::new(self.shared.control.clone()).max_decoding_message_size(DECODE_LIMIT)
    }

    pub(crate) fn systems(&self) -> SystemServiceClient<Channel> {
        SystemServiceClient::new(self.shared.control.clone())
            .max_decoding_message_size(DECODE_LIMIT)
    }

    pub(crate) fn errors(&self) -> ErrorServiceClient<Channel> {
        ErrorServiceClient::new(self.shared.control.clone()).max_decoding_message_size(DECODE_LIMIT)
    }

    pub(crate) fn system_streams(&self) -> SystemServiceClient<Channel> {
        SystemServiceClient::new(self.shared.watch.clone()).max_decoding_message_size(DECODE_LIMIT)
    }

    pub(crate) fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.shared.control.clone())
            .max_decoding_message_size(DECODE_LIMIT)
    }

    pub(crate) fn pushes(&self) -> StateServiceClient<Channel> {
        StateServiceClient::new(self.shared.push.clone()).max_decoding_message_size(DECODE_LIMIT)
    }

    pub(crate) fn large_pushes(&self) -> StateServiceClient<Channel> {
        StateServiceClient::new(self.shared.large_push.clone())
            .max_decoding_message_size(DECODE_LIMIT)
    }

    pub(crate) fn task_watches(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.shared.watch.clone()).max_decoding_message_size(DECODE_LIMIT)
    }

    pub(crate) fn state_watches(&self) -> StateServiceClient<Channel> {
        StateServiceClient::new(self.shared.watch.clone()).max_decoding_message_size(DECODE_LIMIT)
    }

    pub(crate) fn lease_watches(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.shared.watch.clone()).max_decoding_message_size(DECODE_LIMIT)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Client")
            .field("address", &self.shared.address)
            .field("namespace", &self.shared.namespace)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_taken_with_or_without_its_scheme() {
        for address in ["http://127.0.0.1:7643", "localhost:7643", "http://[::1]:1"] {
            assert_eq!(Client::connect(address).unwrap().address(), address);
        }
    }

    #[tokio::test]
    async fn a_wrong_address_is_refused_with_the_address_in_the_message() {
        for address in [
            "https://example.test:1",
            "http://",
            "not an address",
            "ftp://x:1",
            "foo",
        ] {
            let error = Client::connect(address).unwrap_err();
            assert!(error.message().contains(address), "{error}");
        }
    }
}
