//! Leases and the outcomes of attempts.

use std::time::Duration;

use bytes::Bytes;

use super::{
    bounds::{duration, items, ops_bytes, uuid, within},
    failure::{failure_in, payload_in, trace_context_out},
    ops,
    task_out::{Detail, fill, task},
};
use crate::{
    domain::{
        Error, NamespaceId, Reason,
        id::parse_state_name,
        limits::{MAX_BATCH_BYTES, MAX_CONTRIBUTIONS, MAX_WRITER_MARKS},
        state::admit,
        task::{Contribution, Event, Outcome, WriterMark},
    },
    engine::{
        command::{Granted, TaskOp, TaskOpKind},
        token::LeaseToken,
    },
    proto::v1::{self as pb, task_outcome},
};

/// A lease's token; none where it is empty.
pub(crate) fn lease_token(
    namespace: &NamespaceId,
    token: &[u8],
) -> Result<Option<LeaseToken>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let token = LeaseToken::decode(token)?;
    within("lease_token", namespace, &token.namespace)?;
    Ok(Some(token))
}

/// Tokens of one call, at most 1000.
pub(crate) fn tokens(tokens: &[Bytes]) -> Result<Vec<LeaseToken>, Error> {
    items("lease_tokens", tokens.len(), 0)?;
    tokens
        .iter()
        .map(|token| LeaseToken::decode(token))
        .collect()
}

/// A lease as its worker gets it; none where the task has moved on already.
pub(crate) fn lease_out(
    namespace: &NamespaceId,
    granted: &Granted,
) -> Option<(LeaseToken, pb::Lease)> {
    let row = &granted.row;
    let attempt = row.task.running()?;
    let token = LeaseToken {
        namespace: namespace.clone(),
        task: crate::domain::TaskId::trusted(&row.task.id),
        fence: attempt.fence,
        secret: attempt.secret,
    };
    let mut task = task(namespace, row, Detail::Work);
    fill(&mut task.input, granted.input.clone());
    let lease = pb::Lease {
        task: Some(task),
        lease_token: token.encode(),
        valid_for: Some(duration(granted.valid_for)),
        renew_interval: Some(duration(Duration::from_micros(
            row.task.policy.lease_us / 4,
        ))),
        trace_context: attempt.trace_context.as_ref().map(trace_context_out),
    };
    Some((token, lease))
}

/// How one attempt ended.
pub(crate) fn finish(outcome: pb::TaskOutcome) -> Result<(NamespaceId, TaskOp), Error> {
    let LeaseToken {
        namespace,
        task,
        fence,
        secret,
    } = LeaseToken::decode(&outcome.lease_token)?;
    let marks = marks(&namespace, outcome.flushed)?;
    let contributions = contributions(&namespace, outcome.contributions)?;
    let outcome = match outcome.outcome {
        Some(task_outcome::Outcome::Output(output)) => {
            // Empty in every part: it gave nothing.
            let output = Some(output).filter(|output| *output != pb::Payload::default());
            Outcome::Succeeded {
                output: output
                    .map(|output| payload_in("output", output))
                    .transpose()?,
                contributions,
            }
        }
        Some(_) if !contributions.is_empty() => {
            return Err(Error::field(
                "contributions",
                "go with an output only: what did not succeed contributes nothing",
            ));
        }
        Some(task_outcome::Outcome::Failure(failure)) => {
            Outcome::Failed(Box::new(failure_in(failure)))
        }
        Some(task_outcome::Outcome::Cancelled(true)) => Outcome::Cancelled,
        Some(task_outcome::Outcome::Cancelled(false)) | None => {
            return Err(Error::field(
                "outcome",
                "is missing: set output, failure or cancelled (to true)",
            ));
        }
    };
    let event = Event::Finish {
        fence,
        secret,
        outcome,
        marks,
        marks_merged: false,
    };
    let op = TaskOp {
        id: task,
        kind: TaskOpKind::Event(event),
    };
    Ok((namespace, op))
}

fn marks(namespace: &NamespaceId, marks: Vec<pb::WriterMark>) -> Result<Vec<WriterMark>, Error> {
    if marks.len() > MAX_WRITER_MARKS {
        let problem = format!("may hold {MAX_WRITER_MARKS}, got {}", marks.len());
        return Err(Error::field("flushed", problem).with("limit", MAX_WRITER_MARKS));
    }
    let mut kept = Vec::with_capacity(marks.len());
    for mark in marks {
        let (named, state) = parse_state_name("flushed.state_name", &mark.state_name)?;
        within("flushed.state_name", namespace, &named)?;
        let writer = uuid("flushed.writer_id", &mark.writer_id)?;
        let sequence = u64::try_from(mark.sequence).map_err(|_| {
            let problem = format!("must not be negative, got {}", mark.sequence);
            Error::field("flushed.sequence", problem)
        })?;
        // A writer that never sent a batch has nothing to wait for.
        if sequence > 0 {
            kept.push(WriterMark {
                state: state.to_string(),
                writer_id: writer.to_bytes(),
                sequence,
            });
        }
    }
    Ok(kept)
}

/// A key that cannot be accepted refuses the outcome: the worker's code has to change, and it
/// learns of it before anything has taken effect.
fn contributions(
    namespace: &NamespaceId,
    contributions: Vec<pb::Contribution>,
) -> Result<Vec<Contribution>, Error> {
    if contributions.len() > MAX_CONTRIBUTIONS {
        let problem = format!("may hold {MAX_CONTRIBUTIONS}, got {}", contributions.len());
        return Err(Error::field("contributions", problem).with("limit", MAX_CONTRIBUTIONS));
    }
    let mut kept: Vec<Contribution> = Vec::with_capacity(contributions.len());
    for contribution in contributions {
        let name = &contribution.state_name;
        let (named, state) = parse_state_name("contributions.state_name", name)?;
        within("contributions.state_name", namespace, &named)?;
        if kept.iter().any(|other| other.state == state.as_str()) {
            return Err(Error::field(
                "contributions",
                format!("name {name} twice: put its updates into one"),
            ));
        }
        let size = ops_bytes(&contribution.updates);
        if size > MAX_BATCH_BYTES {
            return Err(batch_too_large("contributions.updates", size));
        }
        // All of them are copied out of the message: they are stored with the task for a while,
        // which would keep the other outcomes' bytes as well.
        let admitted = admit(ops(1, copied(contribution.updates)));
        if let Some(op) = admitted.rejected.first() {
            return Err(Error::field(
                "contributions.updates",
                format!("has key {:?}, which is refused with {}", op.key, op.reason),
            )
            .with("key", &op.key)
            .with("key_reason", &op.reason));
        }
        if !admitted.ops.is_empty() {
            kept.push(Contribution {
                state: state.to_string(),
                ops: admitted.ops,
            });
        }
    }
    Ok(kept)
}

fn copied(mut updates: Vec<pb::KeyUpdate>) -> Vec<pb::KeyUpdate> {
    use pb::key_update::Operation::{Add, Delete, Max, Min, Put};
    for update in &mut updates {
        if let Some(Put(value) | Add(value) | Max(value) | Min(value)) = &mut update.operation {
            *value = Bytes::copy_from_slice(value);
        } else {
            debug_assert!(matches!(update.operation, Some(Delete(_)) | None));
        }
    }
    updates
}

/// The error for a batch beyond its limit.
pub(crate) fn batch_too_large(field: &'static str, size: usize) -> Error {
    Error::new(
        Reason::ValueTooLarge,
        format!("{field} have {size} bytes, {MAX_BATCH_BYTES} are the limit: split them"),
    )
    .with("field", field)
    .with("size", size)
    .with("limit", MAX_BATCH_BYTES)
}
