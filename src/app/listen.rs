//! The listeners and the HTTP that is spoken on them: HTTP/2, and HTTP/1.1 where pages are read.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{self, Server, server::Connected},
};

use super::Error;

/// Health checks and reflection need few.
pub(super) const ADMIN_STREAMS: u32 = 64;
/// What one stream may send before it is read.
const STREAM_WINDOW: u32 = 1 << 20;
/// What one connection may send before it is read: a few times the stream's, so that one upload
/// does not stop the others; h2 also takes its budget of small frames from it.
const CONNECTION_WINDOW: u32 = 4 << 20;
/// A silent connection is asked whether it still is, and closed when no answer comes.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WITHIN: Duration = Duration::from_secs(10);
const HEADER_BYTES: u32 = 16 << 10;
/// Pause when no connection can be accepted: usually all file descriptors are in use, and asking
/// again at once would only keep a processor busy.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener with its real address.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    pub(super) listener: TcpListener,
}

/// A listener to be served.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) listener: Listener,
    pub(super) max_streams: u32,
    /// HTTP/1.1 is answered as well: pages are read so.
    pub(super) http1: bool,
    pub(super) stop: CancellationToken,
}

/// Listens on `address`; `option` is what the user sets it with.
pub(super) async fn bind(address: &str, option: &'static str) -> Result<Listener, Error> {
    let refused = |problem| Error::Bind {
        address: address.to_owned(),
        problem,
        option,
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok(Listener { address, listener })
}

/// Serves until `endpoint.stop`, then until every connection has ended.
pub(super) async fn serve(endpoint: Endpoint, routes: Routes) -> Result<(), transport::Error> {
    let connections = accept(endpoint.listener.listener);
    let server = server(endpoint.max_streams).accept_http1(endpoint.http1);
    serve_by(server, connections, endpoint.stop, routes).await
}

/// Serves connections until `stop`, then until every one has ended.
pub(super) async fn serve_connections<C>(
    connections: impl Stream<Item = io::Result<C>>,
    max_streams: u32,
    stop: CancellationToken,
    routes: Routes,
) -> Result<(), transport::Error>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    C::ConnectInfo: Clone + Send + Sync + 'static,
{
    serve_by(server(max_streams), connections, stop, routes).await
}

async fn serve_by<C>(
    server: Server,
    connections: impl Stream<Item = io::Result<C>>,
    stop: CancellationToken,
    routes: Routes,
) -> Result<(), transport::Error>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    C::ConnectInfo: Clone + Send + Sync + 'static,
{
    server
        .serve_with_incoming_shutdown(routes.prepare(), connections, stop.cancelled_owned())
        .await
}

/// HTTP as it is spoken here.
fn server(max_streams: u32) -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // It would start at 64 KiB, and the budget of small frames with it.
        .http2_adaptive_window(Some(false))
        // tonic's default is no limit.
        .max_concurrent_streams(max_streams)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_WITHIN))
        .http2_max_header_list_size(HEADER_BYTES)
}

/// Connections as they come, without Nagle's delay, which tonic leaves to us here.
pub(super) fn accept(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    stream::unfold(listener, |listener| async move {
        let connection = loop {
            match listener.accept().await {
                Ok((connection, _)) => break connection,
                Err(error) if of_the_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(error.message = %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(error.message = %error, "cannot switch off delays on a connection");
        }
        Some((Ok(connection), listener))
    })
}

/// Whether only the connection at hand failed, before it was accepted.
fn of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
