//! `duite bench telemetry`: what it costs the server to export traces and logs.
//!
//! Two servers of this build, one with OpenTelemetry switched off and one that exports, live the
//! same lives of tasks in turn, slice by slice; what is compared is the server's processor time for
//! each task. It is done twice. With an endpoint that takes connections and never answers, and every
//! task traced, the exporters' queues are full all the time: that is the worst that a collector can
//! do. With a collector that answers, in this process, a tenth of the tasks is traced.

mod collector;

use clap::Args;
use uuid::Uuid;

use super::{
    Error,
    args::OutputArgs,
    lives::{Clients, LivesArgs, SHORTEST_SLICE, Sides, Slice},
    pairs::{PairArgs, Quartiles, Side, alternate},
    report::{Progress, Report},
    server::ServerProcess,
    session::warn_of_memory_disk,
};
use collector::Collector;

#[derive(Args, Debug)]
pub(super) struct TelemetryArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    pairs: PairArgs,
    #[command(flatten)]
    lives: LivesArgs,
    /// Part of the tasks that is traced where a collector answers
    #[arg(long, value_name = "RATIO", default_value_t = 0.1, value_parser = parse_ratio)]
    sampled: f64,
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("write a number from 0 to 1".to_owned()),
    }
}

pub(super) async fn run(args: TelemetryArgs) -> Result<(), Error> {
    let title = format!(
        "telemetry: {} clients, {} tasks a call, exported and not",
        args.lives.clients, args.lives.batch
    );
    let progress = Progress::new();
    let mut report = Report::new(title);
    warn_of_memory_disk(&args.output.data, &mut report);
    let slice = args.pairs.slice(&args.output);
    if slice < SHORTEST_SLICE {
        report.note(format!(
            "processor time is told to 10 ms and a slice takes {slice:?}; use a longer --duration"
        ));
    }

    let hole = Collector::silent().await?;
    let variables = exporting(&hole, 1.0);
    let what = "an endpoint that never answers, every task traced";
    progress.step(what);
    compare(&args, &variables, "silent", what, &mut report).await?;
    if hole.connections() == 0 {
        return Err(Error::NothingMeasured(
            "no connection was made to the silent endpoint: nothing was exported",
        ));
    }
    hole.stop().await?;

    let collector = Collector::answering().await?;
    let variables = exporting(&collector, args.sampled);
    let what = format!(
        "a collector that answers, {} % traced",
        args.sampled * 100.0
    );
    progress.step(&what);
    compare(&args, &variables, "healthy", &what, &mut report).await?;
    report.add(
        "spans_received",
        "spans that the collector received",
        collector.spans() as f64,
    );
    report.add(
        "log_records_received",
        "log records that it received",
        collector.log_records() as f64,
    );
    if collector.spans() == 0 && args.sampled > 0.0 {
        return Err(Error::NothingMeasured("the collector received no span"));
    }
    collector.stop().await?;
    drop(progress);
    report.print(args.output.json)
}

fn exporting(collector: &Collector, sampled: f64) -> Vec<(&'static str, String)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()),
        ("OTEL_TRACES_SAMPLER_ARG", sampled.to_string()),
    ]
}

async fn compare(
    args: &TelemetryArgs,
    variables: &[(&str, String)],
    name: &str,
    what: &str,
    report: &mut Report,
) -> Result<(), Error> {
    let off = [("OTEL_SDK_DISABLED", "true".to_owned())];
    let without = ServerProcess::start_with(&args.output.data, &off).await?;
    let with = ServerProcess::start_with(&args.output.data, variables).await?;
    let queue = format!("bench-{}", Uuid::new_v4().simple());
    let mut crews = Sides {
        few: Clients::connect(&args.lives, without.address(), &queue).await?,
        many: Clients::connect(&args.lives, with.address(), &queue).await?,
    };
    let usage = |side| match side {
        Side::Without => without.usage(),
        Side::With => with.usage(),
    };
    let slice = args.pairs.slice(&args.output);
    // Not counted: connections, threads and buffers, and the exporters' queues filling up.
    for side in [Side::Without, Side::With] {
        crews.of(side).slice(slice, || usage(side)).await?;
    }
    let pairs = alternate(args.pairs.pairs, async |side| {
        crews.of(side).slice(slice, || usage(side)).await
    });
    add_pairs(report, name, what, &pairs.await?);
    if let Some(usage) = with.usage()? {
        let label = "  memory of the server that exports";
        let megabytes = usage.resident_bytes as f64 / 1e6;
        report.add(format!("{name}_rss_mb"), label, megabytes);
    }
    without.stop().await?;
    with.stop().await
}

fn add_pairs(report: &mut Report, name: &str, what: &str, pairs: &[(Slice, Slice)]) {
    let rate = |of: fn(&(Slice, Slice)) -> Slice| {
        Quartiles::of(pairs.iter().map(|pair| of(pair).lives_per_s))
    };
    if let (Some(off), Some(on)) = (rate(|pair| pair.0), rate(|pair| pair.1)) {
        let label = format!("tasks/s with {what}");
        report.add(format!("{name}_tasks_per_s"), label, on.median);
        let label = "  with telemetry off";
        report.add(format!("{name}_off_tasks_per_s"), label, off.median);
    }
    let costs = pairs
        .iter()
        .filter_map(|(off, on)| off.cpu_us_per_life.zip(on.cpu_us_per_life));
    let costs: Vec<_> = costs.collect();
    let off = Quartiles::of(costs.iter().map(|(off, _)| *off));
    let ratio = Quartiles::of(costs.iter().map(|(off, on)| on / off));
    let (Some(off), Some(ratio)) = (off, ratio) else {
        report.note(
            "a server's processor time is told by /proc, which this system has not; nothing was compared",
        );
        return;
    };
    let label = "  server CPU per task with telemetry off, median";
    report.add(format!("{name}_off_cpu_us_per_task"), label, off.median);
    let label = "  server CPU per task, exporting / off, median of the pairs";
    report.add(format!("{name}_cpu_ratio"), label, ratio.median);
    report.add(
        format!("{name}_cpu_ratio_lower_quartile"),
        "    lower quartile",
        ratio.lower,
    );
    report.add(
        format!("{name}_cpu_ratio_upper_quartile"),
        "    upper quartile",
        ratio.upper,
    );
    report.add(
        format!("{name}_pairs"),
        "  pairs of slices",
        costs.len() as f64,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_gives_a_ratio_and_one_without_a_tick_none() {
        let slice = |lives_per_s, cpu| Slice {
            lives_per_s,
            cpu_us_per_life: cpu,
        };
        let mut report = Report::new("telemetry");
        let pairs = [
            (slice(10.0, Some(10.0)), slice(9.0, Some(10.5))),
            (slice(10.0, Some(20.0)), slice(9.0, Some(22.0))),
            (slice(10.0, Some(10.0)), slice(9.0, Some(12.0))),
            (slice(10.0, None), slice(9.0, Some(12.0))),
        ];
        add_pairs(&mut report, "silent", "x", &pairs);
        assert_eq!(report.value("silent_cpu_ratio"), Some(1.1));
        assert_eq!(report.value("silent_pairs"), Some(3.0));
        assert_eq!(report.value("silent_tasks_per_s"), Some(9.0));
        assert_eq!(report.value("silent_off_tasks_per_s"), Some(10.0));
    }

    #[test]
    fn a_ratio_is_between_nothing_and_all() {
        assert_eq!(parse_ratio("0.25"), Ok(0.25));
        for wrong in ["-0.1", "1.5", "x", "NaN"] {
            assert!(parse_ratio(wrong).is_err(), "{wrong}");
        }
    }
}
