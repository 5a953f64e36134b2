//! Which worker processes hold a stream for news of their leases, and whose last one broke.
//!
//! A stream that breaks is the first sign of a worker that was killed: the system closes its
//! connections at once, while its leases go on for seconds. What is noted here is no more than a
//! reason to look; whoever is missed is found by the renewal that does not come.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::domain::Uid;

/// Broken streams that may wait to be looked at; more are found by their missing renewals.
const MAX_BROKEN: usize = 20_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// Open streams of each process; as many as open streams.
    open: HashMap<Uid, usize>,
    broken: BTreeSet<Uid>,
}

impl Presence {
    /// A stream was opened.
    pub(crate) fn enter(&self, instance: Uid) {
        *self.inner.lock().open.entry(instance).or_default() += 1;
    }

    /// A stream is over; `planned` if by this server's own word, after which another is opened.
    pub(crate) fn leave(&self, instance: Uid, planned: bool) {
        let mut inner = self.inner.lock();
        let Some(open) = inner.open.get_mut(&instance) else {
            return;
        };
        *open -= 1;
        if *open > 0 {
            return;
        }
        inner.open.remove(&instance);
        if !planned && inner.broken.len() < MAX_BROKEN {
            inner.broken.insert(instance);
            self.news.notify_one();
        }
    }

    /// Whether the process has a stream open.
    pub(crate) fn is_open(&self, instance: Uid) -> bool {
        self.inner.lock().open.contains_key(&instance)
    }

    /// Those whose last stream broke since the last call.
    pub(crate) fn take_broken(&self) -> BTreeSet<Uid> {
        std::mem::take(&mut self.inner.lock().broken)
    }

    /// Resolves when a stream broke.
    pub(crate) async fn broke(&self) {
        self.news.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_stream_that_breaks_is_news_and_a_planned_end_is_none() {
        let presence = Presence::default();
        presence.enter(Uid(1));
        presence.enter(Uid(1));
        presence.leave(Uid(1), false);
        assert!(presence.is_open(Uid(1)) && presence.take_broken().is_empty());
        presence.leave(Uid(1), false);
        assert!(!presence.is_open(Uid(1)));
        assert_eq!(presence.take_broken(), [Uid(1)].into());
        assert!(presence.take_broken().is_empty());
        presence.enter(Uid(2));
        presence.leave(Uid(2), true);
        assert!(presence.take_broken().is_empty() && presence.inner.lock().open.is_empty());
    }

    #[test]
    fn more_broken_streams_than_are_noted_change_nothing() {
        let presence = Presence::default();
        for instance in 0..=MAX_BROKEN as u128 {
            presence.enter(Uid(instance));
            presence.leave(Uid(instance), false);
        }
        assert_eq!(presence.take_broken().len(), MAX_BROKEN);
    }
}
