use proptest::prelude::*;
use prost::Message;

use super::{
    super::fixtures::{integer, operations},
    *,
};
use crate::proto::v1::{KeyUpdate, UpdateBatch, UpdateBatches, key_update::Operation};

/// A batch as (number, updates as (key, operation)).
type Plain = (i64, Vec<(Vec<u8>, Option<Op>)>);

fn read(frame: &[u8]) -> Option<Vec<Plain>> {
    let stored = |op: OpRef<'_>| match op {
        OpRef::Put(value) => Op::Put(value.to_vec().into()),
        OpRef::PutLarge(_) => panic!("no message has it"),
        OpRef::Delete(delete) => Op::Delete(delete),
        OpRef::Add(operand) => Op::Add(operand.to_vec().into()),
        OpRef::Max(operand) => Op::Max(operand.to_vec().into()),
        OpRef::Min(operand) => Op::Min(operand.to_vec().into()),
    };
    let plain = |batch: BatchRef<'_>| {
        let updates = batch.updates();
        let updates = updates.map(|update| (update.key.to_vec(), update.op.map(stored)));
        (batch.sequence, updates.collect())
    };
    let batches = batches(frame, usize::MAX).ok()?;
    Some(batches.into_iter().map(plain).collect())
}

fn decoded(frame: &[u8]) -> Option<Vec<Plain>> {
    let frame = UpdateBatches::decode(frame).ok()?;
    let op = |operation| match operation {
        Operation::Put(value) => Op::Put(value),
        Operation::Delete(delete) => Op::Delete(delete),
        Operation::Add(operand) => Op::Add(operand),
        Operation::Max(operand) => Op::Max(operand),
        Operation::Min(operand) => Op::Min(operand),
    };
    let plain = |batch: UpdateBatch| {
        let updates = batch.updates.into_iter();
        let updates = updates.map(|u| (u.key.into_bytes(), u.operation.map(op)));
        (batch.sequence, updates.collect())
    };
    Some(frame.batches.into_iter().map(plain).collect())
}

fn update(key: &str, op: Option<Op>) -> KeyUpdate {
    let operation = op.map(|op| match op {
        Op::Put(value) => Operation::Put(value),
        Op::PutLarge(_) => panic!("no message has it"),
        Op::Delete(delete) => Operation::Delete(delete),
        Op::Add(operand) => Operation::Add(operand),
        Op::Max(operand) => Operation::Max(operand),
        Op::Min(operand) => Operation::Min(operand),
    });
    KeyUpdate {
        key: key.to_owned(),
        operation,
    }
}

fn frames() -> impl Strategy<Value = UpdateBatches> {
    let updates = ("[a-zé]{0,4}", prop::option::of(operations()))
        .prop_map(|(key, operation)| update(&key, operation));
    let batch = (
        any::<i64>(),
        prop::collection::vec(updates, 0..4),
        any::<bool>(),
    )
        .prop_map(|(sequence, updates, is_final)| UpdateBatch {
            sequence,
            updates,
            source_time: is_final.then(prost_types::Timestamp::default),
            folded_flushes: i32::from(is_final),
            r#final: is_final,
        });
    prop::collection::vec(batch, 0..4).prop_map(|batches| UpdateBatches { batches })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_frame_reads_as_a_protobuf_decoder_reads_it(frame in frames()) {
        let encoded = frame.encode_to_vec();
        prop_assert_eq!(read(&encoded), decoded(&encoded));
    }

    /// What is in the middle of a frame may be anything; a decoder may be stricter (it decodes
    /// what is passed over here, such as the time, and refuses text that is not UTF-8).
    #[test]
    fn a_damaged_frame_reads_as_a_decoder_reads_it_or_not_at_all(
        frame in frames(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut encoded = frame.encode_to_vec();
        for (place, byte) in damage {
            if !encoded.is_empty() {
                let place = place.index(encoded.len());
                encoded[place] = byte;
            }
        }
        if let Some(decoded) = decoded(&encoded) {
            prop_assert_eq!(read(&encoded), Some(decoded));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(decoded) = decoded(&bytes) {
            prop_assert_eq!(read(&bytes), Some(decoded));
        } else {
            read(&bytes);
        }
    }
}

#[test]
fn of_a_field_that_comes_twice_the_later_one_counts_and_unknown_ones_are_passed_over() {
    let mut update = update("a", Some(Op::Put(integer(1)))).encode_to_vec();
    update.extend(self::update("b", Some(Op::Add(integer(2)))).encode_to_vec());
    // Field 9: a varint, a fixed64, a fixed32.
    update.extend([
        9 << 3,
        1,
        (9 << 3) | 1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        (9 << 3) | 5,
        0,
        0,
        0,
        0,
    ]);
    let mut batch = vec![(2 << 3) | 2, u8::try_from(update.len()).unwrap()];
    batch.extend(update);
    batch.extend([1 << 3, 7, 1 << 3, 8]);
    let mut frame = vec![(1 << 3) | 2, u8::try_from(batch.len()).unwrap()];
    frame.extend(batch);
    let expected = (8, vec![(b"b".to_vec(), Some(Op::Add(integer(2))))]);
    assert_eq!(read(&frame), Some(vec![expected]));
    assert_eq!(read(&frame), decoded(&frame));
}

#[test]
fn one_bad_batch_refuses_the_frame_before_any_is_read() {
    let good = UpdateBatch {
        sequence: 1,
        updates: vec![update("a", None)],
        ..UpdateBatch::default()
    };
    let mut frame = UpdateBatches {
        batches: vec![good],
    }
    .encode_to_vec();
    frame.extend([(1 << 3) | 2, 2, (2 << 3) | 2, 200]);
    assert_eq!(batches(&frame, 9).err(), Some(Unreadable::Malformed));
}

#[test]
fn a_frame_of_more_batches_than_asked_for_is_refused() {
    let batches = vec![UpdateBatch::default(); 3];
    let frame = UpdateBatches { batches }.encode_to_vec();
    assert_eq!(super::batches(&frame, 3).map(|found| found.len()), Ok(3));
    assert_eq!(super::batches(&frame, 2).err(), Some(Unreadable::TooMany));
}
