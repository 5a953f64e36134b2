//! Who wakes up when something changes.
//!
//! Watches of the same request are one [`Audience`]: they wake together and share what is encoded
//! for them. Waking costs one flag per open watch that waits, whatever changed and however often:
//! there are no queues, so none can overflow. What happens rarely (a worker's leases, a read that
//! waits for a position) listens to a channel per topic instead.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::watch::{Audience, AudienceKey, Relays};
use crate::domain::{Revision, StateId, TaskId, Uid};

/// What a watch waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// Any commit.
    Head,
    /// Any task.
    Tasks,
    /// Any error group.
    Errors,
    /// One task.
    Task(TaskId),
    /// One state.
    State(StateId),
    /// The leases of one worker instance.
    Instance(Uid),
}

/// Open topics: as many as open watches name.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    topics: Mutex<Topics>,
    audiences: Mutex<HashMap<AudienceKey, Weak<Audience>>>,
    /// Wake the audiences, each on its own thread.
    pub(super) relays: Relays,
    closing: AtomicBool,
}

#[derive(Debug, Default)]
struct Topics {
    all: HashMap<Topic, Listeners>,
    /// How many of them are single tasks.
    tasks: usize,
}

impl Topics {
    fn of(&mut self, topic: Topic) -> &mut Listeners {
        match self.all.entry(topic) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.tasks += usize::from(matches!(entry.key(), Topic::Task(_)));
                entry.insert(Listeners::default())
            }
        }
    }

    fn remove(&mut self, topic: &Topic) {
        if self.all.remove(topic).is_some() {
            self.tasks -= usize::from(matches!(topic, Topic::Task(_)));
        }
    }

    fn sweep(&mut self) {
        self.all.retain(|_, listeners| listeners.sweep());
        let tasks = self
            .all
            .keys()
            .filter(|topic| matches!(topic, Topic::Task(_)));
        self.tasks = tasks.count();
    }
}

#[derive(Debug, Default)]
struct Listeners {
    channel: Option<watch::Sender<Revision>>,
    audiences: Vec<Weak<Audience>>,
}

impl Listeners {
    /// Lets go of those who have left; false: nobody is here any more.
    fn sweep(&mut self) -> bool {
        self.channel.take_if(|sender| sender.receiver_count() == 0);
        self.audiences.retain(|one| one.strong_count() > 0);
        self.channel.is_some() || !self.audiences.is_empty()
    }
}

impl Wakers {
    /// A receiver that changes when the topic does, from now on.
    pub(crate) fn subscribe(&self, topic: Topic) -> watch::Receiver<Revision> {
        let mut topics = self.topics.lock();
        let listeners = topics.of(topic);
        let channel = &mut listeners.channel;
        channel
            .get_or_insert_with(|| watch::channel(Revision::ZERO).0)
            .subscribe()
    }

    /// The audience of a request: the one that is there already, where it may be shared.
    /// Locks `audiences`, then `topics`; nobody else holds both.
    pub(crate) fn audience(&self, key: Option<AudienceKey>, topics: &[Topic]) -> Arc<Audience> {
        let mut shared = self.audiences.lock();
        let known = key.as_ref().and_then(|key| shared.get(key)?.upgrade());
        if let Some(audience) = known {
            return audience;
        }
        let audience = Arc::new(Audience::default());
        if let Some(key) = key {
            shared.insert(key, Arc::downgrade(&audience));
        }
        // With the lock held: whoever finds the audience must find it listening.
        let mut listening = self.topics.lock();
        for topic in topics {
            let listeners = listening.of(topic.clone());
            listeners.audiences.push(Arc::downgrade(&audience));
        }
        audience
    }

    /// Wakes everyone who waits for one of `changed`; forgets topics nobody waits for any more.
    pub(crate) fn wake<'a>(&self, changed: impl IntoIterator<Item = &'a Topic>, head: Revision) {
        let mut topics = self.topics.lock();
        if topics.all.is_empty() {
            return;
        }
        for topic in changed {
            let Some(listeners) = topics.all.get_mut(topic) else {
                continue;
            };
            if let Some(channel) = &listeners.channel {
                channel.send_replace(head);
            }
            let mut left = false;
            for audience in &listeners.audiences {
                match audience.upgrade() {
                    Some(audience) => audience.changed(head),
                    None => left = true,
                }
            }
            let gone = || {
                listeners
                    .channel
                    .as_ref()
                    .is_none_or(|c| c.receiver_count() == 0)
            };
            if (left || listeners.audiences.is_empty() && gone()) && !listeners.sweep() {
                topics.remove(topic);
            }
        }
    }

    /// Wakes everyone: anything may have changed.
    pub(crate) fn wake_all(&self, head: Revision) {
        for listeners in self.topics.lock().all.values() {
            if let Some(channel) = &listeners.channel {
                channel.send_replace(head);
            }
            for audience in listeners.audiences.iter().filter_map(Weak::upgrade) {
                audience.changed(head);
            }
        }
    }

    /// Whether somebody waits for single tasks: naming each that changes would cost more than most
    /// changes are worth.
    pub(crate) fn listen_to_tasks(&self) -> bool {
        self.topics.lock().tasks > 0
    }

    /// Every watch is to close: it looks at [`Wakers::is_closing`].
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let audiences: Vec<_> = {
            let topics = self.topics.lock();
            let all = topics
                .all
                .values()
                .flat_map(|listeners| &listeners.audiences);
            all.filter_map(Weak::upgrade).collect()
        };
        for audience in audiences {
            audience.end();
        }
    }

    /// The server stops, or the namespace has ended.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Forgets topics and audiences nobody waits for, those that never change included, and what
    /// was encoded for those who are there: whoever needs it again makes it again.
    pub(crate) fn sweep(&self) {
        let alive = |audience: &mut Weak<Audience>| {
            let audience = audience.upgrade();
            audience.map(|audience| audience.forget()).is_some()
        };
        self.audiences.lock().retain(|_, audience| alive(audience));
        self.topics.lock().sweep();
    }

    /// Topics somebody waits for, for tests.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.topics.lock().all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_wait_for_a_topic_wake_and_the_forgotten_ones_leave() {
        let wakers = Wakers::default();
        let mut tasks = wakers.subscribe(Topic::Tasks);
        let state = Topic::State(StateId::trusted("s"));
        let other = wakers.subscribe(state.clone());
        wakers.wake([&Topic::Tasks], Revision(3));
        assert!(tasks.has_changed().unwrap());
        assert_eq!(*tasks.borrow_and_update(), Revision(3));
        assert!(!other.has_changed().unwrap());
        drop(other);
        wakers.wake([&state], Revision(4));
        assert_eq!(wakers.len(), 1);
        drop(tasks);
        wakers.sweep();
        assert_eq!(wakers.len(), 0);
    }

    #[test]
    fn an_audience_hears_of_its_topics_and_leaves_with_its_last_watch() {
        let wakers = Wakers::default();
        let [a, b] = ["a", "b"].map(|name| Topic::State(StateId::trusted(name)));
        let both = wakers.audience(None, &[a.clone(), b.clone()]);
        let one = wakers.audience(None, std::slice::from_ref(&b));
        wakers.wake([&a], Revision(3));
        assert_eq!((both.head(), one.head()), (Revision(3), Revision::ZERO));
        wakers.wake([&b], Revision(4));
        assert_eq!((both.head(), one.head()), (Revision(4), Revision(4)));
        drop(both);
        wakers.wake([&a], Revision(5));
        assert_eq!(wakers.len(), 1);
        drop(one);
        wakers.sweep();
        assert_eq!(wakers.len(), 0);
    }
}
