//! Suspicion and cancel, by the monitor's own clock.

use super::*;
use crate::domain::task::Event;

const LEASE: Duration = Duration::from_secs(8);

impl Bench {
    fn is_suspect(&self) -> bool {
        let mirror = self.core.shared.mirror.read();
        mirror
            .tasks
            .get(&TaskId::trusted("t"))
            .unwrap()
            .task
            .suspect_us
            != 0
    }

    fn attempt(&self) -> u32 {
        let mirror = self.core.shared.mirror.read();
        let attempts = &mirror
            .tasks
            .get(&TaskId::trusted("t"))
            .unwrap()
            .task
            .attempts;
        attempts.last().unwrap().number
    }

    /// Time passes as it does for a monitor that is woken by its timers.
    pub(super) fn live(&mut self, time: Duration) {
        let until = self.now.mono + time;
        while self.now.mono < until {
            let next = self.core.next_deadline().unwrap_or(until);
            let step = next.saturating_sub(self.now.mono);
            self.pass(step.clamp(Duration::from_millis(1), until - self.now.mono));
            self.settle();
        }
    }

    fn presence(&self) -> &Presence {
        &self.core.shared.presence
    }

    pub(super) fn ask_to_stop(&mut self) {
        let op = TaskOp {
            id: TaskId::trusted("t"),
            kind: TaskOpKind::Event(Event::Cancel {
                reason: String::new(),
            }),
        };
        self.command(Command::Tasks {
            ops: vec![Ok(op)],
            reply: oneshot::channel().0,
        });
        self.settle();
    }
}

#[test]
fn an_attempt_whose_renewal_is_overdue_is_suspect_until_the_next_or_lost() {
    let mut bench = Bench::new();
    let token = bench.leased(LEASE);
    bench.live(Duration::from_millis(4_990));
    assert!(!bench.is_suspect());
    bench.live(Duration::from_millis(20));
    assert!(bench.is_suspect());
    bench.live(Duration::from_secs(2));
    assert_eq!(bench.renew(&token), LeaseStatus::Held(LEASE));
    assert!(!bench.is_suspect());
    assert_eq!((bench.status(), bench.attempt()), (Status::Running, 1));
    // And once more, to the end.
    bench.live(Duration::from_millis(7_990));
    assert!(bench.is_suspect());
    bench.live(Duration::from_millis(20));
    assert!(!bench.is_suspect());
    assert_eq!(bench.status(), Status::Queued);
}

#[test]
fn a_renewed_attempt_is_never_suspect() {
    let mut bench = Bench::new();
    let token = bench.leased(LEASE);
    for _ in 0..100 {
        // Now and then a renewal comes late.
        bench.live(Duration::from_millis(4_900));
        assert_eq!(bench.renew(&token), LeaseStatus::Held(LEASE));
        assert!(!bench.is_suspect());
    }
}

#[test]
fn a_stream_that_breaks_marks_what_its_worker_holds_when_none_is_opened_again() {
    for (planned, opened_again, renewed, marked) in [
        (false, false, false, true),
        (true, false, false, false),
        (false, true, false, false),
        (false, false, true, false),
    ] {
        let mut bench = Bench::new();
        let token = bench.leased(LEASE);
        bench.presence().enter(Uid(3));
        bench.live(Duration::from_secs(1));
        bench.presence().leave(Uid(3), planned);
        bench.settle();
        bench.live(Duration::from_millis(300));
        assert!(!bench.is_suspect());
        if opened_again {
            bench.presence().enter(Uid(3));
        }
        if renewed {
            bench.renew(&token);
        }
        bench.live(Duration::from_millis(200));
        assert_eq!(bench.is_suspect(), marked);
        bench.renew(&token);
        assert!(!bench.is_suspect());
    }
}

#[test]
fn a_mark_that_meets_a_renewal_does_not_stay() {
    let mut bench = Bench::new();
    let token = bench.leased(LEASE);
    bench.pass(Duration::from_secs(6));
    // The timer fires in a round of its own; its event waits for the next, behind the renewal.
    let mut answer = bench.send_renewal(&token);
    bench.settle();
    answer.try_recv().unwrap().unwrap();
    assert!(!bench.is_suspect());
    // The word of a push stream comes while the mark is on its way to the journal.
    bench.pass(Duration::from_secs(6));
    let mut drafts = bench.core.plan(bench.now).unwrap();
    if !matches!(&drafts[0].entry, Entry::Task(task) if task.suspect_us != 0) {
        bench.commit(drafts);
        drafts = bench.core.plan(bench.now).unwrap();
    }
    bench.command(Command::KeepAlive(token));
    bench.commit(drafts);
    bench.settle();
    assert!(!bench.is_suspect());
}

#[test]
fn a_push_stream_s_word_clears_the_mark() {
    let mut bench = Bench::new();
    let token = bench.leased(LEASE);
    bench.live(Duration::from_secs(6));
    assert!(bench.is_suspect());
    for _ in 0..10 {
        bench.command(Command::KeepAlive(token.clone()));
    }
    // However often it is said, it is written once.
    assert_eq!(bench.settle().len(), 1);
    assert!(!bench.is_suspect());
    bench.live(Duration::from_secs(6));
    assert!(bench.is_suspect());
}

#[test]
fn a_task_that_does_not_stop_is_renewed_for_its_grace_and_then_cancelled() {
    let mut bench = Bench::new();
    let token = bench.leased(LEASE);
    bench.ask_to_stop();
    let (mut renewed, mut last) = (0, LEASE);
    loop {
        bench.live(Duration::from_secs(2));
        match bench.renew(&token) {
            LeaseStatus::CancelRequested(valid_for) => {
                assert!(valid_for <= last, "it is never longer than the one before");
                last = valid_for;
            }
            LeaseStatus::Lost => break,
            LeaseStatus::Held(_) => panic!("it was asked to stop"),
        }
        assert_eq!(bench.status(), Status::Running);
        assert!(!bench.is_suspect());
        renewed += 1;
    }
    assert_eq!((renewed, last), (29, Duration::from_secs(2)));
    assert_eq!(bench.status(), Status::Cancelled);
}

#[test]
fn what_a_worker_was_promised_before_the_cancel_stays() {
    let mut bench = Bench::new();
    let lease = Duration::from_secs(600);
    let token = bench.leased(lease);
    bench.ask_to_stop();
    bench.live(Duration::from_secs(100));
    let left = LeaseStatus::CancelRequested(Duration::from_secs(500));
    assert_eq!(bench.renew(&token), left);
    bench.live(Duration::from_secs(499));
    assert_eq!(bench.status(), Status::Running);
    bench.live(Duration::from_secs(2));
    assert_eq!(bench.status(), Status::Cancelled);
}
