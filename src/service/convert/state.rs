//! States, keys and their operations.

use bytes::Bytes;

use crate::{
    domain::{
        Error, NamespaceId, Revision,
        limits::MAX_MERGE_INTERVAL,
        state::{
            KeyOp, Op, RejectedOp, Settings, State, StateValue, Stored, ValueKind, check_value,
        },
    },
    engine::{clock::Now, mirror::StateSlot},
    proto::v1::{self as pb, key_update::Operation},
};

use super::bounds::{duration, micros, set_timestamp};

/// Operations of one batch, not yet admitted.
///
/// Values stay slices of the message they came in. A state copies what it keeps, so that they pin
/// the message only while the batch waits, which the writer's window bounds.
pub(crate) fn ops(sequence: u64, updates: Vec<pb::KeyUpdate>) -> Vec<KeyOp> {
    updates
        .into_iter()
        .map(|update| KeyOp {
            key: update.key,
            sequence,
            op: update.operation.map(|operation| match operation {
                Operation::Put(value) => Op::Put(value),
                Operation::Delete(delete) => Op::Delete(delete),
                Operation::Add(operand) => Op::Add(operand),
                Operation::Max(operand) => Op::Max(operand),
                Operation::Min(operand) => Op::Min(operand),
            }),
        })
        .collect()
}

/// Refused keys.
pub(crate) fn rejected(rejected: Vec<RejectedOp>) -> Vec<pb::RejectedKey> {
    rejected
        .into_iter()
        .map(|op| pb::RejectedKey {
            sequence: i64::try_from(op.sequence).unwrap_or(i64::MAX),
            key: op.key,
            reason: op.reason,
        })
        .collect()
}

/// A revision that a client asks for; none where it is 0.
pub(crate) fn revision(field: &'static str, asked: i64) -> Result<Option<Revision>, Error> {
    let revision = u64::try_from(asked)
        .map_err(|_| Error::field(field, format!("must not be negative, got {asked}")))?;
    Ok(Some(Revision(revision)).filter(|revision| *revision != Revision::ZERO))
}

/// A state without its entries.
pub(crate) fn shared_state(namespace: &NamespaceId, state: &State) -> pb::SharedState {
    let settings = state.settings();
    let micros =
        |micros: u64| (micros != 0).then(|| duration(std::time::Duration::from_micros(micros)));
    pb::SharedState {
        name: namespace.state_name(state.id().as_str()),
        uid: state.uid().to_string(),
        settings: Some(pb::StateSettings {
            merge_interval: micros(settings.merge_interval_us),
            retention: micros(settings.retention_us),
        }),
        entries: Vec::new(),
        revision: state.revision().wire(),
        update_time: set_timestamp(state.update_us()),
        monitor: None,
    }
}

/// New settings of a state; when they are set is the monitor's to say.
pub(crate) fn settings(settings: Option<pb::StateSettings>) -> Result<Settings, Error> {
    let settings = settings.ok_or_else(|| {
        let problem = "are missing: send them as a whole, empty for the defaults";
        Error::field("settings", problem)
    })?;
    let merge_interval = micros("settings.merge_interval", settings.merge_interval.as_ref())?;
    let merge_interval_us = merge_interval.unwrap_or_default();
    if u128::from(merge_interval_us) > MAX_MERGE_INTERVAL.as_micros() {
        let problem = format!(
            "must be at most {} s, got {merge_interval_us} us",
            MAX_MERGE_INTERVAL.as_secs()
        );
        return Err(Error::field("settings.merge_interval", problem)
            .with("limit", format!("{}s", MAX_MERGE_INTERVAL.as_secs())));
    }
    let retention = micros("settings.retention", settings.retention.as_ref())?;
    Ok(Settings {
        merge_interval_us,
        retention_us: retention.unwrap_or_default(),
        set_us: 0,
    })
}

/// What the monitor does for a state with these writers, which have this many batches queued.
pub(crate) fn monitor(slot: &StateSlot, writers: usize, queued: u64) -> pb::Monitor {
    let wire = |count| i64::try_from(count).unwrap_or(i64::MAX);
    let (merges_per_second, batches_per_second) = slot.rate.per_second(Now::read().mono);
    pb::Monitor {
        writers: i32::try_from(writers).unwrap_or(i32::MAX),
        queued_batches: wire(queued),
        merged_batches: wire(slot.merged_batches),
        journal_entries: wire(slot.journal_entries),
        entries_since_snapshot: wire(slot.entries_since_snapshot),
        merges_per_second,
        batches_per_second,
        last_revision: slot.entries.last().copied().unwrap_or_default().wire(),
    }
}

/// What stands for a value that is too large to come along.
pub(crate) fn stub(value: &StateValue) -> pb::ValueStub {
    let (content_type, sha256) = match &value.value {
        Stored::Large(large) => (large.content_type.clone(), large.sha256.clone()),
        Stored::Inline(inline) => match check_value(inline) {
            Ok(ValueKind::Blob(blob)) => (blob.content_type.to_owned(), Bytes::new()),
            _ => (String::new(), Bytes::new()),
        },
    };
    pb::ValueStub {
        content_type,
        size_bytes: i64::try_from(value.value.size()).unwrap_or(i64::MAX),
        sha256,
    }
}
