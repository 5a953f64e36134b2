//! Failures that are taken for the same one.
//!
//! What groups them is the task type, the failure's type and the innermost frame of the task's own
//! code: a fix mends all of a group at once, and no group is made of what differs from run to run,
//! such as messages, addresses and line numbers.
//!
//! - [`Kind`]: what failures of a group have in common, and its [`Fingerprint`]
//! - [`location`]: the frame, as the failure says or as its stack trace shows
//! - [`Group`]: a group as the journal stores it, and how it counts
//! - [`new_failures`]: what a transition of a task adds; [`Report`]: what comes from elsewhere

mod group;
mod location;

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

pub use group::{Group, MAX_GROUP_STACK_BYTES, Occurrence, cut_middle};
pub use location::location;

use super::{
    error::Error,
    id::Uid,
    task::{Failure, FailureCategory, Task},
};

/// Task type and failure type of the one group that counts what finds no room in another.
pub const OTHER: &str = "_OTHER";

/// A group's identity: a digest of its [`Kind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u128);

impl Fingerprint {
    /// The 32 hexadecimal digits it prints as; `field` names the culprit in the error.
    pub fn parse(field: &'static str, text: &str) -> Result<Self, Error> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = digits.then(|| u128::from_str_radix(text, 16).ok());
        number.flatten().map(Self).ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            let problem = format!("must be 32 hexadecimal digits, got {shown:?}");
            Error::field(field, problem)
        })
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What the failures of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The task type, or the decorated function's name.
    pub task_type: String,
    /// The failures' type.
    pub failure_type: String,
    /// The innermost frame of the task's own code; empty: not known.
    pub location: String,
}

impl Kind {
    /// Of one failure.
    #[must_use]
    pub fn of(task_type: &str, failure: &Failure) -> Self {
        Self {
            task_type: task_type.to_owned(),
            failure_type: failure.r#type.clone(),
            location: location(failure),
        }
    }

    /// Of what finds no room in another group.
    #[must_use]
    pub fn other() -> Self {
        Self {
            task_type: OTHER.to_owned(),
            failure_type: OTHER.to_owned(),
            location: String::new(),
        }
    }

    /// Its digest. It is stored: what goes into it never changes.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut digest = Xxh3::new();
        for part in [&self.task_type, &self.failure_type, &self.location] {
            digest.update(&(part.len() as u64).to_le_bytes());
            digest.update(part.as_bytes());
        }
        Fingerprint(digest.digest128())
    }
}

/// A failure outside a leased task, to be counted once however often it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Made by whoever reports.
    pub id: Uid,
    /// Where it is counted.
    pub kind: Kind,
    /// As far as a group keeps it.
    pub failure: Failure,
}

impl Report {
    /// A report of what went wrong in a piece of work of some type; none of a cancel, which is no
    /// error.
    #[must_use]
    pub fn new(id: Uid, task_type: &str, failure: &Failure) -> Option<Self> {
        counts(failure).then(|| Self {
            id,
            kind: Kind::of(task_type, failure),
            failure: group::kept(failure),
        })
    }
}

/// The last place at or before `at` where a text can be cut.
fn boundary(text: &str, at: usize) -> usize {
    let mut places = (0..=at.min(text.len())).rev();
    places
        .find(|place| text.is_char_boundary(*place))
        .unwrap_or(0)
}

/// A cancel is no error.
fn counts(failure: &Failure) -> bool {
    failure.category != FailureCategory::Cancelled as i32
}

/// The failures that a task's next record adds: of an attempt that failed, or of the task as a
/// whole. Every transition is one record, so each is new exactly once.
pub fn new_failures<'a>(before: &'a Task, after: &'a Task) -> impl Iterator<Item = &'a Failure> {
    let known = |fence| {
        let mut attempts = before.attempts.iter();
        attempts.any(|attempt| attempt.fence == fence && attempt.failure.is_some())
    };
    let of_attempts = after.attempts.iter().filter_map(move |attempt| {
        let failure = attempt.failure.as_deref()?;
        (!known(attempt.fence)).then_some(failure)
    });
    let of_task = after
        .failure
        .as_deref()
        .filter(|_| before.failure.is_none());
    of_attempts.chain(of_task).filter(|failure| counts(failure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::task::{Changed, Event, Outcome, Policy, Status, next};

    #[test]
    fn a_fingerprint_tells_the_parts_apart_and_stays_what_it_is() {
        let kind = |task_type: &str, failure_type: &str, location: &str| {
            Kind {
                task_type: task_type.into(),
                failure_type: failure_type.into(),
                location: location.into(),
            }
            .fingerprint()
        };
        let all = [
            kind("ab", "c", ""),
            kind("a", "bc", ""),
            kind("a", "b", "c"),
            kind("", "abc", ""),
            Kind::other().fingerprint(),
        ];
        for (place, one) in all.iter().enumerate() {
            assert!(!all[..place].contains(one));
            assert_eq!(Fingerprint::parse("f", &one.to_string()).unwrap(), *one);
        }
        // It is stored.
        assert_eq!(
            kind("solve", "ValueError", "solver.py:step").to_string(),
            "6d2948aeacad51ddc7d71304d90b95b1"
        );
    }

    #[test]
    fn what_is_no_fingerprint_is_refused() {
        for text in ["", "1", &"g".repeat(32), &"+".repeat(32), &"1".repeat(33)] {
            let error = Fingerprint::parse("fingerprint", text).unwrap_err();
            assert!(error.message.contains("32 hexadecimal digits"), "{error}");
        }
    }

    fn to(task: &Task, event: &Event) -> Task {
        match next(task, event, 5, 0).unwrap() {
            Changed::To(task) => *task,
            Changed::Not => panic!("{event:?} changes nothing"),
        }
    }

    fn queued() -> Task {
        let policy = Policy {
            max_attempts: 20,
            total_timeout_us: 1_000_000,
            attempt_timeout_us: 1_000_000,
            ..Policy::default()
        };
        let task = Task {
            policy,
            ..Task::default()
        };
        task.begin(Uid(1), 1)
    }

    fn leased(task: &Task) -> Task {
        let event = Event::Lease {
            secret: 7,
            worker_id: "w".into(),
            instance: Uid(2),
            trace_context: None,
        };
        to(task, &event)
    }

    fn types(before: &Task, after: &Task) -> Vec<String> {
        new_failures(before, after)
            .map(|failure| failure.r#type.clone())
            .collect()
    }

    #[test]
    fn every_end_of_an_attempt_by_failure_is_new_once() {
        let running = leased(&queued());
        let fence = running.fence;
        let finish = |category: FailureCategory| Event::Finish {
            fence,
            secret: 7,
            outcome: Outcome::Failed(Box::new(Failure {
                category: category as i32,
                r#type: "boom".into(),
                retryable: true,
                ..Failure::default()
            })),
            marks: Vec::new(),
            marks_merged: true,
        };
        for (event, expected) in [
            (finish(FailureCategory::Application), vec!["boom"]),
            (finish(FailureCategory::Cancelled), vec![]),
            (Event::LeaseLost { fence }, vec!["lease_lost"]),
            (Event::AttemptTimeout { fence }, vec!["timeout"]),
            (Event::TotalTimeout, vec!["timeout"]),
            (Event::LeaseUnaccepted { fence }, vec![]),
            (Event::Suspect { fence }, vec![]),
        ] {
            let after = to(&running, &event);
            assert_eq!(types(&running, &after), expected, "{event:?}");
            assert!(types(&after, &after).is_empty());
        }
    }

    #[test]
    fn a_task_that_fails_without_an_attempt_is_new_once() {
        let queued = queued();
        let after = to(&queued, &Event::TotalTimeout);
        assert_eq!(after.status(), Status::Failed);
        assert_eq!(types(&queued, &after), ["timeout"]);
        assert!(types(&after, &after).is_empty());
    }

    #[test]
    fn attempts_that_are_no_longer_kept_are_not_new_again() {
        let mut task = queued();
        let mut count = 0;
        for _ in 0..15 {
            for event in [Event::Due, Event::Suspect { fence: 0 }] {
                if let Ok(Changed::To(due)) = next(&task, &event, 5, 0) {
                    count += types(&task, &due).len();
                    task = *due;
                }
            }
            let running = leased(&task);
            count += types(&task, &running).len();
            let fence = running.fence;
            task = to(&running, &Event::LeaseLost { fence });
            count += types(&running, &task).len();
        }
        assert_eq!(count, 15);
        assert!(task.attempts.len() < 15);
    }
}
