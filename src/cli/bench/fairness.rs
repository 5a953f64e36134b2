//! `duite bench fairness`: what one modest writer feels of writers that flood the server.
//!
//! The modest one has one batch in flight on a state, a connection and a thread of its own. The
//! others fill their windows on another state, of the same namespace or of another one.

use std::{sync::Arc, time::Duration};

use clap::Args;

use super::{
    Error,
    args::CommonArgs,
    measure::Meter,
    pairs::{self, PairArgs, Pairs, Side},
    payload::{BatchSource, PushFrame, fresh_state_name, fresh_state_name_in},
    push::{
        flow::{Flow, Limits},
        writer,
    },
    session::{Session, connect, connect_many},
    thread::on_own_thread,
    wait::{self, Crew},
};

/// Where the flood goes that must be felt least.
const OTHER_NAMESPACE: &str = "namespaces/bench-other";
/// How long the last acknowledgements may take.
const GRACE: Duration = Duration::from_secs(30);
/// Between two looks at whether all is acknowledged.
const LOOK: Duration = Duration::from_millis(2);

#[derive(Args, Debug)]
pub(super) struct FairnessArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(flatten)]
    pairs: PairArgs,
    /// Writers that flood one state together, each on a connection of its own
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    writers: u16,
    /// Window that each of them asks the server for, in batches
    #[arg(long, value_name = "N", default_value_t = 4_096, value_parser = clap::value_parser!(i32).range(1..=1_000_000))]
    window: i32,
}

pub(super) async fn run(args: FairnessArgs) -> Result<(), Error> {
    let title = format!(
        "fairness: one writer with one batch in flight, beside {} that flood another state",
        args.writers
    );
    let mut session = Session::start(&args.common, title).await?;
    session.require_streams().await?;
    measure(&args, &mut session).await?;
    session.finish().await
}

async fn measure(args: &FairnessArgs, session: &mut Session) -> Result<(), Error> {
    let mut crew = Crew::new();
    let source = Arc::new(BatchSource::new());
    let (modest, meter) = modest_writer(session.target.address().to_owned(), &source, &mut crew)?;
    let floods = [
        ("same_namespace_", "flood", fresh_state_name()),
        (
            "other_namespace_",
            "flood in another namespace",
            fresh_state_name_in(OTHER_NAMESPACE),
        ),
    ];
    for (prefix, what, state) in floods {
        session.progress.step(what);
        let flood = Flood::start(args, session, &source, &state, &mut crew).await?;
        let slice = args.pairs.slice(&session.output);
        let pairs = Pairs::take(args.pairs.pairs, async |side| {
            flood.switch(side == Side::With).await?;
            let before = flood.meter.reading();
            let latency = crew.during(pairs::slice(&meter, slice)).await??;
            flood.count(side, before);
            Ok(latency)
        });
        let pairs = pairs.await?;
        flood.stop();
        let report = &mut session.report;
        pairs.add_to(report, prefix, what);
        let rate = flood.per_second();
        report.add(
            format!("{prefix}flood_batches_per_s"),
            "  acknowledged batches of the flood",
            rate,
        );
    }
    modest.stop();
    crew.join(GRACE, "the last acknowledgements").await?;
    Ok(())
}

/// Starts the writer whose latency is measured.
fn modest_writer(
    address: String,
    source: &Arc<BatchSource>,
    crew: &mut Crew<()>,
) -> Result<(Arc<Flow>, Meter), Error> {
    let limits = Limits {
        per_frame: 1,
        in_flight: 1,
        ..Limits::default()
    };
    let open = PushFrame::open(&fresh_state_name(), 1);
    let flow = Flow::new(Arc::clone(source), open, limits);
    let meter = Meter::open_ended();
    let (its_flow, its_meter) = (Arc::clone(&flow), meter.clone());
    let thread = on_own_thread("bench-modest", move || async move {
        writer::write(connect(&address).await?, its_flow, its_meter).await
    });
    crew.spawn(thread?.join());
    Ok((flow, meter))
}

/// The writers that push as much as they may while they are let.
#[derive(Debug)]
struct Flood {
    flows: Vec<Arc<Flow>>,
    meter: Meter,
    /// Batches and seconds of the slices with the flood.
    counted: parking_lot::Mutex<(u64, f64)>,
}

impl Flood {
    async fn start(
        args: &FairnessArgs,
        session: &Session,
        source: &Arc<BatchSource>,
        state: &str,
        crew: &mut Crew<()>,
    ) -> Result<Self, Error> {
        let meter = Meter::open_ended();
        let mut flows = Vec::new();
        for channel in connect_many(session.target.address(), args.writers.into()).await? {
            let open = PushFrame::open(state, args.window);
            let flow = Flow::new(Arc::clone(source), open, Limits::default());
            flow.hold(true);
            crew.spawn(writer::write(channel, Arc::clone(&flow), meter.clone()));
            flows.push(flow);
        }
        let counted = parking_lot::Mutex::default();
        Ok(Self {
            flows,
            meter,
            counted,
        })
    }

    /// Lets the writers go, or holds them until nothing of theirs is under way.
    async fn switch(&self, on: bool) -> Result<(), Error> {
        self.flows.iter().for_each(|flow| flow.hold(!on));
        if on {
            return Ok(());
        }
        wait::at_most(GRACE, "the end of the flood", async {
            while !self.flows.iter().all(|flow| flow.is_settled()) {
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        })
        .await
    }

    /// Adds what was acknowledged since `before`.
    fn count(&self, side: Side, before: super::measure::Reading) {
        let now = self.meter.reading();
        if side == Side::With {
            let mut counted = self.counted.lock();
            counted.0 += now.done - before.done;
            counted.1 += (now.at - before.at).as_secs_f64();
        }
    }

    fn per_second(&self) -> f64 {
        let (batches, seconds) = *self.counted.lock();
        batches as f64 / seconds.max(f64::MIN_POSITIVE)
    }

    fn stop(&self) {
        self.flows.iter().for_each(|flow| flow.stop());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::fake;

    #[tokio::test]
    async fn both_floods_run_and_are_compared_with_their_absence() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            fairness: FairnessArgs,
        }
        let address = fake::start().await;
        let line = "fairness --no-ceiling --pairs 2 --duration 200ms --writers 2 --window 50";
        let line = line.split(' ').chain(["--addr", &address]);
        let args = <Cli as clap::Parser>::parse_from(line).fairness;
        let mut session = Session::start(&args.common, "fairness".to_owned())
            .await
            .unwrap();
        measure(&args, &mut session).await.unwrap();
        for prefix in ["same_namespace_", "other_namespace_"] {
            let value = |field| session.report.value(&format!("{prefix}{field}")).unwrap();
            assert!(value("p50_without_us") > 0.0 && value("p99_ratio") > 0.0);
            assert!(value("flood_batches_per_s") > 0.0);
            assert_eq!(value("pairs"), 2.0);
        }
    }
}
