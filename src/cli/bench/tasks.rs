//! `duite bench tasks`: tasks through their whole life, every step durable.
//!
//! First as many as can be: submitters and workers side by side, batch calls throughout, a bounded
//! number of tasks under way. Then one at a time on the idle server: from the submit to the start
//! of its handler.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use prost::Message;
use tokio::sync::Semaphore;
use tonic::transport::Channel;
use uuid::Uuid;

use super::{
    Error,
    args::CommonArgs,
    fill,
    measure::{Latency, Meter},
    payload::{self, PARENT},
    session::{Session, Span, connect, connect_many},
    submit::BatchClient,
    wait::Crew,
};
use crate::proto::v1::{
    self, outcome_result, task_outcome, task_service_client::TaskServiceClient,
    worker_service_client::WorkerServiceClient,
};

const LEASE: &str = "LeaseTasks";
const FINISH: &str = "FinishTasks";
/// How long workers and submitters may take to end.
const GRACE: Duration = Duration::from_secs(30);
/// How long a lease call waits for work.
pub(super) const POLL: Duration = Duration::from_secs(1);
/// How long the second part may take, on a machine on which each task takes ever so long.
const SINGLES_WITHIN: Duration = Duration::from_secs(120);
/// Below this a p99 is the latency of a handful of tasks.
const LEAST_SINGLES: u32 = 2_000;

#[derive(Args, Debug)]
pub(super) struct TasksArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Workers, each leasing and finishing in a loop
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    workers: u16,
    /// Submitters, each with a call in flight
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    submitters: u16,
    /// Tasks of one call
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch: u16,
    /// Tasks submitted and not finished, at most
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    under_way: u32,
    /// Tasks that wait all the while, in ten other queues
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2_000_000))]
    waiting: u32,
    /// Tasks submitted one at a time in the second part; a p99 wants 2,000
    #[arg(long, value_name = "N", default_value_t = 2_500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    single: u32,
}

pub(super) async fn run(args: TasksArgs) -> Result<(), Error> {
    let TasksArgs {
        workers,
        submitters,
        batch,
        waiting,
        ..
    } = &args;
    let others = if *waiting > 0 {
        format!(", {waiting} others waiting")
    } else {
        String::new()
    };
    let title =
        format!("tasks: {submitters} submitters, {workers} workers, {batch} tasks a call{others}");
    let mut session = Session::start(&args.common, title).await?;
    session.require_calls().await?;
    measure(&args, &mut session).await?;
    session.finish().await
}

async fn measure(args: &TasksArgs, session: &mut Session) -> Result<(), Error> {
    session.progress.step("filling other queues");
    let address = session.target.address();
    let queues = fill::waiting_queues();
    fill::fill(address, &queues, args.waiting, payload::INPUT_BYTES).await?;
    let before = bare_tasks_per_s(args, session).await?;
    let rate = whole_lives(args, session).await?;
    let after = bare_tasks_per_s(args, session).await?;
    if let (Some(before), Some(after)) = (before, after) {
        let what = "three bare echoes after a shared fdatasync, tasks";
        session.report.add_ratio(rate, what, before, after);
    }
    let latency = one_at_a_time(args, session).await?;
    let report = &mut session.report;
    report.add_latency("", "submitted to handler start, idle", &latency);
    report.add("singles", "  tasks one at a time", latency.count() as f64);
    if latency.count() < LEAST_SINGLES.into() {
        report.note(format!(
            "a p99 of {} tasks says little; use --single {LEAST_SINGLES} or more",
            latency.count()
        ));
    }
    Ok(())
}

/// Each task takes three durable calls: what bare calls of the same batches would make of that.
async fn bare_tasks_per_s(args: &TasksArgs, session: &Session) -> Result<Option<f64>, Error> {
    let Some(bare) = &session.bare else {
        return Ok(None);
    };
    session
        .progress
        .step("ceiling: bare unary echo after a shared fdatasync");
    let request = Bytes::from(payload::create_tasks("bench", args.batch.into()).encode_to_vec());
    let in_flight = usize::from(args.workers) + usize::from(args.submitters);
    let calls = bare
        .unary(request, in_flight, true, session.output.slice())
        .await?
        .calls_per_s;
    Ok(Some(calls * f64::from(args.batch) / 3.0))
}

async fn whole_lives(args: &TasksArgs, session: &mut Session) -> Result<f64, Error> {
    session.progress.step("submitting, leasing, finishing");
    let crew_size = usize::from(args.workers) + usize::from(args.submitters);
    let channels = connect_many(session.target.address(), crew_size.min(8)).await?;
    let queue = format!("bench-{}", Uuid::new_v4().simple());
    let meter = Meter::start(session.output.warm_up(), session.output.duration);
    let room = Arc::new(Semaphore::new(args.under_way as usize));
    let mut crew = Crew::new();
    for index in 0..crew_size {
        let channel = channels[index % channels.len()].clone();
        let (room, meter, queue) = (Arc::clone(&room), meter.clone(), queue.clone());
        match index < args.workers.into() {
            true => crew.spawn(work(Worker::new(channel, queue), args.batch, room, meter)),
            false => crew.spawn(submit(channel, queue, args.batch, room, meter)),
        }
    }
    let span = crew.during(Span::over(&meter, &session.target)).await??;
    room.close();
    crew.join(GRACE, "the end of the workers").await?;
    let rate = span.per_second();
    if rate == 0.0 {
        return Err(Error::NothingMeasured("no task was finished"));
    }
    let report = &mut session.report;
    report.add("tasks_per_s", "finished tasks", rate);
    span.add_server(report, "task");
    span.add_disk(report, "task");
    Ok(rate)
}

async fn submit(
    channel: Channel,
    queue: String,
    batch: u16,
    room: Arc<Semaphore>,
    meter: Meter,
) -> Result<(), Error> {
    let mut client = BatchClient::new(channel, &queue, payload::INPUT_BYTES);
    while meter.running() {
        // Closed when the measurement has ended.
        let Ok(permit) = room.acquire_many(batch.into()).await else {
            return Ok(());
        };
        client.create(batch.into()).await?;
        permit.forget(); // the worker that finishes the tasks gives it back
    }
    Ok(())
}

async fn work(
    mut worker: Worker,
    batch: u16,
    room: Arc<Semaphore>,
    meter: Meter,
) -> Result<(), Error> {
    while meter.running() {
        let leases = worker.lease(batch.into(), POLL).await?;
        if leases.is_empty() {
            continue;
        }
        let finished = worker.finish(leases).await?;
        meter.add(finished as u64);
        room.add_permits(finished);
    }
    Ok(())
}

async fn one_at_a_time(args: &TasksArgs, session: &Session) -> Result<Latency, Error> {
    session.progress.step("one at a time");
    let queue = format!("bench-{}", Uuid::new_v4().simple());
    let address = session.target.address();
    let mut client = TaskServiceClient::new(connect(address).await?);
    let mut worker = Worker::new(connect(address).await?, queue.clone());
    let until = Instant::now() + SINGLES_WITHIN;
    let mut latency = Latency::new();
    for _ in 0..args.single {
        if Instant::now() >= until {
            break;
        }
        let mut poll = worker.clone();
        let leased = tokio::spawn(async move {
            let leases = poll.lease(1, GRACE).await;
            (Instant::now(), leases)
        });
        // The worker asks first, as an idle one does; a moment is enough for that on one machine.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let submitted = Instant::now();
        let request = payload::create_task(&queue);
        client
            .create_task(request)
            .await
            .map_err(Error::call("CreateTask"))?;
        let (started, leases) = leased.await.map_err(|_| Error::Panicked)?;
        let leases = leases?;
        if leases.len() != 1 {
            return Err(Error::unexpected(
                LEASE,
                format!("{} leases for one task", leases.len()),
            ));
        }
        latency.record(started - submitted);
        worker.finish(leases).await?;
    }
    Ok(latency)
}

/// A worker whose handler does nothing.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    client: WorkerServiceClient<Channel>,
    queue: String,
    worker_id: String,
    instance_uid: String,
}

impl Worker {
    pub(super) fn new(channel: Channel, queue: String) -> Self {
        let instance_uid = Uuid::new_v4().to_string();
        let worker_id = format!("bench-{instance_uid}");
        Self {
            client: WorkerServiceClient::new(channel),
            queue,
            worker_id,
            instance_uid,
        }
    }

    /// What the queue hands out, within `wait`.
    pub(super) async fn lease(
        &mut self,
        max_tasks: i32,
        wait: Duration,
    ) -> Result<Vec<v1::Lease>, Error> {
        let wait = prost_types::Duration {
            seconds: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            nanos: 0,
        };
        let request = v1::LeaseTasksRequest {
            parent: PARENT.to_owned(),
            queues: vec![self.queue.clone()],
            task_types: vec!["bench.noop".to_owned()],
            max_tasks,
            wait: Some(wait),
            worker_id: self.worker_id.clone(),
            instance_uid: self.instance_uid.clone(),
        };
        let answer = self
            .client
            .lease_tasks(request)
            .await
            .map_err(Error::call(LEASE))?;
        Ok(answer.into_inner().leases)
    }

    /// Reports all as succeeded; says how many.
    pub(super) async fn finish(&mut self, leases: Vec<v1::Lease>) -> Result<usize, Error> {
        let outcomes = leases.into_iter().map(|lease| v1::TaskOutcome {
            lease_token: lease.lease_token,
            outcome: Some(task_outcome::Outcome::Output(v1::Payload::default())),
            ..v1::TaskOutcome::default()
        });
        let outcomes: Vec<_> = outcomes.collect();
        let count = outcomes.len();
        let request = v1::FinishTasksRequest {
            outcomes,
            request_id: Uuid::new_v4().to_string(),
        };
        let answer = self
            .client
            .finish_tasks(request)
            .await
            .map_err(Error::call(FINISH))?;
        let results = answer.into_inner().results;
        if results.len() != count {
            let what = format!("{} results for {count} outcomes", results.len());
            return Err(Error::unexpected(FINISH, what));
        }
        for result in results {
            if let Some(outcome_result::Result::Error(error)) = result.result {
                let what = format!("an outcome is refused: {}", error.message);
                return Err(Error::unexpected(FINISH, what));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::fake;

    #[tokio::test]
    async fn tasks_live_their_whole_lives_beside_others_that_wait() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            tasks: TasksArgs,
        }
        let address = fake::start().await;
        let fixed = [
            "tasks",
            "--no-ceiling",
            "--duration",
            "200ms",
            "--addr",
            &address,
        ];
        let more = [
            "--single",
            "5",
            "--waiting",
            "50",
            "--batch",
            "10",
            "--under-way",
            "1000",
        ];
        let args = <Cli as clap::Parser>::parse_from(fixed.iter().chain(&more)).tasks;
        let mut session = Session::start(&args.common, "tasks".to_owned())
            .await
            .unwrap();
        measure(&args, &mut session).await.unwrap();
        assert!(session.report.value("tasks_per_s").unwrap() > 0.0);
        assert!(session.report.value("p50_us").unwrap() > 0.0);
        assert_eq!(session.report.value("singles"), Some(5.0));
    }
}
