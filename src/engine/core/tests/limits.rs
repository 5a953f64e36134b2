//! The time limits of a task and its leases: no worker counts on more than the limit leaves, and no
//! attempt is ended while its worker may count on it.

use super::*;
use crate::domain::task::FailureCategory;

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(8);
const DAY_US: i64 = 86_400_000_000;

impl Bench {
    fn limited(&mut self, attempt: Duration, total: Duration) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap();
        let policy = Policy {
            max_attempts: 3,
            lease_us: micros(LEASE),
            retention_us: DAY_US as u64,
            attempt_timeout_us: micros(attempt),
            total_timeout_us: micros(total),
            ..Policy::default()
        };
        self.create(policy, 0);
    }

    /// Leases the task; how long the lease holds.
    fn ask(&mut self) -> (LeaseToken, Duration) {
        let (reply, mut granted) = oneshot::channel();
        let request = LeaseRequest {
            queues: vec!["q".into()],
            task_types: Vec::new(),
            max_tasks: 1,
            wait: SECOND,
            worker_id: "w".into(),
            instance: Uid(3),
        };
        self.command(Command::Lease(request, reply));
        self.settle();
        let granted = granted.try_recv().unwrap().unwrap().remove(0);
        let attempt = granted.row.task.running().unwrap();
        let token = LeaseToken {
            namespace: NamespaceId::trusted("default"),
            task: TaskId::trusted("t"),
            fence: attempt.fence,
            secret: attempt.secret,
        };
        (token, granted.valid_for)
    }

    fn task(&self) -> Task {
        let mirror = self.core.shared.mirror.read();
        mirror
            .tasks
            .get(&TaskId::trusted("t"))
            .unwrap()
            .task
            .clone()
    }

    fn runs_under(&self, token: &LeaseToken) -> bool {
        let task = self.task();
        task.running().is_some_and(|a| a.fence == token.fence)
    }

    /// Time passes, to the moment at which the attempt is ended at most.
    fn live_on(&mut self, token: &LeaseToken, time: Duration) {
        let until = self.now.mono + time;
        while self.now.mono < until && self.runs_under(token) {
            let next = self.core.next_deadline().unwrap_or(until);
            let step = next.saturating_sub(self.now.mono);
            self.live(step.clamp(Duration::from_millis(1), until - self.now.mono));
        }
    }

    fn why_it_ended(&self) -> FailureCategory {
        self.task().last_failure().unwrap().category()
    }
}

#[test]
fn renewals_reach_no_further_than_the_limits_of_the_attempt_and_the_task() {
    for (attempt, total) in [(10, 0), (0, 10), (10, 60), (60, 10)] {
        let mut bench = Bench::new();
        bench.limited(attempt * SECOND, total * SECOND);
        let (token, first) = bench.ask();
        assert_eq!(first, LEASE / 2);
        for (at, left) in [(1, 8), (2, 8), (3, 7), (5, 5), (9, 1)] {
            let passed = bench.now.mono - Duration::from_secs(1_000);
            bench.live(at * SECOND - passed);
            assert_eq!(bench.renew(&token), LeaseStatus::Held(left * SECOND));
        }
        bench.live(SECOND - Duration::from_millis(1));
        assert_eq!(bench.status(), Status::Running);
        bench.live(Duration::from_millis(1));
        assert_eq!(bench.renew(&token), LeaseStatus::Lost);
        assert!(!bench.runs_under(&token));
        assert_eq!(bench.why_it_ended(), FailureCategory::Timeout);
    }
}

#[test]
fn a_first_lease_holds_no_longer_than_the_attempt_may_take() {
    let mut bench = Bench::new();
    bench.limited(SECOND, Duration::ZERO);
    let (token, first) = bench.ask();
    assert_eq!(first, SECOND);
    bench.live(SECOND);
    assert!(!bench.runs_under(&token));
    assert_eq!(bench.why_it_ended(), FailureCategory::Timeout);
}

#[test]
fn a_worker_that_went_silent_before_the_limit_has_lost_its_lease() {
    let mut bench = Bench::new();
    bench.limited(60 * SECOND, Duration::ZERO);
    let (token, _) = bench.ask();
    assert_eq!(bench.renew(&token), LeaseStatus::Held(LEASE));
    bench.live(LEASE);
    assert_eq!(bench.why_it_ended(), FailureCategory::LeaseLost);
}

#[test]
fn a_wall_clock_that_is_put_before_the_lease_takes_nothing_from_it() {
    for jump in [DAY_US, -DAY_US] {
        let mut bench = Bench::at_noon();
        bench.limited(Duration::ZERO, 900 * SECOND);
        bench.put_wall(jump);
        bench.live(SECOND);
        let (token, first) = bench.ask();
        assert_eq!(first, LEASE / 2, "{jump}");
        assert_eq!(bench.renew(&token), LeaseStatus::Held(LEASE));
        for _ in 0..449 {
            bench.live(2 * SECOND);
            let status = bench.renew(&token);
            assert!(matches!(status, LeaseStatus::Held(_)), "{jump} {status:?}");
        }
        bench.live(SECOND);
        assert_eq!(bench.status(), Status::Failed, "{jump}");
        assert_eq!(bench.why_it_ended(), FailureCategory::Timeout);
    }
}

/// Whatever the limits are, whenever it renews, is asked to stop or the clock is put.
#[test]
fn no_attempt_ends_before_what_its_worker_was_promised_is_over() {
    let mut timeouts = 0;
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bench = Bench::at_noon();
        let mut limit = || match random.u8(..3) {
            0 => Duration::ZERO,
            _ => Duration::from_millis(random.u64(1..40_000)),
        };
        let (attempt, total) = (limit(), limit());
        bench.limited(attempt, total);
        let (token, first) = bench.ask();
        let mut promised = bench.now.mono + first;
        while bench.runs_under(&token) {
            let pause = Duration::from_millis(random.u64(1..4_000));
            bench.live_on(&token, pause);
            match random.u8(..12) {
                0 => bench.ask_to_stop(),
                1 => bench.put_wall(random.i64(-DAY_US..DAY_US)),
                2 => bench.live_on(&token, LEASE / 2),
                _ => match bench.renew(&token) {
                    LeaseStatus::Held(left) | LeaseStatus::CancelRequested(left) => {
                        assert!(bench.runs_under(&token), "seed {seed}");
                        promised = promised.max(bench.now.mono + left);
                    }
                    LeaseStatus::Lost => assert!(promised <= bench.now.mono, "seed {seed}"),
                },
            }
            if !bench.runs_under(&token) {
                assert!(promised <= bench.now.mono, "seed {seed}: ended too early");
                let failure = bench.task().last_failure().map(|f| f.category());
                timeouts += u32::from(failure == Some(FailureCategory::Timeout));
                break;
            }
        }
    }
    assert!(timeouts > 50, "{timeouts}");
}
