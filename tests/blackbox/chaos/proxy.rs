//! One address for all lives of the server, on a port of its own each time.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Forwards connections to the server of the moment, and resets them all when asked to.
#[derive(Clone)]
pub(super) struct Proxy {
    pub(super) address: String,
    server: Arc<Mutex<String>>,
    round: Arc<Mutex<CancellationToken>>,
}

impl Proxy {
    pub(super) async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let proxy = Self {
            address: format!("http://{address}"),
            server: Arc::new(Mutex::new(server.to_owned())),
            round: Arc::default(),
        };
        let shared = proxy.clone();
        tokio::spawn(async move {
            loop {
                // Out of descriptors for a moment, or the caller has gone already.
                let Ok((client, _)) = listener.accept().await else {
                    continue;
                };
                let server = shared.server.lock().clone();
                let over = shared.round.lock().clone();
                tokio::spawn(forward(client, server, over));
            }
        });
        proxy
    }

    /// The server is somewhere else from now on.
    pub(super) fn forward_to(&self, server: &str) {
        server.clone_into(&mut self.server.lock());
    }

    /// Resets all connections.
    pub(super) fn reset(&self) {
        let over = std::mem::take(&mut *self.round.lock());
        over.cancel();
    }
}

async fn forward(mut client: TcpStream, server: String, over: CancellationToken) {
    // Nobody there: the client's connection is closed, and it tries again.
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        () = over.cancelled() => {
            // Closed so, a socket sends RST and drops what it holds.
            let _ = (client.set_zero_linger(), server.set_zero_linger());
        }
    }
}
