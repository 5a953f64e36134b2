//! The engine as a whole, over a journal in memory: no network, no processes, real time only where
//! a test waits for an answer.

mod ends;
mod errors;
mod finishing;
mod leases;
mod panics;
mod queues;
mod replay;
mod states;
mod tasks;
mod values;
mod watches;
mod watching;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::{
    Engine, Namespace,
    clock::Now,
    command::{
        Granted, LeaseRequest, OpenRequest, Opened, QueueChange, TaskOp, TaskOpKind, UpdateRequest,
        Updated,
    },
    mirror::{Mirror, TaskRow},
    token::LeaseToken,
};
use crate::{
    domain::{
        Error, NamespaceId, QueueId, Revision, StateId, TaskId, Uid,
        state::{KeyOp, Op},
        task::{Contribution, Event, Outcome, Policy, Status, Task, WriterMark},
    },
    journal::{Store, memory::MemoryStore},
    proto::v1::{self, KeyUpdate, UpdateBatch, UpdateBatches, key_update::Operation},
    runtime::Registry,
};

/// An engine and the store it stands on, which outlives it.
pub(super) struct Sandbox {
    pub(super) store: MemoryStore,
    pub(super) engine: Engine,
    pub(super) namespace: Namespace,
}

impl Sandbox {
    pub(super) async fn new() -> Self {
        Self::on(MemoryStore::new(Uid(1))).await
    }

    pub(super) async fn on(store: MemoryStore) -> Self {
        let jobs = Registry::new(CancellationToken::new());
        let engine = Engine::start(Arc::new(store.clone()), jobs).await.unwrap();
        let namespace = engine.existing(&NamespaceId::trusted("default")).unwrap();
        Self {
            store,
            engine,
            namespace,
        }
    }

    /// The process dies and starts again on what the journal holds.
    pub(super) async fn kill_and_restart(self) -> Self {
        self.store.faults().kill();
        drop(self.engine);
        Self::on(self.store).await
    }

    pub(super) async fn create(&self, id: &str) -> Arc<TaskRow> {
        self.create_task(task(id)).await.unwrap()
    }

    pub(super) async fn create_task(&self, task: Task) -> Result<Arc<TaskRow>, Error> {
        let id = TaskId::trusted(&task.id);
        let task = task.begin(Uid(fastrand::u128(..)), Now::read().wall_us);
        self.namespace
            .task(TaskOp {
                id,
                kind: TaskOpKind::Create(Box::new(task.into())),
            })
            .await
    }

    pub(super) async fn event(&self, id: &str, event: Event) -> Result<Arc<TaskRow>, Error> {
        let op = TaskOp {
            id: TaskId::trusted(id),
            kind: TaskOpKind::Event(event),
        };
        self.namespace.task(op).await
    }

    pub(super) async fn cancel(&self, id: &str) -> Result<Arc<TaskRow>, Error> {
        self.event(
            id,
            Event::Cancel {
                reason: "enough".into(),
            },
        )
        .await
    }

    pub(super) async fn lease(&self, instance: u128, max_tasks: usize) -> Vec<Granted> {
        let wait = Duration::from_millis(200);
        self.lease_within(wait, instance, max_tasks).await
    }

    pub(super) async fn lease_within(
        &self,
        wait: Duration,
        instance: u128,
        max_tasks: usize,
    ) -> Vec<Granted> {
        let request = LeaseRequest {
            queues: vec!["default".into()],
            task_types: Vec::new(),
            max_tasks,
            wait,
            worker_id: format!("worker-{instance}"),
            instance: Uid(instance),
        };
        self.namespace.lease(request).await.unwrap()
    }

    pub(super) async fn finish(
        &self,
        token: &LeaseToken,
        outcome: Outcome,
        marks: Vec<WriterMark>,
    ) -> Result<Arc<TaskRow>, Error> {
        let event = Event::Finish {
            fence: token.fence,
            secret: token.secret,
            outcome,
            marks,
            marks_merged: false,
        };
        self.event(token.task.as_str(), event).await
    }

    pub(super) async fn set_queue(
        &self,
        queue: &str,
        change: QueueChange,
    ) -> Result<Revision, Error> {
        let queue = QueueId::trusted(queue);
        self.namespace.set_queue(queue, change).await
    }

    /// While no worker asks, what waits and runs in the lines is what the mirror says.
    pub(super) async fn assert_lines_follow_the_mirror(&self) {
        // A monitor that has only just been started has not looked at it yet.
        tokio::task::yield_now().await;
        let counted: BTreeMap<_, _> = self.namespace.read(|mirror| {
            let rows = mirror.queues.after(std::ops::Bound::Unbounded);
            let counts = rows.map(|(queue, row)| {
                let counts = (row.count(Status::Queued), row.count(Status::Running));
                (queue.to_string(), counts)
            });
            counts.filter(|(_, counts)| *counts != (0, 0)).collect()
        });
        assert_eq!(self.namespace.shared().ready.lock().counts(), counted);
    }

    pub(super) async fn update(&self, state: &str, ops: Vec<KeyOp>) -> Result<Updated, Error> {
        self.namespace
            .update(UpdateRequest {
                state: StateId::trusted(state),
                ops,
                rejected: Vec::new(),
                request_id: None,
                expected: None,
                lease: None,
                source: "client".into(),
            })
            .await
    }

    pub(super) async fn open(
        &self,
        state: &str,
        writer: u128,
        lease: Option<LeaseToken>,
    ) -> Result<Opened, Error> {
        self.namespace
            .open_writer(OpenRequest {
                state: StateId::trusted(state),
                writer: Uid(writer),
                lease,
                source: "writer".into(),
            })
            .await
    }

    pub(super) fn get(&self, id: &str) -> Arc<TaskRow> {
        self.namespace.get_task(&TaskId::trusted(id)).unwrap().0
    }

    /// The state's keys and values, as JSON-like text.
    pub(super) fn view(&self, state: &str) -> BTreeMap<String, v1::value::Kind> {
        let read = |slot: &super::mirror::StateSlot, _| {
            let rows = slot.state.table().iter();
            rows.map(|(key, _, value)| {
                let value = v1::Value::decode(value.value.inline().cloned().unwrap()).unwrap();
                (key.to_string(), value.kind.unwrap())
            })
            .collect()
        };
        self.namespace
            .read_state(&StateId::trusted(state), read)
            .unwrap_or_default()
    }

    pub(super) fn number(&self, state: &str, key: &str) -> i64 {
        match self.view(state).get(key) {
            Some(v1::value::Kind::Integer(number)) => *number,
            other => panic!("{key} is {other:?}"),
        }
    }

    /// Waits until the mirror is as wished.
    pub(super) async fn until(&self, wish: impl Fn(&Mirror) -> bool) {
        let mut head = self
            .namespace
            .shared()
            .wakers
            .subscribe(super::wakers::Topic::Head);
        let wait = async {
            while !self.namespace.read(&wish) {
                head.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("the mirror never came to be as wished");
    }

    /// A mirror folded anew from what the journal holds now, compared with the live one.
    pub(super) async fn assert_replay_equals_live(self) {
        self.engine.stop().await.unwrap();
        let again = Self::on(self.store.clone()).await;
        self.namespace
            .read(|live| again.namespace.read(|replayed| assert_eq!(replayed, live)));
        again.assert_lines_follow_the_mirror().await;
        again.engine.stop().await.unwrap();
        let _ = self.store.close();
    }
}

pub(super) fn task(id: &str) -> Task {
    Task {
        id: id.into(),
        r#type: "test".into(),
        queue: "default".into(),
        policy: Policy {
            max_attempts: 3,
            lease_us: 8_000_000,
            retry_initial_us: 1_000,
            retry_max_us: 1_000,
            retention_us: 86_400_000_000,
            ..Policy::default()
        },
        ..Task::default()
    }
}

pub(super) fn token(granted: &Granted) -> LeaseToken {
    let attempt = granted.row.task.running().expect("a granted task runs");
    LeaseToken {
        namespace: NamespaceId::trusted("default"),
        task: TaskId::trusted(&granted.row.task.id),
        fence: attempt.fence,
        secret: attempt.secret,
    }
}

pub(super) fn integer(number: i64) -> Bytes {
    v1::Value {
        kind: Some(v1::value::Kind::Integer(number)),
    }
    .encode_to_vec()
    .into()
}

pub(super) fn op(sequence: u64, key: &str, op: Op) -> KeyOp {
    KeyOp {
        key: key.into(),
        sequence,
        op: Some(op),
    }
}

pub(super) fn put(key: &str, number: i64) -> KeyOp {
    op(1, key, Op::Put(integer(number)))
}

/// As it comes: nothing is admitted yet.
pub(super) fn batch(sequence: u64, ops: Vec<(&str, Op)>) -> UpdateBatch {
    let updates = ops.into_iter().map(|(key, op)| KeyUpdate {
        key: key.to_owned(),
        operation: Some(match op {
            Op::Put(value) => Operation::Put(value),
            Op::PutLarge(_) => panic!("it is made of a put where that arrives"),
            Op::Delete(delete) => Operation::Delete(delete),
            Op::Add(operand) => Operation::Add(operand),
            Op::Max(operand) => Operation::Max(operand),
            Op::Min(operand) => Operation::Min(operand),
        }),
    });
    UpdateBatch {
        sequence: sequence.cast_signed(),
        updates: updates.collect(),
        ..UpdateBatch::default()
    }
}

/// The batches as one frame.
pub(super) fn frame(batches: impl IntoIterator<Item = UpdateBatch>) -> Vec<u8> {
    let batches = batches.into_iter().collect();
    UpdateBatches { batches }.encode_to_vec()
}

pub(super) fn succeeded(contributions: Vec<Contribution>) -> Outcome {
    Outcome::Succeeded {
        output: None,
        contributions,
    }
}
