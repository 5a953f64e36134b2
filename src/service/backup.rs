//! `BackupJournal`: a backup on its way to a client.
//!
//! A thread reads the journals and waits for the client, so that a slow one costs a few chunks and
//! not the whole. What it reads is a snapshot, which keeps superseded entries on the disk: so there is
//! one backup at a time, and a client that takes nothing is cut off.

use std::{
    io::{self, Write},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    domain::{Error, Reason},
    engine::{Engine, clock::Now},
    journal::backup::BackupError,
    proto::v1 as pb,
    runtime::blocking,
};

/// One message's worth.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that wait for the client.
const CHUNKS: usize = 2;
/// How long a client may take nothing.
const STALL: Duration = Duration::from_secs(60);

type Message = Result<pb::BackupJournalResponse, Status>;

/// The backup as messages.
pub(super) fn start(
    engine: Engine,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Message> + Send + 'static {
    let (chunks, receiver) = mpsc::channel(CHUNKS);
    let draining = engine.draining();
    let writing = blocking("backup", move || {
        let _permit = permit;
        let mut out = Chunks {
            buffer: BytesMut::with_capacity(CHUNK_BYTES),
            chunks,
            draining,
            runtime: Handle::current(),
            problem: None,
        };
        let written = engine.backup(Now::read().wall_us, &mut out);
        match (written, out.problem) {
            (_, Some(problem)) => Err(problem),
            (Err(error), None) => Err(failed(&error)),
            (Ok(summary), None) => {
                tracing::info!(
                    backup.bytes = summary.bytes,
                    backup.entries = summary.entries(),
                    "journal backed up"
                );
                Ok(())
            }
        }
    });
    stream::unfold((receiver, Some(writing)), |(mut receiver, writing)| async {
        if let Some(data) = receiver.recv().await {
            return Some((Ok(pb::BackupJournalResponse { data }), (receiver, writing)));
        }
        // What it ended with comes last, once.
        let ended = writing?.await;
        let ended = ended.unwrap_or_else(|error| {
            Err(Error::new(
                Reason::Internal,
                format!("the backup failed: {error}"),
            ))
        });
        let error = ended.err()?;
        tracing::warn!(error.message = %error, "a backup was not finished");
        Some((Err(error.into()), (receiver, None)))
    })
}

fn failed(error: &BackupError) -> Error {
    Error::new(
        Reason::JournalUnavailable,
        format!("the journal cannot be backed up: {error}"),
    )
}

/// Where the backup is written: chunks for the client.
struct Chunks {
    buffer: BytesMut,
    chunks: mpsc::Sender<Bytes>,
    draining: CancellationToken,
    runtime: Handle,
    /// Why it cannot go on.
    problem: Option<Error>,
}

impl Chunks {
    fn send(&mut self) -> io::Result<()> {
        let chunk = self.buffer.split().freeze();
        let (chunks, draining) = (&self.chunks, &self.draining);
        let sent = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = draining.cancelled() => Err(Error::new(
                    Reason::StreamDraining,
                    "the server is stopping and the backup is not finished: make another when it is back",
                )),
                sent = timeout(STALL, chunks.send(chunk)) => match sent {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(_)) => Err(Error::new(Reason::StreamDraining, "the client has left")),
                    Err(_) => Err(Error::new(
                        Reason::QuotaExceeded,
                        format!("the backup was cut off: nothing of it was taken for {STALL:?}"),
                    )),
                },
            }
        });
        sent.map_err(|problem| {
            let error = io::Error::other(problem.message.clone());
            self.problem = Some(problem);
            error
        })
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = CHUNK_BYTES - self.buffer.len();
        let taken = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.send()
    }
}
