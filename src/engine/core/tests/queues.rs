//! Settings of a queue that meet, in one round, what they hold back.

use super::*;
use crate::{
    domain::{QueueId, task::Phase},
    engine::command::QueueChange,
};

#[test]
fn a_queue_that_is_paused_in_one_round_with_a_question_for_work_hands_out_nothing() {
    let mut bench = Bench::new();
    let token = bench.leased(Duration::from_secs(8));
    let op = TaskOp {
        id: TaskId::trusted("t"),
        kind: TaskOpKind::Event(crate::domain::task::Event::Release {
            fence: token.fence,
            secret: token.secret,
        }),
    };
    bench.command(Command::Tasks {
        ops: vec![Ok(op)],
        reply: oneshot::channel().0,
    });
    bench.settle();
    assert_eq!(bench.status(), Status::Queued);
    let change = QueueChange {
        paused: Some(true),
        ..QueueChange::default()
    };
    let (reply, mut paused) = oneshot::channel();
    bench.command(Command::SetQueue {
        queue: QueueId::trusted("q"),
        change,
        reply,
    });
    let (reply, mut granted) = oneshot::channel();
    let request = LeaseRequest {
        queues: vec!["q".into()],
        task_types: Vec::new(),
        max_tasks: 1,
        wait: Duration::from_secs(1),
        worker_id: "w".into(),
        instance: Uid(3),
    };
    bench.command(Command::Lease(request, reply));
    let entries = bench.settle();
    paused.try_recv().unwrap().unwrap();
    let paused = entries.iter().position(|e| matches!(e, Entry::Queue(_)));
    let runs = |entry: &Entry| match entry {
        Entry::Task(task) => matches!(task.phase, Some(Phase::Running(_))),
        _ => false,
    };
    let given = entries.iter().rposition(runs);
    assert!(given < paused, "{given:?} is behind {paused:?}");
    assert!(granted.try_recv().is_err() || given.is_some());
}
