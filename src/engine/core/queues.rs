//! Planning what people set of queues.

use super::{
    super::command::{QueueChange, Reply},
    Core, Work,
    group::{Group, Settle},
};
use crate::{
    domain::{
        Entry, Error, QueueId, Reason, Revision, entry::Queue, limits::MAX_QUEUES_WITH_SETTINGS,
    },
    journal::Draft,
};

impl Core {
    /// New settings, where they differ from what stands.
    pub(super) fn plan_queue(
        &mut self,
        queue: QueueId,
        change: QueueChange,
        reply: Reply<Revision>,
        group: &mut Group,
    ) -> Option<Work> {
        if group.has_queue(&queue) {
            return Some(Work::SetQueue {
                queue,
                change,
                reply,
            });
        }
        let shared = self.shared.clone();
        let mirror = shared.mirror.read();
        let row = mirror.queues.get(queue.as_str());
        let standing = row.map(|row| row.settings).unwrap_or_default();
        let settings = change.of(standing);
        if settings == standing {
            let _ = reply.send(Ok(mirror.head));
            return None;
        }
        let entry = row.and_then(|row| row.entry);
        if entry.is_none() && mirror.queues.entries() + group.queues() >= MAX_QUEUES_WITH_SETTINGS {
            let _ = reply.send(Err(full(&queue)));
            return None;
        }
        let draft = Draft {
            entry: Entry::Queue(Queue {
                name: queue.to_string(),
                settings,
            }),
            expect: Some(entry.unwrap_or(Revision::ZERO)),
            supersedes: entry.into_iter().collect(),
        };
        group.touch_queue(queue);
        group.push(draft, Settle::Queue(reply));
        None
    }

    /// The lines of a queue follow its settings.
    pub(super) fn follow_queue(&mut self, queue: &QueueId) {
        let row = self
            .shared
            .mirror
            .read()
            .queues
            .get(queue.as_str())
            .cloned();
        let settings = row.map(|row| row.settings).unwrap_or_default();
        let mut ready = self.shared.ready.lock();
        ready.configure(queue.as_str(), settings);
        self.match_due = true;
    }
}

fn full(queue: &QueueId) -> Error {
    Error::new(
        Reason::QuotaExceeded,
        format!(
            "{MAX_QUEUES_WITH_SETTINGS} queues have settings of their own already, queue {queue} cannot: set others back to the defaults (they count for ten minutes more)"
        ),
    )
    .with("limit", MAX_QUEUES_WITH_SETTINGS)
}
