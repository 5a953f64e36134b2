//! `duite bench push`: writers push batches of state, each acknowledged when it is durable.
//!
//! With many batches in flight the result is a rate, beside the bare client stream of the same
//! run. With one writer and one batch in flight it is a latency, beside the bare round trip plus
//! one fdatasync of the same run.

pub(super) mod flow;
pub(super) mod writer;

use std::{sync::Arc, time::Duration};

use clap::Args;

use self::flow::{Flow, Limits};
use super::{
    Error,
    args::CommonArgs,
    ceiling::{self, Bare, PushShape, Store},
    measure::Meter,
    payload::{BatchSource, PushFrame, fresh_state_name},
    session::{Session, Span, connect_many},
    wait::Crew,
};

/// How long the last acknowledgements may take.
const GRACE: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
pub(super) struct PushArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Writers, each with a stream of its own
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    writers: u16,
    /// Connections that the writers share
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,
    /// Window that each writer asks the server for, in batches
    #[arg(long, value_name = "N", default_value_t = 4_096, value_parser = clap::value_parser!(i32).range(1..=1_000_000))]
    window: i32,
    /// Batches that a writer leaves unacknowledged at most, where the server's window is wider
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    in_flight: Option<u64>,
    /// Batches that one frame carries at most
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    batches_per_frame: u16,
    /// Let all writers write one state; else each has its own
    #[arg(long)]
    shared_state: bool,
}

impl PushArgs {
    fn measures_latency(&self) -> bool {
        self.writers == 1 && self.in_flight == Some(1)
    }

    fn shape(&self) -> PushShape {
        PushShape {
            writers: self.writers.into(),
            connections: self.connections.min(self.writers).into(),
            batches_per_frame: self.batches_per_frame.into(),
            decoded: false,
        }
    }

    fn title(&self) -> String {
        let in_flight = self
            .in_flight
            .map_or(String::new(), |n| format!(", {n} in flight"));
        let states = if self.shared_state {
            "one state"
        } else {
            "a state each"
        };
        format!(
            "push: {} writers{in_flight}, {states}, batches of 4 keys",
            self.writers
        )
    }
}

pub(super) async fn run(args: PushArgs) -> Result<(), Error> {
    let mut session = Session::start(&args.common, args.title()).await?;
    session.require_streams().await?;
    match args.measures_latency() {
        true => latency(&args, &mut session).await?,
        false => throughput(&args, &mut session).await?,
    }
    session.finish().await
}

async fn throughput(args: &PushArgs, session: &mut Session) -> Result<(), Error> {
    let source = Arc::new(BatchSource::new());
    let before = bare_push(args, session, &source).await?;
    let batches_per_s = push(args, session, &source).await?;
    let after = bare_push(args, session, &source).await?;
    if let (Some(before), Some(after)) = (before, after) {
        session
            .report
            .add_ratio(batches_per_s, "bare client stream", before, after);
    }
    Ok(())
}

async fn bare_push(
    args: &PushArgs,
    session: &Session,
    source: &Arc<BatchSource>,
) -> Result<Option<f64>, Error> {
    let Some(bare) = &session.bare else {
        return Ok(None);
    };
    session.progress.step("ceiling: bare client stream");
    bare.push(source, args.shape(), session.output.slice())
        .await
        .map(Some)
}

async fn latency(args: &PushArgs, session: &mut Session) -> Result<(), Error> {
    let before = bare_latency(session).await?;
    let source = Arc::new(BatchSource::new());
    push(args, session, &source).await?;
    let after = bare_latency(session).await?;
    let (Some(before), Some(after)) = (before, after) else {
        return Ok(());
    };
    let report = &mut session.report;
    report.add(
        "bare_p50_before_us",
        "before: bare round trip + one fdatasync, p50",
        before,
    );
    report.add(
        "bare_p50_after_us",
        "after: bare round trip + one fdatasync, p50",
        after,
    );
    let Some(p50) = report.value("p50_us") else {
        return Ok(());
    };
    report.add(
        "p50_to_bare_p50",
        "p50 as a multiple of the bare one",
        p50 * 2.0 / (before + after),
    );
    Ok(())
}

/// The median of a bare round trip with one batch plus that of one fdatasync.
async fn bare_latency(session: &Session) -> Result<Option<f64>, Error> {
    let Some(bare) = &session.bare else {
        return Ok(None);
    };
    session
        .progress
        .step("ceiling: bare round trip and fdatasync");
    bare_p50_us(bare, session).await.map(Some)
}

async fn bare_p50_us(bare: &Bare, session: &Session) -> Result<f64, Error> {
    let (batch, slice) = (ceiling::one_batch(), session.output.slice());
    let folder = &session.output.data;
    let disk = ceiling::measure_disk(Store::File, folder, 1, batch.len(), slice).await?;
    let trips = bare.round_trips(batch, slice).await?;
    let trip = trips
        .p50_us()
        .ok_or(Error::NothingMeasured("no bare round trip ended"))?;
    let sync = disk
        .commit
        .p50_us()
        .ok_or(Error::NothingMeasured("no fdatasync ended"))?;
    Ok(trip + sync)
}

/// Puts the load on the server under test and reports what came of it.
async fn push(
    args: &PushArgs,
    session: &mut Session,
    source: &Arc<BatchSource>,
) -> Result<f64, Error> {
    session.progress.step("pushing");
    let shape = args.shape();
    let channels = connect_many(session.target.address(), shape.connections).await?;
    let limits = Limits {
        per_frame: args.batches_per_frame.into(),
        in_flight: args.in_flight.unwrap_or(u64::MAX),
        ..Limits::default()
    };
    let shared = fresh_state_name();
    let meter = Meter::start(session.output.warm_up(), session.output.duration);
    let mut flows = Vec::with_capacity(shape.writers);
    let mut writers = Crew::new();
    for channel in channels.iter().cycle().take(shape.writers) {
        let state = if args.shared_state {
            shared.clone()
        } else {
            fresh_state_name()
        };
        let open = PushFrame::open(&state, args.window);
        let flow = Flow::new(Arc::clone(source), open, limits);
        flows.push(Arc::clone(&flow));
        writers.spawn(writer::write(channel.clone(), flow, meter.clone()));
    }
    let span = writers
        .during(Span::over(&meter, &session.target))
        .await??;
    writers.join(GRACE, "the last acknowledgements").await?;

    let rate = span.per_second();
    if rate == 0.0 {
        return Err(Error::NothingMeasured("no batch was acknowledged"));
    }
    let report = &mut session.report;
    report.add("batches_per_s", "acknowledged batches", rate);
    report.add_latency("", "frame sent to acknowledged", &meter.latency());
    span.add_server(report, "batch");
    span.add_disk(report, "batch");
    if let Some(cpu_us) = report.value("server_cpu_us_per_batch") {
        let per_core = 1e6 / cpu_us;
        report.add(
            "batches_per_server_cpu_s",
            "acknowledged batches per server core",
            per_core,
        );
    }
    let sent = flows
        .iter()
        .map(|flow| flow.sent())
        .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    report.add(
        "batches_per_frame",
        "batches in a frame, mean",
        sent.0 as f64 / sent.1.max(1) as f64,
    );
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::{fake, session::Target};

    fn args(more: &[&str]) -> PushArgs {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            push: PushArgs,
        }
        let fixed = ["push", "--no-ceiling", "--duration", "200ms"];
        <Cli as clap::Parser>::parse_from(fixed.iter().chain(more)).push
    }

    async fn pushed(more: &[&str]) -> Result<Session, Error> {
        let args = args(&[&["--addr", &fake::start().await], more].concat());
        let mut session = Session::start(&args.common, args.title()).await?;
        assert!(matches!(session.target, Target::Given(_)));
        throughput(&args, &mut session).await?;
        Ok(session)
    }

    #[tokio::test]
    async fn writers_push_until_the_end_and_all_is_acknowledged() {
        for more in [
            &["--writers", "3"][..],
            &["--shared-state", "--connections", "2"],
        ] {
            let report = pushed(more).await.unwrap().report;
            assert!(report.value("batches_per_s").unwrap() > 0.0);
            assert!(report.value("p50_us").unwrap() > 0.0);
            assert_eq!(report.value("server_cpu_s"), None);
        }
    }

    #[tokio::test]
    async fn one_in_flight_means_one_batch_in_a_frame() {
        let report = pushed(&["--writers", "1", "--in-flight", "1"])
            .await
            .unwrap()
            .report;
        assert_eq!(report.value("batches_per_frame"), Some(1.0));
    }

    #[tokio::test]
    async fn a_rejected_key_ends_the_run_with_its_reason() {
        let error = pushed(&["--window", &fake::REJECTING_WINDOW.to_string()])
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("solver/0004/value") && text.contains("VALUE_TOO_LARGE"),
            "{text}"
        );
    }

    #[test]
    fn only_one_writer_with_one_in_flight_measures_latency() {
        assert!(args(&["--writers", "1", "--in-flight", "1"]).measures_latency());
        assert!(!args(&["--in-flight", "1"]).measures_latency());
        assert!(!args(&["--writers", "1"]).measures_latency());
    }
}
