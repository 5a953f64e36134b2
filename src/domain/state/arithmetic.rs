//! `add`, `max` and `min`: what lets many workers share one count, decided in the fold so that
//! every replica agrees.

use bytes::Bytes;

use crate::domain::Reason;

use super::{batch::OpRef, delta::Op, number::Number};

/// What an operation makes of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reduced {
    /// The value stays, byte for byte.
    Unchanged,
    /// The new value, encoded.
    Set(Bytes),
}

type Combine = fn(Number, Number) -> Result<Number, Reason>;

/// Reduces an operand into the value a key holds; `None`: it holds none.
///
/// Integers mix only with integers and numbers with numbers: silent conversion would lose counts
/// above 2^53. `put` and `delete` do not reduce and give [`Reason::Internal`].
pub fn reduce(op: &Op, current: Option<&[u8]>) -> Result<Reduced, Reason> {
    reduce_ref(op.into(), current)
}

/// [`reduce`] of an operation where it came in.
pub(super) fn reduce_ref(op: OpRef<'_>, current: Option<&[u8]>) -> Result<Reduced, Reason> {
    let (operand, combine): (&[u8], Combine) = match op {
        OpRef::Add(operand) => (operand, Number::checked_add),
        OpRef::Max(operand) => (operand, Number::greater),
        OpRef::Min(operand) => (operand, Number::lesser),
        OpRef::Put(_) | OpRef::Delete(_) | OpRef::PutLarge(_) => return Err(Reason::Internal),
    };
    let operand = Number::decode(operand).ok_or(Reason::ValueInvalid)?;
    let Some(current) = current else {
        // A sum starts at zero, which turns -0.0 into 0.0; an extreme starts at the operand.
        let start = match op {
            OpRef::Add(_) => operand.zero(),
            _ => operand,
        };
        return combine(start, operand).map(|result| Reduced::Set(result.encode()));
    };
    let current = Number::decode(current).ok_or(Reason::TypeMismatch)?;
    let result = combine(current, operand)?;
    if !matches!(op, OpRef::Add(_)) && result == current {
        return Ok(Reduced::Unchanged);
    }
    Ok(Reduced::Set(result.encode()))
}

#[cfg(test)]
mod tests {
    use super::{
        super::fixtures::{integer, number, text},
        *,
    };

    #[test]
    fn a_missing_key_starts_at_zero_or_at_the_operand() {
        let set = |value| Ok(Reduced::Set(value));
        assert_eq!(reduce(&Op::Add(integer(3)), None), set(integer(3)));
        assert_eq!(reduce(&Op::Add(number(-0.0)), None), set(number(0.0)));
        assert_eq!(reduce(&Op::Max(integer(-3)), None), set(integer(-3)));
        assert_eq!(reduce(&Op::Min(number(3.0)), None), set(number(3.0)));
    }

    #[test]
    fn an_extreme_that_does_not_move_leaves_the_bytes_alone() {
        let five = integer(5);
        assert_eq!(
            reduce(&Op::Max(integer(3)), Some(&five)),
            Ok(Reduced::Unchanged)
        );
        assert_eq!(
            reduce(&Op::Min(integer(5)), Some(&five)),
            Ok(Reduced::Unchanged)
        );
        assert_eq!(
            reduce(&Op::Max(integer(6)), Some(&five)),
            Ok(Reduced::Set(integer(6)))
        );
    }

    #[test]
    fn what_is_not_a_number_is_refused_with_its_reason() {
        let text = text("five");
        assert_eq!(
            reduce(&Op::Add(integer(1)), Some(&text)),
            Err(Reason::TypeMismatch)
        );
        assert_eq!(
            reduce(&Op::Add(text), Some(&integer(1))),
            Err(Reason::ValueInvalid)
        );
    }
}
