//! A wall clock that is put a day forward or back while everything runs.

use super::*;
use crate::domain::{
    state::StateDelta,
    task::{Event, Failure, Outcome},
};

const SECOND: Duration = Duration::from_secs(1);
const DAY_US: i64 = 86_400_000_000;
const JUMPS: [i64; 2] = [DAY_US, -DAY_US];

impl Bench {
    /// Late enough that the clock can be put back.
    pub(super) fn at_noon() -> Self {
        let mut bench = Self::new();
        bench.now.wall_us = 20_000 * DAY_US;
        // The core starts with this clock.
        bench.core = Core::new(bench.core.shared.clone(), bench.now, 7);
        bench
    }

    pub(super) fn put_wall(&mut self, by_us: i64) {
        self.now.wall_us += by_us;
    }

    /// Settles second by second, and renews what is named.
    fn run(&mut self, seconds: u64, token: Option<&LeaseToken>) {
        for _ in 0..seconds {
            self.pass(SECOND);
            self.settle();
            if let Some(token) = token {
                self.renew(token);
            }
        }
    }

    pub(super) fn create(&mut self, policy: Policy, schedule_us: i64) {
        let task = Task {
            id: "t".into(),
            queue: "q".into(),
            policy,
            schedule_us,
            ..Task::default()
        };
        let op = TaskOp {
            id: TaskId::trusted("t"),
            kind: TaskOpKind::Create(Box::new(task.begin(Uid(2), self.now.wall_us).into())),
        };
        self.tasks(op);
    }

    fn tasks(&mut self, op: TaskOp) {
        self.command(Command::Tasks {
            ops: vec![Ok(op)],
            reply: oneshot::channel().0,
        });
        self.settle();
    }

    fn end(&mut self, token: &LeaseToken, outcome: Outcome) {
        let event = Event::Finish {
            fence: token.fence,
            secret: token.secret,
            outcome,
            marks: Vec::new(),
            marks_merged: true,
        };
        self.tasks(TaskOp {
            id: TaskId::trusted("t"),
            kind: TaskOpKind::Event(event),
        });
    }

    fn is_there(&self) -> bool {
        self.core
            .shared
            .mirror
            .read()
            .tasks
            .get(&TaskId::trusted("t"))
            .is_some()
    }
}

#[test]
fn a_lease_holds_and_runs_out_as_if_nobody_had_put_the_clock() {
    for jump in JUMPS {
        let mut bench = Bench::at_noon();
        let token = bench.leased(8 * SECOND);
        bench.put_wall(jump);
        bench.run(60, Some(&token));
        assert_eq!(bench.status(), Status::Running, "{jump}");
        bench.run(9, None);
        assert_eq!(bench.status(), Status::Queued, "{jump}");
    }
}

#[test]
fn timeouts_of_attempts_and_tasks_are_neither_early_nor_late() {
    for jump in JUMPS {
        for (attempt, total) in [(900, 0), (0, 900)] {
            let mut bench = Bench::at_noon();
            let policy = Policy {
                max_attempts: 1,
                lease_us: 8_000_000,
                retention_us: DAY_US as u64,
                attempt_timeout_us: attempt * 1_000_000,
                total_timeout_us: total * 1_000_000,
                ..Policy::default()
            };
            bench.create(policy, 0);
            let token = bench.take(8 * SECOND);
            bench.run(10, Some(&token));
            bench.put_wall(jump);
            // Beyond the time at which every timer is looked at again.
            bench.run(880, Some(&token));
            assert_eq!(bench.status(), Status::Running, "{jump} {attempt}");
            bench.run(15, Some(&token));
            assert_eq!(bench.status(), Status::Failed, "{jump} {attempt}");
        }
    }
}

#[test]
fn the_pause_before_another_attempt_lasts_as_long_as_it_should() {
    for jump in JUMPS {
        let mut bench = Bench::at_noon();
        let token = bench.leased(8 * SECOND);
        let failure = Failure {
            retryable: true,
            retry_delay_us: Some(30_000_000),
            ..Failure::default()
        };
        bench.end(&token, Outcome::Failed(Box::new(failure)));
        assert_eq!(bench.status(), Status::Scheduled);
        bench.run(5, None);
        bench.put_wall(jump);
        bench.run(20, None);
        assert_eq!(bench.status(), Status::Scheduled, "{jump}");
        bench.run(6, None);
        assert_eq!(bench.status(), Status::Queued, "{jump}");
    }
}

#[test]
fn a_start_with_the_clock_put_back_lets_no_pause_last_longer() {
    let mut bench = Bench::at_noon();
    let token = bench.leased(8 * SECOND);
    let failure = Failure {
        retryable: true,
        retry_delay_us: Some(30_000_000),
        ..Failure::default()
    };
    bench.end(&token, Outcome::Failed(Box::new(failure)));
    bench.put_wall(-DAY_US);
    bench.core = Core::new(bench.core.shared.clone(), bench.now, 7);
    bench.run(31, None);
    assert_eq!(bench.status(), Status::Queued);
}

#[test]
fn a_task_scheduled_for_a_time_begins_when_the_wall_says_so() {
    let hour = 3_600_000_000;
    let mut bench = Bench::at_noon();
    bench.create(Policy::default(), bench.now.wall_us + hour);
    bench.run(10, None);
    assert_eq!(bench.status(), Status::Scheduled);
    bench.put_wall(DAY_US);
    bench.run(6, None);
    assert_eq!(bench.status(), Status::Queued);

    let mut bench = Bench::at_noon();
    let due_us = bench.now.wall_us + 60_000_000;
    bench.create(Policy::default(), due_us);
    bench.put_wall(-hour);
    bench.run(3_650, None);
    assert_eq!(bench.status(), Status::Scheduled);
    bench.run(15, None);
    assert!(bench.now.wall_us >= due_us);
    assert_eq!(bench.status(), Status::Queued);
}

#[test]
fn a_clock_put_forward_removes_no_ended_task_early() {
    let mut bench = Bench::at_noon();
    let token = bench.leased(8 * SECOND);
    let outcome = Outcome::Succeeded {
        output: None,
        contributions: Vec::new(),
    };
    bench.end(&token, outcome);
    assert_eq!(bench.status(), Status::Succeeded);
    bench.put_wall(2 * DAY_US);
    bench.run(60, None);
    assert!(bench.is_there());
    bench.pass(Duration::from_secs(86_400));
    bench.settle();
    bench.settle();
    assert!(!bench.is_there());
}

#[test]
fn a_clock_put_forward_deletes_no_state_early() {
    let mut bench = Bench::at_noon();
    let (reply, _answer) = oneshot::channel();
    bench.command(Command::StateSettings {
        state: StateId::trusted("s"),
        settings: Settings {
            retention_us: 3_600_000_000,
            ..Settings::default()
        },
        reply,
    });
    let made = bench.settle();
    assert!(matches!(
        made.as_slice(),
        [Entry::StateDelta(StateDelta { .. })]
    ));
    let alive = |bench: &Bench| {
        let mirror = bench.core.shared.mirror.read();
        let slot = mirror.states.get(&StateId::trusted("s"));
        slot.is_some_and(|slot| slot.state.alive())
    };
    bench.put_wall(DAY_US);
    bench.run(600, None);
    assert!(alive(&bench));
    bench.run(3_100, None);
    assert!(!alive(&bench));
}

/// What is refused while the disk is nearly full, and what goes on.
#[test]
fn while_the_disk_is_nearly_full_what_adds_is_refused_and_what_ends_goes_on() {
    let mut bench = Bench::at_noon();
    let token = bench.leased(8 * SECOND);
    bench.core.set_shortage(Some("nearly full".into()));
    let (reply, mut created) = oneshot::channel();
    let task = Task {
        id: "another".into(),
        queue: "q".into(),
        ..Task::default()
    };
    let op = || TaskOp {
        id: TaskId::trusted("another"),
        kind: TaskOpKind::Create(Box::new(task.clone().begin(Uid(9), 1).into())),
    };
    bench.command(Command::Tasks {
        ops: vec![Ok(op())],
        reply,
    });
    assert!(bench.settle().is_empty());
    let refused = created.try_recv().unwrap().unwrap().remove(0).unwrap_err();
    assert_eq!(refused.reason, Reason::StorageFull);
    let (reply, mut set) = oneshot::channel();
    bench.command(Command::StateSettings {
        state: StateId::trusted("s"),
        settings: Settings::default(),
        reply,
    });
    assert!(bench.settle().is_empty());
    let refused = set.try_recv().unwrap().unwrap_err();
    assert_eq!(refused.reason, Reason::StorageFull);

    assert_eq!(bench.renew(&token), LeaseStatus::Held(8 * SECOND));
    bench.end(&token, Outcome::Cancelled);
    assert_eq!(bench.status(), Status::Cancelled);
    // Retention makes room.
    bench.pass(Duration::from_secs(86_401));
    bench.settle();
    bench.settle();
    assert!(!bench.is_there());

    bench.core.set_shortage(None);
    bench.tasks(op());
    let mirror = bench.core.shared.mirror.read();
    assert!(mirror.tasks.get(&TaskId::trusted("another")).is_some());
}

#[test]
fn a_full_disk_answers_with_its_own_reason_and_own_work_is_tried_again() {
    let mut bench = Bench::at_noon();
    let token = bench.leased(8 * SECOND);
    bench.pass(9 * SECOND);
    // The lease runs out, and the journal has no room for it.
    while let Some(_group) = bench.core.plan(bench.now) {
        bench
            .core
            .failed(&AppendError::Full("full".into()), bench.now);
    }
    assert_eq!(bench.status(), Status::Running);
    let mut answer = bench.send_renewal(&token);
    bench.pass(SECOND);
    bench.settle();
    assert_eq!(bench.status(), Status::Queued);
    assert_eq!(answer.try_recv().unwrap().unwrap(), [LeaseStatus::Lost]);
}
