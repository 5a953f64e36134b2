//! The spans of tasks: their creation, their waits and their attempts; and what failed in them.
//!
//! They belong to the server, which makes each of them whole when the commit that ends it is folded:
//! its id follows from the task ([`TaskSpan`]), its start stands in the record. So a worker that is
//! killed takes no span with it, and a server that starts again ends what its predecessor began. A
//! replay tells nothing, so each is sent once; one whose end was committed in the last moment before
//! a server is killed may not be sent at all.
//!
//! ```text
//! the creator's span, or `create T` where it had none
//!   |- create T          PRODUCER
//!   |- wait T            INTERNAL, one before each attempt
//!   '- process T         CONSUMER, one for each attempt; the handler's span is its child
//!        '- merge state  INTERNAL, some of those of its batches
//! ```

mod lines;
mod records;
mod spans;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample as _};

use self::{lines::FailureLines, records::Records};
use super::export::{Exports, Spans};
use crate::domain::{
    NamespaceId, StateId, Uid,
    task::{Attempt, AttemptEnd, Failure, FailureCategory, Phase, Task, TraceContext},
    trace::{SpanRef, TaskSpan},
};

/// Makes the spans of tasks, the log records tied to them, and one log line for each failure. A clone
/// is the same; the default one does nothing.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    spans: Option<Spans>,
    sampler: Sampler,
    records: Option<Records>,
    lines: FailureLines,
}

/// A merge of batches, for its span.
#[derive(Clone, Copy, Debug)]
pub struct Merge<'a> {
    /// Of the lease that the batches were pushed under.
    pub task: &'a Task,
    /// The fence of that lease.
    pub fence: u64,
    /// Where they went.
    pub state: &'a StateId,
    /// How many.
    pub batches: u64,
    /// When their group was planned, by the wall.
    pub start_us: i64,
    /// When it was folded.
    pub end_us: i64,
}

impl Traces {
    /// Spans and records go where `exports` sends them; failures are logged in any case.
    #[must_use]
    pub fn new(exports: &Exports) -> Self {
        let inner = Inner {
            spans: exports.spans(),
            sampler: exports.sampler().unwrap_or(Sampler::AlwaysOff),
            records: exports
                .logger_provider()
                .map(|provider| Records::new(&provider)),
            lines: FailureLines::default(),
        };
        Self {
            inner: Some(Arc::new(inner)),
        }
    }

    fn exporting(&self) -> Option<(&Inner, &Spans)> {
        let inner = self.inner.as_deref()?;
        Some((inner, inner.spans.as_ref()?))
    }

    /// Whether spans are exported at all.
    #[must_use]
    pub fn exports(&self) -> bool {
        self.exporting().is_some()
    }

    /// The trace of a task that is about to be created: the submitter's, where it has one; else one
    /// that begins with the task's own creation, if it is sampled.
    #[must_use]
    pub fn begin(&self, submitter: Option<TraceContext>, task: Uid) -> Option<TraceContext> {
        let Some((inner, _)) = self.exporting() else {
            return submitter;
        };
        let parent = SpanRef::of(submitter.as_ref());
        match (submitter, parent) {
            (Some(context), Some(parent)) => {
                let sampled = inner.samples(Some(parent), parent.trace_id);
                let flags = (parent.flags & !1) | u8::from(sampled);
                Some(SpanRef { flags, ..parent }.context(&context.tracestate))
            }
            _ => {
                let trace_id = uuid::Uuid::new_v4().as_u128();
                let root = SpanRef {
                    trace_id,
                    span_id: TaskSpan::Create.id(task),
                    flags: 1,
                };
                inner.samples(None, trace_id).then(|| root.context(""))
            }
        }
    }

    /// The context of the attempt that the next lease of a task begins: its span's, where it will
    /// have one; else the creator's.
    #[must_use]
    pub fn attempt(&self, task: &Task) -> Option<TraceContext> {
        let context = task.trace_context.as_ref()?;
        match SpanRef::of(Some(context)) {
            Some(creator) if creator.is_sampled() && self.exports() => {
                let span = TaskSpan::Attempt(task.fence + 1).id(task.uid);
                Some(creator.sibling(span).context(&context.tracestate))
            }
            _ => Some(context.clone()),
        }
    }

    /// See [`Probe::task_changed`](super::Probe::task_changed).
    pub(super) fn task_changed(
        &self,
        namespace: &NamespaceId,
        before: Option<&Task>,
        after: Option<&Task>,
    ) {
        let Some(inner) = self.inner.as_deref() else {
            return;
        };
        let Some(task) = after else { return };
        let Some(before) = before else {
            inner.created(namespace, task);
            return;
        };
        if before.uid != task.uid {
            // A removed task's id was given to a new one.
            inner.created(namespace, task);
            return;
        }
        if let Some(was) = before.running() {
            let now = task.attempts.iter().rev().find(|a| a.fence == was.fence);
            match now {
                // Its number goes to the next one: it was released, or nobody accepted it.
                None => inner.ended(namespace, task, was, End::Released),
                Some(now) if now.end() != AttemptEnd::Open => {
                    inner.ended(namespace, task, now, End::of(task, now));
                }
                Some(_) => {}
            }
        }
        if let Some(began) = task.running().filter(|began| began.fence > before.fence) {
            inner.began(namespace, before, task, began);
        }
        if before.failure.is_none()
            && let Some(failure) = task.failure.as_deref()
        {
            // Of the task as a whole: it waited when its time was over.
            inner.failed(namespace, task, None, failure);
        }
    }

    /// Batches pushed under a lease were merged. Whoever calls it keeps them few.
    pub fn merged(&self, namespace: &NamespaceId, merge: Merge<'_>) {
        let Some((inner, spans)) = self.exporting() else {
            return;
        };
        let attempt = merge.task.attempts.iter().rev();
        let attempt = { attempt }.find(|attempt| attempt.fence == merge.fence);
        if let Some(parent) = attempt.and_then(|attempt| inner.own_span(merge.task, attempt)) {
            spans.send(|| spans::merge(namespace, &merge, parent));
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End<'a> {
    Succeeded,
    Cancelled,
    /// The lease went back; another one does the same attempt.
    Released,
    Failed(&'a Failure),
}

impl<'a> End<'a> {
    fn of(task: &Task, attempt: &'a Attempt) -> Self {
        match attempt.failure.as_deref() {
            Some(failure) if failure.category() == FailureCategory::Cancelled => Self::Cancelled,
            Some(failure) => Self::Failed(failure),
            None if task.cancel.is_some() && task.output.is_none() && is_cancelled(task) => {
                Self::Cancelled
            }
            None => Self::Succeeded,
        }
    }

    fn outcome(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Cancelled => "cancelled",
            Self::Released => "released",
            Self::Failed(failure) => match failure.category() {
                FailureCategory::LeaseLost => "lease_lost",
                FailureCategory::Timeout => "timeout",
                _ => "failed",
            },
        }
    }
}

fn is_cancelled(task: &Task) -> bool {
    use crate::domain::task::Status;
    match &task.phase {
        Some(Phase::Finishing(finishing)) => finishing.status() == Status::Cancelled,
        _ => task.status() == Status::Cancelled,
    }
}

impl Inner {
    fn samples(&self, parent: Option<SpanRef>, trace_id: u128) -> bool {
        let parent = parent.map(|parent| {
            let context = span_context(parent, "", true);
            opentelemetry::Context::new().with_remote_span_context(context)
        });
        let result = self.sampler.should_sample(
            parent.as_ref(),
            TraceId::from_bytes(trace_id.to_be_bytes()),
            "create",
            &SpanKind::Producer,
            &[],
            &[],
        );
        result.decision == SamplingDecision::RecordAndSample
    }

    /// The creator's span, where the task is traced and its trace sampled.
    fn creator(&self, task: &Task) -> Option<SpanRef> {
        self.spans.as_ref()?;
        SpanRef::of(task.trace_context.as_ref()).filter(|span| span.is_sampled())
    }

    /// The attempt's span, where it is ours: one that was leased while nothing was exported has the
    /// creator's.
    fn own_span(&self, task: &Task, attempt: &Attempt) -> Option<SpanRef> {
        let span = SpanRef::of(attempt.trace_context.as_ref())?;
        let own = TaskSpan::Attempt(attempt.fence).id(task.uid);
        (span.is_sampled() && span.span_id == own && self.spans.is_some()).then_some(span)
    }

    fn created(&self, namespace: &NamespaceId, task: &Task) {
        if let (Some(creator), Some(spans)) = (self.creator(task), &self.spans) {
            spans.send(|| spans::create(namespace, task, creator));
        }
    }

    fn began(&self, namespace: &NamespaceId, before: &Task, task: &Task, attempt: &Attempt) {
        let Some(span) = self.own_span(task, attempt) else {
            return;
        };
        if let (Some(creator), Some(spans)) = (self.creator(task), &self.spans) {
            spans.send(|| spans::wait(namespace, before, task, attempt, creator));
        }
        if let Some(records) = &self.records {
            records.started(namespace, task, attempt, span);
        }
    }

    fn ended(&self, namespace: &NamespaceId, task: &Task, attempt: &Attempt, end: End<'_>) {
        if let (Some(span), Some(creator), Some(spans)) = (
            self.own_span(task, attempt),
            self.creator(task),
            &self.spans,
        ) {
            spans.send(|| spans::attempt(namespace, task, attempt, end, span, creator));
        }
        if let End::Failed(failure) = end {
            self.failed(namespace, task, Some(attempt), failure);
        }
    }

    /// Once for each failed attempt, and for a task that failed without one.
    fn failed(
        &self,
        namespace: &NamespaceId,
        task: &Task,
        attempt: Option<&Attempt>,
        failure: &Failure,
    ) {
        let context = attempt.map_or(&task.trace_context, |attempt| &attempt.trace_context);
        let span = SpanRef::of(context.as_ref());
        if let Some(records) = &self.records {
            records.exception(namespace, task, attempt, failure, span);
        }
        self.lines.failed(namespace, task, attempt, failure, span);
    }
}

fn span_context(span: SpanRef, tracestate: &str, is_remote: bool) -> SpanContext {
    SpanContext::new(
        trace_id(span),
        span_id(span.span_id),
        TraceFlags::new(span.flags),
        is_remote,
        // What a vendor wrote wrongly is left out.
        tracestate.parse().unwrap_or(TraceState::NONE),
    )
}

fn trace_id(span: SpanRef) -> TraceId {
    TraceId::from_bytes(span.trace_id.to_be_bytes())
}

fn span_id(id: u64) -> SpanId {
    SpanId::from_bytes(id.to_be_bytes())
}

fn time(us: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(us).unwrap_or_default())
}

#[cfg(test)]
mod tests;
