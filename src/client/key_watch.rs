//! Following a few keys of a state: how a program is steered while it runs.
//!
//! Everyone who follows keys of one state through one [`KeyFollower`] shares one watch of it. The
//! watch fills a board that holds each key's latest entry and nothing else; who looks late sees
//! fewer, newer values. So memory is bounded by the keys, and no queue can run over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Code;

use super::{
    connection::Client,
    error::Error,
    key_changes::{Changes, Followed},
    watch::WatchEvent,
    watch_state::{StateChange, StateView, ViewEntry},
};
use crate::runtime::create_library_task;

const OPERATION: &str = "WatchState";
/// The API's limit for the keys of one watch.
const MAX_KEYS: usize = 256;
/// The API's limit for a key.
const MAX_KEY_BYTES: usize = 256;

/// Follows some keys of one state.
///
/// [`changed`](Self::changed) waits for news; [`get`](Self::get) looks at what is known, for a loop
/// that reads its parameters at each step.
#[derive(Debug)]
pub struct KeyWatch {
    follower: KeyFollower,
    keys: Vec<String>,
    seen: u64,
    /// Why these keys are not followed.
    refused: Option<Error>,
}

impl Client {
    /// Follows keys of a state until the result is dropped, 256 of them at most. To be called inside
    /// a tokio runtime.
    pub fn watch_keys<S: Into<String>>(
        &self,
        state: &str,
        keys: impl IntoIterator<Item = S>,
    ) -> KeyWatch {
        KeyFollower::new(self, state, "").follow(keys)
    }
}

impl KeyWatch {
    /// Waits until one of the keys has changed since the last look, and gives what all of them
    /// hold now. The first look gives what they hold already, as soon as one holds anything.
    ///
    /// A write is a change even where it sets the value that the key had, unless the follower's
    /// own task wrote it. Cancel safe: a call that is dropped loses nothing.
    ///
    /// # Errors
    ///
    /// When the attempt that follows has ended (`ATTEMPT_ENDED`), or for what no reconnect can
    /// mend, such as a wrong name. Where there are too many keys for one watch (`KEYS_TOO_MANY`) or
    /// one is too long (`KEY_INVALID`), none of these is followed; others who share the watch go on.
    /// A lost connection is no error: the watch resumes.
    pub async fn changed(&mut self) -> Result<Changes, Error> {
        let board = Arc::clone(&self.follower.board);
        let look = || {
            let changes = self.try_changed();
            changes.transpose()
        };
        board.until(look).await
    }

    /// What [`changed`](Self::changed) would give at once, if anything.
    ///
    /// # Errors
    ///
    /// As for [`changed`](Self::changed).
    pub fn try_changed(&mut self) -> Result<Option<Changes>, Error> {
        let slots = self.follower.board.slots.lock();
        slots.check()?;
        self.refused.clone().map_or(Ok(()), Err)?;
        let slot = |key: &String| slots.keys.get(key);
        if !self.keys.iter().filter_map(slot).all(|slot| slot.synced) {
            return Ok(None);
        }
        let versions = self.keys.iter().filter_map(slot).map(|slot| slot.version);
        let newest = versions.max().unwrap_or(0);
        if newest <= self.seen {
            return Ok(None);
        }
        // Who has seen nothing misses nothing that was deleted before.
        let is_first = self.seen == 0;
        let mut held = self.keys.iter().filter_map(slot);
        if is_first && held.all(|slot| slot.entry.is_none()) {
            return Ok(None);
        }
        let since = std::mem::replace(&mut self.seen, newest);
        let keys = self.keys.iter().filter_map(|key| {
            let slot = slots.keys.get(key)?;
            let followed = Followed {
                entry: slot.entry.clone(),
                changed: slot.version > since && !(is_first && slot.entry.is_none()),
            };
            Some((key.clone(), followed))
        });
        Ok(Some(Changes {
            state: Arc::clone(&self.follower.board.state),
            own: Arc::clone(&self.follower.board.own),
            keys: keys.collect(),
        }))
    }

    /// Waits until what the keys hold is known: from then on [`get`](Self::get) tells a key that
    /// is not set from one that has not come yet.
    ///
    /// # Errors
    ///
    /// As for [`changed`](Self::changed).
    pub async fn synced(&self) -> Result<(), Error> {
        let board = &self.follower.board;
        let look = || {
            let slots = board.slots.lock();
            let ended = slots.ended.as_ref().or(self.refused.as_ref());
            if let Some(error) = ended {
                return Some(Err(error.clone()));
            }
            let mut mine = self.keys.iter().filter_map(|key| slots.keys.get(key));
            mine.all(|slot| slot.synced).then_some(Ok(()))
        };
        board.until(look).await
    }

    /// What the key held when the server last said so; it does not count as a look.
    pub fn entry(&self, key: &str) -> Option<ViewEntry> {
        let slots = self.follower.board.slots.lock();
        slots.keys.get(key)?.entry.clone()
    }

    /// The same, read as `T`: none where it is missing, not known yet, or something else.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let value = self.entry(key)?.value()?;
        serde_json::from_value(super::from_value(&value)).ok()
    }
}

/// One watch of a state, for all who follow keys of it. When the last clone and the last
/// [`KeyWatch`] are gone, it ends.
#[derive(Debug, Clone)]
pub(crate) struct KeyFollower {
    client: Client,
    board: Arc<Board>,
    _last: Arc<DropGuard>,
}

#[derive(Debug)]
struct Board {
    state: Arc<str>,
    /// Whose writes are the follower's own; empty: nobody's.
    own: Arc<str>,
    /// Held for moments, never across an await.
    slots: Mutex<Slots>,
    /// Wakes those who look.
    news: Notify,
    /// More keys are asked for.
    wanted: Notify,
    over: CancellationToken,
}

#[derive(Debug, Default)]
struct Slots {
    keys: BTreeMap<String, Slot>,
    /// Counts changes.
    version: u64,
    started: bool,
    ended: Option<Error>,
}

#[derive(Debug, Default)]
struct Slot {
    entry: Option<ViewEntry>,
    /// The change that gave the entry; 0: it never held anything.
    version: u64,
    /// A watch that has this key has caught up.
    synced: bool,
}

impl KeyFollower {
    /// `own` is the source of writes that are the follower's own.
    pub(crate) fn new(client: &Client, state: &str, own: &str) -> Self {
        let over = CancellationToken::new();
        let last = Arc::new(over.clone().drop_guard());
        let board = Board {
            state: client.state_name(state).into(),
            own: own.into(),
            slots: Mutex::default(),
            news: Notify::new(),
            wanted: Notify::new(),
            over,
        };
        Self {
            client: client.clone(),
            board: Arc::new(board),
            _last: last,
        }
    }

    /// Follows these keys too, or none of them where one watch cannot have them all. The first call
    /// starts the watch.
    pub(crate) fn follow<S: Into<String>>(&self, keys: impl IntoIterator<Item = S>) -> KeyWatch {
        let keys: Vec<String> = keys.into_iter().map(Into::into).collect();
        let mut slots = self.board.slots.lock();
        let before = slots.keys.len();
        if let Err(error) = slots.admit(&keys) {
            drop(slots);
            return KeyWatch {
                follower: self.clone(),
                keys,
                seen: 0,
                refused: Some(error),
            };
        }
        for key in &keys {
            slots.keys.entry(key.clone()).or_default();
        }
        let grown = slots.keys.len() > before;
        if grown && !std::mem::replace(&mut slots.started, true) {
            let name = format!("key watch {}", self.board.state);
            // It ends with the follower.
            let following = follow(self.client.clone(), Arc::clone(&self.board));
            drop(create_library_task(name, following));
        } else if grown {
            self.board.wanted.notify_one();
        }
        drop(slots);
        KeyWatch {
            follower: self.clone(),
            keys,
            seen: 0,
            refused: None,
        }
    }

    /// Ends it for all who follow: `ATTEMPT_ENDED`.
    pub(crate) fn close(&self) {
        self.board.end(Error::new(
            OPERATION,
            Code::Cancelled,
            "ATTEMPT_ENDED",
            format!(
                "the attempt that followed {} has ended, and its watch with it",
                self.board.state
            ),
        ));
        self.board.over.cancel();
    }
}

/// Keeps the board up until it is over. A watch of more keys takes the place of one of fewer.
async fn follow(client: Client, board: Arc<Board>) {
    loop {
        let keys: Vec<String> = board.slots.lock().keys.keys().cloned().collect();
        let watched = client.watch_state([&*board.state]).keys(keys.iter());
        let mut watch = watched.start();
        loop {
            let event = tokio::select! {
                () = board.over.cancelled() => return,
                () = board.wanted.notified() => break,
                event = watch.next() => event,
            };
            match event {
                Some(Ok(WatchEvent::Synced { .. })) => board.replace(&keys, watch.view()),
                Some(Ok(WatchEvent::Changed { changes, .. })) => board.apply(changes),
                Some(Ok(WatchEvent::Reset { .. } | WatchEvent::Reconnecting { .. })) => {}
                Some(Err(error)) => return board.end(error),
                None => {
                    let message = "the watch ended by itself";
                    return board.end(Error::new(OPERATION, Code::Internal, "ENDED", message));
                }
            }
        }
    }
}

impl Slots {
    fn check(&self) -> Result<(), Error> {
        self.ended.clone().map_or(Ok(()), Err)
    }

    /// Whether the watch can have these keys too: a filter that the server refuses would end it for
    /// all who follow.
    fn admit(&self, keys: &[String]) -> Result<(), Error> {
        let invalid = |reason, message| {
            Err(Error::new(
                OPERATION,
                Code::InvalidArgument,
                reason,
                message,
            ))
        };
        if let Some(key) = keys.iter().find(|key| key.len() > MAX_KEY_BYTES) {
            let message = format!(
                "a followed key has {} bytes, but a key has at most {MAX_KEY_BYTES}: it could never be set",
                key.len()
            );
            return invalid("KEY_INVALID", message);
        }
        let more: BTreeSet<&String> = keys
            .iter()
            .filter(|key| !self.keys.contains_key(*key))
            .collect();
        let count = self.keys.len() + more.len();
        if count > MAX_KEYS {
            let message = format!(
                "these would make {count} followed keys of one state, {MAX_KEYS} are the limit; \
                 follow fewer, or watch the state with a prefix"
            );
            return invalid("KEYS_TOO_MANY", message);
        }
        Ok(())
    }

    fn set(&mut self, own: &str, key: &str, entry: Option<ViewEntry>) {
        let Some(slot) = self.keys.get_mut(key) else {
            return;
        };
        if slot.entry == entry {
            return;
        }
        // A handler that puts a value in order writes what it then hears of: once, not for ever.
        let is_echo = matches!((&slot.entry, &entry), (Some(old), Some(new))
            if !own.is_empty() && *new.source == *own && old.same_value(new));
        slot.entry = entry;
        if !is_echo {
            self.version += 1;
            slot.version = self.version;
        }
    }
}

impl Board {
    /// Waits until `look` finds something.
    async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if let Some(found) = look() {
                return found;
            }
            news.await;
        }
    }

    /// What a watch of `keys` shows after it has caught up.
    fn replace(&self, keys: &[String], view: &StateView) {
        let mut slots = self.slots.lock();
        for key in keys {
            slots.set(&self.own, key, view.get(&self.state, key).cloned());
            if let Some(slot) = slots.keys.get_mut(key) {
                slot.synced = true;
            }
        }
        drop(slots);
        self.news.notify_waiters();
    }

    fn apply(&self, changes: Vec<StateChange>) {
        let mut slots = self.slots.lock();
        for change in changes {
            slots.set(&self.own, &change.key, change.entry);
        }
        drop(slots);
        self.news.notify_waiters();
    }

    fn end(&self, error: Error) {
        self.slots.lock().ended.get_or_insert(error);
        self.news.notify_waiters();
    }
}

#[cfg(test)]
#[path = "key_watch_tests.rs"]
mod tests;
