//! What all watches can be told before they start: where to begin and how to pace.

use std::time::Duration;

use super::{
    connection::Client,
    task::wire_duration,
    watch::{Framed, Watch, WatchKind, WatchStart},
};
use crate::proto::v1::{Position, WatchOptions};

/// Settings of a [`Watch`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `start` is called"]
pub struct WatchBuilder<K: WatchKind> {
    client: Client,
    pub(super) kind: K,
    options: WatchOptions,
    start: WatchStart,
}

#[expect(
    private_bounds,
    reason = "what can be watched is the API's to say, and it is all here"
)]
impl<K: Framed> WatchBuilder<K> {
    pub(super) fn new(client: &Client, kind: K) -> Self {
        Self {
            client: client.clone(),
            kind,
            options: WatchOptions::default(),
            start: WatchStart::Snapshot,
        }
    }

    /// The least time between two deltas: what changes meanwhile is folded by the server.
    pub fn min_delta_interval(mut self, interval: Duration) -> Self {
        self.options.min_delta_interval = Some(wire_duration(interval));
        self
    }

    /// How often the server should say that it is there: 5 s to 60 s. Default: 15 s.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.options.heartbeat_interval = Some(wire_duration(interval));
        self
    }

    /// Starts with what changed after a position.
    pub fn resume_from(mut self, position: Position) -> Self {
        self.start = WatchStart::From(position);
        self
    }

    /// Starts with what changes from now on.
    pub fn updates_only(mut self) -> Self {
        self.start = WatchStart::Live;
        self
    }

    /// The watch. Nothing is sent until its first event is asked for.
    pub fn start(self) -> Watch<K> {
        Watch::new(self.client, self.kind, self.options, &self.start)
    }
}
