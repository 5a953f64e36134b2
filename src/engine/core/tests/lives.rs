//! An id that is used again: what was timed for the task of before does not hit the one of now.

use super::*;
use crate::domain::task::{Event, Failure, Outcome};

const SECOND: Duration = Duration::from_secs(1);
const DAY_US: u64 = 86_400_000_000;

impl Bench {
    fn begin(&mut self, uid: u128, policy: Policy) {
        let task = Task {
            id: "t".into(),
            queue: "q".into(),
            policy: Policy {
                max_attempts: 3,
                lease_us: 8_000_000,
                retention_us: DAY_US,
                ..policy
            },
            ..Task::default()
        };
        let task = task.begin(Uid(uid), self.now.wall_us);
        self.change(TaskOpKind::Create(Box::new(task.into())));
    }

    fn change(&mut self, kind: TaskOpKind) {
        let id = TaskId::trusted("t");
        self.command(Command::Tasks {
            ops: vec![Ok(TaskOp { id, kind })],
            reply: oneshot::channel().0,
        });
        self.settle();
    }

    fn stop(&mut self) {
        let reason = String::new();
        self.change(TaskOpKind::Event(Event::Cancel { reason }));
    }

    fn fail_for(&mut self, token: &LeaseToken, pause: Duration) {
        let failure = Failure {
            retryable: true,
            retry_delay_us: Some(u64::try_from(pause.as_micros()).unwrap()),
            ..Failure::default()
        };
        self.change(TaskOpKind::Event(Event::Finish {
            fence: token.fence,
            secret: token.secret,
            outcome: Outcome::Failed(Box::new(failure)),
            marks: Vec::new(),
            marks_merged: true,
        }));
    }

    /// As a removal by count does.
    fn remove(&mut self) {
        let removal = Work::Remove(TaskId::trusted("t"));
        self.core.removals.push_back(removal);
        self.settle();
        assert!(!self.has_task());
    }

    fn has_task(&self) -> bool {
        let mirror = self.core.shared.mirror.read();
        mirror.tasks.get(&TaskId::trusted("t")).is_some()
    }

    fn spend(&mut self, time: Duration, token: Option<&LeaseToken>) {
        for _ in 0..time.as_secs() {
            self.pass(SECOND);
            self.settle();
            if let Some(token) = token {
                self.renew(token);
            }
        }
    }
}

#[test]
fn the_total_timeout_of_a_task_that_is_gone_fails_no_other() {
    let policy = || Policy {
        total_timeout_us: 60_000_000,
        ..Policy::default()
    };
    let mut bench = Bench::new();
    bench.begin(2, policy());
    bench.stop();
    bench.remove();
    bench.spend(30 * SECOND, None);
    bench.begin(3, policy());
    bench.spend(59 * SECOND, None);
    assert_eq!(bench.status(), Status::Queued);
    bench.spend(2 * SECOND, None);
    assert_eq!(bench.status(), Status::Failed);
}

#[test]
fn the_attempt_timeout_of_a_task_that_is_gone_ends_no_attempt_of_another() {
    let policy = || Policy {
        attempt_timeout_us: 60_000_000,
        ..Policy::default()
    };
    let mut bench = Bench::new();
    bench.begin(2, policy());
    let before = bench.take(8 * SECOND);
    bench.change(TaskOpKind::Event(Event::Finish {
        fence: before.fence,
        secret: before.secret,
        outcome: Outcome::Cancelled,
        marks: Vec::new(),
        marks_merged: true,
    }));
    bench.remove();
    bench.spend(30 * SECOND, None);
    bench.begin(3, policy());
    let token = bench.take(8 * SECOND);
    assert_eq!(token.fence, before.fence);
    bench.spend(59 * SECOND, Some(&token));
    assert_eq!(bench.status(), Status::Running);
    bench.spend(2 * SECOND, Some(&token));
    assert_ne!(bench.status(), Status::Running);
}

#[test]
fn the_pause_of_a_task_that_is_gone_ends_no_pause_of_another() {
    let mut bench = Bench::new();
    bench.begin(2, Policy::default());
    let token = bench.take(8 * SECOND);
    bench.fail_for(&token, 60 * SECOND);
    assert_eq!(bench.status(), Status::Scheduled);
    bench.stop();
    bench.remove();
    bench.spend(30 * SECOND, None);
    bench.begin(3, Policy::default());
    let token = bench.take(8 * SECOND);
    bench.fail_for(&token, 60 * SECOND);
    bench.spend(59 * SECOND, None);
    assert_eq!(bench.status(), Status::Scheduled);
    bench.spend(2 * SECOND, None);
    assert_eq!(bench.status(), Status::Queued);
}

#[test]
fn the_retention_of_a_task_that_is_gone_removes_no_other_early_though_the_clock_is_put() {
    let mut bench = Bench::new();
    bench.begin(2, Policy::default());
    bench.stop();
    bench.remove();
    bench.pass(3_600 * SECOND);
    bench.begin(3, Policy::default());
    bench.stop();
    bench.now.wall_us += 2 * i64::try_from(DAY_US).unwrap();
    bench.pass(82_801 * SECOND);
    bench.settle();
    bench.settle();
    assert!(bench.has_task());
    bench.pass(3_600 * SECOND);
    bench.settle();
    bench.settle();
    assert!(!bench.has_task());
}

#[test]
fn a_clock_put_forward_takes_no_protection_from_a_task_that_has_ended() {
    let protected = || Policy {
        least_retention_us: DAY_US,
        ..Policy::default()
    };
    let mut bench = Bench::keeping(1);
    bench.begin(2, protected());
    bench.stop();
    bench.now.wall_us += 2 * i64::try_from(DAY_US).unwrap();
    // So many that it is too many as soon as it counts.
    for number in 0..3 {
        bench.pass(SECOND);
        let task = Task {
            id: format!("other-{number}"),
            queue: "q".into(),
            policy: Policy {
                retention_us: 10 * DAY_US,
                ..Policy::default()
            },
            ..Task::default()
        };
        let task = task.begin(Uid(10 + number), bench.now.wall_us);
        let id = TaskId::trusted(&task.id);
        let kinds = [
            TaskOpKind::Create(Box::new(task.into())),
            TaskOpKind::Event(Event::Cancel {
                reason: String::new(),
            }),
        ];
        for kind in kinds {
            let id = id.clone();
            bench.command(Command::Tasks {
                ops: vec![Ok(TaskOp { id, kind })],
                reply: oneshot::channel().0,
            });
            bench.settle();
        }
    }
    bench.spend(20 * SECOND, None);
    assert!(bench.has_task());
    assert_eq!(bench.core.ended.len(), 2);
    bench.pass(86_400 * SECOND);
    bench.settle();
    bench.settle();
    assert!(!bench.has_task());
}
