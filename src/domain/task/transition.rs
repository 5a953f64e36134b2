//! How a task changes: one total function over every phase and every event.
//!
//! Recovery, the live service and simulations all go through [`next`]. An event that comes late
//! or twice (a timer that fired as the task ended, a finish whose answer was lost) changes nothing;
//! the table test below lists what each phase makes of each event and is the diagram in
//! `docs/task-transitions.md`.

use super::{
    Attempt, AttemptEnd, CancelRequest, Contribution, Failure, FailureCategory, Finishing, Payload,
    Phase, Queued, Running, Scheduled, Status, Task, Terminal, TraceContext, WriterMark, backoff,
};
use crate::domain::{
    error::{Error, Reason},
    id::Uid,
    limits::MAX_ATTEMPTS_KEPT,
};

/// What a worker says of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It did the work.
    Succeeded {
        /// What it produced.
        output: Option<Payload>,
        /// State operations that take effect exactly once.
        contributions: Vec<Contribution>,
    },
    /// It failed.
    Failed(Box<Failure>),
    /// It stopped on request.
    Cancelled,
}

/// What happens to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Its schedule time has come.
    Due,
    /// It is given to a worker.
    Lease {
        /// Random part of the token.
        secret: u64,
        /// The worker's name.
        worker_id: String,
        /// The worker process.
        instance: Uid,
        /// The attempt's span.
        trace_context: Option<TraceContext>,
    },
    /// Its worker reports the outcome.
    Finish {
        /// From the lease token.
        fence: u64,
        /// From the lease token.
        secret: u64,
        /// What it says.
        outcome: Outcome,
        /// Batches that must be merged before the task turns terminal.
        marks: Vec<WriterMark>,
        /// The marks are merged already, so that nothing is left to wait for.
        marks_merged: bool,
    },
    /// What a finishing task waited for has come, or its time is over.
    Settle {
        /// Its time was over first.
        flush_incomplete: bool,
    },
    /// The lease ran out or its worker is gone.
    LeaseLost {
        /// Which lease.
        fence: u64,
    },
    /// The first renewal did not come: the worker never got the lease.
    LeaseUnaccepted {
        /// Which lease.
        fence: u64,
    },
    /// The worker gives the lease back.
    Release {
        /// From the lease token.
        fence: u64,
        /// From the lease token.
        secret: u64,
    },
    /// Nothing is heard of the lease's worker: its stream broke, or its renewal is overdue.
    Suspect {
        /// Which lease.
        fence: u64,
    },
    /// The lease's worker was heard of again.
    Trust {
        /// Which lease.
        fence: u64,
    },
    /// The attempt took longer than the policy allows.
    AttemptTimeout {
        /// Which lease.
        fence: u64,
    },
    /// The task took longer than the policy allows.
    TotalTimeout,
    /// Somebody asks it to stop.
    Cancel {
        /// Why.
        reason: String,
    },
}

/// What an event made of a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Changed {
    /// The record to commit.
    To(Box<Task>),
    /// Nothing: the event came late, or twice.
    Not,
}

/// The task after `event` at `now_us`. `random` is for the retry's jitter.
///
/// Errors: `LEASE_LOST` for a token whose lease is over, `TASK_TERMINAL` for a cancel after
/// another end, `INTERNAL` for a lease of a task that is not queued.
pub fn next(task: &Task, event: &Event, now_us: i64, random: u64) -> Result<Changed, Error> {
    let Some(phase) = &task.phase else {
        return Err(Error::new(
            Reason::Internal,
            format!("task {} has no phase", task.id),
        ));
    };
    match (phase, event) {
        (Phase::Scheduled(_), Event::Due) => Ok(to_queued(task.clone(), now_us)),

        (
            Phase::Queued(_),
            Event::Lease {
                secret,
                worker_id,
                instance,
                trace_context,
            },
        ) => {
            let mut task = task.clone();
            task.fence += 1;
            task.attempts.push(Attempt {
                number: task.attempts_spent + 1,
                fence: task.fence,
                secret: *secret,
                worker_id: worker_id.clone(),
                instance_uid: *instance,
                start_us: now_us,
                trace_context: trace_context.clone(),
                ..Attempt::default()
            });
            let kept_from = task.attempts.len().saturating_sub(MAX_ATTEMPTS_KEPT);
            task.attempts.drain(..kept_from);
            Ok(to(task, Phase::Running(Running {})))
        }
        (_, Event::Lease { .. }) => Err(Error::new(
            Reason::Internal,
            format!(
                "task {} is {}, only a queued task can be leased",
                task.id,
                task.status()
            ),
        )),

        (
            _,
            Event::Finish {
                fence,
                secret,
                outcome,
                marks,
                marks_merged,
            },
        ) => match task.attempt_of(*fence, *secret).map(Attempt::end) {
            Some(AttemptEnd::Open) => finish(task, outcome, marks, *marks_merged, now_us, random),
            Some(AttemptEnd::Finished) => Ok(Changed::Not),
            Some(AttemptEnd::Lost) | None => Err(lease_lost(task)),
        },
        (Phase::Finishing(finishing), Event::Settle { flush_incomplete }) => {
            let mut task = task.clone();
            task.flush_incomplete = *flush_incomplete;
            Ok(to_terminal(task, finishing.status(), now_us))
        }

        (Phase::Running(_), Event::LeaseLost { fence }) if holds(task, *fence) => {
            let failure = Failure {
                category: FailureCategory::LeaseLost as i32,
                r#type: "lease_lost".into(),
                message: why_lost(task, now_us),
                retryable: true,
                retry_delay_us: Some(0),
                ..Failure::default()
            };
            Ok(fail_attempt(
                task,
                failure,
                AttemptEnd::Lost,
                now_us,
                random,
            ))
        }
        (Phase::Running(_), Event::AttemptTimeout { fence }) if holds(task, *fence) => {
            let seconds = task.policy.attempt_timeout_us as f64 / 1e6;
            let failure = timeout(
                format!("the attempt took longer than its limit of {seconds} s"),
                true,
            );
            Ok(fail_attempt(
                task,
                failure,
                AttemptEnd::Lost,
                now_us,
                random,
            ))
        }
        (Phase::Running(_), Event::LeaseUnaccepted { fence }) if holds(task, *fence) => {
            Ok(give_back(task.clone(), now_us))
        }
        (Phase::Running(_), Event::Suspect { fence })
            if holds(task, *fence) && task.suspect_us == 0 =>
        {
            let mut task = task.clone();
            // 0 would say that nothing is suspicious.
            task.suspect_us = now_us.max(1);
            Ok(Changed::To(Box::new(task)))
        }
        (Phase::Running(_), Event::Trust { fence })
            if holds(task, *fence) && task.suspect_us != 0 =>
        {
            let mut task = task.clone();
            task.suspect_us = 0;
            Ok(Changed::To(Box::new(task)))
        }
        (_, Event::Release { fence, secret }) => match task.attempt_of(*fence, *secret) {
            Some(attempt) if attempt.end() == AttemptEnd::Open && task.running().is_some() => {
                Ok(give_back(task.clone(), now_us))
            }
            _ => Ok(Changed::Not),
        },

        (Phase::Scheduled(_) | Phase::Queued(_), Event::TotalTimeout) => {
            let mut task = task.clone();
            let failure = stamp(total_timeout(&task), &task, now_us);
            task.failure = Some(Box::new(failure));
            Ok(to_terminal(task, Status::Failed, now_us))
        }
        (Phase::Running(_), Event::TotalTimeout) => Ok(fail_attempt(
            task,
            total_timeout(task),
            AttemptEnd::Lost,
            now_us,
            random,
        )),

        (Phase::Scheduled(_) | Phase::Queued(_), Event::Cancel { reason }) => {
            let mut task = task.clone();
            task.cancel = Some(CancelRequest {
                reason: reason.clone(),
                time_us: now_us,
            });
            Ok(to_terminal(task, Status::Cancelled, now_us))
        }
        (Phase::Running(_), Event::Cancel { reason }) if task.cancel.is_none() => {
            let mut task = task.clone();
            task.cancel = Some(CancelRequest {
                reason: reason.clone(),
                time_us: now_us,
            });
            Ok(Changed::To(Box::new(task)))
        }
        (Phase::Terminal(end), Event::Cancel { .. }) if end.status() != Status::Cancelled => {
            Err(Error::new(
                Reason::TaskTerminal,
                format!("task {} has ended already: it is {}", task.id, end.status()),
            )
            .with("task", &task.id)
            .with("status", end.status()))
        }

        // Late or repeated: the lease is another's by now, the timer was for an earlier phase, the
        // wish was heard already, or the outcome is decided.
        (
            Phase::Scheduled(_)
            | Phase::Queued(_)
            | Phase::Running(_)
            | Phase::Finishing(_)
            | Phase::Terminal(_),
            Event::Due
            | Event::Settle { .. }
            | Event::LeaseLost { .. }
            | Event::LeaseUnaccepted { .. }
            | Event::Suspect { .. }
            | Event::Trust { .. }
            | Event::AttemptTimeout { .. }
            | Event::TotalTimeout
            | Event::Cancel { .. },
        ) => Ok(Changed::Not),
    }
}

fn holds(task: &Task, fence: u64) -> bool {
    task.running().is_some_and(|attempt| attempt.fence == fence)
}

/// What became of the worker: one that was asked to stop in vain is renewed no further.
fn why_lost(task: &Task, now_us: i64) -> String {
    let grace = task.policy.cancel_grace();
    let until = |cancel: &CancelRequest| {
        let grace = u64::try_from(grace.as_micros()).unwrap_or(u64::MAX);
        cancel.time_us.saturating_add_unsigned(grace)
    };
    if task
        .cancel
        .as_ref()
        .is_some_and(|cancel| until(cancel) <= now_us)
    {
        return format!(
            "the task was asked to stop and its worker did not end it within {} s: its lease was \
             renewed no further",
            grace.as_secs_f64()
        );
    }
    "the worker stopped renewing its lease: it crashed, hung or lost its connection".into()
}

fn lease_lost(task: &Task) -> Error {
    Error::new(
        Reason::LeaseLost,
        format!(
            "the lease on task {} is over: stop the work, its results are refused",
            task.id
        ),
    )
    .with("task", &task.id)
}

fn finish(
    task: &Task,
    outcome: &Outcome,
    marks: &[WriterMark],
    marks_merged: bool,
    now_us: i64,
    random: u64,
) -> Result<Changed, Error> {
    if task.running().is_none() {
        return Err(lease_lost(task));
    }
    let (status, contributions) = match outcome {
        // However it was stopped, it was not to go on.
        Outcome::Failed(failure) if failure.category() == FailureCategory::Cancelled => {
            (Status::Cancelled, [].as_slice())
        }
        Outcome::Failed(failure) if may_retry(task, failure) => {
            let failure = failure.as_ref().clone();
            return Ok(fail_attempt(
                task,
                failure,
                AttemptEnd::Finished,
                now_us,
                random,
            ));
        }
        Outcome::Succeeded { contributions, .. } => (Status::Succeeded, contributions.as_slice()),
        // A retryable failure after the wish to stop is the stop that was wished for.
        Outcome::Failed(failure) if failure.retryable && task.cancel.is_some() => {
            (Status::Cancelled, [].as_slice())
        }
        Outcome::Failed(_) => (Status::Failed, [].as_slice()),
        Outcome::Cancelled => (Status::Cancelled, [].as_slice()),
    };
    let mut task = task.clone();
    let failure = match outcome {
        Outcome::Succeeded { output, .. } => {
            task.output.clone_from(output);
            None
        }
        Outcome::Failed(failure) => Some(stamp(failure.as_ref().clone(), &task, now_us)),
        Outcome::Cancelled => Some(stamp(stopped(&task), &task, now_us)),
    };
    end_attempt(&mut task, AttemptEnd::Finished, failure, now_us);
    if contributions.is_empty() && (marks.is_empty() || marks_merged) {
        return Ok(to_terminal(task, status, now_us));
    }
    let finishing = Finishing {
        status: status as i32,
        marks: marks.to_vec(),
        contributions: contributions.to_vec(),
    };
    Ok(to(task, Phase::Finishing(finishing)))
}

/// Whether a failure leads to another attempt.
fn may_retry(task: &Task, failure: &Failure) -> bool {
    failure.retryable && task.cancel.is_none() && task.attempts_spent + 1 < task.policy.max_attempts
}

/// The running attempt fails: another follows, or the task ends.
fn fail_attempt(
    task: &Task,
    failure: Failure,
    end: AttemptEnd,
    now_us: i64,
    random: u64,
) -> Changed {
    let mut task = task.clone();
    let again = may_retry(&task, &failure);
    let delay_us = failure
        .retry_delay_us
        .unwrap_or_else(|| backoff(&task.policy, task.attempts_spent + 1, random));
    let stopped = failure.retryable && task.cancel.is_some();
    let failure = stamp(failure, &task, now_us);
    end_attempt(&mut task, end, Some(failure), now_us);
    if again && delay_us == 0 {
        to_queued(task, now_us)
    } else if again {
        let due_us = now_us.saturating_add(i64::try_from(delay_us).unwrap_or(i64::MAX));
        to(task, Phase::Scheduled(Scheduled { due_us }))
    } else {
        to_terminal(
            task,
            if stopped {
                Status::Cancelled
            } else {
                Status::Failed
            },
            now_us,
        )
    }
}

fn end_attempt(task: &mut Task, end: AttemptEnd, failure: Option<Failure>, now_us: i64) {
    task.attempts_spent += 1;
    task.suspect_us = 0;
    if let Some(attempt) = task.attempts.last_mut() {
        attempt.end_us = now_us;
        attempt.end = end as i32;
        attempt.failure = failure.map(Box::new);
    }
}

/// The lease goes back without having cost an attempt. Its token is forgotten: whatever comes
/// under it is too late. After a wish to stop there is nobody left to stop it: it is cancelled.
fn give_back(mut task: Task, now_us: i64) -> Changed {
    task.attempts.pop();
    task.suspect_us = 0;
    if task.cancel.is_some() {
        return to_terminal(task, Status::Cancelled, now_us);
    }
    to_queued(task, now_us)
}

fn stamp(mut failure: Failure, task: &Task, now_us: i64) -> Failure {
    failure.attempt = task.attempts.last().map_or(0, |attempt| attempt.number);
    if failure.time_us == 0 {
        failure.time_us = now_us;
    }
    failure
}

/// What is kept of an attempt that stopped and said no more.
fn stopped(task: &Task) -> Failure {
    let message = match &task.cancel {
        Some(cancel) if cancel.reason.is_empty() => "stopped on request".into(),
        Some(cancel) => format!("stopped on request: {}", cancel.reason),
        None => "stopped by its worker".into(),
    };
    Failure {
        category: FailureCategory::Cancelled as i32,
        r#type: "cancelled".into(),
        message,
        ..Failure::default()
    }
}

fn timeout(message: String, retryable: bool) -> Failure {
    Failure {
        category: FailureCategory::Timeout as i32,
        r#type: "timeout".into(),
        message,
        retryable,
        ..Failure::default()
    }
}

fn total_timeout(task: &Task) -> Failure {
    let seconds = task.policy.total_timeout_us as f64 / 1e6;
    timeout(
        format!("the task took longer than its limit of {seconds} s"),
        false,
    )
}

fn to(mut task: Task, phase: Phase) -> Changed {
    task.phase = Some(phase);
    Changed::To(Box::new(task))
}

fn to_queued(task: Task, now_us: i64) -> Changed {
    to(task, Phase::Queued(Queued { since_us: now_us }))
}

fn to_terminal(mut task: Task, status: Status, now_us: i64) -> Changed {
    task.end_us = now_us;
    let retention = i64::try_from(task.policy.retention_us).unwrap_or(i64::MAX);
    task.expire_us = now_us.saturating_add(retention);
    to(
        task,
        Phase::Terminal(Terminal {
            status: status as i32,
        }),
    )
}

impl Task {
    /// A task as it is created: scheduled where its time has not come, else queued.
    #[must_use]
    pub fn begin(mut self, uid: Uid, now_us: i64) -> Self {
        self.uid = uid;
        self.create_us = now_us;
        self.phase = Some(if self.schedule_us > now_us {
            Phase::Scheduled(Scheduled {
                due_us: self.schedule_us,
            })
        } else {
            Phase::Queued(Queued { since_us: now_us })
        });
        self
    }

    /// The last failure: of the newest attempt that has one, or of the task as a whole. A task that
    /// succeeded has none, whatever its earlier attempts met.
    #[must_use]
    pub fn last_failure(&self) -> Option<&Failure> {
        if self.status() == Status::Succeeded {
            return None;
        }
        let of_attempts = || {
            self.attempts
                .iter()
                .rev()
                .find_map(|attempt| attempt.failure.as_deref())
        };
        self.failure.as_deref().or_else(of_attempts)
    }
}
