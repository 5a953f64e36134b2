//! Between the wire's [`Value`] and JSON, Rust's own types, and text for people.

use std::{fmt, time::SystemTime};

use bytes::Bytes;
use prost::Message;
use serde_json::json;

use crate::proto::v1::{Blob, ListValue, MapEntry, MapValue, Value, value::Kind};

/// Bytes that say what they are.
pub fn blob(content_type: impl Into<String>, data: impl Into<Bytes>) -> Value {
    let blob = Blob {
        content_type: content_type.into(),
        data: data.into(),
        sha256: Bytes::new(),
    };
    Value {
        kind: Some(Kind::Blob(blob)),
    }
}

/// The value as updates and entries carry it.
pub fn encode_value(value: &Value) -> Bytes {
    value.encode_to_vec().into()
}

/// The value of an entry or change.
///
/// # Errors
///
/// When the bytes are no `duite.v1.Value`.
pub fn decode_value(encoded: &Bytes) -> Result<Value, prost::DecodeError> {
    Value::decode(encoded.clone())
}

/// What a JSON value is on the wire. Whole numbers that fit are integers.
pub fn to_value(json: &serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => Kind::Null(true),
        serde_json::Value::Bool(boolean) => Kind::Boolean(*boolean),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(integer) => Kind::Integer(integer),
            None => Kind::Number(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Kind::Text(text.clone()),
        serde_json::Value::Array(items) => Kind::List(ListValue {
            items: items.iter().map(to_value).collect(),
        }),
        serde_json::Value::Object(fields) => Kind::Map(MapValue {
            entries: fields
                .iter()
                .map(|(key, value)| MapEntry {
                    key: key.clone(),
                    value: Some(to_value(value)),
                })
                .collect(),
        }),
    };
    Value { kind: Some(kind) }
}

/// The value in JSON. A blob becomes `{"content_type", "data"}` with base64 data, a time RFC 3339
/// text, a number that JSON does not have (NaN, infinity) null.
pub fn from_value(value: &Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::Null(_)) => serde_json::Value::Null,
        Some(Kind::Boolean(boolean)) => json!(boolean),
        Some(Kind::Integer(integer)) => json!(integer),
        Some(Kind::Number(number)) => json!(number),
        Some(Kind::Text(text)) => json!(text),
        Some(Kind::Blob(blob)) => {
            json!({ "content_type": blob.content_type, "data": base64(&blob.data) })
        }
        Some(Kind::List(list)) => list.items.iter().map(from_value).collect(),
        Some(Kind::Map(map)) => {
            let fields = map.entries.iter().map(|entry| {
                let value = entry
                    .value
                    .as_ref()
                    .map_or(serde_json::Value::Null, from_value);
                (entry.key.clone(), value)
            });
            serde_json::Value::Object(fields.collect())
        }
        Some(Kind::Time(time)) => json!(time.to_string()),
    }
}

fn base64(data: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(data.len().div_ceil(3) * 4);
    for group in data.chunks(3) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit > group.len() {
                '='
            } else {
                char::from(DIGITS[index as usize])
            });
        }
    }
    text
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            None | Some(Kind::Null(_)) => formatter.write_str("null"),
            Some(Kind::Boolean(boolean)) => write!(formatter, "{boolean}"),
            Some(Kind::Integer(integer)) => write!(formatter, "{integer}"),
            // Debug keeps the `.0` that tells a number from an integer.
            Some(Kind::Number(number)) => write!(formatter, "{number:?}"),
            Some(Kind::Text(text)) => write!(formatter, "{text:?}"),
            Some(Kind::Blob(blob)) => {
                write!(
                    formatter,
                    "<{}, {} bytes>",
                    blob.content_type,
                    blob.data.len()
                )
            }
            Some(Kind::List(list)) => {
                formatter.write_str("[")?;
                for (index, item) in list.items.iter().enumerate() {
                    write!(formatter, "{}{item}", if index == 0 { "" } else { ", " })?;
                }
                formatter.write_str("]")
            }
            Some(Kind::Map(map)) => {
                formatter.write_str("{")?;
                for (index, entry) in map.entries.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(formatter, "{comma}{:?}: ", entry.key)?;
                    match &entry.value {
                        Some(value) => write!(formatter, "{value}")?,
                        None => formatter.write_str("null")?,
                    }
                }
                formatter.write_str("}")
            }
            Some(Kind::Time(time)) => write!(formatter, "{time}"),
        }
    }
}

macro_rules! value_from {
    ($($from:ty => $kind:ident, $convert:expr;)*) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                let convert: fn($from) -> _ = $convert;
                Value { kind: Some(Kind::$kind(convert(value))) }
            }
        }
    )*};
}

value_from! {
    () => Null, |()| true;
    bool => Boolean, |value| value;
    i8 => Integer, i64::from;
    i16 => Integer, i64::from;
    i32 => Integer, i64::from;
    i64 => Integer, |value| value;
    u8 => Integer, i64::from;
    u16 => Integer, i64::from;
    u32 => Integer, i64::from;
    f32 => Number, f64::from;
    f64 => Number, |value| value;
    String => Text, |value| value;
    SystemTime => Time, prost_types::Timestamp::from;
    Blob => Blob, |value| value;
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Self {
        let items = items.into_iter().map(Into::into).collect();
        Value {
            kind: Some(Kind::List(ListValue { items })),
        }
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or_else(|| ().into(), Into::into)
    }
}

impl From<serde_json::Value> for Value {
    fn from(json: serde_json::Value) -> Self {
        to_value(&json)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|value| json!(value)),
            any::<i64>().prop_map(|value| json!(value)),
            (-1e9..1e9_f64).prop_map(|value| json!(value)),
            ".{0,8}".prop_map(|value| json!(value)),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_comes_back_as_it_went(json in any_json()) {
            let value = to_value(&json);
            prop_assert_eq!(from_value(&value), json);
            prop_assert_eq!(decode_value(&encode_value(&value)).unwrap(), value);
        }
    }

    #[test]
    fn values_show_themselves_to_people() {
        let value = to_value(&json!({ "a": [1, 2.0, "x\"y", null, true] }));
        assert_eq!(value.to_string(), r#"{"a": [1, 2.0, "x\"y", null, true]}"#);
        assert_eq!(
            blob("image/png", vec![0; 9]).to_string(),
            "<image/png, 9 bytes>"
        );
    }

    #[test]
    fn a_blob_is_base64_in_json() {
        for (data, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            let json = from_value(&blob("text/plain", data));
            assert_eq!(json, json!({ "content_type": "text/plain", "data": text }));
        }
    }

    #[test]
    fn a_whole_number_too_large_for_an_integer_is_a_number() {
        assert_eq!(
            to_value(&json!(u64::MAX)).kind,
            Some(Kind::Number(u64::MAX as f64))
        );
    }
}
