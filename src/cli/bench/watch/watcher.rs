//! One watcher: reads as fast as it can and adds up what it sees.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use prost::Message;
use tonic::transport::Channel;

use super::{
    super::{Error, measure::Meter},
    updates::Clock,
};
use crate::proto::v1::{
    StateDelta, WatchStateRequest, key_change::Change, state_service_client::StateServiceClient,
    watch_state_response::Frame,
};

pub(in crate::cli::bench) const CALL: &str = "WatchState";

/// What all watchers have seen together.
#[derive(Debug)]
pub(in crate::cli::bench) struct Tally {
    pub(in crate::cli::bench) clock: Clock,
    /// Latencies are taken of one delta in so many of a watcher: reading the clock takes time too.
    pub(in crate::cli::bench) sample_every: u64,
    /// Set when the updates begin. It counts delta frames.
    pub(in crate::cli::bench) meter: OnceLock<Meter>,
    pub(in crate::cli::bench) synced: AtomicU64,
    pub(in crate::cli::bench) commits: AtomicU64,
    pub(in crate::cli::bench) changes: AtomicU64,
}

impl Tally {
    pub(in crate::cli::bench) fn new(clock: Clock, sample_every: u64) -> Arc<Self> {
        Arc::new(Self {
            clock,
            sample_every,
            meter: OnceLock::new(),
            synced: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            changes: AtomicU64::new(0),
        })
    }

    fn add(&self, delta: &StateDelta, sampled: bool) {
        let Some(meter) = self.meter.get() else {
            return;
        };
        meter.add(1);
        let commits = u64::try_from(delta.folded_commits).unwrap_or(0).max(1);
        // All parts of a cut stand for the same commits: counted with the last.
        if !delta.more {
            self.commits.fetch_add(commits, Ordering::Relaxed);
        }
        self.changes
            .fetch_add(delta.changes.len() as u64, Ordering::Relaxed);
        if !sampled {
            return;
        }
        for change in &delta.changes {
            if let Some(Change::Value(value)) = &change.change
                && let Some(written) = self.clock.read(value)
            {
                meter.took_since(written);
            }
        }
    }
}

/// Watches what `request` says until dropped.
pub(in crate::cli::bench) async fn watch(
    channel: Channel,
    request: WatchStateRequest,
    tally: Arc<Tally>,
) -> Result<(), Error> {
    let mut client = StateServiceClient::new(channel);
    let frames = client
        .watch_state(request)
        .await
        .map_err(Error::call(CALL))?;
    let mut frames = frames.into_inner();
    let mut deltas = 0_u64;
    while let Some(answer) = frames.message().await.map_err(Error::call(CALL))? {
        match answer.frame {
            Some(Frame::Delta(delta)) => {
                let delta = StateDelta::decode(delta)
                    .map_err(|error| Error::unexpected(CALL, error.to_string()))?;
                deltas += 1;
                tally.add(&delta, deltas.is_multiple_of(tally.sample_every));
            }
            Some(Frame::Synced(_)) => _ = tally.synced.fetch_add(1, Ordering::Relaxed),
            Some(Frame::Opened(_) | Frame::Snapshot(_) | Frame::Bookmark(_)) | None => {}
            Some(other @ (Frame::Reset(_) | Frame::Closing(_))) => {
                return Err(Error::unexpected(CALL, format!("{other:?}")));
            }
        }
    }
    Err(Error::unexpected(CALL, "the end of the stream"))
}
