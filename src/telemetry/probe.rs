//! What the engine tells of what happens, once for each commit, never again at a replay.

use crate::domain::{NamespaceId, task::Task};

use super::{Metrics, Traces};

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
}
