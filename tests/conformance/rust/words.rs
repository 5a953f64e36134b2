//! The words of the scenario as messages, and messages as the words that are printed.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use bytes::Bytes;
use duite::proto::v1::{
    Blob, KeyUpdate, ListValue, MapEntry, MapValue, Payload, Value, key_update::Operation,
    value::Kind,
};
use prost::Message as _;
use prost_types::Timestamp;
use tonic_types::StatusExt as _;

/// The words of a line: `verb key=value key=value`.
pub(super) struct Step<'a> {
    pub(super) verb: &'a str,
    pub(super) words: Vec<(&'a str, &'a str)>,
}

impl<'a> Step<'a> {
    pub(super) fn parse(line: &'a str) -> Self {
        let mut words = line.split(' ');
        let verb = words.next().expect("a line has a word");
        let words = words.map(|word| cut(word, '=')).collect();
        Self { verb, words }
    }

    /// The value of a key; empty where it is missing.
    pub(super) fn get(&self, key: &str) -> &'a str {
        self.all(key).next().unwrap_or_default()
    }

    pub(super) fn string(&self, key: &str) -> String {
        self.get(key).to_owned()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.all(key).next().is_some()
    }

    fn all(&self, key: &str) -> impl Iterator<Item = &'a str> {
        let found = self.words.iter().filter(move |(name, _)| *name == key);
        found.map(|(_, value)| *value)
    }

    /// The words `key=K:V`.
    pub(super) fn pairs(&self, key: &str) -> BTreeMap<String, String> {
        let pairs = self.all(key).map(|word| cut(word, ':'));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    pub(super) fn int(&self, key: &str) -> i64 {
        let text = self.get(key);
        if text.is_empty() { 0 } else { integer(text) }
    }

    pub(super) fn seconds(&self, key: &str, otherwise: f64) -> Duration {
        let seconds = self.get(key).parse().unwrap_or(otherwise);
        Duration::from_secs_f64(seconds)
    }

    /// The same as it goes over the wire.
    pub(super) fn duration(&self, key: &str) -> Option<prost_types::Duration> {
        self.seconds(key, 0.0).try_into().ok()
    }
}

fn cut(text: &str, mark: char) -> (&str, &str) {
    text.split_once(mark).unwrap_or((text, ""))
}

fn integer(text: &str) -> i64 {
    text.parse().expect("the scenario has an integer")
}

// Data, values and updates, as the scenario writes them.

fn pattern(size: &str) -> Bytes {
    (0..integer(size)).map(|i| (i % 251) as u8).collect()
}

fn sum(data: &[u8]) -> u64 {
    data.iter().map(|byte| u64::from(*byte)).sum()
}

pub(super) fn payload(text: &str) -> Option<Payload> {
    let data = match text.strip_prefix('@') {
        Some(size) => pattern(size),
        None => Bytes::copy_from_slice(text.as_bytes()),
    };
    (!text.is_empty()).then(|| Payload {
        content_type: "text/plain".to_owned(),
        data,
        ..Payload::default()
    })
}

pub(super) fn show_payload(name: &str, given: Option<&Payload>) -> String {
    let data = given.map(|given| given.data.as_ref()).unwrap_or_default();
    match data.len() {
        0 => String::new(),
        1..=100 => format!(" {name}={}", String::from_utf8_lossy(data)),
        size => format!(" {name}=@{size},{}", sum(data)),
    }
}

fn value_of(word: &str, number: i64) -> Value {
    let int = |text: &str| Value {
        kind: Some(Kind::Integer(integer(text))),
    };
    let (kind, text) = cut(word, ':');
    let items: Vec<&str> = text.split(',').collect();
    let kind = match kind {
        "int" if text == "#" => Kind::Integer(number),
        "int" => Kind::Integer(integer(text)),
        "number" => Kind::Number(text.parse().expect("a number")),
        "text" => Kind::Text(text.to_owned()),
        "bool" => Kind::Boolean(text == "true"),
        "list" => Kind::List(ListValue {
            items: items.into_iter().map(int).collect(),
        }),
        "map" => {
            let entries = items.chunks(2).map(|entry| MapEntry {
                key: entry[0].to_owned(),
                value: Some(int(entry[1])),
            });
            Kind::Map(MapValue {
                entries: entries.collect(),
            })
        }
        "time" => Kind::Time(Timestamp {
            seconds: integer(text),
            nanos: 0,
        }),
        "blob" => Kind::Blob(Blob {
            content_type: items[0].to_owned(),
            data: pattern(items[1]),
            ..Blob::default()
        }),
        _ => Kind::Null(true),
    };
    Value { kind: Some(kind) }
}

/// As the updates hold values: encoded, which is the same on the wire.
pub(super) fn encoded(word: &str, number: i64) -> Bytes {
    value_of(word, number).encode_to_vec().into()
}

/// An encoded value, as it is printed.
pub(super) fn show_value(encoded: &[u8]) -> String {
    let value = Value::decode(encoded).expect("a value");
    let int = |value: &Value| match value.kind {
        Some(Kind::Integer(number)) => number.to_string(),
        _ => String::new(),
    };
    match &value.kind {
        Some(Kind::Integer(number)) => format!("int:{number}"),
        Some(Kind::Number(number)) => format!("number:{number:.3}"),
        Some(Kind::Text(text)) => format!("text:{text}"),
        Some(Kind::Boolean(boolean)) => format!("bool:{boolean}"),
        Some(Kind::List(list)) => {
            let items: Vec<_> = list.items.iter().map(int).collect();
            format!("list:{}", items.join(","))
        }
        Some(Kind::Map(map)) => {
            let value = |entry: &MapEntry| entry.value.as_ref().map(int).unwrap_or_default();
            let items = map
                .entries
                .iter()
                .map(|e| format!("{},{}", e.key, value(e)));
            format!("map:{}", items.collect::<Vec<_>>().join(","))
        }
        Some(Kind::Time(time)) => format!("time:{}", time.seconds),
        Some(Kind::Blob(blob)) => {
            let data = &blob.data;
            format!("blob:{},{},{}", blob.content_type, data.len(), sum(data))
        }
        // Also a kind of a later version.
        Some(Kind::Null(_)) | None => "null:".to_owned(),
    }
}

pub(super) fn updates_of(step: &Step, number: i64) -> Vec<KeyUpdate> {
    let updates = step.words.iter().filter_map(|(name, word)| {
        let (key, text) = cut(word, ':');
        let value = || encoded(text, number);
        let operation = match *name {
            "put" => Operation::Put(value()),
            "add" => Operation::Add(value()),
            "max" => Operation::Max(value()),
            "min" => Operation::Min(value()),
            "delete" => Operation::Delete(true),
            _ => return None,
        };
        Some(KeyUpdate {
            key: key.to_owned(),
            operation: Some(operation),
        })
    });
    updates.collect()
}

/// ` name=K:V` for each entry.
pub(super) fn show_map(name: &str, entries: &BTreeMap<String, String>) -> String {
    let words = entries.iter().map(|(k, v)| format!(" {name}={k}:{v}"));
    words.collect()
}

/// ` name=text` where there is a text.
pub(super) fn optional(name: &str, text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!(" {name}={text}")
}

/// The id of a full name.
pub(super) fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// `CODE REASON` of an error, whose details come from `grpc-status-details-bin`.
pub(super) fn show_status(status: &tonic::Status) -> String {
    let mut code = String::new();
    for (at, letter) in format!("{:?}", status.code()).chars().enumerate() {
        if at > 0 && letter.is_uppercase() {
            code.push('_');
        }
        code.push(letter.to_ascii_uppercase());
    }
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == "duite");
    let reason = info.map_or("-", |info| &info.reason);
    let mut text = format!("{code} {reason}");
    if let Some(bad) = details.bad_request() {
        let _ = write!(text, " field={}", bad.field_violations[0].field);
    }
    text
}

/// An outcome's error as if a call of its own had ended with it.
pub(super) fn status_of(error: &tonic_types::pb::Status) -> tonic::Status {
    let code = tonic::Code::from_i32(error.code);
    tonic::Status::with_details(code, &error.message, error.encode_to_vec().into())
}
