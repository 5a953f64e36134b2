//! A task's record as bytes: for the journal, and for memory, where millions wait.
//!
//! Packed is the record as it is encoded, without its id (the key it is kept under) and with 0 for
//! "at the revision of this very record" wherever the record refers to a revision: so the bytes can
//! be made before the record has one, and by another thread than the one that folds it.

use std::sync::Arc;

use bytes::Bytes;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use super::Task;
use crate::domain::id::Revision;

/// A task to create, with what the journal writes and what the mirror keeps made in advance.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTask {
    /// The first record; a large input is set aside.
    pub task: Task,
    /// The record as the journal writes it, input included.
    pub record: Bytes,
    /// The record as the mirror keeps it.
    pub packed: Arc<[u8]>,
    /// The data of an input that was set aside.
    pub input: Option<Bytes>,
}

impl From<Task> for NewTask {
    fn from(mut task: Task) -> Self {
        let data = task.input.as_ref().map(|input| input.data.clone());
        task.set_aside(Revision::ZERO);
        let input = data.filter(|_| task.input_bytes > 0);
        let packed = pack(&task);
        Self {
            record: record(&packed, &task.id, input.as_ref()),
            packed,
            input,
            task,
        }
    }
}

impl NewTask {
    /// The record as it stands once it is committed at `revision`.
    #[must_use]
    pub fn committed(mut self, revision: Revision) -> (Task, Arc<[u8]>) {
        self.task.place(revision);
        (self.task, self.packed)
    }
}

impl Task {
    /// Packs a record committed at `revision`.
    #[must_use]
    pub fn pack(&mut self, revision: Revision) -> Arc<[u8]> {
        for place in [
            &mut self.create_revision,
            &mut self.input_at,
            &mut self.output_at,
        ] {
            if *place == revision.0 {
                *place = 0;
            }
        }
        let bytes = pack(self);
        self.place(revision);
        bytes
    }

    /// Unpacks a record under its id, committed at `revision`; none where the bytes are no record.
    #[must_use]
    pub fn unpack(bytes: &[u8], id: &str, revision: Revision) -> Option<Self> {
        let mut task = Self::decode(bytes).ok()?;
        task.id = id.to_owned();
        task.place(revision);
        Some(task)
    }

    /// Puts the record's own revision where it refers to itself.
    fn place(&mut self, revision: Revision) {
        let own = |place: &mut u64, refers: bool| {
            if refers && *place == 0 {
                *place = revision.0;
            }
        };
        own(&mut self.create_revision, true);
        own(&mut self.input_at, self.input_bytes > 0);
        own(&mut self.output_at, self.output_bytes > 0);
    }
}

/// A record is its packed form, and behind it what that leaves out: fields may come in any order,
/// and those of a message that comes twice are merged. So it need not be encoded once more.
fn record(packed: &[u8], id: &str, input: Option<&Bytes>) -> Bytes {
    const ID: u32 = 1;
    const INPUT: u32 = 5;
    const DATA: u32 = 2;
    let bytes = packed.len() + id.len() + input.map_or(0, Bytes::len) + 24;
    let mut record = Vec::with_capacity(bytes);
    record.extend_from_slice(packed);
    let put = |tag, data: &[u8], record: &mut Vec<u8>| {
        encode_key(tag, WireType::LengthDelimited, record);
        encode_varint(data.len() as u64, record);
        record.extend_from_slice(data);
    };
    put(ID, id.as_bytes(), &mut record);
    if let Some(input) = input {
        let length = key_len(DATA) + encoded_len_varint(input.len() as u64) + input.len();
        encode_key(INPUT, WireType::LengthDelimited, &mut record);
        encode_varint(length as u64, &mut record);
        put(DATA, input, &mut record);
    }
    record.into()
}

fn pack(task: &Task) -> Arc<[u8]> {
    let bytes = task.encode_to_vec();
    // The id is the first field: its tag, its length in one byte (an id has at most 128) or two.
    let id = match task.id.len() {
        0 => 0,
        length @ 1..128 => 2 + length,
        length => 3 + length,
    };
    bytes[id..].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::task::{Label, Payload, TraceContext};

    fn task(id: &str, input: usize, output: usize) -> Task {
        let payload = |length: usize| {
            (length > 0).then(|| Payload {
                content_type: "application/json".into(),
                data: vec![7; length].into(),
                ..Payload::default()
            })
        };
        let task = Task {
            id: id.into(),
            r#type: "resize".into(),
            queue: "default".into(),
            labels: vec![Label {
                key: "k".into(),
                value: "v".into(),
            }],
            trace_context: Some(TraceContext::default()),
            input: payload(input),
            output: payload(output),
            ..Task::default()
        };
        task.begin(crate::domain::Uid(9), 1_000_000)
    }

    #[test]
    fn a_packed_record_comes_back_whatever_its_id_and_payloads() {
        for (length, input, output) in [(1, 0, 0), (36, 64, 1_024), (127, 65, 0), (128, 9, 9_000)] {
            let mut task = task(&"i".repeat(length), input, output);
            task.create_revision = 3;
            task.set_aside(Revision(5));
            assert_eq!(
                (task.input_at == 5, task.output_at == 5),
                (input > 64, output > 1_024)
            );
            let whole = task.clone();
            let packed = task.pack(Revision(5));
            assert_eq!(task, whole);
            let back = Task::unpack(&packed, &task.id, Revision(5));
            assert_eq!(back.as_ref(), Some(&task));
        }
    }

    #[test]
    fn a_new_task_is_kept_as_it_is_when_its_entry_is_read_back() {
        for input in [0, 10, 1_000] {
            let new = NewTask::from(task("t", input, 0));
            assert_eq!(
                new.input.as_ref().map_or(0, Bytes::len),
                if input > 64 { input } else { 0 }
            );
            let mut read = Task::decode(new.record.clone()).unwrap();
            assert_eq!(
                read.input.as_ref().map_or(0, |input| input.data.len()),
                input
            );
            read.create_revision = 8;
            read.set_aside(Revision(8));
            let (task, packed) = new.committed(Revision(8));
            assert_eq!(read.pack(Revision(8)), packed);
            assert_eq!(read, task);
        }
    }

    #[test]
    fn foreign_bytes_are_no_record() {
        assert_eq!(Task::unpack(b"\xff\xff", "t", Revision(1)), None);
    }
}
