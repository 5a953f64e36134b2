//! Clients that submit, repeat what was not answered, cancel, and look.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use duite::proto::v1::{self as pb, create_task_result, task::Status as TaskStatus};
use fastrand::Rng;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{
    LIVE_STATES,
    child::{Job, LIMIT_MS},
    clock::{self, MILLISECOND},
    queues,
    records::Log,
    retries,
};
use crate::{
    history::{Cancel, Repetition, Sighting, Submission},
    wire::{self, PARENT, Tasks},
};

/// Nothing new is submitted while so many tasks have not ended: a busy machine is not buried.
const MOST_OPEN: usize = 400;
/// The fairness keys.
const TENANTS: [&str; 4] = ["", "a", "b", "c"];
/// A call that takes longer is made again.
const DEADLINE: Duration = Duration::from_secs(5);
/// What all clients share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) channel: Channel,
    pub(super) log: Arc<Log>,
    /// How many tasks have not ended, as a watch tells it.
    pub(super) open: Arc<AtomicUsize>,
    /// Nothing new begins.
    pub(super) wind_down: CancellationToken,
}

/// What one client saw.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) submissions: Vec<Submission>,
    pub(super) cancels: Vec<Cancel>,
    pub(super) sightings: Vec<Sighting<TaskStatus>>,
    pub(super) repetitions: Vec<Repetition>,
}

struct Client {
    shared: Shared,
    random: Rng,
    seen: Seen,
    /// Tasks to be cancelled, and when.
    due: Vec<(u64, String)>,
    /// The last ones that were acknowledged.
    recent: Vec<pb::CreateTaskRequest>,
}

/// Goes on until nothing new is to begin, and all that was begun is answered.
pub(super) async fn run(shared: Shared, random: Rng) -> Seen {
    let mut client = Client {
        shared,
        random,
        seen: Seen::default(),
        due: Vec::new(),
        recent: Vec::new(),
    };
    while !client.shared.wind_down.is_cancelled() {
        let open = client.shared.open.load(Ordering::Relaxed);
        match client.random.u8(..24) {
            0..12 if open < MOST_OPEN => client.submit().await,
            12..16 if open < MOST_OPEN => client.submit_batch().await,
            16..18 => client.repeat().await,
            18..20 => client.look().await,
            20 if open < MOST_OPEN => client.repeat_failed().await,
            _ => {}
        }
        client.cancel_due(clock::now()).await;
        sleep(Duration::from_millis(client.random.u64(10..150))).await;
    }
    client.cancel_due(u64::MAX).await;
    client.seen
}

impl Shared {
    /// A call failed. Chaos explains what the server did not answer at all, and that it is starting
    /// or has no journal.
    pub(super) async fn excuse(&self, call: &str, status: &Status) {
        let answered = status.get_details_error_info().is_some();
        let excused = !answered || status.code() == Code::Unavailable;
        self.log.line(format_args!("{call} failed: {status:?}"));
        assert!(excused, "{call} was refused: {status:?}");
        sleep(Duration::from_millis(fastrand::u64(20..300))).await;
    }
}

impl Client {
    /// A task to submit, known again by its id, its request, or both.
    fn request(&mut self) -> pb::CreateTaskRequest {
        let random = &mut self.random;
        let uuid = uuid::Uuid::from_u128(random.u128(..)).to_string();
        let long = random.u8(..40) == 0;
        let too_long = !long && random.u8(..40) == 0;
        let job = Job {
            too_long,
            millis: if long {
                random.u64(2_000..6_000)
            } else {
                random.u64(5..200)
            },
            failures: if random.u8(..8) == 0 {
                random.i32(1..4)
            } else {
                0
            },
            fails_for_good: random.u8(..24) == 0,
            contributes: random.bool(),
            live: (random.u8(..6) == 0).then(|| random.usize(..LIVE_STATES.len())),
        };
        let policy = pb::TaskPolicy {
            // Lost attempts count: most tasks are to outlive any number of them.
            max_attempts: if random.u8(..10) == 0 { 3 } else { 1_000 },
            lease_duration: wire::millis(super::LEASE_MS),
            attempt_timeout: too_long.then(|| wire::millis(LIMIT_MS)).flatten(),
            retry_initial_delay: wire::millis(20),
            retry_max_delay: wire::millis(200),
            ..pb::TaskPolicy::default()
        };
        let delayed = random.u8(..6) == 0;
        let delay = Duration::from_millis(random.u64(1..3_000));
        let mut labels = BTreeMap::from([retries::label()]);
        if job.contributes {
            labels.insert("contributes".to_owned(), "yes".to_owned());
        }
        if let Some(live) = job.live {
            labels.insert("live".to_owned(), live.to_string());
        }
        let (queue, concurrency_key) = queues::choose(random);
        let input = pb::Payload {
            content_type: "application/json".to_owned(),
            data: serde_json::to_vec(&job).expect("a job is JSON").into(),
            ..pb::Payload::default()
        };
        let (task_id, request_id) = match random.u8(..3) {
            0 => (format!("t-{uuid}"), String::new()),
            1 => (format!("t-{uuid}"), uuid),
            _ => (String::new(), uuid),
        };
        pb::CreateTaskRequest {
            parent: PARENT.to_owned(),
            task_id,
            request_id,
            task: Some(pb::Task {
                r#type: "work".to_owned(),
                queue: queue.to_owned(),
                fairness_key: random.choice(TENANTS).unwrap_or_default().to_owned(),
                concurrency_key,
                priority: random.i32(0..10),
                input: Some(input),
                labels,
                policy: Some(policy),
                schedule_time: delayed.then(|| (SystemTime::now() + delay).into()),
                ..pb::Task::default()
            }),
        }
    }

    async fn submit(&mut self) {
        let request = self.request();
        let task = self.create(&request).await;
        self.acknowledged(request, task);
    }

    /// Submits one until it is answered.
    async fn create(&mut self, request: &pb::CreateTaskRequest) -> pb::Task {
        loop {
            self.note("submits", &[request]);
            let mut tasks = Tasks::new(self.shared.channel.clone());
            match tasks.create_task(limited(request.clone())).await {
                Ok(answer) => return answer.into_inner().task.expect("an answer has its task"),
                Err(status) => self.shared.excuse("CreateTask", &status).await,
            }
        }
    }

    async fn submit_batch(&mut self) {
        let count = self.random.usize(2..12);
        let mut waiting: Vec<_> = (0..count).map(|_| self.request()).collect();
        while !waiting.is_empty() {
            let requests: Vec<_> = waiting.iter().collect();
            self.note("submits", &requests);
            let request = pb::BatchCreateTasksRequest {
                parent: PARENT.to_owned(),
                requests: waiting.clone(),
            };
            let mut tasks = Tasks::new(self.shared.channel.clone());
            let results = match tasks.batch_create_tasks(limited(request)).await {
                Ok(answer) => answer.into_inner().results,
                Err(status) => {
                    self.shared.excuse("BatchCreateTasks", &status).await;
                    continue;
                }
            };
            assert_eq!(results.len(), waiting.len(), "a result for each");
            let asked = std::mem::take(&mut waiting);
            for (request, result) in asked.into_iter().zip(results) {
                match result.result.expect("a result is one of two") {
                    create_task_result::Result::Task(task) => self.acknowledged(request, task),
                    create_task_result::Result::Error(error) => {
                        let code = Code::from(error.code);
                        let details = prost::Message::encode_to_vec(&error).into();
                        let status = Status::with_details(code, error.message, details);
                        self.shared
                            .excuse("an item of BatchCreateTasks", &status)
                            .await;
                        waiting.push(request);
                    }
                }
            }
        }
    }

    fn note(&self, what: &str, requests: &[&pb::CreateTaskRequest]) {
        for request in requests {
            let (id, request_id) = (&request.task_id, &request.request_id);
            self.shared
                .log
                .line(format_args!("{what} id={id} request={request_id}"));
        }
    }

    fn acknowledged(&mut self, request: pb::CreateTaskRequest, task: pb::Task) {
        self.saw(&task);
        let slow = request.task.as_ref().and_then(|task| task.input.as_ref());
        let slow = slow.and_then(|input| serde_json::from_slice::<Job>(&input.data).ok());
        let slow = slow.is_some_and(|job| job.millis > 1_000);
        if self.random.u8(..12) == 0 || slow {
            let later = if slow { 200..3_000 } else { 0..400 };
            let due = clock::now() + self.random.u64(later) * MILLISECOND;
            self.due.push((due, task.name.clone()));
        }
        self.seen.submissions.push(Submission {
            request_id: key(&request),
            acknowledged: vec![(task.name, task.uid)],
        });
        self.recent.push(request);
        if self.recent.len() > 50 {
            self.recent.swap_remove(self.random.usize(..50));
        }
    }

    /// Submits again what was acknowledged, as a client does that lost the answer; or another task
    /// under its id, which must be refused.
    async fn repeat(&mut self) {
        let Some(mut request) = self.random.choice(&self.recent).cloned() else {
            return;
        };
        let key = key(&request);
        if self.random.u8(..4) > 0 {
            let task = self.create(&request).await;
            self.saw(&task);
            let mut known = self.seen.submissions.iter_mut();
            let known = known.find(|submission| submission.request_id == key);
            known
                .expect("it was acknowledged")
                .acknowledged
                .push((task.name, task.uid));
            return;
        }
        let task = request.task.as_mut().expect("it has a task");
        task.r#type = "other".to_owned();
        loop {
            let mut tasks = Tasks::new(self.shared.channel.clone());
            match tasks.create_task(limited(request.clone())).await {
                Err(status) if status.code() == Code::AlreadyExists => {
                    assert_eq!(wire::reason(&status), "TASK_EXISTS", "{status:?}");
                    return;
                }
                Err(status) => self.shared.excuse("CreateTask", &status).await,
                Ok(answer) => panic!("{key} was taken with another task: {answer:?}"),
            }
        }
    }

    /// Reads a task.
    async fn look(&mut self) {
        let submissions = &self.seen.submissions;
        let Some(submission) = self.random.choice(submissions) else {
            return;
        };
        let request = pb::GetTaskRequest {
            name: submission.acknowledged[0].0.clone(),
            ..pb::GetTaskRequest::default()
        };
        let mut tasks = Tasks::new(self.shared.channel.clone());
        match tasks.get_task(limited(request)).await {
            Ok(answer) => {
                let task = answer.into_inner().task.expect("an answer has its task");
                self.saw(&task);
            }
            Err(status) => self.shared.excuse("GetTask", &status).await,
        }
    }

    async fn cancel_due(&mut self, now: u64) {
        let due = std::mem::take(&mut self.due);
        let (due, later): (Vec<_>, Vec<_>) = due.into_iter().partition(|(at, _)| *at <= now);
        self.due = later;
        for (_, name) in due {
            self.cancel(name).await;
        }
    }

    async fn cancel(&mut self, name: String) {
        let request = pb::CancelTaskRequest {
            name: name.clone(),
            reason: "chaos".to_owned(),
            ..pb::CancelTaskRequest::default()
        };
        loop {
            self.shared.log.line(format_args!("cancels {name}"));
            let mut tasks = Tasks::new(self.shared.channel.clone());
            match tasks.cancel_task(limited(request.clone())).await {
                Ok(answer) => {
                    let at = clock::now();
                    let task = answer.into_inner().task.expect("an answer has its task");
                    self.saw(&task);
                    let done = task.status() == TaskStatus::Cancelled;
                    self.seen.cancels.push(Cancel {
                        task: name,
                        at,
                        done,
                    });
                    return;
                }
                Err(status) if status.code() == Code::FailedPrecondition => {
                    assert_eq!(wire::reason(&status), "TASK_TERMINAL", "{status:?}");
                    return;
                }
                Err(status) => self.shared.excuse("CancelTask", &status).await,
            }
        }
    }

    fn saw(&mut self, task: &pb::Task) {
        let (name, status) = (&task.name, task.status());
        let (revision, attempt) = (task.revision, task.attempt);
        self.shared.log.line(format_args!(
            "saw {name} {status:?} at {revision}, attempt {attempt}"
        ));
        self.seen.sightings.push(Sighting {
            task: task.name.clone(),
            revision: task.revision,
            status,
        });
    }

    /// Repeats tasks that failed or were cancelled.
    async fn repeat_failed(&mut self) {
        for task in retries::repeat(&self.shared, &mut self.random).await {
            self.saw(&task);
            let repetition = retries::repetition(&task);
            let repetition = repetition.expect("what RetryTasks made says of what");
            self.seen.repetitions.push(repetition);
        }
    }
}

/// What a request is known by.
fn key(request: &pb::CreateTaskRequest) -> String {
    format!("{}/{}", request.task_id, request.request_id)
}

/// A call with a deadline.
pub(super) fn limited<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}
