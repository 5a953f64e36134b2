//! Whose turn it is, and how many may run: no tenant starves another, a paused queue hands out
//! nothing whatever happens to the server, and a limit holds however many workers ask.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use duite::proto::v1::{self as pb, queue_service_client::QueueServiceClient, task_outcome};
use tonic::transport::Channel;

use crate::{
    support::Server,
    wire::{self, PARENT, Tasks, Workers},
};

const QUEUE: &str = "namespaces/default/queues/default";
/// Tasks of the tenant that has many.
const MANY: usize = 100_000;
const BATCH: usize = 1_000;
/// How long a task takes.
const TASK: Duration = Duration::from_millis(300);

fn task(id: String, tenant: &str) -> pb::CreateTaskRequest {
    pb::CreateTaskRequest {
        task_id: id,
        parent: PARENT.to_owned(),
        task: Some(pb::Task {
            r#type: "work".to_owned(),
            fairness_key: tenant.to_owned(),
            ..pb::Task::default()
        }),
        ..pb::CreateTaskRequest::default()
    }
}

async fn submit(channel: &Channel, tenant: &str, tasks: usize) {
    let mut client = Tasks::new(channel.clone());
    for first in (0..tasks).step_by(BATCH) {
        let numbers = first..tasks.min(first + BATCH);
        let request = pb::BatchCreateTasksRequest {
            parent: PARENT.to_owned(),
            requests: numbers
                .map(|number| task(format!("{tenant}-{number}"), tenant))
                .collect(),
        };
        let answer = client.batch_create_tasks(request).await.unwrap();
        for result in answer.into_inner().results {
            let result = result.result.unwrap();
            assert!(matches!(result, pb::create_task_result::Result::Task(_)));
        }
    }
}

async fn set(channel: &Channel, settings: pb::QueueSettings) {
    let request = pb::UpdateQueueRequest {
        name: QUEUE.to_owned(),
        settings: Some(settings),
        ..pb::UpdateQueueRequest::default()
    };
    let mut queues = QueueServiceClient::new(channel.clone());
    queues.update_queue(request).await.unwrap();
}

async fn queue(channel: &Channel) -> pb::Queue {
    let request = pb::GetQueueRequest {
        name: QUEUE.to_owned(),
        ..pb::GetQueueRequest::default()
    };
    let mut queues = QueueServiceClient::new(channel.clone());
    let answer = queues.get_queue(request).await.unwrap();
    answer.into_inner().queue.unwrap()
}

/// A worker that runs one task at a time.
struct Worker {
    workers: Workers,
    id: String,
    instance: String,
}

impl Worker {
    fn new(channel: &Channel, id: impl Into<String>) -> Self {
        Self {
            workers: Workers::new(channel.clone()),
            id: id.into(),
            instance: uuid::Uuid::new_v4().to_string(),
        }
    }

    async fn lease(&mut self, wait: Duration) -> Option<pb::Lease> {
        let request = pb::LeaseTasksRequest {
            parent: PARENT.to_owned(),
            task_types: vec!["work".to_owned()],
            max_tasks: 1,
            wait: wire::millis(wait.as_millis() as u64),
            worker_id: self.id.clone(),
            instance_uid: self.instance.clone(),
            ..pb::LeaseTasksRequest::default()
        };
        let response = self.workers.lease_tasks(request).await.unwrap();
        response.into_inner().leases.pop()
    }

    async fn finish(&mut self, lease: &pb::Lease) {
        let outcome = pb::TaskOutcome {
            lease_token: lease.lease_token.clone(),
            outcome: Some(task_outcome::Outcome::Output(pb::Payload::default())),
            ..pb::TaskOutcome::default()
        };
        let request = pb::FinishTasksRequest {
            outcomes: vec![outcome],
            ..pb::FinishTasksRequest::default()
        };
        let response = self.workers.finish_tasks(request).await.unwrap();
        let result = response.into_inner().results.remove(0).result.unwrap();
        assert!(matches!(result, pb::outcome_result::Result::Task(_)));
    }
}

/// One worker is busy with the many tasks of one tenant; another tenant submits one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_task_beside_a_hundred_thousand_of_another_tenant_starts_within_two_task_durations() {
    let server = Server::start();
    let channel = wire::connect(&server.addr()).await.unwrap();
    submit(&channel, "a", MANY).await;
    assert_eq!(queue(&channel).await.queued, MANY as i64);
    let mut worker = Worker::new(&channel, "worker");
    let mut submitted = None;
    for number in 0.. {
        let lease = worker.lease(Duration::from_secs(30)).await.unwrap();
        let name = lease.task.as_ref().unwrap().name.clone();
        if let Some(submitted) = submitted {
            let waited = Instant::elapsed(&submitted);
            if name.ends_with("/b-0") {
                // A machine that runs many tests at once keeps the order, not the time.
                let in_time = waited <= 2 * TASK || !crate::is_strict();
                assert!(in_time, "it started after {waited:?}");
                return;
            }
            assert!(number <= 5, "{name} came before, after {waited:?}");
        }
        if number == 3 {
            // As soon as a task has begun: it could not wait longer.
            let mut tasks = Tasks::new(channel.clone());
            submitted = Some(Instant::now());
            tasks
                .create_task(task("b-0".to_owned(), "b"))
                .await
                .unwrap();
        }
        tokio::time::sleep(TASK).await;
        worker.finish(&lease).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_queue_hands_out_nothing_even_after_a_kill() {
    let mut server = Server::start();
    let channel = wire::connect(&server.addr()).await.unwrap();
    let paused = pb::QueueSettings {
        paused: true,
        ..pb::QueueSettings::default()
    };
    set(&channel, paused).await;
    submit(&channel, "a", 10).await;
    let wait = Duration::from_millis(300);
    assert!(Worker::new(&channel, "w").lease(wait).await.is_none());
    server.kill9();
    server.restart();
    let channel = wire::connect(&server.addr()).await.unwrap();
    let mut worker = Worker::new(&channel, "w");
    assert!(worker.lease(wait).await.is_none());
    let standing = queue(&channel).await;
    assert_eq!((standing.queued, standing.settings), (10, Some(paused)));
    // Who waits is woken.
    let (lease, ()) = tokio::join!(
        worker.lease(Duration::from_secs(30)),
        set(&channel, pb::QueueSettings::default())
    );
    assert!(lease.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_never_exceeded_while_many_workers_ask() {
    const LIMIT: usize = 5;
    const TASKS: usize = 600;
    let server = Server::start();
    let channel = wire::connect(&server.addr()).await.unwrap();
    let limited = |limit: usize| pb::QueueSettings {
        max_running: i32::try_from(limit).unwrap(),
        ..pb::QueueSettings::default()
    };
    set(&channel, limited(LIMIT)).await;
    submit(&channel, "a", TASKS).await;
    let (running, most, done) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let mut crew = Vec::new();
    for number in 0..24 {
        let (running, most, done) = (running.clone(), most.clone(), done.clone());
        let channel = wire::connect(&server.addr()).await.unwrap();
        crew.push(tokio::spawn(async move {
            let mut worker = Worker::new(&channel, format!("w{number}"));
            while done.load(Ordering::SeqCst) < TASKS {
                let Some(lease) = worker.lease(Duration::from_millis(200)).await else {
                    continue;
                };
                // Counted shorter than it runs, so that a count above the limit is no mistake.
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                worker.finish(&lease).await;
                done.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    while done.load(Ordering::SeqCst) < TASKS {
        let running = queue(&channel).await.running;
        assert!(running <= LIMIT as i64, "{running} run");
    }
    for worker in crew {
        worker.await.unwrap();
    }
    let most = most.load(Ordering::SeqCst);
    assert!((2..=LIMIT).contains(&most), "{most} ran at once");
    assert_eq!(queue(&channel).await.succeeded, TASKS as i64);
}
