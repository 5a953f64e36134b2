//! A failed or cancelled task repeated: a new one that does the same.

use super::{Payload, Task, TraceContext};
use crate::domain::{
    error::{Error, Reason},
    id::{Digest, TaskId},
    task::Status,
};

/// What the new task does not take from the one it repeats.
#[derive(Clone, Debug)]
pub struct Repetition {
    /// Its id.
    pub id: TaskId,
    /// Tells the call that made it from others.
    pub request_digest: Digest,
    /// The first one's input, read back.
    pub input: Option<Payload>,
    /// The span that asked for it; absent: the first one's.
    pub trace_context: Option<TraceContext>,
    /// The least time for which it is kept after its end, microseconds.
    pub least_retention_us: u64,
}

impl Task {
    /// Whether it can be repeated. `TASK_NOT_RETRYABLE` where it neither failed nor was cancelled.
    pub fn check_repeatable(&self) -> Result<(), Error> {
        let status = self.status();
        let what_to_do = match status {
            Status::Failed | Status::Cancelled => return Ok(()),
            Status::Succeeded => "submit a new one to have it done again",
            Status::Scheduled | Status::Queued | Status::Running => "it has not ended yet",
        };
        Err(Error::new(
            Reason::TaskNotRetryable,
            format!(
                "task {} is {status}, only a failed or cancelled one can be repeated: {what_to_do}",
                self.id
            ),
        )
        .with("task", &self.id)
        .with("status", status))
    }

    /// The task that repeats this one; it has not begun ([`Task::begin`]).
    #[must_use]
    pub fn repetition(&self, new: Repetition) -> Self {
        // Every field by name, so that whoever adds one decides whether it is repeated.
        let Self {
            r#type,
            queue,
            labels,
            policy,
            state,
            trace_context,
            priority,
            fairness_key,
            concurrency_key,
            id,
            // What was asked once, and what became of it.
            uid: _,
            input: _,
            schedule_us: _,
            request_digest: _,
            retry_of: _,
            create_us: _,
            create_revision: _,
            end_us: _,
            expire_us: _,
            attempts_spent: _,
            fence: _,
            cancel: _,
            output: _,
            failure: _,
            attempts: _,
            flush_incomplete: _,
            input_at: _,
            input_bytes: _,
            output_at: _,
            output_bytes: _,
            suspect_us: _,
            phase: _,
        } = self;
        let mut policy = *policy;
        policy.least_retention_us = new.least_retention_us;
        policy.retention_us = policy.retention_us.max(new.least_retention_us);
        Self {
            id: new.id.to_string(),
            request_digest: new.request_digest,
            input: new.input,
            retry_of: id.clone(),
            r#type: r#type.clone(),
            queue: queue.clone(),
            labels: labels.clone(),
            policy,
            state: state.clone(),
            trace_context: new.trace_context.or_else(|| trace_context.clone()),
            priority: *priority,
            fairness_key: fairness_key.clone(),
            concurrency_key: concurrency_key.clone(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        id::Uid,
        task::{Label, Phase, Policy, Terminal},
    };

    #[test]
    fn a_repetition_is_asked_for_the_same_and_begins_anew() {
        let label = Label {
            key: "k".into(),
            value: "v".into(),
        };
        let failed = Task {
            id: "first".into(),
            uid: Uid(1),
            r#type: "resize".into(),
            queue: "gpu".into(),
            labels: vec![label],
            state: "s".into(),
            priority: 7,
            policy: Policy {
                max_attempts: 5,
                retention_us: 10,
                ..Policy::default()
            },
            schedule_us: 77,
            attempts_spent: 5,
            fence: 9,
            flush_incomplete: true,
            phase: Some(Phase::Terminal(Terminal {
                status: Status::Failed as i32,
            })),
            ..Task::default()
        };
        let input = Some(Payload {
            content_type: "text/plain".into(),
            ..Payload::default()
        });
        let new = failed.repetition(Repetition {
            id: TaskId::trusted("second"),
            request_digest: Uid(3),
            input: input.clone(),
            trace_context: None,
            least_retention_us: 20,
        });
        let expected = Task {
            id: "second".into(),
            uid: Uid::default(),
            request_digest: Uid(3),
            input,
            retry_of: "first".into(),
            schedule_us: 0,
            attempts_spent: 0,
            fence: 0,
            flush_incomplete: false,
            phase: None,
            policy: Policy {
                retention_us: 20,
                least_retention_us: 20,
                ..failed.policy
            },
            ..failed.clone()
        };
        assert_eq!(new, expected);
    }

    #[test]
    fn only_what_failed_or_was_cancelled_is_repeated() {
        let terminal = |status: Status| Task {
            phase: Some(Phase::Terminal(Terminal {
                status: status as i32,
            })),
            ..Task::default()
        };
        assert_eq!(terminal(Status::Failed).check_repeatable(), Ok(()));
        assert_eq!(terminal(Status::Cancelled).check_repeatable(), Ok(()));
        let open = Task::default().begin(Uid(1), 5);
        for task in [terminal(Status::Succeeded), open] {
            let refused = task.check_repeatable().unwrap_err();
            assert_eq!(refused.reason, Reason::TaskNotRetryable);
        }
    }
}
