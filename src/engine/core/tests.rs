//! The monitor's mind with a clock of the test's own, for what depends on what meets in one round.

mod aside;
mod clock;
mod holding;
mod limits;
mod lives;
mod pace;
mod queues;
mod refusals;

use std::{sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        Shared,
        intake::Intake,
        mirror::Mirror,
        presence::Presence,
        token::LeaseToken,
        values::{ValueCache, Values},
        wakers::Wakers,
    },
    *,
};
use crate::{
    domain::{
        Entry, NamespaceId,
        task::{Policy, Status, Task},
    },
    engine::command::TaskOpKind,
    journal::{Committed, MemoryStore, Store},
};

/// A core whose journal is this test.
struct Bench {
    core: Core,
    now: Now,
    head: u64,
}

impl Bench {
    fn new() -> Self {
        Self::keeping(0)
    }

    /// It keeps so many tasks that have ended.
    fn keeping(keep_ended: usize) -> Self {
        let id = NamespaceId::trusted("default");
        let journal = MemoryStore::default().open(&id).unwrap();
        let shared = Shared {
            id,
            epoch: Uid(1),
            mirror: RwLock::new(Mirror::default()),
            ready: Mutex::default(),
            intake: Intake::default(),
            wakers: Wakers::default(),
            presence: Presence::default(),
            keep_ended,
            replay: Duration::ZERO,
            probe: crate::telemetry::Probe::default(),
            values: Values::new(journal.clone(), Arc::new(ValueCache::new(0))),
            payloads: super::super::payloads::Payloads::new(journal),
            commands: mpsc::channel(1).0,
            draining: CancellationToken::new(),
            ended: CancellationToken::new(),
            trap: Default::default(),
        };
        let now = Now {
            mono: Duration::from_secs(1_000),
            wall_us: 1_000_000_000,
        };
        Self {
            core: Core::new(Arc::new(shared), now, 7),
            now,
            head: 0,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.wall_us += i64::try_from(time.as_micros()).unwrap();
    }

    fn command(&mut self, command: Command) {
        self.core.command(command, self.now);
    }

    /// Plans and commits rounds until there is nothing to do; returns what was committed.
    fn settle(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        while let Some(group) = self.round() {
            entries.extend(group);
        }
        entries
    }

    /// Plans and commits one group; none where there is nothing to do.
    fn round(&mut self) -> Option<Vec<Entry>> {
        let drafts = self.core.plan(self.now)?;
        let entries = drafts.iter().map(|draft| draft.entry.clone()).collect();
        self.commit(drafts);
        Some(entries)
    }

    /// The journal takes a group that was planned.
    fn commit(&mut self, drafts: Vec<Draft>) {
        let committed: Vec<_> = drafts
            .into_iter()
            .map(|draft| {
                self.head += 1;
                Committed {
                    revision: Revision(self.head),
                    entry: draft.entry,
                    bytes: 100,
                }
            })
            .collect();
        let outcomes = committed.iter().map(|entry| Ok(entry.revision)).collect();
        let appended = Appended {
            committed,
            outcomes,
        };
        self.core.applied(appended, self.now);
    }

    /// A running task whose lease of `lease` its worker has accepted.
    fn leased(&mut self, lease: Duration) -> LeaseToken {
        let policy = Policy {
            max_attempts: 3,
            lease_us: u64::try_from(lease.as_micros()).unwrap(),
            retention_us: 86_400_000_000,
            ..Policy::default()
        };
        let task = Task {
            id: "t".into(),
            queue: "q".into(),
            policy,
            ..Task::default()
        };
        let task = Box::new(task.begin(Uid(2), self.now.wall_us));
        let op = TaskOp {
            id: TaskId::trusted("t"),
            kind: TaskOpKind::Create(Box::new((*task).into())),
        };
        self.command(Command::Tasks {
            ops: vec![Ok(op)],
            reply: oneshot::channel().0,
        });
        self.take(lease)
    }

    /// Leases the task that waits, and accepts the lease.
    fn take(&mut self, lease: Duration) -> LeaseToken {
        let (reply, mut granted) = oneshot::channel();
        let request = LeaseRequest {
            queues: vec!["q".into()],
            task_types: Vec::new(),
            max_tasks: 1,
            wait: Duration::from_secs(1),
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
        assert_eq!(self.renew(&token), LeaseStatus::Held(lease));
        token
    }

    fn send_renewal(
        &mut self,
        token: &LeaseToken,
    ) -> oneshot::Receiver<Result<Vec<LeaseStatus>, Error>> {
        let (reply, answer) = oneshot::channel();
        let request = RenewRequest {
            tokens: vec![token.clone()],
            worker_id: "w".into(),
            instance: Uid(3),
        };
        self.command(Command::Renew(request, reply));
        answer
    }

    fn renew(&mut self, token: &LeaseToken) -> LeaseStatus {
        let mut answer = self.send_renewal(token);
        self.settle();
        answer.try_recv().unwrap().unwrap()[0]
    }

    fn status(&self) -> Status {
        let mirror = self.core.shared.mirror.read();
        mirror
            .tasks
            .get(&TaskId::trusted("t"))
            .unwrap()
            .task
            .status()
    }
}

/// The renewal was on its way as the lease ran out: whatever is answered must be true.
#[test]
fn a_renewal_that_meets_the_end_of_its_lease_in_one_round_holds_or_is_lost_never_both() {
    let lease = Duration::from_secs(8);
    for renewal_first in [true, false] {
        let mut bench = Bench::new();
        let token = bench.leased(lease);
        bench.pass(lease);
        if !renewal_first {
            // The timer fires in a round of its own; its event waits for the next.
            let mut group = Group::default();
            bench.core.now = bench.now;
            bench.core.fire_timers(&mut group);
        }
        let mut answer = bench.send_renewal(&token);
        bench.settle();
        let answer = answer.try_recv().unwrap().unwrap()[0];
        let holds = bench.status() == Status::Running;
        assert_eq!(
            answer != LeaseStatus::Lost,
            holds,
            "renewal first: {renewal_first}"
        );
    }
}

#[test]
fn a_worker_with_long_leases_is_not_given_up_between_its_renewals() {
    let lease = Duration::from_secs(600);
    let mut bench = Bench::new();
    let token = bench.leased(lease);
    for _ in 0..10 {
        for _ in 0..15 {
            bench.pass(Duration::from_secs(10));
            bench.settle();
        }
        assert_eq!(bench.renew(&token), LeaseStatus::Held(lease));
    }
}

#[test]
fn a_worker_that_is_silent_and_holds_nothing_is_given_up() {
    let mut bench = Bench::new();
    bench.leased(Duration::from_secs(8));
    let mut given_up = false;
    for _ in 0..30 {
        bench.pass(Duration::from_secs(5));
        let entries = bench.settle();
        given_up |= entries
            .iter()
            .any(|entry| matches!(entry, Entry::Instance(instance) if instance.expired));
    }
    assert!(given_up);
    assert_eq!(bench.status(), Status::Queued);
}

#[test]
fn the_word_of_a_push_stream_renews_the_lease_it_writes_under_and_no_other() {
    for (right, holds) in [(true, true), (false, false)] {
        let mut bench = Bench::new();
        let mut token = bench.leased(Duration::from_secs(8));
        token.secret ^= u64::from(!right);
        bench.pass(Duration::from_secs(6));
        bench.command(Command::KeepAlive(token));
        bench.pass(Duration::from_secs(6));
        bench.settle();
        assert_eq!(bench.status() == Status::Running, holds);
    }
}
