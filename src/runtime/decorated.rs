//! What surrounds a decorated task: its span, its clock, the place it was made at, its log line.

use std::{
    future::Future,
    panic::Location,
    time::{Duration, Instant},
};

use opentelemetry::{Context, context::FutureExt};
use tracing::{Instrument, Span};

use super::{
    backtrace::place,
    failure::{Origin, TaskError},
    job::JobKind,
    report, trace,
};

/// Whose tasks a registry holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The process's own jobs: each has a span of its own, a child of none.
    #[default]
    Process,
    /// The program's that uses the library: part of what calls, and reported when they fail.
    Caller,
    /// The library's: without a span, as calls that they make for ever belong to no trace.
    Library,
}

/// The decoration of one task or job.
#[derive(Debug)]
pub(super) struct Decoration {
    span: Span,
    /// OpenTelemetry's context where spans do not carry it.
    context: Option<Context>,
    started: Instant,
    location: String,
}

/// The span and the context of a decorated future.
pub(super) struct Surroundings {
    span: Span,
    context: Option<Context>,
}

/// What follows from a task's end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    /// Nothing more.
    Ends,
    /// It is started again after so long.
    Restarts(Duration),
    /// The process ends.
    Fatal,
}

impl Surroundings {
    /// Calls in them.
    pub(super) fn run_now<R>(self, call: impl FnOnce() -> R) -> R {
        let _context = self.context.map(Context::attach);
        self.span.in_scope(call)
    }

    /// Runs the future in them.
    pub(super) fn run<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        let context = self.context.unwrap_or_default();
        future.instrument(self.span).with_context(context)
    }
}

impl Decoration {
    /// `function` is where the task's code is, where that is known.
    pub(super) fn new(
        kind: JobKind,
        name: &str,
        owner: Owner,
        at: &'static Location<'static>,
        function: Option<&str>,
    ) -> Self {
        // Of the kind INTERNAL, which is the default. At the level of errors, so that their lines have its fields whatever is filtered.
        let (span, context) = match owner {
            Owner::Caller => {
                let span = tracing::error_span!("task", task.name = name, otel.name = name);
                (span, trace::inherited())
            }
            Owner::Process => {
                let kind = kind.as_str();
                let span = tracing::error_span!(
                    parent: None, "job", job.name = name, job.kind = kind
                );
                (span, None)
            }
            Owner::Library => (Span::none(), None),
        };
        Self {
            span,
            context,
            started: Instant::now(),
            location: place(at, function),
        }
    }

    /// What its future is to run in.
    pub(super) fn surroundings(&self) -> Surroundings {
        Surroundings {
            span: self.span.clone(),
            context: self.context.clone(),
        }
    }

    /// The nearest place known of an error that the task returned.
    pub(super) fn origin(&self) -> Origin {
        Origin::of_place(self.location.clone())
    }

    /// The one place where a task's end is logged, and its failure reported.
    pub(super) fn settle(
        &self,
        kind: JobKind,
        name: &str,
        error: Option<&TaskError>,
        end: End,
        owner: Owner,
    ) {
        let (kind, duration) = (kind.as_str(), self.started.elapsed());
        let fatal = end == End::Fatal;
        let restart_in_s = match end {
            End::Restarts(pause) => Some(pause.as_secs_f64()),
            End::Ends | End::Fatal => None,
        };
        let _inside = self.span.enter();
        match error {
            None => {
                tracing::debug!(
                    task.name = name,
                    task.kind = kind,
                    ?duration,
                    "task finished"
                )
            }
            Some(TaskError::Cancelled) => {
                tracing::debug!(
                    task.name = name,
                    task.kind = kind,
                    ?duration,
                    "task was cancelled"
                )
            }
            Some(TaskError::Panicked { message, origin }) => tracing::error!(
                task.name = name, task.kind = kind, ?duration, error.type = "panic",
                error.message = message, error.location = origin.location,
                error.stack = origin.stack, fatal, restart_in_s,
                "task panicked: {message}"
            ),
            Some(TaskError::Failed {
                error_type,
                message,
                chain,
                origin,
            }) => {
                let causes: Vec<&str> = chain.iter().map(|cause| &*cause.message).collect();
                tracing::error!(
                    task.name = name, task.kind = kind, ?duration, error.type = error_type,
                    error.message = message, error.causes = ?causes,
                    error.location = origin.location, fatal, restart_in_s,
                    "task failed: {message}"
                );
            }
        }
        if let Some(error) = error.filter(|_| owner == Owner::Caller) {
            // A task that is dropped with its runtime has no context to attach, and is not reported.
            let _context = self.context.clone().map(Context::attach);
            report::report(name, error);
        }
    }
}
