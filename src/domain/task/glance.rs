//! A look at a packed record without unpacking it: what filters ask for.
//!
//! A list or watch looks at many tasks to find few, with the mirror held; unpacking each would take
//! ten times as long.

use prost::encoding::{WireType, decode_key, decode_varint};

use super::{Phase, Status, Task};
use crate::domain::trace::SpanRef;

/// What filters ask of a task.
#[derive(Clone, Copy, Debug)]
pub struct Glance<'a> {
    /// Where it stands.
    pub status: Status,
    /// The line it waits in.
    pub queue: &'a str,
    record: Record<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Record<'a> {
    Whole(&'a Task),
    Packed(&'a [u8]),
}

impl<'a> From<&'a Task> for Glance<'a> {
    fn from(task: &'a Task) -> Self {
        Self {
            status: task.status(),
            queue: &task.queue,
            record: Record::Whole(task),
        }
    }
}

impl<'a> Glance<'a> {
    /// At a packed record; none where the bytes are no record.
    #[must_use]
    pub fn at(packed: &'a [u8]) -> Option<Self> {
        const QUEUE: u32 = 4;
        const SCHEDULED: u32 = 30;
        const QUEUED: u32 = 31;
        const RUNNING: u32 = 32;
        const FINISHING: u32 = 33;
        const TERMINAL: u32 = 34;
        let mut queue = "";
        let mut status = Status::Queued;
        for field in Fields(packed) {
            match field? {
                (QUEUE, Content::Bytes(bytes)) => queue = std::str::from_utf8(bytes).ok()?,
                (SCHEDULED, _) => status = Status::Scheduled,
                (QUEUED, _) => status = Status::Queued,
                (RUNNING | FINISHING, _) => status = Status::Running,
                (TERMINAL, Content::Bytes(end)) => status = ended(end)?,
                _ => {}
            }
        }
        Some(Self {
            status,
            queue,
            record: Record::Packed(packed),
        })
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&'a str> {
        const LABEL: u32 = 6;
        let bytes = match self.record {
            Record::Whole(task) => return task.label(key),
            Record::Packed(bytes) => bytes,
        };
        let labels = Fields(bytes).map_while(|field| field);
        let mut labels = labels.filter_map(|field| match field {
            (LABEL, Content::Bytes(label)) => label_of(label),
            _ => None,
        });
        labels.find(|(found, _)| *found == key).map(|found| found.1)
    }

    /// The trace that it belongs to.
    #[must_use]
    pub fn trace_id(&self) -> Option<u128> {
        const TRACE_CONTEXT: u32 = 9;
        let bytes = match self.record {
            Record::Whole(task) => {
                return SpanRef::of(task.trace_context.as_ref()).map(|span| span.trace_id);
            }
            Record::Packed(bytes) => bytes,
        };
        let mut fields = Fields(bytes).map_while(|field| field);
        let context = fields.find_map(|field| match field {
            (TRACE_CONTEXT, Content::Bytes(context)) => Some(context),
            _ => None,
        })?;
        let mut fields = Fields(context).map_while(|field| field);
        let traceparent = fields.find_map(|field| match field {
            (1, Content::Bytes(traceparent)) => std::str::from_utf8(traceparent).ok(),
            _ => None,
        })?;
        SpanRef::parse(traceparent).map(|span| span.trace_id)
    }
}

fn ended(bytes: &[u8]) -> Option<Status> {
    let status = Fields(bytes).find_map(|field| match field? {
        (1, Content::Varint(status)) => Some(status),
        _ => None,
    });
    Status::try_from(i32::try_from(status?).ok()?).ok()
}

fn label_of(bytes: &[u8]) -> Option<(&str, &str)> {
    let (mut key, mut value) = ("", "");
    for field in Fields(bytes) {
        match field? {
            (1, Content::Bytes(bytes)) => key = std::str::from_utf8(bytes).ok()?,
            (2, Content::Bytes(bytes)) => value = std::str::from_utf8(bytes).ok()?,
            _ => {}
        }
    }
    Some((key, value))
}

enum Content<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// The fields of an encoded message; `None` where the bytes are none, and then no more.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u32, Content<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u32, Content<'a>)> {
        let (tag, wire) = decode_key(&mut self.0).ok()?;
        let content = match wire {
            WireType::Varint => Content::Varint(decode_varint(&mut self.0).ok()?),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut self.0).ok()?;
                Content::Bytes(self.take(usize::try_from(length).ok()?)?)
            }
            WireType::SixtyFourBit => {
                self.take(8)?;
                Content::Fixed
            }
            WireType::ThirtyTwoBit => {
                self.take(4)?;
                Content::Fixed
            }
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        Some((tag, content))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

impl Phase {
    /// Whether a task in this phase is kept whole: it runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        matches!(self, Self::Running(_) | Self::Finishing(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        Revision, Uid,
        task::{Finishing, Label, Queued, Running, Scheduled, Terminal, TraceContext},
    };

    #[test]
    fn a_glance_sees_what_the_whole_record_says() {
        let label = |key: &str, value: &str| Label {
            key: key.into(),
            value: value.into(),
        };
        let phases = [
            Phase::Scheduled(Scheduled { due_us: 9 }),
            Phase::Queued(Queued { since_us: 9 }),
            Phase::Running(Running {}),
            Phase::Finishing(Finishing {
                status: Status::Failed as i32,
                ..Finishing::default()
            }),
            Phase::Terminal(Terminal {
                status: Status::Cancelled as i32,
            }),
        ];
        for phase in phases {
            let task = Task {
                id: "t".into(),
                queue: "mail".into(),
                labels: vec![label("a", ""), label("batch", "7"), label("", "x")],
                ..Task::default()
            };
            let mut task = task.begin(Uid(1 << 90), 1_000);
            task.phase = Some(phase);
            let packed = task.pack(Revision(4));
            let seen = Glance::at(&packed).unwrap();
            assert_eq!((seen.status, seen.queue), (task.status(), "mail"));
            for key in ["a", "batch", "", "none"] {
                assert_eq!(seen.label(key), task.label(key), "{key}");
                assert_eq!(Glance::from(&task).label(key), task.label(key));
            }
        }
        assert!(Glance::at(b"\xff\xff").is_none());
        assert!(Glance::at(b"\x22\x09q").is_none());
    }

    #[test]
    fn a_glance_sees_the_trace_where_there_is_one() {
        let traced = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = |traceparent: &str| TraceContext {
            traceparent: traceparent.into(),
            tracestate: "vendor=1".into(),
        };
        for (trace_context, expected) in [
            (
                Some(context(traced)),
                Some(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736),
            ),
            (Some(context("00-nonsense")), None),
            (Some(TraceContext::default()), None),
            (None, None),
        ] {
            let task = Task {
                id: "t".into(),
                queue: "mail".into(),
                trace_context,
                ..Task::default()
            };
            let mut task = task.begin(Uid(7), 1_000);
            assert_eq!(Glance::from(&task).trace_id(), expected);
            let packed = task.pack(Revision(4));
            assert_eq!(Glance::at(&packed).unwrap().trace_id(), expected);
        }
    }
}
