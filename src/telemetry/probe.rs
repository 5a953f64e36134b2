//! What the engine tells of what happens, once for each commit, never again at a replay.

use crate::domain::{NamespaceId, Revision, StateId, task::Task};

use super::{Metrics, Traces};

/// Batches of a push stream under a lease were merged into a state.
#[derive(Clone, Copy, Debug)]
pub struct Merge<'a> {
    /// The state.
    pub state: &'a StateId,
    /// The lease's.
    pub fence: u64,
    /// How much was handed in.
    pub bytes: usize,
    /// The commit.
    pub revision: Revision,
    /// When.
    pub time_us: i64,
}

/// Who listens to the engine. A clone is the same probe; the default one hears nothing.
///
/// Its methods are called by the monitor while it folds a group: they wait for nothing, do no I/O
/// and cost nothing where nobody asked for telemetry.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// Spans and the log records tied to them.
    pub traces: Traces,
    /// Counts and durations.
    pub metrics: Metrics,
}

impl Probe {
    /// A task's record was replaced: made (`before` is none), changed, or removed (`after` is none).
    pub fn task_changed(
        &self,
        namespace: &NamespaceId,
        before: Option<&Task>,
        after: Option<&Task>,
    ) {
        self.traces.task_changed(namespace, before, after);
        self.metrics.task_changed(namespace, before, after);
    }

    /// Pushed batches of a running task were merged; of a stream's merges not all are told.
    pub fn merged(&self, namespace: &NamespaceId, task: &Task, merge: &Merge<'_>) {
        self.traces.merged(namespace, task, merge);
    }
}
