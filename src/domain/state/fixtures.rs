//! What the tests of this module share: short ways to write values, operations and parts.

use bytes::Bytes;
use proptest::prelude::*;

use super::{Fence, KeyOp, LargePut, Number, Op, Part, Writer};
use crate::domain::Uid;

pub(super) fn integer(value: i64) -> Bytes {
    Number::Integer(value).encode()
}

pub(super) fn number(value: f64) -> Bytes {
    Number::Number(value).encode()
}

/// A text of less than 128 bytes.
pub(super) fn text(value: &str) -> Bytes {
    let mut bytes = vec![0x2a, u8::try_from(value.len()).unwrap()];
    bytes.extend_from_slice(value.as_bytes());
    bytes.into()
}

/// A blob above what is kept in line, told apart by a number.
pub(super) fn large(number: u8) -> Bytes {
    let blob = Blob {
        content_type: "image/png".into(),
        data: vec![number; 70_000],
    };
    let mut value = Vec::new();
    prost::encoding::message::encode(6, &blob, &mut value);
    value.into()
}

#[derive(Clone, PartialEq, prost::Message)]
struct Blob {
    #[prost(string, tag = "1")]
    content_type: String,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

pub(super) fn op(sequence: u64, key: &str, op: Op) -> KeyOp {
    KeyOp {
        key: key.to_owned(),
        sequence,
        op: Some(op),
    }
}

pub(super) fn put(sequence: u64, key: &str, value: i64) -> KeyOp {
    op(sequence, key, Op::Put(integer(value)))
}

pub(super) fn uid(number: u128) -> Bytes {
    Uid(number).to_bytes()
}

/// Batches `first` to `last` of a stream.
pub(super) fn stream(writer: u128, first: u64, last: u64, ops: Vec<KeyOp>) -> Part {
    Part {
        writer: Some(Writer::Stream(uid(writer))),
        first_sequence: first,
        last_sequence: last,
        ops,
        source: format!("w{writer}"),
        ..Part::default()
    }
}

pub(super) fn fence(task: u128, fence: u64) -> Fence {
    Fence {
        task_uid: uid(task),
        fence,
    }
}

/// Few values, so that they meet; among them everything that overflows or does not mix.
pub(super) fn values() -> impl Strategy<Value = Bytes> {
    let integers = prop_oneof![-3..=3_i64, Just(i64::MAX), Just(i64::MIN)];
    let numbers = prop::sample::select(vec![
        0.0,
        -0.0,
        0.1,
        -1e16,
        f64::MAX,
        f64::MIN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ]);
    prop_oneof![
        4 => integers.prop_map(integer),
        3 => numbers.prop_map(number),
        1 => Just(text("text")),
        // The integer 1, encoded longer than need be: valid, and to be kept as it came.
        1 => Just(Bytes::from_static(&[0x18, 0x81, 0x00])),
    ]
}

pub(super) fn operations() -> impl Strategy<Value = Op> {
    let operands = || values().prop_filter("a text is refused on arrival", |v| v[0] != 0x2a);
    prop_oneof![
        values().prop_map(Op::Put),
        Just(Op::Delete(true)),
        operands().prop_map(Op::Add),
        operands().prop_map(Op::Max),
        operands().prop_map(Op::Min),
    ]
}

/// What a part may hold: beside what may come, puts of large values.
fn admitted_operations() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => operations(),
        1 => (1..5_u128).prop_map(large_put),
    ]
}

/// A put of a large value as a delta has it: its entry, which may be missing, has this uid.
pub(super) fn large_put(number: u128) -> Op {
    Op::PutLarge(Box::new(LargePut {
        uid: uid(number),
        size: 100_000 + number as u64,
        content_type: format!("text/{number}"),
        ..LargePut::default()
    }))
}

/// Operations on a few of `keys` keys; their sequence is set by whoever uses them.
pub(super) fn ops(keys: u8, most: usize) -> impl Strategy<Value = Vec<KeyOp>> {
    let op = (0..keys, admitted_operations())
        .prop_map(|(key, operation)| op(0, &format!("k{key}"), operation));
    prop::collection::vec(op, 0..=most)
}
