//! `duite bench slow`: what a watcher that never reads costs those who write.
//!
//! A hundred writers push in a closed loop to one state. Slices without and with one watcher of
//! that state, which reads its first view and then no more, follow each other on the same server.
//! After each slice with it the watcher reads at last, and must be up to date after few frames.

mod watcher;

use std::{sync::Arc, time::Duration};

use clap::Args;

use self::watcher::{CaughtUp, SlowWatcher};
use super::{
    Error,
    args::CommonArgs,
    measure::{Latency, Meter},
    pairs::{self, PairArgs, Pairs, Quartiles, Side},
    payload::{self, BatchSource, PushFrame, fresh_state_name},
    push::{
        flow::{Flow, Limits},
        writer,
    },
    session::{Session, connect, connect_many},
    wait::{self, Crew},
};
use crate::proto::v1::{self, state_service_client::StateServiceClient, value::Kind};

/// How long acknowledgements and the reading of the slow watcher may take.
const GRACE: Duration = Duration::from_secs(30);
/// Between two looks at whether all is acknowledged.
const LOOK: Duration = Duration::from_millis(2);

#[derive(Args, Debug)]
pub(super) struct SlowArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Writers of the one state
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    writers: u16,
    /// Connections that the writers share
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Batches that a writer leaves unacknowledged at most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    in_flight: u64,
}

pub(super) async fn run(args: SlowArgs) -> Result<(), Error> {
    let title = format!(
        "slow: {} writers of one state, with and without a watcher that never reads",
        args.writers
    );
    let mut session = Session::start(&args.common, title).await?;
    session.require_streams().await?;
    measure(&args, &mut session).await?;
    session.finish().await
}

async fn measure(args: &SlowArgs, session: &mut Session) -> Result<(), Error> {
    session.progress.step("pushing");
    let state = fresh_state_name();
    let mut writers = Writers::start(args, session, &state).await?;
    let probe = connect(session.target.address()).await?;
    let slice = args.pairs.slice(&session.output);
    // Not counted: the state gets its keys, the server its threads and buffers.
    writers.slice(session.output.warm_up()).await?;
    let mut memory = Memory::default();
    memory.sample(session)?;
    let mut reads = Vec::new();
    let pairs = Pairs::take(args.pairs.pairs, async |side| {
        writers.go();
        let slow = match side {
            Side::Without => None,
            Side::With => {
                let opened = SlowWatcher::open(session.target.address(), &state);
                Some(wait::at_most(GRACE, "the slow watcher's first view", opened).await?)
            }
        };
        let latency = writers.slice(slice).await?;
        memory.sample(session)?;
        writers.settle().await?;
        if let Some(slow) = slow {
            let last = last_revision(&probe, &state).await?;
            let read = slow.catch_up(last);
            reads.push(wait::at_most(GRACE, "the slow watcher's last view", read).await?);
        }
        Ok(latency)
    });
    let pairs = pairs.await?;
    writers.stop().await?;
    pairs.add_to(&mut session.report, "", "a watcher that never reads");
    add_reads(&reads, session);
    memory.add_to(session);
    Ok(())
}

/// A revision after everything that was pushed.
async fn last_revision(channel: &tonic::transport::Channel, state: &str) -> Result<i64, Error> {
    let request = v1::UpdateStateRequest {
        name: state.to_owned(),
        updates: vec![payload::put(0, Kind::Boolean(true))],
        ..Default::default()
    };
    let answer = StateServiceClient::new(channel.clone())
        .update_state(request)
        .await
        .map_err(Error::call("UpdateState"))?;
    answer
        .into_inner()
        .position
        .map(|position| position.revision)
        .ok_or_else(|| Error::unexpected("UpdateState", "no position"))
}

fn add_reads(reads: &[CaughtUp], session: &mut Session) {
    let report = &mut session.report;
    let of = |value: fn(&CaughtUp) -> f64| Quartiles::of(reads.iter().map(value));
    if let Some(frames) = of(|read| read.frames as f64) {
        report.add(
            "slow_watcher_frames",
            "frames until it was up to date, median",
            frames.median,
        );
    }
    if let Some(commits) = of(|read| read.commits as f64) {
        report.add(
            "slow_watcher_commits",
            "commits that these stood for, median",
            commits.median,
        );
    }
    if let Some(micros) = of(|read| read.micros) {
        report.add(
            "slow_watcher_read_us",
            "time to read them, median",
            micros.median,
        );
    }
    let stalled = reads.iter().filter(|read| read.stalled()).count();
    report.add(
        "slow_watcher_stalled_slices",
        "slices in which its window was full and the server folded",
        stalled as f64,
    );
    if stalled < reads.len() {
        report.note(format!(
            "in {} of {} slices the window of the watcher did not fill; use a longer --duration",
            reads.len() - stalled,
            reads.len()
        ));
    }
}

/// Resident memory of the server over the run.
#[derive(Debug, Default)]
struct Memory(Vec<f64>);

impl Memory {
    fn sample(&mut self, session: &Session) -> Result<(), Error> {
        let usage = session.target.usage()?;
        self.0
            .extend(usage.map(|usage| usage.resident_bytes as f64 / 1e6));
        Ok(())
    }

    fn add_to(&self, session: &mut Session) {
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else {
            return;
        };
        let most = self.0.iter().copied().fold(*first, f64::max);
        let report = &mut session.report;
        report.add(
            "server_rss_start_mb",
            "server memory at the beginning",
            *first,
        );
        report.add("server_rss_end_mb", "server memory at the end", *last);
        report.add("server_rss_most_mb", "server memory at its highest", most);
    }
}

/// The writers, all of one state.
#[derive(Debug)]
struct Writers {
    flows: Vec<Arc<Flow>>,
    crew: Crew<()>,
    meter: Meter,
}

impl Writers {
    async fn start(args: &SlowArgs, session: &Session, state: &str) -> Result<Self, Error> {
        let connections = args.connections.min(args.writers).into();
        let channels = connect_many(session.target.address(), connections).await?;
        let source = BatchSource::new();
        let meter = Meter::open_ended();
        let limits = Limits {
            in_flight: args.in_flight,
            ..Limits::default()
        };
        let mut flows = Vec::new();
        let mut crew = Crew::new();
        let channels = channels.iter().cycle().take(args.writers.into());
        for (index, channel) in channels.enumerate() {
            // Else all would write the same keys at the same time, and a commit would hold few.
            let source = Arc::new(source.beginning_at(index, args.writers.into()));
            let open = PushFrame::open(state, i32::try_from(args.in_flight).unwrap_or(i32::MAX));
            let flow = Flow::new(source, open, limits);
            crew.spawn(writer::write(
                channel.clone(),
                Arc::clone(&flow),
                meter.clone(),
            ));
            flows.push(flow);
        }
        Ok(Self { flows, crew, meter })
    }

    fn go(&self) {
        self.flows.iter().for_each(|flow| flow.hold(false));
    }

    async fn slice(&mut self, slice: Duration) -> Result<Latency, Error> {
        self.crew.during(pairs::slice(&self.meter, slice)).await?
    }

    /// Holds the writers until all they have sent is acknowledged.
    async fn settle(&mut self) -> Result<(), Error> {
        self.flows.iter().for_each(|flow| flow.hold(true));
        let flows = &self.flows;
        let settled = self.crew.during(async {
            while !flows.iter().all(|flow| flow.is_settled()) {
                tokio::time::sleep(LOOK).await;
            }
        });
        wait::at_most(GRACE, "the last acknowledgements", settled).await
    }

    async fn stop(self) -> Result<(), Error> {
        self.flows.iter().for_each(|flow| flow.stop());
        self.crew.join(GRACE, "the end of the writers").await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::fake;

    #[tokio::test]
    async fn slices_with_the_watcher_are_compared_and_it_catches_up() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            slow: SlowArgs,
        }
        let address = fake::start().await;
        let line = "slow --no-ceiling --pairs 2 --duration 200ms --writers 3 --connections 2";
        let line = line.split(' ').chain(["--addr", &address]);
        let args = <Cli as clap::Parser>::parse_from(line).slow;
        let mut session = Session::start(&args.common, "slow".to_owned())
            .await
            .unwrap();
        measure(&args, &mut session).await.unwrap();
        let value = |field| session.report.value(field);
        assert!(value("p99_ratio").unwrap() > 0.0);
        assert!(value("p50_without_us").unwrap() > 0.0);
        assert!(value("slow_watcher_frames").unwrap() >= 1.0);
        assert!(
            value("slow_watcher_commits").unwrap() >= value("slow_watcher_frames").unwrap() - 1.0
        );
        assert_eq!(value("server_rss_start_mb"), None);
    }
}
