//! Timelines of records as the server gives them.

use super::*;

const SUBMITTED: i64 = 1_000;

fn at(millis: i64) -> Option<Timestamp> {
    Some(Timestamp {
        seconds: SUBMITTED + millis.div_euclid(1_000),
        nanos: i32::try_from(millis.rem_euclid(1_000)).unwrap() * 1_000_000,
    })
}

fn task(status: Status) -> Task {
    let mut task = Task {
        name: "namespaces/default/tasks/t".to_owned(),
        create_time: at(0),
        ..Task::default()
    };
    task.set_status(status);
    task
}

fn attempt(number: i32, start: i64, end: Option<i64>, failure: Option<Failure>) -> Attempt {
    Attempt {
        number,
        worker_id: "w".to_owned(),
        start_time: at(start),
        end_time: end.and_then(at),
        failure,
        trace_context: None,
    }
}

fn failure(category: Category, message: &str) -> Failure {
    let mut failure = Failure {
        message: message.to_owned(),
        ..Failure::default()
    };
    failure.set_category(category);
    failure
}

/// Each event as `at|for|what`, at `now` milliseconds after the submission.
fn told(task: &Task, progress: Option<&Progress>, now: i64) -> Vec<String> {
    let clock = Clock::of(task, (SUBMITTED * 1_000 + now) * 1_000);
    let events = events(task, progress, clock).into_iter();
    let line = |event: Event| {
        let time = |time: Option<i64>| time.map_or_else(String::new, exact);
        format!("{}|{}|{}", time(event.at), time(event.took), event.what)
    };
    events.map(line).collect()
}

#[test]
fn a_task_that_failed_once_is_told_from_its_submission_to_its_end() {
    let mut bad = failure(Category::Application, "bad input\nsecond line");
    bad.r#type = "ValueError".to_owned();
    bad.location = "solver.py:step".to_owned();
    let mut one = task(Status::Succeeded);
    one.attempts = vec![
        attempt(1, 120, Some(1_320), Some(bad.clone())),
        attempt(2, 2_400, Some(12_400), None),
    ];
    one.failure = Some(bad);
    one.end_time = at(12_450);
    assert_eq!(
        told(&one, None, 99_999),
        [
            "0.0 ms||submitted",
            "0.0 ms|120 ms|queued",
            "120 ms|1.20 s|attempt 1 leased by w",
            "1.32 s||attempt 1 failed: ValueError: bad input",
            "1.32 s|1.08 s|pause and queue before the next attempt",
            "2.40 s|10.0 s|attempt 2 leased by w",
            "12.4 s||attempt 2 succeeded",
            "12.4 s|12.4 s|succeeded",
        ]
    );
}

#[test]
fn a_task_that_waits_is_told_with_what_it_waits_for() {
    let mut one = task(Status::Scheduled);
    one.schedule_time = at(60_000);
    assert_eq!(
        told(&one, None, 20_000),
        [
            "0.0 ms||submitted",
            "0.0 ms|20.0 s|scheduled until +60.0 s, in 40.0 s"
        ]
    );
    one.set_status(Status::Queued);
    one.queue_position = 3;
    assert_eq!(
        told(&one, None, 61_000),
        [
            "0.0 ms||submitted",
            "0.0 ms|60.0 s|scheduled until +60.0 s",
            "60.0 s|1.00 s|queued, about number 3 in line",
        ]
    );
    one.set_status(Status::Cancelled);
    one.end_time = at(5_000);
    one.cancel_requested = true;
    assert_eq!(
        told(&one, None, 99_000),
        [
            "0.0 ms||submitted",
            "0.0 ms|5.00 s|scheduled until +60.0 s",
            "5.00 s|5.00 s|cancelled",
            "||asked to stop; when is not kept",
        ]
    );
}

#[test]
fn a_pause_before_a_retry_is_told_with_what_is_left_of_it() {
    let mut one = task(Status::Scheduled);
    one.schedule_time = at(9_000);
    let lost = failure(Category::LeaseLost, "the worker vanished");
    one.attempts = vec![attempt(1, 0, Some(4_000), Some(lost))];
    let lines = told(&one, None, 5_000);
    assert_eq!(
        lines[2..],
        [
            "0.0 ms|4.00 s|attempt 1 leased by w",
            "4.00 s||attempt 1 lost its lease: the worker vanished",
            "4.00 s|1.00 s|pause until +9.00 s, the next attempt is due in 4.00 s",
        ]
    );
    assert_eq!(lines[1], "0.0 ms|0.0 ms|queued");
    one.set_status(Status::Queued);
    one.schedule_time = None;
    let lines = told(&one, None, 10_000);
    assert_eq!(
        lines.last().unwrap(),
        "4.00 s|6.00 s|pause, then queued for the next attempt"
    );
}

#[test]
fn a_running_attempt_is_told_with_its_suspicion_and_its_progress() {
    let mut one = task(Status::Running);
    one.attempts = vec![attempt(1, 500, None, None)];
    one.suspect_time = at(7_000);
    let mut progress = Progress {
        text: "progress=0.5".to_owned(),
        time: at(6_000),
    };
    assert_eq!(
        told(&one, Some(&progress), 8_000)[2..],
        [
            "500 ms|7.50 s|attempt 1 leased by w, runs",
            "6.00 s|2.00 s|last progress: progress=0.5",
            "7.00 s|1.00 s|suspect: nothing is heard of its worker",
        ]
    );
    // A clock here that is behind the server's makes nothing negative.
    assert_eq!(
        told(&one, None, -50_000)[2],
        "500 ms|6.50 s|attempt 1 leased by w, runs"
    );
    progress.time = None;
    let lines = told(&one, Some(&progress), 8_000);
    assert_eq!(lines.last().unwrap(), "||last progress: progress=0.5");
}

#[test]
fn what_ended_the_task_as_a_whole_is_told_at_its_end() {
    let mut one = task(Status::Failed);
    one.end_time = at(3_000);
    one.failure = Some(failure(Category::Timeout, "total_timeout is over"));
    assert_eq!(
        told(&one, None, 9_000).last().unwrap(),
        "3.00 s|3.00 s|failed: total_timeout is over"
    );
    let mut late = one.clone();
    late.attempts = vec![attempt(1, 0, Some(3_000), one.failure.clone())];
    let lines = told(&late, None, 9_000);
    assert_eq!(
        lines[3..],
        [
            "3.00 s||attempt 1 timed out: total_timeout is over",
            "3.00 s|3.00 s|failed",
        ]
    );
}

#[test]
fn attempts_that_are_not_kept_are_said_to_be_missing() {
    let mut one = task(Status::Running);
    one.attempts = vec![attempt(4, 10_000, None, None)];
    let lines = told(&one, None, 20_000);
    assert_eq!(
        lines,
        [
            "0.0 ms||submitted",
            "10.0 s||attempts 1 to 3 are not kept any more",
            "10.0 s|10.0 s|attempt 4 leased by w, runs",
        ]
    );
}

#[test]
fn durations_have_three_or_four_figures() {
    for (micros, text) in [
        (-5, "0.0 ms"),
        (1_234, "1.2 ms"),
        (12_345, "12 ms"),
        (1_234_567, "1.23 s"),
        (12_345_678, "12.3 s"),
        (200_000_000, "3m 20s"),
        (7_500_000_000, "2h 05m"),
        (180_000_000_000, "2d 02h"),
    ] {
        assert_eq!(exact(micros), text);
    }
}
