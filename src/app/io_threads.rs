//! Connections on threads of their own, each thread with a runtime of one thread.
//!
//! A connection and its streams stay on one thread. So when a thousand watches wake, all that are
//! on a connection have put their frames into it before it writes, and a write carries a hundred
//! frames; on a runtime of several threads the connection's task runs beside (or, taking the place
//! of the last in line, right after) each watch, and a write carries one or two. That is most of
//! what a delivery costs (docs/BENCHMARKS.md). The monitor and all other jobs run elsewhere.

use std::{
    convert::Infallible,
    io,
    net::TcpStream as StdStream,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread,
};

use futures_util::{
    FutureExt, Stream, StreamExt,
    future::FusedFuture,
    stream::{self, FuturesUnordered},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{
    service::Routes,
    transport::{self, server::Connected},
};

use crate::runtime::{JobKind, Registry};

use super::listen::{Endpoint, accept, serve_connections};

/// Accepted connections that wait for a thread; where every thread has so many, further ones are cut.
const WAITING: usize = 1_024;

/// Why connections are no longer served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A thread could not be started.
    #[error("cannot start a thread for connections: {0}")]
    Thread(#[from] io::Error),
    /// The transport failed.
    #[error(transparent)]
    Transport(#[from] transport::Error),
    /// A thread ended without a word.
    #[error("a thread that serves connections has panicked")]
    Panicked,
}

/// Where a thread is given its connections.
struct Line {
    connections: mpsc::Sender<(StdStream, Seat)>,
    open: Arc<AtomicUsize>,
}

/// A thread that serves connections.
struct IoThread {
    /// Until it is taken.
    line: Option<Line>,
    ended: oneshot::Receiver<Result<(), transport::Error>>,
    /// Cuts what is still open when this is dropped.
    _cut: DropGuard,
}

/// Counts an open connection for as long as it is kept.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that is counted.
struct Connection {
    stream: TcpStream,
    _seat: Seat,
}

/// Serves until `endpoint.stop`, then until every connection has ended. Dropped, it cuts them.
/// Each thread is one of `jobs`.
pub(super) async fn serve(
    endpoint: Endpoint,
    routes: Routes,
    threads: u32,
    jobs: Registry,
) -> Result<(), Error> {
    let threads = match threads {
        0 => thread::available_parallelism().map_or(2, usize::from),
        asked => asked as usize,
    };
    let stop = endpoint.stop.clone();
    let threads = (0..threads).map(|number| {
        IoThread::start(
            number,
            endpoint.max_streams,
            stop.clone(),
            routes.clone(),
            &jobs,
        )
    });
    let mut threads: Vec<_> = threads.collect::<Result<_, _>>()?;
    let lines: Vec<_> = threads.iter_mut().filter_map(IoThread::line).collect();
    // One that ends before the others, and before it is asked to, takes connections no more.
    let mut ended: FuturesUnordered<_> =
        threads.iter_mut().map(|thread| &mut thread.ended).collect();
    let mut handing_out = std::pin::pin!(hand_out(endpoint, lines).fuse());
    loop {
        tokio::select! {
            () = &mut handing_out, if !handing_out.is_terminated() => {}
            result = ended.next() => match result {
                Some(result) => {
                    result.map_err(|_| Error::Panicked)??;
                    if !stop.is_cancelled() {
                        return Err(Error::Panicked);
                    }
                }
                None => return Ok(()),
            },
        }
    }
}

/// Gives each connection to a thread, until the endpoint stops; then nobody listens any more.
async fn hand_out(endpoint: Endpoint, threads: Vec<Line>) {
    let stopped = endpoint.stop.cancelled();
    let incoming = accept(endpoint.listener.listener).take_until(stopped);
    let mut incoming = std::pin::pin!(incoming);
    while let Some(Ok(connection)) = incoming.next().await {
        // The one with the fewest, since connections stay where they are.
        let taking = threads
            .iter()
            .filter(|line| line.connections.capacity() > 0);
        let idlest = taking.min_by_key(|line| line.open.load(Ordering::Relaxed));
        match (idlest, connection.into_std()) {
            (Some(line), Ok(connection)) => {
                let seat = line.take_seat();
                // A thread that has ended ends the server.
                let _ = line.connections.try_send((connection, seat));
            }
            (None, _) => {
                tracing::warn!("every thread has {WAITING} connections waiting: one is cut")
            }
            (_, Err(error)) => {
                tracing::warn!(error.message = %error, "cannot hand over a connection");
            }
        }
    }
}

impl IoThread {
    fn start(
        number: usize,
        max_streams: u32,
        stop: CancellationToken,
        routes: Routes,
        jobs: &Registry,
    ) -> io::Result<Self> {
        let (connections, receiver) = mpsc::channel(WAITING);
        let (tell, ended) = oneshot::channel();
        let cut = CancellationToken::new();
        let is_cut = cut.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        jobs.spawn_thread(JobKind::Server, format!("duite-io-{number}"), move || {
            let serving =
                async { serve_connections(connected(receiver), max_streams, stop, routes).await };
            let result = runtime.block_on(is_cut.run_until_cancelled(serving));
            let _ = tell.send(result.unwrap_or(Ok(())));
            // Handlers that hang must not keep the process.
            runtime.shutdown_background();
            // An error is the server's, whose job hears of it.
            Ok::<_, Infallible>(())
        })?;
        let open = Arc::default();
        Ok(Self {
            line: Some(Line { connections, open }),
            ended,
            _cut: cut.drop_guard(),
        })
    }

    fn line(&mut self) -> Option<Line> {
        self.line.take()
    }
}

impl Line {
    fn take_seat(&self) -> Seat {
        self.open.fetch_add(1, Ordering::Relaxed);
        Seat(self.open.clone())
    }
}

/// The connections that a thread is given, known to its own runtime.
fn connected(
    receiver: mpsc::Receiver<(StdStream, Seat)>,
) -> impl Stream<Item = io::Result<Connection>> {
    stream::unfold(receiver, |mut receiver| async {
        loop {
            let (connection, seat) = receiver.recv().await?;
            match TcpStream::from_std(connection) {
                Ok(stream) => {
                    let connection = Connection {
                        stream,
                        _seat: seat,
                    };
                    return Some((Ok(connection), receiver));
                }
                Err(error) => {
                    tracing::warn!(error.message = %error, "cannot serve a connection");
                }
            }
        }
    })
}

impl Connected for Connection {
    type ConnectInfo = <TcpStream as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
