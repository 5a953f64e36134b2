//! How large the entry is that the server's journal has for a submitted task.
//!
//! The bare disk is to write the same bytes. A request and its entry differ in what they hold beside
//! the input: the one names the namespace and its own id, the other has ids, times and the policy
//! with every default resolved.

use crate::{
    domain::{
        Entry, Uid,
        limits::DEFAULT_CANCEL_GRACE,
        task::{Label, Payload, Policy, Task},
    },
    proto::v1,
};

/// A day in microseconds: how long a task is kept, and how long its request id protects.
const DAY_US: u64 = 24 * 3_600 * 1_000_000;
/// A moment of these years: its number takes as many bytes as any other.
const MOMENT_US: i64 = 1_800_000_000_000_000;

/// Bytes of the entry that the journal gets for `request`.
pub(super) fn entry_bytes(request: &v1::CreateTaskRequest) -> usize {
    let asked = request.task.clone().unwrap_or_default();
    let labels = asked.labels.into_iter();
    let task = Task {
        // Made from the request id, and as long.
        id: request.request_id.clone(),
        r#type: asked.r#type,
        queue: asked.queue,
        input: asked.input.map(|input| Payload {
            content_type: input.content_type,
            data: input.data,
            ..Payload::default()
        }),
        labels: labels.map(|(key, value)| Label { key, value }).collect(),
        policy: Policy {
            max_attempts: 3,
            lease_us: 8_000_000,
            retry_initial_us: 1_000_000,
            retry_max_us: 300_000_000,
            retention_us: DAY_US,
            cancel_grace_us: DEFAULT_CANCEL_GRACE.as_micros() as u64,
            least_retention_us: DAY_US,
            ..Policy::default()
        },
        request_digest: Uid(u128::MAX),
        ..Task::default()
    };
    let task = task.begin(Uid(u128::MAX), MOMENT_US);
    let mut bytes = Vec::new();
    Entry::Task(Box::new(task)).encode(&mut bytes);
    bytes.len()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::cli::bench::payload::{create_task, create_task_of};

    #[test]
    fn the_entry_of_a_task_is_as_large_as_the_journal_says_and_larger_than_its_request() {
        let request = create_task("bench");
        let entry = entry_bytes(&request);
        // `duite journal dump` shows as much.
        assert_eq!((request.encoded_len(), entry), (246, 325));
        let larger = entry_bytes(&create_task_of("bench", 1_128));
        assert!((1_000..=1_010).contains(&(larger - entry)), "{larger}");
    }
}
