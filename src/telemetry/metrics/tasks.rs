//! Tasks: what is counted when one changes, and what is asked of queues when somebody collects.
//!
//! [`Tasks::changed`] runs in the monitor, some eighty thousand times a second: it looks up two rows
//! and adds to atomics; the two histograms of an attempt take a tenth of a microsecond each.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use opentelemetry::{KeyValue, metrics::Meter};

use super::{Instruments, OTHER, bounded::Bounded, counts::Counts, reading::Readings};
use crate::domain::{
    NamespaceId,
    task::{Attempt, AttemptEnd, Failure, FailureCategory, Phase, Status, Task},
};

/// Task types that keep their name.
pub(super) const MAX_TYPES: usize = 100;
/// Queues, each in its namespace, that keep their name.
pub(super) const MAX_QUEUES: usize = 100;
/// Task types with a failure type that keep their names.
pub(super) const MAX_FAILURES: usize = 200;

const ENDS: [&str; 3] = ["succeeded", "failed", "cancelled"];
const OUTCOMES: [&str; 6] = [
    "succeeded",
    "failed",
    "cancelled",
    "timeout",
    "lease_lost",
    "released",
];

/// The name of a status as a label has it.
#[must_use]
pub fn status_name(status: Status) -> &'static str {
    match status {
        Status::Scheduled => "scheduled",
        Status::Queued => "queued",
        Status::Running => "running",
        Status::Succeeded => ENDS[0],
        Status::Failed => ENDS[1],
        Status::Cancelled => ENDS[2],
    }
}

#[derive(Debug)]
struct Type {
    name: KeyValue,
    created: AtomicU64,
    finished: [AtomicU64; ENDS.len()],
    /// Labels of an attempt, by outcome.
    attempts: [[KeyValue; 2]; OUTCOMES.len()],
}

impl Type {
    fn new(name: &str) -> Self {
        let name = KeyValue::new("task.type", name.to_owned());
        Self {
            attempts: OUTCOMES.map(|outcome| [name.clone(), KeyValue::new("outcome", outcome)]),
            name,
            created: AtomicU64::new(0),
            finished: Default::default(),
        }
    }
}

#[derive(Debug)]
struct FailureType {
    labels: [KeyValue; 2],
    count: AtomicU64,
}

impl FailureType {
    fn new(task: &str, error: &str) -> Self {
        Self {
            labels: [
                KeyValue::new("task.type", task.to_owned()),
                KeyValue::new("error.type", error.to_owned()),
            ],
            count: AtomicU64::new(0),
        }
    }
}

type Queue = [KeyValue; 2];

fn queue(namespace: &str, queue: &str) -> Queue {
    [
        KeyValue::new("duite.namespace", namespace.to_owned()),
        KeyValue::new("task.queue", queue.to_owned()),
    ]
}

/// See the module.
#[derive(Debug)]
pub(super) struct Tasks {
    types: Bounded<Type>,
    failures: Bounded<FailureType>,
    queues: Bounded<Queue>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            types: Bounded::new(MAX_TYPES, Type::new(OTHER)),
            failures: Bounded::new(MAX_FAILURES, FailureType::new(OTHER, OTHER)),
            queues: Bounded::new(MAX_QUEUES, queue(OTHER, OTHER)),
        }
    }
}

impl Tasks {
    pub(super) fn changed(
        &self,
        namespace: &NamespaceId,
        before: Option<&Task>,
        after: Option<&Task>,
        counts: &Counts,
        instruments: &Instruments,
    ) {
        let Some(after) = after else { return };
        let r#type = self.types.row(&after.r#type, || Type::new(&after.r#type));
        // A name may be used again.
        let before = before.filter(|before| before.uid == after.uid);
        let Some(before) = before else {
            r#type.created.fetch_add(1, Relaxed);
            return;
        };
        if let Some(attempt) = before.running() {
            let now = after.attempts.iter().rev();
            let mut now = now.filter(|now| now.fence == attempt.fence);
            match now.next() {
                Some(now) if now.end() == AttemptEnd::Open => {}
                Some(now) => self.attempt_ended(&r#type, after, now, counts, instruments),
                None => instruments
                    .attempt_duration
                    .record(seconds(0), &r#type.attempts[5]),
            }
            if before.suspect_us == 0 && after.suspect_us != 0 {
                counts.suspects.fetch_add(1, Relaxed);
            }
        }
        if let (Some(Phase::Queued(waited)), Some(attempt)) = (&before.phase, after.running()) {
            let labels = self.queue(namespace.as_str(), &after.queue);
            let waited = attempt.start_us.saturating_sub(waited.since_us);
            instruments
                .wait_duration
                .record(seconds(waited), labels.as_slice());
        }
        if let Some(failure) = &after.failure
            && before.failure.is_none()
        {
            self.failed(&after.r#type, failure);
        }
        let end = match after.status() {
            _ if before.status().is_terminal() => return,
            Status::Succeeded => 0,
            Status::Failed => 1,
            Status::Cancelled => 2,
            _ => return,
        };
        r#type.finished[end].fetch_add(1, Relaxed);
    }

    fn attempt_ended(
        &self,
        r#type: &Type,
        task: &Task,
        attempt: &Attempt,
        counts: &Counts,
        instruments: &Instruments,
    ) {
        let outcome = match &attempt.failure {
            None => 0,
            Some(failure) => match failure.category() {
                FailureCategory::Cancelled => 2,
                FailureCategory::Timeout => 3,
                FailureCategory::LeaseLost => 4,
                _ => 1,
            },
        };
        let took = attempt.end_us.saturating_sub(attempt.start_us);
        instruments
            .attempt_duration
            .record(seconds(took), &r#type.attempts[outcome]);
        if outcome == 4 {
            counts.leases_lost.fetch_add(1, Relaxed);
        }
        if let Some(failure) = attempt.failure.as_ref().filter(|_| outcome != 2) {
            self.failed(&task.r#type, failure);
            if matches!(task.phase, Some(Phase::Scheduled(_) | Phase::Queued(_))) {
                counts.retries.fetch_add(1, Relaxed);
            }
        }
    }

    fn failed(&self, task: &str, failure: &Failure) {
        let error = match failure.r#type.as_str() {
            "" => "unknown",
            error => error,
        };
        let row = self.failures.row(&format!("{task}\n{error}"), || {
            FailureType::new(task, error)
        });
        row.count.fetch_add(1, Relaxed);
    }

    fn queue(&self, namespace: &str, name: &str) -> Arc<Queue> {
        let key = format!("{namespace}\n{name}");
        self.queues.row(&key, || queue(namespace, name))
    }

    /// Makes the instruments that read it.
    pub(super) fn register(self: &Arc<Self>, readings: &Arc<Readings>, meter: &Meter) {
        let tasks = self.clone();
        meter
            .u64_observable_counter("duite.tasks.created")
            .with_unit("{task}")
            .with_description("Tasks created")
            .with_callback(move |seen| {
                for row in tasks.types.rows() {
                    seen.observe(row.created.load(Relaxed), std::slice::from_ref(&row.name));
                }
            })
            .build();
        let tasks = self.clone();
        meter
            .u64_observable_counter("duite.tasks.finished")
            .with_unit("{task}")
            .with_description("Tasks that ended, by the status they ended with")
            .with_callback(move |seen| {
                for row in tasks.types.rows() {
                    for (status, count) in ENDS.into_iter().zip(&row.finished) {
                        let labels = [row.name.clone(), KeyValue::new("task.status", status)];
                        seen.observe(count.load(Relaxed), &labels);
                    }
                }
            })
            .build();
        let tasks = self.clone();
        meter
            .u64_observable_counter("duite.tasks.failures")
            .with_unit("{failure}")
            .with_description("Failures of attempts, and of tasks as a whole")
            .with_callback(move |seen| {
                for row in tasks.failures.rows() {
                    seen.observe(row.count.load(Relaxed), &row.labels);
                }
            })
            .build();
        self.register_queues(readings, meter);
    }

    fn register_queues(self: &Arc<Self>, readings: &Arc<Readings>, meter: &Meter) {
        let asked = readings.clone();
        // These add up over servers, and the SDK goes on telling the last value of a gauge whose
        // labels are gone, but not of a sum.
        meter
            .i64_observable_up_down_counter("duite.tasks")
            .with_unit("{task}")
            .with_description("Tasks that are kept")
            .with_callback(move |seen| {
                for namespace in &asked.get().namespaces {
                    for (status, count) in &namespace.tasks {
                        let labels = [
                            KeyValue::new("duite.namespace", namespace.name.clone()),
                            KeyValue::new("task.status", *status),
                        ];
                        seen.observe(signed(*count), &labels);
                    }
                }
            })
            .build();
        let (tasks, asked) = (self.clone(), readings.clone());
        meter
            .i64_observable_up_down_counter("duite.queue.depth")
            .with_unit("{task}")
            .with_description("Tasks that are ready and wait for a worker")
            .with_callback(move |seen| {
                for (labels, (depth, _)) in tasks.queues(&asked) {
                    seen.observe(signed(depth), labels.as_slice());
                }
            })
            .build();
        let (tasks, asked) = (self.clone(), readings.clone());
        meter
            .f64_observable_gauge("duite.queue.oldest_wait")
            .with_unit("s")
            .with_description("How long that task has waited that waits longest; 0: none waits")
            .with_callback(move |seen| {
                for (labels, (_, oldest)) in tasks.queues(&asked) {
                    seen.observe(oldest, labels.as_slice());
                }
            })
            .build();
    }

    /// Depth and oldest wait of every queue that ever had a place, so that none stays at its last
    /// value, and of the others together.
    fn queues(&self, readings: &Readings) -> Vec<(Arc<Queue>, (u64, f64))> {
        let mut found = BTreeMap::<_, (u64, f64)>::new();
        for namespace in &readings.get().namespaces {
            for queue in &namespace.queues {
                let row = self.queue(&namespace.name, &queue.name);
                let (depth, oldest) = found.entry(Arc::as_ptr(&row).addr()).or_default();
                *depth += queue.depth;
                *oldest = oldest.max(queue.oldest.as_secs_f64());
            }
        }
        let rows = self.queues.rows().into_iter();
        rows.map(|row| {
            let value = found.remove(&Arc::as_ptr(&row).addr());
            (row, value.unwrap_or_default())
        })
        .collect()
    }
}

fn seconds(micros: i64) -> f64 {
    micros.max(0) as f64 / 1e6
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
