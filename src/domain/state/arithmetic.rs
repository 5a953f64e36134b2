//! `add`, `max` and `min`: what lets many workers share one count, decided in the fold so that
//! every replica agrees.

use bytes::Bytes;

use crate::domain::Reason;

use super::{delta::Op, number::Number};

/// What an operation makes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reduced {
    /// The value stays, byte for byte.
    Unchanged,
    /// The new value, encoded.
    Set(Bytes),
}

/// Reduces an operand into the value a key holds; `None`: it holds none.
///
/// Integers mix only with integers and numbers with numbers: silent conversion would lose counts
/// above 2^53. `put` and `delete` do not reduce and give [`Reason::Internal`].
pub fn reduce(op: &Op, current: Option<&[u8]>) -> Result<Reduced, Reason> {
    let (operand, combine): (&Bytes, fn(Number, Number) -> Result<Number, Reason>) = match op {
        Op::Add(operand) => (operand, Number::add),
        Op::Max(operand) => (operand, Number::max),
        Op::Min(operand) => (operand, Number::min),
        Op::Put(_) | Op::Delete(_) => return Err(Reason::Internal),
    };
    let operand = Number::decode(operand).ok_or(Reason::ValueInvalid)?;
    let Some(current) = current else {
        // A sum starts at zero, which turns -0.0 into 0.0; an extreme starts at the operand.
        let start = match op {
            Op::Add(_) => operand.zero(),
            _ => operand,
        };
        return combine(start, operand).map(|result| Reduced::Set(result.encode()));
    };
    let current = Number::decode(current).ok_or(Reason::TypeMismatch)?;
    let result = combine(current, operand)?;
    if !matches!(op, Op::Add(_)) && result == current {
        return Ok(Reduced::Unchanged);
    }
    Ok(Reduced::Set(result.encode()))
}
