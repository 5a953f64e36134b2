//! The spans of tasks, and the log records tied to them.
//!
//! Spans are made from committed records, when these say that something is over: so each is
//! exported once, by whichever process of the server commits its end, and nothing is kept for it.
//! `docs/TRACES.md` lists them with their attributes.
//!
//! - [`Traces`]: what is told of tasks; start here
//! - `spans`: what a span says
//! - `records`: what is logged when an attempt starts and when it fails

mod records;
mod spans;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::records::FailureLines;
pub(super) use self::records::LINES_TARGET;
use super::{
    Merge,
    otlp::{ExportCounts, Logs, Spans},
    sampler::Sampler,
};
use crate::domain::{
    NamespaceId, Uid,
    task::{Attempt, AttemptEnd, Failure, Phase, Task, TraceContext},
    trace::{SpanRef, TaskSpan},
};

/// Makes the spans of tasks. A clone is the same; the default one makes none and logs nothing.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    spans: Option<Spans>,
    logs: Option<Logs>,
    sampler: Sampler,
    lines: FailureLines,
}

/// A task as one of its records has it.
#[derive(Clone, Copy)]
struct Told<'a> {
    namespace: &'a NamespaceId,
    task: &'a Task,
}

impl Traces {
    pub(super) fn new(spans: Option<Spans>, logs: Option<Logs>, sampler: Sampler) -> Self {
        Self {
            inner: Some(Arc::new(Inner {
                spans,
                logs,
                sampler,
                lines: FailureLines::default(),
            })),
        }
    }

    /// Whether spans are exported.
    #[must_use]
    pub fn exports(&self) -> bool {
        self.spans().is_some()
    }

    /// What became of the spans; none where none are exported.
    #[must_use]
    pub fn span_counts(&self) -> Option<Arc<ExportCounts>> {
        self.spans().map(|spans| spans.counts().clone())
    }

    /// What became of the log records; none where none are exported.
    #[must_use]
    pub fn log_counts(&self) -> Option<Arc<ExportCounts>> {
        let logs = self.inner.as_ref()?.logs.as_ref()?;
        Some(logs.counts().clone())
    }

    fn spans(&self) -> Option<&Spans> {
        self.inner.as_ref()?.spans.as_ref()
    }

    /// The context of a task that is created: the submitter's, or where there is none the server's
    /// own create span, if the trace is to be recorded. A sampler that does not follow the parent
    /// decides anew and says so in the flags, as it does in every SDK.
    #[must_use]
    pub fn begin(&self, submitter: Option<TraceContext>, task: Uid) -> Option<TraceContext> {
        let Some((inner, spans)) = self
            .inner
            .as_ref()
            .and_then(|i| Some((i, i.spans.as_ref()?)))
        else {
            return submitter;
        };
        match (submitter, inner.sampler.parent_based) {
            (Some(submitter), true) => Some(submitter),
            (Some(submitter), false) => {
                let Some(span) = SpanRef::of(Some(&submitter)) else {
                    return Some(submitter);
                };
                let sampled = inner.sampler.samples(Some(span), span.trace_id);
                let flags = span.flags & !1 | u8::from(sampled);
                Some(SpanRef { flags, ..span }.context(&submitter.tracestate))
            }
            (None, _) => {
                let trace_id = fastrand::u128(1..);
                let root = SpanRef {
                    trace_id,
                    span_id: TaskSpan::Create.id(task),
                    flags: 1,
                };
                // Where nobody takes spans any more no trace begins: a whole one less, which is
                // counted as one span dropped, instead of pieces of many.
                let begins = inner.sampler.samples(None, trace_id) && spans.has_room();
                begins.then(|| root.context(""))
            }
        }
    }

    /// The context of the attempt that the task's next lease begins: its own span's where the trace
    /// is recorded, else the creator's.
    #[must_use]
    pub fn attempt(&self, task: &Task) -> Option<TraceContext> {
        let own = self
            .exports()
            .then(|| sampled(task.trace_context.as_ref()))
            .flatten();
        match (own, &task.trace_context) {
            (Some(creator), Some(context)) => {
                let span = TaskSpan::Attempt(task.fence + 1).id(task.uid());
                Some(creator.sibling(span).context(&context.tracestate))
            }
            (_, context) => context.clone(),
        }
    }

    /// See [`Probe::merged`](super::Probe::merged).
    pub(super) fn merged(&self, namespace: &NamespaceId, task: &Task, merge: &Merge<'_>) {
        if let Some(spans) = self.spans()
            && let Some(attempt) = task.running().filter(|one| one.fence == merge.fence)
            && let Some(span) = sampled(attempt.trace_context.as_ref())
        {
            spans.push(|| spans::merge(Told { namespace, task }, span, merge));
        }
    }

    /// See [`Probe::task_changed`](super::Probe::task_changed).
    pub(super) fn task_changed(
        &self,
        namespace: &NamespaceId,
        before: Option<&Task>,
        after: Option<&Task>,
    ) {
        let Some(inner) = &self.inner else { return };
        let told = |task| Told { namespace, task };
        // An id that is used again is another task.
        let same = before.zip(after).filter(|(b, a)| b.uid() == a.uid());
        if let (None, Some(after)) = (same, after) {
            inner.created(told(after));
        }
        if let Some((before, after)) = same
            && before.fence < after.fence
        {
            inner.leased(told(after), before);
        }
        // Its time was over while it waited.
        if let Some((before, after)) = same
            && before.failure.is_none()
            && let Some(failure) = after.failure.as_deref()
        {
            let creator = SpanRef::of(after.trace_context.as_ref());
            inner.failed(told(after), None, failure, creator, true);
        }
        if let Some((before, running)) = before.and_then(|task| Some((task, task.running()?))) {
            let after = same.map(|(_, after)| after);
            inner.attempt_changed(told(before), running, after);
        }
    }
}

impl Inner {
    fn created(&self, told: Told<'_>) {
        let Some(spans) = &self.spans else { return };
        if let Some(creator) = sampled(told.task.trace_context.as_ref()) {
            spans.push(|| spans::create(told, creator));
        }
    }

    fn leased(&self, told: Told<'_>, before: &Task) {
        let Some(attempt) = told.task.running() else {
            return;
        };
        if let (Some(spans), Some(Phase::Queued(queued))) = (&self.spans, &before.phase)
            && let Some(creator) = sampled(told.task.trace_context.as_ref())
        {
            spans.push(|| spans::wait(told, creator, attempt, queued.since_us));
        }
        if let Some(logs) = &self.logs
            && let Some(span) = sampled(attempt.trace_context.as_ref())
        {
            logs.push(|record| records::started(record, told, attempt, span));
        }
    }

    /// The lease of an attempt that ran may be over.
    fn attempt_changed(&self, told: Told<'_>, was: &Attempt, after: Option<&Task>) {
        let now = after.and_then(|task| task.attempt_of(was.fence, was.secret));
        if now.is_some_and(|now| now.end() == AttemptEnd::Open) {
            return;
        }
        let own = TaskSpan::Attempt(was.fence).id(told.task.uid());
        if let Some(spans) = &self.spans
            && let Some(span) = sampled(was.trace_context.as_ref())
            // Of a lease that was given while nothing was exported there is no span to end.
            && span.span_id == own
            && let Some(creator) = sampled(told.task.trace_context.as_ref())
        {
            spans.push(|| spans::attempt(told, creator, was, now, after));
        }
        let failed = now.and_then(|now| Some((now, now.failure.as_deref()?)));
        if let Some((attempt, failure)) = failed
            && !records::is_stop(failure)
        {
            let is_final = after.is_none_or(|task| {
                !matches!(task.phase, Some(Phase::Queued(_) | Phase::Scheduled(_)))
            });
            let span = SpanRef::of(attempt.trace_context.as_ref());
            self.failed(told, Some(attempt), failure, span, is_final);
        }
    }

    /// Once for each failed attempt, and for a task that failed without one.
    fn failed(
        &self,
        told: Told<'_>,
        attempt: Option<&Attempt>,
        failure: &Failure,
        span: Option<SpanRef>,
        is_final: bool,
    ) {
        if let Some(logs) = &self.logs {
            logs.push(|record| records::failed(record, told, attempt, failure, span, is_final));
        }
        self.lines.write(told, attempt, failure, span);
    }
}

/// The span of a context whose trace is recorded. Most are not: that is seen without reading the
/// rest.
fn sampled(context: Option<&TraceContext>) -> Option<SpanRef> {
    let text = &context?.traceparent;
    let last = *text.as_bytes().get(54)?;
    let is_sampled = matches!(last, b'1' | b'3' | b'5' | b'7' | b'9' | b'b' | b'd' | b'f');
    is_sampled.then(|| SpanRef::parse(text)).flatten()
}
