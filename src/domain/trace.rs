//! W3C trace context, taken apart, and the spans that belong to a task.
//!
//! The spans of a task are the server's: each has an id that follows from the task and the lease, so
//! that nothing has to be kept for it, and a server that starts again ends the span that its
//! predecessor began. Format: <https://www.w3.org/TR/trace-context/>, version 00.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use super::{id::Uid, task::TraceContext};

/// A span that others can be children of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanRef {
    /// Which trace; never 0.
    pub trace_id: u128,
    /// Which span in it; never 0.
    pub span_id: u64,
    /// Flags as they came; the lowest bit says that the trace is sampled.
    pub flags: u8,
}

impl SpanRef {
    /// Reads a `traceparent`. None where it is not one, or one of all zeros.
    #[must_use]
    pub fn parse(traceparent: &str) -> Option<Self> {
        let bytes = traceparent.as_bytes();
        // A later version may have more behind a dash; version ff is forbidden.
        let length_fits = bytes.len() == 55
            || (bytes.len() > 55 && bytes[55] == b'-' && !traceparent.starts_with("00"));
        let dashes = length_fits && [2, 35, 52].iter().all(|at| bytes[*at] == b'-');
        let hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
        if !dashes || !bytes[..55].iter().all(hex) || traceparent.starts_with("ff") {
            return None;
        }
        let span = Self {
            trace_id: u128::from_str_radix(&traceparent[3..35], 16).ok()?,
            span_id: u64::from_str_radix(&traceparent[36..52], 16).ok()?,
            flags: u8::from_str_radix(&traceparent[53..55], 16).ok()?,
        };
        (span.trace_id != 0 && span.span_id != 0).then_some(span)
    }

    /// The span of a stored context.
    #[must_use]
    pub fn of(context: Option<&TraceContext>) -> Option<Self> {
        Self::parse(&context?.traceparent)
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn sibling(self, span_id: u64) -> Self {
        Self { span_id, ..self }
    }

    /// The stored form, with what vendors added to the trace.
    #[must_use]
    pub fn context(self, tracestate: &str) -> TraceContext {
        TraceContext {
            traceparent: self.to_string(),
            tracestate: tracestate.to_owned(),
        }
    }
}

impl fmt::Display for SpanRef {
    /// As `traceparent`. By hand, since it is written for every task that is traced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = *b"00-                                -                -  ";
        hex(&mut text[3..35], &self.trace_id.to_be_bytes());
        hex(&mut text[36..52], &self.span_id.to_be_bytes());
        hex(&mut text[53..], &[self.flags]);
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

fn hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Which span of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSpan {
    /// Its creation.
    Create,
    /// Its wait for the lease of this fence.
    Wait(u64),
    /// Its run under the lease of this fence.
    Attempt(u64),
}

impl TaskSpan {
    /// The span's id: the same whenever it is asked for, never 0.
    #[must_use]
    pub fn id(self, task: Uid) -> u64 {
        let (kind, fence) = match self {
            Self::Create => (0, 0),
            Self::Wait(fence) => (1_u8, fence),
            Self::Attempt(fence) => (2, fence),
        };
        let mut bytes = [0; 25];
        bytes[..16].copy_from_slice(&task.0.to_be_bytes());
        bytes[16] = kind;
        bytes[17..].copy_from_slice(&fence.to_be_bytes());
        xxh3_64(&bytes).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written_unchanged() {
        let span = SpanRef::parse(PARENT).unwrap();
        assert!(span.is_sampled());
        assert_eq!(span.span_id, 0x00f0_67aa_0ba9_02b7);
        assert_eq!(span.to_string(), PARENT);
        let later = SpanRef::parse(&format!("{}-extra", PARENT.replace("00-4b", "cc-4b"))).unwrap();
        assert_eq!(later.to_string(), PARENT);
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        for wrong in [
            "".to_owned(),
            PARENT.to_uppercase(),
            PARENT[..54].to_owned(),
            format!("{PARENT}-extra"),
            PARENT.replace("00-4b", "ff-4b"),
            PARENT.replace('-', "_"),
            format!("00-{:032}-00f067aa0ba902b7-01", 0),
            format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{:016}-01", 0),
            format!("00-4bf92f3577b34da6a3ce929d0e0e473é-{:015}-01", 0),
        ] {
            assert_eq!(SpanRef::parse(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn each_span_of_a_task_has_an_id_of_its_own() {
        let (one, other) = (Uid(1), Uid(2));
        let ids: std::collections::BTreeSet<_> = [one, other]
            .into_iter()
            .flat_map(|task| {
                let spans = [
                    TaskSpan::Create,
                    TaskSpan::Wait(1),
                    TaskSpan::Attempt(1),
                    TaskSpan::Attempt(2),
                ];
                spans.map(|span| span.id(task))
            })
            .collect();
        assert_eq!(ids.len(), 8);
        assert_eq!(TaskSpan::Create.id(one), TaskSpan::Create.id(one));
    }
}
