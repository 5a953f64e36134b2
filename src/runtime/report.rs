//! The way of a failure out of the process: a bounded queue that somebody above may empty.
//!
//! The runtime stands below the client, so it does not know where reports go: the client opens the
//! queue ([`open`]) and sends what is in it. Until then, and where no address is configured, nothing
//! is kept: a failure is in the log alone. A full queue drops what is newest and counts it; whoever
//! fails never waits.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::{Notify, mpsc, watch};
use uuid::Uuid;

use super::{failure::TaskError, text::cut, trace::current_trace_context};
use crate::{
    domain::limits::MAX_ID_BYTES,
    proto::v1::{FailureReport, failure::Category},
};

/// Reports that wait at most.
pub(crate) const CAPACITY: usize = 1024;
/// Error groups keep no more of a stack.
const MAX_STACK_BYTES: usize = 16 << 10;

/// The queue's upper end.
#[derive(Debug)]
pub(crate) struct Sink {
    queue: mpsc::Sender<FailureReport>,
    /// Reports that wait or are being sent.
    open: watch::Sender<usize>,
    /// Somebody waits for the queue to be empty: no lingering.
    hurry: Notify,
    dropped: AtomicU64,
}

static SINK: OnceLock<Arc<Sink>> = OnceLock::new();

/// Opens the process's queue; none when that was done before.
pub(crate) fn open() -> Option<(Arc<Sink>, mpsc::Receiver<FailureReport>)> {
    let (sink, reports) = Sink::new(CAPACITY);
    SINK.set(Arc::clone(&sink)).ok()?;
    Some((sink, reports))
}

/// The process's queue, once it is open.
pub(crate) fn sink() -> Option<&'static Arc<Sink>> {
    SINK.get()
}

/// Reports what a decorated task failed with, from within its span.
pub(super) fn report(name: &str, error: &TaskError) {
    let Some(sink) = SINK.get() else { return };
    if error.category() == Category::Cancelled {
        return;
    }
    sink.take(report_of(name, error));
}

fn report_of(name: &str, error: &TaskError) -> FailureReport {
    let mut failure = error.to_wire();
    failure.stack_trace = cut(failure.stack_trace, MAX_STACK_BYTES);
    failure.trace_context = current_trace_context();
    failure.time = Some(SystemTime::now().into());
    FailureReport {
        report_id: Uuid::new_v4().to_string(),
        task_type: id_of(name),
        failure: Some(failure),
    }
}

/// A task's name as an id: letters, digits and `._~-`.
fn id_of(name: &str) -> String {
    let id: String = name
        .trim_start_matches('.')
        .chars()
        .map(|character| match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '~' | '-' => character,
            _ => '_',
        })
        .take(MAX_ID_BYTES)
        .collect();
    if id.is_empty() { "task".to_owned() } else { id }
}

impl Sink {
    pub(crate) fn new(capacity: usize) -> (Arc<Self>, mpsc::Receiver<FailureReport>) {
        let (queue, reports) = mpsc::channel(capacity);
        let sink = Self {
            queue,
            open: watch::Sender::new(0),
            hurry: Notify::new(),
            dropped: AtomicU64::new(0),
        };
        (Arc::new(sink), reports)
    }

    /// Never waits.
    pub(crate) fn take(&self, report: FailureReport) {
        // Counted first: it may be sent before this line is over.
        self.open.send_modify(|open| *open += 1);
        if self.queue.try_send(report).is_err() {
            self.settle(1);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// So many were sent, or given up.
    pub(crate) fn settle(&self, reports: usize) {
        self.open.send_modify(|open| *open -= reports);
    }

    /// So many are lost without having waited here.
    pub(crate) fn count_lost(&self, reports: usize) {
        self.dropped.fetch_add(
            u64::try_from(reports).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// How many were lost since the process began.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Somebody waits for the queue to be empty.
    pub(crate) async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Waits until nothing is left.
    pub(crate) async fn flush(&self) {
        self.hurry.notify_one();
        let mut open = self.open.subscribe();
        // The sender lives as long as this borrow of it.
        let _ = open.wait_for(|open| *open == 0).await;
    }

    /// How many wait or are being sent.
    pub(crate) fn left(&self) -> usize {
        *self.open.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_the_newest_and_counts() {
        let (sink, mut reports) = Sink::new(2);
        for name in ["a", "b", "c"] {
            let error = TaskError::of(&std::fmt::Error, crate::runtime::Origin::default());
            sink.take(report_of(name, &error));
        }
        assert_eq!((sink.dropped(), sink.left()), (1, 2));
        assert_eq!(reports.try_recv().unwrap().task_type, "a");
        assert_eq!(reports.try_recv().unwrap().task_type, "b");
        assert!(reports.try_recv().is_err());
    }

    #[test]
    fn a_name_becomes_an_id() {
        assert_eq!(id_of("read mesh/7"), "read_mesh_7");
        assert_eq!(id_of(".."), "task");
        assert_eq!(id_of(&"x".repeat(300)).len(), MAX_ID_BYTES);
    }
}
