//! Who wakes up when something changes.
//!
//! A watch holds a receiver per topic and nothing else: waking costs one flag per open watch of
//! the topic, whatever changed and however often. There are no queues, so none can overflow.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::{Revision, StateId, TaskId, Uid};

/// What a watch waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// Any commit.
    Head,
    /// Any task.
    Tasks,
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
    topics: Mutex<HashMap<Topic, watch::Sender<Revision>>>,
}

impl Wakers {
    /// A receiver that changes when the topic does, from now on.
    pub(crate) fn subscribe(&self, topic: Topic) -> watch::Receiver<Revision> {
        let mut topics = self.topics.lock();
        let sender = topics
            .entry(topic)
            .or_insert_with(|| watch::channel(Revision::ZERO).0);
        sender.subscribe()
    }

    /// Wakes everyone who waits for one of `changed`; forgets topics nobody waits for any more.
    pub(crate) fn wake<'a>(&self, changed: impl IntoIterator<Item = &'a Topic>, head: Revision) {
        let mut topics = self.topics.lock();
        if topics.is_empty() {
            return;
        }
        for topic in changed {
            if let Some(sender) = topics.get(topic) {
                if sender.receiver_count() == 0 {
                    topics.remove(topic);
                } else {
                    sender.send_replace(head);
                }
            }
        }
    }

    /// Forgets topics nobody waits for: those that never change would stay otherwise.
    pub(crate) fn sweep(&self) {
        self.topics
            .lock()
            .retain(|_, sender| sender.receiver_count() > 0);
    }

    /// Topics somebody waits for, for tests.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.topics.lock().len()
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
}
