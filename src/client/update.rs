//! One operation on one key, as programs write it.

use bytes::Bytes;

use super::value::encode_value;
use crate::proto::v1::{KeyUpdate, Value, key_update::Operation, value::Kind};

/// One operation on one key of a state.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    pub(super) key: String,
    pub(super) operation: Op,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Op {
    Put(Operand),
    Delete,
    Add(Operand),
    Max(Operand),
    Min(Operand),
}

/// A value, encoded once, with what folding needs to know of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Operand {
    pub(super) encoded: Bytes,
    pub(super) scalar: Scalar,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar {
    Integer(i64),
    Number(f64),
    Other,
    /// What no state takes: NaN, by itself or inside a list or map.
    Invalid,
}

impl Operand {
    pub(super) fn new(value: &Value) -> Self {
        let scalar = match value.kind {
            Some(Kind::Integer(integer)) => Scalar::Integer(integer),
            _ if has_nan(value) => Scalar::Invalid,
            Some(Kind::Number(number)) => Scalar::Number(number),
            _ => Scalar::Other,
        };
        Self {
            encoded: encode_value(value),
            scalar,
        }
    }
}

fn has_nan(value: &Value) -> bool {
    match &value.kind {
        Some(Kind::Number(number)) => number.is_nan(),
        Some(Kind::List(list)) => list.items.iter().any(has_nan),
        Some(Kind::Map(map)) => {
            let mut values = map.entries.iter().filter_map(|entry| entry.value.as_ref());
            values.any(has_nan)
        }
        _ => false,
    }
}

impl Op {
    /// Whether every server refuses its value.
    pub(super) fn is_invalid(&self) -> bool {
        match self {
            Op::Delete => false,
            Op::Put(operand) | Op::Add(operand) | Op::Max(operand) | Op::Min(operand) => {
                operand.scalar == Scalar::Invalid
            }
        }
    }

    /// What it weighs on the wire, a few bytes of envelope aside.
    pub(super) fn weight(&self) -> usize {
        match self {
            Op::Delete => 0,
            Op::Put(operand) | Op::Add(operand) | Op::Max(operand) | Op::Min(operand) => {
                operand.encoded.len()
            }
        }
    }

    pub(super) fn into_wire(self, key: String) -> KeyUpdate {
        let operation = match self {
            Op::Put(operand) => Operation::Put(operand.encoded),
            Op::Delete => Operation::Delete(true),
            Op::Add(operand) => Operation::Add(operand.encoded),
            Op::Max(operand) => Operation::Max(operand.encoded),
            Op::Min(operand) => Operation::Min(operand.encoded),
        };
        KeyUpdate {
            key,
            operation: Some(operation),
        }
    }
}

impl Update {
    fn new(key: impl Into<String>, operation: Op) -> Self {
        Self {
            key: key.into(),
            operation,
        }
    }

    /// Sets the key.
    pub fn put(key: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(key, Op::Put(Operand::new(&value.into())))
    }

    /// Removes the key.
    pub fn delete(key: impl Into<String>) -> Self {
        Self::new(key, Op::Delete)
    }

    /// Adds an integer or number; a missing key starts from 0.
    pub fn add(key: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(key, Op::Add(Operand::new(&value.into())))
    }

    /// Raises the key to an integer or number.
    pub fn max(key: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(key, Op::Max(Operand::new(&value.into())))
    }

    /// Lowers the key to an integer or number.
    pub fn min(key: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(key, Op::Min(Operand::new(&value.into())))
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The message that calls carry.
    pub fn into_wire(self) -> KeyUpdate {
        self.operation.into_wire(self.key)
    }
}

impl From<Update> for KeyUpdate {
    fn from(update: Update) -> Self {
        update.into_wire()
    }
}
