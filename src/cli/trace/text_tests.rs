//! Timelines as they are printed.

use std::time::Duration;

use super::*;
use crate::proto::v1::{Attempt, Failure, TraceContext, task::Status};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

fn ended() -> Task {
    let attempt = |number, start, end, failure| Attempt {
        number,
        worker_id: "w".to_owned(),
        start_time: at(start),
        end_time: at(end),
        failure,
        trace_context: None,
    };
    let failure = Failure {
        message: "bad\x1b[2J".to_owned(),
        ..Failure::default()
    };
    let mut task = Task {
        name: "namespaces/default/tasks/t".to_owned(),
        uid: Uuid::from_u128(7).to_string(),
        r#type: "mesh".to_owned(),
        queue: "default".to_owned(),
        create_time: at(1_000),
        end_time: at(1_010),
        attempt: 2,
        attempts: vec![
            attempt(1, 1_000, 1_002, Some(failure)),
            attempt(2, 1_005, 1_010, None),
        ],
        trace_context: Some(TraceContext {
            traceparent: format!("00-{TRACE}-00f067aa0ba902b7-01"),
            tracestate: String::new(),
        }),
        ..Task::default()
    };
    task.set_status(Status::Succeeded);
    task
}

fn printed(screen: Screen, task: &Task) -> String {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000);
    screen.task(task, None, Some((998, 0)), now)
}

#[test]
fn a_timeline_is_aligned_and_its_attempts_are_drawn_on_one_scale() {
    let screen = Screen {
        width: None,
        colours: false,
    };
    let text = printed(screen, &ended());
    let expected = "\
task        t
type        mesh on queue default
status      succeeded, attempt 2
trace       4bf92f3577b34da6a3ce929d0e0e4736
created by  span 00f067aa0ba902b7, its submitter's
submitted   1970-01-01T00:16:40Z, +2.00 s after the first

     AT     FOR  WHAT
     +0          submitted
     +0  0.0 ms  queued
     +0  2.00 s  attempt 1 leased by w
+2.00 s          attempt 1 failed: bad[2J
+2.00 s  3.00 s  pause and queue before the next attempt
+5.00 s  5.00 s  attempt 2 leased by w
+10.0 s          attempt 2 succeeded
+10.0 s  10.0 s  succeeded
";
    let (head, chart) = text.split_at(expected.len());
    assert_eq!(head, expected);
    let marks = |text: &str, mark| text.chars().filter(|&char| char == mark).count();
    let lines: Vec<_> = chart.trim_start().lines().collect();
    let [first, second] = lines[..] else {
        panic!("two attempts, two bars: {chart}")
    };
    assert!(first.starts_with("attempt 1  █") && first.ends_with("  2.00 s"));
    assert!(second.ends_with("█  5.00 s"), "{chart}");
    // Of 77 columns a fifth, three tenths and a half.
    assert_eq!((marks(first, '·'), marks(first, '█')), (0, 15));
    assert_eq!((marks(second, '·'), marks(second, '█')), (23, 39));
}

#[test]
fn a_terminal_has_colours_and_no_line_is_wider_than_it() {
    let colours = Screen {
        width: Some(60),
        colours: true,
    };
    let text = printed(colours, &ended());
    assert!(text.contains("\x1b[31mattempt 1 failed"), "{text:?}");
    for line in text.lines() {
        assert!(console::measure_text_width(line) <= 60, "{line:?}");
    }
    assert!(text.contains('█'));
    let narrow = Screen {
        width: Some(20),
        colours: false,
    };
    assert!(!printed(narrow, &ended()).contains('█'));
}

#[test]
fn a_task_says_whose_span_created_it_or_that_it_has_no_trace() {
    let screen = Screen {
        width: None,
        colours: false,
    };
    let mut task = ended();
    let own = TaskSpan::Create.id(Uid(7));
    task.trace_context = Some(TraceContext {
        traceparent: format!("00-{TRACE}-{own:016x}-00"),
        tracestate: String::new(),
    });
    let text = printed(screen, &task);
    assert!(
        text.contains(&format!("trace       {TRACE}, not sampled")),
        "{text}"
    );
    assert!(text.contains("the server's own"), "{text}");
    task.trace_context = None;
    let text = printed(screen, &task);
    assert!(
        text.contains("trace       none came with the task"),
        "{text}"
    );
}
