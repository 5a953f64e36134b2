//! Tasks to create, and filters.

use prost::Message;
use tonic::metadata::MetadataMap;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use super::{
    bounds::{items, micros, optional_uuid, segment, timestamp_in, within},
    failure::{payload_in, trace_context_in},
};
use crate::{
    domain::{
        Error, NamespaceId, TaskId, Uid,
        id::{Digest, parse_state_name, parse_task_name},
        limits::{DEFAULT_CANCEL_GRACE, MAX_FILTER_NAMES, MAX_ID_BYTES, MAX_LABELS},
        task::{Label, Policy, Status, Task, TraceContext},
    },
    engine::{
        TaskFilter,
        command::{TaskOp, TaskOpKind},
    },
    proto::v1 as pb,
    telemetry::Traces,
};

/// Names of tasks made from a request id are UUIDv5 within this namespace of names. Changing it
/// would make a repeated request a second task.
const REQUEST_IDS: Uuid = Uuid::from_u128(0x6f0d_7a4c_5a1e_4d38_9c52_1e8a_d417_6b90);
const MAX_LABEL_VALUE_BYTES: usize = 256;
const MAX_PRIORITY: u32 = 9;
/// A shorter lease cannot be renewed over any network.
const MIN_LEASE_US: u64 = 100_000;
pub(super) const DAY_US: u64 = 24 * 3_600 * 1_000_000;

const DEFAULTS: Policy = Policy {
    max_attempts: 3,
    attempt_timeout_us: 0,
    total_timeout_us: 0,
    lease_us: 8_000_000,
    retry_initial_us: 1_000_000,
    retry_max_us: 300_000_000,
    retention_us: DAY_US,
    cancel_grace_us: DEFAULT_CANCEL_GRACE.as_micros() as u64,
    least_retention_us: 0,
};

/// The creation that a request asks for at `now_us`. `headers` are the call's: they may carry a
/// trace; `traces` begins one where they do not.
pub(crate) fn create(
    namespace: &NamespaceId,
    request: pb::CreateTaskRequest,
    headers: &MetadataMap,
    traces: &Traces,
    now_us: i64,
) -> Result<TaskOp, Error> {
    let asked = request
        .task
        .ok_or_else(|| Error::field("task", "is missing: its type is the least to say"))?;
    let request_id = optional_uuid("request_id", &request.request_id)?;
    let id = match (request.task_id.as_str(), request_id) {
        ("", Some(request_id)) => {
            let name = format!("{namespace}/{request_id}");
            TaskId::trusted(&Uuid::new_v5(&REQUEST_IDS, name.as_bytes()).to_string())
        }
        ("", None) => TaskId::trusted(&Uuid::now_v7().to_string()),
        (id, _) => TaskId::parse(id)?,
    };
    if !asked.name.is_empty() && asked.name != namespace.task_name(id.as_str()) {
        return Err(Error::field(
            "task.name",
            format!(
                "must be empty, got {:?}: the id goes into task_id",
                asked.name
            ),
        ));
    }
    let request_digest = digest(&asked, request.delay.as_ref());
    let delay_us = micros("delay", request.delay.as_ref())?;
    if request.delay.is_some() && asked.schedule_time.is_some() {
        let problem = "does not go with task.schedule_time: leave one of them out";
        return Err(Error::field("delay", problem));
    }
    let mut task = Task {
        id: id.to_string(),
        request_digest,
        ..task(namespace, asked, request_id.is_some(), headers)?
    };
    if let Some(delay_us) = delay_us {
        task.schedule_us = now_us.saturating_add_unsigned(delay_us);
    }
    let uid = Uid(Uuid::new_v4().as_u128());
    task.trace_context = traces.begin(task.trace_context, uid);
    let task = task.begin(uid, now_us);
    Ok(TaskOp {
        id,
        kind: TaskOpKind::Create(Box::new(task.into())),
    })
}

/// Tells a repeated request from another for the same id: over what the client says of the task
/// (the id is given: only requests for one id are compared). Its trace is left out, because a
/// client that starts again repeats its request in another trace.
///
/// XXH3 with 128 bits (the specification of xxHash 0.8): mistakes are to be noticed, and who wants
/// to fool the server gets back the task that stands. It is stored: changing it would make every
/// repeated request one that differs.
fn digest(asked: &pb::Task, delay: Option<&prost_types::Duration>) -> Digest {
    let mut hash = Xxh3::new();
    // Each with its tag and length, so that no two requests have the same bytes.
    let mut field = |tag: u8, bytes: &[u8]| {
        hash.update(&[tag]);
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    field(1, asked.r#type.as_bytes());
    field(2, asked.queue.as_bytes());
    if let Some(input) = &asked.input {
        field(3, input.content_type.as_bytes());
        field(4, &input.data);
        for (key, value) in &input.metadata {
            field(5, key.as_bytes());
            field(6, value.as_bytes());
        }
    }
    for (key, value) in &asked.labels {
        field(7, key.as_bytes());
        field(8, value.as_bytes());
    }
    if let Some(policy) = &asked.policy {
        field(9, &policy.encode_to_vec());
    }
    field(10, asked.state_name.as_bytes());
    field(11, &asked.priority.to_le_bytes());
    if let Some(time) = &asked.schedule_time {
        field(12, &time.encode_to_vec());
    }
    field(13, asked.fairness_key.as_bytes());
    field(14, asked.concurrency_key.as_bytes());
    if let Some(delay) = delay {
        field(15, &delay.encode_to_vec());
    }
    Uid(hash.digest128())
}

fn task(
    namespace: &NamespaceId,
    asked: pb::Task,
    has_request_id: bool,
    headers: &MetadataMap,
) -> Result<Task, Error> {
    let queue = match asked.queue {
        queue if queue.is_empty() => "default".to_owned(),
        queue => segment("task.queue", queue)?,
    };
    let priority = u32::try_from(asked.priority)
        .ok()
        .filter(|priority| *priority <= MAX_PRIORITY);
    let priority = priority.ok_or_else(|| {
        let problem = format!("must be 0 to {MAX_PRIORITY}, got {}", asked.priority);
        Error::field("task.priority", problem)
    })?;
    let schedule = asked.schedule_time.as_ref();
    let schedule = schedule.map(|time| timestamp_in("task.schedule_time", time));
    let input = asked.input.map(|input| payload_in("task.input", input));
    let labels = asked.labels;
    check_labels(&labels)?;
    let labels = labels
        .into_iter()
        .map(|(key, value)| Label { key, value })
        .collect();
    let trace = asked.trace_context.and_then(trace_context_in);
    Ok(Task {
        r#type: segment("task.type", asked.r#type)?,
        queue,
        input: input.transpose()?,
        labels,
        policy: policy(asked.policy.unwrap_or_default(), has_request_id)?,
        state: match asked.state_name.as_str() {
            "" => String::new(),
            name => {
                let (named, state) = parse_state_name("task.state_name", name)?;
                within("task.state_name", namespace, &named)?;
                state.to_string()
            }
        },
        trace_context: trace.or_else(|| trace_of(headers)),
        priority,
        fairness_key: key("task.fairness_key", asked.fairness_key)?,
        concurrency_key: key("task.concurrency_key", asked.concurrency_key)?,
        schedule_us: schedule.transpose()?.unwrap_or_default().max(0),
        ..Task::default()
    })
}

/// A key that may be left out.
fn key(field: &'static str, key: String) -> Result<String, Error> {
    if key.is_empty() {
        return Ok(key);
    }
    segment(field, key)
}

fn check_labels(labels: &std::collections::BTreeMap<String, String>) -> Result<(), Error> {
    if labels.len() > MAX_LABELS {
        let problem = format!("may hold {MAX_LABELS}, got {}", labels.len());
        return Err(Error::field("task.labels", problem).with("limit", MAX_LABELS));
    }
    for (key, value) in labels {
        if !(1..=MAX_ID_BYTES).contains(&key.len()) || value.len() > MAX_LABEL_VALUE_BYTES {
            return Err(Error::field(
                "task.labels",
                format!(
                    "must have keys of 1 to {MAX_ID_BYTES} bytes and values of at most {MAX_LABEL_VALUE_BYTES}, got {key:?} ({} bytes) with {} bytes",
                    key.len(),
                    value.len()
                ),
            ));
        }
    }
    Ok(())
}

/// Every field resolved: what is stored does not change when a later version has other defaults.
fn policy(asked: pb::TaskPolicy, has_request_id: bool) -> Result<Policy, Error> {
    let attempts = u32::try_from(asked.max_attempts).map_err(|_| {
        let problem = format!("must not be negative, got {}", asked.max_attempts);
        Error::field("task.policy.max_attempts", problem)
    })?;
    // A request id protects for a day.
    let least_retention_us = if has_request_id { DAY_US } else { 0 };
    let resolve = |field, asked: Option<prost_types::Duration>, default| {
        micros(field, asked.as_ref()).map(|micros| micros.unwrap_or(default))
    };
    let policy = Policy {
        max_attempts: if attempts == 0 {
            DEFAULTS.max_attempts
        } else {
            attempts
        },
        attempt_timeout_us: resolve(
            "task.policy.attempt_timeout",
            asked.attempt_timeout,
            DEFAULTS.attempt_timeout_us,
        )?,
        total_timeout_us: resolve(
            "task.policy.total_timeout",
            asked.total_timeout,
            DEFAULTS.total_timeout_us,
        )?,
        lease_us: resolve(
            "task.policy.lease_duration",
            asked.lease_duration,
            DEFAULTS.lease_us,
        )?,
        retry_initial_us: resolve(
            "task.policy.retry_initial_delay",
            asked.retry_initial_delay,
            DEFAULTS.retry_initial_us,
        )?,
        retry_max_us: resolve(
            "task.policy.retry_max_delay",
            asked.retry_max_delay,
            DEFAULTS.retry_max_us,
        )?,
        retention_us: resolve(
            "task.policy.retention",
            asked.retention,
            DEFAULTS.retention_us,
        )?
        .max(least_retention_us),
        cancel_grace_us: resolve(
            "task.policy.cancel_grace",
            asked.cancel_grace,
            DEFAULTS.cancel_grace_us,
        )?,
        least_retention_us,
    };
    if policy.lease_us < MIN_LEASE_US {
        return Err(Error::field(
            "task.policy.lease_duration",
            format!("must be at least 0.1 s, got {} µs", policy.lease_us),
        ));
    }
    Ok(policy)
}

/// The trace of the call itself.
pub(super) fn trace_of(headers: &MetadataMap) -> Option<TraceContext> {
    let text = |name| {
        let value = headers.get(name)?;
        Some(value.to_str().ok()?.to_owned())
    };
    trace_context_in(pb::TraceContext {
        traceparent: text("traceparent")?,
        tracestate: text("tracestate").unwrap_or_default(),
    })
}

/// Which tasks a list or watch means.
pub(crate) fn task_filter(
    namespace: &NamespaceId,
    filter: Option<pb::TaskFilter>,
) -> Result<TaskFilter, Error> {
    let filter = filter.unwrap_or_default();
    if filter.names.len() > MAX_FILTER_NAMES {
        let problem = format!("may hold {MAX_FILTER_NAMES}, got {}", filter.names.len());
        return Err(Error::field("filter.names", problem).with("limit", MAX_FILTER_NAMES));
    }
    items("filter.statuses", filter.statuses.len(), 0)?;
    items("filter.queues", filter.queues.len(), 0)?;
    items("filter.labels", filter.labels.len(), 0)?;
    let ids = filter.names.iter().map(|name| {
        let (named, task) = parse_task_name("filter.names", name)?;
        within("filter.names", namespace, &named).map(|()| task)
    });
    let statuses = filter.statuses.iter().map(|status| {
        Status::try_from(*status).map_err(|_| {
            Error::field(
                "filter.statuses",
                format!("holds {status}, which is no status"),
            )
        })
    });
    let queues = filter.queues.into_iter();
    Ok(TaskFilter {
        ids: ids.collect::<Result<_, _>>()?,
        statuses: statuses.collect::<Result<_, _>>()?,
        queues: queues
            .map(|queue| segment("filter.queues", queue))
            .collect::<Result<_, _>>()?,
        labels: filter.labels,
    })
}

#[cfg(test)]
mod tests;
