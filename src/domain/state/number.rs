//! The two kinds of value that can be reduced.

use bytes::Bytes;

use crate::domain::Reason;

use super::value::{ValueKind, check_value};

/// A value of kind `integer` or `number`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// 64 bits, exact.
    Integer(i64),
    /// A double; never NaN.
    Number(f64),
}

/// Keys of the fields as they stand on the wire: field 3 varint, field 4 fixed64.
const INTEGER: u8 = 3 << 3;
const NUMBER: u8 = (4 << 3) | 1;

impl Number {
    /// From an encoded value; `None` where it is of another kind or damaged.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        match check_value(value).ok()? {
            ValueKind::Integer(integer) => Some(Self::Integer(integer)),
            ValueKind::Number(number) => Some(Self::Number(number)),
            _ => None,
        }
    }

    /// As any protobuf library encodes the value.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let mut buffer = [0; 11];
        let mut length = 1;
        match self {
            Self::Integer(integer) => {
                buffer[0] = INTEGER;
                let mut rest = integer.cast_unsigned();
                while rest >= 0x80 {
                    buffer[length] = rest.to_le_bytes()[0] | 0x80;
                    rest >>= 7;
                    length += 1;
                }
                buffer[length] = rest.to_le_bytes()[0];
                length += 1;
            }
            Self::Number(number) => {
                buffer[0] = NUMBER;
                buffer[1..9].copy_from_slice(&number.to_le_bytes());
                length = 9;
            }
        }
        Bytes::copy_from_slice(&buffer[..length])
    }

    /// Zero of the same kind.
    #[must_use]
    pub fn zero(self) -> Self {
        match self {
            Self::Integer(_) => Self::Integer(0),
            Self::Number(_) => Self::Number(0.0),
        }
    }

    /// The sum; a result that does not fit is refused, never wrapped or saturated.
    pub fn add(self, other: Self) -> Result<Self, Reason> {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => {
                a.checked_add(b).map(Self::Integer).ok_or(Reason::Overflow)
            }
            (Self::Number(a), Self::Number(b)) => {
                let sum = a + b;
                let overflows = sum.is_infinite() && a.is_finite() && b.is_finite();
                if sum.is_nan() || overflows {
                    return Err(Reason::Overflow);
                }
                Ok(Self::Number(sum))
            }
            _ => Err(Reason::TypeMismatch),
        }
    }

    /// The greater; `self` where they are equal.
    pub fn max(self, other: Self) -> Result<Self, Reason> {
        self.select(other, |order| order.is_lt())
    }

    /// The smaller; `self` where they are equal.
    pub fn min(self, other: Self) -> Result<Self, Reason> {
        self.select(other, |order| order.is_gt())
    }

    fn select(
        self,
        other: Self,
        takes_other: fn(std::cmp::Ordering) -> bool,
    ) -> Result<Self, Reason> {
        let order = match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => a.cmp(&b),
            // Zero and minus zero are equal, as people expect; values are never NaN.
            (Self::Number(a), Self::Number(b)) => a.partial_cmp(&b).ok_or(Reason::ValueInvalid)?,
            _ => return Err(Reason::TypeMismatch),
        };
        Ok(if takes_other(order) { other } else { self })
    }
}
