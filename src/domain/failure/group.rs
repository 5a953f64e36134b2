//! A group as the journal stores it: each change replaces the record.
//!
//! A record is bounded, whatever the failures hold: ten thousand of them are kept in memory, and one
//! is written with every failed attempt.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::{Fingerprint, Kind, boundary};
use crate::domain::{id::Uid, task::Failure};

/// Bytes of the last failure's stack trace.
pub const MAX_GROUP_STACK_BYTES: usize = 16 << 10;
/// Bytes of its message.
const MAX_MESSAGE_BYTES: usize = 4 << 10;
/// Bytes of its metadata, keys and values together.
const MAX_METADATA_BYTES: usize = 4 << 10;
/// A cause's part of each.
const CAUSE_SHARE: usize = 8;
/// Tasks that are remembered.
const MAX_TASKS: usize = 20;
/// Reports that are remembered.
const MAX_REPORTS: usize = 256;

/// The record of a group. Field numbers are the storage format.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Group {
    /// The digest of its kind.
    #[prost(message, required, tag = "1")]
    fingerprint: Uid,
    /// See [`Kind::task_type`].
    #[prost(string, tag = "2")]
    pub task_type: String,
    /// See [`Kind::failure_type`].
    #[prost(string, tag = "3")]
    pub failure_type: String,
    /// See [`Kind::location`].
    #[prost(string, tag = "4")]
    pub location: String,
    /// How often it has occurred.
    #[prost(uint64, tag = "5")]
    pub count: u64,
    /// When it first occurred, by the server's clock.
    #[prost(int64, tag = "6")]
    pub first_us: i64,
    /// When it last occurred.
    #[prost(int64, tag = "7")]
    pub last_us: i64,
    /// The newest failure, as far as it is kept.
    #[prost(message, optional, boxed, tag = "8")]
    pub last_failure: Option<Box<Failure>>,
    /// Id of the task it occurred in; empty: outside a task.
    #[prost(string, tag = "9")]
    pub last_task: String,
    /// Ids of the last tasks it occurred in, each once, newest last.
    #[prost(string, repeated, tag = "10")]
    pub tasks: Vec<String>,
    /// Hashes of the ids of the last reports, newest last.
    #[prost(fixed64, repeated, tag = "11")]
    reports: Vec<u64>,
}

/// What a group counts.
#[derive(Clone, Copy, Debug)]
pub struct Occurrence<'a> {
    /// What went wrong.
    pub failure: &'a Failure,
    /// Id of the task it went wrong in; none: outside a task.
    pub task: Option<&'a str>,
    /// Of a report its id.
    pub report: Option<Uid>,
    /// When.
    pub time_us: i64,
}

impl Group {
    /// A group that has counted nothing yet.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            fingerprint: Uid(kind.fingerprint().0),
            task_type: kind.task_type,
            failure_type: kind.failure_type,
            location: kind.location,
            ..Self::default()
        }
    }

    /// Its identity.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(self.fingerprint.0)
    }

    /// Counts once more. False: it is a report that was counted before, and nothing changes.
    pub fn count(&mut self, occurrence: Occurrence<'_>) -> bool {
        if let Some(report) = occurrence.report {
            let hash = xxh3_64(&report.0.to_be_bytes());
            if self.reports.contains(&hash) {
                return false;
            }
            push_last(&mut self.reports, hash, MAX_REPORTS);
        }
        let time_us = occurrence.time_us;
        if self.count == 0 {
            self.first_us = time_us;
            self.last_us = time_us;
        }
        self.count += 1;
        // A clock may be put back.
        self.last_us = self.last_us.max(time_us);
        let mut failure = kept(occurrence.failure);
        if failure.time_us == 0 {
            failure.time_us = time_us;
        }
        self.last_failure = Some(Box::new(failure));
        self.last_task.clear();
        if let Some(task) = occurrence.task {
            self.last_task.push_str(task);
            self.tasks.retain(|known| known != task);
            push_last(&mut self.tasks, task.to_owned(), MAX_TASKS);
        }
        true
    }
}

fn push_last<T>(list: &mut Vec<T>, item: T, most: usize) {
    let surplus = (list.len() + 1).saturating_sub(most);
    list.drain(..surplus);
    list.push(item);
}

/// A failure as far as a group keeps it: without details, and each text within its bound.
pub(super) fn kept(failure: &Failure) -> Failure {
    kept_within(failure, 1)
}

fn kept_within(failure: &Failure, share: usize) -> Failure {
    let cause = failure.cause.as_deref();
    Failure {
        category: failure.category,
        r#type: failure.r#type.clone(),
        message: cut(&failure.message, MAX_MESSAGE_BYTES / share),
        stack_trace: cut_middle(&failure.stack_trace, MAX_GROUP_STACK_BYTES / share),
        runtime: failure.runtime.clone(),
        retryable: failure.retryable,
        retry_delay_us: failure.retry_delay_us,
        metadata: few(&failure.metadata, MAX_METADATA_BYTES / share),
        details: None,
        trace_context: failure.trace_context.clone(),
        attempt: failure.attempt,
        time_us: failure.time_us,
        // Whoever sends a failure may nest no more than eight.
        cause: cause.map(|cause| Box::new(kept_within(cause, CAUSE_SHARE))),
        location: failure.location.clone(),
    }
}

/// The first of them that fit.
fn few(metadata: &BTreeMap<String, String>, most: usize) -> BTreeMap<String, String> {
    let mut bytes = 0;
    let fits = metadata.iter().take_while(|(key, value)| {
        bytes += key.len() + value.len();
        bytes <= most
    });
    fits.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// A text within a bound, of which both ends are kept, the last one with twice the room; one that is
/// cut says so between them.
#[must_use]
pub fn cut_middle(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mark = format!("\n… (cut, {} bytes)\n", text.len());
    let room = limit.saturating_sub(mark.len());
    let head = boundary(text, room / 3);
    // Rounded up: the end must not take more than its room.
    let mut tail = text.len() - room.saturating_sub(room / 3);
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}{mark}{}", &text[..head], &text[tail..])
}

/// A text within a bound; one that is cut says so.
fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mark = format!("… (cut, {} bytes)", text.len());
    let end = boundary(text, limit.saturating_sub(mark.len()));
    format!("{}{mark}", &text[..end])
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::domain::task::{Payload, TraceContext};

    fn group() -> Group {
        Group::new(Kind {
            task_type: "solve".into(),
            failure_type: "ValueError".into(),
            location: "solver.py:step".into(),
        })
    }

    fn at(failure: &Failure, time_us: i64) -> Occurrence<'_> {
        Occurrence {
            failure,
            task: None,
            report: None,
            time_us,
        }
    }

    #[test]
    fn a_group_counts_and_keeps_the_newest_failure_and_the_times() {
        let mut group = group();
        let failure = |message: &str| Failure {
            message: message.into(),
            ..Failure::default()
        };
        let (first, second, third) = (failure("1"), failure("2"), failure("3"));
        assert!(group.count(at(&first, 10)));
        assert!(group.count(Occurrence {
            task: Some("t"),
            ..at(&second, 30)
        }));
        assert_eq!(group.last_task, "t");
        // The clock was put back.
        assert!(group.count(at(&third, 20)));
        assert_eq!((group.count, group.first_us, group.last_us), (3, 10, 30));
        assert_eq!(group.last_task, "");
        assert_eq!(group.tasks, ["t"]);
        let last = group.last_failure.as_ref().unwrap();
        assert_eq!((last.message.as_str(), last.time_us), ("3", 20));
        assert_eq!(Group::decode(&*group.encode_to_vec()).unwrap(), group);
    }

    #[test]
    fn the_last_twenty_tasks_stand_once_each_newest_last() {
        let mut group = group();
        let failure = Failure::default();
        for number in (0..25).chain([10]) {
            let task = format!("t{number}");
            group.count(Occurrence {
                task: Some(&task),
                ..at(&failure, 1)
            });
        }
        let expected = (5..25).filter(|number| *number != 10).chain([10]);
        let expected: Vec<_> = expected.map(|number| format!("t{number}")).collect();
        assert_eq!(group.tasks, expected);
        assert_eq!(group.count, 26);
    }

    #[test]
    fn a_report_counts_once_until_256_others_came() {
        let mut group = group();
        let failure = Failure::default();
        let mut report = |id: u128| {
            group.count(Occurrence {
                report: Some(Uid(id)),
                ..at(&failure, 1)
            })
        };
        assert!(report(0));
        for id in 1..256 {
            assert!(report(id) && !report(id) && !report(0));
        }
        assert!(report(256));
        assert!(report(0));
        assert_eq!(group.count, 258);
        assert_eq!(group.reports.len(), MAX_REPORTS);
    }

    #[test]
    fn the_largest_failure_makes_a_small_record() {
        let text = "é".repeat(1 << 16);
        let mut failure = Failure::default();
        for _ in 0..9 {
            failure = Failure {
                message: text.clone(),
                stack_trace: text.clone(),
                metadata: (0..40)
                    .map(|key| (key.to_string(), "m".repeat(1 << 10)))
                    .collect(),
                details: Some(Payload::default()),
                trace_context: Some(TraceContext::default()),
                cause: Some(Box::new(failure)),
                ..Failure::default()
            };
        }
        let mut group = group();
        group.count(at(&failure, 1));
        let kept = group.last_failure.clone().unwrap();
        assert!(kept.details.is_none());
        assert!(kept.stack_trace.contains("… (cut, 131072 bytes)"));
        assert!(kept.stack_trace.len() <= MAX_GROUP_STACK_BYTES);
        assert_eq!(kept.metadata.len(), 3);
        let bytes = group.encoded_len();
        assert!(bytes < 64 << 10, "{bytes}");
        // What is cut stays as it is.
        assert_eq!(super::kept(&kept), *kept);
    }

    #[test]
    fn a_cut_stack_keeps_both_its_ends_within_the_bound() {
        let stack = format!("first{}last", "é\n".repeat(10_000));
        for limit in [64, 65, 66, 1_000] {
            let kept = cut_middle(&stack, limit);
            assert!(kept.len() <= limit, "{} > {limit}", kept.len());
            assert!(
                kept.starts_with("first") && kept.ends_with("last"),
                "{kept}"
            );
            assert!(kept.contains("… (cut, 30009 bytes)"), "{kept}");
        }
        assert_eq!(cut_middle("short", 64), "short");
    }
}
