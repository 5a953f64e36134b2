//! The process that the bare service runs in: like duite's server, apart from the load.

use std::{io::Write, path::PathBuf};

use clap::Args;
use tokio::io::AsyncReadExt;
use tonic::transport::{Server, server::TcpIncoming};

use super::{
    super::{Error, session::CONNECTION_WINDOW, session::STREAM_WINDOW},
    group::GroupLog,
    service::BareService,
};

#[derive(Args, Debug)]
pub(in super::super) struct CeilingServerArgs {
    /// Folder for its log
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// Serves until standard input ends, which it does at the latest when the parent dies.
pub(in super::super) async fn run_server(args: CeilingServerArgs) -> Result<(), Error> {
    let incoming = bind()?;
    let address = incoming
        .local_addr()
        .map_err(|source| Error::io("read the bound address", source))?;
    let log = GroupLog::create(&args.data.join("bare.log"))
        .map_err(|source| Error::io(format!("create a log in {}", args.data.display()), source))?;
    writeln!(std::io::stdout(), "listening grpc={address}")
        .map_err(|source| Error::io("say the address", source))?;
    tokio::select! {
        result = serve(incoming, log) => result,
        () = end_of_input() => Ok(()),
    }
}

pub(super) fn bind() -> Result<TcpIncoming, Error> {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let incoming = TcpIncoming::bind(any).map_err(|source| Error::io("bind a port", source))?;
    // Without it the median of a round trip is 44 ms.
    Ok(incoming.with_nodelay(Some(true)))
}

pub(super) async fn serve(incoming: TcpIncoming, log: GroupLog) -> Result<(), Error> {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(BareService::new(log))
        .serve_with_incoming(incoming)
        .await
        .map_err(|source| Error::io("serve the bare service", std::io::Error::other(source)))
}

async fn end_of_input() {
    let mut input = tokio::io::stdin();
    let mut buffer = [0; 64];
    while input.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}
