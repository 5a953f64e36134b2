//! Watching states: a map per state that follows the server's.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use prost::Message;
use tonic::{Response, Status, Streaming};

use super::{
    connection::Client,
    propagate,
    task::wire_duration,
    value::decode_value,
    watch::{Framed, Watch, WatchKind, WatchStart, opening},
    watch_core::{Frame, View},
};
use crate::proto::v1::{
    KeyChange, KeyFilter, Position, StateDelta, Value, ValueStub, WatchOptions, WatchStateRequest,
    WatchStateResponse, key_change::Change, watch_state_response,
};

/// A watch of one or more states.
pub type StateWatch = Watch<States>;

/// What a key holds in a view.
#[derive(Debug, Clone, PartialEq)]
pub struct ViewEntry {
    content: Content,
    /// The revision at which the key last changed.
    pub mod_revision: i64,
    /// Who changed it: a task's name or a caller's identity.
    pub source: String,
}

#[derive(Debug, Clone, PartialEq)]
enum Content {
    Value(Bytes),
    Stub(ValueStub),
}

impl ViewEntry {
    /// The value; none for one that is too large to be watched, see [`stub`](Self::stub).
    pub fn value(&self) -> Option<Value> {
        match &self.content {
            Content::Value(encoded) => decode_value(encoded).ok(),
            Content::Stub(_) => None,
        }
    }

    /// What stands for a large value; fetch it with [`Client::get_state`].
    pub fn stub(&self) -> Option<&ValueStub> {
        match &self.content {
            Content::Value(_) => None,
            Content::Stub(stub) => Some(stub),
        }
    }

    pub(super) fn same_value(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

/// One key's change.
#[derive(Debug, Clone, PartialEq)]
pub struct StateChange {
    /// The state's full name.
    pub state: Arc<str>,
    /// The key.
    pub key: String,
    /// What it holds now; none when it was deleted.
    pub entry: Option<ViewEntry>,
    /// The revision of the change.
    pub mod_revision: i64,
}

/// The watched states, each a map of its keys. A state without keys is absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StateView {
    states: BTreeMap<Arc<str>, BTreeMap<String, ViewEntry>>,
}

impl StateView {
    /// The keys of one state, by its full name or by the last segment of it.
    pub fn state(&self, name: &str) -> Option<&BTreeMap<String, ViewEntry>> {
        let by_segment = || {
            let mut states = self.states.iter();
            states.find(|(full, _)| super::short_name(full) == name)
        };
        let full = self.states.get_key_value(name);
        full.or_else(by_segment).map(|(_, keys)| keys)
    }

    /// One key's entry; the state named as in [`StateView::state`].
    pub fn get(&self, state: &str, key: &str) -> Option<&ViewEntry> {
        self.state(state)?.get(key)
    }

    /// All states that have keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, ViewEntry>)> {
        self.states.iter().map(|(name, keys)| (&**name, keys))
    }
}

impl View for StateView {
    type Change = StateChange;

    fn apply(&mut self, change: StateChange) {
        match change.entry {
            Some(entry) => {
                self.states
                    .entry(change.state)
                    .or_default()
                    .insert(change.key, entry);
            }
            None => {
                if let Some(keys) = self.states.get_mut(&change.state) {
                    keys.remove(&change.key);
                    if keys.is_empty() {
                        self.states.remove(&change.state);
                    }
                }
            }
        }
    }
}

/// Watches states.
#[derive(Debug)]
pub struct States {
    names: Vec<Arc<str>>,
    keys: Option<KeyFilter>,
    inline_limit_bytes: i64,
}

impl WatchKind for States {
    type Response = WatchStateResponse;
    type View = StateView;
    const OPERATION: &'static str = "WatchState";

    fn open(
        &self,
        client: &Client,
        options: WatchOptions,
    ) -> BoxFuture<'static, Result<Response<Streaming<WatchStateResponse>>, Status>> {
        let request = WatchStateRequest {
            names: self.names.iter().map(ToString::to_string).collect(),
            keys: self.keys.clone(),
            options: Some(options),
            inline_limit_bytes: self.inline_limit_bytes,
        };
        let mut states = client.state_watches();
        let request = propagate::request(request);
        opening(async move { states.watch_state(request).await })
    }

    fn may_end(&self) -> bool {
        false
    }
}

impl Framed for States {
    fn frame(&self, response: WatchStateResponse) -> Option<Frame<StateChange>> {
        use watch_state_response::Frame as Wire;
        Some(match response.frame? {
            Wire::Opened(opened) => Frame::Opened(opened),
            Wire::Snapshot(chunk) => Frame::Snapshot(self.changes(chunk.entries)),
            Wire::Synced(synced) => Frame::Synced(synced.position.unwrap_or_default()),
            // One that cannot be read is like one that did not come: the next breaks the chain.
            Wire::Delta(delta) => {
                let delta = StateDelta::decode(delta).ok()?;
                Frame::Delta {
                    base: delta.base_revision,
                    position: delta.position,
                    changes: self.changes(delta.changes),
                    more: delta.more,
                    folded: delta.folded_commits,
                }
            }
            Wire::Bookmark(bookmark) => Frame::Bookmark(bookmark.position?),
            Wire::Reset(reset) => Frame::Reset(reset),
            Wire::Closing(closing) => Frame::Closing(closing),
        })
    }
}

impl States {
    /// A watch of states as the simulation opens it.
    #[cfg(test)]
    pub(super) fn of(names: Vec<Arc<str>>) -> Self {
        Self {
            names,
            keys: None,
            inline_limit_bytes: 0,
        }
    }

    fn changes(&self, changes: Vec<KeyChange>) -> Vec<StateChange> {
        let known = changes.into_iter().filter_map(|change| {
            let state = Arc::clone(self.names.get(change.target as usize)?);
            let entry = |content| ViewEntry {
                content,
                mod_revision: change.mod_revision,
                source: change.source.clone(),
            };
            let entry = match change.change? {
                // A copy: the value would keep the whole message it came in alive.
                Change::Value(encoded) => {
                    Some(entry(Content::Value(Bytes::copy_from_slice(&encoded))))
                }
                Change::Stub(stub) => Some(entry(Content::Stub(stub))),
                Change::Deleted(_) => None,
            };
            Some(StateChange {
                state,
                key: change.key,
                entry,
                mod_revision: change.mod_revision,
            })
        });
        known.collect()
    }
}

/// Settings of a [`StateWatch`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `start` is called"]
pub struct StateWatchBuilder {
    client: Client,
    kind: States,
    options: WatchOptions,
    start: WatchStart,
}

impl Client {
    /// Watches up to 64 states.
    pub fn watch_state<N: AsRef<str>>(
        &self,
        states: impl IntoIterator<Item = N>,
    ) -> StateWatchBuilder {
        let names = states
            .into_iter()
            .map(|state| self.state_name(state.as_ref()).into());
        StateWatchBuilder {
            client: self.clone(),
            kind: States {
                names: names.collect(),
                keys: None,
                inline_limit_bytes: 0,
            },
            options: WatchOptions::default(),
            start: WatchStart::Snapshot,
        }
    }
}

impl StateWatchBuilder {
    /// These keys only.
    pub fn keys<S: Into<String>>(mut self, keys: impl IntoIterator<Item = S>) -> Self {
        let filter = self.kind.keys.get_or_insert_default();
        filter.exact.extend(keys.into_iter().map(Into::into));
        self
    }

    /// Keys with this prefix, beside the others that were asked for.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.kind
            .keys
            .get_or_insert_default()
            .prefixes
            .push(prefix.into());
        self
    }

    /// Larger values come as stubs. Default: the server's, 64 KiB; at most 1 MiB. Large values
    /// delay what else the watch brings: follow small keys on a watch of their own.
    pub fn inline_limit_bytes(mut self, bytes: i64) -> Self {
        self.kind.inline_limit_bytes = bytes;
        self
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
    pub fn start(self) -> StateWatch {
        Watch::new(self.client, self.kind, self.options, &self.start)
    }
}
