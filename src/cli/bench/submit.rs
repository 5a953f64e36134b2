//! `duite bench submit`: many clients create tasks, each acknowledged when it is durable.
//!
//! Beside batches the bare disk is measured too: entries of the size that the journal has for these
//! tasks, as many in a commit as the server could put into one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use prost::Message;
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    Error,
    args::CommonArgs,
    ceiling::{self, Store},
    measure::Meter,
    payload::{self, CreatedBatch, TaskBatch, TaskSource},
    session::{Session, Span, connect_many},
    stored,
    wait::Crew,
};
use crate::proto::v1::{self, task_service_client::TaskServiceClient};

const CALL: &str = "CreateTask";
const BATCH_CALL: &str = "BatchCreateTasks";
/// How long the last call may take.
const GRACE: Duration = Duration::from_secs(30);
/// Largest commit that the bare disk is measured with: the most that the server puts into one
/// (`MAX_WORK_PER_GROUP` of its monitor), so that the two differ in what they do, not in how much at once.
const MOST_ENTRIES: u64 = 2_048;

#[derive(Args, Debug)]
pub(super) struct SubmitArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Calls in flight
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    concurrency: u16,
    /// Connections that the calls share
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Submit this many tasks with each call, through BatchCreateTasks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    batch: Option<u16>,
}

impl SubmitArgs {
    fn tasks_per_call(&self) -> u64 {
        self.batch.unwrap_or(1).into()
    }
}

pub(super) async fn run(args: SubmitArgs) -> Result<(), Error> {
    let batch = args
        .batch
        .map_or(String::new(), |batch| format!(" of {batch} tasks each"));
    let title = format!("submit: {} calls in flight{batch}", args.concurrency);
    let mut session = Session::start(&args.common, title).await?;
    session.require_calls().await?;
    measure(&args, &mut session).await?;
    session.finish().await
}

async fn measure(args: &SubmitArgs, session: &mut Session) -> Result<(), Error> {
    let before = Bare::measure(args, session).await?;
    let rate = submit(args, session).await?;
    let after = Bare::measure(args, session).await?;
    let (Some(before), Some(after)) = (before, after) else {
        return Ok(());
    };
    let report = &mut session.report;
    let what = "bare unary echo after a shared fdatasync, tasks";
    report.add_ratio(rate, what, before.tasks_per_s, after.tasks_per_s);
    if let (Some(before), Some(after)) = (before.disk, after.disk) {
        for (index, store) in ["append", "fjall"].into_iter().enumerate() {
            let bare = (before[index] + after[index]) / 2.0;
            report.add(
                format!("bare_{store}_per_s"),
                format!("bare {store} + sync: entries"),
                bare,
            );
            report.add(
                format!("ratio_to_{store}"),
                format!("ratio to bare {store}"),
                rate / bare,
            );
            let what = format!("readings of bare {store}");
            report.note_spread(&what, before[index], after[index]);
        }
    }
    Ok(())
}

/// The ceilings of one moment.
#[derive(Debug)]
struct Bare {
    tasks_per_s: f64,
    /// Entries a second by hand and through fjall; for batches only.
    disk: Option<[f64; 2]>,
}

impl Bare {
    async fn measure(args: &SubmitArgs, session: &Session) -> Result<Option<Self>, Error> {
        let Some(bare) = &session.bare else {
            return Ok(None);
        };
        session
            .progress
            .step("ceiling: bare unary echo after a shared fdatasync");
        let slice = session.output.slice();
        let request: Bytes = match args.batch {
            None => payload::create_task("bench").encode_to_vec().into(),
            Some(batch) => payload::create_tasks("bench", batch.into())
                .encode_to_vec()
                .into(),
        };
        let in_flight = args.concurrency.into();
        let calls_per_s = bare
            .unary(request, in_flight, true, slice)
            .await?
            .calls_per_s;
        let tasks_per_s = calls_per_s * args.tasks_per_call() as f64;
        let disk = match args.batch {
            None => None,
            Some(_) => Some(Self::disk(args, session, slice).await?),
        };
        Ok(Some(Self { tasks_per_s, disk }))
    }

    async fn disk(
        args: &SubmitArgs,
        session: &Session,
        slice: Duration,
    ) -> Result<[f64; 2], Error> {
        session.progress.step("ceiling: the bare disk");
        let entries = (args.tasks_per_call() * u64::from(args.concurrency)).min(MOST_ENTRIES);
        let bytes = stored::entry_bytes(&payload::create_task("bench"));
        let folder = &session.output.data;
        let mut rates = [0.0; 2];
        for (rate, store) in rates.iter_mut().zip([Store::File, Store::Fjall]) {
            let disk = ceiling::measure_disk(store, folder, entries, bytes, slice).await?;
            *rate = disk.entries_per_s;
        }
        Ok(rates)
    }
}

async fn submit(args: &SubmitArgs, session: &mut Session) -> Result<f64, Error> {
    session.progress.step("submitting");
    let channels = connect_many(session.target.address(), args.connections.into()).await?;
    let meter = Meter::start(session.output.warm_up(), session.output.duration);
    let mut callers = Crew::new();
    for channel in channels.iter().cycle().take(args.concurrency.into()) {
        callers.spawn(call(channel.clone(), args.batch, meter.clone()));
    }
    let span = callers
        .during(Span::over(&meter, &session.target))
        .await??;
    callers.join(GRACE, "the last answers").await?;
    let rate = span.per_second();
    if rate == 0.0 {
        return Err(Error::NothingMeasured("no task was acknowledged"));
    }
    let report = &mut session.report;
    report.add("tasks_per_s", "acknowledged tasks", rate);
    report.add_latency("", "call sent to acknowledged", &meter.latency());
    span.add_server(report, "task");
    span.add_disk(report, "task");
    Ok(rate)
}

/// Calls one after the other until the meter ends.
async fn call(channel: Channel, batch: Option<u16>, meter: Meter) -> Result<(), Error> {
    let mut client = TaskServiceClient::new(channel.clone());
    let mut batches = BatchClient::new(channel, "bench", payload::INPUT_BYTES);
    while meter.running() {
        let started = Instant::now();
        match batch {
            None => {
                let request = payload::create_task("bench");
                client
                    .create_task(request)
                    .await
                    .map_err(Error::call(CALL))?;
            }
            Some(batch) => batches.create(batch.into()).await?,
        }
        meter.took_since(started);
        meter.add(batch.unwrap_or(1).into());
    }
    Ok(())
}

/// Submits batches, encoded cheaply, and looks at their answers no closer than it must: the load
/// is to take little of the machine.
#[derive(Debug, Clone)]
pub(super) struct BatchClient {
    client: Grpc<Channel>,
    source: TaskSource,
}

impl BatchClient {
    /// Submits to `queue`, each task with an input of `input_bytes`.
    pub(super) fn new(channel: Channel, queue: &str, input_bytes: usize) -> Self {
        Self {
            client: Grpc::new(channel),
            source: TaskSource::of(queue, input_bytes),
        }
    }

    /// Submits `count` tasks with one call; fails when any of them failed.
    pub(super) async fn create(&mut self, count: usize) -> Result<(), Error> {
        let failed = Error::call(BATCH_CALL);
        let ready = self.client.ready().await;
        ready.map_err(|error| failed(tonic::Status::unavailable(error.to_string())))?;
        let path = PathAndQuery::from_static("/duite.v1.TaskService/BatchCreateTasks");
        let codec = ProstCodec::<TaskBatch, CreatedBatch>::default();
        let request = Request::new(self.source.batch(count));
        let answer = self.client.unary(request, path, codec).await;
        let answer = answer.map_err(failed)?.into_inner();
        if answer.results.len() != count {
            let what = format!("{} results for {count} tasks", answer.results.len());
            return Err(Error::unexpected(BATCH_CALL, what));
        }
        if let Some(result) = answer.error() {
            let result = v1::CreateTaskResult::decode(result.clone());
            return Err(Error::unexpected(
                BATCH_CALL,
                format!("a task failed: {result:?}"),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::fake;

    async fn submitted(more: &[&str]) -> Session {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            submit: SubmitArgs,
        }
        let address = fake::start().await;
        let fixed = [
            "submit",
            "--no-ceiling",
            "--duration",
            "200ms",
            "--addr",
            &address,
        ];
        let args = <Cli as clap::Parser>::parse_from(fixed.iter().chain(more)).submit;
        let mut session = Session::start(&args.common, "submit".to_owned())
            .await
            .unwrap();
        measure(&args, &mut session).await.unwrap();
        session
    }

    #[tokio::test]
    async fn single_calls_and_batches_are_counted_in_tasks() {
        let single = submitted(&["--concurrency", "8"]).await.report;
        assert!(single.value("tasks_per_s").unwrap() > 0.0);
        assert!(single.value("p99_us").unwrap() >= single.value("p50_us").unwrap());
        assert_eq!(single.value("ratio_to_ceiling"), None);
        let batched = submitted(&["--concurrency", "2", "--batch", "100"])
            .await
            .report;
        // Fewer than 100 a second would be calls, not tasks, even on a slow machine.
        assert!(batched.value("tasks_per_s").unwrap() > 100.0);
    }
}
