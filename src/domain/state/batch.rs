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

/// How `KeyUpdate` tells of its key and of a value to put.
const KEY: u8 = (1 << 3) | 2;
const PUT: u8 = (2 << 3) | 2;

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

/// Why a frame cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is no encoded `UpdateBatches` message.
    Malformed,
    /// It holds more batches than asked for.
    TooMany,
}

/// The batches of an `UpdateBatches` message, at most so many, once all of it is known to be well
/// formed, with all that is in it. What follows reads only messages that passed here.
pub fn batches(frame: &[u8], most: usize) -> Result<Vec<BatchRef<'_>>, Unreadable> {
    let mut found = Vec::with_capacity(most.min(64));
    let mut fields = Fields(frame);
    while !fields.is_done() {
        let batch = read_batch(&mut fields).ok_or(Unreadable::Malformed)?;
        if found.len() == most && batch.is_some() {
            return Err(Unreadable::TooMany);
        }
        found.extend(batch);
    }
    Ok(found)
}

/// The next field of a frame, if it is a batch.
fn read_batch<'a>(fields: &mut Fields<'a>) -> Option<Option<BatchRef<'a>>> {
    match fields.key()? {
        (1, LENGTH) => BatchRef::read(fields.bytes()?).map(Some),
        (_, wire_type) => fields.skip(wire_type).map(|()| None),
    }
}

impl<'a> BatchRef<'a> {
    fn read(encoded: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(encoded);
        let (mut sequence, mut is_final) = (0, false);
        while !fields.is_done() {
            match fields.key()? {
                (1, VARINT) => sequence = fields.varint()?.cast_signed(),
                (2, LENGTH) => _ = UpdateRef::read(fields.bytes()?)?,
                (5, VARINT) => is_final = fields.varint()? != 0,
                (1 | 2 | 5, _) => return None,
                (3, wire_type) if wire_type != LENGTH => return None,
                (4, wire_type) if wire_type != VARINT => return None,
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
        match Self::read_short(update) {
            Some(read) => Some(read),
            None => Self::read_any(update),
        }
    }

    /// A short key and then a short value to put, as every library writes them.
    #[inline]
    fn read_short(update: &'a [u8]) -> Option<Self> {
        let (&[KEY, key_length @ ..0x80], rest) = update.split_first_chunk()? else {
            return None;
        };
        let (key, rest) = rest.split_at_checked(key_length.into())?;
        let (&[PUT, length @ ..0x80], value) = rest.split_first_chunk()? else {
            return None;
        };
        (value.len() == usize::from(length)).then_some(Self {
            key,
            op: Some(OpRef::Put(value)),
        })
    }

    fn read_any(update: &'a [u8]) -> Option<Self> {
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
