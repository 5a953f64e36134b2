use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::proto::v1::{Blob, ListValue, MapEntry, MapValue, Value, value::Kind};

fn encoded(kind: Kind) -> Vec<u8> {
    Value { kind: Some(kind) }.encode_to_vec()
}

fn list(items: Vec<Value>) -> Value {
    Value {
        kind: Some(Kind::List(ListValue { items })),
    }
}

fn map(key: &str, value: Option<Value>) -> Value {
    let key = key.to_owned();
    let entries = vec![MapEntry { key, value }];
    Value {
        kind: Some(Kind::Map(MapValue { entries })),
    }
}

#[test]
fn every_kind_is_recognised() {
    let time = prost_types::Timestamp {
        seconds: 1,
        nanos: 2,
    };
    let blob = Blob {
        content_type: "image/png".into(),
        data: vec![1, 2, 3].into(),
        sha256: vec![7; 32].into(),
    };
    let summary = BlobKind {
        content_type: "image/png",
        size_bytes: 3,
        sha256: &[7; 32],
    };
    let cases = [
        (Kind::Null(true), ValueKind::Null),
        (Kind::Boolean(false), ValueKind::Boolean(false)),
        (Kind::Integer(-5), ValueKind::Integer(-5)),
        (Kind::Number(0.5), ValueKind::Number(0.5)),
        (Kind::Text("é".into()), ValueKind::Text("é")),
        (Kind::Blob(blob), ValueKind::Blob(summary)),
        (Kind::List(ListValue::default()), ValueKind::List),
        (Kind::Map(MapValue::default()), ValueKind::Map),
        (Kind::Time(time), ValueKind::Time),
    ];
    for (kind, expected) in cases {
        assert_eq!(check_value(&encoded(kind)), Ok(expected));
    }
}

#[test]
fn what_clients_could_not_read_is_refused() {
    let bad_time = prost_types::Timestamp {
        seconds: 0,
        nanos: 1_000_000_000,
    };
    let bad_digest = Blob {
        sha256: vec![1].into(),
        ..Blob::default()
    };
    let refused: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("null: false", encoded(Kind::Null(false))),
        ("NaN", encoded(Kind::Number(f64::NAN))),
        ("a time beyond its range", encoded(Kind::Time(bad_time))),
        ("a digest of one byte", encoded(Kind::Blob(bad_digest))),
        (
            "two kinds",
            [encoded(Kind::Boolean(true)), encoded(Kind::Integer(1))].concat(),
        ),
        (
            "an unknown field",
            [encoded(Kind::Integer(1)), vec![0x78, 0]].concat(),
        ),
        (
            "an item without a kind",
            list(vec![Value::default()]).encode_to_vec(),
        ),
        ("an entry without a value", map("k", None).encode_to_vec()),
        ("text that is not UTF-8", vec![0x2a, 1, 0xff]),
        (
            "a map key that is not UTF-8",
            vec![0x42, 9, 0x0a, 7, 0x0a, 1, 0xff, 0x12, 2, 0x18, 1],
        ),
        ("a length beyond the end", vec![0x2a, 5, b'a']),
        (
            "a varint of eleven bytes",
            [vec![0x18], vec![0x80; 10], vec![0]].concat(),
        ),
    ];
    for (what, bytes) in refused {
        assert_eq!(check_value(&bytes), Err(Reason::ValueInvalid), "{what}");
    }
}

#[test]
fn a_value_over_the_limit_is_too_large_whatever_it_is() {
    let data = vec![0; MAX_VALUE_BYTES];
    let blob = Blob {
        data: data.into(),
        ..Blob::default()
    };
    assert_eq!(
        check_value(&encoded(Kind::Blob(blob))),
        Err(Reason::ValueTooLarge)
    );
    assert_eq!(
        check_value(&vec![0xff; MAX_VALUE_BYTES + 1]),
        Err(Reason::ValueTooLarge)
    );
}

#[test]
fn the_deepest_value_accepted_is_one_that_decoders_read_within_a_watch() {
    let leaf = Value {
        kind: Some(Kind::Time(prost_types::Timestamp::default())),
    };
    let deep = |depth| (0..depth).fold(leaf.clone(), |inner, _| map("k", Some(inner)));
    let deepest = deep(MAX_VALUE_DEPTH).encode_to_vec();
    assert_eq!(check_value(&deepest), Ok(ValueKind::Map));
    assert_eq!(
        check_value(&deep(MAX_VALUE_DEPTH + 1).encode_to_vec()),
        Err(Reason::ValueInvalid)
    );

    // A delta with a change in it, as a client that knows the type `Value` reads it.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Around<M: prost::Message + Default + std::fmt::Debug> {
        #[prost(message, optional, tag = "4")]
        inner: Option<M>,
    }
    type Watch = Around<Around<Around<Value>>>;
    let watch = Watch {
        inner: Some(Around {
            inner: Some(Around {
                inner: Some(deep(MAX_VALUE_DEPTH)),
            }),
        }),
    };
    assert_eq!(Watch::decode(&watch.encode_to_vec()[..]).unwrap(), watch);
}

/// Whether each level says exactly one thing, as [`check_value`] wants it.
fn is_strict(value: &Value) -> bool {
    match value.kind.as_ref() {
        None | Some(Kind::Null(false)) => false,
        Some(Kind::Number(number)) => !number.is_nan(),
        Some(Kind::Blob(blob)) => matches!(blob.sha256.len(), 0 | 32),
        Some(Kind::List(list)) => list.items.iter().all(is_strict),
        Some(Kind::Map(map)) => {
            let mut values = map.entries.iter().map(|entry| entry.value.as_ref());
            values.all(|value| value.is_some_and(is_strict))
        }
        Some(Kind::Time(time)) => {
            (0..1_000_000_000).contains(&time.nanos)
                && (-62_135_596_800..=253_402_300_799).contains(&time.seconds)
        }
        Some(_) => true,
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Kind::Null),
        any::<bool>().prop_map(Kind::Boolean),
        any::<i64>().prop_map(Kind::Integer),
        any::<f64>().prop_map(Kind::Number),
        ".{0,4}".prop_map(Kind::Text),
        (".{0,3}", any::<Vec<u8>>(), any::<bool>()).prop_map(|(content_type, data, digest)| {
            Kind::Blob(Blob {
                content_type,
                data: data.into(),
                sha256: vec![7; if digest { 32 } else { 0 }].into(),
            })
        }),
        (-9e11 as i64..9e11 as i64, -2..1_000_000_002_i32)
            .prop_map(|(seconds, nanos)| Kind::Time(prost_types::Timestamp { seconds, nanos })),
    ];
    let leaf = prop::option::weighted(0.95, leaf).prop_map(|kind| Value { kind });
    leaf.prop_recursive(4, 32, 4, |inner| {
        let entry = (".{0,3}", prop::option::weighted(0.95, inner.clone()))
            .prop_map(|(key, value)| MapEntry { key, value });
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(list),
            prop::collection::vec(entry, 0..4).prop_map(|entries| Value {
                kind: Some(Kind::Map(MapValue { entries }))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn what_a_library_encodes_is_accepted_exactly_when_it_is_strict(value in values()) {
        prop_assert_eq!(check_value(&value.encode_to_vec()).is_ok(), is_strict(&value));
    }

    #[test]
    fn no_bytes_panic_and_what_is_accepted_decodes(
        value in values(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        noise in prop::collection::vec(any::<u8>(), 0..24),
    ) {
        let mut damaged = value.encode_to_vec();
        for (place, byte) in edits {
            if !damaged.is_empty() {
                let place = place.index(damaged.len());
                damaged[place] = byte;
            }
        }
        for bytes in [damaged, noise] {
            if check_value(&bytes).is_ok() {
                let decoded = Value::decode(&bytes[..]);
                prop_assert!(decoded.as_ref().is_ok_and(is_strict), "{:?}: {:?}", bytes, decoded);
            }
        }
    }
}
