//! Every phase against every event: the table is the documentation (`docs/task-transitions.md`)
//! and the test. `UPDATE_DOCS=1 cargo test` writes it anew.

use std::fmt::Write;

use proptest::prelude::*;

use super::{
    AttemptEnd, Changed, Contribution, Event, Failure, Outcome, Phase, Policy, Status, Task,
    WriterMark, next,
};
use crate::domain::{Reason, id::Uid};

const NOW: i64 = 1_000_000;

fn policy() -> Policy {
    Policy {
        max_attempts: 2,
        lease_us: 8_000_000,
        retry_initial_us: 1_000_000,
        retry_max_us: 1_000_000,
        retention_us: 60_000_000,
        ..Policy::default()
    }
}

fn created(schedule_us: i64) -> Task {
    let task = Task {
        id: "t".into(),
        policy: policy(),
        schedule_us,
        ..Task::default()
    };
    task.begin(Uid(1), NOW)
}

fn lease() -> Event {
    Event::Lease {
        secret: 7,
        worker_id: "w".into(),
        instance: Uid(2),
        trace_context: None,
    }
}

fn finish(outcome: Outcome) -> Event {
    Event::Finish {
        fence: 1,
        secret: 7,
        outcome,
        marks: Vec::new(),
        marks_merged: false,
    }
}

fn succeeded() -> Outcome {
    Outcome::Succeeded {
        output: None,
        contributions: Vec::new(),
    }
}

fn failed(retryable: bool) -> Outcome {
    Outcome::Failed(Box::new(Failure {
        retryable,
        ..Failure::default()
    }))
}

fn contributing() -> Outcome {
    let contributions = vec![Contribution {
        state: "s".into(),
        ops: Vec::new(),
    }];
    Outcome::Succeeded {
        output: None,
        contributions,
    }
}

fn after(task: &Task, event: &Event) -> Task {
    match next(task, event, NOW, 0) {
        Ok(Changed::To(task)) => *task,
        other => panic!("{event:?} made {other:?}"),
    }
}

fn cancel() -> Event {
    Event::Cancel {
        reason: "enough".into(),
    }
}

/// Every phase there is, as a task in it.
fn phases() -> Vec<(&'static str, Task)> {
    let queued = created(0);
    let running = after(&queued, &lease());
    let mut last = running.clone();
    last.attempts_spent = 1;
    vec![
        ("SCHEDULED", created(2 * NOW)),
        ("QUEUED", queued.clone()),
        ("RUNNING", running.clone()),
        ("RUNNING, last attempt", last),
        ("RUNNING, cancel requested", after(&running, &cancel())),
        (
            "RUNNING, suspect",
            after(&running, &Event::Suspect { fence: 1 }),
        ),
        (
            "RUNNING, finishing",
            after(&running, &finish(contributing())),
        ),
        ("SUCCEEDED", after(&running, &finish(succeeded()))),
        ("FAILED", after(&running, &finish(failed(false)))),
        ("CANCELLED", after(&queued, &cancel())),
    ]
}

/// Every event there is, from the holder of the first lease.
fn events() -> Vec<(&'static str, Event)> {
    vec![
        ("time comes", Event::Due),
        ("leased", lease()),
        ("succeeds", finish(succeeded())),
        ("succeeds, contributes", finish(contributing())),
        ("fails, retryable", finish(failed(true))),
        ("fails for good", finish(failed(false))),
        ("stops", finish(Outcome::Cancelled)),
        (
            "all is merged",
            Event::Settle {
                flush_incomplete: false,
            },
        ),
        ("lease lost", Event::LeaseLost { fence: 1 }),
        ("lease not accepted", Event::LeaseUnaccepted { fence: 1 }),
        (
            "released",
            Event::Release {
                fence: 1,
                secret: 7,
            },
        ),
        ("worker not heard of", Event::Suspect { fence: 1 }),
        ("worker heard of again", Event::Trust { fence: 1 }),
        ("attempt too long", Event::AttemptTimeout { fence: 1 }),
        ("task too long", Event::TotalTimeout),
        ("cancel", cancel()),
    ]
}

fn outcome(task: &Task, event: &Event) -> String {
    match next(task, event, NOW, 0) {
        Ok(Changed::Not) => "·".into(),
        Err(error) => error.reason.as_str().into(),
        Ok(Changed::To(to)) => {
            let name = match (&to.phase, &to.cancel) {
                (Some(Phase::Finishing(_)), _) => "finishing".into(),
                (Some(Phase::Running(_)), _) if to.suspect_us != task.suspect_us => {
                    if to.suspect_us == 0 {
                        "trusted"
                    } else {
                        "suspect"
                    }
                    .into()
                }
                (Some(Phase::Running(_)), Some(_)) => "cancel requested".into(),
                _ => to.status().to_string(),
            };
            let spent = to.attempts_spent - task.attempts_spent;
            if spent > 0 {
                format!("{name} (+{spent})")
            } else {
                name
            }
        }
    }
}

fn table() -> String {
    let mut text = String::from(
        "# How a task changes\n\nWritten by the test beside `domain/task/transition.rs`; do not edit.\n\n\
         A dot: nothing changes. `(+1)`: an attempt is spent. A reason: the call is refused. The task\n\
         has two attempts.\n\n",
    );
    let phases = phases();
    let header: Vec<_> = phases.iter().map(|(name, _)| *name).collect();
    writeln!(text, "| | {} |", header.join(" | ")).unwrap();
    writeln!(text, "|---|{}", "---|".repeat(phases.len())).unwrap();
    for (name, event) in events() {
        let row: Vec<_> = phases
            .iter()
            .map(|(_, task)| outcome(task, &event))
            .collect();
        writeln!(text, "| {name} | {} |", row.join(" | ")).unwrap();
    }
    text
}

#[test]
fn the_table_of_transitions_is_the_documented_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/task-transitions.md");
    let found = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &found).unwrap();
    }
    let documented = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        found, documented,
        "run UPDATE_DOCS=1 cargo test and read the difference"
    );
}

#[test]
fn success_after_a_wish_to_stop_is_success_and_a_retryable_failure_is_the_stop() {
    let asked = after(&after(&created(0), &lease()), &cancel());
    assert_eq!(
        after(&asked, &finish(succeeded())).status(),
        Status::Succeeded
    );
    let stopped = after(&asked, &finish(failed(true)));
    assert_eq!(stopped.status(), Status::Cancelled);
    assert_eq!(
        after(&asked, &finish(failed(false))).status(),
        Status::Failed
    );
}

#[test]
fn a_token_whose_lease_was_lost_is_refused_and_one_that_finished_is_answered() {
    let running = after(&created(0), &lease());
    let lost = after(&running, &Event::LeaseLost { fence: 1 });
    assert_eq!(lost.attempts[0].end(), AttemptEnd::Lost);
    let refused = next(&lost, &finish(succeeded()), NOW, 0).unwrap_err();
    assert_eq!(refused.reason, Reason::LeaseLost);
    let retried = after(&running, &finish(failed(true)));
    assert_eq!(
        next(&retried, &finish(failed(true)), NOW, 0),
        Ok(Changed::Not)
    );
}

#[test]
fn a_mark_stands_until_the_worker_is_heard_of_or_the_attempt_ends() {
    let running = after(&created(0), &lease());
    let marked = after(&running, &Event::Suspect { fence: 1 });
    assert_eq!(marked.suspect_us, NOW);
    assert_eq!(after(&marked, &Event::Trust { fence: 1 }), running);
    let ends = [
        finish(succeeded()),
        finish(contributing()),
        finish(failed(true)),
        Event::LeaseLost { fence: 1 },
        Event::LeaseUnaccepted { fence: 1 },
        Event::Release {
            fence: 1,
            secret: 7,
        },
        Event::TotalTimeout,
    ];
    for event in ends {
        assert_eq!(after(&marked, &event).suspect_us, 0, "{event:?}");
    }
    let another = Event::Suspect { fence: 2 };
    assert_eq!(next(&running, &another, NOW, 0), Ok(Changed::Not));
}

#[test]
fn the_worker_s_wish_for_a_delay_is_kept_and_without_one_it_backs_off_with_jitter() {
    let mut running = after(&created(0), &lease());
    running.policy.max_attempts = 20;
    running.policy.retry_max_us = 100_000_000;
    let due = |task: &Task, retry_delay_us, random| {
        let failed = Failure {
            retryable: true,
            retry_delay_us,
            ..Failure::default()
        };
        let event = finish(Outcome::Failed(Box::new(failed)));
        match next(task, &event, NOW, random) {
            Ok(Changed::To(task)) => match task.phase {
                Some(Phase::Scheduled(scheduled)) => scheduled.due_us - NOW,
                _ => 0,
            },
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(due(&running, Some(7_000_000), 9), 7_000_000);
    assert_eq!(due(&running, Some(0), 9), 0);
    assert_eq!(due(&running, None, 0), 500_000);
    assert_eq!(due(&running, None, u64::MAX), 1_000_000);
    running.attempts_spent = 3;
    assert_eq!(due(&running, None, 0), 4_000_000);
    assert_eq!(due(&running, None, u64::MAX), 8_000_000);
}

#[test]
fn the_last_ten_attempts_are_kept() {
    let mut task = created(0);
    task.policy.max_attempts = 30;
    for fence in 1..=25 {
        task = after(&task, &lease());
        task = after(&task, &Event::LeaseLost { fence });
    }
    let numbers: Vec<_> = task.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, (16..=25).collect::<Vec<_>>());
}

#[test]
fn a_task_that_did_not_stop_within_its_grace_says_so() {
    let asked = after(&after(&created(0), &lease()), &cancel());
    let lost = |now| match next(&asked, &Event::LeaseLost { fence: 1 }, now, 0) {
        Ok(Changed::To(task)) => *task,
        other => panic!("{other:?}"),
    };
    let crashed = lost(NOW + 1);
    assert_eq!(crashed.status(), Status::Cancelled);
    let message = |task: &Task| task.last_failure().unwrap().message.clone();
    assert!(message(&crashed).contains("crashed"));
    let ignored = lost(NOW + 60_000_000);
    assert_eq!(ignored.status(), Status::Cancelled);
    assert!(message(&ignored).contains("did not end it within 60 s"));
}

#[test]
fn marks_that_are_not_merged_keep_the_task_finishing() {
    let running = after(&created(0), &lease());
    let marks = vec![WriterMark {
        state: "s".into(),
        sequence: 1,
        ..WriterMark::default()
    }];
    let event = |marks_merged| Event::Finish {
        fence: 1,
        secret: 7,
        outcome: succeeded(),
        marks: marks.clone(),
        marks_merged,
    };
    assert_eq!(after(&running, &event(true)).status(), Status::Succeeded);
    let finishing = after(&running, &event(false));
    assert_eq!(finishing.status(), Status::Running);
    let ended = after(
        &finishing,
        &Event::Settle {
            flush_incomplete: true,
        },
    );
    assert_eq!(
        (ended.status(), ended.flush_incomplete),
        (Status::Succeeded, true)
    );
}

proptest! {
    /// Whatever happens in whatever order, a terminal status stays, fences rise, and no more
    /// attempts are spent than there are.
    #[test]
    fn no_history_breaks_the_promises(choices in prop::collection::vec((0_usize..16, 0_u64..4), 0..60)) {
        let mut task = created(0);
        for (choice, fence) in choices {
            let mut event = events()[choice].1.clone();
            match &mut event {
                Event::Finish { fence: of, .. } | Event::LeaseLost { fence: of } | Event::LeaseUnaccepted { fence: of }
                | Event::Release { fence: of, .. } | Event::AttemptTimeout { fence: of }
                | Event::Suspect { fence: of } | Event::Trust { fence: of } => *of = fence,
                _ => {}
            }
            let Ok(Changed::To(to)) = next(&task, &event, NOW, 0) else { continue };
            prop_assert!(!task.status().is_terminal(), "{event:?} changed an ended task");
            prop_assert!(to.fence >= task.fence);
            prop_assert!(to.attempts_spent <= policy().max_attempts);
            prop_assert!(to.attempts.windows(2).all(|pair| pair[0].fence < pair[1].fence));
            prop_assert!(to.suspect_us == 0 || to.running().is_some(), "{event:?} left a mark");
            prop_assert_eq!(to.running().is_some(), matches!(to.phase, Some(Phase::Running(_))));
            task = *to;
        }
    }
}
