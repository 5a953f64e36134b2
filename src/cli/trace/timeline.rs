//! What happened to a task, in order, from what its record keeps.
//!
//! Shown is what is known. The record has the last attempts with their beginnings and ends, when the
//! task is due, became suspect and ended. It does not have: when a cancel was asked for, when the
//! pause before a retry turned into a wait in the queue, and leases that were given back.

use prost_types::Timestamp;

use super::{super::show, progress::Progress};
use crate::proto::v1::{Attempt, Failure, Task, failure::Category, task::Status};

/// How something looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Quiet,
    Good,
    Bad,
    Warning,
    Active,
}

/// Something that happened. Times and durations are microseconds.
#[derive(Debug, PartialEq)]
pub(super) struct Event {
    /// Since the submission; none: not known.
    pub(super) at: Option<i64>,
    /// How long it took, or has taken so far.
    pub(super) took: Option<i64>,
    pub(super) what: String,
    pub(super) tone: Tone,
}

/// The times of a task, counted from its submission.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    submitted: i64,
    /// Now, or the end.
    pub(super) until: i64,
}

impl Clock {
    /// `now_us` is by another clock than the server's: nothing is before what has happened.
    pub(super) fn of(task: &Task, now_us: i64) -> Self {
        let submitted = task.create_time.as_ref().map_or(now_us, micros);
        let clock = Self {
            submitted,
            until: 0,
        };
        let attempts = task.attempts.iter();
        let known = attempts
            .flat_map(|attempt| [&attempt.start_time, &attempt.end_time])
            .chain([&task.suspect_time])
            .filter_map(|time| clock.at(time.as_ref()));
        let last = known.max().unwrap_or_default().max(0);
        let until = match &task.end_time {
            Some(end) => micros(end) - submitted,
            None => now_us - submitted,
        };
        Self {
            until: until.max(last),
            ..clock
        }
    }

    pub(super) fn at(self, time: Option<&Timestamp>) -> Option<i64> {
        time.map(|time| micros(time) - self.submitted)
    }
}

/// Microseconds since the epoch.
pub(super) fn micros(time: &Timestamp) -> i64 {
    let seconds = time.seconds.saturating_mul(1_000_000);
    seconds.saturating_add(i64::from(time.nanos) / 1_000)
}

/// When the first attempt could begin at the earliest; none where that is not kept.
pub(super) fn ready(task: &Task, clock: Clock) -> Option<i64> {
    let first = task.attempts.first();
    if first.is_some_and(|attempt| attempt.number > 1) {
        return None;
    }
    // While a retry is pending, this is when that is due.
    let is_retry = first.is_some() && task.status() == Status::Scheduled;
    let due = task.schedule_time.as_ref().filter(|_| !is_retry);
    Some(clock.at(due).unwrap_or_default().max(0))
}

/// Everything that is known, in the order in which it happened; what has no time, last.
pub(super) fn events(task: &Task, progress: Option<&Progress>, clock: Clock) -> Vec<Event> {
    let mut list = List::default();
    list.add(0, None, "submitted", Tone::Plain);
    list.before_the_first(task, clock);
    for (place, attempt) in task.attempts.iter().enumerate() {
        let next = task.attempts.get(place + 1);
        list.attempt(task, attempt, next, clock);
    }
    if let Some(since) = clock.at(task.suspect_time.as_ref()) {
        let text = "suspect: nothing is heard of its worker";
        list.add(since, Some(clock.until - since), text, Tone::Warning);
    }
    if let Some(progress) = progress {
        let text = show::plain(&progress.text);
        match clock.at(progress.time.as_ref()) {
            Some(at) => {
                let age = (!show::has_ended(task)).then_some(clock.until.max(at) - at);
                list.add(at, age, format!("last progress: {text}"), Tone::Active);
            }
            None => list.undated(format!("last progress: {text}"), Tone::Active),
        }
    }
    list.end(task, clock);
    if task.cancel_requested {
        list.undated("asked to stop; when is not kept", Tone::Warning);
    }
    if task.flush_incomplete {
        list.undated("its state may lack its last progress", Tone::Warning);
    }
    list.sorted()
}

#[derive(Default)]
struct List(Vec<Event>);

impl List {
    fn add(&mut self, at: i64, took: Option<i64>, what: impl Into<String>, tone: Tone) {
        self.0.push(Event {
            at: Some(at),
            took: took.map(|took| took.max(0)),
            what: what.into(),
            tone,
        });
    }

    fn undated(&mut self, what: impl Into<String>, tone: Tone) {
        self.0.push(Event {
            at: None,
            took: None,
            what: what.into(),
            tone,
        });
    }

    fn before_the_first(&mut self, task: &Task, clock: Clock) {
        let first = task.attempts.first();
        let start = first.and_then(|attempt| clock.at(attempt.start_time.as_ref()));
        let Some(ready) = ready(task, clock) else {
            let number = first.map_or(0, |attempt| attempt.number) - 1;
            let text = format!("attempts 1 to {number} are not kept any more");
            self.add(start.unwrap_or_default(), None, text, Tone::Quiet);
            return;
        };
        if ready > 0 {
            let left = match start {
                None if clock.until < ready && !show::has_ended(task) => {
                    format!(", in {}", exact(ready - clock.until))
                }
                _ => String::new(),
            };
            let text = format!("scheduled until +{}{left}", exact(ready));
            self.add(0, Some(ready.min(clock.until)), text, Tone::Quiet);
        }
        let until = start.unwrap_or(clock.until);
        if start.is_none() && until < ready {
            return;
        }
        let text = match (start, task.queue_position) {
            (None, place) if place > 0 => format!("queued, about number {place} in line"),
            (None, _) if task.status() == Status::Queued => "queued, waits for a worker".to_owned(),
            _ => "queued".to_owned(),
        };
        self.add(ready, Some(until - ready), text, Tone::Quiet);
    }

    fn attempt(&mut self, task: &Task, attempt: &Attempt, next: Option<&Attempt>, clock: Clock) {
        let (number, worker) = (attempt.number, show::plain(&attempt.worker_id));
        let start = clock.at(attempt.start_time.as_ref()).unwrap_or_default();
        let end = clock.at(attempt.end_time.as_ref());
        let took = end.unwrap_or(clock.until) - start;
        let leased = format!("attempt {number} leased by {worker}");
        let leased = match end {
            None => format!("{leased}, runs"),
            Some(_) => leased,
        };
        self.add(start, Some(took), leased, Tone::Active);
        let Some(end) = end else { return };
        let is_last = next.is_none();
        let (how, tone) = outcome(task, attempt, is_last);
        self.add(end, None, format!("attempt {number} {how}"), tone);
        let due = clock.at(task.schedule_time.as_ref());
        match (next, task.status()) {
            (Some(next), _) => {
                let next = clock.at(next.start_time.as_ref()).unwrap_or(end);
                self.add(
                    end,
                    Some(next - end),
                    "pause and queue before the next attempt",
                    Tone::Quiet,
                );
            }
            (None, Status::Scheduled) => {
                let due = due.unwrap_or(end);
                let left = exact((due - clock.until).max(0));
                let text = format!(
                    "pause until +{}, the next attempt is due in {left}",
                    exact(due)
                );
                self.add(end, Some(clock.until - end), text, Tone::Quiet);
            }
            (None, Status::Queued) => {
                let text = "pause, then queued for the next attempt";
                self.add(end, Some(clock.until - end), text, Tone::Quiet);
            }
            _ => {}
        }
    }

    fn end(&mut self, task: &Task, clock: Clock) {
        let Some(end) = clock.at(task.end_time.as_ref()) else {
            return;
        };
        let tone = match task.status() {
            Status::Succeeded => Tone::Good,
            Status::Failed => Tone::Bad,
            _ => Tone::Warning,
        };
        let mut text = show::status(task).to_owned();
        let told = task.attempts.last().and_then(|last| last.failure.as_ref());
        // Of the task as a whole, such as its total time being over.
        if let Some(failure) = &task.failure
            && task.status() != Status::Succeeded
            && told.is_none_or(|told| {
                (told.message != failure.message) || told.r#type != failure.r#type
            })
        {
            text.push_str(&format!(": {}", said(failure)));
        }
        self.add(end, Some(end), text, tone);
    }

    fn sorted(mut self) -> Vec<Event> {
        self.0.sort_by_key(|event| event.at.unwrap_or(i64::MAX));
        self.0
    }
}

fn outcome(task: &Task, attempt: &Attempt, is_last: bool) -> (String, Tone) {
    match &attempt.failure {
        Some(failure) => match failure.category() {
            Category::LeaseLost => (format!("lost its lease: {}", said(failure)), Tone::Warning),
            Category::Timeout => (format!("timed out: {}", said(failure)), Tone::Bad),
            Category::Cancelled => (format!("stopped: {}", said(failure)), Tone::Warning),
            _ => (format!("failed: {}", said(failure)), Tone::Bad),
        },
        None => match task.status() {
            _ if !is_last => ("ended".to_owned(), Tone::Plain),
            Status::Succeeded => ("succeeded".to_owned(), Tone::Good),
            Status::Cancelled => ("stopped".to_owned(), Tone::Warning),
            Status::Running => {
                let text = "ended; its last progress is being merged";
                (text.to_owned(), Tone::Plain)
            }
            _ => ("ended".to_owned(), Tone::Plain),
        },
    }
}

fn said(failure: &Failure) -> String {
    show::one_line(&show::failure_at(failure), 300)
}

/// A duration to compare with others: three or four figures.
pub(super) fn exact(micros: i64) -> String {
    let micros = micros.max(0);
    let (seconds, units) = (micros / 1_000_000, micros as f64);
    match seconds {
        _ if micros < 10_000 => format!("{:.1} ms", units / 1e3),
        0 => format!("{:.0} ms", units / 1e3),
        1..10 => format!("{:.2} s", units / 1e6),
        10..120 => format!("{:.1} s", units / 1e6),
        120..7_200 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        7_200..172_800 => format!("{}h {:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
