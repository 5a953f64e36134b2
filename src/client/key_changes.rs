//! What a [`KeyWatch`](super::KeyWatch) gives: the followed keys as they are now, and which of
//! them are news.

use std::{collections::BTreeMap, sync::Arc};

use serde::de::DeserializeOwned;

use super::{error::Error, value::from_value, watch_state::ViewEntry};
use crate::proto::v1::Value;

/// The followed keys at one moment. What happened between two looks is folded: each key has its
/// latest value, never a list of them.
#[derive(Debug, Clone)]
pub struct Changes {
    pub(super) state: Arc<str>,
    pub(super) own: Arc<str>,
    pub(super) keys: BTreeMap<String, Followed>,
}

#[derive(Debug, Clone)]
pub(super) struct Followed {
    pub(super) entry: Option<ViewEntry>,
    pub(super) changed: bool,
}

impl Changes {
    /// The state's full name.
    pub fn state(&self) -> &str {
        &self.state
    }

    /// The keys that changed since the last look, with what they hold now: none where a key was
    /// deleted. The first look gives those that hold anything.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&ViewEntry>)> {
        let changed = self.keys.iter().filter(|(_, followed)| followed.changed);
        changed.map(|(key, followed)| (key.as_str(), followed.entry.as_ref()))
    }

    /// Whether this key changed since the last look.
    pub fn has(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(|followed| followed.changed)
    }

    /// What the key holds now, changed or not, with its revision and its source.
    pub fn entry(&self, key: &str) -> Option<&ViewEntry> {
        self.keys.get(key)?.entry.as_ref()
    }

    /// The key's value now, changed or not. None also for one above 64 KiB, which is not watched:
    /// see [`ViewEntry::stub`].
    pub fn value(&self, key: &str) -> Option<Value> {
        self.entry(key)?.value()
    }

    /// The key's value now, read as `T`. None where it is missing or something else: a parameter
    /// that makes no sense is one that is not set. [`try_get`](Self::try_get) tells them apart.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.try_get(key).ok().flatten()
    }

    /// The key's value now, read as `T`; none where there is none.
    ///
    /// # Errors
    ///
    /// `VALUE_TYPE` when the value is something else, `VALUE_TOO_LARGE` when it is above 64 KiB.
    pub fn try_get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some(entry) = self.entry(key) else {
            return Ok(None);
        };
        read(&self.state, key, entry).map(Some)
    }

    /// Whether the value now was written by the attempt that follows, or by an earlier attempt of
    /// its task. Never outside a worker.
    pub fn is_own(&self, key: &str) -> bool {
        !self.own.is_empty()
            && self
                .entry(key)
                .is_some_and(|entry| *entry.source == *self.own)
    }
}

fn read<T: DeserializeOwned>(state: &str, key: &str, entry: &ViewEntry) -> Result<T, Error> {
    let refused = |reason, message| {
        Error::new(
            "WatchState",
            tonic::Code::FailedPrecondition,
            reason,
            message,
        )
    };
    let Some(value) = entry.value() else {
        let message = format!(
            "key `{key}` of {state} holds a value above 64 KiB, which is not watched: \
             read it with get_state"
        );
        return Err(refused("VALUE_TOO_LARGE", message));
    };
    serde_json::from_value(from_value(&value)).map_err(|error| {
        let shown: String = value.to_string().chars().take(64).collect();
        let message = format!("key `{key}` of {state} holds {shown}: {error}");
        refused("VALUE_TYPE", message)
    })
}
