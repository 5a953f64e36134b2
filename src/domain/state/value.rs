//! One skim over an encoded `duite.v1.Value`: what arrives is checked once and then stored and
//! forwarded as it came.
//!
//! Stricter than a protobuf decoder, because what is stored reaches clients in every language:
//! exactly one kind and no unknown field at every level (a decoder would take the last kind and
//! drop what it does not know), text in UTF-8, times that have a JSON form, no NaN (nothing
//! compares with it), no deeper nesting than every decoder reads.

use crate::domain::{
    Reason,
    limits::{MAX_VALUE_BYTES, MAX_VALUE_DEPTH},
};

// Groups and fixed32 occur in no value.
use super::fields::{FIXED64, Fields, LENGTH, VARINT};

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueKind<'a> {
    /// An explicit null.
    Null,
    /// A boolean.
    Boolean(bool),
    /// 64 bits, exact.
    Integer(i64),
    /// A double.
    Number(f64),
    /// Text.
    Text(&'a str),
    /// Bytes that say what they are.
    Blob(BlobKind<'a>),
    /// A list.
    List,
    /// A map.
    Map,
    /// A point in time.
    Time,
}

/// A blob, without its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobKind<'a> {
    /// Its media type.
    pub content_type: &'a str,
    /// Bytes of its data.
    pub size_bytes: usize,
    /// The digest its writer gave: 32 bytes or none.
    pub sha256: &'a [u8],
}

/// Checks an encoded value and says what it is: [`Reason::ValueTooLarge`] or
/// [`Reason::ValueInvalid`] where it cannot be stored. Allocates nothing, takes any bytes.
pub fn check_value(value: &[u8]) -> Result<ValueKind<'_>, Reason> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(Reason::ValueTooLarge);
    }
    kind(value, 0).ok_or(Reason::ValueInvalid)
}

/// A value is exactly one field. `depth` counts the lists and maps around it.
fn kind(value: &[u8], depth: usize) -> Option<ValueKind<'_>> {
    let mut fields = Fields(value);
    let kind = match fields.key()? {
        // `null: false` is set and says nothing.
        (1, VARINT) => (fields.varint()? != 0).then_some(ValueKind::Null)?,
        (2, VARINT) => ValueKind::Boolean(fields.varint()? != 0),
        (3, VARINT) => ValueKind::Integer(fields.varint()?.cast_signed()),
        (4, FIXED64) => {
            let number = f64::from_le_bytes(fields.fixed64()?);
            (!number.is_nan()).then_some(ValueKind::Number(number))?
        }
        (5, LENGTH) => ValueKind::Text(fields.text()?),
        (6, LENGTH) => ValueKind::Blob(blob(fields.bytes()?)?),
        (7, LENGTH) => {
            list(fields.bytes()?, deeper(depth)?)?;
            ValueKind::List
        }
        (8, LENGTH) => {
            map(fields.bytes()?, deeper(depth)?)?;
            ValueKind::Map
        }
        (9, LENGTH) => {
            time(fields.bytes()?)?;
            ValueKind::Time
        }
        _ => return None,
    };
    fields.is_done().then_some(kind)
}

fn deeper(depth: usize) -> Option<usize> {
    (depth < MAX_VALUE_DEPTH).then_some(depth + 1)
}

fn blob(message: &[u8]) -> Option<BlobKind<'_>> {
    let mut fields = Fields(message);
    let (mut content_type, mut data, mut sha256) = (None, None, None);
    while !fields.is_done() {
        match fields.key()? {
            (1, LENGTH) => once(&mut content_type, fields.text()?)?,
            (2, LENGTH) => once(&mut data, fields.bytes()?.len())?,
            (3, LENGTH) => once(&mut sha256, fields.bytes()?)?,
            _ => return None,
        }
    }
    let blob = BlobKind {
        content_type: content_type.unwrap_or_default(),
        size_bytes: data.unwrap_or_default(),
        sha256: sha256.unwrap_or_default(),
    };
    matches!(blob.sha256.len(), 0 | 32).then_some(blob)
}

fn list(message: &[u8], depth: usize) -> Option<()> {
    let mut fields = Fields(message);
    while !fields.is_done() {
        match fields.key()? {
            (1, LENGTH) => kind(fields.bytes()?, depth)?,
            _ => return None,
        };
    }
    Some(())
}

fn map(message: &[u8], depth: usize) -> Option<()> {
    let mut fields = Fields(message);
    while !fields.is_done() {
        match fields.key()? {
            (1, LENGTH) => entry(fields.bytes()?, depth)?,
            _ => return None,
        }
    }
    Some(())
}

/// An absent key is the empty text; an absent value is nothing anybody meant.
fn entry(message: &[u8], depth: usize) -> Option<()> {
    let mut fields = Fields(message);
    let (mut name, mut value) = (None, None);
    while !fields.is_done() {
        match fields.key()? {
            (1, LENGTH) => once(&mut name, fields.text()?)?,
            (2, LENGTH) => once(&mut value, kind(fields.bytes()?, depth)?)?,
            _ => return None,
        }
    }
    value.map(|_| ())
}

/// `google.protobuf.Timestamp` within the range it documents, 0001-01-01 to 9999-12-31.
fn time(message: &[u8]) -> Option<()> {
    let mut fields = Fields(message);
    let (mut seconds, mut nanos) = (None, None);
    while !fields.is_done() {
        match fields.key()? {
            (1, VARINT) => once(&mut seconds, fields.varint()?.cast_signed())?,
            (2, VARINT) => once(&mut nanos, fields.varint()?)?,
            _ => return None,
        }
    }
    let seconds = (-62_135_596_800..=253_402_300_799).contains(&seconds.unwrap_or_default());
    (seconds && nanos.unwrap_or_default() < 1_000_000_000).then_some(())
}

fn once<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.replace(value).is_none().then_some(())
}

#[cfg(test)]
mod tests;
