//! Names, identifiers and revisions, each with one representation.

use std::{borrow::Borrow, fmt, sync::Arc};

use super::{
    error::{Error, Reason},
    limits::MAX_ID_BYTES,
};

/// A position in a namespace's journal; the first entry has revision 1, nothing has revision 0.
///
/// Comparable only within one namespace and one [`Epoch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Before the first entry.
    pub const ZERO: Self = Self(0);

    /// The next revision.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// As the wire has it. Revisions stay below 2^63: at a million a second that is 292,000 years.
    #[must_use]
    pub fn wire(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Sixteen bytes that are never given twice: of a task, a state, a writer, a worker instance.
///
/// Kept as a number, not as a `uuid::Uuid`, so that it is `Copy`, small and ordered; it prints
/// as a UUID.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub u128);

impl Uid {
    /// As 16 bytes, most significant first.
    #[must_use]
    pub fn to_bytes(self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    /// From the 16 bytes that [`Uid::to_bytes`] made; anything else is `None`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }

    /// Parses a UUID in any of its usual spellings; `field` names the culprit in the error.
    pub fn parse(field: &'static str, text: &str) -> Result<Self, Error> {
        uuid::Uuid::parse_str(text)
            .map(|uuid| Self(uuid.as_u128()))
            .map_err(|_| {
                Error::field(
                    field,
                    format!("must be a UUID, got {text:?}: send 8-4-4-4-12 hexadecimal digits"),
                )
            })
    }
}

/// In a record a uid is two numbers rather than bytes: nothing is allocated for it, and no buffer is
/// kept for its sake. Millions of tasks are held in memory.
impl prost::Message for Uid {
    fn encode_raw(&self, buffer: &mut impl bytes::BufMut) {
        for (tag, half) in (1..).zip(self.halves()) {
            prost::encoding::fixed64::encode(tag, &half, buffer);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: prost::encoding::wire_type::WireType,
        buffer: &mut impl bytes::Buf,
        context: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        let mut halves = self.halves();
        match tag {
            1 | 2 => {
                let half = &mut halves[tag as usize - 1];
                prost::encoding::fixed64::merge(wire_type, half, buffer, context)?;
                self.0 = u128::from(halves[0]) << 64 | u128::from(halves[1]);
                Ok(())
            }
            _ => prost::encoding::skip_field(wire_type, tag, buffer, context),
        }
    }

    fn encoded_len(&self) -> usize {
        2 * (prost::encoding::key_len(1) + 8)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

impl Uid {
    fn halves(self) -> [u64; 2] {
        // The upper and the lower 64 of the 128 bits.
        [(self.0 >> 64) as u64, self.0 as u64]
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_u128(self.0).fmt(f)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first sixteen bytes of a digest, kept like a uid.
pub type Digest = Uid;

/// The life of a store within which revisions can be compared. A restore, a migration or a lost
/// tail begins a new one.
pub type Epoch = Uid;

/// Checks one segment of a resource name: 1..128 bytes of `[A-Za-z0-9._~-]`, not starting with
/// a dot. The characters are those a URL path takes unescaped (RFC 3986, section 2.3).
pub fn check_segment(field: &'static str, text: &str) -> Result<(), Error> {
    let fits = (1..=MAX_ID_BYTES).contains(&text.len());
    let clean = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte));
    if fits && clean && !text.starts_with('.') {
        return Ok(());
    }
    let shown: String = text.chars().take(64).collect();
    Err(Error::field(
        field,
        format!(
            "must be 1 to {MAX_ID_BYTES} letters, digits or '._~-' and not start with a dot, got {shown:?} ({} bytes)",
            text.len()
        ),
    ))
}

macro_rules! name_segment {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes one name segment.
            pub fn parse(text: &str) -> Result<Self, Error> {
                check_segment($field, text).map(|()| Self(text.into()))
            }

            /// Takes what was checked before: a segment read back from the journal.
            #[must_use]
            pub fn trusted(text: &str) -> Self {
                Self(text.into())
            }

            /// The segment as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_segment!(
    /// The last segment of `namespaces/{namespace}`.
    NamespaceId, "namespace"
);
name_segment!(
    /// The last segment of `namespaces/{namespace}/tasks/{task}`.
    TaskId, "task_id"
);
name_segment!(
    /// The last segment of `namespaces/{namespace}/states/{state}`.
    StateId, "state"
);
name_segment!(
    /// The last segment of `namespaces/{namespace}/queues/{queue}`.
    QueueId, "queue"
);

/// `namespaces/{namespace}`.
pub fn parse_namespace(field: &'static str, name: &str) -> Result<NamespaceId, Error> {
    let segment = name
        .strip_prefix("namespaces/")
        .filter(|rest| !rest.contains('/'));
    let segment = segment.ok_or_else(|| {
        Error::field(
            field,
            format!("must look like namespaces/default, got {name:?}"),
        )
    })?;
    check_segment(field, segment).map(|()| NamespaceId::trusted(segment))
}

fn split<'a>(
    field: &'static str,
    collection: &str,
    name: &'a str,
) -> Result<(NamespaceId, &'a str), Error> {
    let mut segments = name.split('/');
    let parts = [
        segments.next(),
        segments.next(),
        segments.next(),
        segments.next(),
    ];
    match (parts, segments.next()) {
        ([Some("namespaces"), Some(namespace), Some(found), Some(last)], None)
            if found == collection =>
        {
            // The culprit is the field that holds the name, not a segment that is no field.
            check_segment(field, namespace)?;
            check_segment(field, last)?;
            Ok((NamespaceId::trusted(namespace), last))
        }
        _ => Err(Error::new(
            Reason::FieldInvalid,
            format!("{field} must look like namespaces/default/{collection}/my-name, got {name:?}"),
        )
        .with("field", field)),
    }
}

/// `namespaces/{namespace}/tasks/{task}`.
pub fn parse_task_name(field: &'static str, name: &str) -> Result<(NamespaceId, TaskId), Error> {
    let (namespace, task) = split(field, "tasks", name)?;
    Ok((namespace, TaskId::trusted(task)))
}

/// `namespaces/{namespace}/states/{state}`.
pub fn parse_state_name(field: &'static str, name: &str) -> Result<(NamespaceId, StateId), Error> {
    let (namespace, state) = split(field, "states", name)?;
    Ok((namespace, StateId::trusted(state)))
}

/// `namespaces/{namespace}/queues/{queue}`.
pub fn parse_queue_name(field: &'static str, name: &str) -> Result<(NamespaceId, QueueId), Error> {
    let (namespace, queue) = split(field, "queues", name)?;
    Ok((namespace, QueueId::trusted(queue)))
}

impl NamespaceId {
    /// `namespaces/{namespace}/tasks/{task}`.
    #[must_use]
    pub fn task_name(&self, task: &str) -> String {
        format!("namespaces/{self}/tasks/{task}")
    }

    /// `namespaces/{namespace}/states/{state}`.
    #[must_use]
    pub fn state_name(&self, state: &str) -> String {
        format!("namespaces/{self}/states/{state}")
    }

    /// `namespaces/{namespace}/queues/{queue}`.
    #[must_use]
    pub fn queue_name(&self, queue: &str) -> String {
        format!("namespaces/{self}/queues/{queue}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_put_together() {
        let (namespace, task) = parse_task_name("name", "namespaces/default/tasks/t-1").unwrap();
        assert_eq!(
            namespace.task_name(task.as_str()),
            "namespaces/default/tasks/t-1"
        );
    }

    #[test]
    fn bad_names_say_what_they_are() {
        for name in [
            "",
            "t",
            "namespaces/x",
            "namespaces/x/tasks/",
            "namespaces/x/tasks/a/b",
            "namespaces/x/states/a",
            "namespaces/x/tasks/.a",
            "namespaces/x/tasks/a b",
        ] {
            let error = parse_task_name("name", name).unwrap_err();
            assert_eq!(error.reason, Reason::FieldInvalid, "{name}");
        }
        let long = "x".repeat(129);
        assert!(
            TaskId::parse(&long)
                .unwrap_err()
                .to_string()
                .contains("129 bytes")
        );
    }

    #[test]
    fn a_uid_survives_its_bytes_and_its_text() {
        let uid = Uid(0x1234_5678_9abc_def0_1122_3344_5566_7788);
        assert_eq!(Uid::from_bytes(&uid.to_bytes()), Some(uid));
        assert_eq!(Uid::parse("writer_id", &uid.to_string()).unwrap(), uid);
        assert_eq!(Uid::from_bytes(b"short"), None);
        let stored = prost::Message::encode_to_vec(&uid);
        assert_eq!(<Uid as prost::Message>::decode(&stored[..]).unwrap(), uid);
        assert_eq!(stored.len(), prost::Message::encoded_len(&uid));
    }
}
