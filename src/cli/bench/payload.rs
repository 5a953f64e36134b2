//! The bytes that are sent: what a StateQueue would send, made cheaply.
//!
//! A batch is laid down once, encoded, for each set of keys and each round of values; sending it
//! then costs a copy and its number. So the load generator takes little of the machine, the same
//! bytes go through duite and through the bare ceiling, and keys cycle while values change.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use uuid::Uuid;

use crate::proto::v1;

/// Keys of one state; batches cycle over them.
pub(super) const KEYS_PER_STATE: u64 = 1_000;
const KEYS_PER_BATCH: u64 = 4;
/// Rounds over all keys after which the values repeat.
const ROUNDS: u64 = 16;
/// The namespace every benchmark works in.
pub(super) const PARENT: &str = "namespaces/default";

/// `PushStateRequest` with its batches left encoded: the same bytes on the wire.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PushFrame {
    #[prost(message, optional, tag = "1")]
    pub(super) open: Option<v1::PushOpen>,
    #[prost(message, optional, tag = "2")]
    pub(super) batches: Option<EncodedBatches>,
}

/// `UpdateBatches` with each `UpdateBatch` encoded.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EncodedBatches {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) batches: Vec<Bytes>,
}

impl PushFrame {
    pub(super) fn open(state_name: &str, wanted_window: i32) -> Self {
        let open = v1::PushOpen {
            state_name: state_name.to_owned(),
            writer_id: Uuid::new_v4().to_string(),
            wanted_window,
            ..v1::PushOpen::default()
        };
        Self {
            open: Some(open),
            batches: None,
        }
    }

    pub(super) fn of(batches: Vec<Bytes>) -> Self {
        Self {
            open: None,
            batches: Some(EncodedBatches { batches }),
        }
    }

    /// How many batches it carries.
    pub(super) fn len(&self) -> usize {
        self.batches
            .as_ref()
            .map_or(0, |batches| batches.batches.len())
    }
}

/// Makes the batches of one writer from their numbers.
#[derive(Debug)]
pub(super) struct BatchSource {
    /// The encoded updates of each batch of a whole cycle.
    updates: Vec<Bytes>,
    largest: usize,
}

impl BatchSource {
    pub(super) fn new() -> Self {
        Self::of(KEYS_PER_BATCH)
    }

    /// Batches of one key, about 50 bytes each.
    pub(super) fn small() -> Self {
        Self::of(1)
    }

    fn of(keys_per_batch: u64) -> Self {
        let batches = KEYS_PER_STATE / keys_per_batch * ROUNDS;
        let updates: Vec<_> = (0..batches)
            .map(|index| encoded_updates(index, keys_per_batch))
            .collect();
        let largest = updates.iter().map(Bytes::len).max().unwrap_or(0) + HEAD_BYTES;
        Self { updates, largest }
    }

    /// The same batches, beginning at part `index` of so many `parts` of the keys.
    pub(super) fn beginning_at(&self, index: usize, parts: usize) -> Self {
        let mut updates = self.updates.clone();
        let round = updates.len() / ROUNDS as usize;
        updates.rotate_left(index * round / parts % round);
        Self {
            updates,
            largest: self.largest,
        }
    }

    /// The most bytes that one batch takes.
    pub(super) fn largest_batch(&self) -> usize {
        self.largest
    }

    /// The frame with batches `first`, `first + 1`, … `count` of them.
    pub(super) fn frame(&self, first: u64, count: usize) -> PushFrame {
        let time = now();
        let mut buffer = BytesMut::with_capacity(count * self.largest);
        let batches = (first..).take(count).map(|sequence| {
            let head = v1::UpdateBatch {
                sequence: i64::try_from(sequence).unwrap_or(i64::MAX),
                source_time: Some(time),
                ..v1::UpdateBatch::default()
            };
            // Fields may come in any order, so the updates may follow all others.
            head.encode_raw(&mut buffer);
            buffer.put_slice(&self.updates[(sequence % self.updates.len() as u64) as usize]);
            buffer.split().freeze()
        });
        PushFrame::of(batches.collect())
    }
}

/// Sequence, source time and their tags, at most.
const HEAD_BYTES: usize = 40;

/// The updates of batch `index` of the cycle: keys go on from batch to batch, values from round to
/// round.
fn encoded_updates(index: u64, keys_per_batch: u64) -> Bytes {
    let first_key = index * keys_per_batch;
    let updates = (first_key..first_key + keys_per_batch).map(|number| {
        put(
            number % KEYS_PER_STATE,
            v1::value::Kind::Number(1.0 + number as f64 / 7.0),
        )
    });
    v1::UpdateBatch {
        updates: updates.collect(),
        ..v1::UpdateBatch::default()
    }
    .encode_to_vec()
    .into()
}

/// Sets key `number` to `kind`.
pub(super) fn put(number: u64, kind: v1::value::Kind) -> v1::KeyUpdate {
    let value = v1::Value { kind: Some(kind) }.encode_to_vec().into();
    v1::KeyUpdate {
        key: key(number),
        operation: Some(v1::key_update::Operation::Put(value)),
    }
}

/// The name of key `number`.
pub(super) fn key(number: u64) -> String {
    format!("solver/{number:04}/value")
}

/// One encoded batch of `updates`.
pub(super) fn batch(sequence: u64, updates: Vec<v1::KeyUpdate>) -> Bytes {
    v1::UpdateBatch {
        sequence: i64::try_from(sequence).unwrap_or(i64::MAX),
        updates,
        source_time: Some(now()),
        ..v1::UpdateBatch::default()
    }
    .encode_to_vec()
    .into()
}

/// A name that no other run uses, so that a server may be measured twice.
pub(super) fn fresh_state_name() -> String {
    fresh_state_name_in(PARENT)
}

/// The same in the namespace `parent`.
pub(super) fn fresh_state_name_in(parent: &str) -> String {
    format!("{parent}/states/bench-{}", Uuid::new_v4().simple())
}

/// Bytes of a task's input, unless a benchmark asks for another size.
pub(super) const INPUT_BYTES: usize = 128;

/// What one client submits: some 300 bytes with everything that a real request has.
pub(super) fn create_task(queue: &str) -> v1::CreateTaskRequest {
    create_task_of(queue, INPUT_BYTES)
}

/// The same with an input of so many bytes.
pub(super) fn create_task_of(queue: &str, input_bytes: usize) -> v1::CreateTaskRequest {
    let input = v1::Payload {
        content_type: "application/json".to_owned(),
        data: vec![b'x'; input_bytes].into(),
        ..v1::Payload::default()
    };
    let task = v1::Task {
        r#type: "bench.noop".to_owned(),
        queue: queue.to_owned(),
        input: Some(input),
        labels: [("job".to_owned(), "bench".to_owned())].into(),
        ..v1::Task::default()
    };
    v1::CreateTaskRequest {
        parent: PARENT.to_owned(),
        task: Some(task),
        // Sent because the client library always sends it: it makes a retry safe.
        request_id: Uuid::new_v4().to_string(),
        ..v1::CreateTaskRequest::default()
    }
}

/// `BatchCreateTasksRequest` with its requests left encoded: the same bytes on the wire.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TaskBatch {
    #[prost(string, tag = "1")]
    parent: String,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    requests: Vec<Bytes>,
}

/// `BatchCreateTasksResponse` with its results left encoded.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CreatedBatch {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) results: Vec<Bytes>,
}

impl CreatedBatch {
    /// The first result that is an error: of a result's two fields a task is the first.
    pub(super) fn error(&self) -> Option<&Bytes> {
        self.results
            .iter()
            .find(|result| result.first() != Some(&0x0a))
    }
}

/// Makes batches of tasks that differ in their request ids only.
#[derive(Clone, Debug)]
pub(super) struct TaskSource {
    /// One encoded request without its request id.
    template: Bytes,
}

impl TaskSource {
    /// Tasks of `queue` with an input of so many bytes.
    pub(super) fn of(queue: &str, input_bytes: usize) -> Self {
        let request = v1::CreateTaskRequest {
            request_id: String::new(),
            ..create_task_of(queue, input_bytes)
        };
        Self {
            template: request.encode_to_vec().into(),
        }
    }

    /// The next `count` tasks.
    pub(super) fn batch(&self, count: usize) -> TaskBatch {
        /// Tag and length of a request id.
        const ID_HEAD: [u8; 2] = [4 << 3 | 2, 36];
        let mut buffer = BytesMut::with_capacity(count * (self.template.len() + 38));
        let requests = (0..count).map(|_| {
            buffer.put_slice(&self.template);
            buffer.put_slice(&ID_HEAD);
            let mut text = [0; 36];
            let id = Uuid::from_u64_pair(fastrand::u64(..), fastrand::u64(..));
            id.hyphenated().encode_lower(&mut text);
            buffer.put_slice(&text);
            buffer.split().freeze()
        });
        TaskBatch {
            requests: requests.collect(),
            parent: PARENT.to_owned(),
        }
    }
}

/// The same `count` times, each with its own request id.
pub(super) fn create_tasks(queue: &str, count: usize) -> v1::BatchCreateTasksRequest {
    v1::BatchCreateTasksRequest {
        parent: PARENT.to_owned(),
        requests: (0..count).map(|_| create_task(queue)).collect(),
    }
}

fn now() -> prost_types::Timestamp {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or_else(
        |_| prost_types::Timestamp::default(),
        |since| prost_types::Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
        },
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_batch_of_tasks_is_what_the_generated_messages_make() {
        let bytes = TaskSource::of("q", INPUT_BYTES).batch(3).encode_to_vec();
        let mut read = v1::BatchCreateTasksRequest::decode(bytes.as_slice()).unwrap();
        assert_eq!(bytes.len(), create_tasks("q", 3).encoded_len());
        let mut ids: Vec<_> = read
            .requests
            .iter_mut()
            .map(|request| std::mem::take(&mut request.request_id))
            .collect();
        ids.dedup();
        assert_eq!(ids.len(), 3);
        assert!(ids.iter().all(|id| Uuid::parse_str(id).is_ok()));
        let mut expected = create_tasks("q", 3);
        for request in &mut expected.requests {
            request.request_id.clear();
        }
        assert_eq!(read, expected);
        let result = |result| v1::CreateTaskResult {
            result: Some(result),
        };
        use v1::create_task_result::Result::{Error, Task};
        let answer = v1::BatchCreateTasksResponse {
            results: vec![
                result(Task(v1::Task::default())),
                result(Error(Default::default())),
            ],
            position: None,
        };
        let answer = CreatedBatch::decode(answer.encode_to_vec().as_slice()).unwrap();
        assert_eq!(answer.error(), Some(&answer.results[1]));
    }

    /// The frame as a server with the generated messages reads it.
    fn decoded(frame: &PushFrame) -> Vec<v1::UpdateBatch> {
        let request = v1::PushStateRequest::decode(frame.encode_to_vec().as_slice()).unwrap();
        match request.frame {
            Some(v1::push_state_request::Frame::Batches(batches)) => {
                v1::UpdateBatches::decode(batches).unwrap().batches
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_frame_reads_as_the_generated_message_with_consecutive_batches() {
        let frame = BatchSource::new().frame(7, 64);
        let batches = decoded(&frame);
        let sequences: Vec<_> = batches.iter().map(|batch| batch.sequence).collect();
        assert_eq!(sequences, (7..71).collect::<Vec<i64>>());
        assert!(batches.iter().all(|batch| batch.updates.len() == 4));
        assert!(batches.iter().all(|batch| batch.source_time.is_some()));
    }

    #[test]
    fn a_batch_takes_about_150_bytes() {
        let source = BatchSource::new();
        let frame = source.frame(1_000_000, 250);
        for batch in &frame.batches.as_ref().unwrap().batches {
            assert!((135..=165).contains(&batch.len()), "{}", batch.len());
            assert!(batch.len() <= source.largest_batch());
        }
    }

    #[test]
    fn a_small_batch_takes_about_50_bytes() {
        let source = BatchSource::small();
        for first in [1, 100_000] {
            let frame = source.frame(first, 250);
            for batch in &frame.batches.as_ref().unwrap().batches {
                assert!((45..=55).contains(&batch.len()), "{}", batch.len());
            }
        }
    }

    #[test]
    fn parts_begin_with_other_keys() {
        let source = BatchSource::new();
        let first_keys: std::collections::BTreeSet<_> = (0..100)
            .map(|part| {
                decoded(&source.beginning_at(part, 100).frame(0, 1))[0].updates[0]
                    .key
                    .clone()
            })
            .collect();
        assert_eq!(first_keys.len(), 100);
    }

    #[test]
    fn keys_cycle_over_a_thousand_and_each_time_the_value_is_another() {
        let source = BatchSource::new();
        let mut last = HashMap::new();
        for batch in (1..=2_000)
            .step_by(50)
            .flat_map(|first| decoded(&source.frame(first, 50)))
        {
            for update in batch.updates {
                let before = last.insert(update.key, update.operation.clone());
                assert_ne!(before.flatten(), update.operation);
            }
        }
        assert_eq!(last.len() as u64, KEYS_PER_STATE);
    }

    #[test]
    fn an_open_frame_reads_as_the_generated_message() {
        let frame = PushFrame::open("namespaces/default/states/a", 9);
        let request = v1::PushStateRequest::decode(frame.encode_to_vec().as_slice()).unwrap();
        let Some(v1::push_state_request::Frame::Open(open)) = request.frame else {
            panic!()
        };
        assert_eq!(
            (open.state_name.as_str(), open.wanted_window),
            ("namespaces/default/states/a", 9)
        );
        assert!(Uuid::parse_str(&open.writer_id).is_ok());
    }

    #[test]
    fn a_task_takes_about_300_bytes() {
        let size = create_task("bench").encoded_len();
        assert!((220..=340).contains(&size), "{size}");
    }
}
