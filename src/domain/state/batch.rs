//! Pushed batches, read in place: a frame's batches, their updates and the operations in them are
//! slices of the frame. Decoding each key into memory of its own would cost thirty times the
//! skim (see docs/BENCHMARKS.md).
//!
//! It takes what a protobuf decoder takes: fields in any order, unknown ones, and where a field
//! comes twice the later one. The one difference is a key that is not UTF-8: a decoder gives up the
//! frame, here that key alone is refused.

use super::{
    delta::{KeyOp, Op},
    fields::{Fields, LENGTH, VARINT},
    large::LargePut,
};

/// What to do with a key, as a slice of what it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpRef<'a> {
    /// Sets the value.
    Put(&'a [u8]),
    /// Sets a value that is kept out of line; no message has it.
    PutLarge(&'a LargePut),
    /// Removes the key; `false` is set and says nothing.
    Delete(bool),
    /// Adds to the number.
    Add(&'a [u8]),
    /// Keeps the greater.
    Max(&'a [u8]),
    /// Keeps the smaller.
    Min(&'a [u8]),
}

impl OpRef<'_> {
    /// Whether it sets or removes the key whatever that holds.
    #[inline]
    pub(super) fn is_put_or_delete(self) -> bool {
        matches!(self, Self::Put(_) | Self::PutLarge(_) | Self::Delete(_))
    }
}

impl<'a> From<&'a Op> for OpRef<'a> {
    fn from(op: &'a Op) -> Self {
        match op {
            Op::Put(value) => Self::Put(value),
            Op::PutLarge(put) => Self::PutLarge(put),
            Op::Delete(delete) => Self::Delete(*delete),
            Op::Add(operand) => Self::Add(operand),
            Op::Max(operand) => Self::Max(operand),
            Op::Min(operand) => Self::Min(operand),
        }
    }
}

/// One `KeyUpdate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateRef<'a> {
    /// Not checked to be UTF-8.
    pub key: &'a [u8],
    /// `None`: it says nothing.
    pub op: Option<OpRef<'a>>,
}

impl<'a> From<&'a KeyOp> for UpdateRef<'a> {
    fn from(op: &'a KeyOp) -> Self {
        Self {
            key: op.key.as_bytes(),
            op: op.op.as_ref().map(OpRef::from),
        }
    }
}

/// One `UpdateBatch`.
#[derive(Clone, Copy, Debug)]
pub struct BatchRef<'a> {
    /// Its number, as it came.
    pub sequence: i64,
    /// The writer's last.
    pub is_final: bool,
    /// The whole message.
    pub encoded: &'a [u8],
}

/// The batches of an `UpdateBatches` message; `None` where it is not well formed, with all that is
/// in it. What follows reads only messages that passed here.
#[must_use]
pub fn batches(frame: &[u8]) -> Option<impl Iterator<Item = BatchRef<'_>> + Clone> {
    let mut fields = Fields(frame);
    while !fields.is_done() {
        match fields.key()? {
            (1, LENGTH) => well_formed(fields.bytes()?)?,
            (_, wire_type) => fields.skip(wire_type)?,
        }
    }
    Some(BatchIter(Fields(frame)))
}

fn well_formed(batch: &[u8]) -> Option<()> {
    let mut fields = Fields(batch);
    while !fields.is_done() {
        match fields.key()? {
            (2, LENGTH) => _ = UpdateRef::read(fields.bytes()?)?,
            (1 | 4 | 5, wire_type) if wire_type != VARINT => return None,
            (2 | 3, wire_type) if wire_type != LENGTH => return None,
            (_, wire_type) => fields.skip(wire_type)?,
        }
    }
    Some(())
}

#[derive(Clone)]
struct BatchIter<'a>(Fields<'a>);

impl<'a> Iterator for BatchIter<'a> {
    type Item = BatchRef<'a>;

    fn next(&mut self) -> Option<BatchRef<'a>> {
        loop {
            match self.0.key()? {
                (1, LENGTH) => return BatchRef::read(self.0.bytes()?),
                (_, wire_type) => self.0.skip(wire_type)?,
            }
        }
    }
}

impl<'a> BatchRef<'a> {
    fn read(encoded: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(encoded);
        let (mut sequence, mut is_final) = (0, false);
        while !fields.is_done() {
            match fields.key()? {
                (1, VARINT) => sequence = fields.varint()?.cast_signed(),
                (5, VARINT) => is_final = fields.varint()? != 0,
                (_, wire_type) => fields.skip(wire_type)?,
            }
        }
        Some(Self {
            sequence,
            is_final,
            encoded,
        })
    }

    /// Its updates, in order.
    pub fn updates(&self) -> impl Iterator<Item = UpdateRef<'a>> + use<'a> {
        let mut fields = Fields(self.encoded);
        std::iter::from_fn(move || {
            loop {
                match fields.key()? {
                    (2, LENGTH) => return UpdateRef::read(fields.bytes()?),
                    (_, wire_type) => fields.skip(wire_type)?,
                }
            }
        })
    }
}

impl<'a> UpdateRef<'a> {
    #[inline]
    fn read(update: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(update);
        let (mut key, mut op): (&[u8], _) = (&[], None);
        while !fields.is_done() {
            match fields.key()? {
                (1, LENGTH) => key = fields.bytes()?,
                (2, LENGTH) => op = Some(OpRef::Put(fields.bytes()?)),
                (3, VARINT) => op = Some(OpRef::Delete(fields.varint()? != 0)),
                (4, LENGTH) => op = Some(OpRef::Add(fields.bytes()?)),
                (5, LENGTH) => op = Some(OpRef::Max(fields.bytes()?)),
                (6, LENGTH) => op = Some(OpRef::Min(fields.bytes()?)),
                (1..=6, _) => return None,
                (_, wire_type) => fields.skip(wire_type)?,
            }
        }
        Some(Self { key, op })
    }
}

#[cfg(test)]
mod tests;
