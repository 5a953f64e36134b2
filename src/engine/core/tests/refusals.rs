//! A journal that refuses what it is given, for however long.

use super::*;
use crate::domain::task::Event;

const PAUSE: Duration = Duration::from_millis(500);
const MANY: usize = 9_000;

impl Bench {
    fn call(&mut self, ops: Vec<TaskOp>) -> TaskAnswer {
        let (reply, answer) = oneshot::channel();
        let ops = ops.into_iter().map(Ok).collect();
        self.command(Command::Tasks { ops, reply });
        answer
    }

    /// Plans, and the journal takes what `takes` says.
    fn rounds(&mut self, takes: impl Fn(&[Draft]) -> bool) {
        while let Some(drafts) = self.core.plan(self.now) {
            if takes(&drafts) {
                self.commit(drafts);
            } else {
                let error = AppendError::Full("full".into());
                self.core.failed(&error, self.now);
            }
        }
    }

    fn count(&self) -> usize {
        self.core.shared.mirror.read().tasks.live_len()
    }
}

type TaskAnswer = oneshot::Receiver<Result<Vec<Result<Arc<TaskRow>, Error>>, Error>>;

fn create(id: &str, now: Now, delay: Duration) -> TaskOp {
    let policy = Policy {
        max_attempts: 3,
        lease_us: 8_000_000,
        retention_us: 60_000_000,
        ..Policy::default()
    };
    let delay = i64::try_from(delay.as_micros()).unwrap();
    let task = Task {
        id: id.into(),
        queue: "q".into(),
        policy,
        schedule_us: if delay > 0 { now.wall_us + delay } else { 0 },
        ..Task::default()
    };
    let task = task.begin(Uid(u128::from(fastrand::u64(..))), now.wall_us);
    TaskOp {
        id: TaskId::trusted(id),
        kind: TaskOpKind::Create(Box::new(task.into())),
    }
}

fn cancel(id: &str) -> TaskOp {
    TaskOp {
        id: TaskId::trusted(id),
        kind: TaskOpKind::Event(Event::Cancel {
            reason: String::new(),
        }),
    }
}

/// Many tasks whose retention is over, and as many scheduled ones that are due.
fn crowded() -> Bench {
    let mut bench = Bench::new();
    for number in 0..MANY {
        let ended = format!("e{number}");
        bench.call(vec![create(&ended, bench.now, Duration::ZERO)]);
        bench.call(vec![create(
            &format!("s{number}"),
            bench.now,
            Duration::from_secs(60),
        )]);
        if number % 1_000 == 999 {
            bench.settle();
        }
    }
    for number in 0..MANY {
        bench.call(vec![cancel(&format!("e{number}"))]);
    }
    bench.settle();
    assert_eq!(bench.count(), 2 * MANY);
    bench
}

#[test]
fn callers_are_heard_and_answered_however_much_of_its_own_the_monitor_has_to_try_again() {
    let mut bench = crowded();
    bench.pass(Duration::from_secs(60));
    for _ in 0..30 {
        bench.rounds(|_| false);
        bench.pass(PAUSE);
    }
    assert!(!bench.core.is_full());
    bench.core.set_shortage(Some("nearly full".into()));
    let mut created = bench.call(vec![create("new", bench.now, Duration::ZERO)]);
    let (reply, mut renewed) = oneshot::channel();
    bench.command(Command::Renew(
        RenewRequest {
            tokens: Vec::new(),
            worker_id: "w".into(),
            instance: Uid(3),
        },
        reply,
    ));
    bench.rounds(|_| false);
    let refused = created.try_recv().unwrap().unwrap().remove(0).unwrap_err();
    assert_eq!(refused.reason, Reason::StorageFull);
    assert!(renewed.try_recv().unwrap().is_err());
    // All of it is done when the journal takes it again.
    bench.core.set_shortage(None);
    bench.pass(PAUSE);
    bench.settle();
    assert_eq!(bench.count(), MANY);
    assert_eq!(bench.core.shared.ready.lock().waiting(), MANY);
}

#[test]
fn a_journal_that_takes_only_what_removes_gets_smaller_by_itself() {
    let mut bench = crowded();
    let (reply, _answer) = oneshot::channel();
    let state = StateId::trusted("s");
    bench.command(Command::StateSettings {
        state: state.clone(),
        settings: Settings::default(),
        reply,
    });
    bench.settle();
    bench.pass(Duration::from_secs(60));
    bench.core.set_shortage(Some("nearly full".into()));
    let removes = |drafts: &[Draft]| {
        drafts.iter().all(|draft| match &draft.entry {
            Entry::TaskRemoved(_) | Entry::Horizon(_) => true,
            Entry::StateSnapshot(snapshot) => !snapshot.alive,
            _ => false,
        })
    };
    bench.rounds(removes);
    assert_eq!(bench.count(), MANY);
    // What callers want to have deleted goes the same way.
    let (reply, mut deleted) = oneshot::channel();
    bench.command(Command::DeleteState {
        state,
        uid: None,
        reply,
    });
    bench.rounds(removes);
    assert!(deleted.try_recv().unwrap().is_ok());
    assert!(bench.core.shared.ready.lock().waiting() == 0);
    bench.core.set_shortage(None);
    bench.pass(PAUSE);
    bench.settle();
    assert_eq!(bench.core.shared.ready.lock().waiting(), MANY);
}

#[test]
fn workers_that_ask_while_the_journal_is_short_of_room_are_answered_empty_and_forgotten() {
    let mut bench = Bench::new();
    bench.call(vec![create("t", bench.now, Duration::ZERO)]);
    bench.settle();
    bench.core.set_shortage(Some("nearly full".into()));
    let ask = |bench: &mut Bench, wait| {
        let (reply, answer) = oneshot::channel();
        let request = LeaseRequest {
            queues: vec!["q".into()],
            task_types: Vec::new(),
            max_tasks: 1,
            wait,
            worker_id: "w".into(),
            instance: Uid(3),
        };
        bench.command(Command::Lease(request, reply));
        answer
    };
    let mut patient = ask(&mut bench, Duration::from_secs(20));
    let gone = ask(&mut bench, Duration::from_secs(20));
    let mut hasty = ask(&mut bench, Duration::ZERO);
    drop(gone);
    bench.settle();
    bench.pass(Duration::from_millis(1));
    bench.settle();
    assert!(hasty.try_recv().unwrap().unwrap().is_empty());
    assert_eq!(bench.core.polls.len(), 1);
    // Nobody turns in circles meanwhile.
    assert!(bench.core.next_deadline().unwrap() >= bench.now.mono + Duration::from_secs(1));
    bench.pass(Duration::from_secs(20));
    bench.settle();
    assert!(patient.try_recv().unwrap().unwrap().is_empty());
    let mut served = ask(&mut bench, Duration::from_secs(20));
    bench.settle();
    bench.core.set_shortage(None);
    bench.settle();
    assert_eq!(served.try_recv().unwrap().unwrap().len(), 1);
}

#[test]
fn many_tasks_that_a_put_clock_makes_due_at_once_become_ready_a_group_at_a_time() {
    let mut bench = crowded();
    bench.call(vec![cancel("s0")]);
    bench.settle();
    assert_eq!(bench.core.scheduled.len(), MANY - 1);
    let due = bench.core.next_deadline().unwrap();
    assert!(due <= bench.now.mono + Duration::from_secs(60));
    bench.now.wall_us += 60_000_000;
    let mut groups = 0;
    while let Some(group) = bench.round() {
        assert!(group.len() <= 1_024);
        groups += 1;
    }
    assert!(groups >= MANY / 1_024);
    assert!(bench.core.scheduled.is_empty());
    assert_eq!(bench.core.shared.ready.lock().waiting(), MANY - 1);
}

#[test]
fn a_journal_that_refuses_even_removals_is_asked_twice_a_second() {
    let mut bench = crowded();
    bench.pass(Duration::from_secs(60));
    let asked = std::cell::Cell::new(0);
    for _ in 0..4 {
        bench.rounds(|_| {
            asked.set(asked.get() + 1);
            false
        });
        assert_eq!(bench.core.next_deadline(), Some(bench.now.mono + PAUSE));
        bench.pass(PAUSE);
    }
    // With all, and with what removes.
    assert_eq!(asked.get(), 8);
}
