//! What one fairness key has waiting of one task type at one priority.
//!
//! Tasks without a concurrency key are one [`Fifo`]; each concurrency key has another. The oldest
//! head goes first. A concurrency key that runs as many as its queue lets it is *parked* when it is
//! met at the head: it leaves the order until one of its tasks stops running, so that nobody walks
//! over it again and again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::fifo::Fifo;
use crate::domain::Revision;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Its place in the order of its line; none: nothing of it may be handed out.
    pub(super) place: Option<u64>,
    plain: Fifo,
    /// Boxed: most have none, and there may be one share for every waiting task.
    keyed: Option<Box<Keyed>>,
}

/// Tasks with concurrency keys.
#[derive(Debug, Default)]
struct Keyed {
    keys: HashMap<Arc<str>, Key>,
    /// The oldest of each key that is not parked.
    heads: BTreeMap<Revision, Arc<str>>,
}

#[derive(Debug)]
struct Key {
    name: Arc<str>,
    tasks: Fifo,
    parked: bool,
}

impl Share {
    /// The oldest that may be handed out, with its concurrency key.
    pub(super) fn head(&self) -> Option<(Revision, Option<&Arc<str>>)> {
        let plain = self.plain.front().map(|revision| (revision, None));
        let keyed = self.keyed.as_ref();
        let keyed = keyed.and_then(|keyed| keyed.heads.first_key_value());
        let keyed = keyed.map(|(revision, key)| (*revision, Some(key)));
        match (plain, keyed) {
            (Some(plain), Some(keyed)) if keyed.0 < plain.0 => Some(keyed),
            (plain, keyed) => plain.or(keyed),
        }
    }

    /// Nothing is left, parked or not.
    pub(super) fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.keyed.is_none()
    }

    /// `heads` are the oldest of everything in the queue, kept up to date. False: it is there
    /// already.
    pub(super) fn insert(
        &mut self,
        key: &str,
        revision: Revision,
        heads: &mut BTreeSet<Revision>,
    ) -> bool {
        if key.is_empty() {
            return track(&mut self.plain, heads, |tasks| tasks.insert(revision)).0;
        }
        let keyed = self.keyed.get_or_insert_default();
        if !keyed.keys.contains_key(key) {
            let name: Arc<str> = key.into();
            let new = Key {
                name: name.clone(),
                tasks: Fifo::default(),
                parked: false,
            };
            keyed.keys.insert(name, new);
        }
        keyed.change(key, heads, |tasks| tasks.insert(revision))
    }

    /// None: it is not there. Some: whether that was the last of a parked key.
    pub(super) fn remove(
        &mut self,
        key: &str,
        revision: Revision,
        heads: &mut BTreeSet<Revision>,
    ) -> Option<bool> {
        if key.is_empty() {
            let (removed, _) = track(&mut self.plain, heads, |tasks| tasks.remove(revision));
            return removed.then_some(false);
        }
        let keyed = self.keyed.as_mut()?;
        if !keyed.change(key, heads, |tasks| tasks.remove(revision)) {
            return None;
        }
        let over = keyed.drop_if_empty(key);
        if keyed.keys.is_empty() {
            self.keyed = None;
        }
        Some(over)
    }

    /// Takes the head.
    pub(super) fn pop(
        &mut self,
        heads: &mut BTreeSet<Revision>,
    ) -> Option<(Revision, Option<Arc<str>>)> {
        let (revision, key) = self.head()?;
        let key = key.cloned();
        let name = key.as_deref().unwrap_or_default();
        self.remove(name, revision, heads)?;
        Some((revision, key))
    }

    /// Takes the key out of the order, whose head is the share's head.
    pub(super) fn park(&mut self, key: &str) {
        let Some(keyed) = self.keyed.as_mut() else {
            return;
        };
        if let Some(found) = keyed.keys.get_mut(key) {
            found.parked = true;
            if let Some(head) = found.tasks.front() {
                keyed.heads.remove(&head);
            }
        }
    }

    /// Puts the key back into the order; false: it was in it.
    pub(super) fn unpark(&mut self, key: &str) -> bool {
        let Some(keyed) = self.keyed.as_mut() else {
            return false;
        };
        let Some(found) = keyed.keys.get_mut(key).filter(|key| key.parked) else {
            return false;
        };
        found.parked = false;
        if let Some(head) = found.tasks.front() {
            keyed.heads.insert(head, found.name.clone());
        }
        true
    }

    /// How many are older, roughly where many concurrency keys wait: only `most` of them are
    /// looked at.
    pub(super) fn before(&self, revision: Revision, most: usize) -> usize {
        let Some(keyed) = &self.keyed else {
            return self.plain.before(revision);
        };
        let keys = keyed.keys.values().take(most);
        let seen: usize = keys.map(|key| key.tasks.before(revision)).sum();
        let total = keyed.keys.len();
        self.plain.before(revision) + seen * total / total.min(most).max(1)
    }
}

impl Keyed {
    fn change(
        &mut self,
        key: &str,
        heads: &mut BTreeSet<Revision>,
        change: impl FnOnce(&mut Fifo) -> bool,
    ) -> bool {
        let Some(key) = self.keys.get_mut(key) else {
            return false;
        };
        let (done, moved) = track(&mut key.tasks, heads, change);
        if let Some((before, after)) = moved.filter(|_| !key.parked) {
            before.map(|before| self.heads.remove(&before));
            after.map(|after| self.heads.insert(after, key.name.clone()));
        }
        done
    }

    /// Says whether a parked key is over.
    fn drop_if_empty(&mut self, key: &str) -> bool {
        let empty = self.keys.get(key).is_some_and(|key| key.tasks.is_empty());
        empty && self.keys.remove(key).is_some_and(|key| key.parked)
    }
}

/// The head before and after.
type Moved = (Option<Revision>, Option<Revision>);

/// Changes a line and keeps its head up to date among all; says what the change says, and how the
/// head moved.
fn track(
    tasks: &mut Fifo,
    heads: &mut BTreeSet<Revision>,
    change: impl FnOnce(&mut Fifo) -> bool,
) -> (bool, Option<Moved>) {
    let before = tasks.front();
    let done = change(tasks);
    let after = tasks.front();
    if before == after {
        return (done, None);
    }
    before.map(|before| heads.remove(&before));
    after.map(|after| heads.insert(after));
    (done, Some((before, after)))
}
