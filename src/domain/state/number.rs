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
    pub fn checked_add(self, other: Self) -> Result<Self, Reason> {
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
    pub fn greater(self, other: Self) -> Result<Self, Reason> {
        self.select(other, |order| order.is_lt())
    }

    /// The smaller; `self` where they are equal.
    pub fn lesser(self, other: Self) -> Result<Self, Reason> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::proto::v1::{Value, value::Kind};

    proptest! {
        #[test]
        fn a_number_is_encoded_as_a_protobuf_library_does(integer: i64, number: f64) {
            let value = Value { kind: Some(Kind::Integer(integer)) };
            prop_assert_eq!(Number::Integer(integer).encode(), value.encode_to_vec());
            prop_assert_eq!(Number::decode(&value.encode_to_vec()), Some(Number::Integer(integer)));
            let value = Value { kind: Some(Kind::Number(number)) };
            prop_assert_eq!(Number::Number(number).encode(), value.encode_to_vec());
        }
    }

    #[test]
    fn kinds_do_not_mix() {
        let (one, half) = (Number::Integer(1), Number::Number(0.5));
        for combine in [Number::checked_add, Number::greater, Number::lesser] {
            assert_eq!(combine(one, half), Err(Reason::TypeMismatch));
            assert_eq!(combine(half, one), Err(Reason::TypeMismatch));
        }
    }

    #[test]
    fn a_sum_that_does_not_fit_is_refused_and_not_wrapped() {
        let cases = [
            (Number::Integer(i64::MAX), Number::Integer(1)),
            (Number::Integer(i64::MIN), Number::Integer(-1)),
            (Number::Number(f64::MAX), Number::Number(f64::MAX)),
            (
                Number::Number(f64::INFINITY),
                Number::Number(f64::NEG_INFINITY),
            ),
        ];
        for (a, b) in cases {
            assert_eq!(a.checked_add(b), Err(Reason::Overflow), "{a:?} + {b:?}");
        }
        let infinite = Number::Number(f64::INFINITY);
        assert_eq!(infinite.checked_add(Number::Number(1.0)), Ok(infinite));
    }

    #[test]
    fn of_equals_the_first_stays() {
        let (zero, minus) = (0.0_f64, -0.0_f64);
        for combine in [Number::greater, Number::lesser] {
            let Ok(Number::Number(kept)) = combine(Number::Number(minus), Number::Number(zero))
            else {
                panic!("two numbers give a number");
            };
            assert_eq!(kept.to_bits(), minus.to_bits());
        }
    }
}
