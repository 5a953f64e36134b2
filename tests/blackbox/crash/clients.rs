//! Clients that write, submit and work, and repeat after a crash what was not acknowledged.

use std::sync::Arc;

use duite::proto::v1::{self as pb, push_state_response::Frame, task::Status as TaskStatus};
use fastrand::Rng;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    COUNTS, SHARED,
    world::{Connection, World},
};
use crate::{
    history::{Finish, Submission, Writer},
    wire::{self, PARENT, States, Tasks, Workers, add, batch, put, put_encoded},
};

/// Every so many batches a writer puts a large value.
pub(super) const LARGE_EVERY: i64 = 8;
/// Batches in flight.
const WINDOW: i64 = 16;

/// A writer's history, to be looked at while it writes.
pub(super) type SharedWriter = Arc<Mutex<Writer>>;

pub(super) fn writer(name: &str) -> SharedWriter {
    Arc::new(Mutex::new(Writer {
        name: name.to_owned(),
        sent: 0,
        acknowledged: 0,
        opened: Vec::new(),
    }))
}

/// Batch `sequence` of a writer; the same whenever it is sent.
fn numbered(writer: &str, sequence: i64) -> pb::UpdateBatch {
    let mut updates = vec![
        put(format!("last.{writer}"), sequence),
        add(format!("sum.{writer}"), 1),
        add("total", 1),
    ];
    if sequence % LARGE_EVERY == 0 {
        let large = wire::large(sequence);
        updates.push(put_encoded(format!("large.{writer}"), large));
    }
    batch(sequence, updates)
}

/// Pushes numbered batches until the end, opening again after each crash.
pub(super) async fn write(world: World, history: SharedWriter, mut random: Rng) {
    let id = uuid::Uuid::from_u128(random.u128(..)).to_string();
    let mut connection = Connection::default();
    loop {
        world.connect(&mut connection).await;
        match write_once(&world, &connection, &id, &history, &mut random).await {
            Ok(()) => return,
            Err(status) => world.excuse(&connection, "PushState", &status),
        }
    }
}

/// One stream; `Ok` where all that was sent is acknowledged and no more is to come.
async fn write_once(
    world: &World,
    connection: &Connection,
    id: &str,
    history: &SharedWriter,
    random: &mut Rng,
) -> Result<(), Status> {
    let (frames, outgoing) = mpsc::channel(4);
    let gone = |_| Status::unavailable("the stream is gone");
    let open = wire::open_frame(SHARED, id);
    frames.send(open).await.expect("there is room for one");
    let mut states = States::new(connection.channel());
    let incoming = states.push_state(ReceiverStream::new(outgoing)).await?;
    let mut incoming = incoming.into_inner();
    let mut next = match incoming.message().await?.and_then(|first| first.frame) {
        Some(Frame::Opened(opened)) => {
            let mut history = history.lock();
            let stood = (history.sent, history.acknowledged, opened.last_sequence);
            history.opened.push(stood);
            // An acknowledgement like any other. Below the last one it would be a violation, which
            // the checker finds in `opened`.
            history.acknowledged = opened.last_sequence;
            opened.last_sequence + 1
        }
        other => panic!("the first frame is `opened`, here comes {other:?}"),
    };
    let name = history.lock().name.clone();
    loop {
        let (sent, acknowledged) = {
            let history = history.lock();
            (history.sent, history.acknowledged)
        };
        let winding_down = world.wind_down.is_cancelled();
        let last = if winding_down { sent } else { i64::MAX };
        if winding_down && acknowledged == sent {
            drop(frames);
            let end = incoming.message().await?;
            assert_eq!(end, None, "the stream ends when all is acknowledged");
            return Ok(());
        }
        let last = last.min(acknowledged + WINDOW);
        tokio::select! {
            permit = frames.reserve(), if next <= last => {
                let until = last.min(next + random.i64(0..4));
                history.lock().sent = sent.max(until);
                let batches = (next..=until).map(|sequence| numbered(&name, sequence));
                permit.map_err(gone)?.send(wire::batches_frame(batches.collect()));
                next = until + 1;
            }
            frame = incoming.message() => match frame?.and_then(|frame| frame.frame) {
                Some(Frame::Ack(ack)) => {
                    assert_eq!(ack.rejected, [], "no key is wrong");
                    let mut history = history.lock();
                    let news = ack.acked_sequence - history.acknowledged;
                    assert!(news >= 0, "acknowledgements of a writer went back: {ack:?}");
                    history.acknowledged = ack.acked_sequence;
                    drop(history);
                    world.acknowledged(news.unsigned_abs());
                }
                other => panic!("{name} pushed in order and without a lease, here comes {other:?}"),
            },
            () = world.wind_down.cancelled(), if !winding_down => {}
        }
    }
}

/// Adds 1 with single calls, each with a request id; says how often.
pub(super) async fn update(world: World, mut random: Rng) -> i64 {
    let mut connection = Connection::default();
    world.connect(&mut connection).await;
    let mut count = 0;
    while !world.wind_down.is_cancelled() {
        let request = pb::UpdateStateRequest {
            request_id: uuid::Uuid::from_u128(random.u128(..)).to_string(),
            ..wire::update(COUNTS, vec![add("updates", 1)])
        };
        count += 1;
        // Now and then once more, as a client does whose answer was lost.
        let times = 1 + usize::from(random.u8(..) < 32);
        for _ in 0..times {
            loop {
                let mut states = States::new(connection.channel());
                match states.update_state(request.clone()).await {
                    Ok(response) => {
                        assert_eq!(response.into_inner().rejected, []);
                        break world.acknowledged(1);
                    }
                    Err(status) => world.excuse(&connection, "UpdateState", &status),
                }
                world.connect(&mut connection).await;
            }
        }
    }
    count
}

/// Submits tasks, one after the other, each until it is acknowledged.
pub(super) async fn submit(world: World, mut random: Rng) -> Vec<Submission> {
    let mut connection = Connection::default();
    world.connect(&mut connection).await;
    let mut submissions = Vec::new();
    while !world.wind_down.is_cancelled() {
        let request_id = uuid::Uuid::from_u128(random.u128(..)).to_string();
        let request = request(&request_id);
        let mut acknowledged = Vec::new();
        let times = 1 + usize::from(random.u8(..) < 32);
        while acknowledged.len() < times {
            let mut tasks = Tasks::new(connection.channel());
            match tasks.create_task(request.clone()).await {
                Ok(response) => {
                    let task = response.into_inner().task.expect("an answer has its task");
                    acknowledged.push((task.name, task.uid));
                    world.acknowledged(1);
                }
                Err(status) => {
                    world.excuse(&connection, "CreateTask", &status);
                    world.connect(&mut connection).await;
                }
            }
        }
        submissions.push(Submission {
            request_id,
            acknowledged,
        });
    }
    submissions
}

fn request(request_id: &str) -> pb::CreateTaskRequest {
    let policy = pb::TaskPolicy {
        // An attempt whose lease was never heard of counts; a crash must not fail a task.
        max_attempts: 1_000,
        lease_duration: wire::millis(2_000),
        retry_initial_delay: wire::millis(10),
        retry_max_delay: wire::millis(10),
        ..pb::TaskPolicy::default()
    };
    pb::CreateTaskRequest {
        parent: PARENT.to_owned(),
        request_id: request_id.to_owned(),
        task: Some(pb::Task {
            r#type: "work".to_owned(),
            policy: Some(policy),
            ..pb::Task::default()
        }),
        ..pb::CreateTaskRequest::default()
    }
}

/// Runs tasks until told to rest; says which outcomes were acknowledged.
pub(super) async fn work(world: World, mut random: Rng) -> Vec<Finish<TaskStatus>> {
    let mut connection = Connection::default();
    world.connect(&mut connection).await;
    let worker = Worker {
        id: format!("worker-{}", random.u16(..)),
        instance: uuid::Uuid::from_u128(random.u128(..)).to_string(),
    };
    let mut acknowledged = Vec::new();
    let mut unanswered = Vec::new();
    while !world.rest.is_cancelled() {
        let round = worker.round(&world, &connection, &mut unanswered, &mut acknowledged);
        if let Err(status) = round.await {
            world.excuse(&connection, "a worker's call", &status);
            world.connect(&mut connection).await;
        }
    }
    acknowledged
}

struct Worker {
    id: String,
    instance: String,
}

/// An outcome that is to be told, and what it will be known as.
type Told = (pb::TaskOutcome, Finish<TaskStatus>);

impl Worker {
    /// Tells what is unanswered, takes new work, accepts it, and tells its outcome.
    async fn round(
        &self,
        world: &World,
        connection: &Connection,
        unanswered: &mut Vec<Told>,
        acknowledged: &mut Vec<Finish<TaskStatus>>,
    ) -> Result<(), Status> {
        let mut workers = Workers::new(connection.channel());
        if unanswered.is_empty() {
            let leases = workers
                .lease_tasks(self.wanted())
                .await?
                .into_inner()
                .leases;
            if leases.is_empty() {
                return Ok(());
            }
            unanswered.extend(leases.iter().map(outcome));
            let renewal = pb::RenewLeasesRequest {
                lease_tokens: leases.into_iter().map(|lease| lease.lease_token).collect(),
                worker_id: self.id.clone(),
                instance_uid: self.instance.clone(),
            };
            workers.renew_leases(renewal).await?;
        }
        let request = pb::FinishTasksRequest {
            outcomes: unanswered
                .iter()
                .map(|(outcome, _)| outcome.clone())
                .collect(),
            ..pb::FinishTasksRequest::default()
        };
        let results = workers.finish_tasks(request).await?.into_inner().results;
        assert_eq!(results.len(), unanswered.len());
        for (result, (_, finish)) in results.into_iter().zip(unanswered.drain(..)) {
            match result.result.expect("a result is one of two") {
                pb::outcome_result::Result::Task(_) => {
                    acknowledged.push(finish);
                    world.acknowledged(1);
                }
                pb::outcome_result::Result::Error(error) => {
                    // The lease ran out while the server was away, which is for it to decide.
                    let aborted = tonic::Code::Aborted as i32;
                    assert_eq!(
                        error.code, aborted,
                        "{} was refused: {error:?}",
                        finish.task
                    );
                }
            }
        }
        Ok(())
    }

    fn wanted(&self) -> pb::LeaseTasksRequest {
        pb::LeaseTasksRequest {
            parent: PARENT.to_owned(),
            task_types: vec!["work".to_owned()],
            max_tasks: 4,
            wait: wire::millis(200),
            worker_id: self.id.clone(),
            instance_uid: self.instance.clone(),
            ..pb::LeaseTasksRequest::default()
        }
    }
}

/// Three of four tasks succeed and contribute, as a property of the task: another attempt ends the
/// same way.
fn outcome(lease: &pb::Lease) -> Told {
    use pb::task_outcome::Outcome;
    let task = lease.task.clone().expect("a lease has its task");
    let succeeds = !task.uid.ends_with(['0', '1', '2', '3']);
    let contribution = pb::Contribution {
        state_name: wire::state_name(COUNTS),
        updates: vec![add("succeeded", 1)],
    };
    let (status, outcome, contributions) = if succeeds {
        let output = Outcome::Output(pb::Payload::default());
        (TaskStatus::Succeeded, output, vec![contribution])
    } else {
        let failure = pb::Failure {
            r#type: "Unlucky".to_owned(),
            message: "its uid ends with a digit below four".to_owned(),
            ..pb::Failure::default()
        };
        (TaskStatus::Failed, Outcome::Failure(failure), Vec::new())
    };
    let told = pb::TaskOutcome {
        lease_token: lease.lease_token.clone(),
        outcome: Some(outcome),
        contributions,
        ..pb::TaskOutcome::default()
    };
    let finish = Finish {
        task: task.name,
        attempt: task.attempt,
        status,
    };
    (told, finish)
}
