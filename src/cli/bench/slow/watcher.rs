//! The watcher that reads its first view and then no more, until it is told to catch up.

use std::time::Instant;

use prost::Message;
use tonic::{Streaming, transport::Endpoint};

use super::super::{Error, session::CONNECTION_WINDOW};
use crate::proto::v1::{
    StateDelta, WatchStateRequest, WatchStateResponse, state_service_client::StateServiceClient,
    watch_state_response::Frame,
};

const CALL: &str = "WatchState";
/// What a watcher that does not read takes and no more: a few deltas, so that it stalls within
/// milliseconds. The connection's window stays wide: h2 cuts a connection with more unread small
/// frames than half of it allows for.
const WINDOW: u32 = 1 << 10;

#[derive(Debug)]
pub(super) struct SlowWatcher(Streaming<WatchStateResponse>);

/// What the watcher read in the end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CaughtUp {
    pub(super) frames: u64,
    /// Commits that its deltas stood for.
    pub(super) commits: u64,
    pub(super) largest_fold: u64,
    pub(super) micros: f64,
}

impl CaughtUp {
    /// Whether the server could not send for a while. A busy watcher folds a few commits too, so
    /// it must be many.
    pub(super) fn stalled(&self) -> bool {
        self.largest_fold >= 10
    }
}

impl SlowWatcher {
    /// Opens the watch, on a connection of its own with a small window, and reads its first view:
    /// nothing after that.
    pub(super) async fn open(address: &str, state: &str) -> Result<Self, Error> {
        let failed = |source| Error::Connect {
            address: address.to_owned(),
            source,
        };
        let channel =
            Endpoint::from_shared(format!("http://{}", address.trim_start_matches("http://")))
                .map_err(failed)?
                .tcp_nodelay(true)
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .connect()
                .await
                .map_err(failed)?;
        let request = WatchStateRequest {
            names: vec![state.to_owned()],
            ..WatchStateRequest::default()
        };
        let answer = StateServiceClient::new(channel)
            .watch_state(request)
            .await
            .map_err(Error::call(CALL))?;
        let mut frames = answer.into_inner();
        while let Some(answer) = frames.message().await.map_err(Error::call(CALL))? {
            if let Some(Frame::Synced(_)) = answer.frame {
                return Ok(Self(frames));
            }
        }
        Err(Error::unexpected(
            CALL,
            "the end of the stream before a view",
        ))
    }

    /// Reads until the view has reached `revision`.
    pub(super) async fn catch_up(mut self, revision: i64) -> Result<CaughtUp, Error> {
        let begun = Instant::now();
        let mut read = CaughtUp {
            frames: 0,
            commits: 0,
            largest_fold: 0,
            micros: 0.0,
        };
        while let Some(answer) = self.0.message().await.map_err(Error::call(CALL))? {
            read.frames += 1;
            let reached = match answer.frame {
                Some(Frame::Delta(delta)) => {
                    let delta = StateDelta::decode(delta)
                        .map_err(|error| Error::unexpected(CALL, error.to_string()))?;
                    let commits = u64::try_from(delta.folded_commits).unwrap_or(0);
                    read.commits += commits;
                    read.largest_fold = read.largest_fold.max(commits);
                    delta.position
                }
                Some(Frame::Synced(synced)) => synced.position,
                Some(Frame::Bookmark(bookmark)) => bookmark.position,
                Some(other @ (Frame::Reset(_) | Frame::Closing(_))) => {
                    return Err(Error::unexpected(CALL, format!("{other:?}")));
                }
                Some(Frame::Opened(_) | Frame::Snapshot(_)) | None => None,
            };
            if reached.is_some_and(|position| position.revision >= revision) {
                read.micros = begun.elapsed().as_secs_f64() * 1e6;
                return Ok(read);
            }
        }
        Err(Error::unexpected(CALL, "the end of the stream"))
    }
}
