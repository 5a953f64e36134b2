//! What an engine says of itself when somebody collects metrics: read from the mirrors, page by page
//! so that no monitor waits for long.

use std::time::Duration;

use super::{Engine, Namespace, clock::Now};
use crate::{
    domain::task::Status,
    telemetry::metrics::{NamespaceReading, QueueReading, Reading, status_name},
};

/// Queues of a namespace that are looked at; more are left out.
const MAX_QUEUES: usize = 10_000;
/// Queues that are looked at in one go.
const PAGE: i32 = 500;

const STATUSES: [Status; 6] = [
    Status::Scheduled,
    Status::Queued,
    Status::Running,
    Status::Succeeded,
    Status::Failed,
    Status::Cancelled,
];

impl Engine {
    /// Adds what is so at the moment.
    pub fn read(&self, reading: &mut Reading) {
        let namespaces = self.namespaces();
        reading.namespaces = namespaces.iter().map(Namespace::reading).collect();
        let usage = self.usage();
        reading.disk_free = usage.disk_free;
        reading.journal_bytes = usage.bytes;
        let values = self.value_cache();
        (reading.value_hits, reading.value_misses) = values.counts();
        reading.value_bytes = values.bytes() as u64;
    }
}

impl Namespace {
    fn reading(&self) -> NamespaceReading {
        let now_us = Now::read().wall_us;
        let mut tasks = STATUSES.map(|status| (status_name(status), 0));
        let mut queues = Vec::new();
        let mut token = String::new();
        // A page is refused only where its token is not one that was given out.
        while let Ok(page) = self.list_queues(PAGE, &token) {
            for view in page.items {
                for (status, (_, count)) in STATUSES.into_iter().zip(&mut tasks) {
                    *count += view.row.count(status);
                }
                let waited = view
                    .oldest_us
                    .map_or(0, |since| now_us.saturating_sub(since));
                queues.push(QueueReading {
                    name: view.queue.to_string(),
                    depth: view.row.count(Status::Queued),
                    oldest: Duration::from_micros(waited.max(0).cast_unsigned()),
                });
            }
            token = page.next_page_token;
            if token.is_empty() || queues.len() >= MAX_QUEUES {
                break;
            }
        }
        NamespaceReading {
            name: self.id().to_string(),
            tasks: tasks.to_vec(),
            queues,
            replay: self.shared().replay,
        }
    }
}
