//! Tasks and values as people read them.

use std::time::{Duration, SystemTime};

use comfy_table::{Cell, Color, Table};
use console::Style;
use prost_types::Timestamp;

use super::output;
use crate::{
    client::{Value, short_name},
    domain::trace::SpanRef,
    proto::v1::{
        Attempt, Failure, Payload, Task, ValueStub, failure::Category, task::Status, value::Kind,
    },
};

/// The status in one word.
pub(super) fn status(task: &Task) -> &'static str {
    word(task.status())
}

/// The status in a column: a running task whose worker is not heard of says so.
fn column(task: &Task) -> Cell {
    if task.suspect_time.is_some() {
        return Cell::new(format!("{}, suspect", status(task))).fg(Color::Magenta);
    }
    Cell::new(status(task)).fg(color(task.status()))
}

/// A status in one word.
pub(super) fn word(status: Status) -> &'static str {
    match status {
        Status::Unspecified => "unknown",
        Status::Scheduled => "scheduled",
        Status::Queued => "queued",
        Status::Running => "running",
        Status::Succeeded => "succeeded",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
    }
}

/// Whether it will not change any more.
pub(super) fn has_ended(task: &Task) -> bool {
    matches!(
        task.status(),
        Status::Succeeded | Status::Failed | Status::Cancelled
    )
}

/// When it was created, to sort by.
pub(super) fn created(task: &Task) -> Option<(i64, i32)> {
    task.create_time
        .as_ref()
        .map(|time| (time.seconds, time.nanos))
}

/// The status, with what matters about it.
pub(super) fn status_phrase(task: &Task) -> String {
    let mut phrase = status(task).to_owned();
    if task.status() == Status::Running {
        phrase.push_str(&format!(" on {}", task.worker_id));
    }
    if task.attempt > 1 || (task.attempt == 1 && task.failure.is_some()) {
        phrase.push_str(&format!(", attempt {}", task.attempt));
    }
    if task.cancel_requested && !has_ended(task) {
        phrase.push_str(", asked to stop");
    }
    if task.suspect_time.is_some() {
        phrase.push_str(", suspect: nothing is heard of its worker");
    }
    phrase
}

fn color(status: Status) -> Color {
    match status {
        Status::Succeeded => Color::Green,
        Status::Failed => Color::Red,
        Status::Cancelled => Color::Yellow,
        Status::Running => Color::Cyan,
        Status::Unspecified | Status::Scheduled | Status::Queued => Color::Reset,
    }
}

/// How a status looks on standard error's terminal.
pub(super) fn style(status: Status) -> Style {
    let style = Style::new().for_stderr();
    match status {
        Status::Succeeded => style.green(),
        Status::Failed => style.red(),
        Status::Cancelled => style.yellow(),
        Status::Running => style.cyan(),
        Status::Unspecified | Status::Scheduled | Status::Queued => style,
    }
}

/// A table of tasks.
pub(super) fn task_table<'a>(tasks: impl IntoIterator<Item = &'a Task>) -> Table {
    let mut table = output::table(["ID", "TYPE", "QUEUE", "STATUS", "ATTEMPT", "AGE", "WORKER"]);
    for task in tasks {
        table.add_row([
            Cell::new(short_name(&task.name)),
            Cell::new(&task.r#type),
            Cell::new(&task.queue),
            column(task),
            Cell::new(task.attempt),
            Cell::new(since(task.create_time.as_ref())),
            Cell::new(&task.worker_id),
        ]);
    }
    table
}

/// Everything of one task, a line for each thing.
pub(super) fn task(task: &Task) -> String {
    let mut lines = vec![
        ("task", short_name(&task.name).to_owned()),
        ("type", task.r#type.clone()),
        ("queue", task.queue.clone()),
        ("status", status_phrase(task)),
    ];
    if task.priority != 0 {
        lines.push(("priority", task.priority.to_string()));
    }
    if task.queue_position > 0 {
        lines.push(("in line", format!("about number {}", task.queue_position)));
    }
    if !task.fairness_key.is_empty() {
        lines.push(("fair for", task.fairness_key.clone()));
    }
    if !task.concurrency_key.is_empty() {
        lines.push(("takes up", task.concurrency_key.clone()));
    }
    for (key, value) in &task.labels {
        lines.push(("label", format!("{key}={value}")));
    }
    if !task.retry_of.is_empty() {
        lines.push(("repeats", short_name(&task.retry_of).to_owned()));
    }
    if !task.state_name.is_empty() {
        lines.push(("state", short_name(&task.state_name).to_owned()));
    }
    let span = task.trace_context.as_ref();
    let span = span.and_then(|context| SpanRef::parse(&context.traceparent));
    lines.extend(span.map(|span| ("trace", format!("{:032x}", span.trace_id))));
    lines.extend(task.input.as_ref().map(|input| ("input", payload(input))));
    let times = [
        ("created", &task.create_time),
        ("due", &task.schedule_time),
        ("started", &task.start_time),
        ("suspect", &task.suspect_time),
        ("ended", &task.end_time),
        ("kept until", &task.expire_time),
    ];
    for (name, time) in times {
        lines.extend(time.as_ref().map(|time| (name, time.to_string())));
    }
    for attempt in &task.attempts {
        lines.push(("attempt", attempt_line(task, attempt)));
    }
    if let Some(problem) = &task.failure {
        lines.push(("failure", failure_at(problem)));
    }
    if task.flush_incomplete {
        lines.push(("note", "its state may lack its last progress".to_owned()));
    }
    lines.extend(
        task.output
            .as_ref()
            .map(|output| ("output", payload(output))),
    );
    let lines: Vec<String> = lines
        .into_iter()
        // Further lines of a value stand under its first.
        .map(|(name, value)| format!("{name:<11} {}", value.replace('\n', "\n            ")))
        .collect();
    lines.join("\n")
}

fn attempt_line(task: &Task, attempt: &Attempt) -> String {
    let how = match (&attempt.failure, &attempt.end_time) {
        (Some(problem), _) if problem.category() == Category::Cancelled => {
            format!("stopped: {}", problem.message)
        }
        (Some(problem), _) => failure_at(problem),
        (None, Some(_)) if task.status() == Status::Cancelled => "stopped".to_owned(),
        (None, Some(_)) => "succeeded".to_owned(),
        (None, None) => "runs".to_owned(),
    };
    format!("{} on {}: {how}", attempt.number, attempt.worker_id)
}

/// A failure in one phrase.
pub(super) fn failure(failure: &Failure) -> String {
    match failure.r#type.as_str() {
        "" => failure.message.clone(),
        kind => format!("{kind}: {}", failure.message),
    }
}

/// The same with where it was raised.
pub(super) fn failure_at(problem: &Failure) -> String {
    match problem.location.as_str() {
        "" => failure(problem),
        location => format!("{} (at {location})", failure(problem)),
    }
}

/// Text of anybody's, without what would move the cursor or change colours.
pub(super) fn plain(text: &str) -> String {
    let shown = |&char: &char| !char.is_control() || matches!(char, '\n' | '\t');
    text.chars().filter(shown).collect()
}

/// The first line of such a text, of at most so many characters.
pub(super) fn one_line(text: &str, most: usize) -> String {
    let text = plain(text).replace('\t', " ");
    let line = text.trim().lines().next().unwrap_or_default();
    match line.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// A payload, whole where it is text.
pub(super) fn payload(payload: &Payload) -> String {
    let kind = payload.content_type.as_str();
    let is_text = kind == "application/json" || kind.starts_with("text/");
    match std::str::from_utf8(&payload.data) {
        Ok(text) if is_text && !text.is_empty() => text.to_owned(),
        _ => {
            let kind = if kind.is_empty() {
                "application/octet-stream"
            } else {
                kind
            };
            format!("<{kind}, {} bytes>", payload.data.len())
        }
    }
}

/// How long ago, roughly.
pub(super) fn since(time: Option<&Timestamp>) -> String {
    let time = time.and_then(|time| SystemTime::try_from(*time).ok());
    // Clocks differ: what seems to come is now.
    time.map_or_else(String::new, |time| {
        rough(time.elapsed().unwrap_or_default())
    })
}

/// A duration in one unit.
pub(super) fn rough(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// A number from 0 to 1 in a value, for a bar.
pub(super) fn fraction(value: &Value) -> Option<f64> {
    let number = match value.kind {
        Some(Kind::Number(number)) => number,
        Some(Kind::Integer(0)) => 0.0,
        Some(Kind::Integer(1)) => 1.0,
        _ => return None,
    };
    (0.0..=1.0).contains(&number).then_some(number)
}

/// What stands for a value that is too large to come along.
pub(super) fn stub(stub: &ValueStub) -> String {
    let ValueStub {
        content_type,
        size_bytes,
        ..
    } = stub;
    match content_type.as_str() {
        "" => format!("<{size_bytes} bytes>"),
        kind => format!("<{kind}, {size_bytes} bytes>"),
    }
}

/// A value to be used as it is by a script: text without quotes.
pub(super) fn raw(value: &Value) -> String {
    match &value.kind {
        Some(Kind::Text(text)) => text.clone(),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::TraceContext;

    #[test]
    fn a_task_is_told_with_what_matters_about_its_status() {
        let mut one = Task {
            name: "namespaces/default/tasks/t".to_owned(),
            r#type: "exec".to_owned(),
            worker_id: "w".to_owned(),
            attempt: 2,
            cancel_requested: true,
            ..Task::default()
        };
        one.set_status(Status::Running);
        assert_eq!(
            status_phrase(&one),
            "running on w, attempt 2, asked to stop"
        );
        one.cancel_requested = false;
        one.suspect_time = Some(Timestamp::default());
        assert_eq!(
            status_phrase(&one),
            "running on w, attempt 2, suspect: nothing is heard of its worker"
        );
        assert!(task_table([&one]).to_string().contains("running, suspect"));
        one.suspect_time = None;
        one.set_status(Status::Succeeded);
        assert_eq!(status_phrase(&one), "succeeded, attempt 2");
        one.output = Some(Payload {
            content_type: "text/plain".to_owned(),
            data: "a\nb".into(),
            ..Payload::default()
        });
        let text = task(&one);
        assert!(text.ends_with("output      a\n            b"), "{text}");
    }

    #[test]
    fn a_task_that_waits_is_told_with_its_place_and_its_keys() {
        let mut one = Task {
            name: "namespaces/default/tasks/t".to_owned(),
            queue_position: 17,
            fairness_key: "tenant".to_owned(),
            concurrency_key: "device".to_owned(),
            ..Task::default()
        };
        one.set_status(Status::Queued);
        let text = task(&one);
        assert!(text.contains("in line     about number 17"), "{text}");
        assert!(
            text.contains("fair for    tenant\ntakes up    device"),
            "{text}"
        );
    }

    #[test]
    fn a_task_is_told_with_its_trace_and_where_it_failed() {
        let failure = Failure {
            r#type: "ValueError".to_owned(),
            message: "bad".to_owned(),
            location: "solver.py:step".to_owned(),
            ..Failure::default()
        };
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let one = Task {
            failure: Some(failure.clone()),
            attempts: vec![Attempt {
                number: 1,
                worker_id: "w".to_owned(),
                failure: Some(failure),
                ..Attempt::default()
            }],
            trace_context: Some(TraceContext {
                traceparent: format!("00-{trace}-00f067aa0ba902b7-01"),
                tracestate: String::new(),
            }),
            ..Task::default()
        };
        let text = task(&one);
        for line in [
            format!("trace       {trace}\n"),
            "attempt     1 on w: ValueError: bad (at solver.py:step)\n".to_owned(),
            "failure     ValueError: bad (at solver.py:step)".to_owned(),
        ] {
            assert!(text.contains(&line), "{text}");
        }
    }

    #[test]
    fn text_of_anybody_s_moves_no_cursor() {
        assert_eq!(plain("a\x1b[2J\tb\r\nc\u{9b}"), "a[2J\tb\nc");
        assert_eq!(one_line("  a\tb\nc", 9), "a b");
        assert_eq!(one_line("äöü", 2), "äö…");
        assert_eq!(one_line("", 2), "");
    }

    #[test]
    fn an_attempt_that_was_stopped_has_not_succeeded() {
        let mut attempt = Attempt {
            number: 1,
            worker_id: "w".to_owned(),
            end_time: Some(Timestamp::default()),
            ..Attempt::default()
        };
        let mut task = Task::default();
        task.set_status(Status::Cancelled);
        assert_eq!(attempt_line(&task, &attempt), "1 on w: stopped");
        task.set_status(Status::Succeeded);
        assert_eq!(attempt_line(&task, &attempt), "1 on w: succeeded");
        let mut stopped = Failure {
            message: "not needed".to_owned(),
            ..Failure::default()
        };
        stopped.set_category(Category::Cancelled);
        attempt.failure = Some(stopped);
        assert_eq!(attempt_line(&task, &attempt), "1 on w: stopped: not needed");
    }

    #[test]
    fn durations_have_one_unit() {
        for (seconds, text) in [
            (1, "1s"),
            (119, "119s"),
            (120, "2m"),
            (7_200, "2h"),
            (400_000, "4d"),
        ] {
            assert_eq!(rough(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn progress_is_a_number_from_0_to_1() {
        assert_eq!(fraction(&0.5.into()), Some(0.5));
        assert_eq!(fraction(&1.into()), Some(1.0));
        assert_eq!(fraction(&40.into()), None);
        assert_eq!(fraction(&"half".into()), None);
    }
}
